//! Transcripts: what a client sends and a server answers, in a form that a
//! person reads, replayed over a real socket.
//!
//! ```text
//! # A comment.
//! > PUT /kv/kenya:capital
//! >
//! > Nairobi
//! < 200 OK
//! < Date: *
//! < !Content-Type
//!
//! > GET /kv/kenya:capital
//! < 200 OK
//! <
//! < Nairobi
//! ```
//!
//! A block of lines is a request (`>`), an answer (`<`) or one event (`=`).
//! The lines of a head end in CR LF on the wire. After an empty one come those
//! of the body, which end in nothing; write `\n` where the body has a newline.
//! Requests with no answer between them are sent in one piece.
//!
//! - `\n`, `\r`, `\t`, `\\` and `\xFF` stand for a byte, `\{1024 k}` for a
//!   thousand and twenty-four `k`.
//! - A request line without a version is one of HTTP/1.1, and the request gets
//!   a `Host`, and a `Content-Length` for its body, unless the transcript has
//!   fields that say the same. With a version it is sent as it stands; only
//!   `Content-Length: *` is counted.
//! - A block of `>>` continues the request before it: its lines are bytes with
//!   nothing added.
//! - In an answer the status and the body are exact, and the version is
//!   HTTP/1.1; no body in the transcript is no body on the wire, and `*` is any
//!   but none. `\*` in a body is any position in a history, or any number, such as that of
//!   the seconds left: these differ from run to run. Of the header fields those in the transcript have to be there, `*`
//!   with any value, `!` not at all.
//! - `= connect` opens another connection, `= closed` means that the server
//!   closes this one, having sent nothing more. `= wait 20 ms` lets that time
//!   pass, for what is over after it.
//! - What comes behind `= on cluster`, `= on memory durable peer` holds on these engines
//!   alone, and is for them alone, up to the next such line; behind `= on every engine` it
//!   is for all again.
//! - `= token LINE` and `= origins https://a https://b`, before all else, are about the
//!   server: it knows a token, of which LINE is one of a token file, where it needs none
//!   otherwise; and it allows pages of these origins.
//! - `= limit 1MiB refuse` or `= limit 1MiB evict`, before all else, is the limit of the store
//!   and what it does past it, on engines that have one; the others are left out.
//!
//! Of every answer but an interim one the replay also asks what is true of
//! all: a date, a length unless its status can have no body, `nosniff`, and of
//! an error and of an answer to a write that no cache may keep it.

use super::engines;
use super::http::{Connection, PATIENCE, Response};
use little_key_value::api::{Access, Hosts, Origin, Origins, TokenSet, Tokens};
use little_key_value::cli::Size;
use little_key_value::storage::{Limits, Revision, WhenFull};
use std::collections::VecDeque;
use std::iter::Peekable;
use std::net::SocketAddr;
use std::str::Lines;
use std::thread;
use std::time::Duration;

/// The types of errors: a line, and a problem document (RFC 9457).
const ERROR_TYPES: [&str; 2] = ["text/plain; charset=utf-8", "application/problem+json"];

/// A transcript, ready to be replayed.
#[derive(Debug)]
pub struct Transcript {
    name: String,
    access: Access,
    limits: Option<Limits>,
    steps: Vec<(usize, Engines, Step)>,
}

/// The engines that a step is for; none for all.
type Engines = Vec<String>;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Opens another connection.
    Connect,
    /// The server closes the connection.
    Closed,
    /// Lets time pass.
    Wait(Duration),
    /// Sends bytes; a request's method tells how its answer ends.
    Send { method: Option<String>, bytes: Vec<u8> },
    /// Takes an answer.
    Answer { status_line: String, fields: Vec<Field>, body: Body },
}

/// The pieces of a body, between which there are positions or numbers.
#[derive(Clone, Debug, PartialEq)]
struct Body(Vec<Vec<u8>>);

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Absent(String),
    Present(String),
    Exactly(String, String),
}

/// The lines of a file with their numbers from 1, without comments.
type Numbered<'a> = Peekable<Box<dyn Iterator<Item = (usize, &'a str)> + 'a>>;

impl Transcript {
    /// Reads a transcript. The error begins with `name` and the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut lines = numbered(text.lines());
        let (mut tokens, mut origins) = (String::new(), Origins::default());
        let (mut steps, mut engines, mut limits) = (Vec::new(), Engines::new(), None);
        while let Some((number, line)) = lines.next_if(|_| true) {
            let list = line.strip_prefix("= origins ").filter(|_| steps.is_empty());
            if let Some(list) = list.and_then(origins_of) {
                origins = list;
                continue;
            }
            let limit = line.strip_prefix("= limit ").filter(|_| steps.is_empty());
            if let Some(limit) = limit.and_then(limits_of) {
                limits = Some(limit);
                continue;
            }
            if let Some(names) = line.strip_prefix("= on ").and_then(engines_of) {
                engines = names;
                continue;
            }
            let step = match line.split(' ').next().unwrap_or_default() {
                "" => continue,
                "=" if line.starts_with("= token ") && steps.is_empty() => {
                    tokens.extend([line.trim_start_matches("= token "), "\n"]);
                    continue;
                }
                "=" if line == "= connect" => Ok(Step::Connect),
                "=" if line == "= closed" => Ok(Step::Closed),
                "=" if line.starts_with("= wait ") => Step::wait(line),
                prefix @ (">" | ">>" | "<") => {
                    let mut block = vec![rest_of(line, prefix)];
                    while let Some((_, line)) = lines.next_if(|(_, line)| starts(line, prefix)) {
                        block.push(rest_of(line, prefix));
                    }
                    Step::of_block(prefix, &block)
                }
                _ => Err(format!("what is {line:?}?")),
            };
            let step = step.map_err(|err| format!("{name}:{number}: {err}"))?;
            steps.push((number, engines.clone(), step));
        }
        let tokens = (!tokens.is_empty()).then(|| TokenSet::parse(&tokens)).transpose();
        let tokens = tokens.map_err(|err| format!("{name}: of its tokens {err}"))?.map(Tokens::new);
        let access = Access { hosts: Hosts::local([]), tokens, origins };
        Ok(Self { name: name.to_owned(), access, limits, steps })
    }

    /// What it has for an engine.
    pub fn on(&self, engine: &str) -> Self {
        let Self { name, access, limits, steps } = self;
        let is_for = |engines: &Engines| engines.is_empty() || engines.iter().any(|e| e == engine);
        let steps = steps.iter().filter(|(_, engines, _)| is_for(engines)).cloned().collect();
        Self { name: name.clone(), access: access.clone(), limits: *limits, steps }
    }

    /// The limits of a store for it, if it is about such.
    pub fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// The access control of a server for it.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Replays it against a server. The error names the line where it fails,
    /// what the transcript has there and what the server did.
    pub fn replay(&self, addr: SocketAddr) -> Result<(), String> {
        self.replay_within(addr, PATIENCE)
    }

    /// The same, with another wait for an answer.
    pub fn replay_within(&self, addr: SocketAddr, patience: Duration) -> Result<(), String> {
        let connect = || Connection::open(addr).with_patience(patience);
        let mut replay =
            Replay { connection: connect(), unsent: Vec::new(), asked: VecDeque::new() };
        for (number, _, step) in &self.steps {
            let outcome = match step {
                Step::Connect => replay.end().map(|()| replay.connection = connect()),
                Step::Closed => replay.closed(),
                Step::Wait(time) => replay.send().map(|()| thread::sleep(*time)),
                Step::Send { method, bytes } => {
                    replay.unsent.extend_from_slice(bytes);
                    replay.asked.extend(method.clone());
                    Ok(())
                }
                Step::Answer { .. } => replay.answer(step),
            };
            outcome.map_err(|err| format!("{}:{number}: {err}", self.name))?;
        }
        replay.end().map_err(|err| format!("{}: at its end: {err}", self.name))
    }
}

fn numbered<'a>(lines: Lines<'a>) -> Numbered<'a> {
    let lines = (1..).zip(lines.map(str::trim_end)).filter(|(_, line)| !line.starts_with('#'));
    let lines: Box<dyn Iterator<Item = (usize, &'a str)>> = Box::new(lines);
    lines.peekable()
}

/// The origins in a list; `None` where one is none.
fn origins_of(list: &str) -> Option<Origins> {
    let origins: Result<Vec<Origin>, _> = list.split(' ').map(str::parse).collect();
    origins.ok().map(Origins::new)
}

/// The limits in a line; `None` if it has none.
fn limits_of(line: &str) -> Option<Limits> {
    let (size, when_full) = line.split_once(' ')?;
    let Size(bytes) = size.parse().ok()?;
    let when_full = match when_full {
        "refuse" => WhenFull::Refuse,
        "evict" => WhenFull::Evict,
        _ => return None,
    };
    Some(Limits { bytes, when_full, ..Limits::default() })
}

/// The engines in a list; `None` where one is none.
fn engines_of(list: &str) -> Option<Engines> {
    if list == "every engine" {
        return Some(Engines::new());
    }
    let is_one = |name: &&str| engines::ALL.iter().any(|(engine, _)| engine == name);
    list.split(' ').all(|name| is_one(&name)).then(|| list.split(' ').map(str::to_owned).collect())
}

/// Whether a line has this prefix, and nothing or a space after it.
fn starts(line: &str, prefix: &str) -> bool {
    line.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn rest_of<'a>(line: &'a str, prefix: &str) -> &'a str {
    let rest = line.strip_prefix(prefix).unwrap_or(line);
    rest.strip_prefix(' ').unwrap_or(rest)
}

impl Step {
    fn of_block(prefix: &str, block: &[&str]) -> Result<Self, String> {
        let head_lines = block.iter().position(|line| line.is_empty()).unwrap_or(block.len());
        let (head, body) = block.split_at(head_lines);
        match prefix {
            ">>" => Ok(Self::Send { method: None, bytes: bytes_of(block)? }),
            ">" => Self::request(head, &bytes_of(body)?),
            _ => Self::expected(head, Body::parse(&body.concat())?),
        }
    }

    fn wait(line: &str) -> Result<Self, String> {
        let time = line.strip_prefix("= wait ").and_then(|time| time.strip_suffix(" ms"));
        let millis = time.and_then(|millis| millis.parse().ok());
        let millis = millis.ok_or_else(|| format!("what is {line:?}?"))?;
        Ok(Self::Wait(Duration::from_millis(millis)))
    }

    fn request(head: &[&str], body: &[u8]) -> Result<Self, String> {
        let (line, fields) = head.split_first().ok_or("no request line")?;
        let (method, target) =
            line.split_once(' ').ok_or_else(|| format!("no target in {line:?}"))?;
        let length = format!("Content-Length: {}", body.len());
        let mut lines = vec![(*line).to_owned()];
        if !target.contains(" HTTP/") {
            lines[0].push_str(" HTTP/1.1");
            lines.extend((!has_field(fields, &["Host"])).then(|| "Host: store".to_owned()));
            let is_framed = has_field(fields, &["Content-Length", "Transfer-Encoding"]);
            lines.extend((!is_framed && !body.is_empty()).then(|| length.clone()));
        }
        let is_counted = |line: &str| line == "Content-Length: *";
        lines.extend(
            fields.iter().map(|line| if is_counted(line) { &length } else { *line }.to_owned()),
        );
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend(unescape(&line)?);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Ok(Self::Send { method: Some(method.to_owned()), bytes })
    }

    fn expected(head: &[&str], body: Body) -> Result<Self, String> {
        let (status, fields) = head.split_first().ok_or("no status")?;
        let field = |line: &&str| match (line.strip_prefix('!'), line.split_once(": ")) {
            (Some(name), _) => Ok(Field::Absent(name.to_owned())),
            (None, Some((name, "*"))) => Ok(Field::Present(name.to_owned())),
            (None, Some((name, value))) => Ok(Field::Exactly(name.to_owned(), value.to_owned())),
            (None, None) => Err(format!("what is {line:?}?")),
        };
        let fields = fields.iter().map(field).collect::<Result<_, _>>()?;
        Ok(Self::Answer { status_line: format!("HTTP/1.1 {status}"), fields, body })
    }
}

impl Body {
    const VARYING: &str = "\\*";

    fn parse(text: &str) -> Result<Self, String> {
        text.split(Self::VARYING).map(unescape).collect::<Result<_, _>>().map(Self)
    }

    fn is(&self, body: &[u8]) -> bool {
        let is_any = self.0 == [b"*"] && !body.is_empty();
        is_any || self.rest_of(body).is_some_and(<[u8]>::is_empty)
    }

    /// What comes behind all pieces.
    fn rest_of<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        let (first, more) = self.0.split_first()?;
        let mut rest = body.strip_prefix(&**first)?;
        for piece in more {
            let is_part = |byte: &&u8| byte.is_ascii_hexdigit() || **byte == b'-';
            let (varying, behind) = rest.split_at(rest.iter().take_while(is_part).count());
            let text = std::str::from_utf8(varying).ok()?;
            if text.parse::<Revision>().is_err() && text.parse::<u64>().is_err() {
                return None;
            }
            rest = behind.strip_prefix(&**piece)?;
        }
        Some(rest)
    }

    fn shown(&self) -> String {
        shown(&self.0.join(Self::VARYING.as_bytes()))
    }
}

/// Whether one of the header fields has one of these names.
fn has_field(fields: &[&str], names: &[&str]) -> bool {
    let mut found = fields.iter().filter_map(|field| field.split_once(':'));
    found.any(|(name, _)| names.iter().any(|other| name.eq_ignore_ascii_case(other)))
}

/// The bytes that some lines stand for, with nothing between them.
fn bytes_of(lines: &[&str]) -> Result<Vec<u8>, String> {
    let pieces = lines.iter().map(|line| unescape(line)).collect::<Result<Vec<_>, _>>()?;
    Ok(pieces.concat())
}

/// The bytes that a line stands for.
fn unescape(line: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        let (escaped, after) = escaped(escape).ok_or(format!("what is \\{escape}?"))?;
        bytes.extend(escaped);
        rest = after;
    }
    bytes.extend(rest.bytes());
    Ok(bytes)
}

/// The bytes that an escape stands for, from behind its backslash, and what
/// comes after it.
fn escaped(escape: &str) -> Option<(Vec<u8>, &str)> {
    if let Some((times, after)) = escape.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        let (copies, piece) = times.split_once(' ')?;
        return Some((piece.repeat(copies.parse().ok()?).into_bytes(), after));
    }
    if let Some(digits) = escape.strip_prefix('x') {
        let byte = u8::from_str_radix(digits.get(..2)?, 16).ok()?;
        return Some((vec![byte], digits.get(2..)?));
    }
    let byte = match escape.chars().next()? {
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        '\\' => b'\\',
        _ => return None,
    };
    Some((vec![byte], escape.get(1..)?))
}

/// A replay on its way.
struct Replay {
    connection: Connection,
    unsent: Vec<u8>,
    /// The methods of the requests that have no answer yet.
    asked: VecDeque<String>,
}

impl Replay {
    fn send(&mut self) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.unsent);
        self.connection.try_send(bytes).map_err(|err| format!("sending failed: {err}"))
    }

    fn answer(&mut self, expected: &Step) -> Result<(), String> {
        self.send()?;
        let Some(method) = self.asked.front().cloned() else {
            return Err("an answer to nothing".to_owned());
        };
        let got = self.connection.try_response_to(&method);
        let got = got.map_err(|err| format!("no answer: {err}"))?;
        if !(100..200).contains(&got.status()) {
            self.asked.pop_front();
            check_always(&method, &got)?;
        }
        check_answer(expected, &got)
    }

    fn closed(&mut self) -> Result<(), String> {
        self.send()?;
        self.asked.clear();
        self.connection.end()
    }

    /// Every request has had its answer.
    fn end(&mut self) -> Result<(), String> {
        match (self.unsent.is_empty(), self.asked.front()) {
            (true, None) => Ok(()),
            (_, method) => Err(format!("no answer to {method:?} in the transcript")),
        }
    }
}

fn check_answer(expected: &Step, got: &Response) -> Result<(), String> {
    let Step::Answer { status_line, fields, body } = expected else { return Ok(()) };
    if *status_line != got.status_line {
        let text = String::from_utf8_lossy(&got.body);
        return Err(format!("expected {status_line:?}, got {:?} {text:?}", got.status_line));
    }
    for field in fields {
        match field {
            Field::Absent(name) => match got.header(name) {
                None => {}
                Some(value) => return Err(format!("expected no {name}, got {value:?}")),
            },
            Field::Present(name) => match got.header(name) {
                Some(_) => {}
                None => return Err(format!("expected some {name}, got none")),
            },
            Field::Exactly(name, value) if got.header(name) != Some(value) => {
                return Err(format!("expected {name} {value:?}, got {:?}", got.header(name)));
            }
            Field::Exactly(..) => {}
        }
    }
    if !body.is(&got.body) {
        return Err(format!("expected the body {}, got {}", body.shown(), shown(&got.body)));
    }
    Ok(())
}

/// What is true of every answer but an interim one.
fn check_always(method: &str, got: &Response) -> Result<(), String> {
    let date = got.header("Date").ok_or("expected some Date, got none")?;
    if httpdate::parse_http_date(date).is_err() {
        return Err(format!("expected Date in the form of RFC 9110, got {date:?}"));
    }
    let bodiless = matches!(got.status(), 204 | 304);
    let is_chunked = got.header("Transfer-Encoding").is_some();
    // A list of unknown length has none where it is not sent, or ends the connection.
    let may_have_none = method == "HEAD" || got.header("Connection") == Some("close");
    match got.header("Content-Length") {
        None if bodiless && is_chunked => return Err("expected no body, got chunks".to_owned()),
        None if bodiless || is_chunked || may_have_none => {}
        None => return Err("expected some Content-Length, got none".to_owned()),
        Some(length) if bodiless || is_chunked => {
            return Err(format!("expected no length, got {length:?}"));
        }
        Some(_) => {}
    }
    let error = got.status() >= 400;
    let mut always = vec![("X-Content-Type-Options", "nosniff")];
    let writes = matches!(method, "PUT" | "POST" | "DELETE");
    always.extend((error || writes).then_some(("Cache-Control", "no-store")));
    for (name, value) in always {
        if got.header(name) != Some(value) {
            return Err(format!("expected {name} {value:?}, got {:?}", got.header(name)));
        }
    }
    // A conflict with a value has that for its body.
    let has_value = got.status() == 409 && got.header("ETag").is_some();
    let kind = got.header("Content-Type");
    if error && !has_value && !kind.is_some_and(|kind| ERROR_TYPES.contains(&kind)) {
        return Err(format!("expected one of {ERROR_TYPES:?}, got {kind:?}"));
    }
    Ok(())
}

/// A body in a message: as text, and not all of a long one.
fn shown(body: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 200;
    let start = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).into_owned();
    format!("{start:?} of {} bytes", body.len())
}
