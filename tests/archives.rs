//! Tar archives over HTTP, on every engine: one that went out comes back, and of one that
//! is cut the entries before that are stored.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]
#![allow(clippy::indexing_slicing, reason = "a promise that panics is not kept")]

use crate::support::blocking::Blocking as _;
use crate::support::http::Connection;
use crate::support::place::says;
use crate::support::promises::{Store, entry, fewer_if_slow, key, on_every_engine};
use crate::support::random::Random;
use crate::support::server::Fixture;
use little_key_value::storage::{Memory, Time};
use std::sync::Arc;
use std::time::Duration;

on_every_engine! {
    an_archive_comes_back
    an_archive_that_is_cut_leaves_whole_entries
}

/// A server with entries of all kinds, some of them long.
fn source(entries: usize) -> Fixture {
    let memory = Memory::new();
    let later = Time::now().after(Duration::from_secs(10_000));
    let kinds = ["a/b", "/top", "docs/", "..", "S\u{e3}o", "\n\0%2F", "\u{1F511}"];
    for number in 0..entries {
        let name = format!("{}/{number}", kinds[number % kinds.len()]);
        let value = match number % 500 {
            499 => vec![b'v'; (3 << 19) + number],
            _ => vec![number.to_le_bytes()[0]; 1 + number % 2000],
        };
        let mut entry = entry(value);
        if number % 3 == 0 {
            entry = entry.with_content_type(Some("text/html; a=\"\\\"\"".into()));
        }
        if number % 5 == 0 {
            entry = entry.with_expiry(Some(later.after(Duration::from_millis(number as u64))));
        }
        memory.set(key(&name), entry).expect("there is room");
    }
    Fixture::over(Arc::new(memory))
}

fn head_of(bytes: usize) -> String {
    format!("PUT /import HTTP/1.1\r\nHost: test\r\nContent-Length: {bytes}\r\n\r\n")
}

fn clear(connection: &mut Connection) {
    assert_eq!(connection.call("DELETE", "/clear").status(), 200);
}

fn an_archive_comes_back(store: Store) {
    let entries = fewer_if_slow(&store, 3000);
    let from = source(entries);
    let archive = from.connect().get("/kv?tar");
    assert_eq!(archive.header("Content-Type"), Some("application/x-tar"));
    assert_eq!(archive.header("Transfer-Encoding"), Some("chunked"));
    let lines = from.connect().get("/kv?values").body;

    let server = Fixture::over(Arc::clone(&store));
    let mut connection = server.connect();
    let told = format!("{entries}\n");
    says(&connection.ask("PUT", "/import", &[], &archive.body), 200, &told);
    assert!(connection.get("/kv?tar").body == archive.body);
    assert!(connection.get("/kv?values").body == lines);

    // In chunks that end in the middle of blocks, and with pages for it.
    clear(&mut connection);
    let mut target = "/kv?tar&limit=100".to_owned();
    loop {
        let page = from.connect().get(&target);
        connection.send("PUT /import HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in page.body.chunks(7777) {
            connection.send(format!("{:x}\r\n", chunk.len()));
            connection.send([chunk, b"\r\n"].concat());
        }
        connection.send("0\r\n\r\n");
        assert_eq!(connection.response().status(), 200);
        let Some(link) = page.header("Link") else { break };
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        next.expect("a link").clone_into(&mut target);
    }
    assert!(connection.get("/kv?tar").body == archive.body);
}

fn an_archive_that_is_cut_leaves_whole_entries(store: Store) {
    let from = source(fewer_if_slow(&store, 1200));
    let archive = from.connect().get("/kv?tar").body;
    let server = Fixture::over(Arc::clone(&store));
    let mut random = Random::of_this_run();
    for _ in 0..10 {
        let cut = random.below(archive.len() - 1024);
        let mut connection = server.connect();
        connection.send(head_of(archive.len()));
        connection.send(&archive[..cut]);
        connection.finish_sending();
        let answer = connection.response();
        assert_eq!(answer.status(), 400, "{}", answer.text());
        let stored = answer.text().strip_prefix("the body ended early; ");
        let stored = stored.and_then(|text| text.strip_suffix(" were stored\n"));
        let stored: usize = stored.expect("a count").parse().expect("a number");

        // They are the first of the archive, each as a whole.
        let mut connection = server.connect();
        says(&connection.get("/kv?count"), 200, &format!("{stored}\n"));
        let kept = connection.get("/kv?tar").body;
        let kept = &kept[..kept.len() - 1024];
        assert!(kept.len() <= cut && archive.starts_with(kept), "{stored} of a cut at {cut}");
        clear(&mut connection);
    }
}
