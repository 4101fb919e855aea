//! The global allocator: jemalloc.
//!
//! Each connection has a thread, and its allocations for a request are freed by
//! another one. The system's allocator does a seventh fewer requests a second
//! then: most of these allocations are too large for its caches.

#![allow(unsafe_code, reason = "a name for the linker is not checked to be unique")]

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A thread's cache has few blocks, for there are thousands of threads, and none
/// larger than a small request takes. The four arenas keep the pages that large
/// values leave behind for about a second; then those go back to the system, on
/// an idle store too.
const SETTINGS: &[u8] = concat!(
    "background_thread:true,max_background_threads:1,narenas:4,dirty_decay_ms:1000,",
    "lg_tcache_max:12,tcache_nslots_large:2,",
    "tcache_nslots_small_min:2,tcache_nslots_small_max:2\0",
)
.as_bytes();

/// The symbol by which jemalloc finds its settings: a pointer to characters.
// SAFETY: no other symbol has this name but jemalloc's own, which gives way.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS_SYMBOL: &[u8; SETTINGS.len()] = SETTINGS.first_chunk().unwrap();
