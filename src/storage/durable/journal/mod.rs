//! The journal: its format, and the check of it before the database reads it.
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
//! sequence number that no checksum covers (so each batch of ours begins with an
//! item that has a floor for its number), drops everything after a broken batch, and
//! does not open where the last one is torn. Here a last batch that is not whole is
//! cut off, for nobody was told that it is stored, and a broken one that is followed
//! by another is refused.
//!
//! A value may hold any bytes, those of a whole batch too. So bytes behind a broken
//! batch count as another one only if they have the stamp of the process that wrote
//! it: random bytes that no client has seen.

#[cfg(all(target_os = "linux", not(portable)))]
pub mod preallocate;
#[cfg(any(portable, not(target_os = "linux")))]
#[path = "preallocate_portable.rs"]
pub mod preallocate;

use super::open_error::OpenError;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
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

/// The longest search of a torn end for a whole batch, in steps from item to item:
/// far more than an honest value takes, and under a second.
const SEARCH_STEPS_MAX: usize = 1 << 22;

/// To sum up so many bytes takes as long as to step over an item.
const STEP_BYTES: usize = 16;

/// The key of the item that every batch begins with. Keys of entries are UTF-8,
/// so this is none.
pub const FLOOR_KEY: [u8; 2] = [0xff, b'f'];
const FLOOR_BYTES: u32 = 8;
const STAMPED_FLOOR_BYTES: u32 = FLOOR_BYTES + 16;

/// The place of a batch's stamp: behind its start, the head of an item, that item's
/// key, and the floor.
const STAMP_AT: usize = START_BYTES + ITEM_HEAD_BYTES + FLOOR_KEY.len() + FLOOR_BYTES as usize;
const ITEM_HEAD_BYTES: usize = 21;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// A secret of one process, in all its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u128);

impl Stamp {
    /// A stamp that no other process has had.
    pub fn new() -> Self {
        // The keys of each begin with the system's random numbers.
        let random = || u128::from(RandomState::new().build_hasher().finish());
        Self(random() << u64::BITS | random())
    }

    /// The floor of the batch that `bytes` begin with, if it has the stamp.
    fn floor_at(self, bytes: &[u8]) -> Option<u64> {
        if bytes.first() != Some(&START) {
            return None;
        }
        let (head, rest) = bytes.split_at_checked(STAMP_AT)?;
        let floor = head.last_chunk().map(|floor| u64::from_le_bytes(*floor))?;
        rest.starts_with(&self.0.to_le_bytes()).then_some(floor)
    }

    /// The value under [`FLOOR_KEY`] in a batch with the number `floor` or a higher
    /// one.
    pub fn floor(self, floor: u64) -> Vec<u8> {
        [&floor.to_le_bytes()[..], &self.0.to_le_bytes()].concat()
    }
}

/// A journal that was read and is whole, but for its torn end.
#[derive(Debug)]
pub struct Journal {
    pub number: u64,
    /// Where the whole batches end.
    pub whole_bytes: u64,
    /// Keyspaces of keys, each with the number of the last batch of it.
    pub last_batches: Vec<(u64, u64)>,
}

/// The journals of a database, and where a crash has left one unfinished.
#[derive(Debug)]
pub struct Journals {
    pub all: Vec<Journal>,
    /// The sequence number of the last batch; zero if there is none.
    pub highest: u64,
    torn: Option<(PathBuf, u64)>,
}

impl Journals {
    /// Reads every journal in the folder of a database; `whole_bytes` of each, by its
    /// number, are known to be whole, and all others have the stamp, if there were
    /// stamps yet. Refuses damage; changes nothing.
    pub fn read(
        data: &Path,
        stamp: Option<Stamp>,
        whole_bytes: impl Fn(u64) -> u64,
    ) -> Result<Self, OpenError> {
        let mut highest = None;
        let mut all = Vec::new();
        let mut torn: Option<(PathBuf, u64)> = None;
        for path in journals(data).map_err(unreadable)? {
            let number = number(&path).unwrap_or_default();
            let least = whole_bytes(number);
            let scan = Scan::read(&path, highest, least, stamp).map_err(unreadable)?;
            // The database may begin a journal after a write to another has failed.
            if let Some((file, at)) = torn.take_if(|_| !scan.is_empty()) {
                return Err(OpenError::Damaged { file, at });
            }
            if scan.is_damaged {
                return Err(OpenError::Damaged { file: path, at: scan.whole_bytes });
            }
            if !scan.followed_by_zeros {
                torn = Some((path, scan.whole_bytes));
            }
            highest = scan.highest;
            let Scan { whole_bytes, last_batches, .. } = scan;
            all.push(Journal { number, whole_bytes, last_batches });
        }
        Ok(Self { all, highest: highest.unwrap_or(0), torn })
    }

    /// Cuts off a write that a crash has left unfinished. Gives where that was.
    pub fn cut(&mut self) -> Result<Option<(PathBuf, u64)>, OpenError> {
        let torn = self.torn.take();
        if let Some((journal, bytes)) = &torn {
            cut(journal, *bytes).map_err(|err| OpenError::io("its journal is torn", err))?;
        }
        Ok(torn)
    }
}

/// Where the whole batches of a journal of ours end.
pub fn whole_bytes(journal: &Path) -> io::Result<u64> {
    Ok(Scan::read(journal, None, 0, Some(Stamp::new()))?.whole_bytes)
}

/// The number of a journal's first batch; `None` before there is one.
pub fn first_batch(data: &Path, journal: u64) -> io::Result<Option<u64>> {
    let mut start = [0; START_BYTES];
    let mut file = File::open(data.join(format!("{journal}.{EXTENSION}")))?;
    match file.read_exact(&mut start) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(err) => return Err(err),
    }
    let number = start.last_chunk().map(|number| u64::from_le_bytes(*number));
    Ok(number.filter(|_| start.first() == Some(&START)))
}

fn unreadable(err: io::Error) -> OpenError {
    OpenError::io("its journal cannot be read", err)
}

/// The space that the journals of a database take on the disk. They are made as long
/// as they may become, and take it only as they are written.
pub fn disk_bytes(data: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for journal in journals(data)? {
        bytes += allocated_bytes(&journal.metadata()?);
    }
    Ok(bytes)
}

/// The bytes that a file or a folder takes.
#[cfg(unix)]
pub fn allocated_bytes(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.blocks() * 512
}

/// The same where the system does not tell.
#[cfg(not(unix))]
pub fn allocated_bytes(file: &fs::Metadata) -> u64 {
    file.len()
}

/// The journals of a database, oldest first; the last is the one in use.
pub fn journals(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        journals.extend(number(&path).map(|number| (number, path)));
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// The number of the journal at `path`; `None` if the database has none of that
/// name.
pub fn number(path: &Path) -> Option<u64> {
    let is_journal = path.extension().is_some_and(|extension| extension == EXTENSION);
    let stem = path.file_stem().filter(|_| is_journal)?.to_str()?;
    stem.parse().ok().filter(|number: &u64| number.to_string() == stem)
}

fn cut(journal: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().write(true).open(journal)?;
    file.set_len(bytes)?;
    file.sync_all()
}

/// The contents of a journal.
struct Scan {
    /// Where the whole batches end, which are in order.
    whole_bytes: u64,
    /// The last sequence number of those, or of an earlier journal.
    highest: Option<u64>,
    /// Keyspaces of keys, each with the number of the last batch of it.
    last_batches: Vec<(u64, u64)>,
    /// Nothing but preallocated space comes after them.
    followed_by_zeros: bool,
    /// There were others.
    is_damaged: bool,
}

impl Scan {
    /// Reads a journal of numbers over `highest`. At least `least` bytes were whole,
    /// and all batches behind them have the stamp.
    fn read(
        journal: &Path,
        mut highest: Option<u64>,
        least: u64,
        stamp: Option<Stamp>,
    ) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(journal)?);
        let mut whole_bytes = 0;
        let mut last_batches: Vec<(u64, u64)> = Vec::new();
        let mut is_damaged = false;
        while let Some(batch) = JournalBatch::read(&mut file)? {
            // A crash leaves no whole batch in the wrong place.
            is_damaged = !batch.can_follow(highest);
            if is_damaged {
                break;
            }
            if let Some(Floor { keyspace, .. }) = batch.floor {
                last_batches.retain(|(other, _)| *other != keyspace);
                last_batches.push((keyspace, batch.number));
            }
            highest = Some(batch.number);
            whole_bytes += batch.bytes;
        }
        is_damaged |= whole_bytes < least;
        let followed_by_zeros = is_zero(file.get_ref(), whole_bytes)?;
        if !followed_by_zeros && !is_damaged {
            file.seek(SeekFrom::Start(whole_bytes))?;
            let mut rest = Vec::new();
            file.read_to_end(&mut rest)?;
            is_damaged = match stamp {
                Some(stamp) => has_stamp_over(highest, stamp, &rest),
                None => has_batch_over(highest, &rest)?,
            };
        }
        Ok(Self { whole_bytes, highest, last_batches, followed_by_zeros, is_damaged })
    }

    fn is_empty(&self) -> bool {
        self.whole_bytes == 0 && self.followed_by_zeros
    }
}

/// Returns true if another batch with a higher number begins in `bytes`, behind the
/// broken one. It was begun once the broken one was synced, so it need not be whole
/// itself. A value may hold a copy of an earlier batch, but of no later one.
fn has_stamp_over(highest: Option<u64>, stamp: Stamp, bytes: &[u8]) -> bool {
    // Of the first batch of all only itself can tell, which may be damaged too.
    let own_number = || bytes.get(5..)?.first_chunk().map(|number| u64::from_le_bytes(*number));
    let own = || Some(stamp.floor_at(bytes)?.min(own_number()?));
    let highest = highest.or_else(own);
    let behind_first = bytes.get(1..).unwrap_or_default();
    behind_first.windows(STAMP_AT + size_of::<Stamp>()).any(|head| {
        let floor = stamp.floor_at(head);
        floor.is_some_and(|floor| Some(floor) > highest)
    })
}

/// The same for whole batches without a stamp. A value made to take hours is not
/// searched to its end, and may hold one.
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
        let batch = JournalBatch::read(&mut from)?;
        if batch.is_some_and(|batch| highest.is_none_or(|highest| batch.number > highest)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The length of the batch that `bytes` begin with, by its shape: as many items as
/// it claims, and an end. Counts a step for each item.
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

/// The bytes behind the item that `bytes` begin with.
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

/// Returns true if a file holds nothing but zeros from `at` on.
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

/// The next place from `at` on that is, or may be, no hole: nearly all of a new
/// journal is one.
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
struct JournalBatch {
    number: u64,
    floor: Option<Floor>,
    bytes: u64,
}

/// The first item of a batch of ours, which the checksum covers.
#[derive(Clone, Copy)]
struct Floor {
    /// The keyspace of the keys.
    keyspace: u64,
    /// The batch's number is no lower.
    number: u64,
}

impl JournalBatch {
    /// Returns true if its number, which no checksum covers, is possible after a batch
    /// with the number `highest`.
    fn can_follow(&self, highest: Option<u64>) -> bool {
        let floor = self.floor.map(|floor| floor.number);
        let floor = floor.or(highest.map(|highest| highest + 1)).unwrap_or(0);
        highest.is_none_or(|highest| highest < floor) && floor <= self.number
    }

    /// Reads one batch; `None` if none comes.
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

/// A reader that counts and sums up the bytes that it has read.
struct Counted<'a, R> {
    reader: &'a mut R,
    bytes: u64,
    checksum: Xxh3,
    floor: Option<Floor>,
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

    /// Reads an item; `false` if it is none.
    fn item(&mut self) -> io::Result<bool> {
        match self.array()? {
            [CLEAR] => self.array::<8>().map(|_keyspace| true),
            [ITEM] => {
                let [_kind, _compression] = self.array()?;
                let keyspace = u64::from_le_bytes(self.array()?);
                let key_bytes = u16::from_le_bytes(self.array()?);
                let _value_bytes: [u8; 4] = self.array()?;
                let written_bytes = u32::from_le_bytes(self.array()?);
                let is_like_floor = usize::from(key_bytes) == FLOOR_KEY.len()
                    && [FLOOR_BYTES, STAMPED_FLOOR_BYTES].contains(&written_bytes);
                if is_like_floor {
                    let is_floor = self.array()? == FLOOR_KEY;
                    let number = u64::from_le_bytes(self.array()?);
                    self.skip(u64::from(written_bytes - FLOOR_BYTES))?;
                    self.floor = self.floor.or(is_floor.then_some(Floor { keyspace, number }));
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
