//! Putting the tree in order: merging its files, and taking what was deleted
//! or overwritten off the disk.
//!
//! The database would do the first itself, with no regard to how much space is
//! left: with too little, it takes no more writes before the next start. So it
//! is told to leave that alone, and a thread does it here, step by step, while
//! there is space for a step. What a step replaces is gone once the tree has
//! taken a write and turned to another memtable.
//!
//! As files are merged only when there are many, a store that is deleted from
//! and then left alone would keep its size. So once nobody writes, and much
//! has changed, the whole tree is put in order; and before a write is refused
//! for want of space.

use super::disk_space::DiskSpace;
use super::generation::Generation;
use super::tree::{
    self, BLOB_REWRITE_SHARE, BLOB_VALUE_BYTES_MIN, Database, Keyspace, MEMTABLE_BYTES, Step,
};
use crate::schedule;
use std::iter;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How large a file of a level is: the smaller, the less space a step takes.
const TABLE_BYTES: u64 = 4 << 20;

/// Compaction starts at this many L0 files.
const L0_FILES_TO_COMPACT: u8 = 4;

/// Fewer changes than this are not worth it.
const CHANGES_MIN: u64 = 16;

/// One change for so many keys is much.
const KEYS_EACH: u64 = 4;

/// A tree larger than this, without the values that are kept apart, is not
/// written anew in one go, and neither are two of its levels.
const WHOLE_BYTES_MAX: u64 = 512 << 20;

/// What a file has of an entry beside its value, about.
const ENTRY_OVERHEAD_BYTES: u64 = 100;

/// The tree is written anew until less than one part in so many of the values
/// apart is waste.
const WASTE_SHARE: u64 = 8;

/// How many unsorted files there may be as long as there is little space to
/// spare, and how much they may have. Small ones hold deletions above all:
/// sorted into files of the usual size, each of these would delete from too many
/// below it for one step.
const L0_FILES_TO_COMPACT_LOW_SPACE: u64 = 16;
const L0_BYTES_TO_COMPACT_LOW_SPACE: u64 = 2 * MEMTABLE_BYTES;

/// A step takes a file from above, and usually no more than so many times as
/// much from below.
const STEP_SHARE: u64 = 16;

/// A step from one level to the next takes no more than so many times what the
/// files have that it makes: from below, the database's own limit is 50.
const STEP_FILES_MAX: u64 = 64;

/// How large files are made at least where a step may not take much.
const STEP_TABLE_BYTES_MIN: u64 = 64 << 10;

/// How large files are made at least that are to take with them what they
/// delete. They may hold nothing but deletions, and these are many times smaller
/// than what they delete. None is smaller than a block.
const FINE_TABLE_BYTES: u64 = 1 << 10;

/// Files of which none can be moved are taken apart into ones of a quarter of
/// the size, so often; then into larger ones again, once.
const FINENESS_MAX: u32 = 3;

/// A level that may be so many times larger than the one above it is never too
/// large, or always.
const ANY_RATIO: f32 = 1e37;
const NO_RATIO: f32 = 1e-37;
const DEFAULT_RATIO: f32 = 10.0;

/// How long the last changes may take to reach a file.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing is tried after it has failed.
const FAILURE_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait before looking again.
const WAIT: Duration = Duration::from_millis(5);

/// What there is to do, and the thread that is at it.
#[derive(Default)]
pub struct Compactor {
    /// How many keys were written or deleted since the whole was put in order.
    changes: u64,
    /// How many of them were deleted.
    deletions: u64,
    run: Option<Run>,
    /// What the last run was about, if it has left some of that.
    unfinished: Option<Goal>,
    /// How often files were taken apart since any could be moved or something
    /// was deleted.
    resplits: u32,
    /// How often their size was divided.
    fineness: u32,
    /// There may be files that the tree does not need any more.
    has_obsolete_files: bool,
    failed_at: Option<Instant>,
    /// The last run has come nearer to where it gives space back.
    has_progress: bool,
}

/// What is a reason to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Something was written.
    Write,
    /// Nobody has written for a while.
    Idle,
    /// A write is about to be refused, and waits for about so long.
    NoSpace(Duration),
    /// The same, but there are so many unsorted files that these come first.
    NoSpaceInL0(Duration),
}

impl Trigger {
    /// How long a run may take, but for its first step.
    fn piece(self) -> Duration {
        match self {
            Self::Write | Self::Idle => Duration::MAX,
            Self::NoSpace(piece) | Self::NoSpaceInL0(piece) => piece,
        }
    }
}

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// That there are no more unsorted files than there should be.
    ReduceL0,
    /// That all that was deleted is gone.
    Reclaim,
}

struct Run {
    goal: Goal,
    /// The changes, and those that were deletions, that it began with.
    changes: u64,
    deletions: u64,
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<tree::Result<RunEnd>>,
}

/// How a run has ended.
#[derive(Clone, Copy, Debug)]
enum RunEnd {
    Done,
    /// It was told to, or is short of space as long as what it has replaced is
    /// still there. Says whether it has taken a step, and whether anything has
    /// come to the last level.
    Early {
        has_stepped: bool,
        has_moved: bool,
    },
    /// No step was small enough, and all that is above the last level is
    /// unsorted again, or on the way there.
    Resplit,
    /// No step is small enough.
    Stuck,
}

impl RunEnd {
    const NOT_BEGUN: Self = Self::Early { has_stepped: false, has_moved: false };
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

    /// Forgets what was changed, for the tree is gone.
    pub fn forget(&mut self) {
        self.stop();
        (self.changes, self.deletions, self.unfinished) = (0, 0, None);
    }

    /// Begins to do what there is to do for a keyspace of a generation, unless
    /// it is being done. Blocks for nothing.
    pub fn begin(
        &mut self,
        database: &Database,
        generation: &Generation,
        keyspace: &Keyspace,
        disk_space: &DiskSpace,
        trigger: Trigger,
    ) {
        let has_failed = self.failed_at.is_some_and(|at| at.elapsed() < FAILURE_INTERVAL);
        // A write that waits for space has no time for that, and little patience.
        let is_awaited = matches!(trigger, Trigger::NoSpace(_) | Trigger::NoSpaceInL0(_));
        if self.run.is_some() || (has_failed && !is_awaited) {
            return;
        }
        let spare_bytes = || disk_space.spare_bytes(generation.keyspaces());
        let Some(goal) = self.goal(keyspace, spare_bytes, trigger) else { return };
        let is_stopped = Arc::new(AtomicBool::new(false));
        let steps = Steps {
            database: database.clone(),
            keyspace: keyspace.clone(),
            free_bytes: Box::new({
                let (disk_space, keyspaces) =
                    (disk_space.clone(), Arc::clone(generation.keyspaces()));
                // Upkeep takes all that is free, but for what is about to be
                // written; unless it cannot wait.
                let is_kept =
                    goal == Goal::ReduceL0 && l0_files(keyspace) < L0_FILES_TO_COMPACT_LOW_SPACE;
                let kept_bytes = move || if is_kept { keyspaces.unflushed_bytes() } else { 0 };
                move || disk_space.free_bytes().saturating_sub(kept_bytes())
            }),
            kept_bytes: disk_space.free_bytes() / 2,
            fineness: self.fineness,
            may_resplit: self.resplits <= FINENESS_MAX,
            piece: trigger.piece(),
            is_stopped: Arc::clone(&is_stopped),
        };
        let is_whole = goal == Goal::Reclaim && steps.fits_whole();
        let may_fit_whole = goal == Goal::Reclaim && keyspace.table_bytes() < WHOLE_BYTES_MAX;
        if !may_fit_whole && !steps.fits(goal, &shape_of(keyspace)) {
            return;
        }
        let work = move || {
            schedule::let_others_finish();
            if is_whole { steps.all_at_once() } else { steps.one_by_one(goal) }
        };
        match thread::Builder::new().name("compactor".to_owned()).spawn(work) {
            Ok(thread) => {
                let Self { changes, deletions, .. } = *self;
                self.run = Some(Run { goal, changes, deletions, is_stopped, thread });
            }
            Err(err) => self.fail(goal, &err),
        }
    }

    /// What a run was about is left for later.
    fn fail(&mut self, goal: Goal, err: &dyn std::error::Error) {
        self.unfinished = Some(goal);
        log::warn!("the files cannot be put in order, and take more space: {err}");
        self.failed_at = Some(Instant::now());
    }

    fn goal(
        &self,
        keyspace: &Keyspace,
        spare_bytes: impl Fn() -> u64,
        trigger: Trigger,
    ) -> Option<Goal> {
        let much = || (keyspace.approximate_len() / KEYS_EACH).max(CHANGES_MIN);
        let reclaims = match trigger {
            Trigger::Write | Trigger::NoSpaceInL0(_) => false,
            Trigger::Idle => self.unfinished == Some(Goal::Reclaim) || self.changes >= much(),
            Trigger::NoSpace(_) => self.has_deletions_left() || self.changes >= much(),
        };
        if reclaims {
            return Some(Goal::Reclaim);
        }
        // This is asked after each batch, the space only where it decides.
        let is_short = || spare_bytes() < L0_BYTES_TO_COMPACT_LOW_SPACE;
        let may_wait = || l0_bytes(keyspace) < L0_BYTES_TO_COMPACT_LOW_SPACE && is_short();
        let is_unsorted = match l0_files(keyspace) {
            L0_FILES_TO_COMPACT_LOW_SPACE.. => true,
            files => files >= L0_FILES_TO_COMPACT.into() && !may_wait(),
        };
        (is_unsorted || self.unfinished == Some(Goal::ReduceL0)).then_some(Goal::ReduceL0)
    }

    /// Whether enough was deleted for space to be made of it, and it was not yet.
    fn has_deletions_left(&self) -> bool {
        self.deletions >= CHANGES_MIN || self.unfinished == Some(Goal::Reclaim)
    }

    /// Whether a run has ended since the last call.
    pub fn has_finished(&mut self) -> bool {
        let has_ended = self.run.as_ref().is_some_and(|run| run.thread.is_finished());
        has_ended && self.finish()
    }

    /// Waits until the run that there is has ended. Says whether there was one.
    pub fn finish(&mut self) -> bool {
        let Some(run) = self.run.take() else { return false };
        self.has_obsolete_files = true;
        self.unfinished = None;
        let ended = run.thread.join();
        // Where nothing was deleted, to move files gives back little, or nothing.
        let is_awaited = self.deletions >= CHANGES_MIN;
        self.has_progress = match &ended {
            Ok(Ok(RunEnd::Early { has_stepped, .. })) => *has_stepped && is_awaited,
            Ok(Ok(RunEnd::Resplit)) => is_awaited,
            Ok(Ok(RunEnd::Done)) => true,
            Ok(Ok(RunEnd::Stuck) | Err(_)) | Err(_) => false,
        };
        match ended {
            Ok(Ok(RunEnd::Early { has_moved, .. })) => {
                self.unfinished = Some(run.goal);
                if has_moved {
                    // Many small files take longer than few large ones.
                    (self.resplits, self.fineness) = (0, self.fineness.saturating_sub(1));
                }
            }
            Ok(Ok(RunEnd::Resplit)) => {
                self.unfinished = Some(run.goal);
                self.resplits += 1;
                self.fineness = (self.fineness + 1) % (FINENESS_MAX + 1);
            }
            Ok(Ok(RunEnd::Done)) if run.goal == Goal::Reclaim => {
                self.changes = self.changes.saturating_sub(run.changes);
                self.deletions = self.deletions.saturating_sub(run.deletions);
            }
            // To be tried again if space is needed.
            Ok(Ok(RunEnd::Stuck)) => self.changes = self.changes.saturating_sub(run.changes),
            Ok(Ok(RunEnd::Done)) => {}
            Ok(Err(err)) => self.fail(run.goal, &err),
            Err(_panic) => self.fail(run.goal, &tree::Error::panicked()),
        }
        true
    }

    /// The same, but has it end early once it `is_hurried`.
    pub fn finish_unless(&mut self, is_hurried: impl Fn() -> bool) -> bool {
        while self.run.as_ref().is_some_and(|run| !run.thread.is_finished()) {
            if is_hurried() {
                self.stop();
                break;
            }
            thread::sleep(WAIT);
        }
        self.finish()
    }

    /// Has the run end after the step that it is at.
    pub fn stop(&self) {
        if let Some(run) = &self.run {
            run.is_stopped.store(true, Ordering::Relaxed);
        }
    }

    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Has what cannot wait come before all else, even if it has just failed.
    pub fn yield_to_l0(&mut self) {
        self.failed_at = None;
        if self.run.as_ref().is_some_and(|run| run.goal == Goal::Reclaim) {
            self.stop();
        }
    }

    /// Whether the last run has come nearer to where it gives space back.
    pub fn has_progress(&self) -> bool {
        self.has_progress
    }

    /// Whether the last run had to end before it was done.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Whether some space may be had by turning to another memtable.
    pub fn has_obsolete_files(&self) -> bool {
        self.has_obsolete_files
    }

    /// Notes that the tree has turned to another memtable.
    pub fn note_release(&mut self) {
        self.has_obsolete_files = false;
    }
}

/// What a run works with.
struct Steps {
    database: Database,
    keyspace: Keyspace,
    /// How many bytes are free.
    free_bytes: Box<dyn Fn() -> u64 + Send>,
    /// What is left free, as others write meanwhile, and all that is replaced
    /// stays until the tree turns to another memtable.
    kept_bytes: u64,
    fineness: u32,
    may_resplit: bool,
    /// How long it goes on taking steps.
    piece: Duration,
    is_stopped: Arc<AtomicBool>,
}

impl Steps {
    /// Writes the whole tree anew.
    fn all_at_once(&self) -> tree::Result<RunEnd> {
        let Self { keyspace, .. } = self;
        let begun = Instant::now();
        let before = keyspace.disk_bytes();
        if !self.flush()? {
            return Ok(RunEnd::NOT_BEGUN);
        }
        // What one finds to be of no use the next ones remove.
        let mut waste = u64::MAX;
        loop {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Ok(RunEnd::NOT_BEGUN);
            }
            self.compact(&Step::Major { table_bytes: TABLE_BYTES })?;
            let waste_before = mem::replace(&mut waste, keyspace.stale_blob_bytes());
            if waste < keyspace.disk_bytes() / WASTE_SHARE || waste == waste_before {
                break;
            }
            if !self.fits_whole() || begun.elapsed() > self.piece {
                return Ok(RunEnd::Early { has_stepped: true, has_moved: true });
            }
        }
        let (after, took) = (keyspace.disk_bytes(), begun.elapsed().as_millis());
        log::debug!("put {before} bytes in order, {after} are left, in {took} ms");
        Ok(RunEnd::Done)
    }

    /// Takes one step after the other towards `goal`.
    fn one_by_one(&self, goal: Goal) -> tree::Result<RunEnd> {
        let Self { keyspace, is_stopped, .. } = self;
        let begun = Instant::now();
        if goal == Goal::Reclaim && !self.flush()? {
            return Ok(RunEnd::NOT_BEGUN);
        }
        let before = shape_of(keyspace);
        let mut shape = before.clone();
        let ended = loop {
            let has_stepped = shape != before;
            let has_moved = before.last_bytes() != shape.last_bytes();
            // One step is taken in any case, for a slow disk to get anywhere.
            let is_over = || has_stepped && begun.elapsed() > self.piece;
            if is_stopped.load(Ordering::Relaxed) || is_over() {
                break RunEnd::Early { has_stepped, has_moved };
            }
            if !self.fits(goal, &shape) {
                if goal == Goal::ReduceL0 || has_stepped {
                    break RunEnd::Early { has_stepped, has_moved };
                }
                if self.is_left_to_fit_whole()? {
                    return self.all_at_once();
                }
                break RunEnd::Stuck;
            }
            if goal == Goal::Reclaim && is_in_order(&shape.files) && l0_files(keyspace) == 1 {
                // A single file would go as it is. There is another one, with
                // keys from all over it, once the tree has turned to another
                // memtable.
                break RunEnd::Early { has_stepped, has_moved };
            }
            if !self.step(goal, &mut shape)? {
                if goal == Goal::ReduceL0 || is_in_order(&shape.files) {
                    break RunEnd::Done;
                }
                // What is above has the keys of more than one step may take,
                // unless what was replaced takes the space for that.
                if has_moved {
                    break RunEnd::Early { has_stepped, has_moved };
                }
                if self.may_resplit && self.resplit()? {
                    break RunEnd::Resplit;
                }
                if self.is_left_to_fit_whole()? {
                    return self.all_at_once();
                }
                break RunEnd::Stuck;
            }
        };
        shape = shape_of(keyspace);
        let took = begun.elapsed().as_millis();
        log::debug!("{goal:?} {ended:?} in {took} ms: {before:?} is {shape:?}");
        Ok(ended)
    }

    /// Takes one step towards `goal`. Says whether there was one.
    fn step(&self, goal: Goal, shape: &mut Shape) -> tree::Result<bool> {
        let steps: Vec<Step> = match goal {
            Goal::ReduceL0 => vec![files_merged(L0_FILES_TO_COMPACT, TABLE_BYTES)],
            Goal::Reclaim => self.steps_to_order(shape),
        };
        for step in steps {
            self.compact(&step)?;
            let now = shape_of(&self.keyspace);
            if now != *shape {
                *shape = now;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn compact(&self, step: &Step) -> tree::Result<()> {
        self.database.compact(&self.keyspace, step)
    }

    /// Waits until what is in memory is in files. Says whether it is, in time.
    fn flush(&self) -> tree::Result<bool> {
        self.keyspace.seal_memtable()?;
        let is_stopped = || self.is_stopped.load(Ordering::Relaxed);
        Ok(wait_for_flush(&self.keyspace, is_stopped))
    }

    /// Whether there is space for a step of a tree of that shape.
    fn fits(&self, goal: Goal, shape: &Shape) -> bool {
        let keyspace = &self.keyspace;
        match goal {
            Goal::ReduceL0 => l0_step_bytes(keyspace) <= (self.free_bytes)(),
            Goal::Reclaim if is_in_order(&shape.files) => l0_bytes(keyspace) <= self.spare_bytes(),
            Goal::Reclaim => STEP_FILES_MAX * STEP_TABLE_BYTES_MIN <= self.spare_bytes(),
        }
    }

    /// Whether the tree can be written anew as a whole if all of it is left.
    fn fits_whole(&self) -> bool {
        self.keyspace.table_bytes() < self.whole_bytes_max()
    }

    /// How much may be left of the tree, and a byte more, for it to be written
    /// anew as a whole: with those of the values apart that the database writes
    /// anew as well.
    fn whole_bytes_max(&self) -> u64 {
        let is_small = self.keyspace.table_bytes() < WHOLE_BYTES_MAX;
        let free = (self.free_bytes)().saturating_sub(blob_step_bytes(&self.keyspace));
        if is_small { free.div_ceil(2) } else { 0 }
    }

    /// What a step towards order may take for keys and the values with them.
    fn spare_bytes(&self) -> u64 {
        let kept = self.kept_bytes + blob_step_bytes(&self.keyspace);
        (self.free_bytes)().saturating_sub(kept)
    }

    /// The steps towards order that there is space for, of a tree of that shape.
    /// The first that finds something to do is the one.
    fn steps_to_order(&self, shape: &Shape) -> Vec<Step> {
        let sorted_files = sorted_files(&shape.files).iter().copied();
        let mut levels: Vec<(u8, usize)> = (1..).zip(sorted_files).collect();
        let deepest = levels.last().map_or(0, |&(level, _)| level);
        levels.retain(|&(_, files)| files > 0);
        let Some(&(lowest, _)) = levels.last() else {
            // What is unsorted goes to a level of its own, in files so small
            // that each has the keys of few others;
            let bytes = self.fine_bytes(l0_bytes(&self.keyspace));
            return vec![files_merged(1, bytes)];
        };
        // and from there to the last one, file by file: no level may hold
        // anything where there may be no unsorted file. One with an empty level
        // below it would be the last to be looked at.
        let mut steps: Vec<Step> = Vec::new();
        if lowest < deepest {
            steps.push(Step::Move { from: lowest, to: deepest });
        }
        let largest = (self.spare_bytes() / STEP_FILES_MAX).min(TABLE_BYTES);
        let sizes = iter::successors(Some(largest), |bytes| Some(bytes / 2))
            .take_while(|&bytes| bytes >= STEP_TABLE_BYTES_MIN);
        steps.extend(sizes.map(|bytes| files_merged(0, bytes)));
        // Where the files of the lowest level have the keys of too many, those
        // above come to them, and they are taken apart.
        let [(first, _), .., _] = levels[..] else { return steps };
        let bytes = self.fine_bytes(shape.above_bytes).min(largest);
        let files = u8::try_from(1 + l0_files(&self.keyspace)).unwrap_or(u8::MAX);
        for &(level, _) in levels.iter().rev().skip(1) {
            // By what each level may be larger than the one above it: what this
            // one is too large by is more than for any other.
            let mut ratios = vec![1.0; usize::from(level - first)];
            if let Some(ratio) = ratios.last_mut() {
                *ratio = NO_RATIO;
            }
            ratios.push(ANY_RATIO);
            steps.push(with_ratios(files, bytes, ratios));
        }
        if first_levels_bytes(&self.keyspace) <= self.spare_bytes() {
            steps.push(with_ratios(1, bytes, vec![ANY_RATIO]));
        }
        steps
    }

    /// How large files are to be, of which there are `bytes` above the last
    /// level, for each to have the keys of no more below than a step can take.
    fn fine_bytes(&self, bytes: u64) -> u64 {
        let step_bytes = (STEP_SHARE * TABLE_BYTES).min(self.spare_bytes() / 2);
        let bytes = bytes.saturating_mul(step_bytes) / self.keyspace.table_bytes().max(1);
        (bytes >> (2 * self.fineness)).clamp(FINE_TABLE_BYTES, TABLE_BYTES)
    }

    /// Has all that is above the last level be unsorted, to be sorted into
    /// smaller files once there is another unsorted one; or takes steps towards
    /// that. Says whether there was any.
    fn resplit(&self) -> tree::Result<bool> {
        let bytes_max = || self.spare_bytes().min(WHOLE_BYTES_MAX);
        let mut has_begun = false;
        // One level after the other, and what they come to.
        for _ in level_bytes(&self.keyspace) {
            if self.is_stopped.load(Ordering::Relaxed) {
                break;
            }
            let mut above: Vec<(u8, u64)> = (0..).zip(level_bytes(&self.keyspace)).collect();
            above.pop();
            above.retain(|&(_, bytes)| bytes > 0);
            match above[..] {
                [(level, bytes)] if bytes <= bytes_max() => {
                    self.compact(&Step::MoveToL0 { level })?;
                    return Ok(true);
                }
                [.., (upper, upper_bytes), (lower, lower_bytes)]
                    if upper_bytes + lower_bytes <= bytes_max() =>
                {
                    self.compact(&Step::Merge { from: upper, to: lower })?;
                    has_begun = true;
                }
                _ => break,
            }
        }
        Ok(has_begun)
    }

    /// Whether so little is left of the tree that it can be written anew as a
    /// whole. Reads all keys, unless it is too large.
    fn is_left_to_fit_whole(&self) -> tree::Result<bool> {
        let bytes_max = self.whole_bytes_max();
        let mut bytes = 0;
        let mut lengths = self.keyspace.value_lengths();
        while bytes < bytes_max {
            let Some(length) = lengths.next() else { return Ok(true) };
            bytes += ENTRY_OVERHEAD_BYTES + u64::from(length?.min(BLOB_VALUE_BYTES_MIN));
        }
        Ok(false)
    }
}

/// The space that a step needs for values that are kept apart.
fn blob_step_bytes(keyspace: &Keyspace) -> u64 {
    keyspace.disk_bytes().saturating_sub(keyspace.table_bytes()) / u64::from(BLOB_REWRITE_SHARE)
}

/// Merges files from one level into the next where there are more than there
/// may be: unsorted ones, or of `table_bytes` each.
fn files_merged(l0_files: u8, table_bytes: u64) -> Step {
    with_ratios(l0_files, table_bytes, vec![DEFAULT_RATIO])
}

fn with_ratios(l0_files: u8, table_bytes: u64, level_ratios: Vec<f32>) -> Step {
    Step::Leveled { l0_files, table_bytes, level_ratios }
}

/// Whether there is nothing between what is unsorted and the last level.
fn is_in_order(files: &[usize]) -> bool {
    sorted_files(files).iter().all(|&files| files == 0)
}

/// The files of the levels between what is unsorted and the last one.
fn sorted_files(files: &[usize]) -> &[usize] {
    if let [_unsorted, sorted @ .., _last] = files { sorted } else { &[] }
}

/// The files of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    /// How many each level has.
    files: Vec<usize>,
    bytes: u64,
    /// The bytes of those above the last level.
    above_bytes: u64,
}

impl Shape {
    fn last_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.above_bytes)
    }
}

fn shape_of(keyspace: &Keyspace) -> Shape {
    let levels = keyspace.levels();
    let above_bytes = levels.iter().rev().skip(1).map(|level| level.bytes).sum();
    let files = levels.iter().map(|level| level.files).collect();
    Shape { files, bytes: keyspace.table_bytes(), above_bytes }
}

/// The bytes of each level's files.
fn level_bytes(keyspace: &Keyspace) -> Vec<u64> {
    keyspace.levels().iter().map(|level| level.bytes).collect()
}

/// How many files hold what was written, in the order in which it was written.
fn l0_files(keyspace: &Keyspace) -> u64 {
    keyspace.l0_files() as u64
}

/// What they have.
fn l0_bytes(keyspace: &Keyspace) -> u64 {
    level_bytes(keyspace).first().copied().unwrap_or(0)
}

/// What is unsorted, which goes at once, and what the first level below it has
/// that holds anything, unless that is the last one.
fn first_levels_bytes(keyspace: &Keyspace) -> u64 {
    let bytes = level_bytes(keyspace);
    let Some((l0_bytes, [sorted @ .., _last])) = bytes.split_first() else { return 0 };
    l0_bytes + sorted.iter().find(|&&bytes| bytes > 0).unwrap_or(&0)
}

/// The space that a step of upkeep needs until what it replaces is gone.
fn l0_step_bytes(keyspace: &Keyspace) -> u64 {
    // All of the unsorted files go at once. Where there are more of them than
    // usual the others are small, or they were sorted before.
    let unsorted = l0_files(keyspace).min(L0_FILES_TO_COMPACT.into());
    let step_bytes = (unsorted * MEMTABLE_BYTES).max(STEP_SHARE * TABLE_BYTES);
    let step_bytes = step_bytes.max(l0_bytes(keyspace));
    step_bytes.min(keyspace.table_bytes() + MEMTABLE_BYTES) + blob_step_bytes(keyspace)
}

/// Waits until what was in memory when the tree turned to another memtable is in
/// files, unless there is a reason to give up. Says whether it is, in time.
pub fn wait_for_flush(keyspace: &Keyspace, gives_up: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while keyspace.sealed_memtables() > 0 {
        if begun.elapsed() > PATIENCE || gives_up() {
            return false;
        }
        thread::sleep(WAIT);
    }
    true
}

#[cfg(test)]
mod tests;
