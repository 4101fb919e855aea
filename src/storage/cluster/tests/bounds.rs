//! Requests past the bounds, and the end.

use super::*;
use crate::storage::Outage;
use crate::storage::cluster::network::traffic::{BYTES_MAX, REQUESTS_MAX};
use std::thread;

#[test]
fn a_request_too_many_is_refused_at_once() {
    let fake = Fake::start();
    fake.script("GET", vec![Answer::Silence]);
    let router = front(&fake);
    // None of them ends before the last one is sent.
    let told: Vec<_> = (0..REQUESTS_MAX).map(|_| send(&router, get(), false)).collect();
    assert_eq!(router.traffic().pending(), REQUESTS_MAX);
    assert_eq!(outcome(&send(&router, get(), false)), Err(Error::Overloaded));
    assert!(told.iter().all(|told| outcome(told) == DOWN));
    until("there is room", || router.traffic().pending() == 0);
    fake.script("GET", vec![text("value")]);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
}

#[test]
fn bytes_too_many_are_refused_but_alone() {
    let fake = Fake::start();
    fake.script("GET", vec![Answer::Silence]);
    let router = front(&fake);
    let value = vec![b'v'; BYTES_MAX];
    let large = || Commands::default().with(&[b"SET", b"a", &value]);
    let ok = Ok(Replies::from_iter([Reply::Bytes(Bytes::from_static(b"OK"))]));
    let patience = Duration::from_secs(19);
    assert_eq!(outcome(&send_for(&router, large(), true, patience)), ok);
    until("it is over", || router.traffic().pending() == 0);
    let another = large();
    let pending = send(&router, get(), false);
    assert_eq!(outcome(&send(&router, another, true)), Err(Error::Overloaded));
    assert_eq!(outcome(&pending), DOWN);
}

#[test]
fn closing_waits_for_what_is_pending() {
    let fake = Fake::start();
    let slow = Answer::Slowly(b":9\r\n".to_vec(), Duration::from_millis(50));
    fake.script("INCR", vec![slow]);
    let router = front(&fake);
    let told = send(&router, incr(), true);
    router.close();
    assert_eq!(told.try_recv().unwrap(), number(9));
    let closed = Err(Error::Unavailable(Outage::Closed));
    assert_eq!(outcome(&send(&router, incr(), true)), closed);
    assert_eq!(fake.asked("INCR").len(), 1);
}

#[test]
fn closing_waits_for_a_silent_node_until_the_deadline() {
    let fake = Fake::start();
    fake.script("INCR", vec![Answer::Silence]);
    let router = front(&fake);
    // It is sent by then, on a busy machine too.
    let told = send_for(&router, incr(), true, Duration::from_secs(3));
    router.close();
    assert_eq!(told.try_recv().unwrap(), Err(Error::OutcomeUnknown));
}

#[test]
fn a_front_that_is_dropped_leaves_no_connection() {
    let fake = Fake::start();
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    drop(router);
    until("its connection has ended", || fake.connections() == 0);
}

#[test]
fn many_threads_send_at_once() {
    let fake = Fake::start();
    fake.on("GET", |words| Some(text(&String::from_utf8_lossy(&words[1]))));
    let router = front(&fake);
    thread::scope(|scope| {
        for thread in 0..4 {
            let router = &router;
            scope.spawn(move || {
                let key = |at: usize| format!("{thread}-{at}");
                let told: Vec<_> = (0..500)
                    .map(|at| Commands::default().with(&[b"GET", key(at).as_bytes()]))
                    .map(|commands| send(router, commands, false))
                    .collect();
                for (at, told) in told.iter().enumerate() {
                    let replies = outcome(told).unwrap();
                    assert_eq!(replies.as_slice(), [Reply::Bytes(key(at).into())]);
                }
            });
        }
    });
}
