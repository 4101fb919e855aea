//! Memory for bodies on their way, over all connections.
//!
//! A body counts from its first bytes until its request has been answered:
//! by then it is stored, and the storage counts it, or it is gone.

use crate::api::Api;
use crate::storage::Wanted;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time that an upload waits until it is refused, if none of the others ends, and the
/// most time if some do.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// The time after which it asks again for room that the storage may have made.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The least memory for bodies where the storage has no limit.
const UNLIMITED_BYTES_MIN: u64 = 1 << 30;

/// The number of longest values that always fit.
const LONGEST_MIN: u64 = 4;

/// The bodies on their way.
#[derive(Default)]
pub struct Uploads {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    /// The bytes of all bodies.
    bytes: u64,
    /// Those of the last piece of each.
    coming: u64,
    /// One of them has overdrawn: it goes on past the maximum, by a longest value at most,
    /// so that those who wait for each other do not wait in vain.
    is_overdrawn: bool,
    /// The number of bodies that have ended.
    ended: u64,
}

/// Memory reserved for one body, until this is dropped.
pub struct Reservation {
    uploads: Arc<Uploads>,
    bytes: u64,
    /// Those of its last piece: what was reserved before has come.
    coming: u64,
    /// It is the one that has overdrawn.
    has_overdrawn: bool,
}

/// The limit on bytes of bodies: the storage's room, if that is limited, or else as many
/// as some longest values.
fn bytes_max(storage_room: Option<u64>, longest: u64) -> u64 {
    storage_room.unwrap_or(UNLIMITED_BYTES_MIN.max(LONGEST_MIN.saturating_mul(longest)))
}

impl Uploads {
    /// The bytes reserved for all of them.
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// An empty reservation.
    pub fn new(uploads: &Arc<Uploads>) -> Self {
        Self { uploads: Arc::clone(uploads), bytes: 0, coming: 0, has_overdrawn: false }
    }

    /// Reserves `more` bytes of what bodies for an API may take. Blocks for a while if
    /// others have too many; `false` if there is no room then.
    pub fn reserve(&mut self, more: u64, api: &Api) -> bool {
        let longest = api.value_bytes_max();
        self.extend(more, longest, |wanted| bytes_max(api.room(wanted), longest))
    }

    /// The same of what is there now. Waits for no other.
    pub fn reserve_now(&mut self, more: u64, api: &Api) -> bool {
        let longest = api.value_bytes_max();
        let uploads = Arc::clone(&self.uploads);
        let mut state = uploads.state();
        self.try_extend(&mut state, more, longest, |wanted| bytes_max(api.room(wanted), longest))
    }

    /// Reserves `more` bytes, of at most `max` over all bodies, which is asked with the
    /// memory that is wanted over all. Blocks for a while if others have too many; `false`
    /// if there is no room then. Unless `max` is nothing, a body that is alone has room, and
    /// one at a time has a `longest` value more.
    fn extend(&mut self, more: u64, longest: u64, max: impl Fn(Wanted) -> u64) -> bool {
        let start = Instant::now();
        let uploads = Arc::clone(&self.uploads);
        let mut state = uploads.state();
        let (mut ended, mut deadline) = (state.ended, start + PATIENCE);
        loop {
            if self.try_extend(&mut state, more, longest, &max) {
                return true;
            }
            let now = Instant::now();
            if state.ended != ended {
                (ended, deadline) = (state.ended, (now + PATIENCE).min(start + PATIENCE_MAX));
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            let freed = uploads.freed.wait_timeout(state, left.min(POLL_INTERVAL));
            (state, _) = freed.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn try_extend(
        &mut self,
        state: &mut State,
        more: u64,
        longest: u64,
        max: impl Fn(Wanted) -> u64,
    ) -> bool {
        let wanted = state.bytes.saturating_add(more);
        let coming = (state.coming - self.coming).saturating_add(more);
        let bytes_max = max(Wanted { bytes: wanted, coming });
        let fits = wanted <= bytes_max;
        let is_alone = state.bytes == self.bytes;
        let may_overdraw = (self.has_overdrawn || !state.is_overdrawn)
            && (is_alone || wanted <= bytes_max.saturating_add(longest));
        if fits || (may_overdraw && bytes_max > 0) {
            self.has_overdrawn |= !fits;
            state.is_overdrawn |= !fits;
            (state.bytes, state.coming) = (wanted, coming);
            self.bytes += more;
            self.coming = more;
            return true;
        }
        false
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.uploads.state();
            state.bytes -= self.bytes;
            state.coming -= self.coming;
            state.is_overdrawn &= !self.has_overdrawn;
            state.ended += 1;
            drop(state);
            self.uploads.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    #[test]
    fn bodies_share_what_there_is_and_one_at_a_time_may_go_past_it() {
        let uploads = Arc::default();
        let new = || Reservation::new(&uploads);
        let (mut one, mut other, mut third) = (new(), new(), new());
        assert!(one.extend(60, 1000, |_| 100));
        assert!(other.extend(40, 1000, |_| 100));
        assert!(other.extend(1, 1000, |_| 100));
        assert!(!one.extend(1, 1000, |_| 100));
        assert!(!third.extend(1, 1000, |_| 100));
        assert!(other.extend(100, 1000, |_| 100));
        drop(other);
        assert!(third.extend(40, 1000, |_| 100));
        assert!(third.extend(1, 1000, |_| 100));
        drop((one, third));
        assert_eq!(uploads.bytes(), 0);
    }

    #[test]
    fn one_at_a_time_goes_past_it_by_a_longest_value() {
        let uploads = Arc::default();
        let (mut one, mut other) = (Reservation::new(&uploads), Reservation::new(&uploads));
        assert!(one.extend(60, 10, |_| 100));
        assert!(other.extend(50, 10, |_| 100));
        assert!(!other.extend(1, 10, |_| 100));
        // The storage has as much less room as it has taken.
        assert!(!other.extend(1, 10, |_| 99));
        drop(one);
        // Alone it may have any.
        assert!(other.extend(1000, 10, |_| 100));
    }

    #[test]
    fn one_that_waits_gets_what_another_leaves() {
        let uploads = Arc::default();
        let (mut one, mut other) = (Reservation::new(&uploads), Reservation::new(&uploads));
        assert!(one.extend(101, 1000, |_| 100));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| other.extend(100, 1000, |_| 100));
            drop(one);
            assert!(waiting.join().expect("it does not panic"));
        });
    }

    #[test]
    fn one_that_waits_gets_what_the_storage_makes_room_for() {
        let uploads = Arc::default();
        let (mut one, mut other) = (Reservation::new(&uploads), Reservation::new(&uploads));
        assert!(one.extend(101, 1000, |_| 100));
        let asked = AtomicU64::new(0);
        let room = |wanted: Wanted| asked.fetch_max(wanted.bytes, Ordering::Relaxed);
        assert!(other.extend(50, 1000, room));
        assert_eq!(asked.into_inner(), 151);
    }

    #[test]
    fn the_last_piece_of_each_is_still_to_come() {
        let uploads = Arc::default();
        let (mut one, mut other) = (Reservation::new(&uploads), Reservation::new(&uploads));
        let asked = AtomicU64::new(0);
        let reserve = |body: &mut Reservation, more| {
            let is_granted = body.extend(more, 1000, |wanted| {
                asked.store(wanted.coming, Ordering::Relaxed);
                100
            });
            assert!(is_granted);
            asked.load(Ordering::Relaxed)
        };
        assert_eq!(reserve(&mut one, 10), 10);
        assert_eq!(reserve(&mut other, 5), 15);
        assert_eq!(reserve(&mut one, 20), 25);
        drop(other);
        assert_eq!(reserve(&mut one, 1), 1);
    }

    #[test]
    fn a_limit_of_the_storage_counts() {
        assert_eq!(bytes_max(Some(0), 1), 0);
        assert_eq!(bytes_max(Some(u64::MAX), 1), u64::MAX);
        assert_eq!(bytes_max(None, 1), UNLIMITED_BYTES_MIN);
        assert_eq!(bytes_max(None, 1 << 30), 4 << 30);
    }
}
