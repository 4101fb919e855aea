//! The lines of a store, found by a key that has changed: those of the key itself, and those
//! of takers by each prefix that the key begins with.

use super::line::Line;
use super::{Agenda, Subject, lock};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The maps that lines are sharded over, so that writers on many processors do not
/// wait for each other.
const SHARDS: usize = 64;

/// The lines by key.
pub struct Lines {
    /// The number of tickets.
    tickets: AtomicUsize,
    hasher: RandomState,
    /// Of most keys there is one.
    shards: Box<[Mutex<ByKey>]>,
}

type ByKey = HashMap<Box<str>, Vec<Arc<Line>>>;

/// The lines by prefix.
#[derive(Default)]
pub struct Takers {
    /// The number of tickets.
    tickets: AtomicUsize,
    /// By the length of the prefixes in bytes.
    lines: Mutex<BTreeMap<usize, ByPrefix>>,
}

type ByPrefix = HashMap<Box<str>, Arc<Line>>;

impl Lines {
    /// The number of waiters in them.
    pub fn tickets(&self) -> usize {
        self.tickets.load(Ordering::Relaxed)
    }

    /// Returns true if nothing is left of any key.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }

    /// All lines of this moment.
    pub fn all(&self) -> Vec<Arc<Line>> {
        let of_shard = |shard: &Mutex<ByKey>| -> Vec<_> {
            lock(shard).values().flatten().map(Arc::clone).collect()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
    fn shard(&self, key: &str) -> &Mutex<ByKey> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards.get(index).expect("the index is below the number of shards")
    }

    /// Notes a change of a key in its lines.
    pub fn change(&self, key: &str, agenda: &Agenda) {
        if let Some(of_key) = lock(self.shard(key)).get(key) {
            for line in of_key {
                line.change(agenda);
            }
        }
    }

    /// Adds a waiter to its line; true if it has its turn.
    pub fn join(&self, key: &str, subject: &Subject, number: u64) -> (Arc<Line>, bool) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut lines = lock(self.shard(key));
        let of_key = lines.entry(key.into()).or_default();
        let same = of_key.iter().find(|line| line.subject == *subject).map(Arc::clone);
        let line = same.unwrap_or_else(|| {
            let line = Arc::new(Line::new(subject.clone()));
            of_key.push(Arc::clone(&line));
            line
        });
        let has_turn = line.join(number);
        (line, has_turn)
    }

    /// Removes a waiter, and its line with the last one.
    pub fn leave(&self, key: &str, line: &Arc<Line>, number: u64, agenda: &Agenda) {
        let mut lines = lock(self.shard(key));
        if line.leave(number, agenda)
            && let Some(of_key) = lines.get_mut(key)
        {
            of_key.retain(|other| !Arc::ptr_eq(other, line));
            if of_key.is_empty() {
                lines.remove(key);
            }
        }
        drop(lines);
        self.tickets.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            tickets: AtomicUsize::new(0),
            hasher: RandomState::new(),
            shards: iter::repeat_with(Mutex::default).take(SHARDS).collect(),
        }
    }
}

impl Takers {
    /// The number of waiters in them.
    pub fn tickets(&self) -> usize {
        self.tickets.load(Ordering::Relaxed)
    }

    /// All lines of this moment.
    pub fn all(&self) -> Vec<Arc<Line>> {
        lock(&self.lines).values().flat_map(HashMap::values).map(Arc::clone).collect()
    }

    /// Adds a waiter to its line; true if it has its turn.
    pub fn join(&self, prefix: &str, subject: &Subject, number: u64) -> (Arc<Line>, bool) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut lengths = lock(&self.lines);
        let lines = lengths.entry(prefix.len()).or_default();
        let new = || Arc::new(Line::new(subject.clone()));
        let line = Arc::clone(lines.entry(prefix.into()).or_insert_with(new));
        let has_turn = line.join(number);
        (line, has_turn)
    }

    /// Removes a waiter, and its line with the last one.
    pub fn leave(&self, prefix: &str, line: &Arc<Line>, number: u64, agenda: &Agenda) {
        let mut lengths = lock(&self.lines);
        if line.leave(number, agenda)
            && let Some(lines) = lengths.get_mut(&prefix.len())
        {
            lines.remove(prefix);
            if lines.is_empty() {
                lengths.remove(&prefix.len());
            }
        }
        drop(lengths);
        self.tickets.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes a change of a key in the lines of all its prefixes.
    pub fn change_prefixes_of(&self, key: &str, agenda: &Agenda) {
        let lengths = lock(&self.lines);
        for (length, lines) in lengths.range(..=key.len()) {
            if let Some(line) = key.get(..*length).and_then(|prefix| lines.get(prefix)) {
                line.change(agenda);
            }
        }
    }
}
