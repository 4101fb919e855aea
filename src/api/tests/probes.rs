//! The probes of a store that takes no writes, or that stops.

use super::{Api, answer, api, api_over, call, text_of};
use crate::storage::{Done, Error, Hindrance, Op, Outage, Outcome, Storage};
use bytes::Bytes;

/// A storage that takes no writes, and that nobody may come to.
struct Out(Error);

impl Storage for Out {
    fn try_now(&self, _op: Op) -> Result<Outcome, Op> {
        panic!("an operation")
    }

    fn submit(&self, _op: Op, _done: Done) {
        panic!("an operation")
    }

    fn check(&self) -> Result<(), Error> {
        Err(self.0.clone())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

const STOPPING: &str = "the server is stopping";

/// `/readyz` fails for this reason, `?verbose` says so in these lines, and `/livez` passes.
#[track_caller]
fn is_not_ready(api: &Api, reason: &str, lines: &[&str]) {
    let plain = answer(api, "GET /readyz", b"");
    assert_eq!(text_of(&plain), (503, &*format!("{reason}\n")));
    // Of more than one line, unlike every other error.
    let verbose = api.answer(&call("GET /readyz?verbose", Some(0)), Bytes::new());
    assert_eq!(text_of(&verbose), (503, &*(lines.join("\n") + "\nreadyz check failed\n")));
    assert!(verbose.headers().eq(plain.headers()));
    assert_eq!(plain.header("Retry-After"), Some("1"));
    assert_eq!(text_of(&answer(api, "GET /livez", b"")), (200, "ok\n"));
}

#[test]
fn each_check_of_a_store_that_is_ready_passes() {
    let told = "[+]storage ok\n[+]shutdown ok\nreadyz check passed\n";
    for query in ["verbose", "verbose=", "verbose=1", "&verbose&", "x=1&verbose", "verbose&verbose"]
    {
        let line = format!("GET /readyz?{query}");
        assert_eq!(text_of(&answer(&api(), &line, b"")), (200, told), "{line}");
    }
    for query in ["", "verbos", "Verbose", "verbose2", "%76erbose", "x=verbose", "exclude=storage"]
    {
        let line = format!("GET /readyz?{query}");
        assert_eq!(text_of(&answer(&api(), &line, b"")), (200, "ok\n"), "{line}");
    }
    for line in ["GET /livez?verbose", "GET /healthz?verbose"] {
        assert_eq!(text_of(&answer(&api(), line, b"")), (200, "ok\n"), "{line}");
    }
}

#[test]
fn a_store_that_takes_no_writes_is_alive_and_not_ready() {
    let table = [
        (Outage::DiskFull, "the disk is full"),
        (Outage::DiskFailed, "the disk has failed"),
        (Outage::DirectoryLost, "its directory was moved or removed"),
        (Outage::Closed, "it is closed"),
    ];
    for (outage, reason) in table {
        let api = api_over(Out(Error::Unavailable(outage)));
        let text = format!("storage takes no writes: {reason}");
        let failed = format!("[-]storage failed: {reason}");
        is_not_ready(&api, &text, &[&failed, "[+]shutdown ok"]);
    }
    let table = [
        (Hindrance::ClusterDown, "the cluster does not answer"),
        (Hindrance::ReplicasTooFew, "too few replicas are connected"),
        (Hindrance::NodeReadOnly, "a node of the cluster takes no writes"),
    ];
    for (hindrance, reason) in table {
        let api = api_over(Out(Error::NotDone(hindrance)));
        let text = format!("not done: {reason}");
        let failed = format!("[-]storage failed: {reason}");
        is_not_ready(&api, &text, &[&failed, "[+]shutdown ok"]);
        let health = answer(&api, "GET /healthz", b"");
        assert_eq!(text_of(&health), (503, &*format!("{text}\n")));
        assert_eq!(health.header("Retry-After"), Some("1"));
    }
    // Any other error fails it as well.
    let failed = "[-]storage failed: storage is full";
    is_not_ready(&api_over(Out(Error::Full)), "storage is full", &[failed, "[+]shutdown ok"]);
}

#[test]
fn a_server_that_stops_is_alive_and_not_ready() {
    let stopping = format!("[-]shutdown failed: {STOPPING}");
    let api = api();
    let another = api.clone();
    api.drain();
    for api in [api, another] {
        is_not_ready(&api, STOPPING, &["[+]storage ok", &stopping]);
        assert_eq!(text_of(&answer(&api, "GET /healthz", b"")), (200, "ok\n"));
    }
    let api = api_over(Out(Error::Unavailable(Outage::DiskFailed)));
    api.drain();
    let failed = "[-]storage failed: the disk has failed";
    is_not_ready(&api, "storage takes no writes: the disk has failed", &[failed, &stopping]);
}
