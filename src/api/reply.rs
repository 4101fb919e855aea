//! An answer before it has a wire form.

use crate::storage::Entry;
use bytes::Bytes;
use std::borrow::Cow;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// A status, header fields and a body. How long the body is, when it was sent
/// and whether the connection stays open is for the sender to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Bytes,
}

impl Reply {
    /// 200 without a body.
    pub(super) fn empty() -> Self {
        Self::new(200, None, Bytes::new())
    }

    /// 200 with a text of ours.
    pub(super) fn text(text: &'static str) -> Self {
        Self::new(200, Some(TEXT), Bytes::from_static(text.as_bytes()))
    }

    /// 200 with a stored value, whose bytes are shared and not copied.
    pub(super) fn value(entry: &Entry) -> Self {
        let kind = if entry.is_text() { TEXT } else { BINARY };
        Self::new(200, Some(kind), entry.value().clone())
    }

    /// An error with one line of text, which ends in a newline and which no
    /// cache may keep. 503 says when to try again (RFC 9110, 10.2.3).
    pub fn error(status: u16, text: &'static str) -> Self {
        let line = format!("{text}\n");
        let reply = Self::new(status, Some(TEXT), line.into());
        let reply = reply.with_header("Cache-Control", "no-store");
        if status == 503 { reply.with_header("Retry-After", "1") } else { reply }
    }

    fn new(status: u16, kind: Option<&'static str>, body: Bytes) -> Self {
        const HEADERS_USUAL: usize = 4;
        let mut headers = Vec::with_capacity(HEADERS_USUAL);
        headers.extend(kind.map(|kind| ("Content-Type", Cow::Borrowed(kind))));
        headers.push(("X-Content-Type-Options", Cow::Borrowed("nosniff")));
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
