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
mod tests {
    use super::*;
    use crate::api::access::Right;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

    const TOKEN: &str = "a-token-of-tests";
    const OTHER: &str = "another-token-of-tests";
    // printf a-token-of-tests | sha256sum
    const DIGEST: &str = "2790ea26a8a8fadabc24a2a419724b02daed32320676df533e803f8a0f55a869";

    /// The rights of a token in a text, as far as these keys tell: reading and writing of
    /// `users:1` and of `other`.
    fn rights_in(text: &str, token: &str) -> Result<[bool; 4], Refusal> {
        let tokens = Tokens::new(TokenSet::parse(text).unwrap_or_else(|err| panic!("{err}")));
        rights_of(&tokens, &format!("Bearer {token}"))
    }

    fn rights_of(tokens: &Tokens, field: &str) -> Result<[bool; 4], Refusal> {
        let rights = tokens.rights(Fields(&[("Authorization", field)]))?;
        Ok([(Right::Read, "users:1"), (Right::Write, "users:1"), (Right::Read, "other")]
            .into_iter()
            .chain([(Right::Write, "other")])
            .map(|(right, key)| rights.check_key(right, key).is_ok())
            .collect::<Vec<_>>()
            .try_into()
            .expect("four of them"))
    }

    const ALL: [bool; 4] = [true, true, true, true];
    const READER: [bool; 4] = [true, false, true, false];
    const USERS: [bool; 4] = [true, true, false, false];
    const USERS_READER: [bool; 4] = [true, false, false, false];

    #[test]
    fn a_line_is_a_token_a_right_and_prefixes() {
        let long = format!("rw {} users:", "x".repeat(1024));
        let table = [
            ("", ALL),
            (" ", ALL),
            ("rw", ALL),
            ("ro", READER),
            ("\tro ", READER),
            ("users:", USERS),
            ("rw users:", USERS),
            ("rw users", USERS),
            ("rw groups: users:", USERS),
            ("groups: users:", USERS),
            ("ro users: groups:", USERS_READER),
            ("ro %75sers%3A", USERS_READER),
            ("ro users:1", USERS_READER),
            (&long, USERS),
            ("# the owner", ALL),
            ("#ro", ALL),
            ("ro # rw", READER),
            ("ro users: #other", USERS_READER),
            ("ro users:#", [false; 4]),
            ("ro %23 %2575sers", [false; 4]),
        ];
        for (rest, rights) in table {
            for (start, end) in [("", ""), ("\u{feff}", "\n"), ("# all\n\n \t\n", "\r\n\r\n")] {
                for token in [TOKEN.to_owned(), format!("sha256:{DIGEST}")] {
                    let text = format!("{start}{OTHER}\r\n  {token} {rest}{end}");
                    assert_eq!(rights_in(&text, TOKEN), Ok(rights), "{text:?}");
                    assert_eq!(rights_in(&text, OTHER), Ok(ALL), "{text:?}");
                    assert_eq!(rights_in(&text, DIGEST), Err(Refusal::Unauthorized));
                }
            }
        }
        let upper = format!("SHA256:{}", DIGEST.to_uppercase());
        assert_eq!(rights_in(&upper, TOKEN), Ok(ALL));
        for token in [TOKEN, &"~".repeat(1024), "#=:%#,\"'\\?+&@/#!", "sha256sha256sha256"] {
            let text = format!("  {token}");
            let is_comment = token.starts_with('#');
            assert_eq!(TokenSet::parse(&text).is_err(), is_comment, "{token}");
            assert_eq!(
                rights_of(
                    &Tokens::new(TokenSet::of_one(token).unwrap()),
                    &format!("bearer {token}")
                ),
                Ok(ALL)
            );
        }
    }

    #[test]
    fn a_bad_line_is_told_and_shows_no_word_of_it() {
        let digest = DIGEST;
        let table = [
            ("a-token-of-test", InvalidToken::TooShort),
            ("ro", InvalidToken::TooShort),
            ("\u{e4}-token-of-tests-of-ours", InvalidToken::Characters),
            ("a-token\u{a0}of-tests", InvalidToken::Characters),
            ("a-token\rof-tests-of-ours", InvalidToken::Characters),
            ("a\0-\0t\0o\0k\0e\0n\0o\0f\0u\0s\0", InvalidToken::Characters),
            (&"x".repeat(1025), InvalidToken::TooLong),
            ("sha256:", InvalidToken::Digest),
            (&format!("sha256:{digest}0"), InvalidToken::Digest),
            (&format!("sha256:{}", &digest[1..]), InvalidToken::Digest),
            (&format!("Sha256:{}", digest.replace('a', "+")), InvalidToken::Digest),
            (&format!("sha256:{}\u{e4}", &digest[2..]), InvalidToken::Digest),
            (&format!("{TOKEN} rx"), InvalidToken::Right),
            (&format!("{TOKEN} RO"), InvalidToken::Right),
            (&format!("{TOKEN} readonly users:"), InvalidToken::Right),
            (&format!("{TOKEN} read-only users:"), InvalidToken::Right),
            (&format!("{TOKEN} ro: users:"), InvalidToken::Right),
            (&format!("{TOKEN} RO, users:"), InvalidToken::Right),
            (&format!("{TOKEN} [rw] users:"), InvalidToken::Right),
            (&format!("{TOKEN} -ro"), InvalidToken::Right),
            (&format!("{TOKEN} r/o users:"), InvalidToken::Right),
            (&format!("{TOKEN} users:1"), InvalidToken::Right),
            (&format!("{TOKEN} {TOKEN}"), InvalidToken::Right),
            (&format!("{TOKEN} users"), InvalidToken::Right),
            (&format!("{TOKEN} 1"), InvalidToken::Right),
            (&format!("{TOKEN} ro rw"), InvalidToken::RightMisplaced),
            (&format!("{TOKEN} users: ro"), InvalidToken::RightMisplaced),
            (&format!("{TOKEN} rw %"), InvalidToken::PrefixEscape),
            (&format!("{TOKEN} rw a%2"), InvalidToken::PrefixEscape),
            (&format!("{TOKEN} rw %FF"), InvalidToken::PrefixNotUtf8),
            (&format!("{TOKEN} rw \u{1}"), InvalidToken::PrefixControl),
            (&format!("{TOKEN} ro\rusers"), InvalidToken::Right),
            (&format!("{TOKEN} rw {}", "x".repeat(1025)), InvalidToken::PrefixTooLong),
            (OTHER, InvalidToken::Repeated { first: 2 }),
        ];
        for (line, what) in table {
            let text = format!("\n{OTHER} ro\r\n# a comment\n{line}\n{TOKEN}-3\n");
            let err = TokenSet::parse(&text).expect_err(line);
            assert_eq!(err, InvalidTokens { line: 4, what }, "{line:?}");
            let told = err.to_string();
            assert!(told.starts_with("line 4: "), "{told}");
            for word in line.split_whitespace().filter(|word| !matches!(*word, "ro" | "rw")) {
                let is_of_ours = matches!(word, "sha256:" | "users" | "1" | "%");
                assert!(is_of_ours || !told.contains(word), "{told}");
            }
        }
        let twice = format!("{TOKEN} ro\nsha256:{digest}\n");
        let repeated = InvalidTokens { line: 2, what: InvalidToken::Repeated { first: 1 } };
        assert_eq!(TokenSet::parse(&twice).err(), Some(repeated));
        for (text, line) in [("", 1), ("\u{feff}", 1), ("#\n\n", 2), ("\n \n# none", 3)] {
            let missing = InvalidTokens { line, what: InvalidToken::Missing };
            assert_eq!(TokenSet::parse(text).err(), Some(missing), "{text:?}");
        }
        for token in
            ["", "short", "a token of our tests", "a-token-of-tests\n", "\u{e4}aaaaaaaaaaaaaaaa"]
        {
            assert!(TokenSet::of_one(token).is_err(), "{token:?}");
        }
    }

    #[test]
    fn nothing_shows_a_token_or_its_digest() {
        let text = format!("{TOKEN} ro\n{OTHER}\n");
        let tokens = Tokens::new(TokenSet::parse(&text).unwrap());
        assert_eq!(rights_of(&tokens, &format!("Bearer {TOKEN}")), Ok(READER));
        let shown = format!("{tokens:?} {:?}", TokenSet::of_one(TOKEN));
        assert!(shown.len() < 200 && !shown.contains(TOKEN), "{shown}");
    }

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_the_password_of_basic() {
        let with_colons = "a:token:of:tests:";
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text = format!("{TOKEN} ro\n{with_colons} ro users:\nsha256:{of_nothing}\n");
        let tokens = Tokens::new(TokenSet::parse(&text).unwrap());
        let longer = |text: &str| format!("{text}{}", " ".repeat(FIELD_BYTES_KEPT));
        let unpadded = STANDARD_NO_PAD.encode(format!("me:{TOKEN}"));
        assert!(basic("me", TOKEN).ends_with('='), "it has padding");
        let good = [
            format!("Bearer {TOKEN}"),
            format!("bearer {TOKEN}"),
            format!("BEARER    {TOKEN}"),
            format!(" \tBearer {TOKEN}\t "),
            longer(&format!("Bearer {TOKEN}")),
            basic("", TOKEN),
            basic("me", TOKEN),
            basic("\u{e4}", TOKEN),
            basic(&"u".repeat(FIELD_BYTES_KEPT), TOKEN),
            format!("Basic {unpadded}"),
            format!("bAsIc  {unpadded} "),
        ];
        for field in &good {
            // The second time it is remembered.
            for time in ["first", "second"] {
                assert_eq!(rights_of(&tokens, field), Ok(READER), "{time} {field:?}");
            }
        }
        for field in [format!("Bearer {with_colons}"), basic("me", with_colons)] {
            assert_eq!(rights_of(&tokens, &field), Ok(USERS_READER), "{field}");
        }
        let bad = [
            String::new(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            TOKEN.to_owned(),
            format!("Bearer{TOKEN}"),
            format!("Bearer\t{TOKEN}"),
            format!("Bearer: {TOKEN}"),
            format!("Bearer \"{TOKEN}\""),
            format!("Bearer {TOKEN}, Bearer {TOKEN}"),
            format!("Bearer {TOKEN}x"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Bearer {}", TOKEN.to_uppercase()),
            format!("Bearer sha256:{DIGEST}"),
            format!("Bearer {OTHER}"),
            format!("Token {TOKEN}"),
            format!("Digest {TOKEN}"),
            format!("Basic {TOKEN}"),
            format!("Basic {}", STANDARD.encode(TOKEN)),
            basic(TOKEN, ""),
            basic("me:", TOKEN),
            basic("me", &format!("{TOKEN}\n")),
            basic("me", OTHER),
            format!("Basic {}=", STANDARD.encode(format!("me:{TOKEN}"))),
            format!("Basic ={unpadded}"),
            "Basic".to_owned(),
            "Basic %".to_owned(),
        ];
        for field in &bad {
            assert_eq!(rights_of(&tokens, field), Err(Refusal::Unauthorized), "{field:?}");
        }
        let good = good.map(|field| ("Authorization", field));
        let [one, other, ..] = good.each_ref().map(|(name, field)| (*name, &**field));
        assert_eq!(tokens.rights(Fields(&[])).err(), Some(Refusal::Unauthorized));
        for twice in [[one, other], [one, one], [one, ("authorization", "")]] {
            let refusal = tokens.rights(Fields(&twice)).err();
            assert_eq!(refusal, Some(Refusal::AuthorizationRepeated), "{twice:?}");
        }
    }

    #[test]
    fn what_a_thread_remembers_is_of_one_set() {
        let field = format!("Bearer {TOKEN}");
        let of = |text: &str| TokenSet::parse(&format!("{text}\n{OTHER}")).unwrap();
        let reader = Tokens::new(of(&format!("{TOKEN} ro")));
        let users = Tokens::new(of(&format!("{TOKEN} users:")));
        let nobody = Tokens::new(of("a-third-token-of-tests"));
        for _ in 0..2 {
            assert_eq!(rights_of(&reader, &field), Ok(READER));
            assert_eq!(rights_of(&users, &field), Ok(USERS));
            assert_eq!(rights_of(&nobody, &field), Err(Refusal::Unauthorized));
        }
        assert_eq!(rights_of(&reader, &field), Ok(READER));
        let handle = reader.clone();
        handle.replace(of(&format!("{TOKEN} ro users:")));
        assert_eq!(rights_of(&reader, &field), Ok(USERS_READER));
        handle.replace(of("a-third-token-of-tests"));
        assert_eq!(rights_of(&reader, &field), Err(Refusal::Unauthorized));
        assert_eq!(rights_of(&reader, &format!("Bearer {OTHER}")), Ok(ALL));
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let tokens = Tokens::new(TokenSet::parse(&format!("{TOKEN} ro users:")).unwrap());
        tokens.rights(Fields(&[])).unwrap_err();
        for field in ["", "Bearer", "Basic !"] {
            rights_of(&tokens, field).unwrap_err();
        }
        // Three of the four are refused.
        assert_eq!(rights_of(&tokens, &format!("Bearer {TOKEN}")), Ok(USERS_READER));
        let mut exposition = Exposition::default();
        tokens.report(&mut exposition);
        let text = exposition.into_text();
        for (reason, count) in [("missing", 1), ("unknown", 3), ("forbidden", 3)] {
            let line = format!("\nlkv_auth_failures_total{{reason=\"{reason}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
