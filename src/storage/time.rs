//! The time by which entries expire: it is never set, and never runs backwards.
//!
//! A [`Time`] is a number of milliseconds, at first those since the Unix epoch.
//! From then on it is counted by a clock that nobody can set, and the system's
//! wall clock may be set as anybody likes:
//!
//! | the wall clock is set | forward | back |
//! | --- | --- | --- |
//! | while a store runs, in memory or durable | nothing changes | nothing changes |
//! | while a durable store is down | a TTL ends earlier by that | the time down counts less, or not at all |
//!
//! A durable store keeps expiries as times, and with them a [`Reading`] of both
//! clocks: after a step, every few seconds while something that expires is
//! written, and at the end. The next process begins as much later as the wall
//! clock says, and in no case earlier. That is all that the wall clock decides.
//! So a clock that was wrong when the store was first started, or for a while
//! since, changes no length of time before the next start or after it. (If the
//! process is killed while the wall clock is wrong, this is as if it had been
//! set while the store was down.)

use crate::platform::clock;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in milliseconds from the origin that the module describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

/// The lead of time over the clock that nobody can set, modulo 2^64. The
/// process has one, which changes only where a store is opened.
static AHEAD: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(wall().wrapping_sub(milliseconds(clock::elapsed()))));

/// The least movement of the wall clock against time that counts as setting it:
/// less comes of reading two clocks one after the other.
const STEP_MIN: Duration = Duration::from_secs(1);

impl Time {
    /// This moment.
    pub fn now() -> Self {
        let ahead = AHEAD.load(Ordering::Relaxed);
        Self(milliseconds(clock::elapsed()).wrapping_add(ahead))
    }

    /// The moment that `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(milliseconds(duration)))
    }

    /// The duration from this moment until a later one; zero if that is past.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }

    /// The moment by the wall clock, as that is set now.
    pub fn on_wall_clock(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.saturating_add_signed(wall_lead()))
    }

    /// The moment of a time on the wall clock, as that is set now: a whole number of
    /// milliseconds comes back as it is.
    pub fn from_wall_clock(time: SystemTime) -> Self {
        let wall = time.duration_since(UNIX_EPOCH).map_or(0, milliseconds);
        Self(wall.saturating_sub_signed(wall_lead()))
    }

    /// The moment as a number.
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    /// The moment of a number.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Has time go on from a reading of an earlier process. No entry of another
    /// engine in this process may expire.
    pub(super) fn go_on_from(reading: Reading) {
        let (now, next) = (Self::now(), reading.time_at(wall()));
        if now.until(next).max(next.until(now)) >= STEP_MIN {
            AHEAD.fetch_add(next.0.wrapping_sub(now.0), Ordering::Relaxed);
        }
    }
}

/// The lead of the wall clock over time, in milliseconds.
fn wall_lead() -> i64 {
    let Reading { time, wall } = Reading::now();
    let lead = wall.cast_signed().wrapping_sub(time.0.cast_signed());
    // Less is no lead, and would have each call tell another moment.
    let is_set = u128::from(lead.unsigned_abs()) >= STEP_MIN.as_millis();
    if is_set { lead } else { 0 }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    time: Time,
    /// The wall clock, in milliseconds since the epoch.
    wall: u64,
}

impl Reading {
    /// Both now.
    pub fn now() -> Self {
        Self { time: Time::now(), wall: wall() }
    }

    /// The time at which it was taken.
    pub fn time(self) -> Time {
        self.time
    }

    /// Returns true if the wall clock was set between this one and another.
    pub fn has_step_to(self, other: Self) -> bool {
        let ahead = |reading: Self| i128::from(reading.wall) - i128::from(reading.time.0);
        (ahead(other) - ahead(self)).unsigned_abs() >= STEP_MIN.as_millis()
    }

    /// The time at which the wall clock shows this, if that was not set back.
    fn time_at(self, wall: u64) -> Time {
        self.time.after(Duration::from_millis(wall.saturating_sub(self.wall)))
    }

    /// The reading as bytes: both numbers in little-endian, the time first.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.time.0) | u128::from(self.wall) << 64).to_le_bytes()
    }

    /// The reading of bytes; none if they are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (time, rest) = bytes.split_first_chunk()?;
        let wall = rest.first_chunk()?;
        Some(Self { time: Time(u64::from_le_bytes(*time)), wall: u64::from_le_bytes(*wall) })
    }
}

/// The wall clock, in milliseconds since the epoch.
fn wall() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_begins_with_the_wall_clock_and_does_not_run_backwards() {
        let first = Time::now();
        assert!(wall().abs_diff(first.0) < 60_000, "{first:?}");
        for _ in 0..1000 {
            assert!(Time::now() >= first);
        }
    }

    #[test]
    fn the_wall_clock_shows_now_and_what_is_to_come() {
        for ahead in [0, 3600] {
            let ahead = Duration::from_secs(ahead);
            let shown = Time::now().after(ahead).on_wall_clock();
            let expected = SystemTime::now() + ahead;
            let tolerance = Duration::from_secs(60);
            assert!(shown <= expected + tolerance && expected <= shown + tolerance, "{shown:?}");
        }
    }

    #[test]
    fn a_time_on_the_wall_clock_comes_back_as_it_is() {
        let now = Time::now().0;
        for time in [now, now + 1, now + 3_600_001, now + 3_155_760_000_000].map(Time) {
            assert_eq!(Time::from_wall_clock(time.on_wall_clock()), time);
            let within = time.on_wall_clock() + Duration::from_micros(999);
            assert_eq!(Time::from_wall_clock(within), time);
        }
        let before_all = UNIX_EPOCH - Duration::from_millis(1);
        assert!(Time::from_wall_clock(before_all) < Time(now));
    }

    #[test]
    fn durations_are_added_and_told_apart() {
        let now = Time(1_000);
        assert_eq!(now.after(Duration::from_secs(2)), Time(3_000));
        assert_eq!(now.until(Time(1_500)), Duration::from_millis(500));
        assert_eq!(now.until(Time(500)), Duration::ZERO);
        assert_eq!(now.after(Duration::MAX), Time(u64::MAX));
    }

    #[test]
    fn time_goes_on_by_what_the_wall_clock_says_and_never_backwards() {
        // Since its start this store's wall clock was set back by 5000.
        let reading = Reading { time: Time(50_000), wall: 45_000 };
        let cases = [(45_000, 50_000), (46_000, 51_000), (44_000, 50_000), (0, 50_000)];
        for (wall, time) in cases {
            assert_eq!(reading.time_at(wall), Time(time), "at {wall}");
        }
        assert_eq!(reading.time_at(u64::MAX), Time(u64::MAX));
    }

    #[test]
    fn a_step_of_the_wall_clock_is_seen_in_both_directions() {
        let reading = |time, wall| Reading { time: Time(time), wall };
        let before = reading(10_000, 70_000);
        for after in [reading(20_000, 81_000), reading(20_000, 79_000), reading(10_000, 0)] {
            assert!(before.has_step_to(after) && after.has_step_to(before), "{after:?}");
        }
        for after in [before, reading(20_000, 80_999), reading(20_000, 79_001)] {
            assert!(!before.has_step_to(after) && !after.has_step_to(before), "{after:?}");
        }
    }

    #[test]
    fn a_reading_is_read_back() {
        let reading = Reading { time: Time(1 << 40), wall: u64::MAX - 7 };
        assert_eq!(Reading::from_bytes(&reading.to_bytes()), Some(reading));
        assert_eq!(Reading::from_bytes(&[0; 15]), None);
        assert!(!Reading::now().has_step_to(Reading::now()));
    }
}
