use super::*;

fn origin(text: &str) -> Origin {
    text.parse().unwrap_or_else(|InvalidOrigin| panic!("an origin: {text}"))
}

fn origins(texts: &[&str]) -> Origins {
    Origins::new(texts.iter().copied().map(origin))
}

type Sent<'a> = &'a [(&'a str, &'a str)];

/// The reply to a call with the fields of its access.
fn applied(origins: &Origins, method: &str, fields: Sent<'_>, reply: Reply) -> Reply {
    match origins.cors(method, Fields(fields)) {
        Some(cors) => cors.apply(reply),
        None => reply,
    }
}

#[test]
fn an_origin_is_read_as_browsers_send_it() {
    let table = [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("https://app.example.com:08443", "https://app.example.com:8443"),
        ("https://app.example.com:", "https://app.example.com"),
        ("https://app.example.com.", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://my_app", "http://my_app"),
        ("http://192.168.1.2:8080", "http://192.168.1.2:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[0:0::0:1]", "http://[::1]"),
        ("http://[FD00:0:0:1:0:0:0:A]", "http://[fd00:0:0:1::a]"),
        ("http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]"),
        ("http://xn--mnchen-3ya.example", "http://xn--mnchen-3ya.example"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("moz-extension://0a-1b", "moz-extension://0a-1b"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("app://localhost:80", "app://localhost:80"),
    ];
    for (text, sent) in table {
        assert_eq!(origin(text), Origin::One(sent.into()), "{text}");
    }
    assert_eq!(origin("*"), Origin::Any);
}

#[test]
fn what_no_browser_sends_is_refused() {
    for text in [
        "",
        "null",
        "NULL",
        "app.example.com",
        "localhost:3000",
        "//app.example.com",
        "https:app.example.com",
        "https:/app.example.com",
        "https://",
        "https:///",
        "https://:443",
        "https://app.example.com//",
        "https://app.example.com/path",
        "https://app.example.com/?",
        "https://app.example.com?x",
        "https://app.example.com#x",
        "https://user@app.example.com",
        "https://user:secret@app.example.com",
        "https://*.example.com",
        "https://*",
        "https://.example.com",
        "https://a..b",
        "https://a..",
        "https://app.example.com:x",
        "https://app.example.com:65536",
        "https://app.example.com:1:2",
        "https://m\u{fc}nchen.example",
        "https://a b",
        " https://a",
        "https://a,https://b",
        "http://127.1",
        "http://1.2.3.256",
        "http://1.2.3.4.5",
        "http://[::1",
        "http://::1",
        "http://[127.0.0.1]",
        "file:///",
        "file://a",
        "ws://a",
        "1app://a",
        "a_b://a",
        "blob:https://a",
        "**",
    ] {
        assert_eq!(text.parse::<Origin>(), Err(InvalidOrigin), "{text:?}");
    }
}

#[test]
fn without_origins_there_is_nothing_to_tell() {
    let page = [("Origin", "https://a"), ("Access-Control-Request-Method", "PUT")];
    assert!(Origins::default().cors("OPTIONS", Fields(&page)).is_none());
    assert!(origins(&[]).cors("GET", Fields(&page)).is_none());
}

#[test]
fn a_page_of_an_allowed_origin_may_read_and_no_other() {
    let origins = origins(&["https://a", "http://b:8080"]);
    let table: [(Sent<'_>, Option<&str>); 13] = [
        (&[("Origin", "https://a")], Some("https://a")),
        (&[("oRIGIN", " http://b:8080\t")], Some("http://b:8080")),
        (&[("Origin", "http://a")], None),
        (&[("Origin", "https://a:443")], None),
        (&[("Origin", "https://a.")], None),
        (&[("Origin", "https://a/")], None),
        (&[("Origin", "https://a.evil")], None),
        (&[("Origin", "http://b")], None),
        (&[("Origin", "null")], None),
        (&[("Origin", "")], None),
        (&[("Origin", "*")], None),
        (&[("Origin", "https://a"), ("Origin", "https://a")], None),
        (&[("Referer", "https://a")], None),
    ];
    for (fields, allowed) in table {
        let reply = applied(&origins, "GET", fields, Reply::text("x"));
        assert_eq!(reply.header("Access-Control-Allow-Origin"), allowed, "{fields:?}");
        let exposed = reply.header("Access-Control-Expose-Headers");
        assert_eq!(exposed, allowed.map(|_| EXPOSED), "{fields:?}");
        assert_eq!(reply.header("Vary"), Some("Origin"), "{fields:?}");
        let cors = origins.cors("GET", Fields(fields)).expect("there are origins");
        assert_eq!(cors.is_allowed(), allowed.is_some(), "{fields:?}");
    }
}

#[test]
fn one_reply_for_all_origins_does_not_vary() {
    let origins = origins(&["https://a", "*"]);
    let table: [(Sent<'_>, bool); 4] = [
        (&[("Origin", "https://a")], true),
        (&[("Origin", "https://b")], true),
        (&[("Origin", "https://b"), ("Origin", "https://b")], false),
        (&[], false),
    ];
    for (fields, is_allowed) in table {
        let reply = applied(&origins, "GET", fields, Reply::text("x"));
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"), "{fields:?}");
        assert_eq!(reply.header("Access-Control-Expose-Headers"), Some(EXPOSED), "{fields:?}");
        assert_eq!(reply.header("Vary"), None, "{fields:?}");
        let cors = origins.cors("GET", Fields(fields)).expect("there are origins");
        assert_eq!(cors.is_allowed(), is_allowed, "{fields:?}");
    }
}

#[test]
fn a_field_that_a_reply_varies_with_already_stays() {
    let reply = applied(&origins(&["https://a"]), "GET", &[], Reply::number_of(1));
    assert_eq!(reply.header("Vary"), Some("Accept, Origin"));
    assert_eq!(reply.headers().filter(|(name, _)| *name == "Vary").count(), 1);
}

#[test]
fn a_preflight_is_told_methods_and_fields() {
    let origins = origins(&["https://a"]);
    let asks = ("Access-Control-Request-Method", "PUT");
    let page = ("Origin", "https://a");
    let reply = |method, fields: &[_]| {
        applied(&origins, method, fields, Reply::options("GET, PUT".to_owned()))
    };
    let told = reply("OPTIONS", &[page, asks]);
    assert_eq!(told.header("Access-Control-Allow-Origin"), Some("https://a"));
    assert_eq!(told.header("Access-Control-Allow-Methods"), Some("GET, PUT"));
    assert_eq!(told.header("Access-Control-Allow-Headers"), Some(&*TAKEN.join(", ")));
    assert_eq!(told.header("Access-Control-Max-Age"), Some("600"));
    assert_eq!(told.header("Access-Control-Expose-Headers"), None);
    assert_eq!(told.header("Access-Control-Allow-Private-Network"), None);
    assert_eq!(told.header("Access-Control-Allow-Credentials"), None);
    assert_eq!(told.header("Vary"), Some("Origin"));

    let other = ("Origin", "https://b");
    let others: [(_, &[_], bool); 4] = [
        ("OPTIONS", &[page], false),
        ("GET", &[page, asks], false),
        ("OPTIONS", &[other, asks], false),
        ("OPTIONS", &[page, asks], true),
    ];
    for (method, fields, is_preflight) in others {
        let cors = origins.cors(method, Fields(fields)).expect("there are origins");
        assert_eq!(cors.is_preflight(), is_preflight, "{method} {fields:?}");
        let methods = reply(method, fields).header("Access-Control-Allow-Methods").is_some();
        assert_eq!(methods, is_preflight, "{method} {fields:?}");
    }
    let refused = applied(&origins, "OPTIONS", &[page, asks], Reply::error(403, "no"));
    assert_eq!(refused.header("Access-Control-Allow-Methods"), None);
    assert_eq!(refused.header("Access-Control-Allow-Origin"), Some("https://a"));
}

#[test]
fn a_preflight_may_ask_for_fields_that_mean_nothing_here() {
    let more = |lists: &[&str]| {
        let page = [("Origin", "https://a"), ("Access-Control-Request-Method", "PUT")];
        let lists = lists.iter().map(|list| ("Access-Control-Request-Headers", *list));
        let fields: Vec<_> = page.into_iter().chain(lists).collect();
        let reply = Reply::options(String::new());
        let reply = applied(&origins(&["https://a"]), "OPTIONS", &fields, reply);
        let names = reply.header("Access-Control-Allow-Headers").expect("a preflight");
        names.strip_prefix(&TAKEN.join(", ")).expect("those that are taken").to_owned()
    };
    assert_eq!(more(&["if-match,ttl"]), "");
    assert_eq!(more(&["traceparent, if-match ,x-a"]), ", traceparent, x-a");
    assert_eq!(more(&["x-a", "X-A,x-b"]), ", x-a, x-b");
    assert_eq!(more(&["", ",,", "x a", "x:a", "\u{fc}"]), "");
    let many: Vec<_> = (0..100_000).map(|number| format!("x-{number}")).collect();
    assert_eq!(more(&[&many.join(",")]).split(", ").count(), 1 + ASKED_MAX);
}

#[test]
fn a_page_of_a_public_network_may_call_a_private_one_if_it_asks() {
    for (asked, told) in [("true", Some("true")), ("false", None), ("", None)] {
        let fields = [
            ("Origin", "https://a"),
            ("Access-Control-Request-Method", "PUT"),
            ("Access-Control-Request-Private-Network", asked),
        ];
        let reply = Reply::options(String::new());
        let reply = applied(&origins(&["https://a"]), "OPTIONS", &fields, reply);
        assert_eq!(reply.header("Access-Control-Allow-Private-Network"), told, "{asked:?}");
    }
}
