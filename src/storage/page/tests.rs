use super::*;
use crate::storage::Key;
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
        let added = ["a", "b", "c"].into_iter().take_while(|key| builder.add(key, large(bytes)));
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
