//! The meaning of requests: a [`Call`] and its body go in, a [`Reply`] comes out.
//!
//! Nothing here opens a socket or starts a thread, so every rule of the API is
//! tested by calling one function. The server takes three steps: [`Api::admit`]
//! before the body, so that a refused call never waits for it, [`Api::try_now`]
//! with the body, and [`Api::submit`] if the storage needs time.
//!
//! The checks come in one order, and the first to fail is told: host 403,
//! target 400, path 404, key 400, method 405, cross-site 403, query 400, header
//! fields 400 or 415, length 413, empty value 400, content 400, preconditions
//! 412, storage.
//!
//! # To add an operation
//!
//! 1. Write `operations/NAME.rs`, a module of `operations`, with its `parse`: from
//!    the head of a call, query first and then header fields, to an `Operation`:
//!    a reply at once, one from the state of the storage, or a `Pending`, which
//!    is an operation on the storage and an `Answer` that makes a reply of its
//!    effect. Reads, and writes, which need their body first, have their own form.
//! 2. Give it a row in `routes.rs`, or a method in a row. `Allow`, `OPTIONS *` and
//!    the text of 404 follow.
//! 3. Use the vocabulary: `query`, `etag`, `range`, `ttl`, `digests` and
//!    `media_type` parse, `Reply` has the forms of replies. A new parameter of
//!    `/kv/{key}` belongs to `query`, so that reads refuse it.
//! 4. Give each new refusal a row in `refusal.rs`.
//! 5. Only if the storage has no operation for it: add to `storage::Op` and
//!    `Effect`, and to `Answer` here.
//! 6. Show it in a transcript under `tests/transcripts`, and in the README.

mod access;
mod cross_site;
mod digests;
mod etag;
mod fields;
pub(crate) mod grammar;
mod media_type;
mod operations;
mod query;
mod range;
mod refusal;
mod reply;
mod routes;
mod target;
mod ttl;

use crate::storage::{Op, Storage};
pub use access::{HostName, Hosts, InvalidHostName};
use bytes::Bytes;
use fields::Fields;
use operations::Answer;
pub use operations::{Operation, Pending};
pub use refusal::Refusal;
pub use reply::Reply;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use target::Target;

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The method, as sent: methods are case-sensitive (RFC 9110, 9.1).
    pub method: &'a str,
    /// The request target: a path with an optional query, or an absolute URL
    /// (RFC 9112, 3.2).
    pub target: &'a str,
    /// The header fields, as sent.
    pub fields: &'a [(&'a str, &'a str)],
    /// The length of the body in bytes, 0 without one; `None` if chunked.
    pub body_bytes: Option<u64>,
}

/// A call after a try: answered, or to be submitted.
pub enum Tried {
    /// It was done, or has failed.
    Replied(Reply),
    /// Memory alone cannot do it.
    Pending(Pending),
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

    /// The same for calls that name one of these hosts; any other is refused.
    #[must_use]
    pub fn with_hosts(self, hosts: Hosts) -> Self {
        Self { hosts, ..self }
    }

    /// The longest body that a call may have, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// The bytes left for values, if that is limited. Never blocks.
    pub fn room(&self) -> Option<u64> {
        self.storage.room()
    }

    /// Checks the head of a call. Never blocks.
    pub fn admit(&self, call: &Call<'_>) -> Result<Operation, Reply> {
        let (target, fields) = (Target::parse(call.target), Fields(call.fields));
        self.hosts.check(fields)?;
        let operation = routes::parse(call.method, target, fields)?;
        if let Some(bytes) = call.body_bytes {
            if bytes > self.value_bytes_max {
                return Err(Refusal::ValueTooLarge.into());
            }
            if let Operation::Write(write) = &operation {
                write.verb.check_length(bytes)?;
            }
        }
        Ok(operation)
    }

    /// Performs `operation` with the whole body of its call, which only a write
    /// looks at, if memory alone can. Never blocks, but reads all of the body.
    pub fn try_now(&self, operation: Operation, body: Bytes) -> Tried {
        let Pending { op, answer } = match self.plan(operation, body) {
            Ok(pending) => pending,
            Err(reply) => return Tried::Replied(reply),
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
        let done = |outcome| {
            let reply = panic::catch_unwind(AssertUnwindSafe(|| answer.reply(outcome)));
            done(reply.unwrap_or_else(|_panic| Refusal::Panicked.into()));
        };
        self.storage.submit(op, Box::new(done));
    }

    /// The operation on the storage, or the reply where there is none.
    fn plan(&self, operation: Operation, body: Bytes) -> Result<Pending, Reply> {
        match operation {
            Operation::Reply(reply) => Err(reply),
            Operation::Inspect(inspect) => Err(inspect(&*self.storage)),
            Operation::Read(key, read) => {
                Ok(Pending { op: Op::Get(key), answer: Answer::Read(read) })
            }
            Operation::Write(write) => Ok(write.plan(body, self.value_bytes_max)?),
            Operation::Pending(pending) => Ok(*pending),
        }
    }
}

#[cfg(test)]
mod tests;
