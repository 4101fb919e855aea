//! The log behind its handles: the ring, the lines and the watchers under one lock, and
//! the threads that wake them.

use super::lines::{Line, Lines, PLACES_MAX};
use super::ring::{Entry, Ring};
use super::{Change, Event, Extent, Read, Revision, WakeWatcher, Watched};
use crate::storage::Key;
use crate::storage::agenda::{Agenda, call};
use std::collections::BTreeMap;
use std::iter;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most changes of a read.
const CHANGES_MAX: usize = PLACES_MAX;

/// A read ends once its keys have this many bytes.
const READ_BYTES_MAX: usize = 16 << 10;

/// The most changes of others that a read passes over.
const PASSED_MAX: usize = 4096;

/// The most watchers of a crowd that a thread wakes before other work has its turn.
pub const WOKEN_MAX: usize = 8;

/// Watchers that are parked, by their numbers.
pub type Crowd = BTreeMap<u64, Parked>;

pub struct Parked {
    wake: WakeWatcher,
    until: Instant,
}

pub struct Log {
    /// Nobody has asked for a position before it is.
    is_kept: AtomicBool,
    state: Mutex<State>,
    agenda: Agenda<Work>,
    /// The number of its threads.
    wakers: usize,
}

/// Ends the threads with the last handle.
pub struct Owner(pub Arc<Log>);

pub struct State {
    birth: u64,
    ring: Ring,
    lines: Lines,
    /// By their numbers.
    watchers: BTreeMap<u64, Registered>,
    next_number: u64,
    /// The number of changes that were appended.
    appended: u64,
    /// The last handle is gone, and the threads are about to end.
    is_closed: bool,
}

struct Registered {
    watched: Watched,
    /// All up to here was read. Place 0 of any birth is not within the history.
    at: Revision,
    /// The time of its timer: that of the end of its parking, or an earlier one.
    timer: Option<Instant>,
    has_ended: bool,
}

/// Something to be done by one of the threads.
enum Work {
    /// Wake a crowd.
    WakeAll(Crowd),
    /// Wake one, and tell whether it was ended.
    Wake(WakeWatcher, bool),
    /// Wake one whose time is over.
    Timer(u64),
}

impl Log {
    pub fn new(history_bytes: usize, start: Revision, is_kept: bool, wakers: usize) -> Self {
        let state = State {
            birth: start.birth,
            ring: Ring::new(history_bytes, start.place),
            lines: Lines::default(),
            watchers: BTreeMap::new(),
            next_number: 0,
            appended: 0,
            is_closed: false,
        };
        let (is_kept, state) = (AtomicBool::new(is_kept), Mutex::new(state));
        Self { is_kept, state, agenda: Agenda::default(), wakers }
    }

    pub fn is_kept(&self) -> bool {
        // The locks of the keys order this.
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Keeps changes from now on.
    pub fn keep(&self) {
        if !self.is_kept() {
            self.is_kept.store(true, Ordering::Relaxed);
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wake_all(&self, crowds: Vec<Crowd>) {
        for crowd in crowds {
            self.agenda.add(Work::WakeAll(crowd));
        }
    }

    pub fn read(&self, number: u64) -> Read {
        let mut copied = Copied::default();
        let (birth, verdict) = {
            let mut state = self.state();
            (state.birth, state.read(number, &mut copied))
        };
        let changes = copied.into_changes(birth);
        if changes.is_empty() { verdict } else { Read::Changes(changes) }
    }

    pub fn park(self: &Arc<Self>, number: u64, until: Instant, wake: WakeWatcher) {
        let log = Arc::clone(self);
        let names = (0..self.wakers).map(|number| format!("changes-{number}"));
        if !self.agenda.has_thread(names, move || log.run()) {
            // Nobody could wake it.
            return wake(true);
        }
        let parked = self.state().park(number, Parked { wake, until }, &self.agenda);
        match parked {
            Parking::Parked(None) => {}
            Parking::Parked(Some(Parked { wake, .. })) | Parking::Ready(wake) => {
                self.agenda.add(Work::Wake(wake, false));
            }
            Parking::Ended(wake) => self.agenda.add(Work::Wake(wake, true)),
            Parking::Closed(wake) => wake(true),
        }
    }

    pub fn end(&self, number: u64) {
        let mut state = self.state();
        if let Some(watcher) = state.watchers.get_mut(&number) {
            watcher.has_ended = true;
        }
        let parked = state.unpark(number);
        drop(state);
        self.wake_ended(parked);
    }

    /// Removes a watcher.
    pub fn leave(&self, number: u64) {
        let mut state = self.state();
        let parked = state.unpark(number);
        let left = state.watchers.remove(&number);
        if let Some(watcher) = &left {
            state.lines.leave(&watcher.watched);
        }
        drop(state);
        if let Some(at) = left.and_then(|watcher| watcher.timer) {
            self.agenda.remove_timer(at, number);
        }
        self.wake_ended(parked);
    }

    fn wake_ended(&self, parked: Option<Parked>) {
        if let Some(Parked { wake, .. }) = parked {
            self.agenda.add(Work::Wake(wake, true));
        }
    }

    /// Returns true if nothing is left of any watcher.
    #[cfg(test)]
    pub fn is_unwatched(&self) -> bool {
        let state = self.state();
        state.lines.is_empty() && state.watchers.is_empty() && self.agenda.timers() == 0
    }

    /// Wakes watchers until the last handle is dropped: a thread of the log.
    fn run(&self) {
        while let Some(work) = self.agenda.next() {
            match work {
                Work::WakeAll(mut crowd) => {
                    let first = iter::from_fn(|| crowd.pop_first()).take(WOKEN_MAX);
                    let first: Vec<_> = first.map(|(_, parked)| parked).collect();
                    if !crowd.is_empty() {
                        // Others come in between, and another thread takes part.
                        self.agenda.add(Work::WakeAll(crowd));
                    }
                    for Parked { wake, .. } in first {
                        call(wake, false);
                    }
                }
                Work::Wake(wake, has_ended) => call(wake, has_ended),
                Work::Timer(number) => {
                    let over = self.state().time_out(number, &self.agenda);
                    if let Some(Parked { wake, .. }) = over {
                        call(wake, false);
                    }
                }
            }
        }
    }
}

impl Drop for Owner {
    /// Nothing changes any more, so those who are parked are ended.
    fn drop(&mut self) {
        let Self(log) = self;
        let mut crowds = Vec::new();
        {
            let mut state = log.state();
            state.is_closed = true;
            state.lines.each(|line| take_crowd(line, &mut crowds));
        }
        for Parked { wake, .. } in crowds.into_iter().flat_map(BTreeMap::into_values) {
            log.agenda.add(Work::Wake(wake, true));
        }
        log.agenda.end();
    }
}

/// Takes those who are parked from their line.
fn take_crowd(line: &mut Line, crowds: &mut Vec<Crowd>) {
    if !line.parked.is_empty() {
        crowds.push(mem::take(&mut line.parked));
    }
}

/// The outcome of parking.
enum Parking {
    /// It is parked, in place of what was before.
    Parked(Option<Parked>),
    /// There is something to read.
    Ready(WakeWatcher),
    /// It was ended.
    Ended(WakeWatcher),
    /// There is no thread any more.
    Closed(WakeWatcher),
}

impl State {
    pub fn revision(&self) -> Revision {
        Revision { birth: self.birth, place: self.ring.end() }
    }

    pub fn extent(&self) -> Extent {
        Extent {
            appended: self.appended,
            bytes: self.ring.end() - self.ring.start(),
            bytes_max: self.ring.bytes_max(),
            watchers: self.watchers.len(),
        }
    }

    /// Appends a change; adds to `crowds` those whom it wakes.
    pub fn append(&mut self, event: Event, key: &str, crowds: &mut Vec<Crowd>) {
        self.appended += 1;
        let place = self.ring.append(event, key);
        self.lines.each_of(key, |line| {
            line.push(place);
            take_crowd(line, crowds);
        });
    }

    /// Begins another birth; returns those whom it wakes.
    pub fn be_reborn(&mut self, start: Revision) -> Vec<Crowd> {
        self.birth = start.birth;
        self.ring.begin_at(start.place);
        let mut crowds = Vec::new();
        self.lines.each(|line| {
            line.begin_at(start.place);
            take_crowd(line, &mut crowds);
        });
        crowds
    }

    /// Adds a watcher; returns its number.
    pub fn join(&mut self, watched: Watched, since: Option<Revision>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.lines.join(&watched, self.ring.end());
        let at = since.map_or_else(|| self.revision(), |since| self.position(since));
        let newcomer = Registered { watched, at, timer: None, has_ended: false };
        self.watchers.insert(number, newcomer);
        number
    }

    pub fn go_on_from(&mut self, number: u64, revision: Revision) {
        let at = self.position(revision);
        if let Some(watcher) = self.watchers.get_mut(&number) {
            watcher.at = at;
        }
    }

    /// The same position, or the one before all if it is not within the history.
    fn position(&self, revision: Revision) -> Revision {
        let is_within = revision.birth == self.birth && self.ring.has(revision.place);
        if is_within { revision } else { revision.before_all() }
    }

    /// Reads on for a watcher, into `copied`. Where that stays empty this is the outcome.
    fn read(&mut self, number: u64, copied: &mut Copied) -> Read {
        let (now, start) = (self.revision(), self.ring.start());
        let Some(watcher) = self.watchers.get_mut(&number) else { return Read::Reborn };
        let Some(line) = self.lines.of(&watcher.watched) else { return Read::Reborn };
        let at = &mut watcher.at;
        if at.birth != now.birth || at.place == 0 {
            return Read::Reborn;
        }
        if at.place < line.from {
            if at.place < start {
                return Read::Behind;
            }
            // The line does not reach back to where it is.
            let before = |entry: &Entry| entry.start < line.from;
            for entry in self.ring.from(at.place).take_while(before).take(PASSED_MAX) {
                if copied.is_full() {
                    return Read::Passing;
                }
                if watcher.watched.has(entry.key) {
                    copied.push(entry);
                }
                at.place = entry.end();
            }
            if at.place < line.from {
                return Read::Passing;
            }
        }
        let unread = line.places.partition_point(|place| *place < at.place);
        for place in line.places.range(unread..) {
            if *place < start {
                return Read::Behind;
            }
            if copied.is_full() {
                return Read::Passing;
            }
            if let Some(entry) = self.ring.from(*place).next() {
                copied.push(entry);
                at.place = entry.end();
            }
        }
        at.place = now.place;
        Read::UpToDate(now)
    }

    /// Parks a watcher, unless it is to be woken at once.
    fn park(&mut self, number: u64, parked: Parked, agenda: &Agenda<Work>) -> Parking {
        let birth = self.birth;
        let watcher = self.watchers.get_mut(&number);
        let line = watcher.as_ref().and_then(|watcher| self.lines.of(&watcher.watched));
        let (Some(watcher), Some(line)) = (watcher, line) else {
            return Parking::Ended(parked.wake);
        };
        if self.is_closed {
            return Parking::Closed(parked.wake);
        }
        if watcher.has_ended {
            return Parking::Ended(parked.wake);
        }
        let Revision { birth: birth_read, place } = watcher.at;
        let is_behind = place < line.from || line.places.back().is_some_and(|last| *last >= place);
        if is_behind || birth_read != birth {
            return Parking::Ready(parked.wake);
        }
        // Most park again and again, and longer each time: one timer does for many times.
        if watcher.timer.is_none_or(|at| parked.until < at) {
            let later = watcher.timer.replace(parked.until);
            if let Some(at) = later {
                agenda.remove_timer(at, number);
            }
            agenda.add_timer(parked.until, number, Work::Timer(number));
        }
        Parking::Parked(line.parked.insert(number, parked))
    }

    /// Takes a watcher from those who are parked, if it is.
    fn unpark(&mut self, number: u64) -> Option<Parked> {
        let watcher = self.watchers.get(&number)?;
        self.lines.of(&watcher.watched)?.parked.remove(&number)
    }

    /// Takes a watcher whose timer has gone off from those who are parked, if its time is
    /// over; else it has a timer again.
    fn time_out(&mut self, number: u64, agenda: &Agenda<Work>) -> Option<Parked> {
        let watcher = self.watchers.get_mut(&number)?;
        watcher.timer = None;
        let line = self.lines.of(&watcher.watched)?;
        let until = line.parked.get(&number)?.until;
        if until <= Instant::now() {
            return line.parked.remove(&number);
        }
        watcher.timer = Some(until);
        agenda.add_timer(until, number, Work::Timer(number));
        None
    }
}

impl Watched {
    fn has(&self, key: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix.as_bytes()),
            Self::Key(watched) => key == watched.as_str().as_bytes(),
        }
    }
}

impl Event {
    /// The event of a number.
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Put,
            1 => Self::Delete,
            2 => Self::Expire,
            _ => Self::Evict,
        }
    }
}

/// Changes that were copied from the ring: their keys are made of it behind the lock.
#[derive(Default)]
struct Copied {
    /// Of each change its event, the place behind it and the length of its key.
    heads: Vec<(Event, u64, usize)>,
    /// All keys, one behind the other.
    keys: Vec<u8>,
}

impl Copied {
    fn is_full(&self) -> bool {
        self.heads.len() == CHANGES_MAX || self.keys.len() >= READ_BYTES_MAX
    }

    fn push(&mut self, entry: Entry<'_>) {
        self.heads.push((entry.event, entry.end(), entry.key.len()));
        self.keys.extend_from_slice(entry.key);
    }

    fn into_changes(self, birth: u64) -> Vec<Change> {
        let mut rest = self.keys.as_slice();
        let changes = self.heads.into_iter().map_while(|(event, place, length)| {
            let (key, behind) = rest.split_at_checked(length)?;
            rest = behind;
            let key = str::from_utf8(key).ok().and_then(|text| Key::new(text).ok());
            let key = key.expect("what was appended is a key");
            Some(Change { event, revision: Revision { birth, place }, key })
        });
        changes.collect()
    }
}
