//! The form of errors: a line of text, or for a client that prefers JSON a problem document
//! (RFC 9457).
//!
//! All of this layer words its errors as a line. The server gives each its form as it is
//! sent, so that there is one place for it, and it knows the phrases of statuses.

use super::Reply;
use super::accept::prefers;
use super::fields::Fields;
use super::lines::put_string;

const TEXT: &str = "text/plain";
const PROBLEM: &str = "application/problem+json";

/// The types that ask for a document.
const OF_PROBLEMS: [&str; 2] = [PROBLEM, "application/json"];

/// The form of the errors that a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorForm {
    /// A line of text.
    Text,
    /// A problem document.
    Problem,
}

impl ErrorForm {
    /// The form that a client accepts best.
    pub fn parse(fields: Fields<'_>) -> Self {
        // Most clients but browsers send this, or nothing.
        let has_wishes = fields.all("Accept").any(|accept| accept != "*/*");
        let is_asked_for = |media_type: &&str| prefers(fields, media_type, TEXT);
        if has_wishes && OF_PROBLEMS.iter().any(is_asked_for) { Self::Problem } else { Self::Text }
    }

    /// The reply with an error in this form; `phrase` gives that of its status. One that is
    /// no error stays as it is.
    #[must_use]
    pub fn apply(self, reply: Reply, phrase: impl FnOnce(u16) -> &'static str) -> Reply {
        if !reply.is_error() {
            return reply;
        }
        let reply = reply.varying_with("Accept");
        match self {
            Self::Text => reply,
            Self::Problem => {
                let document = problem(&reply, phrase(reply.status()));
                reply.with_body(PROBLEM, document)
            }
        }
    }
}

/// The problem document of an error. Its type is none of its own, so its title is the phrase
/// of the status (RFC 9457, 4.2.1).
fn problem(reply: &Reply, phrase: &str) -> Vec<u8> {
    let mut document = b"{\"type\":\"about:blank\",\"title\":".to_vec();
    put_string(&mut document, phrase);
    document.extend_from_slice(b",\"status\":");
    document.extend_from_slice(itoa::Buffer::new().format(reply.status()).as_bytes());
    document.extend_from_slice(b",\"detail\":");
    let text = String::from_utf8_lossy(reply.body());
    put_string(&mut document, text.strip_suffix('\n').unwrap_or(&text));
    document.extend_from_slice(b"}\n");
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Refusal;
    use crate::storage::Entry;

    fn form(accept: &str) -> ErrorForm {
        ErrorForm::parse(Fields(&[("Host", "a"), ("accept", accept)]))
    }

    #[test]
    fn a_client_that_prefers_json_gets_documents() {
        for accept in [
            "application/problem+json",
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json, */*;q=0.5",
            "application/json, text/plain;q=0.9",
            "application/problem+json;q=0.2, text/plain;q=0.1",
            "application/*",
            "*/*, text/plain;q=0",
        ] {
            assert_eq!(form(accept), ErrorForm::Problem, "{accept}");
        }
    }

    #[test]
    fn all_others_get_text() {
        assert_eq!(ErrorForm::parse(Fields(&[])), ErrorForm::Text);
        for accept in [
            "*/*",
            "",
            "text/plain",
            "text/event-stream",
            "application/x-ndjson",
            "application/json;q=0",
            "application/json, text/plain, */*",
            "application/json;q=0.5, text/*",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ] {
            assert_eq!(form(accept), ErrorForm::Text, "{accept}");
        }
    }

    #[test]
    fn the_text_is_the_detail_of_the_document() {
        let apply = |reply| ErrorForm::Problem.apply(reply, |_| "Its \"Phrase\"");
        let reply = apply(Reply::error(503, "a\n\\b"));
        let expected =
            r#"{"type":"about:blank","title":"Its \"Phrase\"","status":503,"detail":"a\n\\b"}"#;
        assert_eq!(reply.body(), &format!("{expected}\n"));
        assert_eq!(reply.header("Content-Type"), Some(PROBLEM));
        assert_eq!(reply.header("Retry-After"), Some("1"));
        let types = reply.headers().filter(|(name, _)| *name == "Content-Type");
        assert_eq!(types.count(), 1);
    }

    #[test]
    fn an_error_of_either_form_says_that_it_varies() {
        for form in [ErrorForm::Text, ErrorForm::Problem] {
            let reply = form.apply(Refusal::KeyNotFound.into(), |_| "Not Found");
            assert_eq!(reply.header("Vary"), Some("Accept"), "{form:?}");
        }
    }

    #[test]
    fn a_reply_that_is_no_error_stays_as_it_is() {
        let reply = || Reply::text("a\n");
        assert_eq!(ErrorForm::Problem.apply(reply(), |_| "OK"), reply());
        assert_eq!(ErrorForm::Text.apply(reply(), |_| "OK"), reply());
        // A refusal that has the value that is there.
        let existing = || Reply::existing(&Entry::new("value".into()));
        assert_eq!(ErrorForm::Problem.apply(existing(), |_| "Conflict"), existing());
    }
}
