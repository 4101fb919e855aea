//! `GET` and `HEAD` of the collection: its keys, a page of them, or their number.
//!
//! Each is a chain of steps, a page of the storage each, so that others come in
//! between. All keys are sent in parts as they are read. A page of the client's is
//! put together first, as its head tells if there is another.

use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Right;
use crate::api::allowance::Allowance;
use crate::api::collection::{Kind, Parameters};
use crate::api::entries::{Encoding, Entries, PART_BYTES};
use crate::api::target::encode;
use crate::api::{Refusal, Reply, Rest, Step, accept, lines, tar};
use crate::storage::{
    Effect, Listing, Moment, Op, PAGE_BYTES_MAX, PAGE_KEYS_MAX, Page, Range, Start,
};
use std::fmt::Write as _;

/// The parameters of a `GET`.
const NAMES: &[&str] =
    &["prefix", "after", "limit", "delimiter", "reverse", "count", "values", "tar"];

/// A longer page of the client's, because of a value in it, is sent in parts.
const WHOLE_BYTES_MAX: usize = 16 << 20;

/// The form of a list.
#[derive(Clone, Copy)]
enum Form {
    /// Each key a line, percent-encoded.
    Keys,
    /// Each key with its value, in an encoding.
    Entries(&'static Encoding),
}

/// Parses the head. Conditions and `Range` are ignored.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let parameters = Parameters::parse(routed.target.query, NAMES)?;
    parameters.check_prefix(routed.caller, Right::Read)?;
    let prefers_lines = || accept::prefers(routed.fields, lines::MEDIA_TYPE, "text/plain");
    let form = match parameters.kind {
        Some(Kind::Tar) => Form::Entries(&tar::ENCODING),
        Some(Kind::Values) => Form::Entries(&lines::ENCODING),
        None if parameters.delimiter.is_none() && prefers_lines() => {
            Form::Entries(&lines::ENCODING)
        }
        Some(Kind::Count) | None => Form::Keys,
    };
    if routed.method == "HEAD" && parameters.limit.is_none() {
        return Ok(Operation::Reply(form.head()));
    }
    let start = match &parameters.after {
        Some(after) if !after.is_empty() => Start::After(after.clone()),
        Some(_) | None => Start::First,
    };
    let prefix = parameters.prefix.clone().unwrap_or_default();
    let range = Range { prefix, start, is_reverse: parameters.is_reverse };
    if parameters.kind == Some(Kind::Count) {
        return Ok(Operation::Pending(Box::new(count(range, 0))));
    }
    // Its keys and values are those of one moment, if the storage can hold one.
    let is_export = form.has_entries() && parameters.limit.is_none();
    let listing = Listing {
        range,
        delimiter: parameters.delimiter.clone(),
        with_entries: form.has_entries(),
        is_to_delete: false,
        keys_max: PAGE_KEYS_MAX,
        moment: if is_export { Moment::Hold } else { Moment::Now },
    };
    Ok(Operation::Pending(Box::new(match parameters.limit {
        None => all(listing, form),
        Some(limit) => {
            let path = path_of_next(&parameters, limit);
            Paging {
                listing,
                limit,
                form,
                path,
                pages: Vec::new(),
                keys: 0,
                bytes: 0,
                allowance: Allowance::default(),
            }
            .next_step()
        }
    })))
}

/// The path of the next page, but for the key at its end.
fn path_of_next(parameters: &Parameters<'_>, limit: usize) -> String {
    let mut path = format!("/kv?limit={limit}");
    let texts = [("prefix", &parameters.prefix), ("delimiter", &parameters.delimiter)];
    for (name, text) in texts {
        if let Some(text) = text {
            write!(path, "&{name}={}", encode(text)).expect("a string takes any text");
        }
    }
    let flags = [
        ("reverse", parameters.is_reverse),
        ("values", parameters.kind == Some(Kind::Values)),
        ("tar", parameters.kind == Some(Kind::Tar)),
    ];
    for (name, is_set) in flags {
        if is_set {
            path.push('&');
            path.push_str(name);
        }
    }
    path.push_str("&after=");
    path
}

/// Counts the keys of a range, behind those that were counted before.
fn count(range: Range, counted: u64) -> Pending {
    let op = Op::Count(Box::new(range.clone()));
    let then = move |effect| {
        let Effect::Counted(more, next) = effect else { unreachable!("a count counts") };
        match next {
            Some(start) => Step::Pending(count(Range { start, ..range }, counted + more)),
            None => Step::Reply(Reply::number_of(counted + more)),
        }
    };
    Pending { op, answer: Answer::Then(Box::new(then)) }
}

/// Lists all keys, in parts of a page each.
fn all(listing: Listing, form: Form) -> Pending {
    list(listing.clone(), move |mut page| {
        let moment = std::mem::take(&mut page.moment);
        let next = page.next.take().map(|start| Listing { moment, ..from(listing, start) });
        match next {
            // Expired keys, as many as one step passes.
            Some(next) if page.is_empty() => Step::Pending(all(next, form)),
            next => {
                let rest = next.map(|next| Rest::new(move || Step::Pending(all(next, form))));
                Step::Reply(form.reply(vec![page], rest))
            }
        }
    })
}

/// The page of a list with a limit, on its way.
struct Paging {
    /// The keys that are left to list.
    listing: Listing,
    limit: usize,
    form: Form,
    path: String,
    /// The pages of the storage read so far.
    pages: Vec<Page>,
    keys: usize,
    bytes: usize,
    allowance: Allowance,
}

impl Paging {
    /// Reads on, or looks for a key behind the page once that is full.
    fn next_step(self) -> Pending {
        let (with_entries, keys_max) = if self.is_full() {
            (false, 1)
        } else {
            (self.listing.with_entries, (self.limit - self.keys).min(PAGE_KEYS_MAX))
        };
        let listing = Listing { with_entries, keys_max, ..self.listing.clone() };
        list(listing, move |page| self.step(page))
    }

    fn step(mut self, mut page: Page) -> Step {
        let next = page.next.take();
        let has_more = if self.is_full() {
            !page.is_empty()
        } else {
            let is_followed = page.is_followed;
            if !self.add(page) {
                return Step::Reply(Refusal::Overloaded.into());
            }
            self.is_full() && is_followed
        };
        match next {
            Some(start) if !has_more => {
                let listing = from(self.listing, start);
                Step::Pending(Self { listing, ..self }.next_step())
            }
            Some(_) | None => Step::Reply(self.reply(has_more)),
        }
    }

    /// Adds a page of the storage. Returns false if there is no memory for it.
    fn add(&mut self, page: Page) -> bool {
        self.keys += page.len();
        self.bytes += page.keys().map(str::len).sum::<usize>();
        self.bytes += page.entries().iter().map(|entry| entry.value().len()).sum::<usize>();
        self.pages.push(page);
        self.form.has_entries() || self.allowance.grow_to(self.bytes)
    }

    /// Returns true if nothing is to be added. The step that has made it so may have
    /// brought some bytes too many.
    fn is_full(&self) -> bool {
        let has_all_bytes = self.form.has_entries() && self.bytes >= PAGE_BYTES_MAX;
        self.keys >= self.limit || has_all_bytes
    }

    fn reply(mut self, has_more: bool) -> Reply {
        let last = self.pages.iter().rev().find_map(Page::last).filter(|_| has_more);
        let path = last.map(|last| format!("<{}{}>; rel=\"next\"", self.path, encode(last)));
        let reply = match self.form {
            Form::Keys => {
                let text = lines_of(&self.pages);
                if !self.allowance.grow_to(text.len()) {
                    return Refusal::Overloaded.into();
                }
                Reply::keys(self.allowance.body(text.into()))
            }
            Form::Entries(encoding) => {
                self.allowance.whole(Entries::new(encoding, self.pages, true))
            }
        };
        match path {
            // RFC 8288, 3.
            Some(link) => reply.with_header("Link", link),
            None => reply,
        }
    }
}

impl Form {
    /// The reply with the keys of some pages, which goes on with `rest`.
    fn reply(self, pages: Vec<Page>, rest: Option<Rest>) -> Reply {
        match self {
            Self::Keys => in_parts(Reply::keys(lines_of(&pages)), rest),
            Self::Entries(encoding) => {
                in_entries(Entries::new(encoding, pages, rest.is_none()), rest)
            }
        }
    }

    fn has_entries(self) -> bool {
        matches!(self, Self::Entries(_))
    }

    /// The head of a list that nobody has read: as of one in parts, without a length.
    fn head(self) -> Reply {
        let rest = Rest::new(move || Step::Reply(self.reply(Vec::new(), None)));
        self.reply(Vec::new(), Some(rest))
    }
}

impl Allowance {
    /// The reply with entries as a whole, so that its head has a length; but if they are
    /// very long, or there is no memory for them, in parts.
    fn whole(mut self, mut entries: Entries) -> Reply {
        let encoding = entries.encoding();
        let mut bytes = entries.next_part();
        while !entries.are_done() {
            let has_room = bytes.len() < WHOLE_BYTES_MAX && self.grow_to(bytes.len() + PART_BYTES);
            if !has_room {
                let rest = Rest::new(move || Step::Reply(in_entries(entries, None)));
                return Reply::entries(encoding, bytes).with_rest(rest);
            }
            bytes.append(&mut entries.next_part());
        }
        Reply::entries(encoding, self.body(bytes))
    }
}

/// The keys of some pages, each a line.
fn lines_of(pages: &[Page]) -> String {
    let mut text = String::new();
    for key in pages.iter().flat_map(Page::keys) {
        text.extend(encode(key));
        text.push('\n');
    }
    text
}

/// The reply with entries, in as many parts as they take, which goes on with `rest`.
fn in_entries(mut entries: Entries, rest: Option<Rest>) -> Reply {
    let reply = Reply::entries(entries.encoding(), entries.next_part());
    if entries.are_done() {
        return in_parts(reply, rest);
    }
    reply.with_rest(Rest::new(move || Step::Reply(in_entries(entries, rest))))
}

fn in_parts(reply: Reply, rest: Option<Rest>) -> Reply {
    match rest {
        Some(rest) => reply.with_rest(rest),
        None => reply,
    }
}

/// The same listing from another start on.
fn from(listing: Listing, start: Start) -> Listing {
    Listing { range: Range { start, ..listing.range }, ..listing }
}

/// Reads a page, and takes the next step with it.
pub fn list(listing: Listing, then: impl FnOnce(Page) -> Step + Send + 'static) -> Pending {
    let then = |effect| {
        let Effect::Listed(page) = effect else { unreachable!("a list lists") };
        then(*page)
    };
    Pending { op: Op::List(Box::new(listing)), answer: Answer::Then(Box::new(then)) }
}
