//! The configuration of a front, and the reasons why it may not start.

use std::fmt;

/// The address of a node to ask first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// A name or a numeric address, without brackets.
    pub host: String,
    /// The port of the node for clients.
    pub port: u16,
}

/// The address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or a numeric address, without brackets.
    pub host: Box<str>,
    /// The port for clients.
    pub port: u16,
}

impl Address {
    /// The address in a node's `host:port`, where IPv6 has no brackets. The host may be
    /// empty.
    pub fn parse(text: &str) -> Option<Self> {
        // Behind a comma is the host name, in newer versions.
        let text = text.split(',').next()?;
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: host.into(), port: port.parse().ok()? })
    }

    /// This one, if it has a host, or else its port at the host of another.
    #[must_use]
    pub fn or_host_of(self, other: &Self) -> Self {
        let host = if self.host.is_empty() { other.host.clone() } else { self.host };
        Self { host, port: self.port }
    }
}

impl From<&Seed> for Address {
    fn from(seed: &Seed) -> Self {
        Self { host: seed.host.as_str().into(), port: seed.port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(to, "[{host}]:{port}") } else { write!(to, "{host}:{port}") }
    }
}

/// The configuration of a front. What lets it in is never shown.
#[derive(Clone, Default)]
pub struct Config {
    /// The nodes to ask first, at least one.
    pub seeds: Vec<Seed>,
    /// The user to log in as, if not the default one.
    pub user: Option<String>,
    /// The password to log in with, if one is needed.
    pub password: Option<String>,
    /// The replicas that have to have a write before it is acknowledged.
    pub replicas: usize,
    /// [`super::super::Op::Clear`] is allowed: it deletes the keys of other applications too.
    pub may_clear: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("Config");
        fields.field("seeds", &self.seeds).field("replicas", &self.replicas);
        fields.field("may_clear", &self.may_clear).finish_non_exhaustive()
    }
}

/// The reason why no front starts.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None of the seeds answers.
    #[error("no node answers: {0}")]
    NoNode(String),
    /// A node refuses to let the front in.
    #[error("{0} refuses: {1}")]
    Refused(String, String),
    /// A node is of a version before Redis 7.0 or Valkey 7.2.
    #[error("{0} is of version {1}; the least is 7.0")]
    Old(String, String),
    /// A node has its cluster mode off.
    #[error("{0} is not part of a cluster")]
    NoCluster(String),
    /// A thread cannot be started.
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
}
