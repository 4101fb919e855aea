//! What the server asks of the kernel for a thread of its own.

#![allow(unsafe_code, reason = "the scheduler's attributes have no safe form")]

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
