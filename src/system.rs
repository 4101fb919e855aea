//! What the process asks of the system before it starts.

#![allow(unsafe_code, reason = "neither the allocator nor signals have a safe form")]

/// From this size on a block is mapped by itself, so that all of it is given
/// back when it is freed. glibc raises the size to 32 MiB by itself, and keeps
/// what large values leave behind.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: libc::c_int = 4 << 20;

/// So much of a heap may be free at its end before it is given back. With less
/// large values are written a fifth slower, to pages that come and go.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIMMED_BYTES_MIN: libc::c_int = 8 << 20;

/// How many heaps the threads share; each keeps what it once needed. glibc has
/// eight for each processor.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS_MAX: libc::c_int = 4;

/// Keeps the allocator from holding on to much more memory than is used.
pub(crate) fn limit_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, TRIMMED_BYTES_MIN),
        (libc::M_ARENA_MAX, HEAPS_MAX),
    ] {
        // SAFETY: it sets a number, and no other thread runs yet.
        let is_set = unsafe { libc::mallopt(parameter, value) } == 1;
        debug_assert!(is_set, "glibc knows its parameters");
    }
}

/// Lets a write past the limit for a file's size fail, as on a full disk,
/// where it would end the process.
pub(crate) fn survive_file_limit() {
    #[cfg(unix)]
    // SAFETY: no handler is set that could run, and no other thread runs yet.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
