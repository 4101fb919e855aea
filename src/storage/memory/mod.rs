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
mod defragment;
mod evict;
mod first;
mod index;
mod list;
mod map;
mod packed;
mod report;
mod sweep;

use super::pool::Pool;
use super::watch::Watch;
use super::{BatchOp, Bell, Change, Changes, Decision, Done, Effect, Entry, Error, Event, Limits};
use super::{Key, Op, Outage, Outcome, Revision, Storage, Time, Updated, Wanted, WhenFull};
use crate::metrics::Exposition;
use crate::platform::scheduling;
use account::{Account, Full};
use crossbeam_channel::Sender;
use defragment::Defragmenter;
use evict::Cache;
use index::{Index, NewKeys};
use map::{Growth, Hashed, Keyed, Map};
use packed::Packed;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    TryLockResult, Weak,
};

/// The number of maps that the keys are sharded over. At a hundred million keys
/// one map holds a hundred thousand and moves them in some milliseconds.
pub const KEYS_SHARDS: usize = 1024;

/// The most operations of a batch that is done at once: as long as a page takes.
const BATCH_OPS_SMALL: usize = 1000;

/// The bytes of uploads that have room beside those that are left, where nothing is evicted.
const UPLOADS_BEYOND_BYTES: u64 = 32 << 20;

/// The rounds of an update without a lock. Each is lost to a quicker writer; after
/// the last one the update locks them out.
const ROUNDS_MAX: usize = 4;

/// The threads for operations that take long.
const POOL_THREADS: usize = 4;

/// The in-memory engine. A clone is another handle on the same keys.
#[derive(Clone)]
pub struct Memory(Arc<Maps>);

/// The store that all handles share.
struct Maps {
    shards: Box<[Shard]>,
    hasher: Keyed,
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
    /// There if it evicts.
    cache: Option<Cache>,
    defragmenter: Defragmenter,
    /// For its thread.
    own: Weak<Maps>,
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
    /// There is no room for it, which is so many bytes, about.
    Full(Op, u64),
    /// Others are in the way.
    Busy(Op),
}

impl Memory {
    /// An empty store without a limit of its own.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty store that refuses a write once keys, values and overhead
    /// come to more than `max` bytes.
    pub fn with_max(max: u64) -> Self {
        Self::with_limits(Limits { bytes: max, ..Limits::default() })
    }

    /// An empty store with these limits.
    pub fn with_limits(limits: Limits) -> Self {
        let Limits { bytes: max, when_full, history_bytes } = limits;
        let is_evicting = when_full == WhenFull::Evict && max < u64::MAX;
        let cache = is_evicting.then(|| Cache::new(max));
        let hasher = Keyed::default();
        let empty =
            || Shard { map: RwLock::new(Map::new(hasher.clone())), due: AtomicU64::new(u64::MAX) };
        let shards = std::iter::repeat_with(empty).take(KEYS_SHARDS).collect();
        let account = match &cache {
            Some(cache) => Account::evicting(max, cache.bytes()),
            None => Account::new(max),
        };
        let sweeper = OnceLock::new();
        let (sweeping, pool) = (Mutex::default(), OnceLock::new());
        let (index, moment) = (Index::default(), RwLock::default());
        let (sweeps, expired) = (AtomicU64::new(0), AtomicU64::new(0));
        let watch = Watch::default();
        let changes = Changes::new(history_bytes, Revision::newborn(), false);
        let maps = Arc::new_cyclic(|own| Maps {
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
            cache,
            defragmenter: Defragmenter::default(),
            own: Weak::clone(own),
            pool,
        });
        evict::start_evictor(&maps);
        Self(maps)
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
                let hashed = self.0.hashed(key.as_str());
                match self.0.put(hashed, self.packed(hashed, &entry), Expected::Anything) {
                    Ok(_) => Ok(Effect::Done),
                    Err(packed) => Err(Undone::Full(Op::Set(key, entry), packed.cost())),
                }
            }
            Op::Delete(key) => {
                let key = self.0.hashed(key.as_str());
                let _removed: bool = self.0.remove(Event::Delete, key, Expected::Anything);
                Ok(Effect::Done)
            }
            Op::Update(key, mut change) => {
                match self.update_in_rounds(self.0.hashed(key.as_str()), &mut change) {
                    Ok(updated) => Ok(Effect::Updated(updated.into())),
                    Err(Full { wanted }) => Err(Undone::Full(Op::Update(key, change), wanted)),
                }
            }
            Op::Batch(ops) => self.batch_in_rounds(ops, pace),
            Op::Each(ops) => self.set_each(ops, pace),
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
        scheduling::give_way();
        if self.0.cache.is_some() {
            return self.perform_evicting(op);
        }
        let attempt = |op| match self.attempt(op, Pace::AtLength) {
            Ok(effect) => Ok(effect),
            Err(Undone::Full(op, _) | Undone::Busy(op)) => Err(op),
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
    fn packed(&self, key: Hashed<'_>, entry: &Entry) -> Packed {
        if entry.expiry().is_some() {
            self.start_sweeper();
        }
        Packed::new(key.key(), entry)
    }

    /// Reads, decides outside the lock, and begins anew if another write came
    /// between.
    fn update_in_rounds(&self, key: Hashed<'_>, change: &mut Change) -> Result<Updated, Full> {
        for _ in 0..ROUNDS_MAX {
            let current = self.0.stored(key);
            let before = current.clone().and_then(Packed::into_living);
            let expected = match &current {
                // Else an entry that was seen to expire would come back.
                Some(packed) if before.is_some() => Expected::Living(packed),
                packed => Expected::Same(packed.as_ref()),
            };
            let (is_done, after) = match change(before.as_ref()) {
                Decision::Keep | Decision::Refuse => {
                    self.0.note_use(current.as_ref());
                    (true, before.clone())
                }
                Decision::Remove => (self.0.remove(Event::Delete, key, expected), None),
                Decision::Replace(entry) => {
                    let packed = self.packed(key, &entry);
                    let is_put = self.0.put(key, packed, expected).map_err(Full::of)?;
                    (is_put, Some(entry))
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
    fn update_locked(&self, key: Hashed<'_>, change: &mut Change) -> Result<Updated, Full> {
        let shard = self.0.shard(key);
        let mut map = write(&shard.map);
        let before = map.get(key).cloned().and_then(Packed::into_living);
        let (after, changed) = self.change_in(shard, &mut map, key, before.as_ref(), change)?;
        drop(map);

        if let Some(changed) = changed {
            self.0.tell(key.key(), changed);
        }
        Ok(Updated { before, after })
    }

    /// Decides on a change of a map and does it. Returns the entry since then, and the
    /// change to be told.
    fn change_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: Hashed<'_>,
        before: Option<&Entry>,
        change: &mut Change,
    ) -> Result<(Option<Entry>, Option<Untold>), Full> {
        Ok(match change(before) {
            Decision::Keep | Decision::Refuse => (before.cloned(), None),
            Decision::Remove => (None, self.0.remove_from(map, Event::Delete, key)),
            Decision::Replace(entry) => {
                let packed = self.packed(key, &entry);
                let changed = self.0.put_in(shard, map, key, packed);
                (Some(entry), Some(changed.map_err(Full::of)?))
            }
        })
    }
}

/// A change of a key that is to be told behind the lock of its map.
struct Untold {
    is_stored: bool,
    bell: Bell,
    /// The entry before, to be freed there too.
    old: Option<Packed>,
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
    Same(Option<&'a Packed>),
    /// The same, and it has not expired since.
    Living(&'a Packed),
}

impl Expected<'_> {
    fn is_met(self, map: &Map, key: Hashed<'_>) -> bool {
        match self {
            Self::Anything => true,
            Self::Same(expected) => Packed::are_same(expected, map.get(key)),
            Self::Living(expected) => {
                Packed::are_same(Some(expected), map.get(key)) && expected.lives()
            }
        }
    }
}

impl Shard {
    /// The number of its keys.
    fn keys(&self) -> usize {
        read(&self.map).len()
    }

    /// Notes the expiry of an entry that is about to come.
    fn expect_expiry(&self, packed: &Packed) {
        if let Some(expiry) = packed.expiry() {
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
    fn hashed<'a>(&self, key: &'a str) -> Hashed<'a> {
        self.hasher.hashed(key)
    }

    fn shard(&self, key: Hashed<'_>) -> &Shard {
        let shard = self.shards.get(key.shard(KEYS_SHARDS));
        shard.expect("the number is below that of the shards")
    }

    /// Returns true for an operation on many keys or on a value that is large.
    fn takes_long(&self, op: &Op) -> bool {
        let is_large = |key: &Key| {
            self.stored(self.hashed(key.as_str())).is_some_and(|packed| packed.is_large())
        };
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
    fn stored(&self, key: Hashed<'_>) -> Option<Packed> {
        read(&self.shard(key).map).get(key).cloned()
    }

    /// The entry under a key.
    fn living(&self, key: &str) -> Option<Entry> {
        let key = self.hashed(key);
        let mut packed = self.stored(key)?;
        while !packed.lives() {
            // It has expired since, or was replaced before.
            let now = self.stored(key)?;
            if Packed::are_same(Some(&packed), Some(&now)) {
                return None;
            }
            packed = now;
        }
        self.note_use(Some(&packed));
        Some(packed.into_entry())
    }

    /// Puts an entry under `key` if the one there is as `expected`. Returns true if it
    /// did, and the entry if there is no room for it.
    fn put(&self, key: Hashed<'_>, packed: Packed, expected: Expected<'_>) -> Result<bool, Packed> {
        let shard = self.shard(key);
        let mut map = write(&shard.map);
        if !expected.is_met(&map, key) {
            return Ok(false);
        }
        let changed = self.put_in(shard, &mut map, key, packed)?;
        drop(map);

        self.tell(key.key(), changed);
        Ok(true)
    }

    /// Puts an entry into a map, where the key may be new. Returns it if there is no room.
    fn put_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: Hashed<'_>,
        packed: Packed,
    ) -> Result<Untold, Packed> {
        shard.expect_expiry(&packed);
        let taken = packed.cost();
        if let Some(old) = map.get(key) {
            if self.account.exchange(old.cost(), taken).is_err() {
                return Err(packed);
            }
            let old = self.replace_in(map, key, packed);
            let bell = self.changes.append(Event::Put, key.key());
            return Ok(Untold { is_stored: true, bell, old });
        }
        let growth = map.growth_for(&[key.hash()]);
        let index_growth = self.index.growth_max(NewKeys::one(key.key()));
        let map_growth = growth.as_ref().map_or(0, Growth::bytes);
        if self.account.exchange(0, taken + map_growth + index_growth).is_err() {
            return Err(packed);
        }
        if let Some(growth) = growth {
            map.grow(&growth);
        }
        self.account.settle(index_growth, self.insert_in(map, key, packed));
        let bell = self.changes.append(Event::Put, key.key());
        Ok(Untold { is_stored: true, bell, old: None })
    }

    /// Puts an entry in place of the one under the same key, which is returned.
    fn replace_in(&self, map: &mut Map, key: Hashed<'_>, packed: Packed) -> Option<Packed> {
        if let Some(cache) = &self.cache
            && let Some(old) = map.get(key)
        {
            cache.replaced(old, &packed);
        }
        map.replace(key, packed)
    }

    /// Puts an entry into a map that has grown for it, under a new key. Returns the bytes
    /// that the index grows by.
    fn insert_in(&self, map: &mut Map, key: Hashed<'_>, packed: Packed) -> i64 {
        if let Some(cache) = &self.cache {
            cache.came(key, &packed, self.account.held());
        }
        map.insert(key, packed);
        self.index.insert(key.key())
    }

    /// Removes `key` if the entry there is as `expected`. Returns true if it did. It is told
    /// as `event` if it has not expired.
    fn remove(&self, event: Event, key: Hashed<'_>, expected: Expected<'_>) -> bool {
        let mut map = write(&self.shard(key).map);
        if !expected.is_met(&map, key) {
            return false;
        }
        let changed = self.remove_from(&mut map, event, key);
        drop(map);

        if let Some(changed) = changed {
            self.tell(key.key(), changed);
        }
        true
    }

    /// Removes `key` from a map, if it is there.
    fn remove_from(&self, map: &mut Map, event: Event, key: Hashed<'_>) -> Option<Untold> {
        let old = self.take_out(map, key)?;
        self.account.record(old.cost(), 0);
        self.shrink(map);
        let bell = self.changes.append(self.removal(event, &old), key.key());
        Some(Untold { is_stored: false, bell, old: Some(old) })
    }

    /// Counts an entry that was removed for its expiry, if that is over, or to make room;
    /// returns the event of that.
    fn removal(&self, event: Event, old: &Packed) -> Event {
        if old.lives() {
            if let (Event::Evict, Some(cache)) = (event, &self.cache) {
                cache.count();
            }
            return event;
        }
        self.expired.fetch_add(1, Ordering::Relaxed);
        Event::Expire
    }

    /// Tells of a change, behind the lock of its map.
    fn tell(&self, key: &str, Untold { is_stored, bell, old }: Untold) {
        drop(bell);
        self.watch.changed(key, is_stored);
        if let Some(old) = old {
            drop(self.lend(old));
            self.heed_freed();
        }
    }

    /// Removes `key` from a map; returns its entry, of which the account still has the
    /// cost.
    fn take_out(&self, map: &mut Map, key: Hashed<'_>) -> Option<Packed> {
        let removed = map.remove(key)?;
        if let Some(cache) = &self.cache {
            cache.went(key);
        }
        self.account.record(0, self.index.remove(key.key()).cast_unsigned());
        Some(removed)
    }

    /// Shrinks a map of which removals have left much free.
    fn shrink(&self, map: &mut Map) {
        let before = map.bytes();
        map.shrink();
        self.account.record(before, map.bytes());
    }

    /// Deletes every key. The moment is the caller's alone.
    fn clear(&self) {
        // All locks at once make it one moment for every key.
        let mut maps: Vec<_> = self.shards.iter().map(|shard| write(&shard.map)).collect();
        let empty = || Map::new(self.hasher.clone());
        let emptied: Vec<Map> =
            maps.iter_mut().map(|map| mem::replace(&mut **map, empty())).collect();
        let leaves = self.index.clear();
        let freed = self.account.clear();
        if let Some(cache) = &self.cache {
            cache.clear();
        }
        let bell = self.changes.be_reborn(Revision::newborn());
        drop(maps);

        drop(bell);
        self.watch.all_changed();
        log::debug!("clearing {freed} bytes");
        drop((emptied, leaves));
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
        if self.0.cache.is_some() {
            return self.try_evicting(op);
        }
        let op = match self.attempt(op, Pace::AtOnce) {
            Ok(effect) => return Ok(Ok(effect)),
            Err(Undone::Busy(op)) => return Err(op),
            Err(Undone::Full(op, _)) => op,
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
            Err(Undone::Full(..)) => Ok(Err(Error::Full)),
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

    fn room(&self, wanted: Wanted) -> Option<u64> {
        match &self.0.cache {
            Some(cache) => Some(self.0.room_for_uploads(cache, wanted)),
            None => self.0.account.room(UPLOADS_BEYOND_BYTES),
        }
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

#[cfg(test)]
mod tests;
