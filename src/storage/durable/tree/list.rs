//! The list of keyspaces, with their options, which is a tree of its own.
//!
//! The database keeps all that was ever in it, and, until it is closed, every version of
//! the tree with its files. So the files are removed here that no reader needs, and at a
//! start what was deleted. Nobody reads an older version than the last.

use super::{Database, Result};
use crate::storage::durable::generation::KEYSPACES;
use lsm_tree::{AbstractTree as _, AnyTree, Config, SequenceNumberCounter};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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

    /// Removes the files that are not of its last version. The database will try to as it is
    /// closed.
    pub fn remove_obsolete_files(&self) {
        // To open a tree removes them.
        if let Err(err) = self.change(|| open(&self.folder)) {
            log::debug!("obsolete files of the list of keyspaces stay: {err}");
        }
    }
}

impl Database {
    /// Rewrites the list of the database in a folder, which nobody has open, without what
    /// was deleted: sequence numbers of that are not in it any more.
    pub fn compact_list(folder: &Path) -> Result<()> {
        let list = open(&self::folder(folder))?;
        list.major_compact(TABLE_BYTES, u64::MAX)?;
        Ok(())
    }
}

fn folder(data: &Path) -> PathBuf {
    data.join(KEYSPACES).join(LIST)
}

fn open(folder: &Path) -> lsm_tree::Result<AnyTree> {
    let number = SequenceNumberCounter::default;
    Config::new(folder, number(), number()).open()
}
