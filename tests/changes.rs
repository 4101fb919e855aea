//! What the storage promises of its change log, on every engine that has one.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a promise that panics is not kept"
)]

use crate::support::blocking::Blocking as _;
use crate::support::promises::{Store, always, clear, delete, entry, fewer_if_slow, get, key};
use crate::support::promises::{on_every_engine, set, wait_for};
use crate::support::random::Random;
use bytes::Bytes;
use little_key_value::storage::{BatchOp, Changed, Changes, Decision, Entry, Event, Listing};
use little_key_value::storage::{Read, Time, Watched, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

macro_rules! on_every_engine_with_a_log {
    ($($promise:ident)*) => {
        // A new engine adds a line. The peer has no change log, and a cluster neither: it
        // answers as one without it, as tests/watch.rs has it.
        on_every_engine! { memory: $($promise)* }
        on_every_engine! { durable: $($promise)* }
    };
}

on_every_engine_with_a_log! {
    each_change_is_told_with_its_event
    what_changes_nothing_is_not_told
    an_expiry_is_told_once
    an_entry_that_expires_in_front_of_a_taker_is_told
    clearing_begins_another_birth
    the_last_event_of_a_key_is_its_state
    the_lines_of_a_batch_follow_each_other
    who_is_told_of_a_change_sees_it
    who_is_told_of_a_batch_sees_all_of_it
    a_listing_and_the_changes_since_make_a_replica
}

const LONG: Duration = Duration::from_secs(60);

fn log(store: &Store) -> &Changes {
    store.changes().expect("it has a change log")
}

fn all() -> Watched {
    Watched::Prefix("".into())
}

/// All that there is to read.
#[track_caller]
fn read_all(watcher: &Watcher) -> Vec<Changed> {
    let mut all = Vec::new();
    loop {
        match watcher.read() {
            Read::Changes(changes) => all.extend(changes),
            Read::Passing => {}
            Read::UpToDate(_) => return all,
            end @ (Read::Reborn | Read::Behind) => panic!("{end:?} after {}", all.len()),
        }
    }
}

/// Parks a watcher until there is something to read.
#[track_caller]
fn wait_for_changes(watcher: &Watcher) {
    let until = Instant::now() + LONG;
    let (sender, woken) = mpsc::channel();
    watcher.park(until, Box::new(move |has_ended| sender.send(has_ended).unwrap()));
    assert_eq!(woken.recv_timeout(2 * LONG), Ok(false));
    assert!(Instant::now() < until, "nothing was told");
}

/// Reads on until one of the changes is this one.
#[track_caller]
fn read_until(watcher: &Watcher, event: Event, text: &str) -> Vec<Changed> {
    let is_last = |change: &Changed| change.event == event && change.key.as_str() == text;
    let mut all = read_all(watcher);
    while !all.iter().any(is_last) {
        wait_for_changes(watcher);
        all.extend(read_all(watcher));
    }
    all
}

/// The changes of one kind, by their keys.
fn keys_of(changes: &[Changed], event: Event) -> Vec<&str> {
    let of_kind = changes.iter().filter(|change| change.event == event);
    let mut keys: Vec<&str> = of_kind.map(|change| change.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// Events and keys of all that there is to read.
#[track_caller]
fn events(watcher: &Watcher) -> Vec<(Event, String)> {
    let changes = read_all(watcher).into_iter();
    changes.map(|change| (change.event, change.key.as_str().to_owned())).collect()
}

fn replace(text: &'static str) -> BatchOp {
    BatchOp::Update(always(Decision::Replace(entry(text))))
}

fn each_change_is_told_with_its_event(store: Store) {
    let watcher = log(&store).watch(all(), None);
    let told = |expected: &[(Event, &str)]| {
        let owned = expected.iter().map(|(event, text)| (*event, (*text).to_owned()));
        assert_eq!(events(&watcher), owned.collect::<Vec<_>>());
    };
    set(&store, "a", "1");
    told(&[(Event::Put, "a")]);
    set(&store, "a", "1");
    told(&[(Event::Put, "a")]);
    store.update(key("a"), always(Decision::Replace(entry("2")))).unwrap();
    store.update(key("b"), always(Decision::Replace(entry("2")))).unwrap();
    told(&[(Event::Put, "a"), (Event::Put, "b")]);
    store.update(key("a"), always(Decision::Remove)).unwrap();
    told(&[(Event::Delete, "a")]);
    delete(&store, "b");
    told(&[(Event::Delete, "b")]);
    let ops = [("a", BatchOp::Set(entry("1"))), ("b", replace("1")), ("b", replace("2"))];
    store.batch(ops.map(|(text, op)| (key(text), op)).into()).unwrap();
    told(&[(Event::Put, "a"), (Event::Put, "b")]);
    let ops = [("b", BatchOp::Delete), ("c", replace("1"))];
    store.batch(ops.map(|(text, op)| (key(text), op)).into()).unwrap();
    told(&[(Event::Delete, "b"), (Event::Put, "c")]);
    store.update_first("", always(Decision::Replace(entry("3")))).unwrap();
    store.update_first("c", always(Decision::Remove)).unwrap();
    told(&[(Event::Put, "a"), (Event::Delete, "c")]);
    // A large value is changed on another way.
    set(&store, "large", vec![b'x'; 100_000]);
    let large = vec![b'y'; 100_000];
    store.update(key("large"), always(Decision::Replace(entry(large)))).unwrap();
    delete(&store, "large");
    told(&[(Event::Put, "large"), (Event::Put, "large"), (Event::Delete, "large")]);
}

fn what_changes_nothing_is_not_told(store: Store) {
    set(&store, "a", "1");
    let watcher = log(&store).watch(all(), None);
    store.update(key("a"), always(Decision::Keep)).unwrap();
    store.update(key("a"), always(Decision::Refuse)).unwrap();
    delete(&store, "absent");
    store.update(key("absent"), always(Decision::Remove)).unwrap();
    store.batch(vec![(key("absent"), BatchOp::Delete)]).unwrap();
    store.update_first("absent", always(Decision::Remove)).unwrap();
    store.update_first("a", always(Decision::Keep)).unwrap();
    let refused = BatchOp::Update(always(Decision::Refuse));
    store.batch(vec![(key("a"), BatchOp::Delete), (key("a"), refused)]).unwrap();
    let [keep, remove] = [Decision::Keep, Decision::Remove].map(always).map(BatchOp::Update);
    store.batch(vec![(key("a"), keep), (key("absent"), remove)]).unwrap();
    let passing = || (key("passing"), BatchOp::Set(entry("1")));
    store.batch(vec![passing(), (key("passing"), BatchOp::Delete)]).unwrap();
    let remove = BatchOp::Update(always(Decision::Remove));
    store.batch(vec![passing(), passing(), (key("passing"), remove)]).unwrap();
    get(&store, "a");
    assert_eq!(events(&watcher), []);
    assert_eq!(watcher.read(), Read::UpToDate(log(&store).revision()));
}

/// Stores a value that is about to expire; the first moment at which it has.
fn set_for(store: &Store, text: &str, value: impl Into<Bytes>, time: Duration) -> Time {
    let expiry = Time::now().after(time);
    store.set(key(text), Entry::new(value.into()).with_expiry(Some(expiry))).unwrap();
    expiry
}

fn an_expiry_is_told_once(store: Store) {
    let watcher = log(&store).watch(all(), None);
    set_for(&store, "large", vec![b'x'; 100_000], Duration::from_millis(30));
    set_for(&store, "small", "1", Duration::from_millis(30));
    let late = set_for(&store, "zz", "1", Duration::from_millis(40));
    // Long enough that it is replaced before, on a busy machine too.
    let past = set_for(&store, "replaced", "1", Duration::from_secs(3));
    set(&store, "replaced", "2");
    set_for(&store, "deleted", "1", Duration::from_secs(600));
    delete(&store, "deleted");
    let mut told = read_all(&watcher);
    // It is told within seconds, though nobody asks.
    while keys_of(&told, Event::Expire).len() < 3 {
        wait_for_changes(&watcher);
        told.extend(read_all(&watcher));
    }
    assert!(Time::now() >= late);
    wait_for(past);
    // Another sweep comes by.
    set_for(&store, "sign", "1", Duration::from_millis(1));
    told.extend(read_until(&watcher, Event::Expire, "sign"));
    assert_eq!(keys_of(&told, Event::Expire), ["large", "sign", "small", "zz"]);
    assert_eq!(keys_of(&told, Event::Delete), ["deleted"]);
}

fn an_entry_that_expires_in_front_of_a_taker_is_told(store: Store) {
    let watcher = log(&store).watch(all(), None);
    set(&store, "job:2", "2");
    wait_for(set_for(&store, "job:1", "1", Duration::from_millis(5)));
    let (taken, _) = store.update_first("job:", always(Decision::Remove)).unwrap().unwrap();
    assert_eq!(taken, key("job:2"));
    // Whoever comes first removes it.
    let mut told = read_until(&watcher, Event::Expire, "job:1");
    set_for(&store, "sign", "1", Duration::from_millis(1));
    told.extend(read_until(&watcher, Event::Expire, "sign"));
    assert_eq!(keys_of(&told, Event::Expire), ["job:1", "sign"]);
    assert_eq!(keys_of(&told, Event::Delete), ["job:2"]);
}

fn clearing_begins_another_birth(store: Store) {
    let watcher = log(&store).watch(all(), None);
    let before = log(&store).revision();
    set(&store, "a", "1");
    clear(&store);
    assert_eq!(watcher.read(), Read::Reborn);
    let after = log(&store).revision();
    assert_ne!(before.birth, after.birth);
    assert_eq!(log(&store).watch(all(), Some(before)).read(), Read::Reborn);
    watcher.go_on_from(after);
    assert_eq!(watcher.read(), Read::UpToDate(after));
    set(&store, "b", "1");
    assert_eq!(events(&watcher), [(Event::Put, "b".to_owned())]);
    // Whoever is told of it finds the keys gone.
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            wait_for_changes(&watcher);
            assert_eq!((watcher.read(), get(&store, "b")), (Read::Reborn, None));
        });
        clear(&store);
        reader.join().unwrap();
    });
}

/// Changes some keys at random, in all ways that there are.
fn change_at_random(store: &Store, random: &mut Random, keys: &[String]) {
    let text = &keys[random.below(keys.len())];
    let other = &keys[random.below(keys.len())];
    match random.below(8) {
        0 | 1 => set(store, text, "set"),
        2 => delete(store, text),
        3 => drop(store.update(key(text), always(Decision::Replace(entry("new")))).unwrap()),
        4 => drop(store.update(key(text), always(Decision::Remove)).unwrap()),
        5 => {
            let ops = vec![(key(text), BatchOp::Delete), (key(other), replace("batch"))];
            store.batch(ops).unwrap();
        }
        6 => drop(store.update_first(text, always(Decision::Remove)).unwrap()),
        _ => {
            set_for(store, text, "set", Duration::from_millis(1));
        }
    }
}

/// The keys that are there.
fn listed(store: &Store) -> BTreeSet<String> {
    let mut listing = Listing { keys_max: 7, ..Listing::default() };
    let mut keys = BTreeSet::new();
    loop {
        let page = store.list(listing.clone()).unwrap();
        keys.extend(page.keys().map(str::to_owned));
        match page.next {
            Some(next) => listing.range.start = next,
            None => return keys,
        }
    }
}

fn apply(keys: &mut BTreeSet<String>, changes: &[Changed]) {
    for change in changes {
        let text = change.key.as_str();
        match change.event {
            Event::Put => drop(keys.insert(text.to_owned())),
            Event::Delete | Event::Expire | Event::Evict => drop(keys.remove(text)),
        }
    }
}

fn some_keys() -> Vec<String> {
    (0..12).map(|number| format!("key:{number}")).collect()
}

fn the_last_event_of_a_key_is_its_state(store: Store) {
    let (random, keys) = (Random::of_this_run(), some_keys());
    let watcher = log(&store).watch(all(), None);
    let rounds = fewer_if_slow(&store, 500);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (store, keys, mut random) = (&store, &keys, random.fork(thread));
            scope.spawn(move || {
                (0..rounds).for_each(|_| change_at_random(store, &mut random, keys));
            });
        }
    });
    let changes = read_all(&watcher);
    let places: Vec<u64> = changes.iter().map(|change| change.revision.place).collect();
    assert!(places.is_sorted_by(|one, other| one < other), "{places:?}");
    let mut told = BTreeSet::new();
    apply(&mut told, &changes);
    // What has expired is told with the next sweep.
    while told != listed(&store) {
        wait_for_changes(&watcher);
        apply(&mut told, &read_all(&watcher));
    }
}

fn the_lines_of_a_batch_follow_each_other(store: Store) {
    let watcher = log(&store).watch(all(), None);
    let rounds = fewer_if_slow(&store, 300);
    let names = ["a", "b", "c", "d"];
    thread::scope(|scope| {
        for thread in 0..3 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..rounds {
                    let text = |name| format!("{thread}:{round}:{name}");
                    let ops = names.map(|name| (key(&text(name)), BatchOp::Set(entry("1"))));
                    store.batch(ops.into()).unwrap();
                }
            });
        }
        for round in 0..rounds {
            set(&store, &format!("single:{round}"), "1");
        }
    });
    let changes = read_all(&watcher);
    let lines = changes.iter().map(|change| change.key.as_str());
    let lines: Vec<&str> = lines.filter(|text| !text.starts_with("single:")).collect();
    assert_eq!(lines.len(), 3 * rounds * names.len());
    let positions: BTreeMap<&str, usize> =
        changes.iter().enumerate().map(|(at, change)| (change.key.as_str(), at)).collect();
    for batch in lines.chunks(names.len()) {
        let first = positions[batch[0]];
        for (offset, (text, name)) in batch.iter().zip(names).enumerate() {
            assert!(text.ends_with(name), "{batch:?}");
            assert_eq!(positions[text], first + offset, "something is between {batch:?}");
        }
    }
}

fn number_of(entry: Option<&Bytes>) -> usize {
    entry.map_or(0, |value| str::from_utf8(value).unwrap().parse().unwrap())
}

fn who_is_told_of_a_change_sees_it(store: Store) {
    let watcher = log(&store).watch(Watched::Key(key("number")), None);
    let rounds = fewer_if_slow(&store, 2000);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                set(&store, "number", round.to_string());
            }
            delete(&store, "number");
        });
        let mut told = 0;
        let until = Instant::now() + LONG;
        while told <= rounds {
            let changes = read_all(&watcher);
            told += changes.len();
            let seen = get(&store, "number");
            assert!(number_of(seen.as_ref()) >= told || seen.is_none(), "{seen:?} after {told}");
            assert!(Instant::now() < until, "{told} were told");
            let is_gone = changes.last().is_some_and(|last| last.event == Event::Delete);
            assert!(!is_gone || seen.is_none());
        }
        assert_eq!(told, rounds + 1);
    });
}

fn who_is_told_of_a_batch_sees_all_of_it(store: Store) {
    let watcher = log(&store).watch(Watched::Key(key("a")), None);
    let rounds = fewer_if_slow(&store, 1000);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                let put = || BatchOp::Set(entry(round.to_string()));
                store.batch(vec![(key("z"), put()), (key("a"), put()), (key("m"), put())]).unwrap();
            }
        });
        let (mut told, until) = (0, Instant::now() + LONG);
        while told < rounds {
            told += read_all(&watcher).len();
            for text in ["m", "z", "a"] {
                let seen = get(&store, text);
                assert!(number_of(seen.as_ref()) >= told, "{text} is {seen:?} after {told}");
            }
            assert!(Instant::now() < until, "{told} were told");
        }
    });
}

/// A position, the keys that are listed behind it, and the changes behind the position.
fn a_listing_and_the_changes_since_make_a_replica(store: Store) {
    let (random, keys) = (Random::of_this_run(), some_keys());
    let rounds = fewer_if_slow(&store, 300);
    let replicas = thread::scope(|scope| {
        let writers = [0, 1].map(|thread| {
            let (store, keys, mut random) = (&store, &keys, random.fork(thread));
            scope.spawn(move || {
                (0..rounds).for_each(|_| change_at_random(store, &mut random, keys));
            })
        });
        let mut replicas = Vec::new();
        while replicas.is_empty() || !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let position = log(&store).revision();
            replicas.push((position, listed(&store)));
        }
        replicas
    });
    let first = log(&store).watch(all(), Some(replicas[0].0));
    let mut told = replicas[0].1.clone();
    apply(&mut told, &read_all(&first));
    // What has expired is told with the next sweep.
    while told != listed(&store) {
        wait_for_changes(&first);
        apply(&mut told, &read_all(&first));
    }
    for (position, mut replica) in replicas {
        apply(&mut replica, &read_all(&log(&store).watch(all(), Some(position))));
        assert_eq!(replica, told, "since {position}");
    }
}
