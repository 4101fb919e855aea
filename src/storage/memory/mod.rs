//! The in-memory engine: hash maps behind locks, and an index of their sorted keys.
//!
//! ```text
//! try_now ──► attempt ──► maps: the lock of one map, or of all that a batch needs
//!    │           ▲
//!    │ takes long, has no room, or others are in the way
//!    ▼           │
//! submit ──► a thread of the pool: makes room by sweeps or evictions
//! ```
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
mod maps;
mod packed;
mod report;
mod sweep;

use super::pool::Pool;
use super::waiters::Waiters;
use super::{BatchOp, Change, Changes, Decision, Done, Effect, Entry, Error, Event, Key, Limits};
use super::{Op, Outage, Outcome, Storage, Time, Updated, Wanted};
use crate::metrics::Exposition;
use crate::platform::scheduling;
use account::Full;
use map::{Hashed, Map};
pub use maps::KEYS_SHARDS;
use maps::{Expected, Maps, Notification, Shard, write};
use packed::Packed;
use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, TryLockResult, Weak,
};

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
        let maps = Maps::new(limits);
        evict::start_evictor(&maps);
        Self(maps)
    }

    /// The bytes held: keys, their index, values and overhead, as the allocator gives
    /// them.
    pub fn held(&self) -> u64 {
        self.0.account.held()
    }

    /// Returns true for an operation on many keys or on a value that is large.
    fn takes_long(&self, op: &Op) -> bool {
        let is_large = |key: &Key| {
            self.0.stored(self.0.hashed(key.as_str())).is_some_and(|packed| packed.is_large())
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
                listing.with_entries || listing.delimiter.is_some() || self.0.due().is_some()
            }
            Op::Clear | Op::Count(_) => true,
        }
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
                    let is_put = self.0.put(key, packed, expected).map_err(|packed| {
                        // What makes room for it spares what has just been used.
                        self.0.note_use(current.as_ref());
                        Full::of(packed)
                    })?;
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
        let (after, notification) =
            self.change_in(shard, &mut map, key, before.as_ref(), change)?;
        drop(map);

        if let Some(notification) = notification {
            self.0.notify(key.key(), notification);
        }
        Ok(Updated { before, after })
    }

    /// Decides on a change of a map and does it. Returns the entry since then, and the
    /// notification to be given.
    fn change_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: Hashed<'_>,
        before: Option<&Entry>,
        change: &mut Change,
    ) -> Result<(Option<Entry>, Option<Notification>), Full> {
        Ok(match change(before) {
            Decision::Keep | Decision::Refuse => (before.cloned(), None),
            Decision::Remove => (None, self.0.remove_from(map, Event::Delete, key)),
            Decision::Replace(entry) => {
                let packed = self.packed(key, &entry);
                let put = self.0.put_in(shard, map, key, packed);
                (Some(entry), Some(put.map_err(Full::of)?))
            }
        })
    }
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

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for Memory {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if self.takes_long(&op) {
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

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.0.waiters)
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
