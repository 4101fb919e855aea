//! The histogram of uses, and the choice that is made by it: what was used more often than
//! the median of all stays.
//!
//! Nothing here knows the disk.

use super::Candidate;

/// Where less than one part in so many goes all is left as it is.
const GONE_SHARE: u64 = 8;

/// Bytes by how often their keys were used, of what was met lately.
pub struct Histogram {
    bytes: [u64; 1 << u8::BITS],
    all: u64,
    /// What was met before counts half once there is as much again.
    bytes_max: u64,
}

impl Histogram {
    /// Nothing, and so many bytes at most from then on.
    pub fn within(bytes_max: u64) -> Self {
        Self { bytes: [0; 1 << u8::BITS], all: 0, bytes_max }
    }

    /// Notes so many bytes of a key with so many uses.
    pub fn note(&mut self, uses: u8, bytes: u64) {
        if let Some(noted) = self.bytes.get_mut(usize::from(uses)) {
            *noted += bytes;
            self.all += bytes;
        }
        if self.all > self.bytes_max {
            self.bytes.iter_mut().for_each(|bytes| *bytes /= 2);
            self.all = self.bytes.iter().sum();
        }
    }

    /// The uses of the median.
    fn median(&self) -> u8 {
        let mut bytes = 0;
        let reaches_half = |each: &u64| {
            bytes += each;
            bytes >= self.all.div_ceil(2)
        };
        let median = self.bytes.iter().position(reaches_half);
        median.and_then(|uses| u8::try_from(uses).ok()).unwrap_or(u8::MAX)
    }

    /// Splits candidates into those that are kept, and those that go: all that are of no
    /// more use than the median. None goes where that would give little, unless some must:
    /// then it is at least half of them.
    pub fn split(&mut self, candidates: Vec<Candidate>, is_urgent: bool) -> [Vec<Candidate>; 2] {
        for candidate in &candidates {
            self.note(candidate.uses, candidate.bytes);
        }
        let mut median = self.median();
        if is_urgent {
            let mut own: Vec<u8> = candidates.iter().map(|it| it.uses).collect();
            own.sort_unstable();
            let middle = own.get(own.len() / 2).copied();
            median = median.max(middle.unwrap_or(0));
        }
        let bytes_of = |candidates: &[Candidate]| candidates.iter().map(|it| it.bytes).sum::<u64>();
        let all = bytes_of(&candidates);
        let (mut kept, mut evicted): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|it| it.uses > median);
        if !is_urgent && bytes_of(&evicted) < all / GONE_SHARE {
            kept.append(&mut evicted);
        }
        [kept, evicted]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Key;
    use bytes::Bytes;

    fn candidates(uses: &[u8]) -> Vec<Candidate> {
        let key = |number: usize| Key::new(number.to_string()).expect("a key");
        let candidate = |(number, uses): (usize, &u8)| Candidate {
            key: key(number),
            under: Bytes::new(),
            record: None,
            bytes: 100,
            uses: *uses,
        };
        uses.iter().enumerate().map(candidate).collect()
    }

    fn uses(candidates: &[Candidate]) -> Vec<u8> {
        candidates.iter().map(|candidate| candidate.uses).collect()
    }

    #[test]
    fn what_is_used_more_than_the_median_of_all_stays() {
        let met = |written: &[(u8, u64)]| {
            let mut met = Histogram::within(10_000);
            for (uses, bytes) in written {
                met.note(*uses, *bytes);
            }
            met
        };
        let once = &[(64, 5000)][..];
        for (written, found, is_urgent, kept, evicted) in [
            (once, &[64, 80, 0, 72][..], false, &[80, 72][..], &[64, 0][..]),
            // Nothing goes of a file of keys in use, unless something must.
            (once, &[80, 81, 82, 83], false, &[], &[]),
            (once, &[80, 81, 82, 83], true, &[83], &[80, 81, 82]),
            (once, &[90; 9], true, &[], &[90; 9]),
            // So little is not worth it.
            (once, &[64, 90, 90, 90, 90, 90, 90, 90, 90], false, &[], &[]),
            (&[(80, 5000)], &[80, 81, 64], false, &[81], &[80, 64]),
        ] {
            let [stays, goes] = met(written).split(candidates(found), is_urgent);
            let expected = if evicted.is_empty() { found } else { kept };
            assert_eq!(uses(&goes), evicted, "{found:?}");
            assert_eq!(stays.len(), expected.len(), "{found:?}");
        }
    }

    #[test]
    fn what_was_met_long_ago_counts_less() {
        let mut met = Histogram::within(1000);
        met.note(80, 900);
        assert_eq!(met.median(), 80);
        (0..9).for_each(|_| met.note(64, 300));
        assert_eq!(met.median(), 64);
    }
}
