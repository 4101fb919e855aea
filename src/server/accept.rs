//! The listening sockets, and the tiny_http server that accepts on them.
//!
//! A tiny_http server whose accept loop has panicked (no thread could be
//! started for a connection) accepts nothing any more. The listening sockets are
//! therefore ours: another server starts on another descriptor of the first one,
//! while the connections of the last server live on. What comes on the other
//! sockets goes through the `gate` to the same server.

use super::dispatch::{self, Dispatcher, Message, Ready};
use super::gate::{self, AcceptLoop};
use super::leader::{Exit, Leadership};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::collections::HashSet;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How many earlier accept loops may wait for their last connections.
const RETIRING_MAX: usize = 32;

/// A dead peer is noticed about this long after it was last heard of.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How many free ports of the first address are tried on the others.
const PORT_TRIES: usize = 16;

/// The system's error for a family of addresses that it does not have.
#[cfg(unix)]
const NO_FAMILY: i32 = libc::EAFNOSUPPORT;
#[cfg(not(unix))]
const NO_FAMILY: i32 = 10_047;

/// Listens on each of `addrs` that this machine has, and has to have one. Where
/// the port is 0 all get the same free one.
pub(super) fn listen(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut tries = if addrs.iter().any(|addr| addr.port() == 0) { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match listen_once(addrs) {
            Err(err) if err.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            outcome => return outcome,
        }
    }
}

fn listen_once(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let (mut listeners, mut absent, mut port) = (Vec::new(), Vec::new(), 0);
    for mut addr in addrs.iter().copied() {
        if addr.port() == 0 {
            addr.set_port(port);
        }
        let outcome = if listeners.len() < gate::LISTENERS_MAX {
            open(addr)
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this build serves one address"))
        };
        match outcome {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(err) => {
                let line = format!("cannot listen on {addr}: {err}");
                let told = io::Error::new(err.kind(), line);
                if !is_absent(&err) {
                    return Err(told);
                }
                absent.push(told);
            }
        }
    }
    match absent.pop() {
        Some(err) if listeners.is_empty() => return Err(err),
        last => absent.iter().chain(&last).for_each(|err| log::warn!("{err}")),
    }
    Ok(listeners)
}

/// Whether an address is one that this machine does not have, or this build
/// does not serve.
fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || err.raw_os_error() == Some(NO_FAMILY)
}

/// Opens a listening socket. The options set here hold for every connection
/// that it accepts.
fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // The last run's connections may still be in TIME_WAIT. On Windows the
    // same option would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // An answer is one write; holding it back gains nothing.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The accept loops over the listening sockets.
pub(super) struct Acceptor {
    listeners: Arc<[TcpListener]>,
    dispatcher: Arc<Dispatcher>,
    connections_max: usize,
    current: Generation,
    /// Earlier ones, whose connections live on.
    retiring: Vec<Generation>,
}

/// One tiny_http server, and who takes its requests.
struct Generation {
    lead: Arc<Leadership>,
    accept_loop: Arc<AcceptLoop>,
}

impl Acceptor {
    /// Starts accepting on `listeners`, up to so many connections at once.
    pub(super) fn new(
        listeners: Vec<TcpListener>,
        dispatcher: Arc<Dispatcher>,
        connections_max: usize,
    ) -> io::Result<Self> {
        let listeners = listeners.into();
        let current = Generation::start(&listeners, &dispatcher, connections_max, 0)?;
        let retiring = Vec::new();
        Ok(Self { listeners, dispatcher, connections_max, current, retiring })
    }

    /// Waits until the accept loop has come to the gate. It does not where the
    /// standard library accepts in another way than this program knows of.
    pub(super) fn wait_until_begun(&self, patience: Duration) -> io::Result<()> {
        const PAUSE: Duration = Duration::from_micros(100);
        let end = Instant::now() + patience;
        while !self.current.accept_loop.has_begun() {
            if Instant::now() > end {
                return Err(io::Error::other("tiny_http does not accept through the gate"));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Whether the accept loop has come to the gate.
    pub(super) fn has_begun(&self) -> bool {
        self.current.accept_loop.has_begun()
    }

    /// Whether the accept loop has ended.
    pub(super) fn is_over(&self) -> bool {
        self.current.accept_loop.is_over()
    }

    /// Starts another accept loop in place of one that has ended.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        if self.retiring.len() >= RETIRING_MAX {
            return Err(io::Error::other("too many earlier ones have connections yet"));
        }
        let Self { listeners, dispatcher, connections_max, current, .. } = self;
        let number = current.accept_loop.number + 1;
        let next = Generation::start(listeners, dispatcher, *connections_max, number)?;
        self.retiring.push(mem::replace(current, next));
        Ok(())
    }

    /// Ends the leaders of earlier accept loops that have no connection left
    /// among those of `living` numbers.
    pub(super) fn retire_without(&mut self, living: &HashSet<usize>) {
        self.retiring.retain(|generation| {
            let lives = living.contains(&generation.accept_loop.number);
            if !lives {
                generation.lead.retire();
            }
            lives
        });
    }

    /// Whether a connection that came through the accept loop of that number
    /// waits in vain for a thread.
    pub(super) fn is_retiring(&self, accept_loop: usize) -> bool {
        accept_loop != self.current.accept_loop.number
    }

    /// Whether there are earlier accept loops.
    pub(super) fn has_retiring(&self) -> bool {
        !self.retiring.is_empty()
    }

    /// Gives the lead to another thread where the one that has it is stuck.
    /// Says whether any leader is at an answer.
    pub(super) fn displace_stuck(&self, now: Instant) -> bool {
        let mut is_busy = false;
        for lead in self.generations().map(|generation| &generation.lead) {
            if let Some(term) = lead.displace_stuck(now) {
                // The lane's threads live as long as the server.
                let next = Ready::Leadership(Arc::clone(lead), term);
                self.dispatcher.ready.send(Message::Work(next)).ok();
            }
            is_busy |= lead.is_answering();
        }
        is_busy
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.retiring.iter().chain([&self.current])
    }

    /// Stops accepting. Connections that were accepted live on.
    pub(super) fn close(&self) {
        for listener in &*self.listeners {
            // Where a listening socket cannot be shut it goes on listening until
            // the process ends, and nobody who comes then is answered.
            SockRef::from(listener).shutdown(Shutdown::Read).ok();
        }
    }

    /// Ends the threads that take requests. What is committed after that is
    /// answered by whoever says so.
    pub(super) fn retire_all(&self) {
        self.generations().for_each(|generation| generation.lead.retire());
        for (job, reply) in self.dispatcher.completions.end() {
            self.dispatcher.answer_committed(job, reply);
        }
    }
}

impl Generation {
    /// Starts to accept, on one more thread of the ready lane, which leads.
    fn start(
        listeners: &Arc<[TcpListener]>,
        dispatcher: &Arc<Dispatcher>,
        connections_max: usize,
        number: usize,
    ) -> io::Result<Self> {
        let listener = listeners.first().ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        let accept_loop = Arc::new(AcceptLoop::new(number));
        let opened = gate::open(&listener, listeners, dispatcher, connections_max, &accept_loop)?;
        let dispatcher = Arc::clone(dispatcher);
        let (hand_over, handed_over) = crossbeam_channel::bounded(1);
        let thread = thread::Builder::new().name(format!("lead-{number}"));
        thread.stack_size(dispatch::STACK_BYTES).spawn(move || {
            match start_tiny_http(listener) {
                Ok(lead) => {
                    let lead = Arc::new(lead);
                    dispatcher.completions.are_for(Arc::clone(&lead));
                    // Who has started this waits for it.
                    hand_over.send(Ok(Arc::clone(&lead))).ok();
                    if lead.run(0, &dispatcher) == Exit::Displaced {
                        dispatcher.work_ready();
                    }
                }
                Err(err) => {
                    hand_over.send(Err(err)).ok();
                }
            }
        })?;
        let lost = |_| io::Error::other("tiny_http cannot start its threads");
        let lead = handed_over.recv().map_err(lost)?.inspect_err(|_| gate::close(opened))?;
        Ok(Self { lead, accept_loop })
    }
}

/// Starts tiny_http, which panics where it cannot have a thread.
fn start_tiny_http(listener: TcpListener) -> io::Result<Leadership> {
    panic::catch_unwind(AssertUnwindSafe(|| Leadership::new(listener)))
        .unwrap_or_else(|_panic| Err(io::Error::other("tiny_http cannot start its threads")))
}
