//! Input from a connection, received and not used yet.

use crate::api::Refusal;
use crate::api::grammar::is_tchar;
use crate::server::body::Source;
use crate::server::connections::Connection;
use crate::server::socket::Socket;
use std::io::{self, BufRead, Read};

/// The bytes received at once of a head.
pub const HEAD_STEP_BYTES: usize = 1024;

/// The bytes received at once of a body.
pub const BODY_STEP_BYTES: usize = 16 * 1024;

/// The most of a connection's buffer that is kept between requests.
const BUFFER_BYTES_KEPT: usize = 4 * 1024;

/// Input that was received and not used yet.
#[derive(Default)]
pub struct Input {
    pub buffer: Vec<u8>,
    /// The length of the buffer's used part.
    pub used: usize,
    /// No request is read any more.
    pub is_over: bool,
    /// No reader is needed behind the last one: it came with all that its client had to
    /// say, or its response goes on.
    pub needs_no_reader: bool,
    /// The client has ended its side.
    pub has_ended: bool,
    /// The requests that came as a whole, one behind the other.
    pub whole: usize,
}

/// A body's reader, which begins with input that came with the head.
pub struct Wire<'a> {
    pub connection: &'a Connection,
    pub input: &'a mut Input,
}

impl Input {
    /// What was not used yet.
    pub fn unused(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Counts so many bytes more as used.
    pub fn use_up(&mut self, bytes: usize) {
        self.used += bytes;
        if self.used >= self.buffer.len() {
            self.used = 0;
            self.buffer.clear();
        }
    }

    /// Gives up a buffer that is too large to be kept, once it is used up.
    pub fn trim(&mut self) {
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
    }
}

impl Wire<'_> {
    /// Receives up to about so many bytes; 0 at the end or after an error.
    pub fn receive(&mut self, bytes: usize) -> usize {
        let socket = &self.connection.socket;
        until_received(socket, || self.receive_soon(bytes))
    }

    /// The same; `None` if nothing has come for a while.
    pub fn receive_soon(&mut self, bytes: usize) -> Option<usize> {
        let input = &mut *self.input;
        if input.used > 0 {
            input.buffer.drain(..input.used);
            input.used = 0;
        }
        if input.has_ended {
            return Some(0);
        }
        input.buffer.reserve(bytes);
        let received = self.connection.socket.receive(&mut input.buffer, usize::MAX);
        let received = received.unwrap_or(Some(0))?;
        self.note(received);
        Some(received)
    }

    /// Receives what is there, into the room of the buffer; 0 at the end or after an error,
    /// and `None` if there is nothing. Never blocks.
    pub fn receive_now(&mut self) -> Option<usize> {
        let received = self.connection.socket.receive_now(&mut self.input.buffer);
        let received = received.unwrap_or(Some(0))?;
        self.note(received);
        Some(received)
    }

    /// Notes that so many bytes were received, or the end.
    fn note(&mut self, received: usize) {
        self.input.has_ended = received == 0;
        self.connection.add_received(received);
    }
}

/// The outcome of receiving once something has come, however long that takes: `receive`
/// gives `None` if nothing has come for a while.
fn until_received<T>(socket: &Socket, mut receive: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(received) = receive() {
            return received;
        }
        socket.wait_for_input();
    }
}

impl BufRead for Wire<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.unused().is_empty()
            && self.receive(BODY_STEP_BYTES) == 0
            && self.connection.pipeline.is_upload_late()
        {
            // The end is the watchdog's, and not the client's.
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(self.input.unused())
    }

    fn consume(&mut self, bytes: usize) {
        self.input.use_up(bytes);
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl Source for Wire<'_> {
    /// What has not come yet is received where it stays.
    fn append(&mut self, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        if self.input.unused().is_empty() && !self.input.has_ended {
            let socket = &self.connection.socket;
            let received =
                until_received(socket, || socket.receive(buffer, bytes_max).transpose())?;
            self.note(received);
            return Ok(received);
        }
        let bytes = bytes_max.min(self.input.unused().len());
        buffer.extend_from_slice(self.input.unused().get(..bytes).unwrap_or_default());
        self.input.use_up(bytes);
        Ok(bytes)
    }
}

/// The length of the head that `bytes` begin with, if it is complete. The
/// first `looked_at` were looked at before.
pub fn look_for_end(bytes: &[u8], looked_at: usize) -> Result<Option<usize>, Refusal> {
    if looked_at == 0 && bytes.first().is_some_and(|first| !begins_a_head(*first)) {
        return Err(Refusal::MethodMalformed);
    }
    let fresh = bytes.get(looked_at..).unwrap_or_default();
    for at in memchr::memchr_iter(b'\n', fresh) {
        let line_end = looked_at + at + 1;
        let head = bytes.get(..line_end).unwrap_or_default();
        if !head.ends_with(b"\r\n") {
            return Err(Refusal::LineFeedBare);
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(Some(line_end));
        }
    }
    Ok(None)
}

/// Returns true if this byte can begin a method, or an empty line before it.
fn begins_a_head(byte: u8) -> bool {
    is_tchar(byte) || byte == b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_ends_in_an_empty_line() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let with_more = [&head[..], b"GET /next"].concat();
        assert_eq!(look_for_end(&with_more, 0), Ok(Some(head.len())));
        for length in 0..head.len() {
            assert_eq!(look_for_end(&head[..length], 0), Ok(None), "{length}");
            for looked_at in 1..length {
                assert_eq!(look_for_end(&head[..length], looked_at), Ok(None), "{length}");
                assert_eq!(look_for_end(head, looked_at), Ok(Some(head.len())), "{looked_at}");
            }
        }
    }

    #[test]
    fn what_begins_no_request_is_seen_at_once() {
        let cases: [(&[u8], Refusal); 7] = [
            (b"\x16\x03\x01", Refusal::MethodMalformed),
            (b"\0", Refusal::MethodMalformed),
            (b"\xc3", Refusal::MethodMalformed),
            (b" GET", Refusal::MethodMalformed),
            (b"GET / HTTP/1.1\n", Refusal::LineFeedBare),
            (b"GET / HTTP/1.1\r\nHost: a\n", Refusal::LineFeedBare),
            (b"\n", Refusal::MethodMalformed),
        ];
        for (bytes, err) in cases {
            assert_eq!(look_for_end(bytes, 0), Err(err), "{bytes:?}");
        }
    }

    proptest! {
        /// However the bytes come, they are judged alike.
        #[test]
        fn pieces_are_judged_as_a_whole(
            text in "[GET /\r\n:]{0,40}",
            at in 0..40_usize,
        ) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            let whole = look_for_end(bytes, 0);
            let pieces = match look_for_end(&bytes[..at], 0) {
                Ok(None) => look_for_end(bytes, at),
                found => found,
            };
            prop_assert_eq!(whole, pieces);
        }
    }
}
