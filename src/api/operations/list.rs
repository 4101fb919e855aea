//! `GET` and `HEAD` of the collection: its keys, a page of them, or their number.
//!
//! Each is a chain of steps, a page of the storage each, so that others come in
//! between. All keys are sent in parts as they are read. A page of the client's is
//! put together first, as its head tells if there is another.

use super::{Answer, Operation, Pending, Routed};
use crate::api::collection::Parameters;
use crate::api::lines::{self, Lines};
use crate::api::memory::Allowance;
use crate::api::target::encode;
use crate::api::{Refusal, Reply, Rest, Step, accept};
use crate::storage::{
    Effect, Listing, Moment, Op, PAGE_BYTES_MAX, PAGE_KEYS_MAX, Page, Range, Start,
};
use std::fmt::Write as _;

/// The parameters of a `GET`.
const NAMES: &[&str] = &["prefix", "after", "limit", "delimiter", "reverse", "count", "values"];

/// A longer page of the client's, because of a value in it, is sent in parts.
const WHOLE_BYTES_MAX: usize = 16 << 20;

/// The form of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Each key a line, percent-encoded.
    Keys,
    /// Each key a line of JSON with its value.
    Lines,
}

/// Parses the head. Conditions and `Range` are ignored.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let parameters = Parameters::parse(routed.target.query, NAMES)?;
    let has_both_forms = parameters.delimiter.is_none() && !parameters.is_count;
    let prefers_lines = || accept::prefers(routed.fields, lines::MEDIA_TYPE, "text/plain");
    let form = if parameters.has_values || (has_both_forms && prefers_lines()) {
        Form::Lines
    } else {
        Form::Keys
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
    if parameters.is_count {
        return Ok(Operation::Pending(Box::new(count(range, 0))));
    }
    let listing = Listing {
        range,
        delimiter: parameters.delimiter.clone(),
        with_entries: form == Form::Lines,
        keys_max: PAGE_KEYS_MAX,
        moment: Moment::Now,
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
    for (name, is_set) in [("reverse", parameters.is_reverse), ("values", parameters.has_values)] {
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
        let next = page.next.take().map(|start| from(listing, start));
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
        self.form == Form::Lines || self.allowance.grow_to(self.bytes)
    }

    /// Returns true if nothing is to be added. The step that has made it so may have
    /// brought some bytes too many.
    fn is_full(&self) -> bool {
        let has_all_bytes = self.form == Form::Lines && self.bytes >= PAGE_BYTES_MAX;
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
            Form::Lines => self.allowance.whole_lines(Lines::new(self.pages)),
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
            Self::Lines => in_lines(Lines::new(pages), rest),
        }
    }

    /// The head of a list that nobody has read: as of one in parts, without a length.
    fn head(self) -> Reply {
        let rest = Rest::new(move || Step::Reply(self.reply(Vec::new(), None)));
        self.reply(Vec::new(), Some(rest))
    }
}

impl Allowance {
    /// The reply with lines as a whole, so that its head has a length; but if they are
    /// very long, or there is no memory for them, in parts.
    fn whole_lines(mut self, mut lines: Lines) -> Reply {
        let mut bytes = lines.next_part();
        while !lines.is_done() {
            let has_room =
                bytes.len() < WHOLE_BYTES_MAX && self.grow_to(bytes.len() + lines::PART_BYTES);
            if !has_room {
                let rest = Rest::new(move || Step::Reply(in_lines(lines, None)));
                return Reply::lines(bytes).with_rest(rest);
            }
            bytes.append(&mut lines.next_part());
        }
        Reply::lines(self.body(bytes))
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

/// The reply with lines, in as many parts as they take, which goes on with `rest`.
fn in_lines(mut lines: Lines, rest: Option<Rest>) -> Reply {
    let reply = Reply::lines(lines.next_part());
    if lines.is_done() {
        return in_parts(reply, rest);
    }
    reply.with_rest(Rest::new(move || Step::Reply(in_lines(lines, rest))))
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
