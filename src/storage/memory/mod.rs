//! The in-memory engine: hash maps behind locks, and an index of their sorted keys.
//!
//! A map that grows moves all its keys while it is locked, so the keys are
//! sharded over many small maps and no growth is ever long. Memory is allocated
//! before a lock is taken and freed after it is released; under a lock there are
//! pointers to move and one hash probe. Where a key comes or goes there is the index,
//! too: it has the keys of all maps at any moment.
//!
//! A change is appended to the change log under the lock of its map, once readers that
//! wait for the lock will see it. The log is kept once somebody has asked for it.
//!
//! Locks are taken in this order: the sweeper's turn, the moment, maps in order of
//! their number, the index, the change log. Whoever holds several maps has the moment to
//! itself.

mod account;
mod batch;
mod first;
mod index;
mod list;
mod report;
mod stored;
mod sweep;

use super::pool::Pool;
use super::watch::Watch;
use super::{
    BatchOp, Bell, Change, Changes, Decision, Done, Effect, Entry, Error, Event, HISTORY_BYTES,
};
use super::{Key, Op, Outage, Outcome, Revision, Storage, Time, Updated};
use crate::metrics::Exposition;
use account::{Account, Full};
use crossbeam_channel::Sender;
use hashbrown::HashMap;
use index::{Index, NewKeys};
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    TryLockResult, Weak,
};
use stored::Stored;

/// The number of maps that the keys are sharded over. At a hundred million keys
/// one map holds a hundred thousand and moves them in some milliseconds.
pub const KEYS_SHARDS: usize = 1024;

/// The most operations of a batch that is done at once: as long as a page takes.
const BATCH_OPS_SMALL: usize = 1000;

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
    /// The keys of all maps. It changes under the lock of a key's map.
    index: Index,
    /// Held alone while several keys change at one moment, and shared while several
    /// are read. Operations on one key do without.
    moment: RwLock<()>,
    /// Those who wait for a key.
    watch: Watch,
    changes: Changes,
    /// Carries nothing; the sweeper's thread ends when this is dropped.
    sweeper: OnceLock<Sender<()>>,
    /// The sweeper's turn.
    sweeping: Mutex<()>,
    /// Counts the beginnings and the ends of sweeps: it is odd while a map holds expired
    /// entries and yet is not due.
    sweeps: AtomicU64,
    /// The number of entries that were removed once they had expired.
    expired: AtomicU64,
    /// Started with the first operation that takes long.
    pool: OnceLock<Pool>,
}

/// One of the maps.
struct Shard {
    map: RwLock<Map>,
    /// The next expiry in the map, in milliseconds, or an earlier moment.
    due: AtomicU64,
}

/// The time that an operation has.
#[derive(Clone, Copy)]
enum Pace {
    /// None: it waits for nobody.
    AtOnce,
    /// All that it needs.
    AtLength,
}

/// An operation that was not done. Nothing has changed.
enum Undone {
    /// There is no room for it.
    Full(Op),
    /// Others are in the way.
    Busy(Op),
}

impl Memory {
    /// An empty store without a limit of its own.
    pub fn new() -> Self {
        Self::with_max(u64::MAX)
    }

    /// An empty store that refuses a write once keys, values and overhead
    /// come to more than `max` bytes.
    pub fn with_max(max: u64) -> Self {
        Self::with_limits(max, HISTORY_BYTES)
    }

    /// The same with a change log that keeps about so many bytes, beside the others.
    pub fn with_limits(max: u64, history_bytes: usize) -> Self {
        let hasher = RandomState::new();
        let empty = || Shard {
            map: RwLock::new(Map::with_hasher(hasher.clone())),
            due: AtomicU64::new(u64::MAX),
        };
        let shards = std::iter::repeat_with(empty).take(KEYS_SHARDS).collect();
        let (account, sweeper) = (Account::new(max), OnceLock::new());
        let (sweeping, pool) = (Mutex::default(), OnceLock::new());
        let (index, moment) = (Index::default(), RwLock::default());
        let (sweeps, expired) = (AtomicU64::new(0), AtomicU64::new(0));
        let watch = Watch::default();
        let changes = Changes::new(history_bytes, Revision::newborn(), false);
        Self(Arc::new(Maps {
            shards,
            hasher,
            account,
            index,
            moment,
            watch,
            changes,
            sweeper,
            sweeping,
            sweeps,
            expired,
            pool,
        }))
    }

    /// The bytes held: keys, their index, values and overhead, as the allocator gives
    /// them.
    pub fn held(&self) -> u64 {
        self.0.account.held()
    }

    /// Does `op`, or gives it back. Waits for no sweep.
    fn attempt(&self, op: Op, pace: Pace) -> Result<Effect, Undone> {
        match op {
            Op::Get(key) => Ok(Effect::Found(self.0.living(key.as_str()))),
            Op::Set(key, entry) => {
                let stored = self.stored_of(entry);
                match self.0.put(&key, &stored, Expected::Anything) {
                    Ok(_) => Ok(Effect::Done),
                    Err(Full) => Err(Undone::Full(Op::Set(key, stored.into_entry()))),
                }
            }
            Op::Delete(key) => {
                let _removed: bool = self.0.remove(key.as_str(), Expected::Anything);
                Ok(Effect::Done)
            }
            Op::Update(key, mut change) => match self.update_in_rounds(&key, &mut change) {
                Ok(updated) => Ok(Effect::Updated(updated.into())),
                Err(Full) => Err(Undone::Full(Op::Update(key, change))),
            },
            Op::Batch(ops) | Op::Each(ops) => self.batch_in_rounds(ops, pace),
            Op::UpdateFirst(prefix, change) => self.update_first_alone(prefix, change, pace),
            Op::Clear => match pace.alone(&self.0.moment) {
                Some(_alone) => {
                    self.0.clear();
                    Ok(Effect::Done)
                }
                None => Err(Undone::Busy(Op::Clear)),
            },
            Op::List(listing) => match pace.shared(&self.0.moment) {
                Some(_shared) => Ok(Effect::Listed(self.0.list(&listing).into())),
                None => Err(Undone::Busy(Op::List(listing))),
            },
            Op::Count(range) => match pace.shared(&self.0.moment) {
                Some(_shared) => {
                    let (counted, rest) = self.0.count(&range);
                    Ok(Effect::Counted(counted, rest))
                }
                None => Err(Undone::Busy(Op::Count(range))),
            },
        }
    }

    /// Does `op`, however long it takes. Without room expired entries are swept
    /// away, map by map, until there is.
    fn perform_at_length(&self, op: Op) -> Outcome {
        let attempt = |op| match self.attempt(op, Pace::AtLength) {
            Ok(effect) => Ok(effect),
            Err(Undone::Full(op) | Undone::Busy(op)) => Err(op),
        };
        let op = match attempt(op) {
            Ok(effect) => return Ok(effect),
            Err(op) => op,
        };
        // One at a time: entries that another sweep is about to remove still count.
        let _turn = self.0.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Time::now();
        // Somebody else may have swept before.
        let mut attempted = attempt(op);
        // A batch is too long to be tried again after each map.
        let maps = if matches!(attempted, Err(Op::Batch(_))) { KEYS_SHARDS } else { 1 };
        for shards in self.0.shards.chunks(maps) {
            if shards.iter().all(|shard| !shard.is_due(now)) {
                continue;
            }
            let Err(op) = attempted else { break };
            for shard in shards {
                self.0.sweep(shard, now);
            }
            attempted = attempt(op);
        }
        attempted.map_err(|_op| Error::Full)
    }

    /// The form of an entry that is about to come. The sweeper waits for its expiry.
    fn stored_of(&self, entry: Entry) -> Stored {
        let stored = Stored::new(entry);
        self.start_sweeper_for(&stored);
        stored
    }

    /// Reads, decides outside the lock, and begins anew if another write came
    /// between.
    fn update_in_rounds(&self, key: &Key, change: &mut Change) -> Result<Updated, Full> {
        for _ in 0..ROUNDS_MAX {
            let current = self.0.stored(key.as_str());
            let before = current.clone().and_then(Stored::into_living);
            let expected = match &current {
                // Else an entry that was seen to expire would come back.
                Some(stored) if before.is_some() => Expected::Living(stored),
                stored => Expected::Same(stored.as_ref()),
            };
            let (is_done, after) = match change(before.as_ref()) {
                Decision::Keep | Decision::Refuse => (true, before.clone()),
                Decision::Remove => (self.0.remove(key.as_str(), expected), None),
                Decision::Replace(entry) => {
                    let stored = self.stored_of(entry.clone());
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
        let (after, changed) = self.change_in(shard, &mut map, key, before.as_ref(), change)?;
        drop(map);

        if let Some(changed) = changed {
            self.0.tell(key.as_str(), changed);
        }
        Ok(Updated { before, after })
    }

    /// Decides on a change of a map and does it. Returns the entry since then, and the
    /// change to be told.
    fn change_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: &Key,
        before: Option<&Entry>,
        change: &mut Change,
    ) -> Result<(Option<Entry>, Option<Untold>), Full> {
        Ok(match change(before) {
            Decision::Keep | Decision::Refuse => (before.cloned(), None),
            Decision::Remove => (None, self.0.remove_from(map, key.as_str())),
            Decision::Replace(entry) => {
                let stored = self.stored_of(entry.clone());
                let own_key = key.as_str().into();
                (Some(entry), Some(self.0.put_in(shard, map, key, own_key, stored)?))
            }
        })
    }
}

/// A change of a key that is to be told behind the lock of its map.
struct Untold {
    is_stored: bool,
    bell: Bell,
    /// The entry before, to be freed there too.
    old: Option<(Box<str>, Stored)>,
}

impl Pace {
    /// The moment for this operation alone.
    fn alone(self, moment: &RwLock<()>) -> Option<RwLockWriteGuard<'_, ()>> {
        match self {
            Self::AtOnce => unless_taken(moment.try_write()),
            Self::AtLength => Some(moment.write().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// The moment for this operation and others that only read.
    fn shared(self, moment: &RwLock<()>) -> Option<RwLockReadGuard<'_, ()>> {
        match self {
            Self::AtOnce => unless_taken(moment.try_read()),
            Self::AtLength => Some(moment.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// The guard of a lock that was tried. There is nothing in it that a panic could
/// leave half changed.
fn unless_taken<T>(tried: TryLockResult<T>) -> Option<T> {
    match tried {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
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
    /// Notes the expiry of an entry that is about to come.
    fn expect_expiry(&self, stored: &Stored) {
        if let Some(expiry) = stored.expiry() {
            self.due.fetch_min(expiry.to_bits(), Ordering::Relaxed);
        }
    }

    /// Returns true if it may hold an expired entry.
    fn is_due(&self, now: Time) -> bool {
        // What was swept before the expiry moved on is seen as swept.
        self.due.load(Ordering::Acquire) <= now.to_bits()
    }
}

impl Maps {
    /// The number of a key's map.
    fn number(&self, key: &str) -> usize {
        // The maps probe with the same hash, from its top and bottom bits; the
        // shard is chosen by the middle so that each map still sees all of those.
        (self.hasher.hash_one(key) >> 24) as usize % KEYS_SHARDS
    }

    fn shard(&self, key: &str) -> &Shard {
        self.shards.get(self.number(key)).expect("the number is below that of the shards")
    }

    /// Returns true for an operation on many keys or on a value that is large.
    fn takes_long(&self, op: &Op) -> bool {
        let is_large =
            |key: &Key| self.stored(key.as_str()).is_some_and(|stored| stored.is_large());
        match op {
            Op::Get(_) | Op::Set(..) | Op::Delete(_) | Op::UpdateFirst(..) => false,
            Op::Update(key, _) => is_large(key),
            Op::Batch(ops) | Op::Each(ops) => {
                let is_update = |op: &BatchOp| matches!(op, BatchOp::Update(_) | BatchOp::Remove);
                ops.len() > BATCH_OPS_SMALL
                    || ops.iter().any(|(key, op)| is_update(op) && is_large(key))
            }
            Op::List(listing) => {
                listing.with_entries || listing.delimiter.is_some() || self.due().is_some()
            }
            Op::Clear | Op::Count(_) => true,
        }
    }

    /// The entry under a key, expired or not.
    fn stored(&self, key: &str) -> Option<Stored> {
        read(&self.shard(key).map).get(key).cloned()
    }

    /// The entry under a key.
    fn living(&self, key: &str) -> Option<Entry> {
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
        let own_key = Box::<str>::from(key.as_str());
        let shard = self.shard(key.as_str());
        let mut map = write(&shard.map);
        if !expected.is_met(map.get(key.as_str())) {
            return Ok(false);
        }
        let changed = self.put_in(shard, &mut map, key, own_key, stored.clone())?;
        drop(map);

        self.tell(key.as_str(), changed);
        Ok(true)
    }

    /// Puts `stored` into a map, where the key may be new.
    fn put_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: &Key,
        own_key: Box<str>,
        stored: Stored,
    ) -> Result<Untold, Full> {
        shard.expect_expiry(&stored);
        let key = key.as_str();
        let taken = stored.cost(key);
        if let Some(old) = map.get_mut(key) {
            self.account.exchange(old.cost(key), taken)?;
            let old = Some((own_key, mem::replace(old, stored)));
            return Ok(Untold { is_stored: true, bell: self.changes.append(Event::Put, key), old });
        }
        self.rebuild_if_worn(map);
        let growth = growth_max(map, 1) + self.index.growth_max(NewKeys::one(key));
        self.account.exchange(0, taken + growth)?;
        let grown = self.insert_in(map, own_key, stored);
        self.account.record(growth, grown.cast_unsigned());
        let bell = self.changes.append(Event::Put, key);
        Ok(Untold { is_stored: true, bell, old: None })
    }

    /// Puts an entry into a map under a new key. Returns the bytes that the map and the
    /// index grow by.
    fn insert_in(&self, map: &mut Map, key: Box<str>, stored: Stored) -> i64 {
        let before = map.allocation_size();
        let index_growth = self.index.insert(&key);
        map.insert(key, stored);
        index_growth + index::growth(before, map.allocation_size())
    }

    /// Removes `key` if the entry there is as `expected`. Returns true if it did.
    fn remove(&self, key: &str, expected: Expected<'_>) -> bool {
        let mut map = write(&self.shard(key).map);
        if !expected.is_met(map.get(key)) {
            return false;
        }
        let changed = self.remove_from(&mut map, key);
        drop(map);

        if let Some(changed) = changed {
            self.tell(key, changed);
        }
        true
    }

    /// Removes `key` from a map, if it is there.
    fn remove_from(&self, map: &mut Map, key: &str) -> Option<Untold> {
        let (own_key, old) = self.take_out(map, key)?;
        self.account.record(old.cost(key), 0);
        let bell = self.changes.append(self.removal(&old), key);
        Some(Untold { is_stored: false, bell, old: Some((own_key, old)) })
    }

    /// Counts an entry that had expired when it was removed; returns the event of that.
    fn removal(&self, old: &Stored) -> Event {
        if old.lives() {
            return Event::Delete;
        }
        self.expired.fetch_add(1, Ordering::Relaxed);
        Event::Expire
    }

    /// Tells of a change, behind the lock of its map.
    fn tell(&self, key: &str, Untold { is_stored, bell, old }: Untold) {
        drop(bell);
        self.watch.changed(key, is_stored);
        drop(old);
    }

    /// Removes `key` from a map; returns its entry, of which the account still has the
    /// cost.
    fn take_out(&self, map: &mut Map, key: &str) -> Option<(Box<str>, Stored)> {
        let removed = map.remove_entry(key)?;
        self.account.record(0, self.index.remove(key).cast_unsigned());
        shrink(map, &self.account);
        Some(removed)
    }

    /// Deletes every key. The moment is the caller's alone.
    fn clear(&self) {
        // All locks at once make it one moment for every key.
        let mut maps: Vec<_> = self.shards.iter().map(|shard| write(&shard.map)).collect();
        let empty = || Map::with_hasher(self.hasher.clone());
        let emptied: Vec<Map> =
            maps.iter_mut().map(|map| mem::replace(&mut **map, empty())).collect();
        let leaves = self.index.clear();
        let freed = self.account.clear();
        let bell = self.changes.be_reborn(Revision::newborn());
        drop(maps);

        drop(bell);
        self.watch.all_changed();
        log::debug!("clearing {freed} bytes");
        drop((emptied, leaves));
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
// before the first call that changes a map or the index, or from that call.

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
        let op = match self.attempt(op, Pace::AtOnce) {
            Ok(effect) => return Ok(Ok(effect)),
            Err(Undone::Busy(op)) => return Err(op),
            Err(Undone::Full(op)) => op,
        };
        // Refused at once if no sweep is under way and none would make room.
        let Ok(_turn) = self.0.sweeping.try_lock() else { return Err(op) };
        let now = Time::now();
        if self.0.shards.iter().any(|shard| shard.is_due(now)) {
            return Err(op);
        }
        match self.attempt(op, Pace::AtOnce) {
            Ok(effect) => Ok(Ok(effect)),
            Err(Undone::Busy(op)) => Err(op),
            Err(Undone::Full(_op)) => Ok(Err(Error::Full)),
        }
    }

    fn submit(&self, op: Op, done: Done) {
        // The caller has no time for it itself.
        match self.pool() {
            Some(pool) => pool.submit(op, done),
            None => done(Err(Error::Overloaded)),
        }
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn watch(&self) -> Option<&Watch> {
        Some(&self.0.watch)
    }

    fn changes(&self) -> Option<&Changes> {
        Some(&self.0.changes)
    }

    fn room(&self) -> Option<u64> {
        self.0.account.room()
    }

    fn report(&self, to: &mut Exposition) {
        self.write_metrics(to);
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Memory {
    /// The threads for what takes long. Where none can be started the next operation
    /// tries again.
    fn pool(&self) -> Option<&Pool> {
        if let Some(pool) = self.0.pool.get() {
            return Some(pool);
        }
        let maps = Arc::downgrade(&self.0);
        let perform = move |op| match Weak::upgrade(&maps) {
            Some(maps) => Memory(maps).perform_at_length(op),
            None => Err(Error::Unavailable(Outage::Closed)),
        };
        match Pool::start("memory", POOL_THREADS, perform) {
            // If another caller was quicker, this one ends.
            Ok(pool) => Some(self.0.pool.get_or_init(|| pool)),
            Err(err) => {
                log::warn!("no threads for operations that take long: {err}");
                None
            }
        }
    }
}

/// The first allocation of a map, about: four slots and their control bytes.
const MAP_BYTES_MIN: usize = 4 * size_of::<(Box<str>, Stored)>() + 32;

/// The most bytes that a map grows by with so many new keys.
fn growth_max(map: &Map, new_keys: usize) -> u64 {
    let tables = map.allocation_size();
    let (mut capacity, mut grown) = (map.capacity(), tables);
    // A full map doubles.
    while capacity < map.len() + new_keys {
        (capacity, grown) = ((capacity * 2).max(3), (grown * 2).max(MAP_BYTES_MIN));
    }
    (grown - tables) as u64
}

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
