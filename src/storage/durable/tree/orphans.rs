//! Files that a compaction leaves behind where it fails: half written, or whole
//! and in no version. The database removes them at its next start only; on a full
//! disk they are the space that was left.

use super::manifest::{BLOBS, Current, Manifest, TABLES};
use fjall::{AbstractTree as _, Keyspace};
use lsm_tree::Table;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The files of a tree that are made after a moment, by their numbers.
pub struct NewFiles {
    tables_from: u64,
    blobs_from: u64,
}

impl NewFiles {
    pub fn from_now(keyspace: &Keyspace) -> io::Result<Self> {
        let blobs = numbered_files(&keyspace.path().join(BLOBS), "")?;
        let last_blob = blobs.into_iter().map(|(number, _)| number).max();
        let blobs_from = last_blob.map_or(0, |last| last + 1);
        Ok(Self { tables_from: keyspace.tree.next_table_id(), blobs_from })
    }

    /// Removes those that neither the tree's version has nor the last one on the disk, which
    /// is the next if it failed once that was there, and counts them. No other compaction may
    /// have run since: what it replaced could still be read.
    pub fn remove_orphans(&self, keyspace: &Keyspace) -> io::Result<usize> {
        // A flush installs no version while this is held.
        let _lock = keyspace.tree.get_flush_lock();
        let version = keyspace.tree.current_version();
        let Current { version: last, .. } = Current::read(keyspace.path())?;
        let on_disk = Manifest::of_version(keyspace.path(), last)?;
        let mut tables: HashSet<u64> = on_disk.tables.iter().map(|table| table.id).collect();
        let mut blobs = HashSet::<u64>::from_iter(on_disk.blobs);
        tables.extend(version.iter_tables().map(Table::id));
        blobs.extend(version.blob_files.list_ids());
        let kinds = [(TABLES, self.tables_from, tables), (BLOBS, self.blobs_from, blobs)];
        let mut removed = 0;
        for (folder, from, in_use) in kinds {
            for (number, path) in numbered_files(&keyspace.path().join(folder), "")? {
                if number >= from && !in_use.contains(&number) {
                    fs::remove_file(path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// The files of a folder that are named by a number behind a prefix; none if it is not
/// there.
pub fn numbered_files(folder: &Path, prefix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
        // A file that is gone by now is no orphan.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if let Some(number) = number.filter(|_| is_file) {
            files.push((number, entry.path()));
        }
    }
    Ok(files)
}
