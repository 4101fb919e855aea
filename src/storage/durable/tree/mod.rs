//! The one door to fjall, and to lsm-tree below it.
//!
//! ```text
//! batch ──► journal, synced ──► memtable ──flush──► files of L0 ──compaction──► L1 ... L6
//!                               large values go to blob files, which keys refer to
//! ```
//!
//! A database has one journal, and keyspaces; each of these is an LSM tree.
//! Reads look from left to right and wait for no write. The engine above relies on
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
//! - All reads of a tree take a lock that is held while it changes its files, and syncs
//!   the list of these: see `active_memtable`.
//! - As long as a `snapshot` lives a tree keeps all versions since, with the memtables and
//!   files of each, and compaction keeps all values since. So no snapshot lives for long:
//!   see `held_tree`.
//! - The database forgets nothing of its list of keyspaces: see `list`.
//! - After a drop of tables a tree counts the stale values of blob files that are gone:
//!   see `forget_gone_blobs`.
//!
//! Both crates' hidden items are used, so Cargo.toml pins their exact versions.
//! Nothing here knows of entries, expiry or clients.

mod active_memtable;
pub mod archive;
mod blob_files;
mod bottom;
mod error;
mod held_tree;
mod keyspace;
mod list;
pub mod manifest;
mod moments;
mod orphans;
mod snapshot;
pub mod table_file;

use crate::platform::descriptors;
use active_memtable::ActiveMemtable;
pub use blob_files::{Blob, Size};
pub use bottom::{Stretch, StretchItem};
pub use error::{Error, Result, unless_panic};
use fjall::compaction::Leveled;
use fjall::{AbstractTree as _, DatabaseBuilder, KeyspaceCreateOptions, KvSeparationOptions};
use fjall::{OwnedWriteBatch, PersistMode, UserKey, UserValue};
pub use keyspace::{Files, Keyspace, Level};
pub use list::KEYSPACES;
use list::List;
use lsm_tree::compaction::{CompactionStrategy, MoveDown, PullDown};
pub use manifest::BLOBS;
use moments::Moments;
use smallvec::SmallVec;
pub use snapshot::{Items, Snapshot};
use std::path::Path;
use std::sync::Arc;

/// The block cache, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// The most files that are kept open beside the journal, and one part in so many of
/// the descriptors that the system allows.
const FILES_MAX: u64 = 64;
const FILES_SHARE: u64 = 16;

/// The database takes no fewer.
const FILES_MIN: u64 = 10;

/// The descriptors that the database needs beside those: of journals, of the files
/// that flushes and compactions read and write, of directories.
const DESCRIPTORS_BESIDE: u64 = 64;
const DESCRIPTORS_BESIDE_SHARE: u64 = 8;

/// The same of a database that only stands in for another.
const STANDBY_CACHE_BYTES: u64 = 4 << 20;
const STANDBY_FILES_MAX: usize = 8;

/// The size of the journals at which their content is flushed.
const JOURNALS_BYTES_MAX: u64 = 192 << 20;

/// The size at which both memtables of a generation are flushed.
pub const MEMTABLE_BYTES: u64 = 16 << 20;

/// The size of a file of a level: the smaller, the less space a step takes.
pub const TABLE_BYTES: u64 = 4 << 20;

/// Values from this size on go to blob files, so that compaction does not copy
/// them.
pub const BLOB_VALUE_BYTES_MIN: u32 = 4096;

/// The size of a blob file. Of the stale ones a compaction rewrites one in so
/// many: the fewer, the less space that takes meanwhile.
const BLOB_FILE_BYTES: u64 = 8 << 20;
pub const BLOB_REWRITE_SHARE: u8 = 20;

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
        Ok(self.handle(keyspace))
    }

    fn handle(&self, keyspace: fjall::Keyspace) -> Keyspace {
        let memtable = ActiveMemtable::of(&keyspace.tree);
        Keyspace(keyspace, Arc::clone(&self.1), Arc::new(memtable))
    }

    /// Deletes a keyspace, and its files with the last handle to it.
    pub fn delete_keyspace(&self, keyspace: Keyspace) -> Result<()> {
        self.2.change(|| self.0.delete_keyspace(keyspace.0))?;
        self.2.remove_obsolete_files();
        Ok(())
    }

    /// A batch that is synced as it is committed. These have to be all keyspaces that it
    /// changes, and may be others: the memtables of each are noted then, and one that is in
    /// a file by now is not kept.
    pub fn batch(&self, keyspaces: &[&Keyspace]) -> WriteBatch {
        let batch = self.0.batch().durability(Some(PersistMode::SyncData));
        let keyspaces = keyspaces.iter().copied().cloned().collect();
        WriteBatch { batch, database: self.clone(), keyspaces }
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

/// Changes to keyspaces of a database, which readers see in their order, and all of a batch
/// at one moment.
pub struct WriteBatch {
    batch: OwnedWriteBatch,
    database: Database,
    /// Those whose memtables are noted as it is committed.
    keyspaces: SmallVec<[Keyspace; 2]>,
}

impl WriteBatch {
    pub fn insert(
        &mut self,
        keyspace: &Keyspace,
        key: impl Into<UserKey>,
        value: impl Into<UserValue>,
    ) {
        debug_assert!(self.is_of(keyspace), "{} is not of the batch", keyspace.name());
        self.batch.insert(&keyspace.0, key, value);
    }

    pub fn remove(&mut self, keyspace: &Keyspace, key: impl Into<UserKey>) {
        debug_assert!(self.is_of(keyspace), "{} is not of the batch", keyspace.name());
        self.batch.remove(&keyspace.0, key);
    }

    pub fn len(&self) -> usize {
        self.batch.len()
    }

    fn is_of(&self, keyspace: &Keyspace) -> bool {
        self.keyspaces.iter().any(|it| it.id() == keyspace.id())
    }

    /// Writes it to the journal, syncs that, and lets readers see it. One at a time.
    pub fn commit(self) -> Result<()> {
        let Self { batch, database: Database(database, moments, _), keyspaces } = self;
        let commit = || {
            batch.commit()?;
            keyspaces.iter().for_each(|Keyspace(it, _, memtable)| memtable.note(&it.tree));
            Ok(())
        };
        moments.commit(&database, commit).map_err(Error::of_the_journal)
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
        Ok(self.handle(self.0.keyspace(name, options)?))
    }

    pub fn active_compactions(&self) -> usize {
        self.0.active_compactions()
    }
}

#[cfg(test)]
mod tests;
