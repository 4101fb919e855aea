//! The answers to the lines of a batch, as lines of JSON, written in parts.

use crate::api::entries::PART_BYTES;
use crate::api::lines::{put_string, put_value, put_value_name};
use crate::api::operations::write::Stored;
use crate::api::{Reply, Rest, Step, ttl};
use crate::storage::Entry;

/// The bytes of most answers, or more.
const USUAL_BYTES: usize = 64;

/// The part of an entry in the answer to a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing but what the reply's head has.
    Nothing,
    /// The value that was there.
    Value,
    /// Its length.
    Length,
    /// The number that is there.
    Number,
}

/// The answer to a line: the reply to its request.
pub enum LineAnswer {
    /// To one that stores a value whatever is there.
    Stored(Stored),
    /// To any other.
    Other(Box<OtherAnswer>),
}

/// The answer to a line of another request.
pub struct OtherAnswer {
    /// The head of it counts here.
    pub reply: Reply,
    /// The entry that it tells of.
    pub entry: Option<Entry>,
    /// The part of that.
    pub told: Told,
}

impl LineAnswer {
    /// The status of the reply.
    pub fn status(&self) -> u16 {
        match self {
            Self::Stored(_) => Stored::STATUS,
            Self::Other(answer) => answer.reply.status(),
        }
    }

    /// Writes all but a value and the end. Returns the entry whose value comes behind that.
    fn put_start(self, out: &mut Vec<u8>) -> Option<Entry> {
        out.extend_from_slice(b"{\"status\":");
        put_number(out, self.status());
        match self {
            Self::Stored(Stored { tag, expiry }) => {
                out.extend_from_slice(b",\"etag\":\"");
                out.extend_from_slice(&tag.digits());
                out.push(b'"');
                if let Some(expiry) = expiry {
                    out.extend_from_slice(b",\"ttl\":");
                    put_number(out, ttl::seconds_until(expiry));
                }
                None
            }
            Self::Other(answer) => {
                answer.put_members(out);
                answer.into_valued()
            }
        }
    }
}

impl OtherAnswer {
    fn put_members(&self, out: &mut Vec<u8>) {
        for (name, text) in self.reply.headers() {
            match name {
                "ETag" => put_member(out, "etag", text.trim_matches('"')),
                "Location" => put_member(out, "location", text),
                "TTL" => {
                    out.extend_from_slice(b",\"ttl\":");
                    out.extend_from_slice(text.as_bytes());
                }
                _ => {}
            }
        }
        let Some(entry) = &self.entry else { return };
        if let Some(content_type) = entry.content_type().filter(|_| self.told != Told::Number) {
            put_member(out, "type", content_type);
        }
        if self.told == Told::Length {
            out.extend_from_slice(b",\"bytes\":");
            put_number(out, entry.value().len());
        }
    }

    /// The entry whose value comes behind that.
    fn into_valued(self) -> Option<Entry> {
        self.entry.filter(|_| self.told != Told::Length)
    }
}

fn put_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_member(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    put_string(out, text);
}

/// The answers to all lines, on their way.
pub struct Answers {
    left: std::vec::IntoIter<LineAnswer>,
    /// An entry whose value is written up to some byte.
    open: Option<(Entry, usize)>,
}

impl Answers {
    /// The answers in the order of their lines.
    pub fn new(answers: Vec<LineAnswer>) -> Self {
        Self { left: answers.into_iter(), open: None }
    }

    /// The reply with the next part, which goes on with the others.
    pub fn into_reply(mut self) -> Reply {
        let reply = Reply::answers(self.next_part());
        if self.open.is_none() && self.left.len() == 0 {
            return reply;
        }
        reply.with_rest(Rest::new(move || Step::Reply(self.into_reply())))
    }

    fn next_part(&mut self) -> Vec<u8> {
        let mut part = Vec::with_capacity((self.left.len() * USUAL_BYTES).min(PART_BYTES));
        while part.len() < PART_BYTES {
            if let Some((entry, start)) = self.open.take() {
                let end = put_value(&mut part, &entry, start);
                if end < entry.value().len() {
                    self.open = Some((entry, end));
                    break;
                }
                part.extend_from_slice(b"\"}\n");
                continue;
            }
            let Some(answer) = self.left.next() else { break };
            match answer.put_start(&mut part) {
                Some(entry) => {
                    put_value_name(&mut part, &entry);
                    self.open = Some((entry, 0));
                }
                None => part.extend_from_slice(b"}\n"),
            }
        }
        part
    }
}
