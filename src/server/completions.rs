//! Writes that were committed, on their way to the thread that leads.
//!
//! The storage commits many writes at once and tells of them one by one. The
//! leader is woken up once for all of them, if it is not at work anyway: to wake
//! up a thread for each takes longer than to answer them.

use super::job::Job;
use super::leader::Leadership;
use crate::api::Reply;
use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many are answered before requests that have come meanwhile are begun
/// with.
const TAKEN_MAX: usize = 32;

/// What is to be answered: no more than one request of each connection.
#[derive(Default)]
pub(super) struct Completions(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    answers: VecDeque<(Job, Reply)>,
    /// Whoever has it looks here between requests; none before the start and
    /// after the end.
    lead: Option<Arc<Leadership>>,
}

impl Completions {
    /// Has the answers be written by whoever has this lead.
    pub(super) fn are_for(&self, lead: Arc<Leadership>) {
        let mut waiting = self.lock();
        if !waiting.answers.is_empty() {
            lead.wake();
        }
        waiting.lead = Some(lead);
    }

    /// Adds an answer, or gives it back if nobody is there to write it. Blocks
    /// for no client and no disk.
    pub(super) fn add(&self, job: Job, reply: Reply) -> Option<(Job, Reply)> {
        let mut waiting = self.lock();
        let Some(lead) = &waiting.lead else { return Some((job, reply)) };
        // With others there, the leader was woken up already. It looks here once
        // it wakes up, or before.
        if waiting.answers.is_empty() {
            lead.wake();
        }
        waiting.answers.push_back((job, reply));
        None
    }

    /// Some that are there, in order. If others are left, whoever leads is woken
    /// up for them.
    pub(super) fn take(&self) -> Vec<(Job, Reply)> {
        let mut waiting = self.lock();
        let taken = TAKEN_MAX.min(waiting.answers.len());
        let taken = waiting.answers.drain(..taken).collect();
        if let Some(lead) = waiting.lead.as_ref().filter(|_| !waiting.answers.is_empty()) {
            lead.wake();
        }
        taken
    }

    /// All that are there, after which no other is taken.
    pub(super) fn end(&self) -> VecDeque<(Job, Reply)> {
        let mut waiting = self.lock();
        waiting.lead = None;
        mem::take(&mut waiting.answers)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change above is complete before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
