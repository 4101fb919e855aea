//! Reads: a look in memory, wherever the entry is, or along the keys.
//!
//! Each read shows what was committed at one moment, the last one, and nothing of a batch
//! under way. The pages of one list are of the same moment if that is asked for.

use super::generation::Keyspaces;
use super::held_moments::HeldMoments;
use super::lookup::entry_by;
use super::pins::Pins;
use super::walk::View;
use crate::storage::{Entry, Error, Key, Listing, Moment, Page, Range, Start, Time, record};
use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock};

/// A larger value takes longer to check than other reads may wait.
const READ_AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// The two ways to read: in memory, and wherever the entry is.
#[derive(Clone)]
pub struct ReadPath {
    current: Arc<RwLock<Arc<Keyspaces>>>,
    pins: Arc<Pins>,
    pub moments: Arc<HeldMoments>,
}

impl ReadPath {
    /// Reads of whatever keyspaces are current.
    pub fn new(
        current: Arc<RwLock<Arc<Keyspaces>>>,
        pins: Arc<Pins>,
        moments: Arc<HeldMoments>,
    ) -> Self {
        Self { current, pins, moments }
    }

    /// The keyspaces that are in use.
    pub fn keyspaces(&self) -> Arc<Keyspaces> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads from the keyspaces that are in use.
    fn read<T>(&self, read: impl Fn(&Arc<Keyspaces>) -> Result<T, Error>) -> Result<T, Error> {
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
        let placeholder = keyspaces.cache.reserve(key);
        let mut found = entry_now(keyspaces, key)?;
        if let (Some(placeholder), Some(entry)) = (placeholder, &found) {
            placeholder.insert(entry);
        }
        while let Some(entry) = &found
            && !self.pins.lives(key, entry)
        {
            // It has expired, unless a change that was decided before has been
            // committed since it was found, to other keyspaces perhaps.
            let expiry = entry.expiry();
            found = entry_now(&self.keyspaces(), key)?.filter(|entry| entry.expiry() != expiry);
        }
        Ok(found)
    }

    /// The entry under `key`. Blocks as long as the disk does.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.read(|keyspaces| self.entry(keyspaces, key))
    }

    /// The entry under `key` if a look in the active memtable, or in the cache, shows it:
    /// written last or read lately, and small. Never blocks.
    pub fn get_in_memory(&self, key: &Key) -> Option<Entry> {
        // The last one who has them would remove files, so they are only looked at.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let Keyspaces { keys, cache, .. } = &**current;
        let record = keys.get_in_memtable(key.as_str().as_bytes());
        let entry = match record.filter(|record| record::referred(record).is_none()) {
            Some(record) if record.len() > READ_AT_ONCE_BYTES_MAX => None,
            Some(record) => record::decode(record).ok(),
            None => cache.get(key),
        };
        // One that has expired may live by a change that is under way.
        entry.filter(|entry| self.pins.lives(key, entry))
    }

    /// Reads a page. Blocks as long as the disk does.
    pub fn list(&self, listing: &Listing) -> Result<Page, Error> {
        match &listing.moment {
            Moment::Now => self.read(|keyspaces| self.view(keyspaces).page(listing)),
            Moment::Hold => self.read(|keyspaces| self.list_and_hold(keyspaces, listing)),
            Moment::Held(moment) => self.list_held(&**moment, listing),
        }
    }

    /// Reads a first page, and holds its moment if there are others.
    fn list_and_hold(&self, keyspaces: &Arc<Keyspaces>, listing: &Listing) -> Result<Page, Error> {
        let view = self.view(keyspaces);
        let mut page = view.page(listing)?;
        if page.next.is_some() {
            page.moment = self.moments.hold(view)?;
        }
        Ok(page)
    }

    fn list_held(
        &self,
        moment: &(dyn Any + Send + Sync),
        listing: &Listing,
    ) -> Result<Page, Error> {
        let mut page = self.moments.view(moment)?.page(listing)?;
        if page.next.is_some() {
            page.moment = listing.moment.clone();
        }
        Ok(page)
    }

    /// Counts some keys of a range. Blocks as long as the disk does.
    pub fn count(&self, range: &Range) -> Result<(u64, Option<Start>), Error> {
        self.read(|keyspaces| self.view(keyspaces).count(range))
    }

    /// The keys at this moment.
    fn view(&self, keyspaces: &Arc<Keyspaces>) -> View {
        // An entry that the snapshot shows, and that is replaced later, has expired
        // only if it was not pinned at the time of the snapshot.
        let look = || (keyspaces.keys.snapshot(), Time::now());
        let (pins, (snapshot, now)) = self.pins.with(look);
        View { snapshot, keyspaces: Arc::clone(keyspaces), now, pins }
    }
}

/// The entry under `key` at the last moment, expired or not.
fn entry_now(keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
    let snapshot = keyspaces.keys.snapshot();
    entry_by(keyspaces, key, |keyspace, key| snapshot.get(keyspace, key))
}
