//! Accepting connections: the listening socket, and the tiny_http servers
//! that take turns on it.
//!
//! A tiny_http server stops accepting for good at its first failed `accept`.
//! The listening socket is therefore ours: a new server starts on another
//! handle of the same socket, while the connections of the old one live on.

use super::front::Front;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::collections::HashSet;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How many earlier accept loops may wait for their last connections.
const RETIRING_MAX: usize = 32;

/// A dead peer is noticed about this long after it was last heard of.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Opens the listening socket. What is set here holds for every connection
/// that it accepts.
pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
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

/// The accept loops over one listening socket.
pub(super) struct Acceptor {
    listener: TcpListener,
    front: Arc<Front>,
    current: Generation,
    /// Earlier ones, whose connections live on.
    retiring: Vec<Generation>,
    count: usize,
    fences: u64,
}

/// One tiny_http server and the thread that takes its requests.
struct Generation {
    server: Arc<tiny_http::Server>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
    /// How many fences were put into its queue.
    fences: u64,
    /// The connections that it may have accepted and that still live.
    connections: HashSet<u64>,
    /// Whether all connections that it may have accepted are known.
    sealed: bool,
}

#[derive(Default)]
struct Flags {
    retired: AtomicBool,
    /// How many fences have come out of the queue of requests.
    passed: AtomicU64,
}

/// A place in the queue of requests: once it is passed, all requests that
/// tiny_http had parsed before are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence(u64);

impl Acceptor {
    /// Starts accepting on `listener`.
    pub(super) fn new(listener: TcpListener, front: Arc<Front>) -> io::Result<Self> {
        let current = Generation::start(&listener, Arc::clone(&front), 0)?;
        Ok(Self { listener, front, current, retiring: Vec::new(), count: 1, fences: 0 })
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Starts another accept loop in place of one that has ended.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        if self.retiring.len() >= RETIRING_MAX {
            return Err(io::Error::other("too many earlier ones have connections yet"));
        }
        let next = Generation::start(&self.listener, Arc::clone(&self.front), self.count)?;
        self.count += 1;
        self.retiring.push(mem::replace(&mut self.current, next));
        Ok(())
    }

    /// The connections that keep an accept loop from being replaced, because
    /// there are too many earlier ones.
    pub(super) fn in_the_way(&self) -> Vec<u64> {
        let oldest = self.retiring.first().filter(|_| self.retiring.len() >= RETIRING_MAX);
        oldest.map_or_else(Vec::new, |oldest| oldest.connections.iter().copied().collect())
    }

    /// Notes connections that have come since the last search.
    pub(super) fn found(&mut self, cookies: impl Iterator<Item = u64>) {
        for cookie in cookies {
            let open = self.retiring.iter_mut().filter(|generation| !generation.sealed);
            for generation in open.chain([&mut self.current]) {
                generation.connections.insert(cookie);
            }
        }
    }

    /// Notes that a search was complete, and which connections live. An
    /// earlier accept loop is disposed of once all of its connections are gone.
    pub(super) fn searched(&mut self, lives: impl Fn(u64) -> bool) {
        for generation in self.retiring.iter_mut().chain([&mut self.current]) {
            generation.connections.retain(|cookie| lives(*cookie));
        }
        for generation in &mut self.retiring {
            generation.sealed = true;
            if generation.connections.is_empty() {
                generation.retire();
            }
        }
        self.retiring.retain(|generation| generation.thread.is_some());
    }

    /// Puts a fence at the end of every queue of requests.
    pub(super) fn fence(&mut self) -> Fence {
        self.fences += 1;
        for generation in self.retiring.iter_mut().chain([&mut self.current]) {
            generation.fences += 1;
            generation.server.unblock();
        }
        Fence(self.fences)
    }

    /// Whether every queue has been taken as far as `fence`.
    pub(super) fn has_passed(&self, Fence(fence): Fence) -> bool {
        self.retiring.iter().chain([&self.current]).all(|generation| {
            let later = self.fences - fence;
            let passed = generation.flags.passed.load(Ordering::Relaxed);
            passed + later >= generation.fences
        })
    }

    /// Has tiny_http look at its queue of connections: a connection that says
    /// nothing and ends costs it a thread, which then takes a forgotten one.
    pub(super) fn kick(&self) {
        let connect = |mut addr: SocketAddr| {
            match addr.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.connect(&addr.into())
        };
        // Non-blocking, it is under way when this returns. Where it fails the
        // next look at the connection tries again.
        self.listener.local_addr().and_then(connect).ok();
    }

    /// Stops accepting. Connections that were accepted live on.
    pub(super) fn close(&self) {
        // Where a listening socket cannot be shut it goes on listening until
        // the process ends, and what comes then is not answered.
        SockRef::from(&self.listener).shutdown(Shutdown::Read).ok();
    }

    /// Ends the threads that take requests.
    pub(super) fn retire_all(&mut self) {
        self.current.retire();
        self.retiring.iter_mut().for_each(Generation::retire);
    }
}

impl Generation {
    fn start(listener: &TcpListener, front: Arc<Front>, number: usize) -> io::Result<Self> {
        // The thread comes first: a server that could not be used would
        // accept connections which nobody answers, and hang when dropped.
        let (hand_over, handed_over) = crossbeam_channel::bounded::<Arc<tiny_http::Server>>(1);
        let flags = Arc::<Flags>::default();
        let its_flags = Arc::clone(&flags);
        let thread =
            thread::Builder::new().name(format!("dispatch-{number}")).spawn(move || {
                if let Ok(server) = handed_over.recv() {
                    dispatch_all(&server, &its_flags, &front);
                }
            })?;
        let server = tiny_http::Server::from_listener(listener.try_clone()?, None);
        let server = Arc::new(server.map_err(io::Error::other)?);
        // Dropping a server makes it connect to its own address, which may
        // hang or reach a stranger. One more owner keeps it from that.
        mem::forget(Arc::clone(&server));
        hand_over.send(Arc::clone(&server)).map_err(io::Error::other)?;
        let connections = HashSet::new();
        Ok(Self { server, flags, thread: Some(thread), fences: 0, connections, sealed: false })
    }

    fn retire(&mut self) {
        self.flags.retired.store(true, Ordering::Relaxed);
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // It catches its panics, so there is nothing to hear of it.
            thread.join().ok();
        }
    }
}

/// Takes requests until the generation is retired.
fn dispatch_all(server: &tiny_http::Server, flags: &Flags, front: &Front) {
    loop {
        match server.recv() {
            Ok(request) => {
                let dispatched = panic::catch_unwind(AssertUnwindSafe(|| front.dispatch(request)));
                if dispatched.is_err() {
                    log::error!("a request was lost in dispatch");
                }
            }
            Err(_) if flags.retired.load(Ordering::Relaxed) => return,
            // tiny_http's own word for an unblocked queue has no code.
            Err(err) if err.raw_os_error().is_none() => {
                flags.passed.fetch_add(1, Ordering::Relaxed);
            }
            // The guard sees that the accept loop has let go of its socket.
            Err(err) => log::debug!("accepting connections has ended: {err}"),
        }
    }
}
