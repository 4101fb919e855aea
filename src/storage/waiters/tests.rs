use super::*;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn read(text: &str) -> Subject {
    Subject::Read(key(text))
}

fn write(text: &str) -> Subject {
    Subject::Write(key(text), "*".into())
}

fn take(prefix: &str) -> Subject {
    Subject::Take(prefix.into())
}

/// A number of a waiter, with whether its time is over.
type Woken = (usize, bool);

/// Waiters, and those of them that were woken.
struct Bench {
    waiters: Waiters,
    sender: Sender<Woken>,
    woken: Receiver<Woken>,
}

impl Bench {
    fn new() -> Self {
        Self::of(Waiters::default())
    }

    fn of(waiters: Waiters) -> Self {
        let (sender, woken) = mpsc::channel();
        Self { waiters, sender, woken }
    }

    /// Registers those who wait for long, and parks them all.
    fn park_all<const N: usize>(&self, subjects: [Subject; N]) -> Vec<Option<Ticket>> {
        let until = Instant::now() + LONG;
        let tickets = subjects.map(|subject| self.waiters.register(&subject, until));
        assert!(tickets.iter().all(Ticket::has_turn));
        (0..).zip(&tickets).for_each(|(number, ticket)| self.park(ticket, number));
        tickets.into_iter().map(Some).collect()
    }

    fn park(&self, ticket: &Ticket, number: usize) {
        let sender = self.sender.clone();
        ticket.park(None, Box::new(move |is_over| sender.send((number, is_over)).unwrap()));
    }

    /// All that have been woken until now: another waiter is last.
    fn woken(&self) -> Vec<usize> {
        // Walks that are due go on while its own is.
        for _ in 0..2 {
            let ticket = self.waiters.register(&read("a sign"), Instant::now() + LONG);
            self.park(&ticket, usize::MAX);
            self.waiters.changed("a sign", false);
            let mut before = self.woken.iter().take_while(|(number, _)| *number < usize::MAX);
            let numbers: Vec<_> = before.by_ref().map(|(number, _)| number).collect();
            if !numbers.is_empty() {
                return numbers.into_iter().chain(self.woken()).collect();
            }
        }
        Vec::new()
    }
}

#[test]
fn a_change_wakes_all_readers_of_its_key_in_order_and_no_others() {
    let bench = Bench::new();
    let tickets = bench.park_all([read("a"), read("b"), read("a"), take("b"), read("ab")]);
    bench.waiters.changed("a", false);
    assert_eq!(bench.woken(), [0, 2]);
    bench.waiters.changed("a", true);
    assert!(bench.woken().is_empty(), "nobody is parked");
    // That has changed meanwhile, so it is woken as it parks.
    bench.park(tickets[2].as_ref().unwrap(), 2);
    assert_eq!(bench.woken(), [2]);
    bench.park(tickets[2].as_ref().unwrap(), 2);
    assert!(bench.woken().is_empty(), "it has seen all");
    bench.waiters.all_changed();
    let mut all = bench.woken();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4]);
}

#[test]
fn the_first_writer_looks_for_all_with_its_condition() {
    let bench = Bench::new();
    let other = Subject::Write(key("a"), "other".into());
    let mut tickets = bench.park_all([write("a"), other, write("b")]);
    let late: Vec<_> = (3..6)
        .map(|number| {
            let ticket = bench.waiters.register(&write("a"), Instant::now() + LONG);
            assert!(!ticket.has_turn());
            bench.park(&ticket, number);
            ticket
        })
        .collect();
    assert!(bench.woken().is_empty());
    bench.waiters.changed("a", false);
    assert_eq!(bench.woken(), [0, 1]);
    bench.park(tickets[0].as_ref().unwrap(), 0);
    bench.park(tickets[1].as_ref().unwrap(), 1);
    assert!(bench.woken().is_empty(), "it would be the same for the others");
    bench.waiters.changed("a", false);
    assert_eq!(bench.woken(), [0, 1]);
    bench.waiters.changed("a", false);
    assert!(bench.woken().is_empty(), "they are looking");
    bench.park(tickets[0].as_ref().unwrap(), 0);
    assert_eq!(bench.woken(), [0], "it has not seen that");
    // Served or not, the next one looks for all.
    tickets[0] = None;
    assert_eq!(bench.woken(), [3]);
    bench.park(&late[0], 3);
    assert!(bench.woken().is_empty());
    bench.waiters.changed("a", false);
    assert_eq!(bench.woken(), [3]);
}

#[test]
fn who_comes_while_another_has_the_turn_gets_it_though_that_leaves_first() {
    for subject in [write("a"), take("a")] {
        let bench = Bench::new();
        let first = bench.waiters.register(&subject, Instant::now() + LONG);
        bench.park(&first, 0);
        bench.waiters.changed("a", true);
        assert_eq!(bench.woken(), [0]);
        let second = bench.waiters.register(&subject, Instant::now() + LONG);
        let third = bench.waiters.register(&subject, Instant::now() + LONG);
        assert!(!second.has_turn() && !third.has_turn());
        drop(first);
        assert!(bench.woken().is_empty(), "the walk finds nobody");
        bench.park(&second, 1);
        bench.park(&third, 2);
        assert_eq!(bench.woken(), [1]);
        // What it finds is nothing for the third one, either.
        bench.park(&second, 1);
        assert!(bench.woken().is_empty());
    }
}

#[test]
fn a_key_that_is_stored_wakes_one_taker_of_each_prefix() {
    let bench = Bench::new();
    let subjects = ["j", "job:", "job:", "job:", "job:", "\u{e9}", ""].map(take);
    let mut tickets = bench.park_all(subjects);
    bench.waiters.changed("job:1", false);
    bench.waiters.changed("\u{e8}", false);
    assert!(bench.woken().is_empty());
    bench.waiters.changed("job:1", true);
    let mut all = bench.woken();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 6]);
    // It finds nothing, so there is nothing for the others.
    bench.park(tickets[1].as_ref().unwrap(), 1);
    assert!(bench.woken().is_empty());
    bench.waiters.changed("job:2", true);
    assert_eq!(bench.woken(), [1]);
    let late = bench.waiters.register(&take("job:"), Instant::now() + LONG);
    assert!(!late.has_turn());
    // It takes a key, so the next may find another; and there is one more.
    tickets[1] = None;
    assert_eq!(bench.woken(), [2]);
    bench.waiters.changed("job:3", true);
    assert!(bench.woken().is_empty(), "that is for the one that looks");
    bench.waiters.changed("job:4", true);
    assert_eq!(bench.woken(), [3]);
    bench.park(tickets[2].as_ref().unwrap(), 2);
    assert_eq!(bench.woken(), [2], "it has not seen that");
}

#[test]
fn a_change_between_the_look_and_the_park_is_not_missed() {
    for subject in [read("a"), write("a"), take("a")] {
        let bench = Bench::new();
        let ticket = bench.waiters.register(&subject, Instant::now() + LONG);
        bench.waiters.changed("a", true);
        bench.park(&ticket, 1);
        assert_eq!(bench.woken.recv(), Ok((1, false)));
    }
}

#[test]
fn a_wait_ends_at_its_time() {
    let bench = Bench::new();
    let until = Instant::now() + Duration::from_millis(20);
    let ticket = bench.waiters.register(&read("a"), until);
    bench.park(&ticket, 1);
    assert_eq!(bench.woken.recv(), Ok((1, true)));
    assert!(Instant::now() >= until);
    bench.park(&ticket, 2);
    assert_eq!(bench.woken.recv(), Ok((2, true)));
    // It has not seen this, so it looks once more.
    bench.waiters.changed("a", true);
    bench.park(&ticket, 3);
    assert_eq!(bench.woken.recv(), Ok((3, false)));
    bench.waiters.changed("a", true);
    bench.park(&ticket, 4);
    assert_eq!(bench.woken.recv(), Ok((4, true)));
}

#[test]
fn who_has_not_had_its_turn_looks_once_before_the_end() {
    let bench = Bench::new();
    let tickets = bench.park_all([write("a")]);
    bench.waiters.changed("a", true);
    assert_eq!(bench.woken(), [0]);
    let late = bench.waiters.register(&write("a"), Instant::now());
    bench.park(&late, 1);
    assert_eq!(bench.woken.recv(), Ok((1, false)));
    bench.park(&late, 1);
    assert_eq!(bench.woken.recv(), Ok((1, true)));
    drop(tickets);
}

#[test]
fn who_is_ended_looks_no_more() {
    let bench = Bench::new();
    let tickets = bench.park_all([take("a"), take("a")]);
    let first = tickets[0].as_ref().unwrap();
    first.end();
    assert_eq!(bench.woken.recv(), Ok((0, true)));
    bench.waiters.changed("a", true);
    bench.park(first, 0);
    let mut woken = [bench.woken.recv().unwrap(), bench.woken.recv().unwrap()];
    woken.sort_unstable();
    assert_eq!(woken, [(0, true), (1, false)]);
}

#[test]
fn a_time_in_between_is_a_change() {
    let bench = Bench::new();
    let first = bench.waiters.register(&write("a"), Instant::now() + LONG);
    let second = bench.waiters.register(&write("a"), Instant::now() + LONG);
    bench.park(&first, 0);
    let sender = bench.sender.clone();
    let wake_at = Instant::now() + Duration::from_millis(20);
    second.park(Some(wake_at), Box::new(move |is_over| sender.send((1, is_over)).unwrap()));
    // The first is the first then too.
    assert_eq!(bench.woken.recv(), Ok((0, false)));
    assert!(Instant::now() >= wake_at);
}

#[test]
fn who_polls_looks_without_a_change() {
    for subject in [read("a"), write("a"), take("a")] {
        let bench = Bench::of(Waiters::polling());
        let began = Instant::now();
        let ticket = bench.waiters.register(&subject, began + LONG);
        for until in [POLL_MIN, 3 * POLL_MIN] {
            bench.park(&ticket, 1);
            assert_eq!(bench.woken.recv_timeout(LONG / 2), Ok((1, false)));
            assert!(began.elapsed() >= until);
        }
        // A time in between is not put off until then.
        let sender = bench.sender.clone();
        let wake_at = Instant::now() + POLL_PAUSE;
        ticket.park(Some(wake_at), Box::new(move |is_over| sender.send((2, is_over)).unwrap()));
        assert_eq!(bench.woken.recv_timeout(LONG / 2), Ok((2, false)));
        assert!(Instant::now() >= wake_at);
    }
}

#[test]
fn of_a_line_that_polls_the_first_looks_for_all() {
    for subject in [write("a"), take("a")] {
        let bench = Bench::of(Waiters::polling());
        let first = bench.waiters.register(&subject, Instant::now() + LONG);
        bench.park(&first, 1);
        let second = bench.waiters.register(&subject, Instant::now() + LONG);
        assert!(!second.has_turn());
        bench.park(&second, 2);
        for _ in 0..3 {
            assert_eq!(bench.woken.recv_timeout(LONG / 2), Ok((1, false)));
            bench.park(&first, 1);
        }
        // The next one is the first then. That one may have been woken once more before.
        drop(first);
        let mut woken = iter::repeat_with(|| bench.woken.recv_timeout(LONG / 2));
        let next = woken.by_ref().take(2).find(|woken| *woken != Ok((1, false)));
        assert_eq!(next, Some(Ok((2, false))));
        bench.park(&second, 2);
        assert_eq!(bench.woken.recv_timeout(LONG / 2), Ok((2, false)));
    }
}

#[test]
fn who_polls_looks_once_more_at_the_end() {
    let bench = Bench::of(Waiters::polling());
    let until = Instant::now() + POLL_MIN / 4;
    let ticket = bench.waiters.register(&read("a"), until);
    bench.park(&ticket, 1);
    assert_eq!(bench.woken.recv_timeout(LONG / 2), Ok((1, false)));
    assert!(Instant::now() >= until);
    bench.park(&ticket, 1);
    assert_eq!(bench.woken.recv_timeout(LONG / 2), Ok((1, true)));
}

#[test]
fn a_panic_is_that_of_its_waiter() {
    let bench = Bench::new();
    let ticket = bench.waiters.register(&read("a"), Instant::now() + LONG);
    ticket.park(None, Box::new(|_| panic!("it is to")));
    bench.waiters.changed("a", true);
    let next = bench.waiters.register(&read("a"), Instant::now());
    bench.park(&next, 1);
    assert_eq!(bench.woken.recv(), Ok((1, true)));
}

/// One thread counts, and another waits for each number.
#[test]
fn no_change_is_missed_in_a_race() {
    const ROUNDS: u64 = 20_000;
    let (waiters, store) = (Waiters::default(), Arc::new(AtomicU64::new(0)));
    let (asked, numbers) = mpsc::channel::<u64>();
    let writer = {
        let (waiters, store) = (waiters.clone(), Arc::clone(&store));
        thread::spawn(move || {
            for number in numbers {
                store.store(number, Ordering::Relaxed);
                waiters.changed("a", true);
            }
        })
    };
    for number in 1..=ROUNDS {
        let subject = [read, write, take][usize::try_from(number % 3).unwrap()]("a");
        let ticket = waiters.register(&subject, Instant::now() + LONG);
        asked.send(number).expect("it is there");
        while store.load(Ordering::Relaxed) < number {
            let (sender, woken) = mpsc::channel();
            ticket.park(None, Box::new(move |is_over| sender.send(is_over).unwrap()));
            assert_eq!(woken.recv(), Ok(false), "missed {number}");
        }
    }
    drop(asked);
    writer.join().expect("it does not panic");
    let Shared { readers, writers, takers, agenda, .. } = &*waiters.0.0;
    for lines in [readers, writers] {
        assert_eq!(lines.tickets(), 0);
        assert!(lines.is_empty());
    }
    assert_eq!(takers.tickets(), 0);
    assert!(takers.all().is_empty());
    assert_eq!(agenda.timers(), 0);
}
