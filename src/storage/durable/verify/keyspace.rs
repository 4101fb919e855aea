//! One keyspace: its manifest, and the files that this names.

use super::super::decoder::Decoder;
use super::super::open_error::OpenError;
use super::super::tree::archive::Archive;
use super::super::tree::manifest::{self, BLOBS, CURRENT, Current, Manifest, NamedTable, TABLES};
use super::super::tree::table_file::{self, Item, ItemKind, TableFile};
use super::{Walk, changed, number, unreadable};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// The beginning of the name of a `current` that is not in its place yet.
const UNFINISHED: &str = ".tmp";

/// The key of a keyspace's name, before its number in big-endian.
const NAME_PREFIX: u8 = b'n';

/// A keyspace that was found good.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// The highest sequence number in its tables.
    pub highest: Option<u64>,
    /// A count of stale values is left of a blob file that is gone, whose number the
    /// database would give to another.
    pub counts_gone_blobs: bool,
}

/// Whether a crash has left the keyspace in `folder` begun, or half removed: the database
/// opens none that has no manifest.
pub fn is_unfinished(folder: &Path) -> Result<bool, OpenError> {
    Ok(!folder.join(CURRENT).try_exists().map_err(unreadable)?)
}

/// Checks the keyspace in `folder`, but for blocks and values, which have
/// checksums of their own.
pub fn check(folder: &Path, walk: &mut Walk) -> Result<Tree, OpenError> {
    let mut highest = None;
    let Manifest { blobs, counted, .. } = each_table(folder, walk, |path, named, table, walk| {
        highest = highest.max(Some(table.highest_number()));
        if walk.takes_whole(path)? && checksum(path)? != named.checksum {
            check_references(path, table)?;
        }
        Ok(())
    })?;
    let last = blobs.iter().max();
    Ok(Tree { highest, counts_gone_blobs: counted.iter().any(|id| Some(id) > last) })
}

/// The list of the keyspaces.
#[derive(Debug)]
pub struct Names {
    /// Their names, by their numbers.
    pub by_number: BTreeMap<u64, String>,
    /// How many were deleted and are in the list yet.
    pub deleted: usize,
    /// The highest sequence number in the list; zero if it is empty.
    pub highest: u64,
}

/// Checks the keyspace in `folder` that names all others, as a whole.
pub fn names(folder: &Path, walk: &mut Walk) -> Result<Names, OpenError> {
    let mut found: BTreeMap<u64, Option<String>> = BTreeMap::new();
    let mut highest = 0;
    each_table(folder, walk, |path, named, table, _| {
        let damaged = || changed(path.to_owned());
        if checksum(path)? != named.checksum {
            return Err(damaged());
        }
        highest = highest.max(table.highest_number());
        for Item { key, value } in table.items().ok_or_else(damaged)? {
            let Some((&NAME_PREFIX, id)) = key.user_key.split_first() else { continue };
            let id = id.first_chunk().map(|id| u64::from_be_bytes(*id)).ok_or_else(damaged)?;
            let is_value = key.value_type == ItemKind::Value;
            let name = is_value.then(|| String::from_utf8(value.to_vec())).transpose();
            found.entry(id).or_insert(name.map_err(|_| damaged())?);
        }
        Ok(())
    })?;
    let all = found.len();
    let by_number: BTreeMap<u64, String> =
        found.into_iter().filter_map(|(id, name)| Some((id, name?))).collect();
    Ok(Names { deleted: all - by_number.len(), by_number, highest })
}

/// Checks the files of a keyspace's manifest, and hands out the tables.
fn each_table(
    folder: &Path,
    walk: &mut Walk,
    mut look: impl FnMut(&Path, &NamedTable, &TableFile, &mut Walk) -> Result<(), OpenError>,
) -> Result<Manifest, OpenError> {
    walk.folder(folder)?;
    for name in walk.names(folder)? {
        if name.to_string_lossy().starts_with(UNFINISHED) {
            let path = folder.join(name);
            // A folder of that name is of somebody else.
            if !walk.metadata(&path)?.is_dir() {
                walk.left_files.push(path);
            }
        }
    }
    let manifest = read_manifest(folder, walk)?;
    let tables = folder.join(TABLES);
    walk.folder(&tables)?;
    let there = numbers(&tables, walk)?;
    for named in &manifest.tables {
        let path = tables.join(named.id.to_string());
        if !there.contains(&named.id) {
            return Err(OpenError::Missing { file: path });
        }
        look(&path, named, &open_table(&path, named)?, walk)?;
    }
    let blobs = folder.join(BLOBS);
    // It comes into the folder last, and is not synced before the first ones.
    let there = match walk.folder(&blobs) {
        Err(OpenError::Missing { .. }) => BTreeSet::new(),
        found => found.and_then(|()| numbers(&blobs, walk))?,
    };
    for id in &manifest.blobs {
        let path = blobs.join(id.to_string());
        if !there.contains(id) {
            return Err(OpenError::Missing { file: path });
        }
        check_blobs(&path)?;
    }
    Ok(manifest)
}

/// Reads the manifest of the keyspace in `folder` that is in use.
fn read_manifest(folder: &Path, walk: &mut Walk) -> Result<Manifest, OpenError> {
    let path = folder.join(CURRENT);
    walk.file(&path)?;
    let current = whole(&path, Current::read(folder))?;
    let path = manifest::version_file(folder, current.version);
    walk.file(&path)?;
    if checksum(&path)? != current.checksum {
        return Err(changed(path));
    }
    whole(&path, Manifest::read(&path))
}

/// What was read of a file, if that is as it was written.
fn whole<T>(path: &Path, read: io::Result<T>) -> Result<T, OpenError> {
    read.map_err(|err| {
        let is_changed = err.kind() == io::ErrorKind::InvalidData;
        if is_changed { changed(path.to_owned()) } else { unreadable(err) }
    })
}

/// The files in a folder, which are named by numbers.
fn numbers(folder: &Path, walk: &mut Walk) -> Result<BTreeSet<u64>, OpenError> {
    let mut numbers = BTreeSet::new();
    for name in walk.names(folder)? {
        let path = folder.join(&name);
        let name = name.to_str().ok_or_else(|| changed(path.clone()))?;
        // Some systems put these into every folder, and the database passes over them.
        if name == ".DS_Store" || name.starts_with("._") {
            continue;
        }
        numbers.insert(number(name).ok_or_else(|| changed(path.clone()))?);
        walk.file(&path)?;
    }
    Ok(numbers)
}

/// Opens a table that is the one named.
fn open_table(path: &Path, named: &NamedTable) -> Result<TableFile, OpenError> {
    // The database believes this much of a file before it looks for damage.
    whole(path, Archive::open(path))?;
    let table = TableFile::open(path, named.level, named.checksum, named.global_number);
    table.filter(|table| table.id() == named.id).ok_or_else(|| changed(path.to_owned()))
}

/// Checks the metadata of a blob file.
fn check_blobs(path: &Path) -> Result<(), OpenError> {
    let meta = Archive::open(path).and_then(|mut archive| archive.section(b"meta"));
    let meta = whole(path, meta)?;
    match meta.strip_prefix(b"META") {
        Some(block) if table_file::is_block(block) => Ok(()),
        Some(_) | None => Err(changed(path.to_owned())),
    }
}

/// Checks the references to blob files that a damaged table claims: the files are
/// removed by these, and they are in no block with a checksum. Where the table cannot
/// be read, reads of its values will show that.
fn check_references(path: &Path, table: &TableFile) -> Result<(), OpenError> {
    let damaged = || changed(path.to_owned());
    let Some(items) = table.items() else { return Ok(()) };
    let mut referred: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    for Item { key, value } in items {
        if key.value_type != ItemKind::Indirection {
            continue;
        }
        let mut decoder = Decoder(&value);
        let (_offset, id) = (decoder.varint(), decoder.varint().ok_or_else(damaged)?);
        let (on_disk, bytes) = (decoder.varint(), decoder.varint());
        let [count, sum, sum_on_disk] = referred.entry(id).or_default();
        *count += 1;
        *sum += bytes.ok_or_else(damaged)?;
        *sum_on_disk += on_disk.ok_or_else(damaged)?;
    }
    let claimed = table.blob_references().ok_or_else(damaged)?;
    let is_listed_once = claimed.len() == referred.len();
    let is_right = claimed.iter().all(|(id, claimed)| referred.get(id) == Some(claimed));
    if is_listed_once && is_right { Ok(()) } else { Err(damaged()) }
}

/// The checksum of a whole file.
fn checksum(path: &Path) -> Result<u128, OpenError> {
    const PART_BYTES: usize = 64 << 10;
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut checksum, mut part) = (Xxh3::new(), vec![0; PART_BYTES]);
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(checksum.digest128()),
            Ok(got) => checksum.update(part.get(..got).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(unreadable(err)),
        }
    }
}
