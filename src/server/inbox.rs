//! tiny_http's queue of requests.
//!
//! Where there is a door each is only a call to look at a connection.

use crate::platform::{scheduling, threads};
use std::io;
use std::iter;
use std::mem;
use std::net::TcpListener;
use std::sync::Arc;

/// The most requests taken at a time before the first is begun with.
const TAKEN_MAX: usize = 64;

/// The name of tiny_http's threads, one for each connection.
pub const CONNECTION_THREAD: &str = "connection";

/// The queue of one tiny_http server.
pub struct Inbox(Arc<tiny_http::Server>);

impl Inbox {
    /// Starts a tiny_http server that accepts on `listener`. Panics where it
    /// cannot have its threads.
    pub fn open(listener: TcpListener) -> io::Result<Self> {
        // Its threads are scheduled and called as the one that starts them.
        scheduling::batch_priority();
        let open = || tiny_http::Server::from_listener(listener, None);
        let server = threads::starting(CONNECTION_THREAD, open);
        let server = Arc::new(server.map_err(io::Error::other)?);
        // Dropping a server makes it connect to its own address, which may
        // hang or reach a stranger. One more owner keeps it from that.
        mem::forget(Arc::clone(&server));
        Ok(Self(server))
    }

    /// Waits for a request, and gives it with those that are there by then; none
    /// after [`Self::wake`].
    pub fn receive(&self) -> impl Iterator<Item = tiny_http::Request> {
        let first = self.0.recv().map(Some);
        let more = iter::repeat_with(|| self.0.try_recv()).take(TAKEN_MAX - 1);
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

    /// Wakes the thread that waits for a request.
    pub fn wake(&self) {
        self.0.unblock();
    }
}
