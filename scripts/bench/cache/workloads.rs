//! What is asked for, by chance that is the same in each run, and the values.

use std::f64::consts::TAU;

/// Chance that is the same in each run (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// At least 0 and below 1.
    fn fraction(&mut self) -> f64 {
        fraction(self.next())
    }
}

fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Ranks from 0, each asked for in proportion to the inverse of its place to some power.
pub struct Zipfian {
    /// The sum of the weights of all ranks up to each.
    sums: Vec<f64>,
}

impl Zipfian {
    pub fn new(count: u64, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weight = |rank: u64| ((rank + 1) as f64).powf(-exponent);
        Self {
            sums: (0..count)
                .map(|rank| {
                    sum += weight(rank);
                    sum
                })
                .collect(),
        }
    }

    fn rank(&self, chance: &mut Chance) -> u64 {
        let place = chance.fraction() * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum <= place) as u64
    }
}

/// The requests of a workload, the same in each run.
pub struct Requests<'a> {
    kind: Kind,
    keys: u64,
    /// How many requests later all keys are scanned again, or all are replaced.
    period: u64,
    ranks: &'a Zipfian,
    chance: Chance,
    pub turn: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Zipfian, and no more.
    Zipfian,
    /// And all keys in turn once in each period, as every other request until all had theirs.
    Scan,
    /// Six of ten requests are for keys that nobody asks for again.
    OneHit,
    /// Each key gives its place to a new one once in each period, at a moment of its own.
    Shift,
}

/// The seconds of a period.
pub fn period_seconds(workload: &str) -> u64 {
    match Kind::from_name(workload) {
        Kind::Zipfian | Kind::OneHit => 1,
        Kind::Scan => 60,
        Kind::Shift => 40,
    }
}

impl Kind {
    fn from_name(name: &str) -> Self {
        match name {
            "zipfian" => Self::Zipfian,
            "scan" => Self::Scan,
            "one-hit" => Self::OneHit,
            "shift" => Self::Shift,
            other => panic!("no such workload: {other}"),
        }
    }
}

/// A key that is asked for.
pub struct Request {
    pub key: u64,
    /// Whether it is neither of the scan nor of those that come once.
    pub is_usual: bool,
}

impl<'a> Requests<'a> {
    pub fn new(workload: &str, keys: u64, period: u64, ranks: &'a Zipfian) -> Self {
        let kind = Kind::from_name(workload);
        Self { kind, keys, period, ranks, chance: Chance(1), turn: 0 }
    }

    /// A key of the zipfian. Neighbours in rank are none among the keys.
    fn usual(&mut self) -> u64 {
        scattered(self.ranks.rank(&mut self.chance), self.keys)
    }

    pub fn next(&mut self) -> Request {
        let turn = self.turn;
        self.turn += 1;
        match self.kind {
            Kind::Zipfian => Request { key: self.usual(), is_usual: true },
            Kind::Scan => {
                let (at, is_scan) = (turn % self.period / 2, turn % 2 == 0);
                if is_scan && at < self.keys {
                    return Request { key: at, is_usual: false };
                }
                Request { key: self.usual(), is_usual: true }
            }
            Kind::OneHit => {
                if self.chance.fraction() < 0.6 {
                    return Request { key: self.keys + turn, is_usual: false };
                }
                Request { key: self.usual(), is_usual: true }
            }
            Kind::Shift => {
                let place = self.usual();
                let phase = (fraction(mixed(place)) * self.period as f64) as u64;
                let generation = (turn + phase) / self.period;
                Request { key: generation * self.keys + place, is_usual: true }
            }
        }
    }
}

/// Another place for each of so many, the same each time.
fn scattered(rank: u64, count: u64) -> u64 {
    // A prime, which has no factor in common with a count of keys below it.
    const STEP: u64 = 2_147_483_647;
    rank * STEP % count
}

/// The values of all keys; each key has the same one always.
pub struct Values {
    /// Of each; 0 stands for sizes as of a build cache.
    bytes: usize,
    pool: Vec<u8>,
}

/// The bytes from which all values are cut; the largest value is smaller.
const POOL_BYTES: usize = (10 << 20) + SHIFT_BYTES;
/// How far apart the beginnings of two values in the pool may be.
const SHIFT_BYTES: usize = 1 << 16;

impl Values {
    pub fn new(bytes: usize) -> Self {
        let mut chance = Chance(7);
        let pool = (0..POOL_BYTES / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
        Self { bytes, pool }
    }

    pub fn of(&self, key: u64) -> &[u8] {
        let bytes = if self.bytes == 0 { build_cache_bytes(key) } else { self.bytes };
        let start = mixed(key) as usize % SHIFT_BYTES;
        &self.pool[start..start + bytes]
    }
}

/// Log-normal around 16 KiB, from 1 KiB to 10 MiB: objects and archives of a build.
fn build_cache_bytes(key: u64) -> usize {
    let (one, other) = (fraction(mixed(key ^ 0x5bd1)).max(1e-12), fraction(mixed(key ^ 0xe995)));
    let normal = (-2.0 * one.ln()).sqrt() * (TAU * other).cos();
    ((16_384.0 * (1.6 * normal).exp()) as usize).clamp(1 << 10, 10 << 20)
}
