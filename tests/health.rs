//! `health`: the exit code of a probe, and the reason in one line.

#![cfg(unix)]

use crate::support::process::{Process, command, output};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;

/// The exit code of a probe, and its line.
fn health(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = command(&[&["health"], arguments].concat());
    command.envs(variables.iter().copied());
    ended(command)
}

fn ended(command: Command) -> (Option<i32>, String) {
    let output = output(command);
    assert_eq!(output.stdout, b"");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

fn refusing() -> SocketAddr {
    // A listener that is closed leaves an address that nobody else asks for soon.
    let listener = TcpListener::bind("127.0.0.79:0").expect("a free port");
    listener.local_addr().expect("a bound socket")
}

#[test]
fn a_store_is_found_by_its_url_or_by_the_variables() {
    let process = Process::start(&[]);
    let port = process.addr().port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let healthy = (Some(0), String::new());
    for url in [&url, &format!("{url}/"), &format!("{url}/livez"), &format!("{url}/kv?count")] {
        assert_eq!(health(&[url], &[]), healthy, "{url}");
    }
    assert_eq!(health(&[], &[("LKV_URL", &url)]), healthy);
    assert_eq!(health(&[], &[("LKV_PORT", &port)]), healthy);
    assert_eq!(health(&[], &[("LKV_PORT", &port), ("LKV_HOST", "0.0.0.0")]), healthy);
    assert_eq!(health(&[], &[("LKV_PORT", &port), ("LKV_HOST", "localhost")]), healthy);
    let other = format!("http://{}", refusing());
    assert_eq!(health(&[&url], &[("LKV_URL", &other), ("LKV_PORT", "abc")]), healthy);
    assert_eq!(health(&[], &[("LKV_URL", &url), ("LKV_PORT", "1")]), healthy);
    assert_eq!(health(&[], &[("LKV_URL", ""), ("LKV_PORT", &port)]), healthy);
    let (code, line) = health(&[&format!("{url}/kv/absent")], &[]);
    assert_eq!(
        (code, &*line),
        (Some(1), &*format!("little-key-value: {url}/kv/absent: 404 key not found\n"))
    );
    assert_eq!(health(&[], &[("LKV_URL", &other), ("LKV_PORT", &port)]).0, Some(1));
}

#[test]
fn a_store_with_tokens_is_probed_without_one() {
    let mut program = command(&["--port", "0"]);
    program.env("LKV_TOKEN", "correct-horse-battery");
    let process = Process::run(program);
    let url = format!("http://{}", process.addr());
    assert_eq!(health(&[&url], &[]), (Some(0), String::new()));
    assert_eq!(health(&[&format!("{url}/kv?count")], &[]).0, Some(1));
}

/// A server that answers each request on a connection so, and keeps it open.
fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
            let head: Vec<_> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
            assert_eq!(head.first().map(String::as_str), Some("GET /readyz HTTP/1.1"));
            assert!(head.contains(&format!("Host: {addr}")), "{head:?}");
            stream.write_all(answer.as_bytes()).expect("it reads");
            if answer.ends_with("cut") {
                continue;
            }
            kept.push(stream);
        }
    });
    addr
}

#[test]
fn every_other_answer_is_one_line_and_1() {
    let long = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9000\r\n\r\n";
    let long: &'static str = Box::leak((long.to_owned() + &"x".repeat(9000)).into_boxed_str());
    let table = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n", 0, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 0, ""),
        ("HTTP/1.0 200 OK\r\n\r\n", 0, ""),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 0, ""),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 503 \r\nContent-Length: 3\r\n\r\nbad",
            1,
            "503 bad\n",
        ),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nbad\nsad", 1, "503 bad\n"),
        ("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", 1, "301\n"),
        ("HTTP/1.1 500 \r\ncontent-length: 6\r\n\r\n\x1b[2J\x07\n", 1, "500 \\u{1b}[2J\\u{7}\n"),
        (long, 1, "xxx"),
        ("SSH-2.0-OpenSSH\r\n\r\n", 1, "not HTTP"),
        ("HTTP/1.1 200 OKcut", 1, "not HTTP"),
    ];
    for (answer, code, mentioned) in table {
        let addr = answering(answer);
        let (ended, line) = health(&[&format!("http://{addr}")], &[]);
        assert_eq!(ended, Some(code), "{answer:?}: {line}");
        assert!(line.contains(mentioned), "{answer:?}: {line:?}");
        assert_eq!(line.lines().count(), usize::try_from(code).expect("small"), "{line:?}");
    }
}

#[test]
fn nobody_there_is_one_line_and_1() {
    let addr = refusing();
    let (code, line) = health(&[&format!("http://{addr}")], &[]);
    assert_eq!((code, line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains("refused") && line.contains(&addr.to_string()), "{line}");
    let (code, line) = health(&["http://no-such-host.invalid:1"], &[]);
    assert_eq!((code, line.lines().count()), (Some(1), 1), "{line}");
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for_long() {
    for answer in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 503 \r\nContent-Length: 9\r\n\r\nslow"] {
        let addr = answering(answer);
        let (code, line) = health(&[&format!("http://{addr}")], &[]);
        assert_eq!(code, Some(1), "{answer:?}");
        assert!(line.ends_with("no answer in 5 s\n"), "{answer:?}: {line}");
    }
}

#[test]
fn bad_usage_is_one_line_and_2() {
    for url in ["https://127.0.0.1:8888", "127.0.0.1:8888", "ftp://a", "http://", "http://a b"] {
        let (code, line) = health(&[url], &[]);
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{url}: {line}");
    }
    for (name, value) in [("LKV_URL", "https://a"), ("LKV_PORT", "abc")] {
        let (code, line) = health(&[], &[(name, value)]);
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{name}: {line}");
    }
}
