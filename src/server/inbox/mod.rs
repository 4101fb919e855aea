//! The inbox: the leaders wait here, for connections with something to read.
//!
//! While the requests of a connection come as a whole its thread leaves the reading to the
//! leaders (see `inlet`): a thread that is woken up for each request, to pass it on, costs
//! more than the rest of a small one. A leader that waits hears of many connections at
//! once, and each change is told to one leader (`EPOLLET`, epoll(7)).
//!
//! All else that a leader is to look at comes with a ring of the bell: requests that a
//! connection's thread has read, the replies of the storage, and the end.

use super::connections::Connection;
use super::dispatch::Dispatcher;
use super::inlet::Inlet;
use super::job::Job;
use super::request::Meaning;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most connections that all leaders read from at a time, each its share, before it
/// begins with the first request; and the least share.
const TAKEN_MAX: usize = 64;
const SHARE_MIN: usize = 8;

/// The bytes received at once.
const RECEIVED_BYTES_MAX: usize = 16 * 1024;

/// The parts of the connections that are read from, each with a lock of its own.
const PARTS: usize = 64;

/// The bell among the numbers of connections, which begin with 1.
const BELL: u64 = 0;

/// What comes for the leaders, by one accept loop.
pub struct Inbox {
    epoll: OwnedFd,
    bell: OwnedFd,
    /// The connections whose reading is left to the leaders, by number.
    inlets: [Mutex<HashMap<u64, Arc<Inlet>>>; PARTS],
    /// Requests in work that the threads of their connections have read.
    arrivals: Mutex<VecDeque<(Job, Meaning)>>,
    /// The number of leaders.
    leaders: usize,
    is_closed: AtomicBool,
}

/// The buffers of a leader.
pub struct Buffers {
    events: Vec<epoll::Event>,
    bytes: Vec<u8>,
    taken: Vec<(Job, Meaning)>,
}

impl Inbox {
    /// An inbox of so many leaders.
    pub fn new(leaders: usize) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Each ring is a change, whether or not anybody reads the number of them.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            epoll,
            bell,
            inlets: std::array::from_fn(|_| Mutex::default()),
            arrivals: Mutex::default(),
            leaders,
            is_closed: AtomicBool::new(false),
        })
    }

    /// Takes the tiny_http server whose connections come here. Nobody asks it for requests.
    #[allow(clippy::unused_self, reason = "elsewhere it is asked")]
    pub fn open(&self, server: tiny_http::Server) {
        // Dropping it makes it connect to its own address, which may hang or reach a
        // stranger.
        mem::forget(server);
    }

    /// The buffers of one leader.
    pub fn buffers(&self) -> Buffers {
        let events = Vec::with_capacity(self.share());
        Buffers { events, bytes: Vec::with_capacity(RECEIVED_BYTES_MAX), taken: Vec::new() }
    }

    /// Waits until there is something, and takes a leader's share of the requests. Some of
    /// those that were taken wait behind others of their connections, so there may be none.
    pub fn receive<'a>(
        &self,
        _dispatcher: &Dispatcher,
        buffers: &'a mut Buffers,
    ) -> impl Iterator<Item = (Job, Meaning)> + use<'a> {
        let Buffers { events, bytes, taken } = buffers;
        events.clear();
        // An interrupted wait is made up for by the next.
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), None).ok();
        for event in &*events {
            // The kernel's structure is packed, so no field can be borrowed.
            let epoll::Event { data, flags } = *event;
            if data.u64() == BELL {
                self.take_arrivals(taken);
            } else if let Some(inlet) = self.inlet(data.u64()) {
                inlet.take(is_behind(flags), bytes, taken);
            }
        }
        taken.drain(..)
    }

    /// Takes requests that were read by the threads of their connections. If others are
    /// left, a leader is woken up for them.
    fn take_arrivals(&self, taken: &mut Vec<(Job, Meaning)>) {
        let mut arrivals = self.arrivals();
        let share = arrivals.len().min(self.share());
        taken.extend(arrivals.drain(..share));
        if !arrivals.is_empty() {
            self.wake();
        }
    }

    /// Adds a request in work that the thread of its connection has read.
    pub fn add(&self, arrival: (Job, Meaning)) {
        let mut arrivals = self.arrivals();
        arrivals.push_back(arrival);
        // With others there, it has rung already.
        if arrivals.len() == 1 {
            self.wake();
        }
    }

    /// Leaves the reading of a connection to the leaders.
    pub fn watch(&self, inlet: &Arc<Inlet>) -> io::Result<()> {
        let connection = inlet.connection();
        let number = EventData::new_u64(connection.id);
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        self.inlets(connection.id).insert(connection.id, Arc::clone(inlet));
        epoll::add(&self.epoll, &connection.socket, number, flags).map_err(|err| {
            self.inlets(connection.id).remove(&connection.id);
            err.into()
        })
    }

    /// Leaves it to its thread again.
    pub fn unwatch(&self, connection: &Connection) {
        // It is there.
        epoll::delete(&self.epoll, &connection.socket).ok();
        self.inlets(connection.id).remove(&connection.id);
    }

    /// Wakes a leader up, or the next one to wait.
    pub fn wake(&self) {
        // It fails only where the number is at its maximum, by 2^64 rings.
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).ok();
    }

    /// Ends the leaders.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // From now on the bell is a state, which each of them hears of.
        let number = EventData::new_u64(BELL);
        epoll::modify(&self.epoll, &self.bell, number, EventFlags::IN).ok();
        self.wake();
    }

    /// Returns true if leading has ended for good.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// The most connections that one leader takes requests of at a time.
    fn share(&self) -> usize {
        (TAKEN_MAX / self.leaders).max(SHARE_MIN)
    }

    fn inlet(&self, id: u64) -> Option<Arc<Inlet>> {
        self.inlets(id).get(&id).map(Arc::clone)
    }

    fn inlets(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<Inlet>>> {
        let [first, ..] = &self.inlets;
        let part = usize::try_from(id % PARTS as u64).ok();
        let part = part.and_then(|part| self.inlets.get(part)).unwrap_or(first);
        // Every change is one call.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrivals(&self) -> MutexGuard<'_, VecDeque<(Job, Meaning)>> {
        // Every change above is complete before anything could panic.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if something may be behind what is received at once, and is not told of
/// again: the end, or what follows urgent data.
fn is_behind(flags: EventFlags) -> bool {
    flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::PRI)
}

#[cfg(test)]
mod tests;
