//! What a request means: routes, validation and statuses.
//!
//! Nothing here opens a socket or starts a thread, so every rule of the API
//! is tested by calling one function: a [`Call`] and its body go in, a
//! [`Reply`] comes out. Whoever moves the bytes works in two steps instead,
//! [`Api::admit`] before the body and [`Api::perform`] after it, so that a
//! call which is refused never waits for its body.
//!
//! The checks come in one order, whatever else is wrong with a call: path
//! 404, key 400, method 405, query 400, length 413, empty value 400, storage.

mod refusal;
mod reply;
mod target;

use crate::storage::{self, Entry, Key, Outage, Storage, Write};
use bytes::Bytes;
use std::sync::Arc;

pub use refusal::Refusal;
pub use reply::Reply;
use target::{Resource, Target};

/// The head of a request, as far as its meaning depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The method, as it was sent: methods are case-sensitive (RFC 9110, 9.1).
    pub method: &'a str,
    /// The request target: a path with an optional query, or an absolute URL
    /// (RFC 9112, 3.2).
    pub target: &'a str,
    /// The length of the body in bytes, if the head tells it; 0 without a body.
    pub body_bytes: Option<u64>,
}

/// A call that was found to be in order and waits for its body.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read a value.
    Get(Key),
    /// Store the body as a value.
    Set(Key),
    /// Delete a value.
    Delete(Key),
    /// Delete every value.
    Clear,
    /// Say that the store is up.
    Health,
}

/// What performing an operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nobody.
    Ready,
    /// The storage, until it has committed a write.
    Commit,
    /// The storage, in proportion to what is stored.
    Long,
}

/// The API over one storage.
#[derive(Clone)]
pub struct Api {
    storage: Arc<dyn Storage>,
    value_bytes_max: u64,
}

impl Api {
    /// An API that stores in `storage` values of up to `value_bytes_max` bytes.
    pub fn new(storage: Arc<dyn Storage>, value_bytes_max: u64) -> Self {
        Self { storage, value_bytes_max }
    }

    /// The longest body that a call may have, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Checks all that the head of a call tells. Never blocks.
    pub fn admit(&self, call: &Call<'_>) -> Result<Operation, Reply> {
        let target = Target::parse(call.target);
        let resource = target.resource()?;
        let operation = resource.operation(call.method)?;
        if target.has_parameters() {
            return Err(Refusal::QueryUnknown.into());
        }
        if call.body_bytes.is_some_and(|bytes| bytes > self.value_bytes_max) {
            return Err(Refusal::ValueTooLarge.into());
        }
        Ok(operation)
    }

    /// What performing `operation` waits for, beside its body.
    pub fn pace(&self, operation: &Operation) -> Pace {
        match operation {
            Operation::Set(_) | Operation::Delete(_) if self.storage.writes_wait() => Pace::Commit,
            Operation::Get(_) | Operation::Set(_) | Operation::Delete(_) | Operation::Health => {
                Pace::Ready
            }
            Operation::Clear => Pace::Long,
        }
    }

    /// Performs `operation` with the whole body of its call, which only a
    /// write looks at. Blocks as long as the storage does.
    pub fn perform(&self, operation: Operation, body: Bytes) -> Reply {
        match operation {
            Operation::Get(key) => match self.storage.get(&key) {
                Ok(Some(entry)) => Reply::value(&entry),
                Ok(None) => Refusal::KeyNotFound.into(),
                Err(err) => failed(&err),
            },
            Operation::Set(_) if body.is_empty() => Refusal::ValueEmpty.into(),
            Operation::Set(key) => answer_to(self.storage.set(key, Entry::new(body))),
            Operation::Delete(key) => answer_to(self.storage.delete(&key)),
            Operation::Clear => answer_to(self.storage.clear()),
            Operation::Health => match self.storage.check() {
                Ok(()) => Reply::text("ok\n"),
                Err(err) => failed(&err),
            },
        }
    }

    /// Begins to perform a write, and calls `done` once it is committed, on
    /// this thread or on another. Performs any other operation at once.
    pub fn begin(
        &self,
        operation: Operation,
        body: Bytes,
        done: impl FnOnce(Reply) + Send + 'static,
    ) {
        let write = match operation {
            Operation::Set(key) if !body.is_empty() => Write::Set(key, Entry::new(body)),
            Operation::Delete(key) => Write::Delete(key),
            other @ (Operation::Get(_)
            | Operation::Set(_)
            | Operation::Clear
            | Operation::Health) => return done(self.perform(other, body)),
        };
        self.storage.begin(write, Box::new(|outcome| done(answer_to(outcome))));
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

impl Resource {
    fn operation(self, method: &str) -> Result<Operation, Reply> {
        let allow = self.allow();
        match (self, method) {
            (Self::Value(key), "GET" | "HEAD") => Ok(Operation::Get(key)),
            (Self::Value(key), "PUT") => Ok(Operation::Set(key)),
            (Self::Value(key), "DELETE") => Ok(Operation::Delete(key)),
            (Self::Clear, "DELETE") => Ok(Operation::Clear),
            (Self::Health, "GET" | "HEAD") => Ok(Operation::Health),
            (_, _) => Err(Reply::from(Refusal::MethodNotAllowed).with_header("Allow", allow)),
        }
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Value(_) => "GET, HEAD, PUT, DELETE",
            Self::Clear => "DELETE",
            Self::Health => "GET, HEAD",
        }
    }
}

fn answer_to(outcome: Result<(), storage::Error>) -> Reply {
    match outcome {
        Ok(()) => Reply::empty(),
        Err(err) => failed(&err),
    }
}

fn failed(err: &storage::Error) -> Reply {
    match err {
        storage::Error::Full => Refusal::StorageFull.into(),
        storage::Error::Unavailable(Outage::DiskFull) => Refusal::DiskFull.into(),
        storage::Error::Unavailable(Outage::DiskFailed) => Refusal::DiskFailed.into(),
        storage::Error::Unavailable(Outage::Closed) => Refusal::StorageClosed.into(),
        storage::Error::Internal(_) => Refusal::ValueUnreadable.into(),
    }
}

#[cfg(test)]
mod tests;
