//! The system's clock is set while the program runs, and between two runs. A
//! length of time that is measured by it would be wrong by as much.
//!
//! faketime's library stands between the program and the system. It shows the
//! wall clock as a file says, and all other clocks as they are.

#![cfg(target_os = "linux")]

use crate::support::http::{Connection, wait_until};
use crate::support::process::{Process, command};
use crate::support::wrappers::there_is;
use std::fs;
use std::iter;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// How often faketime is asked for its library.
const TRIES: usize = 10;

/// A wall clock that a test sets, and a directory for a store.
struct Clock {
    library: String,
    directory: TempDir,
}

impl Clock {
    /// None where there is no faketime.
    fn new() -> Option<Self> {
        if !there_is("faketime") {
            return None;
        }
        let mut faketime = Command::new("faketime");
        faketime.args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]);
        let library = || {
            let output = faketime.output().expect("faketime runs");
            let library = String::from_utf8(output.stdout).expect("a path").trim().to_owned();
            if library.is_empty() {
                println!("faketime: {}", String::from_utf8_lossy(&output.stderr));
            }
            library
        };
        // It fails where one with the same process id was killed and has left what it shares.
        let mut tries = iter::repeat_with(library).take(TRIES);
        let library = tries.find(|library| !library.is_empty());
        let library = library.expect("faketime names its library");
        let clock = Self { library, directory: tempfile::tempdir().expect("a directory") };
        clock.set("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("clock")
    }

    /// Sets it against the system's, as faketime writes that: `-2d`.
    fn set(&self, offset: &str) {
        let fresh = self.directory.path().join("fresh");
        fs::write(&fresh, format!("{offset}\n")).expect("a file");
        fs::rename(fresh, self.file()).expect("it takes the place of the other");
    }

    /// Sets it, and waits until a program shows that.
    fn set_under(&self, offset: &str, connection: &mut Connection) {
        let date = |connection: &mut Connection| {
            let date = connection.get("/healthz").header("Date").map(str::to_owned);
            // The day and the hour.
            date.and_then(|date| date.get(..19).map(str::to_owned))
        };
        let before = date(connection);
        self.set(offset);
        wait_until("the clock is set", || date(connection) != before);
    }

    /// Starts the program under it.
    fn start(&self, arguments: &[&str]) -> Process {
        let mut program = command(&[&["--port", "0"], arguments].concat());
        program.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", self.file());
        program.env("FAKETIME_NO_CACHE", "1").env("NO_FAKE_STAT", "1");
        program.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_FLSHM", "0");
        Process::run(program)
    }

    fn start_durable(&self) -> Process {
        let store = self.directory.path().join("store");
        self.start(&["--working-dir", store.to_str().expect("a path of text")])
    }
}

fn stop(process: Process) {
    assert_eq!(process.stop().0, Some(0));
}

#[track_caller]
fn put(connection: &mut Connection, key: &str, ttl: &str) {
    assert_eq!(connection.put(&format!("/kv/{key}?ttl={ttl}"), b"value").status(), 200);
}

/// The seconds that a key has left, if it is there.
fn left(connection: &mut Connection, key: &str) -> Option<u64> {
    let answer = connection.get(&format!("/kv/{key}"));
    let seconds = answer.header("TTL").map(|ttl| ttl.parse().expect("a number of seconds"));
    (answer.status() == 200).then(|| seconds.expect("it expires"))
}

#[track_caller]
fn assert_an_hour_is_left(connection: &mut Connection, key: &str) {
    let left = left(connection, key);
    assert!(left.is_some_and(|left| (3000..=3600).contains(&left)), "{key}: {left:?} s");
}

#[track_caller]
fn wait_until_expired(connection: &mut Connection, key: &str) {
    wait_until(&format!("{key} expires"), || left(connection, key).is_none());
}

/// Sets the clock forward and back while a program runs.
fn set_while_it_runs(clock: &Clock, process: &Process) {
    let mut connection = process.connect();
    put(&mut connection, "before", "1h");
    for offset in ["+2d", "-2d", "-400d", "+0"] {
        put(&mut connection, "lock", "1s");
        clock.set_under(offset, &mut connection);
        assert_an_hour_is_left(&mut connection, "before");
        wait_until_expired(&mut connection, "lock");

        put(&mut connection, "lock", "1s");
        put(&mut connection, offset, "1h");
        assert_an_hour_is_left(&mut connection, offset);
        wait_until_expired(&mut connection, "lock");
    }
    for key in ["before", "+2d", "-2d", "-400d", "+0"] {
        assert_an_hour_is_left(&mut connection, key);
    }
}

#[test]
fn a_clock_that_is_set_changes_nothing_in_memory() {
    let Some(clock) = Clock::new() else { return };
    let process = clock.start(&[]);
    set_while_it_runs(&clock, &process);
    stop(process);
}

#[test]
fn a_clock_that_is_set_changes_nothing_on_disk_nor_after_the_next_start() {
    let Some(clock) = Clock::new() else { return };
    let process = clock.start_durable();
    set_while_it_runs(&clock, &process);
    stop(process);
    let process = clock.start_durable();
    let mut connection = process.connect();
    for key in ["before", "+2d", "-2d", "-400d", "+0"] {
        assert_an_hour_is_left(&mut connection, key);
    }
    stop(process);
}

#[test]
fn a_clock_that_was_wrong_at_the_start_and_put_right_since_changes_nothing() {
    let Some(clock) = Clock::new() else { return };
    for (wrong, is_killed) in [("-400d", false), ("+2d", false), ("-400d", true), ("+2d", true)] {
        clock.set(wrong);
        let process = clock.start_durable();
        let mut connection = process.connect();
        put(&mut connection, "before", "1h");
        clock.set_under("+0", &mut connection);
        put(&mut connection, "since", "1h");
        if is_killed {
            drop(process);
        } else {
            stop(process);
        }
        let process = clock.start_durable();
        let mut connection = process.connect();
        assert_an_hour_is_left(&mut connection, "before");
        assert_an_hour_is_left(&mut connection, "since");
        put(&mut connection, "lock", "1s");
        wait_until_expired(&mut connection, "lock");
        assert_eq!(connection.call("DELETE", "/clear").status(), 200);
        stop(process);
    }
}

#[test]
fn a_step_that_nothing_is_written_after_is_noted_too() {
    let Some(clock) = Clock::new() else { return };
    let process = clock.start_durable();
    let mut connection = process.connect();
    put(&mut connection, "key", "1h");
    clock.set_under("+2d", &mut connection);
    stop(process);
    let process = clock.start_durable();
    assert_an_hour_is_left(&mut process.connect(), "key");
    stop(process);
}

#[test]
fn time_that_a_store_is_down_passes_as_the_clock_says_and_never_backwards() {
    let Some(clock) = Clock::new() else { return };
    let process = clock.start_durable();
    let mut connection = process.connect();
    put(&mut connection, "hour", "1h");
    put(&mut connection, "day", "1d");
    stop(process);

    clock.set("-2d");
    let process = clock.start_durable();
    let mut connection = process.connect();
    assert_an_hour_is_left(&mut connection, "hour");
    put(&mut connection, "lock", "1s");
    wait_until_expired(&mut connection, "lock");
    stop(process);

    clock.set("-46h");
    let process = clock.start_durable();
    let mut connection = process.connect();
    assert_eq!(left(&mut connection, "hour"), None);
    let day = left(&mut connection, "day").expect("it is there");
    assert!((21 * 3600..=22 * 3600).contains(&day), "{day} s");
    stop(process);
}
