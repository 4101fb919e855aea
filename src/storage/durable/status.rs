//! Whether writes are taken, for all threads to see.

use crate::storage::Outage;
use std::sync::{Mutex, PoisonError};

/// The outage that there is. Looked at for a moment, by whoever asks.
#[derive(Default)]
pub(super) struct Status {
    outage: Mutex<Option<Outage>>,
}

impl Status {
    /// Why no writes are taken; `None` if they are.
    pub(super) fn outage(&self) -> Option<Outage> {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it; gives what it was.
    pub(super) fn set(&self, outage: Option<Outage>) -> Option<Outage> {
        let mut current = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, outage)
    }
}
