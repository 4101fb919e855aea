//! One line: those who wait for the same, and the walk that wakes them in their order.
//!
//! ```text
//! change ──► walk from the first ticket on ──► the next who is parked: out, to look
//!                     ▲                                  │
//!                     └── there is room for one more ◄───┤ parks again, or leaves
//! ```
//!
//! Readers do not count as out: all of them look. Each step of a walk wakes one waiter, so
//! that other lines have their turn in between.

use super::{Agenda, Subject, Wake, Work, lock};
use crate::storage::agenda::call;
use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

/// The most takers of one line that look at once.
const TAKERS_MAX: usize = 64;

/// Those who wait for the same.
pub struct Line {
    /// The subject of their waits.
    pub subject: Subject,
    state: Mutex<State>,
}

/// The waiters of a line and the walk over them, under the lock of the line.
#[derive(Default)]
pub struct State {
    /// By their tickets.
    waiters: BTreeMap<u64, Waiter>,
    /// The number of changes.
    changes: u64,
    /// The ticket from which the walk goes on; none while there is no walk.
    next: Option<u64>,
    /// A walk over readers starts once more when it has ended.
    is_again: bool,
    /// The number of waiters that are out: the walk has woken them, and they look.
    out: usize,
    /// The keys stored for takers that none of them has taken, as far as is known.
    stored: usize,
    /// A step of the walk is on the agenda.
    is_due: bool,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Waiter {
    /// Its continuation while it is parked.
    wake: Option<Wake>,
    /// The number of changes when its last look began, or when it came.
    seen: u64,
    /// It has begun to look.
    has_looked: bool,
    /// The walk has woken it to look. Readers never are.
    is_out: bool,
    /// Its time is over.
    is_over: bool,
    /// Its last look has begun.
    is_last: bool,
    /// It was ended, and looks no more.
    has_ended: bool,
}

impl Line {
    pub fn new(subject: Subject) -> Self {
        Self { subject, state: Mutex::default() }
    }

    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn is_of_readers(&self) -> bool {
        matches!(self.subject, Subject::Read(_))
    }

    /// The most that may be out of the line.
    fn out_max(&self, state: &State) -> usize {
        match self.subject {
            Subject::Read(_) => usize::MAX,
            Subject::Write(..) => 1,
            Subject::Take(_) => state.stored.clamp(1, TAKERS_MAX),
        }
    }

    /// Adds a waiter; true if it has its turn.
    pub fn join(&self, number: u64) -> bool {
        let mut state = self.state();
        let has_turn =
            self.is_of_readers() || state.out == 0 && state.next.is_none() && !state.has_parked();
        let seen = state.changes;
        state.waiters.insert(number, Waiter { seen, has_looked: has_turn, ..Waiter::default() });
        has_turn
    }

    /// Removes a waiter; true if it was the last.
    pub fn leave(self: &Arc<Self>, number: u64, agenda: &Agenda) -> bool {
        let mut state = self.state();
        let left = state.waiters.remove(&number);
        if left.is_some_and(|waiter| waiter.is_out) {
            state.out -= 1;
            state.stored = state.stored.saturating_sub(1);
        }
        if !self.is_of_readers() && state.has_parked() {
            // It may have found something, and there may be more; or it was the one that
            // looked for all.
            state.next = Some(0);
        }
        state.go_on(self, agenda);
        state.waiters.is_empty()
    }

    /// Notes a change, and has the line walked from the start.
    pub fn change(self: &Arc<Self>, agenda: &Agenda) {
        let mut state = self.state();
        state.changes += 1;
        state.stored += 1;
        if self.is_of_readers() && state.next.is_some() {
            // To begin anew would leave out the last ones of a key that changes often.
            state.is_again = true;
        } else {
            state.next = Some(0);
        }
        state.go_on(self, agenda);
    }

    /// Takes a step of the walk: wakes the next waiter, if one may look now.
    pub fn step(self: &Arc<Self>, agenda: &Agenda) {
        let mut state = self.state();
        state.is_due = false;
        if state.out >= self.out_max(&state) {
            return;
        }
        let Some(wake) = state.next_out(self.is_of_readers()) else { return };
        // Others come in between.
        state.go_on(self, agenda);
        drop(state);
        call(wake, false);
    }

    /// Has a waiter look that polls; in a line of others than readers only the first, as
    /// that looks for all.
    pub fn poll(self: &Arc<Self>, number: u64, agenda: &Agenda) {
        let mut state = self.state();
        if !self.is_of_readers() {
            if state.is_first(number) {
                state.next = Some(0);
                state.go_on(self, agenda);
            }
            return;
        }
        let changes = state.changes;
        let Some(waiter) = state.waiters.get_mut(&number) else { return };
        let Some(wake) = waiter.wake.take() else { return };
        waiter.seen = changes;
        waiter.has_looked = true;
        drop(state);
        call(wake, false);
    }

    /// Ends the wait of a waiter that is given up: it looks no more.
    pub fn end(&self, number: u64, agenda: &Agenda) {
        let mut state = self.state();
        let Some(waiter) = state.waiters.get_mut(&number) else { return };
        waiter.has_ended = true;
        if let Some(wake) = waiter.wake.take() {
            agenda.add(Work::Wake(wake, true));
        }
    }

    /// Ends a wait whose time is over. One that `looks_last` looks once more though it knows
    /// of no change.
    pub fn time_out(&self, number: u64, looks_last: bool) {
        let mut state = self.state();
        let changes = state.changes;
        let Some(waiter) = state.waiters.get_mut(&number) else { return };
        waiter.is_over = true;
        waiter.has_looked &= !looks_last;
        let Some(wake) = waiter.wake.take() else { return };
        let is_over = waiter.is_over_at(changes);
        drop(state);
        call(wake, is_over);
    }
}

impl State {
    fn has_parked(&self) -> bool {
        self.waiters.values().any(|waiter| waiter.wake.is_some())
    }

    /// Returns true if nobody is parked in front of a waiter.
    fn is_first(&self, number: u64) -> bool {
        !self.waiters.range(..number).any(|(_, waiter)| waiter.wake.is_some())
    }

    /// Has the line walked on, if there is somebody who may look.
    fn go_on(&mut self, line: &Arc<Line>, agenda: &Agenda) {
        if self.next.is_some() && self.out < line.out_max(self) && !self.is_due {
            self.is_due = true;
            agenda.add(Work::Walk(Arc::clone(line)));
        }
    }

    /// Lets the next waiter out; `None` if the walk has ended.
    fn next_out(&mut self, is_of_readers: bool) -> Option<Wake> {
        loop {
            let changes = self.changes;
            let parked = |(number, waiter): (&u64, &mut Waiter)| {
                waiter.wake.take().map(|wake| {
                    waiter.seen = changes;
                    waiter.has_looked = true;
                    waiter.is_out = !is_of_readers;
                    (*number, wake)
                })
            };
            if let Some((number, wake)) = self.waiters.range_mut(self.next?..).find_map(parked) {
                self.next = Some(number + 1);
                self.out += usize::from(!is_of_readers);
                return Some(wake);
            }
            self.next = mem::take(&mut self.is_again).then_some(0);
        }
    }

    /// Parks a waiter after its look, or before its first one, and has the line walked on if
    /// that has made room for others.
    pub fn park(&mut self, line: &Arc<Line>, number: u64, wake: Wake, agenda: &Agenda) {
        let changes = self.changes;
        let Some(waiter) = self.waiters.get_mut(&number) else { return };
        let was_out = mem::take(&mut waiter.is_out);
        let (is_up_to_date, has_looked) = (waiter.seen == changes, waiter.has_looked);
        if waiter.is_over || waiter.has_ended {
            let is_over = waiter.is_over_at(changes);
            agenda.add(Work::Wake(wake, is_over));
        } else {
            waiter.wake = Some(wake);
        }
        self.out -= usize::from(was_out);
        if was_out && is_up_to_date {
            // It would be the same for the others.
            self.next = None;
            self.stored = 0;
        } else if !is_up_to_date {
            match self.next {
                Some(_) if line.is_of_readers() => self.is_again = true,
                next => self.next = Some(next.map_or(number, |next| next.min(number))),
            }
        } else if !has_looked && self.out == 0 && self.is_first(number) {
            // Whoever had the turn as it came has left before it was here.
            self.next.get_or_insert(number);
        }
        self.go_on(line, agenda);
    }
}

impl Waiter {
    /// True if it looks no more though its time is over, with that many changes; else its
    /// last look begins.
    fn is_over_at(&mut self, changes: u64) -> bool {
        let has_seen_all = self.has_looked && self.seen == changes;
        let is_over = self.has_ended || self.is_last || has_seen_all;
        if !is_over {
            self.is_last = true;
            self.seen = changes;
        }
        is_over
    }
}
