//! The map, from nodes that do not agree.

use super::*;
use crate::storage::cluster::network::topology::spare;

fn questions(fake: &Fake) -> usize {
    fake.asked("CLUSTER").len() / 2
}

fn get_from(router: &Arc<Router>, slot: u16) -> Outcome {
    outcome(&send_to(router, slot, get(), false, PATIENCE))
}

#[test]
fn an_older_map_is_not_believed() {
    let (old, new) = (Fake::start(), Fake::start());
    old.script("GET", vec![text("old")]);
    new.script("GET", vec![text("new")]);
    let map = [(0, 8191, old.port, 5), (8192, 16383, new.port, 8)];
    old.tell(&map);
    new.tell(&map);
    let router = front(&old);
    assert_eq!(get_from(&router, 9000), value(b"new"));
    let topology = router.topology();
    old.tell(&[(0, 16383, old.port, 5)]);
    // Both have told theirs.
    let before = (questions(&old), questions(&new));
    until("both were asked", || {
        router.refresh();
        questions(&old) > before.0 + 1 && questions(&new) > before.1 + 1
    });
    assert_eq!(get_from(&router, 9000), value(b"new"));
    assert_eq!(router.topology(), topology);
    // A higher epoch is.
    old.tell(&[(0, 16383, old.port, 9)]);
    until("it is taken", || {
        router.refresh();
        router.topology() != topology
    });
    assert_eq!(get_from(&router, 9000), value(b"old"));
}

#[test]
fn a_redirection_is_believed_whatever_the_epochs() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.tell(&[(0, 16383, old.port, 9)]);
    let router = front(&old);
    // The cluster was built anew.
    old.on("GET", move |_| Some(line(&format!("-MOVED 1 127.0.0.1:{port}"))));
    new.script("GET", vec![text("new")]);
    let map = [(0, 100, new.port, 2), (101, 16383, old.port, 1)];
    old.tell(&map);
    new.tell(&map);
    assert_eq!(get_from(&router, 1), value(b"new"));
    let asked = questions(&new);
    until("the new map is told", || questions(&new) > asked + 1);
    let asked = old.asked("GET").len();
    assert_eq!(get_from(&router, 1), value(b"new"));
    assert_eq!(old.asked("GET").len(), asked);
}

#[test]
fn a_cluster_that_was_built_anew_is_found() {
    let (one, other) = (Fake::start(), Fake::start());
    other.script("GET", vec![text("other")]);
    // One, which owned all of it, is a replica of the other.
    one.tell(&[(0, 16383, one.port, 9)]);
    let router = front(&one);
    assert_eq!(router.masters()[0].address().port, one.port);
    let map = [(0, 16383, other.port, 2)];
    one.tell(&map);
    other.tell(&map);
    until("its map is taken", || {
        router.masters().iter().all(|node| node.address().port == other.port)
    });
    assert_eq!(get_from(&router, 1), value(b"other"));
}

#[test]
fn an_owner_that_is_disputed_is_asked() {
    let (one, other) = (Fake::start(), Fake::start());
    let map = [(0, 8191, one.port, 5), (8192, 16383, other.port, 8)];
    one.tell(&map);
    other.tell(&map);
    let router = front(&one);
    // The one tells an old map, and the other what it has.
    one.tell(&[(0, 16383, one.port, 5)]);
    let before = (questions(&one), questions(&other));
    until("the one was asked again and again", || {
        router.refresh();
        questions(&one) >= before.0 + 6
    });
    // In its own turns, and behind the one, whose last answer may be on its way yet.
    until("the other was asked as well", || questions(&other) >= before.1 + 8);
    assert_eq!(router.masters().len(), 2);
    other.tell(&[(0, 16383, one.port, 5)]);
    until("it has no slots, as it says", || router.masters().len() == 1);
    assert_eq!(router.masters()[0].address().port, one.port);
}

#[test]
fn a_node_that_does_not_answer_is_not_the_only_one_asked() {
    let (one, other) = (Fake::start(), Fake::start());
    let map = [(0, 8191, one.port, 1), (8192, 16383, other.port, 2)];
    one.tell(&map);
    other.tell(&map);
    let router = front(&one);
    one.script("CLUSTER", vec![Answer::Silence]);
    other.tell(&[(0, 16383, other.port, 3)]);
    other.script("GET", vec![text("other")]);
    until("the map of the other is taken", || router.masters().len() == 1);
    assert_eq!(get_from(&router, 1), value(b"other"));
}

#[test]
fn a_node_without_slots_is_left() {
    let (one, other) = (Fake::start(), Fake::start());
    let map = [(0, 8191, one.port, 1), (8192, 16383, other.port, 2)];
    one.tell(&map);
    other.tell(&map);
    let router = front(&one);
    assert_eq!(router.masters().len(), 2);
    let map = [(0, 16383, other.port, 3)];
    one.tell(&map);
    other.tell(&map);
    let is_left = || one.connections() == 0;
    until("it is left", is_left);
    assert_eq!(get_from(&router, 1), value(b"value"));
    // That of each question for the map has ended too.
    until("one is left", || other.connections() == 1);
}

#[test]
fn of_nodes_without_slots_one_is_kept_for_a_while() {
    let spare_of = |rests: &[u64]| {
        let rests = rests.iter().map(|ms| (Duration::from_millis(*ms), *ms));
        spare(rests.collect())
    };
    assert!(spare_of(&[]).is_empty());
    assert!(spare_of(&[9000]).is_empty());
    assert_eq!(spare_of(&[10_000]), [10_000]);
    assert_eq!(spare_of(&[2000, 1000, 3000]), [2000, 3000]);
    assert_eq!(spare_of(&[100, 200, 300, 600]), [600]);
}

#[test]
fn seeds_are_asked_again_if_nobody_else_answers() {
    let (seed, node) = (Fake::start(), Fake::start());
    seed.tell(&[(0, 16383, node.port, 1)]);
    let router = front(&seed);
    assert_eq!(get_from(&router, 1), value(b"value"));
    drop(node);
    seed.tell(&[(0, 16383, seed.port, 2)]);
    seed.script("GET", vec![text("seed")]);
    assert_eq!(get_from(&router, 1), value(b"seed"));
}
