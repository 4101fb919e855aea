use super::*;
use crate::api::Api;
use crate::server::door::Stream as _;
use crate::server::sender::Senders;
use crate::server::socket::Socket;
use crate::server::uploads::Reservation;
use crate::server::{limits::Room, pipeline::Occupation};
use crate::storage::Memory;
use socket2::SockRef;
use std::io::Write as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(25);

const GET: &str = "GET /kv/a HTTP/1.1\r\nHost: a\r\n\r\n";

/// An inbox whose only leader is the test.
struct Fixture {
    dispatcher: Arc<Dispatcher>,
    inbox: Arc<Inbox>,
    buffers: Buffers,
}

/// A connection with the thread that tiny_http would have for it.
struct Read {
    client: TcpStream,
    connection: Arc<Connection>,
    thread: JoinHandle<()>,
}

impl Fixture {
    fn new() -> Self {
        let api = Api::new(Arc::new(Memory::new()), 1 << 20);
        let (senders, _) = Senders::new(1).expect("there are descriptors");
        let dispatcher = Dispatcher::new(api, senders, Room::default(), None);
        let inbox = Arc::new(Inbox::new(1).expect("there are descriptors"));
        let buffers = inbox.buffers();
        // Whoever waits in vain is woken up, to fail.
        let waited_at = Arc::downgrade(&inbox);
        thread::spawn(move || {
            thread::sleep(PATIENCE);
            while let Some(inbox) = waited_at.upgrade() {
                inbox.wake();
                thread::sleep(Duration::from_secs(1));
            }
        });
        Self { dispatcher: Arc::new(dispatcher), inbox, buffers }
    }

    fn connect(&self) -> Read {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let client = client.expect("a listener");
        client.set_nodelay(true).expect("a socket takes it");
        let (accepted, peer) = listener.accept().expect("a client");
        let connection = self.dispatcher.connections.add(Socket::new(accepted.into()), peer, 0);
        let (dispatcher, inbox) = (Arc::clone(&self.dispatcher), Arc::clone(&self.inbox));
        let inlet = Arc::new(Inlet::new(dispatcher, Arc::clone(&connection), inbox));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            assert_eq!(Arc::clone(&inlet).read(&mut buffer), 1);
            assert_eq!(Arc::clone(&inlet).read(&mut buffer), 0);
            assert_eq!(inlet.read(&mut buffer), 0, "it is over");
        });
        Read { client, connection, thread }
    }

    /// A connection whose reading is left to the leaders.
    fn connect_left(&mut self) -> Read {
        let read = self.connect();
        for _ in 0..2 {
            read.send(GET);
            self.take_all(1);
        }
        self.wait_until_left(&read);
        read
    }

    fn wait_until_left(&self, read: &Read) {
        wait_until("it is left", || self.is_left(read));
    }

    fn is_left(&self, read: &Read) -> bool {
        self.inbox.inlet(read.connection.id).is_some()
    }

    /// Waits for requests and ends the work on each. Gives their number.
    fn take(&mut self) -> usize {
        let mut taken = 0;
        for (job, _) in self.inbox.receive(&self.dispatcher, &mut self.buffers) {
            taken += 1;
            while job.connection.pipeline.next().is_some() {
                taken += 1;
            }
        }
        taken
    }

    /// Waits for one request.
    fn take_one(&mut self) -> Job {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "none comes");
            let taken = self.inbox.receive(&self.dispatcher, &mut self.buffers).next();
            if let Some((job, _)) = taken {
                return job;
            }
        }
    }

    /// Hangs up, and takes all requests until the thread has ended, which waits for no
    /// other. Gives their number.
    fn end(&mut self, read: Read) -> usize {
        drop(read.client);
        let (mut taken, begun) = (0, Instant::now());
        while !read.thread.is_finished() {
            assert!(begun.elapsed() < PATIENCE, "its thread does not end");
            self.inbox.wake();
            taken += self.take();
        }
        read.thread.join().expect("it does not panic");
        taken
    }

    /// Takes so many requests.
    fn take_all(&mut self, requests: usize) {
        let (mut taken, begun) = (0, Instant::now());
        while taken < requests {
            assert!(begun.elapsed() < PATIENCE, "{taken} of {requests} have come");
            taken += self.take();
        }
        assert_eq!(taken, requests);
    }
}

impl Read {
    fn send(&self, text: &str) {
        (&self.client).write_all(text.as_bytes()).expect("the server is there");
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn requests_that_come_as_a_whole_are_read_by_a_leader() {
    let mut fixture = Fixture::new();
    let read = fixture.connect_left();
    for _ in 0..3 {
        read.send(GET);
        assert_eq!(fixture.take(), 1);
        assert!(fixture.is_left(&read));
    }
    let put = "PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    read.send(&[GET, put, "\r\n", GET].concat());
    assert_eq!(fixture.take(), 3);
    assert!(fixture.is_left(&read));
    let activity = read.connection.activity();
    assert_eq!(activity.begun, 8);
    assert_eq!(activity.received, (7 * GET.len() + put.len() + "\r\n".len()) as u64);
}

#[test]
fn one_that_does_not_is_its_threads_with_all_that_has_come() {
    let large = format!(
        "PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n{}",
        "x".repeat(70_000)
    );
    let chunked = "PUT /kv/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\n\r\n";
    let mut fixture = Fixture::new();
    let read = fixture.connect_left();
    for (request, sent) in [(GET, 1), (GET, GET.len() - 1), (&large, 100), (chunked, 60)] {
        let (first, rest) = request.split_at(sent);
        // What is whole before it is taken at once.
        read.send(&[GET, first].concat());
        fixture.take_all(1);
        assert_eq!(read.connection.pipeline.occupation().0, Occupation::Reading);
        wait_until("it is returned", || !fixture.is_left(&read));
        thread::scope(|scope| {
            scope.spawn(|| read.send(rest));
            fixture.take_all(1);
        });
        for _ in 0..2 {
            read.send(GET);
            fixture.take_all(1);
        }
        fixture.wait_until_left(&read);
    }
    assert_eq!(fixture.end(read), 0);
    assert_eq!(fixture.dispatcher.connections.count(), 0);
}

#[test]
fn memory_is_reserved_for_a_body_whoever_reads_it() {
    const BYTES: usize = 2000;
    let head = format!("PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n");
    let put = head + &"x".repeat(BYTES);
    let mut fixture = Fixture::new();
    let uploads = Arc::clone(&fixture.dispatcher.uploads);
    let read = fixture.connect_left();
    read.send(&put);
    let job = fixture.take_one();
    assert_eq!(uploads.bytes(), BYTES as u64);
    assert!(job.connection.pipeline.next().is_none());
    drop(job);
    // There is none at once, so its thread waits for it.
    let mut others = Reservation::new(&uploads);
    assert!(others.reserve(1 << 40, &fixture.dispatcher.api), "it is alone");
    read.send(&put);
    assert_eq!(fixture.take(), 0);
    assert!(!fixture.is_left(&read));
    drop(others);
    let job = fixture.take_one();
    assert_eq!(uploads.bytes(), BYTES as u64);
    drop(job);
    assert_eq!(uploads.bytes(), 0);
}

#[test]
fn no_leader_hears_of_a_request_that_waits_behind_another() {
    let mut fixture = Fixture::new();
    let read = fixture.connect();
    read.send(GET);
    let job = fixture.take_one();
    read.send(GET);
    // Its thread has read both by then.
    fixture.wait_until_left(&read);
    assert!(fixture.inbox.arrivals().is_empty());
    let pipeline = &job.connection.pipeline;
    assert_eq!(pipeline.occupation(), (Occupation::Working, 2));
    assert!(pipeline.next().is_some());
    assert!(pipeline.next().is_none());
    assert_eq!(fixture.end(read), 0);
}

#[test]
fn a_leader_reads_no_more_ahead_than_a_thread() {
    const AHEAD: usize = 32;
    let mut fixture = Fixture::new();
    let read = fixture.connect_left();
    read.send(GET);
    let job = fixture.take_one();
    for ahead in 0..=AHEAD {
        assert!(fixture.is_left(&read), "{ahead}");
        read.send(GET);
        assert_eq!(fixture.take(), 0);
    }
    assert!(!fixture.is_left(&read));
    let pipeline = &job.connection.pipeline;
    assert_eq!(pipeline.occupation(), (Occupation::Working, 1 + AHEAD));
    for _ in 0..AHEAD {
        assert!(pipeline.next().is_some());
    }
    if pipeline.next().is_none() {
        // Its thread reads the last one only now.
        fixture.take_all(1);
    }
}

#[test]
fn many_that_come_at_once_are_all_taken() {
    const MANY: usize = 1000;
    let mut fixture = Fixture::new();
    let read = fixture.connect_left();
    thread::scope(|scope| {
        scope.spawn(|| read.send(&GET.repeat(MANY)));
        fixture.take_all(MANY);
    });
    fixture.wait_until_left(&read);
}

#[test]
fn each_end_is_its_threads() {
    let last = "GET /kv/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let malformed = "GET /kv/a\r\n\r\n";
    let mut fixture = Fixture::new();
    for (sent, requests) in [("", 0), (GET, 1), ("GET /", 1), (last, 1), (malformed, 1)] {
        let read = fixture.connect_left();
        read.send(sent);
        read.client.shutdown(Shutdown::Write).expect("it is open");
        fixture.take_all(requests);
        assert_eq!(fixture.end(read), 0, "{sent:?}");
    }
}

/// Receiving stops at urgent data, a byte that is told of apart.
#[test]
fn what_follows_urgent_data_is_read() {
    let mut fixture = Fixture::new();
    let read = fixture.connect_left();
    for _ in 0..10 {
        read.send(GET);
        SockRef::from(&read.client).send_out_of_band(b"!").expect("the server is there");
        read.send(GET);
        fixture.take_all(2);
    }
}

#[test]
fn a_connection_that_is_cut_is_its_threads() {
    let mut fixture = Fixture::new();
    for ends_by_reset in [false, true] {
        let read = fixture.connect_left();
        read.connection.socket.set_ends_by_reset(ends_by_reset);
        fixture.dispatcher.connections.cut(&read.connection, crate::server::cuts::Cut::Late);
        assert_eq!(fixture.take(), 0);
        read.thread.join().expect("it does not panic");
        assert_eq!(fixture.dispatcher.connections.count(), 0);
    }
}

#[test]
fn a_silent_connection_is_left_to_the_leaders() {
    let mut fixture = Fixture::new();
    let read = fixture.connect();
    fixture.wait_until_left(&read);
    assert_eq!(read.connection.pipeline.occupation(), (Occupation::Idle, 0));
    read.send(GET);
    assert_eq!(fixture.take(), 1);
    assert!(fixture.is_left(&read));
}

#[test]
fn nothing_is_left_of_a_connection_that_cannot_be_watched() {
    let fixture = Fixture::new();
    let read = fixture.connect();
    let (dispatcher, connection) = (Arc::clone(&fixture.dispatcher), Arc::clone(&read.connection));
    let inlet = Arc::new(Inlet::new(dispatcher, connection, Arc::clone(&fixture.inbox)));
    let number = EventData::new_u64(read.connection.id);
    epoll::add(&fixture.inbox.epoll, &read.connection.socket, number, EventFlags::ET)
        .expect("it is not watched yet");
    assert!(fixture.inbox.watch(&inlet).is_err());
    assert!(!fixture.is_left(&read));
}

#[test]
fn each_leader_hears_of_the_end() {
    const LEADERS: usize = 4;
    let mut fixture = Fixture::new();
    fixture.inbox = Arc::new(Inbox::new(LEADERS).expect("there are descriptors"));
    let (begun, begins) = crossbeam_channel::unbounded();
    let (ended, ends) = crossbeam_channel::unbounded();
    for _ in 0..LEADERS {
        let (inbox, begun, ended) = (Arc::clone(&fixture.inbox), begun.clone(), ended.clone());
        let dispatcher = Arc::clone(&fixture.dispatcher);
        thread::spawn(move || {
            let mut buffers = inbox.buffers();
            begun.send(()).expect("the test waits");
            while !inbox.is_closed() {
                assert_eq!(inbox.receive(&dispatcher, &mut buffers).count(), 0);
            }
            ended.send(()).expect("the test waits");
        });
    }
    for _ in 0..LEADERS {
        begins.recv().expect("each begins");
    }
    // By then they usually wait.
    thread::sleep(Duration::from_millis(50));
    // One that is woken up for something else waits again.
    fixture.inbox.wake();
    fixture.inbox.close();
    for leader in 0..LEADERS {
        ends.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{leader} leaders have ended"));
    }
}
