//! `--port-file`: a file that tells where the store listens, for as long as it does.

#![cfg(unix)]

use crate::support::process::{Process, command, output};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries.map(|entry| entry.file_name().into_string().expect("text")).collect()
}

#[test]
fn it_has_the_port_and_is_gone_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("port");
    for signal in ["TERM", "INT", "HUP"] {
        // One that a killed store has left.
        fs::write(&file, "1\n").expect("a file");
        let process = Process::start(&["--port-file", text(&file)]);
        let port = process.addr().port();
        assert_eq!(fs::read_to_string(&file).expect("it is there"), format!("{port}\n"));
        assert_eq!(names(directory.path()), ["port"]);
        process.signal(signal);
        process.end();
        assert_eq!(names(directory.path()), [""; 0], "SIG{signal}");
    }
}

#[test]
fn others_may_read_it_as_far_as_the_umask_lets_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("port");
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        let script = format!("umask {umask} && exec \"$@\"");
        let wrapper = ["sh", "-c", &script, "sh"];
        let arguments = ["--port-file", text(&file)];
        let process = Process::run(crate::support::wrappers::under(&wrapper, None, &arguments));
        let found = fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(found & 0o777, mode, "{umask}");
        assert_eq!(process.stop().0, Some(0));
    }
}

#[test]
fn one_that_another_has_put_there_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("port");
    let first = Process::start(&["--port-file", text(&file)]);
    let second = Process::start(&["--port-file", text(&file)]);
    assert_eq!(first.stop().0, Some(0));
    let port = second.addr().port();
    assert_eq!(fs::read_to_string(&file).expect("it is there"), format!("{port}\n"));
    fs::remove_file(&file).expect("it is there");
    let (code, log) = second.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("port file"), "{log}");
}

#[test]
fn one_that_cannot_be_written_is_one_line_and_1_before_anything_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let absent = directory.path().join("absent/port");
    let working_dir = directory.path().join("store");
    for path in [text(directory.path()), text(&absent), "/proc/port", "/dev/null/port"] {
        let arguments = ["--port", "0", "--working-dir", text(&working_dir), "--port-file", path];
        let output = output(command(&arguments));
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
        assert_eq!(output.status.code(), Some(1), "{path}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(&format!("port file {path}: ")), "{stderr}");
        assert!(!stdout.contains("http://"), "{stdout}");
        assert_eq!(names(directory.path()), [""; 0], "{path}");
    }
}

#[test]
fn a_device_a_pipe_or_a_link_in_its_place_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let [file, link, socket] = ["file", "link", "socket"].map(|name| directory.path().join(name));
    fs::write(&file, "1\n").expect("a file");
    symlink(&file, &link).expect("a link");
    drop(UnixListener::bind(&socket).expect("a socket"));
    for path in [&link, &socket] {
        let before = fs::symlink_metadata(path).expect("it is there").file_type();
        let output = output(command(&["--port", "0", "--port-file", text(path)]));
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let complaint = format!("port file {}: what is there is no plain file\n", path.display());
        assert!(stderr.ends_with(&complaint), "{stderr}");
        assert_eq!(fs::symlink_metadata(path).expect("it is there").file_type(), before);
        assert_eq!(names(directory.path()).len(), 3);
    }
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "1\n");
}

#[test]
fn one_in_this_directory_needs_no_slash() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut program = command(&["--port", "0"]);
    program.current_dir(directory.path()).env("LKV_PORT_FILE", "port");
    let process = Process::run(program);
    assert_eq!(names(directory.path()), ["port"]);
    assert_eq!(process.stop().0, Some(0));
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_start_that_fails_leaves_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("port");
    let other = Process::start(&[]);
    let port = other.addr().port().to_string();
    let output = output(command(&["--port", &port, "--port-file", text(&file)]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(names(directory.path()), [""; 0]);
}
