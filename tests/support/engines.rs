//! Every engine, for the suites that run on all of them.

use little_key_value::storage::{Memory, Storage};
use std::sync::Arc;

/// An engine's name and how to open an empty store of it.
pub type Engine = (&'static str, fn() -> Arc<dyn Storage>);

/// Every engine. A new one adds a line.
pub const ENGINES: &[Engine] = &[("memory", memory)];

/// The engine that keeps everything in memory.
pub fn memory() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}
