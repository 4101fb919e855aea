//! Several threads that lead: whichever of them takes a request, each connection gets its
//! responses in order, and all of them end with the server.

#![cfg(all(target_os = "linux", not(portable)))]

use crate::support::engines;
use crate::support::http::{at_once, get_head, put_head, wait_until};
use crate::support::process::Process;
use crate::support::server::{Fixture, VALUE_BYTES_MAX};
use little_key_value::server::Config;
use std::collections::BTreeSet;
use std::fs;

const LEADERS: usize = 4;

/// The numbers of the threads that have led first.
fn leaders(process: &Process) -> BTreeSet<usize> {
    let names = process.tasks().filter_map(|task| fs::read_to_string(task.join("comm")).ok());
    names.filter_map(|name| name.trim_end().strip_prefix("lead-")?.parse().ok()).collect()
}

/// A server in memory and a durable one, each with several leaders.
fn servers() -> impl Iterator<Item = Fixture> {
    let config = Config { leaders: LEADERS, ..Fixture::config() };
    let storages = [engines::memory, engines::durable].into_iter();
    storages.map(move |open| Fixture::with(open(), VALUE_BYTES_MAX, &config))
}

#[test]
fn pipelined_requests_stay_in_order_under_several_leaders() {
    const CLIENTS: usize = 12;
    const ROUNDS: usize = 20;
    const PAIRS: usize = 12;
    for server in servers() {
        at_once(server.addr(), CLIENTS, |client, connection| {
            let key = format!("/kv/{client}");
            for round in 0..ROUNDS {
                let values = (0..PAIRS).map(|pair| format!("{client}:{round}:{pair}"));
                let pairs = values.clone().map(|value| {
                    let put = put_head(&key, value.len());
                    format!("{put}{value}{}", get_head(&key))
                });
                connection.send(pairs.collect::<String>());
                for value in values {
                    assert!(matches!(connection.response().status(), 200 | 201), "{value}");
                    assert_eq!(connection.response().text(), value);
                }
            }
        });
    }
}

/// The reading goes back and forth between the leaders and the threads of the connections.
#[test]
fn requests_in_pieces_stay_in_order_under_several_leaders() {
    const CLIENTS: usize = 12;
    const ROUNDS: usize = 40;
    // Some are too long to be there as a whole.
    const LENGTHS: [usize; 5] = [0, 10, 900, 5_000, 40_000];
    for server in servers() {
        at_once(server.addr(), CLIENTS, |client, connection| {
            let key = format!("/kv/{client}");
            for round in 0..ROUNDS {
                let number = client + round;
                let value = format!("{client}:{round}:") + &"x".repeat(LENGTHS[number % 5]);
                let put = put_head(&key, value.len());
                let pair = format!("{put}{value}{}", get_head(&key));
                // Whole, or in two pieces that end anywhere, or in many.
                let piece = [pair.len(), 1 + number * 37 % pair.len(), 1 + number % 300];
                for piece in pair.as_bytes().chunks(piece[round % 3]) {
                    connection.send(piece);
                }
                assert!(matches!(connection.response().status(), 200 | 201), "{number}");
                assert_eq!(connection.response().text(), value);
            }
        });
    }
}

#[test]
fn as_many_threads_lead_as_there_are_leaders() {
    for leading in [1, 3] {
        let process = Process::start(&["--leaders", &leading.to_string()]);
        let expected: BTreeSet<usize> = (0..leading).collect();
        // Each begins with the name of the thread that starts it.
        wait_until("each leader has a name", || leaders(&process) == expected);
        assert_eq!(process.connect().get("/healthz").status(), 200);
        process.signal("TERM");
        assert_eq!(process.end().0, Some(0));
    }
}
