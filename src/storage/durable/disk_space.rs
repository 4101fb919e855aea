//! The free space of the disk, and the part of it that writes may take.

use super::generation::Keyspaces;
use super::journal;
use super::tree::MEMTABLE_BYTES;
use std::path::PathBuf;

/// The bytes that are kept free: compaction needs space.
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// The same as one part in so many of a smaller disk.
const RESERVE_SHARE: u64 = 16;

/// The memtables that may have to be flushed, up to half of a small disk.
const MEMORY_BYTES: u64 = 3 * MEMTABLE_BYTES;

/// The most that a step of compaction takes, with all that is written meanwhile,
/// up to a quarter of a small disk.
const STEP_BYTES: u64 = 8 * MEMTABLE_BYTES;

/// How large the journal grows before another begins, and the same as one part in
/// so many of a small disk.
const JOURNAL_BYTES: u64 = 64 << 20;
const JOURNAL_SHARE: u64 = 8;

/// The disk that the folder of a database is on.
#[derive(Clone)]
pub struct DiskSpace(pub PathBuf);

impl DiskSpace {
    /// Free bytes; no limit where the system does not tell.
    pub fn free_bytes(&self) -> u64 {
        self.sizes().map_or(u64::MAX, |Sizes { free, .. }| free)
    }

    /// Free bytes, and those that are to stay free beside the space for the memtables;
    /// `None` where the system does not tell.
    pub fn free_and_reserved_bytes(&self) -> Option<[u64; 2]> {
        self.sizes().map(|sizes| [sizes.free, sizes.reserved()])
    }

    /// The bytes that can be written while enough is kept free. Memtables will take
    /// as much as they hold, and the journal no more than it has grown already:
    /// neither of them takes later the space that others have given back. Where the
    /// system does not tell, only a write that fails does.
    pub fn spare_bytes(&self, keyspaces: &Keyspaces) -> u64 {
        self.sizes().map_or(u64::MAX, |sizes| {
            let (free, journal_max) = (sizes.free, sizes.journal_max());
            let kept = sizes.reserved() + keyspaces.unflushed_bytes();
            let spare = free.saturating_sub(kept);
            if spare >= journal_max {
                return spare;
            }
            // Near the limit the journal's real size matters.
            let journal = self.journal_bytes().unwrap_or(0).min(journal_max);
            (free + journal).saturating_sub(kept).min(journal_max)
        })
    }

    /// The bytes that the journals take; `None` where they cannot be looked at.
    pub fn journal_bytes(&self) -> Option<u64> {
        journal::disk_bytes(&self.0).ok()
    }

    #[cfg(target_os = "linux")]
    fn sizes(&self) -> Option<Sizes> {
        let disk = rustix::fs::statvfs(&self.0).ok()?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // Some file systems do not know their size.
        (total > 0).then_some(Sizes { total, free })
    }

    #[cfg(not(target_os = "linux"))]
    fn sizes(&self) -> Option<Sizes> {
        None
    }
}

/// Of a disk, in bytes.
struct Sizes {
    total: u64,
    free: u64,
}

impl Sizes {
    /// The bytes that compaction and the journal may need.
    fn reserved(&self) -> u64 {
        let least = MEMORY_BYTES.min(self.total / 2).max(STEP_BYTES.min(self.total / 4));
        let reserve = (self.total / RESERVE_SHARE).clamp(least, RESERVE_BYTES_MAX);
        reserve + self.journal_max() / 2
    }

    fn journal_max(&self) -> u64 {
        JOURNAL_BYTES.min(self.total / JOURNAL_SHARE)
    }
}
