//! The global allocator: jemalloc.
//!
//! Each connection has a thread, and its allocations for a request are freed by
//! another one. The system's allocator does a seventh fewer requests a second
//! then: most of these allocations are too large for its caches.

#![allow(unsafe_code, reason = "names for the linker, and a function of C")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A thread's cache has few blocks, for there are thousands of threads: up to eight of a
/// small size, a sixteenth of a slab, two of most, and none larger than a small request
/// takes. The four arenas keep the pages that large values leave behind for about a
/// second; then those go back to the system, on an idle store too.
const SETTINGS: &[u8] = concat!(
    "background_thread:true,max_background_threads:1,narenas:4,dirty_decay_ms:1000,",
    "lg_tcache_max:12,tcache_nslots_large:2,lg_tcache_nslots_mul:-4,",
    "tcache_nslots_small_min:2,tcache_nslots_small_max:8\0",
)
.as_bytes();

/// The symbol by which jemalloc finds its settings: a pointer to characters.
// SAFETY: no other symbol has this name but jemalloc's own, which gives way.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS_SYMBOL: &[u8; SETTINGS.len()] = SETTINGS.first_chunk().unwrap();

unsafe extern "C" {
    /// Reads and writes a parameter of jemalloc (`mallctl(3)`).
    #[link_name = "_rjem_mallctl"]
    fn mallctl(
        name: *const c_char,
        old: *mut c_void,
        old_bytes: *mut usize,
        new: *mut c_void,
        new_bytes: usize,
    ) -> c_int;
}

/// Gives the calling thread an arena of its own, without a cache between: it lays what
/// it allocates side by side, and never into the holes that it has just made elsewhere.
/// Returns false if there is none.
pub fn use_own_arena() -> bool {
    let (mut arena, mut bytes) = (0_u32, size_of::<u32>());
    let (mut no, none) = (false, ptr::null_mut());
    // SAFETY: each parameter is of the type that the manual tells: `arenas.create` reads
    // an `unsigned`, `thread.arena` writes one, and `thread.tcache.enabled` a `bool`.
    // All pointers are to variables of that size, and jemalloc keeps none of them.
    unsafe {
        mallctl(c"arenas.create".as_ptr(), (&raw mut arena).cast(), &raw mut bytes, none, 0) == 0
            && set(c"thread.arena", &mut arena)
            && set(c"thread.tcache.enabled", &mut no)
    }
}

/// Calls `wait`, during which the allocator keeps no blocks for the calling thread alone,
/// and no list of them: it is for what takes long and allocates little.
pub fn without_cache<T>(wait: impl FnOnce() -> T) -> T {
    // SAFETY: the parameter is a `bool`.
    let set_cache = |mut is_used: bool| unsafe { set(c"thread.tcache.enabled", &mut is_used) };
    set_cache(false);
    let waited = wait();
    set_cache(true);
    waited
}

/// Gives all pages back to the system that nothing is left in, now and not a second later.
/// Returns false if that is not known.
pub fn give_back_pages() -> bool {
    let none = ptr::null_mut;
    // SAFETY: it has no parameter, and the number stands for all arenas.
    unsafe { mallctl(c"arena.4096.purge".as_ptr(), none(), none().cast(), none(), 0) == 0 }
}

/// Sets a parameter of jemalloc.
///
/// # Safety
///
/// The parameter has the type of the value.
unsafe fn set<T>(name: &CStr, value: &mut T) -> bool {
    // SAFETY: as the caller promises. Nothing of the old value is read.
    unsafe {
        let (none, value) = (ptr::null_mut(), ptr::from_mut(value).cast());
        mallctl(name.as_ptr(), none, ptr::null_mut(), value, size_of::<T>()) == 0
    }
}
