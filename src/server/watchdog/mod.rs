//! The watchdog: one thread that keeps the deadlines and limits of every
//! connection.
//!
//! Whatever waits for a client waits on its connection's socket, or for its
//! turn there; the watchdog frees it, in whatever thread it is, by ending the
//! connection. It
//!
//! - cuts connections that are slower than the deadlines,
//! - ends those that are over the cap,
//! - gives the lead to another thread where the leader is stuck,
//! - starts a new accept loop where the last one has ended,
//! - empties the server for a shutdown.

mod verdict;

use super::accept::Acceptor;
use super::connections::Connection;
use super::dispatch::Dispatcher;
use super::limits::Limits;
use super::mailbox::Command;
use super::pipeline::Stage;
use super::response::{Persistence, Response};
use crate::api::Refusal;
use crate::platform::scheduling;
use crossbeam_channel::Sender;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::mem;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};
use verdict::{Meter, Verdict, Watch};

/// How often the leader is looked at while it is at work.
const PACE: Duration = Duration::from_millis(5);

/// How often everything is looked at, and the rest while nothing is at work.
const PACE_QUIET: Duration = Duration::from_millis(50);

/// How long after the leader was at work it is likely to be again.
const BUSY_FOR: Duration = Duration::from_millis(100);

/// How long a request that has begun is waited for once the server stops.
const BEGUN_GRACE: Duration = Duration::from_millis(300);

/// How long a client that has been let go may take to hang up, once the server
/// stops.
const LINGER_DRAINING: Duration = Duration::from_millis(500);

/// How much of what a client sends after its last answer is thrown away in one
/// look.
const DISCARD_BYTES_MAX: usize = 1 << 20;

/// How long a client that has had its last answer may take to hang up while
/// others wait for room.
const LINGER_CROWDED: Duration = Duration::from_millis(20);

/// One part in so many of the connections make room together.
const SPARE_SHARE: usize = 16;

/// How long to wait at most until the next accept loop is started, where the
/// last ones have ended.
const REPLACEMENT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a client may take for a kibibyte of a large answer while others
/// are refused theirs.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// How often a complaint about the same thing is logged at most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The watchdog, which runs on a thread of its own.
pub struct Watchdog {
    limits: Limits,
    dispatcher: Arc<Dispatcher>,
    acceptor: Acceptor,
    watches: HashMap<u64, Watch>,
    draining: Option<Draining>,
    /// A large answer was refused since the last look.
    is_crowded: bool,
    busy_until: Instant,
    next_inspection: Instant,
    /// When an accept loop may be replaced, and how long after the last time.
    next_replacement: Instant,
    replacement_pause: Duration,
    complained_at: HashMap<&'static str, Instant>,
}

struct Draining {
    done: Sender<()>,
    since: Instant,
}

impl Watchdog {
    /// A watchdog over the connections that `acceptor` accepts.
    pub fn new(limits: Limits, dispatcher: Arc<Dispatcher>, acceptor: Acceptor) -> Self {
        let now = Instant::now();
        Self {
            limits,
            dispatcher,
            acceptor,
            watches: HashMap::new(),
            draining: None,
            is_crowded: false,
            busy_until: now,
            next_inspection: now,
            next_replacement: now,
            replacement_pause: PACE_QUIET,
            complained_at: HashMap::new(),
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
            self.next_inspection = now + if self.draining.is_some() { PACE } else { PACE_QUIET };
            let connections = self.dispatcher.connections.all();
            self.inspect(&connections, now);
            self.keep_cap(&connections, now);
            if mem::take(&mut self.is_crowded) {
                self.cut_slowest(&connections, now);
            }
            self.keep_accepting(&connections);
        }
        self.report_drained();
        ControlFlow::Continue(())
    }

    /// Sleeps until the next look is due, or an order comes, and carries out
    /// those that have come.
    fn rest(&mut self) -> ControlFlow<()> {
        let now = Instant::now();
        let pace = if now < self.busy_until || self.draining.is_some() { PACE } else { PACE_QUIET };
        let until = (now + pace).min(self.next_inspection.max(now));
        for command in self.dispatcher.watchdog.take_until(until, pace > PACE) {
            match command {
                Command::Stop => return ControlFlow::Break(()),
                Command::WatchLeader => self.busy_until = Instant::now() + BUSY_FOR,
                Command::Inspect => self.next_inspection = Instant::now(),
                Command::Crowded => self.is_crowded = true,
                Command::Complain(text) => self.complain("accept", &text),
                Command::Drain(done) => {
                    self.acceptor.close();
                    self.draining = Some(Draining { done, since: Instant::now() });
                    self.next_inspection = Instant::now();
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Looks at every connection and does what its state asks for.
    fn inspect(&mut self, connections: &[Arc<Connection>], now: Instant) {
        let living: HashSet<u64> = connections.iter().map(|connection| connection.id).collect();
        self.watches.retain(|id, _| living.contains(id));
        let draining = self.draining.as_ref().map(|draining| draining.since);
        for connection in connections {
            let activity = connection.activity();
            let watch = self.watches.entry(connection.id);
            let watch = watch.or_insert_with(|| Watch::new(activity, now));
            match watch.inspect(activity, now, &self.limits, &**connection) {
                Verdict::Wait => {}
                Verdict::Idle => self.dispatcher.connections.dismiss(connection),
                Verdict::Late if connection.close_with(&last_words(Refusal::RequestTimeout)) => {}
                Verdict::Late | Verdict::Gone => self.dispatcher.connections.cut(connection),
            }
            if activity.is_closing {
                let lasts = now.duration_since(watch.since());
                let is_let_go = draining.is_some() && lasts > LINGER_DRAINING;
                if is_let_go && !connection.socket.has_unconfirmed() {
                    self.dispatcher.connections.cut(connection);
                } else if !connection.has_reader() && !connection.socket.discard(DISCARD_BYTES_MAX)
                {
                    // Nobody else hears this client out.
                    self.dispatcher.connections.end(connection);
                }
            } else if let Some(since) = draining
                && activity.stage.is_none()
                && (!watch.is_mid_request() || now.duration_since(since) > BEGUN_GRACE)
            {
                self.dispatcher.connections.dismiss(connection);
            }
        }
    }

    /// Closes the connections over the cap: those that were silent longest,
    /// or else the newest, which hear why.
    fn keep_cap(&mut self, connections: &[Arc<Connection>], now: Instant) {
        let cap = self.limits.connections_max;
        if connections.len() <= cap {
            return;
        }
        // Whoever has had the last answer makes room for others.
        let is_closing = |connection: &&Arc<Connection>| connection.activity().is_closing;
        for connection in connections.iter().filter(is_closing) {
            let watch = self.watches.get(&connection.id);
            if watch.is_some_and(|watch| now.duration_since(watch.since()) > LINGER_CROWDED) {
                self.dispatcher.connections.give_up(connection);
            }
        }
        let staying: Vec<_> =
            connections.iter().filter(|connection| !is_closing(connection)).collect();
        // A few more than have to go, for more are likely to come.
        let over = staying.len().saturating_sub(cap) + cap / SPARE_SHARE;
        let idle = staying.into_iter().filter(|connection| connection.pipeline.is_idle());
        let (mut silent, mut others) = (Vec::new(), Vec::new());
        for connection in idle {
            let Some(watch) = self.watches.get(&connection.id) else { continue };
            match watch.silent_since() {
                Some(since) => silent.push((since, connection)),
                None => others.push((Reverse(watch.since()), connection)),
            }
        }
        silent.sort_by_key(|(since, _)| *since);
        others.sort_by_key(|(since, _)| *since);
        let turned_away = over.saturating_sub(silent.len());
        for (_, connection) in silent.into_iter().take(over) {
            self.dispatcher.connections.dismiss(connection);
            if !connection.socket.has_unconfirmed() {
                self.dispatcher.connections.give_up(connection);
            }
        }
        for (_, connection) in others.into_iter().take(turned_away) {
            connection.close_with(&last_words(Refusal::ConnectionsTooMany));
        }
        self.complain("cap", &format!("{cap} connections are open, which is as many as may be"));
    }

    /// Cuts the client who takes its large answer most slowly, if it has hardly
    /// moved for a while.
    fn cut_slowest(&mut self, connections: &[Arc<Connection>], now: Instant) {
        let is_sending =
            |connection: &&Arc<Connection>| connection.activity().stage == Some(Stage::Sending);
        let sending = connections.iter().filter(is_sending);
        let slowest = sending
            .filter_map(|connection| Some((self.watches.get(&connection.id)?, connection)))
            .min_by_key(|(watch, _)| watch.since());
        if let Some((watch, connection)) = slowest
            && now.duration_since(watch.since()) > SLOW_AFTER
        {
            self.dispatcher.connections.cut(connection);
            self.complain("slow", "a client takes a large answer slowly, and was cut for others");
        }
    }

    /// Replaces the accept loop once it has ended.
    fn keep_accepting(&mut self, connections: &[Arc<Connection>]) {
        if self.acceptor.has_retiring() {
            for connection in connections.iter().filter(|connection| !connection.is_read()) {
                if self.acceptor.is_retiring(connection.accept_loop) {
                    self.dispatcher.connections.cut(connection);
                }
            }
            let living = connections.iter().map(|connection| connection.accept_loop).collect();
            self.acceptor.retire_without(&living);
        }
        if self.draining.is_some() || !self.acceptor.is_over() {
            if self.acceptor.has_begun() {
                self.replacement_pause = PACE_QUIET;
            }
            return;
        }
        let now = Instant::now();
        if now < self.next_replacement {
            return;
        }
        self.replacement_pause = (2 * self.replacement_pause).min(REPLACEMENT_PAUSE_MAX);
        self.next_replacement = now + self.replacement_pause;
        match self.acceptor.replace() {
            Ok(()) => self.complain("loop", "the accept loop had ended, so another was started"),
            Err(err) => {
                self.complain("no loop", &format!("no accept loop can be started: {err}"));
            }
        }
    }

    /// Tells who waits for it that the server is empty.
    fn report_drained(&mut self) {
        if let Some(draining) = &self.draining
            && self.dispatcher.connections.count() == 0
        {
            // Whoever waits for this hears it once; more do not fit.
            draining.done.try_send(()).ok();
        }
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

impl Meter for Connection {
    fn acknowledged(&self) -> Option<u64> {
        self.socket.acknowledged()
    }

    fn has_unconfirmed(&self) -> bool {
        self.socket.has_unconfirmed()
    }
}

/// An answer that closes its connection.
fn last_words(refusal: Refusal) -> Vec<u8> {
    Response { reply: refusal.into(), head_only: false, persistence: Persistence::Close }
        .first_part()
}
