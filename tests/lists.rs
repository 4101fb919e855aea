//! What the storage promises of listings and counts, on every engine.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]
#![allow(clippy::indexing_slicing, reason = "a promise that panics is not kept")]

use crate::support::blocking::{Blocking as _, TOLD};
use crate::support::listings::listed;
use crate::support::promises::{Store, clear, delete, entry, fewer_if_slow, get, is_slow, key};
use crate::support::promises::{on_every_engine, set, set_all, wait_for};
use crate::support::random::Random;
use crate::support::threads::Ended;
use bytes::Bytes;
use little_key_value::storage::{Entry, KEY_BYTES_MAX, Listing, PAGE_KEYS_MAX, Page, Range, Start};
use little_key_value::storage::{Moment, Op, Time};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

on_every_engine! {
    nothing_is_listed_in_an_empty_store
    keys_of_every_kind_are_listed_in_order_of_their_bytes
    each_key_is_listed_once_and_no_deleted_one
    a_range_is_a_prefix_and_a_start
    pages_one_behind_the_other_give_each_key_once
    all_pages_can_be_of_one_moment
    keys_are_rolled_up_into_groups
    a_large_group_is_one_line
    entries_come_with_their_keys
    a_page_with_entries_ends_once_it_has_its_bytes
    a_count_is_that_of_the_listing
    expired_keys_are_never_listed_or_counted
    many_expired_keys_in_a_row_are_passed
    a_listing_agrees_with_a_map
    writers_disturb_no_listing
    clearing_disturbs_no_listing
    a_listing_that_is_given_back_can_be_submitted
}

/// A listing of keys with a prefix, in order.
fn listing(prefix: &str) -> Listing {
    let range = Range { prefix: prefix.into(), ..Range::default() };
    Listing { range, keys_max: PAGE_KEYS_MAX, ..Listing::default() }
}

fn backwards(mut listing: Listing) -> Listing {
    listing.range.is_reverse = true;
    listing
}

fn with_groups(listing: Listing) -> Listing {
    Listing { delimiter: Some("/".into()), ..listing }
}

/// Reads a listing page by page, to its end.
#[track_caller]
fn pages(store: &Store, mut listing: Listing) -> Vec<Page> {
    // More than any store here needs, expired keys and all.
    const PAGES_MAX: usize = 20_000;
    let mut pages = Vec::new();
    while pages.len() < PAGES_MAX {
        let mut page = store.list(listing.clone()).expect("the engine lists");
        assert!(page.len() <= listing.keys_max, "{} of {}", page.len(), listing.keys_max);
        let next = page.next.take();
        listing.moment = std::mem::take(&mut page.moment);
        pages.push(page);
        match next {
            Some(next) => listing.range.start = next,
            None => return pages,
        }
    }
    panic!("{listing:?} does not end");
}

/// The keys and groups of a listing.
#[track_caller]
fn list(store: &Store, listing: Listing) -> Vec<String> {
    let pages = pages(store, listing);
    pages.iter().flat_map(|page| page.keys().map(str::to_owned)).collect()
}

#[track_caller]
fn count(store: &Store, prefix: &str) -> u64 {
    store.count(listing(prefix).range).expect("the engine counts")
}

/// Stores the value `x` under many keys.
fn set_keys<'a>(store: &Store, keys: impl IntoIterator<Item = &'a str>) {
    set_all(store, keys.into_iter().map(|name| (key(name), entry("x"))));
}

fn nothing_is_listed_in_an_empty_store(store: Store) {
    let is_empty = |store: &Store| {
        for listing in [listing(""), listing("p"), with_groups(listing(""))] {
            for listing in [listing.clone(), backwards(listing)] {
                assert_eq!(list(store, listing), [""; 0]);
            }
        }
        assert_eq!(count(store, ""), 0);
    };
    is_empty(&store);
    set_keys(&store, ["a", "p/1", "p/2"]);
    assert_eq!(count(&store, ""), 3);
    clear(&store);
    is_empty(&store);
    set(&store, "p", "x");
    delete(&store, "p");
    is_empty(&store);
}

fn keys_of_every_kind_are_listed_in_order_of_their_bytes(store: Store) {
    let longest = "k".repeat(KEY_BYTES_MAX);
    let near = format!("{}j", "k".repeat(KEY_BYTES_MAX - 1));
    let zeros = "\0".repeat(KEY_BYTES_MAX);
    let wide = "\u{10FFFF}".repeat(KEY_BYTES_MAX / 4);
    let mut keys = vec![longest.as_str(), &near, &zeros, &zeros[1..], &wide, &wide[4..]];
    keys.extend([
        "z", "a", "aa", "a\0", "a\0\0", "A", " ", "\0", "/", "//", "a/", "/a", "..", "%41",
    ]);
    keys.extend(["?", "#", "&", "+", "*", "'", "\"", "\\", "a\nb", "a\r\nb", "\t", "\u{7f}"]);
    keys.extend(["\u{80}", "\u{7ff}", "\u{800}", "\u{ffff}", "\u{10000}", "\u{10ffff}"]);
    keys.extend(["é", "e\u{301}", "ключ", "鍵", "\u{1F511}", "\u{200B}", "\u{feff}", "\u{fffd}"]);
    for key in &keys {
        set(&store, key, "x");
    }
    keys.sort_unstable();
    let mut reversed = keys.clone();
    reversed.reverse();
    for keys_max in [1, 7, PAGE_KEYS_MAX] {
        let listing = Listing { keys_max, ..listing("") };
        assert_eq!(list(&store, listing.clone()), keys, "{keys_max}");
        assert_eq!(list(&store, backwards(listing)), reversed, "{keys_max}");
    }
    assert_eq!(count(&store, ""), keys.len() as u64);
    for prefix in &keys {
        let with_prefix = keys.iter().filter(|key| key.starts_with(prefix));
        assert!(list(&store, listing(prefix)).iter().eq(with_prefix.clone()), "{prefix:?}");
        assert_eq!(count(&store, prefix), with_prefix.count() as u64, "{prefix:?}");
    }
}

fn each_key_is_listed_once_and_no_deleted_one(store: Store) {
    for value in ["one", "two"] {
        for name in ["a", "b", "c"] {
            set(&store, name, value);
        }
    }
    assert_eq!(list(&store, listing("")), ["a", "b", "c"]);
    delete(&store, "b");
    delete(&store, "never there");
    assert_eq!(list(&store, listing("")), ["a", "c"]);
    set(&store, "b", "again");
    delete(&store, "a");
    delete(&store, "a");
    assert_eq!(list(&store, listing("")), ["b", "c"]);
    assert_eq!(list(&store, backwards(listing(""))), ["c", "b"]);
    assert_eq!(count(&store, ""), 2);
}

fn a_range_is_a_prefix_and_a_start(store: Store) {
    let after = |key: &str| Start::After(key.into());
    let after_prefix = |key: &str| Start::AfterPrefix(key.into());
    let at = |key: &str| Start::At(key.into());
    set_keys(&store, ["a", "p", "p1", "p2", "p21", "p3", "q", "\u{e9}1", "\u{10ffff}1"]);
    let cases: &[(&str, Start, &[&str], &[&str])] = &[
        ("p", Start::First, &["p", "p1", "p2", "p21", "p3"], &["p3", "p21", "p2", "p1", "p"]),
        ("p", after("p2"), &["p21", "p3"], &["p1", "p"]),
        ("p", at("p2"), &["p2", "p21", "p3"], &["p2", "p1", "p"]),
        ("p", after_prefix("p2"), &["p3"], &["p1", "p"]),
        // There or not.
        ("p", after("p10"), &["p2", "p21", "p3"], &["p1", "p"]),
        ("p", at("p10"), &["p2", "p21", "p3"], &["p1", "p"]),
        // Outside the prefix.
        ("p2", after("a"), &["p2", "p21"], &[]),
        ("p2", after("q"), &[], &["p21", "p2"]),
        ("p2", after_prefix("p"), &[], &[]),
        // The last bytes of a prefix are not the highest ones of UTF-8.
        ("\u{e9}", Start::First, &["\u{e9}1"], &["\u{e9}1"]),
        ("\u{10ffff}", Start::First, &["\u{10ffff}1"], &["\u{10ffff}1"]),
        ("", after("q"), &["\u{e9}1", "\u{10ffff}1"], &["p3", "p21", "p2", "p1", "p", "a"]),
    ];
    for (prefix, start, forward, reverse) in cases {
        let mut listing = listing(prefix);
        listing.range.start = start.clone();
        assert_eq!(list(&store, listing.clone()), *forward, "{listing:?}");
        let listing = backwards(listing);
        assert_eq!(list(&store, listing.clone()), *reverse, "{listing:?}");
    }
}

/// Keys that share long and short beginnings, in order.
fn many_keys(count: usize) -> Vec<String> {
    let mut keys: Vec<String> =
        (0..count).map(|index| format!("{}:{index}", "p".repeat(index % 40))).collect();
    keys.sort_unstable();
    keys
}

fn pages_one_behind_the_other_give_each_key_once(store: Store) {
    let mut keys = many_keys(fewer_if_slow(&store, 10_000) + 1);
    set_keys(&store, keys.iter().map(String::as_str));
    // A page of one key each would take long.
    for keys_max in [37, 999, PAGE_KEYS_MAX] {
        let listing = Listing { keys_max, ..listing("") };
        assert!(list(&store, listing.clone()) == keys, "{keys_max} a page");
        let pages = pages(&store, listing.clone());
        assert!(pages.iter().rev().skip(1).all(|page| !page.is_empty()), "an empty page");
        keys.reverse();
        assert!(list(&store, backwards(listing)) == keys, "{keys_max} a page, reverse");
        keys.reverse();
    }
    assert_eq!(count(&store, ""), keys.len() as u64);
}

/// An engine that holds no moment reads each page when it is asked for.
fn all_pages_can_be_of_one_moment(store: Store) {
    let keys = many_keys(1001);
    set_keys(&store, keys.iter().map(String::as_str));
    for with_entries in [false, true] {
        let listing = Listing { with_entries, keys_max: 99, moment: Moment::Hold, ..listing("") };
        let mut page = store.list(listing.clone()).expect("the engine lists");
        let mut listed: Vec<String> = page.keys().map(str::to_owned).collect();
        // Those that are there all the time are listed in any case.
        set_keys(&store, ["a", "zzz"]);
        let (start, moment) = (page.next.take().expect("a rest"), page.moment);
        let range = Range { start, ..listing.range };
        listed.extend(list(&store, Listing { range, moment, ..listing }));
        listed.retain(|key| !["a", "zzz"].contains(&&**key));
        assert!(listed == keys, "{} of {}", listed.len(), keys.len());
    }
}

fn keys_are_rolled_up_into_groups(store: Store) {
    let keys = ["docs", "docs/", "docs/a", "docs/img/1", "docs/img/2", "docs0", "e/1", "é/2"];
    set_keys(&store, keys);
    let after = |key: &str| Start::After(key.into());
    let cases: &[(&str, Start, &[&str], &[&str])] = &[
        (
            "",
            Start::First,
            &["docs", "docs/", "docs0", "e/", "é/"],
            &["é/", "e/", "docs0", "docs/", "docs"],
        ),
        // A key that equals the prefix is no group.
        (
            "docs/",
            Start::First,
            &["docs/", "docs/a", "docs/img/"],
            &["docs/img/", "docs/a", "docs/"],
        ),
        ("docs/img/", Start::First, &["docs/img/1", "docs/img/2"], &["docs/img/2", "docs/img/1"]),
        ("e", Start::First, &["e/"], &["e/"]),
        // A start inside a group goes on behind it.
        ("", after("docs/"), &["docs0", "e/", "é/"], &["docs"]),
        ("", after("docs/b"), &["docs0", "e/", "é/"], &["docs"]),
        ("docs/", after("docs/img/1"), &[], &["docs/a", "docs/"]),
        ("docs/", after("docs/"), &["docs/a", "docs/img/"], &[]),
    ];
    for (prefix, start, forward, reverse) in cases {
        for keys_max in [1, 2, PAGE_KEYS_MAX] {
            let mut listing = Listing { keys_max, ..with_groups(listing(prefix)) };
            listing.range.start = start.clone();
            assert_eq!(list(&store, listing.clone()), *forward, "{listing:?}");
            let listing = backwards(listing);
            assert_eq!(list(&store, listing.clone()), *reverse, "{listing:?}");
        }
    }
    let by_colons = Listing { delimiter: Some("::".into()), ..listing("") };
    set_keys(&store, ["m:n", "m::n", "m::o", "m:::p"]);
    let lines = list(&store, by_colons);
    let lines: Vec<&String> = lines.iter().filter(|line| line.starts_with('m')).collect();
    // The first delimiter counts, wherever another may begin.
    assert_eq!(lines, ["m::", "m:n"]);
}

fn a_large_group_is_one_line(store: Store) {
    let many = fewer_if_slow(&store, 10_000);
    let inside: Vec<String> = (0..many).map(|index| format!("g/{index:05}")).collect();
    set_keys(&store, inside.iter().map(String::as_str).chain(["a", "g", "g0", "h/1"]));
    for keys_max in [1, 3, PAGE_KEYS_MAX] {
        let listing = Listing { keys_max, ..with_groups(listing("")) };
        assert_eq!(list(&store, listing.clone()), ["a", "g", "g/", "g0", "h/"]);
        assert_eq!(list(&store, backwards(listing)), ["h/", "g0", "g/", "g", "a"]);
    }
    assert_eq!(count(&store, "g/"), many as u64);
}

fn entries_come_with_their_keys(store: Store) {
    let later = Time::now().after(Duration::from_secs(1000));
    let mut random = Random::of_this_run();
    for (index, bytes) in [1, 100, 4095, 4096, 4097, 100_000].into_iter().enumerate() {
        for expiry in [None, Some(later)] {
            let entry = entry(random.bytes(bytes)).with_expiry(expiry);
            let name = format!("{index}:{}", expiry.is_some());
            store.set(key(&name), entry.clone()).expect("the engine writes");
            let typed = entry.with_content_type(Some("image/png".into()));
            store.set(key(&(name + ":typed")), typed).expect("the engine writes");
        }
    }
    let listing = Listing { with_entries: true, keys_max: 5, ..listing("") };
    for listing in [listing.clone(), backwards(listing)] {
        let mut listed = 0;
        for page in pages(&store, listing) {
            assert_eq!(page.entries().len(), page.len());
            for (name, listed) in page.keys().zip(page.entries()) {
                let stored = store.get(&key(name)).expect("the engine reads");
                assert!(stored.as_ref() == Some(listed), "{name}");
            }
            listed += page.len();
        }
        assert_eq!(listed, 24);
    }
    let without = pages(&store, self::listing(""));
    assert!(without.iter().all(|page| page.entries().is_empty()));
}

fn a_page_with_entries_ends_once_it_has_its_bytes(store: Store) {
    const MIB: usize = 1 << 20;
    const LARGE: usize = 3 * MIB;
    // Shared, so that this process has it once.
    let value = Bytes::from(vec![b'x'; LARGE]);
    let keys: Vec<String> = (0..12).map(|index| format!("{index:02}")).collect();
    for (index, name) in keys.iter().enumerate() {
        let bytes = if index % 4 == 0 { LARGE } else { MIB / 4 };
        set(&store, name, value.slice(..bytes));
    }
    let listing = Listing { with_entries: true, ..listing("") };
    for listing in [listing.clone(), backwards(listing)] {
        let pages = pages(&store, listing);
        let lines: Vec<&str> = pages.iter().flat_map(Page::keys).collect();
        let mut sorted = lines.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, keys, "{lines:?}");
        for page in pages {
            // The last entry alone may take it past its bytes.
            let before = page.entries().split_last().map_or(&[][..], |(_, before)| before);
            let bytes: usize = before.iter().map(|entry| entry.value().len()).sum();
            assert!(bytes < MIB, "{bytes} bytes in {:?}", page.keys().collect::<Vec<_>>());
        }
    }
    assert_eq!(pages(&store, self::listing("")).len(), 1, "values count only if they are there");
}

fn a_count_is_that_of_the_listing(store: Store) {
    let keys = many_keys(fewer_if_slow(&store, 5000));
    set_keys(&store, keys.iter().map(String::as_str));
    let starts = [Start::First, Start::After("ppp:".into()), Start::At("pp:7".into())];
    for prefix in ["", "p", "ppp", "ppppp:", "q"] {
        for start in starts.clone() {
            for is_reverse in [false, true] {
                let range = Range { prefix: prefix.into(), start: start.clone(), is_reverse };
                let listing = Listing { range: range.clone(), ..listing("") };
                let expected = listed(keys.iter().map(String::as_str), &listing).len();
                assert_eq!(store.count(range.clone()), Ok(expected as u64), "{range:?}");
            }
        }
    }
}

/// An expiry soon.
fn soon() -> Time {
    Time::now().after(Duration::from_millis(200))
}

fn expired_keys_are_never_listed_or_counted(store: Store) {
    let soon = soon();
    let expiring =
        |name: &str, bytes: usize| (key(name), entry(vec![b'x'; bytes]).with_expiry(Some(soon)));
    set_keys(&store, ["a", "c/2", "e", "h"]);
    set_all(&store, [expiring("b", 10), expiring("c/1", 10), expiring("c/3", 10_000)]);
    set_all(&store, [expiring("d/1", 10), expiring("d/2", 10_000), expiring("f", 10_000)]);
    set_all(&store, [expiring("g", 10), expiring("h", 10), expiring("i", 10), expiring("0", 1)]);
    // These live on: one has no expiry any more, the other a later one.
    set(&store, "g", "x");
    let later = entry("x").with_expiry(Some(soon.after(Duration::from_secs(1000))));
    store.set(key("f"), later).expect("the engine writes");
    set(&store, "a", "x");

    wait_for(soon);
    let living = ["a", "c/2", "e", "f", "g"];
    // Before they are swept away, and after it.
    let past = soon.after(Duration::from_millis(1500));
    let mut is_last = false;
    while !is_last {
        is_last = Time::now() > past;
        for keys_max in [1, 2, PAGE_KEYS_MAX] {
            for with_entries in [false, true] {
                let listing = Listing { keys_max, with_entries, ..listing("") };
                assert_eq!(list(&store, listing.clone()), living);
                assert!(list(&store, backwards(listing)).iter().rev().eq(living));
            }
            let listing = Listing { keys_max, ..with_groups(listing("")) };
            assert_eq!(list(&store, listing.clone()), ["a", "c/", "e", "f", "g"]);
            assert_eq!(list(&store, backwards(listing)), ["g", "f", "e", "c/", "a"]);
        }
        assert_eq!((count(&store, ""), count(&store, "c/"), count(&store, "d/")), (5, 1, 0));
        thread::sleep(Duration::from_millis(100));
    }
    set(&store, "d/1", "again");
    assert_eq!(list(&store, listing("d/")), ["d/1"]);
}

fn many_expired_keys_in_a_row_are_passed(store: Store) {
    let many = fewer_if_slow(&store, 30_000);
    let soon = soon().after(Duration::from_millis(500));
    let expiring = |name: String| (key(&name), entry("x").with_expiry(Some(soon)));
    set_all(&store, (0..many).map(|index| expiring(format!("g/{index:05}"))));
    set_all(&store, (0..many / 10).map(|index| expiring(format!("h/{index}"))));
    set_keys(&store, ["a", "g/", "g/15000", "g/99999", "z"]);
    wait_for(soon);
    let living = ["a", "g/", "g/15000", "g/99999", "z"];
    // Before they are swept away, meanwhile, and after it.
    let past = soon.after(Duration::from_millis(1500));
    let mut is_last = false;
    while !is_last {
        is_last = Time::now() > past;
        for keys_max in [1, 2, PAGE_KEYS_MAX] {
            let listing = Listing { keys_max, ..listing("") };
            assert_eq!(list(&store, listing.clone()), living);
            assert!(list(&store, backwards(listing)).iter().rev().eq(living));
        }
        let groups = with_groups(listing(""));
        assert_eq!(list(&store, groups.clone()), ["a", "g/", "z"]);
        assert_eq!(list(&store, backwards(groups)), ["z", "g/", "a"]);
        assert_eq!((count(&store, ""), count(&store, "g/1"), count(&store, "h")), (5, 1, 0));
    }
}

fn a_listing_agrees_with_a_map(store: Store) {
    const PARTS: [&str; 8] = ["a", "b", "/", "ab", "\u{e9}", "\u{10ffff}", "\0", "p/"];
    let later = Time::now().after(Duration::from_secs(1000));
    let rounds = if is_slow(&store) { 30 } else { 150 };
    let mut random = Random::of_this_run();
    let mut map: BTreeMap<String, Entry> = BTreeMap::new();
    let text = |random: &mut Random, parts: usize| -> String {
        (0..parts).map(|_| random.one_of(&PARTS)).collect()
    };
    for round in 0..rounds {
        if random.below(50) == 0 {
            clear(&store);
            map.clear();
        }
        for _ in 0..random.below(40) {
            let parts = 1 + random.below(4);
            let name = text(&mut random, parts);
            if random.below(3) == 0 {
                delete(&store, &name);
                map.remove(&name);
            } else {
                let bytes = random.one_of(&[1, 100, 4097]);
                let expiry = random.one_of(&[None, Some(later)]);
                let entry = entry(random.bytes(bytes)).with_expiry(expiry);
                store.set(key(&name), entry.clone()).expect("the engine writes");
                map.insert(name, entry);
            }
        }
        for _ in 0..10 {
            let parts = random.below(4);
            let start: Box<str> = text(&mut random, parts).into();
            let start = match random.below(4) {
                0 => Start::First,
                1 => Start::At(start),
                2 => Start::After(start),
                _ => Start::AfterPrefix(start),
            };
            let parts = random.below(3);
            let prefix = text(&mut random, parts).into();
            let range = Range { prefix, start, is_reverse: random.below(2) == 0 };
            let delimiter = random.one_of(&[None, Some("/"), Some("ab")]).map(Into::into);
            let with_entries = delimiter.is_none() && random.below(2) == 0;
            let keys_max = random.one_of(&[1, 3, 20, PAGE_KEYS_MAX]);
            let listing =
                Listing { range, delimiter, with_entries, keys_max, ..Listing::default() };
            let expected = listed(map.keys().map(String::as_str), &listing);
            let pages = pages(&store, listing.clone());
            let lines: Vec<&str> = pages.iter().flat_map(Page::keys).collect();
            assert_eq!(lines, expected, "round {round}: {listing:?}");
            if listing.with_entries {
                let entries = pages.iter().flat_map(Page::entries);
                assert!(entries.eq(lines.iter().map(|name| &map[*name])), "round {round}");
            }
            if listing.delimiter.is_none() {
                let range = listing.range;
                assert_eq!(store.count(range.clone()), Ok(expected.len() as u64), "{range:?}");
            }
        }
    }
}

/// Each line is behind the one before it.
#[track_caller]
fn are_in_strict_order(lines: &[String], is_reverse: bool) {
    for pair in lines.windows(2) {
        let [one, other] = pair else { unreachable!("a window of two") };
        assert!(if is_reverse { one > other } else { one < other }, "{one:?} before {other:?}");
    }
}

fn writers_disturb_no_listing(store: Store) {
    const WRITERS: usize = 2;
    let groups = fewer_if_slow(&store, 1000);
    let rounds = if is_slow(&store) { 5 } else { 20 };
    let stable: Vec<String> = (0..groups).map(|index| format!("g{index:04}/stable")).collect();
    set_keys(&store, stable.iter().map(String::as_str));
    let random = Random::of_this_run();
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&has_ended);
        for writer in 0..WRITERS {
            let (mut random, store, has_ended) = (random.fork(writer), &store, &has_ended);
            scope.spawn(move || {
                while !has_ended.load(Ordering::Relaxed) {
                    // Before and behind a stable key, and in groups that come and go.
                    let (group, name) = (random.below(groups), random.one_of(&["a", "z", "zz"]));
                    let other = random.one_of(&["/", "x/"]);
                    let name = format!("g{group:04}{other}{name}{}", random.below(4));
                    match random.below(2) {
                        0 => delete(store, &name),
                        _ => set(store, &name, "x"),
                    }
                }
            });
        }
        for round in 0..rounds {
            let keys_max = [50, 333, PAGE_KEYS_MAX][round % 3];
            for is_reverse in [false, true] {
                let mut expected = stable.clone();
                if is_reverse {
                    expected.reverse();
                }
                let mut keys = Listing { keys_max, ..listing("g") };
                keys.range.is_reverse = is_reverse;
                let lines = list(&store, keys.clone());
                are_in_strict_order(&lines, is_reverse);
                let seen = lines.iter().filter(|line| line.ends_with("/stable"));
                assert!(seen.eq(&expected), "round {round}: a stable key is not there once");

                let lines = list(&store, with_groups(keys));
                are_in_strict_order(&lines, is_reverse);
                let seen = lines.iter().filter(|line| !line.ends_with("x/"));
                let expected = expected.iter().map(|line| line.trim_end_matches("stable"));
                assert!(seen.eq(expected), "round {round}: a stable group is not there once");
            }
            let counted = count(&store, "g");
            assert!(counted >= stable.len() as u64, "{counted} of {}", stable.len());
        }
    });
}

fn clearing_disturbs_no_listing(store: Store) {
    let rounds = if is_slow(&store) { 10 } else { 100 };
    let keys = many_keys(200);
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let _ended = Ended(&has_ended);
            for _ in 0..rounds {
                set_keys(&store, keys.iter().map(String::as_str));
                clear(&store);
            }
        });
        while !has_ended.load(Ordering::Relaxed) {
            for keys_max in [10, PAGE_KEYS_MAX] {
                let listing = Listing { keys_max, ..listing("") };
                let lines = list(&store, listing.clone());
                are_in_strict_order(&lines, false);
                assert!(lines.iter().all(|line| keys.binary_search(line).is_ok()), "{lines:?}");
                are_in_strict_order(&list(&store, backwards(listing)), true);
            }
            assert!(count(&store, "") <= keys.len() as u64);
        }
        writer.join().expect("it does not panic");
    });
    assert_eq!(list(&store, listing("")), [""; 0]);
    assert_eq!(count(&store, ""), 0);
}

fn a_listing_that_is_given_back_can_be_submitted(store: Store) {
    set_keys(&store, ["a", "b"]);
    assert!(get(&store, "a").is_some());
    let with_entries = Listing { with_entries: true, ..listing("") };
    for listing in [listing(""), with_entries, with_groups(listing(""))] {
        let list = || Op::List(listing.clone().into());
        let at_once = store.try_now(list());
        let (done, outcome) = crossbeam_channel::bounded(1);
        store.submit(list(), Box::new(move |told| done.send(told).expect("it is waited for")));
        let submitted = outcome.recv_timeout(TOLD).expect("it is told").expect("the engine lists");
        if let Ok(at_once) = at_once {
            assert_eq!(at_once.expect("the engine lists"), submitted);
        }
    }
}
