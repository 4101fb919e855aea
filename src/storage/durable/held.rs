//! Files and folders of this user alone: nothing that is opened is a link, belongs to
//! another user or is open to others, and a folder that is held open is found again
//! wherever it is moved.

use super::open_error::OpenError;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The permissions of others among the bits of a file's mode.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// The identity of a file or folder, which no other has as long as it is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    number: u64,
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;

            Self { device: metadata.dev(), number: metadata.ino() }
        }
        #[cfg(not(unix))]
        {
            let _: &Metadata = metadata;
            Self {}
        }
    }

    /// Returns true if `path` names it, and not by a link.
    pub fn is_at(self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|metadata| Self::of(&metadata) == self)
    }
}

/// A folder that is held open.
pub struct Held {
    /// A path that reaches it as long as it is held, wherever it is moved; if the
    /// system knows none, the one by which it was found.
    pub path: PathBuf,
    /// Its metadata when it was opened.
    pub metadata: Metadata,
    /// Keeps the path, or the identity at least, from becoming another's.
    #[cfg(unix)]
    _file: File,
}

impl Held {
    /// Holds the folder at `path`, if that is one and no link.
    pub fn open(path: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;

            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let file = File::options().read(true).custom_flags(flags).open(path)?;
            let path = path_of(&file).unwrap_or_else(|| path.to_owned());
            Ok(Self { path, metadata: file.metadata()?, _file: file })
        }
        #[cfg(not(unix))]
        Ok(Self { path: path.to_owned(), metadata: fs::metadata(path)? })
    }
}

/// A path to an open folder that goes through its descriptor.
#[cfg(all(target_os = "linux", not(portable)))]
fn path_of(file: &File) -> Option<PathBuf> {
    use crate::platform::descriptors;
    use std::os::fd::AsRawFd as _;

    let path = Path::new(descriptors::LIST).join(file.as_raw_fd().to_string());
    // Where there is no such file system, or it may not be used, this is none.
    let (there, held) = (fs::metadata(&path).ok()?, file.metadata().ok()?);
    (Identity::of(&there) == Identity::of(&held)).then_some(path)
}

#[cfg(all(unix, any(portable, not(target_os = "linux"))))]
fn path_of(_file: &File) -> Option<PathBuf> {
    None
}

/// Refuses anything but a folder, or a file, of this user.
pub fn check(path: &Path, metadata: &Metadata, is_folder: bool) -> Result<(), OpenError> {
    let file = path.to_owned();
    if metadata.is_symlink() {
        return Err(OpenError::Link { file });
    }
    let is_plain = if is_folder { metadata.is_dir() } else { metadata.is_file() };
    if !is_plain {
        return Err(OpenError::Changed { file });
    }
    match owner_of(metadata) {
        Some((owner, user)) if owner != user => Err(OpenError::OfAnotherUser { file, owner, user }),
        Some(_) | None => Ok(()),
    }
}

/// The owner of a file, and the user of this process.
#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it is not known")]
fn owner_of(metadata: &Metadata) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;

    Some((metadata.uid(), rustix::process::geteuid().as_raw()))
}

#[cfg(not(target_os = "linux"))]
fn owner_of(_metadata: &Metadata) -> Option<(u32, u32)> {
    None
}

/// Makes a file, in place of the one at the same path.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != ErrorKind::NotFound => return Err(err),
        Ok(()) | Err(_) => {}
    }
    private_files().create_new(true).write(true).open(path)
}

/// Opens an empty file to lock it, or makes one.
pub fn open_lock(path: &Path) -> io::Result<File> {
    private_files().create(true).truncate(false).write(true).open(path)
}

/// Makes files for their owner alone, and follows no link.
fn private_files() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }
    options
}

/// Makes folders for their owner alone.
pub fn private_folders() -> DirBuilder {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

#[cfg(unix)]
pub fn is_open_to_others(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    metadata.permissions().mode() & OTHERS != 0
}

#[cfg(not(unix))]
pub fn is_open_to_others(_metadata: &Metadata) -> bool {
    false
}

/// Takes the permissions of others away from files and folders, none of which is a
/// link. A file system without permissions is logged.
pub fn close_to_others(paths: &[PathBuf]) {
    if let Err(err) = paths.iter().try_for_each(|path| close(path)) {
        log::warn!(
            "other users may read what is stored: its files cannot be closed to them: {err}"
        );
    }
}

#[cfg(unix)]
fn close(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & OTHERS != 0 {
        permissions.set_mode(permissions.mode() & !OTHERS);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
fn close(_path: &Path) -> io::Result<()> {
    Ok(())
}
