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

/// The longest text that tells a version.
const FORMAT_BYTES_MAX: u64 = 64;

/// How many things of others are told by name.
const NAMES_TOLD_MAX: usize = 5;

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
    /// and one where something else has a name that the store needs. Whatever
    /// else is in it is left alone.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        make(path).map_err(|err| {
            if matches!(err.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) {
                OpenError::NotADirectory
            } else {
                OpenError::io("it cannot be made", err)
            }
        })?;
        let path = path.canonicalize().map_err(|err| OpenError::io("it cannot be found", err))?;
        let others = others(&path)?;
        // Before anything is made: what is not understood is left as it is.
        version(&path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(|err| OpenError::io("it cannot be written", err))?;
        lock.try_lock().map_err(|err| match err {
            TryLockError::WouldBlock => OpenError::InUse,
            TryLockError::Error(err) => OpenError::io("it cannot be locked", err),
        })?;
        // An earlier version would not understand what is written from now on.
        if version(&path)? != Some(FORMAT_VERSION) {
            write_format(&path).map_err(|err| OpenError::io("it cannot be written", err))?;
            tell_of(&others, &path);
        }
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

/// What a directory holds beside a store, or where one is to be made. Empty for
/// a store that is there already: whose the rest is was clear when it was made.
/// Refuses what stands where the store would put something of its own.
fn others(path: &Path) -> Result<Vec<String>, OpenError> {
    let is_a_store = || path.join(FORMAT).exists();
    if is_a_store() {
        return Ok(Vec::new());
    }
    let looked = look_over(path);
    // Whatever was seen, another process may have made one meanwhile.
    if is_a_store() { Ok(Vec::new()) } else { looked }
}

/// The names in a directory without a store, but for what a start that was cut
/// short has left.
fn look_over(path: &Path) -> Result<Vec<String>, OpenError> {
    let unreadable = |err| OpenError::io("it cannot be read", err);
    let mut others = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let is_ours = match entry.file_name().to_str() {
            Some(LOCK) => holds_at_most(&entry.path(), <[u8]>::is_empty),
            Some(FORMAT_UNFINISHED) => holds_at_most(&entry.path(), is_start_of_format),
            Some(FORMAT | DATA | DATA_UNFINISHED) => Ok(false),
            Some(_) | None => {
                others.push(entry.file_name().to_string_lossy().into_owned());
                continue;
            }
        };
        if !is_ours.map_err(unreadable)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            return Err(OpenError::Foreign { name });
        }
    }
    others.sort();
    Ok(others)
}

/// Whether a path is a file, and no link to one, that holds such a short text.
fn holds_at_most(path: &Path, is_right: impl FnOnce(&[u8]) -> bool) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(metadata.is_file() && metadata.len() <= FORMAT_BYTES_MAX && is_right(&fs::read(path)?))
}

/// Whether a text is what [`write_format`] writes, or the beginning of it, in
/// any version.
fn is_start_of_format(text: &[u8]) -> bool {
    let fixed = format!("{FORMAT_NAME} ").into_bytes();
    match text.strip_prefix(&fixed[..]) {
        None => fixed.starts_with(text),
        Some(version) => {
            let digits = version.strip_suffix(b"\n").unwrap_or(version);
            digits.iter().all(u8::is_ascii_digit)
        }
    }
}

/// Tells of what others have in the directory, by its first names.
fn tell_of(others: &[String], path: &Path) {
    if others.is_empty() {
        return;
    }
    let names = others.iter().take(NAMES_TOLD_MAX).map(|name| format!("{name:?}"));
    let names = names.collect::<Vec<_>>().join(", ");
    let more = others.len().saturating_sub(NAMES_TOLD_MAX);
    let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let path = path.display();
    log::info!("{path} has other things in it, which are left alone: {names}{and_more}");
}

/// The version of the store in a directory, which is ours or an earlier one;
/// `None` if there is none yet.
fn version(path: &Path) -> Result<Option<u64>, OpenError> {
    let text = match fs::read_to_string(path.join(FORMAT)) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(OpenError::io("its format cannot be read", err)),
    };
    let version = text.trim_end().strip_prefix(FORMAT_NAME).map(str::trim_start);
    match version.and_then(|version| version.parse().ok()) {
        Some(version @ 1..=FORMAT_VERSION) => Ok(Some(version)),
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
