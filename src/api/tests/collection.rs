//! The collection `/kv`: its lists, its number and its deletion.

use super::{
    Api, Call, Refusal, Reply, TOO_LONG, Untouchable, VALUE_BYTES_MAX, answer, api_over, call,
    check, check_form, key,
};
use crate::storage::{
    Blocking as _, Done, Effect, Entry, Error, KEY_BYTES_MAX, Memory, Op, Outcome, Storage, Time,
};
use crate::storage::{Listing, PAGE_KEYS_MAX, Page};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const KEYS_OF_ALL_KINDS: &[&str] = &[
    "plain",
    "a b",
    "a+b",
    "a%20b",
    "100%",
    "it's",
    "say \"so\"",
    "*",
    "[a-z]?",
    "a&b=c;d",
    "#",
    "$(reboot)`x`",
    "back\\slash",
    "caf\u{e9}",
    "\u{1F1F0}\u{1F1EA}",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\u{7f}",
    "\u{10ffff}",
    "/",
    "//a//",
    "../clear",
    "-o",
    "~",
    "http://store/kv/a",
];

/// A storage whose steps are as short as they may be: each page has few keys, every
/// second one has none, and nothing is done at once.
struct Halting {
    memory: Memory,
    steps: AtomicUsize,
}

impl Halting {
    fn new(memory: Memory) -> Self {
        Self { memory, steps: AtomicUsize::new(0) }
    }
}

impl Storage for Halting {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        let is_second = self.steps.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let outcome = match op {
            Op::List(listing) if is_second => {
                let mut page = Box::<Page>::default();
                page.next = Some(listing.range.start);
                Ok(Effect::Listed(page))
            }
            Op::List(listing) => {
                let keys_max = listing.keys_max.min(3);
                self.memory.list(Listing { keys_max, ..*listing }).map(|mut page| {
                    page.is_followed = false;
                    Effect::Listed(page.into())
                })
            }
            Op::Count(range) if is_second => Ok(Effect::Counted(0, Some(range.start))),
            op @ (Op::Get(_)
            | Op::Set(..)
            | Op::Delete(_)
            | Op::Update(..)
            | Op::Batch(_)
            | Op::Each(_)
            | Op::UpdateFirst(..)
            | Op::Clear
            | Op::Count(_)) => self.memory.perform(op),
        };
        done(outcome);
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A storage to which somebody adds more keys before each batch than that deletes.
struct Growing {
    memory: Memory,
    batches: AtomicUsize,
    /// The keys to add, but for their numbers.
    prefix: &'static str,
    /// Their numbers go down.
    is_descending: bool,
}

impl Storage for Growing {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        if matches!(op, Op::Each(_)) {
            let batch = self.batches.fetch_add(1, Ordering::Relaxed);
            assert!(batch < 100, "a deletion without an end");
            for number in batch * 501..(batch + 1) * 501 {
                let number = if self.is_descending { 999_999 - number } else { number };
                let key = key(&format!("{}{number:06}", self.prefix));
                self.memory.set(key, Entry::new("x".into())).unwrap();
            }
        }
        done(self.memory.perform(op));
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A storage that fails in every step but the first.
struct Failing(Memory, AtomicUsize);

impl Storage for Failing {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        Err(op)
    }

    fn submit(&self, op: Op, done: Done) {
        let is_first = self.1.fetch_add(1, Ordering::Relaxed) == 0;
        done(if is_first { self.0.perform(op) } else { Err(Error::Overloaded) });
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A memory with these keys, each its own value.
fn memory_of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Memory {
    let memory = Memory::new();
    for text in keys {
        memory.set(key(text), Entry::new(text.to_owned().into())).unwrap();
    }
    memory
}

/// A reply with all of its parts.
pub struct Whole {
    head: Reply,
    pub parts: Vec<Bytes>,
}

impl Deref for Whole {
    type Target = Reply;

    fn deref(&self) -> &Reply {
        &self.head
    }
}

impl Whole {
    pub fn text(&self) -> String {
        String::from_utf8(self.parts.concat()).unwrap()
    }

    /// The target of the next page.
    pub fn next(&self) -> Option<String> {
        let link = self.header("Link")?;
        let target = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
        Some(target.to_owned())
    }
}

pub fn ask(api: &Api, line: &str, fields: &[(&str, &str)]) -> Whole {
    let mut head = api.answer(&Call { fields, ..call(line, Some(0)) }, Bytes::new());
    check_form(line, &head);
    let mut parts = vec![head.body().clone()];
    let mut rest = head.take_rest();
    while let Some(step) = rest {
        let mut part = api.next_part(step);
        assert_eq!(part.status(), 200, "{line}");
        parts.push(part.body().clone());
        rest = part.take_rest();
    }
    Whole { head, parts }
}

pub fn get(api: &Api, target: &str) -> Whole {
    let whole = ask(api, &format!("GET {target}"), &[]);
    assert_eq!(whole.status(), 200, "{target}: {}", whole.text());
    whole
}

const SHELF: &[&str] = &["docs", "docs/", "docs/img/1", "docs/img/2", "docs/readme", "kenya", "z/"];

#[test]
fn keys_are_listed_in_every_way() {
    let table = [
        ("/kv", "docs docs/ docs/img/1 docs/img/2 docs/readme kenya z/"),
        ("/kv?", "docs docs/ docs/img/1 docs/img/2 docs/readme kenya z/"),
        ("/kv?prefix=", "docs docs/ docs/img/1 docs/img/2 docs/readme kenya z/"),
        ("/kv?prefix=docs/img/", "docs/img/1 docs/img/2"),
        ("/kv?prefix=docs%2Fimg%2f", "docs/img/1 docs/img/2"),
        ("/kv?prefix=kenya", "kenya"),
        ("/kv?prefix=nothing", ""),
        ("/kv?after=docs/img/2", "docs/readme kenya z/"),
        ("/kv?after=docs/j", "docs/readme kenya z/"),
        ("/kv?after=", "docs docs/ docs/img/1 docs/img/2 docs/readme kenya z/"),
        ("/kv?after=zz", ""),
        ("/kv?prefix=docs/&after=a", "docs/ docs/img/1 docs/img/2 docs/readme"),
        ("/kv?prefix=docs/&after=kenya", ""),
        ("/kv?reverse", "z/ kenya docs/readme docs/img/2 docs/img/1 docs/ docs"),
        ("/kv?reverse&after=docs/img/2", "docs/img/1 docs/ docs"),
        ("/kv?reverse=&prefix=docs/&after=z", "docs/readme docs/img/2 docs/img/1 docs/"),
        ("/kv?reverse&prefix=docs/&after=a", ""),
        ("/kv?delimiter=/", "docs docs/ kenya z/"),
        ("/kv?delimiter=/&prefix=docs/", "docs/ docs/img/ docs/readme"),
        ("/kv?delimiter=/&after=docs/", "kenya z/"),
        ("/kv?delimiter=/&after=docs/img/1", "kenya z/"),
        ("/kv?delimiter=/&after=docs", "docs/ kenya z/"),
        ("/kv?delimiter=/&reverse", "z/ kenya docs/ docs"),
        ("/kv?delimiter=/&reverse&after=docs/img/1", "docs"),
        ("/kv?delimiter=/&prefix=docs/&reverse&after=docs/img/", "docs/"),
        ("/kv?delimiter=ocs", "docs kenya z/"),
        ("/kv?limit=3", "docs docs/ docs/img/1"),
        ("/kv?limit=10000", "docs docs/ docs/img/1 docs/img/2 docs/readme kenya z/"),
        ("/kv?limit=2&delimiter=/&after=docs", "docs/ kenya"),
        ("/kv?count", "7"),
        ("/kv?count&prefix=docs/", "4"),
        ("/kv?count&prefix=docs/&after=docs/img/1", "2"),
        ("/kv?count=&prefix=nothing", "0"),
    ];
    for api in [api_over(memory_of(SHELF.iter().copied())), halting(SHELF)] {
        for (target, listed) in table {
            let lines = listed.split_whitespace();
            let text = lines
                .flat_map(|key| {
                    [
                        key, "
",
                    ]
                })
                .collect::<String>();
            assert_eq!(get(&api, target).text(), text, "{target}");
        }
    }
}

/// The same store by steps of both lengths.
pub fn both(fill: impl Fn(&Memory)) -> [Api; 2] {
    let [memory, other] = [Memory::new(), Memory::new()];
    fill(&memory);
    fill(&other);
    [api_over(memory), api_over(Halting::new(other))]
}

fn halting(keys: &[&str]) -> Api {
    api_over(Halting::new(memory_of(keys.iter().copied())))
}

#[test]
fn a_list_has_a_type_and_is_asked_for_each_time() {
    let api = api_over(memory_of(SHELF.iter().copied()));
    let text = "text/plain; charset=utf-8";
    let kinds = [
        ("/kv", text),
        ("/kv?limit=2", text),
        ("/kv?count", text),
        ("/kv?prefix=nothing", text),
        ("/kv?values", "application/x-ndjson"),
        ("/kv?tar", "application/x-tar"),
        ("/kv?tar&limit=2", "application/x-tar"),
    ];
    for (target, kind) in kinds {
        let whole = get(&api, target);
        assert_eq!(whole.header("Content-Type"), Some(kind), "{target}");
        assert_eq!(whole.header("Cache-Control"), Some("no-cache"), "{target}");
        assert_eq!(whole.header("Vary"), Some("Accept"), "{target}");
        assert_eq!(whole.header("ETag"), None, "{target}");
        assert_eq!(whole.header("Accept-Ranges"), None, "{target}");
    }
    let ignored = [("If-None-Match", "*"), ("If-Match", "\"x\""), ("Range", "bytes=0-0")];
    let whole = ask(&api, "GET /kv?prefix=kenya", &ignored);
    assert_eq!((whole.status(), whole.text().as_str()), (200, "kenya\n"));
}

/// The line of a key is a path behind `/kv/`, and a value of `after`.
#[test]
fn a_line_names_its_key_in_every_url() {
    let longest = "\u{e9}".repeat(KEY_BYTES_MAX / 2);
    let keys: Vec<&str> = KEYS_OF_ALL_KINDS.iter().copied().chain([longest.as_str()]).collect();
    let api = Api::new(Arc::new(memory_of(keys.iter().copied())), 10_000);
    let text = get(&api, "/kv").text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), keys.len());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@,=%".contains(&byte);
    let mut found = BTreeSet::new();
    for (at, line) in lines.iter().enumerate() {
        assert!(line.bytes().all(is_plain), "{line}");
        let value = answer(&api, &format!("GET /kv/{line}"), b"");
        assert_eq!(value.status(), 200, "{line}");
        found.insert(String::from_utf8(value.body().to_vec()).unwrap());
        let rest = get(&api, &format!("/kv?after={line}")).text();
        assert_eq!(rest.lines().collect::<Vec<_>>(), lines[at + 1..], "{line}");
        let with_prefix = get(&api, &format!("/kv?prefix={line}")).text();
        assert_eq!(with_prefix.lines().next(), Some(*line));
    }
    assert!(found.iter().map(String::as_str).eq(keys.iter().copied().collect::<BTreeSet<_>>()));
}

#[test]
fn a_list_comes_in_parts_unless_it_ends_with_its_first() {
    let names: Vec<_> = (0..=PAGE_KEYS_MAX).map(|number| format!("{number:04}")).collect();
    let fits = api_over(memory_of(names.iter().skip(1).map(String::as_str)));
    let longer = api_over(memory_of(names.iter().map(String::as_str)));
    let lines = |whole: Whole| -> Vec<usize> {
        let lines = |part: &Bytes| std::str::from_utf8(part).unwrap().lines().count();
        whole.parts.iter().map(lines).collect()
    };
    assert_eq!(lines(get(&fits, "/kv")), [PAGE_KEYS_MAX]);
    assert_eq!(lines(get(&longer, "/kv")), [PAGE_KEYS_MAX, 1]);
    assert_eq!(lines(get(&longer, "/kv?limit=10000")), [PAGE_KEYS_MAX + 1]);
    assert_eq!(lines(get(&longer, "/kv?values")), [250, 250, 250, 250, 1], "pages are short");
    // Parts are never empty, though pages may be.
    let all = names.iter().map(String::as_str).collect::<Vec<_>>();
    let parts = lines(get(&halting(&all), "/kv"));
    assert!(parts.len() > 300 && parts.iter().rev().skip(1).all(|lines| *lines > 0), "{parts:?}");
}

#[test]
fn a_page_links_to_the_next_if_there_is_one() {
    let link = |api: &Api, target: &str| get(api, target).header("Link").map(str::to_owned);
    for api in [api_over(memory_of(SHELF.iter().copied())), halting(SHELF)] {
        let table = [
            ("/kv?limit=7", None),
            ("/kv?limit=6", Some("/kv?limit=6&after=kenya")),
            ("/kv?prefix=docs/&limit=4", None),
            ("/kv?limit=3&prefix=docs/", Some("/kv?limit=3&prefix=docs/&after=docs/img/2")),
            ("/kv?limit=1&after=kenya", None),
            ("/kv?reverse&limit=0006", Some("/kv?limit=6&reverse&after=docs/")),
            ("/kv?limit=2&delimiter=/", Some("/kv?limit=2&delimiter=/&after=docs/")),
            ("/kv?limit=4&delimiter=/", None),
            (
                "/kv?limit=3&delimiter=/&reverse",
                Some("/kv?limit=3&delimiter=/&reverse&after=docs/"),
            ),
            ("/kv?limit=1&values", Some("/kv?limit=1&values&after=docs")),
            ("/kv?tar&limit=1&reverse", Some("/kv?limit=1&reverse&tar&after=z/")),
            ("/kv?limit=1&prefix=nothing", None),
            ("/kv", None),
        ];
        for (target, next) in table {
            let next = next.map(|next| format!("<{next}>; rel=\"next\""));
            assert_eq!(link(&api, target), next, "{target}");
        }
    }
    let api = api_over(memory_of(["a&b\n1", "a&b\n2"]));
    let next = "</kv?limit=1&prefix=a%26b&delimiter=%2B%20&after=a%26b%0A1>; rel=\"next\"";
    assert_eq!(link(&api, "/kv?prefix=a%26b&delimiter=+%20&limit=1").as_deref(), Some(next));
}

#[test]
fn head_of_a_page_is_that_of_get_and_any_other_reads_nothing() {
    let api = api_over(memory_of(SHELF.iter().copied()));
    for query in ["limit=3", "limit=3&values", "limit=3&tar", "limit=100", "limit=1&prefix=x"] {
        let target = format!("/kv?{query}");
        let [get, head] =
            ["GET", "HEAD"].map(|method| ask(&api, &format!("{method} {target}"), &[]));
        assert_eq!(get.head, head.head, "{target}");
    }
    let api = api_over(Untouchable);
    let text = "text/plain; charset=utf-8";
    let kinds = [
        ("/kv", text),
        ("/kv?prefix=a&reverse", text),
        ("/kv?count", text),
        ("/kv?delimiter=/", text),
        ("/kv?values", "application/x-ndjson"),
        ("/kv?tar", "application/x-tar"),
    ];
    for (target, kind) in kinds {
        let mut head = api.answer(&call(&format!("HEAD {target}"), None), Bytes::new());
        assert_eq!((head.status(), head.header("Vary")), (200, Some("Accept")), "{target}");
        assert!(head.body().is_empty() && head.take_rest().is_some(), "{target}");
        assert_eq!(head.header("Content-Type"), Some(kind), "{target}");
    }
}

#[test]
fn values_come_as_lines_of_json() {
    let expiry = Time::now().after(Duration::from_secs(3600));
    let fill = |memory: &Memory| {
        let set = |text, entry| memory.set(key(text), entry).unwrap();
        set("a", Entry::new("1".into()));
        set("b\"\n\u{e9}\0\u{7f}", Entry::new("say \"so\\\"\r\n\t\u{1}\u{1F511}".into()));
        set(
            "c",
            Entry::new(Bytes::from_static(b"\xff\0")).with_content_type(Some("image/png".into())),
        );
        set("d", Entry::new("x".into()).with_expiry(Some(expiry)));
    };
    let expires = humantime::format_rfc3339_millis(expiry.on_wall_clock()).to_string();
    assert!(expires.ends_with('Z') && expires.len() == "2026-11-28T04:00:00.123Z".len());
    // printf 1 | sha256sum, and so on.
    let lines = [
        r#"{"key":"a","value":"1","etag":"6b86b273ff34fce19d6b804eff5a3f57"}"#.to_owned(),
        "{\"key\":\"b\\\"\\n\u{e9}\\u0000\u{7f}\",\
         \"value\":\"say \\\"so\\\\\\\"\\r\\n\\t\\u0001\u{1F511}\",\
         \"etag\":\"2c23b05afdbf50349267f6946b0431d4\"}".to_owned(),
        r#"{"key":"c","base64":"/wA=","type":"image/png","etag":"ea5dbf9596d187e9500f23e9a6801094"}"#.to_owned(),
        format!(r#"{{"key":"d","value":"x","expires":"{expires}","etag":"2d711642b726b04401627ca9fbac32f5"}}"#),
    ];
    let text = lines.iter().flat_map(|line| [line, "\n"]).collect::<String>();
    for api in both(fill) {
        assert_eq!(get(&api, "/kv?values").text(), text);
        assert_eq!(get(&api, "/kv?values&limit=4").text(), text);
        let accepts = [("Accept", "text/plain;q=0.5, application/x-ndjson")];
        assert_eq!(ask(&api, "GET /kv", &accepts).text(), text);
        // Groups and numbers have no such lines.
        let groups = ask(&api, "GET /kv?delimiter=/&prefix=a", &accepts);
        assert_eq!(groups.text(), "a\n");
        assert_eq!(ask(&api, "GET /kv?count", &accepts).text(), "4\n");
        let text_alone = [("Accept", "text/plain")];
        let values = ask(&api, "GET /kv?values&prefix=a", &text_alone).text();
        assert_eq!(values.lines().collect::<Vec<_>>(), [&lines[0]]);
        assert_eq!(ask(&api, "GET /kv?prefix=a", &text_alone).text(), "a\n");
    }
}

#[test]
fn a_long_value_is_encoded_in_parts() {
    const BYTES: usize = (3 << 19) + 2;
    const PART_BYTES_MAX: usize = 3 << 19;
    let memory = Memory::new();
    let texts = ["x".repeat(BYTES), "\u{1}".repeat(BYTES), "\u{e9}".repeat(BYTES / 2)];
    for (name, text) in ["a", "b", "c"].into_iter().zip(&texts) {
        memory.set(key(name), Entry::new(text.clone().into())).unwrap();
    }
    memory.set(key("d"), Entry::new(vec![0xff; BYTES].into())).unwrap();
    let api = api_over(memory);
    let values = [texts[0].clone(), "\\u0001".repeat(BYTES), texts[2].clone()];
    let expected: Vec<String> = (values.iter().map(|value| format!("\"value\":\"{value}\"")))
        .chain([format!("\"base64\":\"{}8=\"", "/".repeat(BYTES.div_ceil(3) * 4 - 2))])
        .collect();
    let mut target = Some("/kv?values&limit=3".to_owned());
    let mut paged = String::new();
    while let Some(page) = target {
        let whole = get(&api, &page);
        // One entry at least, and no more past a MiB.
        assert_eq!(whole.text().lines().count(), 1);
        paged += &whole.text();
        target = whole.next();
    }
    let whole = get(&api, "/kv?values");
    assert!(whole.parts.iter().all(|part| part.len() <= PART_BYTES_MAX));
    assert!(whole.text() == paged);
    for (line, expected) in paged.lines().zip(&expected) {
        assert!(line.contains(expected), "{}", &line[..100]);
    }
    assert_eq!(paged.lines().count(), expected.len());
}

#[test]
fn a_page_of_values_ends_at_a_mebibyte() {
    let value = vec![b'x'; 100_000];
    let fill = |memory: &Memory| {
        for number in 0..30 {
            let entry = Entry::new(value.clone().into());
            memory.set(key(&format!("{number:02}")), entry).unwrap();
        }
    };
    for api in both(fill) {
        let reply = api.answer(&call("HEAD /kv?values&limit=30", None), Bytes::new());
        assert!(!reply.has_rest() && reply.body().len() > 1 << 20, "its length is known");
        let page = get(&api, "/kv?values&limit=30");
        // The step in which it ends may have some more.
        let lines = page.text().lines().count();
        assert!((11..14).contains(&lines), "{lines}");
        let next = format!("/kv?limit=30&values&after={:02}", lines - 1);
        assert_eq!(page.next(), Some(next));
        assert_eq!(get(&api, "/kv?values&limit=30&after=18").next(), None);
    }
}

#[test]
fn a_failure_in_the_middle_is_told_to_the_server() {
    let names: Vec<_> = (0..=PAGE_KEYS_MAX).map(|number| format!("{number:04}")).collect();
    let failing = Failing(memory_of(names.iter().map(String::as_str)), AtomicUsize::new(0));
    let api = api_over(failing);
    let mut head = api.answer(&call("GET /kv", None), Bytes::new());
    assert_eq!(head.status(), 200);
    assert_eq!(api.next_part(head.take_rest().unwrap()), Refusal::Overloaded.into());
}

#[test]
fn a_prefix_is_deleted() {
    let steps: [(&str, u16, &str); 9] = [
        ("DELETE /kv?prefix=docs/img/", 200, "2\n"),
        ("DELETE /kv?prefix=docs/img/", 200, "0\n"),
        ("GET /kv", 200, "docs\ndocs/\ndocs/readme\nkenya\nz/\n"),
        ("DELETE /kv?prefix=d&limit=2", 200, "2\n"),
        ("GET /kv", 200, "docs/readme\nkenya\nz/\n"),
        ("DELETE /kv?limit=10000&prefix=docs%2F", 200, "1\n"),
        ("DELETE /kv?prefix=z/", 200, "1\n"),
        ("GET /kv", 200, "kenya\n"),
        ("GET /kv?count", 200, "1\n"),
    ];
    for api in [api_over(memory_of(SHELF.iter().copied())), halting(SHELF)] {
        for (line, status, text) in steps {
            let whole = ask(&api, line, &[]);
            assert_eq!((whole.status(), whole.text().as_str()), (status, text), "{line}");
            if line.starts_with("DELETE") {
                assert_eq!(whole.header("Cache-Control"), Some("no-store"), "{line}");
            }
        }
    }
}

#[test]
fn a_deletion_takes_as_many_steps_as_it_needs() {
    let names: Vec<_> = (0..2345).map(|number| format!("tmp:{number}")).collect();
    let store = || {
        let names = names.iter().map(String::as_str);
        api_over(memory_of(names.chain(["tmp", "tmp;"])))
    };
    let api = store();
    assert_eq!(ask(&api, "DELETE /kv?prefix=tmp:", &[]).text(), "2345\n");
    assert_eq!(get(&api, "/kv").text(), "tmp\ntmp%3B\n");
    let api = store();
    assert_eq!(ask(&api, "DELETE /kv?prefix=tmp:&limit=1234", &[]).text(), "1234\n");
    assert_eq!(get(&api, "/kv?count&prefix=tmp:").text(), "1111\n");
    let mut sorted: Vec<_> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(get(&api, "/kv?prefix=tmp:&limit=1").text(), format!("{}\n", sorted[1234]));
}

#[test]
fn a_deletion_ends_though_keys_are_added_meanwhile() {
    let there: Vec<_> = (0..1000).map(|number| format!("job:1{number:04}")).collect();
    let orders = [
        // Behind the last, before the first, and between two of them.
        ("job:2", false),
        ("job:2", true),
        ("job:0", false),
        ("job:0", true),
        ("job:10500/", false),
    ];
    for (prefix, is_descending) in orders {
        for query in ["prefix=job:", "prefix=job:&limit=2500"] {
            let memory = memory_of(there.iter().map(String::as_str));
            let batches = AtomicUsize::new(0);
            let growing = Arc::new(Growing { memory, batches, prefix, is_descending });
            let api = Api::new(Arc::<Growing>::clone(&growing), VALUE_BYTES_MAX);
            let deleted = ask(&api, &format!("DELETE /kv?{query}"), &[]).text();
            let deleted: usize = deleted.trim().parse().unwrap();
            let case = format!("{prefix} {is_descending} {query}: {deleted}");
            assert!((1000..=2500).contains(&deleted), "{case}");
            // The first keys may be others, if only so many are asked for.
            for name in there.iter().filter(|_| !query.contains("limit")) {
                assert_eq!(growing.memory.get(&key(name)).unwrap(), None, "{case}");
            }
        }
    }
}

#[test]
fn a_deletion_that_says_too_little_or_too_much_deletes_nothing() {
    let empty = "prefix cannot be empty\n";
    let unknown = "unknown query parameter\n";
    check(
        || api_over(Untouchable),
        &[
            ("DELETE /kv", b"", 400, empty),
            ("DELETE /kv?", b"", 400, empty),
            ("DELETE /kv?prefix", b"", 400, empty),
            ("DELETE /kv?prefix=", b"", 400, empty),
            ("DELETE /kv?limit=1", b"", 400, empty),
            ("DELETE /kv?prefix=a&after=b", b"", 400, unknown),
            ("DELETE /kv?prefix=a&count", b"", 400, unknown),
            ("DELETE /kv?prefix=a&delimiter=/", b"", 400, unknown),
            ("DELETE /kv?prefx=a", b"", 400, unknown),
            ("DELETE /kv?prefix=a&prefix=b", b"", 400, "query parameters contradict each other\n"),
            ("DELETE /kv?prefix=a&limit=0", b"", 400, "limit is not a number from 1 to 10000\n"),
            ("DELETE /kv?prefix=a", TOO_LONG, 413, "value is too large\n"),
        ],
    );
    let api = api_over(Untouchable);
    for fields in [
        [("If-Match", "*")],
        [("If-Match", "\"6b86b273ff34fce19d6b804eff5a3f57\"")],
        [("If-None-Match", "*")],
    ] {
        let whole = ask(&api, "DELETE /kv?prefix=a", &fields);
        let told = (whole.status(), whole.text());
        assert_eq!(told, (400, "a condition does not belong here\n".to_owned()), "{fields:?}");
    }
    let malformed = ask(&api, "DELETE /kv?prefix=a", &[("If-Match", "x")]);
    assert_eq!(malformed.text(), "the condition is malformed\n");
}

#[test]
fn a_list_that_is_asked_for_in_no_known_way_is_refused() {
    let contradictory = "query parameters contradict each other\n";
    let unknown = "unknown query parameter\n";
    for method in ["GET", "HEAD"] {
        let rows = [
            ("?x", unknown),
            ("?perfix=a", unknown),
            ("?take=a", unknown),
            ("?ttl=1", unknown),
            ("?tars", unknown),
            ("?prefix=%", "key has a % without two hexadecimal digits\n"),
            ("?after=%ff", "key is not UTF-8\n"),
            ("?limit=0", "limit is not a number from 1 to 10000\n"),
            ("?delimiter=", "delimiter is empty or longer than 16 bytes\n"),
            ("?reverse=yes", "a query parameter is malformed\n"),
            ("?count&limit=1", contradictory),
            ("?values&delimiter=/", contradictory),
            ("?tar=pax", "a query parameter is malformed\n"),
            ("?tar&delimiter=/", contradictory),
            ("?tar&count", contradictory),
            ("?tar&values", contradictory),
        ];
        for (query, text) in rows {
            let line = format!("{method} /kv{query}");
            check(|| api_over(Untouchable), &[(&line, b"", 400, text)]);
        }
    }
    check(|| api_over(Untouchable), &[("OPTIONS /kv?x", b"", 400, unknown)]);
    let reply = answer(&api_over(Untouchable), "OPTIONS /kv?prefix=a", b"");
    assert_eq!(reply.status(), 204);
}

/// A page of another site may send a `GET`, as of a value: it cannot read the answer.
#[test]
fn a_list_is_read_as_a_value_is_for_other_sites() {
    let fields = [("Sec-Fetch-Site", "cross-site"), ("Origin", "http://evil.example")];
    let whole = ask(&api_over(memory_of(["a"])), "GET /kv", &fields);
    assert_eq!((whole.status(), whole.text().as_str()), (200, "a\n"));
    assert_eq!(whole.header("Access-Control-Allow-Origin"), None);
}

/// A few characters, so that keys, prefixes and delimiters have much in common.
fn any_text(lengths: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let characters = ['a', 'b', '/', '\u{e9}', '\u{1F511}', '\0', '%'].as_slice();
    prop::collection::vec(prop::sample::select(characters), lengths).prop_map(String::from_iter)
}

/// The parameters of a list.
#[derive(Clone, Debug)]
struct Asked {
    prefix: Option<String>,
    after: Option<String>,
    delimiter: Option<String>,
    is_reverse: bool,
    limit: usize,
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let prefix = prop::option::of(any_text(0..3));
    let after = prop::option::of(any_text(0..5));
    let delimiter = prop::option::of(any_text(1..3));
    (prefix, after, delimiter, any::<bool>(), 1_usize..8).prop_map(
        |(prefix, after, delimiter, is_reverse, limit)| Asked {
            prefix,
            after,
            delimiter,
            is_reverse,
            limit,
        },
    )
}

impl Asked {
    fn target(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut parameters = Vec::new();
        let texts =
            [("after", &self.after), ("delimiter", &self.delimiter), ("prefix", &self.prefix)];
        for (name, text) in texts {
            parameters.extend(text.as_ref().map(|text| format!("{name}={}", encode(text))));
        }
        parameters.extend(self.is_reverse.then(|| "reverse".to_owned()));
        format!("/kv?{}", parameters.join("&"))
    }

    /// The lines that the contract has for these keys, not encoded.
    fn lines(&self, keys: &BTreeMap<String, String>) -> Vec<String> {
        let prefix = self.prefix.clone().unwrap_or_default();
        let group = |key: &str| {
            let delimiter = self.delimiter.as_ref()?;
            let end = key.strip_prefix(&prefix)?.find(delimiter)? + delimiter.len();
            Some(key[..prefix.len() + end].to_owned())
        };
        let after = self.after.clone().filter(|after| !after.is_empty());
        let passed = after.as_ref().map(|after| group(after).unwrap_or_else(|| after.clone()));
        let is_behind = |key: &str| match (&after, &passed) {
            (Some(after), Some(passed)) => {
                let in_group = group(after).is_some_and(|group| key.starts_with(&group));
                let is_past = if self.is_reverse { key < &**passed } else { key > &**passed };
                is_past && !in_group
            }
            _ => true,
        };
        let is_meant = |key: &&String| key.starts_with(&prefix) && is_behind(key);
        let mut lines: Vec<String> = keys
            .keys()
            .filter(is_meant)
            .map(|key| group(key).unwrap_or_else(|| key.clone()))
            .collect();
        if self.is_reverse {
            lines.reverse();
        }
        lines.dedup();
        lines
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn lists_agree_with_a_map(
        keys in prop::collection::btree_map(any_text(1..6), any_text(1..3), 0..30),
        asked in any_asked(),
        is_halting in any::<bool>(),
    ) {
        let memory = Memory::new();
        for (text, value) in &keys {
            memory.set(key(text), Entry::new(value.clone().into())).unwrap();
        }
        let api = if is_halting { api_over(Halting::new(memory)) } else { api_over(memory) };
        let decode = |line: &str| {
            percent_encoding::percent_decode_str(line).decode_utf8().unwrap().into_owned()
        };
        let decoded =
            |whole: &Whole| whole.text().lines().map(decode).collect::<Vec<_>>();
        let expected = asked.lines(&keys);
        prop_assert_eq!(&decoded(&get(&api, &asked.target())), &expected);

        // Page after page.
        let mut paged = Vec::new();
        let mut next = Some(format!("{}&limit={}", asked.target(), asked.limit));
        while let Some(target) = next {
            let page = get(&api, &target);
            let lines = decoded(&page);
            next = page.next();
            let is_right = match next {
                Some(_) => lines.len() == asked.limit,
                None => lines.len() <= asked.limit && (!lines.is_empty() || expected.is_empty()),
            };
            prop_assert!(is_right, "{} has {} lines, then {:?}", target, lines.len(), next);
            paged.extend(lines);
        }
        prop_assert_eq!(&paged, &expected);

        if asked.delimiter.is_none() {
            let values = get(&api, &format!("{}&values", asked.target())).text();
            let json = |text: &str| format!("\"{}\"", text.replace('\0', "\\u0000"));
            let starts: Vec<_> = expected
                .iter()
                .map(|key| format!("{{\"key\":{},\"value\":{},", json(key), json(&keys[key])))
                .collect();
            prop_assert_eq!(values.lines().count(), starts.len());
            for (line, start) in values.lines().zip(&starts) {
                prop_assert!(line.starts_with(start), "{} {}", line, start);
            }
            if !asked.is_reverse {
                let counted = get(&api, &format!("{}&count", asked.target())).text();
                prop_assert_eq!(counted, format!("{}\n", expected.len()));
            }
        }
        let prefix = asked.prefix.clone().unwrap_or_default();
        if !prefix.is_empty() {
            let encoded = utf8_percent_encode(&prefix, NON_ALPHANUMERIC);
            let deleted = ask(&api, &format!("DELETE /kv?prefix={encoded}"), &[]).text();
            let (gone, left): (Vec<_>, Vec<_>) =
                keys.keys().cloned().partition(|key| key.starts_with(&prefix));
            prop_assert_eq!(deleted, format!("{}\n", gone.len()));
            prop_assert_eq!(decoded(&get(&api, "/kv")), left);
        }
    }
}
