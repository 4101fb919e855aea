//! The forms of a told change: a line of text, a line of JSON, or an event of an
//! `EventSource` (the HTML standard, 9.2).

use crate::api::fields::Fields;
use crate::api::lines::{self, put_attributes, put_string, put_value, put_value_name};
use crate::api::reply::EVENT_STREAM;
use crate::api::target::encode;
use crate::api::{Reply, accept};
use crate::storage::{Entry, Event, Revision};
use bytes::Bytes;
use std::fmt;
use std::io::Write as _;

/// The media type of text.
const TEXT: &str = "text/plain";

/// The time in milliseconds after which a browser connects again.
const RETRY_MILLIS: u32 = 1000;

/// A longer value is not told, but for its length.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// The form of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    media: Media,
    /// A key that is there comes with its value.
    pub has_values: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    /// `EVENT ID KEY`, the key percent-encoded.
    Text,
    /// Each change a line of JSON, as a list with values has them.
    Lines,
    /// Each change an event.
    Events,
}

impl Form {
    /// The form that is accepted best. Without other wishes values come as lines of JSON.
    pub fn parse(fields: Fields<'_>, has_values: bool) -> Self {
        let usual = if has_values { lines::MEDIA_TYPE } else { TEXT };
        let prefers = |one, other| accept::prefers(fields, one, other);
        let media = if prefers(EVENT_STREAM, usual) && !prefers(lines::MEDIA_TYPE, EVENT_STREAM) {
            Media::Events
        } else if has_values || prefers(lines::MEDIA_TYPE, TEXT) {
            Media::Lines
        } else {
            Media::Text
        };
        Self { media, has_values }
    }

    /// The reply whose body, or the first part of it, this is.
    pub fn reply(self, body: impl Into<Bytes>) -> Reply {
        match self.media {
            Media::Text => Reply::keys(body),
            Media::Lines => Reply::entries(&lines::ENCODING, body),
            Media::Events => Reply::events(body),
        }
        // Proxies that gather what they pass on are to leave that.
        .with_header("X-Accel-Buffering", "no")
    }

    /// Puts the start of a body.
    pub fn put_start(self, out: &mut Vec<u8>) {
        match self.media {
            Media::Events => put(out, format_args!("retry: {RETRY_MILLIS}\n\n")),
            Media::Text | Media::Lines => {}
        }
    }

    /// Puts a change of a key, with its entry if that is to be told.
    pub fn put_change(
        self,
        out: &mut Vec<u8>,
        event: Event,
        id: Revision,
        key: &str,
        entry: Option<&Entry>,
    ) {
        let name = match event {
            Event::Put => "put",
            Event::Delete => "delete",
            Event::Expire => "expire",
            Event::Evict => "evict",
        };
        match self.media {
            Media::Text => put(out, format_args!("{name} {id} {}\n", encode(key))),
            Media::Lines => {
                put(out, format_args!("{{\"event\":\"{name}\",\"id\":\"{id}\",\"key\":"));
                put_members(out, key, entry);
                out.push(b'\n');
            }
            Media::Events => {
                put(out, format_args!("event: {name}\n"));
                put_id(out, id);
                if self.has_values {
                    out.extend_from_slice(b"data: {\"key\":");
                    put_members(out, key, entry);
                } else {
                    put(out, format_args!("data: {}", encode(key)));
                }
                out.extend_from_slice(b"\n\n");
            }
        }
    }

    /// Puts the news that all up to a position was told. To a browser it is no event.
    pub fn put_ready(self, out: &mut Vec<u8>, id: Revision) {
        match self.media {
            Media::Text => put(out, format_args!("ready {id}\n")),
            Media::Lines => put(out, format_args!("{{\"event\":\"ready\",\"id\":\"{id}\"}}\n")),
            Media::Events => put(out, format_args!("id: {id}\n\n")),
        }
    }

    /// Puts the news that all told before is void, and that the state follows.
    pub fn put_reset(self, out: &mut Vec<u8>, id: Revision) {
        match self.media {
            Media::Text => put(out, format_args!("reset {id}\n")),
            Media::Lines => put(out, format_args!("{{\"event\":\"reset\",\"id\":\"{id}\"}}\n")),
            Media::Events => {
                out.extend_from_slice(b"event: reset\n");
                put_id(out, id);
                // A browser drops an event without data.
                out.extend_from_slice(b"data: reset\n\n");
            }
        }
    }
}

/// Puts the id of an event. Nobody can go on from place 0, and a browser keeps its last
/// id, which is of another history then.
fn put_id(out: &mut Vec<u8>, id: Revision) {
    if id.place > 0 {
        put(out, format_args!("id: {id}\n"));
    }
}

/// Puts the members of a line from the text of the key on, up to its end.
fn put_members(out: &mut Vec<u8>, key: &str, entry: Option<&Entry>) {
    put_string(out, key);
    if let Some(entry) = entry {
        let bytes = entry.value().len();
        if bytes > VALUE_BYTES_MAX {
            put(out, format_args!(",\"bytes\":{bytes}"));
        } else {
            put_value_name(out, entry);
            put_value(out, entry, 0);
            out.push(b'"');
        }
        put_attributes(out, entry);
    }
    out.push(b'}');
}

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes any bytes");
}
