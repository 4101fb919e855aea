//! Access control: the hosts that a call may name, the tokens that let a caller in, and the
//! rights that each has.
//!
//! ```text
//! head ──► hosts 403 ──► tokens 400, 401 ──► the rights of the caller ──► 403 where a
//!          without tokens                    and its origin               method, key or
//!                                                                         prefix needs more
//! ```
//!
//! Everything here is decided from the head of a call. The tokens may be replaced at any
//! moment; a call is held to those that were there as it came.

mod failures;
mod hosts;
mod origins;
mod rights;
mod tokens;

use super::Refusal;
use super::cross_site::is_cross_site;
use super::fields::Fields;
use super::query::is_verbose;
use super::target::Target;
use crate::metrics::Exposition;
use failures::Failures;
pub use hosts::{HostName, Hosts, InvalidHostName};
pub use origins::{Cors, InvalidOrigin, Origin, Origins};
pub use rights::{Right, Rights};
pub use tokens::{InvalidToken, InvalidTokens, TokenSet, Tokens};

/// The access control of one API.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The hosts that a call may name where there are no tokens.
    pub hosts: Hosts,
    /// The tokens that let callers in; without them everyone may do all.
    pub tokens: Option<Tokens>,
    /// The origins of pages that may read replies.
    pub origins: Origins,
}

/// The least that a route asks of a caller. Its methods may ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admittance {
    /// Nothing.
    Open,
    /// Nothing, but any token for all that `verbose` tells.
    OpenInShort,
    /// Any token.
    Token,
}

/// The part that a token has in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// None.
    Ignored,
    /// The call needs none; one that is shown gives its rights, and is refused if it is
    /// not known.
    Optional,
    /// The call needs one.
    Needed,
}

/// The caller of an admitted call.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The rights of its token.
    pub rights: Rights,
    /// It is a page of an allowed origin.
    pub is_of_allowed_origin: bool,
}

impl Access {
    /// Lets the caller in, or refuses it before anything is told.
    pub fn admit(
        &self,
        fields: Fields<'_>,
        token_use: impl FnOnce() -> TokenUse,
        cors: Option<&Cors>,
    ) -> Result<Caller, Refusal> {
        let rights = match &self.tokens {
            None => {
                self.hosts.check(fields)?;
                Rights::All
            }
            Some(tokens) => match token_use() {
                TokenUse::Needed => tokens.rights(fields)?,
                TokenUse::Optional if fields.has("Authorization") => tokens.rights(fields)?,
                TokenUse::Optional | TokenUse::Ignored => Rights::None,
            },
        };
        Ok(Caller { rights, is_of_allowed_origin: cors.is_some_and(Cors::is_allowed) })
    }

    /// The number of the set of tokens, 0 without tokens: another one once they were
    /// replaced.
    pub fn tokens_number(&self) -> u64 {
        self.tokens.as_ref().map_or(0, Tokens::number)
    }

    /// Writes the metrics.
    pub fn report(&self, to: &mut Exposition) {
        match &self.tokens {
            None => Failures::default().report(to),
            Some(tokens) => tokens.report(to),
        }
    }
}

impl Admittance {
    /// Returns true if a call with this query needs a token.
    pub fn needs_token(self, query: &str) -> bool {
        match self {
            Self::Open => false,
            Self::OpenInShort => is_verbose(query),
            Self::Token => true,
        }
    }
}

/// The longest body of a caller that shows no token where others do, in bytes. No
/// operation that is open to it looks at one.
const BODY_BYTES_MAX: u64 = 1024;

impl Caller {
    /// Refuses a long body, or one whose length is not known, of a caller without rights:
    /// it would take memory that is for others.
    pub fn check_length(&self, bytes: Option<u64>) -> Result<(), Refusal> {
        let is_long = bytes.is_none_or(|bytes| bytes > BODY_BYTES_MAX);
        match self.rights {
            Rights::None if is_long => Err(Refusal::BodyUnexpected),
            Rights::None | Rights::All | Rights::Limited(_) => Ok(()),
        }
    }

    /// Refuses a page of another site, unless it is of an allowed origin.
    pub fn check_site(&self, target: Target<'_>, fields: Fields<'_>) -> Result<(), Refusal> {
        let is_refused =
            !self.is_of_allowed_origin && is_cross_site(fields, target.authority(fields));
        if is_refused { Err(Refusal::CrossSite) } else { Ok(()) }
    }
}
