//! What the process asks of the system about its signals.

#![allow(unsafe_code, reason = "signals and the umask have no safe form")]

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
    ignore(libc::SIGXFSZ);
}

/// Has the process ignore a signal.
#[cfg(unix)]
pub(crate) fn ignore(signal: libc::c_int) {
    // SAFETY: no handler is set that could run.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Whether the process ignores a signal.
#[cfg(unix)]
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: the structure is numbers, for all of which zero will do.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and the system writes to what lives through the call.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

/// Signals that are kept from the calling thread, and from those that it starts.
#[cfg(unix)]
pub(crate) struct Blocked {
    before: libc::sigset_t,
}

#[cfg(unix)]
impl Blocked {
    /// Blocks these: one that comes waits.
    pub(crate) fn new(signals: &[libc::c_int]) -> Self {
        let signals = set_of(signals);
        let mut before = set_of(&[]);
        // SAFETY: both sets live through the call, and the system writes to the second.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, &raw mut before) };
        Self { before }
    }

    /// Lets them come to the calling thread as before, and to those that it
    /// starts from now on.
    pub(crate) fn release(self) {
        // SAFETY: the set lives through the call, and nothing is written.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// Waits until a signal comes that every thread has blocked.
#[cfg(unix)]
pub(crate) fn wait_for(signal: libc::c_int) {
    let signals = set_of(&[signal]);
    let mut number = 0;
    // It fails for sets alone that name no signal.
    // SAFETY: the set lives through the call, and the system writes to the number.
    unsafe { libc::sigwait(&raw const signals, &raw mut number) };
}

#[cfg(unix)]
fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: the structure is numbers, for all of which zero will do.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives through the calls, which write to nothing else.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
    }
    set
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
