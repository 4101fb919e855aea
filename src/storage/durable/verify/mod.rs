//! Checks a database before it is opened, and changes nothing.
//!
//! The database believes most of its files: it takes a manifest as it finds it,
//! removes orphaned tables, makes missing files anew, and has begun to do so before
//! it refuses. So all that it will believe is checked here first:
//!
//! ```text
//! version, lock           there, as they were written
//! inventory               the list of the rest, see `inventory`
//! 7.jnl, 8.jnl ...        see `journal`
//! keyspaces/0/            the names of the others
//! keyspaces/3/current     the number and checksum of the manifest
//! keyspaces/3/v12         the manifest: tables, with a checksum each, and blobs
//! keyspaces/3/tables/40   its contents and metadata; blocks have checksums
//! keyspaces/3/blobs/5     the same; values have checksums
//! ```
//!
//! A crash leaves a keyspace without a `current` only where it is not named yet,
//! or not any more, and files that the manifest does not name anywhere.

mod keyspace;

use super::held;
use super::inventory::{Inventory, Listed};
use super::journal::{self, Journals};
use super::open_error::OpenError;
use super::tree::KEYSPACES;
use keyspace::{Names, Tree};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The keyspace that names the others.
const NAMES: u64 = 0;

const VERSION: &str = "version";
const VERSION_BYTES: [u8; 4] = *b"FJL\x03";

const LOCK: &str = "lock";

/// The bytes of tables that are read as a whole. The rest is read when it is used.
const WHOLE_BYTES_MAX: u64 = 64 << 20;

/// A database that was found good.
#[derive(Debug)]
pub struct Verified {
    pub journals: Journals,
    /// The list of its keyspaces.
    pub names: Names,
    /// A tree counts values of blob files that are gone, see [`Tree`].
    pub counts_gone_blobs: bool,
    /// Unfinished files that the database leaves.
    pub left_files: Vec<PathBuf>,
    /// The files that others may read or write.
    pub open_to_others: Vec<PathBuf>,
}

/// Checks the database in the folder `data`, which has an inventory unless an
/// earlier program wrote it.
pub fn verify(data: &Path, has_inventory: bool) -> Result<Verified, OpenError> {
    let mut walk = Walk::default();
    // It is held, and may be reached by a link of the system's own.
    let metadata = fs::metadata(data).map_err(unreadable)?;
    walk.note(data, &metadata);
    held::check(data, &metadata, true)?;
    let names = walk.names(data)?;
    for name in &names {
        // The database refuses a name that is no text.
        let Some(name) = name.to_str() else { return Err(changed(data.join(name))) };
        let path = data.join(name);
        if name.to_ascii_lowercase().ends_with(".jnl") {
            journal::number(&path).ok_or_else(|| changed(path.clone()))?;
            walk.file(&path)?;
        }
    }
    let version = data.join(VERSION);
    walk.file(&version)?;
    if fs::read(&version).map_err(unreadable)? != VERSION_BYTES {
        return Err(changed(version));
    }
    walk.file(&data.join(LOCK))?;

    let inventory = has_inventory.then(|| Inventory::read(data)).transpose()?;
    if has_inventory {
        walk.file(&data.join(Inventory::NAME))?;
    }
    let (names, trees) = keyspaces(data, inventory.as_ref(), &mut walk)?;
    let whole_bytes = |number: u64| {
        let listed = inventory.iter().flat_map(|inventory| &inventory.journals);
        let listed = listed.filter(|listed| listed.number == number);
        listed.map(|listed| listed.whole_bytes).max().unwrap_or(0)
    };
    let stamp = inventory.as_ref().map(|inventory| inventory.stamp);
    let journals = Journals::read(data, stamp, whole_bytes)?;
    are_all_there(data, &journals, inventory.as_ref(), &trees)?;
    let counts_gone_blobs = trees.values().any(|tree| tree.counts_gone_blobs);
    let Walk { left_files, open_to_others, .. } = walk;
    Ok(Verified { journals, names, counts_gone_blobs, left_files, open_to_others })
}

/// Checks that no journal is missing that anything is in which no table has.
fn are_all_there(
    data: &Path,
    journals: &Journals,
    inventory: Option<&Inventory>,
    trees: &BTreeMap<u64, Tree>,
) -> Result<(), OpenError> {
    let missing = |number: u64| OpenError::Missing { file: data.join(format!("{number}.jnl")) };
    let Some(newest) = journals.all.last() else {
        let newest = inventory.and_then(|inventory| inventory.journals.last());
        return Err(missing(newest.map_or(0, |listed| listed.number)));
    };
    let Some(Inventory { keyspaces: [keys, _], journals: listed, .. }) = inventory else {
        return Ok(());
    };
    let in_tables = trees.get(keys).and_then(|tree| tree.highest);
    let is_there = |listed: &&Listed| journals.all.iter().any(|it| it.number == listed.number);
    match listed.iter().find(|listed| {
        !is_there(listed)
            && (listed.number > newest.number || in_tables.unwrap_or(0) < listed.batch)
    }) {
        Some(listed) => Err(missing(listed.number)),
        None => Ok(()),
    }
}

/// Checks the keyspaces of the database in `data`; gives the list of them, and those that
/// it will open.
fn keyspaces(
    data: &Path,
    inventory: Option<&Inventory>,
    walk: &mut Walk,
) -> Result<(Names, BTreeMap<u64, Tree>), OpenError> {
    let folder = data.join(KEYSPACES);
    walk.folder(&folder)?;
    let mut there = Vec::new();
    for name in walk.names(&folder)? {
        let path = folder.join(&name);
        // The database says that such a file is a stray one, and leaves it.
        if !walk.metadata(&path)?.is_dir() {
            continue;
        }
        let number = name.to_str().and_then(number).ok_or_else(|| changed(path.clone()))?;
        there.push(number);
    }
    let path = |number: u64| folder.join(number.to_string());
    let list = keyspace::names(&path(NAMES), walk)?;
    let names = &list.by_number;
    let in_use: Vec<u64> = inventory.iter().flat_map(|inventory| inventory.keyspaces).collect();
    for number in &in_use {
        if !names.contains_key(number) || !there.contains(number) {
            return Err(OpenError::Missing { file: path(*number) });
        }
    }
    let mut trees = BTreeMap::new();
    for &number in names.keys().filter(|number| there.contains(number)) {
        // The name may be left of one that was removed in part.
        let may_be_unfinished = inventory.is_some() && !in_use.contains(&number);
        if may_be_unfinished && keyspace::is_unfinished(&path(number))? {
            continue;
        }
        trees.insert(number, keyspace::check(&path(number), walk)?);
    }
    // One that was just begun may be without its folder once power was lost, and earlier
    // programs left names of what they had removed. Without an inventory it can only be
    // said that there has to be another then.
    if let Some((number, _)) = names.iter().find(|(number, _)| !trees.contains_key(number))
        && inventory.is_none()
        && !has_whole_generation(names, &trees)
    {
        return Err(OpenError::Missing { file: path(*number) });
    }
    Ok((list, trees))
}

/// Whether there is a keyspace of keys, and the one that belongs to it.
fn has_whole_generation(names: &BTreeMap<u64, String>, trees: &BTreeMap<u64, Tree>) -> bool {
    let is_whole = |name: &str| {
        let mut of_it = names.iter().filter(|(_, other)| *other == name);
        of_it.all(|(number, _)| trees.contains_key(number))
    };
    let mut keys = names.values().filter(|name| name.parse::<u64>().is_ok());
    keys.any(|name| is_whole(name) && is_whole(&format!("{name}.expiring")))
}

/// A number as the database writes it in names.
fn number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number: &u64| number.to_string() == name)
}

fn changed(file: PathBuf) -> OpenError {
    OpenError::Changed { file }
}

fn unreadable(err: io::Error) -> OpenError {
    OpenError::io("its data cannot be read", err)
}

/// A walk through all files.
#[derive(Default)]
struct Walk {
    left_files: Vec<PathBuf>,
    open_to_others: Vec<PathBuf>,
    /// How much was read as a whole.
    whole_bytes: u64,
}

impl Walk {
    /// The names in a folder, where all is ours and nothing is a link: the
    /// database may open any name in it, to read or to write.
    fn names(&mut self, folder: &Path) -> Result<Vec<OsString>, OpenError> {
        let entries = fs::read_dir(folder).map_err(unreadable)?;
        let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
        let names = names.map_err(unreadable)?;
        for name in &names {
            let path = folder.join(name);
            let metadata = self.metadata(&path)?;
            held::check(&path, &metadata, metadata.is_dir())?;
        }
        Ok(names)
    }

    /// Whether a file fits into the part that is read as a whole, for damage that
    /// nothing else shows.
    fn takes_whole(&mut self, path: &Path) -> Result<bool, OpenError> {
        let bytes = self.file(path)?;
        let takes = self.whole_bytes + bytes <= WHOLE_BYTES_MAX;
        self.whole_bytes += if takes { bytes } else { 0 };
        Ok(takes)
    }

    /// Checks that a folder is there and ours.
    fn folder(&mut self, path: &Path) -> Result<(), OpenError> {
        let metadata = self.metadata(path)?;
        held::check(path, &metadata, true)
    }

    /// Checks that a file is there and ours; gives its length.
    fn file(&mut self, path: &Path) -> Result<u64, OpenError> {
        let metadata = self.metadata(path)?;
        held::check(path, &metadata, false)?;
        Ok(metadata.len())
    }

    fn metadata(&mut self, path: &Path) -> Result<Metadata, OpenError> {
        let metadata = fs::symlink_metadata(path).map_err(|err| {
            let is_missing = err.kind() == ErrorKind::NotFound;
            if is_missing { OpenError::Missing { file: path.to_owned() } } else { unreadable(err) }
        })?;
        self.note(path, &metadata);
        Ok(metadata)
    }

    fn note(&mut self, path: &Path, metadata: &Metadata) {
        if held::is_open_to_others(metadata) {
            self.open_to_others.push(path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
