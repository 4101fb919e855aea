//! Replies on their way in: each goes to the oldest request that is pending.

use super::super::link::connected_replicas;
use super::super::protocol::{Decoder, Garbage, Reply};
use super::super::router::Replies;
use super::super::traffic::{Job, first_error};
use super::{Node, Pending, Sent, Stand, State, cut};
use crate::platform::scheduling::{self, Contention, Wakeups};
use crate::storage::{Error, Hindrance};
use bytes::Bytes;
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

/// A request that has ended.
enum Ended {
    Done(Box<Job>, Result<Replies, Error>),
    /// Not done, as an error says.
    Failed(Box<Job>, Bytes),
}

impl Node {
    /// Reads replies until the connection breaks.
    pub fn read(&self, mut stream: &TcpStream) {
        scheduling::take_time();
        let mut wakeups = Wakeups::default();
        let mut contention = Contention::of_this_thread();
        let mut decoder = Decoder::default();
        let (mut replies, mut ended) = (Vec::new(), Vec::new());
        let failure = loop {
            // In a crowd more has come by the time that this thread runs.
            wakeups.set(!self.traffic.waves.are_crowded());
            match stream.read(decoder.room()) {
                Ok(0) => break "the connection has ended".to_owned(),
                Ok(count) => {
                    decoder.filled(count);
                    self.received.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Err(err) => break err.to_string(),
            }
            if let Some((waited_ns, ran_ns)) = contention.look() {
                self.traffic.waves.note_contention(waited_ns, ran_ns);
            }
            let read = decode(&mut decoder, &mut replies);
            let taken = self.take(replies.drain(..), &mut ended);
            for ended in ended.drain(..) {
                self.finish(ended);
            }
            if let Err(err) = read.and(taken) {
                break err.to_string();
            }
        };
        // The writer may be in the middle of a write.
        cut(stream);
        let mut state = self.lock();
        state.stand = Stand::Broken;
        let has_ended = state.has_ended;
        self.ring(state);
        if !has_ended {
            log::warn!("cannot read from {}: {failure}", self.address);
        }
    }

    /// Gives replies to their owners.
    fn take(
        &self,
        replies: impl Iterator<Item = Reply>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Garbage> {
        let mut guard = self.lock();
        let state = &mut *guard;
        for reply in replies {
            match state.pending.front_mut().ok_or(Garbage)? {
                Pending::Request(sent) => {
                    if !sent.take(reply) {
                        continue;
                    }
                    if let Some(Pending::Request(sent)) = state.pending.pop_front() {
                        self.sort(sent, state, ended);
                    }
                }
                Pending::Wait(_) => {
                    state.pending.pop_front();
                    let count = match reply {
                        Reply::Integer(count) => usize::try_from(count).unwrap_or_default(),
                        Reply::Nothing | Reply::Bytes(_) | Reply::Many(_) | Reply::Error(_) => 0,
                    };
                    let is_short = count < self.terms.replicas;
                    state.replicas.are_wanted |= is_short && !state.replicas.are_late;
                    state.replicas.are_late = is_short;
                    ended.extend(state.held.drain(..).map(|(job, replies)| {
                        let outcome =
                            if is_short { Err(Error::OutcomeUnknown) } else { Ok(replies) };
                        Ended::Done(job, outcome)
                    }));
                }
                Pending::Role(_) => {
                    state.pending.pop_front();
                    state.replicas.connected = connected_replicas(&reply);
                }
            }
        }
        if self.terms.replicas > 0 && guard.replicas.are_few(&self.terms) {
            let too_few = || Err(Error::NotDone(Hindrance::ReplicasTooFew));
            let writes = guard.unsent_writes().into_iter();
            ended.extend(writes.map(|job| Ended::Done(job, too_few())));
        }
        // What has come while replicas were waited for is queued.
        if guard.replicas.are_wanted || guard.has_ended || guard.has_requests() {
            self.ring(guard);
        }
        Ok(())
    }

    fn sort(&self, sent: Sent, state: &mut State, ended: &mut Vec<Ended>) {
        let Sent { job, replies, .. } = sent;
        if let Some(error) = first_error(&replies) {
            let error = error.clone();
            ended.push(Ended::Failed(job, error));
        } else if job.is_write && self.terms.replicas > 0 {
            state.held.push((job, replies));
        } else {
            ended.push(Ended::Done(job, Ok(replies)));
        }
    }

    fn finish(&self, ended: Ended) {
        match ended {
            Ended::Done(mut job, outcome) => job.finish(outcome),
            Ended::Failed(job, _) if job.is_finished() => {}
            // Without a router the job is dropped, which completes it.
            Ended::Failed(job, error) => {
                if let Some(router) = self.router.upgrade() {
                    router.failed(job, &error, self);
                }
            }
        }
    }
}

impl Sent {
    /// Takes a reply; true if it was the last.
    fn take(&mut self, reply: Reply) -> bool {
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        self.replies.push(reply);
        self.skips = usize::from(self.job.is_asking);
        self.replies.len() == self.job.ends.len()
    }
}

/// All replies that are whole.
fn decode(decoder: &mut Decoder, replies: &mut Vec<Reply>) -> Result<(), Garbage> {
    while let Some(reply) = decoder.next()? {
        replies.push(reply);
    }
    Ok(())
}
