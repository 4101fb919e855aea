//! tiny_http's queue of requests.
//!
//! Where there is a door each is only a call to look at the connections that have arrived.

use super::arrivals::Arrivals;
use super::connections::Connection;
use crate::platform::{scheduling, threads};
use std::io;
use std::iter;
use std::mem;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most requests that all leaders take at a time, each its share, before it begins
/// with the first.
const TAKEN_MAX: usize = 64;

/// The name of tiny_http's threads, one for each connection.
pub const CONNECTION_THREAD: &str = "connection";

/// The queue of one tiny_http server.
pub struct Inbox {
    server: Arc<tiny_http::Server>,
    /// The number of leaders that take requests from it.
    leaders: usize,
    /// The connections that it tells of.
    arrivals: Arc<Arrivals>,
    is_closed: AtomicBool,
}

impl Inbox {
    /// Starts a tiny_http server that accepts on `listener`, for so many leaders. Panics
    /// where it cannot have its threads.
    pub fn open(
        listener: TcpListener,
        leaders: usize,
        arrivals: Arc<Arrivals>,
    ) -> io::Result<Self> {
        // Its threads are scheduled and called as the one that starts them.
        scheduling::batch_priority();
        let open = || tiny_http::Server::from_listener(listener, None);
        let server = threads::starting(CONNECTION_THREAD, open);
        let server = Arc::new(server.map_err(io::Error::other)?);
        // Dropping a server makes it connect to its own address, which may
        // hang or reach a stranger. One more owner keeps it from that.
        mem::forget(Arc::clone(&server));
        Ok(Self { server, leaders, arrivals, is_closed: AtomicBool::new(false) })
    }

    /// Waits for a request, and gives it with some of those that are there by then; none
    /// after [`Self::wake`]. If it `gathers`, those that come at once are there by then.
    pub fn receive(
        &self,
        gathers: impl FnOnce() -> bool,
    ) -> impl Iterator<Item = tiny_http::Request> {
        let first = self.server.recv().map(Some);
        if gathers() {
            scheduling::gather();
        }
        let more = iter::repeat_with(|| self.server.try_recv()).take(self.share() - 1);
        iter::once(first).chain(more).map_while(|request| {
            request.unwrap_or_else(|err| {
                // tiny_http's own word for an unblocked queue has no code. The
                // watchdog sees whether there is an accept loop.
                if err.raw_os_error().is_some() {
                    log::debug!("accepting connections has ended: {err}");
                }
                None
            })
        })
    }

    /// Takes connections with a request, in order, after [`Self::receive`]. If others are
    /// left, a leader is woken up for them.
    pub fn arrived(&self) -> Vec<Arc<Connection>> {
        let (taken, are_left) = self.arrivals.take(self.share());
        if are_left {
            self.wake();
        }
        taken
    }

    /// The most requests that one leader takes at a time.
    fn share(&self) -> usize {
        (TAKEN_MAX / self.leaders).max(1)
    }

    /// Wakes a thread that waits for a request, or the next one to wait.
    pub fn wake(&self) {
        self.server.unblock();
    }

    /// Ends the leaders.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Each takes at most one of these: it sees that the inbox is closed then.
        for _ in 0..self.leaders {
            self.wake();
        }
    }

    /// Returns true if leading has ended for good.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(25);

    #[test]
    fn each_leader_hears_of_the_end() {
        const LEADERS: usize = 4;
        let (opened, inbox) = crossbeam_channel::bounded(1);
        // Its scheduling is not that of the test's thread.
        thread::spawn(move || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            opened.send(Inbox::open(listener, LEADERS, Arc::default())).expect("the test waits");
        });
        let inbox = Arc::new(inbox.recv().expect("an outcome").expect("a server"));
        let (ended, ends) = crossbeam_channel::unbounded();
        for _ in 0..LEADERS {
            let (inbox, ended) = (Arc::clone(&inbox), ended.clone());
            thread::spawn(move || {
                loop {
                    assert_eq!(inbox.receive(|| true).count(), 0);
                    if inbox.is_closed() {
                        break;
                    }
                }
                ended.send(()).expect("the test waits");
            });
        }
        // One that is woken up for something else waits again.
        inbox.wake();
        inbox.close();
        for leader in 0..LEADERS {
            ends.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{leader} leaders have ended"));
        }
    }
}
