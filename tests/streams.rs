//! Streams, which go on until their client leaves: a watcher costs no thread, and nobody
//! else anything, whatever it does or does not.

#![cfg(all(target_os = "linux", not(portable)))]
#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use crate::support::http::{
    Connection, PATIENCE, Response, at_once, get_head, put_head, wait_until,
};
use crate::support::process::Process;
use crate::support::threads::Ended;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A watcher whose stream has begun.
struct Watcher {
    connection: Connection,
    head: Response,
    /// Lines that have come and were not read.
    unread: String,
}

impl Watcher {
    /// Watches a key, and is told so.
    fn of(process: &Process, key: &str) -> Self {
        Self::on(process.connect(), key)
    }

    fn on(mut connection: Connection, key: &str) -> Self {
        connection.send(get_head(&target(key)));
        Self::begun(connection)
    }

    /// One that has sent its request.
    fn begun(mut connection: Connection) -> Self {
        let head = connection.try_head().expect("a stream begins");
        assert_eq!(head.status(), 200);
        let mut watcher = Self { connection, head, unread: String::new() };
        watcher.expect("ready", "");
        watcher
    }

    /// The next line; `None` at the end of the stream, which is in good order.
    fn line(&mut self) -> Option<String> {
        while !self.unread.contains('\n') {
            let chunk = self.connection.try_chunk().expect("a stream that goes on or ends well");
            if chunk.is_empty() {
                assert_eq!(self.unread, "", "a line is whole");
                return None;
            }
            self.unread += std::str::from_utf8(&chunk).expect("lines of text");
        }
        let (line, rest) = self.unread.split_once('\n').expect("there is a line");
        let (line, rest) = (line.to_owned(), rest.to_owned());
        self.unread = rest;
        Some(line)
    }

    /// Reads a line, which tells of that. While nothing happens it is told again that all
    /// was told.
    #[track_caller]
    fn expect(&mut self, event: &str, key: &str) {
        let mut line = self.line().expect("the stream goes on");
        while event != "ready" && line.starts_with("ready ") {
            line = self.line().expect("the stream goes on");
        }
        let told: Vec<&str> = line.split(' ').collect();
        match *told {
            [told, _id] => assert_eq!((told, ""), (event, key)),
            [told, _id, of] => assert_eq!((told, of), (event, key)),
            _ => panic!("no line of a stream: {line}"),
        }
    }

    /// Reads to the end of the stream and of the connection: changes, and up to where all
    /// was told.
    fn expect_end(mut self, key: &str) {
        let mut lines: Vec<String> = std::iter::from_fn(|| self.line()).collect();
        self.connection.expect_closed();
        lines.pop_if(|line| line.starts_with("ready "));
        for line in lines {
            assert!(line.starts_with("put ") && line.ends_with(&format!(" {key}")), "{line}");
        }
    }
}

fn target(key: &str) -> String {
    format!("/watch?key={key}")
}

/// Has this process have as many descriptors as it may.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("it may");
}

fn threads(process: &Process) -> usize {
    entries(process, "task")
}

fn descriptors(process: &Process) -> usize {
    entries(process, "fd")
}

fn entries(process: &Process, of: &str) -> usize {
    fs::read_dir(format!("/proc/{}/{of}", process.id())).expect("it runs").count()
}

/// A client that reads nothing unless asked to, with a receive buffer of the smallest and
/// segments as they come over Ethernet: that makes the server's send buffer small too.
fn deaf(addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(2048).expect("a socket takes a buffer size");
    socket.set_tcp_mss(1460).expect("a socket takes a segment size");
    socket.connect_timeout(&addr.into(), PATIENCE).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    socket.into()
}

#[test]
fn a_stream_costs_one_descriptor_and_no_thread() {
    const WATCHERS: usize = 500;
    raise_limit();
    let process = Process::start(&[]);
    // The first ones start threads that stay.
    let mut first: Vec<Watcher> = (0..8).map(|_| Watcher::of(&process, "key")).collect();
    assert_eq!(process.connect().put("/kv/key", b"value").status(), 200);
    for watcher in &mut first {
        watcher.expect("put", "key");
        assert_eq!(watcher.head.header("Connection"), Some("close"));
    }
    let least = descriptors(&process);
    drop(first);
    wait_until("they have left", || descriptors(&process) <= least - 8);
    let (few_threads, few_descriptors) = (threads(&process), descriptors(&process));

    let begin = |number| {
        let mut connection = process.connect();
        // Nobody reads on for those who send more.
        let behind = if number % 2 == 0 { put_head("/kv/behind", 9) } else { String::new() };
        connection.send(get_head(&target("key")) + &behind);
        Watcher::begun(connection)
    };
    let mut watchers: Vec<Watcher> = (0..WATCHERS).map(begin).collect();
    // As many threads wait for others of these, as tiny_http has it.
    wait_until("their threads are gone", || threads(&process) <= few_threads + 4);
    wait_until("so are their descriptors", || {
        descriptors(&process) <= few_descriptors + WATCHERS + 1
    });
    assert_eq!(process.connect().put("/kv/key", b"value").status(), 200);
    for watcher in &mut watchers {
        watcher.expect("put", "key");
    }

    // Half of them say so, and the others do not.
    for watcher in watchers.drain(..WATCHERS / 2) {
        watcher.connection.reset();
    }
    wait_until("they have left", || descriptors(&process) <= few_descriptors + WATCHERS / 2 + 1);
    drop(watchers);
    wait_until("all have left", || descriptors(&process) <= few_descriptors + 1);
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn streams_use_up_no_connections() {
    const WATCHERS: usize = 200;
    raise_limit();
    // Those that have been closed may be there yet when the last one comes.
    let process = Process::start(&["--max-connections", "21"]);
    let mut watchers: Vec<Watcher> = (0..WATCHERS).map(|_| Watcher::of(&process, "key")).collect();
    at_once(process.addr(), 20, |client, connection| {
        for _ in 0..20 {
            assert_eq!(connection.put(&format!("/kv/{client}"), b"value").status(), 200);
        }
    });
    assert_eq!(process.connect().put("/kv/key", b"value").status(), 200);
    for watcher in &mut watchers {
        watcher.expect("put", "key");
    }
    assert!(!process.log().contains("as many as may be"), "{}", process.log());
}

#[test]
fn past_the_most_watchers_another_is_refused() {
    let process = Process::start(&["--max-watchers", "3"]);
    let mut watchers: Vec<Watcher> = (0..3).map(|_| Watcher::of(&process, "key")).collect();
    for _ in 0..10 {
        let mut another = process.connect();
        let refusal = another.get(&target("key"));
        assert_eq!((refusal.status(), refusal.text()), (503, "too many watchers, try again\n"));
        assert_eq!(refusal.header("Retry-After"), Some("1"));
        assert_eq!(refusal.header("Connection"), Some("close"));
        another.expect_closed();
    }
    assert_eq!(process.connect().put("/kv/key", b"value").status(), 200);
    for watcher in &mut watchers {
        watcher.expect("put", "key");
    }
    watchers.pop();
    wait_until("there is room again", || {
        let mut another = process.connect();
        another.send(get_head(&target("key")));
        another.try_head().is_ok_and(|head| head.status() == 200)
    });
}

#[test]
fn a_stream_is_the_last_answer_of_its_connection() {
    let process = Process::start(&[]);
    let mut connection = process.connect();
    let put = |key: &str| put_head(&format!("/kv/{key}"), 1) + "x";
    connection.send(put("before") + &get_head(&target("key")) + &put("behind"));
    assert_eq!(connection.response().status(), 200);
    let mut watcher = Watcher::begun(connection);
    assert_eq!(watcher.head.header("Connection"), Some("close"));
    let mut client = process.connect();
    for _ in 0..3 {
        watcher.connection.send(put("behind"));
        client.put("/kv/key", b"value");
        watcher.expect("put", "key");
    }
    assert_eq!(client.get("/kv/before").status(), 200);
    assert_eq!(client.get("/kv/behind").status(), 404);
    drop(client);
    process.signal("TERM");
    watcher.expect("ready", "");
    assert_eq!(watcher.line(), None);
    // What it has sent in vain may make this a reset.
    watcher.connection.end().expect("no answer comes behind");
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn a_client_that_ends_its_side_has_its_stream_end() {
    let process = Process::start(&[]);
    let without = descriptors(&process);
    // What is unread does not hide the end behind it.
    for unread in [0, 100, 2_000_000] {
        let mut watcher = Watcher::of(&process, "key");
        watcher.connection.send(vec![b'x'; unread]);
        watcher.connection.finish_sending();
        watcher.expect_end("key");
    }
    wait_until("they have left", || descriptors(&process) <= without + 4);
}

#[test]
fn a_stream_to_an_old_client_ends_with_the_connection() {
    let process = Process::start(&[]);
    let mut client = TcpStream::connect(process.addr()).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    write!(client, "GET {} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", target("key"))
        .expect("it reads");
    let mut text = String::new();
    let mut read_until = |end: &str| {
        while !text.ends_with(end) {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("the stream goes on");
            text.push(byte[0].into());
        }
        text.clone()
    };
    read_until("\r\n\r\nready ");
    assert_eq!(process.connect().put("/kv/key", b"value").status(), 200);
    let text = read_until(" key\n");
    assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
    assert!(!text.contains("Transfer-Encoding"), "{text}");
    process.signal("TERM");
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("an end in good order");
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn all_streams_end_well_with_the_server() {
    const WATCHERS: usize = 100;
    let process = Process::start(&[]);
    let mut parked: Vec<Watcher> = (0..WATCHERS).map(|_| Watcher::of(&process, "quiet")).collect();
    let busy: Vec<Watcher> = (0..8).map(|_| Watcher::of(&process, "busy")).collect();
    let is_over = AtomicBool::new(false);
    let mut client = process.connect();
    thread::scope(|scope| {
        let ended = Ended(&is_over);
        // Changes until the end, so that these never wait.
        let writing = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                client.try_send(put_head("/kv/busy", 1) + "x").ok();
                if client.try_response_to("PUT").is_err() {
                    break;
                }
            }
        });
        let reading: Vec<_> = busy
            .into_iter()
            .map(|mut watcher| {
                watcher.expect("put", "busy");
                scope.spawn(|| watcher.expect_end("busy"))
            })
            .collect();
        process.signal("TERM");
        for watcher in parked.drain(..) {
            watcher.expect_end("quiet");
        }
        for reader in reading {
            reader.join().expect("its stream ends well");
        }
        drop(ended);
        writing.join().expect("a writer ends");
    });
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("left behind"), "{log}");
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_others_go_on() {
    let process = Process::start(&["--request-timeout", "1s"]);
    // Long lines fill the buffers soon.
    let key = "k".repeat(1000);
    let mut silent = Watcher::of(&process, "quiet");
    let mut deaf = deaf(process.addr());
    deaf.write_all(get_head(&target(&key)).as_bytes()).expect("it reads");
    let mut watcher = Watcher::of(&process, &key);
    let mut writer = process.connect();
    wait_until("the deaf one is cut", || {
        assert_eq!(writer.put(&format!("/kv/{key}"), b"value").status(), 200);
        watcher.expect("put", &key);
        SockRef::from(&deaf).take_error().expect("a socket tells its error").is_some()
    });
    // To have nothing to be told of is no silence.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(writer.put("/kv/quiet", b"value").status(), 200);
    silent.expect("put", "quiet");
    assert_eq!(writer.put(&format!("/kv/{key}"), b"value").status(), 200);
    watcher.expect("put", &key);
}

#[test]
fn a_slow_watcher_is_told_of_all_in_order_or_is_cut() {
    const CHANGES: usize = 8000;
    for (history, is_long) in [("64MiB", true), ("64KiB", false)] {
        let process = Process::start(&["--history", history, "--request-timeout", "10m"]);
        let prefix = "k".repeat(1000);
        let mut deaf = deaf(process.addr());
        let head = format!("GET /watch?prefix={prefix} HTTP/1.1\r\nHost: test\r\n\r\n");
        deaf.write_all(head.as_bytes()).expect("it reads");
        let mut begun = [0; 17];
        deaf.read_exact(&mut begun).expect("a stream begins");
        let mut quick = Watcher::of(&process, &format!("{prefix}{}", CHANGES - 1));
        let mut writer = process.connect();
        for number in 0..CHANGES {
            assert_eq!(writer.put(&format!("/kv/{prefix}{number}"), b"x").status(), 200);
        }
        quick.expect("put", &format!("{prefix}{}", CHANGES - 1));
        // More than both sockets take is left: it reads on now.
        let mut text = String::new();
        let mut piece = vec![0; 64 * 1024];
        let last = format!("{prefix}{}\n", CHANGES - 1);
        // The last one is in the latest piece, or begins in the one before.
        while !text[text.len().saturating_sub(piece.len() + last.len())..].contains(&last) {
            match deaf.read(&mut piece) {
                Ok(0) => break,
                Err(err) if err.kind() == ErrorKind::ConnectionReset => break,
                bytes => {
                    let bytes = bytes.expect("it goes on, or ends");
                    text += std::str::from_utf8(&piece[..bytes]).expect("text");
                }
            }
        }
        let told = text.split("put ").skip(1).map(|line| {
            let (_, number) = line.split_once(&prefix)?;
            number.split_once('\n')?.0.parse::<usize>().ok()
        });
        let told: Vec<usize> = told.map_while(|number| number).collect();
        assert_eq!(told, (0..told.len()).collect::<Vec<_>>(), "none is skipped");
        assert_eq!(told.len() == CHANGES, is_long, "{} told of, history {history}", told.len());
        assert!(!text.ends_with("0\r\n\r\n"), "a stream that is cut has no end");
    }
}
