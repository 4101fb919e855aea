//! The directory that a durable store owns, before any of its data is read.
//!
//! ```text
//! DIR/lock      held by the process that has the store open
//! DIR/format    "little-key-value 3": the program, and the version of its format
//! DIR/data/     the database, and its inventory
//! ```
//!
//! A new one is made in this order: `format.new`, `data.new`, then `data` of
//! the one and `format` of the other. Each step is complete, and synced, before
//! the next begins, so a directory that was left half made is finished by the
//! next start; one that has a format and no data has lost it.
//!
//! Everything in it belongs to this user and is no link, so nobody else decides on
//! the files that are read or written. Where the system allows it, files are named
//! from descriptors that are held, so that even a directory that was moved is the one
//! that is written to, and never another in its place.

use super::held::{self, Held, Identity};
use super::open_error::OpenError;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The version of the format that is written, and the highest that is read. The
/// first one had all records with their keys, the second one had no inventory;
/// nothing of them has to be changed.
const FORMAT_VERSION: u64 = 3;

/// The first one with an inventory, and with a format that is written last.
const INVENTORY_VERSION: u64 = 3;

const FORMAT_NAME: &str = "little-key-value";

/// The longest text that tells a version.
const FORMAT_BYTES_MAX: u64 = 64;

/// The most files of others that are logged by name.
const NAMES_TOLD_MAX: usize = 5;

const LOCK: &str = "lock";
const FORMAT: &str = "format";
const FORMAT_UNFINISHED: &str = "format.new";
const DATA: &str = "data";
const DATA_UNFINISHED: &str = "data.new";

/// A directory that this process owns for as long as the value lives.
pub struct Directory {
    path: PathBuf,
    folder: Held,
    /// Has the lock until this is dropped.
    lock: File,
    state: State,
    /// The names of others' files in it, where there was no store.
    others: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no database, but perhaps remains of the making of one.
    New,
    /// All but the format is there.
    Unnamed,
    Whole {
        version: u64,
    },
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A process that is being started has this descriptor too, until its program
        // runs, and would have the lock as long.
        self.lock.unlock().ok();
    }
}

impl Directory {
    /// Takes the directory at `path`; makes it, for its owner alone, if there is none.
    /// Refuses one that another process has, one of a later version, one where other
    /// files have names that the store needs, and one with files of another user.
    /// Everything else in it is left alone, and nothing but an empty lock comes into
    /// it.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        make(path).map_err(|err| {
            if matches!(err.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) {
                OpenError::NotADirectory
            } else {
                OpenError::io("it cannot be made", err)
            }
        })?;
        let path = path.canonicalize().map_err(|err| OpenError::io("it cannot be found", err))?;
        let folder = Held::open(&path).map_err(|err| OpenError::io("it cannot be opened", err))?;
        held::check(&path, &folder.metadata, true)?;
        // Looked at before anything is changed, and again once nobody else may.
        let lock = || {
            look_over(&folder.path)?;
            let lock = held::open_lock(&folder.path.join(LOCK)).map_err(unwritable)?;
            lock.try_lock().map_err(|err| match err {
                TryLockError::WouldBlock => OpenError::InUse,
                TryLockError::Error(err) => OpenError::io("it cannot be locked", err),
            })?;
            Ok((lock, look_over(&folder.path)?))
        };
        let (lock, (state, others)) =
            lock().map_err(|err: OpenError| err.renamed(&folder.path, &path))?;
        Ok(Self { path, folder, lock, state, others })
    }

    pub fn is_new(&self) -> bool {
        self.state == State::New
    }

    pub fn has_inventory(&self) -> bool {
        match self.state {
            State::New | State::Unnamed => true,
            State::Whole { version } => version >= INVENTORY_VERSION,
        }
    }

    /// Makes the database by `build` in a place of its own, then puts it where
    /// it belongs, in one step.
    pub fn found(
        &mut self,
        build: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let folder = &self.folder.path;
        let unfinished = folder.join(DATA_UNFINISHED);
        let replace = || match fs::remove_dir_all(&unfinished) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            Ok(()) | Err(_) => Ok(()),
        };
        replace().map_err(|err| OpenError::io("an unfinished start cannot be removed", err))?;
        write_format(folder)
            .and_then(|()| held::private_folders().create(&unfinished))
            .map_err(unwritable)?;
        build(&unfinished)?;
        sync(&unfinished)
            .and_then(|()| fs::rename(&unfinished, folder.join(DATA)))
            .and_then(|()| sync(folder))
            .map_err(|err| OpenError::io("its data cannot be put in place", err))?;
        self.state = State::Unnamed;
        Ok(())
    }

    /// Takes the permissions of others away, and writes the format if there is none,
    /// or that of an earlier version, which would not understand the data from now on.
    pub fn finish(&self) -> Result<(), OpenError> {
        let folder = &self.folder.path;
        held::close_to_others(&[folder.join(LOCK)]);
        if (self.state == State::Whole { version: FORMAT_VERSION }) {
            held::close_to_others(&[folder.join(FORMAT)]);
            return Ok(());
        }
        let unfinished = folder.join(FORMAT_UNFINISHED);
        // Until the data has a format, nothing but this shows whose it is.
        let is_written = self.state == State::Unnamed
            && read_format(&unfinished).is_ok_and(|version| version == FORMAT_VERSION);
        let written = if is_written { Ok(()) } else { write_format(folder) };
        written
            .and_then(|()| fs::rename(&unfinished, folder.join(FORMAT)))
            .and_then(|()| sync(folder))
            .map_err(unwritable)?;
        tell_of(&self.others, &self.path);
        Ok(())
    }

    /// The folder of the database, of any contents.
    pub fn data(&self) -> Result<Data, OpenError> {
        let unreadable = |err| OpenError::io("its data cannot be read", err);
        let folder = Held::open(&self.folder.path.join(DATA)).map_err(unreadable)?;
        let lock = Identity::of(&self.lock.metadata().map_err(unreadable)?);
        let (name, lock_path) = (self.path.join(DATA), self.path.join(LOCK));
        Ok(Data { name, lock_path, folder, lock })
    }
}

/// The folder of the database, of a directory that is held.
pub struct Data {
    /// The path that people know.
    pub name: PathBuf,
    lock_path: PathBuf,
    folder: Held,
    lock: Identity,
}

impl Data {
    /// The path that its files are reached by, as long as this lives.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// Returns true if its files are reached wherever the directory is moved.
    pub fn goes_along(&self) -> bool {
        self.name != self.folder.path
    }

    /// Returns true if nobody has moved or removed the directory, or begun another there.
    pub fn is_where_it_was(&self) -> bool {
        Identity::of(&self.folder.metadata).is_at(&self.name)
    }

    /// The same, and for the lock beside it, which keeps others away.
    pub fn is_in_place(&self) -> bool {
        self.is_where_it_was() && self.lock.is_at(&self.lock_path)
    }
}

/// Makes the directory `path` and those above it, and syncs their names.
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
    held::private_folders().create(path)?;
    sync(parent)
}

/// Makes the names in a directory last.
pub fn sync(directory: &Path) -> io::Result<()> {
    // Windows has no such thing, and opens no directory.
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn unreadable(err: io::Error) -> OpenError {
    OpenError::io("it cannot be read", err)
}

fn unwritable(err: io::Error) -> OpenError {
    OpenError::io("it cannot be written", err)
}

/// The state of the directory `folder`, and the names of others' files where no store
/// is yet. Refuses files of others under the store's own names.
fn look_over(folder: &Path) -> Result<(State, Vec<String>), OpenError> {
    match look_once(folder) {
        // Another process may have made one meanwhile.
        Err(OpenError::Foreign { .. }) if folder.join(FORMAT).exists() => look_once(folder),
        looked => looked,
    }
}

fn look_once(folder: &Path) -> Result<(State, Vec<String>), OpenError> {
    const OURS: [&str; 5] = [LOCK, FORMAT, FORMAT_UNFINISHED, DATA, DATA_UNFINISHED];
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if OURS.contains(&name.as_str()) { ours.push(name) } else { others.push(name) }
    }
    others.sort();
    let is_there = |name: &str| ours.iter().any(|there| there == name);
    let check = || {
        ours.iter().try_for_each(|name| {
            let is_folder = [DATA, DATA_UNFINISHED].contains(&name.as_str());
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(&path).map_err(unreadable)?;
            held::check(&path, &metadata, is_folder)
        })
    };
    if !is_there(FORMAT) {
        let unfinished = folder.join(FORMAT_UNFINISHED);
        let is_foreign = |name: &str| match name {
            LOCK => holds_at_most(&folder.join(LOCK), <[u8]>::is_empty).map(|is_ours| !is_ours),
            FORMAT_UNFINISHED => {
                holds_at_most(&unfinished, is_start_of_format).map(|is_ours| !is_ours)
            }
            // The format is whole by then, if under another name.
            _ => Ok(!is_there(FORMAT_UNFINISHED) || read_format(&unfinished).is_err()),
        };
        for name in &ours {
            if is_foreign(name).map_err(unreadable)? {
                return Err(OpenError::Foreign { name: name.clone() });
            }
        }
        check()?;
        return Ok((if is_there(DATA) { State::Unnamed } else { State::New }, others));
    }
    check()?;
    let version = read_format(&folder.join(FORMAT))?;
    // Files of others were told of when the store was made.
    if is_there(DATA) {
        return Ok((State::Whole { version }, Vec::new()));
    }
    // Earlier programs wrote the format first, and then the data.
    if version < INVENTORY_VERSION && is_there(DATA_UNFINISHED) {
        return Ok((State::New, Vec::new()));
    }
    Err(OpenError::Missing { file: folder.join(DATA) })
}

/// Returns true if a path is a file, and no link, with such a short text.
fn holds_at_most(path: &Path, is_right: impl FnOnce(&[u8]) -> bool) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(metadata.is_file() && metadata.len() <= FORMAT_BYTES_MAX && is_right(&fs::read(path)?))
}

/// Returns true if a text is a beginning of one that [`write_format`] writes, in any
/// version. Once power was lost zeros may be in the place of the rest.
fn is_start_of_format(text: &[u8]) -> bool {
    let fixed = format!("{FORMAT_NAME} ").into_bytes();
    let written = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = text.get(..written).unwrap_or_default();
    match text.strip_prefix(&fixed[..]) {
        None => fixed.starts_with(text),
        Some(version) => {
            let digits = version.strip_suffix(b"\n").unwrap_or(version);
            digits.iter().all(u8::is_ascii_digit)
        }
    }
}

/// Logs the first names of others' files in the directory.
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

/// The version of a format; refuses one that is not read.
fn read_format(file: &Path) -> Result<u64, OpenError> {
    let text = fs::read(file).map_err(|err| OpenError::io("its format cannot be read", err))?;
    let text = str::from_utf8(&text).ok().map(str::trim_end);
    let version = text.and_then(|text| text.strip_prefix(FORMAT_NAME)).map(str::trim_start);
    match version.and_then(|version| version.parse().ok()) {
        Some(version @ 1..=FORMAT_VERSION) => Ok(version),
        Some(version) if version > FORMAT_VERSION => Err(OpenError::Later { version }),
        Some(_) | None => Err(OpenError::FormatUnknown),
    }
}

/// Writes the format under the name of an unfinished one.
fn write_format(folder: &Path) -> io::Result<()> {
    let mut file = held::create_anew(&folder.join(FORMAT_UNFINISHED))?;
    writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
    file.sync_all()?;
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_was_begun_is_ours_and_no_other_text() {
        let is_ours = |text: &[u8]| is_start_of_format(text);
        let whole = format!("{FORMAT_NAME} {FORMAT_VERSION}\n").into_bytes();
        for bytes in 0..=whole.len() {
            let mut text = whole.clone();
            text.truncate(bytes);
            assert!(is_ours(&text), "{bytes} bytes");
            text.resize(whole.len(), 0);
            assert!(is_ours(&text), "{bytes} bytes, and zeros");
        }
        for text in ["x", "little-key-value x", "\0little", "little-key-value 3\nmore"] {
            assert!(!is_ours(text.as_bytes()), "{text:?}");
        }
    }

    /// A process that is killed meanwhile would leave data that seems to be of others.
    #[test]
    fn the_format_of_new_data_is_not_written_twice() {
        let folder = tempfile::tempdir().expect("a directory");
        let mut directory = Directory::take(folder.path()).expect("nobody has it");
        directory.found(|_| Ok(())).expect("it is made");
        let unfinished = File::open(folder.path().join(FORMAT_UNFINISHED)).expect("it is there");
        let written = Identity::of(&unfinished.metadata().expect("a file"));
        directory.finish().expect("it is finished");
        assert!(written.is_at(&folder.path().join(FORMAT)));
        drop(directory);
        let again = Directory::take(folder.path()).expect("nobody has it");
        assert_eq!(again.state, State::Whole { version: FORMAT_VERSION });
    }

    #[test]
    fn its_lock_ends_with_it_whoever_has_the_descriptor_too() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = Directory::take(folder.path()).expect("nobody has it");
        let _inherited = directory.lock.try_clone().expect("a descriptor");
        assert!(matches!(Directory::take(folder.path()), Err(OpenError::InUse)));
        drop(directory);
        assert!(Directory::take(folder.path()).is_ok());
    }
}
