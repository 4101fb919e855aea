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
#[cfg(target_os = "linux")]
const MAPS_SHARE: u64 = 8;

/// One part in so many of the threads that the system allows.
#[cfg(target_os = "linux")]
const THREADS_SHARE: u64 = 2;

/// Threads of the server beside its lanes, and of tiny_http beside its
/// connections.
#[cfg(target_os = "linux")]
const THREADS_RESERVED: u64 = 16;

/// The most connections there can be with room to spare, never 0, beside the
/// server's own threads. Raises the process's own limit of descriptors to what
/// it is allowed.
#[cfg(target_os = "linux")]
pub(super) fn connections_max(own_threads: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised the lower one is what there is.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let own_threads = own_threads as u64 + THREADS_RESERVED;
    let threads_left = threads_limit().map(|threads| threads.saturating_sub(own_threads));
    let allowed = [
        Some(by_descriptors(descriptors)),
        number_in("/proc/sys/vm/max_map_count").map(|maps| maps / MAPS_SHARE),
        threads_left.map(|threads| threads / THREADS_SHARE),
    ];
    let allowed = allowed.into_iter().flatten().min().unwrap_or(1).max(1);
    usize::try_from(allowed).unwrap_or(usize::MAX)
}

/// The same elsewhere, where nothing is known: what every system gives.
#[cfg(not(target_os = "linux"))]
pub(super) fn connections_max(_own_threads: usize) -> usize {
    usize::try_from(by_descriptors(256)).unwrap_or(1)
}

fn by_descriptors(limit: u64) -> u64 {
    let reserved = (limit / 4).min(DESCRIPTORS_RESERVED_MAX);
    (limit - reserved) / DESCRIPTORS_EACH
}

/// How many threads the system allows this process, as far as it tells.
pub(super) fn threads_max() -> usize {
    #[cfg(target_os = "linux")]
    let limit = threads_limit().and_then(|limit| usize::try_from(limit).ok());
    #[cfg(not(target_os = "linux"))]
    let limit = None;
    limit.unwrap_or(usize::MAX)
}

#[cfg(target_os = "linux")]
fn threads_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};

    let user_max = getrlimit(Resource::Nproc).current;
    let limits = [number_in("/proc/sys/kernel/threads-max"), user_max, cgroup_pids_max()];
    limits.into_iter().flatten().min()
}

/// Whether so few descriptors are left that an accept loop would not last.
#[cfg(all(target_os = "linux", not(portable)))]
pub(super) fn descriptors_are_short(open: u64) -> bool {
    use rustix::process::{Resource, getrlimit};

    const ENOUGH: u64 = 4 * DESCRIPTORS_EACH;
    getrlimit(Resource::Nofile).current.is_some_and(|limit| open + ENOUGH > limit)
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
        let cases = [(20_000, 6496), (1024, 256), (256, 64), (64, 16), (3, 1), (0, 0)];
        for (limit, connections) in cases {
            assert_eq!(by_descriptors(limit), connections, "{limit} descriptors");
        }
    }

    #[test]
    fn there_is_room_for_a_connection() {
        assert!(connections_max(100) > 0);
        assert!(connections_max(usize::MAX / 2) > 0);
    }
}
