//! A batch: changes to keys that are committed together, each decided on the
//! outcome of those before it.

use super::generation::Keyspaces;
use super::pins::Pins;
use super::read_path::{entry_in, entry_of};
use crate::storage::waiter::Waiter;
use crate::storage::{Change, Decision, Effect, Entry, Error, Key, Time, Updated, record};
use bytes::Bytes;
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};

/// An operation on a key.
pub enum WriteOp {
    Put(Record),
    /// A change decides, from the entry under the key.
    Decide(Change),
}

/// Changes, and the writes that wait for them.
pub struct Batch {
    /// When it was begun. Entries that decisions were made on expire later.
    pub begun: Time,
    /// The last record of each changed key; `None` deletes it.
    pub changes: HashMap<Key, Record>,
    /// The bytes of all keys and records.
    pub bytes: usize,
    /// The values that decisions were made on, held until the outcome is told.
    seen_bytes: usize,
    pub waiters: Waiters,
}

/// A record to be written, or `None` to delete the key.
pub type Record = Option<Bytes>;

/// The writes of a batch that wait for their outcome, with their effects.
pub type Waiters = Vec<(Waiter, Effect)>;

/// The outcome of an operation.
pub enum Decided {
    /// Nothing is written, but the entry that was seen may be of this batch.
    Keep(Updated),
    Write(Record, Effect),
}

impl WriteOp {
    /// Stores an entry, which is dropped: it would be held twice meanwhile.
    pub fn set(entry: Entry) -> Self {
        let record = record::encode(&entry);
        drop(entry);
        Self::Put(Some(record.into()))
    }
}

impl Batch {
    pub fn begin() -> Self {
        let (changes, waiters) = (HashMap::new(), Waiters::new());
        Self { begun: Time::now(), changes, bytes: 0, seen_bytes: 0, waiters }
    }

    /// The bytes that it holds in memory, about.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.seen_bytes
    }

    /// Decides an operation on a key, from the batch's own change to it or else from
    /// the entry in the keyspaces, which is pinned then.
    pub fn decide(
        &self,
        keyspaces: &Keyspaces,
        pins: &Pins,
        key: &Key,
        op: WriteOp,
    ) -> Result<Decided, Error> {
        let mut change = match op {
            WriteOp::Put(record) => return Ok(Decided::Write(record, Effect::Done)),
            WriteOp::Decide(change) => change,
        };
        let before = match self.changes.get(key) {
            Some(record) => {
                let changed = record.clone().map(|record| entry_of(key, record)).transpose()?;
                // No reader has seen this one, so none sees it come back.
                changed.filter(|entry| entry.lives(Time::now))
            }
            None => entry_in(keyspaces, key)?.filter(|entry| pins.pin(key, entry)),
        };
        let decision = panic::catch_unwind(AssertUnwindSafe(|| change(before.as_ref())))
            .map_err(|_panic| Error::internal("what becomes of a key could not be decided"))?;
        Ok(match decision {
            Decision::Remove if before.is_some() => {
                Decided::Write(None, Effect::Updated(Updated { before, after: None }.into()))
            }
            Decision::Keep | Decision::Remove => {
                Decided::Keep(Updated { after: before.clone(), before })
            }
            Decision::Replace(entry) => {
                let record = Some(record::encode(&entry).into());
                let updated = Updated { before, after: Some(entry) };
                Decided::Write(record, Effect::Updated(updated.into()))
            }
        })
    }

    /// Adds a decision; the waiter is told once the batch is committed.
    pub fn add(&mut self, key: Key, decided: Decided, waiter: Waiter) {
        let effect = match decided {
            Decided::Keep(updated) => Effect::Updated(updated.into()),
            Decided::Write(record, effect) => {
                self.bytes += bytes(&key, record.as_ref());
                let key_bytes = key.as_str().len();
                if let Some(replaced) = self.changes.insert(key, record) {
                    self.bytes -= key_bytes + replaced.map_or(0, |record| record.len());
                }
                effect
            }
        };
        if let Effect::Updated(updated) = &effect
            && let Some(before) = &updated.before
        {
            self.seen_bytes += before.value().len();
        }
        self.waiters.push((waiter, effect));
    }
}

/// The bytes of a change.
pub fn bytes(key: &Key, record: Option<&Bytes>) -> usize {
    key.as_str().len() + record.map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many small requests that see a large value would hold it many times.
    #[test]
    fn what_was_seen_counts_as_held() {
        let entry = Entry::new(vec![b'x'; 1000].into());
        let updated = Updated { before: Some(entry.clone()), after: Some(entry) };
        let key = |text: &str| Key::new(text).expect("a key");
        let waiter = || Waiter::from(Box::new(|_| {}) as crate::storage::Done);
        let mut batch = Batch::begin();
        batch.add(key("kept"), Decided::Keep(updated.clone()), waiter());
        assert_eq!((batch.bytes, batch.held_bytes()), (0, 1000));
        batch.add(key("taken"), Decided::Write(None, Effect::Updated(updated.into())), waiter());
        assert_eq!((batch.bytes, batch.held_bytes()), (5, 2005));
    }
}
