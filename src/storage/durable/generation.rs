//! The keyspaces that hold the keys, one after the other.
//!
//! To clear is to begin a new generation: an empty keyspace that holds a mark,
//! written and synced like any key. The newest with a mark is the one in use;
//! all others are remains of a clear that was cut short, before or after it
//! took effect.

use super::directory;
use super::journal::FLOOR_KEY;
use crate::storage::KEY_BYTES_MAX;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};
use fjall::{OwnedWriteBatch as WriteBatch, PersistMode};
use std::path::Path;
use std::sync::Arc;

/// The mark of a generation that is in use. Keys are UTF-8, so this is none.
const MARK: [u8; 1] = [0xff];

/// Before and behind all other keys, but for some that are nothing but zeros.
/// A file is merged into the next level only if its keys are between the first
/// and the last one there, and these get to the last level with the first file.
const FIRST_KEY: [u8; KEY_BYTES_MAX + 1] = [0; KEY_BYTES_MAX + 1];
const LAST_KEY: [u8; 2] = [0xff, 0xff];

/// How much is gathered in memory before it is written to a file of its own.
pub(super) const MEMTABLE_BYTES: u64 = 16 << 20;

/// How large a file is made that is put in order: the smaller, the less room
/// that takes meanwhile.
pub(super) const TABLE_BYTES: u64 = 4 << 20;

/// From so many files on that are not in order they are put in order.
pub(super) const UNSORTED_FILES_MAX: u8 = 4;

/// Values from this size on are kept apart from their keys, so that putting
/// keys in order does not copy them.
pub(super) const APART_BYTES_MIN: u32 = 4096;

/// The files of those. Of the ones that hold much that was deleted, one in so
/// many is written anew in one step of putting the tree in order: the fewer,
/// the less room that takes meanwhile.
const APART_FILE_BYTES: u64 = 8 << 20;
pub(super) const APART_STEP_SHARE: u8 = 20;

/// Where the database keeps its keyspaces.
const KEYSPACES: &str = "keyspaces";

/// A keyspace that is in use, and its number.
pub(super) struct Generation {
    number: u64,
    keyspace: Keyspace,
}

impl Generation {
    /// Begins the generation `number`, empty. Once this returns, it lasts.
    pub(super) fn begin(database: &Database, data: &Path, number: u64) -> fjall::Result<Self> {
        let keyspace = database.keyspace(&number.to_string(), options)?;
        directory::sync(&data.join(KEYSPACES))?;
        let generation = Self { number, keyspace };
        generation.span(database)?;
        generation.mark(database)?;
        Ok(generation)
    }

    /// Marks it as in use.
    fn mark(&self, database: &Database) -> fjall::Result<()> {
        let mut batch = self.batch(database, PersistMode::SyncAll);
        batch.insert(&self.keyspace, MARK, []);
        batch.commit()
    }

    /// Has the memtable, and so the file that it becomes, begin before all keys
    /// and end behind them. Nothing is synced.
    pub(super) fn span(&self, database: &Database) -> fjall::Result<()> {
        let mut batch = self.batch(database, PersistMode::Buffer);
        batch.insert(&self.keyspace, FIRST_KEY, []);
        batch.insert(&self.keyspace, LAST_KEY, []);
        batch.commit()
    }

    /// The one in use; there is none only where data is missing. Removes what
    /// is left of others.
    pub(super) fn newest(database: &Database) -> fjall::Result<Option<Self>> {
        let names = database.list_keyspace_names();
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let (mut newest, mut others) = (None, Vec::new());
        while let Some(number) = numbers.pop() {
            let keyspace = database.keyspace(&number.to_string(), options)?;
            if newest.is_none() && keyspace.contains_key(MARK)? {
                newest = Some(Self { number, keyspace });
            } else {
                others.push(keyspace);
            }
        }
        if newest.is_some() {
            others.into_iter().try_for_each(|keyspace| database.delete_keyspace(keyspace))?;
        }
        Ok(newest)
    }

    /// A batch of changes to it. Every batch is made here: it says what its
    /// number in the journal cannot be below, where nothing else checks that.
    pub(super) fn batch(&self, database: &Database, durability: PersistMode) -> WriteBatch {
        let mut batch = database.batch().durability(Some(durability));
        batch.insert(&self.keyspace, FLOOR_KEY, database.visible_seqno().to_le_bytes());
        batch
    }

    /// Begins the one after this.
    pub(super) fn next(&self, database: &Database, data: &Path) -> fjall::Result<Self> {
        Self::begin(database, data, self.number + 1)
    }

    /// Removes it and its files.
    pub(super) fn remove(self, database: &Database) -> fjall::Result<()> {
        database.delete_keyspace(self.keyspace)
    }

    pub(super) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }
}

fn options() -> KeyspaceCreateOptions {
    let apart = KvSeparationOptions::default()
        .separation_threshold(APART_BYTES_MIN)
        .file_target_size(APART_FILE_BYTES)
        .age_cutoff(1.0 / f32::from(APART_STEP_SHARE));
    // The database is to leave its files as they are, but for those that need
    // not be written anew: merging them is the tidying's.
    let as_they_are = Leveled::default().with_l0_threshold(u8::MAX).with_table_target_size(1 << 50);
    KeyspaceCreateOptions::default()
        .compaction_strategy(Arc::new(as_they_are))
        .max_memtable_size(MEMTABLE_BYTES)
        .with_kv_separation(Some(apart))
        .manual_journal_persist(true)
}
