//! The effect of a write on the entry under its key.
//!
//! [`check`] refuses an update because of the entry before, [`apply`] makes the
//! entry after. Both are pure: the storage may call them several times, and the
//! reply is derived from the entries of the call that took effect.
//!
//! [`check`]: Update::check
//! [`apply`]: Update::apply

use crate::api::etag::{Conditions, EntityTag, Precondition};
use crate::api::ttl::Ttl;
use crate::api::{Refusal, Reply, target};
use crate::storage::{Change, Decision, Entry, Key, Time, Updated};
use bytes::Bytes;
use std::sync::Arc;

/// The effect of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Store the body.
    Set,
    /// Store the body where nothing is there.
    Create,
    /// Delete the entry.
    Delete,
    /// Delete the entry and reply with it.
    Take,
    /// Set the time to live of the entry.
    Touch,
    /// Add to the number in the entry.
    Add(i64),
    /// Append the body to the value.
    Append,
}

/// A write that depends on the entry before.
pub struct Update {
    pub verb: Verb,
    pub conditions: Conditions,
    pub ttl: Option<Ttl>,
    pub content_type: Option<Arc<str>>,
    pub body: Bytes,
    pub value_bytes_max: u64,
    /// The key for a `Location`, of a write that is told if it has created one.
    pub created: Option<Key>,
}

impl Verb {
    /// True if the body becomes a value or part of one. Otherwise the fields that
    /// describe a body are ignored.
    pub fn stores_body(self) -> bool {
        match self {
            Self::Set | Self::Create | Self::Append => true,
            Self::Delete | Self::Take | Self::Touch | Self::Add(_) => false,
        }
    }

    /// Checks the length of the body.
    pub fn check_length(self, bytes: u64) -> Result<(), Refusal> {
        match self {
            Self::Set | Self::Create | Self::Append if bytes == 0 => Err(Refusal::ValueEmpty),
            Self::Touch | Self::Add(_) if bytes > 0 => Err(Refusal::BodyUnexpected),
            Self::Set
            | Self::Create
            | Self::Append
            | Self::Touch
            | Self::Add(_)
            | Self::Delete
            | Self::Take => Ok(()),
        }
    }
}

impl Update {
    /// An update without conditions that needs no body.
    pub fn new(verb: Verb) -> Self {
        Self {
            verb,
            conditions: Conditions::default(),
            ttl: None,
            content_type: None,
            body: Bytes::new(),
            value_bytes_max: 0,
            created: None,
        }
    }

    /// A name for the condition that it waits for: those with the same one wait for the
    /// same.
    pub fn condition(&self) -> Box<str> {
        let waits_for_entry = matches!(self.verb, Verb::Take | Verb::Touch);
        format!("{waits_for_entry} {:?}", self.conditions).into()
    }

    /// The change to be made by the storage.
    pub fn change(self: &Arc<Self>) -> Change {
        let update = Arc::clone(self);
        Box::new(move |before| match update.check(before) {
            Ok(()) => update.apply(before),
            Err(_) => Decision::Refuse,
        })
    }

    /// Refuses the update because of the entry before.
    pub fn check(&self, before: Option<&Entry>) -> Result<(), Refusal> {
        // Conditions do not count where the reply is an error without them
        // (RFC 9110, 13.2.1).
        if before.is_none() && matches!(self.verb, Verb::Take | Verb::Touch) {
            return Err(Refusal::KeyNotFound);
        }
        if !self.conditions.is_empty()
            && self.conditions.evaluate(before.map(EntityTag::of)) != Precondition::Holds
        {
            return Err(Refusal::PreconditionFailed);
        }
        match self.verb {
            Verb::Add(amount) => sum(before, amount).map(drop),
            Verb::Append => {
                let bytes = before.map_or(0, |entry| entry.value().len()) + self.body.len();
                let fits = bytes as u64 <= self.value_bytes_max;
                if fits { Ok(()) } else { Err(Refusal::ValueTooLarge) }
            }
            Verb::Create if before.is_some() => Err(Refusal::KeyExists),
            Verb::Set | Verb::Create | Verb::Delete | Verb::Take | Verb::Touch => Ok(()),
        }
    }

    fn apply(&self, before: Option<&Entry>) -> Decision {
        let value = match self.verb {
            Verb::Delete | Verb::Take => return Decision::Remove,
            Verb::Touch => {
                let expiry = self.expiry(before);
                let touched = before.cloned().map(|entry| entry.with_expiry(expiry));
                return touched.map_or(Decision::Keep, Decision::Replace);
            }
            Verb::Set | Verb::Create => self.body.clone(),
            Verb::Append => {
                [before.map_or(&[][..], |entry| entry.value()), &self.body[..]].concat().into()
            }
            Verb::Add(amount) => match sum(before, amount) {
                Ok(sum) => sum.to_string().into(),
                Err(_) => return Decision::Keep,
            },
        };
        Decision::Replace(self.entry(before, value))
    }

    /// The entry of a new value. A value that grows keeps its type and expiry.
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
        self.ttl.and_then(|ttl| ttl.expiry(before))
    }

    /// The reply, from the entries that the storage found and left.
    pub fn reply(&self, Updated { before, after }: &Updated) -> Reply {
        let before = before.as_ref();
        if let Err(refusal) = self.check(before) {
            let reply = Reply::from(refusal);
            return match before {
                Some(before) if refusal == Refusal::PreconditionFailed => {
                    reply.with_tag(EntityTag::of(before))
                }
                Some(before) if refusal == Refusal::KeyExists => Reply::existing(before),
                Some(_) | None => reply,
            };
        }
        match (self.verb, before, after) {
            (Verb::Take, Some(before), _) => Reply::taken(before, EntityTag::of(before)),
            (Verb::Add(_), _, Some(after)) => Reply::number(after).with_validators(after),
            (_, None, Some(after)) => self.created(after),
            (_, Some(_), Some(after)) => Reply::empty().with_validators(after),
            (_, _, None) => Reply::empty(),
        }
    }

    /// The reply with the key that was the first one with a prefix, or without any.
    pub fn reply_with_key(&self, first: Option<(Key, Updated)>) -> Reply {
        let Some((key, updated)) = first else { return Refusal::KeyNotFound.into() };
        self.reply(&updated).with_header("Content-Location", target::path_of(&key))
    }

    /// The reply where nothing was there before.
    fn created(&self, after: &Entry) -> Reply {
        let Some(key) = &self.created else { return Reply::empty().with_validators(after) };
        Reply::created().with_validators(after).with_header("Location", target::path_of(key))
    }
}

/// The number in the entry, 0 without one, plus `amount`.
fn sum(before: Option<&Entry>, amount: i64) -> Result<i64, Refusal> {
    let number = before.map_or(Some(0), |entry| parse_number(entry.value()));
    let number = number.ok_or(Refusal::NotANumber)?;
    number.checked_add(amount).ok_or(Refusal::NumberOutOfRange)
}

fn parse_number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    // `parse` would take a plus.
    if text.starts_with('+') { None } else { text.parse().ok() }
}
