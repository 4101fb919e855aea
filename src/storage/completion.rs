//! The completion of an operation that waits in a queue of an engine.

use super::{Done, Error, Outage, Outcome};
use std::panic::{self, AssertUnwindSafe};

/// A completion that is always called. One that is dropped is told that the store is
/// closed: nothing is done behind the end of an engine's threads.
pub struct Completion(Option<Done>);

impl Completion {
    /// Tells the outcome. A panic of the client's code stays its own.
    pub fn tell(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(done) = self.0.take() {
            panic::catch_unwind(AssertUnwindSafe(|| done(outcome))).ok();
        }
    }
}

impl From<Done> for Completion {
    fn from(done: Done) -> Self {
        Self(Some(done))
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.finish(Err(Error::Unavailable(Outage::Closed)));
    }
}
