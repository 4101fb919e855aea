//! What one client, or the storage, does to itself may cost nobody else
//! anything: deaf, silent, flooding and half-sent clients, a full queue, a
//! storage that panics, a server that stops under all of that. Each test
//! stands for a fault that the server had.

use crate::support::blocking::Blocking as _;
use crate::support::http::{Connection, get_head};
use crate::support::peer::Peer;
use crate::support::server::Fixture;
use little_key_value::storage::{Done, Error, Key, Memory, Op, Outcome, Storage};
use std::sync::Arc;

/// More work than there are workers, so that each of them gets some.
const MANY: usize = 20;

/// Asserts that the server serves new connections, each on its own.
#[track_caller]
fn assert_serves(server: &Fixture, when: &str) {
    let mut connections: Vec<Connection> = (0..MANY).map(|_| server.connect()).collect();
    for connection in &mut connections {
        assert_eq!(connection.get("/healthz").status(), 200, "{when}");
    }
}

/// A storage that panics at the key `poison`.
#[derive(Default)]
struct Panicking(Memory);

impl Panicking {
    fn look_at(key: &Key) {
        assert!(key.as_str() != "poison", "this panic is part of a test");
    }
}

impl Storage for Panicking {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if let Op::Get(key) | Op::Set(key, _) | Op::Delete(key) | Op::Update(key, _) = &op {
            Self::look_at(key);
        }
        self.0.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        self.0.submit(op, done);
    }

    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

#[test]
fn a_peer_out_of_reach_is_told_and_costs_nothing_else() {
    let peer = Arc::new(Peer::new());
    let server = Fixture::over(Arc::clone(&peer) as Arc<dyn Storage>);
    let mut connection = server.connect();
    assert_eq!(connection.put("/kv/key", b"value").status(), 200);
    peer.cut_off();
    for _ in 0..MANY {
        for target in ["/kv/key", "/healthz"] {
            assert_eq!(connection.get(target).status(), 503, "{target}");
        }
        assert_eq!(connection.put("/kv/key", b"another").status(), 503);
        assert_eq!(connection.get("/").status(), 200);
    }
    peer.reach();
    assert_eq!(connection.get("/kv/key").body, b"value");
    assert_serves(&server, "after a peer was out of reach");
}

#[test]
fn a_storage_that_panics_answers_500_and_all_else_goes_on() {
    let server = Fixture::over(Arc::new(Panicking::default()));
    let mut connection = server.connect();
    assert_eq!(connection.put("/kv/key", b"value").status(), 200);
    for _ in 0..MANY {
        assert_eq!(connection.get("/kv/poison").status(), 500);
        assert_eq!(connection.put("/kv/poison", b"value").status(), 500);
        assert_eq!(connection.put("/kv/poison", &[b'x'; 5000]).status(), 500);
        assert_eq!(connection.call("DELETE", "/kv/poison").status(), 500);
        assert_eq!(connection.get("/kv/key").body, b"value");
    }
    assert_serves(&server, "after panics");
    assert_eq!(server.connect().get("/kv/key").body, b"value");
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    let server = Fixture::start();
    let mut connection = server.connect();
    let values = || (0..1000).map(|index| format!("{index}:{}", "v".repeat(index % 50)));
    let puts = values().enumerate().map(|(index, value)| {
        let length = value.len();
        format!("PUT /kv/{index} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{value}")
    });
    connection.send(puts.collect::<String>());
    for index in 0..1000 {
        assert_eq!(connection.response().status(), 200, "PUT {index}");
    }
    connection.send((0..1000).map(|index| get_head(&format!("/kv/{index}"))).collect::<String>());
    for value in values() {
        assert_eq!(connection.response().text(), value);
    }
    assert_eq!(connection.get("/healthz").status(), 200);
}

#[test]
fn an_honest_upload_in_small_chunks_is_stored() {
    let server = Fixture::start();
    let value: Vec<u8> = (b'a'..=b'z').cycle().take(60_000).collect();
    let mut upload = server.connect();
    let mut other = server.connect();
    upload.send("PUT /kv/key HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in value.chunks(2000) {
        let mut chunks = Vec::new();
        for chunk in piece.chunks(10) {
            chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
            chunks.extend(chunk);
            chunks.extend(b"\r\n");
        }
        upload.send(chunks);
        // The server gets time to look at what has come so far.
        for _ in 0..10 {
            assert_eq!(other.get("/healthz").status(), 200);
        }
    }
    upload.send("0\r\n\r\n");
    assert_eq!(upload.response().status(), 200);
    assert!(other.get("/kv/key").body == value);
}

#[test]
fn a_connection_closes_when_its_client_says_so_and_stays_open_else() {
    let server = Fixture::start();
    let get = |option: &str| {
        format!("GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: {option}\r\n\r\n")
    };
    for option in ["close", "keep-alive, CLOSE", "x , close"] {
        let mut connection = server.connect();
        connection.send(get(option));
        let answer = connection.response();
        assert_eq!(answer.status(), 200, "{option}");
        assert_eq!(answer.header("Connection"), Some("close"), "{option}");
        connection.end().unwrap_or_else(|err| panic!("{option}: {err}"));
    }
    let mut connection = server.connect();
    for option in ["closed", "x-close-notify", "disclose", "upgrade", "Upgrade, HTTP2-Settings"] {
        connection.send(get(option));
        let answer = connection.response();
        assert_eq!(answer.status(), 200, "{option}");
        assert_eq!(answer.header("Connection"), None, "{option}");
    }
}

/// Promises that take a watchdog, which sees the sockets.
#[cfg(all(target_os = "linux", not(portable)))]
mod watched {
    use super::*;
    use crate::support::engines;
    use crate::support::http::{PATIENCE, has_read_everything, put_head, wait_until};
    use crate::support::process::Process;
    use crate::support::server::{VALUE_BYTES_MAX, accepts};
    use little_key_value::server::Config;
    use socket2::{Domain, Protocol, Socket, Type};
    use std::fs;
    use std::io::{self, Read, Write};
    use std::iter;
    use std::net::{Shutdown, SocketAddr, TcpStream};
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    /// How many large answers are under way at most.
    const SENDING_MAX: usize = 512;

    /// A timeout that nobody waits for the end of.
    const LONG: Duration = Duration::from_secs(3600);

    fn server_with(change: impl FnOnce(&mut Config)) -> Fixture {
        let mut config = Fixture::config();
        change(&mut config);
        Fixture::with(engines::memory(), VALUE_BYTES_MAX, &config)
    }

    /// A client that reads nothing unless asked to, with a receive buffer of
    /// the smallest and segments as they come over Ethernet: that makes the
    /// server's send buffer small too.
    struct Deaf(TcpStream);

    impl Deaf {
        fn open(addr: SocketAddr) -> Self {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP));
            let socket = socket.expect("a socket");
            socket.set_recv_buffer_size(2048).expect("a socket takes a buffer size");
            socket.set_tcp_mss(1460).expect("a socket takes a segment size");
            socket.connect_timeout(&addr.into(), PATIENCE).expect("the server accepts");
            socket.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
            Self(socket.into())
        }

        fn send(&mut self, bytes: impl AsRef<[u8]>) {
            self.try_send(bytes).expect("the server takes what is sent");
        }

        fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
            self.0.write_all(bytes.as_ref())
        }

        /// Whether the server has cut the connection, which is told once.
        /// Reads nothing.
        fn is_cut(&self) -> bool {
            self.0.take_error().expect("a socket tells its error").is_some()
        }

        /// Reads to the connection's end. Panics if that does not come.
        fn read_to_end(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            match self.0.read_to_end(&mut bytes) {
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::ConnectionReset => {}
                Err(err) => panic!("expected the connection's end: {err}"),
            }
            bytes
        }
    }

    #[track_caller]
    fn wait_until_cut(mut deaf: Vec<Deaf>) {
        wait_until("deaf clients are cut", || {
            deaf.retain(|client| !client.is_cut());
            deaf.is_empty()
        });
    }

    /// The statuses of answers whose bodies are not like them.
    fn statuses(bytes: &[u8]) -> Vec<u16> {
        let text = String::from_utf8_lossy(bytes);
        let codes = text.split("HTTP/1.1 ").skip(1).map(|answer| answer.get(..3).map(str::parse));
        codes.map_while(|code| code?.ok()).collect()
    }

    /// Starts an upload and waits until the server reads it.
    fn stuck_upload(server: &Fixture, target: &str) -> Connection {
        let mut upload = server.connect();
        upload.send(format!(
            "PUT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\
             Expect: 100-continue\r\n\r\n"
        ));
        assert_eq!(upload.response().status(), 100);
        upload.send([b'x'; 2000]);
        upload
    }

    /// Has clients ask for a large value and read nothing, until the server
    /// takes no more of them.
    fn fill_senders(server: &Fixture) -> (Vec<Deaf>, Vec<Connection>) {
        let stored = server.connect().put("/kv/8m", &vec![b'x'; 8 << 20]);
        assert_eq!(stored.status(), 200);
        let ask = |_| {
            let mut client = Deaf::open(server.addr());
            client.send(get_head("/kv/8m"));
            client
        };
        let deaf = (0..SENDING_MAX).map(ask).collect();
        let mut others = Vec::new();
        wait_until("no more are begun with", || {
            let mut another = server.connect();
            another.send(get_head("/kv/8m"));
            let refused = another.try_head().is_ok_and(|answer| {
                answer.status() == 503 && answer.header("Retry-After") == Some("1")
            });
            // It is one more of them, or not.
            others.push(another);
            refused
        });
        (deaf, others)
    }

    /// What was performed is not called refused: a large value that is popped
    /// while no large answer is begun with is not lost.
    #[test]
    fn a_large_value_is_not_popped_into_nothing() {
        let server = Fixture::start();
        let value = vec![b'x'; 100_000];
        assert_eq!(server.connect().put("/kv/job", &value).status(), 200);
        let _deaf = fill_senders(&server);
        let popped = server.connect().call("DELETE", "/kv/job?return");
        assert_eq!(popped.status(), 200);
        assert!(popped.body == value);
        assert_eq!(server.connect().call("DELETE", "/kv/job?return").status(), 404);
    }

    #[test]
    fn clients_who_do_not_read_small_answers_keep_no_worker_and_are_cut() {
        let server = server_with(|config| config.request_timeout = Duration::from_secs(5));
        assert_eq!(server.connect().put("/kv/60k", &vec![b'x'; 60_000]).status(), 200);
        let mut deaf: Vec<Deaf> = (0..MANY).map(|_| Deaf::open(server.addr())).collect();
        for client in &mut deaf {
            client.send(get_head("/kv/60k").repeat(3));
        }
        for _ in 0..5 {
            assert_serves(&server, "beside deaf clients");
        }
        assert!(!deaf.iter().any(Deaf::is_cut), "nobody is served because others were cut");
        wait_until_cut(deaf);
    }

    #[test]
    fn interim_answers_to_clients_who_do_not_read_keep_no_worker() {
        let server = Fixture::start();
        let mut connection = server.connect();
        let expecting =
            "GET /kv/none HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\r\n".repeat(900);
        let mut deaf = Vec::new();
        // Where the send buffer ends depends on the lengths, so try many.
        for index in 0..60 {
            let target = format!("/kv/{index}");
            assert_eq!(connection.put(&target, &vec![b'x'; 10_000 + 701 * index]).status(), 200);
            let mut client = Deaf::open(server.addr());
            client.send(get_head(&target).repeat(1 + index % 4) + &expecting);
            deaf.push(client);
        }
        for _ in 0..5 {
            assert_serves(&server, "beside clients deaf to interim answers");
        }
        drop(deaf);
        assert_serves(&server, "after them");
    }

    /// A client who sends more than is read ahead has to wait until it reads
    /// its answers; then it gets every one.
    #[test]
    fn deep_pipelines_harm_nobody_and_are_answered_whole() {
        let server = server_with(|config| config.shutdown_timeout = LONG);
        assert_eq!(server.connect().put("/kv/large", &vec![b'x'; 8 << 20]).status(), 200);
        let large = format!("X-Field: {}\r\n", "x".repeat(1990)).repeat(30);
        let large = format!("GET /healthz HTTP/1.1\r\nHost: test\r\n{large}\r\n");
        let small = get_head("/healthz");
        let mut held = Vec::new();
        for (index, head) in [&small, &large].into_iter().cycle().take(20).enumerate() {
            let mut client = Deaf::open(server.addr());
            client.send(get_head("/kv/large"));
            client.0.set_nonblocking(true).expect("a socket takes a mode");
            let requests = head.repeat([100, 1000, 5000][index % 3]);
            // As much as goes in; the last request may be cut off.
            client.try_send(requests).ok();
            held.push(client);
        }
        for _ in 0..5 {
            assert_serves(&server, "beside deep pipelines");
        }
        drop(held);
        for count in [1002, 5000] {
            let mut client = server.connect();
            thread::scope(|scope| {
                let (mut sending, requests) = (client.try_clone(), small.repeat(count));
                scope.spawn(move || sending.send(requests));
                for index in 0..count {
                    assert_eq!(client.response().status(), 200, "request {index} of {count}");
                }
            });
        }
        // They do not hold it.
        server.stop();
    }

    #[test]
    fn what_was_performed_is_not_refused() {
        let store = engines::memory();
        let server = Fixture::over(Arc::clone(&store));
        let is_stored = |client: usize, index: usize| {
            let key = Key::new(format!("{client}-{index}")).expect("a key");
            store.get(&key).expect("memory does not fail").is_some()
        };
        let puts = |client: usize, count: usize| -> String {
            let put = |index| put_head(&format!("/kv/{client}-{index}"), 1) + "x";
            (0..count).map(put).collect()
        };
        let _deaf = fill_senders(&server);

        let mut answered = 0;
        for client in 0..10 {
            let mut connection = server.connect();
            connection.send(puts(client, 80));
            for index in 0..80 {
                let Ok(answer) = connection.try_response_to("PUT") else { break };
                let stored = is_stored(client, index);
                assert_eq!(answer.status() == 200, stored, "{client}-{index}: {answer:?}");
                assert!(matches!(answer.status(), 200 | 503), "{client}-{index}: {answer:?}");
                answered += usize::from(stored);
            }
        }
        assert!(answered > 0, "small requests are performed meanwhile");

        // Clients with no room for their answers.
        let mut deaf: Vec<Deaf> = (0..10).map(|_| Deaf::open(server.addr())).collect();
        for (client, deaf) in (10..).zip(&mut deaf) {
            deaf.send(puts(client, 900));
        }
        assert_serves(&server, "beside deaf clients");
        for (client, mut deaf) in (10..).zip(deaf) {
            deaf.0.shutdown(Shutdown::Write).ok();
            for (index, status) in statuses(&deaf.read_to_end()).into_iter().enumerate() {
                assert_eq!(status == 200, is_stored(client, index), "{client}-{index}: {status}");
            }
        }
    }

    #[test]
    fn too_many_large_answers_are_refused_and_nothing_else() {
        let server = Fixture::start();
        let deaf = fill_senders(&server);
        let mut connection = server.connect();
        for _ in 0..MANY {
            assert_eq!(connection.put("/kv/small", b"value").status(), 200);
            assert_eq!(connection.get("/kv/small").body, b"value");
            // An upload waits for nobody but its own client.
            assert_eq!(connection.put("/kv/upload", &vec![b'x'; 100_000]).status(), 200);
        }
        assert_serves(&server, "beside deaf clients");
        // The slowest of them make room for those who ask.
        wait_until("a large value is given again", || {
            server.connect().get("/kv/8m").status() == 200
        });
        drop(deaf);
    }

    #[test]
    fn clients_who_wait_leave_the_processor_alone() {
        // The shell becomes the program, and so gives it its number.
        let mut command = Command::new("sh");
        command.args(["-c", "echo \"number $$.\" >&2; exec \"$0\" \"$@\""]);
        command.arg(env!("CARGO_BIN_EXE_little-key-value")).args(["--port", "0"]);
        let process = Process::run(command);
        process.wait_for_log("number ");
        let log = process.log();
        let (_, number) = log.split_once("number ").expect("it was logged");
        let (number, _) = number.split_once('.').expect("with a full stop");
        assert_eq!(process.connect().put("/kv/large", &vec![b'x'; 8 << 20]).status(), 200);

        let large = get_head("/kv/large");
        let last = "GET /kv/large HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let still = [
            (String::new(), false),
            (put_head("/kv/slow", 5000) + "some bytes of it", false),
            (large.clone(), false),
            (large.clone(), true),
            (large + &put_head("/kv/behind", 50_000) + &"x".repeat(3000), false),
            // What comes after the last request is never read.
            (last.to_owned() + &"x".repeat(3000), false),
        ];
        let mut clients = open_clients(&process, &still);
        assert_is_quiet(&process, number, "clients who wait");
        clients.extend(open_clients(&process, &[("GET /kv/key HTTP/1.1\r\nHo".to_owned(), false)]));
        assert_is_quiet(&process, number, "half-sent heads");
    }

    /// What is on its way counts: 100 values of 10 MiB that are almost there take
    /// no more than 64 MiB beyond the limit, and nobody waits for ever.
    #[test]
    fn uploads_on_their_way_count_against_the_memory_limit() {
        const VALUE_BYTES: usize = 10 << 20;
        const LIMIT_MIB: u64 = 64;
        let process = Process::start(&["--max-memory", "64MiB"]);
        let value = vec![b'x'; VALUE_BYTES];
        let statuses: Vec<u16> = thread::scope(|scope| {
            let upload = |index: usize| {
                let (addr, value) = (process.addr(), &value);
                scope.spawn(move || {
                    let mut client = Connection::open(addr);
                    client.send(put_head(&format!("/kv/{index}"), VALUE_BYTES));
                    // It may be refused meanwhile.
                    let (most, last) = value.split_at(VALUE_BYTES - 1);
                    client.try_send(most).and_then(|()| client.try_send(last)).ok();
                    client.try_response_to("PUT").map_or(0, |answer| answer.status())
                })
            };
            let uploads: Vec<_> = (0..100).map(upload).collect();
            uploads.into_iter().map(|upload| upload.join().expect("a client ends well")).collect()
        });
        let stored = statuses.iter().filter(|status| **status == 200).count();
        assert!((1..=6).contains(&stored), "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503 | 507)), "{statuses:?}");
        let peak_mib = process.memory_mib("VmHWM");
        assert!(peak_mib <= LIMIT_MIB + 64, "{peak_mib} MiB at its peak");
        // All is as before for those who come then.
        assert_eq!(process.connect().put("/kv/0", b"value").status(), 200);
    }

    /// Clients that begin in each way, and send no more; some say so.
    fn open_clients(process: &Process, beginnings: &[(String, bool)]) -> Vec<Deaf> {
        let mut clients = Vec::new();
        for (beginning, finished) in beginnings.iter().cycle().take(MANY * beginnings.len()) {
            let mut client = Deaf::open(process.addr());
            client.send(beginning);
            if *finished {
                client.0.shutdown(Shutdown::Write).expect("an open connection");
            }
            clients.push(client);
        }
        clients
    }

    /// Asserts that a process serves and does little beside.
    #[track_caller]
    fn assert_is_quiet(process: &Process, number: &str, beside: &str) {
        const LOOK: Duration = Duration::from_millis(1500);
        const BUSY_MAX: Duration = Duration::from_millis(500);
        assert_eq!(process.connect().get("/healthz").status(), 200, "beside {beside}");
        let before = processor_time(number);
        thread::sleep(LOOK);
        let busy = processor_time(number).saturating_sub(before);
        assert!(busy < BUSY_MAX, "busy for {busy:?} of {LOOK:?} beside {beside}");
        assert_eq!(process.connect().get("/healthz").status(), 200, "beside {beside}");
    }

    /// The processor time that a process has used.
    fn processor_time(number: &str) -> Duration {
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| TICK * ticks.parse::<u32>().expect("a number")).sum()
    }

    #[test]
    fn over_the_cap_the_longest_silent_connections_are_closed() {
        let server = server_with(|config| config.connections_max = Some(8));
        let open = |_| {
            let mut connection = server.connect();
            assert_eq!(connection.get("/healthz").status(), 200, "a new connection");
            connection
        };
        let silent: Vec<Connection> = (0..4).map(open).collect();
        // The watchdog tells silences apart by their length, to this precision.
        thread::sleep(Duration::from_millis(600));
        let mut others: Vec<Connection> = (0..4).map(open).collect();
        for _ in 0..4 {
            others.push(open(0));
            for connection in &mut others {
                assert_eq!(connection.get("/healthz").status(), 200, "one that is not silent");
            }
        }
        silent.into_iter().for_each(Connection::expect_closed);
        for connection in &mut others {
            assert_eq!(connection.get("/healthz").status(), 200, "within the cap");
        }
    }

    #[test]
    fn over_the_cap_clients_who_never_ask_make_room_for_those_who_do() {
        let server = server_with(|config| config.connections_max = Some(8));
        let silent: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
        // Their requests might still be on their way before.
        thread::sleep(Duration::from_millis(1200));
        let mut others = Vec::new();
        for _ in 0..8 {
            let mut other = server.connect();
            // From far away, so that the watchdog sees the connection before the request.
            thread::sleep(Duration::from_millis(150));
            assert_eq!(other.get("/healthz").status(), 200, "one that asks");
            others.push(other);
        }
        for mut connection in silent {
            assert_eq!(connection.response().status(), 503);
            connection.expect_closed();
        }
    }

    #[test]
    fn over_the_cap_with_all_at_work_the_newest_connection_is_refused() {
        let server = server_with(|config| config.connections_max = Some(8));
        let upload = |index| stuck_upload(&server, &format!("/kv/{index}"));
        let uploads: Vec<Connection> = (0..8).map(upload).collect();
        for _ in 0..3 {
            let mut newest = server.connect();
            let refusal = newest.response();
            assert_eq!(refusal.status(), 503);
            assert_eq!(refusal.header("Retry-After"), Some("1"));
            assert_eq!(refusal.header("Connection"), Some("close"));
            newest.expect_closed();
        }
        for mut upload in uploads {
            upload.send([b'x'; 3000]);
            assert_eq!(upload.response().status(), 200);
        }
        wait_until("there is room again", || {
            let mut connection = server.connect();
            let sent = connection.try_send(get_head("/healthz"));
            let answer = sent.and_then(|()| connection.try_response_to("GET"));
            answer.is_ok_and(|answer| answer.status() == 200)
        });
    }

    /// Those whom tiny_http has no thread for at once take up room as well.
    #[test]
    fn a_burst_beyond_a_small_cap_leaves_nobody_without_an_answer() {
        let server = server_with(|config| config.connections_max = Some(12));
        for round in 0..5 {
            let mut burst: Vec<Connection> = (0..40).map(|_| server.connect()).collect();
            for connection in &mut burst {
                // Whoever is turned away at once cannot send any more.
                connection.try_send(get_head("/healthz")).ok();
            }
            let mut answered = 0;
            for connection in &mut burst {
                match connection.try_response_to("GET") {
                    Ok(answer) if answer.status() == 200 => answered += 1,
                    Ok(answer) => assert_eq!(answer.status(), 503, "round {round}"),
                    Err(err) => {
                        let kind = err.kind();
                        assert_ne!(kind, io::ErrorKind::WouldBlock, "no answer in round {round}");
                    }
                }
            }
            assert!(answered >= 12, "{answered} answered in round {round}");
        }
    }

    /// Uploads that stand still cost their own connections.
    #[test]
    fn many_stuck_uploads_keep_no_other_from_being_taken() {
        let server = Fixture::start();
        let start = |index: usize| {
            let mut upload = server.connect();
            upload.send(put_head(&format!("/kv/stuck/{index}"), 5000));
            upload.send([b'x'; 2000]);
            upload
        };
        let mut stuck: Vec<Connection> = (0..600).map(start).collect();
        let mut other = server.connect();
        assert_eq!(other.put("/kv/large", &vec![b'x'; 100_000]).status(), 200);
        assert_eq!(other.call("DELETE", "/clear").status(), 200);
        assert_eq!(other.get("/kv/large").status(), 404);
        for upload in &mut stuck {
            upload.send([b'x'; 3000]);
            assert_eq!(upload.response().status(), 200);
        }
    }

    #[test]
    fn a_complete_head_that_is_too_large_is_431() {
        let server = Fixture::start();
        assert_eq!(server.connect().put("/kv/victim", b"unharmed").status(), 200);
        let long = format!("X-Field: {}\r\n", "x".repeat(1400)).repeat(50);
        let numerous = "X-Field: x\r\n".repeat(200);
        for (fields, what) in [(long, "70 kB"), (numerous, "200 fields")] {
            let mut connection = server.connect();
            let delete = "DELETE /kv/victim HTTP/1.1\r\nHost: test\r\n";
            connection.send(format!("{delete}{fields}\r\n{delete}\r\n"));
            let answer = connection.response();
            assert_eq!(answer.status(), 431, "{what}: {answer:?}");
            assert_eq!(answer.header("Connection"), Some("close"), "{what}");
            connection.end().unwrap_or_else(|err| panic!("{what}: {err}"));
            assert_eq!(server.connect().get("/kv/victim").body, b"unharmed", "{what}");
        }
    }

    #[test]
    fn connections_that_come_and_go_in_bursts_are_all_served() {
        let server = Fixture::start();
        let mut kept: Vec<Connection> = (0..MANY).map(|_| server.connect()).collect();
        let mut last_burst: Vec<Connection> = Vec::new();
        for round in 0..6 {
            let mut burst: Vec<Connection> = (0..100).map(|_| server.connect()).collect();
            for connection in &mut burst {
                connection.send(get_head("/healthz"));
            }
            for connection in burst.iter_mut().rev() {
                assert_eq!(connection.response().status(), 200, "a new one in round {round}");
            }
            for connection in kept.iter_mut().chain(&mut last_burst) {
                assert_eq!(connection.get("/healthz").status(), 200, "a kept one in round {round}");
            }
            // Half of them go now, the others while the next burst is there.
            burst.truncate(50);
            last_burst = burst;
        }
        assert_serves(&server, "after bursts");
    }

    /// A storage in which `gate` is found only once it is open: the thread that
    /// asks waits for that, though it may not, or one of the storage's own does.
    #[derive(Default)]
    struct Gated {
        memory: Memory,
        has_own_threads: bool,
        gate: Arc<Gate>,
    }

    /// The gate opens by itself after this, long after a client has lost its patience.
    const GATE_PATIENCE: Duration = Duration::from_secs(120);

    #[derive(Default)]
    struct Gate {
        open: Mutex<bool>,
        opened: Condvar,
        came: AtomicUsize,
    }

    impl Gate {
        fn wait(&self) {
            self.came.fetch_add(1, Ordering::Relaxed);
            let open = self.open.lock().expect("nobody panics with it");
            let wait = self.opened.wait_timeout_while(open, GATE_PATIENCE, |open| !*open);
            drop(wait.expect("nobody panics with it"));
        }
    }

    impl Gated {
        fn open(&self) {
            *self.gate.open.lock().expect("nobody panics with it") = true;
            self.gate.opened.notify_all();
        }

        fn shut(&self) {
            *self.gate.open.lock().expect("nobody panics with it") = false;
        }

        fn wait_for(&self, came: usize) {
            let all = || self.gate.came.load(Ordering::Relaxed) == came;
            wait_until("each thread is at the gate", all);
        }
    }

    impl Storage for Gated {
        fn try_now(&self, op: Op) -> Result<Outcome, Op> {
            if matches!(&op, Op::Get(key) if key.as_str() == "gate") {
                if self.has_own_threads {
                    return Err(op);
                }
                self.gate.wait();
            }
            self.memory.try_now(op)
        }

        fn submit(&self, op: Op, done: Done) {
            let (memory, gate) = (self.memory.clone(), Arc::clone(&self.gate));
            thread::spawn(move || {
                gate.wait();
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

    /// As many clients as that ask for what is behind the gate.
    fn stand_at_gate(server: &Fixture, clients: usize) -> Vec<Connection> {
        let mut waiting: Vec<Connection> = (0..clients).map(|_| server.connect()).collect();
        for connection in &mut waiting {
            connection.send(get_head("/kv/gate"));
        }
        waiting
    }

    /// A server in front of a gate.
    fn serve_behind(gated: &Arc<Gated>, leaders: usize, workers: usize) -> Fixture {
        let config = Config { leaders, workers, ..Fixture::config() };
        Fixture::with(Arc::clone(gated) as Arc<dyn Storage>, VALUE_BYTES_MAX, &config)
    }

    #[test]
    fn a_leader_that_is_stuck_is_replaced() {
        const WORKERS: usize = 3;
        for (round, leaders) in [1, 4].into_iter().cycle().take(8).enumerate() {
            let gated = Arc::new(Gated::default());
            let server = serve_behind(&gated, leaders, WORKERS);
            // One after the other, each of them stops a thread that leads.
            let mut waiting = Vec::new();
            for stuck in 1..WORKERS + leaders {
                waiting.extend(stand_at_gate(&server, 1));
                // The last leader has nobody to replace it with what else it has taken.
                gated.wait_for(stuck);
                assert_serves(&server, &format!("round {round}: beside {stuck} that are stuck"));
            }
            gated.open();
            for connection in &mut waiting {
                assert_eq!(connection.response().status(), 404);
                assert_eq!(connection.get("/healthz").status(), 200);
            }
            assert_serves(&server, "after they have come back");
        }
    }

    #[test]
    fn requests_taken_by_a_leader_that_is_stuck_are_answered_by_another() {
        let gated = Arc::new(Gated::default());
        let servers = [1, 4].map(|leaders| serve_behind(&gated, leaders, 4));
        let mut clients = servers.each_ref().map(|server| {
            let clients: Vec<Connection> = (0..MANY).map(|_| server.connect()).collect();
            clients
        });
        for round in 0..30 {
            let (server, clients) = (&servers[round % 2], &mut clients[round % 2]);
            // All at once, so that some are taken together with the stuck one.
            let mut waiting = stand_at_gate(server, 1);
            for client in &mut *clients {
                client.send(get_head("/healthz"));
            }
            for client in clients {
                assert_eq!(client.response().status(), 200, "round {round}");
            }
            gated.open();
            assert_eq!(waiting.remove(0).response().status(), 404);
            gated.shut();
        }
    }

    #[test]
    fn requests_that_come_while_nobody_leads_are_all_answered() {
        const WORKERS: usize = 1;
        // More than all leaders take at a time.
        const CLIENTS: usize = 150;
        for leaders in [1, 2, 4] {
            let gated = Arc::new(Gated::default());
            let server = serve_behind(&gated, leaders, WORKERS);
            for round in 0..6 {
                let (requests, is_thread) = (1 + round % 3, round < 3);
                let text = get_head("/healthz").repeat(requests);
                // A connection is read by leaders after some requests, and by its thread while
                // one is cut off.
                let (begun, rest) = text.split_at(if is_thread { 10 } else { 0 });
                let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
                for client in &mut clients {
                    for _ in 0..3 {
                        assert_eq!(client.get("/healthz").status(), 200);
                    }
                    client.send(begun);
                }
                wait_until("all begin", || has_read_everything(server.addr()));
                let mut waiting = Vec::new();
                for stuck in 1..=leaders + WORKERS {
                    waiting.extend(stand_at_gate(&server, 1));
                    gated.wait_for((leaders + WORKERS) * round + stuck);
                }
                // One call is on its way for all of these.
                for client in &mut clients {
                    client.send(rest);
                }
                if is_thread {
                    wait_until("all were read", || has_read_everything(server.addr()));
                }
                gated.open();
                for client in &mut clients {
                    for _ in 0..requests {
                        assert_eq!(client.response().status(), 200, "{leaders}, round {round}");
                    }
                }
                for connection in &mut waiting {
                    assert_eq!(connection.response().status(), 404);
                }
                gated.shut();
            }
        }
    }

    #[test]
    fn slow_reads_from_a_disk_hold_up_only_what_needs_the_disk() {
        for leaders in [1, 4] {
            let gated = Arc::new(Gated { has_own_threads: true, ..Gated::default() });
            let server = serve_behind(&gated, leaders, 4);
            // More than there are threads for them, and than a leader takes back at once.
            let mut waiting = stand_at_gate(&server, 5 * MANY);
            assert_serves(&server, "beside slow reads");
            gated.open();
            for connection in &mut waiting {
                assert_eq!(connection.response().status(), 404);
            }
        }
    }

    #[test]
    fn a_server_that_stops_answers_what_every_leader_is_at() {
        const LEADERS: usize = 4;
        const WORKERS: usize = 2;
        let gated = Arc::new(Gated::default());
        let server = serve_behind(&gated, LEADERS, WORKERS);
        let addr = server.addr();
        let mut waiting = Vec::new();
        for stuck in 1..=LEADERS + WORKERS {
            waiting.extend(stand_at_gate(&server, 1));
            gated.wait_for(stuck);
        }
        thread::scope(|scope| {
            scope.spawn(|| server.stop());
            wait_until("nobody accepts any more", || !accepts(addr));
            gated.open();
            for mut connection in waiting {
                let answer = connection.response();
                assert_eq!(answer.status(), 404);
                assert_eq!(answer.header("Connection"), Some("close"));
                connection.expect_closed();
            }
        });
    }

    #[test]
    fn a_server_that_stops_answers_what_no_leader_has_had_time_for() {
        const WORKERS: usize = 1;
        for leaders in [1, 2] {
            let gated = Arc::new(Gated::default());
            let server = serve_behind(&gated, leaders, WORKERS);
            let addr = server.addr();
            let mut clients: Vec<Connection> = (0..MANY).map(|_| server.connect()).collect();
            for client in &mut clients {
                // From then on it is read by leaders.
                for _ in 0..3 {
                    assert_eq!(client.get("/healthz").status(), 200);
                }
            }
            let mut idle = server.connect();
            assert_eq!(idle.get("/healthz").status(), 200);
            let mut waiting = Vec::new();
            for stuck in 1..=leaders + WORKERS {
                waiting.extend(stand_at_gate(&server, 1));
                gated.wait_for(stuck);
            }
            for client in &mut clients {
                client.send(get_head("/healthz"));
            }
            thread::scope(|scope| {
                scope.spawn(|| server.stop());
                wait_until("nobody accepts any more", || !accepts(addr));
                idle.expect_closed();
                gated.open();
                for mut client in clients.into_iter().chain(waiting) {
                    assert!(matches!(client.response().status(), 200 | 404));
                    client.expect_closed();
                }
            });
        }
    }

    #[test]
    fn over_the_cap_no_request_is_cut_off_that_has_begun_to_come() {
        let gated = Arc::new(Gated::default());
        let config = Config { leaders: 1, workers: 1, ..Fixture::config() };
        let config = Config { connections_max: Some(4), ..config };
        let storage = Arc::clone(&gated) as Arc<dyn Storage>;
        let server = Fixture::with(storage, VALUE_BYTES_MAX, &config);
        let mut begun = server.connect();
        for _ in 0..3 {
            // From then on it is read by a leader.
            assert_eq!(begun.get("/healthz").status(), 200);
        }
        // The watchdog tells silences apart by their length, to this precision.
        thread::sleep(Duration::from_millis(600));
        let mut silent = server.connect();
        assert_eq!(silent.get("/healthz").status(), 200);
        let mut waiting = Vec::new();
        for stuck in 1..=2 {
            waiting.extend(stand_at_gate(&server, 1));
            gated.wait_for(stuck);
        }

        // Nobody leads, so nobody has read it when there are too many.
        let head = get_head("/healthz");
        let (first, rest) = head.split_at(head.len() / 2);
        begun.send(first);
        let newest = server.connect();
        silent.expect_closed();
        gated.open();
        for connection in &mut waiting {
            assert_eq!(connection.response().status(), 404);
        }
        begun.send(rest);
        assert_eq!(begun.response().status(), 200);
        drop(newest);
    }

    #[test]
    fn a_server_that_stops_answers_what_it_has_taken() {
        // As many as are read ahead of their turn.
        const PIPELINED: usize = 32;
        let gated = Arc::new(Gated::default());
        let server = Fixture::over(Arc::clone(&gated) as Arc<dyn Storage>);
        let addr = server.addr();
        let mut connection = server.connect();
        let gets = iter::once(get_head("/healthz")).chain(iter::once(get_head("/kv/gate")));
        connection
            .send(gets.chain((2..PIPELINED).map(|_| get_head("/healthz"))).collect::<String>());
        assert_eq!(connection.response().status(), 200);
        wait_until("the server has read what came", || has_read_everything(addr));
        // What comes later is taken later.
        assert_serves(&server, "beside a request at the gate");
        thread::scope(|scope| {
            scope.spawn(|| server.stop());
            wait_until("nobody accepts any more", || !accepts(addr));
            gated.open();
            assert_eq!(connection.response().status(), 404);
            for index in 2..PIPELINED {
                let answer = connection.try_response_to("GET");
                let answer = answer.unwrap_or_else(|err| panic!("request {index}: {err}"));
                assert_eq!(answer.status(), 200);
                let last = index == PIPELINED - 1;
                assert_eq!(answer.header("Connection").is_some(), last, "request {index}");
            }
            connection.expect_closed();
        });
    }

    #[test]
    fn requests_that_do_not_come_hold_no_server_that_stops() {
        let server = server_with(|config| config.shutdown_timeout = LONG);
        let mut clients = Vec::new();
        for beginning in ["", "GET /healthz HTTP/1.1\r\nHo", &put_head("/kv/key", 100)] {
            for _ in 0..MANY {
                let mut fresh = server.connect();
                fresh.send(beginning);
                let mut idle = server.connect();
                assert_eq!(idle.get("/healthz").status(), 200);
                idle.send(beginning);
                clients.extend([fresh, idle]);
            }
        }
        server.stop();
    }

    #[test]
    fn an_upload_that_is_stuck_is_left_behind_at_the_shutdown_timeout() {
        const TIMEOUT: Duration = Duration::from_millis(700);
        let store = engines::memory();
        let config =
            Config { shutdown_timeout: TIMEOUT, request_timeout: LONG, ..Fixture::config() };
        let server = Fixture::with(Arc::clone(&store), VALUE_BYTES_MAX, &config);
        let upload = stuck_upload(&server, "/kv/key");
        let since = Instant::now();
        server.stop();
        let took = since.elapsed();
        assert!((TIMEOUT..PATIENCE).contains(&took), "stopping took {took:?}");
        assert_eq!(store.get(&Key::new("key").expect("a key")), Ok(None));
        drop(upload);
    }

    /// A client that has the port of one that was refused is another client.
    #[test]
    fn a_refused_client_leaves_its_port_to_the_next_one() {
        let server = Fixture::start();
        let open = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // An address for this process alone, so that nobody takes its ports.
        let [.., high, low] = std::process::id().to_be_bytes();
        let own = SocketAddr::from(([127, 9, high, low], 0));
        for refused in [
            put_head("/kv/key", isize::MAX.unsigned_abs()),
            put_head("/kv/", 5000),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "GET /kv/key HTTP/1.1\r\nX\n".to_owned(),
        ]
        .iter()
        .cycle()
        .take(2 * MANY)
        {
            let first = open();
            first.bind(&own.into()).expect("an address of this machine");
            first.connect(&server.addr().into()).expect("the server accepts");
            first.set_linger(Some(Duration::ZERO)).expect("a socket takes a linger time");
            let port = first.local_addr().expect("a connection has an address");
            let mut first = TcpStream::from(first);
            first.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
            first.write_all(refused.as_bytes()).expect("the server takes a head");
            let mut refusal = String::new();
            first.read_to_string(&mut refusal).expect("a refusal and the end");
            assert!(refusal.starts_with("HTTP/1.1 4") || refusal.starts_with("HTTP/1.1 505 "));
            drop(first);

            let next = open();
            next.set_reuse_address(true).expect("a socket takes an option");
            next.bind(&port).expect("the port is free again");
            next.connect(&server.addr().into()).expect("the server accepts");
            let mut next = Deaf(next.into());
            next.send("GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            assert_eq!(statuses(&next.read_to_end()), [200], "after {refused:?}");
        }
    }
}
