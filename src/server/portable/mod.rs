//! The server where there is no door: systems other than Linux, or a build
//! with `--cfg portable`.
//!
//! tiny_http reads requests here and orders their responses. No deadline is
//! kept and no connection is cut; a refusal waits until tiny_http has read the
//! rest of the body, and a chunked body that is cut off inside a chunk counts
//! as whole. To HTTP/1.0 a response in parts that breaks off looks whole, and it
//! has no end where the client asked for the connection to stay. Each request is a
//! connection of its own to the rest of the server, and received bytes are not counted. A
//! stream keeps its thread, and the leaving of its client is noticed once the next part is
//! written.

pub mod gate;
pub mod inbox;
pub mod inlet;
pub mod sender;
pub mod socket;
pub mod watchdog;
