//! The entries of an export in lines of JSON.

use super::{Bounds, Importer, Parts};
use crate::api::members::Members;
use crate::api::{Refusal, Reply};
use crate::storage::{Entry, Key};
use bytes::BytesMut;
use std::io::BufRead as _;

/// The most bytes of a line beside those of its value: more than the longest key and the
/// longest type have.
const OTHERS_BYTES_MAX: u64 = 32 << 10;

/// The most bytes of JSON for a byte of a value, all but one of which are an escape's.
const ESCAPED_BYTES_MAX: u64 = 6;

/// The memory for the lines that come at once.
const INPUT_BYTES: u64 = 64 << 10;

/// The most of a buffer that is kept for the next line.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// The bytes of a buffer for short values.
const VALUES_BYTES: usize = 64 << 10;

/// Returns true if a body with these first bytes begins as a line does.
pub fn begin(head: &[u8]) -> bool {
    head.first().is_some_and(|first| matches!(first, b'{' | b' ' | b'\t' | b'\r' | b'\n'))
}

/// Imports them.
pub fn run(importer: &mut Importer<'_>) -> Result<(), Reply> {
    let (bounds, value_bytes_max) = (importer.bounds().clone(), importer.value_bytes_max());
    let (mut begun, mut values) = (Begun::default(), BytesMut::with_capacity(VALUES_BYTES));
    loop {
        if begun.text.is_empty() {
            importer.begin();
        }
        importer.reserve(begun.memory() + INPUT_BYTES)?;
        let input = match importer.fill_buf() {
            Ok(input) => input,
            Err(err) => return Err(importer.cut(&err)),
        };
        if input.is_empty() && begun.text.is_empty() {
            return Ok(());
        }
        let end = memchr::memchr(b'\n', input);
        let text = input.get(..end.unwrap_or(input.len())).unwrap_or_default();
        let used = text.len() + usize::from(end.is_some());
        // The last line may have no end.
        if end.is_none() && !input.is_empty() {
            begun.push(text);
            importer.consume(used);
            if !begun.may_fit(value_bytes_max) {
                return Err(importer.refuse(Refusal::ValueTooLarge));
            }
            continue;
        }
        let entry = if begun.text.is_empty() {
            entry(text, &bounds, &mut values)
        } else {
            begun.push(text);
            entry(&begun.text, &bounds, &mut values)
        };
        importer.consume(used);
        begun.clear();
        match entry {
            Ok((key, Some(entry))) => importer.add(key, entry)?,
            Ok((_, None)) => importer.pass_over(),
            Err(refusal) => return Err(importer.refuse(refusal)),
        }
    }
}

/// The entry of a line; none if it has expired. Short values are put together in buffers.
fn entry(
    line: &[u8],
    bounds: &Bounds,
    values: &mut BytesMut,
) -> Result<(Key, Option<Entry>), Refusal> {
    let mut members = Members::parse(line)?;
    let value = members.take_value(|text| {
        values.extend_from_slice(text);
        values.split().freeze()
    })?;
    let Members { method, path, key, content_type, if_match, if_none_match, expires, .. } = members;
    if [method, path, if_match, if_none_match].iter().any(Option::is_some) {
        return Err(Refusal::ImportRequest);
    }
    let key = key.ok_or(Refusal::ImportKeyless)?;
    let value = value.ok_or(Refusal::ImportValueless)?;
    Parts { key, value, content_type, expires }.entry(bounds)
}

/// A line whose end has not come.
#[derive(Default)]
struct Begun {
    text: Vec<u8>,
    /// The number of escapes in it, or more.
    escapes: u64,
}

impl Begun {
    fn push(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.escapes += memchr::memchr_iter(b'\\', text).count() as u64;
    }

    /// The memory that it takes, with the value that is made of it.
    fn memory(&self) -> u64 {
        2 * self.text.len() as u64
    }

    /// Returns false if its value has more than so many bytes, whatever follows.
    fn may_fit(&self, value_bytes_max: u64) -> bool {
        let bytes = (self.text.len() as u64).saturating_sub(OTHERS_BYTES_MAX);
        let unescaped = bytes.saturating_sub((ESCAPED_BYTES_MAX - 1) * self.escapes);
        // Four digits of base64 are three bytes.
        bytes / ESCAPED_BYTES_MAX <= value_bytes_max && unescaped / 4 * 3 <= value_bytes_max
    }

    fn clear(&mut self) {
        self.escapes = 0;
        self.text.clear();
        if self.text.capacity() > BUFFER_BYTES_KEPT {
            self.text = Vec::new();
        }
    }
}
