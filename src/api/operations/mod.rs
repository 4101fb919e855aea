//! The operations: one file each, with the parse of its head, its operation on
//! the storage and its reply.
//!
//! Only the table of routes knows their paths and methods.

#![allow(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "every parse has the one signature of the table"
)]

pub mod add;
pub mod artifacts;
pub mod batch;
pub mod clear;
pub mod health;
pub mod import;
pub mod list;
pub mod manual;
pub mod metrics;
pub mod openapi;
pub mod options;
pub mod read;
pub mod remove;
pub mod take;
mod update;
pub mod wait;
pub mod watch;
pub mod write;

use super::access::{Caller, Right};
use super::digests::Digests;
use super::etag::Conditions;
use super::fields::Fields;
use super::target::Target;
use super::{Api, Refusal, Reply, Step, query};
use crate::storage::{self, Effect, Key, Op, Outcome};
use bytes::Bytes;
use import::Import;
use read::Read;
use std::sync::Arc;
use update::Update;
use wait::Wait;
use watch::Watch;
use write::{Stored, Write};

/// The parse of a head into an operation.
pub type Parse = fn(Routed<'_>) -> Result<Operation, Refusal>;

/// The head of a call on a path that has its method.
pub struct Routed<'a> {
    pub method: &'a str,
    /// All methods of the path.
    pub methods: &'static [(&'static str, Parse)],
    /// The key in the path.
    pub key: Option<Key>,
    pub target: Target<'a>,
    pub fields: Fields<'a>,
    /// The caller, with its rights.
    pub caller: &'a Caller,
}

/// The way from the body of a call to its operation on the storage.
pub type BodyPlan = Box<dyn FnOnce(&Api, Bytes) -> Result<Pending, Reply> + Send>;

/// A call whose head is in order.
pub enum Operation {
    /// A reply at once.
    Reply(Reply),
    /// A reply from the state of the store. Never blocks.
    Inspect(fn(&Api) -> Reply),
    /// A reply from the state of all parts of the program, which takes its time. Never
    /// blocks.
    Survey(fn(&Api) -> Reply),
    /// A read of a key.
    Read(Key, Read),
    /// A write of a key, which needs its body first.
    Write(Write),
    /// A write of an artifact.
    Artifact(Box<Write>),
    /// A call without a body that waits.
    Wait(Box<(Look, Wait)>),
    /// Any other operation that needs its body first.
    Body(BodyPlan),
    /// Any other operation on the storage. Boxed, so that reads and writes, which
    /// are moved several times, stay small.
    Pending(Box<Pending>),
    /// A watch of changes.
    Watch(Box<Watch>),
    /// An import, which takes its body as it comes.
    Import(Import),
}

/// A call to be done on the storage.
pub struct Pending {
    /// The operation.
    pub op: Op,
    /// The reply to come.
    pub answer: Answer,
}

impl Pending {
    /// The same with this reply to a failure.
    #[must_use]
    pub fn failing(self, reply: impl FnOnce(&storage::Error) -> Reply + Send + 'static) -> Self {
        let Self { op, answer } = self;
        let either = move |outcome: Outcome| match outcome {
            Ok(effect) => answer.step(Ok(effect)),
            Err(err) => Step::Reply(reply(&err)),
        };
        Self { op, answer: Answer::Either(Box::new(either)) }
    }
}

/// A call that can be looked at again and again, for it waits.
pub enum Look {
    /// A read of a key.
    Read(Key, Read),
    /// A write of a key with a condition, or one that takes it.
    Update(Key, Arc<Update>),
    /// The taking of the first key with a prefix.
    First(Box<str>, Arc<Update>),
}

/// The way from the effect of a storage operation to the reply.
pub enum Answer {
    /// The same for every effect.
    Reply(Reply),
    /// For [`Op::Set`].
    Stored(Stored),
    /// For [`Op::Get`].
    Read(Read),
    /// For [`Op::Update`].
    Update(Arc<Update>),
    /// For an operation whose call may need others, one after the other.
    Then(Box<dyn FnOnce(Effect) -> Step + Send>),
    /// For one whose failure has a reply of its own.
    Either(Box<dyn FnOnce(Outcome) -> Step + Send>),
}

impl Operation {
    /// Returns true if its reply has no end of its own.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Watch(watch) if watch.is_stream())
    }

    /// Returns true if its reply tells of a position in the history.
    pub fn is_of_collection(&self) -> bool {
        match self {
            // The head of a list.
            Self::Reply(reply) => reply.has_rest(),
            Self::Wait(call) => matches!(call.0, Look::First(..)),
            Self::Pending(pending) => !matches!(pending.op, Op::Clear | Op::Get(_)),
            Self::Body(_) | Self::Watch(_) | Self::Import(_) => true,
            Self::Inspect(_)
            | Self::Survey(_)
            | Self::Read(..)
            | Self::Write(_)
            | Self::Artifact(_) => false,
        }
    }

    /// Checks the length of the body, where a value may have so many bytes.
    // Inlined, it has the compiler take an operation apart and move it byte by byte.
    #[inline(never)]
    pub fn check_length(&self, bytes: u64, value_bytes_max: u64) -> Result<(), Refusal> {
        match self {
            // It comes in pieces, and has any length.
            Self::Import(_) => Ok(()),
            _ if bytes > value_bytes_max => Err(Refusal::ValueTooLarge),
            Self::Write(write) => write.check_length(bytes),
            Self::Artifact(write) => write.check_length(bytes),
            Self::Reply(_)
            | Self::Inspect(_)
            | Self::Survey(_)
            | Self::Read(..)
            | Self::Wait(_)
            | Self::Body(_)
            | Self::Pending(_)
            | Self::Watch(_) => Ok(()),
        }
    }

    /// Returns true if its reply takes its time.
    pub fn is_survey(&self) -> bool {
        matches!(self, Self::Survey(_))
    }

    /// Returns true if its body may be many operations.
    pub fn is_batch(&self) -> bool {
        matches!(self, Self::Body(_))
    }
}

impl Routed<'_> {
    /// Fails unless the caller may do this with the key in the path.
    pub fn check_key(&self, right: Right) -> Result<(), Refusal> {
        let key = self.key.as_ref().map_or("", Key::as_str);
        self.caller.rights.check_key(right, key)
    }

    /// The key in the path. Only a path with a key has an operation on one.
    pub fn into_key(self) -> Key {
        self.key.expect("the path has a key")
    }

    /// Checks the head of a call whose body is about many keys: it has no query, and no
    /// conditions, which each line may have. Gives the digests of the body.
    pub fn check_many(&self) -> Result<Option<Box<Digests>>, Refusal> {
        let Self { target, fields, caller, .. } = *self;
        caller.check_site(target, fields)?;
        query::check_none(target.query)?;
        Conditions::check_none(fields)?;
        Digests::of_content(fields)
    }
}

impl Answer {
    /// The next step of the call, from the outcome of its operation.
    pub fn step(self, outcome: Outcome) -> Step {
        Step::Reply(match (self, outcome) {
            (Self::Either(either), outcome) => return either(outcome),
            (_, Err(err)) => Refusal::from(&err).into(),
            (Self::Reply(reply), Ok(_)) => reply,
            (Self::Stored(stored), Ok(_)) => stored.reply(),
            (Self::Read(read), Ok(Effect::Found(entry))) => read.reply(entry.as_ref()),
            (Self::Update(update), Ok(Effect::Updated(updated))) => update.reply(&updated),
            (Self::Then(then), Ok(effect)) => return then(effect),
            (Self::Read(_) | Self::Update(_), Ok(_)) => {
                unreachable!("each operation has its own effect")
            }
        })
    }
}
