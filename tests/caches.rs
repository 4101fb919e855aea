//! A store that is a cache, over HTTP: what it tells of hits and misses, and how it takes
//! every write once it is full, and tells of the keys that it lets go.

#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use crate::support::engines::{self, ENGINES};
use crate::support::http::{Connection, Response, wait_until};
use crate::support::server::Fixture;
use little_key_value::storage::{Limits, WhenFull};
use serde_json::Value;
use std::collections::BTreeSet;

/// A metric without labels.
#[track_caller]
fn metric(connection: &mut Connection, name: &str) -> u64 {
    let answer = connection.get("/metrics");
    let value = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in {}", answer.text()));
    value.parse().expect("a whole number")
}

/// The hits and the misses so far.
#[track_caller]
fn reads(connection: &mut Connection) -> [u64; 2] {
    ["lkv_hits_total", "lkv_misses_total"].map(|name| metric(connection, name))
}

/// A request with header fields, its status, and the hits and misses that it counts for.
type Read = (&'static str, &'static str, &'static [&'static str], u16, [u64; 2]);

#[test]
fn each_read_of_a_key_is_a_hit_or_a_miss() {
    const HIT: [u64; 2] = [1, 0];
    const MISS: [u64; 2] = [0, 1];
    const NEITHER: [u64; 2] = [0, 0];
    const KNOWN: &str = "If-None-Match: *";
    const TABLE: [Read; 29] = [
        ("GET", "/kv/there", &[], 200, HIT),
        ("HEAD", "/kv/there", &[], 200, HIT),
        ("GET", "/kv/there", &["Range: bytes=0-1"], 206, HIT),
        ("GET", "/kv/there", &[KNOWN], 304, HIT),
        ("HEAD", "/kv/there", &[KNOWN], 304, HIT),
        ("GET", "/kv/there", &["If-Match: \"x\""], 412, HIT),
        ("GET", "/kv/there", &["Range: bytes=9-"], 416, HIT),
        ("GET", "/kv/there?wait", &[], 200, HIT),
        ("GET", "/kv/there?wait=5ms", &[KNOWN], 304, HIT),
        ("GET", "/v8/artifacts/there", &[], 200, HIT),
        ("GET", "/kv/absent", &[], 404, MISS),
        ("HEAD", "/kv/absent", &[], 404, MISS),
        ("GET", "/kv/absent", &["If-Match: *"], 404, MISS),
        ("GET", "/kv/absent?wait=5ms", &[], 404, MISS),
        ("GET", "/kv/absent?wait", &[KNOWN], 404, MISS),
        ("HEAD", "/v8/artifacts/absent", &[], 404, MISS),
        ("GET", "/kv/", &[], 400, NEITHER),
        ("GET", "/absent", &[], 404, NEITHER),
        ("GET", "/kv?prefix=the", &[], 200, NEITHER),
        ("GET", "/kv?values", &[], 200, NEITHER),
        ("GET", "/healthz", &[], 200, NEITHER),
        ("OPTIONS", "/kv/there", &[], 204, NEITHER),
        ("PUT", "/kv/there", &[KNOWN], 412, NEITHER),
        ("POST", "/kv/there?ttl=none", &[], 200, NEITHER),
        ("POST", "/kv/absent?ttl=60", &[], 404, NEITHER),
        ("DELETE", "/kv/absent?return", &[], 404, NEITHER),
        ("DELETE", "/kv/there?return", &[], 200, NEITHER),
        ("GET", "/kv/there", &[], 404, MISS),
        ("PATCH", "/kv/there", &[], 405, NEITHER),
    ];
    for (engine, open) in ENGINES.iter() {
        let server = Fixture::over(open());
        let mut connection = server.connect();
        assert_eq!(connection.put("/kv/there", b"value").status(), 200);
        assert_eq!(connection.put("/kv/turbo/there", b"artifact").status(), 200);
        let (mut hits, mut misses) = (0, 0);
        for (method, target, fields, status, [hit, miss]) in TABLE {
            let body: &[u8] = if method == "PUT" { b"x" } else { b"" };
            let answer = connection.ask(method, target, fields, body);
            assert_eq!(answer.status(), status, "{engine}: {method} {target} {fields:?}");
            (hits, misses) = (hits + hit, misses + miss);
            let counted = reads(&mut connection);
            assert_eq!(counted, [hits, misses], "{engine}: {method} {target} {fields:?}");
        }
    }
}

/// Each line is a read of its own, and none of a batch that is refused was done.
#[test]
fn reads_of_a_batch_are_hits_and_misses() {
    let read = |method, key| format!(r#"{{"method":"{method}","key":"{{tag}}{key}"}}"#);
    for (engine, open) in ENGINES.iter() {
        let server = Fixture::over(open());
        let mut connection = server.connect();
        let mut batch = |lines: &[&str]| {
            let answer = connection.ask("POST", "/batch", &[], lines.join("\n").as_bytes());
            (answer.status(), reads(&mut connection))
        };
        let (get_a, head_a, get_b) = (read("GET", "a"), read("HEAD", "a"), read("GET", "b"));
        let put_a = r#"{"key":"{tag}a","value":"1"}"#;
        let known = r#"{"method":"GET","key":"{tag}a","if_none_match":"*"}"#;
        let refused = r#"{"method":"GET","key":"{tag}a","if_match":"\"x\""}"#;
        assert_eq!(batch(&[&get_a, put_a, &get_a, &head_a, known]), (200, [3, 1]), "{engine}");
        assert_eq!(batch(&[&get_b, &get_a]), (200, [4, 2]), "{engine}");
        assert_eq!(batch(&[&get_a, &get_b, refused]), (412, [4, 2]), "{engine}");
        assert_eq!(batch(&[put_a]), (200, [4, 2]), "{engine}");
    }
}

/// An engine with a limit.
#[derive(Clone, Copy)]
struct Limited {
    name: &'static str,
    bytes: u64,
}

const LIMITED: [Limited; 2] =
    [Limited { name: "memory", bytes: 8 << 20 }, Limited { name: "durable", bytes: 32 << 20 }];

/// The keys that are stored, of which no more than a third fit.
const KEYS: usize = 96;

impl Limited {
    /// A server over an empty store.
    fn serve(self, when_full: WhenFull) -> Fixture {
        let limits = Limits { bytes: self.bytes, when_full, ..Limits::default() };
        let storage = engines::limited(self.name, limits).expect("it can have limits");
        // More than any value that fits.
        Fixture::with(storage, 2 * self.bytes, &Fixture::config())
    }

    /// A value of which as many as a third of [`KEYS`] do not fit.
    fn value(self) -> Vec<u8> {
        let bytes = self.bytes / (KEYS as u64 / 3);
        b"v".repeat(usize::try_from(bytes).expect("it fits memory"))
    }

    /// Stores so many values, all of which are taken.
    #[track_caller]
    fn fill(self, connection: &mut Connection, keys: impl IntoIterator<Item = usize>) {
        let value = self.value();
        for number in keys {
            let answer = connection.put(&format!("/kv/key{number}"), &value);
            assert_eq!(answer.status(), 200, "{} key{number}: {}", self.name, answer.text());
        }
    }
}

fn on_every_cache(test: impl Fn(Limited, &Fixture)) {
    for engine in LIMITED {
        eprintln!("on the engine {}", engine.name);
        test(engine, &engine.serve(WhenFull::Evict));
    }
}

/// The keys that are there.
fn keys(connection: &mut Connection) -> BTreeSet<String> {
    connection.get("/kv").text().lines().map(str::to_owned).collect()
}

#[track_caller]
fn says(answer: &Response, status: u16, text: &str) {
    assert_eq!((answer.status(), answer.text()), (status, text));
}

#[test]
fn a_full_cache_takes_every_write() {
    on_every_cache(|engine, server| {
        let mut connection = server.connect();
        engine.fill(&mut connection, 0..KEYS);
        for probe in ["/healthz", "/readyz"] {
            says(&connection.get(probe), 200, "ok\n");
        }
        // Those that came last are there, whole.
        let last = connection.get(&format!("/kv/key{}", KEYS - 1));
        assert_eq!((last.status(), last.body), (200, engine.value()));
        assert!(keys(&mut connection).len() <= KEYS / 3, "{}", engine.name);
        wait_until("each key is there or was evicted", || {
            let evicted = metric(&mut connection, "lkv_evicted_total");
            evicted + keys(&mut connection).len() as u64 == KEYS as u64
        });
        // What was evicted is absent, and can be stored again.
        let gone =
            (0..KEYS).find(|number| !keys(&mut connection).contains(&format!("key{number}")));
        let gone = format!("/kv/key{}", gone.expect("not all fit"));
        says(&connection.get(&gone), 404, "key not found\n");
        assert_eq!(connection.put(&gone, &engine.value()).status(), 200);
        assert_eq!(connection.get(&gone).status(), 200);
    });
}

#[test]
fn a_full_store_that_does_not_evict_refuses() {
    for engine in LIMITED {
        eprintln!("on the engine {}", engine.name);
        let server = engine.serve(WhenFull::Refuse);
        let (mut connection, value) = (server.connect(), engine.value());
        let mut put = |number: usize| connection.put(&format!("/kv/key{number}"), &value);
        let stored = (0..KEYS).take_while(|number| put(*number).status() == 200).count();
        assert!((1..=KEYS / 3).contains(&stored), "{stored}");
        says(&put(KEYS), 507, "storage is full\n");
        for probe in ["/healthz", "/readyz"] {
            says(&connection.get(probe), 200, "ok\n");
        }
        assert_eq!(keys(&mut connection).len(), stored);
        assert_eq!(connection.call("DELETE", "/kv?prefix=key").text(), format!("{stored}\n"));
        wait_until("there is room again", || connection.put("/kv/again", &value).status() == 200);
    }
}

/// What it could never hold costs nobody anything.
#[test]
fn what_is_larger_than_the_limit_is_refused_and_nothing_goes() {
    on_every_cache(|engine, server| {
        let mut connection = server.connect();
        engine.fill(&mut connection, 0..3);
        let large = engine.value().repeat(KEYS / 2);
        says(&connection.put("/kv/large", &large), 507, "storage is full\n");
        assert_eq!(keys(&mut connection).len(), 3);
        assert_eq!(metric(&mut connection, "lkv_evicted_total"), 0);
    });
}

#[test]
fn batches_imports_and_additions_find_room() {
    on_every_cache(|engine, server| {
        let mut connection = server.connect();
        engine.fill(&mut connection, 0..KEYS / 3);
        let value = String::from_utf8(engine.value()).expect("it is text");
        let line =
            |name: &str, number| format!("{{\"key\":\"{name}{number}\",\"value\":\"{value}\"}}\n");
        let batch: String = (0..4).map(|number| line("batch", number)).collect();
        let answer = connection.ask("POST", "/batch", &[], batch.as_bytes());
        assert_eq!((answer.status(), answer.text().lines().count()), (200, 4));
        // All of it is there, at one moment.
        assert_eq!(connection.get("/kv?prefix=batch&count").text(), "4\n");
        let import: String = (0..KEYS / 2).map(|number| line("import", number)).collect();
        let answer = connection.ask("POST", "/import", &[], import.as_bytes());
        says(&answer, 200, &format!("{}\n", KEYS / 2));
        for number in 0..KEYS / 3 {
            let added = connection.ask("POST", "/kv?prefix=job:", &[], value.as_bytes());
            assert_eq!(added.status(), 201, "{number}: {}", added.text());
        }
        for target in ["/kv/count?incr", "/kv/log?append"] {
            let body: &[u8] = if target.ends_with("append") { b"x" } else { b"" };
            assert_eq!(connection.ask("POST", target, &[], body).status(), 200);
        }
    });
}

/// A form in which a watcher is told.
struct Form {
    target: &'static str,
    fields: &'static [&'static str],
}

/// The events of a text, each with its id and its key, if it has one.
fn events(text: &str) -> Vec<(String, String, String)> {
    let word = |words: &mut dyn Iterator<Item = &str>| words.next().unwrap_or_default().to_owned();
    if text.starts_with('{') {
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            ["event", "id", "key"].map(|name| line[name].as_str().unwrap_or_default().to_owned())
        };
        return text.lines().map(line).map(|[event, id, key]| (event, id, key)).collect();
    }
    if !text.contains("id: ") {
        let line = |line: &str| {
            let mut words = line.split(' ');
            (word(&mut words), word(&mut words), word(&mut words))
        };
        return text.lines().map(line).collect();
    }
    let event = |event: &str| {
        let field = |name: &str| {
            let value = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.unwrap_or_default().to_owned()
        };
        let (kind, data) = (field("event"), field("data"));
        let key = match serde_json::from_str::<Value>(&data) {
            Ok(data) => data["key"].as_str().unwrap_or_default().to_owned(),
            Err(_) => data,
        };
        // One with an id alone says that all was told.
        (if kind.is_empty() { "ready".to_owned() } else { kind }, field("id"), key)
    };
    text.split_terminator("\n\n").filter(|event| event.contains("id: ")).map(event).collect()
}

#[test]
fn evictions_are_told_in_every_form() {
    const FORMS: [Form; 4] = [
        Form { target: "/watch?", fields: &[] },
        Form { target: "/watch?values&", fields: &[] },
        Form { target: "/watch?", fields: &["Accept: text/event-stream"] },
        Form { target: "/watch?values&", fields: &["Accept: text/event-stream"] },
    ];
    on_every_cache(|engine, server| {
        let mut connection = server.connect();
        let start =
            connection.get("/kv?limit=1").header("Revision").expect("a position").to_owned();
        engine.fill(&mut connection, 0..KEYS);
        for Form { target, fields } in FORMS {
            let (mut since, mut replica) = (start.clone(), BTreeSet::new());
            let (mut evicted, mut ids) = (0, BTreeSet::new());
            wait_until("a replica has the keys that are there", || {
                let target = format!("{target}since={since}&wait=100ms");
                let told = connection.ask("GET", &target, fields, b"");
                assert_eq!(told.status(), 200);
                for (event, id, key) in events(told.text()) {
                    since.clone_from(&id);
                    match &*event {
                        "ready" => continue,
                        "put" => assert!(replica.insert(key), "it was not there"),
                        "evict" => {
                            // With values, a put is left out behind which comes another change.
                            replica.remove(&key);
                            evicted += 1;
                        }
                        _ => panic!("{event} of {key}"),
                    }
                    assert!(ids.insert(id), "each is told once");
                }
                let is_all = evicted == metric(&mut connection, "lkv_evicted_total");
                is_all && replica == keys(&mut connection)
            });
            assert!(evicted >= KEYS as u64 * 2 / 3, "{evicted}");
        }
    });
}

/// Stores other keys, and reads them more than one that somebody waits for, until nobody
/// waits.
#[track_caller]
fn evict(engine: Limited, connection: &mut Connection) {
    const ROUNDS_MAX: usize = 40;
    let has_ended = (0..ROUNDS_MAX).any(|round| {
        let others = round * 8..(round + 1) * 8;
        engine.fill(connection, others.clone());
        for other in others.clone().chain(others) {
            // It may have gone already.
            connection.call("HEAD", &format!("/kv/key{other}"));
        }
        metric(connection, "lkv_waiters") == 0
    });
    assert!(has_ended, "it waits behind {} others", ROUNDS_MAX * 8);
}

/// Large values come into a cache that is full of small ones, whose pages come together
/// only once they are laid anew: its memory never passes the limit and 24 MiB.
#[cfg(all(target_os = "linux", not(portable)))]
#[test]
fn resident_memory_stays_within_the_limit_where_sizes_jump() {
    use crate::support::process::Process;
    use std::thread;

    const MIB: usize = 1 << 20;
    const LIMIT_MIB: u64 = 64;
    const SMALL_BYTES: usize = 1000;
    const CLIENTS: usize = 3;
    let process = Process::start(&["--max-memory", "64MiB", "--when-full", "evict"]);
    let mut connection = process.connect();
    let small = "s".repeat(SMALL_BYTES);
    let line = |number| format!("{{\"key\":\"small:{number:010}\",\"value\":\"{small}\"}}\n");
    let lines = (0..80_000_u32).map(line).collect::<Vec<_>>().concat();
    let stored = connection.ask("POST", "/import", &[], lines.as_bytes());
    says(&stored, 200, "80000\n");
    assert!(metric(&mut connection, "lkv_evicted_total") > 0, "it is full");

    let large = vec![b'l'; 10 * MIB];
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (addr, large) = (process.addr(), &large);
            scope.spawn(move || {
                for number in 0..4 {
                    let target = format!("/kv/large:{client}:{number}");
                    // One that waits for the room of others for long is refused.
                    wait_until("it is stored", || {
                        let status = Connection::open(addr).put(&target, large).status();
                        assert!(matches!(status, 200 | 503), "{status}");
                        status == 200
                    });
                }
            });
        }
    });
    for number in 0..2000 {
        assert_eq!(connection.put(&format!("/kv/{number}"), small.as_bytes()).status(), 200);
    }
    let [peak, program] = ["VmHWM", "RssFile"].map(|name| process.memory_mib(name));
    // The program itself has 6 of these MiB, and more in a build for tests.
    assert!(peak - program <= LIMIT_MIB + 24 - 6, "{peak} MiB at its peak, {program} its own");
}

#[test]
fn those_who_wait_for_a_key_are_told_of_its_eviction() {
    on_every_cache(|engine, server| {
        let mut connection = server.connect();
        let etag = |answer: &Response| answer.header("ETag").expect("it is stored").to_owned();
        // Each has a key of its own: one that was used before would stay longer.
        for (key, method, is_any, status, text) in [
            ("read", "GET", true, 404, "key not found\n"),
            ("compared", "GET", false, 404, "key not found\n"),
            ("held", "PUT", true, 201, ""),
        ] {
            let stored = connection.put(&format!("/kv/{key}"), &engine.value());
            let tags = if is_any { "*".to_owned() } else { etag(&stored) };
            let body = if method == "PUT" { "mine" } else { "" };
            let mut waiter = server.connect();
            waiter.send(format!(
                "{method} /kv/{key}?wait=10m HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tags}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            wait_until("it waits", || metric(&mut connection, "lkv_waiters") == 1);
            evict(engine, &mut connection);
            says(&waiter.response(), status, text);
        }
    });
}
