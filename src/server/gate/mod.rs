//! The gate: every connection is let in here, before tiny_http knows of it.
//!
//! tiny_http gives each connection a thread and two descriptors, has no limit
//! on either, panics where it cannot have one, and ends its accept loop at the
//! first error. So it is given a connection only while there is room for it,
//! with a descriptor to spare, and no error but the end. It accepts on one
//! listening socket; the gate does on all that the server has.
//!
//! tiny_http's pool of threads also forgets connections, which are `unread` then.

mod unread;

use super::connections::Fill;
use super::dispatch::Dispatcher;
use super::door::{self, Gate, Opened, Stream};
use super::inbox::Inbox;
use super::inlet::Inlet;
use super::mailbox::Command;
use super::socket::Socket;
use crate::platform::threads;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use unread::{FORGOTTEN_AFTER, Step, Unread};

/// The most addresses that can be served.
pub const LISTENERS_MAX: usize = usize::MAX;

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
    inbox: Arc<Inbox>,
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

    /// Returns true if it has come to the gate.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Returns true if its thread has ended, or does not come.
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

/// Has the accept loop that is about to begin on `listener` get every
/// connection to `listeners`, through the gate.
pub fn open(
    listener: &TcpListener,
    listeners: &Arc<[TcpListener]>,
    dispatcher: &Arc<Dispatcher>,
    accept_thread: &Arc<AcceptThread>,
    inbox: &Arc<Inbox>,
) -> io::Result<Opened> {
    let gatekeeper = Gatekeeper {
        listeners: Arc::clone(listeners),
        dispatcher: Arc::clone(dispatcher),
        accept_thread: Arc::clone(accept_thread),
        inbox: Arc::clone(inbox),
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
    /// Waits for the next connection, or gives a nudge that is due. `None` if there is
    /// neither for now.
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
            let now = Instant::now();
            if state.unread.next_step(now) == Step::Nudge {
                return Ok(Some(Arc::new(state.unread.nudge(now))));
            }
            self.dispatcher.watchdog.send(Command::Inspect);
            if !connections.wait_for_room(FORGOTTEN_AFTER) {
                return Ok(None);
            }
        }
        let Some(listener) = state.wait_for_client(&self.listeners) else {
            return Ok(Some(Arc::new(state.unread.nudge(Instant::now()))));
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
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let peer = peer.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(self.admit(state, Socket::new(descriptor), peer))
    }

    /// Adds a connection that was accepted; `None` if it is over already.
    fn admit(
        &self,
        state: &mut State,
        socket: Socket,
        peer: SocketAddr,
    ) -> Option<Arc<dyn Stream>> {
        if socket.is_over() {
            return None;
        }
        let connection = self.dispatcher.connections.add(socket, peer, self.accept_thread.number);
        state.unread.add(&connection, Instant::now());
        let (dispatcher, inbox) = (Arc::clone(&self.dispatcher), Arc::clone(&self.inbox));
        Some(Arc::new(Inlet::new(dispatcher, connection, inbox)))
    }

    /// Logs an error of the system that may pass, and waits so that it is not met at once
    /// again. One that is the client's is no reason for either.
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
            stand_in: eventfd(0, EventfdFlags::CLOEXEC)?,
            spare: Vec::with_capacity(DESCRIPTORS_SPARE),
            keeps_spare: false,
            unread: Unread::new()?,
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
    /// pool has to be nudged before that.
    fn wait_for_client<'a>(&mut self, listeners: &'a [TcpListener]) -> Option<&'a TcpListener> {
        loop {
            let timeout = match self.unread.next_step(Instant::now()) {
                Step::Nudge => return None,
                Step::WaitUpTo(left) => Timespec::try_from(left).ok(),
                Step::Wait => None,
            };
            if let ([only], None) = (listeners, timeout) {
                return Some(only);
            }
            let polled = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN));
            let ended = PollFd::new(&self.unread.nudge_ended, PollFlags::IN);
            let mut polled: Vec<_> = polled.chain([ended]).collect();
            // An interrupted wait is made up for by the next.
            poll(&mut polled, timeout.as_ref()).ok();
            if polled.last().is_some_and(|ended| !ended.revents().is_empty()) {
                rustix::io::read(&self.unread.nudge_ended, &mut [0; 8]).ok();
            }
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
