use super::*;

/// Each step of its way moves it, and past that the move is a loop.
#[test]
fn a_request_in_work_is_small_enough_to_be_moved_at_once() {
    assert!(size_of::<(Job, Meaning)>() <= 256);
}

/// Responses in parts, through a socket and one sender.
#[cfg(all(target_os = "linux", not(portable)))]
mod in_parts {
    use super::*;
    use crate::api::{Call, Replied, Rest};
    use crate::server::connections::Connection;
    use crate::server::request::{self, Request};
    use crate::server::workers;
    use crate::storage::{Done, Entry, Error, Key, Memory, Op, Outcome, Storage};
    use bytes::Bytes;
    use socket2::{Domain, SockRef, Type};
    use std::collections::VecDeque;
    use std::io::{ErrorKind, Read as _};
    use std::mem;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::thread::{self, JoinHandle, ThreadId};
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

        fn accept(
            &self,
            listener: &TcpListener,
            client: TcpStream,
        ) -> (Arc<Connection>, TcpStream) {
            client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
            let (accepted, peer) = listener.accept().expect("a client");
            let socket = Socket::new(accepted.into());
            (self.dispatcher.connections.add(socket, peer, 0), client)
        }

        /// Answers a request with this head on a connection, in turn.
        fn answer(&self, connection: &Arc<Connection>, head: &str, reply: Reply) {
            let understood = request::understand(head.as_bytes(), &self.dispatcher.api, false);
            let Ok((head, ..)) = understood else { panic!("a head: {head}") };
            assert!(connection.pipeline.push(Request { head, meaning: Err(reply) }));
            if let Some(request) = connection.pipeline.announce() {
                let (job, meaning) = Job::new(Arc::clone(connection), request);
                self.dispatcher.handle(job, meaning, true);
            }
        }

        /// The request with this head, which is the only one of its connection.
        fn admit(&self, connection: Arc<Connection>, head: &str) -> (Job, Meaning) {
            let understood = request::understand(head.as_bytes(), &self.dispatcher.api, false);
            let Ok((head, _, admitted)) = understood else { panic!("a head: {head}") };
            let meaning = admitted.map(|operation| (operation, Bytes::new()));
            assert!(connection.pipeline.push(Request { head, meaning }));
            let request = connection.pipeline.announce().expect("it is the only one");
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
        let Task::Handle(job, meaning) = fixture.dispatcher.next_task() else {
            panic!("a request")
        };
        fixture.dispatcher.handle(job, meaning, false);
        assert!(is_answered(client));
        // Where all others have enough to do it is told nevertheless.
        for _ in 0..TASKS_MAX {
            fixture.dispatcher.queue(Task::Stop);
        }
        assert!(is_answered(ask()));
        assert_eq!(fixture.dispatcher.tasks(), TASKS_MAX);
    }

    /// A part of a body, counted for as long as it is in memory.
    struct Counted(Vec<u8>, Arc<Counts>);

    #[derive(Default)]
    struct Counts {
        made: AtomicUsize,
        alive: AtomicUsize,
        alive_max: AtomicUsize,
    }

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// So many parts of so many bytes each.
    fn counted(parts: usize, bytes: usize, counts: Arc<Counts>) -> Reply {
        counts.made.fetch_add(1, Ordering::Relaxed);
        let alive = counts.alive.fetch_add(1, Ordering::Relaxed) + 1;
        counts.alive_max.fetch_max(alive, Ordering::Relaxed);
        let part = Counted(vec![b'x'; bytes], Arc::clone(&counts));
        let reply = Reply::text(Bytes::from_owner(part));
        if parts == 1 {
            return reply;
        }
        reply.with_rest(Rest::new(move || Step::Reply(counted(parts - 1, bytes, counts))))
    }

    /// A part, and a step to the next.
    fn then(part: &'static str, step: impl FnOnce() -> Step + Send + 'static) -> Reply {
        Reply::text(part).with_rest(Rest::new(step))
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

    #[test]
    fn what_is_behind_waits_for_the_last_part() {
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        let stored = fixture.get("/kv/key");
        // The last part is there once another request waits.
        let (go, wait) = crossbeam_channel::bounded(1);
        let last = move || {
            wait.recv().expect("the test goes on");
            stored
        };
        let in_parts = then("a\n", move || Step::Reply(then("b\n", last)));
        fixture.answer(&connection, CHUNKED, in_parts);
        fixture.answer(&connection, LAST, Reply::text("behind"));
        go.send(()).expect("a part is asked for");
        // As a worker would.
        wait_until("what is behind has its turn", || fixture.dispatcher.tasks() > 0);
        if let Task::Handle(job, meaning) = fixture.dispatcher.next_task() {
            fixture.dispatcher.handle(job, meaning, false);
        }
        let (text, is_reset) = read_to_end(&mut client);
        assert!(!is_reset);
        let (first, second) = text.split_once("0\r\n\r\n").expect("a last chunk");
        assert_eq!(body(first), "2\r\na\n\r\n2\r\nb\n\r\n6\r\nstored\r\n");
        assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{second}");
        assert_eq!(body(second), "behind");
        fixture.wait_for_end();
        wait_until("none is under way", || fixture.dispatcher.senders.under_way() == 0);
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

    #[test]
    fn an_old_client_finds_the_end_of_the_connection() {
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        let counts = Arc::new(Counts::default());
        fixture.answer(&connection, OLD, counted(300, 10_000, counts));
        // Some is on its way yet when the connection ends.
        let (text, is_reset) = read_to_end(&mut client);
        assert_eq!((body(&text).len(), is_reset), (3_000_000, false));
        fixture.wait_for_end();
    }

    #[test]
    fn parts_that_are_made_at_once_do_not_grow_the_stack() {
        const PARTS: usize = 20_000;
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        let counts = Arc::new(Counts::default());
        fixture.answer(&connection, OLD, counted(PARTS, 1, Arc::clone(&counts)));
        assert_eq!(body(&read_to_end(&mut client).0).len(), PARTS);
        assert_eq!(counts.alive_max.load(Ordering::Relaxed), 1);
        fixture.wait_for_end();
    }

    #[test]
    fn clients_who_do_not_read_hold_a_part_each_and_no_thread() {
        const CLIENTS: usize = 300;
        let fixture = Fixture::new();
        let counts = Arc::new(Counts::default());
        let ask = |_| {
            let (connection, client) = fixture.connect_with_small_buffers();
            let endless = counted(usize::MAX, 100_000, Arc::clone(&counts));
            fixture.answer(&connection, CHUNKED, endless);
            client
        };
        let clients: Vec<TcpStream> = (0..CLIENTS).map(ask).collect();
        let mut made = 0;
        wait_until("their sockets are full", || {
            thread::sleep(Duration::from_millis(100));
            let before = mem::replace(&mut made, counts.made.load(Ordering::Relaxed));
            made == before
        });
        assert_eq!(fixture.dispatcher.senders.under_way(), CLIENTS);
        assert!(counts.alive_max.load(Ordering::Relaxed) <= CLIENTS);
        let (connection, mut client) = fixture.connect();
        let another = counted(100, 10_000, Arc::new(Counts::default()));
        fixture.answer(&connection, OLD, another);
        assert_eq!(body(&read_to_end(&mut client).0).len(), 1_000_000);
        // They leave, which ends the steps.
        drop(clients);
        fixture.wait_for_end();
        wait_until("no step is taken", || Arc::strong_count(&counts) == 1);
    }

    /// Parts without bytes and without end, for as long as the client is there.
    fn empty(steps: Arc<AtomicUsize>) -> Reply {
        steps.fetch_add(1, Ordering::Relaxed);
        then("", move || Step::Reply(empty(steps)))
    }

    #[test]
    fn parts_that_follow_each_other_keep_no_other_client_waiting() {
        let fixture = Fixture::new();
        let (endless, waits) = fixture.connect();
        fixture.answer(&endless, CHUNKED, empty(Arc::default()));
        // More than its socket takes, so that it waits for room in between.
        let (connection, mut client) = fixture.connect();
        fixture.answer(&connection, OLD, counted(40, 1 << 20, Arc::default()));
        assert_eq!(body(&read_to_end(&mut client).0).len(), 40 << 20);
        drop(waits);
        fixture.dispatcher.connections.cut(&endless, Cut::Gone);
        fixture.wait_for_end();
    }

    #[test]
    fn the_steps_end_with_a_client_who_is_told_nothing() {
        let fixture = Fixture::new();
        let steps = Arc::default();
        let (connection, mut client) = fixture.connect();
        fixture.answer(&connection, CHUNKED, empty(Arc::clone(&steps)));
        client.read_exact(&mut [0; 17]).expect("the beginning of a head");
        // Unread bytes make it a reset.
        drop(client);
        fixture.wait_for_end();
        wait_until("no step is taken", || Arc::strong_count(&steps) == 1);
    }

    #[test]
    fn a_part_that_cannot_be_had_leaves_no_whole_response() {
        const FAULTS: [(&str, &str); 2] = [("/kv/missing", "404: 1"), ("panic", "500: 1")];
        const ANSWERS: [(&str, &str, bool); 2] =
            [(CHUNKED, "2\r\na\n\r\n", false), (OLD, "a\n", true)];
        for (head, written, ends_by_reset) in ANSWERS {
            for (fault, status) in FAULTS {
                let fixture = Fixture::new();
                let (connection, mut client) = fixture.connect();
                let missing = (fault != "panic").then(|| fixture.get(fault));
                let (go, gone) = crossbeam_channel::bounded::<()>(0);
                let rest = move || {
                    gone.recv().ok();
                    missing.expect("this panic is part of a test")
                };
                fixture.answer(&connection, head, then("a\n", rest));
                fixture.answer(&connection, head, Reply::text("behind"));
                // A reset may overtake what was written.
                let mut bytes = Vec::new();
                while !bytes.ends_with(written.as_bytes()) {
                    let mut byte = [0];
                    client.read_exact(&mut byte).expect("the first part");
                    bytes.extend(byte);
                }
                drop(go);
                assert_eq!(read_to_end(&mut client), (String::new(), ends_by_reset), "{fault}");
                fixture.wait_for_end();
                let lines = fixture.dispatcher.api.metrics().lines();
                assert!(matches!(&*lines, [line] if line.contains(status)), "{lines:?}");
            }
        }
    }

    /// News, of which a stream tells.
    #[derive(Default)]
    struct News(Mutex<Told>);

    #[derive(Default)]
    struct Told {
        /// News that are not told yet, each a part.
        untold: VecDeque<Reply>,
        parked: Option<Replied>,
        is_over: bool,
        /// The thread of the last step.
        stepped_on: Option<ThreadId>,
        panics: bool,
    }

    impl News {
        /// The first part of a stream of them.
        fn stream(self: &Arc<Self>) -> Reply {
            self.followed_by(Reply::text("begun\n"))
        }

        fn followed_by(self: &Arc<Self>, reply: Reply) -> Reply {
            let news = Arc::clone(self);
            reply.with_rest(Rest::of_stream(move || {
                news.0.lock().unwrap().stepped_on = Some(thread::current().id());
                Step::Wait(news)
            }))
        }

        /// Something happens, on this thread.
        fn happen(self: &Arc<Self>, reply: Reply) {
            let mut told = self.0.lock().unwrap();
            match told.parked.take() {
                Some(parked) => {
                    drop(told);
                    parked(self.part(reply));
                }
                None => told.untold.push_back(reply),
            }
        }

        fn part(self: &Arc<Self>, reply: Reply) -> Reply {
            if reply.status() == 200 { self.followed_by(reply) } else { reply }
        }

        fn is_parked(&self) -> bool {
            self.0.lock().unwrap().parked.is_some()
        }

        fn wait_until_parked(&self) {
            wait_until("the stream waits", || self.is_parked());
        }
    }

    impl Waiting for News {
        fn begin(self: Arc<Self>, _: Arc<dyn Storage>, done: Replied) {
            let panics = mem::take(&mut self.0.lock().unwrap().panics);
            assert!(!panics, "this panic is part of a test");
            let mut told = self.0.lock().unwrap();
            let next = told.untold.pop_front();
            match next {
                Some(reply) => {
                    drop(told);
                    done(self.part(reply));
                }
                None if told.is_over => {
                    drop(told);
                    done(Reply::text("over\n"));
                }
                None => told.parked = Some(done),
            }
        }

        fn end(&self) {
            let mut told = self.0.lock().unwrap();
            told.is_over = true;
            let parked = told.parked.take();
            drop(told);
            if let Some(parked) = parked {
                parked(Reply::text("over\n"));
            }
        }
    }

    /// The data of a chunked body that is whole.
    fn whole(body: &str) -> String {
        let (mut rest, mut data) = (body, String::new());
        loop {
            let (size, after) = rest.split_once("\r\n").expect("a chunk");
            let size = usize::from_str_radix(size, 16).expect("a size");
            data += &after[..size];
            rest = after[size..].strip_prefix("\r\n").expect("the end of a chunk");
            if size == 0 {
                assert_eq!(rest, "");
                return data;
            }
        }
    }

    /// Reads until so much of a body has come; the head is thrown away.
    fn read_until(client: &mut TcpStream, end: &str) {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("the stream goes on");
            bytes.extend(byte);
        }
    }

    #[test]
    fn a_part_that_was_waited_for_is_written_by_the_thread_that_brings_it() {
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        let news = Arc::new(News::default());
        fixture.answer(&connection, LAST, news.stream());
        read_until(&mut client, "begun\n\r\n");
        for text in ["one\n", "two\n"] {
            news.wait_until_parked();
            news.happen(Reply::text(text));
            assert_eq!(news.0.lock().unwrap().stepped_on, Some(thread::current().id()));
            assert!(news.is_parked());
            read_until(&mut client, &format!("4\r\n{text}\r\n"));
        }
        let is_streaming = connection.activity().stage == Some(Stage::Streaming);
        assert!(is_streaming, "{:?}", connection.activity());
        connection.pipeline.note_client_end();
        assert_eq!(read_to_end(&mut client), ("5\r\nover\n\r\n0\r\n\r\n".to_owned(), false));
        fixture.wait_for_end();
    }

    #[test]
    fn parts_of_a_stream_that_are_there_at_once_do_not_grow_the_stack() {
        const PARTS: usize = 20_000;
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        let news = Arc::new(News::default());
        for _ in 0..PARTS {
            news.happen(Reply::text("x"));
        }
        fixture.answer(&connection, OLD, news.stream());
        news.wait_until_parked();
        fixture.dispatcher.drain();
        let (text, is_reset) = read_to_end(&mut client);
        assert_eq!((body(&text).len(), is_reset), ("begun\nover\n".len() + PARTS, false));
        fixture.wait_for_end();
    }

    #[test]
    fn a_client_who_reads_slowly_misses_nothing() {
        const PARTS: usize = 300;
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        let news = Arc::new(News::default());
        fixture.answer(&connection, LAST, news.stream());
        let part = |number: usize| format!("{number:059999}\n");
        for number in 0..PARTS {
            news.happen(Reply::text(part(number)));
        }
        wait_until("the socket is full", || {
            let left = || news.0.lock().unwrap().untold.len();
            let before = left();
            thread::sleep(Duration::from_millis(100));
            before == left()
        });
        assert!(!news.is_parked(), "there is more than the socket takes");
        assert_eq!(connection.activity().stage, Some(Stage::Streaming));
        assert_eq!(fixture.dispatcher.senders.under_way(), 0);
        // It ends with the part that is under way.
        fixture.dispatcher.drain();
        let (text, is_reset) = read_to_end(&mut client);
        let data = whole(body(&text));
        let parts = data.strip_prefix("begun\n").expect("the first part");
        let whole = parts.len() / 60_000;
        assert!(whole < PARTS);
        assert!(parts == (0..whole).map(part).collect::<String>(), "{whole} parts in order");
        assert!(!is_reset);
        fixture.wait_for_end();
    }

    #[test]
    fn streams_take_no_place_of_others() {
        const STREAMS: usize = 40;
        const PARTS: usize = 200;
        let fixture = Fixture::new();
        let news: Vec<Arc<News>> = (0..STREAMS).map(|_| Arc::default()).collect();
        let begin = |news: &Arc<News>| {
            let (connection, client) = fixture.connect();
            fixture.answer(&connection, LAST, news.stream());
            client
        };
        let clients: Vec<TcpStream> = news.iter().map(begin).collect();
        // More than their sockets take.
        let part = Bytes::from(vec![b'x'; 60_000]);
        for news in &news {
            news.wait_until_parked();
            (0..PARTS).for_each(|_| news.happen(Reply::text(part.clone())));
            assert!(!news.is_parked());
        }
        assert_eq!(fixture.dispatcher.senders.under_way(), 0);
        drop(clients);
        fixture.wait_for_end();
    }

    /// So many news that always are there: more than anybody waits for.
    struct Flood(usize);

    impl Waiting for Flood {
        fn begin(self: Arc<Self>, _: Arc<dyn Storage>, done: Replied) {
            done(flood(self.0));
        }

        fn end(&self) {}
    }

    fn flood(news: usize) -> Reply {
        if news == 0 {
            return Reply::text("all\n");
        }
        Reply::text("x\n").with_rest(Rest::of_stream(move || Step::Wait(Arc::new(Flood(news - 1)))))
    }

    #[test]
    fn a_stream_that_never_waits_ends_with_the_server_and_with_its_client() {
        type End = fn(&Fixture, &Connection);
        let ends: [End; 2] = [
            |fixture, _| fixture.dispatcher.drain(),
            |_, connection| connection.pipeline.note_client_end(),
        ];
        for end in ends {
            let fixture = Fixture::new();
            let (connection, mut client) = fixture.connect();
            fixture.answer(&connection, LAST, flood(300_000));
            read_until(&mut client, "x\n\r\n2\r\nx\n\r\n");
            end(&fixture, &connection);
            let (text, is_reset) = read_to_end(&mut client);
            let rest = text.strip_suffix("0\r\n\r\n").expect("a last chunk");
            assert_eq!((rest.replace("2\r\nx\n\r\n", "").as_str(), is_reset), ("", false));
            fixture.wait_for_end();
        }
    }

    #[test]
    fn a_stream_that_cannot_go_on_has_no_end() {
        for (head, ends_by_reset) in [(LAST, false), (OLD, true)] {
            for panics in [false, true] {
                let fixture = Fixture::new();
                let (connection, mut client) = fixture.connect();
                let news = Arc::new(News::default());
                fixture.answer(&connection, head, news.stream());
                read_until(&mut client, if head == OLD { "begun\n" } else { "begun\n\r\n" });
                news.wait_until_parked();
                if panics {
                    news.0.lock().unwrap().panics = true;
                    news.happen(Reply::text("panics\n"));
                    read_until(&mut client, if head == OLD { "panics\n" } else { "panics\n\r\n" });
                } else {
                    news.happen(Reply::error(503, "behind"));
                }
                assert_eq!(read_to_end(&mut client), (String::new(), ends_by_reset), "{head}");
                fixture.wait_for_end();
            }
        }
    }
}
