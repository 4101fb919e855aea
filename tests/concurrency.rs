//! Many clients at once, over HTTP, on every engine.

use crate::support::engines;
use crate::support::history::{Plan, bytes_of, number_of, record};
use crate::support::http::{Connection, Response, at_once, increment_at_once};
use crate::support::linearizability::{Call, check, check_each_key};
use crate::support::random::Random;
use crate::support::server::Fixture;

#[test]
fn of_a_hundred_writers_one_wins_whole() {
    const WRITERS: usize = 100;
    const ROUNDS: usize = 3;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        at_once(server.addr(), WRITERS, |writer, connection| {
            for _ in 0..ROUNDS {
                assert_eq!(connection.put("/kv/key", &bytes_of(writer as u64)).status(), 200);
                let seen = connection.get("/kv/key");
                assert_eq!(seen.status(), 200);
                assert!(number_of(&seen.body) < WRITERS as u64);
            }
        });
        let last = server.connect().get("/kv/key");
        assert!(number_of(&last.body) < WRITERS as u64, "{engine}");
    }
}

#[test]
fn every_writer_finds_its_own_keys() {
    const KEYS_EACH: u64 = 100;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        at_once(server.addr(), 8, |writer, connection| {
            for number in writer as u64 * KEYS_EACH..(writer as u64 + 1) * KEYS_EACH {
                let put = connection.put(&format!("/kv/{number}"), &bytes_of(number));
                assert_eq!(put.status(), 200);
            }
        });
        let mut connection = server.connect();
        for number in 0..8 * KEYS_EACH {
            let got = connection.get(&format!("/kv/{number}"));
            assert_eq!(number_of(&got.body), number, "{engine}");
        }
    }
}

#[test]
fn of_a_hundred_who_create_one_does() {
    const CREATORS: usize = 100;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let answers = at_once(server.addr(), CREATORS, |creator, connection| {
            let answer = connection.put("/kv/lock?create", &bytes_of(creator as u64));
            (creator as u64, answer)
        });
        let mut created =
            answers.iter().filter(|(_, answer)| answer.status() == 200).map(|(creator, _)| creator);
        let (first, others) = (created.next(), created.count());
        assert_eq!((first.is_some(), others), (true, 0), "{engine}");
        for (_, answer) in answers.iter().filter(|(_, answer)| answer.status() != 200) {
            assert_eq!((answer.status(), Some(&number_of(&answer.body))), (409, first), "{engine}");
        }
        assert_eq!(Some(&number_of(&server.connect().get("/kv/lock").body)), first, "{engine}");
    }
}

/// The only entity tag of an answer.
#[track_caller]
fn tag_of(answer: &Response) -> String {
    answer.header("ETag").expect("an answer that names the value").to_owned()
}

/// Stores a number under a key in place of the one that it gives, by reading
/// that and storing only if it is still there.
fn exchange(connection: &mut Connection, target: &str, number: u64) -> Option<u64> {
    loop {
        let seen = connection.get(target);
        let before = (seen.status() == 200).then(|| number_of(&seen.body));
        let condition = match before {
            Some(_) => format!("If-Match: {}", tag_of(&seen)),
            None => "If-None-Match: *".to_owned(),
        };
        let answer = connection.ask("PUT", target, &[&condition], &bytes_of(number));
        match (answer.status(), before) {
            (200, Some(_)) | (201, None) => return before,
            (412, _) => {}
            (other, _) => panic!("{other} for {condition}"),
        }
    }
}

/// The number that an answer gives, or none if there was none.
fn number_or_none(answer: &Response) -> Option<u64> {
    if answer.status() == 404 {
        assert_eq!(answer.text(), "key not found\n");
        return None;
    }
    assert_eq!(answer.status(), 200);
    Some(number_of(&answer.body))
}

/// Performs calls on numbers as requests on a connection, for keys with a prefix.
fn perform(mut connection: Connection, prefix: &str) -> impl FnMut(Call) -> Option<u64> {
    move |call| {
        let target = |key: usize| format!("/kv/{prefix}{key}");
        let answer = match call {
            Call::Get(key) => return number_or_none(&connection.get(&target(key))),
            Call::Take(key) => {
                let answer = connection.call("DELETE", &(target(key) + "?return"));
                return number_or_none(&answer);
            }
            Call::Exchange(key, number) => {
                return exchange(&mut connection, &target(key), number);
            }
            Call::Set(key, number) => connection.put(&target(key), &bytes_of(number)),
            Call::Delete(key) => connection.call("DELETE", &target(key)),
            Call::Clear => connection.call("DELETE", "/clear"),
            Call::GetBoth(_) | Call::ExchangeBoth(..) => unreachable!("they are not planned"),
        };
        assert_eq!((answer.status(), answer.text()), (200, ""), "{call:?}");
        None
    }
}

#[test]
fn each_key_is_linearizable() {
    let plan = Plan { clients: 8, calls: 400, keys: 5, clears_per_mille: 0, batches_per_mille: 0 };
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let history = record(plan, &Random::of_this_run(), || perform(server.connect(), ""));
        check_each_key(&history).unwrap_or_else(|violation| panic!("{engine}: {violation}"));
    }
}

#[test]
fn clearing_is_one_moment_for_all_keys() {
    let plan =
        Plan { clients: 8, calls: 200, keys: 4, clears_per_mille: 100, batches_per_mille: 0 };
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        // Of a cluster each slot is cleared at its own moment.
        let prefix = if *engine == "cluster" { "{slot}" } else { "" };
        let history = record(plan, &Random::of_this_run(), || perform(server.connect(), prefix));
        check(&history).unwrap_or_else(|violation| panic!("{engine}: {violation}"));
    }
}

#[test]
fn of_a_hundred_who_create_a_lock_one_does_and_the_others_are_told_whose_it_is() {
    const CLIENTS: usize = 100;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let answers = at_once(server.addr(), CLIENTS, |client, connection| {
            let name = format!("client {client}");
            connection.ask("PUT", "/kv/lock", &["If-None-Match: *"], name.as_bytes())
        });
        let created = |answer: &&Response| answer.status() == 201;
        let winners: Vec<_> = answers.iter().filter(created).map(tag_of).collect();
        let [tag] = &winners[..] else { panic!("{engine}: {} winners", winners.len()) };
        for answer in answers.iter().filter(|answer| answer.status() != 201) {
            assert_eq!((answer.status(), answer.text()), (412, "precondition failed\n"));
            assert_eq!(&tag_of(answer), tag, "{engine}");
        }
        let held = server.connect().get("/kv/lock");
        assert_eq!(&tag_of(&held), tag, "{engine}");
        let owner = answers.iter().position(|answer| answer.status() == 201);
        assert_eq!(held.text(), format!("client {}", owner.expect("a winner")), "{engine}");
    }
}

#[test]
fn a_thousand_increments_give_each_number_once() {
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let last = increment_at_once(engine, || server.connect(), 50, 20);
        assert_eq!(server.connect().get("/kv/number").text(), last.to_string());
    }
}

#[test]
fn what_many_append_is_whole_in_order_and_all_there() {
    const CLIENTS: usize = 16;
    const EACH: usize = 25;
    // From one that is held compact to a value that is not.
    let line = |client: usize, index: usize| {
        format!("{client} {index} {}\n", "x".repeat(1 + (client * EACH + index) % 97))
    };
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        at_once(server.addr(), CLIENTS, |client, connection| {
            for index in 0..EACH {
                let line = line(client, index);
                let answer = connection.ask("POST", "/kv/log?append", &[], line.as_bytes());
                assert_eq!(answer.status(), 200, "{}", answer.text());
            }
        });
        let log = server.connect().get("/kv/log");
        let mut next = [0; CLIENTS];
        for found in log.text().split_inclusive('\n') {
            let client = found.split(' ').next().and_then(|client| client.parse().ok());
            let client: usize = client.unwrap_or_else(|| panic!("{engine}: {found:?}"));
            assert_eq!(found, line(client, next[client]), "{engine}");
            next[client] += 1;
        }
        assert_eq!(next, [EACH; CLIENTS], "{engine}");
    }
}

#[test]
fn compare_and_set_loops_lose_no_update() {
    const CLIENTS: usize = 8;
    const EACH: usize = 10;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        assert_eq!(server.connect().put("/kv/list", b"start\n").status(), 200);
        let retries = at_once(server.addr(), CLIENTS, |client, connection| {
            let mut retries = 0;
            for index in 0..EACH {
                loop {
                    let seen = connection.get("/kv/list");
                    let condition = format!("If-Match: {}", tag_of(&seen));
                    let more = format!("{}{client}:{index}\n", seen.text());
                    let answer = connection.ask("PUT", "/kv/list", &[&condition], more.as_bytes());
                    if answer.status() == 200 {
                        break;
                    }
                    assert_eq!(answer.status(), 412, "{engine}");
                    retries += 1;
                }
            }
            retries
        });
        println!("{engine}: {} retries", retries.into_iter().sum::<usize>());
        let list = server.connect().get("/kv/list");
        let mut lines: Vec<&str> = list.text().lines().skip(1).collect();
        lines.sort_unstable();
        let all = (0..CLIENTS).flat_map(|client| (0..EACH).map(move |i| format!("{client}:{i}")));
        assert!(lines.into_iter().eq(all), "{engine}: {}", list.text());
    }
}

#[test]
fn of_many_who_pop_one_gets_the_value() {
    const CLIENTS: usize = 20;
    const ROUNDS: usize = 10;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        for round in 0..ROUNDS {
            let job = format!("job {round}");
            assert_eq!(server.connect().put("/kv/job", job.as_bytes()).status(), 200);
            let answers = at_once(server.addr(), CLIENTS, |_, connection| {
                connection.call("DELETE", "/kv/job?return")
            });
            let (got, missed): (Vec<_>, Vec<_>) =
                answers.iter().partition(|answer| answer.status() == 200);
            let [got] = got[..] else { panic!("{engine}: {} got it", got.len()) };
            assert_eq!(got.text(), job);
            for answer in missed {
                assert_eq!((answer.status(), answer.text()), (404, "key not found\n"));
            }
        }
    }
}
