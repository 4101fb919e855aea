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
mod tests;
