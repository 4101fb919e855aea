//! The metrics of the engine in memory.
//!
//! Nothing is counted on the way of a read or a write: the maps know their lengths.

use super::Memory;
use super::evict::Cache;
use super::maps::read;
use crate::metrics::Exposition;
use crate::storage::pool::Pool;
use crate::storage::report;
use std::sync::atomic::Ordering;

impl Memory {
    /// Writes the metrics. Locks each map as a read of a key does.
    pub(super) fn write_metrics(&self, to: &mut Exposition) {
        let maps = &*self.0;
        report::build(to, "memory");
        let keys = maps.shards.iter().map(|shard| read(&shard.map).len() as u64).sum();
        let note = "Those that have expired count until they are swept, a second later or so.";
        report::keys(to, keys, note);
        let note = "Keys, values and overhead in memory.";
        report::stored(to, self.held(), note, maps.expired.load(Ordering::Relaxed));
        report::evicted(to, maps.cache.as_ref().map_or(0, Cache::evicted));
        if let Some(max) = maps.account.max() {
            let help = "The bytes past which a write is refused, or entries are evicted.";
            to.gauge("lkv_stored_bytes_max", help, max);
        }
        let waiting = maps.pool.get().map_or(0, Pool::waiting);
        let help = "Operations that take long and wait for a thread.";
        to.gauge("lkv_memory_queue_length", help, waiting);
        report::read_only(to, None);
        report::waiters(to, &maps.waiters);
        report::changes(to, &maps.changes);
    }
}
