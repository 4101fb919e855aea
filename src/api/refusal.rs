//! Every way in which a call can be the client's fault, or more than the
//! store can do, with its status and its exact words in one table.

use super::Reply;

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such path.
    PathUnknown,
    /// `/kv/` without a key.
    KeyEmpty,
    /// A key of more than [`crate::storage::KEY_BYTES_MAX`] bytes.
    KeyTooLong,
    /// A `%` without two hexadecimal digits.
    KeyEscape,
    /// Decoded, the key is not UTF-8.
    KeyNotUtf8,
    /// A method that the path does not have.
    MethodNotAllowed,
    /// A query parameter that means nothing here.
    QueryUnknown,
    /// A body over the limit.
    ValueTooLarge,
    /// A value without a byte.
    ValueEmpty,
    /// Nothing is stored under the key.
    KeyNotFound,
    /// The write does not fit.
    StorageFull,
    /// An earlier write did not fit on the disk.
    DiskFull,
    /// An earlier write, or this one, has failed.
    DiskFailed,
    /// The storage was closed.
    StorageClosed,
    /// The disk does not give back what was stored.
    ValueUnreadable,
}

impl Refusal {
    /// The status code and the text, without its newline.
    pub fn status_and_text(self) -> (u16, &'static str) {
        match self {
            Self::PathUnknown => (404, "not found: the paths are /kv/{key}, /clear and /healthz"),
            Self::KeyEmpty => (400, "key cannot be empty"),
            Self::KeyTooLong => (400, "key is longer than 1024 bytes"),
            Self::KeyEscape => (400, "key has a % without two hexadecimal digits"),
            Self::KeyNotUtf8 => (400, "key is not UTF-8"),
            Self::MethodNotAllowed => (405, "method not allowed"),
            Self::QueryUnknown => (400, "unknown query parameter"),
            Self::ValueTooLarge => (413, "value is too large"),
            Self::ValueEmpty => (400, "value cannot be empty"),
            Self::KeyNotFound => (404, "key not found"),
            Self::StorageFull => (507, "storage is full"),
            Self::DiskFull => (503, "storage takes no writes: the disk is full"),
            Self::DiskFailed => (503, "storage takes no writes: the disk has failed"),
            Self::StorageClosed => (503, "storage takes no writes: it is closed"),
            Self::ValueUnreadable => (500, "the value cannot be read from the disk"),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let (status, text) = refusal.status_and_text();
        Self::error(status, text)
    }
}
