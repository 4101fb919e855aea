//! The judge of concurrent histories: is there an order of the calls, one
//! after the other, that explains everything the clients saw?
//!
//! The order may not contradict time: a call that had returned before another
//! was made comes first. The search is that of Wing and Gong (1993) with Lowe's
//! memory of the positions already visited, which keeps it near linear for
//! histories of few clients. It knows a store of numbers and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;

/// A call on a store of numbers. Keys are numbers too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads a key.
    Get(usize),
    /// Stores a number under a key.
    Set(usize, u64),
    /// Deletes a key.
    Delete(usize),
    /// Stores a number under a key, and sees what was there.
    Exchange(usize, u64),
    /// Deletes a key, and sees what was there.
    Take(usize),
    /// Reads two keys at one moment.
    GetBoth([usize; 2]),
    /// Stores a number under two keys at one moment, and sees what was there.
    ExchangeBoth([usize; 2], u64),
    /// Deletes every key.
    Clear,
}

/// The numbers that a call has seen: those of one key or of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saw(pub [Option<u64>; 2]);

impl From<Option<u64>> for Saw {
    fn from(number: Option<u64>) -> Self {
        Self([number, None])
    }
}

/// A call that was made, and has returned or was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who made it, for the report alone.
    pub client: usize,
    /// What was called.
    pub call: Call,
    /// What a get, an exchange or a take saw; the others see nothing.
    pub saw: Saw,
    /// A tick of the common clock before the call.
    pub invoked: u64,
    /// A tick of the common clock after its return, or after the end of what
    /// was called.
    pub returned: u64,
    /// Nobody has learnt whether it took effect: it may have done nothing.
    pub is_lost: bool,
}

/// A history that no order explains.
#[derive(Debug)]
pub struct Violation {
    /// The most calls that could be put in order.
    pub explained: usize,
    /// The calls that could have come next, and could not.
    pub stuck: Vec<Operation>,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "no order explains the history; after {} calls:", self.explained)?;
        for operation in &self.stuck {
            let Operation { client, call, saw, invoked, returned, is_lost } = operation;
            let Saw(saw) = saw;
            let lost = if *is_lost { ", lost" } else { "" };
            writeln!(
                formatter,
                "  client {client}: {call:?} saw {saw:?} in {invoked}..{returned}{lost}"
            )?;
        }
        Ok(())
    }
}

/// Judges each key by itself; a clear counts as a delete of each. Nothing was called
/// on two keys.
pub fn check_each_key(history: &[Operation]) -> Result<(), Violation> {
    let keys: BTreeSet<usize> =
        history.iter().filter_map(|operation| operation.call.key()).collect();
    keys.into_iter().try_for_each(|key| {
        let concerns = |operation: &&Operation| operation.call.key().is_none_or(|own| own == key);
        check(&history.iter().filter(concerns).copied().collect::<Vec<_>>())
    })
}

/// Judges the history as a whole, so that a clear is one moment for all keys.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut history = history.to_vec();
    history.sort_by_key(|operation| operation.invoked);

    let mut visited = HashSet::new();
    let mut waiting = vec![Position::default()];
    let mut furthest = Position::default();
    while let Some(position) = waiting.pop() {
        if position.taken.count == history.len() {
            return Ok(());
        }
        for index in position.candidates(&history) {
            let operation = &history[index];
            let in_vain = operation.is_lost.then(|| position.without(index));
            for next in position.with(index, operation).into_iter().chain(in_vain) {
                if visited.insert(next.clone()) {
                    waiting.push(next);
                }
            }
        }
        if position.taken.count > furthest.taken.count {
            furthest = position;
        }
    }
    let stuck = furthest.candidates(&history).into_iter().map(|index| history[index]).collect();
    Err(Violation { explained: furthest.taken.count, stuck })
}

impl Call {
    fn key(&self) -> Option<usize> {
        match *self {
            Self::Get(key)
            | Self::Set(key, _)
            | Self::Delete(key)
            | Self::Exchange(key, _)
            | Self::Take(key) => Some(key),
            Self::Clear => None,
            Self::GetBoth(_) | Self::ExchangeBoth(..) => {
                unreachable!("it is judged as a part of the whole")
            }
        }
    }
}

/// How far an order has come: which calls are in it and what the store holds
/// after them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Position {
    taken: Calls,
    store: BTreeMap<usize, u64>,
}

impl Position {
    /// The calls that time allows to come next: those made before any that is
    /// still open has returned.
    fn candidates(&self, history: &[Operation]) -> Vec<usize> {
        let mut first_return = u64::MAX;
        let mut candidates = Vec::new();
        for (index, operation) in history.iter().enumerate().skip(self.taken.all_below) {
            if operation.invoked > first_return {
                break;
            }
            if !self.taken.contains(index) {
                first_return = first_return.min(operation.returned);
                candidates.push(index);
            }
        }
        candidates
    }

    /// The position after one more call, unless it saw something else.
    fn with(&self, index: usize, operation: &Operation) -> Option<Self> {
        let number = |key: usize| self.store.get(&key).copied();
        let saw = match operation.call {
            Call::Get(key) | Call::Exchange(key, _) | Call::Take(key) => number(key).into(),
            Call::GetBoth(keys) | Call::ExchangeBoth(keys, _) => Saw(keys.map(number)),
            Call::Set(..) | Call::Delete(_) | Call::Clear => Saw::default(),
        };
        if saw != operation.saw {
            return None;
        }
        let mut next = self.clone();
        match operation.call {
            Call::Get(_) | Call::GetBoth(_) => {}
            Call::Set(key, value) | Call::Exchange(key, value) => {
                next.store.insert(key, value);
            }
            Call::Delete(key) | Call::Take(key) => drop(next.store.remove(&key)),
            Call::ExchangeBoth(keys, value) => next.store.extend(keys.map(|key| (key, value))),
            Call::Clear => next.store.clear(),
        }
        next.taken.insert(index);
        Some(next)
    }

    /// The position after one more call that has done nothing.
    fn without(&self, index: usize) -> Self {
        let mut next = self.clone();
        next.taken.insert(index);
        next
    }
}

/// A set of calls, nearly all of which are the first ones.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Calls {
    count: usize,
    /// These are in the set whatever `bits` say; a multiple of 64.
    all_below: usize,
    /// Those from `all_below` on, 64 to a word.
    bits: VecDeque<u64>,
}

impl Calls {
    fn contains(&self, index: usize) -> bool {
        let Some(above) = index.checked_sub(self.all_below) else { return true };
        self.bits.get(above / 64).is_some_and(|word| word & (1 << (above % 64)) != 0)
    }

    /// Adds a call that is not in the set.
    fn insert(&mut self, index: usize) {
        let above = index - self.all_below;
        if self.bits.len() <= above / 64 {
            self.bits.resize(above / 64 + 1, 0);
        }
        self.bits[above / 64] |= 1 << (above % 64);
        self.count += 1;
        while self.bits.front() == Some(&u64::MAX) {
            self.bits.pop_front();
            self.all_below += 64;
        }
    }
}
