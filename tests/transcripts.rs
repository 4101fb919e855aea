//! The transcripts in `tests/transcripts`, replayed on every engine, and tests
//! that a wrong one is found.

use crate::support::engines;
use crate::support::http::PATIENCE;
use crate::support::server::Fixture;
use crate::support::transcript::Transcript;
use std::fs;
use std::io::Read;
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Every file there is, by name.
fn files() -> Vec<(String, Transcript)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|file| file.expect("a folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "http"))
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
            let name = format!("tests/transcripts/{name}");
            let text = fs::read_to_string(&path).expect("a transcript is UTF-8");
            let transcript = Transcript::parse(&name, &text).unwrap_or_else(|err| panic!("{err}"));
            (name, transcript)
        })
        .collect();
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    files
}

#[test]
fn every_transcript_holds_on_every_engine() {
    let files = files();
    assert!(files.len() >= 8, "{} transcripts found", files.len());
    let mut failures = Vec::new();
    for (engine, open) in engines::ENGINES.iter() {
        for (_, transcript) in &files {
            let transcript = transcript.on(engine);
            let storage = match transcript.limits() {
                None => Some(open()),
                Some(limits) => engines::limited(engine, limits),
            };
            let Some(storage) = storage else { continue };
            let server = Fixture::guarded(storage, transcript.access());
            if let Err(failure) = transcript.replay(server.addr()) {
                failures.push(format!("{engine}: {failure}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What a replay of this transcript fails with.
#[track_caller]
fn failure_of(text: &str) -> String {
    failure_within(PATIENCE, text)
}

/// The same where it waits for what does not come.
#[track_caller]
fn failure_in_vain(text: &str) -> String {
    failure_within(Duration::from_secs(4), text)
}

#[track_caller]
fn failure_within(patience: Duration, text: &str) -> String {
    let transcript = Transcript::parse("test.http", text).expect("a well-formed transcript");
    let server = Fixture::start();
    let outcome = transcript.replay_within(server.addr(), patience);
    outcome.expect_err("a wrong transcript fails")
}

#[test]
fn a_step_is_for_the_engines_that_are_named() {
    let text = "> GET /healthz
                = on memory peer
                < 200 OK
                <
                < ok\\n
                = on cluster
                < 200 Fine
                = on every engine
                > GET /healthz
                < 404 Not Found"
        .replace("                ", "");
    let transcript = Transcript::parse("test.http", &text).expect("a well-formed transcript");
    let server = Fixture::start();
    let failure = |engine| transcript.on(engine).replay(server.addr()).expect_err("a failure");
    for (engine, line) in [("memory", 10), ("cluster", 7), ("peer", 10), ("durable", 10)] {
        let got = failure(engine);
        assert!(got.starts_with(&format!("test.http:{line}: ")), "{engine}: {got}");
    }
}

const HEALTH: &str = "> GET /healthz\n";

#[test]
fn a_right_transcript_holds() {
    let text = format!("{HEALTH}< 200 OK\n< Date: *\n< !Allow\n<\n< o\n< k\\n\n");
    let transcript = Transcript::parse("test.http", &text).expect("a well-formed transcript");
    assert_eq!(transcript.replay(Fixture::start().addr()), Ok(()));
}

#[test]
fn a_request_is_sent_with_what_every_request_has() {
    let table = [
        ("> GET /", "GET / HTTP/1.1\r\nHost: store\r\n\r\n"),
        ("> GET /\n> host: a\n> X: b", "GET / HTTP/1.1\r\nhost: a\r\nX: b\r\n\r\n"),
        ("> PUT /\n>\n> a\n> b", "PUT / HTTP/1.1\r\nHost: store\r\nContent-Length: 2\r\n\r\nab"),
        (
            "> PUT /\n> Content-Length: 1\n>\n> ab",
            "PUT / HTTP/1.1\r\nHost: store\r\nContent-Length: 1\r\n\r\nab",
        ),
        (
            "> PUT /\n> Transfer-Encoding: chunked\n>\n> ab",
            "PUT / HTTP/1.1\r\nHost: store\r\nTransfer-Encoding: chunked\r\n\r\nab",
        ),
        ("> GET / HTTP/1.1", "GET / HTTP/1.1\r\n\r\n"),
        ("> PUT / HTTP/1.0\n>\n> ab", "PUT / HTTP/1.0\r\n\r\nab"),
        (
            "> PUT / HTTP/1.0\n> Content-Length: *\n>\n> ab",
            "PUT / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab",
        ),
    ];
    for (text, sent) in table {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there are ports");
        let addr = listener.local_addr().expect("it listens");
        let text = format!("{text}\n= closed\n");
        let transcript = Transcript::parse("test.http", &text).expect("a well-formed transcript");
        thread::scope(|scope| {
            let heard = scope.spawn(|| {
                let (mut client, _) = listener.accept().expect("a client");
                client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
                client.shutdown(Shutdown::Write).expect("an open connection");
                let mut heard = String::new();
                client.read_to_string(&mut heard).expect("a client that sends text and ends");
                heard
            });
            assert_eq!(transcript.replay(addr), Ok(()), "{text}");
            assert_eq!(heard.join().expect("a listener ends well"), sent, "{text}");
        });
    }
}

#[test]
fn a_wrong_transcript_is_told_by_its_line() {
    let table = [
        ("< 204 No Content", r#":2: expected "HTTP/1.1 204 No Content", got "HTTP/1.1 200 OK""#),
        ("< 200 Ok\n<\n< ok\\n", r#":2: expected "HTTP/1.1 200 Ok", got "HTTP/1.1 200 OK""#),
        ("< 200 OK\n<\n< ok", r#":2: expected the body "ok" of 2 bytes, got "ok\n" of 3"#),
        ("< 200 OK", r#":2: expected the body "" of 0 bytes, got "ok\n" of 3"#),
        ("< 200 OK\n<\n< o\\*\\n", r#":2: expected the body "o\\*\n" of 4 bytes, got "ok\n" of 3"#),
        ("< 200 OK\n< Allow: *", ":2: expected some Allow, got none"),
        ("< 200 OK\n< Allow: GET", r#":2: expected Allow "GET", got None"#),
        ("< 200 OK\n< Content-Length: 4", r#":2: expected Content-Length "4", got Some("3")"#),
        ("< 200 OK\n< !Date", ":2: expected no Date, got"),
        ("< 200 OK\n<\n< ok\\n\n\n< 200 OK\n<\n< ok\\n", ":6: an answer to nothing"),
        ("", r#": at its end: no answer to Some("GET") in the transcript"#),
        ("= closed", r#":2: expected the connection's end, got "HTTP/1.1 200 OK"#),
    ];
    for (answer, failure) in table {
        let got = failure_of(&format!("{HEALTH}{answer}\n"));
        assert!(got.starts_with(&format!("test.http{failure}")), "{answer:?}: {got}");
    }
    let open = format!("{HEALTH}< 200 OK\n<\n< ok\\n\n\n= closed\n");
    let got = failure_in_vain(&open);
    let failure = "test.http:6: expected the connection's end, and it is open";
    assert!(got.starts_with(failure), "{got}");
}

#[test]
fn an_answer_that_does_not_come_is_a_failure() {
    let unfinished = "> PUT /kv/a\n> Content-Length: 10\n>\n> half\n";
    let got = failure_in_vain(&format!("{unfinished}< 200 OK\n"));
    assert!(got.starts_with("test.http:5: no answer"), "{got}");
}

#[test]
fn a_line_that_means_nothing_is_a_failure() {
    let table = [
        ("GET /", ":1: what is"),
        ("# a comment\n\n= open", ":3: what is"),
        ("= wait long", ":1: what is"),
        ("= wait 20", ":1: what is"),
        ("= token short", ": of its tokens line 1: a token has at least"),
        ("> GET /\n= token a-token-of-tests", ":2: what is"),
        ("= origins null", ":1: what is"),
        ("= on paper", ":1: what is"),
        ("= on memory  durable", ":1: what is"),
        ("= connect\n= origins https://a", ":2: what is"),
        ("= limit 1MiB", ":1: what is"),
        ("= limit 1MiB perhaps", ":1: what is"),
        ("= connect\n= limit 1MiB evict", ":2: what is"),
        (">\n> body", ":1: no request line"),
        ("> GET", ":1: no target in"),
        ("> GET /\n>\n> \\q", ":1: what is \\q?"),
        ("> GET /\n>\n> \\xf", ":1: what is"),
        ("> GET /\n>\n> \\{many k}", ":1: what is"),
        ("< 200 OK\n< nothing", ":1: what is"),
    ];
    for (text, failure) in table {
        let got = Transcript::parse("test.http", text).expect_err(text);
        assert!(got.starts_with(&format!("test.http{failure}")), "{text:?}: {got}");
    }
}
