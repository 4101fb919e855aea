//! Nodes that send a request on, or ask for it again.

use super::*;
use crate::storage::cluster::scripts::sha1_of;

#[test]
fn a_request_is_answered() {
    let fake = Fake::start();
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
}

#[test]
fn a_moved_slot_is_followed_and_remembered() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.on("GET", move |_| Some(line(&format!("-MOVED 1 127.0.0.1:{port}"))));
    new.script("GET", vec![text("new")]);
    let router = front(&old);
    let topology = router.topology();
    assert_eq!(outcome(&send(&router, get(), false)), value(b"new"));
    assert_ne!(router.topology(), topology);
    old.tell(&[(0, 16383, port, 2)]);
    until("the old node has no slots", || {
        // It had all of them first.
        router.masters().iter().all(|master| master.address().port == port)
    });
    let asked = old.asked("GET").len();
    assert_eq!(outcome(&send(&router, get(), false)), value(b"new"));
    assert_eq!(old.asked("GET").len(), asked);
}

#[test]
fn a_host_that_is_not_told_is_that_of_the_node() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.on("INCR", move |_| Some(line(&format!("-MOVED 1 :{port}"))));
    assert_eq!(outcome(&send(&front(&old), incr(), true)), number(1));
}

#[test]
fn redirections_in_a_circle_end_at_the_deadline() {
    let (one, other) = (Fake::start(), Fake::start());
    let (first, second) = (one.port, other.port);
    one.on("GET", move |_| Some(line(&format!("-MOVED 1 127.0.0.1:{second}"))));
    other.on("GET", move |_| Some(line(&format!("-MOVED 1 127.0.0.1:{first}"))));
    let router = front(&one);
    let begin = Instant::now();
    // A write could be on its way to a node just then.
    assert_eq!(outcome(&send_for(&router, get(), false, SHORT)), DOWN);
    assert!(begin.elapsed() >= SHORT);
    // Three at once, and then one in 50 ms.
    let asked = one.asked("GET").len() + other.asked("GET").len();
    assert!((2..30).contains(&asked), "{asked}");
}

#[test]
fn asking_goes_before_each_command() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.on("PEXPIRETIME", move |_| Some(line(&format!("-ASK 1 127.0.0.1:{port}"))));
    new.on("PEXPIRETIME", |_| Some(line(":7")));
    new.tell(&[(0, 16383, old.port, 1)]);
    let router = front(&old);
    let both = get().with(&[b"PEXPIRETIME", b"a"]);
    let replies = outcome(&send(&router, both, false)).unwrap();
    assert_eq!(replies.as_slice(), [Reply::Bytes("value".into()), Reply::Integer(7)]);
    let last = new.commands().split_off(new.commands().len() - 4);
    assert_eq!(last, ["ASKING", "GET", "ASKING", "PEXPIRETIME"]);
    // The slot has not moved.
    assert_eq!(router.masters().len(), 1);
}

#[test]
fn an_unknown_script_is_sent_before_the_command() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![line("-NOSCRIPT No matching script."), text("done")]);
    let evalsha = Commands::default().with(&[b"EVALSHA", b"sha", b"1", b"a"]);
    assert_eq!(outcome(&send(&front(&fake), evalsha, true)), value(b"done"));
    let asked = fake.commands();
    let last = asked.iter().rev().take(4).rev().collect::<Vec<_>>();
    assert_eq!(last, ["EVALSHA", "SCRIPT", "SCRIPT", "EVALSHA"]);
}

#[test]
fn a_script_is_sent_to_a_node_that_has_to_be_asked() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.on("EVALSHA", move |_| Some(line(&format!("-ASK 1 127.0.0.1:{port}"))));
    new.script("EVALSHA", vec![line("-NOSCRIPT No matching script."), text("done")]);
    new.tell(&[(0, 16383, old.port, 1)]);
    let evalsha = Commands::default().with(&[b"EVALSHA", b"sha", b"1", b"a"]);
    assert_eq!(outcome(&send(&front(&old), evalsha, true)), value(b"done"));
    let asked = new.commands();
    let last = asked.iter().rev().take(4).rev().collect::<Vec<_>>();
    assert_eq!(last, ["SCRIPT", "SCRIPT", "ASKING", "EVALSHA"]);
}

#[test]
fn a_node_that_never_knows_a_script_is_not_asked_for_ever() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![line("-NOSCRIPT No matching script.")]);
    let unknown = Commands::default().with(&[b"EVALSHA", b"sha", b"1", b"a"]);
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, unknown, true)), Err(Error::NodeRefused));
    fake.script("EVAL", vec![line("-NOSCRIPT No matching script.")]);
    assert_eq!(outcome(&send(&router, evalsha(b"EVALSHA"), true)), Err(Error::NodeRefused));
    assert_eq!(fake.asked("EVAL").len(), 1);
}

/// Runs the second script.
fn evalsha(name: &[u8]) -> Commands {
    Commands::default().with(&[name, sha1_of(SCRIPTS[1].as_bytes()).as_bytes(), b"1", b"a"])
}

#[test]
fn a_script_that_is_forgotten_again_goes_with_the_command() {
    for (name, whole) in [("EVALSHA", "EVAL"), ("EVALSHA_RO", "EVAL_RO")] {
        let fake = Fake::start();
        fake.script(name, vec![line("-NOSCRIPT No matching script.")]);
        fake.script(whole, vec![line("-BUSY Redis is busy running a script."), text("done")]);
        let mut commands = get().with(&[b"GET", b"b"]);
        let script = evalsha(name.as_bytes());
        let start = commands.bytes.len();
        commands.ends.extend(script.ends.iter().map(|end| start + end));
        commands.bytes.extend(script.bytes);
        let replies = outcome(&send(&front(&fake), commands, true)).unwrap();
        assert_eq!(replies.last(), Some(&Reply::Bytes("done".into())));
        assert_eq!(replies.len(), 3);
        assert_eq!(fake.asked(name).len(), 2);
        let words: Vec<Vec<u8>> = [whole, SCRIPTS[1], "1", "a"].map(Vec::from).into();
        assert_eq!(fake.asked(whole), [words.clone(), words]);
    }
}

#[test]
fn a_script_that_many_nodes_do_not_know_is_run() {
    let nodes: Vec<Fake> = (0..4).map(|_| Fake::start()).collect();
    for (at, node) in nodes.iter().enumerate() {
        let next = nodes.get(at + 1).map(|node| node.port);
        let moved = next.map_or_else(|| text("done"), |port| line(&format!("-MOVED 1 :{port}")));
        let unknown = line("-NOSCRIPT No matching script.");
        node.script("EVALSHA", vec![unknown, moved.clone()]);
        node.script("EVAL", vec![moved]);
    }
    assert_eq!(outcome(&send(&front(&nodes[0]), evalsha(b"EVALSHA"), true)), value(b"done"));
}

#[test]
fn what_a_node_has_not_done_is_done_later() {
    let refusals = [
        "-TRYAGAIN Multiple keys request during rehashing of slot",
        "-CLUSTERDOWN The cluster is down",
        "-LOADING Redis is loading the dataset in memory",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "-READONLY You can't write against a read only replica.",
        "-BUSY Redis is busy running a script.",
        "-EXECABORT Transaction discarded because of previous errors.",
    ];
    for refusal in refusals {
        let fake = Fake::start();
        fake.script("INCR", vec![line(refusal), line(refusal), line(":5")]);
        assert_eq!(outcome(&send(&front(&fake), incr(), true)), number(5), "{refusal}");
        assert_eq!(fake.asked("INCR").len(), 3);
    }
}

#[test]
fn a_read_that_was_unblocked_is_repeated() {
    let fake = Fake::start();
    fake.script("GET", vec![line("-UNBLOCKED force unblock from blocking operation"), text("b")]);
    assert_eq!(outcome(&send(&front(&fake), get(), false)), value(b"b"));
}

#[test]
fn a_refusal_without_end_ends_at_the_deadline() {
    let fake = Fake::start();
    fake.script("GET", vec![line("-CLUSTERDOWN The cluster is down")]);
    // A write could be on its way to the node just then.
    assert_eq!(outcome(&send_for(&front(&fake), get(), false, SHORT)), DOWN);
}

#[test]
fn each_refusal_has_its_error() {
    let refusals = [
        ("-OOM command not allowed when used memory > 'maxmemory'.", Error::Full),
        ("-WRONGTYPE Operation against a key holding the wrong kind of value", Error::NotAValue),
        ("-NOREPLICAS Not enough good replicas to write.", too_few()),
        ("-MISCONF Redis is configured to save.", Error::NotDone(Hindrance::NodeReadOnly)),
        ("-CROSSSLOT Keys in request don't hash to the same slot", Error::SlotsDiffer),
        ("-UNBLOCKED force unblock from blocking operation", Error::OutcomeUnknown),
        ("-NOPERM this user has no permissions", Error::NodeRefused),
        ("-ERR unknown command", Error::NodeRefused),
        ("-MOVED somewhere", Error::NodeRefused),
        ("-", Error::NodeRefused),
    ];
    let fake = Fake::start();
    let router = front(&fake);
    for (refusal, error) in refusals {
        fake.script("INCR", vec![line(refusal)]);
        assert_eq!(outcome(&send(&router, incr(), true)), Err(error), "{refusal}");
    }
}

#[test]
fn the_first_error_of_a_transaction_counts() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.on("INCR", move |_| Some(line(&format!("-MOVED 1 127.0.0.1:{port}"))));
    old.script("EXEC", vec![line("-EXECABORT Transaction discarded because of previous errors.")]);
    new.script("INCR", vec![line("+QUEUED")]);
    new.script("EXEC", vec![line("*1\r\n:1")]);
    let commands = Commands::default().with(&[b"MULTI"]).with(&[b"INCR", b"n"]).with(&[b"EXEC"]);
    let router = front(&old);
    old.tell(&[(0, 16383, port, 2)]);
    let replies = outcome(&send(&router, commands, true)).unwrap();
    assert_eq!(replies.last(), Some(&Reply::Many(vec![Reply::Integer(1)])));
    assert_eq!(old.asked("EXEC").len(), 1);
}
