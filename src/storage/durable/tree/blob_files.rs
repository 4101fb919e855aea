//! The blob files of a tree, and the keys that have values in them.
//!
//! ```text
//! blob file   ("BLOB", checksum, sequence number, lengths; key, value) ... "META" ...
//! ```
//!
//! A file is made by a flush, so the lower its number the older are its values. It is
//! removed once compaction has met the last deletion of these, or with the last table that
//! refers to it.

use super::{BLOB_VALUE_BYTES_MIN, BLOBS, Database, Keyspace, Result};
use crate::storage::durable::decoder::Decoder;
use bytes::Bytes;
use fjall::AbstractTree as _;
use lsm_tree::blob_tree::{FragmentationEntry, FragmentationMap};
use lsm_tree::{InternalValue, Tree, ValueType};
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read as _};
use std::path::PathBuf;

/// The start of a value, before the key.
pub const BLOB_MAGIC: &[u8] = b"BLOB";

/// The bytes before the key: that, the checksum, the sequence number, and the lengths of
/// the key, the value, and the value on the disk.
pub const BLOB_HEAD_BYTES: usize = 4 + 16 + 8 + 2 + 4 + 4;

/// Those of them behind the magic.
const LENGTHS_BYTES: usize = BLOB_HEAD_BYTES - BLOB_MAGIC.len();

/// The bytes that are read at once: the heads of small values are near to each other.
const READ_BYTES: usize = 16 << 10;

/// A value in a blob file that is what readers see.
pub struct Blob {
    pub key: Bytes,
    /// The bytes of the value.
    pub bytes: u64,
}

/// A key with the size of its value.
pub struct Size {
    pub key: Bytes,
    /// The bytes of both; `None` if the value is in a blob file, or will be with the next
    /// flush.
    pub bytes: Option<u64>,
}

impl Keyspace {
    /// The sizes of so many items at most from one on and below another, in order, up to the
    /// last of so many that are in no blob file, and will not be.
    pub fn sizes(
        &self,
        database: &Database,
        from: &[u8],
        until: &[u8],
        items_max: usize,
        in_tables_max: usize,
    ) -> Result<Vec<Size>> {
        let number = database.visible_number();
        let version = self.0.tree.get_version_history_lock().get_version_for_snapshot(number);
        let bounds = from..until;
        let items = Tree::create_internal_range(version, &bounds, number, None);
        let (mut sizes, mut in_tables) = (Vec::new(), 0);
        for item in items.take(items_max) {
            let InternalValue { key, value } = item?;
            let is_blob = key.value_type == ValueType::Indirection
                || value.len() >= BLOB_VALUE_BYTES_MIN as usize;
            let bytes = (!is_blob).then(|| (key.user_key.len() + value.len()) as u64);
            sizes.push(Size { key: key.user_key.into(), bytes });
            in_tables += usize::from(!is_blob);
            if in_tables == in_tables_max {
                break;
            }
        }
        Ok(sizes)
    }

    /// The numbers of the blob files, the oldest first.
    pub fn blob_files(&self) -> Vec<u64> {
        let version = self.0.tree.current_version();
        let mut numbers: Vec<u64> = version.blob_files.list_ids().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Has the tree forget how many values were stale in blob files that are gone. It does
    /// not where a drop of tables has removed them, and from its next opening on it gives
    /// the number of the last one to another file, which it would take for stale, and remove.
    pub fn forget_gone_blobs(&self) -> Result<()> {
        let version = self.0.tree.current_version();
        let is_gone = |file: &u64| !version.blob_files.contains_key(*file);
        // A change to what it counts has it look which files are there.
        let nothing = |file: &u64| (*file, FragmentationEntry::new(0, 0, 0));
        let mut change = FragmentationMap::default();
        change.extend(version.gc_stats().keys().filter(|file| is_gone(file)).map(nothing));
        if !change.is_empty() {
            self.0.tree.register_tables(&[], None, Some(change), &[], 0)?;
        }
        Ok(())
    }

    /// The bytes of all blob files.
    pub fn blob_bytes(&self) -> u64 {
        self.0.tree.current_version().blob_files.on_disk_size()
    }

    /// The bytes of a blob file; none if it is gone.
    pub fn blob_file_bytes(&self, file: u64) -> u64 {
        fs::metadata(self.blob_file(file)).map_or(0, |metadata| metadata.len())
    }

    fn blob_file(&self, file: u64) -> PathBuf {
        self.0.path().join(BLOBS).join(file.to_string())
    }

    /// The values of a blob file that no later one hides; none if a compaction has just
    /// removed it.
    pub fn blobs(&self, file: u64) -> Result<Vec<Blob>> {
        let tree = &self.0.tree;
        let file = match File::open(self.blob_file(file)) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let mut file = BufReader::with_capacity(READ_BYTES, file);
        let mut blobs = Vec::new();
        let (mut magic, mut head) = ([0; BLOB_MAGIC.len()], [0; LENGTHS_BYTES]);
        loop {
            file.read_exact(&mut magic)?;
            if magic != *BLOB_MAGIC {
                return Ok(blobs);
            }
            file.read_exact(&mut head)?;
            let mut decoder = Decoder(&head);
            decoder.take(size_of::<u128>());
            let lengths = (decoder.u64(), decoder.u16(), decoder.u32(), decoder.u32());
            let (Some(number), Some(key_bytes), Some(_), Some(bytes)) = lengths else {
                return Err(io::Error::from(ErrorKind::InvalidData).into());
            };
            let mut key = vec![0; key_bytes.into()];
            file.read_exact(&mut key)?;
            file.seek_relative(bytes.into())?;
            let newest = tree.get_internal_entry(&key, u64::MAX)?.map(|newest| newest.key);
            let is_newest = newest.is_some_and(|newest| {
                newest.seqno == number && newest.value_type == ValueType::Indirection
            });
            if is_newest {
                blobs.push(Blob { key: key.into(), bytes: bytes.into() });
            }
        }
    }
}
