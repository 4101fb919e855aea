//! The operations of a store for callers that wait for their outcome. The unit tests
//! of the library use this file too.

use little_key_value::storage::{Change, Effect, Entry, Error, Key};
use little_key_value::storage::{Op, Outage, Outcome, Storage, Updated};

/// The operations of a store for callers that wait for their outcome.
pub trait Blocking: Storage {
    /// Does `op` and waits until it is done.
    fn perform(&self, op: Op) -> Outcome {
        let op = match self.try_now(op) {
            Ok(outcome) => return outcome,
            Err(op) => op,
        };
        let (done, outcome) = crossbeam_channel::bounded(1);
        self.submit(op, Box::new(move |told| done.send(told).unwrap_or_default()));
        // An engine that ends without an outcome was closed.
        outcome.recv().unwrap_or(Err(Error::Unavailable(Outage::Closed)))
    }

    /// See [`Op::Get`].
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        match self.perform(Op::Get(key.clone()))? {
            Effect::Found(entry) => Ok(entry),
            Effect::Done | Effect::Updated(_) => unreachable!("a get finds"),
        }
    }

    /// See [`Op::Set`].
    fn set(&self, key: Key, entry: Entry) -> Result<(), Error> {
        self.perform(Op::Set(key, entry)).map(drop)
    }

    /// See [`Op::Delete`].
    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.perform(Op::Delete(key.clone())).map(drop)
    }

    /// See [`Op::Update`].
    fn update(&self, key: Key, change: Change) -> Result<Updated, Error> {
        match self.perform(Op::Update(key, change))? {
            Effect::Updated(updated) => Ok(*updated),
            Effect::Found(_) | Effect::Done => unreachable!("an update updates"),
        }
    }

    /// See [`Op::Clear`].
    fn clear(&self) -> Result<(), Error> {
        self.perform(Op::Clear).map(drop)
    }
}

impl<T: Storage + ?Sized> Blocking for T {}
