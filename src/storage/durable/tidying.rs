//! Taking what was deleted or overwritten off the disk.
//!
//! The tree puts its files in order as it is written to, and a store that is
//! deleted from and then left alone would keep its size. So once nobody
//! writes, and much has changed, a thread puts all of it in order at once.

use super::room::Room;
use fjall::{AbstractTree as _, AnyTree, Keyspace};
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Fewer changes than this are not worth it.
const CHANGES_MIN: u64 = 16;

/// One change for so many keys is much.
const KEYS_EACH: u64 = 4;

/// A tree larger than this, without the values that are kept apart, is put in
/// order by its own size, bit by bit.
const TREE_BYTES_MAX: u64 = 512 << 20;

/// How often the tree is put in order at most until waste is less than one
/// part in so many.
const ROUNDS_MAX: usize = 4;
const WASTE_SHARE: u64 = 8;

/// How long the last changes may take to reach a file.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// The changes since the last time, and the thread that is at it.
#[derive(Default)]
pub(super) struct Tidying {
    changes: u64,
    thread: Option<JoinHandle<()>>,
}

impl Tidying {
    /// Notes that so many keys were written or deleted.
    pub(super) fn note(&mut self, changes: usize) {
        self.changes += changes as u64;
    }

    /// Forgets the changes: what they were made to is gone.
    pub(super) fn forget(&mut self) {
        self.changes = 0;
    }

    /// Begins to tidy up if that is worth it; where room is needed it soon is.
    /// Blocks for nothing.
    pub(super) fn begin(&mut self, keyspace: &Keyspace, room: &Room, is_needed: bool) {
        let tree_bytes = match &keyspace.tree {
            AnyTree::Standard(tree) => tree.disk_space(),
            AnyTree::Blob(tree) => tree.index.disk_space(),
        };
        let share = keyspace.approximate_len() as u64 / KEYS_EACH;
        let much = if is_needed { CHANGES_MIN } else { share.max(CHANGES_MIN) };
        // It writes the tree anew before it removes the old one: that is what
        // some room is always kept for.
        let fits = tree_bytes < TREE_BYTES_MAX.min(room.free_bytes() / 2);
        if self.thread.is_some() || self.changes < much || !fits {
            return;
        }
        self.changes = 0;
        let keyspace = keyspace.clone();
        let work = move || {
            if let Err(err) = tidy(&keyspace) {
                log::warn!("what was deleted stays on the disk for now: {err}");
            }
        };
        match thread::Builder::new().name("tidier".to_owned()).spawn(work) {
            Ok(thread) => self.thread = Some(thread),
            Err(err) => log::warn!("what was deleted stays on the disk for now: {err}"),
        }
    }

    /// Whether, since the last call, something was tidied up. Old versions of
    /// the tree are there until it takes the next write and turns to a file.
    pub(super) fn has_finished(&mut self) -> bool {
        let finished = self.thread.take_if(|thread| thread.is_finished());
        // A panic there was logged, and the files are as they were.
        finished.is_some_and(|thread| thread.join().is_ok())
    }

    /// Waits until nothing is being tidied up. Says whether anything was.
    pub(super) fn finish(&mut self) -> bool {
        // As above.
        self.thread.take().is_some_and(|thread| thread.join().is_ok())
    }
}

fn tidy(keyspace: &Keyspace) -> fjall::Result<()> {
    let begun = Instant::now();
    let before = keyspace.disk_space();
    keyspace.rotate_memtable()?;
    while keyspace.sealed_memtable_count() > 0 {
        if begun.elapsed() > FLUSH_PATIENCE {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    // What the first finds to be of no use the next ones remove.
    for _ in 0..ROUNDS_MAX {
        keyspace.major_compact()?;
        if keyspace.fragmented_blob_bytes() < keyspace.disk_space() / WASTE_SHARE {
            break;
        }
    }
    let (after, took) = (keyspace.disk_space(), begun.elapsed());
    log::debug!("put {before} bytes in order, {after} are left, in {} ms", took.as_millis());
    Ok(())
}
