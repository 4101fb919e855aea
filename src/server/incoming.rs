//! An upload that is taken as it comes: its body, and the storage beside it.
//!
//! The thread that reads it is the one that waits for the storage too. So it is no
//! worker's, and others are served meanwhile.

use super::dispatch::Dispatcher;
use super::uploads::Reservation;
use crate::api::{Import, Pending, Refusal, Reply, Step, Upload};
use crate::platform::scheduling;
use std::io::{self, BufRead, Read};
use std::panic::{self, AssertUnwindSafe};

/// The one that an upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Its client.
    Client,
    /// The storage.
    Storage,
}

/// An upload from a reader of its body. `F` is told for whom it waits from then on, and
/// returns false if its client is not there any more.
struct Incoming<'a, R, F> {
    body: &'a mut R,
    dispatcher: &'a Dispatcher,
    reserved: Reservation,
    begin_wait: F,
}

/// Imports a body as it comes, and gives the reply. Blocks until then.
pub fn import<R: BufRead>(
    dispatcher: &Dispatcher,
    import: Import,
    body: &mut R,
    begin_wait: impl FnMut(Awaited) -> bool,
) -> Reply {
    let reserved = Reservation::new(&dispatcher.uploads);
    let mut upload = Incoming { body, dispatcher, reserved, begin_wait };
    // The storage and its locks stay whole through a panic: see there.
    let run = AssertUnwindSafe(|| dispatcher.api.import(import, &mut upload));
    panic::catch_unwind(run).unwrap_or_else(|_panic| {
        (upload.begin_wait)(Awaited::Client);
        Refusal::Panicked.into()
    })
}

impl<R: BufRead, F: FnMut(Awaited) -> bool> Upload for Incoming<'_, R, F> {
    fn reserve(&mut self, bytes: u64) -> bool {
        self.reserved.reserve(bytes, &self.dispatcher.api)
    }

    fn release(&mut self) {
        self.reserved = Reservation::new(&self.dispatcher.uploads);
    }

    fn perform(&mut self, pending: Pending) -> Reply {
        if !(self.begin_wait)(Awaited::Storage) {
            // It has heard of it.
            return Refusal::RequestTimeout.into();
        }
        let reply = match self.dispatcher.api.try_step(pending) {
            Step::Reply(reply) => reply,
            Step::Pending(pending) => {
                let (done, reply) = crossbeam_channel::bounded(1);
                self.dispatcher.api.submit(pending, move |told| {
                    // This thread waits for it.
                    done.send(told).ok();
                });
                reply.recv().unwrap_or_else(|_dropped| Refusal::Panicked.into())
            }
            Step::Wait(_) => unreachable!("a piece does not wait"),
        };
        // Where its client is not there any more the next read ends.
        (self.begin_wait)(Awaited::Client);
        reply
    }
}

impl<R: BufRead, F> BufRead for Incoming<'_, R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.body.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.body.consume(bytes);
        scheduling::give_way();
    }
}

impl<R: BufRead, F> Read for Incoming<'_, R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}
