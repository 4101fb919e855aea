//! The way of a request through the server: the lead, the lanes, the answer.
//!
//! ```text
//! tiny_http ─► lead: one per connection ─► try ─────────► answer
//!                ▲                          │                ▲
//!                │             ┌────────────┴───┐            │
//!                │             ▼                ▼            │
//!                │   cannot be done now:   has a large body: │
//!                └── storage               other threads ────┘
//!                                          of the ready lane
//! ```
//!
//! Nothing in the ready lane waits for a client: a request comes with all of its
//! body (see `inlet`), and an answer is written there as far as the socket takes
//! it at once; the rest is for a `sender`. Nor does it wait for the storage: what
//! that cannot do at once is submitted to it, and comes back to the leader, or is
//! answered there and then if no other is left.

use super::answer::{Answer, Persistence};
use super::committed::Committed;
use super::connections::Connections;
use super::job::Job;
use super::lead::{Lead, Left, Term};
use super::request::{Head, Meaning};
use super::sender::{Senders, Sending};
use super::tally::Tally;
use super::uploads::Uploads;
use super::watchdog;
use crate::api::{Api, Pending, Refusal, Reply, Tried};
use crate::schedule;
use crossbeam_channel::{Receiver, Sender};
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many requests and answers may wait for a thread of the ready lane until
/// no more requests are taken. Answers are no more than there are connections.
const READY_QUEUE_MAX: usize = 4096;

/// What a thread of a lane needs at most, with room to spare: they are many.
pub(super) const STACK_BYTES: usize = 512 * 1024;

/// A longer body keeps the leader from others for too long.
const LEADER_BODY_BYTES_MAX: usize = 64 * 1024;

/// How many answers may be under way that their clients do not take at once,
/// until large ones are refused: each may hold a value that is not stored any
/// more.
const SENDING_MAX: usize = 512;

/// What all threads of one server share.
pub(super) struct Front {
    pub(super) api: Api,
    pub(super) connections: Connections,
    pub(super) ready: Sender<Message<Ready>>,
    pub(super) ready_queue: Receiver<Message<Ready>>,
    pub(super) senders: Senders,
    pub(super) uploads: Arc<Uploads>,
    pub(super) watchdog: watchdog::Handle,
    pub(super) tally: Tally,
    /// How many operations the storage has not done yet.
    pub(super) submitted: AtomicUsize,
    /// Those that it has done and that are to be answered.
    pub(super) committed: Committed,
    /// Set once: answers close their connections from then on.
    pub(super) draining: AtomicBool,
}

/// What a lane's queue holds.
pub(super) enum Message<T> {
    Work(T),
    /// Ends the one thread that takes it.
    Stop,
}

/// Work that waits for no client.
#[allow(clippy::large_enum_variant, reason = "nearly all of it is requests")]
pub(super) enum Ready {
    /// Answer a request.
    Request(Job, Meaning),
    /// Lead in place of a thread that is stuck.
    Lead(Arc<Lead>, Term),
}

fn overloaded() -> Reply {
    Refusal::Overloaded.into()
}

impl Front {
    /// Answers a request on the thread that leads. Never blocks.
    pub(super) fn run_taken(self: &Arc<Self>, job: Job, meaning: Meaning) {
        self.guarded(job, |job| self.run_request(job, meaning, true));
    }

    /// Queues a request for the lane's other threads. Never blocks.
    fn queue(&self, ready: Ready) {
        if self.ready.len() < READY_QUEUE_MAX {
            // The lane's threads live as long as the server.
            self.ready.send(Message::Work(ready)).ok();
        } else if let Ready::Request(job, _) = ready {
            self.reply(job, overloaded());
        }
    }

    /// A thread of the ready lane: does one piece of work after the other
    /// until told to stop.
    pub(super) fn work_ready(self: &Arc<Self>) {
        schedule::let_others_finish();
        while let Ok(Message::Work(ready)) = self.ready_queue.recv() {
            if self.run_ready(ready).is_break() {
                return;
            }
        }
    }

    fn run_ready(self: &Arc<Self>, ready: Ready) -> ControlFlow<()> {
        match ready {
            Ready::Request(job, meaning) => {
                self.guarded(job, |job| self.run_request(job, meaning, false));
            }
            Ready::Lead(lead, term) => {
                if lead.run(term, self) == Left::Retired {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// A panic costs the connection it happened on, not the thread.
    fn guarded(&self, job: Job, work: impl FnOnce(Job)) {
        let connection = Arc::clone(&job.connection);
        if panic::catch_unwind(AssertUnwindSafe(|| work(job))).is_err() {
            self.connections.cut(&connection);
        }
    }

    /// Answers a request, or passes it on where it would have to wait.
    fn run_request(self: &Arc<Self>, job: Job, meaning: Meaning, leads: bool) {
        let (operation, body) = match meaning {
            Ok(operation) => operation,
            Err(reply) => return self.reply(job, reply),
        };
        if leads && body.len() > LEADER_BODY_BYTES_MAX {
            return self.queue(Ready::Request(job, Ok((operation, body))));
        }
        // The storage and its locks stay whole through a panic: see there.
        let tried = panic::catch_unwind(AssertUnwindSafe(|| self.api.try_now(operation, body)));
        match tried {
            Ok(Tried::Replied(reply)) => self.reply(job, reply),
            Ok(Tried::Pending(pending)) => self.submit(job, pending),
            Err(_panic) => self.reply(job, Reply::error(500, "internal error")),
        }
    }

    /// Leaves a request with the storage. Never blocks.
    fn submit(self: &Arc<Self>, job: Job, pending: Pending) {
        let front = Arc::clone(self);
        self.submitted.fetch_add(1, Ordering::Relaxed);
        self.api.submit(pending, move |reply| front.reply_committed(job, reply));
    }

    /// Sees to the answer of a request that the storage has done or cannot do, on
    /// the thread that says so: usually one of the storage's own. Never blocks.
    fn reply_committed(&self, job: Job, reply: Reply) {
        let is_last = self.submitted.fetch_sub(1, Ordering::Relaxed) == 1;
        if is_last {
            // No other waits for that thread, so there is time, and to wake the
            // leader up would only take longer.
            return self.answer_committed(job, reply);
        }
        if let Some((job, reply)) = self.committed.add(job, reply) {
            self.answer_committed(job, reply);
        }
    }

    /// Answers a request that was committed. Never blocks.
    pub(super) fn answer_committed(&self, job: Job, reply: Reply) {
        self.guarded(job, |job| self.reply(job, reply));
    }

    /// Answers a request: writes as much as can be written at once, and leaves
    /// the rest to a sender. Never blocks.
    fn reply(&self, job: Job, reply: Reply) {
        // Those that wait were taken, so they are answered before the end.
        let ends = self.draining.load(Ordering::Relaxed) && !job.connection.has_waiting();
        let persistence = if ends { Persistence::Close } else { job.head.persistence };
        let answer = Answer { reply, head_only: job.head.is_head(), persistence };
        if answer.is_small() {
            let bytes = answer.first_part();
            match job.connection.socket().send_now(&bytes) {
                Ok(sent) if sent == bytes.len() => self.finish(job, &answer),
                Ok(sent) => self.senders.send(Sending::begun(job, answer, bytes, sent)),
                Err(err) => self.lose(&job, &answer, &err),
            }
        } else if self.senders.under_way() < SENDING_MAX || !job.head.is_safe() {
            // What was performed cannot be refused any more.
            self.senders.send(Sending::new(job, answer));
        } else {
            self.watchdog.crowded();
            self.reply(job, overloaded());
        }
    }

    /// Sees to the connection of a request whose answer was written.
    pub(super) fn finish(&self, job: Job, answer: &Answer) {
        self.count(&job.head, answer);
        if answer.persistence == Persistence::Close {
            self.connections.close(&job.connection);
        } else if let Some(next) = job.connection.next() {
            let (job, meaning) = Job::new(job.connection, next);
            self.queue(Ready::Request(job, meaning));
        }
    }

    /// Gives up a connection on which an answer cannot be written.
    pub(super) fn lose(&self, job: &Job, answer: &Answer, err: &std::io::Error) {
        self.count(&job.head, answer);
        log::debug!("{}: writing an answer: {err}", job.connection.peer());
        self.connections.cut(&job.connection);
    }

    fn count(&self, head: &Head, answer: &Answer) {
        let latency = head.came.elapsed();
        let status = answer.reply.status();
        self.tally.count(head.method, status, latency);
        if let Some(line) = &head.line {
            let bytes = answer.body_bytes();
            log::debug!("{line} {status} {bytes} bytes {} us", latency.as_micros());
        }
    }
}
