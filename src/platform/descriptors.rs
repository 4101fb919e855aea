//! The process's descriptors: their limit, and duplicates of those that a
//! library keeps to itself.

#![cfg_attr(
    all(target_os = "linux", not(portable)),
    allow(unsafe_code, reason = "a descriptor has no safe form that is known by its number alone")
)]

/// The limit that every system gives.
#[cfg(not(target_os = "linux"))]
const USUAL: u64 = 256;

/// The directory that lists the process's descriptors by their numbers.
#[cfg(target_os = "linux")]
pub const LIST: &str = "/proc/self/fd";

/// The limit of open descriptors. The first call raises it to the hard limit.
pub fn limit() -> u64 {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
            // Where it cannot be raised the soft limit holds.
            setrlimit(Resource::Nofile, raised).ok();
        }
        getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
    }
    #[cfg(not(target_os = "linux"))]
    USUAL
}

#[cfg(all(target_os = "linux", not(portable)))]
pub use linux::duplicate;

#[cfg(all(target_os = "linux", not(portable)))]
mod linux {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

    /// A duplicate of descriptor `number`, which may stand for another file than
    /// when it was looked up: ask the duplicate.
    pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: the number is borrowed for one call that leaves it as it is, and
        // that fails if there is no such descriptor.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }
}
