//! The next step of compaction, from the shape of a tree and the space on its
//! disk. Pure: no clock and no disk.
//!
//! The space of a deleted or overwritten value is given back once its successor has
//! reached the last level. A small tree is merged as a whole; in a larger one steps
//! of a bounded size take the files above the last level down:
//!
//! ```text
//! L0         at once, into files so small that each overlaps few of L6
//! L1 to L4   empty: files move past them
//! L5         file by file into L6, smallest step first
//! L6         the last level
//! ```
//!
//! Where all files between overlap more of L6 than there is space for, a resplit
//! moves them back to L0, to be split into smaller ones. lsm-tree picks the files
//! of a step; the step bounds what it may pick.

use super::super::disk_space::{L0_FILES_TO_COMPACT, Scale};
use super::super::tree::{BLOB_REWRITE_SHARE, Level, Step};

/// A tree larger than this, without blobs, is not merged as a whole, and neither
/// are two of its levels.
pub const WHOLE_BYTES_MAX: u64 = 512 << 20;

/// A step takes a file from above, and usually no more than so many times as
/// much from below.
const STEP_SHARE: u64 = 16;

/// A small step takes about so many files.
const SMALL_STEP_SHARE: u64 = 8;

/// A step from one level to the next takes no more than so many of the files that
/// it makes: lsm-tree's own limit is 50 from below.
const STEP_FILES_MAX: u64 = 64;

/// The smallest files that a step down makes where there is little space, and the same as
/// one part in so many of a usual one.
const STEP_TABLE_BYTES_MIN: u64 = 64 << 10;
const STEP_TABLE_SHARE: u64 = 16;

/// The smallest files that L0 is split into. They may hold nothing but deletions,
/// which are many times smaller than the values. A block is no smaller.
const FINE_TABLE_BYTES_MIN: u64 = 1 << 10;

/// Each resplit makes files a quarter of the size, so often.
pub const FINENESS_MAX: u32 = 3;

/// The ratios of a level to the one above it past which lsm-tree takes a level to be
/// too large: its own; those of a level that never is; those of one that always is.
const LEVEL_RATIO: u16 = 10;
const ANY_RATIO: f32 = 1e37;
const NO_RATIO: f32 = 1e-37;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Fewer L0 files than compaction starts at.
    ReduceL0,
    /// Nothing above the last level, and so nothing deleted on the disk.
    Reclaim,
}

/// The files of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// L0 first.
    pub levels: Vec<Level>,
    pub blob_bytes: u64,
    /// The bytes of the smallest merge of files of each level into the next, if there is one
    /// and a step is picked: it takes a look at all tables.
    pub least_merges: Vec<Option<u64>>,
    /// Next to nothing is above the last level, where a step is picked.
    pub is_merged: bool,
}

/// The disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub free: u64,
    /// To be left free by steps of a reclaim: writes go on meanwhile, and obsolete
    /// files stay until the tree drops them.
    pub kept: u64,
}

/// The progress of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoFar {
    /// The shape has changed.
    pub has_stepped: bool,
    /// Something has reached the last level.
    pub has_moved: bool,
    /// The steps that have found nothing to do since the shape has changed.
    pub tries: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Pick {
    Step(Step),
    /// The first step of a resplit; [`Shape::resplit`] has the others.
    Resplit(Step),
    /// A merge of the whole tree.
    Whole,
    /// A merge of the whole tree if its live entries have fewer bytes than this; else
    /// the run is stuck.
    WholeIfBelow(u64),
    Stop(RunEnd),
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    Done,
    /// The run was stopped, or short of space as long as obsolete files are there.
    Early {
        has_stepped: bool,
        has_moved: bool,
    },
    /// No step was small enough, and the files above the last level are in L0 again,
    /// or on their way there.
    Resplit,
    /// No step is small enough.
    Stuck,
}

/// Picks the steps of one run.
#[derive(Clone, Copy, Debug)]
pub struct Picker {
    pub goal: Goal,
    /// How often a resplit has made files smaller.
    pub fineness: u32,
    pub may_resplit: bool,
    pub whole_bytes_max: u64,
    /// The directory has a limit, of which no step takes more than there is.
    pub is_limited: bool,
    /// A step takes what the disk has, whatever the limit.
    pub takes_disk: bool,
    /// The sizes of memtables and files.
    pub scale: Scale,
}

impl Picker {
    /// True if a run has space to begin.
    pub fn may_begin(&self, shape: &Shape, space: Space) -> bool {
        match self.goal {
            Goal::ReduceL0 if self.is_limited => !self.steps_of_l0(shape, space).is_empty(),
            Goal::ReduceL0 => shape.l0_step_bytes(self.scale) <= space.free,
            Goal::Reclaim => {
                shape.table_bytes() < self.whole_bytes_max
                    || shape.step_bytes_min(self.scale) <= shape.spare_bytes(space)
            }
        }
    }

    pub fn pick(&self, shape: &Shape, space: Space, so_far: SoFar) -> Pick {
        let SoFar { has_stepped, has_moved, tries } = so_far;
        let early = Pick::Stop(RunEnd::Early { has_stepped, has_moved });
        if self.goal == Goal::ReduceL0 && self.is_limited {
            let steps = self.steps_of_l0(shape, space);
            return match steps.into_iter().nth(tries) {
                Some(step) => Pick::Step(step),
                None if (tries > 0 || !has_stepped) && !self.scale.is_due(shape.l0()) => {
                    Pick::Stop(RunEnd::Done)
                }
                None => early,
            };
        }
        if self.goal == Goal::ReduceL0 {
            return if tries > 0 {
                Pick::Stop(RunEnd::Done)
            } else if shape.l0_step_bytes(self.scale) > space.free {
                early
            } else {
                Pick::Step(leveled(L0_FILES_TO_COMPACT, self.scale.table))
            };
        }
        let whole_bytes_max = self.whole_bytes_max(shape, space);
        let spare_bytes = shape.spare_bytes(space);
        if tries == 0 {
            if !has_stepped && shape.table_bytes() < whole_bytes_max {
                return Pick::Whole;
            }
            if shape.is_merged {
                return Pick::Stop(RunEnd::Done);
            }
            if shape.step_bytes_min(self.scale) > spare_bytes {
                return if has_stepped { early } else { Pick::WholeIfBelow(whole_bytes_max) };
            }
        }
        if shape.is_settled() {
            match shape.l0().files {
                0 => return Pick::Stop(RunEnd::Done),
                // A single file would move as it is. Once the tree has dropped
                // obsolete files there is another, with keys from all over.
                1 => return early,
                _ => {}
            }
        }
        if let Some(step) = self.steps(shape, spare_bytes).into_iter().nth(tries) {
            Pick::Step(step)
        } else if shape.is_settled() {
            Pick::Stop(RunEnd::Done)
        } else if has_moved {
            // Obsolete files may take the space for more.
            early
        } else {
            let resplit = if self.may_resplit { shape.resplit(space) } else { None };
            resplit.map_or(Pick::WholeIfBelow(whole_bytes_max), Pick::Resplit)
        }
    }

    /// The steps that reduce L0 within a limit: all of it at once, into all of the first level
    /// below it that has anything, if that fits; else files of that level first go down, or of
    /// the lowest that is not the last.
    fn steps_of_l0(&self, shape: &Shape, space: Space) -> Vec<Step> {
        let free = space.free.saturating_sub(shape.blob_step_bytes());
        let table_bytes = self.scale.table;
        let small_bytes = (SMALL_STEP_SHARE * table_bytes).min(shape.table_bytes());
        let is_due = self.scale.is_due(shape.l0());
        let mut steps = Vec::new();
        if shape.first_levels_bytes().max(small_bytes) <= free {
            // Few files may have as many bytes.
            let files = u8::try_from(shape.l0().files).unwrap_or(u8::MAX);
            let l0_files =
                if is_due { files.min(L0_FILES_TO_COMPACT) } else { L0_FILES_TO_COMPACT };
            if shape.fits_leveled(l0_files, table_bytes, free) {
                steps.push(leveled(l0_files, table_bytes));
            }
        }
        let l0_files = u8::try_from(1 + shape.l0().files).unwrap_or(u8::MAX);
        if small_bytes <= free {
            // Of files so small that this level is too large.
            let first_bytes = shape.first_level().map_or(0, |(_, level)| level.bytes);
            let largest = first_bytes / (u64::from(l0_files) + 1);
            let table_bytes = table_bytes.min(largest.max(STEP_TABLE_BYTES_MIN));
            if shape.fits_leveled(l0_files, table_bytes, free) {
                steps.push(leveled(l0_files, table_bytes));
            }
        }
        if is_due {
            steps.extend(shape.step_down(table_bytes, free));
        }
        if self.takes_disk && shape.first_levels_bytes() <= free {
            // Where another level is the one that is most too large lsm-tree takes that, and
            // does nothing if it has no files for it.
            let first = shape.first_level();
            steps.extend(first.map(|(to, _)| Step::Merge { from: 0, to }));
        }
        steps
    }

    /// The steps towards the last level; the first that finds something to do is
    /// the one.
    fn steps(&self, shape: &Shape, spare_bytes: u64) -> Vec<Step> {
        let between: Vec<(u8, &Level)> = (1..).zip(shape.between()).collect();
        let filled: Vec<u8> = between
            .iter()
            .filter(|(_, level)| level.files > 0)
            .map(|(number, _)| *number)
            .collect();
        let (Some(&lowest), Some(&(deepest, _))) = (filled.last(), between.last()) else {
            return vec![leveled(1, self.fine_bytes(shape.l0().bytes, shape, spare_bytes))];
        };
        let mut steps = Vec::new();
        // lsm-tree would look last at a level with an empty one below it.
        if lowest < deepest {
            steps.push(Step::Move { from: lowest, to: deepest });
        }
        // No level may hold anything where L0 may have no file.
        let small_bytes = (spare_bytes / STEP_FILES_MAX).min(self.scale.table);
        // Many small files take more of the disk than few large ones, and are needed only where
        // a step hardly fits.
        let least = shape.least_merge_bytes(deepest);
        let fits = least.is_some_and(|bytes| bytes <= spare_bytes / 2);
        let parts = if fits { STEP_SHARE } else { STEP_FILES_MAX };
        let table_bytes = (spare_bytes / parts).min(self.scale.table);
        if !self.is_limited || least.is_none_or(|bytes| bytes <= spare_bytes) {
            steps.push(leveled(0, table_bytes));
        }
        // Where the files of the lowest level overlap too much, files of the levels
        // above are merged into them, and they are split.
        let [first, .., _] = filled[..] else { return steps };
        let above_bytes = shape.table_bytes() - shape.last().bytes;
        let table_bytes = self.fine_bytes(above_bytes, shape, spare_bytes).min(small_bytes);
        let l0_files = u8::try_from(1 + shape.l0().files).unwrap_or(u8::MAX);
        for &level in filled.iter().rev().skip(1) {
            // This level is too large by more than any other.
            let mut level_ratios = vec![1.0; usize::from(level - first)];
            if let Some(ratio) = level_ratios.last_mut() {
                *ratio = NO_RATIO;
            }
            level_ratios.push(ANY_RATIO);
            steps.push(Step::Leveled { l0_files, table_bytes, level_ratios });
        }
        if shape.first_levels_bytes() <= spare_bytes {
            let level_ratios = vec![ANY_RATIO];
            steps.push(Step::Leveled { l0_files: 1, table_bytes, level_ratios });
        }
        steps
    }

    /// The size of files that bytes above the last level are split into, for each to
    /// overlap no more of it than a step can take.
    fn fine_bytes(&self, bytes: u64, shape: &Shape, spare_bytes: u64) -> u64 {
        let step_bytes = (STEP_SHARE * self.scale.table).min(spare_bytes / 2);
        let bytes = bytes.saturating_mul(step_bytes) / shape.table_bytes().max(1);
        (bytes >> (2 * self.fineness)).clamp(FINE_TABLE_BYTES_MIN, self.scale.table)
    }

    /// The size below which the live entries of a tree can be merged as a whole,
    /// with the blobs that are rewritten.
    pub fn whole_bytes_max(&self, shape: &Shape, space: Space) -> u64 {
        let free = space.free.saturating_sub(shape.blob_step_bytes());
        if shape.table_bytes() < self.whole_bytes_max { free.div_ceil(2) } else { 0 }
    }
}

impl Shape {
    pub fn l0(&self) -> Level {
        self.levels.first().copied().unwrap_or_default()
    }

    pub fn last(&self) -> Level {
        self.levels.last().copied().unwrap_or_default()
    }

    /// The levels between L0 and the last one.
    fn between(&self) -> &[Level] {
        if let [_l0, between @ .., _last] = &self.levels[..] { between } else { &[] }
    }

    /// Whether nothing is between L0 and the last level.
    fn is_settled(&self) -> bool {
        self.between().iter().all(|level| level.files == 0)
    }

    pub fn table_bytes(&self) -> u64 {
        self.levels.iter().map(|level| level.bytes).sum()
    }

    /// The first level between that holds anything, with its number.
    fn first_level(&self) -> Option<(u8, Level)> {
        (1..).zip(self.between().iter().copied()).find(|(_, level)| level.files > 0)
    }

    /// L0, and that level.
    fn first_levels_bytes(&self) -> u64 {
        self.l0().bytes + self.first_level().map_or(0, |(_, level)| level.bytes)
    }

    /// The bytes of the smallest merge of files of a level into the next, if there is one and
    /// it is known.
    fn least_merge_bytes(&self, level: u8) -> Option<u64> {
        self.least_merges.get(usize::from(level)).copied().flatten()
    }

    /// Returns true if a leveled step with the usual ratio takes no more than so many bytes
    /// where it takes files of a level that is larger than L0 by its measure.
    fn fits_leveled(&self, l0_files: u8, table_bytes: u64, free_bytes: u64) -> bool {
        let files = (self.l0().files as u64).max(l0_files.into());
        let mut bytes_max = table_bytes * files;
        let mut levels = (1..).zip(self.between()).skip_while(|(_, level)| level.files == 0);
        levels.all(|(number, level)| {
            let is_too_large = level.bytes > bytes_max;
            bytes_max = bytes_max.saturating_mul(LEVEL_RATIO.into());
            !is_too_large || self.least_merge_bytes(number).is_none_or(|least| least <= free_bytes)
        })
    }

    /// The step that takes files of the lowest level between that has any to the level above
    /// the last one, or from there into that, by the smallest merge that there is; `None` if
    /// that does not fit.
    fn step_down(&self, table_bytes: u64, free_bytes: u64) -> Option<Step> {
        let between: Vec<(u8, &Level)> = (1..).zip(self.between()).collect();
        let &(deepest, _) = between.last()?;
        let &(lowest, _) = between.iter().rfind(|(_, level)| level.files > 0)?;
        if lowest < deepest {
            return Some(Step::Move { from: lowest, to: deepest });
        }
        let fits = self.least_merge_bytes(lowest).is_none_or(|bytes| bytes <= free_bytes);
        fits.then(|| leveled(0, table_bytes))
    }

    /// The space that a step needs for blobs.
    fn blob_step_bytes(&self) -> u64 {
        self.blob_bytes / u64::from(BLOB_REWRITE_SHARE)
    }

    /// The space that a reduction of L0 needs until obsolete files are gone.
    fn l0_step_bytes(&self, scale: Scale) -> u64 {
        // All L0 files go at once. Where there are more than usual the others are
        // small, or a resplit has brought them there.
        let Level { files, bytes } = self.l0();
        let usual_files = (files as u64).min(L0_FILES_TO_COMPACT.into());
        let step_bytes = (usual_files * scale.memtable).max(STEP_SHARE * scale.table).max(bytes);
        step_bytes.min(self.table_bytes() + scale.memtable) + self.blob_step_bytes()
    }

    /// The least that the next step of a reclaim takes.
    fn step_bytes_min(&self, scale: Scale) -> u64 {
        let table_bytes = STEP_TABLE_BYTES_MIN.min(scale.table / STEP_TABLE_SHARE);
        if self.is_settled() { self.l0().bytes } else { STEP_FILES_MAX * table_bytes }
    }

    /// The space that a step of a reclaim may take for tables.
    fn spare_bytes(&self, space: Space) -> u64 {
        space.free.saturating_sub(space.kept + self.blob_step_bytes())
    }

    /// The step that merges L0 into the empty level above all that have anything, into files
    /// each of which overlaps no more of these than a step can take; `None` if a level is
    /// much larger than the next. lsm-tree takes that level where all others are too large, and
    /// L0 where none of these would be as many times too large one level below its own as
    /// that has files.
    pub fn l0_step_above(&self, scale: Scale, free_bytes: u64) -> Option<Step> {
        let l0_files = self.l0().files as u64;
        let steps = self.table_bytes() / (free_bytes / 2).max(1);
        let table_bytes_min = STEP_TABLE_BYTES_MIN.min(scale.table);
        let table_bytes = (self.l0().bytes / steps.max(1)).clamp(table_bytes_min, scale.table);
        let mut filled = self.levels.iter().skip(1).skip_while(|level| level.files == 0);
        let mut above_bytes = filled.next().map_or(0, |level| level.bytes);
        let mut target_bytes = table_bytes;
        let mut level_ratios = Vec::new();
        for level in filled {
            let next_bytes =
                if level.files == 0 { above_bytes / 7 * 8 } else { level.bytes / 8 * 7 };
            if l0_files * 3 * next_bytes < 4 * above_bytes {
                return None;
            }
            level_ratios.push(ratio(next_bytes, target_bytes));
            (above_bytes, target_bytes) = (level.bytes.max(above_bytes), next_bytes);
        }
        if level_ratios.is_empty() {
            level_ratios.push(LEVEL_RATIO.into());
        }
        Some(Step::Leveled { l0_files: 1, table_bytes, level_ratios })
    }

    /// The next step of a resplit: all levels above the last one are merged, from
    /// below, and moved to L0.
    pub fn resplit(&self, space: Space) -> Option<Step> {
        let bytes_max = self.spare_bytes(space).min(WHOLE_BYTES_MAX);
        let above = self.levels.split_last().map_or(&[][..], |(_last, above)| above);
        let filled = (0..).zip(above).filter(|(_, level)| level.files > 0);
        match filled.map(|(number, level)| (number, level.bytes)).collect::<Vec<_>>()[..] {
            [(level, bytes)] if bytes <= bytes_max => Some(Step::MoveToL0 { level }),
            [.., (from, from_bytes), (to, to_bytes)] if from_bytes + to_bytes <= bytes_max => {
                Some(Step::Merge { from, to })
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "both sides leave room")]
fn ratio(bytes: u64, of_bytes: u64) -> f32 {
    bytes as f32 / of_bytes.max(1) as f32
}

fn leveled(l0_files: u8, table_bytes: u64) -> Step {
    Step::Leveled { l0_files, table_bytes, level_ratios: vec![LEVEL_RATIO.into()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TABLE_BYTES: u64 = Scale::USUAL.table;

    /// A tree with these files and mebibytes in L0, L4, L5 and L6.
    fn shape([l0, l4, l5, l6]: [(usize, u64); 4]) -> Shape {
        let level = |(files, mib): (usize, u64)| Level { files, bytes: mib * MIB };
        let empty = Level::default();
        let levels = vec![level(l0), empty, empty, empty, level(l4), level(l5), level(l6)];
        let least_merges = vec![None; levels.len()];
        Shape { levels, blob_bytes: 0, least_merges, is_merged: false }
    }

    fn space(free_mib: u64, kept_mib: u64) -> Space {
        Space { free: free_mib * MIB, kept: kept_mib * MIB }
    }

    fn picker(goal: Goal) -> Picker {
        Picker {
            goal,
            fineness: 0,
            may_resplit: true,
            whole_bytes_max: WHOLE_BYTES_MAX,
            is_limited: false,
            takes_disk: false,
            scale: Scale::USUAL,
        }
    }

    const BEGUN: SoFar = SoFar { has_stepped: false, has_moved: false, tries: 0 };
    const STEPPED: SoFar = SoFar { has_stepped: true, ..BEGUN };
    const EXHAUSTED: SoFar = SoFar { tries: 9, ..BEGUN };

    fn early(so_far: SoFar) -> Pick {
        let SoFar { has_stepped, has_moved, .. } = so_far;
        Pick::Stop(RunEnd::Early { has_stepped, has_moved })
    }

    #[test]
    fn l0_is_reduced_where_there_is_space_for_all_of_it() {
        let merge = || Pick::Step(leveled(L0_FILES_TO_COMPACT, TABLE_BYTES));
        let done = || Pick::Stop(RunEnd::Done);
        let (small, usual) =
            ([(4, 1), (0, 0), (0, 0), (1, 4)], [(4, 64), (0, 0), (9, 36), (99, 396)]);
        let large = [(9, 200), (0, 0), (9, 36), (99, 396)];
        for (levels, free_mib, so_far, expected) in [
            (small, 21, BEGUN, merge()),
            (small, 20, BEGUN, early(BEGUN)),
            (usual, 64, BEGUN, merge()),
            (usual, 63, BEGUN, early(BEGUN)),
            (usual, 63, STEPPED, early(STEPPED)),
            (large, 200, BEGUN, merge()),
            (large, 199, BEGUN, early(BEGUN)),
            (usual, 64, EXHAUSTED, done()),
        ] {
            let (shape, space) = (shape(levels), space(free_mib, free_mib));
            let picker = picker(Goal::ReduceL0);
            assert_eq!(picker.pick(&shape, space, so_far), expected, "{levels:?} {free_mib}");
            let may_begin = !matches!(expected, Pick::Stop(RunEnd::Early { .. }));
            assert_eq!(picker.may_begin(&shape, space), may_begin, "{levels:?} {free_mib}");
        }
    }

    #[test]
    fn within_a_limit_l0_is_reduced_where_the_level_below_fits_too() {
        let scale = Scale { memtable: MIB, table: MIB, l0_max: 4 * MIB, ..Scale::USUAL };
        let limited = Picker { is_limited: true, scale, ..picker(Goal::ReduceL0) };
        let all = || Pick::Step(leveled(L0_FILES_TO_COMPACT, MIB));
        let below = || Pick::Step(leveled(9, MIB));
        let down = || Pick::Step(leveled(0, MIB));
        let of_least = |levels, least_mib: u64| {
            let mut shape = shape(levels);
            shape.least_merges[5] = Some(least_mib * MIB);
            shape
        };
        let levels = [(8, 8), (0, 0), (12, 12), (60, 60)];
        for (least_mib, free_mib, tries, expected) in [
            (5, 20, 0, all()),
            (5, 20, 1, below()),
            (5, 20, 2, down()),
            (5, 20, 3, early(BEGUN)),
            // Files go down until there is space for all.
            (5, 19, 0, below()),
            (5, 8, 0, below()),
            (5, 7, 0, down()),
            (5, 4, 0, early(BEGUN)),
            // Those are what a step would take, and not L0.
            (10, 9, 0, early(BEGUN)),
            (21, 20, 0, early(BEGUN)),
        ] {
            let (shape, space) = (of_least(levels, least_mib), space(free_mib, 0));
            let so_far = SoFar { tries, ..BEGUN };
            let picked = limited.pick(&shape, space, so_far);
            assert_eq!(picked, expected, "{least_mib} {free_mib} {tries}");
            let may_begin = limited.may_begin(&shape, space);
            assert!(may_begin || expected == early(BEGUN), "{least_mib} {free_mib} {tries}");
        }
        let beyond = Picker { takes_disk: true, ..limited };
        for (free_mib, tries, expected) in [
            (20, 2, down()),
            (20, 3, Pick::Step(Step::Merge { from: 0, to: 5 })),
            (20, 4, early(BEGUN)),
            (19, 2, early(BEGUN)),
        ] {
            let (shape, space) = (of_least(levels, 5), space(free_mib, 0));
            let so_far = SoFar { tries, ..BEGUN };
            assert_eq!(beyond.pick(&shape, space, so_far), expected, "{free_mib} {tries}");
        }
        // Files of usual size would be none too many for that level.
        let small = of_least([(8, 8), (0, 0), (6, 6), (60, 60)], 5);
        let (below, down) = (leveled(9, 6 * MIB / 10), Step::Move { from: 4, to: 5 });
        assert_eq!(limited.pick(&small, space(13, 0), BEGUN), Pick::Step(below));
        let above = shape([(8, 8), (12, 12), (0, 0), (60, 60)]);
        assert_eq!(limited.pick(&above, space(7, 0), BEGUN), Pick::Step(down));
        let few = shape([(2, 2), (0, 0), (12, 12), (60, 60)]);
        for (free_mib, so_far, end) in [
            (20, EXHAUSTED, RunEnd::Done),
            (7, BEGUN, RunEnd::Done),
            (7, STEPPED, RunEnd::Early { has_stepped: true, has_moved: false }),
        ] {
            assert_eq!(limited.pick(&few, space(free_mib, 0), so_far), Pick::Stop(end));
        }
        let large = shape([(2, 4), (0, 0), (12, 12), (60, 60)]);
        assert_eq!(limited.pick(&large, space(20, 0), BEGUN), Pick::Step(leveled(2, MIB)));
    }

    /// A level may have a single file that overlaps all of another.
    #[test]
    fn within_a_limit_no_step_takes_more_than_there_is() {
        let scale = Scale { memtable: MIB, table: MIB, l0_max: 16 * MIB, ..Scale::USUAL };
        let mut shape = shape([(3, 3), (17, 17), (9, 9), (60, 60)]);
        for (least_mib, fits) in [(20, true), (21, false)] {
            shape.least_merges[4] = Some(least_mib * MIB);
            let limited = Picker { is_limited: true, scale, ..picker(Goal::ReduceL0) };
            let pick = limited.pick(&shape, space(20, 0), BEGUN);
            let expected = leveled(L0_FILES_TO_COMPACT, MIB);
            assert_eq!(pick == Pick::Step(expected), fits, "{least_mib} {pick:?}");
        }
        for (is_limited, least_mib, fits) in
            [(true, 20, true), (true, 21, false), (false, 21, true)]
        {
            shape.least_merges[5] = Some(least_mib * MIB);
            let reclaims = Picker { is_limited, ..picker(Goal::Reclaim) };
            let pick = reclaims.pick(&shape, space(20, 0), BEGUN);
            let takes_it = matches!(pick, Pick::Step(Step::Leveled { l0_files: 0, .. }));
            assert_eq!(takes_it, fits, "{is_limited} {least_mib} {pick:?}");
        }
    }

    #[test]
    fn a_tree_that_fits_twice_is_merged_as_a_whole() {
        let small = [(1, 10), (0, 0), (0, 0), (20, 80)];
        let large = [(1, 10), (0, 0), (0, 0), (200, 502)];
        for (levels, free_mib, so_far, is_whole) in [
            (small, 181, BEGUN, true),
            (small, 180, BEGUN, false),
            (small, 181, STEPPED, false),
            (small, 181, EXHAUSTED, false),
            (large, 9999, BEGUN, false),
        ] {
            let pick = picker(Goal::Reclaim).pick(&shape(levels), space(free_mib, 0), so_far);
            assert_eq!(pick == Pick::Whole, is_whole, "{levels:?} {free_mib} {so_far:?}");
        }
    }

    #[test]
    fn a_large_tree_is_reclaimed_from_below_and_file_by_file() {
        let step = |step| Pick::Step(step);
        let (last, none) = ((500, 2000), (0, 0));
        for (levels, free_mib, expected) in [
            // Nothing is above the last level.
            ([none, none, none, last], 512, Pick::Stop(RunEnd::Done)),
            // A single file would move as it is.
            ([(1, 10), none, none, last], 512, early(BEGUN)),
            // Its files overlap an eighth of the space each.
            ([(2, 20), none, none, last], 512, step(leveled(1, 20 * MIB * 64 / 2020))),
            ([(2, 20), none, none, last], 64, step(leveled(1, 20 * MIB * 32 / 2020))),
            ([(2, 20), (3, 12), none, last], 512, step(Step::Move { from: 4, to: 5 })),
            ([(2, 20), (3, 12), (9, 36), last], 512, step(leveled(0, TABLE_BYTES))),
            ([none, none, (9, 36), last], 128, step(leveled(0, 2 * MIB))),
            // There is no space for L0 at once, or for the smallest step.
            ([(2, 20), none, none, last], 19, Pick::WholeIfBelow(0)),
            ([none, none, (9, 36), last], 3, Pick::WholeIfBelow(0)),
        ] {
            let pick = picker(Goal::Reclaim).pick(&shape(levels), space(free_mib, 0), BEGUN);
            assert_eq!(pick, expected, "{levels:?} {free_mib}");
            // Half of what is free is left for what others write.
            let pick =
                picker(Goal::Reclaim).pick(&shape(levels), space(2 * free_mib, free_mib), BEGUN);
            assert_eq!(pick, expected, "{levels:?} {free_mib}");
        }
    }

    /// Many small files would take more of the disk.
    #[test]
    fn a_merge_that_fits_makes_files_of_the_usual_size() {
        for (least_mib, table_bytes) in [(32, TABLE_BYTES), (33, MIB)] {
            let mut shape = shape([(0, 0), (0, 0), (9, 36), (500, 2000)]);
            shape.least_merges[5] = Some(least_mib * MIB);
            let pick = picker(Goal::Reclaim).pick(&shape, space(64, 0), BEGUN);
            assert_eq!(pick, Pick::Step(leveled(0, table_bytes)), "{least_mib}");
        }
    }

    #[test]
    fn where_the_files_of_a_level_overlap_too_much_those_above_come_to_them() {
        let two_levels = shape([(2, 20), (3, 12), (9, 36), (500, 2000)]);
        let mut three_levels = two_levels.clone();
        three_levels.levels[2] = Level { files: 1, bytes: MIB };
        let (any, none) = (ANY_RATIO, NO_RATIO);
        for (shape, free_mib, expected) in [
            (&two_levels, 64, vec![(3, vec![any]), (1, vec![any])]),
            // L0 and the first level are more than that.
            (&two_levels, 31, vec![(3, vec![any])]),
            (&three_levels, 64, vec![(3, vec![1.0, none, any]), (3, vec![any]), (1, vec![any])]),
        ] {
            let pick = |tries| {
                let so_far = SoFar { tries, ..BEGUN };
                picker(Goal::Reclaim).pick(shape, space(free_mib, 0), so_far)
            };
            let steps: Vec<_> = (1..)
                .map_while(|tries| {
                    let Pick::Step(Step::Leveled { l0_files, table_bytes, level_ratios }) =
                        pick(tries)
                    else {
                        return None;
                    };
                    assert!(table_bytes <= free_mib * MIB / STEP_FILES_MAX, "{table_bytes}");
                    Some((l0_files, level_ratios))
                })
                .collect();
            assert_eq!(steps, expected, "{free_mib}");
        }
    }

    #[test]
    fn each_resplit_makes_smaller_files() {
        let levels = shape([(2, 20), (0, 0), (0, 0), (500, 2000)]);
        let sizes: Vec<u64> = (0..=FINENESS_MAX)
            .map(|fineness| {
                let picker = Picker { fineness, ..picker(Goal::Reclaim) };
                let pick = picker.pick(&levels, space(512, 0), BEGUN);
                let Pick::Step(Step::Leveled { table_bytes, .. }) = pick else {
                    panic!("{pick:?}");
                };
                table_bytes
            })
            .collect();
        assert!(sizes.is_sorted_by(|larger, smaller| larger / 4 == *smaller), "{sizes:?}");
    }

    /// A file that was made to release others has keys from all over, and no step fits.
    #[test]
    fn a_tree_that_is_merged_but_for_files_that_release_others_is_done() {
        for so_far in [BEGUN, STEPPED] {
            let mut shape = shape([(2, 1), (0, 0), (1, 1), (500, 2000)]);
            shape.is_merged = true;
            let pick = picker(Goal::Reclaim).pick(&shape, space(512, 0), so_far);
            assert_eq!(pick, Pick::Stop(RunEnd::Done), "{so_far:?}");
        }
    }

    #[test]
    fn where_no_step_finds_anything_files_are_resplit_or_the_rest_is_merged() {
        let (last, none) = ((500, 2000), (0, 0));
        let moved = SoFar { has_stepped: true, has_moved: true, tries: 9 };
        let merge = |from, to| Pick::Resplit(Step::Merge { from, to });
        for (levels, free_mib, so_far, expected) in [
            ([(2, 20), none, none, last], 512, EXHAUSTED, Pick::Stop(RunEnd::Done)),
            ([none, none, (9, 36), last], 512, moved, early(moved)),
            (
                [none, none, (9, 36), last],
                36,
                EXHAUSTED,
                Pick::Resplit(Step::MoveToL0 { level: 5 }),
            ),
            ([none, none, (9, 36), last], 35, EXHAUSTED, Pick::WholeIfBelow(0)),
            ([(2, 20), none, (9, 36), last], 56, EXHAUSTED, merge(0, 5)),
            ([(2, 20), (3, 12), (9, 36), last], 48, EXHAUSTED, merge(4, 5)),
            ([(2, 20), (3, 12), (9, 36), last], 47, EXHAUSTED, Pick::WholeIfBelow(0)),
            ([none, none, (9, 36), (9, 90)], 35, EXHAUSTED, Pick::WholeIfBelow(35 * MIB / 2)),
        ] {
            let pick = picker(Goal::Reclaim).pick(&shape(levels), space(free_mib, 0), so_far);
            assert_eq!(pick, expected, "{levels:?} {free_mib} {so_far:?}");
        }
        let picker = Picker { may_resplit: false, ..picker(Goal::Reclaim) };
        let pick = picker.pick(&shape([none, none, (9, 36), last]), space(512, 0), EXHAUSTED);
        assert_eq!(pick, Pick::WholeIfBelow(0));
    }

    #[test]
    fn blobs_take_their_part_of_the_space() {
        let mut tree = shape([(4, 64), (0, 0), (0, 0), (500, 2000)]);
        tree.blob_bytes = 2000 * MIB;
        for (goal, enough_mib) in [(Goal::ReduceL0, 164), (Goal::Reclaim, 164)] {
            let may_begin = |free_mib| picker(goal).may_begin(&tree, space(free_mib, 0));
            assert!(may_begin(enough_mib) && !may_begin(enough_mib - 1), "{goal:?}");
        }
    }
}
