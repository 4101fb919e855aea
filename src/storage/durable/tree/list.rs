//! The list of keyspaces, with their options, which is a tree of its own.
//!
//! The database keeps all that was ever in it, and, until it is closed, every version of
//! the tree with its files. So the files are removed here that no reader needs, and at a
//! start what was deleted. Nobody reads an older version than the last of the database,
//! which is the last on the disk, or the one before: where it failed behind the
//! replacement of `current`, it goes on from the one that it had.

use super::manifest::{Current, Manifest, TABLES};
use super::orphans::numbered_files;
use super::{Database, Result};
use lsm_tree::{AbstractTree as _, Config, SequenceNumberCounter};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

/// The database's folder of keyspaces.
pub const KEYSPACES: &str = "keyspaces";

/// The number of the list among the keyspaces.
const LIST: &str = "0";

/// The list is one table.
const TABLE_BYTES: u64 = 64 << 20;

pub struct List {
    folder: PathBuf,
    /// Held by who changes it.
    change: Mutex<()>,
}

impl List {
    /// That of the database in a folder.
    pub fn of(data: &Path) -> Self {
        Self { folder: folder(data), change: Mutex::default() }
    }

    /// Does something that may change it, such as making a keyspace.
    pub fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        // The database knows of each of its own changes whether it was made.
        let _lock = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        change()
    }

    /// Removes the files that are of neither of its last two versions. The database will try
    /// to as it is closed.
    pub fn remove_obsolete_files(&self) {
        if let Err(err) = self.change(|| remove_obsolete_files(&self.folder)) {
            log::debug!("obsolete files of the list of keyspaces stay: {err}");
        }
    }
}

impl Database {
    /// Rewrites the list of the database in a folder, which nobody has open, without what
    /// was deleted: sequence numbers of that are not in it any more.
    pub fn compact_list(folder: &Path) -> Result<()> {
        let number = SequenceNumberCounter::default;
        let list = Config::new(self::folder(folder), number(), number()).open()?;
        list.major_compact(TABLE_BYTES, u64::MAX)?;
        Ok(())
    }
}

fn folder(data: &Path) -> PathBuf {
    data.join(KEYSPACES).join(LIST)
}

fn remove_obsolete_files(folder: &Path) -> io::Result<()> {
    let Current { version: last, .. } = Current::read(folder)?;
    let (kept, mut obsolete): (Vec<_>, Vec<_>) = numbered_files(folder, "v")?
        .into_iter()
        .partition(|(number, _)| last.abs_diff(*number) <= 1);
    let mut tables = HashSet::new();
    for (version, _) in kept.into_iter().filter(|(number, _)| *number <= last) {
        let manifest = Manifest::of_version(folder, version)?;
        tables.extend(manifest.tables.iter().map(|table| table.id));
    }
    let all = numbered_files(&folder.join(TABLES), "")?;
    obsolete.extend(all.into_iter().filter(|(number, _)| !tables.contains(number)));
    obsolete.into_iter().try_for_each(|(_, file)| fs::remove_file(file))
}
