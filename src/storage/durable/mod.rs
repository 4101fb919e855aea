//! The engine on disk: LSM trees with a journal. A write is answered once it is
//! synced; a read waits for no write.
//!
//! ```text
//! write ──► committer ──► upkeep ──► generation ──► tree ──► fjall
//!          commit_group     │          two keyspaces: the keys, and large records
//!                           │          that expire; a clear begins another pair
//!                           └─ expiry, eviction, compaction, disk_space, remover
//! read  ──► read_path ──► walk ─────► keyspaces, or a held moment of them
//! start ──► directory ──► recovery: verify, journal, inventory
//! failure ─► reopen: the same, while reads go on
//! metrics ─► figures ◄── look: the committer's, at the trees and the disk
//! ```
//!
//! `tree` alone names fjall, and no module imports another in a circle.

mod background;
mod commit_group;
mod committer;
mod compaction;
mod decoder;
mod directory;
mod disk_space;
mod entry_cache;
mod eviction;
mod expiry;
mod figures;
mod firsts;
mod generation;
mod held;
mod held_moments;
mod inventory;
mod journal;
mod key_count;
mod live;
mod look;
mod lookup;
mod open_error;
mod patience;
mod pins;
mod read_path;
mod recovery;
mod remover;
mod reopen;
mod revision;
mod status;
mod tree;
mod upkeep;
mod verify;
mod walk;

use super::WhenFull;
use super::frequency::Frequencies;
use super::pool::Pool;
use super::report;
use super::waiters::Waiters;
use super::{Changes, Done, Effect, Error, Key, Limits, Op, Outage, Outcome, Storage, Time};
use crate::metrics::{Exposition, Kind};
use commit_group::{KeyOp, WriteOp};
use committer::{Committer, Message, Write};
use crossbeam_channel::Sender;
use directory::{Data, Directory};
use eviction::Eviction;
use figures::Figures;
use held_moments::HeldMoments;
use live::Live;
pub use open_error::OpenError;
use pins::Pins;
use read_path::ReadPath;
use status::Status;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use upkeep::Upkeep;

/// Threads for reads from the disk, for each processor.
const READERS_EACH: usize = 2;

/// Threads for lists and counts: half as many as there are processors, but no fewer.
const WALKERS_MIN: usize = 2;

/// The engine on disk. An acknowledged write is synced.
pub struct Durable {
    read_path: ReadPath,
    /// For reads that may wait for the disk.
    readers: Pool,
    /// For lists and counts: a read of one key waits behind none of their steps.
    walkers: Pool,
    waiters: Waiters,
    changes: Changes,
    status: Arc<Status>,
    figures: Arc<Figures>,
    /// Noted if keys may be evicted.
    uses: Option<Arc<Frequencies>>,
    writes: Sender<Message>,
    committer: Mutex<Option<JoinHandle<Result<(), Error>>>>,
    /// Kept until the last thread is done with the files.
    _data: Arc<Data>,
    _directory: Directory,
}

impl Durable {
    /// Opens the store in the directory `path`; makes both if there is none.
    /// Reads the journal, which may take seconds.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with_limits(path, Limits::default())
    }

    /// The same with limits.
    pub fn open_with_limits(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let mut directory = Directory::take(path)?;
        if directory.is_new() {
            directory.found(recovery::found)?;
        }
        let data = Arc::new(directory.data()?);
        let recovered = recovery::recover(&data, directory.has_inventory(), || directory.finish())
            .map_err(|err| err.renamed(data.path(), &data.name))?;
        if let Some(reading) = expiry::clocks_noted(recovered.generation.keys())? {
            Time::go_on_from(reading);
        }

        let is_evicting = limits.when_full == WhenFull::Evict && limits.bytes < u64::MAX;
        let live = Live::new(recovered, limits);
        let (current, changes) = (Arc::clone(&live.current), live.changes.clone());
        let figures = Arc::clone(&live.figures);
        let (pins, status) = (Arc::<Pins>::default(), Arc::<Status>::default());
        let (writes, queue) = crossbeam_channel::unbounded();
        let waiters = Waiters::default();
        let moments = Arc::<HeldMoments>::default();
        let uses = is_evicting.then(|| eviction::uses(limits.bytes));
        let evicting = uses.clone().map(|uses| Eviction::new(limits.bytes, uses, waiters.clone()));
        let upkeep = Upkeep::new(live, Arc::clone(&moments), Arc::clone(&status), evicting);
        let committer =
            Committer::new(upkeep, Arc::clone(&pins), Arc::clone(&status), waiters.clone(), queue);
        warn_if_over_limit(&figures, is_evicting);
        let committer = thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run())
            .map_err(|err| OpenError::io("no thread can be started", err))?;
        let committer = Mutex::new(Some(committer));
        let read_path = ReadPath::new(current, pins, moments);
        let [readers, walkers] = start_readers(&read_path)?;
        Ok(Self {
            read_path,
            readers,
            walkers,
            waiters,
            changes,
            status,
            figures,
            uses,
            writes,
            committer,
            _data: data,
            _directory: directory,
        })
    }

    /// The smallest limit of the bytes of a directory.
    pub const DISK_BYTES_MIN: u64 = disk_space::LIMIT_BYTES_MIN;

    /// The most descriptors that a store may have open: fewer where the system
    /// allows few.
    pub fn descriptors_max() -> u64 {
        tree::descriptors_max()
    }

    /// Notes a read of a key.
    fn note_read(&self, key: &Key) {
        if let Some(uses) = &self.uses {
            uses.note(eviction::hash(key.as_str()));
        }
    }

    /// Hands a message to the committer. After its end the completion is told so.
    fn tell(&self, message: Message) {
        self.writes.send(message).ok();
    }
}

/// A store may have been larger before it had its limit.
fn warn_if_over_limit(figures: &Figures, is_evicting: bool) {
    let bytes = figures.seen().limited;
    let Some([used, limit]) = bytes.filter(|[used, limit]| used > limit) else { return };
    let then =
        if is_evicting { "keys are evicted" } else { "it takes no writes that make it grow" };
    log::warn!("the store has {used} bytes, and may have {limit}: {then}");
}

/// Starts the threads that read from the disk: those that read one key, and those that
/// read many.
fn start_readers(read_path: &ReadPath) -> Result<[Pool; 2], OpenError> {
    let read_path = read_path.clone();
    let perform = move |op| match op {
        Op::Get(key) => read_path.get(&key).map(Effect::Found),
        Op::List(listing) => read_path.list(&listing).map(|page| Effect::Listed(page.into())),
        Op::Count(range) => {
            read_path.count(&range).map(|(counted, next)| Effect::Counted(counted, next))
        }
        Op::Set(..)
        | Op::Delete(_)
        | Op::Update(..)
        | Op::Batch(_)
        | Op::Each(_)
        | Op::UpdateFirst(..)
        | Op::Clear => {
            unreachable!("writes are the committer's")
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let start = |name, threads| {
        Pool::start(name, threads, perform.clone())
            .map_err(|err| OpenError::io("no thread can be started", err))
    };
    Ok([
        start("reader", READERS_EACH * processors)?,
        start("walker", WALKERS_MIN.max(processors / 2))?,
    ])
}

impl Storage for Durable {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        let Op::Get(key) = &op else { return Err(op) };
        match self.read_path.get_in_memory(key) {
            Some(entry) => {
                self.note_read(key);
                Ok(Ok(Effect::Found(Some(entry))))
            }
            None => Err(op),
        }
    }

    fn submit(&self, op: Op, done: Done) {
        let op = match op {
            Op::Get(ref key) => {
                self.note_read(key);
                return self.readers.submit(op, done);
            }
            Op::List(_) | Op::Count(_) => return self.walkers.submit(op, done),
            Op::Clear => return self.tell(Message::Clear(done.into())),
            Op::Set(key, entry) => WriteOp::One(key, KeyOp::set(entry)),
            Op::Delete(key) => WriteOp::One(key, KeyOp::Put(None)),
            Op::Update(key, change) => WriteOp::One(key, KeyOp::Decide(change)),
            Op::Batch(ops) | Op::Each(ops) => {
                WriteOp::Batch(ops.into_iter().map(|(key, op)| (key, op.into())).collect())
            }
            Op::UpdateFirst(prefix, change) => WriteOp::First(prefix, change),
        };
        self.tell(Message::Write(Write { op, completion: done.into(), since: Instant::now() }));
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.waiters)
    }

    fn changes(&self) -> Option<&Changes> {
        Some(&self.changes)
    }

    fn check(&self) -> Result<(), Error> {
        self.status.outage().map_or(Ok(()), |outage| Err(Error::Unavailable(outage)))
    }

    fn report(&self, to: &mut Exposition) {
        report::build(to, "durable");
        let seen = self.figures.seen();
        let note = "As of some seconds ago. Above some hundreds it is an estimate, until the \
                    next flush and compaction: keys that were overwritten or deleted, or that \
                    expire, may count more than once, and those behind a few that are written \
                    again and again not at all.";
        report::keys(to, seen.trees.keys, note);
        let note = "The files of the trees, as of some seconds ago, and not the journals.";
        report::stored(to, seen.trees.disk_bytes, note, self.figures.expired());
        report::evicted(to, self.figures.evicted());
        let help = "Writes that wait for the committer.";
        to.gauge("lkv_commit_queue_length", help, self.writes.len());
        let help = "Reads from the disk that wait for a thread.";
        let mut family = to.family("lkv_reader_queue_length", Kind::Gauge, help);
        for (name, pool) in [("readers", &self.readers), ("walkers", &self.walkers)] {
            family.sample(&[("pool", name)], pool.waiting());
        }
        self.figures.report(&seen, to);
        report::read_only(to, self.status.outage());
        report::waiters(to, &self.waiters);
        report::changes(to, &self.changes);
    }

    fn hurry(&self) {
        self.status.hurry();
    }

    fn close(&self) -> Result<(), Error> {
        self.hurry();
        // Behind every write that was handed over before.
        self.tell(Message::Close);
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last owner may be a completion, on the committer itself: that ends next.
        let own = thread::current().id();
        let committer = committer.filter(|committer| committer.thread().id() != own);
        let closed = committer.map(JoinHandle::join);
        self.read_path.moments.close();
        match closed {
            None => Ok(()),
            Some(Ok(closed)) => closed,
            Some(Err(_panic)) => Err(Error::Unavailable(Outage::DiskFailed)),
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Err(err) = self.close() {
            log::error!("closing the storage: {err}");
        }
    }
}

#[cfg(test)]
mod first_version;
#[cfg(test)]
mod tests;
