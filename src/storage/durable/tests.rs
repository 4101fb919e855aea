//! What a damaged directory is opened as: a copy of a store whose journal is
//! cut or changed anywhere holds what was stored at some moment, or is refused.
//!
//! A sample of the positions is tried; `LKV_TEST_EVERY_BYTE=1` tries them all.

use super::*;
use crate::storage::waiting::wait_until;
use crate::storage::{BatchOp, Blocking as _, Decision, Entry, Key, Listing, Time};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

type Map = BTreeMap<String, Vec<u8>>;

/// What a test stores, one write after the other.
enum Write {
    Set(&'static str, Vec<u8>),
    /// The same for as long as the test takes.
    Lend(&'static str, Vec<u8>),
    Delete(&'static str),
    /// Lends some keys at one moment, and deletes others.
    Batch(Vec<(&'static str, Option<Vec<u8>>)>),
    Clear,
    /// Moves what was written so far to tables.
    Flush,
}

use Write::{Batch, Clear, Delete, Flush, Lend, Set};

/// A directory and what its store held after each of its writes.
struct Written {
    directory: TempDir,
    /// The journal without the space that is set aside behind it.
    journal: Vec<u8>,
    /// Where the journal ended after each write, and what was stored then.
    moments: Vec<(usize, Map)>,
}

const JOURNAL: &str = "data/0.jnl";
const INVENTORY: &str = "data/inventory";

fn key(text: &str) -> Key {
    Key::new(text).expect("a key of 1 to 1024 bytes")
}

fn set(store: &Durable, text: &str, value: &[u8]) {
    let entry = Entry::new(Bytes::copy_from_slice(value));
    store.set(key(text), entry).expect("the engine writes");
}

fn open(path: &Path) -> Durable {
    Durable::open(path).unwrap_or_else(|err| panic!("{err}"))
}

/// Moves what was written to tables.
fn flush(store: &Durable) {
    for keyspace in store.read_path.keyspaces().each() {
        keyspace.flush_and_wait().expect("the engine flushes");
    }
}

/// What a store holds under the keys of the tests.
fn held(store: &Durable) -> Map {
    let mut held = Map::new();
    for text in ["a", "b", "c", "d", "new"] {
        if let Some(entry) = store.get(&key(text)).expect("the engine reads") {
            held.insert(text.to_owned(), entry.value().to_vec());
        }
    }
    held
}

impl Written {
    fn new(writes: &[Write]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = directory.path().join(JOURNAL);
        let store = open(directory.path());
        let mut map = Map::new();
        let mut moments = vec![(used_bytes(&journal), map.clone())];
        for write in writes {
            match write {
                Set(text, value) => {
                    set(&store, text, value);
                    map.insert((*text).to_owned(), value.clone());
                }
                Lend(text, value) => {
                    let later = Time::now().after(Duration::from_secs(1000));
                    let entry = Entry::new(value.clone().into()).with_expiry(Some(later));
                    store.set(key(text), entry).expect("the engine writes");
                    map.insert((*text).to_owned(), value.clone());
                }
                Delete(text) => {
                    store.delete(&key(text)).expect("the engine deletes");
                    map.remove(*text);
                }
                Batch(ops) => {
                    let ops = ops.iter().map(|(text, value)| {
                        match value {
                            Some(value) => map.insert((*text).to_owned(), value.clone()),
                            None => map.remove(*text),
                        };
                        let later = Some(Time::now().after(Duration::from_secs(1000)));
                        let entry = value.clone().map(|value| Entry::new(value.into()));
                        let set = |entry: Entry| BatchOp::Set(entry.with_expiry(later));
                        (key(text), entry.map_or(BatchOp::Delete, set))
                    });
                    store.batch(ops.collect()).expect("the engine writes");
                }
                Clear => {
                    store.clear().expect("the engine clears");
                    map.clear();
                }
                Flush => {
                    flush(&store);
                    // What is in tables is no longer the journal's.
                    moments.clear();
                }
            }
            moments.push((used_bytes(&journal), map.clone()));
        }
        let inventory = directory.path().join(INVENTORY);
        let before_end = fs::read(&inventory).expect("there is an inventory");
        drop(store);
        let mut journal = fs::read(journal).expect("there is a journal");
        journal.truncate(moments.last().expect("a moment").0);
        // As if it had not ended, but been cut short.
        fs::write(inventory, before_end).expect("it can be written");
        Self { directory, journal, moments }
    }

    /// A copy of the directory with another journal.
    fn copy(&self, journal: &[u8]) -> TempDir {
        let copy = in_memory();
        copy_all(self.directory.path(), copy.path());
        fs::write(copy.path().join(JOURNAL), journal).expect("a journal is written");
        copy
    }

    /// What was stored when the journal had at most so many bytes.
    fn moment(&self, bytes: usize) -> &Map {
        let (_, map) =
            self.moments.iter().rfind(|(end, _)| *end <= bytes).unwrap_or(&self.moments[0]);
        map
    }

    /// Opens a copy with that journal; gives what it holds. It has to take
    /// writes and keep them.
    fn reopened(&self, journal: &[u8]) -> Option<Map> {
        let copy = self.copy(journal);
        let store = match Durable::open(copy.path()) {
            Ok(store) => store,
            Err(OpenError::Damaged { .. } | OpenError::Incomplete) => return None,
            Err(err) => panic!("{err}"),
        };
        let mut map = held(&store);
        let found = map.clone();
        set(&store, "new", b"after the damage");
        drop(store);
        map.insert("new".to_owned(), b"after the damage".to_vec());
        assert_eq!(held(&open(copy.path())), map, "after one more start");
        Some(found)
    }

    /// Cuts the journal at one position after the other.
    fn is_cut_anywhere(&self) {
        for bytes in positions(0..self.journal.len()) {
            let found = self.reopened(&self.journal[..bytes]);
            if let Some(found) = found {
                assert_eq!(&found, self.moment(bytes), "cut at {bytes}");
            } else {
                assert!(bytes < self.moments[0].0, "cut at {bytes} and refused");
            }
        }
    }

    /// Changes one byte after the other.
    fn is_changed_anywhere(&self) {
        let mut refused = 0;
        for at in positions(0..self.journal.len()) {
            let changes = [self.journal[at] ^ 0x01, self.journal[at] ^ 0x80, 0, 0xff];
            for change in if every_byte() { &changes[..] } else { &changes[at % 4..=at % 4] } {
                let mut journal = self.journal.clone();
                journal[at] = *change;
                let Some(found) = self.reopened(&journal) else {
                    refused += 1;
                    continue;
                };
                let is_prefix = self.moments.iter().any(|(_, map)| *map == found);
                assert!(is_prefix, "byte {at} as {change:#x}: {found:?}");
            }
        }
        assert!(refused > 0, "no damage was noticed");
    }
}

/// A directory where no crash is tried, so it needs no disk that keeps it.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory =
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("a directory")
}

fn every_byte() -> bool {
    std::env::var_os("LKV_TEST_EVERY_BYTE").is_some()
}

fn positions(all: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    all.step_by(if every_byte() { 1 } else { 7 })
}

/// How much of a journal is written.
fn used_bytes(journal: &Path) -> usize {
    let mut bytes = fs::read(journal).expect("there is a journal");
    // Nearly all of it is empty, and to look at each byte takes a second.
    let empty = bytes.rchunks(4096).take_while(|part| **part == [0; 4096][..part.len()]);
    bytes.truncate(bytes.len() - empty.map(<[u8]>::len).sum::<usize>());
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("a readable directory");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy_all(&entry.path(), &target);
        } else if entry.path().extension().is_none_or(|extension| extension != "jnl") {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn only_in_the_journal() -> Written {
    Written::new(&[
        Set("a", b"one".to_vec()),
        Set("b", vec![0; 20]),
        Set("a", b"two".to_vec()),
        Delete("b"),
        Set("c", vec![1; 50]),
        Set("b", b"again".to_vec()),
        Delete("absent"),
        Set("d", b"\xff\x03FJL\x03".to_vec()),
    ])
}

fn also_in_tables() -> Written {
    Written::new(&[
        Set("a", b"one".to_vec()),
        Set("b", b"b".to_vec()),
        Set("c", vec![b'c'; 50]),
        Flush,
        Set("a", b"two".to_vec()),
        Delete("b"),
        Flush,
        Set("a", b"three".to_vec()),
        Set("b", b"again".to_vec()),
        Delete("c"),
    ])
}

fn cleared_between() -> Written {
    Written::new(&[
        Set("a", b"one".to_vec()),
        Set("b", b"b".to_vec()),
        Clear,
        Set("a", b"two".to_vec()),
        Delete("b"),
        Set("c", b"c".to_vec()),
    ])
}

/// Large records that expire, which are in a keyspace of their own.
fn some_that_expires() -> Written {
    let large = |letter| vec![letter; 600];
    Written::new(&[
        Lend("a", large(b'a')),
        Lend("b", large(b'b')),
        Flush,
        Lend("a", large(b'c')),
        Set("b", b"small".to_vec()),
        Lend("c", large(b'd')),
        Delete("c"),
    ])
}

#[test]
fn a_journal_cut_or_changed_gives_no_wrong_value_of_what_expires() {
    let written = some_that_expires();
    written.is_cut_anywhere();
    written.is_changed_anywhere();
}

/// Records in both keyspaces with their index, and in none.
#[test]
fn a_journal_cut_anywhere_has_each_batch_whole_or_not_at_all() {
    let large = |letter| Some(vec![letter; 260]);
    let small = |letter| Some(vec![letter; 4]);
    Written::new(&[
        Batch(vec![("a", small(b'1')), ("b", large(b'1')), ("c", None), ("d", small(b'1'))]),
        Flush,
        Batch(vec![("a", None), ("b", None), ("c", small(b'2')), ("d", large(b'2'))]),
        Batch(vec![("a", large(b'3')), ("b", small(b'3')), ("d", None)]),
    ])
    .is_cut_anywhere();
}

#[test]
fn a_journal_cut_anywhere_is_a_moment_of_the_past() {
    only_in_the_journal().is_cut_anywhere();
}

#[test]
fn a_journal_cut_anywhere_beside_tables_is_a_moment_of_the_past() {
    also_in_tables().is_cut_anywhere();
}

#[test]
fn a_journal_with_a_changed_byte_gives_no_wrong_value() {
    only_in_the_journal().is_changed_anywhere();
}

#[test]
fn a_journal_with_a_changed_byte_beside_tables_gives_no_wrong_value() {
    also_in_tables().is_changed_anywhere();
}

/// What was cleared is gone, so without the clear's own batch there is nothing
/// that could be shown.
#[test]
fn a_journal_cut_or_changed_beside_a_clear_gives_no_wrong_value() {
    let written = cleared_between();
    let clear = written.moments[3].0;
    for bytes in positions(0..written.journal.len()) {
        match written.reopened(&written.journal[..bytes]) {
            Some(found) => assert_eq!(&found, written.moment(bytes), "cut at {bytes}"),
            None => assert!(bytes < clear, "cut at {bytes} and refused"),
        }
    }
    written.is_changed_anywhere();
}

/// A client may store whatever it likes: batches of another journal, with numbers
/// that are higher than any here.
#[test]
fn a_value_that_holds_batches_is_torn_like_any_other() {
    let mut batches = Written::new(&[Set("c", b"fake".to_vec())]);
    let last = batches.moments[0].0;
    // No checksum covers a number.
    batches.journal[last + 5..last + 13].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let value = [&batches.journal[last..], &[b'x'; 40]].concat();
    let written = Written::new(&[Set("a", b"one".to_vec()), Set("b", value), Delete("a")]);
    written.is_cut_anywhere();
    written.is_changed_anywhere();
}

/// A store that was closed well says how much there was.
#[test]
fn nothing_is_cut_off_a_journal_that_was_closed() {
    let directory = in_memory();
    set(&open(directory.path()), "a", b"the last one");
    let journal = directory.path().join(JOURNAL);
    let whole = fs::read(&journal).expect("there is a journal");
    let used = used_bytes(&journal);
    let mut changed = whole.clone();
    changed[used - 20] ^= 1;
    for damaged in [&whole[..used - 1], &whole[..used - 40], &changed] {
        fs::write(&journal, damaged).expect("it can be written");
        assert!(matches!(Durable::open(directory.path()), Err(OpenError::Damaged { .. })));
        assert!(fs::read(&journal).is_ok_and(|after| after == damaged));
    }
    fs::write(&journal, whole).expect("it can be written");
    assert_eq!(held(&open(directory.path()))["a"], b"the last one");
}

/// The journal is needed as long as something of it is only in memory, however
/// little.
#[test]
fn a_little_that_expires_keeps_no_journal() {
    const MEBIBYTES: u64 = 180;
    let directory = in_memory();
    let store = open(directory.path());
    let journals = || journal::disk_bytes(&directory.path().join("data")).expect("there are some");
    for large_expires in [false, true] {
        let later = Some(Time::now().after(Duration::from_secs(1000)));
        for round in 0..MEBIBYTES {
            let expires = round == 0 || large_expires;
            let is_large = round > 0;
            let entry = Entry::new(vec![b'x'; if is_large { 1 << 20 } else { 1000 }].into());
            let entry = entry.with_expiry(later.filter(|_| expires));
            store.set(key("a"), entry).expect("the engine writes");
        }
        let end = Instant::now() + Duration::from_secs(60);
        while journals() > (MEBIBYTES - 60) << 20 {
            assert!(Instant::now() < end, "{} MiB are kept", journals() >> 20);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// One by one: each has items of the engine's own beside it.
#[test]
fn what_was_deleted_leaves_the_disk_once_nobody_writes() {
    const KEYS: usize = 100;
    let directory = in_memory();
    let store = open(directory.path());
    let texts = || (0..KEYS).map(|number| number.to_string());
    let bytes = || store.read_path.keyspaces().keys.disk_bytes();
    texts().for_each(|text| set(&store, &text, &[b'x'; 3000]));
    wait_until("they are in files", || bytes() > 250_000);
    texts().take(KEYS / 2).for_each(|text| store.delete(&key(&text)).expect("it is deleted"));
    wait_until("what was deleted has gone", || bytes() < 200_000);
}

/// It is looked up in two places.
#[test]
fn what_is_replaced_all_the_time_is_never_absent() {
    const SECOND: Duration = Duration::from_secs(1);
    let directory = in_memory();
    let store = open(directory.path());
    let begun = Instant::now();
    let is_over = || begun.elapsed() > 2 * SECOND;
    let lend = |text: &str, number: u32| {
        let later = Time::now().after((1000 + number % 977) * SECOND);
        let entry = Entry::new(vec![b'x'; 800].into()).with_expiry(Some(later));
        store.set(key(text), entry).expect("the engine writes");
    };
    let keys = ["a", "b", "c", "d"];
    for text in keys {
        lend(text, 0);
    }
    thread::scope(|scope| {
        for text in keys {
            scope.spawn(move || {
                (1..u32::MAX).take_while(|_| !is_over()).for_each(|it| lend(text, it));
            });
        }
        // Whatever the database does meanwhile must not show.
        scope.spawn(|| {
            while !is_over() {
                for keyspace in store.read_path.keyspaces().each() {
                    if keyspace.l0_runs() < 15 {
                        keyspace.flush_and_wait().expect("the engine flushes");
                    }
                }
            }
        });
        let absent = keys.into_iter().cycle().take_while(|_| !is_over()).filter(|text| {
            let found = store.get(&key(text)).expect("the engine reads");
            found.is_none()
        });
        assert_eq!(absent.count(), 0, "reads that found nothing");
    });
}

/// Stores a large record that expires under "a". Gives its key among those.
fn set_large(store: &Durable) -> Vec<u8> {
    let later = Time::now().after(Duration::from_secs(1000));
    let entry = Entry::new(vec![b'x'; 1000].into()).with_expiry(Some(later));
    store.set(key("a"), entry).expect("the engine writes");
    expiry::index_entry(later, &key("a"))
}

#[test]
fn a_record_that_is_missing_is_not_taken_for_an_absent_one() {
    let directory = in_memory();
    let store = open(directory.path());
    let record = set_large(&store);
    store.read_path.keyspaces().expiring.remove(record).expect("the engine deletes");
    // Nobody reads what is behind the last batch.
    set(&store, "b", b"another");
    assert!(matches!(store.get(&key("a")), Err(Error::Internal(_))));
    set(&store, "a", b"again");
    assert!(store.get(&key("a")).is_ok_and(|entry| entry.is_some()));
}

#[test]
fn each_write_is_told_its_outcome_though_the_store_is_closed_meanwhile() {
    const WRITES: usize = 2000;
    for _ in 0..5 {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        let (tell, told) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..WRITES {
                    let tell = tell.clone();
                    let done = Box::new(move |outcome: Outcome| {
                        tell.send(outcome.is_ok()).expect("it is waited for");
                    });
                    store.submit(Op::Delete(key("a")), done);
                }
            });
            store.close().expect("it is closed");
        });
        drop(tell);
        assert_eq!(told.iter().count(), WRITES);
    }
}

#[test]
fn a_look_in_memory_shows_what_was_written_last_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let peek = || store.read_path.get_in_memory(&key("a")).map(|entry| entry.value().to_vec());
    assert_eq!(peek(), None);
    set(&store, "a", b"one");
    assert_eq!(peek().as_deref(), Some(&b"one"[..]));
    set(&store, "a", b"two");
    assert_eq!(peek().as_deref(), Some(&b"two"[..]));
    store.delete(&key("a")).expect("the engine deletes");
    assert_eq!(peek(), None);
    let soon = Time::now().after(Duration::from_secs(1000));
    for value in ["expires".to_owned(), "expires ".repeat(1000)] {
        let entry = Entry::new(value.clone().into()).with_expiry(Some(soon));
        store.set(key("a"), entry).expect("the engine writes");
        // A large one is in a keyspace of its own.
        let is_large = value.len() > 1000;
        assert_eq!(peek(), Some(value.clone().into_bytes()).filter(|_| !is_large));
        assert_eq!(store.get(&key("a")).map(|entry| entry.is_some()).ok(), Some(true));
        assert_eq!(peek(), Some(value.into_bytes()));
    }
    set(&store, "a", b"cleared");
    store.clear().expect("the engine clears");
    assert_eq!(peek(), None);
}

#[test]
fn an_entry_in_a_file_is_in_memory_once_it_was_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let peek = || store.read_path.get_in_memory(&key("a"));
    // After a flush and another write nothing is left of it in the memtable.
    let read = || {
        flush(&store);
        set(&store, "b", b"another");
        assert_eq!(peek(), None);
        let found = store.get(&key("a")).expect("the engine reads");
        assert_eq!(peek(), found);
        found.map(|entry| entry.value().to_vec())
    };
    let lend = |time: Duration, value: &'static [u8]| {
        let entry = Entry::new(Bytes::from_static(value));
        let expiry = Some(Time::now().after(time));
        store.set(key("a"), entry.with_expiry(expiry)).expect("the engine writes");
    };
    set(&store, "a", b"plain");
    assert_eq!(read().as_deref(), Some(&b"plain"[..]));
    set(&store, "a", b"changed");
    assert_eq!(read().as_deref(), Some(&b"changed"[..]));
    store.delete(&key("a")).expect("the engine deletes");
    assert_eq!(read(), None);
    lend(Duration::from_secs(1000), &[b'x'; 1000]);
    assert_eq!(read().map(|value| value.len()), Some(1000));
    let changes = vec![(key("a"), BatchOp::Delete), (key("b"), BatchOp::Delete)];
    store.batch(changes).expect("the engine deletes");
    assert_eq!(read(), None);
    set(&store, "a", b"to be cleared");
    assert!(read().is_some());
    store.clear().expect("the engine clears");
    assert_eq!(read(), None);
    // One that has expired is not, swept or not.
    lend(Duration::from_millis(100), b"short");
    flush(&store);
    set(&store, "b", b"another");
    store.get(&key("a")).expect("the engine reads");
    thread::sleep(Duration::from_millis(110));
    assert_eq!(peek(), None);
}

/// Nothing like it may be written for long.
#[test]
fn a_large_record_in_a_file_is_not_kept_in_memory_once_anything_is_written() {
    let directory = in_memory();
    let store = open(directory.path());
    let record = set_large(&store);
    let is_kept = || store.read_path.keyspaces().expiring.get_in_memtable(&record).is_some();
    assert!(is_kept());
    flush(&store);
    set(&store, "b", b"another");
    assert!(!is_kept());
}

#[test]
fn a_memtable_that_is_in_a_file_is_freed_though_nobody_writes() {
    let directory = in_memory();
    let store = open(directory.path());
    for text in ["a", "b"] {
        set(&store, text, b"value");
        flush(&store);
    }
    let keys = store.read_path.keyspaces().keys.clone();
    wait_until("the first one is let go", || keys.memtables_held() == 1);
}

/// It goes from the memtable to a file, and from there to the cache, again and again.
#[test]
fn a_read_meets_nothing_older_than_one_before_it() {
    const WRITES: u32 = 1500;
    let directory = in_memory();
    let store = open(directory.path());
    let (begun, is_written) = (Instant::now(), AtomicBool::new(false));
    // A failure of one ends all others some time.
    let is_over =
        || is_written.load(Ordering::Relaxed) || begun.elapsed() > Duration::from_secs(60);
    let number = |entry: Entry| -> u32 {
        str::from_utf8(entry.value()).expect("text").parse().expect("a number")
    };
    set(&store, "a", b"0");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !is_over() {
                    let at_once = store.read_path.get_in_memory(&key("a"));
                    let entry = at_once.or_else(|| store.get(&key("a")).expect("the engine reads"));
                    let found = number(entry.expect("it is never deleted"));
                    assert!(found >= last, "{found} after {last}");
                    last = found;
                }
            });
        }
        scope.spawn(|| {
            while !is_over() {
                let keys = &store.read_path.keyspaces().keys;
                if keys.l0_runs() < 15 {
                    keys.flush_and_wait().expect("the engine flushes");
                }
            }
        });
        for count in 1..=WRITES {
            set(&store, "a", count.to_string().as_bytes());
            assert_eq!(store.get(&key("a")).map(|entry| entry.map(number)).ok(), Some(Some(count)));
        }
        is_written.store(true, Ordering::Relaxed);
    });
}

/// Otherwise a key that is there all the time would not be listed for a while.
#[test]
fn an_entry_that_a_change_is_decided_on_is_listed_though_it_expires_meanwhile() {
    // On a busy machine it expires before the change where it does so soon.
    let times = [200, 2_000, 20_000].map(Duration::from_millis);
    assert!(times.into_iter().any(is_listed_if_it_expires_later), "the machine is too slow");
}

/// The test, where an entry that expires after this time is there when the change is
/// decided on; false where it is not.
fn is_listed_if_it_expires_later(time: Duration) -> bool {
    let directory = in_memory();
    let store = open(directory.path());
    let soon = Time::now().after(time);
    for text in ["a", "b", "c"] {
        let entry = Entry::new(vec![b'x'; 500].into());
        store.set(key(text), entry.with_expiry(Some(soon))).expect("the engine writes");
    }
    let read_path = store.read_path.clone();
    let listed = move || -> Vec<String> {
        let listing = Listing { keys_max: 10, ..Listing::default() };
        let with_entries = Listing { with_entries: true, ..listing.clone() };
        let [one, other] = [listing, with_entries].map(|listing| {
            let page = read_path.list(&listing).expect("the engine lists");
            page.keys().map(str::to_owned).collect::<Vec<_>>()
        });
        assert_eq!(one, other);
        one
    };
    let all = listed();
    let (listed_then, tell) = (listed.clone(), std::sync::mpsc::channel());
    let change = move |before: Option<&Entry>| {
        let Some(before) = before else { return Decision::Keep };
        while Time::now() < soon {
            thread::sleep(Duration::from_millis(5));
        }
        tell.0.send(listed_then()).expect("it is waited for");
        Decision::Replace(before.clone().with_expiry(None))
    };
    let updated = store.update(key("b"), Box::new(change)).expect("the engine writes");
    if updated.before.is_none() {
        return false;
    }
    // All of them were there before that.
    assert_eq!(all, ["a", "b", "c"]);
    assert_eq!(tell.1.recv().as_deref(), Ok(&["b".to_owned()][..]));
    assert_eq!(listed(), ["b"]);
    true
}

/// A journal that is made longer by each write takes longer to sync.
#[cfg(all(target_os = "linux", not(portable)))]
#[test]
fn a_journal_that_was_opened_again_is_written_in_place() {
    use rustix::fs::{SeekFrom, seek};

    let directory = tempfile::tempdir().expect("a directory");
    let value = |index: usize| format!("{index} of what is stored").repeat(20).into_bytes();
    let texts = |range: std::ops::Range<usize>| range.map(|index| (index.to_string(), index));
    let journal = directory.path().join(JOURNAL);
    let starts = [0..1, 1..500, 500..1000];
    for range in starts.clone() {
        let store = open(directory.path());
        for (text, index) in texts(range) {
            set(&store, &text, &value(index));
            let file = fs::File::open(&journal).expect("there is a journal");
            let bytes = file.metadata().expect("it has a length").len();
            assert_eq!(bytes, journal::preallocate::NEW_BYTES, "{text}");
            // Looked at twice, for it takes long.
            if index % 500 == 250 {
                let ready = seek(&file, SeekFrom::Hole(0)).expect("it ends");
                assert!(ready > used_bytes(&journal) as u64, "{text}: {ready}");
            }
        }
    }
    let store = open(directory.path());
    for (text, index) in starts.into_iter().flat_map(texts) {
        let entry = store.get(&key(&text)).expect("the engine reads").expect("it is there");
        assert_eq!(*entry.value(), value(index), "{text}");
    }
}

/// What copies files may make holes of zeros, in a value too.
#[cfg(all(target_os = "linux", not(portable)))]
#[test]
fn a_journal_with_holes_in_it_is_not_written_over() {
    use rustix::fs::{FallocateFlags, fallocate};

    const ZEROS: usize = 128 << 10;
    let directory = in_memory();
    let mut value = vec![b'x'; 20_000];
    value.extend(vec![0; ZEROS]);
    value.extend(vec![b'y'; 20_000]);
    let store = open(directory.path());
    set(&store, "a", &value);
    for _ in 0..100 {
        set(&store, "b", &[b'b'; 500]);
    }
    drop(store);
    // Inside the run of zeros, wherever that begins.
    let journal = directory.path().join(JOURNAL);
    let hole = (32 << 10, ZEROS as u64 - (32 << 10));
    let before = fs::read(&journal).expect("there is a journal");
    let file = fs::File::options().write(true).open(&journal).expect("it can be written");
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, flags, hole.0, hole.1).expect("there can be holes");
    assert!(fs::read(&journal).expect("it is there") == before, "more than zeros is gone");

    let store = open(directory.path());
    set(&store, "new", b"after the hole");
    drop(store);
    let held = held(&open(directory.path()));
    let wanted = [("a", &value[..]), ("b", &[b'b'; 500]), ("new", b"after the hole")];
    assert!(held == wanted.map(|(text, value)| (text.to_owned(), value.to_vec())).into());
}
