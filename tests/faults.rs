//! Faults of the system under the real program: accepting fails, descriptors
//! or threads run out. It never ends, it keeps its data, and it serves again
//! soon after the cause is gone.

#![cfg(target_os = "linux")]

use crate::support::http::{Connection, PATIENCE, get_head};
use crate::support::place::Place;
use crate::support::process::{Process, command};
use crate::support::wrappers::{is_root, there_is, under, under_strace};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The value that every fault has to leave as it is.
const VALUE: &[u8] = b"Nairobi";

/// How soon a new connection is served once a fault is over. The promise is
/// two seconds; more is for machines that do much else.
const SOON: Duration = PATIENCE;

fn store_the_value(process: &Process) {
    assert_eq!(process.connect().put("/kv/kenya:capital", VALUE).status(), 200);
}

/// Asks on new connections until one is given the value, and says how long
/// that took. Panics past `bound`, and at once if nothing listens.
#[track_caller]
fn served_again(process: &mut Process, what: &str, bound: Duration) -> Duration {
    let start = Instant::now();
    loop {
        assert!(process.runs(), "{what}: it has ended: {}", process.log());
        let mut connection = process.connect().with_patience(bound);
        let sent = connection.try_send(get_head("/kv/kenya:capital"));
        let answer = sent.and_then(|()| connection.try_response_to("GET"));
        let took = start.elapsed();
        match answer {
            Ok(answer) if answer.status() == 200 && took <= bound => {
                assert_eq!(answer.body, VALUE, "{what}");
                return took;
            }
            answer => assert!(took < bound, "{what}: not after {took:?}: {answer:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// That many clients who connect and ask, whatever comes of it.
fn crowd(process: &Process, clients: usize) -> Vec<Connection> {
    let ask = |_| {
        let mut connection = process.connect();
        // The server may turn anybody away.
        connection.try_send(get_head("/kv/kenya:capital")).ok();
        connection
    };
    (0..clients).map(ask).collect()
}

/// Waits until each of them has had an answer or was turned away.
#[track_caller]
fn all_are_told(clients: &mut [Connection]) {
    for client in clients {
        let answer = client.try_response_to("GET").map_err(|err| err.kind());
        let is_told = !matches!(answer, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(is_told, "a client is told nothing");
    }
}

#[track_caller]
fn assert_ends_well(process: Process, what: &str) {
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{what}: {log}");
}

/// A folder that everybody may read, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lkv-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn a_failed_accept_is_not_the_last_one() {
    if !there_is("strace") {
        return;
    }
    for error in ["ECONNABORTED", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"] {
        let inject = format!("inject=accept4:error={error}:when=3+3");
        let options = ["-o", "/dev/null", "-e", "trace=accept4", "-e", &inject];
        let mut process = Process::run(under_strace(&options, &[]));
        store_the_value(&process);
        let mut kept = process.connect();
        assert_eq!(kept.get("/kv/kenya:capital").body, VALUE);
        for turn in 0..12 {
            served_again(&mut process, &format!("{error}, turn {turn}"), SOON);
        }
        assert_eq!(kept.get("/kv/kenya:capital").body, VALUE, "{error}: a connection from before");
        assert_ends_well(process, error);
    }
}

#[test]
fn out_of_descriptors_it_lives_and_serves_again() {
    for limit in [64, 65, 256] {
        let what = format!("{limit} descriptors");
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let mut process = Process::run(under(&["sh", "-c", &script, "sh"], None, &[]));
        store_the_value(&process);
        let mut clients = crowd(&process, 300);
        all_are_told(&mut clients);
        assert!(process.runs(), "{what}: it has ended: {}", process.log());
        drop(clients);
        let took = served_again(&mut process, &what, SOON);
        eprintln!("{what}: served again after {took:?}");
        assert_ends_well(process, &what);
    }
}

#[test]
fn with_too_few_descriptors_it_does_not_listen() {
    const ENOUGH: usize = 4;
    let place = Place::new();
    let arguments = place.arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    for arguments in [&[][..], &arguments] {
        let mut served = 0;
        for limit in 8..=64 {
            let what = format!("{limit} descriptors, {arguments:?}");
            let script = format!("ulimit -n {limit}; exec \"$@\"");
            match Process::try_run(under(&["sh", "-c", &script, "sh"], None, arguments)) {
                Ok(process) => {
                    assert_eq!(process.connect().get("/livez").status(), 200, "{what}");
                    assert_ends_well(process, &what);
                    served += 1;
                }
                Err(log) => assert!(log.contains("Too many open files"), "{what}: {log}"),
            }
            if served == ENOUGH {
                break;
            }
        }
        assert_eq!(served, ENOUGH, "{arguments:?}: 64 are enough");
    }
}

#[test]
fn refused_threads_it_lives_and_serves_again() {
    if !there_is("setpriv") || !there_is("prlimit") || !is_root() {
        return;
    }
    // A user of this test's own: others' threads would count against its limit.
    let user = (64_000 + std::process::id() % 1000).to_string();
    let folder = Folder::new("faults");
    let program = folder.0.join("program");
    fs::copy(command(&[]).get_program(), &program).expect("a copy of the program");
    let setpriv = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];

    // The limit is there from the start, and there are more clients than threads.
    let wrapper = [&setpriv[..], &["prlimit", "--nproc=400"]].concat();
    let mut process = Process::run(under(&wrapper, Some(&program), &[]));
    store_the_value(&process);
    let mut clients = crowd(&process, 450);
    all_are_told(&mut clients);
    drop(clients);
    let took = served_again(&mut process, "400 threads", SOON);
    eprintln!("400 threads: served again after {took:?}");
    assert_ends_well(process, "400 threads");

    // The system takes back what it promised: not one more thread from here on.
    let id_file = folder.0.join("id");
    let script = format!("echo $$ >{}; exec \"$@\"", id_file.display());
    let mut wrapper = vec!["sh", "-c", &script, "sh"];
    wrapper.extend(setpriv);
    let mut process = Process::run(under(&wrapper, Some(&program), &[]));
    store_the_value(&process);
    let id = fs::read_to_string(&id_file).expect("the shell has written it");
    limit_threads(&setpriv, id.trim(), "1:2000");
    let clients = crowd(&process, 100);
    // There are more than it has threads for, so it is said to have ended, or that no other
    // can be started.
    process.wait_for_log("accept loop");
    assert!(process.runs(), "refused threads: it has ended: {}", process.log());
    drop(clients);
    limit_threads(&setpriv, id.trim(), "2000:2000");
    let took = served_again(&mut process, "refused threads", SOON);
    eprintln!("refused threads: served again after {took:?}");
    let metrics = process.connect().get("/metrics");
    let mut lines = metrics.text().lines();
    let replaced = lines.find_map(|line| line.strip_prefix("lkv_accept_loops_replaced_total "));
    assert!(replaced.is_some_and(|count| count != "0"), "{replaced:?}");
    assert_ends_well(process, "refused threads");
}

/// Each of so many clients sends the same and stays; then one who is honest is
/// served, and a write is taken.
fn outlives_a_flood(limit: &str, clients: usize, bytes: &[u8]) {
    let what = format!("ulimit {limit}, {clients} times {:?}", String::from_utf8_lossy(bytes));
    let script = format!("ulimit {limit}; exec \"$@\"");
    let place = Place::new();
    let arguments = place.arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    let wrapper = ["sh", "-c", &script, "sh"];
    let mut process = Process::run(under(&wrapper, None, &arguments));
    store_the_value(&process);
    let flood = |_| {
        let mut connection = process.connect();
        // The server may turn anybody away.
        connection.try_send(bytes).ok();
        connection
    };
    let clients: Vec<Connection> = (0..clients).map(flood).collect();
    served_again(&mut process, &format!("{what}, with all of them there"), SOON);
    drop(clients);
    served_again(&mut process, &what, SOON);
    // Nothing that the storage needs is missing.
    store_the_value(&process);
    for number in 0..100 {
        let answer = process.connect().put(&format!("/kv/large/{number}"), &vec![b'x'; 1 << 20]);
        assert_eq!(answer.status(), 200, "{what}: {answer:?}");
    }
    assert_ends_well(process, &what);
}

/// The beginning of HTTP/2, as `curl --http2-prior-knowledge` sends it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of an upload that no machine has memory for.
const HUGE: &[u8] =
    b"PUT /kv/huge HTTP/1.1\r\nHost: test\r\nContent-Length: 9000000000000000000\r\n\r\nx";

#[test]
fn a_flood_of_prefaces_takes_nothing_from_others() {
    for limit in ["-n 64", "-n 256", "-n 1024"] {
        outlives_a_flood(limit, 1200, PREFACE);
    }
}

#[test]
fn a_flood_of_huge_lengths_takes_nothing_from_others() {
    for limit in ["-n 64", "-n 256", "-n 1024"] {
        outlives_a_flood(limit, 1200, HUGE);
    }
}

#[test]
fn a_flood_of_requests_leaves_the_storage_its_descriptors() {
    for limit in ["-n 64", "-n 256", "-n 1024"] {
        outlives_a_flood(limit, 1200, b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    }
}

#[test]
fn little_address_space_is_shared_out() {
    // Enough for some hundreds.
    for limit in ["-v 500000", "-v 1000000"] {
        outlives_a_flood(limit, 1500, b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    }
}

/// Sets the limit, as the user whom the program runs as.
#[track_caller]
fn limit_threads(setpriv: &[&str], process_id: &str, limit: &str) {
    let (first, more) = setpriv.split_first().expect("a wrapper has a name");
    let nproc = format!("--nproc={limit}");
    let mut prlimit = Command::new(first);
    prlimit.args(more).args(["prlimit", "--pid", process_id, &nproc]);
    assert!(prlimit.status().expect("setpriv runs").success(), "{prlimit:?}");
}
