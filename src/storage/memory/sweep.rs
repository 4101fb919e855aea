//! The sweeper: frees the memory of expired entries.
//!
//! Nobody sees an expired entry, so there is no hurry: a thread, started with
//! the first entry that can expire, looks at the maps where something has.

use super::Memory;
use super::maps::{Expected, Maps, Shard, read};
use super::packed::Packed;
use crate::storage::{Event, Time};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The interval between two sweeps.
const INTERVAL: Duration = Duration::from_secs(1);

/// A sweep is followed by a pause of this many times its length, or more.
const PACE_COSTS: u32 = 20;

/// The most expired keys that are collected under one lock, which no write passes.
/// Each is then removed under a lock of its own.
const EXPIRED_MAX: usize = 4096;

impl Memory {
    /// Starts the sweeper, if it is not there.
    pub(super) fn start_sweeper(&self) {
        self.0.sweeper.get_or_init(|| start(Arc::downgrade(&self.0)));
    }
}

fn start(maps: Weak<Maps>) -> Sender<()> {
    let (alive, ended) = crossbeam_channel::bounded(0);
    let sweeper = thread::Builder::new().name("sweeper".to_owned());
    if let Err(err) = sweeper.spawn(move || run(&maps, &ended)) {
        // A full store sweeps by itself.
        log::warn!("no thread to give back what has expired: {err}");
    }
    alive
}

fn run(maps: &Weak<Maps>, ended: &Receiver<()>) {
    let mut pause = INTERVAL;
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Some(maps) = maps.upgrade() else { return };
        let (begun, now) = (Instant::now(), Time::now());
        for shard in maps.shards.iter().filter(|shard| shard.is_due(now)) {
            let _turn = maps.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
            maps.sweep(shard, now);
        }
        pause = INTERVAL.max(begun.elapsed() * PACE_COSTS);
    }
}

impl Maps {
    /// Removes the expired entries of one of the maps. The sweeper's turn is the
    /// caller's.
    pub fn sweep(&self, shard: &Shard, now: Time) {
        while shard.is_due(now) {
            if self.sweep_step(shard, now, EXPIRED_MAX) < EXPIRED_MAX {
                return;
            }
        }
    }

    /// The same of so many at most; returns their number.
    pub fn sweep_step(&self, shard: &Shard, now: Time, most: usize) -> usize {
        // Seen by all who see the map's next expiry.
        self.sweeps.fetch_add(1, Ordering::Relaxed);
        let expired = expired_in(shard, now, most);
        for old in &expired {
            let key = self.hashed(old.key());
            let _removed: bool = self.remove(Event::Delete, key, Expected::Same(Some(old)));
        }
        // Seen by nobody who does not see all of them removed.
        self.sweeps.fetch_add(1, Ordering::Release);
        expired.len()
    }
}

/// Expired entries of a map, so many at most. If these are all, the map's next expiry is
/// noted.
fn expired_in(shard: &Shard, now: Time, most: usize) -> Vec<Packed> {
    let map = read(&shard.map);
    let mut expired = Vec::new();
    let mut due = u64::MAX;
    for packed in map.iter() {
        match packed.expiry() {
            Some(expiry) if expiry <= now => expired.push(packed.clone()),
            Some(expiry) => due = due.min(expiry.to_bits()),
            None => {}
        }
        if expired.len() >= most {
            return expired;
        }
    }
    // Nobody puts anything into the map while it is read.
    shard.due.store(due, Ordering::Release);
    expired
}
