//! The scripts that nodes run, with their commands and replies.
//!
//! *Load* reads keys, and *change* compares them with what was seen and changes them: each
//! for any number of keys of one slot, at one moment. Where a key is not as it was seen
//! nothing changes, and the reply is what is there, so that a retry needs no read.
//!
//! A node that does not know a script is taught all of [`ALL`] by the router.

use super::envelope::Stored;
use super::lists::slot;
use super::take;
use crate::storage::Error;
use crate::storage::cluster::network::protocol::{Commands, Reply};
use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use std::fmt::Write as _;
use std::sync::LazyLock;

/// Every script.
pub const ALL: &[&str] = &[LOAD, CHANGE, slot::KEYS, take::TAKE];

/// From this length on a value is compared by its SHA-1: it is sent to a node once, to be
/// stored, and not again to be compared. Whoever can make two values of one SHA-1 can have
/// a change decided on the one take the other's place, and no more.
const COMPARED_BYTES_MAX: usize = 16 << 10;

/// The words of *change* for each key.
const KEY_WORDS: usize = 6;

/// Replies with the value of each key, or nothing, and its expiry in milliseconds, -1
/// without one. The numbers are texts: those of scripts have 53 bits.
const LOAD: &str = "\
local found = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  found[2 * i - 1] = value
  found[2 * i] = value and string.format('%.0f', redis.call('PEXPIRETIME', key)) or '-2'
end
return found";

/// What scripts do with the six words of a key: the form of what was seen (`*` for
/// anything, `-` for nothing, `=` for a value, `#` for the SHA-1 of one), that, its expiry
/// (-1 for none); the fate (`k`eep, `s`et, `d`elete, `e`xpire: the value stays), the value
/// to set, its expiry (empty for none). `at` is the place of the first.
macro_rules! key_functions {
    () => {
        "\
local function is_seen(key, at)
  local form = ARGV[at]
  if form == '*' then return true end
  local value = redis.call('GET', key)
  if not value then return form == '-' end
  if form == '=' then
    if value ~= ARGV[at + 1] then return false end
  elseif form == '#' then
    if redis.sha1hex(value) ~= ARGV[at + 1] then return false end
  else
    return false
  end
  return redis.call('PEXPIRETIME', key) == tonumber(ARGV[at + 2])
end
local function apply(key, at)
  local fate, value, expiry = ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  if fate == 'd' then
    redis.call('UNLINK', key)
  elseif fate == 's' and expiry == '' then
    redis.call('SET', key, value)
  elseif fate == 's' then
    redis.call('SET', key, value, 'PXAT', expiry)
  elseif fate == 'e' and expiry == '' then
    redis.call('PERSIST', key)
  elseif fate == 'e' then
    redis.call('PEXPIREAT', key, expiry)
  end
end
"
    };
}
pub(super) use key_functions;

/// Has the words of each key. Replies with 1, or with the reply of *load*, where keys that
/// may be anything are as if nothing was there. What cannot be written fails before
/// anything is.
const CHANGE: &str = concat!(
    key_functions!(),
    "\
for i, key in ipairs(KEYS) do
  if not is_seen(key, 6 * i - 5) then
    local found = {}
    for j, other in ipairs(KEYS) do
      local value = ARGV[6 * j - 5] ~= '*' and redis.call('GET', other)
      found[2 * j - 1] = value
      found[2 * j] = value and string.format('%.0f', redis.call('PEXPIRETIME', other)) or '-2'
    end
    return found
  end
end
for i, key in ipairs(KEYS) do
  apply(key, 6 * i - 5)
end
return 1"
);

static LOAD_SHA1: LazyLock<String> = LazyLock::new(|| sha1_of(LOAD.as_bytes()));
static CHANGE_SHA1: LazyLock<String> = LazyLock::new(|| sha1_of(CHANGE.as_bytes()));

/// A key in a *change*.
#[derive(Clone, Copy, Debug)]
pub struct KeyChange<'a> {
    pub key: &'a str,
    pub seen: Seen<'a>,
    pub fate: Fate<'a>,
}

/// The state that a key has to have for a change.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// Any, even what is no value.
    Anything,
    Exactly(Option<&'a Stored>),
}

/// The fate of a key.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    Keep,
    Store(&'a Stored),
    Delete,
}

/// The outcome of a *change*.
#[derive(Debug)]
pub enum Changed {
    Done,
    /// Nothing has changed: these are there, in the order of the keys, as of that moment.
    Otherwise(Vec<Option<Stored>>),
}

/// Reads keys of one slot, at one moment.
pub fn load(keys: &[&str]) -> Commands {
    let count = keys.len().to_string();
    // It changes nothing, and a node that fails over runs it all the while.
    let mut words: Vec<&[u8]> = Vec::with_capacity(3 + keys.len());
    words.extend([&b"EVALSHA_RO"[..], LOAD_SHA1.as_bytes(), count.as_bytes()]);
    words.extend(keys.iter().map(|key| key.as_bytes()));
    Commands::default().with(&words)
}

/// Changes keys of one slot if all are as they were seen, at one moment.
pub fn change(keys: &[KeyChange<'_>]) -> Commands {
    let count = keys.len().to_string();
    let own: Vec<OwnWords> = keys.iter().map(OwnWords::of).collect();
    let mut words: Vec<&[u8]> = Vec::with_capacity(3 + (1 + KEY_WORDS) * keys.len());
    words.extend([&b"EVALSHA"[..], CHANGE_SHA1.as_bytes(), count.as_bytes()]);
    words.extend(keys.iter().map(|key| key.key.as_bytes()));
    for (key, own) in keys.iter().zip(&own) {
        words.extend(own.words(key));
    }
    Commands::default().with(&words)
}

/// The words of a key that are made for the command.
pub struct OwnWords {
    seen_sha1: Option<String>,
    seen_expiry: String,
    expiry: String,
}

impl OwnWords {
    pub fn of(key: &KeyChange<'_>) -> Self {
        let seen = match key.seen {
            Seen::Anything | Seen::Exactly(None) => None,
            Seen::Exactly(Some(stored)) => Some(stored),
        };
        let set = match key.fate {
            Fate::Keep | Fate::Delete => None,
            Fate::Store(stored) => stored.expiry_ms,
        };
        let is_long = |stored: &&Stored| stored.bytes.len() >= COMPARED_BYTES_MAX;
        Self {
            seen_sha1: seen.filter(is_long).map(|stored| sha1_of(&stored.bytes)),
            seen_expiry: seen.map_or_else(String::new, |stored| {
                stored.expiry_ms.map_or_else(|| "-1".to_owned(), |ms| ms.to_string())
            }),
            expiry: set.map_or_else(String::new, |ms| ms.to_string()),
        }
    }

    /// All words of the key.
    pub fn words<'a>(&'a self, key: &KeyChange<'a>) -> [&'a [u8]; KEY_WORDS] {
        let (form, seen): (&[u8], &[u8]) = match key.seen {
            Seen::Anything => (b"*", b""),
            Seen::Exactly(None) => (b"-", b""),
            Seen::Exactly(Some(stored)) => match &self.seen_sha1 {
                None => (b"=", &stored.bytes),
                Some(sha1) => (b"#", sha1.as_bytes()),
            },
        };
        let (fate, value): (&[u8], &[u8]) = match (key.fate, key.seen) {
            (Fate::Keep, _) => (b"k", b""),
            // A full node does this too.
            (Fate::Store(stored), Seen::Exactly(Some(seen))) if stored.bytes == seen.bytes => {
                (b"e", b"")
            }
            (Fate::Store(stored), _) => (b"s", &stored.bytes),
            (Fate::Delete, _) => (b"d", b""),
        };
        [form, seen, self.seen_expiry.as_bytes(), fate, value, self.expiry.as_bytes()]
    }
}

/// The reply to *load* for so many keys.
pub fn loaded(reply: Reply, keys: usize) -> Result<Vec<Option<Stored>>, Error> {
    let Reply::Many(parts) = reply else { return Err(unexpected()) };
    let mut parts = parts.into_iter();
    let mut found = Vec::with_capacity(keys);
    while let (Some(value), Some(expiry)) = (parts.next(), parts.next()) {
        found.push(match value {
            Reply::Nothing => None,
            Reply::Bytes(bytes) => Some(Stored::found(bytes, expiry_of(&expiry)?)),
            Reply::Integer(_) | Reply::Many(_) | Reply::Error(_) => return Err(unexpected()),
        });
    }
    if found.len() == keys { Ok(found) } else { Err(unexpected()) }
}

/// The reply to *change* for so many keys. Behind one that makes no sense the change may
/// have taken effect.
pub fn changed(reply: Reply, keys: usize) -> Result<Changed, Error> {
    if reply == Reply::Integer(1) {
        return Ok(Changed::Done);
    }
    loaded(reply, keys).map(Changed::Otherwise).map_err(|_| Error::OutcomeUnknown)
}

/// The expiry in a reply, if there is one.
pub fn expiry_of(reply: &Reply) -> Result<Option<i64>, Error> {
    let ms = match reply {
        Reply::Integer(ms) => *ms,
        Reply::Bytes(text) => number_of(text).ok_or_else(unexpected)?,
        Reply::Nothing | Reply::Many(_) | Reply::Error(_) => return Err(unexpected()),
    };
    Ok((ms >= 0).then_some(ms))
}

/// The number of a text; the latest expiries are beyond it by their rounding.
fn number_of(text: &Bytes) -> Option<i64> {
    let number: i128 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A reply that no node gives to these commands.
pub fn unexpected() -> Error {
    Error::internal("a node has given a reply that makes no sense")
}

/// The SHA-1 in hexadecimal digits.
pub fn sha1_of(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(40);
    for byte in Sha1::digest(bytes) {
        write!(digits, "{byte:02x}").expect("a string takes everything");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Reply {
        Reply::Bytes(Bytes::from_static(text.as_bytes()))
    }

    fn stored(text: &'static str, expiry_ms: Option<i64>) -> Stored {
        Stored::found(text.into(), expiry_ms)
    }

    #[test]
    fn a_sha1_is_that_of_the_standard() {
        // echo -n abc | sha1sum
        assert_eq!(sha1_of(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn what_is_loaded_is_read_with_its_expiry() {
        let reply = Reply::Many(vec![
            bytes("a"),
            bytes("-1"),
            Reply::Nothing,
            bytes("-2"),
            bytes("c"),
            bytes("1700000000123"),
            bytes("d"),
            bytes("9223372036854775808"),
        ]);
        let found = vec![
            Some(stored("a", None)),
            None,
            Some(stored("c", Some(1_700_000_000_123))),
            Some(stored("d", Some(i64::MAX))),
        ];
        assert_eq!(loaded(reply.clone(), 4).expect("a reply"), found);
        loaded(reply, 3).expect_err("one too many");
    }

    #[test]
    fn a_reply_that_makes_no_sense_is_an_error() {
        let many = |items: Vec<Reply>| Reply::Many(items);
        let cases = [
            Reply::Nothing,
            Reply::Integer(0),
            bytes("OK"),
            many(vec![]),
            many(vec![bytes("a")]),
            many(vec![bytes("a"), bytes("soon")]),
            many(vec![bytes("a"), Reply::Nothing]),
            many(vec![Reply::Integer(1), bytes("-1")]),
        ];
        for reply in cases {
            assert!(matches!(loaded(reply.clone(), 1), Err(Error::Internal(_))), "{reply:?}");
            assert!(matches!(changed(reply.clone(), 1), Err(Error::OutcomeUnknown)), "{reply:?}");
        }
        assert!(matches!(changed(Reply::Integer(1), 1), Ok(Changed::Done)));
    }
}
