//! The state of the store that all threads see.

use crate::storage::Outage;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The outage, if there is one, and the wish to close soon.
#[derive(Default)]
pub struct Status {
    outage: Mutex<Option<Outage>>,
    is_hurried: AtomicBool,
}

impl Status {
    /// The reason why no writes are taken; `None` if they are.
    pub fn outage(&self) -> Option<Outage> {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the outage; gives the one before.
    pub fn set(&self, outage: Option<Outage>) -> Option<Outage> {
        let mut current = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, outage)
    }

    /// Has no write wait for anything that takes long.
    pub fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }

    pub fn is_hurried(&self) -> bool {
        self.is_hurried.load(Ordering::Relaxed)
    }
}
