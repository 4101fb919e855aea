//! A clock that nobody can set and that runs while the machine sleeps.
//!
//! [`std::time::Instant`] stands still on Linux meanwhile.

#![cfg_attr(unix, allow(unsafe_code, reason = "the system's clocks have no safe form here"))]

use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// The time since a moment that stays the same while the process lives.
#[cfg(unix)]
pub fn elapsed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // The safe form of rustix finds its own way to the kernel's page of code,
    // which valgrind does not survive.
    // SAFETY: the system writes to `time`, which lives through the call.
    unsafe { libc::clock_gettime(CLOCK, &raw mut time) };
    let part = |number| u64::try_from(number).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// The time since the first call: the library's clock is the best there is.
#[cfg(not(unix))]
pub fn elapsed() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn it_runs_as_fast_as_the_librarys_clock() {
        let (outer, begun) = (Instant::now(), elapsed());
        std::thread::sleep(Duration::from_millis(20));
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let least = inner.elapsed();
        let passed = elapsed().saturating_sub(begun);
        assert!(least <= passed && passed <= outer.elapsed(), "{passed:?}");
    }
}
