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
use std::io;
use std::path::Path;
use std::sync::Arc;

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
    let stamp = Stamp::new();
    let database = Database::open(data.path())?;
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
