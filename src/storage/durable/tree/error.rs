//! The errors of the database, and what each means for the writes after it.

use std::io;
use std::panic::{self, AssertUnwindSafe};

/// The outcome of a call of the database.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the database has not done as it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be written or synced, and may be on the disk or not.
    #[error("{what}: {source}")]
    Uncertain { what: &'static str, source: fjall::Error },
    /// The directory is not where it was.
    #[error("the directory is not where it was")]
    Lost,
    /// Anything else; all acknowledged batches are on the disk.
    #[error("{0}")]
    Database(#[from] fjall::Error),
}

impl Error {
    /// A panic of the database, which may hold changes that are in no journal.
    pub fn panicked() -> Self {
        Self::Database(fjall::Error::Unrecoverable)
    }

    /// A failure to write or sync the journal. A database that has failed before
    /// writes nothing.
    pub fn of_the_journal(source: impl Into<fjall::Error>) -> Self {
        let source = source.into();
        let is_known = matches!(source, fjall::Error::Poisoned);
        if is_known { Self::Database(source) } else { Self::uncertain("the journal", source) }
    }

    /// A failure that leaves it unknown whether `what` is on the disk.
    pub fn uncertain(what: &'static str, source: impl Into<fjall::Error>) -> Self {
        Self::Uncertain { what, source: source.into() }
    }

    /// Returns true if nothing may be written before the next start.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Uncertain { .. } | Self::Database(fjall::Error::Unrecoverable))
    }

    /// Returns true if the disk, or this process's share of it, is full.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};

        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(err) = cause {
            if let Some(err) = err.downcast_ref::<io::Error>() {
                return matches!(err.kind(), FileTooLarge | QuotaExceeded | StorageFull);
            }
            cause = err.source();
        }
        false
    }
}

impl From<lsm_tree::Error> for Error {
    fn from(err: lsm_tree::Error) -> Self {
        Self::Database(err.into())
    }
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        Self::Database(err.into())
    }
}

/// Does something that may panic on damage or after a failure.
pub fn unless_panic<T>(action: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|_panic| Err(Error::panicked()))
}
