//! Accepting connections: the listening socket, and the tiny_http servers
//! that take turns on it.
//!
//! A tiny_http server stops accepting for good at its first failed `accept`.
//! The listening socket is therefore ours: a new server starts on another
//! handle of the same socket, while the connections of the old one live on.

use super::front::{self, Front, Message, Ready};
use super::lead::{Lead, Left, Mark};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::collections::HashSet;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

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
}

/// One tiny_http server, and who takes its requests.
struct Generation {
    lead: Arc<Lead>,
    /// The connections that it may have accepted and that still live.
    connections: HashSet<u64>,
    /// Whether all connections that it may have accepted are known.
    sealed: bool,
}

/// A place in the queues of all tiny_http servers.
pub(super) struct Fence(Vec<(Arc<Lead>, Mark)>);

impl Acceptor {
    /// Starts accepting on `listener`.
    pub(super) fn new(listener: TcpListener, front: Arc<Front>) -> io::Result<Self> {
        let current = Generation::start(&listener, Arc::clone(&front), 0)?;
        Ok(Self { listener, front, current, retiring: Vec::new(), count: 1 })
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
                generation.lead.retire();
            }
        }
        self.retiring.retain(|generation| !generation.lead.is_retired());
    }

    /// Puts a fence at the end of every queue of requests.
    pub(super) fn fence(&self) -> Fence {
        let leads = self.generations().map(|generation| &generation.lead);
        Fence(leads.map(|lead| (Arc::clone(lead), lead.put_mark())).collect())
    }

    /// Gives the lead to another thread where the one that has it is stuck.
    pub(super) fn displace_stuck(&self, now: Instant) {
        for lead in self.generations().map(|generation| &generation.lead) {
            if let Some(term) = lead.displace_stuck(now) {
                // The lane's threads live as long as the server.
                let next = Ready::Lead(Arc::clone(lead), term);
                self.front.ready.send(Message::Work(next)).ok();
            }
        }
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.retiring.iter().chain([&self.current])
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

    /// Ends the threads that take requests. What is committed after that is
    /// answered by whoever says so.
    pub(super) fn retire_all(&self) {
        self.generations().for_each(|generation| generation.lead.retire());
        for (job, reply) in self.front.committed.end() {
            self.front.answer_committed(job, reply);
        }
    }
}

impl Fence {
    /// Whether all requests that were parsed before it are known.
    pub(super) fn is_passed(&self) -> bool {
        self.0.iter().all(|(lead, mark)| lead.has_passed(*mark))
    }
}

impl Generation {
    /// Starts to accept, on one more thread of the ready lane, which leads.
    fn start(listener: &TcpListener, front: Arc<Front>, number: usize) -> io::Result<Self> {
        let listener = listener.try_clone()?;
        let (hand_over, handed_over) = crossbeam_channel::bounded(1);
        let thread = thread::Builder::new().name(format!("lead-{number}"));
        thread.stack_size(front::STACK_BYTES).spawn(move || match Lead::new(listener) {
            Ok(lead) => {
                let lead = Arc::new(lead);
                front.committed.are_for(Arc::clone(&lead));
                // Who has started this waits for it.
                hand_over.send(Ok(Arc::clone(&lead))).ok();
                if lead.run(0, &front) == Left::Displaced {
                    front.work_ready();
                }
            }
            Err(err) => {
                hand_over.send(Err(err)).ok();
            }
        })?;
        let lost = |_| io::Error::other("tiny_http cannot start its threads");
        let lead = handed_over.recv().map_err(lost)??;
        Ok(Self { lead, connections: HashSet::new(), sealed: false })
    }
}
