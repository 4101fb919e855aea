//! The accept loops of tiny_http over our listening sockets.
//!
//! A loop that has panicked (no thread could be started for a connection) accepts
//! nothing any more. The listening sockets are therefore ours: another loop starts
//! on a duplicate of the first one, while the connections of the last loop live on.
//! Connections to the other sockets come to the same loop, through the `gate`.

use super::connections::Connection;
use super::cuts::Cut;
use super::dispatch::{Dispatcher, Task};
use super::gate::{self, AcceptThread};
use super::inbox::Inbox;
use super::inlet::CONNECTION_THREAD;
use super::leader::{Exit, Leadership};
use super::workers;
use crate::platform::{scheduling, threads};
use socket2::SockRef;
use std::collections::HashSet;
use std::io;
use std::mem;
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// The most earlier accept loops that wait for their last connections.
const RETIRING_MAX: usize = 32;

/// The pause between two replacements of an accept loop, which grows.
const REPLACEMENT_PAUSE_MIN: Duration = Duration::from_millis(50);
const REPLACEMENT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The accept loops over the listening sockets.
pub struct Acceptor {
    listeners: Arc<[TcpListener]>,
    leaders: usize,
    dispatcher: Arc<Dispatcher>,
    current: AcceptLoop,
    /// Earlier ones, whose connections live on.
    retiring: Vec<AcceptLoop>,
    next_replacement: Instant,
    replacement_pause: Duration,
}

/// One tiny_http server, and the leaderships over its requests, at least one.
struct AcceptLoop {
    thread: Arc<AcceptThread>,
    inbox: Arc<Inbox>,
    leaderships: Vec<Arc<Leadership>>,
}

impl Acceptor {
    /// Starts accepting on `listeners`, with so many leaders.
    pub fn new(
        listeners: Vec<TcpListener>,
        leaders: usize,
        dispatcher: Arc<Dispatcher>,
    ) -> io::Result<Self> {
        let listeners = listeners.into();
        let current = AcceptLoop::start(&listeners, leaders, &dispatcher, 0)?;
        Ok(Self {
            listeners,
            leaders,
            dispatcher,
            current,
            retiring: Vec::new(),
            next_replacement: Instant::now(),
            replacement_pause: REPLACEMENT_PAUSE_MIN,
        })
    }

    /// Waits until the accept loop has come to the gate. It does not where tiny_http's
    /// threads cannot be started, or where the standard library accepts in another way
    /// than this program knows of.
    pub fn wait_until_begun(&self, patience: Duration) -> io::Result<()> {
        const PAUSE: Duration = Duration::from_micros(100);
        let end = Instant::now() + patience;
        while !self.current.thread.has_begun() {
            if Instant::now() > end {
                return Err(io::Error::other(
                    "tiny_http cannot start its threads, or does not accept through the gate",
                ));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Starts another accept loop where the last one has ended. Returns true if it has;
    /// after each try it waits longer for the next.
    pub fn replace_ended(&mut self, now: Instant) -> io::Result<bool> {
        if !self.current.thread.is_over() {
            if self.current.thread.has_begun() {
                self.replacement_pause = REPLACEMENT_PAUSE_MIN;
            }
            return Ok(false);
        }
        if now < self.next_replacement {
            return Ok(false);
        }
        self.replacement_pause = (2 * self.replacement_pause).min(REPLACEMENT_PAUSE_MAX);
        self.next_replacement = now + self.replacement_pause;
        if self.retiring.len() >= RETIRING_MAX {
            return Err(io::Error::other("too many earlier ones have connections yet"));
        }
        let Self { listeners, leaders, dispatcher, current, .. } = self;
        let number = current.thread.number + 1;
        let next = AcceptLoop::start(listeners, *leaders, dispatcher, number)?;
        self.retiring.push(mem::replace(current, next));
        self.dispatcher.accept_loops_replaced.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Ends the leaders of earlier accept loops that have none of the `open`
    /// connections left, and cuts those that wait in vain for a thread.
    pub fn retire_idle(&mut self, open: &[Arc<Connection>]) {
        if self.retiring.is_empty() {
            return;
        }
        for connection in open.iter().filter(|connection| !connection.is_read()) {
            if connection.accept_loop != self.current.thread.number {
                self.dispatcher.connections.cut(connection, Cut::Unread);
            }
        }
        // A stream needs its accept loop no more.
        let with_loop = open.iter().filter(|connection| !connection.is_stream());
        let living: HashSet<_> = with_loop.map(|connection| connection.accept_loop).collect();
        self.retiring.retain(|accept_loop| {
            let lives = living.contains(&accept_loop.thread.number);
            if !lives {
                accept_loop.inbox.close();
            }
            lives
        });
    }

    /// Has another worker lead where a leader is stuck. Returns true if any is at a
    /// request.
    pub fn displace_stuck(&self, now: Instant) -> bool {
        let mut is_busy = false;
        for leadership in self.loops().flat_map(|accept_loop| &accept_loop.leaderships) {
            if let Some(turn) = leadership.displace_stuck(now) {
                self.dispatcher.leaders_displaced.fetch_add(1, Ordering::Relaxed);
                self.dispatcher.queue(Task::Lead(Arc::clone(leadership), turn));
            }
            is_busy |= leadership.is_handling();
        }
        is_busy
    }

    fn loops(&self) -> impl Iterator<Item = &AcceptLoop> {
        self.retiring.iter().chain([&self.current])
    }

    /// Stops accepting. Connections that were accepted live on.
    pub fn close(&self) {
        for listener in &*self.listeners {
            // Where a listening socket cannot be shut it goes on listening until
            // the process ends, and clients that come then are not answered.
            SockRef::from(listener).shutdown(Shutdown::Read).ok();
        }
    }

    /// Ends the leaders. Later replies of the storage are written by its threads.
    pub fn retire_all(&self) {
        self.loops().for_each(|accept_loop| accept_loop.inbox.close());
        self.dispatcher.end_completions();
    }
}

impl AcceptLoop {
    /// Starts to accept, with so many more workers, which lead.
    fn start(
        listeners: &Arc<[TcpListener]>,
        leaders: usize,
        dispatcher: &Arc<Dispatcher>,
        number: usize,
    ) -> io::Result<Self> {
        let listener = listeners.first().ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        let thread = Arc::new(AcceptThread::new(number));
        let inbox = Arc::new(Inbox::new(leaders)?);
        let opened = gate::open(&listener, listeners, dispatcher, &thread, &inbox)?;
        let (hand_over, handed_over) = crossbeam_channel::bounded(1);
        let first = number * leaders;
        let (to, at) = (Arc::clone(dispatcher), Arc::clone(&inbox));
        start_leader(first, dispatcher, move || {
            let leadership = start_library(listener).map(|server| {
                at.open(server);
                to.completions.wake_at(Arc::clone(&at));
                Arc::new(Leadership::new(at))
            });
            let first_turn = leadership.as_ref().ok().map(Arc::clone);
            // The thread that has started this waits for it.
            hand_over.send(leadership).ok();
            first_turn
        })?;
        let lost = |_| io::Error::other("tiny_http cannot start its threads");
        let leadership = handed_over.recv().map_err(lost).flatten();
        let mut leaderships = vec![leadership.inspect_err(|_| gate::close(opened))?];
        for leader in 1..leaders {
            let leadership = Arc::new(Leadership::new(Arc::clone(&inbox)));
            let turn = Arc::clone(&leadership);
            if let Err(err) = start_leader(first + leader, dispatcher, move || Some(turn)) {
                log::warn!("{leader} threads lead, and no other can be started: {err}");
                break;
            }
            leaderships.push(leadership);
        }
        Ok(Self { thread, inbox, leaderships })
    }
}

/// Starts a tiny_http server that accepts on `listener`. Panics where it cannot have its
/// threads.
fn start_library(listener: TcpListener) -> io::Result<tiny_http::Server> {
    // Its threads are scheduled and called as the one that starts them.
    scheduling::batch_priority();
    let open = || tiny_http::Server::from_listener(listener, None);
    threads::starting(CONNECTION_THREAD, open).map_err(io::Error::other)
}

/// Starts a worker, which leads first of all.
fn start_leader(
    number: usize,
    dispatcher: &Arc<Dispatcher>,
    first_turn: impl FnOnce() -> Option<Arc<Leadership>> + Send + 'static,
) -> io::Result<()> {
    let dispatcher = Arc::clone(dispatcher);
    let run = move || {
        if let Some(leadership) = first_turn()
            && workers::lead(&dispatcher, &leadership, 0) == Exit::Displaced
        {
            workers::work(&dispatcher);
        }
    };
    let thread = thread::Builder::new().name(format!("lead-{number}"));
    thread.stack_size(workers::STACK_BYTES).spawn(run).map(|_detached| ())
}
