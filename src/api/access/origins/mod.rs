//! Cross-origin resource sharing (the Fetch standard, 3.2): the pages of other origins that
//! may read replies, and the header fields that tell their browsers so.
//!
//! A browser keeps a reply from a page of another origin unless the reply names that
//! origin, and asks first (a preflight) before it sends what a form could not. Whether a
//! call is done is decided elsewhere: an origin is no credential, as any other client can
//! write what it likes into `Origin`. Nothing here allows cookies (the credentials mode):
//! a page sends its token itself.
//!
//! The fields are added to every reply to an admitted or a refused call, errors as well,
//! but not to the refusal of a head that is not understood: its `Origin` is not known.

use crate::api::Reply;
use crate::api::fields::Fields;
use crate::api::grammar::{OWS, is_host_name, is_token, split_port};
use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The fields of replies that a page may read. The standard lets it read `Cache-Control`,
/// `Content-Length`, `Content-Type` and `Last-Modified` anyway.
const EXPOSED: &str = "Accept-Encoding, Accept-Ranges, Allow, Content-Location, Content-Range, Date, ETag, Link, Location, Preference-Applied, Retry-After, Revision, Token-Rights, TTL, Vary, WWW-Authenticate, x-artifact-dirty-hash, x-artifact-duration, x-artifact-sha, x-artifact-tag";

/// The fields of calls that mean something here, and that a page may send. The standard lets
/// it send `Accept` anyway.
const TAKEN: &[&str] = &[
    "Authorization",
    "Cache-Control",
    "Content-Digest",
    "Content-Encoding",
    "Content-MD5",
    "Content-Range",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "Repr-Digest",
    "TTL",
];

/// The seconds for which a browser may keep the reply to a preflight. It spares most calls
/// theirs, and a page of an origin that is removed writes no longer than that.
const PREFLIGHT_SECONDS: &str = "600";

/// The origins whose pages may read replies; none unless told.
#[derive(Clone, Debug, Default)]
pub struct Origins(Option<Arc<[Origin]>>);

/// An origin that `--cors-origin` adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Any: `*`.
    Any,
    /// This one: a scheme and a host, with a port if that is not the usual one, in the form
    /// in which browsers send it (RFC 6454, 6.2).
    One(Box<str>),
}

/// A text that is not an [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOrigin;

/// The part of a reply that tells a browser of its page's access.
#[derive(Clone, Debug)]
pub struct Cors {
    /// The value of `Access-Control-Allow-Origin`; without one no page may read the reply.
    allow_origin: Option<Cow<'static, str>>,
    /// Another origin would get another reply.
    varies: bool,
    /// The call is of a page of an allowed origin.
    is_allowed: bool,
    preflight: Option<Preflight>,
}

/// The question of a browser whether its page may send a call (the Fetch standard, 4.8).
#[derive(Clone, Debug)]
struct Preflight {
    /// The value of `Access-Control-Allow-Headers`.
    allow_headers: String,
    /// The page is of a public network, and this may be a private one (Private Network
    /// Access, 3.1).
    is_of_public_network: bool,
}

impl Origins {
    /// These origins.
    pub fn new(origins: impl IntoIterator<Item = Origin>) -> Self {
        let origins: Arc<[Origin]> = origins.into_iter().collect();
        Self((!origins.is_empty()).then_some(origins))
    }

    /// The word of the reply to a browser (CORS), for a call with these fields; `None` where
    /// no origin is allowed at all.
    pub fn cors(&self, method: &str, fields: Fields<'_>) -> Option<Box<Cors>> {
        let origins = self.0.as_ref()?;
        Some(Box::new(Cors::new(origins, method, fields)))
    }
}

impl Cors {
    fn new(origins: &[Origin], method: &str, fields: Fields<'_>) -> Self {
        let origin = fields.only("Origin").map(|origin| origin.trim_matches(OWS));
        let (allow_origin, varies) = if origins.contains(&Origin::Any) {
            // To a call without an origin as well, so that a cache has one reply for all.
            (Some(Cow::Borrowed("*")), false)
        } else {
            let allowed = origin.filter(|origin| origins.iter().any(|one| one.is(origin)));
            (allowed.map(|origin| Cow::Owned(origin.to_owned())), true)
        };
        let is_allowed = origin.is_some() && allow_origin.is_some();
        let is_preflight =
            is_allowed && method == "OPTIONS" && fields.has("Access-Control-Request-Method");
        let preflight = is_preflight.then(|| Preflight::new(fields));
        Self { allow_origin, varies, is_allowed, preflight }
    }

    /// Returns true for a page of an allowed origin.
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    /// Returns true for a preflight of an allowed origin. It is answered with the methods
    /// of its path whatever else would be wrong with the call that follows, as a page can
    /// read the refusal of that call, and not one of its preflight.
    pub fn is_preflight(&self) -> bool {
        self.preflight.is_some()
    }

    /// The reply with the fields that tell of it.
    #[must_use]
    pub fn apply(&self, reply: Reply) -> Reply {
        let reply = if self.varies { reply.varying_with("Origin") } else { reply };
        let Some(origin) = &self.allow_origin else { return reply };
        let reply = reply.with_header("Access-Control-Allow-Origin", origin.clone());
        match &self.preflight {
            Some(preflight) => preflight.apply(reply),
            None => reply.with_header("Access-Control-Expose-Headers", EXPOSED),
        }
    }
}

/// The most names of fields that a preflight is heard out on: no page has so many.
const ASKED_MAX: usize = 100;

impl Preflight {
    /// The fields that are allowed are those that mean something here, so that a browser
    /// need not ask again for the next call, and all others that the page wants to send:
    /// they harm nobody, and tools that trace a page's requests add some. `*` would do for
    /// neither: it leaves out `Authorization`.
    fn new(fields: Fields<'_>) -> Self {
        let mut names = TAKEN.to_vec();
        let asked = fields.all("Access-Control-Request-Headers").flat_map(|list| list.split(','));
        for name in asked.map(|name| name.trim_matches(OWS)).take(ASKED_MAX) {
            if is_token(name.as_bytes()) && !names.iter().any(|it| it.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
        let network = fields.only("Access-Control-Request-Private-Network");
        Self {
            allow_headers: names.join(", "),
            is_of_public_network: network.map(|it| it.trim_matches(OWS)) == Some("true"),
        }
    }

    fn apply(&self, reply: Reply) -> Reply {
        // A refusal, as that of a `Host`, has none.
        let Some(methods) = reply.header("Allow").map(str::to_owned) else { return reply };
        let reply = reply
            .with_header("Access-Control-Allow-Methods", methods)
            .with_header("Access-Control-Allow-Headers", self.allow_headers.clone())
            .with_header("Access-Control-Max-Age", PREFLIGHT_SECONDS);
        if self.is_of_public_network {
            reply.with_header("Access-Control-Allow-Private-Network", "true")
        } else {
            reply
        }
    }
}

impl Origin {
    /// Compares it with the value of an `Origin`. Browsers send one form only.
    fn is(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => **one == *origin,
        }
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// Parses `*` or `https://app.example.com:8443`, in any case and with a slash at the
    /// end or without. The scheme is any that a page may have, as those of extensions
    /// (`chrome-extension://ID`) and of apps (`capacitor://localhost`). A name beyond ASCII
    /// is refused: browsers send its form in ASCII (`xn--...`). So is `null`, which every
    /// page can have in its `Origin`.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let (host, port) = split_port(authority.strip_suffix('/').unwrap_or(authority));
        let port_usual = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            // No page has one of these in its `Origin`.
            "ws" | "wss" | "ftp" | "file" | "data" | "blob" => return Err(InvalidOrigin),
            _ if is_scheme(scheme) => None,
            _ => return Err(InvalidOrigin),
        };
        let port = match port {
            "" => None,
            digits => Some(digits.parse::<u16>().map_err(|_| InvalidOrigin)?),
        };
        let host = parse_host(host)?;
        Ok(Self::One(match port.filter(|port| Some(*port) != port_usual) {
            None => format!("{scheme}://{host}").into(),
            Some(port) => format!("{scheme}://{host}:{port}").into(),
        }))
    }
}

/// True for a scheme in lower case (RFC 3986, 3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// A host in the form in which browsers send it (the URL standard, 3.5): a name, or an
/// address.
fn parse_host(text: &str) -> Result<Cow<'_, str>, InvalidOrigin> {
    if let Some(literal) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let addr: Ipv6Addr = literal.parse().map_err(|_| InvalidOrigin)?;
        return Ok(Cow::Owned(match (addr.to_ipv4_mapped(), addr.segments()) {
            // The standard library would write this one with dots, and browsers do not.
            (Some(_), [.., high, low]) => format!("[::ffff:{high:x}:{low:x}]"),
            (None, _) => format!("[{addr}]"),
        }));
    }
    if !is_host_name(text) {
        return Err(InvalidOrigin);
    }
    // Browsers take what ends in a number for an address.
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_address = last.bytes().all(|byte| byte.is_ascii_digit());
    if is_address && text.parse::<Ipv4Addr>().is_err() {
        return Err(InvalidOrigin);
    }
    Ok(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests;
