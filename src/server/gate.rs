//! The gate: every connection is let in here, before tiny_http knows of it.
//!
//! tiny_http gives each connection a thread and two descriptors, has no limit
//! on either, panics where it cannot have one, and ends its accept loop at the
//! first error. So it is given a connection only while there is room for it,
//! with a descriptor to spare, and no error but the end. It accepts on one
//! listening socket; the gate does on all that the server has.
//!
//! tiny_http's pool of threads also forgets connections: a burst of more than
//! it has idle threads is queued, and nobody begins with those that are left
//! over until another connection ends. They are noticed here, for nobody reads
//! them, and a connection that ends at once makes the pool look again.

use super::connections::{Connection, Fill};
use super::dispatch::Dispatcher;
use super::door::{self, Gate, Opened, Stream};
use super::inlet::Inlet;
use super::mailbox::Command;
use super::socket::Socket;
use crate::platform::threads;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The most addresses that can be served.
pub const LISTENERS_MAX: usize = usize::MAX;

/// After this time without a thread a connection is taken to be forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(2);

/// The time that the pool then has until it is made to look for that connection again:
/// each time costs a thread, and on a busy machine that one begins late.
const LOOKED_FOR_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The pause after an error of the system.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// The time within which an accept loop has to come here.
const BEGUN_WITHIN: Duration = Duration::from_secs(2);

/// The most descriptors that tiny_http needs for a connection at once: the one
/// that it is given, and the duplicate that it makes.
const DESCRIPTORS_SPARE: usize = 2;

/// Lets connections in, for one accept loop.
struct Gatekeeper {
    listeners: Arc<[TcpListener]>,
    dispatcher: Arc<Dispatcher>,
    accept_thread: Arc<AcceptThread>,
    // Nobody but the accept loop's thread locks it.
    state: Mutex<State>,
}

struct State {
    /// The file of which all of tiny_http's descriptors are duplicates: it never
    /// really reads or writes them.
    stand_in: OwnedFd,
    /// Descriptors for the next connection; the second one is not always kept.
    spare: Vec<OwnedFd>,
    keeps_spare: bool,
    /// Connections that no thread has begun to read.
    unread: Unread,
    /// The listening socket that is asked first.
    turn: usize,
}

/// Connections that no thread has begun to read, each with the time at which tiny_http's
/// pool is to be made to look for it.
#[derive(Default)]
struct Unread {
    /// Those that have just come, in order.
    new: Queue,
    /// Those for which it has looked, in order.
    looked_for: Queue,
}

type Queue = VecDeque<(Weak<Connection>, Instant)>;

/// The thread of an accept loop of tiny_http's.
#[derive(Debug)]
pub struct AcceptThread {
    /// The accept loop's number.
    pub number: usize,
    started_at: Instant,
    has_begun: AtomicBool,
    has_ended: AtomicBool,
}

/// Notes the end of the thread that this belongs to.
struct EndsWithThread(Arc<AcceptThread>);

thread_local! {
    static ACCEPT_THREAD: RefCell<Option<EndsWithThread>> = const { RefCell::new(None) };
}

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

impl AcceptThread {
    /// A thread that is about to begin.
    pub fn new(number: usize) -> Self {
        let (has_begun, has_ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { number, started_at: Instant::now(), has_begun, has_ended }
    }

    /// Whether it has come to the gate.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Whether its thread has ended, or does not come.
    pub fn is_over(&self) -> bool {
        let is_late = || self.started_at.elapsed() > BEGUN_WITHIN;
        self.has_ended.load(Ordering::Relaxed) || (!self.has_begun() && is_late())
    }

    /// Notes that the calling thread runs it.
    fn begin(self: &Arc<Self>) {
        if !self.has_begun.swap(true, Ordering::Relaxed) {
            ACCEPT_THREAD.replace(Some(EndsWithThread(Arc::clone(self))));
            // The threads that it starts name themselves.
            threads::set_name(&format!("accept-{}", self.number));
        }
    }
}

/// A connection that ends at once.
struct Nudge;

impl Stream for Nudge {
    fn id(&self) -> u64 {
        0
    }

    fn read(&self, _: &mut [u8]) -> usize {
        0
    }

    fn left(&self) {}
}

/// Has the accept loop that is about to begin on `listener` get every
/// connection to `listeners`, through the gate.
pub fn open(
    listener: &TcpListener,
    listeners: &Arc<[TcpListener]>,
    dispatcher: &Arc<Dispatcher>,
    accept_thread: &Arc<AcceptThread>,
) -> io::Result<Opened> {
    let gatekeeper = Gatekeeper {
        listeners: Arc::clone(listeners),
        dispatcher: Arc::clone(dispatcher),
        accept_thread: Arc::clone(accept_thread),
        state: Mutex::new(State::new()?),
    };
    // A connection may be gone before it is accepted, while others come elsewhere.
    let is_nonblocking = listeners.len() > 1;
    listeners.iter().try_for_each(|listener| listener.set_nonblocking(is_nonblocking))?;
    Ok(door::open(listener.as_fd(), Arc::new(gatekeeper)))
}

/// Forgets a listener whose accept loop has not begun.
pub fn close(opened: Opened) {
    door::forget(opened);
}

impl Gatekeeper {
    /// Waits for the next connection.
    fn accept(&self, state: &mut State) -> io::Result<Option<Arc<dyn Stream>>> {
        if let Err(err) = state.refill() {
            self.wait_out(&err);
            return Ok(None);
        }
        let connections = &self.dispatcher.connections;
        let Fill { count, max } = connections.fill();
        // Then there are descriptors enough in any case.
        state.keeps_spare = count < max / 2;
        if count >= max {
            // Forgotten connections take up room as well.
            if state.unread.take_forgotten(Instant::now()) {
                return Ok(Some(Arc::new(Nudge)));
            }
            self.dispatcher.watchdog.send(Command::Inspect);
            if !connections.wait_for_room(FORGOTTEN_AFTER) {
                return Ok(None);
            }
        }
        let Some(listener) = state.wait_for_client(&self.listeners) else {
            return Ok(Some(Arc::new(Nudge)));
        };
        let (descriptor, peer) = match rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC)
        {
            Ok(accepted) => accepted,
            // The listening socket was shut.
            Err(err @ (Errno::INVAL | Errno::BADF | Errno::NOTSOCK)) => return Err(err.into()),
            Err(err) => {
                self.wait_out(&err.into());
                return Ok(None);
            }
        };
        let socket = Socket::new(descriptor);
        if socket.is_over() {
            return Ok(None);
        }
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let peer = peer.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let connection = connections.add(socket, peer, self.accept_thread.number);
        state.unread.add(&connection, Instant::now());
        Ok(Some(Arc::new(Inlet::new(Arc::clone(&self.dispatcher), connection))))
    }

    /// Sees to an error of the system's that is not the end.
    fn wait_out(&self, err: &io::Error) {
        let is_of_client = matches!(
            err.kind(),
            io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::WouldBlock
        );
        if !is_of_client {
            let warning = format!("a connection cannot be accepted: {err}");
            self.dispatcher.watchdog.send(Command::Complain(warning));
            thread::sleep(ERROR_PAUSE);
        }
    }
}

impl State {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stand_in: rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?,
            spare: Vec::with_capacity(DESCRIPTORS_SPARE),
            keeps_spare: false,
            unread: Unread::default(),
            turn: 0,
        })
    }

    /// Takes the descriptors that tiny_http will need, before there is a connection.
    fn refill(&mut self) -> io::Result<()> {
        while self.spare.len() < DESCRIPTORS_SPARE {
            self.spare.push(self.stand_in.try_clone()?);
        }
        Ok(())
    }

    /// Waits for something to accept and gives the socket where it is, each in its
    /// turn, or the only one at once: to accept waits as well. `None` if tiny_http's
    /// pool has to be made to look before that.
    fn wait_for_client<'a>(&mut self, listeners: &'a [TcpListener]) -> Option<&'a TcpListener> {
        loop {
            let now = Instant::now();
            if self.unread.take_forgotten(now) {
                return None;
            }
            let due = self.unread.due();
            if let ([only], None) = (listeners, due) {
                return Some(only);
            }
            let timeout = due.and_then(|due| Timespec::try_from(due.duration_since(now)).ok());
            let polled = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN));
            let mut polled: Vec<_> = polled.collect();
            // An interrupted wait is made up for by the next.
            poll(&mut polled, timeout.as_ref()).ok();
            let turns = (self.turn..).take(listeners.len()).map(|turn| turn % listeners.len());
            for turn in turns {
                if polled.get(turn).is_some_and(|polled| !polled.revents().is_empty()) {
                    self.turn = turn + 1;
                    return listeners.get(turn);
                }
            }
        }
    }
}

impl Unread {
    /// Adds a connection that has come now.
    fn add(&mut self, connection: &Arc<Connection>, now: Instant) {
        self.new.push_back((Arc::downgrade(connection), now + FORGOTTEN_AFTER));
    }

    /// The time at which the next of them is taken to be forgotten, if there is any.
    fn due(&mut self) -> Option<Instant> {
        self.queues().into_iter().filter_map(due).min()
    }

    /// Takes one that is forgotten by now, if there is any: the pool is to look for it,
    /// and finds one at each look.
    fn take_forgotten(&mut self, now: Instant) -> bool {
        let forgotten = self.queues().into_iter().find_map(|queue| {
            due(queue).filter(|due| *due <= now)?;
            queue.pop_front()
        });
        let Some((connection, _)) = forgotten else { return false };
        self.looked_for.push_back((connection, now + LOOKED_FOR_AGAIN_AFTER));
        true
    }

    fn queues(&mut self) -> [&mut Queue; 2] {
        [&mut self.new, &mut self.looked_for]
    }
}

/// The time of the first in a queue that nobody reads yet. Those before it are removed.
fn due(queue: &mut Queue) -> Option<Instant> {
    while let Some((connection, due)) = queue.front() {
        if connection.upgrade().is_some_and(|connection| !connection.is_read()) {
            return Some(*due);
        }
        queue.pop_front();
    }
    None
}

impl Gate for Gatekeeper {
    fn next(&self) -> io::Result<(OwnedFd, Arc<dyn Stream>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.accept_thread.begin();
        loop {
            if let Some(stream) = self.accept(&mut state)? {
                let descriptor = state.spare.pop().ok_or(io::ErrorKind::Interrupted)?;
                if !state.keeps_spare {
                    // It makes room for tiny_http's duplicate.
                    state.spare.clear();
                }
                return Ok((descriptor, stream));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connections::Connections;
    use rustix::net::{AddressFamily, SocketType, socketpair};
    use std::iter;

    #[test]
    fn the_pool_is_made_to_look_once_for_each_that_it_forgot() {
        let connections = Connections::default();
        let connect = || {
            let (ours, _) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                    .expect("a pair of sockets");
            let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            connections.add(Socket::new(ours), nobody, 0)
        };
        let mut unread = Unread::default();
        let come = Instant::now();
        assert_eq!((unread.due(), unread.take_forgotten(come)), (None, false));

        let all: Vec<_> = (0..64).map(|_| connect()).collect();
        for connection in &all {
            unread.add(connection, come);
        }
        assert_eq!(unread.due(), Some(come + FORGOTTEN_AFTER));
        assert!(!unread.take_forgotten(come));

        // All at the same time, but for one that was read.
        all[7].set_read();
        let forgotten = come + FORGOTTEN_AFTER;
        let looks = |unread: &mut Unread, now| {
            iter::from_fn(|| unread.take_forgotten(now).then_some(())).count()
        };
        assert_eq!(looks(&mut unread, forgotten), 63);

        // Another comes, and is waited for no longer than the first.
        let late = connect();
        unread.add(&late, forgotten);
        assert_eq!(unread.due(), Some(forgotten + FORGOTTEN_AFTER));
        assert_eq!(looks(&mut unread, forgotten + FORGOTTEN_AFTER), 1);

        // Those that are not read even then have their turns again.
        let again = forgotten + LOOKED_FOR_AGAIN_AFTER;
        assert_eq!(unread.due(), Some(again));
        for connection in &all[..60] {
            connection.set_read();
        }
        assert_eq!(looks(&mut unread, again), 4);
        assert_eq!(unread.due(), Some(again + FORGOTTEN_AFTER));
        for connection in all.iter().chain([&late]) {
            connection.set_read();
        }
        assert_eq!((unread.due(), looks(&mut unread, again + LOOKED_FOR_AGAIN_AFTER)), (None, 0));
    }
}
