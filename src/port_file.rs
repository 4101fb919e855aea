//! `--port-file`: a file with the port, for whoever has started the store and waits for it.
//!
//! It comes by a rename and so is whole at once, and it goes with the store that wrote it.

use crate::system::Settings;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// The place of a port file: a file beside it, removed when it is dropped.
pub(crate) struct Reserved {
    path: PathBuf,
    file: NamedTempFile,
}

/// A port file, removed when it is dropped unless another has come in its place.
pub(crate) struct PortFile {
    path: PathBuf,
    file: File,
}

/// Has a port file for `path` be sure to be written. A device, a pipe or a link that is
/// there stays: a file in the place of `/dev/null` would harm the whole machine.
pub(crate) fn reserve(path: &Path, settings: Settings) -> Result<Reserved, String> {
    let complain = |err: io::Error| complaint(path, &err);
    if path.is_dir() {
        return Err(complain(io::ErrorKind::IsADirectory.into()));
    }
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(complain(io::Error::other("what is there is no plain file")));
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let mut builder = Builder::new();
    builder.prefix(".port-");
    let file = builder.tempfile_in(directory.unwrap_or(Path::new("."))).map_err(complain)?;
    share(file.as_file(), settings).map_err(complain)?;
    Ok(Reserved { path: path.to_owned(), file })
}

impl Reserved {
    /// Writes the port.
    pub(crate) fn write(self, port: u16) -> Result<PortFile, String> {
        let Self { path, mut file } = self;
        let written = writeln!(file, "{port}");
        let persisted = written.and_then(|()| file.persist(&path).map_err(|err| err.error));
        let file = persisted.map_err(|err| complaint(&path, &err))?;
        Ok(PortFile { path, file })
    }
}

impl Drop for PortFile {
    fn drop(&mut self) {
        let is_own = is_at(&self.file, &self.path).unwrap_or(false);
        if is_own && let Err(err) = fs::remove_file(&self.path) {
            log::warn!("cannot remove the port file {}: {err}", self.path.display());
        }
    }
}

fn complaint(path: &Path, err: &io::Error) -> String {
    format!("cannot write the port file {}: {err}", path.display())
}

/// Lets others read a file, as far as the user has them read files.
#[cfg(unix)]
fn share(file: &File, settings: Settings) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    file.set_permissions(fs::Permissions::from_mode(settings.file_mode()))
}

#[cfg(not(unix))]
fn share(_file: &File, _settings: Settings) -> io::Result<()> {
    Ok(())
}

/// Returns true if a path leads to this file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;

    let (file, there) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((file.dev(), file.ino()) == (there.dev(), there.ino()))
}

/// The same where files have no numbers.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}
