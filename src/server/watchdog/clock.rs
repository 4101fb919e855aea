//! The clock of the deadlines, which stands while the process does.

use std::time::{Duration, Instant};

/// The most that passes between two looks, many of which come in a second.
const STEP_MAX: Duration = Duration::from_secs(1);

/// A clock that leaves out the time in which the process did not run, because it or its
/// machine was stopped: clients may have sent all that they had to meanwhile.
#[derive(Debug)]
pub struct Clock {
    looked_at: Instant,
    time: Instant,
}

impl Clock {
    /// A clock that goes from `now` on.
    pub fn new(now: Instant) -> Self {
        Self { looked_at: now, time: now }
    }

    /// The time, where it is `now` outside.
    pub fn at(&mut self, now: Instant) -> Instant {
        self.time += now.saturating_duration_since(self.looked_at).min(STEP_MAX);
        self.looked_at = now;
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_as_long_as_it_is_looked_at() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        for ms in [0, 50, 100, 1100, 2100, 2100] {
            let now = start + Duration::from_millis(ms);
            assert_eq!(clock.at(now), now);
        }
    }

    #[test]
    fn of_a_pause_a_second_counts() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        for (seconds, time) in [(1, 1), (61, 2), (62, 3), (600, 4), (601, 5)] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(clock.at(now), start + Duration::from_secs(time));
        }
    }
}
