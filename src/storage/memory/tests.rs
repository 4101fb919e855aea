//! The account of the memory held, and its maximum. What every engine
//! promises is tested in `tests/storage.rs`, and the account against the
//! process's real memory in `tests/memory.rs`.

use super::{Bytes, Entry, Error, KEYS_SHARDS, Key, Memory, Storage, Stored, allocated, read};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn entry(bytes: usize) -> Entry {
    Entry::new(vec![b'x'; bytes].into())
}

fn set(memory: &Memory, text: &str, bytes: usize) -> Result<(), Error> {
    memory.set(key(text), entry(bytes))
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

fn value_bytes(memory: &Memory, text: &str) -> Option<usize> {
    memory.get(&key(text)).unwrap().map(|entry| entry.value().len())
}

/// What the account should say: every entry and table, counted one by one.
fn counted(memory: &Memory) -> u64 {
    let shards = memory.shards.iter().map(|shard| {
        let map = read(shard);
        let entries: u64 = map.iter().map(|(key, stored)| stored.cost(key)).sum();
        entries + map.allocation_size() as u64
    });
    shards.sum()
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
        let most = least + 500;
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
fn the_map_spends_two_words_on_a_key_and_two_on_an_entry() {
    assert_eq!(size_of::<(Box<str>, Stored)>(), 4 * size_of::<usize>());
}

#[test]
fn the_allocator_gives_steps_of_sixteen() {
    for (asked, given) in [(1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (1000, 1008)] {
        assert_eq!(allocated(asked), given, "{asked} bytes");
    }
}

#[test]
fn keys_are_spread_over_all_maps() {
    const KEYS_PER_SHARD: usize = 100;
    let memory = Memory::new();
    for index in 0..KEYS_PER_SHARD * KEYS_SHARDS {
        set(&memory, &index.to_string(), 1).unwrap();
    }
    let sizes: Vec<usize> = memory.shards.iter().map(|shard| read(shard).len()).collect();
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
    let left: usize = memory.shards.iter().map(|shard| read(shard).len()).sum();
    assert!(left > fitted * 9 / 10, "{left} of {fitted}");
    assert_eq!(memory.held(), counted(&memory));
}
