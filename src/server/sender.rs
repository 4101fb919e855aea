//! Answers that their clients do not take at once.
//!
//! A few threads write all of them, each piece when its client has room for
//! it, so a client who reads slowly, or not at all, holds no thread.

use super::connections::Stage;
use super::front::{Front, Message};
use super::job::Job;
use super::response::Response;
use super::socket::Socket;
use crossbeam_channel::{Receiver, Sender};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much is written to one client until it is the turn of another.
const TURN_BYTES: usize = 1 << 20;

/// How many clients with room are served between two looks at the queue.
const EVENTS_MAX: usize = 64;

/// Stands for the bell among the numbers of connections, which begin with 1.
const BELL: u64 = 0;

/// An answer on its way, of which some was written.
pub(super) struct Sending {
    pub(super) job: Job,
    pub(super) response: Response,
    /// Its first part, once that was begun with.
    first: Vec<u8>,
    /// How much was written, of all.
    sent: usize,
    /// Whether its socket's room is watched.
    is_watched: bool,
}

/// What became of an answer.
enum Progress {
    /// It was written.
    Whole,
    /// Its client has no room, or it is the turn of others.
    Partial,
    /// It cannot be written.
    Failed(io::Error),
}

/// The ways to the threads that write answers.
pub(super) struct Senders {
    outboxes: Vec<Outbox>,
    under_way: Arc<AtomicUsize>,
}

/// The way to one of them.
struct Outbox {
    answers: Sender<Message<Sending>>,
    bell: Arc<OwnedFd>,
}

/// What one of them is given.
pub(super) struct Inbox {
    answers: Receiver<Message<Sending>>,
    bell: Arc<OwnedFd>,
    epoll: OwnedFd,
    sending: HashMap<u64, Sending>,
    under_way: Arc<AtomicUsize>,
}

impl Sending {
    /// An answer that was not begun with.
    pub(super) fn new(job: Job, response: Response) -> Self {
        let first = response.first_part();
        Self::begun(job, response, first, 0)
    }

    /// One whose first part is `first`, of which some was written.
    pub(super) fn begun(job: Job, response: Response, first: Vec<u8>, sent: usize) -> Self {
        Self { job, response, first, sent, is_watched: false }
    }

    fn socket(&self) -> &Socket {
        self.job.connection.socket()
    }

    /// Has the thread be told whenever there is room.
    fn watch(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let id = EventData::new_u64(self.job.connection.id());
        epoll::add(epoll, self.socket(), id, EventFlags::OUT)?;
        self.is_watched = true;
        Ok(())
    }

    /// Writes as much as there is room for, up to one turn. Never blocks.
    fn go_on(&mut self) -> Progress {
        let end = self.sent + TURN_BYTES;
        while self.sent < end {
            let rest = match self.first.get(self.sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => self.response.second_part().get(self.sent - self.first.len()..).unwrap_or(&[]),
            };
            if rest.is_empty() {
                return Progress::Whole;
            }
            let rest = rest.get(..TURN_BYTES).unwrap_or(rest);
            match self.socket().send_now(rest) {
                Ok(0) => return Progress::Partial,
                Ok(bytes) => self.sent += bytes,
                Err(err) => return Progress::Failed(err),
            }
        }
        Progress::Partial
    }
}

impl Senders {
    /// Ways to so many threads, which are to run what they are given.
    pub(super) fn new(threads: usize) -> io::Result<(Self, Vec<Inbox>)> {
        let (mut outboxes, mut inboxes) = (Vec::new(), Vec::new());
        let under_way = Arc::new(AtomicUsize::new(0));
        for _ in 0..threads {
            // No more wait here than there are connections.
            let (send, answers) = crossbeam_channel::unbounded();
            let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
            outboxes.push(Outbox { answers: send, bell: Arc::clone(&bell) });
            let (sending, under_way) = (HashMap::new(), Arc::clone(&under_way));
            inboxes.push(Inbox { answers, bell, epoll, sending, under_way });
        }
        Ok((Self { outboxes, under_way }, inboxes))
    }

    /// How many answers are being written.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Has an answer written. Never blocks.
    pub(super) fn send(&self, sending: Sending) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let threads = self.outboxes.len().max(1) as u64;
        let thread = usize::try_from(sending.job.connection.id() % threads).unwrap_or(0);
        if let Some(outbox) = self.outboxes.get(thread) {
            outbox.put(Message::Work(sending));
        }
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.outboxes.iter().for_each(|outbox| outbox.put(Message::Stop));
    }
}

impl Outbox {
    fn put(&self, message: Message<Sending>) {
        // The thread lives as long as the server.
        self.answers.send(message).ok();
        // It fails only where the counter is full, and then it rings already.
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).ok();
    }
}

impl Inbox {
    /// Writes answers until told to stop.
    pub(super) fn run(mut self, front: &Arc<Front>) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            // An interrupted wait is made up for by the next.
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None).ok();
            for event in events.drain(..) {
                // The kernel's structure is packed, so no field can be borrowed.
                let epoll::Event { data, .. } = event;
                match data.u64() {
                    BELL => {
                        rustix::io::read(&self.bell, &mut [0_u8; 8]).ok();
                    }
                    id => self.go_on(id, front),
                }
            }
            while let Ok(message) = self.answers.try_recv() {
                let Message::Work(sending) = message else { return };
                self.begin(sending, front);
            }
        }
    }

    fn begin(&mut self, sending: Sending, front: &Arc<Front>) {
        // From here on the watchdog sees to it that this does not last for ever.
        // On a connection that was cut the writing fails at once.
        let _is_open: bool = sending.job.connection.set_stage(Stage::Sending);
        let id = sending.job.connection.id();
        self.sending.insert(id, sending);
        self.go_on(id, front);
    }

    /// Goes on with an answer whose client may have room.
    fn go_on(&mut self, id: u64, front: &Arc<Front>) {
        let Some(sending) = self.sending.get_mut(&id) else { return };
        let progress = match sending.go_on() {
            Progress::Partial if sending.is_watched => return,
            // Where it cannot be watched it cannot go on.
            Progress::Partial => match sending.watch(&self.epoll) {
                Ok(()) => return,
                Err(err) => Progress::Failed(err),
            },
            progress @ (Progress::Whole | Progress::Failed(_)) => progress,
        };
        let Some(sending) = self.sending.remove(&id) else { return };
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if sending.is_watched {
            epoll::delete(&self.epoll, sending.socket()).ok();
        }
        let end = AssertUnwindSafe(|| match progress {
            Progress::Whole | Progress::Partial => front.finish(sending.job, &sending.response),
            Progress::Failed(err) => front.lose(&sending.job, &sending.response, &err),
        });
        if panic::catch_unwind(end).is_err() {
            log::error!("a connection was lost behind its answer");
        }
    }
}
