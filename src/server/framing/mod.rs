//! Where a request ends: the checks that come before anything else looks at
//! it (RFC 9112, 6.3 and 11.2).
//!
//! Whoever guesses where a head is ambiguous executes what follows a wrong
//! guess as the next request. So a head that leaves any doubt is a [`Error`]:
//! one answer, and nothing more is taken from that connection. Nothing here
//! touches a socket.

use super::response::Persistence;
use crate::api::Reply;
use crate::api::grammar::is_token;

/// The longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// The most header fields in one request.
pub const FIELDS_MAX: usize = 100;

/// The longest head, in bytes, from its method to its empty line.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A request head, parsed.
pub struct Head<'a> {
    pub method: &'a str,
    pub target: &'a str,
    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub version: u8,
    /// Names and values of the header fields, in order.
    pub fields: &'a [(&'a str, &'a str)],
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes; 0 where the head announces no body.
    Known(u64),
    /// Chunked: it tells its end itself.
    Chunked,
}

impl Length {
    /// The number of bytes, if the head tells it.
    pub fn known(self) -> Option<u64> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Chunked => None,
        }
    }
}

/// What the head of a well-framed request says about its body and about the
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The body's length.
    pub length: Length,
    /// Whether the client waits for a word before it sends its body
    /// (RFC 9110, 10.1.1).
    pub expects_continue: bool,
    /// What becomes of the connection after the answer.
    pub persistence: Persistence,
}

/// Why a head cannot be trusted to say where its request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    LineFeed,
    RequestLine,
    Version,
    Method,
    TargetTooLong,
    TargetBytes,
    HeadTooLong,
    HeadShort,
    FieldsTooMany,
    FieldName,
    FieldValue,
    HostCount,
    HostInvalid,
    Expectation,
    LengthRepeated,
    LengthInvalid,
    LengthTooLarge,
    LengthAndCoding,
    CodingRepeated,
    CodingOrder,
    CodingUnknown,
    CodingInOldVersion,
}

impl Error {
    /// The status code and the text, without its newline.
    fn status_and_text(self) -> (u16, &'static str) {
        match self {
            Self::LineFeed => (400, "a line ends in a line feed without a carriage return"),
            Self::RequestLine => (400, "the request line makes no sense"),
            Self::Version => (505, "this server speaks HTTP/1.0 and HTTP/1.1"),
            Self::Method => (400, "the method is not a token"),
            Self::TargetTooLong => (414, "the request target is longer than 8 KiB"),
            Self::TargetBytes => (400, "the request target has bytes that do not belong there"),
            Self::HeadShort => (400, "the head ended early"),
            Self::HeadTooLong => (431, "the head is longer than 64 KiB"),
            Self::FieldsTooMany => (431, "more than 100 header fields"),
            Self::FieldName => (400, "a header field name is not a token"),
            Self::FieldValue => (400, "a header field value has control characters"),
            Self::HostCount => (400, "HTTP/1.1 takes exactly one Host"),
            Self::HostInvalid => (400, "Host is not a name with an optional port"),
            Self::Expectation => (417, "the only expectation known here is 100-continue"),
            Self::LengthRepeated => (400, "more than one Content-Length"),
            Self::LengthInvalid => (400, "Content-Length is not a number"),
            Self::LengthTooLarge => (413, "value is too large"),
            Self::LengthAndCoding => (400, "both Content-Length and Transfer-Encoding"),
            Self::CodingRepeated => (400, "more than one Transfer-Encoding"),
            Self::CodingOrder => (400, "chunked is not the last Transfer-Encoding"),
            Self::CodingUnknown => (501, "the only Transfer-Encoding known here is chunked"),
            Self::CodingInOldVersion => (400, "Transfer-Encoding needs HTTP/1.1"),
        }
    }
}

impl From<Error> for Reply {
    fn from(err: Error) -> Self {
        let (status, text) = err.status_and_text();
        Self::error(status, text)
    }
}

impl Head<'_> {
    /// Checks the head and says where the request ends.
    pub fn check(self) -> Result<Framing, Error> {
        let old = self.version == 0;
        check_line(self.method, self.target)?;

        let mut seen = Seen::default();
        for (name, value) in self.fields {
            seen.note(name, value)?;
        }
        seen.check_host(old)?;
        let persistence = match old {
            _ if seen.closes => Persistence::Close,
            true if seen.keeps => Persistence::KeepAliveNamed,
            true => Persistence::Close,
            false => Persistence::KeepAlive,
        };
        // An old client does not wait for a word (RFC 9110, 10.1.1).
        let expects_continue = seen.expects_continue && !old;
        Ok(Framing { length: seen.length(old)?, expects_continue, persistence })
    }
}

fn check_line(method: &str, target: &str) -> Result<(), Error> {
    if !is_token(method.as_bytes()) {
        return Err(Error::Method);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Error::TargetTooLong);
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::TargetBytes);
    }
    Ok(())
}

/// The header fields that decide about framing.
#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a str>,
    length: Option<&'a str>,
    coding: Option<&'a str>,
    expects_continue: bool,
    closes: bool,
    keeps: bool,
}

impl<'a> Seen<'a> {
    fn note(&mut self, name: &'a str, value: &'a str) -> Result<(), Error> {
        if !is_token(name.as_bytes()) {
            return Err(Error::FieldName);
        }
        // Bytes beyond ASCII are allowed, whatever they mean (RFC 9110, 5.5).
        if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
            return Err(Error::FieldValue);
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            refuse_second(self.host.replace(value), Error::HostCount)?;
        } else if is("Content-Length") {
            refuse_second(self.length.replace(value), Error::LengthRepeated)?;
        } else if is("Transfer-Encoding") {
            refuse_second(self.coding.replace(value), Error::CodingRepeated)?;
        } else if is("Expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(Error::Expectation);
            }
            self.expects_continue = true;
        } else if is("Connection") {
            for option in value.split(',').map(str::trim) {
                self.closes |= option.eq_ignore_ascii_case("close");
                self.keeps |= option.eq_ignore_ascii_case("keep-alive");
            }
        }
        Ok(())
    }

    /// `Host = uri-host [ ":" port ]` (RFC 9110, 7.2), or empty; HTTP/1.1 has
    /// exactly one (RFC 9112, 3.2).
    fn check_host(&self, old: bool) -> Result<(), Error> {
        let is_of_host = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#@,\"<>^`{|}".contains(&byte);
        match self.host {
            None if old => Ok(()),
            None => Err(Error::HostCount),
            Some(host) if host.bytes().all(is_of_host) => Ok(()),
            Some(_) => Err(Error::HostInvalid),
        }
    }

    fn length(&self, old: bool) -> Result<Length, Error> {
        match (self.length, self.coding) {
            (Some(_), Some(_)) => Err(Error::LengthAndCoding),
            (None, None) => Ok(Length::Known(0)),
            (Some(digits), None) => parse_length(digits).map(Length::Known),
            (None, Some(_)) if old => Err(Error::CodingInOldVersion),
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
            (None, Some(codings)) => {
                let mut earlier = codings.split(',').map(str::trim);
                let _last = earlier.next_back();
                let is_early = earlier.any(|coding| coding.eq_ignore_ascii_case("chunked"));
                Err(if is_early { Error::CodingOrder } else { Error::CodingUnknown })
            }
        }
    }
}

fn refuse_second(earlier: Option<&str>, err: Error) -> Result<(), Error> {
    if earlier.is_some() { Err(err) } else { Ok(()) }
}

/// `Content-Length = 1*DIGIT` (RFC 9110, 8.6): no sign, no list, no spaces.
fn parse_length(digits: &str) -> Result<u64, Error> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::LengthInvalid);
    }
    digits.parse().map_err(|_overflow| Error::LengthTooLarge)
}

#[cfg(test)]
mod tests;
