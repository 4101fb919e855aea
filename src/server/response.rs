//! The wire form of a reply (RFC 9112, 4), or of one part of it.
//!
//! The whole head is written here, so its length, date and connection fields are
//! always right. A body that comes in parts has no length: each part is a chunk, or,
//! for HTTP/1.0, the end of the body is that of the connection.

use super::framing::Persistence;
use super::request::Head;
use crate::api::{Reply, Rest};
use std::cell::{Cell, RefCell};
use std::mem;
use std::ops::Deref;
use std::time::{SystemTime, UNIX_EPOCH};
use tiny_http::StatusCode;

/// A body up to this size is sent in one write with its head.
pub const SMALL_RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// A body up to this size is copied behind its head: that takes less time than to tell the
/// system of another place.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// The usual size of a head.
const HEAD_BYTES_USUAL: usize = 512;

/// The largest buffer that a thread keeps: a client that takes nothing holds one too.
const SPARE_BYTES_MAX: usize = 8 * 1024;

/// The sign of a body's end (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The length in the head.
    Length,
    /// The last chunk.
    LastChunk,
    /// The end of the connection: HTTP/1.0 knows no chunks.
    Close,
}

/// A reply or a part of one, with everything else that its wire form depends on.
pub struct Response {
    reply: Reply,
    /// The request was HEAD: the length is sent, the body is not.
    head_only: bool,
    progress: Progress,
    /// The bytes of this part's body that were written, where that is not all.
    cut_at: Option<usize>,
}

/// Bytes to write, in a buffer that the thread which drops this uses again.
pub struct Piece(Vec<u8>);

/// A response as far as its parts that were written.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The connection's fate after the last part.
    pub persistence: Persistence,
    /// The sign of the body's end.
    pub body_end: BodyEnd,
    /// It goes on until its client leaves.
    is_stream: bool,
    /// The status that was sent; none before the head.
    status: Option<u16>,
    body_bytes: u64,
}

impl Response {
    /// The response to a request with this head, or the first part of it. It may end
    /// a connection that would go on.
    pub fn new(reply: Reply, head: &Head, ends: bool) -> Self {
        let body_end = match head.takes_chunks {
            _ if !reply.has_rest() => BodyEnd::Length,
            true => BodyEnd::LastChunk,
            false => BodyEnd::Close,
        };
        let ends = ends || body_end == BodyEnd::Close;
        let persistence = if ends { Persistence::Close } else { head.persistence };
        let is_stream = reply.is_stream();
        let progress = Progress { persistence, body_end, is_stream, status: None, body_bytes: 0 };
        let mut response = Self { reply, head_only: head.is_head(), progress, cut_at: None };
        if !response.has_body() {
            drop(response.reply.take_rest());
        }
        response
    }

    /// The last response of a connection, to no request.
    pub fn last_words(reply: impl Into<Reply>) -> Self {
        Self::new(reply.into(), &Head::unknown(), true)
    }

    /// Returns true if it fits one write.
    pub fn is_small(&self) -> bool {
        self.body().len() <= SMALL_RESPONSE_BYTES_MAX
    }

    /// Returns true if another part follows.
    pub fn has_rest(&self) -> bool {
        self.reply.has_rest()
    }

    /// Returns true if it is one of several parts, or may be.
    pub fn is_in_parts(&self) -> bool {
        self.progress.body_end != BodyEnd::Length
    }

    /// Returns true if it is a part of a stream.
    pub fn is_stream(&self) -> bool {
        self.progress.is_stream
    }

    /// The status: that of the first part, unless this one breaks the response off.
    pub fn status(&self) -> u16 {
        let sent = self.progress.status.filter(|_| !self.breaks_off());
        sent.unwrap_or_else(|| self.reply.status())
    }

    /// Returns true if it stands for a part that cannot be had, of which nothing is sent.
    pub fn breaks_off(&self) -> bool {
        self.progress.status.is_some() && self.reply.status() >= 400
    }

    /// The connection's fate after the last part.
    pub fn persistence(&self) -> Persistence {
        self.progress.persistence
    }

    /// The sign of the body's end.
    pub fn body_end(&self) -> BodyEnd {
        self.progress.body_end
    }

    /// The bytes of body that are sent, up to the end of this part, or to where it was cut.
    pub fn body_bytes(&self) -> u64 {
        self.progress.body_bytes + self.cut_at.unwrap_or(self.body().len()) as u64
    }

    /// Notes that of this part no more than so many bytes were written, of which
    /// `first_piece` has the first.
    pub fn note_cut(&mut self, written: usize, first_piece: &[u8]) {
        let body_bytes = self.body().len();
        let ahead = first_piece.len().saturating_sub(body_bytes.min(SMALL_RESPONSE_BYTES_MAX));
        self.cut_at = Some(written.saturating_sub(ahead).min(body_bytes));
    }

    /// The way to the next part, without this one; `None` after the last.
    pub fn into_rest(mut self) -> Option<(Rest, Progress)> {
        let (status, body_bytes) = (Some(self.status()), self.body_bytes());
        Some((self.reply.take_rest()?, Progress { status, body_bytes, ..self.progress }))
    }

    /// The head, and as much of the body as belongs into the same write.
    pub fn first_piece(&self) -> Piece {
        let body = self.body();
        let mut piece = self.head_piece();
        if self.body_end() == BodyEnd::LastChunk && !body.is_empty() {
            piece.append(format!("{:x}\r\n", body.len()).as_bytes());
        }
        piece.append(body.get(..SMALL_RESPONSE_BYTES_MAX).unwrap_or(body));
        if self.is_small() {
            piece.append(self.chunk_end());
        }
        piece
    }

    /// The first piece of a small response without parts, and the body if that is not in
    /// it: to copy a longer one takes its time.
    pub fn first_piece_and_body(&self) -> (Piece, &[u8]) {
        if self.body().len() <= COPIED_BYTES_MAX {
            (self.first_piece(), &[])
        } else {
            (self.head_piece(), self.body())
        }
    }

    /// The head, unless it was sent.
    fn head_piece(&self) -> Piece {
        let mut bytes = SPARE.take();
        bytes.reserve(HEAD_BYTES_USUAL);
        if self.progress.status.is_none() {
            self.write_head(&mut bytes);
        }
        Piece(bytes)
    }

    /// All of it in one piece, in place of its body.
    pub fn take_piece(&mut self) -> Piece {
        let mut piece = self.first_piece();
        piece.append(self.second_piece());
        piece.append(self.third_piece());
        self.progress.body_bytes = self.body_bytes();
        self.reply.drop_body();
        piece
    }

    /// The rest of the body.
    pub fn second_piece(&self) -> &[u8] {
        self.body().get(SMALL_RESPONSE_BYTES_MAX..).unwrap_or_default()
    }

    /// The bytes behind a body that does not fit one write.
    pub fn third_piece(&self) -> &'static [u8] {
        if self.is_small() { &[] } else { self.chunk_end() }
    }

    /// The end of a chunk, and of all (RFC 9112, 7.1). An empty chunk would be the
    /// last one, so a part without bytes has none.
    fn chunk_end(&self) -> &'static [u8] {
        if self.body_end() != BodyEnd::LastChunk || !self.has_body() {
            return &[];
        }
        match (self.body().is_empty(), self.has_rest()) {
            (true, true) => b"",
            (true, false) => b"0\r\n\r\n",
            (false, true) => b"\r\n",
            (false, false) => b"\r\n0\r\n\r\n",
        }
    }

    fn body(&self) -> &[u8] {
        if self.has_body() { self.reply.body() } else { &[] }
    }

    fn has_body(&self) -> bool {
        !self.head_only && !self.is_bodiless() && !self.breaks_off()
    }

    /// 204 and 304 have neither a body nor a length (RFC 9110, 8.6).
    fn is_bodiless(&self) -> bool {
        matches!(self.status(), 204 | 304)
    }

    fn write_head(&self, bytes: &mut Vec<u8>) {
        let status = self.reply.status();
        let mut number = itoa::Buffer::new();
        put(bytes, ["HTTP/1.1 ", number.format(status), " "]);
        put(bytes, [StatusCode(status).default_reason_phrase(), "\r\n"]);
        Date::with_now(|date| put(bytes, [date]));
        match self.body_end() {
            _ if self.is_bodiless() => {}
            BodyEnd::Length => {
                put(bytes, ["Content-Length: ", number.format(self.reply.body().len()), "\r\n"]);
            }
            BodyEnd::LastChunk if self.has_body() => {
                put(bytes, ["Transfer-Encoding: chunked\r\n"]);
            }
            BodyEnd::LastChunk | BodyEnd::Close => {}
        }
        match self.persistence() {
            Persistence::KeepAlive => {}
            Persistence::KeepAliveNamed => put(bytes, ["Connection: keep-alive\r\n"]),
            Persistence::Close => put(bytes, ["Connection: close\r\n"]),
        }
        // One loop for each kind of them, not one that asks for the kind each time.
        self.reply.headers().for_each(|(name, value)| put(bytes, [name, ": ", value, "\r\n"]));
        put(bytes, ["\r\n"]);
    }
}

impl Piece {
    /// Adds bytes behind it.
    pub fn append(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.0.capacity() <= SPARE_BYTES_MAX {
            self.0.clear();
            // A thread that ends keeps none.
            SPARE.try_with(|spare| spare.set(mem::take(&mut self.0))).ok();
        }
    }
}

impl Progress {
    /// The next part, which is the body of a reply.
    pub fn followed_by(self, reply: Reply) -> Response {
        Response { reply, head_only: false, progress: self, cut_at: None }
    }
}

fn put<const N: usize>(bytes: &mut Vec<u8>, parts: [&str; N]) {
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
    }
}

thread_local! {
    /// The buffer of this thread's last piece.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };

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
    use crate::api::Step;
    use std::thread;
    use std::time::Duration;

    fn head(method: &'static str, persistence: Persistence, takes_chunks: bool) -> Head {
        Head { method, persistence, takes_chunks, ..Head::unknown() }
    }

    /// A reply with one part after the other.
    fn in_parts(parts: &[&'static str]) -> Reply {
        let (first, rest) = parts.split_first().expect("there is a part");
        let reply = Reply::text(*first);
        if rest.is_empty() {
            return reply;
        }
        let rest = rest.to_vec();
        reply.with_rest(Rest::new(move || Step::Reply(in_parts(&rest))))
    }

    /// All that is written, part by part.
    fn written(mut response: Response) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            bytes.extend_from_slice(&response.first_piece());
            bytes.extend(response.second_piece());
            bytes.extend(response.third_piece());
            let Some((rest, progress)) = response.into_rest() else { return bytes };
            let Step::Reply(reply) = rest.step() else { panic!("no storage is needed") };
            response = progress.followed_by(reply);
        }
    }

    /// The fields beside those of every text, and the body.
    fn shown(response: Response) -> (String, String) {
        let text = String::from_utf8(written(response)).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("the end of a head");
        let usual = ["Date", "Content-Type", "Cache-Control", "X-Content-Type-Options"];
        let is_usual = |line: &&str| usual.iter().any(|name| line.starts_with(name));
        let lines: Vec<&str> = head.split("\r\n").filter(|line| !is_usual(line)).collect();
        (lines.join(", "), body.to_owned())
    }

    #[test]
    fn a_part_is_a_chunk_unless_it_is_empty() {
        let keep = Persistence::KeepAlive;
        for (parts, body) in [
            (&["a\n", "b"][..], "2\r\na\n\r\n1\r\nb\r\n0\r\n\r\n"),
            (&["a", ""], "1\r\na\r\n0\r\n\r\n"),
            (&["", "a"], "1\r\na\r\n0\r\n\r\n"),
            (&["", "", ""], "0\r\n\r\n"),
            (&["a", "", "0123456789abcdef", ""], "1\r\na\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"),
        ] {
            let response = Response::new(in_parts(parts), &head("GET", keep, true), false);
            let head = "HTTP/1.1 200 OK, Transfer-Encoding: chunked".to_owned();
            assert_eq!(shown(response), (head, body.to_owned()), "{parts:?}");
        }
    }

    #[test]
    fn a_part_that_is_written_in_pieces_is_one_chunk() {
        let large: &str = Box::leak("x".repeat(SMALL_RESPONSE_BYTES_MAX + 1).into_boxed_str());
        for parts in [[large, "b"], ["b", large]] {
            let head = head("GET", Persistence::KeepAlive, true);
            let (_, body) = shown(Response::new(in_parts(&parts), &head, false));
            let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
            let chunks = parts.map(chunk).concat() + "0\r\n\r\n";
            assert!(body == chunks, "{} bytes, not {}", body.len(), chunks.len());
        }
    }

    #[test]
    fn one_piece_has_the_bytes_of_all_and_stands_for_the_body() {
        let large: &str = Box::leak("x".repeat(SMALL_RESPONSE_BYTES_MAX + 1).into_boxed_str());
        for (part, takes_chunks) in [("a\n", true), ("", true), (large, true), (large, false)] {
            let head = head("GET", Persistence::KeepAlive, takes_chunks);
            let response = || Response::new(in_parts(&[part, "b"]), &head, false);
            let of = |response: &Response| {
                let pieces = [&*response.first_piece(), response.second_piece()];
                [&pieces.concat(), response.third_piece()].concat()
            };
            let (whole, mut taken) = (response(), response());
            assert!(*taken.take_piece() == *of(&whole));
            assert_eq!(taken.body_bytes(), whole.body_bytes());
            assert!(taken.second_piece().is_empty() && taken.third_piece().is_empty());
            assert!(taken.has_rest());
        }
    }

    #[test]
    fn a_body_apart_is_the_rest_of_the_first_piece() {
        for bytes in [0, 1, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1, SMALL_RESPONSE_BYTES_MAX] {
            for method in ["GET", "HEAD"] {
                let head = head(method, Persistence::KeepAlive, true);
                let response = Response::new(Reply::text("x".repeat(bytes)), &head, false);
                let (mut first, body) = response.first_piece_and_body();
                let is_apart = method == "GET" && bytes > COPIED_BYTES_MAX;
                assert_eq!(body.len(), if is_apart { bytes } else { 0 }, "{method} {bytes}");
                first.append(body);
                let length = format!("Content-Length: {bytes}\r\n");
                assert!(String::from_utf8_lossy(&first).contains(&length), "{method} {bytes}");
                assert_eq!(first.len(), response.first_piece().len(), "{method} {bytes}");
            }
        }
    }

    #[test]
    fn parts_for_an_old_client_end_with_the_connection() {
        for persistence in [Persistence::Close, Persistence::KeepAliveNamed] {
            let head = head("GET", persistence, false);
            let response = Response::new(in_parts(&["a\n", "", "b"]), &head, false);
            assert_eq!(response.persistence(), Persistence::Close);
            let head = "HTTP/1.1 200 OK, Connection: close";
            assert_eq!(shown(response), (head.to_owned(), "a\nb".to_owned()));
        }
    }

    #[test]
    fn the_rest_of_a_body_that_is_not_sent_is_not_made() {
        for takes_chunks in [true, false] {
            let unread = Rest::new(|| panic!("nobody asks for it"));
            let reply = Reply::text("a").with_rest(unread);
            let head = head("HEAD", Persistence::KeepAlive, takes_chunks);
            let (head, body) = shown(Response::new(reply, &head, true));
            assert_eq!((&*head, &*body), ("HTTP/1.1 200 OK, Connection: close", ""));
        }
        let unread = Rest::new(|| panic!("nobody asks for it"));
        let reply = Reply::options("GET".to_owned()).with_rest(unread);
        let head = head("GET", Persistence::KeepAlive, true);
        let (head, body) = shown(Response::new(reply, &head, false));
        assert_eq!((&*head, &*body), ("HTTP/1.1 204 No Content, Allow: GET", ""));
    }

    #[test]
    fn a_part_that_is_no_success_breaks_the_response_off() {
        let head = head("GET", Persistence::KeepAlive, true);
        let first = Response::new(in_parts(&["abc", ""]), &head, false);
        assert!(!first.breaks_off());
        let (_, progress) = first.into_rest().expect("there is another part");
        let next = progress.followed_by(in_parts(&["de"]));
        assert_eq!((next.breaks_off(), next.status(), next.body_bytes()), (false, 200, 5));
        let next = progress.followed_by(Reply::error(503, "no"));
        assert_eq!((next.breaks_off(), next.status(), next.body_bytes()), (true, 503, 3));
        assert!(next.first_piece().is_empty() && next.third_piece().is_empty());
        assert!(!Response::new(Reply::error(503, "no"), &head, false).breaks_off());
    }

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
