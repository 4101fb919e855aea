//! The change log: the last changes of a store, in the order in which they took effect,
//! and those who watch them.
//!
//! ```text
//! writer:  change the store ──► append, under the key's lock ──► ring, behind it
//! watcher: watch ──► read ──► up to date: park ──► woken: read again
//! ```
//!
//! The log is a ring of bytes in memory. A change has a place in it, and that place is
//! its [`Revision`]: to go on from a revision is to go on from a place. A watcher reads
//! for itself, from its own place, and is told of nothing else than what it watches: the
//! log keeps the places of the changes that somebody watches, by prefix, so nobody passes
//! over the others. Where all keys may have changed at once another birth begins (an epoch
//! of the history), and whoever comes with a revision of the one before has to look at all
//! keys again.
//!
//! A log that is not kept from its start on keeps nothing before somebody asks for a
//! position. No change is missed then either: whoever asks has the log kept, and looks at
//! the store behind that, under the lock of each key or of the index of the keys. A writer
//! appends under the lock of its key, behind the change. If it finds the log not kept, its
//! change came before the look and is seen by it.
//!
//! Watchers are woken by a few threads of the log. A watcher costs no look at the changes of
//! others, but where it begins in the past, or once it is behind by hundreds of changes:
//! then it walks over them in steps.
//!
//! Locks are taken in this order: those of an engine, the log, the agenda of its threads.
//! Nothing here knows entries or engines, and no wake is called or dropped under a lock.

mod lines;
mod log;
mod revision;
mod ring;

use self::log::{Crowd, Log, Owner};
use super::Key;
pub use revision::{InvalidRevision, Revision};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// The usual bytes of history.
pub const HISTORY_BYTES: usize = 16 << 20;

/// The most threads that wake, and write to those whom they wake: all take the log's lock.
const WAKERS_MAX: usize = 4;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// The key was stored, or its entry changed.
    Put,
    /// It was deleted.
    Delete,
    /// It had expired, and was removed.
    Expire,
    /// It was removed to make room for others.
    Evict,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its kind.
    pub event: Event,
    /// The position behind it.
    pub revision: Revision,
    /// The key.
    pub key: Key,
}

/// The keys that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// All with this prefix; the empty one is every key's.
    Prefix(Box<str>),
    /// One.
    Key(Key),
}

/// The outcome of reading on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next changes, at least one and some hundreds at most, with 16 KiB of keys or
    /// little more.
    Changes(Vec<Change>),
    /// There are no others up to this position.
    UpToDate(Revision),
    /// A step over changes of others, behind which there may be more: it reads on, or parks
    /// and is woken at once, so that others have their turn.
    Passing,
    /// All keys may have changed: another birth has begun, or the position where it was to
    /// begin is not within the history. It stays so until it goes on from another one.
    Reborn,
    /// The next changes are forgotten: the watcher is behind by more than the history.
    Behind,
}

/// The extent of a change log.
pub struct Extent {
    /// The changes that were ever appended.
    pub appended: u64,
    /// The bytes of those that are kept.
    pub bytes: u64,
    /// The most that these may be.
    pub bytes_max: u64,
    /// The number of watchers.
    pub watchers: usize,
}

/// The continuation of a watcher, called once, with true if the watcher was ended or
/// dropped. It does not block.
pub type WakeWatcher = Box<dyn FnOnce(bool) + Send>;

/// The change log of a store. A clone is another handle on it.
#[derive(Clone)]
pub struct Changes {
    log: Arc<Log>,
    _owner: Arc<Owner>,
}

/// Rings for the watchers of changes that were appended, when it is dropped: behind the
/// locks of the keys.
#[must_use = "dropped at once it rings under the lock"]
pub struct Bell(Option<(Arc<Log>, Vec<Crowd>)>);

/// One who watches, until it is dropped.
pub struct Watcher {
    log: Arc<Log>,
    number: u64,
}

impl Changes {
    /// A log that begins at `start` and keeps about so many bytes. It keeps changes from
    /// the start on if `is_kept`, and else from the first call of [`Changes::revision`] or
    /// [`Changes::watch`] on.
    pub fn new(history_bytes: usize, start: Revision, is_kept: bool) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with_wakers(processors.min(WAKERS_MAX), history_bytes, start, is_kept)
    }

    /// The same with so many threads that wake watchers.
    fn with_wakers(wakers: usize, history_bytes: usize, start: Revision, is_kept: bool) -> Self {
        let log = Arc::new(Log::new(history_bytes, start, is_kept, wakers));
        Self { _owner: Arc::new(Owner(Arc::clone(&log))), log }
    }

    /// The present position. Whoever reads the store behind this call, and then goes on
    /// from the position, misses nothing. Never blocks.
    pub fn revision(&self) -> Revision {
        self.log.keep();
        self.log.state().revision()
    }

    /// The position behind changes of these keys, were they appended now.
    pub fn revision_behind<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Revision {
        let bytes: u64 = keys.map(|key| ring::length(key.len())).sum();
        let now = self.log.state().revision();
        Revision { place: now.place + bytes, ..now }
    }

    /// Appends a change of a key, under the lock under which it takes effect.
    pub fn append(&self, event: Event, key: &str) -> Bell {
        self.append_all(std::iter::once((event, key)))
    }

    /// Appends changes that follow each other.
    pub fn append_all<'a>(&self, changes: impl Iterator<Item = (Event, &'a str)>) -> Bell {
        if !self.log.is_kept() {
            return Bell(None);
        }
        let mut crowds = Vec::new();
        let mut state = self.log.state();
        for (event, key) in changes {
            state.append(event, key, &mut crowds);
        }
        drop(state);
        self.bell(crowds)
    }

    /// Begins another birth, as all keys may have changed: under the lock under which they
    /// do.
    pub fn be_reborn(&self, start: Revision) -> Bell {
        let crowds = self.log.state().be_reborn(start);
        self.bell(crowds)
    }

    /// Its extent. Never blocks.
    pub(in crate::storage) fn extent(&self) -> Extent {
        self.log.state().extent()
    }

    fn bell(&self, crowds: Vec<Crowd>) -> Bell {
        Bell((!crowds.is_empty()).then(|| (Arc::clone(&self.log), crowds)))
    }

    /// Watches some keys, from a position on or else from now on. A position that is not
    /// within the history makes the first [`Watcher::read`] say so. Never blocks.
    pub fn watch(&self, watched: Watched, since: Option<Revision>) -> Watcher {
        self.log.keep();
        let number = self.log.state().join(watched, since);
        Watcher { log: Arc::clone(&self.log), number }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some((log, crowds)) = self.0.take() {
            log.wake_all(crowds);
        }
    }
}

impl Watcher {
    /// Reads on. Where nothing that is watched has changed it goes on to the present
    /// position, however much else has. Never blocks, takes no longer than a page.
    pub fn read(&self) -> Read {
        self.log.read(self.number)
    }

    /// Goes on from here, in place of where it is.
    pub fn go_on_from(&self, revision: Revision) {
        self.log.state().go_on_from(self.number, revision);
    }

    /// Parks it until there is something to read, or until `until`. It is always woken by
    /// a thread of the log, even at once, or here if there can be no thread. Never blocks.
    pub fn park(&self, until: Instant, wake: WakeWatcher) {
        self.log.park(self.number, until, wake);
    }

    /// Ends it: if it is parked it is woken, and later it is as it parks.
    pub fn end(&self) {
        self.log.end(self.number);
    }
}

impl Drop for Watcher {
    /// One that is parked is woken, as if it was ended.
    fn drop(&mut self) {
        self.log.leave(self.number);
    }
}

#[cfg(test)]
mod tests;
