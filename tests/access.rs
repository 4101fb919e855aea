//! Tokens over HTTP, on every engine: a caller is let in request by request, whatever else
//! came over its connection, and one that is refused hears so at once.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]
#![allow(clippy::indexing_slicing, reason = "a promise that panics is not kept")]

use crate::support::http::{Connection, Response, at_once, has_read_everything, wait_until};
use crate::support::promises::{Store, get, on_every_engine, set};
use crate::support::server::Fixture;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use little_key_value::api::{Access, TokenSet, Tokens};
use std::thread;

on_every_engine! {
    a_token_comes_in_the_forms_of_curl
    a_refusal_comes_before_the_body
    a_refusal_of_a_large_body_is_heard
    a_refusal_of_an_import_is_heard
    a_connection_outlives_a_refusal
    each_request_of_a_connection_has_its_own_token
    tokens_are_replaced_under_an_open_connection
    what_was_admitted_goes_on_without_its_token
    what_waits_for_its_turn_is_asked_for_again
    a_stranger_brings_no_long_body
}

const OWNER: &str = "token-of-the-owner";
const READER: &str = "token-of-the-reader";
const USERS: &str = "token-of-the-users";

/// The field with a token.
fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn set_of(text: &str) -> TokenSet {
    TokenSet::parse(text).expect("lines of tokens")
}

/// A server that knows all tokens, and the handle to replace them.
fn server_over(store: &Store) -> (Fixture, Tokens) {
    let text = format!("{OWNER}\n{READER} ro\n{USERS} users:\n");
    let tokens = Tokens::new(set_of(&text));
    let access = Access { tokens: Some(tokens.clone()), ..Access::default() };
    (Fixture::guarded(Store::clone(store), access), tokens)
}

fn ask(connection: &mut Connection, token: &str, line: &str, body: &str) -> Response {
    let (method, target) = line.split_once(' ').expect("a method and a target");
    connection.ask(method, target, &[&bearer(token)], body.as_bytes())
}

#[track_caller]
fn assert_unauthorized(response: &Response) {
    assert_eq!(response.status(), 401, "{response:?}");
    let challenge = response.header("WWW-Authenticate");
    assert_eq!(challenge, Some("Bearer realm=\"little-key-value\""));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
}

/// `--oauth2-bearer T`, `-u me:T`, and what a URL with `:T@` or a `.netrc` becomes.
fn a_token_comes_in_the_forms_of_curl(store: Store) {
    let (server, _) = server_over(&store);
    let mut connection = server.connect();
    let basic = |pair: String| format!("Authorization: Basic {}", STANDARD.encode(pair));
    let fields = [bearer(OWNER), basic(format!("me:{OWNER}")), basic(format!(":{OWNER}"))];
    for (number, field) in fields.iter().enumerate() {
        let target = format!("/kv/{number}");
        assert_eq!(connection.ask("PUT", &target, &[field], b"value").status(), 200);
        assert_eq!(connection.ask("GET", &target, &[field], b"").body, b"value");
    }
    for field in [basic(format!("{OWNER}:")), basic(OWNER.to_owned()), bearer("nobody-knows-it")] {
        assert_unauthorized(&connection.ask("GET", "/kv/0", &[&field], b""));
    }
    let twice = connection.ask("GET", "/kv/0", &[&fields[0], &fields[1]], b"");
    assert_eq!((twice.status(), twice.text()), (400, "more than one Authorization\n"));
    assert_unauthorized(&connection.get("/kv/0"));
    assert_eq!(connection.get("/healthz").status(), 200);
}

/// A client that asks first is not told to go on, and its body is never sent.
fn a_refusal_comes_before_the_body(store: Store) {
    let (server, _) = server_over(&store);
    let put = "PUT /kv/other HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n";
    for (token, status) in
        [(None, 401), (Some("nobody-knows-it"), 401), (Some(READER), 403), (Some(USERS), 403)]
    {
        let field = token.map(|token| bearer(token) + "\r\n").unwrap_or_default();
        let mut connection = server.connect();
        connection.send(format!("{put}{field}Content-Length: 5000\r\n\r\n"));
        assert_eq!(connection.response().status(), status, "{token:?}");
    }
    let mut connection = server.connect();
    connection.send(format!("{put}{}\r\nContent-Length: 5\r\n\r\n", bearer(OWNER)));
    assert_eq!(connection.response().status(), 100);
    connection.send("value");
    assert_eq!(connection.response().status(), 200);
    assert_eq!(get(&store, "other").as_deref(), Some(&b"value"[..]));
}

/// Sends a request all the same, while its answer comes.
fn answer_to_all_of(server: &Fixture, head: &str, body: Vec<u8>) -> Response {
    let mut connection = server.connect();
    connection.send(head);
    let mut sender = connection.try_clone();
    let sending = thread::spawn(move || {
        // The server hangs up at some byte of it.
        sender.try_send(body).ok();
    });
    let response = connection.response();
    drop(connection);
    sending.join().expect("a sender ends well");
    response
}

fn a_refusal_of_a_large_body_is_heard(store: Store) {
    let (server, _) = server_over(&store);
    let bytes = 8 << 20;
    for (field, status) in [(String::new(), 401), (bearer(READER) + "\r\n", 403)] {
        let head = format!(
            "PUT /kv/other HTTP/1.1\r\nHost: test\r\n{field}Content-Length: {bytes}\r\n\r\n"
        );
        let response = answer_to_all_of(&server, &head, vec![b'x'; bytes]);
        assert_eq!(response.status(), status);
        assert_eq!(response.header("Connection"), Some("close"));
    }
    assert_eq!(get(&store, "other"), None);
}

/// An import is held to its token before it is read, and at each line.
fn a_refusal_of_an_import_is_heard(store: Store) {
    let (server, _) = server_over(&store);
    let line = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"x\"}}\n");
    let filler = line("users:later").repeat(200_000);
    let body = [line("users:1"), line("users:2"), line("other"), filler].concat();
    let import = |field: &str| {
        let length = body.len();
        let head =
            format!("POST /import HTTP/1.1\r\nHost: a\r\n{field}Content-Length: {length}\r\n\r\n");
        answer_to_all_of(&server, &head, body.clone().into_bytes())
    };
    assert_unauthorized(&import(""));
    let told = import(&(bearer(READER) + "\r\n"));
    assert_eq!((told.status(), told.text()), (403, "the token has no right to do this\n"));
    assert_eq!(get(&store, "users:1"), None);
    let told = import(&(bearer(USERS) + "\r\n"));
    let text = "line 3: the token has no right to do this; 2 were stored\n";
    assert_eq!((told.status(), told.text()), (403, text));
    let there =
        ["users:1", "users:2", "other", "users:later"].map(|key| get(&store, key).is_some());
    assert_eq!(there, [true, true, false, false]);
}

fn a_connection_outlives_a_refusal(store: Store) {
    let (server, _) = server_over(&store);
    let mut connection = server.connect();
    for _ in 0..3 {
        assert_unauthorized(&connection.get("/kv/a"));
        assert_unauthorized(&connection.put("/kv/a", b"value"));
        assert_eq!(ask(&mut connection, READER, "PUT /kv/a", "value").status(), 403);
        assert_eq!(ask(&mut connection, READER, "GET /kv/a", "").status(), 404);
    }
    assert_eq!(ask(&mut connection, OWNER, "PUT /kv/a", "value").status(), 200);
}

/// The token of one request lets no other in, in whatever order they come.
fn each_request_of_a_connection_has_its_own_token(store: Store) {
    let (server, _) = server_over(&store);
    let requests = [
        (Some(OWNER), "PUT /kv/users:1", 200),
        (None, "GET /kv/users:1", 401),
        (Some(USERS), "GET /kv/users:1", 200),
        (Some(READER), "GET /kv/users:1", 200),
        (Some(READER), "PUT /kv/users:1", 403),
        (Some(USERS), "PUT /kv/users:1", 200),
        (Some(USERS), "PUT /kv/other", 403),
        (Some("nobody-knows-it"), "PUT /kv/users:1", 401),
        (Some(OWNER), "PUT /kv/other", 200),
        (None, "DELETE /kv/other", 401),
        (Some(OWNER), "GET /kv/other", 200),
    ];
    let request = |(token, line, _): &(Option<&str>, &str, u16)| {
        let field = token.map(|token| bearer(token) + "\r\n").unwrap_or_default();
        let body = if line.starts_with("PUT") { "value" } else { "" };
        let length = body.len();
        format!("{line} HTTP/1.1\r\nHost: a\r\n{field}Content-Length: {length}\r\n\r\n{body}")
    };
    let pipelined = requests.iter().map(request).collect::<Vec<_>>().concat();
    at_once(server.addr(), 4, |_, connection| {
        for _ in 0..3 {
            connection.send(&pipelined);
            for (token, line, status) in requests {
                let response = connection.response();
                assert_eq!(response.status(), status, "{line} of {token:?}");
            }
        }
    });
}

fn tokens_are_replaced_under_an_open_connection(store: Store) {
    let (server, tokens) = server_over(&store);
    let mut connections: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let mut statuses_of = |token| {
        let ask = |connection| ask(connection, token, "PUT /kv/users:1", "value").status();
        let mut statuses: Vec<_> = connections.iter_mut().map(ask).collect();
        statuses.dedup();
        statuses
    };
    assert_eq!([statuses_of(OWNER), statuses_of(READER)], [[200], [403]]);
    tokens.replace(set_of(&format!("{OWNER} ro\n{READER} rw\n")));
    assert_eq!([statuses_of(OWNER), statuses_of(READER)], [[403], [200]]);
    tokens.replace(set_of(&format!("{READER} groups:\n")));
    assert_eq!([statuses_of(OWNER), statuses_of(READER)], [[401], [403]]);
    tokens.replace(set_of(&format!("{OWNER}\n{READER} ro\n")));
    assert_eq!([statuses_of(OWNER), statuses_of(READER)], [[200], [403]]);
}

/// A stream is not cut off, where there are streams.
fn what_was_admitted_goes_on_without_its_token(store: Store) {
    let (server, tokens) = server_over(&store);
    let mut watcher = server.connect();
    let field = bearer(READER);
    watcher.send(format!("GET /watch?key=other HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
    let begun = watcher.try_head().expect("an answer").status();
    if store.changes().is_none() {
        assert_eq!(begun, 501);
        return;
    }
    assert_eq!(begun, 200);
    assert!(watcher.try_chunk().expect("a stream").starts_with(b"ready "));
    tokens.replace(set_of(OWNER));
    assert_unauthorized(&ask(&mut server.connect(), READER, "GET /kv/other", ""));
    set(&store, "other", "value");
    let told = String::from_utf8(watcher.try_chunk().expect("it goes on")).expect("text");
    assert!(told.starts_with("put "), "{told:?}");
}

/// A request that was read ahead has not begun.
fn what_waits_for_its_turn_is_asked_for_again(store: Store) {
    let (server, tokens) = server_over(&store);
    let mut connection = server.connect();
    let field = bearer(OWNER);
    let wait = format!("GET /kv/absent?wait=10m HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    let put = format!("PUT /kv/a HTTP/1.1\r\nHost: a\r\n{field}\r\nContent-Length: 1\r\n\r\nx");
    connection.send(wait + &put);
    wait_until("both were read", || has_read_everything(server.addr()));
    tokens.replace(set_of(READER));
    set(&store, "absent", "value");
    let waited = connection.response();
    let behind = connection.response();
    // Either may be read, or begin, before the change or after it.
    assert!(matches!(waited.status(), 200 | 401 | 503), "{waited:?}");
    assert!(matches!(behind.status(), 401 | 503), "{behind:?}");
    assert_eq!(get(&store, "a"), None);
}

/// The paths that are open to all take no memory that is for others.
fn a_stranger_brings_no_long_body(store: Store) {
    let (server, _) = server_over(&store);
    let heads = ["GET /healthz", "HEAD /livez", "GET /readyz", "GET /", "OPTIONS /import"];
    for head in heads {
        for length in ["Content-Length: 1025", "Transfer-Encoding: chunked"] {
            let mut connection = server.connect();
            let expects = "Expect: 100-continue";
            connection.send(format!("{head} HTTP/1.1\r\nHost: a\r\n{length}\r\n{expects}\r\n\r\n"));
            let response = connection.try_head().expect("an answer");
            assert_eq!(response.status(), 400, "{head} {length}");
        }
        let mut connection = server.connect();
        let body = "x".repeat(1024);
        connection
            .send(format!("{head} HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{body}"));
        let response = connection.try_head().expect("an answer");
        assert!(matches!(response.status(), 200 | 204), "{head}: {response:?}");
    }
}
