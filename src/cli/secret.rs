//! Secrets of the environment and of files. They are never shown, nor are they flags'
//! values: everyone on this machine can see those.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// The longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads one from a variable; an empty variable is an unset one.
    pub(super) fn read(variable: &str) -> Result<Option<Self>, String> {
        let Some(value) = std::env::var_os(variable) else { return Ok(None) };
        if value.is_empty() {
            return Ok(None);
        }
        let text = value.into_string();
        text.map(|text| Some(Self(text))).map_err(|_| format!("{variable} is no text"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// The content of a file of secrets at one moment.
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Not a pipe, of which there is nothing more to read.
    pub is_regular: bool,
    /// Everyone on this machine may read it.
    pub is_open_to_all: bool,
}

impl Content {
    /// Reads a file of up to 1 MiB.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
        }
        let is_open_to_all = is_open_to_all(&metadata);
        Ok(Self { bytes, is_regular: metadata.is_file(), is_open_to_all })
    }

    /// The text, without the byte order mark that some editors put before it; an error
    /// says which line is wrong.
    pub fn text(&self) -> Result<&str, String> {
        let text = std::str::from_utf8(&self.bytes).map_err(|err| {
            let before = self.bytes.get(..err.valid_up_to()).unwrap_or_default();
            let line = memchr::memchr_iter(b'\n', before).count() + 1;
            format!("line {line}: it is not UTF-8")
        })?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
    }
}

/// A complaint of the file that a flag names.
pub fn complaint(flag: &str, path: &Path, what: &str) -> String {
    format!("{flag} {}: {what}", path.display())
}

/// The complaint of a file with [`Content::is_open_to_all`].
pub const OPEN_TO_ALL: &str = "everyone on this machine may read it";

#[cfg(unix)]
fn is_open_to_all(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.is_file() && metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_open_to_all(_metadata: &fs::Metadata) -> bool {
    false
}
