//! The manifest of a keyspace: the files of one version of its tree.
//!
//! ```text
//! current     the last version: u64, XXH3 of its manifest: u128, and the kind of that: u8
//! v12         the manifest of version 12, see `archive`
//! tables/40   the tables that it names
//! blobs/5     and the blob files
//! ```

use super::archive::Archive;
use crate::storage::durable::decoder::Decoder;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub const CURRENT: &str = "current";
pub const TABLES: &str = "tables";
pub const BLOBS: &str = "blobs";

/// The only kind of checksum.
const XXH3: u8 = 0;

/// The file `current` of a keyspace.
pub struct Current {
    /// The last version.
    pub version: u64,
    /// That of its manifest.
    pub checksum: u128,
}

impl Current {
    /// Reads that of the keyspace in `folder`. [`ErrorKind::InvalidData`] if it makes no sense.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let bytes = fs::read(folder.join(CURRENT))?;
        let mut decoder = Decoder(&bytes);
        match (decoder.u64(), decoder.u128(), decoder.u8(), decoder.0) {
            (Some(version), Some(checksum), Some(XXH3), []) => Ok(Self { version, checksum }),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// A table that a manifest names.
#[derive(Clone, Copy)]
pub struct NamedTable {
    pub id: u64,
    pub level: usize,
    pub checksum: u128,
    pub global_number: u64,
}

/// The files of a version, tables in the order in which they are searched.
pub struct Manifest {
    pub tables: Vec<NamedTable>,
    pub blobs: Vec<u64>,
    /// The blob files that it has a count of stale values for.
    pub counted: Vec<u64>,
}

impl Manifest {
    /// Reads the manifest in a file, whatever its checksum. [`ErrorKind::InvalidData`] if it
    /// makes no sense.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut archive = Archive::open(path)?;
        let (tables, blobs) = (archive.section(b"tables")?, archive.section(b"blob_files")?);
        let counts = archive.section(b"blob_gc_stats")?;
        let manifest = tables_in(&tables).zip(blobs_in(&blobs)).zip(counted_in(&counts));
        let ((tables, blobs), counted) = manifest.ok_or(ErrorKind::InvalidData)?;
        Ok(Self { tables, blobs, counted })
    }

    /// Reads that of a version of the keyspace in `folder`.
    pub fn of_version(folder: &Path, version: u64) -> io::Result<Self> {
        Self::read(&version_file(folder, version))
    }
}

/// The file of the manifest of a version of the keyspace in `folder`.
pub fn version_file(folder: &Path, version: u64) -> PathBuf {
    folder.join(format!("v{version}"))
}

/// The tables in a section: of each level its runs, of each run its tables.
fn tables_in(section: &[u8]) -> Option<Vec<NamedTable>> {
    let mut decoder = Decoder(section);
    let mut tables = Vec::new();
    for level in 0..decoder.u8()?.into() {
        for _ in 0..decoder.u8()? {
            for _ in 0..decoder.u32()? {
                let (id, kind, checksum) = (decoder.u64()?, decoder.u8()?, decoder.u128()?);
                let global_number = decoder.u64()?;
                if kind != XXH3 {
                    return None;
                }
                tables.push(NamedTable { id, level, checksum, global_number });
            }
        }
    }
    Some(tables)
}

fn blobs_in(section: &[u8]) -> Option<Vec<u64>> {
    let mut decoder = Decoder(section);
    let mut blobs = Vec::new();
    for _ in 0..decoder.u32()? {
        let (id, kind, _checksum) = (decoder.u64()?, decoder.u8()?, decoder.u128()?);
        if kind != XXH3 {
            return None;
        }
        blobs.push(id);
    }
    Some(blobs)
}

/// The blob files in a section of counts: of each its number, the number of its stale
/// values, their bytes, and their bytes on the disk.
fn counted_in(section: &[u8]) -> Option<Vec<u64>> {
    let mut decoder = Decoder(section);
    let mut counted = Vec::new();
    for _ in 0..decoder.u32()? {
        counted.push(decoder.u64()?);
        decoder.take(size_of::<u32>() + 2 * size_of::<u64>())?;
    }
    Some(counted)
}
