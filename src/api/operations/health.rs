//! `GET /healthz`: 200 as long as writes are taken.

use super::{Operation, Routed};
use crate::api::{Refusal, Reply};
use crate::storage::Storage;

/// Parses the head. The query is ignored.
pub fn parse(_: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Inspect(reply))
}

fn reply(storage: &dyn Storage) -> Reply {
    match storage.check() {
        Ok(()) => Reply::text("ok\n"),
        Err(err) => Refusal::from(&err).into(),
    }
}
