//! Set dueling: which of the two policies of eviction misses less.
//!
//! Some requests are for what was used often (LFU), and some for what was used lately (LRU).
//! A few shards find out which: of these leaders, some evict by the one and some by the
//! other, and all other shards follow the leaders that miss less.
//!
//! Nothing here knows entries: it counts the keys of each group of shards, and misses.

use super::SAMPLED;
use crate::storage::frequency::{Policy, chance};
use crate::storage::memory::map::Hashed;
use crate::storage::memory::maps::KEYS_SHARDS;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// Of so many shards one leads with each of the policies.
const LEADERS_EVERY: usize = 32;

/// With fewer keys all shards are alike: those of a group are too few.
const KEYS_GROUPED: usize = SAMPLED * LEADERS_EVERY;

/// The part of the keys by which one policy has to miss more than the other until all follow
/// that.
const LEAD_PART: usize = 64;
const LEAD_MIN: usize = 32;

/// The score of the leaders.
#[derive(Default)]
pub struct Dueling {
    /// The keys of each group of shards.
    keys: [AtomicUsize; 3],
    /// The misses of the leaders that evict by [`Policy::Lfu`], less those of the others.
    lead: AtomicI32,
}

/// A group of shards that evict by the same policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The leaders of [`Policy::Lfu`].
    Lfu,
    /// The leaders of [`Policy::Lru`].
    Lru,
    /// All others.
    Followers,
}

impl Group {
    pub const ALL: [Self; 3] = [Self::Lfu, Self::Lru, Self::Followers];

    /// The group of a key.
    pub fn of_key(key: Hashed<'_>) -> Self {
        Self::of(key.shard(KEYS_SHARDS))
    }

    /// The group of a shard.
    pub fn of(shard: usize) -> Self {
        match shard % LEADERS_EVERY {
            0 => Self::Lfu,
            1 => Self::Lru,
            _ => Self::Followers,
        }
    }

    /// The number of its shards.
    pub fn shards(self) -> usize {
        let leaders = KEYS_SHARDS / LEADERS_EVERY;
        match self {
            Self::Lfu | Self::Lru => leaders,
            Self::Followers => KEYS_SHARDS - 2 * leaders,
        }
    }

    /// The number of one of its shards.
    pub fn shard(self, place: usize) -> usize {
        const FOLLOWERS: usize = LEADERS_EVERY - 2;
        match self {
            Self::Lfu => place * LEADERS_EVERY,
            Self::Lru => place * LEADERS_EVERY + 1,
            Self::Followers => place / FOLLOWERS * LEADERS_EVERY + 2 + place % FOLLOWERS,
        }
    }
}

impl Dueling {
    /// Notes a key that has come to a group.
    pub fn inserted(&self, group: Group) {
        self.keys_of(group).fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a key that has gone from a group.
    pub fn removed(&self, group: Group) {
        self.keys_of(group).fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that all keys have gone. All maps are locked.
    pub fn clear(&self) {
        self.keys.iter().for_each(|keys| keys.store(0, Ordering::Relaxed));
    }

    /// Notes a miss in a group: a key that comes was not there.
    pub fn missed(&self, group: Group) {
        let missed = match group {
            Group::Lfu => 1,
            Group::Lru => -1,
            Group::Followers => return,
        };
        let most = i32::try_from((self.keys() / LEAD_PART).max(LEAD_MIN)).unwrap_or(i32::MAX);
        let lead = self.lead.load(Ordering::Relaxed).saturating_add(missed);
        self.lead.store(lead.clamp(-most, most), Ordering::Relaxed);
    }

    /// The number of keys.
    pub fn keys(&self) -> usize {
        self.keys.iter().map(|keys| keys.load(Ordering::Relaxed)).sum()
    }

    fn keys_of(&self, group: Group) -> &AtomicUsize {
        let [lfu, lru, followers] = &self.keys;
        match group {
            Group::Lfu => lfu,
            Group::Lru => lru,
            Group::Followers => followers,
        }
    }

    /// The group that a key by chance is in; none to choose among all of them.
    pub fn group(&self) -> Option<Group> {
        let keys = self.keys();
        if keys < KEYS_GROUPED {
            return None;
        }
        let mut place = chance() as usize % keys;
        Group::ALL.into_iter().find(|group| {
            let keys = self.keys_of(*group).load(Ordering::Relaxed);
            let is_in = place < keys;
            place = place.wrapping_sub(keys);
            is_in
        })
    }

    /// The policy of a group, or where there is none.
    pub fn policy(&self, group: Option<Group>) -> Policy {
        let is_lru = match group {
            Some(Group::Lfu) => false,
            Some(Group::Lru) => true,
            Some(Group::Followers) | None => self.lead.load(Ordering::Relaxed) > 0,
        };
        if is_lru { Policy::Lru } else { Policy::Lfu }
    }
}
