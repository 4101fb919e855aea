//! The engine that keeps everything on disk: an LSM tree with a journal.
//!
//! A write is handed to the one committer and comes back once it is synced;
//! a read looks into the tree and waits for nobody. `directory` says whose
//! the files are, `verify` and `journal` whether a crash or a bad disk has
//! touched them, `inventory` which there have to be, `expiry` what is to be
//! swept away.
//!
//! All keys live in one keyspace of the database, and what expires in another;
//! the two are called a generation: clearing starts an empty one and drops the
//! old.

mod batch;
mod committer;
mod directory;
mod expiry;
mod generation;
mod held;
mod inventory;
mod journal;
mod leftovers;
mod open_error;
mod patience;
mod pins;
mod reopen;
mod room;
#[cfg(all(target_os = "linux", not(portable)))]
mod runway;
#[cfg(any(portable, not(target_os = "linux")))]
#[path = "runway_portable.rs"]
mod runway;
mod status;
mod tidying;
mod verify;

use super::pool::Pool;
use super::record;
use super::{Done, Effect, Entry, Error, Key, Op, Outage, Outcome, Storage, Time};
use crate::platform::descriptors;
use batch::Action;
use bytes::Bytes;
use committer::{Committer, Message};
use crossbeam_channel::{SendError, Sender};
use directory::{Data, Directory};
use fjall::{AbstractTree as _, Database, DatabaseBuilder};
use generation::{Generation, Keyspaces};
use inventory::Inventory;
use journal::Stamp;
pub use open_error::OpenError;
use pins::Pins;
use status::Status;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use verify::Verified;

/// What is kept of the disk in memory, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// How many files are kept open beside the journal at most, and one part in so
/// many of the descriptors that the system allows.
const FILES_MAX: u64 = 64;
const FILES_SHARE: u64 = 16;

/// The database takes no fewer.
const FILES_MIN: u64 = 10;

/// How many descriptors the database needs beside those: journals, the files
/// that are written and read while trees are put in order, directories.
const DESCRIPTORS_BESIDE: u64 = 64;
const DESCRIPTORS_BESIDE_SHARE: u64 = 8;

/// The same of a database that only stands in for another.
const STANDBY_CACHE_BYTES: u64 = 4 << 20;
const STANDBY_FILES_MAX: usize = 8;

/// How large the journals grow until what they hold is written elsewhere.
const JOURNALS_BYTES_MAX: u64 = 192 << 20;

/// How often a record is looked for that is not where it is said to be, as long
/// as the same is said.
const LOOKS_MAX: u32 = 8;

/// How many threads read what is not in memory, for each processor.
const READERS_EACH: usize = 2;

/// A larger value takes longer to check than others may wait.
const READ_AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// The engine on disk. An acknowledged write is synced.
pub struct Durable {
    reader: Reader,
    /// For reads that may wait for the disk.
    readers: Pool,
    status: Arc<Status>,
    writes: Sender<Message>,
    committer: Mutex<Option<JoinHandle<Result<(), Error>>>>,
    /// Kept until the last thread is done with the files.
    _data: Arc<Data>,
    _directory: Directory,
}

impl Durable {
    /// Opens the store in the directory `path`; makes both if there is none.
    /// Reads the journal, which may take seconds.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let mut directory = Directory::take(path)?;
        if directory.is_new() {
            directory.found(found)?;
        }
        let data = Arc::new(directory.data()?);
        let (database, generation, inventory) =
            recover(&data, directory.has_inventory(), || directory.finish())
                .map_err(|err| err.renamed(data.path(), data.name()))?;
        if let Some(reading) = expiry::clocks_noted(generation.keys()).map_err(database_error)? {
            Time::go_on_from(reading);
        }

        let current = Arc::new(RwLock::new(Arc::clone(generation.keyspaces())));
        let (pins, status) = (Arc::<Pins>::default(), Arc::<Status>::default());
        let (writes, queue) = crossbeam_channel::unbounded();
        let committer = Committer::new(
            database,
            generation,
            Arc::clone(&current),
            Arc::clone(&pins),
            Arc::clone(&status),
            inventory,
            queue,
        );
        let committer = thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run())
            .map_err(|err| OpenError::io("no thread can be started", err))?;
        let committer = Mutex::new(Some(committer));
        let reader = Reader { current, pins };
        let readers = start_readers(&reader)?;
        Ok(Self { reader, readers, status, writes, committer, _data: data, _directory: directory })
    }

    /// How many descriptors a store may have open at most: fewer where the
    /// system allows few.
    pub fn descriptors_max() -> u64 {
        let limit = descriptors::limit();
        files_max(limit) + (limit / DESCRIPTORS_BESIDE_SHARE).min(DESCRIPTORS_BESIDE)
    }

    /// Hands a message to the committer.
    fn tell(&self, message: Message) {
        let closed = Err(Error::Unavailable(Outage::Closed));
        match self.writes.send(message) {
            Err(SendError(Message::Write(_, _, done, _) | Message::Clear(done))) => done(closed),
            Ok(()) | Err(SendError(Message::Close)) => {}
        }
    }
}

/// The two ways to read: in memory, and wherever the entry is.
#[derive(Clone)]
struct Reader {
    /// The keyspaces that are in use.
    current: Arc<RwLock<Arc<Keyspaces>>>,
    pins: Arc<Pins>,
}

impl Reader {
    /// The keyspaces that are in use.
    fn keyspaces(&self) -> Arc<Keyspaces> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is held under `key` in these keyspaces.
    fn entry(&self, keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
        let mut found = entry_in(keyspaces, key)?;
        while let Some(entry) = &found
            && !self.pins.lives(key, entry)
        {
            // It has expired, unless a change that was decided before has been
            // committed since it was found, to other keyspaces perhaps.
            let expiry = entry.expiry();
            found = entry_in(&self.keyspaces(), key)?.filter(|entry| entry.expiry() != expiry);
        }
        Ok(found)
    }

    /// The entry under `key`. Blocks as long as the disk does.
    fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        loop {
            let keyspaces = self.keyspaces();
            let found = self.entry(&keyspaces, key);
            // A file may be gone if the database was opened anew meanwhile.
            if found.is_ok() || Arc::ptr_eq(&keyspaces, &self.keyspaces()) {
                return found;
            }
        }
    }

    /// The entry under `key` if a look in the active memtable shows it: written
    /// last, small, without an expiry, for that needs another look. Never blocks.
    fn get_in_memory(&self, key: &Key) -> Option<Entry> {
        let memtable = self.keyspaces().keys.tree.active_memtable();
        let found = memtable.get(key.as_str().as_bytes(), u64::MAX)?;
        if found.is_tombstone() || found.value.len() > READ_AT_ONCE_BYTES_MAX {
            return None;
        }
        record::decode(found.value.into()).ok().filter(|entry| entry.expiry().is_none())
    }
}

/// Starts the threads that read from the disk.
fn start_readers(reader: &Reader) -> Result<Pool, OpenError> {
    let reader = reader.clone();
    let perform = move |op| match op {
        Op::Get(key) => reader.get(&key).map(Effect::Found),
        Op::Set(..) | Op::Delete(_) | Op::Update(..) | Op::Clear => {
            unreachable!("writes are the committer's")
        }
    };
    let threads = READERS_EACH * thread::available_parallelism().map_or(1, usize::from);
    Pool::start("reader", threads, perform)
        .map_err(|err| OpenError::io("no thread can be started", err))
}

/// Makes the database of a new store in the folder `data`.
fn found(data: &Path) -> Result<(), OpenError> {
    let stamp = Stamp::new();
    let database = open_database(data)?;
    let generation = Generation::begin(&database, data, stamp, 0).map_err(database_error)?;
    let inventory = Inventory::new(stamp, generation.ids(), &[]);
    inventory.write(data).map_err(unlistable)
}

/// Checks the database in its folder before it is opened, at a start and where
/// it is opened anew. Until all of it was found good nothing is changed; then
/// what a crash has left unfinished is cut off.
fn check(data: &Data, has_inventory: bool) -> Result<Verified, OpenError> {
    let mut verified = verify::verify(data.path(), has_inventory)?;
    if let Some((journal, at)) = verified.journals.cut()? {
        let name = journal.file_name().unwrap_or_default();
        let journal = data.name().join(name);
        log::warn!("{}: an unfinished write was cut off at byte {at}", journal.display());
    }
    held::close_to_others(&verified.open_to_others);
    Ok(verified)
}

/// Checks the database in its folder, then opens it to be written to. Calls
/// `finish` once the inventory tells of it.
fn recover(
    data: &Arc<Data>,
    has_inventory: bool,
    finish: impl FnOnce() -> Result<(), OpenError>,
) -> Result<(Database, Generation, inventory::Keeper), OpenError> {
    let verified = check(data, has_inventory)?;
    let stamp = Stamp::new();
    let database = open_database(data.path())?;
    let generation = generation_in_use(&database, data, stamp)?;
    // Before anything is written that it has to tell of, or removed that the one
    // before tells of.
    let inventory = Inventory::new(stamp, generation.ids(), &verified.journals.all);
    inventory.write(data.path()).map_err(unlistable)?;
    finish()?;
    generation.remove_others(&database).map_err(database_error)?;
    Ok((database, generation, inventory::Keeper::new(Arc::clone(data), inventory)))
}

/// The generation in use of an open database. Its batches have the stamp.
fn generation_in_use(
    database: &Database,
    data: &Data,
    stamp: Stamp,
) -> Result<Generation, OpenError> {
    let generation = Generation::newest(database, data.path(), stamp).map_err(database_error)?;
    generation.ok_or(OpenError::Incomplete)
}

fn unlistable(err: io::Error) -> OpenError {
    OpenError::io("its inventory cannot be written", err)
}

fn database_error(err: fjall::Error) -> OpenError {
    OpenError::Database(Box::new(err))
}

/// How many files are kept open of so many descriptors.
fn files_max(limit: u64) -> u64 {
    (limit / FILES_SHARE).clamp(FILES_MIN, FILES_MAX)
}

/// Opens the database, or makes an empty one.
fn open_database(data: &Path) -> Result<Database, OpenError> {
    let builder = Database::builder(data)
        .cache_size(CACHE_BYTES)
        .max_cached_files(usize::try_from(files_max(descriptors::limit())).ok())
        .max_journaling_size(JOURNALS_BYTES_MAX)
        .manual_journal_persist(true);
    open_by(builder)
}

/// Opens the database without threads, to read it while another is there. It
/// writes nothing but what it is told to, and removes files that nothing names.
fn open_standby(data: &Path) -> Result<Database, OpenError> {
    let builder = Database::builder(data)
        .cache_size(STANDBY_CACHE_BYTES)
        .max_cached_files(Some(STANDBY_FILES_MAX))
        .manual_journal_persist(true)
        .worker_threads_unchecked(0);
    open_by(builder)
}

/// The database panics on some kinds of damage.
fn open_by(builder: DatabaseBuilder<Database>) -> Result<Database, OpenError> {
    let opened = panic::catch_unwind(AssertUnwindSafe(|| builder.open()));
    opened.unwrap_or_else(|_panic| Err(fjall::Error::Unrecoverable)).map_err(database_error)
}

impl Storage for Durable {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        let Op::Get(key) = &op else { return Err(op) };
        match self.reader.get_in_memory(key) {
            Some(entry) => Ok(Ok(Effect::Found(Some(entry)))),
            None => Err(op),
        }
    }

    fn submit(&self, op: Op, done: Done) {
        let (key, action) = match op {
            Op::Get(_) => return self.readers.submit(op, done),
            Op::Clear => return self.tell(Message::Clear(done)),
            Op::Set(key, entry) => (key, Action::set(entry)),
            Op::Delete(key) => (key, Action::Put(None)),
            Op::Update(key, change) => (key, Action::Decide(change)),
        };
        self.tell(Message::Write(key, action, done, Instant::now()));
    }

    fn check(&self) -> Result<(), Error> {
        self.status.outage().map_or(Ok(()), |outage| Err(Error::Unavailable(outage)))
    }

    fn hurry(&self) {
        self.status.hurry();
    }

    fn close(&self) -> Result<(), Error> {
        self.hurry();
        // Behind every write that was handed over before.
        self.tell(Message::Close);
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match committer.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(closed)) => closed,
            Some(Err(_panic)) => Err(Error::Unavailable(Outage::DiskFailed)),
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Err(err) = self.close() {
            log::error!("closing the storage: {err}");
        }
    }
}

/// What is held under `key`, expired or not.
fn entry_in(keyspaces: &Keyspaces, key: &Key) -> Result<Option<Entry>, Error> {
    let unreadable = |err| unreadable(key, err);
    let Keyspaces { keys, expiring } = keyspaces;
    let (mut missed, mut tries) = (None, 0);
    while let Some(record) = keys.get(key.as_str()).map_err(unreadable)? {
        let Some(expiry) = record::referred(&record) else {
            return entry_of(key, record.into()).map(Some);
        };
        let found = expiring.get(expiry::index_entry(expiry, key)).map_err(unreadable)?;
        if let Some(record) = found {
            return entry_of(key, record.into()).map(Some);
        }
        // Another has taken its place meanwhile, and the next look finds that.
        tries = if missed == Some(expiry) { tries + 1 } else { 1 };
        if tries == LOOKS_MAX {
            return Err(self::unreadable(key, record::Error::Missing));
        }
        missed = Some(expiry);
    }
    Ok(None)
}

/// The entry of a record that was found under `key`.
fn entry_of(key: &Key, record: Bytes) -> Result<Entry, Error> {
    record::decode(record).map_err(|err| unreadable(key, err))
}

fn unreadable(key: &Key, err: impl std::error::Error + Send + Sync + 'static) -> Error {
    log::error!("{:?} cannot be read: {err}", key.as_str());
    Error::Internal(Arc::new(err))
}

#[cfg(test)]
mod first_version;
#[cfg(test)]
mod tests;
