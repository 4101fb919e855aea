//! `GET` and `HEAD` of the changes: a stream of them, or the next ones.
//!
//! Here is the parse of the head. `stream` makes the parts of the reply, and `forms` the
//! lines in them. Conditions and `Range` are ignored, as of a list.

mod forms;
mod stream;

use super::{Operation, Routed, wait};
use crate::api::access::Right;
use crate::api::collection::{flag, key_text};
use crate::api::fields::Fields;
use crate::api::grammar::OWS;
use crate::api::query::{check_names, parameters};
use crate::api::target::decode_key;
use crate::api::{Refusal, Reply, Rest, Step};
use crate::storage::{Key, Revision, Storage, Watched};
use forms::Form;
use std::time::Duration;
use stream::Stream;

/// The parameters of a `GET`.
const NAMES: &[&str] = &["prefix", "key", "since", "values", "wait"];

/// A watch that is asked for.
pub struct Watch {
    watched: Watched,
    since: Since,
    form: Form,
    /// The time until the end of a reply that is no stream.
    wait: Option<Duration>,
    /// The head alone is asked for.
    is_head: bool,
}

/// The first change to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// The next one.
    Now,
    /// The first one behind the state, which is told before it.
    State,
    /// The first one behind a position.
    Revision(Revision),
}

/// Parses the head.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let parameters = Parameters::parse(routed.target.query)?;
    let watched = match (parameters.prefix, parameters.key) {
        (Some(_), Some(_)) => return Err(Refusal::QueryContradictory),
        (prefix, None) => Watched::Prefix(prefix.unwrap_or_default()),
        (None, Some(key)) => Watched::Key(key),
    };
    let rights = &routed.caller.rights;
    match &watched {
        Watched::Prefix(prefix) => rights.check_prefix(Right::Read, prefix)?,
        Watched::Key(key) => rights.check_key(Right::Read, key.as_str())?,
    }
    let last_id = Since::of_last_id(routed.fields)?;
    Ok(Operation::Watch(Box::new(Watch {
        watched,
        since: last_id.or(parameters.since).unwrap_or(Since::Now),
        form: Form::parse(routed.fields, parameters.has_values),
        wait: parameters.wait,
        is_head: routed.method == "HEAD",
    })))
}

/// Refuses a query that no watch has.
pub fn check_query(query: &str) -> Result<(), Refusal> {
    Parameters::parse(query).map(drop)
}

impl Watch {
    /// Returns true for a stream, which goes on until its client leaves.
    pub fn is_stream(&self) -> bool {
        !self.is_head && self.wait.is_none()
    }

    /// The first step.
    pub fn begin(self, storage: &dyn Storage) -> Result<Step, Reply> {
        let changes = storage.changes().ok_or(Refusal::EngineLacksChanges)?;
        if self.is_head {
            let rest = Rest::new(|| Step::Reply(Reply::part_of_body(Vec::new())));
            return Ok(Step::Reply(self.form.reply(Vec::new()).with_rest(rest)));
        }
        Ok(Stream::begin(changes, self))
    }
}

/// The parameters of the query.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    /// `prefix`: the start of all keys meant.
    prefix: Option<Box<str>>,
    /// `key`: the one key meant.
    key: Option<Key>,
    /// `since`: the first change.
    since: Option<Since>,
    /// `values`: each key with its value.
    has_values: bool,
    /// `wait`: the time until the end.
    wait: Option<Duration>,
}

impl Parameters {
    /// Parses the query of a target, skipping empty parameters.
    fn parse(query: &str) -> Result<Self, Refusal> {
        check_names(query, NAMES)?;
        let mut parsed = Self::default();
        let mut seen = Vec::new();
        for (name, value) in parameters(query) {
            let value = value.unwrap_or_default();
            if seen.contains(&name) {
                return Err(Refusal::QueryContradictory);
            }
            match name {
                "prefix" => parsed.prefix = Some(key_text(value)?),
                "key" => parsed.key = Some(decode_key(value)?),
                "since" => parsed.since = Some(Since::parse(value)?),
                "values" => parsed.has_values = flag(value)?,
                "wait" => parsed.wait = Some(wait::parse_time(value)?),
                _ => return Err(Refusal::QueryUnknown),
            }
            seen.push(name);
        }
        Ok(parsed)
    }
}

impl Since {
    fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "0" => Ok(Self::State),
            text => text.parse().map(Self::Revision).map_err(|_| Refusal::SinceMalformed),
        }
    }

    /// The position in the field `Last-Event-ID`, which a browser sends as it connects
    /// again; an empty one is none.
    fn of_last_id(fields: Fields<'_>) -> Result<Option<Self>, Refusal> {
        let ids = fields.all("Last-Event-ID").map(|id| id.trim_matches(OWS));
        let mut ids = ids.filter(|id| !id.is_empty());
        let since = ids.next().map(Self::parse).transpose()?;
        if ids.next().is_some() { Err(Refusal::SinceMalformed) } else { Ok(since) }
    }
}
