//! The connections and streams that this process can have.
//!
//! A connection costs three descriptors (its socket, and two that stand for it
//! in tiny_http) and a thread with its stack, and Rust aborts the process where
//! a thread cannot be set up. So there is a cap, well below the limits that the
//! system sets. A connection that is down to a stream costs one descriptor and no
//! thread: it does not count against the cap, but both live on the same descriptors,
//! so the cap falls as streams take theirs.

use crate::platform::descriptors;
use std::io;
use std::net::TcpListener;
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
}

/// The room for connections and streams.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The connection cap while there are no streams.
    connections_max: usize,
    /// The descriptors for connections, with those that are turned away, and streams,
    /// which take one each.
    descriptors: u64,
    /// The most streams.
    pub streams_max: usize,
}

/// Descriptors of a connection.
const DESCRIPTORS_EACH: u64 = 3;

/// The parts of the descriptors that streams take at most, of all the parts: unless
/// told otherwise, and if told.
const STREAMS_PARTS: u64 = 2;
const STREAMS_PARTS_MAX: u64 = 3;
const PARTS: u64 = 4;

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

/// Takes the descriptors of a connection, and one more for the next, which is turned
/// away. Fails where the process does not have so many left.
pub fn reserve_connection(listener: &TcpListener) -> io::Result<Vec<TcpListener>> {
    (0..=DESCRIPTORS_EACH).map(|_| listener.try_clone()).collect()
}

impl Room {
    /// The room beside the server's own threads and the storage's descriptors, and no
    /// more than so many connections and streams.
    pub fn new(
        own_threads: usize,
        storage_descriptors: u64,
        connections_max: Option<usize>,
        streams_max: Option<usize>,
    ) -> Self {
        let descriptors = descriptors_for(descriptors::limit(), storage_descriptors);
        Self::within(descriptors, threads_max(own_threads), connections_max, streams_max)
    }

    /// The room within so many descriptors and connections' threads.
    pub fn within(
        descriptors: u64,
        threads_max: u64,
        connections_max: Option<usize>,
        streams_max: Option<usize>,
    ) -> Self {
        let threads_max = to_usize(threads_max).max(1);
        let parts = if streams_max.is_some() { STREAMS_PARTS_MAX } else { STREAMS_PARTS };
        let most = to_usize(descriptors / PARTS * parts);
        Self {
            connections_max: connections_max.map_or(threads_max, |max| max.min(threads_max)),
            descriptors,
            streams_max: streams_max.map_or(most, |max| max.min(most)),
        }
    }

    /// The connection cap beside so many streams, never 0.
    pub fn connections_max(&self, streams: usize) -> usize {
        let left = self.descriptors.saturating_sub(streams as u64);
        self.connections_max.min(to_usize(connections_on(left))).max(1)
    }

    /// The same with those beyond the cap that are turned away.
    pub fn with_turned_away_max(&self, streams: usize) -> usize {
        let max = self.connections_max(streams);
        max + (max / TURNED_AWAY_SHARE).clamp(1, TURNED_AWAY_MAX)
    }
}

impl Default for Room {
    /// Room for any number.
    fn default() -> Self {
        Self::within(u64::MAX, u64::MAX, None, None)
    }
}

/// The most threads of connections, well below what the system allows beside the
/// server's own.
#[cfg(target_os = "linux")]
fn threads_max(own_threads: usize) -> u64 {
    let own_threads = own_threads as u64 + THREADS_RESERVED;
    let threads_left = threads_limit().map(|threads| threads.saturating_sub(own_threads));
    let allowed = [
        number_in("/proc/sys/vm/max_map_count").map(|maps| maps / MAPS_SHARE),
        threads_left.map(|threads| threads / THREADS_SHARE),
        address_space_left().map(|bytes| bytes / THREAD_BYTES / THREADS_SHARE),
    ];
    allowed.into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// The same where no limit is known: that of descriptors is low.
#[cfg(not(target_os = "linux"))]
fn threads_max(_own_threads: usize) -> u64 {
    u64::MAX
}

/// The descriptors for connections and streams: all but those of the storage, and a
/// reserve.
fn descriptors_for(limit: u64, storage: u64) -> u64 {
    let reserved =
        (limit / 4).min(DESCRIPTORS_RESERVED_MAX).max(DESCRIPTORS_RESERVED_MIN + storage);
    limit.saturating_sub(reserved)
}

/// The connections for which so many descriptors are enough, with those that are
/// turned away.
fn connections_on(descriptors: u64) -> u64 {
    let all = descriptors / DESCRIPTORS_EACH;
    all - all.div_ceil(TURNED_AWAY_SHARE as u64 + 1)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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

    /// Room on so many descriptors, with as many threads as wanted.
    fn room(limit: u64, storage: u64, streams_max: Option<usize>) -> Room {
        Room::within(descriptors_for(limit, storage), u64::MAX, None, streams_max)
    }

    #[test]
    fn a_reserve_of_descriptors_is_kept() {
        let cases = [
            ((20_000, 0), 6113, 9744),
            ((20_000, 128), 6113, 9744),
            ((1024, 0), 240, 384),
            ((1024, 128), 240, 384),
            ((1024, 300), 219, 350),
            ((256, 0), 60, 96),
            ((256, 128), 32, 52),
            ((64, 0), 12, 20),
            ((64, 24), 4, 8),
            ((3, 0), 1, 0),
            ((0, 0), 1, 0),
        ];
        for ((limit, storage), connections, streams) in cases {
            let when = format!("{limit} descriptors, {storage} of the storage");
            let room = room(limit, storage, None);
            assert_eq!(room.connections_max(0), connections, "{when}");
            assert_eq!(room.streams_max, streams, "{when}");
            for streams in [0, 1, streams / 2, streams] {
                let connections = room.with_turned_away_max(streams) as u64;
                let used = connections * DESCRIPTORS_EACH + streams as u64;
                let left = limit.saturating_sub(used);
                assert!(
                    limit < 10 || left >= DESCRIPTORS_RESERVED_MIN + storage,
                    "{left} left of {limit} beside {streams} streams"
                );
            }
        }
    }

    #[test]
    fn the_connection_cap_falls_as_streams_take_descriptors() {
        let all = room(20_000, 0, None);
        let caps = [0, 3, 3000, 9744].map(|streams| all.connections_max(streams));
        assert_eq!(caps, [6113, 6112, 5172, 3056]);
        let threads = Room::within(19_488, 4000, None, None);
        let caps = [0, 3000, 9744].map(|streams| threads.connections_max(streams));
        assert_eq!(caps, [4000, 4000, 3056]);
    }

    #[test]
    fn what_is_asked_for_is_had_as_far_as_there_is_room() {
        for (asked, streams, connections) in
            [(1, 1, 6112), (12_000, 12_000, 2349), (1_000_000, 14_616, 1528)]
        {
            let room = room(20_000, 0, Some(asked));
            assert_eq!(room.streams_max, streams, "{asked}");
            assert_eq!(room.connections_max(streams), connections, "{asked}");
        }
        for (asked, connections) in [(1, 1), (100, 100), (1_000_000, 4000)] {
            let room = Room::within(19_488, 4000, Some(asked), None);
            assert_eq!(room.connections_max(1000), connections, "{asked}");
        }
    }

    #[test]
    fn there_is_room_for_a_connection() {
        for room in [
            Room::new(100, 0, None, None),
            Room::new(usize::MAX / 2, u64::MAX / 2, None, None),
            Room::default(),
        ] {
            assert!(room.connections_max(usize::MAX) > 0);
        }
    }
}
