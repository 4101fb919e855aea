//! Group commit: one thread writes, and many writes share a sync.
//!
//! ```text
//! writes ──► queue ──► committer: takes all that wait, decides on the updates,
//!   ▲                      │      writes one commit group, syncs once,
//!   └────── outcome ◄──────┘      and only then lets readers see it
//! ```
//!
//! Writes that come during a sync make the next group, and a lone one waits for
//! nobody. `upkeep` writes to the database; this file has the fate of the writes, and
//! of the store once the database fails. After a failure of the journal its contents
//! are uncertain: nothing more is written before the next start. After any other the
//! database is opened anew, see `reopen`.

use super::commit_group::{CommitGroup, Committed, Draft, WriteOp};
use super::compaction::Trigger;
use super::firsts::Firsts;
use super::journal::preallocate::Preallocation;
use super::patience::{Ending, Patience, SPARE_BYTES_ENOUGH};
use super::pins::Pins;
use super::reopen::{Reopened, Reopener};
use super::status::Status;
use super::tree::{self, unless_panic};
use super::upkeep::Upkeep;
use crate::platform::scheduling;
use crate::storage::completion::Completion;
use crate::storage::waiters::Waiters;
use crate::storage::{Effect, Error, Key, Outage, Time};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A commit group takes no more writes once it holds this many bytes, or has so many
/// operations: batches of small ones would make it take long.
const COMMIT_BYTES_MAX: usize = 8 << 20;
const COMMIT_OPS_MAX: usize = 4096;

/// The time between two checks of the disk while nobody writes.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The time between two steps of eviction while nobody writes.
const EVICTION_INTERVAL: Duration = Duration::from_millis(5);

/// The time between two looks at the figures of the trees and the disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After space was made in vain, writes do not wait for more, unless more has
/// expired: for as long as that took, but for no longer than this.
const MAKE_SPACE_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A write, which is committed as a whole.
pub struct Write {
    pub op: WriteOp,
    pub completion: Completion,
    /// The time at which it was submitted.
    pub since: Instant,
}

/// A message in the committer's queue.
pub enum Message {
    Write(Write),
    /// Deletes every key.
    Clear(Completion),
    /// Ends the committer, once everything before this is done.
    Close,
}

/// The thread's own side.
pub struct Committer {
    upkeep: Upkeep,
    queue: Receiver<Message>,
    pins: Arc<Pins>,
    status: Arc<Status>,
    waiters: Waiters,
    /// The outage since a write to the disk has failed.
    failed: Option<Outage>,
    reopener: Reopener,
    /// A closed database still has handles after another was opened in its place.
    is_settling: bool,
    preallocation: Preallocation,
    last_write: Instant,
    /// Space is not made before this.
    make_space_at: Instant,
    /// There is more to evict.
    is_evicting: bool,
    /// The last check of the disk while nobody wrote.
    checked_at: Instant,
    /// The last group had more than one write.
    has_company: bool,
    firsts: Firsts,
    /// The last look at the figures of the trees and the disk.
    looked_at: Instant,
    groups: u64,
    writes: u64,
}

impl Committer {
    pub fn new(
        upkeep: Upkeep,
        pins: Arc<Pins>,
        status: Arc<Status>,
        waiters: Waiters,
        queue: Receiver<Message>,
    ) -> Self {
        let preallocation = Preallocation::begin(upkeep.live.data().path());
        upkeep.look(false);
        let is_evicting = upkeep.evicts();
        Self {
            upkeep,
            queue,
            pins,
            status,
            waiters,
            failed: None,
            reopener: Reopener::default(),
            is_settling: false,
            preallocation,
            last_write: Instant::now(),
            make_space_at: Instant::now(),
            is_evicting,
            checked_at: Instant::now(),
            has_company: false,
            firsts: Firsts::default(),
            looked_at: Instant::now(),
            groups: 0,
            writes: 0,
        }
    }

    /// Commits until it is closed; then syncs what is not synced yet.
    pub fn run(mut self) -> Result<(), Error> {
        // All writers wait for each of its waits.
        scheduling::prefer_wakeup(scheduling::SLICE_SHORT);
        let mut next = None;
        loop {
            self.look_if_due();
            self.reopen_if_due();
            if self.upkeep.sweep.due_in().is_zero() && self.failed.is_none() {
                // A failure was logged.
                self.guarded(|upkeep| upkeep.sweep(Time::now())).ok();
            }
            let message = match next.take() {
                Some(message) => Ok(message),
                None => self.queue.recv_timeout(self.idle_time_max()),
            };
            match message {
                Ok(Message::Write(write)) => next = self.take_commit_group(write),
                Ok(Message::Clear(completion)) => {
                    let outcome = self.guarded(Upkeep::clear);
                    self.firsts.forget();
                    self.waiters.all_changed();
                    tell([(completion, Effect::Done)], &outcome);
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => {
                    if self.is_evicting {
                        self.evict_ahead();
                    }
                    if !self.is_evicting || self.checked_at.elapsed() > CHECK_INTERVAL {
                        self.checked_at = Instant::now();
                        self.idle();
                    }
                }
            }
        }
    }

    /// Notes the figures of the trees and the disk, now and then.
    fn look_if_due(&mut self) {
        if self.looked_at.elapsed() < LOOK_INTERVAL {
            return;
        }
        self.upkeep.look(self.failed.is_some());
        self.looked_at = Instant::now();
    }

    /// The longest wait for the next write.
    fn idle_time_max(&self) -> Duration {
        if self.is_evicting {
            return EVICTION_INTERVAL;
        }
        let due_in = match self.failed {
            Some(_) => self.reopener.due_in(),
            None => Some(self.upkeep.sweep.due_in()),
        };
        due_in.map_or(CHECK_INTERVAL, |due_in| CHECK_INTERVAL.min(due_in))
    }

    /// Commits a write together with those that wait. Gives back a message
    /// that was taken and belongs to no group.
    fn take_commit_group(&mut self, first: Write) -> Option<Message> {
        let (mut group, since) = (CommitGroup::begin(), first.since);
        let mut spare_bytes = self.upkeep.spare_bytes_for_growth();
        self.add(&mut group, &mut spare_bytes, first);
        if self.has_company {
            // Clients that are just about to write again get into this group.
            thread::yield_now();
        }
        let mut next = None;
        let bytes_max = self.upkeep.live.disk_space.group_bytes_max().min(COMMIT_BYTES_MAX);
        while group.held_bytes() < bytes_max && group.ops < COMMIT_OPS_MAX && next.is_none() {
            match self.queue.try_recv() {
                Ok(Message::Write(write)) => self.add(&mut group, &mut spare_bytes, write),
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
        let CommitGroup { draft, completions, .. } = group;
        if draft.records.is_empty() {
            // All that was seen is on the disk already.
            self.pins.clear();
            tell(completions, &Ok(()));
            return next;
        }
        self.last_write = Instant::now();
        self.has_company = completions.len() > 1;
        self.groups += 1;
        self.writes += completions.len() as u64;
        self.upkeep.live.figures.note_group(completions.len());
        let outcome = self.commit(&draft, since);
        if outcome.is_err() {
            self.firsts.forget();
        }
        self.pins.clear();
        tell(completions, &outcome);
        self.evict_ahead();
        self.compact(Trigger::Write);
        next
    }

    /// Decides on a write and adds it to a group; one that makes the store grow only if
    /// there is space.
    fn add(&mut self, group: &mut CommitGroup, spare_bytes: &mut u64, write: Write) {
        let Write { op, completion, since } = write;
        let committed = Committed { keyspaces: self.upkeep.keyspaces(), pins: &self.pins };
        let decided = match group.decide(committed, &mut self.firsts, op) {
            Ok(decided) => decided,
            Err(err) => return completion.tell(Err(err)),
        };
        if let Some(growth_bytes) = decided.growth_bytes()
            && self.failed.is_none()
        {
            if growth_bytes as u64 > self.upkeep.live.disk_space.write_bytes_max() {
                // Nothing can make that fit.
                return completion.tell(Err(Error::Full));
            }
            let bytes = (group.draft.bytes + growth_bytes) as u64;
            if bytes > *spare_bytes {
                // Entries that were decided on stay until the group is committed.
                let is_spared = |key: &Key| decided.depends_on(key) || group.draft.depends_on(key);
                *spare_bytes = self.make_space(bytes, group.begun, since, &is_spared);
            }
            let fits = bytes <= *spare_bytes;
            if !fits && !self.upkeep.is_disk_full(bytes) {
                return completion.tell(Err(self.no_space()));
            }
            let before = self.note_space(fits);
            if !fits {
                let err = before.map_or_else(|| self.no_space(), Error::Unavailable);
                return completion.tell(Err(err));
            }
        }
        group.add(decided, &mut self.firsts, completion);
    }

    /// Makes space for a write submitted at `since`, as long as it has patience; gives
    /// the bytes that can be written then. Keys that expire after `until` stay. Other
    /// writes wait meanwhile, reads do not; after it was in vain writes are refused for
    /// a while.
    fn make_space(
        &mut self,
        needed_bytes: u64,
        until: Time,
        since: Instant,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> u64 {
        let begun = Instant::now();
        self.upkeep.live.disk_space.note_release();
        let spare_bytes = self.upkeep.spare_bytes_for_growth();
        if spare_bytes >= needed_bytes {
            return spare_bytes;
        }
        if self.upkeep.evicts()
            && let Some(bytes) = self.evict_for(needed_bytes, until, since, begun, is_spared)
        {
            return bytes;
        }
        let is_due = self.make_space_at <= begun || self.upkeep.has_expired(until);
        let enough = self.upkeep.live.disk_space.ahead_bytes().unwrap_or(u64::MAX);
        let enough = enough.min(SPARE_BYTES_ENOUGH);
        let patience = Patience::begin(needed_bytes, enough, spare_bytes, since, begun);
        let Some(mut patience) = patience.filter(|_| is_due) else { return spare_bytes };
        let make_space = |upkeep: &mut Upkeep| upkeep.make_space(&mut patience, until);
        // A failure was logged.
        let ending = self.guarded(make_space).ok();
        self.note_made(needed_bytes, begun, ending);
        let (bytes, took) = (self.upkeep.spare_bytes_for_growth(), begun.elapsed());
        let goes_on = ending == Some(Ending::TooLong) && patience.has_gained();
        if bytes < needed_bytes && !goes_on {
            self.make_space_at = Instant::now() + took.min(MAKE_SPACE_INTERVAL_MAX);
        }
        bytes
    }

    /// Evicts keys for a write; gives the bytes that can be written then, or `None` if
    /// nothing more can be evicted.
    fn evict_for(
        &mut self,
        needed_bytes: u64,
        until: Time,
        since: Instant,
        begun: Instant,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Option<u64> {
        let evict = |upkeep: &mut Upkeep| upkeep.evict_for(needed_bytes, since, until, is_spared);
        // A failure was logged.
        let ending = self.guarded(evict).ok();
        self.note_made(needed_bytes, begun, ending);
        self.is_evicting = true;
        match ending {
            // Files that come to be meanwhile have their space.
            Some(Ending::Enough) => Some(self.upkeep.spare_bytes().max(needed_bytes)),
            Some(Ending::TooLong) | None => Some(self.upkeep.spare_bytes()),
            Some(Ending::NothingMore) => None,
        }
    }

    fn note_made(&self, needed_bytes: u64, begun: Instant, ending: Option<Ending>) {
        let (bytes, took) = (self.upkeep.spare_bytes(), begun.elapsed().as_millis());
        log::debug!("made space for {bytes} of {needed_bytes} bytes in {took} ms: {ending:?}");
    }

    /// Notes a lack of space, or its end; gives the outage before.
    fn note_space(&self, is_enough: bool) -> Option<Outage> {
        let before = self.status.set((!is_enough).then_some(Outage::DiskFull));
        if !is_enough {
            self.upkeep.moments.drop_oldest();
        }
        match (before, is_enough) {
            (None, false) => log::error!("the disk has no space to spare: nothing more is stored"),
            (Some(_), true) => log::info!("the disk has space again"),
            (None, true) | (Some(_), false) => {}
        }
        before
    }

    fn commit(&mut self, draft: &Draft, since: Instant) -> Result<(), Error> {
        let batch = self.guarded(|upkeep| upkeep.batch(draft, since))?;
        let batch = batch.ok_or_else(|| self.no_space())?;
        let folder = self.upkeep.live.data().path();
        self.preallocation.prepare(folder, batch.len(), draft.bytes);
        self.guarded(|upkeep| upkeep.commit(batch, draft))?;
        for (key, drafted) in &draft.records {
            self.waiters.changed(key.as_str(), drafted.record.is_some());
        }
        Ok(())
    }

    /// The error of a write for which there is no space. In a store that is about to close
    /// there may be: it waits for none to be made.
    fn no_space(&self) -> Error {
        let is_closing = self.status.is_hurried();
        if is_closing { Error::Unavailable(Outage::Closed) } else { Error::Full }
    }

    /// Does something to the database unless that is known to fail.
    fn guarded<T>(
        &mut self,
        action: impl FnOnce(&mut Upkeep) -> tree::Result<T>,
    ) -> Result<T, Error> {
        if let Some(outage) = self.failed {
            return Err(Error::Unavailable(outage));
        }
        unless_panic(|| action(&mut self.upkeep)).map_err(|err| self.fail(&err))
    }

    /// Takes no more writes before the database is opened anew, or the next
    /// start.
    fn fail(&mut self, err: &tree::Error) -> Error {
        let data = self.upkeep.live.data();
        let is_full = err.is_full() || self.upkeep.is_disk_full(1);
        let is_lost = matches!(err, tree::Error::Lost) || !data.is_in_place();
        let outage = match (is_lost, is_full) {
            (true, _) => Outage::DirectoryLost,
            (false, true) => Outage::DiskFull,
            (false, false) => Outage::DiskFailed,
        };
        if is_lost {
            let path = data.name.display();
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
        if self.is_settling {
            self.upkeep.drop_moments_of_others();
            if self.reopener.is_released() {
                // Its journal is the only one that is open.
                self.is_settling = false;
                self.preallocation = Preallocation::begin(self.upkeep.live.data().path());
            }
        }
        if self.reopener.due_in().is_none_or(|due_in| !due_in.is_zero()) {
            return;
        }
        if let Err(err) = self.upkeep.live.check_place() {
            // The directory there now may be another's.
            self.reopener.give_up();
            self.fail(&err);
            return;
        }
        if !self.upkeep.is_alone() {
            return self.reopener.postpone();
        }
        match self.upkeep.reopen(&mut self.reopener) {
            Reopened::Now => {
                // A write that was not acknowledged may be there.
                self.firsts.forget();
                self.waiters.all_changed();
                self.upkeep.live.figures.note_reopen();
                self.is_settling = true;
                self.failed = None;
                self.status.set(None);
            }
            Reopened::NotYet => {}
            Reopened::Never(err) => log_end(&err),
        }
    }

    /// Checks the disk, and compacts, while nobody writes.
    fn idle(&mut self) {
        if self.guarded(Upkeep::check).is_ok() && self.status.outage().is_some() {
            self.note_space(!self.upkeep.is_disk_full(1));
        }
        // A failure was logged.
        self.guarded(Upkeep::note_clock_step).ok();
        if self.last_write.elapsed() > CHECK_INTERVAL {
            self.compact(Trigger::Idle);
        }
    }

    /// Evicts some keys if the store will be full soon.
    fn evict_ahead(&mut self) {
        if self.upkeep.evicts() {
            // A failure was logged.
            self.is_evicting = self.guarded(Upkeep::evict_ahead).unwrap_or(false);
        }
    }

    fn compact(&mut self, trigger: Trigger) {
        // A failure was logged.
        self.guarded(|upkeep| upkeep.compact(trigger)).ok();
    }

    fn close(mut self) -> Result<(), Error> {
        log::debug!("{} writes were committed in {} groups", self.writes, self.groups);
        self.upkeep.stop();
        let closed = self.guarded(Upkeep::close);
        self.status.set(Some(Outage::Closed));
        closed
    }
}

/// Tells writers the outcome.
fn tell(completions: impl IntoIterator<Item = (Completion, Effect)>, outcome: &Result<(), Error>) {
    for (completion, effect) in completions {
        completion.tell(outcome.clone().map(|()| effect));
    }
}

fn log_end(err: &impl std::error::Error) {
    log::error!("writing has failed, so nothing more is written before the next start: {err}");
}
