//! Environment variables that bear the program's name and are not its own.
//!
//! Beside a service called `lkv`, Kubernetes and Docker set variables that
//! begin with `LKV_` as well, and one of them is that of a flag: `LKV_PORT` is
//! `tcp://10.96.0.12:8888` then.

use std::ffi::{OsStr, OsString};

/// The prefix of every flag's variable.
const PREFIX: &str = "LKV_";

/// The variable of a flag that a link sets as well.
const PORT: &str = "LKV_PORT";

/// Returns true for a flag's variable that is empty, or set by a link.
pub(super) fn is_unset(name: &OsStr, value: &OsStr) -> bool {
    value.is_empty() || name == PORT && is_url_of_link(&value.to_string_lossy())
}

/// One warning for each kind of ignored variable: those set by links, and those
/// with the prefix that are no flag's. `flags` are the variables of flags.
pub(super) fn ignored(
    flags: &[OsString],
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let (mut of_links, mut of_nothing) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let is_of_flag = flags.contains(&name);
        if is_of_flag && !is_unset(&name, &value) {
            continue;
        }
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let Some(of_what) = name.strip_prefix(PREFIX) else { continue };
        if is_of_link(of_what, &value) {
            of_links.push(name.into_owned());
        } else if !is_of_flag {
            of_nothing.push(name.into_owned());
        }
    }
    let links = ("set by a link to a service called lkv, and no flags", of_links);
    let unknown = ("no variables of a flag", of_nothing);
    let line = |(what, mut names): (&str, Vec<String>)| {
        names.sort();
        (!names.is_empty()).then(|| format!("ignored, as {what}: {}", names.join(", ")))
    };
    [links, unknown].into_iter().filter_map(line).collect()
}

/// Returns true for a variable that a link sets; `name` has no prefix any more.
///
/// ```text
/// PORT=tcp://10.96.0.12:8888      PORT_8888_TCP_ADDR=10.96.0.12
/// SERVICE_HOST=10.96.0.12         SERVICE_PORT_HTTP=8888
/// NAME=/app/lkv                   ENV_PATH=/usr/bin
/// ```
///
/// A service called `lkv-blue` has `BLUE_` before all of these.
fn is_of_link(name: &str, value: &str) -> bool {
    let name = format!("_{name}");
    let is_port = name.ends_with("_PORT") && is_url_of_link(value);
    let is_of_port = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        name.match_indices(protocol).any(|(at, _)| {
            let before = name.get(..at).unwrap_or_default();
            let number = before.rsplit_once("_PORT_").map(|(_, number)| number);
            number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        })
    });
    let is_of_service = ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|part| name.contains(part));
    let is_of_container = name.ends_with("_NAME") && value.starts_with('/');
    let is_of_its_environment = name.starts_with("_ENV_");
    is_port || is_of_port || is_of_service || is_of_container || is_of_its_environment
}

/// Returns true for an address in the form of links: `tcp://10.96.0.12:8888`.
fn is_url_of_link(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| matches!(scheme, "tcp" | "udp" | "sctp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(variables: &[(&str, &str)]) -> Vec<String> {
        let flags = ["LKV_PORT", "LKV_HOST"].map(OsString::from);
        ignored(&flags, variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn variables_of_flags_and_of_others_are_passed_over() {
        let none: Vec<String> = Vec::new();
        assert_eq!(lines(&[]), none);
        assert_eq!(lines(&[("LKV_PORT", "9000"), ("LKV_HOST", "")]), none);
        assert_eq!(lines(&[("PATH", "/bin"), ("XLKV_A", "1"), ("lkv_a", "1"), ("LKV", "1")]), none);
        // Not a link's value, so a mistake that the flag reports.
        assert_eq!(lines(&[("LKV_HOST", "tcp://10.96.0.12:8888")]), none);
    }

    #[test]
    fn what_links_set_is_told_in_one_line() {
        let of_kubernetes = [
            ("LKV_SERVICE_HOST", "10.96.0.12"),
            ("LKV_SERVICE_PORT", "8888"),
            ("LKV_SERVICE_PORT_HTTP", "8888"),
            ("LKV_PORT", "tcp://10.96.0.12:8888"),
            ("LKV_PORT_8888_TCP", "tcp://10.96.0.12:8888"),
            ("LKV_PORT_8888_TCP_PROTO", "tcp"),
            ("LKV_PORT_8888_TCP_PORT", "8888"),
            ("LKV_PORT_8888_TCP_ADDR", "10.96.0.12"),
        ];
        let mut names = of_kubernetes.map(|(name, _)| name);
        names.sort_unstable();
        let line = "ignored, as set by a link to a service called lkv, and no flags: ";
        assert_eq!(lines(&of_kubernetes), [format!("{line}{}", names.join(", "))]);
        let others = [
            ("LKV_PORT", "udp://10.96.0.12:8888"),
            ("LKV_PORT", "sctp://[fd00::1]:8888"),
            ("LKV_PORT_53_UDP", "udp://10.96.0.12:53"),
            ("LKV_PORT_9_SCTP_ADDR", "10.96.0.12"),
            ("LKV_NAME", "/app/lkv"),
            ("LKV_ENV_PATH", "/usr/bin"),
            ("LKV_BLUE_SERVICE_HOST", "10.96.0.12"),
            ("LKV_BLUE_PORT", "tcp://10.96.0.12:8888"),
            ("LKV_BLUE_PORT_8888_TCP", "tcp://10.96.0.12:8888"),
        ];
        for (name, value) in others {
            assert_eq!(lines(&[(name, value)]), [format!("{line}{name}")], "{value}");
        }
    }

    #[test]
    fn a_variable_that_is_of_no_flag_is_told() {
        for (name, value) in [
            ("LKV_PROT", "9000"),
            ("LKV_PROT", ""),
            ("LKV_", ""),
            ("LKV_PORTS", "tcp"),
            ("LKV_PORT_X_TCP", "1"),
            ("LKV_NAME", "blue"),
        ] {
            let line = format!("ignored, as no variables of a flag: {name}");
            assert_eq!(lines(&[("LKV_PORT", "9000"), (name, value)]), [line], "{value}");
        }
        // Both kinds, and no values: they may be secret.
        let both = lines(&[("LKV_B", "secret"), ("LKV_PORT", "tcp://a:1"), ("LKV_A", "secret")]);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[1].ends_with(": LKV_A, LKV_B"), "{both:?}");
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let unset = |name: &str, value: &str| is_unset(name.as_ref(), value.as_ref());
        assert!(unset("LKV_HOST", "") && unset("LKV_PORT", ""));
        assert!(unset("LKV_PORT", "tcp://10.96.0.12:8888"));
        for (name, value) in [
            ("LKV_PORT", "9000"),
            ("LKV_PORT", "http://10.96.0.12:8888"),
            ("LKV_PORT", " "),
            ("LKV_HOST", "tcp://10.96.0.12:8888"),
        ] {
            assert!(!unset(name, value), "{name}={value}");
        }
    }
}
