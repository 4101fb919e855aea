//! The failures of a cluster, as clients are told of them: 503 where nothing was done, 504
//! where something may have been.

use super::importing::{Body, lines};
use super::{Api, answer, api_over, call, key, text_of};
use crate::storage::{Blocking as _, Done, Entry, Error, Hindrance, Memory, Op, Outcome, Storage};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A storage that fails from some step on.
struct Breaking {
    memory: Memory,
    /// The steps before that.
    steps: AtomicUsize,
    error: Error,
}

impl Storage for Breaking {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        let left = self
            .steps
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        done(if left.is_ok() { self.memory.perform(op) } else { Err(self.error.clone()) });
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A store of so many keys that fails after so many steps.
fn breaking(keys: usize, steps: usize, error: Error) -> Api {
    let memory = Memory::new();
    for number in 0..keys {
        memory.set(key(&format!("{number:05}")), Entry::new("x".into())).unwrap();
    }
    api_over(Breaking { memory, steps: AtomicUsize::new(steps), error })
}

const DOWN: Error = Error::NotDone(Hindrance::ClusterDown);

const CALLS: [(&str, &[u8]); 12] = [
    ("GET /kv/a", b""),
    ("HEAD /kv/a", b""),
    ("PUT /kv/a", b"x"),
    ("PUT /kv/a?create", b"x"),
    ("POST /kv/a?incr", b""),
    ("DELETE /kv/a", b""),
    ("GET /kv", b""),
    ("GET /kv?count", b""),
    ("POST /kv?prefix=a", b"x"),
    ("DELETE /kv?take=a", b""),
    ("DELETE /kv?prefix=a", b""),
    ("DELETE /clear", b""),
];

#[test]
fn each_failure_has_its_status_and_its_text() {
    let table = [
        (DOWN, 503, "not done: the cluster does not answer\n"),
        (
            Error::NotDone(Hindrance::ReplicasTooFew),
            503,
            "not done: too few replicas are connected\n",
        ),
        (
            Error::NotDone(Hindrance::NodeReadOnly),
            503,
            "not done: a node of the cluster takes no writes\n",
        ),
        (Error::OutcomeUnknown, 504, "the cluster has not confirmed it: it may have been done\n"),
        (Error::NotAValue, 409, "what is stored is no value\n"),
        (Error::SlotsDiffer, 409, "keys are in different slots\n"),
        (
            Error::ClearForbidden,
            403,
            "this deletes the keys of other applications too: start the store with \
             --cluster-clear\n",
        ),
        (
            Error::NodeRefused,
            500,
            "a node of the cluster refuses this: the log of this store says why\n",
        ),
        (Error::Full, 507, "storage is full\n"),
    ];
    let batch: &[u8] = b"{\"key\":\"a\",\"value\":\"1\"}\n{\"method\":\"GET\",\"key\":\"b\"}";
    for (error, status, text) in table {
        for (line, body) in CALLS.into_iter().chain([("POST /batch", batch)]) {
            let reply = answer(&breaking(1, 0, error.clone()), line, body);
            assert_eq!(text_of(&reply), (status, text), "{line}");
            let is_undone = status == 503;
            assert_eq!(reply.header("Retry-After"), is_undone.then_some("1"), "{line}");
        }
        let api = breaking(0, 0, error);
        let reply = Body::of(&api, b"{\"key\":\"a\",\"value\":\"1\"}\n").import();
        let text = format!("line 1: {}; 0 were stored\n", text.trim_end());
        assert_eq!(text_of(&reply), (status, &*text));
    }
}

/// The steps: the first key, a page of them, the deletion of those, and so on.
#[test]
fn a_deletion_that_has_done_a_part_never_says_that_nothing_was_done() {
    let down = "not done: the cluster does not answer";
    for (steps, status, text) in [
        (0, 503, format!("{down}\n")),
        (1, 503, format!("{down}\n")),
        (2, 503, format!("{down}\n")),
        (3, 504, format!("{down}; 500 were deleted\n")),
        (4, 504, format!("{down}; 500 were deleted\n")),
        (5, 504, format!("{down}; 1000 were deleted\n")),
        (7, 200, "1200\n".to_owned()),
    ] {
        let api = breaking(1200, steps, DOWN);
        let reply = api.answer(&call("DELETE /kv?prefix=0", None), Bytes::new());
        assert_eq!(text_of(&reply), (status, &*text), "{steps} steps");
    }
    let api = breaking(1200, 4, Error::Full);
    let reply = api.answer(&call("DELETE /kv?prefix=0", None), Bytes::new());
    assert_eq!(text_of(&reply), (507, "storage is full; 500 were deleted\n"));
}

#[test]
fn an_import_that_has_stored_a_part_never_says_that_nothing_was_done() {
    let body = lines(0..2500, "x");
    for (steps, status, text) in [
        (0, 503, "line 1: not done: the cluster does not answer; 0 were stored\n"),
        (1, 504, "line 1001: not done: the cluster does not answer; 1000 were stored\n"),
        (2, 504, "line 2001: not done: the cluster does not answer; 2000 were stored\n"),
        (3, 200, "2500\n"),
    ] {
        let reply = Body::of(&breaking(0, steps, DOWN), body.as_bytes()).import();
        assert_eq!(text_of(&reply), (status, text), "{steps} steps");
    }
    let reply = Body::of(&breaking(0, 1, Error::Overloaded), body.as_bytes()).import();
    let text = "line 1001: too many requests at once, try again; 1000 were stored\n";
    assert_eq!(text_of(&reply), (503, text));
}

#[test]
fn a_list_that_fails_in_the_middle_is_broken_off() {
    for error in [DOWN, Error::OutcomeUnknown, Error::NodeRefused] {
        let api = breaking(10_001, 1, error);
        let mut head = api.answer(&call("GET /kv", None), Bytes::new());
        assert_eq!(head.status(), 200);
        let rest = head.take_rest().expect("a second part");
        assert!(api.next_part(rest).status() >= 400);
    }
}
