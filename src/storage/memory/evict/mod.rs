//! Eviction: a full store lets the entries go that will be of the least use.
//!
//! ```text
//! write:    do it, within a small debt ──► evict a few ──► still over: ring
//! evictor:  rung: evict down to the bound, and what uploads want
//! a step:   what has expired, else the least worth of some neighbours at a random place
//! ```
//!
//! This is sampled eviction, as Redis has it: no list of all entries in order. An entry
//! records its own uses, and a record of [`Frequencies`] those of keys that were evicted
//! (ghost entries): one that comes back is known. The worth of an entry is that of a byte of
//! it, so of two that are used as often the larger goes first. What has just been used is
//! spared, for its writer may read it next.
//!
//! Some requests are for what was used often (LFU), and some for what was used lately (LRU):
//! `dueling` finds out which. `lent` keeps what is removed and yet being sent in the account,
//! and `resident` the process within its limit.
//!
//! Expired entries go as a sweep removes them, and an eviction is a removal like any other,
//! under the lock of its map alone. Whoever evicts holds no lock of the store.

mod dueling;
mod lent;
mod resident;

use super::map::Hashed;
use super::maps::{Expected, KEYS_SHARDS, Maps, Shard, read};
use super::packed::Packed;
use super::{Memory, Pace, Undone, unless_taken};
use crate::storage::frequency::{Access, Frequencies, chance};
use crate::storage::{Effect, Error, Event, Op, Outcome, Time, Wanted};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use dueling::{Dueling, Group};
use lent::Lent;
use resident::{CHECK_BYTES_MAX, CHECK_INTERVAL_SHORT, Governor, Resident};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;

/// The most entries that a write evicts beside those of its own number.
const EVICTIONS_MAX: usize = 16;

/// The rounds of an operation that others take the room of.
const ROUNDS_MAX: usize = 64;

/// The entries that a step looks at.
const SAMPLED: usize = 48;

/// Of so many that were looked at one is evicted.
const SAMPLED_EACH: usize = 12;

/// An entry is spared for this part of a turnover after its last use, and for as long as
/// twice its own bytes take to be replaced.
const SPARED_TURNOVERS: f32 = 1.0 / 16.0;

/// The worth of an entry that is spared, less its age: it goes only before others that are,
/// and the oldest first.
const SPARED_WORTH: f32 = 1e4;

/// An entry that is a greater part of a store than one of so many passes the time by its
/// bytes.
const LARGE_PARTS: u64 = 64;

/// The bytes of a store for each key that its record has room for.
const BYTES_EACH_KEY: u64 = 512;

/// The most keys that it has room for.
const RECORDED_KEYS_MAX: u64 = 1 << 24;

/// The bytes of uploads that have room beside a full store, and the part of it that makes
/// room for more.
const UPLOADS_BYTES_MIN: u64 = 4 << 20;
const UPLOADS_PART: u64 = 8;

/// With a greater debt no upload begins.
const UPLOADS_DEBT_BYTES: u64 = 1 << 20;

/// The entries that the evictor removes before it checks the process again.
const EVICTED_AT_ONCE: usize = 512;

/// The record of uses of a store that evicts, and its evictor.
pub struct Cache {
    frequencies: Frequencies,
    dueling: Dueling,
    evicted: AtomicU64,
    /// The bytes evicted since the last check of resident memory.
    evicted_bytes: AtomicU64,
    /// The next expiry of all maps, in milliseconds, or an earlier moment.
    due: AtomicU64,
    /// The next of the expiries that were noted since the last look at all maps began.
    due_since: AtomicU64,
    lent: Mutex<Lent>,
    /// The bytes that uploads want beside what is stored.
    wanted: AtomicU64,
    /// Set while uploads wait for memory to come together, or the process takes far too much.
    is_tight: AtomicBool,
    /// The resident bytes of the process but for those of its threads, if it has no memory
    /// for much else.
    resident: OnceLock<Resident>,
    /// Rings for the evictor, whose thread ends when this is dropped.
    evictor: OnceLock<Sender<()>>,
}

/// The entries of the least worth so far, ascending.
type Victims = SmallVec<[(f32, Packed); SAMPLED / SAMPLED_EACH]>;

/// Neighbours of a map, with the bits of their uses.
type Sample<'a> = SmallVec<[(&'a Packed, u32); 64]>;

impl Cache {
    /// That of an empty store of so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        let keys = (bytes_max / BYTES_EACH_KEY).min(RECORDED_KEYS_MAX);
        Self {
            frequencies: Frequencies::with_keys(usize::try_from(keys).unwrap_or(usize::MAX)),
            dueling: Dueling::default(),
            evicted: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
            due_since: AtomicU64::new(u64::MAX),
            lent: Mutex::default(),
            wanted: AtomicU64::new(0),
            is_tight: AtomicBool::new(false),
            resident: OnceLock::new(),
            evictor: OnceLock::new(),
        }
    }

    /// The bytes of its record.
    pub fn bytes(&self) -> u64 {
        self.frequencies.bytes()
    }

    /// The entries that were evicted.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn count(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a use of an entry.
    pub fn used(&self, packed: &Packed) {
        let seen = Access::from_bits(packed.access());
        let used = seen.again(self.frequencies.turn());
        // Threads that use it at the same moment may write over each other.
        if used != seen {
            packed.set_access(used.to_bits());
        }
    }

    /// Notes an entry that takes the place of another.
    pub fn replaced(&self, old: &Packed, new: &Packed) {
        let seen = Access::from_bits(old.access());
        let used = seen.again(self.frequencies.turn());
        new.set_access(used.to_bits());
        self.expect_expiry(new);
    }

    /// Notes an entry under a key that was absent, in a store that holds so many bytes.
    pub fn inserted(&self, key: Hashed<'_>, packed: &Packed, held: u64) {
        let group = Group::of_key(key);
        self.dueling.inserted(group);
        // What comes to a full store takes the place of another, and is younger than all
        // that was used before.
        let turnover = match held / packed.cost().max(1) {
            // It takes that of many, and those that come one after the other are told apart.
            few @ ..LARGE_PARTS => usize::try_from(few).unwrap_or(usize::MAX).max(1),
            _ => self.dueling.keys(),
        };
        self.frequencies.pass(turnover);
        let remembered = self.frequencies.recall(key.hash());
        let access = Access::first(self.frequencies.turn(), remembered);
        packed.set_access(access.to_bits());
        self.expect_expiry(packed);
        self.dueling.missed(group);
    }

    /// Notes that a key has gone.
    pub fn removed(&self, key: Hashed<'_>) {
        self.dueling.removed(Group::of_key(key));
    }

    /// Notes that all keys have gone. All maps are locked.
    pub fn clear(&self) {
        self.dueling.clear();
    }

    /// Notes the expiry of an entry, behind that of its shard.
    fn expect_expiry(&self, packed: &Packed) {
        if let Some(expiry) = packed.expiry() {
            self.due_since.fetch_min(expiry.to_bits(), Ordering::SeqCst);
            self.due.fetch_min(expiry.to_bits(), Ordering::SeqCst);
        }
    }

    /// Asks for room for uploads.
    pub fn want(&self, bytes: u64) {
        self.wanted.store(bytes, Ordering::Relaxed);
        self.ring();
    }

    fn ring(&self) {
        if let Some(evictor) = self.evictor.get() {
            // Once it is rung it looks at everything.
            evictor.try_send(()).ok();
        }
    }
}

impl Memory {
    /// Does `op` if it takes no longer than a few evictions, else gives it back.
    pub(super) fn try_evicting(&self, op: Op) -> Result<Outcome, Op> {
        let (op, wanted) = match self.attempt_and_evict(op, Pace::AtOnce) {
            Ok(effect) => return Ok(Ok(effect)),
            Err(Undone::Busy(op)) => return Err(op),
            Err(Undone::Full(op, wanted)) => (op, wanted),
        };
        if !self.0.account.can_hold(wanted) {
            return Ok(Err(Error::Full));
        }
        self.0.make_room(wanted, 0, EVICTIONS_MAX, Pace::AtOnce);
        match self.attempt_and_evict(op, Pace::AtOnce) {
            Ok(effect) => Ok(Ok(effect)),
            Err(Undone::Busy(op) | Undone::Full(op, _)) => Err(op),
        }
    }

    /// Does `op`, however many entries have to go for it. What can never fit is refused,
    /// and nothing goes for that.
    pub(super) fn perform_evicting(&self, mut op: Op) -> Outcome {
        for _ in 0..ROUNDS_MAX {
            match self.attempt_and_evict(op, Pace::AtLength) {
                Ok(effect) => return Ok(effect),
                Err(Undone::Busy(back)) => op = back,
                Err(Undone::Full(_, wanted)) if !self.0.account.can_hold(wanted) => break,
                Err(Undone::Full(back, wanted)) => {
                    self.0.make_room(wanted, 0, usize::MAX, Pace::AtLength);
                    op = back;
                }
            }
        }
        Err(Error::Full)
    }

    /// Does `op`, and evicts a few entries if that has brought the store over its bound.
    fn attempt_and_evict(&self, op: Op, pace: Pace) -> Result<Effect, Undone> {
        let keys = match &op {
            Op::Get(_) | Op::Delete(_) | Op::Clear | Op::List(_) | Op::Count(_) => None,
            Op::Set(..) | Op::Update(..) | Op::UpdateFirst(..) => Some(1),
            Op::Batch(ops) | Op::Each(ops) => Some(ops.len()),
        };
        let effect = self.attempt(op, pace)?;
        if let Some(keys) = keys {
            self.0.evict_to_bound(keys);
        }
        Ok(effect)
    }
}

impl Maps {
    /// Notes a use of an entry that was read, where that is of use.
    pub fn note_use(&self, packed: Option<&Packed>) {
        if let (Some(cache), Some(packed)) = (&self.cache, packed) {
            cache.used(packed);
        }
    }

    /// The bytes that uploads may take. They get the room of a part of what is stored, and
    /// some more; none while the process has no memory for what is coming.
    pub fn room_for_uploads(&self, cache: &Cache, wanted: Wanted) -> u64 {
        let (most, left) = (self.account.bound() / UPLOADS_PART, self.account.left());
        let Wanted { bytes, coming } = wanted;
        if left + UPLOADS_BYTES_MIN < bytes.min(most + UPLOADS_BYTES_MIN) {
            cache.want(bytes.saturating_sub(UPLOADS_BYTES_MIN).min(most));
        }
        if self.account.exceeds(0, UPLOADS_DEBT_BYTES) || !self.has_memory_for(cache, coming) {
            return 0;
        }
        left.min(most) + UPLOADS_BYTES_MIN
    }

    /// Evicts some entries where the store is over its bound, as many at most as a write of
    /// so many keys may wait for.
    pub fn evict_to_bound(&self, keys: usize) {
        let Some(cache) = &self.cache else { return };
        if !self.account.is_over(0) {
            return;
        }
        let spared = cache.lent().bytes_in_hand();
        self.make_room(0, spared, EVICTIONS_MAX + 2 * keys, Pace::AtOnce);
        if cache.evicted_bytes.load(Ordering::Relaxed) >= CHECK_BYTES_MAX {
            // The evictor has no time for it.
            cache.evicted_bytes.store(0, Ordering::Relaxed);
            self.trim_memory();
        }
        if self.account.is_over(0) || cache.is_check_due() {
            cache.ring();
        }
    }

    /// Evicts until there is room for so many bytes but for those spared, or so many entries
    /// are gone. Returns the number of these.
    pub fn make_room(&self, bytes: u64, spared: u64, evictions_max: usize, pace: Pace) -> usize {
        let Some(cache) = &self.cache else { return 0 };
        let is_over = || self.account.exceeds(bytes, spared);
        if is_over() {
            self.take_back(cache);
        }
        let mut gone = 0;
        while gone < evictions_max && is_over() {
            match self.evict_some(cache, evictions_max - gone, pace) {
                0 => break,
                some => gone += some,
            }
        }
        gone
    }

    /// Removes a few entries, so many at most. Returns their number, which is zero if there
    /// are none, or if others make room and there is no time to wait for them.
    fn evict_some(&self, cache: &Cache, most: usize, pace: Pace) -> usize {
        match self.sweep_some(cache, most, pace) {
            Some(0) => {}
            Some(expired) => return expired,
            None => return 0,
        }
        let mut victims = self.victims(cache, cache.dueling.group());
        if victims.is_empty() {
            // Its keys have gone since.
            victims = self.victims(cache, None);
        }
        victims.truncate(most);
        victims.iter().for_each(|(_, victim)| self.evict(cache, victim));
        victims.len()
    }

    /// Removes some expired entries, so many at most. Returns their number, or none while
    /// another sweep removes them.
    fn sweep_some(&self, cache: &Cache, most: usize, pace: Pace) -> Option<usize> {
        let now = Time::now();
        if cache.due.load(Ordering::SeqCst) > now.to_bits() {
            return Some(0);
        }
        let _turn = match pace {
            Pace::AtOnce => unless_taken(self.sweeping.try_lock())?,
            Pace::AtLength => self.sweeping.lock().unwrap_or_else(PoisonError::into_inner),
        };
        // An expiry that is noted from here on is noted here, or its shard is looked at.
        cache.due_since.store(u64::MAX, Ordering::SeqCst);
        let (mut swept, mut due) = (0, u64::MAX);
        for shard in &self.shards {
            if swept == 0 && shard.is_due(now) {
                swept = self.sweep_step(shard, now, most);
            }
            due = due.min(shard.due.load(Ordering::SeqCst));
        }
        cache.due.store(due, Ordering::SeqCst);
        cache.due.fetch_min(cache.due_since.load(Ordering::SeqCst), Ordering::SeqCst);
        Some(swept)
    }

    /// The entries of the least worth among some neighbours, of a group if there is one.
    #[allow(clippy::cast_precision_loss, reason = "a byte more or less is none")]
    fn victims(&self, cache: &Cache, group: Option<Group>) -> Victims {
        let (turn, policy) = (cache.frequencies.turn(), cache.dueling.policy(group));
        let held = self.account.held().max(1) as f32;
        let (mut victims, mut looked) = (Victims::new(), 0);
        let shards = group.map_or(KEYS_SHARDS, Group::shards);
        let shard_at = |place| self.shards.get(group.map_or(place, |group| group.shard(place)));
        // The fuller one of two places: so all have as many keys, about.
        let (one, other) = (chance() as usize % shards, chance() as usize % shards);
        let keys = |place| shard_at(place).map_or(0, Shard::keys);
        let start = if keys(one) < keys(other) { other } else { one };
        for place in (start..shards).chain(0..start) {
            let Some(shard) = shard_at(place) else { continue };
            let map = read(&shard.map);
            // All are fetched at once, and not one after the other.
            let sample: Sample<'_> = map
                .sample(random(), SAMPLED - looked)
                .map(|packed| (packed, packed.access()))
                .collect();
            for (packed, access) in sample {
                looked += 1;
                let (access, cost) = (Access::from_bits(access), packed.cost() as f32);
                let age = access.age(turn);
                let is_spared = age < SPARED_TURNOVERS + 2.0 * cost / held || packed.is_lent();
                let worth = if is_spared {
                    SPARED_WORTH - age
                } else {
                    access.worth(turn, policy) - cost.log2()
                };
                let rank = victims.partition_point(|(less, _)| *less < worth);
                if rank < (looked / SAMPLED_EACH).max(1) {
                    victims.insert(rank, (worth, packed.clone()));
                }
            }
            if looked >= SAMPLED {
                break;
            }
        }
        victims.truncate((looked / SAMPLED_EACH).max(1));
        victims
    }

    /// Removes an entry, if it is the one under its key yet.
    fn evict(&self, cache: &Cache, victim: &Packed) {
        let key = self.hashed(victim.key());
        if self.remove(Event::Evict, key, Expected::Same(Some(victim))) {
            let access = Access::from_bits(victim.access());
            cache.frequencies.remember(key.hash(), access.priority());
            cache.evicted_bytes.fetch_add(victim.cost(), Ordering::Relaxed);
        }
    }
}

/// A number by chance.
fn random() -> u64 {
    u64::from(chance()) << 32 | u64::from(chance())
}

/// Starts the thread that evicts what writes leave.
pub fn start_evictor(maps: &Arc<Maps>) {
    let Some(cache) = &maps.cache else { return };
    let (bell, rung) = crossbeam_channel::bounded(1);
    let weak = Arc::downgrade(maps);
    let evictor = thread::Builder::new().name("evictor".to_owned());
    match evictor.spawn(move || run(&weak, &rung)) {
        Ok(_) => {
            cache.evictor.get_or_init(|| bell);
        }
        // Writes evict too.
        Err(err) => log::warn!("no thread to make room ahead of writes: {err}"),
    }
}

fn run(maps: &Weak<Maps>, rung: &Receiver<()>) {
    let (mut governor, mut has_lent) = (Governor::new(), false);
    loop {
        let interval = if has_lent { CHECK_INTERVAL_SHORT } else { governor.interval() };
        match rung.recv_timeout(interval) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(maps) = maps.upgrade() else { return };
        let Some(cache) = &maps.cache else { return };
        has_lent = maps.take_back(cache);
        let wanted = cache.wanted.swap(0, Ordering::Relaxed);
        loop {
            let spared = cache.lent().bytes_in_hand();
            let evicted = maps.make_room(wanted, spared, EVICTED_AT_ONCE, Pace::AtLength);
            governor.govern(&maps, cache);
            if evicted < EVICTED_AT_ONCE {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
