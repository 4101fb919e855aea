//! Every engine, for the suites that run on all of them.

use super::peer::Peer;
use little_key_value::storage::{
    Changes, Done, Durable, Error, Memory, Op, Outcome, Storage, Watch,
};
use std::sync::Arc;
use tempfile::TempDir;

/// An engine's name and how to open an empty store of it.
pub type Engine = (&'static str, fn() -> Arc<dyn Storage>);

/// Every engine. A new one adds a line.
pub const ENGINES: &[Engine] = &[("memory", memory), ("durable", durable), ("peer", peer)];

/// The engine that keeps everything in memory.
pub fn memory() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}

/// The engine that keeps everything on disk, in a directory of its own.
pub fn durable() -> Arc<dyn Storage> {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let engine = Durable::open(directory.path()).expect("an empty directory can be opened");
    Arc::new(Temporary { engine, _directory: directory })
}

/// An engine whose outcomes all come later, as if from a peer.
pub fn peer() -> Arc<dyn Storage> {
    Arc::new(Peer::new())
}

/// A durable store whose directory goes with it.
struct Temporary {
    engine: Durable,
    // The fields are dropped in this order.
    _directory: TempDir,
}

impl Storage for Temporary {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        self.engine.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        self.engine.submit(op, done);
    }

    fn watch(&self) -> Option<&Watch> {
        self.engine.watch()
    }

    fn changes(&self) -> Option<&Changes> {
        self.engine.changes()
    }

    fn check(&self) -> Result<(), Error> {
        self.engine.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.engine.close()
    }
}
