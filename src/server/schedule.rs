//! What the server asks of the kernel for a thread of its own.

#![allow(unsafe_code, reason = "the scheduler's attributes have no safe form")]

use std::time::Duration;

/// What a thread that asks for it is given of a processor at a time.
const SLICE_NANOS: u64 = 100_000;

/// The kernel's `struct sched_attr` in its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for the calling thread to run soon after it wakes up, for a short
/// time: a short slice goes before the long ones of threads that compute.
///
/// Linux 6.12 and later heed it, older ones give an equal share as before.
pub(super) fn ask_for_short_slices() {
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    let attributes = Attributes {
        size,
        policy: 0,
        flags: 0,
        nice: rustix::process::getpriority_process(None).unwrap_or(0),
        priority: 0,
        runtime: SLICE_NANOS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of what lives through the call. It
    // changes how the calling thread is scheduled and nothing else.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// How much of a processor's time the calling thread has had. How long it had
/// to wait for one says nothing of what it costs others.
pub(super) fn time_worked() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // The safe form of rustix finds its own way to the kernel's page of code,
    // which valgrind does not survive.
    // SAFETY: the kernel writes to `time`, which lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let part = |number| u64::try_from(number).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
