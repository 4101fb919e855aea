//! `/v8/artifacts`: the remote cache of Turborepo, on keys of the store.
//!
//! The artifact of a task is the value under `turbo/TEAM/HASH`, or `turbo/HASH` for a client
//! without a team, so it is listed, deleted and held to the rights of a token as any other.
//! The fields that a client wants back with it are parameters of its content type: they
//! come and go with the value.

use super::read::Read;
use super::update::Verb;
use super::write::Write;
use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Right;
use crate::api::fields::Fields;
use crate::api::media_type::MEDIA_TYPE_BYTES_MAX;
use crate::api::query::{check_names, parameters};
use crate::api::target::{self, decode};
use crate::api::{Refusal, Reply, Step};
use crate::storage::{Effect, Entry, Key, Op};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// The content type of an artifact, but for its parameters.
const MEDIA_TYPE: &str = "application/octet-stream";

/// The fields that come back with an artifact, and their names among the parameters of its
/// content type.
const FIELDS: [(&str, &str); 4] = [
    ("x-artifact-duration", "duration"),
    ("x-artifact-tag", "tag"),
    ("x-artifact-sha", "sha"),
    ("x-artifact-dirty-hash", "dirty-hash"),
];

/// Parses the head of a `GET` or `HEAD` of the status. The query is ignored.
pub fn status(_: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Reply(Reply::json(200, "{\"status\":\"enabled\"}\n")))
}

/// Parses the head of a `POST` of events: the hits and misses of a client, which are
/// dropped. The query is ignored.
pub fn events(routed: Routed<'_>) -> Result<Operation, Refusal> {
    routed.caller.check_site(routed.target, routed.fields)?;
    Ok(Operation::Reply(Reply::empty()))
}

/// Parses the head of a `GET` or `HEAD` of an artifact.
pub fn get(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let (fields, is_get) = (routed.fields, routed.method == "GET");
    let key = key(routed, Right::Read)?;
    let read = Read::parse(fields, is_get)?;
    let then = move |effect| {
        let Effect::Found(entry) = effect else { unreachable!("the operation was a get") };
        Step::Reply(found(&read, entry))
    };
    let answer = Answer::Then(Box::new(then));
    Ok(Operation::Pending(Box::new(Pending { op: Op::Get(key), answer })))
}

/// Parses the head of a `PUT` of an artifact.
pub fn put(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let fields = routed.fields;
    let key = key(routed, Right::Write)?;
    let content_type = content_type(fields)?;
    let mut write = Write::parse(Verb::Set, None, key, fields)?;
    write.content_type = Some(content_type);
    Ok(Operation::Artifact(Box::new(write)))
}

/// The operation on the storage for an artifact and its body.
pub fn plan(write: Write, body: Bytes, value_bytes_max: u64) -> Result<Pending, Refusal> {
    let path = target::path_of(&write.key);
    let Pending { op, answer } = write.plan(body, value_bytes_max)?.alone();
    let then = move |effect| {
        let step = answer.step(Ok(effect));
        let is_stored = matches!(&step, Step::Reply(reply) if reply.status() < 400);
        let urls = || format!("{{\"urls\":[\"{path}\"]}}\n");
        if is_stored { Step::Reply(Reply::json(202, urls())) } else { step }
    };
    Ok(Pending { op, answer: Answer::Then(Box::new(then)) })
}

/// The key of the artifact that a call names, on which the caller has this right.
fn key(routed: Routed<'_>, right: Right) -> Result<Key, Refusal> {
    let rights = &routed.caller.rights;
    rights.check(right)?;
    let team = team(routed.target.query, right == Right::Read)?;
    let hash = routed.into_key();
    let hash = hash.as_str();
    let has_slash = |part: &str| part.contains('/');
    if has_slash(hash) || team.as_deref().is_some_and(has_slash) {
        return Err(Refusal::ArtifactSlash);
    }
    let key = match team {
        Some(team) => format!("turbo/{team}/{hash}"),
        None => format!("turbo/{hash}"),
    };
    let key = target::key(key.into())?;
    rights.check_key(right, key.as_str())?;
    Ok(key)
}

/// The team in a query: `teamId`, or else `slug`. A read ignores other parameters.
fn team(query: &str, is_of_read: bool) -> Result<Option<Cow<'_, str>>, Refusal> {
    if !is_of_read {
        check_names(query, &["teamId", "slug"])?;
    }
    let (mut id, mut slug) = (None, None);
    for (name, value) in parameters(query) {
        let team = match name {
            "teamId" => &mut id,
            "slug" => &mut slug,
            _ => continue,
        };
        if team.replace(value.unwrap_or_default()).is_some() {
            return Err(Refusal::QueryContradictory);
        }
    }
    let team = [id, slug].into_iter().flatten().find(|team| !team.is_empty());
    team.map(decode).transpose()
}

/// The content type of an artifact that comes with these fields.
fn content_type(fields: Fields<'_>) -> Result<Arc<str>, Refusal> {
    let mut content_type = MEDIA_TYPE.to_owned();
    for (field, parameter) in FIELDS {
        if !fields.has(field) {
            continue;
        }
        let value = fields.only(field).filter(|value| value.bytes().all(is_plain));
        let value = value.ok_or(Refusal::ArtifactField)?;
        content_type.extend(["; ", parameter, "=\"", value, "\""]);
    }
    let fits = content_type.len() <= MEDIA_TYPE_BYTES_MAX;
    if fits { Ok(content_type.into()) } else { Err(Refusal::ArtifactField) }
}

/// True for a byte that stands between quotes as it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')
}

/// The reply to a read, with the fields of an artifact.
fn found(read: &Read, entry: Option<Entry>) -> Reply {
    let content_type = entry.as_ref().and_then(Entry::content_type).cloned();
    let mut parts = content_type.as_deref().unwrap_or_default().split("; ");
    if parts.next() != Some(MEDIA_TYPE) {
        return read.reply(entry.as_ref());
    }
    let entry = entry.map(|entry| entry.with_content_type(Some(MEDIA_TYPE.into())));
    let mut reply = read.reply(entry.as_ref());
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let field = FIELDS.iter().find(|(_, parameter)| *parameter == name);
        if let Some((field, _)) = field.filter(|_| reply.status() < 300) {
            reply = reply.with_header(field, value.trim_matches('"').to_owned());
        }
    }
    reply
}
