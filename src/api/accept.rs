//! Proactive content negotiation: `Accept` (RFC 9110, 12.5.1).

use super::fields::Fields;
use super::grammar::OWS;

/// The rank of a media type: its quality in thousandths, and how closely it is named.
/// 0 is not acceptable.
type Rank = (u16, Closeness);

/// The closeness of a media range to a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    /// `*/*`.
    Any,
    /// `text/*`.
    Kind,
    /// The type itself.
    Exact,
}

/// Returns true if a client prefers a media type to another, which is the usual one.
/// Where it likes both as much, the one that it names more closely counts.
pub fn prefers(fields: Fields<'_>, media_type: &str, usual: &str) -> bool {
    let rank = rank(fields, media_type);
    rank.is_some_and(|(quality, _)| quality > 0) && rank > self::rank(fields, usual)
}

/// The rank of a type: that of the closest range. `None` where none has it.
fn rank(fields: Fields<'_>, media_type: &str) -> Option<Rank> {
    let ranges = fields.all("Accept").flat_map(|field| split(field, ','));
    let ranks = ranges.filter_map(|range| rank_in(range, media_type));
    ranks.max_by_key(|(quality, closeness)| (*closeness, *quality))
}

/// The rank that one range gives to a type. Parameters but `q` are ignored, as are
/// ranges that are malformed.
fn rank_in(range: &str, media_type: &str) -> Option<Rank> {
    let mut parts = split(range, ';').map(|part| part.trim_matches(OWS));
    let closeness = closeness(parts.next()?, media_type)?;
    let is_quality = |(name, value): (&'_ str, _)| name.eq_ignore_ascii_case("q").then_some(value);
    let quality = parts.find_map(|part| part.split_once('=').and_then(is_quality));
    Some((quality.map_or(Some(1000), thousandths)?, closeness))
}

fn closeness(range: &str, media_type: &str) -> Option<Closeness> {
    let ((kind, subtype), (range_kind, range_subtype)) =
        (media_type.split_once('/')?, range.split_once('/')?);
    match (range_kind, range_subtype) {
        ("*", "*") => Some(Closeness::Any),
        (same, _) if !same.eq_ignore_ascii_case(kind) => None,
        (_, "*") => Some(Closeness::Kind),
        (_, same) => same.eq_ignore_ascii_case(subtype).then_some(Closeness::Exact),
    }
}

/// Parses a `qvalue` (RFC 9110, 12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let decimals = format!("{decimals:0<3}").parse().ok()?;
    match (whole, decimals) {
        ("0", decimals) => Some(decimals),
        ("1", 0) => Some(1000),
        (_, _) => None,
    }
}

/// Splits a list where a character stands outside quoted strings (RFC 9110, 5.6.4).
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match character {
            '"' if !was_escaped => is_quoted = !is_quoted,
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        character == separator && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefers_lines(fields: &[(&str, &str)]) -> bool {
        prefers(Fields(fields), "application/x-ndjson", "text/plain")
    }

    #[test]
    fn the_better_liked_type_is_preferred() {
        for accept in [
            "application/x-ndjson",
            "Application/X-NDJSON",
            "application/x-ndjson;q=0.001",
            "application/x-ndjson; charset=utf-8",
            "application/x-ndjson, */*",
            "application/x-ndjson,text/plain;q=0.9",
            "text/plain;q=0.5 , application/x-ndjson ;\tq=0.51",
            "application/*",
            "*/*, text/plain;q=0",
            "*/*, text/*;q=0.1",
            "x;y, application/x-ndjson",
            "text/plain;a=\",\";q=0.1, application/*;q=0.2",
            "text/plain;a=\"\\\",application/x-ndjson;q=0,\";q=0.1, */*;q=0.2",
            "text/plain;Q=0, */*;Q=1.000",
        ] {
            assert!(prefers_lines(&[("Accept", accept)]), "{accept}");
        }
        let both = [("accept", "text/plain;q=0.1"), ("ACCEPT", "application/x-ndjson;q=0.2")];
        assert!(prefers_lines(&both));
    }

    #[test]
    fn the_usual_type_is_for_all_others() {
        assert!(!prefers_lines(&[]));
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/json",
            "application/json, text/plain, */*",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/x-ndjson, text/plain",
            "application/x-ndjson;q=0",
            "application/x-ndjson;q=0.000, */*",
            "*/*, application/x-ndjson;q=0.999",
            "application/x-ndjson;q=0.5, text/*",
            "application/x-ndjson;q=x",
            "application/x-ndjson;q=1.1",
            "application/x-ndjson;q=2",
            "application/x-ndjson;q=0.0001",
            "application/x-ndjson;q=",
            "application/x-ndjson+gzip",
            "text/plain;a=\",application/x-ndjson,\"",
            "application/ x-ndjson",
            "*/x-ndjson",
            ",;,=,\"",
        ] {
            assert!(!prefers_lines(&[("Accept", accept)]), "{accept}");
        }
    }
}
