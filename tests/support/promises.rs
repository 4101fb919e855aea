//! Promises on every engine, and what they share.

use super::blocking::{Blocking as _, TOLD};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use little_key_value::storage::{Change, Decision, Entry, Key, Op, Storage, Time};
use std::iter;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Makes a test of each promise for every engine: a function of that name takes an
/// empty store.
macro_rules! on_every_engine {
    ($($promise:ident)*) => {
        // A new engine adds a line.
        on_every_engine! { memory: $($promise)* }
        on_every_engine! { durable: $($promise)* }
        on_every_engine! { peer: $($promise)* }
        on_every_engine! { cluster: $($promise)* }
    };
    ($engine:ident: $($promise:ident)*) => {
        mod $engine {
            $(#[test]
            fn $promise() {
                if crate::support::engines::is_there(stringify!($engine)) {
                    super::$promise(crate::support::engines::$engine());
                }
            })*
        }
    };
}
pub(crate) use on_every_engine;

/// A store of any engine.
pub type Store = Arc<dyn Storage>;

/// The key of a text.
pub fn key(text: &str) -> Key {
    Key::new(text).expect("a key of 1 to 1024 bytes")
}

/// An entry of a value alone.
pub fn entry(value: impl Into<Bytes>) -> Entry {
    Entry::new(value.into())
}

/// The value under a key.
#[track_caller]
pub fn get(store: &Store, text: &str) -> Option<Bytes> {
    let entry = store.get(&key(text)).expect("the engine reads");
    entry.map(|entry| entry.value().clone())
}

/// Stores a value.
#[track_caller]
pub fn set(store: &Store, text: &str, value: impl Into<Bytes>) {
    store.set(key(text), entry(value)).expect("the engine writes");
}

/// Deletes a key.
#[track_caller]
pub fn delete(store: &Store, text: &str) {
    store.delete(&key(text)).expect("the engine deletes");
}

/// Deletes every key.
#[track_caller]
pub fn clear(store: &Store) {
    store.clear().expect("the engine clears");
}

/// Stores many entries, as many at the same time as any engine takes.
#[track_caller]
pub fn set_all(store: &Store, entries: impl IntoIterator<Item = (Key, Entry)>) {
    const AT_ONCE: usize = 500;
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let (done, outcomes) = crossbeam_channel::unbounded();
        for (key, entry) in entries.by_ref().take(AT_ONCE) {
            let done = done.clone();
            let done = Box::new(move |outcome| done.send(outcome).expect("it is waited for"));
            store.submit(Op::Set(key, entry), done);
        }
        drop(done);
        let is_written = all_told(&outcomes).all(|outcome| outcome.is_ok());
        assert!(is_written, "the engine does not write");
    }
}

/// What is told, until nobody can tell any more. Panics if the next does not come.
#[track_caller]
pub fn all_told<T>(told: &Receiver<T>) -> impl Iterator<Item = T> {
    iter::from_fn(|| match told.recv_timeout(TOLD) {
        Err(RecvTimeoutError::Timeout) => panic!("an outcome does not come"),
        next => next.ok(),
    })
}

/// A change that decides the same on any entry.
pub fn always(decision: Decision) -> Change {
    Box::new(move |_| decision.clone())
}

/// Whether a clearing or a page has one moment for all keys. A cluster has one for each
/// slot at the most.
pub fn is_of_one_moment(store: &Store) -> bool {
    store.changes().is_some()
}

/// Whether a write waits for a disk or a peer.
pub fn is_slow(store: &Store) -> bool {
    store.try_now(Op::Update(key("any"), always(Decision::Keep))).is_err()
}

/// So many, or a fifth of it where each write waits.
pub fn fewer_if_slow(store: &Store, many: usize) -> usize {
    if is_slow(store) { many / 5 } else { many }
}

/// Waits until a moment has come, for a node of a cluster too: by its clock, and it is
/// the next millisecond in which it has an entry expire.
pub fn wait_for(time: Time) {
    let time = time.after(Duration::from_millis(10));
    while Time::now() < time {
        thread::sleep(Duration::from_millis(1));
    }
}
