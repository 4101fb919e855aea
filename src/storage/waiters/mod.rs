//! Waiters: those who wait for a state of a key, or for the first key with a prefix. (Those
//! who are told of each change are the watchers of the change log, in `changes`.)
//!
//! ```text
//! waiter: register ──► look at the store ──► not yet: park ──► woken: look again
//! writer: change the store ──► changed: have the line walked
//! ```
//!
//! A waiter registers before it looks, and a writer comes here once readers see its
//! change, so no change is missed. Where nobody waits a writer pays one load, and else
//! as much for a crowd as for one: the line of those who wait for the same is walked by
//! a thread of their own, in the order of their tickets. Nothing here knows
//! entries: a waiter that is woken looks for itself.
//!
//! Readers all look. Where a look changes the store, the first of a line looks for all:
//! if its condition does not hold, it holds for none behind it. So they are served in
//! their order, and a change costs one look. Of those who take, as many look at once as
//! keys were stored for them, for an engine may do many at once.
//!
//! The waiters for the same are a line (`line`), and `lines` finds the lines of a key.
//! Locks are taken in this order: lines by name, a line, the agenda.

mod line;
mod lines;

use super::Key;
use super::agenda::{self, call};
use line::Line;
use lines::{Lines, Takers};
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time until a waiter looks without a change: at first, each time twice as long, and
/// at most.
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(1);

/// The least time until it looks: another clock may be behind, by which its key expires.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// The subject of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A key, to be read. A change serves all who wait for it.
    Read(Key),
    /// A key, to be written under a condition, of which this is the name.
    Write(Key, Box<str>),
    /// The first key with a prefix, to be taken. Each that is stored is for one of them.
    Take(Box<str>),
}

/// The continuation of a waiter, called with true if its time is over. It does not
/// block.
pub type Wake = Box<dyn FnOnce(bool) + Send>;

/// The waiters of one store. A clone is another handle on them.
#[derive(Clone, Default)]
pub struct Waiters(Arc<Owner>);

/// Ends the thread with the last handle.
#[derive(Default)]
struct Owner(Arc<Shared>);

/// All that handles and tickets share.
#[derive(Default)]
struct Shared {
    /// Waiters look without a change too.
    is_polling: bool,
    next_ticket: AtomicU64,
    readers: Lines,
    writers: Lines,
    takers: Takers,
    agenda: Agenda,
}

type Agenda = agenda::Agenda<Work>;

/// Something to be done by the thread.
enum Work {
    /// Wake the next waiter of a line.
    Walk(Arc<Line>),
    /// Wake one out of turn, and tell whether its time is over.
    Wake(Wake, bool),
    /// Do as a timer says that has gone off.
    Timer(Timer),
}

struct Timer {
    line: Arc<Line>,
    /// The number of its ticket.
    number: u64,
    occasion: Occasion,
}

/// The occasion of a timer.
#[derive(Clone, Copy, PartialEq)]
enum Occasion {
    /// The end of the wait.
    End,
    /// A change of which no writer tells.
    Change,
    /// There may have been one.
    Poll,
}

/// A place among the waiters, from before the first look until the end of the wait.
/// Dropping it gives the place up.
pub struct Ticket {
    waiters: Arc<Shared>,
    line: Arc<Line>,
    number: u64,
    until: Instant,
    has_turn: bool,
    timers: Mutex<Timers>,
}

#[derive(Default)]
struct Timers {
    /// The times of those that are in the agenda.
    at: Vec<Instant>,
    /// The time from the next park until the next poll, if waiters poll.
    poll: Option<Duration>,
}

impl Waiters {
    /// The waiters of a store that others change too, without telling anybody: those who wait
    /// look 100 ms after they began, and then after twice as long each time, up to a
    /// second; and once more at the end.
    pub(super) fn polling() -> Self {
        let waiters = Arc::new(Shared { is_polling: true, ..Shared::default() });
        Self(Arc::new(Owner(waiters)))
    }

    /// Takes a place for a wait that ends at `until`. To be called before the first
    /// look at the store.
    pub fn register(&self, subject: &Subject, until: Instant) -> Ticket {
        let waiters = Arc::clone(&self.0.0);
        let number = waiters.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (line, has_turn) = match subject {
            Subject::Read(key) => waiters.readers.join(key.as_str(), subject, number),
            Subject::Write(key, _) => waiters.writers.join(key.as_str(), subject, number),
            Subject::Take(prefix) => waiters.takers.join(prefix, subject, number),
        };
        // With its like in `changed`: either the look behind this sees the change, or
        // the writer behind that sees the waiter.
        fence(Ordering::SeqCst);
        let poll = waiters.is_polling.then_some(POLL_MIN);
        let timers = Mutex::new(Timers { at: Vec::new(), poll });
        Ticket { waiters, line, number, until, has_turn, timers }
    }

    /// Notes that a key was stored, if `is_stored`, or else deleted. To be called once
    /// readers see it.
    pub fn changed(&self, key: &str, is_stored: bool) {
        fence(Ordering::SeqCst);
        self.pass_on(key, is_stored);
    }

    /// Notes that several keys were stored or deleted, likewise.
    pub fn changed_together<'a>(&self, changes: impl Iterator<Item = (&'a str, bool)>) {
        fence(Ordering::SeqCst);
        if self.tickets() != [0; 3] {
            changes.for_each(|(key, is_stored)| self.pass_on(key, is_stored));
        }
    }

    fn pass_on(&self, key: &str, is_stored: bool) {
        let Shared { readers, writers, takers, agenda, .. } = &*self.0.0;
        for lines in [readers, writers] {
            if lines.tickets() > 0 {
                lines.change(key, agenda);
            }
        }
        if is_stored && takers.tickets() > 0 {
            takers.change_prefixes_of(key, agenda);
        }
    }

    /// The numbers of those who wait to read, to write and to take.
    pub(super) fn tickets(&self) -> [usize; 3] {
        let Shared { readers, writers, takers, .. } = &*self.0.0;
        [readers.tickets(), writers.tickets(), takers.tickets()]
    }

    /// Notes that every key may have changed.
    pub fn all_changed(&self) {
        fence(Ordering::SeqCst);
        let Shared { readers, writers, takers, agenda, .. } = &*self.0.0;
        for line in [readers.all(), writers.all(), takers.all()].into_iter().flatten() {
            line.change(agenda);
        }
    }
}

impl Ticket {
    /// True if its first look is at once. Otherwise others wait for the same, and it
    /// parks first.
    pub fn has_turn(&self) -> bool {
        self.has_turn
    }

    /// Parks the waiter until its turn after a change, or until the end of the wait,
    /// where it is shown a change that it has not seen. At `wake_at` there is a change
    /// of which no writer tells. It is always woken by the waiters' thread, even at once.
    /// Never blocks.
    pub fn park(&self, wake_at: Option<Instant>, wake: Wake) {
        let waiters = &self.waiters;
        if !waiters.has_thread() {
            // Nobody could wake it.
            return wake(true);
        }
        let mut timers = lock(&self.timers);
        let mut state = self.line.state();
        let is_first = timers.at.is_empty();
        let between = timers.next(wake_at).filter(|(at, _)| *at < self.until);
        for at in timers.at.drain(..).filter(|at| *at != self.until) {
            waiters.agenda.remove_timer(at, self.number);
        }
        let end = is_first.then_some((self.until, Occasion::End));
        for (at, occasion) in between.into_iter().chain(end) {
            let timer = Timer { line: Arc::clone(&self.line), number: self.number, occasion };
            waiters.agenda.add_timer(at, self.number, Work::Timer(timer));
        }
        timers.at.extend(between.map(|(at, _)| at).into_iter().chain([self.until]));
        state.park(&self.line, self.number, wake, &waiters.agenda);
    }

    /// Ends the wait: its time is over, and nobody is there for another look.
    pub fn end(&self) {
        self.line.end(self.number, &self.waiters.agenda);
    }
}

impl Timers {
    /// The next look, at `wake_at` at the latest.
    fn next(&mut self, wake_at: Option<Instant>) -> Option<(Instant, Occasion)> {
        let Some(poll) = &mut self.poll else { return wake_at.map(|at| (at, Occasion::Change)) };
        let now = Instant::now();
        let next = now + *poll;
        *poll = (2 * *poll).min(POLL_MAX);
        let wake_at = wake_at.map_or(next, |at| at.max(now + POLL_PAUSE).min(next));
        Some((wake_at, Occasion::Poll))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Shared { readers, writers, takers, agenda, .. } = &*self.waiters;
        match &self.line.subject {
            Subject::Read(key) => readers.leave(key.as_str(), &self.line, self.number, agenda),
            Subject::Write(key, _) => writers.leave(key.as_str(), &self.line, self.number, agenda),
            Subject::Take(prefix) => takers.leave(prefix, &self.line, self.number, agenda),
        }
        let timers = self.timers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for at in timers.at.drain(..) {
            agenda.remove_timer(at, self.number);
        }
    }
}

impl Shared {
    /// Starts the thread, if that was not tried before; `false` without one.
    fn has_thread(self: &Arc<Self>) -> bool {
        let waiters = Arc::clone(self);
        self.agenda.has_thread(iter::once_with(|| "waiters".to_owned()), move || waiters.run())
    }

    /// Wakes waiters until the last handle is dropped.
    fn run(&self) {
        while let Some(work) = self.agenda.next() {
            match work {
                Work::Walk(line) => line.step(&self.agenda),
                Work::Wake(wake, is_over) => call(wake, is_over),
                Work::Timer(Timer { line, number, occasion }) => match occasion {
                    Occasion::End => line.time_out(number, self.is_polling),
                    Occasion::Change => line.change(&self.agenda),
                    Occasion::Poll => line.poll(number, &self.agenda),
                },
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.agenda.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change above is complete before anything could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
