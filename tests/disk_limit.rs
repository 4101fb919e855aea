//! The durable engine in a directory of a bounded size: what it holds stays within that,
//! whether it refuses writes or evicts keys.

#![cfg(all(target_os = "linux", not(portable)))]

use crate::support::blocking::Blocking as _;
use crate::support::http::wait_within;
use crate::support::place::{Place, acknowledged, says};
use crate::support::process::Process;
use crate::support::threads::Ended;
use little_key_value::metrics::Exposition;
use little_key_value::storage::{
    BatchOp, Decision, Durable, Effect, Entry, Error, Event, Key, Limits, Listing, Outage,
};
use little_key_value::storage::{Moment, PAGE_KEYS_MAX, Range, Read, Revision, Storage as _};
use little_key_value::storage::{Time, Watched, WhenFull};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// The smallest limit.
const LIMIT: u64 = Durable::DISK_BYTES_MIN;

/// What a directory may take for a moment, as it is promised.
const MOST: u64 = LIMIT + LIMIT / 20;

/// The longest wait for space that merges give back, on a slow disk too.
const MERGES_MAX: Duration = Duration::from_secs(300);

/// A write that is refused as late as this has waited for such space.
const WAITED_MIN: Duration = Duration::from_secs(10);

/// The time between two looks at the keys that are there.
const REST_INTERVAL: Duration = Duration::from_millis(100);

/// The time between two measurements.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

fn open(path: &Path, bytes: u64, when_full: WhenFull) -> Durable {
    let limits = Limits { bytes, when_full, history_bytes: 64 << 20 };
    Durable::open_with_limits(path, limits).unwrap_or_else(|err| panic!("{err}"))
}

fn key(text: impl AsRef<str>) -> Key {
    Key::new(text).expect("a key")
}

/// A key that has no neighbours among those of other numbers near to it.
fn scattered(number: u64) -> String {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Bytes that do not repeat.
fn value(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.rotate_left(29).to_le_bytes()
    };
    let mut value = Vec::with_capacity(bytes.next_multiple_of(8));
    while value.len() < bytes {
        value.extend_from_slice(&word());
    }
    value.truncate(bytes);
    value
}

fn entry(seed: u64, bytes: usize) -> Entry {
    Entry::new(value(seed, bytes).into())
}

/// The bytes that a directory takes of the disk.
fn disk_bytes(path: &Path) -> u64 {
    disk_bytes_each(path).values().sum()
}

/// Those of all that is in it.
fn disk_bytes_each(path: &Path) -> BTreeMap<PathBuf, u64> {
    let own = fs::symlink_metadata(path).map_or(0, |it| it.blocks() * 512);
    let mut each = BTreeMap::from([(path.to_owned(), own)]);
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        each.append(&mut disk_bytes_each(&entry.path()));
    }
    each
}

/// The bytes that a directory took at a moment: a file that two walks have met was there
/// between them, and of others it is not known.
fn disk_bytes_at_once(path: &Path) -> u64 {
    let before = disk_bytes_each(path);
    let after = disk_bytes_each(path);
    let both = after.iter().filter_map(|(path, bytes)| Some(bytes.min(before.get(path)?)));
    both.sum()
}

/// Does something while a directory is measured again and again; gives the most bytes that
/// it had.
fn measured<T>(path: &Path, action: impl FnOnce() -> T) -> (u64, T) {
    let (most, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                most.fetch_max(disk_bytes_at_once(path), Ordering::Relaxed);
                thread::sleep(SAMPLE_INTERVAL);
            }
        });
        let done = {
            let _is_over = Ended(&is_over);
            action()
        };
        (most.load(Ordering::Relaxed), done)
    })
}

/// A metric without labels.
#[track_caller]
fn metric(store: &Durable, name: &str) -> u64 {
    let mut metrics = Exposition::default();
    store.report(&mut metrics);
    let text = metrics.into_text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}

/// A list of all keys, in pages as long as they may be.
fn listing() -> Listing {
    Listing {
        range: Range::default(),
        delimiter: None,
        with_entries: false,
        is_to_delete: false,
        keys_max: PAGE_KEYS_MAX,
        moment: Moment::Now,
    }
}

/// All keys that are there.
fn keys(store: &Durable) -> HashSet<String> {
    let mut keys = HashSet::new();
    let mut listing = listing();
    loop {
        let page = store.list(listing.clone()).expect("they are read");
        keys.extend(page.keys().map(str::to_owned));
        match page.next {
            Some(next) => listing.range.start = next,
            None => return keys,
        }
    }
}

/// The events of keys that were evicted or had expired since a position.
fn gone_since(store: &Durable, from: Revision) -> Vec<(Event, String)> {
    let mut gone = changes_since(store, from);
    gone.retain(|(event, _)| matches!(event, Event::Evict | Event::Expire));
    gone
}

/// All events since a position.
fn changes_since(store: &Durable, from: Revision) -> Vec<(Event, String)> {
    let changes = store.changes().expect("a change log");
    let watcher = changes.watch(Watched::Prefix("".into()), Some(from));
    let mut told = Vec::new();
    loop {
        match watcher.read() {
            Read::Changes(changes) => told.extend(
                changes.into_iter().map(|change| (change.event, change.key.as_str().to_owned())),
            ),
            Read::Passing => {}
            Read::UpToDate(_) => return told,
            end @ (Read::Reborn | Read::Behind) => panic!("{end:?}"),
        }
    }
}

/// The keys that are there, and those that are gone since a position, once no more go.
fn at_rest(store: &Durable, from: Revision) -> (HashSet<String>, Vec<(Event, String)>) {
    let mut gone = gone_since(store, from);
    loop {
        thread::sleep(REST_INTERVAL);
        let there = keys(store);
        let before = mem::replace(&mut gone, gone_since(store, from));
        if before == gone {
            return (there, gone);
        }
    }
}

/// Does a write for which there is room, or will be: again where that is not there as soon as
/// a write has to be answered, as on a slow disk.
#[track_caller]
fn patiently<T>(write: impl Fn() -> Result<T, Error>) -> T {
    let begun = Instant::now();
    loop {
        let tried = Instant::now();
        match write() {
            Ok(done) => return done,
            Err(Error::Full) if tried.elapsed() >= WAITED_MIN => {}
            Err(err) => panic!("{err}"),
        }
        assert!(begun.elapsed() < MERGES_MAX, "there is no room");
    }
}

/// Sets keys of these numbers in batches; each is stored.
fn fill(store: &Durable, numbers: std::ops::Range<u64>, bytes: usize) {
    const BATCH_BYTES: u64 = 64 << 10;
    let each = (BATCH_BYTES / bytes as u64).max(1);
    let mut first = numbers.start;
    while first < numbers.end {
        let last = (first + each).min(numbers.end);
        let ops = (first..last)
            .map(|number| (key(scattered(number)), BatchOp::Set(entry(number, bytes))));
        patiently(|| store.batch(ops.clone().collect()));
        first = last;
    }
}

#[test]
fn a_full_store_refuses_writes_until_keys_are_deleted() {
    const BYTES: usize = 100 << 10;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let (most, stored) = measured(path, || {
        let store = open(path, LIMIT, WhenFull::Refuse);
        let mut stored = 0;
        while let Ok(()) = store.set(key(scattered(stored)), entry(stored, BYTES)) {
            stored += 1;
        }
        let refused = store.set(key("more"), entry(0, BYTES));
        assert_eq!(refused, Err(Error::Full));
        assert_eq!(store.check(), Ok(()), "it is no outage");
        assert!(stored > 40, "{stored} values");
        for number in 0..stored {
            let found = store.get(&key(scattered(number))).expect("it is read");
            assert_eq!(found, Some(entry(number, BYTES)), "{number}");
        }
        for number in 0..stored / 2 {
            patiently(|| store.delete(&key(scattered(number))));
        }
        wait_within(MERGES_MAX, "there is room", || {
            store.set(key("more"), entry(0, BYTES)).is_ok()
        });
        assert_eq!(metric(&store, "lkv_evicted_total"), 0);
        stored
    });
    assert!(most <= MOST, "{most} bytes");
    let store = open(path, LIMIT, WhenFull::Refuse);
    for number in 0..stored {
        let expected = (number >= stored / 2).then(|| entry(number, BYTES));
        assert_eq!(store.get(&key(scattered(number))), Ok(expected), "{number}");
    }
}

/// Writes some times as much as there is room for.
fn evicts_within_the_limit(limit: u64, bytes: usize, written: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, limit, WhenFull::Evict);
    let begun = store.changes().expect("a change log").revision();
    let (most, ()) = measured(path, || fill(&store, 0..written, bytes));
    assert!(most <= limit + limit / 20, "{most} bytes");

    let (there, gone) = at_rest(&store, begun);
    assert!(gone.iter().all(|(event, _)| *event == Event::Evict));
    let evicted: HashSet<String> = gone.iter().map(|(_, key)| key.clone()).collect();
    // Each is told once, and no key that is there.
    assert_eq!(evicted.len(), gone.len());
    assert!(evicted.is_disjoint(&there));
    assert_eq!((there.len() + evicted.len()) as u64, written);
    assert!(metric(&store, "lkv_evicted_total") >= gone.len() as u64);
    // On a quiet machine it is about a half; the rest is for merges and the journal.
    let held = there.len() as u64 * bytes as u64;
    assert!(held > limit / 5, "{held} bytes of {limit}");
    let last = scattered(written - 1);
    assert!(there.contains(&last), "the last key went before older ones");
    drop(store);

    // Without a limit nothing is evicted meanwhile.
    let store = open(path, u64::MAX, WhenFull::Refuse);
    let (before, there) = (there, keys(&store));
    assert!(there.is_subset(&before) && there.len() * 10 > before.len() * 9, "{}", there.len());
    for number in (0..written).filter(|number| there.contains(&scattered(*number))).step_by(37) {
        let found = store.get(&key(scattered(number)));
        assert_eq!(found, Ok(Some(entry(number, bytes))), "{number}");
    }
}

#[test]
fn small_values_are_evicted_within_the_limit() {
    evicts_within_the_limit(LIMIT, 100, LIMIT / 120);
}

#[test]
fn large_values_are_evicted_within_the_limit() {
    evicts_within_the_limit(LIMIT, 8 << 10, 2 * LIMIT / (8 << 10));
}

#[test]
fn values_of_a_mebibyte_are_evicted_within_the_limit() {
    evicts_within_the_limit(4 * LIMIT, 1 << 20, 2 * 4 * LIMIT / MIB);
}

#[test]
fn values_that_expire_are_evicted_within_the_limit() {
    const BYTES: usize = 1000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, LIMIT, WhenFull::Evict);
    let expiry = Time::now().after(Duration::from_secs(3600));
    let written = LIMIT / BYTES as u64 / 64 * 64;
    let (most, ()) = measured(path, || {
        for first in (0..written).step_by(64) {
            let ops = (first..first + 64).map(|number| {
                let entry = entry(number, BYTES).with_expiry(Some(expiry));
                (key(scattered(number)), BatchOp::Set(entry))
            });
            patiently(|| store.batch(ops.clone().collect()));
        }
    });
    assert!(most <= MOST, "{most} bytes");
    assert!(metric(&store, "lkv_evicted_total") > written / 8);
    let there = keys(&store);
    assert!(there.contains(&scattered(written - 1)));
    assert!(there.len() as u64 * BYTES as u64 > LIMIT / 16, "{} keys", there.len());
}

/// How many keys of some numbers are there.
fn count_of(there: &HashSet<String>, numbers: impl Iterator<Item = u64>) -> usize {
    numbers.filter(|number| there.contains(&scattered(*number))).count()
}

/// Keys that are read stay while others pass that nobody asks for.
fn hot_keys_stay(bytes: usize) {
    let hot = LIMIT / 16 / bytes as u64;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Evict);
    fill(&store, 0..2 * hot, bytes);
    let total = 3 * LIMIT / bytes as u64;
    let each = total / 40;
    for round in 0..40 {
        for number in 0..hot {
            store.get(&key(scattered(number))).expect("it is read");
        }
        let first = 2 * hot + round * each;
        fill(&store, first..first + each, bytes);
    }
    let there = keys(&store);
    let (hot_there, cold_there) = (count_of(&there, 0..hot), count_of(&there, hot..2 * hot));
    assert!(hot_there * 10 > usize::try_from(hot).expect("few") * 7, "{hot_there} of {hot}");
    assert!(cold_there * 4 < hot_there, "{cold_there} that were not read, {hot_there} that were");
}

#[test]
fn small_values_that_are_read_stay() {
    hot_keys_stay(500);
}

#[test]
fn large_values_that_are_read_stay() {
    hot_keys_stay(8 << 10);
}

/// Lasting keys stay while others come and expire, of which no more are there at once than
/// there is room for.
#[test]
fn small_values_that_have_expired_go_first() {
    const BYTES: usize = 100;
    const LASTING: u64 = 10_000;
    const EXPIRING: u64 = 15_000;
    const ROUNDS: u64 = 8;
    const TTL: Duration = Duration::from_millis(400);
    const WRITE_INTERVAL: Duration = Duration::from_millis(50);
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Evict);
    fill(&store, 0..LASTING, BYTES);
    for round in 1..=ROUNDS {
        let first = round * (LASTING + EXPIRING);
        let mut last = Time::now();
        for number in (first..first + EXPIRING).step_by(100) {
            last = Time::now().after(TTL);
            let ops = (number..number + 100).map(|number| {
                let entry = entry(number, BYTES).with_expiry(Some(last));
                (key(scattered(number)), BatchOp::Set(entry))
            });
            patiently(|| store.batch(ops.clone().collect()));
        }
        while Time::now() <= last {
            // What is idle is merged.
            fill(&store, 0..1, BYTES);
            thread::sleep(WRITE_INTERVAL);
        }
    }
    let stay = count_of(&keys(&store), 0..LASTING);
    assert!(stay as u64 * 10 > LASTING * 9, "{stay} of {LASTING}");
}

/// Lasting keys stay, at least half of them, while others are written again and again for
/// which there is room: what these leave behind comes back as merges have the time for it.
fn lasting_keys_stay(
    [lasting, others]: [u64; 2],
    bytes: usize,
    between: impl Fn(&Durable, std::ops::Range<u64>),
) {
    const ROUNDS: u64 = 8;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, LIMIT, WhenFull::Evict);
    fill(&store, 0..lasting, bytes);
    let (most, ()) = measured(path, || {
        for _ in 0..ROUNDS {
            fill(&store, lasting..lasting + others, bytes);
            between(&store, lasting..lasting + others);
        }
    });
    assert!(most <= MOST, "{most} bytes");
    let stay = count_of(&keys(&store), 0..lasting);
    assert!(2 * stay as u64 >= lasting, "{stay} of {lasting}");
}

#[test]
fn large_values_that_are_overwritten_go_first() {
    lasting_keys_stay([8, 8], 500_000, |_, _| ());
}

#[test]
fn small_values_that_are_deleted_go_first() {
    lasting_keys_stay([6000, 9000], 500, |store, numbers| {
        for first in numbers.clone().step_by(500) {
            let ops = (first..first + 500).map(|number| (key(scattered(number)), BatchOp::Delete));
            store.batch(ops.collect()).expect("they are deleted");
        }
    });
}

/// A large batch is few files, which have as many bytes as writes wait for.
#[test]
fn a_store_that_is_not_full_evicts_nothing() {
    const BYTES: usize = 1000;
    const EACH: u64 = 400;
    const KEYS: u64 = 10 * EACH;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Evict);
    for first in (0..KEYS).step_by(usize::try_from(EACH).expect("few")) {
        let expiry = Time::now().after(Duration::from_secs(3600 + first));
        let expiry = (first >= KEYS / 3).then_some(expiry);
        let ops = (first..first + EACH).map(|number| {
            (key(scattered(number)), BatchOp::Set(entry(number, BYTES).with_expiry(expiry)))
        });
        patiently(|| store.batch(ops.clone().collect()));
        // It becomes a file.
        thread::sleep(4 * SAMPLE_INTERVAL);
    }
    assert_eq!(metric(&store, "lkv_evicted_total"), 0);
    assert_eq!(keys(&store).len() as u64, KEYS);
}

/// A batch takes effect while what it was decided on is there.
#[test]
fn a_key_that_a_batch_reads_is_not_evicted_for_it() {
    const BYTES: usize = 64 << 10;
    // What they write is more than twice the limit, so some of what they read goes.
    const BATCHES: u64 = 20;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Evict);
    let begun = store.changes().expect("a change log").revision();
    let stored = LIMIT / 2 / BYTES as u64;
    fill(&store, 0..stored, BYTES);
    let mut read: Vec<(String, String)> = Vec::new();
    for batch in 0..BATCHES {
        // The next that would go.
        let there = keys(&store);
        let is_next =
            |key: &String| there.contains(key) && read.iter().all(|(before, _)| before != key);
        let of_batches = (0..batch).map(|batch| format!("batch {batch}"));
        let oldest = (0..stored).map(scattered).chain(of_batches).find(is_next);
        let oldest = oldest.unwrap_or_else(|| "absent".to_owned());
        let written = format!("batch {batch}");
        let keep = BatchOp::Update(Box::new(|_| Decision::Keep));
        let write = BatchOp::Set(entry(batch, usize::try_from(LIMIT / 8).expect("it fits")));
        let ops = vec![(key(&*oldest), keep), (key(&*written), write)];
        let effects = store.batch(ops).expect("it is stored");
        if matches!(&effects[..], [Effect::Updated(updated), ..] if updated.before.is_some()) {
            read.push((oldest, written));
        }
    }
    let changes = changes_since(&store, begun);
    let place = |event, key: &str| changes.iter().position(|it| *it == (event, key.to_owned()));
    let mut evicted = 0;
    for (oldest, written) in &read {
        if let Some(place_evicted) = place(Event::Evict, oldest) {
            evicted += 1;
            let place_written = place(Event::Put, written).expect("it is told");
            assert!(place_evicted > place_written, "{oldest} went before {written}");
        }
    }
    assert!(evicted > 0, "{evicted} of {}", read.len());
}

#[test]
fn a_value_that_cannot_fit_evicts_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Evict);
    fill(&store, 0..100, 10 << 10);
    let refused = store.set(key("huge"), entry(0, usize::try_from(LIMIT / 2).expect("it fits")));
    assert_eq!(refused, Err(Error::Full));
    assert_eq!(store.check(), Ok(()));
    assert_eq!(keys(&store).len(), 100);
}

#[test]
fn a_store_that_is_larger_than_its_limit_opens() {
    const BYTES: usize = 16 << 10;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let written = 2 * LIMIT / BYTES as u64;
    let store = open(path, u64::MAX, WhenFull::Refuse);
    fill(&store, 0..written, BYTES);
    drop(store);

    let store = open(path, LIMIT, WhenFull::Refuse);
    assert_eq!(keys(&store).len() as u64, written);
    assert_eq!(store.set(key("more"), entry(0, BYTES)), Err(Error::Full));
    patiently(|| store.delete(&key(scattered(0))));
    drop(store);

    let store = open(path, LIMIT, WhenFull::Evict);
    wait_within(MERGES_MAX, "it has shrunk", || disk_bytes(path) <= MOST);
    patiently(|| store.set(key("more"), entry(0, BYTES)));
    assert!(keys(&store).len() > 100);
}

/// Makes a store without a limit that is larger than this one: so many values in batches.
fn larger_store(path: &Path, bytes: usize) -> u64 {
    let written = 5 * LIMIT / 2 / (bytes as u64 + 30);
    let store = open(path, u64::MAX, WhenFull::Refuse);
    fill(&store, 0..written, bytes);
    written
}

/// Files of such a store are larger than all that a limit has for merges.
#[test]
fn keys_can_be_deleted_from_a_store_of_large_files() {
    const BYTES: usize = 100;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let written = larger_store(path, BYTES);

    let store = open(path, LIMIT, WhenFull::Refuse);
    assert_eq!(store.set(key("more"), entry(0, BYTES)), Err(Error::Full));
    for first in (0..written / 100 * 80).step_by(100) {
        let ops = (first..first + 100).map(|number| (key(scattered(number)), BatchOp::Delete));
        patiently(|| store.batch(ops.clone().collect()));
    }
    wait_within(MERGES_MAX, "there is room", || store.set(key("more"), entry(0, BYTES)).is_ok());
    assert!(disk_bytes(path) <= MOST);
    let last = written - 1;
    assert_eq!(store.get(&key(scattered(last))), Ok(Some(entry(last, BYTES))));
}

/// Nobody writes. What goes is told, and far less than all.
fn shrinks_by_itself(bytes: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let written = larger_store(path, bytes);

    let store = open(path, LIMIT, WhenFull::Evict);
    let begun = store.changes().expect("a change log").revision();
    wait_within(MERGES_MAX, "it has shrunk", || disk_bytes(path) <= LIMIT);
    let (there, gone) = at_rest(&store, begun);
    assert_eq!((there.len() + gone.len()) as u64, written);
    let held = (there.len() * bytes) as u64;
    assert!(held > LIMIT / 4, "{held} bytes of {LIMIT}");
    patiently(|| store.delete(&key(scattered(0))));
    patiently(|| store.set(key("more"), entry(0, bytes)));
}

#[test]
fn small_values_of_a_store_of_large_files_are_evicted() {
    shrinks_by_itself(100);
}

#[test]
fn values_of_some_kilobytes_of_a_store_of_large_files_are_evicted() {
    shrinks_by_itself(3000);
}

/// Most of them are in the journal as well, which a flush gives back.
#[test]
fn large_values_of_a_store_with_a_long_journal_are_evicted() {
    shrinks_by_itself(64 << 10);
}

/// Only what the limit asks for goes, also where a reclaim has to give it back.
fn keeps_what_fits(bytes: usize) {
    let expiry = Time::now().after(Duration::from_secs(3600));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, u64::MAX, WhenFull::Refuse);
    for number in 0..2 * LIMIT / bytes as u64 {
        let expiry = expiry.after(Duration::from_millis(number));
        let entry = entry(number, bytes).with_expiry(Some(expiry));
        store.set(key(scattered(number)), entry).expect("there is room");
    }
    drop(store);

    let store = open(path, LIMIT, WhenFull::Evict);
    let begun = store.changes().expect("a change log").revision();
    wait_within(MERGES_MAX, "it has shrunk", || disk_bytes(path) <= LIMIT);
    let (there, _) = at_rest(&store, begun);
    let held = there.len() as u64 * bytes as u64;
    assert!(held > LIMIT / 4, "{held} bytes of {LIMIT}");
    patiently(|| store.set(key("more"), entry(0, bytes)));
}

#[test]
fn a_store_that_shrinks_keeps_what_fits() {
    keeps_what_fits(64 << 10);
}

/// The last quarter of them is in the journal alone, and not yet in a blob file.
#[test]
fn a_store_of_smaller_values_that_shrinks_keeps_what_fits() {
    keeps_what_fits(30_000);
}

/// Deletions of long keys are as large as what they delete.
#[test]
fn deletions_in_a_full_store_give_space_back() {
    let long = |number: u64| key(format!("{}{}", scattered(number), "k".repeat(900)));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, LIMIT, WhenFull::Refuse);
    let mut stored = 0;
    let most = measured(path, || {
        loop {
            let ops =
                (stored..stored + 100).map(|number| (long(number), BatchOp::Set(entry(0, 1))));
            match store.batch(ops.collect()) {
                Ok(_) => stored += 100,
                Err(err) => break assert_eq!(err, Error::Full),
            }
        }
        for first in (0..stored).step_by(50) {
            let ops = (first..first + 50).map(|number| (long(number), BatchOp::Delete));
            patiently(|| store.batch(ops.clone().collect()));
        }
    });
    assert!(most.0 <= MOST, "{} bytes", most.0);
    assert!(stored > 1000, "{stored} keys");
    wait_within(MERGES_MAX, "there is room", || store.set(long(0), entry(0, 100 << 10)).is_ok());
    assert_eq!(keys(&store).len(), 1);
}

/// Values of any size up to an eighth of the limit are stored, from several clients at once.
#[test]
fn a_write_that_fits_is_never_refused() {
    const SIZES: [usize; 5] = [100, 4 << 10, 100 << 10, 1 << 20, 2 << 20];
    const WRITES: u64 = 25;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, LIMIT, WhenFull::Evict);
    let expiry = Time::now().after(Duration::from_secs(3600));
    let (most, ()) = measured(path, || {
        thread::scope(|scope| {
            for client in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for number in 0..WRITES {
                        let seed = client * WRITES + number;
                        let random = scattered(seed).as_bytes()[2];
                        let bytes = SIZES[usize::from(random) % SIZES.len()];
                        let expiry = seed.is_multiple_of(3).then_some(expiry);
                        let entry = entry(seed, bytes).with_expiry(expiry);
                        // Some are overwritten.
                        let key = key(format!("{}", seed % 40));
                        patiently(|| store.set(key.clone(), entry.clone()));
                    }
                });
            }
        });
    });
    assert!(most <= MOST, "{most} bytes");
    let more = usize::try_from(LIMIT / 8).expect("it fits") + (8 << 10);
    assert_eq!(store.set(key("more"), entry(0, more)), Err(Error::Full));
}

/// Nothing is evicted for a write that comes as the store is about to close, so it is not
/// told that it is too large.
#[test]
fn a_write_that_comes_too_late_is_told_that_the_store_closes() {
    const WRITES: u64 = 24;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Evict);
    store.hurry();
    let set = |number| store.set(key(scattered(number)), entry(number, 1 << 20));
    let refused: Vec<Error> = (0..WRITES).filter_map(|number| set(number).err()).collect();
    assert!(!refused.is_empty(), "all of them fit");
    assert!(refused.iter().all(|err| *err == Error::Unavailable(Outage::Closed)), "{refused:?}");
}

#[test]
fn what_is_cleared_makes_room() {
    const BYTES: usize = 8 << 10;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), LIMIT, WhenFull::Refuse);
    let mut stored = 0;
    while store.set(key(scattered(stored)), entry(stored, BYTES)).is_ok() {
        stored += 1;
    }
    store.clear().expect("it is cleared");
    wait_within(MERGES_MAX, "there is room", || store.set(key("more"), entry(0, BYTES)).is_ok());
    fill(&store, 0..stored / 2, BYTES);
}

/// A list of many pages is cut off before a write is refused.
#[test]
fn a_list_under_way_gives_way() {
    const BYTES: usize = 8 << 10;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let store = open(path, LIMIT, WhenFull::Evict);
    let stored = LIMIT / 2 / BYTES as u64;
    fill(&store, 0..stored, BYTES);
    let listing = Listing { moment: Moment::Hold, keys_max: 10, ..listing() };
    let page = store.list(listing).expect("it is read");
    assert!(page.next.is_some());
    let (most, ()) = measured(path, || fill(&store, stored..4 * stored, BYTES));
    assert!(most <= MOST, "{most} bytes");
}

#[test]
fn a_store_that_is_larger_than_its_limit_says_so_at_its_start() {
    let place = Place::new();
    let limit = LIMIT.to_string();
    let [flag, path] = place.arguments();
    let limited = [&*flag, &*path, "--max-disk", &*limit];
    let (_, log) = Process::start(&limited).stop();
    assert!(!log.contains("may have"), "{log}");
    let process = place.start();
    let mut connection = process.connect();
    for number in 0..=LIMIT / MIB {
        acknowledged(&mut connection, &number.to_string(), &value(number, 1 << 20));
    }
    process.stop();
    let (_, log) = Process::start(&limited).stop();
    assert!(log.contains("it takes no writes that make it grow"), "{log}");
    let evicting = [&limited[..], &["--when-full", "evict"]].concat();
    let (_, log) = Process::start(&evicting).stop();
    assert!(log.contains("keys are evicted"), "{log}");
}

/// Clients of a real process, which is killed while it evicts.
#[test]
fn a_kill_during_eviction_loses_nothing_else() {
    const BYTES: usize = 16 << 10;
    let place = Place::new();
    let limit = LIMIT.to_string();
    let [flag, path] = place.arguments();
    let arguments = [&*flag, &*path, "--max-disk", &*limit, "--when-full", "evict"];
    let mut number = 0_u64;
    let mut acknowledged_all: BTreeMap<String, u64> = BTreeMap::new();
    let mut deleted: HashSet<String> = HashSet::new();
    for life in 1..=4 {
        let process = Process::start(&arguments);
        let mut connection = process.connect();
        for _ in 0..600 + 50 * life {
            let name = scattered(number);
            acknowledged(&mut connection, &name, &value(number, BYTES));
            acknowledged_all.insert(name, number);
            if number % 7 == 3 {
                let name = scattered(number - 2);
                connection.call("DELETE", &format!("/kv/{name}"));
                acknowledged_all.remove(&name);
                deleted.insert(name);
            }
            number += 1;
        }
        process.signal("KILL");
        process.end();
    }
    let bytes = disk_bytes(place.directory.path());
    assert!(bytes <= MOST, "{bytes} bytes");
    // Without a limit nothing is evicted meanwhile.
    let process = Process::start(&[&flag, &path]);
    let mut connection = process.connect();
    let mut held = 0;
    for (name, number) in &acknowledged_all {
        let answer = connection.get(&format!("/kv/{name}"));
        if answer.status() == 200 {
            assert!(answer.body == value(*number, BYTES), "{number} is another value");
            held += 1;
        } else {
            says(&answer, 404, "key not found\n");
        }
    }
    for name in &deleted {
        says(&connection.get(&format!("/kv/{name}")), 404, "key not found\n");
    }
    assert!(held > 200, "{held} keys");
    let last = scattered(number - 1);
    assert_eq!(connection.get(&format!("/kv/{last}")).status(), 200);
}
