//! The transcripts in `tests/transcripts`, replayed on every engine, and tests
//! that a wrong one is found.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;
use support::engines;
use support::http::PATIENCE;
use support::server::Fixture;
use support::transcript::Transcript;

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
    for (engine, open) in engines::ENGINES {
        for (_, transcript) in &files {
            let server = Fixture::over(open());
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

const HEALTH: &str = "> GET /healthz HTTP/1.1\n> Host: store\n>\n\n";

#[test]
fn a_right_transcript_holds() {
    let text = format!("{HEALTH}< HTTP/1.1 200 OK\n< Date: *\n< !Allow\n<\n< o\n< k\\n\n");
    let transcript = Transcript::parse("test.http", &text).expect("a well-formed transcript");
    assert_eq!(transcript.replay(Fixture::start().addr()), Ok(()));
}

#[test]
fn a_wrong_transcript_is_told_by_its_line() {
    let table = [
        (
            "< HTTP/1.1 204 No Content",
            r#":5: expected "HTTP/1.1 204 No Content", got "HTTP/1.1 200 OK""#,
        ),
        (
            "< HTTP/1.1 200 Ok\n<\n< ok\\n",
            r#":5: expected "HTTP/1.1 200 Ok", got "HTTP/1.1 200 OK""#,
        ),
        ("< HTTP/1.1 200 OK\n<\n< ok", r#":5: expected the body "ok" of 2 bytes, got "ok\n" of 3"#),
        ("< HTTP/1.1 200 OK", r#":5: expected the body "" of 0 bytes, got "ok\n" of 3"#),
        ("< HTTP/1.1 200 OK\n< Allow: *", ":5: expected some Allow, got none"),
        ("< HTTP/1.1 200 OK\n< Allow: GET", r#":5: expected Allow "GET", got None"#),
        (
            "< HTTP/1.1 200 OK\n< Content-Length: 4",
            r#":5: expected Content-Length "4", got Some("3")"#,
        ),
        ("< HTTP/1.1 200 OK\n< !Date", ":5: expected no Date, got"),
        (
            "< HTTP/1.1 200 OK\n<\n< ok\\n\n\n< HTTP/1.1 200 OK\n<\n< ok\\n",
            ":9: an answer to nothing",
        ),
        ("", r#": at its end: no answer to Some("GET") in the transcript"#),
        ("= closed", r#":5: expected the connection's end, got "HTTP/1.1 200 OK"#),
    ];
    for (answer, failure) in table {
        let got = failure_of(&format!("{HEALTH}{answer}\n"));
        assert!(got.starts_with(&format!("test.http{failure}")), "{answer:?}: {got}");
    }
    let open = format!("{HEALTH}< HTTP/1.1 200 OK\n<\n< ok\\n\n\n= closed\n");
    let got = failure_in_vain(&open);
    let failure = "test.http:9: expected the connection's end, and it is open";
    assert!(got.starts_with(failure), "{got}");
}

#[test]
fn an_answer_that_does_not_come_is_a_failure() {
    let unfinished = "> PUT /kv/a HTTP/1.1\n> Host: store\n> Content-Length: 10\n>\n> half\n";
    let got = failure_in_vain(&format!("{unfinished}\n< HTTP/1.1 200 OK\n"));
    assert!(got.starts_with("test.http:7: no answer"), "{got}");
}

#[test]
fn a_line_that_means_nothing_is_a_failure() {
    let table = [
        ("GET / HTTP/1.1", ":1: what is"),
        ("# a comment\n\n= open", ":3: what is"),
        ("= wait long", ":1: what is"),
        ("= wait 20", ":1: what is"),
        ("> GET / HTTP/1.1\n> Host: store", ":1: the head has no empty line after it"),
        ("> GET / HTTP/1.1\n>\n> \\q", ":1: what is \\q?"),
        ("> GET / HTTP/1.1\n>\n> \\xf", ":1: what is"),
        ("> GET / HTTP/1.1\n>\n> \\{many k}", ":1: what is"),
        ("< HTTP/1.1 200 OK\n< nothing", ":1: what is"),
    ];
    for (text, failure) in table {
        let got = Transcript::parse("test.http", text).expect_err(text);
        assert!(got.starts_with(&format!("test.http{failure}")), "{text:?}: {got}");
    }
}
