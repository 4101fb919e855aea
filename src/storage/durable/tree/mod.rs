//! The one door to fjall, and to lsm-tree below it.
//!
//! ```text
//! batch ──► journal, synced ──► memtable ──flush──► files of L0 ──compaction──► L1 ... L6
//!                               large values go to blob files, which keys refer to
//! ```
//!
//! A database has one journal, and keyspaces; each of these is an LSM tree.
//! Reads look from left to right and wait for nobody. The engine above relies on
//! these facts:
//!
//! - A tree drops obsolete files when it installs a version, and only a flush of a
//!   memtable that is not empty does. So their release takes a write and a flush.
//! - fjall compacts with no regard to free space. So it is told to leave files as
//!   they are, and each step is taken by [`Database::compact`].
//! - It lets a writer wait for ever at four sealed memtables or thirty L0 runs.
//! - It takes any error of its threads for the end, and some damage for a bug of
//!   its own, and panics.
//! - A batch gets into the memtables item by item, and plain reads see it so: see
//!   `moments`.
//! - As long as a snapshot lives a tree keeps all versions since, with the memtables and
//!   files of each, and compaction keeps all values since. So no snapshot lives for long:
//!   see `held_tree`.
//! - The database forgets nothing of its list of keyspaces: see `list`.
//! - After a drop of tables a tree counts the stale values of blob files that are gone:
//!   see `forget_gone_blobs`.
//!
//! Both crates' hidden items are used, so Cargo.toml pins their exact versions.
//! Nothing here knows of entries, expiry or clients.

mod blob_files;
mod bottom;
mod held_tree;
mod list;
mod moments;
mod orphans;
pub mod table_file;

use crate::platform::descriptors;
use crate::storage::page::Bounds;
pub use blob_files::{Blob, Size};
pub use bottom::{Stretch, StretchItem};
use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::{AbstractTree as _, AnyTree, DatabaseBuilder, KeyspaceCreateOptions, Readable as _};
use fjall::{KvSeparationOptions, OwnedWriteBatch, PersistMode, UserKey, UserValue};
use held_tree::{HeldItem, HeldItems, HeldTree};
use list::List;
use lsm_tree::compaction::{CompactionStrategy, MoveDown, PullDown};
use moments::Moments;
use orphans::NewFiles;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

/// The block cache, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// How many files are kept open beside the journal at most, and one part in so
/// many of the descriptors that the system allows.
const FILES_MAX: u64 = 64;
const FILES_SHARE: u64 = 16;

/// The database takes no fewer.
const FILES_MIN: u64 = 10;

/// How many descriptors the database needs beside those: journals, the files
/// that flushes and compactions read and write, directories.
const DESCRIPTORS_BESIDE: u64 = 64;
const DESCRIPTORS_BESIDE_SHARE: u64 = 8;

/// The same of a database that only stands in for another.
const STANDBY_CACHE_BYTES: u64 = 4 << 20;
const STANDBY_FILES_MAX: usize = 8;

/// How large the journals grow until what they hold is flushed.
const JOURNALS_BYTES_MAX: u64 = 192 << 20;

/// The size at which both memtables of a generation are flushed.
pub const MEMTABLE_BYTES: u64 = 16 << 20;

/// How large a file of a level is: the smaller, the less space a step takes.
pub const TABLE_BYTES: u64 = 4 << 20;

/// Values from this size on go to blob files, so that compaction does not copy
/// them.
pub const BLOB_VALUE_BYTES_MIN: u32 = 4096;

/// How large a blob file is. Of the stale ones a compaction rewrites one in so
/// many: the fewer, the less space that takes meanwhile.
const BLOB_FILE_BYTES: u64 = 8 << 20;
pub const BLOB_REWRITE_SHARE: u8 = 20;

/// A tree's folder of blob files.
pub const BLOBS: &str = "blobs";

pub type Result<T> = std::result::Result<T, Error>;

/// Why the database has not done as it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be written or synced, and may be on the disk or not.
    #[error("{what}: {source}")]
    Uncertain { what: &'static str, source: fjall::Error },
    /// The directory is not where it was.
    #[error("the directory is not where it was")]
    Lost,
    /// Anything else; all acknowledged batches are on the disk.
    #[error("{0}")]
    Database(#[from] fjall::Error),
}

impl Error {
    /// A panic of the database, which may hold changes that are in no journal.
    pub fn panicked() -> Self {
        Self::Database(fjall::Error::Unrecoverable)
    }

    /// A failure to write or sync the journal. A database that has failed before
    /// writes nothing.
    pub fn of_the_journal(source: impl Into<fjall::Error>) -> Self {
        let source = source.into();
        let is_known = matches!(source, fjall::Error::Poisoned);
        if is_known { Self::Database(source) } else { Self::uncertain("the journal", source) }
    }

    fn uncertain(what: &'static str, source: impl Into<fjall::Error>) -> Self {
        Self::Uncertain { what, source: source.into() }
    }

    /// Whether nothing may be written before the next start.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Uncertain { .. } | Self::Database(fjall::Error::Unrecoverable))
    }

    /// Whether the disk, or this process's share of it, is full.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};

        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(err) = cause {
            if let Some(err) = err.downcast_ref::<io::Error>() {
                return matches!(err.kind(), FileTooLarge | QuotaExceeded | StorageFull);
            }
            cause = err.source();
        }
        false
    }
}

impl From<lsm_tree::Error> for Error {
    fn from(err: lsm_tree::Error) -> Self {
        Self::Database(err.into())
    }
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        Self::Database(err.into())
    }
}

/// Does something that may panic on damage or after a failure.
pub fn unless_panic<T>(action: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|_panic| Err(Error::panicked()))
}

/// The most descriptors that a database has open: fewer where the system allows
/// few.
pub fn descriptors_max() -> u64 {
    let limit = descriptors::limit();
    files_max(limit) + (limit / DESCRIPTORS_BESIDE_SHARE).min(DESCRIPTORS_BESIDE)
}

fn files_max(limit: u64) -> u64 {
    (limit / FILES_SHARE).clamp(FILES_MIN, FILES_MAX)
}

/// A handle to a database; it is closed with the last handle to it or to one of
/// its keyspaces.
#[derive(Clone)]
pub struct Database(fjall::Database, Arc<Moments>, Arc<List>);

impl Database {
    /// Opens the database in a folder, or makes an empty one.
    pub fn open(folder: &Path) -> Result<Self> {
        let files_max = usize::try_from(files_max(descriptors::limit())).ok();
        let builder = fjall::Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .max_cached_files(files_max)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            // Of more than one the first waits busily for the others behind each flush.
            .worker_threads(1);
        Self::build(folder, builder)
    }

    /// Opens the database without threads, to read it while another is there. It
    /// writes nothing but what it is told to, and removes orphaned files.
    pub fn open_standby(folder: &Path) -> Result<Self> {
        let builder = fjall::Database::builder(folder)
            .cache_size(STANDBY_CACHE_BYTES)
            .max_cached_files(Some(STANDBY_FILES_MAX))
            .worker_threads_unchecked(0);
        Self::build(folder, builder)
    }

    fn build(folder: &Path, builder: DatabaseBuilder<fjall::Database>) -> Result<Self> {
        let builder = builder.manual_journal_persist(true);
        unless_panic(|| {
            let database = builder.open()?;
            let moments = Arc::new(Moments::new(&database));
            Ok(Self(database, moments, Arc::new(List::of(folder))))
        })
    }

    /// Drops this handle; the function looks whether all others are gone too.
    pub fn close(self) -> Box<dyn Fn() -> bool + Send> {
        // Every handle has it.
        let handles = Arc::downgrade(&self.0.supervisor.keyspaces);
        Box::new(move || handles.strong_count() == 0)
    }

    pub fn keyspace_names(&self) -> Vec<String> {
        self.0.list_keyspace_names().iter().map(ToString::to_string).collect()
    }

    /// Opens a keyspace, or makes an empty one.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let keyspace = self.2.change(|| self.0.keyspace(name, options))?;
        Ok(Keyspace(keyspace, Arc::clone(&self.1)))
    }

    /// Deletes a keyspace, and its files with the last handle to it.
    pub fn delete_keyspace(&self, keyspace: Keyspace) -> Result<()> {
        self.2.change(|| self.0.delete_keyspace(keyspace.0))?;
        self.2.remove_obsolete_files();
        Ok(())
    }

    /// A batch that is synced as it is committed.
    pub fn batch(&self) -> WriteBatch {
        let batch = self.0.batch().durability(Some(PersistMode::SyncData));
        WriteBatch { batch, database: self.clone(), is_seen_at_once: false }
    }

    /// Numbers what comes from now on above this. At its opening a database looks for the
    /// highest number in its keyspaces, and not in the list of these, where a removal with
    /// too low a number has no effect, nor in batches of keyspaces that were removed, which
    /// others are to follow in the journal. Not while a batch is committed.
    pub fn number_above(&self, number: u64) {
        let next = number + 1;
        self.0.supervisor.seqno.fetch_max(next);
        self.0.supervisor.snapshot_tracker.set(next);
    }

    /// All batches with lower sequence numbers can be read.
    pub fn visible_number(&self) -> u64 {
        self.0.visible_seqno()
    }

    /// Fails once a thread of the database has. Writes nothing, as the journal's
    /// buffer is empty between batches.
    pub fn check(&self) -> Result<()> {
        self.0.persist(PersistMode::Buffer).map_err(Error::of_the_journal)
    }

    /// Has snapshots show what is there without a batch, as after a drop of tables. Not while
    /// a batch is committed.
    fn renew_moment(&self) {
        self.1.renew(&self.0);
    }

    /// The bytes of the block cache that are in use.
    pub fn cache_bytes(&self) -> u64 {
        self.0.cache_size()
    }

    /// Syncs the journal.
    pub fn sync(&self) -> Result<()> {
        self.0.persist(PersistMode::SyncData).map_err(Error::of_the_journal)
    }

    /// Flushes a keyspace's memtables on this thread.
    pub fn flush(&self, keyspace: &Keyspace) -> Result<()> {
        let tree = &keyspace.0.tree;
        tree.rotate_memtable();
        tree.flush(&tree.get_flush_lock(), self.gc_watermark())?;
        Ok(())
    }

    /// Takes a step of compaction, if it finds something to do. On an error the
    /// files that it has begun are removed.
    pub fn compact(&self, keyspace: &Keyspace, step: &Step) -> Result<()> {
        let tree = &keyspace.0.tree;
        let watermark = self.gc_watermark();
        let compact = |strategy| tree.compact(strategy, watermark).map(drop);
        let strategy: Arc<dyn CompactionStrategy> = match *step {
            Step::Leveled { l0_files, table_bytes, ref level_ratios } => {
                let ratios = level_ratios.clone();
                Arc::new(leveled(l0_files, table_bytes).with_level_ratio_policy(ratios))
            }
            Step::MoveToL0 { level } => {
                // A flush meanwhile would put newer files below these.
                let _lock = tree.get_flush_lock();
                if keyspace.l0().files == 0 {
                    compact(Arc::new(MoveDown(level, 0)))?;
                }
                return Ok(());
            }
            Step::Move { from, to } => Arc::new(MoveDown(from, to)),
            Step::Merge { from, to } => Arc::new(PullDown(from, to)),
            Step::Major { table_bytes } => {
                return keyspace
                    .without_orphans(|tree| tree.major_compact(table_bytes, watermark).map(drop));
            }
        };
        keyspace.without_orphans(|_tree| compact(strategy))
    }

    /// Versions of keys before this one have no readers.
    fn gc_watermark(&self) -> u64 {
        self.0.supervisor.snapshot_tracker.get_seqno_safe_to_gc()
    }
}

/// A step of compaction, which takes a tree from one version to the next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Merges or moves files into the next level, from the one that is most too
    /// large: L0 from so many files on, which all go at once; the others by their
    /// ratio to the one above, the last ratio for all below.
    Leveled { l0_files: u8, table_bytes: u64, level_ratios: Vec<f32> },
    /// Moves the files of a level, as they are, into an empty one.
    Move { from: u8, to: u8 },
    /// Moves the files of the first level that has any to L0, if that is empty.
    MoveToL0 { level: u8 },
    /// Merges all of one level into another.
    Merge { from: u8, to: u8 },
    /// Merges all files into the last level.
    Major { table_bytes: u64 },
}

fn leveled(l0_files: u8, table_bytes: u64) -> Leveled {
    Leveled::default().with_l0_threshold(l0_files).with_table_target_size(table_bytes)
}

/// Changes to keyspaces of a database, which readers see in their order.
pub struct WriteBatch {
    batch: OwnedWriteBatch,
    database: Database,
    is_seen_at_once: bool,
}

impl WriteBatch {
    pub fn insert(
        &mut self,
        keyspace: &Keyspace,
        key: impl Into<UserKey>,
        value: impl Into<UserValue>,
    ) {
        self.batch.insert(&keyspace.0, key, value);
    }

    pub fn remove(&mut self, keyspace: &Keyspace, key: impl Into<UserKey>) {
        self.batch.remove(&keyspace.0, key);
    }

    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Has [`Keyspace::untorn`] reads meet all of it or nothing.
    pub fn be_seen_at_once(&mut self) {
        self.is_seen_at_once = true;
    }

    /// Writes it to the journal, syncs that, and lets readers see it. One at a time.
    pub fn commit(self) -> Result<()> {
        let Self { batch, database: Database(database, moments, _), is_seen_at_once } = self;
        let commit = || batch.commit();
        moments.commit(&database, is_seen_at_once, commit).map_err(Error::of_the_journal)
    }
}

/// Keyspaces of a database at a moment: later batches do not show.
pub enum Snapshot {
    /// All of them. As long as it lives the database keeps all that is obsolete since.
    Tracked(fjall::Snapshot),
    /// Some of them, by their numbers. It keeps what they were, and nothing else.
    Held(Vec<(u64, HeldTree)>),
}

impl Snapshot {
    /// The same moment of some keyspaces, to be kept for long.
    pub fn hold(self, keyspaces: [&Keyspace; 2]) -> Self {
        match self {
            Self::Tracked(snapshot) => Self::Held(
                keyspaces
                    .map(|keyspace| {
                        let (id, path) = (keyspace.id(), keyspace.0.path());
                        (id, HeldTree::new(&keyspace.0.tree, path, snapshot.seqno()))
                    })
                    .into(),
            ),
            Self::Held(_) => self,
        }
    }

    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        match self {
            Self::Tracked(snapshot) => Ok(snapshot.get(&keyspace.0, key)?.map(Into::into)),
            Self::Held(trees) => tree_of(trees, keyspace).get(key.as_ref()),
        }
    }

    /// The items within some bounds, in order or from the last to the first.
    pub fn range(&self, keyspace: &Keyspace, bounds: Bounds, is_reverse: bool) -> Items {
        let both = match self {
            Self::Tracked(snapshot) => BothWays::Tracked(snapshot.range(&keyspace.0, bounds)),
            Self::Held(trees) => BothWays::Held(tree_of(trees, keyspace).range(&bounds)),
        };
        Items { both, is_reverse }
    }

    /// The memtable of a keyspace that it keeps for a long time.
    pub fn held_memtable(&self, keyspace: &Keyspace) -> Option<u64> {
        match self {
            Self::Tracked(_) => None,
            Self::Held(trees) => Some(tree_of(trees, keyspace).memtable()),
        }
    }
}

fn tree_of<'a>(trees: &'a [(u64, HeldTree)], keyspace: &Keyspace) -> &'a HeldTree {
    let mut trees = trees.iter().filter(|(id, _)| *id == keyspace.id());
    trees.next().map(|(_, tree)| tree).expect("the keyspace is one of those that are held")
}

/// Items of a keyspace, in one direction.
pub struct Items {
    both: BothWays,
    is_reverse: bool,
}

enum BothWays {
    Tracked(fjall::Iter),
    Held(HeldItems),
}

impl Iterator for Items {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        match (&mut self.both, self.is_reverse) {
            (BothWays::Tracked(items), false) => items.next().map(Item::Tracked),
            (BothWays::Tracked(items), true) => items.next_back().map(Item::Tracked),
            (BothWays::Held(items), false) => items.next().map(Item::Held),
            (BothWays::Held(items), true) => items.next_back().map(Item::Held),
        }
    }
}

/// A key with its value, neither of which was looked at.
pub enum Item {
    Tracked(fjall::Guard),
    Held(HeldItem),
}

impl Item {
    pub fn into_parts(self) -> Result<(Bytes, Bytes)> {
        let (key, value) = self.read(true)?;
        Ok((key, value.expect("it is wanted")))
    }

    /// The key, with its value where that is wanted: it may be in a file of its own.
    pub fn read(self, with_value: bool) -> Result<(Bytes, Option<Bytes>)> {
        match self {
            Self::Tracked(item) => {
                let (key, value) = item.into_inner_if(|_key| with_value)?;
                Ok((key.into(), value.map(Into::into)))
            }
            Self::Held(item) => item.read(with_value),
        }
    }
}

/// The files of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub files: usize,
    pub bytes: u64,
}

/// A handle to a keyspace: an LSM tree of a database.
#[derive(Clone)]
pub struct Keyspace(fjall::Keyspace, Arc<Moments>);

impl Keyspace {
    /// A snapshot of its database, without a batch under way. Waits for nothing.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::Tracked(self.1.snapshot())
    }

    /// Waits until snapshots show all that plain reads have met, if every batch has its
    /// first item in this keyspace: as long as a batch takes to get into the memtables,
    /// and for no disk.
    pub fn wait_for_batch(&self) {
        self.1.wait_for(self.highest_number());
    }

    /// Reads plainly from its database, unless that may have met some of a batch that is
    /// seen at once.
    pub fn untorn<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        self.1.untorn(read)
    }

    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.0.get(key)?.map(Into::into))
    }

    /// Returns true if there is a value under a key. It may be read from the disk for that,
    /// but no blob is.
    pub fn has(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.0.contains_key(key)?)
    }

    /// The value under a key in the active memtable, where the last writes are.
    pub fn get_in_memtable(&self, key: &[u8]) -> Option<Bytes> {
        let found = self.0.tree.active_memtable().get(key, u64::MAX)?;
        (!found.is_tombstone()).then(|| found.value.into())
    }

    /// The keys from one on and below another, in order.
    pub fn keys(&self, from: &[u8], until: &[u8]) -> impl Iterator<Item = Result<Bytes>> {
        self.0.range(from..until).map(|entry| Ok(entry.key()?.into()))
    }

    pub fn has_prefix(&self, prefix: &[u8]) -> bool {
        self.0.prefix(prefix).next().is_some()
    }

    /// The lengths of all values. Reads all keys.
    pub fn value_lengths(&self) -> impl Iterator<Item = Result<u32>> {
        self.0.iter().map(|entry| Ok(entry.size()?))
    }

    /// How many keys and deletions there are, about.
    pub fn approximate_len(&self) -> u64 {
        self.0.approximate_len() as u64
    }

    /// How many items its tables have, deletions among them.
    pub fn table_items(&self) -> u64 {
        let version = self.0.tree.current_version();
        version.iter_tables().map(|table| table.metadata.item_count).sum()
    }

    /// How many of them are deletions.
    pub fn table_deletions(&self) -> u64 {
        self.0.tree.tombstone_count()
    }

    /// How many items the active memtable has.
    pub fn memtable_items(&self) -> usize {
        self.0.tree.active_memtable().len()
    }

    /// Visits items of the active memtable in order, of a key the newest first, each with
    /// true if it is a deletion, until the visitor breaks off.
    pub fn visit_memtable(&self, visit: &mut dyn FnMut(&[u8], bool) -> ControlFlow<()>) {
        for item in self.0.tree.active_memtable().iter() {
            if visit(&item.key.user_key, item.is_tombstone()).is_break() {
                return;
            }
        }
    }

    /// How many batches of its database are in no table of it, about.
    pub fn unflushed_batches(&self) -> u64 {
        let flushed = self.0.tree.get_highest_persisted_seqno().unwrap_or(0);
        self.highest_number().unwrap_or(0).saturating_sub(flushed)
    }

    /// The bytes of the tables from this number on that are not in L0.
    pub fn merged_bytes(&self, from: u64) -> u64 {
        let version = self.0.tree.current_version();
        let tables = version.iter_levels().skip(1).flat_map(|level| level.iter());
        let tables = tables.flat_map(|run| run.iter()).filter(|table| table.id() >= from);
        tables.map(|table| table.metadata.file_size).sum()
    }

    /// The number of the next table.
    pub fn next_table_id(&self) -> u64 {
        self.0.tree.next_table_id()
    }

    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Its number, which names its folder.
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    pub fn memtable_bytes(&self) -> u64 {
        self.0.tree.active_memtable().size()
    }

    /// Seals the memtable unless it is empty; a thread of the database flushes it.
    pub fn seal_memtable(&self) -> Result<()> {
        if !self.0.tree.active_memtable().is_empty() {
            self.0.rotate_memtable()?;
        }
        Ok(())
    }

    /// How many memtables wait to be flushed.
    pub fn sealed_memtables(&self) -> usize {
        self.0.tree.sealed_memtable_count()
    }

    /// The sequence number of the last change.
    pub fn highest_number(&self) -> Option<u64> {
        self.0.tree.get_highest_seqno()
    }

    /// Makes the names of new blob files last, unless `synced` is the number of the
    /// tree's version, which every flush and compaction changes; it is afterwards. The
    /// database syncs the files and leaves their names to the file system, and the
    /// journal may not have their values any more.
    pub fn sync_blob_names(&self, synced: &mut u64) -> Result<()> {
        let version = self.0.tree.current_version().id();
        // Windows has no such thing, and opens no folder.
        if cfg!(unix) && version != *synced {
            let folder = File::open(self.0.path().join(BLOBS))?;
            folder.sync_all().map_err(|err| Error::uncertain("the names of files", err))?;
            *synced = version;
        }
        Ok(())
    }

    /// All levels, L0 first.
    pub fn levels(&self) -> Vec<Level> {
        let version = self.0.tree.current_version();
        let levels = version.iter_levels();
        levels.map(|level| Level { files: level.table_count(), bytes: level.size() }).collect()
    }

    /// The sorted runs of L0: a read looks into each.
    pub fn l0_runs(&self) -> usize {
        self.0.tree.l0_run_count()
    }

    /// L0 alone, without a list of all.
    pub fn l0(&self) -> Level {
        let version = self.0.tree.current_version();
        let l0 = version.level(0);
        l0.map_or_else(Level::default, |l0| Level { files: l0.table_count(), bytes: l0.size() })
    }

    /// The numbers of its tables, and of its blob files.
    pub fn file_numbers(&self) -> [HashSet<u64>; 2] {
        let version = self.0.tree.current_version();
        let tables = version.iter_tables().map(lsm_tree::Table::id).collect();
        [tables, version.blob_files.list_ids().copied().collect()]
    }

    /// The bytes of all its files, but for what a table has beside its data.
    pub fn disk_bytes(&self) -> u64 {
        self.0.disk_space()
    }

    /// Those of its tables.
    pub fn table_bytes(&self) -> u64 {
        self.disk_bytes().saturating_sub(self.blob_bytes())
    }

    /// The bytes of blobs that nothing refers to.
    pub fn stale_blob_bytes(&self) -> u64 {
        self.0.fragmented_blob_bytes()
    }

    /// Closes its files, but for the journal, until they are read again. The database
    /// keeps some open, also after they were removed with the keyspace: the disk has no
    /// use of their space until then.
    pub fn close_files(&self) {
        let tree = &self.0.tree;
        let Some(open) = &tree.tree_config().descriptor_table else { return };
        // After a panic of the database there is none.
        let Ok(version) = unless_panic(|| Ok(tree.current_version())) else { return };
        for table in version.iter_tables() {
            open.remove_for_table(&(tree.id(), table.id()).into());
        }
        for &blob_file in version.blob_files.list_ids() {
            open.remove_for_blob_file(&(tree.id(), blob_file).into());
        }
    }

    /// Removes its obsolete files; nobody reads from it any more. The database would look for
    /// them once it has removed a deleted keyspace with all its files.
    pub fn remove_obsolete_files(&self) {
        let versions = || self.0.tree.get_version_history_lock();
        if let Err(err) = unless_panic(|| Ok(versions().maintenance(self.0.path(), u64::MAX)?)) {
            log::debug!("obsolete files are left to the database: {err}");
        }
    }

    /// Makes files, and removes those that it leaves behind if it fails.
    fn without_orphans(&self, make: impl FnOnce(&AnyTree) -> lsm_tree::Result<()>) -> Result<()> {
        let new_files = NewFiles::from_now(&self.0)?;
        make(&self.0.tree).map_err(|err| {
            match new_files.remove_orphans(&self.0) {
                Ok(files) => log::debug!("{files} files of a compaction that failed are removed"),
                Err(err) => log::warn!("files stay on the disk until the next start: {err}"),
            }
            err.into()
        })
    }
}

fn options() -> KeyspaceCreateOptions {
    let blobs = KvSeparationOptions::default()
        .separation_threshold(BLOB_VALUE_BYTES_MIN)
        .file_target_size(BLOB_FILE_BYTES)
        .age_cutoff(1.0 / f32::from(BLOB_REWRITE_SHARE));
    // The database leaves files as they are, but for those that it can move: the
    // engine compacts, and decides when to flush.
    KeyspaceCreateOptions::default()
        .compaction_strategy(Arc::new(leveled(u8::MAX, 1 << 50)))
        .max_memtable_size(2 * MEMTABLE_BYTES)
        .with_kv_separation(Some(blobs))
        .manual_journal_persist(true)
}

/// For tests, past the rules of the journal.
#[cfg(test)]
impl Keyspace {
    pub fn insert(&self, key: impl Into<UserKey>, value: impl Into<UserValue>) -> Result<()> {
        Ok(self.0.insert(key, value)?)
    }

    pub fn remove(&self, key: impl Into<UserKey>) -> Result<()> {
        Ok(self.0.remove(key)?)
    }

    pub fn flush_and_wait(&self) -> Result<()> {
        Ok(self.0.rotate_memtable_and_wait()?)
    }

    /// Merges all files, and keeps every version of a key.
    pub fn major_compact(&self, table_bytes: u64) -> Result<()> {
        self.0.tree.major_compact(table_bytes, 0)?;
        Ok(())
    }

    /// Merges all files, and keeps no version of a key but the newest.
    pub fn merge(&self, table_bytes: u64) -> Result<()> {
        self.0.tree.major_compact(table_bytes, self.1.snapshot().seqno())?;
        Ok(())
    }

    /// How many versions it keeps.
    pub fn versions(&self) -> usize {
        1 + self.0.tree.version_free_list_len()
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

#[cfg(test)]
impl Database {
    /// A keyspace as the first version of the program made it.
    pub fn keyspace_of_first_version(&self, name: &str) -> Result<Keyspace> {
        let options = || {
            let blobs = KvSeparationOptions::default().separation_threshold(4096);
            KeyspaceCreateOptions::default()
                .max_memtable_size(16 << 20)
                .with_kv_separation(Some(blobs))
                .manual_journal_persist(true)
        };
        Ok(Keyspace(self.0.keyspace(name, options)?, Arc::clone(&self.1)))
    }

    pub fn active_compactions(&self) -> usize {
        self.0.active_compactions()
    }
}

#[cfg(test)]
mod tests;
