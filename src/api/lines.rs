//! Entries as lines of JSON, one for each key (NDJSON): the key, the value and all that
//! is kept with it.
//!
//! The JSON of a line is written here by hand: it is a few members of text, and a library
//! writes a value in one piece.

use super::entries::{Encoding, PART_BYTES, expires};
use super::etag::EntityTag;
use crate::storage::Entry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write as _;

/// The media type of such lines.
pub const MEDIA_TYPE: &str = "application/x-ndjson";

/// The bytes of a value that are encoded at a time: whole groups of base64.
const PIECE_BYTES: usize = 48 * 1024;

/// The encoding as such lines. A part has at most six times [`PIECE_BYTES`] too many, and
/// the other members of a line.
pub const ENCODING: Encoding =
    Encoding { media_type: MEDIA_TYPE, put_start, put_value, put_end, end: b"" };

fn put_start(out: &mut Vec<u8>, key: &str, entry: &Entry) {
    out.extend_from_slice(b"{\"key\":");
    put_string(out, key);
    put_value_name(out, entry);
}

/// Writes the name of a value, up to the start of its text.
pub fn put_value_name(out: &mut Vec<u8>, entry: &Entry) {
    let name: &[u8] = if entry.is_text() { b",\"value\":\"" } else { b",\"base64\":\"" };
    out.extend_from_slice(name);
}

/// Writes a value from byte `start` on, until it or the part ends, and returns the
/// place reached.
pub fn put_value(out: &mut Vec<u8>, entry: &Entry, start: usize) -> usize {
    let mut end = start;
    for piece in entry.value().get(start..).unwrap_or_default().chunks(PIECE_BYTES) {
        if out.len() >= PART_BYTES {
            break;
        }
        let put = if entry.is_text() { put_escaped } else { put_base64 };
        put(out, piece);
        end += piece.len();
    }
    end
}

fn put_end(out: &mut Vec<u8>, entry: &Entry) {
    out.push(b'"');
    put_attributes(out, entry);
    out.extend_from_slice(b"}\n");
}

/// Writes the members behind a value: all that is kept with it.
pub fn put_attributes(out: &mut Vec<u8>, entry: &Entry) {
    if let Some(content_type) = entry.content_type() {
        out.extend_from_slice(b",\"type\":");
        put_string(out, content_type);
    }
    if let Some(expires) = expires(entry) {
        out.extend_from_slice(b",\"expires\":");
        put_string(out, &expires);
    }
    out.extend_from_slice(b",\"etag\":\"");
    out.extend_from_slice(&EntityTag::of(entry).digits());
    out.push(b'"');
}

/// Writes a text as a string of JSON (RFC 8259, 7).
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    put_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Writes UTF-8, or a piece of it, as the inside of a string. It may be cut anywhere:
/// only characters of one byte are escaped.
fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, ..b' ' | b'"' | b'\\')) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = tail.split_first() else { return };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => write!(out, "\\u{byte:04x}").expect("memory takes any bytes"),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    STANDARD.encode_slice(bytes, room).expect("three bytes are four digits");
}
