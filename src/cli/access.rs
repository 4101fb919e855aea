//! Access control, as the flags and `LKV_TOKEN` ask for it.
//!
//! A store that other machines can reach lets in those alone who have a token, unless it
//! is told otherwise. The rules of a call are the [`api`](crate::api)'s.

use super::secret::Secret;
use super::{Options, Several, TokenFile};
use crate::api::{Access, HostName, Hosts, Origin, Origins, TokenSet, Tokens};
use std::net::SocketAddr;

/// The token that the environment gives, or that is made up in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(Secret);

impl Token {
    /// Its variable.
    pub const VARIABLE: &str = "LKV_TOKEN";

    /// A random one, of 32 hexadecimal digits, which the system gives.
    pub fn random() -> Result<Self, String> {
        let mut bytes = [0; 16];
        let filled = getrandom::fill(&mut bytes);
        filled.map_err(|err| format!("the system has no randomness for a token: {err}"))?;
        Ok(Self(Secret::new(format!("{:032x}", u128::from_ne_bytes(bytes)))))
    }

    /// The token itself.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Reads it.
    pub(super) fn read() -> Result<Option<Self>, String> {
        Ok(Secret::read(Self::VARIABLE)?.map(Self))
    }

    /// The set of this token alone, with all rights.
    fn alone(&self) -> Result<TokenSet, String> {
        TokenSet::of_one(self.as_str()).map_err(|err| format!("{}: {err}", Self::VARIABLE))
    }
}

impl Options {
    /// Fails for flags that contradict each other.
    pub(super) fn check_access(&self) -> Result<(), &'static str> {
        if self.token.is_some() && self.token_file.is_some() {
            return Err("LKV_TOKEN and --token-file cannot be used together");
        }
        if self.no_auth && self.wants_token() {
            return Err("--no-auth cannot be used with LKV_TOKEN or --token-file");
        }
        let has_any = Several::all(&self.cors_origin).any(|origin| *origin == Origin::Any);
        if has_any && !self.wants_token() {
            return Err("--cors-origin '*' needs LKV_TOKEN or --token-file: every web page that \
                        a browser here opens could read and write");
        }
        Ok(())
    }

    /// Makes a token up where none is given, unless everyone is let in.
    pub fn make_up_token(&mut self) -> Result<(), String> {
        if !self.no_auth && !self.wants_token() {
            self.token = Some(Token::random()?);
        }
        Ok(())
    }

    /// Returns true if a caller needs a token.
    fn wants_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    /// The tokens that let callers in, and the file that they come from; `None` where
    /// everyone is let in. Reads the file.
    pub fn tokens(&self) -> Result<Option<(Tokens, Option<TokenFile>)>, String> {
        if let Some(path) = &self.token_file {
            let (file, set) = TokenFile::read(path)?;
            return Ok(Some((Tokens::new(set), Some(file))));
        }
        let Some(token) = &self.token else { return Ok(None) };
        Ok(Some((Tokens::new(token.alone()?), None)))
    }

    /// Fails for a store on these addresses that strangers can reach, and whose owner
    /// has not said that they may.
    pub fn check_addrs(&self, addrs: &[SocketAddr]) -> Result<(), String> {
        let open = addrs.iter().find(|addr| !is_loopback(addr));
        let Some(addr) = open.filter(|_| !self.no_auth && !self.wants_token()) else {
            return Ok(());
        };
        Err(format!(
            "{} can be reached from other machines: set LKV_TOKEN or --token-file to let in \
             those who have a token, or --no-auth to let in everyone",
            addr.ip()
        ))
    }

    /// The access control of a server on `addrs`.
    pub fn access(&self, addrs: &[SocketAddr], tokens: Option<Tokens>) -> Access {
        let origins = Origins::new(Several::all(&self.cors_origin).cloned());
        Access { hosts: self.hosts(addrs), tokens, origins }
    }

    /// The hosts that calls to a server on `addrs` may name. Other machines reach
    /// it by names that are unknown here, so any is allowed then.
    fn hosts(&self, addrs: &[SocketAddr]) -> Hosts {
        if !addrs.iter().all(is_loopback) {
            return Hosts::any();
        }
        // An address is allowed in any case.
        let own: Option<HostName> = self.host.parse().ok();
        Hosts::local(Several::all(&self.allow_host).cloned().chain(own))
    }

    /// Warnings of a server on `addrs` that lets in more than its owner may think.
    pub fn warnings(&self, addrs: &[SocketAddr]) -> Vec<String> {
        let mut lines = Vec::new();
        let has_names = !self.allow_host.is_empty();
        if self.wants_token() {
            if has_names {
                lines.push("--allow-host means nothing with a token: any name will do".to_owned());
            }
            return lines;
        }
        for addr in addrs.iter().filter(|addr| !is_loopback(addr)) {
            lines.push(format!(
                "{addr} can be reached from other machines, and there is no authentication"
            ));
            if has_names {
                lines.push(format!(
                    "--allow-host means nothing here: {addr} may be called by any name"
                ));
            }
        }
        lines
    }
}

/// Returns true for an address that only this machine can reach.
fn is_loopback(addr: &SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}
