//! The type of a value, as its client writes it in `Content-Type` (RFC 9110,
//! 8.3.1) and gets it back.

use super::grammar::{OWS, split_token};

/// The longest type that is stored, in bytes.
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// What a browser shows as text or saves, whatever is in it.
const PASSIVE: [&str; 5] =
    ["text/plain", "text/csv", "text/markdown", "application/json", "application/octet-stream"];

/// What a browser decodes and plays or draws, unless it is written in XML.
const PASSIVE_KINDS: [&str; 4] = ["audio", "font", "image", "video"];

/// A `Content-Type` that is no media type, or a longer one than is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Checks the value of a `Content-Type` field and gives what to store of it.
/// `None` is for the type of HTML forms: curl adds it to whatever it sends, so
/// it says nothing.
///
/// What is stored is ASCII without control characters but the tab, so it fits
/// into a header field as it is.
pub fn check(field: &str) -> Result<Option<&str>, Malformed> {
    let text = field.trim_matches(OWS);
    if text.len() > MEDIA_TYPE_BYTES_MAX {
        return Err(Malformed);
    }
    let parameters = skip_essence(text).ok_or(Malformed)?;
    if !are_parameters(parameters) {
        return Err(Malformed);
    }
    let is_form = essence(text).eq_ignore_ascii_case("application/x-www-form-urlencoded");
    Ok((!is_form).then_some(text))
}

/// Whether a browser may take a value of this type for a document of its own
/// making: one with scripts, forms or frames, which must not act in the name
/// of the store. Parameters do not matter.
///
/// What is passive is listed, and the rest counts as active, for nobody knows
/// all that browsers and their plug-ins run: HTML, anything with XML in it
/// (SVG, XHTML, feeds with a style sheet), PDF, multipart, stored messages,
/// what is yet to come. Scripts and style sheets are no documents and would
/// need no sandbox, but it does not harm them: as parts of another page they
/// are not bound by it. So a doubtful type costs one header field.
pub fn is_active(media_type: &str) -> bool {
    let essence = essence(media_type);
    let is_passive = PASSIVE.iter().any(|known| essence.eq_ignore_ascii_case(known));
    let is_json = essence.split_once('/').is_some_and(|(_, subtype)| ends_in(subtype, b"+json"));
    let is_of_passive_kind = essence.split_once('/').is_some_and(|(kind, subtype)| {
        PASSIVE_KINDS.iter().any(|known| kind.eq_ignore_ascii_case(known))
            && !ends_in(subtype, b"xml")
    });
    !is_passive && !is_json && !is_of_passive_kind
}

/// Whether the subtype ends in `end`, as that of all XML and JSON with a type
/// of its own does (RFC 7303, 4.2; RFC 6839, 3.1).
fn ends_in<const N: usize>(subtype: &str, end: &[u8; N]) -> bool {
    subtype.as_bytes().last_chunk().is_some_and(|last: &[u8; N]| last.eq_ignore_ascii_case(end))
}

/// The type and subtype alone.
fn essence(media_type: &str) -> &str {
    let (essence, _) = media_type.split_once(';').unwrap_or((media_type, ""));
    essence.trim_matches(OWS)
}

/// What follows `type "/" subtype` at the start of `text`.
fn skip_essence(text: &str) -> Option<&str> {
    let (_, rest) = split_token(text)?;
    let (_, rest) = split_token(rest.strip_prefix('/')?)?;
    Some(rest)
}

/// `*( OWS ";" OWS [ parameter ] )` (RFC 9110, 5.6.6), where a parameter may
/// be missing and its value may not.
fn are_parameters(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(after) = rest.trim_start_matches(OWS).strip_prefix(';') else { return false };
        rest = after.trim_start_matches(OWS);
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let Some(after) = skip_parameter(rest) else { return false };
        rest = after;
    }
    true
}

fn skip_parameter(text: &str) -> Option<&str> {
    let (_, rest) = split_token(text)?;
    let value = rest.strip_prefix('=')?;
    match value.strip_prefix('"') {
        Some(quoted) => skip_quoted(quoted),
        None => split_token(value).map(|(_, rest)| rest),
    }
}

/// What follows the end of a quoted string (RFC 9110, 5.6.4) of which `text`
/// begins behind the opening quote. Nothing beyond ASCII is let in, though the
/// grammar has it: nobody could say what it means.
fn skip_quoted(text: &str) -> Option<&str> {
    let mut bytes = text.bytes().enumerate();
    loop {
        let (at, byte) = bytes.next()?;
        let character = match byte {
            b'"' => return text.get(at + 1..),
            b'\\' => bytes.next()?.1,
            other => other,
        };
        if !matches!(character, b'\t' | b' '..=b'~') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests;
