//! The meaning of an error that a node replies.
//!
//! All of them say that the command was not done, but for those of no known meaning.

use crate::storage::cluster::config::Address;
use crate::storage::{Error, Hindrance};
use std::time::Duration;

/// The characters of an error that are shown, at most.
const SHOWN_CHARS_MAX: usize = 300;

/// The consequence of an error.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The slot is at another node; no host means that of the node that says so.
    Moved(u16, Address),
    /// The key is at another node, which has to be asked with `ASKING`.
    Ask(Address),
    /// The same may be done a while later.
    Again(Duration),
    /// As [`Verdict::Again`]; and the node is not to be asked for the map.
    Doubted(Duration),
    /// The node does not know the script.
    NoScript,
    /// The request has failed.
    Failed(Error),
    /// The request has failed, and somebody has to know.
    Refused,
}

/// The consequence of an error's text.
pub fn verdict(error: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(error);
    let mut words = text.split(' ');
    match words.next().unwrap_or_default() {
        word @ ("MOVED" | "ASK") => {
            let slot = words.next().and_then(|slot| slot.parse().ok());
            match slot.zip(words.next().and_then(Address::parse)) {
                Some((slot, address)) if word == "MOVED" => Verdict::Moved(slot, address),
                Some((_, address)) => Verdict::Ask(address),
                None => Verdict::Refused,
            }
        }
        "TRYAGAIN" | "EXECABORT" => Verdict::Again(Duration::from_millis(10)),
        "BUSY" => Verdict::Again(Duration::from_millis(100)),
        "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" => Verdict::Doubted(Duration::from_millis(100)),
        "READONLY" => Verdict::Doubted(Duration::from_millis(50)),
        "NOSCRIPT" => Verdict::NoScript,
        "NOREPLICAS" => Verdict::Failed(Error::NotDone(Hindrance::ReplicasTooFew)),
        "MISCONF" => Verdict::Failed(Error::NotDone(Hindrance::NodeReadOnly)),
        "OOM" => Verdict::Failed(Error::Full),
        "WRONGTYPE" => Verdict::Failed(Error::NotAValue),
        "CROSSSLOT" => Verdict::Failed(Error::SlotsDiffer),
        "UNBLOCKED" => Verdict::Failed(Error::OutcomeUnknown),
        _ => Verdict::Refused,
    }
}

/// The text of an error for a line of the log. What a node repeats of a command that it does
/// not know is left out: there are keys and values in it.
pub fn shown(error: &[u8]) -> String {
    let text = String::from_utf8_lossy(error);
    let text = text.split(", with args").next().unwrap_or_default();
    text.chars().filter(|char| !char.is_control()).take(SHOWN_CHARS_MAX).collect()
}
