//! A request in work: what passes from lane to lane until it is answered.

use super::answer::{Answer, Persistence};
use super::connections::Connection;
use super::framing::{Fault, Framing, Head, Length};
use crate::api::{Call, Reply};
use std::mem;
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
    /// What it holds in memory, about.
    pub(super) bytes: usize,
    /// When it was taken from tiny_http.
    pub(super) came: Instant,
}

/// What tiny_http spends on a header field beside its bytes, about.
const FIELD_OVERHEAD_BYTES: usize = 64;

impl Job {
    pub(super) fn new(request: Request, connection: Arc<Connection>) -> Self {
        let framing = check(&request);
        let bytes = bytes_held(&request);
        Self { request, framing, connection, bytes, came: Instant::now() }
    }

    /// The header fields, names and values.
    pub(super) fn fields(&self) -> Vec<(&str, &str)> {
        let fields = self.request.headers().iter();
        fields.map(|field| (field.field.as_str().as_str(), field.value.as_str())).collect()
    }

    /// The request as the API sees it, given its body's length.
    pub(super) fn call<'a>(&'a self, fields: &'a [(&'a str, &'a str)], length: Length) -> Call<'a> {
        let body_bytes = match length {
            Length::Known(bytes) => Some(bytes),
            Length::Chunked => None,
        };
        let method = self.request.method().as_str();
        Call { method, target: self.request.url(), fields, body_bytes }
    }

    /// Whether the answer is to have no body, only its length (RFC 9110, 9.3.2).
    pub(super) fn is_head(&self) -> bool {
        self.request.method() == &tiny_http::Method::Head
    }

    /// Whether it asks for nothing to be changed (RFC 9110, 9.2.1).
    pub(super) fn is_safe(&self) -> bool {
        matches!(self.request.method(), tiny_http::Method::Get | tiny_http::Method::Head)
    }

    /// What the answer says of the connection.
    pub(super) fn persistence(&self) -> Persistence {
        match self.framing {
            Ok(framing) if !framing.keep_alive || !framing.more_expected => Persistence::Close,
            Ok(framing) if framing.names_keep_alive => Persistence::KeepAliveNamed,
            Ok(_) => Persistence::KeepAlive,
            Err(_) => Persistence::Close,
        }
    }

    /// Gets rid of a request on a connection that was shut.
    ///
    /// tiny_http allocates what is left of an unread body before it finds out
    /// that nothing comes, and the process ends where it cannot. Such a
    /// request is kept for ever, and so is the thread that waits for its end.
    pub(super) fn discard(self) {
        if self.framing.is_ok_and(|framing| framing.arrived) {
            // It may be the first request of a later connection that has the
            // same peer, whose client is better off with this than with 500.
            let mut writer = self.request.into_writer();
            let reply = Reply::error(503, "this came too soon, try again");
            let answer = Answer { reply, head_only: false, persistence: Persistence::KeepAlive };
            // Nearly always there is nobody who could read it.
            answer.write_to(&mut *writer).ok();
            return;
        }
        let unread_max = self.request.body_length().unwrap_or(0);
        // Nothing touches the memory, so there may be more of it than exists.
        if Vec::<u8>::new().try_reserve_exact(unread_max).is_err() {
            mem::forget(self.request);
            self.connection.set_hanging();
        }
    }
}

fn bytes_held(request: &Request) -> usize {
    let field = |field: &tiny_http::Header| {
        field.field.as_str().len() + field.value.len() + FIELD_OVERHEAD_BYTES
    };
    let fields: usize = request.headers().iter().map(field).sum();
    size_of::<Job>() + request.url().len() + fields + request.body_length().unwrap_or(0).min(1024)
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
