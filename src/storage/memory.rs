//! The engine that keeps everything in memory: hash maps behind locks.
//!
//! A map that grows moves all its keys while it is locked, so the keys are
//! spread over many small maps and no growth is ever long. What an entry
//! needs is allocated before a lock is taken and freed after it is given
//! back; under a lock there are pointers to move and one hash probe.

mod account;
mod stored;
mod sweep;

use super::{Change, Decision, Entry, Error, Key, Storage, Time, Updated};
use account::Account;
use hashbrown::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use stored::Stored;
use sweep::Sweeper;

/// How many maps the keys are spread over. At a hundred million keys one map
/// holds a hundred thousand and moves them in some milliseconds.
pub const KEYS_SHARDS: usize = 1024;

/// How often an update decides anew, because somebody else was quicker, until
/// it locks everybody out.
const ROUNDS_MAX: usize = 4;

/// The in-memory engine. A clone is another handle on the same keys.
#[derive(Clone)]
pub struct Memory(Arc<Maps>);

type Map = HashMap<Box<str>, Stored, RandomState>;

/// What all handles share.
struct Maps {
    shards: Box<[Shard]>,
    hasher: RandomState,
    account: Account,
    sweeper: Sweeper,
    /// Held by who sweeps.
    sweeping: Mutex<()>,
}

/// One of the maps.
struct Shard {
    map: RwLock<Map>,
    /// Until this moment, in milliseconds, nothing in the map has expired.
    due: AtomicU64,
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
        let empty = || Shard {
            map: RwLock::new(Map::with_hasher(hasher.clone())),
            due: AtomicU64::new(u64::MAX),
        };
        let shards = std::iter::repeat_with(empty).take(KEYS_SHARDS).collect();
        let (account, sweeper) = (Account::new(max), Sweeper::default());
        Self(Arc::new(Maps { shards, hasher, account, sweeper, sweeping: Mutex::new(()) }))
    }

    /// The bytes held: keys, values and overhead, as the allocator gives them.
    pub fn held(&self) -> u64 {
        self.0.account.held()
    }

    /// Does something that is refused when the store is full; then sweeps away
    /// what has expired, map by map, until it is not refused any more.
    fn with_room<T>(&self, mut write: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let outcome = write();
        if !matches!(outcome, Err(Error::Full)) {
            return outcome;
        }
        // One at a time, or what somebody else is about to remove would be
        // missing from the count.
        let _turn = self.0.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Time::now();
        for shard in self.0.shards.iter().filter(|shard| shard.is_due(now)) {
            self.0.sweep(shard, now);
            let outcome = write();
            if !matches!(outcome, Err(Error::Full)) {
                return outcome;
            }
        }
        // Somebody else may have swept before.
        write()
    }

    /// Decides on a change under the lock, which a slow one needs that others
    /// always come before.
    fn update_locked(&self, key: &Key, change: &mut Change) -> Result<Updated, Error> {
        let shard = self.0.shard(key.as_str());
        let mut map = write(&shard.map);
        let before = map.get(key.as_str()).cloned().and_then(Stored::into_living);
        let (replaced, after) = match change(before.as_ref()) {
            Decision::Keep => (None, before.clone()),
            Decision::Remove => {
                let removed = self.0.remove_from(&mut map, key.as_str());
                (removed.map(|(_, old)| old), None)
            }
            Decision::Replace(entry) => {
                let stored = Stored::new(entry.clone());
                self.watch(&stored);
                (self.0.put_in(shard, &mut map, key.as_str().into(), stored)?, Some(entry))
            }
        };
        drop(map);

        drop(replaced);
        Ok(Updated { before, after })
    }
}

/// What has to be under a key for a change to take place.
#[derive(Clone, Copy)]
enum Expected<'a> {
    /// Whatever there is.
    Anything,
    /// What was found there before, or nothing.
    Same(Option<&'a Stored>),
    /// The same, and it has not expired since.
    Living(&'a Stored),
}

impl Expected<'_> {
    fn is_met(self, current: Option<&Stored>) -> bool {
        match self {
            Self::Anything => true,
            Self::Same(expected) => Stored::are_same(expected, current),
            Self::Living(expected) => Stored::are_same(Some(expected), current) && expected.lives(),
        }
    }
}

impl Shard {
    /// Whether something in it may have expired.
    fn is_due(&self, now: Time) -> bool {
        self.due.load(Ordering::Relaxed) <= now.to_bits()
    }
}

impl Maps {
    fn shard(&self, key: &str) -> &Shard {
        // The maps probe with the same hash, from its top and bottom bits; the
        // shard is chosen by the middle so that each map still sees all of those.
        let index = (self.hasher.hash_one(key) >> 24) as usize % KEYS_SHARDS;
        self.shards.get(index).expect("the index is below the number of shards")
    }

    /// What is stored under a key, expired or not.
    fn stored(&self, key: &Key) -> Option<Stored> {
        read(&self.shard(key.as_str()).map).get(key.as_str()).cloned()
    }

    /// Puts `stored` under `key` if what is there is as `expected`. Says whether
    /// it did.
    fn put(&self, key: &Key, stored: &Stored, expected: Expected<'_>) -> Result<bool, Error> {
        // What may be needed under the lock is made before, and what was
        // replaced goes after.
        let new_key = Box::<str>::from(key.as_str());
        let shard = self.shard(key.as_str());
        let mut map = write(&shard.map);
        if !expected.is_met(map.get(key.as_str())) {
            return Ok(false);
        }
        let replaced = self.put_in(shard, &mut map, new_key, stored.clone());
        drop(map);
        replaced.map(|_dropped| true)
    }

    /// Puts `stored` into a map; gives what it has replaced.
    fn put_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: Box<str>,
        stored: Stored,
    ) -> Result<Option<Stored>, Error> {
        if let Some(expiry) = stored.expiry() {
            shard.due.fetch_min(expiry.to_bits(), Ordering::Relaxed);
        }
        let taken = stored.cost(&key);
        if let Some(old) = map.get_mut(&key) {
            self.account.exchange(old.cost(&key), taken)?;
            return Ok(Some(mem::replace(old, stored)));
        }
        self.rebuild_if_worn(map);
        // A full map doubles for one key more.
        let tables = map.allocation_size();
        let is_full = map.len() == map.capacity();
        let growth = if is_full { tables.max(MAP_BYTES_MIN) } else { 0 };
        self.account.exchange(0, taken + growth as u64)?;
        map.insert(key, stored);
        self.account.record((tables + growth) as u64, map.allocation_size() as u64);
        Ok(None)
    }

    /// Removes `key` if what is there is as `expected`. Says whether it did.
    fn remove(&self, key: &str, expected: Expected<'_>) -> bool {
        let mut map = write(&self.shard(key).map);
        if !expected.is_met(map.get(key)) {
            return false;
        }
        let removed = self.remove_from(&mut map, key);
        drop(map);

        drop(removed);
        true
    }

    /// Removes `key` from a map; gives what was there.
    fn remove_from(&self, map: &mut Map, key: &str) -> Option<(Box<str>, Stored)> {
        let removed = map.remove_entry(key)?;
        self.account.record(removed.1.cost(key), 0);
        give_back(map, &self.account);
        Some(removed)
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
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

// A poisoned map is still whole: in every critical section what could panic
// comes before the one call that changes the map, or is that call.

fn read(shard: &RwLock<Map>) -> RwLockReadGuard<'_, Map> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Map>) -> RwLockWriteGuard<'_, Map> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Memory {
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let mut stored = self.0.stored(key);
        loop {
            let entry = stored.clone().and_then(Stored::into_living);
            if entry.is_some() || stored.is_none() {
                return Ok(entry);
            }
            // It has expired since, or was replaced before.
            let now = self.0.stored(key);
            if Stored::are_same(stored.as_ref(), now.as_ref()) {
                return Ok(None);
            }
            stored = now;
        }
    }

    fn set(&self, key: Key, entry: Entry) -> Result<(), Error> {
        let stored = Stored::new(entry);
        self.watch(&stored);
        self.with_room(|| self.0.put(&key, &stored, Expected::Anything)).map(drop)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        let _removed: bool = self.0.remove(key.as_str(), Expected::Anything);
        Ok(())
    }

    fn update(&self, key: Key, mut change: Change) -> Result<Updated, Error> {
        // Reads, decides outside the lock, and begins anew if somebody else
        // was there meanwhile.
        for _ in 0..ROUNDS_MAX {
            let current = self.0.stored(&key);
            let before = current.clone().and_then(Stored::into_living);
            let expected = match &current {
                // Or what somebody has seen expire would come back.
                Some(stored) if before.is_some() => Expected::Living(stored),
                stored => Expected::Same(stored.as_ref()),
            };
            let (done, after) = match change(before.as_ref()) {
                Decision::Keep => (true, before.clone()),
                Decision::Remove => (self.0.remove(key.as_str(), expected), None),
                Decision::Replace(entry) => {
                    let stored = Stored::new(entry.clone());
                    self.watch(&stored);
                    let put = || self.0.put(&key, &stored, expected);
                    (self.with_room(put)?, Some(entry))
                }
            };
            if done {
                return Ok(Updated { before, after });
            }
        }
        self.with_room(|| self.update_locked(&key, &mut change))
    }

    fn room(&self) -> Option<u64> {
        self.0.account.room()
    }

    fn clear(&self) -> Result<(), Error> {
        let Maps { shards, account, .. } = &*self.0;
        // All locks at once make it one moment for every key. The others take
        // one lock each, so nobody waits in a circle.
        let mut maps: Vec<_> = shards.iter().map(|shard| write(&shard.map)).collect();
        let emptied: Vec<Map> = maps
            .iter_mut()
            .map(|map| {
                let empty = Map::with_hasher(map.hasher().clone());
                mem::replace(&mut **map, empty)
            })
            .collect();
        let freed = account.clear();
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
