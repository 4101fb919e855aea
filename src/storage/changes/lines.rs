//! The lines of those who watch the same, by prefix and by key.
//!
//! A line has the places of its latest changes. Those who are behind by more walk over the
//! changes of others to get there, so what a line holds has a bound, however many lines a
//! change belongs to.

use super::{Crowd, Watched};
use crate::storage::prefixes::each_prefix_of;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// The most places of a line.
pub const PLACES_MAX: usize = 256;

#[derive(Default)]
pub struct Lines {
    by_prefix: BTreeMap<Box<[u8]>, Line>,
    by_key: HashMap<Box<str>, Line>,
}

/// Those who watch the same.
pub struct Line {
    /// The number of watchers.
    watchers: usize,
    /// Those who are parked.
    pub parked: Crowd,
    /// All its changes from this place on are in `places`.
    pub from: u64,
    /// The places of its latest changes.
    pub places: VecDeque<u64>,
}

impl Lines {
    pub fn of(&mut self, watched: &Watched) -> Option<&mut Line> {
        match watched {
            Watched::Prefix(prefix) => self.by_prefix.get_mut(prefix.as_bytes()),
            Watched::Key(key) => self.by_key.get_mut(key.as_str()),
        }
    }

    /// Adds a watcher, at a moment with this end of the changes.
    pub fn join(&mut self, watched: &Watched, end: u64) {
        let new = || Line { watchers: 0, parked: Crowd::new(), from: end, places: VecDeque::new() };
        let line = match watched {
            Watched::Prefix(prefix) => {
                self.by_prefix.entry(prefix.as_bytes().into()).or_insert_with(new)
            }
            Watched::Key(key) => self.by_key.entry(key.as_str().into()).or_insert_with(new),
        };
        line.watchers += 1;
    }

    /// Removes a watcher.
    pub fn leave(&mut self, watched: &Watched) {
        let Some(line) = self.of(watched) else { return };
        line.watchers -= 1;
        if line.watchers == 0 {
            match watched {
                Watched::Prefix(prefix) => drop(self.by_prefix.remove(prefix.as_bytes())),
                Watched::Key(key) => drop(self.by_key.remove(key.as_str())),
            }
        }
    }

    /// Calls `note` with each line of a key.
    pub fn each_of(&mut self, key: &str, mut note: impl FnMut(&mut Line)) {
        if !self.by_key.is_empty()
            && let Some(line) = self.by_key.get_mut(key)
        {
            note(line);
        }
        each_prefix_of(&mut self.by_prefix, key, note);
    }

    /// Calls `note` with each line.
    pub fn each(&mut self, note: impl FnMut(&mut Line)) {
        self.by_prefix.values_mut().chain(self.by_key.values_mut()).for_each(note);
    }

    /// Returns true if nobody watches.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty() && self.by_key.is_empty()
    }
}

impl Line {
    /// Notes a change at a place.
    pub fn push(&mut self, place: u64) {
        if self.places.len() == PLACES_MAX
            && let Some(oldest) = self.places.pop_front()
        {
            self.from = oldest + 1;
        }
        self.places.push_back(place);
    }

    /// Forgets all changes, as others begin at a place.
    pub fn begin_at(&mut self, start: u64) {
        self.places.clear();
        self.from = start;
    }
}
