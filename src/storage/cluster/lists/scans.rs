//! The scans that are kept for the pages that follow.
//!
//! ```text
//! page ──► its last key, its moment ──► the next page: from the same scan
//! ```
//!
//! A page that goes on where another has ended gets the scan of that one, as long as it is
//! kept: for a minute since it was made, or while a moment holds it. Where there are too
//! many the one that was unused for longest gives way, at last one that is held: then another
//! scan takes its place. Nothing here knows nodes.

use super::scan::Scan;
use crate::storage::{Listing, Moment, Page, Start};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The age of a scan from which on no page comes of it, unless a moment holds it.
const KEPT: Duration = Duration::from_secs(60);

/// The most scans that are kept, where one that several moments hold counts for each.
const SCANS_MAX: usize = 1024;

/// The most bytes of all of them.
const BYTES_MAX: usize = 256 << 20;

/// The last pages of a scan that another can go on from.
const ENDS_MAX: usize = 16;

/// All of them.
#[derive(Default)]
pub struct Scans(Mutex<Vec<Kept>>);

/// A scan that is kept.
struct Kept {
    scan: Arc<Scan>,
    prefix: Box<str>,
    is_reverse: bool,
    /// That of the cluster when it was made.
    topology: u64,
    /// The ends of the last pages.
    ends: VecDeque<Box<str>>,
    /// The moment that holds it.
    held: Option<Weak<Held>>,
}

/// A moment that is held. What it holds may be let go.
struct Held;

impl Scans {
    /// The scan that a listing goes on with, if it is kept and was made with this topology.
    pub fn find(&self, listing: &Listing, topology: u64) -> Option<Arc<Scan>> {
        let bounds = listing.range.bounds()?;
        let all = self.lock();
        let kept = all.iter().rev().find(|kept| kept.is_for(listing, topology))?;
        // The rest of a scan that was cut is for another.
        if kept.scan.is_cut() && kept.scan.places(&bounds).is_empty() {
            return None;
        }
        Some(Arc::clone(&kept.scan))
    }

    /// Keeps the scan of a page for those that follow, or lets it go with the last one. A
    /// scan that is not `worth_keeping` is kept only where a moment is to be held.
    pub fn settle(
        &self,
        listing: &Listing,
        scan: &Arc<Scan>,
        topology: u64,
        worth_keeping: bool,
        page: &mut Page,
    ) {
        let Some(next) = &page.next else {
            self.lock().retain(|kept| !Arc::ptr_eq(&kept.scan, scan) || kept.is_held());
            return;
        };
        let held = match &listing.moment {
            Moment::Now => None,
            Moment::Hold => Some(Arc::new(Held)),
            Moment::Held(moment) => Arc::downcast(Arc::clone(moment)).ok(),
        };
        if held.is_none() && !worth_keeping {
            return;
        }
        let mut all = self.lock();
        let place = all.iter().position(|kept| kept.is_for(listing, topology));
        let place =
            place.filter(|place| all.get(*place).is_some_and(|kept| Arc::ptr_eq(&kept.scan, scan)));
        let mut kept = match place {
            Some(place) => all.remove(place),
            None => Kept {
                scan: Arc::clone(scan),
                prefix: listing.range.prefix.clone(),
                is_reverse: listing.range.is_reverse,
                topology,
                ends: VecDeque::new(),
                held: None,
            },
        };
        if let Some(held) = &held {
            // Another scan of the same moment has taken the place of the one before.
            all.retain(|other| !other.is_held_by(held));
            kept.held = Some(Arc::downgrade(held));
        } else {
            for end in [text_of(next), page.last().unwrap_or_default()] {
                if kept.ends.back().is_none_or(|last| **last != *end) {
                    kept.ends.push_back(end.into());
                }
            }
            while kept.ends.len() > ENDS_MAX {
                kept.ends.pop_front();
            }
        }
        all.push(kept);
        while all.len() > SCANS_MAX || all.len() > 1 && bytes_of(&all) > BYTES_MAX {
            // They are in the order of their last use, about. Whoever has begun a stream
            // would scan again for it.
            let unheld = all.iter().position(|kept| !kept.is_held());
            all.remove(unheld.unwrap_or_default());
        }
        drop(all);
        if let Some(held) = held {
            page.moment = Moment::Held(held as Arc<dyn Any + Send + Sync>);
        }
    }

    /// Lets go of those that are over. Returns the time until the next one may be.
    pub fn sweep(&self) -> Option<Duration> {
        let mut all = self.lock();
        all.retain(Kept::is_wanted);
        let first = all.iter().map(|kept| kept.scan.made).min()?;
        drop(all);
        Some(KEPT.saturating_sub(first.elapsed()).max(Duration::from_secs(1)))
    }

    /// Lets go of all that no moment holds.
    pub fn clear(&self) {
        self.lock().retain(Kept::is_held);
    }

    /// The bytes of all of them.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        // Every change above is complete before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Returns true if a listing goes on with it.
    fn is_for(&self, listing: &Listing, topology: u64) -> bool {
        let range = &listing.range;
        match &listing.moment {
            Moment::Held(moment) => {
                Arc::clone(moment).downcast().is_ok_and(|held| self.is_held_by(&held))
            }
            Moment::Now | Moment::Hold => {
                let start = text_of(&range.start);
                self.prefix == range.prefix
                    && self.is_reverse == range.is_reverse
                    && self.topology == topology
                    && range.start != Start::First
                    && self.ends.iter().any(|end| **end == *start)
                    && self.scan.made.elapsed() < KEPT
            }
        }
    }

    fn is_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.strong_count() > 0)
    }

    fn is_held_by(&self, moment: &Arc<Held>) -> bool {
        self.held.as_ref().is_some_and(|held| std::ptr::eq(held.as_ptr(), Arc::as_ptr(moment)))
    }

    fn is_wanted(&self) -> bool {
        match &self.held {
            Some(held) => held.strong_count() > 0,
            None => self.scan.made.elapsed() < KEPT,
        }
    }
}

/// The key or the group that a range starts at or after.
fn text_of(start: &Start) -> &str {
    match start {
        Start::First => "",
        Start::At(text) | Start::After(text) | Start::AfterPrefix(text) => text,
    }
}

/// The bytes of several. A scan that some share counts once.
fn bytes_of(all: &[Kept]) -> usize {
    let mut scans: Vec<_> = all.iter().map(|kept| &kept.scan).collect();
    scans.sort_by_key(|scan| Arc::as_ptr(scan));
    scans.dedup_by(|one, other| Arc::ptr_eq(one, other));
    scans.into_iter().map(|scan| scan.bytes()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Range;
    use crate::storage::cluster::lists::scan::{Gatherer, SCAN_BYTES_MAX};

    fn scan_of(keys: usize, bytes_max: usize) -> Arc<Scan> {
        let mut gatherer = Gatherer::new(&Range::default(), bytes_max);
        (0..keys).for_each(|key| gatherer.add(format!("{key:04}").as_bytes()));
        Arc::new(gatherer.into_scan())
    }

    fn listing(start: Start, moment: Moment) -> Listing {
        let range = Range { start, ..Range::default() };
        Listing { range, keys_max: 10, moment, ..Listing::default() }
    }

    fn after(key: &str) -> Listing {
        listing(Start::After(key.into()), Moment::Now)
    }

    /// Reads a page of a scan, and has that settled.
    fn page(scans: &Scans, listing: &Listing, scan: &Arc<Scan>) -> Page {
        let mut page = scan.page(listing);
        scans.settle(listing, scan, 1, true, &mut page);
        page
    }

    #[test]
    fn a_page_goes_on_where_another_has_ended() {
        let (scans, scan) = (Scans::default(), scan_of(25, SCAN_BYTES_MAX));
        let first = listing(Start::First, Moment::Now);
        assert!(scans.find(&first, 1).is_none());
        assert_eq!(page(&scans, &first, &scan).len(), 10);
        let found = scans.find(&after("0009"), 1).expect("it was kept");
        assert!(Arc::ptr_eq(&found, &scan));
        // A listing of its own, another topology, another prefix, the other direction.
        assert!(scans.find(&first, 1).is_none());
        assert!(scans.find(&after("0008"), 1).is_none());
        assert!(scans.find(&after("0009"), 2).is_none());
        let mut other = after("0009");
        other.range.is_reverse = true;
        assert!(scans.find(&other, 1).is_none());
        let mut other = after("0009");
        other.range.prefix = "0".into();
        assert!(scans.find(&other, 1).is_none());
        // The same page may be read twice, and the last one lets go.
        page(&scans, &after("0009"), &scan);
        assert!(scans.find(&after("0009"), 1).is_some());
        assert!(scans.find(&after("0019"), 1).is_some());
        assert_eq!(page(&scans, &after("0019"), &scan).len(), 5);
        assert!(scans.find(&after("0019"), 1).is_none());
        assert_eq!(scans.bytes(), 0);
    }

    #[test]
    fn a_scan_gets_old_however_often_it_is_used() {
        let mut scan = Arc::into_inner(scan_of(25, SCAN_BYTES_MAX)).expect("nobody else has it");
        scan.made = scan.made.checked_sub(KEPT).expect("the machine has run for a minute");
        let (scans, scan) = (Scans::default(), Arc::new(scan));
        page(&scans, &listing(Start::First, Moment::Now), &scan);
        assert!(scans.find(&after("0009"), 1).is_none());
        let held = page(&scans, &listing(Start::First, Moment::Hold), &scan).moment;
        assert!(scans.find(&listing(Start::After("0009".into()), held), 1).is_some());
    }

    #[test]
    fn a_scan_that_was_made_quickly_is_not_kept() {
        let (scans, scan) = (Scans::default(), scan_of(25, SCAN_BYTES_MAX));
        let first = listing(Start::First, Moment::Now);
        let mut page = scan.page(&first);
        scans.settle(&first, &scan, 1, false, &mut page);
        assert!(scans.find(&after("0009"), 1).is_none());
        let hold = listing(Start::First, Moment::Hold);
        scans.settle(&hold, &scan, 1, false, &mut page);
        assert!(matches!(page.moment, Moment::Held(_)));
    }

    #[test]
    fn a_moment_holds_its_scan_whatever_the_topology() {
        let (scans, scan) = (Scans::default(), scan_of(25, SCAN_BYTES_MAX));
        let first = page(&scans, &listing(Start::First, Moment::Hold), &scan);
        assert!(matches!(first.moment, Moment::Held(_)));
        assert!(scans.find(&after("0009"), 1).is_none(), "it is its own");
        let next = listing(first.next.expect("there are more"), first.moment);
        assert!(scans.find(&next, 2).is_some());
        scans.clear();
        let second = page(&scans, &next, &scan);
        assert_eq!(second.moment, next.moment);
        assert!(scans.find(&next, 1).is_some());
        drop((next, second));
        scans.sweep();
        assert_eq!(scans.bytes(), 0);
    }

    #[test]
    fn the_rest_of_a_scan_that_was_cut_is_for_another() {
        let (scans, scan) = (Scans::default(), scan_of(25, 15 * 20));
        assert!(scan.is_cut());
        let hold = page(&scans, &listing(Start::First, Moment::Hold), &scan);
        let next = listing(hold.next.expect("there are more"), hold.moment);
        let second = page(&scans, &next, &scan);
        assert!(second.len() < 10);
        let third = listing(second.next.expect("there may be more"), second.moment);
        assert!(scans.find(&third, 1).is_none());
        // Another takes its place at the same moment.
        let rest = scan_of(45, SCAN_BYTES_MAX);
        page(&scans, &third, &rest);
        assert!(scans.find(&third, 1).is_some_and(|found| Arc::ptr_eq(&found, &rest)));
    }

    #[test]
    fn those_who_share_a_scan_do_not_drive_each_other_out() {
        let (scans, scan) = (Scans::default(), scan_of(25, SCAN_BYTES_MAX));
        let hold = || page(&scans, &listing(Start::First, Moment::Hold), &scan);
        let moments: Vec<_> = (0..100).map(|_| hold().moment).collect();
        assert_eq!(scans.bytes(), scan.bytes());
        for _ in 0..2 * SCANS_MAX {
            page(&scans, &listing(Start::First, Moment::Now), &scan_of(25, SCAN_BYTES_MAX));
        }
        for moment in moments {
            let next = listing(Start::After("0009".into()), moment);
            assert!(scans.find(&next, 1).is_some_and(|found| Arc::ptr_eq(&found, &scan)));
        }
    }

    #[test]
    fn few_are_kept() {
        let scans = Scans::default();
        for _ in 0..2 * SCANS_MAX {
            page(&scans, &listing(Start::First, Moment::Now), &scan_of(25, SCAN_BYTES_MAX));
        }
        assert_eq!(scans.lock().len(), SCANS_MAX);
        assert!(scans.sweep().is_some_and(|left| left <= KEPT));
    }
}
