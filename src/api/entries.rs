//! Entries on their way to a client, in one of the encodings that an export has.
//!
//! They are written in parts, so that a long value is never encoded as one piece. An
//! encoding is a file with an [`Encoding`] in it.

use super::Refusal;
use crate::storage::{Entry, Page, Time};
use std::collections::VecDeque;
use std::fmt::Write as _;

/// A part ends once it has this many bytes. It has at most a piece of a value more, as
/// long as its encoding makes that, and what is told of an entry beside its value.
pub const PART_BYTES: usize = 1 << 20;

/// An encoding of entries.
pub struct Encoding {
    /// The media type of all together.
    pub media_type: &'static str,
    /// Writes the start of an entry, up to its value.
    pub put_start: fn(&mut Vec<u8>, &str, &Entry),
    /// Writes a value from this byte on, until it or the part ends, and returns the place
    /// reached.
    pub put_value: fn(&mut Vec<u8>, &Entry, usize) -> usize,
    /// Writes the end of an entry, behind its value.
    pub put_end: fn(&mut Vec<u8>, &Entry),
    /// The bytes behind the last entry of all.
    pub end: &'static [u8],
}

/// The entries of some pages, on their way.
pub struct Entries {
    encoding: &'static Encoding,
    pages: VecDeque<Page>,
    /// The next entry, by its place on the first page.
    entry: usize,
    /// The bytes of its value that are written; none before its start.
    written: Option<usize>,
    /// They are the last of all.
    are_last: bool,
}

impl Entries {
    /// The entries of pages that have them. Others follow, unless these are the last.
    pub fn new(
        encoding: &'static Encoding,
        pages: impl Into<VecDeque<Page>>,
        are_last: bool,
    ) -> Self {
        Self { encoding, pages: pages.into(), entry: 0, written: None, are_last }
    }

    /// Their encoding.
    pub fn encoding(&self) -> &'static Encoding {
        self.encoding
    }

    /// Returns true if all were written.
    pub fn are_done(&self) -> bool {
        self.pages.is_empty()
    }

    /// Writes the next part.
    pub fn next_part(&mut self) -> Vec<u8> {
        let encoding = self.encoding;
        let mut part = Vec::new();
        while let Some(page) = self.pages.front() {
            for (key, entry) in page.keys().zip(page.entries()).skip(self.entry) {
                if part.len() >= PART_BYTES {
                    return part;
                }
                let start = self.written.unwrap_or_else(|| {
                    (encoding.put_start)(&mut part, key, entry);
                    0
                });
                let end = (encoding.put_value)(&mut part, entry, start);
                if end < entry.value().len() {
                    self.written = Some(end);
                    return part;
                }
                (encoding.put_end)(&mut part, entry);
                (self.entry, self.written) = (self.entry + 1, None);
            }
            self.pages.pop_front();
            self.entry = 0;
        }
        if self.are_last {
            part.extend_from_slice(encoding.end);
        }
        part
    }
}

/// The expiry of an entry, in RFC 3339; none past the year 9999, which that does not have.
pub fn expires(entry: &Entry) -> Option<String> {
    let expiry = humantime::format_rfc3339_millis(entry.expiry()?.on_wall_clock());
    let mut text = String::new();
    write!(text, "{expiry}").ok().map(|()| text)
}

/// The expiry that such a text tells.
pub fn parse_expires(text: &str) -> Result<Time, Refusal> {
    let expiry = humantime::parse_rfc3339(text).map_err(|_| Refusal::ExpiresMalformed)?;
    Ok(Time::from_wall_clock(expiry))
}
