//! The connections that there are, and the one request of each that is in
//! work.
//!
//! Requests of a connection are read ahead, a few, and wait here: at most one
//! is in work, so answers keep their order. tiny_http rings once for each
//! request that was read; whoever takes its calls begins with the request, or
//! notes that one may follow.

use super::request::Request;
use super::socket::Socket;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many requests are read ahead of their turn at most, on one connection.
const READ_AHEAD_MAX: usize = 32;

/// All connections that are open.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// How many those are, to be read without waiting.
    count: AtomicUsize,
    last_id: AtomicU64,
    /// Is told whenever one has ended, while somebody waits for that.
    ended: Condvar,
    is_waited_for: AtomicBool,
}

/// One connection.
pub(super) struct Connection {
    id: u64,
    peer: SocketAddr,
    /// The accept loop that it came through, which is counted.
    accept_loop: usize,
    socket: Socket,
    /// Whether a thread of tiny_http has begun to read it.
    is_read: AtomicBool,
    /// How many bytes were received so far.
    received: AtomicU64,
    /// Whether part of a request has come that was not read as a whole.
    is_coming: AtomicBool,
    state: Mutex<State>,
    /// Is told when a thread may go on that waits for a turn.
    turn: Condvar,
}

#[derive(Default)]
struct State {
    life: Life,
    /// What the request in work is doing.
    stage: Option<Stage>,
    /// Requests that were read and wait, in order.
    waiting: VecDeque<Request>,
    /// How many of those tiny_http has rung for.
    rung: usize,
    /// How many requests were read so far.
    begun: u64,
    /// A thread waits for a turn.
    is_waited_for: bool,
    /// Nobody reads any more: the last request was read.
    is_read_out: bool,
}

/// How far the life of a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    /// Requests are read and answered.
    #[default]
    Open,
    /// The last answer was written; what still comes is thrown away.
    Closing,
    /// It is over.
    Cut,
}

/// What a request in work is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for a thread or for the storage, not for its client.
    Working,
    /// Its body is being read, whose length is known.
    Receiving,
    /// Its body is being read, which ends when its client says so.
    Streaming,
    /// Its answer is being written.
    Sending,
}

/// What the watchdog wants to know of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Activity {
    /// How many requests were read so far.
    pub(super) begun: u64,
    /// What the request in work is doing; `None` without one.
    pub(super) stage: Option<Stage>,
    /// How many bytes were received so far.
    pub(super) received: u64,
    /// Whether part of a request has come that was not read as a whole.
    pub(super) is_coming: bool,
    /// Whether the last answer was written.
    pub(super) is_closing: bool,
}

impl Connections {
    /// Makes a new connection known.
    pub(super) fn add(
        &self,
        socket: Socket,
        peer: SocketAddr,
        accept_loop: usize,
    ) -> Arc<Connection> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Arc::new(Connection {
            id,
            peer,
            accept_loop,
            socket,
            is_read: AtomicBool::new(false),
            received: AtomicU64::new(0),
            is_coming: AtomicBool::new(false),
            state: Mutex::default(),
            turn: Condvar::new(),
        });
        let mut open = self.lock();
        open.insert(id, Arc::clone(&connection));
        self.count.store(open.len(), Ordering::Relaxed);
        drop(open);
        connection
    }

    /// The open connection of that number.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Connection>> {
        self.lock().get(&id).map(Arc::clone)
    }

    /// Ends a connection: what is left of it is given up.
    pub(super) fn end(&self, connection: &Connection) {
        let mut open = self.lock();
        let was_open = open.remove(&connection.id).is_some();
        self.count.store(open.len(), Ordering::Relaxed);
        drop(open);
        if was_open {
            if self.is_waited_for.load(Ordering::Relaxed) {
                self.ended.notify_all();
            }
            connection.stop(Life::Cut);
        }
    }

    /// Ends a connection whose last answer was written in good order: whatever
    /// its client still sends is thrown away until it hangs up or is cut.
    pub(super) fn close(&self, connection: &Connection) {
        let is_read_out = connection.stop(Life::Closing);
        connection.socket.stop_sending();
        // Most clients have nothing more to say.
        if is_read_out && !connection.socket.has_unread() {
            self.end(connection);
        }
    }

    /// Lets a connection go on which nothing is in work: its client finds the
    /// end of the stream.
    pub(super) fn dismiss(&self, connection: &Connection) {
        if connection.close_with(&[]) && !connection.is_read() {
            self.end(connection);
        }
    }

    /// Gives up a connection that is closing, for the room that it takes. What
    /// was written is delivered unless its client goes on to send.
    pub(super) fn give_up(&self, connection: &Connection) {
        connection.socket.stop_receiving();
        if !connection.has_reader() {
            self.end(connection);
        }
    }

    /// Ends a connection now, in whatever it is.
    pub(super) fn cut(&self, connection: &Connection) {
        connection.socket.cut();
        // Where there is a reader, it finds the end.
        connection.stop(Life::Cut);
        if !connection.has_reader() {
            self.end(connection);
        }
    }

    /// All that are open.
    pub(super) fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for up to `time` until fewer than `max` are open, and says
    /// whether that is so.
    pub(super) fn wait_for_room(&self, max: usize, time: Duration) -> bool {
        let open = self.lock();
        self.is_waited_for.store(true, Ordering::Relaxed);
        let waited = self.ended.wait_timeout_while(open, time, |open| open.len() >= max);
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.is_waited_for.store(false, Ordering::Relaxed);
        open.len() < max
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        // Every change is complete before anything could panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Begins with the next request that waits, if none is in work.
    fn begin(&mut self) -> Option<Request> {
        if self.stage.is_some() {
            return None;
        }
        let next = self.waiting.pop_front();
        self.stage = next.as_ref().map(|_| Stage::Working);
        next
    }
}

impl Connection {
    /// Its number, never used twice.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The peer's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The accept loop that it came through.
    pub(super) fn accept_loop(&self) -> usize {
        self.accept_loop
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Notes that a thread of tiny_http reads it.
    pub(super) fn set_read(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    /// Whether a thread of tiny_http has begun to read it.
    pub(super) fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    /// Notes that so many bytes more were received.
    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes whether part of a request has come.
    pub(super) fn set_coming(&self, is_coming: bool) {
        self.is_coming.store(is_coming, Ordering::Relaxed);
    }

    /// Adds a request that was read, behind those that wait. Says whether it
    /// is taken.
    pub(super) fn arrive(&self, request: Request) -> bool {
        let mut state = self.lock();
        self.is_coming.store(false, Ordering::Relaxed);
        if matches!(state.stage, Some(Stage::Receiving | Stage::Streaming)) {
            state.stage = None;
        }
        state.begun += 1;
        let is_taken = state.life == Life::Open;
        if is_taken {
            state.waiting.push_back(request);
        }
        is_taken
    }

    /// Takes a call for a request that was read. Gives the request that is in
    /// work from now on, unless another is.
    pub(super) fn ring(&self) -> Option<Request> {
        let mut state = self.lock();
        let begun = state.begin();
        if begun.is_none() {
            state.rung += 1;
        }
        begun
    }

    /// Notes that its one request is in work.
    #[cfg(any(portable, not(target_os = "linux")))]
    pub(super) fn set_in_work(&self) {
        self.lock().stage = Some(Stage::Working);
    }

    /// Ends the work on a request. Gives the next one if tiny_http has rung
    /// for it already; it is in work then.
    pub(super) fn next(&self) -> Option<Request> {
        self.socket.answered();
        let mut state = self.lock();
        state.stage = None;
        if state.is_waited_for && state.waiting.len() <= READ_AHEAD_MAX / 2 {
            self.turn.notify_all();
        }
        state.rung = state.rung.checked_sub(1)?;
        state.begin()
    }

    /// Whether requests wait behind the one in work.
    pub(super) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Waits until a few requests more may be read. Says whether it is open.
    pub(super) fn wait_for_room(&self) -> bool {
        // Once it waits, it waits for more than one.
        self.wait_while(|state| {
            let max = if state.is_waited_for { READ_AHEAD_MAX / 2 + 1 } else { READ_AHEAD_MAX };
            state.waiting.len() >= max
        })
    }

    /// Waits until every request was answered. Says whether it is open.
    pub(super) fn wait_until_answered(&self) -> bool {
        self.wait_while(|state| state.stage.is_some() || !state.waiting.is_empty())
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        while state.life == Life::Open && condition(&state) {
            state.is_waited_for = true;
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_waited_for = false;
        state.life == Life::Open
    }

    /// Says what the request in work does from now on; `false` if the
    /// connection is not open.
    pub(super) fn set_stage(&self, now: Stage) -> bool {
        let mut state = self.lock();
        let is_open = state.life == Life::Open;
        if is_open {
            state.stage = Some(now);
        }
        is_open
    }

    /// Says `last_words` and takes no request any more, unless one is in work
    /// that may be answered at any moment.
    pub(super) fn close_with(&self, last_words: &[u8]) -> bool {
        let mut state = self.lock();
        if matches!(state.stage, Some(Stage::Working | Stage::Sending))
            || !state.waiting.is_empty()
            || state.life != Life::Open
        {
            return false;
        }
        state.life = Life::Closing;
        if state.is_waited_for {
            self.turn.notify_all();
        }
        drop(state);
        // A client that takes no answer goes without one.
        self.socket.send_now(last_words).ok();
        self.socket.stop_sending();
        true
    }

    /// Takes no request any more. Says whether nobody reads here any more.
    fn stop(&self, life: Life) -> bool {
        let mut state = self.lock();
        if state.life != Life::Cut {
            state.life = life;
        }
        state.stage = None;
        let waiting = mem::take(&mut state.waiting);
        if state.is_waited_for {
            self.turn.notify_all();
        }
        let is_read_out = state.is_read_out;
        drop(state);
        drop(waiting);
        is_read_out
    }

    /// Notes that its reader leaves, because it has read the last request.
    /// Says whether it may: that request is still to be answered.
    pub(super) fn read_out(&self) -> bool {
        let mut state = self.lock();
        state.is_read_out = state.life == Life::Open;
        state.is_read_out
    }

    /// Whether a thread of tiny_http reads it, and sees to its end.
    pub(super) fn has_reader(&self) -> bool {
        self.is_read() && !self.is_read_out()
    }

    /// Whether its reader has left, and others see to its end.
    pub(super) fn is_read_out(&self) -> bool {
        self.lock().is_read_out
    }

    /// What is going on here.
    pub(super) fn activity(&self) -> Activity {
        let state = self.lock();
        Activity {
            begun: state.begun,
            stage: state.stage,
            received: self.received.load(Ordering::Relaxed),
            is_coming: self.is_coming.load(Ordering::Relaxed),
            is_closing: state.life != Life::Open,
        }
    }

    /// Whether no request is in work, none waits and none has begun to come.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.stage.is_none() && state.waiting.is_empty() && !self.is_coming.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
