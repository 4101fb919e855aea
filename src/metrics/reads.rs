//! Reads of one key: hits, which found a value, and misses.
//!
//! A request that reads a key is a hit or a miss by its status, so it is counted once, with
//! all other requests, and only a reader tells them apart. Those of a batch are counted
//! here.

use super::Exposition;

/// The methods of reads.
pub const METHODS: [&str; 2] = ["GET", "HEAD"];

/// The statuses of a hit: all of the value or a part of it; that it is the one which the
/// client has, or none of those that it asked for; or that it ends before the part.
const HIT_STATUSES: [u16; 5] = [200, 206, 304, 412, 416];

/// The status of a miss.
const MISS_STATUS: u16 = 404;

/// Numbers of reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Those that found a value.
    pub hits: u64,
    /// Those that found none.
    pub misses: u64,
}

impl Reads {
    /// Adds so many reads that were answered with this status. Any other status than those
    /// of hits and misses says nothing of the key.
    pub fn add(&mut self, status: u16, count: u64) {
        if HIT_STATUSES.contains(&status) {
            self.hits += count;
        } else if status == MISS_STATUS {
            self.misses += count;
        }
    }

    /// Writes them.
    pub fn report(self, to: &mut Exposition) {
        let help = "Reads of one key that found a value: GET and HEAD, also in a batch.";
        to.counter("lkv_hits_total", help, self.hits);
        let help = "Reads of one key that found none.";
        to.counter("lkv_misses_total", help, self.misses);
    }
}
