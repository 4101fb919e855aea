//! Answers that are made while they are sent: the list of all keys. Its framing and
//! its end, and the clients who do not take it, take it slowly, or leave.

use crate::support::blocking::Blocking as _;
use crate::support::http::{get_head, wait_until};
use crate::support::server::{Fixture, VALUE_BYTES_MAX};
use little_key_value::server::Config;
use little_key_value::storage::{
    Done, Effect, Entry, Error, Key, Listing, Memory, Moment, Op, Outcome, Start, Storage,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

/// The most keys of a part.
const PART_KEYS: usize = 1000;

const OLD: &str = "GET /kv HTTP/1.0\r\n\r\n";

/// A memory whose list goes on, if it is to, and counts its pages.
struct Listed {
    memory: Memory,
    /// After its end it begins anew.
    is_endless: bool,
    pages: AtomicUsize,
    /// This page cannot be read.
    fault: Option<usize>,
    /// Pages wait here.
    gate: Option<crossbeam_channel::Receiver<()>>,
    /// The moments that were held.
    held: Mutex<Vec<Weak<()>>>,
}

impl Listed {
    /// So many keys, which begin with their number.
    fn of(keys: usize) -> Self {
        let memory = Memory::new();
        for number in 0..keys {
            let key = Key::new(key(number)).expect("a key");
            memory.set(key, Entry::new(Vec::new().into())).expect("there is room");
        }
        let (pages, held) = (AtomicUsize::new(0), Mutex::default());
        Self { memory, is_endless: false, pages, fault: None, gate: None, held }
    }

    /// The moment for the pages behind the one of a listing.
    fn moment_after(&self, listing: &Listing) -> Moment {
        if listing.moment == Moment::Hold {
            let moment = Arc::new(());
            self.held.lock().expect("no panic").push(Arc::downgrade(&moment));
            Moment::Held(moment)
        } else {
            listing.moment.clone()
        }
    }

    /// How many moments were held, and how many still are.
    fn held(&self) -> [usize; 2] {
        let held = self.held.lock().expect("no panic");
        [held.len(), held.iter().filter(|moment| moment.strong_count() > 0).count()]
    }

    fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }
}

impl Storage for Listed {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if matches!(op, Op::List(_)) { Err(op) } else { self.memory.try_now(op) }
    }

    fn submit(&self, op: Op, done: Done) {
        let Op::List(listing) = &op else { return self.memory.submit(op, done) };
        let moment = self.moment_after(listing);
        let page = self.pages.fetch_add(1, Ordering::Relaxed);
        if self.fault == Some(page) {
            return done(Err(Error::Overloaded));
        }
        let (memory, is_endless) = (self.memory.clone(), self.is_endless);
        let read = move || {
            done(memory.perform(op).map(|effect| {
                let Effect::Listed(mut page) = effect else { unreachable!("a list lists") };
                if is_endless {
                    page.next.get_or_insert(Start::First);
                }
                if page.next.is_some() {
                    page.moment = moment;
                }
                Effect::Listed(page)
            }));
        };
        match self.gate.clone().filter(|_| page > 0) {
            // A thread of its own, as no storage keeps its caller waiting.
            Some(gate) => drop(thread::spawn(move || {
                gate.recv().ok();
                read();
            })),
            None => read(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.memory.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.memory.close()
    }
}

/// Nearly as long as keys may be, so that a part has nearly a mebibyte.
fn key(number: usize) -> String {
    format!("{number:06}{}", "x".repeat(1000))
}

/// The lines of so many keys.
fn lines(keys: usize) -> String {
    (0..keys).map(|number| key(number) + "\n").collect()
}

fn server_with(listed: Listed, change: impl FnOnce(&mut Config)) -> (Fixture, Arc<Listed>) {
    let (mut config, listed) = (Fixture::config(), Arc::new(listed));
    change(&mut config);
    let store = Arc::clone(&listed) as Arc<dyn Storage>;
    (Fixture::with(store, VALUE_BYTES_MAX, &config), listed)
}

fn server_over(listed: Listed) -> Fixture {
    server_with(listed, |_| {}).0
}

#[test]
fn a_part_is_a_chunk() {
    let server = server_over(Listed::of(2 * PART_KEYS + 1));
    let mut connection = server.connect();
    connection.send("GET /kv HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let head = connection.try_head().expect("an answer");
    assert_eq!(head.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(head.header("Content-Length"), None);
    let lines = lines(2 * PART_KEYS + 1);
    let (first, rest) = lines.split_at(PART_KEYS * key(0).len() + PART_KEYS);
    let (second, third) = rest.split_at(first.len());
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    let expected = [first, second, third].map(chunk).concat() + "0\r\n\r\n";
    let body = connection.rest().expect("all of it");
    assert!(body == expected.as_bytes(), "{} bytes, not {}", body.len(), expected.len());
}

#[test]
fn a_list_of_one_part_is_whole() {
    for keys in [0, 1, PART_KEYS - 1] {
        let server = server_over(Listed::of(keys));
        let mut connection = server.connect();
        for _ in 0..2 {
            let answer = connection.get("/kv");
            assert_eq!(answer.header("Transfer-Encoding"), None, "{keys} keys");
            assert!(answer.header("Content-Length").is_some(), "{keys} keys");
            assert!(answer.text() == lines(keys), "{keys} keys");
        }
    }
}

#[test]
fn for_an_old_client_it_ends_with_the_connection() {
    let server = server_over(Listed::of(5 * PART_KEYS));
    let stays = "Connection: keep-alive\r\n";
    // Without a door the library keeps such a connection open.
    let fields =
        if cfg!(all(target_os = "linux", not(portable))) { &["", stays][..] } else { &[""] };
    for field in fields {
        let mut connection = server.connect();
        connection.send(format!("GET /kv HTTP/1.0\r\n{field}\r\n"));
        let answer = connection.response();
        assert_eq!(answer.header("Transfer-Encoding"), None);
        assert_eq!(answer.header("Content-Length"), None);
        assert_eq!(answer.header("Connection"), Some("close"));
        assert!(answer.text() == lines(5 * PART_KEYS));
    }
}

#[test]
fn what_is_pipelined_behind_it_is_answered_after_it() {
    let server = server_over(Listed::of(3 * PART_KEYS));
    let mut connection = server.connect();
    let requests = ["/healthz", "/kv", "/kv/none", "/kv", "/healthz"];
    for _ in 0..3 {
        connection.send(requests.map(get_head).concat());
        assert_eq!(connection.response().status(), 200);
        assert!(connection.response().text() == lines(3 * PART_KEYS));
        assert_eq!(connection.response().status(), 404);
        assert!(connection.response().text() == lines(3 * PART_KEYS));
        assert_eq!(connection.response().status(), 200);
    }
}

#[test]
fn the_head_alone_reads_nothing() {
    let (server, listed) = server_with(Listed::of(3 * PART_KEYS), |_| {});
    let mut connection = server.connect();
    let answer = connection.call("HEAD", "/kv");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("Content-Length"), None);
    assert_eq!(connection.get("/healthz").status(), 200);
    assert_eq!(listed.pages(), 0);
}

#[test]
fn a_client_who_leaves_ends_it() {
    let endless = Listed { is_endless: true, ..Listed::of(PART_KEYS) };
    let (server, listed) = server_with(endless, |_| {});
    for head in [get_head("/kv"), OLD.to_owned()] {
        let mut connection = server.connect();
        connection.send(head);
        assert_eq!(connection.try_head().expect("a head").status(), 200);
        drop(connection);
        let mut before = usize::MAX;
        wait_until("no page is read", || {
            thread::sleep(Duration::from_millis(200));
            let last = std::mem::replace(&mut before, listed.pages());
            last == before
        });
    }
    // Not because it cannot.
    let before = listed.pages();
    let mut connection = server.connect();
    connection.send(get_head("/kv"));
    assert_eq!(connection.try_head().expect("a head").status(), 200);
    assert!(listed.pages() > before);
}

#[test]
fn all_values_are_read_at_one_moment_which_is_let_go_with_the_last() {
    let (server, listed) = server_with(Listed::of(3 * PART_KEYS), |_| {});
    let mut connection = server.connect();
    for target in ["/kv", "/kv?values&limit=2000", "/kv?limit=10", "/kv?count", "/kv?delimiter=/"] {
        assert_eq!(connection.get(target).status(), 200);
        assert_eq!(listed.held(), [0, 0], "{target}");
    }
    for (lists, target) in (1..).zip(["/kv?values", "/kv?values&reverse", "/kv?values&prefix=00"]) {
        let answer = connection.get(target);
        assert_eq!(answer.text().lines().count(), 3 * PART_KEYS, "{target}");
        wait_until("none is held", || listed.held() == [lists, 0]);
    }
}

#[test]
fn the_moment_of_a_list_that_breaks_off_is_let_go() {
    let listed = Listed { fault: Some(2), ..Listed::of(5 * PART_KEYS) };
    let (server, listed) = server_with(listed, |_| {});
    let mut connection = server.connect();
    connection.send(get_head("/kv?values"));
    assert_eq!(connection.try_head().expect("a head").status(), 200);
    connection.rest().ok();
    wait_until("none is held", || listed.held() == [1, 0]);
}

#[test]
fn the_moment_of_a_list_is_let_go_once_its_client_leaves() {
    let endless = Listed { is_endless: true, ..Listed::of(PART_KEYS) };
    let (server, listed) = server_with(endless, |_| {});
    for (lists, request) in (1..).zip([get_head("/kv?values"), OLD.replace("/kv", "/kv?values")]) {
        let mut connection = server.connect();
        connection.send(request);
        assert_eq!(connection.try_head().expect("a head").status(), 200);
        assert_eq!(listed.held(), [lists, 1]);
        drop(connection);
        wait_until("none is held", || listed.held() == [lists, 0]);
    }
}

/// Promises that take a hold on the sockets.
#[cfg(all(target_os = "linux", not(portable)))]
mod watched {
    use super::*;
    use crate::support::engines;
    use crate::support::http::{Connection, PATIENCE, put_head};
    use crate::support::process::Process;
    use crate::support::server::accepts;
    use little_key_value::storage::BatchOp;
    use std::collections::HashSet;
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::Instant;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn endless_server() -> (Fixture, Arc<Listed>) {
        let endless = Listed { is_endless: true, ..Listed::of(PART_KEYS) };
        server_with(endless, |config| config.request_timeout = TIMEOUT)
    }

    /// A client with a small receive buffer, whose server therefore has a small one.
    fn ask(server: &Fixture, request: &str) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(2048).expect("a socket takes a buffer size");
        socket.connect(&server.addr().into()).expect("the server accepts");
        let mut client = TcpStream::from(socket);
        client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        client.write_all(request.as_bytes()).expect("the server takes a head");
        client
    }

    #[test]
    fn a_list_that_breaks_off_has_no_end() {
        let listed = Listed { fault: Some(2), ..Listed::of(3 * PART_KEYS) };
        let server = server_over(listed);
        let mut connection = server.connect();
        connection.send(get_head("/kv") + &get_head("/healthz"));
        assert_eq!(connection.try_head().expect("a head").status(), 200);
        let body = connection.rest().expect("an orderly end");
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let lines = lines(2 * PART_KEYS);
        let (first, second) = lines.split_at(lines.len() / 2);
        assert!(body == (chunk(first) + &chunk(second)).as_bytes());
        assert_eq!(server.connect().get("/healthz").status(), 200);
    }

    #[test]
    fn a_server_that_stops_goes_on_with_it_to_the_end() {
        let (open, gate) = crossbeam_channel::bounded(0);
        let listed = Listed { gate: Some(gate), ..Listed::of(4 * PART_KEYS) };
        let server = server_over(listed);
        let addr = server.addr();
        let mut connection = server.connect();
        connection.send(get_head("/kv"));
        assert_eq!(connection.try_head().expect("a head").status(), 200);
        thread::scope(|scope| {
            scope.spawn(|| server.stop());
            wait_until("nobody accepts any more", || !accepts(addr));
            drop(open);
            let body = connection.rest().expect("an orderly end");
            assert!(body.ends_with(b"x\n\r\n0\r\n\r\n"), "{} bytes", body.len());
            assert!(body.len() > lines(4 * PART_KEYS).len());
        });
    }

    #[test]
    fn clients_who_do_not_take_it_are_cut_and_disturb_nobody() {
        let (server, listed) = endless_server();
        let requests = [get_head("/kv"), OLD.to_owned()];
        let ask = |request: &String| ask(&server, request);
        let mut deaf: Vec<TcpStream> = requests.iter().cycle().take(100).map(ask).collect();
        let mut connection = server.connect();
        wait_until("all are cut", || {
            assert_eq!(connection.get("/healthz").status(), 200);
            assert_eq!(connection.get("/kv/none").status(), 404);
            deaf.retain(|client| client.take_error().is_ok_and(|err| err.is_none()));
            deaf.is_empty()
        });
        let pages = listed.pages();
        assert_eq!(connection.get("/healthz").status(), 200);
        assert_eq!(listed.pages(), pages, "pages for those who were cut");
    }

    #[test]
    fn a_client_who_takes_a_few_bytes_a_second_is_cut() {
        let (server, _) = endless_server();
        for request in [get_head("/kv"), OLD.to_owned()] {
            let mut client = ask(&server, &request);
            let end = Instant::now() + PATIENCE;
            let err = loop {
                assert!(Instant::now() < end, "it is not cut");
                thread::sleep(Duration::from_millis(100));
                match client.read(&mut [0; 500]) {
                    Ok(0) => panic!("that looks like the end of the list"),
                    Ok(_) => {}
                    Err(err) => break err,
                }
            };
            assert_eq!(err.kind(), ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn the_moment_of_a_list_is_let_go_once_its_client_is_cut() {
        let (server, listed) = endless_server();
        let client = ask(&server, &get_head("/kv?values"));
        wait_until("a page is read", || listed.held() == [1, 1]);
        wait_until("none is held", || listed.held() == [1, 0]);
        drop(client);
    }

    /// Whatever is written while a slow client takes it.
    #[test]
    fn an_export_of_a_durable_store_is_of_one_moment() {
        const KEYS: usize = 700;
        let store = engines::durable();
        let write = |round: usize| {
            // All of them always have the same value.
            let value = format!("{round:04}").repeat(2000);
            let set = |key: String| {
                let key = Key::new(key).expect("a key");
                (key, BatchOp::Set(Entry::new(value.clone().into())))
            };
            let mut ops: Vec<_> = (0..KEYS).map(|number| set(format!("{number:03}"))).collect();
            // And there is one for each round.
            ops.push(set(format!("round {round:04}")));
            let before = Key::new(format!("round {:04}", round - 1)).expect("a key");
            ops.push((before, BatchOp::Delete));
            store.batch(ops).expect("the engine writes");
        };
        write(1);
        let server = Fixture::over(Arc::clone(&store));
        let mut client = ask(&server, &get_head("/kv?values"));
        let mut answer = vec![0; 1000];
        client.read_exact(&mut answer).expect("the list begins");
        // The first page was read, and no more than fits between the two.
        (2..30).for_each(write);
        let mut piece = vec![0; 64 << 10];
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            let bytes = client.read(&mut piece).expect("the list goes on");
            assert!(bytes > 0, "it breaks off");
            answer.extend_from_slice(&piece[..bytes]);
        }
        let text = String::from_utf8(answer).expect("text");
        let lines: Vec<&str> = text.split("{\"key\":").skip(1).collect();
        assert_eq!(lines.len(), KEYS + 1);
        let value_of = |line: &&str| Some(line.split_once(",\"value\":\"")?.1[..4].to_owned());
        let values: HashSet<_> = lines.iter().map(value_of).collect();
        assert_eq!(values, HashSet::from([Some("0001".to_owned())]));
        assert!(lines.last().is_some_and(|line| line.starts_with("\"round 0001\"")));
    }

    #[test]
    fn a_client_who_is_slow_and_takes_it_is_not_cut() {
        // On a busy machine its small buffer makes it slow enough by itself.
        const LONG: Duration = Duration::from_secs(8);
        let endless = Listed { is_endless: true, ..Listed::of(PART_KEYS) };
        let (server, _) = server_with(endless, |config| config.request_timeout = LONG);
        let mut client = ask(&server, &get_head("/kv"));
        let mut piece = vec![0; 2 << 20];
        let end = Instant::now() + 5 * LONG / 2;
        while Instant::now() < end {
            client.read_exact(&mut piece).expect("the list goes on");
            thread::sleep(LONG / 16);
        }
    }

    #[test]
    fn a_client_who_waits_for_the_storage_is_not_cut() {
        let (open, gate) = crossbeam_channel::bounded(0);
        let listed = Listed { gate: Some(gate), ..Listed::of(2 * PART_KEYS) };
        let (server, _) = server_with(listed, |config| config.request_timeout = TIMEOUT);
        let mut connection = server.connect();
        connection.send(get_head("/kv"));
        // It takes all that there is, at least until the storage is at work again.
        let answer = thread::scope(|scope| {
            let taking = scope.spawn(|| connection.response());
            thread::sleep(2 * TIMEOUT);
            drop(open);
            taking.join().expect("a client ends well")
        });
        assert!(answer.text() == lines(2 * PART_KEYS));
    }

    #[test]
    fn a_list_without_end_is_left_behind_at_the_shutdown_timeout() {
        const SHUTDOWN: Duration = Duration::from_millis(700);
        let endless = Listed { is_endless: true, ..Listed::of(PART_KEYS) };
        let (server, _) = server_with(endless, |config| config.shutdown_timeout = SHUTDOWN);
        let mut client = ask(&server, &get_head("/kv"));
        client.read_exact(&mut [0; 17]).expect("the beginning of a head");
        let taking = thread::spawn(move || {
            let mut piece = vec![0; 64 * 1024];
            while client.read(&mut piece).is_ok_and(|bytes| bytes > 0) {}
        });
        let since = Instant::now();
        server.stop();
        assert!(since.elapsed() >= SHUTDOWN, "it was not waited for");
        drop(taking);
    }

    /// The end of the stream would say that it was whole.
    #[test]
    fn a_server_that_is_killed_resets_an_old_client_who_has_half_of_it() {
        const KEYS: usize = 20 * PART_KEYS;
        let process = Process::start(&[]);
        let mut connection = process.connect();
        for first in (0..KEYS).step_by(100) {
            let put = |number| put_head(&format!("/kv/{}", key(number)), 1) + "x";
            connection.send((first..first + 100).map(put).collect::<String>());
            for number in first..first + 100 {
                assert_eq!(connection.response().status(), 200, "{number}");
            }
        }
        let mut client = Connection::open(process.addr());
        client.send(OLD);
        assert_eq!(client.try_head().expect("a head").status(), 200);
        process.signal("KILL");
        let end = client.rest().expect_err("no orderly end");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    }
}
