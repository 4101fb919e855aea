//! The sorted keys that a scan of the cluster finds, in bounded memory.
//!
//! ```text
//! replies of SCAN ──► Gatherer: any order, repeated ──► Scan: sorted, each once
//!                        │  too many bytes: the farthest from the start are let go
//!                        └─ and the rest is for another scan, from there on
//! ```
//!
//! Nothing here knows nodes or how a scan is made. Keys of other applications that are
//! no keys of ours are left out.

use crate::storage::page::{Bounds, Builder};
use crate::storage::{KEY_BYTES_MAX, Listing, Page, Range, Start};
use std::ops::{self, Bound};
use std::time::Instant;

/// The most bytes of keys that a scan keeps, about. While it gathers it has up to twice
/// as many.
pub const SCAN_BYTES_MAX: usize = 64 << 20;

/// From so many keys on a group is passed by a search behind it.
const GROUP_KEYS_MAX: usize = 24;

/// The keys of a range that a scan has found, in the order of their bytes.
pub struct Scan {
    /// All keys, one behind the other.
    text: String,
    ends: Vec<u32>,
    /// It ends before the range does, in the direction of the range.
    is_cut: bool,
    /// When it had found them.
    pub made: Instant,
}

/// Gathers the keys of a range.
pub struct Gatherer {
    /// None if no key can be within them.
    bounds: Option<Bounds>,
    is_reverse: bool,
    /// The bytes that all keys begin with.
    shared: usize,
    bytes_max: usize,
    text: String,
    spans: Vec<Span>,
    is_cut: bool,
}

/// The place of a key in the text.
#[derive(Clone, Copy)]
struct Span {
    /// The first bytes behind those that are shared, for a quick comparison.
    head: u64,
    start: u32,
    len: u32,
}

impl Span {
    fn range(self) -> ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

impl Gatherer {
    /// Gathers keys of a range: those nearest to its start, up to about so many bytes.
    pub fn new(range: &Range, bytes_max: usize) -> Self {
        Self {
            bounds: range.bounds(),
            is_reverse: range.is_reverse,
            shared: range.prefix.len(),
            bytes_max,
            text: String::new(),
            spans: Vec::new(),
            is_cut: false,
        }
    }

    /// Adds a key that was found, if it is one of the range.
    pub fn add(&mut self, found: &[u8]) {
        if found.is_empty() || found.len() > KEY_BYTES_MAX || !self.is_within(found) {
            return;
        }
        let Ok(key) = str::from_utf8(found) else { return };
        let fits = |number: usize| u32::try_from(number).expect("it is trimmed long before");
        let (start, len) = (fits(self.text.len()), fits(key.len()));
        self.text.push_str(key);
        self.spans.push(Span { head: head_of(found, self.shared), start, len });
        if self.bytes() > 2 * self.bytes_max {
            self.trim();
        }
    }

    /// The keys that were found, sorted.
    pub fn into_scan(mut self) -> Scan {
        self.sort();
        self.cut();
        let mut text = String::with_capacity(self.spans.iter().map(|span| span.len as usize).sum());
        let mut ends = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            text.push_str(text_of(&self.text, *span));
            ends.push(u32::try_from(text.len()).expect("it is no longer than before"));
        }
        Scan { text, ends, is_cut: self.is_cut, made: Instant::now() }
    }

    fn is_within(&self, key: &[u8]) -> bool {
        self.bounds.as_ref().is_some_and(|(lower, upper)| {
            let is_above = match lower {
                Bound::Included(lower) => key >= lower.as_slice(),
                Bound::Excluded(lower) => key > lower.as_slice(),
                Bound::Unbounded => true,
            };
            is_above
                && match upper {
                    Bound::Included(upper) => key <= upper.as_slice(),
                    Bound::Excluded(upper) => key < upper.as_slice(),
                    Bound::Unbounded => true,
                }
        })
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.spans.len() * size_of::<Span>()
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.spans.sort_unstable_by(|one, other| {
            let by_head = one.head.cmp(&other.head);
            by_head.then_with(|| text_of(text, *one).cmp(text_of(text, *other)))
        });
        self.spans.dedup_by(|one, other| {
            one.head == other.head && text_of(text, *one) == text_of(text, *other)
        });
    }

    /// Lets the farthest keys go, and makes room.
    fn trim(&mut self) {
        self.sort();
        self.cut();
        let mut text = String::with_capacity(2 * self.bytes_max);
        for span in &mut self.spans {
            let start = u32::try_from(text.len()).expect("it is no longer than before");
            text.push_str(text_of(&self.text, *span));
            span.start = start;
        }
        self.text = text;
    }

    /// Drops the keys past the bytes that are kept, and all that come behind the last one
    /// from now on. They are sorted.
    fn cut(&mut self) {
        let mut bytes = 0;
        let mut fits = |span: &&Span| {
            bytes += span.len as usize + size_of::<Span>();
            bytes <= self.bytes_max
        };
        let kept = if self.is_reverse {
            self.spans.iter().rev().take_while(&mut fits).count()
        } else {
            self.spans.iter().take_while(&mut fits).count()
        };
        // One at least, or nobody would ever get on.
        let dropped = self.spans.len() - kept.max(1).min(self.spans.len());
        if dropped == 0 {
            return;
        }
        let farthest = if self.is_reverse {
            self.spans.drain(..dropped);
            self.spans.first()
        } else {
            self.spans.truncate(self.spans.len() - dropped);
            self.spans.last()
        };
        let farthest = farthest.map(|span| text_of(&self.text, *span).as_bytes().to_vec());
        if let (Some((lower, upper)), Some(farthest)) = (&mut self.bounds, farthest) {
            *(if self.is_reverse { lower } else { upper }) = Bound::Included(farthest);
        }
        self.is_cut = true;
    }
}

/// The bytes of a key behind those that all share, up to eight, as a number that is
/// ordered as they are.
fn head_of(key: &[u8], shared: usize) -> u64 {
    let rest = key.get(shared..).unwrap_or_default();
    let bytes = rest.iter().copied().chain(std::iter::repeat(0)).take(8);
    bytes.fold(0, |head, byte| head << 8 | u64::from(byte))
}

fn text_of(text: &str, span: Span) -> &str {
    text.get(span.range()).unwrap_or_default()
}

impl Scan {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<u32>()
    }

    /// Returns true if it ends before its range does.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// A key by its place.
    pub fn key(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start as usize..end as usize)
    }

    /// The places of the keys within some bounds.
    pub fn places(&self, (lower, upper): &Bounds) -> ops::Range<usize> {
        let start = match lower {
            Bound::Included(lower) => self.first_not(|key| key.cmp(lower).is_lt()),
            Bound::Excluded(lower) => self.first_not(|key| key.cmp(lower).is_le()),
            Bound::Unbounded => 0,
        };
        let end = match upper {
            Bound::Included(upper) => self.first_not(|key| key.cmp(upper).is_le()),
            Bound::Excluded(upper) => self.first_not(|key| key.cmp(upper).is_lt()),
            Bound::Unbounded => self.len(),
        };
        start..end.max(start)
    }

    /// The place of the first key that is not like those before it.
    fn first_not(&self, is_before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if is_before(self.key(middle).unwrap_or_default().as_bytes()) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The number of the keys in a range, and the start of the rest if that is for
    /// another scan.
    pub fn count(&self, range: &Range) -> (u64, Option<Start>) {
        let Some(bounds) = range.bounds() else { return (0, None) };
        let places = self.places(&bounds);
        let last = if range.is_reverse { Some(places.start) } else { places.end.checked_sub(1) };
        let rest = last.filter(|_| self.is_cut && !places.is_empty());
        let start = rest.and_then(|last| self.key(last)).map(|last| Start::After(last.into()));
        (places.len() as u64, start)
    }

    /// The page of a listing without entries.
    pub fn page(&self, listing: &Listing) -> Page {
        let mut builder = Builder::new(listing);
        loop {
            match self.walk(&mut builder, listing.range.is_reverse) {
                Walked::Group => {}
                Walked::End => {
                    if self.is_cut {
                        builder.stop();
                    }
                    return builder.into_page();
                }
                Walked::Full => return builder.into_page(),
            }
        }
    }

    fn walk(&self, builder: &mut Builder<'_>, is_reverse: bool) -> Walked {
        let Some(bounds) = builder.bounds() else { return Walked::End };
        let mut places = self.places(&bounds);
        let mut in_group = 0;
        while let Some(place) = if is_reverse { places.next_back() } else { places.next() } {
            let key = self.key(place).unwrap_or_default();
            if builder.is_in_group(key) {
                in_group += 1;
                if in_group == GROUP_KEYS_MAX {
                    return Walked::Group;
                }
            } else if !builder.add(key, None) {
                return Walked::Full;
            }
        }
        Walked::End
    }
}

/// The end of a walk along the keys.
enum Walked {
    /// The keys end.
    End,
    /// The page is full.
    Full,
    /// Many keys are those of one group.
    Group,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::listings::listed;
    use crate::storage::page::tests::{any_range, text};
    use crate::storage::{Moment, PAGE_KEYS_MAX};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn gathered<'a>(keys: impl IntoIterator<Item = &'a str>, range: &Range, max: usize) -> Scan {
        let mut gatherer = Gatherer::new(range, max);
        keys.into_iter().for_each(|key| gatherer.add(key.as_bytes()));
        gatherer.into_scan()
    }

    fn keys_of(scan: &Scan) -> Vec<&str> {
        (0..scan.len()).filter_map(|index| scan.key(index)).collect()
    }

    /// Reads a listing page by page. Where a scan ends another is made.
    fn read_all(keys: &[String], mut listing: Listing, bytes_max: usize) -> Vec<String> {
        let mut all = Vec::new();
        let texts = || keys.iter().map(String::as_str);
        let mut scan = gathered(texts(), &listing.range, bytes_max);
        for _ in 0..=4 * keys.len() {
            let page = scan.page(&listing);
            assert!(page.len() <= listing.keys_max, "{page:?}");
            all.extend(page.keys().map(str::to_owned));
            let is_used_up = page.len() < listing.keys_max;
            let Some(next) = page.next else { return all };
            listing.range.start = next;
            if is_used_up {
                scan = gathered(texts(), &listing.range, bytes_max);
            }
        }
        panic!("it does not end: {all:?}");
    }

    proptest! {
        #[test]
        fn pages_are_those_of_the_definition(
            keys in vec(text(1..12), 0..120),
            range in any_range(),
            delimiter in option::of(prop_oneof![Just("/"), Just("ab")]),
            keys_max in 1_usize..6,
            bytes_max in prop_oneof![Just(1_usize), Just(100), Just(SCAN_BYTES_MAX)],
        ) {
            let delimiter: Option<Box<str>> = delimiter.map(Into::into);
            let moment = Moment::Now;
            let listing = Listing { range, delimiter, keys_max, moment, ..Listing::default() };
            let expected = listed(keys.iter().map(String::as_str), &listing);
            prop_assert_eq!(read_all(&keys, listing, bytes_max), expected);
        }

        #[test]
        fn a_scan_has_the_keys_nearest_to_its_start_each_once(
            keys in vec(text(1..12), 0..120),
            range in any_range(),
            bytes_max in 1_usize..2000,
        ) {
            let scan = gathered(keys.iter().map(String::as_str), &range, bytes_max);
            let listing = Listing { range: range.clone(), ..Listing::default() };
            let mut expected = listed(keys.iter().map(String::as_str), &listing);
            let count = expected.len();
            expected.truncate(scan.len());
            if range.is_reverse {
                expected.reverse();
            }
            prop_assert_eq!(keys_of(&scan), expected);
            prop_assert_eq!(scan.is_cut(), scan.len() < count);
            prop_assert!(count == 0 || scan.len() > 0);
            let (counted, rest) = scan.count(&range);
            prop_assert_eq!(counted, scan.len() as u64);
            prop_assert_eq!(rest.is_some(), scan.is_cut());
        }
    }

    #[test]
    fn what_is_no_key_of_ours_is_left_out() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        let mut gatherer = Gatherer::new(&Range::default(), SCAN_BYTES_MAX);
        for found in [b"".as_slice(), b"\xff", b"a\xc3", long.as_bytes(), b"b", b"a", b"b"] {
            gatherer.add(found);
        }
        assert_eq!(keys_of(&gatherer.into_scan()), ["a", "b"]);
    }

    #[test]
    fn many_keys_of_a_group_are_one_line() {
        let keys: Vec<String> = (0..1000).map(|index| format!("g/{index}")).collect();
        let texts = keys.iter().map(String::as_str).chain(["a", "z"]);
        let mut listing =
            Listing { delimiter: Some("/".into()), keys_max: PAGE_KEYS_MAX, ..Listing::default() };
        for expected in [["a", "g/", "z"], ["z", "g/", "a"]] {
            let scan = gathered(texts.clone(), &listing.range, SCAN_BYTES_MAX);
            assert_eq!(scan.page(&listing).keys().collect::<Vec<_>>(), expected);
            listing.range.is_reverse = true;
        }
    }

    #[test]
    fn gathering_takes_bounded_memory() {
        let mut gatherer = Gatherer::new(&Range::default(), 10_000);
        for number in 0..100_000_u32 {
            gatherer.add(format!("{:010}", number.wrapping_mul(2_654_435_761)).as_bytes());
            assert!(gatherer.bytes() <= 2 * 10_000 + 100);
        }
        let scan = gatherer.into_scan();
        assert!(scan.is_cut() && scan.bytes() <= 10_000);
    }
}
