//! Updates by compare-and-set, combined for each key.
//!
//! ```text
//! line of the key ─► round: changes run in order, each on what the one before has left
//!        ▲             │ on what?   a guess (nothing is there), or what the last round left
//!        │             ▼
//!        │           change: if all is as it was seen ──► told, next round
//!        └──────────── otherwise: the same again on what is there
//! ```
//!
//! A round is one *change* however many writes it has; all of them take effect at its
//! moment. What has only kept is told
//!
//! - with the change of the others in its round, which has compared the state, or
//! - on a state that was read after the round was taken out of its line, or
//! - once a change that stores nothing has confirmed the state.
//!
//! So whoever begins behind an outcome sees it, of this front and of others.
//!
//! A failure is told to those whom it concerns: to what has written, and, where a node is
//! full, to what has stored. The rest of the round has done nothing in either case, and is
//! run again in another one.

use super::decision::{Fate, decide, left};
use super::lines::{KeyOp, Next, Turn, Write};
use crate::storage::cluster::Front;
use crate::storage::cluster::envelope::Stored;
use crate::storage::cluster::network::protocol::{Commands, slot_of};
use crate::storage::cluster::network::router::Replies;
use crate::storage::cluster::plain;
use crate::storage::cluster::scripts::{self, Changed, KeyChange, Seen};
use crate::storage::{Effect, Error, Hindrance, Key, Outcome};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// A round takes no more writes once these have left so many bytes: each holds its own
/// value until it is told.
const ROUND_BYTES_MAX: usize = 16 << 20;

/// The state of a key that the writes of a round are decided on.
pub enum Sight {
    /// Nothing is there, as a guess.
    Guess,
    /// The state that the round before has left.
    Remembered(Option<Stored>),
    /// A state since the begin of the round.
    Fresh(Option<Stored>),
}

/// Writes that are decided one after the other and take effect at one moment.
struct Round {
    front: Arc<Front>,
    turn: Turn,
    sight: Sight,
    writes: Vec<Write>,
    /// What they have done, if it takes effect.
    done: Vec<Did>,
}

/// The deed of a write.
struct Did {
    outcome: Outcome,
    kind: Deed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Kept,
    Stored,
    Deleted,
}

/// The decisions of a round.
struct Plan {
    /// The fate of the key.
    fate: Fate,
    /// Some were made on the sight.
    needs_sight: bool,
    /// One has failed, perhaps as the sight is a guess.
    has_failed: bool,
}

/// A request that a round waits for.
#[derive(Clone)]
enum Asked {
    Load,
    /// The change that leaves this state, if it takes effect.
    Change(Fate),
}

impl Front {
    /// Does a write in the line of its key.
    pub fn write_in_line(self: &Arc<Self>, key: Key, write: Write) {
        if let Some((turn, write)) = self.lines.join(key, write) {
            Round::new(self, turn, Sight::Guess, vec![write]).run();
        }
    }

    /// Gives a turn to the next in its line, who begin on this state of the key.
    pub fn pass_on(self: &Arc<Self>, turn: Turn, sight: Sight) {
        match turn.pass_on() {
            Next::Nobody => {}
            Next::Batch(batch) => batch.begin(),
            Next::Writes(turn, writes) => Round::new(self, turn, sight, writes).run(),
        }
    }
}

impl Sight {
    fn state(&self) -> Option<&Stored> {
        match self {
            Self::Guess => None,
            Self::Remembered(state) | Self::Fresh(state) => state.as_ref(),
        }
    }

    fn into_state(self) -> Option<Stored> {
        match self {
            Self::Guess => None,
            Self::Remembered(state) | Self::Fresh(state) => state,
        }
    }

    fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh(_))
    }
}

impl Deed {
    /// Returns true if it has failed with this error, of the change that it was part of.
    fn fails_with(self, err: &Error) -> bool {
        match self {
            Self::Kept => false,
            Self::Deleted => *err != Error::Full,
            Self::Stored => true,
        }
    }
}

impl Round {
    fn new(front: &Arc<Front>, turn: Turn, sight: Sight, writes: Vec<Write>) -> Self {
        Self { front: Arc::clone(front), turn, sight, writes, done: Vec::new() }
    }

    /// Decides, and asks for what that needs.
    fn run(mut self) {
        let plan = self.decide();
        let is_kept = matches!(plan.fate, Fate::Kept);
        let is_guess = matches!(self.sight, Sight::Guess);
        if is_guess && plan.needs_sight && (is_kept || plan.has_failed) {
            let commands = scripts::load(&[self.turn.key().as_str()]);
            self.ask(Asked::Load, commands, false);
        } else if is_kept && self.sight.is_fresh() {
            self.end(Fate::Kept);
        } else {
            let commands = self.change(&plan);
            self.ask(Asked::Change(plan.fate), commands, !is_kept);
        }
    }

    /// Decides on all writes in order, or on as many as a round may have.
    fn decide(&mut self) -> Plan {
        let mut plan = Plan { fate: Fate::Kept, needs_sight: false, has_failed: false };
        let (mut is_blind, mut bytes) = (false, 0);
        self.done.clear();
        for write in &mut self.writes {
            if bytes > ROUND_BYTES_MAX {
                break;
            }
            let (fate, outcome) = match &mut write.op {
                KeyOp::Set(stored) => {
                    is_blind |= !plan.needs_sight;
                    (Fate::Stored(stored.clone()), Ok(Effect::Done))
                }
                KeyOp::Delete => {
                    is_blind |= !plan.needs_sight;
                    (Fate::Deleted, Ok(Effect::Done))
                }
                KeyOp::Update(change) => {
                    plan.needs_sight |= !is_blind;
                    let before = match &plan.fate {
                        Fate::Kept | Fate::Refused => self.sight.state(),
                        Fate::Stored(stored) => left(Some(stored)),
                        Fate::Deleted => None,
                    };
                    match decide(before, change) {
                        Ok((fate, effect)) => (fate, Ok(effect)),
                        Err(err) => (Fate::Kept, Err(err)),
                    }
                }
            };
            plan.has_failed |= outcome.is_err();
            let kind = match &fate {
                Fate::Kept | Fate::Refused => Deed::Kept,
                Fate::Stored(stored) => {
                    bytes += stored.bytes.len();
                    Deed::Stored
                }
                Fate::Deleted => Deed::Deleted,
            };
            if kind != Deed::Kept {
                plan.fate = fate;
            }
            self.done.push(Did { outcome, kind });
        }
        if self.done.len() < self.writes.len() {
            self.turn.put_back(self.writes.split_off(self.done.len()));
        }
        plan
    }

    /// The commands of a plan.
    fn change(&self, plan: &Plan) -> Commands {
        let key = self.turn.key().as_str();
        if !plan.needs_sight {
            match &plan.fate {
                Fate::Stored(stored) => return plain::set(key, stored),
                Fate::Deleted => return plain::delete(key),
                Fate::Kept | Fate::Refused => {}
            }
        }
        let seen = Seen::Exactly(self.sight.state());
        scripts::change(&[KeyChange { key, seen, fate: plan.fate.in_script() }])
    }

    /// Sends commands and goes on with their replies.
    fn ask(self, asked: Asked, commands: Commands, is_write: bool) {
        let deadline = self.writes.iter().map(|write| write.deadline).min();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let slot = slot_of(self.turn.key().as_str().as_bytes());
        let front = Arc::clone(&self.front);
        front.ask(slot, commands, is_write, deadline, move |replies| self.go_on(&asked, replies));
    }

    /// Takes the replies to what was asked.
    fn go_on(mut self, asked: &Asked, replies: Result<Replies, Error>) {
        match asked.answer(replies) {
            Ok(Answer::Done(fate)) => self.end(fate),
            Ok(Answer::Otherwise(state)) => {
                self.sight = Sight::Fresh(state);
                self.run();
            }
            Err(err) => self.fail(asked, &err),
        }
    }

    /// Tells all writes that they have taken effect.
    fn end(self, fate: Fate) {
        let Self { front, turn, sight, writes, done } = self;
        let state = match fate {
            Fate::Kept | Fate::Refused => sight.into_state(),
            Fate::Stored(stored) => {
                front.waiters.changed(turn.key().as_str(), true);
                Some(*stored)
            }
            Fate::Deleted => {
                front.waiters.changed(turn.key().as_str(), false);
                None
            }
        };
        for (write, did) in writes.into_iter().zip(done) {
            write.completion.tell(did.outcome);
        }
        front.pass_on(turn, Sight::Remembered(state));
    }

    /// Tells the writes that it concerns of a failure, and runs the others again.
    fn fail(self, asked: &Asked, err: &Error) {
        let Self { front, turn, writes, done, .. } = self;
        let now = Instant::now();
        let is_late = *err == Error::NotDone(Hindrance::ClusterDown)
            && writes.iter().any(|write| write.deadline <= now);
        let mut is_first = true;
        let mut concerns = |write: &Write, did: &Did| {
            is_first &= matches!(write.op, KeyOp::Update(_));
            match asked {
                // What was no value is one for those behind a write that replaces it.
                _ if *err == Error::NotAValue => is_first,
                _ if is_late => write.deadline <= now,
                Asked::Load => true,
                Asked::Change(_) => did.kind.fails_with(err),
            }
        };
        let (mut failed, mut left) = (Vec::new(), Vec::new());
        for (write, did) in writes.into_iter().zip(done) {
            let them = if concerns(&write, &did) { &mut failed } else { &mut left };
            them.push(write);
        }
        if failed.is_empty() {
            // None has written: it was the confirmation that has failed.
            mem::swap(&mut failed, &mut left);
        }
        for write in failed {
            write.completion.tell(Err(err.clone()));
        }
        if left.is_empty() {
            front.pass_on(turn, Sight::Guess);
        } else {
            Self::new(&front, turn, Sight::Guess, left).run();
        }
    }
}

/// The answer to what a round has asked.
enum Answer {
    /// The change has taken effect, and left this.
    Done(Fate),
    /// This state is there.
    Otherwise(Option<Stored>),
}

impl Asked {
    fn answer(&self, replies: Result<Replies, Error>) -> Result<Answer, Error> {
        let reply = replies?.pop().ok_or_else(scripts::unexpected)?;
        let found = match self {
            Self::Load => scripts::loaded(reply, 1)?,
            Self::Change(fate) if plain::is_done(&reply) => return Ok(Answer::Done(fate.clone())),
            Self::Change(fate) => match scripts::changed(reply, 1)? {
                Changed::Done => return Ok(Answer::Done(fate.clone())),
                Changed::Otherwise(found) => found,
            },
        };
        Ok(Answer::Otherwise(found.into_iter().next().flatten()))
    }
}
