//! The way in: how requests are read from a connection.
//!
//! tiny_http reads from a connection on a thread of its own, which is here for as long as
//! that lives ([`Stream::read`]): no byte of a client's reaches the library. The thread
//! takes a whole request from the socket, head and body, has it checked and admitted (see
//! `reader`), and leaves it in its connection's pipeline.
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
mod reader;

use super::connections::Connection;
use super::cuts::Cut;
use super::dispatch::Dispatcher;
use super::door::Stream;
use super::inbox::Inbox;
use super::job::Job;
use super::pipeline::Added;
use super::request::Meaning;
use crate::platform::{allocator, stack, threads};
use input::{BODY_STEP_BYTES, HEAD_STEP_BYTES, Input, Wire};
use reader::Reader;
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
                let Some(request) = self.reader(input).whole_request() else { return false };
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

    fn reader<'a>(&'a self, input: &'a mut Input) -> Reader<'a> {
        Reader { dispatcher: &self.dispatcher, connection: &self.connection, input }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        // A panic is caught below it.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next request and leaves it with the connection, and with the leaders if its
    /// turn has come.
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
            if let Some(request) = self.reader(input).request() {
                input.is_over = request.head.is_last();
                let is_all = request.meaning.is_ok() && input.unused().is_empty();
                input.needs_no_reader =
                    input.is_over && !input.has_ended && (is_all || request.is_stream());
                match self.connection.pipeline.add(request) {
                    Added::Begun(request) => {
                        self.inbox.add(Job::new(Arc::clone(&self.connection), request));
                        return Next::Request;
                    }
                    Added::Waits => return Next::Request,
                    Added::Refused => {}
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
            Wire { connection: &self.connection, input }.receive(BODY_STEP_BYTES);
        }
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
                Ok(Next::Request) => {}
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
