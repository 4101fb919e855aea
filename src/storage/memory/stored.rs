//! The form of an entry in the maps.

use crate::storage::{Entry, Time, record};
use bytes::Bytes;
use std::sync::Arc;

/// The largest value that is copied into one compact block; a larger one keeps
/// the buffer that it arrived in.
const COMPACT_BYTES_MAX: usize = 4096;

/// The largest value that is changed at once; a larger one keeps others waiting.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// An entry as the map holds it: two words, and no metadata for a plain one.
#[derive(Clone)]
pub enum Stored {
    /// An entry's record.
    Compact(Arc<[u8]>),
    /// An entry with a value too large to be worth a copy.
    Whole(Arc<Entry>),
}

impl Stored {
    pub fn new(entry: Entry) -> Self {
        if entry.value().len() > COMPACT_BYTES_MAX {
            Self::Whole(Arc::new(entry))
        } else {
            Self::Compact(record::encode(&entry).into())
        }
    }

    /// The entry, expired or not.
    pub fn into_entry(self) -> Entry {
        match self {
            Self::Whole(entry) => Arc::unwrap_or_clone(entry),
            Self::Compact(block) => {
                record::decode(Bytes::from_owner(block)).expect("it was written here")
            }
        }
    }

    /// The entry, unless it has expired.
    pub fn into_living(self) -> Option<Entry> {
        let entry = self.into_entry();
        entry.lives(Time::now).then_some(entry)
    }

    /// Returns true if its value is too large to be changed at once.
    pub fn is_large(&self) -> bool {
        matches!(self, Self::Whole(entry) if entry.value().len() > SMALL_BYTES_MAX)
    }

    /// The expiry.
    pub fn expiry(&self) -> Option<Time> {
        match self {
            Self::Compact(block) => record::expiry(block),
            Self::Whole(entry) => entry.expiry(),
        }
    }

    /// Returns true unless it has expired.
    pub fn lives(&self) -> bool {
        self.expiry().is_none_or(|expiry| expiry > Time::now())
    }

    /// Returns true for the same block in memory, or none twice. While one is
    /// held no other can be in its place.
    pub fn are_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(Self::Compact(one)), Some(Self::Compact(other))) => Arc::ptr_eq(one, other),
            (Some(Self::Whole(one)), Some(Self::Whole(other))) => Arc::ptr_eq(one, other),
            (_, _) => false,
        }
    }

    /// The allocated bytes of this entry and its key.
    pub fn cost(&self, key: &str) -> u64 {
        let value = match self {
            Self::Compact(block) => allocated(ARC_HEADER_BYTES + block.len()),
            Self::Whole(entry) => {
                let content_type =
                    entry.content_type().map_or(0, |text| allocated(ARC_HEADER_BYTES + text.len()));
                allocated(ARC_HEADER_BYTES + size_of::<Entry>())
                    + allocated(BYTES_HEADER_BYTES)
                    + allocated(entry.value().len())
                    + content_type
            }
        };
        allocated(key.len()) + value
    }
}

/// The two counters of an `Arc`.
const ARC_HEADER_BYTES: usize = 16;

/// The allocation of `Bytes` beside a buffer once it is shared.
const BYTES_HEADER_BYTES: usize = 24;

/// The bytes that a request for `size` takes from a general-purpose allocator:
/// a header of 8, steps of 16, never under 32.
pub fn allocated(size: usize) -> u64 {
    ((size + 8).next_multiple_of(16)).max(32) as u64
}
