//! The connections that this process can have.
//!
//! A connection costs three descriptors (its socket, and two that stand for it
//! in tiny_http) and a thread with its stack, and Rust aborts the process where
//! a thread cannot be set up. So there is a cap, well below the limits that the
//! system sets.

use crate::platform::descriptors;
use std::time::Duration;

/// The deadlines and limits of connections, which the watchdog enforces.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest silence of a connection between requests, and of an upload
    /// without a length between two bytes.
    pub idle_timeout: Duration,
    /// The time for a head or a small body, and for each kibibyte of a large
    /// transfer.
    pub request_timeout: Duration,
    /// The most connections.
    pub connections_max: usize,
}

/// Descriptors of a connection.
const DESCRIPTORS_EACH: u64 = 3;

/// The least and the most descriptors reserved for everything but connections
/// and the storage.
const DESCRIPTORS_RESERVED_MIN: u64 = 24;
const DESCRIPTORS_RESERVED_MAX: u64 = 512;

/// Connections beyond the cap, while they are turned away: one part in so many of
/// it, and so many at most.
const TURNED_AWAY_SHARE: usize = 16;
const TURNED_AWAY_MAX: usize = 64;

/// One part in so many of the memory maps: a thread takes up to four.
const MAPS_SHARE: u64 = 8;

/// One part in so many of the threads that the system allows, and of the
/// address space.
const THREADS_SHARE: u64 = 2;

/// Threads of the server beside its workers and senders, and of tiny_http beside
/// its connections.
const THREADS_RESERVED: u64 = 16;

/// Address space of a connection's thread: nearly all is the standard library's
/// stack, the rest the allocator's cache.
const THREAD_BYTES: u64 = (2 << 20) + (256 << 10);

/// The connection cap, never 0: it leaves room to spare beside the server's own
/// threads and the storage's descriptors.
#[cfg(target_os = "linux")]
pub fn connections_max(own_threads: usize, storage_descriptors: u64) -> usize {
    let own_threads = own_threads as u64 + THREADS_RESERVED;
    let threads_left = threads_limit().map(|threads| threads.saturating_sub(own_threads));
    let allowed = [
        Some(by_descriptors(descriptors::limit(), storage_descriptors)),
        number_in("/proc/sys/vm/max_map_count").map(|maps| maps / MAPS_SHARE),
        threads_left.map(|threads| threads / THREADS_SHARE),
        address_space_left().map(|bytes| bytes / THREAD_BYTES / THREADS_SHARE),
    ];
    let allowed = allowed.into_iter().flatten().min().unwrap_or(1).max(1);
    usize::try_from(allowed).unwrap_or(usize::MAX)
}

/// The connection cap where no limit is known.
#[cfg(not(target_os = "linux"))]
pub fn connections_max(_own_threads: usize, storage_descriptors: u64) -> usize {
    usize::try_from(by_descriptors(256, storage_descriptors)).unwrap_or(1)
}

/// The connections for which so many descriptors are enough, with those that are
/// turned away.
fn by_descriptors(limit: u64, storage: u64) -> u64 {
    let reserved =
        (limit / 4).min(DESCRIPTORS_RESERVED_MAX).max(DESCRIPTORS_RESERVED_MIN + storage);
    let share = TURNED_AWAY_SHARE as u64;
    limit.saturating_sub(reserved) / DESCRIPTORS_EACH * share / (share + 1)
}

/// The most connections beyond the cap, open while they are turned away.
pub fn turned_away_max(connections_max: usize) -> usize {
    (connections_max / TURNED_AWAY_SHARE).clamp(1, TURNED_AWAY_MAX)
}

/// The bytes of address space left to this process, if that is limited.
#[cfg(target_os = "linux")]
fn address_space_left() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};

    let limit = getrlimit(Resource::As).current?;
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').next()?.parse().ok()?;
    Some(limit.saturating_sub(pages * rustix::param::page_size() as u64))
}

#[cfg(target_os = "linux")]
fn threads_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};

    let user_max = getrlimit(Resource::Nproc).current;
    let limits = [number_in("/proc/sys/kernel/threads-max"), user_max, cgroup_pids_max()];
    limits.into_iter().flatten().min()
}

/// The lowest limit of threads on the way from this process's control group
/// to the root.
#[cfg(target_os = "linux")]
fn cgroup_pids_max() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let paths = root.join(group);
    let limits = paths.ancestors().take_while(|path| path.starts_with(root));
    limits.filter_map(|path| number_in(path.join("pids.max").to_str()?)).min()
}

#[cfg(target_os = "linux")]
fn number_in(path: &str) -> Option<u64> {
    // A limit that is not there, or says "max", is none.
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_of_descriptors_is_kept() {
        let cases = [
            ((20_000, 0), 6113),
            ((20_000, 128), 6113),
            ((1024, 0), 240),
            ((1024, 128), 240),
            ((1024, 300), 219),
            ((256, 0), 60),
            ((256, 128), 32),
            ((64, 0), 12),
            ((64, 24), 4),
            ((3, 0), 0),
            ((0, 0), 0),
        ];
        for ((limit, storage), connections) in cases {
            let max = by_descriptors(limit, storage);
            assert_eq!(max, connections, "{limit} descriptors, {storage} of the storage");
            let all = max + turned_away_max(usize::try_from(max).expect("a small number")) as u64;
            let left = limit.saturating_sub(all * DESCRIPTORS_EACH);
            assert!(
                max == 0 || left >= DESCRIPTORS_RESERVED_MIN + storage,
                "{left} left of {limit}"
            );
        }
    }

    #[test]
    fn there_is_room_for_a_connection() {
        assert!(connections_max(100, 0) > 0);
        assert!(connections_max(usize::MAX / 2, u64::MAX / 2) > 0);
    }
}
