//! Requests to nodes that answer by a script.

mod bounds;
mod failures;
mod fake;
mod keys;
mod lists;
mod map;
mod redirections;
mod replicas;
mod start;
mod stream;
mod waves;

use super::config::{Config, Seed};
use crate::storage::cluster::network::protocol::{Commands, Reply};
use crate::storage::cluster::network::router::{PATIENCE, Place, Replies, Request, Router};
use crate::storage::{Error, Hindrance};
use bytes::Bytes;
use fake::{Answer, Fake, line, text, until};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SCRIPTS: &[&str] = &["return 1", "return 2"];

fn config(fake: &Fake) -> Config {
    let seeds = vec![Seed { host: "127.0.0.1".to_owned(), port: fake.port }];
    Config { seeds, ..Config::default() }
}

fn front(fake: &Fake) -> Arc<Router> {
    Router::start(&config(fake), SCRIPTS).unwrap()
}

type Outcome = Result<Replies, Error>;

fn send(router: &Arc<Router>, commands: Commands, is_write: bool) -> Receiver<Outcome> {
    send_for(router, commands, is_write, PATIENCE)
}

fn send_for(
    router: &Arc<Router>,
    commands: Commands,
    is_write: bool,
    patience: Duration,
) -> Receiver<Outcome> {
    send_to(router, 1, commands, is_write, patience)
}

fn send_to(
    router: &Arc<Router>,
    slot: u16,
    commands: Commands,
    is_write: bool,
    patience: Duration,
) -> Receiver<Outcome> {
    let (tell, told) = channel();
    router.send(Request {
        place: Place::Slot(slot),
        commands,
        is_write,
        deadline: Instant::now() + patience,
        done: Box::new(move |outcome| tell.send(outcome).unwrap_or_default()),
    });
    told
}

fn get() -> Commands {
    Commands::default().with(&[b"GET", b"a"])
}

fn incr() -> Commands {
    Commands::default().with(&[b"INCR", b"n"])
}

/// The outcome, which is there in time.
fn outcome(told: &Receiver<Outcome>) -> Outcome {
    told.recv_timeout(Duration::from_secs(20)).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "outcomes are compared with it")]
fn value(bytes: &'static [u8]) -> Outcome {
    Ok(Replies::from_iter([Reply::Bytes(Bytes::from_static(bytes))]))
}

#[expect(clippy::unnecessary_wraps, reason = "outcomes are compared with it")]
fn number(number: i64) -> Outcome {
    Ok(Replies::from_iter([Reply::Integer(number)]))
}

fn too_few() -> Error {
    Error::NotDone(Hindrance::ReplicasTooFew)
}

const DOWN: Outcome = Err(Error::NotDone(Hindrance::ClusterDown));

/// The deadline of a request that is not to be answered.
const SHORT: Duration = Duration::from_millis(800);
