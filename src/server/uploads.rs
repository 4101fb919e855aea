//! Memory for bodies on their way, over all connections.
//!
//! A body counts from its first bytes until its request has been answered:
//! by then it is stored, and the storage counts it, or it is gone.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time that an upload waits for others until it is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Memory for bodies beyond the storage's own limit, where it has one.
const BEYOND_LIMIT_BYTES: u64 = 32 << 20;

/// The least memory for bodies where the storage has no limit.
const UNLIMITED_BYTES_MIN: u64 = 1 << 30;

/// The number of longest values that always fit.
const LONGEST_MIN: u64 = 4;

/// The bodies on their way.
#[derive(Default)]
pub struct Uploads {
    bytes: Mutex<u64>,
    freed: Condvar,
}

/// Memory reserved for one body, until this is dropped.
pub struct Reservation {
    uploads: Arc<Uploads>,
    bytes: u64,
}

/// The limit on bytes of bodies, from the storage's room, if that is limited, and
/// the longest value.
pub fn bytes_max(storage_room: Option<u64>, longest: u64) -> u64 {
    let unlimited = UNLIMITED_BYTES_MIN.max(LONGEST_MIN.saturating_mul(longest));
    storage_room.map_or(unlimited, |room| room.saturating_add(BEYOND_LIMIT_BYTES))
}

impl Uploads {
    /// The bytes reserved for all of them.
    pub fn bytes(&self) -> u64 {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// An empty reservation.
    pub fn new(uploads: &Arc<Uploads>) -> Self {
        Self { uploads: Arc::clone(uploads), bytes: 0 }
    }

    /// Reserves `more` bytes, of at most `max()` over all bodies. Blocks for a
    /// while if others have too many; `false` if there is no room then. A body
    /// that is alone always has room.
    pub fn extend(&mut self, more: u64, max: impl Fn() -> u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = self.uploads.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if *bytes == self.bytes || bytes.saturating_add(more) <= max() {
                *bytes += more;
                self.bytes += more;
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.uploads.freed.wait_timeout(bytes, left);
            (bytes, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            *self.uploads.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
            self.uploads.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn bodies_share_what_there_is() {
        let uploads = Arc::default();
        let (mut one, mut other) = (Reservation::new(&uploads), Reservation::new(&uploads));
        assert!(one.extend(60, || 100));
        assert!(other.extend(40, || 100));
        assert!(!other.extend(1, || 100));
        drop(one);
        assert!(other.extend(60, || 100));
        // Alone it may have more.
        assert!(other.extend(60, || 100));
        drop(other);
        assert_eq!(*uploads.bytes.lock().expect("nobody panics with it"), 0);
    }

    #[test]
    fn one_that_waits_gets_what_another_leaves() {
        let uploads = Arc::default();
        let (mut one, mut other) = (Reservation::new(&uploads), Reservation::new(&uploads));
        assert!(one.extend(100, || 100));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| other.extend(100, || 100));
            drop(one);
            assert!(waiting.join().expect("it does not panic"));
        });
    }

    #[test]
    fn a_limit_of_the_storage_counts() {
        assert_eq!(bytes_max(Some(0), 1), BEYOND_LIMIT_BYTES);
        assert_eq!(bytes_max(Some(5), 1), 5 + BEYOND_LIMIT_BYTES);
        assert_eq!(bytes_max(Some(u64::MAX), 1), u64::MAX);
        assert_eq!(bytes_max(None, 1), UNLIMITED_BYTES_MIN);
        assert_eq!(bytes_max(None, 1 << 30), 4 << 30);
    }
}
