//! The entries of a tar archive: of pax or ustar (POSIX.1-2024, pax), of GNU tar, or of the
//! old form without a magic. A plain file is an entry, and a directory is passed over.
//!
//! Whoever made the archive may be hostile. A header is one block; those that extend it
//! have a bound; a value grows as it comes, whatever length is claimed, and the longest is
//! known. Whatever tars do not agree about is refused: links, devices, sparse files,
//! contents of directories, numbers below zero, an archive without an end, or with
//! something behind it. A path means nothing here but a key.

use super::{HEAD_BYTES, Importer, Parts};
use crate::api::tar::{BLOCK_BYTES, CONTENT_TYPE, EXPIRES, KEY, PATH};
use crate::api::{Refusal, Reply};
use std::io::{BufRead as _, Read as _};
use std::ops::Range;

/// The most bytes of all headers that extend one entry, and of the extended headers among
/// all entries.
const EXTENDED_BYTES_MAX: u64 = 256 << 10;

/// The most bytes of zeros behind the end: writers fill a record, which is 10 KiB unless
/// somebody wants it longer.
const FILL_BYTES_MAX: u64 = 16 << 20;

/// The fields of a header that count.
const NAME: Range<usize> = 0..100;
const SIZE: Range<usize> = 124..136;
const SUM: Range<usize> = 148..156;
const KIND: usize = 156;
const MAGIC: Range<usize> = 257..263;
const PREFIX: Range<usize> = 345..500;

/// The magic of ustar, which alone has a prefix, and that of GNU tar.
const USTAR: &[u8] = b"ustar\0";
const GNU: &[u8] = b"ustar ";

type Block = [u8; BLOCK_BYTES];

/// Returns true if a body with these first bytes, up to [`HEAD_BYTES`] of them, is an
/// archive: it begins with a header, or with the blocks of zeros that end one.
pub fn begins(head: &[u8]) -> bool {
    let has_magic = || matches!(head.get(MAGIC), Some(USTAR | GNU));
    let is_header = || head.contains(&0) && (has_magic() || has_right_sum(head));
    head.len() == HEAD_BYTES && (is_zero(head) || is_header())
}

/// Imports them.
pub fn run(importer: &mut Importer<'_>) -> Result<(), Reply> {
    let mut globals = Records::default();
    loop {
        importer.begin();
        match next(importer, &mut globals)? {
            Member::Entry(parts) => match parts.entry(importer.bounds()) {
                Ok((key, Some(entry))) => importer.add(key, entry)?,
                Ok((_, None)) => importer.pass_over(),
                Err(refusal) => return Err(importer.refuse(refusal)),
            },
            Member::Directory => {}
            Member::End => return drop_fill(importer),
        }
    }
}

/// A member of an archive.
enum Member {
    Entry(Parts<'static>),
    Directory,
    /// None: the archive ends.
    End,
}

/// The records of an extended header that count here.
#[derive(Clone, Default)]
struct Records {
    path: Option<String>,
    key: Option<String>,
    content_type: Option<String>,
    expires: Option<String>,
    bytes: Option<u64>,
    /// The content is not all of the file.
    are_of_sparse: bool,
}

/// Reads a member with all headers that extend its own.
fn next(importer: &mut Importer<'_>, globals: &mut Records) -> Result<Member, Reply> {
    let mut records = None;
    let mut long_name = None;
    let mut extended = 0;
    loop {
        let header = read_block(importer)?;
        let header = header.ok_or_else(|| importer.refuse(Refusal::ArchiveShort))?;
        let is_extended = records.is_some() || long_name.is_some();
        if is_zero(&header) && !is_extended {
            return Ok(Member::End);
        }
        let bytes = number(field(&header, SIZE)).filter(|_| has_right_sum(&header));
        let bytes = bytes.ok_or_else(|| importer.refuse(Refusal::ArchiveHeader))?;
        let kind = header.get(KIND).copied().unwrap_or_default();
        if matches!(kind, b'0' | b'\0' | b'7' | b'5') {
            let records = records.unwrap_or_else(|| globals.clone());
            return read_member(importer, &header, records, long_name, bytes);
        }
        if !matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K') {
            return Err(importer.refuse(Refusal::ArchiveKind));
        }
        extended += BLOCK_BYTES as u64 + bytes.min(EXTENDED_BYTES_MAX);
        if extended > EXTENDED_BYTES_MAX {
            return Err(importer.refuse(Refusal::ArchiveRecordsLong));
        }
        let content = read_content(importer, bytes)?;
        let added = match kind {
            b'g' => globals.add(&content),
            b'x' | b'X' => records.get_or_insert_with(|| globals.clone()).add(&content),
            b'L' => {
                let name = content.split(|byte| *byte == 0).next();
                long_name = name.map(<[u8]>::to_vec);
                Ok(())
            }
            // The name that a link leads to. No link is taken.
            _ => Ok(()),
        };
        added.map_err(|refusal| importer.refuse(refusal))?;
    }
}

/// Reads a plain file or a directory.
fn read_member(
    importer: &mut Importer<'_>,
    header: &Block,
    records: Records,
    long_name: Option<Vec<u8>>,
    bytes: u64,
) -> Result<Member, Reply> {
    let bytes = records.bytes.unwrap_or(bytes);
    let has_key = records.key.is_some();
    let key = match records.key.or(records.path) {
        Some(text) => Ok(text),
        None => String::from_utf8(long_name.unwrap_or_else(|| name_in(header))),
    };
    let mut key = key.map_err(|_| importer.refuse(Refusal::KeyNotUtf8))?;
    // The old form has no other mark of a directory.
    let is_directory = header.get(KIND) == Some(&b'5') || (!has_key && key.ends_with('/'));
    if records.are_of_sparse || (is_directory && bytes > 0) {
        return Err(importer.refuse(Refusal::ArchiveKind));
    }
    if is_directory {
        return Ok(Member::Directory);
    }
    if !has_key {
        let dots = key.len() - key.trim_start_matches("./").len();
        key.drain(..dots);
    }
    if bytes > importer.value_bytes_max() {
        return Err(importer.refuse(Refusal::ValueTooLarge));
    }
    Ok(Member::Entry(Parts {
        key: key.into(),
        value: read_content(importer, bytes)?.into(),
        content_type: records.content_type.map(Into::into),
        expires: records.expires.map(Into::into),
    }))
}

impl Records {
    /// Adds those of a content, each of which is its length, a space, its name, an equals
    /// sign, its value and a line feed. The length is in decimal digits, and of all.
    fn add(&mut self, mut content: &[u8]) -> Result<(), Refusal> {
        while !content.is_empty() {
            let (name, value, rest) = split_record(content).ok_or(Refusal::ArchiveRecords)?;
            self.set(name, value)?;
            content = rest;
        }
        Ok(())
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let Ok(name) = str::from_utf8(name) else { return Ok(()) };
        let (text, refusal) = match name {
            PATH => (&mut self.path, Refusal::KeyNotUtf8),
            KEY => (&mut self.key, Refusal::KeyNotUtf8),
            CONTENT_TYPE => (&mut self.content_type, Refusal::TypeMalformed),
            EXPIRES => (&mut self.expires, Refusal::ExpiresMalformed),
            "size" => {
                self.bytes = match value {
                    b"" => None,
                    digits => Some(decimal(digits).ok_or(Refusal::ArchiveRecords)?),
                };
                return Ok(());
            }
            name => {
                self.are_of_sparse |= name.starts_with("GNU.sparse.");
                return Ok(());
            }
        };
        let value = str::from_utf8(value).map_err(|_| refusal)?;
        // An empty one takes back that of all entries.
        *text = Some(value.to_owned()).filter(|value| !value.is_empty());
        Ok(())
    }
}

/// Splits the first record off: its name, its value and what follows.
fn split_record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = content.iter().position(|byte| *byte == b' ')?;
    let bytes = usize::try_from(decimal(content.get(..space)?)?).ok()?;
    let (record, rest) = content.split_at_checked(bytes)?;
    let text = record.strip_suffix(b"\n")?.get(space + 1..)?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((text.get(..equals)?, text.get(equals + 1..)?, rest))
}

/// Reads what fills the last record behind the end.
fn drop_fill(importer: &mut Importer<'_>) -> Result<(), Reply> {
    let mut dropped = 0;
    loop {
        let input = match importer.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(input) => input,
            Err(err) => return Err(importer.cut(&err)),
        };
        let (bytes, is_zero) = (input.len(), is_zero(input));
        importer.consume(bytes);
        dropped += bytes as u64;
        if !is_zero || dropped > FILL_BYTES_MAX {
            return Err(importer.refuse(Refusal::ArchiveGoesOn));
        }
    }
}

/// Reads a block; none where the body has ended.
fn read_block(importer: &mut Importer<'_>) -> Result<Option<Block>, Reply> {
    let mut block = [0; BLOCK_BYTES];
    let bytes = read_into(importer, &mut block)?;
    match bytes {
        BLOCK_BYTES => Ok(Some(block)),
        0 => Ok(None),
        _ => Err(importer.refuse(Refusal::ArchiveShort)),
    }
}

/// Reads a content of so many bytes, and what fills its last block.
fn read_content(importer: &mut Importer<'_>, bytes: u64) -> Result<Vec<u8>, Reply> {
    const STEP_BYTES: usize = 64 << 10;
    let bytes = usize::try_from(bytes).map_err(|_| importer.refuse(Refusal::ValueTooLarge))?;
    let mut content = Vec::new();
    while content.len() < bytes {
        let start = content.len();
        // Twice as long each time, and not longer than it takes.
        let end = bytes.min(start + start.max(STEP_BYTES));
        importer.reserve(end as u64)?;
        content.reserve_exact(end - start);
        content.resize(end, 0);
        let room = content.get_mut(start..).unwrap_or_default();
        if read_into(importer, room)? < end - start {
            return Err(importer.refuse(Refusal::ArchiveShort));
        }
    }
    let mut fill = [0; BLOCK_BYTES];
    let fill = fill.get_mut(..bytes.next_multiple_of(BLOCK_BYTES) - bytes).unwrap_or_default();
    if read_into(importer, fill)? < fill.len() {
        return Err(importer.refuse(Refusal::ArchiveShort));
    }
    Ok(content)
}

/// Fills some room, or as much of it as the body has, and returns that.
fn read_into(importer: &mut Importer<'_>, room: &mut [u8]) -> Result<usize, Reply> {
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = room.get_mut(filled..) {
        match importer.read(rest) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(err) => return Err(importer.cut(&err)),
        }
    }
    Ok(filled)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A field of a header.
fn field(header: &[u8], place: Range<usize>) -> &[u8] {
    header.get(place).unwrap_or_default()
}

/// A text that ends in a zero byte, or fills its field.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The name in a header.
fn name_in(header: &Block) -> Vec<u8> {
    let name = text(field(header, NAME));
    match text(field(header, PREFIX)) {
        prefix @ [_, ..] if field(header, MAGIC) == USTAR => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// Returns true if the sum in a header is that of its bytes, where its own are spaces. Some
/// old tars took the bytes for signed ones.
fn has_right_sum(header: &[u8]) -> bool {
    let spaces = i64::from(b' ') * 8;
    let others = [field(header, 0..SUM.start), field(header, SUM.end..BLOCK_BYTES)];
    let bytes = || others.into_iter().flatten().copied();
    let told = number(field(header, SUM)).and_then(|told| i64::try_from(told).ok());
    told == Some(bytes().map(i64::from).sum::<i64>() + spaces)
        || told == Some(bytes().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + spaces)
}

/// The number in a field: octal digits among spaces and zero bytes; or, by GNU tar for
/// large ones, after a first byte of 0x80, the bytes of the number.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, bytes @ ..] = field {
        let (zeros, bytes) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        return is_zero(zeros).then_some(u64::from_be_bytes(bytes.try_into().ok()?));
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\0');
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field.get(start..)?.split(is_blank).next()?;
    let digit = |byte: &u8| matches!(byte, b'0'..=b'7').then(|| u64::from(byte - b'0'));
    digits.iter().try_fold(0_u64, |number, byte| number.checked_mul(8)?.checked_add(digit(byte)?))
}

/// The number of decimal digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    digits.parse().ok()
}
