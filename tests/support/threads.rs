//! The start and the end of the threads of a test, none of which waits for ever for one
//! that has failed. The unit tests of the library use this file too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The wait for the last thread, which may have had to connect.
const WAIT: Duration = Duration::from_secs(50);

/// A barrier that all threads come to, or nobody passes.
pub struct Start {
    missing: Mutex<usize>,
    all_are_there: Condvar,
}

impl Start {
    /// One for so many threads.
    pub fn new(threads: usize) -> Self {
        Self { missing: Mutex::new(threads), all_are_there: Condvar::new() }
    }

    /// Waits for all the others. Panics if one does not come.
    #[track_caller]
    pub fn wait(&self) {
        let mut missing = self.missing.lock().expect("nobody panics with it");
        *missing = missing.checked_sub(1).expect("each waits once");
        if *missing == 0 {
            return self.all_are_there.notify_all();
        }
        let waited = self.all_are_there.wait_timeout_while(missing, WAIT, |missing| *missing > 0);
        let missing = *waited.expect("nobody panics with it").0;
        assert_eq!(missing, 0, "threads do not come to the start");
    }
}

/// Ends what runs beside a test, also where the test fails.
pub struct Ended<'a>(pub &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
