//! The record of how often keys were used lately, for engines that evict.
//!
//! ```text
//! a use at the time t adds 2^t:      priority of a key = 2^t1 + 2^t2 + 2^t3 ...
//! t counts half-lives:               a use a half-life ago adds half as much as one at t
//!
//! priority  eeeeeeeeee mmmmmm        a float of 16 bits, and the time is one of these
//! access    priority | tick          what an entry in memory keeps: 32 bits
//! slot      priority | mark          what the record keeps of a key: 32 bits
//! ```
//!
//! This is forward decay (Cormode and others, 2009): a priority never has to be aged, as it
//! is the newer uses that weigh more. Priorities are compared by their distance from that of
//! the present, so they may wrap around.
//!
//! Time passes with what is replaced, and not by a clock: in one turnover a cache replaces
//! as many entries as it has. So what is of use stays for as long as nothing better comes.
//!
//! A record has room for so many keys, and forgets those of the least priority. It knows
//! keys by their hash alone, of which it keeps 16 bits, so now and then it takes one key
//! for another. Nothing here locks or waits: where threads remember neighbours at the same
//! moment, one of these may be lost.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The turnovers in which a use comes to count half: a power of two, and its bits.
const HALF_LIFE_TURNOVERS: f32 = 8.0;
const HALF_LIFE_BITS: u32 = 3;

/// The bits of the time behind those of a turnover.
const TURNOVER_BITS: u32 = 32;

/// A tick is this part of a turnover, as a number of bits: the 256th.
const TICK_BITS: u32 = 8;

/// The bits of a priority's mantissa: so many parts has a half-life.
const MANTISSA_BITS: u32 = 6;

/// The bits of the time that priorities leave out.
const PRIORITY_SHIFT: u32 = TURNOVER_BITS + HALF_LIFE_BITS - MANTISSA_BITS;

/// The slots of a bucket: a cache line.
const BUCKET_SLOTS: usize = 16;

/// The part of the keys that nobody asks for any more with each turnover, about. A key is
/// taken for one of them once its silence is too long for its rate.
const ENDS_BY_TURNOVER: f32 = 0.05;

/// The worth that a key loses in a turnover without a use, where the last one counts alone.
const LRU_OCTAVES: f32 = 2.0;

/// The result of [`Frequencies::of`] for one use at present, and the step with which twice
/// as many uses raise it.
const ONE_USE: i16 = 64;
const DOUBLE_USES: i16 = 8;

/// Of so many notes of keys that come to a record one passes its time, by chance.
const NOTES_EACH_PASS: u32 = 16;

/// The record of keys that were used lately, shared by all threads.
pub struct Frequencies {
    buckets: Box<[Bucket]>,
    /// The turnovers so far, in fixed point.
    turnovers: AtomicU64,
}

/// Slots of keys with neighbouring hashes; an empty slot is zero.
#[repr(align(64))]
struct Bucket([AtomicU32; BUCKET_SLOTS]);

/// A moment in the time of a record: turnovers in fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

/// The sum of the uses of a key, the later the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(u16);

/// The uses of an entry in memory: their priority, and the tick of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u32);

/// The order in which keys are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The least often used one first.
    Lfu,
    /// The one first whose last use was the longest ago.
    Lru,
}

impl Frequencies {
    /// An empty record for so many keys or some more; it takes four bytes for each.
    pub fn with_keys(keys: usize) -> Self {
        let empty = || Bucket(std::array::from_fn(|_| AtomicU32::new(0)));
        let buckets = keys.div_ceil(BUCKET_SLOTS).max(1);
        Self {
            buckets: std::iter::repeat_with(empty).take(buckets).collect(),
            turnovers: AtomicU64::new(1 << TURNOVER_BITS),
        }
    }

    /// The bytes that it takes.
    pub fn bytes(&self) -> u64 {
        size_of_val(&*self.buckets) as u64
    }

    /// The present.
    pub fn turn(&self) -> Turn {
        Turn(self.turnovers.load(Ordering::Relaxed))
    }

    /// Has the time pass in which one of so many entries is replaced.
    pub fn pass(&self, entries: usize) {
        self.turnovers.fetch_add((1 << TURNOVER_BITS) / (entries as u64).max(1), Ordering::Relaxed);
    }

    /// Notes a use of the key with this hash. The record is its own cache: with each key
    /// that is new to it time passes.
    pub fn note(&self, hash: u64) {
        let (turn, chance) = (self.turn(), chance());
        match self.find(hash) {
            Ok((slot, known)) => {
                let used = with_priority(known, priority_of(known).used(turn, chance));
                if used != known {
                    slot.store(used, Ordering::Relaxed);
                }
            }
            Err(slot) => {
                slot.store(mark(hash) | with_priority(0, turn.priority()), Ordering::Relaxed);
                // One note of some passes the time of all.
                if chance.is_multiple_of(NOTES_EACH_PASS) {
                    let keys = self.buckets.len() * BUCKET_SLOTS;
                    self.pass(keys / NOTES_EACH_PASS as usize);
                }
            }
        }
    }

    /// The uses of the key with this hash, of late: zero if nothing is known of it, 64
    /// if once at present, 8 more for each time that the uses are twice as many, and 8 less
    /// for each half-life since then.
    pub fn of(&self, hash: u64) -> u8 {
        let Ok((_, known)) = self.find(hash) else { return 0 };
        let distance = priority_of(known).distance(self.turn());
        let octave = 1 << MANTISSA_BITS;
        let place = ONE_USE.saturating_add(distance / (octave / DOUBLE_USES));
        u8::try_from(place.clamp(1, i16::from(u8::MAX))).unwrap_or(u8::MAX)
    }

    /// Keeps the priority of a key that is evicted.
    pub fn remember(&self, hash: u64, priority: Priority) {
        let slot = match self.find(hash) {
            Ok((slot, _)) | Err(slot) => slot,
        };
        slot.store(mark(hash) | with_priority(0, priority), Ordering::Relaxed);
    }

    /// The priority of a key that was remembered, unless it was forgotten since.
    pub fn recall(&self, hash: u64) -> Option<Priority> {
        self.find(hash).ok().map(|(_, known)| priority_of(known))
    }

    /// The slot of a key and its content, or else the one of its bucket that is best
    /// forgotten.
    fn find(&self, hash: u64) -> Result<(&AtomicU32, u32), &AtomicU32> {
        let place = (u128::from(hash) * self.buckets.len() as u128) >> u64::BITS;
        let bucket = usize::try_from(place).ok().and_then(|place| self.buckets.get(place));
        let Bucket(slots) = bucket.expect("the place is below the number of buckets");
        let (mark, turn) = (mark(hash), self.turn());
        let mut least = (i16::MAX, None);
        for slot in slots {
            let content = slot.load(Ordering::Relaxed);
            if content & MARK_MAX == mark {
                return Ok((slot, content));
            }
            let distance = match content {
                0 => i16::MIN,
                _ => priority_of(content).distance(turn),
            };
            if distance < least.0 || least.1.is_none() {
                least = (distance, Some(slot));
            }
        }
        Err(least.1.expect("a bucket has slots"))
    }
}

/// The bits of a slot that tell keys of its bucket apart.
const MARK_MAX: u32 = u16::MAX as u32;

/// The mark of a hash, which is not zero: from the bits that choose no bucket.
fn mark(hash: u64) -> u32 {
    ((hash & 0xffff) as u32).max(1)
}

/// The priority in the upper half of some bits.
fn priority_of(bits: u32) -> Priority {
    Priority((bits >> 16) as u16)
}

/// The bits with another priority in their upper half.
fn with_priority(bits: u32, Priority(priority): Priority) -> u32 {
    bits & MARK_MAX | u32::from(priority) << u16::BITS
}

impl Turn {
    /// The priority of one use at this moment.
    pub fn priority(self) -> Priority {
        Priority((self.0 >> PRIORITY_SHIFT & 0xffff) as u16)
    }

    /// The number of the tick.
    fn tick(self) -> u16 {
        (self.0 >> (TURNOVER_BITS - TICK_BITS) & 0xffff) as u16
    }
}

impl Priority {
    /// The priority with one more use. What is less than a bit of the mantissa is added by
    /// chance.
    #[must_use]
    pub fn used(self, turn: Turn, chance: u32) -> Self {
        const ONE: u16 = 1 << MANTISSA_BITS;
        let now = turn.priority();
        let (greater, less) = if self.distance(turn) < 0 { (now, self) } else { (self, now) };
        let shift = u32::from((greater.0 >> MANTISSA_BITS).wrapping_sub(less.0 >> MANTISSA_BITS));
        let shift = shift & u32::from(u16::MAX >> MANTISSA_BITS);
        let shift = shift.min(u32::BITS - 1);
        let added = ONE + less.0 % ONE;
        let part = (1 << shift) - 1;
        let by_chance = u16::from(chance & part < u32::from(added) & part);
        let sum = ONE + greater.0 % ONE + added.checked_shr(shift).unwrap_or(0) + by_chance;
        let half_lives = greater.0 - greater.0 % ONE;
        Self(if sum < 2 * ONE {
            half_lives + (sum - ONE)
        } else {
            half_lives.wrapping_add(sum / 2)
        })
    }

    /// How far it is above one use at this moment, in parts of a half-life.
    fn distance(self, turn: Turn) -> i16 {
        self.0.wrapping_sub(turn.priority().0).cast_signed()
    }
}

impl Access {
    /// The uses of an entry that comes, with what is remembered of its key.
    pub fn first(turn: Turn, remembered: Option<Priority>) -> Self {
        let priority = remembered.map(|known| known.used(turn, chance()));
        Self(with_priority(turn.tick().into(), priority.unwrap_or(turn.priority())))
    }

    /// The same and one more.
    #[must_use]
    pub fn again(self, turn: Turn) -> Self {
        Self(with_priority(turn.tick().into(), self.priority().used(turn, chance())))
    }

    /// The uses of these bits.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits that it is kept as.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The priority.
    pub fn priority(self) -> Priority {
        priority_of(self.0)
    }

    /// The turnovers since the last use, below zero if that came after the moment: so what
    /// was used later is the younger, whenever the moment was.
    pub fn age(self, turn: Turn) -> f32 {
        let ticks = turn.tick().wrapping_sub((self.0 & 0xffff) as u16);
        f32::from(ticks.cast_signed()) / f32::from(1_u16 << TICK_BITS)
    }

    /// The use that an entry will be of, as a logarithm to base two: the entry of the least
    /// goes first.
    pub fn worth(self, turn: Turn, policy: Policy) -> f32 {
        let age = self.age(turn);
        match policy {
            Policy::Lru => -age * LRU_OCTAVES,
            Policy::Lfu => {
                let priority =
                    f32::from(self.priority().distance(turn)) / f32::from(1_u16 << MANTISSA_BITS);
                let uses = (priority + age / HALF_LIFE_TURNOVERS).exp2();
                let rate = uses * std::f32::consts::LN_2 / HALF_LIFE_TURNOVERS;
                // The chance that it is used yet falls with each turnover of silence.
                let patience = (rate / ENDS_BY_TURNOVER).ln().max(0.0);
                let silence = (rate * age - patience).max(0.0);
                priority - silence * std::f32::consts::LOG2_E
            }
        }
    }
}

/// A number by chance.
pub fn chance() -> u32 {
    thread_local! {
        static STATE: Cell<u32> = const { Cell::new(0x9e37_79b9) };
    }
    STATE.with(|state| {
        let mut bits = state.get();
        bits ^= bits << 13;
        bits ^= bits >> 17;
        bits ^= bits << 5;
        state.set(bits);
        bits
    })
}

#[cfg(test)]
mod tests;
