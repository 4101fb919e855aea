use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

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
