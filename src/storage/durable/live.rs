//! The open database, and all that changes with it: its generation, its inventory, the
//! keyspaces that readers use, and the change log.

use super::directory::Data;
#[cfg(test)]
use super::directory::Directory;
use super::disk_space::DiskSpace;
use super::figures::Figures;
use super::generation::{Generation, Keyspaces};
use super::inventory;
#[cfg(test)]
use super::recovery;
use super::recovery::Recovered;
use super::tree::{Database, Error, Keyspace, Result, WriteBatch};
use crate::storage::{Changes, Event, Limits};
use std::mem;
use std::sync::{Arc, PoisonError, RwLock};
#[cfg(test)]
use tempfile::TempDir;

pub struct Live {
    /// There is none while it is opened anew.
    pub database: Option<Database>,
    pub generation: Generation,
    /// That of the failed database until another takes writes.
    pub inventory: inventory::Keeper,
    /// The keyspaces that readers use, now and whenever they are replaced.
    pub current: Arc<RwLock<Arc<Keyspaces>>>,
    /// The disk that the folder of the database is on.
    pub disk_space: DiskSpace,
    /// It is appended to once readers see the changes.
    pub changes: Changes,
    pub figures: Arc<Figures>,
}

impl Live {
    pub fn new(recovered: Recovered, limits: Limits) -> Self {
        let Recovered { database, generation, inventory, revision } = recovered;
        let current = Arc::new(RwLock::new(Arc::clone(&generation.keyspaces)));
        let disk_space = DiskSpace::new(inventory.data.path().to_owned(), limits.bytes);
        let changes = Changes::new(limits.history_bytes, revision, true);
        let (database, figures) = (Some(database), Arc::default());
        Self { database, generation, inventory, current, disk_space, changes, figures }
    }

    /// That of a new store, and its directory, which is there as long as that is kept.
    #[cfg(test)]
    pub fn of_new_store(limits: Limits) -> (Self, (Directory, TempDir)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut directory = Directory::take(folder.path()).expect("it is free");
        directory.found(recovery::found).expect("it is made");
        let data = Arc::new(directory.data().expect("it is there"));
        let recovered = recovery::recover(&data, true, || directory.finish());
        let live = Self::new(recovered.unwrap_or_else(|err| panic!("{err}")), limits);
        (live, (directory, folder))
    }

    /// The database that takes writes.
    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("nothing is written while there is no database")
    }

    /// A batch that changes no key.
    pub fn batch(&self) -> WriteBatch {
        self.generation.batch(self.database(), self.changes.revision())
    }

    /// A batch of changes of these keys.
    pub fn batch_of<'a>(&self, keys: impl Iterator<Item = &'a str>) -> WriteBatch {
        self.generation.batch(self.database(), self.changes.revision_behind(keys))
    }

    /// Widens the bounds of a keyspace's memtable.
    pub fn widen_bounds(&self, keyspace: &Keyspace) -> Result<()> {
        self.generation.widen_bounds(self.database(), keyspace, self.changes.revision())
    }

    /// Tells of the changes of a batch, which readers see by now.
    pub fn append<'a>(&self, changes: impl Iterator<Item = (Event, &'a str)>) {
        drop(self.changes.append_all(changes));
    }

    /// Notes a batch of so many bytes, with a floor for its number.
    pub fn note(&mut self, floor: u64, bytes: usize) {
        self.inventory.note(&self.generation, floor, bytes);
    }

    /// Has readers, and decisions, use another generation; gives the old one.
    pub fn replace(&mut self, generation: Generation) -> Generation {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::clone(&generation.keyspaces);
        drop(current);
        mem::replace(&mut self.generation, generation)
    }

    /// The folder of the database.
    pub fn data(&self) -> &Arc<Data> {
        &self.inventory.data
    }

    /// Fails if the directory is not where it was, or another is there.
    pub fn check_place(&self) -> Result<()> {
        if self.data().is_in_place() { Ok(()) } else { Err(Error::Lost) }
    }

    /// The same in half the time, without a look at the lock, which matters to
    /// those alone who come later.
    pub fn check_folder(&self) -> Result<()> {
        if self.data().is_where_it_was() { Ok(()) } else { Err(Error::Lost) }
    }
}
