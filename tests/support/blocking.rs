//! The operations of a store for callers that wait for their outcome. The unit tests
//! of the library use this file too.

use crossbeam_channel::RecvTimeoutError;
use little_key_value::storage::{BatchOp, Change, Effect, Entry, Error, Key, Listing};
use little_key_value::storage::{Op, Outage, Outcome, Page, Range, Storage, Updated};
use std::time::Duration;

/// The wait for an outcome: long, for a disk or a machine that has much else to do.
pub const TOLD: Duration = Duration::from_secs(120);

/// The operations of a store for callers that wait for their outcome.
pub trait Blocking: Storage {
    /// Does `op` and waits until it is done. Panics if that is never told.
    fn perform(&self, op: Op) -> Outcome {
        let op = match self.try_now(op) {
            Ok(outcome) => return outcome,
            Err(op) => op,
        };
        let (done, outcome) = crossbeam_channel::bounded(1);
        self.submit(op, Box::new(move |told| done.send(told).unwrap_or_default()));
        match outcome.recv_timeout(TOLD) {
            Ok(outcome) => outcome,
            // An engine that ends without an outcome was closed.
            Err(RecvTimeoutError::Disconnected) => Err(Error::Unavailable(Outage::Closed)),
            Err(RecvTimeoutError::Timeout) => panic!("the engine tells no outcome"),
        }
    }

    /// See [`Op::Get`].
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let effect = self.perform(Op::Get(key.clone()))?;
        let Effect::Found(entry) = effect else { unreachable!("a get finds, not {effect:?}") };
        Ok(entry)
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
        let effect = self.perform(Op::Update(key, change))?;
        let Effect::Updated(updated) = effect else {
            unreachable!("an update updates, not {effect:?}")
        };
        Ok(*updated)
    }

    /// See [`Op::Batch`].
    fn batch(&self, ops: Vec<(Key, BatchOp)>) -> Result<Vec<Effect>, Error> {
        let effect = self.perform(Op::Batch(ops))?;
        let Effect::Batch(effects) = effect else {
            unreachable!("a batch has effects, not {effect:?}")
        };
        Ok(effects)
    }

    /// See [`Op::UpdateFirst`].
    fn update_first(&self, prefix: &str, change: Change) -> Result<Option<(Key, Updated)>, Error> {
        let effect = self.perform(Op::UpdateFirst(prefix.into(), change))?;
        let Effect::UpdatedFirst(first) = effect else {
            unreachable!("an update updates, not {effect:?}")
        };
        Ok(first.map(|first| *first))
    }

    /// See [`Op::List`].
    fn list(&self, listing: Listing) -> Result<Page, Error> {
        let effect = self.perform(Op::List(listing.into()))?;
        let Effect::Listed(page) = effect else { unreachable!("a listing lists, not {effect:?}") };
        Ok(*page)
    }

    /// The number of keys of a range, counted in as many steps as it takes. See
    /// [`Op::Count`].
    fn count(&self, mut range: Range) -> Result<u64, Error> {
        let mut sum = 0;
        loop {
            let effect = self.perform(Op::Count(range.clone().into()))?;
            let Effect::Counted(counted, next) = effect else {
                unreachable!("a count counts, not {effect:?}")
            };
            sum += counted;
            match next {
                Some(next) => range.start = next,
                None => return Ok(sum),
            }
        }
    }

    /// See [`Op::Clear`].
    fn clear(&self) -> Result<(), Error> {
        self.perform(Op::Clear).map(drop)
    }
}

impl<T: Storage + ?Sized> Blocking for T {}
