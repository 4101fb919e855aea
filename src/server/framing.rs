//! Where a request ends: the checks that come before anything else looks at
//! it (RFC 9112, 6.3 and 11.2).
//!
//! tiny_http guesses where a head is ambiguous, and executes what follows a
//! wrong guess as the next request. So a head that leaves any doubt is a
//! [`Fault`]: one answer, and nothing more is taken from that connection.
//! Nothing here touches a socket.

use crate::api::Reply;

/// The longest request target, in bytes.
pub(super) const TARGET_BYTES_MAX: usize = 8 * 1024;

/// The most header fields in one request.
pub(super) const FIELDS_MAX: usize = 100;

/// The longest head, in bytes of its target and its header fields.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A body up to this size has been read by tiny_http before the request is
/// seen here, unless the head asks for something first.
const ARRIVED_BODY_BYTES_MAX: u64 = 1024;

/// A request head as tiny_http understood it.
pub(super) struct Head<'a, F> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) version: (u8, u8),
    /// Names and values of the header fields, in order.
    pub(super) fields: F,
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes; 0 where the head announces no body.
    Known(u64),
    /// Chunked: it tells its end itself.
    Chunked,
}

/// What the head of a well-framed request says about its body and about the
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one independent fact about a head")]
pub(super) struct Framing {
    /// The body's length.
    pub(super) length: Length,
    /// Whether the body is in memory: reading it waits for nobody.
    pub(super) arrived: bool,
    /// Whether the client leaves the connection open after the answer.
    pub(super) keep_alive: bool,
    /// Whether tiny_http will look for another request on the connection.
    pub(super) more_expected: bool,
    /// Whether the answer has to say that the connection stays open, because
    /// that is not the version's default (HTTP/1.0).
    pub(super) names_keep_alive: bool,
}

/// Why a head cannot be trusted to say where its request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Version,
    Method,
    TargetTooLong,
    TargetBytes,
    HeadTooLong,
    FieldsTooMany,
    FieldName,
    FieldValue,
    Host,
    LengthRepeated,
    LengthInvalid,
    LengthTooLarge,
    LengthAndCoding,
    CodingRepeated,
    CodingUnknown,
    CodingInOldVersion,
    CodingAndUpgrade,
}

impl Fault {
    /// The status code and the text, without its newline.
    fn status_and_text(self) -> (u16, &'static str) {
        match self {
            Self::Version => (505, "this server speaks HTTP/1.0 and HTTP/1.1"),
            Self::Method => (400, "the method is not a token"),
            Self::TargetTooLong => (414, "the request target is longer than 8 KiB"),
            Self::TargetBytes => (400, "the request target has bytes that do not belong there"),
            Self::HeadTooLong => (431, "the head is longer than 64 KiB"),
            Self::FieldsTooMany => (431, "more than 100 header fields"),
            Self::FieldName => (400, "a header field name is not a token"),
            Self::FieldValue => (400, "a header field value has control characters"),
            Self::Host => (400, "HTTP/1.1 takes exactly one Host"),
            Self::LengthRepeated => (400, "more than one Content-Length"),
            Self::LengthInvalid => (400, "Content-Length is not a number"),
            Self::LengthTooLarge => (413, "value is too large"),
            Self::LengthAndCoding => (400, "both Content-Length and Transfer-Encoding"),
            Self::CodingRepeated => (400, "more than one Transfer-Encoding"),
            Self::CodingUnknown => (501, "the only Transfer-Encoding known here is chunked"),
            Self::CodingInOldVersion => (400, "Transfer-Encoding needs HTTP/1.1"),
            Self::CodingAndUpgrade => (400, "Transfer-Encoding together with an upgrade"),
        }
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        let (status, text) = fault.status_and_text();
        Self::error(status, text)
    }
}

impl<'a, F: Iterator<Item = (&'a str, &'a str)>> Head<'a, F> {
    /// Checks the head and says where the request ends.
    pub(super) fn check(self) -> Result<Framing, Fault> {
        let old = match self.version {
            (1, 0) => true,
            (1, 1) => false,
            _ => return Err(Fault::Version),
        };
        check_line(self.method, self.target)?;

        let mut seen = Seen::default();
        let mut bytes = self.target.len();
        for (position, (name, value)) in self.fields.enumerate() {
            bytes += name.len() + value.len();
            if bytes > HEAD_BYTES_MAX {
                return Err(Fault::HeadTooLong);
            }
            if position >= FIELDS_MAX {
                return Err(Fault::FieldsTooMany);
            }
            seen.note(name, value)?;
        }

        if seen.hosts > 1 || (seen.hosts == 0 && !old) {
            return Err(Fault::Host);
        }
        let length = seen.length(old)?;
        let arrived = match length {
            Length::Known(0) => true,
            Length::Known(bytes) => {
                bytes <= ARRIVED_BODY_BYTES_MAX && !seen.expects_continue && !seen.upgrades
            }
            Length::Chunked => false,
        };
        let keep_alive = !seen.closes && !seen.upgrades && (!old || seen.keeps);
        let more_expected = seen.more_expected(old);
        Ok(Framing { length, arrived, keep_alive, more_expected, names_keep_alive: old })
    }
}

fn check_line(method: &str, target: &str) -> Result<(), Fault> {
    if !is_token(method) {
        return Err(Fault::Method);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Fault::TargetTooLong);
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::TargetBytes);
    }
    Ok(())
}

/// The header fields that decide about framing.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one independent fact about a head")]
struct Seen<'a> {
    hosts: usize,
    length: Option<&'a str>,
    coding: Option<&'a str>,
    connection: Option<&'a str>,
    expects_continue: bool,
    upgrades: bool,
    closes: bool,
    keeps: bool,
}

impl<'a> Seen<'a> {
    fn note(&mut self, name: &'a str, value: &'a str) -> Result<(), Fault> {
        if !is_token(name) {
            return Err(Fault::FieldName);
        }
        if !value.bytes().all(|byte| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic()) {
            return Err(Fault::FieldValue);
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            self.hosts += 1;
        } else if is("Content-Length") {
            refuse_second(self.length.replace(value), Fault::LengthRepeated)?;
        } else if is("Transfer-Encoding") {
            refuse_second(self.coding.replace(value), Fault::CodingRepeated)?;
        } else if is("Expect") {
            self.expects_continue |= value.eq_ignore_ascii_case("100-continue");
        } else if is("Connection") {
            self.note_connection(value);
        }
        Ok(())
    }

    fn note_connection(&mut self, value: &'a str) {
        // tiny_http looks at the first such field only, and anywhere in it.
        let first = *self.connection.get_or_insert(value);
        if std::ptr::eq(first, value) {
            self.upgrades = contains_ignore_case(value, "upgrade");
        }
        for option in value.split(',').map(str::trim) {
            self.closes |= option.eq_ignore_ascii_case("close");
            self.keeps |= option.eq_ignore_ascii_case("keep-alive");
        }
    }

    fn length(&self, old: bool) -> Result<Length, Fault> {
        match (self.length, self.coding) {
            (Some(_), Some(_)) => Err(Fault::LengthAndCoding),
            (None, None) => Ok(Length::Known(0)),
            (Some(digits), None) => parse_length(digits).map(Length::Known),
            (None, Some(_)) if old => Err(Fault::CodingInOldVersion),
            (None, Some(_)) if self.upgrades => Err(Fault::CodingAndUpgrade),
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
            (None, Some(_)) => Err(Fault::CodingUnknown),
        }
    }

    /// tiny_http's own rule for reading on, from the first `Connection` field.
    fn more_expected(&self, old: bool) -> bool {
        match self.connection {
            None => !old,
            Some(value) => {
                let has = |word| contains_ignore_case(value, word);
                !has("close") && !has("upgrade") && (!old || has("keep-alive"))
            }
        }
    }
}

fn refuse_second(earlier: Option<&str>, fault: Fault) -> Result<(), Fault> {
    if earlier.is_some() { Err(fault) } else { Ok(()) }
}

/// `Content-Length = 1*DIGIT` (RFC 9110, 8.6): no sign, no list, no spaces.
fn parse_length(digits: &str) -> Result<u64, Fault> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::LengthInvalid);
    }
    // tiny_http reads a length into a usize and takes one that does not fit
    // for no body at all.
    let bytes = digits.parse::<usize>().map_err(|_overflow| Fault::LengthTooLarge)?;
    Ok(bytes as u64)
}

/// `token` of RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

fn contains_ignore_case(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests;
