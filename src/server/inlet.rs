//! The way in: a thread of tiny_http's at work for a connection of ours.
//!
//! tiny_http reads from a connection on a thread of its own, which is here
//! whenever it reads ([`Stream::read`]). That thread takes a whole request
//! from the socket, head and body, has it checked and admitted, and leaves it
//! in its connection's pipeline. Where a leader has to be called, tiny_http itself is given
//! the smallest request that there is, and passes it on. So no byte of a client's reaches
//! the library.
//!
//! It is the one place that waits for a client to send: a thread waits for
//! one client, and each client has one. So an import is done here, piece by piece,
//! and what is left in the pipeline is its reply.

use super::arrivals::Arrivals;
use super::body::{self, Body, Source};
use super::connections::Connection;
use super::cuts::Cut;
use super::dispatch::Dispatcher;
use super::door::Stream;
use super::framing::{Framing, HEAD_BYTES_MAX, Length};
use super::inbox::CONNECTION_THREAD;
use super::incoming::{self, Awaited};
use super::job::Job;
use super::pipeline::Stage;
use super::request::{self, Head, Meaning, Request};
use super::socket::Socket;
use super::uploads::Reservation;
use crate::api::grammar::is_tchar;
use crate::api::{Import, Operation, Refusal, Reply};
use crate::platform::{allocator, stack, threads};
use bytes::Bytes;
use std::io::{self, BufRead, Read};
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The most leaders: they take calls in any order, for the pipeline of a connection gives
/// its requests in order.
pub const LEADERS_MAX: usize = usize::MAX;

/// The request that tiny_http is given as a call. It copies the target, so that is
/// empty: the copy would be freed by another thread, past the caches of the allocator.
const STAND_IN: &[u8] = b"GET  HTTP/1.1\r\n\r\n";

/// A body up to this size is read together with its head, refused or not, so that
/// its connection outlives a refusal.
const SMALL_BODY_BYTES_MAX: u64 = 1024;

/// The bytes received at once of a head, and of a body.
const HEAD_STEP_BYTES: usize = 1024;
const BODY_STEP_BYTES: usize = 16 * 1024;

/// The most of a connection's buffer that is kept between requests.
const BUFFER_BYTES_KEPT: usize = 4 * 1024;

/// A connection, to be read from.
pub struct Inlet {
    dispatcher: Arc<Dispatcher>,
    connection: Arc<Connection>,
    arrivals: Arc<Arrivals>,
    // Nobody but tiny_http's thread for this connection locks it.
    input: Mutex<Input>,
    /// tiny_http has released one of its two descriptors.
    is_half_released: AtomicBool,
}

/// Input that was received and not used yet.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Input {
    buffer: Vec<u8>,
    /// The length of the buffer's used part.
    used: usize,
    /// No request is read any more.
    is_over: bool,
    /// No reader is needed behind the last one: it came with all that its client had to
    /// say, or its response goes on.
    needs_no_reader: bool,
    /// The client has ended its side.
    has_ended: bool,
    /// The bytes of the stand-in for the next request that tiny_http has.
    given: usize,
}

/// The outcome of reading the next request.
enum Next {
    /// There is one.
    Request,
    /// Nothing of it has come for a while.
    Quiet,
    /// There is none, and no reader is needed until the last one is answered.
    ReadOut,
    /// There is none, and the connection is over.
    End,
}

/// A body's reader, which begins with input that came with the head.
struct Wire<'a> {
    connection: &'a Connection,
    input: &'a mut Input,
}

impl Inlet {
    /// The way in from `connection`.
    pub fn new(
        dispatcher: Arc<Dispatcher>,
        connection: Arc<Connection>,
        arrivals: Arc<Arrivals>,
    ) -> Self {
        let (input, is_half_released) = (Mutex::default(), AtomicBool::new(false));
        Self { dispatcher, connection, arrivals, input, is_half_released }
    }

    /// Takes the next request and leaves it with the connection.
    // Its frame is not on the stack of a thread that rests.
    #[inline(never)]
    fn next(&self, input: &mut Input) -> Next {
        if input.needs_no_reader && self.connection.pipeline.read_out() {
            return Next::ReadOut;
        }
        if !input.is_over && self.connection.pipeline.wait_for_room() {
            if self.is_quiet(input) {
                return Next::Quiet;
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
        input.unused().is_empty()
            && Wire { connection, input }.receive_soon(HEAD_STEP_BYTES).is_none()
    }

    /// Waits until something comes on a quiet connection, with as little memory as can be.
    fn rest(&self, input: &mut Input) {
        input.buffer = Vec::new();
        self.connection.pipeline.trim();
        allocator::without_cache(|| {
            stack::give_back_unused();
            self.connection.socket.wait_for_input();
        });
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
        let whole = length.known().and_then(|bytes| usize::try_from(bytes).ok());
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

    fn read(&self, buffer: &mut [u8]) -> usize {
        if !self.connection.is_read() {
            self.connection.set_read();
            // It began with the name of the accept loop's.
            threads::set_name_once(CONNECTION_THREAD);
        }
        // A panic below leaves it as it is, and the connection is over then.
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_quiet = input.given > 0;
        let next = loop {
            if mem::take(&mut is_quiet) {
                self.rest(&mut input);
            }
            match panic::catch_unwind(AssertUnwindSafe(|| self.next(&mut input))) {
                // tiny_http frees what it holds for a new connection at the first byte.
                Ok(Next::Quiet) if input.given == 0 => return input.give(1, buffer),
                Ok(Next::Quiet) => is_quiet = true,
                Ok(Next::Request) if !self.arrivals.add(&self.connection) => {}
                next => break next,
            }
        };
        match next {
            Ok(Next::Request) => input.give(STAND_IN.len(), buffer),
            Ok(Next::ReadOut) => 0,
            next => {
                let connections = &self.dispatcher.connections;
                if next.is_err() {
                    connections.count_cut(&self.connection, Cut::Panicked);
                }
                connections.end(&self.connection);
                0
            }
        }
    }

    fn released(&self) {
        if !self.connection.pipeline.is_read_out() {
            self.dispatcher.connections.end(&self.connection);
        } else if self.is_half_released.swap(true, Ordering::Relaxed) {
            self.dispatcher.connections.release(&self.connection);
        }
    }
}

impl Input {
    /// Gives tiny_http the stand-in up to that byte, and returns the number of bytes.
    fn give(&mut self, end: usize, buffer: &mut [u8]) -> usize {
        let bytes = STAND_IN.get(self.given..end).unwrap_or_default();
        // tiny_http has a buffer of many times the stand-in.
        let Some(room) = buffer.get_mut(..bytes.len()) else { return 0 };
        room.copy_from_slice(bytes);
        self.given = end % STAND_IN.len();
        bytes.len()
    }

    fn unused(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    fn use_up(&mut self, bytes: usize) {
        self.used += bytes;
        if self.used >= self.buffer.len() {
            self.used = 0;
            self.buffer.clear();
            if self.buffer.capacity() > BUFFER_BYTES_KEPT {
                self.buffer = Vec::new();
            }
        }
    }
}

impl Wire<'_> {
    /// Receives up to about so many bytes; 0 at the end or after an error.
    fn receive(&mut self, bytes: usize) -> usize {
        let socket = &self.connection.socket;
        until_received(socket, || self.receive_soon(bytes))
    }

    /// The same; `None` if nothing has come for a while.
    fn receive_soon(&mut self, bytes: usize) -> Option<usize> {
        let input = &mut *self.input;
        if input.used > 0 {
            input.buffer.drain(..input.used);
            input.used = 0;
        }
        if input.has_ended {
            return Some(0);
        }
        input.buffer.reserve(bytes);
        let received = self.connection.socket.receive(&mut input.buffer, usize::MAX);
        let received = received.unwrap_or(Some(0))?;
        self.note(received);
        Some(received)
    }

    /// Notes that so many bytes were received, or the end.
    fn note(&mut self, received: usize) {
        self.input.has_ended = received == 0;
        self.connection.add_received(received);
    }
}

/// The outcome of receiving once something has come, however long that takes: `receive`
/// gives `None` if nothing has come for a while.
fn until_received<T>(socket: &Socket, mut receive: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(received) = receive() {
            return received;
        }
        socket.wait_for_input();
    }
}

impl BufRead for Wire<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.unused().is_empty()
            && self.receive(BODY_STEP_BYTES) == 0
            && self.connection.pipeline.is_upload_late()
        {
            // The end is the watchdog's, and not the client's.
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(self.input.unused())
    }

    fn consume(&mut self, bytes: usize) {
        self.input.use_up(bytes);
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl Source for Wire<'_> {
    /// What has not come yet is received where it stays.
    fn append(&mut self, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        if self.input.unused().is_empty() && !self.input.has_ended {
            let socket = &self.connection.socket;
            let received =
                until_received(socket, || socket.receive(buffer, bytes_max).transpose())?;
            self.note(received);
            return Ok(received);
        }
        let bytes = bytes_max.min(self.input.unused().len());
        buffer.extend_from_slice(self.input.unused().get(..bytes).unwrap_or_default());
        self.input.use_up(bytes);
        Ok(bytes)
    }
}

/// Takes a call of tiny_http's, which has woken a leader up: it looks at the connections
/// that have arrived. Never blocks.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it is a request")]
pub fn enter(_: &Dispatcher, call: tiny_http::Request) -> Option<(Job, Meaning)> {
    // Dropped as it is it would be answered with 500, to nobody.
    drop(call.into_writer());
    None
}

/// The length of the head that `bytes` begin with, if it is complete. The
/// first `looked_at` were looked at before.
fn look_for_end(bytes: &[u8], looked_at: usize) -> Result<Option<usize>, Refusal> {
    if looked_at == 0 && bytes.first().is_some_and(|first| !begins_a_head(*first)) {
        return Err(Refusal::MethodMalformed);
    }
    let fresh = bytes.get(looked_at..).unwrap_or_default();
    for at in memchr::memchr_iter(b'\n', fresh) {
        let line_end = looked_at + at + 1;
        let head = bytes.get(..line_end).unwrap_or_default();
        if !head.ends_with(b"\r\n") {
            return Err(Refusal::LineFeedBare);
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(Some(line_end));
        }
    }
    Ok(None)
}

/// Returns true if this byte can begin a method, or an empty line before it.
fn begins_a_head(byte: u8) -> bool {
    is_tchar(byte) || byte == b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_ends_in_an_empty_line() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let with_more = [&head[..], b"GET /next"].concat();
        assert_eq!(look_for_end(&with_more, 0), Ok(Some(head.len())));
        for length in 0..head.len() {
            assert_eq!(look_for_end(&head[..length], 0), Ok(None), "{length}");
            for looked_at in 1..length {
                assert_eq!(look_for_end(&head[..length], looked_at), Ok(None), "{length}");
                assert_eq!(look_for_end(head, looked_at), Ok(Some(head.len())), "{looked_at}");
            }
        }
    }

    #[test]
    fn what_begins_no_request_is_seen_at_once() {
        let cases: [(&[u8], Refusal); 7] = [
            (b"\x16\x03\x01", Refusal::MethodMalformed),
            (b"\0", Refusal::MethodMalformed),
            (b"\xc3", Refusal::MethodMalformed),
            (b" GET", Refusal::MethodMalformed),
            (b"GET / HTTP/1.1\n", Refusal::LineFeedBare),
            (b"GET / HTTP/1.1\r\nHost: a\n", Refusal::LineFeedBare),
            (b"\n", Refusal::MethodMalformed),
        ];
        for (bytes, err) in cases {
            assert_eq!(look_for_end(bytes, 0), Err(err), "{bytes:?}");
        }
    }

    proptest! {
        /// However the bytes come, they are judged alike.
        #[test]
        fn pieces_are_judged_as_a_whole(
            text in "[GET /\r\n:]{0,40}",
            at in 0..40_usize,
        ) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            let whole = look_for_end(bytes, 0);
            let pieces = match look_for_end(&bytes[..at], 0) {
                Ok(None) => look_for_end(bytes, at),
                found => found,
            };
            prop_assert_eq!(whole, pieces);
        }
    }
}
