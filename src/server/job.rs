//! A request in work: what passes from lane to lane until it is answered.

use super::answer::Persistence;
use super::connections::Connection;
use super::framing::{Fault, Framing, Head, Length};
use crate::api::Call;
use std::sync::Arc;
use std::time::Instant;
use tiny_http::{HTTPVersion, Request};

/// A request with what its head says and the connection it came on.
///
/// Dropping one makes tiny_http answer 500 and read what is left of the body;
/// see [`Job::discard`].
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) framing: Result<Framing, Fault>,
    pub(super) connection: Arc<Connection>,
    /// When it was taken from tiny_http.
    pub(super) came: Instant,
}

/// tiny_http allocates what is left of an unread body when it drops the
/// request. Up to this size that is harmless, as nothing touches the memory.
const DROPPED_BODY_BYTES_MAX: usize = 1 << 30;

impl Job {
    pub(super) fn new(request: Request, connection: Arc<Connection>) -> Self {
        let framing = check(&request);
        Self { request, framing, connection, came: Instant::now() }
    }

    /// The request as the API sees it, given its body's length.
    pub(super) fn call(&self, length: Length) -> Call<'_> {
        let body_bytes = match length {
            Length::Known(bytes) => Some(bytes),
            Length::Chunked => None,
        };
        let method = self.request.method().as_str();
        Call { method, target: self.request.url(), body_bytes }
    }

    /// Whether the answer is to have no body, only its length (RFC 9110, 9.3.2).
    pub(super) fn is_head(&self) -> bool {
        self.request.method() == &tiny_http::Method::Head
    }

    /// What the answer says of the connection.
    pub(super) fn persistence(&self) -> Persistence {
        match self.framing {
            Ok(framing) if framing.keep_alive && framing.names_keep_alive => {
                Persistence::KeepAliveNamed
            }
            Ok(framing) if framing.keep_alive => Persistence::KeepAlive,
            Ok(_) | Err(_) => Persistence::Close,
        }
    }

    /// Gets rid of a request on a connection that was shut. One that cannot be
    /// dropped is kept for ever, and so is the thread that waits for its end.
    pub(super) fn discard(self) {
        let unread_max = self.request.body_length().unwrap_or(0);
        if unread_max > DROPPED_BODY_BYTES_MAX {
            std::mem::forget(self.request);
        }
    }
}

fn check(request: &Request) -> Result<Framing, Fault> {
    let HTTPVersion(major, minor) = *request.http_version();
    let fields = request.headers().iter();
    Head {
        method: request.method().as_str(),
        target: request.url(),
        version: (major, minor),
        fields: fields.map(|field| (field.field.as_str().as_str(), field.value.as_str())),
    }
    .check()
}
