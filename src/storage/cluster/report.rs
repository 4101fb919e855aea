//! The metrics of the engine: those of the front, for nothing is kept here.

use super::Front;
use crate::metrics::{Exposition, Kind};
use crate::storage::cluster::network::node::Node;
use crate::storage::cluster::network::traffic::Traffic;
use crate::storage::report;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Front {
    /// Writes the metrics. Asks no node.
    pub fn write_metrics(&self, to: &mut Exposition) {
        report::build(to, "cluster");
        let masters = self.router.masters();
        let is_connected = |node: &&Arc<Node>| node.is_connected();
        let help = "Masters of the cluster that have slots, as far as is known.";
        to.gauge("lkv_cluster_masters", help, masters.len());
        let connected = masters.iter().filter(is_connected).count();
        let help = "Masters that the front is connected to.";
        to.gauge("lkv_cluster_masters_connected", help, connected);

        let traffic = self.router.traffic();
        let help = "Requests to the cluster that are under way.";
        to.gauge("lkv_cluster_requests_pending", help, traffic.pending());
        let help = "Requests that were sent to a node, each time that they were.";
        to.counter("lkv_cluster_requests_total", help, read(&traffic.sent));
        let help = "Requests that a node sent on to another, as slots have moved.";
        to.counter("lkv_cluster_redirects_total", help, read(&traffic.redirects));
        let help = "Requests that were tried again for another reason.";
        to.counter("lkv_cluster_retries_total", help, read(&traffic.retries));
        let help = "Requests that failed, by reason: not done in time, sent and never \
                    answered, more than may be under way, or refused by a node.";
        let mut family = to.family("lkv_cluster_failures_total", Kind::Counter, help);
        for (reason, counter) in failures(traffic) {
            family.sample(&[("reason", reason)], read(counter));
        }
        let help = "Connections to nodes that broke.";
        to.counter("lkv_cluster_links_broken_total", help, read(&traffic.broken));

        let help = "Lists and counts that wait for a thread.";
        to.gauge("lkv_cluster_lists_waiting", help, self.listings.waiting());
        let help = "Bytes of sorted keys that are kept for the pages that follow.";
        to.gauge("lkv_cluster_scans_bytes", help, self.listings.kept_bytes());
        report::waiters(to, &self.waiters);
    }
}

/// The counts of failures, each with its label.
fn failures(traffic: &Traffic) -> [(&'static str, &AtomicU64); 4] {
    [
        ("not_done", &traffic.not_done),
        ("unknown", &traffic.unknown),
        ("overloaded", &traffic.overloads),
        ("refused", &traffic.refused),
    ]
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
