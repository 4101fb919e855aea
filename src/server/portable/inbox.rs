//! tiny_http's queue of requests, at which the leaders wait.

use super::inlet;
use crate::server::dispatch::Dispatcher;
use crate::server::job::Job;
use crate::server::request::Meaning;
use std::io;
use std::iter;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The most requests that a leader takes at a time, before it begins with the first.
const TAKEN_MAX: usize = 64;

/// The queue of one tiny_http server.
#[derive(Default)]
pub struct Inbox {
    server: OnceLock<Arc<tiny_http::Server>>,
    is_closed: AtomicBool,
}

/// Nothing: tiny_http receives.
pub struct Buffers;

impl Inbox {
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
    pub fn new(_leaders: usize) -> io::Result<Self> {
        Ok(Self::default())
    }

    /// Takes the server whose queue it is.
    pub fn open(&self, server: tiny_http::Server) {
        let server = Arc::new(server);
        // Dropping a server makes it connect to its own address, which may hang or reach a
        // stranger. One more owner keeps it from that.
        mem::forget(Arc::clone(&server));
        self.server.set(server).ok();
    }

    #[allow(clippy::unused_self, reason = "elsewhere it has a share")]
    pub fn buffers(&self) -> Buffers {
        Buffers
    }

    /// Waits for a request, and gives it with some of those that are there by then, as far as
    /// their turn has come; none after [`Self::wake`].
    pub fn receive(&self, dispatcher: &Arc<Dispatcher>, _: &mut Buffers) -> Vec<(Job, Meaning)> {
        let Some(server) = self.server.get() else { return Vec::new() };
        let first = server.recv().map(Some);
        let more = iter::repeat_with(|| server.try_recv()).take(TAKEN_MAX - 1);
        let requests = iter::once(first).chain(more).map_while(|request| {
            request.unwrap_or_else(|err| {
                // tiny_http's own word for an unblocked queue has no code.
                if err.raw_os_error().is_some() {
                    log::debug!("accepting connections has ended: {err}");
                }
                None
            })
        });
        let enter = |request| {
            let enter = AssertUnwindSafe(|| inlet::enter(dispatcher, request));
            panic::catch_unwind(enter).unwrap_or_else(|_panic| {
                log::error!("a request was lost on its way in");
                None
            })
        };
        requests.filter_map(enter).collect()
    }

    /// Wakes a thread that waits for a request, or the next one to wait.
    pub fn wake(&self) {
        if let Some(server) = self.server.get() {
            server.unblock();
        }
    }

    /// Ends the leaders, of whom there is one.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Returns true if leading has ended for good.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}
