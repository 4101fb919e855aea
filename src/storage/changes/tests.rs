use super::log::WOKEN_MAX;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

const START: Revision = Revision { birth: 0xb, place: 1 };

/// A log with one thread, which wakes in order.
fn log_of(history_bytes: usize) -> Changes {
    Changes::with_wakers(1, history_bytes, START, true)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn prefix(text: &str) -> Watched {
    Watched::Prefix(text.into())
}

fn put(log: &Changes, text: &str) {
    drop(log.append(Event::Put, text));
}

/// The end of what a watcher reads.
#[derive(Debug, PartialEq)]
enum End {
    UpToDate(Revision),
    Reborn,
    Behind,
}

/// All that there is to read.
fn read_all(watcher: &Watcher) -> (Vec<Change>, End) {
    let mut all = Vec::new();
    loop {
        let end = match watcher.read() {
            Read::Changes(changes) => {
                assert!(!changes.is_empty(), "there is no such reading");
                all.extend(changes);
                continue;
            }
            Read::Passing => continue,
            Read::UpToDate(revision) => End::UpToDate(revision),
            Read::Reborn => End::Reborn,
            Read::Behind => End::Behind,
        };
        return (all, end);
    }
}

/// The keys of all that there is to read for a watcher that is not behind.
fn keys(watcher: &Watcher) -> Vec<String> {
    let (changes, end) = read_all(watcher);
    assert!(matches!(end, End::UpToDate(_)), "{end:?}");
    changes.into_iter().map(|change| change.key.as_str().to_owned()).collect()
}

/// A number of a watcher, with whether it was ended.
type Woken = (usize, bool);

/// A log, with the watchers that it wakes.
struct Bench {
    log: Changes,
    sender: Sender<Woken>,
    woken: Receiver<Woken>,
}

impl Bench {
    fn new() -> Self {
        let (sender, woken) = mpsc::channel();
        Self { log: log_of(HISTORY_BYTES), sender, woken }
    }

    fn wake(&self, number: usize) -> WakeWatcher {
        let sender = self.sender.clone();
        Box::new(move |has_ended| sender.send((number, has_ended)).unwrap())
    }

    fn park(&self, watcher: &Watcher, number: usize) {
        watcher.park(Instant::now() + LONG, self.wake(number));
    }

    /// Watches from now on, and parks them all.
    fn park_all<const N: usize>(&self, watched: [Watched; N]) -> [Watcher; N] {
        let watchers = watched.map(|watched| self.log.watch(watched, None));
        (0..).zip(&watchers).for_each(|(number, watcher)| self.park(watcher, number));
        watchers
    }

    /// All that have been woken until now: one more is last.
    fn woken(&self) -> Vec<usize> {
        let mut woken = Vec::new();
        // Crowds that are being woken go on while the last one is.
        loop {
            let last = self.log.watch(Watched::Key(key("a sign")), None);
            self.park(&last, usize::MAX);
            last.end();
            let before = self.woken.iter().take_while(|(number, _)| *number < usize::MAX);
            let some: Vec<usize> = before.map(|(number, _)| number).collect();
            if some.is_empty() {
                return woken;
            }
            woken.extend(some);
        }
    }
}

#[test]
fn a_watcher_reads_the_changes_of_its_keys_alone() {
    let log = log_of(HISTORY_BYTES);
    let watched = [prefix(""), prefix("a"), prefix("ab"), prefix("b"), Watched::Key(key("ab"))];
    let watchers = watched.map(|watched| log.watch(watched, None));
    for text in ["a", "ab", "abc", "\u{e9}", "c"] {
        put(&log, text);
    }
    let expected: [&[&str]; 5] =
        [&["a", "ab", "abc", "\u{e9}", "c"], &["a", "ab", "abc"], &["ab", "abc"], &[], &["ab"]];
    for (watcher, expected) in watchers.iter().zip(expected) {
        assert_eq!(keys(watcher), expected);
        assert_eq!(watcher.read(), Read::UpToDate(log.revision()));
    }
}

#[test]
fn a_change_is_read_with_its_event_and_the_position_behind_it() {
    let log = log_of(HISTORY_BYTES);
    let watcher = log.watch(prefix(""), Some(START));
    let mut expected = Vec::new();
    for (event, text) in [(Event::Put, "a"), (Event::Delete, "bc"), (Event::Expire, "def")] {
        let revision = log.revision_behind([text].into_iter());
        drop(log.append(event, text));
        assert_eq!(log.revision(), revision);
        expected.push(Change { event, revision, key: key(text) });
    }
    assert_eq!(watcher.read(), Read::Changes(expected.clone()));
    let all = log.revision_behind(["a", "bc"].into_iter());
    drop(log.append_all([(Event::Put, "a"), (Event::Put, "bc")].into_iter()));
    assert_eq!(log.revision(), all);
    // From each position on there is what comes behind it.
    for (index, change) in expected.iter().enumerate() {
        let (rest, _) = read_all(&log.watch(prefix(""), Some(change.revision)));
        assert_eq!(rest.len(), expected.len() - index - 1 + 2);
        assert_eq!(rest[..rest.len() - 2], expected[index + 1..]);
    }
}

#[test]
fn who_does_not_come_from_within_the_history_starts_over() {
    let log = log_of(4096);
    put(&log, "a");
    let forgotten = log.revision();
    (0..4096).for_each(|_| put(&log, "b"));
    let within = log.revision();
    put(&log, "c");
    let now = log.revision();
    let at = |place| Revision { place, ..now };
    for (since, is_within) in [
        (within, true),
        (now, true),
        (now.before_all(), false),
        (forgotten, false),
        (START, false),
        (at(within.place + 1), false),
        (at(now.place + 1), false),
        (at(u64::MAX), false),
        (Revision { birth: 1, ..now }, false),
    ] {
        let watcher = log.watch(prefix(""), Some(since));
        assert_eq!(read_all(&watcher).1 == End::Reborn, !is_within, "since {since}");
        // Once it has done so it is like any other.
        watcher.go_on_from(now);
        assert_eq!(watcher.read(), Read::UpToDate(now), "since {since}");
        watcher.go_on_from(since);
        assert_eq!(read_all(&watcher).1 == End::Reborn, !is_within, "since {since}");
    }
}

#[test]
fn a_watcher_is_behind_only_if_what_it_watches_is_forgotten() {
    let log = log_of(4096);
    let [all, one] = [prefix(""), prefix("a")].map(|watched| log.watch(watched, None));
    (0..4096).for_each(|_| put(&log, "b"));
    assert_eq!(all.read(), Read::Behind);
    assert_eq!(one.read(), Read::UpToDate(log.revision()));
    // It is where it was told to be, though its line does not reach back there.
    (0..300).for_each(|_| put(&log, "a"));
    assert_eq!(keys(&one).len(), 300);
    put(&log, "a");
    (0..4096).for_each(|_| put(&log, "b"));
    assert_eq!(one.read(), Read::Behind);
    // With more of its own than its line has.
    one.go_on_from(log.revision());
    (0..4096).for_each(|_| put(&log, "a"));
    assert_eq!(one.read(), Read::Behind);
}

#[test]
fn the_smallest_history_has_the_last_change() {
    for history_bytes in [0, 1, 4096] {
        let log = log_of(history_bytes);
        for bytes in [1, super::super::KEY_BYTES_MAX, 1, 1000, 1024, 1024] {
            let before = log.revision();
            let text = "k".repeat(bytes);
            put(&log, &text);
            assert_eq!(keys(&log.watch(prefix(""), Some(before))), [text], "of {history_bytes}");
        }
    }
}

#[test]
fn a_read_is_bounded() {
    let log = log_of(HISTORY_BYTES);
    for (bytes, most) in [(1, 256), (1000, 17)] {
        let text = "k".repeat(bytes);
        let watcher = log.watch(prefix("k"), None);
        (0..1000).for_each(|_| put(&log, &text));
        let mut changes = 0;
        while let Read::Changes(some) = watcher.read() {
            assert!(some.len() <= most, "{} of {bytes} bytes", some.len());
            changes += some.len();
        }
        assert_eq!(changes, 1000);
    }
}

#[test]
fn a_walk_over_changes_of_others_is_taken_in_steps() {
    let log = log_of(HISTORY_BYTES);
    put(&log, "a");
    (0..20_000).for_each(|_| put(&log, "b"));
    put(&log, "a");
    let bench = Bench { log, ..Bench::new() };
    let watcher = bench.log.watch(prefix("a"), Some(START));
    let (mut steps, mut changes) = (0, 0);
    loop {
        match watcher.read() {
            Read::Passing => {
                steps += 1;
                // It is woken at once.
                bench.park(&watcher, 0);
                assert_eq!(bench.woken.recv(), Ok((0, false)));
            }
            Read::Changes(some) => changes += some.len(),
            Read::UpToDate(revision) => break assert_eq!(revision, bench.log.revision()),
            end @ (Read::Reborn | Read::Behind) => panic!("{end:?}"),
        }
    }
    assert!((3..10).contains(&steps), "{steps} steps");
    assert_eq!(changes, 2);
}

#[test]
fn a_change_wakes_those_who_watch_it_and_no_others() {
    let bench = Bench::new();
    let watched = [prefix("a"), prefix("b"), Watched::Key(key("ab")), prefix(""), prefix("abc")];
    let watchers = bench.park_all(watched);
    put(&bench.log, "ab");
    let mut woken = bench.woken();
    woken.sort_unstable();
    assert_eq!(woken, [0, 2, 3]);
    put(&bench.log, "ab");
    assert!(bench.woken().is_empty(), "nobody of them is parked");
    // It has something to read.
    bench.park(&watchers[0], 0);
    assert_eq!(bench.woken.recv(), Ok((0, false)));
    assert_eq!(keys(&watchers[0]), ["ab", "ab"]);
    bench.park(&watchers[0], 0);
    assert!(bench.woken().is_empty());
}

#[test]
fn a_bell_rings_once_it_is_dropped() {
    const CROWD: usize = 1000;
    let bench = Bench::new();
    let crowd: Vec<Watcher> = (0..CROWD).map(|_| bench.log.watch(prefix("a"), None)).collect();
    (0..).zip(&crowd).for_each(|(number, watcher)| bench.park(watcher, number));
    let bell = bench.log.append(Event::Put, "a");
    assert!(bench.woken().is_empty());
    drop(bell);
    let woken: Vec<usize> = bench.woken.iter().take(CROWD).map(|(number, _)| number).collect();
    assert!(woken.into_iter().eq(0..CROWD));
    assert!(bench.woken().is_empty());
}

#[test]
fn others_come_between_those_of_a_crowd() {
    let bench = Bench::new();
    let crowd = [(); 2 * WOKEN_MAX + 2].map(|()| bench.log.watch(prefix("a"), None));
    let (go_on, halted) = mpsc::channel();
    let wake = bench.wake(0);
    let halt = move |has_ended| {
        wake(has_ended);
        halted.recv().unwrap();
    };
    crowd[0].park(Instant::now() + LONG, Box::new(halt));
    (1..).zip(&crowd[1..]).for_each(|(number, watcher)| bench.park(watcher, number));
    let other = bench.log.watch(prefix("b"), None);
    bench.park(&other, crowd.len());
    put(&bench.log, "a");
    assert_eq!(bench.woken.recv(), Ok((0, false)));
    put(&bench.log, "b");
    go_on.send(()).unwrap();
    let mut expected: Vec<usize> = (1..crowd.len()).collect();
    expected.insert(expected.len() - 2, crowd.len());
    assert_eq!(bench.woken(), expected);
}

#[test]
fn several_threads_share_a_crowd_and_wake_each_once() {
    const WAKERS: usize = 3;
    let log = Changes::with_wakers(WAKERS, HISTORY_BYTES, START, true);
    let (sender, woken) = mpsc::channel();
    // Each thread waits at its first for all of them.
    let all_are_here = Arc::new(Barrier::new(WAKERS));
    let crowd: Vec<Watcher> = (0..100).map(|_| log.watch(prefix("a"), None)).collect();
    for round in 0..20 {
        for (number, watcher) in crowd.iter().enumerate() {
            let (sender, all_are_here) = (sender.clone(), Arc::clone(&all_are_here));
            let is_first_of_some = number % WOKEN_MAX == 0 && number < WAKERS * WOKEN_MAX;
            let wake = move |has_ended| {
                if is_first_of_some {
                    all_are_here.wait();
                }
                sender.send((round, number, has_ended)).unwrap();
            };
            watcher.park(Instant::now() + LONG, Box::new(wake));
        }
        put(&log, "a");
        let mut numbers: Vec<_> = woken.iter().take(crowd.len()).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq((0..crowd.len()).map(|number| (round, number, false))));
        for watcher in &crowd {
            assert_eq!(keys(watcher), ["a"]);
        }
    }
    assert!(woken.try_recv().is_err());
    drop((crowd, log));
    // All threads have ended, and dropped what they had.
    drop(sender);
    assert_eq!(woken.recv(), Err(mpsc::RecvError));
}

#[test]
fn another_birth_wakes_everybody() {
    let bench = Bench::new();
    let watchers = bench.park_all([prefix("a"), Watched::Key(key("b"))]);
    put(&bench.log, "c");
    let before = bench.log.revision();
    let newborn = Revision::newborn();
    drop(bench.log.be_reborn(newborn));
    let mut woken = bench.woken();
    woken.sort_unstable();
    assert_eq!((woken, bench.log.revision()), (vec![0, 1], newborn));
    put(&bench.log, "a");
    for watcher in watchers {
        assert_eq!((watcher.read(), watcher.read()), (Read::Reborn, Read::Reborn));
        bench.park(&watcher, 0);
        assert_eq!(bench.woken.recv(), Ok((0, false)));
        watcher.go_on_from(before);
        assert_eq!(watcher.read(), Read::Reborn);
        watcher.go_on_from(newborn);
        assert_ne!(watcher.read(), Read::Reborn);
        assert_eq!(watcher.read(), Read::UpToDate(bench.log.revision()));
    }
}

#[test]
fn a_parking_ends_at_its_time() {
    let bench = Bench::new();
    let watcher = bench.log.watch(prefix("a"), None);
    // The timer of the first time does for the second, and not for the third.
    for length in [20, 40, 10] {
        let until = Instant::now() + Duration::from_millis(length);
        watcher.park(until, bench.wake(0));
        assert_eq!(bench.woken.recv(), Ok((0, false)));
        assert!(Instant::now() >= until);
        let late = Instant::now() + LONG;
        watcher.park(late, bench.wake(0));
        put(&bench.log, "a");
        assert_eq!(bench.woken.recv(), Ok((0, false)));
        assert_eq!(keys(&watcher), ["a"]);
        assert!(Instant::now() < late, "it was woken by its time");
    }
    // A time that is over.
    watcher.park(Instant::now(), bench.wake(0));
    assert_eq!(bench.woken.recv(), Ok((0, false)));
}

#[test]
fn who_is_ended_is_woken_now_or_as_it_parks() {
    let bench = Bench::new();
    let [parked, later] = bench.park_all([prefix("a"), prefix("b")]);
    parked.end();
    assert_eq!(bench.woken.recv(), Ok((0, true)));
    put(&bench.log, "b");
    assert_eq!(bench.woken.recv(), Ok((1, false)));
    later.end();
    assert!(bench.woken().is_empty());
    for (number, watcher) in (0..).zip([parked, later]) {
        bench.park(&watcher, number);
        assert_eq!(bench.woken.recv(), Ok((number, true)));
    }
}

#[test]
fn each_wake_is_called_once() {
    let bench = Bench::new();
    let [dropped, again] = bench.park_all([prefix("a"), prefix("b")]);
    drop(dropped);
    assert_eq!(bench.woken.recv(), Ok((0, true)));
    bench.park(&again, 2);
    assert_eq!(bench.woken.recv(), Ok((1, false)));
    put(&bench.log, "b");
    assert_eq!(bench.woken(), [2]);
}

#[test]
fn with_the_last_handle_all_are_ended() {
    let Bench { log, sender, woken } = Bench::new();
    let bench = Bench { log: log.clone(), sender, woken };
    let [watcher] = bench.park_all([prefix("a")]);
    drop(log);
    assert!(bench.woken().is_empty());
    let Bench { log, sender, woken } = bench;
    drop(log);
    assert_eq!(woken.recv(), Ok((0, true)));
    let wake = move |has_ended| sender.send((1, has_ended)).unwrap();
    watcher.park(Instant::now() + LONG, Box::new(wake));
    assert_eq!(woken.try_recv(), Ok((1, true)), "not even later is there a thread");
}

#[test]
fn a_panic_is_that_of_its_watcher() {
    let bench = Bench::new();
    let [watcher] = [bench.log.watch(prefix("a"), None)];
    watcher.park(Instant::now() + LONG, Box::new(|_| panic!("it is to")));
    put(&bench.log, "a");
    let next = bench.park_all([prefix("b")]);
    put(&bench.log, "b");
    assert_eq!(bench.woken.recv(), Ok((0, false)));
    drop(next);
}

#[test]
fn nothing_is_left_of_those_who_leave() {
    let bench = Bench::new();
    let watchers = bench.park_all([prefix("a"), prefix("a"), Watched::Key(key("a")), prefix("")]);
    put(&bench.log, "a");
    assert_eq!(bench.woken().len(), 4);
    bench.park(&watchers[0], 0);
    assert!(!bench.log.log.is_unwatched());
    drop(watchers);
    assert!(bench.log.log.is_unwatched());
}

#[test]
fn nothing_is_kept_before_somebody_asks() {
    for asks_to_watch in [false, true] {
        let log = Changes::new(HISTORY_BYTES, START, false);
        put(&log, "a");
        assert_eq!(log.log.state().revision(), START);
        if asks_to_watch {
            drop(log.watch(prefix(""), None));
        } else {
            assert_eq!(log.revision(), START);
        }
        put(&log, "b");
        assert_eq!(keys(&log.watch(prefix(""), Some(START))), ["b"]);
    }
    let kept = log_of(HISTORY_BYTES);
    put(&kept, "a");
    assert_eq!(keys(&kept.watch(prefix(""), Some(START))), ["a"]);
}

/// Threads write while one watches, parks and reads on: nothing is missed, told twice or
/// out of order.
#[test]
fn no_change_is_missed_in_a_race() {
    const WRITERS: usize = 3;
    const EACH: usize = 3000;
    let bench = Bench::new();
    let watched = [prefix(""), prefix("0:"), Watched::Key(key("1:even"))];
    let watchers = watched.map(|watched| bench.log.watch(watched, None));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let log = bench.log.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    let parity = if number % 2 == 0 { "even" } else { "odd" };
                    put(&log, &format!("{writer}:{parity}"));
                    if number % 64 == 0 {
                        // Else the watchers never park.
                        thread::sleep(Duration::from_micros(500));
                    }
                }
            })
        })
        .collect();
    let expected = [WRITERS * EACH, EACH, EACH / 2];
    let until = Instant::now() + LONG;
    thread::scope(|scope| {
        for (watcher, expected) in watchers.iter().zip(expected) {
            scope.spawn(move || {
                let (mut seen, mut last) = (0, START);
                while seen < expected {
                    let (changes, end) = read_all(watcher);
                    for change in changes {
                        assert!(change.revision.place > last.place);
                        (seen, last) = (seen + 1, change.revision);
                    }
                    assert!(matches!(end, End::UpToDate(_)), "{end:?}");
                    if seen < expected {
                        let (sender, woken) = mpsc::channel();
                        watcher.park(until, Box::new(move |is_over| sender.send(is_over).unwrap()));
                        assert_eq!(woken.recv(), Ok(false));
                        assert!(Instant::now() < until, "{seen} of {expected} were told");
                    }
                }
                assert_eq!(seen, expected);
            });
        }
    });
    for writer in writers {
        writer.join().unwrap();
    }
    drop(watchers);
    assert!(bench.log.log.is_unwatched());
}

/// The keys of the model: some are prefixes of others, and one is long.
const KEYS: &[&str] = &["a", "aa", "ab", "b", "ba", "\u{e9}", "\u{e9}a"];

fn watched() -> impl Strategy<Value = Watched> {
    prop_oneof![
        Just(prefix("")),
        "[ab\u{e9}]{1,2}".prop_map(|text| prefix(&text)),
        (0..KEYS.len()).prop_map(|index| Watched::Key(key(KEYS[index]))),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Changes of keys, which follow each other.
    Change(Vec<(usize, bool)>),
    /// The same key many times.
    Many(usize, usize),
    BeReborn,
    /// One of them reads, so many times.
    Read(prop::sample::Index, usize),
    /// One comes, from a position that was told or from a place that was not.
    Come(Watched, Option<(prop::sample::Index, u64)>),
    /// One breaks off, and comes back from where it was.
    Resume(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..KEYS.len(), any::<bool>());
    prop_oneof![
        4 => vec(change, 1..5).prop_map(Step::Change),
        1 => (0..KEYS.len(), 1..1500_usize).prop_map(|(key, times)| Step::Many(key, times)),
        1 => Just(Step::BeReborn),
        4 => (any::<prop::sample::Index>(), 1..4_usize).prop_map(|(who, n)| Step::Read(who, n)),
        2 => (watched(), prop::option::of((any::<prop::sample::Index>(), 0..3_u64)))
            .prop_map(|(watched, since)| Step::Come(watched, since)),
        2 => any::<prop::sample::Index>().prop_map(Step::Resume),
    ]
}

/// The store, and all that has happened to it in its present birth.
struct Model {
    log: Changes,
    history_bytes: usize,
    start: Revision,
    /// The keys that are there, with the place of their last change.
    store: BTreeMap<&'static str, u64>,
    history: Vec<(u64, Event, &'static str)>,
    /// All positions that there were, of all births.
    told: Vec<Revision>,
}

/// A client that keeps a copy of what it watches.
struct Replica {
    watcher: Watcher,
    watched: Watched,
    copy: BTreeMap<String, u64>,
    at: Revision,
}

impl Model {
    fn new(history_bytes: usize) -> Self {
        let (log, told) = (log_of(history_bytes), vec![START]);
        let (store, history) = (BTreeMap::new(), Vec::new());
        Self { log, history_bytes, start: START, store, history, told }
    }

    fn change(&mut self, changes: &[(Event, &'static str)]) {
        let end = self.log.revision_behind(changes.iter().map(|(_, text)| *text));
        drop(self.log.append_all(changes.iter().copied()));
        assert_eq!(self.log.revision(), end);
        for (event, text) in changes {
            let now = self.told.last().expect("it has a start").place;
            let place = now + ring::length(text.len());
            self.told.push(Revision { place, ..self.start });
            self.history.push((place, *event, text));
            match event {
                Event::Put => drop(self.store.insert(text, place)),
                Event::Delete | Event::Expire | Event::Evict => drop(self.store.remove(text)),
            }
        }
        assert_eq!(self.told.last(), Some(&end));
    }

    fn be_reborn(&mut self) {
        self.start = Revision::newborn();
        drop(self.log.be_reborn(self.start));
        self.store.clear();
        self.history.clear();
        self.told.push(self.start);
    }

    fn now(&self) -> Revision {
        *self.told.last().expect("it has a start")
    }

    /// True if so near a place cannot be forgotten.
    fn keeps(&self, place: u64) -> bool {
        let distance = usize::try_from(self.now().place - place).unwrap();
        let last = self.history.last().map_or(0, |(_, _, text)| 3 + text.len());
        distance <= self.history_bytes / 3 || distance <= last
    }

    fn is_position(&self, revision: Revision) -> bool {
        revision == self.start
            || revision.birth == self.start.birth
                && self.history.binary_search_by_key(&revision.place, |entry| entry.0).is_ok()
    }

    /// One who comes from a position, and knows the state there if it is one of this birth.
    fn come(&self, subject: Watched, since: Option<Revision>) -> Replica {
        let watcher = self.log.watch(subject.clone(), since);
        let at = since.unwrap_or_else(|| self.now());
        let mut replica = Replica { watcher, watched: subject, copy: BTreeMap::new(), at };
        for (place, event, text) in self.history.iter().take_while(|(place, ..)| *place <= at.place)
        {
            if is_of(&replica.watched, text) {
                replica.apply(*event, text, *place);
            }
        }
        replica
    }

    /// The keys that are there, of those that somebody watches.
    fn copy(&self, watched: &Watched) -> BTreeMap<String, u64> {
        let all = self.store.iter().filter(|(text, _)| is_of(watched, text));
        all.map(|(text, place)| ((*text).to_owned(), *place)).collect()
    }

    /// Has a replica read once; false if there is nothing more. It is shown exactly what
    /// has happened.
    fn read(&self, replica: &mut Replica) -> bool {
        let at = replica.at;
        let begin = self.history.partition_point(|(place, ..)| *place <= at.place);
        let all = self.history[begin..].iter();
        let watched = replica.watched.clone();
        let mut next = all.filter(|(.., text)| is_of(&watched, text)).copied();
        let is_within = self.is_position(at);
        match replica.watcher.read() {
            Read::Changes(changes) => {
                assert!(is_within, "it has come from {at}");
                for Change { event, revision, key } in changes {
                    let told = Some((revision.place, event, key.as_str()));
                    assert_eq!((next.next(), revision.birth), (told, self.start.birth));
                    replica.at = revision;
                    replica.apply(event, key.as_str(), revision.place);
                }
            }
            Read::UpToDate(revision) => {
                assert!(is_within, "it has come from {at}");
                assert_eq!((next.next(), revision), (None, self.now()));
                replica.at = revision;
                return false;
            }
            Read::Passing => assert!(is_within, "it has come from {at}"),
            Read::Reborn => {
                assert!(!is_within || !self.keeps(at.place), "it was at {at}");
                replica.copy = self.copy(&watched);
                replica.at = self.now();
                replica.watcher.go_on_from(replica.at);
            }
            Read::Behind => {
                assert!(is_within, "it has come from {at}");
                assert!(!self.keeps(at.place), "it was at {at}");
                // It is cut, and comes back.
                replica.watcher = self.log.watch(watched, Some(at));
            }
        }
        true
    }
}

impl Replica {
    fn apply(&mut self, event: Event, text: &str, place: u64) {
        match event {
            Event::Put => drop(self.copy.insert(text.into(), place)),
            Event::Delete | Event::Expire | Event::Evict => drop(self.copy.remove(text)),
        }
    }
}

fn is_of(watched: &Watched, text: &str) -> bool {
    match watched {
        Watched::Prefix(prefix) => text.starts_with(&**prefix),
        Watched::Key(key) => key.as_str() == text,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_replica_ends_in_the_true_state(
        history_bytes in prop::sample::select(vec![0, 4096, 20_000, HISTORY_BYTES]),
        steps in vec(step(), 1..60),
    ) {
        let mut model = Model::new(history_bytes);
        let mut replicas = Vec::new();
        for step in steps {
            match step {
                Step::Change(changes) => {
                    let event = |is_put| if is_put { Event::Put } else { Event::Delete };
                    let change = |(key, is_put): (usize, bool)| (event(is_put), KEYS[key]);
                    model.change(&changes.into_iter().map(change).collect::<Vec<_>>());
                }
                Step::Many(key, times) => {
                    (0..times).for_each(|_| model.change(&[(Event::Put, KEYS[key])]));
                }
                Step::BeReborn => model.be_reborn(),
                Step::Read(who, times) if !replicas.is_empty() => {
                    let index = who.index(replicas.len());
                    let replica = &mut replicas[index];
                    for _ in 0..times {
                        model.read(replica);
                    }
                }
                Step::Come(watched, since) => {
                    let since = since.map(|(index, more)| {
                        let told = model.told[index.index(model.told.len())];
                        Revision { place: told.place + more, ..told }
                    });
                    replicas.push(model.come(watched, since));
                }
                Step::Resume(who) if !replicas.is_empty() => {
                    let index = who.index(replicas.len());
                    let Replica { watched, copy, at, .. } = replicas.swap_remove(index);
                    let watcher = model.log.watch(watched.clone(), Some(at));
                    replicas.push(Replica { watcher, watched, copy, at });
                }
                Step::Read(..) | Step::Resume(_) => {}
            }
        }
        for replica in &mut replicas {
            while model.read(replica) {}
            prop_assert_eq!(&replica.copy, &model.copy(&replica.watched));
        }
    }
}
