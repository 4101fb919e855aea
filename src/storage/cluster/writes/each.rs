//! Several operations that need no common moment: each goes to the node of its key.
//!
//! ```text
//! operations ──► units, one for each key ──► gate ──► under way ──► tally ──► outcome
//!                                              ▲           │
//!                                              └── ended ◄─┘
//! ```
//!
//! Those of one key follow each other, in its line. Of all others some hundreds are under
//! way at once and the next wait at the gate, which all callers share, so that a crowd of
//! imports takes its time and leaves the nodes' queues to others. Of a failure that says
//! that nothing was done this is told only if it is true of them all.

use super::lines::{KeyOp, Write};
use crate::storage::cluster::Front;
use crate::storage::cluster::envelope::Stored;
use crate::storage::cluster::network::router::PATIENCE;
use crate::storage::cluster::steps;
use crate::storage::completion::Completion;
use crate::storage::{BatchOp, Done, Effect, Error, Hindrance, Key, Outcome};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most operations that are under way, but for those of one key.
const UNDER_WAY_MAX: usize = 1024;

/// The most bytes that they are to store; one more operation may have any length.
const UNDER_WAY_BYTES_MAX: usize = 16 << 20;

/// The time for an operation whose own has passed while others went on.
const OVERTIME: Duration = Duration::from_secs(1);

/// The gate that operations wait at.
#[derive(Default)]
pub struct Gate(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    units: VecDeque<Unit>,
    /// The number of operations under way.
    under_way: usize,
    /// The bytes that they are to store.
    bytes: usize,
    /// When the nodes last left one undone, or unanswered.
    failed_at: Option<Instant>,
}

/// Operations on one key.
struct Unit {
    key: Key,
    /// With their places among all of their caller.
    ops: Vec<(usize, BatchOp)>,
    deadline: Instant,
    tally: Arc<Tally>,
}

/// The outcomes of all operations of a caller. The last to come is told with it.
struct Tally(Mutex<Outcomes>);

struct Outcomes {
    effects: Vec<Option<Effect>>,
    missing: usize,
    /// The failure to be told.
    err: Option<Error>,
    completion: Option<Completion>,
}

impl Front {
    /// Does each of these operations.
    pub fn each(self: &Arc<Self>, ops: Vec<(Key, BatchOp)>, completion: Completion) {
        if ops.is_empty() {
            return completion.tell(Ok(Effect::Batch(Vec::new())));
        }
        let deadline = Instant::now() + PATIENCE;
        let (effects, missing) = (vec![None; ops.len()], ops.len());
        let outcomes = Outcomes { effects, missing, err: None, completion: Some(completion) };
        let tally = Arc::new(Tally(Mutex::new(outcomes)));
        let mut units: Vec<Unit> = Vec::with_capacity(ops.len());
        let mut places: HashMap<Key, usize> = HashMap::with_capacity(ops.len());
        for (number, (key, op)) in ops.into_iter().enumerate() {
            let place = *places.entry(key).or_insert_with_key(|key| {
                let (key, tally) = (key.clone(), Arc::clone(&tally));
                units.push(Unit { key, ops: Vec::with_capacity(1), deadline, tally });
                units.len() - 1
            });
            if let Some(unit) = units.get_mut(place) {
                unit.ops.push((number, op));
            }
        }
        self.gate.lock().units.extend(units);
        self.pass_gate();
    }

    /// Begins with those who wait, as far as there is room.
    fn pass_gate(self: &Arc<Self>) {
        while let Some((unit, deadline)) = self.gate.next() {
            self.begin(unit, deadline);
        }
    }

    /// Does the operations of a unit.
    fn begin(self: &Arc<Self>, unit: Unit, deadline: Instant) {
        let Unit { key, ops, tally, .. } = unit;
        let is_alone = ops.len() == 1;
        for (place, op) in ops {
            let (front, tally, bytes) = (Arc::clone(self), Arc::clone(&tally), bytes_of(&op));
            let done: Done = Box::new(move |outcome| {
                front.gate.note_end(bytes, &outcome);
                tally.note(place, outcome);
                steps::run(move || front.pass_gate());
            });
            let (op, is_blind) = match op {
                BatchOp::Set(entry) => (KeyOp::Set(Stored::of(entry, None).into()), true),
                BatchOp::Delete => (KeyOp::Delete, true),
                BatchOp::Remove if is_alone => {
                    self.remove(key.clone(), done.into(), deadline);
                    continue;
                }
                BatchOp::Remove => (KeyOp::Update(BatchOp::removal()), false),
                BatchOp::Update(change) => (KeyOp::Update(change), false),
            };
            let write = Write { op, completion: done.into(), deadline };
            if is_alone && is_blind {
                self.write(key.clone(), write);
            } else {
                self.write_in_line(key.clone(), write);
            }
        }
    }
}

fn bytes_of(op: &BatchOp) -> usize {
    match op {
        BatchOp::Set(entry) => entry.value().len(),
        BatchOp::Delete | BatchOp::Update(_) | BatchOp::Remove => 0,
    }
}

impl Gate {
    /// The next unit, if there is room for it, with its deadline. One that has waited for
    /// long has some time yet, unless it was the nodes that others have waited for.
    fn next(&self) -> Option<(Unit, Instant)> {
        let mut waiting = self.lock();
        if waiting.under_way >= UNDER_WAY_MAX || waiting.bytes >= UNDER_WAY_BYTES_MAX {
            return None;
        }
        let unit = waiting.units.pop_front()?;
        waiting.under_way += unit.ops.len();
        waiting.bytes += unit.ops.iter().map(|(_, op)| bytes_of(op)).sum::<usize>();
        let has_failed = waiting.failed_at.is_some_and(|at| at.elapsed() < OVERTIME);
        drop(waiting);
        let overtime = Instant::now() + OVERTIME;
        let deadline = if has_failed { unit.deadline } else { unit.deadline.max(overtime) };
        Some((unit, deadline))
    }

    /// Notes the end of an operation.
    fn note_end(&self, bytes: usize, outcome: &Outcome) {
        let mut waiting = self.lock();
        waiting.under_way -= 1;
        waiting.bytes -= bytes;
        let hindered = Error::NotDone(Hindrance::ClusterDown);
        if matches!(outcome, Err(err) if *err == hindered || *err == Error::OutcomeUnknown) {
            waiting.failed_at = Some(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn note(&self, place: usize, outcome: Outcome) {
        let mut outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(effect) => {
                if let Some(own) = outcomes.effects.get_mut(place) {
                    *own = Some(effect);
                }
            }
            Err(err) => {
                // The least that is known of any of them.
                let is_worse = outcomes.err.is_none() || err == Error::OutcomeUnknown;
                if is_worse {
                    outcomes.err = Some(err);
                }
            }
        }
        outcomes.missing -= 1;
        if outcomes.missing > 0 {
            return;
        }
        let effects: Vec<Effect> = outcomes.effects.drain(..).flatten().collect();
        let outcome = match outcomes.err.take() {
            None => Ok(Effect::Batch(effects)),
            Some(err) if effects.is_empty() => Err(err),
            Some(Error::NotDone(_) | Error::Overloaded | Error::Unavailable(_)) => {
                Err(Error::OutcomeUnknown)
            }
            Some(err) => Err(err),
        };
        let completion = outcomes.completion.take();
        drop(outcomes);
        if let Some(completion) = completion {
            completion.tell(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Entry;

    /// Units of one operation, of which each is to store so many bytes.
    fn units(count: usize, bytes: usize, deadline: Instant) -> impl Iterator<Item = Unit> {
        let (effects, missing) = (Vec::new(), count);
        let outcomes = Outcomes { effects, missing, err: None, completion: None };
        let tally = Arc::new(Tally(Mutex::new(outcomes)));
        (0..count).map(move |number| {
            let entry = Entry::new(vec![b'x'; bytes].into());
            let ops = vec![(number, BatchOp::Set(entry))];
            Unit { key: Key::new("key").unwrap(), ops, deadline, tally: Arc::clone(&tally) }
        })
    }

    fn taken(gate: &Gate) -> usize {
        std::iter::from_fn(|| gate.next()).count()
    }

    #[test]
    fn the_gate_is_bounded_by_number_and_bytes() {
        let gate = Gate::default();
        gate.lock().units.extend(units(3000, 1, Instant::now()));
        assert_eq!(taken(&gate), UNDER_WAY_MAX);
        gate.note_end(1, &Ok(Effect::Done));
        gate.note_end(1, &Ok(Effect::Done));
        assert_eq!(taken(&gate), 2);

        let gate = Gate::default();
        gate.lock().units.extend(units(20, UNDER_WAY_BYTES_MAX / 4 + 1, Instant::now()));
        assert_eq!(taken(&gate), 4);
    }

    #[test]
    fn who_has_waited_for_others_has_some_time_but_not_for_nodes_that_are_down() {
        let gate = Gate::default();
        let past = Instant::now();
        gate.lock().units.extend(units(4, 1, past));
        let (_, deadline) = gate.next().unwrap();
        assert!(deadline >= past + OVERTIME);
        gate.note_end(1, &Err(Error::Full));
        let (_, deadline) = gate.next().unwrap();
        assert!(deadline >= past + OVERTIME);
        for err in [Error::OutcomeUnknown, Error::NotDone(Hindrance::ClusterDown)] {
            gate.lock().failed_at = None;
            gate.note_end(1, &Err(err));
            // On a machine that is busy it is long ago.
            let failed_at = gate.lock().failed_at.map(|at| at + Duration::from_secs(600));
            assert!(failed_at.is_some());
            gate.lock().failed_at = failed_at;
            let (_, deadline) = gate.next().unwrap();
            assert_eq!(deadline, past);
        }
    }
}
