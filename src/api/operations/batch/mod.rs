//! `POST /batch`: several requests on keys, one a line, which take effect at one
//! moment, or none does.
//!
//! A line is parsed into the method, the path and the header fields of a request,
//! and means what that means: it is planned by the same code, and its reply becomes
//! a line of the answer. The first that is refused is the reply of all.

mod answers;
mod line;

use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Caller;
use crate::api::{Api, Refusal, Reply, Step};
use crate::metrics::{Metrics, Reads};
use crate::storage::{Effect, Op};
use answers::Answers;
use bytes::Bytes;
use line::{Line, Spent};
use std::sync::Arc;

/// The most lines.
const LINES_MAX: usize = 1000;

/// Parses the head.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let digests = routed.check_many()?;
    let caller = routed.caller.clone();
    Ok(Operation::Body(Box::new(move |api, body| {
        digests.map_or(Ok(()), |digests| digests.check(&body))?;
        plan(api, body, &caller)
    })))
}

/// The operation on the storage for all lines of a body.
fn plan(api: &Api, mut body: Bytes, caller: &Caller) -> Result<Pending, Reply> {
    if body.ends_with(b"\n") {
        body.truncate(body.len() - 1);
    }
    if body.is_empty() {
        return Err(Refusal::BatchEmpty.into());
    }
    let lines_behind_first = memchr::memchr_iter(b'\n', &body).count();
    if lines_behind_first >= LINES_MAX {
        return Err(Refusal::BatchTooLong.into());
    }
    let mut ops = Vec::with_capacity(lines_behind_first + 1);
    let mut lines = Vec::with_capacity(lines_behind_first + 1);
    let mut spent = Spent::default();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', &body).chain([body.len()]) {
        let place = start..end;
        start = end + 1;
        let planned = Line::plan(&body, place, api.value_bytes_max, caller, &mut spent);
        let (key, op, line) = planned.map_err(|refusal| refuse(lines.len(), &refusal.into()))?;
        ops.push((key, op));
        lines.push(line);
    }
    let metrics = Arc::clone(&api.metrics);
    let then = move |effect| Step::Reply(reply(lines, effect, &metrics));
    Ok(Pending { op: Op::Batch(ops), answer: Answer::Then(Box::new(then)) })
}

/// The reply, from the effects of all lines or of those up to one that was refused. Counts
/// what was read.
fn reply(lines: Vec<Line>, effect: Effect, metrics: &Metrics) -> Reply {
    let Effect::Batch(effects) = effect else { unreachable!("a batch has effects") };
    let (mut answers, mut reads) = (Vec::with_capacity(lines.len()), Reads::default());
    for (index, (line, effect)) in lines.into_iter().zip(effects).enumerate() {
        let is_read = line.is_read();
        match line.answer(effect) {
            Ok(answer) => {
                reads.add(answer.status(), u64::from(is_read));
                answers.push(answer);
            }
            Err(of_line) => return refuse(index, &of_line),
        }
    }
    metrics.count_reads(reads);
    Answers::new(answers).into_reply()
}

/// The reply of a batch, one of whose lines is refused with this one.
fn refuse(index: usize, of_line: &Reply) -> Reply {
    let status = match of_line.status() {
        // The batch itself has a method that is allowed.
        405 => 400,
        status => status,
    };
    let text = String::from_utf8_lossy(of_line.body());
    Reply::error(status, &format!("line {}: {}", index + 1, text.trim_end()))
}
