//! `POST` and `PUT` of an import: lines of JSON or a tar archive, of any length, stored in
//! pieces as they come.
//!
//! The first bytes tell the form, and each form has a file that makes entries of it. The
//! [`Importer`] gathers them into pieces, each of which is one batch of the storage, and
//! words what went wrong, with the place and the entries that were stored before it.

mod archive;
mod lines;

use super::{Answer, Operation, Pending, Routed};
use crate::api::access::{Right, Rights};
use crate::api::digests::{Digests, Hashing};
use crate::api::entries::parse_expires;
use crate::api::fields::Fields;
use crate::api::{Refusal, Reply, media_type, target};
use crate::storage::{BatchOp, Entry, Key, Op, Time};
use bytes::Bytes;
use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::mem;

/// The most entries of a piece, and the most bytes of their keys and values, unless it
/// has one entry.
const PIECE_ENTRIES_MAX: usize = 1000;
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// The memory of an entry beside its key and its value.
const ENTRY_BYTES: u64 = 256;

/// Memory is reserved in steps of at least so many bytes.
const RESERVED_STEP_BYTES: u64 = 64 << 10;

/// The first bytes that tell the form: a block of a tar archive.
const HEAD_BYTES: usize = 512;

/// An import that is asked for.
pub struct Import {
    digests: Option<Box<Digests>>,
    /// The rights of the caller, which each entry is held to.
    rights: Rights,
}

/// A body that is read as it comes, and the storage beside it. An error of kind
/// `UnexpectedEof` is a body that was cut short, `InvalidData` bad chunks, and `TimedOut` a
/// client that was too slow.
pub trait Upload: BufRead {
    /// Reserves so many more bytes of memory for what was read and not stored yet; false if
    /// there is no room. Blocks for a while if others have too many.
    fn reserve(&mut self, bytes: u64) -> bool;

    /// Gives back all that was reserved.
    fn release(&mut self);

    /// Has the storage do a piece, and gives the reply. Blocks until then.
    fn perform(&mut self, pending: Pending) -> Reply;
}

/// Parses the head.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let rights = routed.caller.rights.clone();
    rights.check(Right::Write)?;
    Ok(Operation::Import(Import { digests: routed.check_many()?, rights }))
}

impl Import {
    /// Imports values of up to so many bytes each.
    pub fn run(self, value_bytes_max: u64, upload: &mut dyn Upload) -> Reply {
        let hashing = self.digests.map(|digests| digests.begin());
        let bounds = Bounds { value_bytes_max, rights: self.rights };
        let mut importer = Importer::new(bounds, hashing, upload);
        importer.run().unwrap_or_else(|reply| reply)
    }
}

/// The bounds of each entry.
#[derive(Clone)]
pub struct Bounds {
    /// The longest value, in bytes.
    value_bytes_max: u64,
    /// The rights on keys.
    rights: Rights,
}

/// The entries of an import on their way from the body to the storage.
pub struct Importer<'a> {
    upload: &'a mut dyn Upload,
    /// The digests of what was taken, if some are expected.
    hashing: Option<Hashing>,
    /// The first bytes, and the length of their used part.
    head: Vec<u8>,
    used: usize,
    /// The failure behind them.
    failure: Option<io::Error>,
    bounds: Bounds,
    /// The word for an entry in a refusal.
    noun: &'static str,
    /// The number of the present entry.
    number: u64,
    /// The entries that count, and those of them that were stored.
    read: u64,
    stored: u64,
    piece: Piece,
    /// The memory reserved for the piece and the entry behind it.
    reserved: u64,
}

/// Entries that were read and are not stored yet.
#[derive(Default)]
struct Piece {
    ops: Vec<(Key, BatchOp)>,
    /// Of keys and values.
    bytes: u64,
    /// The number of the first.
    start: u64,
}

impl Piece {
    /// The memory that it takes.
    fn memory(&self) -> u64 {
        self.bytes + self.ops.len() as u64 * ENTRY_BYTES
    }
}

impl<'a> Importer<'a> {
    fn new(bounds: Bounds, hashing: Option<Hashing>, upload: &'a mut dyn Upload) -> Self {
        Self {
            upload,
            hashing,
            head: Vec::new(),
            used: 0,
            failure: None,
            bounds,
            noun: "line",
            number: 0,
            read: 0,
            stored: 0,
            piece: Piece::default(),
            reserved: 0,
        }
    }

    /// Imports all of the body.
    fn run(&mut self) -> Result<Reply, Reply> {
        self.read_head();
        if archive::begins(&self.head) {
            self.noun = "entry";
            archive::run(self)?;
        } else if lines::begin(&self.head) {
            lines::run(self)?;
        } else if let Some(err) = self.failure.take() {
            return Err(self.cut(&err));
        } else if !self.head.is_empty() {
            return Err(Refusal::ImportUnknown.into());
        }
        if let Some(Err(differs)) = self.hashing.take().map(Hashing::check) {
            self.piece = Piece::default();
            return Err(self.end_early(differs));
        }
        self.store()?;
        Ok(Reply::text(format!("{}\n", self.read)))
    }

    /// Reads the first bytes, or all if there are fewer. Where the body fails there are
    /// those before that.
    fn read_head(&mut self) {
        let head = Read::take(&mut *self.upload, HEAD_BYTES as u64).read_to_end(&mut self.head);
        self.failure = head.err();
    }

    /// The bounds of each entry.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The longest value, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.bounds.value_bytes_max
    }

    /// Begins with the next entry: it is the one that is refused from now on.
    pub fn begin(&mut self) {
        self.number += 1;
    }

    /// Reserves memory for the present entry, which has so many bytes so far: those of its
    /// value, and of whatever it is made from.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), Reply> {
        if self.has_room(bytes) {
            return Ok(());
        }
        // Others may need what the piece has.
        self.store()?;
        if self.has_room(bytes) { Ok(()) } else { Err(self.refuse(Refusal::UploadsTooMany)) }
    }

    fn has_room(&mut self, bytes: u64) -> bool {
        let more = (self.piece.memory() + bytes).saturating_sub(self.reserved);
        if more == 0 {
            return true;
        }
        let step = more.max(RESERVED_STEP_BYTES);
        let has_room = self.upload.reserve(step);
        if has_room {
            self.reserved += step;
        }
        has_room
    }

    /// Takes the present entry.
    pub fn add(&mut self, key: Key, entry: Entry) -> Result<(), Reply> {
        let bytes = (key.as_str().len() + entry.value().len()) as u64;
        if self.piece.bytes + bytes > PIECE_BYTES_MAX {
            self.store()?;
        }
        if self.piece.ops.is_empty() {
            self.piece.start = self.number;
        }
        self.read += 1;
        self.piece.bytes += bytes;
        self.piece.ops.push((key, BatchOp::Set(entry)));
        let is_full =
            self.piece.ops.len() == PIECE_ENTRIES_MAX || self.piece.bytes >= PIECE_BYTES_MAX;
        if is_full { self.store() } else { Ok(()) }
    }

    /// Counts the present entry, which has expired.
    pub fn pass_over(&mut self) {
        self.read += 1;
    }

    /// The reply that refuses the present entry. Those before it are stored.
    pub fn refuse(&mut self, refusal: Refusal) -> Reply {
        match self.store() {
            Ok(()) => self.refuse_at(self.number, &refusal.into()),
            Err(reply) => reply,
        }
    }

    /// The reply where the body cannot be read to its end. The entries before that are
    /// stored.
    pub fn cut(&mut self, err: &io::Error) -> Reply {
        let refusal = if err.kind() == io::ErrorKind::UnexpectedEof {
            Refusal::BodyShort
        } else if err.kind() == io::ErrorKind::InvalidData {
            Refusal::BodyChunks
        } else if err.kind() == io::ErrorKind::TimedOut {
            Refusal::RequestTimeout
        } else {
            Refusal::BodyUnreadable
        };
        match self.store() {
            Ok(()) => self.end_early(refusal),
            Err(reply) => reply,
        }
    }

    fn end_early(&self, refusal: Refusal) -> Reply {
        let (status, text) = refusal.status_and_text();
        Reply::error(status, &format!("{text}; {} were stored", self.stored))
    }

    /// Has the storage do the piece.
    fn store(&mut self) -> Result<(), Reply> {
        let Piece { ops, start, .. } = mem::take(&mut self.piece);
        if !ops.is_empty() {
            let count = ops.len();
            let pending = Pending { op: Op::Each(ops), answer: Answer::Reply(Reply::empty()) };
            let pending = if self.stored > 0 { pending.failing(Reply::of_rest) } else { pending };
            let reply = self.upload.perform(pending);
            if reply.status() >= 400 {
                return Err(self.refuse_at(start, &reply));
            }
            self.stored += count as u64;
        }
        if mem::take(&mut self.reserved) > 0 {
            self.upload.release();
        }
        Ok(())
    }

    fn refuse_at(&self, number: u64, of_entry: &Reply) -> Reply {
        let text = String::from_utf8_lossy(of_entry.body());
        let (noun, text, stored) = (self.noun, text.trim_end(), self.stored);
        Reply::error(of_entry.status(), &format!("{noun} {number}: {text}; {stored} were stored"))
    }
}

impl Read for Importer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// The body, from its first byte.
impl BufRead for Importer<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.head.get(self.used..) {
            Some(unused) if !unused.is_empty() => Ok(unused),
            Some(_) | None => match self.failure.take() {
                Some(err) => Err(err),
                None => self.upload.fill_buf(),
            },
        }
    }

    fn consume(&mut self, bytes: usize) {
        if let Some(mut hashing) = self.hashing.take() {
            // What is there is there still.
            if let Ok(input) = self.fill_buf() {
                hashing.add(input.get(..bytes).unwrap_or_default());
            }
            self.hashing = Some(hashing);
        }
        if self.used < self.head.len() {
            self.used += bytes;
        } else {
            self.upload.consume(bytes);
        }
    }
}

/// The parts of an entry as they came.
#[derive(Default)]
pub struct Parts<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Bytes,
    /// The content type.
    pub content_type: Option<Cow<'a, str>>,
    /// The expiry in RFC 3339.
    pub expires: Option<Cow<'a, str>>,
}

impl Parts<'_> {
    /// The entry within these bounds; none if it has expired.
    pub fn entry(self, bounds: &Bounds) -> Result<(Key, Option<Entry>), Refusal> {
        let key = target::key(self.key)?;
        bounds.rights.check_key(Right::Write, key.as_str())?;
        let content_type = match &self.content_type {
            Some(content_type) => media_type::parse(Fields(&[("Content-Type", content_type)]))?,
            None => None,
        };
        let expiry = self.expires.as_deref().map(parse_expires).transpose()?;
        match self.value.len() as u64 {
            0 => return Err(Refusal::ValueEmpty),
            bytes if bytes > bounds.value_bytes_max => return Err(Refusal::ValueTooLarge),
            _ => {}
        }
        let is_over = expiry.is_some_and(|expiry| expiry <= Time::now());
        let entry =
            || Entry::undigested(self.value).with_content_type(content_type).with_expiry(expiry);
        Ok((key, (!is_over).then(entry)))
    }
}
