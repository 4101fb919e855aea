//! Calls of pages of other origins, some of them allowed.

use super::{Access, Api, Call, Hosts, Memory, ROUTES, Reply, api, api_over, call, key};
use crate::api::{Origins, TokenSet, Tokens};
use crate::storage::{Blocking as _, Entry};
use bytes::Bytes;

const PAGE: (&str, &str) = ("Origin", "https://app.example");
const OTHER_PAGE: (&str, &str) = ("Origin", "https://evil.example");
const PREFLIGHT: (&str, &str) = ("Access-Control-Request-Method", "PUT");
const CROSS_SITE: (&str, &str) = ("Sec-Fetch-Site", "cross-site");

/// The same API with one allowed origin.
fn for_page(api: Api) -> Api {
    with_tokens(api, None)
}

/// The same with tokens.
fn with_tokens(api: Api, tokens: Option<Tokens>) -> Api {
    let origins = Origins::new(["https://app.example".parse().unwrap()]);
    api.with_access(Access { hosts: Hosts::local([]), tokens, origins })
}

fn one_token() -> Tokens {
    Tokens::new(TokenSet::parse("a-token-of-a-page").unwrap())
}

/// The whole reply to a call, as the server sends it.
fn ask(api: &Api, line: &str, fields: &[(&str, &str)], body: &str) -> Reply {
    let call = Call { fields, ..call(line, Some(body.len() as u64)) };
    let cors = api.admit(&call).cors;
    let reply = api.answer(&call, Bytes::copy_from_slice(body.as_bytes()));
    cors.expect("there are origins").apply(reply)
}

#[test]
fn a_preflight_is_told_the_methods_of_its_path() {
    let api = for_page(api());
    for route in ROUTES {
        let path = route.path.replace("{key}", "there");
        let line = format!("OPTIONS {path}");
        let reply = ask(&api, &line, &[PAGE, PREFLIGHT], "");
        assert_eq!(reply.status(), 204, "{line}");
        let methods: Vec<_> = route.methods.iter().map(|(method, _)| *method).collect();
        let told = reply.header("Access-Control-Allow-Methods");
        assert_eq!(told, Some(&*methods.join(", ")), "{line}");
        assert_eq!(told, reply.header("Allow"), "{line}");
    }
    let all = "GET, HEAD, PUT, POST, DELETE, OPTIONS";
    for line in ["OPTIONS *", "OPTIONS /nowhere", "OPTIONS x"] {
        let reply = ask(&api, line, &[PAGE, PREFLIGHT], "");
        assert_eq!(reply.header("Access-Control-Allow-Methods"), Some(all), "{line}");
    }
}

/// A browser tells its page of a preflight that fails no more than that.
#[test]
fn a_page_reads_the_refusal_of_its_call_and_not_of_its_preflight() {
    let api = for_page(api());
    for (target, text) in [
        ("/nowhere", super::PATHS),
        ("/kv/", "key cannot be empty\n"),
        ("/kv/%zz", "key has a % without two hexadecimal digits\n"),
        ("/kv/there?tll=1", "unknown query parameter\n"),
        ("/kv", "method not allowed\n"),
        ("/clear?x", "method not allowed\n"),
    ] {
        let preflight = ask(&api, &format!("OPTIONS {target}"), &[PAGE, PREFLIGHT], "");
        assert_eq!(preflight.status(), 204, "{target}");
        assert_eq!(preflight.header("Access-Control-Allow-Origin"), Some(PAGE.1), "{target}");
        let reply = ask(&api, &format!("PUT {target}"), &[PAGE], "x");
        assert_eq!(reply.body(), text, "{target}");
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(PAGE.1), "{target}");
    }
}

#[test]
fn another_page_is_told_what_any_client_is() {
    let api = for_page(api());
    let plain = |line, fields: &[_]| ask(&api, line, fields, "");
    for (line, status) in [
        ("OPTIONS /kv/there", 204),
        ("OPTIONS /nowhere", 404),
        ("OPTIONS /clear?x", 400),
        ("GET /kv/there", 200),
    ] {
        let reply = plain(line, &[OTHER_PAGE, PREFLIGHT]);
        assert_eq!(reply, plain(line, &[]), "{line}");
        assert_eq!(reply.status(), status, "{line}");
        let is_told = reply.headers().any(|(name, _)| name.starts_with("Access-Control"));
        assert!(!is_told, "{line}");
        assert_eq!(reply.header("Vary"), Some("Origin"), "{line}");
    }
}

/// An origin says nothing of the host that was called.
#[test]
fn the_host_is_checked_before_a_preflight() {
    let fields = [("Host", "evil.example"), PAGE, PREFLIGHT];
    let reply = ask(&for_page(api()), "OPTIONS /kv/there", &fields, "");
    assert_eq!(reply.status(), 403);
    assert_eq!(reply.header("Access-Control-Allow-Methods"), None);
}

#[test]
fn a_preflight_needs_no_token_and_a_page_reads_that_its_call_does() {
    let api = with_tokens(api(), Some(one_token()));
    assert_eq!(ask(&api, "OPTIONS /kv/there", &[PAGE, PREFLIGHT], "").status(), 204);
    for (token, status) in
        [("Bearer a-token-of-a-page", 200), ("Bearer another-token-of-a-page", 401)]
    {
        let reply =
            ask(&api, "POST /kv/visits?incr", &[PAGE, CROSS_SITE, ("Authorization", token)], "");
        assert_eq!(reply.status(), status, "{token}");
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(PAGE.1), "{token}");
    }
    let fields = [OTHER_PAGE, ("Authorization", "Bearer a-token-of-a-page")];
    let reply = ask(&api, "POST /kv/visits?incr", &fields, "");
    assert_eq!(reply.body(), "a page of another site may not do this\n");
}

#[test]
fn a_page_of_an_allowed_origin_writes_as_one_of_the_store_does() {
    let api = for_page(api());
    for (line, body, status) in [
        ("POST /kv/visits?incr", "", 200),
        ("POST /kv/log?append", "x", 200),
        ("POST /kv/there?ttl=60", "", 200),
        ("POST /kv?prefix=job:", "x", 201),
        ("POST /batch", "{\"method\":\"POST\",\"path\":\"/kv/visits?incr\"}", 200),
        ("POST /import", "{\"key\":\"a\",\"value\":\"b\"}", 200),
        ("PUT /import", "{\"key\":\"a\",\"value\":\"b\"}", 200),
        ("DELETE /kv?take=job:", "", 200),
    ] {
        for site in [CROSS_SITE, ("Sec-Fetch-Site", "same-site"), ("Accept", "*/*")] {
            for page in [OTHER_PAGE, ("Origin", "null"), ("Origin", "http://app.example")] {
                let reply = ask(&api, line, &[page, site], body);
                if line.starts_with("POST") {
                    assert_eq!(reply.body(), "a page of another site may not do this\n", "{line}");
                }
                assert_eq!(reply.header("Access-Control-Allow-Origin"), None, "{line}");
            }
        }
        api.answer(&call("POST /kv?prefix=job:", Some(1)), "x".into());
        let reply = ask(&api, line, &[PAGE, CROSS_SITE], body);
        assert_eq!(reply.status(), status, "{line}");
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(PAGE.1), "{line}");
    }
}

/// All but what a browser itself looks at.
#[test]
fn a_page_may_read_each_field_of_a_reply() {
    /// What a page may read anyway (the Fetch standard, 2.2.2).
    const SAFE: [&str; 3] = ["Cache-Control", "Content-Length", "Content-Type"];
    /// What is for browsers and proxies.
    const NOT_FOR_PAGES: [&str; 3] =
        ["Content-Security-Policy", "X-Accel-Buffering", "X-Content-Type-Options"];
    let memory = Memory::new();
    let page = Entry::new("<p>".into()).with_content_type(Some("text/html".into()));
    memory.set(key("there"), page).unwrap();
    let api = api_over(memory);
    let calls: [(_, &[(&str, &str)], _); 19] = [
        ("PUT /kv/a?ttl=60", &[("If-None-Match", "*")], "value"),
        ("GET /kv/a", &[], ""),
        ("GET /kv/a", &[("Range", "bytes=1-2")], ""),
        ("GET /kv/a", &[("Range", "bytes=9-")], ""),
        ("GET /kv/a", &[("If-None-Match", "*")], ""),
        ("GET /kv/a", &[("Prefer", "wait=1")], ""),
        ("GET /kv/there", &[], ""),
        ("PUT /kv/a", &[("Content-Encoding", "gzip")], "x"),
        ("PATCH /kv/a", &[], ""),
        ("OPTIONS /kv/a", &[], ""),
        ("GET /kv?limit=1", &[], ""),
        ("POST /kv?prefix=job:", &[], "x"),
        ("DELETE /kv?take=job:", &[], ""),
        ("HEAD /watch", &[], ""),
        ("GET /", &[], ""),
        ("GET /healthz", &[], ""),
        (
            "PUT /v8/artifacts/hash",
            &[
                ("x-artifact-duration", "1"),
                ("x-artifact-tag", "a"),
                ("x-artifact-sha", "b"),
                ("x-artifact-dirty-hash", "c"),
            ],
            "x",
        ),
        ("GET /v8/artifacts/hash", &[], ""),
        ("OPTIONS /kv", &[("Authorization", "Bearer a-token-of-a-page")], ""),
    ];
    let mut read = Vec::new();
    for tokens in [None, Some(one_token())] {
        let api = with_tokens(api.clone(), tokens);
        for (line, fields, body) in calls {
            let reply = ask(&api, line, &[fields, &[PAGE]].concat(), body);
            let exposed = reply.header("Access-Control-Expose-Headers").unwrap();
            let exposed: Vec<_> = exposed.split(", ").collect();
            for (name, _) in reply.headers() {
                let is_for_browser =
                    NOT_FOR_PAGES.contains(&name) || name.starts_with("Access-Control-");
                let is_readable = exposed.contains(&name) || SAFE.contains(&name);
                assert!(is_readable != is_for_browser, "{line}: {name}");
                read.push(name);
            }
        }
    }
    for name in ["ETag", "TTL", "Link", "Location", "Revision", "Content-Range", "Allow"] {
        assert!(read.contains(&name), "a reply with {name}");
    }
    for name in ["x-artifact-duration", "x-artifact-dirty-hash"] {
        assert!(read.contains(&name), "a reply with {name}");
    }
    for name in ["Content-Location", "Preference-Applied", "Accept-Encoding", "WWW-Authenticate"] {
        assert!(read.contains(&name), "a reply with {name}");
    }
}
