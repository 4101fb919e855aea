//! How much room the disk has.

use std::path::{Path, PathBuf};

/// What is kept free, in bytes: the tree needs room to put its files in order.
#[cfg(target_os = "linux")]
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// The same as one part in so many of a smaller disk.
#[cfg(target_os = "linux")]
const RESERVE_SHARE: u64 = 16;

/// What the tree may have in memory that has to be written, which is kept free
/// up to half of a small disk.
#[cfg(target_os = "linux")]
const RESERVE_BYTES_MIN: u64 = 48 << 20;

/// The disk that a folder is on.
pub(super) struct Room {
    folder: PathBuf,
}

impl Room {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many bytes are free, as far as the system tells.
    #[cfg(target_os = "linux")]
    pub(super) fn free_bytes(&self) -> u64 {
        let free = |disk: rustix::fs::StatVfs| disk.f_bavail.saturating_mul(disk.f_frsize);
        rustix::fs::statvfs(&self.folder).map_or(u64::MAX, free)
    }

    /// The same elsewhere.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    /// How many bytes can be written while enough is kept free, as far as the
    /// system tells.
    #[cfg(target_os = "linux")]
    pub(super) fn spare_bytes(&self) -> u64 {
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else { return u64::MAX };
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let least = RESERVE_BYTES_MIN.min(total / 2);
        let reserve = (total / RESERVE_SHARE).clamp(least, RESERVE_BYTES_MAX);
        // Some file systems do not know their size.
        if total == 0 { u64::MAX } else { free.saturating_sub(reserve) }
    }

    /// The same elsewhere, where a write has to fail to tell.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn spare_bytes(&self) -> u64 {
        u64::MAX
    }
}
