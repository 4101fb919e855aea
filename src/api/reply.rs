//! A reply before the server gives it a wire form.

use super::Step;
use super::entries::Encoding;
use super::etag::{EntityTag, TagField};
use super::{lines, media_type, range, ttl};
use crate::storage::{Entry, Time};
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The media type of events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Browsers must not guess at another type than `Content-Type`.
const NO_SNIFFING: (&str, &str) = ("X-Content-Type-Options", "nosniff");

/// A status, header fields and a body. The server adds `Content-Length` or
/// `Transfer-Encoding`, `Date` and `Connection`.
#[derive(Debug)]
pub struct Reply {
    status: u16,
    /// The fields that a value has take no memory of their own.
    tag: Option<TagField>,
    content_type: Option<Cow<'static, str>>,
    caching: Option<Caching>,
    is_value: bool,
    body: Bytes,
    /// The body is a line about an error.
    is_error: bool,
    /// All that most have not.
    more: Option<Box<More>>,
}

/// The rest of a reply.
#[derive(Debug, Default)]
struct More {
    headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body goes on.
    rest: Option<Rest>,
}

impl PartialEq for Reply {
    /// One that goes on equals none, for nobody knows its rest.
    fn eq(&self, other: &Self) -> bool {
        let are_whole = !self.has_rest() && !other.has_rest();
        are_whole
            && (self.status, &self.body) == (other.status, &other.body)
            && self.headers().eq(other.headers())
    }
}

/// The rest of a body that is made while it is sent, so that no memory has to hold
/// all of it: the way to the reply that has the next part.
pub struct Rest {
    step: Box<dyn FnOnce() -> Step + Send>,
    is_stream: bool,
}

impl Rest {
    /// The rest that comes with this step.
    pub fn new(step: impl FnOnce() -> Step + Send + 'static) -> Self {
        Self { step: Box::new(step), is_stream: false }
    }

    /// The same of a stream, which goes on as things happen, for as long as its client
    /// stays.
    pub fn of_stream(step: impl FnOnce() -> Step + Send + 'static) -> Self {
        Self { step: Box::new(step), is_stream: true }
    }

    /// The step to the next part.
    pub fn step(self) -> Step {
        (self.step)()
    }
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rest")
    }
}

/// The use that a cache may make of a reply.
#[derive(Clone, Copy, Debug)]
enum Caching {
    /// A value or a list may be kept, and is revalidated on each use, as it may change at
    /// any moment.
    NoCache,
    /// A reply to one request at one moment is not kept.
    NoStore,
}

impl Caching {
    fn as_str(self) -> &'static str {
        match self {
            Self::NoCache => "no-cache",
            Self::NoStore => "no-store",
        }
    }
}

impl Reply {
    /// 200 to a write, without a body.
    pub fn empty() -> Self {
        Self::once(200, None, Bytes::new())
    }

    /// 200 with a text of ours.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::once(200, Some(TEXT), text.into())
    }

    /// A JSON text of ours.
    pub fn json(status: u16, text: impl Into<Bytes>) -> Self {
        Self::once(status, Some(JSON), text.into())
    }

    /// 200 with a page of ours that runs scripts under a policy. Nobody may frame it, and
    /// it tells nobody its address. Shares the bytes.
    pub fn page(document: Bytes, tag: EntityTag, policy: &'static str) -> Self {
        Self::new(200, Some(HTML), document)
            .with_tag(tag)
            .with_caching(Caching::NoCache)
            .with_header("Content-Security-Policy", policy)
            .with_header("X-Frame-Options", "DENY")
            .with_header("Referrer-Policy", "no-referrer")
    }

    /// 200 with a stored value. Shares the bytes.
    pub fn value(entry: &Entry, tag: EntityTag) -> Self {
        Self::of_value(200, entry, tag, Caching::NoCache, entry.value().clone())
    }

    /// 200 with a deleted value. Shares the bytes.
    pub fn taken(entry: &Entry, tag: EntityTag) -> Self {
        Self::of_value(200, entry, tag, Caching::NoStore, entry.value().clone())
    }

    /// 409 with the value that is there. Shares the bytes.
    pub fn existing(entry: &Entry) -> Self {
        Self::of_value(409, entry, EntityTag::of(entry), Caching::NoStore, entry.value().clone())
    }

    /// 206 with a slice of a stored value. Shares the bytes.
    pub fn part(entry: &Entry, tag: EntityTag, slice: &Range<usize>) -> Self {
        let content_range = range::content_range(slice, entry.value().len());
        let body = entry.value().slice(slice.clone());
        Self::of_value(206, entry, tag, Caching::NoCache, body)
            .with_header("Content-Range", content_range)
    }

    fn of_value(status: u16, entry: &Entry, tag: EntityTag, caching: Caching, body: Bytes) -> Self {
        let content_type = match entry.content_type() {
            Some(content_type) => Cow::Owned(content_type.to_string()),
            None if entry.is_text() => Cow::Borrowed(TEXT),
            None => Cow::Borrowed(BINARY),
        };
        let reply = Self::new(status, None, body).with_tag(tag).with_caching(caching);
        let mut reply = Self { content_type: Some(content_type), is_value: true, ..reply };
        if entry.content_type().is_some_and(|text| media_type::is_active(text)) {
            // Its scripts must not act in the name of the store.
            reply = reply.with_header("Content-Security-Policy", "sandbox");
        }
        reply.with_ttl(entry.expiry())
    }

    /// 200 with metrics of this media type.
    pub fn metrics(kind: &'static str, text: String) -> Self {
        Self::once(200, Some(kind), text.into())
    }

    /// 201 without a body: the key was absent.
    pub fn created() -> Self {
        Self::once(201, None, Bytes::new())
    }

    /// The same with a text of ours.
    #[must_use]
    pub fn with_text(self, text: impl Into<Bytes>) -> Self {
        self.with_body(TEXT, text)
    }

    /// 304: the client has the current value.
    pub fn not_modified(tag: EntityTag) -> Self {
        Self::new(304, None, Bytes::new()).with_tag(tag).with_caching(Caching::NoCache)
    }

    /// 200 with the number in an entry, and a newline.
    pub fn number(entry: &Entry) -> Self {
        Self::once(200, Some(TEXT), [entry.value(), &b"\n"[..]].concat().into())
    }

    /// 200 with keys of the collection, each a line, or with the first of them.
    pub fn keys(text: impl Into<Bytes>) -> Self {
        Self::of_collection(TEXT, text.into())
    }

    /// 200 with entries of the collection in an encoding, or with the first of them.
    pub fn entries(encoding: &Encoding, bytes: impl Into<Bytes>) -> Self {
        Self::of_collection(encoding.media_type, bytes.into())
    }

    /// 200 with changes in the collection, each an event of an `EventSource`, or with the
    /// first of them.
    pub fn events(events: impl Into<Bytes>) -> Self {
        Self::of_collection(EVENT_STREAM, events.into())
    }

    /// The next part of a body.
    pub fn part_of_body(part: impl Into<Bytes>) -> Self {
        Self::new(200, None, part.into())
    }

    /// 200 with the number of keys in the collection, and a newline.
    pub fn number_of(keys: u64) -> Self {
        Self::of_collection(TEXT, format!("{keys}\n").into())
    }

    fn of_collection(kind: &'static str, body: Bytes) -> Self {
        Self::new(200, Some(kind), body)
            .with_caching(Caching::NoCache)
            .with_header("Vary", "Accept")
    }

    /// 200 with the answers to the lines of a batch, or with the first of them.
    pub fn answers(answers: impl Into<Bytes>) -> Self {
        Self::once(200, Some(lines::MEDIA_TYPE), answers.into())
    }

    /// 204 with the methods of a resource.
    pub fn options(allow: String) -> Self {
        Self::new(204, None, Bytes::new()).with_header("Allow", allow)
    }

    /// The same with an `ETag`.
    #[must_use]
    pub fn with_tag(self, tag: EntityTag) -> Self {
        Self { tag: Some(tag.to_field()), ..self }
    }

    /// The same with the `ETag` and the `TTL` of an entry.
    #[must_use]
    pub fn with_validators(self, entry: &Entry) -> Self {
        self.with_tag(EntityTag::of(entry)).with_ttl(entry.expiry())
    }

    /// The same with the `TTL` of an expiry.
    #[must_use]
    pub fn with_ttl(self, expiry: Option<Time>) -> Self {
        let Some(expiry) = expiry else { return self };
        self.with_header("TTL", ttl::seconds_until(expiry).to_string())
    }

    /// An error of one line, to which a newline is added, that no cache may
    /// keep. 503 gets a `Retry-After` (RFC 9110, 10.2.3).
    pub fn error(status: u16, text: &str) -> Self {
        let line = format!("{text}\n");
        let reply = Self { is_error: true, ..Self::once(status, Some(TEXT), line.into()) };
        if status == 503 { reply.with_header("Retry-After", "1") } else { reply }
    }

    /// A reply that no cache may keep.
    fn once(status: u16, kind: Option<&'static str>, body: Bytes) -> Self {
        Self::new(status, kind, body).with_caching(Caching::NoStore)
    }

    fn new(status: u16, kind: Option<&'static str>, body: Bytes) -> Self {
        Self {
            status,
            tag: None,
            content_type: kind.map(Cow::Borrowed),
            caching: None,
            is_value: false,
            body,
            is_error: false,
            more: None,
        }
    }

    fn with_caching(self, caching: Caching) -> Self {
        Self { caching: Some(caching), ..self }
    }

    /// The same with another body, of this media type.
    #[must_use]
    pub fn with_body(self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(kind.into()), body: body.into(), ..self }
    }

    /// The same with one more header field.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.more.get_or_insert_default().headers.push((name, value.into()));
        self
    }

    /// The same where it depends on one more field of the call (RFC 9110, 12.5.5).
    #[must_use]
    pub fn varying_with(mut self, name: &'static str) -> Self {
        let mut others = self.more.iter_mut().flat_map(|more| &mut more.headers);
        match others.find(|(field, _)| *field == "Vary") {
            None => self.with_header("Vary", name),
            Some((_, names)) => {
                *names = format!("{names}, {name}").into();
                self
            }
        }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The header fields, in the order sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let tag = self.tag.as_ref().map(|tag| ("ETag", tag.as_str()));
        let content_type = self.content_type.as_deref().map(|text| ("Content-Type", text));
        let ranges = self.is_value.then_some(("Accept-Ranges", "bytes"));
        let caching = self.caching.map(|caching| ("Cache-Control", caching.as_str()));
        let more = self.more.iter().flat_map(|more| &more.headers);
        let more = more.map(|(name, value)| (*name, &**value));
        let usual = [tag, content_type, ranges, caching, Some(NO_SNIFFING)];
        usual.into_iter().flatten().chain(more)
    }

    /// The value of the first header field named `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    /// Returns true if the body is a line about an error, and not a value.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// The body, or the part of it that is there. Cloning it shares the bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Drops the body, or the part of it that is there.
    pub fn drop_body(&mut self) {
        self.body = Bytes::new();
    }

    /// The same with a body that goes on.
    #[must_use]
    pub fn with_rest(mut self, rest: Rest) -> Self {
        self.more.get_or_insert_default().rest = Some(rest);
        self
    }

    /// Returns true if the body goes on.
    pub fn has_rest(&self) -> bool {
        self.rest().is_some()
    }

    /// Returns true if it is that of a stream.
    pub fn is_stream(&self) -> bool {
        self.rest().is_some_and(|rest| rest.is_stream)
    }

    fn rest(&self) -> Option<&Rest> {
        self.more.as_ref()?.rest.as_ref()
    }

    /// Takes the rest of the body.
    pub fn take_rest(&mut self) -> Option<Rest> {
        self.more.as_mut()?.rest.take()
    }
}
