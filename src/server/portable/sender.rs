//! Writing large responses.

use crate::server::job::Job;
use crate::server::response::{BodyEnd, Piece, Response};
use crossbeam_channel::{Receiver, Sender};
use std::io;

pub struct Transfer {
    job: Job,
    response: Response,
    place: Option<Place>,
    first: Piece,
    sent: usize,
}

/// Nothing: those that wait are counted.
pub struct Place;

pub struct Senders {
    /// `None` ends one thread.
    queue: Sender<Option<Transfer>>,
    threads: usize,
}

pub struct SenderLoop(Receiver<Option<Transfer>>);

impl Transfer {
    pub fn new(job: Job, response: Response, place: Option<Place>) -> Self {
        let first = response.first_piece();
        Self::begun(job, response, place, first, 0)
    }

    pub fn begun(
        job: Job,
        response: Response,
        place: Option<Place>,
        first: Piece,
        sent: usize,
    ) -> Self {
        Self { job, response, place, first, sent }
    }

    pub fn into_response(self) -> (Job, Response, Option<Place>) {
        (self.job, self.response, self.place)
    }

    fn write(&self) -> io::Result<()> {
        let socket = &self.job.connection.socket;
        if self.response.breaks_off() && self.response.body_end() == BodyEnd::LastChunk {
            // Others may follow on this connection, and this is no chunk.
            socket.send_now(b"broken off\r\n")?;
        }
        socket.send_now(self.first.get(self.sent..).unwrap_or_default())?;
        socket.send_now(self.response.second_piece())?;
        socket.send_now(self.response.third_piece()).map(|_| ())
    }
}

impl Senders {
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
    pub fn new(threads: usize) -> io::Result<(Self, Vec<SenderLoop>)> {
        let (queue, transfers) = crossbeam_channel::unbounded();
        let loops = (0..threads).map(|_| SenderLoop(transfers.clone())).collect();
        Ok((Self { queue, threads }, loops))
    }

    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    #[allow(clippy::unused_self, reason = "elsewhere they are counted")]
    pub fn place(&self) -> Place {
        Place
    }

    pub fn send(&self, transfer: Transfer) {
        // The threads live as long as the server.
        self.queue.send(Some(transfer)).ok();
    }

    pub fn stop(&self) {
        for _ in 0..self.threads {
            self.queue.send(None).ok();
        }
    }
}

impl SenderLoop {
    pub fn run(self, finish: impl Fn(Transfer, io::Result<()>)) {
        while let Ok(Some(transfer)) = self.0.recv() {
            let outcome = transfer.write();
            finish(transfer, outcome);
        }
    }
}
