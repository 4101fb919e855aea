//! Entries that are removed and yet being sent: whoever sends a large value keeps it in
//! memory, so the account keeps it too, until it was sent.

use super::Cache;
use crate::storage::memory::maps::Maps;
use crate::storage::memory::packed::Packed;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest time that a write is taken to have an entry in hand that it has replaced.
const IN_HAND_TIME_MAX: Duration = Duration::from_millis(20);

/// The entries that are lent.
#[derive(Default)]
pub struct Lent {
    /// In the order of their removal.
    entries: Vec<Packed>,
    /// The time at which the last of them was removed.
    last: Option<Instant>,
}

impl Lent {
    /// The bytes of the last one, if no other is lent, while whoever has replaced it may have
    /// it in hand: a write does not push out for these what it has written.
    pub fn bytes_in_hand(&self) -> u64 {
        let is_in_hand = self.last.is_some_and(|last| last.elapsed() < IN_HAND_TIME_MAX);
        let Some((last, others)) = self.entries.split_last().filter(|_| is_in_hand) else {
            return 0;
        };
        let is_alone = last.is_lent() && !others.iter().any(Packed::is_lent);
        if is_alone { last.cost() } else { 0 }
    }
}

impl Cache {
    /// The entries that are lent, locked.
    pub fn lent(&self) -> MutexGuard<'_, Lent> {
        // Every change is complete before anything could panic.
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    /// Keeps an entry that was removed in the account while it is being sent. Returns it
    /// if it is not.
    pub fn lend(&self, old: Packed) -> Option<Packed> {
        let Some(cache) = &self.cache else { return Some(old) };
        if !old.is_lent() {
            return Some(old);
        }
        self.account.lend(old.cost());
        let mut lent = cache.lent();
        lent.last = Some(Instant::now());
        lent.entries.push(old);
        None
    }

    /// Lets go of the lent entries that were sent. Returns true if there are others.
    pub fn take_back(&self, cache: &Cache) -> bool {
        let mut sent = Vec::new();
        let mut lent = cache.lent();
        lent.entries.retain(|packed| {
            let is_lent = packed.is_lent();
            if !is_lent {
                sent.push(packed.clone());
            }
            is_lent
        });
        let has_others = !lent.entries.is_empty();
        drop(lent);
        for packed in sent {
            self.account.take_back(packed.cost());
        }
        has_others
    }
}
