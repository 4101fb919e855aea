//! `OPTIONS` of every path: 204 with its methods, and the rights of a token that is shown.

use super::{Operation, Parse, Routed, watch};
use crate::api::collection::{self, Parameters};
use crate::api::{Refusal, Reply, query};

/// Parses the head. The query is ignored.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let reply = Reply::options(allow(routed.methods));
    let shows_token = routed.fields.has("Authorization");
    let rights = if shows_token { routed.caller.rights.to_field() } else { None };
    Ok(Operation::Reply(match rights {
        Some(rights) => reply.with_header("Token-Rights", rights),
        None => reply,
    }))
}

/// The same where a value is read.
pub fn of_value(routed: Routed<'_>) -> Result<Operation, Refusal> {
    query::check_read(routed.target.query)?;
    parse(routed)
}

/// The same for the collection.
pub fn of_collection(routed: Routed<'_>) -> Result<Operation, Refusal> {
    Parameters::parse(routed.target.query, collection::NAMES)?;
    parse(routed)
}

/// The same where changes are told.
pub fn of_watch(routed: Routed<'_>) -> Result<Operation, Refusal> {
    watch::check_query(routed.target.query)?;
    parse(routed)
}

/// The same where nothing has parameters.
pub fn of_action(routed: Routed<'_>) -> Result<Operation, Refusal> {
    query::check_none(routed.target.query)?;
    parse(routed)
}

/// The value of `Allow` (RFC 9110, 10.2.1).
pub fn allow<'a>(methods: impl IntoIterator<Item = &'a (&'static str, Parse)>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in methods {
        if !names.contains(name) {
            names.push(name);
        }
    }
    names.join(", ")
}
