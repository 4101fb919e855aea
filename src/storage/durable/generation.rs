//! The keyspaces that hold the keys and what is stored under them, one pair
//! after the other.
//!
//! ```text
//! 7             the keys, with their records
//! 7.expiring    records of what expires, in order of time
//! ```
//!
//! To clear is to begin a new generation: a pair of empty keyspaces, the first
//! of which holds a mark, written and synced like any key. The newest with a
//! mark is the one in use; all others are remains of a clear that was cut
//! short, before or after it took effect.

use super::directory;
use super::journal::{FLOOR_KEY, Stamp};
use super::reopen;
use crate::storage::KEY_BYTES_MAX;
use fjall::compaction::Leveled;
use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};
use fjall::{OwnedWriteBatch as WriteBatch, PersistMode};
use std::path::Path;
use std::sync::Arc;

/// What the name of a generation's second keyspace ends with.
const EXPIRING: &str = ".expiring";

/// The mark of a generation that is in use. Keys are UTF-8, so this is none.
const MARK: [u8; 1] = [0xff];

/// Before and behind all other keys, but for some that are nothing but zeros.
/// A file is merged into the next level only if its keys are between the first
/// and the last one there, and these get to the last level with the first file.
const FIRST_KEY: [u8; KEY_BYTES_MAX + 1] = [0; KEY_BYTES_MAX + 1];
const LAST_KEY: [u8; 2] = [0xff, 0xff];

/// How much is gathered in memory, of both keyspaces, before it is written to
/// files of its own.
pub const MEMTABLE_BYTES: u64 = 16 << 20;

/// How large a file is made that is put in order: the smaller, the less space
/// that takes meanwhile.
pub const TABLE_BYTES: u64 = 4 << 20;

/// From so many files on that are not in order they are put in order.
pub const L0_FILES_TO_COMPACT: u8 = 4;

/// Values from this size on are kept apart from their keys, so that putting
/// keys in order does not copy them.
pub const BLOB_VALUE_BYTES_MIN: u32 = 4096;

/// The files of those. Of the ones that hold much that was deleted, one in so
/// many is written anew in one step of putting the tree in order: the fewer,
/// the less space that takes meanwhile.
const BLOB_FILE_BYTES: u64 = 8 << 20;
pub const BLOB_STEP_SHARE: u8 = 20;

/// Where the database keeps its keyspaces, and each its values apart.
const KEYSPACES: &str = "keyspaces";
const BLOBS: &str = "blobs";

/// One for each keyspace of a generation.
#[derive(Default)]
pub struct Both<T> {
    pub keys: T,
    pub expiring: T,
}

impl<T> Both<T> {
    pub fn each(&self) -> [&T; 2] {
        [&self.keys, &self.expiring]
    }

    pub fn each_mut(&mut self) -> [&mut T; 2] {
        [&mut self.keys, &mut self.expiring]
    }
}

/// The two keyspaces of a generation.
pub type Keyspaces = Both<Keyspace>;

/// The keyspaces that are in use, and their number.
pub struct Generation {
    number: u64,
    /// What its batches have in the journal.
    stamp: Stamp,
    keyspaces: Arc<Keyspaces>,
    /// The versions of the trees whose files have names that last.
    synced: [u64; 2],
}

impl Generation {
    /// Begins the generation `number`, empty. Once this returns, it lasts.
    pub fn begin(
        database: &Database,
        data: &Path,
        stamp: Stamp,
        number: u64,
    ) -> fjall::Result<Self> {
        let keys = database.keyspace(&number.to_string(), options)?;
        let generation = Self::of(database, data, stamp, number, keys)?;
        for keyspace in generation.keyspaces.each() {
            generation.widen_bounds(database, keyspace)?;
        }
        generation.mark(database)?;
        Ok(generation)
    }

    /// The generation of these keys. Makes its second keyspace if there is
    /// none, as in a directory of before there were any.
    fn of(
        database: &Database,
        data: &Path,
        stamp: Stamp,
        number: u64,
        keys: Keyspace,
    ) -> fjall::Result<Self> {
        let expiring = database.keyspace(&format!("{number}{EXPIRING}"), options)?;
        directory::sync(&data.join(KEYSPACES))?;
        let keyspaces = Arc::new(Keyspaces { keys, expiring });
        Ok(Self { number, stamp, keyspaces, synced: [0; 2] })
    }

    /// Marks it as in use.
    fn mark(&self, database: &Database) -> fjall::Result<()> {
        let mut batch = self.batch(database);
        batch.insert(self.keys(), MARK, []);
        reopen::commit(batch)
    }

    /// Has the memtable of a keyspace, and so the file that it becomes, begin
    /// before all keys and end behind them.
    pub fn widen_bounds(&self, database: &Database, keyspace: &Keyspace) -> fjall::Result<()> {
        let mut batch = self.batch(database);
        batch.insert(keyspace, FIRST_KEY, []);
        batch.insert(keyspace, LAST_KEY, []);
        reopen::commit(batch)
    }

    /// The one in use; there is none only where data is missing.
    pub fn newest(database: &Database, data: &Path, stamp: Stamp) -> fjall::Result<Option<Self>> {
        let names = database.list_keyspace_names();
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        while let Some(number) = numbers.pop() {
            let keys = database.keyspace(&number.to_string(), options)?;
            // Only what was in use has tables, so one that cannot be read is that.
            if keys.contains_key(MARK).unwrap_or(true) {
                return Self::of(database, data, stamp, number, keys).map(Some);
            }
        }
        Ok(None)
    }

    /// Removes what is left of others, once nothing names them any more.
    pub fn remove_others(&self, database: &Database) -> fjall::Result<()> {
        let in_use = self.keyspaces.each().map(Keyspace::name);
        for name in database.list_keyspace_names().iter().filter(|name| !in_use.contains(name)) {
            database.delete_keyspace(database.keyspace(name, options)?)?;
        }
        Ok(())
    }

    /// A batch of changes to it. Every batch is made here: it says what its
    /// number in the journal cannot be below, where nothing else checks that,
    /// and is synced before the next is begun. If power is lost, any part of
    /// what was not synced may be missing, and a batch that is broken before a
    /// whole one cannot be told from damage.
    pub fn batch(&self, database: &Database) -> WriteBatch {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(self.keys(), FLOOR_KEY, self.stamp.floor(database.visible_seqno()));
        batch
    }

    /// Begins the one after this.
    pub fn next(&self, database: &Database, data: &Path) -> fjall::Result<Self> {
        Self::begin(database, data, self.stamp, self.number + 1)
    }

    /// Removes it and its files.
    pub fn remove(self, database: &Database) -> fjall::Result<()> {
        self.keyspaces.each().into_iter().try_for_each(|it| database.delete_keyspace(it.clone()))
    }

    /// Whether so much is gathered in memory that it is to be written to files.
    pub fn is_full(&self) -> bool {
        self.memtable_bytes() >= MEMTABLE_BYTES
    }

    /// Writes what is in memory to files. Both keyspaces turn to another
    /// memtable, for the journal is needed as long as one of them has something
    /// of it in memory alone. Blocks for nothing.
    pub fn flush(&self) -> fjall::Result<()> {
        for keyspace in self.keyspaces.each() {
            if !keyspace.tree.active_memtable().is_empty() {
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }

    /// Makes the names of new files of values last: the database syncs the files
    /// and leaves that to the file system, which need not do it.
    pub fn sync_blobs(&mut self) -> fjall::Result<()> {
        for (keyspace, synced) in self.keyspaces.each().into_iter().zip(&mut self.synced) {
            let version = keyspace.tree.current_version().id();
            if version != *synced {
                reopen::sync(&keyspace.path().join(BLOBS))?;
                *synced = version;
            }
        }
        Ok(())
    }

    /// What is gathered in memory.
    fn memtable_bytes(&self) -> u64 {
        memtable_bytes(&self.keyspaces)
    }

    /// What is in memory and not in a file yet.
    pub fn unwritten_bytes(&self) -> u64 {
        unwritten_bytes(&self.keyspaces)
    }

    /// How many full memtables wait to be written, of the keyspace that has
    /// more of them.
    pub fn sealed_memtables(&self) -> usize {
        sealed_memtables(&self.keyspaces)
    }

    pub fn keyspaces(&self) -> &Arc<Keyspaces> {
        &self.keyspaces
    }

    /// The numbers of its keyspaces in the database.
    pub fn ids(&self) -> [u64; 2] {
        let Keyspaces { keys, expiring } = &*self.keyspaces;
        [keys.id(), expiring.id()]
    }

    /// Where the keys are.
    pub fn keys(&self) -> &Keyspace {
        &self.keyspaces.keys
    }

    /// Where records of what expires are.
    pub fn expiring(&self) -> &Keyspace {
        &self.keyspaces.expiring
    }
}

/// What both keyspaces have in memory and not in a file yet.
pub fn unwritten_bytes(keyspaces: &Keyspaces) -> u64 {
    memtable_bytes(keyspaces) + sealed_memtables(keyspaces) as u64 * MEMTABLE_BYTES
}

fn memtable_bytes(keyspaces: &Keyspaces) -> u64 {
    keyspaces.each().map(|it| it.tree.active_memtable().size()).iter().sum()
}

fn sealed_memtables(keyspaces: &Keyspaces) -> usize {
    let waiting = keyspaces.each().map(|it| it.tree.sealed_memtable_count());
    waiting.into_iter().max().unwrap_or(0)
}

fn options() -> KeyspaceCreateOptions {
    let apart = KvSeparationOptions::default()
        .separation_threshold(BLOB_VALUE_BYTES_MIN)
        .file_target_size(BLOB_FILE_BYTES)
        .age_cutoff(1.0 / f32::from(BLOB_STEP_SHARE));
    // The database is to leave its files as they are, but for those that need
    // not be written anew: merging them is the compaction's. It is told when to
    // write memtables.
    let as_they_are = Leveled::default().with_l0_threshold(u8::MAX).with_table_target_size(1 << 50);
    KeyspaceCreateOptions::default()
        .compaction_strategy(Arc::new(as_they_are))
        .max_memtable_size(2 * MEMTABLE_BYTES)
        .with_kv_separation(Some(apart))
        .manual_journal_persist(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::durable::open_database;

    #[test]
    fn what_is_left_of_other_generations_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let open = || open_database(&data).unwrap_or_else(|err| panic!("{err}"));
        let database = open();
        let begin = |number| Generation::begin(&database, &data, Stamp::new(), number);
        for number in 0..2 {
            let generation = begin(number).expect("it begins");
            generation.keys().insert("key", number.to_string()).expect("it is written");
        }
        // One that was cut short before its mark, and one half removed.
        for name in ["2", "2.expiring", "7.expiring"] {
            database.keyspace(name, options).expect("it is made");
        }
        database.persist(PersistMode::SyncAll).expect("it is synced");
        drop(database);

        let database = open();
        let newest = Generation::newest(&database, &data, Stamp::new());
        let newest = newest.expect("it opens").expect("it is there");
        newest.remove_others(&database).expect("they are removed");
        let held = newest.keys().get("key").expect("it can be read");
        assert_eq!((newest.number, held.as_deref()), (1, Some(&b"1"[..])));
        let mut names = database.list_keyspace_names();
        names.sort();
        assert_eq!(names, ["1", "1.expiring"].map(Into::into));
    }
}
