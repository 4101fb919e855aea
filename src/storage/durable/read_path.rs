//! Reads: a look in memory, or wherever the entry is.
//!
//! A large record that expires is in a keyspace of its own, and two looks find it.
//! Both are never changed at one moment, so a look that finds a reference, and no
//! record, is taken again.

use super::expiry;
use super::generation::Keyspaces;
use super::pins::Pins;
use crate::storage::record;
use crate::storage::{Entry, Error, Key};
use bytes::Bytes;
use std::sync::{Arc, PoisonError, RwLock};

/// How often the record of one reference is looked for.
const LOOKS_MAX: u32 = 8;

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

    /// The entry under `key` in these keyspaces.
    fn entry(&self, keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
        let mut found = entry_in(keyspaces, key)?;
        while let Some(entry) = &found
            && !self.pins.lives(key, entry)
        {
            // It has expired, unless a change that was decided before has been
            // committed since it was found, to other keyspaces perhaps.
            let expiry = entry.expiry();
            found = entry_in(&self.keyspaces(), key)?.filter(|entry| entry.expiry() != expiry);
        }
        Ok(found)
    }

    /// The entry under `key`. Blocks as long as the disk does.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        loop {
            let keyspaces = self.keyspaces();
            let found = self.entry(&keyspaces, key);
            // A file may be gone if the database was opened anew meanwhile.
            if found.is_ok() || Arc::ptr_eq(&keyspaces, &self.keyspaces()) {
                return found;
            }
        }
    }

    /// The entry under `key` if a look in the active memtable shows it: written
    /// last, small, without an expiry, for that needs another look. Never blocks.
    pub fn get_in_memory(&self, key: &Key) -> Option<Entry> {
        let record = self.keyspaces().keys.get_in_memtable(key.as_str().as_bytes())?;
        if record.len() > READ_AT_ONCE_BYTES_MAX {
            return None;
        }
        record::decode(record).ok().filter(|entry| entry.expiry().is_none())
    }
}

/// The entry under `key`, expired or not.
pub fn entry_in(keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
    let unreadable = |err| unreadable(key, err);
    let Keyspaces { keys, expiring } = keyspaces;
    let (mut missed, mut tries) = (None, 0);
    while let Some(record) = keys.get(key.as_str()).map_err(unreadable)? {
        let Some(expiry) = record::referred(&record) else {
            return entry_of(key, record).map(Some);
        };
        let found = expiring.get(expiry::index_entry(expiry, key)).map_err(unreadable)?;
        if let Some(record) = found {
            return entry_of(key, record).map(Some);
        }
        // Another has taken its place meanwhile, and the next look finds that.
        tries = if missed == Some(expiry) { tries + 1 } else { 1 };
        if tries == LOOKS_MAX {
            return Err(self::unreadable(key, record::Error::Missing));
        }
        missed = Some(expiry);
    }
    Ok(None)
}

/// The entry of a record that was found under `key`.
pub fn entry_of(key: &Key, record: Bytes) -> Result<Entry, Error> {
    record::decode(record).map_err(|err| unreadable(key, err))
}

fn unreadable(key: &Key, err: impl std::error::Error + Send + Sync + 'static) -> Error {
    log::error!("{:?} cannot be read: {err}", key.as_str());
    Error::Internal(Arc::new(err))
}
