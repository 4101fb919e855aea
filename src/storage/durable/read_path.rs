//! Reads: a look in memory, wherever the entry is, or along the keys.
//!
//! A plain read of one key takes the newest of it. It is taken again, from a snapshot,
//! where it may have met some of a batch that is seen at once, and no more of it. Pages
//! are always read from a snapshot.

use super::generation::Keyspaces;
use super::lookup::{entry_by, entry_in};
use super::pins::Pins;
use super::walk::View;
use crate::storage::{Entry, Error, Key, Listing, Page, Range, Start, Time, record};
use std::sync::{Arc, PoisonError, RwLock};

/// A larger value takes longer to check than other reads may wait.
const READ_AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// The two ways to read: in memory, and wherever the entry is.
#[derive(Clone)]
pub struct ReadPath {
    current: Arc<RwLock<Arc<Keyspaces>>>,
    pins: Arc<Pins>,
}

impl ReadPath {
    /// Reads of whatever keyspaces are current.
    pub fn new(current: Arc<RwLock<Arc<Keyspaces>>>, pins: Arc<Pins>) -> Self {
        Self { current, pins }
    }

    /// The keyspaces that are in use.
    pub fn keyspaces(&self) -> Arc<Keyspaces> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads from the keyspaces that are in use.
    fn read<T>(&self, read: impl Fn(&Keyspaces) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let keyspaces = self.keyspaces();
            let found = read(&keyspaces);
            // A file may be gone if the database was opened anew meanwhile.
            if found.is_ok() || Arc::ptr_eq(&keyspaces, &self.keyspaces()) {
                return found;
            }
        }
    }

    /// The entry under `key` in these keyspaces.
    fn entry(&self, keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
        let mut found = whole_entry_in(keyspaces, key)?;
        while let Some(entry) = &found
            && !self.pins.lives(key, entry)
        {
            // It has expired, unless a change that was decided before has been
            // committed since it was found, to other keyspaces perhaps.
            let expiry = entry.expiry();
            found =
                whole_entry_in(&self.keyspaces(), key)?.filter(|entry| entry.expiry() != expiry);
        }
        Ok(found)
    }

    /// The entry under `key`. Blocks as long as the disk does.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.read(|keyspaces| self.entry(keyspaces, key))
    }

    /// The entry under `key` if a look in the active memtable shows it: written
    /// last, small, without an expiry, for that needs another look. Never blocks.
    pub fn get_in_memory(&self, key: &Key) -> Option<Entry> {
        let keys = &self.keyspaces().keys;
        let record = keys.untorn(|| keys.get_in_memtable(key.as_str().as_bytes()))??;
        if record.len() > READ_AT_ONCE_BYTES_MAX {
            return None;
        }
        record::decode(record).ok().filter(|entry| entry.expiry().is_none())
    }

    /// Reads a page. Blocks as long as the disk does.
    pub fn list(&self, listing: &Listing) -> Result<Page, Error> {
        self.read(|keyspaces| self.view(keyspaces).page(listing))
    }

    /// Counts some keys of a range. Blocks as long as the disk does.
    pub fn count(&self, range: &Range) -> Result<(u64, Option<Start>), Error> {
        self.read(|keyspaces| self.view(keyspaces).count(range))
    }

    /// The keys at this moment.
    fn view<'a>(&self, keyspaces: &'a Keyspaces) -> View<'a> {
        // An entry that the snapshot shows, and that is replaced later, has expired
        // only if it was not pinned at the time of the snapshot.
        let look = || (keyspaces.keys.snapshot(), Time::now());
        keyspaces.keys.wait_for_batch();
        let (pins, (snapshot, now)) = self.pins.with(look);
        View { keyspaces, snapshot, now, pins }
    }
}

/// The entry under `key`, expired or not, as it is before or after each batch that is
/// seen at once.
fn whole_entry_in(keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
    let keys = &keyspaces.keys;
    keys.untorn(|| entry_in(keyspaces, key)).unwrap_or_else(|| {
        let snapshot = keys.snapshot();
        entry_by(keyspaces, key, |keyspace, key| snapshot.get(keyspace, key))
    })
}
