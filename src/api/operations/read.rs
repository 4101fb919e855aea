//! `GET` and `HEAD` of a key: the value, a part of it, or nothing new.

use super::wait::Wait;
use super::{Look, Operation, Routed};
use crate::api::access::Right;
use crate::api::etag::{self, Conditions, EntityTag, Precondition};
use crate::api::fields::Fields;
use crate::api::range::{self, Part};
use crate::api::{Refusal, Reply, query};
use crate::storage::Entry;

/// The header fields of a read.
pub struct Read {
    pub conditions: Conditions,
    /// `Range`, of a `GET` alone (RFC 9110, 14.2).
    range: Option<Box<str>>,
    /// `If-Range`: the range counts only if this is the value's tag.
    if_range: Option<Box<str>>,
}

/// Parses the head.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.check_key(Right::Read)?;
    let wait = Wait::parse(query::wait_of_read(routed.target.query)?, routed.fields)?;
    let read = Read::parse(routed.fields, routed.method == "GET")?;
    let key = routed.into_key();
    Ok(match wait {
        None => Operation::Read(key, read),
        Some(wait) => Operation::Wait(Box::new((Look::Read(key, read), wait))),
    })
}

impl Read {
    /// Parses the header fields.
    pub fn parse(fields: Fields<'_>, is_get: bool) -> Result<Self, Refusal> {
        let range = fields.only("Range").filter(|_| is_get);
        // Several are as void as one that is malformed.
        let if_range = fields.has("If-Range").then(|| fields.only("If-Range").unwrap_or(""));
        Ok(Self {
            conditions: Conditions::parse(fields)?,
            range: range.map(Into::into),
            if_range: if_range.filter(|_| range.is_some()).map(Into::into),
        })
    }

    /// The reply from the entry under the key, in the order of RFC 9110, 13.2.2.
    pub fn reply(&self, entry: Option<&Entry>) -> Reply {
        let Some(entry) = entry else { return Refusal::KeyNotFound.into() };
        let tag = EntityTag::of(entry);
        match self.conditions.evaluate(Some(tag)) {
            Precondition::Holds => {}
            Precondition::NotModified => return Reply::not_modified(tag),
            Precondition::Failed => return Reply::from(Refusal::PreconditionFailed).with_tag(tag),
        }
        let bytes = entry.value().len();
        match self.part(tag, bytes) {
            Part::Whole => Reply::value(entry, tag),
            Part::Slice(slice) => Reply::part(entry, tag, &slice),
            Part::Unsatisfiable => Reply::from(Refusal::RangeUnsatisfiable)
                .with_header("Content-Range", range::unsatisfied(bytes)),
        }
    }

    fn part(&self, tag: EntityTag, bytes: usize) -> Part {
        let counts = self.if_range.as_ref().is_none_or(|field| etag::if_range_holds(field, tag));
        match &self.range {
            Some(range) if counts => range::select(range, bytes),
            Some(_) | None => Part::Whole,
        }
    }
}
