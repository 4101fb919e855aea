//! The bytes that an allocation really takes.
//!
//! jemalloc rounds a size up to one of its classes: multiples of 16 up to 128, then four
//! classes in each doubling. Allocations of a class lie side by side in slabs, which are
//! whole pages, and each slab has a record of its own. From 16 KiB on an allocation is
//! a slab of its own, with a page more, so that not all of them begin at the same place
//! of a cache.

/// True where allocations lie in slabs, which go back to the system once they are empty.
pub const HAS_SLABS: bool = cfg!(all(target_os = "linux", not(portable)));

/// jemalloc's pages.
pub const PAGE_BYTES: usize = 4096;

/// jemalloc's record of a slab.
#[cfg(all(target_os = "linux", not(portable)))]
const SLAB_RECORD_BYTES: usize = 128;

/// The place of a page in jemalloc's directory of pages.
#[cfg(all(target_os = "linux", not(portable)))]
const PAGE_RECORD_BYTES: usize = 8;

/// The largest allocation that shares a slab with others, in bytes.
pub const SHARED_BYTES_MAX: usize = 14 << 10;

/// The bytes that an allocation of `size` takes, with its part of the allocator's
/// records.
#[cfg(all(target_os = "linux", not(portable)))]
pub fn allocated(size: usize) -> usize {
    let class = class_of(size);
    if size > SHARED_BYTES_MAX {
        let pages = class / PAGE_BYTES + 1;
        return class + PAGE_BYTES + SLAB_RECORD_BYTES + pages * PAGE_RECORD_BYTES;
    }
    // A slab is the smallest number of whole pages without a rest; this power of two
    // share it.
    let sharing = PAGE_BYTES.trailing_zeros().saturating_sub(class.trailing_zeros());
    let pages = (class << sharing) / PAGE_BYTES;
    let records = SLAB_RECORD_BYTES + pages * PAGE_RECORD_BYTES;
    class + ((records + (1 << sharing) - 1) >> sharing)
}

/// The class of a size: the bytes of it in a slab.
#[cfg(all(target_os = "linux", not(portable)))]
pub fn class_of(size: usize) -> usize {
    match size {
        0..=8 => 8,
        9..=128 => size.next_multiple_of(16),
        _ => size.next_multiple_of(1 << ((size - 1).ilog2() - 2)),
    }
}

/// The class of a size, as far as one is known.
#[cfg(not(all(target_os = "linux", not(portable))))]
pub fn class_of(size: usize) -> usize {
    size
}

/// The bytes that an allocation of `size` takes of a usual allocator of a C library: a
/// header of 8 bytes, steps of 16, never under 32.
#[cfg(not(all(target_os = "linux", not(portable))))]
pub fn allocated(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

#[cfg(all(test, target_os = "linux", not(portable)))]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_jemalloc() {
        let classes = [
            (0, 8),
            (8, 8),
            (9, 16),
            (16, 16),
            (17, 32),
            (112, 112),
            (128, 128),
            (129, 160),
            (160, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (512, 512),
            (513, 640),
            (1025, 1280),
            (4096, 4096),
            (4097, 5120),
            (14336, 14336),
            (14337, 16384),
            (65536, 65536),
            (65537, 81920),
            (10 << 20, 10 << 20),
            ((10 << 20) + 1, 12 << 20),
        ];
        for (size, class) in classes {
            assert_eq!(class_of(size), class, "{size}");
        }
    }

    #[test]
    fn the_records_of_a_slab_are_shared_by_those_in_it() {
        // 32 in one page, 128 in five, 4 in one, 1 in two.
        let shared = [(128, 128 + 5), (160, 160 + 2), (1024, 1024 + 34), (8192, 8192 + 144)];
        for (size, bytes) in shared {
            assert_eq!(allocated(size), bytes, "{size}");
        }
        assert_eq!(allocated(64 << 10), (64 << 10) + 4096 + 128 + 17 * 8);
    }
}
