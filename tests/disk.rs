//! The durable engine in the real program, on a disk that is slow or fails: an
//! answer of 200 means synced, and what was answered with 200 stays.

#![cfg(target_os = "linux")]

use crate::support::http::{Connection, put_head, wait_until};
use crate::support::place::{Place, acknowledged, ends_well, holds, holds_or_not, says};
use crate::support::process::Process;
use crate::support::threads::{Ended, Start};
use crate::support::wrappers::there_is;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SYNCS: &str = "fsync,fdatasync";

/// How many lines of a trace name a system call. Strace may be behind.
fn count(trace: &Path, call: &str) -> usize {
    let trace = fs::read_to_string(trace).expect("strace writes its trace");
    trace.lines().filter(|line| line.contains(call) && !line.contains("resumed>")).count()
}

/// Waits until the trace has grown no more for a while, and not because no thread
/// that would make it grow came to run; counts its lines.
fn settled(process: &Process, trace: &Path) -> usize {
    const RESTS: usize = 20;
    let (mut last, mut since, mut rests) = (count(trace, "sync("), Instant::now(), 0);
    wait_until("nothing more is synced", || {
        rests += usize::from(process.is_storage_at_rest());
        let now = count(trace, "sync(");
        if now != last {
            (last, since, rests) = (now, Instant::now(), 0);
        }
        rests >= RESTS && since.elapsed() > Duration::from_millis(300)
    });
    last
}

#[test]
fn a_lone_write_costs_one_sync() {
    if !there_is("strace") {
        return;
    }
    let place = Place::new();
    let trace = place.directory.path().join("trace");
    let options = ["-o", &trace.display().to_string(), "-e", &format!("trace={SYNCS}")];
    let process = place.start_under_strace(&options);
    let mut connection = process.connect();
    let before = settled(&process, &trace);
    for index in 0..10 {
        acknowledged(&mut connection, &format!("key{index}"), &vec![b'x'; 1 + index * 2000]);
    }
    for index in 0..5 {
        assert_eq!(connection.call("DELETE", &format!("/kv/key{index}")).status(), 200);
    }
    for index in 0..10 {
        connection.get(&format!("/kv/key{index}"));
    }
    assert_eq!(settled(&process, &trace) - before, 15);
}

#[test]
fn a_write_that_changes_nothing_costs_no_sync() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let trace = place.directory.path().join("trace");
    let options = ["-o", &trace.display().to_string(), "-e", &format!("trace={SYNCS}")];
    let process = place.start_under_strace(&options);
    let mut connection = process.connect();
    let before = settled(&process, &trace);
    for _ in 0..10 {
        let refused = connection.ask("PUT", "/kv/kept", &["If-None-Match: *"], b"x");
        says(&refused, 412, "precondition failed\n");
        assert_eq!(connection.call("POST", "/kv/kept?incr").status(), 409);
        says(&connection.call("DELETE", "/kv/absent?return"), 404, "key not found\n");
    }
    assert_eq!(settled(&process, &trace) - before, 0);
    assert_eq!(connection.call("DELETE", "/kv/kept?return").text(), "kept");
    assert_eq!(settled(&process, &trace) - before, 1);
}

#[test]
fn many_waiting_writers_share_a_sync_and_readers_do_not_wait() {
    const WRITERS: usize = 64;
    const DELAY: Duration = Duration::from_secs(1);
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let (trace, journal) = (place.directory.path().join("trace"), place.file("data/0.jnl"));
    let inject = format!("inject={SYNCS}:delay_enter={}", DELAY.as_micros());
    let (output, calls) = (trace.display().to_string(), format!("trace={SYNCS}"));
    let options = ["-o", &output, "-e", &calls, "-e", &inject, "-P", &journal];
    let process = place.start_under_strace(&options);
    let (before, addr) = (settled(&process, &trace), process.addr());
    let written = AtomicBool::new(false);
    let start = Start::new(WRITERS + 1);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let start = &start;
                scope.spawn(move || {
                    let mut connection = Connection::open(addr);
                    start.wait();
                    acknowledged(&mut connection, &writer.to_string(), b"value");
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut connection = Connection::open(addr);
            start.wait();
            let mut reads = 0;
            while !written.load(Ordering::Relaxed) {
                holds(&mut connection, "kept", b"kept");
                reads += 1;
            }
            reads
        });
        {
            let _written = Ended(&written);
            for writer in writers {
                writer.join().expect("every write is acknowledged");
            }
        }
        let reads = reader.join().expect("every read is answered");
        let syncs = settled(&process, &trace) - before;
        println!("{syncs} syncs for {WRITERS} writes and {reads} reads");
        assert!(syncs < WRITERS / 4, "{syncs} syncs for {WRITERS} writes");
        // One that waits for a sync would be the only one during that.
        assert!(reads > 2 * (syncs + 1), "{reads} reads during {syncs} syncs");
    });
}

#[test]
fn increments_of_one_number_share_a_sync() {
    const CLIENTS: usize = 50;
    const EACH: usize = 4;
    // Long enough that all clients come to wait for it, on a busy machine too.
    const DELAY: Duration = Duration::from_secs(1);
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let (trace, journal) = (place.directory.path().join("trace"), place.file("data/0.jnl"));
    let inject = format!("inject={SYNCS}:delay_enter={}", DELAY.as_micros());
    let (output, calls) = (trace.display().to_string(), format!("trace={SYNCS}"));
    let options = ["-o", &output, "-e", &calls, "-e", &inject, "-P", &journal];
    let process = place.start_under_strace(&options);
    let (before, addr) = (settled(&process, &trace), process.addr());
    let start = Start::new(CLIENTS);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = Connection::open(addr);
                start.wait();
                for _ in 0..EACH {
                    assert_eq!(connection.call("POST", "/kv/number?incr").status(), 200);
                }
            });
        }
    });
    let syncs = settled(&process, &trace) - before;
    println!("{syncs} syncs for {} increments", CLIENTS * EACH);
    holds(&mut process.connect(), "number", (CLIENTS * EACH).to_string().as_bytes());
    assert!(syncs < CLIENTS * EACH / 5, "{syncs} syncs for {} increments", CLIENTS * EACH);
}

#[test]
fn nothing_is_seen_before_it_is_synced() {
    const DELAY: Duration = Duration::from_millis(100);
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let inject = format!("inject={SYNCS}:delay_enter={}", DELAY.as_micros());
    let process = place.start_with(&["-e", &format!("trace={SYNCS}"), "-e", &inject]);
    let mut reader = process.connect();
    let delete = |target| format!("DELETE {target} HTTP/1.1\r\nHost: test\r\n\r\n");
    let writes = [
        (put_head("/kv/kept", 3) + "new", 200, "new"),
        (delete("/kv/kept"), 404, "key not found\n"),
        (put_head("/kv/kept", 5) + "again", 200, "again"),
        (delete("/clear"), 404, "key not found\n"),
    ];
    for (request, status, text) in writes {
        let mut connection = process.connect();
        let sent = Instant::now();
        connection.send(&request);
        wait_until("the write is seen", || {
            let answer = reader.get("/kv/kept");
            (answer.status(), answer.text()) == (status, text)
        });
        assert!(sent.elapsed() >= DELAY, "{request:?} is seen after {:?}", sent.elapsed());
        assert_eq!(connection.response().status(), 200, "{request:?}");
    }
}

/// If power is lost, any part of what was not synced may be missing. Of two
/// batches the first may be then, and the store takes that for damage.
#[test]
fn each_batch_is_synced_before_the_next_is_begun() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let (trace, journal) = (place.directory.path().join("trace"), place.file("data/0.jnl"));
    let calls = format!("trace=write,{SYNCS}");
    let options = ["-s", "4", "-o", &trace.display().to_string(), "-e", &calls, "-P", &journal];
    let process = place.start_under_strace(&options);
    let mut connection = process.connect();
    // What a batch begins with.
    let begun = || count(&trace, r#", "\1"#);
    let before = begun();
    let mut stored = 0;
    for index in 0..20 {
        assert_eq!(connection.put(&format!("/kv/{index}?ttl=300ms"), b"brief").status(), 200);
        stored += 1;
    }
    wait_until("what has expired is swept", || {
        acknowledged(&mut connection, "kept", b"again");
        stored += 1;
        begun() - before > stored
    });
    acknowledged(&mut connection, "kept", b"at last");

    let trace = fs::read_to_string(&trace).expect("strace writes its trace");
    let mut is_synced = true;
    for line in trace.lines().filter(|line| !line.contains("resumed>")) {
        assert!(is_synced || !line.contains(r#", "\1"#), "{trace}");
        is_synced = line.contains("sync(") || is_synced && !line.contains("write(");
    }
}

/// A process that was killed may have written what it had not synced. Once
/// readers are shown it, it has to last.
#[test]
fn what_the_journal_holds_is_synced_before_it_is_seen() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    // The first start of a store has more to do than any other.
    ends_well(place.start());
    let trace = place.directory.path().join("trace");
    let options = ["-y", "-o", &trace.display().to_string(), "-e", &format!("trace={SYNCS}")];
    let process = place.start_under_strace(&options);
    settled(&process, &trace);
    assert!(count(&trace, "0.jnl>") > 0, "the journal is not synced");
    holds(&mut process.connect(), "kept", b"kept");
}

#[test]
fn clears_leave_no_files() {
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    for _ in 0..30 {
        acknowledged(&mut connection, "one", b"1");
        assert_eq!(connection.call("DELETE", "/clear").status(), 200);
    }
    let files = || {
        let folders = ["data/keyspaces", "data/keyspaces/0", "data/keyspaces/0/tables"];
        let entries = folders.map(|folder| fs::read_dir(place.path().join(folder)));
        entries.into_iter().map(|entries| entries.expect("a folder").count()).sum::<usize>()
    };
    wait_until("they are removed", || files() < 30);
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

/// A file that was synced is lost with its name, and that is the folder's.
#[test]
fn the_folders_of_new_files_are_synced() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let trace = place.directory.path().join("trace");
    let options = ["-y", "-o", &trace.display().to_string(), "-e", &format!("trace={SYNCS}")];
    let process = place.start_under_strace(&options);
    settled(&process, &trace);
    let folders = ["keyspaces/1/blobs>", "keyspaces/1/tables>", "keyspaces/1>"];
    let before = folders.map(|folder| count(&trace, folder));
    let mut connection = process.connect();
    for index in 0..17 {
        acknowledged(&mut connection, &index.to_string(), &vec![b'x'; 1 << 20]);
    }
    for (folder, before) in folders.into_iter().zip(before) {
        wait_until(&format!("{folder} is synced"), || count(&trace, folder) > before);
    }
}

/// What a failing disk does to the third write of the committer, and to the
/// journal alone, so that the store itself opens.
fn third_write_fails(fault: &str, only_on_the_journal: bool, first: (u16, &str), outage: &str) {
    let place = Place::with_a_store();
    let call = fault.split_once(':').expect("a call and its fault").0;
    let (trace, inject) = (format!("trace={call}"), format!("inject={fault}"));
    let journal = place.file("data/0.jnl");
    let mut options = vec!["-e", &trace, "-e", &inject];
    if only_on_the_journal {
        options.extend(["-P", &journal]);
    }
    let process = place.start_with(&options);
    let mut connection = process.connect();
    says(&connection.get("/healthz"), 200, "ok\n");
    acknowledged(&mut connection, "one", b"1");
    acknowledged(&mut connection, "kept", b"changed");
    says(&connection.put("/kv/three", b"3"), first.0, first.1);

    let refusal = format!("storage takes no writes: {outage}\n");
    for index in 0..5 {
        says(&connection.put(&format!("/kv/later{index}"), b"4"), 503, &refusal);
    }
    says(&connection.put("/kv/kept", b"later"), 503, &refusal);
    says(&connection.call("DELETE", "/kv/one"), 503, &refusal);
    says(&connection.call("DELETE", "/clear"), 503, &refusal);
    says(&connection.get("/healthz"), 503, &refusal);
    says(&connection.get("/readyz"), 503, &refusal);
    let lines = format!("[-]storage failed: {outage}\n[+]shutdown ok\nreadyz check failed\n");
    says(&connection.get("/readyz?verbose"), 503, &lines);
    says(&connection.get("/livez"), 200, "ok\n");
    process.wait_for_log("ERROR");
    for _ in 0..2 {
        holds(&mut connection, "one", b"1");
        holds(&mut connection, "kept", b"changed");
        says(&connection.get("/kv/three"), 404, "key not found\n");
        connection = process.connect();
    }
    let (code, log) = process.stop();
    assert_eq!(code, Some(1), "{fault}: {log}");
    let last = log.lines().last().expect("it says why");
    assert!(last.contains("cannot close the storage") && last.contains("may be lost"), "{log}");

    let process = place.start();
    let mut connection = process.connect();
    says(&connection.get("/healthz"), 200, "ok\n");
    holds(&mut connection, "one", b"1");
    holds(&mut connection, "kept", b"changed");
    holds_or_not(&mut connection, "three", b"3");
    says(&connection.get("/kv/later0"), 404, "key not found\n");
    acknowledged(&mut connection, "three", b"at last");
    ends_well(process);
}

const FAILED: (u16, &str) = (503, "storage takes no writes: the disk has failed\n");
const FULL: (u16, &str) = (507, "storage is full\n");

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    if !there_is("strace") {
        return;
    }
    // Once, and from then on: a sync that succeeds after one that failed
    // proves nothing.
    third_write_fails("fdatasync:error=EIO:when=3", false, FAILED, "the disk has failed");
    third_write_fails("fdatasync:error=EIO:when=3+", false, FAILED, "the disk has failed");
    third_write_fails("fdatasync:error=ENOSPC:when=3", false, FULL, "the disk is full");
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged() {
    if !there_is("strace") {
        return;
    }
    third_write_fails("write:error=EIO:when=3", true, FAILED, "the disk has failed");
    third_write_fails("write:error=EIO:when=3+", true, FAILED, "the disk has failed");
    third_write_fails("write:error=ENOSPC:when=3+", true, FULL, "the disk is full");
    third_write_fails("write:error=EDQUOT:when=3+", true, FULL, "the disk is full");
}

#[test]
fn after_a_failure_in_the_background_nothing_is_acknowledged() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let tables = place.file("data/keyspaces/1/tables");
    let inject = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "-P", &tables];
    let process = place.start_with(&inject);
    let mut connection = process.connect();
    let value = vec![b'x'; 1 << 20];
    let mut stored = 0;
    // Enough for several memtables.
    while stored < 150 && connection.put(&format!("/kv/{stored}"), &value).status() == 200 {
        stored += 1;
    }
    assert!((16..150).contains(&stored), "{stored} values");
    let refusal = "storage takes no writes: the disk has failed\n";
    says(&connection.get("/healthz"), 503, refusal);
    says(&connection.put("/kv/more", b"x"), 503, refusal);
    for index in 0..stored {
        holds(&mut connection, &index.to_string(), &value);
    }
    let (code, log) = process.stop();
    assert_eq!(code, Some(1), "{log}");

    let process = place.start();
    let mut connection = process.connect();
    for index in 0..stored {
        holds(&mut connection, &index.to_string(), &value);
    }
    acknowledged(&mut connection, "more", b"x");
    ends_well(process);
}

/// It is noticed without a write.
#[test]
fn a_failure_in_the_background_shows_while_nobody_writes() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let tables = place.file("data/keyspaces/1/tables");
    let inject = "inject=fsync:error=EIO";
    let process = place.start_with(&["-e", "trace=fsync", "-e", inject, "-P", &tables]);
    let mut connection = process.connect();
    // The last one fills the memtable.
    for index in 0..16 {
        acknowledged(&mut connection, &index.to_string(), &vec![b'x'; 1 << 20]);
    }
    wait_until("it shows", || connection.get("/healthz").status() == 503);
}
