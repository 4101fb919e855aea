//! Entries as a tar archive in the pax form (POSIX.1-2024, pax), which every tar of today
//! lists and extracts: a file for each key, its path the key.
//!
//! An entry that needs nothing more is a plain ustar header and the value. Records of an
//! extended header have the rest: a path that is long or not ASCII, the type and the
//! expiry. A key that cannot be a path has one made from it, and is itself in a record.
//!
//! The same entries make the same bytes: no owner is in them, and no time but an expiry.
//! The store does not know when a value was written, and the time of an export would
//! have two exports of the same differ.

use super::entries::{Encoding, PART_BYTES, expires};
use super::target::encode;
use crate::storage::Entry;
use std::borrow::Cow;
use std::io::Write as _;
use std::ops::Range;

/// The encoding as an archive.
pub const ENCODING: Encoding = Encoding {
    media_type: "application/x-tar",
    put_start,
    put_value,
    put_end,
    end: &[0; 2 * BLOCK_BYTES],
};

/// The bytes of a block: headers are one, contents are padded to some.
pub const BLOCK_BYTES: usize = 512;

/// The record of a path (POSIX).
pub const PATH: &str = "path";

/// The record of a content type: an extended attribute as star names it, of the name
/// that freedesktop.org gives to a type.
pub const CONTENT_TYPE: &str = "SCHILY.xattr.user.mime_type";

/// The record of an expiry in RFC 3339.
pub const EXPIRES: &str = "LKV.expires";

/// The record of a key that is not the path.
pub const KEY: &str = "LKV.key";

/// The start of the path of a key that cannot be one.
const PATH_OF_KEY: &str = "LKV.key=";

/// The longest path that a header has room for.
const NAME_BYTES_MAX: usize = 100;

/// The place of the sum in a header, and that of the magic.
const SUM: Range<usize> = 148..156;
const MAGIC: Range<usize> = 257..263;

/// The kind of a plain file, and that of an extended header, which is for the next file.
const PLAIN: u8 = b'0';
const EXTENDED: u8 = b'x';

/// The name of an extended header. Python's.
const EXTENDED_NAME: &str = "././@PaxHeader";

fn put_start(out: &mut Vec<u8>, key: &str, entry: &Entry) {
    let path = path_of(key);
    let mut records = Vec::new();
    if path.len() > NAME_BYTES_MAX || !path.is_ascii() {
        put_record(&mut records, PATH, &path);
    }
    if path != key {
        put_record(&mut records, KEY, key);
    }
    if let Some(content_type) = entry.content_type() {
        put_record(&mut records, CONTENT_TYPE, content_type);
    }
    if let Some(expires) = expires(entry) {
        put_record(&mut records, EXPIRES, &expires);
    }
    if !records.is_empty() {
        put_header(out, EXTENDED_NAME, EXTENDED, records.len());
        out.extend_from_slice(&records);
        put_padding(out, records.len());
    }
    // Where a record has the path, this is for those who do not read records.
    let name = (0..=NAME_BYTES_MAX).rev().find_map(|end| path.get(..end.min(path.len())));
    put_header(out, name.unwrap_or_default(), PLAIN, entry.value().len());
}

fn put_value(out: &mut Vec<u8>, entry: &Entry, start: usize) -> usize {
    let rest = entry.value().get(start..).unwrap_or_default();
    let piece = rest.get(..PART_BYTES.saturating_sub(out.len())).unwrap_or(rest);
    out.extend_from_slice(piece);
    start + piece.len()
}

fn put_end(out: &mut Vec<u8>, entry: &Entry) {
    put_padding(out, entry.value().len());
}

/// Fills the last block of a content of so many bytes.
fn put_padding(out: &mut Vec<u8>, bytes: usize) {
    let padding = bytes.next_multiple_of(BLOCK_BYTES) - bytes;
    out.resize(out.len() + padding, 0);
}

/// The path of a key, which no other key has: the key itself, or where that would not lead
/// to a file below the directory of all, one made from it.
fn path_of(key: &str) -> Cow<'_, str> {
    let is_path = !key.contains('\0')
        && !key.starts_with(PATH_OF_KEY)
        && key.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if is_path {
        return key.into();
    }
    let mut path = PATH_OF_KEY.to_owned();
    path.extend(encode(key));
    path.replace('/', "%2F").into()
}

/// Writes a record: its length in decimal digits, all of it counted, then name and value.
fn put_record(out: &mut Vec<u8>, name: &str, value: &str) {
    let bytes_of_others = " =\n".len() + name.len() + value.len();
    let digits = |bytes: usize| itoa::Buffer::new().format(bytes).len();
    // One more digit may bring yet another one, but not two.
    let bytes = bytes_of_others + digits(bytes_of_others);
    let bytes = bytes_of_others + digits(bytes);
    writeln!(out, "{bytes} {name}={value}").expect("memory takes any bytes");
}

/// Writes a header in the form of ustar.
fn put_header(out: &mut Vec<u8>, name: &str, kind: u8, bytes: usize) {
    let start = out.len();
    let (sum, end) = (start + SUM.start, start + SUM.end);
    out.extend_from_slice(name.as_bytes());
    out.resize(start + NAME_BYTES_MAX, 0);
    // The mode, and the numbers of no owner and no group.
    out.extend_from_slice(b"0000644\x000000000\x000000000\0");
    // The length, and a time that is the same for all.
    write!(out, "{bytes:011o}\0{:011o}\0", 0).expect("memory takes any bytes");
    // The sum of all bytes, itself as spaces.
    out.extend_from_slice(b"        ");
    out.push(kind);
    out.resize(start + MAGIC.start, 0);
    // The magic and the version.
    out.extend_from_slice(b"ustar\x0000");
    out.resize(start + BLOCK_BYTES, 0);
    let bytes = out.get(start..).unwrap_or_default();
    let total: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let mut field = out.get_mut(sum..end).unwrap_or_default();
    write!(field, "{total:06o}\0 ").expect("512 bytes have a sum of six digits");
}
