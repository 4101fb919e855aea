//! The cache of entries that were read lately: the next read of such a key waits for no
//! disk, and for no other thread.
//!
//! ```text
//! read     get ──► hit: the entry
//!            └───► miss: reserve ──► read the trees ──► insert
//!
//! commit   invalidate ──► write ──► drop the invalidation
//! ```
//!
//! An invalidation removes the entries and the placeholders of the keys of a commit, and
//! admits no others of these keys until it is dropped. So an entry in the cache is the
//! newest at any moment: its read began behind the last commit of its key.
//!
//! The cache knows nothing of time: an entry may have expired.

use crate::storage::{Entry, Key};
use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{OptionsBuilder, Weighter};
use smallvec::SmallVec;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// The bytes of all entries, with what they take beside.
const BYTES_MAX: u64 = 32 << 20;

/// The bytes that an entry takes beside its key and value, about.
const ENTRY_OVERHEAD_BYTES: usize = 240;

/// The bytes of a small entry, with all these.
const USUAL_ENTRY_BYTES: u64 = 320;

/// The evicted keys that are remembered, for each that is in the cache.
const GHOSTS_EACH: f64 = 0.25;

/// A larger value leaves no room for many others.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Each shard has its part of the bytes, and room for some of the largest values.
const SHARDS: usize = 16;

/// The number of counters of invalidations.
const COUNTERS: u64 = 1 << 10;

/// The cache of a generation's entries.
pub struct EntryCache {
    entries: Cache<Key, Arc<Entry>, EntryBytes>,
    /// The invalidations in flight, by the hashes of their keys.
    in_flight: Box<[AtomicU32]>,
}

/// A placeholder for an entry that is about to be read.
pub struct Placeholder<'a>(
    PlaceholderGuard<'a, Key, Arc<Entry>, EntryBytes, RandomState, Lifecycle>,
);

type Lifecycle = DefaultLifecycle<Key, Arc<Entry>>;

/// The invalidation of some keys, in flight until this is dropped.
pub struct Invalidation<'a>(SmallVec<[&'a AtomicU32; 4]>);

#[derive(Clone)]
struct EntryBytes;

impl Weighter<Key, Arc<Entry>> for EntryBytes {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        (ENTRY_OVERHEAD_BYTES + key.as_str().len() + entry.value.len()) as u64
    }
}

impl Default for EntryCache {
    fn default() -> Self {
        let items = usize::try_from(BYTES_MAX / USUAL_ENTRY_BYTES).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(items)
            .weight_capacity(BYTES_MAX)
            .ghost_allocation(GHOSTS_EACH)
            .shards(SHARDS)
            .build()
            .expect("both capacities are given");
        let (hashes, lifecycle) = (RandomState::default(), Lifecycle::default());
        let entries = Cache::with_options(options, EntryBytes, hashes, lifecycle);
        Self { entries, in_flight: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl EntryCache {
    /// The entry under a key, if it is in the cache. Blocks for nothing.
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.entries.get(key).map(|entry| Entry::clone(&entry))
    }

    /// A placeholder for the entry that is about to be read; `None` if the entry is in the
    /// cache, another read has a placeholder, or an invalidation is in flight.
    pub fn reserve(&self, key: &Key) -> Option<Placeholder<'_>> {
        match self.entries.get_value_or_guard(key, Some(Duration::ZERO)) {
            // A later invalidation removes it, and an earlier one has counted.
            GuardResult::Guard(placeholder)
                if self.counter(key.as_str()).load(Ordering::Acquire) == 0 =>
            {
                Some(Placeholder(placeholder))
            }
            GuardResult::Guard(_) | GuardResult::Value(_) | GuardResult::Timeout => None,
        }
    }

    /// Removes the entries and placeholders of these keys, and admits no others until the
    /// invalidation is dropped, behind the commit.
    pub fn invalidate<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Invalidation<'_> {
        let counted = keys.map(|key| {
            let counter = self.counter(key);
            counter.fetch_add(1, Ordering::Relaxed);
            // A placeholder of later has the lock of the shard behind this, and so meets
            // the count.
            self.entries.remove(key);
            counter
        });
        Invalidation(counted.collect())
    }

    /// The bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    fn counter(&self, key: &str) -> &AtomicU32 {
        let number = xxh3_64(key.as_bytes()) % COUNTERS;
        self.in_flight.get(usize::try_from(number).unwrap_or_default()).expect("there are so many")
    }
}

impl Placeholder<'_> {
    /// Inserts the entry in its place, unless that was invalidated or the entry is large.
    pub fn insert(self, entry: &Entry) {
        if entry.value.len() <= VALUE_BYTES_MAX {
            // The bytes are part of a block, all of which they would hold.
            let value = Bytes::copy_from_slice(&entry.value);
            self.0.insert(Arc::new(Entry { value, ..entry.clone() })).ok();
        }
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        for counter in &self.0 {
            counter.fetch_sub(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::threads::Ended;
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::thread;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn entry(value: impl Into<Bytes>) -> Entry {
        Entry::new(value.into())
    }

    fn found(cache: &EntryCache, key: &Key) -> Option<Bytes> {
        cache.get(key).map(|entry| entry.value)
    }

    #[test]
    fn what_was_read_is_here_until_it_changes() {
        let (cache, key) = (EntryCache::default(), key("a"));
        assert_eq!(found(&cache, &key), None);
        cache.reserve(&key).expect("no other has one").insert(&entry("1"));
        assert_eq!(found(&cache, &key).as_deref(), Some(&b"1"[..]));
        assert!(cache.reserve(&key).is_none(), "it is here");
        drop(cache.invalidate(["a"].into_iter()));
        assert_eq!(found(&cache, &key), None);
        cache.reserve(&key).expect("it was changed").insert(&entry("2"));
        assert_eq!(found(&cache, &key).as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn what_was_read_before_a_commit_is_not_inserted() {
        let (cache, key) = (EntryCache::default(), key("a"));
        let placeholder = cache.reserve(&key).expect("no other has one");
        assert!(cache.reserve(&key).is_none(), "another has one");
        let invalidation = cache.invalidate(["a", "b"].into_iter());
        assert!(cache.reserve(&key).is_none(), "it is about to change");
        placeholder.insert(&entry("old"));
        assert_eq!(found(&cache, &key), None);
        drop(invalidation);
        let placeholder = cache.reserve(&key).expect("it has changed");
        // One that is given up leaves it to the next.
        drop(placeholder);
        cache.reserve(&key).expect("no other has one").insert(&entry("new"));
        assert_eq!(found(&cache, &key).as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn it_is_bounded_and_holds_no_large_value() {
        let (cache, large) = (EntryCache::default(), key("large"));
        cache
            .reserve(&large)
            .expect("a placeholder")
            .insert(&entry(vec![b'v'; VALUE_BYTES_MAX + 1]));
        assert_eq!(found(&cache, &large), None);
        for number in 0..2 * BYTES_MAX / (VALUE_BYTES_MAX as u64) {
            let key = key(&number.to_string());
            cache.reserve(&key).expect("a placeholder").insert(&entry(vec![b'v'; VALUE_BYTES_MAX]));
            assert!(cache.bytes() <= BYTES_MAX);
        }
        assert!(cache.bytes() > BYTES_MAX / 2, "{} bytes", cache.bytes());
    }

    /// A value is held in place of the block that it was part of.
    #[test]
    fn a_value_has_bytes_of_its_own() {
        let (cache, key, block) = (EntryCache::default(), key("a"), Bytes::from(vec![7; 4096]));
        cache.reserve(&key).expect("a placeholder").insert(&entry(block.slice(..100)));
        assert_eq!(found(&cache, &key), Some(block.slice(..100)));
        assert!(block.is_unique(), "nobody else has the block");
    }

    /// One thread counts a key up, as the committer does; whoever has seen a number never
    /// sees a lower one after it, here or in the tree, which is a number in this test.
    #[test]
    fn nobody_meets_what_is_older_than_a_commit() {
        const COMMITS: u64 = 20_000;
        let (cache, tree, is_over) =
            (EntryCache::default(), AtomicU64::new(0), AtomicBool::new(false));
        let key = key("counter");
        let number = |entry: &Entry| u64::from_le_bytes(*entry.value.first_chunk().expect("8"));
        let read = || {
            if let Some(entry) = cache.get(&key) {
                return number(&entry);
            }
            let placeholder = cache.reserve(&key);
            let value = tree.load(Ordering::Acquire);
            if let Some(placeholder) = placeholder {
                placeholder.insert(&entry(value.to_le_bytes().to_vec()));
            }
            value
        };
        thread::scope(|scope| {
            let _ended = Ended(&is_over);
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let committed = tree.load(Ordering::Acquire);
                        let value = read();
                        assert!(value >= last.max(committed), "{value} < {last}, {committed}");
                        last = value;
                    }
                });
            }
            for commit in 1..=COMMITS {
                let invalidation = cache.invalidate(["counter"].into_iter());
                tree.store(commit, Ordering::Release);
                drop(invalidation);
                if commit % 8 == 0 {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(read(), COMMITS);
    }
}
