//! Checks the database's journals before the database reads them.
//!
//! A journal is a sequence of batches, each synced before the next is begun:
//!
//! ```text
//! start  1  number of items: u32, sequence number: u64
//! item   2  type: u8, compression: u8, keyspace: u64, lengths of key: u16,
//!           value: u32 and value as written: u32, then key and value
//! clear  4  keyspace: u64, an item too
//! end    3  XXH3 of the items: u64, "FJL\x03"
//! ```
//!
//! in little-endian. The database trusts it more than we do: it takes a
//! sequence number that no checksum covers (so each batch of ours has an item
//! that tells what its number cannot be below), drops everything after a broken
//! batch, and does not open where the last one is torn. Here a last batch that
//! is not whole is cut off, for nobody was told that it is stored, and a
//! broken one with a whole one after it is refused.

use super::open_error::OpenError;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// How the database names its journals: by number, ascending.
const EXTENSION: &str = "jnl";

/// The database has no higher sequence numbers.
const NUMBER_MAX: u64 = (1 << 62) - 1;

/// Every batch ends with these bytes.
const TRAILER: [u8; 4] = *b"FJL\x03";

/// The bytes before a batch's items, and those after them.
const START_BYTES: usize = 13;
const END_BYTES: usize = 13;

/// How long a torn end is searched for a whole batch, in steps from item to
/// item: far more than an honest value takes, and under a second.
const SEARCH_STEPS_MAX: usize = 1 << 22;

/// To sum up so many bytes takes as long as to step over an item.
const STEP_BYTES: usize = 16;

/// The key of the item that says which number a batch cannot be below. Keys of
/// entries are UTF-8, so this is none.
pub(super) const FLOOR_KEY: [u8; 2] = [0xff, b'f'];
const FLOOR_BYTES: u32 = 8;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// Checks every journal in the folder of a database, and cuts off what a crash
/// has left unfinished at the end.
pub(super) fn check(data: &Path) -> Result<(), OpenError> {
    let journals = journals(data).map_err(unreadable)?;
    let mut highest = None;
    let mut torn: Option<(&Path, u64)> = None;
    for journal in &journals {
        let scan = Scan::read(journal, highest).map_err(unreadable)?;
        // The database may begin a journal after a write to another has failed.
        if let Some((file, at)) = torn.filter(|_| !scan.is_empty()) {
            return Err(OpenError::Damaged { file: file.to_owned(), at });
        }
        if scan.is_damaged {
            return Err(OpenError::Damaged { file: journal.clone(), at: scan.whole_bytes });
        }
        if !scan.followed_by_zeros {
            torn = Some((journal, scan.whole_bytes));
        }
        highest = scan.highest;
    }
    if let Some((journal, bytes)) = torn {
        cut(journal, bytes).map_err(|err| OpenError::io("its journal is torn", err))?;
        log::warn!("{}: an unfinished write was cut off at byte {bytes}", journal.display());
    }
    Ok(())
}

fn unreadable(err: io::Error) -> OpenError {
    OpenError::io("its journal cannot be read", err)
}

/// How much of the disk the journals of a database take. They are made as long
/// as they may become, and take it only as they are written.
pub(super) fn disk_bytes(data: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for journal in journals(data)? {
        bytes += allocated_bytes(&journal.metadata()?);
    }
    Ok(bytes)
}

#[cfg(unix)]
fn allocated_bytes(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.blocks() * 512
}

#[cfg(not(unix))]
fn allocated_bytes(file: &fs::Metadata) -> u64 {
    file.len()
}

/// The journals of a database, oldest first; the last is the one in use.
pub(super) fn journals(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            journals.extend(number.map(|number| (number, path)));
        }
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

fn cut(journal: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().write(true).open(journal)?;
    file.set_len(bytes)?;
    file.sync_all()
}

/// What a journal holds.
struct Scan {
    /// Where the whole batches end, which are in order.
    whole_bytes: u64,
    /// The last sequence number of those, or of an earlier journal.
    highest: Option<u64>,
    /// Nothing but room that was set aside comes after them.
    followed_by_zeros: bool,
    /// A whole batch comes after them, so that they are not the end.
    is_damaged: bool,
}

impl Scan {
    /// Reads a journal whose numbers have to be over `highest`.
    fn read(journal: &Path, mut highest: Option<u64>) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(journal)?);
        let mut whole_bytes = 0;
        let mut is_damaged = false;
        while let Some(batch) = Batch::read(&mut file)? {
            // A crash leaves no whole batch in the wrong place.
            is_damaged = !batch.can_follow(highest);
            if is_damaged {
                break;
            }
            highest = Some(batch.number);
            whole_bytes += batch.bytes;
        }
        let followed_by_zeros = is_zero(file.get_ref(), whole_bytes)?;
        if !followed_by_zeros && !is_damaged {
            file.seek(SeekFrom::Start(whole_bytes))?;
            let mut rest = Vec::new();
            file.read_to_end(&mut rest)?;
            is_damaged = has_batch_over(highest, &rest)?;
        }
        Ok(Self { whole_bytes, highest, followed_by_zeros, is_damaged })
    }

    /// Whether nothing was written to it yet.
    fn is_empty(&self) -> bool {
        self.whole_bytes == 0 && self.followed_by_zeros
    }
}

/// Whether a whole batch with a higher number begins anywhere in `bytes`, or
/// may: a value made to take hours is not searched to its end.
fn has_batch_over(highest: Option<u64>, bytes: &[u8]) -> io::Result<bool> {
    let mut steps = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == START) {
        let mut from = bytes.get(at..).unwrap_or_default();
        // Values hold any bytes: to sum up all that begin like a batch could
        // take days.
        let shape_bytes = shape_bytes(from, &mut steps);
        if steps > SEARCH_STEPS_MAX {
            return Ok(true);
        }
        let Some(shape_bytes) = shape_bytes else { continue };
        steps += shape_bytes / STEP_BYTES;
        let batch = Batch::read(&mut from)?;
        if batch.is_some_and(|batch| highest.is_none_or(|highest| batch.number > highest)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The length of what `bytes` begin with, if that is as many items as it says
/// and then an end. Counts a step for each item.
fn shape_bytes(bytes: &[u8], steps: &mut usize) -> Option<usize> {
    let (&[START, ref items @ ..], _) = bytes.split_first_chunk::<5>()? else { return None };
    let mut rest = bytes.get(START_BYTES..)?;
    for _ in 0..u32::from_le_bytes(*items) {
        rest = after_item(rest)?;
        *steps += 1;
    }
    let (end, after) = rest.split_at_checked(END_BYTES)?;
    let is_end = end.first() == Some(&END) && end.ends_with(&TRAILER);
    is_end.then_some(bytes.len() - after.len())
}

/// What comes after the item that `bytes` begin with.
fn after_item(bytes: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = bytes.split_first()?;
    match *tag {
        CLEAR => rest.get(8..),
        ITEM => {
            let key_bytes = u16::from_le_bytes(*rest.get(10..)?.first_chunk()?);
            let written_bytes = u32::from_le_bytes(*rest.get(16..)?.first_chunk()?);
            rest.get(20..)?.get(usize::from(key_bytes)..)?.get(written_bytes as usize..)
        }
        _ => None,
    }
}

/// Whether a file holds nothing but zeros from `at` on.
fn is_zero(mut file: &File, mut at: u64) -> io::Result<bool> {
    const PART_BYTES: usize = 64 * 1024;
    let (mut part, zeros) = (vec![0; PART_BYTES], vec![0; PART_BYTES]);
    while let Some(data) = next_data(file, at) {
        file.seek(SeekFrom::Start(data))?;
        let got = match file.read(&mut part) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            got => got?,
        };
        if got == 0 {
            break;
        }
        if part.get(..got) != zeros.get(..got) {
            return Ok(false);
        }
        at = data + got as u64;
    }
    Ok(true)
}

/// Where the next bytes are that a file has room for on the disk, from `at` on,
/// or may be: nearly all of a new journal is a hole.
#[cfg(all(target_os = "linux", not(portable)))]
fn next_data(file: &File, at: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Err(rustix::io::Errno::NXIO) => None,
        // Not every file system can tell.
        found => Some(found.unwrap_or(at)),
    }
}

#[cfg(any(portable, not(target_os = "linux")))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere there may be none")]
fn next_data(_file: &File, at: u64) -> Option<u64> {
    Some(at)
}

/// A whole batch with the right checksum.
struct Batch {
    number: u64,
    /// What its number cannot be below, which the checksum covers.
    floor: Option<u64>,
    bytes: u64,
}

impl Batch {
    /// Whether its number, which no checksum covers, can be the one that it was
    /// written with, after a batch with the number `highest`.
    fn can_follow(&self, highest: Option<u64>) -> bool {
        let floor = self.floor.or(highest.map(|highest| highest + 1)).unwrap_or(0);
        highest.is_none_or(|highest| highest < floor) && floor <= self.number
    }

    /// Reads one batch; `None` if what comes is none.
    fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut reader = Counted { reader, bytes: 0, checksum: Xxh3::new(), floor: None };
        match reader.batch() {
            Ok(number) => {
                let Counted { bytes, floor, .. } = reader;
                Ok(number.map(|number| Self { number, floor, bytes }))
            }
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// A reader that counts, and sums up, what it has read.
struct Counted<'a, R> {
    reader: &'a mut R,
    bytes: u64,
    checksum: Xxh3,
    floor: Option<u64>,
}

impl<R: Read> Counted<'_, R> {
    /// The number of the batch that comes, if it is whole.
    fn batch(&mut self) -> io::Result<Option<u64>> {
        if self.array()? != [START] {
            return Ok(None);
        }
        let items = u32::from_le_bytes(self.array()?);
        let number = u64::from_le_bytes(self.array()?);
        self.checksum.reset();
        for _ in 0..items {
            if !self.item()? {
                return Ok(None);
            }
        }
        let checksum = self.checksum.digest();
        let is_end = self.array()? == [END]
            && u64::from_le_bytes(self.array()?) == checksum
            && self.array()? == TRAILER;
        Ok((is_end && number <= NUMBER_MAX).then_some(number))
    }

    /// Reads an item. Says whether it is one.
    fn item(&mut self) -> io::Result<bool> {
        match self.array()? {
            [CLEAR] => self.array::<8>().map(|_keyspace| true),
            [ITEM] => {
                let [_kind, _compression] = self.array()?;
                let _keyspace: [u8; 8] = self.array()?;
                let key_bytes = u16::from_le_bytes(self.array()?);
                let _value_bytes: [u8; 4] = self.array()?;
                let written_bytes = u32::from_le_bytes(self.array()?);
                if (usize::from(key_bytes), written_bytes) == (FLOOR_KEY.len(), FLOOR_BYTES) {
                    let is_floor = self.array()? == FLOOR_KEY;
                    let floor = u64::from_le_bytes(self.array()?);
                    self.floor = self.floor.or(is_floor.then_some(floor));
                } else {
                    self.skip(u64::from(key_bytes) + u64::from(written_bytes))?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.reader.read_exact(&mut array)?;
        self.note(&array);
        Ok(array)
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        let mut part = [0; 4096];
        while bytes > 0 {
            let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(part.len());
            let part = part.get_mut(..step).expect("a step is no longer than the buffer");
            self.reader.read_exact(part)?;
            self.note(part);
            bytes -= step as u64;
        }
        Ok(())
    }

    fn note(&mut self, read: &[u8]) {
        self.bytes += read.len() as u64;
        self.checksum.update(read);
    }
}

#[cfg(test)]
mod tests;
