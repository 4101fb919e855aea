//! The server: everything between a socket and the API.
//!
//! tiny_http accepts connections and gives each a thread; it is named nowhere
//! else. Everything that it lacks is here. A request's way:
//!
//! - `listen`, `accept`, `gate`, `door`: a connection comes to tiny_http through
//!   our own `accept4`, once there is room for it;
//! - `inlet`, `framing`, `body`, `request`: its thread reads a request and leaves
//!   it in the `pipeline` of its connection, until it leaves the reading of those that come
//!   as a whole to the leaders; `incoming`: a body of any length is taken there as it comes;
//! - `inbox`, `leader`, `workers`: a leader reads from the connections that have something,
//!   and hears of the requests that their threads have read;
//! - `dispatch`: the way from there to the `response`, by way of the storage and
//!   the `sender` where it takes time.
//!
//! Beside that way, `connections` are the open ones, each a `socket` and a `pipeline`, within
//! the `limits` of the system; `uploads` bounds the memory of bodies, and `completions` is
//! the way back from the storage. The `watchdog` keeps every deadline: it hears of things by
//! its `mailbox`, and its `cuts` are counted. The `access_log` is told of each response, and
//! the `report` tells of all that is going on. The meaning of a request is the
//! [`api`](crate::api)'s; nothing here knows it.

#![cfg_attr(
    any(portable, not(target_os = "linux")),
    allow(dead_code, reason = "where there is no door some of it has no use")
)]

mod accept;
mod access_log;
mod body;
mod chunked;
mod completions;
mod connections;
mod cuts;
mod dispatch;
mod framing;
mod incoming;
mod job;
mod leader;
mod limits;
mod listen;
mod mailbox;
mod pipeline;
mod report;
mod request;
mod response;
mod uploads;
mod workers;

#[cfg(all(target_os = "linux", not(portable)))]
mod door;
#[cfg(all(target_os = "linux", not(portable)))]
mod gate;
#[cfg(all(target_os = "linux", not(portable)))]
mod inbox;
#[cfg(all(target_os = "linux", not(portable)))]
mod inlet;
#[cfg(all(target_os = "linux", not(portable)))]
mod sender;
#[cfg(all(target_os = "linux", not(portable)))]
mod socket;
#[cfg(all(target_os = "linux", not(portable)))]
mod watchdog;

#[cfg(any(portable, not(target_os = "linux")))]
mod portable;
#[cfg(any(portable, not(target_os = "linux")))]
use portable::{gate, inbox, inlet, sender, socket, watchdog};

use crate::api::Api;
use accept::Acceptor;
pub use access_log::{AccessLog, Line, Served};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use dispatch::{Dispatcher, Task};
use limits::{Limits, Room};
use mailbox::Command;
use sender::{SenderLoop, Senders};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use watchdog::Watchdog;

/// The log target of the HTTP library, whose lines repeat this server's in other
/// words.
pub const LIBRARY_LOG_TARGET: &str = "tiny_http";

/// The most threads that write to slow clients.
const SENDERS_MAX: usize = 8;

/// The time for the watchdog's end after a shutdown that ran out of time.
const WATCHDOG_PATIENCE: Duration = Duration::from_millis(500);

/// The time within which the accept loop has to come to the gate.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on; port 0 stands for one that is free on all.
    pub addrs: Vec<SocketAddr>,
    /// The number of workers, 1 or more.
    pub workers: usize,
    /// The number of threads beside them that take requests and answer small ones, 1 or
    /// more. Where tiny_http orders the responses of a connection it is 1.
    pub leaders: usize,
    /// The most connections; never more than the system has room for, which is
    /// also the default.
    pub connections_max: Option<usize>,
    /// The most streams, responses that go on until their client leaves; never more
    /// than the system has room for. The default leaves half of that room to
    /// connections.
    pub streams_max: Option<usize>,
    /// The longest silence of a connection before a request.
    pub idle_timeout: Duration,
    /// The time for a request's head and a small body, and for each kibibyte of a
    /// large transfer.
    pub request_timeout: Duration,
    /// The time that [`Server::stop`] waits for clients.
    pub shutdown_timeout: Duration,
    /// The most descriptors that the storage has open.
    pub storage_descriptors: u64,
    /// The access log, if there is to be one.
    pub access_log: Option<AccessLog>,
}

impl Config {
    /// The most leaders.
    pub const LEADERS_MAX: usize = 256;

    /// The default address.
    pub const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8888);
}

impl Default for Config {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            addrs: vec![Self::ADDR],
            // Two threads for each processor keep it busy while some wait for locks.
            workers: 2 * processors,
            // The rest is for the threads of the storage, and for what the system does of it.
            leaders: (processors / 2).clamp(1, Self::LEADERS_MAX),
            connections_max: None,
            streams_max: None,
            idle_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            storage_descriptors: 0,
            access_log: None,
        }
    }
}

/// A running server.
pub struct Server {
    addrs: Vec<SocketAddr>,
    dispatcher: Arc<Dispatcher>,
    shutdown_timeout: Duration,
    workers: usize,
    /// The workers and the senders.
    threads: Vec<JoinHandle<()>>,
    /// Is disconnected once the watchdog has ended.
    watchdog_ended: Receiver<()>,
}

impl Server {
    /// Starts to listen and to answer, by the API for the addresses that it listens
    /// on. An address that this machine does not have is left out with a warning.
    /// Fails if no other is left, if one cannot be had, or if threads cannot be
    /// started.
    pub fn start(config: &Config, api: impl FnOnce(&[SocketAddr]) -> Api) -> io::Result<Self> {
        Self::start_on(listen::listen(&config.addrs)?, config, api)
            .map_err(|err| io::Error::new(err.kind(), format!("cannot start the server: {err}")))
    }

    fn start_on(
        listeners: Vec<TcpListener>,
        config: &Config,
        api: impl FnOnce(&[SocketAddr]) -> Api,
    ) -> io::Result<Self> {
        let addrs = listeners.iter().map(TcpListener::local_addr);
        let addrs = addrs.collect::<io::Result<Vec<_>>>()?;
        let api = api(&addrs);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let (senders, loops) = Senders::new(processors.min(SENDERS_MAX))?;
        let workers = config.workers.max(1);
        let leaders = config.leaders.clamp(1, inlet::LEADERS_MAX);
        let Config { storage_descriptors, connections_max, streams_max, .. } = *config;
        let own_threads = workers + leaders + loops.len();
        let room = Room::new(own_threads, storage_descriptors, connections_max, streams_max);
        let streams_max = room.streams_max;
        log::debug!("up to {} connections, {streams_max} streams", room.connections_max(0));
        let access_log = config.access_log.clone();
        let dispatcher = Arc::new(Dispatcher::new(api, senders, room, access_log));
        let source = Arc::downgrade(&dispatcher);
        dispatcher.api.metrics().add_source(source);
        let mut threads = workers::start(workers, &dispatcher)?;
        threads.extend(start_senders(loops, &dispatcher)?);
        let limits =
            Limits { idle_timeout: config.idle_timeout, request_timeout: config.request_timeout };
        let first = listeners.first().map(limits::reserve_connection).transpose()?;
        let acceptor = Acceptor::new(listeners, leaders, Arc::clone(&dispatcher))?;
        drop(first);
        acceptor.wait_until_begun(START_PATIENCE)?;
        let watchdog = Watchdog::new(limits, Arc::clone(&dispatcher), acceptor);
        let (alive, watchdog_ended) = crossbeam_channel::bounded::<()>(0);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            watchdog.run();
            drop(alive);
        })?;

        let shutdown_timeout = config.shutdown_timeout;
        Ok(Self { addrs, dispatcher, shutdown_timeout, workers, threads, watchdog_ended })
    }

    /// The addresses that it listens on, at least one, with the real port.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Stops accepting, answers the requests that were taken, and ends. Waits for
    /// clients up to the shutdown timeout, then leaves them behind. Returns a line
    /// of metrics for each method.
    pub fn stop(self) -> Vec<String> {
        let deadline = Instant::now() + self.shutdown_timeout;
        self.dispatcher.drain();
        let drained = self.dispatcher.watchdog.drain();
        let in_time = drained.recv_deadline(deadline).is_ok();
        if !in_time {
            log::warn!("clients are left behind that did not finish in time");
        }
        self.dispatcher.watchdog.send(Command::Stop);
        // Nothing is ever sent here; it is over when the watchdog is.
        let patience = deadline.max(Instant::now() + WATCHDOG_PATIENCE);
        if self.watchdog_ended.recv_deadline(patience) == Err(RecvTimeoutError::Timeout) {
            log::error!("the watchdog does not end");
        }
        if in_time {
            // Every thread is idle now, so each takes one of these and ends.
            for _ in 0..self.workers {
                self.dispatcher.queue(Task::Stop);
            }
            self.dispatcher.senders.stop();
            self.threads.into_iter().for_each(end);
        }
        self.dispatcher.api.metrics().lines()
    }
}

/// Starts a thread for each of these loops.
fn start_senders(
    loops: Vec<SenderLoop>,
    dispatcher: &Arc<Dispatcher>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |(number, sender): (usize, SenderLoop)| {
        let dispatcher = Arc::clone(dispatcher);
        let run = move || {
            sender.run(|transfer, outcome| dispatcher.take_back(transfer, outcome));
        };
        let thread = thread::Builder::new().name(format!("sender-{number}"));
        thread.stack_size(workers::STACK_BYTES).spawn(run)
    };
    loops.into_iter().enumerate().map(start).collect()
}

fn end(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the server has panicked");
    }
}
