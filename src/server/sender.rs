//! Responses that their clients do not take at once, or that come in parts.
//!
//! A few threads write all of them, each piece when its socket has room for it,
//! so a client that reads slowly, or not at all, holds no thread. Each part of a
//! response is a transfer of its own; the next one is made once it was written.
//! Nothing here knows the next step of a connection.

use super::job::Job;
use super::pipeline::Stage;
use super::response::{Piece, Response};
use crate::platform::scheduling;
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

/// A response on its way, or a part of one, partly written.
pub struct Transfer {
    job: Job,
    response: Response,
    place: Option<Place>,
    /// The head, and the body as far as it belongs into the same write.
    first: Piece,
    /// The bytes written so far, of all.
    sent: usize,
    /// Its socket is watched by epoll.
    is_watched: bool,
}

/// A place among the responses under way. One in parts keeps its own to the end, and a
/// stream has none: those are limited by their number.
pub struct Place(Arc<AtomicUsize>);

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
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Transfer {
    /// A response of which nothing was written.
    pub fn new(job: Job, mut response: Response, place: Option<Place>) -> Self {
        // Many streams may stand still, so none keeps its part twice.
        let first =
            if response.is_stream() { response.take_piece() } else { response.first_piece() };
        Self::begun(job, response, place, first, 0)
    }

    /// A response of whose first piece `sent` bytes were written.
    pub fn begun(
        job: Job,
        response: Response,
        place: Option<Place>,
        first: Piece,
        sent: usize,
    ) -> Self {
        Self { job, response, place, first, sent, is_watched: false }
    }

    /// The response and its place, without the copies made to write it.
    pub fn into_response(self) -> (Job, Response, Option<Place>) {
        (self.job, self.response, self.place)
    }

    /// The stage of its request.
    fn stage(&self) -> Stage {
        match (self.response.is_stream(), self.response.is_in_parts()) {
            (true, _) => Stage::Streaming,
            (false, true) => Stage::Parts,
            (false, false) => Stage::Sending,
        }
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
            let rest = self.unsent();
            if rest.is_empty() {
                // Nothing but this look would notice the end of a client to whom
                // nothing is written.
                let is_lost = self.sent == 0 && self.job.connection.socket.is_over();
                return if is_lost { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(true) };
            }
            let rest = rest.get(..TURN_BYTES).unwrap_or(rest);
            match self.job.connection.socket.send_now(rest)? {
                0 => return Ok(false),
                bytes => self.sent += bytes,
            }
        }
        Ok(self.unsent().is_empty())
    }

    /// The piece to write next, or the rest of it; empty after the last.
    fn unsent(&self) -> &[u8] {
        let response = &self.response;
        let mut before = 0;
        for piece in [&*self.first, response.second_piece(), response.third_piece()] {
            match piece.get(self.sent - before..) {
                Some(rest) if !rest.is_empty() => return rest,
                Some(_) | None => before += piece.len(),
            }
        }
        &[]
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
            loops.push(SenderLoop { queue, bell, epoll, transfers: HashMap::new() });
        }
        Ok((Self { outboxes, under_way }, loops))
    }

    /// The responses being written.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// A place for one more.
    pub fn place(&self) -> Place {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(&self.under_way))
    }

    /// Queues a response. Never blocks.
    pub fn send(&self, transfer: Transfer) {
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
    /// Writes until told to stop. Each transfer ends in one call of `finish`,
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
            // Not those that come meanwhile: parts that follow each other would keep
            // all other sockets waiting. Their bell has rung.
            for _ in 0..self.queue.len() {
                let Ok(message) = self.queue.try_recv() else { break };
                let Some(transfer) = message else { return };
                // From here on the watchdog keeps it from lasting for ever. On a
                // connection that was cut the writing fails at once.
                let stage = transfer.stage();
                let _is_open: bool = transfer.job.connection.pipeline.set_stage(stage);
                let id = transfer.job.connection.id;
                self.transfers.insert(id, transfer);
                self.go_on(id, &finish);
            }
        }
    }

    fn go_on(&mut self, id: u64, finish: impl Fn(Transfer, io::Result<()>)) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        if transfer.stage() == Stage::Parts {
            scheduling::give_way();
        }
        let outcome = match transfer.go_on() {
            Ok(false) if transfer.is_watched => return,
            // Where it cannot be watched it cannot go on.
            Ok(false) => match transfer.watch(&self.epoll) {
                Ok(()) => return,
                failed => failed,
            },
            outcome => outcome.map(|_is_done| ()),
        };
        let Some(mut transfer) = self.transfers.remove(&id) else { return };
        if outcome.is_err() {
            let Transfer { response, first, sent, .. } = &mut transfer;
            response.note_cut(*sent, first);
        }
        if transfer.is_watched {
            epoll::delete(&self.epoll, &transfer.job.connection.socket).ok();
        }
        if panic::catch_unwind(AssertUnwindSafe(|| finish(transfer, outcome))).is_err() {
            log::error!("a connection was lost behind its response");
        }
    }
}
