//! The process's descriptors: how many there may be, and those that a library
//! has opened and keeps to itself.

#![cfg_attr(
    all(target_os = "linux", not(portable)),
    allow(unsafe_code, reason = "a descriptor has no safe form that is known by its number alone")
)]

/// What every system gives, where none can be asked.
#[cfg(not(target_os = "linux"))]
const USUAL: u64 = 256;

/// How many descriptors the process may have. The first call raises the limit
/// to what it is allowed.
pub(crate) fn limit() -> u64 {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
            // Where it cannot be raised the lower one is what there is.
            setrlimit(Resource::Nofile, raised).ok();
        }
        getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
    }
    #[cfg(not(target_os = "linux"))]
    USUAL
}

#[cfg(all(target_os = "linux", not(portable)))]
pub(crate) use linux::{LIST, duplicate};

#[cfg(all(target_os = "linux", not(portable)))]
mod linux {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

    /// Where the process's descriptors are listed by their numbers.
    pub(crate) const LIST: &str = "/proc/self/fd";

    /// Another descriptor for what `number` stands for at this moment. That may
    /// have passed to another file since it was looked up, so the duplicate has to
    /// be asked what it is.
    pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: the number is borrowed for one call that leaves it as it is, and
        // that fails if there is no such descriptor.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }
}
