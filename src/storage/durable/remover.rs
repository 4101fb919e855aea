//! Removes the files of cleared generations, and others that nobody needs any more, on
//! threads of its own: it may take long, and nobody waits for that but a write that
//! needs the space.

use super::generation::Generation;
use super::patience::Round;
use super::tree::Database;
use crate::platform::scheduling;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The time between two looks at a removal that is waited for.
const WAIT: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Remover {
    thread: Option<JoinHandle<()>>,
}

impl Remover {
    /// Removes a generation that is not in use any more, once its last runs of compaction
    /// have ended: they have files of it.
    pub fn remove<T: 'static>(
        &mut self,
        database: Database,
        old: Generation,
        runs: impl Iterator<Item = JoinHandle<T>> + Send + 'static,
    ) {
        // One at a time: this one waits for the one before it.
        let before = self.thread.take();
        let remove = move || {
            scheduling::batch_priority();
            // A panic there was logged.
            before.map(JoinHandle::join);
            runs.for_each(|run| drop(run.join()));
            if let Err(err) = old.remove(&database) {
                log::warn!("what was cleared stays on the disk until the next start: {err}");
            }
        };
        match thread::Builder::new().name("remover".to_owned()).spawn(remove) {
            Ok(thread) => self.thread = Some(thread),
            Err(err) => {
                log::warn!("what was cleared stays on the disk until the next start: {err}");
            }
        }
    }

    /// Returns true if a removal is under way.
    pub fn is_running(&mut self) -> bool {
        // A panic there was logged.
        self.thread.take_if(|thread| thread.is_finished()).map(JoinHandle::join);
        self.thread.is_some()
    }

    /// Waits until a removal is done, but for no longer than this.
    pub fn wait(&mut self, time_max: Duration, is_hurried: impl Fn() -> bool) -> Round {
        if self.thread.is_none() {
            return Round::default();
        }
        let begun = Instant::now();
        while self.is_running() && begun.elapsed() < time_max && !is_hurried() {
            thread::sleep(WAIT);
        }
        Round { has_progress: !self.is_running(), has_more: true }
    }

    /// Waits until all is removed.
    pub fn finish(&mut self) {
        // A panic there was logged.
        self.thread.take().map(JoinHandle::join);
    }
}
