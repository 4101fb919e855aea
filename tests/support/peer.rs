//! A toy engine in front of a peer: nothing is done at once, outcomes come late
//! and out of order, and the link loses operations on their way.
//!
//! It shows what the storage's two doors ask of an engine whose outcomes come from
//! another machine, and no more than that.

use super::blocking::Blocking as _;
use super::random::Random;
use crossbeam_channel::{Receiver, Sender};
use little_key_value::storage::{
    Changes, Done, Error, Memory, Op, Outage, Outcome, Storage, Waiters,
};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The most operations under way.
const LINKS: usize = 4;

/// The longest delay of one, in microseconds.
const DELAY_MICROS_MAX: usize = 300;

/// One operation in so many is lost on its way, and sent again.
const LOST_SHARE: usize = 8;

/// The engine: links to a peer that has a memory.
pub struct Peer {
    memory: Memory,
    requests: Sender<(Op, Done)>,
    links: Mutex<Vec<JoinHandle<()>>>,
    /// Whether the peer is out of reach.
    is_cut_off: AtomicBool,
}

impl Peer {
    /// Links to a peer without keys.
    pub fn new() -> Self {
        let (memory, random) = (Memory::new(), Random::of_this_run());
        let (requests, queue) = crossbeam_channel::unbounded();
        let link = |number| {
            let (memory, queue) = (memory.clone(), Receiver::clone(&queue));
            let random = random.fork(number);
            thread::spawn(move || run_link(&memory, &queue, random))
        };
        let links = Mutex::new((0..LINKS).map(link).collect());
        Self { memory, requests, links, is_cut_off: AtomicBool::new(false) }
    }

    /// Cuts the peer off: nothing reaches it any more.
    pub fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::Relaxed);
    }

    /// Has it reached again.
    pub fn reach(&self) {
        self.is_cut_off.store(false, Ordering::Relaxed);
    }
}

/// Carries operations to the peer, and outcomes back.
fn run_link(memory: &Memory, queue: &Receiver<(Op, Done)>, mut random: Random) {
    while let Ok((op, done)) = queue.recv() {
        let mut is_lost = true;
        while is_lost {
            let micros = random.below(DELAY_MICROS_MAX) as u64;
            thread::sleep(Duration::from_micros(micros));
            is_lost = random.below(LOST_SHARE) == 0;
        }
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| memory.perform(op)));
        done(outcome.unwrap_or(Err(Error::Unavailable(Outage::DiskFailed))));
    }
}

impl Storage for Peer {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        if let Err(err) = self.check() {
            return done(Err(err));
        }
        self.requests.send((op, done)).expect("the links are there until the end");
    }

    fn waiters(&self) -> Option<&Waiters> {
        self.memory.waiters()
    }

    fn changes(&self) -> Option<&Changes> {
        self.memory.changes()
    }

    fn check(&self) -> Result<(), Error> {
        let is_cut_off = self.is_cut_off.load(Ordering::Relaxed);
        if is_cut_off { Err(Error::Unavailable(Outage::Closed)) } else { self.memory.check() }
    }

    fn close(&self) -> Result<(), Error> {
        self.cut_off();
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let (closed, _) = crossbeam_channel::bounded(0);
        self.requests = closed;
        for link in self.links.lock().expect("nobody panics with it").drain(..) {
            link.join().expect("a link does not panic");
        }
    }
}
