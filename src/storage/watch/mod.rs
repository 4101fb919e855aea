//! Those who wait for a key, or for the first key with a prefix.
//!
//! ```text
//! waiter: register ──► look at the store ──► not yet: park ──► woken: look again
//! writer: change the store ──► changed: have the line walked
//! ```
//!
//! A waiter registers before it looks, and a writer comes here once readers see its
//! change, so no change is missed. Where nobody waits a writer pays one load, and else
//! as much for a crowd as for one: the line of those who wait for the same is walked by
//! a thread of the watch's own, in the order of their tickets. Nothing here knows
//! entries: a waiter that is woken looks for itself.
//!
//! Readers all look. Where a look changes the store, the first of a line looks for all:
//! if its condition does not hold, it holds for none behind it. So they are served in
//! their order, and a change costs one look. Of those who take, as many look at once as
//! keys were stored for them, for an engine may do many at once.
//!
//! Locks are taken in this order: lines by name, a line, the agenda.

use super::Key;
use super::agenda::{self, call};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::iter;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The maps that lines are sharded over, so that writers on many processors do not
/// wait for each other.
const SHARDS: usize = 64;

/// The most takers of one line that look at once.
const TAKERS_MAX: usize = 64;

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
pub struct Watch(Arc<Owner>);

/// Ends the thread with the last handle.
#[derive(Default)]
struct Owner(Arc<Waiters>);

/// All that handles and tickets share.
#[derive(Default)]
struct Waiters {
    /// Waiters look without a change too.
    is_polling: bool,
    next_ticket: AtomicU64,
    readers: Lines,
    writers: Lines,
    takers: Takers,
    agenda: Agenda,
}

/// The lines by key.
struct Lines {
    /// The number of tickets.
    tickets: AtomicUsize,
    hasher: RandomState,
    /// Of most keys there is one.
    shards: Box<[Mutex<ByKey>]>,
}

type ByKey = HashMap<Box<str>, Vec<Arc<Line>>>;

/// The lines by prefix.
#[derive(Default)]
struct Takers {
    /// The number of tickets.
    tickets: AtomicUsize,
    /// By the length of the prefixes in bytes.
    lines: Mutex<BTreeMap<usize, ByPrefix>>,
}

type ByPrefix = HashMap<Box<str>, Arc<Line>>;

/// Those who wait for the same.
struct Line {
    subject: Subject,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By their tickets.
    waiters: BTreeMap<u64, Waiter>,
    /// The number of changes.
    changes: u64,
    /// The ticket where the walk goes on, while there is one.
    next: Option<u64>,
    /// Readers are walked once more from the start.
    is_again: bool,
    /// The number of waiters out of the line: they look after they were parked.
    out: usize,
    /// The keys stored for takers that none of them has taken, as far as is known.
    stored: usize,
    /// It is on the agenda.
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
    is_out: bool,
    /// Its time is over.
    is_over: bool,
    /// Its last look has begun.
    is_last: bool,
    /// It was ended, and looks no more.
    has_ended: bool,
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
    waiters: Arc<Waiters>,
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
    /// The time from the next park until the next poll, if the watch polls.
    poll: Option<Duration>,
}

impl Watch {
    /// A watch of a store that others change too, without telling anybody: those who wait
    /// look 100 ms after they began, and then after twice as long each time, up to a
    /// second; and once more at the end.
    pub(super) fn polling() -> Self {
        let waiters = Arc::new(Waiters { is_polling: true, ..Waiters::default() });
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
        let Waiters { readers, writers, takers, agenda, .. } = &*self.0.0;
        for lines in [readers, writers] {
            if lines.tickets.load(Ordering::Relaxed) > 0 {
                lines.change(key, agenda);
            }
        }
        if is_stored && takers.tickets.load(Ordering::Relaxed) > 0 {
            takers.change_prefixes_of(key, agenda);
        }
    }

    /// The numbers of those who wait to read, to write and to take.
    pub(super) fn tickets(&self) -> [usize; 3] {
        let Waiters { readers, writers, takers, .. } = &*self.0.0;
        [&readers.tickets, &writers.tickets, &takers.tickets]
            .map(|tickets| tickets.load(Ordering::Relaxed))
    }

    /// Notes that every key may have changed.
    pub fn all_changed(&self) {
        fence(Ordering::SeqCst);
        let Waiters { readers, writers, takers, agenda, .. } = &*self.0.0;
        let mut all = Vec::new();
        for shard in readers.shards.iter().chain(&writers.shards) {
            all.extend(lock(shard).values().flatten().map(Arc::clone));
        }
        all.extend(lock(&takers.lines).values().flat_map(HashMap::values).map(Arc::clone));
        for line in all {
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
    /// of which no writer tells. It is always woken by the watch's thread, even at once.
    /// Never blocks.
    pub fn park(&self, wake_at: Option<Instant>, wake: Wake) {
        let waiters = &self.waiters;
        if !waiters.has_thread() {
            // Nobody could wake it.
            return wake(true);
        }
        let mut timers = lock(&self.timers);
        let mut state = lock(&self.line.state);
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
        let mut state = lock(&self.line.state);
        let Some(waiter) = state.waiters.get_mut(&self.number) else { return };
        waiter.has_ended = true;
        if let Some(wake) = waiter.wake.take() {
            self.waiters.agenda.add(Work::Wake(wake, true));
        }
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
        let Waiters { readers, writers, takers, agenda, .. } = &*self.waiters;
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

impl Lines {
    #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
    fn shard(&self, key: &str) -> &Mutex<ByKey> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards.get(index).expect("the index is below the number of shards")
    }

    fn change(&self, key: &str, agenda: &Agenda) {
        if let Some(of_key) = lock(self.shard(key)).get(key) {
            for line in of_key {
                line.change(agenda);
            }
        }
    }

    /// Adds a waiter to its line; true if it has its turn.
    fn join(&self, key: &str, subject: &Subject, number: u64) -> (Arc<Line>, bool) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut lines = lock(self.shard(key));
        let of_key = lines.entry(key.into()).or_default();
        let same = of_key.iter().find(|line| line.subject == *subject).map(Arc::clone);
        let line = same.unwrap_or_else(|| {
            let line = Arc::new(Line::new(subject.clone()));
            of_key.push(Arc::clone(&line));
            line
        });
        let has_turn = line.join(number);
        (line, has_turn)
    }

    fn leave(&self, key: &str, line: &Arc<Line>, number: u64, agenda: &Agenda) {
        let mut lines = lock(self.shard(key));
        if line.leave(number, agenda)
            && let Some(of_key) = lines.get_mut(key)
        {
            of_key.retain(|other| !Arc::ptr_eq(other, line));
            if of_key.is_empty() {
                lines.remove(key);
            }
        }
        drop(lines);
        self.tickets.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            tickets: AtomicUsize::new(0),
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
        }
    }
}

impl Takers {
    fn join(&self, prefix: &str, subject: &Subject, number: u64) -> (Arc<Line>, bool) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut lengths = lock(&self.lines);
        let lines = lengths.entry(prefix.len()).or_default();
        let new = || Arc::new(Line::new(subject.clone()));
        let line = Arc::clone(lines.entry(prefix.into()).or_insert_with(new));
        let has_turn = line.join(number);
        (line, has_turn)
    }

    fn leave(&self, prefix: &str, line: &Arc<Line>, number: u64, agenda: &Agenda) {
        let mut lengths = lock(&self.lines);
        if line.leave(number, agenda)
            && let Some(lines) = lengths.get_mut(&prefix.len())
        {
            lines.remove(prefix);
            if lines.is_empty() {
                lengths.remove(&prefix.len());
            }
        }
        drop(lengths);
        self.tickets.fetch_sub(1, Ordering::Relaxed);
    }

    fn change_prefixes_of(&self, key: &str, agenda: &Agenda) {
        let lengths = lock(&self.lines);
        for (length, lines) in lengths.range(..=key.len()) {
            if let Some(line) = key.get(..*length).and_then(|prefix| lines.get(prefix)) {
                line.change(agenda);
            }
        }
    }
}

impl Line {
    fn new(subject: Subject) -> Self {
        Self { subject, state: Mutex::default() }
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
    fn join(&self, number: u64) -> bool {
        let mut state = lock(&self.state);
        let has_turn =
            self.is_of_readers() || state.out == 0 && state.next.is_none() && !state.has_parked();
        let seen = state.changes;
        state.waiters.insert(number, Waiter { seen, has_looked: has_turn, ..Waiter::default() });
        has_turn
    }

    /// Removes a waiter; true if it was the last.
    fn leave(self: &Arc<Self>, number: u64, agenda: &Agenda) -> bool {
        let mut state = lock(&self.state);
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
    fn change(self: &Arc<Self>, agenda: &Agenda) {
        let mut state = lock(&self.state);
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
    fn step(self: &Arc<Self>, agenda: &Agenda) {
        let mut state = lock(&self.state);
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
    fn poll(self: &Arc<Self>, number: u64, agenda: &Agenda) {
        let mut state = lock(&self.state);
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

    /// Ends a wait. One that `looks_last` looks once more though it knows of no change.
    fn time_out(&self, number: u64, looks_last: bool) {
        let mut state = lock(&self.state);
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

    fn park(&mut self, line: &Arc<Line>, number: u64, wake: Wake, agenda: &Agenda) {
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

impl Waiters {
    /// Starts the thread, if that was not tried before; `false` without one.
    fn has_thread(self: &Arc<Self>) -> bool {
        let waiters = Arc::clone(self);
        self.agenda.has_thread(iter::once_with(|| "watch".to_owned()), move || waiters.run())
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
