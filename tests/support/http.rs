//! A client that sees every byte: it sends what it is told to and takes an
//! answer apart, with a deadline on everything.

use super::threads::Start;
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The longest wait of a test for anything: long, for a machine that has much else
/// to do, but shorter than a server's wait for a request. No test waits for the end
/// of that.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// One connection to a server.
pub struct Connection {
    stream: TcpStream,
    /// What has come and is not taken apart yet.
    unread: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Response {
    /// The status line without its line end.
    pub status_line: String,
    /// Names and values of the header fields, in order.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

/// The sign of a body's end.
enum BodyEnd {
    /// So many bytes.
    Length(usize),
    /// The chunk that has none.
    LastChunk,
    /// The end of the connection.
    Close,
}

impl Connection {
    /// Connects.
    pub fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr).expect("the server accepts")
    }

    /// Connects to a server that may have ended.
    pub fn try_open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes no delay");
        Ok(Self { stream, unread: Vec::new() })
    }

    /// The same connection with another wait for what it reads.
    pub fn with_patience(self, patience: Duration) -> Self {
        self.set_patience(patience);
        self
    }

    /// Waits for so long for what it reads.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a socket takes a timeout");
    }

    /// Its own end.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("a socket has an address")
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    /// Sends bytes to a server that may have closed the connection.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends no more; answers can still be read.
    pub fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        let never = Some(Duration::ZERO);
        SockRef::from(&self.stream).set_linger(never).expect("a socket takes a linger time");
    }

    /// Sends a request without a body and reads its answer.
    pub fn call(&mut self, method: &str, target: &str) -> Response {
        self.send(head(method, target));
        self.response_to(method)
    }

    /// Reads the value under a target.
    pub fn get(&mut self, target: &str) -> Response {
        self.call("GET", target)
    }

    /// Stores a value under a target, in one write.
    pub fn put(&mut self, target: &str, value: &[u8]) -> Response {
        let mut request = put_head(target, value.len()).into_bytes();
        request.extend_from_slice(value);
        self.send(request);
        self.response()
    }

    /// Begins to store a value of that many bytes and waits until the server asks
    /// for them, so that the request is in its hands.
    pub fn begin_upload(&mut self, target: &str, bytes: usize) {
        let head = put_head(target, bytes);
        self.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
        assert_eq!(self.response().status(), 100);
    }

    /// Sends a request with header fields of its own and a body, in one write,
    /// and reads its answer.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[&str], body: &[u8]) -> Response {
        let fields: String = fields.iter().flat_map(|field| [*field, "\r\n"]).collect();
        let start = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}");
        let mut request = format!("{start}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        request.extend_from_slice(body);
        self.send(request);
        self.response_to(method)
    }

    /// Reads the next answer to anything but HEAD.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads the next answer, to a request of that method.
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).expect("an answer in time")
    }

    /// Another hold on the same connection, to send by.
    pub fn try_clone(&self) -> Self {
        let stream = self.stream.try_clone().expect("there are descriptors");
        Self { stream, unread: Vec::new() }
    }

    /// Reads the head of the next answer, and nothing of its body.
    pub fn try_head(&mut self) -> io::Result<Response> {
        self.try_response_to("HEAD")
    }

    /// Reads the next answer, or says why there is none.
    pub fn try_response_to(&mut self, method: &str) -> io::Result<Response> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            self.read_more()?;
        };
        let head = String::from_utf8(self.unread[..head_end].to_vec());
        let head = head.map_err(|err| io::Error::new(ErrorKind::InvalidData, err))?;
        let mut response = Response::of_head(&head)?;
        let body_start = head_end + 4;
        let body_end = if method == "HEAD" { BodyEnd::Length(0) } else { response.body_end() };
        if let BodyEnd::Length(bytes) = body_end {
            while self.unread.len() < body_start + bytes {
                self.read_more()?;
            }
        }
        self.unread.drain(..body_start);
        response.body = match body_end {
            BodyEnd::Length(bytes) => self.take(bytes),
            BodyEnd::LastChunk => self.chunks()?,
            BodyEnd::Close => self.rest()?,
        };
        Ok(response)
    }

    /// Reads chunks up to the last one.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.try_chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }

    /// Reads the next chunk of a body; the last one is empty.
    pub fn try_chunk(&mut self) -> io::Result<Vec<u8>> {
        let invalid = || io::Error::new(ErrorKind::InvalidData, "that is no chunk");
        let line_end = loop {
            if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                break at;
            }
            self.read_more()?;
        };
        let size = std::str::from_utf8(&self.unread[..line_end]).map_err(|_| invalid())?;
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid())?;
        self.unread.drain(..line_end + 2);
        while self.unread.len() < size + 2 {
            self.read_more()?;
        }
        let chunk = self.take(size);
        if self.unread.drain(..2).ne(*b"\r\n") {
            return Err(invalid());
        }
        Ok(chunk)
    }

    /// The first bytes of what was read; copied at once, as tests are not optimized.
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let unread = self.unread.split_off(bytes);
        mem::replace(&mut self.unread, unread)
    }

    /// Reads to the end of the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::UnexpectedEof => break,
                Err(err) => return Err(err),
            }
        }
        Ok(mem::take(&mut self.unread))
    }

    /// Waits until the server closes the connection, and panics if it does not
    /// or if it sends anything more.
    #[track_caller]
    pub fn expect_closed(mut self) {
        self.end().unwrap_or_else(|err| panic!("{err}"));
    }

    /// Waits until the server closes the connection. The error says what it
    /// did instead.
    pub fn end(&mut self) -> Result<(), String> {
        let end = self.read_more();
        if !self.unread.is_empty() {
            let more = String::from_utf8_lossy(&self.unread);
            return Err(format!("expected the connection's end, got {more:?}"));
        }
        match end.map_err(|err| err.kind()) {
            Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(()),
            other => Err(format!("expected the connection's end, and it is open: {other:?}")),
        }
    }

    /// Whether all that has come was whole answers.
    pub fn is_at_an_answers_start(&self) -> bool {
        self.unread.is_empty()
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                self.unread.extend_from_slice(&piece[..got]);
                Ok(())
            }
            // A signal came, which says nothing about the server.
            Err(err) if err.kind() == ErrorKind::Interrupted => self.read_more(),
            Err(err) => Err(err),
        }
    }
}

impl Response {
    fn of_head(head: &str) -> io::Result<Self> {
        let invalid = || io::Error::new(ErrorKind::InvalidData, head.to_owned());
        let mut lines = head.split("\r\n");
        let status_line = lines.next().ok_or_else(invalid)?.to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(invalid)?;
            Ok((name.to_owned(), value.trim().to_owned()))
        });
        let headers = fields.collect::<io::Result<_>>()?;
        Ok(Self { status_line, headers, body: Vec::new() })
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        let code = self.status_line.split(' ').nth(1);
        code.and_then(|code| code.parse().ok()).expect("a status line with a number")
    }

    /// The value of the only header field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice: {:?}", self.headers);
        value
    }

    /// The body, which is text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The end of the body of an answer to anything but HEAD (RFC 9112, 6.3).
    fn body_end(&self) -> BodyEnd {
        match (self.header("Content-Length"), self.header("Transfer-Encoding")) {
            (Some(length), None) => BodyEnd::Length(length.parse().expect("a number")),
            (None, Some("chunked")) => BodyEnd::LastChunk,
            (None, None) if matches!(self.status(), 100..200 | 204 | 304) => BodyEnd::Length(0),
            (None, None) => BodyEnd::Close,
            unclear => panic!("one length, and not {unclear:?}"),
        }
    }
}

/// A GET.
pub fn get_head(target: &str) -> String {
    head("GET", target)
}

fn head(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// The head of a PUT whose body has that length.
pub fn put_head(target: &str, body_bytes: usize) -> String {
    format!("PUT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {body_bytes}\r\n\r\n")
}

/// Waits until `condition` holds. Panics if it does not in time.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// The same with another bound.
#[track_caller]
pub fn wait_within(bound: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(bound, condition), "waited {bound:?}, and not until {what}");
}

/// Whether `condition` comes to hold in time.
pub fn holds_within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets so many clients do the same at once, each over a connection of its
/// own; gives what they return.
pub fn at_once<T: Send>(
    addr: SocketAddr,
    clients: usize,
    act: impl Fn(usize, &mut Connection) -> T + Sync,
) -> Vec<T> {
    at_once_over(|| Connection::open(addr), clients, act)
}

/// The same over connections that `connect` opens.
pub fn at_once_over<T: Send>(
    connect: impl Fn() -> Connection + Sync,
    clients: usize,
    act: impl Fn(usize, &mut Connection) -> T + Sync,
) -> Vec<T> {
    let start = Start::new(clients);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|client| {
                let (start, act, connect) = (&start, &act, &connect);
                scope.spawn(move || {
                    let mut connection = connect();
                    start.wait();
                    act(client, &mut connection)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client ends well")).collect()
    })
}

/// Lets so many clients increment the number under `/kv/number` at once, each so many
/// times, over connections that `connect` opens, and expects each number to come once.
/// Gives the last one.
#[track_caller]
pub fn increment_at_once(
    name: &str,
    connect: impl Fn() -> Connection + Sync,
    clients: usize,
    each: usize,
) -> usize {
    let numbers = at_once_over(connect, clients, |_, connection| {
        let mut next = || {
            let answer = connection.call("POST", "/kv/number?incr");
            assert_eq!(answer.status(), 200, "{}", answer.text());
            answer.text().trim_end().parse::<usize>().expect("a number")
        };
        let own: Vec<usize> = (0..each).map(|_| next()).collect();
        assert!(own.is_sorted(), "a number that goes back: {own:?}");
        own
    });
    let mut numbers: Vec<usize> = numbers.into_iter().flatten().collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=clients * each), "{name}: one is twice or not there");
    clients * each
}

/// Whether a server has read all that its clients have sent it.
#[cfg(target_os = "linux")]
pub fn has_read_everything(server: SocketAddr) -> bool {
    let own = format!(":{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells");
    table.lines().all(|line| {
        // The local address, the peer's, the state, and the bytes that wait in either
        // direction.
        let mut words = line.split_whitespace().skip(1);
        let [local, _, state, waiting] = [(); 4].map(|()| words.next().unwrap_or_default());
        !local.ends_with(&own) || state != "01" || waiting.ends_with(":00000000")
    })
}

/// The same where nobody can tell.
#[cfg(not(target_os = "linux"))]
pub fn has_read_everything(_server: SocketAddr) -> bool {
    true
}
