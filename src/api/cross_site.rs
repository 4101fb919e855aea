//! Cross-site request forgery: the requests that a browser sends for a page of
//! another site.
//!
//! A browser sends some requests, a `POST` among them, for any page without
//! asking the server first. It names the page: in `Sec-Fetch-Site`, or where
//! that is missing (to a name without TLS, or from an old browser) in `Origin`.

use super::fields::Fields;
use super::grammar::{OWS, split_port};

/// True for a request from a page that was not loaded from `authority`, the host
/// and port that the request is for. A client that is not a browser sends
/// neither field, and passes.
///
/// `Sec-Fetch-Site` decides alone, as a proxy may have replaced the `Host` that
/// the page was loaded from. An unknown value is ignored (Fetch Metadata, 2.4).
pub fn is_cross_site(fields: Fields<'_>, authority: Option<&str>) -> bool {
    match fields.only("Sec-Fetch-Site").map(|site| site.trim_matches(OWS)) {
        Some("same-origin" | "none") => false,
        Some("same-site" | "cross-site") => true,
        Some(_) | None => fields.has("Origin") && !is_origin_of(fields.only("Origin"), authority),
    }
}

/// Compares the host and port of an origin with `authority`, which has no
/// scheme to compare.
fn is_origin_of(origin: Option<&str>, authority: Option<&str>) -> bool {
    let (Some(origin), Some(authority)) = (origin, authority) else { return false };
    let Some((scheme, origin)) = origin.trim_matches(OWS).split_once("://") else { return false };
    let port_usual = match scheme {
        scheme if scheme.eq_ignore_ascii_case("http") => "80",
        scheme if scheme.eq_ignore_ascii_case("https") => "443",
        _ => return false,
    };
    let [(host, port), (host_asked, port_asked)] =
        [origin, authority.trim_matches(OWS)].map(|text| match split_port(text) {
            (host, "") => (host, port_usual),
            other => other,
        });
    host.eq_ignore_ascii_case(host_asked) && port == port_asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_fetch_site_decides_alone() {
        let other_host = [("Host", "127.0.0.1:8888"), ("Origin", "https://store.example")];
        let own_host = [("Host", "store.example"), ("Origin", "https://store.example")];
        let table =
            [("same-origin", false), (" none\t", false), ("same-site", true), ("cross-site", true)];
        for (site, is_cross) in table {
            for fields in [other_host, own_host] {
                let authority = Some(fields[0].1);
                let [host, origin] = fields;
                let fields = [host, origin, ("sec-fetch-site", site)];
                assert_eq!(is_cross_site(Fields(&fields), authority), is_cross, "{fields:?}");
                let fields = [host, ("Sec-Fetch-Site", site)];
                assert_eq!(is_cross_site(Fields(&fields), authority), is_cross, "{fields:?}");
            }
        }
    }

    #[test]
    fn a_sec_fetch_site_that_means_nothing_leaves_it_to_the_origin() {
        let unknown: [&[(&str, &str)]; 4] = [
            &[("Sec-Fetch-Site", "")],
            &[("Sec-Fetch-Site", "Same-Origin")],
            &[("Sec-Fetch-Site", "same-origin, none")],
            &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "none")],
        ];
        for site in unknown {
            for (origin, is_cross) in [("http://store", false), ("http://other", true)] {
                let fields = [site, &[("Origin", origin)]].concat();
                assert_eq!(is_cross_site(Fields(&fields), Some("store")), is_cross, "{fields:?}");
            }
            assert!(!is_cross_site(Fields(site), Some("store")), "{site:?}");
        }
    }

    #[test]
    fn an_origin_is_compared_as_a_name_is() {
        let same = [
            ("http://store", "store"),
            ("http://store.example", "STORE.Example"),
            ("HTTP://Store.Example", "store.example"),
            ("http://store:80", "store"),
            ("http://store", "store:80"),
            ("http://store", "store:"),
            ("https://store", "store:443"),
            ("https://store:443", "store"),
            ("https://store", "store"),
            ("http://store.example.", "store.example"),
            ("http://store.example:8888", "store.example.:8888"),
            ("http://127.0.0.1:8888", "127.0.0.1:8888"),
            ("http://[::1]:8888", "[::1]:8888"),
            ("http://[::1]", "[::1]:80"),
            ("http://[FD00::A]", "[fd00::a]"),
            (" http://store ", "store\t"),
        ];
        for (origin, host) in same {
            let fields = [("Origin", origin)];
            assert!(!is_cross_site(Fields(&fields), Some(host)), "{origin} at {host}");
        }
        let other = [
            ("http://store", "store:443"),
            ("https://store", "store:80"),
            ("http://store:8888", "store"),
            ("http://store:8888", "store:8889"),
            ("http://store", "store:8888"),
            ("http://evil.example", "store"),
            ("http://store.evil.example", "store"),
            ("http://evilstore", "store"),
            ("http://store@evil.example", "store"),
            ("http://store/", "store"),
            ("http://store..", "store"),
            ("http://[::1]", "[::]:1"),
            ("http://[::1]:1", "[::1]"),
            ("ftp://store", "store"),
            ("chrome-extension://store", "store"),
            ("null", "null"),
            ("null", "store"),
            ("", ""),
            ("store", "store"),
            ("http://store, http://store", "store"),
        ];
        for (origin, host) in other {
            let fields = [("Origin", origin)];
            assert!(is_cross_site(Fields(&fields), Some(host)), "{origin} at {host}");
        }
    }

    #[test]
    fn an_origin_needs_one_host_to_be_its_own() {
        let origin = ("Origin", "http://store");
        assert!(is_cross_site(Fields(&[origin]), None));
        assert!(is_cross_site(Fields(&[origin, origin]), Some("store")));
        assert!(is_cross_site(Fields(&[("Origin", "null"), origin]), None));
        assert!(!is_cross_site(Fields(&[("Host", "store")]), Some("store")));
        assert!(!is_cross_site(Fields(&[]), None));
    }
}
