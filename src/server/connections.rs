//! The open connections.

use super::pipeline::{Activity, Life, Pipeline};
use super::socket::Socket;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All open connections.
#[derive(Default)]
pub struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// The number of those, to be read without waiting.
    count: AtomicUsize,
    last_id: AtomicU64,
    /// Wakes the gate, which waits for the end of one.
    ended: Condvar,
    is_waited_for: AtomicBool,
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
    /// Whether a thread of tiny_http has begun to read it.
    is_read: AtomicBool,
    /// The bytes received so far.
    received: AtomicU64,
}

impl Connections {
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
            received: AtomicU64::new(0),
        });
        let mut open = self.lock();
        open.insert(id, Arc::clone(&connection));
        self.count.store(open.len(), Ordering::Relaxed);
        drop(open);
        connection
    }

    /// The open connection of that number.
    pub fn get(&self, id: u64) -> Option<Arc<Connection>> {
        self.lock().get(&id).map(Arc::clone)
    }

    /// Ends a connection, with all that is left of it.
    pub fn end(&self, connection: &Connection) {
        let mut open = self.lock();
        let was_open = open.remove(&connection.id).is_some();
        self.count.store(open.len(), Ordering::Relaxed);
        drop(open);
        if was_open {
            if self.is_waited_for.load(Ordering::Relaxed) {
                self.ended.notify_all();
            }
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
    /// of the stream.
    pub fn dismiss(&self, connection: &Connection) {
        if connection.close_with(&[]) && !connection.is_read() {
            self.end(connection);
        }
    }

    /// Gives up a connection that is closing, for the room that it takes. Its last
    /// response is delivered unless the client goes on to send.
    pub fn give_up(&self, connection: &Connection) {
        connection.socket.stop_receiving();
        if !connection.has_reader() {
            self.end(connection);
        }
    }

    /// Ends a connection now, in any stage.
    pub fn cut(&self, connection: &Connection) {
        connection.socket.cut();
        // Where there is a reader, it finds the end.
        connection.pipeline.end(Life::Cut);
        if !connection.has_reader() {
            self.end(connection);
        }
    }

    /// All open connections.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// The number of open connections.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for up to `time` until fewer than `max` are open; `false` if that
    /// does not come.
    pub fn wait_for_room(&self, max: usize, time: Duration) -> bool {
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

impl Connection {
    /// Notes that a thread of tiny_http reads it.
    pub fn set_read(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    /// Whether a thread of tiny_http has begun to read it.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    /// Whether a thread of tiny_http reads it, and sees to its end.
    pub fn has_reader(&self) -> bool {
        self.is_read() && !self.pipeline.is_read_out()
    }

    /// Counts received bytes.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The watchdog's view of it.
    pub fn activity(&self) -> Activity {
        self.pipeline.activity(self.received.load(Ordering::Relaxed))
    }

    /// Says `last_words` and takes no request any more, unless one is in work
    /// that may be answered at any moment; `false` in that case.
    pub fn close_with(&self, last_words: &[u8]) -> bool {
        let is_closed = self.pipeline.close();
        if is_closed {
            // A client that takes no response goes without one.
            self.socket.send_now(last_words).ok();
            self.socket.stop_sending();
        }
        is_closed
    }
}
