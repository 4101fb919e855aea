//! The metrics that engines share: one name and one text for each of them.
//!
//! An engine writes these and its own. Nothing here locks more than the change log does
//! for a change, or waits for a disk.

use super::waiters::Waiters;
use super::{Changes, Outage};
use crate::metrics::{Exposition, Kind};

/// The build, and the name of the engine.
pub fn build(to: &mut Exposition, engine: &str) {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("engine", engine)];
    to.family("lkv_build_info", Kind::Gauge, "The version and the engine of the store; always 1.")
        .sample(&labels, 1);
}

/// The number of keys, as exact as the note on it says.
pub fn keys(to: &mut Exposition, keys: u64, note: &str) {
    to.gauge("lkv_keys", &format!("Keys that are stored. {note}"), keys);
}

/// The bytes that are stored, of the kind that the note names, and entries that were
/// removed as they had expired.
pub fn stored(to: &mut Exposition, bytes: u64, note: &str, expired: u64) {
    to.gauge("lkv_stored_bytes", &format!("Bytes that are stored. {note}"), bytes);
    let help = "Entries that had expired and were removed for that.";
    to.counter("lkv_expired_total", help, expired);
}

/// The entries that were removed to make room; none where writes are refused.
pub fn evicted(to: &mut Exposition, evicted: u64) {
    to.counter("lkv_evicted_total", "Entries that were removed to make room for others.", evicted);
}

/// The outage, if there is one.
pub fn read_only(to: &mut Exposition, outage: Option<Outage>) {
    let help = "1 while no writes are taken for this reason, else 0.";
    let mut family = to.family("lkv_storage_read_only", Kind::Gauge, help);
    for each in [Outage::DiskFull, Outage::DiskFailed, Outage::DirectoryLost, Outage::Closed] {
        family.sample(&[("reason", reason(each))], u8::from(outage == Some(each)));
    }
}

/// The label of an outage.
fn reason(outage: Outage) -> &'static str {
    match outage {
        Outage::DiskFull => "disk_full",
        Outage::DiskFailed => "disk_failed",
        Outage::DirectoryLost => "directory_lost",
        Outage::Closed => "closed",
    }
}

/// Those who wait for keys.
pub fn waiters(to: &mut Exposition, waiters: &Waiters) {
    let help = "Requests that wait for a key: to read it, to write it under a condition, \
                or to take the first one with a prefix.";
    let mut family = to.family("lkv_parked_waiters", Kind::Gauge, help);
    for (kind, tickets) in ["read", "write", "take"].into_iter().zip(waiters.tickets()) {
        family.sample(&[("kind", kind)], tickets);
    }
}

/// The change log.
pub fn changes(to: &mut Exposition, changes: &Changes) {
    let extent = changes.extent();
    let help = "Changes of keys that were appended to the change log. In memory it is kept \
                once somebody has watched.";
    to.counter("lkv_changes_total", help, extent.appended);
    to.gauge("lkv_history_bytes", "Bytes of changes that watchers can go back to.", extent.bytes);
    let help = "The most bytes of changes that are kept.";
    to.gauge("lkv_history_bytes_max", help, extent.bytes_max);
    let help = "Watchers that read the change log.";
    to.gauge("lkv_change_log_watchers", help, extent.watchers);
}
