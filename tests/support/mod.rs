//! What the test crates share. Each of them is a program of its own and uses
//! a part.

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
