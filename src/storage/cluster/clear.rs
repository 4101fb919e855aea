//! The end of every key: of other applications too, so it has to be allowed.

use super::Front;
use crate::storage::cluster::network::protocol::Commands;
use crate::storage::cluster::network::router::{PATIENCE, Place, Request};
use crate::storage::completion::Completion;
use crate::storage::{Effect, Error, Hindrance};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A clear on its way.
struct Clear {
    front: Arc<Front>,
    topology: u64,
    state: Mutex<State>,
}

struct State {
    /// The masters that have not answered.
    missing: usize,
    /// One has done it.
    is_begun: bool,
    failure: Option<Error>,
    completion: Option<Completion>,
}

impl Front {
    /// Deletes every key of every master: not at one moment, and those of other
    /// applications too. If one master does not do it the outcome is unknown, unless none
    /// has.
    pub fn clear(self: &Arc<Self>, completion: Completion) {
        if !self.may_clear {
            return completion.tell(Err(Error::ClearForbidden));
        }
        let topology = self.router.topology();
        let masters = self.router.masters();
        if masters.is_empty() {
            return completion.tell(Err(Error::NotDone(Hindrance::ClusterDown)));
        }
        let state = State {
            missing: masters.len(),
            is_begun: false,
            failure: None,
            completion: Some(completion),
        };
        let front = Arc::clone(self);
        let clear = Arc::new(Clear { front, topology, state: Mutex::new(state) });
        let deadline = Instant::now() + PATIENCE;
        for master in masters {
            let clear = Arc::clone(&clear);
            self.router.send(Request {
                place: Place::Node(master),
                // The node frees the memory beside its other work.
                commands: Commands::default().with(&[b"FLUSHALL", b"ASYNC"]),
                is_write: true,
                deadline,
                done: Box::new(move |outcome| clear.note(outcome.err())),
            });
        }
    }
}

impl Clear {
    /// Notes the answer of a master, and tells the outcome with the last one.
    fn note(&self, failure: Option<Error>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.missing -= 1;
        match failure {
            None => state.is_begun = true,
            Some(err @ Error::OutcomeUnknown) => state.failure = Some(err),
            Some(err) => state.failure = state.failure.take().or(Some(err)),
        }
        if state.missing > 0 {
            return;
        }
        let (is_begun, mut failure) = (state.is_begun, state.failure.take());
        let completion = state.completion.take();
        drop(state);
        if failure.is_none() && self.front.router.topology() != self.topology {
            // What has moved meanwhile may be there.
            failure = Some(Error::OutcomeUnknown);
        }
        let Some(completion) = completion else { return };
        self.front.listings.all_changed();
        self.front.waiters.all_changed();
        completion.tell(match failure {
            None => Ok(Effect::Done),
            Some(_) if is_begun => Err(Error::OutcomeUnknown),
            Some(err) => Err(err),
        });
    }
}
