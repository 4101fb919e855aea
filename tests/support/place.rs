//! A directory for a durable store, and the real program on it.

use super::http::{Connection, Response};
use super::process::Process;
use super::wrappers::under_strace;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory for a store, and the program on it.
pub struct Place {
    /// Holds the store's directory, and what a test puts beside it.
    pub directory: TempDir,
}

impl Place {
    /// One with nothing in it.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// One that holds a store with the value `kept` under the key `kept`.
    pub fn with_a_store() -> Self {
        let place = Self::new();
        let process = place.start();
        acknowledged(&mut process.connect(), "kept", b"kept");
        ends_well(process);
        place
    }

    /// The store's directory.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// The flags for it.
    pub fn arguments(&self) -> [String; 2] {
        ["--working-dir".to_owned(), self.path().display().to_string()]
    }

    /// Starts the program on it.
    pub fn start(&self) -> Process {
        let arguments = self.arguments();
        Process::start(&arguments.each_ref().map(String::as_str))
    }

    /// Starts it with faults that strace is told of.
    pub fn start_under_strace(&self, options: &[&str]) -> Process {
        let arguments = self.arguments();
        Process::run(under_strace(options, &arguments.each_ref().map(String::as_str)))
    }

    /// Starts it with faults and no trace.
    pub fn start_with(&self, faults: &[&str]) -> Process {
        self.start_under_strace(&[&["-o", "/dev/null"], faults].concat())
    }
}

/// Copies a folder and all that is in it.
pub fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a readable folder");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Stores a value; panics unless that is acknowledged.
#[track_caller]
pub fn acknowledged(connection: &mut Connection, key: &str, value: &[u8]) {
    let answer = connection.put(&format!("/kv/{key}"), value);
    assert_eq!(answer.status(), 200, "{key}: {}", String::from_utf8_lossy(&answer.body));
}

/// The store holds that value.
#[track_caller]
pub fn holds(connection: &mut Connection, key: &str, value: &[u8]) {
    let answer = connection.get(&format!("/kv/{key}"));
    assert_eq!(answer.status(), 200, "{key}");
    assert!(answer.body == value, "{key}: {} bytes", answer.body.len());
}

/// The store holds that value, whole, or none.
#[track_caller]
pub fn holds_or_not(connection: &mut Connection, key: &str, value: &[u8]) {
    let answer = connection.get(&format!("/kv/{key}"));
    let is_whole = answer.status() == 200 && answer.body == value;
    assert!(is_whole || answer.status() == 404, "{key}: {answer:?}");
}

/// The position in the history: the birth, and the place.
#[track_caller]
pub fn revision(connection: &mut Connection) -> (String, String) {
    let answer = connection.get("/kv?limit=1");
    let revision = answer.header("Revision").expect("a list has a position");
    let (birth, place) = revision.split_once('-').expect("a birth and a place");
    (birth.to_owned(), place.to_owned())
}

/// An answer has that status and text.
#[track_caller]
pub fn says(answer: &Response, status: u16, text: &str) {
    assert_eq!((answer.status(), answer.text()), (status, text));
}

/// The program ends with 0 when it is asked to, and waits for nobody in vain.
#[track_caller]
pub fn ends_well(process: Process) {
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("left behind"), "{log}");
}
