//! The access log's hook: one call for each response, once it is written or cannot be.
//! The form of a line is not known here.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The most bytes of a field that are told, and of a method: a client must not fill the
/// log, nor the memory, with a few requests.
const FIELD_BYTES_MAX: usize = 1024;
const METHOD_BYTES_MAX: usize = 64;

/// A request as it came, as far as a log tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The start of the method; `-` where it cannot be parsed.
    pub method: Box<str>,
    /// The target, without a user and a password; `-` where it cannot be parsed.
    pub target: Box<str>,
    /// The minor version of HTTP/1; `None` of any other, or where it cannot be parsed.
    pub version: Option<u8>,
    /// The start of the field `Referer` (RFC 9110, 10.1.3); empty without one.
    pub referer: Box<str>,
    /// The start of the field `User-Agent` (RFC 9110, 10.1.5); empty without one.
    pub user_agent: Box<str>,
}

/// A response, with the request that it is to.
#[derive(Debug)]
pub struct Served<'a> {
    /// The client's end of the connection.
    pub peer: SocketAddr,
    /// The request.
    pub line: &'a Line,
    /// The status of the response.
    pub status: u16,
    /// The bytes of its body.
    pub body_bytes: u64,
    /// The time from the end of the request's head to the end of the response.
    pub duration: Duration,
}

/// A call for each response.
#[derive(Clone)]
pub struct AccessLog(Arc<dyn Fn(&Served<'_>) + Send + Sync>);

impl AccessLog {
    /// A log that calls `tell`, on the thread that ends the response, which must
    /// neither block nor panic.
    pub fn new(tell: impl Fn(&Served<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells of a response.
    pub(super) fn tell(&self, served: &Served<'_>) {
        (self.0)(served);
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AccessLog")
    }
}

impl Line {
    /// The line of a request that cannot be parsed, or has not come.
    pub(super) fn unknown() -> Self {
        Self { method: "-".into(), target: "-".into(), ..Self::default() }
    }

    /// The line of a request with a method and a target, if it has both.
    pub(super) fn new(method: &str, target: &str) -> Self {
        if method.is_empty() || target.is_empty() {
            return Self::unknown();
        }
        let target = without_user_info(target).into();
        let method = start_of(method, METHOD_BYTES_MAX).into();
        Self { method, target, ..Self::default() }
    }

    /// Adds the version and the fields of a head.
    pub(super) fn complete(&mut self, version: u8, fields: &[(&str, &str)]) {
        let value = |name: &str| {
            let field = fields.iter().find(|(named, _)| named.eq_ignore_ascii_case(name));
            start_of(field.map_or("", |(_, value)| value), FIELD_BYTES_MAX).into()
        };
        self.version = Some(version);
        (self.referer, self.user_agent) = (value("Referer"), value("User-Agent"));
    }
}

/// The first of a text's characters, of no more bytes.
fn start_of(text: &str, bytes_max: usize) -> &str {
    let mut ends = (0..=text.len().min(bytes_max)).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// A target without the user and the password that an absolute one may have (RFC 9110,
/// 4.2.4): the password may be a token.
fn without_user_info(target: &str) -> Cow<'_, str> {
    let parts = target.split_once("://").filter(|_| !target.starts_with('/'));
    let Some((scheme, rest)) = parts else { return target.into() };
    let authority = rest.find(['/', '?']).and_then(|end| rest.get(..end)).unwrap_or(rest);
    match authority.rfind('@').and_then(|at| rest.get(at + 1..)) {
        Some(rest) => format!("{scheme}://{rest}").into(),
        None => target.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_target_is_not_told() {
        for (target, told) in [
            ("http://u:secret@a:1/kv/a@b?c@d", "http://a:1/kv/a@b?c@d"),
            ("http://:a@b@c", "http://c"),
            ("http://a/kv/u:p@b", "http://a/kv/u:p@b"),
            ("http://a?u:p@b", "http://a?u:p@b"),
            ("/kv/http://u:p@a", "/kv/http://u:p@a"),
            ("*", "*"),
        ] {
            assert_eq!(*Line::new("GET", target).target, *told);
        }
    }

    #[test]
    fn a_long_field_is_cut_between_two_characters() {
        let mut line = Line::new("GET", "/");
        for (value, bytes) in [
            ("a".repeat(FIELD_BYTES_MAX + 1), FIELD_BYTES_MAX),
            ("\u{fffd}".repeat(60_000), FIELD_BYTES_MAX - 1),
            ("short".to_owned(), 5),
        ] {
            line.complete(1, &[("user-agent", &value), ("Referer", &value)]);
            assert_eq!(line.user_agent.len(), bytes);
            assert!(value.starts_with(&*line.user_agent));
            assert_eq!(line.referer, line.user_agent);
        }
        assert_eq!(Line::new(&"A".repeat(60_000), "/").method.len(), METHOD_BYTES_MAX);
    }
}
