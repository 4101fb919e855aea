//! The watchdog: one thread that watches every connection, and the threads that
//! serve them.
//!
//! Whatever waits for a client waits on its connection's socket, or for its turn
//! there; the watchdog frees it, in whatever thread it is, by ending the
//! connection. It
//!
//! - has the `reaper` end connections that are past a deadline or a limit,
//! - lets another worker lead where a leader is stuck,
//! - starts a new accept loop where the last one has ended,
//! - empties the server for a shutdown.

mod clock;
mod complaints;
mod reaper;
mod verdict;

use super::accept::Acceptor;
use super::dispatch::Dispatcher;
use super::limits::Limits;
use super::mailbox::Command;
use crate::platform::scheduling;
use clock::Clock;
use complaints::Complaints;
use crossbeam_channel::Sender;
use reaper::Reaper;
use std::mem;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time between two looks at a leader that is at work.
const PACE: Duration = Duration::from_millis(5);

/// The time between two inspections of all connections, and between two looks at
/// a leader that is not at work.
const PACE_QUIET: Duration = Duration::from_millis(50);

/// After this time a leader that was at work is not likely to be again.
const BUSY_FOR: Duration = Duration::from_millis(100);

/// The watchdog, which runs on a thread of its own.
pub struct Watchdog {
    dispatcher: Arc<Dispatcher>,
    acceptor: Acceptor,
    reaper: Reaper,
    /// The reaper's time.
    clock: Clock,
    complaints: Complaints,
    /// Hears when no connection is left.
    drained: Option<Sender<()>>,
    /// A large response was refused since the last inspection: the slowest client of one has
    /// to make room.
    cuts_slowest: bool,
    busy_until: Instant,
    next_inspection: Instant,
}

impl Watchdog {
    /// A watchdog over the connections that `acceptor` accepts.
    pub fn new(limits: Limits, dispatcher: Arc<Dispatcher>, acceptor: Acceptor) -> Self {
        let now = Instant::now();
        Self {
            dispatcher,
            acceptor,
            reaper: Reaper::new(limits, now),
            clock: Clock::new(now),
            complaints: Complaints::default(),
            drained: None,
            cuts_slowest: false,
            busy_until: now,
            next_inspection: now,
        }
    }

    /// Watches until told to stop.
    pub fn run(mut self) {
        scheduling::prefer_wakeup(scheduling::SLICE_SHORT);
        loop {
            // Without its watchdog the server would be lost. Every step below
            // leaves the rest of its work to the next round.
            let round = panic::catch_unwind(AssertUnwindSafe(|| self.round()));
            if round.is_ok_and(|flow| flow.is_break()) {
                return self.acceptor.retire_all();
            }
        }
    }

    fn round(&mut self) -> ControlFlow<()> {
        self.rest()?;
        let now = Instant::now();
        if self.acceptor.displace_stuck(now) {
            self.busy_until = now + BUSY_FOR;
        }
        if now >= self.next_inspection {
            let is_draining = self.reaper.is_draining();
            self.next_inspection = now + if is_draining { PACE } else { PACE_QUIET };
            self.inspect(now);
        }
        if let Some(drained) = &self.drained
            && self.dispatcher.connections.count() == 0
        {
            // Whoever waits for this hears it once; more do not fit.
            drained.try_send(()).ok();
        }
        ControlFlow::Continue(())
    }

    /// Sleeps until the next inspection is due, or a command comes, and carries
    /// out those that have come.
    fn rest(&mut self) -> ControlFlow<()> {
        let now = Instant::now();
        let is_busy = now < self.busy_until || self.reaper.is_draining();
        let pace = if is_busy { PACE } else { PACE_QUIET };
        let until = (now + pace).min(self.next_inspection.max(now));
        for command in self.dispatcher.watchdog.take_until(until, !is_busy) {
            match command {
                Command::Stop => return ControlFlow::Break(()),
                Command::WatchLeader => self.busy_until = Instant::now() + BUSY_FOR,
                Command::Inspect => self.next_inspection = Instant::now(),
                Command::CutSlowest => self.cuts_slowest = true,
                Command::Complain(text) => self.complaints.warn("accept", &text),
                Command::Drain(drained) => {
                    self.acceptor.close();
                    self.reaper.draining_since = Some(self.clock.at(Instant::now()));
                    self.drained = Some(drained);
                    self.next_inspection = Instant::now();
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Inspects the connections and the accept loop.
    fn inspect(&mut self, now: Instant) {
        let Self { dispatcher, reaper, clock, complaints, acceptor, .. } = self;
        let time = clock.at(now);
        let connections = &dispatcher.connections;
        let open = connections.all();
        reaper.inspect(dispatcher, &open, time);
        if let Some(complaint) = reaper.enforce_cap(dispatcher, &open, time) {
            complaints.warn("cap", &complaint);
        }
        if mem::take(&mut self.cuts_slowest) && reaper.cut_slowest(connections, &open, time) {
            let slow = "a client takes a large answer slowly, and was cut for others";
            complaints.warn("slow", slow);
        }
        acceptor.retire_idle(&open);
        if reaper.is_draining() {
            return;
        }
        match acceptor.replace_ended(now) {
            Ok(false) => {}
            Ok(true) => {
                complaints.warn("loop", "the accept loop had ended, so another was started");
            }
            Err(err) => {
                complaints.warn("no loop", &format!("no accept loop can be started: {err}"));
            }
        }
    }
}
