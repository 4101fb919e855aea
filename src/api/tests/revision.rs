//! The position in the history that replies of the collection tell.

use super::{Api, Reply, api_over, call, key};
use crate::storage::{Blocking as _, Entry, Memory, Revision, Storage as _};
use bytes::Bytes;

const JOB: &str = "{\"key\":\"job:2\",\"value\":\"2\"}";

fn ask(api: &Api, line: &str, body: &str) -> Reply {
    let body = Bytes::copy_from_slice(body.as_bytes());
    api.answer(&call(line, Some(body.len() as u64)), body)
}

fn revision(reply: &Reply) -> Option<Revision> {
    reply.header("Revision").map(|text| text.parse().expect("a revision"))
}

#[test]
fn a_reply_of_the_collection_tells_the_position_before_it() {
    let memory = Memory::new();
    let api = api_over(memory.clone());
    for (line, body) in [
        ("GET /kv", ""),
        ("HEAD /kv", ""),
        ("HEAD /kv?limit=1", ""),
        ("GET /kv?limit=1", ""),
        ("GET /kv?values", ""),
        ("GET /kv?tar", ""),
        ("GET /kv?count", ""),
        ("POST /kv?prefix=job:", "1"),
        ("POST /batch", JOB),
        ("DELETE /kv?take=job:", ""),
        ("DELETE /kv?take=job:&wait=1ms", ""),
        ("DELETE /kv?prefix=job:", ""),
        ("POST /import", JOB),
        ("PUT /import", JOB),
        ("HEAD /watch", ""),
        ("GET /watch?wait=1ms", ""),
    ] {
        memory.set(key("job:0"), Entry::new("0".into())).unwrap();
        let before = memory.changes().unwrap().revision();
        assert_eq!(revision(&ask(&api, line, body)), Some(before), "{line}");
    }
}

#[test]
fn no_other_reply_tells_it() {
    let api = super::api();
    for (line, body) in [
        ("GET /kv/there", ""),
        ("PUT /kv/there", "value"),
        ("PUT /kv/there?wait", "value"),
        ("GET /kv/there?wait=1ms", ""),
        ("OPTIONS /kv", ""),
        ("OPTIONS /watch", ""),
        ("GET /kv?limit=0", ""),
        ("DELETE /kv", ""),
        ("DELETE /kv?take=absent", ""),
        ("DELETE /kv?take=absent&wait=1ms", ""),
        ("POST /batch", "{}"),
        ("POST /batch", "{\"key\":\"there\",\"value\":\"2\",\"if_none_match\":\"*\"}"),
        ("POST /import", "{}"),
        ("GET /watch?since=x", ""),
        ("DELETE /clear", ""),
        ("GET /healthz", ""),
    ] {
        assert_eq!(revision(&ask(&api, line, body)), None, "{line}");
    }
}
