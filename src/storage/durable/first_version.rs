//! A directory as the program wrote it before entries had types and expiries:
//! it opens, and holds what it held.
//!
//! It is written here by the database itself, byte by byte as it was then: a
//! record is a byte that says whether the value is UTF-8, and the value; a
//! batch says nothing of the one before it.

use super::*;
use crate::storage::durable::tree::Database;
use crate::storage::{Blocking as _, Decision, Entry, Key, Time};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

/// What it holds: a key, whether the value is text, and the value.
fn entries() -> Vec<(&'static str, bool, Vec<u8>)> {
    let (text, bytes) = (vec![b'l'; 100_000], vec![0xff; 5000]);
    vec![
        ("bytes", false, b"\xff\x00\x01".to_vec()),
        ("like a record of today", true, b"\x0f\x01\x02".to_vec()),
        ("large bytes", false, bytes),
        ("large text", true, text),
        ("text", true, b"Nairobi".to_vec()),
    ]
}

/// Where it writes them: the first ones to tables, the others to the journal.
fn written(in_tables: usize) -> TempDir {
    let path = tempfile::tempdir().expect("a directory");
    let mut directory = Directory::take(path.path()).unwrap_or_else(|err| panic!("{err}"));
    let write = |data: &Path| {
        let database = Database::open(data)?;
        let keyspace = database.keyspace_of_first_version("0")?;
        let insert = |key: &[u8], record: &[u8]| {
            let mut batch = database.batch(&[&keyspace]);
            batch.insert(&keyspace, key, record);
            batch.commit()
        };
        insert(&[0xff], b"")?;
        for (index, (key, is_text, value)) in entries().iter().enumerate() {
            insert(key.as_bytes(), &[&[u8::from(*is_text)], &value[..]].concat())?;
            if index + 1 == in_tables {
                keyspace.flush_and_wait()?;
            }
        }
        Ok(())
    };
    directory.found(write).unwrap_or_else(|err| panic!("{err}"));
    fs::write(path.path().join("format"), "little-key-value 1\n").expect("it is written");
    path
}

fn open(directory: &TempDir) -> Durable {
    Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"))
}

#[track_caller]
fn holds_all(store: &Durable) {
    for (text, is_text, value) in entries() {
        let found = store.get(&key(text)).expect("it can be read").expect("it is there");
        assert_eq!((found.is_text(), found.content_type(), found.expiry()), (is_text, None, None));
        assert!(found.value()[..] == value, "{text}");
        assert_eq!(found.digest(), Entry::new(value.into()).digest(), "{text}");
    }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

#[test]
fn a_directory_of_the_first_version_is_read_and_written() {
    for in_tables in [0, 3, entries().len()] {
        let directory = written(in_tables);
        holds_all(&open(&directory));
        // The program of then would not understand all that is written now.
        let format = fs::read_to_string(directory.path().join("format"));
        assert_eq!(format.expect("it can be read"), "little-key-value 3\n");
        let store = open(&directory);
        let expiry = Time::now().after(Duration::from_secs(1000));
        let new = Entry::new("new".into())
            .with_content_type(Some("text/html".into()))
            .with_expiry(Some(expiry));
        store.set(key("new"), new.clone()).expect("it is written");
        let revision = |store: &Durable| store.changes().map(Changes::revision);
        let told = revision(&store);
        drop(store);

        let store = open(&directory);
        assert_eq!(revision(&store), told);
        holds_all(&store);
        assert_eq!(store.get(&key("new")).expect("it can be read"), Some(new), "{in_tables}");
        let append = |before: Option<&Entry>| {
            let before = before.expect("it is there").value();
            Decision::Replace(Entry::new([before, &b"!"[..]].concat().into()))
        };
        let updated = store.update(key("text"), Box::new(append)).expect("it is written");
        assert_eq!(updated.after.expect("it is there").value(), "Nairobi!");
    }
}
