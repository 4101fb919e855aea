//! `PUT`, `POST` and `DELETE` of a key.
//!
//! A write that does not depend on the entry before is a set or a delete of the
//! storage, and any other an [`Update`].

use super::update::{Update, Verb};
use super::{Answer, Operation, Pending, Routed};
use crate::api::cross_site::is_cross_site;
use crate::api::digests::Digests;
use crate::api::etag::Conditions;
use crate::api::query::{self, Action, Query};
use crate::api::ttl::Ttl;
use crate::api::{Refusal, Reply, media_type};
use crate::storage::{Key, Op};
use bytes::Bytes;
use std::sync::Arc;

/// A write, but for its body.
pub struct Write {
    /// The key to write.
    pub key: Key,
    /// The effect on it.
    pub verb: Verb,
    conditions: Conditions,
    ttl: Option<Ttl>,
    content_type: Option<Arc<str>>,
    digests: Option<Box<Digests>>,
}

/// Parses the head of a `PUT`.
pub fn put(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let query = Query::parse(routed.target.query)?;
    if query.action.is_some() {
        return Err(Refusal::QueryUnknown);
    }
    let ttl = Ttl::parse(query.ttl, routed.fields)?;
    Write::parse(Verb::Set, ttl, routed).map(Operation::Write)
}

/// Parses the head of a `POST`, a method of the query and not of the key alone.
pub fn post(routed: Routed<'_>) -> Result<Operation, Refusal> {
    if !query::is_for_post(routed.target.query) {
        return Err(Refusal::MethodNotAllowed);
    }
    // The one method here that a browser sends for a page of another site.
    if is_cross_site(routed.fields, routed.target.authority(routed.fields)) {
        return Err(Refusal::CrossSite);
    }
    let query = Query::parse(routed.target.query)?;
    let verb = match query.action {
        None => Verb::Touch,
        Some(Action::Add(amount)) => Verb::Add(amount),
        Some(Action::Append) => Verb::Append,
        Some(Action::Return) => return Err(Refusal::QueryUnknown),
    };
    let ttl = Ttl::parse(query.ttl, routed.fields)?;
    Write::parse(verb, ttl, routed).map(Operation::Write)
}

/// Parses the head of a `DELETE`.
pub fn delete(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let query = Query::parse(routed.target.query)?;
    let verb = match (query.action, query.ttl) {
        (None, None) => Verb::Delete,
        (Some(Action::Return), None) => Verb::Take,
        (_, _) => return Err(Refusal::QueryUnknown),
    };
    Write::parse(verb, None, routed).map(Operation::Write)
}

impl Write {
    fn parse(verb: Verb, ttl: Option<Ttl>, routed: Routed<'_>) -> Result<Self, Refusal> {
        let fields = routed.fields;
        let mut digests = None;
        if verb.stores_body() {
            if fields.has("Content-Range") {
                return Err(Refusal::ContentRange);
            }
            if fields.have_content_coding() {
                return Err(Refusal::ContentEncoding);
            }
            digests = Digests::parse(fields)?;
        }
        let conditions = Conditions::parse(fields)?;
        let content_type = if verb.stores_body() { media_type::parse(fields)? } else { None };
        Ok(Self { key: routed.into_key(), verb, conditions, ttl, content_type, digests })
    }

    /// Checks the body, and makes an operation on the storage of it.
    pub fn plan(self, body: Bytes, value_bytes_max: u64) -> Result<Pending, Refusal> {
        self.verb.check_length(body.len() as u64)?;
        if self.digests.is_some_and(|digests| !digests.match_content(&body)) {
            return Err(Refusal::ContentDiffers);
        }
        let Self { key, verb, conditions, ttl, content_type, .. } = self;
        let is_conditional = !conditions.is_empty();
        let created = (verb == Verb::Set && is_conditional).then(|| key.clone());
        let update = Update { verb, conditions, ttl, content_type, body, value_bytes_max, created };
        Ok(match verb {
            Verb::Set if !is_conditional && ttl != Some(Ttl::Keep) => {
                let entry = update.entry(None, update.body.clone());
                let answer = Answer::Reply(Reply::empty().with_validators(&entry));
                Pending { op: Op::Set(key, entry), answer }
            }
            Verb::Delete if !is_conditional => {
                Pending { op: Op::Delete(key), answer: Answer::Reply(Reply::empty()) }
            }
            Verb::Set | Verb::Delete | Verb::Take | Verb::Touch | Verb::Add(_) | Verb::Append => {
                let update = Arc::new(update);
                Pending { op: Op::Update(key, update.change()), answer: Answer::Update(update) }
            }
        })
    }
}
