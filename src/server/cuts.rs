//! Connections that the server has ended before their clients did, by reason.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

/// The reason why a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It was silent for too long.
    Idle,
    /// Its request or its transfer has taken too long.
    Late,
    /// Its client has had the last response and did not hang up.
    Gone,
    /// Its client took a large response slowly while others were refused theirs.
    Slow,
    /// As many connections were open as may be.
    Cap,
    /// The server stops.
    Draining,
    /// A response could not be written: usually its client has gone.
    WriteFailed,
    /// The next part of its response could not be had.
    BrokenOff,
    /// A panic.
    Panicked,
    /// Its accept loop has ended before a thread began to read it.
    Unread,
}

/// Counters of cut connections. Each connection counts once, with its first reason.
#[derive(Debug)]
pub struct Cuts([AtomicU64; Cut::ALL.len()]);

impl Cut {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Late,
        Self::Gone,
        Self::Slow,
        Self::Cap,
        Self::Draining,
        Self::WriteFailed,
        Self::BrokenOff,
        Self::Panicked,
        Self::Unread,
    ];

    /// Its label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Late => "late",
            Self::Gone => "gone",
            Self::Slow => "slow",
            Self::Cap => "cap",
            Self::Draining => "draining",
            Self::WriteFailed => "write_failed",
            Self::BrokenOff => "broken_off",
            Self::Panicked => "panicked",
            Self::Unread => "unread",
        }
    }
}

impl Cuts {
    /// Counts one.
    pub fn add(&self, cut: Cut) {
        let counters = Cut::ALL.iter().zip(&self.0);
        for (_, counter) in counters.filter(|(reason, _)| **reason == cut) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts by reason.
    pub fn counts(&self) -> impl Iterator<Item = (Cut, u64)> {
        Cut::ALL.into_iter().zip(&self.0).map(|(cut, count)| (cut, count.load(Ordering::Relaxed)))
    }
}

impl Default for Cuts {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}
