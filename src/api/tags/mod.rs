//! Entity tags, and the conditions that are made of them (RFC 9110, 8.8.3
//! and 13).
//!
//! The tag of a value is the beginning of its SHA-256, so it is the same on
//! every engine and `sha256sum` can compute it. Nothing here hashes.

use super::field::OWS;

/// The most tags that one condition may list.
pub const TAGS_MAX: usize = 1000;

/// The strong entity tag of a value: the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag([u8; 16]);

impl EntityTag {
    /// The tag that is made of these bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The value of an `ETag` field (RFC 9110, 8.8.3): 32 lower-case
    /// hexadecimal digits in quotes.
    pub fn to_field(self) -> String {
        let digits = self.digits();
        let mut field = String::with_capacity(digits.len() + 2);
        field.push('"');
        field.push_str(text_of(&digits));
        field.push('"');
        field
    }

    /// The opaque part, without its quotes.
    fn digits(self) -> [u8; 32] {
        let mut digits = [0; 32];
        let (pairs, _) = digits.as_chunks_mut();
        for ([high, low], byte) in pairs.iter_mut().zip(self.0) {
            *high = digit(byte >> 4);
            *low = digit(byte & 0xf);
        }
        digits
    }
}

/// The hexadecimal digit of a number below 16.
fn digit(number: u8) -> u8 {
    if number < 10 { b'0' + number } else { b'a' + (number - 10) }
}

fn text_of(digits: &[u8; 32]) -> &str {
    std::str::from_utf8(digits).expect("hexadecimal digits are ASCII")
}

/// An entity tag as a client wrote it, which need not be one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Whether it is marked as weak.
    pub weak: bool,
    /// What is between the quotes.
    pub opaque: Box<str>,
}

impl Tag {
    /// Splits an `entity-tag` (RFC 9110, 8.8.3) off the start of `text`.
    fn split_off(text: &str) -> Option<(Self, &str)> {
        // The mark of a weak tag is case-sensitive.
        let (weak, quoted) = match text.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let (opaque, rest) = quoted.strip_prefix('"')?.split_once('"')?;
        opaque.bytes().all(is_etagc).then(|| (Self { weak, opaque: opaque.into() }, rest))
    }
}

/// `etagc`: visible characters but the quote, which nothing escapes, and
/// whatever is beyond ASCII.
fn is_etagc(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'~' | 0x80..)
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever there is.
    Any,
    /// One tag or more.
    Listed(Vec<Tag>),
}

impl Tags {
    /// Parses the values of all fields of one name, which are one list (RFC
    /// 9110, 5.3). Empty members do not count (5.6.1.2). `None` if a member is
    /// no tag, if there is no member, if `*` is not all there is, or with more
    /// than [`TAGS_MAX`] tags.
    pub fn parse<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut fields = fields.peekable();
        let first = fields.next()?;
        if first.trim_matches(OWS) == "*" && fields.peek().is_none() {
            return Some(Self::Any);
        }
        // No tag goes over the end of its field: joining two fields adds a
        // space, and a tag has none.
        let mut tags = Vec::new();
        for field in std::iter::once(first).chain(fields) {
            parse_members(field, &mut tags)?;
        }
        (!tags.is_empty()).then_some(Self::Listed(tags))
    }

    /// Whether one of these is the tag of what is `current`ly there, by the
    /// strong comparison (RFC 9110, 8.8.3.2) that `If-Match` asks for.
    pub fn matches_strongly(&self, current: Option<EntityTag>) -> bool {
        self.matches(current, |tag| !tag.weak)
    }

    /// The same by the weak comparison, which `If-None-Match` asks for.
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

/// The conditions of a request on what is stored under its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match` (RFC 9110, 13.1.1): go on only if one of these is there.
    pub if_match: Option<Tags>,
    /// `If-None-Match` (RFC 9110, 13.1.2): go on only if none of these is.
    pub if_none_match: Option<Tags>,
}

/// What becomes of a request with conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Holds,
    /// `If-None-Match` names what is there: the client has it already. 304
    /// for `GET` and `HEAD`, and 412 for every other method.
    Matched,
    /// `If-Match` names nothing that is there: 412, whatever the method.
    Failed,
}

impl Conditions {
    /// Whether the request comes without any.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Judges them in the order of RFC 9110, 13.2.2, against the tag of what
    /// is there, or `None` if nothing is. The caller asks only where the
    /// answer would be 2xx without them (13.2.1).
    pub fn verdict(&self, current: Option<EntityTag>) -> Verdict {
        if self.if_match.as_ref().is_some_and(|tags| !tags.matches_strongly(current)) {
            Verdict::Failed
        } else if self.if_none_match.as_ref().is_some_and(|tags| tags.matches_weakly(current)) {
            Verdict::Matched
        } else {
            Verdict::Holds
        }
    }
}

/// Whether `If-Range` (RFC 9110, 13.1.5) lets a range be taken: only if it is
/// the strong tag of what is there. A date never is, for values carry none.
pub fn if_range_holds(field: &str, current: EntityTag) -> bool {
    match Tag::split_off(field.trim_matches(OWS)) {
        Some((tag, "")) => !tag.weak && tag.opaque.as_bytes() == current.digits(),
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests;
