//! What the process asks of the system before it starts.

#![allow(unsafe_code, reason = "signals and the umask have no safe form")]

/// Lets a write past the limit for a file's size fail, as on a full disk,
/// where it would end the process.
pub(crate) fn survive_file_limit() {
    #[cfg(unix)]
    // SAFETY: no handler is set that could run, and no other thread runs yet.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
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
