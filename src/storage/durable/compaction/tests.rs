//! Compaction of real trees; `picker` has tables of its rules.

use super::picker::Shape;
use super::*;
use crate::storage::Limits;
use crate::storage::durable::directory::Directory;
use crate::storage::durable::disk_space::Scale;
use crate::storage::durable::tree::{Step, TABLE_BYTES};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A tree of a database of its own, and the directory of that.
struct Tree {
    live: Live,
    _directory: (Directory, TempDir),
}

impl Tree {
    fn new() -> Self {
        let (live, directory) = Live::of_new_store(Limits::default());
        Self { live, _directory: directory }
    }

    /// Has the next file have keys from all over.
    fn widen_bounds(&self) {
        let widened = self.live.widen_bounds(self.keyspace());
        widened.expect("it is written");
    }

    fn keyspace(&self) -> &Keyspace {
        self.live.generation.keys()
    }

    /// Writes into a file of their own what the tree did not hold before.
    fn write(&self, keys: impl IntoIterator<Item = usize>, value: Option<&[u8]>) {
        for key in keys {
            let key = key.to_be_bytes();
            match value {
                Some(value) => self.keyspace().insert(key, value),
                None => self.keyspace().remove(key),
            }
            .expect("it is written");
        }
        // No snapshot has what was there before.
        self.live.batch().commit().expect("it is written");
        assert!(self.reclaim().flush().expect("it is in a file"));
    }

    /// A run that reclaims, but never merges the tree as a whole.
    fn reclaim(&self) -> Run {
        let goal = Goal::Reclaim;
        Run {
            database: self.live.database().clone(),
            keyspace: self.keyspace().clone(),
            picker: Picker {
                goal,
                fineness: 0,
                may_resplit: true,
                whole_bytes_max: 0,
                is_limited: false,
                takes_disk: false,
                scale: Scale::USUAL,
            },
            free_bytes: Box::new(|| u64::MAX),
            kept_bytes: 0,
            time_max: Duration::MAX,
            is_stopped: Arc::default(),
            progress: Arc::default(),
            figures: Arc::default(),
        }
    }

    fn shape(&self) -> Shape {
        shape_of(self.keyspace())
    }

    fn table_bytes(&self) -> u64 {
        self.shape().table_bytes()
    }

    /// How many files each level has.
    fn files(&self) -> Vec<usize> {
        self.shape().levels.iter().map(|level| level.files).collect()
    }

    /// The bytes above the last level.
    fn above_bytes(&self) -> u64 {
        let shape = self.shape();
        shape.table_bytes() - shape.last().bytes
    }

    /// Is in the way of the file after so many that are made next.
    fn obstacle_after(&self, files: u64) -> PathBuf {
        let number = self.keyspace().next_table_id() + files;
        let obstacle = self.keyspace().path().join("tables").join(number.to_string());
        fs::create_dir(&obstacle).expect("there is no such file");
        obstacle
    }

    fn compact(&self, step: &Step) {
        self.live.database().compact(self.keyspace(), step).expect("nothing is in its way");
    }

    fn begin(&self, compactor: &mut Compactor, trigger: Trigger) {
        compactor.begin(&self.live, self.keyspace(), trigger);
    }

    #[track_caller]
    fn holds(&self, keys: impl IntoIterator<Item = usize>, value: Option<&[u8]>) {
        for key in keys {
            let found = self.keyspace().get(key.to_be_bytes()).expect("it can be read");
            assert_eq!(found.as_deref(), value, "{key}");
        }
    }
}

#[test]
fn a_run_has_the_goal_of_its_trigger() {
    use Trigger::{Idle, NoSpace, Write};

    let waits = NoSpace(Duration::ZERO);
    let (reduce, reclaim) = (Some(Goal::ReduceL0), Some(Goal::Reclaim));
    // Of a tree of a thousand keys, of which a quarter is much.
    for (trigger, l0_files, changes, deletions, unfinished, expected) in [
        (Write, 3, 250, 250, None, None),
        (Write, 4, 250, 250, None, reduce),
        (Write, 0, 0, 0, reduce, reduce),
        (Write, 0, 0, 0, reclaim, None),
        (Idle, 4, 249, 249, None, reduce),
        (Idle, 4, 250, 0, None, reclaim),
        (Idle, 0, 0, 0, reclaim, reclaim),
        (waits, 0, 249, 15, None, None),
        (waits, 0, 16, 16, None, reclaim),
        (waits, 19, 250, 0, None, reclaim),
        // Each round of a reclaim makes another L0 file.
        (waits, 20, 250, 250, reclaim, reduce),
    ] {
        let compactor = Compactor { changes, deletions, unfinished, ..Compactor::default() };
        let l0 = Level { files: l0_files, bytes: 0 };
        let goal = compactor.goal(trigger, Scale::USUAL, l0, || 1000);
        assert_eq!(goal, expected, "{trigger:?} {l0_files} {changes} {deletions} {unfinished:?}");
    }
    // Within a limit writes wait at so many bytes, which few files may have.
    let scale = Scale { l0_max: 4096, ..Scale::USUAL };
    for (bytes, expected) in [(4095, None), (4096, reduce)] {
        let goal = Compactor::default().goal(Write, scale, Level { files: 1, bytes }, || 1000);
        assert_eq!(goal, expected, "{bytes}");
    }
}

#[test]
fn files_are_merged_here_and_not_by_the_database() {
    let (tree, mut compactor) = (Tree::new(), Compactor::default());
    for round in 0_u8..6 {
        tree.write(0..100, Some(&[round; 100]));
    }
    while tree.live.database().active_compactions() > 0 {
        thread::sleep(WAIT);
    }
    let before = tree.keyspace().l0().files;
    assert!(before >= 5, "{before} files");
    tree.begin(&mut compactor, Trigger::Write);
    assert!(compactor.finish() && compactor.unfinished.is_none());
    assert_eq!(tree.keyspace().l0().files, 0);
    tree.holds(0..100, Some(&[5; 100]));
    tree.begin(&mut compactor, Trigger::Write);
    assert!(!compactor.is_running(), "there is nothing to do");
}

/// Keys of a tree of which nine in ten are deleted.
const MOSTLY_DELETED_KEYS: usize = 10_000;

const LARGE_VALUE: [u8; 2000] = [b'x'; 2000];

fn deleted() -> impl Iterator<Item = usize> {
    (0..MOSTLY_DELETED_KEYS).filter(|key| key % 10 != 0)
}

/// Such a tree, and the bytes of its tables before the deletions.
fn mostly_deleted() -> (Tree, u64) {
    let tree = Tree::new();
    tree.write(0..MOSTLY_DELETED_KEYS / 2, Some(&LARGE_VALUE));
    tree.write(MOSTLY_DELETED_KEYS / 2..MOSTLY_DELETED_KEYS, Some(&LARGE_VALUE));
    let full = tree.table_bytes();
    tree.write(deleted(), None);
    (tree, full)
}

fn holds_what_is_left(tree: &Tree) {
    tree.holds(deleted(), None);
    tree.holds((0..MOSTLY_DELETED_KEYS).step_by(10), Some(&LARGE_VALUE));
}

#[test]
fn what_was_deleted_goes_step_by_step() {
    let (tree, full) = mostly_deleted();
    let ended = tree.reclaim().run().expect("it is put in order");
    assert!(matches!(ended, RunEnd::Done));
    let shape = tree.shape();
    let left = shape.table_bytes();
    assert!(left < full / 8, "{left} of {full} bytes are left");
    let (last, others) = shape.levels.split_last().expect("there are levels");
    assert!(last.files > 0 && others.iter().all(|level| level.files == 0), "{shape:?}");
    holds_what_is_left(&tree);
}

#[test]
fn a_run_that_is_stopped_is_continued() {
    let tree = Tree::new();
    tree.write(0..100, Some(b"value"));
    tree.write(0..90, None);
    let run = tree.reclaim();
    run.is_stopped.store(true, Ordering::Relaxed);
    assert!(matches!(run.run(), Ok(RunEnd::Early { .. })));

    let mut compactor = Compactor { unfinished: Some(Goal::Reclaim), ..Compactor::default() };
    tree.begin(&mut compactor, Trigger::Write);
    assert!(!compactor.is_running(), "others write");
    tree.begin(&mut compactor, Trigger::Idle);
    assert!(compactor.finish() && compactor.unfinished.is_none());
    tree.holds(90..100, Some(b"value"));
}

/// A slow disk gets somewhere too.
#[test]
fn a_run_that_has_no_time_takes_a_step_all_the_same() {
    const RUNS_MAX: usize = 100;
    let (tree, full) = mostly_deleted();
    let run = Run { time_max: Duration::ZERO, ..tree.reclaim() };
    let runs = (0..RUNS_MAX).map(|_| run.run().expect("nothing fails"));
    let unfinished = runs.take_while(|ended| !matches!(ended, RunEnd::Done));
    let stepped = unfinished.inspect(|ended| {
        assert!(matches!(ended, RunEnd::Early { has_stepped: true, .. }), "{ended:?}");
    });
    let runs = stepped.count();
    assert!(runs > 1 && runs < RUNS_MAX, "{runs} runs");
    let left = tree.table_bytes();
    assert!(left < full / 8, "{left} of {full} bytes are left");
    holds_what_is_left(&tree);
}

/// A disk that was full for a moment must not be for ten seconds.
#[test]
fn a_run_that_has_failed_does_not_keep_the_next_from_making_room() {
    let (tree, mut compactor) = (Tree::new(), Compactor::default());
    tree.write(0..100, Some(b"value"));
    tree.write(0..90, None);
    compactor.note(190, 90);
    let obstacle = tree.obstacle_after(0);
    tree.begin(&mut compactor, Trigger::NoSpace(Duration::MAX));
    assert!(compactor.finish() && compactor.unfinished.is_some() && !compactor.round.has_progress);
    fs::remove_dir(obstacle).expect("it is in the way");
    tree.begin(&mut compactor, Trigger::Write);
    assert!(!compactor.is_running(), "it may fail again");
    tree.begin(&mut compactor, Trigger::NoSpace(Duration::MAX));
    assert!(compactor.finish() && compactor.round.has_progress && compactor.unfinished.is_none());
    tree.holds(0..90, None);
    tree.holds(90..100, Some(b"value"));
}

/// Deletions of all over the tree, so few that one file has them, are more
/// than a step can take.
#[test]
fn what_no_step_can_take_is_written_anew_as_a_whole() {
    const KEYS: usize = 56_000;
    let tree = Tree::new();
    // Compressed it would be too little.
    let mut random = 1_u64;
    let mut word = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.rotate_left(29).to_le_bytes()
    };
    let values: Vec<u8> = (0..250_000).flat_map(|_| word()).collect();
    for start in (0..KEYS).step_by(4000) {
        for key in start..start + 4000 {
            let value = values.chunks(4000).nth(key % 500).expect("there are 500");
            tree.keyspace().insert(key.to_be_bytes(), value).expect("it is written");
        }
        tree.write([], None);
    }
    assert!(matches!(tree.reclaim().run(), Ok(RunEnd::Done)));
    let full = tree.table_bytes();
    let is_deleted = |key: &usize| key.is_multiple_of(10);
    tree.write((0..KEYS).filter(is_deleted), None);
    // By itself it would have waited for another one, to be taken apart.
    tree.compact(&leveled(1, TABLE_BYTES));
    // What is left of the tree can be merged as a whole, and all of it cannot.
    let mut run = tree.reclaim();
    run.picker = Picker { may_resplit: false, whole_bytes_max: WHOLE_BYTES_MAX, ..run.picker };
    run.free_bytes = Box::new(move || 2 * full / 40 * 39);
    assert!(matches!(run.run(), Ok(RunEnd::Done)));
    let left = tree.table_bytes();
    assert!(left < full / 20 * 19, "{left} of {full} bytes are left");
    tree.holds((0..KEYS).filter(is_deleted), None);
}

#[test]
fn a_single_file_of_deletions_is_split_once_there_is_another() {
    const KEYS: usize = 10_000;
    let tree = Tree::new();
    tree.write(0..KEYS, Some(&[b'x'; 1000]));
    tree.keyspace().major_compact(TABLE_BYTES).expect("it is in the last level");
    tree.write((0..KEYS).step_by(2), None);
    let full = tree.table_bytes();
    assert!(matches!(tree.reclaim().run(), Ok(RunEnd::Early { .. })));
    assert_eq!(tree.keyspace().l0().files, 1);
    tree.widen_bounds();
    assert!(matches!(tree.reclaim().run(), Ok(RunEnd::Done)));
    let left = tree.table_bytes();
    assert!(left < full / 5 * 3, "{left} of {full} bytes are left");
    tree.holds((0..KEYS).step_by(2), None);
    tree.holds((1..KEYS).step_by(2), Some(&[b'x'; 1000]));
}

/// By itself it would move to where the resplit has taken it from.
#[test]
fn what_a_resplit_has_brought_to_l0_waits_for_another_run() {
    let tree = Tree::new();
    tree.write(0..1000, Some(b"before"));
    tree.keyspace().major_compact(TABLE_BYTES).expect("it is in the last level");
    tree.write(0..1000, Some(b"value"));
    let keyspace = tree.keyspace();
    let mut compactor = Compactor { is_resplit: true, ..Compactor::default() };
    assert_eq!(compactor.l0_to_merge(keyspace), Level::default());
    tree.widen_bounds();
    tree.write([], None);
    assert_eq!(compactor.l0_to_merge(keyspace), keyspace.l0());
    compactor.is_resplit = false;
    assert_eq!(compactor.l0_to_merge(keyspace), keyspace.l0());
}

#[test]
fn a_file_that_releases_others_is_nothing_to_merge() {
    let tree = Tree::new();
    tree.write(0..100, Some(b"value"));
    tree.keyspace().major_compact(TABLE_BYTES).expect("it is in the last level");
    assert!(tree.keyspace().is_merged());
    tree.widen_bounds();
    tree.write([], None);
    assert_eq!(tree.keyspace().l0().files, 1);
    assert!(tree.keyspace().is_merged());
    tree.write([7], None);
    assert!(!tree.keyspace().is_merged(), "a deletion");
}

#[test]
fn what_is_awaited_of_a_run_is_what_its_deletions_have_not_given_back() {
    for (before, now, stale, left) in [
        (Some(1000), 1000, 0, 500),
        (Some(1000), 250, 0, 125),
        (Some(1000), 0, 0, 0),
        // Blobs go with the next merge.
        (Some(1000), 250, 100, 225),
        (Some(1000), 0, 900, 500),
        // Others came meanwhile.
        (Some(1000), 1500, 0, 500),
        (Some(0), 10, 0, 0),
        // It was no reclaim.
        (None, 0, 0, 500),
    ] {
        let compactor =
            Compactor { is_awaited: true, reclaim_deletions: before, ..Compactor::default() };
        assert_eq!(compactor.left_of(500, now, stale), left, "{before:?} {now} {stale}");
    }
    assert_eq!(Compactor::default().left_of(500, 1000, 900), 0, "all of it is done");
}

fn leveled(l0_files: u8, table_bytes: u64) -> Step {
    Step::Leveled { l0_files, table_bytes, level_ratios: vec![10.0] }
}

/// A tree of many keys, and what it is to hold: a thousand times a letter each.
struct Letters {
    tree: Tree,
    expected: Vec<Option<u8>>,
}

impl Letters {
    /// All `a`, in small files of the last level.
    fn new() -> Self {
        let mut letters = Self { tree: Tree::new(), expected: vec![None; 20_000] };
        letters.write(1, 1, Some(b'a'));
        let keyspace = letters.tree.keyspace();
        keyspace.major_compact(64 << 10).expect("it is in the last level");
        letters
    }

    /// Writes every so manyth key from one on.
    fn write(&mut self, first: usize, each: usize, letter: Option<u8>) {
        let keys = || (first..self.expected.len()).step_by(each);
        self.tree.write(keys(), letter.map(|letter| [letter; 1000]).as_ref().map(|it| &it[..]));
        for expected in self.expected.iter_mut().skip(first).step_by(each) {
            *expected = letter;
        }
    }

    /// Merges L0 into a level, as one file.
    fn merge_into(&self, level: u8) {
        self.tree.compact(&Step::Merge { from: 0, to: level });
    }

    /// Takes runs until all is in order where `free_bytes` are free, but for a
    /// file that has keys from all over and nothing else. Says in how many of
    /// them files were resplit.
    fn put_in_order(&self, free_bytes: u64) -> u32 {
        const RUNS_MAX: usize = 12;
        let mut fineness = 0;
        for _ in 0..RUNS_MAX {
            let mut run = self.tree.reclaim();
            run.free_bytes = Box::new(move || free_bytes);
            run.picker = Picker { fineness, may_resplit: fineness < FINENESS_MAX, ..run.picker };
            match run.run().expect("nothing fails") {
                RunEnd::Done => return fineness,
                RunEnd::Early { .. } => {}
                RunEnd::Resplit => fineness += 1,
                RunEnd::Stuck => {
                    let above_bytes = self.tree.above_bytes();
                    assert!(above_bytes < 4096, "no step is small enough for {above_bytes}");
                    return fineness;
                }
            }
            self.tree.widen_bounds();
            self.tree.write([], None);
        }
        panic!("there is no end to it");
    }

    fn hold(&self) {
        for (key, letter) in self.expected.iter().enumerate() {
            let value = letter.map(|letter| [letter; 1000]);
            self.tree.holds([key], value.as_ref().map(|it| &it[..]));
        }
    }
}

/// What was deleted is in files of which each has the keys of more than a step
/// can take; what was written last stays what is read.
#[test]
fn files_that_no_step_can_take_are_resplit() {
    let mut letters = Letters::new();
    let full = letters.tree.table_bytes();
    letters.write(10, 20, None);
    letters.write(1, 500, None);
    letters.write(5, 500, Some(b'b'));
    letters.merge_into(5);
    letters.write(20, 20, None);
    letters.write(1, 500, Some(b'c'));
    letters.write(5, 1000, Some(b'c'));
    letters.merge_into(4);
    letters.write(5, 2000, Some(b'd'));
    assert!(letters.put_in_order(6 << 20) > 0, "no file was too large");
    let left = letters.tree.table_bytes();
    assert!(left < full / 20 * 19, "{left} of {full} bytes are left");
    letters.hold();
}

/// Less than there is above the last level.
const FREE_BYTES: u64 = 9 << 19;

/// The same where any two of the levels are more than can be merged at once.
#[test]
fn levels_that_no_step_can_take_are_merged_file_by_file() {
    let all = [(1, b'b', 5), (3, b'c', 4), (7, b'd', 3), (6, b'e', 2)];
    for levels in (2..=all.len()).map(|count| &all[..count]) {
        let mut letters = Letters::new();
        for &(first, letter, level) in levels {
            letters.tree.widen_bounds();
            letters.write(5 * first + 1, 40, None);
            letters.write(first, 8, Some(letter));
            letters.merge_into(level);
        }
        let bytes: Vec<u64> = letters.tree.shape().levels[1..6].iter().map(|it| it.bytes).collect();
        let bytes: Vec<u64> = bytes.into_iter().filter(|&bytes| bytes > 0).collect();
        assert!(bytes.len() == levels.len(), "{bytes:?}");
        assert!(
            bytes.iter().all(|bytes| (FREE_BYTES / 2..FREE_BYTES).contains(bytes)),
            "{bytes:?}"
        );
        letters.put_in_order(FREE_BYTES);
        letters.hold();
    }
}

/// The same where only the levels in between can be merged.
#[test]
fn small_files_of_a_level_are_merged_where_one_above_them_cannot_be() {
    let mut letters = Letters::new();
    letters.write(3, 5, Some(b'c'));
    letters.write(8, 100, None);
    letters.tree.compact(&leveled(1, 128 << 10));
    letters.tree.compact(&Step::Move { from: 5, to: 4 });
    // Of other keys, so it may come to be below them.
    letters.write(1, 10, Some(b'b'));
    letters.merge_into(5);
    letters.tree.widen_bounds();
    letters.write(5, 40, Some(b'd'));
    letters.merge_into(3);
    let files = letters.tree.files();
    assert!(matches!(files[..], [0, 0, 0, 1, many, 1, _] if many > 20), "{files:?}");
    letters.put_in_order(FREE_BYTES);
    letters.hold();
}

/// A file with keys from all over the tree does not keep what is below it from
/// going on.
#[test]
fn small_files_of_a_level_go_on_where_one_above_them_cannot() {
    let mut letters = Letters::new();
    letters.write(10, 10, None);
    letters.write(1, 8, Some(b'b'));
    letters.write(3, 8, Some(b'c'));
    letters.tree.compact(&leveled(1, 128 << 10));
    letters.tree.compact(&Step::Move { from: 5, to: 4 });
    letters.tree.widen_bounds();
    letters.tree.write([], None);
    letters.merge_into(3);
    let (files, above_bytes) = (letters.tree.files(), letters.tree.above_bytes());
    assert!(matches!(files[..], [0, 0, 0, 1, many, 0, _] if many > 20), "{files:?}");
    assert!(above_bytes > FREE_BYTES, "{above_bytes}");
    letters.put_in_order(FREE_BYTES);
    letters.hold();
}

#[test]
fn the_least_merge_is_the_one_that_a_step_takes() {
    let mut letters = Letters::new();
    letters.write(1, 50, Some(b'b'));
    letters.tree.compact(&leveled(1, 32 << 10));
    let keyspace = letters.tree.keyspace();
    let least = keyspace.least_merges_bytes()[5].expect("there is one");
    let first = keyspace.next_table_id();
    letters.tree.compact(&leveled(0, TABLE_BYTES));
    let merged = keyspace.merged_bytes(first);
    assert!(merged <= least && merged > least / 2, "{merged} of {least}");
    letters.hold();
}

/// As small files, each of which a step can take down.
#[test]
fn l0_goes_to_an_empty_level_above_all_others() {
    let mut letters = Letters::new();
    for level in (1..=5).rev() {
        letters.write(level, 40, Some(b'b'));
        letters.tree.widen_bounds();
        letters.write(level + 20, 40, Some(b'c'));
        let (before, shape) = (letters.tree.files(), letters.tree.shape());
        let step = shape.l0_step_above(Scale::USUAL, FREE_BYTES).expect("none is much larger");
        letters.tree.compact(&step);
        let after = letters.tree.files();
        let expected = [&[0], &before[1..]].concat();
        let others = |files: &[usize]| [&files[..level], &files[level + 1..]].concat();
        assert_eq!(others(&after), others(&expected), "{step:?}");
        assert!(after[level] > 4, "{after:?}");
        letters.hold();
    }
    let mut shape = letters.tree.shape();
    shape.levels[4].bytes = 2 * shape.levels[5].bytes;
    assert_eq!(shape.l0_step_above(Scale::USUAL, FREE_BYTES), None);
}

#[test]
fn many_l0_files_go_above_a_level_that_is_much_larger_than_the_next() {
    let mut letters = Letters::new();
    for (first, each, level) in [(1, 200, 5), (2, 40, 4)] {
        letters.write(first, each, Some(b'b'));
        letters.merge_into(level);
    }
    for number in 0..8 {
        letters.tree.widen_bounds();
        letters.write(10 + number, 200, Some(b'c'));
    }
    let before = letters.tree.files();
    let step = letters.tree.shape().l0_step_above(Scale::USUAL, FREE_BYTES);
    letters.tree.compact(&step.expect("L0 has many more files"));
    let after = letters.tree.files();
    assert_eq!(([after[0], after[1], after[2]], &after[4..]), ([0; 3], &before[4..]), "{before:?}");
    assert!(after[3] > 1, "{after:?}");
    letters.hold();
}

#[test]
fn a_run_that_is_stuck_behind_its_own_obsolete_files_has_more_to_do() {
    for (ended, has_stepped, has_more) in [
        (RunEnd::Stuck, true, true),
        (RunEnd::Stuck, false, false),
        (RunEnd::Done, true, false),
        (RunEnd::Early { has_stepped: false, has_moved: false }, false, true),
    ] {
        let mut compactor = Compactor { is_awaited: true, ..Compactor::default() };
        compactor.running = Some(Running {
            goal: Goal::Reclaim,
            changes: 0,
            deletions: 0,
            is_stopped: Arc::default(),
            progress: Arc::new(Progress {
                has_stepped: AtomicBool::new(has_stepped),
                ..Progress::default()
            }),
            thread: thread::spawn(move || Ok(ended)),
        });
        assert!(compactor.finish());
        assert_eq!(compactor.round.has_more, has_more, "{ended:?} {has_stepped}");
        // Its rounds are counted: they give nothing back at last.
        assert_eq!(compactor.round.has_progress, ended == RunEnd::Done);
        assert_eq!(compactor.unfinished.is_some(), has_more && ended != RunEnd::Stuck);
    }
}

#[test]
fn what_is_deleted_during_a_run_is_left_for_the_next() {
    let (tree, mut compactor) = (Tree::new(), Compactor::default());
    tree.write(0..100, Some(b"value"));
    tree.write(0..90, None);
    compactor.note(190, 90);
    tree.begin(&mut compactor, Trigger::NoSpace(Duration::MAX));
    compactor.note(20, 20);
    assert!(compactor.finish() && compactor.has_deletions_left());
    tree.begin(&mut compactor, Trigger::NoSpace(Duration::MAX));
    assert!(compactor.finish() && !compactor.has_deletions_left());
}
