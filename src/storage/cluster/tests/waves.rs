//! Requests that are gathered until there are enough of them.

use super::*;
use crate::storage::Outage;

/// Has requests gathered until the next look, and sends some of two nodes' slots.
fn send_gathered(router: &Arc<Router>, count: usize) -> Vec<Receiver<Outcome>> {
    router.traffic().waves.set_on(64);
    let slot = |at| if at % 2 == 0 { 1 } else { 9000 };
    (0..count).map(|at| send_to(router, slot(at), get(), false, PATIENCE)).collect()
}

fn two_nodes() -> (Fake, Fake, Arc<Router>) {
    let (first, second) = (Fake::start(), Fake::start());
    let map = [(0, 8191, first.port, 1), (8192, 16383, second.port, 1)];
    first.tell(&map);
    second.tell(&map);
    first.script("GET", vec![text("value")]);
    second.script("GET", vec![text("value")]);
    let router = front(&first);
    (first, second, router)
}

/// Sends so many requests again and again, until there were so many waves.
fn send_in_waves(router: &Arc<Router>, count: usize, waves: u64) {
    // One or the other may be sent after the next look, and by itself.
    until("there were waves", || {
        let told = send_gathered(router, count);
        assert!(told.iter().all(|told| outcome(told) == value(b"value")));
        router.traffic().waves.number() >= waves
    });
}

#[test]
fn a_wave_goes_to_all_nodes() {
    let (first, second, router) = two_nodes();
    send_in_waves(&router, 64, 4);
    assert!(!first.asked("GET").is_empty() && !second.asked("GET").is_empty());
}

#[test]
fn a_few_that_are_gathered_are_sent_in_a_moment() {
    let (_first, _second, router) = two_nodes();
    send_in_waves(&router, 5, 2);
}

#[test]
fn what_is_gathered_for_a_lost_node_is_sent_again() {
    let (first, _second, router) = two_nodes();
    for _ in 0..10 {
        let told = send_gathered(&router, 20);
        first.cut();
        assert!(told.iter().all(|told| outcome(told) == value(b"value")));
    }
}

#[test]
fn what_is_gathered_at_the_end_is_completed() {
    for _ in 0..10 {
        let (_first, _second, router) = two_nodes();
        let told = send_gathered(&router, 20);
        drop(router);
        let closed = Err(Error::Unavailable(Outage::Closed));
        for told in told {
            let outcome = outcome(&told);
            assert!(outcome == value(b"value") || outcome == closed, "{outcome:?}");
        }
    }
}
