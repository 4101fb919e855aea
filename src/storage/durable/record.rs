//! How an entry is written: a byte that says what follows, then the value.
//!
//! ```text
//! flags  bit 0    the value is UTF-8
//!        others   reserved for fields between the flags and the value
//! ```

use crate::storage::Entry;
use bytes::Bytes;
use std::error::Error;
use std::fmt;

const TEXT: u8 = 1;

/// Why a record is none that this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotUnderstood {
    /// It has no byte.
    Empty,
    /// It has fields of a later version.
    Flags(u8),
}

/// The record of an entry.
pub(super) fn encode(entry: &Entry) -> Bytes {
    let mut record = Vec::with_capacity(1 + entry.value().len());
    record.push(if entry.is_text() { TEXT } else { 0 });
    record.extend_from_slice(entry.value());
    record.into()
}

/// The entry of a record. The value shares the record's bytes.
pub(super) fn decode(record: &Bytes) -> Result<Entry, NotUnderstood> {
    match record.first() {
        None => Err(NotUnderstood::Empty),
        Some(&flags) if flags & !TEXT != 0 => Err(NotUnderstood::Flags(flags)),
        Some(&flags) => Ok(Entry { value: record.slice(1..), text: flags & TEXT != 0 }),
    }
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("an empty record"),
            Self::Flags(flags) => write!(formatter, "a record of a later version ({flags:#x})"),
        }
    }
}

impl Error for NotUnderstood {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back() {
        for value in [&b""[..], b"text", b"\xff\x00", "Grüße".as_bytes()] {
            let entry = Entry::new(Bytes::copy_from_slice(value));
            assert_eq!(decode(&encode(&entry)), Ok(entry));
        }
    }

    #[test]
    fn a_record_of_a_later_version_is_refused() {
        assert_eq!(decode(&Bytes::new()), Err(NotUnderstood::Empty));
        for flags in [2, 3, 0x80] {
            let record = Bytes::copy_from_slice(&[flags, b'v']);
            assert_eq!(decode(&record), Err(NotUnderstood::Flags(flags)));
        }
    }
}
