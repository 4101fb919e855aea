//! The check of `Host` against DNS rebinding.
//!
//! A web page cannot read from a server of another site, unless its own name is
//! made to resolve to that server's address (DNS rebinding): to a browser both
//! are one site then. But the browser sends that name as `Host`, and a server
//! that only this machine can reach has no such name.

use crate::api::Refusal;
use crate::api::fields::Fields;
use crate::api::grammar::{OWS, is_host_name, split_port};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The hosts that a call may name. Checking one allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Option<Arc<[HostName]>>);

/// A name that `--allow-host` adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// Any name: `*`.
    Any,
    /// This name.
    One(Box<str>),
    /// This name and its subdomains: written with a leading dot.
    Domain(Box<str>),
}

/// A text that is not a [`HostName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHostName;

impl Hosts {
    /// Every host.
    pub fn any() -> Self {
        Self(None)
    }

    /// Hosts that no web page has, and `names`. A page has neither an address,
    /// nor a name without a dot, nor `localhost` or a name below it.
    pub fn local(names: impl IntoIterator<Item = HostName>) -> Self {
        Self(Some(names.into_iter().collect()))
    }

    /// Checks every `Host` of a call. A browser always sends one, so the host of
    /// an absolute-form target does not matter.
    pub fn check(&self, fields: Fields<'_>) -> Result<(), Refusal> {
        let Some(names) = &self.0 else { return Ok(()) };
        let mut hosts = fields.all("Host");
        if hosts.all(|host| is_allowed(host, names)) { Ok(()) } else { Err(Refusal::HostUnknown) }
    }
}

/// Checks one `Host` (RFC 9110, 7.2), without its port and the dot at its end, in
/// any case.
fn is_allowed(host: &str, names: &[HostName]) -> bool {
    let (name, _) = split_port(host.trim_matches(OWS));
    if let Some(bracketed) = name.strip_prefix('[') {
        let literal = bracketed.strip_suffix(']');
        return literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok());
    }
    // The host of a web page has a dot in it, and is not an address.
    !name.contains('.')
        || name.parse::<Ipv4Addr>().is_ok()
        || is_below(name, "localhost")
        || names.iter().any(|allowed| allowed.allows(name))
}

/// True for a subdomain of `domain`.
fn is_below(name: &str, domain: &str) -> bool {
    let start = name.len().checked_sub(domain.len()).and_then(|at| name.split_at_checked(at));
    start.is_some_and(|(label, end)| label.ends_with('.') && end.eq_ignore_ascii_case(domain))
}

impl HostName {
    fn allows(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => name.eq_ignore_ascii_case(one),
            Self::Domain(domain) => name.eq_ignore_ascii_case(domain) || is_below(name, domain),
        }
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    /// Parses `*`, `store.example.com` or `.example.com`, with or without a port,
    /// which is dropped.
    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (name, _) = split_port(text);
        let domain = name.strip_prefix('.');
        if !is_host_name(domain.unwrap_or(name)) {
            return Err(InvalidHostName);
        }
        Ok(domain.map_or_else(|| Self::One(name.into()), |domain| Self::Domain(domain.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<HostName> {
        texts.iter().map(|text| text.parse().expect("a name")).collect()
    }

    #[test]
    fn what_no_page_of_the_web_is_called_is_allowed() {
        for host in [
            "",
            " ",
            "127.0.0.1",
            "127.0.0.1:8888",
            "192.168.1.2:80",
            "127.0.0.1.",
            "[::1]",
            "[::1]:8888",
            "[2001:DB8::1]",
            "[::ffff:127.0.0.1]:1",
            "localhost",
            "LocalHost:8888",
            "localhost.",
            "localhost.:8888",
            "store",
            "my_upstream:8888",
            ":8888",
            "store.localhost",
            "A.B.LOCALHOST.:1",
        ] {
            assert!(is_allowed(host, &[]), "{host:?}");
        }
    }

    #[test]
    fn what_may_be_a_page_is_not() {
        for host in [
            "evil.test",
            "evil.test:8888",
            "EVIL.TEST.",
            "evil.test.:8888",
            "evil.test..",
            "127.0.0.1.evil.test",
            "127.0.0.1.nip.io:8888",
            "localhost.evil.test",
            "notlocalhost.test",
            "evil.notlocalhost",
            "evil.test:80:80",
            "evil.test:80x",
            "evil.test\t",
            "user@evil.test",
            "[::1].evil.test]",
            "[evil.test]",
            "[::1",
            "127.1",
            "0x7f.0.0.1",
            "1.2.3.4.5",
            "256.0.0.1",
        ] {
            assert!(!is_allowed(host, &[]), "{host:?}");
        }
    }

    #[test]
    fn a_name_is_allowed_whatever_its_port_its_case_and_its_last_dot() {
        let names = names(&["Store.Example.com:443", ".example.org."]);
        for host in [
            "store.example.com",
            "STORE.example.COM.",
            "store.example.com:8888",
            "example.org",
            "a.example.org",
            "A.B.Example.ORG.:80",
        ] {
            assert!(is_allowed(host, &names), "{host}");
        }
        for host in [
            "example.com",
            "a.store.example.com",
            "store.example.com.evil.test",
            "notexample.org",
            "example.org.evil.test",
            ".example.com",
        ] {
            assert!(!is_allowed(host, &names), "{host}");
        }
    }

    #[test]
    fn any_name_is_allowed_by_a_star() {
        assert!(is_allowed("evil.test", &names(&["*"])));
        assert_eq!(Hosts::any().check(Fields(&[("Host", "evil.test")])), Ok(()));
    }

    #[test]
    fn every_host_that_a_call_names_counts() {
        let hosts = Hosts::local([]);
        let check = |fields| hosts.check(Fields(fields));
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[("Accept", "evil.test"), ("hOST", "localhost")]), Ok(()));
        assert_eq!(check(&[("hOST", "evil.test")]), Err(Refusal::HostUnknown));
        let both = [("Host", "localhost"), ("Host", "evil.test")];
        assert_eq!(check(&both), Err(Refusal::HostUnknown));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "*.example.com",
            "http://a.test",
            "a.test/",
            "a b",
            "a,b",
            "[::1]",
            "m\u{fc}nchen.test",
            "a.test:x",
        ] {
            assert_eq!(text.parse::<HostName>(), Err(InvalidHostName), "{text:?}");
        }
    }
}
