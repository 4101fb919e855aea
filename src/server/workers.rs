//! The workers: a fixed pool of threads, some of which lead.

use super::dispatch::{Dispatcher, Task};
use super::leader::{Exit, Leadership, Turn};
use crate::platform::scheduling::{self, Wakeups};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The stack of a server's thread, with room to spare: they are many.
pub const STACK_BYTES: usize = 512 * 1024;

/// Starts so many workers.
pub fn start(count: usize, dispatcher: &Arc<Dispatcher>) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |number| {
        let dispatcher = Arc::clone(dispatcher);
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        thread.stack_size(STACK_BYTES).spawn(move || work(&dispatcher))
    };
    (0..count).map(start).collect()
}

/// A worker: does one task after the other until told to stop.
pub fn work(dispatcher: &Arc<Dispatcher>) {
    scheduling::batch_priority();
    loop {
        match dispatcher.next_task() {
            Task::Handle(job, meaning) => dispatcher.handle(job, meaning, false),
            Task::Lead(leadership, turn) => match lead(dispatcher, &leadership, turn) {
                Exit::Displaced => {}
                Exit::Retired => return,
            },
            Task::Stop => return,
        }
    }
}

/// Leads, until the turn is over.
pub fn lead(dispatcher: &Arc<Dispatcher>, leadership: &Leadership, turn: Turn) -> Exit {
    let (mut wakeups, mut buffers) = (Wakeups::default(), leadership.inbox.buffers());
    loop {
        // In a crowd more has come by the time that this thread runs.
        wakeups.set(!dispatcher.api.gathers());
        // Once: what is completed meanwhile comes behind the next requests.
        let completed = dispatcher.completions.take().into_iter();
        leadership.add(completed.map(|(job, reply)| (job, Err(reply))));
        loop {
            match leadership.next(turn) {
                Ok(Some((job, meaning))) => dispatcher.handle(job, meaning, true),
                Ok(None) => break,
                Err(exit) => {
                    scheduling::batch_priority();
                    return exit;
                }
            }
        }
        if leadership.inbox.is_closed() {
            return Exit::Retired;
        }
        leadership.add(leadership.inbox.receive(dispatcher, &mut buffers));
        dispatcher.watchdog.watch_leader();
    }
}
