//! Batches: several operations at one moment, on keys of one slot.
//!
//! What its updates see is read at one moment, its operations are decided in order on a
//! draft over that, and one *change* compares all that was seen and does all of it. If
//! another write came between, which the reply shows, it begins anew on what is there. A
//! batch that sees something has the turn in the lines of all keys that it sees meanwhile,
//! so that it does not lose to this front's own updates; one that only sets and deletes
//! needs none.

use super::decision::{Fate, decide, left};
use super::lines::Turn;
use super::updates::Sight;
use crate::storage::cluster::Front;
use crate::storage::cluster::envelope::Stored;
use crate::storage::cluster::network::protocol::{Commands, Reply, slot_of};
use crate::storage::cluster::network::router::{PATIENCE, Replies};
use crate::storage::cluster::scripts::{self, Changed, KeyChange, Seen};
use crate::storage::completion::Completion;
use crate::storage::{BatchOp, Effect, Error, Key};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A batch on its way.
struct Batch {
    front: Arc<Front>,
    slot: u16,
    ops: Vec<BatchOp>,
    /// The place of each operation's key in the drafts.
    places: Vec<usize>,
    drafts: Vec<Draft>,
    deadline: Instant,
    completion: Completion,
    turns: Vec<Turn>,
}

/// The draft of a key.
struct Draft {
    key: Key,
    /// The first operation on it needs its state.
    is_seen: bool,
    /// Its state, where that is needed.
    seen: Option<Stored>,
    /// Its fate so far.
    fate: Fate,
}

/// The decisions on a batch.
enum Decided {
    /// All of them, with their effects.
    Whole(Vec<Effect>),
    /// The effects up to the one that was refused.
    Refused(Vec<Effect>),
}

impl Draft {
    /// The state that the operations so far leave.
    fn state(&self) -> Option<&Stored> {
        match &self.fate {
            Fate::Kept | Fate::Refused => self.seen.as_ref(),
            Fate::Stored(stored) => left(Some(stored)),
            Fate::Deleted => None,
        }
    }

    /// The state that it leaves once it is done.
    fn into_state(self) -> (Key, Option<Stored>) {
        let state = match self.fate {
            Fate::Kept | Fate::Refused => self.seen,
            Fate::Stored(stored) => Some(*stored),
            Fate::Deleted => None,
        };
        (self.key, state)
    }

    fn in_script(&self) -> KeyChange<'_> {
        let seen = if self.is_seen { Seen::Exactly(self.seen.as_ref()) } else { Seen::Anything };
        KeyChange { key: self.key.as_str(), seen, fate: self.fate.in_script() }
    }
}

impl Front {
    /// Does the operations of a batch, or none of them.
    pub fn batch(self: &Arc<Self>, ops: Vec<(Key, BatchOp)>, completion: Completion) {
        let mut slots = ops.iter().map(|(key, _)| slot_of(key.as_str().as_bytes()));
        let Some(slot) = slots.next() else {
            return completion.tell(Ok(Effect::Batch(Vec::new())));
        };
        if slots.any(|other| other != slot) {
            return completion.tell(Err(Error::SlotsDiffer));
        }
        let (mut drafts, mut places, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        let mut by_key: HashMap<Key, usize> = HashMap::with_capacity(ops.len());
        for (key, op) in ops {
            let op = match op {
                BatchOp::Remove => BatchOp::Update(BatchOp::removal()),
                BatchOp::Set(_) | BatchOp::Delete | BatchOp::Update(_) => op,
            };
            let place = *by_key.entry(key).or_insert_with_key(|key| {
                let is_seen = matches!(op, BatchOp::Update(_));
                drafts.push(Draft { key: key.clone(), is_seen, seen: None, fate: Fate::Kept });
                drafts.len() - 1
            });
            places.push(place);
            kinds.push(op);
        }
        let (front, deadline) = (Arc::clone(self), Instant::now() + PATIENCE);
        let seen: Vec<Key> =
            drafts.iter().filter(|draft| draft.is_seen).map(|draft| draft.key.clone()).collect();
        let turns = Vec::new();
        let batch = Batch { front, slot, ops: kinds, places, drafts, deadline, completion, turns };
        if seen.is_empty() {
            return batch.run();
        }
        let begin = Box::new(move |turns| match turns {
            Ok(turns) => Batch { turns, ..batch }.load(),
            Err(err) => batch.fail(err),
        });
        if let Some(gathered) = self.lines.join_all(&seen, begin) {
            gathered.begin();
        }
    }
}

impl Batch {
    /// Reads what its operations see.
    fn load(self) {
        let keys: Vec<&str> = self.seen_keys().collect();
        let commands = scripts::load(&keys);
        self.ask(commands, false, |mut batch, replies| {
            let seen = replies.and_then(|replies| {
                let count = batch.seen_keys().count();
                scripts::loaded(first(replies)?, count)
            });
            match seen {
                Ok(seen) => {
                    let drafts = batch.drafts.iter_mut().filter(|draft| draft.is_seen);
                    for (draft, seen) in drafts.zip(seen) {
                        draft.seen = seen;
                    }
                    batch.run();
                }
                Err(err) => batch.fail(err),
            }
        });
    }

    /// Decides on all operations and does them, if all is as it was seen.
    fn run(mut self) {
        let effects = match self.decide() {
            Ok(Decided::Whole(effects)) => effects,
            Ok(Decided::Refused(effects)) => return self.end_unchanged(effects),
            Err(err) => return self.fail(err),
        };
        if self.drafts.iter().all(|draft| matches!(draft.fate, Fate::Kept)) {
            // All was read at one moment, since the batch began.
            return self.end_unchanged(effects);
        }
        let changes: Vec<KeyChange<'_>> = self.drafts.iter().map(Draft::in_script).collect();
        let commands = scripts::change(&changes);
        self.ask(commands, true, |mut batch, replies| {
            let count = batch.drafts.len();
            match replies.and_then(|replies| scripts::changed(first(replies)?, count)) {
                Ok(Changed::Done) => batch.end(effects),
                Ok(Changed::Otherwise(found)) => {
                    for (draft, found) in batch.drafts.iter_mut().zip(found) {
                        draft.seen = found;
                    }
                    batch.run();
                }
                Err(err) => batch.fail(err),
            }
        });
    }

    fn seen_keys(&self) -> impl Iterator<Item = &str> {
        self.drafts.iter().filter(|draft| draft.is_seen).map(|draft| draft.key.as_str())
    }

    /// Decides on the operations, up to the first that is refused.
    fn decide(&mut self) -> Result<Decided, Error> {
        for draft in &mut self.drafts {
            draft.fate = Fate::Kept;
        }
        let mut effects = Vec::with_capacity(self.ops.len());
        for (op, place) in self.ops.iter_mut().zip(&self.places) {
            let draft = self.drafts.get_mut(*place).expect("each place is one of the drafts");
            let (fate, effect) = match op {
                BatchOp::Set(entry) => {
                    (Fate::Stored(Stored::of(entry.clone(), None).into()), Effect::Done)
                }
                BatchOp::Delete | BatchOp::Remove => (Fate::Deleted, Effect::Done),
                BatchOp::Update(change) => decide(draft.state(), change)?,
            };
            effects.push(effect);
            match fate {
                Fate::Kept => {}
                Fate::Refused => return Ok(Decided::Refused(effects)),
                Fate::Stored(_) | Fate::Deleted => draft.fate = fate,
            }
        }
        Ok(Decided::Whole(effects))
    }

    /// Sends commands, and calls `then` with the batch and the replies.
    fn ask(
        self,
        commands: Commands,
        is_write: bool,
        then: impl FnOnce(Self, Result<Replies, Error>) + Send + 'static,
    ) {
        let (front, slot, deadline) = (Arc::clone(&self.front), self.slot, self.deadline);
        front.ask(slot, commands, is_write, deadline, move |replies| then(self, replies));
    }

    /// Tells that all of it has taken effect.
    fn end(self, effects: Vec<Effect>) {
        for draft in &self.drafts {
            match draft.fate {
                Fate::Kept | Fate::Refused => {}
                Fate::Stored(_) => self.front.waiters.changed(draft.key.as_str(), true),
                Fate::Deleted => self.front.waiters.changed(draft.key.as_str(), false),
            }
        }
        self.completion.tell(Ok(Effect::Batch(effects)));
        let mut states: HashMap<Key, Option<Stored>> =
            self.drafts.into_iter().map(Draft::into_state).collect();
        for turn in self.turns {
            let sight = states.remove(turn.key()).map_or(Sight::Guess, Sight::Remembered);
            self.front.pass_on(turn, sight);
        }
    }

    /// Tells the effects of a batch that changes nothing.
    fn end_unchanged(mut self, effects: Vec<Effect>) {
        for draft in &mut self.drafts {
            draft.fate = Fate::Kept;
        }
        self.end(effects);
    }

    fn fail(self, err: Error) {
        self.completion.tell(Err(err));
        for turn in self.turns {
            self.front.pass_on(turn, Sight::Guess);
        }
    }
}

/// The reply to a single command.
fn first(replies: Replies) -> Result<Reply, Error> {
    replies.into_iter().next().ok_or_else(scripts::unexpected)
}
