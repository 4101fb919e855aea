//! A draft: changes that were decided and are not committed yet.

use crate::storage::durable::lookup::entry_of;
use crate::storage::{Effect, Entry, Error, Event, Key, Time};
use bytes::Bytes;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashSet};
use std::mem;

/// A record to be written, or `None` to delete the key.
pub type Record = Option<Bytes>;

/// Changes that are not committed yet.
#[derive(Default)]
pub struct Draft {
    /// The last record of each changed key.
    pub records: BTreeMap<Key, Drafted>,
    /// Earlier changes of these keys, with their places.
    overtaken: Vec<(usize, Event, Key)>,
    /// Keys that a batch was decided on and leaves as they are.
    kept: HashSet<Key>,
    /// The place behind all records.
    end: usize,
    /// The bytes of all keys and records.
    pub bytes: usize,
    /// The bytes of the values that decisions were made on, held until the outcome is told.
    seen_bytes: usize,
}

/// A record of a draft.
pub struct Drafted {
    pub record: Record,
    /// Its place among all that were put there.
    place: usize,
}

impl Drafted {
    pub fn is_stored(&self) -> bool {
        self.record.is_some()
    }

    fn event(&self) -> Event {
        if self.is_stored() { Event::Put } else { Event::Delete }
    }
}

impl Draft {
    /// Returns true for a key that it changes, or that a batch of it was decided on.
    pub fn depends_on(&self, key: &Key) -> bool {
        self.records.contains_key(key) || self.kept.contains(key)
    }

    /// The keys under which something is stored, each with the bytes of that.
    pub fn stored(&self) -> impl Iterator<Item = (&str, usize)> {
        self.records.iter().filter_map(|(key, drafted)| {
            let record = drafted.record.as_ref()?;
            Some((key.as_str(), bytes_of(key, Some(record))))
        })
    }

    /// The changes in the order in which they were made.
    pub fn events(&self) -> impl Iterator<Item = (Event, &str)> {
        let last = self.records.iter().map(|(key, last)| (last.place, last.event(), key));
        let overtaken = self.overtaken.iter().map(|(place, event, key)| (*place, *event, key));
        let mut events: Vec<_> = last.chain(overtaken).collect();
        events.sort_unstable_by_key(|(place, ..)| *place);
        events.into_iter().map(|(_, event, key)| (event, key.as_str()))
    }

    /// The entry under `key`, if that was changed.
    pub fn entry(&self, key: &Key) -> Option<Result<Option<Entry>, Error>> {
        let record = self.records.get(key)?.record.clone();
        let entry = record.map(|record| entry_of(key, record)).transpose();
        // No reader has seen this one, so none sees it come back.
        Some(entry.map(|entry| entry.filter(|entry| entry.lives(Time::now))))
    }

    /// Puts a record behind all others.
    pub fn put(&mut self, key: Key, record: Record) {
        self.put_at(self.end, key, record);
    }

    /// Puts a record in a place.
    fn put_at(&mut self, place: usize, key: Key, record: Record) {
        self.end = self.end.max(place + 1);
        self.bytes += bytes_of(&key, record.as_ref());
        match self.records.entry(key) {
            Vacant(vacant) => drop(vacant.insert(Drafted { record, place })),
            Occupied(mut occupied) => {
                let last = mem::replace(occupied.get_mut(), Drafted { record, place });
                let key = occupied.key();
                self.bytes -= bytes_of(key, last.record.as_ref());
                self.overtaken.push((last.place, last.event(), key.clone()));
            }
        }
    }

    /// The keys under which something was stored that is deleted again.
    pub fn stored_and_deleted(&self) -> Vec<Key> {
        let is_deleted = |key: &&Key| self.records.get(*key).is_some_and(|last| !last.is_stored());
        let overtaken = self.overtaken.iter().map(|(_, _, key)| key);
        overtaken.filter(is_deleted).cloned().collect()
    }

    /// Leaves a key as it is, under which it stores nothing.
    pub fn forget_change(&mut self, key: &Key) {
        if let Some((key, last)) = self.records.remove_entry(key) {
            self.bytes -= bytes_of(&key, last.record.as_ref());
            self.kept.insert(key);
        }
    }

    /// Notes a key that was decided on and stays as it is.
    pub fn keep(&mut self, key: Key) {
        self.kept.insert(key);
    }

    /// Takes over the changes of a batch, behind its own.
    pub fn merge(&mut self, batch: Self) {
        self.seen_bytes += batch.seen_bytes;
        self.kept.extend(batch.kept);
        let end = self.end;
        for (key, Drafted { record, place }) in batch.records {
            self.put_at(end + place, key, record);
        }
    }

    /// The bytes that it holds in memory, about.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.seen_bytes
    }

    /// Forgets what would be changed, and why.
    pub fn forget_changes(&mut self) {
        (self.records, self.bytes) = (BTreeMap::new(), 0);
        self.kept.clear();
    }

    /// Notes the value that an effect holds.
    pub fn see(&mut self, effect: &Effect) {
        let updated = match effect {
            Effect::Updated(updated) => updated,
            Effect::UpdatedFirst(Some(first)) => &first.1,
            Effect::Found(_)
            | Effect::Done
            | Effect::Batch(_)
            | Effect::UpdatedFirst(None)
            | Effect::Listed(_)
            | Effect::Counted(..) => return,
        };
        self.seen_bytes += updated.before.as_ref().map_or(0, |before| before.value().len());
    }
}

/// The bytes of a change.
pub fn bytes_of(key: &Key, record: Option<&Bytes>) -> usize {
    key.as_str().len() + record.map_or(0, Bytes::len)
}
