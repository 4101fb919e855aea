//! The URL of a store, for those who look for one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The path of a URL that has none.
const READINESS: &str = "/readyz";

/// The port of a URL that has none.
const PORT: u16 = 80;

/// An `http` URL. Without a path it is that of a store's readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The name or the address, without brackets.
    pub host: String,
    /// The port, which may be that of the scheme.
    pub port: u16,
    /// Host and port in the form of a `Host` field.
    pub authority: String,
    /// The path with the query.
    pub target: String,
}

impl Url {
    /// The variable of a store's URL.
    pub const VARIABLE: &str = "LKV_URL";

    /// The URL of a store that listens on a host, as the flags name it.
    pub(super) fn of_host(host: &str, port: u16) -> Result<Self, String> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Self::of_addr(SocketAddr::new(ip, port)).parse();
        }
        format!("http://{host}:{port}").parse()
    }

    /// The text of the URL of a store that listens on an address. One that stands for
    /// all of the machine's is called by loopback.
    pub fn of_addr(mut addr: SocketAddr) -> String {
        match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        format!("http://{addr}")
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const NO_URL: &str = "not a URL such as http://127.0.0.1:8888";
        let (scheme, rest) = text.split_once("://").ok_or(NO_URL)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err("only http is spoken here, without TLS".to_owned());
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NO_URL.to_owned());
        }
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = parse_authority(authority, PORT).ok_or(NO_URL)?;
        let target = match target {
            "" | "/" => READINESS.to_owned(),
            query if query.starts_with('?') => format!("{READINESS}{query}"),
            path => path.to_owned(),
        };
        Ok(Self { host: host.to_owned(), port, authority: authority.to_owned(), target })
    }
}

/// The host, without brackets, and the port, or the `default` one.
pub(super) fn parse_authority(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { rest } else { rest.strip_prefix(':')? })
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let is_name = !host.is_empty() && !host.contains(['@', '[', ']']);
    let port = if port.is_empty() { default } else { port.parse().ok()? };
    is_name.then_some((host, port))
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_url_are_told_apart() {
        let cases = [
            ("http://127.0.0.1:8888", "127.0.0.1", 8888, "127.0.0.1:8888", "/readyz"),
            ("HTTP://localhost:9000/", "localhost", 9000, "localhost:9000", "/readyz"),
            ("http://store.example.com", "store.example.com", 80, "store.example.com", "/readyz"),
            ("http://a:/livez#top", "a", 80, "a:", "/livez"),
            ("http://[::1]:1/a/b?c=d", "::1", 1, "[::1]:1", "/a/b?c=d"),
            ("http://[::1]?verbose", "::1", 80, "[::1]", "/readyz?verbose"),
        ];
        for (text, host, port, authority, target) in cases {
            let [host, authority, target] = [host, authority, target].map(str::to_owned);
            assert_eq!(text.parse(), Ok(Url { host, port, authority, target }), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_urls() {
        for text in [
            "",
            "127.0.0.1:8888",
            "localhost",
            "http:",
            "http://",
            "http:///readyz",
            "http://:8888",
            "http://a:65536",
            "http://a:b",
            "http://a:1:2",
            "http://a:-1",
            "http://me:secret@a",
            "http://[::1",
            "http://[::1]8888",
            "http://[a]",
            "http://::1:8888",
            "http://a/b c",
            "http://a/\r\nHost: b",
            "http://\u{e4}",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
        for scheme in ["https", "HTTPS", "unix", ""] {
            let err = format!("{scheme}://127.0.0.1").parse::<Url>();
            assert!(err.is_err_and(|err| err.contains("only http")), "{scheme}");
        }
    }

    #[test]
    fn a_host_of_all_addresses_is_called_by_loopback() {
        let cases = [
            ("127.0.0.1", "127.0.0.1:1"),
            ("0.0.0.0", "127.0.0.1:1"),
            ("::", "[::1]:1"),
            ("[::]", "[::1]:1"),
            ("::1", "[::1]:1"),
            ("localhost", "localhost:1"),
        ];
        for (host, authority) in cases {
            assert_eq!(Url::of_host(host, 1).map(|url| url.authority), Ok(authority.to_owned()));
        }
        assert!(Url::of_host("a b", 1).is_err());
    }
}
