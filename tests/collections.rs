//! The collection under many clients at once, over HTTP, on every engine. Keys that are
//! taken, or changed together, have a {tag}: they are in one slot of a cluster.

#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use crate::support::engines;
use crate::support::history::{Plan, bytes_of, number_of, record};
use crate::support::http::{Connection, Response, at_once};
use crate::support::linearizability::{Call, Saw, check};
use crate::support::random::Random;
use crate::support::server::Fixture;
use crate::support::threads::Ended;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Sends a batch; gives the lines of its answer.
#[track_caller]
fn batch(connection: &mut Connection, lines: &[Value]) -> Vec<Value> {
    let answer = try_batch(connection, lines);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let answers = answer.text().lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let answers: Vec<Value> = answers.collect();
    assert_eq!(answers.len(), lines.len(), "{answers:?}");
    answers
}

fn try_batch(connection: &mut Connection, lines: &[Value]) -> Response {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    connection.ask("POST", "/batch", &[], lines.join("\n").as_bytes())
}

fn put(key: &str, value: &str) -> Value {
    json!({"method": "PUT", "path": format!("/kv/{key}"), "value": value})
}

fn get(key: &str) -> Value {
    json!({"method": "GET", "path": format!("/kv/{key}")})
}

/// Stores many keys, each with its name for a value.
fn store_all(connection: &mut Connection, names: &[String]) {
    let line = |name: &String| json!({"key": name, "value": name}).to_string();
    let lines: Vec<String> = names.iter().map(line).collect();
    let answer = connection.ask("POST", "/import", &[], lines.join("\n").as_bytes());
    assert_eq!(answer.text(), format!("{}\n", names.len()));
}

/// Reads a list page by page, along the links to the next one.
#[track_caller]
fn pages(connection: &mut Connection, target: &str) -> Vec<String> {
    let (mut target, mut lines) = (target.to_owned(), Vec::new());
    loop {
        let page = connection.get(&target);
        assert_eq!(page.status(), 200, "{}", page.text());
        lines.extend(page.text().lines().map(str::to_owned));
        let Some(link) = page.header("Link") else { return lines };
        assert!(!page.body.is_empty(), "an empty page before the end");
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        next.unwrap_or_else(|| panic!("{link}")).clone_into(&mut target);
    }
}

/// A list holds each of these once, and all of it is in strict order.
#[track_caller]
fn holds_each_once(lines: &[String], mut expected: Vec<String>, is_reverse: bool) {
    if is_reverse {
        expected.reverse();
    }
    let is_sorted =
        lines.is_sorted_by(|one, other| if is_reverse { one > other } else { one < other });
    assert!(is_sorted, "{} lines, not in strict order", lines.len());
    let stable: BTreeSet<&String> = expected.iter().collect();
    let seen = lines.iter().filter(|line| stable.contains(line));
    assert!(seen.eq(&expected), "a stable key is not there once");
}

#[test]
fn lists_beside_writers_give_each_stable_key_once() {
    const GROUPS: usize = 1200;
    const WRITERS: usize = 2;
    let random = Random::of_this_run();
    let stable: Vec<String> = (0..GROUPS).map(|index| format!("g{index:04}/stable")).collect();
    let groups: Vec<String> = (0..GROUPS).map(|index| format!("g{index:04}/")).collect();
    for (_, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        store_all(&mut server.connect(), &stable);
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ended = Ended(&has_ended);
            for writer in 0..WRITERS {
                let (mut random, has_ended, server) = (random.fork(writer), &has_ended, &server);
                scope.spawn(move || {
                    let mut connection = server.connect();
                    while !has_ended.load(Ordering::Relaxed) {
                        let (group, name) = (random.below(GROUPS), random.one_of(&["a", "z"]));
                        let target = format!("/kv/g{group:04}/{name}");
                        let status = match random.below(2) {
                            0 => connection.call("DELETE", &target).status(),
                            _ => connection.put(&target, b"x").status(),
                        };
                        assert_eq!(status, 200);
                    }
                });
            }
            let mut connection = server.connect();
            for (more, is_reverse) in [("", false), ("&reverse", true)] {
                for limit in ["", "&limit=333", "&limit=1500"] {
                    let target = format!("/kv?prefix=g{more}{limit}");
                    let lines = pages(&mut connection, &target);
                    holds_each_once(&lines, stable.clone(), is_reverse);
                    let lines = pages(&mut connection, &(target + "&delimiter=/"));
                    holds_each_once(&lines, groups.clone(), is_reverse);
                }
            }
            let count = connection.get("/kv?prefix=g&count");
            assert!(count.text().trim_end().parse().is_ok_and(|count: usize| count >= GROUPS));
        });
    }
}

#[test]
fn of_64_who_take_jobs_one_gets_each_in_order() {
    const TAKERS: usize = 64;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let jobs = if *engine == "memory" { 10_000 } else { 2_000 };
        let names: Vec<String> = (0..jobs).map(|index| format!("{{job}}:{index:05}")).collect();
        store_all(&mut server.connect(), &names);
        let taken = at_once(server.addr(), TAKERS, |_, connection| {
            let mut own = Vec::new();
            loop {
                let answer = connection.call("DELETE", "/kv?take={job}:");
                if answer.status() == 404 {
                    assert_eq!(answer.text(), "key not found\n");
                    return own;
                }
                assert_eq!(answer.status(), 200, "{}", answer.text());
                let location = answer.header("Content-Location").expect("the key's path");
                let path = answer.text().replace("{job}", "/kv/%7Bjob%7D");
                assert_eq!(location, path, "{engine}");
                own.push(answer.text().to_owned());
            }
        });
        assert!(taken.iter().all(|own| own.is_sorted()), "{engine}: jobs in another order");
        let mut taken: Vec<String> = taken.into_iter().flatten().collect();
        taken.sort_unstable();
        assert!(taken == names, "{engine}: {} taken of {jobs}", taken.len());
        assert_eq!(server.connect().get("/kv?count").text(), "0\n");
    }
}

/// One of those who add, which leaves also where it fails.
struct Adder<'a>(&'a AtomicUsize);

impl Drop for Adder<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn jobs_that_many_add_are_taken_in_the_order_in_which_each_added_them() {
    const ADDERS: usize = 8;
    const EACH: usize = 100;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let left = AtomicUsize::new(ADDERS);
        // The even ones add, the odd ones take.
        let taken = at_once(server.addr(), 2 * ADDERS, |client, connection| {
            let mut own = Vec::new();
            if client % 2 == 0 {
                let _adder = Adder(&left);
                for number in 0..EACH {
                    let job = format!("{client} {number:03}");
                    let added = connection.ask("POST", "/kv?prefix={job}:", &[], job.as_bytes());
                    assert_eq!(added.status(), 201, "{}", added.text());
                    own.push(added.text().trim_end().to_owned());
                }
                assert!(own.is_sorted_by(|one, other| one < other), "{engine}: {own:?}");
                return Vec::new();
            }
            loop {
                let is_last = left.load(Ordering::SeqCst) == 0;
                let answer = connection.call("DELETE", "/kv?take={job}:");
                match answer.status() {
                    200 => own.push(answer.text().to_owned()),
                    404 if is_last => return own,
                    404 => thread::yield_now(),
                    other => panic!("{engine}: {other} {}", answer.text()),
                }
            }
        });
        for own in &taken {
            for adder in (0..2 * ADDERS).step_by(2) {
                let prefix = format!("{adder} ");
                let of_one: Vec<_> = own.iter().filter(|job| job.starts_with(&prefix)).collect();
                assert!(of_one.is_sorted(), "{engine}: {of_one:?}");
            }
        }
        let all: Vec<String> = taken.into_iter().flatten().collect();
        let each: BTreeSet<&String> = all.iter().collect();
        assert_eq!((all.len(), each.len()), (ADDERS * EACH, ADDERS * EACH), "{engine}");
    }
}

#[test]
fn two_keys_of_one_batch_never_differ() {
    const READERS: usize = 3;
    const ROUNDS: u64 = 300;
    for (engine, open) in engines::ENGINES.iter() {
        let server = Fixture::over(open());
        let has_ended = AtomicBool::new(false);
        let number = |answer: &Response| match answer.status() {
            404 => 0,
            _ => answer.text().parse::<u64>().expect("a number"),
        };
        at_once(server.addr(), 1 + READERS, |client, connection| {
            if client == 0 {
                let _ended = Ended(&has_ended);
                for round in 1..=ROUNDS {
                    let round = round.to_string();
                    batch(connection, &[put("{two}one", &round), put("{two}other", &round)]);
                }
                return;
            }
            let mut last = 0;
            while !has_ended.load(Ordering::Relaxed) {
                for name in ["one", "other"] {
                    let seen = number(&connection.get(&format!("/kv/{{two}}{name}")));
                    assert!(seen >= last, "{engine}: {name} is {seen} after {last} was seen");
                    last = seen;
                }
                let both = batch(connection, &[get("{two}other"), get("{two}one")]);
                assert_eq!(both[0]["value"], both[1]["value"], "{engine}");
                if *engine == "cluster" {
                    // The values of a page are read one by one.
                    continue;
                }
                let listed = connection.get("/kv?values");
                let values: Vec<Value> = listed
                    .text()
                    .lines()
                    .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["value"].clone())
                    .collect();
                let is_whole = matches!(&values[..], []) || matches!(&values[..], [a, b] if a == b);
                assert!(is_whole, "{engine}: {values:?}");
            }
        });
        assert_eq!(number(&server.connect().get("/kv/{two}one")), ROUNDS);
    }
}

/// Performs calls on numbers as batches on a connection.
fn perform(mut connection: Connection) -> impl FnMut(Call) -> Saw {
    let path = |key: usize| format!("/kv/{{slot}}{key}");
    let get = move |key: usize| json!({"method": "GET", "path": path(key)});
    let set = move |key: usize, number: u64| {
        let value = BASE64.encode(bytes_of(number));
        json!({"method": "PUT", "path": path(key), "base64": value})
    };
    let number = |answer: &Value| match answer["status"].as_u64() {
        Some(404) => None,
        Some(200) => {
            let text = answer["base64"].as_str().map(|text| BASE64.decode(text).expect("base64"));
            let text = text.or_else(|| answer["value"].as_str().map(Into::into));
            Some(number_of(&text.expect("a value")))
        }
        _ => panic!("{answer}"),
    };
    move |call| match call {
        Call::Get(key) => number(&batch(&mut connection, &[get(key)])[0]).into(),
        Call::GetBoth([one, other]) => {
            let answers = batch(&mut connection, &[get(one), get(other)]);
            Saw([number(&answers[0]), number(&answers[1])])
        }
        Call::Exchange(key, value) => {
            number(&batch(&mut connection, &[get(key), set(key, value)])[0]).into()
        }
        Call::ExchangeBoth([one, other], value) => {
            let lines = [get(one), get(other), set(one, value), set(other, value)];
            let answers = batch(&mut connection, &lines);
            Saw([number(&answers[0]), number(&answers[1])])
        }
        Call::Take(key) => {
            let delete = json!({"method": "DELETE", "path": format!("{}?return", path(key))});
            // Without a value to return there is nothing to delete, which refuses the batch.
            let answer = try_batch(&mut connection, &[delete]);
            if answer.status() == 404 {
                return Saw::default();
            }
            let line = serde_json::from_str(answer.text().trim_end()).expect("JSON");
            number(&line).into()
        }
        Call::Set(key, number) => {
            batch(&mut connection, &[set(key, number)]);
            Saw::default()
        }
        Call::Delete(key) => {
            batch(&mut connection, &[json!({"method": "DELETE", "path": path(key)})]);
            Saw::default()
        }
        Call::Clear => {
            assert_eq!(connection.call("DELETE", "/clear").status(), 200);
            Saw::default()
        }
    }
}

#[test]
fn batches_are_linearizable() {
    for (engine, open) in engines::ENGINES.iter() {
        for (keys, clears_per_mille) in [(2, 0), (3, 30)] {
            let server = Fixture::over(open());
            let plan =
                Plan { clients: 6, calls: 200, keys, clears_per_mille, batches_per_mille: 500 };
            let history = record(plan, &Random::of_this_run(), || perform(server.connect()));
            check(&history).unwrap_or_else(|violation| panic!("{engine}: {violation}"));
        }
    }
}
