//! Every rule of the API, as tables of a call and its reply.

use super::operations::manual;
use super::routes::ROUTES;
use super::target::Target;
use super::{Access, Api, Call, Hosts, Operation, Pending, Refusal, Reply, Rest, Step, Upload};
use crate::storage::{
    Blocking as _, Done, Effect, Entry, Error, KEY_BYTES_MAX, Key, Memory, Op, Outcome, Storage,
};
use bytes::buf::Reader;
use bytes::{Buf as _, Bytes};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

mod access;
mod archives;
mod cluster;
mod collection;
mod console;
mod importing;
mod many;
mod openapi;
mod origins;
mod probes;
mod revision;
mod waiting;
mod watch;

const VALUE_BYTES_MAX: u64 = 100;
const TOO_LONG: &[u8] = &[b'x'; 101];

const PATHS: &str = "not found: the paths are /kv/{key}, /kv, /batch, /watch, /import, /clear, /metrics, /openapi.json, /livez, /readyz, /healthz, /v8/artifacts/status, /v8/artifacts/events and /v8/artifacts/{hash}\n";
const NOT_ALLOWED: &str = "method not allowed\n";

/// A storage that is full, though reading works.
struct Full;

impl Storage for Full {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Ok(match op {
            Op::Get(_) => Ok(Effect::Found(None)),
            Op::List(_) => Ok(Effect::Listed(Box::default())),
            Op::Count(_) => Ok(Effect::Counted(0, None)),
            Op::Set(..)
            | Op::Delete(_)
            | Op::Update(..)
            | Op::Batch(_)
            | Op::Each(_)
            | Op::UpdateFirst(..)
            | Op::Clear => Err(Error::Full),
        })
    }

    fn submit(&self, _op: Op, _done: Done) {
        panic!("all was done")
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A storage that nobody may come to.
struct Untouchable;

impl Storage for Untouchable {
    fn try_now(&self, _op: Op) -> Result<Outcome, Op> {
        panic!("an operation")
    }

    fn submit(&self, _op: Op, _done: Done) {
        panic!("an operation")
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn api_over(storage: impl Storage + 'static) -> Api {
    Api::new(Arc::new(storage), VALUE_BYTES_MAX)
}

/// An API whose store has one value, under `there`.
fn api() -> Api {
    let memory = Memory::new();
    memory.set(key("there"), Entry::new("value".into())).unwrap();
    api_over(memory)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

impl Api {
    /// All of it: admits a call and performs it with `body`.
    fn answer(&self, call: &Call<'_>, body: Bytes) -> Reply {
        let operation = match self.admit(call).decision {
            Ok(Operation::Import(import)) => {
                return self.import(import, &mut Whole(self, body.reader()));
            }
            // As the server does, which reads no further then.
            Ok(_) if body.len() as u64 > self.value_bytes_max => {
                return Refusal::ValueTooLarge.into();
            }
            Ok(operation) => operation,
            Err(reply) => return reply,
        };
        self.take(self.try_now(operation, body))
    }

    /// The next part of a reply.
    fn next_part(&self, rest: Rest) -> Reply {
        self.take(self.go_on(rest))
    }

    fn take(&self, step: Step) -> Reply {
        let (done, reply) = crossbeam_channel::bounded(1);
        let done = move |told| done.send(told).unwrap();
        match step {
            Step::Reply(reply) => return reply,
            Step::Pending(pending) => self.submit(pending, done),
            Step::Wait(waiting) => self.wait(waiting, done),
        }
        reply.recv().unwrap()
    }
}

/// An upload that is there as a whole.
struct Whole<'a>(&'a Api, Reader<Bytes>);

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.read(buffer)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.1.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.1.consume(bytes);
    }
}

impl Upload for Whole<'_> {
    fn reserve(&mut self, _bytes: u64) -> bool {
        true
    }

    fn release(&mut self) {}

    fn perform(&mut self, pending: Pending) -> Reply {
        self.0.take(self.0.try_step(pending))
    }
}

/// A call written as its request line, `PUT /kv/a`.
fn call(line: &str, body_bytes: Option<u64>) -> Call<'_> {
    let (method, target) = line.split_once(' ').unwrap();
    Call { method, target, fields: &[], body_bytes }
}

fn answer(api: &Api, line: &str, body: &[u8]) -> Reply {
    let reply = api.answer(&call(line, Some(body.len() as u64)), Bytes::copy_from_slice(body));
    // A body whose length is not told in advance makes no difference.
    let again = api.answer(&call(line, None), Bytes::copy_from_slice(body));
    assert!(reply == again || reply.has_rest() && again.has_rest(), "{line}");
    check_form(line, &reply);
    reply
}

/// The body of a reply in full.
fn whole(api: &Api, mut reply: Reply) -> Vec<u8> {
    let mut body = reply.body().to_vec();
    while let Some(rest) = reply.take_rest() {
        reply = api.next_part(rest);
        assert_eq!(reply.status(), 200);
        body.extend_from_slice(reply.body());
    }
    body
}

fn text_of(reply: &Reply) -> (u16, &str) {
    (reply.status(), std::str::from_utf8(reply.body()).unwrap())
}

/// The rules for every reply there is.
fn check_form(line: &str, reply: &Reply) {
    let times = |name| reply.headers().filter(|(field, _)| field == &name).count();
    assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"), "{line}");
    for name in ["X-Content-Type-Options", "Content-Type", "Cache-Control", "Allow"] {
        assert!(times(name) <= 1, "{line}: {reply:?}");
    }
    for (name, value) in reply.headers() {
        assert!(!value.contains(|c: char| c.is_ascii_control()), "{line}: {name}");
    }
    let names_methods = matches!(reply.status(), 204 | 405);
    assert_eq!(names_methods, reply.header("Allow").is_some(), "{line}");
    // A line may be a target alone, with spaces in it.
    let targets = [line, line.split_once(' ').map_or(line, |(_method, target)| target)];
    let is_manual = targets.iter().any(|target| Target::parse(target).path == "/");
    let is_list = reply.header("Vary").is_some() && !is_manual;
    let has_type = reply.header("Content-Type").is_some();
    assert_eq!(!reply.body().is_empty() || is_list, has_type, "{line}");
    let is_write = ["PUT", "POST", "DELETE"].iter().any(|method| line.starts_with(method));
    let is_value = reply.header("Accept-Ranges").is_some();
    let caching =
        if is_list || is_value && !is_write { Some("no-cache") } else { Some("no-store") };
    if reply.status() != 204 {
        assert_eq!(reply.header("Cache-Control"), caching, "{line}");
    }
    if reply.status() < 400 {
        return;
    }
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"), "{line}");
    let text = std::str::from_utf8(reply.body()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{line}: {text:?}");
    assert!(text.ends_with('\n') && text.len() > 1, "{line}: {text:?}");
}

/// A call, its body, and the status and body that answer it.
type Row<'a> = (&'a str, &'a [u8], u16, &'a str);

#[track_caller]
fn check(api: impl Fn() -> Api, rows: &[Row<'_>]) {
    for (line, body, status, text) in rows {
        let reply = answer(&api(), line, body);
        let answered = (reply.status(), std::str::from_utf8(reply.body()).unwrap());
        assert_eq!(answered, (*status, *text), "{line}");
    }
}

#[test]
fn each_route_has_its_answer() {
    check(
        api,
        &[
            ("PUT /kv/new", b"value", 200, ""),
            ("PUT /kv/there", b"another", 200, ""),
            ("GET /kv/there", b"", 200, "value"),
            ("GET /kv/absent", b"", 404, "key not found\n"),
            ("DELETE /kv/there", b"", 200, ""),
            ("DELETE /kv/absent", b"", 200, ""),
            ("DELETE /clear", b"", 200, ""),
            ("GET /healthz", b"", 200, "ok\n"),
            ("GET /livez", b"", 200, "ok\n"),
            ("GET /readyz", b"", 200, "ok\n"),
        ],
    );
}

#[test]
fn any_other_path_names_the_paths_there_are() {
    let targets = [
        "/kvs",
        "/KV",
        "/KV/there",
        "//kv/there",
        "/kv%2Fthere",
        "/*",
        "/kvs/there",
        "/clear/",
        "/clear/all",
        "/Clear",
        "/healthz/",
        "/livez/",
        "/readyz/storage",
        "/health",
        "/cluster/nodes",
        "/raft/append",
        "http://store/nowhere",
        "http://store/*",
    ];
    for target in targets {
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "CONNECT"] {
            check(api, &[(&format!("{method} {target}"), b"", 404, PATHS)]);
        }
    }
}

#[test]
fn a_target_that_is_no_path_is_refused() {
    let targets =
        ["", "?", "kv/there", "**", "*/kv/there", "store.example:8888", "ftp://store/kv/there"];
    let methods = ["GET", "HEAD", "PUT", "DELETE", "POST", "CONNECT"];
    for method in methods {
        for target in targets.into_iter().chain(["*"]) {
            let line = format!("{method} {target}");
            check(api, &[(&line, b"", 400, "the request target is not a path\n")]);
        }
    }
    for target in targets {
        let line = format!("OPTIONS {target}");
        check(api, &[(&line, b"", 400, "the request target is not a path\n")]);
    }
    // The server as a whole has every method that some path has.
    let reply = answer(&api_over(Untouchable), "OPTIONS *", b"");
    let allow = Some("GET, HEAD, PUT, POST, DELETE, OPTIONS");
    assert_eq!((reply.status(), reply.header("Allow")), (204, allow));
}

#[test]
fn the_root_tells_how_to_use_the_store() {
    let get = |target, fields| {
        let call = Call { method: "GET", target, fields, body_bytes: Some(0) };
        let reply = api_over(Untouchable).answer(&call, Bytes::new());
        assert_eq!(reply.status(), 200, "{target}");
        assert_eq!(reply.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(reply.header("Cache-Control"), Some("no-store"));
        String::from_utf8(reply.body().to_vec()).unwrap()
    };
    let named = |host: &str| manual::text("http", Some(host));
    assert_eq!(get("/", &[("host", "store:9000")]), named("store:9000"));
    assert_eq!(get("/?probe=1", &[("Host", "store")]), named("store"));
    assert_eq!(get("http://store", &[("Host", "proxy")]), named("store"));
    assert_eq!(get("http://store:80?x", &[]), named("store:80"));
    let behind_tls = [("Host", "store"), ("X-Forwarded-Proto", "https")];
    assert_eq!(get("/", &behind_tls), manual::text("https", Some("store")));
    assert_eq!(get("/", &[]), manual::text("http", None));
    assert_eq!(get("/", &[("Host", "a"), ("Host", "b")]), manual::text("http", None));
}

#[test]
fn a_method_that_a_path_does_not_have_is_told_which_it_has() {
    let others = ["PATCH", "TRACE", "CONNECT", "get", "Put", "GETT", ""];
    let table = [
        ("/kv/there", "GET, HEAD, PUT, POST, DELETE, OPTIONS", ["POST"].as_slice()),
        ("/kv/absent", "GET, HEAD, PUT, POST, DELETE, OPTIONS", &["POST"]),
        ("/kv", "GET, HEAD, POST, DELETE, OPTIONS", &["PUT"]),
        ("/kv?x", "GET, HEAD, POST, DELETE, OPTIONS", &["PUT"]),
        ("/batch", "POST, OPTIONS", &["GET", "HEAD", "PUT", "DELETE"]),
        ("/clear", "DELETE, OPTIONS", &["GET", "HEAD", "PUT", "POST"]),
        ("/healthz", "GET, HEAD, OPTIONS", &["PUT", "POST", "DELETE"]),
        ("/livez", "GET, HEAD, OPTIONS", &["PUT", "POST", "DELETE"]),
        ("/readyz?verbose", "GET, HEAD, OPTIONS", &["PUT", "POST", "DELETE"]),
        ("/", "GET, HEAD, OPTIONS", &["PUT", "POST", "DELETE"]),
        ("http://store", "GET, HEAD, OPTIONS", &["PUT", "POST", "DELETE"]),
    ];
    for (target, allow, more) in table {
        for method in others.iter().chain(more) {
            let reply = answer(&api_over(Untouchable), &format!("{method} {target}"), b"x");
            assert_eq!(reply.status(), 405, "{method} {target}");
            assert_eq!(reply.body(), NOT_ALLOWED, "{method} {target}");
            assert_eq!(reply.header("Allow"), Some(allow), "{method} {target}");
        }
    }
}

/// The targets of the table, with one key of those that take any.
fn targets() -> impl Iterator<Item = (String, Vec<&'static str>)> {
    ROUTES.iter().map(|route| {
        let methods = route.methods.iter().map(|(method, _)| *method).collect();
        (route.path.replace("{key}", "there"), methods)
    })
}

#[test]
fn the_table_of_routes_is_the_answer_to_options() {
    for (target, methods) in targets() {
        let reply = answer(&api_over(Untouchable), &format!("OPTIONS {target}"), b"");
        assert_eq!((reply.status(), reply.header("Allow")), (204, Some(&*methods.join(", "))));
    }
}

#[test]
fn every_route_has_a_transcript() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let transcripts = files.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
    let requests = transcripts.lines().filter_map(|line| line.strip_prefix("> "));
    let paths: Vec<_> = requests.filter_map(|line| line.split([' ', '?']).nth(1)).collect();
    for route in ROUTES {
        let has_one = match route.prefix() {
            Some(prefix) => paths.iter().any(|path| path.starts_with(prefix)),
            None => paths.contains(&route.path),
        };
        assert!(has_one, "{}", route.path);
    }
}

#[test]
fn a_key_that_is_empty_is_no_collection() {
    let queries = ["", "?", "?prefix=a", "?limit=1&values", "?count", "?take=a", "?x", "?%"];
    for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "PATCH"] {
        for query in queries {
            let line = format!("{method} /kv/{query}");
            check(|| api_over(Untouchable), &[(&line, b"x", 400, "key cannot be empty\n")]);
        }
    }
}

#[test]
fn a_set_value_is_read_back_and_deleted() {
    let api = api_over(Memory::new());
    let steps: [Row<'_>; 7] = [
        ("PUT /kv/kenya:capital", b"Nairobi", 200, ""),
        ("GET /kv/kenya:capital", b"", 200, "Nairobi"),
        ("PUT /kv/kenya:capital", b"NBO", 200, ""),
        ("GET /kv/kenya:capital", b"", 200, "NBO"),
        ("DELETE /kv/kenya:capital", b"", 200, ""),
        ("GET /kv/kenya:capital", b"", 404, "key not found\n"),
        ("DELETE /kv/kenya:capital", b"", 200, ""),
    ];
    for step in steps {
        check(|| api.clone(), &[step]);
    }
}

#[test]
fn clearing_makes_every_key_absent() {
    let api = api();
    answer(&api, "PUT /kv/another", b"x");
    answer(&api, "DELETE /clear", b"");
    for line in ["GET /kv/there", "GET /kv/another"] {
        check(|| api.clone(), &[(line, b"", 404, "key not found\n")]);
    }
}

#[test]
fn head_is_answered_like_get() {
    let targets = [
        "/kv/there",
        "/kv/absent",
        "/kv/",
        "/kv/%",
        "/kv/a?x",
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz?verbose",
        "/clear",
        "/",
    ];
    for target in targets {
        let [get, head] =
            ["GET", "HEAD"].map(|method| answer(&api(), &format!("{method} {target}"), b""));
        assert_eq!(get, head, "{target}");
    }
}

#[test]
fn a_value_has_a_type_and_an_empty_answer_has_none() {
    const TEXT: &str = "text/plain; charset=utf-8";
    const BINARY: &str = "application/octet-stream";
    let table: [(&[u8], &str); 8] = [
        (b"Nairobi", TEXT),
        ("\u{1F1F0}\u{1F1EA}".as_bytes(), TEXT),
        (b"<svg></svg>", TEXT),
        (b"\0", TEXT),
        (b"\xff", BINARY),
        (b"text and then \xc3\x28", BINARY),
        (b"\xe2\x82", BINARY),
        (b"\x89PNG\r\n\x1a\n", BINARY),
    ];
    let api = api();
    for (value, kind) in table {
        let put = answer(&api, "PUT /kv/value", value);
        assert_eq!(put.header("Content-Type"), None);
        let get = answer(&api, "GET /kv/value", b"");
        assert_eq!(get.header("Content-Type"), Some(kind), "{value:?}");
        assert_eq!(get.body(), value);
    }
}

#[test]
fn an_empty_value_is_refused_and_leaves_the_old_one() {
    let api = api();
    let refused: Row<'_> = ("PUT /kv/there", b"", 400, "value cannot be empty\n");
    let kept: Row<'_> = ("GET /kv/there", b"", 200, "value");
    check(|| api.clone(), &[refused, kept]);
}

#[test]
fn a_value_up_to_the_limit_is_stored_and_a_longer_one_is_refused() {
    let longest = &TOO_LONG[..TOO_LONG.len() - 1];
    let text = std::str::from_utf8(longest).unwrap();
    let api = api();
    check(
        || api.clone(),
        &[
            ("PUT /kv/there", TOO_LONG, 413, "value is too large\n"),
            ("GET /kv/there", b"", 200, "value"),
            ("PUT /kv/there", longest, 200, ""),
            ("GET /kv/there", b"", 200, text),
        ],
    );
    assert_eq!(api.value_bytes_max(), VALUE_BYTES_MAX);
}

#[test]
fn a_length_past_the_limit_is_refused_before_the_body() {
    let api = api_over(Untouchable);
    for bytes in [VALUE_BYTES_MAX + 1, u64::MAX] {
        let reply = api.admit(&call("PUT /kv/a", Some(bytes))).decision.err().unwrap();
        assert_eq!(reply.status(), 413, "{bytes}");
    }
    for bytes in [None, Some(1), Some(VALUE_BYTES_MAX)] {
        let admitted = api.admit(&call("PUT /kv/a", bytes)).decision;
        assert!(matches!(admitted, Ok(Operation::Write(_))), "{bytes:?}");
    }
}

type IsRight<'a> = &'a dyn Fn(&Operation) -> bool;

#[test]
fn a_call_in_order_is_admitted_without_touching_the_storage() {
    let api = api_over(Untouchable);
    let is_read = |operation: &Operation| key_read(operation) == Some(&key("a"));
    let is_write = |operation: &Operation| matches!(operation, Operation::Write(write) if write.key == key("a"));
    let is_clear = |operation: &Operation| matches!(operation, Operation::Pending(pending) if matches!(pending.op, Op::Clear));
    let is_list = |operation: &Operation| matches!(operation, Operation::Pending(pending) if matches!(pending.op, Op::List(_)));
    let is_count = |operation: &Operation| matches!(operation, Operation::Pending(pending) if matches!(pending.op, Op::Count(_)));
    let is_health = |operation: &Operation| matches!(operation, Operation::Inspect(_));
    let is_reply = |operation: &Operation| matches!(operation, Operation::Reply(_));
    let table: [(&str, IsRight<'_>); 20] = [
        ("GET /kv/a", &is_read),
        ("HEAD /kv/a", &is_read),
        ("PUT /kv/a", &is_write),
        ("PUT /kv/a?ttl=60", &is_write),
        ("POST /kv/a?append", &is_write),
        ("DELETE /kv/a", &is_write),
        ("DELETE /kv/a?return", &is_write),
        ("GET /", &is_reply),
        ("GET /kv", &is_list),
        ("GET /kv?values", &is_list),
        ("HEAD /kv?limit=1", &is_list),
        ("HEAD /kv", &is_reply),
        ("GET /kv?count", &is_count),
        ("DELETE /kv?prefix=a", &is_list),
        ("DELETE /clear", &is_clear),
        ("GET /healthz", &is_health),
        ("HEAD /healthz", &is_health),
        ("OPTIONS /healthz", &is_reply),
        ("GET /livez", &is_reply),
        ("GET /readyz", &is_health),
    ];
    for (line, is_right) in table {
        let admitted = api.admit(&call(line, Some(1))).decision;
        assert!(admitted.is_ok_and(|operation| is_right(&operation)), "{line}");
    }
    assert_eq!(answer(&api, "GET /healthz", b"").status(), 200);
}

/// The key of a read.
fn key_read(operation: &Operation) -> Option<&Key> {
    let Operation::Read(key, _) = operation else { return None };
    Some(key)
}

/// Each call is wrong in every way that comes after the one it is told about.
#[test]
fn the_checks_come_in_order() {
    check(
        || api_over(Untouchable),
        &[
            ("POST /nowhere?x=1", TOO_LONG, 404, PATHS),
            ("PUT /nowhere", b"", 404, PATHS),
            ("POST /kv/?x=1", TOO_LONG, 400, "key cannot be empty\n"),
            ("GET /kv/", b"", 400, "key cannot be empty\n"),
            ("PUT /kv/", b"", 400, "key cannot be empty\n"),
            ("DELETE /kv/", b"", 400, "key cannot be empty\n"),
            ("POST /kv/%zz?x=1", TOO_LONG, 400, "key has a % without two hexadecimal digits\n"),
            ("POST /kv/%ff?x=1", TOO_LONG, 400, "key is not UTF-8\n"),
            ("POST /kv/a?x=1", TOO_LONG, 405, NOT_ALLOWED),
            ("POST /clear?x=1", TOO_LONG, 405, NOT_ALLOWED),
            ("POST /healthz?x=1", TOO_LONG, 405, NOT_ALLOWED),
            ("POST /readyz?x=1", TOO_LONG, 405, NOT_ALLOWED),
            ("PUT /kv/a?x=1", TOO_LONG, 400, "unknown query parameter\n"),
            ("PUT /kv/a?x=1", b"", 400, "unknown query parameter\n"),
            ("PUT /kv/a", TOO_LONG, 413, "value is too large\n"),
            ("DELETE /clear", TOO_LONG, 413, "value is too large\n"),
            ("PUT /kv/a", b"", 400, "value cannot be empty\n"),
        ],
    );
    let too_long = format!("POST /kv/{}?x=1", "k".repeat(KEY_BYTES_MAX + 1));
    let row: Row<'_> = (&too_long, TOO_LONG, 400, "key is longer than 1024 bytes\n");
    check(|| api_over(Untouchable), &[row]);
    check(|| api_over(Full), &[("PUT /kv/a", b"x", 507, "storage is full\n")]);
}

#[test]
fn the_host_is_checked_before_all_else() {
    let api =
        api_over(Untouchable).with_access(Access { hosts: Hosts::local([]), ..Access::default() });
    let fields = [("Host", "evil.test"), ("TTL", "x"), ("Content-Encoding", "gzip")];
    let lines = [
        "GET /healthz",
        "GET /kv/a",
        "PUT /kv/a?x=1",
        "BREW /nowhere",
        "GET /kv/%zz",
        "DELETE /clear",
        "OPTIONS /kv/a",
    ];
    for line in lines {
        let call = Call { fields: &fields, ..call(line, Some(101)) };
        let reply = api.answer(&call, Bytes::from_static(TOO_LONG));
        assert_eq!(reply, Refusal::HostUnknown.into(), "{line}");
        let text = std::str::from_utf8(reply.body()).unwrap();
        assert!(reply.status() == 403 && text.contains("--allow-host"), "{text}");
        check_form(line, &reply);
    }
    let names = ["store.example.com".parse().unwrap()];
    let api = api_over(Memory::new())
        .with_access(Access { hosts: Hosts::local(names), ..Access::default() });
    let ask = |host| {
        let fields = [("Host", host)];
        api.answer(&Call { fields: &fields, ..call("GET /healthz", None) }, Bytes::new()).status()
    };
    assert_eq!([ask("store.example.com:80"), ask("store"), ask("example.com")], [200, 200, 403]);
}

#[test]
fn whatever_the_storage_refuses_for_want_of_room_is_507() {
    check(
        || api_over(Full),
        &[
            ("PUT /kv/a", b"x", 507, "storage is full\n"),
            ("DELETE /kv/a", b"", 507, "storage is full\n"),
            ("DELETE /clear", b"", 507, "storage is full\n"),
            ("GET /kv/a", b"", 404, "key not found\n"),
            ("GET /healthz", b"", 200, "ok\n"),
            ("GET /readyz", b"", 200, "ok\n"),
        ],
    );
}

#[test]
fn a_full_memory_keeps_what_is_there() {
    let api = api_over(Memory::with_max(5000));
    let fits =
        |index: &usize| answer(&api, &format!("PUT /kv/{index}"), &TOO_LONG[1..]).status() == 200;
    let fitted = (0..1000).take_while(fits).count();
    assert!((5..50).contains(&fitted), "{fitted} fitted");
    for index in 0..fitted {
        assert_eq!(answer(&api, &format!("GET /kv/{index}"), b"").body(), &TOO_LONG[1..]);
    }
    assert_eq!(answer(&api, &format!("GET /kv/{fitted}"), b"").status(), 404);
    for line in ["DELETE /kv/0", "DELETE /kv/1"] {
        assert_eq!(answer(&api, line, b"").status(), 200);
    }
    assert_eq!(answer(&api, &format!("PUT /kv/{fitted}"), b"x").status(), 200);
}

/// The key that a target names, or the text that refuses it.
fn key_of(target: &str) -> Result<String, String> {
    match api_over(Untouchable).admit(&call(&format!("GET {target}"), Some(0))).decision {
        Ok(operation) => Ok(key_read(&operation).expect("a read").as_str().to_owned()),
        Err(reply) => {
            let text = String::from_utf8(reply.body().to_vec()).unwrap();
            assert_eq!(reply.status(), if text == PATHS { 404 } else { 400 }, "{target}");
            Err(text.trim_end().to_owned())
        }
    }
}

#[test]
fn a_key_is_everything_after_the_prefix_decoded_once() {
    let table = [
        ("/kv/a", "a"),
        ("/kv/kenya:capital", "kenya:capital"),
        ("/kv/a%20b", "a b"),
        ("/kv/a+b", "a+b"),
        ("/kv/a%2Bb", "a+b"),
        ("/kv/a/b", "a/b"),
        ("/kv/a%2Fb", "a/b"),
        ("/kv/a%2fb", "a/b"),
        ("/kv//", "/"),
        ("/kv///a//", "//a//"),
        ("/kv/a/", "a/"),
        ("/kv/.", "."),
        ("/kv/..", ".."),
        ("/kv/../clear", "../clear"),
        ("/kv/%2e%2E/a", "../a"),
        ("/kv/%00", "\0"),
        ("/kv/%25", "%"),
        ("/kv/%2541", "%41"),
        ("/kv/%41", "A"),
        ("/kv/%c3%A9", "\u{e9}"),
        ("/kv/\u{e9}", "\u{e9}"),
        ("/kv/%F0%9F%94%91", "\u{1F511}"),
        ("/kv/%0D%0A", "\r\n"),
        ("/kv/a%3Fb", "a?b"),
        ("/kv/a%3Fb?", "a?b"),
        ("/kv/a&b=c", "a&b=c"),
        ("/kv/a;b,c@d!e$f'(g)*", "a;b,c@d!e$f'(g)*"),
        ("/kv/a#b", "a#b"),
        ("/kv/kv/a", "kv/a"),
        ("/kv/clear", "clear"),
        ("/kv/http://host/kv/a", "http://host/kv/a"),
    ];
    for (target, key) in table {
        assert_eq!(key_of(target).as_deref(), Ok(key), "{target}");
    }
}

#[test]
fn a_bad_key_is_told_why() {
    const ESCAPE: &str = "key has a % without two hexadecimal digits";
    const UTF8: &str = "key is not UTF-8";
    const EMPTY: &str = "key cannot be empty";
    let table = [
        ("/kv/", EMPTY),
        ("/kv/?", EMPTY),
        ("/kv/?a=b", EMPTY),
        ("/kv/%", ESCAPE),
        ("/kv/%4", ESCAPE),
        ("/kv/%?41", ESCAPE),
        ("/kv/%4?1", ESCAPE),
        ("/kv/%zz", ESCAPE),
        ("/kv/%4g", ESCAPE),
        ("/kv/%g4", ESCAPE),
        ("/kv/%4g1", ESCAPE),
        ("/kv/%g41", ESCAPE),
        ("/kv/%%41", ESCAPE),
        ("/kv/%4%41", ESCAPE),
        ("/kv/%+4", ESCAPE),
        ("/kv/% 4", ESCAPE),
        ("/kv/%\u{ff14}1", ESCAPE),
        ("/kv/good%20and%", ESCAPE),
        ("/kv/%C3%28", UTF8),
        ("/kv/%ff", UTF8),
        ("/kv/%C3", UTF8),
        ("/kv/%c0%af", UTF8),
        ("/kv/%ed%a0%80", UTF8),
        ("/kv/%f4%90%80%80", UTF8),
        ("/kv/good%20and%80", UTF8),
    ];
    for (target, text) in table {
        assert_eq!(key_of(target), Err(text.to_owned()), "{target}");
    }
}

#[test]
fn a_key_may_have_1024_bytes_however_they_are_written() {
    let long = |piece: &str, copies: usize| key_of(&format!("/kv/{}", piece.repeat(copies)));
    for (piece, decoded, bytes) in
        [("k", "k", 1), ("%6B", "k", 1), ("%C3%A9", "\u{e9}", 2), ("\u{1F511}", "\u{1F511}", 4)]
    {
        let copies = KEY_BYTES_MAX / bytes;
        assert_eq!(long(piece, copies), Ok(decoded.repeat(copies)), "{piece}");
        assert_eq!(long(piece, copies + 1), Err("key is longer than 1024 bytes".to_owned()));
        let one_more = format!("/kv/k{}", piece.repeat(copies));
        assert_eq!(key_of(&one_more), Err("key is longer than 1024 bytes".to_owned()), "{piece}");
    }
}

#[test]
fn what_only_reads_ignores_a_parameter_that_nothing_has() {
    for path in ["/kv/there", "/healthz", "/livez", "/readyz", "/"] {
        for query in ["?", "?&", "?&&&", "?a", "?a=1", "?=", "?&a", "??", "?%", "?/kv/", "?TTL=60"]
        {
            for (method, status) in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)] {
                let line = format!("{method} {path}{query}");
                assert_eq!(answer(&api(), &line, b"").status(), status, "{line}");
            }
        }
    }
    let unknown = "unknown query parameter\n";
    for query in ["ttl=60", "incr", "decr=2", "append", "return", "x&incr"] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            check(api, &[(&format!("{method} /kv/there?{query}"), b"", 400, unknown)]);
        }
        // It is no parameter of any method there.
        assert_eq!(answer(&api(), &format!("GET /healthz?{query}"), b"").status(), 200);
    }
}

#[test]
fn what_writes_refuses_a_parameter_that_it_does_not_have() {
    let unknown = "unknown query parameter\n";
    for line in [
        "PUT /kv/there?a",
        "PUT /kv/there?ttl=60&a",
        "DELETE /kv/there?a",
        "DELETE /kv/there?return&a",
        "POST /kv/there?append&a",
        "DELETE /clear?all",
        "OPTIONS /clear?all",
    ] {
        check(|| api_over(Untouchable), &[(line, b"x", 400, unknown)]);
    }
    assert_eq!(answer(&api(), "DELETE /clear?", b"").status(), 200);
}

#[test]
fn what_is_created_has_its_path() {
    let put = |target: &str, fields| {
        let call = Call { method: "PUT", target, fields, body_bytes: Some(1) };
        api().answer(&call, Bytes::from_static(b"x"))
    };
    let create = [("If-None-Match", "*")];
    let table = [
        ("/kv/a", "/kv/a"),
        ("http://store/kv/a?ttl=60", "/kv/a"),
        ("/kv/kenya:capital/%61,b=c@d~e", "/kv/kenya:capital/a,b=c@d~e"),
        ("/kv/a+b%20c%3Fd%23e%25", "/kv/a%2Bb%20c%3Fd%23e%25"),
        ("/kv/%00%0d%0a\"<>&'*", "/kv/%00%0D%0A%22%3C%3E%26%27%2A"),
        ("/kv/S\u{e3}o", "/kv/S%C3%A3o"),
    ];
    for (target, path) in table {
        let reply = put(target, &create);
        assert_eq!((reply.status(), reply.header("Location")), (201, Some(path)), "{target}");
        assert_eq!(put(target, &[]).header("Location"), None, "{target}");
    }
    let refused = put("/kv/there", &create);
    assert_eq!((refused.status(), refused.header("Location")), (412, None));
    let replaced = put("/kv/there", &[("If-Match", "*")]);
    assert_eq!((replaced.status(), replaced.header("Location")), (200, None));
}

#[test]
fn an_absolute_target_is_its_path() {
    let table = [
        ("http://localhost/kv/a", "a"),
        ("http://localhost:8888/kv/a/b%20c?", "a/b c"),
        ("HTTP://LOCALHOST/kv/a", "a"),
        ("https://store.example/kv/a", "a"),
        ("http://[::1]:8888/kv/a", "a"),
        ("http://localhost/kv/http://localhost/kv/a", "http://localhost/kv/a"),
    ];
    for (target, key) in table {
        assert_eq!(key_of(target).as_deref(), Ok(key), "{target}");
    }
    for target in ["http:/kv/a", "ftp://localhost/kv/a", "://localhost/kv/a"] {
        assert_eq!(key_of(target), Err("the request target is not a path".to_owned()), "{target}");
    }
    assert_eq!(key_of("http://localhost/kv/"), Err("key cannot be empty".to_owned()));
}

/// What RFC 3986 lets stand in a path as it is; `%` and `?` do not.
const PATH_BYTES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'?').add(b'<').add(b'>');

/// Any key, of any characters, up to the limit.
fn any_key() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 1..=KEY_BYTES_MAX / 4).prop_map(String::from_iter)
}

/// Anything that may stand in a target, good pieces and bad ones.
fn any_target() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "/kv", "?", "&", "=", "%", "%4", "%41", "%zz", "%C3", "%00", "%80", "+", "..", "http://",
        "://", "host", "a", "\u{e9}", "\0", " ", "\r\n", "#", "*",
    ];
    let paths = ROUTES.iter().map(|route| route.path.trim_end_matches("{key}"));
    let pieces: Vec<&str> = PIECES.iter().copied().chain(paths).collect();
    let piece = prop_oneof![
        3 => prop::sample::select(pieces).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn any_method() -> impl Strategy<Value = String> {
    let known = ["GET", "HEAD", "PUT", "DELETE", "POST"].as_slice();
    prop_oneof![5 => prop::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_percent_encoded_key_is_the_key(key in any_key()) {
        let all = utf8_percent_encode(&key, NON_ALPHANUMERIC).to_string();
        let lower_case = utf8_percent_encode(&key, NON_ALPHANUMERIC).map(|piece| {
            if piece.starts_with('%') { piece.to_ascii_lowercase() } else { piece.to_owned() }
        });
        let needed = utf8_percent_encode(&key, PATH_BYTES).to_string();
        for encoded in [all, lower_case.collect(), needed] {
            prop_assert_eq!(key_of(&format!("/kv/{encoded}")), Ok(key.clone()));
        }
        let path = super::target::path_of(&Key::new(key.clone()).unwrap());
        prop_assert_eq!(key_of(&path), Ok(key));
    }

    #[test]
    fn a_value_is_found_under_every_way_to_write_its_key(
        key in any_key(),
        value in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let api = api_over(Memory::new());
        let all = utf8_percent_encode(&key, NON_ALPHANUMERIC);
        let needed = utf8_percent_encode(&key, PATH_BYTES);
        prop_assert_eq!(answer(&api, &format!("PUT /kv/{all}"), &value).status(), 200);
        let reply = answer(&api, &format!("GET /kv/{needed}"), b"");
        prop_assert_eq!(reply.status(), 200);
        prop_assert_eq!(reply.body(), &value);
    }

    #[test]
    fn every_call_has_a_known_answer(
        method in any_method(),
        target in any_target(),
        body in prop::collection::vec(any::<u8>(), 0..200),
        body_bytes in prop::option::of(any::<u64>()),
    ) {
        let call = Call { method: &method, target: &target, fields: &[], body_bytes };
        for api in [api(), api_over(Full)] {
            let reply = api.answer(&call, body.clone().into());
            check_form(&target, &reply);
            prop_assert!([200, 202, 400, 404, 405, 413, 501, 507].contains(&reply.status()));
        }
    }
}

/// A browser lets any page send such a `POST`, and asks first before a `PUT`.
#[test]
fn a_page_of_another_site_may_not_post() {
    let host = ("Host", "127.0.0.1:8888");
    let behind_a_proxy = ("Origin", "https://store.example");
    let own: [&[(&str, &str)]; 5] = [
        &[],
        &[host],
        &[host, ("Origin", "http://127.0.0.1:8888")],
        &[host, ("Sec-Fetch-Site", "same-origin")],
        &[host, behind_a_proxy, ("Sec-Fetch-Site", "same-origin")],
    ];
    let others: [&[(&str, &str)]; 8] = [
        &[host, ("Origin", "http://evil.example")],
        &[host, ("origin", "null")],
        &[host, ("Origin", "http://127.0.0.1:3000")],
        &[host, behind_a_proxy],
        &[host, ("Sec-Fetch-Site", "cross-site")],
        &[host, ("Origin", "http://127.0.0.1:8888"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "http://evil.example")],
        &[("Origin", "null"), ("Origin", "http://evil.example")],
    ];
    let post = |target, fields| {
        let call = Call { method: "POST", target, fields, body_bytes: Some(0) };
        api().answer(&call, Bytes::new()).status()
    };
    // The value is no number, which is found out only behind this check.
    for fields in own {
        assert_eq!(post("/kv/there?incr", fields), 409, "{fields:?}");
    }
    for fields in others {
        assert_eq!(post("/kv/there?incr", fields), 403, "{fields:?}");
    }
    // It comes behind the check of the method, and before that of the query.
    let fields = others[0];
    assert_eq!([post("/kv/there?x", fields), post("/kv/there?incr&x", fields)], [405, 403]);
    // The host of an absolute target goes before the field.
    let fields = [host, ("Origin", "http://store.example")];
    assert_eq!(post("http://store.example:80/kv/there?incr", &fields), 409);
    assert_eq!(post("http://other.example/kv/there?incr", &fields), 403);
    let fields = [host, ("Origin", "http://127.0.0.1:8888")];
    assert_eq!(post("http://store.example/kv/there?incr", &fields), 403);
}
