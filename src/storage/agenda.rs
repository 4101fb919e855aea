//! The work of threads that wake others: now, or at its time.
//!
//! The owner of an agenda starts its threads with the first work for them, and takes the
//! work from it there, piece by piece. With one thread all is done in order. Nothing here
//! knows the work. Its lock is held for no longer than an entry takes, so it is the last
//! in every order of locks.

use crate::platform::scheduling;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

/// Work that is due, in the order in which it came, and work that has a time.
pub struct Agenda<W> {
    entries: Mutex<Entries<W>>,
    /// Rings for a thread.
    bell: Condvar,
    /// True if a thread could be started; unset until one is wanted.
    has_thread: OnceLock<bool>,
}

struct Entries<W> {
    due: VecDeque<W>,
    /// By their time and the number of their owner.
    timers: BTreeMap<(Instant, u64), W>,
    /// The threads that sleep.
    asleep: usize,
    /// Those of them for whom the bell has rung.
    rung: usize,
    has_ended: bool,
}

impl<W> Default for Agenda<W> {
    fn default() -> Self {
        let (due, timers) = (VecDeque::new(), BTreeMap::new());
        let entries = Entries { due, timers, asleep: 0, rung: 0, has_ended: false };
        Self { entries: Mutex::new(entries), bell: Condvar::new(), has_thread: OnceLock::new() }
    }
}

impl<W> Agenda<W> {
    /// Starts threads of these names, if that was not tried before; `false` without any. Each
    /// runs `run`, which takes [`Agenda::next`] until there is none.
    pub fn has_thread(
        &self,
        names: impl Iterator<Item = String>,
        run: impl FnOnce() + Clone + Send + 'static,
    ) -> bool {
        *self.has_thread.get_or_init(|| {
            let start = |name| {
                let (thread, run) = (thread::Builder::new().name(name), run.clone());
                thread.spawn(move || {
                    // All that wait are woken by these threads.
                    scheduling::prefer_wakeup(scheduling::SLICE_SHORT);
                    run();
                })
            };
            let warn = |err: &_| log::warn!("no thread for those that wait: {err}");
            names.map_while(|name| start(name).inspect_err(warn).ok()).count() > 0
        })
    }

    /// Adds work that is due.
    pub fn add(&self, work: W) {
        let mut entries = self.lock();
        entries.due.push_back(work);
        self.ring(&mut entries);
    }

    /// Adds work that is due at `at`; an owner has one of a time.
    pub fn add_timer(&self, at: Instant, owner: u64, work: W) {
        let mut entries = self.lock();
        entries.timers.insert((at, owner), work);
        if entries.timers.first_key_value().is_some_and(|(first, _)| *first == (at, owner)) {
            // They would sleep for too long.
            self.ring(&mut entries);
        }
    }

    /// Removes work that is not due yet.
    pub fn remove_timer(&self, at: Instant, owner: u64) {
        let removed = self.lock().timers.remove(&(at, owner));
        drop(removed);
    }

    /// Waits for the next work; `None` after the end. Timers come first, so that work
    /// without end does not keep them.
    pub fn next(&self) -> Option<W> {
        let mut entries = self.lock();
        loop {
            let first = entries.timers.first_key_value().map(|((at, _), _)| *at);
            let left = first.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero())
                && let Some((_, work)) = entries.timers.pop_first()
            {
                return Some(work);
            }
            if let Some(work) = entries.due.pop_front() {
                return Some(work);
            }
            if entries.has_ended {
                return None;
            }
            entries.asleep += 1;
            entries = match left {
                None => self.bell.wait(entries).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.bell.wait_timeout(entries, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            entries.asleep -= 1;
            // It may have woken up by itself: then the one that was rung for comes too.
            entries.rung = entries.rung.saturating_sub(1);
        }
    }

    /// Ends the threads once they have done the work that is due.
    pub fn end(&self) {
        self.lock().has_ended = true;
        self.bell.notify_all();
    }

    /// The number of timers.
    #[cfg(test)]
    pub fn timers(&self) -> usize {
        self.lock().timers.len()
    }

    fn ring(&self, entries: &mut Entries<W>) {
        if entries.asleep > entries.rung {
            entries.rung += 1;
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries<W>> {
        // Every change above is complete before anything could panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls the continuation of one who waits. A panic is its own.
pub fn call(wake: Box<dyn FnOnce(bool) + Send>, is_over: bool) {
    panic::catch_unwind(AssertUnwindSafe(|| wake(is_over))).ok();
}
