//! What the process asks of the system about its memory, its files and the signals
//! that it ignores.

#![allow(unsafe_code, reason = "these calls have no safe form")]

#[cfg(unix)]
use nix::sys::signal::Signal;

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
    ignore(Signal::SIGXFSZ);
}

/// Has the process ignore a signal.
#[cfg(unix)]
pub(crate) fn ignore(signal: Signal) {
    // SAFETY: no handler is set that could run.
    unsafe { libc::signal(signal as libc::c_int, libc::SIG_IGN) };
}

/// Returns true if the process ignores a signal.
#[cfg(unix)]
pub(crate) fn is_ignored(signal: Signal) -> bool {
    // SAFETY: the structure is numbers, for all of which zero will do.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and the system writes to what lives through the call.
    unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

/// Has every file that the process makes be for its owner alone: a library
/// makes most of them, and leaves their modes to the umask.
pub(crate) fn keep_files_private() {
    #[cfg(unix)]
    // SAFETY: it cannot fail, and no other thread makes files yet.
    unsafe {
        libc::umask(0o077);
    }
}
