//! Leader/followers: a few threads, the leaders, take requests as they arrive.
//!
//! To wake another thread up costs more than a small response does. So no thread
//! stands between the connections and the workers: some of them lead, read requests and
//! answer them, unless they would have to wait. Operations that the storage completes
//! later come back to a leader. The followers do the rest, and the watchdog gives a
//! turn to one of them where a leader is stuck in a request.
//!
//! ```text
//! inbox ───────┬─► leadership: turn, taken ─► handle    each leader its own,
//! completions ─┼─► leadership: turn, taken ─► handle    displaced by itself
//!              └─► ...
//! ```
//!
//! Any leader takes any request, and any reply of the storage: both name a connection,
//! whose pipeline has at most one request in work and gives them in order. What one
//! leader has taken is its successor's, and no other leader's.
//!
//! Every hand-over is under a mutex, so all that the one thread has done before it is
//! seen by the other: that of a connection's reading between its thread and the leaders,
//! and from one of them to the next; that of the arrivals from a connection's thread; that
//! of the completions from the storage; that of a leadership from a leader to its successor. A
//! displaced leader learns of it there, before its next request, and touches none that it
//! has not been given.
//!
//! This file keeps the turn, and the requests that a leader has taken. It knows
//! nothing of their handling.

use super::inbox::Inbox;
use super::job::Job;
use super::request::Meaning;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A leader that is at the same request for so long loses its turn.
const STUCK_AFTER: Duration = Duration::from_millis(5);

/// The leadership of one leader at a time over requests of an accept loop.
pub struct Leadership {
    /// What all leaders of that loop take requests from.
    pub inbox: Arc<Inbox>,
    state: Mutex<State>,
}

/// A thread's turn to lead, which lasts until there is a later one.
pub type Turn = u64;

#[derive(Default)]
struct State {
    turn: Turn,
    phase: Phase,
    /// Requests in work, at most one per connection, that wait for the leader.
    taken: VecDeque<(Job, Meaning)>,
}

/// The leader's phase.
#[derive(Clone, Copy, Default)]
enum Phase {
    /// It waits for a request, or takes one; or another is about to lead. Were
    /// it displaced here, a request could be overtaken by the next one of its
    /// connection, which then waits for its answer for ever.
    #[default]
    Taking,
    /// It is at a request, since the watchdog's last look.
    Handling,
    /// It is at the same one since this time, or longer.
    HandlingSince(Instant),
}

/// Why a thread leads no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Another leads in its place.
    Displaced,
    /// There is nothing to lead any more.
    Retired,
}

impl Leadership {
    /// A leadership whose first leader has turn 0.
    pub fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, state: Mutex::default() }
    }

    /// Adds requests for the leader, behind those that wait.
    pub fn add(&self, taken: impl IntoIterator<Item = (Job, Meaning)>) {
        self.lock().taken.extend(taken);
    }

    /// The leader's next request, which may be one that a leader before it has
    /// taken. Fails once the turn has ended. After `None` the turn lasts at least
    /// until this is called again; during a request it may end.
    pub fn next(&self, turn: Turn) -> Result<Option<(Job, Meaning)>, Exit> {
        let mut state = self.lock();
        if state.turn != turn {
            return Err(Exit::Displaced);
        }
        let next = state.taken.pop_front();
        state.phase = if next.is_some() { Phase::Handling } else { Phase::Taking };
        Ok(next)
    }

    /// Takes the turn from a leader that is stuck, which shows when this is
    /// called again and again. Gives the turn of the thread that is to lead.
    pub fn displace_stuck(&self, now: Instant) -> Option<Turn> {
        let mut state = self.lock();
        match state.phase {
            Phase::Taking => None,
            Phase::Handling => {
                state.phase = Phase::HandlingSince(now);
                None
            }
            Phase::HandlingSince(since) if now.duration_since(since) < STUCK_AFTER => None,
            Phase::HandlingSince(_) => {
                state.turn += 1;
                state.phase = Phase::Taking;
                Some(state.turn)
            }
        }
    }

    /// Returns true if the leader is at a request.
    pub fn is_handling(&self) -> bool {
        !matches!(self.lock().phase, Phase::Taking)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
