//! Writing responses.

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
