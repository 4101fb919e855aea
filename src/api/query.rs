//! The query parameters of `/kv/{key}`.
//!
//! Names and values are plain ASCII, so nothing is percent-decoded: an
//! escaped name is an unknown one.

use super::Refusal;

/// The parameters of a write. Each method takes some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query<'a> {
    /// `ttl`: a time to live, not yet parsed.
    pub ttl: Option<&'a str>,
    /// The one parameter that names an action.
    pub action: Option<Action>,
    /// `wait`: the length of a wait, not yet parsed.
    pub wait: Option<&'a str>,
}

/// An action that the method alone does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `incr`, `incr=5`, `decr=2`: add to the stored number.
    Add(i64),
    /// `append`: append the body to the stored value.
    Append,
    /// `return`: answer with the deleted value.
    Return,
    /// `create`: store only where nothing is there.
    Create,
}

/// True for a query with any parameter of a `POST`.
pub fn is_for_post(query: &str) -> bool {
    names(query).any(|name| matches!(name, "ttl" | "incr" | "decr" | "append"))
}

/// Checks the query of a read. An unknown parameter is ignored, as clients put
/// one behind a URL to get past a cache. A parameter of another method is
/// refused: the answer must not look as if it had taken effect.
pub fn check_read(query: &str) -> Result<(), Refusal> {
    let is_of_another =
        |query| is_for_post(query) || names(query).any(|name| matches!(name, "return" | "create"));
    // Nearly every read is without one.
    if !query.is_empty() && is_of_another(query) { Err(Refusal::QueryUnknown) } else { Ok(()) }
}

/// Checks the query of a read; gives its one parameter, `wait`, not yet parsed.
pub fn wait_of_read(query: &str) -> Result<Option<&str>, Refusal> {
    check_read(query)?;
    let mut waits = parameters(query).filter(|(name, _)| *name == "wait");
    let wait = waits.next().map(|(_, value)| value.unwrap_or_default());
    if waits.next().is_some() { Err(Refusal::QueryContradictory) } else { Ok(wait) }
}

/// Returns true for a query with `verbose`, with or without a value.
pub fn is_verbose(query: &str) -> bool {
    names(query).any(|name| name == "verbose")
}

/// Checks the query of a resource without parameters.
pub fn check_none(query: &str) -> Result<(), Refusal> {
    check_names(query, &[])
}

/// Checks that the query has no parameters but those of these names, whatever else is wrong
/// with it.
pub fn check_names(query: &str, known: &[&str]) -> Result<(), Refusal> {
    let are_known = names(query).all(|name| known.contains(&name));
    if are_known { Ok(()) } else { Err(Refusal::QueryUnknown) }
}

/// The parameters by name, each with its value if there is a `=`. Empty ones are skipped.
pub fn parameters(query: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    parameters.map(|parameter| match parameter.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (parameter, None),
    })
}

/// The names of the parameters.
fn names(query: &str) -> impl Iterator<Item = &str> {
    parameters(query).map(|(name, _)| name)
}

impl<'a> Query<'a> {
    /// Parses the query of a target, skipping empty parameters. Any but those in
    /// `known` is unknown.
    pub fn parse(query: &'a str, known: &[&str]) -> Result<Self, Refusal> {
        check_names(query, known)?;
        let (mut ttl, mut action, mut wait) = (None, None, None);
        for (name, value) in parameters(query) {
            let time = match name {
                "ttl" => Some(&mut ttl),
                "wait" => Some(&mut wait),
                _ => None,
            };
            if let Some(time) = time {
                if time.replace(value.unwrap_or_default()).is_some() {
                    return Err(Refusal::QueryContradictory);
                }
                continue;
            }
            let named = match (name, value) {
                ("decr", None | Some("")) => return Err(Refusal::QueryMalformed),
                ("incr", _) => Action::Add(amount(value, false).ok_or(Refusal::AmountMalformed)?),
                ("decr", _) => Action::Add(amount(value, true).ok_or(Refusal::AmountMalformed)?),
                // Libraries that build queries of pairs write `append=`.
                ("append", None | Some("")) => Action::Append,
                ("return", None | Some("")) => Action::Return,
                ("create", None | Some("")) => Action::Create,
                ("append" | "return" | "create", Some(_)) => return Err(Refusal::QueryMalformed),
                _ => return Err(Refusal::QueryUnknown),
            };
            if action.replace(named).is_some() {
                return Err(Refusal::QueryContradictory);
            }
        }
        Ok(Self { ttl, action, wait })
    }
}

/// The amount to add for `text` or its negative, 1 without a text. A whole
/// number, with a minus or without a sign. `None` past a signed 64-bit integer,
/// so -2^63 can be written both ways.
fn amount(text: Option<&str>, negative: bool) -> Option<i64> {
    let text = text.unwrap_or("1");
    if text.starts_with('+') {
        return None;
    }
    let amount: i128 = text.parse().ok()?;
    let amount = if negative { amount.checked_neg()? } else { amount };
    i64::try_from(amount).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: &[&str] = &["ttl", "incr", "decr", "append", "return", "create", "wait"];

    fn ttl(text: &str) -> Query<'_> {
        Query { ttl: Some(text), ..Query::default() }
    }

    fn action(action: Action) -> Query<'static> {
        Query { action: Some(action), ..Query::default() }
    }

    #[test]
    fn known_parameters_are_understood() {
        let cases = [
            ("", Query::default()),
            ("&&", Query::default()),
            ("ttl=60", ttl("60")),
            ("&ttl=5&", ttl("5")),
            ("ttl=keep", ttl("keep")),
            ("ttl=a=b", ttl("a=b")),
            ("ttl=1;incr", ttl("1;incr")),
            ("incr", action(Action::Add(1))),
            ("incr=5", action(Action::Add(5))),
            ("incr=-5", action(Action::Add(-5))),
            ("decr=2", action(Action::Add(-2))),
            ("decr=-2", action(Action::Add(2))),
            ("append", action(Action::Append)),
            ("append=", action(Action::Append)),
            ("return", action(Action::Return)),
            ("return=", action(Action::Return)),
            ("create", action(Action::Create)),
            ("create=", action(Action::Create)),
            ("incr&ttl=60", Query { action: Some(Action::Add(1)), ..ttl("60") }),
            ("ttl=60&append", Query { action: Some(Action::Append), ..ttl("60") }),
            ("wait", Query { wait: Some(""), ..Query::default() }),
            ("return&wait=5s", Query { wait: Some("5s"), ..action(Action::Return) }),
        ];
        for (query, understood) in cases {
            assert_eq!(Query::parse(query, NAMES), Ok(understood), "{query:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let cases = [
            ("tll=60", Refusal::QueryUnknown),
            ("TTL=60", Refusal::QueryUnknown),
            ("incr&x", Refusal::QueryUnknown),
            ("=", Refusal::QueryUnknown),
            ("=5", Refusal::QueryUnknown),
            ("%74tl=60", Refusal::QueryUnknown),
            ("incr%3D5", Refusal::QueryUnknown),
            (" incr", Refusal::QueryUnknown),
            ("?ttl=60", Refusal::QueryUnknown),
            ("decr", Refusal::QueryMalformed),
            ("decr=", Refusal::QueryMalformed),
            ("append=x", Refusal::QueryMalformed),
            ("return=1", Refusal::QueryMalformed),
            ("create=1", Refusal::QueryMalformed),
            ("ttl=60&ttl=60", Refusal::QueryContradictory),
            ("incr&incr=2", Refusal::QueryContradictory),
            ("append&&append", Refusal::QueryContradictory),
            ("incr&decr=1", Refusal::QueryContradictory),
            ("incr&ttl=60&append", Refusal::QueryContradictory),
            ("append&return", Refusal::QueryContradictory),
            ("create&create", Refusal::QueryContradictory),
            ("incr&create", Refusal::QueryContradictory),
            ("wait&wait=5", Refusal::QueryContradictory),
            ("incr=", Refusal::AmountMalformed),
            ("incr=x", Refusal::AmountMalformed),
            ("decr=1.5", Refusal::AmountMalformed),
        ];
        for (query, refusal) in cases {
            assert_eq!(Query::parse(query, NAMES), Err(refusal), "{query:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_told_before_what_else_is_wrong() {
        for query in ["incr=x&y", "ttl&ttl&y", "return=1&y", "incr&append&y", "decr&y"] {
            assert_eq!(Query::parse(query, NAMES), Err(Refusal::QueryUnknown), "{query:?}");
        }
        for query in ["incr=x", "incr&append", "return", "ttl&ttl&create=1"] {
            let parsed = Query::parse(query, &["ttl", "wait"]);
            assert_eq!(parsed, Err(Refusal::QueryUnknown), "{query:?}");
        }
    }

    #[test]
    fn a_read_ignores_what_no_method_has() {
        for query in
            ["", "&&", "x", "_=1764302400", "x=1&y", "=", "=5", "?", "/kv/", "%69ncr", "TTL=60"]
        {
            assert_eq!(check_read(query), Ok(()), "{query:?}");
        }
        for query in [
            "ttl=60",
            "ttl",
            "incr",
            "incr=",
            "incr=5",
            "decr=2",
            "decr",
            "append",
            "append=x",
            "return",
            "&return=1",
            "create",
            "x&create=1",
            "x&incr",
            "incr&x",
        ] {
            assert_eq!(check_read(query), Err(Refusal::QueryUnknown), "{query:?}");
        }
    }

    #[test]
    fn what_has_no_parameters_refuses_any() {
        for query in ["", "&", "&&&"] {
            assert_eq!(check_none(query), Ok(()), "{query:?}");
        }
        for query in ["x", "=", "&x", "ttl=60", "?", "%"] {
            assert_eq!(check_none(query), Err(Refusal::QueryUnknown), "{query:?}");
        }
    }

    #[test]
    fn amounts_are_whole_numbers_of_64_bits() {
        let cases = [
            (None, 1),
            (Some("0"), 0),
            (Some("-0"), 0),
            (Some("007"), 7),
            (Some("9223372036854775807"), i64::MAX),
            (Some("-9223372036854775807"), -i64::MAX),
        ];
        for (text, number) in cases {
            assert_eq!(amount(text, false), Some(number), "{text:?}");
            assert_eq!(amount(text, true), Some(-number), "{text:?}");
        }
        assert_eq!(amount(Some("-9223372036854775808"), false), Some(i64::MIN));
        assert_eq!(amount(Some("-9223372036854775808"), true), None);
        assert_eq!(amount(Some("9223372036854775808"), true), Some(i64::MIN));
        assert_eq!(amount(Some("9223372036854775808"), false), None);

        let huge = "9".repeat(40);
        let smallest = i128::MIN.to_string();
        for text in
            ["", "-", "+1", "--1", " 1", "1 ", "1.0", "1e3", "0x1", "\u{661}", &huge, &smallest]
        {
            assert_eq!(amount(Some(text), false), None, "{text:?}");
            assert_eq!(amount(Some(text), true), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_reads_back(number: i64) {
            let text = number.to_string();
            prop_assert_eq!(amount(Some(&text), false), Some(number));
            prop_assert_eq!(amount(Some(&text), true), number.checked_neg());
        }

        /// A parameter of a write is never taken for one that nobody knows.
        #[test]
        fn a_read_refuses_what_a_write_understands(
            query in "((ttl|incr|decr|append|return|create|wait|x)?=?[0-9-]{0,2}&?){0,4}",
        ) {
            let understood = Query::parse(&query, NAMES);
            if understood != Err(Refusal::QueryUnknown) {
                let is_of_read = matches!(understood, Ok(Query { ttl: None, action: None, .. }));
                prop_assert_eq!(wait_of_read(&query).is_ok(), is_of_read);
            }
        }

        /// Nothing that passes was left out, and the order does not matter.
        #[test]
        fn a_query_that_passes_has_one_reading(
            query in "((ttl|incr|decr|append|return|create|wait|x)?=?[0-9-]{0,2}&?){0,4}|.{0,8}",
        ) {
            let Ok(understood) = Query::parse(&query, NAMES) else { return Ok(()) };
            let named = query.split('&').filter(|parameter| !parameter.is_empty()).count();
            let read =
                [understood.ttl.is_some(), understood.action.is_some(), understood.wait.is_some()];
            prop_assert_eq!(named, read.into_iter().filter(|is_read| *is_read).count());

            let parameters: Vec<_> = query.split('&').rev().collect();
            let reversed = parameters.join("&");
            prop_assert_eq!(Query::parse(&reversed, NAMES), Ok(understood));
        }
    }
}
