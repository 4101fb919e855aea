//! A generation: the pair of keyspaces that holds all keys, until they are cleared.
//!
//! ```text
//! 7             the keys, with their records
//! 7.expiring    large records that expire, in order of time
//! ```
//!
//! Clearing begins a new generation: a pair of empty keyspaces, the first of
//! which holds a mark, written and synced like any key. The newest with a mark is
//! the one in use; all others are remains of a clear that was cut short, before or
//! after it took effect.

use super::directory;
use super::entry_cache::EntryCache;
use super::journal::{FLOOR_KEY, Stamp};
use super::revision::{self, REVISION_KEY};
use super::tree::{Database, KEYSPACES, Keyspace, MEMTABLE_BYTES, Result, WriteBatch};
use crate::storage::{KEY_BYTES_MAX, Revision};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The end of the name of a generation's second keyspace.
const EXPIRING: &str = ".expiring";

/// The mark of a generation that is in use. Keys are UTF-8, so this is none.
pub const MARK: [u8; 1] = [0xff];

/// Before and behind all other keys, but for some that are nothing but zeros.
/// Compaction merges a file into the next level only if its bounds overlap files
/// there, and these keys get to the last level with the first file.
const FIRST_KEY: [u8; KEY_BYTES_MAX + 1] = [0; KEY_BYTES_MAX + 1];
const LAST_KEY: [u8; 2] = [0xff, 0xff];

/// All keys of entries are below this, and most of the engine's own are not.
pub const KEYS_END: [u8; 1] = [0xff];

/// One of the keyspaces of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    Keys,
    Expiring,
}

/// One for each keyspace of a generation.
#[derive(Default)]
pub struct Both<T> {
    pub keys: T,
    pub expiring: T,
}

impl<T> Both<T> {
    pub fn of(&mut self, tree: Tree) -> &mut T {
        match tree {
            Tree::Keys => &mut self.keys,
            Tree::Expiring => &mut self.expiring,
        }
    }

    pub fn each(&self) -> [&T; 2] {
        [&self.keys, &self.expiring]
    }

    pub fn each_mut(&mut self) -> [&mut T; 2] {
        [&mut self.keys, &mut self.expiring]
    }
}

/// The two keyspaces of a generation.
pub struct Keyspaces {
    /// The keys, with their records.
    pub keys: Keyspace,
    /// Large records that expire.
    pub expiring: Keyspace,
    /// Entries of both that were read lately.
    pub cache: EntryCache,
    has_index: AtomicBool,
    /// The most bytes of memtables that may wait to be flushed.
    most_memtable_bytes: AtomicU64,
}

impl Keyspaces {
    fn new(keys: Keyspace, expiring: Keyspace) -> Self {
        let (has_index, most_memtable_bytes) = (AtomicBool::new(true), AtomicU64::new(0));
        let cache = EntryCache::default();
        Self { keys, expiring, cache, has_index, most_memtable_bytes }
    }

    pub fn each(&self) -> [&Keyspace; 2] {
        [&self.keys, &self.expiring]
    }

    pub fn of(&self, tree: Tree) -> &Keyspace {
        match tree {
            Tree::Keys => &self.keys,
            Tree::Expiring => &self.expiring,
        }
    }

    /// False while the index of what expires has always been empty, as far as is known.
    pub fn has_index(&self) -> bool {
        self.has_index.load(Ordering::Acquire)
    }

    /// Notes that, or the opposite before the first entry can be read.
    pub fn note_index(&self, has_index: bool) {
        self.has_index.store(has_index, Ordering::Release);
    }

    /// The bytes that are in memory and in no file but the journal.
    pub fn unflushed_bytes(&self) -> u64 {
        self.memtable_bytes() + self.sealed_memtables() as u64 * MEMTABLE_BYTES
    }

    /// The same where a memtable has at least so many bytes, and may have more.
    pub fn unflushed_bytes_of(&self, memtable_bytes: u64) -> u64 {
        let most = self.most_memtable_bytes.load(Ordering::Relaxed).max(memtable_bytes);
        self.memtable_bytes() + self.sealed_memtables() as u64 * most
    }

    /// Notes the bytes of the memtables after a write.
    pub fn note_memtable_bytes(&self) {
        self.most_memtable_bytes.fetch_max(self.memtable_bytes(), Ordering::Relaxed);
    }

    /// Forgets those of memtables that are flushed.
    fn forget_memtable_bytes(&self) {
        if self.sealed_memtables() == 0 {
            self.most_memtable_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// The bytes of the files of both.
    pub fn disk_bytes(&self) -> u64 {
        self.each().map(Keyspace::disk_bytes).iter().sum()
    }

    /// The bytes of the memtables that are written to.
    pub fn memtable_bytes(&self) -> u64 {
        self.each().map(Keyspace::memtable_bytes).iter().sum()
    }

    /// The sealed memtables of the keyspace that has more of them.
    pub fn sealed_memtables(&self) -> usize {
        self.each().map(Keyspace::sealed_memtables).into_iter().max().unwrap_or(0)
    }

    /// The L0 runs of the keyspace that has more of them.
    pub fn l0_runs(&self) -> usize {
        self.each().map(Keyspace::l0_runs).into_iter().max().unwrap_or(0)
    }
}

impl Drop for Keyspaces {
    /// Nobody reads from them any more.
    fn drop(&mut self) {
        for keyspace in self.each() {
            keyspace.remove_obsolete_files();
            keyspace.close_files();
        }
    }
}

/// A numbered pair of keyspaces.
pub struct Generation {
    number: u64,
    /// In all its batches in the journal.
    stamp: Stamp,
    pub keyspaces: Arc<Keyspaces>,
    /// The versions of the trees whose blob files have names that last.
    synced: [u64; 2],
}

impl Generation {
    /// Begins the generation `number`, empty, at a position in the history. Once this
    /// returns, it lasts.
    pub fn begin(
        database: &Database,
        data: &Path,
        stamp: Stamp,
        number: u64,
        revision: Revision,
    ) -> Result<Self> {
        let keys = database.keyspace(&number.to_string())?;
        let generation = Self::of(database, data, stamp, number, keys)?;
        for keyspace in generation.keyspaces.each() {
            generation.widen_bounds(database, keyspace, revision)?;
        }
        let mut batch = generation.batch(database, revision);
        batch.insert(generation.keys(), MARK, []);
        batch.commit()?;
        Ok(generation)
    }

    /// The generation of these keys. Makes its second keyspace if there is none,
    /// as in a directory of the first version.
    fn of(
        database: &Database,
        data: &Path,
        stamp: Stamp,
        number: u64,
        keys: Keyspace,
    ) -> Result<Self> {
        let expiring = database.keyspace(&format!("{number}{EXPIRING}"))?;
        directory::sync(&data.join(KEYSPACES))?;
        let keyspaces = Arc::new(Keyspaces::new(keys, expiring));
        Ok(Self { number, stamp, keyspaces, synced: [0; 2] })
    }

    /// Has the memtable of a keyspace, and so the file that it becomes, begin
    /// before all keys and end behind them.
    pub fn widen_bounds(
        &self,
        database: &Database,
        keyspace: &Keyspace,
        revision: Revision,
    ) -> Result<()> {
        let mut batch = self.batch(database, revision);
        batch.insert(keyspace, FIRST_KEY, []);
        batch.insert(keyspace, LAST_KEY, []);
        batch.commit()
    }

    /// The generation in use; there is none only where data is missing.
    pub fn newest(database: &Database, data: &Path, stamp: Stamp) -> Result<Option<Self>> {
        let names = database.keyspace_names();
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        while let Some(number) = numbers.pop() {
            let keys = database.keyspace(&number.to_string())?;
            // One that cannot be read has tables, and so was in use.
            if keys.get(MARK).map_or(true, |mark| mark.is_some()) {
                return Self::of(database, data, stamp, number, keys).map(Some);
            }
        }
        Ok(None)
    }

    /// Removes the remains of others, once nothing names them any more.
    pub fn remove_others(&self, database: &Database) -> Result<()> {
        let in_use = self.keyspaces.each().map(Keyspace::name);
        for name in database.keyspace_names() {
            if !in_use.contains(&&*name) {
                database.delete_keyspace(database.keyspace(&name)?)?;
            }
        }
        Ok(())
    }

    /// A batch of changes to it, with the position in the history behind them. Every
    /// batch is made here: it has a floor for its number in the journal, which nothing
    /// else checks, and is synced before the next is begun. A power loss takes any part
    /// of the bytes that were not synced, and a broken batch before a whole one cannot be
    /// told from damage.
    pub fn batch(&self, database: &Database, revision: Revision) -> WriteBatch {
        let floor = database.visible_number();
        let mut batch = database.batch(&self.keyspaces.each());
        batch.insert(self.keys(), FLOOR_KEY, self.stamp.floor(floor));
        batch.insert(self.keys(), REVISION_KEY, revision::value(revision, floor));
        batch
    }

    /// Begins the one after this, at a position in the history.
    pub fn next(&self, database: &Database, data: &Path, revision: Revision) -> Result<Self> {
        Self::begin(database, data, self.stamp, self.number + 1, revision)
    }

    /// Removes it and its files.
    pub fn remove(self, database: &Database) -> Result<()> {
        self.keyspaces.each().into_iter().try_for_each(|it| database.delete_keyspace(it.clone()))
    }

    /// Whether the memtables are due for a flush at this size.
    pub fn is_full(&self, memtable_bytes: u64) -> bool {
        self.keyspaces.memtable_bytes() >= memtable_bytes
    }

    /// Seals both memtables, to be flushed: the journal is needed as long as one
    /// of them has something of it. Blocks for nothing.
    pub fn flush(&self) -> Result<()> {
        self.keyspaces.forget_memtable_bytes();
        self.keyspaces.each().into_iter().try_for_each(Keyspace::seal_memtable)
    }

    /// Makes the names of new blob files last.
    pub fn sync_blob_names(&mut self) -> Result<()> {
        let mut trees = self.keyspaces.each().into_iter().zip(&mut self.synced);
        trees.try_for_each(|(keyspace, synced)| keyspace.sync_blob_names(synced))
    }

    /// The numbers of its keyspaces in the database.
    pub fn ids(&self) -> [u64; 2] {
        self.keyspaces.each().map(Keyspace::id)
    }

    /// The keyspace of the keys.
    pub fn keys(&self) -> &Keyspace {
        &self.keyspaces.keys
    }

    /// The keyspace of large records that expire.
    pub fn expiring(&self) -> &Keyspace {
        &self.keyspaces.expiring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_other_generations_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let open = || Database::open(&data).unwrap_or_else(|err| panic!("{err}"));
        let database = open();
        let revision = Revision { birth: 1, place: 1 };
        let begin = |number| Generation::begin(&database, &data, Stamp::new(), number, revision);
        for number in 0..2 {
            let generation = begin(number).expect("it begins");
            generation.keys().insert("key", number.to_string()).expect("it is written");
        }
        // One that was cut short before its mark, and one half removed.
        for name in ["2", "2.expiring", "7.expiring"] {
            database.keyspace(name).expect("it is made");
        }
        database.sync().expect("it is synced");
        drop(database);

        let database = open();
        let newest = Generation::newest(&database, &data, Stamp::new());
        let newest = newest.expect("it opens").expect("it is there");
        newest.remove_others(&database).expect("they are removed");
        let held = newest.keys().get("key").expect("it can be read");
        assert_eq!((newest.number, held.as_deref()), (1, Some(&b"1"[..])));
        let mut names = database.keyspace_names();
        names.sort();
        assert_eq!(names, ["1", "1.expiring"]);
    }
}
