//! A node of the cluster: its connection, with a writer and a reader.
//!
//! ```text
//! push ──► queue ──► writer ═══► the node's process
//!             pending ◄──┘            ║
//!                └──────► reader ◄════╝
//!                           ├──► completions
//!   Router ◄── refused,     │
//!              not sent ◄───┘
//! ```
//!
//! The writer takes all that waits and writes it at once; a request that meets an idle
//! connection, and a wave, are written in its place, on the thread that brings them. The
//! reader gives each reply to the oldest request that is pending. The thread of the writer
//! connects, starts a reader for each connection, and settles what was under way as it
//! breaks: a request is given back to the router if it may be repeated, and of the others
//! nobody knows more.
//!
//! A node reads nothing while it waits for its replicas, so reads are late by the time that
//! it waits, once. If that was in vain it takes no writes, and is asked each second for a
//! moment whether the replicas have caught up.
//!
//! A read that was pending as a connection broke may be the cause. It is repeated with
//! nothing but its like, and then alone, so that it costs nobody else a write.
//!
//! A node that is not connected takes no requests. Nothing here knows slots.

mod reader;
mod writer;

use super::link::{Conversation, LinkError, Terms};
use super::router::{Replies, Router};
use super::traffic::{Job, Traffic, count};
use super::waves::Gathers;
use crate::storage::Error;
use crate::storage::cluster::config::Address;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use writer::{Batch, LARGE_BYTES_MIN, Output};

/// The time for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(500);

/// The time between two attempts to connect, and up to half of that more.
const RECONNECT: Duration = Duration::from_millis(66);

/// The reasons why there is no connection that are told until there is one again.
const FAILURES_MAX: usize = 16;

/// The time without a byte after which a connection is cut, if a reply is missing.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// The time that a request may be pending for before its deadline is looked at.
const PENDING_MIN: Duration = Duration::from_millis(200);

/// The time that a request may be pending for at all.
const PENDING_MAX: Duration = Duration::from_secs(6);

/// The connections that may break over a read: of its reply, say, which the node or the
/// front does not bear.
const BREAKS_MAX: u8 = 3;

/// The time between two questions for the number of replicas.
const ROLE_INTERVAL: Duration = Duration::from_secs(1);

/// A node that the front is connected to, or tries to be.
pub struct Node {
    /// For the waves.
    this: Weak<Self>,
    address: Address,
    terms: Arc<Terms>,
    traffic: Arc<Traffic>,
    router: Weak<Router>,
    state: Mutex<State>,
    /// Rings for the writer.
    bell: Condvar,
    /// The bytes that were read, in all.
    received: AtomicU64,
    /// The bytes that were written to the connection.
    written: AtomicU64,
}

/// The reason why a node does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It is not connected.
    Disconnected,
    /// It does not let the front in.
    Refused,
    /// It is not part of the cluster.
    Ended,
    /// It has fewer replicas than a write needs.
    ReplicasTooFew,
}

/// The state of a node's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Connected,
    /// The connection is of no more use, and is about to be settled.
    Broken,
    Disconnected,
    Refused,
}

/// All that changes of a node.
pub struct State {
    stand: Stand,
    /// Since when that is so.
    since: Instant,
    /// Nothing more is taken.
    has_ended: bool,
    /// The connection, to be cut.
    stream: Option<Arc<TcpStream>>,
    queue: VecDeque<Box<Job>>,
    /// What is in the queue waits for its wave.
    is_gathering: bool,
    pending: VecDeque<Pending>,
    /// Writes that were done, and that replicas may not have.
    held: Vec<(Box<Job>, Replies)>,
    output: Output,
    replicas: Replicas,
    silence: Silence,
    last_used: Instant,
    doubted: Option<Instant>,
}

/// The replicas of a node.
struct Replicas {
    /// Those that are connected to it; `None` if it is a replica itself, which sends
    /// requests on.
    connected: Option<usize>,
    /// Their number was asked for at that time.
    asked: Instant,
    /// Their number is to be asked for.
    are_wanted: bool,
    /// They did not have the last writes in time, and may not have them yet.
    are_late: bool,
}

impl Replicas {
    /// Nothing is known of them at that time, but for their number.
    fn new(connected: Option<usize>, now: Instant) -> Self {
        Self { connected, asked: now, are_wanted: false, are_late: false }
    }

    /// Returns true if a write would not have those that it needs.
    fn are_few(&self, terms: &Terms) -> bool {
        self.are_late || self.connected.is_some_and(|connected| connected < terms.replicas)
    }
}

/// The progress of the oldest request, and since when it is that.
struct Silence {
    bytes: u64,
    since: Instant,
}

/// The owner of a reply to come.
enum Pending {
    Request(Sent),
    /// `WAIT`, sent at that time.
    Wait(Instant),
    /// `ROLE`, sent at that time.
    Role(Instant),
}

/// A request that was sent, or is about to be.
struct Sent {
    job: Box<Job>,
    at: Instant,
    /// The end of its first command in the stream.
    first_end: u64,
    /// The replies before the next that are not its own.
    skips: usize,
    replies: Replies,
}

impl Node {
    /// A node, and the thread that connects to it.
    pub fn start(
        address: Address,
        terms: &Arc<Terms>,
        traffic: &Arc<Traffic>,
        router: Weak<Router>,
    ) -> io::Result<Arc<Self>> {
        let now = Instant::now();
        let state = State {
            stand: Stand::Disconnected,
            since: now,
            has_ended: false,
            stream: None,
            queue: VecDeque::new(),
            is_gathering: false,
            pending: VecDeque::new(),
            held: Vec::new(),
            output: Output::default(),
            replicas: Replicas::new(None, now),
            silence: Silence { bytes: 0, since: now },
            last_used: now,
            doubted: None,
        };
        let node = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            address,
            terms: Arc::clone(terms),
            traffic: Arc::clone(traffic),
            router,
            state: Mutex::new(state),
            bell: Condvar::new(),
            received: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let this = Arc::clone(&node);
        thread::Builder::new().name("node-writer".to_owned()).spawn(move || this.run())?;
        Ok(node)
    }

    /// Its address, as the cluster tells it.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes a request, or gives it back. Never blocks.
    pub fn push(&self, job: Box<Job>) -> Result<(), (Box<Job>, Busy)> {
        let mut state = self.lock();
        let busy = match state.stand {
            _ if state.has_ended => Some(Busy::Ended),
            Stand::Disconnected | Stand::Broken => Some(Busy::Disconnected),
            Stand::Refused => Some(Busy::Refused),
            Stand::Connected if job.is_write && state.replicas.are_few(&self.terms) => {
                Some(Busy::ReplicasTooFew)
            }
            Stand::Connected => None,
        };
        if let Some(busy) = busy {
            return Err((job, busy));
        }
        let is_lone = self.traffic.pending() == 1 && Batch::is_plain(&job, &self.terms);
        if is_lone && state.is_idle() {
            state.queue.push_back(job);
            self.write_in_place(state);
        } else if self.is_to_be_gathered(&state, &job) {
            state.queue.push_back(job);
            self.gather(state);
        } else {
            state.queue.push_back(job);
            state.is_gathering = false;
            self.ring(state);
        }
        Ok(())
    }

    /// Returns true if a request has to wait for its wave. Where replicas are waited for,
    /// requests gather by that.
    fn is_to_be_gathered(&self, state: &State, job: &Job) -> bool {
        self.traffic.waves.are_on()
            && (state.is_gathering || state.queue.is_empty())
            && job.bytes.len() < LARGE_BYTES_MIN
            && self.terms.replicas == 0
    }

    /// Leaves what is in the queue to its wave. Never blocks.
    fn gather(&self, mut state: MutexGuard<'_, State>) {
        let mut unattended = None;
        if !mem::replace(&mut state.is_gathering, true)
            && let Some(this) = self.this.upgrade()
        {
            unattended = self.traffic.waves.join(this);
        }
        drop(state);
        if let Some(number) = unattended
            && let Some(router) = self.router.upgrade()
        {
            router.tend_wave(number);
        }
        self.traffic.waves.add();
    }

    /// Returns true while it is connected.
    pub fn is_connected(&self) -> bool {
        self.lock().stand == Stand::Connected
    }

    /// Returns true if it has not been connected for that long.
    pub fn is_lost_since(&self, duration: Duration) -> bool {
        let state = self.lock();
        state.stand != Stand::Connected && state.since.elapsed() >= duration
    }

    /// The time for which it has had nothing to do; `None` while requests are under way.
    pub fn rest(&self) -> Option<Duration> {
        let state = self.lock();
        let is_at_rest = state.queue.is_empty()
            && state.held.is_empty()
            && !state.pending.iter().any(|pending| matches!(pending, Pending::Request(_)));
        is_at_rest.then(|| state.last_used.elapsed())
    }

    /// Has it asked for the map only if nobody else answers, for a while.
    pub fn doubt(&self) {
        self.lock().doubted = Some(Instant::now());
    }

    /// Returns true if it was doubted in that time, or is not connected.
    pub fn is_doubted(&self, duration: Duration) -> bool {
        let state = self.lock();
        let is_doubted = state.doubted.is_some_and(|at| at.elapsed() < duration);
        is_doubted || state.stand != Stand::Connected
    }

    /// Ends it once what it has under way has ended. Never blocks.
    pub fn end(&self) {
        let mut state = self.lock();
        state.has_ended = true;
        state.is_gathering = false;
        self.ring(state);
    }

    /// Does what is due by the clock: cuts a silent connection, and ends requests whose
    /// deadline has passed. Never blocks.
    pub fn tick(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let bytes = self.progress(&state);
        if state.silence.bytes != bytes {
            state.silence = Silence { bytes, since: now };
        }
        let oldest = state.pending.front().map(Pending::sent_at);
        let age = oldest.map_or(Duration::ZERO, |at| now.duration_since(at));
        let silence = now.duration_since(state.silence.since);
        let is_cut = age >= PENDING_MAX || age >= SILENCE_MAX && silence >= SILENCE_MAX;
        let overdue = if age >= PENDING_MIN || !state.queue.is_empty() || !state.held.is_empty() {
            state.overdue(now)
        } else {
            Vec::new()
        };
        if self.terms.replicas > 0
            && state.stand == Stand::Connected
            && now.duration_since(state.replicas.asked) >= ROLE_INTERVAL
        {
            state.replicas.are_wanted = true;
        }
        let stream = if is_cut { state.stream.take() } else { None };
        if state.replicas.are_wanted {
            self.ring(state);
        } else {
            drop(state);
        }
        if let Some(stream) = stream {
            log::warn!("{} has not answered, and is cut", self.address);
            cut(&stream);
        }
        for (mut job, was_sent) in overdue {
            job.give_up(was_sent);
        }
    }

    /// Has its silence begin now: what came before may not be read yet.
    pub fn excuse_silence(&self) {
        self.lock().silence.since = Instant::now();
    }

    /// The bytes that were read; and those that were written, while the oldest request
    /// has not left yet.
    fn progress(&self, state: &State) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        let is_leaving = match state.pending.front() {
            Some(Pending::Request(sent)) => sent.first_end > written,
            Some(Pending::Wait(_) | Pending::Role(_)) | None => false,
        };
        let received = self.received.load(Ordering::Relaxed);
        if is_leaving { received + written } else { received }
    }

    /// Connects again and again, until the end.
    fn run(&self) {
        // Several may take turns.
        let mut failures: Vec<String> = Vec::new();
        loop {
            match self.connect() {
                Ok((stream, replicas)) => {
                    log::info!("connected to {}", self.address);
                    failures.clear();
                    self.serve(stream, replicas);
                }
                Err(err) => {
                    self.stand(match &err {
                        LinkError::Refused(_) => Stand::Refused,
                        LinkError::Broken(_) | LinkError::NotReady(_) => Stand::Disconnected,
                    });
                    let failure = err.to_string();
                    if failures.len() < FAILURES_MAX && !failures.contains(&failure) {
                        log::warn!("no connection to {}: {failure}", self.address);
                        failures.push(failure);
                    }
                }
            }
            if self.pause() {
                return;
            }
        }
    }

    fn connect(&self) -> Result<(TcpStream, Option<usize>), LinkError> {
        if self.lock().has_ended {
            return Err(io::Error::from(ErrorKind::NotConnected).into());
        }
        Conversation::open(&self.address, &self.terms, HANDSHAKE_TIMEOUT)?.into_link(&self.terms)
    }

    fn stand(&self, stand: Stand) {
        let mut state = self.lock();
        if state.stand != stand {
            state.stand = stand;
            state.since = Instant::now();
        }
    }

    /// Waits until the next attempt to connect; true at the end.
    fn pause(&self) -> bool {
        let noise = getrandom::u32().unwrap_or_default() % 1000;
        let pause = RECONNECT + RECONNECT / 2000 * noise;
        let state = self.lock();
        let woken = self.bell.wait_timeout_while(state, pause, |state| !state.has_ended);
        woken.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    /// Uses a connection until it breaks.
    fn serve(&self, stream: TcpStream, replicas: Option<usize>) {
        let stream = Arc::new(stream);
        self.begin(&stream, replicas);
        thread::scope(|scope| {
            let reader = thread::Builder::new().name("node-reader".to_owned());
            let read = || self.read(&stream);
            if let Err(err) = reader.spawn_scoped(scope, read) {
                log::warn!("no thread for the replies of {}: {err}", self.address);
                return;
            }
            if let Err(err) = self.write(&stream) {
                log::warn!("cannot write to {}: {err}", self.address);
            }
            cut(&stream);
        });
        self.settle();
    }

    fn begin(&self, stream: &Arc<TcpStream>, replicas: Option<usize>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.stand = Stand::Connected;
        state.since = now;
        state.replicas = Replicas::new(replicas, now);
        state.output = Output::default();
        state.is_gathering = false;
        self.written.store(0, Ordering::Relaxed);
        state.doubted = None;
        state.stream = Some(Arc::clone(stream));
    }

    /// Settles what was under way on a connection that nobody uses.
    fn settle(&self) {
        let mut state = self.lock();
        let written = self.written.load(Ordering::Relaxed);
        state.stand = Stand::Disconnected;
        state.since = Instant::now();
        state.stream = None;
        let has_ended = state.has_ended;
        let held = mem::take(&mut state.held);
        let pending = mem::take(&mut state.pending);
        let queue = mem::take(&mut state.queue);
        state.is_gathering = false;
        drop(state);
        if !has_ended {
            count(&self.traffic.broken);
        }
        let router = self.router.upgrade();
        if let Some(router) = router.as_ref().filter(|_| !has_ended) {
            router.refresh();
        }
        for (mut job, _) in held {
            job.finish(Err(Error::OutcomeUnknown));
        }
        let unsent = pending.into_iter().filter_map(|pending| pending.unsent(written));
        for job in unsent.chain(queue) {
            // Without a router the job is dropped, which completes it.
            if let Some(router) = &router {
                router.again(job, Duration::ZERO);
            }
        }
    }

    /// Wakes the writer.
    fn ring(&self, mut state: MutexGuard<'_, State>) {
        // One who writes in its place wakes it after that.
        if !state.output.is_busy && mem::take(&mut state.output.is_asleep) {
            drop(state);
            self.bell.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathers for Node {
    fn write_gathered(&self) {
        let mut state = self.lock();
        if mem::take(&mut state.is_gathering) && !state.queue.is_empty() {
            self.write_in_place(state);
        }
    }
}

impl State {
    /// The writes that were not sent.
    fn unsent_writes(&mut self) -> VecDeque<Box<Job>> {
        let (writes, reads) = mem::take(&mut self.queue).into_iter().partition(|job| job.is_write);
        self.queue = reads;
        writes
    }

    /// The requests whose deadline has passed, and whether they were sent.
    fn overdue(&mut self, now: Instant) -> Vec<(Job, bool)> {
        let mut overdue = Vec::new();
        let mut withdraw = |job: &mut Job, was_sent| {
            if job.deadline <= now && !job.is_finished() {
                overdue.push((job.withdraw(), was_sent));
            }
        };
        self.queue.iter_mut().for_each(|job| withdraw(job, false));
        self.held.iter_mut().for_each(|(job, _)| withdraw(job, true));
        for pending in &mut self.pending {
            if let Pending::Request(sent) = pending {
                withdraw(&mut sent.job, true);
            }
        }
        self.queue.retain(|job| !job.is_finished());
        overdue
    }
}

impl Pending {
    fn sent_at(&self) -> Instant {
        match self {
            Self::Request(sent) => sent.at,
            Self::Wait(at) | Self::Role(at) => *at,
        }
    }

    /// The request, if it may be sent again after so many bytes were written.
    fn unsent(self, written: u64) -> Option<Box<Job>> {
        let Self::Request(Sent { mut job, first_end, .. }) = self else { return None };
        if first_end <= written {
            job.breaks = job.breaks.saturating_add(1);
            if job.is_write || job.breaks == BREAKS_MAX {
                job.give_up(true);
            }
        }
        if job.is_finished() { None } else { Some(job) }
    }
}

fn cut(stream: &TcpStream) {
    // It may be broken already.
    drop(stream.shutdown(Shutdown::Both));
}
