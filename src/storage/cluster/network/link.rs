//! A connection to a node before it is used: how it is made, and what is asked on it by
//! a thread that waits.
//!
//! Every step has an end in time, whatever the node does.

use super::protocol::{Commands, Decoder, Reply};
use super::replies::shown;
use crate::storage::cluster::config::Address;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The time for connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The front's side of a connection, the same for each node.
#[derive(Default)]
pub struct Terms {
    /// The user, if it is not the default one.
    pub user: Option<String>,
    /// The password, if one is needed.
    pub password: Option<String>,
    /// The replicas that have to have a write.
    pub replicas: usize,
    /// The scripts that a node has to know.
    pub scripts: &'static [&'static str],
}

/// The reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers, or not in time, or not in RESP.
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// The node lets nobody in, or not this user.
    #[error("{0}")]
    Refused(String),
    /// The node is there, and does not serve yet.
    #[error("{0}")]
    NotReady(String),
}

/// A connection whose caller waits for each reply.
pub struct Conversation {
    stream: TcpStream,
    decoder: Decoder,
    until: Instant,
}

impl Conversation {
    /// Connects and logs in. All that is asked is to be answered in `patience` since.
    pub fn open(to: &Address, terms: &Terms, patience: Duration) -> Result<Self, LinkError> {
        let stream = connect(to)?;
        let until = Instant::now() + patience;
        let mut this = Self { stream, decoder: Decoder::default(), until };
        if let Some(password) = &terms.password {
            let (user, password) = (terms.user.as_deref(), password.as_bytes());
            let words = [Some(&b"AUTH"[..]), user.map(str::as_bytes), Some(password)];
            let words: Vec<&[u8]> = words.into_iter().flatten().collect();
            let [reply] = this.ask(&Commands::default().with(&words))?;
            Self::admits(&reply)?;
        }
        Ok(this)
    }

    /// Prepares the node for requests, and returns the stream with the number of its
    /// replicas, if it is a master. All is answered by then.
    pub fn into_link(mut self, terms: &Terms) -> Result<(TcpStream, Option<usize>), LinkError> {
        let mut commands = Commands::default()
            .with(&[b"CLIENT", b"SETNAME", b"little-key-value"])
            .with(&[b"ROLE"])
            .with(&[b"PING"]);
        for script in terms.scripts {
            commands = commands.with(&[b"SCRIPT", b"LOAD", script.as_bytes()]);
        }
        let replies = self.ask_all(&commands)?;
        let [_, role, ping, scripts @ ..] = replies.as_slice() else {
            return Err(garbage().into());
        };
        Self::serves(ping)?;
        for script in scripts {
            Self::serves(script)?;
        }
        self.stream.set_read_timeout(None)?;
        // A node that reads nothing does not hold the writer.
        self.stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        Ok((self.stream, connected_replicas(role)))
    }

    /// The replies to some commands.
    pub fn ask<const N: usize>(&mut self, commands: &Commands) -> Result<[Reply; N], LinkError> {
        self.ask_all(commands)?.try_into().map_err(|_| garbage().into())
    }

    fn ask_all(&mut self, commands: &Commands) -> Result<Vec<Reply>, LinkError> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let written = self.stream.write_all(&commands.bytes).map_err(or_silence);
        let mut replies = Vec::with_capacity(commands.ends.len());
        while replies.len() < commands.ends.len() {
            if let Some(reply) = self.decoder.next().map_err(|_| garbage())? {
                replies.push(reply);
            } else if let Err(err) = self.read() {
                // A node that has too many clients says so, and ends the connection.
                if let Some(Err(reason @ LinkError::NotReady(_))) =
                    replies.first().map(Self::serves)
                {
                    return Err(reason);
                }
                return Err(written.err().unwrap_or(err).into());
            }
        }
        Ok(replies)
    }

    fn read(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        match self.stream.read(self.decoder.room()) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it has ended the connection")),
            Ok(count) => {
                self.decoder.filled(count);
                Ok(())
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => Ok(()),
            Err(err) => Err(or_silence(err)),
        }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(silence()) } else { Ok(left) }
    }

    /// Fails if the reply is an error.
    pub fn serves(reply: &Reply) -> Result<(), LinkError> {
        let Reply::Error(text) = reply else { return Ok(()) };
        let text = shown(text);
        match text.split(' ').next().unwrap_or_default() {
            "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" => Err(LinkError::NotReady(text)),
            "ERR" if text.starts_with("ERR max number of clients") => {
                Err(LinkError::NotReady(text))
            }
            // A node that cannot save its data says so to `PING`, and serves reads.
            "MISCONF" => Ok(()),
            _ => Err(LinkError::Refused(text)),
        }
    }

    /// Fails if the reply to `AUTH` is an error. Some nodes repeat what was sent, so of
    /// their words only the first is shown.
    fn admits(reply: &Reply) -> Result<(), LinkError> {
        let text = match Self::serves(reply) {
            Err(LinkError::Refused(text)) => text,
            other => return other,
        };
        let word = text.split(' ').next().unwrap_or_default();
        Err(LinkError::Refused(if text.starts_with("ERR AUTH <password> called without") {
            "it asks for no password".to_owned()
        } else if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            format!("it does not take the user and the password ({word})")
        } else {
            "it does not take the user and the password".to_owned()
        }))
    }
}

/// The error of a node that speaks something else than RESP.
fn garbage() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it speaks no RESP")
}

/// The error of a node that is late.
fn silence() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "it does not answer in time")
}

/// An error of a socket, where that of a timeout says so.
fn or_silence(err: io::Error) -> io::Error {
    if err.kind() == ErrorKind::WouldBlock { silence() } else { err }
}

fn connect(to: &Address) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "its name has no address");
    for addr in (&*to.host, to.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(err) => failure = err,
        }
    }
    Err(failure)
}

/// The replicas in the reply to `ROLE`; those that are not in sync are not there. `None`
/// of a replica.
pub fn connected_replicas(role: &Reply) -> Option<usize> {
    let Reply::Many(parts) = role else { return None };
    match parts.as_slice() {
        [Reply::Bytes(role), _, Reply::Many(replicas)] if role == "master" => Some(replicas.len()),
        _ => None,
    }
}
