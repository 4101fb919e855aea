//! Keys, entries and the engines that hold them.
//!
//! Nothing here knows HTTP. An engine is used through one shared
//! `dyn Storage` by many threads at once; its locks live inside it and are
//! never held across a socket call.

mod memory;

use bytes::Bytes;
use std::fmt;

pub use memory::{KEYS_SHARDS, Memory};

/// The longest key, in bytes of its UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;

/// A key: UTF-8 of 1 to [`KEY_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<str>);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidKey {
    /// It has no bytes.
    Empty,
    /// It has more than [`KEY_BYTES_MAX`] bytes.
    TooLong,
}

impl Key {
    /// Makes a key of `text`, any characters, or says why it is none.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, InvalidKey> {
        let text = text.into();
        match text.len() {
            0 => Err(InvalidKey::Empty),
            1..=KEY_BYTES_MAX => Ok(Self(text)),
            _ => Err(InvalidKey::TooLong),
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is stored under a key: the value's bytes, shared, and what was found
/// out about them when they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    value: Bytes,
    text: bool,
}

impl Entry {
    /// An entry of any bytes. Reads them once, to tell text from the rest.
    pub fn new(value: Bytes) -> Self {
        let text = std::str::from_utf8(&value).is_ok();
        Self { value, text }
    }

    /// The value. Cloning it shares the bytes.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// Whether the value is UTF-8.
    pub fn is_text(&self) -> bool {
        self.text
    }
}

/// Trouble of the engine's own. A key that is absent is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The write does not fit. What was stored is untouched.
    Full,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("storage is full"),
        }
    }
}

impl std::error::Error for Error {}

/// A map from keys to entries that many threads use at once.
///
/// Each call is atomic: it takes effect at one moment between its start and
/// its return, for all keys it names, and a later call sees it.
pub trait Storage: Send + Sync {
    /// The entry under `key`; absence is `None`.
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// Stores `entry` under `key` in place of what was there. On an error
    /// nothing has changed.
    fn set(&self, key: Key, entry: Entry) -> Result<(), Error>;

    /// Deletes `key`. Deleting an absent key succeeds.
    fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Deletes every key. Takes time in proportion to what was stored; other
    /// calls wait for none of it.
    fn clear(&self) -> Result<(), Error>;
}
