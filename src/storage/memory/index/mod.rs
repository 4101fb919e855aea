//! The ordered index: every key of the maps, sorted by its bytes.
//!
//! ```text
//! directory   ""  ──► leaf   0 "job:1"  4 "2"  4 "3"
//!             "m" ──► leaf   0 "mail"   4 "box"
//! ```
//!
//! This is a B-tree of two levels: the directory finds a [`Leaf`] by its lower bound, and a
//! leaf is a run of neighbours, front-coded. So a key takes ten to sixteen bytes.
//!
//! A write locks one leaf, and the directory only where leaves split or merge; a reader
//! holds one leaf at a time, and the directory for as long. Nobody holds a leaf while
//! taking another lock, so the index may be used under those of the maps. It knows nothing
//! of values and expiries.

mod leaf;

use crate::platform::size_classes::allocated;
use leaf::{CODE_BYTES_MAX, LEAF_BYTES_MAX, LEAF_PLACE_BYTES, LEAF_STEP_BYTES, Leaf, is_above};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The size under which a leaf is merged with its neighbour, in bytes.
const LEAF_BYTES_MIN: usize = LEAF_BYTES_MAX / 4;

/// The size of a leaf merged of two, in bytes. It leaves room for more keys.
const MERGED_BYTES_MAX: usize = LEAF_BYTES_MAX / 4 * 3;

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
            if leaf.coded_bytes() + key.len() + CODE_BYTES_MAX <= LEAF_BYTES_MAX {
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
        if leaf.coded_bytes() <= LEAF_BYTES_MAX {
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
        let is_small = leaf.coded_bytes() < LEAF_BYTES_MIN;
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
            counted += if is_whole { this.keys() } else { this.count(range) } as u64;
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
    let bytes = lock(leaf).coded_bytes();
    let below = directory.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(bound)));
    let above = directory.range::<[u8], _>((Bound::Excluded(bound), Bound::Unbounded));
    let (left, right) = ({ below }.next_back(), { above }.next());
    if left.is_none() && right.is_none() {
        return (bytes == 0).then_some(Merge::Last);
    }
    let fits =
        |other: &Mutex<Leaf>| bytes == 0 || bytes + lock(other).coded_bytes() <= MERGED_BYTES_MAX;
    let left = left.filter(|(_, leaf)| fits(leaf));
    let right = right.filter(|(_, leaf)| fits(leaf));
    let left = left.map(|(left, _)| Merge::Pair(left.clone(), bound.into()));
    left.or_else(|| right.map(|(right, _)| Merge::Pair(bound.into(), right.clone())))
}

/// The change from one number of bytes to another.
pub fn growth(before: usize, after: usize) -> i64 {
    after.cast_signed() as i64 - before.cast_signed() as i64
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
