//! Little Key-Value Store: a key-value store over HTTP, with curl for a client.
//! The program is a thin `main` over these parts.
//!
//! ```text
//! curl ──► server ───────────────────────────► api ──────────► storage
//!          accept, read, frame, queue, watch;   what a request  keys and
//!          the only part that knows tiny_http   means: pure     entries
//! ```
//!
//! Arrows go one way: the API knows no sockets, storage knows no HTTP.

pub mod cli;
pub mod server;

pub mod api;

pub mod storage;

pub mod metrics;

mod platform;

// A name for the test fixtures that unit tests share.
#[cfg(test)]
extern crate self as little_key_value;
