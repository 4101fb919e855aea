//! How many connections this process can have.
//!
//! A connection costs three descriptors (two of tiny_http's, one of the
//! guard's) and a thread, and Rust aborts the process where a thread cannot be
//! set up. So there is a cap, well below what the system gives.

/// Descriptors of a connection.
const DESCRIPTORS_EACH: u64 = 3;

/// Descriptors that are kept for everything else, at most.
const DESCRIPTORS_RESERVED_MAX: u64 = 512;

/// One part in so many of the memory maps: a thread takes up to four.
const MAPS_SHARE: u64 = 8;

/// One part in so many of the threads that the system allows.
const THREADS_SHARE: u64 = 2;

/// The most connections there can be with room to spare, never 0. Raises the
/// process's own limit of descriptors to what it is allowed.
#[cfg(target_os = "linux")]
pub(super) fn connections_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised the lower one is what there is.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let threads = [
        number_in("/proc/sys/kernel/threads-max"),
        getrlimit(Resource::Nproc).current,
        number_in("/sys/fs/cgroup/pids.max"),
    ];
    let threads_min = threads.into_iter().flatten().min();
    let allowed = [
        Some(by_descriptors(descriptors)),
        number_in("/proc/sys/vm/max_map_count").map(|maps| maps / MAPS_SHARE),
        threads_min.map(|threads| threads / THREADS_SHARE),
    ];
    let allowed = allowed.into_iter().flatten().min().unwrap_or(1).max(1);
    usize::try_from(allowed).unwrap_or(usize::MAX)
}

/// The same elsewhere, where nothing is known: what every system gives.
#[cfg(not(target_os = "linux"))]
pub(super) fn connections_max() -> usize {
    usize::try_from(by_descriptors(256)).unwrap_or(1)
}

fn by_descriptors(limit: u64) -> u64 {
    let reserved = (limit / 4).min(DESCRIPTORS_RESERVED_MAX);
    (limit - reserved) / DESCRIPTORS_EACH
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
        let cases = [(20_000, 6496), (1024, 256), (256, 64), (64, 16), (3, 1), (0, 0)];
        for (limit, connections) in cases {
            assert_eq!(by_descriptors(limit), connections, "{limit} descriptors");
        }
    }

    #[test]
    fn there_is_room_for_a_connection() {
        assert!(connections_max() > 0);
    }
}
