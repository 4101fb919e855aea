//! An answer before it has a wire form.

use super::etag::EntityTag;
use super::{media_type, range, ttl};
use crate::storage::{Entry, Time};
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// As many header fields as most answers have.
const HEADERS_USUAL: usize = 6;

/// The type that is told is the type that is meant.
const NO_SNIFFING: (&str, Cow<'static, str>) = ("X-Content-Type-Options", Cow::Borrowed("nosniff"));

/// A status, header fields and a body. How long the body is, when it was sent
/// and whether the connection stays open is for the sender to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Bytes,
}

/// What a cache may do with a value: keep it, and ask each time whether it is
/// still there. It may change at any moment, whenever it expires.
const ASK: &str = "no-cache";

/// What a cache may do with what is said of one moment or one request: nothing.
const NO_STORE: &str = "no-store";

impl Reply {
    /// 200 without a body, to a write.
    pub fn empty() -> Self {
        Self::once(200, None, Bytes::new())
    }

    /// 200 with a text of ours that holds for this moment.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::once(200, Some(TEXT), text.into())
    }

    /// 200 with a stored value, whose bytes are shared and not copied.
    pub fn value(entry: &Entry, tag: EntityTag) -> Self {
        Self::of_value(200, entry, tag, ASK, entry.value().clone())
    }

    /// The same with one that is not stored any more.
    pub fn taken(entry: &Entry, tag: EntityTag) -> Self {
        Self::of_value(200, entry, tag, NO_STORE, entry.value().clone())
    }

    /// 206 with a slice of one.
    pub fn part(entry: &Entry, tag: EntityTag, slice: &Range<usize>) -> Self {
        let content_range = range::content_range(slice, entry.value().len());
        let body = entry.value().slice(slice.clone());
        Self::of_value(206, entry, tag, ASK, body).with_header("Content-Range", content_range)
    }

    fn of_value(
        status: u16,
        entry: &Entry,
        tag: EntityTag,
        caching: &'static str,
        body: Bytes,
    ) -> Self {
        let content_type = match entry.content_type() {
            Some(content_type) => Cow::Owned(content_type.to_string()),
            None if entry.is_text() => Cow::Borrowed(TEXT),
            None => Cow::Borrowed(BINARY),
        };
        let is_active = entry.content_type().is_some_and(|text| media_type::is_active(text));
        let mut headers = Vec::with_capacity(HEADERS_USUAL);
        headers.push(("ETag", Cow::Owned(tag.to_field())));
        headers.push(("Content-Type", content_type));
        headers.push(("Accept-Ranges", Cow::Borrowed("bytes")));
        headers.push(("Cache-Control", Cow::Borrowed(caching)));
        headers.push(NO_SNIFFING);
        if is_active {
            // Nothing in it may act in the name of the store.
            headers.push(("Content-Security-Policy", Cow::Borrowed("sandbox")));
        }
        Self { status, headers, body }.with_ttl(entry)
    }

    /// 201 without a body: the key was not there.
    pub fn created() -> Self {
        Self::once(201, None, Bytes::new())
    }

    /// 304: the client has what is there.
    pub fn not_modified(tag: EntityTag) -> Self {
        Self::new(304, None, Bytes::new()).with_tag(tag).with_header("Cache-Control", ASK)
    }

    /// 200 with the number that an entry holds, and a newline.
    pub fn number(entry: &Entry) -> Self {
        Self::once(200, Some(TEXT), [entry.value(), &b"\n"[..]].concat().into())
    }

    /// 204 that says which methods there are.
    pub fn options(allow: &'static str) -> Self {
        Self::new(204, None, Bytes::new()).with_header("Allow", allow)
    }

    /// The same with the tag of what is there.
    #[must_use]
    pub fn with_tag(self, tag: EntityTag) -> Self {
        self.with_header("ETag", tag.to_field())
    }

    /// The same with the tag of what is there now, and how long it lives.
    #[must_use]
    pub fn with_validators(self, entry: &Entry) -> Self {
        self.with_tag(EntityTag::new(entry.digest())).with_ttl(entry)
    }

    fn with_ttl(self, entry: &Entry) -> Self {
        let Some(expiry) = entry.expiry() else { return self };
        let left = Time::now().until(expiry).as_millis();
        // It was there when it was looked at.
        let left = u64::try_from(left).unwrap_or(u64::MAX).max(1);
        let seconds = ttl::seconds_left(left);
        self.with_header("TTL", seconds.to_string())
    }

    /// An error with one line of text, which ends in a newline and which no
    /// cache may keep. 503 says when to try again (RFC 9110, 10.2.3).
    pub fn error(status: u16, text: &'static str) -> Self {
        let line = format!("{text}\n");
        let reply = Self::once(status, Some(TEXT), line.into());
        if status == 503 { reply.with_header("Retry-After", "1") } else { reply }
    }

    /// An answer that no cache may keep.
    fn once(status: u16, kind: Option<&'static str>, body: Bytes) -> Self {
        Self::new(status, kind, body).with_header("Cache-Control", NO_STORE)
    }

    fn new(status: u16, kind: Option<&'static str>, body: Bytes) -> Self {
        let mut headers = Vec::with_capacity(HEADERS_USUAL);
        headers.extend(kind.map(|kind| ("Content-Type", Cow::Borrowed(kind))));
        headers.push(NO_SNIFFING);
        Self { status, headers, body }
    }

    /// The same answer with one more header field.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The header fields, in the order in which they are sent.
    pub fn headers(&self) -> &[(&'static str, Cow<'static, str>)] {
        &self.headers
    }

    /// The value of the first header field called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_ref())
    }

    /// The body. Cloning it shares the bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}
