//! The header fields of a call, by name.

use super::grammar::OWS;

/// Names and values of the fields, as sent.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [(&'a str, &'a str)]);

impl<'a> Fields<'a> {
    /// The values of all fields of one name.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    /// True if there is a field of this name.
    pub fn has(self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of the one field of this name; `None` with several.
    pub fn only(self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// True if `Content-Encoding` (RFC 9110, 8.4) lists a coding; `identity` is
    /// none.
    pub fn have_content_coding(self) -> bool {
        let codings = self.all("Content-Encoding").flat_map(|list| list.split(','));
        let mut codings = codings.map(|coding| coding.trim_matches(OWS));
        codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    }
}
