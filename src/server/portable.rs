//! The server where there is no door: systems other than Linux, or a build
//! with `--cfg portable`.
//!
//! tiny_http reads requests here and orders their responses. No deadline is
//! kept and no connection is cut; a refusal waits until tiny_http has read the
//! rest of the body, and a chunked body that is cut off inside a chunk counts
//! as whole. To HTTP/1.0 a response in parts that breaks off looks whole, and it
//! has no end where the client asked for the connection to stay. Each request is a
//! connection of its own to the rest of the server, and received bytes are not counted. A
//! stream keeps its thread, and the leaving of its client is noticed once the next part is
//! written.

/// Reading requests.
pub mod inlet {
    use super::socket::Socket;
    use crate::api::{Import, Operation, Refusal, Reply};
    use crate::server::body::{self, Body};
    use crate::server::dispatch::{Dispatcher, Task};
    use crate::server::framing::{self, Framing, Length};
    use crate::server::incoming;
    use crate::server::job::Job;
    use crate::server::request::{Head, Meaning, Request, Understood};
    use bytes::Bytes;
    use std::collections::{BTreeMap, VecDeque};
    use std::io::BufReader;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::thread;
    use tiny_http::HTTPVersion;

    /// The most leaders: of two, one could overtake the other with the next request of a
    /// connection, whose response waits for the first one's for ever.
    pub const LEADERS_MAX: usize = 1;

    /// A body up to this size has been read by tiny_http already, unless the
    /// head asks for something first.
    const READ_BYTES_MAX: u64 = 1024;

    /// The most requests of one peer that wait for the one in work.
    const WAITING_MAX: usize = 1000;

    /// The peers with a request in work, and the requests that wait behind it.
    static IN_WORK: Mutex<BTreeMap<SocketAddr, VecDeque<tiny_http::Request>>> =
        Mutex::new(BTreeMap::new());

    /// Takes a request of tiny_http's. Gives it if its turn has come and it is
    /// there as a whole; otherwise a thread of its own waits for the rest.
    pub fn enter(
        dispatcher: &Arc<Dispatcher>,
        request: tiny_http::Request,
    ) -> Option<(Job, Meaning)> {
        let peer = request.remote_addr().copied()?;
        let mut in_work = IN_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = in_work.get_mut(&peer) {
            if waiting.len() < WAITING_MAX {
                waiting.push_back(request);
            }
            return None;
        }
        in_work.insert(peer, VecDeque::new());
        drop(in_work);
        begin(dispatcher, request, peer)
    }

    /// Begins with the next request of a peer whose last one was answered.
    pub fn next(dispatcher: &Arc<Dispatcher>, peer: SocketAddr) {
        let mut in_work = IN_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        let next = in_work.get_mut(&peer).and_then(VecDeque::pop_front);
        if next.is_none() {
            in_work.remove(&peer);
        }
        drop(in_work);
        let begun = next.and_then(|request| begin(dispatcher, request, peer));
        if let Some((job, meaning)) = begun {
            dispatcher.queue(Task::Handle(job, meaning));
        }
    }

    fn begin(
        dispatcher: &Arc<Dispatcher>,
        mut request: tiny_http::Request,
        peer: SocketAddr,
    ) -> Option<(Job, Meaning)> {
        let understood = understand(dispatcher, &request);
        let is_here = understood.as_ref().is_ok_and(|(_, framing, admitted)| {
            let bytes = framing.length.known();
            let has_come = bytes == Some(0)
                || (!framing.expects_continue
                    && bytes.is_some_and(|bytes| bytes <= READ_BYTES_MAX));
            // It waits for the storage, piece by piece.
            has_come && !matches!(admitted, Ok(Operation::Import(_)))
        });
        let dispatcher = Arc::clone(dispatcher);
        let finish = move || {
            let read = read(&dispatcher, &mut request, understood);
            let socket = Socket::new(request.into_writer(), Arc::clone(&dispatcher), peer);
            (Job::new(dispatcher.connections.add(socket, peer, 0), read), dispatcher)
        };
        if is_here {
            return Some(finish().0);
        }
        let waiting = thread::Builder::new().name("upload".to_owned()).spawn(move || {
            let ((job, meaning), dispatcher) = finish();
            dispatcher.queue(Task::Handle(job, meaning));
        });
        if let Err(err) = waiting {
            log::warn!("no thread can be started for an upload: {err}");
        }
        None
    }

    fn understand(
        dispatcher: &Dispatcher,
        request: &tiny_http::Request,
    ) -> Result<Understood, (Head, Refusal)> {
        let (method, target) = (request.method().as_str(), request.url());
        let is_logged = dispatcher.is_logging();
        let HTTPVersion(1, version @ (0 | 1)) = *request.http_version() else {
            return Err((Head::of(method, target, is_logged), Refusal::VersionUnknown));
        };
        let fields = request.headers().iter();
        let fields = fields.map(|field| (field.field.as_str().as_str(), field.value.as_str()));
        let fields: Vec<(&str, &str)> = fields.take(framing::FIELDS_MAX + 1).collect();
        if fields.len() > framing::FIELDS_MAX {
            return Err((Head::of(method, target, is_logged), Refusal::FieldsTooMany));
        }
        framing::ParsedHead { method, target, version, fields: &fields }
            .understand(&dispatcher.api, is_logged)
    }

    /// Reads the body, where there is to be one.
    fn read(
        dispatcher: &Dispatcher,
        request: &mut tiny_http::Request,
        understood: Result<Understood, (Head, Refusal)>,
    ) -> Request {
        let (head, framing, admitted) = match understood {
            Ok(understood) => understood,
            Err((head, err)) => return Request::refused(head, err),
        };
        let admitted = match admitted {
            Ok(Operation::Import(import)) => {
                let (reply, is_done) = receive_import(dispatcher, request, framing, import);
                return if is_done {
                    Request { head, meaning: Err(reply) }
                } else {
                    Request::refused(head, reply)
                };
            }
            admitted => admitted,
        };
        let receive = |operation| Ok((operation, receive_body(dispatcher, request, framing)?));
        match admitted.and_then(receive) {
            Err(reply) if framing.length != Length::Known(0) => Request::refused(head, reply),
            meaning => Request { head, meaning },
        }
    }

    /// Imports a body as it comes. Returns the reply, and true if all of the body was
    /// taken.
    fn receive_import(
        dispatcher: &Dispatcher,
        request: &mut tiny_http::Request,
        framing: Framing,
        import: Import,
    ) -> (Reply, bool) {
        let mut reader = BufReader::new(request.as_reader());
        match framing.length {
            length @ Length::Known(_) => {
                let mut body = Body::new(reader, length);
                (incoming::import(dispatcher, import, &mut body, |_awaited| true), body.is_done())
            }
            // tiny_http takes the chunks apart, and nobody can tell if there are more.
            Length::Chunked => {
                (incoming::import(dispatcher, import, &mut reader, |_awaited| true), false)
            }
        }
    }

    fn receive_body(
        dispatcher: &Dispatcher,
        request: &mut tiny_http::Request,
        framing: Framing,
    ) -> Result<Bytes, Reply> {
        let bytes_max = dispatcher.api.value_bytes_max();
        let wanted = framing.length.known().unwrap_or(bytes_max.saturating_add(1));
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let read = body::read_up_to(BufReader::new(request.as_reader()), wanted, false, |_| true);
        let body = read.map_err(|err| match err {
            body::Error::TooLong => Reply::from(Refusal::ValueTooLarge),
            body::Error::Short
            | body::Error::Malformed(_)
            | body::Error::Broken(_)
            | body::Error::NoRoom => Reply::from(Refusal::BodyUnreadable),
        })?;
        match framing.length {
            Length::Known(bytes) if (body.len() as u64) < bytes => Err(Refusal::BodyShort.into()),
            Length::Chunked if body.len() as u64 > bytes_max => Err(Refusal::ValueTooLarge.into()),
            Length::Known(_) | Length::Chunked => Ok(body.into()),
        }
    }
}

/// Writing responses.
pub mod socket {
    use super::inlet;
    use crate::server::dispatch::Dispatcher;
    use std::io::{self, Write};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    type Writer = Box<dyn Write + Send>;

    /// tiny_http's writer for one response. Dropping it lets tiny_http go on.
    pub struct Socket {
        writer: Mutex<Option<Writer>>,
        dispatcher: Arc<Dispatcher>,
        peer: SocketAddr,
        sent: AtomicU64,
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            // The next response waits until the writer is gone.
            self.cut();
            inlet::next(&self.dispatcher, self.peer);
        }
    }

    impl Socket {
        /// It is given up after one response.
        pub const SERVES_ONE: bool = true;

        /// To send waits for the peer.
        pub const SEND_MAY_BLOCK: bool = true;

        pub fn new(writer: Writer, dispatcher: Arc<Dispatcher>, peer: SocketAddr) -> Self {
            Self { writer: Mutex::new(Some(writer)), dispatcher, peer, sent: AtomicU64::new(0) }
        }

        pub fn cut(&self) {
            *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }

        pub fn stop_sending(&self) {
            self.cut();
        }

        pub fn stop_receiving(&self) {
            self.cut();
        }

        #[allow(clippy::unused_self, reason = "elsewhere there is a choice")]
        pub fn set_ends_by_reset(&self, _ends_by_reset: bool) {}

        #[allow(clippy::unused_self, reason = "elsewhere there may be some")]
        pub fn has_unread(&self) -> bool {
            false
        }

        /// Nobody can tell.
        pub fn has_peer_left(&self) -> bool {
            false
        }

        /// Sends all of `bytes`, which may block.
        pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
            self.send_both_now(bytes, &[])
        }

        /// The same of two pieces, one after the other.
        pub fn send_both_now(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let writer = writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            writer.write_all(first)?;
            writer.write_all(second)?;
            writer.flush()?;
            let bytes = first.len() + second.len();
            self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
            Ok(bytes)
        }

        pub fn sent(&self) -> u64 {
            self.sent.load(Ordering::Relaxed)
        }
    }
}

/// Writing large responses.
pub mod sender {
    use crate::server::job::Job;
    use crate::server::response::{BodyEnd, Piece, Response};
    use crossbeam_channel::{Receiver, Sender};
    use std::io;

    pub struct Transfer {
        job: Job,
        response: Response,
        place: Option<Place>,
        first: Piece,
        sent: usize,
    }

    /// Nothing: those that wait are counted.
    pub struct Place;

    pub struct Senders {
        /// `None` ends one thread.
        queue: Sender<Option<Transfer>>,
        threads: usize,
    }

    pub struct SenderLoop(Receiver<Option<Transfer>>);

    impl Transfer {
        pub fn new(job: Job, response: Response, place: Option<Place>) -> Self {
            let first = response.first_piece();
            Self::begun(job, response, place, first, 0)
        }

        pub fn begun(
            job: Job,
            response: Response,
            place: Option<Place>,
            first: Piece,
            sent: usize,
        ) -> Self {
            Self { job, response, place, first, sent }
        }

        pub fn into_response(self) -> (Job, Response, Option<Place>) {
            (self.job, self.response, self.place)
        }

        fn write(&self) -> io::Result<()> {
            let socket = &self.job.connection.socket;
            if self.response.breaks_off() && self.response.body_end() == BodyEnd::LastChunk {
                // Others may follow on this connection, and this is no chunk.
                socket.send_now(b"broken off\r\n")?;
            }
            socket.send_now(self.first.get(self.sent..).unwrap_or_default())?;
            socket.send_now(self.response.second_piece())?;
            socket.send_now(self.response.third_piece()).map(|_| ())
        }
    }

    impl Senders {
        #[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
        pub fn new(threads: usize) -> io::Result<(Self, Vec<SenderLoop>)> {
            let (queue, transfers) = crossbeam_channel::unbounded();
            let loops = (0..threads).map(|_| SenderLoop(transfers.clone())).collect();
            Ok((Self { queue, threads }, loops))
        }

        pub fn under_way(&self) -> usize {
            self.queue.len()
        }

        #[allow(clippy::unused_self, reason = "elsewhere they are counted")]
        pub fn place(&self) -> Place {
            Place
        }

        pub fn send(&self, transfer: Transfer) {
            // The threads live as long as the server.
            self.queue.send(Some(transfer)).ok();
        }

        pub fn stop(&self) {
            for _ in 0..self.threads {
                self.queue.send(None).ok();
            }
        }
    }

    impl SenderLoop {
        pub fn run(self, finish: impl Fn(Transfer, io::Result<()>)) {
            while let Ok(Some(transfer)) = self.0.recv() {
                let outcome = transfer.write();
                finish(transfer, outcome);
            }
        }
    }
}

/// Accept loops, which are tiny_http's alone.
pub mod gate {
    use crate::server::arrivals::Arrivals;
    use crate::server::dispatch::Dispatcher;
    use std::io;
    use std::net::TcpListener;
    use std::sync::Arc;

    /// tiny_http has one listening socket.
    pub const LISTENERS_MAX: usize = 1;

    pub struct AcceptThread {
        pub number: usize,
    }

    #[allow(clippy::unused_self, reason = "elsewhere it is observed")]
    impl AcceptThread {
        pub fn new(number: usize) -> Self {
            Self { number }
        }

        pub fn has_begun(&self) -> bool {
            true
        }

        pub fn is_over(&self) -> bool {
            false
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
    pub fn open(
        _listener: &TcpListener,
        _listeners: &Arc<[TcpListener]>,
        _dispatcher: &Arc<Dispatcher>,
        _thread: &Arc<AcceptThread>,
        _arrivals: &Arc<Arrivals>,
    ) -> io::Result<()> {
        Ok(())
    }

    pub fn close((): ()) {}
}

/// The rest of the watchdog.
pub mod watchdog {
    use crate::server::accept::Acceptor;
    use crate::server::dispatch::Dispatcher;
    use crate::server::limits::Limits;
    use crate::server::mailbox::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// The time between two looks at the leader.
    const PACE: Duration = Duration::from_millis(20);

    pub struct Watchdog {
        dispatcher: Arc<Dispatcher>,
        acceptor: Acceptor,
    }

    impl Watchdog {
        pub fn new(_limits: Limits, dispatcher: Arc<Dispatcher>, acceptor: Acceptor) -> Self {
            Self { dispatcher, acceptor }
        }

        pub fn run(self) {
            let mut drained = None;
            loop {
                for command in self.dispatcher.watchdog.take_until(Instant::now() + PACE, false) {
                    match command {
                        Command::Drain(done) => {
                            self.acceptor.close();
                            drained = Some(done);
                        }
                        Command::Stop => return self.acceptor.retire_all(),
                        Command::WatchLeader
                        | Command::Inspect
                        | Command::CutSlowest
                        | Command::Complain(_) => {}
                    }
                }
                self.acceptor.displace_stuck(Instant::now());
                if self.dispatcher.connections.count() == 0
                    && let Some(done) = drained.take()
                {
                    // Whoever waits for this may have gone.
                    done.send(()).ok();
                }
            }
        }
    }
}
