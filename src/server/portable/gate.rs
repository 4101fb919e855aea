//! Accept loops, which are tiny_http's alone.

use super::inbox::Inbox;
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
    _inbox: &Arc<Inbox>,
) -> io::Result<()> {
    Ok(())
}

pub fn close((): ()) {}
