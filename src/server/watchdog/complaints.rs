//! Warnings that may come again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The least time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// The time of the last warning of each kind.
#[derive(Default)]
pub struct Complaints(HashMap<&'static str, Instant>);

impl Complaints {
    /// Logs a warning, unless one of its kind was logged a short while ago.
    pub fn warn(&mut self, kind: &'static str, text: &str) {
        let now = Instant::now();
        if self.0.get(kind).is_none_or(|at| now.duration_since(*at) > INTERVAL) {
            self.0.insert(kind, now);
            log::warn!("{text}");
        }
    }
}
