//! `health`: one request to a store, for those who have no other client, as in a container
//! without curl. It has the time that a probe has, whatever it waits for.

use httparse::{EMPTY_HEADER, Response, Status};
use little_key_value::cli::Url;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// The time for all of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest response that is read.
const RESPONSE_BYTES_MAX: u64 = 16 * 1024;

/// The most fields of a response.
const FIELDS_MAX: usize = 64;

/// Asks for a URL. An error is a line for the user: no answer, or a status other than 2xx
/// and the first line behind it.
pub fn check(url: &Url) -> Result<(), String> {
    let (sender, outcome) = crossbeam_channel::bounded(1);
    let asked = url.clone();
    let ask = move || {
        let outcome = ask(&asked);
        // Nobody listens once the time is over.
        sender.send(outcome).ok();
    };
    // To look a name up may take longer, and cannot be interrupted.
    let thread = thread::Builder::new().name("health".to_owned()).spawn(ask);
    thread.map_err(|err| format!("cannot start a thread for the request: {err}"))?;
    let answer = match outcome.recv_timeout(TIMEOUT) {
        Ok(answer) => answer.map_err(|err| format!("{url}: {err}"))?,
        Err(_) => return Err(format!("{url}: no answer in {} s", TIMEOUT.as_secs())),
    };
    match answer {
        (200..=299, _) => Ok(()),
        (status, reason) => Err(format!("{url}: {status} {reason}").trim_end().to_owned()),
    }
}

/// The status of the response, and the first line of its body.
fn ask(url: &Url) -> io::Result<(u16, String)> {
    let Url { host, port, authority, target } = url;
    let mut stream = TcpStream::connect((&**host, *port))?;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: little-key-value\r\n\
         Accept: text/plain\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut reader = stream.take(RESPONSE_BYTES_MAX);
    loop {
        let mut piece = [0; 1024];
        let read = reader.read(&mut piece)?;
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
        if let Some(answer) = parse(&bytes, read == 0)? {
            return Ok(answer);
        }
    }
}

/// The same of these bytes, or `None` if more has to come. Interim responses are passed
/// over (RFC 9110, 15.2).
fn parse(bytes: &[u8], is_all: bool) -> io::Result<Option<(u16, String)>> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    let head = response.parse(bytes).map_err(|_| no_http())?;
    let (Status::Complete(head_bytes), Some(status)) = (head, response.code) else {
        return if is_all { Err(no_http()) } else { Ok(None) };
    };
    if let (100..=199, Some(rest)) = (status, bytes.get(head_bytes..)) {
        return parse(rest, is_all);
    }
    let length =
        response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("Content-Length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    let body = bytes.get(head_bytes..).unwrap_or_default();
    // Without a length there need not be an end.
    if !is_all && body.len() < length.unwrap_or(0) {
        return Ok(None);
    }
    let body = String::from_utf8_lossy(body);
    Ok(Some((status, body.lines().next().unwrap_or_default().to_owned())))
}

fn no_http() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")
}
