//! The program's threads: their names, as `top -H` shows them, and the memory of those that
//! wait for a client.

#![cfg(target_os = "linux")]

use crate::support::http::{Connection, get_head, has_read_everything, wait_until};
use crate::support::place::Place;
use crate::support::process::Process;
use std::collections::BTreeMap;
use std::fs;
use std::iter;

/// The longest name that the system shows.
const NAME_BYTES_MAX: usize = 15;

/// The program's own name, cut.
const PROGRAM: &str = "little-key-valu";

/// The work of a thread by its name, of which a hyphen and a number are no part.
const NUMBERED: [&str; 8] =
    ["accept", "lead", "worker", "sender", "reader", "walker", "memory", "changes"];

/// Those that are there once each.
const ALONE: [&str; 12] = [
    PROGRAM,
    "jemalloc_bg_thd",
    "standard output",
    "standard error",
    "ctrl-c",
    "hangup",
    "watchdog",
    "committer",
    "sweeper",
    "waiters",
    "token-file",
    "closer",
];

/// Those of many threads with the same work.
const SHARED: [&str; 4] = ["connection", "fjall:worker", "compactor", "remover"];

/// Some that neither engine does without, under any load.
const EXPECTED: [&str; 10] = [
    "accept-0",
    "connection",
    "lead-0",
    "worker-0",
    "worker-3",
    "sender-0",
    "watchdog",
    "waiters",
    "changes-0",
    "standard output",
];

/// The number of threads by name.
fn names(process: &Process) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    // A thread that has ended meanwhile has no name.
    for task in process.tasks() {
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        let name = name.strip_suffix('\n').expect("the system adds a line's end").to_owned();
        *names.entry(name).or_default() += 1;
    }
    names
}

fn is_numbered(name: &str) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(work, number)| NUMBERED.contains(&work) && number.parse::<usize>().is_ok())
}

/// Each name says the work of its thread, and no two threads with different work have the
/// same.
fn tells_threads_apart(names: &BTreeMap<String, usize>) -> bool {
    let is_known = |name: &str, threads: usize| {
        SHARED.contains(&name) || threads == 1 && (ALONE.contains(&name) || is_numbered(name))
    };
    names.iter().all(|(name, threads)| is_known(name, *threads))
}

/// Requests of every kind: each thread that is started for one is there afterwards, or while
/// the connection is.
fn ask(connection: &mut Connection, client: usize) {
    for round in 0..10 {
        let key = format!("/kv/{client}:{round}");
        assert_eq!(connection.put(&format!("{key}?ttl=1h"), b"value").status(), 200);
        assert_eq!(connection.get(&key).text(), "value");
        assert_eq!(connection.get(&format!("/kv/absent:{client}")).status(), 404);
    }
    assert_eq!(connection.put("/kv/large", &vec![b'x'; 1 << 20]).status(), 200);
    assert_eq!(connection.get("/kv/large").status(), 200);
    assert_eq!(connection.get("/kv?values&limit=10").status(), 200);
    assert_eq!(connection.get("/kv?count").status(), 200);
    assert_eq!(connection.call("DELETE", &format!("/kv?prefix={client}:")).status(), 200);
    assert_eq!(connection.get("/watch?wait=1ms").status(), 200);
    assert_eq!(connection.get("/kv/absent?wait=1ms").status(), 404);
}

#[track_caller]
fn has_names(process: &Process, more: &[&str]) {
    const CLIENTS: usize = 50;
    let mut idle: Vec<_> = (0..CLIENTS).map(|_| process.connect()).collect();
    for (client, connection) in idle.iter_mut().enumerate() {
        ask(connection, client);
    }
    assert_eq!(process.connect().call("DELETE", "/clear").status(), 200);
    // All at once, so that there are more threads than before.
    let mut busy: Vec<_> = (0..CLIENTS).map(|_| process.connect()).collect();
    for connection in &mut busy {
        connection.send(get_head("/kv/absent?wait=10m"));
    }
    let mut found = BTreeMap::new();
    // A thread begins with the name of the one that starts it.
    wait_until("every thread has a name of its own", || {
        found = names(process);
        println!("{found:?}");
        tells_threads_apart(&found) && found.get("connection") >= Some(&(2 * CLIENTS))
    });
    for name in EXPECTED.iter().chain(more) {
        assert!(found.contains_key(*name), "{name} in {found:?}");
    }
    let known = ALONE.iter().chain(&SHARED).chain(iter::once(&"worker-1000000"));
    for name in known {
        assert!(name.len() <= NAME_BYTES_MAX, "{name}");
    }
}

#[test]
fn each_thread_is_called_by_its_work() {
    // On a busy machine each client waits long for its turn.
    let workers = ["--workers", "4", "--idle-timeout", "10m"];
    has_names(&Process::start(&workers), &["memory-0", "sweeper"]);
    let place = Place::new();
    let [flag, path] = place.arguments();
    let durable = Process::start(&[&workers[..], &[&flag, &path]].concat());
    has_names(&durable, &["committer", "reader-0", "walker-0", "fjall:worker"]);
}

#[test]
fn the_thread_that_looks_at_the_tokens_has_a_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, "a-token-of-a-test\n").expect("a file");
    let process = Process::start(&["--token-file", tokens.to_str().expect("a plain name")]);
    wait_until("every thread has a name of its own", || {
        let found = names(&process);
        tells_threads_apart(&found) && found.contains_key("token-file")
    });
}

/// A connection costs a thread. Where its client has nothing to say, that gives back most of
/// its memory, and serves it as before once it says something.
#[cfg(not(portable))]
#[test]
fn a_connection_that_is_quiet_holds_little_memory() {
    const CLIENTS: usize = 400;
    const FALL_KIB_EACH: usize = 8;
    let process = Process::start(&["--idle-timeout", "10m", "--request-timeout", "10m"]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| process.connect()).collect();
    for round in 0..2 {
        let mut values = Vec::new();
        for (client, connection) in clients.iter_mut().enumerate() {
            let key = format!("/kv/{client}");
            let value = format!("value {round} of {client}");
            assert_eq!(connection.put(&key, value.as_bytes()).status(), 200, "{key}");
            // Whoever has begun is not quiet, however long the others take.
            connection.send("GET ");
            values.push(value);
        }
        wait_until("all have begun", || has_read_everything(process.addr()));
        let highest = process.memory_kib("RssAnon");
        for (client, (connection, value)) in clients.iter_mut().zip(values).enumerate() {
            connection.send(format!("/kv/{client} HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert_eq!(connection.response().text(), value);
        }
        wait_until("they have given it back", || {
            let resident = process.memory_kib("RssAnon");
            println!("{highest} KiB at most, {resident} KiB now");
            resident + (FALL_KIB_EACH * CLIENTS) as u64 <= highest
        });
    }
}
