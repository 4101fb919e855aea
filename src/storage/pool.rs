//! The threads of an engine for operations that take long or wait for a disk.

use super::completion::Completion;
use super::{Done, Error, Op, Outcome};
use crate::platform::scheduling;
use crossbeam_channel::{Receiver, Sender};
use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread::{self, JoinHandle};

/// The most operations that wait for a thread; past them others are refused.
const QUEUE_MAX: usize = 4096;

/// Threads that perform one operation after the other. Dropping a pool performs
/// those that wait and ends the threads.
pub struct Pool {
    /// Taken where the pool is dropped.
    queue: Option<Sender<(Op, Completion)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads, which are called by this name and their number.
    pub fn start<F>(name: &str, threads: usize, perform: F) -> io::Result<Self>
    where
        F: Fn(Op) -> Outcome + Clone + Send + 'static,
    {
        let (sender, queue) = crossbeam_channel::bounded::<(Op, Completion)>(QUEUE_MAX);
        let mut pool = Self { queue: Some(sender), threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let (queue, perform) = (queue.clone(), perform.clone());
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            pool.threads.push(thread.spawn(move || {
                scheduling::batch_priority();
                run(&queue, perform);
            })?);
        }
        Ok(pool)
    }

    /// Has a thread perform `op`, or refuses it where too many wait. Never blocks.
    pub fn submit(&self, op: Op, done: Done) {
        let queue = self.queue.as_ref().expect("it is there until the pool is dropped");
        let submitted = (op, done.into());
        if queue.is_empty() && self.is_telling() {
            IS_TELLING.set(false);
            return FOLLOWING.set(Some(submitted));
        }
        if let Err(refused) = queue.try_send(submitted) {
            let (_, completion) = refused.into_inner();
            completion.tell(Err(Error::Overloaded));
        }
    }

    /// Returns true on a thread of this pool that tells an outcome from which nothing has
    /// followed yet.
    fn is_telling(&self) -> bool {
        let is_current = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        IS_TELLING.get() && self.threads.iter().any(is_current)
    }

    /// The number of operations that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.queue.as_ref().map_or(0, Sender::len)
    }
}

thread_local! {
    /// The thread tells an outcome.
    static IS_TELLING: Cell<bool> = const { Cell::new(false) };

    /// An operation that follows from the one whose outcome was told, as the next step of a
    /// count does. The same thread performs it: to wake up a second one for each step takes
    /// longer than a step, and disturbs whoever has the processor.
    static FOLLOWING: Cell<Option<(Op, Completion)>> = const { Cell::new(None) };
}

/// Performs one operation after the other until the pool is dropped.
fn run(queue: &Receiver<(Op, Completion)>, perform: impl Fn(Op) -> Outcome) {
    while let Some((op, completion)) = FOLLOWING.take().or_else(|| queue.recv().ok()) {
        let outcome = outcome_of(|| perform(op));
        IS_TELLING.set(true);
        completion.tell(outcome);
        IS_TELLING.set(false);
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
    use std::collections::HashSet;
    use std::sync::{Arc, mpsc};

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
    fn what_follows_stays_on_its_thread_behind_those_that_wait() {
        let (open, gate) = crossbeam_channel::bounded::<()>(0);
        let (done, told) = mpsc::channel();
        let perform = move |op| {
            let Op::Get(key) = op else { unreachable!("only reads are submitted") };
            // The second is submitted while the first is performed.
            if key.as_str() == "first" {
                gate.recv().expect("it is opened once");
            }
            done.send((key.as_str().to_owned(), thread::current().id())).expect("it waits");
            Ok(Effect::Done)
        };
        let pool = Arc::new(Pool::start("test", 1, perform.clone()).expect("threads start"));
        let other = Arc::new(Pool::start("other", 1, perform).expect("threads start"));
        let (own, foreign) = (Arc::clone(&pool), Arc::clone(&other));
        let ended = Box::new(|outcome: Outcome| assert!(outcome.is_ok()));
        let last = move |_: Outcome| foreign.submit(get("elsewhere"), ended);
        let then = move |_: Outcome| {
            let again = Arc::clone(&own);
            own.submit(
                get("third"),
                Box::new(move |_| again.submit(get("fourth"), Box::new(last))),
            );
        };
        pool.submit(get("first"), Box::new(then));
        pool.submit(get("second"), Box::new(|_| ()));
        open.send(()).expect("the first waits for it");
        let told: Vec<_> = told.iter().take(5).collect();
        let order: Vec<_> = told.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(order, ["first", "second", "third", "fourth", "elsewhere"]);
        let threads: HashSet<_> = told.iter().map(|(_, thread)| thread).collect();
        assert_eq!(threads.len(), 2, "each pool has one thread");
    }

    #[test]
    fn a_step_that_follows_is_performed_by_the_same_thread() {
        let (done, told) = mpsc::channel();
        let perform = move |_op| {
            done.send(thread::current().id()).expect("it waits");
            Ok(Effect::Done)
        };
        let pool = Arc::new(Pool::start("test", 4, perform).expect("threads start"));
        go_on(&pool, 100);
        let threads: Vec<_> = told.iter().take(100).collect();
        assert!(threads.iter().all(|thread| Some(thread) == threads.first()));
    }

    /// Has a pool perform so many operations, each of which follows from the one before.
    fn go_on(pool: &Arc<Pool>, steps: usize) {
        if steps > 0 {
            let next = Arc::clone(pool);
            pool.submit(get("key"), Box::new(move |_| go_on(&next, steps - 1)));
        }
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
