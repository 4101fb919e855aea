//! Connections that tiny_http's pool of threads forgets: a burst of more than it has idle
//! threads is queued, and nobody begins with those that are left over until another
//! connection ends. They are noticed here, for nobody reads them, and a nudge makes the
//! pool look again: a connection that ends at once.

use crate::server::connections::Connection;
use crate::server::door::Stream;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// After this time without a thread a connection is taken to be forgotten.
pub const FORGOTTEN_AFTER: Duration = Duration::from_millis(2);

/// After this time without an end a nudge is taken to be forgotten itself.
const NUDGE_TIME_MAX: Duration = Duration::from_millis(20);

/// Connections that no thread has begun to read, and the nudges by which tiny_http's pool
/// finds them. A nudge costs a thread and finds one. There is one at a time: before its
/// thread has run, those that were started earlier have mostly begun to read theirs.
pub struct Unread {
    /// These connections in the order in which they came, each with the time of that.
    connections: VecDeque<(Weak<Connection>, Instant)>,
    /// The nudge that is under way: a flag, set once that is over, and its beginning.
    nudge: Option<(Arc<AtomicBool>, Instant)>,
    /// The time at which the last nudge was found to be over.
    last_nudge: Option<Instant>,
    /// The nudges that are left of a round, which has one for each connection that was
    /// forgotten at its beginning.
    nudges_left: usize,
    /// Readable once a nudge has ended.
    pub nudge_ended: Arc<OwnedFd>,
}

/// The gate's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for a client, however long.
    Wait,
    /// Wait for a client until the nudge has ended, or for so long: then that or the first
    /// of the unread connections is taken to be forgotten.
    WaitUpTo(Duration),
    /// Nudge the pool.
    Nudge,
}

/// A connection that ends at once, and so makes the pool look for another.
pub struct Nudge {
    is_over: Arc<AtomicBool>,
    /// Made readable at its end.
    ended: Arc<OwnedFd>,
}

impl Stream for Nudge {
    fn id(&self) -> u64 {
        0
    }

    fn read(self: Arc<Self>, _: &mut [u8]) -> usize {
        0
    }

    fn released(&self) {}
}

impl Drop for Nudge {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        rustix::io::write(&self.ended, &1_u64.to_ne_bytes()).ok();
    }
}

impl Unread {
    /// None are there yet.
    pub fn new() -> io::Result<Self> {
        let nudge_ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            connections: VecDeque::new(),
            nudge: None,
            last_nudge: None,
            nudges_left: 0,
            nudge_ended: Arc::new(nudge_ended),
        })
    }

    /// Adds a connection that came at a moment.
    pub fn add(&mut self, connection: &Arc<Connection>, came: Instant) {
        self.connections.push_back((Arc::downgrade(connection), came));
    }

    /// The gate's next step for the sake of these.
    pub fn next_step(&mut self, now: Instant) -> Step {
        if let Some((is_over, begun)) = &self.nudge {
            let left = NUDGE_TIME_MAX.saturating_sub(now.saturating_duration_since(*begun));
            if !is_over.load(Ordering::Acquire) && !left.is_zero() {
                return Step::WaitUpTo(left);
            }
            self.nudge = None;
            self.last_nudge = Some(now);
        }
        while self.connections.front().is_some_and(|(connection, _)| !is_unread(connection)) {
            self.connections.pop_front();
        }
        let Some((_, came)) = self.connections.front() else {
            self.nudges_left = 0;
            return Step::Wait;
        };
        let since = self.last_nudge.map_or(*came, |nudge| nudge.max(*came));
        let left = FORGOTTEN_AFTER.saturating_sub(now.saturating_duration_since(since));
        if self.nudges_left > 0 || left.is_zero() { Step::Nudge } else { Step::WaitUpTo(left) }
    }

    /// Begins a nudge, of a new round if there is none: as many as are forgotten by now.
    pub fn nudge(&mut self, now: Instant) -> Nudge {
        let is_forgotten = |(connection, came): &&(Weak<Connection>, Instant)| {
            is_unread(connection) && now.saturating_duration_since(*came) >= FORGOTTEN_AFTER
        };
        let forgotten = self.connections.iter().filter(is_forgotten).count();
        let left = if self.nudges_left == 0 { forgotten } else { forgotten.min(self.nudges_left) };
        self.nudges_left = left.saturating_sub(1);
        let is_over = Arc::<AtomicBool>::default();
        self.nudge = Some((Arc::clone(&is_over), now));
        Nudge { is_over, ended: Arc::clone(&self.nudge_ended) }
    }
}

fn is_unread(connection: &Weak<Connection>) -> bool {
    connection.upgrade().is_some_and(|connection| !connection.is_read())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connections::Connections;
    use crate::server::socket::Socket;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::net::{Ipv4Addr, SocketAddr};

    #[test]
    fn there_is_one_nudge_at_a_time_and_one_for_each_connection_that_was_forgotten() {
        let connections = Connections::default();
        let connect = || {
            let (ours, _) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                    .expect("a pair of sockets");
            let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            connections.add(Socket::new(ours), nobody, 0)
        };
        let mut unread = Unread::new().expect("a descriptor");
        let came = Instant::now();
        assert_eq!(unread.next_step(came), Step::Wait);
        let all: Vec<_> = (0..64).map(|_| connect()).collect();
        for connection in &all {
            unread.add(connection, came);
        }
        assert_eq!(unread.next_step(came), Step::WaitUpTo(FORGOTTEN_AFTER));

        // One after the other, without a pause, until all but one have a thread.
        all[7].set_read();
        let now = came + FORGOTTEN_AFTER;
        for connection in all.iter().filter(|connection| !connection.is_read()).take(62) {
            assert_eq!(unread.next_step(now), Step::Nudge);
            let nudge = unread.nudge(now);
            assert_eq!(unread.next_step(now), Step::WaitUpTo(NUDGE_TIME_MAX));
            connection.set_read();
            drop(nudge);
        }
        // The last nudge of the round finds nobody, so there is a pause.
        assert_eq!(unread.next_step(now), Step::Nudge);
        drop(unread.nudge(now));
        assert_eq!(unread.next_step(now), Step::WaitUpTo(FORGOTTEN_AFTER));
        assert_eq!(unread.next_step(now + FORGOTTEN_AFTER), Step::Nudge);

        // The pool may forget a nudge itself. Whoever begins to read meanwhile needs none.
        let now = now + FORGOTTEN_AFTER;
        let nudge = unread.nudge(now);
        assert_eq!(unread.next_step(now), Step::WaitUpTo(NUDGE_TIME_MAX));
        assert_eq!(unread.next_step(now + NUDGE_TIME_MAX), Step::WaitUpTo(FORGOTTEN_AFTER));
        assert_eq!(unread.next_step(now + NUDGE_TIME_MAX + FORGOTTEN_AFTER), Step::Nudge);
        all[63].set_read();
        assert_eq!(unread.next_step(now), Step::Wait);
        drop(nudge);
        assert_eq!(unread.next_step(now), Step::Wait);
    }
}
