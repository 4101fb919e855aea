//! Moments between batches, at which a database can be read.
//!
//! A batch gets into the memtables item by item once it is synced, and plain reads see
//! it so. The database's own snapshots are no better: a flush that ends meanwhile takes
//! its number after the batch's, and lets all of them be read. So a snapshot of the
//! last moment without a batch under way is held here, and readers take copies of
//! that. It keeps no file that has become obsolete before the last batch.
//!
//! A plain read costs less, and is torn only by a batch that is to be seen at once. Of
//! these there is a count, as of a seqlock: it is odd while one is under way. A reader
//! that has met an item of a batch has acquired what the committer released with it,
//! and so finds, behind its read, the count that was made odd before. One that has
//! found the count even, and behind its read the same again, has met all items of the
//! batches counted and none of another.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// The last moment of a database, and the batches since it was opened.
pub struct Moments {
    last: Mutex<fjall::Snapshot>,
    is_under_way: AtomicBool,
    /// Twice the batches that are seen at once.
    count: AtomicU64,
}

impl Moments {
    /// Those of a database that nobody writes to yet.
    pub fn new(database: &fjall::Database) -> Self {
        Self {
            last: Mutex::new(database.snapshot()),
            is_under_way: AtomicBool::new(false),
            count: AtomicU64::new(0),
        }
    }

    /// A snapshot of the last moment. Nothing of a batch under way shows in it.
    pub fn snapshot(&self) -> fjall::Snapshot {
        self.lock().clone()
    }

    /// Waits until snapshots show the item with this number, where it is of a batch
    /// under way.
    pub fn wait_for(&self, number: Option<u64>) {
        let Some(number) = number else { return };
        while self.is_under_way.load(Ordering::Acquire) && self.lock().seqno() <= number {
            thread::yield_now();
        }
    }

    /// Reads plainly, as under a seqlock; `None` if that may have met some of a batch that is
    /// seen at once, and no more of it.
    pub fn optimistic_read<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let before = self.count.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        let found = read();
        // The next look is not taken before this one has ended.
        fence(Ordering::Acquire);
        (self.count.load(Ordering::Relaxed) == before).then_some(found)
    }

    /// Commits a batch of the database; one at a time. If that panics, part of it may be
    /// in the memtables: the last moment stays the one before, and the count odd.
    pub fn commit(
        &self,
        database: &fjall::Database,
        is_seen_at_once: bool,
        commit: impl FnOnce() -> fjall::Result<()>,
    ) -> fjall::Result<()> {
        let step = u64::from(is_seen_at_once);
        let _under_way = UnderWay::begin(&self.is_under_way);
        // Whatever is written behind this is released after it.
        self.count.fetch_add(step, Ordering::Relaxed);
        let committed = commit();
        let before = self.replace(database);
        self.count.fetch_add(step, Ordering::Release);
        drop(before);
        committed
    }

    /// Takes the moment anew, with no batch under way.
    pub fn renew(&self, database: &fjall::Database) {
        drop(self.replace(database));
    }

    fn replace(&self, database: &fjall::Database) -> fjall::Snapshot {
        let now = database.snapshot();
        mem::replace(&mut *self.lock(), now)
    }

    fn lock(&self) -> MutexGuard<'_, fjall::Snapshot> {
        // A snapshot is whole at all times.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flag that is set as long as this lives.
struct UnderWay<'a>(&'a AtomicBool);

impl<'a> UnderWay<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
