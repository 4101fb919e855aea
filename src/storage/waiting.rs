//! Waiting for a condition, in tests.

use std::thread;
use std::time::{Duration, Instant};

/// A time after which a test has failed, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
#[track_caller]
pub fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_met() {
        assert!(Instant::now() < end, "{what}: not in time");
        thread::sleep(Duration::from_millis(1));
    }
}
