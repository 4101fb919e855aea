//! The record of an entry, its form in bytes: flags, the fields that they tell
//! of, and the value.
//!
//! ```text
//! flags    bit 0  the value is UTF-8
//!          bit 1  an expiry follows: a time in milliseconds, u64
//!          bit 2  the digest follows: 16 bytes
//!          bit 3  a content type follows: its length, u8, and its bytes
//!          bit 4  the record is kept elsewhere; nothing but its expiry follows
//!          the other bits are reserved for fields after these
//! ```
//!
//! in little-endian and in this order.

use super::entry::{Digest, Entry};
use super::time::Time;
use bytes::Bytes;

const TEXT: u8 = 1;
const EXPIRY: u8 = 1 << 1;
const DIGEST: u8 = 1 << 2;
const CONTENT_TYPE: u8 = 1 << 3;
const ELSEWHERE: u8 = 1 << 4;
const KNOWN: u8 = TEXT | EXPIRY | DIGEST | CONTENT_TYPE;

/// A record that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It ends too soon.
    #[error("a record that ends too soon")]
    Short,
    /// It has fields of a later version.
    #[error("a record of a later version ({0:#x})")]
    Flags(u8),
    /// Its content type is not UTF-8.
    #[error("a record with a content type of no text")]
    ContentType,
    /// It is a reference, and the record is not there.
    #[error("its record is missing")]
    Missing,
}

/// The length of an entry's record.
pub fn bytes(entry: &Entry) -> usize {
    let content_type = entry.content_type.as_ref().map_or(0, |text| 1 + text.len());
    let expiry = entry.expiry.map_or(0, |_| size_of::<u64>());
    1 + expiry + size_of::<Digest>() + content_type + entry.value.len()
}

/// The record of an entry.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let Entry { value, text, digest: _, content_type, expiry } = entry;
    // A longer one has no place; nobody stores such a thing.
    let content_type = content_type.as_deref().filter(|text| text.len() <= u8::MAX.into());
    let flag = |flag, is_set: bool| if is_set { flag } else { 0 };
    let mut record = Vec::with_capacity(bytes(entry));
    record.push(
        flag(TEXT, *text)
            | flag(EXPIRY, expiry.is_some())
            | DIGEST
            | flag(CONTENT_TYPE, content_type.is_some()),
    );
    if let Some(expiry) = expiry {
        record.extend_from_slice(&expiry.to_bits().to_le_bytes());
    }
    record.extend_from_slice(&entry.digest());
    if let Some(content_type) = content_type {
        record.push(u8::try_from(content_type.len()).unwrap_or(u8::MAX));
        record.extend_from_slice(content_type.as_bytes());
    }
    record.extend_from_slice(value);
    record
}

/// The entry of a record. The value shares the record's bytes.
pub fn decode(record: Bytes) -> Result<Entry, Error> {
    let mut reader = Reader::new(&record)?;
    let text = reader.flags & TEXT != 0;
    let expiry = reader.expiry()?;
    let digest = reader.array(DIGEST)?;
    let content_type = reader.content_type()?.map(Into::into);
    let at = record.len() - reader.rest.len();
    let value = if at == 0 { record } else { record.slice(at..) };
    Ok(Entry { value, text, digest, content_type, expiry })
}

/// The expiry of a record, if it has one.
pub fn expiry(record: &[u8]) -> Option<Time> {
    Reader::new(record).ok()?.expiry().ok()?
}

/// A reference to a record that is kept elsewhere, in order of its expiry.
pub fn reference(expiry: Time) -> Vec<u8> {
    [&[ELSEWHERE | EXPIRY][..], &expiry.to_bits().to_le_bytes()].concat()
}

/// The expiry in a reference; `None` for a record.
pub fn referred(record: &[u8]) -> Option<Time> {
    let bits = record.strip_prefix(&[ELSEWHERE | EXPIRY])?.first_chunk()?;
    Some(Time::from_bits(u64::from_le_bytes(*bits)))
}

/// Reads the fields of a record, one after the other.
struct Reader<'a> {
    flags: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(record: &'a [u8]) -> Result<Self, Error> {
        let (&flags, rest) = record.split_first().ok_or(Error::Short)?;
        if flags & !KNOWN == 0 { Ok(Self { flags, rest }) } else { Err(Error::Flags(flags)) }
    }

    // In the order in which they come.

    fn expiry(&mut self) -> Result<Option<Time>, Error> {
        let bits: Option<[u8; 8]> = self.array(EXPIRY)?;
        Ok(bits.map(|bits| Time::from_bits(u64::from_le_bytes(bits))))
    }

    fn content_type(&mut self) -> Result<Option<&'a str>, Error> {
        let Some([length]) = self.array(CONTENT_TYPE)? else { return Ok(None) };
        let (text, rest) = self.rest.split_at_checked(length.into()).ok_or(Error::Short)?;
        self.rest = rest;
        std::str::from_utf8(text).map(Some).map_err(|_| Error::ContentType)
    }

    fn array<const N: usize>(&mut self, flag: u8) -> Result<Option<[u8; N]>, Error> {
        if self.flags & flag == 0 {
            return Ok(None);
        }
        let (array, rest) = self.rest.split_first_chunk().ok_or(Error::Short)?;
        self.rest = rest;
        Ok(Some(*array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_is_read_back(
            value in prop::collection::vec(any::<u8>(), 0..600),
            content_type in prop::option::of("[ -~]{0,255}"),
            expiry in prop::option::of(any::<u64>()),
        ) {
            let entry = Entry::new(value.into())
                .with_content_type(content_type.map(Into::into))
                .with_expiry(expiry.map(Time::from_bits));
            let record = encode(&entry);
            prop_assert_eq!(record.len(), bytes(&entry));
            prop_assert_eq!(super::expiry(&record), entry.expiry);
            prop_assert_eq!(decode(record.into()), Ok(entry));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(entry) = decode(bytes.clone().into()) {
                prop_assert!(bytes.ends_with(entry.value()));
            }
        }
    }

    #[test]
    fn a_record_has_the_digest_of_an_entry_without_it() {
        let entry = decode(encode(&Entry::undigested("value".into())).into()).expect("it is whole");
        assert_eq!(entry.digest, Entry::new("value".into()).digest);
    }

    #[test]
    fn a_record_of_a_later_version_is_refused() {
        assert_eq!(decode(Bytes::new()), Err(Error::Short));
        for flags in [1 << 4, 0x81, 0xff] {
            let record = Bytes::copy_from_slice(&[flags, b'v']);
            assert_eq!(decode(record), Err(Error::Flags(flags)));
        }
    }

    #[test]
    fn a_reference_is_no_record() {
        let expiry = Time::from_bits(1 << 40);
        let reference = reference(expiry);
        assert_eq!(referred(&reference), Some(expiry));
        assert_eq!(super::expiry(&reference), None);
        assert_eq!(decode(reference.into()), Err(Error::Flags(ELSEWHERE | EXPIRY)));
        let record = encode(&Entry::new("value".into()).with_expiry(Some(expiry)));
        assert_eq!(referred(&record), None);
    }

    #[test]
    fn a_plain_record_of_the_first_version_is_read() {
        let entry = decode(Bytes::from_static(b"\x01text")).expect("it is whole");
        assert_eq!((&entry.value()[..], entry.is_text()), (&b"text"[..], true));
        assert_eq!((entry.content_type(), entry.expiry()), (None, None));
    }
}
