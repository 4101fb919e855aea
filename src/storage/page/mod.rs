//! Pages of sorted keys.
//!
//! ```text
//! Listing ──► Builder ◄── an engine walks its keys in order ──► Page ──► next: Start
//!    ▲                                                                    │
//!    └────────────────── the listing of the next page ◄───────────────────┘
//! ```
//!
//! A [`Listing`] asks for a page of a [`Range`] of keys. The engine adds keys to a
//! [`Builder`], which rolls them up into groups, counts, and tells where to go on. Nothing
//! here knows how an engine keeps its keys.

mod builder;

use super::Entry;
pub use builder::Builder;
use std::any::Any;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// The most keys and groups of a page.
pub const PAGE_KEYS_MAX: usize = 1000;

/// A page ends once its keys and values have this many bytes.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// A run of the keys, in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The prefix of all of them; the empty one is every key's.
    pub prefix: Box<str>,
    /// The start, within the prefix or not.
    pub start: Start,
    /// From the last key to the first.
    pub is_reverse: bool,
}

/// The start of a range, in its direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first key.
    #[default]
    First,
    /// At this key or, if it is not there, at the next one.
    At(Box<str>),
    /// After this key, there or not. In a listing with a delimiter a key inside a
    /// group stands for the group.
    After(Box<str>),
    /// After all keys with this prefix.
    AfterPrefix(Box<str>),
}

/// A page to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The keys to list.
    pub range: Range,
    /// Keys that have this behind the prefix are rolled up into one group each: the
    /// key up to the end of the first delimiter.
    pub delimiter: Option<Box<str>>,
    /// Each key comes with its entry. Does not go with a delimiter.
    pub with_entries: bool,
    /// The keys are to be deleted, and their entries only tell how much that is: an engine
    /// that does not hold them reads none, and lists what is no value too.
    pub is_to_delete: bool,
    /// The most keys and groups, from 1 to [`PAGE_KEYS_MAX`].
    pub keys_max: usize,
    /// The moment at which it is read.
    pub moment: Moment,
}

/// The moment at which a page is read.
#[derive(Clone, Default)]
pub enum Moment {
    /// When it is read.
    #[default]
    Now,
    /// The same, and the page has it for the pages that follow, if the engine can hold one.
    Hold,
    /// That of an earlier page. It is the engine's own, and holds room on a disk.
    Held(Arc<dyn Any + Send + Sync>),
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Now, Self::Now) | (Self::Hold, Self::Hold) => true,
            (Self::Held(one), Self::Held(other)) => Arc::ptr_eq(one, other),
            (Self::Now | Self::Hold | Self::Held(_), _) => false,
        }
    }
}

impl Eq for Moment {}

impl fmt::Debug for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Now => "Now",
            Self::Hold => "Hold",
            Self::Held(_) => "Held",
        })
    }
}

/// A part of a listing that was read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// All keys and groups, one behind the other.
    keys: KeyTexts,
    entries: Vec<Entry>,
    /// The start of the rest; none once the end was reached. A page may have few keys,
    /// or none, and others behind it.
    pub next: Option<Start>,
    /// The moment for the pages that follow: [`Moment::Held`] if one is held. An engine that
    /// cannot may say [`Moment::Hold`]: its pages of an export are short.
    pub moment: Moment,
    /// A key behind the page was seen: the rest has one. Without that it may have none.
    pub is_followed: bool,
}

impl Page {
    /// The keys and groups, in the order of the listing.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter()
    }

    /// The number of keys and groups.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// The entries of the keys, if the listing is with entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The last key or group.
    pub fn last(&self) -> Option<&str> {
        self.keys.last()
    }
}

/// The texts of keys, one behind the other in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyTexts {
    text: String,
    ends: Vec<usize>,
}

impl KeyTexts {
    pub fn push(&mut self, key: &str) {
        self.text.push_str(key);
        self.ends.push(self.text.len());
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }

    pub fn last(&self) -> Option<&str> {
        let (_, before) = self.ends.split_last()?;
        self.text.get(before.last().copied().unwrap_or(0)..)
    }
}

/// Bounds of keys by their bytes.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Range {
    /// The bounds of its keys, or none if no key can be within them.
    pub fn bounds(&self) -> Option<Bounds> {
        let prefix = self.prefix.as_bytes();
        let (lower, upper) = match (&self.start, self.is_reverse) {
            (Start::First, _) => (Vec::new(), None),
            (Start::At(key), false) => (key.as_bytes().to_vec(), None),
            (Start::At(key), true) => (Vec::new(), Some(next_to(key))),
            (Start::After(key), false) => (next_to(key), None),
            (Start::AfterPrefix(group), false) => (end_of(group.as_bytes())?, None),
            (Start::After(key) | Start::AfterPrefix(key), true) => {
                (Vec::new(), Some(key.as_bytes().to_vec()))
            }
        };
        let lower = lower.max(prefix.to_vec());
        let upper = upper.into_iter().chain(end_of(prefix)).min();
        let is_empty = upper.as_ref().is_some_and(|upper| *upper <= lower);
        (!is_empty)
            .then(|| (Bound::Included(lower), upper.map_or(Bound::Unbounded, Bound::Excluded)))
    }
}

/// The least bytes above all keys with a prefix; none for the empty prefix. A prefix
/// is UTF-8, so its last byte is no 0xff.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// The least bytes above a key.
fn next_to(key: &str) -> Vec<u8> {
    [key.as_bytes(), &[0]].concat()
}

#[cfg(test)]
pub mod tests;
