//! A table in a file, read without a database: for `verify`, which knows the bytes
//! of all other files by itself.

use bytes::Bytes;
use lsm_tree::table::Block;
use lsm_tree::{Cache, Checksum, CompressionType, InternalValue, Table, ValueType};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

/// How much of a table the database keeps in memory depends on its level.
const LEVELS_WITH_FILTER: usize = 1;
const LEVELS_WITH_INDEX: usize = 2;

pub struct TableFile(Table);

/// What a table has under a key.
pub enum Item {
    Value(Bytes),
    /// A reference to a value in a blob file, as it is written.
    Blob(Bytes),
    Deletion,
}

/// The values in one blob file that a table refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobReferences {
    pub count: u64,
    pub bytes: u64,
    pub disk_bytes: u64,
}

impl TableFile {
    /// Opens a file as the database will; `None` where it would not open.
    pub fn open(path: &Path, level: usize, checksum: u128, global_number: u64) -> Option<Self> {
        let open = || {
            Table::recover(
                path.to_owned(),
                Checksum::from_raw(checksum),
                global_number,
                0,
                Arc::new(Cache::with_capacity_bytes(0)),
                None,
                level < LEVELS_WITH_FILTER,
                level < LEVELS_WITH_INDEX,
            )
        };
        unless_panic(open).map(Self)
    }

    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// The highest sequence number in it.
    pub fn highest_number(&self) -> u64 {
        self.0.get_highest_seqno()
    }

    /// Every key and what is under it; `None` if one cannot be read.
    pub fn items(&self) -> Option<Vec<(Bytes, Item)>> {
        // Behind an error come others without end, so the first one ends it.
        let items = unless_panic(|| self.0.scan()?.collect::<lsm_tree::Result<Vec<_>>>())?;
        let item = |InternalValue { key, value }: InternalValue| {
            let value = match key.value_type {
                ValueType::Value => Item::Value(value.into()),
                ValueType::Indirection => Item::Blob(value.into()),
                ValueType::Tombstone | ValueType::WeakTombstone => Item::Deletion,
            };
            (key.user_key.into(), value)
        };
        Some(items.into_iter().map(item).collect())
    }

    /// The blob files that the table says it refers to, by their numbers.
    pub fn blob_references(&self) -> Option<Vec<(u64, BlobReferences)>> {
        let said = unless_panic(|| self.0.list_blob_file_references())?.unwrap_or_default();
        let references = said.iter().map(|it| {
            let references = BlobReferences {
                count: it.len as u64,
                bytes: it.bytes,
                disk_bytes: it.on_disk_bytes,
            };
            (it.blob_file_id, references)
        });
        Some(references.collect())
    }
}

/// Whether bytes are a block with the right checksum.
pub fn is_block(mut bytes: &[u8]) -> bool {
    unless_panic(|| Block::from_reader(&mut bytes, CompressionType::None)).is_some()
}

/// lsm-tree panics on some kinds of damage.
fn unless_panic<T>(action: impl FnOnce() -> lsm_tree::Result<T>) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(action)).ok()?.ok()
}
