//! Opens a failed database anew, without a restart.
//!
//! The database takes any error of its own threads for the end: one file that
//! cannot be opened during a flush, and it takes no more writes. But all that was
//! acknowledged is in its journal, which is whole. So it is closed and opened from
//! there as at a start, while reads go on:
//!
//! ```text
//!           the database                     readers use
//! failed    its threads are ended            the failed one
//! standby   one without threads flushes      the standby
//!           the journal's batches
//! open      a new one takes writes           the new one
//! ```
//!
//! For a moment two databases have the same files. The failed one removes obsolete
//! files later, by numbers that new files could have by then: so nothing is written
//! before the last of its handles is gone. The files of a standby are the newest, and
//! new ones have higher numbers; a reader may find one of them gone, and looks again
//! in the new database.
//!
//! A failure of the journal itself is final, for nobody knows then what it
//! holds, and so is that of a sync: see `tree::Error::is_final`.

use super::directory::Data;
use super::generation::{Generation, Keyspaces};
use super::journal::Stamp;
use super::live::Live;
use super::open_error::OpenError;
use super::recovery::{self, Recovered};
use super::tree::{self, Database};
use super::{directory, held, journal};
use crate::storage::Revision;
use std::fs::{self, File};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time from a failure to the first attempt, and the most between two.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A database that fails again within this time is not opened sooner than the last
/// time.
const STEADY: Duration = Duration::from_secs(60);

/// The file that the database locks, and its replacement. The directory as a whole
/// has another lock, so nobody else opens this database.
const LOCK: &str = "lock";
const LOCK_UNFINISHED: &str = "lock.new";

/// The outcome of an attempt.
pub enum Reopened {
    /// Writes are taken again.
    Now,
    /// Another attempt will follow.
    NotYet,
    /// Something cannot be synced.
    Never(tree::Error),
}

/// The schedule and the state of opening a failed database anew.
#[derive(Default)]
pub struct Reopener {
    /// When the next attempt is due, once the database has failed.
    next: Option<Instant>,
    pause: Duration,
    failed_at: Option<Instant>,
    opened_at: Option<Instant>,
    standby: Option<Database>,
    /// Keyspaces of closed databases that readers may still use.
    retired: Vec<Arc<Keyspaces>>,
    /// For each closed database, whether all handles to it are gone.
    closed: Vec<Box<dyn Fn() -> bool + Send>>,
}

impl Reopener {
    /// Notes a failure: the first attempt is due soon.
    pub fn begin(&mut self) {
        let now = Instant::now();
        if self.opened_at.is_none_or(|at| at.elapsed() > STEADY) {
            self.pause = PAUSE_MIN;
        }
        (self.failed_at, self.next) = (Some(now), Some(now + self.pause));
    }

    /// The time until the next attempt.
    pub fn due_in(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    pub fn postpone(&mut self) {
        self.next = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// There is no other attempt.
    pub fn give_up(&mut self) {
        self.next = None;
    }

    /// Takes the next steps. Nobody else may have the database, and nothing may
    /// be written meanwhile.
    pub fn attempt(&mut self, live: &mut Live) -> Reopened {
        let data = Arc::clone(&live.inventory.data);
        let err = match panic::catch_unwind(AssertUnwindSafe(|| self.take_steps(live))) {
            Ok(Ok(())) => {
                let took = self.failed_at.map_or(0, |at| at.elapsed().as_millis());
                log::info!("the database was opened anew, {took} ms after it had failed");
                // The pause counts if it fails again soon.
                self.postpone();
                (self.next, self.opened_at) = (None, Some(Instant::now()));
                return Reopened::Now;
            }
            Ok(Err(OpenError::Database(err))) if err.is_final() => {
                self.give_up();
                return Reopened::Never(err);
            }
            Ok(Err(err)) => Some(err.renamed(data.path(), &data.name)),
            Err(_panic) => None,
        };
        match err {
            Some(err) => log::debug!("the database cannot be opened anew yet: {err}"),
            None => log::debug!("the database cannot be opened anew yet: it has panicked"),
        }
        self.postpone();
        Reopened::NotYet
    }

    fn take_steps(&mut self, live: &mut Live) -> Result<(), OpenError> {
        if let Some(failed) = live.database.take() {
            // Waits for its threads.
            self.closed.push(failed.close());
        }
        let standby = match self.standby.take() {
            Some(standby) => standby,
            None => self.open_standby(live)?,
        };
        if !self.is_released() {
            self.standby = Some(standby);
            return Err(unready(io::Error::other("it is still being read")));
        }
        // An attempt that fails leaves files that the next one removes.
        let opened = flush(&standby, &mut live.generation)
            .map_err(OpenError::from)
            .and_then(|()| open(&live.inventory.data));
        if let Ok(Recovered { database, generation, inventory, revision: _ }) = opened {
            self.replace(live, generation);
            // A write that was not acknowledged may be there, and nobody was told of it.
            drop(live.changes.be_reborn(Revision::newborn()));
            live.inventory = inventory;
            live.database = Some(database);
            self.closed.push(standby.close());
            return Ok(());
        }
        self.closed.push(standby.close());
        opened.map(drop)
    }

    /// Has readers use a database that has no threads.
    fn open_standby(&mut self, live: &mut Live) -> Result<Database, OpenError> {
        let data = &live.inventory.data;
        sync_journals(data.path())?;
        replace_lock(data.path()).map_err(unready)?;
        recovery::check(data, true)?;
        let standby = Database::open_standby(data.path())?;
        // Nothing is written that would have its stamp.
        let generation = recovery::generation_in_use(&standby, data, Stamp::new())?;
        self.replace(live, generation);
        Ok(standby)
    }

    fn replace(&mut self, live: &mut Live, generation: Generation) {
        let old = live.replace(generation);
        self.retired.push(old.keyspaces);
    }

    /// Returns true if all handles to closed databases are gone. The last one is never a
    /// reader's, which would have to wait for files to be closed.
    pub fn is_released(&mut self) -> bool {
        self.retired.retain(|keyspaces| Arc::strong_count(keyspaces) > 1);
        self.closed.retain(|is_gone| !is_gone());
        self.retired.is_empty() && self.closed.is_empty()
    }
}

fn unready(err: io::Error) -> OpenError {
    OpenError::io("a file is not at hand", err)
}

/// Syncs the journals and their names once more, as a thread of the database may
/// have failed in that. The batches themselves were synced before they were
/// acknowledged.
fn sync_journals(data: &Path) -> Result<(), OpenError> {
    for journal in journal::journals(data).map_err(unready)? {
        let journal = File::options().write(true).open(journal).map_err(unready)?;
        journal.sync_all().map_err(tree::Error::of_the_journal)?;
    }
    directory::sync(data).map_err(unready)
}

/// Lets another database be opened while one is still there to be read.
fn replace_lock(data: &Path) -> io::Result<()> {
    let unfinished = data.join(LOCK_UNFINISHED);
    held::create_anew(&unfinished)?;
    fs::rename(unfinished, data.join(LOCK))
}

/// Flushes all memtables, as the threads of the database would, and makes the names
/// of the files last before another database does without the journal.
fn flush(database: &Database, generation: &mut Generation) -> tree::Result<()> {
    for keyspace in generation.keyspaces.each() {
        keyspace.forget_gone_blobs()?;
        database.flush(keyspace)?;
    }
    generation.sync_blob_names()
}

/// Opens the database as at a start, after which the directory has its format.
fn open(data: &Arc<Data>) -> Result<Recovered, OpenError> {
    replace_lock(data.path()).map_err(unready)?;
    recovery::recover(data, true, || Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Limits;
    use directory::Directory;
    use recovery::{check, found, recover};

    #[test]
    fn nothing_is_written_before_the_last_handle_of_the_failed_one_is_gone() {
        let place = tempfile::tempdir().expect("a directory");
        let mut directory = Directory::take(place.path()).expect("it is free");
        directory.found(found).expect("it is made");
        let data = Arc::new(directory.data().expect("it is there"));
        let opened = recover(&data, true, || directory.finish());
        let mut live = Live::new(opened.unwrap_or_else(|err| panic!("{err}")), Limits::default());
        let write = |live: &Live, value: &str| {
            let mut batch = live.batch();
            batch.insert(live.generation.keys(), "key", value);
            batch.commit().expect("it is written");
        };
        write(&live, "value");

        let current = Arc::clone(&live.current);
        let now = || Arc::clone(&current.read().expect("no reader panics"));
        let holds = |keyspaces: &Keyspaces| {
            let held = keyspaces.keys.get("key").expect("it can be read");
            assert_eq!(held.as_deref(), Some(&b"value"[..]));
        };
        let mut reopener = Reopener::default();
        reopener.begin();
        let files = |keyspaces: &Keyspaces| -> usize {
            keyspaces.keys.levels().iter().map(|level| level.files).sum()
        };
        let failed = now();
        for _ in 0..3 {
            assert!(matches!(reopener.attempt(&mut live), Reopened::NotYet));
            assert!(!Arc::ptr_eq(&failed, &now()));
            assert_eq!(files(&now()), 0);
            holds(&failed);
            holds(&now());
        }
        let standby = now();
        drop(failed);
        assert!(matches!(reopener.attempt(&mut live), Reopened::Now));
        assert_eq!(files(&now()), 1);
        holds(&standby);
        holds(&now());
        assert!(!reopener.is_released());
        drop(standby);
        assert!(reopener.is_released());

        write(&live, "another");
        let lock = fs::symlink_metadata(data.path().join(LOCK)).expect("it is there");
        assert!(!held::is_open_to_others(&lock));
        assert!(check(&data, true).is_ok());
    }

    #[test]
    fn tries_come_less_often_the_more_have_failed() {
        let mut reopener = Reopener::default();
        reopener.begin();
        assert_eq!(reopener.pause, PAUSE_MIN);
        for times in [2, 4, 8, 16, 32] {
            reopener.postpone();
            assert_eq!(reopener.pause, times * PAUSE_MIN);
        }
        for _ in 0..3 {
            reopener.postpone();
            assert_eq!(reopener.pause, PAUSE_MAX);
        }
        // It was opened and has failed again.
        reopener.opened_at = Some(Instant::now());
        reopener.begin();
        assert_eq!(reopener.pause, PAUSE_MAX);
    }
}
