//! Times to live: the query parameter `ttl` and the header field `TTL`.

use super::Refusal;
use super::fields::Fields;
use super::grammar::OWS;
use crate::storage::{Entry, Time};
use std::time::Duration;

/// The longest time to live: a hundred years. More counts as a mistake.
const TTL_MAX: Duration = Duration::from_secs(36_525 * 24 * 60 * 60);

/// The time to live that a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// `keep`: that of the entry before.
    Keep,
    /// `none`: the key never expires.
    Never,
    /// From now on.
    For(Duration),
    /// Until this moment.
    Until(Time),
}

impl Ttl {
    /// The time to live in the query and in the fields, which have to agree.
    pub fn parse(query: Option<&str>, fields: Fields<'_>) -> Result<Option<Self>, Refusal> {
        let in_query = query.map(|text| match text {
            "keep" => Some(Self::Keep),
            "none" => Some(Self::Never),
            text => parse_duration(text).map(Self::For),
        });
        let in_fields = fields.all("TTL").map(|text| text.trim_matches(OWS));
        let in_fields = in_fields.map(|text| parse_duration(text).map(Self::For));
        let mut agreed = None;
        for ttl in in_fields.chain(in_query) {
            let ttl = ttl.ok_or(Refusal::TtlMalformed)?;
            if agreed.replace(ttl).is_some_and(|other| other != ttl) {
                return Err(Refusal::TtlContradictory);
            }
        }
        Ok(agreed)
    }

    /// The expiry of an entry that replaces `before` now; `None` never expires.
    pub fn expiry(self, before: Option<&Entry>) -> Option<Time> {
        match self {
            Self::Keep => before.and_then(Entry::expiry),
            Self::Never => None,
            Self::For(duration) => Some(Time::now().after(duration)),
            Self::Until(expiry) => Some(expiry),
        }
    }
}

/// Parses a whole number of seconds (`60`), or of another unit: `500ms`, `90s`,
/// `5m`, `2h`, `7d`. `None` for 0, for more than [`TTL_MAX`], and for anything
/// else: a sign, a space, a fraction, another unit.
///
/// humantime, which reads durations on the command line, would accept `1h 30m`,
/// `1month` and `2 years`, which are not in the contract, and reject `60`,
/// which is.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let milliseconds_each: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    let milliseconds = digits.parse::<u64>().ok()?.checked_mul(milliseconds_each)?;
    let duration = Duration::from_millis(milliseconds);
    (!duration.is_zero() && duration <= TTL_MAX).then_some(duration)
}

/// The value of a `TTL` field for a key that is there, and expires then.
pub fn seconds_until(expiry: Time) -> u64 {
    let left = Time::now().until(expiry).as_millis();
    // 0 would say that the key is gone, which it was not.
    seconds_left(u64::try_from(left).unwrap_or(u64::MAX).max(1))
}

/// The value of a `TTL` field for a key with `milliseconds` left. Rounded up:
/// 0 would say that the key is gone.
fn seconds_left(milliseconds: u64) -> u64 {
    milliseconds.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let cases = [
            ("60", 60_000),
            ("1", 1000),
            ("007", 7000),
            ("1ms", 1),
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("36525d", 3_155_760_000_000),
            ("3155760000", 3_155_760_000_000),
            ("3155760000000ms", 3_155_760_000_000),
        ];
        for (text, milliseconds) in cases {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(text), Some(duration), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "0",
            "0ms",
            "00d",
            "-1",
            "-0",
            "+1",
            "1.5",
            "1,5",
            "1.0s",
            "1e3",
            "0x10",
            " 60",
            "60 ",
            "60 s",
            "1h30m",
            "1h 30m",
            "1ms1",
            "s",
            "ms",
            "60S",
            "5M",
            "500us",
            "1w",
            "1month",
            "1y",
            "1days",
            "soon",
            "none",
            "keep",
            "\u{661}",
            "1\u{b5}s",
            "36526d",
            "3155760001",
            "3155760000001ms",
            "18446744073709551616",
            "18446744073709552",
            "213503982335d",
        ] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_left_is_rounded_up() {
        for (milliseconds, seconds) in
            [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_999, 60)]
        {
            assert_eq!(seconds_left(milliseconds), seconds, "{milliseconds} ms");
        }
        assert_eq!(seconds_left(u64::MAX), 18_446_744_073_709_552);
    }

    proptest! {
        #[test]
        fn a_number_of_seconds_is_what_is_left_of_it(seconds in 1..=TTL_MAX.as_secs()) {
            let duration = parse_duration(&seconds.to_string()).expect("within the limit");
            let milliseconds = u64::try_from(duration.as_millis()).expect("a hundred years fit");
            prop_assert_eq!(seconds_left(milliseconds), seconds);
            prop_assert_eq!(parse_duration(&format!("{seconds}s")), Some(duration));
            prop_assert_eq!(parse_duration(&format!("{milliseconds}ms")), Some(duration));
        }

        #[test]
        fn a_duration_is_within_its_limits(text in "[0-9]{1,22}(ms|[smhd]?)|.{0,6}") {
            if let Some(duration) = parse_duration(&text) {
                prop_assert!(text.starts_with(|first: char| first.is_ascii_digit()));
                prop_assert!(duration >= Duration::from_millis(1) && duration <= TTL_MAX);
            }
        }
    }
}
