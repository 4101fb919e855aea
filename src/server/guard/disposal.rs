//! Getting rid of requests on connections that were shut.
//!
//! Dropping a request waits for the answers before it on its connection, so
//! the guard leaves that to a thread which nobody waits for.

use crate::server::job::Job;
use crossbeam_channel::Sender;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The thread that drops requests; it ends when this is dropped.
pub(super) struct Disposal {
    jobs: Sender<Job>,
    leaked: Arc<AtomicUsize>,
}

impl Disposal {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        // What waits here is bounded by what connections may have waiting.
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        let leaked = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&leaked);
        thread::Builder::new().name("disposal".to_owned()).spawn(move || {
            for job in queue {
                // tiny_http panics where a claimed length is beyond any
                // allocation; the request is gone by then.
                let leaks = panic::catch_unwind(AssertUnwindSafe(|| job.discard()));
                counter.fetch_add(usize::from(leaks.unwrap_or(false)), Ordering::Relaxed);
            }
        })?;
        Ok(Self { jobs, leaked })
    }

    /// Drops `jobs` in their order, soon.
    pub(super) fn dispose(&self, jobs: Vec<Job>) {
        for job in jobs {
            // The thread lives as long as this does.
            self.jobs.send(job).ok();
        }
    }

    /// How many requests could not be dropped and hold a thread for ever.
    pub(super) fn leaked(&self) -> usize {
        self.leaked.load(Ordering::Relaxed)
    }
}
