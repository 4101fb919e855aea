//! Defragmentation: gives back the memory that removals and overwrites leave unused.
//!
//! ```text
//! slabs   |## #  # |  #   # |## # ###|  ──►  |########|        |## #####|
//! ```
//!
//! jemalloc keeps allocations of a class side by side in slabs, and returns a slab to the
//! system once nothing is left in it. So heads and values that are thinly spread are moved
//! side by side, which leaves their slabs empty. A pass looks at all entries, and counts
//! the bytes by their addresses. Then it empties the runs of pages that are used least,
//! some at a time, and moves nothing out of others: so few bytes have a new place before
//! the pages of the old ones are given back. It knows nothing of slabs but that they are
//! whole pages.
//!
//! A thread, started once much has been freed, makes a pass after much more has been, and
//! one at the end for the rest. It takes the lock of one map at a time, for some dozens of
//! entries, and rests longer than it works, unless uploads wait for it. It leaves alone what
//! a reader has, and what is too large to share a slab. The account is right all the while:
//! an entry costs as much at any place.

use super::evict::Cache;
use super::map::Map;
use super::maps::{Maps, Shard, read, write};
use super::packed::Packed;
use crate::platform::size_classes::{HAS_SLABS, PAGE_BYTES, SHARED_BYTES_MAX, class_of};
use crate::platform::{allocator, scheduling};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// A pass follows once this part of the bytes held has been freed, and some more.
const FREED_PART: u64 = 8;
const FREED_BYTES_MIN: u64 = 1 << 20;

/// A pass for less than that, which was freed during the one before: this part of the
/// bytes held, once nothing was freed for so long.
const LEFT_PART: u64 = 64;
const QUIET: Duration = Duration::from_millis(500);

/// A pass is made if it gains more than this part of the bytes of the entries.
const GAIN_PART: usize = 128;

/// Entries are moved from a run of pages of which less than this is used, in parts.
const DENSE_PARTS: usize = 252;
const PARTS: usize = 256;

/// The part of all bytes that is moved at a time, and the least of them.
const MOVED_PART: usize = 16;
const MOVED_BYTES_MIN: usize = 4 << 20;

/// The bytes moved until memory is trimmed once more.
const TRIM_BYTES: u64 = 1 << 20;

/// The most passes one after the other. What others write meanwhile may take all that
/// is gained.
const PASSES_MAX: usize = 3;

/// The entries of a map that are looked at under one lock, and the most of such parts.
const ENTRIES_AT_ONCE: usize = 128;
const PARTS_MAX: usize = 32;

/// The thread works this long, and then rests.
const WORK: Duration = Duration::from_millis(1);
const REST: Duration = Duration::from_millis(2);

/// The pages of a run.
const RUN_PAGES: usize = 16;
const RUN_BYTES: usize = RUN_PAGES * PAGE_BYTES;

/// The thread of a store, and its last passes.
#[derive(Default)]
pub struct Defragmenter {
    /// Wakes the thread, which ends when this is dropped.
    wake: OnceLock<Sender<()>>,
    /// Set if they gained nothing.
    is_dense: AtomicBool,
}

/// The runs of pages where entries are, by their numbers.
#[derive(Default)]
struct Census {
    runs: HashMap<usize, Run>,
}

/// The use of a run.
#[derive(Default)]
struct Run {
    /// A bit for each page where an entry begins.
    pages: u16,
    bytes: u32,
    /// Set if values apart are in it.
    has_values: bool,
}

/// The runs that are to be emptied.
#[derive(Default)]
struct Sparse {
    numbers: HashSet<usize>,
    /// Set if one of them has values apart.
    has_values: bool,
    /// A bit for each of them, and for no others where they are near one another.
    filter: Filter,
}

/// Bits for the numbers of runs, modulo theirs.
struct Filter(Box<[u64]>);

impl Maps {
    /// Has a pass made once enough has been freed.
    pub fn wake_defragmenter_if_due(&self) {
        if !self.has_freed_much() {
            return;
        }
        // One that evicts frees as much as it takes, in the same classes mostly. It makes
        // a pass once the process takes too much.
        if self.cache.is_some() && self.account.is_over(self.account.held() / FREED_PART) {
            return;
        }
        self.wake_defragmenter();
    }

    /// Returns true if a pass is due for what has been freed since the last one.
    fn has_freed_much(&self) -> bool {
        self.account.freed() >= FREED_BYTES_MIN + self.account.held() / FREED_PART
    }

    /// Has a pass made for a process that takes too much, unless it would gain no more than
    /// the last one.
    pub fn wake_defragmenter_if_of_use(&self) {
        if !self.defragmenter.is_dense.load(Ordering::Relaxed) || self.has_freed_much() {
            self.wake_defragmenter();
        }
    }

    /// Has a pass made.
    fn wake_defragmenter(&self) {
        if !HAS_SLABS {
            return;
        }
        let wake = self.defragmenter.wake.get_or_init(|| start(Weak::clone(&self.own)));
        // If it is full the thread is about to wake.
        let _is_woken: bool = wake.try_send(()).is_ok();
    }

    /// Makes passes while they gain something. Returns the bytes that were moved.
    pub fn defragment(&self) -> u64 {
        let mut moved = 0;
        for _ in 0..PASSES_MAX {
            self.account.reset_freed();
            let census = self.take_census();
            let bytes = census.bytes();
            if census.gain() < bytes / GAIN_PART + RUN_BYTES {
                break;
            }
            for sparse in census.plan((bytes / MOVED_PART).max(MOVED_BYTES_MIN)) {
                moved += self.empty(&sparse);
            }
        }
        self.defragmenter.is_dense.store(moved == 0, Ordering::Relaxed);
        moved
    }

    /// Counts where all entries are.
    fn take_census(&self) -> Census {
        let mut census = Census::default();
        self.visit(|map, part| {
            for packed in read(map).part(part) {
                let ([head, value], [head_bytes, value_bytes]) =
                    (packed.addresses(), packed.sizes());
                census.count(head, head_bytes, false);
                census.count(value, value_bytes, true);
            }
        });
        census
    }

    /// Moves the entries of some runs. Returns their bytes.
    fn empty(&self, sparse: &Sparse) -> u64 {
        // Most sets have heads alone, and nothing has to be read of the entries elsewhere.
        let has = |address| sparse.has(address / RUN_BYTES);
        let is_in = |packed: &Packed| {
            has(packed.address()) || (sparse.has_values && packed.addresses().into_iter().any(has))
        };
        let (mut moved, mut trimmed) = (0, 0);
        self.visit(|map, part| {
            if read(map).part(part.clone()).any(is_in) {
                moved += write(map).relocate_part(part, is_in, has) as u64;
            }
            // Else what is moved next comes to what this has left.
            if moved - trimmed >= TRIM_BYTES {
                trimmed = moved;
                self.trim_memory();
            }
        });
        self.trim_memory();
        moved
    }

    /// Visits all maps in parts, with rests unless uploads wait for memory.
    fn visit(&self, mut visit: impl FnMut(&RwLock<Map>, Range<usize>)) {
        let mut begun = Instant::now();
        for Shard { map, .. } in &self.shards {
            let keys = read(map).len();
            let part = ENTRIES_AT_ONCE.max(keys / PARTS_MAX);
            for at in (0..keys).step_by(part) {
                visit(map, at..at + part);
                if begun.elapsed() >= WORK {
                    let is_awaited = self.cache.as_ref().is_some_and(Cache::is_tight);
                    if !is_awaited {
                        thread::sleep(REST);
                    }
                    begun = Instant::now();
                }
            }
        }
    }
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
    if !allocator::use_own_arena() {
        log::warn!("no arena to lay entries anew: the memory between them stays");
        return;
    }
    // The bytes freed at the last look, if a pass for them is still to come.
    let mut last = None;
    loop {
        let signal = match last {
            None => woken.recv().map_err(RecvTimeoutError::from),
            Some(_) => woken.recv_timeout(QUIET),
        };
        if signal == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        let Some(maps) = maps.upgrade() else { return };
        let freed = maps.account.freed();
        if signal.is_err() && last != Some(freed) {
            last = Some(freed);
            continue;
        }
        let (begun, moved) = (Instant::now(), maps.defragment());
        log::debug!("moved {moved} bytes of entries in {:?}", begun.elapsed());
        let freed = maps.account.freed();
        let is_due = freed >= FREED_BYTES_MIN + maps.account.held() / LEFT_PART;
        last = is_due.then_some(freed);
    }
}

impl Census {
    fn count(&mut self, address: usize, size: usize, is_value: bool) {
        if size == 0 || size > SHARED_BYTES_MAX {
            return;
        }
        let bytes = class_of(size);
        let run = self.runs.entry(address / RUN_BYTES).or_default();
        let first = address % RUN_BYTES / PAGE_BYTES;
        // What lies beyond the end of the run belongs to this one, too.
        let last = ((address % RUN_BYTES + bytes - 1) / PAGE_BYTES).min(RUN_PAGES - 1);
        for page in first..=last {
            run.pages |= 1 << page;
        }
        run.bytes += u32::try_from(bytes).unwrap_or(0);
        run.has_values |= is_value;
    }

    /// The bytes of all entries.
    fn bytes(&self) -> usize {
        self.runs.values().map(|run| run.bytes as usize).sum()
    }

    /// The bytes between the entries of all sparse runs.
    fn gain(&self) -> usize {
        self.runs.values().filter(|run| run.is_sparse()).map(Run::unused).sum()
    }

    /// All sparse runs, the sparsest first, in sets of so many bytes of entries.
    fn plan(&self, bytes_max: usize) -> Vec<Sparse> {
        let mut sparse: Vec<_> = self.runs.iter().filter(|(_, run)| run.is_sparse()).collect();
        sparse.sort_unstable_by_key(|(_, run)| run.use_in_parts());
        let (mut plan, mut bytes) = (Vec::new(), bytes_max);
        for (number, run) in sparse {
            bytes += run.bytes as usize;
            if bytes > bytes_max {
                plan.push(Sparse::default());
                bytes = run.bytes as usize;
            }
            plan.last_mut().expect("one was pushed").add(*number, run);
        }
        plan
    }
}

impl Sparse {
    fn add(&mut self, number: usize, run: &Run) {
        self.numbers.insert(number);
        self.has_values |= run.has_values;
        self.filter.add(number);
    }

    fn has(&self, number: usize) -> bool {
        self.filter.may_have(number) && self.numbers.contains(&number)
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self(vec![0; 1 << 10].into())
    }
}

impl Filter {
    /// The place of a number.
    fn place(&self, number: usize) -> (usize, u64) {
        (number / 64 % self.0.len(), 1 << (number % 64))
    }

    fn add(&mut self, number: usize) {
        let (word, bit) = self.place(number);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn may_have(&self, number: usize) -> bool {
        let (word, bit) = self.place(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

impl Run {
    fn page_bytes(&self) -> usize {
        self.pages.count_ones() as usize * PAGE_BYTES
    }

    /// The part of its pages that is used.
    fn use_in_parts(&self) -> usize {
        self.bytes as usize * PARTS / self.page_bytes().max(1)
    }

    fn is_sparse(&self) -> bool {
        self.use_in_parts() < DENSE_PARTS
    }

    fn unused(&self) -> usize {
        self.page_bytes().saturating_sub(self.bytes as usize)
    }
}
