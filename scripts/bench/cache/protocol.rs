//! Requests and answers in the bytes of HTTP and of Redis, down pipelines.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::Duration;

#[derive(Clone, Copy)]
pub enum Protocol {
    Http,
    Redis,
}

pub enum Answer<'a> {
    Value(&'a [u8]),
    Absent,
    Done,
    Refused,
}

impl Protocol {
    pub fn write_get(self, out: &mut Vec<u8>, key: u64) {
        match self {
            Self::Http => write!(out, "GET /kv/key:{key:012} HTTP/1.1\r\nHost: bench\r\n\r\n"),
            Self::Redis => write!(out, "*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n"),
        }
        .expect("a vector takes it");
    }

    pub fn write_put(self, out: &mut Vec<u8>, key: u64, value: &[u8]) {
        let length = value.len();
        match self {
            Self::Http => write!(
                out,
                "PUT /kv/key:{key:012} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n"
            ),
            Self::Redis => write!(out, "*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${length}\r\n"),
        }
        .expect("a vector takes it");
        out.extend_from_slice(value);
        if let Self::Redis = self {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The next answer on a connection.
    pub fn answer(self, connection: &mut Connection) -> Answer<'_> {
        match self {
            Self::Http => {
                let head = connection.until(b"\r\n\r\n");
                let status: u16 = number(&head[9..12]);
                let length = find(head, b"\r\nContent-Length: ").map_or(0, |at| {
                    let digits = &head[at + 18..];
                    number(&digits[..find(digits, b"\r\n").expect("a head has lines")])
                });
                let body = connection.take(length);
                match status {
                    200 if length > 0 => Answer::Value(body),
                    200 | 201 | 204 => Answer::Done,
                    404 => Answer::Absent,
                    507 => Answer::Refused,
                    _ => panic!("an answer is {status}"),
                }
            }
            Self::Redis => {
                let line = connection.until(b"\r\n");
                match line[0] {
                    b'$' if line[1] == b'-' => Answer::Absent,
                    b'$' => {
                        let length: usize = number(&line[1..line.len() - 2]);
                        Answer::Value(&connection.take(length + 2)[..length])
                    }
                    b'+' => Answer::Done,
                    b'-' if line.starts_with(b"-OOM") => Answer::Refused,
                    _ => panic!("an answer is {}", String::from_utf8_lossy(line)),
                }
            }
        }
    }
}

fn number<T: FromStr>(digits: &[u8]) -> T {
    let digits = std::str::from_utf8(digits).expect("digits are text");
    digits.parse().unwrap_or_else(|_| panic!("not a number: {digits:?}"))
}

fn find(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|piece| piece == what)
}

/// A socket, what is to be sent, and what has come and was not yet looked at.
pub struct Connection {
    socket: TcpStream,
    pub unsent: Vec<u8>,
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    pub fn new(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        socket.set_nodelay(true).expect("a socket sends at once");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has a bound");
        Self { socket, unsent: Vec::new(), data: vec![0; 1 << 16], start: 0, end: 0 }
    }

    pub fn send(&mut self) {
        self.socket.write_all(&self.unsent).expect("the server reads");
        self.unsent.clear();
        self.unsent.shrink_to(1 << 20);
    }

    /// What has come up to this mark, and the mark.
    fn until(&mut self, mark: &[u8]) -> &[u8] {
        let length = loop {
            if let Some(at) = find(&self.data[self.start..self.end], mark) {
                break at + mark.len();
            }
            self.read(1);
        };
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let missing = length.saturating_sub(self.end - self.start);
        self.read(missing);
        self.start += length;
        &self.data[self.start - length..self.start]
    }

    /// Reads at least so many bytes.
    fn read(&mut self, mut missing: usize) {
        if missing == 0 {
            return;
        }
        self.data.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.data.len() < self.end + missing {
            self.data.resize(self.end + missing, 0);
        }
        while missing > 0 {
            let count = self.socket.read(&mut self.data[self.end..]).expect("the server answers");
            assert!(count > 0, "the server has closed a connection");
            self.end += count;
            missing = missing.saturating_sub(count);
        }
    }
}
