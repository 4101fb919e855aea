//! The change log of the durable engine: a watcher goes on behind a restart where it has
//! missed nothing, and else starts over; it hears of a change once readers see it.

use crate::support::blocking::Blocking as _;
use crate::support::http::wait_until;
use crate::support::place::copy_all;
use crate::support::promises::wait_for;
use crate::support::replica::{Replica, listed, watch};
use crate::support::threads::Ended;
use bytes::Bytes;
use little_key_value::storage::{BatchOp, Changed, Durable, Entry, Event, Key, Listing, Range};
use little_key_value::storage::{Read, Revision, Storage as _, Time, Watcher};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn entry(value: impl Into<Bytes>) -> Entry {
    Entry::new(value.into())
}

fn open(path: &Path) -> Durable {
    Durable::open(path).unwrap_or_else(|err| panic!("{err}"))
}

fn set(store: &Durable, text: &str, value: &str) {
    store.set(key(text), entry(value.to_owned())).expect("the engine writes");
}

fn revision(store: &Durable) -> Revision {
    store.changes().expect("a change log").revision()
}

/// The directory as a kill would leave it at this moment.
fn killed(directory: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    copy_all(directory.path(), copy.path());
    copy
}

/// The next changes of a watcher, which there are.
#[track_caller]
fn next(watcher: &Watcher) -> Vec<Changed> {
    match watcher.read() {
        Read::Changes(changes) => changes,
        other @ (Read::UpToDate(_) | Read::Passing | Read::Reborn | Read::Behind) => {
            panic!("{other:?}")
        }
    }
}

fn lines(changes: &[Changed]) -> Vec<(Event, &str)> {
    changes.iter().map(|change| (change.event, change.key.as_str())).collect()
}

#[test]
fn a_watcher_that_has_missed_nothing_goes_on_behind_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "a", "1");
    let first = revision(&store);
    set(&store, "b", "1");
    let told = revision(&store);
    let before = killed(&directory);
    drop(store);
    for directory in [before, directory] {
        let store = open(directory.path());
        assert_eq!(revision(&store), told);
        let watcher = watch(&store, Some(told));
        assert_eq!(watcher.read(), Read::UpToDate(told));
        set(&store, "c", "1");
        let changes = next(&watcher);
        assert_eq!(lines(&changes), [(Event::Put, "c")]);
        // As far on as before.
        let place = told.place + (told.place - first.place);
        assert_eq!(changes[0].revision, Revision { place, ..told });
        assert_eq!(watch(&store, Some(first)).read(), Read::Reborn);
    }
}

#[test]
fn a_position_that_was_never_reached_starts_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "a", "1");
    let before = killed(&directory);
    set(&store, "b", "1");
    let told = revision(&store);
    drop(store);
    let store = open(before.path());
    assert_eq!(revision(&store).birth, told.birth);
    assert_eq!(watch(&store, Some(told)).read(), Read::Reborn);
}

#[test]
fn a_clear_begins_another_birth_that_lasts() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "a", "1");
    let mut births = vec![revision(&store).birth];
    for _ in 0..2 {
        let watcher = watch(&store, Some(revision(&store)));
        let (woken, wakes) = mpsc::channel();
        let wake = move |_| woken.send(()).expect("it is waited for");
        watcher.park(Instant::now() + Duration::from_secs(60), Box::new(wake));
        let begun = Instant::now();
        store.clear().expect("the engine clears");
        wakes.recv_timeout(Duration::from_secs(120)).expect("it is woken");
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(watcher.read(), Read::Reborn);
        births.push(revision(&store).birth);
    }
    let cleared = revision(&store);
    births.sort_unstable();
    births.dedup();
    assert_eq!(births.len(), 3);
    // A copy is of no one moment while files are removed.
    wait_until("what was cleared is removed", || {
        let keyspaces = fs::read_dir(directory.path().join("data/keyspaces"));
        keyspaces.expect("a folder").count() == 3
    });
    let before = killed(&directory);
    drop(store);
    for directory in [before, directory] {
        let store = open(directory.path());
        assert_eq!(watch(&store, Some(cleared)).read(), Read::UpToDate(cleared));
        set(&store, "b", "1");
        assert_eq!(revision(&store).birth, cleared.birth);
    }
}

/// The changes that a watcher reads up to one of them.
fn until(watcher: &Watcher, event: Event, text: &str) -> Vec<Changed> {
    let mut told: Vec<Changed> = Vec::new();
    wait_until("it is told", || {
        match watcher.read() {
            Read::Changes(changes) => told.extend(changes),
            Read::UpToDate(_) | Read::Passing => {}
            other @ (Read::Reborn | Read::Behind) => panic!("{other:?}"),
        }
        lines(&told).contains(&(event, text))
    });
    told
}

#[test]
fn an_expiry_is_told_once() {
    // Longer where the disk is slow.
    assert!([1, 8, 64].into_iter().any(|seconds| expires(Duration::from_secs(seconds))));
}

/// False if some have expired before all were stored.
fn expires(ttl: Duration) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let begin = revision(&store);
    let soon = Time::now().after(ttl);
    let later = soon.after(Duration::from_secs(1000));
    // Those of 300 bytes are kept with other large ones.
    for (text, bytes, expiry) in [
        ("deleted", 300, soon),
        ("large", 300, soon),
        ("prolonged", 300, soon),
        ("prolonged", 300, later),
        ("replaced", 1, soon),
        ("small", 1, soon),
    ] {
        let entry = entry(vec![b'x'; bytes]).with_expiry(Some(expiry));
        store.set(key(text), entry).expect("the engine writes");
    }
    set(&store, "replaced", "1");
    store.delete(&key("deleted")).expect("the engine deletes");
    let (down, told) = (killed(&directory), revision(&store));
    if Time::now() >= soon {
        return false;
    }
    wait_for(soon);
    let after_start = open(down.path());
    for (store, since) in [(store, begin), (after_start, told)] {
        let watcher = watch(&store, Some(since));
        wait_until("they have expired", || listed(&store).len() == 2);
        // Behind all others of that moment.
        let last = entry("x").with_expiry(Some(soon));
        store.set(key("~"), last).expect("the engine writes");
        let mut expired = until(&watcher, Event::Expire, "~");
        expired.retain(|change| change.event == Event::Expire);
        assert_eq!(lines(&expired), ["large", "small", "~"].map(|text| (Event::Expire, text)));
    }
    true
}

const WRITERS: usize = 4;
const WRITES_EACH: usize = 200;

/// Has several write at the same time while something else is done, and tells that when
/// they have ended.
fn beside_writers(write: impl Fn(usize, usize) + Sync, beside: impl FnOnce(&AtomicBool)) {
    let (write, has_ended) = (&write, &AtomicBool::new(false));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || (0..WRITES_EACH).for_each(|it| write(writer, it))))
            .collect();
        scope.spawn(move || {
            let _ended = Ended(has_ended);
            for writer in writers {
                writer.join().expect("a writer ends");
            }
        });
        beside(has_ended);
    });
}

/// The number under a key, as a get or a list finds it.
fn number(store: &Durable, key: &Key, is_listed: bool) -> usize {
    let entry = if is_listed {
        let range = Range { prefix: key.as_str().into(), ..Range::default() };
        let listing = Listing { range, keys_max: 1, with_entries: true, ..Listing::default() };
        store.list(listing).expect("the engine lists").entries().first().cloned()
    } else {
        store.get(key).expect("the engine reads")
    };
    let text = entry.map(|entry| String::from_utf8_lossy(entry.value()).into_owned());
    text.map_or(0, |text| text.parse().expect("a number"))
}

#[test]
fn a_change_is_told_once_readers_see_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let begin = revision(&store);
    // Each has a key and a pair of keys, and numbers them.
    let write = |writer: usize, index: usize| {
        let value = (index / 2 + 1).to_string();
        if index.is_multiple_of(2) {
            return set(&store, &format!("{writer}:own"), &value);
        }
        let op = |half| (key(&format!("{writer}:{half}")), BatchOp::Set(entry(value.clone())));
        store.batch(vec![op("first"), op("last")]).expect("the engine writes");
    };
    let mut told: BTreeMap<Key, usize> = BTreeMap::new();
    beside_writers(write, |has_ended| {
        let watcher = watch(&store, Some(begin));
        let mut halves = None;
        loop {
            let is_last = has_ended.load(Ordering::Relaxed);
            let changes = match watcher.read() {
                Read::Changes(changes) => changes,
                Read::UpToDate(_) if is_last => break,
                Read::UpToDate(_) | Read::Passing => continue,
                other @ (Read::Reborn | Read::Behind) => panic!("{other:?}"),
            };
            for (index, Changed { key: changed, .. }) in changes.into_iter().enumerate() {
                let times = told.entry(changed.clone()).or_default();
                *times += 1;
                let count = *times;
                let is_listed = index.is_multiple_of(2);
                assert!(number(&store, &changed, is_listed) >= count, "{changed:?}");
                let text = changed.as_str();
                match (text.strip_suffix("first"), text.strip_suffix("last")) {
                    (Some(writer), _) => {
                        let last = key(&format!("{writer}last"));
                        assert!(number(&store, &last, is_listed) >= count, "{last:?}");
                        halves = Some(writer.to_owned());
                    }
                    (_, last) => assert_eq!(halves.take().as_deref(), last, "{text}"),
                }
            }
        }
    });
    assert_eq!(told.len(), 3 * WRITERS);
}

#[test]
fn nothing_is_missed_by_reading_behind_a_position() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let write = |writer: usize, index: usize| match index % 3 {
        0 => set(&store, &format!("{writer}:{index}"), "1"),
        1 => store.delete(&key(&format!("{writer}:{}", index - 1))).expect("the engine deletes"),
        _ => {
            let op = |half| (key(&format!("{writer}:{index}:{half}")), BatchOp::Set(entry("1")));
            store.batch(vec![op("first"), op("last")]).expect("the engine writes");
        }
    };
    let mut replicas: Vec<Replica> = Vec::new();
    beside_writers(write, |has_ended| {
        while !has_ended.load(Ordering::Relaxed) {
            let at = Some(revision(&store));
            replicas.push(Replica { values: listed(&store), at, ..Replica::default() });
        }
    });
    let held = listed(&store);
    assert!(replicas.len() > 10, "{} replicas", replicas.len());
    for mut replica in replicas {
        replica.follow(&store);
        assert_eq!((&replica.values, replica.resets), (&held, 0));
    }
}
