//! Counters of requests, and the text that shows them with the metrics of all other parts:
//! ground floor, which knows nothing of the server that counts.
//!
//! Every request is counted, on any thread, so the counters are there several times: a
//! thread adds to those of its stripe, and only a reader sums all of them up.

mod exposition;
mod histogram;
mod process;
mod reads;
mod requests;

pub use exposition::{Exposition, Kind, MEDIA_TYPE};
pub use histogram::{Distribution, Histogram, Scale};
pub use reads::Reads;
use requests::Requests;
#[cfg(test)]
pub use requests::STATUSES;
pub use requests::{Counted, Label, METHODS};
use std::sync::{Mutex, PoisonError, Weak};

/// The metrics of one store.
pub struct Metrics {
    requests: Requests,
    sources: Mutex<Vec<Weak<dyn Source>>>,
}

/// A part of the program that has metrics of its own.
pub trait Source: Send + Sync {
    /// Writes them. Never blocks for long.
    fn report(&self, to: &mut Exposition);
}

impl Metrics {
    /// Counters of requests to these routes.
    pub fn new(routes: impl IntoIterator<Item = Label>) -> Self {
        Self { requests: Requests::to(routes), sources: Mutex::default() }
    }

    /// Adds a source, for as long as it lives.
    pub fn add_source(&self, source: Weak<dyn Source>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Writes all that is counted here, the metrics of the sources in the order in which
    /// they were added, and those of the process.
    pub fn report(&self, to: &mut Exposition) {
        self.requests.report(to);
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for source in sources.iter().filter_map(Weak::upgrade) {
            source.report(to);
        }
        process::report(to);
    }

    /// Counts one request. Never blocks.
    pub fn count(&self, counted: Counted) {
        self.requests.count(counted);
    }

    /// Counts reads that are parts of one request. Never blocks.
    pub fn count_reads(&self, reads: Reads) {
        self.requests.count_reads(reads);
    }

    /// One line for each method that had a request.
    pub fn lines(&self) -> Vec<String> {
        self.requests.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Named(&'static str);

    impl Source for Named {
        fn report(&self, to: &mut Exposition) {
            to.gauge(self.0, "A thing.", 1);
        }
    }

    #[test]
    fn a_source_is_asked_for_as_long_as_it_lives() {
        let metrics = Metrics::new([Label { text: "/", is_of_key: false }]);
        let (one, other): (Arc<dyn Source>, Arc<dyn Source>) =
            (Arc::new(Named("one")), Arc::new(Named("other")));
        metrics.add_source(Arc::downgrade(&one));
        metrics.add_source(Arc::downgrade(&other));
        let text = || {
            let mut exposition = Exposition::default();
            metrics.report(&mut exposition);
            exposition.into_text()
        };
        let (first, second) = (text().find("\none 1\n"), text().find("\nother 1\n"));
        assert!(first.is_some() && first < second, "{first:?} {second:?}");
        drop(one);
        assert!(!text().contains("\none 1\n") && text().contains("\nother 1\n"));
    }
}
