//! `PUT`, `POST` and `DELETE` of a key.
//!
//! A write that does not depend on the entry before is a set or a delete of the
//! storage, and any other an [`Update`].

use super::update::{Update, Verb};
use super::wait::{self, Wait};
use super::{Answer, Look, Operation, Pending, Routed};
use crate::api::access::{Caller, Right};
use crate::api::digests::Digests;
use crate::api::etag::{Conditions, EntityTag};
use crate::api::fields::Fields;
use crate::api::query::{self, Action, Query};
use crate::api::ttl::Ttl;
use crate::api::{Refusal, Reply, media_type};
use crate::storage::{BatchOp, Entry, Key, Op, Time};
use bytes::Bytes;
use std::sync::Arc;

/// The parameters of each method.
const OF_PUT: &[&str] = &["ttl", "create", "wait"];
const OF_POST: &[&str] = &["ttl", "incr", "decr", "append", "wait"];
const OF_DELETE: &[&str] = &["return", "wait"];

/// A write, but for its body.
#[derive(Clone)]
pub struct Write {
    /// The key to write.
    pub key: Key,
    /// The effect on it.
    pub verb: Verb,
    /// The conditions on the entry before.
    pub conditions: Conditions,
    ttl: Option<Ttl>,
    /// The content type of the value.
    pub content_type: Option<Arc<str>>,
    digests: Option<Box<Digests>>,
    /// It waits until its condition holds.
    pub wait: Option<Wait>,
}

/// Parses the head of a `PUT`.
pub fn put(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.check_key(Right::Write)?;
    let query = Query::parse(routed.target.query, OF_PUT)?;
    let verb = match query.action {
        None => Verb::Set,
        Some(Action::Create) => Verb::Create,
        Some(Action::Add(_) | Action::Append | Action::Return) => {
            return Err(Refusal::QueryUnknown);
        }
    };
    let ttl = Ttl::parse(query.ttl, routed.fields)?;
    Write::routed(verb, ttl, query.wait, routed)
}

/// Parses the head of a `POST`, a method of the query and not of the key alone.
pub fn post(routed: Routed<'_>) -> Result<Operation, Refusal> {
    if !query::is_for_post(routed.target.query) {
        return Err(Refusal::MethodNotAllowed);
    }
    routed.check_key(Right::Write)?;
    // The one method here that a browser sends for a page of another site.
    routed.caller.check_site(routed.target, routed.fields)?;
    let query = Query::parse(routed.target.query, OF_POST)?;
    let verb = match query.action {
        None => Verb::Touch,
        Some(Action::Add(amount)) => Verb::Add(amount),
        Some(Action::Append) => Verb::Append,
        Some(Action::Return | Action::Create) => return Err(Refusal::QueryUnknown),
    };
    let ttl = Ttl::parse(query.ttl, routed.fields)?;
    Write::routed(verb, ttl, query.wait, routed)
}

/// Parses the head of a `DELETE`.
pub fn delete(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.check_key(Right::Write)?;
    let query = Query::parse(routed.target.query, OF_DELETE)?;
    let verb = match (query.action, query.ttl) {
        (None, None) => Verb::Delete,
        (Some(Action::Return), None) => Verb::Take,
        (_, _) => return Err(Refusal::QueryUnknown),
    };
    Write::routed(verb, None, query.wait, routed)
}

impl Write {
    /// A `PUT` without a query and without fields that mean something.
    pub fn plain_put(key: Key, caller: &Caller) -> Result<Self, Refusal> {
        caller.rights.check_key(Right::Write, key.as_str())?;
        let (verb, conditions) = (Verb::Set, Conditions::default());
        Ok(Self { key, verb, conditions, ttl: None, content_type: None, digests: None, wait: None })
    }

    /// The same, of a value that expires then. It may have no time to live besides.
    pub fn with_expiry(self, expiry: Time) -> Result<Self, Refusal> {
        match self.ttl {
            None => Ok(Self { ttl: Some(Ttl::Until(expiry)), ..self }),
            Some(_) => Err(Refusal::TtlContradictory),
        }
    }

    /// Parses the rest of the head of a write of a key.
    fn routed(
        verb: Verb,
        ttl: Option<Ttl>,
        wait: Option<&str>,
        routed: Routed<'_>,
    ) -> Result<Operation, Refusal> {
        let fields = routed.fields;
        let wait = Wait::parse(wait, fields)?;
        // Without a condition there is nothing to wait for.
        let can_wait = verb == Verb::Take || Conditions::are_in(fields);
        if !can_wait && wait.is_some_and(Wait::is_demanded) {
            return Err(Refusal::QueryContradictory);
        }
        let write = Self::parse(verb, ttl, routed.into_key(), fields)?;
        Ok(Operation::Write(Self { wait: wait.filter(|_| can_wait), ..write }))
    }

    /// Parses the header fields of a write of a key.
    pub fn parse(
        verb: Verb,
        ttl: Option<Ttl>,
        key: Key,
        fields: Fields<'_>,
    ) -> Result<Self, Refusal> {
        let conditions = Conditions::parse(fields)?;
        if verb == Verb::Create && !conditions.is_empty() {
            return Err(Refusal::ConditionUnexpected);
        }
        let (content_type, digests) = if verb.stores_body() {
            (media_type::parse(fields)?, Digests::of_content(fields)?)
        } else {
            (None, None)
        };
        Ok(Self { key, verb, conditions, ttl, content_type, digests, wait: None })
    }

    /// Checks the length of the body.
    pub fn check_length(&self, bytes: u64) -> Result<(), Refusal> {
        if self.wait.is_some_and(Wait::is_demanded) && bytes > wait::BODY_BYTES_MAX {
            return Err(Refusal::ValueTooLarge);
        }
        self.verb.check_length(bytes)
    }

    /// The wait of the write with its body. With a long one it is refused if it was
    /// demanded, and else it does not wait.
    pub fn wait_with(&self, body: &[u8]) -> Option<Wait> {
        let is_short = body.len() as u64 <= wait::BODY_BYTES_MAX;
        self.wait.filter(|wait| wait.is_demanded() || is_short)
    }

    /// The look at the key of a write that waits.
    pub fn look(self, body: Bytes, value_bytes_max: u64) -> Result<Look, Refusal> {
        let Planned { key, answer, .. } = self.plan(body, value_bytes_max)?;
        let Answer::Update(update) = answer else { unreachable!("it has a condition") };
        Ok(Look::Update(key, update))
    }

    /// Checks the body. A digest that is right is dropped.
    pub fn check(&mut self, body: &[u8]) -> Result<(), Refusal> {
        self.check_length(body.len() as u64)?;
        self.digests.take().map_or(Ok(()), |digests| digests.check(body))
    }

    /// Checks the body, and makes an operation on the key of it.
    pub fn plan(mut self, body: Bytes, value_bytes_max: u64) -> Result<Planned, Refusal> {
        self.check(&body)?;
        let Self { key, verb, conditions, ttl, content_type, .. } = self;
        let is_conditional = !conditions.is_empty();
        Ok(match verb {
            Verb::Set if !is_conditional && ttl != Some(Ttl::Keep) => {
                let expiry = ttl.and_then(|ttl| ttl.expiry(None));
                let entry = Entry::new(body).with_content_type(content_type).with_expiry(expiry);
                let answer = Answer::Stored(Stored { tag: EntityTag::of(&entry), expiry });
                Planned { key, op: BatchOp::Set(entry), answer }
            }
            Verb::Delete if !is_conditional => {
                Planned { key, op: BatchOp::Delete, answer: Answer::Reply(Reply::empty()) }
            }
            Verb::Set
            | Verb::Create
            | Verb::Delete
            | Verb::Take
            | Verb::Touch
            | Verb::Add(_)
            | Verb::Append => {
                let created = (verb == Verb::Set && is_conditional).then(|| key.clone());
                let update =
                    Update { verb, conditions, ttl, content_type, body, value_bytes_max, created };
                let update = Arc::new(update);
                let op = BatchOp::Update(update.change());
                Planned { key, op, answer: Answer::Update(update) }
            }
        })
    }
}

/// The answer to a write that stores its value whatever is there.
#[derive(Clone, Copy)]
pub struct Stored {
    /// The tag of the value.
    pub tag: EntityTag,
    /// Its expiry.
    pub expiry: Option<Time>,
}

impl Stored {
    /// The status of the reply.
    pub const STATUS: u16 = 200;

    /// The reply to it alone.
    pub fn reply(self) -> Reply {
        Reply::empty().with_tag(self.tag).with_ttl(self.expiry)
    }
}

/// A write to be done on the storage, alone or in a batch.
pub struct Planned {
    pub key: Key,
    pub op: BatchOp,
    pub answer: Answer,
}

impl Planned {
    /// The write alone.
    pub fn alone(self) -> Pending {
        let Self { key, op, answer } = self;
        let op = match op {
            BatchOp::Set(entry) => Op::Set(key, entry),
            BatchOp::Delete => Op::Delete(key),
            BatchOp::Remove => unreachable!("a write of one key is no removal"),
            BatchOp::Update(change) => Op::Update(key, change),
        };
        Pending { op, answer }
    }
}
