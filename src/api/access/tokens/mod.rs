//! Tokens: their text form, and the search for the one that a call has.
//!
//! A token is kept as its SHA-256 digest, and looked up by that. Nothing here tells of one:
//! neither an error nor the debug form of a set.
//!
//! The search costs a digest, so each thread remembers the last field that it has met and
//! the rights behind it. Every set of tokens has a number of its own: one number to look at
//! tells a thread whether another set has come. So threads share no lock and write to no
//! memory of each other's.

use super::failures::Failures;
use super::rights::{Grant, Rights};
use crate::api::Refusal;
use crate::api::collection::key_text;
use crate::api::fields::Fields;
use crate::api::grammar::{BASE64, OWS};
use crate::metrics::Exposition;
use base64::Engine as _;
use constant_time_eq::constant_time_eq;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The shortest token: one that nobody guesses.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest token.
const TOKEN_BYTES_MAX: usize = 1024;

/// The mark of a digest in place of a token.
const SHA256: &str = "sha256:";

/// The longest field that a thread remembers: the longest token fits, in either form.
const FIELD_BYTES_KEPT: usize = 2048;

/// The SHA-256 digest of a token.
type Digest = [u8; 32];

/// Tokens that may be replaced at any moment. A clone is another handle on the same ones.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Held>);

#[derive(Debug)]
struct Held {
    /// The number of the set, to look at without a lock.
    number: AtomicU64,
    set: RwLock<Arc<TokenSet>>,
    failures: Arc<Failures>,
}

/// A set of tokens with the rights of each.
pub struct TokenSet {
    /// No other set of this process has it.
    number: u64,
    grants: HashMap<Digest, Grant>,
}

/// A text that is not a [`TokenSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct InvalidTokens {
    /// The number of the line, from 1.
    pub line: usize,
    /// The fault of it.
    pub what: InvalidToken,
}

/// The fault of a token, or of the rights behind it. It never shows the token, nor any
/// other word of its line: that may be a part of one with a space in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// The token is too short.
    #[error("a token has at least {TOKEN_BYTES_MIN} characters")]
    TooShort,
    /// The token is too long.
    #[error("a token has at most {TOKEN_BYTES_MAX} characters")]
    TooLong,
    /// The token has other characters.
    #[error("a token consists of visible ASCII characters, without spaces")]
    Characters,
    /// It is no digest.
    #[error("behind {SHA256} there are 64 hexadecimal digits")]
    Digest,
    /// A word that could be meant for a right, and is none.
    #[error(
        "the word behind the token is neither ro nor rw: the prefix users is written `rw users`"
    )]
    Right,
    /// A right behind a prefix or behind another right.
    #[error("there is one ro or rw, right behind the token")]
    RightMisplaced,
    /// A prefix that cannot be percent-decoded.
    #[error("a prefix has a % without two hexadecimal digits")]
    PrefixEscape,
    /// A prefix that is not UTF-8.
    #[error("a prefix is not UTF-8")]
    PrefixNotUtf8,
    /// A prefix that no key has.
    #[error("a prefix is longer than a key may be")]
    PrefixTooLong,
    /// A prefix with control characters.
    #[error("a prefix has control characters: they are percent-encoded")]
    PrefixControl,
    /// The token stands in two lines.
    #[error("line {first} has this token already")]
    Repeated {
        /// The other line.
        first: usize,
    },
    /// There is no token at all.
    #[error("the text ends without a token")]
    Missing,
}

impl TokenSet {
    /// Parses lines of `TOKEN [ro|rw] [PREFIX...]`, with comments behind `#`. In place of a
    /// token there may be `sha256:` and its digest. Without a right it is `rw`, without a
    /// prefix for all keys. Prefixes are percent-decoded once.
    pub fn parse(text: &str) -> Result<Self, InvalidTokens> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut grants = HashMap::new();
        let mut lines_of = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let invalid = |what| InvalidTokens { line, what };
            let words = text.split([' ', '\t']).filter(|word| !word.is_empty());
            let mut words = words.take_while(|word| !word.starts_with('#'));
            let Some(token) = words.next() else { continue };
            let digest = digest_of(token).map_err(invalid)?;
            grants.insert(digest, Grant::parse(words).map_err(invalid)?);
            match lines_of.entry(digest) {
                Entry::Occupied(first) => {
                    return Err(invalid(InvalidToken::Repeated { first: *first.get() }));
                }
                Entry::Vacant(first) => first.insert(line),
            };
        }
        if grants.is_empty() {
            let line = text.lines().count().max(1);
            return Err(InvalidTokens { line, what: InvalidToken::Missing });
        }
        Ok(Self::of(grants))
    }

    /// The set of one token with all rights.
    pub fn of_one(token: &str) -> Result<Self, InvalidToken> {
        let all = Grant { may_write: true, prefixes: Arc::default() };
        Ok(Self::of(HashMap::from([(digest_of(token)?, all)])))
    }

    fn of(grants: HashMap<Digest, Grant>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), grants }
    }
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TokenSet").finish_non_exhaustive()
    }
}

impl Grant {
    /// Parses the words behind a token.
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, InvalidToken> {
        let mut words = words.peekable();
        let may_write = match words.peek().copied() {
            Some("ro") => false,
            Some("rw") | None => true,
            Some(word) if may_mean_right(word) => return Err(InvalidToken::Right),
            Some(_) => true,
        };
        words.next_if(|word| is_right(word));
        Ok(Self { may_write, prefixes: words.map(parse_prefix).collect::<Result<_, _>>()? })
    }
}

fn is_right(word: &str) -> bool {
    matches!(word, "ro" | "rw")
}

/// Returns true for a word in the place of a right that is not surely a prefix, which ends
/// in a separator: a right that is misspelt must not become a prefix to write below.
fn may_mean_right(word: &str) -> bool {
    let letters = word.trim_matches(|char: char| !char.is_alphanumeric());
    let ends_in_separator = word.ends_with(|char: char| !char.is_alphanumeric());
    !ends_in_separator || is_right(&letters.to_ascii_lowercase())
}

fn parse_prefix(word: &str) -> Result<Box<str>, InvalidToken> {
    if is_right(word) {
        return Err(InvalidToken::RightMisplaced);
    }
    if word.contains(|char: char| char.is_control()) {
        return Err(InvalidToken::PrefixControl);
    }
    key_text(word).map_err(|refusal| {
        if refusal == Refusal::KeyEscape {
            InvalidToken::PrefixEscape
        } else if refusal == Refusal::KeyNotUtf8 {
            InvalidToken::PrefixNotUtf8
        } else {
            InvalidToken::PrefixTooLong
        }
    })
}

/// The digest of a token, or the one in its place.
fn digest_of(token: &str) -> Result<Digest, InvalidToken> {
    let mark = token.get(..SHA256.len()).filter(|mark| mark.eq_ignore_ascii_case(SHA256));
    if let Some(digits) = mark.and_then(|mark| token.get(mark.len()..)) {
        return parse_digest(digits).ok_or(InvalidToken::Digest);
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err(InvalidToken::Characters)
    } else if token.len() < TOKEN_BYTES_MIN {
        Err(InvalidToken::TooShort)
    } else if token.len() > TOKEN_BYTES_MAX {
        Err(InvalidToken::TooLong)
    } else {
        Ok(Sha256::digest(token).into())
    }
}

fn parse_digest(digits: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let digit =
            |digit: u8| char::from(digit).to_digit(16).and_then(|digit| digit.try_into().ok());
        let (high, low): (u8, u8) = (digit(*high)?, digit(*low)?);
        *byte = high << 4 | low;
    }
    Some(digest)
}

/// The last field that a thread has met in a call with a known token.
struct Last {
    /// The number of the set.
    number: u64,
    field: Box<str>,
    rights: Rights,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

impl Tokens {
    /// These tokens.
    pub fn new(set: TokenSet) -> Self {
        let (number, set) = (AtomicU64::new(set.number), RwLock::new(Arc::new(set)));
        Self(Arc::new(Held { number, set, failures: Arc::default() }))
    }

    /// The number of the set: another one once they were replaced.
    pub fn number(&self) -> u64 {
        self.0.number.load(Ordering::Acquire)
    }

    /// Puts others in their place, from the next request on, also of a connection that is
    /// open. A request that has begun goes on with the rights that it had, however long
    /// it takes: one that waits, a stream, an import, the later parts of a list.
    pub fn replace(&self, set: TokenSet) {
        let mut held = self.0.set.write().unwrap_or_else(PoisonError::into_inner);
        self.0.number.store(set.number, Ordering::Release);
        *held = Arc::new(set);
    }

    /// The rights of the token in the fields of a call (RFC 6750, 2.1): the credentials of
    /// `Bearer`, or the password of `Basic` (RFC 7617) with any user. Never blocks for long.
    pub fn rights(&self, fields: Fields<'_>) -> Result<Rights, Refusal> {
        let mut found = fields.all("Authorization");
        let Some(field) = found.next() else {
            self.0.failures.count_missing();
            return Err(Refusal::Unauthorized);
        };
        if found.next().is_some() {
            return Err(Refusal::AuthorizationRepeated);
        }
        let number = self.number();
        LAST.with_borrow_mut(|last| match last {
            Some(last)
                if last.number == number
                    && constant_time_eq(last.field.as_bytes(), field.as_bytes()) =>
            {
                Ok(last.rights.clone())
            }
            Some(_) | None => {
                let (number, rights) = self.look_up(field)?;
                if field.len() <= FIELD_BYTES_KEPT {
                    *last = Some(Last { number, field: field.into(), rights: rights.clone() });
                }
                Ok(rights)
            }
        })
    }

    /// The rights of the token in a field, and the number of the set that has it.
    #[cold]
    fn look_up(&self, field: &str) -> Result<(u64, Rights), Refusal> {
        let set = Arc::clone(&self.0.set.read().unwrap_or_else(PoisonError::into_inner));
        // The time of this tells at most of digests, from which no token can be made.
        // A short token is none, though a set may have its digest: that of nothing, say.
        let token = token_in(field).filter(|token| token.len() >= TOKEN_BYTES_MIN);
        let grant = token.and_then(|token| set.grants.get(&*Sha256::digest(token)));
        let Some(grant) = grant else {
            self.0.failures.count_unknown();
            return Err(Refusal::Unauthorized);
        };
        Ok((set.number, Rights::of(grant, &self.0.failures)))
    }

    /// Writes the metrics.
    pub fn report(&self, to: &mut Exposition) {
        self.0.failures.report(to);
    }
}

/// The token in the value of `Authorization` (RFC 9110, 11.6.2).
fn token_in(field: &str) -> Option<Cow<'_, [u8]>> {
    let (scheme, credentials) = field.trim_matches(OWS).split_once(' ')?;
    let credentials = credentials.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("Bearer") {
        return Some(credentials.as_bytes().into());
    }
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let mut pair = BASE64.decode(credentials).ok()?;
    let colon = memchr::memchr(b':', &pair)?;
    pair.drain(..=colon);
    Some(pair.into())
}

#[cfg(test)]
mod tests;
