//! A line of a batch: from its text to an operation on a key, and from the effect of
//! that to its answer.

use super::answers::{LineAnswer, OtherAnswer, Told};
use crate::api::access::Caller;
use crate::api::entries::parse_expires;
use crate::api::etag::{EntityTag, Precondition};
use crate::api::fields::Fields;
use crate::api::members::Members;
use crate::api::operations::read::Read;
use crate::api::operations::update::Verb;
use crate::api::operations::write::{Planned, Stored, Write};
use crate::api::operations::{Answer, Operation};
use crate::api::target::{self, Target};
use crate::api::{Refusal, Reply, Step, query, routes};
use crate::storage::{BatchOp, Change, Decision, Effect, Entry, Key, Time};
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most bytes of all values that a batch returns, or makes of others by appending:
/// every one is held until the end.
const RETURNED_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of all values that a batch looks at, some of them again and again: an
/// engine may have read each from the disk, and holds it until the end too.
const SEEN_BYTES_MAX: u64 = 256 << 20;

/// A line whose request is planned.
pub enum Line {
    /// It stores a value whatever is there, as most do.
    Stored(Stored),
    /// Any other.
    Other(Box<Other>),
}

/// The line of another request.
pub struct Other {
    answer: Answer,
    told: Told,
    /// The bytes of values up to this line, if it looks at one.
    spent: Option<Spent>,
}

impl Line {
    /// Parses a line of a body and plans its request. `spent` is that of the lines before it.
    pub fn plan(
        body: &Bytes,
        place: Range<usize>,
        value_bytes_max: u64,
        caller: &Caller,
        spent: &mut Spent,
    ) -> Result<(Key, BatchOp, Self), Refusal> {
        let mut members = Members::parse(body.get(place).unwrap_or_default())?;
        let value = members.take_value(|text| body.slice_ref(text))?;
        let method = method_of(&members, value.is_some())?;
        let target = Target::parse(members.path.as_deref().unwrap_or_default());
        // The way of most lines, and a short one.
        if method == "PUT" && target.query.is_empty() && members.are_plain() {
            let write = Write::plain_put(key(&members, target)?, caller)?;
            return Self::of_write(write, value.unwrap_or_default(), value_bytes_max, spent);
        }
        let expiry = members.expires.as_deref().map(parse_expires).transpose()?;
        match (request(method, &members, target, caller)?, value) {
            (Operation::Write(write), _) if write.wait.is_some() => Err(Refusal::QueryUnknown),
            (Operation::Read(key, read), None) => {
                let told = if method == "GET" { Told::Value } else { Told::Length };
                Ok(Self::of_read(key, read, told, spent.next()))
            }
            (Operation::Write(write), value) if value.is_none() || write.verb.stores_body() => {
                let value = value.unwrap_or_default();
                let Some(expiry) = expiry else {
                    return Self::of_write(write, value, value_bytes_max, spent);
                };
                let write = write.with_expiry(expiry)?;
                let is_over = expiry <= Time::now();
                let (key, op, line) = Self::of_write(write, value, value_bytes_max, spent)?;
                Ok(if is_over { line.without_effect(key, op) } else { (key, op, line) })
            }
            (Operation::Wait(_), _) => Err(Refusal::QueryUnknown),
            (Operation::Read(..) | Operation::Write(_), _) => Err(Refusal::BodyUnexpected),
            (
                Operation::Reply(_)
                | Operation::Inspect(_)
                | Operation::Survey(_)
                | Operation::Artifact(_)
                | Operation::Body(_)
                | Operation::Pending(_)
                | Operation::Watch(_)
                | Operation::Import(_),
                _,
            ) => Err(Refusal::MethodNotAllowed),
        }
    }

    fn of_read(key: Key, read: Read, told: Told, spent: Spent) -> (Key, BatchOp, Self) {
        let (conditions, spending) = (read.conditions.clone(), spent.clone());
        let change: Change = Box::new(move |before| {
            let outcome = before.map(|entry| conditions.evaluate(Some(EntityTag::of(entry))));
            let is_told = told == Told::Value && outcome == Some(Precondition::Holds);
            let fits = spending.add(before.filter(|_| is_told), before);
            let is_refused = outcome == Some(Precondition::Failed) || !fits;
            if is_refused { Decision::Refuse } else { Decision::Keep }
        });
        let line = Other { answer: Answer::Read(read), told, spent: Some(spent) };
        (key, BatchOp::Update(change), Self::Other(line.into()))
    }

    fn of_write(
        write: Write,
        value: Bytes,
        value_bytes_max: u64,
        spent: &mut Spent,
    ) -> Result<(Key, BatchOp, Self), Refusal> {
        let verb = write.verb;
        let Planned { key, op, answer } = write.plan(value, value_bytes_max)?;
        if let Answer::Stored(stored) = answer {
            return Ok((key, op, Self::Stored(stored)));
        }
        let told = match verb {
            Verb::Take => Told::Value,
            Verb::Add(_) => Told::Number,
            Verb::Set | Verb::Create | Verb::Delete | Verb::Touch | Verb::Append => Told::Nothing,
        };
        let (op, spent) = match op {
            BatchOp::Update(mut change) => {
                let spent = spent.next();
                let spending = spent.clone();
                let change: Change = Box::new(move |before| {
                    let decision = change(before);
                    let returned = match (verb, &decision) {
                        (Verb::Take, _) => before,
                        (Verb::Append, Decision::Replace(entry)) => Some(entry),
                        (_, _) => None,
                    };
                    if spending.add(returned, before) { decision } else { Decision::Refuse }
                });
                (BatchOp::Update(change), Some(spent))
            }
            op @ (BatchOp::Set(_) | BatchOp::Delete | BatchOp::Remove) => (op, None),
        };
        Ok((key, op, Self::Other(Other { answer, told, spent }.into())))
    }

    /// That of a value which is over before it is stored. A condition counts all the same.
    fn without_effect(self, key: Key, op: BatchOp) -> (Key, BatchOp, Self) {
        let BatchOp::Update(mut change) = op else {
            let answer = Answer::Reply(Reply::empty());
            let line = Other { answer, told: Told::Nothing, spent: None };
            let change: Change = Box::new(|_| Decision::Keep);
            return (key, BatchOp::Update(change), Self::Other(line.into()));
        };
        let change: Change = Box::new(move |before| match change(before) {
            Decision::Refuse => Decision::Refuse,
            Decision::Keep | Decision::Replace(_) | Decision::Remove => Decision::Keep,
        });
        (key, BatchOp::Update(change), self)
    }

    /// Returns true if it reads a key.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Other(line) if line.is_read())
    }

    /// The line's answer, or the reply that refuses it.
    pub fn answer(self, effect: Effect) -> Result<LineAnswer, Reply> {
        match self {
            Self::Stored(stored) => Ok(LineAnswer::Stored(stored)),
            Self::Other(line) => line.answer(effect).map(|answer| LineAnswer::Other(answer.into())),
        }
    }
}

impl Other {
    fn is_read(&self) -> bool {
        matches!(self.answer, Answer::Read(_))
    }

    fn answer(self, effect: Effect) -> Result<OtherAnswer, Reply> {
        let is_read = self.is_read();
        let Self { answer, told, spent } = self;
        if let Some(refusal) = spent.and_then(|spent| spent.refusal()) {
            return Err(refusal.into());
        }
        if let (Answer::Update(update), Effect::Updated(updated)) = (&answer, &effect) {
            // Before the reply, which may have the value of the entry for its text.
            update.check(updated.before.as_ref()).map_err(Reply::from)?;
        }
        let entry = match (&effect, told) {
            (Effect::Updated(updated), Told::Value | Told::Length) => updated.before.clone(),
            (Effect::Updated(updated), Told::Number) => updated.after.clone(),
            (_, _) => None,
        };
        // In a batch it is an update that keeps all.
        let effect = if is_read { Effect::Found(entry.clone()) } else { effect };
        let Step::Reply(reply) = answer.step(Ok(effect)) else {
            unreachable!("a request on one key is one step")
        };
        // That a key is not there is an answer to a read.
        let is_refused = reply.status() >= 400 && !(is_read && reply.status() == 404);
        if is_refused {
            return Err(reply);
        }
        let entry = entry.filter(|_| reply.status() == 200);
        Ok(OtherAnswer { reply, entry, told })
    }
}

/// The method of a line, which is `PUT` in one of an export: that has a value and no method.
fn method_of<'a>(members: &'a Members<'_>, has_value: bool) -> Result<&'a str, Refusal> {
    match members.method.as_deref() {
        Some(_) if members.expires.is_some() || members.has_etag => Err(Refusal::LineExported),
        Some(method) => Ok(method),
        None if has_value => Ok("PUT"),
        None => Err(Refusal::LineEmpty),
    }
}

/// The request of a line: as one alone, but that a read has no parameter either.
fn request(
    method: &str,
    members: &Members<'_>,
    target: Target<'_>,
    caller: &Caller,
) -> Result<Operation, Refusal> {
    let key = key(members, target)?;
    let [if_match, if_none_match] =
        [&members.if_match, &members.if_none_match].map(|tags| tags.as_deref().map(quoted));
    let fields = [
        ("Content-Type", members.content_type.as_deref()),
        ("If-Match", if_match.as_deref()),
        ("If-None-Match", if_none_match.as_deref()),
    ];
    let fields = fields.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let fields: Vec<_> = fields.collect();
    let operation = routes::parse_on_key(method, key, target, Fields(&fields), caller)?;
    if matches!(operation, Operation::Read(..)) {
        // Nothing is between here and the store that one more could get past.
        query::check_none(target.query)?;
    }
    Ok(operation)
}

/// The key of the request.
fn key(members: &Members<'_>, target: Target<'_>) -> Result<Key, Refusal> {
    match (&members.path, &members.key) {
        (Some(_), None) => routes::key_in(target.path).ok_or(Refusal::LinePath)?,
        (None, Some(key)) => target::key(Cow::Borrowed(key)),
        (Some(_), Some(_)) | (None, None) => Err(Refusal::LineKey),
    }
}

/// Tags in which the quotes of a single one may be missing.
fn quoted(tags: &str) -> Cow<'_, str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_bare = tags.len() == 32 && tags.bytes().all(is_digit);
    if is_bare { format!("\"{tags}\"").into() } else { tags.into() }
}

/// The bytes of values up to some line. Lines are decided on in order, as often as it
/// takes, so each adds its own to those of the line before.
#[derive(Clone, Default)]
pub struct Spent {
    before: Arc<Sums>,
    sums: Arc<Sums>,
}

#[derive(Default)]
struct Sums {
    /// Of values that are returned, or made of others by appending.
    returned: AtomicU64,
    /// Of values that are looked at.
    seen: AtomicU64,
}

impl Spent {
    /// That of the next line.
    fn next(&mut self) -> Self {
        *self = Self { before: Arc::clone(&self.sums), sums: Arc::default() };
        self.clone()
    }

    /// Adds the values of entries. Returns false if it is too much.
    fn add(&self, returned: Option<&Entry>, seen: Option<&Entry>) -> bool {
        let (before, sums) = (&self.before, &self.sums);
        let bytes = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.value().len() as u64);
        for (sum, before, entry) in
            [(&sums.returned, &before.returned, returned), (&sums.seen, &before.seen, seen)]
        {
            sum.store(before.load(Ordering::Relaxed) + bytes(entry), Ordering::Relaxed);
        }
        self.refusal().is_none()
    }

    /// The refusal of what is too much.
    fn refusal(&self) -> Option<Refusal> {
        if self.sums.returned.load(Ordering::Relaxed) > RETURNED_BYTES_MAX {
            Some(Refusal::BatchTooLarge)
        } else if self.sums.seen.load(Ordering::Relaxed) > SEEN_BYTES_MAX {
            Some(Refusal::BatchSeesTooMuch)
        } else {
            None
        }
    }
}
