//! `GET /openapi.json`: the description of the API for programs, in the form of `OpenAPI` 3.1.

use super::{Operation, Routed};
use crate::api::{Refusal, Reply};
use bytes::Bytes;

/// The description. A test holds it against the table of routes and the catalogue of
/// refusals.
pub const DESCRIPTION: &[u8] = include_bytes!("../openapi.json");

/// Parses the head. The query is ignored.
pub fn parse(_: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Reply(Reply::json(200, Bytes::from_static(DESCRIPTION))))
}
