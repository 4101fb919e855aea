//! Positions in a history, and their text.

use crate::storage::Time;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// A position in the history of a store: all changes up to there have taken effect. In
/// text `BIRTH-PLACE`: the birth in hexadecimal digits, the place in decimal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The birth of the history, which no other has.
    pub birth: u64,
    /// The place behind the last change. No change has place 0, which is before every
    /// history.
    pub place: u64,
}

/// A text that is not a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRevision;

impl Revision {
    /// The beginning of a birth that there has not been.
    pub fn newborn() -> Self {
        // The hasher has a key that no other one of the process has, and that was drawn
        // by lot.
        Self { birth: RandomState::new().hash_one(Time::now().to_bits()), place: 1 }
    }

    /// The place before every history of the same birth: nobody can go on from there.
    #[must_use]
    pub fn before_all(self) -> Self {
        Self { place: 0, ..self }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{}", self.birth, self.place)
    }
}

impl FromStr for Revision {
    type Err = InvalidRevision;

    /// Takes nothing but the text that a revision has.
    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        let (birth, place) = text.split_once('-').ok_or(InvalidRevision)?;
        let is_lower_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        // A number has no sign, and no zeros before it.
        let is_number = |digits: &str, is_digit: fn(u8) -> bool| {
            digits.bytes().all(is_digit) && (digits == "0" || !digits.starts_with('0'))
        };
        if !is_number(birth, is_lower_hex) || !is_number(place, |byte| byte.is_ascii_digit()) {
            return Err(InvalidRevision);
        }
        let birth = u64::from_str_radix(birth, 16).map_err(|_| InvalidRevision)?;
        let place = place.parse().map_err(|_| InvalidRevision)?;
        Ok(Self { birth, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_its_own_revision_or_none() {
        let revision = |birth, place| Ok(Revision { birth, place });
        for (text, expected) in [
            ("6927f1a2-1042", revision(0x6927_f1a2, 1042)),
            ("0-0", revision(0, 0)),
            ("ffffffffffffffff-18446744073709551615", revision(u64::MAX, u64::MAX)),
            ("10000000000000000-1", Err(InvalidRevision)),
            ("1-18446744073709551616", Err(InvalidRevision)),
            ("", Err(InvalidRevision)),
            ("0", Err(InvalidRevision)),
            ("-", Err(InvalidRevision)),
            ("1-", Err(InvalidRevision)),
            ("-1", Err(InvalidRevision)),
            ("1--1", Err(InvalidRevision)),
            ("1-1-1", Err(InvalidRevision)),
            ("+1-1", Err(InvalidRevision)),
            ("1-+1", Err(InvalidRevision)),
            ("A-1", Err(InvalidRevision)),
            ("a-a", Err(InvalidRevision)),
            ("01-1", Err(InvalidRevision)),
            ("1-01", Err(InvalidRevision)),
            (" 1-1", Err(InvalidRevision)),
            ("1-1\n", Err(InvalidRevision)),
        ] {
            assert_eq!(text.parse(), expected, "{text:?}");
        }
    }

    #[test]
    fn each_birth_is_new() {
        let mut births: Vec<u64> = (0..1000).map(|_| Revision::newborn().birth).collect();
        births.sort_unstable();
        births.dedup();
        assert_eq!(births.len(), 1000);
    }

    proptest! {
        #[test]
        fn it_is_read_back(birth: u64, place: u64) {
            let revision = Revision { birth, place };
            prop_assert_eq!(revision.to_string().parse(), Ok(revision));
        }
    }
}
