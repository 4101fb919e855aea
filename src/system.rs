//! The process's calls to the system: for its memory, its files, the signals that it ignores
//! or waits for, and the settings of its children.

#![allow(unsafe_code, reason = "these calls have no safe form")]

#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};
use std::process::Command;

/// Keeps the C library's own allocator, which hardly anything uses, from
/// setting 64 MiB of address space apart for each of the first threads.
pub fn save_address_space() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Lets a write past the limit for a file's size fail, as on a full disk,
/// where it would end the process.
pub fn survive_file_limit() {
    #[cfg(unix)]
    ignore(Signal::SIGXFSZ);
}

/// Has the process ignore a signal.
#[cfg(unix)]
pub fn ignore(signal: Signal) {
    // SAFETY: no handler is set that could run.
    unsafe { libc::signal(signal as libc::c_int, libc::SIG_IGN) };
}

/// Has the system keep the exit codes of children, which it does not where the process was
/// started with SIGCHLD ignored.
#[cfg(unix)]
pub fn keep_exit_codes() {
    // SAFETY: no handler is set that could run.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// The same where it always does.
#[cfg(not(unix))]
pub fn keep_exit_codes() {}

/// Returns true if the process ignores a signal.
#[cfg(unix)]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: the structure is numbers, for all of which zero will do.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and the system writes to what lives through the call.
    unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

/// Has every file that the process makes be for its owner alone: a library
/// makes most of them, and leaves their modes to the umask.
pub fn keep_files_private() {
    #[cfg(unix)]
    // SAFETY: it cannot fail, and no other thread makes files yet.
    unsafe {
        libc::umask(0o077);
    }
}

/// Waits for one of these signals, which every thread has blocked: the signal, and true
/// if the terminal has sent it, which is known on Linux alone. `None` if the wait was
/// interrupted.
#[cfg(unix)]
pub fn wait_for(signals: &SigSet) -> Option<(Signal, bool)> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the structure is numbers, for all of which zero will do.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives through the call, and the system writes to what does too.
        let number = unsafe { libc::sigwaitinfo(signals.as_ref(), &raw mut info) };
        let signal = Signal::try_from(number).ok()?;
        Some((signal, info.si_code == libc::SI_KERNEL))
    }
    #[cfg(not(target_os = "linux"))]
    {
        Some((signals.wait().ok()?, false))
    }
}

/// The settings that the process was started with and has changed, as its children get
/// them.
#[derive(Clone, Copy)]
pub struct Settings {
    #[cfg(unix)]
    umask: libc::mode_t,
    #[cfg(unix)]
    descriptors: libc::rlimit,
    #[cfg(unix)]
    ignores_file_limit: bool,
    /// The signals that are blocked.
    #[cfg(unix)]
    blocked: SigSet,
}

#[cfg(unix)]
impl Settings {
    /// Reads them, before anything changes them and before another thread makes files.
    pub fn read() -> Self {
        let mut descriptors = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the system writes to what lives through the call.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut descriptors) };
        // SAFETY: it cannot fail. The umask is read by setting it.
        let umask = unsafe { libc::umask(0o077) };
        // SAFETY: as above.
        unsafe { libc::umask(umask) };
        let ignores_file_limit = is_ignored(Signal::SIGXFSZ);
        let blocked = SigSet::thread_get_mask().expect("a thread has a mask");
        Self { umask, descriptors, ignores_file_limit, blocked }
    }

    /// The mode of a file that is not for its owner alone.
    #[allow(clippy::useless_conversion, reason = "a mode is narrower on other systems")]
    pub fn file_mode(self) -> u32 {
        u32::from(0o666 & !self.umask)
    }

    /// Gives them to a child.
    pub fn give_to(self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;

        let give = move || {
            // SAFETY: these are safe between fork and exec, the structure lives through
            // the call, and no handler is set that could run.
            unsafe {
                libc::umask(self.umask);
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.descriptors);
                if !self.ignores_file_limit {
                    libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
                }
            }
            self.blocked.thread_set_mask()?;
            Ok(())
        };
        // SAFETY: as above; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(give) };
    }
}

/// Elsewhere none of them is changed.
#[cfg(not(unix))]
impl Settings {
    pub fn read() -> Self {
        Self {}
    }

    pub fn give_to(self, _command: &mut Command) {}
}
