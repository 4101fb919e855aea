//! The console: who gets it, and what it lets a browser do.

use super::{Call, Reply, Untouchable, api_over, manual};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The field that browsers send where an address is entered.
const BROWSER: (&str, &str) =
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8");

/// The most that the page may have, in bytes.
const PAGE_BYTES_MAX: usize = 48_000;

fn ask(method: &str, fields: &[(&str, &str)]) -> Reply {
    let call = Call { method, target: "/", fields, body_bytes: Some(0) };
    api_over(Untouchable).answer(&call, Bytes::new())
}

fn page() -> Reply {
    ask("GET", &[BROWSER])
}

fn document() -> String {
    String::from_utf8(page().body().to_vec()).unwrap()
}

/// The text of the only element with these tags.
fn text_within<'a>(document: &'a str, start: &str, end: &str) -> &'a str {
    assert_eq!((document.matches(start).count(), document.matches(end).count()), (1, 1), "{start}");
    let (_, rest) = document.split_once(start).unwrap();
    rest.split_once(end).unwrap().0
}

fn style(document: &str) -> &str {
    text_within(document, "<style>", "</style>")
}

fn script(document: &str) -> &str {
    text_within(document, "<script type=\"module\">", "</script>")
}

#[test]
fn who_prefers_a_page_gets_the_console_and_all_others_the_manual() {
    let console = "text/html; charset=utf-8";
    let manual = "text/plain; charset=utf-8";
    let cases = [
        (Some(BROWSER.1), console),
        (Some("text/html"), console),
        (Some("TEXT/HTML;level=1, text/*;q=0.5"), console),
        (Some("text/html;q=0.001"), console),
        (Some("text/html, */*"), console),
        (None, manual),
        (Some(""), manual),
        (Some("*/*"), manual),
        (Some("text/*"), manual),
        (Some("text/plain"), manual),
        (Some("text/html, text/plain"), manual),
        (Some("text/plain, text/html;q=0.9"), manual),
        (Some("text/html;q=0"), manual),
        (Some("text/html;q=x"), manual),
        (Some("application/json"), manual),
        (Some("application/xhtml+xml"), manual),
        (Some("image/png"), manual),
        (Some("text/html5"), manual),
    ];
    for (accept, media_type) in cases {
        let fields: Vec<_> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
        for method in ["GET", "HEAD"] {
            let reply = ask(method, &fields);
            assert_eq!(reply.status(), 200, "{method} {accept:?}");
            assert_eq!(reply.header("Content-Type"), Some(media_type), "{method} {accept:?}");
            assert_eq!(reply.header("Vary"), Some("Accept"), "{method} {accept:?}");
        }
    }
    let fields = [("Host", "store"), ("Accept", "*/*")];
    assert_eq!(ask("GET", &fields).body(), &manual::text("http", Some("store")));
}

/// It needs neither a host that it is called by nor one that it is not.
#[test]
fn the_page_is_the_same_for_everyone() {
    let page = page();
    assert_eq!(ask("GET", &[("Host", "store"), BROWSER]), page);
    assert_eq!(ask("GET", &[("Host", "another:8888"), BROWSER, ("Range", "bytes=0-1")]), page);
}

#[test]
fn a_browser_is_told_what_the_page_may_do() {
    let page = page();
    let document = document();
    let source = |text| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let policy = page.header("Content-Security-Policy").unwrap();
    let directives: Vec<_> = policy.split("; ").collect();
    let script_source = format!("script-src {}", source(script(&document)));
    let style_source = format!("style-src {}", source(style(&document)));
    for directive in [
        "default-src 'none'",
        &script_source,
        &style_source,
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&directive), "{directive} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("X-Frame-Options", "DENY"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
}

/// Whatever the policy does not allow would not work: nothing in the document needs it.
#[test]
fn the_document_needs_no_more_than_its_policy_allows() {
    let document = document();
    let script = script(&document);
    let frame = document.replace(script, "").replace(style(&document), "");
    for part in [" style=", " on", "javascript:", "<base", "<iframe", " src=", "action="] {
        assert!(!frame.contains(part), "{part:?} in the document");
    }
    for part in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "import("]
    {
        assert!(!script.contains(part), "{part} in the script");
    }
    // A parser of HTML would make another text of these, with another hash.
    assert!(!document.contains(['\r', '\0']));
}

#[test]
fn nothing_of_another_origin_is_asked_for() {
    let document = document();
    let addresses = document.replace("http://www.w3.org/2000/svg", "");
    for part in ["http:", "https:", "'//", "\"//", "url(", "@import"] {
        assert!(!addresses.contains(part), "{part}");
    }
}

#[test]
fn the_page_is_small() {
    let bytes = document().len();
    assert!(bytes <= PAGE_BYTES_MAX, "{bytes} bytes");
}

#[test]
fn a_browser_that_has_the_page_is_told_so() {
    let page = page();
    let tag = page.header("ETag").unwrap();
    for condition in [tag, "*", &format!("\"another\", W/{tag}")] {
        for method in ["GET", "HEAD"] {
            let reply = ask(method, &[BROWSER, ("If-None-Match", condition)]);
            assert_eq!(reply.status(), 304, "{condition}");
            assert_eq!(reply.header("ETag"), Some(tag), "{condition}");
            assert_eq!(reply.header("Vary"), Some("Accept"), "{condition}");
            assert!(reply.body().is_empty(), "{condition}");
        }
    }
    assert_eq!(ask("GET", &[BROWSER, ("If-None-Match", "\"another\"")]), page);
    assert_eq!(ask("GET", &[BROWSER, ("If-Match", tag)]), page);
    assert_eq!(ask("GET", &[BROWSER, ("If-Match", "\"another\"")]).status(), 412);
    assert_eq!(ask("GET", &[BROWSER, ("If-None-Match", "another")]).status(), 400);
    // The tag is none of the manual.
    assert_eq!(ask("GET", &[("If-None-Match", tag)]).status(), 200);
}

#[test]
fn a_browser_can_do_no_more_at_the_root_than_others() {
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let reply = ask(method, &[BROWSER]);
        assert_eq!((reply.status(), reply.header("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    }
    let reply = ask("OPTIONS", &[BROWSER]);
    assert_eq!((reply.status(), reply.header("Vary")), (204, None));
}
