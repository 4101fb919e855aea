//! The patience of a write that waits for space to be made.
//!
//! It counts progress, not time: as long as rounds of making space gain something
//! the write waits, on a slow disk as on a quick one. It ends after some idle rounds
//! in a row, and before the client gives up. Nothing here reads a clock or a disk.

use std::time::{Duration, Instant};

/// The longest that a write waits after it was submitted: less than clients and
/// proxies do, which is 30 s and more.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The longest that a round takes, but for its last step.
const PIECE: Duration = Duration::from_secs(1);

/// Rounds go on until so much can be spared, or as much as is enough for a small disk, but
/// for no longer than a piece if less will do.
pub const SPARE_BYTES_ENOUGH: u64 = 16 << 20;

/// The most idle rounds in a row. A single L0 file is left for the next
/// round, in which there are two, and a failure may not come again.
const IDLE_ROUNDS_MAX: u32 = 4;

/// The patience of one write.
pub struct Patience {
    needed_bytes: u64,
    /// Rounds go on until so much can be spared.
    enough_bytes: u64,
    /// The bytes to spare at the beginning, and the most since.
    first_bytes: u64,
    most_bytes: u64,
    begun: Instant,
    deadline: Instant,
    idle_rounds: u32,
}

/// The outcome of a round of making space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Something was swept, or has come nearer to the last level, where it gives
    /// space back.
    pub has_progress: bool,
    /// There is more to do.
    pub has_more: bool,
}

impl Round {
    /// The outcome of two rounds as one.
    pub fn and(self, other: Self) -> Self {
        Self {
            has_progress: self.has_progress || other.has_progress,
            has_more: self.has_more || other.has_more,
        }
    }
}

/// The reason for no more rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There is space.
    Enough,
    /// No more can be had.
    NothingMore,
    /// The client is to have an answer.
    TooLong,
}

impl Patience {
    /// The patience of a write submitted at `since`; `None` if it has waited too long
    /// already.
    pub fn begin(
        needed_bytes: u64,
        enough_bytes: u64,
        spare_bytes: u64,
        since: Instant,
        now: Instant,
    ) -> Option<Self> {
        let deadline = since + WAIT_MAX;
        (now + PIECE <= deadline).then_some(Self {
            needed_bytes,
            enough_bytes,
            first_bytes: spare_bytes,
            most_bytes: spare_bytes,
            begun: now,
            deadline,
            idle_rounds: 0,
        })
    }

    /// The time that a part of the next round may take.
    pub fn piece(&self, now: Instant) -> Duration {
        PIECE.min(self.deadline.saturating_duration_since(now))
    }

    /// Has the next round be the last.
    pub fn hurry(&mut self) {
        self.deadline = self.begun;
    }

    pub fn is_satisfied_with(&self, spare_bytes: u64) -> bool {
        spare_bytes >= self.needed_bytes
    }

    /// Returns true if more can be spared than at the beginning, or could at some time.
    pub fn has_gained(&self) -> bool {
        self.most_bytes > self.first_bytes
    }

    /// Takes in a round, after which so much can be spared. `None` if there is
    /// another one.
    pub fn after(&mut self, round: Round, spare_bytes: u64, now: Instant) -> Option<Ending> {
        let has_progress = round.has_progress || spare_bytes > self.most_bytes;
        self.idle_rounds = if has_progress { 0 } else { self.idle_rounds + 1 };
        self.most_bytes = self.most_bytes.max(spare_bytes);
        let fits = self.is_satisfied_with(spare_bytes);
        let is_late = now.saturating_duration_since(self.begun) > PIECE;
        if fits && (is_late || spare_bytes >= self.enough_bytes) {
            Some(Ending::Enough)
        } else if !round.has_more || self.idle_rounds >= IDLE_ROUNDS_MAX {
            Some(if fits { Ending::Enough } else { Ending::NothingMore })
        } else if now >= self.deadline {
            Some(if fits { Ending::Enough } else { Ending::TooLong })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: u64 = 1000;
    const SECOND: Duration = Duration::from_secs(1);

    const IDLE: Round = Round { has_progress: false, has_more: true };
    const BUSY: Round = Round { has_progress: true, has_more: true };

    /// The patience of a write that has just been handed over, and when.
    fn patience() -> (Patience, Instant) {
        let now = Instant::now();
        (Patience::begin(NEEDED, SPARE_BYTES_ENOUGH, 0, now, now).expect("it has not waited"), now)
    }

    /// A disk so slow that a round takes most of the time.
    #[test]
    fn no_time_is_too_long_while_there_is_progress() {
        for (round, gained) in [(IDLE, 1), (BUSY, 0)] {
            let (mut patience, begun) = patience();
            assert_eq!(patience.after(round, gained, begun + 9 * SECOND), None);
            assert_eq!(patience.after(round, 2 * gained, begun + 19 * SECOND), None);
            let ending = patience.after(round, NEEDED, begun + 90 * SECOND);
            assert_eq!(ending, Some(Ending::Enough));
        }
    }

    #[test]
    fn the_client_has_an_answer_in_time_all_the_same() {
        let (mut patience, begun) = patience();
        let mut now = begun;
        let mut gained = 0;
        let ending = loop {
            now += patience.piece(now);
            gained += 1;
            if let Some(ending) = patience.after(BUSY, gained, now) {
                break ending;
            }
        };
        assert_eq!((ending, now), (Ending::TooLong, begun + WAIT_MAX));
        assert!(patience.has_gained());
    }

    #[test]
    fn it_counts_from_when_the_write_was_handed_over() {
        let since = Instant::now();
        let begin = |waited| Patience::begin(NEEDED, SPARE_BYTES_ENOUGH, 0, since, since + waited);
        assert!(begin(WAIT_MAX).is_none());
        assert!(begin(WAIT_MAX.saturating_sub(PIECE / 2)).is_none());
        let mut patience =
            begin(WAIT_MAX.saturating_sub(PIECE)).expect("there is time for a piece");
        assert_eq!(patience.after(BUSY, 0, since + WAIT_MAX), Some(Ending::TooLong));
    }

    #[test]
    fn rounds_that_come_to_nothing_end_it_however_quick_they_are() {
        let (mut patience, now) = patience();
        let mut endings = (1..100).map(|_| patience.after(IDLE, 0, now));
        let last = endings.position(|ending| ending == Some(Ending::NothingMore));
        assert_eq!(last, Some(IDLE_ROUNDS_MAX as usize - 1));
        assert!(!patience.has_gained());
    }

    #[test]
    fn one_that_comes_to_something_begins_the_count_anew() {
        let (mut patience, now) = patience();
        for (round, gained) in [(IDLE, 1), (BUSY, 1), (IDLE, 2), (BUSY, 2)] {
            for _ in 1..IDLE_ROUNDS_MAX {
                assert_eq!(patience.after(IDLE, 0, now), None);
            }
            assert_eq!(patience.after(round, gained, now), None);
        }
    }

    /// More is gained than a write needs, but none waits long for that.
    #[test]
    fn it_goes_on_for_a_piece_where_there_is_little_more_than_enough() {
        let (mut patience, begun) = patience();
        assert_eq!(patience.after(BUSY, NEEDED, begun + PIECE), None);
        assert_eq!(patience.after(BUSY, NEEDED, begun + 2 * PIECE), Some(Ending::Enough));
        let (mut patience, begun) = self::patience();
        assert_eq!(patience.after(BUSY, SPARE_BYTES_ENOUGH, begun), Some(Ending::Enough));
    }

    #[test]
    fn it_ends_where_there_is_no_more() {
        for (spare_bytes, ending) in [(0, Ending::NothingMore), (NEEDED, Ending::Enough)] {
            let (mut patience, begun) = patience();
            let last = Round { has_more: false, ..BUSY };
            assert_eq!(patience.after(last, spare_bytes, begun), Some(ending));
        }
    }

    #[test]
    fn whoever_is_in_a_hurry_gets_an_answer_after_the_next_round() {
        let (mut patience, begun) = patience();
        assert_eq!(patience.after(BUSY, 1, begun), None);
        patience.hurry();
        assert_eq!(patience.piece(begun), Duration::ZERO);
        assert_eq!(patience.after(BUSY, 2, begun), Some(Ending::TooLong));
    }
}
