//! Why a store on disk cannot be opened.

use super::tree;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory cannot be opened as a store. Nothing in it was changed, except
/// that an unfinished start may have been finished or removed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The path names something else.
    NotADirectory,
    /// The directory has no store, and something that is not the store's under
    /// a name that is.
    Foreign {
        /// That name.
        name: String,
    },
    /// Another process has the store open.
    InUse,
    /// A later version of the program wrote it.
    Later {
        /// The version of its format.
        version: u64,
    },
    /// The file that tells the version does not.
    FormatUnknown,
    /// A synced part of the journal is not what was written.
    Damaged {
        /// The journal.
        file: PathBuf,
        /// The first byte that makes no sense.
        at: u64,
    },
    /// A file or folder is not there.
    Missing {
        /// What is missing.
        file: PathBuf,
    },
    /// A file is not what was written.
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A file or folder is a link, which is not followed.
    Link {
        /// The link.
        file: PathBuf,
    },
    /// A file or folder belongs to another user.
    OfAnotherUser {
        /// The file.
        file: PathBuf,
        /// The number of its owner.
        owner: u32,
        /// The number of the user whom the process works for.
        user: u32,
    },
    /// The mark of the generation in use is gone.
    Incomplete,
    /// A file cannot be made, read or written.
    Io {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The database does not open.
    Database(tree::Error),
}

impl OpenError {
    pub(super) fn io(what: &'static str, source: io::Error) -> Self {
        Self::Io { what, source }
    }

    /// The same with files in the folder `from` named as in the folder `to`.
    pub(super) fn renamed(mut self, from: &Path, to: &Path) -> Self {
        if let Self::Damaged { file, .. }
        | Self::Missing { file }
        | Self::Changed { file }
        | Self::Link { file }
        | Self::OfAnotherUser { file, .. } = &mut self
            && let Ok(rest) = file.strip_prefix(from)
        {
            *file = to.join(rest);
        }
        self
    }
}

impl From<tree::Error> for OpenError {
    fn from(err: tree::Error) -> Self {
        Self::Database(err)
    }
}

/// The cause behind all others. The database writes those in front of it as
/// programmers do.
fn first_cause<'a>(mut err: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(cause) = err.source() {
        err = cause;
    }
    err
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory => formatter.write_str("it is not a directory"),
            Self::Foreign { name } => write!(
                formatter,
                "it holds no store, and has a {name:?} of something else where a store would have \
                 its own"
            ),
            Self::InUse => formatter.write_str("another process has it open"),
            Self::Later { version } => {
                write!(formatter, "a later version of this program wrote it (format {version})")
            }
            Self::FormatUnknown => formatter.write_str("its file \"format\" is not understood"),
            Self::Missing { file } => write!(
                formatter,
                "a part of it is missing: {}; restore a copy of the directory",
                file.display()
            ),
            Self::Changed { file } => write!(
                formatter,
                "its data is damaged: {} is not what was written; restore a copy of the directory",
                file.display()
            ),
            Self::Link { file } => {
                write!(formatter, "{} is a link, and links are not followed", file.display())
            }
            Self::OfAnotherUser { file, owner, user } => write!(
                formatter,
                "{} belongs to another user (user {owner}, and this is user {user})",
                file.display()
            ),
            Self::Incomplete => formatter.write_str("a part of its data is missing"),
            Self::Damaged { file, at } => write!(
                formatter,
                "its journal is damaged: {} is whole up to byte {at} alone; restore a copy of the \
                 directory, or cut the file there and lose what was written later",
                file.display()
            ),
            Self::Io { what, source } => write!(formatter, "{what}: {source}"),
            Self::Database(source) => {
                write!(formatter, "its data cannot be opened: {}", first_cause(source))
            }
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Io { source, .. } = self {
            Some(source)
        } else if let Self::Database(source) = self {
            Some(source)
        } else {
            None
        }
    }
}
