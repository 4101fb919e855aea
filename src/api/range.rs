//! Range requests (RFC 9110, 14): part of a value.

use super::grammar::OWS;
use std::ops::Range;

/// The part of a value that a `Range` selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it, as without a `Range`: 200.
    Whole,
    /// These bytes, at least one: 206.
    Slice(Range<usize>),
    /// The range is empty, or begins past the end: 416.
    Unsatisfiable,
}

/// Selects the part of a value of `bytes` bytes that a `Range` field asks for
/// (RFC 9110, 14.1.2 and 14.2).
///
/// A single range of bytes is supported. Several ranges, other units, malformed
/// ranges and those that end before they begin are ignored, as 14.2 allows.
pub fn select(field: &str, bytes: usize) -> Part {
    match parse(field, bytes) {
        None => Part::Whole,
        Some(slice) if slice.is_empty() => Part::Unsatisfiable,
        Some(slice) => Part::Slice(slice),
    }
}

/// `Content-Range` (RFC 9110, 14.4) for a slice, not empty, of a value of `bytes`
/// bytes.
pub fn content_range(slice: &Range<usize>, bytes: usize) -> String {
    let last = slice.end.checked_sub(1).expect("a slice has at least one byte");
    format!("bytes {}-{last}/{bytes}", slice.start)
}

/// `Content-Range` beside 416 (RFC 9110, 14.4 and 15.5.17) for a value of `bytes`
/// bytes.
pub fn unsatisfied(bytes: usize) -> String {
    format!("bytes */{bytes}")
}

/// The slice of a value of `bytes` bytes that a field asks for, perhaps an empty
/// one. `None` for a field to ignore.
fn parse(field: &str, bytes: usize) -> Option<Range<usize>> {
    let (unit, set) = field.trim_matches(OWS).split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // Empty members of a list are skipped (RFC 9110, 5.6.1.2).
    let mut specs = set.split(',').map(|spec| spec.trim_matches(OWS));
    let spec = specs.find(|spec| !spec.is_empty())?;
    if specs.any(|spec| !spec.is_empty()) {
        return None;
    }
    match spec.split_once('-')? {
        // The last bytes.
        ("", suffix) => Some(bytes.saturating_sub(position(suffix)?)..bytes),
        (first, "") => Some(position(first)?..bytes),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then(|| first..bytes.min(last.saturating_add(1)))
        }
    }
}

/// `1*DIGIT`. A position past the largest number is past the end of any value.
fn position(digits: &str) -> Option<usize> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_range_selects_a_slice() {
        let cases = [
            ("bytes=0-0", 0..1),
            ("bytes=0-4", 0..5),
            ("bytes=2-4", 2..5),
            ("bytes=9-9", 9..10),
            ("bytes=0-", 0..10),
            ("bytes=3-", 3..10),
            ("bytes=-1", 9..10),
            ("bytes=-10", 0..10),
            ("bytes=-11", 0..10),
            ("bytes=3-10", 3..10),
            ("bytes=003-0000000000000000000000004", 3..5),
            ("bytes=0-18446744073709551615", 0..10),
            ("bytes=0-99999999999999999999", 0..10),
            ("bytes=-99999999999999999999", 0..10),
            ("BYTES=0-1", 0..2),
            (" Bytes=0-1\t", 0..2),
            ("bytes=, 0-1 ,\t,", 0..2),
        ];
        for (field, slice) in cases {
            assert_eq!(select(field, 10), Part::Slice(slice), "{field:?}");
        }
    }

    #[test]
    fn a_range_behind_the_end_cannot_be_satisfied() {
        for field in [
            "bytes=10-",
            "bytes=10-10",
            "bytes=11-20",
            "bytes=-0",
            "bytes=-000",
            "bytes=99999999999999999999-",
            "bytes=99999999999999999999-99999999999999999999",
        ] {
            assert_eq!(select(field, 10), Part::Unsatisfiable, "{field:?}");
        }
        for field in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(select(field, 0), Part::Unsatisfiable, "{field:?} of nothing");
        }
    }

    #[test]
    fn what_is_not_one_range_of_bytes_is_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5",
            "bytes=5-4",
            "bytes=20-10",
            "bytes=0-1,3-4",
            "bytes=0-1, -1",
            "bytes=0-1 3-4",
            "bytes=a-b",
            "bytes=0-b",
            "bytes=0x0-1",
            "bytes=+0-1",
            "bytes=0-+1",
            "bytes=--1",
            "bytes=0--1",
            "bytes=0-1-2",
            "bytes=0 -1",
            "bytes=0- 1",
            "bytes=1.0-2",
            "bytes=\u{661}-2",
            "bytes =0-1",
            "bytes:0-1",
            "bytes 0-1",
            "bytes==0-1",
            "xbytes=0-1",
            "lines=0-1",
            "=0-1",
            "0-1",
            "\u{a0}bytes=0-1",
        ] {
            assert_eq!(select(field, 10), Part::Whole, "{field:?}");
        }
    }

    #[test]
    fn content_ranges_read_as_http_writes_them() {
        assert_eq!(content_range(&(0..1), 1), "bytes 0-0/1");
        assert_eq!(content_range(&(2..5), 10), "bytes 2-4/10");
        assert_eq!(unsatisfied(10), "bytes */10");
    }

    /// The part with the positions that `asked` names, which are neighbours.
    fn part(bytes: usize, asked: impl Fn(usize) -> bool) -> Part {
        let named = || (0..bytes).filter(|position| asked(*position));
        match (named().next(), named().next_back()) {
            (Some(first), Some(last)) => Part::Slice(first..last + 1),
            (_, _) => Part::Unsatisfiable,
        }
    }

    proptest! {
        /// The definition of RFC 9110, 14.1.2, byte by byte.
        #[test]
        fn a_slice_has_exactly_the_bytes_asked_for(
            first in 0_usize..40,
            last in 0_usize..40,
            bytes in 0_usize..30,
        ) {
            let opened = select(&format!("bytes={first}-"), bytes);
            prop_assert_eq!(opened, part(bytes, |at| at >= first));
            let ending = select(&format!("bytes=-{last}"), bytes);
            prop_assert_eq!(ending, part(bytes, |at| at + last >= bytes));
            let between = select(&format!("bytes={first}-{last}"), bytes);
            if first <= last {
                prop_assert_eq!(between, part(bytes, |at| at >= first && at <= last));
            } else {
                prop_assert_eq!(between, Part::Whole);
            }
        }

        #[test]
        fn a_slice_lies_within_the_value(
            field in prop_oneof![
                any::<String>(),
                "bytes=[0-9]{0,21}-[0-9]{0,21}",
                "bytes=[-0-9, ]{0,8}",
            ],
            bytes in prop_oneof![any::<usize>(), 0_usize..100],
        ) {
            if let Part::Slice(slice) = select(&field, bytes) {
                prop_assert!(slice.start < slice.end && slice.end <= bytes);
                let (first, last) = (slice.start, slice.end - 1);
                let expected = format!("bytes {first}-{last}/{bytes}");
                prop_assert_eq!(content_range(&slice, bytes), expected);
            }
        }
    }
}
