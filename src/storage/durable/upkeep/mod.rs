//! The upkeep of the open database: batches, sweeps, clears, compaction, and space.
//!
//! It happens on one thread, the committer's, but for runs that merge or remove
//! files. Every failure is the database's own error, and the committer decides on its
//! consequences. Nothing here knows of clients.
//!
//! Space is made in rounds of bounded time: a round drops the oldest moment that is held;
//! else it waits for the removal of a cleared generation; else it compacts what expires,
//! and the keys if that is not enough, and sweeps.

mod reclaim;

use super::commit_group::Draft;
use super::compaction::{self, Compactor, L0_RUNS_MAX, L0_RUNS_MAX_TO_RECLAIM, Trigger};
use super::eviction::{Eviction, Giving};
use super::expiry::{Sweep, Tally};
use super::generation::{Both, Keyspaces};
use super::held_moments::HeldMoments;
use super::journal::preallocate;
use super::live::Live;
use super::look::{Seen, Trees};
use super::patience::{Ending, Patience, Round};
use super::remover::Remover;
use super::reopen::{Reopened, Reopener};
use super::status::Status;
use super::tree::{Keyspace, Result, Step, WriteBatch, unless_panic};
use crate::storage::{KEY_BYTES_MAX, Key, Revision, Time};
use reclaim::{RECLAIM_TIME, Reclaim};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// From so many sealed memtables on a write waits: at four the database would let
/// it wait for ever if they never are flushed.
const SEALED_MEMTABLES_MAX: usize = 3;

/// The longest that a write waits for space, after it was submitted where that is to be
/// evicted: less than clients and proxies do, which is 30 s and more.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The longest that a sweep waits, and anybody once the store is about to close.
const SWEEP_WAIT_MAX: Duration = Duration::from_secs(1);
const HURRIED_WAIT_MAX: Duration = Duration::from_secs(1);

/// The time between two releases of files that a reader may hold.
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);

/// The time between two looks at a write stall.
const STALL_WAIT: Duration = Duration::from_millis(1);

pub struct Upkeep {
    pub live: Live,
    pub sweep: Sweep,
    pub moments: Arc<HeldMoments>,
    status: Arc<Status>,
    compactors: Both<Compactor>,
    remover: Remover,
    /// There is none where a full store refuses writes.
    eviction: Option<Eviction>,
    reclaim: Reclaim,
}

impl Upkeep {
    pub fn new(
        live: Live,
        moments: Arc<HeldMoments>,
        status: Arc<Status>,
        eviction: Option<Eviction>,
    ) -> Self {
        let sweep = Sweep::new(&live.generation.keyspaces);
        let (compactors, remover) = (Both::default(), Remover::default());
        let reclaim = Reclaim::new();
        Self { live, sweep, moments, status, compactors, remover, eviction, reclaim }
    }

    pub fn keyspaces(&self) -> &Arc<Keyspaces> {
        &self.live.generation.keyspaces
    }

    /// Returns true if it is the disk that has no space for so many bytes, and not the limit.
    pub fn is_disk_full(&self, bytes: u64) -> bool {
        self.live.disk_space.spare_bytes_of_disk(self.keyspaces()) < bytes
    }

    /// How many bytes a write may have where there is so much to spare: a store that refuses
    /// writes leaves some of that for deletions.
    pub fn spare_bytes_for_growth(&self) -> u64 {
        let kept = if self.evicts() { 0 } else { self.live.disk_space.deletions_bytes() };
        self.spare_bytes().saturating_sub(kept)
    }

    /// How many bytes can be written while enough is kept free.
    pub fn spare_bytes(&self) -> u64 {
        self.live.disk_space.spare_bytes(self.keyspaces())
    }

    /// A batch of the changes of a draft, once the trees have kept up with those before;
    /// `None` if they cannot within the limit, and the first was submitted long ago.
    pub fn batch(&mut self, draft: &Draft, since: Instant) -> Result<Option<WriteBatch>> {
        let deletions = draft.records.values().filter(|drafted| drafted.record.is_none()).count();
        self.compactors.keys.note(draft.records.len(), deletions);
        let deadline = since + WAIT_MAX;
        if !self.wait_out_write_stall(draft.bytes as u64, deadline, &|key| draft.depends_on(key))? {
            return Ok(None);
        }
        let mut batch = self.live.batch_of(draft.events().map(|(_, key)| key));
        for (key, drafted) in &draft.records {
            let record = drafted.record.clone();
            let expiry = self.sweep.put(&mut batch, &self.live.generation.keyspaces, key, record);
            self.note_garbage(key, drafted.record.as_ref(), expiry)?;
        }
        self.sweep.note_clocks(&mut batch, &self.live.generation.keyspaces);
        Ok(Some(batch))
    }

    /// Commits the batch of a draft, and tells the watchers. Once this returns, it lasts.
    pub fn commit(&mut self, batch: WriteBatch, draft: &Draft) -> Result<()> {
        self.live.note(self.live.database().visible_number(), draft.bytes);
        if !self.live.data().goes_along() {
            self.live.check_place()?;
        }
        let begun = Instant::now();
        let invalidation = self.keyspaces().cache.invalidate(draft.records.keys().map(Key::as_str));
        batch.commit()?;
        drop(invalidation);
        self.live.figures.note_sync(begun.elapsed());
        self.live.disk_space.note(draft.bytes);
        // A write to a directory that was removed is not acknowledged.
        self.live.check_folder()?;
        // Whatever fails from here on, it is on the disk, and readers see it.
        if let Some(eviction) = &mut self.eviction {
            eviction.note_writes(draft);
        }
        self.live.append(draft.events());
        self.has_written()
    }

    /// Notes the changes to what expires, and flushes memtables that are due.
    fn has_written(&mut self) -> Result<()> {
        let Tally { changes, deletions } = self.sweep.take_large();
        self.compactors.expiring.note(changes, deletions);
        let Live { generation, .. } = &mut self.live;
        generation.sync_blob_names()?;
        if self.live.disk_space.is_limited() {
            self.keyspaces().note_memtable_bytes();
        }
        if !self.live.generation.is_full(self.live.disk_space.scale().memtable) {
            return Ok(());
        }
        self.flush()
    }

    /// Has both memtables flushed, and another journal begun if this one is long.
    fn flush(&mut self) -> Result<()> {
        if self.compactors.expiring.has_obsolete_files {
            // A journal is kept until files have something newer than it has, and the
            // newest may have been merged away.
            self.live.widen_bounds(self.live.generation.expiring())?;
        }
        if self.live.disk_space.is_journal_long() {
            let data = self.live.data().path();
            return preallocate::end_journal(data, || self.live.generation.flush());
        }
        self.live.generation.flush()
    }

    /// Deletes every key: an empty generation takes the place of the one in use.
    pub fn clear(&mut self) -> Result<()> {
        self.live.check_place()?;
        let newborn = Revision::newborn();
        let Live { generation, .. } = &self.live;
        let next = generation.next(self.live.database(), self.live.data().path(), newborn)?;
        self.live.inventory.begin(&next)?;
        self.live.check_place()?;
        let old = self.live.replace(next);
        drop(self.live.changes.be_reborn(newborn));
        let runs = self.compactors.each_mut().map(Compactor::forget);
        self.sweep = Sweep::new(self.keyspaces());
        self.forget_evicted();
        self.remover.remove(self.live.database().clone(), old, runs.into_iter().flatten());
        Ok(())
    }

    pub fn has_expired(&self, until: Time) -> bool {
        self.sweep.has_expired(self.live.generation.keys(), until)
    }

    /// Removes some of the keys that had expired by then, and counts them. Within a limit it
    /// waits for no long stall.
    pub fn sweep(&mut self, until: Time) -> Result<usize> {
        let begun = Instant::now();
        if !self.wait_out_write_stall(0, begun + SWEEP_WAIT_MAX, &|_| false)? {
            self.sweep.postpone(begun.elapsed());
            return Ok(0);
        }
        self.live.check_place()?;
        let floor = self.live.database().visible_number();
        let Live { generation, changes, .. } = &self.live;
        let swept = self.sweep.step(self.live.database(), generation, changes, until)?;
        if let Some(eviction) = &mut self.eviction {
            eviction.note_swept(swept, &generation.keyspaces);
        }
        let removed = swept.keys;
        if removed > 0 {
            self.live.note(floor, removed * KEY_BYTES_MAX);
        }
        self.live.figures.note_expired(removed);
        self.compactors.keys.note(removed, removed);
        self.has_written()?;
        Ok(removed)
    }

    /// Sweeps for about so long; `false` if nothing had expired.
    fn sweep_for(
        &mut self,
        time: Duration,
        until: Time,
        is_hurried: &impl Fn() -> bool,
    ) -> Result<bool> {
        let begun = Instant::now();
        let mut removed = self.sweep(until)?;
        while self.sweep.has_more && begun.elapsed() < time && !is_hurried() {
            removed += self.sweep(until)?;
        }
        Ok(removed > 0)
    }

    /// Notes the clocks on the disk if they were set.
    pub fn note_clock_step(&mut self) -> Result<()> {
        if self.sweep.has_clock_step(self.keyspaces()) { self.note_clocks() } else { Ok(()) }
    }

    fn note_clocks(&mut self) -> Result<()> {
        let mut batch = self.live.batch();
        self.sweep.note_clocks(&mut batch, &self.live.generation.keyspaces);
        batch.commit()
    }

    /// Notes the state of the disk, and that of the trees unless the database has failed.
    pub fn look(&self, has_failed: bool) {
        let Live { database, generation, disk_space, figures, .. } = &self.live;
        let before = figures.seen();
        let mut seen = Seen {
            disk: disk_space.free_and_reserved_bytes().or(before.disk),
            journal_bytes: disk_space.journal_bytes().unwrap_or(before.journal_bytes),
            held_moments: self.moments.count(),
            limited: disk_space.used_and_limit_bytes(&generation.keyspaces),
            ..before
        };
        if let Some(database) = database.as_ref().filter(|_| !has_failed) {
            // After a panic the figures stay as they are.
            let looked =
                unless_panic(|| Ok(Trees::look(database, &generation.keyspaces, &seen.trees)));
            seen.trees = looked.unwrap_or(seen.trees);
        }
        figures.note_seen(seen);
    }

    /// Fails if the database cannot be written to. Frees what it does not need any more.
    pub fn check(&mut self) -> Result<()> {
        self.live.check_place()?;
        self.live.generation.sync_blob_names()?;
        self.keyspaces().each().into_iter().for_each(Keyspace::free_memtables);
        self.live.database().check()
    }

    /// Waits until the trees have kept up with the writes, and so many bytes can be written;
    /// `false` if within a limit that takes too long. Fails if they never will.
    fn wait_out_write_stall(
        &mut self,
        bytes: u64,
        deadline: Instant,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<bool> {
        let (waits_since, mut released_at) = (Instant::now(), Instant::now());
        let mut awaits_merges = false;
        loop {
            let is_overdrawn = self.live.disk_space.is_overdrawn(self.keyspaces(), bytes);
            let has_l0_stall = self.has_l0_stall();
            let has_stall = is_overdrawn || has_l0_stall;
            if !has_stall && self.keyspaces().sealed_memtables() < SEALED_MEMTABLES_MAX {
                return Ok(true);
            }
            let begun = Instant::now();
            self.live.database().check()?;
            let is_too_long = begun >= deadline
                || (self.status.is_hurried() && waits_since.elapsed() > HURRIED_WAIT_MAX);
            if self.live.disk_space.is_limited() && is_too_long {
                // Runs may come to nothing however many there are.
                return Ok(false);
            }
            if has_l0_stall {
                self.compactors.each_mut().into_iter().for_each(Compactor::yield_to_l0);
            }
            for compactor in self.compactors.each_mut() {
                compactor.has_finished();
            }
            if is_overdrawn {
                // To merge the deletions with what they delete gives back both.
                if !awaits_merges {
                    self.compactors.each_mut().into_iter().for_each(|it| it.is_awaited = true);
                    awaits_merges = true;
                } else if !has_l0_stall && !self.is_compacting() {
                    if self.has_obsolete_files() {
                        self.release_obsolete_files_and_wait(&|| false)?;
                        self.live.figures.note_stall(begun.elapsed());
                        continue;
                    }
                    let keyspaces = self.keyspaces();
                    if keyspaces.sealed_memtables() < SEALED_MEMTABLES_MAX
                        && self.has_reclaimed()
                        && self.live.disk_space.fits_between_merges(keyspaces, bytes)
                    {
                        return Ok(true);
                    }
                }
                self.begin_compaction(Trigger::Evict(RECLAIM_TIME));
            } else {
                self.begin_compaction(Trigger::Write);
            }
            // Where a run finds no space within the limit, the next takes that of the disk.
            let has_other_try = self.live.disk_space.has_outsized_l0(self.keyspaces());
            let is_stuck =
                has_stall && (self.is_stuck() || (!self.is_compacting() && !has_other_try));
            if is_stuck && !self.moments.drop_oldest() {
                if !self.live.disk_space.is_limited() {
                    let is_full = self.spare_bytes() == 0;
                    let kind =
                        if is_full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
                    return Err(io::Error::from(kind).into());
                }
                if self.has_obsolete_files() && self.keyspaces().l0_runs() <= L0_RUNS_MAX {
                    // There are some more L0 files to the database's own limit.
                    self.release_obsolete_files_and_wait(&|| false)?;
                    continue;
                }
                if has_l0_stall && self.make_way_for_l0(is_spared)? {
                    continue;
                }
                if released_at.elapsed() > RELEASE_INTERVAL {
                    // A reader may have held files as they were released.
                    self.compactors.keys.has_obsolete_files = true;
                    released_at = Instant::now();
                }
            }
            thread::sleep(STALL_WAIT);
            self.live.figures.note_stall(begun.elapsed());
        }
    }

    /// No step of a merge is small enough.
    fn is_stuck(&self) -> bool {
        self.compactors.each().into_iter().any(Compactor::is_stuck)
    }

    /// Returns true if merges have given back all that they can.
    fn has_reclaimed(&self) -> bool {
        self.is_stuck() || self.compactors.each().into_iter().all(Compactor::has_reclaimed)
    }

    /// Makes way for L0 where a limit leaves no space to merge it into the level below:
    /// merges it into an empty level above that, or evicts what it overlaps.
    fn make_way_for_l0(&mut self, is_spared: &dyn Fn(&Key) -> bool) -> Result<bool> {
        if !self.live.disk_space.is_limited() {
            return Ok(false);
        }
        let free_bytes = self.live.disk_space.free_bytes(self.keyspaces(), 0);
        let Self { live, compactors, .. } = self;
        let [keys, expiring] = live.generation.keyspaces.each();
        for (keyspace, compactor) in
            [(keys, &mut compactors.keys), (expiring, &mut compactors.expiring)]
        {
            let Some(to) = empty_level_above(keyspace) else { continue };
            if keyspace.l0_runs() > 1 && keyspace.l0().bytes <= free_bytes {
                let (database, runs) = (live.database(), keyspace.l0_runs());
                let scale = live.disk_space.scale();
                if let Some(step) = compaction::l0_step_above(keyspace, scale, free_bytes) {
                    database.compact(keyspace, &step)?;
                }
                // Memtables may have been flushed meanwhile.
                let has_moved =
                    keyspace.l0_runs() < runs || empty_level_above(keyspace) != Some(to);
                if !has_moved {
                    // As one file.
                    database.compact(keyspace, &Step::Merge { from: 0, to })?;
                }
                (compactor.has_obsolete_files, compactor.vain_runs) = (true, 0);
                return Ok(true);
            }
        }
        Ok(self.evict_some(Giving::AtOnce, is_spared)? > 0)
    }

    fn has_obsolete_files(&self) -> bool {
        self.compactors.each().iter().any(|compactor| compactor.has_obsolete_files)
    }

    /// L0 has as many runs, or with a limit as many bytes, as can be merged.
    fn has_l0_stall(&self) -> bool {
        let bytes_max = self.live.disk_space.scale().l0_max;
        let has_bytes = |(keyspace, compactor): (&Keyspace, &Compactor)| {
            compactor.l0_to_merge(keyspace).bytes >= bytes_max
        };
        let trees = || self.keyspaces().each().into_iter().zip(self.compactors.each());
        self.keyspaces().l0_runs() >= L0_RUNS_MAX
            || (bytes_max < u64::MAX && trees().any(has_bytes))
    }

    /// Begins a run if one is due. Blocks for nothing.
    pub fn compact(&mut self, trigger: Trigger) -> Result<()> {
        let is_wanted = |compactor: &mut Compactor| {
            compactor.has_finished() && (trigger == Trigger::Idle || compactor.unfinished.is_some())
        };
        let [keys, expiring] = self.compactors.each_mut().map(is_wanted);
        // Each release makes an L0 file, and there may be only so many.
        if (keys || expiring) && !self.has_l0_stall() {
            self.release_obsolete_files()?;
        }
        self.begin_compaction(trigger);
        Ok(())
    }

    /// Begins a run of one tree at a time, as it reckons with half of the space:
    /// first of the one that has more L0 runs.
    fn begin_compaction(&mut self, trigger: Trigger) {
        if self.is_compacting() {
            return;
        }
        let Self { live, compactors, .. } = self;
        let [keys, expiring] = live.generation.keyspaces.each();
        let mut trees = [(keys, &mut compactors.keys), (expiring, &mut compactors.expiring)];
        if keys.l0_runs() < expiring.l0_runs() {
            trees.reverse();
        }
        for (keyspace, compactor) in trees {
            compactor.begin(live, keyspace, trigger);
            if compactor.is_running() {
                return;
            }
        }
    }

    fn is_compacting(&self) -> bool {
        self.compactors.each().into_iter().any(Compactor::is_running)
    }

    fn stop_compaction(&mut self) {
        for compactor in self.compactors.each_mut() {
            compactor.stop();
            compactor.finish();
        }
    }

    /// Makes each tree that has been compacted drop its obsolete files: a flush
    /// installs a new version.
    fn release_obsolete_files(&mut self) -> Result<()> {
        if self.live.disk_space.is_limited() && self.keyspaces().l0_runs() > L0_RUNS_MAX {
            // It would take the last runs that the database lets L0 have.
            return Ok(());
        }
        let is_journal_long = self.live.disk_space.is_journal_long();
        let keyspaces = self.live.generation.keyspaces.each();
        for (keyspace, compactor) in keyspaces.into_iter().zip(self.compactors.each_mut()) {
            if compactor.has_obsolete_files || is_journal_long {
                self.live.widen_bounds(keyspace)?;
                compactor.has_obsolete_files = false;
                if !is_journal_long {
                    keyspace.seal_memtable()?;
                }
            }
        }
        if is_journal_long { self.flush() } else { Ok(()) }
    }

    /// Takes keys that had expired by a moment, and deleted ones, off the disk, for as
    /// long as there is patience.
    pub fn make_space(&mut self, patience: &mut Patience, until: Time) -> Result<Ending> {
        let status = Arc::clone(&self.status);
        let is_hurried = || status.is_hurried();
        self.stop_compaction();
        let has_progress = self.sweep_for(patience.piece(Instant::now()), until, &is_hurried)?;
        let mut round = Round { has_progress, has_more: true };
        loop {
            self.release_obsolete_files_and_wait(&is_hurried)?;
            if is_hurried() {
                patience.hurry();
            }
            if let Some(ending) =
                patience.after(round, self.spare_bytes_for_growth(), Instant::now())
            {
                return Ok(ending);
            }
            round = self.make_space_once(patience, until, &is_hurried)?;
        }
    }

    fn make_space_once(
        &mut self,
        patience: &Patience,
        until: Time,
        is_hurried: &impl Fn() -> bool,
    ) -> Result<Round> {
        if self.moments.drop_oldest() {
            return Ok(Round { has_progress: true, has_more: true });
        }
        let removed = self.remover.wait(patience.piece(Instant::now()), is_hurried);
        if removed.has_progress {
            return Ok(removed);
        }
        let was_l0_first = self.is_l0_first();
        let trigger = Trigger::NoSpace(patience.piece(Instant::now()));
        let Self { live, compactors, .. } = self;
        let expiring = live.generation.expiring();
        let expiring = compactors.expiring.run_to_end(live, expiring, trigger, is_hurried);
        let mut round = removed.and(expiring.unwrap_or_default());
        if expiring.is_some() {
            self.release_obsolete_files_and_wait(is_hurried)?;
        }
        if expiring.is_some() && patience.is_satisfied_with(self.spare_bytes_for_growth()) {
            round.has_more = true;
        } else {
            let Self { live, compactors, .. } = self;
            let keys = live.generation.keys();
            let keys = compactors.keys.run_to_end(live, keys, trigger, is_hurried);
            round = round.and(keys.unwrap_or_default());
        }
        if self.sweep.has_more {
            round.has_progress |=
                self.sweep_for(patience.piece(Instant::now()), until, is_hurried)?;
            round.has_more = true;
        }
        // Where L0 came first, everything else comes next.
        round.has_more = (round.has_more || was_l0_first) && !self.is_l0_first();
        Ok(round)
    }

    fn is_l0_first(&self) -> bool {
        self.keyspaces().l0_runs() >= L0_RUNS_MAX_TO_RECLAIM
    }

    /// Waits until there is the space that a release gives.
    fn release_obsolete_files_and_wait(&mut self, is_hurried: &impl Fn() -> bool) -> Result<()> {
        self.release_obsolete_files()?;
        for keyspace in self.keyspaces().each() {
            compaction::wait_for_flush(keyspace, is_hurried);
        }
        self.live.disk_space.note_release();
        Ok(())
    }

    /// Whether no run uses the database. Blocks for nothing.
    pub fn is_alone(&mut self) -> bool {
        for compactor in self.compactors.each_mut() {
            compactor.stop();
            compactor.has_finished();
        }
        !self.is_compacting() && !self.remover.is_running()
    }

    /// Drops the moments of keyspaces that are not in use any more.
    pub fn drop_moments_of_others(&self) {
        self.moments.retain(|view| Arc::ptr_eq(&view.keyspaces, self.keyspaces()));
    }

    /// Tries to open a failed database anew.
    pub fn reopen(&mut self, reopener: &mut Reopener) -> Reopened {
        // They are handles to it.
        self.moments.retain(|_| false);
        let attempt = reopener.attempt(&mut self.live);
        if matches!(attempt, Reopened::Now) {
            self.sweep = Sweep::new(self.keyspaces());
            self.forget_evicted();
        }
        attempt
    }

    /// Ends the runs.
    pub fn stop(&mut self) {
        self.stop_compaction();
        self.remover.finish();
    }

    /// Syncs everything, at the end.
    pub fn close(&mut self) -> Result<()> {
        self.note_clocks()?;
        self.live.check_place()?;
        self.live.generation.sync_blob_names()?;
        self.live.database().sync()?;
        self.live.inventory.end();
        Ok(())
    }
}

/// The deepest empty level with nothing but L0 above it.
fn empty_level_above(keyspace: &Keyspace) -> Option<u8> {
    let levels = keyspace.levels();
    let filled = levels.iter().skip(1).position(|level| level.files > 0);
    let deepest = levels.len().saturating_sub(2);
    let empty = filled.unwrap_or(deepest).min(deepest);
    u8::try_from(empty).ok().filter(|empty| *empty > 0)
}
