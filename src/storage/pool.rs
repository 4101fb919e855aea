//! The threads of an engine for operations that take long or wait for a disk.

use super::waiter::Waiter;
use super::{Done, Error, Op, Outcome};
use crate::platform::scheduling;
use crossbeam_channel::Sender;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread::{self, JoinHandle};

/// How many operations may wait for a thread until others are refused.
const QUEUE_MAX: usize = 4096;

/// Threads that perform one operation after the other. Dropping a pool performs
/// those that wait and ends the threads.
pub struct Pool {
    /// Taken where the pool is dropped.
    queue: Option<Sender<(Op, Waiter)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads, which are called by this name and their number.
    pub fn start<F>(name: &str, threads: usize, perform: F) -> io::Result<Self>
    where
        F: Fn(Op) -> Outcome + Clone + Send + 'static,
    {
        let (sender, queue) = crossbeam_channel::bounded::<(Op, Waiter)>(QUEUE_MAX);
        let mut pool = Self { queue: Some(sender), threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let (queue, perform) = (queue.clone(), perform.clone());
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            pool.threads.push(thread.spawn(move || {
                scheduling::batch_priority();
                queue.iter().for_each(|(op, waiter)| waiter.tell(outcome_of(|| perform(op))));
            })?);
        }
        Ok(pool)
    }

    /// Has a thread perform `op`, or refuses it where too many wait. Never blocks.
    pub fn submit(&self, op: Op, done: Done) {
        let queue = self.queue.as_ref().expect("it is there until the pool is dropped");
        if let Err(refused) = queue.try_send((op, done.into())) {
            let (_, waiter) = refused.into_inner();
            waiter.tell(Err(Error::Overloaded));
        }
    }

    /// The number of operations that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.queue.as_ref().map_or(0, Sender::len)
    }
}

/// The outcome of an operation. A panic is its failure.
fn outcome_of(perform: impl FnOnce() -> Outcome) -> Outcome {
    panic::catch_unwind(AssertUnwindSafe(perform))
        .unwrap_or_else(|_panic| Err(Error::internal("the operation has panicked")))
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue = None;
        // The last owner may be one of the threads.
        let own = thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            if thread.join().is_err() {
                log::error!("a thread of the storage has panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Effect, Key};
    use std::sync::mpsc;

    fn get(text: &str) -> Op {
        Op::Get(Key::new(text).expect("a key"))
    }

    #[test]
    fn what_waits_is_done_before_the_end_and_a_panic_is_one_operations_own() {
        let perform = |op| {
            assert!(!matches!(op, Op::Get(key) if key.as_str() == "poison"), "a part of a test");
            Ok(Effect::Done)
        };
        let pool = Pool::start("test", 2, perform).expect("threads start");
        let (done, outcomes) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            let text = if number % 10 == 0 { "poison" } else { "key" };
            let tell = Box::new(move |outcome: Outcome| {
                done.send(outcome.is_ok()).expect("it is waited for");
                assert!(number != 50, "a part of a test");
            });
            pool.submit(get(text), tell);
        }
        drop((done, pool));
        let outcomes: Vec<bool> = outcomes.iter().collect();
        assert_eq!((outcomes.len(), outcomes.iter().filter(|is_ok| **is_ok).count()), (100, 90));
    }

    #[test]
    fn more_than_may_wait_are_refused() {
        let (open, gate) = crossbeam_channel::bounded::<()>(0);
        let perform = move |_op| {
            // An error once the gate is open.
            gate.recv().ok();
            Ok(Effect::Done)
        };
        let pool = Pool::start("test", 1, perform).expect("threads start");
        let (done, outcomes) = mpsc::channel();
        // One more is with the thread, sooner or later.
        for _ in 0..QUEUE_MAX + 2 {
            let done = done.clone();
            pool.submit(get("key"), Box::new(move |outcome| done.send(outcome).unwrap()));
        }
        assert_eq!(outcomes.recv(), Ok(Err(Error::Overloaded)));
        drop((open, done, pool));
        assert!(outcomes.iter().flatten().count() >= QUEUE_MAX);
    }
}
