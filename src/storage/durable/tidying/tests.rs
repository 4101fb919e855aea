//! What becomes of the files of a tree.

use super::*;
use crate::storage::durable::generation::Generation;
use crate::storage::durable::open_database;
use tempfile::TempDir;

/// A tree of a database of its own, and the folder of that.
struct Tree {
    folder: TempDir,
    database: Database,
    generation: Generation,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let database = open_database(&data).unwrap_or_else(|err| panic!("{err}"));
        let generation = Generation::begin(&database, &data, 1).expect("a tree");
        Self { folder, database, generation }
    }

    fn keyspace(&self) -> &Keyspace {
        self.generation.keyspace()
    }

    fn room(&self) -> Room {
        Room::new(self.folder.path().to_owned(), self.database.clone())
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
        assert!(write_memtables(self.keyspace()).expect("it is in a file"));
    }

    fn steps(&self) -> Steps {
        Steps {
            database: self.database.clone(),
            keyspace: self.keyspace().clone(),
            room: self.room(),
            kept_bytes: 0,
            is_stopped: Arc::default(),
        }
    }

    fn begin(&self, tidying: &mut Tidying, occasion: Occasion) {
        tidying.begin(&self.database, self.keyspace(), &self.room(), occasion);
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
fn files_are_merged_here_and_not_by_the_database() {
    let (tree, mut tidying) = (Tree::new(), Tidying::default());
    for round in 0_u8..6 {
        tree.write(0..100, Some(&[round; 100]));
    }
    while tree.database.active_compactions() > 0 {
        thread::sleep(WAIT);
    }
    let before = unsorted_files(tree.keyspace());
    assert!(before >= 5, "{before} files");
    tree.begin(&mut tidying, Occasion::Written);
    assert!(tidying.finish() && !tidying.is_to_go_on());
    assert_eq!(unsorted_files(tree.keyspace()), 0);
    tree.holds(0..100, Some(&[5; 100]));
    tree.begin(&mut tidying, Occasion::Written);
    assert!(!tidying.is_at_work(), "there is nothing to do");
}

#[test]
fn what_was_deleted_goes_step_by_step() {
    const KEYS: usize = 10_000;
    let tree = Tree::new();
    let value = [b'x'; 2000];
    tree.write(0..KEYS, Some(&value));
    let full = tree_bytes(tree.keyspace());
    let deleted = || (0..KEYS).filter(|key| key % 10 != 0);
    tree.write(deleted(), None);
    let ended = tree.steps().one_by_one(Aim::Order).expect("it is put in order");
    assert!(matches!(ended, Ended::Done));
    let Shape { files, bytes, .. } = shape_of(tree.keyspace());
    assert!(bytes < full / 8, "{bytes} of {full} bytes are left");
    let (last, others) = files.split_last().expect("there are levels");
    assert!(*last > 0 && others.iter().all(|&files| files == 0), "{files:?}");
    tree.holds(deleted(), None);
    tree.holds((0..KEYS).step_by(10), Some(&value));
}

#[test]
fn a_job_that_is_stopped_is_gone_on_with() {
    let tree = Tree::new();
    tree.write(0..100, Some(b"value"));
    tree.write(0..90, None);
    let steps = tree.steps();
    steps.is_stopped.store(true, Ordering::Relaxed);
    assert!(matches!(steps.one_by_one(Aim::Order), Ok(Ended::Early)));

    let mut tidying = Tidying { unfinished: Some(Aim::Order), ..Tidying::default() };
    tree.begin(&mut tidying, Occasion::Written);
    assert!(!tidying.is_at_work(), "others write");
    tree.begin(&mut tidying, Occasion::Idle);
    assert!(tidying.finish() && !tidying.is_to_go_on());
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
    assert!(matches!(tree.steps().one_by_one(Aim::Order), Ok(Ended::Done)));
    let full = tree_bytes(tree.keyspace());
    let is_deleted = |key: &usize| key.is_multiple_of(10);
    tree.write((0..KEYS).filter(is_deleted), None);
    // By itself it would have waited for another one, to be taken apart.
    let as_it_is = Arc::new(files_merged(1, TABLE_BYTES));
    tree.keyspace().tree.compact(as_it_is, 0).expect("it is moved");
    assert!(matches!(tree.steps().one_by_one(Aim::Order), Ok(Ended::Done)));
    let left = tree_bytes(tree.keyspace());
    assert!(left < full / 20 * 19, "{left} of {full} bytes are left");
    tree.holds((0..KEYS).filter(is_deleted), None);
}

#[test]
fn a_single_file_of_deletions_is_taken_apart_once_there_is_another() {
    const KEYS: usize = 10_000;
    let tree = Tree::new();
    tree.write(0..KEYS, Some(&[b'x'; 1000]));
    tree.keyspace().tree.major_compact(TABLE_BYTES, 0).expect("it is in the last level");
    tree.write((0..KEYS).step_by(2), None);
    let full = tree_bytes(tree.keyspace());
    assert!(matches!(tree.steps().one_by_one(Aim::Order), Ok(Ended::Early)));
    assert_eq!(unsorted_files(tree.keyspace()), 1);
    tree.generation.mark(&tree.database).expect("it is written");
    assert!(matches!(tree.steps().one_by_one(Aim::Order), Ok(Ended::Done)));
    let left = tree_bytes(tree.keyspace());
    assert!(left < full / 5 * 3, "{left} of {full} bytes are left");
    tree.holds((0..KEYS).step_by(2), None);
    tree.holds((1..KEYS).step_by(2), Some(&[b'x'; 1000]));
}

#[test]
fn what_is_deleted_during_a_job_is_left_for_the_next() {
    let (tree, mut tidying) = (Tree::new(), Tidying::default());
    tree.write(0..100, Some(b"value"));
    tree.write(0..90, None);
    tidying.note(190, 90);
    tree.begin(&mut tidying, Occasion::Full);
    tidying.note(20, 20);
    assert!(tidying.finish() && tidying.has_deletions_left());
    tree.begin(&mut tidying, Occasion::Full);
    assert!(tidying.finish() && !tidying.has_deletions_left());
}
