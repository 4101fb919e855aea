//! Which keys expire when: an index among the keys themselves.
//!
//! ```text
//! 0xff 'e'  expiry: u64, big-endian  key    nothing: in order of time
//! 0xff 'x'  key                             expiry: u64: where to find that
//! ```
//!
//! Keys are UTF-8, so none looks like this. Both are written and removed in one
//! batch with the record that they are for.

use super::generation::Generation;
use crate::storage::{Key, Time};
use fjall::{Database, Keyspace, OwnedWriteBatch as WriteBatch, PersistMode};
use std::time::{Duration, Instant};

const PREFIX: [u8; 2] = [0xff, b'e'];
const KEY_PREFIX: [u8; 2] = [0xff, b'x'];

/// How many keys one step looks at, which others wait for.
const STEP_KEYS_MAX: usize = 256;

/// How long after a step that has found all there was comes the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// The same after one that has not: others may come in between.
const INTERVAL_BUSY: Duration = Duration::from_millis(2);

/// The index's entry for a key, in order of time.
fn index_entry(expiry: Time, key: &Key) -> Vec<u8> {
    [&index_from(expiry), key.as_str().as_bytes()].concat()
}

/// Where the entries of a moment begin.
fn index_from(expiry: Time) -> Vec<u8> {
    [&PREFIX[..], &expiry.to_bits().to_be_bytes()].concat()
}

/// Where they end.
fn index_behind(expiry: Time) -> Vec<u8> {
    index_from(expiry.after(Duration::from_millis(1)))
}

/// The expiry and the key that an entry names.
fn parse(index_entry: &[u8]) -> Option<(Time, &[u8])> {
    let (expiry, key) = index_entry.strip_prefix(&PREFIX)?.split_first_chunk()?;
    Some((Time::from_bits(u64::from_be_bytes(*expiry)), key))
}

/// Where the expiry of a key is.
fn expiry_of(key: &[u8]) -> Vec<u8> {
    [&KEY_PREFIX[..], key].concat()
}

/// When a key expires, as the index has it.
fn found(keyspace: &Keyspace, expiry_of: &[u8]) -> Option<Time> {
    match keyspace.get(expiry_of) {
        Ok(bits) => Some(Time::from_bits(u64::from_be_bytes(*bits?.first_chunk()?))),
        Err(err) => {
            log::error!("the index of what expires cannot be read: {err}");
            None
        }
    }
}

/// Removes what has expired, a little at a time.
pub(super) struct Sweep {
    next: Instant,
    /// Nothing is left of the index before this; to look there again would
    /// mean to pass all that was removed.
    from: Vec<u8>,
    /// Nothing was ever put into the index.
    is_unused: bool,
    /// The last step has not found the end.
    has_more: bool,
}

impl Sweep {
    /// A sweep of a keyspace that is empty, or of this one.
    pub(super) fn new(keyspace: Option<&Keyspace>) -> Self {
        let is_unused = keyspace.is_none_or(|it| it.prefix(KEY_PREFIX).next().is_none());
        Self { next: Instant::now(), from: PREFIX.to_vec(), is_unused, has_more: false }
    }

    /// Whether the last step has left some for the next.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether anything has expired by a moment and was not removed.
    pub(super) fn has_expired(&self, keyspace: &Keyspace, until: Time) -> bool {
        let until = index_behind(until);
        self.from < until && keyspace.range(self.from.clone()..until).next().is_some()
    }

    /// How long it is until the next step.
    pub(super) fn due_in(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Has a batch note when a key expires that it writes, or that it does not.
    pub(super) fn note(
        &mut self,
        batch: &mut WriteBatch,
        keyspace: &Keyspace,
        key: &Key,
        expiry: Option<Time>,
    ) {
        if expiry.is_none() && self.is_unused {
            return;
        }
        let expiry_of = expiry_of(key.as_str().as_bytes());
        let before = found(keyspace, &expiry_of);
        if before == expiry {
            return;
        }
        if let Some(before) = before {
            batch.remove(keyspace, index_entry(before, key));
        }
        let Some(expiry) = expiry else { return batch.remove(keyspace, expiry_of) };
        let index_entry = index_entry(expiry, key);
        if index_entry < self.from {
            self.from.clone_from(&index_entry);
        }
        self.is_unused = false;
        batch.insert(keyspace, index_entry, []);
        batch.insert(keyspace, expiry_of, expiry.to_bits().to_be_bytes());
    }

    /// Removes some of what has expired by now. Says how many keys that were.
    /// Nothing is synced: what comes back after a crash is swept again.
    pub(super) fn step(
        &mut self,
        database: &Database,
        generation: &Generation,
        now: Time,
    ) -> fjall::Result<usize> {
        let keyspace = generation.keyspace();
        let mut batch = generation.batch(database, PersistMode::Buffer);
        let (mut looked_at, mut removed) = (0, 0);
        let until = index_behind(now);
        for entry in keyspace.range(self.from.clone()..until).take(STEP_KEYS_MAX) {
            let entry = match entry.key() {
                Ok(entry) => entry,
                Err(err) => {
                    log::error!("the index of what expires cannot be read: {err}");
                    break;
                }
            };
            looked_at += 1;
            if let Some((expiry, key)) = parse(&entry) {
                let expiry_of = expiry_of(key);
                if found(keyspace, &expiry_of) == Some(expiry) {
                    batch.remove(keyspace, key);
                    batch.remove(keyspace, expiry_of);
                    removed += 1;
                }
            }
            self.from = entry.to_vec();
            batch.remove(keyspace, entry);
        }
        if looked_at > 0 {
            batch.commit()?;
        }
        self.has_more = looked_at == STEP_KEYS_MAX;
        self.next = Instant::now() + if self.has_more { INTERVAL_BUSY } else { INTERVAL };
        Ok(removed)
    }
}

#[cfg(test)]
mod tests;
