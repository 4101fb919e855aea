//! A run: steps of compaction, one after the other, on a thread of its own.

use super::super::figures::Figures;
use super::super::tree::{self, BLOB_VALUE_BYTES_MIN, Database, Keyspace, Step};
use super::picker::{Goal, Pick, Picker, RunEnd, Shape, SoFar, Space};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The bytes of an entry in a table beside its value, about.
const ENTRY_OVERHEAD_BYTES: u64 = 100;

/// A tree is merged as a whole again until less than one part in so many of it is
/// stale blobs.
const STALE_SHARE: u64 = 8;

/// The longest that a flush may take.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(5);

/// The time between two looks at a flush.
const FLUSH_WAIT: Duration = Duration::from_millis(5);

pub struct Run {
    pub database: Database,
    pub keyspace: Keyspace,
    pub picker: Picker,
    /// The free bytes of the disk.
    pub free_bytes: Box<dyn Fn() -> u64 + Send>,
    pub kept_bytes: u64,
    /// Once this is over, no other step is begun.
    pub time_max: Duration,
    pub is_stopped: Arc<AtomicBool>,
    pub progress: Arc<Progress>,
    pub figures: Arc<Figures>,
}

/// The progress of a run, which others look at.
#[derive(Default)]
pub struct Progress {
    /// A step has changed the tree.
    pub has_stepped: AtomicBool,
    /// The deletions in the tables of the tree as a reclaim began.
    pub deletions: OnceLock<u64>,
}

impl Run {
    /// Takes steps until there is none, or no space or time for it. Takes one even
    /// where there is no time, for a slow disk to get anywhere.
    pub fn run(&self) -> tree::Result<RunEnd> {
        let _compacting = self.figures.begin_compaction();
        let begun = Instant::now();
        if self.picker.goal == Goal::Reclaim {
            if !self.flush()? {
                return Ok(RunEnd::Early { has_stepped: false, has_moved: false });
            }
            self.progress.deletions.get_or_init(|| self.keyspace.table_deletions());
        }
        let first = shape_of(&self.keyspace);
        let (mut shape, mut tries) = (first.clone(), 0);
        let ended = loop {
            let has_stepped = shape != first;
            let has_moved = shape.last().bytes != first.last().bytes;
            let is_over = has_stepped && begun.elapsed() > self.time_max;
            if is_over || self.is_stopped() {
                break RunEnd::Early { has_stepped, has_moved };
            }
            let so_far = SoFar { has_stepped, has_moved, tries };
            let least_merges = self.keyspace.least_merges_bytes();
            let is_merged = self.keyspace.is_merged();
            let measured = Shape { least_merges, is_merged, ..shape.clone() };
            match self.picker.pick(&measured, self.space(), so_far) {
                Pick::Step(step) => {
                    self.compact(&step)?;
                    let now = shape_of(&self.keyspace);
                    tries = if now == shape { tries + 1 } else { 0 };
                    shape = now;
                }
                Pick::Resplit(step) => break self.resplit(step)?,
                Pick::WholeIfBelow(bytes) if !self.has_fewer_bytes(bytes)? => break RunEnd::Stuck,
                Pick::Whole | Pick::WholeIfBelow(_) => break self.merge_whole(begun)?,
                Pick::Stop(ended) => break ended,
            }
        };
        let (goal, took) = (self.picker.goal, begun.elapsed().as_millis());
        let last = shape_of(&self.keyspace);
        log::debug!("compaction: {goal:?} {ended:?} in {took} ms: {first:?} is {last:?}");
        Ok(ended)
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn space(&self) -> Space {
        Space { free: (self.free_bytes)(), kept: self.kept_bytes }
    }

    /// Takes a step, and notes the bytes that it has written.
    fn compact(&self, step: &Step) -> tree::Result<()> {
        let (first, before) = (self.keyspace.next_table_id(), shape_of(&self.keyspace));
        self.database.compact(&self.keyspace, step)?;
        // A flush meanwhile has made tables of L0.
        let merged_bytes = self.keyspace.merged_bytes(first);
        if merged_bytes > 0 || shape_of(&self.keyspace) != before {
            self.progress.has_stepped.store(true, Ordering::Relaxed);
        }
        self.figures.note_compacted(merged_bytes);
        Ok(())
    }

    /// Merges the whole tree.
    fn merge_whole(&self, begun: Instant) -> tree::Result<RunEnd> {
        let keyspace = &self.keyspace;
        let mut stale_bytes = u64::MAX;
        loop {
            self.compact(&Step::Major { table_bytes: self.picker.scale.table })?;
            // The next merge removes the blobs that this one has found to be stale.
            let before = stale_bytes;
            stale_bytes = keyspace.stale_blob_bytes();
            let stale_max = (keyspace.disk_bytes() / STALE_SHARE).min(self.picker.scale.stale);
            if stale_bytes < stale_max || stale_bytes == before {
                return Ok(RunEnd::Done);
            }
            let shape = shape_of(keyspace);
            let fits = shape.table_bytes() < self.picker.whole_bytes_max(&shape, self.space());
            if !fits || begun.elapsed() > self.time_max || self.is_stopped() {
                return Ok(RunEnd::Early { has_stepped: true, has_moved: true });
            }
        }
    }

    /// Brings all files above the last level to L0, to be split into smaller ones
    /// once there is another.
    fn resplit(&self, first: Step) -> tree::Result<RunEnd> {
        let mut next = Some(first);
        while let Some(step) = next {
            self.compact(&step)?;
            let is_last = matches!(step, Step::MoveToL0 { .. });
            let goes_on = !is_last && !self.is_stopped();
            next = if goes_on { shape_of(&self.keyspace).resplit(self.space()) } else { None };
        }
        Ok(RunEnd::Resplit)
    }

    /// Flushes the memtable, and waits for that; `false` if it takes too long.
    pub fn flush(&self) -> tree::Result<bool> {
        self.keyspace.seal_memtable()?;
        Ok(wait_for_flush(&self.keyspace, || self.is_stopped()))
    }

    /// True if the live entries, without blobs, have fewer bytes than this. Reads
    /// their keys.
    fn has_fewer_bytes(&self, bytes_max: u64) -> tree::Result<bool> {
        let mut bytes = 0;
        let mut lengths = self.keyspace.value_lengths();
        while bytes < bytes_max {
            let Some(length) = lengths.next() else { return Ok(true) };
            bytes += ENTRY_OVERHEAD_BYTES + u64::from(length?.min(BLOB_VALUE_BYTES_MIN));
        }
        Ok(false)
    }
}

pub fn shape_of(keyspace: &Keyspace) -> Shape {
    let levels = keyspace.levels();
    let table_bytes: u64 = levels.iter().map(|level| level.bytes).sum();
    let blob_bytes = keyspace.disk_bytes().saturating_sub(table_bytes);
    Shape { levels, blob_bytes, least_merges: Vec::new(), is_merged: false }
}

/// Waits until sealed memtables are flushed; `false` if that takes too long, or
/// the caller gives up.
pub fn wait_for_flush(keyspace: &Keyspace, gives_up: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while keyspace.sealed_memtables() > 0 {
        if begun.elapsed() > FLUSH_WAIT_MAX || gives_up() {
            return false;
        }
        thread::sleep(FLUSH_WAIT);
    }
    true
}
