//! The catalogue of refusals: every error that a client is told, by this layer
//! or by the server above it, with its status and its exact text.
//!
//! A new one is one row.

use super::Reply;
use crate::storage::{self, Hindrance, Outage};

/// The challenge to a caller without a known token (RFC 6750, 3).
const CHALLENGE: &str = "Bearer realm=\"little-key-value\"";

macro_rules! refusals {
    ($($name:ident $status:literal $text:literal)+) => {
        /// A call that is not done, by reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $(#[doc = concat!($status, ": ", $text)] $name,)+
        }

        impl Refusal {
            #[cfg(test)]
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The status code and the text, without its newline.
            pub fn status_and_text(self) -> (u16, &'static str) {
                match self {
                    $(Self::$name => ($status, $text),)+
                }
            }
        }
    };
}

refusals! {
    // The framing of a request: nothing more is taken from its connection.
    LineFeedBare 400 "a line ends in a line feed without a carriage return"
    RequestLineMalformed 400 "the request line makes no sense"
    VersionUnknown 505 "this server speaks HTTP/1.0 and HTTP/1.1"
    MethodMalformed 400 "the method is not a token"
    TargetTooLong 414 "the request target is longer than 8 KiB"
    TargetBytes 400 "the request target has bytes that do not belong there"
    HeadShort 400 "the head ended early"
    HeadTooLong 431 "the head is longer than 64 KiB"
    FieldsTooMany 431 "more than 100 header fields"
    FieldNameMalformed 400 "a header field name is not a token"
    FieldValueMalformed 400 "a header field value has control characters"
    HostCount 400 "HTTP/1.1 takes exactly one Host"
    HostMalformed 400 "Host is not a name with an optional port"
    ExpectationUnknown 417 "the only expectation known here is 100-continue"
    LengthRepeated 400 "more than one Content-Length"
    LengthMalformed 400 "Content-Length is not a number"
    LengthAndCoding 400 "both Content-Length and Transfer-Encoding"
    CodingRepeated 400 "more than one Transfer-Encoding"
    CodingOrder 400 "chunked is not the last Transfer-Encoding"
    CodingUnknown 501 "the only Transfer-Encoding known here is chunked"
    CodingInOldVersion 400 "Transfer-Encoding needs HTTP/1.1"

    // Limits of the server.
    ConnectionsTooMany 503 "too many connections, try again"
    Overloaded 503 "too many requests at once, try again"
    UploadsTooMany 503 "too many uploads at once, try again"
    Draining 503 "the server is stopping"
    RequestTimeout 408 "the request took too long"
    Panicked 500 "internal error"

    // The body on its way.
    BodyShort 400 "the body ended early"
    BodyChunks 400 "the chunks of the body make no sense"
    BodyUnreadable 400 "the body cannot be read"

    // The host and the token.
    HostUnknown 403 "this Host is not allowed: start the store with --allow-host and its name"
    AuthorizationRepeated 400 "more than one Authorization"
    Unauthorized 401 "this needs a token: send it as Authorization: Bearer TOKEN"

    // The path, the method and the right to it.
    TargetMalformed 400 "the request target is not a path"
    PathUnknown 404 "not found: the paths are {paths}"
    KeyEmpty 400 "key cannot be empty"
    KeyTooLong 400 "key is longer than 1024 bytes"
    KeyEscape 400 "key has a % without two hexadecimal digits"
    KeyNotUtf8 400 "key is not UTF-8"
    MethodNotAllowed 405 "method not allowed"
    TokensChanged 503 "the tokens have changed, try again"
    Forbidden 403 "the token has no right to do this"
    CrossSite 403 "a page of another site may not do this"

    // The query.
    QueryUnknown 400 "unknown query parameter"
    QueryContradictory 400 "query parameters contradict each other"
    QueryMalformed 400 "a query parameter is malformed"
    AmountMalformed 400 "what to add is not a whole number of 64 bits"
    WaitMalformed 400 "wait is not a time up to 10m"
    TtlMalformed 400 "ttl is not a time"
    TtlContradictory 400 "ttl is given twice, and not the same"
    LimitMalformed 400 "limit is not a number from 1 to 10000"
    DelimiterLength 400 "delimiter is empty or longer than 16 bytes"
    PrefixEmpty 400 "prefix cannot be empty"
    TakeEmpty 400 "take cannot be empty"

    // The header fields.
    ConditionMalformed 400 "the condition is malformed"
    ConditionUnexpected 400 "a condition does not belong here"
    TypeMalformed 400 "content type is malformed"
    ContentRange 400 "content range is not supported"
    ContentEncoding 415 "content encoding is not supported"
    DigestMalformed 400 "the digest is malformed"

    // The artifacts of a remote cache.
    ArtifactSlash 400 "the hash and the team have no slash"
    ArtifactField 400 "an x-artifact field is malformed or too long"

    // The body.
    ValueTooLarge 413 "value is too large"
    ValueEmpty 400 "value cannot be empty"
    BodyUnexpected 400 "a body does not belong here"
    ContentDiffers 400 "the content does not match its digest"

    // The lines of a batch.
    BatchEmpty 400 "a batch has at least one line"
    BatchTooLong 413 "a batch has at most 1000 lines"
    LineMalformed 400 "the line is not JSON"
    LineMembers 400 "the line is not an object of known members, each a text and there once"
    LineEmpty 400 "the line has neither method nor value"
    LineExported 400 "expires and etag do not go with a method"
    LineKey 400 "the line needs a path or a key, and not both"
    LinePath 400 "the path of a line is /kv/ and a key"
    ValueTwice 400 "the line has both value and base64"
    Base64Malformed 400 "base64 is malformed"
    ExpiresMalformed 400 "expires is not a time"
    BatchSeesTooMuch 413 "a batch looks at no more than 256 MiB of values"
    BatchTooLarge 413 "a batch returns and appends to at most 64 MiB of values"

    // The name of a key to add.
    NameTaken 503 "no name is free, try again"

    // An upload that is taken in pieces.
    ImportUnknown 400 "the import is neither lines of JSON nor a tar archive"
    ImportRequest 400 "a request does not belong in an import"
    ImportKeyless 400 "the line has no key"
    ImportValueless 400 "the line has no value"

    // The members of a tar archive.
    ArchiveHeader 400 "the header is not one of a tar archive"
    ArchiveShort 400 "the archive ended early"
    ArchiveKind 400 "it is neither a plain file nor a directory"
    ArchiveRecords 400 "the extended header makes no sense"
    ArchiveRecordsLong 413 "the extended headers are longer than 256 KiB"
    ArchiveGoesOn 400 "more follows the end of the archive"

    // The change log.
    SinceMalformed 400 "since is not a revision"
    WatcherBehind 503 "the watcher is behind by more than the history, try again"
    WatchersTooMany 503 "too many watchers, try again"
    EngineLacksChanges 501 "not on this engine"

    // The entry under the key.
    KeyNotFound 404 "key not found"
    PreconditionFailed 412 "precondition failed"
    KeyExists 409 "the key is there already"
    RangeUnsatisfiable 416 "range not satisfiable"
    NotANumber 409 "the value is not a whole number"
    NumberOutOfRange 409 "the number does not fit 64 bits"

    // The storage.
    StorageFull 507 "storage is full"
    DiskFull 503 "storage takes no writes: the disk is full"
    DiskFailed 503 "storage takes no writes: the disk has failed"
    DirectoryLost 503 "storage takes no writes: its directory was moved or removed"
    StorageClosed 503 "storage takes no writes: it is closed"
    ValueUnreadable 500 "what is stored cannot be read"

    // A cluster.
    ClusterDown 503 "not done: the cluster does not answer"
    ReplicasTooFew 503 "not done: too few replicas are connected"
    NodeReadOnly 503 "not done: a node of the cluster takes no writes"
    OutcomeUnknown 504 "the cluster has not confirmed it: it may have been done"
    NotAValue 409 "what is stored is no value"
    SlotsDiffer 409 "keys are in different slots"
    ClearForbidden 403 "this deletes the keys of other applications too: start the store with --cluster-clear"
    NodeRefused 500 "a node of the cluster refuses this: the log of this store says why"
}

impl From<Refusal> for Reply {
    /// The reply to the client.
    fn from(refusal: Refusal) -> Self {
        let (status, text) = refusal.status_and_text();
        let reply = Self::error(status, text);
        if refusal == Refusal::ContentEncoding {
            // The codings that are supported (RFC 9110, 15.5.16).
            reply.with_header("Accept-Encoding", "identity")
        } else if refusal == Refusal::Unauthorized {
            // Of the schemes the one that is not for people (RFC 9110, 11.6.1): a browser
            // would ask its user for the password of another.
            reply.with_header("WWW-Authenticate", CHALLENGE)
        } else {
            reply
        }
    }
}

impl Reply {
    /// The reply to a failure of a call of which a part was done before. It is never one
    /// that says that nothing was done.
    pub fn of_rest(err: &storage::Error) -> Self {
        let (status, text) = Refusal::from(err).status_and_text();
        let (unknown, _) = Refusal::OutcomeUnknown.status_and_text();
        let is_undone = matches!(err, storage::Error::NotDone(_));
        Self::error(if is_undone { unknown } else { status }, text)
    }
}

impl From<&storage::Error> for Refusal {
    fn from(err: &storage::Error) -> Self {
        match err {
            storage::Error::Full => Self::StorageFull,
            storage::Error::Unavailable(Outage::DiskFull) => Self::DiskFull,
            storage::Error::Unavailable(Outage::DiskFailed) => Self::DiskFailed,
            storage::Error::Unavailable(Outage::DirectoryLost) => Self::DirectoryLost,
            storage::Error::Unavailable(Outage::Closed) => Self::StorageClosed,
            // A list whose moment is lost is under way: it breaks off, and shows no status.
            storage::Error::Overloaded | storage::Error::MomentLost => Self::Overloaded,
            storage::Error::Internal(_) => Self::ValueUnreadable,
            storage::Error::NotDone(Hindrance::ClusterDown) => Self::ClusterDown,
            storage::Error::NotDone(Hindrance::ReplicasTooFew) => Self::ReplicasTooFew,
            storage::Error::NotDone(Hindrance::NodeReadOnly) => Self::NodeReadOnly,
            storage::Error::OutcomeUnknown => Self::OutcomeUnknown,
            storage::Error::NotAValue => Self::NotAValue,
            storage::Error::SlotsDiffer => Self::SlotsDiffer,
            storage::Error::ClearForbidden => Self::ClearForbidden,
            storage::Error::NodeRefused => Self::NodeRefused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::STATUSES;

    #[test]
    fn each_status_is_counted_by_number() {
        for refusal in Refusal::ALL {
            let (status, _) = refusal.status_and_text();
            assert!(STATUSES.contains(&status), "{refusal:?}");
        }
    }

    #[test]
    fn each_text_is_one_line_and_stands_once() {
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            let (status, text) = refusal.status_and_text();
            assert!((400..600).contains(&status), "{refusal:?}");
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{refusal:?}");
            let others = Refusal::ALL.iter().skip(index + 1);
            let mut texts = others.map(|other| other.status_and_text().1);
            assert!(texts.all(|other| other != text), "{text}");
        }
    }
}
