//! `run`: a command beside a store of its own.

#![cfg(unix)]

use crate::support::http::{PATIENCE, wait_until};
use crate::support::process::{Process, command, end_of, lines_of, output, signal, wait};
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Runs a shell script beside a store to its end: the exit code, and both outputs.
fn run(flags: &[&str], script: &str) -> (Option<i32>, String, String) {
    ended(beside(flags, &["sh", "-c", script]))
}

/// A command beside a store.
fn beside(flags: &[&str], of_command: &[&str]) -> Command {
    command(&[&["run"], flags, &["--"], of_command].concat())
}

fn ended(command: Command) -> (Option<i32>, String, String) {
    let output = output(command);
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    (output.status.code(), stdout, stderr)
}

/// A script that runs beside a store, and is ready.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Starts a script that says `ready` at some time.
    fn start(flags: &[&str], script: &str) -> Self {
        let mut command = beside(flags, &["sh", "-c", script]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the program runs");
        let stdin = child.stdin.take();
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let running = Self { child, stdin, lines };
        assert_eq!(running.line(), "ready");
        running
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    /// Its exit code, and the rest of its lines.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let status = wait(&mut self.child).expect("it ends");
        let next = || match self.lines.recv_timeout(PATIENCE) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("its output does not end"),
            next => next.ok(),
        };
        let rest = std::iter::from_fn(next).collect();
        (status.code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().expect("a child can be waited for");
    }
}

#[test]
fn the_command_finds_a_store_of_its_own() {
    let script = "curl -sS -u \":$LKV_TOKEN\" -X PUT -d Nairobi \"$LKV_URL/kv/capital\" &&
        curl -sS -u \":$LKV_TOKEN\" \"$LKV_URL/kv/capital\" && echo &&
        curl -s -o /dev/null -w '%{http_code}\n' \"$LKV_URL/kv/capital\" &&
        echo \"$LKV_URL\" && echo \"$LKV_TOKEN\"";
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let (code, stdout, stderr) = run(&[], script);
        assert_eq!((code, &*stderr), (Some(0), ""));
        let lines: Vec<&str> = stdout.lines().collect();
        let [value, without_token, url, token] = *lines else { panic!("{stdout}") };
        assert_eq!((value, without_token), ("Nairobi", "401"));
        let port = url.strip_prefix("http://127.0.0.1:").expect("an address of this machine");
        assert!(port.parse::<u16>().expect("a port") > 0);
        assert!(token.len() >= 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
        tokens.push(token.to_owned());
    }
    assert_ne!(tokens.first(), tokens.last());
}

#[test]
fn its_exit_code_is_that_of_the_command() {
    for code in [0, 1, 2, 7, 125, 126, 127, 128, 255] {
        assert_eq!(run(&[], &format!("exit {code}")), (Some(code), String::new(), String::new()));
    }
    for (signal, code) in [("HUP", 129), ("INT", 130), ("KILL", 137), ("PIPE", 141), ("TERM", 143)]
    {
        let ended = run(&[], &format!("kill -{signal} $$; exit 1"));
        assert_eq!(ended, (Some(code), String::new(), String::new()), "SIG{signal}");
    }
}

#[test]
fn a_command_that_cannot_be_run_is_one_line_and_126_or_127() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("data");
    std::fs::write(&file, "no program").expect("a file");
    let file = file.to_str().expect("a path of text");
    let cases =
        [("absent-command", 127), ("/absent/command", 127), ("", 127), ("/", 126), (file, 126)];
    for (name, expected) in cases {
        let (code, stdout, stderr) = ended(beside(&[], &[name]));
        assert_eq!((code, &*stdout), (Some(expected), ""), "{name}: {stderr}");
        assert!(stderr.contains(&format!("cannot run {name}: ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn without_a_store_the_command_is_not_run() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("a bound socket").port().to_string();
    let cases: [(&[&str], i32); 4] = [
        (&["--port", &port], 1),
        (&["--working-dir", "/dev/null"], 1),
        (&["--host", "0.0.0.0", "--token-file", "/absent"], 2),
        (&["--workers", "0"], 2),
    ];
    for (flags, expected) in cases {
        let (code, stdout, stderr) = run(flags, "echo ran");
        assert_eq!((code, &*stdout), (Some(expected), ""), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let (code, stdout, stderr) = ended(command(&["run"]));
    assert_eq!((code, &*stdout, stderr.lines().count()), (Some(2), "", 1), "{stderr}");
}

#[test]
fn a_token_may_be_given_in_each_way_of_a_store() {
    const TOKEN: &str = "correct-horse-battery";
    const SCRIPT: &str = "echo \"${LKV_TOKEN-unset}\"
        curl -s -o /dev/null -w '%{http_code}\n' -u :correct-horse-battery \"$LKV_URL/kv/a\"
        curl -s -o /dev/null -w '%{http_code}\n' \"$LKV_URL/kv/a\"";
    let file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(&file, "{TOKEN}").expect("a file takes a line");
    let path = file.path().to_str().expect("a path of text");
    let cases: [(&[&str], &str, String); 4] = [
        (&[], TOKEN, format!("{TOKEN}\n404\n401\n")),
        (&["--token-file", path], "", "unset\n404\n401\n".to_owned()),
        (&["--no-auth"], "", "unset\n404\n404\n".to_owned()),
        (&["--host", "0.0.0.0"], TOKEN, format!("{TOKEN}\n404\n401\n")),
    ];
    for (flags, variable, expected) in cases {
        let mut command = beside(flags, &["sh", "-c", SCRIPT]);
        command.env("LKV_TOKEN", variable);
        let (code, stdout, _) = ended(command);
        assert_eq!((code, stdout), (Some(0), expected), "{flags:?}");
    }
}

#[test]
fn the_flags_are_those_of_a_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("a path of text");
    let put = "curl -sSf -u \":$LKV_TOKEN\" -T LICENSE \"$LKV_URL/kv/a\"";
    assert_eq!(run(&["--working-dir", path], put).0, Some(0));
    let get = "curl -sSf -u \":$LKV_TOKEN\" \"$LKV_URL/kv/a\"";
    let (code, stdout, _) = run(&["--working-dir", path], get);
    let license = std::fs::read_to_string("LICENSE").expect("it is here");
    assert_eq!((code, stdout), (Some(0), license));
    let (_, _, stderr) = run(&["--log-level", "info"], "true");
    assert!(stderr.contains("[INFO] stopping"), "{stderr}");
}

/// The output of a line of a shell that has settings of its own.
fn with_settings(line: &str) -> String {
    let script = format!("umask 027; ulimit -Sn 200; {line}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("PROGRAM", env!("CARGO_BIN_EXE_little-key-value"));
    crate::support::process::heed_signals(&mut command);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("a shell runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    // One that reads nothing may have ended already.
    stdin.write_all(b"input\n").ok();
    drop(stdin);
    let output = end_of(child);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_command_has_the_input_and_the_settings_of_the_program() {
    let settings = "sh -c 'umask; ulimit -Sn; cat'";
    let signals = "grep Sig[BI] /proc/self/status";
    for line in if cfg!(target_os = "linux") { vec![settings, signals] } else { vec![settings] } {
        let expected = with_settings(line);
        assert!(!expected.is_empty());
        assert_eq!(with_settings(&format!("\"$PROGRAM\" run -- {line}")), expected);
    }
    assert_eq!(with_settings(settings), "0027\n200\ninput\n");
}

#[test]
fn a_signal_is_passed_on_and_the_store_outlives_the_command() {
    for name in ["INT", "TERM", "HUP"] {
        let script = format!(
            "trap 'curl -s \"$LKV_URL/readyz\"; echo {name}; exit 3' {name}
             echo ready; while :; do sleep 0.05; done"
        );
        let running = Running::start(&[], &script);
        signal(&running.child, name);
        assert_eq!(running.end(), (Some(3), vec!["ok".to_owned(), name.to_owned()]), "SIG{name}");
    }
}

#[test]
fn a_command_may_take_a_signal_and_run_on() {
    let script = "trap 'echo again' TERM; echo ready
        while :; do sleep 0.05; done";
    let running = Running::start(&[], script);
    for _ in 0..2 {
        signal(&running.child, "TERM");
        assert_eq!(running.line(), "again");
    }
    signal(&running.child, "INT");
    assert_eq!(running.end(), (Some(130), Vec::new()));
}

#[test]
fn the_exit_code_is_there_though_children_were_ignored() {
    let mut shell = Command::new("bash");
    shell.args(["-c", "trap '' CHLD; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_little-key-value")]);
    shell.args(["run", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ended(shell).0, Some(7));
}

#[test]
fn a_command_that_is_stopped_goes_on_to_hear_a_signal() {
    let running = Running::start(&[], "echo ready; kill -STOP $$; echo went on");
    let children = format!("/proc/{0}/task/{0}/children", running.child.id());
    let state = || {
        let child = std::fs::read_to_string(&children).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        stat.unwrap_or_default()
    };
    if cfg!(target_os = "linux") {
        wait_until("it is stopped", || state().contains(") T "));
    }
    signal(&running.child, "TERM");
    assert_eq!(running.end(), (Some(143), Vec::new()));
}

/// As `timeout` does, which sends it to the program and to its group. A stop that takes
/// longer than the two can be apart may be cut, as on a busy machine: then it is tried again.
#[test]
fn a_signal_that_comes_twice_at_once_does_not_cut_the_stop() {
    const SIGNALS_APART: Duration = Duration::from_millis(200);
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        let mut program = beside(&[], &["sh", "-c", "echo ready; read -r line"]);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().expect("the program runs");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        lines.recv_timeout(PATIENCE).expect("it is ready");
        // Its end would be that of the command.
        let _stdin = child.stdin.take();
        let sent_at = Instant::now();
        signal(&child, "TERM");
        signal(&child, "TERM");
        let output = end_of(child);
        let took = sent_at.elapsed();
        assert_eq!(output.status.code(), Some(143));
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.is_empty() {
            return;
        }
        assert!(took >= SIGNALS_APART, "after {took:?}: {stderr}");
        assert_eq!(stderr, "error: stopped by a second signal\n");
    }
}

#[test]
fn the_store_ends_with_the_command() {
    let mut running = Running::start(&[], "echo ready; echo $LKV_URL; read -r line");
    let url = running.line();
    let addr = crate::support::process::addr_in(&url);
    let mut connection = crate::support::http::Connection::open(addr);
    assert_eq!(connection.get("/readyz").status(), 200);
    drop(running.stdin.take());
    assert_eq!(running.end().0, Some(1));
    assert!(!crate::support::server::accepts(addr));
}

#[test]
fn a_signal_before_the_command_ends_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("a path of text");
    let owner = Process::start(&["--working-dir", path]);
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let flags = ["--working-dir", path, "--wait-for-lock", "1h", "--log-level", "info"];
        let mut command = beside(&flags, &["echo", "ran"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program runs");
        let lines = lines_of(child.stderr.take().expect("it is piped"));
        let line = lines.recv_timeout(PATIENCE).expect("it tells");
        assert!(line.contains("waiting for the process"), "{line}");
        signal(&child, name);
        let output = end_of(child);
        let stdout = String::from_utf8(output.stdout).expect("text");
        assert_eq!((output.status.code(), &*stdout), (Some(code), ""), "SIG{name}");
    }
    assert_eq!(owner.stop().0, Some(0));
}
