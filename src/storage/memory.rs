//! The engine that keeps everything in memory: hash maps behind locks.
//!
//! A map that grows moves all its keys while it is locked, so the keys are
//! spread over many small maps and no growth is ever long. What an entry
//! needs is allocated before a lock is taken and freed after it is given
//! back; under a lock there are pointers to move and one hash probe.

use super::{Entry, Error, Key, Storage};
use bytes::Bytes;
use hashbrown::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many maps the keys are spread over. At a hundred million keys one map
/// holds a hundred thousand and moves them in some milliseconds.
pub const KEYS_SHARDS: usize = 1024;

/// A value up to this size is copied into one compact block; a larger one
/// keeps the buffer that it arrived in.
const COMPACT_BYTES_MAX: usize = 4096;

/// The in-memory engine. A clone is another handle on the same keys.
#[derive(Clone)]
pub struct Memory {
    shards: Arc<[RwLock<Map>]>,
    hasher: RandomState,
    account: Arc<Account>,
}

type Map = HashMap<Box<str>, Stored, RandomState>;

/// An entry as the map holds it: two words, and no metadata for a plain one.
#[derive(Clone)]
enum Stored {
    /// One byte that says whether it is text, then the value's bytes.
    Compact(Arc<[u8]>),
    /// An entry whose value is too large to be worth a copy.
    Whole(Arc<Entry>),
}

impl Stored {
    fn new(entry: Entry) -> Self {
        let value = entry.value();
        if value.len() > COMPACT_BYTES_MAX {
            return Self::Whole(Arc::new(entry));
        }
        let mut block = Vec::with_capacity(1 + value.len());
        block.push(u8::from(entry.is_text()));
        block.extend_from_slice(value);
        Self::Compact(block.into())
    }

    fn into_entry(self) -> Entry {
        match self {
            Self::Whole(entry) => Entry::clone(&entry),
            Self::Compact(block) => {
                let text = block.first() == Some(&1);
                Entry { value: Bytes::from_owner(block).slice(1..), text }
            }
        }
    }

    /// The bytes that the allocator gives for this entry and its key.
    fn cost(&self, key: &str) -> u64 {
        let value = match self {
            Self::Compact(block) => allocated(ARC_HEADER_BYTES + block.len()),
            Self::Whole(entry) => {
                allocated(ARC_HEADER_BYTES + size_of::<Entry>())
                    + allocated(BYTES_HEADER_BYTES)
                    + allocated(entry.value().len())
            }
        };
        allocated(key.len()) + value
    }
}

/// The two counters in front of what an `Arc` points to.
const ARC_HEADER_BYTES: usize = 16;

/// What `Bytes` allocates beside a buffer once it is shared.
const BYTES_HEADER_BYTES: usize = 24;

/// The bytes that a request for `size` takes from a general-purpose allocator:
/// a header of 8, steps of 16, never under 32.
fn allocated(size: usize) -> u64 {
    ((size + 8).next_multiple_of(16)).max(32) as u64
}

/// How many bytes are held and how many may be.
struct Account {
    held: AtomicU64,
    max: u64,
}

impl Account {
    /// Exchanges `freed` bytes for `taken` more. Refuses, and changes nothing,
    /// if the account grows and would pass its maximum.
    fn exchange(&self, freed: u64, taken: u64) -> Result<(), Error> {
        let fits = |held: u64| {
            let after = held.saturating_sub(freed).saturating_add(taken);
            (after <= self.max || taken <= freed).then_some(after)
        };
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(drop)
            .map_err(|_held| Error::Full)
    }

    /// Replaces `before` bytes by `after` whatever the maximum says.
    fn record(&self, before: u64, after: u64) {
        // In one step, so that nobody sees the sum pass the maximum. Wrapping
        // around makes an addition of a difference below zero.
        self.held.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Memory {
    /// An empty store without a limit of its own.
    pub fn new() -> Self {
        Self::with_max(u64::MAX)
    }

    /// An empty store that refuses a write once keys, values and overhead
    /// come to more than `max` bytes.
    pub fn with_max(max: u64) -> Self {
        let hasher = RandomState::new();
        let empty = || RwLock::new(Map::with_hasher(hasher.clone()));
        let shards = std::iter::repeat_with(empty).take(KEYS_SHARDS).collect();
        let account = Arc::new(Account { held: AtomicU64::new(0), max });
        Self { shards, hasher, account }
    }

    /// The bytes held: keys, values and overhead, as the allocator gives them.
    pub fn held(&self) -> u64 {
        self.account.held.load(Ordering::Relaxed)
    }

    /// Makes room in a map that is full of the traces of deleted keys, which
    /// would double otherwise though it has not more keys than before.
    fn rebuild_if_worn(&self, map: &mut Map) {
        if map.len() < map.capacity() || map.is_empty() {
            return;
        }
        // With an eighth to spare this does not happen again soon.
        let wanted = map.len() + map.len() / 8 + 1;
        let mut fresh = Map::with_capacity_and_hasher(wanted, self.hasher.clone());
        let (before, after) = (map.allocation_size(), fresh.allocation_size());
        if after <= before {
            fresh.extend(map.drain());
            *map = fresh;
            self.account.record(before as u64, after as u64);
        }
    }

    fn shard(&self, key: &Key) -> &RwLock<Map> {
        // The maps probe with the same hash, from its top and bottom bits; the
        // shard is chosen by the middle so that each map still sees all of those.
        let index = (self.hasher.hash_one(key.as_str()) >> 24) as usize % KEYS_SHARDS;
        self.shards.get(index).expect("the index is below the number of shards")
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

// A poisoned map is still whole: every critical section below is one map
// call, so a panic cannot leave it half changed.

fn read(shard: &RwLock<Map>) -> RwLockReadGuard<'_, Map> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Map>) -> RwLockWriteGuard<'_, Map> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Memory {
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let stored = read(self.shard(key)).get(key.as_str()).cloned();
        Ok(stored.map(Stored::into_entry))
    }

    fn set(&self, key: Key, entry: Entry) -> Result<(), Error> {
        let stored = Stored::new(entry);
        let taken = stored.cost(key.as_str());

        let mut map = write(self.shard(&key));
        let replaced = if let Some(old) = map.get_mut(key.as_str()) {
            self.account.exchange(old.cost(key.as_str()), taken)?;
            Some(mem::replace(old, stored))
        } else {
            self.rebuild_if_worn(&mut map);
            // A full map doubles for one key more.
            let tables = map.allocation_size();
            let is_full = map.len() == map.capacity();
            let growth = if is_full { tables.max(MAP_BYTES_MIN) } else { 0 };
            self.account.exchange(0, taken + growth as u64)?;
            map.insert(key.0, stored);
            self.account.record((tables + growth) as u64, map.allocation_size() as u64);
            None
        };
        drop(map);

        drop(replaced);
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        let mut map = write(self.shard(key));
        let removed = map.remove_entry(key.as_str());
        if let Some((_, old)) = &removed {
            self.account.record(old.cost(key.as_str()), 0);
            give_back(&mut map, &self.account);
        }
        drop(map);

        drop(removed);
        Ok(())
    }

    fn clear(&self) -> Result<(), Error> {
        // All locks at once make it one moment for every key. The others take
        // one lock each, so nobody waits in a circle.
        let mut maps: Vec<_> = self.shards.iter().map(write).collect();
        let emptied: Vec<Map> = maps
            .iter_mut()
            .map(|map| {
                let empty = Map::with_hasher(map.hasher().clone());
                mem::replace(&mut **map, empty)
            })
            .collect();
        let freed = self.account.held.swap(0, Ordering::Relaxed);
        drop(maps);

        log::debug!("clearing {freed} bytes");
        drop(emptied);
        Ok(())
    }
}

/// The first allocation of a map, about: four places and their control bytes.
const MAP_BYTES_MIN: usize = 4 * size_of::<(Box<str>, Stored)>() + 32;

/// Shrinks a map of which deletions have left less than an eighth in use.
fn give_back(map: &mut Map, account: &Account) {
    const KEYS_WORTH_SHRINKING: usize = 64;
    if map.capacity() > KEYS_WORTH_SHRINKING && map.len() < map.capacity() / 8 {
        let before = map.allocation_size();
        map.shrink_to(map.len() * 2);
        account.record(before as u64, map.allocation_size() as u64);
    }
}

#[cfg(test)]
mod tests;
