//! Watches: their parse, what is refused in order, and the parts of their replies.

use super::collection::KEYS_OF_ALL_KINDS;
use super::{Api, Call, Refusal, Reply, Untouchable, api_over, check_form, key};
use crate::api::{Rest, Step, Waiting};
use crate::storage::{
    BatchOp, Blocking as _, Changes, Done, Entry, Error, Limits, Memory, Op, Outcome, Revision,
    Storage, Time,
};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

type Field = (&'static str, &'static str);

const EVENTS: Field = ("Accept", "text/event-stream");
const LINES: Field = ("Accept", "application/x-ndjson");

/// The most bytes of a part, but for its last line.
const PART_BYTES: usize = 64 << 10;

fn ask(api: &Api, line: &str, fields: &[(&str, &str)]) -> Reply {
    let (method, target) = line.split_once(' ').unwrap();
    let reply = api.answer(&Call { method, target, fields, body_bytes: Some(0) }, Bytes::new());
    check_form(line, &reply);
    reply
}

/// A request that waits, before its first look.
fn begin_wait(api: &Api, target: &str) -> Arc<dyn Waiting> {
    let call = Call { method: "GET", target, fields: &[], body_bytes: None };
    let Step::Wait(waiting) = api.try_now(api.admit(&call).decision.unwrap(), Bytes::new()) else {
        panic!("it waits")
    };
    waiting
}

fn text(reply: &Reply) -> &str {
    std::str::from_utf8(reply.body()).unwrap()
}

/// A text with a star for each revision, and a zero behind it for one before all history.
fn masked(text: &str) -> String {
    let tokens = text.split_inclusive([' ', '\n', '"']).map(|token| {
        let end = if token.ends_with([' ', '\n', '"']) { token.len() - 1 } else { token.len() };
        let (token, separator) = token.split_at(end);
        let token = match token.parse::<Revision>() {
            Ok(revision) if revision.place == 0 => "*0",
            Ok(_) => "*",
            Err(_) => token,
        };
        [token, separator].concat()
    });
    tokens.collect()
}

/// The revisions in a text of lines, in order.
fn revisions(text: &str) -> Vec<Revision> {
    text.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect()
}

fn last_revision(reply: &Reply) -> Revision {
    *revisions(text(reply)).last().unwrap()
}

/// A store with a change log that may not be touched otherwise.
struct Unread(Changes);

impl Unread {
    fn new() -> Self {
        Self(Changes::new(4096, Revision::newborn(), true))
    }
}

impl Storage for Unread {
    fn try_now(&self, _op: Op) -> Result<Outcome, Op> {
        panic!("an operation")
    }

    fn submit(&self, _op: Op, _done: Done) {
        panic!("an operation")
    }

    fn changes(&self) -> Option<&Changes> {
        Some(&self.0)
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A memory whose operations all come later, and fail or panic on demand.
struct Later {
    memory: Memory,
    fails: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
}

impl Storage for Later {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        assert!(!self.panics.load(Ordering::Relaxed), "it is to");
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        if self.fails.load(Ordering::Relaxed) {
            return done(Err(Error::Overloaded));
        }
        self.memory.submit(op, done);
    }

    fn changes(&self) -> Option<&Changes> {
        self.memory.changes()
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The first check that fails is told.
#[test]
fn what_is_no_watch_is_refused_in_order() {
    let revision = "1-1";
    let malformed = ("Last-Event-ID", "x");
    let too_long = format!("prefix={}", "k".repeat(1025));
    let cases: [(&str, &[Field], Refusal); 32] = [
        ("x", &[], Refusal::QueryUnknown),
        ("after=a", &[], Refusal::QueryUnknown),
        ("Prefix=a", &[], Refusal::QueryUnknown),
        ("%70refix=a", &[], Refusal::QueryUnknown),
        ("prefix=a&prefix=a", &[], Refusal::QueryContradictory),
        ("values&values", &[], Refusal::QueryContradictory),
        ("wait=x&wait=x", &[], Refusal::WaitMalformed),
        ("prefix=a&key=b", &[], Refusal::QueryContradictory),
        ("key=b&prefix", &[], Refusal::QueryContradictory),
        ("key=b&prefix=&x", &[], Refusal::QueryUnknown),
        ("key", &[], Refusal::KeyEmpty),
        ("key=", &[], Refusal::KeyEmpty),
        ("key=%", &[], Refusal::KeyEscape),
        ("prefix=%zz", &[], Refusal::KeyEscape),
        ("prefix=%ff", &[], Refusal::KeyNotUtf8),
        (&too_long, &[], Refusal::KeyTooLong),
        ("since", &[], Refusal::SinceMalformed),
        ("since=", &[], Refusal::SinceMalformed),
        ("since=1", &[], Refusal::SinceMalformed),
        ("since=00", &[], Refusal::SinceMalformed),
        ("since=x-1", &[], Refusal::SinceMalformed),
        ("since=1-x", &[], Refusal::SinceMalformed),
        ("values=1", &[], Refusal::QueryMalformed),
        ("wait=0", &[], Refusal::WaitMalformed),
        ("wait=601", &[], Refusal::WaitMalformed),
        ("wait=1.5", &[], Refusal::WaitMalformed),
        ("", &[malformed], Refusal::SinceMalformed),
        ("", &[("last-event-id", " x ")], Refusal::SinceMalformed),
        ("", &[("Last-Event-ID", revision), ("Last-Event-ID", revision)], {
            Refusal::SinceMalformed
        }),
        ("since=x", &[("Last-Event-ID", revision)], Refusal::SinceMalformed),
        ("since=1-1", &[malformed], Refusal::SinceMalformed),
        ("wait=0", &[malformed], Refusal::WaitMalformed),
    ];
    for (query, fields, refusal) in cases {
        for method in ["GET", "HEAD"] {
            let reply = ask(&api_over(Untouchable), &format!("{method} /watch?{query}"), fields);
            let expected = Reply::from(refusal);
            assert_eq!(reply.status(), expected.status(), "{query} {fields:?}");
            assert_eq!(reply.body(), expected.body(), "{query} {fields:?}");
        }
    }
}

#[test]
fn an_engine_without_a_change_log_cannot_be_watched() {
    for line in ["GET /watch", "HEAD /watch", "GET /watch?since=0", "GET /watch?wait=1ms"] {
        let reply = ask(&api_over(Untouchable), line, &[]);
        assert_eq!((reply.status(), text(&reply)), (501, "not on this engine\n"), "{line}");
    }
}

#[test]
fn the_form_is_the_one_that_is_accepted_best() {
    const TEXT: &str = "text/plain; charset=utf-8";
    let cases = [
        ("/watch", None, TEXT),
        ("/watch", Some("*/*"), TEXT),
        ("/watch", Some("text/html"), TEXT),
        ("/watch", Some("text/*"), TEXT),
        ("/watch", Some("text/event-stream"), EVENTS.1),
        ("/watch", Some("application/x-ndjson"), LINES.1),
        ("/watch", Some("application/x-ndjson;q=0.5, text/event-stream"), EVENTS.1),
        ("/watch", Some("application/x-ndjson, text/event-stream;q=0.5"), LINES.1),
        ("/watch", Some("text/plain, text/event-stream;q=0.5"), TEXT),
        ("/watch", Some("text/event-stream;q=0"), TEXT),
        ("/watch?values", None, LINES.1),
        ("/watch?values=", Some("*/*"), LINES.1),
        ("/watch?values", Some("text/plain"), LINES.1),
        ("/watch?values", Some("text/event-stream"), EVENTS.1),
        ("/watch?values", Some("application/x-ndjson, text/event-stream;q=0.5"), LINES.1),
        ("/watch?since=0", Some("text/event-stream"), EVENTS.1),
        ("/watch?wait=1ms", Some("text/event-stream"), EVENTS.1),
    ];
    for (target, accept, media_type) in cases {
        let field = accept.map(|accept| ("Accept", accept));
        let [get, head] = ["GET", "HEAD"].map(|method| {
            let api = api_over(Memory::new());
            ask(&api, &format!("{method} {target}"), field.as_slice())
        });
        for reply in [&get, &head] {
            assert_eq!(reply.status(), 200, "{target} {accept:?}");
            assert_eq!(reply.header("Content-Type"), Some(media_type), "{target} {accept:?}");
            assert_eq!(reply.header("Cache-Control"), Some("no-cache"));
            assert_eq!(reply.header("Vary"), Some("Accept"));
            assert_eq!(reply.header("X-Accel-Buffering"), Some("no"));
        }
        let names = |reply: &Reply| -> Vec<_> { reply.headers().map(|(name, _)| name).collect() };
        assert_eq!(names(&get), names(&head), "{target} {accept:?}");
    }
}

/// The head of a watch costs no place among the watchers, and is no stream.
#[test]
fn a_head_is_answered_without_a_look() {
    for target in ["/watch", "/watch?since=0", "/watch?wait=10m", "/watch?values&since=1-1"] {
        let api = api_over(Unread::new());
        let call = Call { method: "HEAD", target, fields: &[], body_bytes: Some(0) };
        assert!(!api.admit(&call).decision.unwrap().is_stream(), "{target}");
        let reply = ask(&api, &format!("HEAD {target}"), &[]);
        assert_eq!((reply.status(), text(&reply)), (200, ""), "{target}");
        assert!(reply.has_rest() && !reply.is_stream(), "it has a length: {target}");
    }
}

#[test]
fn what_has_no_end_is_a_stream() {
    let api = api_over(Memory::new());
    for (target, is_stream) in [
        ("/watch", true),
        ("/watch?since=0", true),
        ("/watch?key=a&values", true),
        ("/watch?wait=1ms", false),
        ("/watch?since=0&wait=1ms", false),
    ] {
        let call = Call { method: "GET", target, fields: &[], body_bytes: Some(0) };
        assert_eq!(api.admit(&call).decision.unwrap().is_stream(), is_stream, "{target}");
        let reply = ask(&api, &format!("GET {target}"), &[]);
        assert_eq!((reply.is_stream(), reply.has_rest()), (is_stream, is_stream), "{target}");
    }
}

/// A memory with an API over it.
fn memory() -> (Memory, Api) {
    let memory = Memory::new();
    (memory.clone(), api_over(memory))
}

fn set(memory: &Memory, name: &str, value: impl Into<Bytes>) {
    memory.set(key(name), Entry::new(value.into())).unwrap();
}

/// A stream that is read part by part.
struct Parts<'a> {
    api: &'a Api,
    rest: Option<Rest>,
}

impl<'a> Parts<'a> {
    /// A stream and its first part.
    fn begin(api: &'a Api, target: &str, fields: &[Field]) -> (Self, String) {
        let mut reply = ask(api, &format!("GET {target}"), fields);
        assert_eq!(reply.status(), 200, "{target}");
        let first = text(&reply).to_owned();
        (Self { api, rest: reply.take_rest() }, first)
    }

    /// The reply with the next part, which has to come.
    fn next_reply(&mut self) -> Reply {
        let mut reply = self.api.next_part(self.rest.take().expect("it has gone on"));
        self.rest = reply.take_rest();
        reply
    }

    fn next(&mut self) -> String {
        let reply = self.next_reply();
        assert_eq!(reply.status(), 200);
        text(&reply).to_owned()
    }

    /// The parts up to the end of one with this text.
    fn up_to(&mut self, end: &str) -> String {
        let mut all = String::new();
        while !masked(&all).ends_with(end) {
            all.push_str(&self.next());
        }
        all
    }

    /// What the next part waits for, and the part, once it comes.
    fn wait(self) -> (Arc<dyn Waiting>, crossbeam_channel::Receiver<Reply>) {
        let Step::Wait(waiting) = self.api.go_on(self.rest.expect("it goes on")) else {
            panic!("it does not wait")
        };
        let (done, reply) = crossbeam_channel::bounded(1);
        self.api.wait(Arc::clone(&waiting), move |told| done.send(told).unwrap());
        (waiting, reply)
    }
}

#[test]
fn a_watch_from_now_on_is_ready_and_tells_each_change() {
    let (memory, api) = memory();
    set(&memory, "before", "x");
    let (mut parts, first) = Parts::begin(&api, "/watch", &[]);
    assert_eq!(masked(&first), "ready *\n");
    set(&memory, "a b", "x");
    assert_eq!(masked(&parts.next()), "put * a%20b\n");
    memory.delete(&key("a b")).unwrap();
    set(&memory, "c", "x");
    assert_eq!(masked(&parts.up_to("c\n")), "delete * a%20b\nput * c\n");
    let expiry = Time::now().after(Duration::from_millis(20));
    memory.set(key("d"), Entry::new("x".into()).with_expiry(Some(expiry))).unwrap();
    assert_eq!(masked(&parts.up_to("expire * d\n")), "put * d\nexpire * d\n");
}

#[test]
fn nothing_else_than_what_is_watched_is_told() {
    let (memory, api) = memory();
    let (mut of_prefix, _) = Parts::begin(&api, "/watch?prefix=job%3A", &[]);
    let (mut of_key, _) = Parts::begin(&api, "/watch?key=job%3a1", &[]);
    for name in ["job", "job:", "jobs", "job:1", "job:11", "k"] {
        set(&memory, name, "x");
    }
    memory.delete(&key("job:1")).unwrap();
    let told = of_prefix.up_to("delete * job:1\n");
    assert_eq!(masked(&told), "put * job:\nput * job:1\nput * job:11\ndelete * job:1\n");
    assert_eq!(masked(&of_key.up_to("delete * job:1\n")), "put * job:1\ndelete * job:1\n");
}

#[test]
fn a_watch_since_the_state_tells_that_first() {
    let (memory, api) = memory();
    for name in ["b", "a:2", "a:1"] {
        set(&memory, name, "x");
    }
    memory.delete(&key("b")).unwrap();
    for (target, fields, expected) in [
        ("/watch?since=0", &[][..], "reset *0\nput *0 a:1\nput *0 a:2\nready *\n"),
        ("/watch?since=0&prefix=a:2", &[], "reset *0\nput *0 a:2\nready *\n"),
        ("/watch?since=0&key=a:1", &[], "reset *0\nput *0 a:1\nready *\n"),
        ("/watch?since=0&key=b", &[], "reset *0\nready *\n"),
        ("/watch?since=0&wait", &[], "reset *0\nput *0 a:1\nput *0 a:2\nready *\n"),
        // A browser that comes again.
        ("/watch", &[("Last-Event-ID", "0")], "reset *0\nput *0 a:1\nput *0 a:2\nready *\n"),
        ("/watch?since=0", &[("Last-Event-ID", " ")], {
            "reset *0\nput *0 a:1\nput *0 a:2\nready *\n"
        }),
        // Nothing is known of such a history.
        ("/watch?since=1-1&prefix=c", &[], "reset *0\nready *\n"),
        ("/watch?since=ffffffffffffffff-18446744073709551615&key=b", &[], {
            "reset *0\nready *\n"
        }),
    ] {
        let (_, first) = Parts::begin(&api, target, fields);
        assert_eq!(masked(&first), expected, "{target}");
    }
}

#[test]
fn a_watch_since_a_position_tells_what_has_changed() {
    let (memory, api) = memory();
    let (_, first) = Parts::begin(&api, "/watch", &[]);
    let start = revisions(&first)[0];
    for name in ["a", "b", "c"] {
        set(&memory, name, "x");
    }
    let (mut parts, all) = Parts::begin(&api, &format!("/watch?since={start}"), &[]);
    assert_eq!(masked(&all), "put * a\nput * b\nput * c\nready *\n");
    let ids = revisions(&all);
    let places = [start, ids[0], ids[1], ids[2]].map(|id| id.place);
    assert!(places.is_sorted_by(|one, other| one < other), "{places:?}");
    assert_eq!(ids[2], ids[3]);
    // The head's position is that of the present.
    let reply = ask(&api, &format!("GET /watch?since={start}"), &[]);
    assert_eq!(reply.header("Revision"), Some(&*ids[3].to_string()));

    for (id, told) in [(ids[0], "put * b\nput * c\nready *\n"), (ids[2], "ready *\n")] {
        let (_, first) = Parts::begin(&api, &format!("/watch?since={id}"), &[]);
        assert_eq!(masked(&first), told);
        // The field goes before the parameter.
        let id: &'static str = Box::leak(id.to_string().into_boxed_str());
        let (_, first) = Parts::begin(&api, "/watch?since=0", &[("last-event-id", id)]);
        assert_eq!(masked(&first), told);
    }
    // Of what is not watched only the position is told.
    let (_, first) = Parts::begin(&api, &format!("/watch?since={start}&prefix=x"), &[]);
    assert_eq!(masked(&first), "ready *\n");
    assert_eq!(revisions(&first), [ids[3]]);
    // A position ahead of the store is one of another history.
    let ahead = Revision { place: ids[3].place + 1, ..ids[3] };
    let (_, first) = Parts::begin(&api, &format!("/watch?since={ahead}&prefix=b"), &[]);
    assert_eq!(masked(&first), "reset *0\nput *0 b\nready *\n");
    // So is the beginning of all, which lines of a state have.
    let (_, first) = Parts::begin(&api, &format!("/watch?since={}", start.before_all()), &[]);
    assert!(first.starts_with("reset "), "{first}");

    set(&memory, "d", "x");
    assert_eq!(masked(&parts.next()), "put * d\n");
}

#[test]
fn one_that_waits_is_answered_with_the_first_changes_or_at_the_end() {
    let (memory, api) = memory();
    let reply = ask(&api, "GET /watch?wait=5ms", &[]);
    assert_eq!(masked(text(&reply)), "ready *\n");
    let start = last_revision(&reply);
    let ask_since = |id: Revision, query: &str| {
        let reply = ask(&api, &format!("GET /watch?since={id}&{query}"), &[]);
        assert!(!reply.has_rest());
        (masked(text(&reply)), last_revision(&reply))
    };
    assert_eq!(ask_since(start, "wait=5ms"), ("ready *\n".to_owned(), start));
    set(&memory, "a", "x");
    set(&memory, "other", "x");
    // What has changed already is not waited for.
    let (told, next) = ask_since(start, "prefix=a&wait=10m");
    assert_eq!(told, "put * a\nready *\n");
    let (told, next) = ask_since(next, "prefix=a&wait=5ms");
    assert_eq!(told, "ready *\n", "the first one has told it");
    let (told, _) = ask_since(next, "wait=5ms");
    assert_eq!(told, "ready *\n", "all of the others is behind it");

    // What has not is.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask_since(next, "wait=10m"));
        set(&memory, "b", "x");
        assert_eq!(asked.join().unwrap().0, "put * b\nready *\n");
    });

    // So is what comes between its beginning and its first look.
    let next = memory.changes().unwrap().revision();
    let waiting = begin_wait(&api, &format!("/watch?since={next}&wait=10m"));
    set(&memory, "c", "x");
    assert_eq!(masked(text(&api.take(Step::Wait(waiting)))), "put * c\nready *\n");
}

#[test]
fn one_that_waits_is_told_all_that_is_there_by_then() {
    const KEYS: usize = 1000;
    let (memory, api) = memory();
    let start = memory.changes().unwrap().revision();
    let batch = |value: &str| {
        let entry = || Entry::new(Bytes::copy_from_slice(value.as_bytes()));
        let ops = (0..KEYS).map(|number| (key(&format!("{number:04}")), BatchOp::Set(entry())));
        memory.batch(ops.collect()).unwrap();
    };
    batch("1");
    let (_, whole) = Parts::begin(&api, &format!("/watch?wait&since={start}"), &[]);
    assert_eq!((whole.lines().count(), whole.matches("ready").count()), (KEYS + 1, 1));
    // There is no room for this in one part.
    let target = format!("/watch?wait&values&since={start}");
    let (mut parts, first) = Parts::begin(&api, &target, &[]);
    let told = [&first[..], &parts.up_to("\"ready\",\"id\":\"*\"}\n")].concat();
    assert_eq!((told.lines().count(), told.matches("\"ready\"").count()), (KEYS + 1, 1));
    assert!(parts.rest.is_none());
    // One that is woken in the middle of others is no other.
    let since = memory.changes().unwrap().revision();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&api, &format!("GET /watch?wait&since={since}"), &[]));
        batch("2");
        assert_eq!(text(&asked.join().unwrap()).lines().count(), KEYS + 1);
    });
}

#[test]
fn events_are_told_as_a_browser_reads_them() {
    let (memory, api) = memory();
    set(&memory, "a b", "one");
    let (mut parts, first) = Parts::begin(&api, "/watch?since=0", &[EVENTS]);
    assert_eq!(
        masked(&first),
        "retry: 1000\n\n\
         event: reset\ndata: reset\n\n\
         event: put\ndata: a%20b\n\n\
         id: *\n\n"
    );
    set(&memory, "c", "x");
    assert_eq!(masked(&parts.next()), "event: put\nid: *\ndata: c\n\n");
    memory.delete(&key("c")).unwrap();
    assert_eq!(masked(&parts.next()), "event: delete\nid: *\ndata: c\n\n");
    let (_, first) = Parts::begin(&api, "/watch", &[EVENTS]);
    assert_eq!(masked(&first), "retry: 1000\n\nid: *\n\n");

    let (mut parts, first) = Parts::begin(&api, "/watch?since=0&values", &[EVENTS]);
    assert_eq!(
        masked(&first),
        "retry: 1000\n\n\
         event: reset\ndata: reset\n\n\
         event: put\ndata: {\"key\":\"a b\",\"value\":\"one\",\
         \"etag\":\"7692c3ad3540bb803c020b3aee66cd88\"}\n\n\
         id: *\n\n"
    );
    memory.delete(&key("a b")).unwrap();
    assert_eq!(masked(&parts.next()), "event: delete\nid: *\ndata: {\"key\":\"a b\"}\n\n");
}

#[test]
fn lines_of_json_have_the_members_of_a_list() {
    let (memory, api) = memory();
    set(&memory, "a b", "one");
    let (mut parts, first) = Parts::begin(&api, "/watch?since=0", &[LINES]);
    assert_eq!(
        masked(&first),
        "{\"event\":\"reset\",\"id\":\"*0\"}\n\
         {\"event\":\"put\",\"id\":\"*0\",\"key\":\"a b\"}\n\
         {\"event\":\"ready\",\"id\":\"*\"}\n"
    );
    memory.delete(&key("a b")).unwrap();
    assert_eq!(masked(&parts.next()), "{\"event\":\"delete\",\"id\":\"*\",\"key\":\"a b\"}\n");
}

/// The members behind the key are those of the same key in a list.
#[test]
fn values_are_those_of_a_list() {
    let (memory, api) = memory();
    let expiry = Time::now().after(Duration::from_hours(1));
    let entries = [
        ("text", Entry::new("say \"so\"\n".into())),
        ("bytes", Entry::new((&b"\xff\0"[..]).into())),
        ("typed", Entry::new("x".into()).with_content_type(Some("text/html".into()))),
        ("expiring", Entry::new("x".into()).with_expiry(Some(expiry))),
        ("longest", Entry::new(vec![b'\x01'; 64 << 10].into())),
    ];
    let (mut parts, first) = Parts::begin(&api, "/watch?values", &[]);
    assert_eq!(masked(&first), "{\"event\":\"ready\",\"id\":\"*\"}\n");
    for (name, entry) in entries {
        memory.set(key(name), entry).unwrap();
        let list = ask(&api, &format!("GET /kv?values&prefix={name}"), &[]);
        let expected = text(&list).strip_prefix('{').unwrap();
        let told = masked(&parts.next());
        assert_eq!(told, format!("{{\"event\":\"put\",\"id\":\"*\",{expected}"));
        let target = format!("/watch?values&since=0&key={name}");
        let state = masked(text(&ask(&api, &format!("GET {target}"), &[])));
        let line = format!("{{\"event\":\"put\",\"id\":\"*0\",{expected}");
        assert!(state.contains(&line), "{name}: {state}");
        let target = format!("/watch?values&since=0&prefix={name}");
        assert_eq!(masked(text(&ask(&api, &format!("GET {target}"), &[]))), state);
    }
}

#[test]
fn a_long_value_is_left_out_and_its_length_told() {
    let (memory, api) = memory();
    set(&memory, "a", vec![b'x'; (64 << 10) + 1]);
    let list = ask(&api, "GET /kv?values", &[]);
    let etag = &text(&list)[list.body().len() - 36..];
    let line = format!("\"key\":\"a\",\"bytes\":65537,\"etag\":{etag}");
    let (mut parts, first) = Parts::begin(&api, "/watch?values&since=0", &[]);
    let lines: Vec<&str> = first.lines().collect();
    assert!(lines[1].ends_with(line.trim_end()), "{}", lines[1]);
    set(&memory, "a", vec![b'x'; (64 << 10) + 1]);
    let told = parts.next();
    assert!(told.ends_with(&line), "{told}");
}

#[test]
fn a_put_that_is_overtaken_is_left_out() {
    let (memory, api) = memory();
    let (_, first) = Parts::begin(&api, "/watch?wait=1ms", &[]);
    let start = revisions(&first)[0];
    for (name, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", "2")] {
        set(&memory, name, value);
    }
    memory.delete(&key("c")).unwrap();
    set(&memory, "a", "3");
    memory.delete(&key("d")).unwrap();
    let reply = ask(&api, &format!("GET /watch?values&wait&since={start}"), &[]);
    let told: Vec<_> = text(&reply).lines().map(event_and_value).collect();
    let expected = [("put", "b", "2"), ("delete", "c", ""), ("put", "a", "3"), ("ready", "", "")];
    assert_eq!(told, expected);
    // Without values nothing is.
    let reply = ask(&api, &format!("GET /watch?wait&since={start}"), &[]);
    assert_eq!(text(&reply).lines().count(), 8);
}

/// The event, the key and the value of a line of JSON.
fn event_and_value(line: &str) -> (&str, &str, &str) {
    let member = |name| {
        let (_, rest) = line.split_once(&format!("\"{name}\":\"")).unwrap_or_default();
        rest.split('"').next().unwrap_or_default()
    };
    (member("event"), member("key"), member("value"))
}

/// What has expired and was not swept is no key, and its end is still to come.
#[test]
fn a_put_whose_entry_has_expired_is_left_out() {
    let (memory, api) = memory();
    let (_, first) = Parts::begin(&api, "/watch?wait=1ms", &[]);
    let start = revisions(&first)[0];
    let expiry = Time::now().after(Duration::from_millis(1));
    memory.set(key("a"), Entry::new("x".into()).with_expiry(Some(expiry))).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let (mut parts, first) = Parts::begin(&api, &format!("/watch?values&since={start}"), &[]);
    let all = if first.contains("expire") { first } else { first + &parts.up_to("\"a\"}\n") };
    let told: Vec<_> = all.lines().map(event_and_value).filter(|line| line.0 != "ready").collect();
    assert_eq!(told, [("expire", "a", "")]);
}

#[test]
fn keys_of_all_kinds_are_told_so_that_they_can_be_asked_for() {
    let (memory, api) = memory();
    let (_, first) = Parts::begin(&api, "/watch?wait=1ms", &[]);
    let start = revisions(&first)[0];
    for name in KEYS_OF_ALL_KINDS {
        set(&memory, name, *name);
    }
    for since in [start.to_string(), "0".to_owned()] {
        let reply = ask(&api, &format!("GET /watch?wait&since={since}"), &[]);
        let puts = text(&reply).lines().filter_map(|line| line.strip_prefix("put "));
        let told: Vec<&str> = puts.map(|put| put.split_once(' ').unwrap().1).collect();
        assert_eq!(told.len(), KEYS_OF_ALL_KINDS.len());
        let mut keys: Vec<String> = told
            .iter()
            .map(|line| text(&ask(&api, &format!("GET /kv/{line}"), &[])).to_owned())
            .collect();
        let mut expected = KEYS_OF_ALL_KINDS.to_vec();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
    for name in KEYS_OF_ALL_KINDS {
        let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let reply = ask(&api, &format!("GET /watch?wait&since=0&key={encoded}"), &[]);
        assert_eq!(text(&reply).lines().count(), 3, "{name:?}");
    }
}

/// Neither a state nor a history is put together as a whole.
#[test]
fn what_is_long_comes_in_parts() {
    let (memory, api) = memory();
    let (_, first) = Parts::begin(&api, "/watch?wait=1ms", &[]);
    let start = revisions(&first)[0];
    // Long keys, short ones, and long ones again.
    let name = |number: usize| {
        let bytes = if (500..2500).contains(&number) { 1 } else { 600 };
        format!("{number:04}{}", "k".repeat(bytes))
    };
    let names: Vec<String> = (0..3000).map(name).collect();
    for name in &names {
        set(&memory, name, vec![b'x'; 400]);
    }
    for (target, has_values, is_stream) in [
        ("/watch?since=0", false, true),
        ("/watch?since=0&values", true, true),
        ("/watch?since=0&wait", false, false),
        (&*format!("/watch?since={start}"), false, true),
        (&*format!("/watch?since={start}&wait"), false, false),
        (&*format!("/watch?since={start}&values"), true, true),
    ] {
        let (mut parts, first) = Parts::begin(&api, target, &[]);
        let end = if has_values { "{\"event\":\"ready\",\"id\":\"*\"}\n" } else { "ready *\n" };
        let mut all = vec![first];
        while !masked(all.last().unwrap()).ends_with(end) {
            all.push(parts.next());
        }
        assert_eq!(parts.rest.is_some(), is_stream, "{target}");
        assert!((5..500).contains(&all.len()), "{target}: {} parts", all.len());
        assert!(all.iter().all(|part| part.len() < PART_BYTES + 2000), "{target}");
        let all = all.concat();
        let told: Vec<&str> = if has_values {
            all.lines().map(|line| event_and_value(line).1).filter(|key| !key.is_empty()).collect()
        } else {
            all.lines().filter_map(|line| line.split(' ').nth(2)).collect()
        };
        assert_eq!(told, names, "{target}");
    }
}

#[test]
fn a_long_history_of_others_is_passed() {
    let (memory, api) = memory();
    let (_, first) = Parts::begin(&api, "/watch?wait=1ms", &[]);
    let start = revisions(&first)[0];
    set(&memory, "a", "1");
    for number in 0..20_000 {
        set(&memory, "b", number.to_string());
    }
    set(&memory, "a", "2");
    for target in ["/watch?prefix=a", "/watch?wait&prefix=a", "/watch?key=a"] {
        let (mut parts, mut all) = Parts::begin(&api, &format!("{target}&since={start}"), &[]);
        if !target.contains("wait") && !all.contains("ready") {
            all += &parts.up_to("ready *\n");
        }
        let told = masked(&all);
        assert!(["put * a\nput * a\nready *\n", "put * a\nready *\n"].contains(&&*told), "{told}");
    }
    // One that is ended meanwhile is told how far all is.
    let end = last_revision(&ask(&api, "GET /watch?wait=1ms", &[]));
    let waiting = begin_wait(&api, &format!("/watch?prefix=c&since={start}&wait"));
    waiting.end();
    assert_eq!(last_revision(&api.take(Step::Wait(waiting))), end);
}

#[test]
fn changes_beside_a_state_are_told_behind_it() {
    let (memory, api) = memory();
    for number in 0..3000 {
        set(&memory, &format!("{number:04}"), "x");
    }
    let (mut parts, first) = Parts::begin(&api, "/watch?since=0", &[]);
    assert!(!first.contains(" 1000\n"), "there is more than one part");
    set(&memory, "0000", "y");
    memory.delete(&key("2999")).unwrap();
    let rest = parts.up_to("ready *\n");
    let (_, changes) = rest.split_once("2998\n").unwrap();
    assert_eq!(masked(changes), "put * 0000\ndelete * 2999\nready *\n");
}

#[test]
fn where_the_history_does_not_reach_back_the_state_is_told() {
    let memory = Memory::with_limits(Limits { history_bytes: 4096, ..Limits::default() });
    let api = api_over(memory.clone());
    let (mut behind, first) = Parts::begin(&api, "/watch", &[]);
    let start = revisions(&first)[0];
    set(&memory, "a", "x");
    for _ in 0..1000 {
        set(&memory, "b", "x");
    }
    for target in [format!("/watch?since={start}"), format!("/watch?wait&since={start}")] {
        let reply = ask(&api, &format!("GET {target}"), &[]);
        assert_eq!(masked(text(&reply)), "reset *0\nput *0 a\nput *0 b\nready *\n", "{target}");
    }
    // One that has begun is cut: it would have to hold what it has to tell.
    assert_eq!(behind.next_reply().status(), 503);
}

#[test]
fn where_all_may_have_changed_a_stream_starts_over() {
    let (memory, api) = memory();
    set(&memory, "a", "x");
    let (mut parts, first) = Parts::begin(&api, "/watch", &[]);
    let start = revisions(&first)[0];
    memory.clear().unwrap();
    let told = parts.next();
    assert_eq!(masked(&told), "reset *0\nready *\n");
    let ids = revisions(&told);
    assert_ne!(ids[1].birth, start.birth);
    set(&memory, "b", "x");
    assert_eq!(masked(&parts.next()), "put * b\n");
    let (_, first) = Parts::begin(&api, &format!("/watch?since={start}"), &[]);
    assert_eq!(masked(&first), "reset *0\nput *0 b\nready *\n");
    let (_, first) = Parts::begin(&api, &format!("/watch?since={}", ids[1]), &[]);
    assert_eq!(masked(&first), "put * b\nready *\n");
    // One that waits is told at once, too.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&api, "GET /watch?wait=10m", &[]));
        while !asked.is_finished() {
            memory.clear().unwrap();
        }
        // Another may come in the middle of it.
        let told = masked(text(&asked.join().unwrap()));
        assert_eq!(told.trim_start_matches("reset *0\n"), "ready *\n");
        assert!(told.starts_with("reset *0\n"), "{told}");
    });
}

#[test]
fn a_stream_that_is_ended_has_a_last_part() {
    let (memory, api) = memory();
    let (parts, _) = Parts::begin(&api, "/watch?prefix=a", &[]);
    set(&memory, "b", "x");
    let (waiting, reply) = parts.wait();
    assert!(reply.recv_timeout(Duration::from_millis(20)).is_err(), "it has nothing to tell");
    waiting.end();
    let last = reply.recv_timeout(Duration::from_secs(25)).unwrap();
    assert!(!last.has_rest());
    assert_eq!(masked(text(&last)), "ready *\n");
    let (_, first) = Parts::begin(&api, &format!("/watch?since={}", last_revision(&last)), &[]);
    assert_eq!(masked(&first), "ready *\n");

    // One that is ended before it begins to wait is, too.
    let (parts, _) = Parts::begin(&api, "/watch", &[]);
    let Step::Wait(waiting) = api.go_on(parts.rest.unwrap()) else { panic!("it waits") };
    waiting.end();
    let last = api.take(Step::Wait(waiting));
    assert!(!last.has_rest());

    // So is one that waits for the first changes.
    let waiting = begin_wait(&api, "/watch?wait=10m");
    waiting.end();
    assert_eq!(masked(text(&api.take(Step::Wait(waiting)))), "ready *\n");
}

#[test]
fn a_storage_that_fails_breaks_a_stream_off() {
    let memory = Memory::new();
    set(&memory, "a", "x");
    let (fails, panics) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let storage =
        Later { memory: memory.clone(), fails: Arc::clone(&fails), panics: Arc::clone(&panics) };
    let api = api_over(storage);
    for (trouble, status, target) in [
        (&fails, 503, "/watch?since=0"),
        (&fails, 503, "/watch?since=0&key=a"),
        (&panics, 500, "/watch?since=0&key=a"),
        (&fails, 503, "/watch?since=0&key=a&wait"),
    ] {
        let (_, first) = Parts::begin(&api, target, &[]);
        assert!(first.contains("put"), "{target}: {first}");
        trouble.store(true, Ordering::Relaxed);
        assert_eq!(ask(&api, &format!("GET {target}"), &[]).status(), status, "{target}");
        trouble.store(false, Ordering::Relaxed);
    }
    for (trouble, status) in [(&fails, 503), (&panics, 500)] {
        let (mut parts, _) = Parts::begin(&api, "/watch?values", &[]);
        set(&memory, "a", "y");
        assert_eq!(event_and_value(&parts.next()), ("put", "a", "y"));
        trouble.store(true, Ordering::Relaxed);
        set(&memory, "a", "z");
        assert_eq!(parts.next_reply().status(), status);
        trouble.store(false, Ordering::Relaxed);
    }
}
