//! The counters of callers that were not let in, or not let do something.

use crate::metrics::{Exposition, Kind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Failures of access so far, by reason.
#[derive(Debug, Default)]
pub struct Failures {
    /// There was no token.
    missing: AtomicU64,
    /// There was a token that nobody knows, or something that is none.
    unknown: AtomicU64,
    /// The token lacked a right.
    forbidden: AtomicU64,
}

impl Failures {
    pub fn count_missing(&self) {
        self.missing.fetch_add(1, Relaxed);
    }

    pub fn count_unknown(&self) {
        self.unknown.fetch_add(1, Relaxed);
    }

    pub fn count_forbidden(&self) {
        self.forbidden.fetch_add(1, Relaxed);
    }

    /// Writes them as metrics.
    pub fn report(&self, to: &mut Exposition) {
        let help = "Requests that a token would have let in, or one with more rights.";
        let mut family = to.family("lkv_auth_failures_total", Kind::Counter, help);
        let counters = [
            ("missing", &self.missing),
            ("unknown", &self.unknown),
            ("forbidden", &self.forbidden),
        ];
        for (reason, counter) in counters {
            family.sample(&[("reason", reason)], counter.load(Relaxed));
        }
    }
}
