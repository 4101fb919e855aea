//! Imports: from the bytes of a body to entries, whichever way they come.

use super::{
    Api, Call, Full, Hosts, Untouchable, answer, api_over, check_form, key, text_of, whole,
};
use crate::api::{Access, Operation, Pending, Reply, Upload};
use crate::storage::{Blocking as _, Entry, Memory, Op, Time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::{self, BufRead, ErrorKind, Read};
use std::time::Duration;

const VALUE_BYTES_MAX: u64 = 2 << 20;

/// A body that comes in pieces, and the server's side of it.
pub struct Body<'a> {
    api: &'a Api,
    rest: &'a [u8],
    /// The most bytes that come at once.
    at_once: usize,
    /// The failure behind the last of them, which is told once.
    failure: Option<ErrorKind>,
    /// The bytes that may be reserved, and those that are, at most and now.
    room: u64,
    reserved_most: u64,
    reserved: u64,
    /// The number of entries in each piece that was stored.
    pieces: Vec<usize>,
}

impl<'a> Body<'a> {
    pub fn of(api: &'a Api, rest: &'a [u8]) -> Self {
        Self {
            api,
            rest,
            at_once: 1000,
            failure: None,
            room: u64::MAX,
            reserved_most: 0,
            reserved: 0,
            pieces: Vec::new(),
        }
    }

    pub fn import(&mut self) -> Reply {
        let call = Call { method: "POST", target: "/import", fields: &[], body_bytes: None };
        let Ok(Operation::Import(import)) = self.api.admit(&call).decision else {
            panic!("it is one")
        };
        let reply = self.api.import(import, self);
        check_form("POST /import", &reply);
        reply
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Body<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.failure.take_if(|_| self.rest.is_empty()) {
            Some(failure) => Err(failure.into()),
            None => Ok(&self.rest[..self.at_once.min(self.rest.len())]),
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }
}

impl Upload for Body<'_> {
    fn reserve(&mut self, bytes: u64) -> bool {
        let has_room = self.reserved + bytes <= self.room;
        if has_room {
            self.reserved += bytes;
            self.reserved_most = self.reserved_most.max(self.reserved);
        }
        has_room
    }

    fn release(&mut self) {
        self.reserved = 0;
    }

    fn perform(&mut self, pending: Pending) -> Reply {
        let Op::Each(ops) = &pending.op else { panic!("a piece is a batch") };
        self.pieces.push(ops.len());
        self.api.take(self.api.try_step(pending))
    }
}

fn empty() -> (Memory, Api) {
    let memory = Memory::new();
    (memory.clone(), Api::new(std::sync::Arc::new(memory), VALUE_BYTES_MAX))
}

/// Imports a body, by both methods in turn.
fn import(api: &Api, body: &[u8]) -> Reply {
    let reply = Body::of(api, body).import();
    let put = api.answer(&super::call("PUT /import", None), Bytes::copy_from_slice(body));
    assert_eq!(text_of(&put), text_of(&reply));
    reply
}

fn export(api: &Api) -> Vec<u8> {
    whole(api, answer(api, "GET /kv?values", b""))
}

fn count(api: &Api) -> Bytes {
    answer(api, "GET /kv?count", b"").body().clone()
}

/// A line for a key and a value that need no escapes.
fn line(key: &str, value: &str) -> String {
    format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
}

pub fn lines(keys: std::ops::Range<usize>, value: &str) -> String {
    keys.map(|number| line(&format!("{number:06}"), value)).collect()
}

#[test]
fn a_line_is_an_entry() {
    let (memory, api) = empty();
    let expires = "2100-01-02T03:04:05.678Z";
    let body = format!(
        "{}\n{}\n{}\n{}\n{}",
        r#"{"key":"text","value":"a\nb"}"#,
        r#" { "base64" : "AP8=", "key":"S\u00e3o\u0000" } "#,
        r#"{"key":"typed","value":"x","type":"image/png","etag":"whatever"}"#,
        format_args!(r#"{{"key":"later","value":"x","expires":"{expires}"}}"#),
        r#"{"key":"last","value":"without an end"}"#
    );
    assert_eq!(text_of(&import(&api, body.as_bytes())), (200, "5\n"));
    let of = |text: &str| memory.get(&key(text)).unwrap().unwrap();
    assert_eq!(of("text"), Entry::new("a\nb".into()));
    assert_eq!(of("S\u{e3}o\0"), Entry::new((&b"\0\xff"[..]).into()));
    let typed = Entry::new("x".into()).with_content_type(Some("image/png".into()));
    assert_eq!(of("typed"), typed);
    let later = of("later").expiry().unwrap().on_wall_clock();
    assert_eq!(humantime::format_rfc3339_millis(later).to_string(), expires);
    assert_eq!(of("last"), Entry::new("without an end".into()));
    assert_eq!(&*count(&api), b"5\n");
}

#[test]
fn what_is_over_is_counted_and_not_stored() {
    let (memory, api) = empty();
    memory.set(key("there"), Entry::new("x".into())).unwrap();
    let over = r#"{"key":"there","value":"y","expires":"2006-01-02T03:04:05Z"}"#;
    let body = format!("{over}\n{over}\n{}{over}\nx\n", line("a", "1"));
    let refused = "line 5: the line is not JSON; 1 were stored\n";
    assert_eq!(text_of(&import(&api, body.as_bytes())), (400, refused));
    let body = body.strip_suffix("x\n").unwrap();
    assert_eq!(text_of(&import(&api, body.as_bytes())), (200, "4\n"));
    assert_eq!(answer(&api, "GET /kv/there", b"").body(), "x");
    assert_eq!(&*count(&api), b"2\n");
}

#[test]
fn the_last_of_equal_keys_wins() {
    let (_, api) = empty();
    let body = [line("a", "1"), line("b", "1"), line("a", "2"), line("a", "3")].concat();
    assert_eq!(text_of(&import(&api, body.as_bytes())), (200, "4\n"));
    assert_eq!(answer(&api, "GET /kv/a", b"").body(), "3");
}

#[test]
fn a_bad_line_is_told_and_those_before_it_are_stored() {
    let long_key = format!(r#"{{"key":"{}","value":"x"}}"#, "k".repeat(1025));
    let long_value = line("a", &"v".repeat(usize::try_from(VALUE_BYTES_MAX).unwrap() + 1));
    let members = "the line is not an object of known members, each a text and there once";
    let request = "a request does not belong in an import";
    let table = [
        ("", 400, "the line is not JSON"),
        (" ", 400, "the line is not JSON"),
        ("x", 400, "the line is not JSON"),
        (r#"{"key":"a","value":"x""#, 400, "the line is not JSON"),
        (r#"{"key":"a","value":"x"}{"key":"b","value":"x"}"#, 400, "the line is not JSON"),
        ("[]", 400, members),
        ("{}", 400, "the line has no key"),
        (r#"{"value":"x"}"#, 400, "the line has no key"),
        (r#"{"key":"a"}"#, 400, "the line has no value"),
        (r#"{"key":"a","value":"x","ttl":"1"}"#, 400, members),
        (r#"{"key":"a","value":1}"#, 400, members),
        (r#"{"key":"a","key":"b","value":"x"}"#, 400, members),
        (r#"{"key":"a","value":"x","base64":"AA=="}"#, 400, "the line has both value and base64"),
        (r#"{"key":"a","base64":"A"}"#, 400, "base64 is malformed"),
        (r#"{"key":"","value":"x"}"#, 400, "key cannot be empty"),
        (&long_key, 400, "key is longer than 1024 bytes"),
        (r#"{"key":"a","value":""}"#, 400, "value cannot be empty"),
        (r#"{"key":"a","base64":""}"#, 400, "value cannot be empty"),
        (r#"{"key":"a","value":"x","type":"png"}"#, 400, "content type is malformed"),
        (r#"{"key":"a","value":"x","expires":"soon"}"#, 400, "expires is not a time"),
        (r#"{"method":"PUT","key":"a","value":"x"}"#, 400, request),
        (r#"{"method":"PUT","path":"/kv/a","value":"x"}"#, 400, request),
        (r#"{"path":"/kv/a","value":"x"}"#, 400, request),
        (r#"{"key":"a","value":"x","if_match":"*"}"#, 400, request),
        (r#"{"key":"a","value":"x","if_none_match":"*"}"#, 400, request),
        (long_value.trim_end(), 413, "value is too large"),
    ];
    for (bad, status, text) in table {
        for before in [0, 1, 16, 1000, 1001] {
            let (_, api) = empty();
            let body = lines(0..before, "x") + bad + "\n" + &line("behind", "x");
            let reply = import(&api, body.as_bytes());
            // Without a line it is no import.
            let is_told = before > 0 || bad.starts_with(['{', ' ']) || bad.is_empty();
            let text = if is_told {
                format!("line {}: {text}; {before} were stored\n", before + 1)
            } else {
                "the import is neither lines of JSON nor a tar archive\n".to_owned()
            };
            assert_eq!(text_of(&reply), (status, &*text), "{bad:.80} behind {before}");
            assert_eq!(count(&api), format!("{before}\n"), "{bad:.80} behind {before}");
        }
    }
}

#[test]
fn a_body_that_is_neither_is_refused() {
    for body in [&b"x"[..], b"[{\"key\":\"a\"}]", b"\x1f\x8b\x08", b"\0", &[0; 511], &[1; 2000]] {
        let refused = "the import is neither lines of JSON nor a tar archive\n";
        let reply = import(&api_over(Untouchable), body);
        assert_eq!(text_of(&reply), (400, refused), "{body:?}");
    }
    let reply = import(&api_over(Untouchable), b"");
    assert_eq!(text_of(&reply), (200, "0\n"));
}

#[test]
fn the_head_is_checked_before_a_byte_is_read() {
    let refusal = |target, fields: &[(&str, &str)], bytes| {
        let call = Call { method: "POST", target, fields, body_bytes: bytes };
        let api =
            api_over(Untouchable).with_access(Access { hosts: Hosts::any(), ..Access::default() });
        api.admit(&call).decision.err().map(|reply| reply.status())
    };
    let import = |fields: &[(&str, &str)]| refusal("/import", fields, None);
    assert_eq!(import(&[]), None);
    assert_eq!(import(&[("Content-Type", "anything at all")]), None);
    assert_eq!(import(&[("Content-Encoding", "identity")]), None);
    assert_eq!(import(&[("Content-Encoding", "gzip")]), Some(415));
    assert_eq!(import(&[("Content-Range", "bytes 0-1/2")]), Some(400));
    assert_eq!(import(&[("If-Match", "*")]), Some(400));
    assert_eq!(import(&[("If-None-Match", "x")]), Some(400));
    assert_eq!(import(&[("Origin", "http://evil.example")]), Some(403));
    assert_eq!(import(&[("Sec-Fetch-Site", "cross-site"), ("If-Match", "*")]), Some(403));
    assert_eq!(refusal("/import?prefix=a", &[], None), Some(400));
    assert_eq!(refusal("/import?&", &[], None), None);
    for bytes in [0, super::VALUE_BYTES_MAX + 1, u64::MAX] {
        assert_eq!(refusal("/import", &[], Some(bytes)), None, "{bytes}");
    }
}

#[test]
fn content_that_does_not_match_its_digest_is_refused() {
    let body = lines(0..1500, "x");
    let sha256 = BASE64.encode(Sha256::digest(&body));
    let import = |digest: &str, at_once| {
        let (_, api) = empty();
        let field = format!("sha-256=:{digest}:");
        let fields = [("Content-Digest", field.as_str())];
        let call = Call { method: "POST", target: "/import", fields: &fields, body_bytes: None };
        let Ok(Operation::Import(import)) = api.admit(&call).decision else { panic!("it is one") };
        let mut body = Body { at_once, ..Body::of(&api, body.as_bytes()) };
        let reply = api.import(import, &mut body);
        check_form("POST /import", &reply);
        (text_of(&reply).0, text_of(&reply).1.to_owned(), count(&api))
    };
    let other = BASE64.encode(Sha256::digest(b"other"));
    for at_once in [1, 7, 1000, usize::MAX] {
        assert_eq!(import(&sha256, at_once), (200, "1500\n".to_owned(), "1500\n".into()));
        // The last piece is not stored.
        let refused = "the content does not match its digest; 1000 were stored\n".to_owned();
        assert_eq!(import(&other, at_once), (400, refused, "1000\n".into()));
    }
}

/// Entries of all kinds: keys, values at the longest, types and expiries.
fn fill(memory: &Memory) {
    let longest = usize::try_from(VALUE_BYTES_MAX).unwrap();
    let later = Time::now().after(Duration::from_secs(1000));
    let plain = |value: Vec<u8>| Entry::new(value.into());
    for (text, entry) in [
        ("a/b", plain(b"x".into())),
        ("S\u{e3}o \"\\\n\r\t\0\u{7f}\u{2028}\u{1F511}", plain(b"\"\\\n\r\t\0".into())),
        (&"\u{1}".repeat(1024), plain(vec![0xff])),
        ("escapes", plain(vec![1; longest])),
        ("quotes", plain(vec![b'"'; longest])),
        ("binary", plain(vec![0xff; longest])),
        ("text", plain(vec![b'x'; longest])),
        ("typed", plain(b"<p>".into()).with_content_type(Some("text/html; a=\"\\\"\"".into()))),
        ("later", plain(b"x".into()).with_expiry(Some(later))),
        ("both", plain(vec![0]).with_content_type(Some("a/b".into())).with_expiry(Some(later))),
    ] {
        memory.set(key(text), entry).unwrap();
    }
    for number in 0..2500 {
        memory.set(key(&format!("many:{number}")), plain(vec![b'x'; number + 1])).unwrap();
    }
}

#[test]
fn an_export_comes_back_in_whichever_pieces() {
    let (memory, api) = empty();
    fill(&memory);
    let exported = export(&api);
    for at_once in [1000, 511, 16_384, 65_536, usize::MAX] {
        let (_, api) = empty();
        let mut body = Body { at_once, ..Body::of(&api, &exported) };
        assert_eq!(text_of(&body.import()), (200, "2510\n"), "{at_once} at once");
        assert_eq!(body.reserved, 0, "{at_once} at once");
        assert!(export(&api) == exported, "{at_once} at once");
    }
    let (memory, api) = empty();
    memory.set(key("a"), Entry::new("\"\n".into())).unwrap();
    memory.set(key("b"), Entry::new((&b"\xff"[..]).into())).unwrap();
    let exported = export(&api);
    for at_once in [1, 2, 3, 5] {
        let (_, api) = empty();
        let mut body = Body { at_once, ..Body::of(&api, &exported) };
        assert_eq!(text_of(&body.import()), (200, "2\n"), "{at_once} at once");
        assert!(export(&api) == exported, "{at_once} at once");
    }
}

#[test]
fn a_body_that_is_cut_leaves_whole_lines() {
    let body = lines(0..20, "x");
    for (failure, text) in [
        (ErrorKind::UnexpectedEof, "the body ended early"),
        (ErrorKind::InvalidData, "the chunks of the body make no sense"),
        (ErrorKind::ConnectionReset, "the body cannot be read"),
    ] {
        for at in 0..=body.len() {
            let (_, api) = empty();
            let cut = &body.as_bytes()[..at];
            let whole = memchr::memchr_iter(b'\n', cut).count();
            let failure = Some(failure);
            let reply = Body { failure, ..Body::of(&api, cut) }.import();
            let text = format!("{text}; {whole} were stored\n");
            assert_eq!(text_of(&reply), (400, &*text), "cut at {at}");
            assert_eq!(count(&api), format!("{whole}\n"), "cut at {at}");
        }
    }
    // An archive that is cut within its first block, too.
    let (_, api) = empty();
    let failure = Some(ErrorKind::UnexpectedEof);
    let reply = Body { failure, ..Body::of(&api, b"name\0\0\0") }.import();
    assert_eq!(text_of(&reply), (400, "the body ended early; 0 were stored\n"));
}

#[test]
fn entries_are_stored_in_pieces() {
    let pieces = |body: &str| {
        let (_, api) = empty();
        let mut body = Body::of(&api, body.as_bytes());
        assert_eq!(body.import().status(), 200);
        body.pieces
    };
    assert_eq!(pieces(&lines(0..2500, "x")), [1000, 1000, 500]);
    assert_eq!(pieces(&lines(0..1000, "x")), [1000]);
    // Four values and their keys are just more than fits.
    assert_eq!(pieces(&lines(0..8, &"x".repeat(256 << 10))), [3, 3, 2]);
    let longest = "x".repeat(2 << 20);
    let mixed = [line("a", "1"), line("b", &longest), line("c", &longest), line("d", "1")];
    assert_eq!(pieces(&mixed.concat()), [1, 1, 1, 1]);
}

#[test]
fn memory_is_reserved_for_what_is_not_stored() {
    let (_, api) = empty();
    let entries = lines(0..500, &"x".repeat(1000));
    let mut body = Body::of(&api, entries.as_bytes());
    assert_eq!(body.import().status(), 200);
    assert!((500_000..2 << 20).contains(&body.reserved_most), "{}", body.reserved_most);
    assert_eq!(body.reserved, 0);
    let long = [line("a", &"x".repeat(1 << 20)), line("b", &"x".repeat(1 << 20))].concat();
    let mut body = Body::of(&api, long.as_bytes());
    assert_eq!(body.import().status(), 200);
    // A line and its value, of which the next finds nothing left.
    assert!((2 << 20..3 << 20).contains(&body.reserved_most), "{}", body.reserved_most);
    assert_eq!(body.reserved, 0);
}

#[test]
fn where_there_is_no_memory_a_piece_is_stored_early_or_the_line_is_refused() {
    let (_, api) = empty();
    let (entries, room) = (lines(0..500, &"x".repeat(1000)), 256 << 10);
    let mut body = Body { room, ..Body::of(&api, entries.as_bytes()) };
    assert_eq!(text_of(&body.import()), (200, "500\n"));
    assert!(body.pieces.len() > 1, "{:?}", body.pieces);
    assert!(body.reserved_most <= room);

    let (_, api) = empty();
    let entries = lines(0..16, "x") + &line("a", &"x".repeat(1 << 20));
    let reply = Body { room, ..Body::of(&api, entries.as_bytes()) }.import();
    let refused = "line 17: too many uploads at once, try again; 16 were stored\n";
    assert_eq!(text_of(&reply), (503, refused));
    assert_eq!(reply.header("Retry-After"), Some("1"));
    assert_eq!(&*count(&api), b"16\n");
}

#[test]
fn a_line_that_can_have_no_value_is_refused_before_its_end() {
    for (bytes, text) in [(8 << 20, "x"), (8 << 20, " "), (16 << 20, "\\u0001"), (16 << 20, "\\")] {
        let (_, api) = empty();
        let endless = text.repeat(bytes / text.len());
        let entries = lines(0..16, "x") + "{\"key\":\"a\",\"value\":\"" + &endless;
        let mut body = Body::of(&api, entries.as_bytes());
        let refused = "line 17: value is too large; 16 were stored\n";
        assert_eq!(text_of(&body.import()), (413, refused), "{text}");
        assert!(body.rest.len() > bytes / 8, "{text}: {} bytes are left", body.rest.len());
        assert_eq!(body.reserved, 0);
    }
}

#[test]
fn what_the_storage_refuses_is_told_with_what_it_took() {
    let refused = "line 1: storage is full; 0 were stored\n";
    let body = lines(0..3, "x");
    assert_eq!(text_of(&import(&api_over(Full), body.as_bytes())), (507, refused));

    let memory = Memory::with_max(1 << 20);
    let api = Api::new(std::sync::Arc::new(memory), VALUE_BYTES_MAX);
    let body = lines(0..10_000, &"x".repeat(100));
    let reply = Body::of(&api, body.as_bytes()).import();
    let stored: usize = std::str::from_utf8(&count(&api)).unwrap().trim_end().parse().unwrap();
    assert!(stored >= 1000 && stored.is_multiple_of(1000), "{stored}");
    let refused = format!("line {}: storage is full; {stored} were stored\n", stored + 1);
    assert_eq!(text_of(&reply), (507, &*refused));
}

proptest! {
    #[test]
    fn any_entry_comes_back(key in "\\PC{1,20}|.{1,20}", value in prop::collection::vec(any::<u8>(), 1..100), at_once in 1_usize..100) {
        let (memory, api) = empty();
        memory.set(super::key(&key), Entry::new(value.into())).unwrap();
        let exported = export(&api);
        let (_, api) = empty();
        let reply = Body { at_once, ..Body::of(&api, &exported) }.import();
        prop_assert_eq!(text_of(&reply), (200, "1\n"));
        prop_assert_eq!(export(&api), exported);
    }

    #[test]
    fn any_bytes_are_imported_or_refused(body in prop::collection::vec(any::<u8>(), 0..600), at_once in 1_usize..600) {
        let (_, api) = empty();
        let mut text = line("a", "1");
        write!(text, "{}", line("b", "2")).unwrap();
        let body = [text.as_bytes(), &body].concat();
        let reply = Body { at_once, ..Body::of(&api, &body) }.import();
        prop_assert!([200, 400].contains(&reply.status()));
        prop_assert_eq!(answer(&api, "GET /kv/b", b"").status(), 200);
    }
}
