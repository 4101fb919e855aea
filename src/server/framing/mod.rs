//! Where a request ends: the checks that come before anything else looks at
//! it (RFC 9112, 6.3 and 11.2).
//!
//! A server that guesses where a head is ambiguous executes the bytes behind a
//! wrong guess as the next request. So a head that leaves any doubt is refused:
//! one response, and nothing more is taken from that connection.
//! Nothing here touches a socket.

use crate::api::Refusal;
use crate::api::grammar::is_token;

/// The longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// The most header fields in one request.
pub const FIELDS_MAX: usize = 100;

/// The longest head, in bytes, from its method to its empty line.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A request head, parsed.
pub struct ParsedHead<'a> {
    pub method: &'a str,
    pub target: &'a str,
    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub version: u8,
    /// Names and values of the header fields, in order.
    pub fields: &'a [(&'a str, &'a str)],
}

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes; 0 where the head announces no body.
    Known(u64),
    /// Chunked: it tells its end itself.
    Chunked,
}

impl Length {
    /// The length in bytes, if the head tells it.
    pub fn known(self) -> Option<u64> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Chunked => None,
        }
    }
}

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

/// The framing of a request: its body, and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The body's length.
    pub length: Length,
    /// The client waits for a 100 before it sends its body (RFC 9110, 10.1.1).
    pub expects_continue: bool,
    /// The connection's fate after the response.
    pub persistence: Persistence,
}

impl ParsedHead<'_> {
    /// Checks the head and says where the request ends.
    pub fn check(self) -> Result<Framing, Refusal> {
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

/// Returns true for a field value with control characters other than tabs.
fn has_controls(value: &str) -> bool {
    // Without an early end it is many bytes at a time.
    let is_bad = |byte: u8| byte != b'\t' && byte.is_ascii_control();
    value.bytes().fold(false, |has_bad, byte| has_bad | is_bad(byte))
}

fn check_line(method: &str, target: &str) -> Result<(), Refusal> {
    if !is_token(method.as_bytes()) {
        return Err(Refusal::MethodMalformed);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::TargetBytes);
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
    fn note(&mut self, name: &'a str, value: &'a str) -> Result<(), Refusal> {
        if !is_token(name.as_bytes()) {
            return Err(Refusal::FieldNameMalformed);
        }
        // Bytes beyond ASCII are allowed, whatever they mean (RFC 9110, 5.5).
        if has_controls(value) {
            return Err(Refusal::FieldValueMalformed);
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            refuse_second(self.host.replace(value), Refusal::HostCount)?;
        } else if is("Content-Length") {
            refuse_second(self.length.replace(value), Refusal::LengthRepeated)?;
        } else if is("Transfer-Encoding") {
            refuse_second(self.coding.replace(value), Refusal::CodingRepeated)?;
        } else if is("Expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(Refusal::ExpectationUnknown);
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
    fn check_host(&self, old: bool) -> Result<(), Refusal> {
        let is_of_host = |byte: u8| {
            byte.is_ascii_graphic()
                && !matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'@' | b',' | b'"' | b'<' | b'>')
                && !matches!(byte, b'^' | b'`' | b'{' | b'|' | b'}')
        };
        match self.host {
            None if old => Ok(()),
            None => Err(Refusal::HostCount),
            Some(host) if host.bytes().all(is_of_host) => Ok(()),
            Some(_) => Err(Refusal::HostMalformed),
        }
    }

    fn length(&self, old: bool) -> Result<Length, Refusal> {
        match (self.length, self.coding) {
            (Some(_), Some(_)) => Err(Refusal::LengthAndCoding),
            (None, None) => Ok(Length::Known(0)),
            (Some(digits), None) => parse_length(digits).map(Length::Known),
            (None, Some(_)) if old => Err(Refusal::CodingInOldVersion),
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
            (None, Some(codings)) => {
                let mut earlier = codings.split(',').map(str::trim);
                let _last = earlier.next_back();
                let is_early = earlier.any(|coding| coding.eq_ignore_ascii_case("chunked"));
                Err(if is_early { Refusal::CodingOrder } else { Refusal::CodingUnknown })
            }
        }
    }
}

fn refuse_second(earlier: Option<&str>, refusal: Refusal) -> Result<(), Refusal> {
    if earlier.is_some() { Err(refusal) } else { Ok(()) }
}

/// `Content-Length = 1*DIGIT` (RFC 9110, 8.6): no sign, no list, no spaces.
fn parse_length(digits: &str) -> Result<u64, Refusal> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::LengthMalformed);
    }
    digits.parse().map_err(|_overflow| Refusal::ValueTooLarge)
}

#[cfg(test)]
mod tests;
