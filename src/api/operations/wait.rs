//! Waits: a call that is looked at again after each change, until its condition holds.
//!
//! ```text
//! look ──► its condition holds ─────────────────────► the reply
//!  ▲  └──► not yet ──► park ──► the time is over ───► the reply that says so
//!  │                    │
//!  └── a change ────────┘
//! ```
//!
//! A look is the operation of the same call without a wait, so it tells nothing of
//! states in between and needs no memory of earlier waits.

use super::Look;
use super::update::Verb;
use crate::api::etag::Precondition;
use crate::api::fields::Fields;
use crate::api::grammar::OWS;
use crate::api::{Refusal, Replied, Reply, Waiting, ttl};
use crate::storage::{Effect, Op, Outcome, Storage, Subject, Ticket, Time};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The length of a wait that has none of its own.
const WAIT_USUAL: Duration = Duration::from_secs(30);

/// The longest body of a write that waits, in bytes.
pub const BODY_BYTES_MAX: u64 = 64 << 10;

/// A wait that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    time: Duration,
    /// It came by a field `Prefer`, so the reply says that it was heeded.
    is_preference: bool,
}

impl Wait {
    /// The wait in the query, of which `parameter` is the value, or else in the field
    /// `Prefer` (RFC 7240, 4.3), which is ignored if it is malformed.
    pub fn parse(parameter: Option<&str>, fields: Fields<'_>) -> Result<Option<Self>, Refusal> {
        let Some(text) = parameter else { return Ok(preferred(fields)) };
        Ok(Some(Self { time: parse_time(text)?, is_preference: false }))
    }

    /// Returns true for one in the query, which is refused where it has no meaning.
    pub fn is_demanded(self) -> bool {
        !self.is_preference
    }
}

/// Parses the length of a wait in the query.
pub fn parse_time(text: &str) -> Result<Duration, Refusal> {
    if text.is_empty() {
        return Ok(WAIT_USUAL);
    }
    let time = ttl::parse_duration(text).filter(|time| *time <= WAIT_MAX);
    time.ok_or(Refusal::WaitMalformed)
}

/// The wait in the fields `Prefer`: the first of several, in whole seconds.
fn preferred(fields: Fields<'_>) -> Option<Wait> {
    let preferences = fields.all("Prefer").flat_map(|field| field.split(','));
    let named = preferences.filter_map(|preference| {
        let (preference, _parameters) = preference.split_once(';').unwrap_or((preference, ""));
        let (name, value) = preference.split_once('=')?;
        name.trim_matches(OWS).eq_ignore_ascii_case("wait").then(|| value.trim_matches(OWS))
    });
    let value = named.into_iter().next()?;
    let digits = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse().unwrap_or(u64::MAX).min(WAIT_MAX.as_secs());
    let time = Duration::from_secs(seconds);
    (seconds > 0).then_some(Wait { time, is_preference: true })
}

/// The verdict on a look.
enum Verdict {
    /// The reply.
    Done(Reply),
    /// The reply if the time is over, and the expiry of the entry.
    NotYet(Reply, Option<Time>),
}

impl Look {
    fn subject(&self) -> Subject {
        match self {
            Self::Read(key, _) => Subject::Read(key.clone()),
            Self::Update(key, update) => Subject::Write(key.clone(), update.condition()),
            Self::First(prefix, _) => Subject::Take(prefix.clone()),
        }
    }

    /// The operation on the storage.
    pub fn op(&self) -> Op {
        match self {
            Self::Read(key, _) => Op::Get(key.clone()),
            Self::Update(key, update) => Op::Update(key.clone(), update.change()),
            Self::First(prefix, update) => Op::UpdateFirst(prefix.clone(), update.change()),
        }
    }

    /// The reply if it has ended before the first look.
    fn refusal(&self) -> Refusal {
        match self {
            Self::Update(_, update) if update.verb != Verb::Take => Refusal::PreconditionFailed,
            Self::Read(..) | Self::Update(..) | Self::First(..) => Refusal::KeyNotFound,
        }
    }

    /// The reply without a wait.
    pub fn reply(&self, effect: Effect) -> Reply {
        match self.judge(effect) {
            Verdict::Done(reply) | Verdict::NotYet(reply, _) => reply,
        }
    }

    fn judge(&self, effect: Effect) -> Verdict {
        let (reply, is_done, expiry) = match (self, effect) {
            (Self::Read(_, read), Effect::Found(entry)) => {
                let reply = read.reply(entry.as_ref());
                let is_done = match reply.status() {
                    // News, where the client knows of a value.
                    404 => read.conditions.if_none_match.is_some(),
                    status => !matches!(status, 304 | 412),
                };
                (reply, is_done, entry.and_then(|entry| entry.expiry()))
            }
            (Self::Update(_, update), Effect::Updated(updated)) => {
                let reply = update.reply(&updated);
                let is_done = match (&updated.before, update.verb) {
                    (None, Verb::Take) => false,
                    // Refused without a look at the conditions.
                    (None, Verb::Touch) => update.conditions.evaluate(None) == Precondition::Holds,
                    (_, _) => reply.status() != 412,
                };
                (reply, is_done, updated.before.and_then(|entry| entry.expiry()))
            }
            (Self::First(_, update), Effect::UpdatedFirst(first)) => {
                let is_done = first.is_some();
                (update.reply_with_key(first.map(|first| *first)), is_done, None)
            }
            (Self::Read(..) | Self::Update(..) | Self::First(..), _) => {
                unreachable!("each operation has its own effect")
            }
        };
        if is_done { Verdict::Done(reply) } else { Verdict::NotYet(reply, expiry) }
    }
}

/// A call that waits. Whoever holds it keeps its place among the others.
pub struct WaitingCall {
    look: Look,
    wait: Wait,
    ticket: Ticket,
}

impl WaitingCall {
    /// Takes a place for a call, or gives it back if the storage does not tell of
    /// changes.
    pub fn begin(storage: &dyn Storage, look: Look, wait: Wait) -> Result<Arc<Self>, Look> {
        let Some(waiters) = storage.waiters() else { return Err(look) };
        let ticket = waiters.register(&look.subject(), Instant::now() + wait.time);
        Ok(Arc::new(Self { look, wait, ticket }))
    }

    fn look(self: Arc<Self>, storage: Arc<dyn Storage>, done: Replied) {
        let op = self.look.op();
        match panic::catch_unwind(AssertUnwindSafe(|| storage.try_now(op))) {
            Ok(Ok(outcome)) => self.judge(storage, outcome, done),
            Ok(Err(op)) => {
                let next = Arc::clone(&storage);
                storage.submit(op, Box::new(move |outcome| self.judge(next, outcome, done)));
            }
            Err(_panic) => done(Refusal::Panicked.into()),
        }
    }

    fn judge(self: Arc<Self>, storage: Arc<dyn Storage>, outcome: Outcome, done: Replied) {
        let effect = match outcome {
            Ok(effect) => effect,
            Err(err) => return done(Refusal::from(&err).into()),
        };
        match panic::catch_unwind(AssertUnwindSafe(|| self.look.judge(effect))) {
            Ok(Verdict::Done(reply)) => done(self.heeded(reply)),
            Ok(Verdict::NotYet(reply, expiry)) => {
                self.park(storage, reply, expiry.map(moment), done);
            }
            Err(_panic) => done(Refusal::Panicked.into()),
        }
    }

    /// Waits for the next look, which is at `wake_at` at the latest, or for the end,
    /// which has this reply.
    fn park(
        self: Arc<Self>,
        storage: Arc<dyn Storage>,
        reply: Reply,
        wake_at: Option<Instant>,
        done: Replied,
    ) {
        let waiting = Arc::clone(&self);
        let wake = move |is_over| {
            if is_over {
                done(waiting.heeded(reply));
            } else {
                waiting.look(storage, done);
            }
        };
        self.ticket.park(wake_at, Box::new(wake));
    }

    /// The reply, which says that a preference was heeded (RFC 7240, 3).
    fn heeded(&self, reply: Reply) -> Reply {
        if !self.wait.is_preference {
            return reply;
        }
        reply.with_header("Preference-Applied", format!("wait={}", self.wait.time.as_secs()))
    }
}

impl Waiting for WaitingCall {
    /// Looks in its turn and after each change.
    fn begin(self: Arc<Self>, storage: Arc<dyn Storage>, done: Replied) {
        if self.ticket.has_turn() {
            self.look(storage, done);
        } else {
            let reply = self.look.refusal().into();
            self.park(storage, reply, None, done);
        }
    }

    fn end(&self) {
        self.ticket.end();
    }
}

/// The first moment at which an entry of this expiry is absent.
fn moment(expiry: Time) -> Instant {
    Instant::now() + Time::now().until(expiry) + Duration::from_millis(1)
}
