//! The open connections.
//!
//! A connection that is down to a stream, its last response, has no thread of tiny_http's
//! and none of its descriptors any more, once both have gone: from then on it counts as a
//! stream.

use super::cuts::{Cut, Cuts};
use super::limits::Room;
use super::pipeline::{Activity, Life, Pipeline};
use super::request::Head;
use super::socket::Socket;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All open connections.
#[derive(Default)]
pub struct Connections {
    room: Room,
    open: Mutex<Open>,
    /// The number of those, to be read without waiting.
    count: AtomicUsize,
    last_id: AtomicU64,
    /// Those that the server has ended.
    cuts: Cuts,
    /// The highest traffic that was reported: no later report is below it.
    reported: (AtomicU64, AtomicU64),
    /// Wakes the gate, which waits for room.
    roomier: Condvar,
    is_waited_for: AtomicBool,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<u64, Arc<Connection>>,
    /// Those with a stream that was admitted.
    with_stream: usize,
    /// Those of them that cost no more than a stream does.
    streams: usize,
    /// The traffic of connections that have ended.
    ended: Traffic,
}

/// The bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

/// All connections at a moment.
pub struct Census {
    /// Those that are open.
    pub open: Vec<Arc<Connection>>,
    /// The number of all so far.
    pub total: u64,
    /// The most that may be open, streams apart.
    pub max: usize,
    /// Those with a stream, and the most of them.
    pub with_stream: usize,
    pub with_stream_max: usize,
    /// The traffic of all so far.
    pub traffic: Traffic,
}

/// The fill of the room for connections.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// The open connections that are no streams.
    pub count: usize,
    /// The most of them at present, with those that are turned away.
    pub max: usize,
}

/// One connection.
pub struct Connection {
    /// Its number, never used twice.
    pub id: u64,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The number of the accept loop that it came through.
    pub accept_loop: usize,
    /// Its socket.
    pub socket: Socket,
    /// Its requests.
    pub pipeline: Pipeline,
    /// A thread of tiny_http has begun to read it.
    is_read: AtomicBool,
    /// A stream was admitted.
    has_stream: AtomicBool,
    /// tiny_http has neither a thread nor a descriptor for it any more.
    is_released: AtomicBool,
    /// It is counted among those that were cut.
    is_cut: AtomicBool,
    /// The head of a request whose body is awaited.
    awaited: Mutex<Option<Box<Head>>>,
    /// The bytes received so far.
    received: AtomicU64,
}

/// A body that a connection awaits, until this is dropped.
pub struct AwaitedBody<'a>(&'a Connection);

impl Drop for AwaitedBody<'_> {
    fn drop(&mut self) {
        self.0.take_awaited();
    }
}

impl Open {
    /// The fill of a room.
    fn fill(&self, room: &Room) -> Fill {
        let count = self.by_id.len() - self.streams;
        Fill { count, max: room.with_turned_away_max(self.streams) }
    }
}

impl Traffic {
    fn add(&mut self, more: Self) {
        self.received += more.received;
        self.sent += more.sent;
    }
}

impl Connections {
    /// Connections within that room, of which there are none yet.
    pub fn within(room: Room) -> Self {
        Self { room, ..Self::default() }
    }

    /// Adds a connection.
    pub fn add(&self, socket: Socket, peer: SocketAddr, accept_loop: usize) -> Arc<Connection> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Arc::new(Connection {
            id,
            peer,
            accept_loop,
            socket,
            pipeline: Pipeline::default(),
            is_read: AtomicBool::new(false),
            has_stream: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            awaited: Mutex::default(),
            received: AtomicU64::new(0),
        });
        let mut open = self.lock();
        open.by_id.insert(id, Arc::clone(&connection));
        self.count.store(open.by_id.len(), Ordering::Relaxed);
        drop(open);
        connection
    }

    /// Admits a stream, the last response of its connection; `false` if there are too
    /// many.
    pub fn admit_stream(&self, connection: &Connection) -> bool {
        let mut open = self.lock();
        if open.with_stream >= self.room.streams_max {
            return false;
        }
        // One that has ended meanwhile counts no more.
        if open.by_id.contains_key(&connection.id)
            && !connection.has_stream.swap(true, Ordering::Relaxed)
        {
            open.with_stream += 1;
            self.count_stream(open, connection);
        }
        true
    }

    /// Notes that tiny_http has neither a thread nor a descriptor for a connection any more.
    pub fn release(&self, connection: &Connection) {
        let open = self.lock();
        if open.by_id.contains_key(&connection.id)
            && !connection.is_released.swap(true, Ordering::Relaxed)
        {
            self.count_stream(open, connection);
        }
    }

    /// Counts a connection as a stream if it has just come to be one.
    fn count_stream(&self, mut open: MutexGuard<'_, Open>, connection: &Connection) {
        if connection.is_stream() {
            open.streams += 1;
            drop(open);
            self.notify_of_room();
        }
    }

    /// Wakes the gate, if it waits for room.
    fn notify_of_room(&self) {
        if self.is_waited_for.load(Ordering::Relaxed) {
            self.roomier.notify_all();
        }
    }

    /// Ends a connection, with all that is left of it.
    pub fn end(&self, connection: &Connection) {
        let mut open = self.lock();
        let was_open = open.by_id.remove(&connection.id).is_some();
        self.count.store(open.by_id.len(), Ordering::Relaxed);
        if was_open {
            open.with_stream -= usize::from(connection.has_stream.load(Ordering::Relaxed));
            open.streams -= usize::from(connection.is_stream());
            open.ended.add(connection.traffic());
        }
        drop(open);
        if was_open {
            self.notify_of_room();
            connection.pipeline.end(Life::Cut);
        }
    }

    /// Ends a connection in good order, after its last response: input is discarded
    /// until its client hangs up or is cut.
    pub fn close(&self, connection: &Connection) {
        connection.pipeline.end(Life::Closing);
        connection.socket.stop_sending();
        // Most clients have nothing more to say.
        if !connection.has_reader() && !connection.socket.has_unread() {
            self.end(connection);
        }
    }

    /// Ends a connection on which nothing is in work: its client finds the end
    /// of the stream. One with input that is about to be read goes on; `false` then, or if
    /// a request is in work.
    pub fn dismiss(&self, connection: &Connection, reason: Cut) -> bool {
        if connection.has_reader() && connection.socket.has_unread() {
            return false;
        }
        let is_closed = self.close_with(connection, &[], reason);
        if is_closed && !connection.is_read() {
            self.end(connection);
        }
        is_closed
    }

    /// Says `last_words` and takes no request any more, unless one is in work
    /// that may be answered at any moment; `false` in that case.
    pub fn close_with(&self, connection: &Connection, last_words: &[u8], reason: Cut) -> bool {
        let is_closed = connection.close_with(last_words);
        if is_closed {
            self.count_cut(connection, reason);
        }
        is_closed
    }

    /// Ends a body that is taken as it comes, and is late: its reader takes what has come,
    /// and answers. Returns `false` if there is none.
    pub fn end_upload(&self, connection: &Connection) -> bool {
        let is_ended = connection.pipeline.end_upload();
        if is_ended {
            self.count_cut(connection, Cut::Late);
            connection.socket.stop_receiving();
        }
        is_ended
    }

    /// Gives up a connection that is closing, for the room that it takes. Its last
    /// response is delivered unless the client goes on to send.
    pub fn give_up(&self, connection: &Connection, reason: Cut) {
        self.count_cut(connection, reason);
        connection.socket.stop_receiving();
        if !connection.has_reader() {
            self.end(connection);
        }
    }

    /// Counts a connection as one that was cut, with its first reason.
    pub fn count_cut(&self, connection: &Connection, reason: Cut) {
        if !connection.is_cut.swap(true, Ordering::Relaxed) {
            self.cuts.add(reason);
        }
    }

    /// The connections that were cut so far, by reason.
    pub fn cuts(&self) -> impl Iterator<Item = (Cut, u64)> {
        self.cuts.counts()
    }

    /// Ends a connection now, in any stage.
    pub fn cut(&self, connection: &Connection, reason: Cut) {
        self.count_cut(connection, reason);
        connection.socket.cut();
        // Where there is a reader, it finds the end.
        connection.pipeline.end(Life::Cut);
        if !connection.has_reader() {
            self.end(connection);
        }
    }

    /// All open connections.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().by_id.values().map(Arc::clone).collect()
    }

    /// The number of open connections, streams among them.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts all of them.
    pub fn census(&self) -> Census {
        let locked = self.lock();
        let open: Vec<_> = locked.by_id.values().map(Arc::clone).collect();
        let max = self.room.connections_max(locked.streams);
        let (with_stream, mut traffic) = (locked.with_stream, locked.ended);
        drop(locked);
        for connection in &open {
            traffic.add(connection.traffic());
        }
        // Bytes that come to a connection after its end are lost, and may have been reported.
        let highest = |last: &AtomicU64, now| last.fetch_max(now, Ordering::Relaxed).max(now);
        let (received, sent) = &self.reported;
        traffic = Traffic {
            received: highest(received, traffic.received),
            sent: highest(sent, traffic.sent),
        };
        let total = self.last_id.load(Ordering::Relaxed);
        let with_stream_max = self.room.streams_max;
        Census { open, total, max, with_stream, with_stream_max, traffic }
    }

    /// The fill of the room for connections.
    pub fn fill(&self) -> Fill {
        self.lock().fill(&self.room)
    }

    /// The connection cap, without those that are turned away.
    pub fn cap(&self) -> usize {
        self.room.connections_max(self.lock().streams)
    }

    /// Waits for up to `time` until there is room for another connection; `false` if
    /// that does not come.
    pub fn wait_for_room(&self, time: Duration) -> bool {
        let is_full = |open: &mut Open| {
            let Fill { count, max } = open.fill(&self.room);
            count >= max
        };
        let open = self.lock();
        self.is_waited_for.store(true, Ordering::Relaxed);
        let waited = self.roomier.wait_timeout_while(open, time, is_full);
        let (mut open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.is_waited_for.store(false, Ordering::Relaxed);
        !is_full(&mut open)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change is complete before anything could panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Notes that a thread of tiny_http reads it.
    pub fn set_read(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    /// Returns true if a thread of tiny_http has begun to read it.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    /// Returns true if a thread of tiny_http reads it, and sees to its end.
    pub fn has_reader(&self) -> bool {
        self.is_read() && !self.pipeline.is_read_out()
    }

    /// Returns true if it costs no more than a stream does. That does not change while
    /// the connections are locked.
    pub fn is_stream(&self) -> bool {
        self.has_stream.load(Ordering::Relaxed) && self.is_released.load(Ordering::Relaxed)
    }

    /// Notes the head of a request whose body has not come, for the last words where it
    /// comes too late.
    pub fn set_awaited(&self, head: &Head) -> AwaitedBody<'_> {
        *self.awaited() = Some(Box::new(head.to_record()));
        AwaitedBody(self)
    }

    /// Takes the head of the request whose body is awaited, if one is.
    pub fn take_awaited(&self) -> Option<Box<Head>> {
        self.awaited().take()
    }

    fn awaited(&self) -> MutexGuard<'_, Option<Box<Head>>> {
        // Every change is one call.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts received bytes.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        let received = self.received.load(Ordering::Relaxed);
        Traffic { received, sent: self.socket.sent() }
    }

    /// The watchdog's view of it.
    pub fn activity(&self) -> Activity {
        self.pipeline.activity(self.received.load(Ordering::Relaxed))
    }

    fn close_with(&self, last_words: &[u8]) -> bool {
        let is_closed = self.pipeline.close();
        if is_closed {
            // A client that takes no response goes without one.
            self.socket.send_now(last_words).ok();
            self.socket.stop_sending();
        }
        is_closed
    }
}

#[cfg(all(test, target_os = "linux", not(portable)))]
mod tests;
