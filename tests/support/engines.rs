//! Every engine, for the suites that run on all of them.

use super::cluster::{self, Turn};
use super::peer::Peer;
use little_key_value::metrics::Exposition;
use little_key_value::storage::{
    Changes, Cluster, Done, Durable, Error, Limits, Memory, Op, Outcome, Storage, Waiters, Wanted,
};
use std::sync::{Arc, LazyLock};

/// An engine's name and how to open an empty store of it.
pub type Engine = (&'static str, fn() -> Arc<dyn Storage>);

/// Every engine. A new one adds a line.
pub const ALL: &[Engine] =
    &[("memory", memory), ("durable", durable), ("peer", peer), ("cluster", cluster)];

/// Every engine that is there.
pub static ENGINES: LazyLock<Vec<Engine>> =
    LazyLock::new(|| ALL.iter().filter(|(name, _)| is_there(name)).copied().collect());

/// Whether an engine is there: the cluster needs a program that a machine may lack.
pub fn is_there(engine: &str) -> bool {
    engine != "cluster" || cluster::is_there()
}

/// The engine that keeps everything in memory.
pub fn memory() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}

/// The engine that keeps everything on disk, in a directory of its own.
pub fn durable() -> Arc<dyn Storage> {
    durable_with(Limits::default())
}

fn durable_with(limits: Limits) -> Arc<dyn Storage> {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let engine = Durable::open_with_limits(directory.path(), limits);
    let engine = engine.expect("an empty directory can be opened");
    Arc::new(Holding { engine, _held: directory })
}

/// An empty store of an engine with limits, if it can have any.
pub fn limited(engine: &str, limits: Limits) -> Option<Arc<dyn Storage>> {
    match engine {
        "memory" => Some(Arc::new(Memory::with_limits(limits))),
        "durable" => Some(durable_with(limits)),
        _ => None,
    }
}

/// An engine whose outcomes all come later, as if from a peer.
pub fn peer() -> Arc<dyn Storage> {
    Arc::new(Peer::new())
}

/// The front to a shared cluster: no other test has that until the store is dropped.
pub fn cluster() -> Arc<dyn Storage> {
    let turn = Turn::take();
    let engine = Cluster::connect(&turn.servers().config()).expect("the nodes answer");
    Arc::new(Holding { engine, _held: turn })
}

/// An engine, and what goes with it: its directory, or its turn with the cluster.
struct Holding<E, H> {
    engine: E,
    // The fields are dropped in this order.
    _held: H,
}

impl<E: Storage, H: Send + Sync> Storage for Holding<E, H> {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        self.engine.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        self.engine.submit(op, done);
    }

    fn waiters(&self) -> Option<&Waiters> {
        self.engine.waiters()
    }

    fn changes(&self) -> Option<&Changes> {
        self.engine.changes()
    }

    fn check(&self) -> Result<(), Error> {
        self.engine.check()
    }

    fn room(&self, wanted: Wanted) -> Option<u64> {
        self.engine.room(wanted)
    }

    fn report(&self, to: &mut Exposition) {
        self.engine.report(to);
    }

    fn hurry(&self) {
        self.engine.hurry();
    }

    fn close(&self) -> Result<(), Error> {
        self.engine.close()
    }
}
