//! The figures of the engine on disk, for its metrics.
//!
//! ```text
//! committer ──► counted as it happens; looked at once a second ──► figures ◄── report
//! compactor ──► its runs and their bytes                        ──►
//! ```
//!
//! A report asks neither a tree nor the disk: their locks may be held as long as a disk
//! hangs. So what they know is noted here by those who wait for them anyway, and a report
//! may show it as it was seconds ago. The lock here is held for a copy.

use super::look::{Seen, Trees};
use crate::metrics::{Exposition, Histogram, Kind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bounds of the sizes of commit groups, in writes.
const GROUP_SIZES: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Bounds of the durations of syncs, in microseconds.
const SYNC_MICROS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// Microseconds of a second.
const SECOND_MICROS: u64 = 1_000_000;

/// The figures of one engine.
pub struct Figures {
    group_sizes: Histogram,
    syncs: Histogram,
    stall_micros: AtomicU64,
    expired: AtomicU64,
    evicted: AtomicU64,
    reopens: AtomicU64,
    compactions: AtomicU64,
    compacted_bytes: AtomicU64,
    compacting: AtomicUsize,
    seen: Mutex<Seen>,
}

/// A run of compaction that is under way.
pub struct Compacting<'a>(&'a Figures);

impl Default for Figures {
    fn default() -> Self {
        Self {
            group_sizes: Histogram::new(&GROUP_SIZES, 1),
            syncs: Histogram::new(&SYNC_MICROS, SECOND_MICROS),
            stall_micros: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            reopens: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            compacted_bytes: AtomicU64::new(0),
            compacting: AtomicUsize::new(0),
            seen: Mutex::default(),
        }
    }
}

impl Figures {
    /// Notes a commit group of so many writes.
    pub fn note_group(&self, writes: usize) {
        self.group_sizes.observe(writes as u64);
    }

    /// Notes the time in which a commit group was synced.
    pub fn note_sync(&self, took: Duration) {
        self.syncs.observe(micros(took));
    }

    /// Notes that writes have waited for the trees.
    pub fn note_stall(&self, took: Duration) {
        self.stall_micros.fetch_add(micros(took), Ordering::Relaxed);
    }

    /// Notes that so many entries were swept.
    pub fn note_expired(&self, entries: usize) {
        self.expired.fetch_add(entries as u64, Ordering::Relaxed);
    }

    /// Notes that so many entries were evicted.
    pub fn note_evicted(&self, entries: usize) {
        self.evicted.fetch_add(entries as u64, Ordering::Relaxed);
    }

    /// Notes that the database was opened anew.
    pub fn note_reopen(&self) {
        self.reopens.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the bytes of the tables that a step of compaction has written.
    pub fn note_compacted(&self, bytes: u64) {
        self.compacted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes a run of compaction, which ends as this is dropped.
    pub fn begin_compaction(&self) -> Compacting<'_> {
        self.compacting.fetch_add(1, Ordering::Relaxed);
        Compacting(self)
    }

    /// The last look.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a look.
    pub fn note_seen(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// The number of entries that were swept.
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// The number of entries that were evicted.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Writes all that no other engine has.
    pub fn report(&self, seen: &Seen, to: &mut Exposition) {
        self.report_commits(to);
        self.report_compaction(to);
        report_trees(&seen.trees, to);
        report_disk(seen, to);
        let help = "Moments that are held for lists of many pages.";
        to.gauge("lkv_held_moments", help, seen.held_moments);
    }

    fn report_commits(&self, to: &mut Exposition) {
        let help = "Writes that shared one sync.";
        to.histogram("lkv_commit_batch_size", help, &self.group_sizes);
        let help = "Time to write a commit group to the journal and sync it.";
        to.histogram("lkv_sync_duration_seconds", help, &self.syncs);
        let stalled = Duration::from_micros(self.stall_micros.load(Ordering::Relaxed));
        let help = "Time that writes have waited for flushes or compaction.";
        to.counter("lkv_write_stall_seconds_total", help, stalled.as_secs_f64());
        let help = "Times that the database was opened anew after a failure.";
        to.counter("lkv_reopens_total", help, self.reopens.load(Ordering::Relaxed));
    }

    fn report_compaction(&self, to: &mut Exposition) {
        let help = "Runs of compaction that have ended.";
        to.counter("lkv_compactions_total", help, self.compactions.load(Ordering::Relaxed));
        let help = "Bytes of the tables that compaction has written.";
        let bytes = self.compacted_bytes.load(Ordering::Relaxed);
        to.counter("lkv_compacted_bytes_total", help, bytes);
        let help = "Runs of compaction that are under way.";
        to.gauge("lkv_compaction_running", help, self.compacting.load(Ordering::Relaxed));
    }
}

impl Drop for Compacting<'_> {
    fn drop(&mut self) {
        let Self(figures) = self;
        figures.compacting.fetch_sub(1, Ordering::Relaxed);
        figures.compactions.fetch_add(1, Ordering::Relaxed);
    }
}

fn report_trees(trees: &Trees, to: &mut Exposition) {
    let help = "Tables by level, as of some seconds ago.";
    let mut tables = to.family("lkv_tables", Kind::Gauge, help);
    for (number, level) in trees.levels.iter().enumerate() {
        tables.sample(&[("level", &number.to_string())], level.files);
    }
    let help = "Bytes of the tables by level, as of some seconds ago.";
    let mut bytes = to.family("lkv_table_bytes", Kind::Gauge, help);
    for (number, level) in trees.levels.iter().enumerate() {
        bytes.sample(&[("level", &number.to_string())], level.bytes);
    }
    let help = "Bytes of large values on the disk that nothing refers to any more, of those \
                that compaction has come across.";
    to.gauge("lkv_stale_blob_bytes", help, trees.stale_blob_bytes);
    let help = "Sorted runs of L0, into each of which a read may look. At 24 writes wait.";
    to.gauge("lkv_l0_runs", help, trees.l0_runs);
    let help = "Bytes of the memtables that are written to.";
    to.gauge("lkv_memtable_bytes", help, trees.memtable_bytes);
    let help = "Memtables that wait to be flushed. At 3 writes wait.";
    to.gauge("lkv_sealed_memtables", help, trees.sealed_memtables);
    to.gauge("lkv_block_cache_bytes", "Bytes of the blocks in the cache.", trees.cache_bytes);
    let help = "Bytes of the entries in the cache, those that were read lately.";
    to.gauge("lkv_entry_cache_bytes", help, trees.entry_cache_bytes);
}

fn report_disk(seen: &Seen, to: &mut Exposition) {
    let help = "Bytes that the journals take on the disk, as of some seconds ago.";
    to.gauge("lkv_journal_bytes", help, seen.journal_bytes);
    if let Some([used, limit]) = seen.limited {
        let help = "Bytes that the directory takes on the disk, as of some seconds ago.";
        to.gauge("lkv_disk_bytes", help, used);
        to.gauge("lkv_disk_bytes_max", "The most bytes that the directory may take.", limit);
    }
    if let Some([free, reserved]) = seen.disk {
        let help = "Free bytes of the disk, as of some seconds ago.";
        to.gauge("lkv_disk_free_bytes", help, free);
        let help = "Bytes of the disk that are to stay free: a write that would need them is \
                    refused.";
        to.gauge("lkv_disk_reserved_bytes", help, reserved);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
