//! The server's metrics: all of them are summed up here when somebody asks, so that a
//! request touches nothing that is shared for them.
//!
//! It takes the longer the more connections there are, so it is no work for a leader.

use super::connections::{Census, Connection};
use super::dispatch::Dispatcher;
use super::pipeline::Occupation;
use crate::metrics::{Exposition, Kind, Source};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The occupations of connections, with their labels.
const OCCUPATIONS: [(Occupation, &str); 7] = [
    (Occupation::Idle, "idle"),
    (Occupation::Reading, "reading"),
    (Occupation::Working, "working"),
    (Occupation::Waiting, "waiting"),
    (Occupation::Sending, "sending"),
    (Occupation::Streaming, "streaming"),
    (Occupation::Closing, "closing"),
];

/// The occupations of all connections.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// In the order of [`OCCUPATIONS`].
    connections: [u64; OCCUPATIONS.len()],
    /// The requests that are not answered yet.
    requests: usize,
}

impl Tally {
    fn of(open: &[Arc<Connection>]) -> Self {
        let mut tally = Self::default();
        for connection in open {
            let (occupation, requests) = connection.pipeline.occupation();
            tally.requests += requests;
            let counts = OCCUPATIONS.iter().zip(&mut tally.connections);
            for (_, count) in counts.filter(|((counted, _), _)| *counted == occupation) {
                *count += 1;
            }
        }
        tally
    }

    /// The connections of one occupation.
    fn count(&self, occupation: Occupation) -> u64 {
        let mut counts = OCCUPATIONS.iter().zip(self.connections);
        counts.find(|((counted, _), _)| *counted == occupation).map_or(0, |(_, count)| count)
    }

    /// The counts with their labels.
    fn by_state(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OCCUPATIONS.iter().map(|(_, label)| *label).zip(self.connections)
    }
}

impl Source for Dispatcher {
    fn report(&self, to: &mut Exposition) {
        let census = self.connections.census();
        let tally = Tally::of(&census.open);
        report_traffic(to, &census, &tally);
        report_connections(to, &census, &tally);
        self.report_cuts(to);
        self.report_queues(to);
        to.gauge(
            "lkv_waiters",
            "Requests that wait for a key to be or to change.",
            tally.count(Occupation::Waiting),
        );
        to.gauge("lkv_watchers", "Watches of changes, each a stream.", census.with_stream);
        to.gauge(
            "lkv_watchers_max",
            "The most watches at a time; more are refused.",
            census.with_stream_max,
        );
        to.counter(
            "lkv_accept_loops_replaced_total",
            "Accept loops that had ended and were replaced.",
            self.accept_loops_replaced.load(Relaxed),
        );
        to.counter(
            "lkv_leaders_displaced_total",
            "Threads that were stuck in a request while they led, so that another took over.",
            self.leaders_displaced.load(Relaxed),
        );
    }
}

impl Dispatcher {
    fn report_cuts(&self, to: &mut Exposition) {
        let mut family = to.family(
            "lkv_connections_cut_total",
            Kind::Counter,
            "Connections that the store has cut, by reason. write_failed: the client was gone.",
        );
        for (cut, count) in self.connections.cuts() {
            family.sample(&[("reason", cut.label())], count);
        }
    }

    fn report_queues(&self, to: &mut Exposition) {
        let mut family = to.family(
            "lkv_queue_length",
            Kind::Gauge,
            "Requests that wait: for a worker (tasks), for the storage (submitted), for a \
             leader behind the storage (completions), and for their clients to take a response \
             (transfers).",
        );
        for (queue, length) in [
            ("tasks", self.tasks()),
            ("submitted", self.submitted()),
            ("completions", self.completions.len()),
            ("transfers", self.senders.under_way()),
        ] {
            family.sample(&[("queue", queue)], length);
        }
        to.gauge(
            "lkv_uploads_bytes",
            "Memory for the bodies of requests on their way.",
            self.uploads.bytes(),
        );
    }
}

fn report_traffic(to: &mut Exposition, census: &Census, tally: &Tally) {
    to.gauge(
        "lkv_http_requests_in_flight",
        "Requests whose head was read and whose response was not written yet.",
        tally.requests,
    );
    to.counter(
        "lkv_http_received_bytes_total",
        "Bytes received from clients, but for those thrown away behind a last request.",
        census.traffic.received,
    );
    to.counter("lkv_http_sent_bytes_total", "Bytes sent to clients.", census.traffic.sent);
}

fn report_connections(to: &mut Exposition, census: &Census, tally: &Tally) {
    let mut family = to.family("lkv_connections", Kind::Gauge, "Open connections, by state.");
    for (state, count) in tally.by_state() {
        family.sample(&[("state", state)], count);
    }
    to.gauge(
        "lkv_connections_max",
        "The most connections at present, but for those that are streams.",
        census.max,
    );
    to.counter("lkv_connections_total", "Connections accepted.", census.total);
}
