//! A leaf of the index: a run of neighbouring keys, front-coded (prefix-compressed).
//!
//! ```text
//! keys    job:1        job:2     job:31
//! coded   0 5 "job:1"  4 1 "2"   4 2 "31"      shared bytes, other bytes, and those
//! ```
//!
//! A key is looked for from the first one on, as each is told by the one before it; a leaf
//! is short enough for that. Nearly all leaves are of one size, full or not: those that grew
//! in steps would leave holes of each step in the allocator's slabs, which cost more.

use super::{LowerBound, Range};
use crate::platform::size_classes::allocated;
use std::ops::{Bound, ControlFlow};

/// The size past which a leaf is split, in bytes, and that of its allocation. In a slab
/// of jemalloc there are 32 of them.
pub const LEAF_BYTES_MAX: usize = 896;

/// The allocation of a leaf of longer keys is a multiple of this.
pub const LEAF_STEP_BYTES: usize = 256;

/// The bytes of a leaf in the directory, about.
pub const LEAF_PLACE_BYTES: usize = 120;

/// A run of front-coded keys: for each the number of bytes shared with the one
/// before it, the number of the other bytes, and those. Numbers take one byte below
/// 128 and two from there on.
#[derive(Default)]
pub struct Leaf {
    bytes: Vec<u8>,
    keys: usize,
}

/// A key in a leaf.
#[derive(Clone, Copy)]
struct Coded<'a> {
    shared: usize,
    rest: &'a [u8],
    /// The position behind it.
    end: usize,
}

/// The bytes of the numbers of a key, and of those that the next one may need more.
pub const CODE_BYTES_MAX: usize = 6;

impl Leaf {
    /// The number of its keys.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The length of its keys as they are coded, in bytes.
    pub fn coded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that it takes.
    pub fn allocated(&self) -> usize {
        allocated(self.bytes.capacity()) + LEAF_PLACE_BYTES
    }

    /// The key at a position, none at the end.
    #[inline]
    fn coded(&self, at: usize) -> Option<Coded<'_>> {
        let (shared, length, rest) = match self.bytes.get(at..)? {
            // Numbers of one byte, as nearly all are.
            [shared @ ..0x80, length @ ..0x80, rest @ ..] => {
                (usize::from(*shared), usize::from(*length), rest)
            }
            bytes => {
                let (shared, rest) = number(bytes)?;
                let (length, rest) = number(rest)?;
                (shared, length, rest)
            }
        };
        let end = self.bytes.len() - rest.len() + length;
        Some(Coded { shared, rest: rest.get(..length)?, end })
    }

    /// The position of the first key at or above `key`; the bytes that `key` shares
    /// with the one before that; and true if it is the same key.
    fn position(&self, key: &[u8]) -> (usize, usize, bool) {
        let (mut at, mut shared) = (0, 0);
        loop {
            // A key that shares more with the one before is below `key` as that is. Most
            // keys of a leaf are passed here.
            while let Some([more @ ..0x80, length @ ..0x80, ..]) = self.bytes.get(at..)
                && usize::from(*more) > shared
            {
                at += 2 + usize::from(*length);
            }
            let Some(coded) = self.coded(at) else { return (at, shared, false) };
            if coded.shared < shared {
                return (at, shared, false);
            }
            if coded.shared == shared {
                let left = key.get(shared..).unwrap_or_default();
                let more = common(coded.rest, left);
                match (coded.rest.get(more), left.get(more)) {
                    (None, None) => return (at, shared, true),
                    (own, other) if own > other => return (at, shared, false),
                    (_, _) => shared += more,
                }
            }
            at = coded.end;
        }
    }

    /// Adds a key that is absent. Returns true if it is the last one.
    pub fn insert(&mut self, key: &[u8]) -> bool {
        let (at, shared, is_there) = self.position(key);
        if is_there {
            return false;
        }
        let left = key.get(shared..).unwrap_or_default();
        let mut coded = Vec::with_capacity(left.len() + 8);
        encode(&mut coded, shared, left, &[]);
        let mut end = at;
        let next = self.coded(at);
        // Between the two, the next key can only share more with this one.
        if let Some(next) = next.filter(|next| next.shared == shared) {
            let more = common(left, next.rest);
            encode(&mut coded, shared + more, next.rest.get(more..).unwrap_or_default(), &[]);
            end = next.end;
        }
        let is_last = next.is_none();
        self.replace(at, end, &coded);
        self.keys += 1;
        is_last
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        let (at, _, is_there) = self.position(key);
        let Some(removed) = self.coded(at).filter(|_| is_there) else { return };
        let (mut end, mut coded) = (removed.end, Vec::new());
        if let Some(next) = self.coded(end).filter(|next| next.shared > removed.shared) {
            // The bytes that it shared with the removed key alone are its own now.
            let own = key.get(removed.shared..next.shared).unwrap_or_default();
            encode(&mut coded, removed.shared, own, next.rest);
            end = next.end;
        }
        self.replace(at, end, &coded);
        self.keys -= 1;
        self.bytes.shrink_to(capacity_for(self.bytes.len()));
    }

    /// Puts bytes in place of those between two positions.
    fn replace(&mut self, at: usize, end: usize, coded: &[u8]) {
        let before = self.bytes.len();
        let after = before - (end - at) + coded.len();
        if after > self.bytes.capacity() {
            self.bytes.reserve_exact(capacity_for(after) - before);
        }
        self.bytes.resize(before.max(after), 0);
        self.bytes.copy_within(end..before, at + coded.len());
        self.bytes.truncate(after);
        if let Some(place) = self.bytes.get_mut(at..at + coded.len()) {
            place.copy_from_slice(coded);
        }
    }

    /// Splits off the upper half, or the last key alone, which is what keys that come
    /// in order need. Returns its lower bound, too. A leaf of one key stays whole.
    pub fn split(&mut self, is_last_alone: bool) -> Option<(LowerBound, Self)> {
        let half = if is_last_alone { self.bytes.len() } else { self.bytes.len() / 2 };
        let (mut at, mut keys) = (0, 0);
        let (mut previous, mut key) = (Vec::new(), Vec::new());
        let mut coded = self.coded(0)?;
        // The first key at or behind the middle; the last one at the latest.
        while keys == 0 || (at < half && coded.end < self.bytes.len()) {
            coded.apply_to(&mut key);
            previous.clone_from(&key);
            (at, keys) = (coded.end, keys + 1);
            coded = self.coded(at)?;
        }
        coded.apply_to(&mut key);
        let rest = self.bytes.get(coded.end..).unwrap_or_default();
        let capacity = capacity_for(key.len() + CODE_BYTES_MAX + rest.len());
        let mut right = Self { bytes: Vec::with_capacity(capacity), keys: self.keys - keys };
        encode(&mut right.bytes, 0, &key, &[]);
        right.bytes.extend_from_slice(rest);
        self.bytes.truncate(at);
        self.bytes.shrink_to(capacity_for(at));
        self.keys = keys;
        let bound = key.get(..=common(&previous, &key)).unwrap_or(&key);
        Some((bound.into(), right))
    }

    /// Puts the keys of the next leaf behind its own.
    pub fn append(&mut self, next: &Self) {
        let Some(first) = next.coded(0) else { return };
        let mut last = Vec::new();
        self.each(|key| last.clone_from(key));
        let shared = common(&last, first.rest);
        let mut coded = Vec::with_capacity(next.bytes.len() + CODE_BYTES_MAX);
        encode(&mut coded, shared, first.rest.get(shared..).unwrap_or_default(), &[]);
        coded.extend_from_slice(next.bytes.get(first.end..).unwrap_or_default());
        let end = self.bytes.len();
        self.replace(end, end, &coded);
        self.keys += next.keys;
    }

    /// Visits all its keys.
    fn each(&self, mut visit: impl FnMut(&Vec<u8>)) {
        let (mut at, mut key) = (0, Vec::with_capacity(KEY_BYTES_USUAL));
        while let Some(coded) = self.coded(at) {
            coded.apply_to(&mut key);
            visit(&key);
            at = coded.end;
        }
    }

    /// The number of its keys in a range.
    pub fn count(&self, range: Range<'_>) -> usize {
        let mut counted = 0;
        self.each(|key| {
            counted += usize::from(!is_below(key, range.0) && !is_above(key, range.1));
        });
        counted
    }

    /// Its last key, or its first one.
    pub fn end(&self, is_reverse: bool) -> Option<String> {
        let mut end = String::new();
        let any = self.visit((Bound::Unbounded, Bound::Unbounded), is_reverse, &mut |key| {
            key.clone_into(&mut end);
            ControlFlow::Continue(())
        });
        any.then_some(end)
    }

    /// Visits its keys in a range, in order or backwards. Returns true if there were
    /// any.
    pub fn visit(
        &self,
        range: Range<'_>,
        is_reverse: bool,
        visit: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> bool {
        let mut show = |key: &[u8]| visit(std::str::from_utf8(key).expect("keys are UTF-8"));
        let (mut at, mut key, mut any) = (0, Vec::with_capacity(KEY_BYTES_USUAL), false);
        // Keys are coded forwards: the other way needs all of them at once.
        let (mut keys, mut ends) = (Vec::new(), vec![0]);
        while let Some(coded) = self.coded(at) {
            coded.apply_to(&mut key);
            at = coded.end;
            if is_above(&key, range.1) {
                break;
            }
            if !any && is_below(&key, range.0) {
                continue;
            }
            any = true;
            if is_reverse {
                keys.extend_from_slice(&key);
                ends.push(keys.len());
            } else if show(&key).is_break() {
                return true;
            }
        }
        for span in ends.windows(2).rev() {
            let &[start, end] = span else { continue };
            if show(keys.get(start..end).unwrap_or_default()).is_break() {
                break;
            }
        }
        any
    }
}

impl Coded<'_> {
    /// Makes the key before this one the key itself.
    fn apply_to(&self, key: &mut Vec<u8>) {
        key.truncate(self.shared);
        key.extend_from_slice(self.rest);
    }
}

/// The size of the allocation for so many bytes of keys.
fn capacity_for(bytes: usize) -> usize {
    if bytes <= LEAF_BYTES_MAX { LEAF_BYTES_MAX } else { bytes.next_multiple_of(LEAF_STEP_BYTES) }
}

/// Room for most keys.
const KEY_BYTES_USUAL: usize = 64;

/// The number at the start of some bytes, and the bytes behind it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&low, rest) = bytes.split_first()?;
    if low < 0x80 {
        return Some((low.into(), rest));
    }
    let (&high, rest) = rest.split_first()?;
    Some((usize::from(low & 0x7f) | usize::from(high) << 7, rest))
}

/// Encodes a key whose own bytes are in two parts.
fn encode(coded: &mut Vec<u8>, shared: usize, own: &[u8], more: &[u8]) {
    for number in [shared, own.len() + more.len()] {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        if number < 0x80 {
            coded.push(low);
        } else {
            coded.extend([low | 0x80, u8::try_from(number >> 7).unwrap_or(u8::MAX)]);
        }
    }
    coded.extend_from_slice(own);
    coded.extend_from_slice(more);
}

/// The length of the common prefix.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Returns true for a key below a range's lower bound.
pub fn is_below(key: &[u8], lower: Bound<&[u8]>) -> bool {
    match lower {
        Bound::Included(lower) => key < lower,
        Bound::Excluded(lower) => key <= lower,
        Bound::Unbounded => false,
    }
}

/// Returns true for a key above a range's upper bound.
pub fn is_above(key: &[u8], upper: Bound<&[u8]>) -> bool {
    match upper {
        Bound::Included(upper) => key > upper,
        Bound::Excluded(upper) => key >= upper,
        Bound::Unbounded => false,
    }
}
