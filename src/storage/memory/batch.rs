//! Batches: several operations at one moment.
//!
//! As a single update does, a batch decides outside all locks, on entries that it has
//! read, and makes a draft for each key. Then it locks the maps of all keys. If the
//! entries are still the same it does what was decided, and unlocks no map before all
//! of it is done: whoever sees one key new sees all. Else it begins anew, and at last
//! decides under the locks. There is room for the whole of it, or nothing is done.
//!
//! Operations that may be seen one by one are done so.

use super::account::Full;
use super::index::NewKeys;
use super::map::{Hashed, Keyed, Map};
use super::packed::Packed;
use super::{Expected, KEYS_SHARDS, Maps, Memory, Pace, ROUNDS_MAX, Undone, write};
use crate::storage::{BatchOp, Change, Decision, Effect, Entry, Event, Key, Op, Updated};
use hashbrown::HashMap;
use std::sync::RwLockWriteGuard;

/// The most bytes that an entry takes beside twice those of its key and its value.
const SET_BYTES_MAX: u64 = 1 << 10;

/// The reason that a batch was not done.
enum Obstacle {
    /// There is no room for so many bytes.
    Full(u64),
    Busy,
    /// Another write came between.
    Stale,
}

impl From<Full> for Obstacle {
    fn from(Full { wanted }: Full) -> Self {
        Self::Full(wanted)
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
                Err(Obstacle::Full(wanted)) => return Err(Undone::Full(Op::Batch(ops), wanted)),
                Err(Obstacle::Busy) => return Err(Undone::Busy(Op::Batch(ops))),
                Err(Obstacle::Stale) => round += 1,
            }
        }
    }

    /// Does operations that may be seen one by one. Where all of them store an entry, none
    /// keeps more than its own map locked: many keys are in most of the maps, and whoever
    /// reads one of these would wait for all.
    pub(super) fn set_each(&self, ops: Vec<(Key, BatchOp)>, pace: Pace) -> Result<Effect, Undone> {
        let Some(bytes) = bytes_of_sets(&ops) else { return self.batch_in_rounds(ops, pace) };
        // Where room is scarce all of them have it, or none is done. A store that evicts
        // makes it, and has some beyond its bound.
        let is_roomy = self.0.account.left() >= bytes;
        if !is_roomy && (self.0.cache.is_none() || !self.0.account.can_hold(bytes)) {
            return self.batch_in_rounds(ops, pace);
        }
        let has_no_room = |(key, op): &(Key, BatchOp)| {
            let BatchOp::Set(entry) = op else { return false };
            let key = self.0.hashed(key.as_str());
            self.0.put(key, self.packed(key, entry.clone()), Expected::Anything).is_err()
        };
        if ops.iter().any(has_no_room) {
            return self.batch_in_rounds(ops, pace);
        }
        Ok(Effect::Batch(ops.iter().map(|_| Effect::Done).collect()))
    }

    /// Decides on a batch outside the locks.
    fn batch_unlocked(
        &self,
        ops: &mut [(Key, BatchOp)],
        pace: Pace,
    ) -> Result<Vec<Effect>, Obstacle> {
        let drafts = self.draft(ops, |key| self.0.stored(key));
        let numbers = drafts.list.iter().map(Draft::number);
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
        let numbers = ops.iter().map(|(key, _)| self.0.hashed(key.as_str()).shard(KEYS_SHARDS));
        let mut locked = Locked::take(&self.0, numbers, pace).ok_or(Obstacle::Busy)?;
        let drafts = self.draft(ops, |key| locked.map(key.shard(KEYS_SHARDS)).get(key).cloned());
        self.0.apply(drafts, locked)
    }

    /// Decides on the operations of a batch, up to the first that is refused. `read`
    /// reads the entry under a key.
    fn draft<'a>(
        &self,
        ops: &'a mut [(Key, BatchOp)],
        mut read: impl FnMut(Hashed<'_>) -> Option<Packed>,
    ) -> Drafts<'a> {
        let mut drafts = Drafts {
            list: Vec::with_capacity(ops.len()),
            places: HashMap::with_capacity_and_hasher(ops.len(), self.0.hasher.clone()),
            effects: Vec::with_capacity(ops.len()),
            is_refused: false,
        };
        for (key, op) in ops {
            let draft = drafts.of(self.0.hashed(key.as_str()));
            let effect = match op {
                BatchOp::Set(entry) => {
                    draft.fate = Fate::Replace(self.packed(draft.key, entry.clone()));
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
                draft.fate = Fate::Replace(self.packed(draft.key, entry.clone()));
                (Some(entry), false)
            }
        }
    }
}

/// More bytes than some operations take if each stores an entry; none if one does not.
fn bytes_of_sets(ops: &[(Key, BatchOp)]) -> Option<u64> {
    ops.iter()
        .map(|(key, op)| {
            let BatchOp::Set(entry) = op else { return None };
            Some((key.as_str().len() + entry.value().len()) as u64 * 2 + SET_BYTES_MAX)
        })
        .sum()
}

/// The drafts of a batch.
struct Drafts<'a> {
    /// One for each key.
    list: Vec<Draft<'a>>,
    /// The place of each key in the list.
    places: HashMap<Hashed<'a>, usize, Keyed>,
    /// The effects of the operations.
    effects: Vec<Effect>,
    /// The last of them is refused.
    is_refused: bool,
}

/// The draft of the fate of a key.
struct Draft<'a> {
    key: Hashed<'a>,
    /// The entry that was decided on, and the same if it lived; none if any will do.
    read: Option<(Option<Packed>, Option<Entry>)>,
    fate: Fate,
}

/// The fate of a key.
enum Fate {
    Keep,
    Replace(Packed),
    Remove,
}

impl<'a> Drafts<'a> {
    /// The draft of a key, made if it is not there.
    fn of(&mut self, key: Hashed<'a>) -> &mut Draft<'a> {
        let place = *self.places.entry(key).or_insert(self.list.len());
        if place == self.list.len() {
            self.list.push(Draft { key, read: None, fate: Fate::Keep });
        }
        self.list.get_mut(place).expect("each place is one of the list")
    }
}

impl Draft<'_> {
    /// The number of its map.
    fn number(&self) -> usize {
        self.key.shard(KEYS_SHARDS)
    }

    /// The living entry that the operations so far leave.
    fn entry(&mut self, read: impl FnOnce(Hashed<'_>) -> Option<Packed>) -> Option<Entry> {
        match &self.fate {
            Fate::Keep => {
                let (_, entry) = self.read.get_or_insert_with(|| {
                    let packed = read(self.key);
                    let entry = packed.clone().and_then(Packed::into_living);
                    (packed, entry)
                });
                entry.clone()
            }
            Fate::Replace(packed) => packed.clone().into_living(),
            Fate::Remove => None,
        }
    }

    /// The precondition of the draft.
    fn expected(&self) -> Expected<'_> {
        match &self.read {
            None => Expected::Anything,
            // Else an entry that was seen to expire would come back.
            Some((Some(packed), Some(_))) => Expected::Living(packed),
            Some((packed, _)) => Expected::Same(packed.as_ref()),
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
        let is_stale =
            |draft: &Draft<'_>| !draft.expected().is_met(locked.map(draft.number()), draft.key);
        if list.iter().any(is_stale) {
            return Err(Obstacle::Stale);
        }
        if is_refused {
            return Ok(effects);
        }
        let growth = self.pay(&list, &mut locked)?;
        let (mut grown, mut old) = (0_i64, Vec::with_capacity(list.len()));
        let mut changed = Vec::with_capacity(list.len());
        for draft in list {
            let (number, key) = (draft.number(), draft.key);
            let map = locked.map(number);
            match draft.fate {
                Fate::Keep => {
                    self.note_use(draft.read.as_ref().and_then(|(read, _)| read.as_ref()));
                }
                Fate::Remove => {
                    let Some(removed) = self.take_out(map, key) else { continue };
                    changed.push((self.removal(Event::Delete, &removed), key.key()));
                    old.push(removed);
                }
                Fate::Replace(packed) => {
                    changed.push((Event::Put, key.key()));
                    if let Some(shard) = self.shards.get(number) {
                        shard.expect_expiry(&packed);
                    }
                    if map.get(key).is_some() {
                        old.extend(self.replace_in(map, key, packed));
                    } else {
                        grown += self.insert_in(map, key, packed);
                    }
                }
            }
        }
        self.account.settle(growth, grown);
        locked.maps.iter_mut().for_each(|map| self.shrink(map));
        let bell = self.changes.append_all(changed.iter().copied());
        drop(locked);

        drop(bell);
        for (event, key) in changed {
            self.watch.changed(key, event == Event::Put);
        }
        if !old.is_empty() {
            for old in old {
                drop(self.lend(old));
            }
            self.heed_freed();
        }
        Ok(effects)
    }

    /// Has the account pay for all that was decided, and the maps grow. Returns the bytes
    /// in it for the growth of the index.
    fn pay(&self, drafts: &[Draft<'_>], locked: &mut Locked<'_>) -> Result<u64, Full> {
        let (mut freed, mut taken, mut new_keys) = (0, 0, NewKeys::default());
        // The keys that come, with the numbers of their maps.
        let mut coming = Vec::new();
        for draft in drafts {
            let old = locked.map(draft.number()).get(draft.key).map(Packed::cost);
            match &draft.fate {
                Fate::Keep => continue,
                Fate::Remove => {}
                Fate::Replace(packed) => {
                    taken += packed.cost();
                    if old.is_none() {
                        new_keys = new_keys.and(draft.key.key());
                        coming.push((draft.number(), draft.key.hash()));
                    }
                }
            }
            freed += old.unwrap_or(0);
        }
        coming.sort_unstable();
        let mut growths = Vec::new();
        for same in coming.chunk_by(|(one, _), (other, _)| one == other) {
            let hashes: Vec<u64> = same.iter().map(|(_, hash)| *hash).collect();
            for (number, _) in same.iter().take(1) {
                let growth = locked.map(*number).growth_for(&hashes);
                growths.extend(growth.map(|growth| (*number, growth)));
            }
        }
        let map_growth: u64 = growths.iter().map(|(_, growth)| growth.bytes()).sum();
        let index_growth = self.index.growth_max(new_keys);
        self.account.exchange(freed, taken + map_growth + index_growth)?;
        for (number, growth) in growths {
            locked.map(number).grow(&growth);
        }
        Ok(index_growth)
    }
}
