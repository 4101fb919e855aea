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

    /// What the reply to a call with these fields has to tell; `None` where no origin is
    /// allowed at all.
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
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap_or_else(|InvalidOrigin| panic!("an origin: {text}"))
    }

    fn origins(texts: &[&str]) -> Origins {
        Origins::new(texts.iter().copied().map(origin))
    }

    type Sent<'a> = &'a [(&'a str, &'a str)];

    /// The reply to a call with the fields of its access.
    fn applied(origins: &Origins, method: &str, fields: Sent<'_>, reply: Reply) -> Reply {
        match origins.cors(method, Fields(fields)) {
            Some(cors) => cors.apply(reply),
            None => reply,
        }
    }

    #[test]
    fn an_origin_is_read_as_browsers_send_it() {
        let table = [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.COM/", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80/", "http://app.example.com"),
            ("http://app.example.com:443", "http://app.example.com:443"),
            ("https://app.example.com:80", "https://app.example.com:80"),
            ("https://app.example.com:08443", "https://app.example.com:8443"),
            ("https://app.example.com:", "https://app.example.com"),
            ("https://app.example.com.", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://my_app", "http://my_app"),
            ("http://192.168.1.2:8080", "http://192.168.1.2:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[0:0::0:1]", "http://[::1]"),
            ("http://[FD00:0:0:1:0:0:0:A]", "http://[fd00:0:0:1::a]"),
            ("http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]"),
            ("http://xn--mnchen-3ya.example", "http://xn--mnchen-3ya.example"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("moz-extension://0a-1b", "moz-extension://0a-1b"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("app://localhost:80", "app://localhost:80"),
        ];
        for (text, sent) in table {
            assert_eq!(origin(text), Origin::One(sent.into()), "{text}");
        }
        assert_eq!(origin("*"), Origin::Any);
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for text in [
            "",
            "null",
            "NULL",
            "app.example.com",
            "localhost:3000",
            "//app.example.com",
            "https:app.example.com",
            "https:/app.example.com",
            "https://",
            "https:///",
            "https://:443",
            "https://app.example.com//",
            "https://app.example.com/path",
            "https://app.example.com/?",
            "https://app.example.com?x",
            "https://app.example.com#x",
            "https://user@app.example.com",
            "https://user:secret@app.example.com",
            "https://*.example.com",
            "https://*",
            "https://.example.com",
            "https://a..b",
            "https://a..",
            "https://app.example.com:x",
            "https://app.example.com:65536",
            "https://app.example.com:1:2",
            "https://m\u{fc}nchen.example",
            "https://a b",
            " https://a",
            "https://a,https://b",
            "http://127.1",
            "http://1.2.3.256",
            "http://1.2.3.4.5",
            "http://[::1",
            "http://::1",
            "http://[127.0.0.1]",
            "file:///",
            "file://a",
            "ws://a",
            "1app://a",
            "a_b://a",
            "blob:https://a",
            "**",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(InvalidOrigin), "{text:?}");
        }
    }

    #[test]
    fn without_origins_there_is_nothing_to_tell() {
        let page = [("Origin", "https://a"), ("Access-Control-Request-Method", "PUT")];
        assert!(Origins::default().cors("OPTIONS", Fields(&page)).is_none());
        assert!(origins(&[]).cors("GET", Fields(&page)).is_none());
    }

    #[test]
    fn a_page_of_an_allowed_origin_may_read_and_no_other() {
        let origins = origins(&["https://a", "http://b:8080"]);
        let table: [(Sent<'_>, Option<&str>); 13] = [
            (&[("Origin", "https://a")], Some("https://a")),
            (&[("oRIGIN", " http://b:8080\t")], Some("http://b:8080")),
            (&[("Origin", "http://a")], None),
            (&[("Origin", "https://a:443")], None),
            (&[("Origin", "https://a.")], None),
            (&[("Origin", "https://a/")], None),
            (&[("Origin", "https://a.evil")], None),
            (&[("Origin", "http://b")], None),
            (&[("Origin", "null")], None),
            (&[("Origin", "")], None),
            (&[("Origin", "*")], None),
            (&[("Origin", "https://a"), ("Origin", "https://a")], None),
            (&[("Referer", "https://a")], None),
        ];
        for (fields, allowed) in table {
            let reply = applied(&origins, "GET", fields, Reply::text("x"));
            assert_eq!(reply.header("Access-Control-Allow-Origin"), allowed, "{fields:?}");
            let exposed = reply.header("Access-Control-Expose-Headers");
            assert_eq!(exposed, allowed.map(|_| EXPOSED), "{fields:?}");
            assert_eq!(reply.header("Vary"), Some("Origin"), "{fields:?}");
            let cors = origins.cors("GET", Fields(fields)).expect("there are origins");
            assert_eq!(cors.is_allowed(), allowed.is_some(), "{fields:?}");
        }
    }

    #[test]
    fn one_reply_for_all_origins_does_not_vary() {
        let origins = origins(&["https://a", "*"]);
        let table: [(Sent<'_>, bool); 4] = [
            (&[("Origin", "https://a")], true),
            (&[("Origin", "https://b")], true),
            (&[("Origin", "https://b"), ("Origin", "https://b")], false),
            (&[], false),
        ];
        for (fields, is_allowed) in table {
            let reply = applied(&origins, "GET", fields, Reply::text("x"));
            assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"), "{fields:?}");
            assert_eq!(reply.header("Access-Control-Expose-Headers"), Some(EXPOSED), "{fields:?}");
            assert_eq!(reply.header("Vary"), None, "{fields:?}");
            let cors = origins.cors("GET", Fields(fields)).expect("there are origins");
            assert_eq!(cors.is_allowed(), is_allowed, "{fields:?}");
        }
    }

    #[test]
    fn a_field_that_a_reply_varies_with_already_stays() {
        let reply = applied(&origins(&["https://a"]), "GET", &[], Reply::number_of(1));
        assert_eq!(reply.header("Vary"), Some("Accept, Origin"));
        assert_eq!(reply.headers().filter(|(name, _)| *name == "Vary").count(), 1);
    }

    #[test]
    fn a_preflight_is_told_methods_and_fields() {
        let origins = origins(&["https://a"]);
        let asks = ("Access-Control-Request-Method", "PUT");
        let page = ("Origin", "https://a");
        let reply = |method, fields: &[_]| {
            applied(&origins, method, fields, Reply::options("GET, PUT".to_owned()))
        };
        let told = reply("OPTIONS", &[page, asks]);
        assert_eq!(told.header("Access-Control-Allow-Origin"), Some("https://a"));
        assert_eq!(told.header("Access-Control-Allow-Methods"), Some("GET, PUT"));
        assert_eq!(told.header("Access-Control-Allow-Headers"), Some(&*TAKEN.join(", ")));
        assert_eq!(told.header("Access-Control-Max-Age"), Some("600"));
        assert_eq!(told.header("Access-Control-Expose-Headers"), None);
        assert_eq!(told.header("Access-Control-Allow-Private-Network"), None);
        assert_eq!(told.header("Access-Control-Allow-Credentials"), None);
        assert_eq!(told.header("Vary"), Some("Origin"));

        let other = ("Origin", "https://b");
        let others: [(_, &[_], bool); 4] = [
            ("OPTIONS", &[page], false),
            ("GET", &[page, asks], false),
            ("OPTIONS", &[other, asks], false),
            ("OPTIONS", &[page, asks], true),
        ];
        for (method, fields, is_preflight) in others {
            let cors = origins.cors(method, Fields(fields)).expect("there are origins");
            assert_eq!(cors.is_preflight(), is_preflight, "{method} {fields:?}");
            let methods = reply(method, fields).header("Access-Control-Allow-Methods").is_some();
            assert_eq!(methods, is_preflight, "{method} {fields:?}");
        }
        let refused = applied(&origins, "OPTIONS", &[page, asks], Reply::error(403, "no"));
        assert_eq!(refused.header("Access-Control-Allow-Methods"), None);
        assert_eq!(refused.header("Access-Control-Allow-Origin"), Some("https://a"));
    }

    #[test]
    fn a_preflight_may_ask_for_fields_that_mean_nothing_here() {
        let more = |lists: &[&str]| {
            let page = [("Origin", "https://a"), ("Access-Control-Request-Method", "PUT")];
            let lists = lists.iter().map(|list| ("Access-Control-Request-Headers", *list));
            let fields: Vec<_> = page.into_iter().chain(lists).collect();
            let reply = Reply::options(String::new());
            let reply = applied(&origins(&["https://a"]), "OPTIONS", &fields, reply);
            let names = reply.header("Access-Control-Allow-Headers").expect("a preflight");
            names.strip_prefix(&TAKEN.join(", ")).expect("those that are taken").to_owned()
        };
        assert_eq!(more(&["if-match,ttl"]), "");
        assert_eq!(more(&["traceparent, if-match ,x-a"]), ", traceparent, x-a");
        assert_eq!(more(&["x-a", "X-A,x-b"]), ", x-a, x-b");
        assert_eq!(more(&["", ",,", "x a", "x:a", "\u{fc}"]), "");
        let many: Vec<_> = (0..100_000).map(|number| format!("x-{number}")).collect();
        assert_eq!(more(&[&many.join(",")]).split(", ").count(), 1 + ASKED_MAX);
    }

    #[test]
    fn a_page_of_a_public_network_may_call_a_private_one_if_it_asks() {
        for (asked, told) in [("true", Some("true")), ("false", None), ("", None)] {
            let fields = [
                ("Origin", "https://a"),
                ("Access-Control-Request-Method", "PUT"),
                ("Access-Control-Request-Private-Network", asked),
            ];
            let reply = Reply::options(String::new());
            let reply = applied(&origins(&["https://a"]), "OPTIONS", &fields, reply);
            assert_eq!(reply.header("Access-Control-Allow-Private-Network"), told, "{asked:?}");
        }
    }
}
