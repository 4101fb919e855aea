//! The looks at the deadlines of requests, and at nodes that are silent.

use std::time::{Duration, Instant};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// A look that is late by so much shows that this process, or its machine, stood still.
const LATE_MIN: Duration = Duration::from_millis(500);

/// A look to come.
#[derive(Clone, Copy)]
pub struct Tick {
    /// Its time.
    pub due: Instant,
    follows_late: bool,
}

impl Tick {
    /// The first one.
    pub fn first(now: Instant) -> Self {
        Self { due: now, follows_late: false }
    }

    /// Returns true if it comes late: replies may have come that nobody has read yet, so the
    /// next one is to look in its place. That is not late, whenever it comes.
    pub fn is_late(self, now: Instant) -> bool {
        !self.follows_late && now.saturating_duration_since(self.due) >= LATE_MIN
    }

    /// The one after another.
    pub fn next(now: Instant, follows_late: bool) -> Self {
        Self { due: now + INTERVAL, follows_late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_comes_late_leaves_it_to_the_next() {
        let mut tick = Tick::first(Instant::now());
        let delays_ms = [(0, false), (499, false), (500, true), (0, false), (3000, true)];
        for (delay_ms, is_late) in delays_ms {
            let now = tick.due + Duration::from_millis(delay_ms);
            assert_eq!(tick.is_late(now), is_late, "by {delay_ms} ms");
            tick = Tick::next(now, is_late);
            assert_eq!(tick.due, now + INTERVAL);
        }
    }

    #[test]
    fn on_a_slow_machine_every_second_one_looks() {
        let mut tick = Tick::first(Instant::now());
        for is_late in [true, false, true, false] {
            let now = tick.due + Duration::from_secs(2);
            assert_eq!(tick.is_late(now), is_late);
            tick = Tick::next(now, is_late);
        }
    }
}
