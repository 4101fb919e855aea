//! The program under another one, which makes the system fail it.

use super::http::PATIENCE;
#[cfg(unix)]
use super::process::heed_signals;
use super::process::{Process, command, lines_of};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// Whether a tool is there. Without it a test has nothing to say, which it may
/// not where CI is set.
pub fn there_is(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "CI is set and there is no {tool}");
    if !found {
        eprintln!("skipped: there is no {tool} here");
    }
    found
}

/// The program with these arguments on a port of the system's choice, started
/// by another one in its own place.
pub fn under(wrapper: &[&str], program: Option<&Path>, arguments: &[&str]) -> Command {
    let inner = command(&[&["--port", "0"], arguments].concat());
    let program = program.map_or_else(|| inner.get_program(), Path::as_os_str);
    let (first, more) = wrapper.split_first().expect("a wrapper has a name");
    let mut outer = Command::new(first);
    outer.args(more).arg(program).args(inner.get_args()).stdin(Stdio::null());
    #[cfg(unix)]
    heed_signals(&mut outer);
    for (name, value) in inner.get_envs() {
        assert!(value.is_none(), "the program under test is given no variables");
        outer.env_remove(name);
    }
    outer
}

/// The program under `strace` with these options. With -D the program is our
/// child and strace is not, so signals reach it.
pub fn under_strace(options: &[&str], arguments: &[&str]) -> Command {
    let strace = [&["strace", "-D", "-f", "-qq"], options, &["--"]].concat();
    under(&strace, None, arguments)
}

/// Whether this runs as root; else says that a test is skipped.
pub fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id runs");
    let root = output.stdout.trim_ascii() == b"0";
    if !root {
        eprintln!("skipped: only root may do this");
    }
    root
}

/// A fault of a program that runs, until this is dropped.
pub struct Attached {
    strace: Child,
    /// So that it can write what it likes.
    told: mpsc::Receiver<String>,
}

/// Has calls fail, or take long: for some files, or for all.
pub fn attach(process: &Process, fault: &str, files: &[String]) -> Attached {
    let calls = fault.split_once(':').expect("calls and their fault").0;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-p", &process.id().to_string(), "-o", "/dev/null"]);
    strace.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={fault}")]);
    let mut strace = strace.args(files).stderr(Stdio::piped()).spawn().expect("strace runs");
    let told = lines_of(strace.stderr.take().expect("it is piped"));
    let attached = Attached { strace, told };
    let next = || attached.told.recv_timeout(PATIENCE).expect("strace attaches");
    while !next().contains("attached") {}
    attached
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It may have ended with what it follows.
        let kill = Command::new("kill").args(["-TERM", &self.strace.id().to_string()]).status();
        kill.expect("kill runs");
        self.strace.wait().expect("strace ends");
    }
}
