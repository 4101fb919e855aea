//! The operations: one file each, with the parse of its head, its operation on
//! the storage and its reply.
//!
//! Only the table of routes knows their paths and methods.

#![allow(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "every parse has the one signature of the table"
)]

pub mod clear;
pub mod health;
pub mod manual;
pub mod options;
pub mod read;
mod update;
pub mod write;

use super::fields::Fields;
use super::target::Target;
use super::{Refusal, Reply};
use crate::storage::{Effect, Key, Op, Outcome, Storage};
use read::Read;
use std::sync::Arc;
use update::Update;
use write::Write;

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
}

/// A call whose head is in order.
pub enum Operation {
    /// A reply at once.
    Reply(Reply),
    /// A reply from the state of the storage. Never blocks.
    Inspect(fn(&dyn Storage) -> Reply),
    /// A read of a key.
    Read(Key, Read),
    /// A write of a key, which needs its body first.
    Write(Write),
    /// Any other operation on the storage. Boxed, so that reads and writes, which
    /// are moved several times, stay small.
    Pending(Box<Pending>),
}

/// A call to be done on the storage.
pub struct Pending {
    /// The operation.
    pub op: Op,
    /// The reply to come.
    pub answer: Answer,
}

/// The way from the effect of a storage operation to the reply.
pub enum Answer {
    /// The same for every effect.
    Reply(Reply),
    /// For [`Op::Get`].
    Read(Read),
    /// For [`Op::Update`].
    Update(Arc<Update>),
}

impl Routed<'_> {
    /// The key in the path. Only a path with a key has an operation on one.
    pub fn into_key(self) -> Key {
        self.key.expect("the path has a key")
    }
}

impl Answer {
    /// The reply to the call, from the outcome of its operation.
    pub fn reply(self, outcome: Outcome) -> Reply {
        match (self, outcome) {
            (_, Err(err)) => Refusal::from(&err).into(),
            (Self::Reply(reply), Ok(_)) => reply,
            (Self::Read(read), Ok(Effect::Found(entry))) => read.reply(entry.as_ref()),
            (Self::Update(update), Ok(Effect::Updated(updated))) => update.reply(&updated),
            (Self::Read(_) | Self::Update(_), Ok(_)) => {
                unreachable!("each operation has its own effect")
            }
        }
    }
}
