//! The account of the bytes held, with their maximum.
//!
//! That of a store that evicts has a bound beside it, which falls where the process takes
//! more memory than the account knows of. Writes may pass the bound by a small debt, which
//! whoever evicts works off.

use super::packed::Packed;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most bytes past the bound, and the part of the maximum that they are: a large value
/// does not wait until all small ones are gone that have its room.
const DEBT_BYTES_MAX: u64 = 12 << 20;
const DEBT_PART: u64 = 4;

/// The bound falls by this part of the maximum at most: what else the process takes is
/// little of a store's, or not to be had from it.
const BOUND_PART: u64 = 4;

/// The bytes held, and their maximum.
pub struct Account {
    held: AtomicU64,
    /// The bytes of entries that are removed and yet are being sent, beside those held.
    lent: AtomicU64,
    /// The bytes down to which is evicted; without eviction the maximum.
    bound: AtomicU64,
    /// The bound while nothing lowers it.
    bound_max: u64,
    debt_max: u64,
    /// The bytes freed, but for those whose place others took that are as large.
    freed: AtomicU64,
    max: u64,
}

/// The account would pass its maximum.
#[derive(Debug)]
pub struct Full {
    /// The bytes that there is no room for.
    pub wanted: u64,
}

impl Full {
    /// There is no room for an entry.
    #[allow(clippy::needless_pass_by_value, reason = "it is not to be stored")]
    pub fn of(packed: Packed) -> Self {
        Self { wanted: packed.cost() }
    }
}

impl Account {
    /// An account of nothing that may not pass `max`.
    pub fn new(max: u64) -> Self {
        Self {
            held: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            bound: AtomicU64::new(max),
            bound_max: max,
            debt_max: 0,
            max,
        }
    }

    /// That of a store that evicts, of which `kept` bytes go to something else.
    pub fn evicting(max: u64, kept: u64) -> Self {
        let (bound_max, debt_max) =
            (max.saturating_sub(kept), (max / DEBT_PART).min(DEBT_BYTES_MAX));
        Self { bound: AtomicU64::new(bound_max), bound_max, debt_max, ..Self::new(max) }
    }

    /// The bytes held.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The maximum, if there is one.
    pub fn max(&self) -> Option<u64> {
        (self.max < u64::MAX).then_some(self.max)
    }

    /// The bound.
    pub fn bound(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    /// The bytes that are left within it.
    pub fn left(&self) -> u64 {
        self.bound().saturating_sub(self.taken())
    }

    /// The bytes held and lent.
    fn taken(&self) -> u64 {
        self.held().saturating_add(self.lent.load(Ordering::Relaxed))
    }

    /// Counts a removed entry that is being sent.
    pub fn lend(&self, bytes: u64) {
        self.lent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts it no more.
    pub fn take_back(&self, bytes: u64) {
        self.lent.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The bytes that are left and so many beyond the bound, if there is a maximum.
    pub fn room(&self, beyond: u64) -> Option<u64> {
        self.max().map(|_max| self.left().saturating_add(beyond))
    }

    /// Returns true if so many bytes more do not fit within the bound.
    pub fn is_over(&self, more: u64) -> bool {
        self.exceeds(more, 0)
    }

    /// The same past the bound and so many bytes that are spared.
    pub fn exceeds(&self, more: u64, spared: u64) -> bool {
        self.taken().saturating_add(more) > self.bound().saturating_add(spared)
    }

    /// Returns true if so many bytes may fit once other entries are gone: an eighth is left
    /// for the maps, and for keys that come meanwhile.
    pub fn can_hold(&self, bytes: u64) -> bool {
        bytes <= self.bound_max / 8 * 7
    }

    /// Lowers the bound by some bytes, or raises it by others.
    pub fn move_bound(&self, down: u64, up: u64) {
        let bound = self.bound().saturating_sub(down).saturating_add(up);
        self.bound.store(bound.clamp(self.bound_min(), self.bound_max), Ordering::Relaxed);
    }

    /// Returns true if the bound can fall.
    pub fn can_fall(&self) -> bool {
        self.bound() > self.bound_min()
    }

    fn bound_min(&self) -> u64 {
        self.bound_max - self.bound_max / BOUND_PART
    }

    /// Sets the bytes held to zero; returns them.
    pub fn clear(&self) -> u64 {
        self.held.swap(0, Ordering::Relaxed)
    }

    /// Exchanges `freed` bytes for `taken` more. Refuses, and changes nothing,
    /// if the account grows and would pass its maximum, or can never hold what is taken.
    pub fn exchange(&self, freed: u64, taken: u64) -> Result<(), Full> {
        if self.debt_max > 0 && taken > freed && !self.can_hold(taken) {
            return Err(Full { wanted: taken });
        }
        let wanted = taken.saturating_sub(freed);
        let max = self.bound().saturating_add(self.debt_max);
        let max = max.saturating_sub(self.lent.load(Ordering::Relaxed));
        let fits = |held: u64| {
            let after = held.saturating_sub(freed).saturating_add(taken);
            (after <= max || taken <= freed).then_some(after)
        };
        let exchanged = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if freed != taken && exchanged.is_ok() {
            self.freed.fetch_add(freed, Ordering::Relaxed);
        }
        exchanged.map(drop).map_err(|_held| Full { wanted })
    }

    /// The bytes freed by what has become smaller, larger or nothing.
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// Begins to count the bytes freed anew.
    pub fn reset_freed(&self) {
        self.freed.store(0, Ordering::Relaxed);
    }

    /// Ends a reservation of so many bytes, of which others were taken. None of them was
    /// there before, so none is freed.
    pub fn settle(&self, reserved: u64, taken: i64) {
        self.held.fetch_add(taken.cast_unsigned().wrapping_sub(reserved), Ordering::Relaxed);
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
