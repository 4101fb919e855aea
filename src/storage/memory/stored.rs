//! How the maps hold an entry.

use crate::storage::{Entry, Time, record};
use bytes::Bytes;
use std::sync::Arc;

/// A value up to this size is copied into one compact block; a larger one
/// keeps the buffer that it arrived in.
const COMPACT_BYTES_MAX: usize = 4096;

/// To read a value up to this size and to write it anew takes no longer than
/// others may wait.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// An entry as the map holds it: two words, and no metadata for a plain one.
#[derive(Clone)]
pub(super) enum Stored {
    /// An entry's record.
    Compact(Arc<[u8]>),
    /// An entry whose value is too large to be worth a copy.
    Whole(Arc<Entry>),
}

impl Stored {
    pub(super) fn new(entry: Entry) -> Self {
        if entry.value().len() > COMPACT_BYTES_MAX {
            Self::Whole(Arc::new(entry))
        } else {
            Self::Compact(record::encode(&entry).into())
        }
    }

    /// The entry, expired or not.
    pub(super) fn into_entry(self) -> Entry {
        match self {
            Self::Whole(entry) => Arc::unwrap_or_clone(entry),
            Self::Compact(block) => {
                record::decode(Bytes::from_owner(block)).expect("it was written here")
            }
        }
    }

    /// The entry, unless it has expired.
    pub(super) fn into_living(self) -> Option<Entry> {
        let entry = self.into_entry();
        entry.lives(Time::now).then_some(entry)
    }

    /// Whether it takes long to change it.
    pub(super) fn is_large(&self) -> bool {
        matches!(self, Self::Whole(entry) if entry.value().len() > SMALL_BYTES_MAX)
    }

    /// When it expires.
    pub(super) fn expiry(&self) -> Option<Time> {
        match self {
            Self::Compact(block) => record::expiry(block),
            Self::Whole(entry) => entry.expiry(),
        }
    }

    /// Whether it is there at this moment.
    pub(super) fn lives(&self) -> bool {
        self.expiry().is_none_or(|expiry| expiry > Time::now())
    }

    /// Whether these are the same thing in memory, or both nothing. While one
    /// is held no other can be in its place.
    pub(super) fn are_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(Self::Compact(one)), Some(Self::Compact(other))) => Arc::ptr_eq(one, other),
            (Some(Self::Whole(one)), Some(Self::Whole(other))) => Arc::ptr_eq(one, other),
            (_, _) => false,
        }
    }

    /// The bytes that the allocator gives for this entry and its key.
    pub(super) fn cost(&self, key: &str) -> u64 {
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

/// The two counters in front of what an `Arc` points to.
const ARC_HEADER_BYTES: usize = 16;

/// What `Bytes` allocates beside a buffer once it is shared.
const BYTES_HEADER_BYTES: usize = 24;

/// The bytes that a request for `size` takes from a general-purpose allocator:
/// a header of 8, steps of 16, never under 32.
pub(super) fn allocated(size: usize) -> u64 {
    ((size + 8).next_multiple_of(16)).max(32) as u64
}
