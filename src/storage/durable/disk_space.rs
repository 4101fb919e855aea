//! The free space of the disk, and the part of it that writes may take.
//!
//! ```text
//! disk     what is there │ spare │ reserve: memtables, journal, compaction
//! ```
//!
//! Whatever has a usual size, as a memtable, is smaller in a store with a limit: see
//! [`Scale`]. Each part of its directory has a bound, and all of them together are the
//! limit, so what writes may take is what the others leave:
//!
//! ```text
//! journals 1/16 │ merges 1/4 │ memtables │ files of the trees │ spare
//!               ╰ what a merge makes, and files that a merge or a drop has made obsolete
//! ```
//!
//! The files of the trees are known at any moment. The journals, and files that no tree
//! has, are measured by a walk of the directory now and then, and the journals between two
//! walks by the bytes that were written. A merge begins only if it fits into its part, and
//! into some of the spare bytes while these are many. Its part is lent to no write but
//! deletions, so one can begin however full the store is. In a store that is above its limit
//! a merge may take that part too: nothing else makes it smaller. Where that had another
//! limit before, or none, and no merge of its files fits, one may take what the disk has.

use super::generation::Keyspaces;
use super::journal;
use super::tree::{BLOBS, Files, KEYSPACES, Keyspace, Level, MEMTABLE_BYTES, TABLE_BYTES};
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The bytes that are kept free: compaction needs space.
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// The same as one part in so many of a smaller disk.
const RESERVE_SHARE: u64 = 16;

/// A disk with so many bytes beside the reserve is asked for its sizes only so often: with
/// each group of writes that would be a twelfth of the work on a lone one.
const AMPLE_BYTES: u64 = 1 << 30;
const ASK_INTERVAL: Duration = Duration::from_millis(10);

/// The memtables that may have to be flushed, up to half of a small disk.
const MEMORY_BYTES: u64 = 3 * MEMTABLE_BYTES;

/// The most that a step of compaction takes, with all that is written meanwhile,
/// up to a quarter of a small disk.
const STEP_BYTES: u64 = 8 * MEMTABLE_BYTES;

/// The same of a limit is up to a quarter.
const LIMIT_STEP_SHARE: u64 = 4;

/// How large the journal grows before another begins, and the same as one part in
/// so many of a small disk, or of a limit.
const JOURNAL_BYTES: u64 = 64 << 20;
const JOURNAL_SHARE: u64 = 8;
const LIMIT_JOURNAL_SHARE: u64 = 16;

/// The stale blobs that may stay, as one part in so many of a limit.
const LIMIT_STALE_SHARE: u64 = 64;

/// The smallest limit that leaves room for entries.
pub const LIMIT_BYTES_MIN: u64 = 16 << 20;

/// A limit in memtables, a memtable in tables, and the most tables of a limit, unless they
/// would be so small: each is synced.
const LIMIT_MEMTABLES: u64 = 128;
const MEMTABLE_TABLES: u64 = 1;
const LIMIT_TABLES_MAX: u64 = 4096;
const LIMIT_TABLE_BYTES: u64 = 1 << 20;

/// A small step of compaction takes one part in so many of what is reserved for any.
const STEP_PARTS: u64 = 4;

/// L0 takes one part in so many of that until writes wait: it is merged at once, into what
/// is in the level below.
const L0_PARTS: u64 = 4;

/// Compaction starts at this many L0 files, or at the bytes at which writes wait.
pub const L0_FILES_TO_COMPACT: u8 = 4;

/// Eviction goes on until so many bytes are spare, as one part in so many of a limit, and up
/// to some. It begins below half of that.
const AHEAD_SHARE: u64 = 8;
const AHEAD_BYTES_MAX: u64 = 256 << 20;

/// Garbage is worth a merge from one part in so many of that on.
const GARBAGE_SHARE: u64 = 2;

/// Where a full store refuses writes this part of a limit is left for deletions.
const DELETIONS_SHARE: u64 = 16;

/// For a moment a directory may be above its limit by one part in so many: deletions are
/// written, and values that stay are written again, however little is left.
const LIMIT_EXCESS_SHARE: u64 = 40;

/// A directory is above its limit by one part in so many at most, unless it had another limit
/// before.
const PROMISED_EXCESS_SHARE: u64 = 20;

/// The files of the trees leave more than one part in so many of a limit, unless they were
/// larger before.
const LARGER_SHARE: u64 = 8;

/// Deletions, which are written in any case, take up to one part in so many of that of
/// merges, which give it back. No merge that is under way has it.
const OVERDRAFT_PARTS: u64 = 4;

/// A write has up to one part in so many of a limit, and what is beside its value.
const WRITE_SHARE: u64 = 8;
const WRITE_BESIDE_BYTES: u64 = 4 << 10;

/// A group of writes is one part in so many of a limit.
const GROUP_SHARE: u64 = 64;

/// The bytes of a directory beside the folder of its database.
const BESIDE_BYTES: u64 = 64 << 10;

/// The time between two walks, and the same as so many times that of a walk.
const WALK_INTERVAL: Duration = Duration::from_millis(10);
const WALK_TIMES: u32 = 50;

/// The sizes of what a store is made of, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The memtables of a generation are flushed at this size.
    pub memtable: u64,
    /// A file of a level, at most.
    pub table: u64,
    /// Another journal begins behind this size.
    pub journal: u64,
    /// The blobs that nothing refers to and that are left by compaction, at most.
    pub stale: u64,
    /// Writes wait at so many bytes of L0, however few files, so that it still can be merged.
    pub l0_max: u64,
}

impl Scale {
    /// The sizes of a store without a limit.
    pub const USUAL: Self = Self {
        memtable: MEMTABLE_BYTES,
        table: TABLE_BYTES,
        journal: JOURNAL_BYTES,
        stale: u64::MAX,
        l0_max: u64::MAX,
    };

    /// Those of a store with a limit: so many of its files take it.
    fn of_limit(bytes: u64) -> Self {
        let memtable = (bytes / LIMIT_MEMTABLES).min(MEMTABLE_BYTES);
        let table = (bytes / LIMIT_TABLES_MAX).max(LIMIT_TABLE_BYTES);
        let table = table.min(memtable / MEMTABLE_TABLES).min(TABLE_BYTES);
        let journal = (bytes / LIMIT_JOURNAL_SHARE).min(JOURNAL_BYTES);
        let (stale, l0_max) = (bytes / LIMIT_STALE_SHARE, reserved_bytes(bytes) / L0_PARTS);
        Self { memtable, table, journal, stale, l0_max }
    }

    /// Returns true if L0 is to be merged.
    pub fn is_due(&self, l0: Level) -> bool {
        l0.files >= L0_FILES_TO_COMPACT.into() || l0.bytes >= self.l0_max
    }
}

/// The part of merges of a limit.
fn reserved_bytes(limit: u64) -> u64 {
    let least = STEP_BYTES.min(limit / LIMIT_STEP_SHARE);
    (limit / RESERVE_SHARE).clamp(least, RESERVE_BYTES_MAX)
}

/// The disk that the folder of a database is on, and the limit of its directory.
#[derive(Clone)]
pub struct DiskSpace {
    folder: PathBuf,
    limit: Option<Arc<Limit>>,
    /// The sizes of the disk, and when it was asked for them, if they were ample.
    ample: Cell<Option<(Instant, Sizes)>>,
}

/// A limit of the bytes of a directory.
struct Limit {
    bytes: u64,
    measured: Mutex<Measured>,
}

/// A directory at a moment, and since then.
#[derive(Default)]
struct Measured {
    at: Option<Instant>,
    took: Duration,
    used: Used,
    /// The bytes that were written since.
    written: u64,
}

/// The bytes that a directory takes of the disk.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    all: u64,
    /// Those of the journals.
    journals: u64,
    /// Those of the files of the trees.
    trees: u64,
    /// What these take beside what the trees tell of them.
    overhead: i64,
}

impl Used {
    /// Those of neither.
    fn others(self) -> u64 {
        self.all.saturating_sub(self.journals + self.trees)
    }

    /// Adds the files of a tree that a walk has met. Merges go on meanwhile, so it may have
    /// met files that are the tree's no more, and not all that are.
    fn add_files(&mut self, own: &Files, met: &[File]) {
        let (mut blob_files, mut blob_file_bytes) = (0, 0);
        for file in met {
            if file.is_blob && own.blobs.contains(&file.number) {
                blob_files += 1;
                blob_file_bytes += file.bytes;
            } else if let Some(told) = own.tables.get(&file.number).filter(|_| !file.is_blob) {
                self.trees += file.bytes;
                self.overhead += file.bytes.cast_signed() - told.cast_signed();
            }
        }
        self.trees += blob_file_bytes;
        // A tree tells no more than the sum of them.
        if blob_files == own.blobs.len() {
            self.overhead += blob_file_bytes.cast_signed() - own.blob_bytes.cast_signed();
        }
    }
}

/// The bytes of a limit that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Those that files of the trees may take, less than none if they have taken more.
    pub files: i64,
    /// Those of the journals' part.
    pub journals: u64,
    /// Those of the part of merges, less than none if obsolete files have taken more.
    pub merges: i64,
    /// Those that journals and obsolete files have taken beyond their parts: a flush and a
    /// release give them back.
    pub returned: u64,
}

impl DiskSpace {
    /// The space for the database in a folder, of a directory of so many bytes at most.
    pub fn new(folder: PathBuf, bytes_max: u64) -> Self {
        let limit = Limit { bytes: bytes_max.max(LIMIT_BYTES_MIN), measured: Mutex::default() };
        let limit = (bytes_max < u64::MAX).then(|| Arc::new(limit));
        Self { folder, limit, ample: Cell::default() }
    }

    pub fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    pub fn scale(&self) -> Scale {
        self.limit.as_ref().map_or(Scale::USUAL, |limit| Scale::of_limit(limit.bytes))
    }

    /// Free bytes for a step of compaction, of which so many on the disk are kept for
    /// others; no limit where the system does not tell.
    pub fn free_bytes(&self, keyspaces: &Keyspaces, kept_bytes: u64) -> u64 {
        let limit = self.limit.as_ref();
        let left = limit.map_or(u64::MAX, |limit| limit.step_bytes(&self.folder, keyspaces));
        let free = self.sizes().map_or(u64::MAX, |Sizes { free, .. }| free);
        free.saturating_sub(kept_bytes).min(left)
    }

    /// The same with no regard to the limit, and beyond the reserve of the disk.
    pub fn free_bytes_beyond_reserve(&self, kept_bytes: u64) -> u64 {
        let free = |sizes: Sizes| sizes.free.saturating_sub(sizes.reserved());
        self.sizes().map_or(u64::MAX, free).saturating_sub(kept_bytes)
    }

    /// Returns true if the store had another limit before, or none: it takes more than this
    /// one, or has files that are too large for its part of merges.
    pub fn is_outsized(&self, keyspaces: &Keyspaces) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.is_outsized(&self.folder, keyspaces))
    }

    /// Returns true if a tree has such files.
    pub fn has_outsized_tables(&self, keyspace: &Keyspace) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.has_outsized_tables(keyspace))
    }

    /// Returns true if these are of L0.
    pub fn has_outsized_l0(&self, keyspaces: &Keyspaces) -> bool {
        let limit = self.limit.as_ref();
        limit.is_some_and(|limit| keyspaces.each().into_iter().any(|it| limit.has_outsized_l0(it)))
    }

    /// Free bytes, and those that are to stay free beside the space for the memtables;
    /// `None` where the system does not tell.
    pub fn free_and_reserved_bytes(&self) -> Option<[u64; 2]> {
        self.sizes().map(|sizes| [sizes.free, sizes.reserved()])
    }

    /// The bytes that the directory takes, as of the last walk or of a first one, and the
    /// most that it may; `None` without a limit.
    pub fn used_and_limit_bytes(&self, keyspaces: &Keyspaces) -> Option<[u64; 2]> {
        let limit = self.limit.as_ref()?;
        let mut measured = limit.lock();
        if measured.at.is_none_or(|at| at.elapsed() > measured.took * WALK_TIMES) {
            measured.used.all = used(&self.folder, keyspaces).all;
        }
        Some([measured.used.all, limit.bytes])
    }

    /// The bytes that can be written while enough is kept free.
    pub fn spare_bytes(&self, keyspaces: &Keyspaces) -> u64 {
        let spare = self.spare_bytes_of_disk(keyspaces);
        match self.balance(keyspaces) {
            Some(balance) => spare.min(balance.spare_bytes()),
            None => spare,
        }
    }

    /// Deletions have taken so much of the part of merges that so many bytes more have to
    /// wait for these.
    pub fn is_overdrawn(&self, keyspaces: &Keyspaces, bytes: u64) -> bool {
        let limit = self.limit.as_ref();
        limit.is_some_and(|limit| limit.is_overdrawn(&self.folder, keyspaces, bytes))
    }

    /// Returns true if so many bytes fit into the part of merges, of which none is under way,
    /// and leave enough for a small one.
    pub fn fits_between_merges(&self, keyspaces: &Keyspaces, bytes: u64) -> bool {
        self.limit.as_ref().is_none_or(|limit| {
            let balance = limit.balance(&self.folder, keyspaces);
            let left = balance.files_after(bytes).saturating_add(balance.merges);
            left >= (limit.reserved() / STEP_PARTS).cast_signed()
        })
    }

    /// The bytes of the limit that are left; `None` without one.
    pub fn balance(&self, keyspaces: &Keyspaces) -> Option<Balance> {
        self.limit.as_ref().map(|limit| limit.balance(&self.folder, keyspaces))
    }

    /// The same with no regard to the limit. Memtables will take as much as they hold, and
    /// the journal no more than it has grown already: neither of them takes later the space
    /// that others have given back. Where the system does not tell, only a write that fails
    /// does.
    pub fn spare_bytes_of_disk(&self, keyspaces: &Keyspaces) -> u64 {
        self.recent_sizes().map_or(u64::MAX, |sizes| {
            let (free, journal_max) = (sizes.free, sizes.journal_max());
            let kept = sizes.reserved() + keyspaces.unflushed_bytes();
            let spare = free.saturating_sub(kept);
            if spare >= journal_max {
                return spare;
            }
            // Near the limit the journal's real size matters.
            let journal = self.journal_bytes().unwrap_or(0).min(journal_max);
            (free + journal).saturating_sub(kept).min(journal_max)
        })
    }

    /// Eviction goes on until so many bytes are spare; `None` without a limit.
    pub fn ahead_bytes(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.ahead_bytes())
    }

    /// Fewer bytes that were overwritten, or swept, are not worth a merge of a tree.
    pub fn garbage_bytes_min(&self) -> u64 {
        self.ahead_bytes().unwrap_or(0) / GARBAGE_SHARE
    }

    /// The bytes that a store which refuses writes leaves for deletions.
    pub fn deletions_bytes(&self) -> u64 {
        self.limit.as_ref().map_or(0, |limit| limit.bytes / DELETIONS_SHARE)
    }

    /// The most bytes of a step of eviction, which writes wait for, and of the values that it
    /// writes again.
    pub fn eviction_bytes_max(&self) -> u64 {
        self.scale().memtable
    }

    /// A group of writes takes no more once it has so many bytes: one that waits for space
    /// waits for that of all.
    pub fn group_bytes_max(&self) -> usize {
        let bytes = self.limit.as_ref().map_or(u64::MAX, |limit| limit.bytes / GROUP_SHARE);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// The most bytes that a write may have.
    pub fn write_bytes_max(&self) -> u64 {
        self.limit.as_ref().map_or(u64::MAX, |limit| limit.bytes / WRITE_SHARE + WRITE_BESIDE_BYTES)
    }

    /// Has the next look at the spare bytes walk: something was given back.
    pub fn note_release(&self) {
        if let Some(limit) = &self.limit {
            limit.note_release();
        }
    }

    /// Notes that so many bytes were written.
    pub fn note(&self, bytes: usize) {
        if let Some(limit) = &self.limit {
            limit.lock().written += bytes as u64;
        }
    }

    /// Returns true if the next flush should begin another journal, which the database
    /// would do later.
    pub fn is_journal_long(&self) -> bool {
        self.is_limited() && self.journal_bytes().is_some_and(|bytes| bytes >= self.scale().journal)
    }

    /// The bytes that the journals take; `None` where they cannot be looked at.
    pub fn journal_bytes(&self) -> Option<u64> {
        journal::disk_bytes(&self.folder).ok()
    }

    /// The sizes of the disk, as of some milliseconds ago while they are ample.
    fn recent_sizes(&self) -> Option<Sizes> {
        if let Some((asked_at, sizes)) = self.ample.get()
            && asked_at.elapsed() < ASK_INTERVAL
        {
            return Some(sizes);
        }
        let sizes = self.sizes();
        let ample = sizes.filter(Sizes::are_ample);
        self.ample.set(ample.map(|sizes| (Instant::now(), sizes)));
        sizes
    }

    #[cfg(target_os = "linux")]
    fn sizes(&self) -> Option<Sizes> {
        let disk = rustix::fs::statvfs(&self.folder).ok()?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // Some file systems do not know their size.
        (total > 0).then_some(Sizes { total, free })
    }

    #[cfg(not(target_os = "linux"))]
    fn sizes(&self) -> Option<Sizes> {
        None
    }
}

impl Limit {
    /// The part of merges.
    fn reserved(&self) -> u64 {
        reserved_bytes(self.bytes)
    }

    fn ahead_bytes(&self) -> u64 {
        (self.bytes / AHEAD_SHARE).min(AHEAD_BYTES_MAX)
    }

    /// The bytes that a step of compaction finds free: none of those that writes may take
    /// meanwhile. In a store that was larger before it had the limit a step has its part in
    /// any case.
    fn step_bytes(&self, folder: &Path, keyspaces: &Keyspaces) -> u64 {
        let within = self.bytes_for_merges(self.balance(folder, keyspaces));
        let reserved = self.reserved();
        let used = self.lock().used;
        let overhead = used.overhead.max(0).cast_unsigned();
        let left = if !self.is_larger(used) {
            within
        } else if used.all > self.bytes {
            reserved
        } else {
            within.max(reserved / STEP_PARTS)
        };
        // A step reckons with what the trees tell.
        let trees = u128::from(used.trees.max(overhead).max(1));
        let beside = u128::from(left) * u128::from(overhead) / trees;
        left.saturating_sub(u64::try_from(beside).unwrap_or(left))
    }

    /// The part of merges as far as nothing else has taken it or may take it meanwhile.
    fn bytes_for_merges(&self, Balance { files, merges, .. }: Balance) -> u64 {
        let excess = (self.bytes / LIMIT_EXCESS_SHARE).cast_signed();
        let (reserved, overdraft) = (self.reserved().cast_signed(), self.overdraft());
        // Deletions may be written meanwhile, up to the overdraft: past that they wait.
        let overdrawn = (files - overdraft).max(-overdraft).min(files).min(0);
        // What is far from being needed is lent to merges.
        let ahead = self.ahead_bytes().cast_signed();
        let borrowed = ((files - ahead) / 2).clamp(0, (reserved - merges).max(0));
        let within = overdrawn + merges.max(0) + excess + borrowed;
        within.min(merges + borrowed).max(0).cast_unsigned()
    }

    fn balance(&self, folder: &Path, keyspaces: &Keyspaces) -> Balance {
        let mut measured = self.lock();
        let pause = WALK_INTERVAL.max(measured.took * WALK_TIMES);
        if measured.at.is_none_or(|at| at.elapsed() >= pause) {
            let begun = Instant::now();
            let used = used(folder, keyspaces);
            let took = begun.elapsed();
            *measured = Measured { at: Some(Instant::now()), took, used, written: 0 };
        }
        let Measured { used, written, .. } = *measured;
        drop(measured);
        let scale = Scale::of_limit(self.bytes);
        let (journals, reserved) = (used.journals + written, self.reserved());
        let unflushed = keyspaces.unflushed_bytes_of(scale.memtable);
        let trees = keyspaces.disk_bytes().saturating_add_signed(used.overhead);
        let others = used.others();
        let taken =
            trees + unflushed + journals.max(scale.journal) + others.max(reserved) + BESIDE_BYTES;
        Balance {
            files: self.bytes.cast_signed().saturating_sub_unsigned(taken),
            journals: scale.journal.saturating_sub(journals),
            merges: reserved.cast_signed().saturating_sub_unsigned(others),
            returned: journals.saturating_sub(scale.journal) + others.saturating_sub(reserved),
        }
    }

    fn is_outsized(&self, folder: &Path, keyspaces: &Keyspaces) -> bool {
        self.balance(folder, keyspaces);
        let used = self.lock().used.all;
        used > self.bytes + self.bytes / PROMISED_EXCESS_SHARE
            || keyspaces.each().into_iter().any(|it| self.has_outsized_tables(it))
    }

    fn has_outsized_tables(&self, keyspace: &Keyspace) -> bool {
        self.has_outsized_l0(keyspace) || keyspace.largest_table_bytes() > self.reserved()
    }

    fn has_outsized_l0(&self, keyspace: &Keyspace) -> bool {
        keyspace.l0().bytes > self.reserved()
    }

    /// Returns true if the trees took as much before the store had the limit.
    fn is_larger(&self, used: Used) -> bool {
        used.trees > self.bytes - self.bytes / LARGER_SHARE
    }

    /// Deletions have taken so much of the part of merges that so many bytes more have to
    /// wait for these.
    fn is_overdrawn(&self, folder: &Path, keyspaces: &Keyspaces, bytes: u64) -> bool {
        let left = self.balance(folder, keyspaces).files_after(bytes);
        left < -self.overdraft() && !self.is_larger(self.lock().used)
    }

    /// The part of that of merges that deletions may take.
    fn overdraft(&self) -> i64 {
        (self.reserved() / OVERDRAFT_PARTS).cast_signed()
    }

    /// Has the next look walk.
    fn note_release(&self) {
        self.lock().at = None;
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        // It is replaced as a whole.
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balance {
    /// The bytes that can be written, each of them to a file and to the journal, which has
    /// some of its own.
    pub fn spare_bytes(self) -> u64 {
        let files = self.files.max(0).cast_unsigned();
        files.min(u64::midpoint(files, self.journals))
    }

    /// What is left for files once so many bytes are written.
    fn files_after(self, bytes: u64) -> i64 {
        let taken = bytes.saturating_add(bytes.saturating_sub(self.journals));
        self.files.saturating_sub_unsigned(taken)
    }
}

/// The bytes that the folder of a database takes. Whatever is removed meanwhile counts or
/// not.
fn used(folder: &Path, keyspaces: &Keyspaces) -> Used {
    let mut walk = Walk {
        used: Used::default(),
        files: keyspaces.each().map(|keyspace| (keyspace.id(), Vec::new())),
    };
    // What cannot be looked at is not counted.
    walk.add_folder(folder, None).ok();
    let Walk { mut used, files } = walk;
    for (keyspace, (_, files)) in keyspaces.each().into_iter().zip(files) {
        used.add_files(&keyspace.files(), &files);
    }
    used
}

/// A file of a keyspace's folder.
struct File {
    is_blob: bool,
    number: u64,
    bytes: u64,
}

/// A walk of a folder.
struct Walk {
    used: Used,
    /// The files of two keyspaces.
    files: [(u64, Vec<File>); 2],
}

impl Walk {
    /// Adds a folder, of a keyspace or of none.
    fn add_folder(&mut self, folder: &Path, keyspace: Option<u64>) -> io::Result<()> {
        self.used.all += journal::allocated_bytes(&fs::metadata(folder)?);
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                let below = if name == KEYSPACES { number_of(&entry) } else { keyspace };
                self.add_folder(&entry.path(), below).ok();
                continue;
            }
            let bytes = journal::allocated_bytes(&metadata);
            self.used.all += bytes;
            if journal::number(&entry.path()).is_some() {
                self.used.journals += bytes;
            } else if let Some(number) = number_of(&entry) {
                let mut of_it = self.files.iter_mut().filter(|(id, _)| Some(*id) == keyspace);
                if let Some((_, files)) = of_it.next() {
                    files.push(File { is_blob: name == BLOBS, number, bytes });
                }
            }
        }
        Ok(())
    }
}

/// The number that a file or a folder has for its name.
fn number_of(entry: &DirEntry) -> Option<u64> {
    entry.file_name().to_str()?.parse().ok()
}

/// Of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    total: u64,
    free: u64,
}

impl Sizes {
    /// The bytes that compaction and the journal may need.
    fn reserved(&self) -> u64 {
        let least = MEMORY_BYTES.min(self.total / 2).max(STEP_BYTES.min(self.total / 4));
        let reserve = (self.total / RESERVE_SHARE).clamp(least, RESERVE_BYTES_MAX);
        reserve + self.journal_max() / 2
    }

    /// Returns true if there is so much beside that nobody takes it from one look to the next.
    fn are_ample(&self) -> bool {
        self.free >= self.reserved() + AMPLE_BYTES
    }

    fn journal_max(&self) -> u64 {
        JOURNAL_BYTES.min(self.total / JOURNAL_SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_a_file_and_what_the_journal_has_left() {
        for (files, journals, spare) in [
            (100, 100, 100),
            (100, 200, 100),
            // The journal takes the rest from the files.
            (100, 40, 70),
            (100, 0, 50),
            (0, 100, 0),
            (-10, 100, 0),
        ] {
            let balance = Balance { files, journals, merges: 0, returned: 0 };
            assert_eq!(balance.spare_bytes(), spare, "{files} {journals}");
            assert_eq!(balance.files_after(spare), files.min(0), "{files} {journals}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_disk_is_asked_only_so_often_while_its_sizes_are_ample() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = DiskSpace::new(folder.path().to_owned(), u64::MAX);
        let known = Sizes { total: 1, free: u64::MAX };
        space.ample.set(Some((Instant::now() + Duration::from_hours(1), known)));
        assert_eq!(space.recent_sizes(), Some(known));
        let long_ago = Instant::now().checked_sub(ASK_INTERVAL).expect("the clock has run so long");
        space.ample.set(Some((long_ago, known)));
        let sizes = space.recent_sizes().expect("the system tells them");
        assert_ne!(sizes, known);
        let is_known = space.ample.get().is_some_and(|(_, ample)| ample == sizes);
        assert_eq!(is_known, sizes.are_ample());

        let total = 1 << 40;
        let least = Sizes { total, free: 0 }.reserved() + AMPLE_BYTES;
        assert!(Sizes { total, free: least }.are_ample());
        assert!(!Sizes { total, free: least - 1 }.are_ample());
    }

    /// Else more would be evicted, or written, by as much as a merge has taken away or added.
    #[test]
    fn what_files_take_beside_their_bytes_is_told_of_the_same_files() {
        let file = |is_blob, number, bytes| File { is_blob, number, bytes };
        let tables = [(1, 100), (2, 1000)].into();
        let own = Files { tables, blobs: [1, 7].into(), blob_bytes: 5000 };
        let small = [file(false, 1, 110), file(false, 9, 50_000)];
        let all = [file(false, 2, 1020), file(true, 7, 4000), file(true, 1, 1300)];
        for (met, trees, overhead) in [
            (&[][..], 0, 0),
            (&small, 110, 10),
            (&all, 6320, 320),
            // One of two blob files.
            (&all[..2], 5020, 20),
        ] {
            let mut used = Used::default();
            used.add_files(&own, met);
            assert_eq!((used.trees, used.overhead), (trees, overhead), "{}", met.len());
        }
    }

    /// Else nothing would ever give back what they have taken.
    #[test]
    fn deletions_leave_enough_for_the_merge_that_they_wait_for() {
        for bits in 24..44 {
            let space = DiskSpace::new(PathBuf::new(), 1 << bits);
            let limit = space.limit.as_ref().expect("it has one");
            let (merges, overdraft) = (limit.reserved().cast_signed(), limit.overdraft());
            let left = |files| {
                let balance = Balance { files, journals: 0, merges, returned: 0 };
                limit.bytes_for_merges(balance).cast_signed()
            };
            // As many as are written where merges have given back all that they could.
            let small = merges / STEP_PARTS.cast_signed();
            assert!(left(small - merges) >= small, "{bits}");
            // Where more of them are let in meanwhile, these have their space.
            assert!(left(0) <= left(-overdraft) + merges / 100, "{bits}");
        }
    }

    #[test]
    fn the_parts_of_a_limit_leave_enough_for_the_largest_write() {
        for bits in 24..44 {
            let bytes = 1_u64 << bits;
            let space = DiskSpace::new(PathBuf::new(), bytes);
            let limit = space.limit.as_ref().expect("it has one");
            let scale = space.scale();
            let parts = limit.reserved() + scale.journal + 2 * scale.memtable + BESIDE_BYTES;
            // Two bytes for each that is written.
            assert!(parts + 2 * space.write_bytes_max() <= bytes, "{bytes}");
            // All of L0, and a level of four tables.
            let all = scale.l0_max + 4 * scale.memtable + 4 * scale.table;
            assert!(all <= limit.reserved(), "{bytes}");
        }
    }
}
