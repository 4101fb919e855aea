//! The places of the first keys with some prefixes, as far as they are known.
//!
//! Keys that were taken from the beginning of a queue leave tombstones, and a walk to
//! the first one that is left would pass all of them each time. So the place where the
//! last walk has ended is kept, and a key that is written before it becomes the place.
//! A key that is deleted or expires leaves it: there is none before it then either.

use crate::storage::Key;
use crate::storage::prefixes::each_prefix_of;
use std::collections::BTreeMap;

/// The most prefixes. The one that was not used for the longest time gives way.
const PREFIXES_MAX: usize = 256;

/// The place of the first key with a prefix.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    Unknown,
    /// It is this key or one behind it.
    From(Key),
    /// There is none.
    Nowhere,
}

#[derive(Default)]
pub struct Firsts {
    places: BTreeMap<Box<[u8]>, Place>,
    uses: u64,
}

struct Place {
    /// None if there is no key.
    from: Option<Key>,
    used: u64,
}

impl Firsts {
    pub fn of(&self, prefix: &str) -> First {
        match self.places.get(prefix.as_bytes()).map(|place| place.from.clone()) {
            None => First::Unknown,
            Some(None) => First::Nowhere,
            Some(Some(key)) => First::From(key),
        }
    }

    /// Notes the first key with a prefix, or that there is none.
    pub fn note(&mut self, prefix: &str, first: Option<&Key>) {
        self.uses += 1;
        let place = Place { from: first.cloned(), used: self.uses };
        if let Some(known) = self.places.get_mut(prefix.as_bytes()) {
            *known = place;
            return;
        }
        if self.places.len() == PREFIXES_MAX {
            let oldest = self.places.iter().min_by_key(|(_, place)| place.used);
            if let Some(prefix) = oldest.map(|(prefix, _)| prefix.clone()) {
                self.places.remove(&prefix);
            }
        }
        self.places.insert(prefix.as_bytes().into(), place);
    }

    /// Notes that a key is written.
    pub fn put(&mut self, key: &Key) {
        each_prefix_of(&mut self.places, key.as_str(), |place| {
            if place.from.as_ref().is_none_or(|from| key < from) {
                place.from = Some(key.clone());
            }
        });
    }

    /// Forgets all, as changes that were noted have come to nothing.
    pub fn forget(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    #[test]
    fn the_prefix_that_was_not_used_for_the_longest_time_gives_way() {
        let mut firsts = Firsts::default();
        for number in 0..PREFIXES_MAX {
            firsts.note(&number.to_string(), None);
        }
        firsts.note("0", Some(&key("0")));
        firsts.note("another", None);
        assert_eq!(firsts.of("1"), First::Unknown);
        assert_eq!(firsts.of("0"), First::From(key("0")));
        assert_eq!((firsts.of("2"), firsts.of("another")), (First::Nowhere, First::Nowhere));
        assert_eq!(firsts.places.len(), PREFIXES_MAX);
    }

    proptest! {
        #[test]
        fn a_key_is_noted_for_all_of_its_prefixes_and_no_other(
            prefixes in vec("[ab\u{e9}]{0,4}", 0..12),
            keys in vec("[ab\u{e9}]{1,5}", 0..12),
        ) {
            let mut firsts = Firsts::default();
            for prefix in &prefixes {
                firsts.note(prefix, None);
            }
            for text in &keys {
                firsts.put(&key(text));
            }
            for prefix in &prefixes {
                let first = keys.iter().filter(|key| key.starts_with(prefix)).min();
                let expected = first.map_or(First::Nowhere, |first| First::From(key(first)));
                prop_assert_eq!(firsts.of(prefix), expected, "{}", prefix);
            }
        }
    }
}
