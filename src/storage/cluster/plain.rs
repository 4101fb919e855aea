//! Reads, sets and deletes: a command or two for each, without a script.
//!
//! A node runs the two commands of a read one behind the other, but where its reading of
//! the connection ends between them, once in some hundred reads of a full pipeline.
//! Another client's write that comes just then shows in the expiry and not in the value.
//! Nothing is decided on such a read: what updates see is read by a script.

use super::Front;
use super::envelope::{Stored, entry_of};
use super::scripts::unexpected;
use crate::storage::cluster::network::protocol::{Commands, Reply, slot_of};
use crate::storage::cluster::network::router::{PATIENCE, Place, Replies, Request};
use crate::storage::cluster::writes::lines::{KeyOp, Write};
use crate::storage::completion::Completion;
use crate::storage::{Effect, Entry, Error, Key, Updated};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Reads a value with its expiry.
pub fn read(key: &[u8]) -> Commands {
    Commands::of(&[&[b"GET", key], &[b"PEXPIRETIME", key]])
}

/// Stores an entry, whatever is there.
pub fn set(key: &str, stored: &Stored) -> Commands {
    let words: [&[u8]; 3] = [b"SET", key.as_bytes(), &stored.bytes];
    match stored.expiry_ms {
        None => Commands::default().with(&words),
        Some(ms) => {
            let mut digits = itoa::Buffer::new();
            let [name, key, value] = words;
            let expiry = digits.format(ms).as_bytes();
            Commands::default().with(&[name, key, value, b"PXAT", expiry])
        }
    }
}

/// Deletes a key, whatever is there. A node frees what is large, as a long list of another
/// application, beside its other work.
pub fn delete(key: &str) -> Commands {
    Commands::default().with(&[b"UNLINK", key.as_bytes()])
}

/// Returns true for the reply to one of these.
pub fn is_done(reply: &Reply) -> bool {
    match reply {
        Reply::Integer(0 | 1) => true,
        Reply::Bytes(text) => &**text == b"OK",
        Reply::Integer(_) | Reply::Nothing | Reply::Many(_) | Reply::Error(_) => false,
    }
}

impl Front {
    /// Reads the entry under a key.
    pub fn get(&self, key: &Key, completion: Completion) {
        let key = key.as_str().as_bytes();
        self.router.send(Request {
            place: Place::Slot(slot_of(key)),
            commands: read(key),
            is_write: false,
            deadline: Instant::now() + PATIENCE,
            done: Box::new(move |replies| {
                completion.tell(replies.and_then(found).map(Effect::Found));
            }),
        });
    }

    /// Deletes a key, and tells whether it was there: what is no value too.
    pub fn remove(self: &Arc<Self>, key: Key, completion: Completion, deadline: Instant) {
        let front = Arc::clone(self);
        self.router.send(Request {
            place: Place::Slot(slot_of(key.as_str().as_bytes())),
            commands: delete(key.as_str()),
            is_write: true,
            deadline,
            done: Box::new(move |replies| {
                let outcome = replies.and_then(removed);
                if outcome == Ok(true) {
                    front.waiters.changed(key.as_str(), false);
                }
                completion.tell(outcome.map(|was_there| {
                    let before = was_there.then(|| Entry::new(Bytes::new()));
                    Effect::Updated(Updated { before, after: None }.into())
                }));
            }),
        });
    }

    /// Does a set or a delete: at once, or in the line of its key if there is one.
    pub fn write(self: &Arc<Self>, key: Key, write: Write) {
        let Some(write) = self.lines.join_if_there(&key, write) else { return };
        let Write { op, completion, deadline } = write;
        let (commands, is_stored) = match &op {
            KeyOp::Set(stored) => (set(key.as_str(), stored), true),
            KeyOp::Delete => (delete(key.as_str()), false),
            KeyOp::Update(_) => return self.write_in_line(key, Write { op, completion, deadline }),
        };
        drop(op);
        let front = Arc::clone(self);
        self.router.send(Request {
            place: Place::Slot(slot_of(key.as_str().as_bytes())),
            commands,
            is_write: true,
            deadline,
            done: Box::new(move |replies| {
                let outcome = replies.and_then(|replies| done(&replies));
                if outcome.is_ok() {
                    front.waiters.changed(key.as_str(), is_stored);
                }
                completion.tell(outcome);
            }),
        });
    }
}

/// The entry, by the replies to a read.
pub fn found(replies: Replies) -> Result<Option<Entry>, Error> {
    let mut replies = replies.into_iter();
    match (replies.next(), replies.next()) {
        // The second: it has expired or was deleted between the two.
        (Some(Reply::Nothing), Some(Reply::Integer(_)))
        | (Some(Reply::Bytes(_)), Some(Reply::Integer(-2))) => Ok(None),
        (Some(Reply::Bytes(bytes)), Some(Reply::Integer(ms))) => {
            Ok(Some(entry_of(bytes, (ms >= 0).then_some(ms))))
        }
        (_, _) => Err(unexpected()),
    }
}

/// The effect of a set or a delete. Of a reply that makes no sense nothing is known.
fn done(replies: &Replies) -> Result<Effect, Error> {
    if replies.first().is_some_and(is_done) { Ok(Effect::Done) } else { Err(Error::OutcomeUnknown) }
}

/// Whether a key was there that was deleted.
fn removed(replies: Replies) -> Result<bool, Error> {
    match replies.into_iter().next() {
        Some(Reply::Integer(count)) => Ok(count > 0),
        Some(Reply::Nothing | Reply::Bytes(_) | Reply::Many(_) | Reply::Error(_)) | None => {
            Err(Error::OutcomeUnknown)
        }
    }
}
