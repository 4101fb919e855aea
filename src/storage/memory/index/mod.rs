//! The ordered index: every key of the maps, sorted by its bytes.
//!
//! ```text
//! directory   ""  ──► leaf   0 "job:1"  4 "2"  4 "3"
//!             "m" ──► leaf   0 "mail"   4 "box"
//! ```
//!
//! A leaf is a run of neighbours, front-coded: each key is the number of bytes that
//! it shares with the one before it, and the rest. So a key takes ten to sixteen
//! bytes. Nearly all leaves are of one size, full or not: those that grew in steps would
//! leave holes of each step in the allocator's slabs, which cost more. A write locks one
//! leaf, and the directory only where leaves split or merge; a reader holds one leaf at a
//! time, and the directory for as long. Nobody holds a leaf while taking another lock, so
//! the index may be used under those of the maps. It knows nothing of values and
//! expiries.

use crate::platform::size_classes::allocated;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The size past which a leaf is split, in bytes, and that of its allocation. In a slab
/// of jemalloc there are 32 of them.
const LEAF_BYTES_MAX: usize = 896;

/// The size under which a leaf is merged with its neighbour, in bytes.
const LEAF_BYTES_MIN: usize = LEAF_BYTES_MAX / 4;

/// The size of a leaf merged of two, in bytes. It leaves room for more keys.
const MERGED_BYTES_MAX: usize = LEAF_BYTES_MAX / 4 * 3;

/// The allocation of a leaf of longer keys is a multiple of this.
const LEAF_STEP_BYTES: usize = 256;

/// The bytes of a leaf in the directory, about.
const LEAF_PLACE_BYTES: usize = 120;

/// The leaves of one step of a count.
const COUNT_LEAVES: usize = 256;

/// The sorted keys of a store.
#[derive(Default)]
pub struct Index {
    directory: RwLock<Directory>,
    /// The length of the longest key so far, in bytes.
    longest: AtomicUsize,
}

/// The leaves by their lower bounds, the first of which is empty. All keys of a leaf
/// are at or above its bound and below the next one. No leaf is empty.
type Directory = BTreeMap<LowerBound, Mutex<Leaf>>;

/// A lower bound. Nearly all are short, and a search compares them where they stand.
type LowerBound = SmallVec<[u8; 24]>;

/// Keys that are about to come.
#[derive(Clone, Copy, Default)]
pub struct NewKeys {
    keys: usize,
    bytes: usize,
    /// The length of the longest, in bytes.
    longest: usize,
}

impl NewKeys {
    /// One key.
    pub fn one(key: &str) -> Self {
        Self::default().and(key)
    }

    /// These and another one.
    #[must_use]
    pub fn and(self, key: &str) -> Self {
        let (bytes, longest) = (self.bytes + key.len(), self.longest.max(key.len()));
        Self { keys: self.keys + 1, bytes, longest }
    }
}

/// A range of keys: from one bound to another.
pub type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Index {
    /// The most bytes that the index grows by with these keys.
    pub fn growth_max(&self, new: NewKeys) -> u64 {
        let longest = new.longest.max(self.longest.load(Ordering::Relaxed)) + CODE_BYTES_MAX;
        let leaf_bytes = allocated(LEAF_BYTES_MAX) + LEAF_PLACE_BYTES;
        if longest > LEAF_BYTES_MAX / 8 {
            // A leaf may be larger than others by two keys, and each split makes two.
            let leaf_bytes = leaf_bytes + 4 * longest + 2 * LEAF_STEP_BYTES;
            return (new.keys * leaf_bytes + allocated(2 * new.bytes)) as u64;
        }
        let mut splits = new.keys;
        if new.keys > 1 {
            // Each leaf is split twice at most, and so is what was split off once it
            // has grown by a quarter.
            let leaves = read(&self.directory).len() + 1;
            splits = splits.min(2 * (leaves + new.bytes / LEAF_BYTES_MIN));
        }
        (splits * (leaf_bytes + longest)) as u64
    }

    /// Adds a key that is absent. Returns the bytes that the index grows by.
    pub fn insert(&self, key: &str) -> i64 {
        let key = key.as_bytes();
        if key.len() > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(key.len(), Ordering::Relaxed);
        }
        let directory = read(&self.directory);
        if let Some((_, leaf)) = leaf_of(&directory, key) {
            let mut leaf = lock(leaf);
            if leaf.bytes.len() + key.len() + CODE_BYTES_MAX <= LEAF_BYTES_MAX {
                let before = leaf.allocated();
                leaf.insert(key);
                return growth(before, leaf.allocated());
            }
        }
        drop(directory);
        self.insert_splitting(key)
    }

    /// Adds a key where its leaf is full, or where there is none.
    fn insert_splitting(&self, key: &[u8]) -> i64 {
        let mut directory = write(&self.directory);
        let Some((_, leaf)) = leaf_of(&directory, key) else {
            let mut leaf = Leaf::default();
            leaf.insert(key);
            let bytes = growth(0, leaf.allocated());
            directory.insert(LowerBound::new(), Mutex::new(leaf));
            return bytes;
        };
        let mut leaf = lock(leaf);
        let before = leaf.allocated();
        let is_last = leaf.insert(key);
        if leaf.bytes.len() <= LEAF_BYTES_MAX {
            return growth(before, leaf.allocated());
        }
        let Some((bound, right)) = leaf.split(is_last) else {
            return growth(before, leaf.allocated());
        };
        let after = leaf.allocated() + right.allocated() + bound.len();
        drop(leaf);
        directory.insert(bound, Mutex::new(right));
        growth(before, after)
    }

    /// Removes a key that is there. Returns the bytes that the index grows by, which
    /// is nothing or less.
    pub fn remove(&self, key: &str) -> i64 {
        let key = key.as_bytes();
        let directory = read(&self.directory);
        let Some((_, leaf)) = leaf_of(&directory, key) else { return 0 };
        let mut leaf = lock(leaf);
        let before = leaf.allocated();
        leaf.remove(key);
        let change = growth(before, leaf.allocated());
        let is_small = leaf.bytes.len() < LEAF_BYTES_MIN;
        drop(leaf);
        if !is_small || merge_of(&directory, key).is_none() {
            return change;
        }
        drop(directory);
        change + self.merge(key)
    }

    /// Merges the leaf of a key with a neighbour, or removes it if it is empty and
    /// alone. Returns the bytes that the index grows by, which is less than nothing.
    fn merge(&self, key: &[u8]) -> i64 {
        let mut directory = write(&self.directory);
        match merge_of(&directory, key) {
            None => 0,
            Some(Merge::Last) => {
                let leaves = std::mem::take(&mut *directory);
                leaves.values().map(|leaf| growth(lock(leaf).allocated(), 0)).sum()
            }
            Some(Merge::Pair(left, right)) => {
                let Some(other) = directory.remove(&right) else { return 0 };
                let Some(leaf) = directory.get(&left) else { unreachable!("it is the other's") };
                let (mut leaf, other) = (lock(leaf), lock(&other));
                let before = leaf.allocated() + other.allocated() + right.len();
                leaf.append(&other);
                growth(before, leaf.allocated())
            }
        }
    }

    /// Empties the index. Returns its leaves, which take a while to drop.
    pub fn clear(&self) -> impl Sized + use<> {
        self.longest.store(0, Ordering::Relaxed);
        std::mem::take(&mut *write(&self.directory))
    }

    /// Visits the keys of a range in order, or backwards, until the visitor breaks off
    /// or all of them in one leaf have been visited. Returns false if there were none.
    /// The leaf is locked meanwhile, so the visitor takes no lock.
    pub fn visit_leaf(
        &self,
        range: Range<'_>,
        is_reverse: bool,
        visit: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> bool {
        let directory = read(&self.directory);
        let mut leaves = leaves_of(&directory, range);
        let mut next = || if is_reverse { leaves.next_back() } else { leaves.next() };
        // Of the first one all keys may be outside.
        std::iter::from_fn(&mut next).any(|leaf| lock(leaf).visit(range, is_reverse, visit))
    }

    /// The first key with a prefix.
    pub fn first(&self, prefix: &str) -> Option<Box<str>> {
        let mut first = None;
        let range = (Bound::Included(prefix.as_bytes()), Bound::Unbounded);
        self.visit_leaf(range, false, &mut |key| {
            first = key.starts_with(prefix).then(|| key.into());
            ControlFlow::Break(())
        });
        first
    }

    /// Counts keys of a range, from its start or its end, in a step of some leaves.
    /// Returns their number, and the last one of them if there may be more.
    pub fn count(&self, range: Range<'_>, is_reverse: bool) -> (u64, Option<String>) {
        let directory = read(&self.directory);
        let mut leaves = leaves_of(&directory, range);
        let mut next = || if is_reverse { leaves.next_back() } else { leaves.next() };
        let (mut counted, mut leaf) = (0, next());
        for passed in 1.. {
            let Some(this) = leaf else { break };
            leaf = next();
            let this = lock(this);
            // All leaves but the outer ones are whole.
            let is_whole = passed > 1 && leaf.is_some();
            counted += if is_whole { this.keys } else { this.count(range) } as u64;
            if passed >= COUNT_LEAVES && leaf.is_some() {
                return (counted, this.end(is_reverse));
            }
        }
        (counted, None)
    }

    /// The bytes that it takes.
    #[cfg(test)]
    pub fn held(&self) -> u64 {
        let directory = read(&self.directory);
        let bytes = directory.iter().map(|(bound, leaf)| bound.len() + lock(leaf).allocated());
        bytes.sum::<usize>() as u64
    }
}

/// The leaf that holds a key, or would, and its bound.
fn leaf_of<'a>(directory: &'a Directory, key: &[u8]) -> Option<(&'a [u8], &'a Mutex<Leaf>)> {
    let at_or_below = (Bound::Unbounded, Bound::Included(key));
    directory.range::<[u8], _>(at_or_below).next_back().map(|(bound, leaf)| (&**bound, leaf))
}

/// The leaves that may hold keys of a range: that of the lower bound, and all up to
/// the upper one.
fn leaves_of<'a>(
    directory: &'a Directory,
    range: Range<'_>,
) -> impl DoubleEndedIterator<Item = &'a Mutex<Leaf>> {
    let lower = match range.0 {
        Bound::Included(key) | Bound::Excluded(key) => key,
        Bound::Unbounded => &[],
    };
    let first = leaf_of(directory, lower).map(|(bound, _)| bound);
    // A map has no range that ends before it starts.
    let first = first.filter(|first| !is_above(first, range.1));
    let leaves = first.map(|first| directory.range::<[u8], _>((Bound::Included(first), range.1)));
    leaves.into_iter().flatten().map(|(_, leaf)| leaf)
}

/// A change that leaves few small leaves.
enum Merge {
    /// Of two neighbours, by their bounds.
    Pair(LowerBound, LowerBound),
    /// Of the last leaf, which is empty.
    Last,
}

/// The merge of the leaf of a key, if there is one.
fn merge_of(directory: &Directory, key: &[u8]) -> Option<Merge> {
    let (bound, leaf) = leaf_of(directory, key)?;
    let bytes = lock(leaf).bytes.len();
    let below = directory.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(bound)));
    let above = directory.range::<[u8], _>((Bound::Excluded(bound), Bound::Unbounded));
    let (left, right) = ({ below }.next_back(), { above }.next());
    if left.is_none() && right.is_none() {
        return (bytes == 0).then_some(Merge::Last);
    }
    let fits =
        |other: &Mutex<Leaf>| bytes == 0 || bytes + lock(other).bytes.len() <= MERGED_BYTES_MAX;
    let left = left.filter(|(_, leaf)| fits(leaf));
    let right = right.filter(|(_, leaf)| fits(leaf));
    let left = left.map(|(left, _)| Merge::Pair(left.clone(), bound.into()));
    left.or_else(|| right.map(|(right, _)| Merge::Pair(bound.into(), right.clone())))
}

/// Returns true for a key above a range's upper bound.
fn is_above(key: &[u8], upper: Bound<&[u8]>) -> bool {
    match upper {
        Bound::Included(upper) => key > upper,
        Bound::Excluded(upper) => key >= upper,
        Bound::Unbounded => false,
    }
}

/// Returns true for a key below a range's lower bound.
fn is_below(key: &[u8], lower: Bound<&[u8]>) -> bool {
    match lower {
        Bound::Included(lower) => key < lower,
        Bound::Excluded(lower) => key <= lower,
        Bound::Unbounded => false,
    }
}

/// The change from one number of bytes to another.
pub fn growth(before: usize, after: usize) -> i64 {
    after.cast_signed() as i64 - before.cast_signed() as i64
}

/// A run of front-coded keys: for each the number of bytes shared with the one
/// before it, the number of the other bytes, and those. Numbers take one byte below
/// 128 and two from there on.
#[derive(Default)]
struct Leaf {
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
const CODE_BYTES_MAX: usize = 6;

impl Leaf {
    /// The bytes that it takes.
    fn allocated(&self) -> usize {
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
    fn insert(&mut self, key: &[u8]) -> bool {
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
    fn remove(&mut self, key: &[u8]) {
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
    fn split(&mut self, is_last_alone: bool) -> Option<(LowerBound, Self)> {
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
    fn append(&mut self, next: &Self) {
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
    fn count(&self, range: Range<'_>) -> usize {
        let mut counted = 0;
        self.each(|key| {
            counted += usize::from(!is_below(key, range.0) && !is_above(key, range.1));
        });
        counted
    }

    /// Its last key, or its first one.
    fn end(&self, is_reverse: bool) -> Option<String> {
        let mut end = String::new();
        let any = self.visit((Bound::Unbounded, Bound::Unbounded), is_reverse, &mut |key| {
            key.clone_into(&mut end);
            ControlFlow::Continue(())
        });
        any.then_some(end)
    }

    /// Visits its keys in a range, in order or backwards. Returns true if there were
    /// any.
    fn visit(
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

// A poisoned lock is whole: a change to a leaf or the directory is one call that
// does not panic.

fn read(directory: &RwLock<Directory>) -> RwLockReadGuard<'_, Directory> {
    directory.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(directory: &RwLock<Directory>) -> RwLockWriteGuard<'_, Directory> {
    directory.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock(leaf: &Mutex<Leaf>) -> MutexGuard<'_, Leaf> {
    leaf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
