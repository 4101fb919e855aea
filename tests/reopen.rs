//! The durable engine in the real program, where a thread of its database fails
//! and the journal does not: it takes writes again without a restart, nothing
//! that was acknowledged is lost, and readers notice nothing.

#![cfg(target_os = "linux")]

use crate::support::http::{Connection, get_head, wait_within};
use crate::support::place::{Place, acknowledged, ends_well, holds, revision, says};
use crate::support::process::Process;
use crate::support::threads::Ended;
use crate::support::wrappers::{attach, there_is};
use std::fs;
use std::iter;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const REFUSAL: &str = "storage takes no writes: the disk has failed\n";
const FAILURE: &str = "the database has failed";
const RECOVERY: &str = "the database was opened anew";

/// Between two tries to open a database are up to five seconds, and each may
/// take some on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// The values that fill the memtables.
const VALUES: usize = 17;

#[track_caller]
fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// The files of the tree in a folder `data`, and none of the journal.
fn files_of_the_tree(data: &str) -> Vec<String> {
    let mut options = Vec::new();
    for keyspace in 1..=4 {
        for folder in ["tables", "blobs"] {
            let folder = format!("{data}/keyspaces/{keyspace}/{folder}");
            let files = (0..40).map(|number| format!("{folder}/{number}"));
            for path in iter::once(folder.clone()).chain(files) {
                options.extend(["-P".to_owned(), path]);
            }
        }
    }
    options
}

/// By what name a program opens the files in its folder `data`: that of the
/// descriptor by which it holds the folder.
fn held_name(place: &Place, process: &Process) -> String {
    let data = place.path().join("data");
    let list = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    let mut descriptors = list.map(|entry| entry.expect("it runs"));
    let held = descriptors.find(|entry| fs::read_link(entry.path()).is_ok_and(|it| it == data));
    let number = held.expect("it holds its folder").file_name();
    format!("/proc/self/fd/{}", number.display())
}

/// A program of which every thread fails once, as it first writes to a file of
/// the tree. Each database has new threads, so each fails.
fn start_with_failing_threads(place: &Place) -> Process {
    let files = files_of_the_tree(&place.file("data"));
    let faults = ["-e", "trace=write", "-e", "inject=write:error=EIO:when=1"];
    place.start_with(&[&faults[..], &files.iter().map(String::as_str).collect::<Vec<_>>()].concat())
}

/// What goes wrong for a while.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// No file can be opened.
    NoDescriptor,
    /// There is something else in the place of a folder.
    NoFolder,
    /// A system call for a file of the tree fails.
    Call(&'static str),
    /// One for the journal does.
    Journal(&'static str),
}

impl Fault {
    /// Begins; gives how to end it.
    fn begin(self, place: &Place, process: &Process) -> Box<dyn FnOnce()> {
        let pid = process.id().to_string();
        match self {
            Self::NoDescriptor => {
                let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
                let line = limits.lines().find(|line| line.starts_with("Max open files"));
                let before = line.expect("a limit").split_whitespace().nth(3).map(str::to_owned);
                let limit = move |files: &str| {
                    let mut prlimit = Command::new("prlimit");
                    prlimit.args(["--pid", &pid, &format!("--nofile={files}:")]);
                    assert!(prlimit.status().expect("prlimit runs").success());
                };
                limit("3");
                Box::new(move || limit(&before.expect("a number")))
            }
            Self::NoFolder => {
                let folder = place.path().join("data/keyspaces/1/blobs");
                let aside = place.directory.path().join("aside");
                fs::rename(&folder, &aside).expect("it is ours");
                fs::write(&folder, "").expect("it is ours");
                Box::new(move || {
                    fs::remove_file(&folder).expect("it is ours");
                    fs::rename(aside, folder).expect("it is ours");
                })
            }
            Self::Call(fault) => {
                // Open files are known by their own names.
                let names = [place.file("data"), held_name(place, process)];
                let files = names.map(|data| files_of_the_tree(&data)).concat();
                let attached = attach(process, fault, &files);
                Box::new(move || drop(attached))
            }
            Self::Journal(fault) => {
                let journal = ["-P".to_owned(), place.file("data/0.jnl")];
                let attached = attach(process, fault, &journal);
                Box::new(move || drop(attached))
            }
        }
    }
}

fn value(index: usize) -> Vec<u8> {
    let rest = vec![b'x'; (1 << 20) - size_of::<usize>()];
    [&index.to_be_bytes()[..], &rest].concat()
}

/// Stores values, each until it is acknowledged, and counts the refusals.
fn store_all(connection: &mut Connection, indexes: std::ops::Range<usize>) -> usize {
    let mut refusals = 0;
    for index in indexes {
        let mut is_stored = false;
        wait_until("it is stored", || {
            let answer = connection.put(&format!("/kv/{index}"), &value(index));
            is_stored = answer.status() == 200;
            if !is_stored {
                says(&answer, 503, REFUSAL);
                refusals += 1;
            }
            is_stored
        });
    }
    refusals
}

/// Stores values from one on, until the database was opened anew so often; gives the first
/// that was not stored.
#[track_caller]
fn store_until_reopened(
    process: &Process,
    connection: &mut Connection,
    mut next: usize,
    times: usize,
) -> usize {
    let bound = PATIENCE.saturating_mul(3);
    wait_within(bound, "the database was opened anew", || {
        let is_over = count(process, RECOVERY) >= times;
        if !is_over {
            store_all(connection, next..next + 1);
            next += 1;
        }
        is_over
    });
    next
}

#[track_caller]
fn holds_all(connection: &mut Connection, indexes: std::ops::Range<usize>) {
    for index in indexes {
        holds(connection, &index.to_string(), &value(index));
    }
    holds(connection, "kept", b"kept");
}

fn count(process: &Process, line: &str) -> usize {
    process.log().matches(line).count()
}

/// A fault that passes ends no store.
fn passes(fault: Fault) {
    if !there_is("strace") || !there_is("prlimit") {
        return;
    }
    println!("{fault:?}");
    let place = Place::with_a_store();
    let [flag, path] = place.arguments();
    let process = Process::start(&[&flag, &path, "--log-level", "debug"]);
    let mut connection = process.connect();
    let mut reader = process.connect();
    store_all(&mut connection, 0..VALUES - 3);
    let end = fault.begin(&place, &process);
    let mut stored = VALUES - 3;
    wait_until("a write is refused", || {
        let answer = connection.put(&format!("/kv/{stored}"), &value(stored));
        let is_stored = answer.status() == 200;
        stored += usize::from(is_stored);
        if !is_stored {
            says(&answer, 503, REFUSAL);
        }
        !is_stored
    });
    wait_until("it was tried several times", || {
        says(&connection.put("/kv/more", b"more"), 503, REFUSAL);
        says(&connection.get("/healthz"), 503, REFUSAL);
        holds_all(&mut reader, 0..stored);
        count(&process, "cannot be opened anew yet") >= 3
    });
    assert_eq!(count(&process, RECOVERY), 0, "{}", process.log());
    end();
    wait_until("it is opened anew", || connection.get("/healthz").status() == 200);
    says(&connection.get("/kv/more"), 404, "key not found\n");
    holds_all(&mut connection, 0..stored);
    // From now on values are flushed as well.
    assert_eq!(store_all(&mut connection, stored..3 * VALUES), 0, "{}", process.log());
    holds_all(&mut connection, 0..3 * VALUES);
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!([FAILURE, RECOVERY].map(|line| log.matches(line).count()), [1, 1], "{log}");

    let process = place.start();
    holds_all(&mut process.connect(), 0..3 * VALUES);
    ends_well(process);
}

#[test]
fn a_flush_that_finds_no_descriptor_ends_no_store() {
    passes(Fault::NoDescriptor);
}

#[test]
fn a_flush_that_can_make_no_file_ends_no_store() {
    passes(Fault::NoFolder);
}

#[test]
fn a_file_that_cannot_be_written_for_a_while_ends_no_store() {
    passes(Fault::Call("write:error=EIO"));
    passes(Fault::Call("fsync:error=EIO"));
    passes(Fault::Call("openat:error=EMFILE"));
}

#[test]
fn readers_are_served_while_the_database_is_opened_anew() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = start_with_failing_threads(&place);
    let addr = process.addr();
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ended(&has_ended);
        let mut connection = process.connect();
        store_all(&mut connection, 0..1);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut connection = Connection::open(addr);
                while !has_ended.load(Ordering::Relaxed) {
                    holds(&mut connection, "kept", b"kept");
                    holds(&mut connection, "0", &value(0));
                    says(&connection.get("/kv/absent"), 404, "key not found\n");
                }
            });
        }
        let stored = store_until_reopened(&process, &mut connection, 1, 3);
        holds_all(&mut connection, 0..stored);
    });
    process.signal("KILL");
    process.end();
}

/// What it reads from is closed, so it breaks off.
#[test]
fn a_list_that_nobody_takes_does_not_keep_the_database_from_being_opened_anew() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = start_with_failing_threads(&place);
    let mut connection = process.connect();
    store_all(&mut connection, 0..VALUES / 2);
    let mut list = process.connect();
    list.send(get_head("/kv?values"));
    assert_eq!(list.try_head().expect("a head").status(), 200);
    let mut stored = VALUES / 2;
    wait_until("it is opened anew", || {
        store_all(&mut connection, stored..stored + 1);
        stored += 1;
        count(&process, RECOVERY) > 0
    });
    let body = list.rest().expect("an orderly end");
    assert!(!body.ends_with(b"\r\n0\r\n\r\n"), "that looks like the end of the list");
    holds_all(&mut connection, 0..stored);
    process.signal("KILL");
    process.end();
}

#[test]
fn what_was_acknowledged_survives_a_kill_after_the_database_was_opened_anew() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let mut stored = 0;
    for _ in 0..3 {
        let process = start_with_failing_threads(&place);
        let mut connection = process.connect();
        let told = revision(&mut connection);
        stored = store_until_reopened(&process, &mut connection, stored, 1);
        // In the new journal, and not flushed yet.
        store_all(&mut connection, stored..stored + 2);
        stored += 2;
        let told_anew = revision(&mut connection);
        assert_ne!(told_anew.0, told.0);
        process.signal("KILL");
        process.end();
        let process = place.start();
        holds_all(&mut process.connect(), 0..stored);
        assert_eq!(revision(&mut process.connect()), told_anew);
        ends_well(process);
    }
}

/// Increments a number of its own; gives the last that it was told.
fn count_up(addr: SocketAddr, client: usize, has_ended: &AtomicBool) -> u64 {
    let mut connection = Connection::open(addr);
    let mut last = 0;
    while !has_ended.load(Ordering::Relaxed) {
        let answer = connection.call("POST", &format!("/kv/number{client}?incr"));
        if answer.status() == 200 {
            let number = answer.text().trim_end().parse().expect("a number");
            assert!(number > last, "{number} after {last}");
            last = number;
        } else {
            says(&answer, 503, REFUSAL);
        }
    }
    last
}

#[test]
fn no_acknowledged_increment_is_lost_over_many_failures() {
    const CLIENTS: usize = 8;
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = start_with_failing_threads(&place);
    let addr = process.addr();
    let has_ended = AtomicBool::new(false);
    let told: Vec<u64> = thread::scope(|scope| {
        let has_ended = &has_ended;
        let ends = Ended(has_ended);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || count_up(addr, client, has_ended)))
            .collect();
        let mut connection = process.connect();
        store_until_reopened(&process, &mut connection, 0, 3);
        drop(ends);
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    });
    process.signal("KILL");
    process.end();

    let process = place.start();
    let mut connection = process.connect();
    for (client, told) in told.into_iter().enumerate() {
        let number = connection.get(&format!("/kv/number{client}"));
        let number: u64 = number.text().parse().expect("a number");
        assert!(told <= number, "{number} where {told} was acknowledged");
    }
    ends_well(process);
}

/// Nobody needs to write for it.
#[test]
fn the_database_is_opened_anew_while_nobody_writes() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    // The one after these fills the memtables, and none before: names
    // of files would still have to be synced.
    assert_eq!(store_all(&mut connection, 0..VALUES - 2), 0);
    // Slow enough that the last write is acknowledged before it.
    let fault = Fault::Call("fsync:error=EIO:delay_enter=3000000");
    let end = fault.begin(&place, &process);
    acknowledged(&mut connection, "last", &value(0));
    wait_until("it fails", || connection.get("/healthz").status() == 503);
    let metrics = connection.get("/metrics");
    assert!(metrics.text().contains("\nlkv_storage_read_only{reason=\"disk_failed\"} 1\n"));
    assert!(metrics.text().contains("\nlkv_reopens_total 0\n"));
    end();
    wait_until("it is opened anew", || connection.get("/healthz").status() == 200);
    assert!(connection.get("/metrics").text().contains("\nlkv_reopens_total 1\n"));
    holds_all(&mut connection, 0..VALUES - 2);
    holds(&mut connection, "last", &value(0));
    acknowledged(&mut connection, "more", b"more");
    ends_well(process);
}

/// Threads of the database sync the journal too, and it does not tell which
/// file it has failed in.
#[test]
fn a_failed_sync_of_the_journal_is_final_whoever_it_meets() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    assert_eq!(store_all(&mut connection, 0..VALUES - 1), 0);
    let end = Fault::Journal("fsync:error=EIO").begin(&place, &process);
    let mut stored = VALUES - 1;
    while connection.put(&format!("/kv/{stored}"), &value(stored)).status() == 200 {
        stored += 1;
    }
    let is_final = || process.log().contains("nothing more is written before the next start");
    wait_until("it is final", is_final);
    end();
    let log = refuses_until_the_next_start(&place, process, stored);
    assert!(!log.contains(RECOVERY), "{log}");
}

/// A store that has failed for good takes no write, though what failed it is
/// over, keeps the first values, and ends with 1; the next start is well. Gives
/// its log.
#[track_caller]
fn refuses_until_the_next_start(place: &Place, process: Process, stored: usize) -> String {
    let mut connection = process.connect();
    for _ in 0..5 {
        says(&connection.put("/kv/more", b"more"), 503, REFUSAL);
        says(&connection.get("/healthz"), 503, REFUSAL);
        holds_all(&mut connection, 0..stored);
    }
    let (code, log) = process.stop();
    assert_eq!(code, Some(1), "{log}");
    let process = place.start();
    holds_all(&mut process.connect(), 0..stored);
    ends_well(process);
    log
}

#[test]
fn a_clear_that_finds_no_descriptor_ends_no_store() {
    if !there_is("prlimit") {
        return;
    }
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    // The server knows the connection then.
    holds(&mut connection, "kept", b"kept");
    let told = revision(&mut connection);
    let end = Fault::NoDescriptor.begin(&place, &process);
    says(&connection.call("DELETE", "/clear"), 503, REFUSAL);
    holds(&mut connection, "kept", b"kept");
    assert_eq!(revision(&mut connection), told);
    end();
    wait_until("it is opened anew", || connection.get("/healthz").status() == 200);
    holds(&mut connection, "kept", b"kept");
    // Nobody knows here that nothing was cleared.
    let told_anew = revision(&mut connection);
    assert_ne!(told_anew.0, told.0);
    assert_eq!(connection.call("DELETE", "/clear").status(), 200);
    says(&connection.get("/kv/kept"), 404, "key not found\n");
    acknowledged(&mut connection, "kept", b"kept");
    let told = revision(&mut connection);
    assert_ne!(told.0, told_anew.0);
    ends_well(process);
    let process = place.start();
    holds_all(&mut process.connect(), 0..0);
    assert_eq!(revision(&mut process.connect()), told);
}

/// The values in files of these names may be in no journal any more.
#[test]
fn a_failed_sync_of_the_names_of_files_is_final() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    let names = ["-P".to_owned(), place.file("data/keyspaces/1/blobs")];
    let fault = attach(&process, "fsync:error=EIO", &names);
    let mut stored = 0;
    while connection.put(&format!("/kv/{stored}"), &value(stored)).status() == 200 {
        stored += 1;
    }
    process.wait_for_log("nothing more is written before the next start");
    drop(fault);
    let log = refuses_until_the_next_start(&place, process, stored);
    assert!(!log.contains(FAILURE), "{log}");
}

#[test]
fn a_database_whose_directory_is_moved_is_not_opened_anew() {
    if !there_is("prlimit") {
        return;
    }
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    // The server knows the connection then.
    holds(&mut connection, "kept", b"kept");
    let end = Fault::NoDescriptor.begin(&place, &process);
    says(&connection.call("DELETE", "/clear"), 503, REFUSAL);
    let aside = place.directory.path().join("aside");
    fs::rename(place.path(), &aside).expect("it is ours");
    end();
    process.wait_for_log("was moved or removed, so nothing more is written");
    fs::rename(aside, place.path()).expect("it is ours");
    let lost = "storage takes no writes: its directory was moved or removed\n";
    says(&connection.put("/kv/more", b"more"), 503, lost);
    holds(&mut connection, "kept", b"kept");
    let (code, log) = process.stop();
    assert_eq!((code, log.contains(RECOVERY)), (Some(1), false), "{log}");
    ends_well(place.start());
}
