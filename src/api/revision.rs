//! The header field `Revision` of every reply of the collection but errors: a position in
//! the history of the store from which a watch misses nothing that the reply does not
//! show. It is taken before the first step of the call.

use super::operations::{Answer, Pending};
use super::{Replied, Reply, Step, Waiting};
use crate::storage::{Changes, Revision, Storage};
use std::sync::Arc;

/// The position before a call that is about to begin; `None` if the storage has no change
/// log.
pub fn before(storage: &dyn Storage) -> Option<Revision> {
    storage.changes().map(Changes::revision)
}

impl Step {
    /// The same step of a call that began at a position.
    #[must_use]
    pub fn since(self, revision: Revision) -> Self {
        match self {
            Self::Reply(reply) => Self::Reply(reply.since(revision)),
            Self::Pending(Pending { op, answer }) => {
                let either = move |outcome| answer.step(outcome).since(revision);
                Self::Pending(Pending { op, answer: Answer::Either(Box::new(either)) })
            }
            Self::Wait(waiting) => Self::Wait(Arc::new(Since { waiting, revision })),
        }
    }
}

impl Reply {
    /// The same reply to a call that began at a position.
    #[must_use]
    pub fn since(self, revision: Revision) -> Self {
        let is_error = self.status() >= 400;
        if is_error { self } else { self.with_header("Revision", revision.to_string()) }
    }
}

/// A wait of a call that began at a position.
struct Since {
    waiting: Arc<dyn Waiting>,
    revision: Revision,
}

impl Waiting for Since {
    fn begin(self: Arc<Self>, storage: Arc<dyn Storage>, done: Replied) {
        let revision = self.revision;
        let done = move |reply: Reply| done(reply.since(revision));
        Arc::clone(&self.waiting).begin(storage, Box::new(done));
    }

    fn end(&self) {
        self.waiting.end();
    }
}
