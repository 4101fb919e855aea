//! The parts that differ between systems: the ground floor, which knows nothing of
//! the store.
//!
//! Each file has the system's own form of one thing and, where the store runs
//! without it, a form for the others.

#[cfg_attr(any(portable, not(target_os = "linux")), path = "allocator_portable.rs")]
pub mod allocator;
pub mod clock;
pub mod descriptors;
pub mod process;
pub mod scheduling;
pub mod size_classes;
pub mod sockets;
#[cfg(all(target_os = "linux", not(portable)))]
pub mod stack;
pub mod threads;
