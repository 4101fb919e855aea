//! The reaper: ends connections that are late, idle, over the cap, or slow while
//! others wait, and all of them once the server stops.

use super::verdict::{Meter, Verdict, Watch};
use crate::api::Refusal;
use crate::server::connections::{Connection, Connections};
use crate::server::cuts::Cut;
use crate::server::dispatch::Dispatcher;
use crate::server::limits::Limits;
use crate::server::pipeline::Stage;
use crate::server::request::Head;
use crate::server::response::Response;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The grace for a request that has begun to come, once the server stops.
const BEGUN_GRACE: Duration = Duration::from_millis(300);

/// The time that a client may take to hang up, once the server stops.
const LINGER_DRAINING: Duration = Duration::from_millis(500);

/// The time that a client may take to hang up, while others wait for room.
const LINGER_AT_CAP: Duration = Duration::from_millis(20);

/// The bytes behind a last request that one inspection throws away.
const DISCARD_BYTES_MAX: usize = 1 << 20;

/// One part in so many of the connections make room together.
const SPARE_SHARE: usize = 16;

/// The time that a client may take for a kibibyte of a large response, or for a
/// mebibyte of one in parts, while others are refused theirs.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The time between two looks at the clients that wait: each costs a system call.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Watches over the open connections.
pub struct Reaper {
    limits: Limits,
    watches: HashMap<u64, Watch>,
    /// The time at which those that wait are looked at again.
    next_look: Instant,
    /// Every connection ends from then on, once its request is answered.
    pub draining_since: Option<Instant>,
}

impl Reaper {
    /// A reaper that enforces these limits from `now` on.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, watches: HashMap::new(), next_look: now, draining_since: None }
    }

    /// Returns true if the server stops.
    pub fn is_draining(&self) -> bool {
        self.draining_since.is_some()
    }

    /// Inspects all `open` connections, and does what the state of each asks for.
    pub fn inspect(&mut self, dispatcher: &Dispatcher, open: &[Arc<Connection>], now: Instant) {
        let connections = &dispatcher.connections;
        let living: HashSet<u64> = open.iter().map(|connection| connection.id).collect();
        self.watches.retain(|id, _| living.contains(id));
        let is_look = now >= self.next_look;
        if is_look {
            self.next_look = now + LOOK_INTERVAL;
            note_client_ends(open);
        }
        for connection in open {
            let activity = connection.activity();
            if activity.stage == Some(Stage::Streaming) && !is_look {
                // The verdict takes a system call.
                continue;
            }
            let watch = self.watches.entry(connection.id);
            let watch = watch.or_insert_with(|| Watch::new(activity, now));
            let verdict = watch.inspect(activity, now, &self.limits, &**connection);
            execute(verdict, dispatcher, connection);
            if activity.is_closing {
                let lasts = now.duration_since(watch.since);
                let is_over = self.draining_since.is_some() && lasts > LINGER_DRAINING;
                linger(connections, connection, is_over);
            } else if let Some(since) = self.draining_since
                && activity.stage.is_none()
                && (!watch.is_mid_request() || now.duration_since(since) > BEGUN_GRACE)
            {
                connections.dismiss(connection, Cut::Draining);
            }
        }
    }

    /// Ends connections over the cap: those that were silent longest, or else the
    /// newest, which hear why. `None` if there are not too many.
    pub fn enforce_cap(
        &self,
        dispatcher: &Dispatcher,
        open: &[Arc<Connection>],
        now: Instant,
    ) -> Option<String> {
        let connections = &dispatcher.connections;
        let cap = connections.cap();
        if open.len() <= cap {
            return None;
        }
        let others = open.iter().filter(|connection| !connection.is_stream());
        let (closing, staying): (Vec<_>, Vec<_>) =
            others.partition(|connection| connection.activity().is_closing);
        if closing.len() + staying.len() <= cap {
            return None;
        }
        // Whoever has had the last response makes room for others.
        for connection in closing {
            let watch = self.watches.get(&connection.id);
            if watch.is_some_and(|watch| now.duration_since(watch.since) > LINGER_AT_CAP) {
                connections.give_up(connection, Cut::Cap);
            }
        }
        // A few more than have to go, for more are likely to come.
        let over = staying.len().saturating_sub(cap) + cap / SPARE_SHARE;
        let [silent, others] = self.idle_in_order(staying, now);
        let has_gone = |connection: &&Connection| dismiss_silent(dispatcher, connection);
        let gone = silent.into_iter().filter(has_gone).take(over).count();
        for connection in others.into_iter().take(over - gone) {
            refuse(dispatcher, connection, Refusal::ConnectionsTooMany, Cut::Cap);
        }
        Some(format!("{cap} connections are open, which is as many as may be"))
    }

    /// The idle ones among some connections, in the order in which they have to go: the
    /// silent ones, from the one that was silent longest, and the others from the newest.
    fn idle_in_order<'a>(
        &self,
        staying: Vec<&'a Arc<Connection>>,
        now: Instant,
    ) -> [Vec<&'a Connection>; 2] {
        let (mut silent, mut others) = (Vec::new(), Vec::new());
        for connection in staying.into_iter().filter(|staying| staying.pipeline.is_idle()) {
            let Some(watch) = self.watches.get(&connection.id) else { continue };
            match watch.silent_since(now) {
                Some(since) => silent.push((since, &**connection)),
                None => others.push((Reverse(watch.since), &**connection)),
            }
        }
        silent.sort_by_key(|(since, _)| *since);
        others.sort_by_key(|(since, _)| *since);
        let silent = silent.into_iter().map(|(_, connection)| connection).collect();
        [silent, others.into_iter().map(|(_, connection)| connection).collect()]
    }

    /// Cuts the slowest client of a large response, if it has hardly moved for a while.
    /// Returns true if there was one.
    pub fn cut_slowest(
        &self,
        connections: &Connections,
        open: &[Arc<Connection>],
        now: Instant,
    ) -> bool {
        let is_sending = |connection: &&Arc<Connection>| {
            matches!(connection.activity().stage, Some(Stage::Sending | Stage::Parts))
        };
        let slowest = open
            .iter()
            .filter(is_sending)
            .filter_map(|connection| Some((self.watches.get(&connection.id)?, connection)))
            .min_by_key(|(watch, _)| watch.since);
        let slowest = slowest.filter(|(watch, _)| now.duration_since(watch.since) > SLOW_AFTER);
        slowest.inspect(|(_, connection)| connections.cut(connection, Cut::Slow)).is_some()
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

/// Does with a connection as the verdict on it says.
fn execute(verdict: Verdict, dispatcher: &Dispatcher, connection: &Connection) {
    let connections = &dispatcher.connections;
    match verdict {
        Verdict::Wait => {}
        Verdict::Idle => {
            connections.dismiss(connection, Cut::Idle);
        }
        Verdict::Late => {
            if !connections.end_upload(connection)
                && !refuse(dispatcher, connection, Refusal::RequestTimeout, Cut::Late)
            {
                connections.cut(connection, Cut::Late);
            }
        }
        Verdict::Gone => connections.cut(connection, Cut::Gone),
    }
}

/// Hears out the client of a connection that is closing, where nobody else does. Cuts it
/// once its time is over and it has confirmed its last response.
fn linger(connections: &Connections, connection: &Connection, is_over: bool) {
    if is_over && !connection.socket.has_unconfirmed() {
        connections.cut(connection, Cut::Draining);
    } else if !connection.has_reader() && !connection.socket.discard(DISCARD_BYTES_MAX) {
        connections.end(connection);
    }
}

/// Ends a silent connection for the room that it takes; `false` if it is not silent any
/// more.
fn dismiss_silent(dispatcher: &Dispatcher, connection: &Connection) -> bool {
    if connection.activity().begun == 0 {
        // Who has not had any answer would not try again.
        return refuse(dispatcher, connection, Refusal::ConnectionsTooMany, Cut::Cap);
    }
    let is_dismissed = dispatcher.connections.dismiss(connection, Cut::Cap);
    if is_dismissed && !connection.socket.has_unconfirmed() {
        dispatcher.connections.give_up(connection, Cut::Cap);
    }
    is_dismissed
}

/// Ends the waits of clients that have left. Their readers see it where they are not
/// busy with what came behind.
fn note_client_ends(open: &[Arc<Connection>]) {
    for connection in open {
        let (stage, socket) = (connection.activity().stage, &connection.socket);
        let has_left = (stage == Some(Stage::Waiting) && socket.has_peer_left())
            // Nobody reads it on, and an end behind much that is unread would not come.
            || (stage == Some(Stage::Streaming) && !socket.discard(DISCARD_BYTES_MAX));
        if has_left {
            connection.pipeline.note_client_end();
        }
    }
}

/// Closes a connection with a refusal as its last words, unless a request is in work;
/// `false` in that case.
fn refuse(dispatcher: &Dispatcher, connection: &Connection, refusal: Refusal, cut: Cut) -> bool {
    let unknown = || Head::of("", "", dispatcher.is_logging());
    let head = connection.take_awaited().map_or_else(unknown, |head| *head);
    let response = Response::last_words(head.apply(refusal.into()));
    let bytes = response.first_piece();
    let is_closed = dispatcher.connections.close_with(connection, &bytes, cut);
    if is_closed {
        dispatcher.count(connection, &head, &response);
    }
    is_closed
}
