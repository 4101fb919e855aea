//! What the guard decides about one connection, from what it sees there.
//!
//! No clock is read and no socket touched here: observations go in, a
//! [`Verdict`] comes out.

use super::Limits;
use crate::server::connections::{Activity, Stage};
use std::time::{Duration, Instant};

/// The most bytes that a head, and a body too small to be told from it, may
/// have; also what chunks may cost beside their data.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// What a large transfer has to move within the request timeout.
const MOVED_BYTES_MIN: u64 = 1024;

/// How many bytes of chunk framing a byte of data may cost.
const CHUNKING_FACTOR_MAX: u64 = 16;

/// How long a connection nobody reads may take until it is called starved.
const STARVED_AFTER: Duration = Duration::from_millis(2);

/// What the kernel counts on a connection. Each answer costs a system call,
/// so it is asked for only where it matters.
pub(super) trait Meter {
    /// Bytes that have arrived, and bytes that the peer has confirmed; `None`
    /// if that cannot be told.
    fn moved(&self) -> Option<Moved>;
    /// Bytes that have arrived and that nobody has read yet.
    fn unread(&self) -> u64;
}

/// How much has moved on a connection in its life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// Bytes that have arrived.
    pub(super) received: u64,
    /// Bytes that the peer has confirmed.
    pub(super) acknowledged: u64,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing; it was as before.
    Quiet,
    /// Nothing; something has moved.
    Moving,
    /// Its first bytes have come and nobody has read them, so far.
    Fresh,
    /// Nobody reads it: tiny_http has to be woken up.
    Starved,
    /// It was silent for too long: end it without a word.
    Idle,
    /// Its request or its transfer has taken too long.
    Late,
    /// Its head is too long.
    TooLarge,
    /// Its chunks have much more framing than data.
    Bloated,
}

/// What is remembered of a connection between two looks at it.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Activity,
    /// The counter that has to grow, as it was at `since`; none before the
    /// first look at the present stage.
    mark: Option<u64>,
    since: Instant,
    /// What the counter of a transfer was at the first look at it.
    base: u64,
    /// When the first byte of a request was seen that is not complete.
    begun_at: Option<Instant>,
    served: bool,
}

impl Watch {
    /// Starts watching a connection that has just been found.
    pub(super) fn new(activity: Activity, now: Instant) -> Self {
        // Without a request so far, all that was received is of the first one.
        let mark = (activity.begun == 0).then_some(0);
        let served = activity.begun > 0;
        Self { seen: activity, mark, since: now, base: 0, begun_at: None, served }
    }

    /// Whether a request of this connection has come already.
    pub(super) fn is_served(&self) -> bool {
        self.served
    }

    /// Whether part of a request has come and no request is in work.
    pub(super) fn is_mid_request(&self) -> bool {
        self.begun_at.is_some()
    }

    /// Since when the present state lasts.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Looks at the connection once more.
    pub(super) fn look(
        &mut self,
        activity: Activity,
        now: Instant,
        limits: &Limits,
        meter: &impl Meter,
    ) -> Verdict {
        self.served |= activity.begun > 0;
        let same = activity.begun == self.seen.begun && activity.stage == self.seen.stage;
        self.seen = activity;
        if !same {
            (self.mark, self.since, self.begun_at) = (None, now, None);
            return Verdict::Moving;
        }
        if activity.stage == Some(Stage::Working) {
            return Verdict::Quiet;
        }
        let Some(Moved { received, acknowledged }) = meter.moved() else { return Verdict::Quiet };
        match activity.stage {
            Some(Stage::Receiving) => {
                let taken_max = HEAD_BYTES_MAX + CHUNKING_FACTOR_MAX * activity.taken_bytes;
                self.look_at_transfer(received, now, limits, |come| {
                    come > taken_max && come.saturating_sub(meter.unread()) > taken_max
                })
            }
            Some(Stage::Sending) => self.look_at_transfer(acknowledged, now, limits, |_| false),
            Some(Stage::Working) | None => self.look_between(received, now, limits, meter),
        }
    }

    fn look_at_transfer(
        &mut self,
        moved: u64,
        now: Instant,
        limits: &Limits,
        is_bloated: impl FnOnce(u64) -> bool,
    ) -> Verdict {
        let Some(mark) = self.mark else {
            (self.mark, self.since, self.base) = (Some(moved), now, moved);
            return Verdict::Moving;
        };
        if is_bloated(moved.saturating_sub(self.base)) {
            Verdict::Bloated
        } else if moved.saturating_sub(mark) >= MOVED_BYTES_MIN {
            (self.mark, self.since) = (Some(moved), now);
            Verdict::Moving
        } else if now.duration_since(self.since) > limits.request_timeout {
            Verdict::Late
        } else {
            Verdict::Quiet
        }
    }

    /// No request is in work: the connection is silent, or one is coming.
    fn look_between(
        &mut self,
        received: u64,
        now: Instant,
        limits: &Limits,
        meter: &impl Meter,
    ) -> Verdict {
        let Some(mark) = self.mark else {
            self.mark = Some(received);
            return Verdict::Moving;
        };
        let coming = received.saturating_sub(mark);
        if coming == 0 {
            let silent = now.duration_since(self.since);
            return if silent > limits.idle_timeout { Verdict::Idle } else { Verdict::Quiet };
        }
        let begun_at = *self.begun_at.get_or_insert(now);
        let taken_long = now.duration_since(begun_at);
        let consumed = coming.saturating_sub(meter.unread());
        if consumed > HEAD_BYTES_MAX {
            Verdict::TooLarge
        } else if taken_long > limits.request_timeout {
            Verdict::Late
        } else if !self.served && consumed == 0 {
            if taken_long < STARVED_AFTER { Verdict::Fresh } else { Verdict::Starved }
        } else {
            Verdict::Moving
        }
    }
}

#[cfg(test)]
mod tests;
