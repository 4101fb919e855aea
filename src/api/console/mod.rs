//! The console: a page to look at the store, over the API that every client has.
//!
//! ```text
//! index.html ──┐
//! console.css ─┼─► one document and its policy ──► GET / where text/html is preferred
//! console.js ──┘    (made once)
//! ```
//!
//! The page is one document, so that nothing else has to be served for it. Its policy
//! (Content Security Policy, level 3) lets a browser run that script and no other: the
//! hashes are those of the files. What is stored is of the same origin and could read the
//! token of a tab if it ran, so it never may: the page shows values as text and in `<img>`,
//! and a value that a browser might run has a sandbox of its own (see `media_type`).
//!
//! The page knows nothing that another client could not know, and nothing here knows what
//! the page does. Within it:
//!
//! ```text
//! location.hash ──► route ──► the tree (a prefix) and the entry (a key)
//! /watch ──► pending ──► the rows of the tree that are loaded, and the entry
//! ```

use super::etag::{Conditions, EntityTag, Precondition};
use super::fields::Fields;
use super::{Refusal, Reply, accept};
use crate::storage::Entry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

/// The media type of the page.
const MEDIA_TYPE: &str = "text/html";

/// The document, with [`STYLE_PLACE`] and [`SCRIPT_PLACE`] for the other two.
const FRAME: &str = include_str!("index.html");

const STYLE: &str = include_str!("console.css");

const SCRIPT: &str = include_str!("console.js");

const STYLE_PLACE: &str = "<style>STYLE</style>";

const SCRIPT_PLACE: &str = "<script type=\"module\">SCRIPT</script>";

/// The page as a browser gets it.
static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    document: Entry,
    policy: String,
}

impl Page {
    fn new() -> Self {
        let document = FRAME
            .replace(STYLE_PLACE, &format!("<style>{STYLE}</style>"))
            .replace(SCRIPT_PLACE, &format!("<script type=\"module\">{SCRIPT}</script>"));
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; img-src 'self' blob: data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            source(SCRIPT),
            source(STYLE)
        );
        Self { document: Entry::new(Bytes::from(document)), policy }
    }
}

/// The source expression that allows an element with this text (Content Security Policy,
/// level 3, 2.3.1).
fn source(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// Returns true for a client that would rather have a page than a text: a browser, and
/// neither curl nor a probe.
pub fn is_preferred(fields: Fields<'_>) -> bool {
    accept::prefers(fields, MEDIA_TYPE, "text/plain")
}

/// The page, or nothing new for a browser that has it already.
pub fn reply(fields: Fields<'_>) -> Result<Reply, Refusal> {
    let Page { document, policy } = &*PAGE;
    let tag = EntityTag::of(document);
    Ok(match Conditions::parse(fields)?.evaluate(Some(tag)) {
        Precondition::Holds => {
            Reply::page(document.value().clone(), tag, policy).varying_with("Accept")
        }
        Precondition::NotModified => Reply::not_modified(tag).varying_with("Accept"),
        Precondition::Failed => Reply::from(Refusal::PreconditionFailed).with_tag(tag),
    })
}
