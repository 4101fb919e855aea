//! Media types (RFC 9110, 8.3.1): stored from a `Content-Type`, sent back in one,
//! and sandboxed if a browser might run the value.

use super::Refusal;
use super::fields::Fields;
use super::grammar::{OWS, split_token};
use std::sync::Arc;

/// The longest type to store, in bytes.
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// Types that a browser never runs: it shows the value as text or saves it.
const PASSIVE: [&str; 5] =
    ["text/plain", "text/csv", "text/markdown", "application/json", "application/octet-stream"];

/// Top-level types that a browser decodes and plays or draws, but for XML.
const PASSIVE_KINDS: [&str; 4] = ["audio", "font", "image", "video"];

/// Parses `Content-Type` into the type to store. `None` without one, and for
/// that of HTML forms, which curl adds to everything it sends.
pub fn parse(fields: Fields<'_>) -> Result<Option<Arc<str>>, Refusal> {
    let mut values = fields.all("Content-Type");
    let Some(value) = values.next() else { return Ok(None) };
    let media_type = check(value)?;
    if values.next().is_some() {
        Err(Refusal::TypeMalformed)
    } else {
        Ok(media_type.map(Into::into))
    }
}

/// Checks the value of one field. A type to store is ASCII with no control
/// character but the tab, so that it fits into a header field as it is.
fn check(field: &str) -> Result<Option<&str>, Refusal> {
    let text = field.trim_matches(OWS);
    if text.len() > MEDIA_TYPE_BYTES_MAX {
        return Err(Refusal::TypeMalformed);
    }
    let parameters = skip_essence(text).ok_or(Refusal::TypeMalformed)?;
    if !are_parameters(parameters) {
        return Err(Refusal::TypeMalformed);
    }
    let is_form = essence(text).eq_ignore_ascii_case("application/x-www-form-urlencoded");
    Ok((!is_form).then_some(text))
}

/// True for active content: a browser may open it as a document with scripts,
/// forms or frames, which must not act in the name of the store. Parameters do
/// not matter.
///
/// Passive types are listed and the rest counts as active, for nobody knows all
/// that browsers and their plug-ins run: HTML, anything in XML (SVG, XHTML,
/// feeds with a style sheet), PDF, multipart, stored messages, types to come.
/// Scripts and style sheets are not documents and need no sandbox, but take no
/// harm from one: it does not bind a part of another page. So a doubtful type
/// costs one header field.
pub fn is_active(media_type: &str) -> bool {
    let essence = essence(media_type);
    let is_passive = PASSIVE.iter().any(|known| essence.eq_ignore_ascii_case(known));
    let (kind, subtype) = essence.split_once('/').unwrap_or_default();
    let is_json = ends_in(subtype, b"+json");
    let is_of_passive_kind = PASSIVE_KINDS.iter().any(|known| kind.eq_ignore_ascii_case(known))
        && !ends_in(subtype, b"xml");
    !is_passive && !is_json && !is_of_passive_kind
}

/// True for a subtype with this structured suffix (RFC 6839, 3.1; RFC 7303,
/// 4.2).
fn ends_in<const N: usize>(subtype: &str, end: &[u8; N]) -> bool {
    subtype.as_bytes().last_chunk().is_some_and(|last: &[u8; N]| last.eq_ignore_ascii_case(end))
}

/// Type and subtype without the parameters.
fn essence(media_type: &str) -> &str {
    let (essence, _) = media_type.split_once(';').unwrap_or((media_type, ""));
    essence.trim_matches(OWS)
}

/// Skips `type "/" subtype` at the start of `text`.
fn skip_essence(text: &str) -> Option<&str> {
    let (_, rest) = split_token(text)?;
    let (_, rest) = split_token(rest.strip_prefix('/')?)?;
    Some(rest)
}

/// `*( OWS ";" OWS [ parameter ] )` (RFC 9110, 5.6.6).
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

/// Skips the rest of a quoted string (RFC 9110, 5.6.4), behind its opening
/// quote. Bytes beyond ASCII are in the grammar and not allowed here, as they
/// have no defined meaning.
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
