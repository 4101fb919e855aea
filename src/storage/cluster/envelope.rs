//! The layout of entries: the bytes that a node keeps for each.
//!
//! ```text
//! without a content type   the value, as every other client reads and writes it
//! with one                 FF 'l' 'k' 'v' 01 | its length, u8 | content type | value
//! ```
//!
//! A value without a content type that begins with these five bytes has the envelope too,
//! with a length of 0. Bytes that no front writes are a value as they are. The expiry is
//! the key's own: a time of the wall clock in milliseconds.
//!
//! Nothing here knows commands or replies.

use crate::storage::{Entry, Time};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The begin of an envelope: no UTF-8, a name and a version.
const MAGIC: &[u8; 5] = b"\xfflkv\x01";

/// The latest expiry, in milliseconds: scripts count no further than this one by one.
const EXPIRY_MS_MAX: i64 = (1 << 53) - 1;

/// An entry as a node keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The bytes under the key.
    pub bytes: Bytes,
    /// Its expiry on the wall clock, in milliseconds.
    pub expiry_ms: Option<i64>,
    /// The same for a reader.
    pub entry: Entry,
}

impl Stored {
    /// The form of what is under a key.
    pub fn found(bytes: Bytes, expiry_ms: Option<i64>) -> Self {
        let entry = entry_of(bytes.clone(), expiry_ms);
        Self { bytes, expiry_ms, entry }
    }

    /// The form of an entry. Where it keeps the expiry of the one `before` that is the
    /// same to the millisecond, however the wall clock was set in between.
    pub fn of(entry: Entry, before: Option<&Self>) -> Self {
        let kept = before.filter(|before| before.entry.expiry() == entry.expiry());
        let expiry_ms = match kept {
            Some(before) => before.expiry_ms,
            None => entry.expiry().map(ms_of),
        };
        Self { bytes: bytes_of(&entry), expiry_ms, entry }
    }
}

/// The milliseconds of a moment on the wall clock. A node takes none below 1.
fn ms_of(time: Time) -> i64 {
    let since = time.on_wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX).clamp(1, EXPIRY_MS_MAX)
}

/// The moment of milliseconds on the wall clock.
fn time_of(ms: i64) -> Time {
    let since = Duration::from_millis(ms.try_into().unwrap_or_default());
    Time::from_wall_clock(UNIX_EPOCH + since)
}

/// The bytes of an entry.
fn bytes_of(entry: &Entry) -> Bytes {
    let value = entry.value();
    // Another has no place; nobody stores such a thing.
    let content_type = entry.content_type().filter(|text| is_content_type(text.as_bytes()));
    let content_type = content_type.map_or("", |text| text);
    if content_type.is_empty() && !value.starts_with(MAGIC) {
        return value.clone();
    }
    let length = u8::try_from(content_type.len()).unwrap_or(u8::MAX);
    [MAGIC, &[length][..], content_type.as_bytes(), value].concat().into()
}

/// The entry of the bytes under a key.
pub fn entry_of(bytes: Bytes, expiry_ms: Option<i64>) -> Entry {
    let (content_type, at) = match opened(&bytes) {
        Some((content_type, value)) => (content_type.map(Arc::from), bytes.len() - value.len()),
        None => (None, 0),
    };
    let value = if at == 0 { bytes } else { bytes.slice(at..) };
    let text = std::str::from_utf8(&value).is_ok();
    Entry { value, text, digest: None, content_type, expiry: expiry_ms.map(time_of) }
}

/// The content type and the value in an envelope; `None` for bytes without one.
fn opened(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let (&length, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
    let (content_type, value) = rest.split_at_checked(length.into())?;
    if length == 0 {
        return value.starts_with(MAGIC).then_some((None, value));
    }
    let is_one = is_content_type(content_type);
    std::str::from_utf8(content_type).ok().filter(|_| is_one).map(|text| (Some(text), value))
}

/// Returns true for a content type: what is told to clients must not break a header.
fn is_content_type(text: &[u8]) -> bool {
    let is_shown = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let mut parts = text.splitn(2, |byte| *byte == b'/');
    let kind = parts.next().unwrap_or_default();
    let subtype = parts.next().unwrap_or_default();
    text.len() <= u8::MAX.into()
        && text.iter().all(is_shown)
        && !kind.is_empty()
        && kind.iter().all(is_of_token)
        && subtype.first().is_some_and(is_of_token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(value: &'static [u8], content_type: &str) -> Entry {
        Entry::new(Bytes::from_static(value)).with_content_type(Some(content_type.into()))
    }

    fn found(bytes: &[u8]) -> Entry {
        Stored::found(Bytes::copy_from_slice(bytes), None).entry
    }

    #[test]
    fn a_plain_value_is_stored_as_it_is() {
        for value in [&b"value"[..], b"", b"\xff", b"\xfflkv", b"\xfflkv\x02", b"lkv\x01"] {
            let entry = Entry::new(Bytes::from_static(value));
            assert_eq!(Stored::of(entry.clone(), None).bytes, value);
            assert_eq!(found(value), entry);
        }
    }

    #[test]
    fn the_envelope_has_the_content_type() {
        let entry = typed(b"<p>", "text/html; charset=utf-8");
        let bytes = b"\xfflkv\x01\x18text/html; charset=utf-8<p>";
        assert_eq!(Stored::of(entry.clone(), None).bytes, &bytes[..]);
        assert_eq!(found(bytes), entry);
    }

    #[test]
    fn a_value_like_an_envelope_is_put_into_one() {
        let value = b"\xfflkv\x01\x03a/bcd";
        let entry = Entry::new(Bytes::from_static(value));
        let bytes = Stored::of(entry.clone(), None).bytes;
        assert_eq!(bytes, [&b"\xfflkv\x01\0"[..], value].concat());
        assert_eq!(found(&bytes), entry);
    }

    #[test]
    fn an_envelope_that_makes_no_sense_is_a_value() {
        let cases: [&[u8]; 11] = [
            b"\xfflkv\x01",
            b"\xfflkv\x01\0",
            b"\xfflkv\x01\0value",
            b"\xfflkv\x01\x09text/htm",
            b"\xfflkv\x01\xfftext/html",
            b"\xfflkv\x01\x05plainvalue",
            b"\xfflkv\x01\x04a/\r\nvalue",
            b"\xfflkv\x01\x04a/\xc3\xa9value",
            b"\xfflkv\x01\x02a/value",
            b"\xfflkv\x01\x02/bvalue",
            b"\xfflkv\x01\x04a b/value",
        ];
        for bytes in cases {
            assert_eq!(found(bytes), Entry::new(Bytes::from_static(bytes)), "{bytes:?}");
        }
    }

    #[test]
    fn an_expiry_is_of_the_wall_clock_and_comes_back() {
        let expiry = Time::from_wall_clock(UNIX_EPOCH + Duration::from_millis(2_000_000_000_123));
        let entry = Entry::new("value".into()).with_expiry(Some(expiry));
        let stored = Stored::of(entry, None);
        assert_eq!(stored.expiry_ms, Some(2_000_000_000_123));
        assert_eq!(Stored::found(stored.bytes.clone(), stored.expiry_ms), stored);
    }

    #[test]
    fn an_expiry_is_one_that_a_node_takes() {
        let stored = |time| Stored::of(Entry::new("value".into()).with_expiry(Some(time)), None);
        assert_eq!(stored(Time::from_bits(0)).expiry_ms, Some(1));
        assert_eq!(stored(Time::from_bits(u64::MAX)).expiry_ms, Some(EXPIRY_MS_MAX));
    }

    #[test]
    fn an_expiry_that_is_kept_is_the_same_number() {
        // This one no moment stands for.
        let before = Stored::found("before".into(), Some(i64::MAX));
        let kept = Entry::new("after".into()).with_expiry(before.entry.expiry());
        assert_eq!(Stored::of(kept.clone(), Some(&before)).expiry_ms, Some(i64::MAX));
        assert_eq!(Stored::of(kept.clone(), None).expiry_ms, Some(EXPIRY_MS_MAX));
        assert_eq!(Stored::of(kept.with_expiry(None), Some(&before)).expiry_ms, None);
    }

    fn content_type() -> impl Strategy<Value = Option<Arc<str>>> {
        proptest::option::of(
            proptest::string::string_regex(
                "[a-z+.]{1,20}/[a-z]{1,20}(; [a-z]{1,9}=\"[ -~]{0,90}\")?",
            )
            .expect("a regular expression"),
        )
        .prop_map(|text| text.map(Into::into))
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        let any = proptest::collection::vec(any::<u8>(), 0..300);
        let begin =
            prop_oneof![Just(&b""[..]), Just(&MAGIC[..]), Just(&b"\xfflkv\x01\0\xfflkv\x01"[..])];
        (begin, any).prop_map(|(begin, any)| [begin, &any].concat())
    }

    proptest! {
        #[test]
        fn every_entry_comes_back(value in value(), content_type in content_type()) {
            let entry = Entry::new(value.into()).with_content_type(content_type);
            let stored = Stored::of(entry.clone(), None);
            let found = Stored::found(stored.bytes, None).entry;
            prop_assert_eq!(&found, &entry);
            prop_assert_eq!((found.is_text(), found.digest()), (entry.is_text(), entry.digest()));
        }

        #[test]
        fn any_bytes_are_an_entry(bytes in value()) {
            let entry = found(&bytes);
            prop_assert!(bytes.ends_with(entry.value()));
        }
    }
}
