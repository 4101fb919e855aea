use super::*;
use crate::storage::threads::Ended;
use crate::storage::waiting::wait_until;
use bytes::Bytes;
use lsm_tree::{Config, SequenceNumberCounter};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Weak, mpsc};
use std::thread;
use std::time::Duration;

/// The files of a tree, by their paths.
fn files(keyspace: &Keyspace) -> BTreeSet<PathBuf> {
    let folders = ["tables", BLOBS].map(|it| keyspace.path().join(it));
    let entries = folders.iter().flat_map(|it| fs::read_dir(it).expect("a folder"));
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}

#[test]
fn a_compaction_that_fails_leaves_no_files_behind() {
    const KEYS: usize = 1000;
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("data")).expect("it is made");
    let keyspace = database.keyspace("keys").expect("it is made");
    let write = |step: usize, value: &[u8]| {
        for key in (0..KEYS).step_by(step) {
            keyspace.insert(key.to_be_bytes(), value).expect("it is written");
        }
        keyspace.flush_and_wait().expect("it is in a file");
    };
    let large = [b'x'; 5000];
    write(1, &large);
    write(2, b"small");
    let blobs = keyspace.path().join(BLOBS);
    // Nobody knows whose that is.
    fs::write(blobs.join("7"), b"from before").expect("a file");
    let before = files(&keyspace);
    let compact = |may_finish: bool| {
        keyspace.without_orphans(|tree| {
            if !may_finish {
                fs::write(blobs.join("8"), b"half written").expect("a file");
            }
            tree.major_compact(1 << 10, 0).map(drop)
        })
    };
    // It can make one file, and not the next.
    let number = keyspace.next_table_id() + 1;
    let obstacle = keyspace.path().join("tables").join(number.to_string());
    fs::create_dir(&obstacle).expect("there is no such file");
    assert!(compact(false).is_err(), "nothing was in its way");
    fs::remove_dir(obstacle).expect("it is in the way");
    assert_eq!(files(&keyspace), before);
    compact(true).expect("nothing is in its way");
    assert!(files(&keyspace).difference(&before).count() > 1, "there was only one to make");
    for key in 0..KEYS {
        let value = if key % 2 == 0 { &b"small"[..] } else { &large };
        let found = keyspace.get(key.to_be_bytes()).expect("it can be read");
        assert_eq!(found.as_deref(), Some(value), "{key}");
    }
}

#[test]
fn a_failure_of_the_journal_is_final_and_no_other() {
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    let err = Error::of_the_journal(full());
    assert!(err.is_final() && err.is_full());
    assert!(Error::of_the_journal(fjall::Error::InvalidTrailer).is_final());
    assert!(Error::panicked().is_final());
    let others = [full().into(), Error::of_the_journal(fjall::Error::Poisoned), Error::Lost];
    assert!(!others.iter().any(Error::is_final));
}

/// A database, one keyspace of it with the value 0 under two keys, and their folder.
fn pair() -> (Database, Keyspace, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("data")).expect("it is made");
    let keyspace = database.keyspace("keys").expect("it is made");
    let mut batch = database.batch(&[&keyspace]);
    for key in ["a", "b"] {
        batch.insert(&keyspace, key, "0");
    }
    batch.commit().expect("it is written");
    (database, keyspace, folder)
}

fn seen(snapshot: &Snapshot, keyspace: &Keyspace) -> [Bytes; 2] {
    ["a", "b"].map(|key| {
        let value = snapshot.get(keyspace, key).expect("it can be read");
        value.expect("it is there")
    })
}

/// What a look in memory shows under "a".
fn in_memory(keyspace: &Keyspace) -> Option<Bytes> {
    keyspace.get_in_memtable(b"a")
}

/// Even where a flush ends that was begun before it.
#[test]
fn a_batch_under_way_is_seen_by_nobody() {
    let (database, keyspace, _folder) = pair();
    let Database(inner, moments, _) = &database;
    for number in ["1", "2"] {
        let before = seen(&keyspace.snapshot(), &keyspace);
        assert_eq!(in_memory(&keyspace), Some(before[0].clone()));
        let under_way = || {
            keyspace.0.insert("a", number)?;
            assert_eq!(in_memory(&keyspace), Some(before[0].clone()));
            keyspace.0.rotate_memtable_and_wait()?;
            assert_eq!(seen(&keyspace.snapshot(), &keyspace), before);
            assert_eq!(in_memory(&keyspace), Some(before[0].clone()));
            keyspace.0.insert("b", number)?;
            keyspace.2.note(&keyspace.0.tree);
            assert_eq!(in_memory(&keyspace), None, "it is in a file");
            keyspace.0.insert("a", number)
        };
        moments.commit(inner, under_way).expect("it is written");
        assert_eq!(seen(&keyspace.snapshot(), &keyspace), [number, number]);
        assert_eq!(in_memory(&keyspace), Some(number.into()));
    }
}

#[test]
fn half_of_a_batch_that_has_panicked_is_never_seen() {
    let (database, keyspace, _folder) = pair();
    let Database(inner, moments, _) = &database;
    let half = || {
        keyspace.0.insert("a", "1")?;
        panic!("a part of a test");
    };
    let half = unless_panic(|| Ok(moments.commit(inner, half)?));
    assert!(half.is_err());
    assert_eq!(seen(&keyspace.snapshot(), &keyspace), ["0", "0"]);
    assert_eq!(in_memory(&keyspace), Some("0".into()));
}

#[test]
fn looks_in_memory_and_snapshots_show_the_same_moments() {
    const BATCHES: u32 = 2000;
    let (database, keyspace, _folder) = pair();
    let is_over = AtomicBool::new(false);
    let number = |value: &[u8]| -> u32 { str::from_utf8(value).unwrap().parse().unwrap() };
    thread::scope(|scope| {
        let _ended = Ended(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let looked = in_memory(&keyspace).map_or(last, |value| number(&value));
                    let [a, b] = seen(&keyspace.snapshot(), &keyspace).map(|value| number(&value));
                    assert!(last <= looked && looked <= a && a == b, "{last}, {looked}, {a}, {b}");
                    last = a;
                }
            });
        }
        for number in 1..=BATCHES {
            let mut batch = database.batch(&[&keyspace]);
            for key in ["a", "b"] {
                batch.insert(&keyspace, key, number.to_string());
            }
            batch.commit().expect("it is written");
            if number % 100 == 0 {
                keyspace.seal_memtable().expect("it is sealed");
            }
        }
    });
    assert_eq!(seen(&keyspace.snapshot(), &keyspace), [BATCHES.to_string(), BATCHES.to_string()]);
}

/// So it is while the database syncs the list of its files.
#[test]
fn a_look_in_memory_waits_for_no_change_of_files() {
    let (_database, keyspace, _folder) = pair();
    let held = keyspace.0.tree.get_version_history_lock();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let looks = || tell.send(in_memory(&keyspace)).expect("it is waited for");
        scope.spawn(looks);
        let found = told.recv_timeout(Duration::from_secs(60));
        drop(held);
        assert_eq!(found, Ok(Some("0".into())));
    });
}

#[test]
fn what_was_removed_is_not_in_memory_though_its_memtable_was_sealed_before() {
    let (database, keyspace, _folder) = pair();
    keyspace.seal_memtable().expect("it is sealed");
    assert_eq!(in_memory(&keyspace), Some("0".into()));
    let mut batch = database.batch(&[&keyspace]);
    batch.remove(&keyspace, "a");
    batch.commit().expect("it is written");
    assert_eq!(in_memory(&keyspace), None);
}

#[test]
fn a_memtable_is_there_to_look_in_until_another_is_written_to_and_is_freed_then() {
    let (database, keyspace, _folder) = pair();
    let put = |value: &'static str| {
        let mut batch = database.batch(&[&keyspace]);
        batch.insert(&keyspace, "a", value);
        batch.commit().expect("it is written");
    };
    let mut memtables = Vec::new();
    for value in ["1", "2", "3", "4"] {
        put(value);
        memtables.push(Arc::downgrade(&keyspace.0.tree.active_memtable()));
        keyspace.flush_and_wait().expect("it is flushed");
        assert_eq!(in_memory(&keyspace), Some(value.into()));
        if let [.., last_but_one, _] = &memtables[..] {
            wait_until("the tree drops it", || last_but_one.strong_count() <= 1);
            assert_eq!(last_but_one.strong_count(), 1, "the tree has freed it");
        }
    }
    let are_freed = |memtables: &[Weak<_>]| memtables.iter().all(|it| it.strong_count() == 0);
    wait_until("the next batches free them", || are_freed(&memtables[..2]));
    keyspace.free_memtables();
    wait_until("the third is freed", || are_freed(&memtables[..3]));
}

/// A tree of some keys in small tables of the last level, and a newer one above.
fn tree_with_a_bottom(database: &Database) -> Keyspace {
    let keyspace = database.keyspace("keys").expect("it is made");
    for key in 0..1000_u32 {
        keyspace.insert(key.to_be_bytes(), [b'x'; 100]).expect("it is written");
    }
    keyspace.flush_and_wait().expect("it is in a file");
    keyspace.merge(4 << 10).expect("it is in the last level");
    keyspace.insert(b"\xfe", b"newer").expect("it is written");
    keyspace.flush_and_wait().expect("it is in a file");
    keyspace
}

fn in_stretch(database: &Database, keyspace: &Keyspace, stretch: &Stretch) -> Vec<u32> {
    let mut keys = Vec::new();
    let mut visit = |item: StretchItem| {
        let key = item.key.first_chunk().map(|key| u32::from_be_bytes(*key));
        keys.push(key.expect("a key of four bytes"));
    };
    stretch.visit(database, keyspace, &mut visit).expect("it can be read");
    keys
}

#[test]
fn a_stretch_that_is_dropped_takes_what_is_in_it_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("data")).expect("it is made");
    let keyspace = tree_with_a_bottom(&database);
    let stretch = keyspace.bottom_stretch(&100_u32.to_be_bytes(), b"\xff", 16 << 10);
    let stretch = stretch.expect("there are tables");
    let before = in_stretch(&database, &keyspace, &stretch);
    assert!(before.len() > 50 && before.is_sorted(), "{before:?}");
    let [overwritten, deleted] = [before[10], before[20]];
    keyspace.insert(overwritten.to_be_bytes(), b"newer").expect("it is written");
    keyspace.remove(deleted.to_be_bytes()).expect("it is written");
    let within = in_stretch(&database, &keyspace, &stretch);
    let hidden: Vec<_> = before.iter().filter(|key| !within.contains(key)).collect();
    assert_eq!(hidden, [&overwritten, &deleted]);

    database.renew_moment();
    let first = within[0].to_be_bytes();
    assert!(keyspace.snapshot().get(&keyspace, first).is_ok_and(|value| value.is_some()));
    assert!(keyspace.get_in_memtable(&first).is_some());
    assert!(keyspace.drop_stretch(&database, &stretch).expect("it is dropped"));
    let snapshot = keyspace.snapshot();
    for key in 0..1000_u32 {
        let is_gone = within.contains(&key) || key == deleted;
        let plain = keyspace.get(key.to_be_bytes()).expect("it can be read");
        assert_eq!(plain.is_none(), is_gone, "{key}");
        let seen = snapshot.get(&keyspace, key.to_be_bytes()).expect("it can be read");
        assert!(seen.is_none() || !within.contains(&key), "{key} is in a list yet");
        let looked = keyspace.get_in_memtable(&key.to_be_bytes());
        assert!(looked.is_none() || !within.contains(&key), "{key} is in memory yet");
    }
    assert!(
        !keyspace.drop_stretch(&database, &stretch).expect("nothing is in its way"),
        "it was dropped"
    );
}

/// Else a journal would be read once more, and what was dropped come back.
#[test]
fn the_newest_table_is_no_stretch() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("data")).expect("it is made");
    let keyspace = tree_with_a_bottom(&database);
    keyspace.merge(1 << 20).expect("it is one table");
    assert!(keyspace.bottom_stretch(&[], b"\xff", 1 << 20).is_none());
}

/// A deletion in a table that would go hides a value in one that would stay.
#[test]
fn what_hides_others_is_no_stretch() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("data")).expect("it is made");
    let keyspace = tree_with_a_bottom(&database);
    let stretch = || keyspace.bottom_stretch(&500_u32.to_be_bytes(), b"\xff", 1);
    let within = in_stretch(&database, &keyspace, &stretch().expect("there are tables"));
    let (first, last) = (within[0], within[within.len() - 1]);
    // Of one table below the stretch's level two files of L0: within its bounds, and beyond.
    keyspace.insert((first + 1).to_be_bytes(), b"wide").expect("it is written");
    keyspace.insert((last + 9).to_be_bytes(), b"wide").expect("it is written");
    keyspace.flush_and_wait().expect("it is in a file");
    keyspace.remove((first + 1).to_be_bytes()).expect("it is written");
    keyspace.flush_and_wait().expect("it is in a file");
    keyspace.insert(b"\xfe", b"newest").expect("it is written");
    keyspace.flush_and_wait().expect("it is in a file");
    let next = stretch().expect("there are others");
    let begins = in_stretch(&database, &keyspace, &next);
    assert!(begins[0] > last, "{} is within {first} to {last}", begins[0]);
}

#[test]
fn the_blobs_of_a_file_are_those_that_nothing_hides() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("data")).expect("it is made");
    let keyspace = database.keyspace("keys").expect("it is made");
    let large = [b'x'; 5000];
    for key in 0..10_u32 {
        keyspace.insert(key.to_be_bytes(), large).expect("it is written");
    }
    keyspace.flush_and_wait().expect("it is in a file");
    keyspace.insert(3_u32.to_be_bytes(), b"small").expect("it is written");
    keyspace.remove(5_u32.to_be_bytes()).expect("it is written");
    keyspace.insert(7_u32.to_be_bytes(), large).expect("it is written");
    keyspace.flush_and_wait().expect("it is in a file");
    let found: Vec<Vec<u32>> = keyspace
        .blob_files()
        .into_iter()
        .map(|file| {
            let blobs = keyspace.blobs(file).expect("it can be read");
            assert!(blobs.iter().all(|blob| blob.bytes == 5000));
            let keys = blobs.iter().filter_map(|blob| blob.key.first_chunk());
            keys.map(|key| u32::from_be_bytes(*key)).collect()
        })
        .collect();
    assert_eq!(found, [vec![0, 1, 2, 4, 6, 8, 9], vec![7]]);
}

/// It fails behind the replacement of `current`, as where no descriptor is left for the sync
/// of its folder.
#[test]
fn a_compaction_that_fails_once_it_is_on_the_disk_leaves_its_files() {
    const KEYS: usize = 1000;
    let place = tempfile::tempdir().expect("a folder");
    let [data, elsewhere] = ["data", "elsewhere"].map(|it| place.path().join(it));
    let database = Database::open(&data).expect("it is made");
    let keyspace = database.keyspace("keys").expect("it is made");
    let large = [b'x'; 5000];
    for key in 0..KEYS {
        keyspace
            .insert(key.to_be_bytes(), if key % 2 == 0 { &large[..] } else { b"small" })
            .expect("it is written");
    }
    keyspace.flush_and_wait().expect("it is in a file");
    let copy = |from: &Path, to: &Path| {
        for folder in ["", "tables", BLOBS] {
            fs::create_dir_all(to.join(folder)).expect("it is made");
            for entry in fs::read_dir(from.join(folder)).expect("a folder") {
                let from = entry.expect("it can be read").path();
                if from.is_file() {
                    let name = from.file_name().expect("it has one");
                    fs::copy(&from, to.join(folder).join(name)).expect("it is copied");
                }
            }
        }
    };
    let compacted = keyspace.without_orphans(|_tree| {
        copy(keyspace.path(), &elsewhere);
        let number = SequenceNumberCounter::default;
        let config = Config::new(&elsewhere, number(), number());
        let other = config.with_kv_separation(Some(KvSeparationOptions::default())).open()?;
        other.major_compact(1 << 10, 0)?;
        copy(&elsewhere, keyspace.path());
        Err(io::Error::other("no descriptor").into())
    });
    assert!(compacted.is_err());
    drop((keyspace, database));
    let database = Database::open(&data).expect("all files are there");
    let keyspace = database.keyspace("keys").expect("it is there");
    for key in 0..KEYS {
        assert!(keyspace.get(key.to_be_bytes()).expect("it can be read").is_some(), "{key}");
    }
}

/// The database alone would keep each version of it, and the files of each.
#[test]
fn the_list_of_keyspaces_takes_no_more_the_more_were_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let database = Database::open(&data).expect("it is made");
    let list = data.join("keyspaces/0");
    let files = || {
        let folders = [list.clone(), list.join("tables")];
        let entries = folders.iter().flat_map(|it| fs::read_dir(it).expect("a folder"));
        entries.map(|entry| entry.expect("it can be read").path()).collect::<Vec<_>>()
    };
    let delete_another = |number: usize| {
        let keyspace = database.keyspace(&number.to_string()).expect("it is made");
        database.delete_keyspace(keyspace).expect("it is deleted");
    };
    let kept = database.keyspace("kept").expect("it is made");
    (0..4).for_each(delete_another);
    let before = files().len();
    (4..40).for_each(delete_another);
    assert!(files().len() <= before + 4, "{:?}", files());
    assert_eq!(database.keyspace_names(), ["kept"]);
    let id = kept.id();
    drop((kept, database));

    let items_bytes = || -> u64 {
        let tables = fs::read_dir(list.join("tables")).expect("a folder");
        tables.map(|table| table.expect("it can be read").metadata().expect("it is").len()).sum()
    };
    let before = items_bytes();
    Database::compact_list(&data).expect("nothing is in its way");
    let after = items_bytes();
    assert!(after < before / 4, "{after} of {before} bytes");
    let database = Database::open(&data).expect("it opens");
    assert_eq!(database.keyspace_names(), ["kept"]);
    assert_eq!(database.keyspace("kept").expect("it is there").id(), id);
}

/// A step that fails behind the replacement of `current`, as where there is no descriptor for
/// the sync of its folder, is on the disk, and the database goes on from before it.
#[test]
fn files_of_the_list_of_keyspaces_stay_where_the_database_is_a_version_behind() {
    let place = tempfile::tempdir().expect("a folder");
    let data = place.path().join("data");
    let database = Database::open(&data).expect("it is made");
    database.keyspace("first").expect("it is made");
    let list = data.join("keyspaces/0");
    let folders = ["", "tables"];
    let files = |list: &Path| -> Vec<PathBuf> {
        let entries = folders.iter().flat_map(|it| fs::read_dir(list.join(it)).expect("a folder"));
        entries.map(|entry| entry.expect("it can be read").path()).collect()
    };
    let before = files(&list);

    // The step is taken elsewhere.
    let elsewhere = place.path().join("elsewhere");
    let other = elsewhere.join("keyspaces/0");
    fs::create_dir_all(other.join("tables")).expect("it is made");
    for file in before.iter().filter(|file| file.is_file()) {
        let to = other.join(file.strip_prefix(&list).expect("it is in it"));
        fs::copy(file, to).expect("it is copied");
    }
    Database::compact_list(&elsewhere).expect("nothing is in its way");
    let mut made = Vec::new();
    for file in files(&other).iter().filter(|file| file.is_file()) {
        let to = list.join(file.strip_prefix(&other).expect("it is in it"));
        made.extend((!to.exists()).then(|| to.clone()));
        fs::copy(file, to).expect("it is copied");
    }
    assert_eq!(made.len(), 2, "a manifest and a table: {made:?}");

    database.2.remove_obsolete_files();
    let mut tables = before.iter().filter(|file| file.starts_with(list.join("tables")));
    assert!(tables.all(|table| table.exists()), "{:?}", files(&list));
    // It would have another number.
    let table = made.iter().find(|file| file.ends_with("tables/1"));
    fs::remove_file(table.expect("it is the second")).expect("it is there");
    database.keyspace("second").expect("it is made");
    drop(database);
    let database = Database::open(&data).expect("it opens");
    let mut names = database.keyspace_names();
    names.sort();
    assert_eq!(names, ["first", "second"]);
}
