//! What the watchdog decides about one connection, from what it sees there.
//!
//! No clock is read and no socket touched here: observations go in, a
//! [`Verdict`] comes out.

use crate::server::limits::Limits;
use crate::server::pipeline::{Activity, Stage};
use std::time::{Duration, Instant};

/// What a large transfer has to move within the request timeout, in bytes.
const MOVED_BYTES_MIN: u64 = 1024;

/// How long a client may be silent that has heard the last answer and has not
/// hung up (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// How much one may go on to send after the last answer, in bytes. How long
/// is as for a request.
const LINGER_BYTES_MAX: u64 = 256 << 20;

/// What the kernel counts on a connection. The answer costs a system call, so
/// it is asked for only where it matters.
pub trait Meter {
    /// Bytes that the peer has confirmed; `None` if that cannot be told.
    fn acknowledged(&self) -> Option<u64>;
    /// Whether there are bytes that it has not confirmed.
    fn has_unconfirmed(&self) -> bool;
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// It was silent for too long: end it without a word.
    Idle,
    /// Its request or its transfer has taken too long.
    Late,
    /// It has heard the last answer long ago.
    Gone,
}

/// What is remembered of a connection between two looks at it.
#[derive(Debug)]
pub struct Watch {
    seen: Activity,
    /// The counter that has to grow, as it was at `since`; none before the
    /// first look at the present stage.
    mark: Option<u64>,
    since: Instant,
    /// What the counter was at the first look after the last answer.
    base: u64,
    /// When part of a request was seen that is not complete, or the first look
    /// after the last answer.
    begun_at: Option<Instant>,
}

impl Watch {
    /// Starts watching a connection.
    pub fn new(activity: Activity, now: Instant) -> Self {
        Self { seen: activity, mark: None, since: now, base: 0, begun_at: None }
    }

    /// Since when it is silent, if it has had an answer and no other request
    /// of it has begun to come.
    pub fn silent_since(&self) -> Option<Instant> {
        let is_silent = self.begun_at.is_none() && self.seen.begun > 0;
        is_silent.then_some(self.since)
    }

    /// Since when the present state lasts.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether part of a request has come and no request is in work.
    pub fn is_mid_request(&self) -> bool {
        self.begun_at.is_some()
    }

    /// Looks at the connection once more.
    pub fn inspect(
        &mut self,
        activity: Activity,
        now: Instant,
        limits: &Limits,
        meter: &impl Meter,
    ) -> Verdict {
        let Activity { begun, stage, received, is_coming, is_closing } = activity;
        let seen = self.seen;
        self.seen = activity;
        if (seen.begun, seen.stage, seen.is_closing) != (begun, stage, is_closing) {
            (self.mark, self.since, self.begun_at) = (None, now, None);
        }
        if is_closing {
            return self.inspect_after(received, now, limits, meter);
        }
        match stage {
            None => self.inspect_between(is_coming, now, limits),
            Some(Stage::Working) => Verdict::Wait,
            Some(Stage::Receiving) => {
                self.inspect_transfer(received, MOVED_BYTES_MIN, limits.request_timeout, now)
            }
            // Whoever writes as things happen may have a pause.
            Some(Stage::Streaming) => self.inspect_transfer(received, 1, limits.idle_timeout, now),
            Some(Stage::Sending) => meter.acknowledged().map_or(Verdict::Wait, |bytes| {
                self.inspect_transfer(bytes, MOVED_BYTES_MIN, limits.request_timeout, now)
            }),
        }
    }

    /// The counter has to grow by so much within each `timeout`.
    fn inspect_transfer(
        &mut self,
        moved: u64,
        least: u64,
        timeout: Duration,
        now: Instant,
    ) -> Verdict {
        let mark = *self.mark.get_or_insert(moved);
        if moved.saturating_sub(mark) >= least {
            (self.mark, self.since) = (Some(moved), now);
        } else if now.duration_since(self.since) > timeout {
            return Verdict::Late;
        }
        Verdict::Wait
    }

    /// No request is in work: the connection is silent, or one is coming.
    fn inspect_between(&mut self, is_coming: bool, now: Instant, limits: &Limits) -> Verdict {
        if !is_coming {
            self.begun_at = None;
            let silent = now.duration_since(self.since);
            return if silent > limits.idle_timeout { Verdict::Idle } else { Verdict::Wait };
        }
        let begun_at = *self.begun_at.get_or_insert(now);
        let is_late = now.duration_since(begun_at) > limits.request_timeout;
        if is_late { Verdict::Late } else { Verdict::Wait }
    }

    /// The last answer was sent.
    fn inspect_after(
        &mut self,
        received: u64,
        now: Instant,
        limits: &Limits,
        meter: &impl Meter,
    ) -> Verdict {
        let begun_at = *self.begun_at.get_or_insert_with(|| {
            self.base = received;
            now
        });
        // Whichever way they go, bytes that move are progress.
        let moved = received + meter.acknowledged().unwrap_or(0);
        if self.mark.replace(moved) != Some(moved) {
            self.since = now;
        }
        let silent = now.duration_since(self.since);
        let is_over = if meter.has_unconfirmed() {
            silent > limits.request_timeout
        } else {
            silent > LINGER || now.duration_since(begun_at) > limits.request_timeout
        };
        let is_flooding = received.saturating_sub(self.base) > LINGER_BYTES_MAX;
        if is_over || is_flooding { Verdict::Gone } else { Verdict::Wait }
    }
}

#[cfg(test)]
mod tests;
