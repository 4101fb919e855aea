//! The table of routes: every path, its methods and their operations.
//!
//! `Allow`, `OPTIONS *` and the text of 404 come from the table.

use super::access::{Admittance, Caller, TokenUse};
use super::fields::Fields;
use super::operations::{
    Operation, Parse, Routed, add, artifacts, batch, clear, health, import, list, manual, metrics,
    openapi, options, read, remove, watch, write,
};
use super::target::{Target, decode_key};
use super::{Refusal, Reply};
use crate::metrics::Label;
use crate::storage::Key;

/// The ends of a path that stand for any key, or for the last part of one, percent-encoded.
const KEY: &str = "{key}";
const HASH: &str = "{hash}";

/// One path.
pub struct Route {
    /// Its text, in which `{key}` or `{hash}` stands for the rest.
    pub path: &'static str,
    /// The least that it asks of a caller.
    pub admittance: Admittance,
    /// Its methods, in the order of `Allow`.
    pub methods: &'static [(&'static str, Parse)],
}

/// The path of every key.
const OF_KEY: Route = Route {
    path: "/kv/{key}",
    admittance: Admittance::Token,
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
        admittance: Admittance::Token,
        methods: &[
            ("GET", list::parse),
            ("HEAD", list::parse),
            ("POST", add::parse),
            ("DELETE", remove::parse),
            ("OPTIONS", options::of_collection),
        ],
    },
    Route {
        path: "/batch",
        admittance: Admittance::Token,
        methods: &[("POST", batch::parse), ("OPTIONS", options::of_action)],
    },
    Route {
        path: "/watch",
        admittance: Admittance::Token,
        methods: &[("GET", watch::parse), ("HEAD", watch::parse), ("OPTIONS", options::of_watch)],
    },
    Route {
        path: "/import",
        admittance: Admittance::Token,
        methods: &[
            ("POST", import::parse),
            ("PUT", import::parse),
            ("OPTIONS", options::of_action),
        ],
    },
    Route {
        path: "/clear",
        admittance: Admittance::Token,
        methods: &[("DELETE", clear::parse), ("OPTIONS", options::of_action)],
    },
    Route {
        path: "/metrics",
        admittance: Admittance::Token,
        methods: &[("GET", metrics::parse), ("HEAD", metrics::parse), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/openapi.json",
        admittance: Admittance::Open,
        methods: &[("GET", openapi::parse), ("HEAD", openapi::parse), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/livez",
        admittance: Admittance::Open,
        methods: &[("GET", health::live), ("HEAD", health::live), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/readyz",
        admittance: Admittance::OpenInShort,
        methods: &[("GET", health::ready), ("HEAD", health::ready), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/healthz",
        admittance: Admittance::Open,
        methods: &[("GET", health::parse), ("HEAD", health::parse), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/v8/artifacts/status",
        admittance: Admittance::Token,
        methods: &[
            ("GET", artifacts::status),
            ("HEAD", artifacts::status),
            ("OPTIONS", options::parse),
        ],
    },
    Route {
        path: "/v8/artifacts/events",
        admittance: Admittance::Token,
        methods: &[("POST", artifacts::events), ("OPTIONS", options::parse)],
    },
    Route {
        path: "/v8/artifacts/{hash}",
        admittance: Admittance::Token,
        methods: &[
            ("GET", artifacts::get),
            ("HEAD", artifacts::get),
            ("PUT", artifacts::put),
            ("OPTIONS", options::parse),
        ],
    },
    Route {
        path: "/",
        admittance: Admittance::Open,
        methods: &[("GET", manual::parse), ("HEAD", manual::parse), ("OPTIONS", options::parse)],
    },
];

impl Route {
    /// The start of the path, where the end stands for a key.
    pub fn prefix(&self) -> Option<&'static str> {
        self.path.strip_suffix(KEY).or_else(|| self.path.strip_suffix(HASH))
    }

    /// Returns true if a `GET` of it reads one key.
    fn is_of_key(&self) -> bool {
        self.prefix().is_some()
    }
}

/// A path of the table, by its place there, or any other path: the label of a call in the
/// metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(u8);

impl RouteId {
    /// All paths that are not in the table.
    #[allow(clippy::cast_possible_truncation, reason = "the table is short")]
    pub const OTHER: Self = Self(ROUTES.len() as u8);

    /// The labels of all of them, in order.
    pub fn labels() -> impl Iterator<Item = Label> {
        let of_route = |route: &Route| Label { text: route.path, is_of_key: route.is_of_key() };
        ROUTES.iter().map(of_route).chain([Label { text: "other", is_of_key: false }])
    }

    /// Its place among [`Self::labels`].
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// A path that was looked up: its place in the table, and the end of the path that stands
/// for a key.
pub struct Found<'a> {
    id: RouteId,
    route: Option<&'static Route>,
    key: Option<&'a str>,
}

impl Found<'_> {
    /// Its label in the metrics.
    pub fn id(&self) -> RouteId {
        self.id
    }

    /// The part of a token in a call with this method and query. A path that is not there
    /// needs one too, so that nobody without a token hears of those that are.
    pub fn token_use(&self, method: &str, query: &str) -> TokenUse {
        let admittance = self.route.map_or(Admittance::Token, |route| route.admittance);
        if method == "OPTIONS" {
            TokenUse::Optional
        } else if admittance.needs_token(query) {
            TokenUse::Needed
        } else {
            TokenUse::Ignored
        }
    }

    /// The reply that tells its methods; those of all paths where it is none of them.
    pub fn options(&self) -> Operation {
        Operation::Reply(Reply::options(match self.route {
            Some(route) => options::allow(route.methods),
            None => options::allow(ROUTES.iter().flat_map(|route| route.methods)),
        }))
    }
}

/// Looks a path up. Nothing is normalized or redirected.
pub fn find(path: &str) -> Found<'_> {
    for (id, route) in (0..).map(RouteId).zip(ROUTES) {
        let prefix = route.prefix();
        if let Some(encoded) = prefix.and_then(|prefix| path.strip_prefix(prefix)) {
            return Found { id, route: Some(route), key: Some(encoded) };
        }
        if prefix.is_none() && path == route.path {
            return Found { id, route: Some(route), key: None };
        }
    }
    Found { id: RouteId::OTHER, route: None, key: None }
}

/// The operation of a call of an admitted caller, with all checks of its head that are left.
pub fn parse(
    method: &str,
    found: &Found<'_>,
    target: Target<'_>,
    fields: Fields<'_>,
    caller: &Caller,
) -> Result<Operation, Reply> {
    // The server as a whole (RFC 9112, 3.2.4).
    if (method, target.path) == ("OPTIONS", "*") {
        return Ok(found.options());
    }
    let Some(route) = found.route else { return Err(not_found(target.path)) };
    let key = found.key.map(decode_key).transpose()?;
    parse_method(route, method, key, target, fields, caller).map_err(|refusal| {
        let reply = Reply::from(refusal);
        let names_methods = refusal == Refusal::MethodNotAllowed;
        if names_methods {
            reply.with_header("Allow", options::allow(route.methods))
        } else {
            reply
        }
    })
}

fn not_found(path: &str) -> Reply {
    if !path.starts_with('/') {
        return Refusal::TargetMalformed.into();
    }
    let (status, text) = Refusal::PathUnknown.status_and_text();
    Reply::error(status, &text.replace("{paths}", &paths()))
}

/// The operation of a call on a key that is a part of another call.
pub fn parse_on_key(
    method: &str,
    key: Key,
    target: Target<'_>,
    fields: Fields<'_>,
    caller: &Caller,
) -> Result<Operation, Refusal> {
    parse_method(&OF_KEY, method, Some(key), target, fields, caller)
}

/// The key in a path; none in one that is not that of a key.
pub fn key_in(path: &str) -> Option<Result<Key, Refusal>> {
    path.strip_prefix(OF_KEY.prefix()?).map(decode_key)
}

fn parse_method(
    Route { methods, .. }: &Route,
    method: &str,
    key: Option<Key>,
    target: Target<'_>,
    fields: Fields<'_>,
    caller: &Caller,
) -> Result<Operation, Refusal> {
    match methods.iter().find(|(name, _)| *name == method) {
        Some((_, parse)) => parse(Routed { method, methods, key, target, fields, caller }),
        None => Err(Refusal::MethodNotAllowed),
    }
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
