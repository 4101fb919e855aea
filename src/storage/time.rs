//! Wall-clock time that never runs backwards within a process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

/// The latest moment that anybody was told.
static LATEST: AtomicU64 = AtomicU64::new(0);

impl Time {
    /// This moment: by the system's clock, or the latest that was told before
    /// if that clock was set back.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = milliseconds(since_epoch);
        Self(LATEST.fetch_max(clock, Ordering::Relaxed).max(clock))
    }

    /// The moment so much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(milliseconds(duration)))
    }

    /// How long it is from this moment until a later one; nothing if that is
    /// past.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }

    /// The moment as a number.
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    /// The moment of a number.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        let first = Time::now();
        // As if the system's clock had been an hour ahead, and was set right.
        LATEST.fetch_max(first.0 + 2, Ordering::Relaxed);
        let second = Time::now();
        assert!(second.0 >= first.0 + 2);
    }

    #[test]
    fn durations_are_added_and_told_apart() {
        let now = Time(1_000);
        assert_eq!(now.after(Duration::from_secs(2)), Time(3_000));
        assert_eq!(now.until(Time(1_500)), Duration::from_millis(500));
        assert_eq!(now.until(Time(500)), Duration::ZERO);
        assert_eq!(now.after(Duration::MAX), Time(u64::MAX));
    }
}
