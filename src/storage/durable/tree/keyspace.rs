//! A keyspace: plain reads of it, and the state of its tree.

use super::active_memtable::ActiveMemtable;
use super::bottom::{first, last};
use super::moments::Moments;
use super::orphans::NewFiles;
use super::{BLOBS, Error, Result, Snapshot, unless_panic};
use bytes::Bytes;
use fjall::{AbstractTree as _, AnyTree};
#[cfg(test)]
use fjall::{UserKey, UserValue};
use lsm_tree::Table;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::iter;
use std::ops::ControlFlow;
#[cfg(test)]
use std::path::Path;
use std::sync::Arc;

/// The most items of a file that is made to release others: its bounds, and what is in each
/// batch.
const RELEASE_ITEMS: u64 = 4;

/// The files of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub files: usize,
    pub bytes: u64,
}

/// The files of one version of a tree.
pub struct Files {
    /// The bytes of each table by its number, but for what it has beside its data.
    pub tables: HashMap<u64, u64>,
    /// The numbers of its blob files.
    pub blobs: HashSet<u64>,
    /// The bytes of all blobs.
    pub blob_bytes: u64,
}

/// A handle to a keyspace: an LSM tree of a database.
#[derive(Clone)]
pub struct Keyspace(
    pub(super) fjall::Keyspace,
    pub(super) Arc<Moments>,
    pub(super) Arc<ActiveMemtable>,
);

impl Keyspace {
    /// A snapshot of its database, without a batch under way. Waits for nothing.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::Tracked(self.1.snapshot())
    }

    /// The value under a key that a snapshot of now would show, if it is where the last
    /// writes are. Waits for nothing.
    pub fn get_in_memtable(&self, key: &[u8]) -> Option<Bytes> {
        // The number first: the memtable that is found then has the batches up to it.
        let number = self.1.number();
        self.2.get(key, number)
    }

    /// The value under a key, with all that is written: for the one who writes. May wait
    /// for the disk.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.0.get(key)?.map(Into::into))
    }

    /// Returns true if there is a value under a key. It may be read from the disk for that,
    /// but no blob is.
    pub fn has(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.0.contains_key(key)?)
    }

    /// The bytes of the value under a key. No blob is read for that.
    pub fn value_bytes(&self, key: impl AsRef<[u8]>) -> Result<Option<u32>> {
        Ok(self.0.size_of(key)?)
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

    /// The number of keys and deletions, about.
    pub fn approximate_len(&self) -> u64 {
        self.0.approximate_len() as u64
    }

    /// The number of items in its tables, deletions among them.
    pub fn table_items(&self) -> u64 {
        let version = self.0.tree.current_version();
        version.iter_tables().map(|table| table.metadata.item_count).sum()
    }

    /// The number of those that are not in L0.
    pub fn items_below_l0(&self) -> u64 {
        let version = self.0.tree.current_version();
        let tables = version.iter_levels().skip(1).flat_map(|level| level.iter());
        tables.flat_map(|run| run.iter()).map(|table| table.metadata.item_count).sum()
    }

    /// The number of deletions in its tables.
    pub fn table_deletions(&self) -> u64 {
        self.0.tree.tombstone_count()
    }

    /// The number of items in the active memtable.
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

    /// The number of batches of its database that are in no table of it, about.
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

    /// Frees memtables that are flushed.
    pub fn free_memtables(&self) {
        self.2.free_unused();
    }

    /// Seals the memtable unless it is empty; a thread of the database flushes it.
    pub fn seal_memtable(&self) -> Result<()> {
        if !self.0.tree.active_memtable().is_empty() {
            self.0.rotate_memtable()?;
        }
        Ok(())
    }

    /// The number of memtables that wait to be flushed.
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

    /// Returns true if next to nothing is above the last level: no deletions, no blobs, and of
    /// each file no more items than one has that is made to release others.
    pub fn is_merged(&self) -> bool {
        let version = self.0.tree.current_version();
        let last_level = version.level_count().saturating_sub(1);
        let above = version.iter_levels().take(last_level).flat_map(|level| level.iter());
        above.flat_map(|run| run.iter()).all(|table| {
            table.metadata.item_count <= RELEASE_ITEMS
                && table.metadata.tombstone_count == 0
                && table.referenced_blob_bytes().is_ok_and(|bytes| bytes == 0)
        })
    }

    /// The bytes of the smallest merge of files of each level but L0 into the next one, as a
    /// leveled step picks it: files of the next level, and all those above that have no keys
    /// beside theirs. None where one can be moved; `None` where there is neither.
    pub fn least_merges_bytes(&self) -> Vec<Option<u64>> {
        let version = self.0.tree.current_version();
        let mut levels = version
            .iter_levels()
            .skip(1)
            .map(|level| -> Vec<&Table> { level.iter().flat_map(|run| run.iter()).collect() });
        let mut above = levels.next().unwrap_or_default();
        let below_l0 = levels.map(|below| {
            let least = least_merge_bytes(&above, &below);
            above = below;
            least
        });
        iter::once(None).chain(below_l0).collect()
    }

    /// The bytes of its largest table.
    pub fn largest_table_bytes(&self) -> u64 {
        let version = self.0.tree.current_version();
        version.iter_tables().map(|table| table.metadata.file_size).max().unwrap_or(0)
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

    /// The files of its present version.
    pub fn files(&self) -> Files {
        let version = self.0.tree.current_version();
        let tables = version.iter_tables().map(|it| (it.id(), it.metadata.file_size)).collect();
        let blobs = version.blob_files.list_ids().copied().collect();
        Files { tables, blobs, blob_bytes: version.blob_files.on_disk_size() }
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
    pub fn without_orphans(
        &self,
        make: impl FnOnce(&AnyTree) -> lsm_tree::Result<()>,
    ) -> Result<()> {
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

/// For tests, past the rules of the journal.
/// The bytes of the smallest merge of tables of a level into the next one.
fn least_merge_bytes(above: &[&Table], below: &[&Table]) -> Option<u64> {
    let bytes = |tables: &[&Table]| tables.iter().map(|it| it.metadata.file_size).sum::<u64>();
    let merges = above.iter().filter_map(|table| {
        let overlaps_from = below.partition_point(|it| last(it) < first(table));
        if below.get(overlaps_from).is_none_or(|it| first(it) > last(table)) {
            return Some(0);
        }
        let from = below.partition_point(|it| first(it) <= first(table)).checked_sub(1)?;
        let until = below.partition_point(|it| last(it) < last(table));
        let window = below.get(from..=until)?;
        let [lower, upper] = [first(window.first()?), last(window.last()?)];
        let from = above.partition_point(|it| first(it) < lower);
        let until = above.partition_point(|it| last(it) <= upper);
        Some(bytes(window) + bytes(above.get(from..until)?))
    });
    merges.min()
}

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

    /// The number of versions that it keeps.
    pub fn versions(&self) -> usize {
        1 + self.0.tree.version_free_list_len()
    }

    /// The number of memtables that are held beside those of the tree.
    pub fn memtables_held(&self) -> usize {
        self.2.held()
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
