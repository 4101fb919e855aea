//! What a request means: routes, validation and statuses.
//!
//! Nothing here opens a socket or starts a thread, so every rule of the API
//! is tested by calling one function: a [`Call`] and its body go in, a
//! [`Reply`] comes out. Whoever moves the bytes works in two steps instead,
//! [`Api::admit`] before the body, so that a call which is refused never waits
//! for it, and [`Api::try_now`] after it, with [`Api::submit`] for what the
//! storage cannot do at once.
//!
//! The checks come in one order, whatever else is wrong with a call: host 403,
//! target 400, path 404, key 400, method 405, query 400, header fields 400 or
//! 415, length 413, empty value 400, content 400, preconditions 412, storage.

mod access;
mod cross_site;
mod digests;
mod field;
mod fields;
mod lifetime;
mod manual;
mod media_type;
mod query;
mod range;
mod reading;
mod refusal;
mod reply;
mod tags;
mod target;
mod writing;

use crate::storage::{self, Blocking as _, Effect, Key, Op, Outage, Outcome, Storage};
pub use access::{HostName, Hosts, NotAName};
use bytes::Bytes;
use cross_site::is_cross_site;
use fields::Fields;
use query::Query;
use reading::Reading;
pub use refusal::Refusal;
pub use reply::Reply;
use std::sync::Arc;
use target::{Resource, Target};
use writing::Writing;

/// The head of a request, as far as its meaning depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The method, as it was sent: methods are case-sensitive (RFC 9110, 9.1).
    pub method: &'a str,
    /// The request target: a path with an optional query, or an absolute URL
    /// (RFC 9112, 3.2).
    pub target: &'a str,
    /// The header fields, as they were sent.
    pub fields: &'a [(&'a str, &'a str)],
    /// The length of the body in bytes, if the head tells it; 0 without a body.
    pub body_bytes: Option<u64>,
}

/// A call that was found to be in order and waits for its body.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation(Kind);

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Read a value.
    Read(Key, Reading),
    /// Write one.
    Write(Key, Writing),
    /// Delete every value.
    Clear,
    /// Say that the store is up.
    Health,
    /// Tell how to use the store, to one who calls it so.
    Manual(Option<Box<str>>),
    /// Say which methods there are.
    Options(&'static str),
}

/// A call after a try: answered, or to be submitted.
pub enum Tried {
    /// It was done, or has failed.
    Replied(Reply),
    /// Memory alone cannot do it.
    Pending(Pending),
}

/// A call whose storage operation cannot be done at once.
pub struct Pending {
    op: Op,
    answer: Answer,
}

/// The API over one storage.
#[derive(Clone)]
pub struct Api {
    storage: Arc<dyn Storage>,
    value_bytes_max: u64,
    hosts: Hosts,
}

impl Api {
    /// An API that stores in `storage` values of up to `value_bytes_max` bytes.
    pub fn new(storage: Arc<dyn Storage>, value_bytes_max: u64) -> Self {
        Self { storage, value_bytes_max, hosts: Hosts::any() }
    }

    /// The same that only takes calls which name one of these hosts.
    #[must_use]
    pub fn with_hosts(self, hosts: Hosts) -> Self {
        Self { hosts, ..self }
    }

    /// The longest body that a call may have, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// How many bytes more may be stored, if that is limited. Never blocks.
    pub fn room(&self) -> Option<u64> {
        self.storage.room()
    }

    /// Checks all that the head of a call tells. Never blocks.
    pub fn admit(&self, call: &Call<'_>) -> Result<Operation, Reply> {
        let (target, fields) = (Target::parse(call.target), Fields(call.fields));
        self.hosts.check(fields)?;
        let resource = target.resource()?;
        let kind = resource.kind(call.method, target, fields)?;
        if let Some(bytes) = call.body_bytes {
            if bytes > self.value_bytes_max {
                return Err(Refusal::ValueTooLarge.into());
            }
            if let Kind::Write(_, writing) = &kind {
                writing.check_body(bytes)?;
            }
        }
        Ok(Operation(kind))
    }

    /// Performs `operation` with the whole body of its call, which only a write
    /// looks at, if memory alone can. Never blocks, but reads all of the body.
    pub fn try_now(&self, operation: Operation, body: Bytes) -> Tried {
        let (op, answer) = match self.plan(operation, body) {
            Plan::Reply(reply) => return Tried::Replied(reply),
            Plan::Op(op, answer) => (op, answer),
        };
        match self.storage.try_now(op) {
            Ok(outcome) => Tried::Replied(answer.reply(outcome)),
            Err(op) => Tried::Pending(Pending { op, answer }),
        }
    }

    /// Has the storage perform a call, and calls `done` once with the reply, on
    /// this thread or on another. Never blocks.
    pub fn submit(&self, pending: Pending, done: impl FnOnce(Reply) + Send + 'static) {
        let Pending { op, answer } = pending;
        self.storage.submit(op, Box::new(|outcome| done(answer.reply(outcome))));
    }

    /// Performs `operation` with the whole body of its call. Blocks as long as the
    /// storage does.
    fn perform(&self, operation: Operation, body: Bytes) -> Reply {
        match self.plan(operation, body) {
            Plan::Reply(reply) => reply,
            Plan::Op(op, answer) => answer.reply(self.storage.perform(op)),
        }
    }

    /// The storage operation of a call, or its reply where it needs none.
    fn plan(&self, Operation(kind): Operation, body: Bytes) -> Plan {
        match kind {
            Kind::Read(key, reading) => Plan::Op(Op::Get(key), Answer::Read(reading)),
            Kind::Write(key, writing) => match self.plan_write(key, writing, body) {
                Ok((op, answer)) => Plan::Op(op, answer),
                Err(refusal) => Plan::Reply(refusal.into()),
            },
            Kind::Clear => Plan::Op(Op::Clear, Answer::Ready(Reply::empty())),
            Kind::Health => Plan::Reply(match self.storage.check() {
                Ok(()) => Reply::text("ok\n"),
                Err(err) => failed(&err),
            }),
            Kind::Manual(host) => Plan::Reply(Reply::text(manual::text(host.as_deref()))),
            Kind::Options(allow) => Plan::Reply(Reply::options(allow)),
        }
    }

    fn plan_write(&self, key: Key, writing: Writing, body: Bytes) -> Result<(Op, Answer), Refusal> {
        writing.check_body(body.len() as u64)?;
        writing.check_content(&body)?;
        if let Some(entry) = writing.plain_entry(&body) {
            let reply = Reply::empty().with_validators(&entry);
            return Ok((Op::Set(key, entry), Answer::Ready(reply)));
        }
        if writing.is_plain_delete() {
            return Ok((Op::Delete(key), Answer::Ready(Reply::empty())));
        }
        let (writing, bytes_max) = (Arc::new(writing), self.value_bytes_max);
        let change = writing.change(body.clone(), bytes_max);
        let key_created = writing.may_create().then(|| key.clone());
        let answer = Answer::Derived { writing, body, bytes_max, key_created };
        Ok((Op::Update(key, change), answer))
    }

    /// The whole of it: admits the call and performs it with `body`.
    pub fn answer(&self, call: &Call<'_>, body: Bytes) -> Reply {
        match self.admit(call) {
            Ok(_) if body.len() as u64 > self.value_bytes_max => Refusal::ValueTooLarge.into(),
            Ok(operation) => self.perform(operation, body),
            Err(reply) => reply,
        }
    }
}

/// What is to be done for a call.
enum Plan {
    Reply(Reply),
    Op(Op, Answer),
}

/// How an operation is answered that the storage has done.
enum Answer {
    /// With this, whatever was there.
    Ready(Reply),
    /// With what was found.
    Read(Reading),
    /// As what was there says.
    Derived {
        writing: Arc<Writing>,
        body: Bytes,
        bytes_max: u64,
        /// The key, if the write may be said to have created it.
        key_created: Option<Key>,
    },
}

impl Answer {
    fn reply(self, outcome: Outcome) -> Reply {
        let effect = match outcome {
            Ok(effect) => effect,
            Err(err) => return failed(&err),
        };
        match (self, effect) {
            (Self::Ready(reply), _) => reply,
            (Self::Read(reading), Effect::Found(entry)) => reading.reply(entry.as_ref()),
            (Self::Derived { writing, body, bytes_max, key_created }, Effect::Updated(updated)) => {
                let reply = writing.reply(&body, bytes_max, &updated);
                match key_created {
                    Some(key) if reply.status() == 201 => {
                        reply.with_header("Location", target::path_of(&key))
                    }
                    Some(_) | None => reply,
                }
            }
            (Self::Read(_) | Self::Derived { .. }, _) => {
                unreachable!("the effect is the operation's")
            }
        }
    }
}

impl Resource {
    /// What a method means here.
    fn kind(self, method: &str, target: Target<'_>, fields: Fields<'_>) -> Result<Kind, Reply> {
        let query = target.query();
        let allow = self.allow();
        match (self, method) {
            // It is a method of what the query names, not of the key alone.
            (Self::Value(key), "POST") if query::is_for_post(query) => {
                if is_cross_site(fields, target.authority(fields)) {
                    return Err(Refusal::AnotherSite.into());
                }
                Ok(Kind::Write(key, Writing::post(Query::parse(query)?, fields)?))
            }
            (Self::Value(key), "PUT") => {
                Ok(Kind::Write(key, Writing::put(Query::parse(query)?, fields)?))
            }
            (Self::Value(key), "DELETE") => {
                Ok(Kind::Write(key, Writing::delete(Query::parse(query)?, fields)?))
            }
            (Self::Value(key), "GET" | "HEAD") => {
                query::check_read(query)?;
                Ok(Kind::Read(key, Reading::of(fields, method == "GET")?))
            }
            (Self::Value(_), "OPTIONS") => {
                query::check_read(query)?;
                Ok(Kind::Options(allow))
            }
            (Self::Clear, "DELETE") => {
                query::check_none(query)?;
                Ok(Kind::Clear)
            }
            (Self::Clear, "OPTIONS") => {
                query::check_none(query)?;
                Ok(Kind::Options(allow))
            }
            (Self::Health, "GET" | "HEAD") => Ok(Kind::Health),
            (Self::Manual, "GET" | "HEAD") => {
                Ok(Kind::Manual(target.authority(fields).map(Into::into)))
            }
            (Self::Health | Self::Manual | Self::Server, "OPTIONS") => Ok(Kind::Options(allow)),
            // Of no other method it is a target (RFC 9112, 3.2.4).
            (Self::Server, _) => Err(Refusal::TargetMalformed.into()),
            (_, _) => Err(Refusal::MethodNotAllowed.reply().with_header("Allow", allow)),
        }
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Value(_) | Self::Server => "GET, HEAD, PUT, POST, DELETE, OPTIONS",
            Self::Clear => "DELETE, OPTIONS",
            Self::Health | Self::Manual => "GET, HEAD, OPTIONS",
        }
    }
}

fn failed(err: &storage::Error) -> Reply {
    match err {
        storage::Error::Full => Refusal::StorageFull.into(),
        storage::Error::Unavailable(Outage::DiskFull) => Refusal::DiskFull.into(),
        storage::Error::Unavailable(Outage::DiskFailed) => Refusal::DiskFailed.into(),
        storage::Error::Unavailable(Outage::DirectoryLost) => Refusal::DirectoryLost.into(),
        storage::Error::Unavailable(Outage::Closed) => Refusal::StorageClosed.into(),
        storage::Error::Overloaded => Refusal::Overloaded.into(),
        storage::Error::Internal(_) => Refusal::ValueUnreadable.into(),
    }
}

impl From<query::Fault> for Reply {
    fn from(fault: query::Fault) -> Self {
        Refusal::from(fault).into()
    }
}

#[cfg(test)]
mod tests;
