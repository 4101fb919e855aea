//! A full store that evicts: what goes, what stays, and what is told of it.

use super::super::tests::{counted, entry, key, set, update, value_bytes};
use super::*;
use crate::storage::frequency::Policy;
use crate::storage::waiting::{PATIENCE, wait_until};
use crate::storage::{
    BatchOp, Blocking as _, Change, Decision, Entry, Limits, Listing, PAGE_KEYS_MAX, Range, Read,
    Storage as _, Subject, Watched, Watcher, WhenFull,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// The most bytes that a store may hold with what writes leave to the evictor.
fn held_max(bytes: u64) -> u64 {
    bytes + (bytes / 4).min(12 * MIB)
}

fn evicting(bytes: u64) -> Memory {
    let history_bytes = 64 << 20;
    Memory::with_limits(Limits { bytes, when_full: WhenFull::Evict, history_bytes })
}

fn evicted(memory: &Memory) -> u64 {
    memory.0.cache.as_ref().map_or(0, Cache::evicted)
}

fn is_there(memory: &Memory, text: &str) -> bool {
    value_bytes(memory, text).is_some()
}

/// Waits until the evictor has worked off what writes have left. While it does it has the
/// maps too, and a step that it has begun goes on when there is room.
fn wait_until_settled(memory: &Memory) {
    wait_until("waiting for room", || {
        !memory.0.account.is_over(0) && Arc::strong_count(&memory.0) == 1
    });
}

fn watch_all(memory: &Memory) -> Watcher {
    memory.changes().unwrap().watch(Watched::Prefix("".into()), None)
}

/// The keys that a watcher is told are there, and the number of evictions so far.
#[derive(Default)]
struct Told {
    keys: BTreeSet<String>,
    evictions: u64,
}

impl Told {
    fn read(&mut self, watcher: &Watcher) {
        loop {
            match watcher.read() {
                Read::Changes(changes) => {
                    for change in changes {
                        let key = change.key.as_str().to_owned();
                        match change.event {
                            Event::Put => {
                                self.keys.insert(key);
                            }
                            Event::Evict => {
                                assert!(self.keys.remove(&key), "{key} went twice");
                                self.evictions += 1;
                            }
                            Event::Delete | Event::Expire => {
                                assert!(self.keys.remove(&key), "{key} went twice");
                            }
                        }
                    }
                }
                Read::Passing => {}
                Read::UpToDate(_) => return,
                Read::Reborn | Read::Behind => panic!("the history is long enough"),
            }
        }
    }
}

/// All keys that are there.
fn keys(memory: &Memory) -> Vec<String> {
    let (mut keys, mut range) = (Vec::new(), Range::default());
    loop {
        let listing =
            Listing { range: range.clone(), keys_max: PAGE_KEYS_MAX, ..Listing::default() };
        let page = memory.list(listing).unwrap();
        keys.extend(page.keys().map(str::to_owned));
        let Some(next) = page.next else { return keys };
        range.start = next;
    }
}

/// A write of a history.
#[derive(Clone, Debug)]
enum Write {
    Set(u16, usize),
    Delete(u16),
    Append(u16),
    Batch(Vec<(u16, usize)>),
}

fn writes() -> impl Strategy<Value = Write> {
    let bytes = || prop_oneof![0..200_usize, 3000..6000_usize, 20_000..100_000_usize];
    prop_oneof![
        8 => (0..2000_u16, bytes()).prop_map(|(key, bytes)| Write::Set(key, bytes)),
        2 => (0..2000_u16).prop_map(Write::Delete),
        2 => (0..2000_u16).prop_map(Write::Append),
        1 => prop::collection::vec((0..2000_u16, bytes()), 1..20).prop_map(Write::Batch),
    ]
}

/// The value that a key was given at some moment.
fn value(key: u16, moment: usize, bytes: usize) -> Vec<u8> {
    let mut value = format!("{key} {moment}").into_bytes();
    value.resize(value.len().max(bytes), b'.');
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_there_is_what_was_put_last_and_what_is_gone_was_told_of(
        history in prop::collection::vec(writes(), 1..600),
    ) {
        let memory = evicting(2 * MIB);
        let watcher = watch_all(&memory);
        let (mut last, mut told) = (BTreeMap::<u16, Vec<u8>>::new(), Told::default());
        for (moment, write) in history.into_iter().enumerate() {
            match write {
                Write::Set(number, bytes) => {
                    let value = value(number, moment, bytes);
                    last.insert(number, value.clone());
                    memory.set(key(&number.to_string()), Entry::new(value.into())).unwrap();
                }
                Write::Delete(number) => {
                    memory.delete(&key(&number.to_string())).unwrap();
                    last.remove(&number);
                }
                Write::Append(number) => {
                    let change: Change = Box::new(|before| {
                        let mut value = before.map_or_else(Vec::new, |e| e.value().to_vec());
                        value.push(b'!');
                        Decision::Replace(Entry::new(value.into()))
                    });
                    let updated = memory.update(key(&number.to_string()), change);
                    let updated = updated.unwrap();
                    // It may have been evicted before.
                    if let Some(before) = &updated.before {
                        prop_assert_eq!(Some(&before.value()[..]), last.get(&number).map(Vec::as_slice));
                    }
                    last.insert(number, updated.after.unwrap().value().to_vec());
                }
                Write::Batch(puts) => {
                    let ops = puts.iter().map(|(number, bytes)| {
                        let value = value(*number, moment, *bytes);
                        last.insert(*number, value.clone());
                        (key(&number.to_string()), BatchOp::Set(Entry::new(value.into())))
                    });
                    memory.batch(ops.collect()).unwrap();
                }
            }
            prop_assert!(memory.held() <= held_max(2 * MIB));
        }
        wait_until_settled(&memory);
        let keys = keys(&memory);
        for text in &keys {
            let found = memory.get(&key(text)).unwrap().unwrap();
            prop_assert_eq!(Some(&found.value()[..]), last.get(&text.parse().unwrap()).map(Vec::as_slice));
        }
        told.read(&watcher);
        prop_assert_eq!(told.keys.into_iter().collect::<Vec<_>>(), keys);
        prop_assert_eq!(told.evictions, evicted(&memory));
        prop_assert_eq!(memory.held(), counted(&memory));
        prop_assert_eq!(memory.0.cache.as_ref().unwrap().dueling.keys(), told_keys(&memory));
    }
}

/// The number of keys of all maps.
fn told_keys(memory: &Memory) -> usize {
    memory.0.shards.iter().map(Shard::keys).sum()
}

#[test]
fn a_full_store_takes_every_write_and_stays_within_its_maximum() {
    let memory = evicting(2 * MIB);
    for number in 0..20_000 {
        set(&memory, &format!("key {number}"), 100).unwrap();
        assert!(memory.held() <= held_max(2 * MIB));
        assert!(is_there(&memory, &format!("key {number}")), "its writer finds {number}");
    }
    wait_until_settled(&memory);
    assert!(memory.held() > 3 * MIB / 2, "{} are held", memory.held());
    assert_eq!(evicted(&memory), 20_000 - told_keys(&memory) as u64);
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn a_store_that_refuses_evicts_nothing_and_records_nothing() {
    let memory = Memory::with_max(MIB);
    let stored =
        (0..100_000).take_while(|number| set(&memory, &format!("{number}"), 100).is_ok()).count();
    assert_eq!(told_keys(&memory), stored);
    assert!(is_there(&memory, "1"));
    let packed = memory.0.stored(memory.0.hashed("1")).unwrap();
    assert_eq!(packed.access(), 0);
}

#[test]
fn what_is_used_stays_while_all_keys_are_scanned() {
    let memory = evicting(2 * MIB);
    let hot: Vec<_> = (0..1000).map(|number| format!("hot {number}")).collect();
    let ask = |text: &String| {
        if !is_there(&memory, text) {
            set(&memory, text, 100).unwrap();
        }
    };
    for _ in 0..10 {
        hot.iter().for_each(ask);
    }
    for number in 0..30_000 {
        set(&memory, &format!("scanned {number}"), 100).unwrap();
        if number % 5 == 0 {
            ask(&hot[number / 5 % hot.len()]);
        }
    }
    // A store that keeps what was written last would find some hundreds.
    let found = hot.iter().filter(|text| is_there(&memory, text)).count();
    assert!(found > 900, "{found} of 1000 are there");
}

#[test]
fn what_is_asked_for_no_more_makes_room() {
    let memory = evicting(MIB);
    let ask = |text: &str| {
        let is_there = is_there(&memory, text);
        if !is_there {
            set(&memory, text, 100).unwrap();
        }
        is_there
    };
    // Both would not fit.
    for set in ["old", "new"] {
        for _ in 0..40 {
            for number in 0..2000 {
                ask(&format!("{set} {number}"));
            }
        }
    }
    let hits = (0..2000).filter(|number| ask(&format!("new {number}"))).count();
    assert!(hits > 1800, "{hits} of 2000 are there");
}

#[test]
fn of_two_as_often_used_the_larger_goes() {
    let memory = evicting(16 * MIB);
    for number in 0..2000 {
        set(&memory, &format!("small {number}"), 1000).unwrap();
        set(&memory, &format!("large {number}"), 20_000).unwrap();
    }
    let count = |of: &str| (0..2000).filter(|n| is_there(&memory, &format!("{of} {n}"))).count();
    let (small, large) = (count("small"), count("large"));
    assert!(small > 1500 && large < 1000, "{small} small ones, {large} large ones");
}

#[test]
fn what_has_expired_goes_first() {
    let memory = evicting(4 * MIB);
    // The sweeper is held off.
    let turn = memory.0.sweeping.lock().unwrap();
    let soon = Time::now().after(Duration::from_millis(50));
    for number in 0..3000 {
        let short_lived = entry(100).with_expiry(Some(soon));
        memory.set(key(&format!("short {number}")), short_lived).unwrap();
        set(&memory, &format!("long {number}"), 100).unwrap();
    }
    assert_eq!(evicted(&memory), 0);
    wait_until("waiting for the expiry", || Time::now() > soon);
    drop(turn);
    let (mut number, expired) = (0, &memory.0.expired);
    while expired.load(Ordering::Relaxed) < 2000 {
        set(&memory, &format!("more {number}"), 1000).unwrap();
        number += 1;
        // What writes leave to the evictor could be more than what has expired.
        wait_until_settled(&memory);
    }
    assert_eq!(evicted(&memory), 0);
    assert!((0..3000).all(|number| is_there(&memory, &format!("long {number}"))));
}

#[test]
fn a_large_value_gets_the_room_of_many_small_ones() {
    let memory = evicting(16 * MIB);
    for number in 0..50_000 {
        set(&memory, &format!("key {number}"), 100).unwrap();
    }
    for number in 0..20 {
        let text = format!("large {number}");
        set(&memory, &text, 6 << 20).unwrap();
        assert!(is_there(&memory, &text), "its writer finds it");
        assert!(memory.held() <= held_max(16 * MIB));
    }
    wait_until_settled(&memory);
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn what_can_never_fit_is_refused_and_nothing_goes_for_it() {
    let memory = evicting(4 * MIB);
    for number in 0..1000 {
        set(&memory, &format!("key {number}"), 100).unwrap();
    }
    let batch: Vec<_> = (0..5)
        .map(|number| (key(&format!("part {number}")), BatchOp::Set(entry(1 << 20))))
        .collect();
    assert_eq!(memory.set(key("large"), entry(4 << 20)), Err(Error::Full));
    assert_eq!(memory.batch(batch), Err(Error::Full));
    let growing: Change = Box::new(|_| Decision::Replace(entry(4 << 20)));
    assert_eq!(memory.update(key("key 1"), growing), Err(Error::Full));
    assert_eq!((told_keys(&memory), evicted(&memory)), (1000, 0));
    assert_eq!(value_bytes(&memory, "key 1"), Some(100));
}

#[test]
fn a_batch_has_room_for_all_of_it() {
    let memory = evicting(2 * MIB);
    for number in 0..20_000 {
        set(&memory, &format!("key {number}"), 100).unwrap();
    }
    for round in 0..20 {
        let keys: Vec<_> = (0..1000).map(|number| format!("batch {round} {number}")).collect();
        let puts = keys.iter().map(|text| (key(text), BatchOp::Set(entry(1000))));
        memory.batch(puts.collect()).unwrap();
        let there = keys.iter().filter(|text| is_there(&memory, text)).count();
        assert!(there > 900, "{there} of 1000 are there");
        assert!(memory.held() <= held_max(2 * MIB));
    }
}

#[test]
fn a_batch_counts_on_what_was_there_at_its_moment() {
    // The counters are evicted now and then; both are what the batch says, always.
    let memory = evicting(MIB);
    let watcher = watch_all(&memory);
    for round in 0..300 {
        let add = || {
            update(|before| {
                let count = before.map_or(0, |before| before.value().len());
                Decision::Replace(entry(count + 1))
            })
        };
        let batch = vec![(key("one"), add()), (key("other"), BatchOp::Set(entry(round + 1)))];
        memory.batch(batch).unwrap();
        for number in 0..20 {
            set(&memory, &format!("{round} {number}"), 3000).unwrap();
        }
    }
    let mut told = Told::default();
    told.read(&watcher);
    assert!(told.evictions > 1000);
    assert!(value_bytes(&memory, "other").is_none_or(|bytes| bytes == 300));
}

#[test]
fn whoever_waits_for_a_key_is_woken_when_it_is_evicted() {
    let memory = evicting(MIB);
    set(&memory, "waited for", 100).unwrap();
    let until = Instant::now() + PATIENCE;
    let ticket = memory.waiters().unwrap().register(&Subject::Read(key("waited for")), until);
    assert!(ticket.has_turn());
    let (woken, waiting) = crossbeam_channel::bounded(1);
    ticket.park(None, Box::new(move |is_over| woken.send(is_over).unwrap_or_default()));
    for number in 0..20_000 {
        set(&memory, &format!("{number}"), 100).unwrap();
    }
    assert!(!is_there(&memory, "waited for"));
    assert_eq!(waiting.recv_timeout(PATIENCE), Ok(false));
}

#[test]
fn a_write_waits_for_few_evictions() {
    let memory = evicting(2 * MIB);
    for number in 0..10_000 {
        set(&memory, &format!("key {number}"), 100).unwrap();
    }
    assert!(memory.0.make_room(MIB, 0, EVICTIONS_MAX, Pace::AtOnce) <= EVICTIONS_MAX);
    assert_eq!(memory.0.make_room(MIB, 0, 5, Pace::AtOnce), 5);
    assert!(memory.0.make_room(MIB, 0, usize::MAX, Pace::AtLength) > 2000);
    assert!(!memory.0.account.is_over(MIB));
}

#[test]
fn what_is_being_sent_has_its_room_though_it_is_removed() {
    let memory = evicting(16 * MIB);
    let sent: Vec<_> = (0..8)
        .map(|_| {
            set(&memory, "large", 1 << 20).unwrap();
            memory.get(&key("large")).unwrap()
        })
        .collect();
    // Seven are removed, and the store has room for half as many.
    let text = |number| format!("other {number}");
    (0..20).for_each(|number| set(&memory, &text(number), 1 << 20).unwrap());
    wait_until_settled(&memory);
    assert!(memory.held() < 10 * MIB, "{} are held", memory.held());
    drop(sent);
    memory.0.cache.as_ref().unwrap().ring();
    wait_until("waiting for room", || !memory.0.take_back(memory.0.cache.as_ref().unwrap()));
    (0..20).for_each(|number| set(&memory, &text(number), 1 << 20).unwrap());
    wait_until_settled(&memory);
    assert!(memory.held() > 13 * MIB, "{} are held", memory.held());
}

#[test]
fn an_entry_that_grows_is_measured_by_all_of_it() {
    let memory = evicting(8 * MIB);
    set(&memory, "a", 6 << 20).unwrap();
    assert_eq!(set(&memory, "a", 15 << 19), Err(Error::Full));
    let batch = vec![(key("a"), BatchOp::Set(entry(15 << 19)))];
    assert_eq!(memory.batch(batch), Err(Error::Full));
    let growing: Change = Box::new(|_| Decision::Replace(entry(15 << 19)));
    assert_eq!(memory.update(key("a"), growing), Err(Error::Full));
    wait_until_settled(&memory);
    assert_eq!((value_bytes(&memory, "a"), evicted(&memory)), (Some(6 << 20), 0));
}

#[test]
fn what_a_write_replaces_does_not_push_out_what_it_has_written() {
    // Both together are more than the limit, and until it is answered the write has the
    // entry before in hand. The evictor may come just then, but not each time.
    let memory = evicting(8 * MIB);
    let stays = || {
        set(&memory, "a", 5 << 20).unwrap();
        let change: Change = Box::new(|_| Decision::Replace(entry(6 << 20)));
        drop(memory.update(key("a"), change).unwrap());
        value_bytes(&memory, "a") == Some(6 << 20)
    };
    assert!((0..20).any(|_| stays()));
}

#[test]
fn what_is_sent_again_and_again_takes_its_room_once() {
    let memory = evicting(8 * MIB);
    set(&memory, "a", 3 << 20).unwrap();
    let sent = memory.get(&key("a")).unwrap();
    // The value stays the same, and only the time at which it expires is another.
    for hours in 1..20 {
        let expiry = Time::now().after(Duration::from_secs(hours * 3600));
        let change: Change = Box::new(move |before| {
            Decision::Replace(before.cloned().expect("it is there").with_expiry(Some(expiry)))
        });
        memory.update(key("a"), change).unwrap();
        memory.0.take_back(memory.0.cache.as_ref().unwrap());
    }
    assert!(!memory.0.account.is_over(4 * MIB));
    assert_eq!((value_bytes(&memory, "a"), evicted(&memory)), (Some(3 << 20), 0));
    drop(sent);
}

#[test]
fn what_grows_does_not_make_room_by_itself_while_others_can() {
    let memory = evicting(8 * MIB);
    set(&memory, "a", 1 << 20).unwrap();
    for number in 0..8000 {
        set(&memory, &format!("key {number}"), 500).unwrap();
    }
    assert_eq!(evicted(&memory), 0);
    let change: Change = Box::new(|before| {
        let before = before.map_or(0, |entry| entry.value().len());
        Decision::Replace(entry(before + (5 << 20)))
    });
    memory.update(key("a"), change).unwrap();
    assert_eq!(value_bytes(&memory, "a"), Some(6 << 20));
}

#[test]
fn uploads_get_the_room_that_they_want() {
    let memory = evicting(32 * MIB);
    for number in 0..30_000 {
        set(&memory, &format!("key {number}"), 1000).unwrap();
    }
    wait_until_settled(&memory);
    let room = |bytes| memory.room(Wanted { bytes, coming: 0 }).expect("it is limited");
    assert!(room(7 * MIB) < 5 * MIB);
    wait_until("waiting for room", || room(0) >= 7 * MIB);
    // However much is wanted, most of what is stored stays.
    let held = memory.held();
    room(u64::MAX);
    wait_until("making room", || memory.held() < held);
    assert!(memory.held() > 24 * MIB);
}

/// Has a store take it that the process has so many resident bytes.
fn tell_resident(memory: &Memory, bytes: &Arc<AtomicU64>) {
    let bytes = Arc::clone(bytes);
    let tell = Box::new(move || Some(bytes.load(Ordering::Relaxed)));
    assert!(memory.0.cache.as_ref().unwrap().resident.set(tell).is_ok());
}

#[test]
fn uploads_wait_until_the_process_has_memory_for_them() {
    // So large that its bound falls for minutes before it is at its least.
    const LIMIT: u64 = 1 << 30;
    let memory = evicting(LIMIT);
    let resident = Arc::new(AtomicU64::new(LIMIT + 19 * MIB));
    tell_resident(&memory, &resident);
    let room = |coming| memory.room(Wanted { bytes: MIB, coming }).expect("it is limited");
    assert!(room(MIB) >= MIB);
    assert_eq!(room(MIB + 1), 0);
    resident.fetch_add(MIB, Ordering::Relaxed);
    assert_eq!(room(1), 0);
    assert!(room(0) >= MIB);
    resident.store(LIMIT, Ordering::Relaxed);
    assert!(room(8 * MIB) >= MIB);
}

#[test]
fn uploads_do_not_wait_for_memory_that_the_store_cannot_give() {
    let memory = evicting(2 * MIB);
    let resident = Arc::new(AtomicU64::new(1 << 30));
    tell_resident(&memory, &resident);
    let room = || memory.room(Wanted { bytes: MIB, coming: MIB }).expect("it is limited");
    wait_until("waiting for room", || room() >= MIB);
    assert!(!memory.0.account.can_fall());
    // Once there is memory for it the store has its own again.
    resident.store(MIB, Ordering::Relaxed);
    wait_until("waiting for the bound", || memory.0.account.bound() > 19 * MIB / 10);
}

#[test]
fn all_shards_follow_the_leaders_that_miss_less() {
    let cache = Cache::new(MIB);
    assert_eq!(cache.dueling.policy(Some(Group::Followers)), Policy::Lfu);
    let keyed = super::super::map::Keyed::default();
    let come = |group| {
        (0..)
            .map(|number| number.to_string())
            .filter(|text| Group::of_key(keyed.hashed(text)) == group)
            .take(100)
            .for_each(|text| {
                cache.inserted(keyed.hashed(&text), &Packed::new(&text, &entry(1)), u64::MAX);
                cache.removed(keyed.hashed(&text));
            });
    };
    come(Group::Lfu);
    assert_eq!(cache.dueling.policy(Some(Group::Followers)), Policy::Lru);
    come(Group::Lru);
    assert_eq!(cache.dueling.policy(Some(Group::Followers)), Policy::Lfu);
    assert_eq!(cache.dueling.keys(), 0);
}

#[test]
fn each_shard_is_of_one_group() {
    let mut shards: Vec<_> = Group::ALL
        .iter()
        .flat_map(|group| (0..group.shards()).map(|place| (group.shard(place), *group)))
        .collect();
    assert!(shards.iter().all(|(shard, group)| Group::of(*shard) == *group));
    shards.sort_unstable_by_key(|(shard, _)| *shard);
    assert!(shards.iter().map(|(shard, _)| *shard).eq(0..KEYS_SHARDS));
}

#[test]
fn after_concurrent_calls_at_the_limit_the_account_is_right() {
    let memory = evicting(2 * MIB);
    let watcher = watch_all(&memory);
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2_usize)
            .map(|reader| {
                let (memory, has_ended) = (&memory, &has_ended);
                scope.spawn(move || {
                    for number in (reader..).step_by(7) {
                        if has_ended.load(Ordering::Relaxed) {
                            return;
                        }
                        let text = format!("{}", number % 5000);
                        if let Some(found) = memory.get(&key(&text)).unwrap() {
                            assert!(found.value().iter().all(|byte| *byte == b'x'));
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..4_usize)
            .map(|writer| {
                let memory = &memory;
                scope.spawn(move || {
                    for number in 0..5000_usize {
                        let text = format!("{}", (number * 31 + writer * 17) % 5000);
                        match number % 10 {
                            0 => memory.delete(&key(&text)).unwrap(),
                            1 => {
                                let puts = (0..5).map(|add| {
                                    let text = format!("{}", (number * 7 + add) % 5000);
                                    (key(&text), BatchOp::Set(entry(300)))
                                });
                                memory.batch(puts.collect()).unwrap();
                            }
                            2 => set(memory, &text, 30_000).unwrap(),
                            _ => set(memory, &text, number % 500).unwrap(),
                        }
                        assert!(memory.held() <= held_max(2 * MIB));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("it does not panic");
        }
        has_ended.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("it does not panic");
        }
    });
    wait_until_settled(&memory);
    let mut told = Told::default();
    told.read(&watcher);
    assert_eq!(told.keys.into_iter().collect::<Vec<_>>(), keys(&memory));
    assert_eq!(told.evictions, evicted(&memory));
    assert_eq!(memory.held(), counted(&memory));
    assert_eq!(memory.0.cache.as_ref().unwrap().dueling.keys(), told_keys(&memory));
}

#[test]
fn clearing_a_store_that_evicts_leaves_all_of_its_room() {
    let memory = evicting(2 * MIB);
    for round in 0..3 {
        for number in 0..20_000 {
            set(&memory, &format!("{number}"), 100).unwrap();
        }
        assert!(is_there(&memory, "19999"), "in round {round}");
        memory.clear().unwrap();
        assert_eq!((memory.held(), told_keys(&memory)), (0, 0));
    }
    set(&memory, "large", 1 << 20).unwrap();
    assert!(is_there(&memory, "large"));
}
