//! What stands between a socket and the API.
//!
//! tiny_http accepts and parses; all that it lacks is here, and it is named
//! nowhere else. `framing` decides where a request ends, `connections`
//! keeps one request of each connection in work, `front` moves requests
//! through the lanes, and the `guard` watches every socket from outside.
//! What a request means is for the [`api`](crate::api) to say.

#[cfg_attr(
    any(portable, not(target_os = "linux")),
    allow(dead_code, reason = "only the guard on Linux asks all of it")
)]
mod accept;
mod answer;
mod body;
mod committed;
#[cfg_attr(
    any(portable, not(target_os = "linux")),
    allow(dead_code, reason = "only the guard on Linux asks all of it")
)]
mod connections;
mod framing;
mod front;
mod guard;
mod job;
mod lead;
mod limits;
#[cfg(all(target_os = "linux", not(portable)))]
mod socket;
#[cfg(any(portable, not(target_os = "linux")))]
#[path = "socket_portable.rs"]
mod socket;
mod tally;

use crate::api::Api;
use accept::Acceptor;
use committed::Committed;
use connections::Connections;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use front::{Front, Message};
use guard::{Guard, Handle, Limits};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tally::Tally;

/// The log target of the HTTP library, whose lines tell what this server tells
/// in better words.
pub const LIBRARY_LOG_TARGET: &str = "tiny_http";

/// The most threads of the transfer lane, and so the clients it can wait for.
const TRANSFER_THREADS_MAX: usize = 256;

/// One part in so many of the threads that the system allows are of that lane.
const TRANSFER_THREADS_SHARE: usize = 4;

/// How long the guard may take to end after a shutdown that ran out of time.
const GUARD_PATIENCE: Duration = Duration::from_millis(500);

/// How many requests may wait for a thread of the transfer lane.
const TRANSFER_QUEUE_MAX: usize = 256;

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
        }
    }
}

/// A running server.
pub struct Server {
    addr: SocketAddr,
    front: Arc<Front>,
    shutdown_timeout: Duration,
    lanes: Vec<JoinHandle<()>>,
    /// Is disconnected once the guard has ended.
    guard_ended: Receiver<()>,
    workers: usize,
    transfers: usize,
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
        let (transfer, transfer_queue) = crossbeam_channel::bounded(TRANSFER_QUEUE_MAX);
        let (handle, orders) = Handle::new(ready.clone())?;
        let connections = Arc::<Connections>::default();
        let front = Arc::new(Front {
            api,
            connections: Arc::clone(&connections),
            ready,
            ready_queue,
            transfer,
            transfer_queue,
            guard: handle.clone(),
            tally: Tally::new(),
            committing: AtomicUsize::new(0),
            committed: Committed::default(),
            draining: AtomicBool::new(false),
        });

        let workers = config.workers.max(1);
        let share = limits::threads_max() / TRANSFER_THREADS_SHARE;
        let transfers = share.clamp(1, TRANSFER_THREADS_MAX);
        let mut lanes = start_lane("worker", workers, &front, Front::work_ready)?;
        lanes.extend(start_lane("transfer", transfers, &front, |front| front.work_transfer())?);
        let system_max = limits::connections_max(lanes.len());
        let limits = Limits {
            idle_timeout: config.idle_timeout,
            request_timeout: config.request_timeout,
            connections_max: config.connections_max.unwrap_or(system_max).min(system_max),
        };
        log::debug!("up to {} connections", limits.connections_max);
        let acceptor = Acceptor::new(listener, Arc::clone(&front))?;
        let guard = Guard::new(limits, connections, &handle, orders, acceptor)?;
        let (alive, guard_ended) = crossbeam_channel::bounded::<()>(0);
        thread::Builder::new().name("guard".to_owned()).spawn(move || {
            guard.run();
            drop(alive);
        })?;

        let shutdown_timeout = config.shutdown_timeout;
        Ok(Self { addr, front, shutdown_timeout, lanes, guard_ended, workers, transfers })
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
        let drained = self.front.guard.drain();
        let in_time = drained.recv_deadline(deadline).is_ok();
        if !in_time {
            log::warn!("clients are left behind that did not finish in time");
        }
        self.front.guard.stop();
        // Nothing is ever sent here; it is over when the guard is.
        let ended = self.guard_ended.recv_deadline(deadline.max(Instant::now() + GUARD_PATIENCE));
        if ended == Err(RecvTimeoutError::Timeout) {
            log::error!("the guard does not end");
        }
        if in_time {
            // Every thread is idle now, so each takes one of these and ends.
            stop_lane(&self.front.ready, self.workers);
            stop_lane(&self.front.transfer, self.transfers);
            self.lanes.into_iter().for_each(end);
        }
        self.front.tally.lines()
    }
}

/// Starts the threads of one lane.
fn start_lane(
    name: &str,
    threads: usize,
    front: &Arc<Front>,
    work: fn(&Arc<Front>),
) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |number| {
        let front = Arc::clone(front);
        let thread = thread::Builder::new().name(format!("{name}-{number}"));
        thread.stack_size(front::STACK_BYTES).spawn(move || work(&front))
    };
    (0..threads).map(start).collect()
}

fn stop_lane<T>(queue: &Sender<Message<T>>, threads: usize) {
    for _ in 0..threads {
        // Without a thread that takes it there is none to be stopped.
        queue.send(Message::Stop).ok();
    }
}

fn end(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the server has panicked");
    }
}
