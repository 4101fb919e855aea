//! Moments between batches, at which a database can be read.
//!
//! A batch gets into the memtables item by item once it is synced, and plain reads see
//! it so. The database's own snapshots are no better: a flush that ends meanwhile takes
//! its number after the batch's, and lets all of them be read. So a snapshot of the
//! last moment without a batch under way is held here, and readers take copies of
//! that. It keeps no file that has become obsolete before the last batch.
//!
//! A look into a memtable takes no copy, but the number alone: both change at once.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The last moment of a database.
pub struct Moments {
    last: Mutex<fjall::Snapshot>,
    /// Its number, which changes with the lock held.
    number: AtomicU64,
}

impl Moments {
    /// Those of a database that nobody writes to yet.
    pub fn new(database: &fjall::Database) -> Self {
        let last = database.snapshot();
        Self { number: AtomicU64::new(last.seqno()), last: Mutex::new(last) }
    }

    /// A snapshot of the last moment. Nothing of a batch under way shows in it.
    pub fn snapshot(&self) -> fjall::Snapshot {
        self.lock().clone()
    }

    /// The number of that snapshot: it shows the items with lower ones. Waits for nothing.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Commits a batch of the database; one at a time. If that panics, part of it may be
    /// in the memtables: the last moment stays the one before.
    pub fn commit(
        &self,
        database: &fjall::Database,
        commit: impl FnOnce() -> fjall::Result<()>,
    ) -> fjall::Result<()> {
        let committed = commit();
        self.renew(database);
        committed
    }

    /// Takes the moment anew, with no batch under way.
    pub fn renew(&self, database: &fjall::Database) {
        let now = database.snapshot();
        let mut last = self.lock();
        // Whoever has met either finds the other behind it.
        self.number.store(now.seqno(), Ordering::Release);
        let before = mem::replace(&mut *last, now);
        drop(last);
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, fjall::Snapshot> {
        // A snapshot is whole at all times.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
