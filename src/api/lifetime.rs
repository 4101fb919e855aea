//! How long a key lives, as it is written in `ttl=` and in `TTL`.

use std::time::Duration;

/// The longest life of a key: a hundred years. A longer one is taken for a
/// mistake.
pub const LIFETIME_MAX: Duration = Duration::from_secs(36_525 * 24 * 60 * 60);

/// Reads a whole number of seconds (`60`), or of the unit behind it: `500ms`,
/// `90s`, `5m`, `2h`, `7d`. `None` for 0, for more than [`LIFETIME_MAX`], and
/// for anything else: a sign, a space, a fraction, another unit.
///
/// The command line reads its times with humantime. That would take `1h 30m`,
/// `1month` and `2 years` here, which are no part of the contract, and not
/// `60`, which is.
pub fn parse(text: &str) -> Option<Duration> {
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
    let lifetime = Duration::from_millis(milliseconds);
    (!lifetime.is_zero() && lifetime <= LIFETIME_MAX).then_some(lifetime)
}

/// The seconds to say of a key that has so many `milliseconds` left. They are
/// rounded up, so that a key which is still there never has 0 left.
pub fn seconds_left(milliseconds: u64) -> u64 {
    milliseconds.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lifetimes_read_as_people_write_them() {
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
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_lifetime_is_refused() {
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
            assert_eq!(parse(text), None, "{text:?}");
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
        fn a_number_of_seconds_is_what_is_left_of_it(seconds in 1..=LIFETIME_MAX.as_secs()) {
            let lifetime = parse(&seconds.to_string()).expect("within the limit");
            let milliseconds = u64::try_from(lifetime.as_millis()).expect("a hundred years fit");
            prop_assert_eq!(seconds_left(milliseconds), seconds);
            prop_assert_eq!(parse(&format!("{seconds}s")), Some(lifetime));
            prop_assert_eq!(parse(&format!("{milliseconds}ms")), Some(lifetime));
        }

        #[test]
        fn a_lifetime_is_within_its_limits(text in "[0-9]{1,22}(ms|[smhd]?)|.{0,6}") {
            if let Some(lifetime) = parse(&text) {
                prop_assert!(text.starts_with(|first: char| first.is_ascii_digit()));
                prop_assert!(lifetime >= Duration::from_millis(1) && lifetime <= LIFETIME_MAX);
            }
        }
    }
}
