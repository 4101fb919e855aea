//! Entity tags (RFC 9110, 8.8.3) and conditional requests (13).
//!
//! The tag of a value is the first half of its SHA-256, so it is the same on
//! every engine, and `sha256sum` computes it.

use super::Refusal;
use super::fields::Fields;
use super::grammar::OWS;
use crate::storage::Entry;

/// The most tags in one condition.
pub const TAGS_MAX: usize = 1000;

/// The strong entity tag of a value: the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag([u8; 16]);

/// The value of an `ETag` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagField([u8; 34]);

impl EntityTag {
    /// The tag of an entry.
    pub fn of(entry: &Entry) -> Self {
        Self(entry.digest())
    }

    /// The value of an `ETag` field (RFC 9110, 8.8.3): 32 lower-case
    /// hexadecimal digits in quotes.
    pub fn to_field(self) -> TagField {
        let mut field = [b'"'; 34];
        if let Some(digits) = field.get_mut(1..33) {
            digits.copy_from_slice(&self.digits());
        }
        TagField(field)
    }

    /// The opaque part, without its quotes.
    pub fn digits(self) -> [u8; 32] {
        let mut digits = [0; 32];
        let (pairs, _) = digits.as_chunks_mut();
        for ([high, low], byte) in pairs.iter_mut().zip(self.0) {
            *high = digit(byte >> 4);
            *low = digit(byte & 0xf);
        }
        digits
    }
}

impl TagField {
    /// Its text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

/// The hexadecimal digit for a number below 16.
fn digit(number: u8) -> u8 {
    if number < 10 { b'0' + number } else { b'a' + (number - 10) }
}

/// An entity tag as sent by a client: any opaque text, weak or strong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Marked as weak by `W/`.
    pub weak: bool,
    /// The text between the quotes.
    pub opaque: Box<str>,
}

impl Tag {
    /// Splits an `entity-tag` (RFC 9110, 8.8.3) off the start of `text`.
    fn split_off(text: &str) -> Option<(Self, &str)> {
        // `W/` is case-sensitive.
        let (weak, quoted) = match text.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let (opaque, rest) = quoted.strip_prefix('"')?.split_once('"')?;
        opaque.bytes().all(is_etagc).then(|| (Self { weak, opaque: opaque.into() }, rest))
    }
}

/// `etagc`: every visible character but the quote, which cannot be escaped, and
/// every byte beyond ASCII.
fn is_etagc(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'~' | 0x80..)
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any current value.
    Any,
    /// One tag or more.
    Listed(Vec<Tag>),
}

impl Tags {
    /// Parses all fields of one name as one list (RFC 9110, 5.3), skipping
    /// empty members (5.6.1.2). `None` for a member that is not a tag, an empty
    /// list, a `*` among others, and more than [`TAGS_MAX`] tags.
    pub fn parse<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut fields = fields.peekable();
        let first = fields.next()?;
        if first.trim_matches(OWS) == "*" && fields.peek().is_none() {
            return Some(Self::Any);
        }
        // No tag spans two fields: joining them adds a space, and a tag has none.
        let mut tags = Vec::new();
        for field in std::iter::once(first).chain(fields) {
            parse_members(field, &mut tags)?;
        }
        (!tags.is_empty()).then_some(Self::Listed(tags))
    }

    /// Strong comparison (RFC 9110, 8.8.3.2) with the current tag, for
    /// `If-Match`.
    pub fn matches_strongly(&self, current: Option<EntityTag>) -> bool {
        self.matches(current, |tag| !tag.weak)
    }

    /// Weak comparison with the current tag, for `If-None-Match`.
    pub fn matches_weakly(&self, current: Option<EntityTag>) -> bool {
        self.matches(current, |_| true)
    }

    fn matches(&self, current: Option<EntityTag>, counts: impl Fn(&Tag) -> bool) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Listed(tags), Some(current)) => {
                let digits = current.digits();
                tags.iter().any(|tag| tag.opaque.as_bytes() == digits && counts(tag))
            }
        }
    }
}

/// Adds the members of one field to `tags`.
fn parse_members(field: &str, tags: &mut Vec<Tag>) -> Option<()> {
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(());
        }
        let (tag, after) = Tag::split_off(rest)?;
        rest = after.trim_start_matches(OWS);
        let ends = rest.is_empty() || rest.starts_with(',');
        if !ends || tags.len() == TAGS_MAX {
            return None;
        }
        tags.push(tag);
    }
}

/// The conditions of a request on the value under its key. Few requests have any,
/// and all are moved from thread to thread, so they are boxed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match` (RFC 9110, 13.1.1): one of these is current.
    pub if_match: Option<Box<Tags>>,
    /// `If-None-Match` (RFC 9110, 13.1.2): none of these is.
    pub if_none_match: Option<Box<Tags>>,
}

/// The conditions of a request, evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The request goes on.
    Holds,
    /// `If-None-Match` lists the current tag: 304 for `GET` and `HEAD`, 412
    /// for every other method.
    NotModified,
    /// `If-Match` does not list the current tag: 412 for every method.
    Failed,
}

impl Conditions {
    /// The conditions in the fields of a request.
    pub fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let tags = |name| {
            let has_any = fields.has(name);
            has_any.then(|| Tags::parse(fields.all(name)).ok_or(Refusal::ConditionMalformed))
        };
        Ok(Self {
            if_match: tags("If-Match").transpose()?.map(Box::new),
            if_none_match: tags("If-None-Match").transpose()?.map(Box::new),
        })
    }

    /// Refuses fields with a condition.
    pub fn check_none(fields: Fields<'_>) -> Result<(), Refusal> {
        let is_none = Self::parse(fields)?.is_empty();
        if is_none { Ok(()) } else { Err(Refusal::ConditionUnexpected) }
    }

    /// True for fields with a condition, well formed or not.
    pub fn are_in(fields: Fields<'_>) -> bool {
        fields.has("If-Match") || fields.has("If-None-Match")
    }

    /// Nothing is there: `If-None-Match: *`.
    pub fn absent() -> Self {
        Self { if_match: None, if_none_match: Some(Box::new(Tags::Any)) }
    }

    /// True for an unconditional request.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Evaluates the conditions in the order of RFC 9110, 13.2.2, against the
    /// current tag, `None` for an absent key. They only count where the answer
    /// would be 2xx without them (13.2.1).
    pub fn evaluate(&self, current: Option<EntityTag>) -> Precondition {
        if self.if_match.as_ref().is_some_and(|tags| !tags.matches_strongly(current)) {
            Precondition::Failed
        } else if self.if_none_match.as_ref().is_some_and(|tags| tags.matches_weakly(current)) {
            Precondition::NotModified
        } else {
            Precondition::Holds
        }
    }
}

/// Evaluates `If-Range` (RFC 9110, 13.1.5): true for the current tag, strong.
/// False for any date, as values have none.
pub fn if_range_holds(field: &str, current: EntityTag) -> bool {
    match Tag::split_off(field.trim_matches(OWS)) {
        Some((tag, "")) => !tag.weak && tag.opaque.as_bytes() == current.digits(),
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests;
