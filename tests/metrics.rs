//! The metrics of the server: each is there, and tells what has happened.

#![cfg(all(target_os = "linux", not(portable)))]

use crate::support::blocking::Blocking as _;
use crate::support::http::{Connection, PATIENCE, at_once, get_head, put_head, wait_until};
use crate::support::server::{Fixture, VALUE_BYTES_MAX};
use crate::support::threads::Ended;
use crossbeam_channel::Receiver;
use little_key_value::api::Api;
use little_key_value::metrics::Exposition;
use little_key_value::server::{Config, Server};
use little_key_value::storage::{
    Changes, Done, Entry, Error, Key, Memory, Op, Outcome, Storage, Waiters,
};
use socket2::{Domain, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The states of a connection.
const STATES: [&str; 7] =
    ["idle", "reading", "working", "waiting", "sending", "streaming", "closing"];

/// A memory that does some things late, or not at all: a read of `poison` panics.
#[derive(Default)]
struct Odd {
    memory: Memory,
    /// A read of `held` is done once this ends, and that of `stuck` keeps its thread.
    gate: Option<Receiver<()>>,
    /// The pages of lists that were asked for. The third cannot be had.
    pages: AtomicUsize,
}

/// The key that is read.
fn read_key(op: &Op) -> Option<&str> {
    if let Op::Get(key) = op { Some(key.as_str()) } else { None }
}

impl Odd {
    fn wait_for_gate(gate: Option<&Receiver<()>>) {
        gate.and_then(|gate| gate.recv().ok());
    }
}

impl Storage for Odd {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if matches!(op, Op::List(_)) || matches!(read_key(&op), Some("held" | "poison")) {
            return Err(op);
        }
        if read_key(&op) == Some("stuck") {
            Self::wait_for_gate(self.gate.as_ref());
        }
        self.memory.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        assert!(read_key(&op) != Some("poison"), "this panic is part of a test");
        if matches!(op, Op::List(_)) && self.pages.fetch_add(1, Ordering::SeqCst) == 2 {
            return done(Err(Error::Overloaded));
        }
        if read_key(&op) == Some("held") {
            let (memory, gate) = (self.memory.clone(), self.gate.clone());
            thread::spawn(move || {
                Self::wait_for_gate(gate.as_ref());
                memory.submit(op, done);
            });
            return;
        }
        self.memory.submit(op, done);
    }

    fn waiters(&self) -> Option<&Waiters> {
        self.memory.waiters()
    }

    fn changes(&self) -> Option<&Changes> {
        self.memory.changes()
    }

    fn check(&self) -> Result<(), Error> {
        self.memory.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.memory.close()
    }
}

/// A server whose metrics can be read beside it.
struct Observed {
    api: Api,
    server: Server,
    addr: SocketAddr,
}

impl Observed {
    fn over(storage: impl Storage + 'static, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Fixture::config();
        change(&mut config);
        let api = Api::new(Arc::new(storage), VALUE_BYTES_MAX);
        let server = Server::start(&config, |_addrs| api.clone()).expect("a free port");
        let addr = *server.local_addrs().first().expect("it listens");
        Self { api, server, addr }
    }

    fn start() -> Self {
        Self::over(Memory::new(), |_config| {})
    }

    fn connect(&self) -> Connection {
        Connection::open(self.addr)
    }

    /// A client that does not read, with a small buffer.
    fn deaf(&self, request: &str) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(2048).expect("a socket takes a buffer size");
        socket.connect(&self.addr.into()).expect("the server accepts");
        let mut client = TcpStream::from(socket);
        client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        client.write_all(request.as_bytes()).expect("the server takes a head");
        client
    }

    fn samples(&self) -> Samples {
        Samples::of(&self.api)
    }

    /// Waits until a sample has that value. A sample of requests is there from the first on.
    #[track_caller]
    fn wait_for(&self, name: &str, value: u64) {
        wait_until(&format!("{name} is {value}"), || self.samples().find(name) == Some(value));
    }

    /// Waits until so many connections are in each state.
    #[track_caller]
    fn wait_for_states(&self, expected: [u64; 7]) {
        wait_until(&format!("{expected:?} of {STATES:?}"), || {
            let samples = self.samples();
            let count = |state| samples.get(&format!("lkv_connections{{state=\"{state}\"}}"));
            STATES.iter().zip(expected).all(|(state, expected)| count(state) == expected)
        });
    }

    #[track_caller]
    fn wait_for_cut(&self, reason: &str, count: u64) {
        self.wait_for(&format!("lkv_connections_cut_total{{reason=\"{reason}\"}}"), count);
    }
}

/// The samples of a text by their names with labels.
struct Samples(BTreeMap<String, String>);

impl Samples {
    fn of(api: &Api) -> Self {
        let mut exposition = Exposition::default();
        api.metrics().report(&mut exposition);
        Self::parse(&exposition.into_text())
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.to_owned())
        });
        Self(samples.collect())
    }

    /// A sample that is a whole number.
    #[track_caller]
    fn get(&self, name: &str) -> u64 {
        self.text(name).parse().expect("a whole number")
    }

    /// The same of a sample that may not be there yet.
    #[track_caller]
    fn find(&self, name: &str) -> Option<u64> {
        self.0.get(name).map(|value| value.parse().expect("a whole number"))
    }

    #[track_caller]
    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }

    /// The samples of a family.
    fn family(&self, name: &str) -> Vec<(&str, &str)> {
        let start = format!("{name}{{");
        let samples = self.0.iter().filter(|(sample, _)| sample.starts_with(&start));
        samples.map(|(sample, value)| (sample.as_str(), value.as_str())).collect()
    }
}

#[test]
fn requests_are_counted_by_method_route_and_status() {
    let server = Observed::start();
    let mut client = server.connect();
    for (method, target, times) in [
        ("GET", "/kv/secret-key", 3),
        ("HEAD", "/kv/secret-key", 1),
        ("DELETE", "/kv/secret-key?x=secret-value", 1),
        ("GET", "/kv?prefix=secret", 2),
        ("POST", "/kv/secret-key", 1),
        ("GET", "/secret-path", 1),
        ("BREW", "/kv/secret-key", 1),
        ("OPTIONS", "/metrics", 1),
        ("GET", "/kv/", 1),
    ] {
        for _ in 0..times {
            client.call(method, target);
        }
    }
    client.put("/kv/secret-key", b"secret-value");
    client.get("/kv/secret-key");
    let answer = client.get("/metrics");
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let text = answer.text();
    assert!(!text.contains("secret"), "{text}");
    let samples = Samples::parse(text);
    let label = |method, route, status| {
        format!(
            "lkv_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
        )
    };
    let mut expected = vec![
        (label("GET", "/kv/{key}", "404"), "3"),
        (label("HEAD", "/kv/{key}", "404"), "1"),
        (label("DELETE", "/kv/{key}", "400"), "1"),
        (label("GET", "/kv", "200"), "2"),
        (label("POST", "/kv/{key}", "405"), "1"),
        (label("GET", "other", "404"), "1"),
        (label("other", "/kv/{key}", "405"), "1"),
        (label("OPTIONS", "/metrics", "204"), "1"),
        (label("GET", "/kv/{key}", "400"), "1"),
        (label("PUT", "/kv/{key}", "200"), "1"),
        (label("GET", "/kv/{key}", "200"), "1"),
    ];
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    let counted = samples.family("lkv_http_requests_total");
    let expected: Vec<_> = expected.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counted, expected);

    // Each of them took its time.
    let of_reads = "{method=\"GET\",route=\"/kv/{key}\"";
    let duration = |end: &str| format!("lkv_http_request_duration_seconds{end}");
    for end in [format!("_count{of_reads}}}"), format!("_bucket{of_reads},le=\"+Inf\"}}")] {
        assert_eq!(samples.get(&duration(&end)), 5);
    }
    assert_ne!(samples.text(&duration(&format!("_sum{of_reads}}}"))), "0");
    let buckets = samples.family("lkv_http_request_duration_seconds_bucket");
    assert_eq!(buckets.iter().filter(|(name, _)| name.contains(of_reads)).count(), 17);
    // The one that is being answered.
    assert_eq!(samples.get("lkv_http_requests_in_flight"), 1);
    drop(client);
    server.server.stop();
}

#[test]
fn a_stream_counts_as_a_request_without_a_time() {
    let server = Observed::start();
    let mut watcher = server.connect();
    watcher.send(get_head("/watch?key=a"));
    assert_eq!(watcher.try_head().expect("a stream begins").status(), 200);
    server.wait_for("lkv_watchers", 1);
    drop(watcher);
    let counted =
        "lkv_http_requests_total{method=\"GET\",route=\"/watch\",status=\"200\"}".to_owned();
    wait_until("its end is counted", || server.samples().0.contains_key(&counted));
    let samples = server.samples();
    assert_eq!(samples.get(&counted), 1);
    assert!(samples.family("lkv_http_request_duration_seconds_count").is_empty());
    assert_eq!(samples.get("lkv_watchers"), 0);
    assert!(samples.get("lkv_watchers_max") > 0);
    server.server.stop();
}

#[test]
fn bytes_are_those_on_the_wire() {
    let server = Observed::start();
    let (mut received, mut sent) = (0, 0);
    for value_bytes in [1, 5000, 1_000_000] {
        let value = vec![b'x'; value_bytes];
        for (head, body) in [
            (put_head("/kv/a", value_bytes), &*value),
            (get_head("/kv/a"), &[]),
            (get_head("/kv/none"), &[]),
        ] {
            let head = head.replace("Host: test", "Host: test\r\nConnection: close");
            let mut client = server.connect();
            client.send([head.as_bytes(), body].concat());
            received += head.len() + body.len();
            sent += client.rest().expect("the server closes the connection").len();
            server.wait_for("lkv_http_sent_bytes_total", sent as u64);
            server.wait_for("lkv_http_received_bytes_total", received as u64);
        }
    }
    // Those of a connection that is open count as well.
    let mut kept = server.connect();
    kept.send("GET /kv/none HT");
    server.wait_for("lkv_http_received_bytes_total", (received + 15) as u64);
    assert_eq!(server.samples().get("lkv_connections_total"), 10);
    drop(kept);
    server.server.stop();
}

#[test]
fn a_connection_is_in_the_state_that_it_is_in() {
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let odd = Odd { gate: Some(gate), ..Odd::default() };
    let server = Observed::over(odd, |config| config.connections_max = Some(100));
    let mut expected = [0_u64; 7];
    let mut clients = Vec::new();
    let mut add = |client: Connection, state: &str, count: u64| {
        let place = STATES.iter().position(|name| *name == state).expect("a state");
        clients.push(client);
        expected[place] += count;
        server.wait_for_states(expected);
    };

    add(server.connect(), "idle", 1);
    let mut kept = server.connect();
    assert_eq!(kept.get("/healthz").status(), 200);
    add(kept, "idle", 1);

    let mut half = server.connect();
    half.send("GET /kv/a HTTP/1.1\r\nHo");
    add(half, "reading", 1);
    let mut upload = server.connect();
    upload.send(put_head("/kv/a", 500_000));
    upload.send(vec![b'x'; 100_000]);
    add(upload, "reading", 1);
    server.wait_for("lkv_http_requests_in_flight", 1);
    wait_until("memory is reserved", || server.samples().get("lkv_uploads_bytes") > 90_000);

    let mut held = server.connect();
    // Two that come behind it are in flight as well.
    held.send(get_head("/kv/held") + &get_head("/kv/a") + &get_head("/kv/a"));
    add(held, "working", 1);
    server.wait_for("lkv_queue_length{queue=\"submitted\"}", 1);
    server.wait_for("lkv_http_requests_in_flight", 4);

    let mut waiter = server.connect();
    waiter.send(get_head("/kv/absent?wait=60s"));
    add(waiter, "waiting", 1);
    server.wait_for("lkv_waiters", 1);

    let mut watcher = server.connect();
    watcher.send(get_head("/watch?key=a"));
    add(watcher, "streaming", 1);
    server.wait_for("lkv_watchers", 1);

    let mut client = server.connect();
    assert_eq!(client.put("/kv/large", &vec![b'x'; 10 << 20]).status(), 200);
    add(client, "idle", 1);
    let deaf = server.deaf(&get_head("/kv/large"));
    expected[4] += 1;
    server.wait_for_states(expected);
    server.wait_for("lkv_queue_length{queue=\"transfers\"}", 1);
    server.wait_for("lkv_http_requests_in_flight", 7);

    // A client who has been refused may still send.
    let mut refused = server.connect();
    refused.send("GET\r\n\r\n");
    assert_eq!(refused.response().status(), 400);
    expected[6] += 1;
    server.wait_for_states(expected);
    assert_eq!(server.samples().get("lkv_connections_max"), 100);

    drop(open);
    drop((clients, deaf, refused));
    server.wait_for_states([0; 7]);
    server.wait_for("lkv_http_requests_in_flight", 0);
    server.wait_for("lkv_uploads_bytes", 0);
    server.server.stop();
}

#[test]
fn clients_who_keep_the_server_waiting_are_counted_by_reason() {
    // What a client does at once is seen by then, on a busy machine too.
    const TIMEOUT: Duration = Duration::from_secs(3);
    let server = Observed::over(Memory::new(), |config| {
        config.idle_timeout = TIMEOUT;
        config.request_timeout = TIMEOUT;
    });
    let silent = server.connect();
    let mut late = server.connect();
    late.send("GET /kv/a HT");
    let mut slow = server.connect();
    slow.send("PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    server.wait_for_cut("idle", 1);
    silent.expect_closed();
    server.wait_for_cut("late", 2);
    assert_eq!([late.response().status(), slow.response().status()], [408, 408]);
    let of_late = |method, route| {
        format!("lkv_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"408\"}}")
    };
    server.wait_for(&of_late("other", "other"), 1);
    server.wait_for(&of_late("PUT", "/kv/{key}"), 1);

    // It has had its last answer and goes on to send.
    let mut refused = server.connect();
    refused.send("GET\r\n\r\n");
    server.wait_for_cut("gone", 1);

    drop((late, slow, refused));
    server.wait_for_states([0; 7]);
    // Each counts once, and those who leave do not count.
    let samples = server.samples();
    let counts = samples.family("lkv_connections_cut_total");
    assert_eq!(counts.iter().filter(|(_, count)| *count == "1").count(), 2, "{counts:?}");
    assert_eq!(counts.iter().filter(|(_, count)| *count == "2").count(), 1, "{counts:?}");
    assert_eq!(counts.iter().filter(|(_, count)| *count == "0").count(), 7, "{counts:?}");
    server.server.stop();
}

#[test]
fn those_who_are_turned_away_at_the_cap_are_counted() {
    let server = Observed::over(Memory::new(), |config| config.connections_max = Some(4));
    let uploads: Vec<Connection> = (0..4)
        .map(|index| {
            let mut upload = server.connect();
            upload.begin_upload(&format!("/kv/{index}"), 5000);
            upload
        })
        .collect();
    let mut newest = server.connect();
    assert_eq!(newest.response().status(), 503);
    server.wait_for_cut("cap", 1);
    drop((uploads, newest));
    server.server.stop();
}

#[test]
fn failures_behind_a_response_are_counted_by_reason() {
    let odd = Odd::default();
    for number in 0..3000 {
        let key = Key::new(format!("{number:06}{}", "x".repeat(1000))).expect("a key");
        odd.memory.set(key, Entry::new(vec![b'x'].into())).expect("there is room");
    }
    let server = Observed::over(odd, |_config| {});
    let mut client = server.connect();
    client.send(get_head("/kv"));
    assert_eq!(client.try_head().expect("a head").status(), 200);
    assert!(!client.rest().expect("it breaks off").ends_with(b"0\r\n\r\n"));
    server.wait_for_cut("broken_off", 1);

    server.connect().send(get_head("/kv/poison"));
    server.wait_for_cut("panicked", 1);

    assert_eq!(server.connect().put("/kv/large", &vec![b'x'; 10 << 20]).status(), 200);
    let deaf = server.deaf(&get_head("/kv/large"));
    server.wait_for("lkv_connections{state=\"sending\"}", 1);
    SockRef::from(&deaf).set_linger(Some(Duration::ZERO)).expect("a socket takes a linger time");
    drop(deaf);
    server.wait_for_cut("write_failed", 1);
    server.server.stop();
}

#[test]
fn the_slowest_client_is_counted_once_it_makes_room() {
    const SENDING_MAX: usize = 512;
    let server = Observed::start();
    assert_eq!(server.connect().put("/kv/large", &vec![b'x'; 8 << 20]).status(), 200);
    let mut deaf: Vec<_> = (0..SENDING_MAX).map(|_| server.deaf(&get_head("/kv/large"))).collect();
    wait_until("the slowest makes room", || {
        deaf.push(server.deaf(&get_head("/kv/large")));
        server.samples().get("lkv_connections_cut_total{reason=\"slow\"}") > 0
    });
    drop(deaf);
    server.server.stop();
}

#[test]
fn a_leader_that_is_stuck_is_counted() {
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let server = Observed::over(Odd { gate: Some(gate), ..Odd::default() }, |_config| {});
    let mut stuck = server.connect();
    stuck.send(get_head("/kv/stuck"));
    server.wait_for("lkv_leaders_displaced_total", 1);
    assert_eq!(server.connect().get("/healthz").status(), 200);
    drop(open);
    assert_eq!(stuck.response().status(), 404);
    server.server.stop();
}

#[test]
fn those_who_are_dismissed_at_the_end_are_counted() {
    let server = Observed::start();
    let Observed { api, server, addr } = server;
    let mut idle: Vec<_> = (0..3).map(|_| Connection::open(addr)).collect();
    for client in &mut idle {
        assert_eq!(client.get("/healthz").status(), 200);
    }
    let mut upload = Connection::open(addr);
    upload.begin_upload("/kv/a", 2000);
    let stopping = thread::spawn(move || server.stop());
    idle.into_iter().for_each(Connection::expect_closed);
    let dismissed = "lkv_connections_cut_total{reason=\"draining\"}";
    wait_until("they are counted", || Samples::of(&api).get(dismissed) == 3);
    upload.send([b'x'; 2000]);
    assert_eq!(upload.response().status(), 200);
    stopping.join().expect("it stops");
}

#[test]
fn what_is_told_never_falls_while_connections_come_and_go() {
    const ROUNDS: usize = 200;
    let server = Observed::start();
    let counters = ["lkv_http_received_bytes_total", "lkv_http_sent_bytes_total"];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&is_over);
        scope.spawn(|| {
            let mut last = [0; 2];
            while !is_over.load(Ordering::SeqCst) {
                let samples = server.samples();
                let now = counters.map(|name| samples.get(name));
                assert!(now.iter().zip(last).all(|(now, last)| *now >= last), "{now:?} {last:?}");
                last = now;
            }
        });
        at_once(server.addr, 4, |_, _| {
            for _ in 0..ROUNDS {
                let mut client = TcpStream::connect(server.addr).expect("the server accepts");
                client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
                let request = get_head("/kv/a").repeat(3);
                client.write_all(request.as_bytes()).expect("the server takes a head");
                client.shutdown(Shutdown::Write).expect("an open connection");
                client.read_to_end(&mut Vec::new()).expect("answers and their end");
            }
        });
    });
    let received = 4 * ROUNDS * get_head("/kv/a").repeat(3).len();
    server.wait_for("lkv_http_received_bytes_total", received as u64);
    server.server.stop();
}

#[test]
fn the_process_tells_of_itself() {
    let server = Observed::start();
    let samples = server.samples();
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ] {
        assert!(samples.text(name) != "0" || name == "process_cpu_seconds_total", "{name}");
    }
    for name in ["lkv_accept_loops_replaced_total", "lkv_leaders_displaced_total"] {
        assert_eq!(samples.get(name), 0, "{name}");
    }
    for queue in ["tasks", "submitted", "completions", "transfers"] {
        assert_eq!(samples.get(&format!("lkv_queue_length{{queue=\"{queue}\"}}")), 0, "{queue}");
    }
    server.server.stop();
}
