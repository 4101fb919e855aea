//! Fixtures of the tests.
//!
//! Where a new promise is tested:
//!
//! | promise | place |
//! | --- | --- |
//! | an answer to a request | a transcript: `tests/transcripts/*.http`, which `tests/transcripts.rs` replays |
//! | the order of two checks; anything of the API that takes no socket | a row in a table of `src/api/tests/mod.rs` |
//! | the grammar of one field, the rule of one function | a unit test beside it in `src` |
//! | the contract of the `Storage` trait, on every engine | `tests/storage.rs` |
//! | the same for what concerns many keys | `tests/lists.rs`, `tests/batches.rs` |
//! | the same for the change log | `tests/changes.rs` |
//! | what a front to a cluster and its other clients see of each other | `tests/cluster.rs` |
//! | tokens, on connections that are open | `tests/access.rs` |
//! | the token of the environment, the file of tokens, addresses that others can reach | `tests/tokens.rs` |
//! | bytes that are no whole request: cut, split, ambiguous, too large | `tests/wire.rs` |
//! | the description of the API, against its standard and the answers | `scripts/openapi.sh` |
//! | many clients at once, all honest | `tests/concurrency.rs` |
//! | the same with lists, batches and takes | `tests/collections.rs` |
//! | the judge of what they have seen | `tests/linearizability.rs` |
//! | the order of responses where several threads lead | `tests/leaders.rs` |
//! | a client or a storage that misbehaves costs nobody else anything | `tests/containment.rs` |
//! | an answer that is made while it is sent | `tests/in_parts.rs` |
//! | a request that waits for a change | `tests/waits.rs` |
//! | the cost of a stream, and the clients that do not take theirs | `tests/streams.rs` |
//! | what a watcher is told, whenever it breaks off | `tests/watch.rs` |
//! | tar archives, as other writers and readers have them | `tests/archives.rs`, `scripts/archives.sh` |
//! | an upload that is taken as it comes | `tests/imports.rs` |
//! | flags, environment, exit codes, signals | `tests/process.rs` |
//! | a command beside a store | `tests/run.rs` |
//! | the exit code of a probe | `tests/health.rs` |
//! | the file with the port | `tests/port_file.rs` |
//! | the addresses that it listens on | `tests/addresses.rs` |
//! | the server's metrics | `tests/metrics.rs`, `scripts/metrics.sh` |
//! | what it tells on a terminal, and Ctrl-C there | `tests/terminal.rs` |
//! | texts that it prints: version, completions, manual page | `tests/texts.rs` |
//! | standard output and the log | `tests/output.rs`, `tests/panics.rs` |
//! | the access log, and the log as JSON | `tests/logs.rs` |
//! | messages to a service manager | `tests/service_manager.rs` |
//! | no descriptors, threads or address space | `tests/faults.rs` |
//! | the probes while it stops, or its disk hangs | `tests/probes.rs` |
//! | the names of its threads, and what idle ones hold | `tests/threads.rs` |
//! | the system's clock is set | `tests/clock.rs` |
//! | the directory of a durable store: its owner, its files, its versions | `tests/working_dir.rs` |
//! | a durable store that is killed | `tests/crashes.rs` |
//! | the change log of a durable store, over restarts | `tests/changes_on_disk.rs` |
//! | a disk that is slow or fails, and how often it is synced | `tests/disk.rs` |
//! | a disk that is full | `tests/full_disk.rs` |
//! | a directory of a bounded size | `tests/disk_limit.rs` |
//! | a database that fails while its journal does not | `tests/reopen.rs` |
//! | the start of a front to a cluster | `tests/cluster_start.rs` |
//! | several fronts to one cluster | `tests/fronts.rs` |
//! | a cluster that fails in parts | `tests/failover.rs`, `scripts/cluster.py`, `partition.py` |
//! | the account of the memory engine against the process's memory | `tests/memory.rs` |
//! | the memory engine's one file with unsafe code | `tests/packed.rs`, `scripts/valgrind.sh` |
//! | what the metrics tell of a storage | `tests/metrics_of_storage.rs` |
//! | a store as a cache: hits and misses, a full one that evicts | `tests/caches.rs` |
//! | what only curl or the shell does: `-T`, `$?`, `nohup` | `scripts/curl.sh`, `semantics.sh`, `process.sh` |
//! | the page that a browser gets | `scripts/console.sh` |
//! | a proxy or a build tool in front | `scripts/proxy.sh`, `scripts/caches.sh` |
//! | the unit for systemd, the container image | `scripts/package.sh` |
//! | the licences of all dependencies | `tests/licenses.rs` |
//! | minutes under attack, kills or damage | `scripts/hostile/`, `soak.py`, `crash.py`, `damage.py` |
//!
//! The engine in front of a cluster is tested with six real servers, which each program here
//! starts for itself ([`cluster`]).
//!
//! A test asks the lowest layer that can keep the promise, and each promise has
//! one place. Every server listens on port 0. A test waits for a condition, with a
//! bound ([`http::wait_until`]); it sleeps only where time itself is what passes, and
//! then for no less than the promise says. Speed is measured in `scripts/bench`.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "each test crate uses a part of it"
)]
#![allow(
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a fixture panics where a test would fail"
)]

pub mod blocking;
pub mod cluster;
pub mod engines;
pub mod history;
pub mod http;
pub mod linearizability;
pub mod listings;
pub mod peer;
pub mod place;
pub mod process;
pub mod promises;
pub mod random;
pub mod replica;
pub mod server;
#[cfg(unix)]
pub mod terminal;
pub mod threads;
pub mod transcript;
pub mod wrappers;
