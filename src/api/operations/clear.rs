//! `DELETE /clear`: every key is gone.

use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Right;
use crate::api::etag::Conditions;
use crate::api::{Refusal, Reply, query};
use crate::storage::Op;

/// Parses the head. A condition on one value is a mistake here, as with a prefix.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.caller.rights.check_prefix(Right::Write, "")?;
    query::check_none(routed.target.query)?;
    Conditions::check_none(routed.fields)?;
    let answer = Answer::Reply(Reply::empty());
    Ok(Operation::Pending(Box::new(Pending { op: Op::Clear, answer })))
}
