//! Several fronts to one cluster, over HTTP: together they keep what one store promises.

use crate::support::cluster::{self, Turn};
use crate::support::history::{Plan, bytes_of, number_of, record};
use crate::support::http::{Connection, Response, at_once_over, increment_at_once};
use crate::support::linearizability::{Call, check_each_key};
use crate::support::random::Random;
use crate::support::server::Fixture;
use little_key_value::storage::Cluster;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fronts to a shared cluster. No other test has it meanwhile.
struct Fronts {
    // The fields are dropped in this order.
    all: Vec<Fixture>,
    _turn: Turn,
    next: AtomicUsize,
}

impl Fronts {
    /// So many; none where there is no server's program.
    fn start(count: usize) -> Option<Self> {
        if !cluster::is_there() {
            return None;
        }
        let turn = Turn::take();
        let front = |_| {
            let engine = Cluster::connect(&turn.servers().config()).expect("the nodes answer");
            Fixture::over(Arc::new(engine))
        };
        let all = (0..count).map(front).collect();
        Some(Self { all, _turn: turn, next: AtomicUsize::new(0) })
    }

    /// A connection to each front in turn.
    fn connect(&self) -> Connection {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.all.iter().cycle().nth(next % self.all.len()).expect("there are fronts").connect()
    }
}

/// The number that an answer gives, or none if there was none.
#[track_caller]
fn number_or_none(answer: &Response) -> Option<u64> {
    if answer.status() == 404 {
        assert_eq!(answer.text(), "key not found\n");
        return None;
    }
    assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
    Some(number_of(&answer.body))
}

/// Stores a number under a key in place of the one that it gives: it creates the key, or
/// stores only if the number that was read is still there.
fn exchange(connection: &mut Connection, key: usize, number: u64) -> Option<u64> {
    let target = format!("/kv/{key}");
    loop {
        let seen = connection.get(&target);
        let before = number_or_none(&seen);
        let condition = match before {
            Some(_) => format!("If-Match: {}", seen.header("ETag").expect("a value has one")),
            None => "If-None-Match: *".to_owned(),
        };
        let answer = connection.ask("PUT", &target, &[&condition], &bytes_of(number));
        match (answer.status(), before) {
            (200, Some(_)) | (201, None) => return before,
            (412, _) => {}
            (other, _) => panic!("{other} for {condition}: {}", answer.text()),
        }
    }
}

/// Performs calls on numbers as requests on a connection.
fn perform(mut connection: Connection) -> impl FnMut(Call) -> Option<u64> {
    move |call| {
        let answer = match call {
            Call::Get(key) => return number_or_none(&connection.get(&format!("/kv/{key}"))),
            Call::Take(key) => {
                let answer = connection.call("DELETE", &format!("/kv/{key}?return"));
                return number_or_none(&answer);
            }
            Call::Exchange(key, number) => return exchange(&mut connection, key, number),
            Call::Set(key, number) => connection.put(&format!("/kv/{key}"), &bytes_of(number)),
            Call::Delete(key) => connection.call("DELETE", &format!("/kv/{key}")),
            Call::Clear | Call::GetBoth(_) | Call::ExchangeBoth(..) => {
                unreachable!("they are not planned")
            }
        };
        assert_eq!((answer.status(), answer.text()), (200, ""), "{call:?}");
        None
    }
}

fn each_key_is_linearizable(fronts: usize) {
    let plan = Plan { clients: 8, calls: 300, keys: 6, clears_per_mille: 0, batches_per_mille: 0 };
    let Some(fronts) = Fronts::start(fronts) else { return };
    let history = record(plan, &Random::of_this_run(), || perform(fronts.connect()));
    check_each_key(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn each_key_is_linearizable_through_one_front() {
    each_key_is_linearizable(1);
}

#[test]
fn each_key_is_linearizable_through_two_fronts() {
    each_key_is_linearizable(2);
}

#[test]
fn of_a_hundred_who_create_a_lock_through_two_fronts_one_does() {
    const CLIENTS: usize = 100;
    let Some(fronts) = Fronts::start(2) else { return };
    for round in 0..3 {
        let target = format!("/kv/lock:{round}");
        let answers = at_once_over(
            || fronts.connect(),
            CLIENTS,
            |client, connection| {
                connection.ask("PUT", &target, &["If-None-Match: *"], &bytes_of(client as u64))
            },
        );
        let created: Vec<u64> = (0..)
            .zip(&answers)
            .filter(|(_, answer)| answer.status() == 201)
            .map(|it| it.0)
            .collect();
        let [winner] = created[..] else { panic!("{created:?} have created it") };
        for answer in answers.iter().filter(|answer| answer.status() != 201) {
            assert_eq!((answer.status(), answer.text()), (412, "precondition failed\n"));
        }
        for front in &fronts.all {
            assert_eq!(number_or_none(&front.connect().get(&target)), Some(winner));
        }
    }
}

#[test]
fn a_thousand_increments_through_two_fronts_give_each_number_once() {
    let Some(fronts) = Fronts::start(2) else { return };
    let last = increment_at_once("two fronts", || fronts.connect(), 50, 20);
    for front in &fronts.all {
        assert_eq!(front.connect().get("/kv/number").text(), last.to_string());
    }
}

#[test]
fn what_one_front_has_acknowledged_the_other_reads() {
    let Some(fronts) = Fronts::start(2) else { return };
    let [one, other] = &fronts.all[..] else { unreachable!("there are two") };
    at_once_over(
        || fronts.connect(),
        4,
        |client, _| {
            let (mut one, mut other) = (one.connect(), other.connect());
            for number in 0..50 {
                let target = format!("/kv/{client}:{number}");
                assert_eq!(one.put(&target, &bytes_of(number)).status(), 200);
                assert_eq!(number_or_none(&other.get(&target)), Some(number));
                assert_eq!(other.call("DELETE", &target).status(), 200);
                assert_eq!(number_or_none(&one.get(&target)), None);
            }
        },
    );
}
