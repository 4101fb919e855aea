//! The account of the memory held, and its maximum; batches and pages beside others.
//! What every engine promises is tested in `tests/storage.rs`, and the account against
//! the process's real memory in `tests/memory.rs`.

use super::maps::read;
use super::packed::Packed;
use super::{Change, Entry, Error, KEYS_SHARDS, Key, Memory, Op};
use crate::platform::allocator;
use crate::storage::threads::{Ended, Start};
use crate::storage::waiting::wait_until;
use crate::storage::{
    BatchOp, Blocking as _, Decision, Effect, Limits, Listing, Moment, PAGE_KEYS_MAX, Range, Read,
    Revision, Storage as _, Time, Watched,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub fn entry(bytes: usize) -> Entry {
    Entry::new(vec![b'x'; bytes].into())
}

pub fn set(memory: &Memory, text: &str, bytes: usize) -> Result<(), Error> {
    memory.set(key(text), entry(bytes))
}

/// Sweeps all maps; how many keys are gone since.
fn sweep(memory: &Memory, now: Time) -> usize {
    let keys = || memory.0.shards.iter().map(|shard| read(&shard.map).len()).sum::<usize>();
    let _turn = memory.0.sweeping.lock().unwrap();
    let before = keys();
    memory.0.shards.iter().for_each(|shard| memory.0.sweep(shard, now));
    before - keys()
}

fn delete(memory: &Memory, text: &str) {
    memory.delete(&key(text)).unwrap();
}

/// Sets keys of one value size until one is refused; how many fitted.
fn fill(memory: &Memory, bytes: usize) -> usize {
    const KEYS_MAX: usize = 1_000_000;
    let fits = |index: &usize| set(memory, &format!("key {index}"), bytes).is_ok();
    (0..KEYS_MAX).take_while(fits).count()
}

pub fn value_bytes(memory: &Memory, text: &str) -> Option<usize> {
    memory.get(&key(text)).unwrap().map(|entry| entry.value().len())
}

/// What the account should say: every entry, table and leaf, counted one by one.
pub fn counted(memory: &Memory) -> u64 {
    let shards = memory.0.shards.iter().map(|shard| {
        let map = read(&shard.map);
        map.iter().map(Packed::cost).sum::<u64>() + map.counted_bytes()
    });
    shards.sum::<u64>() + memory.0.index.held()
}

#[test]
fn an_empty_store_holds_nothing() {
    assert_eq!(Memory::new().held(), 0);
    assert_eq!(Memory::with_max(1000).held(), 0);
}

#[test]
fn an_entry_is_held_with_its_overhead() {
    for bytes in [1, 100, 4096, 4097, 1_000_000] {
        let memory = Memory::new();
        set(&memory, "kenya:capital", bytes).unwrap();
        let least = (bytes + "kenya:capital".len()) as u64;
        // The next class is up to a quarter larger, and there is a leaf of the index.
        let most = least * 5 / 4 + 1300;
        assert!((least..most).contains(&memory.held()), "{} for {bytes}", memory.held());
    }
}

#[test]
fn an_overwrite_exchanges_the_old_value_for_the_new() {
    let memory = Memory::new();
    set(&memory, "key", 1000).unwrap();
    let small = memory.held();
    set(&memory, "key", 1_000_000).unwrap();
    assert!(memory.held() > 1_000_000);
    set(&memory, "key", 1000).unwrap();
    assert_eq!(memory.held(), small);
}

#[test]
fn a_delete_gives_back_what_the_entry_took() {
    let memory = Memory::new();
    set(&memory, "key", 1000).unwrap();
    delete(&memory, "key");
    let table_alone = memory.held();
    set(&memory, "key", 1000).unwrap();
    assert!(memory.held() >= table_alone + 1000);
    delete(&memory, "key");
    assert_eq!(memory.held(), table_alone);
    delete(&memory, "key");
    assert_eq!(memory.held(), table_alone);
}

#[test]
fn deleting_nearly_all_keys_gives_back_their_tables() {
    const KEYS: usize = 200_000;
    let memory = Memory::new();
    for index in 0..KEYS {
        set(&memory, &format!("key {index}"), 1).unwrap();
    }
    let full = memory.held();
    for index in 0..KEYS {
        delete(&memory, &format!("key {index}"));
    }
    assert!(memory.held() < full / 10, "{} of {full} are still held", memory.held());
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn clearing_gives_back_everything() {
    let memory = Memory::new();
    for index in 0..10_000 {
        set(&memory, &format!("key {index}"), 100).unwrap();
    }
    memory.clear().unwrap();
    assert_eq!(memory.held(), 0);
    set(&memory, "key", 100).unwrap();
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn a_clone_is_a_handle_on_the_same_keys_and_account() {
    let memory = Memory::new();
    set(&memory.clone(), "key", 100).unwrap();
    assert_eq!(value_bytes(&memory, "key"), Some(100));
    assert_eq!(memory.held(), memory.clone().held());
}

#[test]
fn a_write_past_the_maximum_is_refused_and_changes_nothing() {
    let memory = Memory::with_max(100_000);
    let fitted = fill(&memory, 1000);
    assert!((50..100).contains(&fitted), "{fitted} fitted");
    let held = memory.held();
    assert!(held <= 100_000);

    // Larger than the last one, which may have been refused for its table.
    assert_eq!(set(&memory, "one more", 2000), Err(Error::Full));
    assert_eq!(set(&memory, "key 0", 5000), Err(Error::Full));
    assert_eq!(set(&memory, "key 0", 200_000), Err(Error::Full));

    assert_eq!(memory.held(), held);
    assert_eq!(value_bytes(&memory, "one more"), None);
    for index in 0..fitted {
        assert_eq!(value_bytes(&memory, &format!("key {index}")), Some(1000));
    }
}

#[test]
fn a_full_store_takes_a_value_that_is_no_larger() {
    let memory = Memory::with_max(100_000);
    let fitted = fill(&memory, 1000);
    for bytes in [1000, 999, 1] {
        for index in 0..fitted {
            assert_eq!(set(&memory, &format!("key {index}"), bytes), Ok(()));
        }
    }
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn a_delete_makes_room() {
    let memory = Memory::with_max(100_000);
    fill(&memory, 1000);
    assert_eq!(set(&memory, "another", 2000), Err(Error::Full));
    for deleted in ["key 0", "key 1", "key 2"] {
        delete(&memory, deleted);
    }
    assert_eq!(set(&memory, "another", 2000), Ok(()));
}

#[test]
fn clearing_makes_room() {
    let memory = Memory::with_max(100_000);
    fill(&memory, 1000);
    memory.clear().unwrap();
    assert!(fill(&memory, 1000) >= 50);
}

#[test]
fn a_store_without_room_for_a_table_takes_nothing() {
    let memory = Memory::with_max(64);
    assert_eq!(set(&memory, "key", 1), Err(Error::Full));
    assert_eq!(memory.held(), 0);
    assert_eq!(counted(&memory), 0);
}

/// A table grows when a key comes to it, and may do so when one is replaced:
/// neither may pass the maximum.
#[test]
fn overwriting_never_passes_the_maximum() {
    const BYTES_MAX: u64 = 2_000_000;
    let memory = Memory::with_max(BYTES_MAX);
    let fitted = fill(&memory, 100);
    for index in 0..fitted {
        set(&memory, &format!("key {index}"), 100).unwrap();
        assert!(memory.held() <= BYTES_MAX, "{} after {index}", memory.held());
    }
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn the_account_is_never_seen_past_the_maximum() {
    const BYTES_MAX: u64 = 5_000_000;
    let memory = Memory::with_max(BYTES_MAX);
    let mut highest = 0;
    thread::scope(|scope| {
        let memory = &memory;
        let writers = [0, 1].map(|writer| scope.spawn(move || churn(memory, writer)));
        while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
            highest = highest.max(memory.held());
        }
    });
    assert!(highest <= BYTES_MAX, "{highest} of {BYTES_MAX}");
    assert!(highest > BYTES_MAX * 99 / 100, "{highest} of {BYTES_MAX}");
    assert_eq!(memory.held(), counted(&memory));
}

/// Sets more than fits, and deletes a key wherever it is refused.
fn churn(memory: &Memory, writer: usize) {
    for round in 0..80_000 {
        if set(memory, &format!("{writer}:{round}"), 1 + round % 20).is_err() {
            delete(memory, &format!("{writer}:{}", round / 2));
        }
    }
}

#[test]
fn after_concurrent_calls_the_account_is_right() {
    let memory = Memory::with_max(3_000_000);
    thread::scope(|scope| {
        for writer in 0..4 {
            let memory = &memory;
            scope.spawn(move || {
                for round in 0..20 {
                    for index in 0..500 {
                        let name = format!("key {}", index % 400);
                        if index % 5 == 4 {
                            delete(memory, &name);
                        } else {
                            let outcome = set(memory, &name, 1 + (index * writer * 97) % 9000);
                            assert!(matches!(outcome, Ok(()) | Err(Error::Full)));
                        }
                    }
                    if round % 5 == writer {
                        memory.clear().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(memory.held(), counted(&memory));
    memory.clear().unwrap();
    assert_eq!(memory.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any calls at all: `None` deletes.
    #[test]
    fn after_any_calls_the_account_is_right(
        calls in prop::collection::vec((0..40_u8, prop::option::of(1..6000_usize)), 0..200),
        max in 10_000..200_000_u64,
    ) {
        let memory = Memory::with_max(max);
        for (name, bytes) in calls {
            let name = name.to_string();
            match bytes {
                None => delete(&memory, &name),
                Some(bytes) => {
                    let before = value_bytes(&memory, &name);
                    let outcome = set(&memory, &name, bytes);
                    let after = if outcome.is_ok() { Some(bytes) } else { before };
                    prop_assert_eq!(value_bytes(&memory, &name), after);
                }
            }
            prop_assert!(memory.held() <= max);
        }
        prop_assert_eq!(memory.held(), counted(&memory));
    }
}

#[test]
fn the_map_spends_a_word_on_an_entry() {
    assert_eq!(size_of::<(Packed, ())>(), size_of::<usize>());
}

/// Lengths of values at the edges of the forms and classes of entries.
const EDGES: [usize; 12] = [1, 84, 100, 119, 120, 183, 184, 1008, 1024, 4096, 4097, 65536];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any values in place of any others, of all forms, with all that an entry may have.
    #[test]
    fn values_change_between_all_forms(
        calls in prop::collection::vec(
            (
                0..6_usize,
                prop::option::of((0..EDGES.len(), prop::option::of(0..256_usize), any::<bool>())),
            ),
            0..60,
        ),
    ) {
        let names = [1, 16, 40, 87, 1023, 1024].map(|bytes| "k".repeat(bytes));
        let (memory, mut model) = (Memory::new(), BTreeMap::new());
        let later = Time::now().after(Duration::from_secs(1000));
        for (name, call) in calls {
            let name = &names[name];
            match call {
                None => {
                    delete(&memory, name);
                    model.remove(name);
                }
                Some((edge, type_bytes, expires)) => {
                    let content_type = type_bytes.map(|bytes| "t".repeat(bytes).into());
                    let entry = entry(EDGES[edge])
                        .with_content_type(content_type)
                        .with_expiry(expires.then_some(later));
                    memory.set(key(name), entry.clone()).unwrap();
                    model.insert(name.clone(), entry);
                }
            }
            prop_assert_eq!(memory.held(), counted(&memory));
            for (name, entry) in &model {
                let found = memory.get(&key(name)).unwrap();
                prop_assert_eq!(found.as_ref(), Some(entry));
                prop_assert_eq!(found.map(|found| found.digest()), Some(entry.digest()));
            }
        }
    }
}

/// A value of some bytes that tells its key.
fn value_of(name: &str, bytes: usize) -> Entry {
    Entry::new(name.repeat(bytes / name.len() + 1).into())
}

#[test]
fn entries_are_laid_anew_beside_readers_and_writers() {
    const KEYS: usize = 40_000;
    let memory = Memory::new();
    let name = |number: usize| format!("key {number}");
    // Each third key is of another size, and two of three are deleted.
    let bytes = |number: usize| [100, 1000, 5000][number % 3];
    for number in 0..KEYS {
        memory.set(key(&name(number)), value_of(&name(number), bytes(number))).unwrap();
    }
    for number in (0..KEYS).filter(|number| number / 7 % 3 > 0) {
        delete(&memory, &name(number));
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = Ended(&over);
        let (memory, over) = (&memory, &over);
        for thread in 0..2 {
            scope.spawn(move || {
                let mut held = Vec::new();
                for number in (thread..KEYS).cycle().step_by(5) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = name(number);
                    if number % 11 == thread {
                        memory.set(key(&name), value_of(&name, bytes(number + 1))).unwrap();
                    }
                    let found = memory.get(&key(&name)).unwrap();
                    if let Some(found) = &found {
                        assert!(found.value().starts_with(name.as_bytes()), "{name}");
                    }
                    held.push(found);
                    held.truncate(100);
                }
            });
        }
        let moved = (0..5).map(|_| memory.0.defragment()).sum::<u64>();
        drop(ended);
        assert!(moved > 0);
    });
    assert_eq!(memory.held(), counted(&memory));
    for number in (0..KEYS).filter(|number| number / 7 % 3 == 0) {
        let found = memory.get(&key(&name(number))).unwrap();
        let found = found.unwrap_or_else(|| panic!("{number} is lost"));
        assert!(found.value().starts_with(name(number).as_bytes()), "{number}");
    }
}

/// A load of keys that were not there has nothing laid anew.
#[test]
fn new_keys_free_nothing() {
    let memory = Memory::new();
    for number in 0..20_000 {
        set(&memory, &format!("key {number}"), 100).unwrap();
    }
    for batch in 0..20 {
        let puts =
            (0..1000).map(|number| (key(&format!("{batch}: {number}")), BatchOp::Set(entry(100))));
        memory.batch(puts.collect()).unwrap();
    }
    assert_eq!(memory.0.account.freed(), 0);
    assert_eq!(memory.held(), counted(&memory));
    delete(&memory, "key 7");
    assert!(memory.0.account.freed() >= 100);
}

/// A pass over what cannot be laid closer ends, and moves nothing.
#[test]
fn nothing_is_moved_where_nothing_is_gained() {
    let memory = Memory::new();
    assert_eq!(memory.0.defragment(), 0);
    for number in 0..100 {
        set(&memory, &format!("key {number}"), 100).unwrap();
    }
    // Other tests may have left holes, in which they lie.
    let passes = || {
        let has_arena = allocator::use_own_arena();
        (has_arena, memory.0.defragment(), memory.0.defragment())
    };
    let (has_arena, _, moved) = thread::scope(|scope| scope.spawn(passes).join().unwrap());
    assert!(!has_arena || moved == 0, "{moved} bytes are moved");
}

#[test]
fn keys_are_spread_over_all_maps() {
    const KEYS_PER_SHARD: usize = 100;
    let memory = Memory::new();
    for index in 0..KEYS_PER_SHARD * KEYS_SHARDS {
        set(&memory, &index.to_string(), 1).unwrap();
    }
    let sizes: Vec<usize> = memory.0.shards.iter().map(|shard| read(&shard.map).len()).collect();
    // Ten standard deviations: chance does not come here.
    assert!(sizes.iter().all(|size| (1..2 * KEYS_PER_SHARD).contains(size)), "{sizes:?}");
}

/// Bytes that are part of a larger buffer would keep all of it alive.
#[test]
fn a_small_part_of_a_large_buffer_does_not_keep_the_buffer() {
    struct Buffer(Arc<AtomicBool>);
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &[b'x'; 10_000]
        }
    }
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let freed = Arc::new(AtomicBool::new(false));
    let part = Bytes::from_owner(Buffer(Arc::clone(&freed))).slice(10..20);
    let memory = Memory::new();
    memory.set(key("key"), Entry::new(part)).unwrap();
    assert!(freed.load(Ordering::Relaxed));
    assert_eq!(value_bytes(&memory, "key"), Some(10));
}

/// Deleted keys leave traces in a table, which must not make it grow.
#[test]
fn replacing_keys_by_others_keeps_a_full_store_full() {
    let memory = Memory::with_max(4 << 20);
    let fitted = fill(&memory, 100);
    for index in 0..10 * fitted {
        delete(&memory, &format!("key {index}"));
        let outcome = set(&memory, &format!("key {}", index + fitted), 100);
        // Now and then a key comes to a table that is really full.
        assert!(matches!(outcome, Ok(()) | Err(Error::Full)));
    }
    let left: usize = memory.0.shards.iter().map(|shard| read(&shard.map).len()).sum();
    assert!(left > fitted * 9 / 10, "{left} of {fitted}");
    assert_eq!(memory.held(), counted(&memory));
}

/// Sets a value that expires at a moment.
fn set_until(memory: &Memory, text: &str, bytes: usize, expiry: Time) -> Result<(), Error> {
    memory.set(key(text), entry(bytes).with_expiry(Some(expiry)))
}

fn wait_past(moment: Time) {
    while Time::now() < moment {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_has_expired_is_given_back_though_nobody_asks() {
    const KEYS: usize = 50_000;
    const BYTES: usize = 1000;
    let memory = Memory::new();
    let expiry = Time::now().after(Duration::from_millis(300));
    set(&memory, "for ever", 100).unwrap();
    for index in 0..KEYS {
        set_until(&memory, &format!("key {index}"), BYTES, expiry).unwrap();
    }
    wait_past(expiry);
    // By hand it is within a second or so. What is left is small tables.
    let end = Instant::now() + Duration::from_secs(600);
    while memory.held() > (KEYS * BYTES / 20) as u64 {
        assert!(Instant::now() < end, "{} bytes are still held", memory.held());
        thread::sleep(Duration::from_millis(5));
    }
    println!("given back within {:?} of the expiry", expiry.until(Time::now()));
    assert_eq!(value_bytes(&memory, "for ever"), Some(100));
}

/// Sets keys that expire at a moment until one is refused; how many fitted.
fn fill_until(memory: &Memory, expiry: Time) -> usize {
    let fits = |index: &usize| set_until(memory, &format!("key {index}"), 1000, expiry).is_ok();
    (0..1000).take_while(fits).count()
}

#[test]
fn a_store_full_of_what_has_expired_takes_a_write_at_once() {
    // One by `set`, one by `update`; the sweeper's thread comes later.
    let by_update = |memory: &Memory| {
        let change = |_: Option<&super::Entry>| Decision::Replace(entry(50_000));
        memory.update(key("new"), Box::new(change)).map(drop)
    };
    let by_set = |memory: &Memory| set(memory, "new", 50_000);
    for write in [&by_update as &dyn Fn(&Memory) -> Result<(), Error>, &by_set] {
        let memory = Memory::with_max(100_000);
        let expiry = Time::now().after(Duration::from_millis(200));
        assert!(fill_until(&memory, expiry) > 50);
        wait_past(expiry);
        assert_eq!(write(&memory), Ok(()));
        assert_eq!(value_bytes(&memory, "new"), Some(50_000));
        assert_eq!(memory.held(), counted(&memory));
    }
}

#[test]
fn a_full_store_keeps_what_has_not_expired() {
    let memory = Memory::with_max(100_000);
    let fitted = fill_until(&memory, Time::now().after(Duration::from_secs(1000)));
    assert_eq!(set(&memory, "new", 50_000), Err(Error::Full));
    for index in 0..fitted {
        assert_eq!(value_bytes(&memory, &format!("key {index}")), Some(1000));
    }
}

#[test]
fn a_value_stored_since_is_not_swept_with_the_expired_one() {
    let memory = Memory::new();
    let now = Time::now();
    for text in ["for ever", "longer", "expired"] {
        set_until(&memory, text, 10, now).unwrap();
    }
    let later = now.after(Duration::from_secs(1000));
    set(&memory, "for ever", 20).unwrap();
    set_until(&memory, "longer", 20, later).unwrap();
    // The thread may come first.
    assert!(sweep(&memory, now) <= 1);
    assert_eq!(sweep(&memory, now), 0);
    assert_eq!(value_bytes(&memory, "for ever"), Some(20));
    assert_eq!(value_bytes(&memory, "longer"), Some(20));
    assert_eq!(memory.held(), counted(&memory));
    assert_eq!(sweep(&memory, later), 1);
}

#[test]
fn nothing_is_refused_that_fits_once_others_have_swept() {
    const WRITERS: usize = 4;
    for _ in 0..200 {
        let memory = Memory::with_max(262_000);
        let expiry = Time::now().after(Duration::from_millis(2));
        for index in 0..3 {
            set_until(&memory, &format!("old {index}"), 81_000, expiry).unwrap();
        }
        while Time::now() <= expiry {
            thread::yield_now();
        }
        let start = Start::new(WRITERS);
        thread::scope(|scope| {
            for index in 0..WRITERS {
                let (memory, start) = (&memory, &start);
                scope.spawn(move || {
                    start.wait();
                    assert_eq!(set(memory, &format!("new {index}"), 30_000), Ok(()));
                });
            }
        });
    }
}

/// A change that takes long is not put off for ever by others that do not.
#[test]
fn a_slow_update_gets_on_among_quick_ones() {
    let memory = Memory::new();
    set(&memory, "key", 10).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = Ended(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                set(&memory, "key", 10).unwrap();
            }
        });
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let slow: Change = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
            Decision::Replace(entry(20))
        });
        let updated = memory.update(key("key"), slow).unwrap();
        drop(ended);
        assert_eq!(updated.after.map(|entry| entry.value().len()), Some(20));
        assert!(calls.load(Ordering::Relaxed) < 10, "it was decided {calls:?} times");
    });
}

#[test]
fn what_takes_long_is_left_to_other_threads() {
    let memory = Memory::with_max(1 << 20);
    let update = |text: &str| {
        let op = Op::Update(key(text), Box::new(|_| Decision::Keep));
        memory.try_now(op).is_ok()
    };
    set(&memory, "small", 64 << 10).unwrap();
    set(&memory, "large", (64 << 10) + 1).unwrap();
    assert!(update("small") && update("absent") && !update("large"));
    assert!(matches!(memory.try_now(Op::Clear), Err(Op::Clear)));
    let fits = |op| memory.try_now(op).map(|outcome| outcome.is_ok()).ok();
    let is_at_once = |op| memory.try_now(op).is_ok();
    let sets = |keys: usize| {
        let sets = (0..keys).map(|number| (key(&number.to_string()), BatchOp::Set(entry(1))));
        Op::Batch(sets.collect())
    };
    let keep = |text: &str| vec![(key(text), BatchOp::Update(Box::new(|_| Decision::Keep)))];
    assert!(is_at_once(sets(1000)) && !is_at_once(sets(1001)));
    assert!(is_at_once(Op::Batch(keep("small"))) && !is_at_once(Op::Batch(keep("large"))));
    let first = || Op::UpdateFirst("".into(), Box::new(|_| Decision::Keep));
    let page = || Listing { keys_max: PAGE_KEYS_MAX, ..Listing::default() };
    let groups = Listing { delimiter: Some("/".into()), ..page() };
    let entries = Listing { with_entries: true, ..page() };
    assert!(is_at_once(first()) && is_at_once(Op::List(page().into())));
    assert!(!is_at_once(Op::List(groups.into())) && !is_at_once(Op::List(entries.into())));
    assert!(!is_at_once(Op::Count(Range::default().into())));
    {
        let _shared = memory.0.moment.read();
        assert!(is_at_once(Op::List(page().into())));
        assert!(!is_at_once(first()) && !is_at_once(sets(1)));
    }
    {
        let _alone = memory.0.moment.write();
        assert!(!is_at_once(Op::List(page().into())));
        assert!(update("small"), "one key is nobody else's");
    }
    let huge = || Op::Set(key("huge"), entry(1 << 20));
    assert_eq!(fits(huge()), Some(false), "nothing can be swept away for it");
    let due = Entry::new("x".into()).with_expiry(Some(Time::now()));
    memory.set(key("due"), due).unwrap();
    assert_eq!(fits(huge()), None, "something can be");
    assert!(!is_at_once(Op::List(page().into())), "the maps must be asked");
    assert_eq!(memory.perform(huge()), Err(Error::Full));
}

/// An update that is decided by whether there is an entry.
pub fn update(decide: fn(Option<&Entry>) -> Decision) -> BatchOp {
    BatchOp::Update(Box::new(decide))
}

/// All keys of a range, page after page.
fn list(memory: &Memory, listing: &Listing) -> Vec<String> {
    let (mut listing, mut all) = (listing.clone(), Vec::new());
    loop {
        let page = memory.list(listing.clone()).unwrap();
        all.extend(page.keys().map(str::to_owned));
        let Some(next) = page.next else { return all };
        listing.range.start = next;
    }
}

/// A listing in pages of so many keys.
fn pages_of(keys_max: usize) -> Listing {
    Listing { keys_max, ..Listing::default() }
}

fn range(prefix: &str, is_reverse: bool) -> Range {
    Range { prefix: prefix.into(), is_reverse, ..Range::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any batches: `None` deletes, 0 removes by an update, the largest refuses.
    #[test]
    fn after_any_batches_the_account_is_right(
        batches in prop::collection::vec(
            prop::collection::vec((0..30_u8, prop::option::of(0..6000_usize)), 1..40), 0..20),
        max in 10_000..100_000_u64,
    ) {
        const REFUSED: usize = 5900;
        let (memory, mut model) = (Memory::with_max(max), BTreeMap::new());
        for batch in batches {
            let (mut ops, mut after, mut is_refused) = (Vec::new(), model.clone(), false);
            for (name, bytes) in batch {
                let name = name.to_string();
                let op = match bytes {
                    None => BatchOp::Delete,
                    Some(0) => update(|_| Decision::Remove),
                    Some(REFUSED..) => update(|_| Decision::Refuse),
                    Some(bytes) => BatchOp::Set(entry(bytes)),
                };
                ops.push((key(&name), op));
                is_refused |= bytes >= Some(REFUSED);
                match bytes {
                    None | Some(0) => after.remove(&name),
                    Some(bytes) => after.insert(name, bytes),
                };
            }
            let asked = ops.len();
            match memory.batch(ops) {
                Ok(effects) if is_refused => prop_assert!(effects.len() <= asked),
                Ok(effects) => {
                    prop_assert_eq!(effects.len(), asked);
                    model = after;
                }
                Err(err) => prop_assert_eq!(err, Error::Full),
            }
            prop_assert!(memory.held() <= max);
            prop_assert_eq!(memory.held(), counted(&memory));
            let keys: Vec<String> = model.keys().cloned().collect();
            prop_assert_eq!(list(&memory, &pages_of(7)), keys);
            for (name, bytes) in &model {
                prop_assert_eq!(value_bytes(&memory, name), Some(*bytes));
            }
        }
        memory.batch((0..30).map(|name| (key(&name.to_string()), BatchOp::Delete)).collect()).unwrap();
        prop_assert_eq!(memory.held(), counted(&memory));
        prop_assert_eq!(memory.0.index.held(), 0);
    }
}

#[test]
fn a_batch_in_a_full_store_may_put_one_key_in_place_of_another() {
    let memory = Memory::with_max(100_000);
    let fitted = fill(&memory, 1000);
    let held = memory.held();
    let put = |text: &str| (key(text), BatchOp::Set(entry(1000)));
    let adds = (0..10).map(|number| put(&format!("new {number}"))).collect();
    assert_eq!(memory.batch(adds), Err(Error::Full));
    assert_eq!((memory.held(), value_bytes(&memory, "new 0")), (held, None));
    let exchange = vec![
        put("new 0"),
        (key("key 0"), BatchOp::Delete),
        (key("key 1"), update(|_| Decision::Remove)),
        put("new 1"),
        (key("key 2"), BatchOp::Delete),
    ];
    assert_eq!(memory.batch(exchange).map(|effects| effects.len()), Ok(5));
    assert_eq!(list(&memory, &pages_of(1000)).len(), fitted - 1);
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn a_full_store_of_what_has_expired_takes_a_batch() {
    let memory = Memory::with_max(100_000);
    let expiry = Time::now().after(Duration::from_millis(200));
    assert!(fill_until(&memory, expiry) > 50);
    wait_past(expiry);
    let puts = (0..50).map(|number| (key(&format!("new {number}")), BatchOp::Set(entry(1000))));
    assert_eq!(memory.batch(puts.collect()).map(|effects| effects.len()), Ok(50));
    assert_eq!(list(&memory, &pages_of(1000)).len(), 50);
}

#[test]
fn a_slow_batch_gets_on_among_quick_writes() {
    let memory = Memory::new();
    set(&memory, "key", 10).unwrap();
    let (over, calls) = (AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
    thread::scope(|scope| {
        let ended = Ended(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                set(&memory, "key", 10).unwrap();
            }
        });
        let counted = Arc::clone(&calls);
        let slow: Change = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
            Decision::Replace(entry(20))
        });
        let ops = vec![(key("key"), BatchOp::Update(slow)), (key("other"), BatchOp::Delete)];
        let effects = memory.batch(ops).unwrap();
        drop(ended);
        assert!(matches!(effects.as_slice(), [Effect::Updated(_), Effect::Done]));
        assert!(calls.load(Ordering::Relaxed) < 10, "it was decided {calls:?} times");
    });
}

/// Two keys are always written as equals, and come and go together.
#[test]
fn nobody_sees_half_of_a_batch() {
    const ROUNDS: usize = 3000;
    let memory = Memory::new();
    // Others lie between the two, so that they are in different leaves.
    for number in 0..2000 {
        set(&memory, &format!("m{number}"), 1).unwrap();
    }
    let over = AtomicBool::new(false);
    let both = |op: &dyn Fn() -> BatchOp| vec![(key("z"), op()), (key("a"), op())];
    thread::scope(|scope| {
        let ended = Ended(&over);
        let memory = &memory;
        let listed = scope.spawn(|| {
            let mut seen = [0, 0];
            while !over.load(Ordering::Relaxed) {
                for listing in [
                    pages_of(PAGE_KEYS_MAX),
                    Listing { range: range("", true), ..pages_of(PAGE_KEYS_MAX) },
                ] {
                    // Reads all leaves at one moment.
                    let listing = Listing { delimiter: Some("m".into()), ..listing };
                    let page = memory.list(listing).unwrap();
                    let ends = page.keys().filter(|key| ["a", "z"].contains(key)).count();
                    assert!(ends != 1, "{:?}", page.keys().collect::<Vec<_>>());
                    seen[ends / 2] += 1;
                }
            }
            seen
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Whoever has seen a number sees no smaller one.
                for (one, other) in [("a", "z"), ("z", "a")] {
                    let first = value_bytes(memory, one);
                    let second = value_bytes(memory, other);
                    assert!(first.is_none() || second.is_none() || second >= first);
                }
                let looks: Vec<_> = both(&|| update(|_| Decision::Keep));
                let [Effect::Updated(one), Effect::Updated(other)] =
                    &memory.batch(looks).unwrap()[..]
                else {
                    unreachable!("two updates")
                };
                assert_eq!(one.before, other.before);
            }
        });
        for round in 1..ROUNDS {
            memory.batch(both(&|| BatchOp::Set(entry(round)))).unwrap();
            if round % 3 == 0 {
                memory.batch(both(&|| BatchOp::Delete)).unwrap();
            }
        }
        drop(ended);
        let seen = listed.join().unwrap();
        assert!(seen.iter().all(|pages| *pages > 0), "{seen:?}");
    });
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn of_many_takers_each_gets_keys_in_order_and_nobody_gets_one_twice() {
    const KEYS: usize = 10_000;
    const TAKERS: usize = 8;
    let memory = Memory::new();
    let name = |number: usize| format!("job:{number:06}");
    for number in 0..KEYS {
        set(&memory, &name(number), 1).unwrap();
    }
    for other in ["job", "job;", "a", "z"] {
        set(&memory, other, 1).unwrap();
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let taken = thread::scope(|scope| {
        let takers = [(); TAKERS].map(|()| {
            let (memory, calls) = (&memory, Arc::clone(&calls));
            scope.spawn(move || {
                let mut taken = Vec::new();
                loop {
                    let calls = Arc::clone(&calls);
                    let take = Box::new(move |_: Option<&Entry>| {
                        calls.fetch_add(1, Ordering::Relaxed);
                        Decision::Remove
                    });
                    match memory.update_first("job:", take).unwrap() {
                        Some((key, updated)) => {
                            assert!(updated.before.is_some() && updated.after.is_none());
                            taken.push(key);
                        }
                        None => return taken,
                    }
                }
            })
        });
        takers.map(|taker| taker.join().unwrap())
    });
    assert!(taken.iter().all(|keys| keys.is_sorted()));
    let mut all: Vec<String> = taken.iter().flatten().map(|key| key.as_str().to_owned()).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..KEYS).map(name)));
    assert_eq!(calls.load(Ordering::Relaxed), KEYS, "nobody decides in vain");
    assert_eq!(list(&memory, &pages_of(1000)), ["a", "job", "job;", "z"]);
}

#[test]
fn the_first_key_is_one_that_has_not_expired() {
    let memory = Memory::new();
    let now = Time::now();
    for number in 0..100 {
        set_until(&memory, &format!("job:{number}"), 10, now).unwrap();
    }
    let keep = || Box::new(|_: Option<&Entry>| Decision::Keep);
    assert_eq!(memory.update_first("job:", keep()), Ok(None));
    for number in 0..100 {
        set_until(&memory, &format!("job:{number}"), 10, now).unwrap();
    }
    set(&memory, "job:living", 10).unwrap();
    let first = memory.update_first("job:", keep()).unwrap();
    assert_eq!(first.map(|(key, _)| key), Some(key("job:living")));
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn groups_are_passed_at_once() {
    let memory = Memory::new();
    for group in ["a", "b", "c"] {
        for number in 0..3000 {
            set(&memory, &format!("{group}/{number}"), 1).unwrap();
        }
    }
    set(&memory, "b", 1).unwrap();
    for keys_max in [1, 2, 1000] {
        let groups = Listing { delimiter: Some("/".into()), ..pages_of(keys_max) };
        assert_eq!(list(&memory, &groups), ["a/", "b", "b/", "c/"], "{keys_max}");
        let reverse = Listing { range: range("", true), ..groups.clone() };
        assert_eq!(list(&memory, &reverse), ["c/", "b/", "b", "a/"], "{keys_max}");
    }
}

/// A page passes some thousand expired keys and ends; the next one goes on behind.
#[test]
fn a_page_among_expired_keys_ends_early() {
    const EXPIRED: usize = 10_000;
    let memory = Memory::new();
    let expiry = Time::now().after(Duration::from_secs(1000));
    for number in 0..EXPIRED {
        set_until(&memory, &format!("k{number:05}"), 1, expiry).unwrap();
    }
    for text in ["a", "k05000 living", "z"] {
        set(&memory, text, 1).unwrap();
    }
    assert_eq!(memory.count(Range::default()), Ok(EXPIRED as u64 + 3));
    // Expired from now on, but not swept.
    let turn = memory.0.sweeping.lock().unwrap();
    let due = Time::now();
    for number in 0..EXPIRED {
        set_until(&memory, &format!("k{number:05}"), 1, due).unwrap();
    }
    let listings = [false, true].map(|is_reverse| {
        [false, true].map(|with_entries| Listing {
            range: range("", is_reverse),
            with_entries,
            ..pages_of(1000)
        })
    });
    let listings = listings.as_flattened();
    let living = |listing: &Listing| {
        let mut listed = list(&memory, listing);
        listed.sort_unstable();
        assert_eq!(listed, ["a", "k05000 living", "z"]);
    };
    for listing in listings {
        let page = memory.0.list(listing);
        assert_eq!(page.len(), 1, "the first or the last key");
        assert!(page.next.is_some(), "{page:?}");
        living(listing);
    }
    assert_eq!(memory.count(range("k", false)), Ok(1));
    // While the sweeper is at it no other is shown either.
    drop(turn);
    for listing in listings {
        living(listing);
    }
    assert_eq!(memory.count(range("k", false)), Ok(1));
}

#[test]
fn counting_takes_steps_and_counts_each_key_once() {
    const KEYS: usize = 50_000;
    let memory = Memory::new();
    for number in 0..KEYS {
        set(&memory, &format!("{:x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)), 1).unwrap();
    }
    let steps = |is_reverse| {
        let (mut range, mut steps, mut sum) = (range("", is_reverse), 0, 0);
        loop {
            let (counted, next) = memory.0.count(&range);
            (sum, steps) = (sum + counted, steps + 1);
            match next {
                Some(next) => range.start = next,
                None => return (sum, steps > 1),
            }
        }
    };
    assert_eq!(steps(false), (KEYS as u64, true));
    assert_eq!(steps(true), (KEYS as u64, true));
    let a = list(&memory, &Listing { range: range("a", false), ..pages_of(1000) });
    assert_eq!(memory.count(range("a", false)), Ok(a.len() as u64));
}

#[test]
fn changes_are_kept_once_somebody_asks_for_their_position() {
    let memory = Memory::new();
    let log = memory.changes().expect("it has one");
    set(&memory, "before", 1).unwrap();
    let first = log.revision();
    assert_eq!(first.place, Revision::newborn().place, "something was kept");
    set(&memory, "a", 1).unwrap();
    delete(&memory, "absent");
    assert_eq!(log.revision(), Revision { place: first.place + 4, ..first });
}

#[test]
fn the_history_is_as_long_as_it_was_asked_for() {
    let memory = Memory::with_limits(Limits { history_bytes: 4096, ..Limits::default() });
    let log = memory.changes().expect("it has one");
    let first = log.revision();
    let since = |revision| log.watch(Watched::Prefix("".into()), Some(revision)).read();
    set(&memory, "a", 1).unwrap();
    assert!(matches!(since(first), Read::Changes(_)));
    let held = memory.held();
    for _ in 0..4096 {
        set(&memory, "a", 1).unwrap();
    }
    assert_eq!(since(first), Read::Reborn);
    assert_eq!(memory.held(), held, "it is no part of the account");
}

fn sets(keys: &[&str], bytes: usize) -> Vec<(Key, BatchOp)> {
    keys.iter().map(|text| (key(text), BatchOp::Set(entry(bytes)))).collect()
}

/// Many entries that may be seen one by one keep none of the maps locked for long: those
/// before the one that waits for a map are there.
#[test]
fn of_many_entries_each_has_its_own_map_locked_alone() {
    let memory = Memory::new();
    let shard = |text: &str| memory.0.hashed(text).shard(KEYS_SHARDS);
    // Whoever locked the maps in order would begin with the other one.
    let numbers = (0..).map(|number: u32| number.to_string());
    let one = numbers.clone().find(|text| shard(text) > shard("other")).unwrap();
    let held = read(&memory.0.shards[shard("other")].map);
    thread::scope(|scope| {
        let each = scope.spawn(|| memory.perform(Op::Each(sets(&[&one, "other"], 10))));
        wait_until("waiting for the first", || value_bytes(&memory, &one).is_some());
        drop(held);
        let effects = each.join().expect("it does not panic");
        assert!(matches!(effects, Ok(Effect::Batch(effects)) if effects.len() == 2));
    });
    assert_eq!(value_bytes(&memory, "other"), Some(10));
}

/// Where room is scarce all of many entries are stored, or none.
#[test]
fn of_many_entries_none_is_stored_where_one_has_no_room() {
    let memory = Memory::with_max(1 << 20);
    let keys: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let each = |bytes| memory.perform(Op::Each(sets(&keys, bytes)));
    assert_eq!(each(100_000).err(), Some(Error::Full));
    assert!(keys.iter().all(|text| value_bytes(&memory, text).is_none()));
    // What may not fit at first sight is stored if it does.
    for bytes in [100, 40_000, 20_000] {
        assert!(each(bytes).is_ok());
        assert!(keys.iter().all(|text| value_bytes(&memory, text) == Some(bytes)));
    }
    assert_eq!(memory.held(), counted(&memory));
}

#[test]
fn no_key_and_no_byte_is_lost_where_keys_come_and_go_and_passes_are_made() {
    // Fewer leave tables that are too small to be worn out.
    const KEYS: usize = 25_000;
    let (memory, mut living) = (Memory::new(), Vec::new());
    // What has gone leaves room in slabs that what comes has no use for.
    let bytes = |number| if number % 3 == 0 { 40 + number * 4 / KEYS * 30 } else { 100 };
    let mut moved = 0;
    for number in 0..3 * KEYS {
        set(&memory, &number.to_string(), bytes(number)).unwrap();
        living.push(number);
        if living.len() > KEYS {
            // One anywhere, about.
            let at = number.wrapping_mul(2_654_435_761) % living.len();
            delete(&memory, &living.swap_remove(at).to_string());
        }
        if number > KEYS && number % (KEYS / 4) == 0 {
            moved += memory.0.defragment();
            assert_eq!(memory.held(), counted(&memory));
            for number in &living {
                let found = memory.get(&key(&number.to_string())).unwrap();
                assert_eq!(found, Some(entry(bytes(*number))), "{number}");
            }
        }
    }
    assert!(!crate::platform::size_classes::HAS_SLABS || moved > 0);
}

/// Each key of it is looked up, so a page as long as others would take several times as long.
#[test]
fn pages_of_an_export_are_short_and_none_is_left_out() {
    let memory = Memory::new();
    let keys: Vec<String> = (0..600).map(|number| format!("{number:03}")).collect();
    for name in &keys {
        memory.set(key(name), entry(5)).unwrap();
    }
    let mut listing = Listing { with_entries: true, moment: Moment::Hold, ..pages_of(1000) };
    let (mut lengths, mut listed) = (Vec::new(), Vec::new());
    loop {
        let page = memory.list(listing.clone()).unwrap();
        lengths.push(page.entries().len());
        listed.extend(page.keys().map(str::to_owned));
        let Some(start) = page.next else { break };
        listing =
            Listing { range: Range { start, ..listing.range }, moment: page.moment, ..listing };
    }
    assert_eq!((lengths, listed), (vec![250, 250, 100], keys));
    let page = memory.list(Listing { with_entries: true, ..pages_of(1000) }).unwrap();
    assert_eq!(page.len(), 600, "a page of a client's is of one moment");
}
