use super::*;
use crate::storage::Entry;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn packed(key: &str, value: &str) -> Packed {
    Packed::new(key, &Entry::new(value.to_owned().into()))
}

fn value(packed: &Packed) -> String {
    String::from_utf8(packed.clone().into_entry().value().to_vec()).unwrap()
}

/// Puts an entry where a key may be new, as the engine does.
fn put(map: &mut Map, keyed: &Keyed, key: &str, text: &str) {
    let hashed = keyed.hashed(key);
    if map.get(hashed).is_some() {
        assert!(map.replace(hashed, packed(key, text)).is_some());
        return;
    }
    if let Some(growth) = map.growth_for(&[hashed.hash()]) {
        let (before, bytes) = (map.bytes(), growth.bytes());
        map.grow(&growth);
        assert_eq!(map.bytes(), before + bytes);
    }
    map.insert(hashed, packed(key, text));
    assert_eq!(map.bytes(), map.counted_bytes());
}

fn remove(map: &mut Map, keyed: &Keyed, key: &str) -> Option<Packed> {
    let removed = map.remove(keyed.hashed(key));
    map.shrink();
    assert_eq!(map.bytes(), map.counted_bytes());
    removed
}

/// The part of its buckets that is used, in hundredths.
fn load(map: &Map) -> usize {
    map.len() * 100 / map.layout.buckets()
}

#[test]
fn it_is_never_much_less_full_than_six_tenths_for_long() {
    const FEW: usize = 1000;
    const KEYS: usize = 40_000;
    let keyed = Keyed::default();
    let mut map = Map::new(keyed.clone());
    let (mut layouts, mut least) = (BTreeSet::new(), 100);
    for number in 0..KEYS {
        put(&mut map, &keyed, &number.to_string(), "");
        layouts.insert((map.layout.buckets, map.layout.tables));
        if number > FEW {
            least = least.min(load(&map));
        }
    }
    assert!(least >= 58, "{least}");
    assert!(layouts.len() > 20, "{layouts:?}");
    for number in FEW..KEYS {
        assert!(remove(&mut map, &keyed, &number.to_string()).is_some());
        least = least.min(load(&map));
    }
    assert!(least >= 45, "{least}");
    for number in 0..FEW {
        assert!(map.get(keyed.hashed(&number.to_string())).is_some());
        remove(&mut map, &keyed, &number.to_string());
    }
    assert!(map.layout.buckets() <= BUCKETS_WORTH_KEEPING, "{:?}", map.layout);
}

#[test]
fn each_layout_is_between_its_neighbours() {
    let mut layout = Layout::EMPTY;
    for _ in 0..40 {
        let next = layout.next();
        assert!(next.buckets() > layout.buckets(), "{layout:?}");
        assert_eq!(next.previous(), layout);
        if layout.tables > 1 {
            assert!(layout.buckets() * 4 >= next.buckets() * 3, "{layout:?}");
        }
        layout = next;
    }
}

/// Removed keys leave traces in a table, which must not make it grow.
#[test]
fn replacing_keys_by_others_does_not_make_it_grow() {
    const KEYS: usize = 2000;
    let keyed = Keyed::default();
    let mut map = Map::new(keyed.clone());
    for number in 0..KEYS {
        put(&mut map, &keyed, &number.to_string(), "");
    }
    for number in 0..20 * KEYS {
        remove(&mut map, &keyed, &number.to_string());
        put(&mut map, &keyed, &(number + KEYS).to_string(), "");
    }
    assert_eq!(map.len(), KEYS);
    assert!(load(&map) >= 58, "{:?}", map.layout);
}

#[test]
fn keys_that_come_and_go_do_not_move_the_others_each_time() {
    const ROUNDS: usize = 5000;
    let keyed = Keyed::default();
    for keys in [40, 140, 150, 200, 260, 350, 500, 800] {
        let mut map = Map::new(keyed.clone());
        for number in 0..keys {
            put(&mut map, &keyed, &number.to_string(), "");
        }
        let mut moves = 0;
        for number in keys..keys + ROUNDS {
            let key = number.to_string();
            moves += usize::from(map.growth_for(&[keyed.hashed(&key).hash()]).is_some());
            put(&mut map, &keyed, &key, "");
            let layout = map.layout;
            assert!(remove(&mut map, &keyed, &(number - keys).to_string()).is_some());
            moves += usize::from(map.layout != layout);
        }
        assert!(moves <= ROUNDS / 8, "{moves} for {keys} keys");
    }
}

#[test]
fn samples_come_from_everywhere_and_are_neighbours() {
    const KEYS: usize = 500;
    let keyed = Keyed::default();
    let mut map = Map::new(keyed.clone());
    assert_eq!(map.sample(7, 5).count(), 0);
    for number in 0..KEYS {
        put(&mut map, &keyed, &number.to_string(), "");
    }
    let mut seen = BTreeSet::new();
    for number in 0..100_000_u32 {
        // Any numbers will do that are mixed well.
        let random = keyed.hashed(&format!("random {number}")).hash();
        let sample: Vec<&str> = map.sample(random, 4).map(Packed::key).collect();
        assert_eq!(sample.iter().collect::<BTreeSet<_>>().len(), 4);
        seen.extend(sample.into_iter().map(str::to_owned));
        if seen.len() == KEYS {
            return;
        }
    }
    panic!("{} of {KEYS}", seen.len());
}

#[test]
fn entries_move_that_nobody_reads() {
    const KEYS: usize = 300;
    let keyed = Keyed::default();
    let mut map = Map::new(keyed.clone());
    for number in 0..KEYS {
        put(&mut map, &keyed, &number.to_string(), &format!("value {number}"));
    }
    let address =
        |map: &Map, number: usize| map.get(keyed.hashed(&number.to_string())).map(Packed::address);
    let before: Vec<_> = (0..KEYS).map(|number| address(&map, number)).collect();
    let _read = map.get(keyed.hashed("7")).cloned();
    let is_in = |packed: &Packed| packed.key().ends_with('7');
    assert_eq!(map.relocate_part(0..KEYS, is_in, |_| false), 0);
    assert!(map.relocate_part(0..KEYS, is_in, |_| true) > 0);
    for (number, before) in before.into_iter().enumerate() {
        let is_moved = number % 10 == 7 && number != 7;
        assert_eq!(address(&map, number) != before, is_moved, "{number}");
        let packed = map.get(keyed.hashed(&number.to_string()));
        assert_eq!(packed.map(value), Some(format!("value {number}")));
    }
    assert_eq!(map.len(), KEYS);
}

#[test]
fn full_tables_from_which_much_was_removed_stay_as_they_are_while_entries_move() {
    const KEYS: usize = 900;
    let keyed = Keyed::default();
    let mut map = Map::new(keyed.clone());
    let spare = |map: &Map| -> usize {
        map.tables.iter().map(|table| table.capacity() - table.len()).sum()
    };
    let mut full = 0;
    for number in 0..6 * KEYS {
        put(&mut map, &keyed, &number.to_string(), "value");
        if number < KEYS {
            continue;
        }
        map.remove(keyed.hashed(&(number - KEYS).to_string()));
        map.shrink();
        let is_full = map
            .tables
            .iter()
            .any(|table| table.len() > BUCKETS_WORTH_KEEPING && table.len() == table.capacity());
        if is_full || number % 100 == 0 {
            full += usize::from(is_full);
            let before = (spare(&map), map.bytes());
            assert!(map.relocate_part(0..KEYS, |_| true, |_| true) > 0);
            assert_eq!((spare(&map), map.bytes()), before);
            assert_eq!(map.counted_bytes(), map.bytes());
            let keys = (number - KEYS + 1..=number).map(|number| number.to_string());
            assert!(keys.into_iter().all(|key| map.get(keyed.hashed(&key)).is_some()));
        }
    }
    assert!(full > 0, "no table was full");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_a_sorted_map(
        calls in prop::collection::vec((0..400_u16, any::<bool>(), 1..40_usize), 0..150),
    ) {
        let keyed = Keyed::default();
        let (mut map, mut model) = (Map::new(keyed.clone()), BTreeMap::new());
        // Each call is for a run of keys, so that maps grow and shrink.
        for (number, (first, is_put, run)) in calls.into_iter().enumerate() {
            for name in usize::from(first)..usize::from(first) + run {
                let (name, text) = (name.to_string(), number.to_string());
                if is_put {
                    put(&mut map, &keyed, &name, &text);
                    model.insert(name, text);
                } else {
                    let removed = remove(&mut map, &keyed, &name);
                    prop_assert_eq!(removed.as_ref().map(value), model.remove(&name));
                }
            }
            prop_assert_eq!(map.len(), model.len());
        }
        let all: BTreeMap<String, String> =
            map.iter().map(|packed| (packed.key().to_owned(), value(packed))).collect();
        prop_assert_eq!(&all, &model);
        for (name, text) in &model {
            prop_assert_eq!(map.get(keyed.hashed(name)).map(value), Some(text.clone()));
        }
    }
}
