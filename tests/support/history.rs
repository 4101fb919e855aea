//! Recording what concurrent clients do and see, for the judge.

use super::linearizability::{Call, Operation, Saw};
use super::random::Random;
use super::threads::Start;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// The size of a history.
#[derive(Clone, Copy)]
pub struct Plan {
    /// The clients that call at the same time.
    pub clients: usize,
    /// The calls of each of them.
    pub calls: usize,
    /// The keys that they share.
    pub keys: usize,
    /// The clears among a thousand calls.
    pub clears_per_mille: usize,
    /// The calls on two keys at one moment among a thousand.
    pub batches_per_mille: usize,
}

/// The outcome of a call, as its client is told.
pub enum Told {
    /// It was done, and has seen this.
    Done(Saw),
    /// It was not done.
    NotDone,
    /// This may be done, now or later, and would see that.
    Perhaps(Call, Saw),
}

impl<S: Into<Saw>> From<S> for Told {
    fn from(saw: S) -> Self {
        Self::Done(saw.into())
    }
}

/// Lets every client make its calls through a connection of its own, which
/// performs one call and returns what it has seen.
pub fn record<C, T>(plan: Plan, random: &Random, connect: impl Fn() -> C + Sync) -> Vec<Operation>
where
    C: FnMut(Call) -> T,
    T: Into<Told>,
{
    let clock = AtomicU64::new(0);
    let start = Start::new(plan.clients);
    let history = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..plan.clients {
            let mut random = random.fork(client);
            let (clock, start, history, connect) = (&clock, &start, &history, &connect);
            scope.spawn(move || {
                let mut perform = connect();
                let mut own = Vec::with_capacity(plan.calls);
                start.wait();
                for index in 0..plan.calls {
                    let value = (client * plan.calls + index) as u64;
                    let call = choose(plan, &mut random, value);
                    let invoked = clock.fetch_add(1, Ordering::SeqCst);
                    let told = perform(call).into();
                    let returned = clock.fetch_add(1, Ordering::SeqCst);
                    let (call, saw, returned, is_lost) = match told {
                        Told::Done(saw) => (call, saw, returned, false),
                        Told::NotDone => continue,
                        Told::Perhaps(call, saw) => (call, saw, u64::MAX, true),
                    };
                    own.push(Operation { client, call, saw, invoked, returned, is_lost });
                }
                history.lock().expect("no client panics with it").extend(own);
            });
        }
    });
    history.into_inner().expect("every client has ended well")
}

fn choose(plan: Plan, random: &mut Random, value: u64) -> Call {
    let key = random.below(plan.keys);
    if random.below(1000) < plan.clears_per_mille {
        return Call::Clear;
    }
    if random.below(1000) < plan.batches_per_mille {
        let both = [key, (key + 1) % plan.keys];
        return if random.below(2) == 0 {
            Call::GetBoth(both)
        } else {
            Call::ExchangeBoth(both, value)
        };
    }
    match random.below(10) {
        0..4 => Call::Get(key),
        4..6 => Call::Set(key, value),
        6 => Call::Delete(key),
        7 => Call::Take(key),
        _ => Call::Exchange(key, value),
    }
}

/// The bytes that stand for a number: as many copies of it as make a length
/// of its own, from one copy to past the limit of compact values.
pub fn bytes_of(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(copies_of(number))
}

/// The number that a value stands for. Panics if the value is not whole.
pub fn number_of(bytes: &[u8]) -> u64 {
    let first = bytes.first_chunk().expect("a value has eight bytes or more");
    let number = u64::from_le_bytes(*first);
    assert!(bytes == bytes_of(number), "a torn value of {} bytes", bytes.len());
    number
}

fn copies_of(number: u64) -> usize {
    const COPIES_MAX: u64 = 800;
    usize::try_from(1 + number.wrapping_mul(7919) % COPIES_MAX).expect("a small number")
}
