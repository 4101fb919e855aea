//! The connections that requests come from, by the peer's address.
//!
//! tiny_http hands out the requests of one connection as fast as it can parse
//! them, and lets their answers wait for one another inside the threads that
//! write them. Here they queue instead: at most one request of a connection
//! is in work, so answers keep their order and nobody waits for an answer
//! that another thread writes.

use super::job::Job;
use super::socket::Socket;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most requests that may wait on one connection behind the one in work.
pub(super) const WAITING_MAX: usize = 1000;

/// How many bytes the requests that wait on one connection may hold.
const WAITING_BYTES_MAX: usize = 2 << 20;

/// What may be written to a connection without asking the kernel: so much
/// fits the send buffer of any connection that has just been accepted.
const FRESH_ROOM_BYTES: u64 = 16 * 1024;

/// What the kernel may spend on one write beside its bytes.
const WRITE_OVERHEAD_BYTES: u64 = 2048;

/// All connections that are known. A connection is known from its first
/// request, or from the moment when the guard finds its socket.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_peer: HashMap<SocketAddr, Arc<Connection>>,
    /// Those that became known by a request and have had no socket since.
    loose: Vec<Arc<Connection>>,
}

/// One connection, or several that one peer's address has had in turn.
pub(super) struct Connection {
    peer: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    work: Work,
    /// How many requests have come so far.
    begun: u64,
    /// What may have been written since the kernel was asked for the room.
    written_bytes: u64,
    /// How much of the body in work was read.
    taken_bytes: u64,
    socket: Option<Arc<Socket>>,
    /// The last socket is shut, tiny_http has not closed it yet, and no other
    /// was found since.
    ended: bool,
    /// tiny_http's thread hangs for ever, so that no request can come.
    hangs: bool,
}

#[derive(Default)]
enum Work {
    /// No request is in work.
    #[default]
    Idle,
    /// One request is in work, others wait behind it.
    Busy { stage: Stage, waiting: VecDeque<Job>, waiting_bytes: usize },
    /// No request is taken any more. The ones that came are kept until the
    /// socket is shut, because tiny_http answers a request that is dropped,
    /// and until none is in work, because dropping waits for that.
    Cut { discarded: Vec<Job>, in_work: bool },
}

/// What a request in work is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for a thread or for the storage, not for its client.
    Working,
    /// Its body is being read.
    Receiving,
    /// Its answer is being written.
    Sending,
}

/// What the guard wants to know of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Activity {
    /// How many requests have come so far.
    pub(super) begun: u64,
    /// What the request in work is doing; `None` without one.
    pub(super) stage: Option<Stage>,
    /// How much of the body in work was read.
    pub(super) taken_bytes: u64,
    /// Whether no request is taken any more.
    pub(super) cut: bool,
}

/// Whether an answer can be written without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It can.
    Enough,
    /// It would have to wait for the peer.
    None,
    /// The socket has not been found yet, so nobody can tell.
    Unknown,
}

/// What became of a request that came.
#[allow(clippy::large_enum_variant, reason = "it is looked at once and not kept")]
pub(super) enum Entered {
    /// It is the one in work now.
    Started(Job),
    /// It waits for its turn, or is discarded.
    Kept,
    /// Too many wait: the connection takes no more and has to be cut.
    Overrun,
}

impl Connections {
    /// The connection of `peer`, made known if it is new, and whether it is.
    pub(super) fn of(&self, peer: SocketAddr) -> (Arc<Connection>, bool) {
        let mut table = self.lock();
        if let Some(known) = table.by_peer.get(&peer) {
            return (Arc::clone(known), false);
        }
        (table.add(peer), true)
    }

    /// A new connection in place of one that was stopped.
    pub(super) fn renew(&self, stopped: &Connection) -> Arc<Connection> {
        self.lock().add(stopped.peer)
    }

    /// The connections that have become known since the last call.
    pub(super) fn take_loose(&self) -> Vec<Arc<Connection>> {
        mem::take(&mut self.lock().loose)
    }

    /// Forgets `connection` unless a request of it is in work. Says whether
    /// nothing is left to forget: that is so too if it has a socket now.
    pub(super) fn forget(&self, connection: &Arc<Connection>) -> bool {
        let mut table = self.lock();
        let state = connection.lock();
        if state.socket.is_some() {
            return true;
        }
        if !state.is_idle() {
            return false;
        }
        let known = table.by_peer.get(&connection.peer);
        if known.is_some_and(|known| Arc::ptr_eq(known, connection)) {
            table.by_peer.remove(&connection.peer);
        }
        true
    }

    /// How many connections have a request in work.
    pub(super) fn busy(&self) -> usize {
        self.lock().by_peer.values().filter(|connection| !connection.is_idle()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change below is complete before anything could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        !matches!(self.work, Work::Busy { .. } | Work::Cut { in_work: true, .. })
    }
}

impl Table {
    fn add(&mut self, peer: SocketAddr) -> Arc<Connection> {
        let fresh = Arc::new(Connection { peer, state: Mutex::default() });
        self.by_peer.insert(peer, Arc::clone(&fresh));
        self.loose.push(Arc::clone(&fresh));
        fresh
    }
}

impl Connection {
    /// Takes a request that came on this connection.
    pub(super) fn enter(&self, job: Job) -> Entered {
        let mut state = self.lock();
        state.begun += 1;
        match &mut state.work {
            Work::Idle => {
                let waiting = VecDeque::new();
                state.work = Work::Busy { stage: Stage::Working, waiting, waiting_bytes: 0 };
                Entered::Started(job)
            }
            Work::Busy { waiting, waiting_bytes, .. }
                if waiting.len() < WAITING_MAX && *waiting_bytes < WAITING_BYTES_MAX =>
            {
                *waiting_bytes += job.bytes;
                waiting.push_back(job);
                Entered::Kept
            }
            Work::Busy { waiting, .. } => {
                let mut discarded = Vec::from(mem::take(waiting));
                discarded.push(job);
                state.work = Work::Cut { discarded, in_work: true };
                Entered::Overrun
            }
            Work::Cut { discarded, .. } => {
                discarded.push(job);
                Entered::Kept
            }
        }
    }

    /// Ends the work on a request; gives the next one that waits, which is in
    /// work then.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        match &mut state.work {
            Work::Busy { stage, waiting, waiting_bytes } => {
                *stage = Stage::Working;
                let next = waiting.pop_front();
                match &next {
                    Some(job) => *waiting_bytes = waiting_bytes.saturating_sub(job.bytes),
                    None => state.work = Work::Idle,
                }
                next
            }
            Work::Cut { in_work, .. } => {
                *in_work = false;
                None
            }
            Work::Idle => None,
        }
    }

    /// Whether requests wait behind the one in work.
    pub(super) fn has_waiting(&self) -> bool {
        matches!(&self.lock().work, Work::Busy { waiting, .. } if !waiting.is_empty())
    }

    /// Ends the work on a request and takes no other from now on.
    /// `unanswered` and all that wait are kept until they can be discarded.
    pub(super) fn stop(&self, unanswered: Option<Job>) {
        let mut state = self.lock();
        let kept = match mem::take(&mut state.work) {
            Work::Idle => Vec::new(),
            Work::Busy { waiting, .. } => waiting.into(),
            Work::Cut { discarded, .. } => discarded,
        };
        let discarded = unanswered.into_iter().chain(kept).collect();
        state.work = Work::Cut { discarded, in_work: false };
    }

    /// Takes no request from now on, unless one is in work that may be
    /// answered at any moment. Says whether it did.
    pub(super) fn stop_silent(&self) -> bool {
        let mut state = self.lock();
        let (kept, in_work) = match &mut state.work {
            Work::Busy { stage: Stage::Working | Stage::Sending, .. } | Work::Cut { .. } => {
                return false;
            }
            Work::Busy { waiting, .. } => (mem::take(waiting), true),
            Work::Idle => (VecDeque::new(), false),
        };
        state.work = Work::Cut { discarded: kept.into(), in_work };
        true
    }

    /// The requests that were kept since the connection was stopped, in order,
    /// once none is in work.
    pub(super) fn discarded(&self) -> Vec<Job> {
        match &mut self.lock().work {
            Work::Cut { discarded, in_work: false } => mem::take(discarded),
            Work::Idle | Work::Busy { .. } | Work::Cut { .. } => Vec::new(),
        }
    }

    /// Says what the request in work does from now on; `false` if the
    /// connection was stopped meanwhile.
    pub(super) fn set_stage(&self, now: Stage) -> bool {
        let mut state = self.lock();
        state.taken_bytes = 0;
        match &mut state.work {
            Work::Busy { stage, .. } => *stage = now,
            Work::Idle | Work::Cut { .. } => return false,
        }
        true
    }

    /// Says how much of the body in work was read.
    pub(super) fn set_taken(&self, bytes: u64) {
        self.lock().taken_bytes = bytes;
    }

    /// What is going on here.
    pub(super) fn activity(&self) -> Activity {
        let state = self.lock();
        Activity {
            begun: state.begun,
            stage: match &state.work {
                Work::Busy { stage, .. } => Some(*stage),
                Work::Idle | Work::Cut { .. } => None,
            },
            taken_bytes: state.taken_bytes,
            cut: matches!(state.work, Work::Cut { .. }),
        }
    }

    /// Whether an answer of `bytes` can be written without waiting for the
    /// peer; counts it as written if so. Asks the kernel now and then.
    pub(super) fn room_for(&self, bytes: u64) -> Room {
        let mut state = self.lock();
        let wanted = bytes + WRITE_OVERHEAD_BYTES;
        if state.written_bytes + wanted > FRESH_ROOM_BYTES {
            let Some(socket) = &state.socket else { return Room::Unknown };
            let room = socket.room().unwrap_or(0);
            if room < wanted {
                return Room::None;
            }
            // With this much to spare the next writes need not ask.
            let to_spare = room - wanted;
            state.written_bytes = FRESH_ROOM_BYTES.saturating_sub(to_spare);
            return Room::Enough;
        }
        state.written_bytes += wanted;
        Room::Enough
    }

    /// Forgets what was written so far, where nobody can be asked.
    #[cfg(any(portable, not(target_os = "linux")))]
    pub(super) fn assume_room(&self) {
        self.lock().written_bytes = 0;
    }

    /// The socket, once it was found.
    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        self.lock().socket.clone()
    }

    /// Ties the connection to the socket that was found for its peer.
    pub(super) fn attach(&self, socket: Arc<Socket>) {
        let mut state = self.lock();
        state.socket = Some(socket);
        state.ended = false;
    }

    /// Notes that tiny_http has closed the last socket: nothing more can come.
    pub(super) fn bury(&self) {
        self.lock().ended = false;
    }

    /// Notes that tiny_http's thread hangs for ever: no request can come that
    /// it had read before.
    pub(super) fn set_hanging(&self) {
        self.lock().hangs = true;
    }

    /// Whether it does.
    pub(super) fn hangs(&self) -> bool {
        self.lock().hangs
    }

    /// Whether the last socket is shut and may be open in tiny_http's hands.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Whether no request is in work.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Unties the connection from a socket that has ended.
    pub(super) fn detach(&self, ended: &Socket) {
        let mut state = self.lock();
        if state.socket.as_ref().is_some_and(|socket| socket.cookie() == ended.cookie()) {
            state.socket = None;
            state.ended = true;
        }
    }

    /// The peer's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
