//! The header fields that a call's meaning depends on.

use super::Refusal;
use super::etag::{Conditions, Tags};
use super::grammar::OWS;
use super::media_type;
use std::sync::Arc;

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

    /// `If-Match` and `If-None-Match`.
    pub fn conditions(self) -> Result<Conditions, Refusal> {
        let tags = |name| {
            let has_any = self.has(name);
            has_any.then(|| Tags::parse(self.all(name)).ok_or(Refusal::ConditionMalformed))
        };
        Ok(Conditions {
            if_match: tags("If-Match").transpose()?,
            if_none_match: tags("If-None-Match").transpose()?,
        })
    }

    /// Whether `Content-Encoding` (RFC 9110, 8.4) lists any coding. `identity`
    /// stands for none.
    pub fn have_content_coding(self) -> bool {
        let codings = self.all("Content-Encoding").flat_map(|list| list.split(','));
        let mut codings = codings.map(|coding| coding.trim_matches(OWS));
        codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    }

    /// `Content-Type`, as far as it is worth storing.
    pub fn content_type(self) -> Result<Option<Arc<str>>, Refusal> {
        let mut values = self.all("Content-Type");
        let Some(value) = values.next() else { return Ok(None) };
        match media_type::check(value) {
            Ok(text) if values.next().is_none() => Ok(text.map(Into::into)),
            Ok(_) | Err(media_type::Malformed) => Err(Refusal::TypeMalformed),
        }
    }
}
