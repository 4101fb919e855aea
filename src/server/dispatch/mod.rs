//! The way of a request through the server, from a leader to the response.
//!
//! ```text
//! leader ─► handle ─► execute ───────────────────────────► respond ─► finish
//!   ▲                    │                                  ▲   │        ▲
//!   │          ┌─────────┴──────┐                           │   ▼        │
//!   │          ▼                ▼                           │  sender ───┘
//!   │   cannot be done now:   has a large body:             │  slow clients ◄┐
//!   └── the storage           another worker ───────────────┘     │          │
//!                                                                 ▼          │
//!                                                        go_on: next part ───┘
//! ```
//!
//! No worker waits for a client: a request comes with all of its body (see
//! `inlet`), and a response is written as far as the socket takes it at once; the
//! rest is for a `sender`. Nor does a worker wait for the storage: an operation
//! that memory alone cannot do is submitted, and its reply comes back to a
//! leader, or is written there and then if no other is under way.
//!
//! A response in parts is a sender's from the start. The next part is made once one
//! was written, on any thread, and given to the sender again: so at most one part of
//! a connection is in memory, a leader makes none but the first, and no stack grows.
//!
//! A stream is such a response whose parts come as things happen:
//!
//! ```text
//! go_on ─► wait ─► there is a part at once ───────────────────► sender ─► go_on
//!            └───► parked ─► woken: write it as far as the ───► go_on
//!                            socket takes it at once, and the
//!                            rest by the sender
//! ```
//!
//! Parked it has no thread; a server that stops, and a client that ends its side, end the
//! stream in good order with what is under way.

use super::access_log::{AccessLog, Served};
use super::completions::Completions;
use super::connections::{Connection, Connections};
use super::cuts::Cut;
use super::framing::Persistence;
use super::job::Job;
use super::leader::{Leadership, Turn};
use super::limits::Room;
use super::mailbox::{Command, Mailbox};
use super::pipeline::Stage;
use super::request::{Head, Meaning};
use super::response::{BodyEnd, Progress, Response};
use super::sender::{Place, Senders, Transfer};
use super::socket::Socket;
use super::uploads::Uploads;
use crate::api::{Api, Pending, Refusal, Reply, Step, Waiting};
use crate::metrics::Counted;
use crate::platform::scheduling;
use crossbeam_channel::{Receiver, Sender};
use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The most tasks that wait for a worker; no more requests are taken then.
const TASKS_MAX: usize = 4096;

/// A longer body keeps a leader from others for too long.
const LEADER_BODY_BYTES_MAX: usize = 64 * 1024;

/// The same for one of many operations, each of which takes its time.
const LEADER_BATCH_BYTES_MAX: usize = 4 * 1024;

/// The most responses under way that their clients do not take at once; large
/// ones are refused then, for each may hold a value that is not stored any more.
const SENDING_MAX: usize = 512;

/// Moves requests through one server, whose threads share it.
pub struct Dispatcher {
    /// The meaning of requests.
    pub api: Api,
    /// The open connections.
    pub connections: Connections,
    /// The threads that write to slow clients.
    pub senders: Senders,
    /// The memory of bodies on their way.
    pub uploads: Arc<Uploads>,
    /// The watchdog's mailbox.
    pub watchdog: Mailbox,
    /// Replies of the storage that wait for a leader.
    pub completions: Completions,
    /// The accept loops that had ended and were replaced.
    pub accept_loops_replaced: AtomicU64,
    /// The leaders that were stuck, and whose turn another has taken.
    pub leaders_displaced: AtomicU64,
    /// The access log, if there is one.
    pub access_log: Option<AccessLog>,
    tasks: Sender<Task>,
    task_queue: Receiver<Task>,
    /// The operations submitted to the storage and not done yet.
    submitted: AtomicUsize,
}

/// The next part of a response, while it is made.
struct NextPart {
    dispatcher: Arc<Dispatcher>,
    job: Job,
    progress: Progress,
    place: Option<Place>,
}

/// Marks that this thread is within [`Api::wait`], for a part of a stream. A part that is
/// given within the call goes to a sender, so that no stack grows; one that is given later
/// is written where it is given.
struct WithinWait;

thread_local! {
    static IS_WITHIN_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// A worker's task, which waits for no client.
#[allow(clippy::large_enum_variant, reason = "nearly all of it is requests")]
pub enum Task {
    /// Handle a request.
    Handle(Job, Meaning),
    /// Lead in place of a thread that is stuck.
    Lead(Arc<Leadership>, Turn),
    /// End.
    Stop,
}

impl Dispatcher {
    /// A dispatcher between `api` and `senders`, with room for connections.
    pub fn new(api: Api, senders: Senders, room: Room, access_log: Option<AccessLog>) -> Self {
        let (tasks, task_queue) = crossbeam_channel::unbounded();
        Self {
            api,
            connections: Connections::within(room),
            senders,
            uploads: Arc::default(),
            watchdog: Mailbox::default(),
            completions: Completions::default(),
            accept_loops_replaced: AtomicU64::new(0),
            leaders_displaced: AtomicU64::new(0),
            access_log,
            tasks,
            task_queue,
            submitted: AtomicUsize::new(0),
        }
    }

    /// Closes each connection with its next response from now on, and ends all waits.
    pub fn drain(&self) {
        self.api.drain();
        for connection in self.connections.all() {
            connection.pipeline.end_wait();
        }
    }

    /// Queues a task for a worker. Never blocks.
    pub fn queue(&self, task: Task) {
        match task {
            Task::Handle(job, _) if self.tasks.len() >= TASKS_MAX => {
                self.respond(job, Refusal::Overloaded.into());
            }
            task @ (Task::Handle(..) | Task::Lead(..) | Task::Stop) => {
                // The receiver lives as long as this does.
                self.tasks.send(task).ok();
            }
        }
    }

    /// The tasks that wait for a worker.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The operations submitted to the storage and not done yet.
    pub fn submitted(&self) -> usize {
        self.submitted.load(Ordering::Relaxed)
    }

    /// Waits for a worker's next task.
    pub fn next_task(&self) -> Task {
        self.task_queue.recv().unwrap_or(Task::Stop)
    }

    /// Handles a request, on a leader or another worker. A panic costs the
    /// connection on which it happened, not the thread. Never blocks.
    pub fn handle(self: &Arc<Self>, job: Job, meaning: Meaning, is_leader: bool) {
        let connection = Arc::clone(&job.connection);
        let handle = || self.execute(job, meaning, is_leader);
        if panic::catch_unwind(AssertUnwindSafe(handle)).is_err() {
            self.connections.cut(&connection, Cut::Panicked);
        }
    }

    /// Executes the operation, or passes it on where it would take long.
    fn execute(self: &Arc<Self>, job: Job, meaning: Meaning, is_leader: bool) {
        let (operation, body) = match meaning {
            Ok(operation) => operation,
            Err(reply) => return self.respond(job, reply),
        };
        // It may have waited behind others, or for its body.
        if !self.api.has_tokens(job.head.tokens) {
            return self.respond(job, Refusal::TokensChanged.into());
        }
        let body_bytes_max =
            if operation.is_batch() { LEADER_BATCH_BYTES_MAX } else { LEADER_BODY_BYTES_MAX };
        // A store that is overloaded is one to look into.
        let is_survey = operation.is_survey() && self.tasks.len() < TASKS_MAX;
        let is_long = body.len() > body_bytes_max || is_survey;
        if is_leader && is_long {
            return self.queue(Task::Handle(job, Ok((operation, body))));
        }
        if operation.is_stream() && !self.connections.admit_stream(&job.connection) {
            return self.respond(job, Refusal::WatchersTooMany.into());
        }
        // The storage and its locks stay whole through a panic: see there.
        let tried = panic::catch_unwind(AssertUnwindSafe(|| self.api.try_now(operation, body)));
        match tried {
            Ok(Step::Reply(reply)) => self.respond(job, reply),
            Ok(Step::Pending(pending)) => self.submit(job, pending),
            Ok(Step::Wait(waiting)) => self.wait(job, waiting),
            Err(_panic) => self.respond(job, Refusal::Panicked.into()),
        }
    }

    /// Leaves a request to the storage. Never blocks.
    fn submit(self: &Arc<Self>, job: Job, pending: Pending) {
        let dispatcher = Arc::clone(self);
        self.submitted.fetch_add(1, Ordering::Relaxed);
        self.api.submit(pending, move |reply| {
            let is_last = dispatcher.submitted.fetch_sub(1, Ordering::Relaxed) == 1;
            dispatcher.complete(job, reply, is_last || scheduling::has_time());
        });
    }

    /// Has a request wait for its condition, or for the end of its time, or of its
    /// client, or of the server. Never blocks.
    fn wait(self: &Arc<Self>, job: Job, waiting: Arc<dyn Waiting>) {
        self.note_wait(&job.connection, &waiting, Stage::Waiting);
        let dispatcher = Arc::clone(self);
        self.api.wait(waiting, move |reply| {
            job.connection.pipeline.note_wait_end();
            // One that waits takes no time of the storage, so it is not counted there.
            let has_time = dispatcher.submitted.load(Ordering::Relaxed) == 0;
            dispatcher.complete(job, reply, has_time);
        });
    }

    /// Notes that the request in work waits, so that the wait ends with its client and
    /// with the server.
    fn note_wait(&self, connection: &Connection, waiting: &Arc<dyn Waiting>, stage: Stage) {
        connection.pipeline.note_wait(waiting, stage);
        if self.api.is_draining() {
            waiting.end();
        }
    }

    /// Takes the storage's reply, usually on a thread of the storage's own, which has
    /// time if it says so or if no other request waits for it: to wake a leader up would
    /// only take longer then. Never blocks.
    fn complete(self: &Arc<Self>, job: Job, reply: Reply, has_time: bool) {
        let left = if has_time { Some((job, reply)) } else { self.completions.add(job, reply) };
        if let Some((job, reply)) = left {
            self.handle(job, Err(reply), false);
        }
    }

    /// Answers the requests that the storage has completed; it answers later ones on
    /// its own threads.
    pub fn end_completions(self: &Arc<Self>) {
        for (job, reply) in self.completions.end() {
            self.handle(job, Err(reply), false);
        }
    }

    /// Writes the response as far as the socket takes it at once, and leaves the
    /// rest to a sender. Never blocks.
    fn respond(&self, job: Job, reply: Reply) {
        let reply = job.head.apply(reply);
        // Those that wait were taken, so they are answered before the end.
        let ends = self.api.is_draining() && !job.connection.pipeline.has_waiting();
        let mut response = Response::new(reply, &job.head, ends);
        if response.is_small() && !response.has_rest() {
            let (mut first, body) = response.first_piece_and_body();
            match job.connection.socket.send_both_now(&first, body) {
                Ok(sent) if sent < first.len() + body.len() => {
                    first.append(body);
                    let place = self.senders.place();
                    self.senders.send(Transfer::begun(job, response, Some(place), first, sent));
                }
                outcome => {
                    if outcome.is_err() {
                        response.note_cut(0, &first);
                    }
                    self.finish(job, &response, outcome.map(|_| ()));
                }
            }
        } else if response.is_stream()
            || self.senders.under_way() < SENDING_MAX
            || !job.head.is_safe()
        {
            // A write cannot be refused once it was executed.
            if response.body_end() == BodyEnd::Close {
                // Its end is to be told from that of the process.
                job.connection.socket.set_ends_by_reset(true);
            }
            let place = (!response.is_stream()).then(|| self.senders.place());
            self.senders.send(Transfer::new(job, response, place));
        } else {
            self.watchdog.send(Command::CutSlowest);
            self.respond(job, Refusal::Overloaded.into());
        }
    }

    /// Takes from a sender a response that was written, or a part of one, or that
    /// cannot be. Never blocks.
    pub fn take_back(self: &Arc<Self>, transfer: Transfer, outcome: io::Result<()>) {
        let (job, response, place) = transfer.into_response();
        self.follow(job, response, place, outcome);
    }

    /// Goes on behind a response that was written, or a part of one, or that cannot be.
    fn follow(
        self: &Arc<Self>,
        job: Job,
        response: Response,
        place: Option<Place>,
        outcome: io::Result<()>,
    ) {
        if outcome.is_ok() && response.breaks_off() {
            self.break_off(&job, &response);
        } else if outcome.is_ok() && response.has_rest() {
            self.go_on(job, response, place);
        } else {
            self.finish(job, &response, outcome);
        }
    }

    /// Has the API make the next part of a response, which goes to the sender again,
    /// from any thread. Never blocks.
    fn go_on(self: &Arc<Self>, job: Job, response: Response, place: Option<Place>) {
        let (is_stream, connection) = (response.is_stream(), Arc::clone(&job.connection));
        // The part that was written is dropped before there is another.
        let (rest, progress) = response.into_rest().expect("it has a rest");
        let next = NextPart { dispatcher: Arc::clone(self), job, progress, place };
        if is_stream && (self.api.is_draining() || connection.pipeline.is_ending()) {
            drop(rest);
            return next.queue(Reply::empty());
        }
        let go_on = || match self.api.go_on(rest) {
            Step::Reply(reply) => next.queue(reply),
            Step::Pending(pending) => self.api.submit(pending, |reply| next.queue(reply)),
            Step::Wait(waiting) if is_stream => self.wait_for_part(waiting, next),
            Step::Wait(waiting) => self.api.wait(waiting, |reply| next.queue(reply)),
        };
        if panic::catch_unwind(AssertUnwindSafe(go_on)).is_err() {
            self.connections.cut(&connection, Cut::Panicked);
        }
    }

    /// Has a stream wait for its next part. Never blocks.
    fn wait_for_part(&self, waiting: Arc<dyn Waiting>, next: NextPart) {
        self.note_wait(&next.job.connection, &waiting, Stage::Streaming);
        let within_wait = WithinWait::begin();
        self.api.wait(waiting, |reply| {
            next.job.connection.pipeline.note_wait_end();
            if WithinWait::is_now() || Socket::SEND_MAY_BLOCK {
                next.queue(reply);
            } else {
                next.write(reply);
            }
        });
        drop(within_wait);
    }

    /// Ends a response whose next part cannot be had, so that its client knows.
    fn break_off(&self, job: &Job, response: &Response) {
        self.count(&job.connection, &job.head, response);
        let connection = &job.connection;
        log::debug!("{}: a response breaks off", connection.peer);
        self.connections.count_cut(connection, Cut::BrokenOff);
        match response.body_end() {
            BodyEnd::Close => self.connections.cut(connection, Cut::BrokenOff),
            // The last chunk is missing.
            BodyEnd::LastChunk | BodyEnd::Length => self.connections.close(connection),
        }
    }

    /// Ends a request whose response was written, or cannot be, and begins with
    /// the next one of its connection.
    fn finish(&self, job: Job, response: &Response, outcome: io::Result<()>) {
        self.count(&job.connection, &job.head, response);
        let Job { connection, .. } = job;
        if let Err(err) = outcome {
            log::debug!("{}: writing a response: {err}", connection.peer);
            self.connections.cut(&connection, Cut::WriteFailed);
        } else if response.persistence() == Persistence::Close || Socket::SERVES_ONE {
            if response.body_end() == BodyEnd::Close {
                connection.socket.set_ends_by_reset(false);
            }
            self.connections.close(&connection);
        } else if let Some(next) = connection.pipeline.next() {
            let (job, meaning) = Job::new(connection, next);
            self.queue(Task::Handle(job, meaning));
        }
    }

    /// Returns true if a log wants requests as they came.
    pub fn is_logging(&self) -> bool {
        self.access_log.is_some() || log::log_enabled!(log::Level::Debug)
    }

    /// Counts a response that ends a request, and tells the logs of it.
    pub fn count(&self, connection: &Connection, head: &Head, response: &Response) {
        let latency = head.came.elapsed();
        let (method, route, status) = (head.method, head.route.index(), response.status());
        let counted = (!response.is_stream()).then_some(latency);
        self.api.metrics().count(Counted { method, route, status, latency: counted });
        if let Some(line) = &head.line {
            let (bytes, micros) = (response.body_bytes(), latency.as_micros());
            let (method, target) = (line.method.escape_debug(), line.target.escape_debug());
            log::debug!("{method} {target} {status} {bytes} bytes {micros} us");
            if let Some(log) = &self.access_log {
                let (peer, duration) = (connection.peer, latency);
                log.tell(&Served { peer, line, status, body_bytes: bytes, duration });
            }
        }
    }
}

impl NextPart {
    /// Leaves it to a sender.
    fn queue(self, reply: Reply) {
        let part = self.progress.followed_by(reply);
        self.dispatcher.senders.send(Transfer::new(self.job, part, self.place));
    }

    /// Writes it as far as the socket takes it at once, leaves the rest to a sender, and
    /// goes on. Never blocks.
    fn write(self, reply: Reply) {
        let Self { dispatcher, job, progress, place } = self;
        let connection = Arc::clone(&job.connection);
        let mut part = progress.followed_by(reply);
        let bytes = part.take_piece();
        let write = || match connection.socket.send_now(&bytes) {
            Ok(sent) if sent < bytes.len() => {
                dispatcher.senders.send(Transfer::begun(job, part, place, bytes, sent));
            }
            outcome => dispatcher.follow(job, part, place, outcome.map(|_| ())),
        };
        if panic::catch_unwind(AssertUnwindSafe(write)).is_err() {
            dispatcher.connections.cut(&connection, Cut::Panicked);
        }
    }
}

impl WithinWait {
    fn begin() -> Self {
        IS_WITHIN_WAIT.set(true);
        Self
    }

    fn is_now() -> bool {
        IS_WITHIN_WAIT.get()
    }
}

impl Drop for WithinWait {
    fn drop(&mut self) {
        IS_WITHIN_WAIT.set(false);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", not(portable)))]
mod tests;
