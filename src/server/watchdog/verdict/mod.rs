//! The watchdog's verdict on one connection.
//!
//! No clock is read and no socket touched here: observations go in, a
//! [`Verdict`] comes out.

use crate::server::limits::Limits;
use crate::server::pipeline::{Activity, Stage};
use std::time::{Duration, Instant};

/// The least bytes that a large transfer moves within the request timeout.
const MOVED_BYTES_MIN: u64 = 1024;

/// The least bytes of a response in parts that a client takes within the request
/// timeout: as long as it lasts it may hold something of the storage's.
const PARTS_BYTES_MIN: u64 = 1 << 20;

/// The longest silence of a client that has had its last response and has not hung
/// up (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// The time in which a new client, whose request may be on its way, is not silent.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// The most bytes that a client may send after its last response, for as long as a
/// request may take.
const LINGER_BYTES_MAX: u64 = 256 << 20;

/// The kernel's counters of a connection. Each costs a system call, so it is read
/// only where it matters.
pub trait Meter {
    /// Bytes that the peer has confirmed; `None` if that cannot be told.
    fn acknowledged(&self) -> Option<u64>;
    /// Returns true if some bytes are not confirmed.
    fn has_unconfirmed(&self) -> bool;
}

/// The verdict on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is to be done.
    Wait,
    /// It was silent for too long: end it without a word.
    Idle,
    /// Its request or its transfer has taken too long.
    Late,
    /// It has had its last response long ago.
    Gone,
}

/// The memory of a connection between two inspections.
#[derive(Debug)]
pub struct Watch {
    seen: Activity,
    /// The counter that has to grow, as it was at `since`; none before the first
    /// inspection of the present stage.
    mark: Option<u64>,
    /// The beginning of the present state.
    pub since: Instant,
    /// The counter at the first inspection after the last response.
    base: u64,
    /// The time of the first inspection with an incomplete request, or after the
    /// last response.
    begun_at: Option<Instant>,
}

impl Watch {
    /// Starts watching a connection.
    pub fn new(activity: Activity, now: Instant) -> Self {
        Self { seen: activity, mark: None, since: now, base: 0, begun_at: None }
    }

    /// The beginning of its silence, if no request has begun to come. A client that has
    /// had no response yet has a moment for its first one.
    pub fn silent_since(&self, now: Instant) -> Option<Instant> {
        let is_new = self.seen.begun == 0 && now.duration_since(self.since) < FIRST_REQUEST_GRACE;
        let is_silent = self.begun_at.is_none() && !is_new;
        is_silent.then_some(self.since)
    }

    /// Returns true if part of a request has come and no request is in work.
    pub fn is_mid_request(&self) -> bool {
        self.begun_at.is_some()
    }

    /// Inspects the connection once more.
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
            Some(Stage::Working | Stage::Waiting) => Verdict::Wait,
            Some(Stage::Receiving) => {
                self.inspect_transfer(received, MOVED_BYTES_MIN, limits.request_timeout, now)
            }
            // A program that writes as things happen may have a pause.
            Some(Stage::ReceivingChunked) => {
                self.inspect_transfer(received, 1, limits.idle_timeout, now)
            }
            Some(Stage::Sending) => meter.acknowledged().map_or(Verdict::Wait, |bytes| {
                self.inspect_transfer(bytes, MOVED_BYTES_MIN, limits.request_timeout, now)
            }),
            Some(Stage::Parts | Stage::Streaming) if !meter.has_unconfirmed() => {
                // It waits for the storage, and not the storage for it.
                (self.mark, self.since) = (None, now);
                Verdict::Wait
            }
            Some(Stage::Parts) => meter.acknowledged().map_or(Verdict::Wait, |bytes| {
                self.inspect_transfer(bytes, PARTS_BYTES_MIN, limits.request_timeout, now)
            }),
            Some(Stage::Streaming) => meter.acknowledged().map_or(Verdict::Wait, |bytes| {
                self.inspect_transfer(bytes, 1, limits.request_timeout, now)
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

    /// The last response was sent.
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
