//! Waves: requests to all nodes that are written at one time.
//!
//! A write to a node, the node's reading of it and what it passes on to its replicas cost
//! nearly the same for one request as for many. So while many requests are under way and
//! the front's threads wait for processors, requests are gathered in the queues of their
//! nodes until half of the crowd is there. Then all these queues are written, by the thread
//! that has brought the last. The other half is at the nodes, or on its way back, meanwhile.
//!
//! ```text
//! requests ──► gathered in the queues of nodes ──► a wave, as it is full ──► nodes
//!                                            └───► or a moment later ──────────┘
//! ```
//!
//! Where there is no crowd, or where processors are free, nothing is gathered: who waits
//! then waits for nothing. Nor is it for a while where most waves were not filled.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The time after which a wave is written that was not filled, at least; it is up to twice
/// that.
pub const PATIENCE: Duration = Duration::from_millis(1);

/// The requests that were under way at once, at least, where some are gathered.
const CROWD_MIN: usize = 32;

/// The requests that were under way at once, at least, where threads let others go first.
const CROWDED_MIN: usize = 8;

/// The requests of a wave, at most: more of them would save little, and wait for longer.
const SIZE_MAX: usize = 128;

/// The looks for which nothing is gathered, after most waves were not filled.
const LOOKS_OFF: u32 = 20;

/// One who gathers requests.
pub trait Gathers: Send + Sync {
    /// Writes them. Never blocks.
    fn write_gathered(&self);
}

/// The waves of a front.
#[derive(Default)]
pub struct Waves {
    /// The requests of a full wave; nothing is gathered if there are none.
    size: AtomicUsize,
    are_crowded: AtomicBool,
    /// The requests since the last wave.
    gathered: AtomicUsize,
    /// The most requests that were under way at once since the last look.
    crowd: AtomicUsize,
    /// The time for which threads waited for a processor since then, and that for which they
    /// ran, in nanoseconds.
    waited_ns: AtomicU64,
    ran_ns: AtomicU64,
    state: Mutex<State>,
}

/// Who gathers, and what became of waves before.
#[derive(Default)]
struct State {
    gatherers: Vec<Arc<dyn Gathers>>,
    /// The waves so far.
    number: u64,
    /// [`Waves::tend`] is to be called.
    is_tended: bool,
    /// The waves since the last look that were full, and those that were not.
    full: u32,
    unfilled: u32,
    /// The crowd before the last look.
    crowd: usize,
    /// The looks to come for which nothing is gathered.
    looks_off: u32,
}

impl Waves {
    /// Notes how many requests are under way.
    pub fn note_crowd(&self, requests: usize) {
        // Most are no news, and write nothing that all threads share.
        if requests > self.crowd.load(Ordering::Relaxed) {
            self.crowd.fetch_max(requests, Ordering::Relaxed);
        }
    }

    /// Notes how long a thread has waited for a processor, and how long it ran.
    pub fn note_contention(&self, waited_ns: u64, ran_ns: u64) {
        self.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
        self.ran_ns.fetch_add(ran_ns, Ordering::Relaxed);
    }

    /// Returns true if requests are to be gathered.
    pub fn are_on(&self) -> bool {
        self.size.load(Ordering::Relaxed) > 0
    }

    /// Returns true while so many requests are under way that a thread serves them best by
    /// what it does at once for many. For a few it is to be fast.
    pub fn are_crowded(&self) -> bool {
        self.are_crowded.load(Ordering::Relaxed)
    }

    /// Takes one who begins to gather requests. Returns the number of the wave if it
    /// has to be tended in a while: nobody else will.
    pub fn join(&self, gatherer: Arc<dyn Gathers>) -> Option<u64> {
        let mut state = self.lock();
        state.gatherers.push(gatherer);
        (!mem::replace(&mut state.is_tended, true)).then_some(state.number)
    }

    /// Counts a request that was gathered, and writes the wave if it was the last of it. Never
    /// blocks.
    pub fn add(&self) {
        let gathered = self.gathered.fetch_add(1, Ordering::Relaxed) + 1;
        if gathered >= self.size.load(Ordering::Relaxed) {
            let mut state = self.lock();
            state.full += 1;
            self.write(state);
        }
    }

    /// Writes what is gathered if there was no wave since that of this number. Returns the
    /// number of the wave that has to be tended next, after a while. Never blocks.
    pub fn tend(&self, number: u64) -> Option<u64> {
        let mut state = self.lock();
        if state.number == number && !state.gatherers.is_empty() {
            state.unfilled += 1;
            self.write(state);
            state = self.lock();
        }
        state.is_tended = !state.gatherers.is_empty();
        state.is_tended.then_some(state.number)
    }

    /// Decides on the waves until the next look.
    pub fn look(&self) {
        let crowd = self.crowd.swap(0, Ordering::Relaxed);
        let waited_ns = self.waited_ns.swap(0, Ordering::Relaxed);
        let ran_ns = self.ran_ns.swap(0, Ordering::Relaxed);
        let mut state = self.lock();
        let crowd_before = mem::replace(&mut state.crowd, crowd);
        let (full, unfilled) = (mem::take(&mut state.full), mem::take(&mut state.unfilled));
        state.looks_off =
            if unfilled > full { LOOKS_OFF } else { state.looks_off.saturating_sub(1) };
        let crowd = crowd.max(crowd_before);
        self.are_crowded.store(crowd >= CROWDED_MIN, Ordering::Relaxed);
        let is_on = crowd >= CROWD_MIN && waited_ns > ran_ns / 4 && state.looks_off == 0;
        self.size.store(if is_on { (crowd / 2).min(SIZE_MAX) } else { 0 }, Ordering::Relaxed);
    }

    /// The waves so far.
    #[cfg(test)]
    pub fn number(&self) -> u64 {
        self.lock().number
    }

    /// Has requests gathered until the next look, as of so many under way.
    #[cfg(test)]
    pub fn set_on(&self, crowd: usize) {
        self.note_crowd(crowd);
        self.note_contention(1, 0);
        self.look();
    }

    fn write(&self, mut state: MutexGuard<'_, State>) {
        state.number += 1;
        self.gathered.store(0, Ordering::Relaxed);
        let gatherers = mem::take(&mut state.gatherers);
        drop(state);
        for gatherer in gatherers {
            gatherer.write_gathered();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Gatherer(AtomicUsize);

    impl Gathers for Gatherer {
        fn write_gathered(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Gatherer {
        fn written(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn join(waves: &Waves, gatherer: &Arc<Gatherer>) -> Option<u64> {
        let gatherer: Arc<Gatherer> = Arc::clone(gatherer);
        waves.join(gatherer)
    }

    #[test]
    fn a_crowd_is_gathered_where_threads_wait_for_processors() {
        let waves = Waves::default();
        assert!(!waves.are_on());
        // The crowd, the time for which threads waited and that for which they ran.
        let looks = [
            ((31, 100, 100), false),
            ((32, 25, 100), false),
            ((32, 26, 100), true),
            // The crowd before the last look counts too: it may have come between two.
            ((0, 26, 100), true),
            ((0, 26, 100), false),
            ((100, 0, 0), false),
            ((100, 1, 0), true),
        ];
        for (at, ((crowd, waited, ran), is_on)) in looks.into_iter().enumerate() {
            waves.note_crowd(crowd);
            waves.note_contention(waited, ran);
            waves.look();
            assert_eq!(waves.are_on(), is_on, "at look {at}");
        }
    }

    #[test]
    fn a_few_requests_are_no_crowd() {
        let waves = Waves::default();
        assert!(!waves.are_crowded());
        for (crowd, are_crowded) in [(7, false), (8, true), (1, true), (1, false), (64, true)] {
            waves.note_crowd(crowd);
            waves.look();
            assert_eq!(waves.are_crowded(), are_crowded, "of {crowd}");
        }
    }

    #[test]
    fn a_wave_is_written_as_half_of_the_crowd_is_there() {
        let (waves, gatherers) = (Waves::default(), [Arc::default(), Arc::default()]);
        waves.set_on(64);
        for wave in 0..3 {
            for gatherer in &gatherers {
                join(&waves, gatherer);
            }
            (0..31).for_each(|_| waves.add());
            assert!(gatherers.iter().all(|gatherer: &Arc<Gatherer>| gatherer.written() == wave));
            waves.add();
            assert!(gatherers.iter().all(|gatherer| gatherer.written() == wave + 1));
        }
        assert_eq!(waves.number(), 3);
    }

    #[test]
    fn a_large_crowd_has_waves_of_a_bounded_size() {
        let (waves, gatherer) = (Waves::default(), Arc::default());
        waves.set_on(8000);
        join(&waves, &gatherer);
        (0..SIZE_MAX).for_each(|_| waves.add());
        assert_eq!(gatherer.written(), 1);
    }

    #[test]
    fn a_wave_that_is_not_filled_is_written_all_the_same() {
        let (waves, gatherer) = (Waves::default(), Arc::default());
        waves.set_on(64);
        assert_eq!(join(&waves, &gatherer), Some(0));
        assert_eq!(join(&waves, &gatherer), None, "it is tended already");
        waves.add();
        assert_eq!(waves.tend(0), None);
        assert_eq!(gatherer.written(), 2, "for each time that it joined");
        assert_eq!(join(&waves, &gatherer), Some(1));
        // This one is full, and the next has begun, as it is tended.
        (0..32).for_each(|_| waves.add());
        assert_eq!(join(&waves, &gatherer), None);
        assert_eq!(waves.tend(1), Some(2));
        assert_eq!(gatherer.written(), 3);
        assert_eq!(waves.tend(2), None);
        assert_eq!(gatherer.written(), 4);
    }

    #[test]
    fn where_most_waves_are_not_filled_nothing_is_gathered_for_a_while() {
        let (waves, gatherer) = (Waves::default(), Arc::default());
        waves.set_on(64);
        for _ in 0..2 {
            let number = join(&waves, &gatherer).expect("a number");
            waves.tend(number);
        }
        join(&waves, &gatherer);
        (0..32).for_each(|_| waves.add());
        for _ in 0..LOOKS_OFF {
            waves.set_on(64);
            assert!(!waves.are_on());
        }
        waves.set_on(64);
        assert!(waves.are_on());
    }
}
