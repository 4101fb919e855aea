//! The account of the bytes held, with their maximum.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes held, and their maximum.
pub struct Account {
    held: AtomicU64,
    /// The bytes freed, but for those whose place others took that are as large.
    freed: AtomicU64,
    max: u64,
}

/// The account would pass its maximum.
#[derive(Debug)]
pub struct Full;

impl Account {
    /// An account of nothing that may not pass `max`.
    pub fn new(max: u64) -> Self {
        Self { held: AtomicU64::new(0), freed: AtomicU64::new(0), max }
    }

    /// The bytes held.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The maximum, if there is one.
    pub fn max(&self) -> Option<u64> {
        (self.max < u64::MAX).then_some(self.max)
    }

    /// The bytes that are left, if there is a maximum.
    pub fn room(&self) -> Option<u64> {
        self.max().map(|max| max.saturating_sub(self.held()))
    }

    /// Sets the bytes held to zero; returns them.
    pub fn clear(&self) -> u64 {
        self.held.swap(0, Ordering::Relaxed)
    }

    /// Exchanges `freed` bytes for `taken` more. Refuses, and changes nothing,
    /// if the account grows and would pass its maximum.
    pub fn exchange(&self, freed: u64, taken: u64) -> Result<(), Full> {
        let fits = |held: u64| {
            let after = held.saturating_sub(freed).saturating_add(taken);
            (after <= self.max || taken <= freed).then_some(after)
        };
        let exchanged = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if freed != taken && exchanged.is_ok() {
            self.freed.fetch_add(freed, Ordering::Relaxed);
        }
        exchanged.map(drop).map_err(|_held| Full)
    }

    /// The bytes freed by what has become smaller, larger or nothing.
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// Begins to count the bytes freed anew.
    pub fn take_freed(&self) {
        self.freed.store(0, Ordering::Relaxed);
    }

    /// Replaces `before` bytes by `after`, past the maximum if need be.
    pub fn record(&self, before: u64, after: u64) {
        // In one step, so that nobody sees the sum pass the maximum. Wrapping
        // around makes an addition of a difference below zero.
        self.held.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        if before > after {
            self.freed.fetch_add(before - after, Ordering::Relaxed);
        }
    }
}
