//! The memtable that a tree writes to, for looks that wait for no disk.
//!
//! A tree changes its version under a lock that all its reads take, at each flush and
//! compaction, and meanwhile syncs the list of its files. So whoever asks the tree for its
//! memtable may wait for the disk. Here is the one that had the last batch: once it is full
//! it is whole still, until a batch gets into another.
//!
//! The tree would free a flushed memtable under that lock too, which takes as long as its
//! items are many. So each is held here until nobody else has it, and freed elsewhere.

use super::super::background::drop_elsewhere;
use bytes::Bytes;
use fjall::{AbstractTree as _, AnyTree};
use lsm_tree::Memtable;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

pub struct ActiveMemtable {
    active: RwLock<Arc<Memtable>>,
    /// Those before it, some of which are not flushed yet.
    sealed: Mutex<Vec<Arc<Memtable>>>,
}

impl ActiveMemtable {
    pub fn of(tree: &AnyTree) -> Self {
        Self { active: RwLock::new(tree.active_memtable()), sealed: Mutex::default() }
    }

    /// The value under a key that a snapshot with this number shows, if it is here. Waits for
    /// nothing.
    pub fn get(&self, key: &[u8], number: u64) -> Option<Bytes> {
        let found = self.active().get(key, number)?;
        (!found.is_tombstone()).then(|| found.value.into())
    }

    /// Notes the one that the tree has: before a snapshot shows a batch that has got into it,
    /// and before tables are dropped that the one before may have become. Frees what nobody
    /// else has any more.
    pub fn note(&self, tree: &AnyTree) {
        let now = tree.active_memtable();
        if self.active().id() != now.id() {
            let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
            let before = mem::replace(&mut *active, now);
            drop(active);
            self.sealed().push(before);
        }
        self.free_unused();
    }

    /// Frees those that nobody else has any more, on a thread of its own.
    pub fn free_unused(&self) {
        let is_unused = |memtable: &mut Arc<Memtable>| Arc::strong_count(memtable) == 1;
        let unused: Vec<_> = self.sealed().extract_if(.., is_unused).collect();
        if !unused.is_empty() {
            drop_elsewhere(unused);
        }
    }

    /// The number of those that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        1 + self.sealed().len()
    }

    fn active(&self) -> RwLockReadGuard<'_, Arc<Memtable>> {
        // Nothing is half done under either lock.
        self.active.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn sealed(&self) -> MutexGuard<'_, Vec<Arc<Memtable>>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
