//! The meaning of requests: a [`Call`] and its body go in, a [`Reply`] comes out.
//!
//! Nothing here opens a socket or starts a thread, so every rule of the API is
//! tested by calling one function. The server takes three steps: [`Api::admit`]
//! before the body, so that a refused call never waits for it, [`Api::try_now`]
//! with the body, and [`Api::submit`] if the storage needs time. A reply may come
//! in parts; the server asks for the next with [`Api::go_on`] once one was written.
//! An import takes its body in parts instead: [`Api::import`] asks an [`Upload`] for them.
//!
//! The checks come in one order, and the first to fail is told: host 403, token 400 or
//! 401, target 400, path 404, key 400, method 405, right 403, cross-site 403, query 400,
//! header fields 400 or 415, length 413, empty value 400, content 400, preconditions 412,
//! storage. The right to a prefix in the query comes behind the query.
//!
//! # To add an operation
//!
//! 1. Write `operations/NAME.rs`, a module of `operations`, with its `parse`: from
//!    the head of a call, the caller's rights first, then the query and the header
//!    fields, to an `Operation`: a reply at once, one from the state of the storage, or a
//!    `Pending`, which is an operation on the storage and an `Answer` that makes a reply
//!    of its effect. Reads, and writes, which need their body first, have their own form.
//!    Each operation of the storage is bounded. A call on many keys is a chain of
//!    them: an `Answer::Then` that takes the next step, or a reply with a `Rest` where
//!    the body need not be in memory as a whole (see `list` and `remove`).
//! 2. Give it a row in `routes.rs`, or a method in a row, and describe it in
//!    `openapi.json`. `Allow`, `OPTIONS *` and the text of 404 follow.
//! 3. Use the vocabulary: `query`, `etag`, `range`, `ttl`, `digests`, `media_type` and
//!    `members` parse, `Reply` and `lines` have the forms of replies. A new parameter of
//!    `/kv/{key}` belongs to `query`, so that reads refuse it, and one of `/kv` to
//!    `collection`.
//! 4. Give each new refusal a row in `refusal.rs` and its text in `openapi.json`, and each
//!    new header field a place in the lists of `access/origins.rs`, or pages of other
//!    origins cannot use it.
//! 5. Only if the storage has no operation for it: add to `storage::Op` and
//!    `Effect`, and to `Answer` here.
//! 6. Show it in a transcript under `tests/transcripts`, and in the README.

mod accept;
mod access;
mod allowance;
mod collection;
mod console;
mod cross_site;
mod digests;
mod entries;
mod error_form;
mod etag;
mod fields;
pub(crate) mod grammar;
mod lines;
mod media_type;
mod members;
mod operations;
mod query;
mod range;
mod refusal;
mod reply;
mod revision;
mod routes;
mod tar;
mod target;
mod ttl;

use crate::metrics::Metrics;
use crate::storage::{Op, Storage, Wanted};
pub use access::{
    Access, Cors, HostName, Hosts, InvalidHostName, InvalidOrigin, InvalidToken, InvalidTokens,
    Origin, Origins, TokenSet, Tokens,
};
use bytes::Bytes;
pub use error_form::ErrorForm;
use fields::Fields;
pub use operations::import::{Import, Upload};
use operations::wait::{Wait, WaitingCall};
use operations::{Answer, Look, artifacts};
pub use operations::{Operation, Pending};
pub use refusal::Refusal;
pub use reply::{Reply, Rest};
pub use routes::RouteId;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The next step of a call.
pub enum Step {
    /// The reply: it was done, or has failed.
    Reply(Reply),
    /// An operation on the storage, which memory alone cannot do, or which is not the
    /// first.
    Pending(Pending),
    /// It waits: for its condition to hold, or for changes to tell of.
    Wait(Arc<dyn Waiting>),
}

/// The completion of a call, or of a part of its reply.
pub type Replied = Box<dyn FnOnce(Reply) + Send>;

/// Something that waits for the storage to change.
pub trait Waiting: Send + Sync {
    /// Waits, and calls `done` once with the reply, on this thread or on another. Never
    /// blocks.
    fn begin(self: Arc<Self>, storage: Arc<dyn Storage>, done: Replied);

    /// Ends the wait: its time is over. May be called at any time, from any thread.
    fn end(&self);
}

/// The API over one storage.
#[derive(Clone)]
pub struct Api {
    storage: Arc<dyn Storage>,
    value_bytes_max: u64,
    access: Access,
    metrics: Arc<Metrics>,
    /// Set once: the server stops.
    is_draining: Arc<AtomicBool>,
}

/// The API's decision on the head of a call, and what the reply depends on beside it.
pub struct Admission {
    /// The operation, or the reply in its place.
    pub decision: Result<Operation, Reply>,
    /// The path, by its place in the table of routes.
    pub route: RouteId,
    /// The fields of the reply for a browser (CORS), where some origins are allowed.
    pub cors: Option<Box<Cors>>,
    /// The number of the set of tokens that the caller was let in by, or of an earlier one.
    pub tokens: u64,
    /// The form of the reply if it is an error.
    pub error_form: ErrorForm,
}

impl Api {
    /// An API that stores in `storage` values of up to `value_bytes_max` bytes.
    pub fn new(storage: Arc<dyn Storage>, value_bytes_max: u64) -> Self {
        let metrics = Arc::new(Metrics::new(RouteId::labels()));
        let (access, is_draining) = (Access::default(), Arc::default());
        Self { storage, value_bytes_max, access, metrics, is_draining }
    }

    /// The same with this access control.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// The counters of its calls, and all sources of metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Tells it that the server stops: it is not ready for more calls from then on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    /// Returns true once the server stops.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// The longest body that a call may have, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// The bytes that values on their way may take, if that is limited. Waits for nobody.
    pub fn room(&self, wanted: Wanted) -> Option<u64> {
        self.storage.room(wanted)
    }

    /// Returns true while the storage gains by operations that come together. Never blocks.
    pub fn gathers(&self) -> bool {
        self.storage.gathers()
    }

    /// Checks the head of a call. Never blocks.
    pub fn admit(&self, call: &Call<'_>) -> Admission {
        let (target, fields) = (Target::parse(call.target), Fields(call.fields));
        let tokens = self.access.tokens_number();
        let cors = self.access.origins.cors(call.method, fields);
        let found = routes::find(target.path);
        let decide = || {
            let token_use = || found.token_use(call.method, target.query);
            let caller = self.access.admit(fields, token_use, cors.as_deref())?;
            caller.check_length(call.body_bytes)?;
            let operation = if cors.as_deref().is_some_and(Cors::is_preflight) {
                found.options()
            } else {
                routes::parse(call.method, &found, target, fields, &caller)?
            };
            if let Some(bytes) = call.body_bytes {
                operation.check_length(bytes, self.value_bytes_max)?;
            }
            Ok(operation)
        };
        let error_form = ErrorForm::parse(fields);
        Admission { decision: decide(), route: found.id(), cors, tokens, error_form }
    }

    /// Returns true if the tokens are those of an admission. One that was overtaken by
    /// others before its operation began is to be asked for again.
    pub fn has_tokens(&self, number: u64) -> bool {
        self.access.tokens_number() == number
    }

    /// Performs `operation` with the whole body of its call, which only a write
    /// looks at, if memory alone can. Never blocks, but reads all of the body.
    pub fn try_now(&self, operation: Operation, body: Bytes) -> Step {
        let is_of_collection = operation.is_of_collection();
        let since = is_of_collection.then(|| revision::before(&*self.storage)).flatten();
        let step = match self.plan(operation, body) {
            Ok(Step::Pending(pending)) => self.try_step(pending),
            Ok(step) => step,
            Err(reply) => Step::Reply(reply),
        };
        match since {
            Some(revision) => step.since(revision),
            None => step,
        }
    }

    /// Takes the next step of a call if memory alone can. Never blocks.
    pub fn try_step(&self, Pending { op, answer }: Pending) -> Step {
        match self.storage.try_now(op) {
            Ok(outcome) => answer.step(outcome),
            Err(op) => Step::Pending(Pending { op, answer }),
        }
    }

    /// Has the storage perform a call, step by step, and calls `done` once with the
    /// reply, on this thread or on another. Never blocks.
    pub fn submit(&self, pending: Pending, done: impl FnOnce(Reply) + Send + 'static) {
        submit(&self.storage, pending, done);
    }

    /// Has a call wait until its condition holds, and calls `done` once with the reply,
    /// on this thread or on another. Never blocks.
    pub fn wait(&self, waiting: Arc<dyn Waiting>, done: impl FnOnce(Reply) + Send + 'static) {
        waiting.begin(Arc::clone(&self.storage), Box::new(done));
    }

    /// The step to the next part of a reply in parts: a reply of which only the body
    /// counts, and the rest. One that is no success breaks the reply off. Never blocks,
    /// but may encode as much as one part has.
    pub fn go_on(&self, rest: Rest) -> Step {
        catch(|| rest.step())
    }

    /// Imports what comes with an upload, in pieces, and gives the reply. Blocks until all
    /// has come and was stored, or until something is refused.
    pub fn import(&self, import: Import, upload: &mut dyn Upload) -> Reply {
        let since = revision::before(&*self.storage);
        let reply = import.run(self.value_bytes_max, upload);
        match since {
            Some(revision) => reply.since(revision),
            None => reply,
        }
    }

    /// The first step of a call, or the reply to one that is refused.
    fn plan(&self, operation: Operation, body: Bytes) -> Result<Step, Reply> {
        Ok(match operation {
            Operation::Reply(reply) => Step::Reply(reply),
            Operation::Inspect(reply) | Operation::Survey(reply) => Step::Reply(reply(self)),
            Operation::Read(key, read) => {
                Step::Pending(Pending { op: Op::Get(key), answer: Answer::Read(read) })
            }
            Operation::Write(write) => match write.wait_with(&body) {
                None => Step::Pending(write.plan(body, self.value_bytes_max)?.alone()),
                Some(wait) => self.begin(write.look(body, self.value_bytes_max)?, wait),
            },
            Operation::Artifact(write) => {
                Step::Pending(artifacts::plan(*write, body, self.value_bytes_max)?)
            }
            Operation::Wait(call) => self.begin(call.0, call.1),
            Operation::Body(plan) => Step::Pending(plan(self, body)?),
            Operation::Pending(pending) => Step::Pending(*pending),
            Operation::Watch(watch) => watch.begin(&*self.storage)?,
            Operation::Import(_) => unreachable!("an upload is taken as it comes"),
        })
    }

    /// Begins a call that waits. Where the storage tells of no changes it is looked at
    /// once.
    fn begin(&self, look: Look, wait: Wait) -> Step {
        match WaitingCall::begin(&*self.storage, look, wait) {
            Ok(waiting) => Step::Wait(waiting),
            Err(look) => {
                let op = look.op();
                let then = move |effect| Step::Reply(look.reply(effect));
                Step::Pending(Pending { op, answer: Answer::Then(Box::new(then)) })
            }
        }
    }
}

/// Has a storage perform a call, one operation after the other.
fn submit(
    storage: &Arc<dyn Storage>,
    Pending { op, answer }: Pending,
    done: impl FnOnce(Reply) + Send + 'static,
) {
    let next = Arc::clone(storage);
    let step = move |outcome| match catch(|| answer.step(outcome)) {
        Step::Reply(reply) => done(reply),
        Step::Pending(pending) => submit(&next, pending, done),
        Step::Wait(waiting) => waiting.begin(next, Box::new(done)),
    };
    storage.submit(op, Box::new(step));
}

/// Takes a step. A panic is a failure of its call alone.
fn catch(step: impl FnOnce() -> Step) -> Step {
    panic::catch_unwind(AssertUnwindSafe(step))
        .unwrap_or_else(|_panic| Step::Reply(Refusal::Panicked.into()))
}

#[cfg(test)]
mod tests;
