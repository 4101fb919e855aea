//! The allocator of the system.

/// Gives the calling thread an arena of its own: there is none.
pub fn use_own_arena() -> bool {
    false
}

/// The same where nothing is known of it.
pub fn give_back_pages() -> bool {
    false
}
