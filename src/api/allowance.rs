//! The memory of replies that are made for one client alone, and held until it has
//! taken them: it is bounded for all clients together.

use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes of all such replies, those of them that are large.
const ALLOWED_BYTES_MAX: usize = 256 << 20;

/// A smaller reply is one of many that a server has under way anyway.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// The bytes that are allowed now, in this process.
static ALLOWED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The memory that one reply holds. Dropping it gives that back.
#[derive(Default)]
pub struct Allowance(usize);

impl Allowance {
    /// Grows to so many bytes, if it has fewer. Returns false if there is no room.
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= self.0.max(SMALL_BYTES_MAX) {
            return true;
        }
        let more = bytes - self.0;
        let grown =
            |allowed: usize| Some(allowed + more).filter(|allowed| *allowed <= ALLOWED_BYTES_MAX);
        let has_room =
            ALLOWED_BYTES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if has_room {
            self.0 = bytes;
        }
        has_room
    }

    /// A body that holds this memory as long as anybody has it.
    pub fn body(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(AllowedBytes { bytes, _allowance: self })
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        ALLOWED_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

struct AllowedBytes {
    bytes: Vec<u8>,
    _allowance: Allowance,
}

impl AsRef<[u8]> for AllowedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = ALLOWED_BYTES_MAX;

    /// One test, for there is one memory.
    #[test]
    fn large_replies_have_a_bound_in_all_and_give_it_back() {
        let mut first = Allowance::default();
        assert!(first.grow_to(MAX / 2) && first.grow_to(1));
        let mut second = Allowance::default();
        assert!(second.grow_to(MAX / 4));
        assert!(!second.grow_to(MAX), "there is no room");
        let mut small = Allowance::default();
        assert!(small.grow_to(64 << 10), "it is not counted");
        let body = second.body(b"text".to_vec());
        let slice = body.slice(1..2);
        drop((first, body));
        let mut third = Allowance::default();
        assert!(!third.grow_to(MAX), "a part of a body holds all of it");
        drop(slice);
        assert!(third.grow_to(MAX * 7 / 8));
    }
}
