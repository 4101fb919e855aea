//! What stands between a socket and the API.
//!
//! tiny_http accepts connections, gives each a thread, and calls whoever takes
//! requests; it is named nowhere else. Everything that it lacks is here: the
//! `door` and the `gate` decide what it gets to see, an `inlet` reads requests,
//! `framing` says where they end, `connections` keeps one request of each
//! connection in work, `front` moves requests through the lanes, and the
//! `watchdog` keeps every deadline. What a request means is for the
//! [`api`](crate::api) to say.

#![cfg_attr(
    any(portable, not(target_os = "linux")),
    allow(dead_code, reason = "only where there is a door all of it is asked")
)]

mod accept;
mod answer;
mod body;
mod chunked;
mod committed;
mod connections;
mod framing;
mod front;
mod job;
mod lead;
mod limits;
mod request;
mod tally;
mod uploads;

#[cfg(all(target_os = "linux", not(portable)))]
mod door;
#[cfg(all(target_os = "linux", not(portable)))]
mod gate;
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
use portable::{gate, inlet, sender, socket, watchdog};

use crate::api::Api;
use accept::Acceptor;
use committed::Committed;
use connections::Connections;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use front::{Front, Message};
use sender::Senders;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tally::Tally;
use watchdog::{Handle, Limits, Watchdog};

/// The log target of the HTTP library, whose lines tell what this server tells
/// in better words.
pub const LIBRARY_LOG_TARGET: &str = "tiny_http";

/// The most threads that write answers to clients who take them slowly.
const SENDERS_MAX: usize = 8;

/// How long the watchdog may take to end after a shutdown that ran out of time.
const WATCHDOG_PATIENCE: Duration = Duration::from_millis(500);

/// How long the accept loop may take to come to the gate.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How a server is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 asks the system for a free one.
    pub addr: SocketAddr,
    /// The threads of the ready lane, 1 or more.
    pub workers: usize,
    /// The most connections; `None` for as many as the system has room for,
    /// which is a limit in any case.
    pub connections_max: Option<usize>,
    /// How long a connection may be silent before a request.
    pub idle_timeout: Duration,
    /// How long a request's head and a small body may take, and how long a
    /// large transfer may take to move a kibibyte.
    pub request_timeout: Duration,
    /// How long [`Server::stop`] waits for clients.
    pub shutdown_timeout: Duration,
    /// How many descriptors the storage may have open at most.
    pub storage_descriptors: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 8888)),
            // Two threads for each processor keep it busy while some wait for locks.
            workers: 2 * thread::available_parallelism().map_or(2, usize::from),
            connections_max: None,
            idle_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            storage_descriptors: 0,
        }
    }
}

/// A running server.
pub struct Server {
    addr: SocketAddr,
    front: Arc<Front>,
    shutdown_timeout: Duration,
    lanes: Vec<JoinHandle<()>>,
    /// Is disconnected once the watchdog has ended.
    watchdog_ended: Receiver<()>,
    workers: usize,
    senders: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts to listen and to answer. Fails if the address cannot be had or
    /// threads cannot be started.
    pub fn start(config: &Config, api: Api) -> io::Result<Self> {
        Self::start_on(accept::listen(config.addr)?, config, api)
    }

    fn start_on(listener: TcpListener, config: &Config, api: Api) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let (ready, ready_queue) = crossbeam_channel::unbounded();
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let (senders, inboxes) = Senders::new(processors.min(SENDERS_MAX))?;
        let handle = Handle::new();
        let front = Arc::new(Front {
            api,
            connections: Connections::default(),
            ready,
            ready_queue,
            senders,
            uploads: Arc::default(),
            watchdog: handle.clone(),
            tally: Tally::new(),
            submitted: AtomicUsize::new(0),
            committed: Committed::default(),
            draining: AtomicBool::new(false),
        });

        let workers = config.workers.max(1);
        let lanes = start_workers(workers, &front)?;
        let mut senders = Vec::new();
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let front = Arc::clone(&front);
            let thread = thread::Builder::new().name(format!("sender-{number}"));
            senders.push(thread.stack_size(front::STACK_BYTES).spawn(move || inbox.run(&front))?);
        }
        let system_max =
            limits::connections_max(lanes.len() + senders.len(), config.storage_descriptors);
        let limits = Limits {
            idle_timeout: config.idle_timeout,
            request_timeout: config.request_timeout,
            connections_max: config.connections_max.unwrap_or(system_max).min(system_max),
        };
        log::debug!("up to {} connections", limits.connections_max);
        let at_once = limits.connections_max + limits::turned_away_max(limits.connections_max);
        let acceptor = Acceptor::new(listener, Arc::clone(&front), handle.clone(), at_once)?;
        acceptor.wait_until_begun(START_PATIENCE)?;
        let watchdog = Watchdog::new(limits, Arc::clone(&front), &handle, acceptor);
        let (alive, watchdog_ended) = crossbeam_channel::bounded::<()>(0);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            watchdog.run();
            drop(alive);
        })?;

        let shutdown_timeout = config.shutdown_timeout;
        Ok(Self { addr, front, shutdown_timeout, lanes, watchdog_ended, workers, senders })
    }

    /// The address it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many threads its ready lane has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Stops accepting, answers what was taken, and ends. Waits for clients
    /// up to the shutdown timeout, then leaves them behind. Gives one line for
    /// each method on what was answered.
    pub fn stop(self) -> Vec<String> {
        let deadline = Instant::now() + self.shutdown_timeout;
        self.front.draining.store(true, Ordering::Relaxed);
        let drained = self.front.watchdog.drain();
        let in_time = drained.recv_deadline(deadline).is_ok();
        if !in_time {
            log::warn!("clients are left behind that did not finish in time");
        }
        self.front.watchdog.stop();
        // Nothing is ever sent here; it is over when the watchdog is.
        let patience = deadline.max(Instant::now() + WATCHDOG_PATIENCE);
        if self.watchdog_ended.recv_deadline(patience) == Err(RecvTimeoutError::Timeout) {
            log::error!("the watchdog does not end");
        }
        if in_time {
            // Every thread is idle now, so each takes one of these and ends.
            for _ in 0..self.workers {
                // Without a thread that takes it there is none to be stopped.
                self.front.ready.send(Message::Stop).ok();
            }
            self.front.senders.stop();
            self.lanes.into_iter().chain(self.senders).for_each(end);
        }
        self.front.tally.lines()
    }
}

/// Starts the threads of the ready lane.
fn start_workers(workers: usize, front: &Arc<Front>) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |number| {
        let front = Arc::clone(front);
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        thread.stack_size(front::STACK_BYTES).spawn(move || front.work_ready())
    };
    (0..workers).map(start).collect()
}

fn end(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the server has panicked");
    }
}
