//! What the sweep removes and what it leaves: first by itself, at moments that
//! a test chooses, then in the store.

use super::*;
use crate::storage::durable::Durable;
use crate::storage::durable::journal::Stamp;
use crate::storage::durable::lookup::entry_in;
use crate::storage::{Blocking as _, Entry, KEY_BYTES_MAX, Op, Revision, Storage as _, record};
use std::sync::mpsc;
use std::thread;
use tempfile::TempDir;

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn moment(milliseconds: u64) -> Time {
    Time::from_bits(milliseconds)
}

fn entry(value: &str, expiry: impl Into<Option<Time>>) -> Entry {
    Entry::new(value.to_owned().into()).with_expiry(expiry.into())
}

/// What a keyspace holds, but for the notes that the engine makes for itself,
/// of one byte or two, or longer than any key.
fn held(keyspace: &Keyspace) -> Vec<Vec<u8>> {
    let keys = keyspace.keys(&[], &[0xff; 3]).map(|key| key.expect("it can be read").to_vec());
    let keys = keys.filter(|key| key.len() <= KEY_BYTES_MAX);
    keys.filter(|key| key.len() > PREFIX.len() || key[0] != PREFIX[0]).collect()
}

/// A sweep and what it sweeps, without the committer.
struct Index {
    sweep: Sweep,
    generation: Generation,
    database: Database,
    changes: Changes,
    // The fields are dropped in this order.
    _directory: TempDir,
}

impl Index {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let database = Database::open(&data).unwrap_or_else(|err| panic!("{err}"));
        let revision = Revision { birth: 1, place: 1 };
        let generation = Generation::begin(&database, &data, Stamp::new(), 0, revision);
        let generation = generation.expect("it begins");
        let sweep = Sweep::new(&generation.keyspaces);
        let changes = Changes::new(0, revision, true);
        Self { sweep, generation, database, changes, _directory: directory }
    }

    /// Writes a record and its entries in the index, as the committer does.
    fn set(&mut self, text: &str, expiry: impl Into<Option<Time>>) {
        let expiry = expiry.into();
        self.write(text, Some(&entry("value", expiry)));
    }

    /// The same with a record that is kept in order of time.
    fn set_large(&mut self, text: &str, expiry: u64) {
        self.write(text, Some(&entry(&text.repeat(LARGE_BYTES_MIN), moment(expiry))));
    }

    fn delete(&mut self, text: &str) {
        self.write(text, None);
    }

    fn write(&mut self, text: &str, entry: Option<&Entry>) {
        let record = entry.map(|entry| record::encode(entry).into());
        let mut batch = self.generation.batch(&self.database, self.changes.revision());
        self.sweep.put(&mut batch, &self.generation.keyspaces, &key(text), record);
        batch.commit().expect("it is written");
    }

    fn get(&self, text: &str) -> Option<Entry> {
        entry_in(&self.generation.keyspaces, &key(text)).expect("it can be read")
    }

    /// Takes one step at a moment; gives how many keys it has removed.
    fn step(&mut self, milliseconds: u64) -> usize {
        self.removed(milliseconds).keys
    }

    fn removed(&mut self, milliseconds: u64) -> Removed {
        let Self { sweep, generation, database, changes, .. } = self;
        let removed = sweep.step(database, generation, changes, moment(milliseconds));
        removed.expect("it is written")
    }

    fn is_empty(&self) -> bool {
        self.held().is_empty()
    }

    fn held(&self) -> Vec<Vec<u8>> {
        held(self.generation.keys())
    }

    /// What is held in order of time.
    fn held_large(&self) -> Vec<Vec<u8>> {
        held(self.generation.expiring())
    }
}

#[test]
fn the_index_is_in_order_of_time() {
    let entries = [
        index_entry(moment(0), &key("z")),
        index_entry(moment(255), &key("y")),
        index_entry(moment(256), &key("a")),
        index_entry(moment(256), &key("b")),
        index_from(moment(257)),
    ];
    assert!(entries.is_sorted(), "{entries:?}");
    assert_eq!(parse(&entries[2]), Some((moment(256), &b"a"[..])));
    assert_eq!(parse(&[0xff]), None);
}

#[test]
fn large_records_that_are_swept_are_counted() {
    let mut index = Index::new();
    index.set("small", moment(1));
    index.set_large("large", 1);
    index.set_large("later", 2);
    assert_eq!(index.removed(1), Removed { keys: 2, large: 1 });
    assert_eq!(index.removed(2), Removed { keys: 1, large: 1 });
}

#[test]
fn a_key_is_swept_from_the_moment_when_it_expires() {
    let mut index = Index::new();
    index.set("key", moment(6000));
    assert_eq!(index.step(5999), 0);
    assert_eq!(index.held().len(), 3);
    assert_eq!(index.step(6000), 1);
    assert!(index.is_empty());
}

#[test]
fn a_step_is_short_and_the_next_one_goes_on() {
    let mut index = Index::new();
    for number in 0..STEP_KEYS_MAX + 10 {
        index.set(&number.to_string(), moment(1000 + number as u64 % 7));
    }
    let begun = Instant::now();
    assert_eq!(index.step(2000), STEP_KEYS_MAX);
    let took = begun.elapsed();
    assert!(index.sweep.due_in() <= INTERVAL_BUSY.max(took * INTERVAL_BUSY_SHARE));
    let begun = Instant::now();
    assert_eq!(index.step(2000), 10);
    assert!(index.sweep.next >= begun + INTERVAL);
    assert!(index.is_empty());
}

#[test]
fn what_was_stored_again_since_is_left() {
    let mut index = Index::new();
    for text in ["for ever", "longer", "deleted"] {
        index.set(text, moment(1000));
    }
    index.set("for ever", None);
    index.set("longer", moment(3000));
    index.delete("deleted");
    assert_eq!(index.step(2000), 0);
    let left = [
        b"for ever".to_vec(),
        b"longer".to_vec(),
        index_entry(moment(3000), &key("longer")),
        expiry_of(b"longer"),
    ];
    assert_eq!(index.held(), left);
    assert_eq!(index.step(3000), 1);
    assert_eq!(index.held(), [b"for ever"]);
}

#[test]
fn what_comes_in_behind_the_sweep_is_found() {
    let mut index = Index::new();
    index.set("first", moment(5000));
    assert_eq!(index.step(6000), 1);
    index.set("behind", moment(3000));
    index.set("before all", moment(0));
    assert_eq!(index.step(6000), 2);
    assert!(index.is_empty());
}

/// Waits until a store holds nothing but these.
#[track_caller]
fn wait_until_held(store: &Durable, left: &[&[u8]]) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let held = held(&store.read_path.keyspaces().keys);
        if held == left {
            return;
        }
        assert!(Instant::now() < end, "{} are held, {:?} first", held.len(), held.first());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_store_gives_back_records_and_index() {
    const KEYS: usize = 3 * STEP_KEYS_MAX;
    let directory = tempfile::tempdir().expect("a directory");
    let store = Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"));
    let (later, soon) = (Time::now().after(Duration::from_secs(1000)), Time::now());
    store.set(key("for ever"), entry("value", None)).expect("it is written");
    store.set(key("later"), entry("value", later)).expect("it is written");
    let (tell, written) = mpsc::channel();
    for number in 0..KEYS {
        let expiry = soon.after(Duration::from_millis(number as u64));
        let tell = tell.clone();
        let done = Box::new(move |outcome| tell.send(outcome).expect("it is waited for"));
        store.submit(Op::Set(key(&number.to_string()), entry("value", expiry)), done);
    }
    drop(tell);
    assert_eq!(written.iter().flatten().count(), KEYS);
    let (index, by_key) = (index_entry(later, &key("later")), expiry_of(b"later"));
    let left: [&[u8]; 4] = [b"for ever", b"later", &index, &by_key];
    wait_until_held(&store, &left);

    // By now the sweep has passed this one's place.
    store.set(key("long past"), entry("value", moment(1))).expect("it is written");
    wait_until_held(&store, &left);

    store.set(key("later"), entry("value", None)).expect("it is written");
    store.clear().expect("it is written");
    store.set(key("past"), entry("value", moment(1))).expect("it is written");
    store.set(key("new"), entry("value", None)).expect("it is written");
    wait_until_held(&store, &[b"new"]);
}

/// What was not swept before the end is swept after the next start.
#[test]
fn what_expires_between_two_starts_is_swept() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"));
    let store = open();
    let soon = Time::now().after(Duration::from_millis(300));
    store.set(key("key"), entry("value", soon)).expect("it is written");
    store.set(key("for ever"), entry("value", None)).expect("it is written");
    drop(store);
    while Time::now() < soon {
        thread::sleep(Duration::from_millis(5));
    }
    let store = open();
    assert_eq!(store.get(&key("key")).expect("it can be read"), None);
    wait_until_held(&store, &[b"for ever"]);
}

/// A session that is prolonged again and again leaves no trace of each time.
#[test]
fn the_index_has_no_more_than_one_entry_of_a_key() {
    let mut index = Index::new();
    for expiry in 1000..1100 {
        index.set("session", moment(expiry));
    }
    assert_eq!(index.held().len(), 3);
    index.set("session", None);
    assert_eq!(index.held(), [b"session"]);
    index.set("session", moment(1000));
    index.delete("session");
    assert!(index.is_empty());
}

#[test]
fn a_large_record_is_in_order_of_time() {
    let mut index = Index::new();
    index.set_large("later", 3000);
    index.set_large("sooner", 1000);
    index.set("small", moment(1000));
    let large =
        [index_entry(moment(1000), &key("sooner")), index_entry(moment(3000), &key("later"))];
    assert_eq!(index.held_large(), large);
    assert_eq!(index.sweep.take_large(), Tally { changes: 2, deletions: 0 });
    let sooner = index.get("sooner").expect("it is there");
    assert_eq!((sooner.value().len(), sooner.expiry()), (6 * LARGE_BYTES_MIN, Some(moment(1000))));

    assert_eq!(index.step(2000), 2);
    assert_eq!(index.sweep.take_large(), Tally { changes: 1, deletions: 1 });
    assert_eq!(index.get("sooner"), None);
    assert_eq!(index.held_large(), large[1..]);
    assert_eq!(index.step(3000), 1);
    assert!(index.is_empty() && index.held_large().is_empty());
}

/// However a record was kept before, it is kept once.
#[test]
fn a_record_that_grows_or_shrinks_or_lasts_is_kept_once() {
    let mut index = Index::new();
    let (at, later) = (moment(1000), moment(2000));
    let by_key =
        |index: &Index| index.generation.keys().get(expiry_of(b"key")).expect("it can be read");
    for round in 0..3 {
        index.set("key", at);
        assert_eq!((index.held().len(), index.held_large().len()), (3, 0), "{round}");
        index.set_large("key", 1000);
        assert_eq!((index.held().len(), index.held_large().len()), (3, 1), "{round}");
        index.set_large("key", 2000);
        assert_eq!(index.held_large(), [index_entry(later, &key("key"))]);
        assert_eq!(by_key(&index).map(|it| it.len()), Some(9));
        index.set("key", later);
        assert_eq!((index.held().len(), index.held_large().len()), (3, 0), "{round}");
        assert_eq!(by_key(&index).map(|it| it.len()), Some(8));
        index.set_large("key", 1500);
        match round {
            0 => index.set("key", None),
            1 => index.delete("key"),
            _ => assert_eq!(index.step(1500), 1),
        }
        assert_eq!(index.held().len(), usize::from(round == 0));
        assert_eq!(index.held_large(), [[0_u8; 0]; 0]);
        assert_eq!(index.get("key").is_some(), round == 0);
    }
}

/// Before there was a keyspace for what expires, its records were with the keys.
#[test]
fn what_was_written_before_is_read_and_written_and_swept() {
    let mut index = Index::new();
    let at = moment(1000);
    let before = entry(&"before".repeat(LARGE_BYTES_MIN), at);
    for text in ["overwritten", "shorter", "deleted", "swept"] {
        let mut batch = index.generation.batch(&index.database, index.changes.revision());
        let keys = index.generation.keys();
        batch.insert(keys, text, record::encode(&before));
        batch.insert(keys, index_entry(at, &key(text)), []);
        batch.insert(keys, expiry_of(text.as_bytes()), at.to_bits().to_be_bytes());
        batch.commit().expect("it is written");
    }
    index.sweep = Sweep::new(&index.generation.keyspaces);
    assert_eq!(index.get("swept"), Some(before));
    index.set_large("overwritten", 1000);
    assert_eq!(index.held_large().len(), 1);
    index.set("shorter", at);
    index.delete("deleted");
    assert_eq!(index.step(1000), 3);
    assert!(index.is_empty());
}
