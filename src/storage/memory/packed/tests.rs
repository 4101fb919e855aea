use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

/// Lengths at the edges of forms and classes.
const VALUE_BYTES: [usize; 18] =
    [0, 1, 83, 84, 100, 101, 119, 120, 183, 184, 1000, 1008, 1009, 1024, 4080, 4096, 4097, 65536];

/// An entry of so many bytes, of which each is another one.
fn entry(bytes: usize, is_text: bool, type_bytes: Option<usize>, expires: bool) -> Entry {
    let first = if is_text { b'a' } else { 0xf0 };
    let value: Vec<u8> = (0..bytes).map(|at| first + u8::try_from(at % 16).unwrap()).collect();
    let content_type = type_bytes.map(|bytes| "t".repeat(bytes).into());
    let expiry = expires.then(|| Time::from_bits(u64::MAX - bytes as u64));
    Entry::new(value.into()).with_content_type(content_type).with_expiry(expiry)
}

/// Asserts that an entry is what was packed.
fn check(packed: &Packed, key: &str, entry: &Entry) {
    assert_eq!((packed.key(), packed.expiry()), (key, entry.expiry()));
    let read = packed.clone().into_entry();
    assert_eq!(&read, entry);
    assert_eq!((read.is_text(), read.digest()), (entry.is_text(), entry.digest()));
}

#[test]
fn a_long_value_has_its_digest_from_the_start() {
    for bytes in [UNDIGESTED_BYTES_MAX + 1, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1] {
        let value = Bytes::from(vec![b'x'; bytes]);
        let found = Packed::new("key", &Entry::undigested(value.clone())).into_entry();
        assert_eq!(found.digest, Some(Entry::new(value).digest()), "{bytes}");
    }
}

#[test]
fn every_form_is_read_back_and_moved() {
    for key_bytes in [1, 16, 40, 1024] {
        let key = "k".repeat(key_bytes);
        for bytes in VALUE_BYTES {
            for (is_text, expires) in [(true, false), (false, true)] {
                for type_bytes in [None, Some(0), Some(10), Some(255)] {
                    let new = || entry(bytes, is_text, type_bytes, expires);
                    // It shares no value with the one that it is compared with.
                    let (mut packed, entry) = (Packed::new(&key, &new()), new());
                    packed.set_access(0x7000_9001);
                    check(&packed, &key, &entry);
                    for [moves_head, moves_value] in
                        [[true, false], [false, true], [true, true], [false, false]]
                    {
                        let ([head, value], sizes) = (packed.addresses(), packed.sizes());
                        let cost = packed.cost();
                        let moved = packed.relocate(|address| {
                            (moves_head && address == head) || (moves_value && address == value)
                        });
                        let fits = sizes[1] <= SHARED_BYTES_MAX;
                        let bytes = if moves_head { sizes[0] } else { 0 }
                            + if moves_value && fits { sizes[1] } else { 0 };
                        assert_eq!(moved, bytes);
                        let [new_head, new_value] = packed.addresses();
                        assert_eq!(new_head != head, moves_head);
                        assert_eq!(new_value != value, moves_value && fits && sizes[1] > 0);
                        assert_eq!(packed.cost(), cost);
                        check(&packed, &key, &entry);
                        assert_eq!(packed.access(), 0x7000_9001);
                    }
                }
            }
        }
    }
}

#[test]
fn short_entries_are_one_allocation_without_a_gap() {
    for (key, bytes, head) in [(16, 100, 126), (16, 10, 36), (1, 0, 11), (1024, 183, 1217)] {
        let packed = Packed::new(&"k".repeat(key), &entry(bytes, true, None, false));
        assert_eq!(packed.layout().size(), head, "{key} + {bytes}");
        assert_eq!(packed.cost(), allocated(head) as u64);
    }
}

#[test]
fn two_allocations_are_made_where_they_cost_less() {
    let cost =
        |key: usize, bytes| Packed::new(&"k".repeat(key), &entry(bytes, true, None, false)).cost();
    let classes =
        |classes: &[usize]| -> u64 { classes.iter().map(|class| allocated(*class) as u64).sum() };
    if cfg!(all(target_os = "linux", not(portable))) {
        // The digest is beside the value where that is no larger for it.
        assert_eq!(cost(40, 1000), classes(&[64, 1024]));
        assert_eq!(cost(40, 1024), classes(&[80, 1024]));
        assert_eq!(cost(16, 4096), classes(&[64, 4096]));
        assert_eq!(cost(16, 900), classes(&[1024]));
    }
}

#[test]
fn a_large_value_stays_in_its_buffer() {
    let value = Bytes::from(vec![b'x'; COPIED_BYTES_MAX + 1]);
    let mut packed = Packed::new("key", &Entry::new(value.clone()));
    let address = |packed: &Packed| packed.clone().into_entry().value().as_ptr();
    assert_eq!(address(&packed), value.as_ptr());
    assert!(packed.relocate(|_| true) < value.len());
    assert_eq!(address(&packed), value.as_ptr(), "somebody else has it");
    let old = value.as_ptr();
    drop(value);
    assert!(packed.relocate(|_| true) > COPIED_BYTES_MAX);
    assert_ne!(address(&packed), old);
    assert!(!packed.is_large());
    let mut packed = Packed::new("key", &Entry::new(vec![b'x'; SMALL_BYTES_MAX + 1].into()));
    let old = address(&packed);
    assert!(packed.is_large());
    packed.relocate(|_| true);
    assert_eq!(address(&packed), old, "it would free nothing");
}

#[test]
fn a_reader_keeps_an_entry_and_nothing_else_does() {
    struct Buffer(Vec<u8>, Arc<AtomicBool>);
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    let freed = Arc::new(AtomicBool::new(false));
    let buffer = Bytes::from_owner(Buffer(vec![b'x'; 5000], Arc::clone(&freed)));
    let packed = Packed::new("key", &Entry::new(buffer));
    let reader = packed.clone();
    assert!(packed.is_shared());
    drop(packed);
    assert!(!reader.is_shared() && !freed.load(Ordering::Relaxed));
    let value = reader.into_entry().value().clone();
    assert!(!freed.load(Ordering::Relaxed));
    drop(value);
    assert!(freed.load(Ordering::Relaxed));

    let packed = Packed::new("key", &entry(100, true, None, false));
    let value = packed.clone().into_entry().value().clone();
    assert!(packed.is_shared());
    drop(packed);
    assert_eq!(value, entry(100, true, None, false).value());
}

#[test]
fn where_very_many_have_an_entry_the_next_is_lent_a_copy() {
    for bytes in [100, 1000] {
        let entry = entry(bytes, true, Some(10), true);
        let packed = Packed::new("key", &entry);
        let lent: Vec<Entry> = (1..LENT_MAX).map(|_| packed.clone().into_entry()).collect();
        assert!(lent.iter().all(|one| one.value().as_ptr() == lent[0].value().as_ptr()));
        assert_eq!(packed.references(), LENT_MAX);
        let copy = packed.clone().into_entry();
        assert_ne!(copy.value().as_ptr(), lent[0].value().as_ptr());
        assert_eq!(copy, entry);
        assert_eq!((copy.is_text(), copy.digest()), (entry.is_text(), entry.digest()));
        // A clone is the same all the while.
        assert!(Packed::are_same(Some(&packed.clone()), Some(&packed)));
        drop(lent);
        assert!(!packed.is_shared());
    }
}

#[test]
#[should_panic(expected = "a key has 1 to 1024 bytes")]
fn a_key_that_is_too_long_has_no_form() {
    Packed::new(&"k".repeat(1025), &entry(1, true, None, false));
}

/// A step in the life of an entry: what is done, and with which of those there are.
type Step = (u8, usize);

/// Lives through some steps with entries that others have, too.
fn live(mut own: Vec<(Packed, Entry)>, steps: &[Step]) {
    for (what, place) in steps {
        if own.is_empty() {
            return;
        }
        let place = place % own.len();
        let (packed, entry) = &mut own[place];
        match what % 4 {
            0 => {
                let other = (packed.clone(), entry.clone());
                own.push(other);
            }
            1 => {
                let is_shared = packed.is_shared();
                let moved = packed.relocate(|_| true);
                assert!(is_shared || moved > 0);
            }
            2 => check(packed, packed.key(), entry),
            _ => drop(own.swap_remove(place)),
        }
    }
    for (packed, entry) in own {
        assert_eq!(packed.into_entry(), entry);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_live_through_any_history_on_several_threads(
        entries in prop::collection::vec(
            (
                prop_oneof![1..60_usize, 1000..1025_usize],
                prop_oneof![0..300_usize, 900..1100_usize, 4000..5000_usize],
                any::<bool>(),
                prop::option::of(0..256_usize),
                any::<bool>(),
            ),
            1..8,
        ),
        histories in prop::collection::vec(
            prop::collection::vec((any::<u8>(), any::<usize>()), 0..60), 3),
    ) {
        let entries: Vec<(Packed, Entry)> = entries
            .into_iter()
            .map(|(key_bytes, bytes, is_text, type_bytes, expires)| {
                let entry = entry(bytes, is_text, type_bytes, expires);
                (Packed::new(&"k".repeat(key_bytes), &entry), entry)
            })
            .collect();
        thread::scope(|scope| {
            for steps in &histories {
                let own = entries.clone();
                scope.spawn(move || live(own, steps));
            }
        });
        for (packed, entry) in &entries {
            prop_assert!(!packed.is_shared());
            check(packed, packed.key(), entry);
        }
    }
}
