//! The allocator of the system.

/// Gives the calling thread an arena of its own: there is none.
pub fn use_own_arena() -> bool {
    false
}
