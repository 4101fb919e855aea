//! Responses that their clients do not take at once.
//!
//! A few threads write all of them, each piece when its socket has room for it,
//! so a client that reads slowly, or not at all, holds no thread. Nothing here
//! knows the next step of a connection.

use super::job::Job;
use super::pipeline::Stage;
use super::response::Response;
use crossbeam_channel::{Receiver, Sender};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes written to one client until it is the turn of another.
const TURN_BYTES: usize = 1 << 20;

/// The clients served between two looks at the queue.
const EVENTS_MAX: usize = 64;

/// The bell among the numbers of connections, which begin with 1.
const BELL: u64 = 0;

/// A response on its way, partly written.
pub struct Transfer {
    pub job: Job,
    pub response: Response,
    /// The head, and the body as far as it belongs into the same write.
    first: Vec<u8>,
    /// The bytes written so far, of all.
    sent: usize,
    /// Whether epoll watches its socket.
    is_watched: bool,
}

/// The queues of the threads that write.
pub struct Senders {
    outboxes: Vec<Outbox>,
    under_way: Arc<AtomicUsize>,
}

/// The queue of one of them.
struct Outbox {
    /// `None` ends the thread.
    queue: Sender<Option<Transfer>>,
    bell: Arc<OwnedFd>,
}

/// The loop of one of those threads.
pub struct SenderLoop {
    queue: Receiver<Option<Transfer>>,
    bell: Arc<OwnedFd>,
    epoll: OwnedFd,
    transfers: HashMap<u64, Transfer>,
    under_way: Arc<AtomicUsize>,
}

impl Transfer {
    /// A response of which nothing was written.
    pub fn new(job: Job, response: Response) -> Self {
        let first = response.first_part();
        Self::begun(job, response, first, 0)
    }

    /// A response of whose first part `sent` bytes were written.
    pub fn begun(job: Job, response: Response, first: Vec<u8>, sent: usize) -> Self {
        Self { job, response, first, sent, is_watched: false }
    }

    /// Has epoll report room in the socket.
    fn watch(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let id = EventData::new_u64(self.job.connection.id);
        epoll::add(epoll, &self.job.connection.socket, id, EventFlags::OUT)?;
        self.is_watched = true;
        Ok(())
    }

    /// Writes as much as the socket has room for, up to one turn; `false` if that is
    /// not all. Never blocks.
    fn go_on(&mut self) -> io::Result<bool> {
        let end = self.sent + TURN_BYTES;
        while self.sent < end {
            let rest = match self.first.get(self.sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => self.response.second_part().get(self.sent - self.first.len()..).unwrap_or(&[]),
            };
            if rest.is_empty() {
                return Ok(true);
            }
            let rest = rest.get(..TURN_BYTES).unwrap_or(rest);
            match self.job.connection.socket.send_now(rest)? {
                0 => return Ok(false),
                bytes => self.sent += bytes,
            }
        }
        Ok(false)
    }
}

impl Senders {
    /// The queues of so many threads, and the loops for those to run.
    pub fn new(threads: usize) -> io::Result<(Self, Vec<SenderLoop>)> {
        let (mut outboxes, mut loops) = (Vec::new(), Vec::new());
        let under_way = Arc::new(AtomicUsize::new(0));
        for _ in 0..threads {
            // No more wait here than there are connections.
            let (send, queue) = crossbeam_channel::unbounded();
            let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
            outboxes.push(Outbox { queue: send, bell: Arc::clone(&bell) });
            let (transfers, under_way) = (HashMap::new(), Arc::clone(&under_way));
            loops.push(SenderLoop { queue, bell, epoll, transfers, under_way });
        }
        Ok((Self { outboxes, under_way }, loops))
    }

    /// The responses being written.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Queues a response. Never blocks.
    pub fn send(&self, transfer: Transfer) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let threads = self.outboxes.len().max(1) as u64;
        let thread = usize::try_from(transfer.job.connection.id % threads).unwrap_or(0);
        if let Some(outbox) = self.outboxes.get(thread) {
            outbox.put(Some(transfer));
        }
    }

    /// Ends the threads.
    pub fn stop(&self) {
        self.outboxes.iter().for_each(|outbox| outbox.put(None));
    }
}

impl Outbox {
    fn put(&self, message: Option<Transfer>) {
        // The thread lives as long as the server.
        self.queue.send(message).ok();
        // It fails only where the counter is full, and then it rings already.
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).ok();
    }
}

impl SenderLoop {
    /// Writes until told to stop. Each response ends in one call of `finish`,
    /// with the error that kept it from being written.
    pub fn run(mut self, finish: impl Fn(Transfer, io::Result<()>)) {
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
                    id => self.go_on(id, &finish),
                }
            }
            while let Ok(message) = self.queue.try_recv() {
                let Some(transfer) = message else { return };
                // From here on the watchdog keeps it from lasting for ever. On a
                // connection that was cut the writing fails at once.
                let _is_open: bool = transfer.job.connection.pipeline.set_stage(Stage::Sending);
                let id = transfer.job.connection.id;
                self.transfers.insert(id, transfer);
                self.go_on(id, &finish);
            }
        }
    }

    fn go_on(&mut self, id: u64, finish: impl Fn(Transfer, io::Result<()>)) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let outcome = match transfer.go_on() {
            Ok(false) if transfer.is_watched => return,
            // Where it cannot be watched it cannot go on.
            Ok(false) => match transfer.watch(&self.epoll) {
                Ok(()) => return,
                failed => failed,
            },
            outcome => outcome.map(|_is_done| ()),
        };
        let Some(transfer) = self.transfers.remove(&id) else { return };
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if transfer.is_watched {
            epoll::delete(&self.epoll, &transfer.job.connection.socket).ok();
        }
        if panic::catch_unwind(AssertUnwindSafe(|| finish(transfer, outcome))).is_err() {
            log::error!("a connection was lost behind its response");
        }
    }
}
