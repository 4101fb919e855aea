//! A request in work: it passes from thread to thread until it is answered.

use super::connections::Connection;
use super::request::{Head, Meaning, Request};
use std::sync::Arc;

/// A request whose turn has come, on its connection.
pub struct Job {
    /// The connection, of which no other request is in work.
    pub connection: Arc<Connection>,
    /// The request's head.
    pub head: Head,
}

impl Job {
    /// Splits a request into its job and its meaning.
    pub fn new(connection: Arc<Connection>, request: Request) -> (Self, Meaning) {
        let Request { head, meaning } = request;
        (Self { connection, head }, meaning)
    }
}
