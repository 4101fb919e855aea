//! Looks for the entry under a key.
//!
//! A large record that expires is in a keyspace of its own, and two looks find it.
//! Plain ones are never of one moment, so a look that finds a reference, and no
//! record, is taken again.

use super::expiry;
use super::generation::Keyspaces;
use super::tree::{self, Keyspace};
use crate::storage::{Entry, Error, Key, record};
use bytes::Bytes;
use std::sync::Arc;

/// The most looks for the record of one reference.
const LOOKS_MAX: u32 = 8;

/// The entry under `key`, expired or not.
pub fn entry_in(keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
    entry_by(keyspaces, key, |keyspace, key| keyspace.get(key))
}

/// The same by some way to look.
pub fn entry_by(
    keyspaces: &Keyspaces,
    key: &Key,
    look: impl Fn(&Keyspace, &[u8]) -> tree::Result<Option<Bytes>>,
) -> Result<Option<Entry>, Error> {
    let unreadable = |err| unreadable(key, err);
    let Keyspaces { keys, expiring, .. } = keyspaces;
    let (mut missed, mut tries) = (None, 0);
    while let Some(record) = look(keys, key.as_str().as_bytes()).map_err(unreadable)? {
        let Some(expiry) = record::referred(&record) else {
            return entry_of(key, record).map(Some);
        };
        let found = look(expiring, &expiry::index_entry(expiry, key)).map_err(unreadable)?;
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

/// The error of a record under `key`, which is logged.
pub fn unreadable(key: &Key, err: impl std::error::Error + Send + Sync + 'static) -> Error {
    log::error!("{:?} cannot be read: {err}", key.as_str());
    Error::Internal(Arc::new(err))
}
