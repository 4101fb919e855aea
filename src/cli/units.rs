//! Sizes and times as people write them: `64MiB`, `1500`, `30s`, `500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() > 0 => Ok(Self(size.as_u64())),
            Ok(_) => Err("it has to be more than 0".to_owned()),
            Err(_) => Err("not a size such as 1500, 64KiB or 10MB".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let (shift, unit) = units
            .into_iter()
            .find(|(shift, _)| self.0 >> shift > 0 && self.0.trailing_zeros() >= *shift)
            .unwrap_or((0, "B"));
        write!(formatter, "{}{unit}", self.0 >> shift)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(span) if span > MAX => Err("longer than a year".to_owned()),
            Ok(Duration::ZERO) => Err("it has to be more than 0".to_owned()),
            Ok(span) => Ok(Self(span)),
            Err(_) => Err("not a time such as 30s, 500ms or 2m".to_owned()),
        }
    }
}

/// Longer times are taken for mistakes; clocks could not add them up.
const MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_nanos() == 0 {
            write!(formatter, "{}s", self.0.as_secs())
        } else {
            write!(formatter, "{}ms", self.0.as_millis())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let cases = [
            ("1", 1),
            ("1500", 1500),
            ("1500B", 1500),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("10MiB", 10_485_760),
            ("10MB", 10_000_000),
            ("1GiB", 1 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "0", "-1", "lots", "10XB", "0MiB", "99999999999999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_read_as_people_write_them() {
        let cases = [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)];
        for (text, millis) in cases {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "0s", "-1s", "30", "soon", "1000000days", "2years"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [1, 1023, 1024, 1536, 10 << 20, 3 << 30, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)), "{bytes}");
        }
        assert_eq!(Size(10 << 20).to_string(), "10MiB");
        for millis in [1, 500, 1000, 90_000] {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(span.to_string().parse(), Ok(span), "{millis} ms");
        }
    }
}
