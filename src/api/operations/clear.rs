//! `DELETE /clear`: every key is gone.

use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Right;
use crate::api::{Refusal, Reply, query};
use crate::storage::Op;

/// Parses the head.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.caller.rights.check_prefix(Right::Write, "")?;
    query::check_none(routed.target.query)?;
    let answer = Answer::Reply(Reply::empty());
    Ok(Operation::Pending(Box::new(Pending { op: Op::Clear, answer })))
}
