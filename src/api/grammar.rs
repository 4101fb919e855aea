//! The pieces of HTTP's grammar that several fields share (RFC 9110, 5.6 and
//! 7.2), for this layer and for the server above.

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Base64 as parsed by RFC 9651, 4.2.7: the padding is optional.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Optional whitespace (RFC 9110, 5.6.3): space and tab, none of Unicode's.
pub const OWS: [char; 2] = [' ', '\t'];

/// `tchar` (RFC 9110, 5.6.2).
pub fn is_tchar(byte: u8) -> bool {
    // Quicker than a search in a list, which each byte of each head would wait for.
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// True for a `token` (RFC 9110, 5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_tchar)
}

/// Splits a token off the start of `text`. `None` where there is none.
pub fn split_token(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_tchar(byte)).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(token, _)| !token.is_empty())
}

/// True for the name of a host: labels of letters, digits, hyphens and underscores, with
/// dots between them.
pub fn is_host_name(text: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(is_char))
}

/// Host and port of an authority. The host loses the dot that ends an absolute
/// name; the port is empty where there is none.
pub fn split_port(authority: &str) -> (&str, &str) {
    // An IPv6 address ends in a bracket, so no group of it looks like a port.
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let split = authority.rsplit_once(':').filter(|(_, port)| is_port(port));
    let (host, port) = split.unwrap_or((authority, ""));
    (host.strip_suffix('.').unwrap_or(host), port)
}
