//! Batches: several operations at one moment.
//!
//! As a single update does, a batch decides outside all locks, on entries that it has
//! read, and makes a draft for each key. Then it locks the maps of all keys. If the
//! entries are still the same it does what was decided, and unlocks no map before all
//! of it is done: whoever sees one key new sees all. Else it begins anew, and at last
//! decides under the locks. There is room for the whole of it, or nothing is done.

use super::account::Full;
use super::index::NewKeys;
use super::{Expected, Map, Maps, Memory, Pace, ROUNDS_MAX, Stored, Undone};
use super::{growth_max, write};
use crate::storage::{BatchOp, Change, Decision, Effect, Entry, Event, Key, Op, Updated};
use hashbrown::HashMap;
use std::hash::RandomState;
use std::mem;
use std::sync::RwLockWriteGuard;

/// The reason that a batch was not done.
enum Obstacle {
    Full,
    Busy,
    /// Another write came between.
    Stale,
}

impl From<Full> for Obstacle {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Memory {
    /// Does the operations of a batch, or none of them.
    pub(super) fn batch_in_rounds(
        &self,
        mut ops: Vec<(Key, BatchOp)>,
        pace: Pace,
    ) -> Result<Effect, Undone> {
        let mut round = 0;
        loop {
            let attempt = if round < ROUNDS_MAX {
                self.batch_unlocked(&mut ops, pace)
            } else {
                self.batch_locked(&mut ops, pace)
            };
            match attempt {
                Ok(effects) => return Ok(Effect::Batch(effects)),
                Err(Obstacle::Full) => return Err(Undone::Full(Op::Batch(ops))),
                Err(Obstacle::Busy) => return Err(Undone::Busy(Op::Batch(ops))),
                Err(Obstacle::Stale) => round += 1,
            }
        }
    }

    /// Decides on a batch outside the locks.
    fn batch_unlocked(
        &self,
        ops: &mut [(Key, BatchOp)],
        pace: Pace,
    ) -> Result<Vec<Effect>, Obstacle> {
        let drafts = self.draft(ops, |key, _| self.0.stored(key));
        let numbers = drafts.list.iter().map(|draft| draft.number);
        let locked = Locked::take(&self.0, numbers, pace).ok_or(Obstacle::Busy)?;
        self.0.apply(drafts, locked)
    }

    /// Decides on a batch under the locks. It is stale only if an entry expires just
    /// then.
    fn batch_locked(
        &self,
        ops: &mut [(Key, BatchOp)],
        pace: Pace,
    ) -> Result<Vec<Effect>, Obstacle> {
        let numbers = ops.iter().map(|(key, _)| self.0.number(key.as_str()));
        let mut locked = Locked::take(&self.0, numbers, pace).ok_or(Obstacle::Busy)?;
        let drafts = self.draft(ops, |key, number| locked.map(number).get(key).cloned());
        self.0.apply(drafts, locked)
    }

    /// Decides on the operations of a batch, up to the first that is refused. `read`
    /// reads the entry under a key, whose map has this number.
    fn draft<'a>(
        &self,
        ops: &'a mut [(Key, BatchOp)],
        mut read: impl FnMut(&str, usize) -> Option<Stored>,
    ) -> Drafts<'a> {
        let mut drafts = Drafts {
            list: Vec::with_capacity(ops.len()),
            places: HashMap::with_capacity_and_hasher(ops.len(), self.0.hasher.clone()),
            effects: Vec::with_capacity(ops.len()),
            is_refused: false,
        };
        for (key, op) in ops {
            let draft = drafts.of(key, |key| self.0.number(key));
            let effect = match op {
                BatchOp::Set(entry) => {
                    draft.fate = Fate::Replace(self.stored_of(entry.clone()));
                    Effect::Done
                }
                BatchOp::Delete => {
                    draft.fate = Fate::Remove;
                    Effect::Done
                }
                BatchOp::Remove => {
                    let before = draft.entry(&mut read);
                    let removal = &mut BatchOp::removal();
                    let (after, _) = self.decide(draft, before.as_ref(), removal);
                    Effect::Updated(Updated { before, after }.into())
                }
                BatchOp::Update(change) => {
                    let before = draft.entry(&mut read);
                    let (after, is_refused) = self.decide(draft, before.as_ref(), change);
                    drafts.is_refused = is_refused;
                    Effect::Updated(Updated { before, after }.into())
                }
            };
            drafts.effects.push(effect);
            if drafts.is_refused {
                break;
            }
        }
        drafts
    }

    /// Decides on a change. Returns the entry since then, and true if it is refused.
    fn decide(
        &self,
        draft: &mut Draft<'_>,
        before: Option<&Entry>,
        change: &mut Change,
    ) -> (Option<Entry>, bool) {
        match change(before) {
            Decision::Keep => (before.cloned(), false),
            Decision::Refuse => (before.cloned(), true),
            Decision::Remove => {
                draft.fate = Fate::Remove;
                (None, false)
            }
            Decision::Replace(entry) => {
                draft.fate = Fate::Replace(self.stored_of(entry.clone()));
                (Some(entry), false)
            }
        }
    }
}

/// The drafts of a batch.
struct Drafts<'a> {
    /// One for each key.
    list: Vec<Draft<'a>>,
    /// The place of each key in the list.
    places: HashMap<&'a str, usize, RandomState>,
    /// The effects of the operations.
    effects: Vec<Effect>,
    /// The last of them is refused.
    is_refused: bool,
}

/// The draft of the fate of a key.
struct Draft<'a> {
    key: &'a str,
    /// The same, for a map that it is new in.
    own_key: Box<str>,
    /// The number of its map.
    number: usize,
    /// The entry that was decided on, and the same if it lived; none if any will do.
    read: Option<(Option<Stored>, Option<Entry>)>,
    fate: Fate,
}

/// The fate of a key.
enum Fate {
    Keep,
    Replace(Stored),
    Remove,
}

impl<'a> Drafts<'a> {
    /// The draft of a key, made if it is not there.
    fn of(&mut self, key: &'a Key, number: impl FnOnce(&str) -> usize) -> &mut Draft<'a> {
        let key = key.as_str();
        let place = *self.places.entry(key).or_insert(self.list.len());
        if place == self.list.len() {
            let (own_key, number) = (key.into(), number(key));
            self.list.push(Draft { key, own_key, number, read: None, fate: Fate::Keep });
        }
        self.list.get_mut(place).expect("each place is one of the list")
    }
}

impl Draft<'_> {
    /// The living entry that the operations so far leave.
    fn entry(&mut self, read: impl FnOnce(&str, usize) -> Option<Stored>) -> Option<Entry> {
        match &self.fate {
            Fate::Keep => {
                let (_, entry) = self.read.get_or_insert_with(|| {
                    let stored = read(self.key, self.number);
                    let entry = stored.clone().and_then(Stored::into_living);
                    (stored, entry)
                });
                entry.clone()
            }
            Fate::Replace(stored) => stored.clone().into_living(),
            Fate::Remove => None,
        }
    }

    /// The precondition of the draft.
    fn expected(&self) -> Expected<'_> {
        match &self.read {
            None => Expected::Anything,
            // Else an entry that was seen to expire would come back.
            Some((Some(stored), Some(_))) => Expected::Living(stored),
            Some((stored, _)) => Expected::Same(stored.as_ref()),
        }
    }
}

/// The moment, and the maps of a batch.
struct Locked<'a> {
    _alone: RwLockWriteGuard<'a, ()>,
    /// The numbers of the maps, in order.
    numbers: Vec<usize>,
    maps: Vec<RwLockWriteGuard<'a, Map>>,
}

impl<'a> Locked<'a> {
    fn take(maps: &'a Maps, numbers: impl Iterator<Item = usize>, pace: Pace) -> Option<Self> {
        let mut numbers: Vec<usize> = numbers.collect();
        numbers.sort_unstable();
        numbers.dedup();
        let alone = pace.alone(&maps.moment)?;
        let shards = numbers.iter().filter_map(|number| maps.shards.get(*number));
        let maps = shards.map(|shard| write(&shard.map)).collect();
        Some(Self { _alone: alone, numbers, maps })
    }

    fn map(&mut self, number: usize) -> &mut Map {
        let place = self.numbers.binary_search(&number).ok();
        place.and_then(|place| self.maps.get_mut(place)).expect("all maps of a batch are locked")
    }
}

impl Maps {
    /// Does what was decided, if all entries are as they were.
    fn apply(&self, drafts: Drafts<'_>, mut locked: Locked<'_>) -> Result<Vec<Effect>, Obstacle> {
        let Drafts { list, effects, is_refused, .. } = drafts;
        if !list
            .iter()
            .all(|draft| draft.expected().is_met(locked.map(draft.number).get(draft.key)))
        {
            return Err(Obstacle::Stale);
        }
        if is_refused {
            return Ok(effects);
        }
        let growth = self.pay(&list, &mut locked)?;
        let (mut grown, mut old) = (0_i64, Vec::with_capacity(list.len()));
        let mut changed = Vec::with_capacity(list.len());
        for Draft { key, own_key, number, fate, .. } in list {
            let map = locked.map(number);
            match fate {
                Fate::Keep => {}
                Fate::Remove => {
                    let Some(removed) = self.take_out(map, key) else { continue };
                    changed.push((self.removal(&removed.1), key));
                    old.push(removed);
                }
                Fate::Replace(stored) => {
                    changed.push((Event::Put, key));
                    if let Some(shard) = self.shards.get(number) {
                        shard.expect_expiry(&stored);
                    }
                    match map.get_mut(key) {
                        Some(replaced) => old.push((own_key, mem::replace(replaced, stored))),
                        None => grown += self.insert_in(map, own_key, stored),
                    }
                }
            }
        }
        self.account.record(growth, grown.cast_unsigned());
        let bell = self.changes.append_all(changed.iter().copied());
        drop(locked);

        drop(bell);
        for (event, key) in changed {
            self.watch.changed(key, event == Event::Put);
        }
        drop(old);
        Ok(effects)
    }

    /// Has the account pay for all that was decided. Returns the bytes in it for the
    /// growth of maps and index.
    fn pay(&self, drafts: &[Draft<'_>], locked: &mut Locked<'_>) -> Result<u64, Full> {
        let (mut freed, mut taken, mut new_keys) = (0, 0, NewKeys::default());
        // The numbers of the maps that keys come to.
        let mut growing = Vec::new();
        for draft in drafts {
            let old = locked.map(draft.number).get(draft.key).map(|old| old.cost(draft.key));
            match &draft.fate {
                Fate::Keep => continue,
                Fate::Remove => {}
                Fate::Replace(stored) => {
                    taken += stored.cost(draft.key);
                    if old.is_none() {
                        new_keys = new_keys.and(draft.key);
                        growing.push(draft.number);
                    }
                }
            }
            freed += old.unwrap_or(0);
        }
        let mut growth = self.index.growth_max(new_keys);
        growing.sort_unstable();
        for same in growing.chunk_by(|one, other| one == other) {
            let Some(number) = same.first() else { continue };
            let map = locked.map(*number);
            self.rebuild_if_worn(map);
            growth += growth_max(map, same.len());
        }
        self.account.exchange(freed, taken + growth)?;
        Ok(growth)
    }
}
