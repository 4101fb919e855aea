//! Imports over HTTP, on every engine: an export comes back, whatever is wrong is told
//! with what was stored before it, and nobody else is disturbed.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]
#![allow(clippy::indexing_slicing, reason = "a promise that panics is not kept")]

use crate::support::blocking::Blocking as _;
use crate::support::http::{Connection, Response, at_once, wait_until};
use crate::support::place::says;
use crate::support::promises::{Store, entry, fewer_if_slow, key, on_every_engine};
use crate::support::server::Fixture;
use little_key_value::server::Config;
use little_key_value::storage::{Done, Error, Memory, Op, Outcome, Storage, Time};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

on_every_engine! {
    an_export_comes_back
    a_bad_line_anywhere_is_told_and_those_before_it_are_stored
    a_body_that_ends_early_leaves_whole_lines
    many_are_imported_at_once
    an_import_that_is_slow_disturbs_nobody
    requests_of_a_connection_keep_their_order
}

/// The longest value of a test's server: less than any import has.
const VALUE_BYTES_MAX: u64 = 1000;

/// The entries of a piece.
const PIECE_ENTRIES: usize = 1000;

fn server_over(store: &Store) -> Fixture {
    Fixture::with(Arc::clone(store), VALUE_BYTES_MAX, &Fixture::config())
}

fn lines(numbers: Range<usize>) -> String {
    numbers.fold(String::new(), |mut lines, number| {
        writeln!(lines, "{{\"key\":\"{number:06}\",\"value\":\"x\"}}").expect("a text");
        lines
    })
}

/// The head of an import of so many bytes.
fn head_of(bytes: usize) -> String {
    format!("POST /import HTTP/1.1\r\nHost: test\r\nContent-Length: {bytes}\r\n\r\n")
}

/// The head of an import in chunks.
const CHUNKED: &str = "POST /import HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A body in chunks of so many bytes, with its end.
fn chunks(body: &[u8], bytes: usize) -> Vec<u8> {
    let mut chunked = Vec::new();
    for chunk in body.chunks(bytes) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    [&chunked, &b"0\r\n\r\n"[..]].concat()
}

fn import(server: &Fixture, body: impl AsRef<[u8]>) -> Response {
    server.connect().ask("POST", "/import", &[], body.as_ref())
}

fn count(server: &Fixture) -> usize {
    server.connect().get("/kv?count").text().trim_end().parse().expect("a number")
}

/// The number of keys there, and that those are the first.
#[track_caller]
fn first_there(connection: &mut Connection) -> usize {
    let list = connection.get("/kv");
    let keys: Vec<&str> = list.text().lines().collect();
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(*key, format!("{number:06}"), "of {}", keys.len());
    }
    keys.len()
}

fn an_export_comes_back(store: Store) {
    let (memory, later) = (Memory::new(), Time::now().after(Duration::from_secs(10_000)));
    let kinds = ["a/b", "S\u{e3}o", "\n\r\t\0\"\\", "%41 +&'*", "\u{1F511}\u{2028}\u{7f}"];
    for number in 0..fewer_if_slow(&store, 20_000) {
        let name = format!("{}{number}", kinds[number % kinds.len()]);
        let value = match number % 7 {
            0 => vec![0xff; 1 + number % 1000],
            1 => vec![b'"'; 1 + number % 1000],
            _ => name.clone().into_bytes(),
        };
        let mut entry = entry(value);
        if number % 3 == 0 {
            entry = entry.with_content_type(Some("image/png; a=\"b\"".into()));
        }
        if number % 5 == 0 {
            entry = entry.with_expiry(Some(later.after(Duration::from_millis(number as u64))));
        }
        memory.set(key(&name), entry).expect("there is room");
    }
    memory.set(key(&"k".repeat(1024)), entry("x")).expect("there is room");
    let from = Fixture::over(Arc::new(memory));
    let exported = from.connect().get("/kv?values").body;
    let entries = count(&from);
    let told = format!("{entries}\n");

    let server = server_over(&store);
    let mut connection = server.connect();
    says(&connection.ask("POST", "/import", &[], &exported), 200, &told);
    assert!(connection.get("/kv?values").body == exported);
    assert_eq!(connection.call("DELETE", "/clear").status(), 200);
    // The same connection goes on, in chunks as well.
    for bytes in [100_000, 777] {
        connection.send(CHUNKED);
        connection.send(chunks(&exported, bytes));
        says(&connection.response(), 200, &told);
    }
    assert!(connection.get("/kv?values").body == exported);
}

fn a_bad_line_anywhere_is_told_and_those_before_it_are_stored(store: Store) {
    let server = server_over(&store);
    for before in [0, 1, PIECE_ENTRIES - 1, PIECE_ENTRIES, PIECE_ENTRIES + 1, 2500] {
        let body = lines(0..before) + "{\"key\":\"bad\"}\n" + &lines(before..3000);
        let text = format!("line {}: the line has no value; {before} were stored\n", before + 1);
        says(&import(&server, &body), 400, &text);
        assert_eq!(first_there(&mut server.connect()), before);
        assert_eq!(server.connect().call("DELETE", "/clear").status(), 200);
    }
}

/// Sends the beginning of a body and no more, and reads the answer.
fn cut(server: &Fixture, head: &str, body: &[u8]) -> Response {
    let mut connection = server.connect();
    connection.send([head.as_bytes(), body].concat());
    connection.finish_sending();
    connection.response()
}

fn a_body_that_ends_early_leaves_whole_lines(store: Store) {
    let server = server_over(&store);
    let body = lines(0..2500);
    let line = lines(0..1).len();
    let head = head_of(body.len());
    let places = [0, 1, line - 1, line, line + 1, 10 * line - 1, 1000 * line, 2300 * line + 7];
    for at in places.into_iter().chain([body.len() - 1]) {
        let whole = at / line;
        let text = format!("the body ended early; {whole} were stored\n");
        says(&cut(&server, &head, &body.as_bytes()[..at]), 400, &text);
        assert_eq!(first_there(&mut server.connect()), whole, "cut at {at}");
        assert_eq!(server.connect().call("DELETE", "/clear").status(), 200);
    }
}

fn many_are_imported_at_once(store: Store) {
    const CLIENTS: usize = 50;
    let server = server_over(&store);
    let each = fewer_if_slow(&store, 1000);
    at_once(server.addr(), CLIENTS, |client, connection| {
        let body = lines(client * each..(client + 1) * each);
        for _ in 0..2 {
            let answer = connection.ask("POST", "/import", &[], body.as_bytes());
            says(&answer, 200, &format!("{each}\n"));
        }
    });
    assert_eq!(first_there(&mut server.connect()), CLIENTS * each);
}

fn an_import_that_is_slow_disturbs_nobody(store: Store) {
    let server = server_over(&store);
    let body = lines(0..1500);
    let (begun, rest) = body.split_at(body.len() / 2);
    // More than all the workers there are.
    let mut imports: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
    for connection in &mut imports {
        connection.send(head_of(body.len()));
        connection.send(begun);
    }
    let mut other = server.connect();
    for number in 0..100 {
        assert_eq!(other.put("/kv/other", b"x").status(), 200, "{number}");
        says(&other.get("/kv/other"), 200, "x");
    }
    // The next request of the same connection waits for its turn.
    for connection in &mut imports {
        connection.send(rest);
        connection.send("GET /kv/other HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    for connection in &mut imports {
        says(&connection.response(), 200, "1500\n");
        says(&connection.response(), 200, "x");
    }
}

fn requests_of_a_connection_keep_their_order(store: Store) {
    let server = server_over(&store);
    let mut connection = server.connect();
    let put = "PUT /kv/000000 HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nold";
    let import = head_of(lines(0..1).len()) + &lines(0..1);
    let get = "GET /kv/000000 HTTP/1.1\r\nHost: test\r\n\r\n";
    for _ in 0..30 {
        connection.send([put, &import, get, put, get].concat());
        for text in ["", "1\n", "x", "", "old"] {
            says(&connection.response(), 200, text);
        }
    }
}

#[test]
fn the_body_is_asked_for() {
    let server = Fixture::start();
    let expects = |head: &str| head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let (body, mut connection) = (lines(0..3), server.connect());
    connection.send(expects(&head_of(body.len())));
    assert_eq!(connection.response().status(), 100);
    connection.send(&body);
    says(&connection.response(), 200, "3\n");
    connection.send(expects(CHUNKED));
    assert_eq!(connection.response().status(), 100);
    connection.send(chunks(body.as_bytes(), 10));
    says(&connection.response(), 200, "3\n");
}

#[test]
fn a_storage_that_is_full_is_told_with_what_it_took() {
    let store: Store = Arc::new(Memory::with_max(3 << 20));
    let server = server_over(&store);
    let answer = import(&server, lines(0..100_000));
    let stored = first_there(&mut server.connect());
    assert!(stored >= PIECE_ENTRIES && stored.is_multiple_of(PIECE_ENTRIES), "{stored}");
    let text = format!("line {}: storage is full; {stored} were stored\n", stored + 1);
    says(&answer, 507, &text);
}

/// A memory whose batches wait at a gate, or panic.
struct Gated {
    memory: Memory,
    /// Nobody waits without one.
    gate: Option<crossbeam_channel::Receiver<()>>,
    batches: AtomicUsize,
}

impl Storage for Gated {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if matches!(op, Op::Each(_)) {
            self.batches.fetch_add(1, Ordering::SeqCst);
            assert!(self.gate.is_some(), "a batch");
            return Err(op);
        }
        self.memory.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        let (memory, gate) = (self.memory.clone(), self.gate.clone());
        thread::spawn(move || {
            gate.map(|gate| gate.recv());
            done(memory.perform(op));
        });
    }

    fn check(&self) -> Result<(), Error> {
        self.memory.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.memory.close()
    }
}

/// A server whose batches wait until the sender is dropped.
fn server_at_gate(config: &Config) -> (Fixture, Arc<Gated>, crossbeam_channel::Sender<()>) {
    let (opened, gate) = crossbeam_channel::unbounded();
    let (memory, batches) = (Memory::new(), AtomicUsize::new(0));
    let gated = Arc::new(Gated { memory, gate: Some(gate), batches });
    let store = Arc::clone(&gated) as Store;
    (Fixture::with(store, VALUE_BYTES_MAX, config), gated, opened)
}

#[test]
fn imports_that_wait_for_the_storage_keep_no_worker() {
    const CLIENTS: usize = 20;
    let (server, gated, opened) = server_at_gate(&Fixture::config());
    let body = lines(0..1500);
    let mut imports: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
    for connection in &mut imports {
        connection.send(head_of(body.len()) + &body);
    }
    wait_until("all wait", || gated.batches.load(Ordering::SeqCst) == CLIENTS);
    for _ in 0..10 {
        assert_eq!(server.connect().put("/kv/other", b"x").status(), 200);
    }
    drop(opened);
    for connection in &mut imports {
        says(&connection.response(), 200, "1500\n");
    }
}

#[test]
fn a_storage_that_panics_costs_nothing_but_the_import() {
    let (memory, batches) = (Memory::new(), AtomicUsize::new(0));
    let server = server_over(&(Arc::new(Gated { memory, gate: None, batches }) as Store));
    let mut connection = server.connect();
    let body = lines(0..PIECE_ENTRIES + 1);
    connection.send(head_of(body.len()) + &body);
    says(&connection.response(), 500, "internal error\n");
    assert_eq!(server.connect().put("/kv/other", b"x").status(), 200);
}

/// Promises that take a door and a watchdog.
#[cfg(all(target_os = "linux", not(portable)))]
mod watched {
    use super::*;
    use crate::support::engines;
    use crate::support::http::PATIENCE;
    use crate::support::process::Process;
    use crate::support::server::accepts;

    #[test]
    fn chunks_that_end_early_or_make_no_sense_leave_whole_lines() {
        let server = server_over(&engines::memory());
        let body = lines(0..12);
        let chunked = chunks(body.as_bytes(), 50);
        let early = "the body ended early";
        // A line has 28 bytes and a chunk 56, of which 50 are of lines.
        for (at, whole) in [(0, 0), (1, 0), (3, 0), (40, 1), (54, 1), (56, 1), (60, 1), (70, 2)] {
            let text = format!("{early}; {whole} were stored\n");
            says(&cut(&server, CHUNKED, &chunked[..at]), 400, &text);
        }
        // Without its last chunk it is not whole either.
        let text = format!("{early}; 12 were stored\n");
        says(&cut(&server, CHUNKED, &chunked[..chunked.len() - 5]), 400, &text);
        let text = "the chunks of the body make no sense; 1 were stored\n";
        for nonsense in ["zz\r\n", "\r\n", "-1\r\n"] {
            let mut connection = server.connect();
            connection.send([CHUNKED.as_bytes(), &chunked[..56], nonsense.as_bytes()].concat());
            says(&connection.response(), 400, text);
            connection.expect_closed();
        }
    }

    #[test]
    fn what_its_head_refuses_is_not_asked_for() {
        let server = server_over(&engines::memory());
        let mut connection = server.connect();
        let head = head_of(1 << 40).replace("import", "import?x");
        connection.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
        says(&connection.response(), 400, "unknown query parameter\n");
    }

    #[test]
    fn who_still_sends_is_told() {
        let server = server_over(&engines::memory());
        let mut connection = server.connect();
        connection.send(head_of(1 << 40) + "{}\n");
        for _ in 0..100 {
            connection.send(lines(0..5000));
        }
        let answer = connection.response();
        says(&answer, 400, "line 1: the line has no key; 0 were stored\n");
        assert_eq!(answer.header("Connection"), Some("close"));
        connection.expect_closed();
    }

    fn peak_mib(process: &Process) -> u64 {
        process.memory_mib("VmHWM")
    }

    #[test]
    fn a_line_of_a_hundred_mebibytes_takes_none_of_them() {
        const LINE_MIB: usize = 100;
        let process = Process::start(&["--max-value-size", "1MiB"]);
        let before = peak_mib(&process);
        for start in [&b"{\"key\":\"a\",\"value\":\""[..], b" ", b"{\"key\":\""] {
            let mut connection = process.connect();
            connection.send(head_of(LINE_MIB << 20));
            connection.send(start);
            let mebibyte = vec![b'x'; 1 << 20];
            // The last of it is not heard out for ever.
            (0..LINE_MIB).try_for_each(|_| connection.try_send(&mebibyte)).ok();
            says(&connection.response(), 413, "line 1: value is too large; 0 were stored\n");
        }
        let grown = peak_mib(&process) - before;
        assert!(grown < 30, "{grown} MiB");
    }

    #[test]
    fn imports_count_against_the_memory_limit() {
        const CLIENTS: usize = 50;
        let process = Process::start(&["--max-memory", "32MiB", "--max-value-size", "8MiB"]);
        let value = "x".repeat(7 << 20);
        let statuses = at_once(process.addr(), CLIENTS, |client, connection| {
            let body = format!("{{\"key\":\"{client}\",\"value\":\"{value}\"}}\n");
            let sent = connection.try_send(head_of(body.len()));
            // It may be refused meanwhile.
            sent.and_then(|()| connection.try_send(body)).ok();
            connection.try_response_to("POST").map_or(0, |answer| answer.status())
        });
        assert!(statuses.contains(&200), "{statuses:?}");
        // Who sends on for longer than a refusal is held open gets none.
        assert!(
            statuses.iter().all(|status| matches!(status, 0 | 200 | 503 | 507)),
            "{statuses:?}"
        );
        let peak = peak_mib(&process);
        assert!(peak < 32 + 32 + 64, "{peak} MiB at its peak");
        assert_eq!(process.connect().put("/kv/0", b"value").status(), 200);
    }

    #[test]
    fn what_was_stored_is_no_upload_any_more() {
        let process = Process::start(&["--max-memory", "16MiB"]);
        // Nobody who is alone is refused.
        let mut other = process.connect();
        other.send(head_of(1 << 20) + &lines(0..PIECE_ENTRIES + 100));
        let mut look = process.connect();
        wait_until("it is under way", || first_there(&mut look) == PIECE_ENTRIES);
        let line = format!("{{\"key\":\"a\",\"value\":\"{}\"}}\n", "x".repeat(64 << 10));
        let body = line.repeat(1000);
        let answer = process.connect().ask("POST", "/import", &[], body.as_bytes());
        says(&answer, 200, "1000\n");
        drop(other);
    }

    /// The time that a client is waited for: the server has read by then what was sent at
    /// once, on a busy machine too.
    const TIMEOUT: Duration = Duration::from_secs(3);

    /// A server whose clients have to be quick, and its store.
    fn server_in_a_hurry() -> (Fixture, Store) {
        let store = engines::memory();
        let config =
            Config { request_timeout: TIMEOUT, idle_timeout: TIMEOUT, ..Fixture::config() };
        (Fixture::with(Arc::clone(&store), VALUE_BYTES_MAX, &config), store)
    }

    #[test]
    fn one_that_stalls_is_told_of_the_whole_lines_that_came() {
        let line = lines(0..1).len();
        // In the first bytes, in a line, in a piece that is not full, and behind a full one.
        thread::scope(|scope| {
            for bytes in [0, line + 1, 100 * line + 7, (PIECE_ENTRIES + 10) * line] {
                let body = &lines(0..PIECE_ENTRIES + 10).into_bytes()[..bytes];
                let chunk = format!("{:x}\r\n", 2 * line * PIECE_ENTRIES);
                let known = [head_of(1 << 30).as_bytes(), body].concat();
                for request in [known, [CHUNKED.as_bytes(), chunk.as_bytes(), body].concat()] {
                    scope.spawn(move || stalls_behind(&request, bytes / line));
                }
            }
        });
    }

    /// The answer to that, behind which nothing comes, tells of so many lines.
    #[track_caller]
    fn stalls_behind(request: &[u8], whole: usize) {
        let (server, store) = server_in_a_hurry();
        let mut connection = server.connect();
        connection.send(request);
        let text = format!("the request took too long; {whole} were stored\n");
        says(&connection.response(), 408, &text);
        // Whoever was refused is not listened to.
        connection.try_send(lines(whole..3 * PIECE_ENTRIES)).ok();
        connection.expect_closed();
        server.stop();
        assert_eq!(first_there(&mut server_over(&store).connect()), whole);
    }

    #[test]
    fn one_that_waits_for_the_storage_is_not_cut() {
        let config = Config { request_timeout: TIMEOUT, ..Fixture::config() };
        let (server, gated, opened) = server_at_gate(&config);
        let mut connection = server.connect();
        let body = lines(0..PIECE_ENTRIES);
        connection.send(head_of(body.len()) + &body);
        wait_until("it waits", || gated.batches.load(Ordering::SeqCst) == 1);
        thread::sleep(2 * TIMEOUT);
        drop(opened);
        says(&connection.response(), 200, "1000\n");
    }

    #[test]
    fn one_under_way_is_finished_by_a_server_that_stops() {
        let store = engines::memory();
        let server = server_over(&store);
        let (addr, mut connection) = (server.addr(), server.connect());
        let body = lines(0..2500);
        let (begun, rest) = body.split_at(body.len() / 2);
        connection.send(head_of(body.len()) + begun);
        wait_until("it is under way", || count(&server) == PIECE_ENTRIES);
        thread::scope(|scope| {
            scope.spawn(|| server.stop());
            wait_until("nobody accepts any more", || !accepts(addr));
            connection.send(rest);
            let answer = connection.response();
            says(&answer, 200, "2500\n");
            assert_eq!(answer.header("Connection"), Some("close"));
        });
    }

    #[test]
    fn one_that_is_stuck_is_left_behind_at_the_shutdown_timeout() {
        const TIMEOUT: Duration = Duration::from_millis(500);
        let process = Process::start(&["--shutdown-timeout", "500ms"]);
        let mut connection = process.connect();
        connection.send(head_of(1 << 30) + &lines(0..1500));
        let mut other = process.connect();
        wait_until("it is under way", || first_there(&mut other) == PIECE_ENTRIES);
        let since = std::time::Instant::now();
        let (code, log) = process.stop();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("left behind"), "{log}");
        assert!((TIMEOUT..PATIENCE).contains(&since.elapsed()), "{:?}", since.elapsed());
        connection.expect_closed();
    }

    #[test]
    fn one_that_is_killed_leaves_whole_pieces() {
        use crate::support::place::{Place, ends_well};

        const LINES: usize = 200_000;
        let body = lines(0..LINES);
        for pieces in [1, 5] {
            let place = Place::new();
            let process = place.start();
            let mut connection = process.connect();
            let mut other = process.connect();
            thread::scope(|scope| {
                let _killed = process.killed_by_a_panic();
                let sent = scope.spawn(|| {
                    // Until it is gone.
                    connection.try_send(head_of(2 * body.len()) + &body).ok();
                });
                wait_until("some are stored", || {
                    let count = other.get("/kv?count");
                    let count: usize = count.text().trim_end().parse().expect("a number");
                    count >= pieces * PIECE_ENTRIES
                });
                process.signal("KILL");
                sent.join().expect("a client ends");
            });
            process.end();
            let process = place.start();
            let there = first_there(&mut process.connect());
            assert!(there >= pieces * PIECE_ENTRIES, "{there}");
            assert!(there.is_multiple_of(PIECE_ENTRIES), "{there}");
            ends_well(process);
        }
    }
}
