//! A look at the trees and the disk, for the metrics.
//!
//! It asks the trees, whose locks may be held as long as a disk hangs, and the disk. So it
//! is the committer's, which waits for them anyway, and all others are shown a copy: see
//! `figures`.

use super::generation::Keyspaces;
use super::key_count;
use super::tree::{Database, Keyspace, Level};
use std::sync::Arc;

/// The levels of a tree.
const LEVELS: usize = 7;

/// The state of the store at the last look.
#[derive(Clone, Default)]
pub struct Seen {
    pub trees: Trees,
    /// The bytes that the journals take on the disk.
    pub journal_bytes: u64,
    /// The free bytes of the disk, and those that are to stay free, if the system tells.
    pub disk: Option<[u64; 2]>,
    pub held_moments: usize,
    /// The bytes that the directory takes and the most that it may, if it has a limit.
    pub limited: Option<[u64; 2]>,
}

/// Both trees of a generation, as one.
#[derive(Clone, Default)]
pub struct Trees {
    /// The number of keys, about if there are many.
    pub keys: u64,
    /// The keys were counted with all batches below this number, or not at all.
    counted_below: Option<u64>,
    /// The bytes of all files.
    pub disk_bytes: u64,
    pub stale_blob_bytes: u64,
    /// L0 first.
    pub levels: [Level; LEVELS],
    pub l0_runs: usize,
    pub memtable_bytes: u64,
    pub sealed_memtables: usize,
    pub cache_bytes: u64,
    pub entry_cache_bytes: u64,
}

impl Trees {
    /// The trees of a database, which have not failed, after an earlier look.
    pub fn look(database: &Database, keyspaces: &Arc<Keyspaces>, before: &Self) -> Self {
        let (keys, counted_below) = look_at_keys(database, keyspaces, before);
        let trees = keyspaces.each();
        let mut levels = <[Level; LEVELS]>::default();
        for keyspace in trees {
            for (sum, level) in levels.iter_mut().zip(keyspace.levels()) {
                sum.files += level.files;
                sum.bytes += level.bytes;
            }
        }
        Self {
            keys,
            counted_below,
            disk_bytes: trees.map(Keyspace::disk_bytes).iter().sum(),
            stale_blob_bytes: trees.map(Keyspace::stale_blob_bytes).iter().sum(),
            levels,
            l0_runs: keyspaces.l0_runs(),
            memtable_bytes: keyspaces.memtable_bytes(),
            sealed_memtables: keyspaces.sealed_memtables(),
            cache_bytes: database.cache_bytes(),
            entry_cache_bytes: keyspaces.cache.bytes(),
        }
    }
}

/// The number of keys, and the number of the batch below which all are counted.
fn look_at_keys(
    database: &Database,
    keyspaces: &Arc<Keyspaces>,
    before: &Trees,
) -> (u64, Option<u64>) {
    let below = database.visible_number();
    if before.counted_below == Some(below) {
        return (before.keys, before.counted_below);
    }
    // One that cannot be read is estimated.
    let counted = key_count::is_exact(keyspaces).then(|| key_count::count(keyspaces).ok());
    match counted.flatten() {
        Some(keys) => (keys, Some(below)),
        None => (key_count::estimate(&keyspaces.keys).unwrap_or(before.keys), None),
    }
}
