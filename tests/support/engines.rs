//! Every engine, for the suites that run on all of them.

use little_key_value::storage::{
    Change, Done, Durable, Entry, Error, Key, Memory, Storage, Updated, Write,
};
use std::sync::Arc;
use tempfile::TempDir;

/// An engine's name and how to open an empty store of it.
pub type Engine = (&'static str, fn() -> Arc<dyn Storage>);

/// Every engine. A new one adds a line.
pub const ENGINES: &[Engine] = &[("memory", memory), ("durable", durable)];

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

/// A durable store whose directory goes with it.
struct Temporary {
    engine: Durable,
    // The fields are dropped in this order.
    _directory: TempDir,
}

impl Storage for Temporary {
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.engine.get(key)
    }

    fn peek(&self, key: &Key) -> Option<Entry> {
        self.engine.peek(key)
    }

    fn set(&self, key: Key, entry: Entry) -> Result<(), Error> {
        self.engine.set(key, entry)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.engine.delete(key)
    }

    fn clear(&self) -> Result<(), Error> {
        self.engine.clear()
    }

    fn update(&self, key: Key, change: Change) -> Result<Updated, Error> {
        self.engine.update(key, change)
    }

    fn begin(&self, write: Write, done: Done) {
        self.engine.begin(write, done);
    }

    fn waits(&self) -> bool {
        self.engine.waits()
    }

    fn check(&self) -> Result<(), Error> {
        self.engine.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.engine.close()
    }
}
