//! What the values of header fields are made of (RFC 9110, 5.6), for the
//! grammars beside this one.

/// Optional whitespace (RFC 9110, 5.6.3): a space and a tab, and no other of
/// what Unicode calls white.
pub const OWS: [char; 2] = [' ', '\t'];

/// Splits a token (RFC 9110, 5.6.2) off the start of `text`, or gives `None`
/// where there is none.
pub fn split_token(text: &str) -> Option<(&str, &str)> {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let end = text.bytes().position(|byte| !is_tchar(byte)).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(token, _)| !token.is_empty())
}
