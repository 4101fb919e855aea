//! The packed entries alone, without the rest of the program and its allocator: over that
//! of the system valgrind sees each allocation, as `scripts/valgrind.sh` has it.

#![allow(dead_code, unused_imports, reason = "the program uses the rest of these files")]

#[path = "../src/platform"]
mod platform {
    pub mod clock;
    pub mod size_classes;
}

#[path = "../src/storage"]
mod storage {
    mod entry;
    #[path = "memory/packed/mod.rs"]
    mod packed;
    mod time;

    pub use entry::{Digest, Entry};
    pub use time::Time;
}
