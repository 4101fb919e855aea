//! The probes of the real program while its disk hangs and while it stops: they wait for
//! nobody, and say what is so.

#![cfg(target_os = "linux")]

use crate::support::http::{PATIENCE, get_head, put_head, wait_until, wait_within};
use crate::support::place::{Place, says};
use crate::support::process::Process;
use crate::support::wrappers::{attach, there_is};
use std::fs;

/// Whoever is told by a probe was taken before the end: nobody else is heard then.
#[track_caller]
fn says_that_it_stops(process: Process) {
    let mut connection = process.connect();
    let probes = ["/readyz", "/readyz?verbose", "/livez", "/healthz"];
    let heads = probes.map(get_head).concat();
    connection.send(get_head("/kv/absent?wait=10m") + &heads);
    wait_until("all was taken", || process.has_taken_everything());
    process.signal("TERM");
    says(&connection.response(), 404, "key not found\n");
    let plain = connection.response();
    says(&plain, 503, "the server is stopping\n");
    assert_eq!(plain.header("Retry-After"), Some("1"));
    let lines = "[+]storage ok\n[-]shutdown failed: the server is stopping\nreadyz check failed\n";
    says(&connection.response(), 503, lines);
    says(&connection.response(), 200, "ok\n");
    says(&connection.response(), 200, "ok\n");
    connection.expect_closed();
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_server_that_stops_is_alive_and_not_ready() {
    says_that_it_stops(Process::start(&[]));
    says_that_it_stops(Place::new().start());
}

/// Whether a thread of a process is in a sync.
fn syncs(process: &Process) -> bool {
    let call = format!("{} ", libc::SYS_fdatasync);
    let mut tasks = process.tasks();
    tasks.any(|task| {
        // A thread may have ended meanwhile.
        fs::read_to_string(task.join("syscall")).is_ok_and(|now| now.starts_with(&call))
    })
}

#[test]
fn a_disk_that_hangs_holds_up_no_probe() {
    if !there_is("strace") {
        return;
    }
    let process = Place::new().start();
    // Longer than an answer is waited for.
    let fault = format!("fdatasync:delay_enter={}", (8 * PATIENCE).as_micros());
    let hang = attach(&process, &fault, &[]);
    let mut writers: Vec<_> = (0..20).map(|_| process.connect()).collect();
    for writer in &mut writers {
        writer.send(put_head("/kv/key", 5) + "value");
    }
    wait_within(4 * PATIENCE, "a write hangs", || syncs(&process));
    for _ in 0..20 {
        let mut fresh = process.connect();
        for target in ["/livez", "/readyz", "/healthz"] {
            says(&fresh.get(target), 200, "ok\n");
        }
        let told = "[+]storage ok\n[+]shutdown ok\nreadyz check passed\n";
        says(&fresh.get("/readyz?verbose"), 200, told);
    }
    assert!(syncs(&process));
    // The process does not end before it, which holds a thread of it.
    drop(hang);
}
