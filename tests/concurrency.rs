//! Many clients at once, over HTTP, on every engine.

mod support;

use std::sync::Barrier;
use std::thread;
use support::engines;
use support::history::{Plan, bytes_of, number_of, record};
use support::http::Connection;
use support::linearizability::{Call, check, check_each_key};
use support::random::Random;
use support::server::Fixture;

#[test]
fn of_a_hundred_writers_one_wins_whole() {
    const WRITERS: usize = 100;
    const ROUNDS: usize = 3;
    for (engine, open) in engines::ENGINES {
        let server = Fixture::over(open());
        let start = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for writer in 0..WRITERS as u64 {
                let (server, start) = (&server, &start);
                scope.spawn(move || {
                    let mut connection = server.connect();
                    start.wait();
                    for _ in 0..ROUNDS {
                        assert_eq!(connection.put("/kv/key", &bytes_of(writer)).status(), 200);
                        let seen = connection.get("/kv/key");
                        assert_eq!(seen.status(), 200);
                        assert!(number_of(&seen.body) < WRITERS as u64);
                    }
                });
            }
        });
        let last = server.connect().get("/kv/key");
        assert!(number_of(&last.body) < WRITERS as u64, "{engine}");
    }
}

#[test]
fn every_writer_finds_its_own_keys() {
    const KEYS_EACH: u64 = 100;
    for (engine, open) in engines::ENGINES {
        let server = Fixture::over(open());
        thread::scope(|scope| {
            for writer in 0..8 {
                let server = &server;
                scope.spawn(move || {
                    let mut connection = server.connect();
                    for number in writer * KEYS_EACH..(writer + 1) * KEYS_EACH {
                        let put = connection.put(&format!("/kv/{number}"), &bytes_of(number));
                        assert_eq!(put.status(), 200);
                    }
                });
            }
        });
        let mut connection = server.connect();
        for number in 0..8 * KEYS_EACH {
            let got = connection.get(&format!("/kv/{number}"));
            assert_eq!(number_of(&got.body), number, "{engine}");
        }
    }
}

/// Performs calls on numbers as requests on a connection.
fn perform(mut connection: Connection) -> impl FnMut(Call) -> Option<u64> {
    move |call| {
        let answer = match call {
            Call::Get(key) => {
                let answer = connection.get(&format!("/kv/{key}"));
                if answer.status() == 404 {
                    assert_eq!(answer.text(), "key not found\n");
                    return None;
                }
                assert_eq!(answer.status(), 200);
                return Some(number_of(&answer.body));
            }
            Call::Set(key, number) => connection.put(&format!("/kv/{key}"), &bytes_of(number)),
            Call::Delete(key) => connection.call("DELETE", &format!("/kv/{key}")),
            Call::Clear => connection.call("DELETE", "/clear"),
        };
        assert_eq!((answer.status(), answer.text()), (200, ""), "{call:?}");
        None
    }
}

#[test]
fn each_key_is_linearizable() {
    let plan = Plan { clients: 8, calls: 400, keys: 5, clears_per_mille: 0 };
    for (engine, open) in engines::ENGINES {
        let server = Fixture::over(open());
        let history = record(plan, &Random::of_this_run(), || perform(server.connect()));
        check_each_key(&history).unwrap_or_else(|violation| panic!("{engine}: {violation}"));
    }
}

#[test]
fn clearing_is_one_moment_for_all_keys() {
    let plan = Plan { clients: 8, calls: 200, keys: 4, clears_per_mille: 100 };
    for (engine, open) in engines::ENGINES {
        let server = Fixture::over(open());
        let history = record(plan, &Random::of_this_run(), || perform(server.connect()));
        check(&history).unwrap_or_else(|violation| panic!("{engine}: {violation}"));
    }
}
