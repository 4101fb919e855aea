//! The way in which threads share the processors: a thread's slice (EEVDF) and policy, on
//! Linux; when it lets others go first; and a mark of one that nobody waits for.

#![cfg_attr(
    all(target_os = "linux", not(portable)),
    allow(unsafe_code, reason = "the scheduler's attributes have no safe form")
)]

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// The leader's slice: shorter than the usual one, so the leader goes first.
pub const SLICE: Duration = Duration::from_micros(500);

/// The slice of a thread whose wake-up is urgent.
pub const SLICE_SHORT: Duration = Duration::from_micros(100);

/// The turn of work that takes long. Beside threads that never wait it has a share of the
/// processor yet.
const TURN: Duration = Duration::from_micros(200);

/// The turn of a walk over many keys.
const WALK_TURN: Duration = Duration::from_micros(100);

/// The rest of a walk behind its turn, in lengths of that, so a walk beside others takes
/// up to three times as long.
const RESTS: u32 = 2;

/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(2);

/// To yield takes so long only where another thread was ready, and ran.
const YIELD_NOTICED: Duration = Duration::from_micros(20);

/// Gives the calling thread, and those that it starts, a short slice: they run
/// soon after they wake up, before threads with longer slices.
///
/// Linux 6.12 and later heed it; older ones give an equal share as before.
pub fn prefer_wakeup(slice: Duration) {
    #[cfg(all(target_os = "linux", not(portable)))]
    linux::set_attributes(libc::SCHED_OTHER, slice);
    #[cfg(any(portable, not(target_os = "linux")))]
    let _ = slice;
}

/// Keeps the calling thread, and those that it starts, from preempting others
/// at a wake-up (`SCHED_BATCH`).
///
/// A thread that reads a request or writes a response runs for microseconds.
/// To preempt another one for each costs two switches and gains nothing.
pub fn batch_priority() {
    #[cfg(all(target_os = "linux", not(portable)))]
    linux::set_attributes(libc::SCHED_BATCH, Duration::ZERO);
}

/// Has other threads that are ready go first, if the calling one has had its turn. Work that
/// takes long calls it between its parts: where processors are scarce, what takes
/// microseconds does not wait until a slice of it is over.
pub fn give_way() {
    let now = Instant::now();
    let has_had = TURN_BEGAN.get().is_none_or(|began| now.duration_since(began) >= TURN);
    if has_had {
        thread::yield_now();
        TURN_BEGAN.set(Some(Instant::now()));
    }
}

/// Has a thread that walks over many keys, and has worked for so long since the last call,
/// rest once it has had its turn, if others wait for the processor. Where nobody does it
/// costs a system call. To yield alone is not enough: it leaves a walk, its sender and its
/// client their shares of a processor, and those make requests beside them twice as slow.
pub fn rest(worked: Duration) {
    let worked = WALKED.get() + worked;
    if worked < WALK_TURN {
        return WALKED.set(worked);
    }
    WALKED.set(Duration::ZERO);
    let began = Instant::now();
    thread::yield_now();
    thread::sleep(rest_after(worked, began.elapsed()));
}

/// The rest behind so much work, if a yield has taken so long.
fn rest_after(worked: Duration, yielded: Duration) -> Duration {
    if yielded < YIELD_NOTICED { Duration::ZERO } else { REST_MAX.min(worked * RESTS) }
}

/// Has other threads that are ready go first, so that the calling one takes all that they
/// bring at once. Where there are none it costs a system call.
pub fn gather() {
    thread::yield_now();
}

thread_local! {
    static HAS_TIME: Cell<bool> = const { Cell::new(false) };
    static TURN_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static WALKED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Says of the calling thread that nobody waits for it: it has the time for what comes of
/// its work, as to write a small response.
pub fn take_time() {
    HAS_TIME.set(true);
}

/// Returns true on a thread that has said so.
pub fn has_time() -> bool {
    HAS_TIME.get()
}

#[cfg(all(target_os = "linux", not(portable)))]
mod linux {
    use std::time::Duration;

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

    /// Sets the calling thread's policy and slice; `ZERO` stands for the usual
    /// slice. Where the kernel refuses, all stays as it was.
    pub fn set_attributes(policy: libc::c_int, slice: Duration) {
        let attributes = Attributes {
            size: u32::try_from(size_of::<Attributes>()).unwrap_or(0),
            policy: policy.unsigned_abs(),
            flags: 0,
            nice: rustix::process::getpriority_process(None).unwrap_or(0),
            priority: 0,
            runtime: u64::try_from(slice.as_nanos()).unwrap_or(0),
            deadline: 0,
            period: 0,
        };
        // SAFETY: the kernel reads `size` bytes of a structure that outlives the call.
        // It changes how the calling thread is scheduled and nothing else.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_rests_twice_as_long_as_it_works_where_others_wait_and_not_for_ever() {
        let (short, long) = (Duration::from_micros(1), Duration::from_secs(60));
        for worked in [WALK_TURN, WALK_TURN * 3, REST_MAX / 2] {
            assert_eq!(rest_after(worked, short), Duration::ZERO);
            assert_eq!(rest_after(worked, YIELD_NOTICED), worked + worked);
            assert_eq!(rest_after(worked, long), worked + worked);
        }
        assert_eq!(rest_after(long, short), Duration::ZERO);
        assert_eq!(rest_after(long, long), REST_MAX);
    }
}
