//! Defragmentation: gives back the memory that removals and overwrites leave unused.
//!
//! ```text
//! slabs   |## #  # |  #   # |## # ###|  ──►  |########|        |## #####|
//! ```
//!
//! jemalloc keeps allocations of a class side by side in slabs, and returns a slab to the
//! system once nothing is left in it. So entries that are thinly spread are laid anew:
//! copied to where there is place, which frees what they leave. A pass looks at all
//! entries, counts the bytes by their addresses, and moves those from where the fewest
//! are; then it looks again, until little would be gained. It knows nothing of slabs but
//! that they are whole pages, so it looks at runs of pages.
//!
//! A thread, started once much has been freed, makes a pass after much more has been.
//! It takes the lock of one map at a time, for some dozens of entries, and rests longer
//! than it works. It leaves alone what a reader has, and what is too large to share a
//! slab. The account is right all the while: a copy costs as much as the entry.

use super::packed::Packed;
use super::{Maps, read, write};
use crate::platform::scheduling;
use crate::platform::size_classes::{HAS_SLABS, PAGE_BYTES, SHARED_BYTES_MAX};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{HashMap, HashSet};
use std::sync::{OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// A pass follows once this part of the bytes held has been freed, and some more.
const FREED_PART: u64 = 8;
const FREED_BYTES_MIN: u64 = 1 << 20;

/// The time that those who free have to finish before a pass begins.
const DELAY: Duration = Duration::from_millis(250);

/// A pass ends once it would gain less than this part of the bytes of the entries.
const GAIN_PART: usize = 64;

/// Entries are moved from a run of pages of which less than this is used, in parts.
const DENSE_PARTS: usize = 240;
const PARTS: usize = 256;

/// The part of all bytes that is moved between two looks, and the least of them.
const MOVED_PART: usize = 16;
const MOVED_BYTES_MIN: usize = 4 << 20;

/// The most looks of a pass.
const LOOKS_MAX: usize = 48;

/// The entries of a map that are looked at under one lock.
const ENTRIES_AT_ONCE: usize = 128;

/// The thread works this long, and then rests for twice that.
const WORK: Duration = Duration::from_millis(1);
const REST_COSTS: u32 = 2;

/// The pages of a run.
const RUN_PAGES: usize = 16;
const RUN_BYTES: usize = RUN_PAGES * PAGE_BYTES;

/// Wakes the thread of a store, which ends when this is dropped.
#[derive(Default)]
pub struct Defragmenter(OnceLock<Sender<()>>);

/// The runs of pages where entries are, by their numbers.
#[derive(Default)]
struct Census {
    runs: HashMap<usize, Run>,
}

/// The use of a run.
#[derive(Clone, Copy, Default)]
struct Run {
    /// A bit for each page where an entry begins.
    pages: u16,
    bytes: u32,
}

/// The runs that are to be emptied.
type Sparse = HashSet<usize>;

/// Work with rests.
struct Pace {
    begun: Instant,
}

impl Maps {
    /// Has a pass made once enough has been freed.
    pub fn heed_freed(&self) {
        let freed = self.account.freed();
        if freed < FREED_BYTES_MIN + self.account.held() / FREED_PART || !HAS_SLABS {
            return;
        }
        let wake = self.defragmenter.0.get_or_init(|| start(self.own.clone()));
        // If it is full the thread is about to wake.
        let _is_woken: bool = wake.try_send(()).is_ok();
    }

    /// Makes a pass. Returns the bytes that were moved.
    pub fn defragment(&self) -> u64 {
        self.account.take_freed();
        let (mut sparse, mut moved, mut gain) = (Sparse::default(), 0, usize::MAX);
        for _ in 0..LOOKS_MAX {
            let census = self.look(&sparse, &mut moved);
            let (bytes, next) = (census.bytes(), census.gain());
            // What others write meanwhile may take the place of all that is gained.
            if next < bytes / GAIN_PART + RUN_BYTES || next >= gain {
                break;
            }
            gain = next;
            sparse = census.sparsest((bytes / MOVED_PART).max(MOVED_BYTES_MIN));
        }
        moved
    }

    /// Moves the entries of some runs, and counts where all are since.
    fn look(&self, sparse: &Sparse, moved: &mut u64) -> Census {
        let (mut census, mut pace) = (Census::default(), Pace::begin());
        for shard in &self.shards {
            for at in (0..).step_by(ENTRIES_AT_ONCE) {
                let map = || read(&shard.map);
                let is_in = |packed: &Packed| {
                    slab_blocks(packed).any(|(address, _)| sparse.contains(&(address / RUN_BYTES)))
                };
                if !sparse.is_empty() && map().part(at, ENTRIES_AT_ONCE).any(is_in) {
                    let old = write(&shard.map).copy_part(at, ENTRIES_AT_ONCE, is_in);
                    *moved += old.iter().map(Packed::cost).sum::<u64>();
                }
                if !census.count_all(map().part(at, ENTRIES_AT_ONCE)) {
                    break;
                }
                pace.rest();
            }
        }
        census
    }
}

/// The allocations of an entry that share slabs with others: address and bytes.
fn slab_blocks(packed: &Packed) -> impl Iterator<Item = (usize, usize)> {
    let blocks = packed.blocks().into_iter();
    blocks.filter(|(_, bytes)| (1..=SHARED_BYTES_MAX).contains(bytes))
}

fn start(maps: Weak<Maps>) -> Sender<()> {
    let (wake, woken) = crossbeam_channel::bounded(1);
    let defragmenter = thread::Builder::new().name("defragmenter".to_owned());
    if let Err(err) = defragmenter.spawn(move || run(&maps, &woken)) {
        log::warn!("no thread to give back the memory between entries: {err}");
    }
    wake
}

fn run(maps: &Weak<Maps>, woken: &Receiver<()>) {
    scheduling::batch_priority();
    while woken.recv().is_ok() {
        thread::sleep(DELAY);
        let Some(maps) = maps.upgrade() else { return };
        let (begun, moved) = (Instant::now(), maps.defragment());
        log::debug!("moved {moved} bytes of entries in {:?}", begun.elapsed());
    }
}

impl Census {
    /// Counts some entries. Returns false if there are none.
    fn count_all<'a>(&mut self, entries: impl Iterator<Item = &'a Packed>) -> bool {
        let mut any = false;
        for packed in entries {
            any = true;
            for (address, bytes) in slab_blocks(packed) {
                self.count(address, bytes);
            }
        }
        any
    }

    fn count(&mut self, address: usize, bytes: usize) {
        let run = self.runs.entry(address / RUN_BYTES).or_default();
        let first = address % RUN_BYTES / PAGE_BYTES;
        // What lies beyond the end of the run belongs to this one, too.
        let last = ((address % RUN_BYTES + bytes - 1) / PAGE_BYTES).min(RUN_PAGES - 1);
        for page in first..=last {
            run.pages |= 1 << page;
        }
        run.bytes += u32::try_from(bytes).unwrap_or(0);
    }

    /// The bytes of all entries.
    fn bytes(&self) -> usize {
        self.runs.values().map(|run| run.bytes as usize).sum()
    }

    /// The bytes between the entries of all sparse runs.
    fn gain(&self) -> usize {
        self.runs.values().filter(|run| run.is_sparse()).map(|run| run.unused()).sum()
    }

    /// The sparsest runs, with so many bytes of entries in all.
    fn sparsest(&self, bytes_max: usize) -> Sparse {
        let sparse = self.runs.iter().filter(|(_, run)| run.is_sparse());
        let mut sparse: Vec<(usize, usize, usize)> =
            sparse.map(|(number, run)| (run.use_in_parts(), *number, run.bytes as usize)).collect();
        sparse.sort_unstable();
        let mut sum = 0;
        let fits = |(_, _, bytes): &(usize, usize, usize)| {
            sum += bytes;
            sum <= bytes_max
        };
        sparse.into_iter().take_while(fits).map(|(_, number, _)| number).collect()
    }
}

impl Run {
    fn page_bytes(self) -> usize {
        self.pages.count_ones() as usize * PAGE_BYTES
    }

    /// The part of its pages that is used.
    fn use_in_parts(self) -> usize {
        self.bytes as usize * PARTS / self.page_bytes().max(1)
    }

    fn is_sparse(self) -> bool {
        self.use_in_parts() < DENSE_PARTS
    }

    fn unused(self) -> usize {
        self.page_bytes().saturating_sub(self.bytes as usize)
    }
}

impl Pace {
    fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    /// Rests once it has worked for a while.
    fn rest(&mut self) {
        let worked = self.begun.elapsed();
        if worked >= WORK {
            thread::sleep(worked * REST_COSTS);
            self.begun = Instant::now();
        }
    }
}
