//! Lists of which all pages are of one moment, whatever is written meanwhile, and the
//! space that this takes.

use super::*;
use crate::storage::Time;
use crate::storage::durable::Durable;
use crate::storage::waiting::wait_until;
use crate::storage::{BatchOp, Blocking as _, Entry, Key, Listing, Page, Range, Storage as _};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// The keys of the tests, and what they hold; the values are of all kinds.
type Map = BTreeMap<String, Entry>;

/// Values that are with their keys, the same in order of time if they expire, and values
/// in files of their own.
const VALUE_BYTES: [usize; 3] = [10, 500, 9000];

const TABLE_BYTES: u64 = 64 << 10;

/// The store is dropped before its directory.
fn open() -> (TempDir, Durable) {
    let memory = Path::new("/dev/shm");
    let directory =
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let directory = directory.expect("a directory");
    let store = Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"));
    (directory, store)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key of 1 to 1024 bytes")
}

/// The entry of a number in a round: each third expires in a long time.
fn entry(number: usize, round: usize) -> Entry {
    let bytes = VALUE_BYTES[number % VALUE_BYTES.len()];
    let value = format!("{number} in {round} ").repeat(bytes / 8);
    let expires = (number / VALUE_BYTES.len()).is_multiple_of(3);
    // The same in all rounds.
    let later = Time::from_bits(Time::now().to_bits() | (u64::MAX >> 24));
    Entry::new(value.into()).with_expiry(expires.then_some(later))
}

/// Stores some numbers by a batch, and deletes others.
fn write(store: &Durable, map: &mut Map, numbers: &[usize], deleted: &[usize], round: usize) {
    let name = |number: &usize| format!("{number:04}");
    let mut ops = Vec::new();
    for number in numbers {
        let entry = entry(*number, round);
        ops.push((key(&name(number)), BatchOp::Set(entry.clone())));
        map.insert(name(number), entry);
    }
    for number in deleted {
        ops.push((key(&name(number)), BatchOp::Delete));
        map.remove(&name(number));
    }
    store.batch(ops).expect("the engine writes");
}

/// Moves what was written to files, and merges those.
fn compact(store: &Durable) {
    for keyspace in store.read_path.keyspaces().each() {
        keyspace.flush_and_wait().expect("the engine flushes");
        keyspace.merge(TABLE_BYTES).expect("the engine compacts");
        // Only now what is obsolete goes.
        keyspace.insert([0xff, 0xff], "").expect("the engine writes");
        keyspace.flush_and_wait().expect("the engine flushes");
    }
}

fn first(keys_max: usize, is_reverse: bool) -> Listing {
    let range = Range { is_reverse, ..Range::default() };
    Listing { range, with_entries: true, keys_max, moment: Moment::Hold, ..Listing::default() }
}

/// The listing behind a page.
fn next(listing: &Listing, page: &mut Page) -> Option<Listing> {
    let (start, moment) = (page.next.take()?, mem::take(&mut page.moment));
    let range = Range { start, ..listing.range.clone() };
    Some(Listing { range, moment, ..listing.clone() })
}

fn add(map: &mut Map, page: &Page) {
    for (key, entry) in page.keys().zip(page.entries()) {
        assert_eq!(map.insert(key.to_owned(), entry.clone()), None, "{key} is listed twice");
    }
}

/// Lists all keys, and does something behind each page.
fn list(store: &Durable, first: Listing, mut between: impl FnMut(usize)) -> Map {
    let (mut map, mut rest, mut pages) = (Map::new(), Some(first), 0);
    while let Some(listing) = rest {
        let mut page = store.list(listing.clone()).expect("the engine lists");
        add(&mut map, &page);
        rest = next(&listing, &mut page);
        between(pages);
        pages += 1;
    }
    map
}

#[test]
fn all_pages_of_a_held_moment_are_of_that_moment() {
    const NUMBERS: usize = 400;
    for is_reverse in [false, true] {
        let (_directory, store) = open();
        let mut map = Map::new();
        let all: Vec<usize> = (0..NUMBERS).collect();
        write(&store, &mut map, &all[..NUMBERS / 2], &[], 0);
        compact(&store);
        write(&store, &mut map, &all[NUMBERS / 4..], &[], 1);
        let mut later = map.clone();
        let listed = list(&store, first(30, is_reverse), |page| {
            let round = page + 2;
            match page % 4 {
                0 => write(&store, &mut later, &all, &[], round),
                1 => {
                    let deleted: Vec<_> = all.iter().copied().step_by(2).collect();
                    write(&store, &mut later, &[NUMBERS + page], &deleted, round);
                }
                2 => compact(&store),
                _ => {
                    store.clear().expect("the engine clears");
                    later.clear();
                }
            }
        });
        assert!(listed == map, "{} keys of {}", listed.len(), map.len());
        assert!(list(&store, first(30, is_reverse), |_| {}) == later);
    }
}

/// They were there at the moment, and the text of their expiry says how long.
#[test]
fn what_expires_behind_the_moment_is_listed_and_what_did_before_is_not() {
    // On a busy machine they expire before the moment where they do so soon.
    let behind = [600, 6_000, 30_000].map(Duration::from_millis);
    assert!(behind.into_iter().any(is_listed_if_it_expires_behind), "the machine is too slow");
}

/// The test, where this is later than the moment; false where it is not.
fn is_listed_if_it_expires_behind(behind: Duration) -> bool {
    let (_directory, store) = open();
    let before = Duration::from_millis(50);
    let begun = Time::now();
    for number in 0..30 {
        for (name, expiry) in [("before", begun.after(before)), ("behind", begun.after(behind))] {
            let value = "x".repeat(VALUE_BYTES[number % VALUE_BYTES.len()]);
            let entry = Entry::new(value.into()).with_expiry(Some(expiry));
            store.set(key(&format!("{number:02} {name}")), entry).expect("the engine writes");
        }
    }
    while Time::now() <= begun.after(before) {
        thread::sleep(Duration::from_millis(1));
    }
    let is_there_behind = Cell::new(false);
    let listed = list(&store, first(7, false), |page| {
        let is_swept = || {
            let [keys, expiring] =
                store.read_path.keyspaces().each().map(|it| it.keys(b"0", b"\xff").count());
            keys + expiring == 0
        };
        let last = store.get(&key("29 behind"));
        if page == 1 {
            is_there_behind.set(last.is_ok_and(|found| found.is_some()));
        } else if page == 2 {
            wait_until("all is swept", || store.get(&key("29 behind")) == Ok(None) && is_swept());
        }
    });
    if is_there_behind.get() {
        let expected: Vec<String> = (0..30).map(|number| format!("{number:02} behind")).collect();
        assert_eq!(listed.keys().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        assert!(listed.values().all(|entry| entry.expiry() == Some(begun.after(behind))));
    }
    is_there_behind.get()
}

/// The bytes of all files in a folder.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    // A file may go meanwhile.
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// About how much [`fill`] stores, of which no half is small.
const FILLED_BYTES: u64 = 8 << 20;

/// Stores so much, half of it in files of its own.
fn fill(store: &Durable, round: u8) {
    for number in 0..2000 {
        let bytes = if number % 4 == 0 { 8 << 10 } else { (8 << 10) / 3 };
        let value = vec![round; bytes];
        store.set(key(&format!("{number:04}")), Entry::new(value.into())).expect("it is stored");
    }
    compact(store);
}

#[test]
fn a_moment_holds_what_there_was_and_nothing_of_what_came_behind_it() {
    let (directory, store) = open();
    let trees = directory.path().join("data").join("keyspaces");
    fill(&store, 1);
    let listing = first(1, false);
    let mut page = store.list(listing.clone()).expect("the engine lists");
    for round in 2..8 {
        fill(&store, round);
        let bytes = bytes_in(&trees);
        assert!(bytes > 2 * FILLED_BYTES, "{round}: {bytes}");
        assert!(bytes < 4 * FILLED_BYTES, "{round}: {bytes}");
        // Each has a memtable.
        let versions = store.read_path.keyspaces().keys.versions();
        assert!(versions <= 5, "{round}: {versions}");
    }
    let listing = next(&listing, &mut page).expect("there is a rest");
    let listing = Listing { keys_max: 1000, ..listing };
    page = store.list(listing.clone()).expect("the engine lists");
    assert!(page.entries().iter().all(|entry| entry.value()[0] == 1));
    drop((page, listing));
    wait_until("the space comes back", || bytes_in(&trees) < FILLED_BYTES * 3 / 2);
}

#[test]
fn what_was_cleared_goes_with_the_last_moment_of_it() {
    let (directory, store) = open();
    let trees = directory.path().join("data").join("keyspaces");
    fill(&store, 1);
    let mut pages = [0; 2].map(|_| store.list(first(1, false)).expect("the engine lists"));
    store.clear().expect("the engine clears");
    for page in &mut pages {
        assert!(bytes_in(&trees) > FILLED_BYTES);
        assert_eq!(page.keys().collect::<Vec<_>>(), ["0000"]);
        *page = Page::default();
    }
    wait_until("the space comes back", || bytes_in(&trees) < FILLED_BYTES / 2);
}

#[test]
fn the_oldest_moment_gives_way_and_the_others_are_read_on() {
    let (_directory, store) = open();
    write(&store, &mut Map::new(), &(0..10).collect::<Vec<_>>(), &[], 0);
    let listing = first(3, false);
    let [one, other] = [0; 2].map(|_| {
        let mut page = store.list(listing.clone()).expect("the engine lists");
        next(&listing, &mut page).expect("there is a rest")
    });
    let moments = &store.read_path.moments;
    assert!(moments.drop_oldest());
    assert_eq!(store.list(one), Err(Error::MomentLost));
    assert_eq!(store.list(other.clone()).map(|page| page.len()), Ok(3));
    store.close().expect("it is closed");
    assert_eq!(store.list(other), Err(Error::MomentLost));
    assert_eq!(store.list(listing), Err(Error::MomentLost));
    assert!(!moments.drop_oldest());
}

#[test]
fn a_moment_of_another_store_is_an_error() {
    let (_directory, store) = open();
    let (_another, another) = open();
    write(&another, &mut Map::new(), &[1, 2], &[], 0);
    let page = another.list(first(1, false)).expect("the engine lists");
    for moment in [page.moment, Moment::Held(Arc::new(()))] {
        let listing = Listing { moment, ..first(1, false) };
        let outcome = store.list(listing);
        assert!(matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
    }
}

#[test]
fn no_more_memtables_are_held_than_there_may_be() {
    let (_directory, store) = open();
    let mut map = Map::new();
    let listing = first(1, false);
    let rest = || {
        let mut page = store.list(listing.clone()).expect("the engine lists");
        next(&listing, &mut page).expect("there is a rest")
    };
    write(&store, &mut map, &[1, 2], &[], 0);
    let mut rests = Vec::new();
    for round in 0..=MEMTABLES_MAX {
        // One more memtable for each two.
        rests.push([rest(), rest()]);
        write(&store, &mut map, &[1, 2], &[], round);
        compact(&store);
    }
    for (number, rest) in rests.into_iter().flatten().enumerate() {
        let outcome = store.list(rest).map(|page| page.len());
        let expected = if number < 2 { Err(Error::MomentLost) } else { Ok(1) };
        assert_eq!(outcome, expected, "{number}");
    }
}

/// Nothing is held for it.
#[test]
fn a_list_of_one_page_holds_no_moment() {
    let (_directory, store) = open();
    write(&store, &mut Map::new(), &[1, 2], &[], 0);
    let page = store.list(first(2, false)).expect("the engine lists");
    assert_eq!((page.len(), &page.next, &page.moment), (2, &None, &Moment::Now));
    let page = store.list(Listing { moment: Moment::Now, ..first(1, false) });
    assert_eq!(page.map(|page| (page.next.is_some(), page.moment)), Ok((true, Moment::Now)));
    assert!(!store.read_path.moments.drop_oldest());
}
