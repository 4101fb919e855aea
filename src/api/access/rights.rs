//! The rights of a token.

use super::failures::Failures;
use crate::api::Refusal;
use crate::api::target::encode;
use std::sync::Arc;

/// The rights of a caller. Cloning them allocates nothing.
#[derive(Clone, Debug)]
pub enum Rights {
    /// All there are.
    All,
    /// Those of a token that has not all of them.
    Limited(Arc<Limited>),
    /// None: the caller needs no token, and shows none.
    None,
}

/// The rights that a token was given.
#[derive(Clone, Debug)]
pub struct Grant {
    /// It may write. Each token may read.
    pub may_write: bool,
    /// The starts of the keys that it may name; empty for all keys.
    pub prefixes: Arc<[Box<str>]>,
}

/// Rights that are not all.
#[derive(Debug)]
pub struct Limited {
    grant: Grant,
    failures: Arc<Failures>,
}

/// A right that a call needs on the keys that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To read.
    Read,
    /// To write.
    Write,
}

impl Rights {
    /// The rights that a token was given. Each call counts the clones of its result apart,
    /// so threads that call it do not share a counter.
    pub fn of(grant: &Grant, failures: &Arc<Failures>) -> Self {
        if grant.may_write && grant.prefixes.is_empty() {
            return Self::All;
        }
        Self::Limited(Arc::new(Limited { grant: grant.clone(), failures: Arc::clone(failures) }))
    }

    /// The value of `Token-Rights`: `rw` or `ro` and the prefixes, each percent-encoded, as
    /// in the text form of tokens. `None` without rights.
    pub fn to_field(&self) -> Option<String> {
        let grant = match self {
            Self::All => return Some("rw".to_owned()),
            Self::Limited(limited) => &limited.grant,
            Self::None => return None,
        };
        let mut text = String::from(if grant.may_write { "rw" } else { "ro" });
        for prefix in &*grant.prefixes {
            text.push(' ');
            text.extend(encode(prefix));
        }
        Some(text)
    }

    /// Fails without the right to do this with any key.
    pub fn check(&self, right: Right) -> Result<(), Refusal> {
        self.check_keys(right, |_| true)
    }

    /// Fails without the right to do this with a key.
    pub fn check_key(&self, right: Right, key: &str) -> Result<(), Refusal> {
        self.check_keys(right, |granted| key.starts_with(granted))
    }

    /// Fails without the right to do this with every key that begins so. The empty one is
    /// the prefix of all keys.
    pub fn check_prefix(&self, right: Right, prefix: &str) -> Result<(), Refusal> {
        // The keys with a prefix are some of those with the start of it.
        self.check_key(right, prefix)
    }

    /// Fails without the right to do this with keys that are all within some prefix.
    #[inline]
    fn check_keys(&self, right: Right, are_within: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        match self {
            Self::All => Ok(()),
            Self::Limited(limited) => limited.check_keys(right, are_within),
            Self::None => Err(Refusal::Forbidden),
        }
    }
}

impl Limited {
    fn check_keys(&self, right: Right, are_within: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        let Grant { may_write, prefixes } = &self.grant;
        let has_right = right == Right::Read || *may_write;
        let has_keys = prefixes.is_empty() || prefixes.iter().any(|prefix| are_within(prefix));
        if has_right && has_keys {
            return Ok(());
        }
        self.failures.count_forbidden();
        Err(Refusal::Forbidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(may_write: bool, prefixes: &[&str]) -> Rights {
        let prefixes = prefixes.iter().map(|prefix| Box::from(*prefix)).collect();
        Rights::of(&Grant { may_write, prefixes }, &Arc::default())
    }

    #[test]
    fn a_right_is_one_on_keys() {
        let all = rights(true, &[]);
        let reader = rights(false, &[]);
        let users = rights(true, &["users:", "groups:"]);
        let readers = rights(false, &["users:"]);
        // The right, the key, and who has it of the four.
        let keys = [
            (Right::Read, "users:1", [true, true, true, true]),
            (Right::Read, "groups:1", [true, true, true, false]),
            (Right::Read, "users:", [true, true, true, true]),
            (Right::Read, "users", [true, true, false, false]),
            (Right::Read, "Users:1", [true, true, false, false]),
            (Right::Read, "", [true, true, false, false]),
            (Right::Write, "users:1", [true, false, true, false]),
            (Right::Write, "other", [true, false, false, false]),
            (Right::Write, "", [true, false, false, false]),
        ];
        for (right, key, of_each) in keys {
            let each = [&all, &reader, &users, &readers];
            let are_ok = each.map(|rights| rights.check_key(right, key).is_ok());
            assert_eq!(are_ok, of_each, "{right:?} {key}");
            let are_ok = each.map(|rights| rights.check_prefix(right, key).is_ok());
            assert_eq!(are_ok, of_each, "{right:?} {key}*");
        }
        for (right, of_each) in
            [(Right::Read, [true, true, true, true]), (Right::Write, [true, false, true, false])]
        {
            let each = [&all, &reader, &users, &readers];
            assert_eq!(each.map(|rights| rights.check(right).is_ok()), of_each, "{right:?}");
        }
    }

    #[test]
    fn nobody_has_no_right() {
        for right in [Right::Read, Right::Write] {
            assert_eq!(Rights::None.check(right), Err(Refusal::Forbidden));
            assert_eq!(Rights::None.check_key(right, "key"), Err(Refusal::Forbidden));
            assert_eq!(Rights::None.check_prefix(right, ""), Err(Refusal::Forbidden));
        }
    }
}
