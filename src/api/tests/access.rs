//! Callers with and without tokens: who is let in, and to what.

use super::*;
use crate::api::{TokenSet, Tokens};

const OWNER: &str = "token-of-the-owner";
const READER: &str = "token-of-the-reader";
const USERS: &str = "token-of-the-users";
const USERS_READER: &str = "token-of-the-users-reader";
const UNKNOWN: &str = "token-that-nobody-knows";

const UNAUTHORIZED: &str = "this needs a token: send it as Authorization: Bearer TOKEN\n";
const FORBIDDEN: &str = "the token has no right to do this\n";

/// The tokens of all callers.
fn tokens() -> Tokens {
    let text = format!(
        "{OWNER}\n{READER} ro\n{USERS} users: groups: turbo/web/\n{USERS_READER} ro users: turbo/web/\n"
    );
    Tokens::new(TokenSet::parse(&text).unwrap())
}

fn api_with_tokens(storage: impl Storage + 'static) -> Api {
    api_over(storage).with_access(Access { tokens: Some(tokens()), ..Access::default() })
}

/// The reply to a caller with this token.
fn answer_to(api: &Api, token: Option<&str>, line: &str, body: &[u8]) -> Reply {
    let field = token.map(|token| format!("Bearer {token}"));
    let fields: Vec<_> = field.iter().map(|field| ("Authorization", &**field)).collect();
    let call = Call { fields: &fields, ..call(line, Some(body.len() as u64)) };
    let reply = api.answer(&call, Bytes::copy_from_slice(body));
    check_form(line, &reply);
    reply
}

/// Each caller: nobody, a token that nobody knows, and those with fewer and fewer rights.
const CALLERS: [Option<&str>; 6] =
    [None, Some(UNKNOWN), Some(OWNER), Some(READER), Some(USERS), Some(USERS_READER)];

/// In place of a status: the caller is let in.
const IN: u16 = 200;

/// The statuses of the callers to a call that is open, that tells the rights of a token, or
/// that needs one with some right.
const TOLD: [u16; 6] = [IN, 401, IN, IN, IN, IN];
const OPEN: [u16; 6] = [IN; 6];
const ANY_TOKEN: [u16; 6] = [401, 401, IN, IN, IN, IN];
const READ_ALL: [u16; 6] = [401, 401, IN, IN, 403, 403];
const READ_USERS: [u16; 6] = [401, 401, IN, IN, IN, IN];
const READ_GROUPS: [u16; 6] = [401, 401, IN, IN, IN, 403];
const WRITE_ALL: [u16; 6] = [401, 401, IN, 403, 403, 403];
const WRITE_USERS: [u16; 6] = [401, 401, IN, 403, IN, 403];

/// Calls, and the status of each caller.
const CALLS: &[(&str, &[u8], [u16; 6])] = &[
    ("GET /kv/users:1", b"", READ_USERS),
    ("GET /kv/%75sers:1", b"", READ_USERS),
    ("GET /kv/users", b"", READ_ALL),
    ("GET /kv/groups:1", b"", READ_GROUPS),
    ("GET /kv/other", b"", READ_ALL),
    ("GET /kv/other?wait=1ms", b"", READ_ALL),
    ("HEAD /kv/users:1", b"", READ_USERS),
    ("HEAD /kv/other", b"", READ_ALL),
    ("PUT /kv/users:1", b"a", WRITE_USERS),
    ("PUT /kv/groups:1", b"a", WRITE_USERS),
    ("PUT /kv/other", b"a", WRITE_ALL),
    ("PUT /kv/users:2?create", b"a", WRITE_USERS),
    ("PUT /kv/new?create", b"a", WRITE_ALL),
    ("POST /kv/users:1?incr", b"", WRITE_USERS),
    ("POST /kv/other?append", b"a", WRITE_ALL),
    ("POST /kv/other?ttl=5", b"", WRITE_ALL),
    ("DELETE /kv/users:1", b"", WRITE_USERS),
    ("DELETE /kv/other?return", b"", WRITE_ALL),
    ("OPTIONS /kv/other", b"", TOLD),
    ("GET /kv", b"", READ_ALL),
    ("GET /kv?prefix=", b"", READ_ALL),
    ("GET /kv?prefix=user", b"", READ_ALL),
    ("GET /kv?prefix=other", b"", READ_ALL),
    ("GET /kv?after=users:", b"", READ_ALL),
    ("GET /kv?prefix=users:", b"", READ_USERS),
    ("GET /kv?prefix=users%3A1&after=a&limit=5&values", b"", READ_USERS),
    ("GET /kv?prefix=groups:&tar", b"", READ_GROUPS),
    ("GET /kv?count", b"", READ_ALL),
    ("GET /kv?count&prefix=users:", b"", READ_USERS),
    ("HEAD /kv", b"", READ_ALL),
    ("HEAD /kv?prefix=users:", b"", READ_USERS),
    ("POST /kv?prefix=users:", b"a", WRITE_USERS),
    ("POST /kv?prefix=other", b"a", WRITE_ALL),
    ("DELETE /kv?prefix=users:", b"", WRITE_USERS),
    ("DELETE /kv?prefix=users:1&limit=5", b"", WRITE_USERS),
    ("DELETE /kv?prefix=user", b"", WRITE_ALL),
    ("DELETE /kv?take=users:", b"", WRITE_USERS),
    ("DELETE /kv?take=u", b"", WRITE_ALL),
    ("DELETE /kv?take=u&wait=1ms", b"", WRITE_ALL),
    ("OPTIONS /kv?prefix=other", b"", TOLD),
    ("POST /batch", br#"{"method":"GET","key":"users:1"}"#, READ_USERS),
    ("POST /batch", br#"{"method":"GET","path":"/kv/other"}"#, READ_ALL),
    ("POST /batch", br#"{"method":"HEAD","key":"groups:1"}"#, READ_GROUPS),
    ("POST /batch", br#"{"key":"users:1","value":"a"}"#, WRITE_USERS),
    ("POST /batch", br#"{"method":"DELETE","key":"groups:1"}"#, WRITE_USERS),
    ("POST /batch", br#"{"method":"POST","path":"/kv/other?incr"}"#, WRITE_ALL),
    (
        "POST /batch",
        b"{\"method\":\"GET\",\"key\":\"users:1\"}\n{\"key\":\"users:1\",\"value\":\"a\"}\n",
        WRITE_USERS,
    ),
    ("OPTIONS /batch", b"", TOLD),
    ("GET /watch?wait=1ms", b"", READ_ALL),
    ("GET /watch?prefix=user&wait=1ms", b"", READ_ALL),
    ("GET /watch?prefix=users:&wait=1ms&since=0&values", b"", READ_USERS),
    ("GET /watch?key=users:1&wait=1ms", b"", READ_USERS),
    ("GET /watch?key=other&wait=1ms", b"", READ_ALL),
    ("HEAD /watch?prefix=groups:", b"", READ_GROUPS),
    ("HEAD /watch", b"", READ_ALL),
    ("OPTIONS /watch", b"", TOLD),
    ("POST /import", br#"{"key":"users:1","value":"a"}"#, WRITE_USERS),
    ("PUT /import", br#"{"key":"users:1","value":"a"}"#, WRITE_USERS),
    ("POST /import", br#"{"key":"other","value":"a"}"#, WRITE_ALL),
    ("POST /import", br#"{"key":"other","value":"a","expires":"2020-01-01T00:00:00Z"}"#, WRITE_ALL),
    ("POST /import", b"", WRITE_USERS),
    ("OPTIONS /import", b"", TOLD),
    ("DELETE /clear", b"", WRITE_ALL),
    ("OPTIONS /clear", b"", TOLD),
    ("GET /metrics", b"", ANY_TOKEN),
    ("HEAD /metrics", b"", ANY_TOKEN),
    ("OPTIONS /metrics", b"", TOLD),
    ("GET /openapi.json", b"", OPEN),
    ("HEAD /openapi.json", b"", OPEN),
    ("OPTIONS /openapi.json", b"", TOLD),
    ("GET /livez", b"", OPEN),
    ("HEAD /livez", b"", OPEN),
    ("OPTIONS /livez", b"", TOLD),
    ("GET /readyz", b"", OPEN),
    ("HEAD /readyz?x", b"", OPEN),
    ("GET /readyz?verbose", b"", ANY_TOKEN),
    ("GET /readyz?verbose=", b"", ANY_TOKEN),
    ("GET /readyz?verbose=1", b"", ANY_TOKEN),
    ("HEAD /readyz?x=1&verbose", b"", ANY_TOKEN),
    ("OPTIONS /readyz?verbose", b"", TOLD),
    ("GET /healthz", b"", OPEN),
    ("GET /healthz?verbose", b"", OPEN),
    ("HEAD /healthz", b"", OPEN),
    ("OPTIONS /healthz", b"", TOLD),
    ("GET /v8/artifacts/status", b"", ANY_TOKEN),
    ("HEAD /v8/artifacts/status?slug=web", b"", ANY_TOKEN),
    ("OPTIONS /v8/artifacts/status", b"", TOLD),
    ("POST /v8/artifacts/events?slug=web", b"[]", ANY_TOKEN),
    ("OPTIONS /v8/artifacts/events", b"", TOLD),
    ("GET /v8/artifacts/c0ffee?slug=web", b"", READ_USERS),
    ("HEAD /v8/artifacts/c0ffee?teamId=web&slug=x", b"", READ_USERS),
    ("GET /v8/artifacts/c0ffee?slug=we", b"", READ_ALL),
    ("GET /v8/artifacts/c0ffee", b"", READ_ALL),
    ("PUT /v8/artifacts/c0ffee?slug=web", b"a", WRITE_USERS),
    ("PUT /v8/artifacts/new?slug=w%65b", b"a", WRITE_USERS),
    ("PUT /v8/artifacts/c0ffee?slug=we", b"a", WRITE_ALL),
    ("PUT /v8/artifacts/c0ffee", b"a", WRITE_ALL),
    ("OPTIONS /v8/artifacts/c0ffee", b"", TOLD),
    ("GET /", b"", OPEN),
    ("HEAD /", b"", OPEN),
    ("OPTIONS /", b"", TOLD),
    ("OPTIONS *", b"", TOLD),
];

#[test]
fn each_caller_is_let_in_to_what_its_token_has_a_right_to() {
    let mut wrong = Vec::new();
    for (line, body, statuses) in CALLS {
        let got = CALLERS.map(|caller| {
            let memory = Memory::new();
            let artifacts = ["turbo/web/c0ffee", "turbo/we/c0ffee", "turbo/c0ffee"];
            for there in ["users:1", "users", "groups:1", "other"].into_iter().chain(artifacts) {
                memory.set(key(there), Entry::new("1".into())).unwrap();
            }
            let reply = answer_to(&api_with_tokens(memory), caller, line, body);
            assert_eq!(reply.header("WWW-Authenticate").is_some(), reply.status() == 401);
            match text_of(&reply) {
                (401, text) => assert_eq!(text, UNAUTHORIZED, "{line}"),
                (403, text) => assert!(text.contains(FORBIDDEN.trim_end()), "{line}: {text}"),
                (status, text) => assert!(status < 400, "{line}: {status} {text}"),
            }
            if reply.status() < 400 { IN } else { reply.status() }
        });
        if got != *statuses {
            wrong.push(format!("{line} {}: {got:?}", String::from_utf8_lossy(body)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for route in ROUTES {
        let path = route.prefix().unwrap_or(route.path);
        for (method, _) in route.methods {
            let is_of_it = |target: &str| match target.strip_prefix(path) {
                Some(rest) => route.path != path || rest.is_empty() || rest.starts_with('?'),
                None => false,
            };
            let mut calls = CALLS.iter().filter_map(|(line, ..)| line.split_once(' '));
            assert!(calls.any(|(of, target)| of == *method && is_of_it(target)), "{method} {path}");
        }
    }
}

#[test]
fn without_a_token_nothing_is_told() {
    let refused = Reply::from(Refusal::Unauthorized);
    assert_eq!(refused.header("WWW-Authenticate"), Some("Bearer realm=\"little-key-value\""));
    assert_eq!((refused.status(), refused.header("Allow")), (401, None));
    let targets = ["/kv/there", "/kv/absent", "/kv/", "/kv/%", "/kv/%FF", "/kv", "/kv?x", "/batch"];
    let others =
        ["/watch", "/import", "/clear", "/metrics", "/nowhere", "", "no-path", "*", "/kvs"];
    let absolute = ["http://store/kv/there", "http://store/nowhere"];
    let targets = targets.into_iter().chain(others).chain(absolute);
    for target in targets.chain([&*format!("/kv/{}", "k".repeat(2000))]) {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "BREW", "options"] {
            for body in [&b""[..], b"x", TOO_LONG] {
                for token in [None, Some(UNKNOWN), Some(""), Some("x\u{e4}")] {
                    let api = api_with_tokens(Untouchable);
                    let reply = answer_to(&api, token, &format!("{method} {target}"), body);
                    assert_eq!(reply, refused, "{method} {target}");
                }
            }
        }
    }
    // And so with fields that are refused of others.
    for (name, value) in [("If-Match", "x"), ("Range", "x"), ("Host", "evil"), ("Origin", "null")] {
        let call = Call { fields: &[(name, value)], ..call("PUT /kv/there", None) };
        assert_eq!(api_with_tokens(Untouchable).answer(&call, Bytes::new()), refused, "{name}");
    }
}

/// A token and what it lacks come at their places among the checks.
#[test]
fn each_check_of_a_caller_has_its_place() {
    let table: &[(&str, &str, u16, &str)] = &[
        (READER, "PUT /nowhere", 404, PATHS),
        (READER, "PUT nowhere", 400, "the request target is not a path\n"),
        (READER, "PUT /kv/", 400, "key cannot be empty\n"),
        (READER, "PUT /kv/%", 400, "key has a % without two hexadecimal digits\n"),
        (READER, "PATCH /kv/a", 405, NOT_ALLOWED),
        (READER, "POST /kv/a", 405, NOT_ALLOWED),
        (READER, "PUT /clear", 405, NOT_ALLOWED),
        // The method is known, and the query does not count then.
        (READER, "PUT /kv/a?tll=5", 403, FORBIDDEN),
        (READER, "POST /kv/a?incr&x", 403, FORBIDDEN),
        (READER, "DELETE /kv/a?x", 403, FORBIDDEN),
        (READER, "DELETE /kv?x", 403, FORBIDDEN),
        (READER, "POST /kv?x", 403, FORBIDDEN),
        (READER, "DELETE /clear?x", 403, FORBIDDEN),
        (READER, "POST /import?x", 403, FORBIDDEN),
        (USERS, "GET /kv/other?ttl=5", 403, FORBIDDEN),
        // The prefix is behind it.
        (USERS, "GET /kv?x", 400, "unknown query parameter\n"),
        (USERS, "DELETE /kv?limit=0", 400, "limit is not a number from 1 to 10000\n"),
        (USERS, "GET /watch?x", 400, "unknown query parameter\n"),
        (USERS, "GET /kv?prefix=%", 400, "key has a % without two hexadecimal digits\n"),
        (USERS, "DELETE /kv", 403, FORBIDDEN),
        (USERS, "POST /kv", 403, FORBIDDEN),
        (OWNER, "DELETE /kv", 400, "prefix cannot be empty\n"),
        (USERS, "DELETE /kv?take=", 400, "take cannot be empty\n"),
    ];
    for (token, line, status, text) in table {
        let reply = answer_to(&api_with_tokens(Untouchable), Some(token), line, TOO_LONG);
        assert_eq!(text_of(&reply), (*status, *text), "{line}");
    }
    let field = format!("Bearer {READER}");
    let of_another_site =
        [("Authorization", &*field), ("Host", "store"), ("Origin", "http://evil.example")];
    for line in ["POST /kv/a?incr", "POST /kv?prefix=a", "POST /import"] {
        let call = Call { fields: &of_another_site, ..call(line, Some(0)) };
        let reply = api_with_tokens(Untouchable).answer(&call, Bytes::new());
        assert_eq!(text_of(&reply), (403, FORBIDDEN), "{line}");
    }
}

#[test]
fn two_fields_are_refused_but_where_no_token_is_looked_at() {
    let field = format!("Bearer {OWNER}");
    let fields = [("Authorization", &*field), ("authorization", &*field)];
    let answer = |line| {
        let call = Call { fields: &fields, ..call(line, Some(0)) };
        api_with_tokens(Memory::new()).answer(&call, Bytes::new())
    };
    let others = ["GET /metrics", "GET /readyz?verbose", "OPTIONS /kv/a"];
    for line in ["GET /kv/a", "GET /nowhere"].into_iter().chain(others) {
        assert_eq!(text_of(&answer(line)), (400, "more than one Authorization\n"), "{line}");
    }
    for line in ["GET /healthz", "GET /", "GET /readyz"] {
        assert!(answer(line).status() < 300, "{line}");
    }
}

/// A host that no page may be called by is no matter where each caller shows a token.
#[test]
fn hosts_are_checked_without_tokens_alone() {
    let hosts = Hosts::local([]);
    let guarded = Access { hosts: hosts.clone(), tokens: Some(tokens()), ..Access::default() };
    let unguarded = Access { hosts, ..Access::default() };
    let field = format!("Bearer {OWNER}");
    let fields = [("Host", "evil.example"), ("Authorization", &*field)];
    let call = Call { fields: &fields, ..call("GET /healthz", Some(0)) };
    assert_eq!(api().with_access(guarded).answer(&call, Bytes::new()).status(), 200);
    assert_eq!(api().with_access(unguarded).answer(&call, Bytes::new()).status(), 403);
}

#[test]
fn of_a_batch_all_lines_are_allowed_or_none_is_done() {
    let api = api_with_tokens(Memory::new());
    let body = b"{\"key\":\"users:1\",\"value\":\"a\"}\n{\"key\":\"other\",\"value\":\"a\"}\n";
    let reply = answer_to(&api, Some(USERS), "POST /batch", body);
    assert_eq!(text_of(&reply), (403, &*format!("line 2: {FORBIDDEN}")));
    assert_eq!(answer_to(&api, Some(OWNER), "GET /kv/users:1", b"").status(), 404);
    assert_eq!(answer_to(&api, Some(OWNER), "POST /batch", body).status(), 200);
}

#[test]
fn of_an_import_the_lines_before_one_that_is_refused_are_stored() {
    let line = |key| format!("{{\"key\":\"{key}\",\"value\":\"a\"}}\n");
    for other in ["other", "user", "Users:1"] {
        let api = api_with_tokens(Memory::new());
        let body = [line("users:1"), line("groups:1"), line(other), line("users:2")].concat();
        let reply = answer_to(&api, Some(USERS), "POST /import", body.as_bytes());
        let text = format!("line 3: {}; 2 were stored\n", FORBIDDEN.trim_end());
        assert_eq!(text_of(&reply), (403, &*text));
        let reply = answer_to(&api, Some(OWNER), "GET /kv", b"");
        assert_eq!(whole(&api, reply), b"groups:1\nusers:1\n");
    }
}

#[test]
fn of_an_archive_the_entries_before_one_that_is_refused_are_stored() {
    let source = Memory::new();
    for there in ["groups:1", "other", "users:1"] {
        source.set(key(there), Entry::new("1".into())).unwrap();
    }
    let source = api_over(source);
    let archive = whole(&source, answer(&source, "GET /kv?tar", b""));
    let api = api_with_tokens(Memory::new());
    let reply = answer_to(&api, Some(USERS), "POST /import", &archive);
    let text = format!("entry 2: {}; 1 were stored\n", FORBIDDEN.trim_end());
    assert_eq!(text_of(&reply), (403, &*text));
    let reply = answer_to(&api, Some(OWNER), "GET /kv", b"");
    assert_eq!(whole(&api, reply), b"groups:1\n");
    assert_eq!(answer_to(&api, Some(OWNER), "POST /import", &archive).status(), 200);
}

#[test]
fn an_import_is_refused_before_it_is_read_where_nothing_may_be_written() {
    let field = format!("Bearer {READER}");
    let fields = [("Authorization", &*field)];
    let call = Call { fields: &fields, ..call("POST /import", Some(1 << 40)) };
    let decision = api_with_tokens(Untouchable).admit(&call).decision;
    let reply = decision.err().unwrap();
    assert_eq!(text_of(&reply), (403, FORBIDDEN));
}

/// Metrics of refusals are there, with and without tokens.
#[test]
fn refusals_are_counted() {
    let api = api_with_tokens(Memory::new());
    answer_to(&api, None, "GET /kv/a", b"");
    answer_to(&api, Some(UNKNOWN), "GET /kv/a", b"");
    answer_to(&api, Some(UNKNOWN), "GET /healthz", b"");
    for line in ["PUT /kv/a", "DELETE /clear", "POST /kv?prefix=a"] {
        answer_to(&api, Some(READER), line, b"");
    }
    let batch = br#"{"key":"a","value":"a"}"#;
    answer_to(&api, Some(USERS), "POST /batch", batch);
    answer_to(&api, Some(USERS), "POST /import", batch);
    let counts = |reply: &Reply| {
        let text = std::str::from_utf8(reply.body()).unwrap();
        let count = |reason| {
            let name = format!("\nlkv_auth_failures_total{{reason=\"{reason}\"}} ");
            let (_, behind) = text.split_once(&name).unwrap();
            behind.lines().next().unwrap().parse::<u64>().unwrap()
        };
        ["missing", "unknown", "forbidden"].map(count)
    };
    assert_eq!(counts(&answer_to(&api, Some(USERS), "GET /metrics", b"")), [1, 1, 5]);
    assert_eq!(counts(&answer_to(&api_over(Memory::new()), None, "GET /metrics", b"")), [0; 3]);
}

#[test]
fn options_tells_the_rights_of_a_token_that_is_shown() {
    let api = api_with_tokens(Untouchable);
    let told = [
        (None, None),
        (Some(OWNER), Some("rw")),
        (Some(READER), Some("ro")),
        (Some(USERS), Some("rw users: groups: turbo/web/")),
        (Some(USERS_READER), Some("ro users: turbo/web/")),
    ];
    for (token, rights) in told {
        for path in ["/kv", "/kv/other", "/", "/clear", "/livez"] {
            let reply = answer_to(&api, token, &format!("OPTIONS {path}"), b"");
            assert_eq!((reply.status(), reply.header("Token-Rights")), (204, rights), "{path}");
        }
    }
    for path in ["*", "/kv", "/kv/other", "/", "/clear", "/livez"] {
        let reply = answer_to(&api, Some(UNKNOWN), &format!("OPTIONS {path}"), b"");
        assert_eq!((reply.status(), reply.header("Token-Rights")), (401, None), "{path}");
        assert!(reply.header("WWW-Authenticate").is_some(), "{path}");
    }
    for path in ["/", "/livez", "/openapi.json"] {
        let reply = answer_to(&api, Some(READER), &format!("GET {path}"), b"");
        assert_eq!(reply.header("Token-Rights"), None, "{path}");
    }
}

#[test]
fn a_prefix_is_told_as_it_stands_in_a_list() {
    let tokens =
        Tokens::new(TokenSet::parse(&format!("{READER} ro a%20b/ %c3%a9%0a %23x/")).unwrap());
    let api =
        api_over(Untouchable).with_access(Access { tokens: Some(tokens), ..Access::default() });
    let reply = answer_to(&api, Some(READER), "OPTIONS /kv", b"");
    assert_eq!(reply.header("Token-Rights"), Some("ro a%20b/ %C3%A9%0A %23x/"));
}

/// Nobody tries tokens unseen.
#[test]
fn an_unknown_token_is_counted_where_it_is_not_needed_too() {
    let api = api_with_tokens(Memory::new());
    answer_to(&api, Some(UNKNOWN), "OPTIONS /kv", b"");
    answer_to(&api, None, "OPTIONS /kv", b"");
    let reply = answer_to(&api, Some(OWNER), "GET /metrics", b"");
    let text = std::str::from_utf8(reply.body()).unwrap();
    for (reason, count) in [("missing", 0), ("unknown", 1)] {
        let line = format!("\nlkv_auth_failures_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{reason}");
    }
}
