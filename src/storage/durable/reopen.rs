//! Opens the database anew after it has failed, without a restart.
//!
//! The database takes any error of its own threads for the end: one file that
//! cannot be opened while it writes a memtable, and it takes no more writes. But
//! all that was acknowledged is in its journal, which is whole. So it is closed
//! and opened from there as at a start, while readers go on:
//!
//! ```text
//!           the database                  readers use
//! failed    its threads are ended         what it has left
//! standby   one that has no threads:      the standby
//!           what is in the journal is
//!           written to files
//! open      a new one takes writes        the new one
//! ```
//!
//! For a moment two databases have the same files. What the failed one let go
//! of it removes later, by a number that could have been given to a new file by
//! then: so nothing is written before the last of its handles is gone. Of a
//! standby all files are the newest, and new ones have higher numbers; a reader
//! may find one of them gone, and looks again in the new database.
//!
//! A failure of the journal itself is final, for nobody knows then what it
//! holds, and so is that of a sync: [`commit`], [`persist`] and [`sync`] mark
//! those.

use super::directory::Data;
use super::generation::{Generation, Keyspaces};
use super::journal::Stamp;
use super::open_error::OpenError;
use super::{directory, held, inventory, journal};
use fjall::{AbstractTree as _, Database, OwnedWriteBatch as WriteBatch, PersistMode};
use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long after a failure it is tried first, and at most after a try that has
/// failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A database that fails again within this time is not opened sooner than it
/// was the last time.
const STEADY: Duration = Duration::from_secs(60);

/// The file that the database locks, and what takes its place. The directory is
/// locked as a whole by another one, so nobody else opens this database.
const LOCK: &str = "lock";
const LOCK_UNFINISHED: &str = "lock.new";

/// Commits a batch. Nothing is written to a database that has failed before;
/// any other failure is the journal's.
pub fn commit(batch: WriteBatch) -> fjall::Result<()> {
    batch.commit().map_err(of_the_journal)
}

/// Writes and syncs what is in the journal's buffer. As that is nothing, it
/// tells above all of failures elsewhere.
pub fn persist(database: &Database, mode: PersistMode) -> fjall::Result<()> {
    database.persist(mode).map_err(of_the_journal)
}

/// Makes the names in a folder of the tree last. What they name may be in no
/// journal any more.
pub fn sync(folder: &Path) -> fjall::Result<()> {
    // Windows has no such thing, and opens no folder.
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = File::open(folder)?;
    folder.sync_all().map_err(|err| uncertain("the names of files", err.into()))
}

/// Whether nothing may be written after this before the next start.
pub fn is_final(err: &fjall::Error) -> bool {
    if let fjall::Error::Io(err) = err {
        return err.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Uncertain>);
    }
    // Where the database has panicked, it may hold what is in no journal.
    matches!(err, fjall::Error::Unrecoverable)
}

fn of_the_journal(err: fjall::Error) -> fjall::Error {
    if matches!(err, fjall::Error::Poisoned) {
        return err;
    }
    uncertain("the journal", err)
}

fn uncertain(what: &'static str, source: fjall::Error) -> fjall::Error {
    let kind = if let fjall::Error::Io(err) = &source { err.kind() } else { io::ErrorKind::Other };
    io::Error::new(kind, Uncertain { what, source }).into()
}

/// Something cannot be written or synced, and nobody knows what of it the disk
/// holds.
#[derive(Debug)]
struct Uncertain {
    what: &'static str,
    source: fjall::Error,
}

impl fmt::Display for Uncertain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.source)
    }
}

impl Error for Uncertain {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// The database that takes writes. There is none while it is opened anew, and
/// nothing is written then.
pub struct Live(Option<Database>);

impl Live {
    pub fn new(database: Database) -> Self {
        Self(Some(database))
    }
}

impl Deref for Live {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("nothing is written while there is no database")
    }
}

/// What the committer has of the database, which is put in place of the failed
/// one.
pub struct Place<'a> {
    pub database: &'a mut Live,
    pub generation: &'a mut Generation,
    /// That of the failed one until another takes writes.
    pub inventory: &'a mut inventory::Keeper,
    /// The keyspaces that readers use.
    pub current: &'a RwLock<Arc<Keyspaces>>,
}

/// How a try has ended.
pub enum Tried {
    /// Writes are taken again.
    Opened,
    /// It is to be tried again.
    NotYet,
    /// Something cannot be synced.
    Final(fjall::Error),
}

/// Knows when to open the database anew, and how far that is.
#[derive(Default)]
pub struct Reopener {
    /// When it is tried next, once it has failed.
    next: Option<Instant>,
    pause: Duration,
    failed_at: Option<Instant>,
    opened_at: Option<Instant>,
    standby: Option<Database>,
    /// What readers may still use of databases that were closed.
    retired: Vec<Arc<Keyspaces>>,
    /// Each says whether a database that was closed has no handles any more.
    closed: Vec<Box<dyn Fn() -> bool + Send>>,
}

impl Reopener {
    /// Begins after a failure.
    pub fn begin(&mut self) {
        let now = Instant::now();
        if self.opened_at.is_none_or(|at| at.elapsed() > STEADY) {
            self.pause = PAUSE_MIN;
        }
        (self.failed_at, self.next) = (Some(now), Some(now + self.pause));
    }

    /// How long it has nothing to do.
    pub fn due_in(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Tries again later.
    pub fn postpone(&mut self) {
        self.next = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Tries no more.
    pub fn give_up(&mut self) {
        self.next = None;
    }

    /// Takes the next steps. Nobody else may have the database, and nothing may
    /// be written meanwhile.
    pub fn attempt(&mut self, mut place: Place<'_>) -> Tried {
        let data = Arc::clone(place.inventory.data());
        let steps = AssertUnwindSafe(|| self.take_steps(&mut place));
        let err = match panic::catch_unwind(steps) {
            Ok(Ok(())) => {
                let took = self.failed_at.map_or(0, |at| at.elapsed().as_millis());
                log::info!("the database was opened anew, {took} ms after it had failed");
                // It counts if it fails again soon.
                self.postpone();
                (self.next, self.opened_at) = (None, Some(Instant::now()));
                return Tried::Opened;
            }
            Ok(Err(Trouble::Sync(err))) => {
                self.give_up();
                return Tried::Final(err);
            }
            Ok(Err(Trouble::Open(err))) => Some(err.renamed(data.path(), data.name())),
            Err(_panic) => None,
        };
        match err {
            Some(err) => log::debug!("the database cannot be opened anew yet: {err}"),
            None => log::debug!("the database cannot be opened anew yet: it has panicked"),
        }
        self.postpone();
        Tried::NotYet
    }

    fn take_steps(&mut self, place: &mut Place<'_>) -> Result<(), Trouble> {
        if let Some(failed) = place.database.0.take() {
            // Waits for its threads.
            self.close(failed);
        }
        let standby = match self.standby.take() {
            Some(standby) => standby,
            None => self.open_standby(place)?,
        };
        if !self.has_let_go() {
            self.standby = Some(standby);
            return Err(io::Error::other("it is still being read").into());
        }
        // What was begun and has failed is removed as the next one is opened.
        let opened = flush(&standby, place.generation)
            .map_err(Trouble::of_the_database)
            .and_then(|()| open(place.inventory.data()));
        if let Ok((database, generation, inventory)) = opened {
            self.replace(place, generation);
            *place.inventory = inventory;
            place.database.0 = Some(database);
            self.close(standby);
            return Ok(());
        }
        self.close(standby);
        opened.map(drop)
    }

    /// Has readers use a database that has no threads.
    fn open_standby(&mut self, place: &mut Place<'_>) -> Result<Database, Trouble> {
        let data = place.inventory.data();
        sync_journals(data.path())?;
        replace_lock(data.path())?;
        super::check(data, true)?;
        let standby = super::open_standby(data.path())?;
        // Nothing is written that would have its stamp.
        let generation = super::generation_in_use(&standby, data, Stamp::new())?;
        self.replace(place, generation);
        Ok(standby)
    }

    /// Has readers, and what is decided, use another generation.
    fn replace(&mut self, place: &mut Place<'_>, generation: Generation) {
        let mut current = place.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::clone(generation.keyspaces());
        drop(current);
        let old = mem::replace(place.generation, generation);
        self.retired.push(Arc::clone(old.keyspaces()));
    }

    fn close(&mut self, database: Database) {
        // Every handle has it.
        let handles = Arc::downgrade(&database.supervisor.keyspaces);
        self.closed.push(Box::new(move || handles.strong_count() == 0));
        drop(database);
    }

    /// Whether all handles of databases that were closed are gone. The last one
    /// is never a reader's, who would have to wait for files to be closed.
    pub fn has_let_go(&mut self) -> bool {
        self.retired.retain(|keyspaces| Arc::strong_count(keyspaces) > 1);
        self.closed.retain(|is_gone| !is_gone());
        self.retired.is_empty() && self.closed.is_empty()
    }
}

/// Why the database cannot be opened anew.
enum Trouble {
    /// Something cannot be synced.
    Sync(fjall::Error),
    Open(OpenError),
}

impl Trouble {
    fn of_the_database(err: fjall::Error) -> Self {
        if is_final(&err) { Self::Sync(err) } else { Self::Open(super::database_error(err)) }
    }
}

impl From<OpenError> for Trouble {
    fn from(err: OpenError) -> Self {
        Self::Open(err)
    }
}

impl From<io::Error> for Trouble {
    fn from(err: io::Error) -> Self {
        OpenError::io("a file is not at hand", err).into()
    }
}

/// Syncs the journals and their names once more, as it may have been this in
/// which a thread of the database has failed. The batches themselves were
/// synced before they were acknowledged.
fn sync_journals(data: &Path) -> Result<(), Trouble> {
    for journal in journal::journals(data)? {
        File::options()
            .write(true)
            .open(journal)?
            .sync_all()
            .map_err(|err| Trouble::Sync(err.into()))?;
    }
    Ok(directory::sync(data)?)
}

/// Lets another database be opened while one is still there to be read.
fn replace_lock(data: &Path) -> io::Result<()> {
    let unfinished = data.join(LOCK_UNFINISHED);
    held::create_anew(&unfinished)?;
    fs::rename(unfinished, data.join(LOCK))
}

/// Writes all memtables to files, as the threads of the database would, whose
/// names last before another one does without the journal.
fn flush(database: &Database, generation: &mut Generation) -> fjall::Result<()> {
    for keyspace in generation.keyspaces().each() {
        let tree = &keyspace.tree;
        tree.rotate_memtable();
        let read = database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
        tree.flush(&tree.get_flush_lock(), read)?;
    }
    generation.sync_blobs()
}

/// Opens the database as at a start, after which the directory has its format.
fn open(data: &Arc<Data>) -> Result<(Database, Generation, inventory::Keeper), Trouble> {
    replace_lock(data.path())?;
    Ok(super::recover(data, true, || Ok(()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::durable::{found, recover};
    use directory::Directory;

    #[test]
    fn nothing_is_written_before_the_last_handle_of_the_failed_one_is_gone() {
        let place = tempfile::tempdir().expect("a directory");
        let mut directory = Directory::take(place.path()).expect("it is free");
        directory.found(found).expect("it is made");
        let data = Arc::new(directory.data().expect("it is there"));
        let opened = recover(&data, true, || directory.finish());
        let (database, mut generation, mut inventory) =
            opened.unwrap_or_else(|err| panic!("{err}"));
        let mut batch = generation.batch(&database);
        batch.insert(generation.keys(), "key", "value");
        commit(batch).expect("it is written");

        let current = RwLock::new(Arc::clone(generation.keyspaces()));
        let now = || Arc::clone(&current.read().expect("no reader panics"));
        let holds = |keyspaces: &Keyspaces| {
            let held = keyspaces.keys.get("key").expect("it can be read");
            assert_eq!(held.as_deref(), Some(&b"value"[..]));
        };
        let mut database = Live::new(database);
        let mut reopener = Reopener::default();
        reopener.begin();
        let mut attempt = || {
            let (database, generation) = (&mut database, &mut generation);
            let inventory = &mut inventory;
            reopener.attempt(Place { database, generation, inventory, current: &current })
        };
        let failed = now();
        for _ in 0..3 {
            assert!(matches!(attempt(), Tried::NotYet));
            assert!(!Arc::ptr_eq(&failed, &now()));
            assert_eq!(now().keys.table_count(), 0);
            holds(&failed);
            holds(&now());
        }
        let standby = now();
        drop(failed);
        assert!(matches!(attempt(), Tried::Opened));
        assert_eq!(now().keys.table_count(), 1);
        holds(&standby);
        holds(&now());
        assert!(!reopener.has_let_go());
        drop(standby);
        assert!(reopener.has_let_go());

        let mut batch = generation.batch(&database);
        batch.insert(generation.keys(), "key", "another");
        commit(batch).expect("it takes writes");
        let lock = fs::symlink_metadata(data.path().join(LOCK)).expect("it is there");
        assert!(!held::is_open_to_others(&lock));
        assert!(crate::storage::durable::check(&data, true).is_ok());
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

    #[test]
    fn a_failure_of_the_journal_is_final_and_no_other() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let err = of_the_journal(full().into());
        assert!(is_final(&err) && is_final(&of_the_journal(fjall::Error::InvalidTrailer)));
        let fjall::Error::Io(err) = err else { panic!("{err}") };
        assert_eq!(err.kind(), io::ErrorKind::StorageFull);
        assert!(is_final(&fjall::Error::Unrecoverable));
        let others =
            [full().into(), fjall::Error::Poisoned, of_the_journal(fjall::Error::Poisoned)];
        assert!(!others.iter().any(is_final));
    }
}
