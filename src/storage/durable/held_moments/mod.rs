//! The moments that are held for lists of many pages: an export is one.
//!
//! ```text
//! first page ──► hold ──► the view, by its number ◄── the pages that follow
//!                             │
//!             the list has ended, or the room is needed ──► gone: the next page fails
//! ```
//!
//! A view that is held keeps the files and memtables that the store had at its moment,
//! and nothing of later ones (see `tree::held_tree`). So a slow reader holds no more than
//! the store was once. Where the disk has no space for that the oldest one gives way,
//! and so it does where they hold many memtables. A clear leaves them: the files of the
//! keyspaces go with the last of their views. Nothing here knows of lists or clients.

use super::background::drop_elsewhere;
use super::walk::View;
use crate::storage::{Error, Moment};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The most memtables that are held, each of which may have been flushed since.
const MEMTABLES_MAX: usize = 16;

/// The longest time that one that is dropped may still be read: longer than a page takes.
const PAGE_TIME_MAX: Duration = Duration::from_millis(200);

/// The time between two looks at that.
const PAGE_WAIT: Duration = Duration::from_millis(1);

/// The views of an engine that are held.
#[derive(Default)]
pub struct HeldMoments(Mutex<Register>);

#[derive(Default)]
struct Register {
    /// The oldest first.
    views: BTreeMap<u64, Arc<View>>,
    next_number: u64,
    /// Threads that drop views, some of which have ended.
    removals: Vec<JoinHandle<()>>,
    is_closed: bool,
}

/// The moment of a view, which is held as long as this lives, unless the room is needed.
struct HeldMoment {
    number: u64,
    moments: Arc<HeldMoments>,
}

impl HeldMoments {
    /// Holds a view; none is held any more once the store is closed.
    pub fn hold(self: &Arc<Self>, view: View) -> Result<Moment, Error> {
        let view = Arc::new(view.hold());
        let mut register = self.lock();
        if register.is_closed {
            return Err(Error::MomentLost);
        }
        let number = register.next_number;
        register.next_number += 1;
        register.views.insert(number, view);
        let mut dropped = Vec::new();
        while register.memtables() > MEMTABLES_MAX {
            dropped.extend(register.views.pop_first());
        }
        drop(register);
        if !dropped.is_empty() {
            log::warn!("a list is cut off: too many lists are under way");
        }
        Ok(Moment::Held(Arc::new(HeldMoment { number, moments: Arc::clone(self) })))
    }

    /// The view of a moment that was given for it.
    pub fn view(self: &Arc<Self>, moment: &(dyn Any + Send + Sync)) -> Result<Arc<View>, Error> {
        let moment = moment.downcast_ref::<HeldMoment>();
        let moment = moment.filter(|moment| Arc::ptr_eq(&moment.moments, self));
        let moment = moment.ok_or_else(|| Error::internal("a moment of another store"))?;
        self.lock().views.get(&moment.number).map(Arc::clone).ok_or(Error::MomentLost)
    }

    /// Drops the oldest for the sake of space, and waits for the page that is read of it;
    /// `false` if there is none. What it has held is free then.
    pub fn drop_oldest(&self) -> bool {
        let Some((_, view)) = self.lock().views.pop_first() else { return false };
        log::warn!("a list is cut off: the space that it holds is needed");
        let begun = Instant::now();
        while Arc::strong_count(&view) > 1 && begun.elapsed() < PAGE_TIME_MAX {
            thread::sleep(PAGE_WAIT);
        }
        true
    }

    /// The number of those that are held.
    pub fn count(&self) -> usize {
        self.lock().views.len()
    }

    /// Drops all but those that are kept.
    pub fn retain(&self, is_kept: impl Fn(&View) -> bool) {
        // Dropped behind the lock, as files may go with them.
        let _dropped = self.lock().take(is_kept);
    }

    /// Drops all, and holds none from now on. Once this returns no file is touched for
    /// their sake any more, unless a page is being read.
    pub fn close(&self) {
        let mut register = self.lock();
        register.is_closed = true;
        let dropped = register.take(|_| false);
        let removals = mem::take(&mut register.removals);
        drop(register);
        drop(dropped);
        for removal in removals {
            // A panic there was logged.
            removal.join().ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        // Each critical section leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    /// The number of memtables that are held.
    fn memtables(&self) -> usize {
        let numbers = self.views.values().filter_map(|view| view.held_memtable());
        numbers.collect::<BTreeSet<_>>().len()
    }

    /// Takes out those that are not kept.
    fn take(&mut self, is_kept: impl Fn(&View) -> bool) -> Vec<Arc<View>> {
        let (kept, taken): (BTreeMap<_, _>, BTreeMap<_, _>) =
            mem::take(&mut self.views).into_iter().partition(|(_, view)| is_kept(view));
        self.views = kept;
        taken.into_values().collect()
    }
}

impl Drop for HeldMoment {
    /// May be called on any thread, as one that serves clients.
    fn drop(&mut self) {
        let mut register = self.moments.lock();
        let Some(view) = register.views.remove(&self.number) else { return };
        register.removals.retain(|removal| !removal.is_finished());
        register.removals.extend(drop_elsewhere(view));
    }
}

#[cfg(test)]
mod tests;
