//! The way of a request through the server: the lead, the lanes, the answer.
//!
//! ```text
//! tiny_http ─► lead: framing, one per connection ─► admit, perform ─► answer
//!                ▲                                        │             ▲
//!                │     ┌────────────────────────┬─────────┴─────────┐   │
//!                │     ▼                        ▼                   ▼   │
//!                │   is to be committed:   may read a disk:      waits for a
//!                └── storage               queue ─► other        client:
//!                                          threads of the        queue ─►
//!                                          ready lane            transfer lane
//! ```
//!
//! Nothing in the ready lane waits for a client: a request is there once all of
//! its body is in memory, an answer is written there if the socket has room for
//! it. What has to wait for its client moves to the transfer lane. The thread
//! that [leads](Lead) waits for nothing at all but requests: what has to read
//! from a disk is for the lane's other threads. A write that has to be committed
//! first is left with the storage, which commits many at once and gives them
//! back to the leader, or answers the one there and then if no other is left.
//! What cannot be answered in the usual way goes to the guard.

use super::answer::{Answer, Persistence};
use super::body::{self, Trouble};
use super::committed::Committed;
use super::connections::{Connection, Connections, Entered, Room, Stage};
use super::framing::{Framing, Length};
use super::guard;
use super::job::Job;
use super::lead::{Lead, Left, Term};
use super::tally::Tally;
use crate::api::{Api, Operation, Pace, Refusal, Reply};
use crate::schedule;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tiny_http::Request;

/// How many requests and answers may wait for a thread of the ready lane until
/// no more requests are taken. Answers are no more than there are connections.
const READY_QUEUE_MAX: usize = 4096;

/// What a thread of a lane needs at most, with room to spare: they are many.
pub(super) const STACK_BYTES: usize = 512 * 1024;

/// What all threads of one server share.
pub(super) struct Front {
    pub(super) api: Api,
    pub(super) connections: Arc<Connections>,
    pub(super) ready: Sender<Message<Ready>>,
    pub(super) ready_queue: Receiver<Message<Ready>>,
    pub(super) transfer: Sender<Message<Transfer>>,
    pub(super) transfer_queue: Receiver<Message<Transfer>>,
    pub(super) guard: guard::Handle,
    pub(super) tally: Tally,
    /// How many writes the lane has left with the storage, which has not
    /// committed them yet.
    pub(super) committing: AtomicUsize,
    /// Those that it has committed and that are to be answered.
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
    Request(Job),
    /// Answer a request that may have to wait for a disk.
    Disk(Job, Framing, Operation),
    /// Write an answer.
    Answer(Job, Answer),
    /// Lead in place of a thread that is stuck.
    Lead(Arc<Lead>, Term),
}

/// Work that waits for a client.
pub(super) enum Transfer {
    /// Read the body, perform the operation and answer.
    Receive(Job, Framing, Operation),
    /// Write an answer.
    Send(Job, Answer),
}

fn overloaded() -> Reply {
    Reply::error(503, "too many requests at once, try again")
}

fn body_ended_early() -> Reply {
    Reply::error(400, "the body ended early")
}

impl Front {
    /// Takes a request from tiny_http, and gives it back if its turn has come.
    /// Never blocks.
    pub(super) fn enter(&self, request: Request) -> Option<Job> {
        // Only Unix sockets have no address, and none is listened on.
        let peer = request.remote_addr().copied()?;
        let (connection, is_new) = self.connections.of(peer);
        if is_new {
            self.guard.notice();
        }
        let job = Job::new(request, Arc::clone(&connection));
        match connection.enter(job) {
            Entered::Started(job) => Some(job),
            Entered::Kept => None,
            Entered::Overrun => {
                log::info!("{peer}: too many pipelined requests");
                self.guard.cut_in_work(connection);
                None
            }
        }
    }

    /// Answers a request on the thread that leads. Never blocks.
    pub(super) fn run_taken(self: &Arc<Self>, job: Job) {
        self.guarded(job, |job| self.run_request(job, true));
    }

    /// Queues a request for the lane's other threads. Never blocks.
    fn queue(&self, ready: Ready) {
        if self.ready.len() < READY_QUEUE_MAX {
            // The lane's threads live as long as the server.
            self.ready.send(Message::Work(ready)).ok();
        } else if let Ready::Request(job) | Ready::Disk(job, ..) = ready {
            self.refuse(job, overloaded());
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
            Ready::Request(job) => self.guarded(job, |job| self.run_request(job, false)),
            Ready::Disk(job, framing, operation) => {
                self.guarded(job, |job| self.run_at(Pace::Disk, job, framing, operation));
            }
            Ready::Answer(job, answer) => self.guarded(job, |job| self.deliver(job, answer)),
            Ready::Lead(lead, term) => {
                if lead.run(term, self) == Left::Retired {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// A thread of the transfer lane: the same for work that may wait for its
    /// client.
    pub(super) fn work_transfer(&self) {
        while let Ok(Message::Work(transfer)) = self.transfer_queue.recv() {
            match transfer {
                Transfer::Receive(job, framing, operation) => {
                    self.guarded(job, |job| self.receive(job, framing, operation));
                }
                Transfer::Send(job, answer) => {
                    self.guarded(job, |job| self.send_waiting(job, &answer));
                }
            }
        }
    }

    /// A panic costs the connection it happened on, not the thread.
    fn guarded(&self, job: Job, work: impl FnOnce(Job)) {
        let connection = Arc::clone(&job.connection);
        if panic::catch_unwind(AssertUnwindSafe(|| work(job))).is_err() {
            self.guard.cut(connection);
        }
    }

    /// Answers a request, or passes it on where it would have to wait.
    fn run_request(self: &Arc<Self>, job: Job, leads: bool) {
        let framing = match job.framing {
            Ok(framing) => framing,
            Err(fault) => return self.refuse(job, fault.into()),
        };
        let admitted = self.api.admit(&job.call(&job.fields(), framing.length));
        match admitted {
            Ok(operation) if framing.arrived => {
                let pace = self.api.pace(&operation);
                if leads && pace == Pace::Disk {
                    if framing.length == Length::Known(0)
                        && let Some(reply) = self.api.peek(&operation)
                    {
                        return self.reply(job, reply);
                    }
                    return self.queue(Ready::Disk(job, framing, operation));
                }
                self.run_at(pace, job, framing, operation);
            }
            Ok(operation) => self.pass_on(Transfer::Receive(job, framing, operation)),
            Err(reply) if framing.arrived => self.reply(job, reply),
            Err(reply) => self.refuse(job, reply),
        }
    }

    fn run_at(self: &Arc<Self>, pace: Pace, job: Job, framing: Framing, operation: Operation) {
        match pace {
            Pace::Long => self.pass_on(Transfer::Receive(job, framing, operation)),
            Pace::Disk => {
                let pace = self.api.pace_on_disk(&operation);
                self.run_at(pace, job, framing, operation);
            }
            Pace::Ready | Pace::Commit => self.run_arrived(job, framing, operation, pace),
        }
    }

    fn run_arrived(
        self: &Arc<Self>,
        mut job: Job,
        framing: Framing,
        operation: Operation,
        pace: Pace,
    ) {
        // Asking for a body of nothing could send an interim answer, and wait.
        let read = if framing.length == Length::Known(0) {
            Ok(Bytes::new())
        } else {
            let bytes_max = self.api.value_bytes_max();
            body::read(job.request.as_reader(), framing.length, bytes_max, |_| {})
        };
        match read {
            Ok(body) if pace == Pace::Commit => {
                let front = Arc::clone(self);
                self.committing.fetch_add(1, Ordering::Relaxed);
                self.api.begin(operation, body, move |reply| front.reply_committed(job, reply));
            }
            Ok(body) => {
                let reply = self.perform(operation, body);
                self.reply(job, reply);
            }
            // tiny_http has the whole body, so this is its own trouble.
            Err(trouble) => {
                log::error!("a body that had arrived cannot be read: {trouble:?}");
                self.refuse(job, body_ended_early());
            }
        }
    }

    /// Sees to the answer of a request that was committed or cannot be, on the
    /// thread that says so: usually one of the storage's own. Never blocks.
    fn reply_committed(&self, job: Job, reply: Reply) {
        let is_last = self.committing.fetch_sub(1, Ordering::Relaxed) == 1;
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

    fn receive(&self, mut job: Job, framing: Framing, operation: Operation) {
        let connection = Arc::clone(&job.connection);
        let taken = connection.set_stage(Stage::Receiving);
        let bytes_max = self.api.value_bytes_max();
        let progress = |bytes| connection.set_taken(bytes);
        let read = body::read(job.request.as_reader(), framing.length, bytes_max, progress);
        // A client that has been told it was too late is not served after all.
        let still_taken = taken && connection.set_stage(Stage::Working);
        match read {
            Ok(_) if !still_taken => self.refuse(job, body_ended_early()),
            Ok(_) if framing.length == Length::Chunked && !self.is_whole(&connection) => {
                self.refuse(job, body_ended_early());
            }
            Ok(body) => {
                let reply = self.perform(operation, body);
                let answer = self.answer(&job, reply);
                self.send_waiting(job, &answer);
            }
            Err(Trouble::TooLong) => self.refuse(job, Refusal::ValueTooLarge.into()),
            Err(Trouble::Short) => self.refuse(job, body_ended_early()),
            Err(Trouble::Broken(err)) => {
                log::debug!("{}: reading a body: {err}", connection.peer());
                self.refuse(job, Reply::error(400, "the body cannot be read"));
            }
        }
    }

    /// Whether a chunked body that seems complete is: one that was cut off
    /// inside a chunk differs only in that its client has gone.
    fn is_whole(&self, connection: &Arc<Connection>) -> bool {
        self.guard.is_established(connection)
    }

    fn perform(&self, operation: Operation, body: Bytes) -> Reply {
        // The storage and its locks stay whole through a panic: see there.
        panic::catch_unwind(AssertUnwindSafe(|| self.api.perform(operation, body)))
            .unwrap_or_else(|_panic| Reply::error(500, "internal error"))
    }

    fn answer(&self, job: &Job, reply: Reply) -> Answer {
        // What waits has been taken, so it is answered before the end.
        let ends = self.draining.load(Ordering::Relaxed) && !job.connection.has_waiting();
        let persistence = if ends { Persistence::Close } else { job.persistence() };
        Answer { reply, head_only: job.is_head(), persistence }
    }

    /// Answers a request whose body was read. Never blocks.
    fn reply(&self, job: Job, reply: Reply) {
        let answer = self.answer(&job, reply);
        self.deliver(job, answer);
    }

    /// Writes an answer if that waits for nobody, else passes it on.
    fn deliver(&self, job: Job, answer: Answer) {
        if !answer.is_small() {
            return self.pass_on(Transfer::Send(job, answer));
        }
        match job.connection.room_for(answer.body_bytes()) {
            Room::Enough => self.send(job, &answer),
            Room::None => self.pass_on(Transfer::Send(job, answer)),
            Room::Unknown => self.guard.find(job, answer),
        }
    }

    fn pass_on(&self, transfer: Transfer) {
        let Err(TrySendError::Full(Message::Work(transfer))) =
            self.transfer.try_send(Message::Work(transfer))
        else {
            return;
        };
        match transfer {
            // What was performed cannot be refused any more.
            Transfer::Send(job, answer) if answer.is_small() => self.refuse(job, answer.reply),
            // Nor be left untold: it comes back by and by until there is room.
            Transfer::Send(job, answer) if !job.is_safe() => self.guard.find(job, answer),
            Transfer::Receive(job, ..) | Transfer::Send(job, _) => self.refuse(job, overloaded()),
        }
    }

    fn send_waiting(&self, job: Job, answer: &Answer) {
        // From here on the guard sees to it that this does not last for ever.
        // On a connection that was stopped the writing fails soon enough.
        let _taken: bool = job.connection.set_stage(Stage::Sending);
        self.send(job, answer);
    }

    /// Writes an answer to a request whose body was read, and sees to what
    /// becomes of the connection.
    fn send(&self, job: Job, answer: &Answer) {
        let connection = Arc::clone(&job.connection);
        let reads_on = job.framing.is_ok_and(|framing| framing.more_expected);
        let record = Record::of(&job);
        let mut writer = job.request.into_writer();
        let written = answer.write_to(&mut *writer);
        drop(writer);
        self.count(&record, answer);

        match written {
            Err(err) => {
                log::debug!("{}: writing an answer: {err}", connection.peer());
                self.guard.cut(connection);
            }
            Ok(()) if reads_on && answer.persistence == Persistence::Close => {
                self.guard.close(connection);
            }
            Ok(()) => {
                if let Some(next) = connection.next() {
                    self.queue(Ready::Request(next));
                }
            }
        }
    }

    /// Answers a request that may have an unread body, and ends its
    /// connection: nothing that comes after it is looked at. Never blocks.
    fn refuse(&self, job: Job, reply: Reply) {
        let head_only = job.is_head();
        let answer = Answer { reply, head_only, persistence: Persistence::Close };
        self.count(&Record::of(&job), &answer);
        self.guard.refuse(job, &answer.first_part());
    }

    fn count(&self, record: &Record, answer: &Answer) {
        let latency = record.came.elapsed();
        let status = answer.reply.status();
        self.tally.count(record.method.as_str(), status, latency);
        if let Some(target) = &record.target {
            let (method, bytes) = (&record.method, answer.body_bytes());
            let target = target.escape_debug();
            log::debug!("{method} {target} {status} {bytes} bytes {} us", latency.as_micros());
        }
    }
}

/// What is noted of a request beyond its life.
struct Record {
    method: tiny_http::Method,
    /// Only if it is going to be logged.
    target: Option<String>,
    came: std::time::Instant,
}

impl Record {
    fn of(job: &Job) -> Self {
        let method = job.request.method().clone();
        let wanted = log::log_enabled!(log::Level::Debug);
        let target = wanted.then(|| job.request.url().to_owned());
        Self { method, target, came: job.came }
    }
}
