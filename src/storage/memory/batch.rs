//! Batches: several operations at one moment.
//!
//! As a single update does, a batch decides outside all locks, on entries that it has
//! read, and makes a draft for each key. Then it locks the maps of all keys. If the
//! entries are still the same it does what was decided, and unlocks no map before all
//! of it is done: whoever sees one key new sees all. Else it begins anew, and at last
//! decides under the locks. There is room for the whole of it, or nothing is done.
//!
//! Operations are decided on in their order, and drafts are in that of their maps: so
//! are the locks, and what is done under them.
//!
//! Operations that may be seen one by one are done so.

use super::account::Full;
use super::index::NewKeys;
use super::map::{Hashed, Map};
use super::maps::{Expected, KEYS_SHARDS, Maps, write};
use super::packed::Packed;
use super::{Memory, Pace, ROUNDS_MAX, Undone};
use crate::platform::scheduling;
use crate::storage::{BatchOp, Change, Decision, Effect, Entry, Event, Key, Op, Updated};
use std::mem;
use std::sync::RwLockWriteGuard;

/// The entries that are stored one by one until it is looked whether others go first.
const SETS_OF_A_TURN: usize = 16;

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
            self.0.put(key, self.packed(key, entry), Expected::Anything).is_err()
        };
        for some in ops.chunks(SETS_OF_A_TURN) {
            // All of them take milliseconds, and no lock is held here.
            scheduling::give_way();
            if some.iter().any(has_no_room) {
                return self.batch_in_rounds(ops, pace);
            }
        }
        Ok(Effect::Batch(ops.iter().map(|_| Effect::Done).collect()))
    }

    /// Decides on a batch outside the locks.
    fn batch_unlocked(
        &self,
        ops: &mut [(Key, BatchOp)],
        pace: Pace,
    ) -> Result<Vec<Effect>, Obstacle> {
        let (keys, ops) = self.split(ops);
        let mut drafts = Drafts::new(&keys);
        let decided = self.decide_all(&mut drafts, ops, |draft| self.0.stored(draft.key));
        let locked = Locked::take(&self.0, &drafts, pace).ok_or(Obstacle::Busy)?;
        self.0.apply(drafts, decided, locked)
    }

    /// Decides on a batch under the locks. It is stale only if an entry expires just
    /// then.
    fn batch_locked(
        &self,
        ops: &mut [(Key, BatchOp)],
        pace: Pace,
    ) -> Result<Vec<Effect>, Obstacle> {
        let (keys, ops) = self.split(ops);
        let mut drafts = Drafts::new(&keys);
        let mut locked = Locked::take(&self.0, &drafts, pace).ok_or(Obstacle::Busy)?;
        let read = |draft: &Draft<'_>| locked.map(draft).get(draft.key).cloned();
        let decided = self.decide_all(&mut drafts, ops, read);
        self.0.apply(drafts, decided, locked)
    }

    /// The keys of some operations with their hashes, and what is to be done to each.
    fn split<'a>(&self, ops: &'a mut [(Key, BatchOp)]) -> (Vec<Hashed<'a>>, Vec<&'a mut BatchOp>) {
        ops.iter_mut().map(|(key, op)| (self.0.hashed(key.as_str()), op)).unzip()
    }

    /// Decides on the operations of a batch, up to the first that is refused. `read`
    /// reads the entry under the key of a draft.
    fn decide_all(
        &self,
        drafts: &mut Drafts<'_>,
        ops: Vec<&mut BatchOp>,
        mut read: impl FnMut(&Draft<'_>) -> Option<Packed>,
    ) -> Decided {
        let mut decided = Decided { effects: Vec::with_capacity(ops.len()), is_refused: false };
        for (op, place) in ops.into_iter().zip(&drafts.places) {
            let draft = drafts.list.get_mut(*place).expect("each place is one of the list");
            let effect = match op {
                BatchOp::Set(entry) => {
                    draft.fate = Fate::Replace(self.packed(draft.key, entry));
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
                    decided.is_refused = is_refused;
                    Effect::Updated(Updated { before, after }.into())
                }
            };
            decided.effects.push(effect);
            if decided.is_refused {
                break;
            }
        }
        decided
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
                draft.fate = Fate::Replace(self.packed(draft.key, &entry));
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

/// The outcome of the decisions.
struct Decided {
    /// The effects of the operations.
    effects: Vec<Effect>,
    /// The last of them is refused.
    is_refused: bool,
}

/// The drafts of a batch.
struct Drafts<'a> {
    /// One for each key, in order of the numbers of their maps.
    list: Vec<Draft<'a>>,
    /// The place in the list of the draft of each operation.
    places: Vec<usize>,
    /// The numbers of the maps.
    numbers: Vec<usize>,
}

/// The draft of the fate of a key.
struct Draft<'a> {
    key: Hashed<'a>,
    /// The place of its map among those of the batch.
    map: usize,
    /// The first operation on it.
    first: usize,
    /// The entry that was decided on, and the same if it lived; none if any will do.
    read: Option<(Option<Packed>, Option<Entry>)>,
    fate: Fate,
    /// There is an entry, living or not, while the fate is done.
    is_there: bool,
    /// The change, once it is done.
    event: Option<Event>,
}

/// The fate of a key.
enum Fate {
    Keep,
    Replace(Packed),
    Remove,
}

/// The bits of the place of an operation, beside those of the number of a map.
const PLACE_BITS: u32 = usize::BITS - KEYS_SHARDS.ilog2();

impl<'a> Drafts<'a> {
    /// Drafts for the keys of some operations.
    fn new(keys: &[Hashed<'a>]) -> Self {
        let in_order =
            |(place, key): (usize, &Hashed<'_>)| (key.shard(KEYS_SHARDS) << PLACE_BITS) | place;
        let mut order: Vec<usize> = keys.iter().enumerate().map(in_order).collect();
        order.sort_unstable();
        let mut drafts = Self {
            list: Vec::with_capacity(keys.len()),
            places: vec![0; keys.len()],
            numbers: Vec::with_capacity(keys.len().min(KEYS_SHARDS)),
        };
        // The first draft of the same map.
        let mut start = 0;
        for both in order {
            let (number, first) = (both >> PLACE_BITS, both & ((1 << PLACE_BITS) - 1));
            let (Some(key), Some(place)) = (keys.get(first), drafts.places.get_mut(first)) else {
                unreachable!("it is the place of an operation")
            };
            if drafts.numbers.last() != Some(&number) {
                drafts.numbers.push(number);
                start = drafts.list.len();
            }
            let same_map = drafts.list.get(start..).unwrap_or_default();
            let found = same_map.iter().position(|draft| draft.key == *key);
            *place = start + found.unwrap_or(same_map.len());
            if found.is_none() {
                drafts.list.push(Draft::new(*key, drafts.numbers.len() - 1, first));
            }
        }
        drafts
    }

    /// The changes that were done, in order of the operations.
    fn changes(&self) -> impl Iterator<Item = (Event, &'a str)> {
        let drafts = self.places.iter().enumerate().filter_map(|(op, place)| {
            let draft = self.list.get(*place)?;
            (draft.first == op).then_some(draft)
        });
        drafts.filter_map(|draft| Some((draft.event?, draft.key.key())))
    }
}

impl<'a> Draft<'a> {
    fn new(key: Hashed<'a>, map: usize, first: usize) -> Self {
        Self { key, map, first, read: None, fate: Fate::Keep, is_there: false, event: None }
    }

    /// The living entry that the operations so far leave.
    fn entry(&mut self, read: impl FnOnce(&Self) -> Option<Packed>) -> Option<Entry> {
        match &self.fate {
            Fate::Keep => {
                if self.read.is_none() {
                    let packed = read(self);
                    let entry = packed.clone().and_then(Packed::into_living);
                    self.read = Some((packed, entry));
                }
                self.read.as_ref().and_then(|(_, entry)| entry.clone())
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
    /// In order of their numbers.
    maps: Vec<RwLockWriteGuard<'a, Map>>,
}

impl<'a> Locked<'a> {
    fn take(maps: &'a Maps, drafts: &Drafts<'_>, pace: Pace) -> Option<Self> {
        let alone = pace.alone(&maps.moment)?;
        let shards = drafts.numbers.iter().filter_map(|number| maps.shards.get(*number));
        let maps = shards.map(|shard| write(&shard.map)).collect();
        Some(Self { _alone: alone, maps })
    }

    /// The map of a draft.
    fn map(&mut self, draft: &Draft<'_>) -> &mut Map {
        self.maps.get_mut(draft.map).expect("all maps of a batch are locked")
    }
}

impl Maps {
    /// Does what was decided, if all entries are as they were.
    fn apply(
        &self,
        mut drafts: Drafts<'_>,
        Decided { effects, is_refused }: Decided,
        mut locked: Locked<'_>,
    ) -> Result<Vec<Effect>, Obstacle> {
        let is_stale = |draft: &Draft<'_>| !draft.expected().is_met(locked.map(draft), draft.key);
        if drafts.list.iter().any(is_stale) {
            return Err(Obstacle::Stale);
        }
        if is_refused {
            return Ok(effects);
        }
        let growth = self.pay(&mut drafts.list, &mut locked)?;
        let (mut grown, mut old) = (0_i64, Vec::with_capacity(drafts.list.len()));
        for draft in &mut drafts.list {
            grown += self.apply_one(draft, locked.map(draft), &mut old);
        }
        self.account.settle(growth, grown);
        let is_removal = |draft: &Draft<'_>| draft.event.is_some_and(|event| event != Event::Put);
        if drafts.list.iter().any(is_removal) {
            locked.maps.iter_mut().for_each(|map| self.shrink(map));
        }
        let bell = self.changes.append_all(drafts.changes());
        drop(locked);

        drop(bell);
        let is_stored = |(event, key)| (key, event == Event::Put);
        self.waiters.changed_together(drafts.changes().map(is_stored));
        if !old.is_empty() {
            for old in old {
                drop(self.lend(old));
            }
            self.wake_defragmenter_if_due();
        }
        Ok(effects)
    }

    /// Does to a map what a draft says, and notes its change; the entry that was there is
    /// added to `old`. Returns the bytes that the index grows by for a new key.
    fn apply_one(&self, draft: &mut Draft<'_>, map: &mut Map, old: &mut Vec<Packed>) -> i64 {
        let key = draft.key;
        match mem::replace(&mut draft.fate, Fate::Keep) {
            Fate::Keep => {
                self.note_use(draft.read.as_ref().and_then(|(read, _)| read.as_ref()));
            }
            Fate::Remove => {
                if let Some(removed) = self.take_out(map, key) {
                    draft.event = Some(self.removal(Event::Delete, &removed));
                    old.push(removed);
                }
            }
            Fate::Replace(packed) => {
                draft.event = Some(Event::Put);
                self.shard(key).expect_expiry(&packed);
                if !draft.is_there {
                    return self.insert_in(map, key, packed);
                }
                old.extend(self.replace_in(map, key, packed));
            }
        }
        0
    }

    /// Has the account pay for all that was decided, and the maps grow. Returns the bytes
    /// in it for the growth of the index.
    fn pay(&self, drafts: &mut [Draft<'_>], locked: &mut Locked<'_>) -> Result<u64, Full> {
        let (mut freed, mut taken, mut new_keys) = (0, 0, NewKeys::default());
        // The keys that come, with the places of their maps.
        let mut coming = Vec::new();
        for draft in drafts.iter_mut() {
            let old = locked.maps.get(draft.map).and_then(|map| map.get(draft.key));
            let old = old.map(Packed::cost);
            match &draft.fate {
                Fate::Keep => continue,
                Fate::Remove => {}
                Fate::Replace(packed) => {
                    taken += packed.cost();
                    draft.is_there = old.is_some();
                    if old.is_none() {
                        new_keys = new_keys.and(draft.key.key());
                        coming.push((draft.map, draft.key.hash()));
                    }
                }
            }
            freed += old.unwrap_or(0);
        }
        let mut growths = Vec::new();
        for same in coming.chunk_by(|(one, _), (other, _)| one == other) {
            let hashes: Vec<u64> = same.iter().map(|(_, hash)| *hash).collect();
            let Some((map, _)) = same.first() else { continue };
            let growth = locked.maps.get(*map).and_then(|map| map.growth_for(&hashes));
            growths.extend(growth.map(|growth| (*map, growth)));
        }
        let map_growth: u64 = growths.iter().map(|(_, growth)| growth.bytes()).sum();
        let index_growth = self.index.growth_max(new_keys);
        self.account.exchange(freed, taken + map_growth + index_growth)?;
        for (map, growth) in growths {
            if let Some(map) = locked.maps.get_mut(map) {
                map.grow(&growth);
            }
        }
        Ok(index_growth)
    }
}
