//! Tar archives: lists that go out as one, and imports of those that come in, written here
//! or by hand.

use super::collection::{KEYS_OF_ALL_KINDS, both, get};
use super::{Api, VALUE_BYTES_MAX, answer, api_over, call, key};
use crate::storage::{Blocking as _, Entry, KEY_BYTES_MAX, Memory, Time};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const BLOCK: usize = 512;
const END: &[u8] = &[0; 2 * BLOCK];

const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";
const V7: &[u8] = b"";

/// A header before its sum is in it.
fn header(magic: &[u8], kind: u8, name: &[u8], size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..124].copy_from_slice(b"0000644\x000000000\x000000000\0");
    block[124..124 + size.len()].copy_from_slice(size);
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[257..257 + magic.len()].copy_from_slice(magic);
    block
}

fn with_sum(mut header: Vec<u8>) -> Vec<u8> {
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut blocks = content.to_vec();
    blocks.resize(content.len().next_multiple_of(BLOCK), 0);
    blocks
}

/// A member: its header and its content.
fn member(magic: &[u8], kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", content.len());
    [with_sum(header(magic, kind, name, size.as_bytes())), padded(content)].concat()
}

fn plain(name: &str, content: &str) -> Vec<u8> {
    member(USTAR, b'0', name.as_bytes(), content.as_bytes())
}

/// An extended header with records.
fn extended(kind: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let records: Vec<_> = records.iter().map(|(name, value)| record(name, value)).collect();
    member(USTAR, kind, b"././@PaxHeader", &records.concat())
}

fn record(name: &str, value: &[u8]) -> Vec<u8> {
    let text = [b" ", name.as_bytes(), b"=", value, b"\n"].concat();
    let has_length = |bytes: &usize| bytes.to_string().len() + text.len() == *bytes;
    let bytes = (text.len()..text.len() + 9).find(has_length).unwrap();
    [bytes.to_string().as_bytes(), &text].concat()
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [&members.concat(), END].concat()
}

/// Imports an archive, and gives status and text.
fn import(api: &Api, archive: &[u8]) -> (u16, String) {
    let call = call("POST /import", Some(archive.len() as u64));
    let reply = api.answer(&call, Bytes::copy_from_slice(archive));
    (reply.status(), String::from_utf8(reply.body().to_vec()).unwrap())
}

/// The archive of a list.
fn export(api: &Api, target: &str) -> Vec<u8> {
    get(api, target).parts.concat()
}

fn empty_api() -> Api {
    api_over(Memory::new())
}

/// The keys and values that an archive has, each `key=value`.
fn entries_of(archive: &[u8]) -> Vec<String> {
    let api = empty_api();
    let told = import(&api, archive);
    assert_eq!(told.0, 200, "{}", told.1);
    let lines = get(&api, "/kv").text();
    let entries = lines.lines().map(|line| {
        let key = percent_decode_str(line).decode_utf8().unwrap();
        let value = answer(&api, &format!("GET /kv/{line}"), b"").body().to_vec();
        format!("{key}={}", String::from_utf8(value).unwrap())
    });
    entries.collect()
}

#[test]
fn an_entry_without_anything_else_is_a_header_and_its_value() {
    for api in both(|memory| {
        memory.set(key("a/b"), Entry::new("1".into())).unwrap();
        memory.set(key("c"), Entry::new("x".repeat(BLOCK).into())).unwrap();
    }) {
        let archive = export(&api, "/kv?tar");
        let members = [plain("a/b", "1"), plain("c", &"x".repeat(BLOCK))];
        assert_eq!(archive, self::archive(&members));
        assert_eq!(export(&api, "/kv?tar&limit=2"), archive);
        assert_eq!(export(&api, "/kv?tar"), archive, "the same bytes each time");
        assert_eq!(export(&api, "/kv?tar&prefix=nothing"), END);
        assert_eq!(export(&api, "/kv?tar&prefix=nothing&limit=1"), END);
    }
}

#[test]
fn records_have_what_a_header_cannot() {
    let longest = "\u{e9}".repeat(KEY_BYTES_MAX / 2);
    let (fits, is_longer) = ("n".repeat(100), "n".repeat(101));
    let keys: [(&str, &str, &[&str]); 14] = [
        ("plain", "plain", &[]),
        ("new\nline", "new\nline", &[]),
        (&fits, &fits, &[]),
        (&is_longer, &is_longer, &["path"]),
        ("\u{e9}", "\u{e9}", &["path"]),
        (&longest, &longest, &["path"]),
        ("\0", "LKV.key=%00", &["LKV.key"]),
        ("/", "LKV.key=%2F", &["LKV.key"]),
        ("/etc/passwd", "LKV.key=%2Fetc%2Fpasswd", &["LKV.key"]),
        ("docs/", "LKV.key=docs%2F", &["LKV.key"]),
        ("a//b", "LKV.key=a%2F%2Fb", &["LKV.key"]),
        ("../clear", "LKV.key=..%2Fclear", &["LKV.key"]),
        ("a/./b", "LKV.key=a%2F.%2Fb", &["LKV.key"]),
        ("LKV.key=a", "LKV.key=LKV.key=a", &["LKV.key"]),
    ];
    for (text, path, records) in keys {
        let memory = Memory::new();
        memory.set(key(text), Entry::new("1".into())).unwrap();
        let archive = export(&api_over(memory), "/kv?tar");
        let mut expected = Vec::new();
        if !records.is_empty() {
            let value = |name: &str| if name == "path" { path } else { text };
            let records: Vec<_> =
                records.iter().map(|name| (*name, value(name).as_bytes())).collect();
            expected = extended(b'x', &records);
        }
        assert_eq!(&archive[..expected.len()], expected, "{text:?}");
        let name = &archive[expected.len()..][..100];
        let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
        assert!(path.as_bytes().starts_with(&name) && name.len() >= path.len().min(99), "{text:?}");
        assert_eq!(entries_of(&archive), [format!("{text}=1")]);
    }
}

#[test]
fn the_path_in_an_archive_is_that_of_one_key_alone() {
    let rivals = ["a/", "a%2F", "LKV.key=a%2F", "LKV.key=LKV.key=a%2F"];
    let paths: Vec<_> = rivals
        .iter()
        .map(|rival| {
            let memory = Memory::new();
            memory.set(key(rival), Entry::new("1".into())).unwrap();
            let archive = export(&api_over(memory), "/kv?tar");
            let header = archive.chunks(BLOCK).rev().nth(3).unwrap();
            header[..100].to_vec()
        })
        .collect();
    for (at, path) in paths.iter().enumerate() {
        assert!(!paths[at + 1..].contains(path), "{}", rivals[at]);
    }
}

#[test]
fn a_long_value_is_archived_in_parts() {
    const BYTES: usize = (5 << 19) + 2;
    const PART_BYTES_MAX: usize = (1 << 20) + 4 * BLOCK;
    let value = |seed: usize| (0..BYTES).map(|at| (at * seed).to_le_bytes()[0]).collect::<Vec<_>>();
    let fill = |memory: &Memory| {
        for (seed, name) in [(7, "a"), (13, "b"), (17, "c")] {
            memory.set(key(name), Entry::new(value(seed).into())).unwrap();
        }
    };
    let bytes = |seed| member(USTAR, b'0', b"x", &value(seed))[BLOCK..].to_vec();
    for api in both(fill) {
        let whole = get(&api, "/kv?tar");
        assert!(whole.parts.iter().all(|part| part.len() <= PART_BYTES_MAX));
        let archive = whole.parts.concat();
        let size = BLOCK + BYTES.next_multiple_of(BLOCK);
        assert_eq!(archive.len(), 3 * size + END.len());
        for (at, seed) in [7, 13, 17].into_iter().enumerate() {
            assert!(archive[at * size + BLOCK..(at + 1) * size] == bytes(seed), "{at}");
        }
        // A page is an archive of its own, and ends past a MiB.
        let page = get(&api, "/kv?tar&limit=3");
        assert_eq!(page.next().as_deref(), Some("/kv?limit=3&tar&after=a"));
        assert!(page.parts.concat() == [&archive[..size], END].concat());
    }
}

#[test]
fn keys_of_all_kinds_come_back() {
    let fill = |memory: &Memory| {
        for text in KEYS_OF_ALL_KINDS {
            memory.set(key(text), Entry::new((*text).to_owned().into())).unwrap();
        }
    };
    for api in both(fill) {
        let archive = export(&api, "/kv?tar");
        for other in both(|_| {}) {
            let count = format!("{}\n", KEYS_OF_ALL_KINDS.len());
            assert_eq!(import(&other, &archive), (200, count));
            assert_eq!(export(&other, "/kv?tar"), archive);
            assert_eq!(get(&other, "/kv?values").text(), get(&api, "/kv?values").text());
        }
    }
}

/// An archive by hand: what it is, its members, and what it has.
type Foreign<'a> = (&'a str, Vec<Vec<u8>>, Vec<&'a str>);

fn are_read(archives: impl IntoIterator<Item = Foreign<'static>>) {
    for (what, members, entries) in archives {
        assert_eq!(entries_of(&archive(&members)), entries, "{what}");
    }
}

#[test]
fn headers_of_all_forms_are_read() {
    let with_field = |magic, at: usize, text: &[u8]| {
        let mut header = header(magic, b'0', b"name", b"00000000001\0");
        header[at..at + text.len()].copy_from_slice(text);
        vec![with_sum(header), padded(b"1")]
    };
    let with_size =
        |magic, size: &[u8]| vec![with_sum(header(magic, b'0', b"name", size)), padded(b"1")];
    let mut signed = header(V7, 0, "caf\u{e9}".as_bytes(), b"1");
    let sum: i32 = signed.iter().map(|byte| i32::from(byte.cast_signed())).sum();
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let whole_field = [b'n'; 100];
    let by_base_256 = b"\x80\0\0\0\0\0\0\0\0\0\0\x01";
    are_read([
        ("nothing", vec![], vec![]),
        ("ustar", vec![plain("a", "1"), plain("b/c", "2")], vec!["a=1", "b/c=2"]),
        ("the same name twice", vec![plain("a", "1"), plain("a", "2")], vec!["a=2"]),
        (
            "the old form",
            vec![member(V7, 0, b"a", b"1"), member(V7, b'0', b"b", b"2")],
            vec!["a=1", "b=2"],
        ),
        ("a contiguous file", vec![member(USTAR, b'7', b"a", b"1")], vec!["a=1"]),
        ("a prefix", with_field(USTAR, 345, b"a/dir"), vec!["a/dir/name=1"]),
        ("the place of a prefix in GNU's", with_field(GNU, 345, b"14512345670\0"), vec!["name=1"]),
        ("the place of one in the old form", with_field(V7, 345, b"text"), vec!["name=1"]),
        (
            "a name without an end",
            vec![member(USTAR, b'0', &whole_field, b"1")],
            vec![
                "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn=1",
            ],
        ),
        ("a sum of signed bytes", vec![signed, padded(b"1")], vec!["caf\u{e9}=1"]),
        ("a size with spaces", with_size(V7, b"          1 "), vec!["name=1"]),
        ("a size of twelve digits", with_size(USTAR, b"000000000001"), vec!["name=1"]),
        ("a size by base 256", with_size(GNU, by_base_256), vec!["name=1"]),
    ]);
}

#[test]
fn a_path_is_a_key_but_for_a_dot_in_front() {
    are_read([(
        "a tree",
        vec![
            member(USTAR, b'5', b"./", b""),
            plain("./a", "1"),
            member(USTAR, b'5', b"./b/", b""),
            member(USTAR, b'5', b"no/slash", b""),
            member(V7, 0, b"old/", b""),
            plain("././b/c", "2"),
            plain(".hidden", "3"),
            plain("../up", "4"),
            plain("/top", "5"),
        ],
        vec!["../up=4", ".hidden=3", "/top=5", "a=1", "b/c=2"],
    )]);
}

#[test]
fn extended_headers_are_read() {
    let x = |records: &[(&str, &[u8])]| extended(b'x', records);
    let of_three = vec![with_sum(header(USTAR, b'0', b"a", b"0")), padded(b"123")];
    are_read([
        (
            "a long name by GNU",
            vec![
                member(GNU, b'K', b"././@LongLink", b"unused\0"),
                member(GNU, b'L', b"././@LongLink", b"long\0unused"),
                member(GNU, b'0', b"lo", b"1"),
                member(GNU, b'0', b"next", b"2"),
            ],
            vec!["long=1", "next=2"],
        ),
        (
            "a path in a record",
            vec![x(&[("mtime", b"1.5"), ("path", b"a=b\nc")]), plain("x", "1"), plain("y", "2")],
            vec!["a=b\nc=1", "y=2"],
        ),
        (
            "a record twice",
            vec![x(&[("path", b"a"), ("path", b"b")]), plain("x", "1")],
            vec!["b=1"],
        ),
        (
            "two extended headers",
            vec![x(&[("path", b"a")]), x(&[("comment", b"c")]), plain("x", "1")],
            vec!["a=1"],
        ),
        (
            "a key in a record",
            vec![x(&[("LKV.key", b"./a\0/"), ("path", b"b/")]), plain("c/", "1")],
            vec!["./a\0/=1"],
        ),
        (
            "a size in a record",
            [vec![x(&[("size", b"3")])], of_three, vec![plain("b", "1")]].concat(),
            vec!["a=123", "b=1"],
        ),
        (
            "Solaris' extended header",
            vec![extended(b'X', &[("path", b"a")]), plain("x", "1")],
            vec!["a=1"],
        ),
        (
            "records for all",
            vec![
                extended(b'g', &[("comment", b"0123"), ("path", b"all")]),
                x(&[("path", b"one")]),
                plain("x", "1"),
                plain("y", "2"),
                x(&[("path", b"")]),
                plain("z", "3"),
                extended(b'g', &[("path", b"")]),
                plain("w", "4"),
            ],
            vec!["all=2", "one=1", "w=4", "z=3"],
        ),
    ]);
}

#[test]
fn the_end_of_an_archive_may_be_short_or_filled() {
    let a = plain("a", "1");
    for fill in [BLOCK, BLOCK + 1, 2 * BLOCK, 20 * BLOCK, 1 << 20] {
        assert_eq!(entries_of(&[a.clone(), vec![0; fill]].concat()), ["a=1"], "{fill}");
    }
    for zeros in [BLOCK, END.len(), 20 * BLOCK] {
        assert_eq!(import(&empty_api(), &vec![0; zeros]), (200, "0\n".to_owned()), "{zeros}");
    }
}

const NO_HEADER: &str = "the header is not one of a tar archive";
const SHORT: &str = "the archive ended early";
const NO_FILE: &str = "it is neither a plain file nor a directory";
const NO_RECORDS: &str = "the extended header makes no sense";
const TOO_LONG: &str = "the extended headers are longer than 256 KiB";
const GOES_ON: &str = "more follows the end of the archive";

/// An archive by hand: what is wrong with it, its members, status and text.
type Hostile<'a> = (&'a str, Vec<Vec<u8>>, u16, &'a str);

/// Each is refused where it is wrong, and the entry before that is stored.
fn are_refused<'a>(archives: impl IntoIterator<Item = Hostile<'a>>) {
    for (what, members, status, text) in archives {
        let api = empty_api();
        let told = import(&api, &archive(&[vec![plain("a", "1")], members.clone()].concat()));
        assert_eq!(told, (status, format!("entry 2: {text}; 1 were stored\n")), "{what}");
        assert_eq!(get(&api, "/kv").text(), "a\n", "{what}");
        // With that in front it is an archive as well.
        let first = archive(&members);
        let told = import(&empty_api(), &first);
        let is_zero = first.starts_with(&[0; BLOCK]);
        let expected = (status, format!("entry 1: {text}; 0 were stored\n"));
        assert!(told == expected || is_zero, "{what}: {told:?}");
    }
}

fn header_of_size(size: &[u8]) -> Vec<u8> {
    with_sum(header(GNU, b'0', b"name", size))
}

#[test]
fn what_is_no_plain_file_is_refused() {
    let kinds = [
        ("a hard link", b'1'),
        ("a symbolic link", b'2'),
        ("a character device", b'3'),
        ("a block device", b'4'),
        ("a fifo", b'6'),
        ("a sparse file of GNU", b'S'),
        ("a continued file of GNU", b'M'),
        ("a directory with names of GNU", b'D'),
        ("a label of GNU", b'V'),
        ("an unknown kind", b'\xff'),
    ];
    are_refused(
        kinds.map(|(what, kind)| (what, vec![member(USTAR, kind, b"name", b"")], 400, NO_FILE)),
    );
    let of_sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "")];
    are_refused(of_sparse.map(|(name, value)| {
        let members = vec![extended(b'x', &[(name, value.as_bytes())]), plain("b", "2")];
        (name, members, 400, NO_FILE)
    }));
    let of_a_block = extended(b'x', &[("size", b"512")]);
    are_refused([
        ("a directory with a content", vec![member(USTAR, b'5', b"d", b"1")], 400, NO_FILE),
        ("an old one", vec![member(V7, 0, b"d/", b"1")], 400, NO_FILE),
        (
            "one by a record",
            vec![of_a_block, member(USTAR, b'5', b"d", b""), vec![0; BLOCK]],
            400,
            NO_FILE,
        ),
    ]);
}

#[test]
fn what_is_no_entry_is_refused() {
    let x = |name: &str, value: &[u8]| vec![extended(b'x', &[(name, value)]), plain("b", "2")];
    let (not_utf8, too_long) = ("key is not UTF-8", "key is longer than 1024 bytes");
    let longest_key = "k".repeat(KEY_BYTES_MAX);
    let longest = "v".repeat(usize::try_from(VALUE_BYTES_MAX).unwrap());
    are_refused([
        ("an empty file", vec![plain("name", "")], 400, "value cannot be empty"),
        ("no name", vec![plain("", "1")], 400, "key cannot be empty"),
        ("a name", vec![member(USTAR, b'0', b"\xff", b"1")], 400, not_utf8),
        ("a long name", vec![member(GNU, b'L', b"L", b"\xff"), plain("b", "2")], 400, not_utf8),
        ("a path", x("path", b"\xff"), 400, not_utf8),
        ("a key", x("LKV.key", b"\xff"), 400, not_utf8),
        ("a long path", x("path", format!("{longest_key}k").as_bytes()), 400, too_long),
        ("a long key", x("LKV.key", format!("{longest_key}k").as_bytes()), 400, too_long),
        ("a value", vec![plain("name", &format!("{longest}v"))], 413, "value is too large"),
        ("a type", x("SCHILY.xattr.user.mime_type", b"text"), 400, "content type is malformed"),
        ("a type", x("SCHILY.xattr.user.mime_type", b"\xff"), 400, "content type is malformed"),
        ("an expiry", x("LKV.expires", b"soon"), 400, "expires is not a time"),
        ("an expiry", x("LKV.expires", b"\xff"), 400, "expires is not a time"),
    ]);
    let members = [x("path", longest_key.as_bytes()), vec![plain("name", &longest)]].concat();
    assert_eq!(import(&empty_api(), &archive(&members)), (200, "2\n".to_owned()));
}

#[test]
fn a_header_that_makes_no_sense_is_refused() {
    are_refused([0, 99, 134, 149, 300, 511].map(|at| {
        let mut member = plain("name", "1");
        member[at] ^= 1;
        ("a bit", vec![member], 400, NO_HEADER)
    }));
    let sizes: [(&str, &[u8]); 6] = [
        ("2^64", b"\x80\0\0\x01\0\0\0\0\0\0\0\0"),
        ("2^95 and more", b"\x81\0\0\0\0\0\0\0\0\0\0\x01"),
        ("-1", &[0xff; 12]),
        ("-1 in digits", b"-1"),
        ("+1 in digits", b"+1"),
        ("decimal digits", b"00000000009\0"),
    ];
    are_refused(sizes.map(|(what, size)| (what, vec![header_of_size(size)], 400, NO_HEADER)));
    let sizes: [(&str, &[u8]); 3] = [
        ("2^63", b"\x80\0\0\0\x80\0\0\0\0\0\0\0"),
        ("2^64 - 1", b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("2^36 - 1 in digits", b"777777777777"),
    ];
    are_refused(
        sizes.map(|(what, size)| (what, vec![header_of_size(size)], 413, "value is too large")),
    );
}

#[test]
fn records_that_make_no_sense_are_refused() {
    let texts: [&[u8]; 12] = [
        b"\0\0\0\0",
        b" path=a\n",
        b"+10 path=a\n",
        b"11 path=a\n",
        b"8 path=a\n",
        b"9 path=ab",
        b"7 path\n",
        b"0 path=a\n",
        b"1 path=a\n",
        b"2 \n",
        b"3 \n",
        b"18446744073709551616 path=a\n",
    ];
    for text in texts {
        let what = text.escape_ascii().to_string();
        let members = vec![member(USTAR, b'x', b"x", text), plain("b", "2")];
        are_refused([(&*what, members, 400, NO_RECORDS)]);
    }
    let size = |digits: &[u8]| vec![extended(b'x', &[("size", digits)]), plain("b", "2")];
    are_refused([
        ("2^64", size(b"18446744073709551616"), 400, NO_RECORDS),
        ("-1", size(b"-1"), 400, NO_RECORDS),
        ("+1", size(b"+1"), 400, NO_RECORDS),
        ("2^63", size(b"9223372036854775808"), 413, "value is too large"),
    ]);
}

#[test]
fn extended_headers_have_a_bound() {
    let huge = |kind, size: &[u8]| vec![with_sum(header(USTAR, kind, b"x", size))];
    let large = |kind| {
        let comment = record("comment", &vec![b'c'; 100_000]);
        member(USTAR, kind, b"x", &comment)
    };
    let b = plain("b", "2");
    are_refused([
        ("8 GiB for one", huge(b'x', b"77777777777\0"), 413, TOO_LONG),
        ("8 GiB for all", huge(b'g', b"77777777777\0"), 413, TOO_LONG),
        ("a name of 8 GiB", huge(b'L', b"77777777777\0"), 413, TOO_LONG),
        ("a link of 8 GiB", huge(b'K', b"77777777777\0"), 413, TOO_LONG),
        ("2^64 - 1", huge(b'x', b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), 413, TOO_LONG),
        (
            "one behind the other",
            vec![large(b'x'), large(b'g'), large(b'x'), b.clone()],
            413,
            TOO_LONG,
        ),
        ("no end", vec![member(USTAR, b'g', b"x", b""); 1000], 413, TOO_LONG),
        ("records for nothing", vec![extended(b'x', &[("path", b"a")])], 400, NO_HEADER),
        ("a long name for nothing", vec![member(GNU, b'L', b"L", b"a\0")], 400, NO_HEADER),
    ]);
    // Each entry has its own.
    let members = vec![vec![large(b'x'), large(b'g'), b]; 3].concat();
    assert_eq!(import(&empty_api(), &archive(&members)), (200, "3\n".to_owned()));
}

#[test]
fn nothing_follows_the_end() {
    let b = plain("b", "2");
    are_refused([
        ("a block of zeros, and more", vec![vec![0; BLOCK], b.clone()], 400, GOES_ON),
        ("two archives", vec![END.to_vec(), b], 400, GOES_ON),
        ("text", vec![vec![0; 4 * BLOCK], b"text".to_vec()], 400, GOES_ON),
        ("no end", vec![vec![0; (16 << 20) + BLOCK]], 400, GOES_ON),
    ]);
}

#[test]
fn an_archive_that_is_cut_is_refused_wherever_that_is() {
    let roomy_api = || Api::new(Arc::new(Memory::new()), 2 * BLOCK as u64);
    let members = [
        // Without padding: all that is cut off is of the value.
        plain("a", &"1".repeat(2 * BLOCK)),
        extended(b'x', &[("path", b"b")]),
        plain("x", "2"),
        member(USTAR, b'5', b"d/", b""),
        member(GNU, b'L', b"L", b"c\0"),
        plain("x", "3"),
    ];
    let whole = archive(&members);
    let ends = [3, 7, 12].map(|blocks| blocks * BLOCK);
    let number = |cut: usize| {
        let starts = [0, 3, 7, 8, 12].map(|blocks| blocks * BLOCK);
        starts.iter().filter(|start| cut >= **start).count()
    };
    let beyond = [0, 1, 99, 257, 511];
    for cut in (BLOCK..whole.len() - END.len())
        .step_by(BLOCK)
        .flat_map(|end| beyond.into_iter().map(move |bytes| end + bytes))
    {
        let api = roomy_api();
        let stored = ends.iter().filter(|end| cut >= **end).count();
        let text = format!("entry {}: {SHORT}; {stored} were stored\n", number(cut));
        assert_eq!(import(&api, &whole[..cut]), (400, text), "cut at {cut}");
        assert_eq!(get(&api, "/kv?count").text(), format!("{stored}\n"));
    }
    for cut in whole.len() - END.len()..whole.len() - END.len() + BLOCK {
        let text = format!("entry 5: {SHORT}; 3 were stored\n");
        assert_eq!(import(&roomy_api(), &whole[..cut]), (400, text), "cut at {cut}");
    }
}

#[test]
fn what_is_no_archive_is_told_so() {
    let gzip = [b"\x1f\x8b\x08\0".to_vec(), vec![b'x'; 4 * BLOCK]].concat();
    let text = "the import is neither lines of JSON nor a tar archive\n".to_owned();
    let header_alone = &plain("a", "1")[..BLOCK - 1];
    for body in [&gzip[..], header_alone, &[0; BLOCK - 1], &[b'0'; 2 * BLOCK]] {
        assert_eq!(import(&empty_api(), body), (400, text.clone()));
    }
}

#[test]
fn an_expiry_that_is_over_is_counted_and_not_stored() {
    let members = [
        extended(b'x', &[("LKV.expires", b"2001-01-01T00:00:00.5Z")]),
        plain("a", "1"),
        plain("b", "2"),
    ];
    let api = empty_api();
    assert_eq!(import(&api, &archive(&members)), (200, "2\n".to_owned()));
    assert_eq!(get(&api, "/kv").text(), "b\n");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_archive_of_any_entries_has_all_of_them(
        entries in prop::collection::btree_map(
            prop_oneof![
                prop::string::string_regex("[a/.\0\n=\u{e9}%]{1,12}").unwrap(),
                prop::string::string_regex("(?s).{1,120}").unwrap(),
            ],
            (
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 1..=100),
                    prop::collection::vec(Just(0), 1..=100),
                ],
                prop::option::of("[a-z]{1,9}/[a-z]{1,9}(; [a-z]=\"[ -!#-~&&[^\\\\]]{0,9}\")?"),
                prop::option::of(60_000_u64..1 << 46),
            ),
            0..12,
        ),
    ) {
        let (memory, other) = (Memory::new(), Memory::new());
        let now = Time::now();
        for (text, (value, content_type, expires)) in &entries {
            let expiry = expires.map(|milliseconds| now.after(Duration::from_millis(milliseconds)));
            let content_type = content_type.as_deref().map(Into::into);
            let entry = Entry::new(value.clone().into());
            let entry = entry.with_content_type(content_type).with_expiry(expiry);
            memory.set(key(text), entry).unwrap();
        }
        let archive = export(&api_over(memory.clone()), "/kv?tar");
        prop_assert_eq!(archive.len() % BLOCK, 0);
        let count = format!("{}\n", entries.len());
        prop_assert_eq!(import(&api_over(other.clone()), &archive), (200, count));
        for text in entries.keys() {
            prop_assert_eq!(other.get(&key(text)).unwrap(), memory.get(&key(text)).unwrap());
        }
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let members = [
            extended(b'x', &[("path", b"b"), ("size", b"1"), ("LKV.expires", b"9000-01-01T00:00:00Z")]),
            plain("x", "2"),
            member(GNU, b'L', b"L", b"c\0"),
            plain("x", "3"),
        ];
        let mut bytes = archive(&members);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut.index(bytes.len()));
        let (status, text) = import(&empty_api(), &bytes);
        prop_assert!(matches!(status, 200 | 400 | 413), "{}", text);
    }
}
