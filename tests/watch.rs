//! Watches over HTTP, on every engine with a change log: a replica that breaks off anywhere
//! and comes again has all that the store has, and is told of each change once.

#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use crate::support::http::{Connection, PATIENCE};
use crate::support::promises::{Store, on_every_engine};
use crate::support::random::Random;
use crate::support::server::Fixture;
use crate::support::threads::Ended;
use little_key_value::storage::{Done, Error, Limits, Memory, Op, Outcome, Revision, Storage};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The form in which a replica is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Keys alone, as lines of text.
    Text,
    /// Keys and values, as lines of JSON.
    Lines,
    /// The same as events.
    Events,
}

impl Form {
    fn target(self) -> &'static str {
        match self {
            Self::Text => "/watch",
            Self::Lines | Self::Events => "/watch?values",
        }
    }
}

/// A replica of a store, kept by what a watcher is told.
struct Replica {
    form: Form,
    /// The keys, with their values where those are told.
    values: BTreeMap<String, String>,
    /// The id to go on from; empty without one.
    last_id: String,
    /// The position of the last change or `ready`; none since a reset.
    position: Option<Revision>,
    /// How often it has started over.
    resets: usize,
    /// How often all was told.
    readies: usize,
    changes: usize,
    event: Event,
}

/// An event of an `EventSource` on its way (the HTML standard, 9.2.6).
#[derive(Default)]
struct Event {
    kind: String,
    data: String,
    id: Option<String>,
}

/// The body of a stream.
struct Stream {
    connection: Connection,
    /// What has come and is no whole line yet.
    unread: Vec<u8>,
    /// The bytes to be read until it breaks off.
    bytes_left: usize,
}

impl Stream {
    /// Asks for a stream, of which so many bytes are read.
    fn open(server: &Fixture, target: &str, fields: &[&str], bytes_left: usize) -> Self {
        let mut connection = server.connect();
        let fields: String = fields.iter().flat_map(|field| [*field, "\r\n"]).collect();
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        let head = connection.try_head().expect("a stream begins");
        assert_eq!(head.status(), 200, "{target} {fields}");
        assert_eq!(head.header("Transfer-Encoding"), Some("chunked"));
        Self { connection, unread: Vec::new(), bytes_left }
    }

    /// The next line; `None` once it breaks off, be it by the server.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.drain(..=end).collect();
                let line = String::from_utf8(line).expect("lines are text");
                return Some(line.trim_end_matches('\n').to_owned());
            }
            let mut chunk = self.connection.try_chunk().ok().filter(|chunk| !chunk.is_empty())?;
            chunk.truncate(self.bytes_left);
            self.bytes_left -= chunk.len();
            if chunk.is_empty() {
                return None;
            }
            self.unread.append(&mut chunk);
        }
    }
}

impl Replica {
    fn new(form: Form) -> Self {
        let (values, last_id, position, resets, readies, changes, event) = Default::default();
        Self { form, values, last_id, position, resets, readies, changes, event }
    }

    /// Forgets all, as a new one.
    fn forget(&mut self) {
        (self.last_id, self.event) = Default::default();
        (self.position, self.values) = Default::default();
    }

    /// Comes again, to be told from there on, up to so many bytes.
    fn open(&mut self, server: &Fixture, bytes: usize) -> Stream {
        self.event = Event::default();
        let target = self.form.target();
        let separator = if target.contains('?') { '&' } else { '?' };
        if self.form != Form::Events {
            let since = if self.last_id.is_empty() { "0" } else { &self.last_id };
            return Stream::open(server, &format!("{target}{separator}since={since}"), &[], bytes);
        }
        // A browser has one URL.
        let target = format!("{target}{separator}since=0");
        let last_id = format!("Last-Event-ID: {}", self.last_id);
        let mut fields = vec!["Accept: text/event-stream"];
        fields.extend((!self.last_id.is_empty()).then_some(&*last_id));
        Stream::open(server, &target, &fields, bytes)
    }

    /// Reads on until a condition holds, or the stream breaks off.
    fn follow(&mut self, stream: &mut Stream, mut until: impl FnMut(&Self) -> bool) -> bool {
        while !until(self) {
            match stream.line() {
                Some(line) => self.take(&line),
                None => return false,
            }
        }
        true
    }

    fn take(&mut self, line: &str) {
        match self.form {
            Form::Text => {
                let words: Vec<&str> = line.split(' ').collect();
                words[1].clone_into(&mut self.last_id);
                self.apply(words[0], Some(words[1]), words.get(2).copied(), None);
            }
            Form::Lines => {
                let line: Value = serde_json::from_str(line).expect("a line of JSON");
                let id = line["id"].as_str().expect("an id");
                id.clone_into(&mut self.last_id);
                let event = line["event"].as_str().expect("an event");
                self.apply(event, Some(id), line["key"].as_str(), line["value"].as_str());
            }
            Form::Events => self.take_field(line),
        }
    }

    /// Takes a line as an `EventSource` does.
    fn take_field(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.kind),
            "data" => self.event.data.extend([value, "\n"]),
            "id" => self.event.id = Some(value.to_owned()),
            "retry" => assert_eq!(value, "1000"),
            _ => panic!("a browser ignores {line}"),
        }
    }

    fn dispatch(&mut self) {
        let Event { kind, data, id } = std::mem::take(&mut self.event);
        if let Some(id) = &id {
            id.clone_into(&mut self.last_id);
        }
        let (kind, id) = (&*kind, id.as_deref());
        match (kind, data.strip_suffix('\n'), id) {
            // It fires nothing.
            ("", None, None) => {}
            ("", None, Some(id)) => self.apply("ready", Some(id), None, None),
            ("reset", Some("reset"), None) => self.apply("reset", None, None, None),
            (_, Some(data), _) => {
                let line: Value = serde_json::from_str(data).expect("JSON");
                self.apply(kind, id, line["key"].as_str(), line["value"].as_str());
            }
            (_, None, _) => panic!("a browser drops {kind}, for it has no data"),
        }
    }

    fn apply(&mut self, event: &str, id: Option<&str>, key: Option<&str>, value: Option<&str>) {
        let id = id.map(|id| id.parse::<Revision>().expect("a position"));
        let id = id.filter(|id| id.place > 0);
        match (event, key) {
            ("reset", None) => {
                self.values.clear();
                self.position = None;
                self.resets += 1;
            }
            ("ready", None) => {
                let id = id.expect("a position");
                assert!(self.position.is_none_or(|last| is_within(last, id)), "back to {id}");
                self.position = Some(id);
                self.readies += 1;
            }
            ("put" | "delete" | "expire" | "evict", Some(key)) => {
                if event == "put" {
                    self.values.insert(key.to_owned(), value.unwrap_or_default().to_owned());
                } else {
                    self.values.remove(key);
                }
                if let Some(id) = id {
                    let is_next = |last| is_within(last, id) && last.place < id.place;
                    assert!(self.position.is_none_or(is_next), "{event} {id} is not the next");
                    self.position = Some(id);
                    self.changes += 1;
                }
            }
            _ => panic!("no event: {event} {key:?}"),
        }
    }

    fn has_all_of(&self, stored: &BTreeMap<String, String>) -> bool {
        match self.form {
            Form::Text => self.values.keys().eq(stored.keys()),
            Form::Lines | Form::Events => self.values == *stored,
        }
    }
}

/// A position is of the same history, and not before the last one.
fn is_within(last: Revision, id: Revision) -> bool {
    last.birth == id.birth && last.place <= id.place
}

/// All keys of a store and their values.
fn stored(connection: &mut Connection) -> BTreeMap<String, String> {
    let list = connection.get("/kv?values");
    let lines =
        list.text().lines().map(|line| -> Value { serde_json::from_str(line).expect("JSON") });
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    lines.map(|line| (text(&line["key"]), text(&line["value"]))).collect()
}

fn status_of(connection: &mut Connection, method: &str, target: &str, body: &str) -> u16 {
    connection.ask(method, target, &[], body.as_bytes()).status()
}

/// Changes the store in some way.
fn change(connection: &mut Connection, random: &mut Random, number: usize) {
    let key = random.below(30);
    let status = match random.below(100) {
        0 => status_of(connection, "DELETE", "/clear", ""),
        1..25 => status_of(connection, "DELETE", &format!("/kv/k{key}"), ""),
        25..40 => {
            let target = format!("/kv/k{key}?ttl={}ms", 1 + random.below(50));
            status_of(connection, "PUT", &target, &number.to_string())
        }
        40..60 => {
            let line = |key| match random.below(3) {
                0 => format!("{{\"method\":\"DELETE\",\"path\":\"/kv/k{key}\"}}\n"),
                _ => format!("{{\"key\":\"k{key}\",\"value\":\"{number}\"}}\n"),
            };
            let lines: String = (key..key + 8).map(line).collect();
            status_of(connection, "POST", "/batch", &lines)
        }
        60..63 => status_of(connection, "DELETE", "/kv?prefix=k1", ""),
        _ => status_of(connection, "PUT", &format!("/kv/k{key}"), &number.to_string()),
    };
    assert_eq!(status, 200);
}

fn a_replica_that_breaks_off_anywhere_ends_in_the_true_state(store: Store) {
    const WRITERS: usize = 2;
    const CHANGES: usize = 250;
    let random = Random::of_this_run();
    let server = Fixture::over(store);
    let forms = [Form::Text, Form::Lines, Form::Events];
    let (has_ended, deaf) = (AtomicBool::new(false), AtomicUsize::new(forms.len()));
    thread::scope(|scope| {
        let ended = Ended(&has_ended);
        let write = |writer| {
            let (mut random, mut connection) = (random.fork(writer), server.connect());
            let (deaf, last) = (&deaf, Instant::now() + 4 * PATIENCE);
            scope.spawn(move || {
                // On a busy machine it takes a while until all have heard of a change.
                let is_heard = || deaf.load(Ordering::Relaxed) == 0 || Instant::now() > last;
                for number in (0..).take_while(|&number| number < CHANGES || !is_heard()) {
                    change(&mut connection, &mut random, number);
                }
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        let keep = |(fork, form)| {
            let (mut random, server) = (random.fork(fork), &server);
            let (has_ended, deaf) = (&has_ended, &deaf);
            scope.spawn(move || keep_replica(server, form, &mut random, has_ended, deaf))
        };
        let replicas: Vec<_> = (WRITERS..).zip(forms).map(keep).collect();
        for writer in writers {
            writer.join().expect("a writer ends well");
        }
        drop(ended);
        for replica in replicas {
            replica.join().expect("a replica ends well");
        }
    });
}

/// Keeps a replica that breaks off again and again until the writers have ended, and
/// compares it with the store then. Once it has heard, there is one less who is deaf.
fn keep_replica(
    server: &Fixture,
    form: Form,
    random: &mut Random,
    has_ended: &AtomicBool,
    deaf: &AtomicUsize,
) {
    let mut replica = Replica::new(form);
    let (mut breaks, mut has_heard) = (0, false);
    while !has_ended.load(Ordering::Relaxed) || breaks < 20 {
        let mut stream = replica.open(server, random.below(2000));
        // It breaks off in a silence, too, which may be that of a busy machine.
        let silence = Duration::from_millis(if has_heard { 100 } else { 1000 });
        stream.connection.set_patience(silence);
        replica.follow(&mut stream, |_| false);
        breaks += 1;
        if !has_heard && replica.changes > 0 && replica.resets > 0 {
            has_heard = true;
            deaf.fetch_sub(1, Ordering::Relaxed);
        }
        if random.below(10) == 0 {
            replica.forget();
        }
    }
    assert!(has_heard, "{} changes, {} resets", replica.changes, replica.resets);
    let mut connection = server.connect();
    let end = Instant::now() + PATIENCE;
    let mut stream = replica.open(server, usize::MAX);
    let agrees = replica.follow(&mut stream, |replica| {
        // All that expires does so by then, and is told within a second.
        replica.has_all_of(&stored(&mut connection)) || Instant::now() > end
    });
    assert!(agrees, "the stream has broken off");
    let stored = stored(&mut connection);
    assert!(replica.has_all_of(&stored), "{form:?}: {:?} are not {stored:?}", replica.values);
}

fn put(connection: &mut Connection, key: &str, value: &str) {
    assert_eq!(connection.put(&format!("/kv/{key}"), value.as_bytes()).status(), 200);
}

/// Stores many keys at once.
fn put_all(connection: &mut Connection, keys: impl Iterator<Item = String>, value: &str) {
    let mut lines = String::new();
    for key in keys {
        writeln!(lines, "{{\"key\":\"{key}\",\"value\":\"{value}\"}}")
            .expect("a string takes any text");
    }
    assert_eq!(status_of(connection, "POST", "/batch", &lines), 200);
}

fn a_state_beside_writers_has_each_stable_key_once(store: Store) {
    const KEYS: usize = 900;
    let server = Fixture::over(store);
    let mut connection = server.connect();
    let stable: Vec<String> = (0..KEYS).map(|number| format!("k{number:04}-stable")).collect();
    put_all(&mut connection, stable.iter().cloned(), "x");
    let random = Random::of_this_run();
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&has_ended);
        for writer in 0..2 {
            let (mut random, mut connection) = (random.fork(writer), server.connect());
            let has_ended = &has_ended;
            scope.spawn(move || {
                while !has_ended.load(Ordering::Relaxed) {
                    let target = format!("/kv/k{:04}-other", random.below(KEYS));
                    let method = random.one_of(&["PUT", "DELETE"]);
                    let body = if method == "PUT" { "y" } else { "" };
                    assert_eq!(status_of(&mut connection, method, &target, body), 200);
                }
            });
        }
        for (more, prefix) in [("", ""), ("&values", ""), ("&prefix=k01", "k01")] {
            for _ in 0..5 {
                let target = format!("/watch?since=0{more}");
                let mut stream = Stream::open(&server, &target, &[], usize::MAX);
                let lines: Vec<String> = std::iter::from_fn(|| stream.line())
                    .take_while(|line| !line.contains("ready"))
                    .filter(|line| line.contains("-stable"))
                    .collect();
                let expected: Vec<&String> =
                    stable.iter().filter(|key| key.starts_with(prefix)).collect();
                assert_eq!(lines.len(), expected.len(), "{target}");
                let are_told = lines.iter().zip(expected).all(|(line, key)| line.contains(key));
                assert!(are_told, "{target}");
            }
        }
    });
}

/// Whoever stops where it is ready has all of a batch, or nothing.
fn a_batch_is_told_as_a_whole_up_to_where_all_is(store: Store) {
    let server = Fixture::over(store);
    let mut connection = server.connect();
    // Longer than what is read of the history at once.
    let keys = || (0..900).map(|number| format!("k{number:03}"));
    put_all(&mut connection, keys(), "0");
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let (server, has_ended) = (&server, &has_ended);
        scope.spawn(move || {
            let mut connection = server.connect();
            for number in 1.. {
                if has_ended.load(Ordering::Relaxed) {
                    break;
                }
                put_all(&mut connection, keys(), &number.to_string());
            }
        });
        let _ended = Ended(has_ended);
        // A batch may be told in front of the position.
        let told = connection.get("/watch?wait=1ms");
        let start = told.text().lines().find_map(|line| line.strip_prefix("ready "));
        let start = start.expect("a position");
        for since in ["0", start].repeat(10) {
            let target = format!("/watch?since={since}");
            let mut stream = Stream::open(server, &target, &[], usize::MAX);
            let mut told = BTreeMap::<String, usize>::new();
            while let Some(line) = stream.line().filter(|line| !line.starts_with("ready")) {
                let words: Vec<&str> = line.split(' ').collect();
                match *words {
                    ["put", id, key] if !id.ends_with("-0") => {
                        *told.entry(key.to_owned()).or_default() += 1;
                    }
                    _ => {}
                }
            }
            let [first, last] = ["k000", "k899"].map(|key| told.get(key).copied());
            assert_eq!(first, last, "since {since}");
        }
    });
}

/// A list tells the position in front of it, and one who goes on from there misses nothing.
fn a_watch_goes_on_from_a_list(store: Store) {
    let server = Fixture::over(store);
    let mut connection = server.connect();
    put(&mut connection, "a", "x");
    let list = connection.get("/kv");
    put(&mut connection, "b", "x");
    assert_eq!(status_of(&mut connection, "DELETE", "/kv/a", ""), 200);
    let since = list.header("Revision").expect("a position");
    let told = connection.get(&format!("/watch?wait&since={since}"));
    let events: Vec<_> = told.text().lines().map(|line| (event_of(line), key_of(line))).collect();
    assert_eq!(events, [("put", "b"), ("delete", "a"), ("ready", "")]);
}

fn event_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

fn id_of(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

fn key_of(line: &str) -> &str {
    line.split(' ').nth(2).unwrap_or_default()
}

/// It asks again from the last line on, over one connection.
fn one_who_asks_again_and_again_is_told_each_change_once(store: Store) {
    const CHANGES: usize = 200;
    let server = Fixture::over(store);
    let mut connection = server.connect();
    let mut since = id_of(connection.get("/watch?wait=1ms").text().trim_end()).to_owned();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = server.connect();
            for number in 0..CHANGES {
                put(&mut connection, &format!("k{}", number % 7), "x");
                put(&mut connection, &format!("n{number}"), "x");
            }
        });
        let mut told = Vec::new();
        while told.len() < CHANGES {
            let answer = connection.get(&format!("/watch?wait=30s&prefix=n&since={since}"));
            assert!(answer.header("Content-Length").is_some());
            let mut lines: Vec<&str> = answer.text().lines().collect();
            let ready = lines.pop().expect("a last line");
            assert_eq!(event_of(ready), "ready");
            id_of(ready).clone_into(&mut since);
            told.extend(lines.into_iter().map(|line| key_of(line).to_owned()));
        }
        let expected: Vec<String> = (0..CHANGES).map(|number| format!("n{number}")).collect();
        assert_eq!(told, expected);
    });
}

macro_rules! on_every_engine_with_a_log {
    ($($promise:ident)*) => {
        // A new engine adds a line. A cluster has no change log.
        on_every_engine! { memory: $($promise)* }
        on_every_engine! { durable: $($promise)* }
        on_every_engine! { peer: $($promise)* }
    };
}

on_every_engine_with_a_log! {
    a_replica_that_breaks_off_anywhere_ends_in_the_true_state
    a_state_beside_writers_has_each_stable_key_once
    a_batch_is_told_as_a_whole_up_to_where_all_is
    a_watch_goes_on_from_a_list
    one_who_asks_again_and_again_is_told_each_change_once
}

/// One that is behind by more than the history is cut, and starts over as it comes again.
#[test]
fn who_falls_behind_the_history_is_cut_and_starts_over() {
    let memory = Arc::new(Memory::with_limits(Limits { history_bytes: 4096, ..Limits::default() }));
    let server = Fixture::over(memory);
    let mut connection = server.connect();
    put(&mut connection, "before", "x");
    for form in [Form::Text, Form::Lines, Form::Events] {
        let mut replica = Replica::new(form);
        let mut stream = replica.open(&server, usize::MAX);
        let is_ready = |replica: &Replica| replica.readies > 0;
        assert!(replica.follow(&mut stream, is_ready), "the stream has broken off");
        let name = |number| format!("{form:?}-{number}");
        // Too many at once, however fast it is.
        put_all(&mut connection, (0..900).map(name), "x");
        assert!(!replica.follow(&mut stream, |_| false));
        assert_ne!(replica.last_id, "");
        assert!(stream.unread.is_empty(), "a line is whole");
        let resets = replica.resets;
        let mut stream = replica.open(&server, usize::MAX);
        replica.readies = 0;
        assert!(replica.follow(&mut stream, is_ready), "the stream has broken off");
        assert_eq!(replica.resets, resets + 1);
        assert!(replica.has_all_of(&stored(&mut connection)));
    }
}

/// A silent stream tells every 15 seconds how far it has come.
#[test]
fn a_silent_stream_is_ready_now_and_then() {
    let server = Fixture::start();
    let begun = Instant::now();
    let mut stream = Stream::open(&server, "/watch?prefix=a", &[], usize::MAX);
    let mut line = || stream.line().expect("the stream goes on");
    let first = line();
    assert_eq!(event_of(&first), "ready");
    let mut connection = server.connect();
    put(&mut connection, "b", "x");
    let second = line();
    assert_eq!(event_of(&second), "ready");
    assert!(begun.elapsed() >= Duration::from_secs(15));
    let [first, second] = [first, second].map(|line| id_of(&line).to_owned());
    assert_ne!(first, second, "what others are told is behind it");
    let told = connection.get(&format!("/watch?wait=1ms&since={second}"));
    assert_eq!(told.text(), format!("ready {second}\n"));
}

/// An engine that keeps no change log.
struct Unlogged(Memory);

impl Storage for Unlogged {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        self.0.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        self.0.submit(op, done);
    }

    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

/// As a cluster is.
#[test]
fn an_engine_without_a_change_log_cannot_be_watched() {
    let server = Fixture::over(Arc::new(Unlogged(Memory::new())));
    for target in ["/watch", "/watch?since=0&values", "/watch?wait=10m"] {
        // Nothing comes behind a stream, be it one that is refused.
        let answer = server.connect().get(target);
        assert_eq!((answer.status(), answer.text()), (501, "not on this engine\n"), "{target}");
        assert_eq!(server.connect().call("HEAD", target).status(), 501);
    }
    assert_eq!(server.connect().get("/kv").header("Revision"), None);
}
