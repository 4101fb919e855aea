//! The program on a terminal: what it tells a person, and who hears Ctrl-C.

#![cfg(unix)]

use crate::support::http::Connection;
#[cfg(target_os = "linux")]
use crate::support::http::wait_until;
#[cfg(target_os = "linux")]
use crate::support::process::signal;
use crate::support::process::{addr_in, command};
use crate::support::terminal::Terminal;
#[cfg(target_os = "linux")]
use crate::support::wrappers::there_is;
#[cfg(target_os = "linux")]
use std::fs;
use std::process::Command;

/// The key of an interrupt.
const CTRL_C: u8 = 3;

#[test]
fn two_more_lines_tell_what_to_try_and_how_to_stop() {
    for (token, host) in [("", "127.0.0.1"), ("correct-horse-battery", "0.0.0.0")] {
        let mut program = command(&["--port", "0", "--host", host]);
        program.env("LKV_TOKEN", token);
        let mut terminal = Terminal::start(program);
        terminal.wait_for("Ctrl-C");
        let lines = terminal.lines();
        let [first, second, to_try, to_stop] = &*lines else { panic!("{lines:?}") };
        assert_eq!(first, "Starting Little Key-Value Store...");
        let port = addr_in(second).port();
        assert!(second.starts_with(&format!("Listening on http://{host}:{port} ")), "{second}");
        assert_eq!(to_stop, "Stop it: Ctrl-C");

        // The line does what it says, wherever it is pasted.
        let line = to_try.strip_prefix("Try it:  ").expect("a line to try");
        assert!(line.contains(" 'http://") && line.ends_with("/kv/kenya:capital'"), "{line}");
        let mut shell = Command::new("sh");
        let tried = shell.args(["-c", &format!("{line} -sSf")]).env("LKV_TOKEN", token).status();
        assert!(tried.expect("a shell runs").success(), "{line}");
        if token.is_empty() {
            let mut connection = Connection::open(addr_in(second));
            assert_eq!(connection.get("/kv/kenya:capital").text(), "Nairobi");
        } else {
            assert!(!to_try.contains(token), "{to_try}");
        }

        terminal.press(CTRL_C);
        assert_eq!(terminal.end(), Some(0));
    }
}

#[test]
fn beside_a_command_the_terminal_is_its_own() {
    let script = "echo begun; read -r line; echo \"read $line\"";
    let mut terminal = Terminal::start(command(&["run", "--", "sh", "-c", script]));
    terminal.wait_for("begun");
    for key in *b"hello\n" {
        terminal.press(key);
    }
    assert_eq!(terminal.end(), Some(0));
    terminal.wait_for("read hello");
    assert_eq!(terminal.lines(), ["begun", "hello", "read hello"]);
}

/// The terminal sends it to both, so it is not passed on; two that come together are one to
/// the command, so the calls are looked at.
#[cfg(target_os = "linux")]
#[test]
fn a_command_hears_ctrl_c_from_the_terminal_alone() {
    if !there_is("strace") {
        return;
    }
    let script = "trap 'echo interrupted' INT; trap 'echo asked; exit 3' TERM; echo ready
        while :; do sleep 0.05; done";
    let calls = tempfile::NamedTempFile::new().expect("a file");
    let path = calls.path().to_str().expect("a path of text");
    let mut traced = Command::new("strace");
    traced.args(["-DDD", "-f", "-q", "-e", "trace=kill", "-e", "signal=none", "-o", path, "--"]);
    traced.args([env!("CARGO_BIN_EXE_little-key-value"), "run", "--", "sh", "-c", script]);
    crate::support::process::heed_signals(&mut traced);
    let mut terminal = Terminal::start(traced);
    terminal.wait_for("ready");
    terminal.press(CTRL_C);
    terminal.wait_for("interrupted");
    signal(terminal.child(), "TERM");
    assert_eq!(terminal.end(), Some(3));
    terminal.wait_for("asked");
    let own_end = format!("{} ", terminal.child().id());
    let read = || fs::read_to_string(path).expect("a file");
    wait_until("all calls are told", || {
        read().lines().any(|line| line.starts_with(&own_end) && line.contains("exited with 3"))
    });
    let calls = read();
    let count = |signal| calls.lines().filter(|line| line.contains(signal)).count();
    assert_eq!((count("SIGINT"), count("SIGTERM")), (0, 1), "{calls}");
}

#[test]
fn a_command_that_ctrl_c_ends_has_130() {
    let mut terminal = Terminal::start(command(&["run", "--", "sh", "-c", "echo ready; read l"]));
    terminal.wait_for("ready");
    terminal.press(CTRL_C);
    assert_eq!(terminal.end(), Some(130));
}

#[test]
fn a_command_in_a_group_of_its_own_hears_ctrl_c_as_well() {
    for words in [&["setsid", "--wait"][..], &["timeout", "100"]] {
        let words = [&["run", "--"], words, &["sh", "-c", "echo ready; exec sleep 100"]].concat();
        let mut terminal = Terminal::start(command(&words));
        terminal.wait_for("ready");
        terminal.press(CTRL_C);
        assert!(terminal.end().is_some_and(|code| code > 0), "{words:?}");
    }
}
