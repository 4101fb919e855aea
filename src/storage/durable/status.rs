//! Whether writes are taken, and may wait, for all threads to see.

use crate::storage::Outage;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The outage that there is, looked at for a moment by whoever asks, and whether
/// the store is about to be closed.
#[derive(Default)]
pub struct Status {
    outage: Mutex<Option<Outage>>,
    is_hurried: AtomicBool,
}

impl Status {
    /// Why no writes are taken; `None` if they are.
    pub fn outage(&self) -> Option<Outage> {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it; gives what it was.
    pub fn set(&self, outage: Option<Outage>) -> Option<Outage> {
        let mut current = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, outage)
    }

    /// Has writes wait for nothing any more that takes long.
    pub fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }

    /// Whether they are not to wait.
    pub fn is_hurried(&self) -> bool {
        self.is_hurried.load(Ordering::Relaxed)
    }
}
