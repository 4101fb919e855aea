//! The position in the history of the store, on the disk.
//!
//! ```text
//! 0xff 'r'    birth: u64, place: u64, and the floor of the batch: u64
//! ```
//!
//! in little-endian, among the keys. Keys are UTF-8, so none looks like this one. Every
//! batch has the position behind its changes: after a crash it is that of the last whole
//! batch, whether anybody was told of that or not. A program of an earlier version writes
//! batches with a floor and without a position, so a floor that is not the one beside the
//! position tells of changes since then that are in no history.

use super::journal::FLOOR_KEY;
use super::tree::{Keyspace, Result};
use crate::storage::Revision;

/// The key of the item.
pub const REVISION_KEY: [u8; 2] = [0xff, b'r'];

const NUMBER_BYTES: usize = size_of::<u64>();

/// The value under [`REVISION_KEY`] in a batch with this floor.
pub fn value(revision: Revision, floor: u64) -> Vec<u8> {
    [revision.birth, revision.place, floor].map(u64::to_le_bytes).concat()
}

/// The position behind the last batch; `None` if it is not known.
pub fn last(keys: &Keyspace) -> Result<Option<Revision>> {
    let (noted, floor) = (keys.get(REVISION_KEY)?, keys.get(FLOOR_KEY)?);
    let (Some(noted), Some(floor)) = (noted, floor) else { return Ok(None) };
    let (numbers, rest) = noted.as_chunks::<NUMBER_BYTES>();
    let (&[birth, place, own_floor], []) = (numbers, rest) else { return Ok(None) };
    let [birth, place] = [birth, place].map(u64::from_le_bytes);
    Ok(floor.starts_with(&own_floor).then_some(Revision { birth, place }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::durable::Durable;
    use crate::storage::durable::directory::Directory;
    use crate::storage::durable::journal::Stamp;
    use crate::storage::durable::live::Live;
    use crate::storage::durable::recovery;
    use crate::storage::{Blocking as _, Changes, Entry, Key, Limits, Read, Storage as _};
    use crate::storage::{Watched, record};
    use std::sync::Arc;
    use tempfile::TempDir;

    fn open(directory: &TempDir) -> Durable {
        Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"))
    }

    fn set(store: &Durable, text: &str) {
        let key = Key::new(text).expect("a key");
        store.set(key, Entry::new("value".into())).expect("the engine writes");
    }

    fn get(store: &Durable, text: &str) -> Option<Entry> {
        store.get(&Key::new(text).expect("a key")).expect("the engine reads")
    }

    fn changes(store: &Durable) -> &Changes {
        store.changes().expect("a change log")
    }

    /// Writes to a database without the threads around it, and ends as if killed.
    fn write(directory: &TempDir, write: impl FnOnce(&Live)) {
        let directory = Directory::take(directory.path()).unwrap_or_else(|err| panic!("{err}"));
        let data = Arc::new(directory.data().expect("it is there"));
        let recovered = recovery::recover(&data, true, || directory.finish());
        write(&Live::new(recovered.unwrap_or_else(|err| panic!("{err}")), Limits::default()));
    }

    /// A directory with a store, and the position that was told last.
    fn written() -> (TempDir, Revision) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory);
        set(&store, "a");
        let told = changes(&store).revision();
        drop(store);
        (directory, told)
    }

    /// What a watcher that was told up to a position is told at a start.
    fn read_on(store: &Durable, told: Revision) -> Read {
        changes(store).watch(Watched::Prefix("".into()), Some(told)).read()
    }

    #[test]
    fn a_batch_that_nobody_was_told_of_is_behind_the_position_told() {
        let (directory, told) = written();
        let record = || record::encode(&Entry::new("value".into()));
        let mut behind = told;
        write(&directory, |live| {
            let mut batch = live.batch_of(["b"].into_iter());
            batch.insert(live.generation.keys(), "b", record());
            batch.commit().expect("it is written");
            behind = live.changes.revision_behind(["b"].into_iter());
        });
        let store = open(&directory);
        assert!(get(&store, "b").is_some());
        assert_eq!(read_on(&store, told), Read::Reborn);
        assert_eq!(read_on(&store, behind), Read::UpToDate(behind));
        assert_eq!(behind.birth, told.birth);
    }

    /// It begins its batches with a floor too.
    #[test]
    fn a_batch_of_an_earlier_version_ends_the_history() {
        let (directory, told) = written();
        for key in [Some("b"), None] {
            let begin = changes(&open(&directory)).revision();
            write(&directory, |live| {
                let mut batch = live.database().batch(&live.generation.keyspaces.each());
                let floor = Stamp::new().floor(live.database().visible_number());
                batch.insert(live.generation.keys(), FLOOR_KEY, floor);
                if let Some(key) = key {
                    batch.remove(live.generation.keys(), key);
                }
                batch.commit().expect("it is written");
            });
            let store = open(&directory);
            assert_ne!(changes(&store).revision().birth, begin.birth);
            assert_eq!(read_on(&store, told), Read::Reborn);
            set(&store, "c");
            // From now on it is known again.
            let last = changes(&store).revision();
            drop(store);
            let store = open(&directory);
            assert_eq!(read_on(&store, last), Read::UpToDate(last));
        }
    }

    #[test]
    fn a_position_of_no_known_form_is_none() {
        let (directory, told) = written();
        write(&directory, |live| {
            let keys = live.generation.keys();
            let floor = keys.get(FLOOR_KEY).expect("it can be read").expect("a floor");
            let floor = u64::from_le_bytes(*floor.first_chunk().expect("eight bytes"));
            let last = || last(keys).expect("it can be read");
            assert_eq!(last(), Some(told));
            let other = Revision { birth: u64::MAX, place: 1 << 40 };
            let whole = value(other, floor);
            for (value, known) in [
                (whole.clone(), Some(other)),
                (value(other, floor + 1), None),
                (whole[..23].to_vec(), None),
                ([&whole[..], &[0]].concat(), None),
                ([whole.clone(), whole.clone()].concat(), None),
                (Vec::new(), None),
            ] {
                keys.insert(REVISION_KEY, value).expect("it is written");
                assert_eq!(last(), known);
            }
            keys.remove(REVISION_KEY).expect("it is written");
            assert_eq!(last(), None);
        });
    }
}
