//! The look-up of a call's token.
//!
//! ```text
//! Authorization ──► the last field of this thread, of the same set ──► its rights
//!                   else: token ──► digest ──► set ──► grant ────────► rights, remembered
//! ```
//!
//! A look-up costs a digest, so each thread remembers the last field that it has met and
//! the rights behind it. Every set of tokens has a number of its own, by which a thread sees
//! that another set has come. So threads share no lock and write to no memory of each
//! other's.

mod set;

use super::failures::Failures;
use super::rights::Rights;
use crate::api::Refusal;
use crate::api::fields::Fields;
use crate::api::grammar::{BASE64, OWS};
use crate::metrics::Exposition;
use base64::Engine as _;
use constant_time_eq::constant_time_eq;
pub use set::{InvalidToken, InvalidTokens, TokenSet};
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The longest field that a thread remembers: the longest token fits, in either form.
const FIELD_BYTES_KEPT: usize = 2048;

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
        let (number, set) = (AtomicU64::new(set.number()), RwLock::new(Arc::new(set)));
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
        self.0.number.store(set.number(), Ordering::Release);
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
        let Some(grant) = token_in(field).and_then(|token| set.grant(&token)) else {
            self.0.failures.count_unknown();
            return Err(Refusal::Unauthorized);
        };
        Ok((set.number(), Rights::of(grant, &self.0.failures)))
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
