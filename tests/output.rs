//! What the program tells, where nobody reads it and where much of it comes
//! from outside. A write to a full pipe waits for its reader, and what serves
//! or stops the store must not.

#![cfg(target_os = "linux")]

use crate::support::http::{Connection, get_head, wait_until};
use crate::support::process::{Process, command, wait};
use crate::support::server::accepts;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::Value;
use std::io::{PipeWriter, Write as _, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// More lines than a pipe holds, at `debug`.
const REQUESTS: usize = 3000;

fn start_unread(arguments: &[&str]) -> (Process, ChildStderr) {
    Process::run_unread(command(&[&["--port", "0", "--log-level", "debug"], arguments].concat()))
}

fn ask_until_the_log_is_stuck(process: &Process) {
    let mut connection = process.connect();
    let target = format!("/kv/{}", "k".repeat(100));
    for number in 0..REQUESTS {
        assert_eq!(connection.get(&target).status(), 404, "request {number}");
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_the_answers_nor_the_end() {
    let (process, _unread) = start_unread(&[]);
    ask_until_the_log_is_stuck(&process);
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_a_durable_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("a path of text");
    let (process, _unread) = start_unread(&["--working-dir", path]);
    ask_until_the_log_is_stuck(&process);
    assert_eq!(process.connect().put("/kv/key", b"value").status(), 200);
    assert_eq!(process.stop().0, Some(0));

    let process = Process::start(&["--working-dir", path]);
    assert_eq!(process.connect().get("/kv/key").text(), "value");
}

#[test]
fn a_second_signal_ends_it_though_nobody_reads_the_log() {
    let (mut process, _unread) = start_unread(&["--shutdown-timeout", "1h"]);
    let addr = process.addr();
    let mut upload = process.connect();
    upload.begin_upload("/kv/stuck", 100_000);
    ask_until_the_log_is_stuck(&process);
    process.signal("TERM");
    wait_until("it stops listening", || !accepts(addr));
    assert!(process.runs());
    assert_eq!(process.stop().0, Some(1));
}

#[test]
fn what_did_not_fit_is_told_in_one_line_once_the_log_is_read() {
    let (mut process, unread) = start_unread(&[]);
    let mut connection = process.connect();
    let target = format!("/kv/{}", "k".repeat(1000));
    for _ in 0..REQUESTS {
        assert_eq!(connection.get(&target).status(), 404);
    }
    process.read(unread);
    process.wait_for_log("missing here");
    connection.get("/kv/last");
    process.wait_for_log("/kv/last");
    let log = process.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("missing here")).collect();
    let [told] = *told else { panic!("{told:?}") };
    let missing = told.split_whitespace().find_map(|word| word.parse::<usize>().ok());
    let logged = log.lines().filter(|line| line.contains("kkk")).count();
    assert_eq!(logged + missing.expect("a number"), REQUESTS, "{told}");
}

#[test]
fn a_gap_between_lines_of_json_is_such_a_line() {
    let flags = ["--log-format", "json", "--access-log", "--log-level", "off"];
    let (mut process, unread) = start_unread(&flags);
    let mut connection = process.connect();
    let target = format!("/kv/{}", "k".repeat(500));
    for _ in 0..REQUESTS {
        assert_eq!(connection.get(&target).status(), 404);
    }
    process.read(unread);
    process.wait_for_log("missing here");
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    let parse = |line| serde_json::from_str::<Value>(line).expect("each line is JSON");
    let lines: Vec<Value> = log.lines().map(parse).collect();
    let logged = lines.iter().filter(|line| line["status"] == 404).count();
    let told = lines.iter().filter_map(|line| {
        let missing = line["message"].as_str()?.strip_suffix(" lines are missing here")?;
        assert_eq!(line["level"], "warn");
        missing.parse::<usize>().ok()
    });
    assert_eq!(logged + told.sum::<usize>(), REQUESTS);
}

/// A pipe for output that takes nothing: it is full, and its reader is held.
fn full_pipe() -> (impl Sized, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("a pipe has flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("and takes some");
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, flags).expect("and takes them back");
    (reader, writer)
}

#[test]
fn a_standard_output_that_nobody_reads_stops_neither_start_nor_end() {
    // An address of its own, so that no other test gets the port in between.
    let host = Ipv4Addr::new(127, 0, 0, 78);
    let addr = TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr());
    let addr: SocketAddr = addr.expect("a free port");
    let (_reader, writer) = full_pipe();
    let port = addr.port().to_string();
    let mut program = command(&["--host", "127.0.0.78", "--port", &port]);
    let child = program.stdout(writer).stderr(Stdio::null()).spawn();
    let mut child = Killed(child.expect("the program runs"));
    wait_until("it listens", || accepts(addr));
    assert_eq!(Connection::open(addr).get("/healthz").status(), 200);
    let pid = child.0.id().to_string();
    let kill = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(kill.expect("kill runs").success());
    assert_eq!(wait(&mut child.0).expect("it ends").code(), Some(0));
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        self.0.kill().ok();
        self.0.wait().expect("a child can be waited for");
    }
}

#[test]
fn what_a_client_sends_is_escaped_in_the_log() {
    let process = Process::start(&["--log-level", "debug"]);
    let mut connection = process.connect();
    connection.send("G\x1b[31mET\x07 /kv/a HTTP/1.1\r\nHost: test\r\n\r\n");
    // Refused or answered, it is counted and logged.
    connection.try_response_to("GET").ok();
    let mut connection = process.connect();
    connection.send("GET /kv/\x1b[2Jb HTTP/1.1\r\nHost: test\r\n\r\n");
    connection.try_response_to("GET").ok();
    // A request that makes sense is logged as it came.
    assert_eq!(process.connect().get("/kv/%1b[2Jb").status(), 404);
    process.wait_for_log("/kv/%1b[2Jb");
    process.wait_for_log(" 400 ");
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    let raw = |character: char| character.is_control() && character != '\n';
    assert!(!log.contains(raw), "{log:?}");
}

#[test]
fn arguments_are_escaped_in_a_complaint() {
    for argument in ["--port=\x1b[2J\u{9b}x", "--\u{9b}x", "--working-dir=/proc/\x1b[2J\n\u{9b}x"] {
        let output = crate::support::process::output(command(&[argument]));
        let stderr = String::from_utf8(output.stderr).expect("text");
        let line = stderr.strip_suffix('\n').expect("a line");
        assert!(line.contains("\\u{9b}x"), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn lines_that_clients_cause_are_limited_in_rate() {
    const LINE: &str = "connections are open, which is as many as may be";
    let begun = Instant::now();
    let process = Process::start(&["--max-connections", "4"]);
    for _ in 0..20 {
        let mut clients: Vec<_> = (0..10).map(|_| process.connect()).collect();
        for client in &mut clients {
            // Some are turned away.
            client.try_send(get_head("/healthz")).ok();
            client.try_response_to("GET").ok();
        }
    }
    process.wait_for_log(LINE);
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    let lines = log.lines().filter(|line| line.contains(LINE)).count();
    let intervals = begun.elapsed().as_secs() / Duration::from_secs(10).as_secs() + 1;
    assert!(lines as u64 <= intervals, "{lines} lines in {intervals} intervals");
}
