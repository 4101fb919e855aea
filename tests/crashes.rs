//! The durable engine in the real program, which is killed while clients
//! write: what was acknowledged is there, what was not is there whole or not
//! at all, and no order of the calls is impossible.

#![cfg(unix)]

mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::history::{bytes_of, number_of};
use support::http::{Connection, Response, get_head, put_head, wait_until};
use support::linearizability::{Call, Operation, check, check_each_key};
use support::place::{Place, acknowledged, copy_all, ends_well, holds, says};
use support::process::{Process, command};
use support::random::Random;
use support::wrappers::{there_is, under_strace};

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
        let is_lost = answer.is_none();
        let saw = saw.into();
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
        Call::GetBoth(_) | Call::ExchangeBoth(..) | Call::Exchange(..) | Call::Take(_) => {
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

/// The same while it is written to, cleared and closed.
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
        strace.wait().expect("it ends with what it follows");
        // What was not acknowledged may have happened as well.
        is_started_again(&place, done < 2, done > 2);
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
