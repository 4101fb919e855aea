//! The entry under a key.

use super::time::Time;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// The first half of the SHA-256 of a value.
pub type Digest = [u8; 16];

/// The longest value that an engine keeps a copy of, and not the buffer that it is in: it may
/// be a part of one that is larger.
pub const COPIED_BYTES_MAX: usize = 4096;

/// A value's bytes, shared, with their metadata.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) value: Bytes,
    pub(super) text: bool,
    /// Missing where nobody has needed it yet.
    pub(super) digest: Option<Digest>,
    pub(super) content_type: Option<Arc<str>>,
    pub(super) expiry: Option<Time>,
}

impl PartialEq for Entry {
    /// What follows from the value is the same if the value is, known or not.
    fn eq(&self, other: &Self) -> bool {
        let Self { value, text: _, digest: _, content_type, expiry } = self;
        (value, content_type, expiry) == (&other.value, &other.content_type, &other.expiry)
    }
}

impl Eq for Entry {}

impl Entry {
    /// An entry of any bytes, without a content type, that never expires.
    /// Reads all of them.
    pub fn new(value: Bytes) -> Self {
        let digest = Some(digest_of(&value));
        Self { digest, ..Self::undigested(value) }
    }

    /// The same, but that its digest is left to whoever needs it: an engine that keeps it.
    pub fn undigested(value: Bytes) -> Self {
        let text = std::str::from_utf8(&value).is_ok();
        Self { value, text, digest: None, content_type: None, expiry: None }
    }

    /// The same with a content type, or without one. It has up to 255 bytes.
    #[must_use]
    pub fn with_content_type(self, content_type: Option<Arc<str>>) -> Self {
        Self { content_type, ..self }
    }

    /// The same that expires then, or never.
    #[must_use]
    pub fn with_expiry(self, expiry: Option<Time>) -> Self {
        Self { expiry, ..self }
    }

    /// The value. Cloning it shares the bytes.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// Returns true if the value is UTF-8.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// The content type of the value.
    pub fn content_type(&self) -> Option<&Arc<str>> {
        self.content_type.as_ref()
    }

    /// The expiry: from this moment on the entry is absent.
    pub fn expiry(&self) -> Option<Time> {
        self.expiry
    }

    /// The first half of the SHA-256 of the value.
    pub fn digest(&self) -> Digest {
        self.digest.unwrap_or_else(|| digest_of(&self.value))
    }

    /// Returns true unless the entry has expired.
    pub(super) fn lives(&self, now: impl FnOnce() -> Time) -> bool {
        self.expiry.is_none_or(|expiry| expiry > now())
    }
}

fn digest_of(value: &[u8]) -> Digest {
    let whole: [u8; 32] = Sha256::digest(value).into();
    let [half, _] = whole.as_chunks().0 else { unreachable!("32 bytes are two halves") };
    *half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_first_half_of_the_sha_256() {
        // echo -n abc | sha256sum
        let digest = Entry::new("abc".into()).digest();
        assert_eq!(u128::from_be_bytes(digest), 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223);
    }
}
