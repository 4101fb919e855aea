//! A tree at a moment, which may be held for long.
//!
//! A snapshot of the database is for a short time: as long as it lives, each of its trees
//! keeps every version that it has had since, and so every memtable that was flushed, and
//! every file that a flush or a compaction has made in between; and compaction keeps each
//! value that was overwritten. Memory and disk would grow by all that is written while
//! a slow reader takes a list. So only the one version is held that the snapshot reads:
//! its memtables, of which one is still written to until it is full, and its files, which
//! are there until the last version that has them is dropped. Journals are not needed.
//! What is held is never more than the tree was at that moment, and a memtable.
//!
//! lsm-tree reads a version that it does not track but for values in blob files, so these
//! are read here, by the references that are in their place.

use super::super::decoder::Decoder;
use super::blob_files::{BLOB_HEAD_BYTES, BLOB_MAGIC};
use super::{BLOBS, Result};
use crate::storage::page::Bounds;
use bytes::{Buf as _, Bytes};
use fjall::{AbstractTree as _, AnyTree};
use lsm_tree::{InternalValue, Tree, ValueType};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

type Ranges = dyn Fn(&Bounds) -> Box<InOrder> + Send + Sync;

type InOrder = dyn DoubleEndedIterator<Item = lsm_tree::Result<InternalValue>> + Send;

pub struct HeldTree {
    /// Has the version, whose type has no name outside the crate.
    range: Box<Ranges>,
    memtable: u64,
    blobs: Arc<PathBuf>,
}

impl HeldTree {
    /// The tree in a folder as the snapshot with this number sees it, which lives until
    /// this returns.
    pub fn new(tree: &AnyTree, folder: &Path, number: u64) -> Self {
        let version = tree.get_version_history_lock().get_version_for_snapshot(number);
        let memtable = version.active_memtable.id();
        let range = move |bounds: &Bounds| -> Box<InOrder> {
            Box::new(Tree::create_internal_range(version.clone(), bounds, number, None))
        };
        Self { range: Box::new(range), memtable, blobs: Arc::new(folder.join(BLOBS)) }
    }

    /// The number of its active memtable.
    pub fn memtable(&self) -> u64 {
        self.memtable
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let bounds = (Bound::Included(key.to_vec()), Bound::Included(key.to_vec()));
        let Some(item) = self.range(&bounds).next() else { return Ok(None) };
        let (_key, value) = item.read(true)?;
        Ok(value)
    }

    pub fn range(&self, bounds: &Bounds) -> HeldItems {
        HeldItems { items: (self.range)(bounds), blobs: Arc::clone(&self.blobs) }
    }
}

/// Items of a tree in order.
pub struct HeldItems {
    items: Box<InOrder>,
    blobs: Arc<PathBuf>,
}

impl Iterator for HeldItems {
    type Item = HeldItem;

    fn next(&mut self) -> Option<HeldItem> {
        Some(HeldItem { item: self.items.next()?, blobs: Arc::clone(&self.blobs) })
    }
}

impl DoubleEndedIterator for HeldItems {
    fn next_back(&mut self) -> Option<HeldItem> {
        Some(HeldItem { item: self.items.next_back()?, blobs: Arc::clone(&self.blobs) })
    }
}

/// A key with its value, or with the place of that.
pub struct HeldItem {
    item: lsm_tree::Result<InternalValue>,
    blobs: Arc<PathBuf>,
}

impl HeldItem {
    /// The key, with its value where that is wanted.
    pub fn read(self, with_value: bool) -> Result<(Bytes, Option<Bytes>)> {
        let InternalValue { key, value } = self.item?;
        let is_blob = key.value_type == ValueType::Indirection;
        let key = Bytes::from(key.user_key);
        let value = match (with_value, is_blob) {
            (false, _) => None,
            (true, false) => Some(value.into()),
            (true, true) => Some(read_blob(&self.blobs, &key, &value)?),
        };
        Ok((key, value))
    }
}

/// Reads the value of a key by a reference to it.
fn read_blob(blobs: &Path, key: &[u8], reference: &[u8]) -> io::Result<Bytes> {
    let mut reference = Decoder(reference);
    let mut varint = || reference.varint().ok_or_else(damaged);
    let (offset, file, value_bytes) = (varint()?, varint()?, varint()?);
    let mut file = File::open(blobs.join(file.to_string()))?;
    file.seek(SeekFrom::Start(offset))?;
    let value_bytes = usize::try_from(value_bytes).map_err(|_| damaged())?;
    let mut blob = vec![0; BLOB_HEAD_BYTES + key.len() + value_bytes];
    file.read_exact(&mut blob)?;

    let mut blob = Bytes::from(blob);
    if !blob.starts_with(BLOB_MAGIC) {
        return Err(damaged());
    }
    blob.advance(BLOB_MAGIC.len());
    let expected = blob.get_u128_le();
    blob.advance(BLOB_HEAD_BYTES - BLOB_MAGIC.len() - size_of::<u128>());
    // That of the key and the value.
    let mut checksum = Xxh3::new();
    checksum.update(&blob);
    if checksum.digest128() != expected || !blob.starts_with(key) {
        return Err(damaged());
    }
    blob.advance(key.len());
    Ok(blob)
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a blob is damaged")
}
