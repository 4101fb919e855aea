use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
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
    let mut batch = database.batch();
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

/// Even where a flush ends that was begun before it.
#[test]
fn a_batch_under_way_is_in_no_snapshot_and_tears_plain_reads() {
    let (database, keyspace, _folder) = pair();
    let Database(inner, moments) = &database;
    let read = || keyspace.get("a").expect("it can be read");
    for (number, is_seen_at_once) in [("1", true), ("2", false), ("3", true)] {
        let before = seen(&keyspace.snapshot(), &keyspace);
        let under_way = || {
            keyspace.0.insert("a", number)?;
            keyspace.0.rotate_memtable_and_wait()?;
            assert_eq!(seen(&keyspace.snapshot(), &keyspace), before);
            let found = keyspace.untorn(read);
            assert_eq!(found.is_none(), is_seen_at_once);
            keyspace.0.insert("b", number)
        };
        moments.commit(inner, is_seen_at_once, under_way).expect("it is written");
        assert_eq!(seen(&keyspace.snapshot(), &keyspace), [number, number]);
        assert_eq!(keyspace.untorn(read), Some(Some(Bytes::from(number))));
    }
    let torn = keyspace.untorn(|| {
        let mut batch = database.batch();
        batch.insert(&keyspace, "a", "4");
        batch.be_seen_at_once();
        batch.commit().expect("it is written");
    });
    assert_eq!(torn, None, "one that began and ended during a read");
}

#[test]
fn half_of_a_batch_that_has_panicked_is_never_seen() {
    let (database, keyspace, _folder) = pair();
    let Database(inner, moments) = &database;
    let half = || {
        keyspace.0.insert("a", "1")?;
        panic!("a part of a test");
    };
    let half = unless_panic(|| Ok(moments.commit(inner, true, half)?));
    assert!(half.is_err());
    keyspace.wait_for_batch();
    assert_eq!(seen(&keyspace.snapshot(), &keyspace), ["0", "0"]);
    assert_eq!(keyspace.untorn(|| keyspace.get("a").ok()), None);
}

#[test]
fn a_snapshot_behind_a_plain_read_shows_what_that_has_met() {
    let (database, keyspace, _folder) = pair();
    let Database(inner, moments) = &database;
    let waits_for_nothing = || {
        keyspace.wait_for_batch();
        Ok(())
    };
    moments.commit(inner, false, waits_for_nothing).expect("it is written");
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let under_way = || {
            keyspace.0.insert("a", "1")?;
            scope.spawn(|| {
                keyspace.wait_for_batch();
                tell.send(seen(&keyspace.snapshot(), &keyspace)).expect("it is waited for");
            });
            assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "it has not waited");
            keyspace.0.insert("b", "1")
        };
        moments.commit(inner, false, under_way).expect("it is written");
    });
    assert_eq!(told.recv().expect("it has ended"), ["1", "1"]);
}
