//! A cluster that others use as well: what a front and they see of each other, and what of
//! theirs it leaves alone.

#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use crate::support::blocking::Blocking as _;
use crate::support::cluster::{self, Node, Reply, Servers, Turn};
use crate::support::http::wait_until;
use crate::support::promises::{Store, always, entry, get, key, set, set_all};
use crate::support::random::Random;
use crate::support::server::Fixture;
use little_key_value::storage::PAGE_KEYS_MAX;
use little_key_value::storage::{BatchOp, Cluster, Decision, Entry, Error, Hindrance, Listing};
use little_key_value::storage::{Moment, Range, Time};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::iter;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

/// A front to the cluster of these tests, and the servers.
struct Setting {
    // The fields are dropped in this order.
    store: Store,
    turn: Turn,
}

impl Setting {
    /// `None` where there is no server to run.
    fn new() -> Option<Self> {
        cluster::is_there().then(|| {
            let turn = Turn::take();
            Self { store: front_to(turn.servers(), true), turn }
        })
    }

    /// The reply of a key's node to a command about the key: its words around it.
    #[track_caller]
    fn ask(&self, before: &[&str], key: &str, behind: &[&str]) -> Reply {
        let words = [before, &[key], behind].concat();
        self.turn.servers().master_of(key).command(&words)
    }

    fn list(&self) -> Vec<String> {
        let listing = Listing { keys_max: PAGE_KEYS_MAX, ..Listing::default() };
        let page = self.store.list(listing).expect("the engine lists");
        assert_eq!(page.next, None);
        page.keys().map(str::to_owned).collect()
    }
}

fn front_to(servers: &Servers, may_clear: bool) -> Store {
    let config = little_key_value::storage::ClusterConfig { may_clear, ..servers.config() };
    Arc::new(Cluster::connect(&config).expect("the nodes answer"))
}

fn bytes(text: impl AsRef<[u8]>) -> Reply {
    Reply::Bytes(text.as_ref().to_vec())
}

/// An expiry in some time, and the same as nodes have it: milliseconds on the wall clock.
fn in_seconds(seconds: u64) -> (Time, i64) {
    let time = Time::now().after(Duration::from_secs(seconds));
    let wall = time.on_wall_clock().duration_since(UNIX_EPOCH).expect("it is past 1970");
    (time, i64::try_from(wall.as_millis()).expect("it is before the year 292 million"))
}

#[test]
fn a_plain_value_is_a_plain_string() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    for value in [b"Nairobi".to_vec(), every_byte, vec![b'x'; 1 << 20]] {
        set(store, "plain", value.clone());
        assert!(setting.ask(&["GET"], "plain", &[]) == bytes(&value), "{} bytes", value.len());
        assert_eq!(setting.ask(&["PEXPIRETIME"], "plain", &[]), Reply::Integer(-1));
        assert_eq!(setting.ask(&["TYPE"], "plain", &[]), bytes("string"));
    }
    let (time, millis) = in_seconds(1000);
    let expiring = entry("x").with_expiry(Some(time));
    store.set(key("plain"), expiring.clone()).expect("the engine writes");
    assert_eq!(setting.ask(&["PEXPIRETIME"], "plain", &[]), Reply::Integer(millis));
    assert_eq!(store.get(&key("plain")), Ok(Some(expiring)));
    store.delete(&key("plain")).expect("the engine deletes");
    assert_eq!(setting.ask(&["EXISTS"], "plain", &[]), Reply::Integer(0));
}

#[test]
fn what_others_set_is_read_and_changed() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    assert_eq!(setting.ask(&["SET"], "theirs", &["41"]), Reply::ok());
    assert_eq!(store.get(&key("theirs")), Ok(Some(entry("41"))));
    let (time, millis) = in_seconds(1000);
    let millis = millis.to_string();
    assert_eq!(setting.ask(&["PEXPIREAT"], "theirs", &[&millis]), Reply::Integer(1));
    let expiring = entry("41").with_expiry(Some(time));
    assert_eq!(store.get(&key("theirs")), Ok(Some(expiring.clone())));
    let server = Fixture::over(Arc::clone(store));
    assert_eq!(server.connect().call("POST", "/kv/theirs?incr").text(), "42\n");
    assert_eq!(setting.ask(&["INCR"], "theirs", &[]), Reply::Integer(43));
    assert_eq!(server.connect().get("/kv/theirs").text(), "43");
    // Neither has touched the expiry.
    let after = store.get(&key("theirs")).expect("the engine reads").expect("it is there");
    assert_eq!(after.expiry(), expiring.expiry());
    assert_eq!(setting.list(), ["theirs"]);
    assert_eq!(setting.ask(&["DEL"], "theirs", &[]), Reply::Integer(1));
    assert_eq!(store.get(&key("theirs")), Ok(None));
    // A value of no bytes is one that no client of ours can store.
    assert_eq!(setting.ask(&["SET"], "theirs", &[""]), Reply::ok());
    assert_eq!(server.connect().get("/kv/theirs").status(), 200);
}

/// Sends a command to a node on a connection of its own, and waits for the reply.
fn tell(addr: SocketAddr, command: &str) {
    let mut stream = TcpStream::connect(addr).expect("the node listens");
    stream.write_all(format!("{command}\r\n").as_bytes()).expect("the node reads");
    assert!(stream.read(&mut [0]).expect("the node replies") > 0);
}

/// What others write between the look of an update and its change is not lost: another
/// value, another expiry alone, and the end of the key. Long values are compared
/// otherwise.
#[test]
fn an_update_sees_what_others_write_in_between() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    let (_, early) = in_seconds(1000);
    let (_, late) = in_seconds(2000);
    let addr = setting.turn.servers().master_of("theirs").addr();
    for length in [1, 16_383, 16_384, 100_000] {
        let value = "x".repeat(length);
        let writes = [
            (format!("PEXPIREAT theirs {late}"), Some(value.clone()), late),
            ("PERSIST theirs".to_owned(), Some(value.clone()), -1),
            ("APPEND theirs y".to_owned(), Some(format!("{value}y")), early),
            ("SET theirs z".to_owned(), Some("z".to_owned()), -1),
            ("DEL theirs".to_owned(), None, -1),
        ];
        for (write, seen, expiry) in writes {
            let set = [&value, "PXAT", &early.to_string()];
            assert_eq!(setting.ask(&["SET"], "theirs", &set), Reply::ok());
            let mut write = Some(write);
            let told = write.clone();
            let change = Box::new(move |before: Option<&Entry>| {
                if let Some(write) = write.take_if(|_| before.is_some()) {
                    tell(addr, &write);
                }
                let expiry = before.and_then(Entry::expiry);
                Decision::Replace(entry("after").with_expiry(expiry))
            });
            let updated = store.update(key("theirs"), change).expect("the engine writes");
            let before = updated.before.map(|before| before.value().clone());
            assert_eq!(before, seen.map(Into::into), "{told:?}, {length} bytes");
            assert_eq!(setting.ask(&["GET"], "theirs", &[]), bytes("after"), "{told:?}");
            assert_eq!(setting.ask(&["PEXPIRETIME"], "theirs", &[]), Reply::Integer(expiry));
        }
    }
}

/// The last expiries that a node takes are more than scripts count one by one.
#[test]
fn the_latest_expiry_is_kept() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    for latest in [(1 << 53) + 1, i64::MAX - 1, i64::MAX] {
        let set = ["1", "PXAT", &latest.to_string()];
        assert_eq!(setting.ask(&["SET"], "theirs", &set), Reply::ok());
        let change = Box::new(|before: Option<&Entry>| {
            let expiry = before.and_then(Entry::expiry);
            Decision::Replace(entry("2").with_expiry(expiry))
        });
        store.update(key("theirs"), change).expect("the engine writes");
        assert_eq!(setting.ask(&["GET"], "theirs", &[]), bytes("2"));
        let Reply::Integer(kept) = setting.ask(&["PEXPIRETIME"], "theirs", &[]) else {
            panic!("it is a number");
        };
        assert!(kept.abs_diff(latest) <= 1024, "{kept} and not {latest}");
    }
}

/// The first bytes of a value with a type.
const MARK: &[u8] = b"\xfflkv\x01";

#[test]
fn a_type_is_kept_beside_the_value() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    let typed = entry("{}").with_content_type(Some("application/json".into()));
    store.set(key("typed"), typed.clone()).expect("the engine writes");
    let stored = [MARK, b"\x10application/json{}"].concat();
    assert_eq!(setting.ask(&["GET"], "typed", &[]), bytes(&stored));
    assert_eq!(store.get(&key("typed")), Ok(Some(typed)));
    // A plain one that begins as one with a type does.
    for value in [MARK.to_vec(), [MARK, b"\0"].concat(), stored] {
        set(store, "plain", value.clone());
        assert_eq!(get(store, "plain").as_deref(), Some(&value[..]));
        let stored = [MARK, b"\0", &value].concat();
        assert_eq!(setting.ask(&["GET"], "plain", &[]), bytes(&stored));
    }
    // What others store so, and means nothing, is plain.
    for value in ["\u{1}", ""] {
        let words = [b"SET", b"odd".as_slice(), &[&MARK[..4], value.as_bytes()].concat()];
        let node = setting.turn.servers().master_of("odd");
        assert_eq!(node.command(&words), Reply::ok());
        assert_eq!(get(store, "odd").as_deref(), Some(words[2]));
    }
}

#[test]
fn what_is_no_value_stays_unless_it_is_replaced_or_deleted() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    let push = |name: &str| setting.ask(&["RPUSH"], name, &["one", "two"]);
    let is_whole = |name: &str| {
        let all = setting.ask(&["LRANGE"], name, &["0", "-1"]);
        assert_eq!(all, Reply::Many(vec![bytes("one"), bytes("two")]), "{name}");
    };
    for name in ["{q}:1", "list", "other list"] {
        assert_eq!(push(name), Reply::Integer(2));
    }
    set(store, "{q}:2", "job");
    assert_eq!(store.get(&key("list")), Err(Error::NotAValue));
    for decision in [Decision::Keep, Decision::Remove, Decision::Replace(entry("x"))] {
        let updated = store.update(key("list"), always(decision.clone()));
        assert_eq!(updated, Err(Error::NotAValue), "{decision:?}");
        let ops = vec![(key("list"), BatchOp::Update(always(decision)))];
        assert_eq!(store.batch(ops), Err(Error::NotAValue));
        is_whole("list");
    }
    // A batch does all or nothing.
    let ops = vec![
        (key("{q}:3"), BatchOp::Set(entry("job"))),
        (key("{q}:1"), BatchOp::Update(always(Decision::Keep))),
    ];
    assert_eq!(store.batch(ops), Err(Error::NotAValue));
    assert_eq!(store.get(&key("{q}:3")), Ok(None));

    assert_eq!(setting.list(), ["list", "other list", "{q}:1", "{q}:2"]);
    assert_eq!(store.count(Range::default()), Ok(4));
    let listing = Listing { with_entries: true, keys_max: PAGE_KEYS_MAX, ..Listing::default() };
    let page = store.list(listing).expect("the engine lists");
    assert!(page.keys().eq(["{q}:2"]), "{page:?}");
    let first = store.update_first("{q}:", always(Decision::Remove)).expect("the engine does it");
    assert_eq!(first.map(|(name, _)| name), Some(key("{q}:2")));
    is_whole("{q}:1");

    let server = Fixture::over(Arc::clone(store));
    let mut connection = server.connect();
    for (method, target) in [("GET", "/kv/list"), ("POST", "/kv/list?incr")] {
        let answer = connection.call(method, target);
        assert_eq!((answer.status(), answer.text()), (409, "what is stored is no value\n"));
    }
    is_whole("list");
    assert_eq!(connection.put("/kv/list", b"value").status(), 200);
    assert_eq!(connection.get("/kv/list").text(), "value");
    assert_eq!(connection.call("DELETE", "/kv/other%20list").status(), 200);
    assert_eq!(setting.list(), ["list", "{q}:1"]);
}

#[test]
fn keys_that_are_none_of_ours_are_left_alone() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    let long = "k".repeat(1025);
    let theirs: [&[u8]; 4] = [b"", b"k\xff", b"\xff", long.as_bytes()];
    let command = |words: &[&[u8]]| {
        // The node of a key's slot is the one that does not send elsewhere.
        let masters = setting.turn.servers().masters();
        let mut replies = masters.iter().map(|node| node.command(words));
        let reply = replies.find(|reply| !matches!(reply, Reply::Error(_)));
        reply.expect("one of the masters has the slot")
    };
    for name in theirs {
        assert_eq!(command(&[b"SET", name, b"x"]), Reply::ok());
    }
    set(store, "k", "ours");
    assert_eq!(setting.list(), ["k"]);
    assert_eq!(store.count(Range::default()), Ok(1));
    let server = Fixture::over(Arc::clone(store));
    assert_eq!(server.connect().call("DELETE", "/kv?prefix=k").text(), "1\n");
    for name in theirs {
        assert_eq!(command(&[b"GET", name]), bytes("x"), "{name:?}");
    }
}

#[test]
fn clearing_has_to_be_allowed() {
    let Some(setting) = Setting::new() else { return };
    let careful = front_to(setting.turn.servers(), false);
    set(&careful, "key", "value");
    assert_eq!(careful.clear(), Err(Error::ClearForbidden));
    let server = Fixture::over(Arc::clone(&careful));
    let answer = server.connect().call("DELETE", "/clear");
    assert_eq!(answer.status(), 403);
    assert!(answer.text().contains("--cluster-clear"), "{}", answer.text());
    assert_eq!(get(&careful, "key").as_deref(), Some(&b"value"[..]));
    setting.store.clear().expect("it is allowed there");
    assert_eq!(get(&careful, "key"), None);
}

/// Nobody tells a front what others write.
#[test]
fn a_wait_ends_with_what_others_write() {
    let Some(setting) = Setting::new() else { return };
    let server = Fixture::over(Arc::clone(&setting.store));
    let ask = |method: &str, target: &str| server.connect().call(method, target);
    let wait_for_waiters = |count: usize| {
        let line = format!("\nlkv_waiters {count}\n");
        wait_until("they wait", || ask("GET", "/metrics").text().contains(&line));
    };
    set(&setting.store, "lock", "held");
    thread::scope(|scope| {
        let get = scope.spawn(|| ask("GET", "/kv/new?wait=20s"));
        let take = scope.spawn(|| ask("DELETE", "/kv?take={q}:&wait=20s"));
        let pop = scope.spawn(|| ask("DELETE", "/kv/new2?return&wait=20s"));
        wait_for_waiters(3);
        for name in ["new", "{q}:1", "new2"] {
            assert_eq!(setting.ask(&["SET"], name, &[name]), Reply::ok());
        }
        for (waiter, name) in [(get, "new"), (take, "{q}:1"), (pop, "new2")] {
            let answer = waiter.join().expect("no panic");
            assert_eq!((answer.status(), answer.text()), (200, name));
        }
        let free = scope.spawn(|| {
            server.connect().ask("PUT", "/kv/lock?wait=20s", &["If-None-Match: *"], b"mine")
        });
        wait_for_waiters(1);
        assert_eq!(setting.ask(&["DEL"], "lock", &[]), Reply::Integer(1));
        assert_eq!(free.join().expect("no panic").status(), 201);
    });
    assert_eq!(setting.ask(&["GET"], "lock", &[]), bytes("mine"));
}

/// What is in different slots is told apart before anything is done.
#[test]
fn what_needs_one_slot_is_refused_for_several() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    set(store, "{a}", "a");
    let ops = [
        (key("{a}"), BatchOp::Set(entry("x"))),
        (key("{b}"), BatchOp::Update(always(Decision::Keep))),
    ];
    assert_eq!(store.batch(ops.into()), Err(Error::SlotsDiffer));
    // A tag that is not whole, or of no bytes, is none.
    for prefix in ["", "a", "{a", "{}a", "a}{"] {
        let first = store.update_first(prefix, always(Decision::Remove));
        assert_eq!(first, Err(Error::SlotsDiffer), "{prefix:?}");
    }
    assert_eq!(get(store, "{a}").as_deref(), Some(&b"a"[..]));
    let first = store.update_first("{a}", always(Decision::Remove)).expect("the engine does it");
    assert_eq!(first.map(|(name, _)| name), Some(key("{a}")));
    // A thousand of one slot, and each of several alone, are fine.
    let ops = |name: &dyn Fn(usize) -> String| {
        (0..1000).map(|index| (key(&name(index)), BatchOp::Set(entry("x")))).collect::<Vec<_>>()
    };
    store.batch(ops(&|index| format!("{{tag}}{index}"))).expect("the engine does it");
    store
        .perform(little_key_value::storage::Op::Each(ops(&|index| index.to_string())))
        .expect("the engine does it");
    assert_eq!(store.count(Range::default()), Ok(2000));
}

/// Every slot has its keys on the node that it is on: the front sends nobody on.
#[test]
fn keys_of_all_nodes_are_listed_once() {
    let Some(setting) = Setting::new() else { return };
    let mut random = Random::of_this_run();
    let names: BTreeSet<String> = (0..900).map(|_| format!("{:x}", random.next())).collect();
    set_all(&setting.store, names.iter().map(|name| (key(name), entry("x"))));
    let sizes = setting.turn.servers().masters().iter().map(|node| size_of(node)).sum::<i64>();
    assert_eq!(usize::try_from(sizes), Ok(names.len()));
    assert!(setting.list().iter().eq(&names), "keys are missing, or twice");
}

fn size_of(node: &Node) -> i64 {
    let Reply::Integer(size) = node.command(&["DBSIZE"]) else { panic!("no number") };
    assert!(size > 0, "{} has no keys", node.addr());
    size
}

/// Masters, and two: one to look for its topology, and one to spare.
#[test]
fn a_front_has_few_connections() {
    let Some(setting) = Setting::new() else { return };
    let connections = || {
        let nodes = setting.turn.servers().nodes();
        let lists = nodes.iter().map(|node| node.command(&["CLIENT", "LIST", "TYPE", "normal"]));
        // Those of this test are closed, or its own.
        let lines = lists.map(|list| list.into_text().expect("a text"));
        lines
            .map(|list| list.lines().filter(|line| line.contains("name=little-key-value")).count())
            .sum::<usize>()
    };
    let server = Fixture::over(Arc::clone(&setting.store));
    crate::support::http::at_once(server.addr(), 64, |client, connection| {
        for round in 0..20 {
            assert_eq!(connection.put(&format!("/kv/{client}-{round}"), b"x").status(), 200);
        }
        let seen = connections();
        assert!((1..=cluster::MASTERS + 2).contains(&seen), "{seen} connections");
    });
    let Setting { store, turn } = setting;
    drop((server, store));
    let is_gone = || {
        let lists = turn.servers().nodes().iter();
        let mut lists = lists.map(|node| node.command(&["CLIENT", "LIST", "TYPE", "normal"]));
        lists.all(|list| !list.into_text().expect("a text").contains("name=little-key-value"))
    };
    wait_until("the connections of a front that has ended are closed", is_gone);
}

/// Keys of a queue whose order tells bytes from characters of some language, and lengths.
const QUEUE: [&str; 9] = [
    "{q}:",
    "{q}:!",
    "{q}:B",
    "{q}:a",
    "{q}:a\0",
    "{q}:aaaaaaaa",
    "{q}:aaaaaaaaB",
    "{q}:aaaaaaaaa",
    "{q}:\u{e9}",
];

#[test]
fn a_queue_is_taken_in_the_order_of_its_bytes_past_what_is_no_value() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    for name in QUEUE.iter().rev() {
        set(store, name, *name);
    }
    // Theirs come first.
    let stranger: &[u8] = b"{q}:\0\xff";
    let master = setting.turn.servers().master_of("{q}:");
    assert_eq!(master.command(&[b"SET".as_slice(), stranger, b"x"]), Reply::ok());
    assert_eq!(setting.ask(&["RPUSH"], "{q}: list", &["x"]), Reply::Integer(1));
    assert_eq!(setting.ask(&["SET"], "{q}: gone", &["x", "PX", "1"]), Reply::ok());
    thread::sleep(Duration::from_millis(5));
    for name in QUEUE {
        // One that changes it before leaves it the first.
        let grown = store.update_first("{q}:", always(Decision::Replace(entry("grown"))));
        let (first, updated) = grown.expect("the slot is whole").expect("there is one");
        assert_eq!((first.as_str(), updated.before), (name, Some(entry(name))));
        let taken = store.update_first("{q}:", always(Decision::Remove)).expect("as before");
        let (first, updated) = taken.expect("there is one");
        assert_eq!((first.as_str(), updated.before), (name, Some(entry("grown"))));
    }
    assert_eq!(store.update_first("{q}:", always(Decision::Remove)), Ok(None));
    assert_eq!(setting.ask(&["LLEN"], "{q}: list", &[]), Reply::Integer(1));
    assert_eq!(master.command(&[b"GET".as_slice(), stranger]), bytes("x"));
}

/// Thousands of lists before the first value take a node no longer than a request has.
#[test]
fn a_value_of_a_queue_is_found_behind_thousands_that_are_none() {
    let Some(setting) = Setting::new() else { return };
    let fill = "for i = 1, 20000 do redis.call('RPUSH', KEYS[1] .. i, 'x') end return 1";
    assert_eq!(setting.ask(&["EVAL", fill, "1"], "{q}:a", &[]), Reply::Integer(1));
    set(&setting.store, "{q}:b", "job");
    let take = || setting.store.update_first("{q}:", always(Decision::Remove));
    // On a busy machine a node may take longer, and then it is not done.
    let mut tries = iter::repeat_with(take).take(8);
    let is_told = |taken: &Result<_, _>| *taken != Err(Error::NotDone(Hindrance::ClusterDown));
    let taken = tries.find(is_told).expect("it is done at some time");
    let (key, updated) = taken.expect("the slot is whole").expect("there is one");
    assert_eq!((key.as_str(), updated.before), ("{q}:b", Some(entry("job"))));
}

#[test]
fn what_two_fronts_take_from_a_queue_is_taken_once_and_in_order() {
    const JOBS: usize = 600;
    const TAKERS: usize = 8;
    let Some(setting) = Setting::new() else { return };
    let stores = [Arc::clone(&setting.store), front_to(setting.turn.servers(), false)];
    let names: Vec<String> = (0..JOBS).map(|number| format!("{{q}}:{number:04}")).collect();
    for name in &names {
        set(&setting.store, name, name.clone());
    }
    let take_all = |store: &Store| {
        let mut taken = Vec::new();
        while let Some((key, updated)) =
            store.update_first("{q}:", always(Decision::Remove)).expect("the slot is whole")
        {
            let value = updated.before.expect("it was there").value().clone();
            assert_eq!(value, key.as_str());
            assert!(taken.last() < Some(&key.as_str().to_owned()), "{taken:?}, then {key:?}");
            taken.push(key.as_str().to_owned());
        }
        taken
    };
    let mut all: Vec<String> = thread::scope(|scope| {
        let takers = stores.iter().cycle().take(TAKERS);
        let takers: Vec<_> = takers.map(|store| scope.spawn(|| take_all(store))).collect();
        takers.into_iter().flat_map(|taker| taker.join().expect("it takes")).collect()
    });
    all.sort_unstable();
    assert_eq!(all, names);
}

/// An export goes past what is no value; its parts are those of one scan.
#[test]
fn entries_of_all_lengths_are_listed_with_their_keys() {
    let Some(setting) = Setting::new() else { return };
    let store = &setting.store;
    let mut expected = Vec::new();
    for number in 0..300_usize {
        let name = format!("k{number:03}");
        let length = match number {
            0..10 => 0,
            100..103 => (64 << 10) - 101 + number,
            200 => 3 << 20,
            _ => number,
        };
        let value = vec![b'v'; length];
        if length == 0 {
            // No import takes it.
            assert_eq!(setting.ask(&["SET"], &name, &[""]), Reply::ok());
            continue;
        }
        set(store, &name, value.clone());
        if number % 50 == 7 {
            assert_eq!(setting.ask(&["RPUSH"], &format!("{name} list"), &["x"]), Reply::Integer(1));
        }
        expected.push((name, value));
    }
    for moment in [Moment::Now, Moment::Hold] {
        let mut listing =
            Listing { with_entries: true, keys_max: 70, moment, ..Listing::default() };
        let mut listed = Vec::new();
        loop {
            let page = store.list(listing.clone()).expect("the engine lists");
            assert!(page.len() <= 70 && page.len() == page.entries().len());
            let values = page.entries().iter().map(|entry| entry.value().to_vec());
            listed.extend(page.keys().map(str::to_owned).zip(values));
            let Some(next) = page.next else { break };
            listing.range.start = next;
            listing.moment = page.moment;
        }
        assert!(listed == expected, "{} entries", listed.len());
    }
}
