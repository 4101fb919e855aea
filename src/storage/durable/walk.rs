//! Walks along the sorted keys, as they are at one moment.
//!
//! ```text
//! keys        a    b    d    e
//! expiries         b         e      an index in the order of the keys
//! ```
//!
//! Both are of one snapshot, and go side by side: no record is read for the expiry of a
//! key, as most are in files of their own. Where records are wanted they tell it. A walk
//! ends early once it has passed many keys that are not listed, expired ones and those
//! of groups, so each step is short.

use super::expiry;
use super::generation::{KEYS_END, Keyspaces};
use super::lookup;
use super::tree::{self, Items, Snapshot};
use crate::storage::page::{Bounds, Builder};
use crate::storage::{Entry, Error, KEY_BYTES_MAX, Key, Listing, PAGE_KEYS_MAX, Page, Range};
use crate::storage::{Start, Time, record};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

/// A walk ends once it has passed this many keys.
const PASSED_MAX: usize = 4000;

/// From so many keys on a group is passed by a seek behind it, which takes as long as to
/// pass so many.
const GROUP_KEYS_MAX: usize = 24;

/// The keys at one moment.
pub struct View {
    /// Dropped before the keyspaces, as it may have files of theirs.
    pub snapshot: Snapshot,
    pub keyspaces: Arc<Keyspaces>,
    pub now: Time,
    /// Entries that do not expire yet.
    pub pins: HashMap<Key, Time>,
}

/// A walk in one direction.
pub struct Walk<'a> {
    view: &'a View,
    items: Items,
    expiries: Option<Expiries>,
}

/// A step of a walk.
pub struct Found {
    pub key: Bytes,
    /// Only if it is wanted. It may be a reference.
    pub record: Option<Bytes>,
    /// The key is there, and not expired.
    pub lives: bool,
}

impl View {
    /// The same, to be kept for long.
    pub fn hold(self) -> Self {
        let snapshot = self.snapshot.hold(self.keyspaces.each());
        Self { snapshot, ..self }
    }

    /// The memtable of the keys that it keeps for long, if it does: by their keyspace and
    /// its number there.
    pub fn held_memtable(&self) -> Option<(u64, u64)> {
        let keys = &self.keyspaces.keys;
        Some((keys.id(), self.snapshot.held_memtable(keys)?))
    }

    /// Reads a page.
    pub fn page(&self, listing: &Listing) -> Result<Page, Error> {
        let mut builder = Builder::new(listing);
        let walk = |builder: &Builder<'_>| {
            let bounds = builder.bounds()?;
            Some(self.walk(bounds, listing.range.is_reverse, !listing.with_entries))
        };
        let mut steps = walk(&builder);
        let (mut passed, mut in_group) = (0, 0);
        while let Some(walk_on) = &mut steps {
            let with_record = listing.with_entries && !builder.is_full();
            let found = walk_on.next(with_record).map_err(unreadable)?;
            let Some(Found { key, record, lives }) = found else { break };
            let key = text_of(&key)?;
            if builder.is_in_group(key) {
                (passed, in_group) = (passed + 1, in_group + 1);
                if in_group == GROUP_KEYS_MAX {
                    passed += GROUP_KEYS_MAX;
                    steps = walk(&builder);
                }
            } else if lives {
                in_group = 0;
                let entry = record.map(|record| self.entry(key, record)).transpose()?;
                if !builder.add(key, entry) {
                    break;
                }
            } else {
                passed += 1;
                if passed >= PASSED_MAX {
                    builder.pass(key_of(key)?);
                }
            }
            if passed >= PASSED_MAX {
                builder.stop();
                break;
            }
        }
        Ok(builder.into_page())
    }

    /// Counts some keys of a range.
    pub fn count(&self, range: &Range) -> Result<(u64, Option<Start>), Error> {
        let Some(bounds) = range.bounds() else { return Ok((0, None)) };
        let mut walk = self.walk(bounds, range.is_reverse, true);
        let (mut counted, mut passed) = (0, 0);
        while let Some(found) = walk.next(false).map_err(unreadable)? {
            *(if found.lives { &mut counted } else { &mut passed }) += 1;
            if counted == PAGE_KEYS_MAX || passed == PASSED_MAX {
                let last = text_of(&found.key)?;
                return Ok((counted as u64, Some(Start::After(last.into()))));
            }
        }
        Ok((counted as u64, None))
    }

    /// A walk along the keys within some bounds. Without the expiries beside them a step
    /// that comes without a record takes longer.
    pub fn walk(&self, bounds: Bounds, is_reverse: bool, with_expiries: bool) -> Walk<'_> {
        let keys = &self.keyspaces.keys;
        let (lower, upper) = bounds;
        let upper = match upper {
            Bound::Unbounded => Bound::Excluded(KEYS_END.to_vec()),
            Bound::Included(_) | Bound::Excluded(_) => upper,
        };
        let bounds = (lower, upper);
        let expiries = (with_expiries && self.keyspaces.has_index()).then(|| {
            let bounds = expiry::bounds_of_expiries(&bounds);
            let items = self.snapshot.range(keys, bounds, is_reverse);
            Expiries { items, next: None, is_reverse }
        });
        let items = self.snapshot.range(keys, bounds, is_reverse);
        Walk { view: self, items, expiries }
    }

    fn lives(&self, key: &[u8], expiry: Option<Time>) -> bool {
        let Some(expiry) = expiry.filter(|expiry| *expiry <= self.now) else { return true };
        let is_pinned = || {
            let text = str::from_utf8(key).ok()?;
            Some(self.pins.get(&Key::new(text).ok()?)? == &expiry)
        };
        !self.pins.is_empty() && is_pinned() == Some(true)
    }

    /// The expiry of a key.
    fn expiry_of(&self, key: &[u8]) -> tree::Result<Option<Time>> {
        if !self.keyspaces.has_index() {
            return Ok(None);
        }
        let found = self.snapshot.get(&self.keyspaces.keys, expiry::expiry_of(key))?;
        Ok(found.and_then(|value| expiry::expiry_in(&value)))
    }

    /// The entry of a record that was found under a key.
    fn entry(&self, key: &str, record: Bytes) -> Result<Entry, Error> {
        let key = key_of(key)?;
        let Some(expiry) = record::referred(&record) else {
            return lookup::entry_of(&key, record);
        };
        let large = expiry::index_entry(expiry, &key);
        match self.snapshot.get(&self.keyspaces.expiring, large) {
            Ok(Some(record)) => lookup::entry_of(&key, record),
            Ok(None) => Err(lookup::unreadable(&key, record::Error::Missing)),
            Err(err) => Err(lookup::unreadable(&key, err)),
        }
    }
}

impl Walk<'_> {
    /// The next key, expired or not.
    pub fn next(&mut self, with_record: bool) -> tree::Result<Option<Found>> {
        loop {
            let Some(item) = self.items.next() else { return Ok(None) };
            let (key, record) = item.read(with_record)?;
            if key.len() > KEY_BYTES_MAX {
                // One of the engine's own.
                continue;
            }
            let expiry = match (&record, &mut self.expiries) {
                (Some(record), _) => record::referred(record).or_else(|| record::expiry(record)),
                (None, Some(expiries)) => expiries.of(&key)?,
                (None, None) => self.view.expiry_of(&key)?,
            };
            let lives = self.view.lives(&key, expiry);
            return Ok(Some(Found { key, record, lives }));
        }
    }

    /// The next key that is there, however many have expired.
    pub fn next_living(&mut self) -> Result<Option<Key>, Error> {
        loop {
            match self.next(false).map_err(unreadable)? {
                None => return Ok(None),
                Some(found) if found.lives => return key_of(text_of(&found.key)?).map(Some),
                Some(_expired) => {}
            }
        }
    }
}

/// The expiries of keys, in one direction.
struct Expiries {
    items: Items,
    /// The first one that was not passed, and its value.
    next: Option<(Bytes, Bytes)>,
    is_reverse: bool,
}

impl Expiries {
    /// The expiry of a key, which comes behind all that were asked for before.
    fn of(&mut self, key: &[u8]) -> tree::Result<Option<Time>> {
        loop {
            let (expiry_of, value) = match &self.next {
                Some(next) => next,
                None => match self.items.next() {
                    Some(item) => self.next.insert(item.into_parts()?),
                    None => return Ok(None),
                },
            };
            let order = expiry::key_of(expiry_of).cmp(key);
            match if self.is_reverse { order.reverse() } else { order } {
                Ordering::Less => self.next = None,
                Ordering::Equal => return Ok(expiry::expiry_in(value)),
                Ordering::Greater => return Ok(None),
            }
        }
    }
}

/// The text of a key that was found.
fn text_of(key: &[u8]) -> Result<&str, Error> {
    str::from_utf8(key).map_err(unreadable)
}

fn key_of(text: &str) -> Result<Key, Error> {
    Key::new(text).map_err(|_| Error::internal("a key of no length that a key has"))
}

fn unreadable(err: impl std::error::Error + Send + Sync + 'static) -> Error {
    log::error!("the keys cannot be listed: {err}");
    Error::Internal(Arc::new(err))
}
