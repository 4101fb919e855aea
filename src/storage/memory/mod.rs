//! The in-memory engine: hash maps behind locks.
//!
//! A map that grows moves all its keys while it is locked, so the keys are
//! sharded over many small maps and no growth is ever long. Memory is allocated
//! before a lock is taken and freed after it is released; under a lock there are
//! pointers to move and one hash probe.

mod account;
mod stored;
mod sweep;

use super::pool::Pool;
use super::{Change, Decision, Done, Effect, Entry, Error, Key, Op, Outage, Outcome, Storage};
use super::{Time, Updated};
use account::{Account, Full};
use crossbeam_channel::Sender;
use hashbrown::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use stored::Stored;

/// The number of maps that the keys are sharded over. At a hundred million keys
/// one map holds a hundred thousand and moves them in some milliseconds.
pub const KEYS_SHARDS: usize = 1024;

/// The rounds of an update without a lock. Each is lost to a quicker writer; after
/// the last one the update locks them out.
const ROUNDS_MAX: usize = 4;

/// The threads for operations that take long.
const POOL_THREADS: usize = 4;

/// The in-memory engine. A clone is another handle on the same keys.
#[derive(Clone)]
pub struct Memory(Arc<Maps>);

type Map = HashMap<Box<str>, Stored, RandomState>;

/// The store that all handles share.
struct Maps {
    shards: Box<[Shard]>,
    hasher: RandomState,
    account: Account,
    /// Carries nothing; the sweeper's thread ends when this is dropped.
    sweeper: OnceLock<Sender<()>>,
    /// The sweeper's turn.
    sweeping: Mutex<()>,
    /// Started with the first operation that takes long; `None` where it cannot be.
    pool: OnceLock<Option<Pool>>,
}

/// One of the maps.
struct Shard {
    map: RwLock<Map>,
    /// The next expiry in the map, in milliseconds, or an earlier moment.
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
        let (account, sweeper) = (Account::new(max), OnceLock::new());
        let (sweeping, pool) = (Mutex::default(), OnceLock::new());
        Self(Arc::new(Maps { shards, hasher, account, sweeper, sweeping, pool }))
    }

    /// The bytes held: keys, values and overhead, as the allocator gives them.
    pub fn held(&self) -> u64 {
        self.0.account.held()
    }

    /// Does `op`, however long it takes, or gives it back where there is no room for
    /// it. Waits for no sweep.
    fn attempt(&self, op: Op) -> Result<Effect, Op> {
        match op {
            Op::Get(key) => Ok(Effect::Found(self.0.living(&key))),
            Op::Set(key, entry) => {
                let stored = Stored::new(entry);
                self.watch(&stored);
                match self.0.put(&key, &stored, Expected::Anything) {
                    Ok(_) => Ok(Effect::Done),
                    Err(Full) => Err(Op::Set(key, stored.into_entry())),
                }
            }
            Op::Delete(key) => {
                let _removed: bool = self.0.remove(key.as_str(), Expected::Anything);
                Ok(Effect::Done)
            }
            Op::Update(key, mut change) => match self.update_in_rounds(&key, &mut change) {
                Ok(updated) => Ok(Effect::Updated(updated.into())),
                Err(Full) => Err(Op::Update(key, change)),
            },
            Op::Clear => {
                self.0.clear();
                Ok(Effect::Done)
            }
        }
    }

    /// Does `op`, however long it takes. Without room expired entries are swept
    /// away, map by map, until there is.
    fn perform_at_length(&self, op: Op) -> Outcome {
        let op = match self.attempt(op) {
            Ok(effect) => return Ok(effect),
            Err(op) => op,
        };
        // One at a time: entries that another sweep is about to remove still count.
        let _turn = self.0.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Time::now();
        // Somebody else may have swept before.
        let mut attempt = self.attempt(op);
        for shard in self.0.shards.iter().filter(|shard| shard.is_due(now)) {
            let Err(op) = attempt else { break };
            self.0.sweep(shard, now);
            attempt = self.attempt(op);
        }
        attempt.map_err(|_op| Error::Full)
    }

    /// Reads, decides outside the lock, and begins anew if another write came
    /// between.
    fn update_in_rounds(&self, key: &Key, change: &mut Change) -> Result<Updated, Full> {
        for _ in 0..ROUNDS_MAX {
            let current = self.0.stored(key);
            let before = current.clone().and_then(Stored::into_living);
            let expected = match &current {
                // Else an entry that was seen to expire would come back.
                Some(stored) if before.is_some() => Expected::Living(stored),
                stored => Expected::Same(stored.as_ref()),
            };
            let (is_done, after) = match change(before.as_ref()) {
                Decision::Keep => (true, before.clone()),
                Decision::Remove => (self.0.remove(key.as_str(), expected), None),
                Decision::Replace(entry) => {
                    let stored = Stored::new(entry.clone());
                    self.watch(&stored);
                    (self.0.put(key, &stored, expected)?, Some(entry))
                }
            };
            if is_done {
                return Ok(Updated { before, after });
            }
        }
        self.update_locked(key, change)
    }

    /// Decides on a change under the lock, for a slow one that always loses to
    /// quicker writers.
    fn update_locked(&self, key: &Key, change: &mut Change) -> Result<Updated, Full> {
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

/// The precondition of a change to a map.
#[derive(Clone, Copy)]
enum Expected<'a> {
    /// None.
    Anything,
    /// The same entry as before, or none as before.
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
    /// Returns true if it may hold an expired entry.
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

    /// Returns true for an operation on every key or on a value that is large.
    fn takes_long(&self, op: &Op) -> bool {
        match op {
            Op::Get(_) | Op::Set(..) | Op::Delete(_) => false,
            Op::Update(key, _) => self.stored(key).is_some_and(|stored| stored.is_large()),
            Op::Clear => true,
        }
    }

    /// The entry under a key, expired or not.
    fn stored(&self, key: &Key) -> Option<Stored> {
        read(&self.shard(key.as_str()).map).get(key.as_str()).cloned()
    }

    /// The entry under a key.
    fn living(&self, key: &Key) -> Option<Entry> {
        let mut stored = self.stored(key);
        loop {
            let entry = stored.clone().and_then(Stored::into_living);
            if entry.is_some() || stored.is_none() {
                return entry;
            }
            // It has expired since, or was replaced before.
            let now = self.stored(key);
            if Stored::are_same(stored.as_ref(), now.as_ref()) {
                return None;
            }
            stored = now;
        }
    }

    /// Puts `stored` under `key` if the entry there is as `expected`. Returns
    /// true if it did.
    fn put(&self, key: &Key, stored: &Stored, expected: Expected<'_>) -> Result<bool, Full> {
        // Allocated before the lock; the replaced entry is freed after it.
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

    /// Puts `stored` into a map; returns the entry that it has replaced.
    fn put_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: Box<str>,
        stored: Stored,
    ) -> Result<Option<Stored>, Full> {
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

    /// Removes `key` if the entry there is as `expected`. Returns true if it did.
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

    /// Removes `key` from a map; returns its entry.
    fn remove_from(&self, map: &mut Map, key: &str) -> Option<(Box<str>, Stored)> {
        let removed = map.remove_entry(key)?;
        self.account.record(removed.1.cost(key), 0);
        shrink(map, &self.account);
        Some(removed)
    }

    /// Deletes every key.
    fn clear(&self) {
        // All locks at once make it one moment for every key. The others take
        // one lock each, so nobody waits in a circle.
        let mut maps: Vec<_> = self.shards.iter().map(|shard| write(&shard.map)).collect();
        let empty = || Map::with_hasher(self.hasher.clone());
        let emptied: Vec<Map> =
            maps.iter_mut().map(|map| mem::replace(&mut **map, empty())).collect();
        let freed = self.account.clear();
        drop(maps);

        log::debug!("clearing {freed} bytes");
        drop(emptied);
    }

    /// Rebuilds a map that is full of tombstones, which would double otherwise
    /// though it has no more keys than before.
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

// A poisoned map is still whole: in every critical section a panic can come only
// before the one call that changes the map, or from that call.

fn read(shard: &RwLock<Map>) -> RwLockReadGuard<'_, Map> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Map>) -> RwLockWriteGuard<'_, Map> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Memory {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if self.0.takes_long(&op) {
            return Err(op);
        }
        let op = match self.attempt(op) {
            Ok(effect) => return Ok(Ok(effect)),
            Err(op) => op,
        };
        // Refused at once if no sweep is under way and none would make room.
        let Ok(_turn) = self.0.sweeping.try_lock() else { return Err(op) };
        let now = Time::now();
        if self.0.shards.iter().any(|shard| shard.is_due(now)) {
            return Err(op);
        }
        Ok(self.attempt(op).map_err(|_op| Error::Full))
    }

    fn submit(&self, op: Op, done: Done) {
        match self.0.pool.get_or_init(|| start_pool(Arc::downgrade(&self.0))) {
            Some(pool) => pool.submit(op, done),
            None => done(self.perform_at_length(op)),
        }
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn room(&self) -> Option<u64> {
        self.0.account.room()
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn start_pool(maps: Weak<Maps>) -> Option<Pool> {
    let perform = move |op| match maps.upgrade() {
        Some(maps) => Memory(maps).perform_at_length(op),
        None => Err(Error::Unavailable(Outage::Closed)),
    };
    let pool = Pool::start("memory", POOL_THREADS, perform);
    pool.inspect_err(|err| log::warn!("no threads for operations that take long: {err}")).ok()
}

/// The first allocation of a map, about: four slots and their control bytes.
const MAP_BYTES_MIN: usize = 4 * size_of::<(Box<str>, Stored)>() + 32;

/// Shrinks a map of which deletions have left less than an eighth in use.
fn shrink(map: &mut Map, account: &Account) {
    const KEYS_WORTH_SHRINKING: usize = 64;
    if map.capacity() > KEYS_WORTH_SHRINKING && map.len() < map.capacity() / 8 {
        let before = map.allocation_size();
        map.shrink_to(map.len() * 2);
        account.record(before as u64, map.allocation_size() as u64);
    }
}

#[cfg(test)]
mod tests;
