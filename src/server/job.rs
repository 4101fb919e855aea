//! A request in work: what passes from lane to lane until it is answered.

use super::connections::Connection;
use super::request::{Head, Meaning, Request};
use std::sync::Arc;

/// A request whose turn has come, on its connection.
pub(super) struct Job {
    pub(super) connection: Arc<Connection>,
    pub(super) head: Head,
}

impl Job {
    /// The job that `request` is, and what is to be done for it.
    pub(super) fn new(connection: Arc<Connection>, request: Request) -> (Self, Meaning) {
        let Request { head, meaning } = request;
        (Self { connection, head }, meaning)
    }
}
