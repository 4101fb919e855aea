//! What the process asks of the system before it starts.

#![allow(unsafe_code, reason = "signals have no safe form")]

/// Keeps the C library's own allocator, which hardly anything uses, from
/// setting 64 MiB of address space apart for each of the first threads.
pub(crate) fn save_address_space() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
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
