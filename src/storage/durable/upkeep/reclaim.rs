//! The room for writes in a store that evicts, and what gives it back.
//!
//! Keys are evicted ahead of the writes, in steps that wait for nothing, and a
//! write that finds no space has the same steps taken until there is some. Before keys go
//! it is reckoned what those that went before, and values that were deleted or overwritten,
//! will give back:
//!
//! ```text
//! spare ◄── drop of tables
//!       ◄── release ◄── reclaim ◄── awaited ◄── eviction
//!                                           ◄── enough of: sweep, deletion, overwriting
//! ```

use super::super::compaction::{Compactor, L0_RUNS_MAX, L0_RUNS_MAX_TO_RECLAIM, Trigger};
use super::super::disk_space::Balance;
use super::super::eviction::{Evicted, Giving};
use super::super::generation::{Both, Tree};
use super::super::patience::Ending;
use super::super::tree::{BLOB_VALUE_BYTES_MIN, Keyspace, Result};
use super::{Upkeep, WAIT_MAX};
use crate::storage::{Key, Time};
use bytes::Bytes;
use std::thread;
use std::time::{Duration, Instant};

/// The time between two writes in which keys are evicted, but for the last step.
const EVICTION_TIME: Duration = Duration::from_millis(4);

/// The time of one run that gives back what was evicted, and between two beginnings.
pub const RECLAIM_TIME: Duration = Duration::from_secs(1);
const RECLAIM_INTERVAL: Duration = Duration::from_millis(20);

/// The time between two steps that nothing came of.
const WAY_WAIT: Duration = Duration::from_millis(1);

/// A write that has waited for longer has the moments dropped that are held: merges give
/// back nothing that a moment has.
const MOMENTS_WAIT_MAX: Duration = Duration::from_secs(2);

/// How many runs split the files of a store that had another limit before.
const SPLIT_RUNS_MAX: u32 = 8;

/// How many merges are tried where nothing can be evicted.
const VAIN_STEPS_MAX: u32 = 3;

/// The compaction that gives back what was evicted, deleted or overwritten.
pub struct Reclaim {
    is_running: bool,
    /// What was awaited as it began.
    awaited: Both<u64>,
    /// Eviction has begun and not come to its end.
    is_ahead: bool,
    /// How many more runs may split files of a tree that are too large for the limit.
    split_runs: Both<u32>,
    /// The next does not begin before this.
    next: Instant,
}

/// The outcome of a step on the way to spare bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// They are spare.
    Enough,
    /// Something went.
    Made,
    /// Something is under way that will give space back.
    Awaited,
    /// Nothing is left that could go.
    Nothing,
}

impl Reclaim {
    pub fn new() -> Self {
        Self {
            is_running: false,
            awaited: Both::default(),
            is_ahead: false,
            split_runs: Both { keys: SPLIT_RUNS_MAX, expiring: SPLIT_RUNS_MAX },
            next: Instant::now(),
        }
    }
}

impl Upkeep {
    pub fn evicts(&self) -> bool {
        self.eviction.is_some()
    }

    /// Evicts some keys, and has a reclaim give them back, if writes will need the space
    /// soon. Returns true if there is more to do. Blocks for no compaction.
    pub fn evict_ahead(&mut self) -> Result<bool> {
        let Some(ahead) = self.live.disk_space.ahead_bytes().filter(|_| self.evicts()) else {
            return Ok(false);
        };
        self.end_runs()?;
        let begins_below = if self.reclaim.is_ahead { ahead } else { ahead / 2 };
        self.reclaim.is_ahead = self.missing_bytes(begins_below) > 0;
        let begun = Instant::now();
        while self.reclaim.is_ahead {
            match self.make_way(ahead, false, Time::now(), &|_| false)? {
                Way::Enough => self.reclaim.is_ahead = false,
                Way::Nothing => return Ok(false),
                Way::Made if begun.elapsed() < EVICTION_TIME => {}
                Way::Made | Way::Awaited => return Ok(true),
            }
        }
        Ok(self.reclaim.is_running)
    }

    /// Has keys evicted until so many bytes are spare, for a write submitted at `since`, and
    /// waits for that as long as there is patience.
    pub fn evict_for(
        &mut self,
        needed_bytes: u64,
        since: Instant,
        until: Time,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Ending> {
        let ahead = self.live.disk_space.ahead_bytes().unwrap_or(0);
        // Each byte may be written twice.
        let wanted = (2 * needed_bytes).max(ahead);
        let mut vain_steps = 0;
        loop {
            // What others have given back counts too.
            self.live.disk_space.note_release();
            if self.spare_bytes() >= needed_bytes {
                return Ok(Ending::Enough);
            }
            if self.status.is_hurried() || since.elapsed() > WAIT_MAX {
                return Ok(Ending::TooLong);
            }
            if since.elapsed() > MOMENTS_WAIT_MAX && self.moments.drop_oldest() {
                continue;
            }
            match self.make_way(wanted, true, until, is_spared)? {
                Way::Made => {}
                Way::Enough | Way::Awaited => thread::sleep(WAY_WAIT),
                // What is above the bottom can go once it is merged.
                Way::Nothing if vain_steps < VAIN_STEPS_MAX => {
                    vain_steps += 1;
                    self.compactors.each_mut().into_iter().for_each(|it| it.is_awaited = true);
                    self.begin_compaction(Trigger::Evict(RECLAIM_TIME));
                }
                Way::Nothing => return Ok(Ending::NothingMore),
            }
        }
    }

    /// Takes a step on the way to so many spare bytes. Blocks for no compaction, but has one
    /// end early that is in the way of a write that waits.
    fn make_way(
        &mut self,
        wanted_bytes: u64,
        is_waited: bool,
        until: Time,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Way> {
        self.end_runs()?;
        let Self { live, eviction, .. } = self;
        let garbage_min = live.disk_space.garbage_bytes_min();
        if let Some(eviction) = eviction {
            eviction.await_removed(live.generation.keys(), garbage_min);
            // Else a merge takes longer than it is worth.
            let free_bytes = live.disk_space.free_bytes(&live.generation.keyspaces, 0);
            let is_worth = |keyspace: &Keyspace| 2 * keyspace.table_bytes() < free_bytes;
            eviction.await_blobs(&live.generation.keyspaces, garbage_min, is_worth);
        }
        let missing = self.missing_bytes(wanted_bytes);
        if missing <= 0 && !is_waited {
            return Ok(Way::Enough);
        }
        if self.keyspaces().l0_runs() >= L0_RUNS_MAX_TO_RECLAIM
            || (self.live.disk_space.has_outsized_l0(self.keyspaces()) && !self.is_stuck())
        {
            self.reduce_l0(is_spared)?;
            return Ok(Way::Awaited);
        }
        if !self.is_split() {
            return Ok(Way::Awaited);
        }
        let Balance { files, merges, returned, .. } = self.balance();
        let has_memtables = self.keyspaces().sealed_memtables() > 0;
        if merges < self.live.disk_space.scale().l0_max.cast_signed()
            && !has_memtables
            && !self.has_l0_stall()
        {
            if self.release_if_l0_has_room()? {
                return Ok(Way::Awaited);
            }
            if merges < 0 && self.moments.drop_oldest() {
                return Ok(Way::Made);
            }
        }
        // By one reading of the clock: what is awaited is not forgotten untried.
        let now = Instant::now();
        if returned > 0 && !has_memtables && now >= self.reclaim.next && self.end_long_journal()? {
            self.reclaim.next = now + RECLAIM_INTERVAL;
            return Ok(Way::Awaited);
        }
        self.begin_reclaim(now);
        // What is evicted and what stays is written, and a merge under way may take the rest.
        let bytes = self.live.disk_space.eviction_bytes_max();
        let awaits_merge =
            self.is_compacting() && self.live.disk_space.is_overdrawn(self.keyspaces(), bytes);
        let awaited = (self.awaited_bytes() + returned).cast_signed();
        if missing > awaited && !awaits_merge {
            if self.evict_once(until, is_spared)? > 0 {
                return Ok(Way::Made);
            }
            if is_waited || files < 0 {
                // Tables are dropped between two runs.
                self.compactors.keys.stop();
            }
        }
        if self.is_compacting()
            || has_memtables
            || self.remover.is_running()
            || self.awaits_reclaim()
        {
            return Ok(Way::Awaited);
        }
        if returned > 0 && self.evict_once(until, is_spared)? > 0 {
            // It has not come back.
            return Ok(Way::Made);
        }
        if !is_waited {
            return Ok(Way::Nothing);
        }
        if self.keyspaces().memtable_bytes() > 0 && !self.has_l0_stall() {
            self.flush()?;
            return Ok(Way::Awaited);
        }
        let was_awaited = self.awaited_bytes() > 0;
        if let Some(eviction) = &mut self.eviction {
            // No reclaim can give that back.
            eviction.awaited = Both::default();
        }
        let has_made = self.moments.drop_oldest() || was_awaited;
        Ok(if has_made { Way::Made } else { Way::Nothing })
    }

    /// Has files split that are too large for the limit, as those of a store that had another:
    /// else far more would go with each of them than has to. Returns true once that is done.
    fn is_split(&mut self) -> bool {
        let Self { live, compactors, reclaim, .. } = self;
        for tree in [Tree::Keys, Tree::Expiring] {
            let runs = reclaim.split_runs.of(tree);
            let (keyspace, compactor) = (live.generation.keyspaces.of(tree), compactors.of(tree));
            if *runs > 0 && compactor.is_running() {
                return false;
            }
            if *runs > 0 && live.disk_space.has_outsized_tables(keyspace) && !compactor.is_stuck() {
                compactor.is_awaited = true;
                compactor.begin(live, keyspace, Trigger::Evict(RECLAIM_TIME));
                *runs -= u32::from(compactor.is_running());
                return false;
            }
            *runs = 0;
        }
        true
    }

    /// Has L0 merged before anything else: each eviction, reclaim and release makes another
    /// run, and of so many the database lets a writer wait for ever.
    fn reduce_l0(&mut self, is_spared: &dyn Fn(&Key) -> bool) -> Result<()> {
        self.compactors.each_mut().into_iter().for_each(Compactor::yield_to_l0);
        self.begin_compaction(Trigger::Write);
        if self.is_compacting() || self.keyspaces().sealed_memtables() > 0 {
            return Ok(());
        }
        if !self.release_if_l0_has_room()? && self.is_stuck() {
            self.make_way_for_l0(is_spared)?;
        }
        Ok(())
    }

    /// Releases obsolete files, which makes another L0 run; false if there are none, or L0 has
    /// no room for it.
    fn release_if_l0_has_room(&mut self) -> Result<bool> {
        if !self.has_obsolete_files() || self.keyspaces().l0_runs() > L0_RUNS_MAX {
            return Ok(false);
        }
        self.release_obsolete_files()?;
        self.live.disk_space.note_release();
        Ok(true)
    }

    /// Has another journal begin if this one is long, as that of a store that had another limit;
    /// false if it is not, or L0 has no room for what it still holds.
    fn end_long_journal(&mut self) -> Result<bool> {
        let is_long = self.live.disk_space.is_journal_long();
        if !is_long || self.has_l0_stall() {
            return Ok(false);
        }
        self.release_obsolete_files()?;
        self.live.disk_space.note_release();
        Ok(true)
    }

    fn balance(&self) -> Balance {
        let unlimited =
            Balance { files: i64::MAX, journals: u64::MAX, merges: i64::MAX, returned: 0 };
        self.live.disk_space.balance(self.keyspaces()).unwrap_or(unlimited)
    }

    /// How many bytes more are to be given back for so many to be spare.
    fn missing_bytes(&self, wanted_bytes: u64) -> i64 {
        let of_disk = self.live.disk_space.spare_bytes_of_disk(self.keyspaces());
        let spare = self.balance().files.min(i64::try_from(of_disk).unwrap_or(i64::MAX));
        wanted_bytes.cast_signed().saturating_sub(spare)
    }

    /// The bytes that were evicted and that a reclaim gives back.
    fn awaited_bytes(&self) -> u64 {
        self.eviction.as_ref().map_or(0, |eviction| eviction.awaited.each().into_iter().sum())
    }

    /// Returns true if a reclaim of a tree that is not stuck will give something back.
    fn awaits_reclaim(&self) -> bool {
        self.eviction.as_ref().is_some_and(|eviction| {
            let mut trees = eviction.awaited.each().into_iter().zip(self.compactors.each());
            trees.any(|(bytes, compactor)| *bytes > 0 && !compactor.is_stuck())
        })
    }

    /// Sweeps, or else evicts some keys: how many.
    fn evict_once(&mut self, until: Time, is_spared: &dyn Fn(&Key) -> bool) -> Result<usize> {
        let swept = if self.has_expired(until) { self.sweep(until)? } else { 0 };
        if swept > 0 {
            return Ok(swept);
        }
        let giving = if self.is_stuck() { Giving::AtOnceFirst } else { Giving::InTime };
        self.evict_some(giving, is_spared)
    }

    /// The same without a sweep.
    pub(super) fn evict_some(
        &mut self,
        giving: Giving,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<usize> {
        let may_drop = !self.compactors.keys.is_running();
        let Self { live, sweep, eviction: Some(eviction), .. } = self else { return Ok(0) };
        let Evicted { keys, deletions, changes } =
            eviction.step(live, sweep, may_drop, giving, is_spared)?;
        self.compactors.keys.note(deletions + changes, deletions);
        // A drop, or a flush of what was written, may leave some.
        self.compactors.keys.has_obsolete_files |= keys > 0;
        self.has_written()?;
        Ok(keys)
    }

    /// Begins to reclaim what is awaited, unless it has just been tried.
    fn begin_reclaim(&mut self, now: Instant) {
        if self.reclaim.is_running || self.is_compacting() || now < self.reclaim.next {
            return;
        }
        let Self { live, compactors, reclaim, eviction: Some(eviction), .. } = self else { return };
        let [keys, expiring] = live.generation.keyspaces.each();
        let awaited = &eviction.awaited;
        let [of_keys, of_expiring] = [awaited.keys, awaited.expiring];
        if of_keys + of_expiring == 0 {
            return;
        }
        reclaim.next = now + RECLAIM_INTERVAL;
        let trigger = Trigger::Evict(RECLAIM_TIME);
        let is_turn_of_keys = match compactors.each().map(Compactor::is_stuck) {
            [true, false] => of_expiring == 0,
            [false, true] => of_keys > 0,
            [true, true] | [false, false] => of_keys >= of_expiring,
        };
        if is_turn_of_keys {
            compactors.keys.is_awaited = true;
            compactors.keys.begin(live, keys, trigger);
            reclaim.awaited = Both { keys: awaited.keys, expiring: 0 };
        } else {
            compactors.expiring.is_awaited = true;
            compactors.expiring.begin(live, expiring, trigger);
            reclaim.awaited = Both { keys: 0, expiring: awaited.expiring };
        }
        self.reclaim.is_running = self.is_compacting();
    }

    /// Ends runs that are done, and releases the files of a reclaim.
    fn end_runs(&mut self) -> Result<()> {
        for compactor in self.compactors.each_mut() {
            compactor.has_finished();
        }
        if !self.reclaim.is_running || self.is_compacting() {
            return Ok(());
        }
        self.reclaim.is_running = false;
        self.release_obsolete_files()?;
        self.live.disk_space.note_release();
        // A run that was cut short has given some back, and one that had L0 to reduce nothing.
        let Self { live, compactors, reclaim, eviction: Some(eviction), .. } = self else {
            return Ok(());
        };
        for tree in [Tree::Keys, Tree::Expiring] {
            let awaited = *reclaim.awaited.of(tree);
            let keyspace = live.generation.keyspaces.of(tree);
            let (deletions, stale) = (keyspace.table_deletions(), keyspace.stale_blob_bytes());
            let left = compactors.of(tree).left_of(awaited, deletions, stale);
            let all = eviction.awaited.of(tree);
            *all = all.saturating_sub(awaited - left);
        }
        Ok(())
    }

    /// Notes what goes where a key is deleted, or written with a large record. The expiry is
    /// that of a large record that goes.
    pub(super) fn note_garbage(
        &mut self,
        key: &Key,
        record: Option<&Bytes>,
        expiry: Option<Time>,
    ) -> Result<()> {
        let Self { live, eviction: Some(eviction), .. } = self else { return Ok(()) };
        if record.is_some_and(|record| record.len() < BLOB_VALUE_BYTES_MIN as usize) {
            return Ok(());
        }
        eviction.note_garbage(&live.generation.keyspaces, key, expiry, record.is_some())
    }

    /// Forgets what went, and what was overwritten, in other trees.
    pub(super) fn forget_evicted(&mut self) {
        self.reclaim.awaited = Both::default();
        if let Some(eviction) = &mut self.eviction {
            eviction.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Limits;
    use crate::storage::durable::directory::Directory;
    use crate::storage::durable::eviction::{self, Eviction};
    use crate::storage::durable::generation::Keyspaces;
    use crate::storage::durable::live::Live;
    use crate::storage::waiters::Waiters;
    use std::sync::Arc;
    use tempfile::TempDir;

    const LIMIT: u64 = 16 << 20;

    /// The upkeep of a store that evicts, and its directory.
    struct Store {
        upkeep: Upkeep,
        keyspaces: Arc<Keyspaces>,
        _directory: (Directory, TempDir),
    }

    impl Store {
        fn new() -> Self {
            let limits = Limits { bytes: LIMIT, ..Limits::default() };
            let (live, directory) = Live::of_new_store(limits);
            let keyspaces = Arc::clone(&live.generation.keyspaces);
            let eviction = Eviction::new(LIMIT, eviction::uses(LIMIT), Waiters::default());
            let upkeep = Upkeep::new(live, Arc::default(), Arc::default(), Some(eviction));
            Self { upkeep, keyspaces, _directory: directory }
        }

        /// Makes an L0 run of so many keys, each with a thousand bytes.
        fn write(&self, keys: usize) {
            let Keyspaces { keys: keyspace, .. } = &*self.keyspaces;
            for number in 0..keys {
                let word = |at: usize| eviction::hash(&format!("{number} {at}")).to_be_bytes();
                let value: Vec<u8> = (0..125).flat_map(word).collect();
                keyspace.insert(format!("{number:04}"), value).expect("it is written");
            }
            keyspace.flush_and_wait().expect("it is in a file");
        }
    }

    /// The database lets a writer wait for ever at thirty.
    #[test]
    fn many_l0_runs_are_merged_before_anything_is_evicted() {
        let mut store = Store::new();
        // The first is moved to the last level.
        for _ in 0..=L0_RUNS_MAX_TO_RECLAIM {
            store.write(10);
        }
        let Store { upkeep, keyspaces, .. } = &mut store;
        assert!(keyspaces.l0_runs() >= L0_RUNS_MAX_TO_RECLAIM);
        let way = upkeep.make_way(LIMIT, true, Time::now(), &|_| false);
        assert_eq!(way.unwrap_or_else(|err| panic!("{err}")), Way::Awaited);
        assert!(upkeep.compactors.keys.finish());
        assert!(keyspaces.l0_runs() < L0_RUNS_MAX_TO_RECLAIM);
    }

    /// Else what is awaited of it would be awaited for ever.
    #[test]
    fn a_reclaim_ends_though_l0_of_the_other_tree_is_full() {
        let mut store = Store::new();
        for _ in 0..3 {
            store.write(600);
        }
        let Store { upkeep, .. } = &mut store;
        assert!(upkeep.has_l0_stall());
        let eviction = upkeep.eviction.as_mut().expect("it evicts");
        eviction.awaited.expiring = 1000;
        upkeep.begin_reclaim(Instant::now());
        assert!(upkeep.reclaim.is_running);
        upkeep.compactors.expiring.finish();
        assert!(upkeep.has_l0_stall());
        upkeep.end_runs().unwrap_or_else(|err| panic!("{err}"));
        assert!(!upkeep.reclaim.is_running);
        assert_eq!(upkeep.awaited_bytes(), 0);
    }
}
