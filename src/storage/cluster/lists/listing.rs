//! Lists and counts: pages of the sorted keys.
//!
//! ```text
//! list ──► its scan is kept ──────────────► page ──► keys alone: at once
//!    └──► scans lane ──► scan ──► keep it ──┘  └──► with entries: pages lane ──► GETRANGE …
//!         pages lane: a tag in the prefix
//! ```
//!
//! A fresh listing scans all masters, so a few do so at once and the others wait for them;
//! those who wait for the same share one scan. The pages that follow come out of the
//! [`Scans`] that are kept. Where the prefix has a whole tag its slot is looked at, and
//! nothing else.
//!
//! The keys of a page are those of its scan, and its entries those of the moment at which
//! they are read: a key that has gone is passed, and so is another application's list.

use super::scan::Scan;
use super::scanner::{self, Made, Since};
use super::scans::Scans;
use super::slot;
use crate::platform::scheduling;
use crate::storage::cluster::network::protocol::{Commands, Reply, slot_of};
use crate::storage::cluster::network::router::{PATIENCE, Place, Replies, Request, Router};
use crate::storage::cluster::{plain, scripts};
use crate::storage::completion::Completion;
use crate::storage::page::Builder;
use crate::storage::{Effect, Entry, Error, Key, Listing, Outcome, Page, Range};
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

/// The scans of all masters that are made at once.
const SCANNERS: usize = 2;

/// The pages with entries, and the looks at one slot, that are made at once.
const PAGERS: usize = 4;

/// The most lists and counts that wait in a lane.
const WAITING_MAX: usize = 1024;

/// The entries that are read at once for a page: at first, and at most.
const WINDOW_MIN: usize = 8;
const WINDOW_MAX: usize = 128;

/// More are read at once as long as they have fewer bytes than that.
const WINDOW_BYTES: usize = 256 << 10;

/// The bytes of a value that are read with those of others. A longer one is read alone,
/// so that many long ones are never in memory at once.
const SHORT_BYTES_MAX: usize = 64 << 10;

/// A page ends once it has passed so many keys that have gone.
const PASSED_MAX: usize = 4000;

/// The lists and counts of a front.
pub struct Listings(Arc<Shared>);

struct Shared {
    router: Arc<Router>,
    scans: Scans,
    scanners: Lane,
    pagers: Lane,
}

/// Those that wait for the threads of a kind.
struct Lane {
    kind: Kind,
    state: Mutex<State>,
    bell: Condvar,
    has_threads: OnceLock<bool>,
}

/// The kinds of threads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Those that scan all masters.
    Scanners,
    /// Those that read a slot, or the entries of a page.
    Pagers,
}

struct State {
    jobs: VecDeque<Job>,
    /// When a scan of all masters last ended well: until then others had to wait.
    scanned: Instant,
    has_ended: bool,
}

/// A list or a count on its way.
struct Job {
    task: Task,
    /// The scan that its page is made of, once there is one.
    found: Option<Made>,
    since: Instant,
    completion: Completion,
}

enum Task {
    List(Box<Listing>),
    Count(Box<Range>),
}

impl Listings {
    /// The lists and counts through a router. Its threads start with the first of them.
    pub fn new(router: &Arc<Router>) -> Self {
        let router = Arc::clone(router);
        let [scanners, pagers] = [Kind::Scanners, Kind::Pagers].map(Lane::new);
        Self(Arc::new(Shared { router, scans: Scans::default(), scanners, pagers }))
    }

    /// The page of a listing, if memory alone has it.
    pub fn try_now(&self, listing: &Listing) -> Option<Page> {
        if is_with_entries(listing) {
            return None;
        }
        let found = self.0.found(listing)?;
        let mut page = found.scan.page(listing);
        self.0.settle(listing, &found, &mut page);
        Some(page)
    }

    /// Reads a page. Never blocks.
    pub fn list(&self, listing: Box<Listing>, completion: Completion) {
        self.submit(Task::List(listing), completion);
    }

    /// Counts the keys of a range: all of them, unless they are more than one scan keeps.
    /// Never blocks.
    pub fn count(&self, range: Box<Range>, completion: Completion) {
        self.submit(Task::Count(range), completion);
    }

    /// Notes that every key may have gone.
    pub fn all_changed(&self) {
        self.0.scans.clear();
    }

    /// How many lists and counts wait for a thread.
    pub fn waiting(&self) -> usize {
        self.0.scanners.lock().jobs.len() + self.0.pagers.lock().jobs.len()
    }

    /// The bytes of the scans that are kept.
    pub fn kept_bytes(&self) -> usize {
        self.0.scans.bytes()
    }

    fn submit(&self, task: Task, completion: Completion) {
        let found = match &task {
            Task::List(listing) => self.0.found(listing),
            Task::Count(_) => None,
        };
        let is_of_slot = slot::of_prefix(&task.range().prefix).is_some();
        let lane = if found.is_some() || is_of_slot { &self.0.pagers } else { &self.0.scanners };
        let job = Job { task, found, since: Instant::now(), completion };
        self.0.push(lane, job);
    }
}

impl Drop for Listings {
    fn drop(&mut self) {
        for lane in [&self.0.scanners, &self.0.pagers] {
            let mut state = lane.lock();
            state.has_ended = true;
            let dropped = std::mem::take(&mut state.jobs);
            drop(state);
            lane.bell.notify_all();
            drop(dropped);
        }
    }
}

/// Returns true if entries are to be read for a listing.
fn is_with_entries(listing: &Listing) -> bool {
    listing.with_entries && !listing.is_to_delete
}

impl Task {
    fn range(&self) -> &Range {
        match self {
            Self::List(listing) => &listing.range,
            Self::Count(range) => range,
        }
    }
}

impl Kind {
    /// The name of its threads, and how many there are.
    fn threads(self) -> (&'static str, usize) {
        match self {
            Self::Scanners => ("scanner", SCANNERS),
            Self::Pagers => ("pager", PAGERS),
        }
    }
}

impl Lane {
    fn new(kind: Kind) -> Self {
        let state = State { jobs: VecDeque::new(), scanned: Instant::now(), has_ended: false };
        let (state, bell) = (Mutex::new(state), Condvar::new());
        Self { kind, state, bell, has_threads: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of it is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn lane(&self, kind: Kind) -> &Lane {
        match kind {
            Kind::Scanners => &self.scanners,
            Kind::Pagers => &self.pagers,
        }
    }

    fn found(&self, listing: &Listing) -> Option<Made> {
        let topology = self.router.topology();
        let scan = self.scans.find(listing, topology)?;
        Some(Made { scan, topology, worth_keeping: true })
    }

    fn settle(&self, listing: &Listing, found: &Made, page: &mut Page) {
        let Made { scan, topology, worth_keeping } = found;
        self.scans.settle(listing, scan, *topology, *worth_keeping, page);
    }

    /// Has a thread of a lane do a job, or refuses it where too many wait.
    fn push(self: &Arc<Self>, lane: &Lane, job: Job) {
        if !self.has_threads(lane) {
            return job.completion.tell(Err(Error::Overloaded));
        }
        let mut state = lane.lock();
        if state.jobs.len() >= WAITING_MAX && !state.has_ended {
            drop(state);
            return job.completion.tell(Err(Error::Overloaded));
        }
        if state.has_ended {
            drop(state);
            return drop(job);
        }
        state.jobs.push_back(job);
        drop(state);
        lane.bell.notify_one();
    }

    /// Starts the threads of a lane, if that was not tried before.
    fn has_threads(self: &Arc<Self>, lane: &Lane) -> bool {
        *lane.has_threads.get_or_init(|| {
            let kind = lane.kind;
            let (name, count) = kind.threads();
            let start = |number: &usize| {
                let shared = Arc::clone(self);
                let thread = thread::Builder::new().name(format!("{name}-{number}"));
                let started = thread.spawn(move || {
                    scheduling::batch_priority();
                    shared.run(shared.lane(kind));
                });
                started.inspect_err(|err| log::warn!("no thread for lists: {err}")).is_ok()
            };
            // One does.
            (0..count).filter(start).count() > 0
        })
    }

    /// Does the jobs of a lane until the last handle is dropped.
    fn run(self: &Arc<Self>, lane: &Lane) {
        while let Some((jobs, since)) = self.next(lane) {
            // A panic costs those that it was for: their completions are dropped.
            panic::catch_unwind(AssertUnwindSafe(|| self.serve(lane, jobs, since))).ok();
        }
    }

    /// Waits for the next job, and gives with it those that wait for the same scan, and the
    /// time from which on it has waited for nothing that went well.
    fn next(&self, lane: &Lane) -> Option<(Vec<Job>, Since)> {
        let mut state = lane.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if let Some(first) = state.jobs.pop_front() {
                let since = Since(first.since.max(state.scanned));
                let mut jobs = vec![first];
                let (same, others) = state
                    .jobs
                    .drain(..)
                    .partition(|job| jobs.iter().any(|first| first.shares_a_scan_with(job)));
                state.jobs = others;
                jobs.extend(Vec::from(same));
                return Some((jobs, since));
            }
            let left = self.scans.sweep();
            state = match left {
                None => lane.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = lane.bell.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Does jobs that share a scan.
    fn serve(self: &Arc<Self>, lane: &Lane, jobs: Vec<Job>, since: Since) {
        if Instant::now() >= since.deadline() {
            // Nothing has gone on for that long.
            let err = self.router.check().err().unwrap_or(Error::Overloaded);
            return fail(jobs, &err);
        }
        let found = if let Some(found) = jobs.first().and_then(|job| job.found.clone()) {
            found
        } else {
            let Some(range) = jobs.first().map(|job| job.task.range()) else { return };
            match scanner::find(&self.router, range, since) {
                Ok(made) => {
                    if lane.kind == Kind::Scanners {
                        lane.lock().scanned = Instant::now();
                    }
                    made
                }
                Err(err) => return fail(jobs, &err),
            }
        };
        for mut job in jobs {
            let outcome = match &job.task {
                Task::Count(range) => {
                    let (counted, rest) = found.scan.count(range);
                    Ok(Effect::Counted(counted, rest))
                }
                Task::List(listing) if is_with_entries(listing) => {
                    if lane.kind == Kind::Scanners {
                        job.found = Some(found.clone());
                        job.since = Instant::now();
                        self.push(&self.pagers, job);
                        continue;
                    }
                    self.page_with_entries(&found.scan, listing, since)
                        .map(|page| self.settled(listing, &found, page))
                }
                Task::List(listing) => Ok(self.settled(listing, &found, found.scan.page(listing))),
            };
            job.completion.tell(outcome);
        }
    }

    fn settled(&self, listing: &Listing, found: &Made, mut page: Page) -> Effect {
        self.settle(listing, found, &mut page);
        Effect::Listed(page.into())
    }

    /// The page of a listing with the entries that are there.
    fn page_with_entries(
        &self,
        scan: &Scan,
        listing: &Listing,
        mut since: Since,
    ) -> Result<Page, Error> {
        let mut builder = Builder::new(listing);
        let mut places = builder.bounds().map_or(0..0, |bounds| scan.places(&bounds));
        let (mut window, mut passed, mut gone) = (WINDOW_MIN, 0, None);
        loop {
            // One more once it is full, to see if there is a rest.
            let left = if builder.is_full() { 1 } else { listing.keys_max - builder.len() };
            let wanted = left.min(window);
            let mut keys = Vec::with_capacity(wanted);
            while keys.len() < wanted
                && let Some(place) =
                    if listing.range.is_reverse { places.next_back() } else { places.next() }
            {
                keys.extend(scan.key(place));
            }
            if keys.is_empty() {
                if scan.is_cut() {
                    builder.stop();
                }
                return Ok(builder.into_page());
            }
            let entries = self.read(&keys, since.deadline())?;
            since = Since(Instant::now());
            let bytes: usize = entries.iter().flatten().map(|entry| entry.value().len()).sum();
            for (key, entry) in keys.into_iter().zip(entries) {
                if entry.is_none() {
                    passed += 1;
                    gone = Some(key);
                } else if builder.add(key, entry) {
                    gone = None;
                } else {
                    return Ok(builder.into_page());
                }
            }
            if passed >= PASSED_MAX {
                if let Some(gone) = gone.and_then(|gone| Key::new(gone).ok()) {
                    builder.pass(gone);
                }
                builder.stop();
                return Ok(builder.into_page());
            }
            window = if bytes <= WINDOW_BYTES { 2 * window } else { WINDOW_MIN };
            window = window.min(WINDOW_MAX);
        }
    }

    /// Reads the entries of keys, side by side: none of one that has gone, or that has no
    /// value.
    fn read(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Option<Entry>>, Error> {
        let (told, replies) = crossbeam_channel::bounded(keys.len());
        for (number, key) in keys.iter().enumerate() {
            let told = told.clone();
            self.ask(short(key), key, deadline, move |outcome| {
                told.send((number, outcome)).unwrap_or_default();
            });
        }
        drop(told);
        let mut entries = vec![None; keys.len()];
        let mut rest = Vec::new();
        for (number, outcome) in replies {
            match found(outcome, true)? {
                Short::Entry(entry) => {
                    if let Some(place) = entries.get_mut(number) {
                        *place = entry;
                    }
                }
                Short::Unknown => rest.push(number),
            }
        }
        for number in rest {
            let Some(key) = keys.get(number) else { continue };
            let (told, reply) = crossbeam_channel::bounded(1);
            self.ask(plain::read(key.as_bytes()), key, Instant::now() + PATIENCE, move |outcome| {
                told.send(outcome).unwrap_or_default();
            });
            let outcome = reply.recv().map_err(|_| scripts::unexpected())?;
            if let (Short::Entry(entry), Some(place)) =
                (found(outcome, false)?, entries.get_mut(number))
            {
                *place = entry;
            }
        }
        Ok(entries)
    }

    fn ask(
        &self,
        commands: Commands,
        key: &str,
        deadline: Instant,
        done: impl FnOnce(Result<Replies, Error>) + Send + 'static,
    ) {
        let place = Place::Slot(slot_of(key.as_bytes()));
        let done = Box::new(done);
        self.router.send(Request { place, commands, is_write: false, deadline, done });
    }
}

impl Job {
    /// Returns true if the scan for the one is that for the other.
    fn shares_a_scan_with(&self, other: &Self) -> bool {
        self.found.is_none() && other.found.is_none() && self.task.range() == other.task.range()
    }
}

fn fail(jobs: Vec<Job>, err: &Error) {
    for job in jobs {
        let outcome: Outcome = Err(err.clone());
        job.completion.tell(outcome);
    }
}

/// Reads a value that is short, with its expiry.
fn short(key: &str) -> Commands {
    let last = (SHORT_BYTES_MAX - 1).to_string();
    let key = key.as_bytes();
    Commands::of(&[&[b"GETRANGE", key, b"0", last.as_bytes()], &[b"PEXPIRETIME", key]])
}

/// The outcome of a read.
enum Short {
    Entry(Option<Entry>),
    /// The value may be longer; or nothing was there, and then something without an end.
    Unknown,
}

fn found(outcome: Result<Replies, Error>, is_short: bool) -> Result<Short, Error> {
    let replies = match outcome {
        Ok(replies) => replies,
        // Another application's.
        Err(Error::NotAValue) => return Ok(Short::Entry(None)),
        Err(err) => return Err(err),
    };
    let length = match replies.first() {
        Some(Reply::Bytes(bytes)) => bytes.len(),
        Some(Reply::Nothing | Reply::Integer(_) | Reply::Many(_) | Reply::Error(_)) | None => 0,
    };
    let is_whole = !is_short || (1..SHORT_BYTES_MAX).contains(&length);
    Ok(match plain::found(replies)? {
        Some(_) if !is_whole => Short::Unknown,
        // Another application's, if it is empty: nobody could store it again.
        entry => Short::Entry(entry.filter(|entry| !entry.value().is_empty())),
    })
}
