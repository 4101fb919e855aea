//! The resident memory of the process, which a store that evicts keeps within its limit and
//! some MiB.
//!
//! ```text
//! a check, a few times a second  too much: pages given back ──► yet too much: lower the bound
//!                                enough left: raise it
//! an upload, before each piece   too much: it waits
//! ```
//!
//! The account knows the bytes of entries as they are allocated. The process takes more:
//! pages that are not empty yet, uploads, replies under way, its threads.

use super::Cache;
use crate::platform::{allocator, process};
use crate::storage::memory::Memory;
use crate::storage::memory::maps::Maps;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The interval between two checks of resident memory, and the bytes that are evicted
/// until there is one.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const CHECK_BYTES: u64 = 4 << 20;

/// The bytes evicted past which a write trims memory itself.
pub const CHECK_BYTES_MAX: u64 = 8 << 20;

/// The interval while there is too much of it, or while removed entries are lent.
pub const CHECK_INTERVAL_SHORT: Duration = Duration::from_millis(30);

/// The interval between two falls of the bound: until then what was evicted may come
/// together and be given back. The second is that while memory is tight.
const FALL_INTERVAL: Duration = Duration::from_secs(1);
const FALL_INTERVAL_SHORT: Duration = Duration::from_millis(250);

/// The bound rises by this part of the headroom with each check.
const RISE_PART: u64 = 16;

/// The resident bytes beyond the limit past which pages are given back at once.
const RESIDENT_BEYOND_BYTES: u64 = 12 << 20;

/// The bytes beyond these past which the bound falls.
const RESIDENT_SPARE_BYTES: u64 = 3 << 20;

/// The bytes beyond both past which it falls quickly, and past which nobody rests who lays
/// entries together.
const RESIDENT_TIGHT_BYTES: u64 = 1 << 20;

/// The resident bytes beyond the limit that uploads may bring it to.
const RESIDENT_MAX_BEYOND_BYTES: u64 = 20 << 20;

/// The resident bytes of a thread, which has a connection mostly. They are not of the store.
const THREAD_BYTES: u64 = 35 << 10;

/// Tells resident bytes, if they are known.
pub type Resident = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// The resident bytes of the process against those that it may have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headroom {
    /// The bytes that it has too many.
    over: u64,
    /// The bytes that it could have more.
    left: u64,
}

impl Memory {
    /// Has a store that evicts keep the whole process within its limit and some MiB, where
    /// the process is there for this store. Without this the limit is for what it holds.
    pub fn limit_process(&self) {
        if let Some(cache) = &self.0.cache {
            cache.resident.get_or_init(|| Box::new(resident_of_process));
        }
    }
}

impl Cache {
    /// Returns true if so much was evicted that the process may take too much memory: what
    /// is freed is not given back at once.
    pub fn is_check_due(&self) -> bool {
        self.evicted_bytes.load(Ordering::Relaxed) >= CHECK_BYTES
    }

    /// Returns true while uploads wait for memory to come together, or the process takes far
    /// too much.
    pub fn is_tight(&self) -> bool {
        self.is_tight.load(Ordering::Relaxed)
    }
}

impl Maps {
    /// Returns true if the process has memory for what is coming, or if the store has no
    /// more of it to give: what else takes it is not the store's. Else memory comes
    /// together meanwhile.
    pub fn has_memory_for(&self, cache: &Cache, coming: u64) -> bool {
        let (Some(max), Some(resident)) = (self.account.max(), cache.resident.get()) else {
            return true;
        };
        let allowed = max.saturating_add(RESIDENT_MAX_BEYOND_BYTES).saturating_sub(coming);
        let fits = || resident().is_none_or(|resident| resident <= allowed);
        if fits() || (allocator::give_back_pages() && fits()) || !self.account.can_fall() {
            return true;
        }
        cache.is_tight.store(true, Ordering::Relaxed);
        cache.ring();
        self.wake_defragmenter_if_of_use();
        false
    }

    /// Gives pages back if the process has more than the limit and some MiB. Returns its
    /// headroom after that, if it is known.
    pub fn trim_memory(&self) -> Option<Headroom> {
        let tell = self.cache.as_ref().and_then(|cache| cache.resident.get())?;
        let allowed = self.account.max()?.saturating_add(RESIDENT_BEYOND_BYTES);
        let mut resident = tell()?;
        if resident > allowed && allocator::give_back_pages() {
            resident = tell().unwrap_or(resident);
        }
        let (over, left) = (resident.saturating_sub(allowed), allowed.saturating_sub(resident));
        Some(Headroom { over, left })
    }
}

/// The evictor's governor of the bound: it checks the memory of the process, and has the
/// bound fall or rise.
pub struct Governor {
    /// The time of the last check.
    checked_at: Instant,
    /// The time of the last fall of the bound.
    fell_at: Instant,
    /// The interval until the next check.
    interval: Duration,
}

impl Governor {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { checked_at: now, fell_at: now, interval: CHECK_INTERVAL }
    }

    /// The interval until the next check.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Checks the process, if that is due. What it takes too much is elsewhere, or among
    /// entries that stay: so the bound falls step by step.
    pub fn govern(&mut self, maps: &Maps, cache: &Cache) {
        if !cache.is_check_due() && self.checked_at.elapsed() < self.interval {
            return;
        }
        cache.evicted_bytes.store(0, Ordering::Relaxed);
        self.checked_at = Instant::now();
        let Headroom { over, left } = maps.trim_memory().unwrap_or_default();
        maps.account.move_bound(0, left / RISE_PART);
        let over = over.saturating_sub(RESIDENT_SPARE_BYTES);
        self.interval = if over > 0 { CHECK_INTERVAL_SHORT } else { CHECK_INTERVAL };
        let is_far_over = over > RESIDENT_TIGHT_BYTES;
        let is_tight = cache.is_tight.swap(is_far_over, Ordering::Relaxed) || is_far_over;
        let (interval, part) = if is_tight { (FALL_INTERVAL_SHORT, 2) } else { (FALL_INTERVAL, 4) };
        if over > 0 && self.fell_at.elapsed() >= interval {
            maps.account.move_bound(over / part, 0);
            maps.wake_defragmenter_if_of_use();
            self.fell_at = self.checked_at;
        }
    }
}

/// The resident bytes of this process but for those of its threads.
fn resident_of_process() -> Option<u64> {
    let process::Resident { bytes, threads } = process::resident()?;
    Some(bytes.saturating_sub(threads * THREAD_BYTES))
}
