//! The header fields that a call's meaning depends on.

use super::grammar::OWS;

/// The fields of a call, names and values as they were sent.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [(&'a str, &'a str)]);

impl<'a> Fields<'a> {
    /// The values of all fields of one name.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    /// Whether there is a field of this name.
    pub fn has(self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of the one field of this name. Of several none counts.
    pub fn only(self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Whether `Content-Encoding` (RFC 9110, 8.4) lists any coding. `identity`
    /// stands for none.
    pub fn have_content_coding(self) -> bool {
        let codings = self.all("Content-Encoding").flat_map(|list| list.split(','));
        let mut codings = codings.map(|coding| coding.trim_matches(OWS));
        codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    }
}
