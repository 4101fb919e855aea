//! Sets of tokens, and their text form: a token a line, with its rights.
//!
//! A token is kept as its SHA-256 digest. Nothing here tells of one: neither an error nor the
//! debug form of a set.

use crate::api::Refusal;
use crate::api::access::rights::Grant;
use crate::api::collection::key_text;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The shortest token: one that nobody guesses.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest token.
const TOKEN_BYTES_MAX: usize = 1024;

/// The mark of a digest in place of a token.
const SHA256: &str = "sha256:";

/// The SHA-256 digest of a token.
type Digest = [u8; 32];

/// A set of tokens with the rights of each.
pub struct TokenSet {
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

    /// The number of the set, which no other set of this process has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The grant of a token.
    pub fn grant(&self, token: &[u8]) -> Option<&Grant> {
        // A short token is none, though a set may have its digest: that of nothing, say.
        let is_long_enough = token.len() >= TOKEN_BYTES_MIN;
        // The time of this tells at most of digests, from which no token can be made.
        is_long_enough.then(|| self.grants.get(&*Sha256::digest(token))).flatten()
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
