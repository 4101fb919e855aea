//! Pages of sorted keys: which keys are listed, and how a page is put together.
//!
//! An engine walks its keys in order and adds them to a [`Builder`], which rolls keys
//! up into groups, counts, and says where to go on. Nothing here knows how an engine
//! keeps its keys.

use super::{Entry, Key};
use std::any::Any;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// The most keys and groups of a page.
pub const PAGE_KEYS_MAX: usize = 1000;

/// A page ends once its keys and values have this many bytes.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// A run of the keys, in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The prefix of all of them; the empty one is every key's.
    pub prefix: Box<str>,
    /// The start, within the prefix or not.
    pub start: Start,
    /// From the last key to the first.
    pub is_reverse: bool,
}

/// The start of a range, in its direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first key.
    #[default]
    First,
    /// At this key or, if it is not there, at the next one.
    At(Box<str>),
    /// After this key, there or not. In a listing with a delimiter a key inside a
    /// group stands for the group.
    After(Box<str>),
    /// After all keys with this prefix.
    AfterPrefix(Box<str>),
}

/// A page to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The keys to list.
    pub range: Range,
    /// Keys that have this behind the prefix are rolled up into one group each: the
    /// key up to the end of the first delimiter.
    pub delimiter: Option<Box<str>>,
    /// Each key comes with its entry. Does not go with a delimiter.
    pub with_entries: bool,
    /// The keys are to be deleted, and their entries only tell how much that is: an engine
    /// that does not hold them reads none, and lists what is no value too.
    pub is_to_delete: bool,
    /// The most keys and groups, from 1 to [`PAGE_KEYS_MAX`].
    pub keys_max: usize,
    /// The moment at which it is read.
    pub moment: Moment,
}

/// The moment at which a page is read.
#[derive(Clone, Default)]
pub enum Moment {
    /// When it is read.
    #[default]
    Now,
    /// The same, and the page has it for the pages that follow, if the engine can hold one.
    Hold,
    /// That of an earlier page. It is the engine's own, and holds room on a disk.
    Held(Arc<dyn Any + Send + Sync>),
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Now, Self::Now) | (Self::Hold, Self::Hold) => true,
            (Self::Held(one), Self::Held(other)) => Arc::ptr_eq(one, other),
            (Self::Now | Self::Hold | Self::Held(_), _) => false,
        }
    }
}

impl Eq for Moment {}

impl fmt::Debug for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Now => "Now",
            Self::Hold => "Hold",
            Self::Held(_) => "Held",
        })
    }
}

/// A part of a listing that was read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// All keys and groups, one behind the other.
    keys: KeyTexts,
    entries: Vec<Entry>,
    /// The start of the rest; none once the end was reached. A page may have few keys,
    /// or none, and others behind it.
    pub next: Option<Start>,
    /// The moment for the pages that follow: [`Moment::Held`] if one is held.
    pub moment: Moment,
    /// A key behind the page was seen: the rest has one. Without that it may have none.
    pub is_followed: bool,
}

impl Page {
    /// The keys and groups, in the order of the listing.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter()
    }

    /// How many keys and groups there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// The entries of the keys, if the listing is with entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The last key or group.
    pub fn last(&self) -> Option<&str> {
        self.keys.last()
    }
}

/// The texts of keys, one behind the other in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyTexts {
    text: String,
    ends: Vec<usize>,
}

impl KeyTexts {
    pub fn push(&mut self, key: &str) {
        self.text.push_str(key);
        self.ends.push(self.text.len());
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }

    pub fn last(&self) -> Option<&str> {
        let (_, before) = self.ends.split_last()?;
        self.text.get(before.last().copied().unwrap_or(0)..)
    }
}

/// Bounds of keys by their bytes.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Range {
    /// The bounds of its keys, or none if no key can be within them.
    pub fn bounds(&self) -> Option<Bounds> {
        let prefix = self.prefix.as_bytes();
        let (lower, upper) = match (&self.start, self.is_reverse) {
            (Start::First, _) => (Vec::new(), None),
            (Start::At(key), false) => (key.as_bytes().to_vec(), None),
            (Start::At(key), true) => (Vec::new(), Some(next_to(key))),
            (Start::After(key), false) => (next_to(key), None),
            (Start::AfterPrefix(group), false) => (end_of(group.as_bytes())?, None),
            (Start::After(key) | Start::AfterPrefix(key), true) => {
                (Vec::new(), Some(key.as_bytes().to_vec()))
            }
        };
        let lower = lower.max(prefix.to_vec());
        let upper = upper.into_iter().chain(end_of(prefix)).min();
        let is_empty = upper.as_ref().is_some_and(|upper| *upper <= lower);
        (!is_empty)
            .then(|| (Bound::Included(lower), upper.map_or(Bound::Unbounded, Bound::Excluded)))
    }
}

/// Puts a page together.
pub struct Builder<'a> {
    listing: &'a Listing,
    page: Page,
    value_bytes: usize,
    place: Place,
}

/// The place of a walk: behind what it has passed.
enum Place {
    /// The listing's own start.
    Start(Start),
    /// The page's last key.
    Key,
    /// The page's last group.
    Group,
    /// This key, which is not on the page.
    Passed(Key),
}

impl<'a> Builder<'a> {
    /// The page of a listing, empty.
    pub fn new(listing: &'a Listing) -> Self {
        let Listing { range, delimiter, .. } = listing;
        let start = match (&range.start, delimiter) {
            // A start inside a group is one behind it.
            (start @ Start::After(after), Some(delimiter)) => {
                match group_of(after, &range.prefix, delimiter) {
                    Some(group) => Start::AfterPrefix(group.into()),
                    None => start.clone(),
                }
            }
            (start, _) => start.clone(),
        };
        Self { listing, page: Page::default(), value_bytes: 0, place: Place::Start(start) }
    }

    /// The start of the rest.
    fn start(&self) -> Start {
        let last = || self.page.last().unwrap_or_default().into();
        match &self.place {
            Place::Start(start) => start.clone(),
            Place::Key => Start::After(last()),
            Place::Group => Start::AfterPrefix(last()),
            // A start after it would be one behind its group, which may have living
            // keys.
            Place::Passed(key) => Start::At(key.as_str().into()),
        }
    }

    /// The bounds of the keys that are left, or none if no key can be within them.
    pub fn bounds(&self) -> Option<Bounds> {
        let start = match &self.place {
            Place::Passed(key) => Start::After(key.as_str().into()),
            Place::Start(_) | Place::Key | Place::Group => self.start(),
        };
        Range { start, ..self.listing.range.clone() }.bounds()
    }

    /// Returns true if `key` is in the group that was added last or that the listing
    /// starts after. Keys of it add nothing, so a walk may go on behind it.
    pub fn is_in_group(&self, key: &str) -> bool {
        match &self.place {
            Place::Group => self.page.last().is_some_and(|group| key.starts_with(group)),
            Place::Start(Start::AfterPrefix(group)) => key.starts_with(&**group),
            Place::Start(Start::First | Start::At(_) | Start::After(_))
            | Place::Key
            | Place::Passed(_) => false,
        }
    }

    /// How many keys and groups the page has.
    pub fn len(&self) -> usize {
        self.page.len()
    }

    /// Returns true once the page takes no more keys.
    pub fn is_full(&self) -> bool {
        let bytes = self.page.keys.bytes() + self.value_bytes;
        self.page.len() >= self.listing.keys_max || bytes >= PAGE_BYTES_MAX
    }

    /// Adds the next living key of the listing, with its entry if that is asked for.
    /// Returns false if the page is full, and notes that there is a rest.
    pub fn add(&mut self, key: &str, entry: Option<Entry>) -> bool {
        if self.is_in_group(key) {
            return true;
        }
        if self.is_full() {
            self.stop();
            self.page.is_followed = true;
            return false;
        }
        let Listing { range, delimiter, .. } = self.listing;
        let group =
            delimiter.as_ref().and_then(|delimiter| group_of(key, &range.prefix, delimiter));
        self.page.keys.push(group.unwrap_or(key));
        self.value_bytes += entry.as_ref().map_or(0, |entry| entry.value().len());
        self.page.entries.extend(entry);
        self.place = if group.is_some() { Place::Group } else { Place::Key };
        true
    }

    /// Passes a key that has expired.
    pub fn pass(&mut self, key: Key) {
        if !self.is_in_group(key.as_str()) {
            self.place = Place::Passed(key);
        }
    }

    /// Notes that there may be a rest, from here on.
    pub fn stop(&mut self) {
        self.page.next = Some(self.start());
    }

    /// The page.
    pub fn into_page(self) -> Page {
        self.page
    }
}

/// The group of a key: up to the end of the first delimiter behind the prefix.
fn group_of<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(prefix)?;
    let end = prefix.len() + rest.find(delimiter)? + delimiter.len();
    key.get(..end)
}

/// The least bytes above all keys with a prefix; none for the empty prefix. A prefix
/// is UTF-8, so its last byte is no 0xff.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// The least bytes above a key.
fn next_to(key: &str) -> Vec<u8> {
    [key.as_bytes(), &[0]].concat()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::storage::listings::listed;
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::collections::BTreeMap;
    use std::ops::RangeBounds as _;

    /// The keys of a toy engine, and whether each has expired.
    type Keys = BTreeMap<String, bool>;

    /// The way in which a toy engine walks its keys.
    #[derive(Clone, Copy, Debug)]
    struct Walk {
        /// It goes on by new bounds after each key, not key by key.
        seeks: bool,
        /// The expired keys that it passes before it ends a page.
        passed_max: usize,
    }

    /// Keys that all live.
    fn living<'a>(keys: impl IntoIterator<Item = &'a str>) -> Keys {
        keys.into_iter().map(|key| (key.to_owned(), false)).collect()
    }

    fn entry_of(key: &str) -> Entry {
        Entry::new(format!("value of {key}").into())
    }

    /// Reads a page as an engine does.
    fn read(keys: &Keys, listing: &Listing, walk: Walk) -> Page {
        let mut builder = Builder::new(listing);
        let mut passed = 0;
        'bounds: while let Some(bounds) = builder.bounds() {
            let is_within = |key: &str| bounds.contains(&key.as_bytes().to_vec());
            let mut within: Vec<_> = keys.iter().filter(|(key, _)| is_within(key)).collect();
            if listing.range.is_reverse {
                within.reverse();
            }
            for (key, has_expired) in within {
                if *has_expired {
                    builder.pass(Key::new(key.as_str()).expect("a key"));
                    passed += 1;
                    if passed > walk.passed_max {
                        builder.stop();
                        break 'bounds;
                    }
                    if walk.seeks {
                        continue 'bounds;
                    }
                } else if !builder.add(key, listing.with_entries.then(|| entry_of(key))) {
                    break 'bounds;
                } else if walk.seeks {
                    continue 'bounds;
                }
            }
            break;
        }
        builder.into_page()
    }

    /// Reads a listing page by page; each is within the listing's limits.
    fn read_all(keys: &Keys, mut listing: Listing, walk: Walk) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..=2 * keys.len() {
            let page = read(keys, &listing, walk);
            assert!(page.len() <= listing.keys_max, "{page:?}");
            assert_eq!(page.is_empty(), page.keys().next().is_none());
            assert_eq!(page.last(), page.keys().last());
            let entries: Vec<Entry> = page.keys().map(entry_of).collect();
            assert_eq!(page.entries(), if listing.with_entries { &entries[..] } else { &[] });
            all.extend(page.keys().map(str::to_owned));
            let Some(next) = page.next else { return all };
            listing.range.start = next;
        }
        panic!("it does not end: {all:?}");
    }

    /// The keys and groups of a listing by its definition.
    fn definition(keys: &Keys, listing: &Listing) -> Vec<String> {
        let living = keys.iter().filter(|(_, has_expired)| !**has_expired);
        listed(living.map(|(key, _)| key.as_str()), listing)
    }

    /// Text of characters of one to four bytes.
    pub fn text(lengths: std::ops::Range<usize>) -> impl Strategy<Value = String> {
        const CHARACTERS: [char; 7] = ['\0', 'a', 'b', '/', '\u{e9}', '\u{ffff}', '\u{10ffff}'];
        vec(select(&CHARACTERS), lengths).prop_map(String::from_iter)
    }

    prop_compose! {
        /// Any range of such texts.
        pub fn any_range()(
            prefix in text(0..3),
            start in text(0..5),
            form in 0..4,
            is_reverse: bool,
        ) -> Range {
            let start = start.into_boxed_str();
            let start = match form {
                0 => Start::First,
                1 => Start::At(start),
                2 => Start::After(start),
                _ => Start::AfterPrefix(start),
            };
            Range { prefix: prefix.into(), start, is_reverse }
        }
    }

    prop_compose! {
        fn any_listing()(
            range in any_range(),
            delimiter in option::of(prop_oneof![Just("/"), Just("ab"), Just("\u{10ffff}")]),
            with_entries: bool,
            keys_max in 1_usize..6,
        ) -> Listing {
            let delimiter: Option<Box<str>> = delimiter.map(Into::into);
            let with_entries = with_entries && delimiter.is_none();
            let moment = Moment::Now;
            Listing { range, delimiter, with_entries, is_to_delete: false, keys_max, moment }
        }
    }

    prop_compose! {
        fn any_walk()(seeks: bool, passed_max in 1_usize..4) -> Walk {
            Walk { seeks, passed_max }
        }
    }

    proptest! {
        #[test]
        fn pages_are_those_of_the_definition(
            keys in btree_map(text(1..5), any::<bool>(), 0..40),
            listing in any_listing(),
            walk in any_walk(),
        ) {
            let expected = definition(&keys, &listing);
            prop_assert_eq!(read_all(&keys, listing, walk), expected);
        }

        #[test]
        fn a_page_ends_early_only_where_more_may_follow(
            keys in btree_map(text(1..5), Just(false), 0..40),
            listing in any_listing(),
            walk in any_walk(),
        ) {
            let (all, page) = (definition(&keys, &listing), read(&keys, &listing, walk));
            prop_assert_eq!(page.len(), all.len().min(listing.keys_max));
            prop_assert_eq!(page.next.is_some(), all.len() > listing.keys_max);
        }
    }

    const WALK: Walk = Walk { seeks: false, passed_max: 1000 };

    fn listing(prefix: &str, start: Start, is_reverse: bool) -> Listing {
        let range = Range { prefix: prefix.into(), start, is_reverse };
        Listing { range, keys_max: PAGE_KEYS_MAX, ..Listing::default() }
    }

    fn groups(prefix: &str, start: Start, is_reverse: bool) -> Listing {
        Listing { delimiter: Some("/".into()), ..listing(prefix, start, is_reverse) }
    }

    #[test]
    fn a_prefix_ends_behind_its_last_key() {
        let keys = ["\u{10fffe}", "\u{10ffff}", "\u{10ffff}\u{10ffff}", "a", "ab", "b", "\u{e9}x"];
        let cases: [(&str, &[&str]); 5] = [
            ("a", &["a", "ab"]),
            ("\u{e9}", &["\u{e9}x"]),
            ("\u{10ffff}", &["\u{10ffff}", "\u{10ffff}\u{10ffff}"]),
            ("ab\0", &[]),
            ("c", &[]),
        ];
        for (prefix, expected) in cases {
            for is_reverse in [false, true] {
                let mut expected = expected.to_vec();
                if is_reverse {
                    expected.reverse();
                }
                let listing = listing(prefix, Start::First, is_reverse);
                assert_eq!(read_all(&living(keys), listing, WALK), expected, "{prefix:?}");
            }
        }
    }

    #[test]
    fn a_start_outside_the_prefix_changes_nothing_or_leaves_nothing() {
        let keys = living(["a", "p1", "p2", "z"]);
        let cases = [("a", false, 2), ("z", false, 0), ("a", true, 0), ("z", true, 2)];
        for (start, is_reverse, count) in cases {
            for start in [Start::After(start.into()), Start::AfterPrefix(start.into())] {
                let listing = listing("p", start, is_reverse);
                assert_eq!(read_all(&keys, listing.clone(), WALK).len(), count, "{listing:?}");
            }
        }
    }

    #[test]
    fn keys_with_a_delimiter_behind_the_prefix_are_one_group() {
        let keys = living(["docs", "docs/", "docs/a", "docs/img/1", "docs/img/2", "e"]);
        let cases: [(&str, &[&str]); 4] = [
            ("", &["docs", "docs/", "e"]),
            ("d", &["docs", "docs/"]),
            // A key that equals the prefix is no group.
            ("docs/", &["docs/", "docs/a", "docs/img/"]),
            ("docs/img/", &["docs/img/1", "docs/img/2"]),
        ];
        for (prefix, expected) in cases {
            assert_eq!(read_all(&keys, groups(prefix, Start::First, false), WALK), expected);
        }
    }

    #[test]
    fn a_start_inside_a_group_goes_on_behind_it() {
        let keys = living(["a", "g/1", "g/2", "g/3", "z"]);
        for start in ["g/", "g/2", "g/25", "g/3"] {
            let start = Start::After(start.into());
            assert_eq!(read_all(&keys, groups("", start.clone(), false), WALK), ["z"]);
            assert_eq!(read_all(&keys, groups("", start, true), WALK), ["a"]);
        }
        // With that prefix they are no group.
        let start = Start::After("g/2".into());
        assert_eq!(read_all(&keys, groups("g/", start, false), WALK), ["g/3"]);
    }

    #[test]
    fn a_page_that_ends_among_expired_keys_of_a_group_loses_no_group() {
        let mut keys: Keys = (0..9).map(|index| (format!("g/{index}"), true)).collect();
        for last in ["g/0", "g/9"] {
            keys.insert(last.to_owned(), false);
            for is_reverse in [false, true] {
                let listing = groups("", Start::First, is_reverse);
                let walk = Walk { seeks: false, passed_max: 2 };
                assert_eq!(read_all(&keys, listing, walk), ["g/"], "{last}, {is_reverse}");
            }
            keys.insert(last.to_owned(), true);
        }
    }

    #[test]
    fn a_page_ends_once_it_has_its_bytes_and_with_one_entry_at_least() {
        let listing = Listing { with_entries: true, ..listing("", Start::First, false) };
        let large = |bytes: usize| Some(Entry::new(vec![0; bytes].into()));
        let cases = [(3 * PAGE_BYTES_MAX, 1), (PAGE_BYTES_MAX - 1, 1), (PAGE_BYTES_MAX / 2, 2)];
        for (bytes, expected) in cases {
            let mut builder = Builder::new(&listing);
            let added =
                ["a", "b", "c"].into_iter().take_while(|key| builder.add(key, large(bytes)));
            assert_eq!(added.count(), expected, "values of {bytes} bytes");
            assert!(builder.is_full());
            let page = builder.into_page();
            assert_eq!(page.len(), expected);
            assert_eq!(page.next, page.last().map(|last| Start::After(last.into())));
        }
    }

    #[test]
    fn an_empty_page_has_no_last_key() {
        let listing = listing("", Start::First, false);
        let page = Builder::new(&listing).into_page();
        assert_eq!((page.len(), page.last(), &page.next), (0, None, &None));
    }
}
