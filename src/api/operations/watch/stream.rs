//! A stream of changes, part by part.
//!
//! ```text
//!            the history does not reach back
//! Resuming ───────────────────────────────────► State ◄──────────┐
//!    │ read on                                    │ page by page │ another birth
//!    ▼                                            ▼              │
//! CatchingUp ◄──────────────────────────────── reset, put ... ───┤
//!    │ up to date: ready                                         │
//!    ▼                                                           │
//!  Live ──► changes, or ready after a silence ──► park ──────────┘
//! ```
//!
//! Each part is made when the one before was written, so a stream holds nothing but its
//! place in the log and what it tells next. A part ends once it has [`PART_BYTES`]; the
//! next one goes on from the last change or key that was told. A reply that is no stream
//! is the same up to its first `ready`.
//!
//! Lines of a state, and the reset before it, have an id that the history never reaches:
//! whoever breaks off there has to start over.

use super::forms::Form;
use super::{Since, Watch};
use crate::api::{Refusal, Replied, Reply, Rest, Step, Waiting};
use crate::storage::{
    Changed, Changes, Effect, Entry, Event, Listing, Op, Outcome, PAGE_KEYS_MAX, Page, Range, Read,
    Revision, Start, Storage, Watched, Watcher,
};
use std::collections::HashSet;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec;

/// A part ends once it has this many bytes: it has at most a line more.
const PART_BYTES: usize = 64 << 10;

/// A stream that is silent for this long tells that it is ready: to its client and to
/// whoever passes it on it is there, and the position does not fall out of the history.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A stream between two of its parts, or on the way to one. A clone is cheap then.
#[derive(Clone)]
pub struct Stream {
    source: Arc<Source>,
    phase: Phase,
    /// The head was sent.
    is_begun: bool,
    /// The next part is the last one.
    is_over: bool,
    /// The part on its way.
    part: Vec<u8>,
}

/// The source of what a stream tells.
struct Source {
    changes: Changes,
    watcher: Watcher,
    watched: Watched,
    form: Form,
    /// The end of the time of a reply that is no stream.
    until: Option<Instant>,
}

/// The course of a stream.
#[derive(Clone)]
enum Phase {
    /// It goes on from a position of the client's, up to the present one.
    Resuming(Revision),
    /// It tells the state.
    State(State),
    /// It tells the changes up to this position.
    CatchingUp(Revision),
    /// All was told. It is ready again at this moment, unless it tells anything before.
    Live(Instant),
}

/// The rest of a state.
#[derive(Clone)]
struct State {
    start: Start,
    /// The keys to read for a part: about as many as it had room for.
    keys_max: usize,
    /// The id of all of it.
    id: Revision,
}

/// The next thing that a stream needs.
enum Next {
    /// Nothing more: here is a part.
    Part(Reply),
    /// An operation on the storage.
    Op(Op, Then),
    /// To be woken by a change, or at this moment.
    Park(Stream, Instant),
}

type Then = Box<dyn FnOnce(Effect) -> Next + Send>;

impl Stream {
    /// The first step of a watch.
    pub fn begin(changes: &Changes, watch: Watch) -> Step {
        let (now, present) = (Instant::now(), changes.revision());
        let until = watch.wait.map(|time| now + time);
        let (since, phase) = match watch.since {
            Since::Now => (present, Phase::Live(until.unwrap_or(now))),
            Since::State => (present.before_all(), Phase::Resuming(present)),
            Since::Revision(revision) => (revision, Phase::Resuming(present)),
        };
        let source = Source {
            changes: changes.clone(),
            watcher: changes.watch(watch.watched.clone(), Some(since)),
            watched: watch.watched,
            form: watch.form,
            until,
        };
        let mut part = Vec::new();
        source.form.put_start(&mut part);
        let stream =
            Self { source: Arc::new(source), phase, is_begun: false, is_over: false, part };
        // It tells at once that it is there.
        if watch.since == Since::Now && until.is_none() {
            return Step::Reply(stream.into_ready(present));
        }
        Step::Wait(Arc::new(stream))
    }

    /// Goes on from here.
    fn go_on(mut self) -> Next {
        if let Phase::State(state) = &self.phase {
            let state = state.clone();
            return self.read_state(state);
        }
        let mut read = self.source.watcher.read();
        while self.is_over && read == Read::Passing {
            read = self.source.watcher.read();
        }
        match read {
            Read::Changes(changes) => {
                if self.ends() && !matches!(self.phase, Phase::CatchingUp(_)) {
                    // All of what is there by now is told before the end, also what came
                    // just behind the beginning.
                    self.phase = Phase::CatchingUp(self.source.changes.revision());
                }
                self.tell(changes)
            }
            Read::UpToDate(revision) => match self.ready_at() {
                Some(ready_at) if Instant::now() < ready_at && !self.is_over => {
                    self.phase = Phase::Live(ready_at);
                    Next::Park(self, ready_at)
                }
                Some(_) | None => Next::Part(self.into_ready(revision)),
            },
            // It is woken at once, so that others have their turn.
            Read::Passing => {
                let until = self.ready_at().unwrap_or_else(Instant::now);
                Next::Park(self, until)
            }
            Read::Reborn => self.reset(),
            Read::Behind => match self.phase {
                Phase::Resuming(_) => self.reset(),
                Phase::State(_) | Phase::CatchingUp(_) | Phase::Live(_) => {
                    Next::Part(Refusal::WatcherBehind.into())
                }
            },
        }
    }

    /// The moment of the next `ready` if nothing is told before; `None` is now.
    fn ready_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Live(ready_at) => Some(ready_at),
            Phase::Resuming(_) => self.source.until,
            Phase::State(_) | Phase::CatchingUp(_) => None,
        }
    }

    /// Tells that all before is void, and then the state. What changes from here on is
    /// told behind that.
    fn reset(mut self) -> Next {
        let revision = self.source.changes.revision();
        self.source.watcher.go_on_from(revision);
        let id = revision.before_all();
        self.source.form.put_reset(&mut self.part, id);
        self.read_state(State { start: Start::First, keys_max: PAGE_KEYS_MAX, id })
    }

    /// Reads what follows of the state, or all of it if that is one key.
    fn read_state(self, state: State) -> Next {
        match &self.source.watched {
            Watched::Key(key) => {
                let op = Op::Get(key.clone());
                let then = move |effect| self.tell_key(state.id, found(effect).as_ref());
                Next::Op(op, Box::new(then))
            }
            Watched::Prefix(prefix) => {
                let start = state.start.clone();
                let listing = Listing {
                    range: Range { prefix: prefix.clone(), start, is_reverse: false },
                    with_entries: self.source.form.has_values,
                    keys_max: state.keys_max,
                    ..Listing::default()
                };
                let then = move |effect| {
                    let Effect::Listed(page) = effect else { unreachable!("a list lists") };
                    self.tell_page(state, *page)
                };
                Next::Op(Op::List(Box::new(listing)), Box::new(then))
            }
        }
    }

    fn tell_key(mut self, id: Revision, entry: Option<&Entry>) -> Next {
        if let (Watched::Key(key), Some(entry)) = (&self.source.watched, entry) {
            let entry = Some(entry).filter(|_| self.source.form.has_values);
            self.source.form.put_change(&mut self.part, Event::Put, id, key.as_str(), entry);
        }
        self.catch_up()
    }

    /// Tells the keys of a page, as far as the part has room.
    fn tell_page(mut self, mut state: State, page: Page) -> Next {
        let mut entries = page.entries().iter();
        for (told, key) in (1..).zip(page.keys()) {
            self.put(Event::Put, state.id, key, entries.next());
            if self.is_full() && told < page.len() {
                (state.start, state.keys_max) = (Start::After(key.into()), told);
                return self.send(Phase::State(state));
            }
        }
        let Some(start) = page.next else { return self.catch_up() };
        (state.start, state.keys_max) = (start, PAGE_KEYS_MAX.min(2 * state.keys_max));
        self.send(Phase::State(state))
    }

    /// Tells the changes since the state was begun.
    fn catch_up(mut self) -> Next {
        self.phase = Phase::CatchingUp(self.source.changes.revision());
        if self.is_full() {
            let phase = self.phase.clone();
            return self.send(phase);
        }
        self.go_on()
    }

    /// Tells changes that were read: those up to the next `ready`, if that comes between
    /// them. It never comes within a batch, for every target is a present position.
    fn tell(self, mut changes: Vec<Changed>) -> Next {
        let last = changes.last().map(|change| change.revision);
        let mut end = last.expect("at least one change was read");
        if let Some(target) = self.target().filter(|target| target.place < end.place) {
            end = target;
            changes.retain(|change| change.revision.place <= target.place);
            self.source.watcher.go_on_from(target);
        }
        if self.source.form.has_values {
            leave_out_overtaken(&mut changes);
        }
        self.tell_on(changes.into_iter(), end)
    }

    /// Tells changes, as far as the part has room, and all are told up to `end` then.
    fn tell_on(mut self, mut changes: vec::IntoIter<Changed>, end: Revision) -> Next {
        while let Some(Changed { event, revision, key }) = changes.next() {
            if event == Event::Put && self.source.form.has_values {
                let op = Op::Get(key.clone());
                let then = move |effect| {
                    // One that is gone is told of behind this.
                    if let Some(entry) = found(effect) {
                        self.put(event, revision, key.as_str(), Some(&entry));
                    }
                    if self.is_full() { self.stop_at(revision) } else { self.tell_on(changes, end) }
                };
                return Next::Op(op, Box::new(then));
            }
            self.put(event, revision, key.as_str(), None);
            if self.is_full() {
                return self.stop_at(revision);
            }
        }
        self.send_changes(end)
    }

    /// Leaves the changes behind a position to the next part.
    fn stop_at(self, told: Revision) -> Next {
        self.source.watcher.go_on_from(told);
        self.send_changes(told)
    }

    /// Sends the changes up to a position.
    fn send_changes(mut self, told: Revision) -> Next {
        let target = self.target();
        if target.is_some_and(|target| told.place >= target.place) {
            return Next::Part(self.into_ready(told));
        }
        let phase = match (target, &self.phase) {
            (Some(target), _) => Phase::CatchingUp(target),
            // All of them were overtaken, so it is still silent.
            (None, phase) if self.part.is_empty() => phase.clone(),
            (None, _) => Phase::Live(Instant::now() + SILENCE_MAX),
        };
        if !self.is_stream() && !self.is_full() {
            // One part, and so a length, if it has room for all.
            self.phase = phase;
            return self.go_on();
        }
        self.send(phase)
    }

    /// The position at which it is ready, unless it is up to date before.
    fn target(&self) -> Option<Revision> {
        match self.phase {
            Phase::Resuming(target) | Phase::CatchingUp(target) => Some(target),
            Phase::Live(_) | Phase::State(_) => None,
        }
    }

    /// The part that ends with the news that all up to a position was told.
    fn into_ready(mut self, revision: Revision) -> Reply {
        self.source.form.put_ready(&mut self.part, revision);
        if self.ends() {
            return self.take_part();
        }
        self.into_part(Phase::Live(Instant::now() + SILENCE_MAX))
    }

    fn send(self, phase: Phase) -> Next {
        Next::Part(self.into_part(phase))
    }

    /// The part, behind which it goes on.
    fn into_part(mut self, phase: Phase) -> Reply {
        self.phase = phase;
        let (reply, is_stream) = (self.take_part(), self.is_stream());
        let step = move || Step::Wait(Arc::new(self));
        reply.with_rest(if is_stream { Rest::of_stream(step) } else { Rest::new(step) })
    }

    fn take_part(&mut self) -> Reply {
        let part = mem::take(&mut self.part);
        if mem::replace(&mut self.is_begun, true) {
            Reply::part_of_body(part)
        } else {
            self.source.form.reply(part)
        }
    }

    fn put(&mut self, event: Event, id: Revision, key: &str, entry: Option<&Entry>) {
        self.source.form.put_change(&mut self.part, event, id, key, entry);
    }

    fn is_full(&self) -> bool {
        self.part.len() >= PART_BYTES
    }

    fn is_stream(&self) -> bool {
        self.source.until.is_none()
    }

    /// Returns true if it ends with the next `ready`.
    fn ends(&self) -> bool {
        self.is_over || !self.is_stream()
    }
}

impl Waiting for Stream {
    /// Makes the next part.
    fn begin(self: Arc<Self>, storage: Arc<dyn Storage>, done: Replied) {
        let stream = Self::clone(&self);
        run(catch(|| stream.go_on()), storage, done);
    }

    fn end(&self) {
        self.source.watcher.end();
    }
}

/// Does all that a stream needs for its next part. A page is read on a thread of the
/// storage, for the thread that wakes a stream wakes all.
fn run(mut next: Next, storage: Arc<dyn Storage>, done: Replied) {
    loop {
        let (op, then) = match next {
            Next::Part(reply) => return done(reply),
            Next::Park(stream, until) => return park(stream, until, storage, done),
            Next::Op(op, then) => (op, then),
        };
        let is_list = matches!(op, Op::List(_));
        let try_now = || if is_list { Err(op) } else { storage.try_now(op) };
        match panic::catch_unwind(AssertUnwindSafe(try_now)) {
            Ok(Ok(outcome)) => next = follow(then, outcome),
            Ok(Err(op)) => {
                let behind = Arc::clone(&storage);
                let done = move |outcome| run(follow(then, outcome), behind, done);
                return storage.submit(op, Box::new(done));
            }
            Err(_panic) => next = Next::Part(Refusal::Panicked.into()),
        }
    }
}

fn park(stream: Stream, until: Instant, storage: Arc<dyn Storage>, done: Replied) {
    let source = Arc::clone(&stream.source);
    let wake = move |is_over| {
        let stream = Stream { is_over, ..stream };
        run(catch(|| stream.go_on()), storage, done);
    };
    source.watcher.park(until, Box::new(wake));
}

fn follow(then: Then, outcome: Outcome) -> Next {
    match outcome {
        Ok(effect) => catch(|| then(effect)),
        Err(err) => Next::Part(Refusal::from(&err).into()),
    }
}

/// A panic is a failure of its stream alone.
fn catch(step: impl FnOnce() -> Next) -> Next {
    panic::catch_unwind(AssertUnwindSafe(step))
        .unwrap_or_else(|_panic| Next::Part(Refusal::Panicked.into()))
}

fn found(effect: Effect) -> Option<Entry> {
    let Effect::Found(entry) = effect else { unreachable!("a read finds or not") };
    entry
}

/// Leaves out each put whose key has changed again, and so has another value or none.
fn leave_out_overtaken(changes: &mut Vec<Changed>) {
    let mut later = HashSet::with_capacity(changes.len());
    let are_told: Vec<bool> = changes
        .iter()
        .rev()
        .map(|change| later.insert(&change.key) || change.event != Event::Put)
        .collect();
    let mut are_told = are_told.into_iter().rev();
    changes.retain(|_| are_told.next().unwrap_or(true));
}
