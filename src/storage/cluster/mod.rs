//! The engine in front of a Redis or Valkey Cluster: nothing is kept here.
//!
//! ```text
//! Cluster ─► plain, updates, batch, each ─► Router ─► Node ──► writer ═══► the node's
//!            listing, take, clear             ▲  │     queue     pending  ◄══  process
//!              (commands)                     │  └─► Later: what is tried again
//!                                       Topology     reader ─► completions
//! ```
//!
//! An operation becomes commands for the node of a slot. The [`Router`] finds the node,
//! tries again what was certainly not done, and says of the rest that its outcome is
//! unknown. A [`Node`](network::node::Node) has one connection, and pipelines the commands of all
//! operations. No caller waits: every outcome comes to a completion, on a reader's thread.
//!
//! The nodes decide what has expired, by their own clocks.

mod clear;
mod config;
mod envelope;
mod lists;
mod network;
mod plain;
mod report;
mod scripts;
mod steps;
mod take;
#[cfg(test)]
mod tests;
mod writes;

use super::completion::Completion;
use super::waiters::Waiters;
use super::{Done, Effect, Error, Hindrance, Op, Outcome, Storage};
use crate::metrics::Exposition;
pub use config::{Config, ConnectError, Seed};
use envelope::Stored;
use lists::listing::Listings;
use network::protocol::Commands;
use network::router::{Place, Replies, Request, Router};
use std::sync::Arc;
use std::time::Instant;
use take::Takes;
use writes::each::Gate;
use writes::lines::{KeyOp, Lines, Write};

/// The descriptors of a link: its socket, and what tells how long its reader waits.
const DESCRIPTORS_OF_LINK: u64 = 2;

/// The descriptors of a front beside those of the links: to ask for the topology, and
/// links that are made anew.
const DESCRIPTORS_SPARE: u64 = 16;

/// A front to a cluster. It keeps nothing, so there may be any number of them.
pub struct Cluster(Arc<Front>);

/// All that operations share.
struct Front {
    router: Arc<Router>,
    lines: Lines,
    gate: Gate,
    takes: Takes,
    listings: Listings,
    /// Those who wait for a key.
    waiters: Waiters,
    /// [`Op::Clear`] is allowed.
    may_clear: bool,
}

impl Cluster {
    /// Connects to a cluster. Blocks until a seed has answered or none has.
    pub fn connect(config: &Config) -> Result<Self, ConnectError> {
        let router = Router::start(config, scripts::ALL)?;
        let listings = Listings::new(&router);
        Ok(Self(Arc::new(Front {
            router,
            lines: Lines::default(),
            gate: Gate::default(),
            takes: Takes::default(),
            listings,
            waiters: Waiters::polling(),
            may_clear: config.may_clear,
        })))
    }

    /// The descriptors that a front takes at most, with room for masters that join later.
    pub fn descriptors_max(&self) -> u64 {
        2 * DESCRIPTORS_OF_LINK * self.0.router.masters().len() as u64 + DESCRIPTORS_SPARE
    }
}

impl Front {
    /// Sends commands to the node of a slot, and calls `then` once with the replies: on any
    /// thread, but never within another such call. Behind the deadline nothing is sent.
    fn ask(
        &self,
        slot: u16,
        commands: Commands,
        is_write: bool,
        deadline: Instant,
        then: impl FnOnce(Result<Replies, Error>) + Send + 'static,
    ) {
        if deadline <= Instant::now() {
            return steps::run(move || then(Err(Error::NotDone(Hindrance::ClusterDown))));
        }
        let done = Box::new(move |replies| steps::run(move || then(replies)));
        self.router.send(Request { place: Place::Slot(slot), commands, is_write, deadline, done });
    }
}

impl Storage for Cluster {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        let Op::List(listing) = &op else { return Err(op) };
        match self.0.listings.try_now(listing) {
            Some(page) => Ok(Ok(Effect::Listed(page.into()))),
            None => Err(op),
        }
    }

    fn gathers(&self) -> bool {
        self.0.router.traffic().waves.are_crowded()
    }

    fn submit(&self, op: Op, done: Done) {
        let (front, completion) = (&self.0, Completion::from(done));
        match op {
            Op::Get(key) => front.get(&key, completion),
            Op::Set(key, entry) => {
                let op = KeyOp::Set(Stored::of(entry, None).into());
                front.write(key, Write::begin(op, completion));
            }
            Op::Delete(key) => front.write(key, Write::begin(KeyOp::Delete, completion)),
            Op::Update(key, change) => {
                front.write_in_line(key, Write::begin(KeyOp::Update(change), completion));
            }
            Op::Batch(ops) => front.batch(ops, completion),
            Op::Each(ops) => front.each(ops, completion),
            Op::UpdateFirst(prefix, change) => front.update_first(prefix, change, completion),
            Op::Clear => front.clear(completion),
            Op::List(listing) => front.listings.list(listing, completion),
            Op::Count(range) => front.listings.count(range, completion),
        }
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.0.waiters)
    }

    fn check(&self) -> Result<(), Error> {
        self.0.router.check()
    }

    fn report(&self, to: &mut Exposition) {
        self.0.write_metrics(to);
    }

    fn close(&self) -> Result<(), Error> {
        self.0.router.close();
        Ok(())
    }
}
