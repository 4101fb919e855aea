//! The durable engine in the real program, which is killed while clients
//! write: what was acknowledged is there, what was not is there whole or not
//! at all, and no order of the calls is impossible.

#![cfg(unix)]

use crate::support::blocking::Blocking as _;
use crate::support::history::{bytes_of, number_of};
use crate::support::http::{
    Connection, Response, get_head, has_read_everything, put_head, wait_until,
};
use crate::support::linearizability::{Call, Operation, Saw, check, check_each_key};
use crate::support::place::{Place, acknowledged, copy_all, ends_well, holds, says};
use crate::support::process::{Process, command, wait};
use crate::support::random::Random;
use crate::support::replica::{self, Replica};
use crate::support::wrappers::{there_is, under_strace};
use little_key_value::storage::{BatchOp, Durable, Entry, Key, Listing, PAGE_KEYS_MAX, Time};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 6;
const KEYS: usize = 4;

/// When a call returned that was not answered.
const NOT_YET: u64 = u64::MAX;

/// What happened, over several lives of the program.
struct Log {
    clock: AtomicU64,
    history: Mutex<Vec<Operation>>,
    numbers: AtomicU64,
}

impl Log {
    fn new() -> Self {
        Self { clock: AtomicU64::new(0), history: Mutex::default(), numbers: AtomicU64::new(0) }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Makes a call and notes it. Gives whether the program has answered.
    fn make(&self, connection: &mut Connection, client: usize, call: Call) -> bool {
        let invoked = self.tick();
        let answer = ask(connection, call);
        let returned = self.tick();
        let (saw, returned) = match (&answer, call) {
            (Some(answer), Call::Get(_)) if answer.status() == 200 => {
                (Some(number_of(&answer.body)), returned)
            }
            (Some(answer), Call::Get(_)) => {
                says(answer, 404, "key not found\n");
                (None, returned)
            }
            (Some(answer), _) => {
                assert_eq!(answer.status(), 200, "{call:?}");
                (None, returned)
            }
            // Nobody has seen anything.
            (None, Call::Get(_)) => return false,
            (None, _) => (None, NOT_YET),
        };
        let (saw, is_lost) = (Saw::from(saw), answer.is_none());
        let operation = Operation { client, call, saw, invoked, returned, is_lost };
        self.history.lock().expect("no client panics with it").push(operation);
        answer.is_some()
    }

    /// Notes that the program has ended: what was not answered is done by now,
    /// or never will be.
    fn end_of_life(&self) {
        let now = self.tick();
        for operation in self.history.lock().expect("no client panics with it").iter_mut() {
            operation.returned = operation.returned.min(now);
        }
    }
}

fn ask(connection: &mut Connection, call: Call) -> Option<Response> {
    let request = match call {
        Call::Get(key) => get_head(&format!("/kv/{key}")).into_bytes(),
        Call::Delete(key) => {
            format!("DELETE /kv/{key} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()
        }
        Call::Exchange(..) | Call::Take(_) | Call::GetBoth(_) | Call::ExchangeBoth(..) => {
            unreachable!("nobody knows what a lost one has seen")
        }
        Call::Clear => b"DELETE /clear HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(),
        Call::Set(key, number) => {
            let value = bytes_of(number);
            [put_head(&format!("/kv/{key}"), value.len()).into_bytes(), value].concat()
        }
    };
    connection.try_send(request).ok()?;
    connection.try_response_to("GET").ok()
}

/// Calls until the program is gone or `calls` were made.
fn call(log: &Log, addr: SocketAddr, client: usize, mut random: Random, clears_per_mille: usize) {
    let mut connection = Connection::open(addr);
    loop {
        let key = random.below(KEYS);
        let call = match random.below(1000) {
            choice if choice < clears_per_mille => Call::Clear,
            choice if choice < 400 => Call::Get(key),
            choice if choice < 800 => Call::Set(key, log.numbers.fetch_add(1, Ordering::SeqCst)),
            _ => Call::Delete(key),
        };
        if !log.make(&mut connection, client, call) {
            return;
        }
    }
}

/// Kills the program several times while clients call.
fn history_with_kills(kills: usize, clears_per_mille: usize) -> Vec<Operation> {
    let random = Random::of_this_run();
    let (place, log) = (Place::new(), Log::new());
    for life in 0..kills {
        let process = place.start();
        let addr = process.addr();
        thread::scope(|scope| {
            let _killed = process.killed_by_a_panic();
            for client in 0..CLIENTS {
                let log = &log;
                let random = random.fork(life * CLIENTS + client);
                scope.spawn(move || {
                    call(log, addr, life * CLIENTS + client, random, clears_per_mille);
                });
            }
            let so_far = log.clock.load(Ordering::SeqCst);
            wait_until("there is a history", || log.clock.load(Ordering::SeqCst) > so_far + 500);
            process.signal("KILL");
        });
        process.end();
        log.end_of_life();
    }
    let process = place.start();
    let mut connection = process.connect();
    for key in 0..KEYS {
        assert!(log.make(&mut connection, usize::MAX, Call::Get(key)), "it has ended");
    }
    log.history.into_inner().expect("every client has ended well")
}

#[test]
fn each_key_is_linearizable_over_kills() {
    let history = history_with_kills(5, 0);
    println!("{} calls", history.len());
    check_each_key(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn the_store_is_linearizable_with_clears_over_kills() {
    let history = history_with_kills(3, 20);
    println!("{} calls", history.len());
    check(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

const BATCH_KEYS: u64 = 1000;

/// The directory for [`batches_until_killed`].
const BATCHES_IN: &str = "LKV_TEST_BATCHES_IN";

/// The value under a key after so many batches: small or large, with an expiry or without
/// one, and each time not as before.
fn value_after(batches: u64, key: u64) -> Option<Vec<u8>> {
    let kind = (batches + key) % 4;
    let bytes = if (batches + key / 4).is_multiple_of(2) { 8 } else { 400 };
    (kind > 0).then(|| batches.to_be_bytes().into_iter().cycle().take(bytes).collect())
}

fn batch_of(number: u64, later: Time) -> Vec<(Key, BatchOp)> {
    let op = |key: u64| {
        let expiry = (number + key).is_multiple_of(2).then_some(later);
        let entry = |value: Vec<u8>| Entry::new(value.into()).with_expiry(expiry);
        let op = value_after(number, key).map_or(BatchOp::Delete, |it| BatchOp::Set(entry(it)));
        (Key::new(key.to_string()).expect("a key"), op)
    };
    (0..BATCH_KEYS).map(op).collect()
}

/// How many batches a store has seen, of which there is no part of another.
fn batches_in(store: &Durable) -> u64 {
    let mut listing = Listing { with_entries: true, keys_max: PAGE_KEYS_MAX, ..Listing::default() };
    let mut held = BTreeMap::new();
    loop {
        let page = store.list(listing.clone()).expect("the engine lists");
        held.extend(page.keys().map(str::to_owned).zip(page.entries().iter().cloned()));
        match page.next {
            Some(next) => listing.range.start = next,
            None => break,
        }
    }
    let Some((_, first)) = held.first_key_value() else { return 0 };
    let number = first.value().first_chunk().expect("eight bytes at least");
    let number = u64::from_be_bytes(*number);
    for key in 0..BATCH_KEYS {
        let text = key.to_string();
        let found = store.get(&Key::new(text.as_str()).expect("a key")).expect("the engine reads");
        assert_eq!(held.get(&text), found.as_ref(), "{key}");
        let value = found.map(|entry| entry.value().to_vec());
        assert_eq!(value, value_after(number, key), "{key} after {number} batches");
    }
    number
}

#[test]
#[ignore = "a part of the next one, in a process of its own"]
fn batches_until_killed() {
    let directory = std::env::var_os(BATCHES_IN).expect("a directory to write to");
    let store = Durable::open(directory.as_ref()).expect("it can be opened");
    let later = Time::now().after(Duration::from_secs(10_000));
    for number in batches_in(&store) + 1.. {
        store.batch(batch_of(number, later)).expect("the engine writes");
        eprintln!("{number}");
    }
}

#[test]
fn a_batch_survives_a_kill_as_a_whole_or_not_at_all() {
    let mut random = Random::of_this_run();
    let directory = tempfile::tempdir().expect("a directory");
    for _ in 0..6 {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "crashes::batches_until_killed", "--nocapture"])
            .env(BATCHES_IN, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let says = BufReader::new(writer.stderr.take().expect("it is piped")).lines();
        let mut told = says.map_while(Result::ok).filter_map(|line| line.parse::<u64>().ok());
        let first = told.nth(random.below(6)).expect("it writes until it is killed");
        thread::sleep(Duration::from_micros(random.below(30_000) as u64));
        writer.kill().expect("it runs");
        writer.wait().expect("it has ended");
        let last = told.last().unwrap_or(first);
        let store = Durable::open(directory.path()).expect("it can be opened");
        let number = batches_in(&store);
        assert!(last <= number && number <= last + 1, "{number} batches, {last} acknowledged");
    }
}

/// The directory for [`watched_until_killed`], and the position to go on from.
const WATCHED_IN: &str = "LKV_TEST_WATCHED_IN";
const SINCE: &str = "LKV_TEST_SINCE";

/// The end of a line that was written whole.
const WHOLE: &str = " ;";

/// Does something to a few keys of the same length, so that other histories have changes
/// in the same places.
fn change_something(store: &Durable, random: &mut Random) {
    let choice = random.below(100);
    let mut key = || Key::new(format!("key{}", random.below(10))).expect("a key");
    let keys = [key(), key(), key()];
    let mut set = || {
        let (number, width) = (random.next(), random.one_of(&[1, 400]));
        let ttl = random.one_of(&[None, None, Some(20), Some(1_000_000)]);
        let expiry = ttl.map(|ttl| Time::now().after(Duration::from_millis(ttl)));
        let value = format!("{number:0width$}");
        BatchOp::Set(Entry::new(value.into()).with_expiry(expiry))
    };
    let ops = [set(), set(), BatchOp::Delete];
    let count = if choice < 80 { 1 } else { keys.len() };
    let outcome = match choice {
        0 => store.clear(),
        1..30 => store.delete(&keys[0]),
        _ => store.batch(keys.into_iter().zip(ops).take(count).collect()).map(drop),
    };
    outcome.expect("the engine writes");
}

#[test]
#[ignore = "a part of the next one, in a process of its own"]
fn watched_until_killed() {
    let directory = std::env::var_os(WATCHED_IN).expect("a directory to write to");
    let since = std::env::var(SINCE).expect("a position").parse().ok();
    let store = Durable::open(directory.as_ref()).expect("it can be opened");
    let random = Random::of_this_run();
    thread::scope(|scope| {
        for writer in 0..3 {
            let (store, mut random) = (&store, random.fork(writer));
            scope.spawn(move || {
                loop {
                    change_something(store, &mut random);
                }
            });
        }
        let watcher = replica::watch(&store, since);
        loop {
            replica::tell(&store, &watcher, |line| eprintln!("{line}{WHOLE}"));
        }
    });
}

#[test]
fn a_replica_is_right_over_kills() {
    let mut random = Random::of_this_run();
    let directory = tempfile::tempdir().expect("a directory");
    let mut replica = Replica::default();
    for _ in 0..8 {
        let since = replica.at.map_or_else(|| "none".to_owned(), |at| at.to_string());
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "crashes::watched_until_killed", "--nocapture"])
            .envs([(WATCHED_IN, directory.path()), (SINCE, since.as_ref())])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let says = BufReader::new(writer.stderr.take().expect("it is piped")).lines();
        let mut told = says.map_while(Result::ok);
        let few = random.below(200);
        let mut others = String::new();
        let mut apply = |line: String| match line.strip_suffix(WHOLE) {
            Some(line) => replica.apply(line),
            None => others += &(line + "\n"),
        };
        told.by_ref().take(few).for_each(&mut apply);
        thread::sleep(Duration::from_micros(random.below(20_000) as u64));
        writer.kill().expect("it runs");
        writer.wait().expect("it has ended");
        told.for_each(&mut apply);
        assert!(!others.contains("panicked"), "{others}");

        let store = Durable::open(directory.path()).expect("it can be opened");
        (0..random.below(30)).for_each(|_| change_something(&store, &mut random));
        // Until the last one has expired, and that is told.
        wait_until("it is as the store", || {
            replica.follow(&store);
            replica.values == replica::listed(&store)
        });
    }
}

/// The fields of an answer that tell what is known of a value.
fn known(answer: &Response) -> [Option<&str>; 3] {
    ["ETag", "Content-Type", "Content-Security-Policy"].map(|name| answer.header(name))
}

#[test]
fn what_is_known_of_a_value_survives_a_kill() {
    let place = Place::new();
    let values = [("small", 10), ("medium", 1000), ("large", 100_000)];
    let types = [("page", "text/html; charset=utf-8"), ("picture", "image/png")];
    let process = place.start();
    let mut connection = process.connect();
    let mut before = Vec::new();
    for (size, bytes) in values {
        for (kind, content_type) in types {
            let target = format!("/kv/{size}/{kind}");
            let field = format!("Content-Type: {content_type}");
            let fields = [field.as_str(), "TTL: 1000"];
            let put = connection.ask("PUT", &target, &fields, &vec![b'x'; bytes]);
            assert_eq!(put.status(), 200, "{}", put.text());
            let read = connection.get(&target);
            assert_eq!(put.header("ETag"), read.header("ETag"));
            assert_eq!(read.header("Content-Type"), Some(content_type));
            before.push((target, bytes, read));
        }
    }
    acknowledged(&mut connection, "number", b"41");
    assert_eq!(connection.call("POST", "/kv/number?incr").text(), "42\n");
    assert_eq!(connection.call("POST", "/kv/number?ttl=1000").status(), 200);
    process.signal("KILL");
    process.end();

    let process = place.start();
    let mut connection = process.connect();
    for (target, bytes, before) in before {
        let after = connection.get(&target);
        assert_eq!((after.status(), known(&after)), (200, known(&before)), "{target}");
        assert!(after.body == vec![b'x'; bytes], "{target}");
        let seconds = after.header("TTL").and_then(|seconds| seconds.parse().ok());
        assert!(matches!(seconds, Some(1..=1000)), "{target}: {seconds:?}");
        let condition = format!("If-None-Match: {}", after.header("ETag").expect("a tag"));
        assert_eq!(connection.ask("GET", &target, &[&condition], b"").status(), 304, "{target}");
    }
    let number = connection.get("/kv/number");
    assert_eq!(number.text(), "42");
    assert!(number.header("TTL").is_some());
}

#[test]
fn what_expires_while_the_store_is_down_is_absent_after_the_start() {
    let place = Place::new();
    let process = place.start();
    let mut connection = process.connect();
    acknowledged(&mut connection, "kept", b"kept");
    acknowledged(&mut connection, "later?ttl=1000", b"x");
    acknowledged(&mut connection, "soon?ttl=300ms", b"x");
    let stored = Instant::now();
    process.signal("KILL");
    process.end();
    thread::sleep(Duration::from_millis(301).saturating_sub(stored.elapsed()));

    let process = place.start();
    let mut connection = process.connect();
    says(&connection.get("/kv/soon"), 404, "key not found\n");
    let created = connection.ask("PUT", "/kv/soon", &["If-None-Match: *"], b"again");
    assert_eq!(created.status(), 201);
    holds(&mut connection, "soon", b"again");
    holds(&mut connection, "later", b"x");
    holds(&mut connection, "kept", b"kept");
}

/// Increments a number until the program is gone; gives the last that it was
/// told.
fn count_up(addr: SocketAddr) -> u64 {
    let mut connection = Connection::open(addr);
    let request = "POST /kv/number?incr HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut last = 0;
    while connection.try_send(request).is_ok() {
        let Ok(answer) = connection.try_response_to("POST") else { break };
        last = answer.text().trim_end().parse().expect("a number");
    }
    last
}

#[test]
fn increments_that_were_acknowledged_survive_a_kill() {
    let place = Place::new();
    let mut highest = 0;
    for _ in 0..3 {
        let process = place.start();
        let addr = process.addr();
        let told = thread::scope(|scope| {
            let _killed = process.killed_by_a_panic();
            let clients: Vec<_> =
                (0..CLIENTS).map(|_| scope.spawn(move || count_up(addr))).collect();
            wait_until("much is counted", || {
                let number = process.connect().get("/kv/number");
                number.status() == 200
                    && number.text().parse().is_ok_and(|n: u64| n > highest + 100)
            });
            process.signal("KILL");
            clients.into_iter().map(|client| client.join().expect("a client ends")).max()
        });
        process.end();
        highest = told.expect("there are clients");
        let process = place.start();
        let number: u64 = process.connect().get("/kv/number").text().parse().expect("a number");
        // Each client may have added one that it was not told of.
        let unacknowledged = number.checked_sub(highest);
        assert!(unacknowledged.is_some_and(|more| more <= CLIENTS as u64), "{number}, {highest}");
        highest = number;
        ends_well(process);
    }
}

/// The lines of a batch that stores the same under many keys.
fn lines_of(names: impl Iterator<Item = String>, value: &str) -> String {
    let line =
        |name| format!("{{\"path\":\"/kv/{name}\",\"method\":\"PUT\",\"value\":\"{value}\"}}\n");
    names.map(line).collect()
}

/// Sends batches until the program is gone. Each stores its number under many keys of its
/// own, and under two that all of a client's share. Gives how many were acknowledged.
fn write_batches(addr: SocketAddr, client: usize, acknowledged: &AtomicU64) -> usize {
    let mut connection = Connection::open(addr);
    for number in 0.. {
        let own = (0..KEYS_EACH).map(|index| format!("{client}:{number:04}:{index:02}"));
        let shared = ["first", "last"].map(|name| format!("{client}:{name}"));
        let body = lines_of(own.chain(shared), &number.to_string());
        let head =
            format!("POST /batch HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer =
            connection.try_send(head + &body).and_then(|()| connection.try_response_to("POST"));
        let Ok(answer) = answer else { return number };
        assert_eq!(answer.status(), 200, "{}", answer.text());
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    unreachable!("it is killed before")
}

/// The keys of a batch's own.
const KEYS_EACH: usize = 40;

#[test]
fn a_batch_is_there_whole_or_not_at_all_after_a_kill() {
    const BATCHES: u64 = 200;
    for _ in 0..3 {
        let place = Place::new();
        let process = place.start();
        let (addr, acknowledged) = (process.addr(), AtomicU64::new(0));
        let written: Vec<usize> = thread::scope(|scope| {
            let _killed = process.killed_by_a_panic();
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let acknowledged = &acknowledged;
                    scope.spawn(move || write_batches(addr, client, acknowledged))
                })
                .collect();
            wait_until("much is written", || acknowledged.load(Ordering::SeqCst) >= BATCHES);
            process.signal("KILL");
            clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
        });
        process.end();

        let process = place.start();
        let mut connection = process.connect();
        for (client, acknowledged) in written.into_iter().enumerate() {
            let list = connection.get(&format!("/kv?prefix={client}:0&limit=10000"));
            let mut there = vec![0; acknowledged + 1];
            for line in list.text().lines() {
                let number: usize =
                    line.split(':').nth(1).expect("three parts").parse().expect("digits");
                there[number] += 1;
            }
            let (unacknowledged, acknowledged) = there.split_last().expect("one at least");
            assert!(acknowledged.iter().all(|keys| *keys == KEYS_EACH), "{client}: {there:?}");
            assert!([0, KEYS_EACH].contains(unacknowledged), "{client}: {there:?}");
            // Both have the number of the last one that is there.
            let count = acknowledged.len() + usize::from(*unacknowledged > 0);
            for name in ["first", "last"] {
                let answer = connection.get(&format!("/kv/{client}:{name}"));
                let number = (answer.status() == 200).then(|| answer.text().to_owned());
                assert_eq!(number, count.checked_sub(1).map(|last| last.to_string()), "{client}");
            }
        }
        ends_well(process);
    }
}

/// Takes jobs until the program is gone or has none; gives the names of those it has got.
fn take_jobs(addr: SocketAddr, taken: &AtomicU64) -> Vec<String> {
    let mut connection = Connection::open(addr);
    let mut own = Vec::new();
    loop {
        let request = "DELETE /kv?take=job: HTTP/1.1\r\nHost: test\r\n\r\n";
        let answer =
            connection.try_send(request).and_then(|()| connection.try_response_to("DELETE"));
        let Ok(answer) = answer else { return own };
        if answer.status() == 404 {
            return own;
        }
        assert_eq!(answer.status(), 200, "{}", answer.text());
        own.push(answer.text().to_owned());
        taken.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_job_that_was_taken_does_not_come_back_after_a_kill() {
    const TAKERS: usize = 16;
    const JOBS: usize = 4000;
    const LIVES: usize = 4;
    let place = Place::new();
    let names: Vec<String> = (0..JOBS).map(|index| format!("job:{index:04}")).collect();
    let process = place.start();
    for some in names.chunks(1000) {
        let lines: String =
            some.iter().map(|name| lines_of([name.clone()].into_iter(), name)).collect();
        let answer = process.connect().ask("POST", "/batch", &[], lines.as_bytes());
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    ends_well(process);
    let mut taken = Vec::new();
    for life in 1..=LIVES {
        let process = place.start();
        let (addr, count) = (process.addr(), AtomicU64::new(0));
        thread::scope(|scope| {
            let _killed = process.killed_by_a_panic();
            let takers: Vec<_> =
                (0..TAKERS).map(|_| scope.spawn(|| take_jobs(addr, &count))).collect();
            if life < LIVES {
                wait_until("many are taken", || count.load(Ordering::SeqCst) >= 500);
                process.signal("KILL");
            }
            taken.extend(takers.into_iter().flat_map(|taker| taker.join().expect("a taker ends")));
        });
        drop(process);
    }
    let got = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), got, "a job was taken twice");
    // Each taker may have lost one with each kill.
    let lost = JOBS - got;
    assert!(lost <= TAKERS * (LIVES - 1), "{lost} jobs are lost");
}

/// Writes numbers under a key of its own until the program takes no more;
/// gives the last one that was acknowledged.
fn write_up(addr: SocketAddr, client: usize, acknowledged: &AtomicU64) -> Option<u64> {
    let mut connection = Connection::open(addr);
    let mut last = None;
    for number in 0.. {
        match ask(&mut connection, Call::Set(client, number)) {
            Some(answer) if answer.status() == 200 => last = Some(number),
            Some(answer) => {
                assert_eq!(answer.status(), 503);
                return last;
            }
            None => return last,
        }
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    last
}

#[test]
fn asked_to_stop_under_load_it_ends_well_and_has_everything() {
    let place = Place::new();
    for (signal, exit_code) in [("TERM", 0), ("INT", 0), ("HUP", 129)] {
        let process = place.start();
        let (addr, written) = (process.addr(), AtomicU64::new(0));
        let last: Vec<Option<u64>> = thread::scope(|scope| {
            let _killed = process.killed_by_a_panic();
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let written = &written;
                    scope.spawn(move || write_up(addr, client, written))
                })
                .collect();
            wait_until("much is written", || written.load(Ordering::SeqCst) > 300);
            process.signal(signal);
            clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
        });
        let (code, log) = process.end();
        assert_eq!(code, Some(exit_code), "{log}");
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");

        let process = place.start();
        let mut connection = process.connect();
        for (client, last) in last.into_iter().enumerate() {
            let answer = connection.get(&format!("/kv/{client}"));
            let number = (answer.status() == 200).then(|| number_of(&answer.body));
            // The write after it may have taken effect unacknowledged.
            assert!(number == last || number == Some(last.map_or(0, |last| last + 1)));
        }
        ends_well(process);
    }
}

#[test]
fn a_last_sync_that_fails_is_told() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let journal = place.file("data/0.jnl");
    // The committer syncs this way for the write and at the end.
    let inject = "inject=fdatasync:error=EIO:when=2+";
    let process = place.start_with(&["-e", "trace=fdatasync", "-e", inject, "-P", &journal]);
    acknowledged(&mut process.connect(), "key", b"x");
    let (code, log) = process.stop();
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().expect("it says why");
    assert!(last.contains("cannot close the storage") && last.contains("may be lost"), "{log}");
    let process = place.start();
    holds(&mut process.connect(), "key", b"x");
}

/// Starts the program with syncs that each take so long.
fn start_with_slow_syncs(place: &Place, each: Duration, shutdown_timeout: &str) -> Process {
    let inject = format!("inject=fdatasync:delay_enter={}", each.as_micros());
    let faults = ["-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject];
    let arguments = place.arguments();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--shutdown-timeout", shutdown_timeout]);
    Process::run(under_strace(&faults, &arguments))
}

#[test]
fn a_disk_that_hangs_does_not_hold_the_exit_past_the_timeout() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = start_with_slow_syncs(&place, Duration::from_secs(20), "500ms");
    let mut connection = process.connect();
    connection.send(put_head("/kv/key", 8) + "unsynced");
    wait_until("it is written and not synced", || {
        let journal = File::open(place.path().join("data/0.jnl")).expect("a journal");
        let mut begin = Vec::new();
        journal.take(64 << 10).read_to_end(&mut begin).expect("it can be read");
        begin.windows(8).any(|bytes| bytes == b"unsynced")
    });
    let (code, log) = process.stop();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the disk does not answer"), "{log}");
}

#[test]
fn what_is_committed_after_the_timeout_is_answered_all_the_same() {
    const WRITERS: usize = 4;
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = start_with_slow_syncs(&place, Duration::from_secs(4), "7s");
    // The first one's sync takes 4 s and then that of the others 4 s more: clients
    // are not waited for that long, but the storage is.
    let mut connections: Vec<_> = (0..WRITERS).map(|_| process.connect()).collect();
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.send(put_head(&format!("/kv/{index}"), 1) + "x");
    }
    // What comes later is answered, so these have been taken long since.
    wait_until("the server has read them", || has_read_everything(process.addr()));
    let mut reader = process.connect();
    for _ in 0..50 {
        assert_eq!(reader.get("/healthz").status(), 200);
    }
    process.signal("TERM");
    for connection in &mut connections {
        assert_eq!(connection.response().status(), 200);
    }
    process.end();
}

/// What changes a directory, or makes what was changed last.
const CHANGES: &str = "mkdir,rename,unlink,unlinkat,ftruncate,fchmod,chmod,fsync,fdatasync";

/// Any of several journals may hold what no table has.
#[test]
fn a_journal_that_is_missing_among_others_is_noticed() {
    const BYTES: usize = 1 << 20;
    let value = |index: usize| vec![b'a' + u8::try_from(index % 26).expect("a letter"); BYTES];
    let place = Place::new();
    let process = place.start();
    let mut connection = process.connect();
    let journals = |place: &Place| {
        let names = std::fs::read_dir(place.path().join("data")).expect("a folder");
        let paths = names.map(|entry| entry.expect("a readable folder").path());
        paths.filter(|path| path.extension().is_some_and(|it| it == "jnl")).collect::<Vec<_>>()
    };
    let (mut stored, mut since) = (0, 0);
    // A new one is listed soon, and not at once.
    while since < 4 {
        acknowledged(&mut connection, &stored.to_string(), &value(stored));
        stored += 1;
        since = if journals(&place).len() > 1 { since + 1 } else { 0 };
        assert!(stored < 1000, "there is one journal all the time");
    }
    process.signal("KILL");
    process.end();
    for journal in journals(&place) {
        let copy = copy_of(Some(&place));
        let journal = copy.path().join(journal.strip_prefix(place.path()).expect("it is in it"));
        std::fs::remove_file(&journal).expect("it is there");
        let arguments = copy.arguments();
        match Process::try_run(command(
            &[&["--port", "0"], &arguments.each_ref().map(String::as_str)[..]].concat(),
        )) {
            Err(log) => assert!(log.contains(&journal.display().to_string()), "{log}"),
            Ok(process) => {
                let mut connection = process.connect();
                for index in 0..stored {
                    holds(&mut connection, &index.to_string(), &value(index));
                }
            }
        }
    }
    let process = place.start();
    let mut connection = process.connect();
    for index in 0..stored {
        holds(&mut connection, &index.to_string(), &value(index));
    }
}

/// A kill cuts a directory short at each of its states: as it is made and as it
/// is opened. None of them is taken for damage.
#[test]
fn killed_at_any_change_of_a_start_it_is_started_again() {
    if !there_is("strace") {
        return;
    }
    let whole = Place::with_a_store();
    thread::scope(|scope| {
        for whole in [None, Some(&whole)] {
            scope.spawn(move || {
                for n in 1.. {
                    let place = copy_of(whole);
                    let (trace, inject) = killing_at(n);
                    let options = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
                    let arguments = place.arguments();
                    let arguments = arguments.each_ref().map(String::as_str);
                    let started = Process::try_run(under_strace(&options, &arguments));
                    let has_started = started.is_ok();
                    drop(started.map(|process| (process.signal("KILL"), process.end())));
                    is_started_again(&place, whole.is_some(), false);
                    if has_started {
                        assert!(n > 10, "only {n} changes");
                        break;
                    }
                }
            });
        }
    });
}

/// The same while it is written to, cleared and closed, and then cleared and killed once more.
#[test]
fn killed_at_any_change_of_a_clear_it_is_started_again() {
    if !there_is("strace") {
        return;
    }
    let whole = Place::with_a_store();
    for n in 1.. {
        let place = copy_of(Some(&whole));
        let process = place.start();
        let (trace, inject) = killing_at(n);
        let pid = process.id().to_string();
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace runs");
        let says = BufReader::new(strace.stderr.take().expect("it is piped")).lines().next();
        let says = says.expect("it says something").expect("it is text");
        assert!(says.contains("attached"), "{says}");
        let done = used_until_it_dies(process);
        wait(&mut strace).expect("it ends with what it follows");
        // What was not acknowledged may have happened as well.
        is_started_again(&place, done < 2, done > 2);
        // Of what was left then, a name may be given anew, or a number.
        let process = place.start();
        assert_eq!(process.connect().call("DELETE", "/clear").status(), 200);
        process.signal("KILL");
        process.end();
        is_started_again(&place, false, false);
        if done > 3 {
            assert!(n > 10, "only {n} changes");
            break;
        }
    }
}

fn copy_of(whole: Option<&Place>) -> Place {
    let place = Place::new();
    if let Some(whole) = whole {
        copy_all(&whole.path(), &place.path());
    }
    place
}

/// How strace is told what to look at, and to kill at the `n`th such call of any
/// thread.
fn killing_at(n: usize) -> (String, String) {
    (format!("trace={CHANGES}"), format!("inject={CHANGES}:signal=KILL:when={n}"))
}

/// The program opens what is there, and has what it may have.
#[track_caller]
fn is_started_again(place: &Place, may_have_kept: bool, has_after: bool) {
    let process = place.start();
    let mut connection = process.connect();
    if !may_have_kept {
        says(&connection.get("/kv/kept"), 404, "key not found\n");
    }
    if has_after {
        holds(&mut connection, "after", b"x");
    }
    acknowledged(&mut connection, "new", b"x");
    ends_well(process);
}

/// Writes, clears and writes again, and stops it; how many of these it has
/// done.
fn used_until_it_dies(process: Process) -> usize {
    let mut done = 0;
    if let Ok(mut connection) = Connection::try_open(process.addr()) {
        for (method, target) in [("PUT", "/kv/before"), ("DELETE", "/clear"), ("PUT", "/kv/after")]
        {
            let body = if method == "PUT" { "x" } else { "" };
            let head = put_head(target, body.len()).replacen("PUT", method, 1);
            let sent = connection.try_send([&head, body].concat());
            let answer = sent.and_then(|()| connection.try_response_to(method));
            if !answer.is_ok_and(|answer| answer.status() == 200) {
                break;
            }
            done += 1;
        }
    }
    let has_ended_well = process.stop().0 == Some(0);
    if done == 3 && has_ended_well { 4 } else { done }
}
