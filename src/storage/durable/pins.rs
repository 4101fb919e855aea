//! Entries that do not expire yet, because a change was decided on them.
//!
//! A change takes effect once its batch is committed. If the entry that it was
//! decided on expired before that, readers would see it go and then come back.

use crate::storage::{Entry, Key, Time};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The keys of such entries, and when each would have expired.
#[derive(Default)]
pub struct Pins(Mutex<HashMap<Key, Time>>);

impl Pins {
    /// Keeps the entry under `key` from expiring until all pins are cleared;
    /// `false` if it has expired.
    pub fn pin(&self, key: &Key, entry: &Entry) -> bool {
        let Some(expiry) = entry.expiry() else { return true };
        let mut pins = self.lock();
        // A reader that found no pin before had an earlier time.
        let lives = entry.lives(Time::now);
        if lives {
            pins.insert(key.clone(), expiry);
        }
        lives
    }

    /// Returns true if an entry that was read under `key` lives at this moment.
    pub fn lives(&self, key: &Key, entry: &Entry) -> bool {
        entry.lives(Time::now) || self.lock().get(key).copied() == entry.expiry()
    }

    /// Looks at something while no entry is pinned or let go; gives all pins then.
    pub fn with<T>(&self, look: impl FnOnce() -> T) -> (HashMap<Key, Time>, T) {
        let pins = self.lock();
        let found = look();
        (pins.clone(), found)
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Time>> {
        // The map is whole at all times.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
