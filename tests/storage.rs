//! What the storage promises, written once against the trait and run on every
//! engine.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]

use crate::support::blocking::Blocking as _;
use crate::support::engines;
use crate::support::history::{Plan, bytes_of, number_of, record};
use crate::support::linearizability::{Call, check, check_each_key};
use crate::support::promises::{
    Store, all_told, always, clear, delete, fewer_if_slow, get, is_slow, key,
};
use crate::support::promises::{is_of_one_moment, on_every_engine, set, wait_for};
use crate::support::random::Random;
use crate::support::threads::Start;
use bytes::Bytes;
use little_key_value::storage::{Change, Decision, Effect, Entry};
use little_key_value::storage::{KEY_BYTES_MAX, Op, Time};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

on_every_engine! {
    an_absent_key_is_none
    a_value_is_read_back
    setting_replaces
    deleting_makes_absent
    deleting_is_idempotent
    deleting_leaves_the_others
    a_deleted_key_can_be_set_again
    clearing_deletes_every_key
    clearing_is_idempotent
    a_cleared_store_works_on
    any_byte_is_kept
    any_utf8_is_a_key
    keys_are_compared_by_their_bytes
    every_size_is_kept
    text_is_told_from_the_rest
    a_value_outlives_its_overwriting
    a_value_outlives_its_deletion
    a_value_outlives_clearing
    a_value_outlives_the_store
    random_operations_agree_with_a_map
    of_many_writers_one_wins_whole
    different_keys_do_not_disturb_each_other
    each_key_is_linearizable
    each_key_is_linearizable_with_clears
    clearing_is_one_moment_for_all_keys
    what_is_known_of_a_value_is_kept
    an_update_replaces_what_it_saw
    an_update_of_an_absent_key_creates_it
    an_update_can_keep_and_remove
    an_update_that_panics_changes_nothing
    updates_of_one_key_come_one_after_the_other
    of_many_who_create_one_does
    an_expired_entry_is_absent
    an_overwritten_expiry_is_gone
    what_was_seen_to_expire_does_not_come_back
    what_is_given_back_was_not_done
    outcomes_come_once_each
}

fn an_absent_key_is_none(store: Store) {
    assert_eq!(get(&store, "absent"), None);
    set(&store, "present", "x");
    assert_eq!(get(&store, "absent"), None);
}

fn a_value_is_read_back(store: Store) {
    set(&store, "kenya:capital", "Nairobi");
    assert_eq!(get(&store, "kenya:capital").as_deref(), Some(b"Nairobi".as_slice()));
    assert_eq!(get(&store, "kenya:capital").as_deref(), Some(b"Nairobi".as_slice()));
}

fn setting_replaces(store: Store) {
    let values = [vec![b'a'; 10], vec![b'b'; 100_000], vec![b'c'; 1], vec![b'd'; 5000]];
    for value in values {
        set(&store, "key", value.clone());
        assert_eq!(get(&store, "key"), Some(value.into()));
    }
}

fn deleting_makes_absent(store: Store) {
    set(&store, "key", "x");
    delete(&store, "key");
    assert_eq!(get(&store, "key"), None);
}

fn deleting_is_idempotent(store: Store) {
    delete(&store, "never there");
    set(&store, "key", "x");
    delete(&store, "key");
    delete(&store, "key");
    assert_eq!(get(&store, "key"), None);
}

fn deleting_leaves_the_others(store: Store) {
    let keys = fewer_if_slow(&store, 5000);
    for index in 0..keys {
        set(&store, &format!("key {index}"), format!("value {index}"));
    }
    for index in (0..keys).filter(|index| index % 10 != 0) {
        delete(&store, &format!("key {index}"));
    }
    for index in 0..keys {
        let left = (index % 10 == 0).then(|| format!("value {index}").into());
        assert_eq!(get(&store, &format!("key {index}")), left, "key {index}");
    }
}

fn a_deleted_key_can_be_set_again(store: Store) {
    for value in ["one", "two", "three"] {
        set(&store, "key", value);
        assert_eq!(get(&store, "key").as_deref(), Some(value.as_bytes()));
        delete(&store, "key");
    }
    assert_eq!(get(&store, "key"), None);
}

fn clearing_deletes_every_key(store: Store) {
    let keys = fewer_if_slow(&store, 5000);
    for index in 0..keys {
        set(&store, &format!("key {index}"), "x");
    }
    clear(&store);
    let left = (0..keys).filter(|index| get(&store, &format!("key {index}")).is_some()).count();
    assert_eq!(left, 0);
}

fn clearing_is_idempotent(store: Store) {
    clear(&store);
    set(&store, "key", "x");
    clear(&store);
    clear(&store);
    assert_eq!(get(&store, "key"), None);
}

fn a_cleared_store_works_on(store: Store) {
    set(&store, "old", "x");
    clear(&store);
    set(&store, "old", "y");
    set(&store, "new", "z");
    delete(&store, "new");
    assert_eq!(get(&store, "old").as_deref(), Some(b"y".as_slice()));
    assert_eq!(get(&store, "new"), None);
}

fn any_byte_is_kept(store: Store) {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let values: [&[u8]; 6] = [&every_byte, b"\0", b"\xff", b"\r\n", b"\0\0\0\0", b"a\nb\r\n\n"];
    for value in values {
        set(&store, "key", value.to_vec());
        assert_eq!(get(&store, "key").as_deref(), Some(value));
    }
}

fn any_utf8_is_a_key(store: Store) {
    let longest = "k".repeat(KEY_BYTES_MAX);
    let longest_of_four_bytes = "\u{1F511}".repeat(KEY_BYTES_MAX / 4);
    let mut keys = vec![longest.as_str(), longest_of_four_bytes.as_str()];
    keys.extend(["a", " ", "\0", "/", "//", "..", "../..", "%41", "?", "a?b=c", "#", "\u{7f}"]);
    keys.extend(["kenya:capital", "clé", "ключ", "鍵", "\u{1F511}", "\u{200B}", "\u{10FFFF}"]);
    keys.extend(["a\nb", "a\r\nb", "\t", "\"", "\\", "key with spaces"]);
    for (index, key) in keys.iter().enumerate() {
        set(&store, key, index.to_string());
    }
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(get(&store, key), Some(index.to_string().into()), "{key:?}");
    }
    for key in &keys {
        delete(&store, key);
        assert_eq!(get(&store, key), None, "{key:?}");
    }
}

fn keys_are_compared_by_their_bytes(store: Store) {
    let composed = "\u{e9}";
    let decomposed = "e\u{301}";
    let near = "k".repeat(KEY_BYTES_MAX - 1);
    let (end_in_a, end_in_b) = (format!("{near}a"), format!("{near}b"));
    let keys = ["a", "A", "a ", " a", "a\0", "\0a", "aa", "a/", "/a", composed, decomposed];
    let keys: Vec<&str> = keys.into_iter().chain([near.as_str(), &end_in_a, &end_in_b]).collect();
    for key in &keys {
        set(&store, key, format!("value of {key:?}"));
    }
    for key in &keys {
        assert_eq!(get(&store, key), Some(format!("value of {key:?}").into()));
    }
}

fn every_size_is_kept(store: Store) {
    const MIB: usize = 1024 * 1024;
    let mut random = Random::of_this_run();
    let sizes = [1, 2, 7, 8, 255, 256, 4094, 4095, 4096, 4097, 4098, 65_535, 65_536, MIB, 10 * MIB];
    let values: Vec<Bytes> = sizes.iter().map(|&size| random.bytes(size).into()).collect();
    for (size, value) in sizes.iter().zip(&values) {
        set(&store, &size.to_string(), value.clone());
    }
    for (size, value) in sizes.iter().zip(&values) {
        assert!(get(&store, &size.to_string()).as_ref() == Some(value), "{size} bytes");
    }
}

fn text_is_told_from_the_rest(store: Store) {
    // Each in the compact form, at its limit and past it.
    for copies in [1, 1365, 100_000] {
        let text = Entry::new("\u{20ac}".repeat(copies).into());
        let mut bytes = text.value().to_vec();
        bytes.pop();
        let cut = Entry::new(bytes.into());
        assert!(text.is_text() && !cut.is_text());

        for (name, entry) in [("text", text), ("cut", cut)] {
            store.set(key(name), entry.clone()).expect("the engine writes");
            let read = store.get(&key(name)).expect("the engine reads");
            assert!(read == Some(entry), "{name} of {copies} characters");
        }
    }
}

/// The sizes of a value in the compact form, at its limit and past it.
const SIZES: [usize; 4] = [1, 4096, 4097, 1_000_000];

/// Reads a value of each size, lets `end` do its work, and looks at them again.
fn outlives(store: Store, end: impl FnOnce(Store, Vec<String>)) {
    let mut random = Random::of_this_run();
    let names: Vec<String> = SIZES.iter().map(|size| format!("{size} bytes")).collect();
    let written: Vec<Bytes> = SIZES.iter().map(|&size| random.bytes(size).into()).collect();
    for (name, value) in names.iter().zip(&written) {
        // A copy, so that the engine and this test share nothing.
        set(&store, name, value.to_vec());
    }
    let read: Vec<_> = names.iter().map(|name| get(&store, name)).collect();
    end(store, names);

    // What was freed is used again, so that a value which points there shows.
    let other = engines::memory();
    for (index, size) in SIZES.iter().cycle().take(100).enumerate() {
        set(&other, &index.to_string(), vec![0xAA; *size]);
    }
    for (size, (written, read)) in SIZES.iter().zip(written.into_iter().zip(read)) {
        assert!(Some(written) == read, "{size} bytes");
    }
}

fn a_value_outlives_its_overwriting(store: Store) {
    outlives(store, |store, names| {
        for (name, size) in names.iter().zip(SIZES) {
            set(&store, name, vec![0x55; size]);
        }
    });
}

fn a_value_outlives_its_deletion(store: Store) {
    outlives(store, |store, names| names.iter().for_each(|name| delete(&store, name)));
}

fn a_value_outlives_clearing(store: Store) {
    outlives(store, |store, _names| clear(&store));
}

fn a_value_outlives_the_store(store: Store) {
    outlives(store, |store, _names| drop(store));
}

fn random_operations_agree_with_a_map(store: Store) {
    const KEYS: usize = 300;
    const SECOND: Duration = Duration::from_secs(1);
    let later = Time::now().after(1000 * SECOND);
    let operations = fewer_if_slow(&store, 20_000);
    let mut random = Random::of_this_run();
    let mut map: BTreeMap<String, Bytes> = BTreeMap::new();
    for index in 0..operations {
        let name = format!("key {}", random.below(KEYS));
        match random.below(1000) {
            0 => {
                clear(&store);
                map.clear();
            }
            1..300 => {
                delete(&store, &name);
                map.remove(&name);
            }
            300..700 => {
                let sizes = [1_usize, 8, 100, 600, 4096, 4097, 10_000];
                let size = random.one_of(&sizes);
                let value = Bytes::from(random.bytes(size));
                let expiry = random.one_of(&[None, Some(later), Some(later.after(SECOND))]);
                let entry = Entry::new(value.clone()).with_expiry(expiry);
                store.set(key(&name), entry).expect("the engine writes");
                map.insert(name, value);
            }
            _ => assert_eq!(get(&store, &name).as_ref(), map.get(&name), "operation {index}"),
        }
    }
    for index in 0..KEYS {
        let name = format!("key {index}");
        assert_eq!(get(&store, &name).as_ref(), map.get(&name), "{name} at the end");
    }
}

fn of_many_writers_one_wins_whole(store: Store) {
    const WRITERS: u64 = 100;
    const ROUNDS: usize = 5;
    let start = Start::new(usize::try_from(WRITERS).expect("a small number"));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..ROUNDS {
                    set(store, "key", bytes_of(writer));
                    let seen = get(store, "key").expect("it is never deleted");
                    assert!(number_of(&seen) < WRITERS);
                }
            });
        }
    });
    let last = get(&store, "key").expect("it is never deleted");
    assert!(number_of(&last) < WRITERS);
}

fn different_keys_do_not_disturb_each_other(store: Store) {
    let keys_each = fewer_if_slow(&store, 2000) as u64;
    thread::scope(|scope| {
        for writer in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for index in 0..keys_each {
                    set(store, &format!("{writer}:{index}"), bytes_of(writer * keys_each + index));
                    if index % 3 == 0 {
                        delete(store, &format!("{writer}:{index}"));
                    }
                }
            });
        }
    });
    for number in 0..8 * keys_each {
        let (writer, index) = (number / keys_each, number % keys_each);
        let read = get(&store, &format!("{writer}:{index}")).map(|value| number_of(&value));
        assert_eq!(read, (index % 3 != 0).then_some(number), "{writer}:{index}");
    }
}

/// Performs calls on numbers as calls on the store, for keys with a prefix. Some of the
/// values expire, though not before the end.
fn perform(store: &Store, prefix: &'static str) -> impl FnMut(Call) -> Option<u64> {
    let store = Arc::clone(store);
    let name_of = move |number: usize| format!("{prefix}{number}");
    let later = Time::now().after(Duration::from_secs(1000));
    let entry_of = move |number: u64| {
        let expiry = match number % 4 {
            0 | 1 => None,
            2 => Some(later),
            _ => Some(later.after(Duration::from_secs(number % 100))),
        };
        Entry::new(bytes_of(number).into()).with_expiry(expiry)
    };
    move |call| {
        let update = |name: usize, decision: Decision| {
            let name = key(&name_of(name));
            let updated = store.update(name, always(decision)).expect("the engine writes");
            updated.before.map(|entry| number_of(entry.value()))
        };
        match call {
            Call::Get(key) => {
                return get(&store, &name_of(key)).map(|value| number_of(&value));
            }
            Call::Set(name, number) => {
                let name = key(&name_of(name));
                store.set(name, entry_of(number)).expect("the engine writes");
            }
            Call::Delete(key) => delete(&store, &name_of(key)),
            Call::Exchange(key, number) => {
                return update(key, Decision::Replace(entry_of(number)));
            }
            Call::Take(key) => return update(key, Decision::Remove),
            Call::Clear => clear(&store),
            Call::GetBoth(_) | Call::ExchangeBoth(..) => unreachable!("they are not planned"),
        }
        None
    }
}

fn each_key_is_linearizable(store: Store) {
    let calls = fewer_if_slow(&store, 4000);
    let plan = Plan { clients: 4, calls, keys: 3, clears_per_mille: 0, batches_per_mille: 0 };
    let history = record(plan, &Random::of_this_run(), || perform(&store, ""));
    check_each_key(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

fn each_key_is_linearizable_with_clears(store: Store) {
    let calls = fewer_if_slow(&store, 1000);
    let plan = Plan { clients: 4, calls, keys: 3, clears_per_mille: 50, batches_per_mille: 0 };
    let history = record(plan, &Random::of_this_run(), || perform(&store, ""));
    check_each_key(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

fn clearing_is_one_moment_for_all_keys(store: Store) {
    let calls = fewer_if_slow(&store, 1000);
    let plan = Plan { clients: 4, calls, keys: 8, clears_per_mille: 100, batches_per_mille: 0 };
    // Where each slot is cleared at its own moment it is one for those of a slot.
    let prefix = if is_of_one_moment(&store) { "" } else { "{one slot}" };
    let history = record(plan, &Random::of_this_run(), || perform(&store, prefix));
    check(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

fn what_is_known_of_a_value_is_kept(store: Store) {
    let expiry = Time::now().after(Duration::from_secs(1000));
    for bytes in [1, 100, 300, 4095, 4096, 5000, 100_000] {
        let entry = Entry::new(vec![b'x'; bytes].into())
            .with_content_type(Some("text/html; charset=utf-8".into()))
            .with_expiry(Some(expiry));
        store.set(key("known"), entry.clone()).expect("the engine writes");
        let found = store.get(&key("known")).expect("the engine reads").expect("it was set");
        assert_eq!(found, entry);
        assert_eq!(found.digest(), entry.digest());
        set(&store, "known", vec![b'y'; bytes]);
        let found = store.get(&key("known")).expect("the engine reads").expect("it was set");
        assert_eq!((found.content_type(), found.expiry()), (None, None), "{bytes} bytes");
    }
}

/// A change that replaces whatever there is.
fn replace_by(value: &'static str) -> Change {
    always(Decision::Replace(Entry::new(value.into())))
}

fn value_of(entry: Option<&Entry>) -> Option<&[u8]> {
    entry.map(|entry| &entry.value()[..])
}

fn an_update_replaces_what_it_saw(store: Store) {
    set(&store, "key", "before");
    let updated = store.update(key("key"), replace_by("after")).expect("the engine writes");
    assert_eq!(value_of(updated.before.as_ref()), Some(&b"before"[..]));
    assert_eq!(value_of(updated.after.as_ref()), Some(&b"after"[..]));
    assert_eq!(get(&store, "key").as_deref(), Some(&b"after"[..]));
}

fn an_update_of_an_absent_key_creates_it(store: Store) {
    let updated = store.update(key("key"), replace_by("value")).expect("the engine writes");
    assert_eq!(value_of(updated.before.as_ref()), None);
    assert_eq!(get(&store, "key").as_deref(), Some(&b"value"[..]));
}

fn an_update_can_keep_and_remove(store: Store) {
    for stored in [None, Some("value")] {
        if let Some(value) = stored {
            set(&store, "key", value);
        }
        let entry = stored.map(|value| Entry::new(value.into()));
        let kept = store.update(key("key"), always(Decision::Keep));
        let kept = kept.expect("the engine writes");
        assert_eq!((&kept.before, &kept.after), (&entry, &entry));
        assert_eq!(get(&store, "key").as_deref(), stored.map(str::as_bytes));
        let removed = store.update(key("key"), always(Decision::Remove));
        let removed = removed.expect("the engine writes");
        assert_eq!((removed.before, removed.after), (entry, None));
        assert_eq!(get(&store, "key"), None);
    }
}

fn an_update_that_panics_changes_nothing(store: Store) {
    set(&store, "key", "value");
    let update = || store.update(key("key"), Box::new(|_| panic!("a part of a test")));
    // Where it panics depends on whose thread decides.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(update));
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    assert_eq!(get(&store, "key").as_deref(), Some(&b"value"[..]));
    set(&store, "key", "another");
    assert_eq!(get(&store, "key").as_deref(), Some(&b"another"[..]));
}

fn what_is_given_back_was_not_done(store: Store) {
    set(&store, "key", "x".repeat(1 << 20));
    let remove = always(Decision::Remove);
    let ops = [
        (Op::Set(key("new"), Entry::new("value".into())), "new", 5),
        (Op::Delete(key("new")), "new", 0),
        (Op::Update(key("key"), remove), "key", 0),
        (Op::Clear, "key", 0),
    ];
    for (op, text, bytes_after) in ops {
        let bytes = || get(&store, text).map_or(0, |value| value.len());
        let before = bytes();
        if let Err(op) = store.try_now(op) {
            assert_eq!(bytes(), before);
            store.perform(op).expect("the engine writes");
        }
        assert_eq!(bytes(), bytes_after);
    }
}

fn outcomes_come_once_each(store: Store) {
    const MANY: usize = 200;
    let (done, outcomes) = crossbeam_channel::unbounded();
    for number in 0..MANY {
        let done = done.clone();
        let op = match number % 3 {
            0 => Op::Get(key("key")),
            1 => Op::Set(key("key"), Entry::new("value".into())),
            _ => Op::Delete(key("key")),
        };
        let done = Box::new(move |outcome| done.send((number, outcome)).expect("it is waited for"));
        store.submit(op, done);
    }
    drop(done);
    // It ends once none of them can be called any more.
    let mut told: Vec<usize> = all_told(&outcomes)
        .map(|(number, outcome)| {
            let effect = outcome.expect("the engine does it");
            assert_eq!(matches!(effect, Effect::Found(_)), number % 3 == 0, "{effect:?}");
            number
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told, (0..MANY).collect::<Vec<_>>());
}

fn updates_of_one_key_come_one_after_the_other(store: Store) {
    const THREADS: usize = 8;
    let each = if is_slow(&store) { 50 } else { 1000 };
    let count = |entry: Option<&Entry>| {
        let text = entry.map_or("0", |entry| std::str::from_utf8(entry.value()).expect("digits"));
        text.parse::<usize>().expect("a number")
    };
    let seen: Vec<Vec<usize>> = thread::scope(|scope| {
        let increment = || {
            let change: Change = Box::new(move |entry| {
                Decision::Replace(Entry::new((count(entry) + 1).to_string().into()))
            });
            count(store.update(key("sum"), change).expect("the engine writes").after.as_ref())
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(move || (0..each).map(|_| increment()).collect()))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut all: Vec<usize> = seen.into_iter().flatten().collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=THREADS * each), "some number was seen twice or never");
}

fn of_many_who_create_one_does(store: Store) {
    const THREADS: usize = 16;
    let start = Start::new(THREADS);
    let created = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let change: Change = Box::new(|entry| match entry {
                        None => Decision::Replace(Entry::new("mine".into())),
                        Some(_) => Decision::Keep,
                    });
                    let updated = store.update(key("lock"), change).expect("the engine writes");
                    updated.before.is_none()
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().expect("no panic").then_some(())).count()
    });
    assert_eq!(created, 1);
}

fn an_expired_entry_is_absent(store: Store) {
    let soon = Time::now().after(Duration::from_millis(50));
    for bytes in [10, 10_000] {
        let entry = Entry::new(vec![b'x'; bytes].into()).with_expiry(Some(soon));
        store.set(key(&bytes.to_string()), entry).expect("the engine writes");
    }
    wait_for(soon);
    for bytes in [10, 10_000] {
        let name = bytes.to_string();
        assert_eq!(get(&store, &name), None);
        let updated = store.update(key(&name), replace_by("again")).expect("the engine writes");
        assert_eq!(updated.before, None);
        assert_eq!(get(&store, &name).as_deref(), Some(&b"again"[..]));
    }
}

fn an_overwritten_expiry_is_gone(store: Store) {
    let soon = Time::now().after(Duration::from_millis(50));
    for bytes in [10, 10_000] {
        let entry = Entry::new(vec![b'x'; bytes].into()).with_expiry(Some(soon));
        store.set(key(&bytes.to_string()), entry).expect("the engine writes");
        set(&store, &bytes.to_string(), "for ever");
    }
    // Longer than it takes to sweep.
    let past = soon.after(Duration::from_millis(1500));
    while Time::now() < past {
        thread::sleep(Duration::from_millis(10));
    }
    for bytes in [10, 10_000] {
        assert_eq!(get(&store, &bytes.to_string()).as_deref(), Some(&b"for ever"[..]));
    }
}

/// A change may be decided while the entry is there and take effect when it
/// would not be any more.
fn what_was_seen_to_expire_does_not_come_back(store: Store) {
    for bytes in [10, 10_000] {
        let soon = Time::now().after(Duration::from_millis(100));
        let entry = Entry::new(vec![b'x'; bytes].into()).with_expiry(Some(soon));
        let name = bytes.to_string();
        store.set(key(&name), entry).expect("the engine writes");
        let change: Change = Box::new(move |before| {
            while before.is_some() && Time::now() < soon.after(Duration::from_millis(50)) {
                thread::sleep(Duration::from_millis(1));
            }
            before
                .map_or(Decision::Keep, |entry| Decision::Replace(entry.clone().with_expiry(None)))
        });
        let seen: Vec<bool> = thread::scope(|scope| {
            let update = scope.spawn(|| store.update(key(&name), change));
            let mut seen = Vec::new();
            while !update.is_finished() {
                seen.push(get(&store, &name).is_some());
                thread::sleep(Duration::from_millis(1));
            }
            seen.push(get(&store, &name).is_some());
            let updated = update.join().expect("no panic").expect("the engine writes");
            assert_eq!(updated.before.is_some(), seen.ends_with(&[true]), "{bytes} bytes");
            seen
        });
        assert!(seen.is_sorted_by_key(|is_there| !is_there), "{bytes} bytes: {seen:?}");
    }
}
