//! Eviction: the choice of the keys that go for others to have room.
//!
//! ```text
//! tables      small records      the hand goes along the keys: of some tables of the bottom
//!                                what is of use is written again, with references to large
//!                                records that expire, and they are dropped
//! blob files  large records      the oldest file: what is of use is written again, and the
//!                                rest deleted, which a reclaim gives back
//! expiring    records between    the hand goes along their time: what is of use stays, and
//!             these that expire  the rest is deleted, which a reclaim gives back
//! blob files  large records      as above
//! of these    that expire
//! ```
//!
//! Of what a hand is at stays what was used more often lately than the median of all that
//! was written, or that the hands have met, of late. What was written lately is above the
//! bottom, or in one of the newer files, which no hand gets to while the older ones have
//! anything to give. Each place gives in proportion to its bytes. A step is one batch of the
//! committer's, or a batch and the drop of tables: no write comes in between. What a step
//! deletes is there until a reclaim has met it, which `upkeep` sees to.

mod histogram;

use super::commit_group::Draft;
use super::expiry::{self, Removed, Sweep};
use super::generation::{Both, KEYS_END, Keyspaces, Tree};
use super::live::Live;
use super::tree::{
    BLOB_VALUE_BYTES_MIN, Blob, Keyspace, Result, Size, Stretch, StretchItem, WriteBatch,
};
use crate::storage::frequency::Frequencies;
use crate::storage::waiters::Waiters;
use crate::storage::{Event, Key, Time, record};
use bytes::Bytes;
use histogram::Histogram;
use std::cmp::Reverse;
use std::mem;
use std::sync::Arc;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// The record of uses has room for one key for so many bytes of the store, within bounds.
const KEY_SHARE_BYTES: u64 = 256;
const KEYS_MIN: u64 = 1 << 12;
const KEYS_MAX: u64 = 1 << 22;

/// The most bytes of the tables of one step, which writes wait for.
const STRETCH_BYTES_MAX: u64 = 1 << 20;

/// The most stretches that a step looks at.
const STRETCHES_MAX: u32 = 8;

/// A small record that expires is so many items of its tree, with those of the index.
const SMALL_ITEMS: u64 = 3;

/// A reclaim of small records that were swept or deleted is worth it once they are one part
/// in so many of the tables.
const REMOVED_SHARE: u64 = 4;

/// The most keys of one step of those that expire, and the most that it looks at.
const EXPIRING_KEYS_MAX: usize = 256;
const EXPIRING_ITEMS_MAX: usize = 4096;

/// The median is of one part in so many of the store.
const MET_SHARE: u64 = 4;

/// What a place has given is told in so many parts of its size, and counts by one part in
/// so many less after each step.
const PARTS: u64 = 1 << 16;
const FADING: u64 = 64;

/// The places of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tables,
    Expiring,
    BlobFiles(Tree),
}

/// Of each tree the tables, and then the blob files.
const PLACES: [Place; 4] = [
    Place::Tables,
    Place::BlobFiles(Tree::Keys),
    Place::Expiring,
    Place::BlobFiles(Tree::Expiring),
];

/// The time in which what goes is to give its space back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giving {
    /// As a reclaim gets to it.
    InTime,
    /// The same where nothing can be dropped: no reclaim has space for a step.
    AtOnceFirst,
    /// Nothing goes that is not dropped.
    AtOnce,
}

impl Giving {
    /// The order of places, each with true if references go with the tables that have them.
    /// A table of references is small, and the records that would go with it are not: they
    /// are the last to go, but where a drop alone gives space back.
    fn order(self, places: &[Place]) -> Vec<(Place, bool)> {
        let is_dropped = |place: &Place| *place == Place::Tables;
        let without = places.iter().map(|place| (*place, false));
        let referred = places.iter().filter(|place| is_dropped(place)).map(|place| (*place, true));
        let mut order: Vec<_> = without.chain(referred).collect();
        match self {
            Self::InTime => {}
            Self::AtOnceFirst => order.sort_by_key(|(place, _)| !is_dropped(place)),
            Self::AtOnce => order.retain(|(place, _)| is_dropped(place)),
        }
        order
    }
}

/// The choice of keys, and the bytes that were evicted and are on the disk yet.
pub struct Eviction {
    uses: Arc<Frequencies>,
    waiters: Waiters,
    /// The hand among the tables.
    tables_from: Vec<u8>,
    /// The numbers of the blob files that the next step begins at.
    blob_files_from: Both<u64>,
    /// The hand among records that expire.
    expiring_from: Vec<u8>,
    /// The bytes that were evicted of each place.
    evicted_bytes: [u64; PLACES.len()],
    /// The uses of the keys that the hands have met.
    met: Histogram,
    /// The bytes of small records that were swept or deleted: too few yet to be awaited.
    removed_bytes: u64,
    /// The same of large records that were deleted or overwritten.
    blob_bytes: Both<u64>,
    /// The bytes that are gone from each tree and that no reclaim has met.
    pub awaited: Both<u64>,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evicted {
    /// Keys that went.
    pub keys: usize,
    /// Those of them that were deleted one by one, and keys that were written again.
    pub deletions: usize,
    pub changes: usize,
}

/// A key that may go.
struct Candidate {
    key: Key,
    /// The key of its record in the tree that has that.
    under: Bytes,
    /// The record, if that is in a table.
    record: Option<Bytes>,
    bytes: u64,
    /// Its uses of late.
    uses: u8,
}

/// The hash by which the uses of a key are noted.
pub fn hash(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

/// The record of uses for a store of so many bytes.
pub fn uses(bytes: u64) -> Arc<Frequencies> {
    let keys = (bytes / KEY_SHARE_BYTES).clamp(KEYS_MIN, KEYS_MAX);
    Arc::new(Frequencies::with_keys(usize::try_from(keys).unwrap_or(usize::MAX)))
}

impl Eviction {
    /// By these uses; those who wait for a key that goes are woken.
    pub fn new(bytes_max: u64, uses: Arc<Frequencies>, waiters: Waiters) -> Self {
        Self {
            uses,
            waiters,
            tables_from: Vec::new(),
            blob_files_from: Both::default(),
            expiring_from: Vec::new(),
            evicted_bytes: [0; PLACES.len()],
            met: Histogram::within(bytes_max / MET_SHARE),
            removed_bytes: 0,
            blob_bytes: Both::default(),
            awaited: Both::default(),
        }
    }

    /// Begins anew, as where all keys were deleted.
    pub fn forget(&mut self) {
        (self.tables_from, self.expiring_from) = (Vec::new(), Vec::new());
        (self.blob_files_from, self.awaited) = (Both::default(), Both::default());
        (self.removed_bytes, self.blob_bytes) = (0, Both::default());
    }

    /// Notes keys that were swept.
    pub fn note_swept(&mut self, removed: Removed, keyspaces: &Keyspaces) {
        let (small, large) = ((removed.keys - removed.large) as u64, removed.large as u64);
        let Keyspaces { keys, expiring, .. } = keyspaces;
        self.awaited.expiring += large * bytes_each(expiring, expiring.disk_bytes());
        self.removed_bytes += small * SMALL_ITEMS * bytes_each(keys, keys.table_bytes());
    }

    /// Notes the record under a key, which is deleted, or overwritten by a large one; the
    /// expiry if that is a large one that expires.
    pub fn note_garbage(
        &mut self,
        keyspaces: &Keyspaces,
        key: &Key,
        expiry: Option<Time>,
        is_overwritten: bool,
    ) -> Result<()> {
        let Keyspaces { keys, expiring, .. } = keyspaces;
        let found = keys.value_bytes(key.as_str())?.unwrap_or(0);
        if found >= BLOB_VALUE_BYTES_MIN {
            self.blob_bytes.keys += u64::from(found);
        } else if !is_overwritten {
            self.removed_bytes += key.as_str().len() as u64 + u64::from(found);
        }
        if let Some(expiry) = expiry {
            let entry = expiry::index_entry(expiry, key);
            self.blob_bytes.expiring += u64::from(expiring.value_bytes(&entry)?.unwrap_or(0));
        }
        Ok(())
    }

    /// Awaits small records that were swept or deleted from a reclaim once they are at least
    /// so many bytes, and enough of their tree, most of which it merges.
    pub fn await_removed(&mut self, keys: &Keyspace, bytes_min: u64) {
        if self.removed_bytes >= bytes_min.max(keys.table_bytes() / REMOVED_SHARE) {
            self.awaited.keys += mem::take(&mut self.removed_bytes);
        }
    }

    /// Awaits large records that were deleted or overwritten, once they are at least so many
    /// bytes of a tree that is worth a merge.
    pub fn await_blobs(
        &mut self,
        keyspaces: &Keyspaces,
        bytes_min: u64,
        is_worth: impl Fn(&Keyspace) -> bool,
    ) {
        for tree in [Tree::Keys, Tree::Expiring] {
            let bytes = self.blob_bytes.of(tree);
            if *bytes >= bytes_min && is_worth(keyspaces.of(tree)) {
                *self.awaited.of(tree) += mem::take(bytes);
            }
        }
    }

    /// Notes the writes of a group.
    pub fn note_writes(&mut self, draft: &Draft) {
        for (key, bytes) in draft.stored() {
            let hash = hash(key);
            self.uses.note(hash);
            self.met.note(self.uses.of(hash), bytes as u64);
        }
    }

    /// Evicts some keys, none of those that are spared. Tables are dropped only if they
    /// may be: that waits for a step of a compaction of theirs. Without keys there are none
    /// to go.
    pub fn step(
        &mut self,
        live: &mut Live,
        sweep: &mut Sweep,
        may_drop: bool,
        giving: Giving,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Evicted> {
        let begun = Instant::now();
        let places = self.places(live.generation.keys(), live.generation.expiring());
        for (place, with_referred) in giving.order(&places) {
            let evicted = match place {
                Place::Tables if !may_drop => Evicted::default(),
                Place::Tables => self.step_of_tables(live, sweep, with_referred, is_spared)?,
                Place::Expiring => self.step_of_expiring(live, sweep, is_spared)?,
                Place::BlobFiles(tree) => self.step_of_blob_files(tree, live, sweep, is_spared)?,
            };
            if evicted.keys > 0 {
                let took = begun.elapsed().as_micros();
                log::debug!("evicted of {place:?}: {evicted:?} in {took} us");
                return Ok(evicted);
            }
        }
        Ok(Evicted::default())
    }

    /// The places with any bytes, first the one that has given the least for its size.
    fn places(&self, keys: &Keyspace, expiring: &Keyspace) -> Vec<Place> {
        let sizes = [keys, expiring].map(|it| [it.table_bytes(), it.blob_bytes()]);
        let mut places: Vec<(u64, Place)> = PLACES
            .into_iter()
            .zip(sizes.into_iter().flatten().zip(self.evicted_bytes))
            .filter(|(_, (size, _))| *size > 0)
            .map(|(place, (size, evicted))| (evicted.saturating_mul(PARTS) / size, place))
            .collect();
        places.sort_by_key(|(evicted, _)| *evicted);
        places.into_iter().map(|(_, place)| place).collect()
    }

    fn note_evicted(&mut self, place: Place, bytes: u64) {
        for (noted, each) in self.evicted_bytes.iter_mut().zip(PLACES) {
            if each == place {
                *noted += bytes;
            }
            // Sizes change, so what was long ago counts less.
            *noted -= *noted / FADING;
        }
    }

    fn step_of_tables(
        &mut self,
        live: &mut Live,
        sweep: &mut Sweep,
        with_referred: bool,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Evicted> {
        // Where all that it meets is of use the hand goes on, but not for long.
        for number in 1..=STRETCHES_MAX {
            let is_urgent = number == STRETCHES_MAX;
            let evicted = self.step_of_stretch(live, sweep, with_referred, is_urgent, is_spared)?;
            if evicted.keys > 0 {
                return Ok(evicted);
            }
        }
        Ok(Evicted::default())
    }

    /// Large records that expire are many times as large as the references to them, so these
    /// stay but where nothing else would come back.
    fn step_of_stretch(
        &mut self,
        live: &mut Live,
        sweep: &mut Sweep,
        with_referred: bool,
        is_urgent: bool,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Evicted> {
        let keys = live.generation.keys().clone();
        let bytes_max = live.disk_space.eviction_bytes_max().min(STRETCH_BYTES_MAX);
        let next = |from: &[u8]| keys.bottom_stretch(from, &KEYS_END, bytes_max);
        let Some(stretch) = next(&self.tables_from).or_else(|| next(&[])) else {
            return Ok(Evicted::default());
        };
        self.tables_from = [&stretch.last()[..], &[0]].concat();
        let (mut candidates, mut own) = (Vec::new(), Vec::new());
        stretch.visit(live.database(), &keys, &mut |item| {
            let StretchItem { key: under, value } = item;
            match (key_of(&under), value) {
                (Some(key), value)
                    if !is_spared(&key) && (with_referred || !is_reference(value.as_deref())) =>
                {
                    let bytes = value.as_ref().map_or(0, Bytes::len) + key.as_str().len();
                    let uses = self.uses.of(hash(key.as_str()));
                    let (record, bytes) = (value, bytes as u64);
                    candidates.push(Candidate { key, under, record, bytes, uses });
                }
                (_, value) => own.push((under, value)),
            }
        })?;
        if own.len() > candidates.len() {
            // To drop it would give little.
            self.note_evicted(Place::Tables, stretch.bytes);
            return Ok(Evicted::default());
        }
        let [kept, evicted] = self.met.split(candidates, is_urgent);
        if evicted.is_empty() {
            return Ok(Evicted::default());
        }
        let kept = kept.into_iter().map(|it| (it.under, it.record)).chain(own).collect();
        let bytes = stretch.bytes;
        let referred = evicted.iter().filter(|it| is_reference(it.record.as_deref())).count();
        let done = self.apply(live, sweep, &keys, kept, &evicted, Some(&stretch))?;
        self.note_evicted(Place::Tables, bytes);
        let expiring = live.generation.expiring();
        self.awaited.expiring += referred as u64 * bytes_each(expiring, expiring.disk_bytes());
        Ok(done)
    }

    fn step_of_blob_files(
        &mut self,
        tree: Tree,
        live: &mut Live,
        sweep: &mut Sweep,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Evicted> {
        let files = live.generation.keyspaces.of(tree).blob_files();
        let from = self.blob_files_from.of(tree);
        let (old, newer) = files.split_at(files.len().div_ceil(2));
        let behind = old.partition_point(|file| *file < *from);
        let (passed, ahead) = old.split_at(behind);
        // The oldest ones again, once the hand is past all that are old.
        let turn: Vec<u64> = [ahead, passed, newer].concat();
        for is_urgent in [false, true] {
            if is_urgent && *self.awaited.of(tree) > 0 {
                // Files that wait for a reclaim have nothing to give, and what is in use in
                // the others stays until then.
                break;
            }
            for &file in &turn {
                *self.blob_files_from.of(tree) = file + 1;
                let evicted =
                    self.step_of_blob_file(tree, live, sweep, file, is_urgent, is_spared)?;
                if evicted.keys > 0 {
                    return Ok(evicted);
                }
            }
        }
        Ok(Evicted::default())
    }

    fn step_of_blob_file(
        &mut self,
        tree: Tree,
        live: &mut Live,
        sweep: &mut Sweep,
        file: u64,
        is_urgent: bool,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Evicted> {
        let keyspace = live.generation.keyspaces.of(tree).clone();
        let blobs = keyspace.blobs(file)?;
        let values = blobs.len();
        let candidates: Vec<Candidate> = blobs
            .into_iter()
            .filter_map(|blob| {
                let Blob { key: under, bytes } = blob;
                let key = match tree {
                    Tree::Keys => &under[..],
                    Tree::Expiring => expiry::parse(&under)?.1,
                };
                let key = key_of(key).filter(|key| !is_spared(key))?;
                let uses = self.uses.of(hash(key.as_str()));
                Some(Candidate { key, under, record: None, bytes, uses })
            })
            .collect();
        // The file goes with the last value, and what was stale in it.
        let bytes = if candidates.len() == values {
            keyspace.blob_file_bytes(file)
        } else {
            candidates.iter().map(|it| it.bytes).sum()
        };
        let [mut kept, mut evicted] = self.met.split(candidates, is_urgent);
        if evicted.is_empty() {
            return Ok(Evicted::default());
        }
        // What is written again is bounded, so what is of the most use stays.
        kept.sort_by_key(|it| Reverse(it.uses));
        let bytes_max = live.disk_space.eviction_bytes_max();
        let sums = kept.iter().scan(0, |sum, it| {
            *sum += it.bytes;
            Some(*sum)
        });
        let stay = sums.take_while(|sum| *sum <= bytes_max).count();
        evicted.extend(kept.drain(stay..));
        let kept = kept.into_iter().map(|it| (it.under, it.record)).collect();
        let done = self.apply(live, sweep, &keyspace, kept, &evicted, None)?;
        self.note_evicted(Place::BlobFiles(tree), bytes);
        *self.awaited.of(tree) += bytes;
        Ok(done)
    }

    fn step_of_expiring(
        &mut self,
        live: &mut Live,
        sweep: &mut Sweep,
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Evicted> {
        let mut from = mem::take(&mut self.expiring_from);
        loop {
            let is_whole = from.is_empty();
            let candidates = self.expiring_candidates(live, &from, is_spared)?;
            let [_, evicted] = self.met.split(candidates, true);
            if !evicted.is_empty() {
                let bytes = evicted.iter().map(|it| it.bytes).sum();
                let expiring = live.generation.expiring().clone();
                let done = self.apply(live, sweep, &expiring, Vec::new(), &evicted, None)?;
                self.note_evicted(Place::Expiring, bytes);
                self.awaited.expiring += bytes;
                return Ok(done);
            }
            if is_whole {
                return Ok(Evicted::default());
            }
            from = Vec::new();
        }
    }

    /// Keys of those that expire from an entry on whose records are in tables, and passes
    /// them.
    fn expiring_candidates(
        &mut self,
        live: &Live,
        from: &[u8],
        is_spared: &dyn Fn(&Key) -> bool,
    ) -> Result<Vec<Candidate>> {
        let expiring = live.generation.expiring();
        let (items_max, keys_max) = (EXPIRING_ITEMS_MAX, EXPIRING_KEYS_MAX);
        let items = expiring.sizes(live.database(), from, &EXPIRING_END, items_max, keys_max)?;
        let in_tables = items.iter().filter(|item| item.bytes.is_some()).count();
        let is_over = items.len() < items_max && in_tables < keys_max;
        let last = items.last().map(|item| item.key.clone()).filter(|_| !is_over);
        let mut candidates = Vec::new();
        for Size { key: entry, bytes } in items {
            if let Some(bytes) = bytes
                && let Some(key) = expiry::parse(&entry).and_then(|(_, key)| key_of(key))
                && !is_spared(&key)
            {
                let uses = self.uses.of(hash(key.as_str()));
                candidates.push(Candidate { key, under: entry, record: None, bytes, uses });
            }
        }
        self.expiring_from = last.map_or_else(Vec::new, |last| [&last[..], &[0]].concat());
        Ok(candidates)
    }

    /// Writes again to its tree what is kept, deletes what is evicted unless it goes with a
    /// stretch, and tells of it.
    fn apply(
        &mut self,
        live: &mut Live,
        sweep: &mut Sweep,
        keyspace: &Keyspace,
        kept: Vec<(Bytes, Option<Bytes>)>,
        evicted: &[Candidate],
        stretch: Option<&Stretch>,
    ) -> Result<Evicted> {
        let floor = live.database().visible_number();
        let keyspaces: Arc<Keyspaces> = Arc::clone(&live.generation.keyspaces);
        let mut batch = live.batch_of(evicted.iter().map(|it| it.key.as_str()));
        let (changes, rewritten_bytes) = rewrite(&mut batch, keyspace, kept)?;
        let now = Time::now();
        let mut events = Vec::with_capacity(evicted.len());
        let (mut deletions, mut deleted_bytes) = (0, 0);
        for candidate in evicted {
            let (key, expiry) = (&candidate.key, candidate.expiry(&keyspaces));
            if stretch.is_none() || expiry.is_some() {
                sweep.put(&mut batch, &keyspaces, key, None);
                deleted_bytes += key.as_str().len();
                deletions += 1;
            }
            let has_expired = expiry.is_some_and(|expiry| expiry <= now);
            events.push((if has_expired { Event::Expire } else { Event::Evict }, expiry, key));
        }
        let bytes = rewritten_bytes + deleted_bytes;
        live.check_place()?;
        live.note(floor, bytes);
        // None of them is found in the cache once it is in no table.
        let invalidation = keyspaces.cache.invalidate(evicted.iter().map(|it| it.key.as_str()));
        batch.commit()?;
        live.disk_space.note(bytes);
        live.check_folder()?;
        // Others may have come to be in its bounds, and then it stays as it is.
        let is_dropped = match stretch {
            Some(stretch) => keyspace.drop_stretch(live.database(), stretch)?,
            None => true,
        };
        drop(invalidation);
        events.retain(|(_, expiry, _)| is_dropped || expiry.is_some());
        live.append(events.iter().map(|(event, _, key)| (*event, key.as_str())));
        for (_, _, key) in &events {
            self.waiters.changed(key.as_str(), false);
        }
        let evicted = events.iter().filter(|(event, ..)| *event == Event::Evict).count();
        live.figures.note_evicted(evicted);
        live.figures.note_expired(events.len() - evicted);
        Ok(Evicted { keys: events.len(), deletions, changes })
    }
}

impl Candidate {
    /// The expiry of its entry, if it has one.
    fn expiry(&self, keyspaces: &Keyspaces) -> Option<Time> {
        match &self.record {
            Some(record) => record::referred(record).or_else(|| record::expiry(record)),
            None => expiry::found(keyspaces, &self.key),
        }
    }
}

/// Writes records again to their tree, each given or looked up. Returns their number, and the
/// bytes of them and their keys.
fn rewrite(
    batch: &mut WriteBatch,
    keyspace: &Keyspace,
    kept: Vec<(Bytes, Option<Bytes>)>,
) -> Result<(usize, usize)> {
    let (mut changes, mut bytes) = (0, 0);
    for (key, record) in kept {
        let record = match record {
            Some(record) => Some(record),
            None => keyspace.get(&key)?,
        };
        let Some(record) = record else { continue };
        bytes += key.len() + record.len();
        changes += 1;
        batch.insert(keyspace, key, record);
    }
    Ok((changes, bytes))
}

/// Returns true for a reference to a large record that expires.
fn is_reference(record: Option<&[u8]>) -> bool {
    record.is_some_and(|record| record::referred(record).is_some())
}

/// The bytes of an item in the tables, about, of so many of all. A deletion takes next to
/// nothing, so where there are only these it is none.
fn bytes_each(keyspace: &Keyspace, bytes: u64) -> u64 {
    let items = keyspace.table_items().saturating_sub(keyspace.table_deletions());
    bytes.checked_div(items).unwrap_or(0)
}

/// Behind all records that expire.
const EXPIRING_END: [u8; 2] = [0xff, 0xff];

/// The key of an entry, and none of the engine's own.
fn key_of(bytes: &[u8]) -> Option<Key> {
    Key::new(str::from_utf8(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::durable::generation::Generation;
    use crate::storage::durable::journal::Stamp;
    use crate::storage::durable::tree::Database;
    use crate::storage::{Entry, Limits, Revision};
    use std::ops::Range;
    use std::time::Duration;

    /// Small records are among the keys, and are awaited once a merge of these is worth it.
    #[test]
    fn swept_records_are_awaited_from_the_tree_that_has_them() {
        const KEYS: usize = 1000;
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let database = Database::open(&data).unwrap_or_else(|err| panic!("{err}"));
        let revision = Revision { birth: 1, place: 1 };
        let generation = Generation::begin(&database, &data, Stamp::new(), 0, revision);
        let keyspaces = generation.expect("it begins").keyspaces;
        for number in 0..KEYS {
            keyspaces.keys.insert(format!("{number:04}"), [0; 100]).expect("it is written");
        }
        keyspaces.keys.flush_and_wait().expect("it is flushed");

        let mut eviction = Eviction::new(1 << 20, super::uses(1 << 20), Waiters::default());
        let few = Removed { keys: 10, large: 0 };
        eviction.note_swept(few, &keyspaces);
        eviction.await_removed(&keyspaces.keys, 1);
        assert_eq!(eviction.awaited.each(), [&0; 2]);
        eviction.note_swept(Removed { keys: KEYS / 2, large: 0 }, &keyspaces);
        eviction.await_removed(&keyspaces.keys, u64::MAX);
        assert_eq!(eviction.awaited.each(), [&0; 2]);
        eviction.await_removed(&keyspaces.keys, 1);
        assert!(eviction.awaited.keys > keyspaces.keys.table_bytes() / 2);
        assert_eq!(eviction.awaited.expiring, 0);
    }

    #[test]
    fn a_tree_of_nothing_but_deletions_has_nothing_to_give() {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open(directory.path()).unwrap_or_else(|err| panic!("{err}"));
        let keyspace = database.keyspace("deletions").expect("it is made");
        let mut batch = database.batch(&[&keyspace]);
        batch.remove(&keyspace, "key");
        batch.commit().expect("it is deleted");
        keyspace.flush_and_wait().expect("it is in a file");
        assert_eq!(keyspace.table_items(), 1);
        assert_eq!(bytes_each(&keyspace, 1000), 0);
    }

    #[test]
    fn references_are_the_last_to_go_but_where_a_drop_alone_gives_space_back() {
        let places = [Place::Expiring, Place::Tables];
        let (expiring, tables) = ((Place::Expiring, false), (Place::Tables, false));
        let referred = (Place::Tables, true);
        for (giving, expected) in [
            (Giving::InTime, vec![expiring, tables, referred]),
            (Giving::AtOnceFirst, vec![tables, referred, expiring]),
            (Giving::AtOnce, vec![tables, referred]),
        ] {
            assert_eq!(giving.order(&places), expected, "{giving:?}");
        }
    }

    /// Tables of references are small, and the records that they refer to are elsewhere.
    #[test]
    fn large_records_that_expire_go_a_few_at_a_time_or_are_awaited_with_references_to_them() {
        const LIMIT: u64 = 16 << 20;
        const KEYS: usize = 2000;
        const HASHES: usize = 125;
        let limits = Limits { bytes: LIMIT, ..Limits::default() };
        let (mut live, _directory) = Live::of_new_store(limits);
        let keyspaces = Arc::clone(&live.generation.keyspaces);
        let Keyspaces { keys, expiring, .. } = &*keyspaces;

        let mut sweep = Sweep::new(&keyspaces);
        let mut batch = live.batch();
        let expiry = Time::now().after(Duration::from_secs(3600));
        for number in 0..KEYS {
            let key = Key::new(format!("{number:04}")).expect("a key");
            // It cannot be compressed.
            let value: Vec<u8> =
                (0..HASHES).flat_map(|at| hash(&format!("{number} {at}")).to_be_bytes()).collect();
            let entry = Entry::new(value.into()).with_expiry(Some(expiry));
            sweep.put(&mut batch, &keyspaces, &key, Some(record::encode(&entry).into()));
        }
        batch.commit().expect("they are written");
        for keyspace in [keys, expiring] {
            keyspace.flush_and_wait().expect("they are in a file");
            keyspace.merge(4 << 10).expect("they are in the last level");
        }
        // Nothing newer goes with a stretch.
        keys.insert([0xff, 0xfe], []).expect("it is written");
        keys.flush_and_wait().expect("it is in a file");
        let all = expiring.disk_bytes();

        let mut eviction = Eviction::new(LIMIT, super::uses(LIMIT), Waiters::default());
        let mut step = |giving| {
            let evicted = eviction.step(&mut live, &mut sweep, true, giving, &|_| false);
            (evicted.unwrap_or_else(|err| panic!("{err}")).keys, eviction.awaited.expiring)
        };
        let (few, _) = step(Giving::InTime);
        assert!((1..=EXPIRING_KEYS_MAX).contains(&few), "{few} of {KEYS}");
        let (evicted, awaited) = step(Giving::AtOnce);
        assert!(evicted > KEYS / 2, "{evicted} of {KEYS}");
        let bytes = (few + evicted) as u64 * (all / KEYS as u64);
        assert!(awaited.abs_diff(bytes) <= bytes / 8, "{awaited} of {bytes} bytes");
    }

    /// Else more keys would go than have to, as a file that is stale in part is as large as it
    /// was. Records that a flush takes to a blob file go with that, the oldest first.
    #[test]
    fn what_was_stale_in_a_blob_file_is_awaited_with_its_last_values() {
        const LIMIT: u64 = 16 << 20;
        const KEYS: usize = 20;
        let limits = Limits { bytes: LIMIT, ..Limits::default() };
        let (mut live, _directory) = Live::of_new_store(limits);
        let keyspaces = Arc::clone(&live.generation.keyspaces);
        let Keyspaces { expiring, .. } = &*keyspaces;

        let mut sweep = Sweep::new(&keyspaces);
        let key = |number: usize| Key::new(format!("{number:04}")).expect("a key");
        let expiry = Time::now().after(Duration::from_hours(1));
        let entry = Entry::new(vec![0; 10_000].into()).with_expiry(Some(expiry));
        let record = Bytes::from(record::encode(&entry));
        let mut write = |live: &Live, numbers: Range<usize>, record: Option<&Bytes>| {
            let mut batch = live.batch();
            for number in numbers {
                sweep.put(&mut batch, &keyspaces, &key(number), record.cloned());
            }
            batch.commit().expect("it is written");
        };
        write(&live, 0..KEYS, Some(&record));
        expiring.flush_and_wait().expect("they are in a file");
        let all = expiring.blob_bytes();
        write(&live, 0..KEYS / 2, None);
        write(&live, KEYS..2 * KEYS, Some(&record));

        let mut eviction = Eviction::new(LIMIT, super::uses(LIMIT), Waiters::default());
        let evicted = eviction.step(&mut live, &mut sweep, true, Giving::InTime, &|_| false);
        assert_eq!(evicted.unwrap_or_else(|err| panic!("{err}")).keys, KEYS - KEYS / 2);
        let awaited = eviction.awaited.expiring;
        assert!(awaited >= all, "{awaited} of {all} bytes");
    }
}
