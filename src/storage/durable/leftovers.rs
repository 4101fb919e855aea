//! What a compaction leaves behind where it fails: files that are half written,
//! or whole and of no use. The database removes them at its next start only; on
//! a full disk they are the space that was left.

use fjall::{AbstractTree as _, Keyspace};
use lsm_tree::Table;
use lsm_tree::file::{BLOBS_FOLDER, TABLES_FOLDER};
use std::collections::HashSet;
use std::path::PathBuf;
use std::{fs, io};

/// The files of a tree that are made after a moment, by their numbers.
pub struct NewFiles {
    /// The first number for one of keys.
    tables_from: u64,
    /// The first number for one of values that are kept apart.
    blobs_from: u64,
}

impl NewFiles {
    /// Those from now on.
    pub fn from_now(keyspace: &Keyspace) -> io::Result<Self> {
        let apart = files(keyspace, BLOBS_FOLDER)?;
        let last = apart.into_iter().map(|(number, _)| number).max();
        let blobs_from = last.map_or(0, |last| last + 1);
        Ok(Self { tables_from: keyspace.tree.next_table_id(), blobs_from })
    }

    /// Removes those that the tree does not have. Nothing else may have merged
    /// files since, for what it replaced could still be read. Says how many
    /// there were.
    pub fn remove_unused(&self, keyspace: &Keyspace) -> io::Result<usize> {
        // None is about to become the tree's while this is held.
        let _lock = keyspace.tree.get_flush_lock();
        let version = keyspace.tree.current_version();
        let tables: HashSet<u64> = version.iter_tables().map(Table::id).collect();
        let apart: HashSet<u64> = version.blob_files.list_ids().copied().collect();
        let kinds =
            [(TABLES_FOLDER, self.tables_from, tables), (BLOBS_FOLDER, self.blobs_from, apart)];
        let mut removed = 0;
        for (folder, from, in_use) in kinds {
            for (number, path) in files(keyspace, folder)? {
                if number >= from && !in_use.contains(&number) {
                    fs::remove_file(path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// The files of a folder that are named by a number; none if it is not there.
fn files(keyspace: &Keyspace, folder: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(keyspace.path().join(folder)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // A file may be gone meanwhile, and is of no interest then.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if let Some(number) = number.filter(|_| is_file) {
            files.push((number, entry.path()));
        }
    }
    Ok(files)
}
