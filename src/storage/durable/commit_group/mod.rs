//! A commit group: writes that are committed together, each decided on the outcome of
//! those before it.
//!
//! The operations of a batch are decided on a `draft` over the group's own, which is
//! merged whole or dropped. A change to the first key with a prefix walks along the keys
//! in the keyspaces and those of the group's draft side by side.

mod draft;

use super::firsts::{First, Firsts};
use super::generation::Keyspaces;
use super::lookup::entry_in;
use super::pins::Pins;
use super::walk::View;
use crate::storage::completion::Completion;
use crate::storage::{BatchOp, Change, Decision, Effect, Entry, Error, Key, Range, Time};
use crate::storage::{Updated, record};
pub use draft::Draft;
use draft::{Drafted, Record, bytes_of};
use std::collections::HashMap;
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

/// The operation of a write.
pub enum WriteOp {
    One(Key, KeyOp),
    /// All take effect at one moment, or none does.
    Batch(Vec<(Key, KeyOp)>),
    /// A change of the first key with a prefix.
    First(Box<str>, Change),
}

/// An operation on a key.
pub enum KeyOp {
    Put(Record),
    /// A change decides, from the entry under the key.
    Decide(Change),
}

/// The writes that wait for their outcome, with their effects.
pub type Completions = Vec<(Completion, Effect)>;

/// The committed state that decisions are made on, beneath a draft.
#[derive(Clone, Copy)]
pub struct Committed<'a> {
    pub keyspaces: &'a Arc<Keyspaces>,
    pub pins: &'a Pins,
}

/// Writes and their changes.
pub struct CommitGroup {
    /// The time at which it was begun. Entries that decisions were made on expire later.
    pub begun: Time,
    pub draft: Draft,
    /// The number of operations that were decided.
    pub ops: usize,
    pub completions: Completions,
}

/// The outcome of a write that is not of the group yet.
pub struct Decided {
    changes: Changes,
    effect: Effect,
}

enum Changes {
    /// The entry that was seen may be of the group, though.
    Nothing,
    One(Key, Record),
    Batch(Draft),
}

/// The fate of a key.
enum Fate {
    Kept,
    Written(Record),
    Refused,
}

impl KeyOp {
    /// Stores an entry, which is dropped: it would be held twice meanwhile.
    pub fn set(entry: Entry) -> Self {
        let record = record::encode(&entry);
        drop(entry);
        Self::Put(Some(record.into()))
    }
}

impl From<BatchOp> for KeyOp {
    fn from(op: BatchOp) -> Self {
        match op {
            BatchOp::Set(entry) => Self::set(entry),
            BatchOp::Delete => Self::Put(None),
            BatchOp::Remove => Self::Decide(BatchOp::removal()),
            BatchOp::Update(change) => Self::Decide(change),
        }
    }
}

impl Decided {
    /// Returns true for a key that it may have been decided on, and that has to be as it was
    /// until it takes effect.
    pub fn depends_on(&self, key: &Key) -> bool {
        match (&self.changes, &self.effect) {
            // To store or delete something takes no look at what is there.
            (Changes::Nothing, _) | (Changes::One(..), Effect::Done) => false,
            (Changes::One(own, _), _) => own == key,
            (Changes::Batch(draft), _) => draft.depends_on(key),
        }
    }

    /// The bytes of its keys and records, unless it makes the store no larger.
    pub fn growth_bytes(&self) -> Option<usize> {
        match &self.changes {
            Changes::One(key, Some(record)) => Some(bytes_of(key, Some(record))),
            Changes::Batch(draft) if draft.records.values().any(Drafted::is_stored) => {
                Some(draft.bytes)
            }
            Changes::Nothing | Changes::One(_, None) | Changes::Batch(_) => None,
        }
    }
}

impl CommitGroup {
    pub fn begin() -> Self {
        let (draft, completions) = (Draft::default(), Completions::new());
        Self { begun: Time::now(), draft, ops: 0, completions }
    }

    /// The bytes that it holds in memory, about.
    pub fn held_bytes(&self) -> usize {
        self.draft.held_bytes()
    }

    /// Decides a write.
    pub fn decide(
        &self,
        committed: Committed<'_>,
        firsts: &mut Firsts,
        op: WriteOp,
    ) -> Result<Decided, Error> {
        match op {
            WriteOp::One(key, op) => {
                let (fate, effect) = self.decide_one(committed, None, &key, op)?;
                let changes = match fate {
                    Fate::Written(record) => Changes::One(key, record),
                    Fate::Kept | Fate::Refused => Changes::Nothing,
                };
                Ok(Decided { changes, effect })
            }
            WriteOp::Batch(ops) => self.decide_batch(committed, ops),
            WriteOp::First(prefix, change) => self.decide_first(committed, firsts, &prefix, change),
        }
    }

    fn decide_batch(
        &self,
        committed: Committed<'_>,
        ops: Vec<(Key, KeyOp)>,
    ) -> Result<Decided, Error> {
        let mut effects = Vec::with_capacity(ops.len());
        let mut draft = Draft::default();
        for (key, op) in ops {
            let (fate, effect) = self.decide_one(committed, Some(&draft), &key, op)?;
            draft.see(&effect);
            effects.push(effect);
            match fate {
                Fate::Kept => draft.keep(key),
                Fate::Written(record) => draft.put(key, record),
                Fate::Refused => {
                    draft.forget_changes();
                    break;
                }
            }
        }
        let is_new = |key: &&Key| !self.has(committed, None, key);
        for key in draft.stored_and_deleted().iter().filter(is_new) {
            draft.forget_change(key);
        }
        Ok(Decided { changes: Changes::Batch(draft), effect: Effect::Batch(effects) })
    }

    fn decide_one(
        &self,
        committed: Committed<'_>,
        draft: Option<&Draft>,
        key: &Key,
        op: KeyOp,
    ) -> Result<(Fate, Effect), Error> {
        let change = match op {
            KeyOp::Put(None) if !self.has(committed, draft, key) => {
                return Ok((Fate::Kept, Effect::Done));
            }
            KeyOp::Put(record) => return Ok((Fate::Written(record), Effect::Done)),
            KeyOp::Decide(change) => change,
        };
        let drafted = draft.and_then(|draft| draft.entry(key));
        let before = match drafted {
            Some(entry) => entry?,
            None => self.entry(committed, key)?,
        };
        let (fate, updated) = decide(before, change)?;
        Ok((fate, Effect::Updated(updated.into())))
    }

    /// Returns true if there is a record under a key, expired or not, or one that cannot be
    /// read: to delete another changes nothing.
    fn has(&self, committed: Committed<'_>, draft: Option<&Draft>, key: &Key) -> bool {
        let drafts = draft.into_iter().chain([&self.draft]);
        let drafted = drafts.into_iter().find_map(|draft| draft.records.get(key));
        match drafted {
            Some(drafted) => drafted.is_stored(),
            None => committed.keyspaces.keys.has(key.as_str().as_bytes()).unwrap_or(true),
        }
    }

    /// The entry under a key, of the group or else of the keyspaces, where it is pinned
    /// then.
    fn entry(&self, committed: Committed<'_>, key: &Key) -> Result<Option<Entry>, Error> {
        let Committed { keyspaces, pins } = committed;
        match self.draft.entry(key) {
            Some(entry) => entry,
            None => Ok(entry_in(keyspaces, key)?.filter(|entry| pins.pin(key, entry))),
        }
    }

    fn decide_first(
        &self,
        committed: Committed<'_>,
        firsts: &mut Firsts,
        prefix: &str,
        change: Change,
    ) -> Result<Decided, Error> {
        let first = self.first(committed, firsts.of(prefix), prefix)?;
        firsts.note(prefix, first.as_ref().map(|(key, _)| key));
        let Some((key, before)) = first else {
            return Ok(Decided { changes: Changes::Nothing, effect: Effect::UpdatedFirst(None) });
        };
        let (fate, updated) = decide(Some(before), change)?;
        let effect = Effect::UpdatedFirst(Some((key.clone(), updated).into()));
        let changes = match fate {
            Fate::Written(record) => Changes::One(key, record),
            Fate::Kept | Fate::Refused => Changes::Nothing,
        };
        Ok(Decided { changes, effect })
    }

    /// The first key with a prefix and its entry, which is pinned.
    fn first(
        &self,
        committed: Committed<'_>,
        from: First,
        prefix: &str,
    ) -> Result<Option<(Key, Entry)>, Error> {
        let from = match from {
            First::Unknown => Key::new(prefix).ok(),
            First::From(key) => Some(key),
            First::Nowhere => return Ok(None),
        };
        let range = Range { prefix: prefix.into(), ..Range::default() };
        let Some((mut lower, upper)) = range.bounds() else { return Ok(None) };
        if let Some(from) = &from {
            lower = Bound::Included(from.as_str().as_bytes().to_vec());
        }
        let keyspaces = Arc::clone(committed.keyspaces);
        let snapshot = keyspaces.keys.snapshot();
        let view = View { snapshot, keyspaces, now: Time::now(), pins: HashMap::new() };
        let mut walk = view.walk((lower, upper), false, true);
        let mut stored = walk.next_living()?;

        let own = (from.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded);
        let own = self.draft.records.range(own).map(|(key, _)| key);
        let mut own = own.take_while(|key| key.as_str().starts_with(prefix)).peekable();
        while let Some(key) = own.peek().copied().into_iter().chain(&stored).min().cloned() {
            own.next_if(|own| **own == key);
            if stored.as_ref() == Some(&key) {
                stored = walk.next_living()?;
            }
            if let Some(entry) = self.entry(committed, &key)? {
                return Ok(Some((key, entry)));
            }
        }
        Ok(None)
    }

    /// Adds a write, which is completed once the group is committed.
    pub fn add(&mut self, decided: Decided, firsts: &mut Firsts, completion: Completion) {
        let Decided { changes, effect } = decided;
        self.ops += if let Effect::Batch(effects) = &effect { effects.len() } else { 1 };
        self.draft.see(&effect);
        match changes {
            Changes::Nothing => {}
            Changes::One(key, record) => {
                if record.is_some() {
                    firsts.put(&key);
                }
                self.draft.put(key, record);
            }
            Changes::Batch(draft) => {
                let stored = draft.records.iter().filter(|(_, drafted)| drafted.is_stored());
                stored.for_each(|(key, _)| firsts.put(key));
                self.draft.merge(draft);
            }
        }
        self.completions.push((completion, effect));
    }
}

/// Decides on an entry.
fn decide(before: Option<Entry>, mut change: Change) -> Result<(Fate, Updated), Error> {
    let decision = panic::catch_unwind(AssertUnwindSafe(|| change(before.as_ref())))
        .map_err(|_panic| Error::internal("what becomes of a key could not be decided"))?;
    let (fate, after) = match decision {
        Decision::Remove if before.is_some() => (Fate::Written(None), None),
        Decision::Keep | Decision::Remove => (Fate::Kept, before.clone()),
        Decision::Refuse => (Fate::Refused, before.clone()),
        Decision::Replace(entry) => {
            (Fate::Written(Some(record::encode(&entry).into())), Some(entry))
        }
    };
    Ok((fate, Updated { before, after }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Event;
    use bytes::Bytes;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn completion() -> Completion {
        Completion::from(Box::new(|_| {}) as crate::storage::Done)
    }

    /// Many small requests that see a large value would hold it many times.
    #[test]
    fn what_was_seen_counts_as_held() {
        let entry = Entry::new(vec![b'x'; 1000].into());
        let updated = Updated { before: Some(entry.clone()), after: Some(entry) };
        let (mut group, mut firsts) = (CommitGroup::begin(), Firsts::default());
        let effect = || Effect::Updated(updated.clone().into());
        let kept = Decided { changes: Changes::Nothing, effect: effect() };
        group.add(kept, &mut firsts, completion());
        assert_eq!((group.draft.bytes, group.held_bytes()), (0, 1000));
        let taken = Decided { changes: Changes::One(key("taken"), None), effect: effect() };
        group.add(taken, &mut firsts, completion());
        assert_eq!((group.draft.bytes, group.held_bytes()), (5, 2005));
        let first = Effect::UpdatedFirst(Some((key("first"), updated.clone()).into()));
        let first = Decided { changes: Changes::One(key("first"), None), effect: first };
        group.add(first, &mut firsts, completion());
        assert_eq!((group.draft.bytes, group.held_bytes()), (10, 3010));
        let mut draft = Draft::default();
        draft.see(&effect());
        draft.put(key("new"), Some(Bytes::from_static(b"record")));
        let batch = Decided { changes: Changes::Batch(draft), effect: Effect::Batch(Vec::new()) };
        group.add(batch, &mut firsts, completion());
        assert_eq!((group.draft.bytes, group.held_bytes()), (19, 4019));
    }

    /// Else the old value of a large key would stand in the way of its new one.
    #[test]
    fn a_write_depends_on_what_it_was_decided_on() {
        let one = || Changes::One(key("one"), Some(Bytes::from_static(b"record")));
        let put = Decided { changes: one(), effect: Effect::Done };
        assert!(!put.depends_on(&key("one")));
        let effect = Effect::Updated(Updated { before: None, after: None }.into());
        let conditional = Decided { changes: one(), effect };
        assert!(conditional.depends_on(&key("one")));
        assert!(!conditional.depends_on(&key("other")));
        let mut draft = Draft::default();
        draft.put(key("one"), None);
        draft.keep(key("read"));
        let batch = Decided { changes: Changes::Batch(draft), effect: Effect::Batch(Vec::new()) };
        let (mut group, mut firsts) = (CommitGroup::begin(), Firsts::default());
        for (text, depends) in [("one", true), ("read", true), ("other", false)] {
            assert_eq!(batch.depends_on(&key(text)), depends, "{text}");
        }
        // So it is until the group is committed.
        group.add(batch, &mut firsts, completion());
        assert!(group.draft.depends_on(&key("read")));
    }

    #[test]
    fn the_events_of_a_batch_follow_each_other() {
        let (mut group, mut firsts) = (CommitGroup::begin(), Firsts::default());
        let record = || Some(Bytes::from_static(b"record"));
        let mut add = |changes| {
            group.add(Decided { changes, effect: Effect::Done }, &mut firsts, completion());
        };
        let batch = |texts: &[&str]| {
            let mut draft = Draft::default();
            for text in texts {
                draft.put(key(text), record());
            }
            Changes::Batch(draft)
        };
        add(Changes::One(key("m"), record()));
        add(batch(&["z", "a", "y", "a"]));
        add(Changes::One(key("b"), None));
        add(batch(&["x", "y"]));
        add(Changes::One(key("m"), None));
        let events: Vec<_> = group.draft.events().collect();
        let (put, delete) = (Event::Put, Event::Delete);
        // Of a key that a batch has twice nobody sees the first change.
        let first = [(put, "m"), (put, "z"), (put, "y"), (put, "a"), (delete, "b")];
        assert_eq!(events, [&first[..], &[(put, "x"), (put, "y"), (delete, "m")]].concat());
    }
}
