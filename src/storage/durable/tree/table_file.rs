//! A table in a file, read without a database.

use lsm_tree::table::Block;
use lsm_tree::{Cache, Checksum, CompressionType, Table};
pub use lsm_tree::{InternalValue as Item, ValueType as ItemKind};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

/// How much of a table the database keeps in memory depends on its level.
const LEVELS_WITH_FILTER: usize = 1;
const LEVELS_WITH_INDEX: usize = 2;

pub struct TableFile(Table);

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

    /// All items; `None` if one cannot be read.
    pub fn items(&self) -> Option<Vec<Item>> {
        // Behind an error come others without end, so the first one ends it.
        unless_panic(|| self.0.scan()?.collect())
    }

    /// The blob files that the table claims to refer to, by their numbers, each
    /// with the number of values, their bytes, and their bytes on the disk.
    pub fn blob_references(&self) -> Option<Vec<(u64, [u64; 3])>> {
        let claimed = unless_panic(|| self.0.list_blob_file_references())?.unwrap_or_default();
        let numbers =
            claimed.iter().map(|it| (it.blob_file_id, [it.len as u64, it.bytes, it.on_disk_bytes]));
        Some(numbers.collect())
    }
}

/// Returns true if bytes are a block with the right checksum.
pub fn is_block(mut bytes: &[u8]) -> bool {
    unless_panic(|| Block::from_reader(&mut bytes, CompressionType::None)).is_some()
}

/// lsm-tree panics on some kinds of damage.
fn unless_panic<T>(action: impl FnOnce() -> lsm_tree::Result<T>) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(action)).ok()?.ok()
}
