//! What a `PUT`, `POST` or `DELETE` does to a key.
//!
//! One that depends on what is there is an update of the storage: [`check`]
//! says whether it may be done to what was found, [`apply`] what becomes of it.
//! Both are pure, so the answer is derived from what the storage has seen.
//!
//! [`check`]: Writing::check
//! [`apply`]: Writing::apply

use super::digests::Digests;
use super::fields::Fields;
use super::query::{self, Query};
use super::tags::{Conditions, EntityTag, Verdict};
use super::{Refusal, Reply, lifetime};
use crate::storage::{Change, Decision, Entry, Time, Updated};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A write, but for its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Writing {
    verb: Verb,
    conditions: Conditions,
    /// What `ttl` asks for, if it is there.
    lifetime: Option<Lifetime>,
    content_type: Option<Arc<str>>,
    /// What the body has to be, if the client has said it.
    digests: Option<Box<Digests>>,
}

/// What is done to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// Store the body.
    Set,
    /// Delete what is there.
    Delete,
    /// Delete what is there and answer with it.
    Take,
    /// Let it live so long.
    Touch,
    /// Add to the number that is there.
    Add(i64),
    /// Put the body behind what is there.
    Append,
}

impl Verb {
    /// Whether the body becomes what is stored, or a part of it. Otherwise the
    /// fields that tell of the body have nothing to do with it.
    fn stores_body(self) -> bool {
        match self {
            Self::Set | Self::Append => true,
            Self::Delete | Self::Take | Self::Touch | Self::Add(_) => false,
        }
    }
}

/// How long a key is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    /// As long as before.
    Kept,
    /// For ever.
    Endless,
    /// From now on so long.
    For(Duration),
}

impl Writing {
    /// A `PUT`.
    pub(super) fn put(query: Query<'_>, fields: Fields<'_>) -> Result<Self, Refusal> {
        if query.action.is_some() {
            return Err(Refusal::QueryUnknown);
        }
        let lifetime = lifetime_of(query, fields)?;
        let writing = Self::of(Verb::Set, lifetime, fields)?;
        Ok(Self { content_type: fields.content_type()?, ..writing })
    }

    /// A `POST`, whose query says what it does.
    pub(super) fn post(query: Query<'_>, fields: Fields<'_>) -> Result<Self, Refusal> {
        let verb = match query.action {
            None => Verb::Touch,
            Some(query::Action::Add(amount)) => Verb::Add(amount),
            Some(query::Action::Append) => Verb::Append,
            Some(query::Action::Return) => return Err(Refusal::QueryUnknown),
        };
        let lifetime = lifetime_of(query, fields)?;
        let writing = Self::of(verb, lifetime, fields)?;
        let content_type = if verb.stores_body() { fields.content_type()? } else { None };
        Ok(Self { content_type, ..writing })
    }

    /// A `DELETE`.
    pub(super) fn delete(query: Query<'_>, fields: Fields<'_>) -> Result<Self, Refusal> {
        let verb = match (query.action, query.ttl) {
            (None, None) => Verb::Delete,
            (Some(query::Action::Return), None) => Verb::Take,
            (_, _) => return Err(Refusal::QueryUnknown),
        };
        Self::of(verb, None, fields)
    }

    fn of(verb: Verb, lifetime: Option<Lifetime>, fields: Fields<'_>) -> Result<Self, Refusal> {
        let mut digests = None;
        if verb.stores_body() {
            if fields.has("Content-Range") {
                return Err(Refusal::ContentRange);
            }
            if fields.have_content_coding() {
                return Err(Refusal::ContentEncoding);
            }
            digests = Some(Digests::of(fields)?).filter(|digests| !digests.is_empty());
        }
        let conditions = fields.conditions()?;
        Ok(Self { verb, conditions, lifetime, content_type: None, digests: digests.map(Box::new) })
    }

    /// Whether a body has to be there, or must not be.
    pub(super) fn check_body(&self, bytes: u64) -> Result<(), Refusal> {
        match self.verb {
            Verb::Set | Verb::Append if bytes == 0 => Err(Refusal::ValueEmpty),
            Verb::Touch | Verb::Add(_) if bytes > 0 => Err(Refusal::BodyUnexpected),
            Verb::Set | Verb::Append | Verb::Touch | Verb::Add(_) | Verb::Delete | Verb::Take => {
                Ok(())
            }
        }
    }

    /// Whether the body is the one that the client means.
    pub(super) fn check_content(&self, body: &[u8]) -> Result<(), Refusal> {
        match &self.digests {
            Some(digests) if !digests.match_content(body) => Err(Refusal::ContentDiffers),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether it may be answered with 201: where nothing was there, and the
    /// request could know.
    pub(super) fn may_create(&self) -> bool {
        self.verb == Verb::Set && !self.conditions.is_empty()
    }

    /// The entry that is stored whatever is there, if it is so simple.
    pub(super) fn plain_entry(&self, body: &Bytes) -> Option<Entry> {
        let is_plain = self.verb == Verb::Set
            && self.conditions.is_empty()
            && self.lifetime != Some(Lifetime::Kept);
        is_plain.then(|| self.entry(None, body.clone()))
    }

    /// Whether the key is deleted whatever is there.
    pub(super) fn is_plain_delete(&self) -> bool {
        self.verb == Verb::Delete && self.conditions.is_empty()
    }

    /// The entry of a value that takes the place of another.
    fn entry(&self, before: Option<&Entry>, value: Bytes) -> Entry {
        let new = Entry::new(value);
        match (self.verb, before) {
            (Verb::Add(_) | Verb::Append, Some(before)) => {
                new.with_content_type(before.content_type().cloned()).with_expiry(before.expiry())
            }
            _ => new.with_content_type(self.content_type.clone()).with_expiry(self.expiry(before)),
        }
    }

    fn expiry(&self, before: Option<&Entry>) -> Option<Time> {
        match self.lifetime {
            None | Some(Lifetime::Endless) => None,
            Some(Lifetime::Kept) => before.and_then(Entry::expiry),
            Some(Lifetime::For(lifetime)) => Some(Time::now().after(lifetime)),
        }
    }

    /// Whether it may be done to what is there.
    fn check(&self, body: &Bytes, bytes_max: u64, before: Option<&Entry>) -> Result<(), Refusal> {
        // Without conditions these would not succeed, so those do not count
        // (RFC 9110, 13.2.1).
        if before.is_none() && matches!(self.verb, Verb::Take | Verb::Touch) {
            return Err(Refusal::KeyNotFound);
        }
        if !self.conditions.is_empty()
            && self.conditions.verdict(before.map(tag_of)) != Verdict::Holds
        {
            return Err(Refusal::PreconditionFailed);
        }
        match self.verb {
            Verb::Add(amount) => sum(before, amount).map(drop),
            Verb::Append => {
                let bytes = before.map_or(0, |entry| entry.value().len()) + body.len();
                if bytes as u64 > bytes_max { Err(Refusal::ValueTooLarge) } else { Ok(()) }
            }
            Verb::Set | Verb::Delete | Verb::Take | Verb::Touch => Ok(()),
        }
    }

    /// What becomes of what is there, where it may be done.
    fn apply(&self, body: &Bytes, before: Option<&Entry>) -> Decision {
        let value = match self.verb {
            Verb::Delete | Verb::Take => return Decision::Remove,
            Verb::Touch => {
                let expiry = self.expiry(before);
                let touched = before.cloned().map(|entry| entry.with_expiry(expiry));
                return touched.map_or(Decision::Keep, Decision::Replace);
            }
            Verb::Set => body.clone(),
            Verb::Append => {
                [before.map_or(&[][..], |entry| entry.value()), &body[..]].concat().into()
            }
            Verb::Add(amount) => match sum(before, amount) {
                Ok(sum) => sum.to_string().into(),
                Err(_) => return Decision::Keep,
            },
        };
        Decision::Replace(self.entry(before, value))
    }

    /// The change that it is for the storage.
    pub(super) fn change(self: &Arc<Self>, body: Bytes, bytes_max: u64) -> Change {
        let writing = Arc::clone(self);
        Box::new(move |before| match writing.check(&body, bytes_max, before) {
            Ok(()) => writing.apply(&body, before),
            Err(_) => Decision::Keep,
        })
    }

    /// The answer, given what the storage has seen and done.
    pub(super) fn reply(&self, body: &Bytes, bytes_max: u64, updated: &Updated) -> Reply {
        let Updated { before, after } = updated;
        let before = before.as_ref();
        if let Err(refusal) = self.check(body, bytes_max, before) {
            let reply = refusal.reply();
            return match before {
                Some(before) if refusal == Refusal::PreconditionFailed => {
                    reply.with_tag(tag_of(before))
                }
                Some(_) | None => reply,
            };
        }
        match (self.verb, before, after) {
            (Verb::Take, Some(before), _) => Reply::taken(before, tag_of(before)),
            (_, None, Some(after)) if self.may_create() => Reply::created().with_validators(after),
            (Verb::Add(_), _, Some(after)) => Reply::number(after).with_validators(after),
            (_, _, Some(after)) => Reply::empty().with_validators(after),
            (_, _, None) => Reply::empty(),
        }
    }
}

fn tag_of(entry: &Entry) -> EntityTag {
    EntityTag::new(entry.digest())
}

/// What the query and the field say of the lifetime, which have to agree.
fn lifetime_of(query: Query<'_>, fields: Fields<'_>) -> Result<Option<Lifetime>, Refusal> {
    let by_field = fields.ttl()?.map(Lifetime::For);
    let by_query = match query.ttl {
        None => None,
        Some("keep") => Some(Lifetime::Kept),
        Some("none") => Some(Lifetime::Endless),
        Some(text) => Some(Lifetime::For(lifetime::parse(text).ok_or(Refusal::LifetimeMalformed)?)),
    };
    match (by_query, by_field) {
        (Some(one), Some(other)) if one != other => Err(Refusal::LifetimesDiffer),
        (one, other) => Ok(one.or(other)),
    }
}

/// The number that is there, or 0, and `amount` more.
fn sum(before: Option<&Entry>, amount: i64) -> Result<i64, Refusal> {
    let number = before.map_or(Some(0), |entry| number_in(entry.value()));
    let number = number.ok_or(Refusal::NotANumber)?;
    number.checked_add(amount).ok_or(Refusal::NumberOutOfRange)
}

/// The whole number that a value's bytes are the digits of.
fn number_in(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    // The library would take a plus.
    if text.starts_with('+') { None } else { text.parse().ok() }
}
