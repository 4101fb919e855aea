//! The table of routes: every path, its methods and their operations.
//!
//! `Allow`, `OPTIONS *` and the text of 404 come from the table.

use super::fields::Fields;
use super::operations::{
    Operation, Parse, Routed, add, batch, clear, health, import, list, manual, options, read,
    remove, watch, write,
};
use super::target::{Target, decode_key};
use super::{Refusal, Reply};
use crate::storage::Key;

/// The end of a path that stands for any key, percent-encoded.
const KEY: &str = "{key}";

/// One path.
pub struct Route {
    /// Its text, in which `{key}` stands for the rest.
    pub path: &'static str,
    /// Its methods, in the order of `Allow`.
    pub methods: &'static [(&'static str, Parse)],
}

/// The path of every key.
const OF_KEY: Route = Route {
    path: "/kv/{key}",
    methods: &[
        ("GET", read::parse),
        ("HEAD", read::parse),
        ("PUT", write::put),
        ("POST", write::post),
        ("DELETE", write::delete),
        ("OPTIONS", options::of_value),
    ],
};

pub const ROUTES: &[Route] = &[
    OF_KEY,
    Route {
        path: "/kv",
        methods: &[
            ("GET", list::parse),
            ("HEAD", list::parse),
            ("POST", add::parse),
            ("DELETE", remove::parse),
            ("OPTIONS", options::of_collection),
        ],
    },
    Route { path: "/batch", methods: &[("POST", batch::parse), ("OPTIONS", options::of_action)] },
    Route {
        path: "/watch",
        methods: &[("GET", watch::parse), ("HEAD", watch::parse), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/import",
        methods: &[
            ("POST", import::parse),
            ("PUT", import::parse),
            ("OPTIONS", options::of_action),
        ],
    },
    Route { path: "/clear", methods: &[("DELETE", clear::parse), ("OPTIONS", options::of_action)] },
    Route {
        path: "/healthz",
        methods: &[("GET", health::parse), ("HEAD", health::parse), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/",
        methods: &[("GET", manual::parse), ("HEAD", manual::parse), ("OPTIONS", options::parse)],
    },
];

/// The operation of a call, with all checks of its head but that of `Host`.
pub fn parse(method: &str, target: Target<'_>, fields: Fields<'_>) -> Result<Operation, Reply> {
    // The server as a whole (RFC 9112, 3.2.4).
    if (method, target.path) == ("OPTIONS", "*") {
        let methods = ROUTES.iter().flat_map(|route| route.methods);
        return Ok(Operation::Reply(Reply::options(options::allow(methods))));
    }
    let (route, key) = find(target.path)?;
    parse_method(route, method, key, target, fields).map_err(|refusal| {
        let reply = Reply::from(refusal);
        let names_methods = refusal == Refusal::MethodNotAllowed;
        if names_methods {
            reply.with_header("Allow", options::allow(route.methods))
        } else {
            reply
        }
    })
}

/// The operation of a call on a key that is a part of another call.
pub fn parse_on_key(
    method: &str,
    key: Key,
    target: Target<'_>,
    fields: Fields<'_>,
) -> Result<Operation, Refusal> {
    parse_method(&OF_KEY, method, Some(key), target, fields)
}

/// The key in a path; none in one that is not that of a key.
pub fn key_in(path: &str) -> Option<Result<Key, Refusal>> {
    path.strip_prefix(OF_KEY.path.strip_suffix(KEY)?).map(decode_key)
}

fn parse_method(
    Route { methods, .. }: &Route,
    method: &str,
    key: Option<Key>,
    target: Target<'_>,
    fields: Fields<'_>,
) -> Result<Operation, Refusal> {
    match methods.iter().find(|(name, _)| *name == method) {
        Some((_, parse)) => parse(Routed { method, methods, key, target, fields }),
        None => Err(Refusal::MethodNotAllowed),
    }
}

/// The route of a path, and the key in it. Nothing is normalized or redirected.
fn find(path: &str) -> Result<(&'static Route, Option<Key>), Reply> {
    for route in ROUTES {
        let prefix = route.path.strip_suffix(KEY);
        if let Some(encoded) = prefix.and_then(|prefix| path.strip_prefix(prefix)) {
            return Ok((route, Some(decode_key(encoded)?)));
        }
        if prefix.is_none() && path == route.path {
            return Ok((route, None));
        }
    }
    if !path.starts_with('/') {
        return Err(Refusal::TargetMalformed.into());
    }
    let (status, text) = Refusal::PathUnknown.status_and_text();
    Err(Reply::error(status, &text.replace("{paths}", &paths())))
}

/// The paths of all routes but the manual's, as a clause.
fn paths() -> String {
    let paths = ROUTES.iter().map(|route| route.path).filter(|path| *path != "/");
    let paths = paths.collect::<Vec<_>>().join(", ");
    match paths.rsplit_once(", ") {
        Some((rest, last)) => format!("{rest} and {last}"),
        None => paths,
    }
}
