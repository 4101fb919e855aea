//! Recovery: a database is made, or checked, opened, and cleared of the remains of a
//! crash, at a start and where a failed one is opened anew.
//!
//! Nothing here knows of the threads that use it.

use super::directory::Data;
use super::generation::Generation;
use super::held;
use super::inventory::{self, Inventory};
use super::journal::Stamp;
use super::open_error::OpenError;
use super::revision;
use super::tree::Database;
use super::verify::{self, Verified};
use crate::storage::Revision;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The list of keyspaces is rewritten without what was deleted once that is more than this.
const DELETED_NAMES_MAX: usize = 100;

/// A database that is open, the generation in use, the inventory of both, and the position
/// in the history.
pub struct Recovered {
    pub database: Database,
    pub generation: Generation,
    pub inventory: inventory::Keeper,
    /// Behind the last batch; of another birth if that is not known, as in a directory of
    /// an earlier version. The next batch notes it on the disk.
    pub revision: Revision,
}

/// Makes the database of a new store in the folder `data`.
pub fn found(data: &Path) -> Result<(), OpenError> {
    let stamp = Stamp::new();
    let database = Database::open(data)?;
    let generation = Generation::begin(&database, data, stamp, 0, Revision::newborn())?;
    let inventory = Inventory::new(stamp, generation.ids(), &[]);
    inventory.write(data).map_err(unlistable)
}

/// Checks the database in its folder before it is opened. Nothing is changed until
/// all of it was found good; then a write that a crash has left unfinished is cut off.
pub fn check(data: &Data, has_inventory: bool) -> Result<Verified, OpenError> {
    let mut verified = verify::verify(data.path(), has_inventory)?;
    if let Some((journal, at)) = verified.journals.cut()? {
        let name = journal.file_name().unwrap_or_default();
        let journal = data.name.join(name);
        log::warn!("{}: an unfinished write was cut off at byte {at}", journal.display());
    }
    held::close_to_others(&verified.open_to_others);
    Ok(verified)
}

/// Checks the database in its folder, and opens it for writes. Calls `finish` once
/// the inventory is written.
pub fn recover(
    data: &Arc<Data>,
    has_inventory: bool,
    finish: impl FnOnce() -> Result<(), OpenError>,
) -> Result<Recovered, OpenError> {
    let verified = check(data, has_inventory)?;
    put_right(data.path(), &verified)?;
    let stamp = Stamp::new();
    let database = Database::open(data.path())?;
    database.number_above(verified.names.highest.max(verified.journals.highest));
    let generation = generation_in_use(&database, data, stamp)?;
    let revision = revision::last(generation.keys())?.unwrap_or_else(Revision::newborn);
    // Before anything is written that it lists, or removed that the one before lists.
    let inventory = Inventory::new(stamp, generation.ids(), &verified.journals.all);
    inventory.write(data.path()).map_err(unlistable)?;
    finish()?;
    generation.remove_others(&database)?;
    let inventory = inventory::Keeper::new(Arc::clone(data), inventory);
    Ok(Recovered { database, generation, inventory, revision })
}

/// Puts right what the database would not: removes what a crash has left half written, has
/// the trees forget what they count of blob files that are gone, and shortens the list of
/// keyspaces.
fn put_right(data: &Path, verified: &Verified) -> Result<(), OpenError> {
    for file in &verified.left_files {
        if let Err(err) = fs::remove_file(file) {
            log::debug!("{} stays: {err}", file.display());
        }
    }
    if verified.counts_gone_blobs {
        // Threads of the database might make a file with the number of another at once.
        let standby = Database::open_standby(data)?;
        for name in standby.keyspace_names() {
            standby.keyspace(&name)?.forget_gone_blobs()?;
        }
    }
    if verified.names.deleted > DELETED_NAMES_MAX
        && let Err(err) = Database::compact_list(data)
    {
        log::debug!("the list of keyspaces stays as it is: {err}");
    }
    Ok(())
}

/// The generation in use of an open database. Its batches have the stamp.
pub fn generation_in_use(
    database: &Database,
    data: &Data,
    stamp: Stamp,
) -> Result<Generation, OpenError> {
    Generation::newest(database, data.path(), stamp)?.ok_or(OpenError::Incomplete)
}

fn unlistable(err: io::Error) -> OpenError {
    OpenError::io("its inventory cannot be written", err)
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::generation::{KEYS_END, MARK};
    use super::*;
    use tempfile::TempDir;

    /// A new store's directory, and its data.
    struct Place {
        _folder: TempDir,
        directory: Directory,
        data: Arc<Data>,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a directory");
            let mut directory = Directory::take(folder.path()).expect("it is free");
            directory.found(found).expect("it is made");
            let data = Arc::new(directory.data().expect("it is there"));
            Self { _folder: folder, directory, data }
        }

        fn recover(&self) -> Recovered {
            let recovered = recover(&self.data, true, || self.directory.finish());
            recovered.unwrap_or_else(|err| panic!("{err}"))
        }
    }

    /// Makes the keyspaces of the generation that this number has, as a clear does that is
    /// cut short behind that.
    fn begin_of_clear(database: &Database, number: u64) {
        for name in [number.to_string(), format!("{number}.expiring")] {
            database.keyspace(&name).expect("it is made");
        }
    }

    fn clear(recovered: &mut Recovered, data: &Data) {
        let Recovered { database, generation, inventory, revision } = recovered;
        let next = generation.next(database, data.path(), *revision).expect("it begins");
        inventory.begin(&next).expect("it is listed");
        std::mem::replace(generation, next).remove(database).expect("it is removed");
    }

    #[test]
    fn a_clear_that_was_cut_short_is_no_trouble_for_the_next_one() {
        let place = Place::new();
        let data = &place.data;
        for number in 1..4 {
            begin_of_clear(&place.recover().database, number);
            // Removes what was begun.
            let mut recovered = place.recover();
            clear(&mut recovered, data);
            recovered.generation.keys().insert("key", "value").expect("it is written");
            recovered.database.sync().expect("it is synced");
            let in_use = recovered.generation.ids();
            drop(recovered);

            let recovered = place.recover();
            assert_eq!(recovered.generation.ids(), in_use);
            let held = recovered.generation.keys().get("key").expect("it can be read");
            assert_eq!(held.as_deref(), Some(&b"value"[..]));
            drop(recovered);
            let verified = verify::verify(data.path(), true).expect("it is good");
            let named: Vec<u64> = verified.names.by_number.into_keys().collect();
            assert_eq!(named, in_use, "no name is left of what was removed");
        }
    }

    #[test]
    fn names_that_earlier_programs_left_are_no_trouble() {
        let place = Place::new();
        let data = &place.data;
        begin_of_clear(&place.recover().database, 1);
        // As they did: with numbers that may be too low.
        let database = Database::open(data.path()).expect("it opens");
        let generation = generation_in_use(&database, data, Stamp::new()).expect("it is there");
        generation.remove_others(&database).expect("they are removed");
        let revision = Revision::newborn();
        let inventory = Inventory::new(Stamp::new(), generation.ids(), &[]);
        let mut keeper = inventory::Keeper::new(Arc::clone(data), inventory);
        let next = generation.next(&database, data.path(), revision).expect("it begins");
        keeper.begin(&next).expect("it is listed");
        generation.remove(&database).expect("it is removed");
        let in_use = next.ids();
        drop(next);
        drop(database);
        drop(keeper);
        let verified = verify::verify(data.path(), true).expect("it is good");
        assert!(verified.names.by_number.len() > 2, "a name is left");
        let mut recovered = place.recover();
        assert_eq!(recovered.generation.ids(), in_use);
        clear(&mut recovered, data);
        drop(recovered);
        place.recover();
    }

    /// The journal has them in order, whatever has become of their keyspaces.
    #[test]
    fn batches_are_numbered_above_those_of_keyspaces_that_are_gone() {
        let place = Place::new();
        let data = &place.data;
        let Recovered { database, generation, revision, .. } = place.recover();
        let next = generation.next(&database, data.path(), revision).expect("it begins");
        // It is not in use without its mark, and so is removed.
        let mut batch = next.batch(&database, revision);
        batch.remove(next.keys(), MARK);
        batch.commit().expect("it is written");
        let ids = generation.ids();
        drop((next, generation, database));
        place.recover();
        // That had the numbers of the removal.
        Database::compact_list(data.path()).expect("it is rewritten");

        let Recovered { database, generation, revision, .. } = place.recover();
        assert_eq!(generation.ids(), ids);
        let batch = generation.batch(&database, revision);
        batch.commit().expect("it is written");
        drop((generation, database));
        place.recover();
    }

    #[test]
    fn a_keyspace_that_was_removed_in_part_is_removed() {
        let place = Place::new();
        let data = &place.data;
        let database = place.recover().database;
        begin_of_clear(&database, 1);
        let folder = database.keyspace("1").expect("it is there").path().to_owned();
        drop(database);
        // Before all other files of it.
        fs::remove_file(folder.join("current")).expect("it was there");
        let mut recovered = place.recover();
        assert!(!folder.exists());
        clear(&mut recovered, data);
    }

    #[test]
    fn a_file_that_takes_the_place_of_a_manifest_is_not_left() {
        let place = Place::new();
        let data = &place.data;
        let list = data.path().join("keyspaces/0");
        let keyspace = place.recover().generation.keys().path().to_owned();
        let folders = [list, keyspace];
        let left = folders.map(|folder| folder.join(".tmp0aB1cD"));
        for file in &left {
            fs::write(file, b"half").expect("it is written");
        }
        let folder = data.path().join("keyspaces/0/.tmpfolder");
        fs::create_dir(&folder).expect("it is made");
        place.recover();
        assert!(left.iter().all(|file| !file.exists()));
        assert!(folder.exists(), "it is of somebody else");
    }

    /// A drop of tables leaves the count of a file that goes with them.
    #[test]
    fn a_blob_file_is_not_taken_for_an_earlier_one_of_its_number() {
        const LARGE: [u8; 5000] = [b'x'; 5000];
        let place = Place::new();
        let recovered = place.recover();
        let keys = recovered.generation.keys();
        let insert = |key: String, value: &[u8]| keys.insert(key, value).expect("it is written");
        (0..1000).for_each(|key| insert(format!("{key:03}"), &[b'x'; 100]));
        insert("500".to_owned(), &LARGE);
        keys.flush_and_wait().expect("it is in a file");
        keys.merge(16 << 10).expect("it is in the last level");
        insert("newer".to_owned(), b"x");
        keys.flush_and_wait().expect("it is in a file");
        let files = keys.blob_files();
        assert_eq!(files.len(), 1);
        let stretch = keys.bottom_stretch(b"300", &KEYS_END, 64 << 10).expect("there are tables");
        assert!(keys.drop_stretch(&recovered.database, &stretch).expect("it is dropped"));
        assert_eq!(keys.get("500").expect("it can be read"), None);
        assert!(keys.blob_files().is_empty());
        drop(recovered);

        let recovered = place.recover();
        let keys = recovered.generation.keys();
        keys.insert("another", LARGE).expect("it is written");
        keys.flush_and_wait().expect("it is in a file");
        assert_eq!(keys.blob_files(), files, "it has another number");
        for _ in 0..2 {
            keys.merge(1 << 20).expect("it is in the last level");
        }
        let held = keys.get("another").expect("it can be read");
        assert_eq!(held.as_deref(), Some(&LARGE[..]));
    }
}
