//! `DELETE` of the collection with `take`: the value of the first key with a prefix,
//! which is gone then. Of many who ask, each gets another.

use super::update::{Update, Verb};
use super::wait::Wait;
use super::{Answer, Look, Operation, Pending};
use crate::api::etag::Conditions;
use crate::api::fields::Fields;
use crate::api::{Refusal, Step};
use crate::storage::{Effect, Op};
use std::sync::Arc;

/// Parses the rest of the head. The value is not known before it is taken, so there
/// are no conditions on it.
pub fn parse(
    prefix: Box<str>,
    wait: Option<&str>,
    fields: Fields<'_>,
) -> Result<Operation, Refusal> {
    let wait = Wait::parse(wait, fields)?;
    if !Conditions::parse(fields)?.is_empty() {
        return Err(Refusal::QueryContradictory);
    }
    let update = Arc::new(Update::new(Verb::Take));
    if let Some(wait) = wait {
        return Ok(Operation::Wait(Box::new((Look::First(prefix, update), wait))));
    }
    let op = Op::UpdateFirst(prefix, update.change());
    let then = move |effect| {
        let Effect::UpdatedFirst(first) = effect else { unreachable!("it updates the first") };
        Step::Reply(update.reply_with_key(first.map(|first| *first)))
    };
    Ok(Operation::Pending(Box::new(Pending { op, answer: Answer::Then(Box::new(then)) })))
}
