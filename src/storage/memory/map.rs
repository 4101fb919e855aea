//! The map of a shard: a few hash tables of equal size.
//!
//! ```text
//! hash of a key ──► table ──► entry        3 tables, 4, 5, 3 of twice the size, 4, ...
//! ```
//!
//! The tables of a [`HashMap`] have a power of two of buckets, and one that has just
//! doubled is less than half full. So a map of more than some keys is spread over three
//! to five of them: it grows by a third, a quarter and a fifth, and stays above six
//! tenths. A layout is the number and the size of the tables; all keys move where it
//! changes. Whoever adds keys asks for the growth before, pays for it and has it done.
//!
//! A key comes with its hash, which is computed once for the shard, the table and the
//! bucket.

use super::packed::Packed;
use crate::platform::size_classes::allocated;
use crate::storage::Entry;
use bytes::Bytes;
use hashbrown::hash_map::EntryRef;
use hashbrown::{Equivalent, HashMap};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::mem;
use std::ops::Range;

/// The most tables of a map.
const TABLES_MAX: usize = 5;

/// The least tables of a map that has several.
const TABLES_MIN: usize = 3;

/// A single table doubles up to this size. In several small ones chance would have one
/// full long before the others.
const SINGLE_BUCKETS_MAX: usize = 128;

/// The size up to which a map does not shrink, in buckets.
const BUCKETS_WORTH_KEEPING: usize = 16;

/// The control bytes that a table compares at once.
const GROUP_BYTES: usize = 16;

/// Entries of packed keys and values; a map has no value beside them.
type Table = HashMap<Packed, (), Keyed>;

/// Entries by their keys.
pub struct Map {
    /// Those of the layout; the others are empty.
    tables: [Table; TABLES_MAX],
    layout: Layout,
    /// With fewer keys a smaller layout is tried.
    sparse_below: usize,
    hasher: Keyed,
}

/// A key with its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hashed<'a> {
    key: &'a str,
    hash: u64,
}

/// Hashes keys with a secret, and passes on the hash of a [`Hashed`].
#[derive(Clone, Default)]
pub struct Keyed(RandomState);

pub struct KeyHasher {
    of_bytes: DefaultHasher,
    known: Option<u64>,
}

/// The layout that keys need which are about to come.
pub struct Growth {
    layout: Layout,
    /// The hashes of all keys of the map, table by table.
    hashes: Vec<u64>,
    before: u64,
}

/// A number of tables and the size of each in buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    tables: usize,
    buckets: usize,
}

impl Keyed {
    /// A key with its hash.
    pub fn hashed<'a>(&self, key: &'a str) -> Hashed<'a> {
        let mut hasher = self.0.build_hasher();
        hasher.write(key.as_bytes());
        Hashed { key, hash: hasher.finish() }
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { of_bytes: self.0.build_hasher(), known: None }
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.of_bytes.write(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.known = Some(hash);
    }

    fn finish(&self) -> u64 {
        self.known.unwrap_or_else(|| self.of_bytes.finish())
    }
}

impl<'a> Hashed<'a> {
    /// The key.
    pub fn key(self) -> &'a str {
        self.key
    }

    /// The hash.
    pub fn hash(self) -> u64 {
        self.hash
    }

    /// The number of its shard, of so many.
    pub fn shard(self, shards: usize) -> usize {
        // A table probes by the top and the bottom bits.
        (self.hash >> 24) as usize % shards
    }
}

impl Hash for Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Packed> for Hashed<'_> {
    fn equivalent(&self, packed: &Packed) -> bool {
        self.key == packed.key()
    }
}

impl Layout {
    const EMPTY: Self = Self { tables: 1, buckets: 0 };

    /// The next larger one.
    fn next(self) -> Self {
        let Self { tables, buckets } = self;
        match tables {
            1 if buckets < SINGLE_BUCKETS_MAX => Self { tables, buckets: (buckets * 2).max(4) },
            1 => Self { tables: TABLES_MIN, buckets: buckets / 2 },
            TABLES_MAX => Self { tables: TABLES_MIN, buckets: buckets * 2 },
            _ => Self { tables: tables + 1, buckets },
        }
    }

    /// The next smaller one.
    fn previous(self) -> Self {
        let Self { tables, buckets } = self;
        match tables {
            1 => Self { tables, buckets: if buckets > 4 { buckets / 2 } else { 0 } },
            TABLES_MIN if buckets <= SINGLE_BUCKETS_MAX / 2 => {
                Self { tables: 1, buckets: buckets * 2 }
            }
            TABLES_MIN => Self { tables: TABLES_MAX, buckets: buckets / 2 },
            _ => Self { tables: tables - 1, buckets },
        }
    }

    fn buckets(self) -> usize {
        self.tables * self.buckets
    }

    /// The most keys of a table.
    fn capacity(self) -> usize {
        if self.buckets <= 8 { self.buckets.saturating_sub(1) } else { self.buckets / 8 * 7 }
    }

    /// The table of a hash.
    fn table(self, hash: u64) -> usize {
        // Of bits that neither the shard nor the bucket depends on.
        let bits = (hash >> 34) as usize & 0xffff;
        (bits * self.tables) >> 16
    }

    /// The keys below which a smaller layout is tried: those of a load of six tenths,
    /// or fewer where they would fill the smaller one by more than eight.
    fn sparse_below(self) -> usize {
        if self.buckets() <= BUCKETS_WORTH_KEEPING {
            return 0;
        }
        (self.buckets() * 6 / 10).min(self.previous().buckets() * 8 / 10)
    }

    /// Returns true if each of its tables has place for its part of some keys, and for
    /// so many more.
    fn holds(self, hashes: impl Iterator<Item = u64>, spare: usize) -> bool {
        let mut counts = [0; TABLES_MAX];
        for hash in hashes {
            if let Some(count) = counts.get_mut(self.table(hash)) {
                *count += 1;
            }
        }
        counts.iter().all(|count| count + spare <= self.capacity())
    }

    /// The bytes of its tables.
    fn bytes(self) -> u64 {
        if self.buckets == 0 {
            return 0;
        }
        // The entries, aligned to a group of control bytes, those, and one group more.
        let entries = (self.buckets * size_of::<Packed>()).next_multiple_of(GROUP_BYTES);
        (self.tables * allocated(entries + self.buckets + GROUP_BYTES)) as u64
    }
}

impl Growth {
    /// The bytes that the map grows by.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes() - self.before
    }
}

impl Map {
    /// An empty map.
    pub fn new(hasher: Keyed) -> Self {
        let tables = std::array::from_fn(|_| Table::with_hasher(hasher.clone()));
        Self { tables, layout: Layout::EMPTY, sparse_below: 0, hasher }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// The bytes of its tables.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// The entry under a key.
    pub fn get(&self, key: Hashed<'_>) -> Option<&Packed> {
        let table = self.tables.get(self.layout.table(key.hash))?;
        table.get_key_value(&key).map(|(packed, ())| packed)
    }

    /// All entries, table by table.
    pub fn iter(&self) -> impl Iterator<Item = &Packed> {
        self.tables.iter().flat_map(Table::keys)
    }

    /// Up to so many entries of one table, neighbours from a random place on.
    pub fn sample(&self, random: u64, most: usize) -> impl Iterator<Item = &Packed> {
        let table = self.tables.get(self.layout.table(random));
        let keys = table.map_or(0, Table::len);
        let skipped = ((random & 0xff_ffff) as usize * keys) >> 24;
        let all = move || table.into_iter().flat_map(Table::keys);
        all().skip(skipped).chain(all()).take(most.min(keys))
    }

    /// The entries of some places in the order of the tables.
    pub fn part(&self, part: Range<usize>) -> impl Iterator<Item = &Packed> {
        self.iter().skip(part.start).take(part.len())
    }

    /// Moves what some entries of a part are kept in, where the address is chosen and nobody
    /// else has the entry. Returns the bytes that were moved.
    pub fn relocate_part(
        &mut self,
        part: Range<usize>,
        is_in: impl Fn(&Packed) -> bool,
        is_chosen: impl Fn(usize) -> bool,
    ) -> usize {
        let entries = self.part(part).filter(|packed| !packed.is_shared() && is_in(packed));
        let entries: Vec<Packed> = entries.cloned().collect();
        let (hasher, mut text, mut moved) = (self.hasher.clone(), String::new(), 0);
        let nothing = Entry::undigested(Bytes::new());
        for packed in entries {
            text.clear();
            text.push_str(packed.key());
            drop(packed);
            let key = hasher.hashed(&text);
            // Another one has its bucket while it moves: a table wears out in which entries
            // come and go.
            if let Some(mut packed) = self.replace(key, Packed::new(&text, &nothing)) {
                moved += packed.relocate(&is_chosen);
                self.replace(key, packed);
            }
        }
        moved
    }

    /// Puts an entry in place of the one under the same key, which is returned.
    pub fn replace(&mut self, key: Hashed<'_>, packed: Packed) -> Option<Packed> {
        let table = self.tables.get_mut(self.layout.table(key.hash))?;
        match table.entry_ref(&key) {
            EntryRef::Occupied(mut entry) => Some(entry.replace_key(packed)),
            EntryRef::Vacant(_) => None,
        }
    }

    /// Adds an entry under a key that is absent. There is place for it.
    pub fn insert(&mut self, key: Hashed<'_>, packed: Packed) {
        let table = self.tables.get_mut(self.layout.table(key.hash));
        let table = table.expect("the number is below that of the tables");
        match table.entry_ref(&key) {
            EntryRef::Vacant(entry) => {
                entry.insert_with_key(packed, ());
            }
            EntryRef::Occupied(_) => unreachable!("the key was absent"),
        }
    }

    /// Removes the entry under a key. The map may be due to [shrink](Self::shrink) since.
    pub fn remove(&mut self, key: Hashed<'_>) -> Option<Packed> {
        let table = self.tables.get_mut(self.layout.table(key.hash))?;
        table.remove_entry(&key).map(|(packed, ())| packed)
    }

    /// The growth before keys of these hashes can come, if there is one. A map that is
    /// only worn by removals does not grow, but is laid out anew.
    pub fn growth_for(&self, new: &[u64]) -> Option<Growth> {
        let has_place = |(number, table): (usize, &Table)| {
            let coming = new.iter().filter(|hash| self.layout.table(**hash) == number).count();
            table.len() + coming <= table.capacity()
        };
        if self.tables.iter().enumerate().all(has_place) {
            return None;
        }
        let hashes = self.hashes();
        let all = || hashes.iter().chain(new).copied();
        let mut layout = self.layout;
        // With an eighth to spare this does not happen again soon.
        while !layout.holds(all(), layout.capacity() / 8) {
            layout = layout.next();
        }
        Some(Growth { layout, hashes, before: self.bytes() })
    }

    /// Does a growth of this map. Nothing has changed in it since.
    pub fn grow(&mut self, growth: &Growth) {
        self.lay_out(growth.layout, &growth.hashes);
    }

    /// Moves the keys to smaller tables if they leave much of these free.
    pub fn shrink(&mut self) {
        let keys = self.len();
        if keys >= self.sparse_below {
            return;
        }
        let (hashes, layout) = (self.hashes(), self.layout.previous());
        // With some to spare the next keys do not make it grow again.
        if !layout.holds(hashes.iter().copied(), layout.capacity() / 16) {
            self.sparse_below = keys - keys / 16;
            return;
        }
        self.lay_out(layout, &hashes);
    }

    fn hashes(&self) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(self.len());
        hashes.extend(self.iter().map(|packed| self.hasher.hashed(packed.key()).hash));
        hashes
    }

    fn lay_out(&mut self, layout: Layout, hashes: &[u64]) {
        let fresh = std::array::from_fn(|number| {
            let capacity = if number < layout.tables { layout.capacity() } else { 0 };
            Table::with_capacity_and_hasher(capacity, self.hasher.clone())
        });
        let tables = mem::replace(&mut self.tables, fresh);
        (self.layout, self.sparse_below) = (layout, layout.sparse_below());
        let entries = tables.into_iter().flat_map(Table::into_keys);
        for (packed, hash) in entries.zip(hashes) {
            let key = packed.clone();
            self.insert(Hashed { key: key.key(), hash: *hash }, packed);
        }
    }
}

#[cfg(test)]
impl Map {
    /// The bytes of its tables, as these tell.
    pub fn counted_bytes(&self) -> u64 {
        let bytes = self.tables.iter().map(Table::allocation_size).filter(|bytes| *bytes > 0);
        bytes.map(|bytes| allocated(bytes) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
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
        let address = |map: &Map, number: usize| {
            map.get(keyed.hashed(&number.to_string())).map(Packed::address)
        };
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
            let is_full = map.tables.iter().any(|table| {
                table.len() > BUCKETS_WORTH_KEEPING && table.len() == table.capacity()
            });
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
}
