//! `GET /healthz`, `/livez` and `/readyz`: the probes of those who start a store, stop it,
//! and send it requests.
//!
//! `/healthz` tells of the storage alone, `/livez` of the process, and `/readyz` of a list of
//! checks, in the form of Kubernetes. All of them look at flags in memory, so they answer
//! whatever a disk does.

use super::{Operation, Routed};
use crate::api::{Api, Refusal, Reply, query};

const OK: &str = "ok\n";

/// Parses the head of a `/healthz`: 200 as long as writes are taken. The query is ignored.
pub fn parse(_: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Inspect(health))
}

fn health(api: &Api) -> Reply {
    match api.storage.check() {
        Ok(()) => Reply::text(OK),
        Err(err) => Refusal::from(&err).into(),
    }
}

/// Parses the head of a `/livez`: 200 as long as the process answers. The query is ignored.
pub fn live(_: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Reply(Reply::text(OK)))
}

/// Parses the head of a `/readyz`: 200 as long as requests of every kind are taken. Every
/// parameter but `verbose` is ignored.
pub fn ready(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let reply = if query::is_verbose(routed.target.query) { verbose_readiness } else { readiness };
    Ok(Operation::Inspect(reply))
}

/// The checks of `/readyz` by name, each with its outcome.
fn checks(api: &Api) -> [(&'static str, Result<(), Refusal>); 2] {
    // A storage that is merely full passes: it takes reads and deletions, and without requests
    // it would never have room again.
    let storage = api.storage.check().map_err(|err| Refusal::from(&err));
    let shutdown = if api.is_draining() { Err(Refusal::Draining) } else { Ok(()) };
    [("storage", storage), ("shutdown", shutdown)]
}

/// `ok`, or the first failure.
fn readiness(api: &Api) -> Reply {
    let failure = checks(api).into_iter().find_map(|(_, outcome)| outcome.err());
    failure
        .map_or_else(|| Reply::text(OK), |refusal| Reply::error(503, refusal.status_and_text().1))
}

/// A line for each check, and one for all of them.
fn verbose_readiness(api: &Api) -> Reply {
    let mut text = String::new();
    let mut has_passed = true;
    for (name, outcome) in checks(api) {
        let line = match outcome {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(refusal) => {
                has_passed = false;
                let (_, failure) = refusal.status_and_text();
                // The name stands for the words in front of the reason.
                let reason = failure.split_once(": ").map_or(failure, |(_, reason)| reason);
                format!("[-]{name} failed: {reason}\n")
            }
        };
        text.push_str(&line);
    }
    if has_passed {
        Reply::text(text + "readyz check passed\n")
    } else {
        Reply::error(503, &(text + "readyz check failed"))
    }
}
