//! The stack of a thread, whose pages stay with it once they were used, on Linux.

#![allow(unsafe_code, reason = "pages of a stack are given back by their address")]

use std::mem::MaybeUninit;
use std::ptr;

/// More than the function below uses, with all that it calls.
const SPARED_BYTES: usize = 1024;

/// Gives the pages back to the system that the calling thread's stack has used, and does
/// not use now. It is for a thread that waits for long: they are had again, one by one, as
/// soon as something is called that needs them.
#[inline(never)]
pub fn give_back_unused() {
    let mut attributes = MaybeUninit::uninit();
    let here = attributes.as_mut_ptr();
    let (mut lowest, mut bytes) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are read where they were written, and all pointers are to
    // variables that live through the calls.
    let is_told = unsafe {
        libc::pthread_getattr_np(libc::pthread_self(), here) == 0 && {
            let told = libc::pthread_attr_getstack(here, &raw mut lowest, &raw mut bytes);
            libc::pthread_attr_destroy(here);
            told == 0
        }
    };
    let spared = here.addr().saturating_sub(SPARED_BYTES);
    let end = spared - spared % rustix::param::page_size();
    let Some(bytes) = end.checked_sub(lowest.addr()).filter(|_| is_told) else { return };
    // SAFETY: a stack grows downwards, and all of this is below the frames in use. So
    // nobody reads what is there before it is written.
    unsafe { libc::madvise(lowest, bytes, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::{fs, thread};

    const USED_BYTES: usize = 512 * 1024;

    /// The resident memory of the mapping with this address.
    fn resident_kib(address: usize) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").expect("Linux tells");
        let mut lines = maps.lines();
        lines
            .find(|line| {
                let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
                let number = |text| usize::from_str_radix(text, 16).ok();
                range.is_some_and(|(from, to)| {
                    number(from).is_some_and(|from| from <= address)
                        && number(to).is_some_and(|to| address < to)
                })
            })
            .expect("it is mapped");
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("and resident");
        rss.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[inline(never)]
    #[allow(clippy::large_stack_arrays, reason = "it is to use much of the stack")]
    fn use_much() {
        black_box([1_u8; USED_BYTES]);
    }

    #[test]
    fn what_a_stack_has_used_is_given_back_and_what_it_uses_stays() {
        let told = thread::spawn(|| {
            let kept: [usize; 1000] = std::array::from_fn(|number| number * 7);
            let kept = black_box(kept);
            let address = std::ptr::from_ref(&kept).addr();
            use_much();
            let used = resident_kib(address);
            give_back_unused();
            let left = resident_kib(address);
            // It can be used again, and given back again.
            use_much();
            give_back_unused();
            assert!(kept.iter().enumerate().all(|(number, value)| *value == number * 7));
            (used, left)
        });
        let (used, left) = told.join().expect("it does not panic");
        assert!(used >= left + USED_BYTES as u64 / 1024 * 9 / 10, "{used} KiB, {left} KiB left");
    }
}
