//! A store that is a cache: what it tells of hits and misses, over HTTP.

mod support;

use support::engines::ENGINES;
use support::http::Connection;
use support::server::Fixture;

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

#[test]
fn each_read_of_a_key_is_a_hit_or_a_miss() {
    const HIT: [u64; 2] = [1, 0];
    const MISS: [u64; 2] = [0, 1];
    const NEITHER: [u64; 2] = [0, 0];
    let known = "If-None-Match: *";
    let table: [(&str, &str, &[&str], u16, [u64; 2]); 29] = [
        ("GET", "/kv/there", &[], 200, HIT),
        ("HEAD", "/kv/there", &[], 200, HIT),
        ("GET", "/kv/there", &["Range: bytes=0-1"], 206, HIT),
        ("GET", "/kv/there", &[known], 304, HIT),
        ("HEAD", "/kv/there", &[known], 304, HIT),
        ("GET", "/kv/there", &["If-Match: \"x\""], 412, HIT),
        ("GET", "/kv/there", &["Range: bytes=9-"], 416, HIT),
        ("GET", "/kv/there?wait", &[], 200, HIT),
        ("GET", "/kv/there?wait=5ms", &[known], 304, HIT),
        ("GET", "/v8/artifacts/there", &[], 200, HIT),
        ("GET", "/kv/absent", &[], 404, MISS),
        ("HEAD", "/kv/absent", &[], 404, MISS),
        ("GET", "/kv/absent", &["If-Match: *"], 404, MISS),
        ("GET", "/kv/absent?wait=5ms", &[], 404, MISS),
        ("GET", "/kv/absent?wait", &[known], 404, MISS),
        ("HEAD", "/v8/artifacts/absent", &[], 404, MISS),
        ("GET", "/kv/", &[], 400, NEITHER),
        ("GET", "/absent", &[], 404, NEITHER),
        ("GET", "/kv?prefix=the", &[], 200, NEITHER),
        ("GET", "/kv?values", &[], 200, NEITHER),
        ("GET", "/healthz", &[], 200, NEITHER),
        ("OPTIONS", "/kv/there", &[], 204, NEITHER),
        ("PUT", "/kv/there", &[known], 412, NEITHER),
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
        let mut expected = [0, 0];
        for (method, target, fields, status, counted) in table {
            let body: &[u8] = if method == "PUT" { b"x" } else { b"" };
            let answer = connection.ask(method, target, fields, body);
            assert_eq!(answer.status(), status, "{engine}: {method} {target} {fields:?}");
            expected = [expected[0] + counted[0], expected[1] + counted[1]];
            let counted = reads(&mut connection);
            assert_eq!(counted, expected, "{engine}: {method} {target} {fields:?}");
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
