//! Compaction: when a tree's files are merged, and how far that has come.
//!
//! The database would do it itself, with no regard to free space: with too little
//! it takes no more writes. So a run of its own merges files, step by step, while
//! there is space for a step. Its three parts:
//!
//! - the compactor of a tree, here, decides when to begin a run,
//! - `picker` decides on each step: it is pure, and has every rule of size and space,
//! - `run` takes the steps, on a thread.
//!
//! Files are merged once there are many in L0. A store that is deleted from and then
//! left alone would keep its size; so its space is reclaimed once nobody writes and
//! much has changed, and before a write is refused for want of space. Files that a
//! run has replaced are gone once the tree has dropped them, which takes a flush:
//! see `tree`.

mod picker;
mod run;

use super::disk_space::{DiskSpace, Scale};
use super::generation::Keyspaces;
use super::live::Live;
use super::patience::Round;
use super::tree::{self, Keyspace, Level, Step};
use crate::platform::scheduling;
use picker::{FINENESS_MAX, Goal, Picker, RunEnd, Space, WHOLE_BYTES_MAX};
pub use run::wait_for_flush;
use run::{Progress, Run, shape_of};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Fewer changes than this are not worth a run.
const CHANGES_MIN: u64 = 16;

/// One change for so many items below L0 is worth one. Those of the memtable and of L0 are
/// changes themselves, and the engine's own beside them.
const ITEMS_EACH: u64 = 4;

/// From so many L0 runs on a write waits: at thirty the database would let it wait
/// for ever.
pub const L0_RUNS_MAX: usize = 24;

/// From so many on L0 comes before a reclaim, each round of which makes another.
pub const L0_RUNS_MAX_TO_RECLAIM: usize = L0_RUNS_MAX - 4;

/// From so many L0 files on they may take the space of the next flush.
const L0_FILES_URGENT: usize = 16;

/// How long nothing is tried within a limit where there was no space for a run to begin.
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// The same where the last runs have not taken a step.
const VAIN_TRY_INTERVAL: Duration = Duration::from_millis(200);

/// How many runs in a row may take no step. A single L0 file is left for the next run, in
/// which there are two.
const VAIN_RUNS_MAX: u32 = 3;

/// How long nothing is tried after a failure.
const FAILURE_INTERVAL: Duration = Duration::from_secs(10);

/// The time between two looks at a run that is waited for.
const WAIT: Duration = Duration::from_millis(5);

/// The state of a tree's compaction, and the run that is under way.
#[derive(Default)]
pub struct Compactor {
    /// Keys that were written or deleted since the last reclaim.
    changes: u64,
    /// Those of them that were deleted.
    deletions: u64,
    running: Option<Running>,
    /// The goal of the last run, if it has ended before that.
    pub unfinished: Option<Goal>,
    /// The deletions that were in the tables as the last reclaim began.
    reclaim_deletions: Option<u64>,
    /// The last step was one of a resplit.
    is_resplit: bool,
    /// Resplits since anything has reached the last level or was deleted.
    resplits: u32,
    fineness: u32,
    /// Space is awaited from a reclaim, however few keys were deleted.
    pub is_awaited: bool,
    /// A flush may give space back.
    pub has_obsolete_files: bool,
    failed_at: Option<Instant>,
    /// The outcome of the last run. There is more to do if another one may find something,
    /// or space for it.
    round: Round,
    /// The last runs have not taken a step, or there was no space for one to begin.
    tried_at: Option<Instant>,
    /// The last runs that have not taken a step, though none has stopped them, or that could
    /// not begin.
    pub vain_runs: u32,
}

/// A reason to look for something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A batch was written.
    Write,
    /// Nobody has written for a while.
    Idle,
    /// Keys were evicted, and so much time is for a run.
    Evict(Duration),
    /// A write is about to be refused, and waits for a run of about this long.
    NoSpace(Duration),
}

struct Running {
    goal: Goal,
    /// The changes, and those that were deletions, that it began with.
    changes: u64,
    deletions: u64,
    is_stopped: Arc<AtomicBool>,
    progress: Arc<Progress>,
    thread: JoinHandle<tree::Result<RunEnd>>,
}

impl Compactor {
    /// Notes that so many keys were written or deleted, and how many of them
    /// were deleted.
    pub fn note(&mut self, changes: usize, deletions: usize) {
        self.changes += changes as u64;
        self.deletions += deletions as u64;
        if deletions > 0 {
            self.resplits = 0;
        }
    }

    /// Begins anew with another tree. Gives the run that is under way, which ends after the
    /// step that it is at.
    pub fn forget(&mut self) -> Option<JoinHandle<tree::Result<RunEnd>>> {
        self.stop();
        mem::take(self).running.map(|run| run.thread)
    }

    /// Begins a run if there is something to do for a keyspace, and none is under
    /// way. Blocks for nothing.
    pub fn begin(&mut self, live: &Live, keyspace: &Keyspace, trigger: Trigger) {
        // A write that waits has no time for a pause after a failure.
        let time_max = match trigger {
            Trigger::Write | Trigger::Idle => None,
            Trigger::Evict(time) | Trigger::NoSpace(time) => Some(time),
        };
        let has_failed = self.failed_at.is_some_and(|at| at.elapsed() < FAILURE_INTERVAL);
        if self.running.is_some() || (has_failed && time_max.is_none()) {
            return;
        }
        let (l0, scale) = (self.l0_to_merge(keyspace), live.disk_space.scale());
        let Some(goal) = self.goal(trigger, scale, l0, || keyspace.items_below_l0()) else {
            return;
        };
        let is_limited = live.disk_space.is_limited();
        let interval = if self.is_stuck() { VAIN_TRY_INTERVAL } else { TRY_INTERVAL };
        let has_just_tried = self.tried_at.is_some_and(|at| at.elapsed() <= interval);
        if is_limited && has_just_tried {
            return;
        }
        // A store that had another limit may have no step that fits this one.
        let takes_disk =
            self.vain_runs > 0 && live.disk_space.is_outsized(&live.generation.keyspaces);
        let free_bytes = move |disk_space: &DiskSpace, keyspaces: &Keyspaces, kept_bytes| {
            if takes_disk {
                disk_space.free_bytes_beyond_reserve(kept_bytes)
            } else {
                disk_space.free_bytes(keyspaces, kept_bytes)
            }
        };
        // What a limit has for merges is lent to nobody else.
        let kept_bytes = if is_limited && !takes_disk {
            0
        } else {
            free_bytes(&live.disk_space, &live.generation.keyspaces, 0) / 2
        };
        let free_bytes = {
            let (disk_space, keyspaces) =
                (live.disk_space.clone(), Arc::clone(&live.generation.keyspaces));
            let is_kept = goal == Goal::ReduceL0 && l0.files < L0_FILES_URGENT;
            move || {
                // A step before has made files obsolete.
                disk_space.note_release();
                let kept_bytes = if is_kept { keyspaces.unflushed_bytes() } else { 0 };
                free_bytes(&disk_space, &keyspaces, kept_bytes)
            }
        };
        let picker = Picker {
            goal,
            fineness: self.fineness,
            may_resplit: self.resplits <= FINENESS_MAX,
            whole_bytes_max: WHOLE_BYTES_MAX,
            is_limited,
            takes_disk,
            scale,
        };
        let space = Space { free: free_bytes(), kept: kept_bytes };
        if !picker.may_begin(&shape_of(keyspace), space) {
            self.vain_runs += 1;
            self.tried_at = Some(Instant::now());
            return;
        }
        self.tried_at = None;
        let (is_stopped, progress) = (Arc::<AtomicBool>::default(), Arc::<Progress>::default());
        let run = Run {
            database: live.database().clone(),
            keyspace: keyspace.clone(),
            picker,
            free_bytes: Box::new(free_bytes),
            kept_bytes,
            time_max: time_max.unwrap_or(Duration::MAX),
            is_stopped: Arc::clone(&is_stopped),
            progress: Arc::clone(&progress),
            figures: Arc::clone(&live.figures),
        };
        let work = move || {
            scheduling::batch_priority();
            run.run()
        };
        match thread::Builder::new().name("compactor".to_owned()).spawn(work) {
            Ok(thread) => {
                let Self { changes, deletions, .. } = *self;
                let running = Running { goal, changes, deletions, is_stopped, progress, thread };
                self.running = Some(running);
            }
            Err(err) => self.fail(goal, &err),
        }
    }

    /// Leaves the goal of a run for later.
    fn fail(&mut self, goal: Goal, err: &dyn std::error::Error) {
        self.unfinished = Some(goal);
        log::warn!("compaction has failed, and the files take more space: {err}");
        self.failed_at = Some(Instant::now());
    }

    /// The goal of the next run, of a tree of this L0 and so many items below it.
    fn goal(
        &self,
        trigger: Trigger,
        scale: Scale,
        l0: Level,
        items: impl FnOnce() -> u64,
    ) -> Option<Goal> {
        let has_changed = || self.changes >= (items() / ITEMS_EACH).max(CHANGES_MIN);
        let reclaims = match trigger {
            Trigger::Write => false,
            Trigger::Idle => self.unfinished == Some(Goal::Reclaim) || has_changed(),
            Trigger::Evict(_) | Trigger::NoSpace(_) => {
                l0.files < L0_RUNS_MAX_TO_RECLAIM && (self.has_deletions_left() || has_changed())
            }
        };
        if reclaims {
            return Some(Goal::Reclaim);
        }
        (scale.is_due(l0) || self.unfinished == Some(Goal::ReduceL0)).then_some(Goal::ReduceL0)
    }

    /// Whether a reclaim would give enough space back.
    fn has_deletions_left(&self) -> bool {
        self.is_awaited || self.deletions >= CHANGES_MIN || self.unfinished == Some(Goal::Reclaim)
    }

    /// Whether a run has ended since the last call.
    pub fn has_finished(&mut self) -> bool {
        let has_ended = self.running.as_ref().is_some_and(|run| run.thread.is_finished());
        has_ended && self.finish()
    }

    /// Waits for the end of the run; `false` if there is none.
    pub fn finish(&mut self) -> bool {
        let Some(run) = self.running.take() else { return false };
        self.unfinished = None;
        let ended = run.thread.join().unwrap_or_else(|_panic| Err(tree::Error::panicked()));
        let is_stuck = matches!(ended, Ok(RunEnd::Stuck));
        // A reclaim that has left a single L0 file needs the one that their release makes.
        let needs_release = match &ended {
            Ok(RunEnd::Early { .. }) => run.goal == Goal::Reclaim,
            Ok(RunEnd::Done | RunEnd::Resplit | RunEnd::Stuck) => false,
            Err(_) => true,
        };
        let has_stepped = run.progress.has_stepped.load(Ordering::Relaxed);
        self.has_obsolete_files |= has_stepped || needs_release;
        // Where nothing was deleted, to move files gives back little, or nothing.
        let is_awaited = self.is_awaited || self.deletions >= CHANGES_MIN;
        self.round.has_progress = match &ended {
            Ok(RunEnd::Early { has_stepped, .. }) => *has_stepped && is_awaited,
            Ok(RunEnd::Resplit) => is_awaited,
            Ok(RunEnd::Done) => true,
            Ok(RunEnd::Stuck) | Err(_) => false,
        };
        let was_stopped = run.is_stopped.load(Ordering::Relaxed);
        self.vain_runs = match &ended {
            Ok(RunEnd::Done | RunEnd::Resplit | RunEnd::Early { has_stepped: true, .. }) => 0,
            // It might have taken one.
            Ok(RunEnd::Early { .. }) if was_stopped => self.vain_runs,
            Ok(RunEnd::Stuck | RunEnd::Early { has_stepped: false, .. }) | Err(_) => {
                self.vain_runs + 1
            }
        };
        self.tried_at = self.is_stuck().then(Instant::now);
        self.reclaim_deletions = run.progress.deletions.get().copied();
        self.is_resplit = match &ended {
            Ok(RunEnd::Resplit) => true,
            Ok(RunEnd::Early { has_stepped: false, .. }) | Err(_) => self.is_resplit,
            Ok(RunEnd::Done | RunEnd::Stuck | RunEnd::Early { has_stepped: true, .. }) => false,
        };
        match ended {
            Ok(RunEnd::Early { has_moved, .. }) => {
                self.unfinished = Some(run.goal);
                if has_moved {
                    // Many small files take longer than few large ones.
                    (self.resplits, self.fineness) = (0, self.fineness.saturating_sub(1));
                }
            }
            Ok(RunEnd::Resplit) => {
                self.unfinished = Some(run.goal);
                self.resplits += 1;
                self.fineness = (self.fineness + 1) % (FINENESS_MAX + 1);
            }
            Ok(RunEnd::Done) if run.goal == Goal::ReduceL0 => {}
            Ok(RunEnd::Done) => {
                self.is_awaited = false;
                self.changes = self.changes.saturating_sub(run.changes);
                self.deletions = self.deletions.saturating_sub(run.deletions);
            }
            // To be tried again if space is needed, by steps with the space that those of
            // this run have made obsolete, too.
            Ok(RunEnd::Stuck) => self.changes = self.changes.saturating_sub(run.changes),
            Err(err) => self.fail(run.goal, &err),
        }
        self.round.has_more = self.unfinished.is_some() || (is_stuck && has_stepped);
        true
    }

    /// Begins a run as [`begin`] does, and waits for its end, early once it
    /// `is_hurried`. `None` if there is nothing to do.
    ///
    /// [`begin`]: Self::begin
    pub fn run_to_end(
        &mut self,
        live: &Live,
        keyspace: &Keyspace,
        trigger: Trigger,
        is_hurried: impl Fn() -> bool,
    ) -> Option<Round> {
        self.begin(live, keyspace, trigger);
        while self.running.as_ref().is_some_and(|run| !run.thread.is_finished()) {
            if is_hurried() {
                self.stop();
                break;
            }
            thread::sleep(WAIT);
        }
        let was_running = self.finish();
        was_running.then_some(self.round)
    }

    /// L0 as far as it is to be merged. By itself a run that a resplit has brought there would
    /// be moved, and not split: it waits for another one.
    pub fn l0_to_merge(&self, keyspace: &Keyspace) -> Level {
        let waits = self.is_resplit && keyspace.l0_runs() == 1;
        if waits { Level::default() } else { keyspace.l0() }
    }

    /// Has the run end after the step that it is at.
    pub fn stop(&self) {
        if let Some(run) = &self.running {
            run.is_stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if what was awaited has been given back as far as it can be.
    pub fn has_reclaimed(&self) -> bool {
        (!self.is_awaited && self.unfinished.is_none()) || self.is_stuck()
    }

    /// How many of so many bytes, which deletions give back once they are in the last level,
    /// the last run has left for another, with so many deletions in the tables by now, and so
    /// many bytes of blobs that nothing refers to: these go with the merge after that.
    pub fn left_of(&self, bytes: u64, deletions: u64, stale_bytes: u64) -> u64 {
        if self.has_reclaimed() {
            return 0;
        }
        let Some(before) = self.reclaim_deletions else { return bytes };
        let left = u128::from(bytes) * u128::from(deletions.min(before));
        let left = left.checked_div(before.into()).and_then(|left| left.try_into().ok());
        bytes.min(left.unwrap_or(0) + stale_bytes)
    }

    /// Returns true if no step is small enough for the space that there is.
    pub fn is_stuck(&self) -> bool {
        let running = self.running.as_ref();
        let steps = running.is_some_and(|run| run.progress.has_stepped.load(Ordering::Relaxed));
        self.vain_runs >= VAIN_RUNS_MAX && !steps
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Makes way for L0 in a write stall, even if a run has just failed.
    pub fn yield_to_l0(&mut self) {
        self.failed_at = None;
        if self.running.as_ref().is_some_and(|run| run.goal == Goal::Reclaim) {
            self.stop();
        }
    }
}

/// The step that merges L0 into the empty level above all that have anything.
pub fn l0_step_above(keyspace: &Keyspace, scale: Scale, free_bytes: u64) -> Option<Step> {
    shape_of(keyspace).l0_step_above(scale, free_bytes)
}

#[cfg(test)]
mod tests;
