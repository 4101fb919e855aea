//! The guard: one thread that watches every connection from outside.
//!
//! tiny_http gives a connection a thread, no deadline and no limit, and
//! forgets some connections of a burst altogether. The guard finds their
//! sockets, asks the kernel what has moved on them, and
//!
//! - sends a refusal and ends the connection ([`Handle::refuse`]),
//! - cuts what is slower than the deadlines or longer than the limits,
//! - wakes tiny_http up for connections that nobody reads,
//! - keeps the number of connections under the cap,
//! - starts a new accept loop where the last one has ended,
//! - empties the server for a shutdown.
//!
//! It frees what is stuck, whatever thread it is stuck in, because all of
//! that works on sockets alone. Where the system has no way to find them (all
//! but Linux) only what needs no socket is left: see `portable`, which
//! `RUSTFLAGS="--cfg portable"` builds on Linux too.

#[cfg(all(target_os = "linux", not(portable)))]
mod disposal;
#[cfg(all(target_os = "linux", not(portable)))]
mod linux;
#[cfg(all(target_os = "linux", not(portable)))]
mod verdict;
#[cfg(all(target_os = "linux", not(portable)))]
pub(super) use linux::{Guard, Handle};

#[cfg(any(portable, not(target_os = "linux")))]
mod portable;
#[cfg(any(portable, not(target_os = "linux")))]
pub(super) use portable::{Guard, Handle};

use std::time::Duration;

/// The deadlines and limits that the guard keeps.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    any(portable, not(target_os = "linux")),
    allow(dead_code, reason = "without sockets none can be kept")
)]
pub(super) struct Limits {
    /// How long a connection may be silent between requests.
    pub(super) idle_timeout: Duration,
    /// How long a head or a small body may take, and how long a large
    /// transfer may take to move a kibibyte.
    pub(super) request_timeout: Duration,
    /// How many connections there may be.
    pub(super) connections_max: usize,
}
