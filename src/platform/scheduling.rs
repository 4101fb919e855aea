//! The way in which threads share the processors: a thread's slice (EEVDF) and policy, on
//! Linux; when it lets others go first; and a mark of one that nobody waits for.

#![cfg_attr(
    all(target_os = "linux", not(portable)),
    allow(unsafe_code, reason = "the scheduler's attributes have no safe form")
)]

use std::cell::Cell;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

/// A leader's slice: shorter than the usual one, so leaders go first.
const SLICE: Duration = Duration::from_micros(500);

/// The slice of a thread whose wake-up is urgent.
pub const SLICE_SHORT: Duration = Duration::from_micros(100);

/// The turn of work that takes long. Beside threads that never wait it has a share of the
/// processor yet.
const TURN: Duration = Duration::from_micros(200);

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

/// How the calling thread is scheduled as it wakes up; set only where that changes.
#[derive(Default)]
pub struct Wakeups {
    are_urgent: Option<bool>,
}

impl Wakeups {
    /// [`prefer_wakeup`] where somebody waits for what it does, else [`batch_priority`].
    pub fn set(&mut self, are_urgent: bool) {
        if self.are_urgent.replace(are_urgent) == Some(are_urgent) {
            return;
        }
        if are_urgent { prefer_wakeup(SLICE) } else { batch_priority() }
    }
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

/// Has other threads that are ready go first, so that the calling one takes all that they
/// bring at once. Where there are none it costs a system call.
pub fn gather() {
    thread::yield_now();
}

/// The time between two looks at a thread's contention.
const CONTENTION_INTERVAL: Duration = Duration::from_millis(20);

/// The contention of a thread: how long it waits for a processor beside the time for which
/// it runs, as Linux tells. Elsewhere nothing is known.
pub struct Contention {
    file: Option<File>,
    looked_at: Instant,
    waited_ns: u64,
    ran_ns: u64,
}

impl Contention {
    /// That of the calling thread.
    pub fn of_this_thread() -> Self {
        let file = File::open("/proc/thread-self/schedstat").ok();
        Self { file, looked_at: Instant::now(), waited_ns: 0, ran_ns: 0 }
    }

    /// The nanoseconds for which it waited, and those for which it ran, since the last look;
    /// `None` before it is time for the next one.
    pub fn look(&mut self) -> Option<(u64, u64)> {
        let file = self.file.as_mut()?;
        if self.looked_at.elapsed() < CONTENTION_INTERVAL {
            return None;
        }
        self.looked_at = Instant::now();
        let mut text = [0; 64];
        file.rewind().ok()?;
        let length = file.read(&mut text).ok()?;
        let (ran_ns, waited_ns) = times(text.get(..length)?)?;
        let ran = ran_ns.saturating_sub(mem::replace(&mut self.ran_ns, ran_ns));
        let waited = waited_ns.saturating_sub(mem::replace(&mut self.waited_ns, waited_ns));
        Some((waited, ran))
    }
}

/// The time for which a thread ran, and that for which it waited, in its `schedstat`
/// (Documentation/scheduler/sched-stats.rst).
fn times(text: &[u8]) -> Option<(u64, u64)> {
    let mut numbers = str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

thread_local! {
    static HAS_TIME: Cell<bool> = const { Cell::new(false) };
    static TURN_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
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
    fn the_times_of_a_thread_are_read() {
        assert_eq!(times(b"123 456 7\n"), Some((123, 456)));
        for text in [&b""[..], b"1", b"a b c", b"1 -2 3", b"\xff 1 2"] {
            assert_eq!(times(text), None);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_runs_is_told_so() {
        let text = std::fs::read("/proc/thread-self/schedstat").unwrap_or_default();
        if times(&text).is_none_or(|(ran_ns, _)| ran_ns == 0) {
            // A kernel without these figures.
            return;
        }
        let mut contention = Contention::of_this_thread();
        let begun = Instant::now();
        let mut ran_ns = 0;
        while ran_ns == 0 && begun.elapsed() < Duration::from_secs(25) {
            ran_ns = contention.look().map_or(0, |(_, ran_ns)| ran_ns);
        }
        assert!(ran_ns > 0);
    }
}
