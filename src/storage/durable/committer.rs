//! The one thread that writes.
//!
//! ```text
//! writes ──► queue ──► committer: takes all that wait, decides on the updates,
//!   ▲                      │      writes one batch, syncs once,
//!   └────── outcome ◄──────┘      and only then lets readers see it
//! ```
//!
//! Writers that come while it syncs make the next batch, so many share one
//! sync and a lone one waits for nobody. Once a write to the journal has failed
//! nobody knows what it holds: no other is tried before the next start. Where
//! the database has failed elsewhere it is opened anew, see `reopen`.

use super::batch::{self, Batch, Decided, Record, WriteOp};
use super::compaction::{self, Compactor, L0_RUNS_MAX, L0_RUNS_MAX_TO_RECLAIM, Trigger};
use super::disk_space::DiskSpace;
use super::expiry::{Changes, Sweep};
use super::generation::{Both, Generation};
use super::journal::preallocate::Preallocation;
use super::patience::{Ending, Patience, Round};
use super::pins::Pins;
use super::reopen::{Attempt, Live, Reopener};
use super::status::Status;
use super::tree::{self, Keyspace, unless_panic};
use crate::schedule;
use crate::storage::{Done, Effect, Error, KEY_BYTES_MAX, Key, Outage, Time};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::HashMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A batch takes no more writes once it holds this many bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// How often an idle committer looks whether the disk is well.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How many full memtables may wait to be written. At four the database lets
/// a write wait for ever if they never are.
const SEALED_MEMTABLES_MAX: usize = 3;

/// For how long writers are not kept waiting again to make space of which none
/// came, unless more has expired: as long as it took, but no longer than this.
const MAKE_ROOM_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How long to wait before looking again whether there are fewer.
const STALL_WAIT: Duration = Duration::from_millis(1);

/// How long to wait before looking again whether what was cleared is removed.
const REMOVER_WAIT: Duration = Duration::from_millis(5);

/// What the committer is told.
pub enum Message {
    /// Do this to a key, then say how it went. Last is when it was handed over.
    Write(Key, WriteOp, Done, Instant),
    /// Delete every key, then say how it went.
    Clear(Done),
    /// End, once everything before this is done.
    Close,
}

/// The committer's own side.
pub struct Committer {
    live: Live,
    pins: Arc<Pins>,
    status: Arc<Status>,
    /// Set once a write to the disk has failed.
    failed: Option<Outage>,
    reopener: Reopener,
    /// Of a database that was opened anew, what was there before is still open.
    is_settling: bool,
    disk_space: DiskSpace,
    preallocation: Preallocation,
    queue: Receiver<Message>,
    sweep: Sweep,
    compactors: Both<Compactor>,
    /// Removes the files of what was cleared.
    remover: Option<JoinHandle<()>>,
    last_write: Instant,
    /// When it may be tried to make space again.
    make_room_at: Instant,
    /// The last batch had more than one write.
    has_company: bool,
    /// How many batches were written, and how many writes they held.
    batches: u64,
    writes: u64,
}

impl Committer {
    pub fn new(live: Live, pins: Arc<Pins>, status: Arc<Status>, queue: Receiver<Message>) -> Self {
        let sweep = Sweep::new(Some(live.generation.keys()));
        let disk_space = DiskSpace::new(live.inventory.data().path().to_owned());
        let preallocation = Preallocation::begin(disk_space.folder());
        Self {
            live,
            pins,
            status,
            failed: None,
            reopener: Reopener::default(),
            is_settling: false,
            disk_space,
            preallocation,
            queue,
            sweep,
            compactors: Both::default(),
            remover: None,
            last_write: Instant::now(),
            make_room_at: Instant::now(),
            has_company: false,
            batches: 0,
            writes: 0,
        }
    }

    /// Commits until it is closed; then writes what is not written yet.
    pub fn run(mut self) -> Result<(), Error> {
        // All writers wait for each of its waits.
        schedule::ask_for_slices(schedule::SLICE_SHORT);
        let mut next = None;
        loop {
            self.reopen_if_due();
            if self.sweep.due_in().is_zero() && self.failed.is_none() {
                // A failure was logged.
                self.guarded(|committer| committer.sweep(Time::now()).map(drop)).ok();
            }
            let message = match next.take() {
                Some(message) => Ok(message),
                None => self.queue.recv_timeout(self.patience()),
            };
            match message {
                Ok(Message::Write(key, op, done, since)) => {
                    next = self.take_batch(key, op, done, since);
                }
                Ok(Message::Clear(done)) => {
                    let outcome = self.guarded(Self::clear);
                    tell([(done, Effect::Done)], &outcome);
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    /// How long it has nothing to do if nobody writes.
    fn patience(&self) -> Duration {
        let due_in = match self.failed {
            Some(_) => self.reopener.due_in(),
            None => Some(self.sweep.due_in()),
        };
        due_in.map_or(LOOK_INTERVAL, |due_in| LOOK_INTERVAL.min(due_in))
    }

    /// Commits a write together with those that wait. Gives back a message
    /// that was taken and belongs to no batch.
    fn take_batch(&mut self, key: Key, op: WriteOp, done: Done, since: Instant) -> Option<Message> {
        let mut batch = Batch::begin();
        let mut spare_bytes = self.spare_bytes();
        self.add(&mut batch, &mut spare_bytes, key, op, done, since);
        if self.has_company {
            // Whoever is just about to write again gets to it in time.
            thread::yield_now();
        }
        let mut next = None;
        while batch.held_bytes() < BATCH_BYTES_MAX && next.is_none() {
            match self.queue.try_recv() {
                Ok(Message::Write(key, op, done, since)) => {
                    self.add(&mut batch, &mut spare_bytes, key, op, done, since);
                }
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
        let bytes = batch.bytes();
        let (changes, waiting) = batch.into_parts();
        if changes.is_empty() {
            // All that was seen is on the disk already.
            self.pins.clear();
            tell(waiting, &Ok(()));
            return next;
        }
        self.last_write = Instant::now();
        let deletions = changes.values().filter(|record| record.is_none()).count();
        self.compactors.keys.note(changes.len(), deletions);
        self.has_company = waiting.len() > 1;
        self.batches += 1;
        self.writes += waiting.len() as u64;
        let outcome = self.guarded(|committer| committer.commit(changes, bytes));
        self.pins.clear();
        tell(waiting, &outcome);
        self.compact(Trigger::Write);
        next
    }

    /// How many bytes can be written once space was made for `needed_bytes`:
    /// nothing is refused for want of space that expired values or deleted ones
    /// take, as far as it can be had while the write has patience, which it has
    /// from `since` on. Writers wait meanwhile, and after a time in which none
    /// was gained they are refused for a while; readers do not wait. What expires
    /// after `until` stays.
    fn spare_bytes_at_best(&mut self, needed_bytes: u64, until: Time, since: Instant) -> u64 {
        let begun = Instant::now();
        let spare_bytes = self.spare_bytes();
        let is_due = self.make_room_at <= begun
            || self.sweep.has_expired(self.live.generation.keys(), until);
        let patience = Patience::begin(needed_bytes, spare_bytes, since, begun);
        let Some(mut patience) = patience.filter(|_| is_due && self.failed.is_none()) else {
            return spare_bytes;
        };
        let mut ending = None;
        // A failure was logged.
        self.guarded(|committer| {
            ending = Some(committer.make_room(&mut patience, until)?);
            Ok(())
        })
        .ok();
        let (bytes, took) = (self.spare_bytes(), begun.elapsed());
        log::debug!("made space for {bytes} bytes in {} ms: {ending:?}", took.as_millis());
        let goes_on = ending == Some(Ending::TooLong) && patience.has_gained();
        if bytes < needed_bytes && !goes_on {
            self.make_room_at = Instant::now() + took.min(MAKE_ROOM_INTERVAL_MAX);
        }
        bytes
    }

    /// How many bytes can be written while enough is kept free.
    fn spare_bytes(&self) -> u64 {
        self.disk_space.spare_bytes(self.live.generation.keyspaces())
    }

    /// Takes what has expired by a moment, or was deleted, off the disk, for as
    /// long as there is patience for that.
    fn make_room(&mut self, patience: &mut Patience, until: Time) -> tree::Result<Ending> {
        self.stop_compaction();
        let has_progress = self.sweep_for(patience.piece(Instant::now()), until)?;
        let mut round = Round { has_progress, has_more: true };
        loop {
            self.release_obsolete_files_and_wait()?;
            if self.status.is_hurried() {
                patience.hurry();
            }
            if let Some(ending) = patience.after(round, self.spare_bytes(), Instant::now()) {
                return Ok(ending);
            }
            round = self.take_round(patience, until)?;
        }
    }

    /// One round of that: waits for what was cleared; else puts in order what
    /// expires, and the keys if that is not enough, and sweeps. Each takes not much
    /// longer than a piece.
    fn take_round(&mut self, patience: &Patience, until: Time) -> tree::Result<Round> {
        let removed = self.wait_for_remover(patience.piece(Instant::now()));
        if removed.has_progress {
            return Ok(removed);
        }
        let was_l0_first = self.has_too_many_l0_runs_to_make_room();
        let trigger = Trigger::NoSpace(patience.piece(Instant::now()));
        let expiring =
            self.begin_and_finish(|both| &mut both.expiring, Generation::expiring, trigger);
        let mut round = removed.and(expiring.unwrap_or_default());
        if expiring.is_some() {
            self.release_obsolete_files_and_wait()?;
        }
        if expiring.is_some() && patience.is_satisfied_with(self.spare_bytes()) {
            round.has_more = true;
        } else {
            let keys = self.begin_and_finish(|both| &mut both.keys, Generation::keys, trigger);
            round = round.and(keys.unwrap_or_default());
        }
        if self.sweep.has_more() {
            round.has_progress |= self.sweep_for(patience.piece(Instant::now()), until)?;
            round.has_more = true;
        }
        // Where there were too many files, what else there is to do comes next.
        round.has_more =
            (round.has_more || was_l0_first) && !self.has_too_many_l0_runs_to_make_room();
        Ok(round)
    }

    /// Waits until what was cleared is off the disk, if anything was, but not for
    /// longer than a piece.
    fn wait_for_remover(&mut self, piece: Duration) -> Round {
        let Some(remover) = &self.remover else { return Round::default() };
        let begun = Instant::now();
        while !remover.is_finished() && begun.elapsed() < piece && !self.status.is_hurried() {
            thread::sleep(REMOVER_WAIT);
        }
        let remover = self.remover.take_if(|remover| remover.is_finished());
        let has_progress = remover.is_some();
        // A panic there was logged.
        remover.map(JoinHandle::join);
        Round { has_progress, has_more: true }
    }

    fn has_too_many_l0_runs_to_make_room(&self) -> bool {
        self.l0_runs() >= L0_RUNS_MAX_TO_RECLAIM
    }

    /// Puts a keyspace in order if there is something to do. Says what has come
    /// of it.
    fn begin_and_finish(
        &mut self,
        compactor: fn(&mut Both<Compactor>) -> &mut Compactor,
        keyspace: fn(&Generation) -> &Keyspace,
        trigger: Trigger,
    ) -> Option<Round> {
        let Self { live, disk_space, status, .. } = self;
        compactor(&mut self.compactors).run_to_end(
            live.database(),
            &live.generation,
            keyspace(&live.generation),
            disk_space,
            trigger,
            || status.is_hurried(),
        )
    }

    /// Sweeps what has expired by `until`, but not for much longer than a piece.
    /// Says whether there was any.
    fn sweep_for(&mut self, piece: Duration, until: Time) -> tree::Result<bool> {
        let begun = Instant::now();
        let mut removed = self.sweep(until)?;
        while self.sweep.has_more() && begun.elapsed() < piece && !self.status.is_hurried() {
            removed += self.sweep(until)?;
        }
        Ok(removed > 0)
    }

    /// Decides on an action and adds it to a batch; one that makes the store
    /// grow only if there is space.
    fn add(
        &mut self,
        batch: &mut Batch,
        spare_bytes: &mut u64,
        key: Key,
        op: WriteOp,
        done: Done,
        since: Instant,
    ) {
        let keyspaces = self.live.generation.keyspaces();
        let decided = match batch.decide(keyspaces, &self.pins, &key, op) {
            Ok(decided) => decided,
            Err(err) => return tell([(done, Effect::Done)], &Err(err)),
        };
        if let Decided::Write(Some(record), _) = &decided
            && self.failed.is_none()
        {
            let bytes = (batch.bytes() + batch::bytes(&key, Some(record))) as u64;
            if bytes > *spare_bytes {
                // What the batch was decided on stays until it is committed.
                *spare_bytes = self.spare_bytes_at_best(bytes, batch.begun(), since);
            }
            let fits = bytes <= *spare_bytes;
            let before = self.note_room(fits);
            if !fits {
                let refusal = before.map_or(Error::Full, Error::Unavailable);
                return tell([(done, Effect::Done)], &Err(refusal));
            }
        }
        batch.add(key, decided, done);
    }

    /// Notes whether there is space; gives the outage that there was.
    fn note_room(&self, is_enough: bool) -> Option<Outage> {
        let before = self.status.set((!is_enough).then_some(Outage::DiskFull));
        match (before, is_enough) {
            (None, false) => log::error!("the disk has no space to spare: nothing more is stored"),
            (Some(_), true) => log::info!("the disk has space again"),
            (None, true) | (Some(_), false) => {}
        }
        before
    }

    /// Does something to the disk unless that is known to fail. A panic in the
    /// database is taken for a failure of the disk.
    fn guarded(&mut self, action: impl FnOnce(&mut Self) -> tree::Result<()>) -> Result<(), Error> {
        if let Some(outage) = self.failed {
            return Err(Error::Unavailable(outage));
        }
        unless_panic(|| action(self)).map_err(|err| self.fail(&err))
    }

    fn commit(&mut self, changes: HashMap<Key, Record>, bytes: usize) -> tree::Result<()> {
        self.wait_out_write_stall()?;
        let mut batch = self.live.generation.batch(self.live.database());
        for (key, record) in changes {
            self.sweep.put(&mut batch, self.live.generation.keyspaces(), &key, record);
        }
        self.sweep.note_clocks(&mut batch, self.live.generation.keys());
        self.preallocation.prepare(self.disk_space.folder(), batch.len(), bytes);
        self.live.inventory.note(&self.live.generation, bytes);
        if !self.live.inventory.data().goes_along() {
            self.check_place()?;
        }
        batch.commit()?;
        // Nobody is told of what was written to a directory that was removed.
        self.check_folder()?;
        self.has_written()
    }

    /// Fails if the directory is not where it was, or another is there.
    fn check_place(&self) -> tree::Result<()> {
        if self.live.inventory.data().is_in_place() { Ok(()) } else { Err(tree::Error::Lost) }
    }

    /// The same in half the time, without a look at the lock, which matters to
    /// those alone who come later.
    fn check_folder(&self) -> tree::Result<()> {
        if self.live.inventory.data().is_where_it_was() { Ok(()) } else { Err(tree::Error::Lost) }
    }

    /// Notes what was changed of what expires, and has what is in memory be
    /// written to files once that is much.
    fn has_written(&mut self) -> tree::Result<()> {
        let Changes { changes, deletions } = self.sweep.take_large();
        self.compactors.expiring.note(changes, deletions);
        self.live.generation.sync_blob_names()?;
        if !self.live.generation.is_full() {
            return Ok(());
        }
        if self.compactors.expiring.has_obsolete_files() {
            // A journal is kept until files have something newer than it has, and
            // what was the newest may have been merged away.
            self.live
                .generation
                .widen_bounds(self.live.database(), self.live.generation.expiring())?;
        }
        self.live.generation.flush()
    }

    fn clear(&mut self) -> tree::Result<()> {
        self.check_place()?;
        let next = self.live.generation.next(self.live.database(), self.disk_space.folder())?;
        self.live.inventory.begin(&next)?;
        self.check_place()?;
        let old = self.live.replace(next);
        self.compactors.each_mut().into_iter().for_each(Compactor::forget);
        self.sweep = Sweep::new(None);
        self.remove(old);
        Ok(())
    }

    /// Removes a generation that is not in use any more. It may take long to
    /// remove its files, and nobody waits for that.
    fn remove(&mut self, old: Generation) {
        let database = self.live.database().clone();
        // One at a time: this one waits for the one before it.
        let before = self.remover.take();
        let remove = move || {
            schedule::let_others_finish();
            // A panic there was logged.
            before.map(JoinHandle::join);
            if let Err(err) = old.remove(&database) {
                log::warn!("what was cleared stays on the disk until the next start: {err}");
            }
        };
        match thread::Builder::new().name("remover".to_owned()).spawn(remove) {
            Ok(remover) => self.remover = Some(remover),
            Err(err) => {
                log::warn!("what was cleared stays on the disk until the next start: {err}");
            }
        }
    }

    /// Removes some of what has expired at a moment. Says how many keys that were.
    fn sweep(&mut self, until: Time) -> tree::Result<usize> {
        self.wait_out_write_stall()?;
        self.check_place()?;
        let removed = self.sweep.step(self.live.database(), &self.live.generation, until)?;
        self.live.inventory.note(&self.live.generation, removed * KEY_BYTES_MAX);
        self.compactors.keys.note(removed, removed);
        self.has_written()?;
        Ok(removed)
    }

    /// Waits until the tree has kept up with what was written. Fails if it
    /// never will.
    fn wait_out_write_stall(&mut self) -> tree::Result<()> {
        while self.has_too_many_sealed_memtables() || self.has_too_many_l0_runs() {
            // Writes nothing here, but tells of failures elsewhere.
            self.live.database().check()?;
            if self.has_too_many_l0_runs() {
                self.compactors.each_mut().into_iter().for_each(Compactor::yield_to_l0);
            }
            for compactor in self.compactors.each_mut() {
                compactor.has_finished();
            }
            self.begin_compaction(Trigger::Write);
            if self.has_too_many_l0_runs() && !self.is_compacting() {
                let is_full = self.spare_bytes() == 0;
                let kind = if is_full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
                return Err(io::Error::from(kind).into());
            }
            thread::sleep(STALL_WAIT);
        }
        Ok(())
    }

    fn has_too_many_sealed_memtables(&self) -> bool {
        self.live.generation.keyspaces().sealed_memtables() >= SEALED_MEMTABLES_MAX
    }

    fn has_too_many_l0_runs(&self) -> bool {
        self.l0_runs() >= L0_RUNS_MAX
    }

    /// How many runs of unsorted files there are, of the keyspace that has more
    /// of them.
    fn l0_runs(&self) -> usize {
        self.live.generation.keyspaces().l0_runs()
    }

    /// Looks whether the disk is well while nobody writes.
    fn look(&mut self) {
        let look = |committer: &mut Self| {
            committer.check_place()?;
            committer.live.generation.sync_blob_names()?;
            committer.live.database().check()
        };
        if self.guarded(look).is_ok() && self.status.outage().is_some() {
            self.note_room(self.spare_bytes() > 0);
        }
        if self.sweep.has_clock_step() {
            // A failure was logged.
            self.guarded(Self::note_clocks).ok();
        }
        if self.last_write.elapsed() > LOOK_INTERVAL {
            self.compact(Trigger::Idle);
        }
    }

    /// Notes the clocks on the disk.
    fn note_clocks(&mut self) -> tree::Result<()> {
        let mut batch = self.live.generation.batch(self.live.database());
        self.sweep.note_clocks(&mut batch, self.live.generation.keys());
        batch.commit()
    }

    /// Sees to it that the trees are in order. Blocks for nothing.
    fn compact(&mut self, trigger: Trigger) {
        if self.failed.is_some() {
            return;
        }
        let is_wanted = |compactor: &mut Compactor| {
            compactor.has_finished() && (trigger == Trigger::Idle || compactor.is_unfinished())
        };
        let [keys, expiring] = self.compactors.each_mut().map(is_wanted);
        // Each turn makes a file, and there may be only so many.
        if (keys || expiring) && !self.has_too_many_l0_runs() {
            // A failure was logged.
            self.guarded(Self::release_obsolete_files).ok();
        }
        self.begin_compaction(trigger);
    }

    /// Has one tree be put in order at a time, for that reckons with half of
    /// the space: first the one that has more unsorted files.
    fn begin_compaction(&mut self, trigger: Trigger) {
        let Self { live, compactors, disk_space, .. } = self;
        let [keys, expiring] = live.generation.keyspaces().each();
        let mut trees = [(keys, &mut compactors.keys), (expiring, &mut compactors.expiring)];
        if trees.iter().any(|(_, compactor)| compactor.is_running()) {
            return;
        }
        if keys.l0_runs() < expiring.l0_runs() {
            trees.reverse();
        }
        for (keyspace, compactor) in trees {
            compactor.begin(live.database(), &live.generation, keyspace, disk_space, trigger);
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

    /// Lets go of old versions of the trees: each does once it takes a write
    /// and turns to a file.
    fn release_obsolete_files(&mut self) -> tree::Result<()> {
        let Self { live, compactors, .. } = self;
        let (database, generation) = (live.database(), &live.generation);
        for (keyspace, compactor) in
            generation.keyspaces().each().into_iter().zip(compactors.each_mut())
        {
            if compactor.has_obsolete_files() {
                generation.widen_bounds(database, keyspace)?;
                keyspace.seal_memtable()?;
                compactor.note_release();
            }
        }
        Ok(())
    }

    /// The same, and waits until there is the space that this gives.
    fn release_obsolete_files_and_wait(&mut self) -> tree::Result<()> {
        self.release_obsolete_files()?;
        for keyspace in self.live.generation.keyspaces().each() {
            compaction::wait_for_flush(keyspace, || self.status.is_hurried());
        }
        Ok(())
    }

    /// Takes no more writes before the database is opened anew, or the next
    /// start.
    fn fail(&mut self, err: &tree::Error) -> Error {
        let is_full = err.is_full() || self.spare_bytes() == 0;
        let is_lost = matches!(err, tree::Error::Lost) || !self.live.inventory.data().is_in_place();
        let outage = match (is_lost, is_full) {
            (true, _) => Outage::DirectoryLost,
            (false, true) => Outage::DiskFull,
            (false, false) => Outage::DiskFailed,
        };
        if is_lost {
            let path = self.live.inventory.data().name().display();
            log::error!("{path} was moved or removed, so nothing more is written");
        } else if err.is_final() {
            log_end(err);
        } else {
            log::error!("the database has failed, so it is opened anew before a write: {err}");
            self.reopener.begin();
        }
        self.failed = Some(outage);
        self.status.set(Some(outage));
        if outage == Outage::DiskFull { Error::Full } else { Error::Unavailable(outage) }
    }

    /// Opens the database anew where it has failed and that is due.
    fn reopen_if_due(&mut self) {
        if self.is_settling && self.reopener.has_let_go() {
            // Its journal is the only one that is open.
            self.is_settling = false;
            self.preallocation = Preallocation::begin(self.disk_space.folder());
        }
        if self.reopener.due_in().is_none_or(|due_in| !due_in.is_zero()) {
            return;
        }
        if let Err(err) = self.check_place() {
            // What is there now may be another's.
            self.reopener.give_up();
            self.fail(&err);
            return;
        }
        if !self.is_alone() {
            return self.reopener.postpone();
        }
        match self.reopener.attempt(&mut self.live) {
            Attempt::Opened => {
                self.sweep = Sweep::new(Some(self.live.generation.keys()));
                self.is_settling = true;
                self.failed = None;
                self.status.set(None);
            }
            Attempt::NotYet => {}
            Attempt::Final(err) => log_end(&err),
        }
    }

    /// Whether nobody else has the database. Blocks for nothing.
    fn is_alone(&mut self) -> bool {
        for compactor in self.compactors.each_mut() {
            compactor.stop();
            compactor.has_finished();
        }
        if let Some(remover) = self.remover.take_if(|remover| remover.is_finished()) {
            // A panic there was logged.
            remover.join().ok();
        }
        !self.is_compacting() && self.remover.is_none()
    }

    fn close(mut self) -> Result<(), Error> {
        log::debug!("{} writes were committed in {} batches", self.writes, self.batches);
        self.stop_compaction();
        // A panic there was logged.
        self.remover.take().map(JoinHandle::join);
        let closed = self.guarded(|committer| {
            committer.note_clocks()?;
            committer.check_place()?;
            committer.live.generation.sync_blob_names()?;
            committer.live.database().sync()?;
            committer.live.inventory.end();
            Ok(())
        });
        self.status.set(Some(Outage::Closed));
        closed
    }
}

/// Tells writers how it went. What one of them does about it is none of the
/// committer's business, a panic neither.
fn tell(waiting: impl IntoIterator<Item = (Done, Effect)>, outcome: &Result<(), Error>) {
    for (done, effect) in waiting {
        let outcome = outcome.clone().map(|()| effect);
        panic::catch_unwind(AssertUnwindSafe(|| done(outcome))).ok();
    }
}

fn log_end(err: &impl std::error::Error) {
    log::error!("writing has failed, so nothing more is written before the next start: {err}");
}
