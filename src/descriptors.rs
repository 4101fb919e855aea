//! Descriptors that a library has opened and keeps to itself, by number.

#![allow(unsafe_code, reason = "a descriptor has no safe form that is known by its number alone")]

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
