//! The access log, and the log as JSON.

use crate::support::http::{Connection, get_head, wait_until};
use crate::support::process::{Process, command, output};
use serde_json::Value;
use std::net::TcpListener;

/// A program with an access log and nothing else on standard error.
fn start(format: &str) -> Process {
    let flags = ["--access-log", "--log-level", "off", "--log-format", format];
    Process::start(&flags)
}

/// The lines of an access log as JSON.
fn objects(log: &str) -> Vec<Value> {
    let parse = |line| {
        let object = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
        assert!(matches!(object, Value::Object(_)), "{line}");
        for member in ["time", "level", "message"] {
            assert!(object.get(member).is_some_and(Value::is_string), "{line}");
        }
        object
    };
    log.lines().map(parse).collect()
}

/// Sends bytes, and reads to the end of the connection.
fn send(process: &Process, bytes: &[u8]) {
    let mut connection = process.connect();
    connection.send(bytes);
    connection.finish_sending();
    connection.rest().expect("the server closes the connection");
}

#[test]
fn each_response_is_a_line_of_the_combined_log_format() {
    let process = start("text");
    let mut connection = process.connect();
    connection.put("/kv/a", b"12345");
    let fields = ["User-Agent: a \"browser\"/1.0", "Referer: http://a.test/\u{e4}"];
    connection.ask("GET", "/kv/a?b=%22c", &fields, b"");
    connection.send("HEAD /kv/a HTTP/1.1\r\nHost: test\r\n\r\n");
    connection.response_to("HEAD");
    connection.ask("BREW", "/kv/a\\b\"", &[], b"");
    process.wait_for_log("BREW");
    for refused in [
        "GET /kv/a HTTP/1.1\r\nHost: test\r\nBad Field: x\r\n\r\n",
        "GET /kv/a HTTP/3.0\r\n\r\n",
        "G\x1b[31mET /kv/a HTTP/1.1\r\n\r\n",
        "GET /kv/a HTTP/1.1\r\nHost: te",
    ] {
        send(&process, refused.as_bytes());
    }
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    let rests: Vec<&str> = log
        .lines()
        .map(|line| {
            let rest = line.strip_prefix("127.0.0.1 - - [").expect("the peer");
            let (time, rest) = rest.split_once("] ").expect("a time");
            assert!(time.len() == 26 && time.ends_with(" +0000"), "{line}");
            rest
        })
        .collect();
    assert_eq!(
        rests,
        [
            r#""PUT /kv/a HTTP/1.1" 200 0 "-" "-""#,
            r#""GET /kv/a?b=%22c HTTP/1.1" 200 5 "http://a.test/\xC3\xA4" "a \x22browser\x22/1.0""#,
            r#""HEAD /kv/a HTTP/1.1" 200 0 "-" "-""#,
            r#""BREW /kv/a\x5Cb\x22 HTTP/1.1" 405 19 "-" "-""#,
            r#""GET /kv/a HTTP/1.1" 400 35 "-" "-""#,
            r#""GET /kv/a" 505 41 "-" "-""#,
            r#""-" 400 32 "-" "-""#,
            r#""-" 400 21 "-" "-""#,
        ]
    );
}

#[test]
fn each_response_is_an_object_of_json() {
    let process = start("json");
    let mut connection = process.connect();
    let peer = connection.local_addr().to_string();
    connection.put("/kv/a", b"12345");
    let fields = ["User-Agent: a \"browser\"", "Referer: http://a.test/\u{e4}"];
    connection.ask("GET", "/kv/a?b=\"c", &fields, b"");
    process.wait_for_log("GET");
    send(&process, b"GET /kv/a\xff\x9b HTTP/1.1\r\nHost: test\r\nUser-Agent: \xff\xfe\r\n\r\n");
    send(&process, b"\x1b]0;a\x07\r\n\r\n");
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains(|character: char| character.is_control() && character != '\n'), "{log}");
    let objects = objects(&log);
    let [put, get, invalid, unknown] = &*objects else { panic!("{log}") };
    assert_eq!((&put["method"], &put["target"]), (&"PUT".into(), &"/kv/a".into()));
    assert_eq!((&put["status"], &put["bytes"]), (&200.into(), &0.into()));
    assert_eq!((&put["peer"], &put["level"]), (&peer.into(), &"info".into()));
    assert!(put["duration"].as_f64().is_some_and(|seconds| seconds < 60.0), "{put}");
    assert!(put.get("referer").is_none() && put.get("user_agent").is_none(), "{put}");
    assert_eq!((&get["target"], &get["bytes"]), (&"/kv/a?b=\"c".into(), &5.into()));
    assert_eq!(get["message"], "GET /kv/a?b=\"c 200");
    assert_eq!(get["user_agent"], "a \"browser\"");
    assert_eq!(get["referer"], "http://a.test/\u{e4}");
    assert_eq!(invalid["status"], 400);
    assert_eq!((&unknown["method"], &unknown["target"]), (&"-".into(), &"-".into()));
    assert_eq!(unknown["status"], 400);
}

#[test]
fn none_is_left_out_and_without_the_flag_there_is_none() {
    const REQUESTS: usize = 300;
    for (flags, lines) in [(&["--access-log"][..], REQUESTS), (&[], 0)] {
        let process = Process::start(flags);
        let mut connection = process.connect();
        for _ in 0..REQUESTS {
            assert_eq!(connection.get("/kv/absent").status(), 404);
        }
        let (_, log) = process.stop();
        assert_eq!(log.matches("\"GET /kv/absent HTTP/1.1\" 404 14").count(), lines);
    }
    let mut program = command(&["--port", "0", "--log-format", "json"]);
    program.env("LKV_ACCESS_LOG", "true");
    let process = Process::run(program);
    process.connect().get("/kv/absent");
    process.wait_for_log("\"target\":\"/kv/absent\"");
}

#[test]
fn a_stream_is_a_line_once_it_ends() {
    let process = start("json");
    let mut watcher = process.connect();
    watcher.send(get_head("/watch?prefix=a"));
    assert_eq!(watcher.try_head().expect("a head").status(), 200);
    let mut connection = process.connect();
    assert_eq!(connection.put("/kv/a", b"x").status(), 200);
    assert!(!watcher.try_chunk().expect("an event").is_empty());
    process.wait_for_log("\"PUT\"");
    assert!(!process.log().contains("/watch"), "{}", process.log());
    drop(watcher);
    process.wait_for_log("/watch?prefix=a");
    let (_, log) = process.stop();
    let objects = objects(&log);
    let watch = objects.last().expect("a line");
    assert_eq!((&watch["target"], &watch["status"]), (&"/watch?prefix=a".into(), &200.into()));
    assert!(watch["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{watch}");
}

#[test]
fn every_line_of_a_run_is_json() {
    let flags = ["--log-format", "json", "--log-level", "trace", "--access-log", "--workers", "1"];
    let mut program = command(&[&["--port", "0"], &flags[..]].concat());
    program.env("LKV_UNKNOWN\x1b", "x");
    let process = Process::run(program);
    assert_eq!(process.greeting[0], "Starting Little Key-Value Store...");
    let mut connection = process.connect();
    connection.put("/kv/S%C3%A3o%20Paulo", b"x");
    send(&process, b"GET /kv/\xff\x1b\"\\ HTTP/1.1\r\n\r\n");
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    let objects = objects(&log);
    let has = |level: &str, text: &str| {
        objects.iter().any(|object| {
            object["level"] == level
                && object["message"].as_str().is_some_and(|message| message.contains(text))
        })
    };
    assert!(has("warn", "LKV_UNKNOWN\\u{1b}"), "{log}");
    assert!(has("debug", "PUT /kv/S%C3%A3o%20Paulo 200 0 bytes"), "{log}");
    assert!(has("info", "PUT /kv/S%C3%A3o%20Paulo 200"), "{log}");
    assert!(has("info", "stopping"), "{log}");
    for object in &objects {
        let time = object["time"].as_str().expect("a time");
        assert!(time.len() == "2026-11-28T17:53:08.042Z".len() && time.ends_with('Z'), "{time}");
    }
}

#[test]
fn a_complaint_is_json_as_well_once_the_form_is_known() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("a bound socket").port().to_string();
    let cases = [
        (&["--port", &port][..], 1, "in use"),
        (&["--port", "0", "--host", "0.0.0.0"], 2, "--no-auth"),
        (&["--port", "0", "--token-file", "/absent/\x1b"], 2, "/absent/\\u{1b}"),
    ];
    for (arguments, code, text) in cases {
        let output = output(command(&[arguments, &["--log-format", "json"]].concat()));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).expect("text");
        let objects = objects(&stderr);
        let [line] = &*objects else { panic!("{stderr}") };
        assert_eq!(line["level"], "error");
        assert!(line["message"].as_str().is_some_and(|message| message.contains(text)), "{line}");
    }
}

#[test]
fn the_last_words_to_a_late_client_are_a_line() {
    // What is sent at once is read by then, on a busy machine too.
    let flags = ["--access-log", "--log-level", "off", "--request-timeout", "3s"];
    let process = Process::start(&flags);
    let mut late = process.connect();
    late.send("GET /kv/a HT");
    assert_eq!(late.response().status(), 408);
    process.wait_for_log("] \"-\" 408 ");
    // The head of a body that does not come has come.
    for target in ["/kv/late", "/import"] {
        let mut late = process.connect();
        late.send(format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"));
        assert_eq!(late.response().status(), 408);
        process.wait_for_log(&format!("] \"PUT {target} HTTP/1.1\" 408 "));
    }
    // It is not told of the next request of the connection.
    let mut late = process.connect();
    // Longer than what is received at once, so that it is awaited too.
    assert_eq!(late.put("/kv/slow", &vec![b'x'; 1 << 20]).status(), 200);
    late.send("GET /kv/a HT");
    assert_eq!(late.response().status(), 408);
    let unknown = "] \"-\" 408 ";
    wait_until("it is logged", || process.log().matches(unknown).count() == 2);
    let log = process.log();
    assert!(!log.contains("\"PUT /kv/slow HTTP/1.1\" 408"), "{log}");
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn lines_come_in_the_order_of_the_responses() {
    let process = start("json");
    let mut connection: Connection = process.connect();
    connection.send([get_head("/kv/1"), get_head("/kv/2"), get_head("/kv/3")].concat());
    for _ in 0..3 {
        assert_eq!(connection.response().status(), 404);
    }
    let (_, log) = process.stop();
    let targets: Vec<Value> = objects(&log).iter().map(|line| line["target"].clone()).collect();
    assert_eq!(targets, ["/kv/1", "/kv/2", "/kv/3"]);
}

#[test]
fn of_a_response_that_was_cut_the_line_has_the_bytes_that_were_sent() {
    const BYTES: usize = 10 << 20;
    let process = start("json");
    process.connect().put("/kv/large", &vec![b'x'; BYTES]);
    let mut deaf = process.connect();
    deaf.send(get_head("/kv/large"));
    deaf.try_head().expect("a head");
    drop(deaf);
    let is_cut = |line: &Value| line["message"] == "GET /kv/large 200";
    wait_until("it is logged", || process.log().contains("GET /kv/large 200"));
    let lines = objects(&process.stop().1);
    let cut = lines.iter().find(|line| is_cut(line)).expect("its line");
    let sent = cut["bytes"].as_u64().expect("a number");
    assert!(sent > 0 && sent < BYTES as u64, "{cut}");
}
