//! The guard on Linux: its state, its rounds and their pace.

mod admission;
mod finding;
mod handle;
mod looking;
mod orders;

pub(in crate::server) use handle::Handle;

use super::Limits;
use super::disposal::Disposal;
use crate::schedule;
use crate::server::accept::Acceptor;
use crate::server::connections::{Connection, Connections};
use crate::server::front::{Message, Ready};
use crate::server::socket::Sockets;
use crossbeam_channel::{Receiver, Sender};
use handle::{Bell, Order, Orders};
use looking::{Moving, Watched};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often connections are looked at while anything moves.
const PACE: Duration = Duration::from_millis(5);

/// The same while some connection has not been served yet.
const PACE_FRESH: Duration = Duration::from_millis(2);

/// The same while somebody floods, or did so a short while ago.
const PACE_FLOODED: Duration = Duration::from_micros(500);

/// How often it is checked while nothing moves whether anybody has come.
const PACE_CHECK: Duration = Duration::from_millis(10);

/// How often they are looked at while nothing moves.
const PACE_QUIET: Duration = Duration::from_millis(250);

/// Looking takes at most one part in so many of the guard's time.
const PACE_COSTS: u32 = 20;

/// The same while somebody floods.
const PACE_COSTS_FLOODED: u32 = 5;

/// How long after a flood another is expected: those who are cut come again.
const WARY: Duration = Duration::from_secs(1);

/// How long a client may take to hear a last answer and to hang up.
const LINGER: Duration = Duration::from_secs(2);

/// The same once the server stops.
const LINGER_DRAINING: Duration = Duration::from_millis(500);

/// How long tiny_http may keep a connection that is shut until its thread is
/// taken to hang for ever.
const HANGING_AFTER: Duration = Duration::from_secs(10);

/// How often a complaint about the same thing is logged at most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Stands for the bell among the cookies.
const WAKE: u64 = u64::MAX;

/// The guard's own side.
pub(in crate::server) struct Guard {
    limits: Limits,
    connections: Arc<Connections>,
    sockets: Sockets,
    epoll: OwnedFd,
    bell: Arc<Bell>,
    orders: Receiver<Order>,
    ready: Sender<Message<Ready>>,
    acceptor: Acceptor,
    watched: HashMap<u64, Watched>,
    /// Connections without a socket so far.
    loose: Vec<Arc<Connection>>,
    /// Orders about those, and answers that the ready lane had no room for:
    /// few for each connection.
    pending: Vec<Order>,
    draining: Option<Draining>,
    pace: Duration,
    next_search: Instant,
    searched_at: Instant,
    descriptors_seen: Option<u64>,
    search_due: bool,
    accept_retry_at: Instant,
    /// When the last flood was cut.
    flooded_at: Option<Instant>,
    /// Connections that are shut and that tiny_http still has.
    dying: HashMap<u64, Dying>,
    disposal: Disposal,
    complained_at: HashMap<&'static str, Instant>,
}

struct Dying {
    connection: Arc<Connection>,
    since: Instant,
}

struct Draining {
    done: Sender<()>,
    since: Instant,
}

impl Guard {
    /// A guard over what `acceptor` accepts, and the handle to reach it.
    pub(in crate::server) fn new(
        limits: Limits,
        connections: Arc<Connections>,
        handle: &Handle,
        orders: Orders,
        acceptor: Acceptor,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Arc::clone(&handle.bell);
        let wake = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &bell.event, wake, epoll::EventFlags::IN)?;
        let now = Instant::now();
        Ok(Self {
            limits,
            connections,
            sockets: Sockets::new(acceptor.listener())?,
            epoll,
            bell,
            orders: orders.ordered,
            ready: orders.ready,
            acceptor,
            watched: HashMap::new(),
            loose: Vec::new(),
            pending: Vec::new(),
            draining: None,
            pace: PACE_QUIET,
            next_search: now,
            searched_at: now,
            descriptors_seen: None,
            search_due: true,
            accept_retry_at: now,
            flooded_at: None,
            dying: HashMap::new(),
            disposal: Disposal::start()?,
            complained_at: HashMap::new(),
        })
    }

    /// Watches until told to stop.
    pub(in crate::server) fn run(mut self) {
        // Whoever floods keeps the processors busy, and each millisecond of
        // waiting for one lets tiny_http take in more.
        schedule::ask_for_slices(schedule::SLICE_SHORT);
        loop {
            self.rest();
            // Without its guard the server would be lost. Every step below
            // leaves what it has not done to the next round.
            let round = panic::catch_unwind(AssertUnwindSafe(|| self.round()));
            if round.is_ok_and(|flow| flow.is_break()) {
                return self.acceptor.retire_all();
            }
        }
    }

    fn round(&mut self) -> ControlFlow<()> {
        let worked_before = schedule::time_worked();
        let ended = self.ended();
        let now = Instant::now();
        self.take_orders(now)?;
        for cookie in ended {
            self.end(cookie);
        }
        self.acceptor.displace_stuck(now);
        let searched = self.search(now);
        self.bury(searched);
        let moving = self.look_at_all(now);
        self.keep_cap(now);
        self.keep_accepting(now);
        self.report_drained();
        self.set_pace(moving, schedule::time_worked().saturating_sub(worked_before));
        ControlFlow::Continue(())
    }

    /// Sleeps until the next look is due, an order comes, or, while nothing
    /// moves, until something does.
    fn rest(&self) {
        let until = Instant::now() + self.pace;
        let quiet = self.pace >= PACE_QUIET;
        self.bell.quiet.store(quiet, Ordering::Relaxed);
        if quiet {
            // A connection that says nothing whole rings no bell, and its
            // arrival is over before it can be seen. Its descriptors stay.
            while !sleep_until_readable(&self.epoll, PACE_CHECK.min(left(until)))
                && self.sockets.descriptors() == self.descriptors_seen
                && !left(until).is_zero()
            {}
        } else {
            sleep_until_readable(&self.bell.event, left(until));
        }
        self.bell.quiet.store(false, Ordering::Relaxed);
        self.bell.silence();
    }

    /// The sockets that have ended.
    fn ended(&self) -> Vec<u64> {
        const EVENTS_MAX: usize = 1024;
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let at_once = Timespec::default();
        // An interrupted look is made up for by the next.
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)).ok();
        let has_ended = |event: &epoll::Event| {
            // The kernel's structure is packed, so no field can be borrowed.
            let epoll::Event { flags, .. } = *event;
            flags.contains(epoll::EventFlags::HUP)
        };
        events.into_iter().filter(has_ended).map(|event| event.data.u64()).collect()
    }

    fn set_pace(&mut self, moving: Moving, spent: Duration) {
        let flooded = moving.flooded || self.is_wary(Instant::now());
        let pace = if flooded {
            PACE_FLOODED
        } else if moving.fresh {
            PACE_FRESH
        } else if moving.any
            || self.search_due
            || self.dying.values().any(|dying| dying.since.elapsed() < HANGING_AFTER)
            || !self.pending.is_empty()
            || !self.loose.is_empty()
            || self.draining.is_some()
            || !self.accepts()
        {
            PACE
        } else {
            PACE_QUIET
        };
        self.pace = pace.max((spent * pace_costs(flooded)).min(PACE_QUIET));
    }

    /// Whether there was a flood a short while ago.
    fn is_wary(&self, now: Instant) -> bool {
        self.flooded_at.is_some_and(|at| now.duration_since(at) < WARY)
    }

    /// Logs a warning unless one of its kind was logged a short while ago.
    fn complain(&mut self, kind: &'static str, text: &str) {
        let now = Instant::now();
        let last = self.complained_at.get(kind);
        if last.is_none_or(|at| now.duration_since(*at) > COMPLAINT_INTERVAL) {
            self.complained_at.insert(kind, now);
            log::warn!("{text}");
        }
    }
}

/// One part in how much of the guard's time looking may take.
fn pace_costs(flooded: bool) -> u32 {
    if flooded { PACE_COSTS_FLOODED } else { PACE_COSTS }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Sleeps for up to `time`; says whether there is something to read.
fn sleep_until_readable(file: &OwnedFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).ok();
    match poll(&mut [PollFd::new(file, PollFlags::IN)], timeout.as_ref()) {
        Ok(ready) => ready > 0,
        // Interrupted, or out of memory: the rest is over, whatever came.
        Err(_) => true,
    }
}
