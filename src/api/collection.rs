//! The query parameters of the collection `/kv`, for all of its methods.
//!
//! Names are plain ASCII, and are not percent-decoded: an escaped name is an unknown
//! one. Values that are keys, or parts of keys, are decoded once, as keys in paths are.

use super::Refusal;
use super::access::{Caller, Right};
use super::query::{check_names, parameters};
use super::target::decode;
use crate::storage::KEY_BYTES_MAX;

/// The names of all parameters. Each method has some of them.
pub const NAMES: &[&str] = &[
    "prefix",
    "after",
    "limit",
    "delimiter",
    "reverse",
    "count",
    "values",
    "tar",
    "take",
    "wait",
    "ttl",
];

/// The most keys of a page that a client asks for.
pub const LIMIT_MAX: usize = 10_000;

/// The longest delimiter, in bytes.
const DELIMITER_BYTES_MAX: usize = 16;

/// A kind of list that is not one of keys alone. One rules out the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The number of keys.
    Count,
    /// Each key with its value, a line of JSON.
    Values,
    /// The same as a tar archive.
    Tar,
}

/// The parameters of a call on the collection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters<'a> {
    /// `prefix`: the start of all keys meant.
    pub prefix: Option<Box<str>>,
    /// `after`: the key in front of the first one meant.
    pub after: Option<Box<str>>,
    /// `limit`: the most keys, from 1 to [`LIMIT_MAX`].
    pub limit: Option<usize>,
    /// `delimiter`: the end of a group of keys. Not empty.
    pub delimiter: Option<Box<str>>,
    /// `reverse`: from the last key to the first.
    pub is_reverse: bool,
    /// `count`, `values` or `tar`: more or less than the keys.
    pub kind: Option<Kind>,
    /// `take`: the start of the key to take. Not empty.
    pub take: Option<Box<str>>,
    /// `wait`: the length of a wait, not yet parsed. Goes with `take` alone.
    pub wait: Option<&'a str>,
    /// `ttl`: a time to live, not yet parsed.
    pub ttl: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    /// Parses the query of a target, skipping empty parameters. Any but those in
    /// `names` is unknown.
    pub fn parse(query: &'a str, names: &[&str]) -> Result<Self, Refusal> {
        check_names(query, names)?;
        let mut parsed = Self::default();
        let mut seen = Vec::new();
        for (name, value) in parameters(query) {
            let value = value.unwrap_or_default();
            if seen.contains(&name) {
                return Err(Refusal::QueryContradictory);
            }
            seen.push(name);
            match name {
                "prefix" => parsed.prefix = Some(key_text(value)?),
                "after" => parsed.after = Some(key_text(value)?),
                "limit" => parsed.limit = Some(limit(value)?),
                "delimiter" => parsed.delimiter = Some(delimiter(value)?),
                "reverse" => parsed.is_reverse = flag(value)?,
                "count" => parsed.set_kind(Kind::Count, value)?,
                "values" => parsed.set_kind(Kind::Values, value)?,
                "tar" => parsed.set_kind(Kind::Tar, value)?,
                "take" if value.is_empty() => return Err(Refusal::TakeEmpty),
                "take" => parsed.take = Some(key_text(value)?),
                "wait" => parsed.wait = Some(value),
                "ttl" => parsed.ttl = Some(value),
                _ => return Err(Refusal::QueryUnknown),
            }
        }
        let goes_with = |name: &str, others: &[&str]| {
            !seen.contains(&name)
                || seen.iter().all(|other| *other == name || others.contains(other))
        };
        let are_consistent = goes_with("count", &["prefix", "after"])
            && goes_with("take", &["wait"])
            && (parsed.wait.is_none() || parsed.take.is_some())
            && (parsed.delimiter.is_none() || parsed.kind.is_none());
        if are_consistent { Ok(parsed) } else { Err(Refusal::QueryContradictory) }
    }

    fn set_kind(&mut self, kind: Kind, value: &str) -> Result<(), Refusal> {
        flag(value)?;
        let is_first = self.kind.replace(kind).is_none();
        if is_first { Ok(()) } else { Err(Refusal::QueryContradictory) }
    }

    /// Fails unless the caller may do this with all keys that are meant.
    pub fn check_prefix(&self, caller: &Caller, right: Right) -> Result<(), Refusal> {
        let prefix = self.take.as_ref().or(self.prefix.as_ref());
        caller.rights.check_prefix(right, prefix.map_or("", |prefix| prefix))
    }

    /// The prefix where there has to be one.
    pub fn into_prefix(self) -> Result<Box<str>, Refusal> {
        self.prefix.filter(|prefix| !prefix.is_empty()).ok_or(Refusal::PrefixEmpty)
    }
}

/// A key, or the start of one, percent-encoded.
pub fn key_text(value: &str) -> Result<Box<str>, Refusal> {
    let text = decode(value)?;
    if text.len() > KEY_BYTES_MAX { Err(Refusal::KeyTooLong) } else { Ok(text.into()) }
}

fn delimiter(value: &str) -> Result<Box<str>, Refusal> {
    let text = decode(value)?;
    let is_delimiter = (1..=DELIMITER_BYTES_MAX).contains(&text.len());
    if is_delimiter { Ok(text.into()) } else { Err(Refusal::DelimiterLength) }
}

fn limit(value: &str) -> Result<usize, Refusal> {
    // `parse` would take a plus.
    let number = if value.starts_with('+') { None } else { value.parse().ok() };
    number.filter(|number| (1..=LIMIT_MAX).contains(number)).ok_or(Refusal::LimitMalformed)
}

/// A parameter without a value. Libraries that build queries of pairs write `count=`.
pub fn flag(value: &str) -> Result<bool, Refusal> {
    if value.is_empty() { Ok(true) } else { Err(Refusal::QueryMalformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Box<str> {
        text.into()
    }

    #[test]
    fn known_parameters_are_understood() {
        let none = Parameters::default;
        let longest = "k".repeat(KEY_BYTES_MAX);
        let long_prefix = format!("prefix={longest}");
        let cases = [
            ("", none()),
            ("&&", none()),
            ("prefix=job:", Parameters { prefix: Some(text("job:")), ..none() }),
            ("prefix=a=b", Parameters { prefix: Some(text("a=b")), ..none() }),
            ("prefix", Parameters { prefix: Some(text("")), ..none() }),
            ("prefix=", Parameters { prefix: Some(text("")), ..none() }),
            ("prefix=a+b%2Bc%20d", Parameters { prefix: Some(text("a+b+c d")), ..none() }),
            ("prefix=%2541%26", Parameters { prefix: Some(text("%41&")), ..none() }),
            ("prefix=\u{e9}%C3%A9", Parameters { prefix: Some(text("\u{e9}\u{e9}")), ..none() }),
            (&long_prefix, Parameters { prefix: Some(longest.as_str().into()), ..none() }),
            ("after=%00", Parameters { after: Some(text("\0")), ..none() }),
            ("limit=1", Parameters { limit: Some(1), ..none() }),
            ("limit=0010000", Parameters { limit: Some(10_000), ..none() }),
            ("delimiter=/", Parameters { delimiter: Some(text("/")), ..none() }),
            (
                "delimiter=%F0%9F%94%91%F0%9F%94%91%F0%9F%94%91%F0%9F%94%91",
                Parameters { delimiter: Some(text(&"\u{1F511}".repeat(4))), ..none() },
            ),
            ("&reverse&", Parameters { is_reverse: true, ..none() }),
            ("reverse=", Parameters { is_reverse: true, ..none() }),
            ("values", Parameters { kind: Some(Kind::Values), ..none() }),
            ("tar", Parameters { kind: Some(Kind::Tar), ..none() }),
            (
                "reverse&tar=&limit=2",
                Parameters { kind: Some(Kind::Tar), is_reverse: true, limit: Some(2), ..none() },
            ),
            (
                "count=&after=b&prefix=a",
                Parameters {
                    prefix: Some(text("a")),
                    after: Some(text("b")),
                    kind: Some(Kind::Count),
                    ..none()
                },
            ),
            ("take=job:", Parameters { take: Some(text("job:")), ..none() }),
            (
                "wait=5s&take=job:",
                Parameters { take: Some(text("job:")), wait: Some("5s"), ..none() },
            ),
            ("ttl=60", Parameters { ttl: Some("60"), ..none() }),
            ("ttl", Parameters { ttl: Some(""), ..none() }),
            (
                "prefix=a&after=b&limit=2&delimiter=,&reverse",
                Parameters {
                    prefix: Some(text("a")),
                    after: Some(text("b")),
                    limit: Some(2),
                    delimiter: Some(text(",")),
                    is_reverse: true,
                    ..none()
                },
            ),
        ];
        for (query, understood) in cases {
            assert_eq!(Parameters::parse(query, NAMES), Ok(understood), "{query:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let too_long = format!("prefix={}", "k".repeat(KEY_BYTES_MAX + 1));
        let cases = [
            ("x", Refusal::QueryUnknown),
            ("=", Refusal::QueryUnknown),
            ("?prefix=a", Refusal::QueryUnknown),
            ("Prefix=a", Refusal::QueryUnknown),
            ("%70refix=a", Refusal::QueryUnknown),
            ("prefix=a&prefx=b", Refusal::QueryUnknown),
            ("tars", Refusal::QueryUnknown),
            ("prefix=%", Refusal::KeyEscape),
            ("after=%4", Refusal::KeyEscape),
            ("take=%zz", Refusal::KeyEscape),
            ("delimiter=%", Refusal::KeyEscape),
            ("prefix=%ff", Refusal::KeyNotUtf8),
            ("delimiter=%C3", Refusal::KeyNotUtf8),
            (&too_long, Refusal::KeyTooLong),
            ("limit", Refusal::LimitMalformed),
            ("limit=", Refusal::LimitMalformed),
            ("limit=0", Refusal::LimitMalformed),
            ("limit=10001", Refusal::LimitMalformed),
            ("limit=-1", Refusal::LimitMalformed),
            ("limit=+1", Refusal::LimitMalformed),
            ("limit=1.0", Refusal::LimitMalformed),
            ("limit=%31", Refusal::LimitMalformed),
            ("limit=99999999999999999999", Refusal::LimitMalformed),
            ("delimiter", Refusal::DelimiterLength),
            ("delimiter=", Refusal::DelimiterLength),
            ("delimiter=01234567890123456", Refusal::DelimiterLength),
            ("take", Refusal::TakeEmpty),
            ("take=", Refusal::TakeEmpty),
            ("reverse=1", Refusal::QueryMalformed),
            ("count=true", Refusal::QueryMalformed),
            ("values=x", Refusal::QueryMalformed),
            ("tar=pax", Refusal::QueryMalformed),
            ("prefix=a&prefix=a", Refusal::QueryContradictory),
            ("reverse&&reverse", Refusal::QueryContradictory),
            ("ttl=1&ttl=1", Refusal::QueryContradictory),
            ("count&limit=5", Refusal::QueryContradictory),
            ("delimiter=/&count", Refusal::QueryContradictory),
            ("count&reverse", Refusal::QueryContradictory),
            ("count&values", Refusal::QueryContradictory),
            ("values&delimiter=/", Refusal::QueryContradictory),
            ("tar&delimiter=/", Refusal::QueryContradictory),
            ("tar&count", Refusal::QueryContradictory),
            ("values&tar", Refusal::QueryContradictory),
            ("take=a&tar", Refusal::QueryContradictory),
            ("take=a&prefix=", Refusal::QueryContradictory),
            ("limit=1&take=a", Refusal::QueryContradictory),
            ("wait", Refusal::QueryContradictory),
            ("prefix=a&wait", Refusal::QueryContradictory),
        ];
        for (query, refusal) in cases {
            assert_eq!(Parameters::parse(query, NAMES), Err(refusal), "{query:?}");
        }
    }

    #[test]
    fn what_a_method_does_not_have_is_unknown_to_it() {
        for name in NAMES {
            let others: Vec<_> = NAMES.iter().copied().filter(|other| other != name).collect();
            let query = format!("{name}=1");
            let parsed = Parameters::parse(&query, &others);
            assert_eq!(parsed, Err(Refusal::QueryUnknown), "{name}");
            assert_ne!(Parameters::parse(&query, &[name]), parsed, "{name}");
        }
    }

    #[test]
    fn a_prefix_may_have_to_be_there() {
        for query in ["", "prefix", "prefix=", "limit=1"] {
            let parsed = Parameters::parse(query, NAMES).unwrap();
            assert_eq!(parsed.into_prefix(), Err(Refusal::PrefixEmpty), "{query:?}");
        }
        let parsed = Parameters::parse("prefix=a%2F", NAMES).unwrap();
        assert_eq!(parsed.into_prefix(), Ok("a/".into()));
    }
}
