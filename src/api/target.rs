//! Request targets (RFC 9112, 3.2) and the keys in their paths.

use super::Refusal;
use super::fields::Fields;
use crate::storage::{InvalidKey, Key};
use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode,
};
use std::borrow::Cow;

/// A request target, split into its parts and not yet decoded.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    authority: Option<&'a str>,
    /// The path, or other text that is none.
    pub path: &'a str,
    /// The query behind the path's `?`; empty without one.
    pub query: &'a str,
}

impl<'a> Target<'a> {
    /// Splits an origin-form or absolute-form target (RFC 9112, 3.2.1 and
    /// 3.2.2). An absolute URL without a path names the root (RFC 9110, 4.2.3).
    /// Any other text becomes a path.
    pub fn parse(target: &'a str) -> Self {
        let (authority, origin) = match split_authority(target) {
            Some((authority, origin)) => (Some(authority), origin),
            None => (None, target),
        };
        let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
        let path = if path.is_empty() && authority.is_some() { "/" } else { path };
        Self { authority, path, query }
    }

    /// The host and port that the call is for: from an absolute-form target, or
    /// else from `Host` (RFC 9112, 3.2.2).
    pub fn authority(&self, fields: Fields<'a>) -> Option<&'a str> {
        self.authority.or_else(|| fields.only("Host"))
    }
}

/// Splits `http://authority/path?query` into authority and the rest.
fn split_authority(target: &str) -> Option<(&str, &str)> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let path = rest.find(['/', '?']).unwrap_or(rest.len());
    rest.split_at_checked(path)
}

/// Percent-decodes a key, or a part of one, once (RFC 3986, 2.1). `+` is a plus.
pub fn decode(encoded: &str) -> Result<Cow<'_, str>, Refusal> {
    if memchr::memchr(b'%', encoded.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(encoded));
    }
    if has_bad_escape(encoded) {
        return Err(Refusal::KeyEscape);
    }
    percent_decode_str(encoded).decode_utf8().map_err(|_| Refusal::KeyNotUtf8)
}

/// The key of a percent-encoded text.
pub fn decode_key(encoded: &str) -> Result<Key, Refusal> {
    key(decode(encoded)?)
}

/// The key of a text as it is.
pub fn key(text: Cow<'_, str>) -> Result<Key, Refusal> {
    Key::new(text).map_err(|invalid| match invalid {
        InvalidKey::Empty => Refusal::KeyEmpty,
        InvalidKey::TooLong => Refusal::KeyTooLong,
    })
}

/// The bytes to escape in the path of a key: those with a meaning to some shell,
/// list or URL.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b',')
    .remove(b'=');

/// A key, or a part of one, percent-encoded: behind `/kv/` it names the key, and behind
/// `after=` too.
pub fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, &ESCAPED)
}

/// The path that names a key.
pub fn path_of(key: &Key) -> String {
    format!("/kv/{}", encode(key.as_str()))
}

/// True if some `%` lacks its two hexadecimal digits.
fn has_bad_escape(encoded: &str) -> bool {
    let escapes = encoded.split('%').skip(1);
    escapes.map(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count()).any(|n| n < 2)
}
