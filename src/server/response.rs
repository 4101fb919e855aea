//! The wire form of a reply (RFC 9112, 4).
//!
//! The whole head is written here, so its length, date and connection fields are
//! always right.

use crate::api::Reply;
use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};
use tiny_http::StatusCode;

/// A body up to this size is sent in one write with its head.
pub const SMALL_RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// The usual size of a head.
const HEAD_BYTES_USUAL: usize = 512;

/// The connection's fate after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, as is usual in HTTP/1.1.
    KeepAlive,
    /// It stays open, which an HTTP/1.0 client has to be told.
    KeepAliveNamed,
    /// It is closed.
    Close,
}

/// A reply, with everything else that its wire form depends on.
pub struct Response {
    pub reply: Reply,
    /// The request was HEAD: the length is sent, the body is not.
    pub head_only: bool,
    pub persistence: Persistence,
}

impl Response {
    /// Whether it fits one write.
    pub fn is_small(&self) -> bool {
        self.body().len() <= SMALL_RESPONSE_BYTES_MAX
    }

    /// The bytes of body that are sent.
    pub fn body_bytes(&self) -> u64 {
        self.body().len() as u64
    }

    /// The head, and as much of the body as belongs into the same write.
    pub fn first_part(&self) -> Vec<u8> {
        let body = self.body();
        let first = body.get(..SMALL_RESPONSE_BYTES_MAX).unwrap_or(body);
        let mut bytes = Vec::with_capacity(HEAD_BYTES_USUAL + first.len());
        self.write_head(&mut bytes);
        bytes.extend_from_slice(first);
        bytes
    }

    /// The rest of the body.
    pub fn second_part(&self) -> &[u8] {
        self.body().get(SMALL_RESPONSE_BYTES_MAX..).unwrap_or_default()
    }

    fn body(&self) -> &[u8] {
        if self.head_only || self.is_bodiless() { &[] } else { self.reply.body() }
    }

    /// 204 and 304 have neither a body nor a length (RFC 9110, 8.6).
    fn is_bodiless(&self) -> bool {
        matches!(self.reply.status(), 204 | 304)
    }

    fn write_head(&self, bytes: &mut Vec<u8>) {
        let status = self.reply.status();
        let mut number = itoa::Buffer::new();
        put(bytes, ["HTTP/1.1 ", number.format(status), " "]);
        put(bytes, [StatusCode(status).default_reason_phrase(), "\r\n"]);
        Date::with_now(|date| put(bytes, [date]));
        if !self.is_bodiless() {
            put(bytes, ["Content-Length: ", number.format(self.reply.body().len()), "\r\n"]);
        }
        match self.persistence {
            Persistence::KeepAlive => {}
            Persistence::KeepAliveNamed => put(bytes, ["Connection: keep-alive\r\n"]),
            Persistence::Close => put(bytes, ["Connection: close\r\n"]),
        }
        for (name, value) in self.reply.headers() {
            put(bytes, [name, ": ", value, "\r\n"]);
        }
        put(bytes, ["\r\n"]);
    }
}

fn put<const N: usize>(bytes: &mut Vec<u8>, parts: [&str; N]) {
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
    }
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: None, field: String::new() }) };
}

/// The `Date` field of a second (RFC 9110, 6.6.1), kept because writing it takes
/// as long as the rest of a head.
struct Date {
    /// Seconds since 1970; none before the first use.
    second: Option<u64>,
    field: String,
}

impl Date {
    /// Shows `action` the field for this second.
    fn with_now(action: impl FnOnce(&str)) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        DATE.with_borrow_mut(|date| {
            if date.second != Some(second) {
                date.second = Some(second);
                date.field = format!("Date: {}\r\n", httpdate::fmt_http_date(now));
            }
            action(&date.field);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_date_is_that_of_each_moment() {
        // Long enough that a second begins meanwhile.
        for _ in 0..4 {
            let before = SystemTime::now();
            Date::with_now(|field| {
                let date =
                    field.strip_prefix("Date: ").and_then(|field| field.strip_suffix("\r\n"));
                let date = httpdate::parse_http_date(date.expect("a field")).expect("a date");
                assert!(date <= SystemTime::now() && before <= date + Duration::from_secs(1));
            });
            thread::sleep(Duration::from_millis(300));
        }
    }
}
