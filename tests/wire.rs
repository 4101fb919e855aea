//! Raw bytes: requests that are cut, split, too large, ambiguous, or sent by
//! clients who go away. Nothing that arrives in part is ever stored, and
//! nothing hidden in a body is ever executed.

use crate::support::blocking::Blocking as _;
use crate::support::engines;
use crate::support::http::{Connection, get_head, put_head, wait_until};
use crate::support::server::{Fixture, VALUE_BYTES_MAX};
use crate::support::threads::Start;
use little_key_value::server::Config;
use little_key_value::storage::Key;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A server whose `/kv/victim` has a value that no attack below may change.
fn server_with_a_victim() -> Fixture {
    let server = Fixture::start();
    assert_eq!(server.connect().put("/kv/victim", b"unharmed").status(), 200);
    server
}

#[track_caller]
fn assert_unharmed(server: &Fixture, after: &str) {
    let mut connection = server.connect();
    assert_eq!(connection.get("/kv/victim").body, b"unharmed", "after {after}");
    assert_eq!(connection.get("/healthz").status(), 200, "after {after}");
}

/// Asserts that the server answers with this status, or not at all, and
/// closes the connection.
#[track_caller]
fn assert_refused(mut connection: Connection, status: u16, what: &str) {
    let answer = connection.try_response_to("PUT");
    if let Ok(answer) = answer {
        assert_eq!(answer.status(), status, "{what}: {answer:?}");
        assert_eq!(answer.header("Connection"), Some("close"), "{what}");
    }
    connection.end().unwrap_or_else(|err| panic!("{what}: {err}"));
}

#[test]
fn a_body_cut_short_is_not_stored() {
    let server = server_with_a_victim();
    for (announced, sent) in [(10, 4), (1024, 1023), (1025, 1024), (100_000, 70_000), (5000, 0)] {
        let mut connection = server.connect();
        connection.send(put_head("/kv/victim", announced));
        connection.send(vec![b'x'; sent]);
        connection.finish_sending();
        assert_refused(connection, 400, &format!("{sent} of {announced} bytes"));
        assert_unharmed(&server, &format!("{sent} of {announced} bytes"));
    }
}

#[test]
fn a_chunked_body_cut_short_is_not_stored() {
    let server = server_with_a_victim();
    let large = format!("20000\r\n{}", "x".repeat(0x1_0000));
    let table =
        ["", "5", "5\r\n", "5\r\nva", "5\r\nvalue", "5\r\nvalue\r\n", "5\r\nvalue\r\n0", &large];
    for body in table {
        let mut connection = server.connect();
        connection
            .send("PUT /kv/victim HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send(body);
        connection.finish_sending();
        let what = format!("a chunked body of {:?}", &body[..body.len().min(20)]);
        assert_refused(connection, 400, &what);
        assert_unharmed(&server, &what);
    }
}

#[test]
fn a_chunked_body_that_makes_no_sense_is_not_stored() {
    let server = server_with_a_victim();
    for body in [
        "zz\r\nvalue\r\n0\r\n\r\n",
        "-1\r\n",
        "+5\r\nvalue\r\n0\r\n\r\n",
        " 5\r\nvalue\r\n0\r\n\r\n",
        "0x5\r\nvalue\r\n0\r\n\r\n",
        "5;a\0b\r\nvalue\r\n0\r\n\r\n",
        "5\nvalue\r\n0\r\n\r\n",
        "5\r\nvalueDELETE\r\n",
        "5\r\nvalue\r\n0\r\nX Y: a\r\n\r\n",
        "\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection
            .send("PUT /kv/victim HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send(body);
        connection.send("DELETE /kv/victim HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_refused(connection, 400, body);
        assert_unharmed(&server, body);
    }
}

#[test]
fn an_upload_whose_client_goes_away_is_not_stored() {
    let server = server_with_a_victim();
    for _ in 0..20 {
        let mut connection = server.connect();
        connection.send(put_head("/kv/victim", 100_000));
        connection.send(vec![b'x'; 50_000]);
    }
    assert_unharmed(&server, "uploads that were broken off");
    // Stopping waits for all of them.
    drop(server);
}

#[test]
fn a_request_in_any_two_pieces_is_one_request() {
    let server = Fixture::start();
    let request = b"PUT /kv/key HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nvalue";
    let mut connection = server.connect();
    for at in 1..request.len() {
        let (one, other) = request.split_at(at);
        connection.send(one);
        // Another connection's answer makes sure that the first piece has
        // been sent by itself.
        assert_eq!(server.connect().get("/healthz").status(), 200);
        connection.send(other);
        assert_eq!(connection.response().status(), 200, "cut at {at}");
        assert_eq!(connection.get("/kv/key").body, b"value", "cut at {at}");
        assert_eq!(connection.call("DELETE", "/kv/key").status(), 200);
    }
}

#[test]
fn a_body_byte_by_byte_is_one_value() {
    let server = Fixture::start();
    let value: Vec<u8> = (0..=u8::MAX).cycle().take(1500).collect();
    let mut connection = server.connect();
    connection.send(put_head("/kv/key", value.len()));
    for byte in &value {
        connection.send([*byte]);
    }
    assert_eq!(connection.response().status(), 200);
    assert_eq!(connection.get("/kv/key").body, value);
}

#[test]
fn chunks_of_any_size_are_one_value() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for size in [1, 2, 15, 16, 17, 1000, 65_536, 100_000] {
        let value: Vec<u8> = (0..=u8::MAX).cycle().take(200_001.min(size * 3 + 1)).collect();
        connection.send("PUT /kv/key HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in value.chunks(size) {
            connection.send(format!("{:x}\r\n", chunk.len()));
            connection.send(chunk);
            connection.send("\r\n");
        }
        connection.send("0\r\n\r\n");
        assert_eq!(connection.response().status(), 200, "chunks of {size}");
        assert!(connection.get("/kv/key").body == value, "chunks of {size}");
    }
}

#[test]
fn a_length_past_the_limit_is_refused_whatever_it_claims() {
    let server = server_with_a_victim();
    let lengths = [
        (VALUE_BYTES_MAX + 1).to_string(),
        (1_u64 << 40).to_string(),
        i64::MAX.to_string(),
        (1_u64 << 63).to_string(),
        u64::MAX.to_string(),
        "18446744073709551616".to_owned(),
        "9".repeat(100),
    ];
    for target in ["/kv/victim", "/nowhere"] {
        for length in &lengths {
            let mut connection = server.connect();
            let head =
                format!("PUT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
            connection.send(head + "some bytes of it");
            // A length that is no number of this machine is a matter of framing,
            // which comes before the path.
            let fits = length.parse::<usize>().is_ok();
            let status = if fits && target == "/nowhere" { 404 } else { 413 };
            let answer = connection.response();
            assert_eq!(answer.status(), status, "{length} for {target}");
            assert_eq!(answer.header("Connection"), Some("close"));
            connection.expect_closed();
            assert_unharmed(&server, length);
        }
    }
}

#[test]
fn a_chunked_body_past_the_limit_is_413() {
    let server = Fixture::with(engines::memory(), 100_000, &Fixture::config());
    assert_eq!(server.connect().put("/kv/victim", b"unharmed").status(), 200);
    let mut connection = server.connect();
    connection.send("PUT /kv/victim HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    // There is no end to it: it is the server that has to end this.
    while connection.try_send(&chunk).is_ok() {}
    assert_unharmed(&server, "a body without an end");
}

#[test]
fn of_an_ambiguous_request_nothing_is_executed() {
    const HIDDEN: &str = "DELETE /kv/victim HTTP/1.1\r\nHost: test\r\n\r\n";
    let server = server_with_a_victim();
    let hidden_bytes = HIDDEN.len();
    let table = [
        (format!("Content-Length: {hidden_bytes}\r\nContent-Length: 0"), 400),
        (format!("Content-Length: 0\r\nContent-Length: {hidden_bytes}"), 400),
        (format!("Content-Length: {hidden_bytes}\r\nContent-Length: {hidden_bytes}"), 400),
        (format!("Content-Length: +{hidden_bytes}"), 400),
        (format!("Content-Length: -{hidden_bytes}"), 400),
        (format!("Content-Length: {hidden_bytes}, {hidden_bytes}"), 400),
        (format!("Content-Length: 0x{hidden_bytes:x}"), 400),
        ("Content-Length: 0 0".to_owned(), 400),
        ("Content-Length:".to_owned(), 400),
        (format!("Content-Length: {hidden_bytes}\r\nTransfer-Encoding: chunked"), 400),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {hidden_bytes}"), 400),
        ("Transfer-Encoding: identity".to_owned(), 501),
        ("Transfer-Encoding: gzip, chunked".to_owned(), 501),
        ("Transfer-Encoding: xchunked".to_owned(), 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked".to_owned(), 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(), 400),
        ("Host: another".to_owned(), 400),
        ("X: a\nContent-Length: 5".to_owned(), 400),
    ];
    for (fields, status) in table {
        let mut connection = server.connect();
        let head = format!("PUT /kv/other HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n");
        connection.send(format!("{head}{HIDDEN}{HIDDEN}"));
        assert_refused(connection, status, &fields);
        assert_unharmed(&server, &fields);
        assert_eq!(server.connect().get("/kv/other").status(), 404, "{fields}");
    }
}

#[test]
fn a_version_that_is_not_spoken_is_refused() {
    let server = server_with_a_victim();
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/1.10", "http/1.1", "HTTQ/1.1"] {
        let mut connection = server.connect();
        connection.send(format!("DELETE /kv/victim {version}\r\nHost: test\r\n\r\n"));
        let refused = connection.try_response_to("PUT");
        assert!(
            refused.is_err() || refused.is_ok_and(|answer| answer.status() >= 400),
            "{version}"
        );
        assert_unharmed(&server, version);
    }
}

/// Asserts that the server answers at once with this status and a line of
/// text, and closes the connection.
#[track_caller]
fn assert_told(server: &Fixture, bytes: impl AsRef<[u8]>, status: u16) {
    let bytes = bytes.as_ref();
    let what = String::from_utf8_lossy(bytes).into_owned();
    let mut connection = server.connect();
    connection.send(bytes);
    let answer = connection.response();
    assert_eq!(answer.status(), status, "{what:?}: {answer:?}");
    assert_eq!(answer.header("Connection"), Some("close"), "{what:?}");
    assert!(answer.text().ends_with('\n') && answer.text().len() > 10, "{what:?}: {answer:?}");
    connection.end().unwrap_or_else(|err| panic!("{what:?}: {err}"));
}

/// Forward-auth proxies send names as they are (RFC 9110, 5.5 allows it).
#[test]
fn a_field_may_have_bytes_beyond_ascii() {
    let server = server_with_a_victim();
    let mut connection = server.connect();
    for name in [&b"J\xc3\xb6rg"[..], b"J\xf6rg", b"\xff\xfe", b"a\x80"] {
        // On a new connection, and behind other requests.
        for connection in [&mut server.connect(), &mut connection] {
            connection.send(b"GET /kv/victim HTTP/1.1\r\nHost: test\r\nRemote-Name: ");
            connection.send(name);
            connection.send(b"\r\n\r\n");
            let answer = connection.response();
            assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"unharmed"[..]));
        }
        let mut put = b"PUT /kv/other HTTP/1.1\r\nHost: test\r\nX: ".to_vec();
        put.extend_from_slice(name);
        put.extend_from_slice(b"\r\nContent-Length: 3\r\n\r\n\xc3\xb6\xff");
        connection.send(put);
        assert_eq!(connection.response().status(), 200);
        assert_eq!(connection.get("/kv/other").body, b"\xc3\xb6\xff");
    }
}

/// Nothing is closed without a word, and nobody waits for a deadline.
#[test]
fn whatever_is_no_request_is_told_so_at_once() {
    let server = server_with_a_victim();
    let fields = |fields: &str| format!("GET /kv/a HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n");
    let cases: [(&[u8], u16); 20] = [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/3.0\r\nHost: test\r\n\r\n", 505),
        // A TLS client's hello, as far as its first bytes go.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\0\0\0\0", 400),
        (b" GET / HTTP/1.1\r\n", 400),
        (b"\xef\xbb\xbfGET / HTTP/1.1\r\n", 400),
        (b"{\"method\":\"GET\"}", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nHost: test\n", 400),
        (b"GET /kv/S\xc3\xa3o HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"G\xc3\x96T / HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1 junk\r\nHost: test\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nH\xc3\xb6st: test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: te/st\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: me@test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        (b"PUT /kv/a HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: test\r\n\r\n", 400),
    ];
    for (bytes, status) in cases {
        assert_told(&server, bytes, status);
    }
    assert_told(&server, fields("no colon"), 400);
    assert_told(&server, fields("X : a"), 400);
    assert_told(&server, fields("X: a\r\n folded"), 400);
    assert_told(&server, fields("Expect: 200-ok"), 417);
    assert_told(&server, fields("Transfer-Encoding: chunked, gzip"), 400);
    assert_unharmed(&server, "bytes that are no request");
}

#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let server = server_with_a_victim();
    let mut connection = server.connect();
    for before in ["\r\n", "\r\n\r\n", ""] {
        connection.send(format!("{before}GET /kv/victim HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(connection.response().body, b"unharmed");
    }
}

/// Java's HTTP client sends this for any stream, and `curl --http2 -T -`.
#[test]
fn a_wish_to_upgrade_is_ignored() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for body in [
        "Content-Length: 5\r\n\r\nvalue",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n",
    ] {
        connection.send(
            "PUT /kv/key HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
        );
        connection.send(body);
        assert_eq!(connection.response().status(), 200, "{body:?}");
        assert_eq!(connection.get("/kv/key").body, b"value", "{body:?}");
    }
}

#[test]
fn trailers_are_read_and_ignored() {
    let server = Fixture::start();
    let mut connection = server.connect();
    connection.send(
        "PUT /kv/key HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         5;a=b\r\nvalue\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!(connection.response().status(), 200);
    assert_eq!(connection.get("/kv/key").body, b"value");
}

/// A whole chunked body is whole, though its client sends no more.
#[test]
fn a_client_may_end_its_side_behind_a_whole_request() {
    let server = Fixture::start();
    for body in [
        "Content-Length: 5\r\n\r\nvalue",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.send(format!("PUT /kv/key HTTP/1.1\r\nHost: test\r\n{body}"));
        connection.finish_sending();
        assert_eq!(connection.response().status(), 200, "{body:?}");
        connection.expect_closed();
    }
}

#[test]
fn each_of_many_connections_at_once_is_served() {
    const CONNECTIONS: usize = 64;
    let server = Fixture::start();
    let [start, end] = [(); 2].map(|()| Start::new(CONNECTIONS));
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                start.wait();
                let mut connection = server.connect();
                for _ in 0..3 {
                    assert_eq!(connection.get("/healthz").status(), 200);
                }
                // Nobody is served because another one leaves.
                end.wait();
            });
        }
    });
}

#[test]
fn silent_connections_keep_nobody_from_being_served() {
    let server = Fixture::start();
    let silent: Vec<Connection> = (0..100).map(|_| server.connect()).collect();
    let mut half_a_head: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    for connection in &mut half_a_head {
        connection.send("GET /kv/key HTTP/1.1\r\nHo");
    }
    let mut half_a_body: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    for connection in &mut half_a_body {
        connection.send(put_head("/kv/key", 5000) + "some bytes of it");
    }
    let mut connection = server.connect();
    assert_eq!(connection.put("/kv/key", b"value").status(), 200);
    assert_eq!(connection.get("/kv/key").body, b"value");
    drop(silent);
    drop(half_a_head);
    drop(half_a_body);
}

#[test]
fn clients_who_do_not_read_keep_nobody_from_being_served() {
    let server = Fixture::with(
        engines::memory(),
        VALUE_BYTES_MAX,
        &Config { shutdown_timeout: Duration::from_millis(200), ..Fixture::config() },
    );
    let mut connection = server.connect();
    assert_eq!(connection.put("/kv/large", &vec![b'x'; 8 << 20]).status(), 200);
    let mut deaf: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    for connection in &mut deaf {
        connection.send(get_head("/kv/large").repeat(5));
    }
    for _ in 0..20 {
        assert_eq!(connection.get("/healthz").status(), 200);
    }
    assert_eq!(server.connect().get("/kv/large").body.len(), 8 << 20);
}

#[test]
fn clients_who_go_away_unanswered_do_no_harm() {
    let server = server_with_a_victim();
    assert_eq!(server.connect().put("/kv/large", &vec![b'x'; 8 << 20]).status(), 200);
    for _ in 0..30 {
        let mut connection = server.connect();
        connection.send(get_head("/kv/large").repeat(3));
    }
    assert_unharmed(&server, "clients who went away");
    drop(server);
}

#[test]
fn a_large_value_comes_whole_to_a_slow_reader() {
    let server = Fixture::start();
    let value: Vec<u8> = (0..=u8::MAX).cycle().take(8 << 20).collect();
    assert_eq!(server.connect().put("/kv/large", &value).status(), 200);
    let mut slow = server.connect();
    slow.send(get_head("/kv/large"));
    // The socket's buffers are full once the server has no more to do …
    let mut others = server.connect();
    wait_until("others are served", || others.get("/healthz").status() == 200);
    // … and the value is replaced while it is under way.
    assert_eq!(others.put("/kv/large", b"another").status(), 200);
    let answer = slow.response();
    assert!(answer.body == value, "{} bytes", answer.body.len());
    assert_eq!(slow.get("/kv/large").body, b"another");
}

#[test]
fn after_a_refusal_with_a_small_body_the_connection_serves_on() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for target in ["/kv/", "/nowhere", "/clear", "/kv/key?x"] {
        assert!(connection.put(target, b"value").status() >= 400, "{target}");
        assert_eq!(connection.get("/healthz").status(), 200, "after {target}");
    }
}

#[test]
fn a_refused_upload_is_answered_without_its_body() {
    let server = Fixture::start();
    for (target, status) in [("/kv/", 400), ("/nowhere", 404), ("/clear", 405), ("/kv/key?x", 400)]
    {
        let mut connection = server.connect();
        connection.send(put_head(target, 1 << 20));
        let answer = connection.response();
        assert_eq!(answer.status(), status, "{target}");
        assert_eq!(answer.header("Connection"), Some("close"), "{target}");
        connection.expect_closed();
    }
}

#[test]
fn a_silent_connection_is_closed_after_the_idle_timeout() {
    let config = Config { idle_timeout: Duration::from_secs(3), ..Fixture::config() };
    let server = Fixture::with(engines::memory(), VALUE_BYTES_MAX, &config);
    let silent = server.connect();
    let mut idle = server.connect();
    assert_eq!(idle.get("/healthz").status(), 200);
    silent.expect_closed();
    idle.expect_closed();
}

#[test]
fn a_request_that_does_not_arrive_is_given_up_after_its_timeout() {
    let store = engines::memory();
    let config = Config { request_timeout: Duration::from_millis(200), ..Fixture::config() };
    let server = Fixture::with(Arc::clone(&store), VALUE_BYTES_MAX, &config);
    let beginnings = [
        "GET /kv/key HT",
        "GET /kv/key HTTP/1.1\r\nHost: te",
        &put_head("/kv/key", 100),
        &put_head("/kv/key", 5000),
    ];
    for beginning in beginnings {
        let mut connection = server.connect();
        connection.send(beginning);
        assert_refused(connection, 408, beginning);
    }
    let key = Key::new("key").expect("a key");
    assert_eq!(store.get(&key), Ok(None));
}
