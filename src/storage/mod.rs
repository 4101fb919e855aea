//! Keys, entries and the engines that hold them.
//!
//! Nothing here knows HTTP. An engine is used through one shared
//! `dyn Storage` by many threads at once; its locks live inside it and are
//! never held across a socket call.

mod durable;
mod entry;
mod memory;
mod record;
mod time;

use std::fmt;
use std::sync::Arc;

pub use durable::{Durable, OpenError};
pub use entry::{Digest, Entry};
pub use memory::{KEYS_SHARDS, Memory};
pub use time::Time;

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

/// Trouble of the engine's own. A key that is absent is not an error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The write does not fit. What was stored is untouched.
    Full,
    /// No write is taken until the outage ends; reads go on. The write that
    /// hears this is not acknowledged: once the outage has ended, or after a
    /// restart, it may be there, whole.
    Unavailable(Outage),
    /// What is stored cannot be read.
    Internal(Arc<dyn std::error::Error + Send + Sync>),
}

/// Why an engine takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The disk has no room. Deleting may make some.
    DiskFull,
    /// A write to the disk has failed. Nothing more is written before it is
    /// certain what the disk holds, which may take until the next start.
    DiskFailed,
    /// The directory of the store is not where it was, or another is there.
    /// Nothing more is written until the next start.
    DirectoryLost,
    /// The engine was closed.
    Closed,
}

impl PartialEq for Error {
    /// Of errors with a cause only copies of the same one are equal.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full, Self::Full) => true,
            (Self::Unavailable(one), Self::Unavailable(other)) => one == other,
            (Self::Internal(one), Self::Internal(other)) => Arc::ptr_eq(one, other),
            (Self::Full | Self::Unavailable(_) | Self::Internal(_), _) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("storage is full"),
            Self::Unavailable(outage) => write!(formatter, "storage takes no writes: {outage}"),
            Self::Internal(_) => formatter.write_str("what is stored cannot be read"),
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::DiskFull => "the disk is full",
            Self::DiskFailed => "the disk has failed",
            Self::DirectoryLost => "its directory was moved or removed",
            Self::Closed => "it is closed",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full | Self::Unavailable(_) => None,
            Self::Internal(cause) => Some(cause),
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// What is there stays, or nothing does.
    Keep,
    /// This takes its place.
    Replace(Entry),
    /// Nothing is there any more.
    Remove,
}

/// A pure function from the entry of a key, or none, to what becomes of it. It
/// may be called several times, on any thread; the last call is the one that
/// counts.
pub type Change = Box<dyn FnMut(Option<&Entry>) -> Decision + Send>;

/// What an update found and left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// The entry that the change was decided on.
    pub before: Option<Entry>,
    /// The entry that is there since.
    pub after: Option<Entry>,
}

/// A write to one key.
pub enum Write {
    /// Store an entry in place of what is there.
    Set(Key, Entry),
    /// Delete a key.
    Delete(Key),
    /// Change a key depending on what is there.
    Update(Key, Change),
}

/// Is told, once, how a write went: an update what it did, the others nothing.
pub type Done = Box<dyn FnOnce(Result<Updated, Error>) + Send>;

/// A map from keys to entries that many threads use at once.
///
/// Each call is atomic: it takes effect at one moment between its start and
/// its return, for all keys it names, and a later call sees it. An entry that
/// has expired is absent for all of them from that moment on.
pub trait Storage: Send + Sync {
    /// The entry under `key`; absence is `None`.
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// The entry under `key`, if a look in memory shows it; `None` says nothing.
    /// Never waits for a disk or a peer.
    fn peek(&self, _key: &Key) -> Option<Entry> {
        None
    }

    /// Stores `entry` under `key` in place of what was there. On an error
    /// nothing has changed.
    fn set(&self, key: Key, entry: Entry) -> Result<(), Error>;

    /// Deletes `key`. Deleting an absent key succeeds.
    fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Deletes every key. Takes time in proportion to what was stored; reads
    /// wait for none of it.
    fn clear(&self) -> Result<(), Error>;

    /// Changes what is under `key` as `change` decides, in one step: nothing
    /// comes between the entry it was shown and what takes its place. On an
    /// error nothing has changed.
    fn update(&self, key: Key, change: Change) -> Result<Updated, Error>;

    /// Begins a write and calls `done` once it has taken effect or failed:
    /// before this returns, or later on a thread of the engine's own, where it
    /// must not block.
    fn begin(&self, write: Write, done: Done) {
        done(self.perform(write));
    }

    /// Does a write and waits until it has taken effect. Gives what an update
    /// did, and nothing of the others.
    fn perform(&self, write: Write) -> Result<Updated, Error> {
        match write {
            Write::Set(key, entry) => self.set(key, entry).map(|()| Updated::default()),
            Write::Delete(key) => self.delete(&key).map(|()| Updated::default()),
            Write::Update(key, change) => self.update(key, change),
        }
    }

    /// Whether a call may wait for a disk or a peer, so that a write should be
    /// begun and not waited for.
    fn waits(&self) -> bool {
        false
    }

    /// How many bytes more may be stored, if that is limited. Never blocks.
    fn room(&self) -> Option<u64> {
        None
    }

    /// Whether writes are taken. Never blocks.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Has no write wait any more for what may take long, as room on a full disk
    /// does: it is refused instead. To be called before whoever waits for the
    /// answers is stopped.
    fn hurry(&self) {}

    /// Finishes the writes that were begun and takes no more. On an error
    /// something that was acknowledged may be lost.
    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
