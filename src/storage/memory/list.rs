//! Pages of the sorted keys, and their number.
//!
//! The index says which keys there are, and the maps which of them have expired:
//! they are asked only where something is due. The caller shares the moment, so no
//! batch comes between two keys of a page.

use super::maps::{Maps, read};
use super::packed::Packed;
use crate::storage::page::{Builder, KeyTexts, Listing, Moment, Page, Range, Start};
use crate::storage::{Key, PAGE_KEYS_MAX, Time};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;

/// The most expired keys that a page passes before it ends, about.
const PASSED_MAX: usize = 2000;

/// The most keys of a page of an export: as each is looked up in the maps, it takes as long
/// as a page of all keys does without.
const EXPORT_KEYS_MAX: usize = 250;

/// The state of the maps at the start of a page that may meet expired keys.
#[derive(Clone, Copy)]
pub struct Due {
    now: Time,
    sweeps: u64,
}

impl Maps {
    /// The state of the maps, unless none of them holds an expired entry.
    pub fn due(&self) -> Option<Due> {
        // The sweeper starts before the first entry that can expire comes.
        self.sweeper.get()?;
        let (now, sweeps) = (Time::now(), self.sweeps.load(Ordering::Acquire));
        let due = Due { now, sweeps };
        let is_due = self.shards.iter().any(|shard| shard.is_due(now)) || self.is_swept(due);
        is_due.then_some(due)
    }

    /// Returns true if a sweep was under way then or later.
    fn is_swept(&self, due: Due) -> bool {
        due.sweeps % 2 == 1 || self.sweeps.load(Ordering::Acquire) != due.sweeps
    }

    /// Reads a page. Each of an export is short, and none is of an earlier moment.
    pub fn list(&self, listing: &Listing) -> Page {
        if listing.moment == Moment::Hold && listing.keys_max > EXPORT_KEYS_MAX {
            let listing = Listing { keys_max: EXPORT_KEYS_MAX, ..listing.clone() };
            let mut page = self.list(&listing);
            page.moment = listing.moment;
            return page;
        }
        let due = self.due();
        let (mut builder, mut keys, mut passed) = (Builder::new(listing), KeyTexts::default(), 0);
        while let Some(bounds) = builder.bounds() {
            // One more says that there is a rest. A group may have any number.
            let wanted = match listing.delimiter {
                None => listing.keys_max - builder.len() + 1,
                Some(_) => usize::MAX,
            };
            if !self.read_leaf(&mut keys, &bounds, listing.range.is_reverse, wanted) {
                break;
            }
            let mut gone = None;
            for key in keys.iter() {
                if builder.is_in_group(key) {
                    continue;
                }
                let entry = if listing.with_entries { self.living(key) } else { None };
                let is_there =
                    if listing.with_entries { entry.is_some() } else { self.is_there(key, due) };
                if !is_there {
                    passed += 1;
                    gone = Some(key);
                    continue;
                }
                if !builder.add(key, entry) {
                    return builder.into_page();
                }
                gone = None;
            }
            if let Some(key) = gone {
                builder.pass(Key::new(key).expect("it was a key"));
            }
            if passed > PASSED_MAX {
                builder.stop();
                break;
            }
        }
        builder.into_page()
    }

    /// Counts some keys of a range, and says where the rest starts.
    pub fn count(&self, range: &Range) -> (u64, Option<Start>) {
        if self.due().is_some() {
            let keys_max = PAGE_KEYS_MAX;
            let page = self.list(&Listing { range: range.clone(), keys_max, ..Listing::default() });
            return (page.len() as u64, page.next);
        }
        let Some((lower, upper)) = range.bounds() else { return (0, None) };
        let bounds = (slice_of(&lower), slice_of(&upper));
        let (counted, last) = self.index.count(bounds, range.is_reverse);
        (counted, last.map(|last| Start::After(last.into())))
    }

    /// Reads the next keys within some bounds, up to a number and those of a leaf.
    /// Returns false if there are none.
    fn read_leaf(
        &self,
        keys: &mut KeyTexts,
        (lower, upper): &(Bound<Vec<u8>>, Bound<Vec<u8>>),
        is_reverse: bool,
        wanted: usize,
    ) -> bool {
        keys.clear();
        self.index.visit_leaf((slice_of(lower), slice_of(upper)), is_reverse, &mut |key| {
            keys.push(key);
            if keys.len() < wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    }

    /// Returns true unless a key of the index has expired.
    fn is_there(&self, key: &str, due: Option<Due>) -> bool {
        due.is_none_or(|due| {
            let key = self.hashed(key);
            let shard = self.shard(key);
            let may_be_gone = shard.is_due(due.now) || self.is_swept(due);
            !may_be_gone || read(&shard.map).get(key).is_some_and(Packed::lives)
        })
    }
}

fn slice_of(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
