//! Keys, entries and the engines that hold them.
//!
//! Nothing here knows HTTP. An engine is used through one shared
//! `dyn Storage` by many threads at once; its locks live inside it and are
//! never held across a socket call. A new engine is a folder here that implements
//! [`Storage`], and a line in the tests that run on every engine. What they share:
//!
//! - `entry`, `record`, `time`: a value with its metadata, its form in bytes, and the clock
//!   by which it expires;
//! - `page`: lists, page by page;
//! - `waiters`, `changes`, `agenda`: who waits for a key, who watches many, and the threads
//!   that wake both; `prefixes` finds those of a key;
//! - `pool`, `completion`: threads for what takes long, and the end of an operation;
//! - `frequency`: the record of uses, for an engine that evicts;
//! - `report`: the metrics of every engine.

mod agenda;
mod changes;
mod cluster;
mod completion;
mod durable;
mod entry;
mod frequency;
mod memory;
mod page;
mod pool;
mod prefixes;
mod record;
mod report;
mod time;
mod waiters;

use crate::metrics::Exposition;
use smol_str::SmolStr;
use std::borrow::Borrow;
use std::sync::Arc;

pub use changes::{
    Change as Changed, Changes, Event, HISTORY_BYTES, InvalidRevision, Read, Revision, WakeWatcher,
    Watched, Watcher,
};
pub use cluster::{Cluster, Config as ClusterConfig, ConnectError, Seed};
pub use durable::{Durable, OpenError};
pub use entry::{COPIED_BYTES_MAX, Digest, Entry};
pub use memory::{KEYS_SHARDS, Memory};
pub use page::{Listing, Moment, PAGE_BYTES_MAX, PAGE_KEYS_MAX, Page, Range, Start};
pub use time::Time;
pub use waiters::{Subject, Ticket, Waiters, Wake};

/// The fate of a write past an engine's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused, and all that was stored stays.
    #[default]
    Refuse,
    /// The keys of the least use are evicted for it.
    Evict,
}

/// The limits of an engine that keeps its entries itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that it takes of memory, or of the disk for one that is there.
    pub bytes: u64,
    /// The fate of a write past it.
    pub when_full: WhenFull,
    /// The bytes that the change log keeps, about, beside the others.
    pub history_bytes: usize,
}

/// The memory that values on their way want, over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The bytes of what has come and of the next piece of each.
    pub bytes: u64,
    /// The bytes of the pieces alone, which may not have come yet.
    pub coming: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: u64::MAX, when_full: WhenFull::Refuse, history_bytes: HISTORY_BYTES }
    }
}

/// The longest key, in bytes of its UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;

/// A key: UTF-8 of 1 to [`KEY_BYTES_MAX`] bytes. A short one is no allocation, which
/// another thread would free.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(SmolStr);

/// A text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidKey {
    /// No bytes.
    Empty,
    /// More than [`KEY_BYTES_MAX`] bytes.
    TooLong,
}

/// It is hashed and compared as its text.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Key {
    /// The key of a text of any characters.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidKey> {
        let text = text.as_ref();
        match text.len() {
            0 => Err(InvalidKey::Empty),
            1..=KEY_BYTES_MAX => Ok(Self(SmolStr::new(text))),
            _ => Err(InvalidKey::TooLong),
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A failure of the engine. An absent key is not an error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The write does not fit. Nothing has changed.
    #[error("storage is full")]
    Full,
    /// No write is taken until the outage ends; reads go on. The write that meets
    /// it is not acknowledged: once the outage has ended, or after a restart, it
    /// may be there, whole.
    #[error("storage takes no writes: {0}")]
    Unavailable(Outage),
    /// The nodes of a cluster could not do it in time. Nothing has changed.
    #[error("not done: {0}")]
    NotDone(Hindrance),
    /// It was sent to a node, and no answer came: it may have been done, or be done yet.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
    /// Another application keeps something else than a value there.
    #[error("what is stored is no value")]
    NotAValue,
    /// The keys are in different slots of a cluster, and so cannot change together.
    #[error("the keys are in different slots")]
    SlotsDiffer,
    /// Clearing deletes what other applications keep there, and is not allowed.
    #[error("clearing is not allowed")]
    ClearForbidden,
    /// A node refuses the front's commands, as to one without the rights.
    #[error("a node has refused")]
    NodeRefused,
    /// The engine's queue is full.
    #[error("too many operations at once")]
    Overloaded,
    /// The moment of a listing is held no more: the engine needs the room.
    #[error("the moment is held no more")]
    MomentLost,
    /// The stored entry cannot be read.
    #[error("what is stored cannot be read")]
    Internal(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// The cause of an engine's refusal of all writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outage {
    /// The disk has no room. Deleting may make some.
    #[error("the disk is full")]
    DiskFull,
    /// A write to the disk has failed. Nothing more is written before the state of
    /// the disk is certain, which may take until the next start.
    #[error("the disk has failed")]
    DiskFailed,
    /// The directory of the store is not where it was, or another is there.
    /// Nothing more is written until the next start.
    #[error("its directory was moved or removed")]
    DirectoryLost,
    /// The engine was closed.
    #[error("it is closed")]
    Closed,
}

/// The reason why the nodes of a cluster have not done something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hindrance {
    /// The node in charge does not answer, or the cluster is down.
    #[error("the cluster does not answer")]
    ClusterDown,
    /// Fewer replicas are connected than a write needs.
    #[error("too few replicas are connected")]
    ReplicasTooFew,
    /// The node cannot write to its disk, and takes no writes.
    #[error("a node of the cluster takes no writes")]
    NodeReadOnly,
}

impl Error {
    /// An [`Error::Internal`] with a text for its cause.
    fn internal(text: &str) -> Self {
        let cause: Box<dyn std::error::Error + Send + Sync> = text.into();
        Self::Internal(cause.into())
    }
}

impl PartialEq for Error {
    /// Errors with a cause are equal only as copies of the same one.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full, Self::Full)
            | (Self::Overloaded, Self::Overloaded)
            | (Self::MomentLost, Self::MomentLost)
            | (Self::OutcomeUnknown, Self::OutcomeUnknown)
            | (Self::NotAValue, Self::NotAValue)
            | (Self::SlotsDiffer, Self::SlotsDiffer)
            | (Self::ClearForbidden, Self::ClearForbidden)
            | (Self::NodeRefused, Self::NodeRefused) => true,
            (Self::Unavailable(one), Self::Unavailable(other)) => one == other,
            (Self::NotDone(one), Self::NotDone(other)) => one == other,
            (Self::Internal(one), Self::Internal(other)) => Arc::ptr_eq(one, other),
            (
                Self::Full
                | Self::Unavailable(_)
                | Self::Overloaded
                | Self::MomentLost
                | Self::NotDone(_)
                | Self::OutcomeUnknown
                | Self::NotAValue
                | Self::SlotsDiffer
                | Self::ClearForbidden
                | Self::NodeRefused
                | Self::Internal(_),
                _,
            ) => false,
        }
    }
}

/// The fate of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Its entry stays, or its absence.
    Keep,
    /// This entry takes the place of the old one.
    Replace(Entry),
    /// It becomes absent.
    Remove,
    /// As [`Decision::Keep`]; in a batch nothing is done at all.
    Refuse,
}

/// A pure function from the entry of a key, or none, to the key's fate. It may be
/// called several times, on any thread; the last call counts.
pub type Change = Box<dyn FnMut(Option<&Entry>) -> Decision + Send>;

/// The entries before and after an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// The entry that the change was decided on.
    pub before: Option<Entry>,
    /// The entry since then.
    pub after: Option<Entry>,
}

/// An operation of a store.
pub enum Op {
    /// Read the entry under a key.
    Get(Key),
    /// Store an entry in place of the old one.
    Set(Key, Entry),
    /// Delete a key. Deleting an absent key succeeds.
    Delete(Key),
    /// Change a key depending on its entry, atomically: no other write comes between
    /// the entry that the change was shown and the one that takes its place.
    Update(Key, Change),
    /// Do several operations at one moment, or none of them: nobody sees some done
    /// and others not. Each sees the outcome of those before it; a key may repeat. With
    /// the first [`Decision::Refuse`] it ends, and nothing has changed.
    Batch(Vec<(Key, BatchOp)>),
    /// Do several operations, which may be seen one by one: a cluster does each alone, in
    /// order only where a key repeats. If it fails some of them may be done.
    Each(Vec<(Key, BatchOp)>),
    /// Change the first key with a prefix, if there is one: of many who do, each is
    /// shown what the others have left.
    UpdateFirst(Box<str>, Change),
    /// Delete every key. Takes time in proportion to the store; reads wait for
    /// none of it.
    Clear,
    /// Read a page of the sorted keys: all of a batch is on it, or none.
    List(Box<Listing>),
    /// Count some keys of a range, in a step that takes no longer than a page.
    Count(Box<Range>),
}

/// An operation on one key among those of a batch.
pub enum BatchOp {
    /// As [`Op::Set`].
    Set(Entry),
    /// As [`Op::Delete`].
    Delete,
    /// As an update that deletes the key if it is there. An engine that does not look at
    /// what was there tells of an entry without bytes.
    Remove,
    /// As [`Op::Update`].
    Update(Change),
}

impl BatchOp {
    /// The change of [`BatchOp::Remove`].
    fn removal() -> Change {
        Box::new(|before| if before.is_some() { Decision::Remove } else { Decision::Keep })
    }
}

/// The effect of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Of [`Op::Get`]: the entry; absence is `None`.
    Found(Option<Entry>),
    /// Of [`Op::Set`], [`Op::Delete`] and [`Op::Clear`].
    Done,
    /// Of [`Op::Update`].
    Updated(Box<Updated>),
    /// Of [`Op::Batch`] and [`Op::Each`]: one for each operation. If one of a batch was
    /// refused it is the last here, and nothing has changed.
    Batch(Vec<Effect>),
    /// Of [`Op::UpdateFirst`]; without such a key `None`.
    UpdatedFirst(Option<Box<(Key, Updated)>>),
    /// Of [`Op::List`].
    Listed(Box<Page>),
    /// Of [`Op::Count`]: how many keys there are up to the start of the rest, if there
    /// is one.
    Counted(u64, Option<Start>),
}

/// The outcome of an operation. On an error nothing has changed, but see [`Op::Each`],
/// [`Error::Unavailable`] and [`Error::OutcomeUnknown`].
pub type Outcome = Result<Effect, Error>;

/// A completion: called once with the outcome of an operation, on any thread. It
/// does not block.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// A map from keys to entries that many threads use at once.
///
/// Each operation is atomic: it takes effect at one moment between its start and
/// its outcome, for all keys it names, and a later one sees it. An entry that
/// has expired is absent for all of them from that moment on.
///
/// An engine has two doors: an operation is tried first, and submitted if it cannot
/// be done at once.
pub trait Storage: Send + Sync {
    /// Does `op` if memory alone can, at once, else gives it back untouched.
    /// Never blocks, never takes long.
    fn try_now(&self, op: Op) -> Result<Outcome, Op>;

    /// Returns true while others do the operations, and so many that they gain by coming
    /// together: who submits them may wait for more. Never blocks.
    fn gathers(&self) -> bool {
        false
    }

    /// Does `op` and calls `done` once with the outcome: before this returns, or
    /// later on a thread of the engine's own. Never blocks, and takes no longer than
    /// a copy of the entry in `op`.
    fn submit(&self, op: Op, done: Done);

    /// Those who wait for a key; `None` if the engine does not tell of changes. Never
    /// blocks.
    fn waiters(&self) -> Option<&Waiters> {
        None
    }

    /// The change log; `None` if the engine has none. Never blocks.
    fn changes(&self) -> Option<&Changes> {
        None
    }

    /// Fails while no writes are taken. Never blocks.
    fn check(&self) -> Result<(), Error>;

    /// The bytes that values on their way may take, if that is limited. An engine that
    /// evicts begins to make room for those that are wanted. Waits for nobody, but may give
    /// memory back to the system.
    fn room(&self, _wanted: Wanted) -> Option<u64> {
        None
    }

    /// Writes the metrics of the engine. Never waits for a disk.
    fn report(&self, _to: &mut Exposition) {}

    /// Ends every long wait inside the engine, as the one for room on a full disk:
    /// its operation is refused. To be called before the callers that wait for
    /// outcomes are stopped. Never blocks.
    fn hurry(&self) {}

    /// Finishes the writes that were submitted and takes no more, where they are to
    /// outlive the process; one that comes too late is told so. On an error something
    /// that was acknowledged may be lost. Blocks until then.
    fn close(&self) -> Result<(), Error>;
}

#[cfg(test)]
#[path = "../../tests/support/blocking.rs"]
mod blocking;
#[cfg(test)]
pub use blocking::Blocking;
#[cfg(test)]
#[path = "../../tests/support/listings.rs"]
mod listings;
#[cfg(test)]
#[path = "../../tests/support/threads.rs"]
mod threads;
#[cfg(test)]
mod waiting;
