//! Counters of responses, by method and status: ground floor, which knows
//! nothing of the server that counts.

mod exposition;
mod histogram;

pub use exposition::{Exposition, Family, Kind, MEDIA_TYPE};
pub use histogram::{Distribution, Histogram, Scale};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The methods that are counted by name.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"];

/// All other methods.
const OTHERS: &str = "other methods";

/// Status codes from 100 to 599.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;

/// Responses and their latencies, by method and status.
#[derive(Default)]
pub struct Metrics {
    /// Those by name, and one for all others.
    methods: [Method; METHODS.len() + 1],
}

struct Method {
    statuses: Box<[AtomicU64]>,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Method {
    fn default() -> Self {
        let statuses = std::iter::repeat_with(AtomicU64::default).take(STATUSES).collect();
        Self { statuses, sum_us: AtomicU64::new(0), max_us: AtomicU64::new(0) }
    }
}

impl Metrics {
    /// Counts one response, `latency` after its request came.
    pub fn count(&self, method: &str, status: u16, latency: Duration) {
        let named = METHODS.iter().position(|name| *name == method);
        let Some(counts) = self.methods.get(named.unwrap_or(METHODS.len())) else { return };
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let place = usize::from(status.saturating_sub(STATUS_MIN));
        if let Some(counter) = counts.statuses.get(place) {
            counter.fetch_add(1, Relaxed);
        }
        counts.sum_us.fetch_add(latency_us, Relaxed);
        counts.max_us.fetch_max(latency_us, Relaxed);
    }

    /// One line for each method that had a request.
    pub fn lines(&self) -> Vec<String> {
        let methods = METHODS.iter().chain([&OTHERS]).zip(&self.methods);
        methods.filter_map(|(name, counts)| counts.line(name)).collect()
    }
}

impl Method {
    fn line(&self, name: &str) -> Option<String> {
        let mut total = 0;
        let mut by_status = String::new();
        for (status, counter) in (STATUS_MIN..).zip(&self.statuses) {
            let count = counter.load(Relaxed);
            if count > 0 {
                let comma = if total > 0 { ", " } else { "" };
                write!(by_status, "{comma}{status}: {count}").expect("a string takes any text");
            }
            total += count;
        }
        let mean = self.sum_us.load(Relaxed).checked_div(total)?;
        let max = self.max_us.load(Relaxed);
        let noun = if total == 1 { "request" } else { "requests" };
        Some(format!("{name}: {total} {noun} ({by_status}), mean {mean} us, highest {max} us"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_method_and_status() {
        let metrics = Metrics::default();
        metrics.count("GET", 200, Duration::from_micros(10));
        metrics.count("GET", 404, Duration::from_micros(30));
        metrics.count("GET", 200, Duration::from_micros(20));
        metrics.count("BREW", 405, Duration::from_millis(1));
        assert_eq!(
            metrics.lines(),
            [
                "GET: 3 requests (200: 2, 404: 1), mean 20 us, highest 30 us",
                "other methods: 1 request (405: 1), mean 1000 us, highest 1000 us",
            ]
        );
    }

    #[test]
    fn a_method_that_was_not_used_has_no_line() {
        assert_eq!(Metrics::default().lines(), [""; 0]);
    }
}
