//! The dispatcher before sockets, with one sender.

mod parts;
mod streams;

use super::*;
use crate::api::Call;
use crate::server::pipeline::Added;
use crate::server::request::{self, Request};
use crate::server::workers;
use crate::storage::{Done, Entry, Error, Key, Memory, Op, Outcome, Storage};
use bytes::Bytes;
use socket2::{Domain, SockRef, Type};
use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(25);

const CHUNKED: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";

/// A memory that does nothing at once, and all of it on other threads.
struct Later(Memory);

impl Storage for Later {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        let memory = self.0.clone();
        thread::spawn(move || memory.submit(op, done));
    }

    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

/// A dispatcher with one sender, which ends when this is dropped.
struct Fixture {
    dispatcher: Arc<Dispatcher>,
    sender: Option<JoinHandle<()>>,
}

impl Fixture {
    fn new() -> Self {
        let memory = Memory::new();
        let key = Key::new("key").expect("a key");
        let set = Op::Set(key, Entry::new(Bytes::from_static(b"stored")));
        let (stored, is_stored) = crossbeam_channel::bounded(1);
        memory.submit(set, Box::new(move |outcome| drop(stored.send(outcome))));
        let outcome = is_stored.recv_timeout(PATIENCE).expect("an outcome");
        assert!(outcome.is_ok(), "there is room");
        let api = Api::new(Arc::new(Later(memory)), 1 << 20);
        let (senders, mut loops) = Senders::new(1).expect("there are descriptors");
        let dispatcher = Arc::new(Dispatcher::new(api, senders, Room::default(), None));
        let (sender, to) = (loops.pop().expect("one"), Arc::clone(&dispatcher));
        let run = move || sender.run(|transfer, outcome| to.take_back(transfer, outcome));
        let thread = thread::Builder::new().stack_size(workers::STACK_BYTES);
        let sender = Some(thread.spawn(run).expect("there is a thread"));
        Self { dispatcher, sender }
    }

    /// Both ends of a new connection.
    fn connect(&self) -> (Arc<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        self.accept(&listener, client.expect("a listener"))
    }

    /// The same with buffers that are soon full.
    fn connect_with_small_buffers(&self) -> (Arc<Connection>, TcpStream) {
        const BYTES: usize = 128 << 10;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        // What is accepted takes it over.
        SockRef::from(&listener).set_send_buffer_size(BYTES).expect("a size");
        let client = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.set_recv_buffer_size(BYTES).expect("a size");
        let addr = listener.local_addr().expect("an address");
        client.connect(&addr.into()).expect("a listener");
        self.accept(&listener, client.into())
    }

    fn accept(&self, listener: &TcpListener, client: TcpStream) -> (Arc<Connection>, TcpStream) {
        client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        let (accepted, peer) = listener.accept().expect("a client");
        let socket = Socket::new(accepted.into());
        (self.dispatcher.connections.add(socket, peer, 0), client)
    }

    /// Answers a request with this head on a connection, in turn.
    fn answer(&self, connection: &Arc<Connection>, head: &str, reply: Reply) {
        let understood = request::understand(head.as_bytes(), &self.dispatcher.api, false);
        let Ok((head, ..)) = understood else { panic!("a head: {head}") };
        match connection.pipeline.add(Request { head, meaning: Err(reply) }) {
            Added::Begun(request) => {
                let (job, meaning) = Job::new(Arc::clone(connection), request);
                self.dispatcher.handle(job, meaning, true);
            }
            Added::Waits => {}
            Added::Refused => panic!("it is not taken"),
        }
    }

    /// The request with this head, which is the only one of its connection.
    fn admit(&self, connection: Arc<Connection>, head: &str) -> (Job, Meaning) {
        let understood = request::understand(head.as_bytes(), &self.dispatcher.api, false);
        let Ok((head, _, admitted)) = understood else { panic!("a head: {head}") };
        let meaning = admitted.map(|operation| (operation, Bytes::new()));
        let Added::Begun(request) = connection.pipeline.add(Request { head, meaning }) else {
            panic!("it is not the only one");
        };
        Job::new(connection, request)
    }

    /// The step that reads a key.
    fn get(&self, target: &str) -> Step {
        let call = Call { method: "GET", target, fields: &[], body_bytes: Some(0) };
        let admitted = self.dispatcher.api.admit(&call).decision;
        let Ok(operation) = admitted else { panic!("a read of {target}") };
        self.dispatcher.api.try_now(operation, Bytes::new())
    }

    fn wait_for_end(&self) {
        wait_until("every connection has ended", || self.dispatcher.connections.count() == 0);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.dispatcher.senders.stop();
        if let Some(sender) = self.sender.take() {
            assert!(sender.join().is_ok() || thread::panicking(), "the sender panicked");
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited {PATIENCE:?}, and not until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The bytes up to the end of the connection, and whether that was a reset.
fn read_to_end(client: &mut TcpStream) -> (String, bool) {
    let mut bytes = Vec::new();
    let is_reset = match client.read_to_end(&mut bytes) {
        Ok(_) => false,
        Err(err) if err.kind() == ErrorKind::ConnectionReset => true,
        Err(err) => panic!("expected the connection's end: {err}"),
    };
    (String::from_utf8(bytes).expect("text"), is_reset)
}

fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").expect("the end of a head").1
}

/// Reads until this has come, and throws it away with all before it.
fn read_until(client: &mut TcpStream, end: &str) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the body goes on");
        bytes.extend(byte);
    }
}

#[test]
fn the_metrics_are_no_work_for_the_leader_while_there_is_another() {
    let fixture = Fixture::new();
    let ask = || {
        let (connection, client) = fixture.connect();
        let head = "GET /metrics HTTP/1.0\r\n\r\n";
        let understood = request::understand(head.as_bytes(), &fixture.dispatcher.api, false);
        let Ok((head, _, Ok(operation))) = understood else { panic!("a head: {head}") };
        let job = Job { connection, head };
        fixture.dispatcher.handle(job, Ok((operation, Bytes::new())), true);
        client
    };
    let is_answered = |mut client: TcpStream| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        answer.starts_with("HTTP/1.1 200 ")
    };
    let client = ask();
    assert_eq!(fixture.dispatcher.tasks(), 1);
    let Task::Handle(job, meaning) = fixture.dispatcher.next_task() else { panic!("a request") };
    fixture.dispatcher.handle(job, meaning, false);
    assert!(is_answered(client));
    // Where all others have enough to do it is told nevertheless.
    for _ in 0..TASKS_MAX {
        fixture.dispatcher.queue(Task::Stop);
    }
    assert!(is_answered(ask()));
    assert_eq!(fixture.dispatcher.tasks(), TASKS_MAX);
}

#[test]
fn a_full_queue_holds_up_no_probe() {
    let fixture = Fixture::new();
    for _ in 0..TASKS_MAX {
        fixture.dispatcher.queue(Task::Stop);
    }
    for target in ["/livez", "/readyz", "/readyz?verbose", "/healthz"] {
        let (connection, mut client) = fixture.connect();
        let (job, meaning) =
            fixture.admit(connection, &CHUNKED.replace(" / ", &format!(" {target} ")));
        fixture.dispatcher.handle(job, meaning, true);
        let mut answer = [0; 15];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK", "{target}");
    }
    // A worker has no time for one.
    let (connection, mut client) = fixture.connect();
    let (job, meaning) = fixture.admit(connection, CHUNKED);
    fixture.dispatcher.queue(Task::Handle(job, meaning));
    let mut answer = [0; 12];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 503");
}

/// Each step of its way moves it, and past that the move is a loop.
#[test]
fn a_request_in_work_is_small_enough_to_be_moved_at_once() {
    assert!(size_of::<(Job, Meaning)>() <= 256);
}
