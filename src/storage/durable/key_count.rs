//! The number of keys: counted in a small store, and estimated in a large one.
//!
//! ```text
//! few items    a walk along the keys
//! many         tables: their items, less their deletions
//!              memtable: its first keys one by one, and the rest in proportion
//! ```
//!
//! An estimate is from what the trees have in memory. It is too high by keys that were
//! overwritten or deleted and are not merged yet, and by the index of those that expire,
//! which has two more items in a table for each. It is too low where the first keys of the
//! memtable are written again and again: the rest is taken to be like them.

use super::generation::{KEYS_END, Keyspaces};
use super::tree::{self, Keyspace};
use super::walk::View;
use crate::storage::{KEY_BYTES_MAX, Time};
use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// The most items that are looked at. All of them take about a millisecond, which a write
/// may wait for.
const WALKED_MAX: u64 = 1024;

/// The items of each batch that are the engine's own: its floor and the position.
const BATCH_OWN_ITEMS: u64 = 2;

/// Returns true for a store that is so small that its keys are counted.
pub fn is_exact(keyspaces: &Keyspaces) -> bool {
    keyspaces.keys.approximate_len() <= WALKED_MAX
}

/// Counts the keys. May read from the disk.
pub fn count(keyspaces: &Arc<Keyspaces>) -> tree::Result<u64> {
    let snapshot = keyspaces.keys.snapshot();
    let (now, pins) = (Time::now(), HashMap::new());
    let view = View { snapshot, keyspaces: Arc::clone(keyspaces), now, pins };
    let mut walk = view.walk((Bound::Unbounded, Bound::Unbounded), false, true);
    let mut keys = 0;
    while let Some(found) = walk.next(false)? {
        keys += u64::from(found.lives);
    }
    Ok(keys)
}

/// The number of keys, about; `None` while a memtable is being flushed.
pub fn estimate(keys: &Keyspace) -> Option<u64> {
    if keys.sealed_memtables() > 0 {
        return None;
    }
    let mut sample = Sample::default();
    keys.visit_memtable(&mut |key, is_deletion| sample.take(key, is_deletion));
    let own = BATCH_OWN_ITEMS * keys.unflushed_batches();
    let items = (keys.memtable_items() as u64).saturating_sub(own);
    let flushed = keys.table_items().saturating_sub(keys.table_deletions());
    Some(flushed.saturating_add_signed(sample.keys_among(items)))
}

/// The first items of a memtable: of each key the newest comes first.
#[derive(Default)]
struct Sample {
    items: u64,
    /// Keys that are new, less those that were deleted from the tables.
    keys: i64,
    last: Vec<u8>,
    /// All items of the last key so far are deletions.
    is_deleted: bool,
    /// No key is left behind it.
    is_whole: bool,
}

impl Sample {
    fn take(&mut self, key: &[u8], is_deletion: bool) -> ControlFlow<()> {
        if key >= &KEYS_END[..] {
            self.is_whole = true;
            return ControlFlow::Break(());
        }
        if key.len() > KEY_BYTES_MAX {
            // One of the engine's own.
            return ControlFlow::Continue(());
        }
        if self.items == WALKED_MAX {
            return ControlFlow::Break(());
        }
        self.items += 1;
        if key != self.last {
            key.clone_into(&mut self.last);
            self.is_deleted = is_deletion;
            self.keys += if is_deletion { -1 } else { 1 };
        } else if self.is_deleted && !is_deletion {
            // It has come and gone since the tables were written.
            self.is_deleted = false;
            self.keys += 1;
        }
        ControlFlow::Continue(())
    }

    /// The same of a memtable with so many items.
    fn keys_among(&self, items: u64) -> i64 {
        if self.is_whole || self.items == 0 {
            return self.keys;
        }
        self.keys.saturating_mul(items.cast_signed()) / self.items.cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(items: &[(&str, bool)]) -> Sample {
        let mut sample = Sample::default();
        let taken = items.iter().all(|(key, it)| sample.take(key.as_bytes(), *it).is_continue());
        assert!(taken, "there are no more than are looked at");
        sample
    }

    #[test]
    fn each_key_counts_once_by_its_newest_item() {
        let (put, delete) = (false, true);
        for (items, keys) in [
            (&[("a", put), ("b", put)][..], 2),
            (&[("a", put), ("a", put), ("a", delete), ("b", put)], 2),
            (&[("a", delete)], -1),
            (&[("a", delete), ("a", delete), ("b", delete)], -2),
            (&[("a", delete), ("a", put), ("a", put), ("b", put)], 1),
            (&[("a", delete), ("a", put), ("a", delete), ("a", put)], 0),
        ] {
            assert_eq!(sample(items).keys, keys, "{items:?}");
        }
    }

    #[test]
    fn more_items_count_in_proportion_unless_all_were_seen() {
        let mut often = sample(&[("a", false); 10]);
        assert_eq!((often.keys_among(10), often.keys_among(1000)), (1, 100));
        assert!(often.take(&[0; KEY_BYTES_MAX + 1], false).is_continue());
        assert!(often.take(&[0xff, b'e'], false).is_break());
        assert_eq!(often.keys_among(1000), 1, "the rest is the engine's own");
        assert_eq!(Sample::default().keys_among(1000), 0);
        let mut many = Sample::default();
        let key = |number: u64| format!("{number:08}").into_bytes();
        let taken = (0..).take_while(|number| many.take(&key(*number), false).is_continue());
        assert_eq!(taken.count() as u64, WALKED_MAX);
        assert_eq!(many.keys_among(1_000_000), 1_000_000);
    }
}
