//! `DELETE` of the collection: the keys with a prefix.
//!
//! A chain of steps: a page of keys, a batch that deletes those, and so on. Each batch
//! counts what it has deleted, so a key that goes meanwhile is not counted.
//!
//! Every key that is there at the start is met, and yet the chain ends though others
//! add keys. Without a limit it goes from the last key to the one that was the first:
//! keys that are added at either end are not met, nor those that are added in order, as
//! names often are, once it has come to them. With a limit it goes forward, and ends
//! with the last key that was asked for.

use super::list::list;
use super::take;
use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Right;
use crate::api::collection::Parameters;
use crate::api::etag::Conditions;
use crate::api::{Refusal, Reply, Step};
use crate::storage::{BatchOp, Effect, Error, Key, Listing, Op, Page, Range, Start};

/// The parameters of a `DELETE`.
const NAMES: &[&str] = &["prefix", "limit", "take", "wait"];

/// The most keys of a batch: others wait for a batch to end.
const BATCH_KEYS_MAX: usize = 500;

/// Parses the head. A condition on one value is a mistake here: to ignore it would
/// delete what it was to protect.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.caller.rights.check(Right::Write)?;
    let parameters = Parameters::parse(routed.target.query, NAMES)?;
    parameters.check_prefix(routed.caller, Right::Write)?;
    if let Some(prefix) = parameters.take {
        return take::parse(prefix, parameters.wait, routed.fields);
    }
    let limit = parameters.limit;
    let range = Range { prefix: parameters.into_prefix()?, ..Range::default() };
    Conditions::check_none(routed.fields)?;
    Ok(Operation::Pending(Box::new(match limit {
        Some(left) => Deletion { range, end: None, left, deleted: 0 }.next_page(),
        None => from_last_to_first(range),
    })))
}

/// Deletes all keys of a range, backwards. The first one is looked for before.
fn from_last_to_first(range: Range) -> Pending {
    let listing = Listing { range: range.clone(), keys_max: 1, ..Listing::default() };
    let then = move |mut page: Page| {
        match (page.next.take(), page.last()) {
            // Expired keys, as many as one step passes.
            (Some(start), None) => Step::Pending(from_last_to_first(Range { start, ..range })),
            (_, Some(first)) => {
                let range = Range { start: Start::First, is_reverse: true, ..range };
                let end = Some(first.into());
                Step::Pending(Deletion { range, end, left: usize::MAX, deleted: 0 }.next_page())
            }
            (None, None) => Step::Reply(deleted(0)),
        }
    };
    list(listing, then)
}

/// A deletion on its way.
struct Deletion {
    /// The keys that are left.
    range: Range,
    /// The key to end with, if that is not the last one of the range.
    end: Option<Box<str>>,
    /// The most keys to delete.
    left: usize,
    deleted: u64,
}

impl Deletion {
    /// Reads a page of keys. They come with their entries, so that it ends where these
    /// are large: an engine may hold all entries that it deletes at one moment.
    fn next_page(self) -> Pending {
        let keys_max = self.left.min(BATCH_KEYS_MAX);
        let range = self.range.clone();
        let (with_entries, is_to_delete) = (true, true);
        let listing = Listing { range, with_entries, is_to_delete, keys_max, ..Listing::default() };
        let deleted = self.deleted;
        list(listing, move |page| self.batch(page)).failing(move |err| cut_short(deleted, err))
    }

    /// Deletes the keys of a page.
    fn batch(self, mut page: Page) -> Step {
        let next = page.next.take();
        let (end, last) = (self.end.as_deref(), page.last());
        let is_at_end = end.zip(last).is_some_and(|(end, last)| last <= end);
        let next = next.filter(|_| !is_at_end);
        let keys = page.keys().filter(|key| end.is_none_or(|end| *key >= end));
        let keys = keys.filter_map(|key| Key::new(key).ok());
        let batch: Vec<_> = keys.map(|key| (key, BatchOp::Remove)).collect();
        if batch.is_empty() {
            return self.go_on(next);
        }
        let deleted = self.deleted;
        let then = move |effect| self.count(effect, next);
        let pending = Pending { op: Op::Each(batch), answer: Answer::Then(Box::new(then)) };
        Step::Pending(pending.failing(move |err| cut_short(deleted, err)))
    }

    fn count(mut self, effect: Effect, next: Option<Start>) -> Step {
        let Effect::Batch(effects) = effect else { unreachable!("a batch has effects") };
        let was_there = |effect: &&Effect| {
            let Effect::Updated(updated) = effect else { unreachable!("a removal updates") };
            updated.before.is_some()
        };
        let deleted = effects.iter().filter(was_there).count();
        self.left = self.left.saturating_sub(deleted);
        self.deleted += deleted as u64;
        self.go_on(next)
    }

    fn go_on(mut self, next: Option<Start>) -> Step {
        match next {
            Some(start) if self.left > 0 => {
                self.range.start = start;
                Step::Pending(self.next_page())
            }
            Some(_) | None => Step::Reply(deleted(self.deleted)),
        }
    }
}

fn deleted(keys: u64) -> Reply {
    Reply::text(format!("{keys}\n"))
}

/// The reply to a failure behind so many deletions.
fn cut_short(keys: u64, err: &Error) -> Reply {
    if keys == 0 {
        return Refusal::from(err).into();
    }
    let of_rest = Reply::of_rest(err);
    let text = String::from_utf8_lossy(of_rest.body());
    Reply::error(of_rest.status(), &format!("{}; {keys} were deleted", text.trim_end()))
}
