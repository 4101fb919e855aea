//! Numbers that look random and can be had again: `LKV_TEST_SEED` repeats a
//! run whose seed a failed test has printed.

use std::hash::{BuildHasher, RandomState};

/// The `SplitMix64` generator.
pub struct Random(u64);

impl Random {
    /// The generator of this run, whose seed it prints: cargo shows what a
    /// test has printed if it fails.
    pub fn of_this_run() -> Self {
        let seed = match std::env::var("LKV_TEST_SEED") {
            Ok(text) => text.parse().expect("LKV_TEST_SEED is a number"),
            Err(_) => RandomState::new().hash_one(()),
        };
        println!("to repeat: LKV_TEST_SEED={seed}");
        Self(seed)
    }

    /// A generator for what no run is to repeat, as the choice of free ports.
    pub fn of_the_system() -> Self {
        Self(RandomState::new().hash_one(()))
    }

    /// The generator of the `index`th part of a run, for a thread of its own.
    pub fn fork(&self, index: usize) -> Self {
        let mut fork = Self(self.0 ^ (index as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(fork.next())
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than a usize")
    }

    /// One of some things.
    pub fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len())]
    }

    /// That many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
