//! The watchdog's mailbox: commands from other threads, none of which waits.
//!
//! A channel would do as much, but its receiver spins before it sleeps, and the
//! watchdog wakes up too often for that.

use crossbeam_channel::{Receiver, Sender};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Commands that the watchdog has not carried out yet.
#[derive(Default)]
pub struct Mailbox {
    // Threads of the server's own put commands here, a few each.
    commands: Mutex<Vec<Command>>,
    arrived: Condvar,
    /// The watchdog sleeps for long.
    is_quiet: AtomicBool,
}

/// A command to the watchdog.
pub enum Command {
    /// Watch the leaders more closely: one is at work.
    WatchLeader,
    /// Inspect all connections now.
    Inspect,
    /// Cut the slowest client of a large response, which has to make room for others.
    CutSlowest,
    /// Log this warning, unless its like was logged a short while ago.
    Complain(String),
    /// End every connection once its request is answered, and send when none is
    /// left.
    Drain(Sender<()>),
    /// End the watchdog's thread.
    Stop,
}

impl Mailbox {
    /// Adds a command.
    pub fn send(&self, command: Command) {
        self.lock().push(command);
        self.arrived.notify_one();
    }

    /// Sends [`Command::WatchLeader`] to a watchdog that sleeps for long.
    pub fn watch_leader(&self) {
        let is_quiet = &self.is_quiet;
        if is_quiet.load(Ordering::Relaxed) && is_quiet.swap(false, Ordering::Relaxed) {
            self.send(Command::WatchLeader);
        }
    }

    /// Sends [`Command::Drain`]; the receiver hears when no connection is left.
    pub fn drain(&self) -> Receiver<()> {
        let (done, drained) = crossbeam_channel::bounded(1);
        self.send(Command::Drain(done));
        drained
    }

    /// Takes all commands; waits for the first until a moment, which is far off if
    /// `is_quiet`.
    pub fn take_until(&self, until: Instant, is_quiet: bool) -> Vec<Command> {
        self.is_quiet.store(is_quiet, Ordering::Relaxed);
        let commands = self.lock();
        let time = until.saturating_duration_since(Instant::now());
        let waited =
            self.arrived.wait_timeout_while(commands, time, |commands| commands.is_empty());
        let taken = mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0);
        self.is_quiet.store(false, Ordering::Relaxed);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Command>> {
        // Every change is one call.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
