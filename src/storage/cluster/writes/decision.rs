//! Decisions on the entry of a key, and what they leave there.

use crate::storage::cluster::envelope::Stored;
use crate::storage::cluster::scripts;
use crate::storage::{Change, Decision, Effect, Error, Time, Updated};
use std::panic::{self, AssertUnwindSafe};

/// The fate of a key.
#[derive(Clone, Debug)]
pub enum Fate {
    Kept,
    Stored(Box<Stored>),
    Deleted,
    Refused,
}

impl Fate {
    /// The same for the node.
    pub fn in_script(&self) -> scripts::Fate<'_> {
        match self {
            Self::Kept | Self::Refused => scripts::Fate::Keep,
            Self::Stored(stored) => scripts::Fate::Store(stored),
            Self::Deleted => scripts::Fate::Delete,
        }
    }
}

/// Runs a change. One that panics has changed nothing.
pub fn decide(before: Option<&Stored>, change: &mut Change) -> Result<(Fate, Effect), Error> {
    let entry = before.map(|before| &before.entry);
    let decision = panic::catch_unwind(AssertUnwindSafe(|| change(entry)))
        .map_err(|_panic| Error::internal("what becomes of a key could not be decided"))?;
    let (fate, after) = match decision {
        Decision::Remove if before.is_some() => (Fate::Deleted, None),
        Decision::Keep | Decision::Remove => (Fate::Kept, entry.cloned()),
        Decision::Refuse => (Fate::Refused, entry.cloned()),
        Decision::Replace(entry) => {
            (Fate::Stored(Stored::of(entry.clone(), before).into()), Some(entry))
        }
    };
    let updated = Updated { before: entry.cloned(), after };
    Ok((fate, Effect::Updated(updated.into())))
}

/// The entry that an operation has left for the next one, if it has not expired since.
/// No node has seen it yet, so the front's own clock decides.
pub fn left(stored: Option<&Stored>) -> Option<&Stored> {
    stored.filter(|stored| stored.entry.lives(Time::now))
}
