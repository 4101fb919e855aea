//! Getting rid of requests on connections that were shut.
//!
//! Dropping a request waits for the answers before it on its connection, so
//! the guard leaves that to a thread which nobody waits for.

use crate::server::job::Job;
use crossbeam_channel::Sender;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread;

/// The thread that drops requests; it ends when this is dropped.
pub(super) struct Disposal {
    jobs: Sender<Job>,
}

impl Disposal {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        // What waits here is bounded by what connections may have waiting.
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        thread::Builder::new().name("disposal".to_owned()).spawn(move || {
            for job in queue {
                // tiny_http panics where a claimed length is beyond any
                // allocation; the request is gone by then.
                panic::catch_unwind(AssertUnwindSafe(|| job.discard())).ok();
            }
        })?;
        Ok(Self { jobs })
    }

    /// Drops `jobs` in their order, soon.
    pub(super) fn dispose(&self, jobs: Vec<Job>) {
        for job in jobs {
            // The thread lives as long as this does.
            self.jobs.send(job).ok();
        }
    }
}
