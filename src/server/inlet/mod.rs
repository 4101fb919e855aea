//! The way in: how requests are read from a connection.
//!
//! tiny_http reads from a connection on a thread of its own, which is here for as long as
//! that lives ([`Stream::read`]): no byte of a client's reaches the library. The thread
//! takes a whole request from the socket, head and body, has it checked and admitted, and
//! leaves it in its connection's pipeline.
//!
//! Once requests come as a whole it leaves the reading to the leaders, who do the same
//! without waiting ([`Inlet::take`]), and rests until there is one that they cannot take:
//! it is cut off, or longer than is received at once, or the last, or too many wait.
//!
//! ```text
//!               two requests as a whole, or silence
//!    thread ──────────────────────────────────────────► leaders
//!  waits for its client                               take what is there
//!           ◄──────────────────────────────────────────
//!               one that is to be waited for; the end
//! ```
//!
//! The thread is the only one that waits for a client to send: it waits for one client,
//! and each client has one. So an import is done here, piece by piece, and what is left in
//! the pipeline is its reply.

mod input;

use super::body::{self, Body};
use super::connections::Connection;
use super::cuts::Cut;
use super::dispatch::Dispatcher;
use super::door::Stream;
use super::framing::{Framing, HEAD_BYTES_MAX, Length};
use super::inbox::Inbox;
use super::incoming::{self, Awaited};
use super::job::Job;
use super::pipeline::{Added, Stage};
use super::request::{self, Head, Meaning, Request};
use super::uploads::Reservation;
use crate::api::{Import, Operation, Refusal, Reply};
use crate::platform::{allocator, stack, threads};
use bytes::Bytes;
use input::{BODY_STEP_BYTES, Input, Wire, look_for_end};
use std::io::Read as _;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most leaders: the pipeline of a connection gives its requests in order, whoever has
/// read them.
pub const LEADERS_MAX: usize = usize::MAX;

/// The name of tiny_http's threads, one for each connection.
pub const CONNECTION_THREAD: &str = "connection";

/// All that tiny_http is given: the first byte of a request, at which it frees what it holds
/// for a new connection.
const FIRST_BYTE: u8 = b'G';

/// A body up to this size is read together with its head, refused or not, so that
/// its connection outlives a refusal. Memory is reserved for a larger one.
const SMALL_BODY_BYTES_MAX: u64 = 1024;

/// The bytes received at once of a head.
const HEAD_STEP_BYTES: usize = 1024;

/// After so many requests as a whole, one behind the other, the reading is left to the
/// leaders. Many clients have one.
const WHOLE_MIN: usize = 2;

/// The time after which a thread that has nothing to read gives up what it can.
const REST_AFTER: Duration = Duration::from_secs(1);

/// A connection, to be read from.
pub struct Inlet {
    dispatcher: Arc<Dispatcher>,
    connection: Arc<Connection>,
    inbox: Arc<Inbox>,
    reading: Mutex<Reading>,
    /// Wakes its thread, to which the reading was returned.
    returned: Condvar,
    /// tiny_http has its byte.
    has_begun: AtomicBool,
    /// The call of tiny_http's was made in which all is read.
    has_read: AtomicBool,
    /// tiny_http has released one of its two descriptors.
    is_half_released: AtomicBool,
}

/// Who reads from a connection.
enum Reading {
    /// Its thread.
    Thread,
    /// The leaders, of whom one at a time holds the lock.
    Leaders,
    /// Its thread is to go on with this.
    Returned(Input),
}

/// The outcome of reading the next request.
enum Next {
    /// There is one.
    Request,
    /// Nothing of it is there yet, and the leaders may look for it.
    Nothing {
        /// It has not come for a while.
        is_quiet: bool,
    },
    /// There is none, and no reader is needed until the last one is answered.
    ReadOut,
    /// There is none, and the connection is over.
    End,
}

impl Inlet {
    /// The way in from `connection`.
    pub fn new(
        dispatcher: Arc<Dispatcher>,
        connection: Arc<Connection>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            dispatcher,
            connection,
            inbox,
            reading: Mutex::new(Reading::Thread),
            returned: Condvar::new(),
            has_begun: AtomicBool::new(false),
            has_read: AtomicBool::new(false),
            is_half_released: AtomicBool::new(false),
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes the requests that are there as a whole, for a leader: those whose turn has come
    /// are added to `taken`. With anything else the reading is its thread's again. `bytes` is
    /// room to receive in; what `is_behind` it is received as well. Never blocks.
    pub fn take(&self, is_behind: bool, bytes: &mut Vec<u8>, taken: &mut Vec<(Job, Meaning)>) {
        let mut reading = self.reading();
        if !matches!(*reading, Reading::Leaders) {
            // Another has returned it meanwhile.
            return;
        }
        let mut input = Input { buffer: mem::take(bytes), ..Input::default() };
        let take = || self.take_whole(&mut input, is_behind, taken);
        let stays = panic::catch_unwind(AssertUnwindSafe(take)).unwrap_or_else(|_panic| {
            self.dispatcher.connections.cut(&self.connection, Cut::Panicked);
            false
        });
        let rest = input.unused().to_vec();
        *bytes = mem::replace(&mut input.buffer, rest);
        bytes.clear();
        input.used = 0;
        if !stays {
            // Until its thread looks at it, what has come is no silence.
            self.connection.pipeline.set_coming(!input.unused().is_empty());
            self.inbox.unwatch(&self.connection);
            *reading = Reading::Returned(input);
            self.returned.notify_one();
        }
    }

    /// The same; `false` if its thread is to go on.
    fn take_whole(
        &self,
        input: &mut Input,
        is_behind: bool,
        taken: &mut Vec<(Job, Meaning)>,
    ) -> bool {
        loop {
            let Self { connection, .. } = self;
            let Some(received) = (Wire { connection, input }).receive_now() else { return true };
            while !input.unused().is_empty() {
                let before = input.used;
                let Some(request) = self.whole_request(input) else { return false };
                match connection.pipeline.add(request) {
                    Added::Begun(request) => {
                        taken.push(Job::new(Arc::clone(connection), request));
                    }
                    Added::Waits => {}
                    Added::Refused => {
                        input.used = before;
                        return false;
                    }
                }
            }
            if received == 0 {
                return false;
            }
            // What has come since is told of again.
            if received < input.buffer.capacity() && !is_behind {
                return true;
            }
            input.buffer.clear();
            input.used = 0;
        }
    }

    /// The next request, if it is there as a whole and its connection goes on.
    fn whole_request(&self, input: &mut Input) -> Option<Request> {
        let unused = input.unused();
        let head_bytes = look_for_end(unused, 0).ok().flatten()?;
        if head_bytes > HEAD_BYTES_MAX {
            return None;
        }
        let (head, rest) = unused.split_at_checked(head_bytes)?;
        let Self { dispatcher, .. } = self;
        let understood = request::understand(head, &dispatcher.api, dispatcher.is_logging());
        let (mut head, framing, admitted) = understood.ok()?;
        let body = rest.get(..usize::try_from(framing.length.known()?).ok()?)?;
        let is_small = body.len() as u64 <= SMALL_BODY_BYTES_MAX;
        if head.is_last()
            || framing.expects_continue
            || matches!(admitted, Ok(Operation::Import(_)))
            || (admitted.is_err() && !is_small)
        {
            return None;
        }
        if !is_small {
            let mut reservation = Reservation::new(&dispatcher.uploads);
            if !reservation.reserve_now(body.len() as u64, &dispatcher.api) {
                return None;
            }
            head.reserved = Some(Box::new(reservation));
        }
        let used = head_bytes + body.len();
        let body = if body.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(body) };
        input.used += used;
        Some(Request { head, meaning: admitted.map(|operation| (operation, body)) })
    }

    /// Leaves the reading to the leaders until it is returned. Where that fails it is not.
    fn leave(self: &Arc<Self>, is_quiet: bool) -> Input {
        let mut reading = self.reading();
        if let Err(err) = self.inbox.watch(self) {
            log::debug!("{}: its thread has to read it: {err}", self.connection.peer);
            return Input::default();
        }
        *reading = Reading::Leaders;
        let is_left = |reading: &mut Reading| matches!(reading, Reading::Leaders);
        if !is_quiet {
            let wait = self.returned.wait_timeout_while(reading, REST_AFTER, is_left);
            (reading, _) = wait.unwrap_or_else(PoisonError::into_inner);
        }
        if is_left(&mut reading) {
            // With as little memory as can be.
            reading = allocator::without_cache(|| {
                stack::give_back_unused();
                let wait = self.returned.wait_while(reading, is_left);
                wait.unwrap_or_else(PoisonError::into_inner)
            });
        }
        match mem::replace(&mut *reading, Reading::Thread) {
            Reading::Returned(input) => input,
            Reading::Thread | Reading::Leaders => Input::default(),
        }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        // A panic is caught below it.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next request and leaves it with the connection.
    // Its frame is not on the stack of a thread that rests.
    #[inline(never)]
    fn next(&self, input: &mut Input) -> Next {
        if input.needs_no_reader && self.connection.pipeline.read_out() {
            return Next::ReadOut;
        }
        if !input.is_over && self.connection.pipeline.wait_for_room() {
            if input.unused().is_empty() && !input.has_ended {
                input.trim();
                let is_busy = input.whole >= WHOLE_MIN;
                if is_busy || self.is_quiet(input) {
                    return Next::Nothing { is_quiet: !is_busy };
                }
            }
            if let Some(request) = self.request(input) {
                input.is_over = request.head.is_last();
                let is_all = request.meaning.is_ok() && input.unused().is_empty();
                input.needs_no_reader =
                    input.is_over && !input.has_ended && (is_all || request.is_stream());
                if self.connection.pipeline.push(request) {
                    return Next::Request;
                }
            }
        }
        if input.has_ended {
            self.connection.pipeline.note_client_end();
        }
        // A client may end its side and wait for its answers; and one that goes
        // on to send has to wait for them.
        self.connection.pipeline.wait_until_answered();
        self.linger(input);
        Next::End
    }

    /// Returns true if there is nothing of a request yet, after a while of waiting for
    /// it.
    fn is_quiet(&self, input: &mut Input) -> bool {
        let connection = &self.connection;
        Wire { connection, input }.receive_soon(HEAD_STEP_BYTES).is_none()
    }

    /// Discards input until the client hangs up or is cut.
    fn linger(&self, input: &mut Input) {
        while !input.has_ended {
            input.used = input.buffer.len();
            self.receive(input, BODY_STEP_BYTES);
        }
    }

    /// Reads a whole request; `None` if none comes.
    fn request(&self, input: &mut Input) -> Option<Request> {
        let head_bytes = match self.head_end(input)? {
            Ok(bytes) => bytes,
            Err(err) => {
                let head = Head::of("", "", self.dispatcher.is_logging());
                return Some(Request::refused(head, err));
            }
        };
        let head = input.unused().get(..head_bytes).unwrap_or_default();
        let is_logged = self.dispatcher.is_logging();
        let understood = request::understand(head, &self.dispatcher.api, is_logged);
        input.use_up(head_bytes);
        let (mut head, framing, admitted) = match understood {
            Ok(understood) => understood,
            Err((head, err)) => return Some(Request::refused(head, err)),
        };
        self.connection.pipeline.set_coming(true);
        let bytes_here = input.unused().len() as u64;
        let is_here = framing.length.known().is_some_and(|bytes| bytes <= bytes_here);
        input.whole = if is_here { input.whole + 1 } else { 0 };
        let _awaited = (!is_here).then(|| self.connection.set_awaited(&head));
        let small = framing.length.known().filter(|bytes| *bytes <= SMALL_BODY_BYTES_MAX);
        let comes_anyway = small.is_some_and(|bytes| bytes == 0 || !framing.expects_continue);
        let admitted = match admitted {
            Err(reply) if !comes_anyway => return Some(Request::refused(head, reply)),
            Ok(Operation::Import(import)) => return self.import(input, head, framing, import),
            admitted => admitted,
        };
        let reserved = &mut head.reserved;
        let body = match small {
            Some(0) => Ok(Bytes::new()),
            Some(_) if comes_anyway => self.receive_body(input, framing.length, reserved),
            Some(_) | None => self.receive_awaited_body(input, framing, reserved)?,
        };
        Some(match body {
            Ok(body) => Request { head, meaning: admitted.map(|operation| (operation, body)) },
            Err(reply) => Request::refused(head, reply),
        })
    }

    /// Receives until a head is complete, and gives its length; `None` if the
    /// client ends before a byte of it.
    fn head_end(&self, input: &mut Input) -> Option<Result<usize, Refusal>> {
        let mut looked_at = 0;
        loop {
            // Empty lines before a request are ignored (RFC 9112, 2.2).
            while looked_at == 0 && input.unused().starts_with(b"\r\n") {
                input.use_up(2);
            }
            let head = input.unused();
            match look_for_end(head, looked_at) {
                Ok(Some(end)) if end <= HEAD_BYTES_MAX => return Some(Ok(end)),
                Ok(None) if head == b"\r" => {}
                Ok(None) if head.len() <= HEAD_BYTES_MAX => looked_at = head.len(),
                Ok(_) => return Some(Err(Refusal::HeadTooLong)),
                Err(err) => return Some(Err(err)),
            }
            self.connection.pipeline.set_coming(!head.is_empty());
            if self.receive(input, HEAD_STEP_BYTES) == 0 {
                let is_cut_off = !input.unused().is_empty();
                return is_cut_off.then_some(Err(Refusal::HeadShort));
            }
        }
    }

    /// Reads a body that its client may be waiting to send.
    fn receive_awaited_body(
        &self,
        input: &mut Input,
        framing: Framing,
        reserved: &mut Option<Box<Reservation>>,
    ) -> Option<Result<Bytes, Reply>> {
        self.await_body(input, framing)?;
        Some(self.receive_body(input, framing.length, reserved))
    }

    /// Has the storage take a body as it comes. The request that is left with the
    /// connection is done by then.
    fn import(
        &self,
        input: &mut Input,
        head: Head,
        framing: Framing,
        import: Import,
    ) -> Option<Request> {
        let stage = self.await_body(input, framing)?;
        let Self { dispatcher, connection, .. } = self;
        connection.pipeline.set_uploading(true);
        let mut body = Body::new(Wire { connection, input }, framing.length);
        let reply = incoming::import(dispatcher, import, &mut body, |awaited| {
            connection.pipeline.set_stage(match awaited {
                Awaited::Client => stage,
                Awaited::Storage => Stage::Working,
            })
        });
        connection.pipeline.set_uploading(false);
        Some(if body.is_done() {
            Request { head, meaning: Err(reply) }
        } else {
            Request::refused(head, reply)
        })
    }

    /// Asks for a body that its client may be waiting to send, and gives the stage of
    /// the request from then on; `None` if the connection is not open. The body comes by
    /// itself: every request before it was answered by then.
    fn await_body(&self, input: &Input, framing: Framing) -> Option<Stage> {
        let stage = match framing.length {
            Length::Known(_) => Stage::Receiving,
            Length::Chunked => Stage::ReceivingChunked,
        };
        if !self.connection.pipeline.wait_until_answered()
            || !self.connection.pipeline.set_stage(stage)
        {
            return None;
        }
        if framing.expects_continue && input.unused().is_empty() {
            // A client that has no room for this hears the final answer.
            self.connection.socket.send_now(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
        }
        Some(stage)
    }

    fn receive_body(
        &self,
        input: &mut Input,
        length: Length,
        reserved: &mut Option<Box<Reservation>>,
    ) -> Result<Bytes, Reply> {
        let small = length.known().filter(|bytes| *bytes <= SMALL_BODY_BYTES_MAX);
        let whole = small.and_then(|bytes| usize::try_from(bytes).ok());
        if let Some(whole) = whole.and_then(|bytes| input.unused().get(..bytes)) {
            let body = Bytes::copy_from_slice(whole);
            input.use_up(body.len());
            return Ok(body);
        }
        let wire = Wire { connection: &self.connection, input };
        let api = &self.dispatcher.api;
        let reserved = reserved.insert(Box::new(Reservation::new(&self.dispatcher.uploads)));
        let reserve = |bytes| reserved.reserve(bytes, api);
        body::read(wire, length, api.value_bytes_max(), reserve).map_err(|err| match err {
            body::Error::NoRoom => Refusal::UploadsTooMany.into(),
            body::Error::TooLong => Refusal::ValueTooLarge.into(),
            body::Error::Short => Refusal::BodyShort.into(),
            body::Error::Malformed(text) => {
                log::debug!("{}: {text}", self.connection.peer);
                Refusal::BodyChunks.into()
            }
            body::Error::Broken(err) => {
                log::debug!("{}: reading a body: {err}", self.connection.peer);
                Refusal::BodyUnreadable.into()
            }
        })
    }

    fn receive(&self, input: &mut Input, bytes: usize) -> usize {
        Wire { connection: &self.connection, input }.receive(bytes)
    }
}

impl Stream for Inlet {
    fn id(&self) -> u64 {
        self.connection.id
    }

    fn read(self: Arc<Self>, buffer: &mut [u8]) -> usize {
        if !self.connection.is_read() {
            self.connection.set_read();
            // It began with the name of the accept loop's.
            threads::set_name_once(CONNECTION_THREAD);
        }
        if !self.has_begun.swap(true, Ordering::Relaxed) {
            return [FIRST_BYTE].as_slice().read(buffer).unwrap_or_default();
        }
        if self.has_read.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let mut input = Input::default();
        let next = loop {
            match panic::catch_unwind(AssertUnwindSafe(|| self.next(&mut input))) {
                Ok(Next::Request) => self.inbox.add(&self.connection),
                Ok(Next::Nothing { is_quiet }) => {
                    drop(mem::take(&mut input));
                    input = self.leave(is_quiet);
                }
                next => break next,
            }
        };
        if !matches!(next, Ok(Next::ReadOut)) {
            let connections = &self.dispatcher.connections;
            if next.is_err() {
                connections.count_cut(&self.connection, Cut::Panicked);
            }
            connections.end(&self.connection);
        }
        0
    }

    fn released(&self) {
        if !self.connection.pipeline.is_read_out() {
            self.dispatcher.connections.end(&self.connection);
        } else if self.is_half_released.swap(true, Ordering::Relaxed) {
            self.dispatcher.connections.release(&self.connection);
        }
    }
}
