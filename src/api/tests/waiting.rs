//! Calls that wait: their parse and what is refused, in order.

use super::{Api, Call, Refusal, Reply, api};
use crate::storage::Memory;
use bytes::Bytes;
use std::sync::Arc;

fn ask(api: &Api, line: &str, fields: &[(&str, &str)], body: &[u8]) -> Reply {
    let (method, target) = line.split_once(' ').unwrap();
    let call = Call { method, target, fields, body_bytes: Some(body.len() as u64) };
    api.answer(&call, Bytes::copy_from_slice(body))
}

type Field = (&'static str, &'static str);

const ABSENT: Field = ("If-None-Match", "*");

/// The first check that fails is told.
#[test]
fn what_cannot_wait_is_refused_in_order() {
    let malformed = ("If-Match", "x");
    let cases: [(&str, &[Field], Refusal); 19] = [
        ("GET /kv/there?wait=0", &[], Refusal::WaitMalformed),
        ("GET /kv/there?wait=601", &[], Refusal::WaitMalformed),
        ("GET /kv/there?wait=11m", &[], Refusal::WaitMalformed),
        ("GET /kv/there?wait=1.5", &[], Refusal::WaitMalformed),
        ("GET /kv/there?wait=%31", &[], Refusal::WaitMalformed),
        ("GET /kv/there?wait=5&incr", &[], Refusal::QueryUnknown),
        ("GET /kv/there?wait&wait", &[], Refusal::QueryContradictory),
        ("GET /kv/there?wait=0", &[malformed], Refusal::WaitMalformed),
        ("GET /kv/there?wait", &[malformed], Refusal::ConditionMalformed),
        ("PUT /kv/there?wait=0", &[], Refusal::WaitMalformed),
        ("PUT /kv/there?wait", &[malformed], Refusal::ConditionMalformed),
        ("PUT /kv/there?wait", &[], Refusal::QueryContradictory),
        ("PUT /kv/there?wait&x", &[], Refusal::QueryUnknown),
        ("POST /kv/there?wait", &[ABSENT], Refusal::MethodNotAllowed),
        ("POST /kv/there?incr&wait", &[], Refusal::QueryContradictory),
        ("DELETE /kv/there?wait", &[], Refusal::QueryContradictory),
        ("DELETE /kv?take=a&wait=x", &[], Refusal::WaitMalformed),
        ("DELETE /kv?take=a&wait", &[ABSENT], Refusal::QueryContradictory),
        ("DELETE /clear?wait", &[], Refusal::QueryUnknown),
    ];
    let api = api();
    for (line, fields, refusal) in cases {
        let reply = ask(&api, line, fields, b"");
        let expected = Reply::from(refusal);
        assert_eq!(reply.status(), expected.status(), "{line} {fields:?}");
        assert_eq!(reply.body(), expected.body(), "{line} {fields:?}");
    }
    let longer = vec![b'x'; (64 << 10) + 1];
    let reply = ask(&api, "PUT /kv/new?wait", &[ABSENT], &longer);
    assert_eq!(reply, Reply::from(Refusal::ValueTooLarge));
    let reply = ask(&api, "PUT /kv/new?wait", &[ABSENT], b"");
    assert_eq!(reply, Reply::from(Refusal::ValueEmpty));
}

#[test]
fn a_preference_is_heeded_where_there_is_something_to_wait_for() {
    let cases: [(&str, &[&str], Option<&str>); 16] = [
        ("GET /kv/there", &["wait=5"], Some("wait=5")),
        ("HEAD /kv/there", &["WAIT = 5"], Some("wait=5")),
        ("GET /kv/there", &["respond-async", "handling=lenient , wait=7;x=y"], Some("wait=7")),
        ("GET /kv/there", &["wait=\"9\""], Some("wait=9")),
        ("GET /kv/there", &["wait=7, wait=8"], Some("wait=7")),
        ("GET /kv/there", &["wait=99999999999999999999"], Some("wait=600")),
        ("DELETE /kv/there?return", &["wait=5"], Some("wait=5")),
        ("DELETE /kv?take=the", &["wait=5"], Some("wait=5")),
        ("GET /kv/there?wait=5", &["wait=7"], None),
        ("GET /kv/there", &["wait"], None),
        ("GET /kv/there", &["wait="], None),
        ("GET /kv/there", &["wait=0"], None),
        ("GET /kv/there", &["wait=5s"], None),
        ("GET /kv/there", &["wait=-1"], None),
        ("DELETE /kv/there", &["wait=5"], None),
        ("GET /kv", &["wait=5"], None),
    ];
    for (line, preferences, applied) in cases {
        let fields: Vec<_> = preferences.iter().map(|text| ("Prefer", *text)).collect();
        let reply = ask(&api(), line, &fields, b"");
        assert_eq!(reply.status(), 200, "{line} {preferences:?}");
        assert_eq!(reply.header("Preference-Applied"), applied, "{line} {preferences:?}");
    }
}

/// A wait that was asked for is refused with a long body; a preference is left out.
#[test]
fn a_long_body_does_not_wait() {
    let api = Api::new(Arc::new(Memory::new()), 1 << 20);
    let body = vec![b'x'; (64 << 10) + 1];
    let reply = ask(&api, "PUT /kv/new?wait=5", &[ABSENT], &body);
    assert_eq!(reply, Reply::from(Refusal::ValueTooLarge));
    let prefers = ("Prefer", "wait=5");
    for status in [201, 412] {
        let reply = ask(&api, "PUT /kv/new", &[ABSENT, prefers], &body);
        assert_eq!((reply.status(), reply.header("Preference-Applied")), (status, None));
    }
}

/// What is so already is answered at once, as without a wait: none of these would end.
#[test]
fn what_holds_is_not_waited_for() {
    let other = "\"2d711642b726b04401627ca9fbac32f5\"";
    let cases: [(&str, &[Field], u16); 10] = [
        ("GET /kv/there?wait=10m", &[], 200),
        ("GET /kv/there?wait=10m", &[("Range", "bytes=99-")], 416),
        ("GET /kv/there?wait=10m", &[("If-None-Match", other)], 200),
        ("GET /kv/absent?wait=10m", &[("If-None-Match", other)], 404),
        ("GET /kv/absent?wait=10m", &[ABSENT], 404),
        ("GET /kv/there?wait=10m", &[("If-Match", "*")], 200),
        ("POST /kv/there?ttl=60&wait=10m", &[("If-Match", "*")], 200),
        ("POST /kv/there?incr&wait=10m", &[("If-Match", "*")], 409),
        ("POST /kv/absent?ttl=60&wait=10m", &[ABSENT], 404),
        ("DELETE /kv/absent?wait=10m", &[ABSENT], 200),
    ];
    for (line, fields, status) in cases {
        assert_eq!(ask(&api(), line, fields, b"").status(), status, "{line} {fields:?}");
    }
}

#[test]
fn what_does_not_hold_is_waited_for() {
    let cases: [(&str, &[Field], u16); 7] = [
        ("GET /kv/absent?wait=5ms", &[], 404),
        ("GET /kv/absent?wait=5ms", &[("If-Match", "*")], 404),
        ("GET /kv/there?wait=5ms", &[("If-Match", "\"x\"")], 412),
        ("GET /kv/there?wait=5ms", &[ABSENT], 304),
        ("DELETE /kv/there?wait=5ms", &[ABSENT], 412),
        ("DELETE /kv/there?return&wait=5ms", &[ABSENT], 412),
        ("POST /kv/absent?ttl=60&wait=5ms", &[("If-Match", "*")], 404),
    ];
    for (line, fields, status) in cases {
        let begun = std::time::Instant::now();
        assert_eq!(ask(&api(), line, fields, b"").status(), status, "{line} {fields:?}");
        assert!(begun.elapsed().as_millis() >= 5, "{line} {fields:?}");
    }
}
