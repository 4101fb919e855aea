//! The maps of all handles, and all that changes with them: the index, the account, the
//! change log, the record of uses.
//!
//! ```text
//! put, remove: under the lock of the key's map   map ─► account ─► index ─► change log
//!              behind it                         notify: watchers, waiters, the old entry freed
//! ```
//!
//! Every change of an entry goes this way: a write's, a batch's, a sweep's and an eviction's.

use super::account::Account;
use super::defragment::Defragmenter;
use super::evict::Cache;
use super::index::{Index, NewKeys};
use super::map::{Growth, Hashed, Keyed, Map};
use super::packed::Packed;
use crate::storage::changes::Bell;
use crate::storage::pool::Pool;
use crate::storage::waiters::Waiters;
use crate::storage::{Changes, Entry, Event, Limits, Revision, Time, WhenFull};
use crossbeam_channel::Sender;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

/// The number of maps that the keys are sharded over. At a hundred million keys
/// one map holds a hundred thousand and moves them in some milliseconds.
pub const KEYS_SHARDS: usize = 1024;

/// The store that all handles share.
pub struct Maps {
    pub shards: Box<[Shard]>,
    pub hasher: Keyed,
    pub account: Account,
    /// The keys of all maps. It changes under the lock of a key's map.
    pub index: Index,
    /// Held alone while several keys change at one moment, and shared while several
    /// are read. Operations on one key do without.
    pub moment: RwLock<()>,
    /// Those who wait for a key.
    pub waiters: Waiters,
    pub changes: Changes,
    /// Carries nothing; the sweeper's thread ends when this is dropped.
    pub sweeper: OnceLock<Sender<()>>,
    /// The sweeper's turn.
    pub sweeping: Mutex<()>,
    /// Counts the beginnings and the ends of sweeps: it is odd while a map holds expired
    /// entries and yet is not due.
    pub sweeps: AtomicU64,
    /// The number of entries that were removed once they had expired.
    pub expired: AtomicU64,
    /// The record of uses, of a store that evicts.
    pub cache: Option<Cache>,
    pub defragmenter: Defragmenter,
    /// A handle for threads that may not keep the store alive.
    pub own: Weak<Self>,
    /// Started with the first operation that takes long.
    pub pool: OnceLock<Pool>,
}

/// One of the maps.
pub struct Shard {
    pub map: RwLock<Map>,
    /// The next expiry in the map, in milliseconds, or an earlier moment.
    pub due: AtomicU64,
}

/// The news of a change of a key, for those who watch it or wait for it: given behind the
/// lock of its map.
#[must_use = "nobody hears of a change without it"]
pub struct Notification {
    is_stored: bool,
    bell: Bell,
    /// The entry before, to be freed there too.
    old: Option<Packed>,
}

/// The precondition of a change to a map.
#[derive(Clone, Copy)]
pub enum Expected<'a> {
    /// None.
    Anything,
    /// The same entry as before, or none as before.
    Same(Option<&'a Packed>),
    /// The same, and it has not expired since.
    Living(&'a Packed),
}

impl Expected<'_> {
    /// Returns true if it holds for the entry under a key.
    pub fn is_met(self, map: &Map, key: Hashed<'_>) -> bool {
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
    pub fn keys(&self) -> usize {
        read(&self.map).len()
    }

    /// Notes the expiry of an entry that is about to come.
    pub fn expect_expiry(&self, packed: &Packed) {
        if let Some(expiry) = packed.expiry() {
            self.due.fetch_min(expiry.to_bits(), Ordering::Relaxed);
        }
    }

    /// Returns true if it may hold an expired entry.
    pub fn is_due(&self, now: Time) -> bool {
        // What was swept before the expiry moved on is seen as swept.
        self.due.load(Ordering::Acquire) <= now.to_bits()
    }
}

impl Maps {
    /// Empty maps with these limits.
    pub fn new(limits: Limits) -> Arc<Self> {
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
        let waiters = Waiters::default();
        let changes = Changes::new(history_bytes, Revision::newborn(), false);
        Arc::new_cyclic(|own| Self {
            shards,
            hasher,
            account,
            index,
            moment,
            waiters,
            changes,
            sweeper,
            sweeping,
            sweeps,
            expired,
            cache,
            defragmenter: Defragmenter::default(),
            own: Weak::clone(own),
            pool,
        })
    }

    /// A key with its hash.
    pub fn hashed<'a>(&self, key: &'a str) -> Hashed<'a> {
        self.hasher.hashed(key)
    }

    /// The map of a key.
    pub fn shard(&self, key: Hashed<'_>) -> &Shard {
        let shard = self.shards.get(key.shard(KEYS_SHARDS));
        shard.expect("the number is below that of the shards")
    }

    /// The entry under a key, expired or not.
    pub fn stored(&self, key: Hashed<'_>) -> Option<Packed> {
        read(&self.shard(key).map).get(key).cloned()
    }

    /// The entry under a key.
    pub fn living(&self, key: &str) -> Option<Entry> {
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
    pub fn put(
        &self,
        key: Hashed<'_>,
        packed: Packed,
        expected: Expected<'_>,
    ) -> Result<bool, Packed> {
        let shard = self.shard(key);
        let mut map = write(&shard.map);
        if !expected.is_met(&map, key) {
            return Ok(false);
        }
        let notification = self.put_in(shard, &mut map, key, packed)?;
        drop(map);

        self.notify(key.key(), notification);
        Ok(true)
    }

    /// Puts an entry into a map, where the key may be new. Returns it if there is no room.
    pub fn put_in(
        &self,
        shard: &Shard,
        map: &mut Map,
        key: Hashed<'_>,
        packed: Packed,
    ) -> Result<Notification, Packed> {
        shard.expect_expiry(&packed);
        let taken = packed.cost();
        if let Some(old) = map.get(key) {
            if self.account.exchange(old.cost(), taken).is_err() {
                return Err(packed);
            }
            let old = self.replace_in(map, key, packed);
            let bell = self.changes.append(Event::Put, key.key());
            return Ok(Notification { is_stored: true, bell, old });
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
        Ok(Notification { is_stored: true, bell, old: None })
    }

    /// Puts an entry in place of the one under the same key, which is returned. A store
    /// that evicts returns none if both have one large value: that is not lent.
    pub fn replace_in(&self, map: &mut Map, key: Hashed<'_>, packed: Packed) -> Option<Packed> {
        let Some(cache) = &self.cache else { return map.replace(key, packed) };
        let has_same_value = map.get(key).is_some_and(|old| {
            cache.replaced(old, &packed);
            old.shares_value(&packed)
        });
        map.replace(key, packed).filter(|_| !has_same_value)
    }

    /// Puts an entry into a map that has grown for it, under a new key. Returns the bytes
    /// that the index grows by.
    pub fn insert_in(&self, map: &mut Map, key: Hashed<'_>, packed: Packed) -> i64 {
        if let Some(cache) = &self.cache {
            cache.inserted(key, &packed, self.account.held());
        }
        map.insert(key, packed);
        self.index.insert(key.key())
    }

    /// Removes `key` if the entry there is as `expected`. Returns true if it did. It is told
    /// as `event` if it has not expired.
    pub fn remove(&self, event: Event, key: Hashed<'_>, expected: Expected<'_>) -> bool {
        let mut map = write(&self.shard(key).map);
        if !expected.is_met(&map, key) {
            return false;
        }
        let notification = self.remove_from(&mut map, event, key);
        drop(map);

        if let Some(notification) = notification {
            self.notify(key.key(), notification);
        }
        true
    }

    /// Removes `key` from a map, if it is there.
    pub fn remove_from(
        &self,
        map: &mut Map,
        event: Event,
        key: Hashed<'_>,
    ) -> Option<Notification> {
        let old = self.take_out(map, key)?;
        self.account.record(old.cost(), 0);
        self.shrink(map);
        let bell = self.changes.append(self.removal(event, &old), key.key());
        Some(Notification { is_stored: false, bell, old: Some(old) })
    }

    /// Counts an entry that was removed for its expiry, if that is over, or to make room;
    /// returns the event of that.
    pub fn removal(&self, event: Event, old: &Packed) -> Event {
        if old.lives() {
            if let (Event::Evict, Some(cache)) = (event, &self.cache) {
                cache.count();
            }
            return event;
        }
        self.expired.fetch_add(1, Ordering::Relaxed);
        Event::Expire
    }

    /// Notifies all who watch a key or wait for it, behind the lock of its map, and frees the
    /// entry before.
    pub fn notify(&self, key: &str, Notification { is_stored, bell, old }: Notification) {
        drop(bell);
        self.waiters.changed(key, is_stored);
        if let Some(old) = old {
            drop(self.lend(old));
            self.wake_defragmenter_if_due();
        }
    }

    /// Removes `key` from a map; returns its entry, of which the account still has the
    /// cost.
    pub fn take_out(&self, map: &mut Map, key: Hashed<'_>) -> Option<Packed> {
        let removed = map.remove(key)?;
        if let Some(cache) = &self.cache {
            cache.removed(key);
        }
        self.account.record(0, self.index.remove(key.key()).cast_unsigned());
        Some(removed)
    }

    /// Shrinks a map of which removals have left much free.
    pub fn shrink(&self, map: &mut Map) {
        let before = map.bytes();
        map.shrink();
        self.account.record(before, map.bytes());
    }

    /// Deletes every key. The moment is the caller's alone.
    pub fn clear(&self) {
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
        self.waiters.all_changed();
        log::debug!("clearing {freed} bytes");
        drop((emptied, leaves));
    }
}

// A poisoned map is still whole: in every critical section a panic can come only
// before the first call that changes a map or the index, or from that call.

pub fn read(shard: &RwLock<Map>) -> RwLockReadGuard<'_, Map> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn write(shard: &RwLock<Map>) -> RwLockWriteGuard<'_, Map> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}
