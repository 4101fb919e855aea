//! A front whose cluster fails in parts, over HTTP.
//!
//! While nodes are killed, stopped or filled, clients on all slots ask on. Each answer has
//! to come in time and to be true: 503 was not done, 504 may have been done. Each key of
//! a client's own has to be as it last knew it, and each counter has to end between what
//! was acknowledged and that and the increments with 504.

#![cfg(unix)]
#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use crate::support::cluster::{self, Node, Reply, Servers};
use crate::support::history::{Plan, Told, bytes_of, number_of, record};
use crate::support::http::{Connection, Response, has_read_everything, put_head, wait_until};
use crate::support::linearizability::{Call, Saw, check_each_key};
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::server::Fixture;
use crate::support::threads::Ended;
use little_key_value::storage::{Cluster, ClusterConfig, Seed};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The bound for each answer is 5.5 s. Of a machine that does much else more is taken,
/// though less than of one that hangs.
const ANSWER: Duration = Duration::from_secs(20);

/// The bound for the return of slots whose master is lost is the cluster's own time to
/// give up a node, 2 s, and 3 s more; and the same is to be said of a busy machine.
const BACK: Duration = Duration::from_secs(2 + 3 + 25);

const CLIENTS: usize = 8;
const COUNTERS: usize = 12;
const KEYS_EACH: usize = 6;

/// Between two requests of a client, so that the load leaves the machine to others.
const PAUSE: Duration = Duration::from_millis(3);

const DOWN: &str = "not done: the cluster does not answer\n";
const TOO_FEW: &str = "not done: too few replicas are connected\n";
const PERHAPS: &str = "the cluster has not confirmed it: it may have been done\n";
const FULL: &str = "storage is full\n";

/// What becomes of acknowledged writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// All are kept.
    All,
    /// Those that were on no replica are lost with their master.
    Replicated,
}

/// A cluster of a test's own, and fronts to it.
struct Stage {
    // The fields are dropped in this order.
    fronts: Vec<Fixture>,
    servers: Servers,
}

impl Stage {
    /// A front whose writes wait for so many replicas; none where there is no server's
    /// program.
    fn waiting_for(replicas: usize) -> Option<Self> {
        Self::of_fronts(1, replicas)
    }

    fn of_fronts(count: usize, replicas: usize) -> Option<Self> {
        if !cluster::is_there() {
            return None;
        }
        let servers = Servers::start();
        let config = ClusterConfig { replicas, ..servers.config() };
        let front = |_| Fixture::over(Arc::new(Cluster::connect(&config).expect("they answer")));
        Some(Self { fronts: (0..count).map(front).collect(), servers })
    }

    fn connect(&self) -> Connection {
        self.connect_as(0)
    }

    /// A connection of a client: to each front in turn.
    fn connect_as(&self, client: usize) -> Connection {
        let front = self.fronts.iter().cycle().nth(client % self.fronts.len());
        front.expect("there is a front").connect()
    }

    /// The master of a key, and its replica.
    fn nodes_of(&self, key: &str) -> (&Node, &Node) {
        let master = self.servers.master_of(key);
        (master, self.servers.replica_of(master))
    }

    /// Waits until the slot of a key is written to, in the time that it may take since the
    /// loss of its master.
    #[track_caller]
    fn expect_back(&self, key: &str, lost: Instant) {
        let target = format!("/kv/back:{{{key}}}");
        let mut connection = self.connect();
        while connection.put(&target, b"back").status() != 200 {
            assert!(lost.elapsed() < BACK, "its slots are not written to");
        }
        let taken = lost.elapsed();
        println!("written to again after {taken:?}");
        assert!(taken < BACK, "its slots are written to after {taken:?}");
    }

    /// Has clients ask while something happens to the cluster, which is well again in the
    /// end, and judges all that they were told. The further answers to writes are right too.
    fn under_load(&self, kept: Kept, further: &[(u16, &str)], event: impl FnOnce(&Notes)) -> Notes {
        let notes = Notes::default();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let ends = Ended(&ended);
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (notes, ended) = (&notes, &ended);
                    let connection = self.connect_as(number);
                    let mut client = Client::new(number, connection, kept, further, notes);
                    scope.spawn(move || {
                        while !ended.load(Ordering::Relaxed) {
                            client.ask();
                            thread::sleep(PAUSE);
                        }
                        client
                    })
                })
                .collect();
            wait_until("the load is under way", || notes.count(200) > 10 * CLIENTS);
            event(&notes);
            // What comes of it shows in some answers more.
            let before = notes.count(200);
            wait_until("the load goes on", || notes.count(200) > before + 10 * CLIENTS);
            drop(ends);
            for client in clients {
                client.join().expect("each answer is right").check_all();
            }
        });
        self.check_counters(kept, &notes);
        notes
    }

    fn check_counters(&self, kept: Kept, notes: &Notes) {
        let mut connection = self.connect();
        let counters = notes.counters.lock().expect("nobody panics with it");
        for (number, increments) in &*counters {
            let answer = connection.get(&format!("/kv/count:{number}"));
            let end: usize = match answer.status() {
                404 => 0,
                200 => answer.text().parse().expect("a number"),
                other => panic!("{other}: {}", answer.text()),
            };
            let Increments { done, perhaps } = increments;
            assert!(end <= done + perhaps, "counter {number} is {end}: {done} and {perhaps}");
            if kept == Kept::All {
                assert!(end >= *done, "counter {number} is {end}: {done} and {perhaps}");
            }
        }
        println!("{:?}, the slowest after {:?}", notes.answers, notes.slowest);
    }
}

/// What all clients were told.
#[derive(Default)]
struct Notes {
    answers: Mutex<BTreeMap<u16, usize>>,
    counters: Mutex<BTreeMap<usize, Increments>>,
    slowest: Mutex<Duration>,
}

/// The increments of a counter.
#[derive(Clone, Copy, Default)]
struct Increments {
    done: usize,
    perhaps: usize,
}

impl Notes {
    /// The answers of a status.
    fn count(&self, status: u16) -> usize {
        self.answers.lock().expect("nobody panics with it").get(&status).copied().unwrap_or(0)
    }
}

/// One that counts up what all count up, and writes and reads keys of its own.
struct Client<'a> {
    number: usize,
    connection: Connection,
    kept: Kept,
    further: &'a [(u16, &'a str)],
    notes: &'a Notes,
    random: Random,
    /// The numbers that may be under each of its keys.
    may_be: Vec<Vec<Option<u64>>>,
    next: u64,
}

impl<'a> Client<'a> {
    fn new(
        number: usize,
        connection: Connection,
        kept: Kept,
        further: &'a [(u16, &'a str)],
        notes: &'a Notes,
    ) -> Self {
        let random = Random::of_this_run().fork(number);
        let may_be = vec![vec![None]; KEYS_EACH];
        Self { number, connection, kept, further, notes, random, may_be, next: 1 }
    }

    fn ask(&mut self) {
        let key = self.random.below(KEYS_EACH);
        match self.random.below(4) {
            0 => self.count(),
            1 => self.put(key),
            _ => self.get(key),
        }
    }

    fn count(&mut self) {
        let counter = self.random.below(COUNTERS);
        let target = format!("/kv/count:{counter}?incr");
        let answer = self.answer(true, |connection| connection.call("POST", &target));
        let mut counters = self.notes.counters.lock().expect("nobody panics with it");
        let increments = counters.entry(counter).or_default();
        match answer.status() {
            200 => increments.done += 1,
            504 => increments.perhaps += 1,
            _ => {}
        }
    }

    fn put(&mut self, key: usize) {
        let number = self.next;
        self.next += 1;
        let target = self.target(key);
        let value = bytes_of(number);
        let answer = self.answer(true, |connection| connection.put(&target, &value));
        let may_be = &mut self.may_be[key];
        match answer.status() {
            200 => {
                // Without replicas an older one may come back.
                if self.kept == Kept::All {
                    may_be.clear();
                }
                may_be.push(Some(number));
            }
            504 => may_be.push(Some(number)),
            _ => {}
        }
    }

    fn get(&mut self, key: usize) {
        let target = self.target(key);
        let answer = self.answer(false, |connection| connection.get(&target));
        let found = match answer.status() {
            200 => Some(number_of(&answer.body)),
            404 => None,
            _ => return,
        };
        let may_be = &self.may_be[key];
        assert!(may_be.contains(&found), "{target} is {found:?} and not of {may_be:?}");
    }

    fn target(&self, key: usize) -> String {
        format!("/kv/own:{}:{key}", self.number)
    }

    /// The answer to a request, which came in time and is one of those there may be.
    fn answer(
        &mut self,
        is_write: bool,
        ask: impl FnOnce(&mut Connection) -> Response,
    ) -> Response {
        let begun = Instant::now();
        let answer = ask(&mut self.connection);
        let taken = begun.elapsed();
        let status = answer.status();
        let is_right = match status {
            200 => true,
            404 => !is_write,
            503 => answer.text() == DOWN || answer.text() == TOO_FEW,
            504 => is_write && answer.text() == PERHAPS,
            _ => false,
        };
        let is_further = || is_write && self.further.contains(&(status, answer.text()));
        assert!(is_right || is_further(), "{status} {:?}", String::from_utf8_lossy(&answer.body));
        assert!(taken < ANSWER, "{status} after {taken:?}");
        let mut slowest = self.notes.slowest.lock().expect("nobody panics with it");
        *slowest = taken.max(*slowest);
        *self.notes.answers.lock().expect("nobody panics").entry(status).or_default() += 1;
        answer
    }

    /// Reads all of its keys, of which the cluster answers each.
    fn check_all(&mut self) {
        for key in 0..KEYS_EACH {
            self.get(key);
        }
    }
}

#[test]
fn a_killed_master_is_replaced() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (master, heir) = stage.nodes_of("count:0");
    stage.under_load(Kept::Replicated, &[], |_| {
        let lost = Instant::now();
        master.kill();
        stage.expect_back("count:0", lost);
        assert!(heir.is_master());
        master.restart();
        stage.servers.wait_until_well();
    });
}

#[test]
fn a_killed_master_loses_nothing_that_a_replica_had_to_have() {
    let Some(stage) = Stage::waiting_for(1) else { return };
    let (master, heir) = stage.nodes_of("count:0");
    stage.under_load(Kept::All, &[], |notes| {
        master.kill();
        wait_until("its replica takes its place", || heir.is_master());
        // It has no replica of its own now.
        let before = notes.count(503);
        wait_until("writes are not done", || notes.count(503) > before + CLIENTS);
        let mut connection = stage.connect();
        let refused = connection.put("/kv/back:{count:0}", b"back");
        assert_eq!((refused.status(), refused.text()), (503, TOO_FEW));
        assert_eq!(connection.get("/kv/back:{count:0}").status(), 404);
        let lost = Instant::now();
        master.restart();
        stage.expect_back("count:0", lost);
        stage.servers.wait_until_well();
    });
}

#[test]
fn a_stopped_master_is_replaced_and_gives_way_as_it_goes_on() {
    let Some(stage) = Stage::waiting_for(1) else { return };
    let (master, heir) = stage.nodes_of("count:0");
    stage.under_load(Kept::All, &[], |_| {
        master.stop();
        wait_until("its replica takes its place", || heir.is_master());
        let lost = Instant::now();
        master.go_on();
        stage.expect_back("count:0", lost);
        stage.servers.wait_until_well();
        assert!(!master.is_master());
    });
}

#[test]
fn a_stopped_master_that_nothing_has_to_be_on_a_replica_of_is_replaced() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (master, _) = stage.nodes_of("count:0");
    stage.under_load(Kept::Replicated, &[], |_| {
        let lost = Instant::now();
        master.stop();
        stage.expect_back("count:0", lost);
        master.go_on();
        stage.servers.wait_until_well();
    });
}

#[test]
fn a_master_that_pauses_does_late_what_may_have_been_done() {
    let Some(stage) = Stage::waiting_for(1) else { return };
    let (master, heir) = stage.nodes_of("count:0");
    let notes = stage.under_load(Kept::All, &[], |notes| {
        master.stop();
        // It is cut off before the cluster gives it up.
        wait_until("writes may have been done", || notes.count(504) > 0);
        master.go_on();
        stage.expect_back("count:0", Instant::now());
        stage.servers.wait_until_well();
    });
    assert!(notes.count(504) > 0);
    println!("its replica took its place: {}", heir.is_master());
}

#[test]
fn a_planned_failover_loses_nothing() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (_, heir) = stage.nodes_of("count:0");
    stage.under_load(Kept::All, &[], |_| {
        let begun = Instant::now();
        assert_eq!(heir.command(&["CLUSTER", "FAILOVER"]), Reply::ok());
        wait_until("it is a master", || heir.is_master());
        stage.expect_back("count:0", begun);
        stage.servers.wait_until_well();
    });
}

#[test]
fn slots_move_under_load() {
    const SLOTS: u16 = 100;
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (from, _) = stage.nodes_of("count:0");
    let to = *stage.servers.masters().iter().find(|node| node.addr() != from.addr()).expect("two");
    let slot_of = |key: String| {
        let Reply::Integer(slot) = from.command(&["CLUSTER", "KEYSLOT", &key]) else {
            unreachable!("it is a number")
        };
        u16::try_from(slot).expect("a slot")
    };
    let counters = (0..COUNTERS).map(|counter| slot_of(format!("count:{counter}")));
    let own = (0..CLIENTS * KEYS_EACH)
        .map(|index| slot_of(format!("own:{}:{}", index / KEYS_EACH, index % KEYS_EACH)));
    let first = slot_of("count:0".to_owned()) / SLOTS * SLOTS;
    let mut slots: Vec<u16> = counters.chain(own).chain(first..first + SLOTS).collect();
    slots.retain(|slot| stage.servers.master_of_slot(*slot).addr() == from.addr());
    slots.sort_unstable();
    slots.dedup();
    stage.under_load(Kept::All, &[], |_| {
        for slot in &slots {
            move_slot(&stage.servers, from, to, *slot, || {});
        }
        let mut connection = stage.connect();
        let slot = slot_of("half".to_owned());
        let (from, to) = match stage.servers.master_of_slot(slot) {
            owner if owner.addr() == to.addr() => (to, from),
            owner => (owner, to),
        };
        assert_eq!(connection.put("/kv/half", b"1").status(), 200);
        move_slot(&stage.servers, from, to, slot, || {
            // Both have a part of it: its old master sends on who asks for what has moved.
            assert_eq!(connection.get("/kv/half").text(), "1");
            assert_eq!(connection.call("POST", "/kv/half?incr").text(), "2\n");
            assert_eq!(connection.put("/kv/new:{half}", b"new").status(), 200);
            assert_eq!(connection.call("DELETE", "/kv/new:{half}?return").text(), "new");
            assert_eq!(connection.get("/kv/new:{half}").status(), 404);
        });
        assert_eq!(connection.get("/kv/half").text(), "2");
    });
    assert_eq!(stage.servers.master_of("count:0").addr(), to.addr());
}

/// Moves a slot with its keys, as `redis-cli --cluster reshard` does; something happens
/// once the keys have moved, and the slot not.
fn move_slot(servers: &Servers, from: &Node, to: &Node, slot: u16, meanwhile: impl FnOnce()) {
    let id_of = |node: &Node| node.command(&["CLUSTER", "MYID"]).into_text().expect("a text");
    let (slot, port) = (slot.to_string(), to.addr().port().to_string());
    let set = |node: &Node, words: &[&str]| {
        let words = [&["CLUSTER", "SETSLOT", &slot], words].concat();
        assert_eq!(node.command(&words), Reply::ok());
    };
    let (from_id, to_id) = (id_of(from), id_of(to));
    set(to, &["IMPORTING", &from_id]);
    set(from, &["MIGRATING", &to_id]);
    loop {
        let Reply::Many(keys) = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]) else {
            unreachable!("there are several")
        };
        if keys.is_empty() {
            break;
        }
        let keys: Vec<String> = keys.into_iter().filter_map(Reply::into_text).collect();
        let keys = keys.iter().map(String::as_str);
        let words = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        let words: Vec<&str> = words.into_iter().chain(keys).collect();
        let moved = from.command(&words).into_text().expect("a text");
        assert!(["OK", "NOKEY"].contains(&moved.as_str()), "{moved}");
    }
    meanwhile();
    let others = servers.masters().into_iter();
    let others = others.filter(|node| ![from.addr(), to.addr()].contains(&node.addr()));
    for node in [to, from].into_iter().chain(others) {
        set(node, &["NODE", &to_id]);
    }
}

#[test]
fn without_a_majority_nothing_is_done_and_then_all_is_back() {
    let Some(stage) = Stage::waiting_for(1) else { return };
    let masters = stage.servers.masters();
    let lost = masters.get(..2).expect("there are three");
    stage.under_load(Kept::All, &[], |notes| {
        for master in lost {
            master.stop();
        }
        wait_until("the cluster is down", || notes.count(503) >= CLIENTS);
        assert_eq!(stage.connect().get("/kv/count:0").text(), DOWN);
        let back = Instant::now();
        for master in lost {
            master.go_on();
        }
        for counter in 0..COUNTERS {
            stage.expect_back(&format!("count:{counter}"), back);
        }
        stage.servers.wait_until_well();
    });
}

#[test]
fn killed_masters_that_come_back_without_their_data_are_counted_up_anew() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let masters = stage.servers.masters();
    let lost = masters.get(..2).expect("there are three");
    stage.under_load(Kept::Replicated, &[], |notes| {
        for master in lost {
            master.kill();
        }
        wait_until("the cluster is down", || notes.count(503) >= CLIENTS);
        let back = Instant::now();
        for master in lost {
            master.restart();
        }
        for counter in 0..COUNTERS {
            stage.expect_back(&format!("count:{counter}"), back);
        }
        stage.servers.wait_until_well();
    });
}

#[test]
fn slots_without_any_node_cost_no_request_more_than_its_time() {
    let Some(stage) = Stage::waiting_for(1) else { return };
    let (master, replica) = stage.nodes_of("count:0");
    stage.under_load(Kept::All, &[], |notes| {
        // Both accept connections, and never answer.
        let mut connection = stage.connect();
        replica.stop();
        master.stop();
        for what in ["what was sent", "what comes later"] {
            let begun = Instant::now();
            let answer = connection.put("/kv/back:{count:0}", b"back");
            assert!([503, 504].contains(&answer.status()), "{what}: {}", answer.status());
            assert!(begun.elapsed() < ANSWER, "{what}");
        }
        wait_until("its slots are not served", || notes.count(503) >= CLIENTS);
        let back = Instant::now();
        master.go_on();
        replica.go_on();
        stage.expect_back("count:0", back);
        stage.servers.wait_until_well();
    });
}

#[test]
fn the_last_in_line_for_a_key_waits_no_longer_than_the_first() {
    const WRITERS: usize = 64;
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (master, replica) = stage.nodes_of("hot");
    let ended = AtomicBool::new(false);
    let down = AtomicUsize::new(0);
    let ask_on = |writer: usize| {
        let mut connection = stage.connect();
        let mut ask = || match writer % 4 {
            0 => connection.put("/kv/hot", b"0"),
            1 => {
                let line = br#"{"method": "POST", "path": "/kv/hot?incr"}"#;
                connection.ask("POST", "/batch", &[], line)
            }
            _ => connection.call("POST", "/kv/hot?incr"),
        };
        while !ended.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = ask();
            let taken = begun.elapsed();
            assert!([200, 503, 504].contains(&answer.status()), "{}", answer.text());
            assert!(taken < ANSWER, "{} after {taken:?}", answer.status());
            if answer.status() != 200 {
                down.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        let _ended = Ended(&ended);
        for writer in 0..WRITERS {
            let ask_on = &ask_on;
            scope.spawn(move || ask_on(writer));
        }
        replica.stop();
        master.stop();
        wait_until("nobody is served", || down.load(Ordering::Relaxed) >= 2 * WRITERS);
        let back = Instant::now();
        master.go_on();
        replica.go_on();
        stage.expect_back("hot", back);
    });
}

#[test]
fn scripts_that_nodes_forget_are_loaded_again() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let notes = stage.under_load(Kept::All, &[], |notes| {
        for _ in 0..30 {
            let before = notes.count(200);
            for master in stage.servers.masters() {
                assert_eq!(master.command(&["SCRIPT", "FLUSH"]), Reply::ok());
            }
            wait_until("the load goes on", || notes.count(200) > before + CLIENTS);
        }
    });
    let statuses = notes.answers.lock().expect("nobody panics").keys().copied().collect::<Vec<_>>();
    assert_eq!(statuses, [200, 404]);
}

#[test]
fn a_full_node_takes_no_writes_and_keeps_what_it_has() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (master, _) = stage.nodes_of("count:0");
    let mut connection = stage.connect();
    assert_eq!(connection.put("/kv/kept:{count:0}", b"kept").status(), 200);
    stage.under_load(Kept::All, &[(507, FULL)], |notes| {
        assert_eq!(master.command(&["CONFIG", "SET", "maxmemory", "1"]), Reply::ok());
        wait_until("it is full", || notes.count(507) > 2 * CLIENTS);
        let full = |answer: Response| assert_eq!((answer.status(), answer.text()), (507, FULL));
        full(connection.put("/kv/new:{count:0}", b"new"));
        full(connection.put("/kv/kept:{count:0}", b"other"));
        full(connection.call("POST", "/kv/number:{count:0}?incr"));
        assert_eq!(connection.get("/kv/kept:{count:0}").text(), "kept");
        // Its expiry needs no room.
        assert_eq!(connection.call("POST", "/kv/kept:{count:0}?ttl=1h").status(), 200);
        assert!(connection.get("/kv/kept:{count:0}").header("TTL").is_some());
        assert_eq!(connection.get("/kv/new:{count:0}").status(), 404);
        assert_eq!(master.command(&["CONFIG", "SET", "maxmemory", "100mb"]), Reply::ok());
        stage.expect_back("count:0", Instant::now());
    });
    assert_eq!(connection.get("/kv/number:{count:0}").status(), 404);
}

#[test]
fn a_node_that_has_too_few_replicas_for_itself_takes_no_writes() {
    let Some(stage) = Stage::waiting_for(0) else { return };
    let (master, _) = stage.nodes_of("count:0");
    let set_least = |count: &str| {
        let words = ["CONFIG", "SET", "min-replicas-to-write", count];
        assert_eq!(master.command(&words), Reply::ok());
    };
    stage.under_load(Kept::All, &[], |_| {
        set_least("2");
        let mut connection = stage.connect();
        let refused = connection.put("/kv/key:{count:0}", b"value");
        assert_eq!((refused.status(), refused.text()), (503, TOO_FEW));
        assert_eq!(connection.get("/kv/key:{count:0}").status(), 404);
        set_least("0");
        stage.expect_back("count:0", Instant::now());
    });
}

#[test]
fn with_fewer_replicas_than_asked_for_nothing_is_written() {
    let Some(stage) = Stage::waiting_for(2) else { return };
    let mut connection = stage.connect();
    for target in ["/kv/count:0", "/kv/count:1?create", "/kv/count:2?append"] {
        let method = if target.ends_with("append") { "POST" } else { "PUT" };
        let refused = connection.ask(method, target, &[], b"value");
        assert_eq!((refused.status(), refused.text()), (503, TOO_FEW), "{target}");
    }
    for method_and_target in ["POST /kv/count:3?incr", "DELETE /kv/count:4"] {
        let (method, target) = method_and_target.split_once(' ').expect("two words");
        let refused = connection.call(method, target);
        assert_eq!((refused.status(), refused.text()), (503, TOO_FEW), "{target}");
    }
    assert_eq!(connection.get("/kv").text(), "");
    for master in stage.servers.masters() {
        assert_eq!(master.command(&["DBSIZE"]), Reply::Integer(0));
    }
}

#[test]
fn a_write_that_a_replica_does_not_confirm_may_have_been_done() {
    let Some(stage) = Stage::waiting_for(1) else { return };
    let (_, replica) = stage.nodes_of("count:0");
    let mut connection = stage.connect();
    assert_eq!(connection.put("/kv/count:0", b"before").status(), 200);
    replica.stop();
    let begun = Instant::now();
    let unclear = connection.put("/kv/count:0", b"after");
    assert_eq!((unclear.status(), unclear.text()), (504, PERHAPS));
    assert!(begun.elapsed() < ANSWER);
    let found = connection.get("/kv/count:0");
    assert!(["before", "after"].contains(&found.text()), "{}", found.text());
    replica.go_on();
    stage.expect_back("count:0", Instant::now());
}

#[test]
fn the_list_of_another_application_is_no_value() {
    const NO_VALUE: &str = "what is stored is no value\n";
    let Some(stage) = Stage::waiting_for(0) else { return };
    let push = |key: &str| {
        let pushed = stage.servers.master_of(key).command(&["RPUSH", key, "one", "two"]);
        assert_eq!(pushed, Reply::Integer(2));
    };
    push("list");
    push("gone");
    let mut connection = stage.connect();
    for (method, target) in [
        ("GET", "/kv/list"),
        ("HEAD", "/kv/list"),
        ("POST", "/kv/list?incr"),
        ("DELETE", "/kv/list?return"),
        ("POST", "/kv/list?ttl=60"),
    ] {
        let refused = connection.call(method, target);
        let text = if method == "HEAD" { "" } else { NO_VALUE };
        assert_eq!((refused.status(), refused.text()), (409, text), "{method} {target}");
    }
    for (method, target) in [("PUT", "/kv/list?create"), ("POST", "/kv/list?append")] {
        let refused = connection.ask(method, target, &[], b"value");
        assert_eq!((refused.status(), refused.text()), (409, NO_VALUE), "{method} {target}");
    }
    let length = stage.servers.master_of("list").command(&["LLEN", "list"]);
    assert_eq!(length, Reply::Integer(2), "it is as it was");

    assert_eq!(connection.put("/kv/list", b"value").status(), 200);
    assert_eq!(connection.get("/kv/list").text(), "value");
    assert_eq!(connection.call("DELETE", "/kv/gone").status(), 200);
    assert_eq!(connection.get("/kv/gone").status(), 404);
}

#[test]
fn a_front_starts_though_a_seed_accepts_and_never_answers() {
    if !cluster::is_there() {
        return;
    }
    let servers = Servers::start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = silent.local_addr().expect("it has an address").port();
    let mut config = servers.config();
    config.seeds.insert(0, Seed { host: "127.0.0.1".to_owned(), port });
    let begun = Instant::now();
    let front = Fixture::over(Arc::new(Cluster::connect(&config).expect("the others answer")));
    assert!(begun.elapsed() < ANSWER);
    assert_eq!(front.connect().put("/kv/key", b"value").status(), 200);
}

#[test]
fn the_shutdown_answers_what_was_taken_though_its_node_does_not() {
    if !cluster::is_there() {
        return;
    }
    let servers = Servers::start();
    let master = servers.master_of("key");
    let replica = servers.replica_of(master);
    let process = Process::start(&["--cluster", &servers.addrs()]);
    let mut connection = process.connect();
    assert_eq!(connection.put("/kv/key", b"before").status(), 200);
    replica.stop();
    master.stop();
    connection.send(format!("{}after", put_head("/kv/key", 5)));
    wait_until("it has the request", || process.has_taken_everything());
    process.signal("TERM");
    let answer = connection.response();
    assert!([503, 504].contains(&answer.status()), "{}", answer.text());
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

/// As where a whole machine stands still for a while.
#[test]
fn a_front_that_stood_still_blames_no_node_for_it() {
    const NO_FAILOVER: &str = "cluster-replica-no-failover";
    /// Several looks at the nodes.
    const LOOKS: Duration = Duration::from_millis(300);
    /// Longer than a node may be silent.
    const STOOD: Duration = Duration::from_millis(1500);
    /// On a machine that has much else to do the node may be late itself, or the front may
    /// have been late right before.
    const TRIES_MAX: u32 = 20;
    if !cluster::is_there() {
        return;
    }
    let servers = Servers::start();
    let master = servers.master_of("key");
    let stays = servers.replica_of(master).command(&["CONFIG", "SET", NO_FAILOVER, "yes"]);
    assert_eq!(stays, Reply::ok(), "it takes nobody's place");
    let process = Process::start(&["--cluster", &servers.addrs()]);
    let mut connection = process.connect();
    let is_blamed = (0..TRIES_MAX).all(|_| {
        wait_until("its node is there", || connection.put("/kv/key", b"before").status() == 200);
        master.stop();
        connection.send(format!("{}after", put_head("/kv/key", 5)));
        wait_until("it has the request", || has_read_everything(process.addr()));
        wait_until("the node has it", || !has_read_everything(master.addr()));
        // Its silence begins with a look that finds nothing new.
        thread::sleep(LOOKS);
        process.signal("STOP");
        thread::sleep(STOOD);
        process.signal("CONT");
        // It looks at the node before that goes on.
        thread::sleep(LOOKS);
        master.go_on();
        connection.response().status() != 200
    });
    assert!(!is_blamed, "{TRIES_MAX} times");
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn histories_stay_linearizable_while_a_master_is_killed() {
    let Some(stage) = Stage::of_fronts(2, 1) else { return };
    let (master, heir) = stage.nodes_of("0");
    history_with(&stage, || {
        master.kill();
        wait_until("its replica takes its place", || heir.is_master());
        master.restart();
        stage.servers.wait_until_well();
    });
}

#[test]
fn histories_stay_linearizable_while_a_master_is_stopped() {
    let Some(stage) = Stage::of_fronts(2, 1) else { return };
    let (master, heir) = stage.nodes_of("0");
    history_with(&stage, || {
        master.stop();
        wait_until("its replica takes its place", || heir.is_master());
        master.go_on();
        stage.servers.wait_until_well();
    });
}

#[test]
fn histories_stay_linearizable_while_a_master_pauses() {
    let Some(stage) = Stage::of_fronts(2, 1) else { return };
    let (master, _) = stage.nodes_of("0");
    history_with(&stage, || {
        master.stop();
        // By then it is cut off, and does late what it was sent before.
        thread::sleep(Duration::from_millis(1500));
        master.go_on();
        stage.servers.wait_until_well();
    });
}

#[test]
fn histories_stay_linearizable_in_a_planned_failover() {
    let Some(stage) = Stage::of_fronts(2, 0) else { return };
    let (_, heir) = stage.nodes_of("0");
    history_with(&stage, || {
        assert_eq!(heir.command(&["CLUSTER", "FAILOVER"]), Reply::ok());
        wait_until("it is a master", || heir.is_master());
        stage.servers.wait_until_well();
    });
}

/// Judges what clients of both fronts see while something happens to the cluster.
fn history_with(stage: &Stage, event: impl FnOnce()) {
    let plan = Plan { clients: 6, calls: 150, keys: 6, clears_per_mille: 0, batches_per_mille: 0 };
    let pause = Duration::from_millis(30);
    let (clients, calls) = (Mutex::new(0), AtomicUsize::new(0));
    let connect = || {
        let mut clients = clients.lock().expect("nobody panics with it");
        *clients += 1;
        let mut connection = stage.connect_as(*clients);
        let calls = &calls;
        move |call| {
            thread::sleep(pause);
            calls.fetch_add(1, Ordering::Relaxed);
            perform(&mut connection, call)
        }
    };
    let history = thread::scope(|scope| {
        let recorded = scope.spawn(|| record(plan, &Random::of_this_run(), connect));
        wait_until("it is under way", || calls.load(Ordering::Relaxed) >= 10 * plan.clients);
        event();
        recorded.join().expect("each client ends well")
    });
    let lost = history.iter().filter(|operation| operation.is_lost).count();
    println!("{} calls, {lost} of them perhaps", history.len());
    check_each_key(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

/// Performs a call on numbers as a request.
fn perform(connection: &mut Connection, call: Call) -> Told {
    let target = |key: usize| format!("/kv/{key}");
    match call {
        Call::Get(key) => told(&connection.get(&target(key)), call, call, None),
        Call::Set(key, number) => {
            told(&connection.put(&target(key), &bytes_of(number)), call, call, None)
        }
        Call::Delete(key) => told(&connection.call("DELETE", &target(key)), call, call, None),
        // Nobody knows what it has seen if it is lost.
        Call::Take(key) => {
            let answer = connection.call("DELETE", &format!("/kv/{key}?return"));
            told(&answer, call, Call::Delete(key), None)
        }
        Call::Exchange(key, number) => exchange(connection, key, number),
        Call::Clear | Call::GetBoth(_) | Call::ExchangeBoth(..) => {
            unreachable!("they are not planned")
        }
    }
}

/// What an answer tells of a call, or if it is lost, of another one.
fn told(answer: &Response, call: Call, lost: Call, saw: Option<u64>) -> Told {
    let sees = matches!(call, Call::Get(_) | Call::Take(_));
    match answer.status() {
        200 if sees => Told::Done(Some(number_of(&answer.body)).into()),
        404 if sees => Told::Done(Saw::default()),
        200 | 201 => Told::Done(saw.into()),
        503 => Told::NotDone,
        504 if !matches!(call, Call::Get(_)) => Told::Perhaps(lost, saw.into()),
        other => panic!("{other}: {}", answer.text()),
    }
}

/// Stores a number under a key in place of one that was read, if that is still there.
fn exchange(connection: &mut Connection, key: usize, number: u64) -> Told {
    let target = format!("/kv/{key}");
    loop {
        let seen = connection.get(&target);
        let before = match seen.status() {
            200 => Some(number_of(&seen.body)),
            404 => None,
            503 => return Told::NotDone,
            other => panic!("{other}: {}", seen.text()),
        };
        let condition = match before {
            Some(_) => format!("If-Match: {}", seen.header("ETag").expect("a value has one")),
            None => "If-None-Match: *".to_owned(),
        };
        let answer = connection.ask("PUT", &target, &[&condition], &bytes_of(number));
        if answer.status() != 412 {
            let call = Call::Exchange(key, number);
            return told(&answer, call, call, before);
        }
    }
}
