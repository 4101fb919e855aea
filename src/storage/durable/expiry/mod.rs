//! The index of keys that expire, and the sweep that removes them.
//!
//! ```text
//! among the keys:
//! key                             a small record, or a reference to a large one
//! 0xff 'e'  expiry: u64, big-endian  key    nothing: in order of time
//! 0xff 'x'  key                   expiry: u64, and 1 if the record is large
//! 0xff 'c'                        the clocks, as they were read last
//!
//! in the keyspace of large records that expire:
//! 0xff 'e'  expiry  key           a large record, in order of time
//! ```
//!
//! Keys are UTF-8, so none looks like these. All are written and removed in one
//! batch. Records that expire together are together in the second keyspace, whatever
//! their keys are, and so are their deletions: to merge them takes little time and
//! no space, while records among the keys give their space back only as most of the
//! keys are merged.

use super::generation::{Generation, Keyspaces};
use super::tree::{Database, Keyspace, Result, WriteBatch};
use crate::storage::page::Bounds;
use crate::storage::time::Reading;
use crate::storage::{Changes, Event, Key, Time, record};
use bytes::Bytes;
use std::mem;
use std::ops::Bound;
use std::time::{Duration, Instant};

const PREFIX: [u8; 2] = [0xff, b'e'];
const KEY_PREFIX: [u8; 2] = [0xff, b'x'];
const KEY_PREFIX_END: [u8; 2] = [0xff, b'x' + 1];
const CLOCKS: [u8; 2] = [0xff, b'c'];

/// A record that expires is large from so many bytes on: that gains more than its
/// entries in the index take until they are gone.
const LARGE_BYTES_MIN: usize = 256;

/// The keys of one step, which writes wait for.
const STEP_KEYS_MAX: usize = 256;

/// The time to the next step after one that has reached the end.
const INTERVAL: Duration = Duration::from_secs(1);

/// The same after one that has not: writes come in between, and have at least twice
/// the time that the step took.
const INTERVAL_BUSY: Duration = Duration::from_millis(2);
const INTERVAL_BUSY_SHARE: u32 = 2;

/// How often the clocks are noted while something is written, if nobody sets
/// them.
const CLOCKS_INTERVAL: Duration = Duration::from_secs(10);

/// The bounds of the expiries of the keys within some bounds, for they are in the order
/// of their keys.
pub fn bounds_of_expiries((lower, upper): &Bounds) -> Bounds {
    let expiry_of = |bound: &Bound<Vec<u8>>| bound.as_ref().map(|key| expiry_of(key));
    let lower = match expiry_of(lower) {
        Bound::Unbounded => Bound::Included(KEY_PREFIX.to_vec()),
        bound @ (Bound::Included(_) | Bound::Excluded(_)) => bound,
    };
    let upper = match expiry_of(upper) {
        Bound::Unbounded => Bound::Excluded(KEY_PREFIX_END.to_vec()),
        bound @ (Bound::Included(_) | Bound::Excluded(_)) => bound,
    };
    (lower, upper)
}

/// The key of an item among the expiries.
pub fn key_of(expiry_of: &[u8]) -> &[u8] {
    expiry_of.strip_prefix(&KEY_PREFIX).unwrap_or_default()
}

/// The expiry in such an item's value.
pub fn expiry_in(value: &[u8]) -> Option<Time> {
    Due::parse(value).map(|due| due.expiry)
}

/// The clocks at the last note, if anything has ever expired here.
pub fn clocks_noted(keys: &Keyspace) -> Result<Option<Reading>> {
    Ok(keys.get(CLOCKS)?.and_then(|bytes| Reading::from_bytes(&bytes)))
}

/// The expiry of a key, if it has one.
pub fn found(keyspaces: &Keyspaces, key: &Key) -> Option<Time> {
    let is_there = keyspaces.has_index();
    let due = is_there.then(|| Due::found(&keyspaces.keys, &expiry_of(key.as_str().as_bytes())));
    due.flatten().map(|due| due.expiry)
}

/// The index's entry for a key, in order of time.
pub fn index_entry(expiry: Time, key: &Key) -> Vec<u8> {
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
pub fn parse(index_entry: &[u8]) -> Option<(Time, &[u8])> {
    let (expiry, key) = index_entry.strip_prefix(&PREFIX)?.split_first_chunk()?;
    Some((Time::from_bits(u64::from_be_bytes(*expiry)), key))
}

/// Where the expiry of a key is.
pub fn expiry_of(key: &[u8]) -> Vec<u8> {
    [&KEY_PREFIX[..], key].concat()
}

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    expiry: Time,
    /// The record is in the keyspace of large ones.
    is_large: bool,
}

impl Due {
    fn of(record: &[u8]) -> Option<Self> {
        let expiry = record::expiry(record)?;
        Some(Self { expiry, is_large: record.len() >= LARGE_BYTES_MIN })
    }

    /// The entry at a key's `expiry_of`.
    fn found(keys: &Keyspace, expiry_of: &[u8]) -> Option<Self> {
        let found = match keys.get(expiry_of) {
            Ok(found) => found?,
            Err(err) => {
                log::error!("the index of what expires cannot be read: {err}");
                return None;
            }
        };
        Self::parse(&found)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (bits, rest) = bytes.split_first_chunk()?;
        Some(Self { expiry: Time::from_bits(u64::from_be_bytes(*bits)), is_large: rest == [1] })
    }

    fn to_bytes(self) -> Vec<u8> {
        let is_large: &[u8] = if self.is_large { &[1] } else { &[] };
        [&self.expiry.to_bits().to_be_bytes(), is_large].concat()
    }
}

/// Numbers of keys that were written or deleted, and of those deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub changes: usize,
    pub deletions: usize,
}

/// The keys that a step of a sweep has removed, and those of them with large records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub keys: usize,
    pub large: usize,
}

/// Removes expired keys, a few at a time.
pub struct Sweep {
    next: Instant,
    /// The index is empty before this; to look there again would mean to pass all
    /// that was removed.
    from: Vec<u8>,
    /// The clocks at this process's last note.
    clocks: Option<Reading>,
    /// The last step has not reached the end.
    pub has_more: bool,
    /// The changes to the keyspace of large records.
    large: Tally,
}

impl Sweep {
    /// A sweep of a generation that nobody writes to yet.
    pub fn new(keyspaces: &Keyspaces) -> Self {
        keyspaces.note_index(keyspaces.keys.has_prefix(&KEY_PREFIX));
        Self {
            next: Instant::now(),
            from: PREFIX.to_vec(),
            clocks: None,
            has_more: false,
            large: Tally::default(),
        }
    }

    /// Returns true if anything is left that has expired by a moment.
    pub fn has_expired(&self, keyspace: &Keyspace, until: Time) -> bool {
        let until = index_behind(until);
        self.from < until && keyspace.keys(&self.from, &until).next().is_some()
    }

    /// Returns true if the clocks were set since the last note, or need a first one.
    pub fn has_clock_step(&self, keyspaces: &Keyspaces) -> bool {
        keyspaces.has_index() && self.clocks.is_none_or(|noted| noted.has_step_to(Reading::now()))
    }

    /// Has a batch note the clocks if something can expire by them, and the last note
    /// is old.
    pub fn note_clocks(&mut self, batch: &mut WriteBatch, keyspaces: &Keyspaces) {
        if !keyspaces.has_index() {
            return;
        }
        let now = Reading::now();
        let is_due = |noted: Reading| {
            noted.has_step_to(now) || noted.time().until(now.time()) >= CLOCKS_INTERVAL
        };
        if self.clocks.is_none_or(is_due) {
            batch.insert(&keyspaces.keys, CLOCKS, now.to_bytes());
            self.clocks = Some(now);
        }
    }

    /// The time to the next step.
    pub fn due_in(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Has the next step come later: this one has waited for so long in vain, and writes
    /// come in between.
    pub fn postpone(&mut self, waited: Duration) {
        self.next = Instant::now() + INTERVAL_BUSY.max(waited * INTERVAL_BUSY_SHARE);
    }

    /// Takes the changes to the keyspace of large records since the last call.
    pub fn take_large(&mut self) -> Tally {
        mem::take(&mut self.large)
    }

    /// Has a batch write a record under a key, or delete it, with its index. Gives the expiry
    /// of the large record that goes, if there is one.
    pub fn put(
        &mut self,
        batch: &mut WriteBatch,
        keyspaces: &Keyspaces,
        key: &Key,
        record: Option<Bytes>,
    ) -> Option<Time> {
        let Keyspaces { keys, expiring, .. } = keyspaces;
        let due = record.as_deref().and_then(Due::of);
        match (record, due) {
            (None, _) => batch.remove(keys, key.as_str()),
            (Some(record), Some(Due { expiry, is_large: true })) => {
                batch.insert(expiring, index_entry(expiry, key), record);
                batch.insert(keys, key.as_str(), record::reference(expiry));
                self.large.changes += 1;
            }
            (Some(record), _) => batch.insert(keys, key.as_str(), record),
        }
        let has_index = due.is_some() || keyspaces.has_index();
        let before = if has_index { self.note(batch, keyspaces, key, due) } else { None };
        before.filter(|before| before.is_large).map(|before| before.expiry)
    }

    /// Replaces a key's entry in the index, which it gives, and its large record if it had one.
    fn note(
        &mut self,
        batch: &mut WriteBatch,
        keyspaces: &Keyspaces,
        key: &Key,
        due: Option<Due>,
    ) -> Option<Due> {
        let Keyspaces { keys, expiring, .. } = keyspaces;
        let expiry_of = expiry_of(key.as_str().as_bytes());
        let before = Due::found(keys, &expiry_of);
        if before == due {
            return before;
        }
        if let Some(before) = before {
            let entry = index_entry(before.expiry, key);
            if due.is_none_or(|due| due.expiry != before.expiry) {
                batch.remove(keys, entry.clone());
            }
            if before.is_large {
                self.remove_large(batch, expiring, entry);
            }
        }
        let Some(due) = due else {
            batch.remove(keys, expiry_of);
            return before;
        };
        let entry = index_entry(due.expiry, key);
        if entry < self.from {
            self.from.clone_from(&entry);
        }
        keyspaces.note_index(true);
        batch.insert(keys, entry, []);
        batch.insert(keys, expiry_of, due.to_bytes());
        before
    }

    fn remove_large(&mut self, batch: &mut WriteBatch, expiring: &Keyspace, entry: Vec<u8>) {
        batch.remove(expiring, entry);
        self.large.changes += 1;
        self.large.deletions += 1;
    }

    /// Removes some of the keys that have expired by now, and tells the watchers.
    pub fn step(
        &mut self,
        database: &Database,
        generation: &Generation,
        changes: &Changes,
        now: Time,
    ) -> Result<Removed> {
        let begun = Instant::now();
        let (keys, expiring) = (generation.keys(), generation.expiring());
        let entries = self.next_entries(keys, now);
        let expired: Vec<&str> = entries.iter().filter_map(Swept::expired).collect();
        let large = entries.iter().filter(|it| it.due.is_some_and(|due| due.is_large)).count();
        if !entries.is_empty() {
            let revision = changes.revision_behind(expired.iter().copied());
            let mut batch = generation.batch(database, revision);
            for key in &expired {
                batch.remove(keys, *key);
                batch.remove(keys, expiry_of(key.as_bytes()));
            }
            for Swept { entry, due } in &entries {
                if due.is_some_and(|due| due.is_large) {
                    self.remove_large(&mut batch, expiring, entry.to_vec());
                }
                batch.remove(keys, entry.clone());
            }
            let invalidation = generation.keyspaces.cache.invalidate(expired.iter().copied());
            batch.commit()?;
            drop(invalidation);
            drop(changes.append_all(expired.iter().map(|key| (Event::Expire, *key))));
        }
        self.has_more = entries.len() == STEP_KEYS_MAX;
        let busy = INTERVAL_BUSY.max(begun.elapsed() * INTERVAL_BUSY_SHARE);
        self.next = Instant::now() + if self.has_more { busy } else { INTERVAL };
        Ok(Removed { keys: expired.len(), large })
    }

    /// The next entries of the index that are due, which are not looked at again.
    fn next_entries(&mut self, keys: &Keyspace, now: Time) -> Vec<Swept> {
        let mut entries = Vec::new();
        for entry in keys.keys(&self.from, &index_behind(now)).take(STEP_KEYS_MAX) {
            match entry {
                Ok(entry) => entries.push(Swept::new(entry, keys)),
                Err(err) => {
                    log::error!("the index of what expires cannot be read: {err}");
                    break;
                }
            }
        }
        if let Some(Swept { entry, .. }) = entries.last() {
            self.from = entry.to_vec();
        }
        entries
    }
}

/// An entry of the index to be removed.
struct Swept {
    entry: Bytes,
    /// Where its key has expired, and was not stored again since.
    due: Option<Due>,
}

impl Swept {
    fn new(entry: Bytes, keys: &Keyspace) -> Self {
        let due = parse(&entry).and_then(|(expiry, key)| {
            Due::found(keys, &expiry_of(key)).filter(|due| due.expiry == expiry)
        });
        Self { entry, due }
    }

    /// The key to be removed with it.
    fn expired(&self) -> Option<&str> {
        let (_, key) = self.due.and_then(|_| parse(&self.entry))?;
        str::from_utf8(key).ok()
    }
}

#[cfg(test)]
mod tests;
