//! Operations that the storage has done, on their way back to a leader.
//!
//! The storage commits many writes at once and tells of them one by one. A
//! leader is woken up once for all of them, if none is at work anyway: to wake
//! up a thread for each takes longer than to answer them.
//!
//! While some wait, a wake-up lies in the inbox, or the leader that has taken it is about
//! to look here.

use super::inbox::Inbox;
use super::job::Job;
use crate::api::Reply;
use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most that are taken at a time; requests that have come meanwhile are next.
const TAKEN_MAX: usize = 32;

/// Replies that wait for a leader, at most one per connection.
#[derive(Default)]
pub struct Completions(Mutex<State>);

#[derive(Default)]
struct State {
    replies: VecDeque<(Job, Reply)>,
    /// Where the leaders wait, which look here between requests; none before the
    /// start and after the end.
    inbox: Option<Arc<Inbox>>,
}

impl Completions {
    /// Wakes a leader up at this inbox from now on.
    pub fn wake_at(&self, inbox: Arc<Inbox>) {
        let mut state = self.lock();
        if !state.replies.is_empty() {
            inbox.wake();
        }
        state.inbox = Some(inbox);
    }

    /// Adds a reply, or gives it back if there is no leader. Never blocks.
    pub fn add(&self, job: Job, reply: Reply) -> Option<(Job, Reply)> {
        let mut state = self.lock();
        let Some(inbox) = &state.inbox else { return Some((job, reply)) };
        // With others there, a leader was woken up already. It looks here once it wakes
        // up, or another has done so before.
        if state.replies.is_empty() {
            inbox.wake();
        }
        state.replies.push_back((job, reply));
        None
    }

    /// The number of those that wait.
    pub fn len(&self) -> usize {
        self.lock().replies.len()
    }

    /// Takes some, in order. If others are left, a leader is woken up for them.
    pub fn take(&self) -> Vec<(Job, Reply)> {
        let mut state = self.lock();
        let taken = TAKEN_MAX.min(state.replies.len());
        let taken = state.replies.drain(..taken).collect();
        if let Some(inbox) = state.inbox.as_ref().filter(|_| !state.replies.is_empty()) {
            inbox.wake();
        }
        taken
    }

    /// Takes all that are there; no other is added afterwards.
    pub fn end(&self) -> VecDeque<(Job, Reply)> {
        let mut state = self.lock();
        state.inbox = None;
        mem::take(&mut state.replies)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
