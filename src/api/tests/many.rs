//! Many keys at one moment, and the first and the next of many: batches, and values
//! that are added and taken.

use super::{
    Api, Call, Hosts, Reply, Untouchable, answer, api_over, call, check_form, key, text_of, whole,
};
use crate::api::{Access, Refusal, Step};
use crate::storage::{Blocking as _, Entry, Memory};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Room for a batch: its body is one as any.
const BODY_BYTES_MAX: u64 = 10 << 20;

/// The tag of `value`.
const TAG: &str = "cd42404d52ad55ccfa9aca4adc828aa5";

/// An API whose store has one value, under `there`, and a number.
fn api() -> Api {
    let memory = Memory::new();
    memory.set(key("there"), Entry::new("value".into())).unwrap();
    memory.set(key("number"), Entry::new("5".into())).unwrap();
    Api::new(std::sync::Arc::new(memory), BODY_BYTES_MAX)
}

fn batch(api: &Api, body: impl AsRef<[u8]>) -> Reply {
    let body = Bytes::copy_from_slice(body.as_ref());
    let call = Call { method: "POST", target: "/batch", fields: &[], body_bytes: None };
    let reply = api.answer(&call, body);
    check_form("POST /batch", &reply);
    reply
}

/// The answer to a call that is not to be repeated.
fn once(api: &Api, line: &str, body: &str) -> Reply {
    let reply = api.answer(&call(line, None), Bytes::copy_from_slice(body.as_bytes()));
    check_form(line, &reply);
    reply
}

/// The lines of a body.
fn lines(lines: &[&str]) -> String {
    lines.iter().fold(String::new(), |body, line| body + line + "\n")
}

/// Checks the answer to a batch of one line, alone and behind another.
#[track_caller]
fn check(line: &str, answered: &str) {
    let reply = batch(&api(), line);
    assert_eq!(text_of(&reply), (200, &*lines(&[answered])), "{line}");
    assert_eq!(reply.header("Content-Type"), Some("application/x-ndjson"));
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    let first = r#"{"method":"GET","path":"/kv/nothing"}"#;
    let both = lines(&[r#"{"status":404}"#, answered]);
    assert_eq!(text_of(&batch(&api(), lines(&[first, line]))), (200, &*both), "{line}");
}

/// Checks that a batch whose second line is this one is refused, and does nothing.
#[track_caller]
fn check_refused(line: &str, status: u16, text: &str) {
    let api = api();
    let first = r#"{"method":"PUT","path":"/kv/first","value":"1"}"#;
    let reply = batch(&api, lines(&[first, line, first]));
    assert_eq!(text_of(&reply), (status, &*format!("line 2: {text}\n")), "{line:.80}");
    assert_eq!(answer(&api, "GET /kv?count", b"").body(), "2\n", "{line:.80}");
    assert_eq!(answer(&api, "GET /kv/there", b"").body(), "value", "{line:.80}");
}

#[test]
fn a_line_is_answered_as_its_request_alone() {
    let one = "6b86b273ff34fce19d6b804eff5a3f57";
    let table = [
        (
            r#"{"method":"PUT","path":"/kv/a","value":"1"}"#,
            format!(r#"{{"status":200,"etag":"{one}"}}"#),
        ),
        (r#"{"key":"a","value":"1"}"#, format!(r#"{{"status":200,"etag":"{one}"}}"#)),
        (r#"{"key":"a","base64":"MQ=="}"#, format!(r#"{{"status":200,"etag":"{one}"}}"#)),
        (
            r#"{"path":"/kv/a?ttl=60","value":"1"}"#,
            format!(r#"{{"status":200,"etag":"{one}","ttl":60}}"#),
        ),
        (
            r#"{"method":"PUT","path":"/kv/S%C3%A3o","if_none_match":"*","value":"1"}"#,
            format!(r#"{{"status":201,"etag":"{one}","location":"/kv/S%C3%A3o"}}"#),
        ),
        (
            r#"{"method":"PUT","key":"S\u00e3o","if_none_match":"*","value":"1"}"#,
            format!(r#"{{"status":201,"etag":"{one}","location":"/kv/S%C3%A3o"}}"#),
        ),
        (
            r#"{"method":"GET","path":"/kv/there"}"#,
            format!(r#"{{"status":200,"etag":"{TAG}","value":"value"}}"#),
        ),
        (
            r#"{"method":"GET","key":"there","if_match":"*"}"#,
            format!(r#"{{"status":200,"etag":"{TAG}","value":"value"}}"#),
        ),
        (
            r#"{"method":"HEAD","path":"http://store/kv/there"}"#,
            format!(r#"{{"status":200,"etag":"{TAG}","bytes":5}}"#),
        ),
        (r#"{"method":"GET","path":"/kv/nothing"}"#, r#"{"status":404}"#.to_owned()),
        (r#"{"method":"HEAD","path":"/kv/nothing"}"#, r#"{"status":404}"#.to_owned()),
        (
            r#"{"method":"GET","path":"/kv/there","if_none_match":"*"}"#,
            format!(r#"{{"status":304,"etag":"{TAG}"}}"#),
        ),
        (r#"{"method":"DELETE","path":"/kv/there"}"#, r#"{"status":200}"#.to_owned()),
        (r#"{"method":"DELETE","path":"/kv/nothing"}"#, r#"{"status":200}"#.to_owned()),
        (
            r#"{"method":"DELETE","path":"/kv/there?return"}"#,
            format!(r#"{{"status":200,"etag":"{TAG}","value":"value"}}"#),
        ),
        (
            r#"{"method":"POST","path":"/kv/number?incr=-4"}"#,
            format!(r#"{{"status":200,"etag":"{one}","value":"1"}}"#),
        ),
        (
            r#"{"method":"POST","path":"/kv/new?incr&ttl=1h"}"#,
            format!(r#"{{"status":200,"etag":"{one}","ttl":3600,"value":"1"}}"#),
        ),
        (
            r#"{"method":"POST","path":"/kv/there?ttl=60"}"#,
            format!(r#"{{"status":200,"etag":"{TAG}","ttl":60}}"#),
        ),
        (
            r#"{"method":"POST","path":"/kv/new?append","value":"1"}"#,
            format!(r#"{{"status":200,"etag":"{one}"}}"#),
        ),
    ];
    for (line, answered) in table {
        check(line, &answered);
    }
    // Tags with quotes or without, alone or in a list.
    let quoted = format!("\\\"{TAG}\\\"");
    for tags in [TAG, &quoted, "*", &format!("\\\"x\\\", {quoted}")] {
        let line = format!(r#"{{"method":"DELETE","key":"there","if_match":"{tags}"}}"#);
        check(&line, r#"{"status":200}"#);
        let line = format!(r#"{{"method":"GET","key":"there","if_none_match":"{tags}"}}"#);
        check(&line, &format!(r#"{{"status":304,"etag":"{TAG}"}}"#));
        let line = format!(r#"{{"key":"there","if_none_match":"{tags}","value":"1"}}"#);
        check_refused(&line, 412, "precondition failed");
    }
}

#[test]
fn each_line_sees_those_before_it() {
    let api = api();
    let body = lines(&[
        r#"{"method":"PUT","path":"/kv/a?ttl=60","type":"text/csv","value":"1,\n\u00e9"}"#,
        r#"{"method":"GET","path":"/kv/a"}"#,
        r#"{"method":"POST","path":"/kv/a?append","base64":"/w=="}"#,
        r#"{"method":"DELETE","path":"/kv/a?return"}"#,
        r#"{"method":"GET","path":"/kv/a"}"#,
        r#"{"method":"POST","path":"/kv/n?incr=2"}"#,
        r#"{"method":"POST","path":"/kv/n?incr=2"}"#,
    ]);
    let reply = batch(&api, body);
    let answers: Vec<Value> = text_of(&reply)
        .1
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|mut line: Value| {
            line.as_object_mut().unwrap().remove("etag");
            line
        })
        .collect();
    let expected: Vec<Value> = [
        r#"{"status":200,"ttl":60}"#,
        r#"{"status":200,"ttl":60,"type":"text/csv","value":"1,\n\u00e9"}"#,
        r#"{"status":200,"ttl":60}"#,
        r#"{"status":200,"ttl":60,"type":"text/csv","base64":"MSwKw6n/"}"#,
        r#"{"status":404}"#,
        r#"{"status":200,"value":"2"}"#,
        r#"{"status":200,"value":"4"}"#,
    ]
    .map(|line| serde_json::from_str(line).unwrap())
    .into();
    assert_eq!(answers, expected);
    assert_eq!(answer(&api, "GET /kv", b"").body(), "n\nnumber\nthere\n");
}

#[test]
fn the_first_line_that_is_refused_is_the_answer_and_nothing_is_done() {
    let too_long = format!(r#"{{"key":"{}","value":"1"}}"#, "k".repeat(1025));
    let long_path = format!(r#"{{"path":"/kv/{}","value":"1"}}"#, "k".repeat(1025));
    let table = [
        // The line.
        ("", 400, "the line is not JSON"),
        (" \t\r", 400, "the line is not JSON"),
        ("{", 400, "the line is not JSON"),
        (r#"{"key":"\ud800","value":"1"}"#, 400, "the line is not JSON"),
        (r#"{"key":"a","value":"1"} {}"#, 400, "the line is not JSON"),
        ("[]", 400, "the line is not an object of known members, each a text and there once"),
        (
            r#"{"key":"a","vaule":"1"}"#,
            400,
            "the line is not an object of known members, each a text and there once",
        ),
        (
            r#"{"key":"a","value":1}"#,
            400,
            "the line is not an object of known members, each a text and there once",
        ),
        ("{}", 400, "the line has neither method nor value"),
        (r#"{"path":"/kv/a"}"#, 400, "the line has neither method nor value"),
        (r#"{"method":"GET"}"#, 400, "the line needs a path or a key, and not both"),
        (r#"{"value":"1"}"#, 400, "the line needs a path or a key, and not both"),
        (
            r#"{"path":"/kv/a","key":"a","value":"1"}"#,
            400,
            "the line needs a path or a key, and not both",
        ),
        (r#"{"key":"a","value":"1","base64":"MQ=="}"#, 400, "the line has both value and base64"),
        (r#"{"key":"a","base64":"MQ"}"#, 400, "base64 is malformed"),
        (r#"{"key":"a","base64":"M Q=="}"#, 400, "base64 is malformed"),
        (r#"{"key":"a","value":"1","expires":"soon"}"#, 400, "expires is not a time"),
        (
            r#"{"method":"PUT","key":"a","value":"1","expires":"2036-01-01T00:00:00Z"}"#,
            400,
            "expires and etag do not go with a method",
        ),
        (r#"{"method":"GET","key":"a","etag":1}"#, 400, "expires and etag do not go with a method"),
        (
            r#"{"path":"/kv/a?ttl=5","value":"1","expires":"2036-01-01T00:00:00Z"}"#,
            400,
            "ttl is given twice, and not the same",
        ),
        (
            r#"{"path":"/kv/a?ttl=none","value":"1","expires":"2006-01-01T00:00:00Z"}"#,
            400,
            "ttl is given twice, and not the same",
        ),
        // Its request.
        (r#"{"method":"GET","path":"/"}"#, 400, "the path of a line is /kv/ and a key"),
        (r#"{"method":"GET","path":"/kv"}"#, 400, "the path of a line is /kv/ and a key"),
        (r#"{"method":"DELETE","path":"/clear"}"#, 400, "the path of a line is /kv/ and a key"),
        (r#"{"method":"POST","path":"/batch"}"#, 400, "the path of a line is /kv/ and a key"),
        (r#"{"method":"GET","path":"kv/a"}"#, 400, "the path of a line is /kv/ and a key"),
        (r#"{"method":"GET","path":"/kv/"}"#, 400, "key cannot be empty"),
        (r#"{"method":"GET","key":""}"#, 400, "key cannot be empty"),
        (r#"{"method":"GET","path":"/kv/%"}"#, 400, "key has a % without two hexadecimal digits"),
        (r#"{"method":"GET","path":"/kv/%ff"}"#, 400, "key is not UTF-8"),
        (&too_long, 400, "key is longer than 1024 bytes"),
        (&long_path, 400, "key is longer than 1024 bytes"),
        (r#"{"method":"PATCH","key":"a"}"#, 400, "method not allowed"),
        (r#"{"method":"OPTIONS","key":"a"}"#, 400, "method not allowed"),
        (r#"{"method":"get","key":"a"}"#, 400, "method not allowed"),
        (r#"{"method":"","key":"a"}"#, 400, "method not allowed"),
        (r#"{"method":"POST","key":"a"}"#, 400, "method not allowed"),
        (r#"{"method":"PUT","path":"/kv/a?tll=1","value":"1"}"#, 400, "unknown query parameter"),
        (r#"{"method":"PUT","path":"/kv/a?incr","value":"1"}"#, 400, "unknown query parameter"),
        (r#"{"method":"GET","path":"/kv/a?x"}"#, 400, "unknown query parameter"),
        (r#"{"method":"GET","path":"/kv/a?wait"}"#, 400, "unknown query parameter"),
        (r#"{"method":"PUT","path":"/kv/a?ttl=x","value":"1"}"#, 400, "ttl is not a time"),
        (r#"{"method":"GET","key":"a","if_match":"x"}"#, 400, "the condition is malformed"),
        (r#"{"method":"GET","key":"a","if_match":""}"#, 400, "the condition is malformed"),
        (r#"{"key":"a","value":"1","type":"x"}"#, 400, "content type is malformed"),
        (r#"{"key":"a","value":"1","type":"a/b\r\nx: y"}"#, 400, "content type is malformed"),
        (r#"{"key":"a","value":""}"#, 400, "value cannot be empty"),
        (r#"{"method":"PUT","key":"a"}"#, 400, "value cannot be empty"),
        (r#"{"method":"POST","path":"/kv/a?append"}"#, 400, "value cannot be empty"),
        (r#"{"method":"GET","key":"a","value":"1"}"#, 400, "a body does not belong here"),
        (r#"{"method":"DELETE","key":"a","value":"1"}"#, 400, "a body does not belong here"),
        (r#"{"method":"POST","path":"/kv/a?incr","value":""}"#, 400, "a body does not belong here"),
        // The entry.
        (r#"{"method":"DELETE","path":"/kv/nothing?return"}"#, 404, "key not found"),
        (r#"{"method":"POST","path":"/kv/nothing?ttl=60"}"#, 404, "key not found"),
        (r#"{"method":"POST","path":"/kv/there?incr"}"#, 409, "the value is not a whole number"),
        (
            r#"{"method":"POST","path":"/kv/number?incr=9223372036854775807"}"#,
            409,
            "the number does not fit 64 bits",
        ),
        (r#"{"method":"PUT","key":"a","if_match":"*","value":"1"}"#, 412, "precondition failed"),
        (r#"{"method":"DELETE","key":"there","if_none_match":"*"}"#, 412, "precondition failed"),
        (r#"{"method":"GET","key":"there","if_match":"\"x\""}"#, 412, "precondition failed"),
    ];
    for (line, status, text) in table {
        check_refused(line, status, text);
    }
}

#[test]
fn a_line_ends_as_lines_do() {
    let one = r#"{"method":"GET","path":"/kv/nothing"}"#;
    let answered = r#"{"status":404}"#;
    let two = lines(&[answered, answered]);
    for body in [format!("{one}\n{one}"), format!("{one}\n{one}\n"), format!("{one}\r\n{one}\r\n")]
    {
        assert_eq!(text_of(&batch(&api(), body)), (200, &*two));
    }
    let table: [(&[u8], &str); 7] = [
        (b"", "a batch has at least one line\n"),
        (b"\n", "a batch has at least one line\n"),
        (b"\r\n", "line 1: the line is not JSON\n"),
        (b"\n\n", "line 1: the line is not JSON\n"),
        (b"\xff", "line 1: the line is not JSON\n"),
        (b"{\"key\":\"a\",\"value\":\"\xff\"}", "line 1: the line is not JSON\n"),
        (b"{\"key\":\"a\",\n\"value\":\"1\"}", "line 1: the line is not JSON\n"),
    ];
    for (body, text) in table {
        assert_eq!(text_of(&batch(&api_over(Untouchable), body)), (400, text), "{body:?}");
    }
    let blank = format!("{one}\n{one}\n\n");
    let text = (400, "line 3: the line is not JSON\n");
    assert_eq!(text_of(&batch(&api_over(Untouchable), blank)), text);
}

#[test]
fn a_batch_has_up_to_a_thousand_lines() {
    let line = "{\"method\":\"POST\",\"path\":\"/kv/n?incr\"}\n";
    let api = api();
    let body = line.repeat(1001);
    let too_long = (413, "a batch has at most 1000 lines\n");
    assert_eq!(text_of(&batch(&api, &body)), too_long);
    assert_eq!(text_of(&batch(&api, "\n".repeat(1002))), too_long);
    assert_eq!(answer(&api, "GET /kv/n", b"").status(), 404);
    let reply = batch(&api, &body[line.len()..]);
    assert_eq!((reply.status(), text_of(&reply).1.lines().count()), (200, 1000));
    assert_eq!(answer(&api, "GET /kv/n", b"").body(), "1000");
}

#[test]
fn a_value_that_is_over_is_not_stored() {
    let api = api();
    let body = lines(&[
        r#"{"key":"there","value":"1","type":"a/b","etag":"x","expires":"2006-01-02T03:04:05Z"}"#,
        r#"{"key":"new","value":"1","etag":null,"expires":"2036-01-02T03:04:05.678Z"}"#,
        r#"{"method":"HEAD","key":"new"}"#,
    ]);
    let reply = batch(&api, body);
    let answers: Vec<Value> =
        text_of(&reply).1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0].to_string(), r#"{"status":200}"#);
    assert_eq!(answer(&api, "GET /kv/there", b"").body(), "value");
    for answer in &answers[1..] {
        let years = answer["ttl"].as_u64().unwrap() / (365 * 24 * 60 * 60);
        assert!(years < 100, "{answer}");
    }
    // What is wrong with it is told all the same.
    let line = r#"{"key":"a","value":"","expires":"2006-01-02T03:04:05Z"}"#;
    check_refused(line, 400, "value cannot be empty");
}

#[test]
fn an_export_is_a_batch() {
    let api = api();
    let reply = batch(
        &api,
        lines(&[
            r#"{"path":"/kv/a%0A%22?ttl=1h","type":"text/html","value":"<\"\\\u0000\u00e9>"}"#,
            r#"{"key":"b","base64":"AP8="}"#,
            r#"{"key":"c","value":"1","expires":"2036-01-02T03:04:05.678Z"}"#,
            r#"{"key":"d","value":"1","expires":"9999-12-31T23:59:59.999Z","if_none_match":"*"}"#,
        ]),
    );
    assert_eq!(reply.status(), 200, "{:?}", text_of(&reply));
    let export = |api: &Api| whole(api, answer(api, "GET /kv?values", b""));
    let exported = export(&api);
    let other = Api::new(std::sync::Arc::new(Memory::new()), BODY_BYTES_MAX);
    let reply = batch(&other, &exported);
    assert_eq!(reply.status(), 200, "{:?}", text_of(&reply));
    // To the millisecond in which a value expires.
    let [here, there] = [exported, export(&other)].map(|lines| String::from_utf8(lines).unwrap());
    assert_eq!(there, here);
    for expires in ["2036-01-02T03:04:05.678Z", "9999-12-31T23:59:59.999Z"] {
        assert!(here.contains(&format!(r#""expires":"{expires}""#)), "{here}");
    }
}

#[test]
fn values_are_told_in_parts_and_up_to_a_limit() {
    let api = api();
    // More than a part when escaped, in text and in base64.
    let values = ["\n".repeat(3 << 20).into_bytes(), vec![0xff; 5 << 20], b"x".to_vec()];
    let mut body = String::new();
    for (index, value) in values.iter().enumerate() {
        answer(&api, &format!("PUT /kv/{index}"), value);
        writeln!(body, r#"{{"method":"GET","key":"{index}"}}"#).unwrap();
    }
    let reply = batch(&api, &body);
    assert!(reply.status() == 200 && reply.has_rest() && reply.body().len() < 2 << 20);
    let told = String::from_utf8(whole(&api, reply)).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["value"].as_str().unwrap().as_bytes(), values[0]);
    assert_eq!(told[1]["base64"].as_str().unwrap().len(), (5_usize << 20).div_ceil(3) * 4);
    assert_eq!(told[2]["value"], "x");

    // Eight of 8 MiB are what an answer may have, also if the value goes with them.
    answer(&api, "PUT /kv/large", &vec![b'x'; 8 << 20]);
    let get = r#"{"method":"GET","key":"large"}"#;
    let head = r#"{"method":"HEAD","key":"large"}"#;
    let same = r#"{"method":"GET","key":"large","if_none_match":"*"}"#;
    let take = r#"{"method":"DELETE","path":"/kv/large?return"}"#;
    let put = r#"{"key":"other","value":"1"}"#;
    let too_large = |index| {
        (413, format!("line {index}: a batch returns and appends to at most 64 MiB of values\n"))
    };
    let told = |body: &[&str]| {
        let reply = batch(&api, lines(body));
        match reply.status() {
            200 => (200, String::new()),
            status => (status, text_of(&reply).1.to_owned()),
        }
    };
    let mut eight = vec![get; 8];
    eight.extend([head, same, put]);
    assert_eq!(told(&eight), (200, String::new()));
    answer(&api, "DELETE /kv/other", b"");
    for last in [get, take] {
        let mut nine = eight.clone();
        nine.extend([last, put]);
        assert_eq!(told(&nine), too_large(12));
        assert_eq!(answer(&api, "GET /kv/other", b"").status(), 404);
        assert_eq!(answer(&api, "HEAD /kv/large", b"").status(), 200);
    }
    // And so is what is looked at alone.
    let heads = vec![head; 33];
    assert_eq!(told(&heads[..32]), (200, String::new()));
    let text = "line 33: a batch looks at no more than 256 MiB of values\n".to_owned();
    assert_eq!(told(&heads), (413, text));
    // What is made by appending is held too, each time anew.
    let append = r#"{"method":"POST","path":"/kv/large?append","value":"x"}"#;
    let mut appends = vec![put];
    appends.extend([append; 8]);
    assert_eq!(told(&appends), too_large(9));
    assert_eq!(answer(&api, "GET /kv/other", b"").status(), 404);
    assert_eq!(told(&appends[1..8]), (200, String::new()));
    answer(&api, "PUT /kv/large", &vec![b'x'; 8 << 20]);
    eight.pop();
    eight[7] = take;
    assert_eq!(told(&eight), (200, String::new()));
}

#[test]
fn the_head_of_a_batch_is_checked_before_its_lines() {
    let evil = ("Origin", "http://evil.example");
    let table = [
        ("/batch", evil, Refusal::CrossSite),
        ("/batch?x", evil, Refusal::CrossSite),
        ("/batch?x", ("If-Match", "*"), Refusal::QueryUnknown),
        ("/batch", ("If-Match", "*"), Refusal::ConditionUnexpected),
        ("/batch", ("If-None-Match", "x"), Refusal::ConditionMalformed),
        ("/batch", ("Content-Range", "bytes 0-1/2"), Refusal::ContentRange),
        ("/batch", ("Content-Encoding", "gzip"), Refusal::ContentEncoding),
        ("/batch", ("Content-MD5", "x"), Refusal::DigestMalformed),
    ];
    for (target, field, refusal) in table {
        let fields = [field];
        let call = Call { method: "POST", target, fields: &fields, body_bytes: Some(1) };
        let reply = api_over(Untouchable).answer(&call, "x".into());
        assert_eq!(reply, refusal.into(), "{target} {field:?}");
    }
    // Of `{}`, and not.
    let digest = [("Content-MD5", "mZFLkyvTelC5g8XnyQrpOw==")];
    for (body, status) in [("{}", "line 1: the line has neither method nor value\n"), ("{", "")] {
        let call = Call { fields: &digest, ..call("POST /batch", None) };
        let reply = api_over(Untouchable).answer(&call, body.into());
        let text =
            if status.is_empty() { "the content does not match its digest\n" } else { status };
        assert_eq!(text_of(&reply), (400, text), "{body}");
    }
    let too_long = vec![b'\n'; 101];
    let reply = api_over(Untouchable).answer(&call("POST /batch", Some(101)), too_long.into());
    assert_eq!(reply, Refusal::ValueTooLarge.into());
    let hosts =
        api_over(Untouchable).with_access(Access { hosts: Hosts::local([]), ..Access::default() });
    let evil = [("Host", "evil.test")];
    let reply = hosts.answer(&Call { fields: &evil, ..call("POST /batch", None) }, "x".into());
    assert_eq!(reply, Refusal::HostUnknown.into());
}

#[test]
fn a_batch_that_does_not_fit_is_507() {
    let api = api_over(Memory::with_max(5000));
    let line = |index: usize, bytes: usize| {
        format!("{{\"key\":\"{index}\",\"value\":\"{}\"}}\n", "x".repeat(bytes))
    };
    let body: String = (0..50).map(|index| line(index, 100)).collect();
    let reply = batch(&Api { value_bytes_max: BODY_BYTES_MAX, ..api.clone() }, body);
    assert_eq!(reply, Refusal::StorageFull.into());
    assert_eq!(answer(&api, "GET /kv?count", b"").body(), "0\n");
}

/// A line of a batch, and the same request alone.
#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    key: &'static str,
    query: String,
    field: Option<(&'static str, String)>,
    value: Option<String>,
}

impl Request {
    fn line(&self) -> String {
        let Self { method, key, query, field, value } = self;
        let mut line = serde_json::json!({"method": method, "path": format!("/kv/{key}{query}")});
        if let Some((name, tags)) = field {
            line[name.to_lowercase().replace('-', "_")] = tags.as_str().into();
        }
        if let Some(value) = value {
            line["value"] = value.as_str().into();
        }
        line.to_string()
    }

    fn alone(&self, api: &Api) -> Reply {
        let Self { method, key, query, field, value } = self;
        let target = format!("/kv/{key}{query}");
        let fields: Vec<_> = field.iter().map(|(name, tags)| (*name, &**tags)).collect();
        let call = Call { method, target: &target, fields: &fields, body_bytes: None };
        api.answer(&call, value.clone().unwrap_or_default().into())
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    const TAG_OF_1: &str = "\"6b86b273ff34fce19d6b804eff5a3f57\"";
    let key = prop::sample::select(&["a", "b", "c"][..]);
    let queries = [
        ("GET", ""),
        ("HEAD", ""),
        ("PUT", ""),
        ("PUT", ""),
        ("PUT", "?ttl=60"),
        ("PUT", "?ttl=keep"),
        ("DELETE", ""),
        ("DELETE", "?return"),
        ("POST", "?incr"),
        ("POST", "?decr=2"),
        ("POST", "?append"),
        ("POST", "?ttl=1h"),
        ("POST", "?ttl=none"),
    ];
    let field = prop_oneof![
        6 => Just(None),
        1 => (
            prop::sample::select(&["If-Match", "If-None-Match"][..]),
            prop::sample::select(&["*", TAG_OF_1][..]).prop_map(str::to_owned),
        ).prop_map(Some),
    ];
    let value = prop::sample::select(&["1", "-7", "text", "\u{e9}\n\""][..]);
    (prop::sample::select(queries.to_vec()), key, field, value).prop_map(
        |((method, query), key, field, value)| {
            let has_value = method == "PUT" || query == "?append";
            let value = has_value.then(|| value.to_owned());
            Request { method, key, query: query.to_owned(), field, value }
        },
    )
}

/// The state of a store: a copy to go back to.
fn state(api: &Api) -> Vec<u8> {
    let text = String::from_utf8(whole(api, answer(api, "GET /kv?values", b""))).unwrap();
    let lines = text.lines().map(serde_json::from_str::<BTreeMap<String, String>>);
    let lines = lines.map(|line| {
        let mut line = line.unwrap();
        // To the millisecond it is another at each call.
        if let Some(expires) = line.remove("expires") {
            line.insert("expires".to_owned(), expires[..4].to_owned());
        }
        serde_json::to_string(&line).unwrap()
    });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    /// A batch is its requests one after the other, or, if one of them is refused, none.
    #[test]
    fn a_batch_is_its_requests_in_turn_or_none(
        batches in prop::collection::vec(prop::collection::vec(any_request(), 1..8), 1..8),
    ) {
        // The second store does the same by requests alone, in a copy of what it has.
        let new = || Api::new(std::sync::Arc::new(Memory::new()), BODY_BYTES_MAX);
        let (many, mut done) = (new(), Vec::<Request>::new());
        for requests in batches {
            let body: Vec<_> = requests.iter().map(Request::line).collect();
            let reply = batch(&many, body.join("\n"));
            let alone = new();
            for request in &done {
                prop_assert!(request.alone(&alone).status() < 500);
            }
            let mut refused = None;
            let mut statuses = Vec::new();
            for (index, request) in requests.iter().enumerate() {
                let reply = request.alone(&alone);
                let is_absence = ["GET", "HEAD"].contains(&request.method) && reply.status() == 404;
                if reply.status() >= 400 && !is_absence {
                    let text = std::str::from_utf8(reply.body()).unwrap();
                    refused = Some((reply.status(), format!("line {}: {text}", index + 1)));
                    break;
                }
                let body = String::from_utf8(reply.body().to_vec()).unwrap();
                let value = (request.method != "HEAD" && !is_absence).then_some(body);
                let tag = reply.header("ETag").map(|tag| tag.trim_matches('"').to_owned());
                statuses.push((reply.status(), tag, value.filter(|value| !value.is_empty())));
            }
            if let Some((status, text)) = refused {
                prop_assert_eq!(text_of(&reply), (status, &*text));
                continue;
            }
            prop_assert_eq!(reply.status(), 200);
            let answers = text_of(&reply).1.lines().zip(&requests).map(|(line, request)| {
                let line: Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| line[name].as_str().map(str::to_owned);
                // Alone a number has a newline behind it.
                let end = if request.query.contains("cr") { "\n" } else { "" };
                let value = text("value").map(|value| value + end);
                let status = u16::try_from(line["status"].as_u64().unwrap()).unwrap();
                (status, text("etag"), value)
            });
            prop_assert_eq!(answers.collect::<Vec<_>>(), statuses);
            done.extend(requests);
            prop_assert_eq!(state(&many), state(&alone));
        }
    }
}

#[test]
fn what_is_added_gets_the_next_name() {
    let api = api();
    let mut keys = Vec::new();
    for number in 0..50 {
        let call = Call {
            fields: &[("Content-Type", "text/csv")],
            ..call("POST /kv?prefix=job:%20&ttl=60", None)
        };
        let reply = api.answer(&call, format!("{number}").into());
        check_form("POST /kv", &reply);
        assert_eq!(reply.status(), 201);
        assert_eq!(reply.header("TTL"), Some("60"));
        let line = text_of(&reply).1.strip_suffix('\n').unwrap().to_owned();
        assert_eq!(reply.header("Location"), Some(&*format!("/kv/{line}")));
        let name = line.strip_prefix("job:%20").unwrap();
        assert!(name.len() == 21 && name.as_bytes()[14] == b'-', "{name}");
        let value = answer(&api, &format!("GET /kv/{line}"), b"");
        assert_eq!(
            (value.header("ETag"), value.header("Content-Type")),
            (reply.header("ETag"), Some("text/csv"))
        );
        assert_eq!(value.body(), &format!("{number}"));
        keys.push(line);
    }
    assert!(keys.is_sorted_by(|one, next| one < next), "{keys:?}");
    let listed = answer(&api, "GET /kv?prefix=job:", b"");
    assert_eq!(text_of(&listed).1.lines().collect::<Vec<_>>(), keys);
}

#[test]
fn a_name_is_above_all_that_are_there() {
    let api = api();
    let put = |name: &str| {
        assert_eq!(answer(&api, &format!("PUT /kv/q/{name}"), b"x").status(), 200, "{name}");
    };
    let delete = |name: &str| answer(&api, &format!("DELETE /kv/q/{name}"), b"");
    // Other tests get names meanwhile.
    let add = || {
        let reply = once(&api, "POST /kv?prefix=q/", "x");
        let line = text_of(&reply).1.trim_end();
        line.strip_prefix("q/").unwrap_or(line).to_owned()
    };
    // Other keys, in front of names and behind.
    for name in ["0", "00", "01764302400123", "01764302400123-x", "1", "9", "a", "%7f"] {
        put(name);
    }
    answer(&api, "PUT /kv/r/09999999999999-000000", b"x");
    let first = add();
    assert!(first.len() == 21 && *first > *"01764302400123-x", "{first}");
    // Those of a process whose clock was ahead, also if more follows in the key.
    put("02999999999999-000005:more");
    put("02999999999999-00000");
    let second = add();
    assert!(*second > *"02999999999999-000005" && second > first, "{second}");
    put("05000000000000-999999");
    let third = add();
    assert!(*third >= *"05000000000001-000000" && second < third, "{third}");
    // Those that are gone count too.
    delete("05000000000000-999999");
    delete(&third);
    let fourth = add();
    assert!(third < fourth, "{fourth}");
    // One with none above it was not given here.
    put("09999999999999-999999");
    let fifth = add();
    assert!(fourth < fifth && *fifth < *"06", "{fifth}");
    // Other prefixes know nothing of it.
    let other = once(&api, "POST /kv?prefix=other/", "x");
    assert!(text_of(&other).1 < "other/03", "{other:?}");
}

#[test]
fn an_addition_that_makes_no_sense_adds_nothing() {
    let longest = format!("POST /kv?prefix={}", "p".repeat(1024 - 21));
    let too_long = format!("{longest}p");
    assert_eq!(once(&api(), &longest, "x").status(), 201);
    let table = [
        ("POST /kv", &b"x"[..], Refusal::PrefixEmpty),
        ("POST /kv?prefix=", b"x", Refusal::PrefixEmpty),
        ("POST /kv?ttl=60", b"x", Refusal::PrefixEmpty),
        ("POST /kv?prefix=a&limit=1", b"x", Refusal::QueryUnknown),
        ("POST /kv?take=a", b"x", Refusal::QueryUnknown),
        ("POST /kv?prefix=a&prefix=b", b"x", Refusal::QueryContradictory),
        ("POST /kv?prefix=%", b"x", Refusal::KeyEscape),
        ("POST /kv?prefix=a&ttl=x", b"x", Refusal::TtlMalformed),
        ("POST /kv?prefix=a", b"", Refusal::ValueEmpty),
        (&too_long, b"x", Refusal::KeyTooLong),
    ];
    for (line, body, refusal) in table {
        assert_eq!(answer(&api_over(Untouchable), line, body), refusal.into(), "{line:.40}");
    }
    let table = [
        (("Origin", "http://evil.example"), Refusal::CrossSite),
        (("If-Match", "*"), Refusal::ConditionUnexpected),
        (("If-None-Match", "*"), Refusal::ConditionUnexpected),
        (("Content-Type", "x"), Refusal::TypeMalformed),
        (("Content-Encoding", "gzip"), Refusal::ContentEncoding),
        (("Content-MD5", "mZFLkyvTelC5g8XnyQrpOw=="), Refusal::ContentDiffers),
        (("TTL", "x"), Refusal::TtlMalformed),
    ];
    for (field, refusal) in table {
        let fields = [field];
        let call = Call { fields: &fields, ..call("POST /kv?prefix=a", None) };
        let reply = api_over(Untouchable).answer(&call, "x".into());
        assert_eq!(reply, refusal.into(), "{field:?}");
    }
}

#[test]
fn a_take_gets_the_first_and_leaves_the_others() {
    let api = api();
    for (key, value) in [("job:2", "second"), ("job:1%20", "first"), ("joc", "other")] {
        answer(&api, &format!("PUT /kv/{key}?ttl=60"), value.as_bytes());
    }
    let take = || once(&api, "DELETE /kv?take=job%3A", "");
    let reply = take();
    assert_eq!(text_of(&reply), (200, "first"));
    assert_eq!(reply.header("Content-Location"), Some("/kv/job:1%20"));
    assert_eq!(reply.header("TTL"), Some("60"));
    assert_eq!(reply.header("ETag"), Some("\"a7937b64b8caa58f03721bb6bacf5c78\""));
    assert_eq!(text_of(&take()), (200, "second"));
    assert_eq!(take(), Refusal::KeyNotFound.into());
    assert_eq!(answer(&api, "GET /kv", b"").body(), "joc\nnumber\nthere\n");
}

#[test]
fn a_take_goes_with_nothing_else() {
    let table = [
        ("take", Refusal::TakeEmpty),
        ("take=", Refusal::TakeEmpty),
        ("take=a&limit=1", Refusal::QueryContradictory),
        ("take=a&prefix=a", Refusal::QueryContradictory),
        ("take=a&take=a", Refusal::QueryContradictory),
        ("take=a&ttl=1", Refusal::QueryUnknown),
        ("take=a&return", Refusal::QueryUnknown),
        ("take=%", Refusal::KeyEscape),
    ];
    for (query, refusal) in table {
        let line = format!("DELETE /kv?{query}");
        assert_eq!(answer(&api_over(Untouchable), &line, b""), refusal.into(), "{line}");
    }
    for field in [("If-Match", "*"), ("If-None-Match", "\"x\"")] {
        let fields = [field];
        let call = Call { fields: &fields, ..call("DELETE /kv?take=a", None) };
        let reply = api_over(Untouchable).answer(&call, Bytes::new());
        assert_eq!(reply, Refusal::QueryContradictory.into());
    }
}

/// Each is served by a thread of its own, and each value goes to one.
#[test]
fn what_many_add_many_take_once_and_in_order() {
    let api = api();
    let taken = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let adders: Vec<_> = (0..4)
            .map(|adder| {
                let api = &api;
                scope.spawn(move || {
                    for number in 0..100 {
                        let reply = once(api, "POST /kv?prefix=job:", &format!("{adder} {number}"));
                        assert_eq!(reply.status(), 201);
                    }
                })
            })
            .collect();
        for adder in adders {
            adder.join().unwrap();
        }
        for _ in 0..4 {
            scope.spawn(|| {
                let mut last = String::new();
                loop {
                    let reply = once(&api, "DELETE /kv?take=job:", "");
                    if reply.status() == 404 {
                        return;
                    }
                    let key = reply.header("Content-Location").unwrap().to_owned();
                    assert!(key > last, "{key} after {last}");
                    last = key;
                    taken.lock().unwrap().push(text_of(&reply).1.to_owned());
                }
            });
        }
    });
    let mut taken = taken.into_inner().unwrap();
    taken.sort();
    let mut added: Vec<_> =
        (0..4).flat_map(|adder| (0..100).map(move |number| format!("{adder} {number}"))).collect();
    added.sort();
    assert_eq!(taken, added);
}

/// A name that somebody else has taken meanwhile is left to them.
#[test]
fn an_addition_does_not_overwrite() {
    let api = api();
    let call = call("POST /kv?prefix=n/", None);
    let operation = api.admit(&call).decision.unwrap();
    let Step::Pending(create) = api.try_now(operation, "mine".into()) else {
        panic!("the look for the last name is done, and the rest is to be submitted")
    };
    let crate::storage::Op::Update(name, _) = &create.op else { panic!("an update") };
    let name = name.as_str().to_owned();
    assert_eq!(answer(&api, &format!("PUT /kv/{name}"), b"theirs").status(), 200);
    let (done, reply) = crossbeam_channel::bounded(1);
    api.submit(create, move |told| done.send(told).unwrap());
    let reply = reply.recv().unwrap();
    assert_eq!(reply.status(), 201);
    assert!(text_of(&reply).1.trim_end() > &*name);
    assert_eq!(answer(&api, &format!("GET /kv/{name}"), b"").body(), "theirs");
}
