//! Looks for the entry under a key.
//!
//! A large record that expires is in a keyspace of its own, and two looks find it: both at
//! one moment, or on the thread that writes.

use super::expiry;
use super::generation::Keyspaces;
use super::tree::{self, Keyspace};
use crate::storage::{Entry, Error, Key, record};
use bytes::Bytes;
use std::sync::Arc;

/// The entry under `key`, expired or not, for the thread that writes.
pub fn entry_in(keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
    entry_by(keyspaces, key, |keyspace, key| keyspace.get(key))
}

/// The same by some way to look, at one moment.
pub fn entry_by(
    keyspaces: &Keyspaces,
    key: &Key,
    look: impl Fn(&Keyspace, &[u8]) -> tree::Result<Option<Bytes>>,
) -> Result<Option<Entry>, Error> {
    let look = |keyspace, name: &[u8]| look(keyspace, name).map_err(|err| unreadable(key, err));
    let Keyspaces { keys, expiring, .. } = keyspaces;
    let Some(mut record) = look(keys, key.as_str().as_bytes())? else { return Ok(None) };
    if let Some(expiry) = record::referred(&record) {
        let large = look(expiring, &expiry::index_entry(expiry, key))?;
        record = large.ok_or_else(|| unreadable(key, record::Error::Missing))?;
    }
    entry_of(key, record).map(Some)
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
