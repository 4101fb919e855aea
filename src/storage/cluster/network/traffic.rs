//! The requests under way, each from its begin to its completion: their bounds, and
//! counts of what became of them.
//!
//! Nothing here knows a node. A [`Job`] is completed once, whatever happens to it.

use super::protocol::{Commands, Reply, with_script};
use super::router::{Completion, Place, Replies, Request};
use super::waves::Waves;
use crate::storage::cluster::scripts::sha1_of;
use crate::storage::{Error, Hindrance, Outage};
use bytes::Bytes;
use smallvec::SmallVec;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The requests under way, at most.
pub const REQUESTS_MAX: usize = 8192;

/// The bytes of the requests under way, at most; a single request may have more.
pub const BYTES_MAX: usize = 64 << 20;

/// The requests under way and the counts of all.
#[derive(Default)]
pub struct Traffic {
    /// The requests under way.
    requests: AtomicUsize,
    /// Their bytes.
    bytes: AtomicUsize,
    is_closed: AtomicBool,
    closing: Mutex<()>,
    /// Rings as the last request ends after [`Traffic::close`].
    ended: Condvar,
    /// Those that are written together.
    pub waves: Waves,
    /// Requests that were sent to a node, each time.
    pub sent: AtomicU64,
    /// Requests that a node sent on to another.
    pub redirects: AtomicU64,
    /// Requests that were tried again for another reason.
    pub retries: AtomicU64,
    /// Requests whose outcome is unknown.
    pub unknown: AtomicU64,
    /// Requests that were not done in time.
    pub not_done: AtomicU64,
    /// Requests past the bounds.
    pub overloads: AtomicU64,
    /// Requests that a node refused.
    pub refused: AtomicU64,
    /// Connections that broke.
    pub broken: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Traffic {
    /// The requests under way.
    pub fn pending(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes a request, or completes it if it is one too many.
    pub fn take(self: &Arc<Self>, request: Request) -> Option<Box<Job>> {
        let Request { place, commands, is_write, deadline, done } = request;
        let length = commands.bytes.len();
        let requests = self.requests.fetch_add(1, Ordering::SeqCst);
        let bytes = self.bytes.fetch_add(length, Ordering::Relaxed);
        self.waves.note_crowd(requests + 1);
        let mut job = Box::new(Job {
            place,
            bytes: Bytes::from(commands.bytes),
            ends: commands.ends,
            is_write,
            deadline,
            is_asking: false,
            is_loading: false,
            redirects: 0,
            loads: 0,
            breaks: 0,
            length,
            done: Some(done),
            traffic: Arc::clone(self),
        });
        if self.is_closed.load(Ordering::SeqCst) {
            job.finish(Err(Error::Unavailable(Outage::Closed)));
        } else if requests >= REQUESTS_MAX || (bytes > 0 && bytes + length > BYTES_MAX) {
            job.finish(Err(Error::Overloaded));
        } else {
            return Some(job);
        }
        None
    }

    /// Takes no more, and blocks until all have ended, `patience` at most.
    pub fn close(&self, patience: Duration) {
        self.is_closed.store(true, Ordering::SeqCst);
        let guard = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_busy = |(): &mut ()| self.requests.load(Ordering::SeqCst) > 0;
        drop(self.ended.wait_timeout_while(guard, patience, is_busy));
    }

    fn count_failure(&self, err: &Error) {
        let counter = match err {
            Error::OutcomeUnknown => &self.unknown,
            Error::NotDone(_) => &self.not_done,
            Error::Overloaded => &self.overloads,
            Error::NodeRefused => &self.refused,
            Error::Full
            | Error::Unavailable(_)
            | Error::NotAValue
            | Error::SlotsDiffer
            | Error::ClearForbidden
            | Error::MomentLost
            | Error::Internal(_) => return,
        };
        count(counter);
    }

    fn leave(&self, length: usize) {
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        let is_last = self.requests.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && self.is_closed.load(Ordering::SeqCst) {
            drop(self.closing.lock());
            self.ended.notify_all();
        }
    }
}

/// A request on its way.
pub struct Job {
    /// Its destination.
    pub place: Place,
    /// Its commands.
    pub bytes: Bytes,
    /// The end of each.
    pub ends: SmallVec<[usize; 2]>,
    /// As in [`Request`].
    pub is_write: bool,
    /// As in [`Request`].
    pub deadline: Instant,
    /// `ASKING` goes before each command.
    pub is_asking: bool,
    /// The scripts go before the commands.
    pub is_loading: bool,
    /// The times it was sent on to another node.
    pub redirects: u8,
    /// The times that the scripts went before them.
    pub loads: u8,
    /// The connections that broke while its reply was missing.
    pub breaks: u8,
    length: usize,
    done: Option<Completion>,
    traffic: Arc<Traffic>,
}

impl Job {
    /// Returns true once its completion was called.
    pub fn is_finished(&self) -> bool {
        self.done.is_none()
    }

    /// A copy of it that has its completion; this one is finished by that.
    pub fn withdraw(&mut self) -> Self {
        Self {
            place: self.place.clone(),
            bytes: mem::take(&mut self.bytes),
            ends: self.ends.clone(),
            length: mem::take(&mut self.length),
            done: self.done.take(),
            traffic: Arc::clone(&self.traffic),
            ..*self
        }
    }

    /// Each of its commands.
    pub fn commands(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, end)| self.bytes.get(start..*end))
    }

    /// Replaces the SHA-1 in each command that runs a script by the script itself, which a
    /// node has to know then; false if there is none.
    pub fn bring_script(&mut self, scripts: &[&'static str]) -> bool {
        let script_of = |sha1: &[u8]| {
            scripts.iter().copied().find(|script| sha1_of(script.as_bytes()).as_bytes() == sha1)
        };
        let mut all = Commands::default();
        let mut is_changed = false;
        for command in self.commands() {
            let with_script = with_script(command, script_of);
            is_changed |= with_script.is_some();
            all.bytes.extend_from_slice(with_script.as_deref().unwrap_or(command));
            all.ends.push(all.bytes.len());
        }
        if is_changed {
            (self.bytes, self.ends) = (Bytes::from(all.bytes), all.ends);
            self.is_loading = false;
        }
        is_changed
    }

    /// Calls its completion, if that was not done. A panic there is its own.
    pub fn finish(&mut self, outcome: Result<Replies, Error>) {
        let Some(done) = self.done.take() else { return };
        if let Err(err) = &outcome {
            self.traffic.count_failure(err);
        }
        self.bytes = Bytes::new();
        panic::catch_unwind(AssertUnwindSafe(|| done(outcome))).ok();
        self.traffic.leave(self.length);
    }

    /// Completes it after its deadline, or because nothing is known of it.
    pub fn give_up(&mut self, was_sent: bool) {
        self.finish(Err(if was_sent && self.is_write {
            Error::OutcomeUnknown
        } else {
            Error::NotDone(Hindrance::ClusterDown)
        }));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.finish(Err(Error::Unavailable(Outage::Closed)));
    }
}

/// The first error among replies: in a transaction the reason why all of it is given up.
pub fn first_error(replies: &[Reply]) -> Option<&Bytes> {
    replies.iter().find_map(|reply| match reply {
        Reply::Error(text) => Some(text),
        Reply::Nothing | Reply::Integer(_) | Reply::Bytes(_) | Reply::Many(_) => None,
    })
}
