//! A parsed request: its head is checked for its framing, and admitted by the API,
//! before its body is read.

use super::access_log::Line;
use super::framing::{self, Framing, Persistence};
use super::uploads::Reservation;
use crate::api::{Admission, Api, Call, Cors, ErrorForm, Operation, Refusal, Reply, RouteId};
use crate::metrics::METHODS;
use bytes::Bytes;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::time::Instant;
use tiny_http::StatusCode;

/// A whole request, without its connection.
pub struct Request {
    pub head: Head,
    pub meaning: Meaning,
}

/// An operation with its whole body, or the reply in its place.
pub type Meaning = Result<(Operation, Bytes), Reply>;

/// A request's head, as far as the response depends on it.
pub struct Head {
    /// The method, if it is counted by name.
    pub method: &'static str,
    /// The connection's fate after the response.
    pub persistence: Persistence,
    /// The client knows chunks, as HTTP/1.1 does (RFC 9112, 6.1).
    pub takes_chunks: bool,
    /// Memory reserved for its body, if that is not small.
    pub reserved: Option<Box<Reservation>>,
    /// The time at which it was read.
    pub came: Instant,
    /// The route, for the metrics.
    pub route: RouteId,
    /// The fields of the reply for a browser (CORS).
    pub cors: Option<Box<Cors>>,
    /// The number of the set of tokens that it was admitted by.
    pub tokens: u64,
    /// The form of the reply if it is an error; text if the head makes no sense.
    pub error_form: Option<ErrorForm>,
    /// The request as it came, if a log wants it.
    pub line: Option<Box<Line>>,
}

/// Room for the fields of most heads.
const FIELDS_USUAL: usize = 16;

/// Any other method.
const OTHER_METHOD: &str = "other";

impl Head {
    /// The head of a request that cannot be parsed.
    pub fn unknown() -> Self {
        Self {
            method: OTHER_METHOD,
            persistence: Persistence::Close,
            takes_chunks: false,
            reserved: None,
            came: Instant::now(),
            route: RouteId::OTHER,
            cors: None,
            tokens: 0,
            error_form: None,
            line: None,
        }
    }

    /// The head of a request with this line, as far as it can be parsed.
    pub fn of(method: &str, target: &str, is_logged: bool) -> Self {
        let known = METHODS.into_iter().find(|known| *known == method);
        let line = is_logged.then(|| Box::new(Line::new(method, target)));
        Self { method: known.unwrap_or(OTHER_METHOD), line, ..Self::unknown() }
    }

    /// The reply with all that depends on the head: the form of an error, and the fields
    /// for a browser.
    pub fn apply(&self, reply: Reply) -> Reply {
        let reply = match self.error_form {
            Some(form) => form.apply(reply, |status| StatusCode(status).default_reason_phrase()),
            None => reply,
        };
        match &self.cors {
            None => reply,
            Some(cors) => cors.apply(reply),
        }
    }

    /// The same as far as its last words, counters and logs depend on it.
    pub fn to_record(&self) -> Self {
        let Self { method, came, route, error_form, .. } = *self;
        let (cors, line) = (self.cors.clone(), self.line.clone());
        Self { method, came, route, cors, error_form, line, ..Self::unknown() }
    }

    /// Returns true if no request comes after this one.
    pub fn is_last(&self) -> bool {
        self.persistence == Persistence::Close
    }

    /// Returns true if the response has no body, only its length (RFC 9110, 9.3.2).
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Returns true if it changes nothing (RFC 9110, 9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self.method, "GET" | "HEAD")
    }
}

impl Request {
    /// Returns true if its response has no end of its own.
    pub fn is_stream(&self) -> bool {
        self.meaning.as_ref().is_ok_and(|(operation, _)| operation.is_stream())
    }

    /// A request that is answered with `reply`, the last one of its connection.
    pub fn refused(mut head: Head, reply: impl Into<Reply>) -> Self {
        head.persistence = Persistence::Close;
        Self { head, meaning: Err(reply.into()) }
    }
}

/// A well-framed head, its framing, and the API's decision.
pub type Understood = (Head, Framing, Result<Operation, Reply>);

/// Parses a head, from its request line to its empty line, checks its framing, and
/// has `api` admit it. After an error the end of the request is not known.
pub fn understand(bytes: &[u8], api: &Api, is_logged: bool) -> Result<Understood, (Head, Refusal)> {
    let mut room = [MaybeUninit::uninit(); framing::FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let outcome = parsed.parse_with_uninit_headers(bytes, &mut room);
    let method = parsed.method.unwrap_or_default();
    let target = parsed.path.unwrap_or_default();
    let err = match outcome {
        Ok(httparse::Status::Complete(_)) => {
            let fields = parsed.headers.iter();
            let values: SmallVec<[Cow<'_, str>; FIELDS_USUAL]> =
                fields.clone().map(|field| text_of(field.value)).collect();
            let fields = fields.zip(&values).map(|(field, value)| (field.name, &**value));
            let fields: SmallVec<[(&str, &str); FIELDS_USUAL]> = fields.collect();
            let version = parsed.version.unwrap_or_default();
            return framing::ParsedHead { method, target, version, fields: &fields }
                .understand(api, is_logged);
        }
        // The caller has seen the empty line.
        Ok(httparse::Status::Partial) => Refusal::RequestLineMalformed,
        Err(httparse::Error::Version) if !names_a_version(bytes) => Refusal::RequestLineMalformed,
        Err(err) => err.into(),
    };
    let mut head = Head::of(method, target, is_logged);
    if let Some(line) = &mut head.line {
        line.version = parsed.version;
    }
    Err((head, err))
}

impl framing::ParsedHead<'_> {
    /// Checks the framing, and has `api` admit the request.
    pub fn understand(self, api: &Api, is_logged: bool) -> Result<Understood, (Head, Refusal)> {
        let Self { method, target, fields, version } = self;
        let mut head = Head::of(method, target, is_logged);
        if let Some(line) = &mut head.line {
            line.complete(version, fields);
        }
        head.takes_chunks = version >= 1;
        let framing = match self.check() {
            Ok(framing) => framing,
            Err(err) => return Err((head, err)),
        };
        head.persistence = framing.persistence;
        let call = Call { method, target, fields, body_bytes: framing.length.known() };
        let Admission { decision: admitted, route, cors, tokens, error_form } = api.admit(&call);
        (head.route, head.cors, head.tokens) = (route, cors, tokens);
        head.error_form = Some(error_form);
        if admitted.as_ref().is_ok_and(Operation::is_stream) {
            // Nothing can come behind a response without an end.
            head.persistence = Persistence::Close;
        }
        Ok((head, framing, admitted))
    }
}

/// The text of a field value. Nearly all of them are UTF-8, which the check for that alone
/// finds out many bytes at a time.
fn text_of(value: &[u8]) -> Cow<'_, str> {
    str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
}

/// Returns true if the request line ends in a version of HTTP, supported or not.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let word = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let version = word.strip_prefix(b"HTTP/").unwrap_or_default();
    matches!(version, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

impl From<httparse::Error> for Refusal {
    fn from(err: httparse::Error) -> Self {
        match err {
            httparse::Error::HeaderName => Self::FieldNameMalformed,
            httparse::Error::HeaderValue => Self::FieldValueMalformed,
            httparse::Error::TooManyHeaders => Self::FieldsTooMany,
            httparse::Error::Version => Self::VersionUnknown,
            httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
                Self::RequestLineMalformed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Memory;
    use std::sync::Arc;

    fn error(head: &[u8]) -> Option<Refusal> {
        let api = Api::new(Arc::new(Memory::new()), 1 << 20);
        understand(head, &api, false).err().map(|(_, err)| err)
    }

    fn with_fields(fields: &str) -> Vec<u8> {
        format!("GET /kv/a HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    }

    #[test]
    fn only_the_versions_1_0_and_1_1_are_spoken() {
        for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0"] {
            let head = format!("GET / {version}\r\nHost: a\r\n\r\n");
            assert_eq!(error(head.as_bytes()), Some(Refusal::VersionUnknown), "{version}");
        }
        assert_eq!(error(b"PRI * HTTP/2.0\r\n\r\n"), Some(Refusal::VersionUnknown));
        for version in ["http/1.1", "HTTQ/1.1", "HTTP/1.10", "HTTP/1", "junk", ""] {
            let head = format!("GET / {version}\r\nHost: a\r\n\r\n");
            assert_eq!(error(head.as_bytes()), Some(Refusal::RequestLineMalformed), "{version}");
        }
        assert_eq!(error(b"GET / HTTP/1.0\r\n\r\n"), None);
    }

    #[test]
    fn a_request_line_is_three_words() {
        for line in ["GET", "GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 x", "G\u{e9}T / HTTP/1.1"] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(error(head.as_bytes()), Some(Refusal::RequestLineMalformed), "{line}");
        }
        let head = "GET /S\u{e3}o HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(matches!(
            error(head.as_bytes()),
            Some(Refusal::TargetBytes | Refusal::RequestLineMalformed)
        ));
    }

    #[test]
    fn fields_are_lines_with_a_name_and_a_colon() {
        assert_eq!(error(&with_fields("X: a\r\nY:b\r\nZ:\t c \r\n")), None);
        for fields in ["no colon\r\n", "X : a\r\n", " X: a\r\n", "X: a\r\n folded\r\n", ": a\r\n"] {
            assert_eq!(
                error(&with_fields(fields)),
                Some(Refusal::FieldNameMalformed),
                "{fields:?}"
            );
        }
        for fields in ["X: a\rb\r\n", "X: a\0b\r\n", "X: \u{7f}\r\n", "X: \u{b}chunked\r\n"] {
            assert_eq!(
                error(&with_fields(fields)),
                Some(Refusal::FieldValueMalformed),
                "{fields:?}"
            );
        }
        // With `Host` there are as many as there may be.
        let most = "X: a\r\n".repeat(framing::FIELDS_MAX - 1);
        assert_eq!(error(&with_fields(&most)), None);
        let more = most + "X: a\r\n";
        assert_eq!(error(&with_fields(&more)), Some(Refusal::FieldsTooMany));
    }

    #[test]
    fn a_value_may_have_bytes_beyond_ascii() {
        for name in [&b"J\xc3\xb6rg"[..], b"J\xf6rg"] {
            let head =
                [b"GET /kv/a HTTP/1.1\r\nHost: a\r\nRemote-Name: ", name, b"\r\n\r\n"].concat();
            assert_eq!(error(&head), None, "{name:?}");
        }
        // What else is in the field counts.
        let close = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, \xf6\r\n\r\n";
        let api = Api::new(Arc::new(Memory::new()), 1 << 20);
        assert!(understand(close, &api, false).is_ok_and(|(head, ..)| head.is_last()));
    }
}
