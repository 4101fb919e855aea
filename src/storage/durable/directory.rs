//! The directory that a durable store owns, before any of its data is read.
//!
//! ```text
//! DIR/lock      held by the process that has the store open
//! DIR/format    "little-key-value 2": what wrote the rest, and how
//! DIR/data/     the database
//! ```
//!
//! Each step of making one is complete, and synced, before the next begins,
//! so a directory that was left half made is finished by the next start.

use super::open_error::OpenError;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The version of the format that is written, and the highest that is read. The
/// first one had all records with their keys; nothing of it has to be changed.
const FORMAT_VERSION: u64 = 2;

const FORMAT_NAME: &str = "little-key-value";

const LOCK: &str = "lock";
const FORMAT: &str = "format";
const FORMAT_UNFINISHED: &str = "format.new";
const DATA: &str = "data";
const DATA_UNFINISHED: &str = "data.new";

/// A directory that this process owns for as long as the value lives.
pub(super) struct Directory {
    path: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl Directory {
    /// Takes the directory at `path`; makes it, for its owner alone, if there
    /// is none. Refuses one that another process has, one of a later version,
    /// and one that holds other things.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        make(path).map_err(|err| {
            if matches!(err.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) {
                OpenError::NotADirectory
            } else {
                OpenError::io("it cannot be made", err)
            }
        })?;
        let path = path.canonicalize().map_err(|err| OpenError::io("it cannot be found", err))?;
        if !is_ours(&path)? {
            return Err(OpenError::Foreign);
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(|err| OpenError::io("it cannot be written", err))?;
        lock.try_lock().map_err(|err| match err {
            TryLockError::WouldBlock => OpenError::InUse,
            TryLockError::Error(err) => OpenError::io("it cannot be locked", err),
        })?;
        check_format(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the database is.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Whether there is no database yet.
    pub(super) fn is_new(&self) -> bool {
        !self.data().exists()
    }

    /// Makes the database by `build` in a place of its own, then puts it where
    /// it belongs, in one step.
    pub(super) fn found(
        &self,
        build: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let unfinished = self.path.join(DATA_UNFINISHED);
        let replace = || match fs::remove_dir_all(&unfinished) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            Ok(()) | Err(_) => Ok(()),
        };
        replace().map_err(|err| OpenError::io("an unfinished start cannot be removed", err))?;
        build(&unfinished)?;
        fs::rename(&unfinished, self.data())
            .and_then(|()| sync(&self.path))
            .map_err(|err| OpenError::io("its data cannot be put in place", err))
    }
}

/// Makes the directory `path` and those above it, and syncs what names them.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(ErrorKind::NotADirectory.into()),
    };
    make(parent)?;
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    sync(parent)
}

/// Makes the names in a directory last.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    // Windows has no such thing, and opens no directory.
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Whether a directory holds a store, or nothing but what a start of one has
/// left.
fn is_ours(path: &Path) -> Result<bool, OpenError> {
    let unreadable = |err| OpenError::io("it cannot be read", err);
    if path.join(FORMAT).exists() {
        return Ok(true);
    }
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if name != LOCK && name != FORMAT_UNFINISHED {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads which version wrote the directory; writes ours if none has, or an
/// earlier one, which would not understand what is written from now on.
fn check_format(path: &Path) -> Result<(), OpenError> {
    let write = || write_format(path).map_err(|err| OpenError::io("it cannot be written", err));
    let text = match fs::read_to_string(path.join(FORMAT)) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => return write(),
        Err(err) => return Err(OpenError::io("its format cannot be read", err)),
    };
    let version = text.trim_end().strip_prefix(FORMAT_NAME).map(str::trim_start);
    match version.and_then(|version| version.parse().ok()) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(1..FORMAT_VERSION) => write(),
        Some(version) if version > FORMAT_VERSION => Err(OpenError::Later { version }),
        Some(_) | None => Err(OpenError::FormatUnknown),
    }
}

fn write_format(path: &Path) -> io::Result<()> {
    let unfinished = path.join(FORMAT_UNFINISHED);
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&unfinished, path.join(FORMAT))?;
    sync(path)
}
