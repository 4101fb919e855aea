//! Every way in which a call can be the client's fault, or more than the
//! store can do, with its status and its exact words in one table.

use super::Reply;
use super::query::Fault;

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A `Host` that may be the name of a page of the web.
    HostUnknown,
    /// The target is no path, nor a URL with one.
    TargetMalformed,
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
    /// A browser sends a page of another site.
    AnotherSite,
    /// A query parameter that means nothing here.
    QueryUnknown,
    /// The same query parameter twice, or two that exclude each other.
    QueryContradictory,
    /// A query parameter without its value, or with one that it has not.
    QueryMalformed,
    /// What is to be added is no whole number of 64 bits.
    AmountMalformed,
    /// A time to live that is none.
    LifetimeMalformed,
    /// Two different times to live.
    LifetimesDiffer,
    /// A condition that lists no entity tags.
    ConditionMalformed,
    /// A `Content-Type` that is no media type.
    TypeMalformed,
    /// A part of a value cannot be stored.
    ContentRange,
    /// A coding cannot be told from the value.
    ContentEncoding,
    /// A digest of the content that is none.
    DigestMalformed,
    /// The content is not what its digest says.
    ContentDiffers,
    /// A body where there is nothing to be done with it.
    BodyUnexpected,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// The range lies past the value's end.
    RangeUnsatisfiable,
    /// What is stored is no number that could be added to.
    NotANumber,
    /// The sum is past 64 bits.
    NumberOutOfRange,
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
    /// The store's directory is not where it was.
    DirectoryLost,
    /// The storage was closed.
    StorageClosed,
    /// More operations wait than are let wait.
    Overloaded,
    /// The disk does not give back what was stored.
    ValueUnreadable,
}

impl Refusal {
    /// The status code and the text, without its newline.
    pub fn status_and_text(self) -> (u16, &'static str) {
        match self {
            Self::HostUnknown => {
                (403, "this Host is not allowed: start the store with --allow-host and its name")
            }
            Self::TargetMalformed => (400, "the request target is not a path"),
            Self::PathUnknown => (404, "not found: the paths are /kv/{key}, /clear and /healthz"),
            Self::KeyEmpty => (400, "key cannot be empty"),
            Self::KeyTooLong => (400, "key is longer than 1024 bytes"),
            Self::KeyEscape => (400, "key has a % without two hexadecimal digits"),
            Self::KeyNotUtf8 => (400, "key is not UTF-8"),
            Self::MethodNotAllowed => (405, "method not allowed"),
            Self::AnotherSite => (403, "a page of another site may not do this"),
            Self::QueryUnknown => (400, "unknown query parameter"),
            Self::QueryContradictory => (400, "query parameters contradict each other"),
            Self::QueryMalformed => (400, "a query parameter is malformed"),
            Self::AmountMalformed => (400, "what to add is not a whole number of 64 bits"),
            Self::LifetimeMalformed => (400, "ttl is not a time"),
            Self::LifetimesDiffer => (400, "ttl is given twice, and not the same"),
            Self::ConditionMalformed => (400, "the condition is malformed"),
            Self::TypeMalformed => (400, "content type is malformed"),
            Self::ContentRange => (400, "content range is not supported"),
            Self::ContentEncoding => (415, "content encoding is not supported"),
            Self::DigestMalformed => (400, "the digest is malformed"),
            Self::ContentDiffers => (400, "the content does not match its digest"),
            Self::BodyUnexpected => (400, "a body does not belong here"),
            Self::PreconditionFailed => (412, "precondition failed"),
            Self::RangeUnsatisfiable => (416, "range not satisfiable"),
            Self::NotANumber => (409, "the value is not a whole number"),
            Self::NumberOutOfRange => (409, "the number does not fit 64 bits"),
            Self::ValueTooLarge => (413, "value is too large"),
            Self::ValueEmpty => (400, "value cannot be empty"),
            Self::KeyNotFound => (404, "key not found"),
            Self::StorageFull => (507, "storage is full"),
            Self::DiskFull => (503, "storage takes no writes: the disk is full"),
            Self::DiskFailed => (503, "storage takes no writes: the disk has failed"),
            Self::DirectoryLost => {
                (503, "storage takes no writes: its directory was moved or removed")
            }
            Self::StorageClosed => (503, "storage takes no writes: it is closed"),
            Self::Overloaded => (503, "too many requests at once, try again"),
            Self::ValueUnreadable => (500, "the value cannot be read from the disk"),
        }
    }
}

impl Refusal {
    /// The answer that says so.
    pub(super) fn reply(self) -> Reply {
        let (status, text) = self.status_and_text();
        let reply = Reply::error(status, text);
        if self != Self::ContentEncoding {
            return reply;
        }
        // What would have been taken (RFC 9110, 15.5.16).
        reply.with_header("Accept-Encoding", "identity")
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        refusal.reply()
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unknown => Self::QueryUnknown,
            Fault::Repeated | Fault::Contradictory => Self::QueryContradictory,
            Fault::ValueMissing | Fault::ValueUnexpected => Self::QueryMalformed,
            Fault::Amount => Self::AmountMalformed,
        }
    }
}
