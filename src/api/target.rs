//! From a request target to the thing it names.

use super::Refusal;
use super::fields::Fields;
use crate::storage::{InvalidKey, Key};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// A request target, split but not yet understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: &'a str,
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/kv/{key}`
    Value(Key),
    /// `/clear`
    Clear,
    /// `/healthz`
    Health,
    /// `/`
    Manual,
    /// `*`: the server as a whole (RFC 9112, 3.2.4).
    Server,
}

impl<'a> Target<'a> {
    /// Splits an origin-form or absolute-form target (RFC 9112, 3.2.1 and
    /// 3.2.2). Anything else keeps its text as a path.
    pub fn parse(target: &'a str) -> Self {
        let (authority, origin) = match split_authority(target) {
            Some((authority, origin)) => (Some(authority), origin),
            None => (None, target),
        };
        let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
        Self { authority, path, query }
    }

    /// The host and port that the call is for: those of an absolute-form
    /// target, or else the field `Host` (RFC 9112, 3.2.2).
    pub fn authority(&self, fields: Fields<'a>) -> Option<&'a str> {
        self.authority.or_else(|| fields.only("Host"))
    }

    /// What follows the path's `?`; empty without one.
    pub fn query(&self) -> &'a str {
        self.query
    }

    /// The thing that the path names. Nothing is collapsed or redirected.
    pub fn resource(&self) -> Result<Resource, Refusal> {
        match self.path {
            "/" => Ok(Resource::Manual),
            "/clear" => Ok(Resource::Clear),
            "/healthz" => Ok(Resource::Health),
            // An absolute URL without a path names the root (RFC 9110, 4.2.3).
            "" if self.authority.is_some() => Ok(Resource::Manual),
            "*" if self.authority.is_none() => Ok(Resource::Server),
            path => match path.strip_prefix("/kv/") {
                Some(encoded) => Ok(Resource::Value(decode_key(encoded)?)),
                None if path.starts_with('/') => Err(Refusal::PathUnknown),
                None => Err(Refusal::TargetMalformed),
            },
        }
    }
}

/// Splits `http://authority/path?query` before its path.
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

/// Percent-decodes a key once (RFC 3986, 2.1). `+` is a plus.
fn decode_key(encoded: &str) -> Result<Key, Refusal> {
    if has_bad_escape(encoded) {
        return Err(Refusal::KeyEscape);
    }
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| Refusal::KeyNotUtf8)?;
    Key::new(decoded).map_err(|invalid| match invalid {
        InvalidKey::Empty => Refusal::KeyEmpty,
        InvalidKey::TooLong => Refusal::KeyTooLong,
    })
}

/// What stands for another byte in a key's path: all that some shell, list or
/// URL gives a meaning of its own.
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

/// The path that names a key.
pub fn path_of(key: &Key) -> String {
    format!("/kv/{}", utf8_percent_encode(key.as_str(), &ESCAPED))
}

/// Whether some `%` is not followed by two hexadecimal digits.
fn has_bad_escape(encoded: &str) -> bool {
    let escapes = encoded.split('%').skip(1);
    escapes.map(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count()).any(|n| n < 2)
}
