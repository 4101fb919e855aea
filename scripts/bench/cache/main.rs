//! Plays a cache's workload against several servers at once, each of which gets the same
//! requests at the same pace: a GET, and after a miss a PUT of what was missed.
//!
//! ```text
//!     workloads: requests, seeded ──► a round of GETs, on all connections
//!                                        └─► PUTs of those that are not there
//!     protocol: bytes of HTTP, of Redis
//! ```
//!
//! Built by rustc alone and run by cache_rows.py:
//!
//! ```text
//!     cache [OPTION VALUE]... SERVER...        a server is http:PORT or redis:PORT
//! ```
//!
//! For each server it prints `warm SERVER` before the first request that is counted, and in
//! the end the figures as a line of JSON.

mod protocol;
mod workloads;

use std::env;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use protocol::{Answer, Connection, Protocol};
use workloads::{Request, Requests, Values, Zipfian};

fn main() {
    let options = Options::from_arguments();
    let ranks = Zipfian::new(options.keys, options.exponent);
    let values = Values::new(options.value_bytes);
    let start = Instant::now();
    // A player that fails has this program fail.
    thread::scope(|scope| {
        for server in &options.servers {
            let (options, ranks, values) = (&options, &ranks, &values);
            scope.spawn(move || {
                let period = options.rate * workloads::period_seconds(&options.workload);
                let requests = Requests::new(&options.workload, options.keys, period, ranks);
                Player::new(options, server, values).play(requests, start);
            });
        }
    });
}

struct Options {
    workload: String,
    /// How many keys there are, apart from those that are asked for once.
    keys: u64,
    /// Of the zipfian by which they are asked for.
    exponent: f64,
    /// Of each value; 0 stands for sizes as of a build cache.
    value_bytes: usize,
    /// Requests a second.
    rate: u64,
    /// How many times faster than that they are sent, if the servers can.
    speed: u64,
    /// Those that come before the first that is counted.
    warm_up: u64,
    counted: u64,
    connections: usize,
    /// How many requests each connection gets in a round.
    depth: usize,
    servers: Vec<String>,
}

impl Options {
    fn from_arguments() -> Self {
        let mut words: Vec<String> = env::args().skip(1).collect();
        Self {
            workload: taken(&mut words, "--workload", "zipfian".into()),
            keys: taken(&mut words, "--keys", 1_000_000),
            exponent: taken(&mut words, "--exponent", 0.9),
            value_bytes: taken(&mut words, "--value-bytes", 100),
            rate: taken(&mut words, "--rate", 20_000),
            speed: taken(&mut words, "--speed", 1),
            warm_up: taken(&mut words, "--warm-up", 0),
            counted: taken(&mut words, "--counted", 1_000_000),
            connections: taken(&mut words, "--connections", 8),
            depth: taken(&mut words, "--depth", 16),
            servers: words,
        }
    }
}

/// The value of an option, which is taken out of the words together with its name.
fn taken<T: FromStr>(words: &mut Vec<String>, name: &str, default: T) -> T {
    let Some(place) = words.iter().position(|word| word == name) else { return default };
    let value = words.drain(place..place + 2).next_back();
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} takes a number"))
}

/// What plays on one server.
struct Player<'a> {
    name: String,
    options: &'a Options,
    protocol: Protocol,
    connections: Vec<Connection>,
    values: &'a Values,
    seen: Figures,
}

#[derive(Default)]
struct Figures {
    requests: u64,
    misses: u64,
    /// Those that are neither of the scan nor for a key that is asked for once.
    usual: u64,
    usual_missed: u64,
    bytes: u64,
    bytes_missed: u64,
    /// PUTs that were not taken, from the very start.
    refused: u64,
}

impl Figures {
    fn note(&mut self, request: &Request, bytes: u64, is_hit: bool) {
        let miss = u64::from(!is_hit);
        self.requests += 1;
        self.misses += miss;
        self.bytes += bytes;
        self.bytes_missed += bytes * miss;
        self.usual += u64::from(request.is_usual);
        self.usual_missed += u64::from(request.is_usual) * miss;
    }
}

impl<'a> Player<'a> {
    fn new(options: &'a Options, name: &str, values: &'a Values) -> Self {
        let (protocol, port) = match name.split_once(':') {
            Some(("http", port)) => (Protocol::Http, port),
            Some(("redis", port)) => (Protocol::Redis, port),
            _ => panic!("not a server: {name}"),
        };
        let port = port.parse().expect("a server has a port");
        let connections = (0..options.connections).map(|_| Connection::new(port)).collect();
        Self { name: name.into(), options, protocol, connections, values, seen: Figures::default() }
    }

    fn play(mut self, mut requests: Requests, start: Instant) {
        let (warm_up, total) = (self.options.warm_up, self.options.warm_up + self.options.counted);
        let mut is_warm = false;
        while requests.turn < total {
            if !is_warm && requests.turn >= warm_up {
                is_warm = true;
                println!("warm {}", self.name);
                self.seen = Figures { refused: self.seen.refused, ..Figures::default() };
            }
            self.wait_for_turn(requests.turn, start);
            self.round(&mut requests);
        }
        let Figures { requests, misses, usual, usual_missed, bytes, bytes_missed, refused } =
            self.seen;
        println!(
            "{{\"server\": \"{}\", \"requests\": {requests}, \"misses\": {misses}, \
             \"usual\": {usual}, \"usual_missed\": {usual_missed}, \"bytes\": {bytes}, \
             \"bytes_missed\": {bytes_missed}, \"refused\": {refused}}}",
            self.name
        );
    }

    fn wait_for_turn(&self, turn: u64, start: Instant) {
        let rate = self.options.rate * self.options.speed;
        let due = start + Duration::from_secs_f64(turn as f64 / rate as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    /// As many requests as all connections take at once, and then what was missed.
    fn round(&mut self, requests: &mut Requests) {
        let round: Vec<Vec<Request>> = (0..self.connections.len())
            .map(|_| (0..self.options.depth).map(|_| requests.next()).collect())
            .collect();
        for (connection, batch) in self.connections.iter_mut().zip(&round) {
            for request in batch {
                self.protocol.write_get(&mut connection.unsent, request.key);
            }
            connection.send();
        }
        let mut missed = Vec::new();
        for (connection, batch) in self.connections.iter_mut().zip(&round) {
            for request in batch {
                let expected = self.values.of(request.key);
                let is_hit = match self.protocol.answer(connection) {
                    Answer::Value(value) => {
                        assert!(value == expected, "{} has another value", self.name);
                        true
                    }
                    Answer::Absent => false,
                    Answer::Done | Answer::Refused => panic!("{} does not answer a GET", self.name),
                };
                self.seen.note(request, expected.len() as u64, is_hit);
                if !is_hit && !missed.contains(&request.key) {
                    missed.push(request.key);
                }
            }
        }
        self.store(&missed);
    }

    fn store(&mut self, missed: &[u64]) {
        let share = missed.len().div_ceil(self.connections.len()).max(1);
        for (connection, batch) in self.connections.iter_mut().zip(missed.chunks(share)) {
            for key in batch {
                let value = self.values.of(*key);
                self.protocol.write_put(&mut connection.unsent, *key, value);
            }
            connection.send();
        }
        for (connection, batch) in self.connections.iter_mut().zip(missed.chunks(share)) {
            for _ in batch {
                match self.protocol.answer(connection) {
                    Answer::Done => {}
                    Answer::Refused => self.seen.refused += 1,
                    Answer::Value(_) | Answer::Absent => {
                        panic!("{} does not answer a PUT", self.name)
                    }
                }
            }
        }
    }
}
