//! `GET /`: the manual, how to use the store in commands to paste; or the console, where
//! a page is preferred.

use super::{Operation, Routed};
use crate::api::fields::Fields;
use crate::api::grammar::OWS;
use crate::api::{Refusal, Reply, console};

/// The manual, with [`PLACEHOLDER`] for the store's scheme, host and port.
const TEXT: &str = include_str!("manual.txt");

const PLACEHOLDER: &str = "http://HOST";

/// The host and port for a client that sends none.
const HOST_UNKNOWN: &str = "localhost:8888";

/// The longest host to repeat: a DNS name and a port.
const HOST_BYTES_MAX: usize = 253 + ":65535".len();

/// Parses the head. The query is ignored.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Reply(if console::is_preferred(routed.fields) {
        console::reply(routed.fields)?
    } else {
        let authority = routed.target.authority(routed.fields);
        Reply::text(text(scheme(routed.fields), authority)).varying_with("Accept")
    }))
}

/// The manual for a client that reached the store by this scheme, and as `authority`.
pub fn text(scheme: &str, authority: Option<&str>) -> String {
    let host = authority.filter(|host| is_plain(host)).unwrap_or(HOST_UNKNOWN);
    TEXT.replace(PLACEHOLDER, &format!("{scheme}://{host}"))
}

/// The scheme that the client speaks, as the first proxy before the store tells.
fn scheme(fields: Fields<'_>) -> &'static str {
    let told = fields.all("X-Forwarded-Proto").flat_map(|list| list.split(',')).next();
    let is_https = told.is_some_and(|told| told.trim_matches(OWS).eq_ignore_ascii_case("https"));
    if is_https { "https" } else { "http" }
}

/// True for a host and port that need no quotes in a shell.
fn is_plain(host: &str) -> bool {
    let is_of_hosts = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(is_of_hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_own_name_for_the_store_is_in_every_example() {
        let longest = "h".repeat(HOST_BYTES_MAX);
        for host in
            ["store", "store.example:8888", "127.0.0.1:9000", "[::1]:8888", "a_b-c", &longest]
        {
            let text = text("https", Some(host));
            assert!(!text.contains("HOST") && !text.contains("http://"), "{text}");
            let commands = text.lines().filter(|line| line.contains("curl "));
            let commands: Vec<_> = commands.filter(|line| !line.starts_with('#')).collect();
            assert!(commands.len() > 10, "{text}");
            for command in commands {
                assert_eq!(command.matches(&format!("'https://{host}/")).count(), 1, "{command}");
            }
        }
    }

    #[test]
    fn a_host_that_a_shell_could_run_is_not_repeated() {
        let too_long = "h".repeat(HOST_BYTES_MAX + 1);
        let hosts = ["", "a'b", "x;reboot", "$(reboot)", "`x`", "a b", "a/b", "user@host", "%41"];
        for host in hosts.into_iter().chain(["h\u{f6}st", "a\nb", "a\\b", too_long.as_str()]) {
            assert_eq!(text("http", Some(host)), text("http", None), "{host:?}");
        }
        assert!(text("http", None).contains(HOST_UNKNOWN));
    }

    #[test]
    fn the_scheme_is_what_the_first_proxy_tells() {
        for (told, expected) in [
            (&[][..], "http"),
            (&["https"], "https"),
            (&[" HTTPS\t"], "https"),
            (&["https, http"], "https"),
            (&["https", "http"], "https"),
            (&["http,https"], "http"),
            (&["http", "https"], "http"),
            (&[""], "http"),
            (&["ftp"], "http"),
            (&["https://x';reboot"], "http"),
        ] {
            let fields: Vec<_> = told.iter().map(|told| ("x-forwarded-proto", *told)).collect();
            assert_eq!(scheme(Fields(&fields)), expected, "{told:?}");
        }
    }

    #[test]
    fn the_manual_fits_a_terminal() {
        for line in text("http", Some("127.0.0.1:8888")).lines() {
            assert!(line.len() <= 90 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
