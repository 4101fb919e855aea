//! Fixtures of the test crates. Each crate is a program of its own and uses a
//! part of them.
//!
//! Where a new promise is tested, the first row that fits:
//!
//! | promise | place |
//! | --- | --- |
//! | an answer to a request | a transcript: `tests/transcripts/*.http` |
//! | the order of two checks; anything of the API that takes no socket | a row in a table of `src/api/tests.rs` |
//! | the grammar of one field, the rule of one function | a unit test beside it in `src` |
//! | what the `Storage` trait says, on every engine | `tests/storage.rs` |
//! | bytes that are no whole request: cut, split, ambiguous, too large | `tests/wire.rs` |
//! | many clients at once, all honest | `tests/concurrency.rs` |
//! | one client's misbehaviour, or a storage's, costs nobody else anything | `tests/containment.rs` |
//! | flags, environment, exit codes, signals | `tests/process.rs` |
//! | standard output and the log | `tests/output.rs`, `tests/panics.rs` |
//! | no descriptors, threads or address space | `tests/faults.rs` |
//! | the system's clock is set | `tests/clock.rs` |
//! | the directory of a durable store: its owner, its files, its versions | `tests/working_dir.rs` |
//! | a durable store that is killed | `tests/crashes.rs` |
//! | a disk that is slow or fails, and how often it is synced | `tests/disk.rs` |
//! | a disk that is full | `tests/full_disk.rs` |
//! | a database that fails while its journal does not | `tests/reopen.rs` |
//! | memory that is accounted for | `tests/memory.rs` |
//! | what only curl or the shell does: `-T`, `-C -`, `$?`, `nohup` | `scripts/curl.sh`, `semantics.sh`, `process.sh` |
//! | a proxy or a build tool in front | `scripts/proxy.sh`, `scripts/caches.sh` |
//! | minutes under attack, kills or damage | `scripts/hostile/`, `soak.py`, `crash.py`, `damage.py` |
//!
//! A test asks the lowest layer that can keep the promise, and each promise has
//! one place. Everything listens on port 0, waits for a condition with a bound
//! ([`http::wait_until`]) and never for luck; a time that passes is a lower bound.
//! How fast something is belongs into `scripts/bench`.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]
#![allow(
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a fixture panics where a test would fail"
)]

pub mod engines;
pub mod history;
pub mod http;
pub mod linearizability;
pub mod peer;
pub mod place;
pub mod process;
pub mod random;
pub mod server;
pub mod transcript;
pub mod wrappers;
