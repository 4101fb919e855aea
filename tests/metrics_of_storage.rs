//! The metrics of the engines, as `GET /metrics` shows them: they are there from the start,
//! they follow the store, and no disk keeps them.

#![cfg(target_os = "linux")]
#![allow(clippy::float_cmp, reason = "whole numbers are exact")]

use crate::support::blocking::Blocking as _;
use crate::support::http::{Connection, PATIENCE, holds_within, put_head, wait_until};
use crate::support::place::{Place, acknowledged, ends_well};
use crate::support::process::end_of;
use crate::support::promises::key;
use crate::support::server::Fixture;
use crate::support::wrappers::{attach, there_is};
use little_key_value::storage::{BatchOp, Durable, Entry, Listing};
use little_key_value::storage::{Memory, Moment, Storage, Time};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The families that every engine has.
const SHARED: &[&str] = &[
    "lkv_build_info",
    "lkv_keys",
    "lkv_stored_bytes",
    "lkv_expired_total",
    "lkv_evicted_total",
    "lkv_storage_read_only",
    "lkv_parked_waiters",
    "lkv_changes_total",
    "lkv_history_bytes",
    "lkv_history_bytes_max",
    "lkv_change_log_watchers",
];

/// Those of the engine in memory.
const MEMORY: &[&str] = &["lkv_memory_queue_length"];

/// Those of the engine on disk.
const DURABLE: &[&str] = &[
    "lkv_commit_batch_size",
    "lkv_sync_duration_seconds",
    "lkv_commit_queue_length",
    "lkv_reader_queue_length",
    "lkv_write_stall_seconds_total",
    "lkv_reopens_total",
    "lkv_compactions_total",
    "lkv_compacted_bytes_total",
    "lkv_compaction_running",
    "lkv_tables",
    "lkv_table_bytes",
    "lkv_l0_runs",
    "lkv_stale_blob_bytes",
    "lkv_memtable_bytes",
    "lkv_sealed_memtables",
    "lkv_block_cache_bytes",
    "lkv_entry_cache_bytes",
    "lkv_journal_bytes",
    "lkv_disk_free_bytes",
    "lkv_disk_reserved_bytes",
    "lkv_held_moments",
];

/// Those that are not zero from the start.
const PRESENT: &[&str] = &[
    "lkv_build_info",
    "lkv_history_bytes_max",
    "lkv_stored_bytes",
    "lkv_table_bytes",
    "lkv_tables",
    "lkv_memtable_bytes",
    "lkv_block_cache_bytes",
    "lkv_journal_bytes",
    "lkv_disk_free_bytes",
    "lkv_disk_reserved_bytes",
];

/// A store on disk, with a server before it.
struct OnDisk {
    server: Fixture,
    store: Arc<Durable>,
    directory: TempDir,
}

impl OnDisk {
    fn new() -> Self {
        Self::reopened(tempfile::tempdir().expect("a directory"))
    }

    fn reopened(directory: TempDir) -> Self {
        let store = Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"));
        let store = Arc::new(store);
        let server = Fixture::over(Arc::clone(&store) as Arc<dyn Storage>);
        Self { server, store, directory }
    }

    fn reopen(self) -> Self {
        let Self { server, store, directory } = self;
        drop(server);
        drop(store);
        Self::reopened(directory)
    }

    fn metrics(&self) -> Metrics {
        Metrics::of(&mut self.server.connect())
    }

    /// Waits until a sample has a value that is as expected.
    #[track_caller]
    fn wait(&self, name: &str, is_expected: impl Fn(f64) -> bool) {
        let mut last = f64::NAN;
        let has_come = holds_within(PATIENCE, || {
            last = self.metrics().value(name);
            is_expected(last)
        });
        assert!(has_come, "{name} stays {last}");
    }
}

/// The text of a scrape, and its samples by name and labels.
struct Metrics {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    #[track_caller]
    fn of(connection: &mut Connection) -> Self {
        let answer = connection.get("/metrics");
        assert_eq!(answer.status(), 200);
        let text = answer.text().to_owned();
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        let samples = samples.collect();
        Self { text, samples }
    }

    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        *self.samples.get(name).unwrap_or_else(|| panic!("no {name} in {}", self.text))
    }

    /// The samples of a family.
    fn family(&self, name: &str) -> Vec<(&str, f64)> {
        let is_of = |sample: &str| {
            sample.strip_prefix(name).is_some_and(|rest| {
                rest.is_empty() || ["{", "_bucket{"].iter().any(|next| rest.starts_with(next))
            })
        };
        let samples = self.samples.iter().filter(|(sample, _)| is_of(sample));
        samples.map(|(sample, value)| (&**sample, *value)).collect()
    }
}

fn plain(value: &str) -> Entry {
    Entry::new(value.as_bytes().to_vec().into())
}

/// An entry that expires at once, or soon after.
fn short_lived() -> Entry {
    plain("gone").with_expiry(Some(Time::now().after(Duration::from_millis(1))))
}

/// The reasons that writes are refused for.
#[track_caller]
fn outages(metrics: &Metrics) -> Vec<&str> {
    let all = metrics.family("lkv_storage_read_only");
    assert_eq!(all.len(), 4);
    all.into_iter().filter(|(_, value)| *value == 1.0).map(|(name, _)| name).collect()
}

#[test]
fn every_family_is_there_from_the_start() {
    let on_disk = OnDisk::new();
    let in_memory = Fixture::over(Arc::new(Memory::new()));
    for (engine, own, metrics) in [
        ("memory", MEMORY, Metrics::of(&mut in_memory.connect())),
        ("durable", DURABLE, on_disk.metrics()),
    ] {
        let build = format!(
            "lkv_build_info{{version=\"{}\",engine=\"{engine}\"}}",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(metrics.value(&build), 1.0);
        for name in SHARED.iter().chain(own) {
            assert_eq!(metrics.text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
            let samples = metrics.family(name);
            assert!(!samples.is_empty(), "{name} of {engine}");
            let is_zero = samples.iter().all(|(_, value)| *value == 0.0);
            assert!(is_zero || PRESENT.contains(name), "{samples:?}");
        }
        assert!(!metrics.text.contains("lkv_stored_bytes_max"));
    }
}

#[test]
fn promtool_finds_no_fault() {
    if !there_is("promtool") {
        return;
    }
    let on_disk = OnDisk::new();
    let in_memory = Fixture::over(Arc::new(Memory::with_max(1 << 20)));
    for metrics in [on_disk.metrics(), Metrics::of(&mut in_memory.connect())] {
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(Stdio::piped());
        promtool.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut promtool = promtool.spawn().expect("it runs");
        let mut input = promtool.stdin.take().expect("it is piped");
        input.write_all(metrics.text.as_bytes()).expect("it reads");
        drop(input);
        let output = end_of(promtool);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{told}");
    }
}

#[test]
fn figures_follow_a_store_in_memory() {
    let store = Memory::with_max(1 << 20);
    let server = Fixture::over(Arc::new(store.clone()));
    let metrics = || Metrics::of(&mut server.connect());
    assert_eq!(metrics().value("lkv_stored_bytes_max"), f64::from(1 << 20));
    for number in 0..100 {
        store.set(key(&format!("key{number}")), plain("value")).expect("there is room");
    }
    store.set(key("key1"), plain("another")).expect("there is room");
    store.delete(&key("key2")).expect("it is deleted");
    assert_eq!(metrics().value("lkv_keys"), 99.0);
    let held = u32::try_from(store.held()).expect("there is a maximum");
    assert_eq!(metrics().value("lkv_stored_bytes"), f64::from(held));
    assert_eq!(metrics().value("lkv_expired_total"), 0.0);

    // Swept, deleted, and in the way of a taker: each counts once.
    store.set(key("swept"), short_lived()).expect("there is room");
    store.batch(vec![(key("batch"), BatchOp::Set(short_lived()))]).expect("there is room");
    wait_until("two are swept", || metrics().value("lkv_expired_total") == 2.0);
    assert_eq!(metrics().value("lkv_keys"), 99.0);

    // It is kept from the first look at it on.
    assert_eq!(metrics().value("lkv_changes_total"), 0.0);
    let _revision = store.changes().expect("it has a change log").revision();
    store.set(key("key3"), plain("third")).expect("there is room");
    store.delete(&key("key4")).expect("it is deleted");
    assert_eq!(metrics().value("lkv_changes_total"), 2.0);
    assert_eq!(metrics().value("lkv_history_bytes"), 2.0 * (3.0 + 4.0));
    store.clear().expect("it is cleared");
    for name in ["lkv_keys", "lkv_stored_bytes", "lkv_history_bytes"] {
        assert_eq!(metrics().value(name), 0.0, "{name}");
    }
    assert_eq!(metrics().value("lkv_changes_total"), 2.0);
    assert!(outages(&metrics()).is_empty());
}

#[test]
fn figures_follow_a_store_on_disk() {
    let on_disk = OnDisk::new();
    let set = |store: &Durable, name: &str| {
        store.set(key(name), plain("value")).expect("the engine writes");
    };
    // Too few to be compacted.
    for number in 0..5 {
        set(&on_disk.store, &format!("key{number}"));
        set(&on_disk.store, "often");
    }
    let metrics = on_disk.metrics();
    for histogram in ["lkv_commit_batch_size", "lkv_sync_duration_seconds"] {
        assert_eq!(metrics.value(&format!("{histogram}_count")), 10.0, "{histogram}");
    }
    assert_eq!(metrics.value("lkv_commit_batch_size_bucket{le=\"1\"}"), 10.0);
    assert!(metrics.value("lkv_sync_duration_seconds_sum") > 0.0);
    assert_eq!(metrics.value("lkv_changes_total"), 10.0);
    on_disk.wait("lkv_keys", |keys| keys == 6.0);
    on_disk.wait("lkv_memtable_bytes", |bytes| bytes > 0.0);
    on_disk.wait("lkv_journal_bytes", |bytes| bytes > 0.0);
    let metrics = on_disk.metrics();
    assert!(metrics.value("lkv_disk_free_bytes") > 0.0);
    assert!(metrics.value("lkv_disk_reserved_bytes") > 0.0);

    for number in 10..30 {
        set(&on_disk.store, &format!("key{number}"));
    }
    // Nobody writes, and so much has changed that the tree is compacted.
    on_disk.wait("lkv_compactions_total", |runs| runs >= 1.0);
    on_disk.wait("lkv_compaction_running", |runs| runs == 0.0);
    on_disk.wait("lkv_stored_bytes", |bytes| bytes > 0.0);
    let tables =
        |metrics: &Metrics, name| metrics.family(name).iter().map(|(_, value)| value).sum::<f64>();
    // Another compaction may come between the two.
    wait_until("the tables hold what is stored", || {
        let metrics = on_disk.metrics();
        tables(&metrics, "lkv_table_bytes") == metrics.value("lkv_stored_bytes")
            && tables(&metrics, "lkv_tables") >= 1.0
    });
    on_disk.wait("lkv_keys", |keys| keys == 26.0);

    on_disk.store.set(key("short"), short_lived()).expect("the engine writes");
    on_disk.wait("lkv_expired_total", |expired| expired == 1.0);

    // What is counted begins anew with the process, and what there is stays.
    let on_disk = on_disk.reopen();
    let metrics = on_disk.metrics();
    assert_eq!(metrics.value("lkv_expired_total"), 0.0);
    assert!(metrics.value("lkv_stored_bytes") > 0.0);
    assert_eq!(metrics.value("lkv_keys"), 26.0);
    on_disk.store.clear().expect("it is cleared");
    on_disk.wait("lkv_keys", |keys| keys == 0.0);
    on_disk.wait("lkv_stored_bytes", |bytes| bytes == 0.0);
    assert!(outages(&on_disk.metrics()).is_empty());
    on_disk.store.close().expect("it is closed");
    assert_eq!(outages(&on_disk.metrics()), ["lkv_storage_read_only{reason=\"closed\"}"]);
}

#[test]
fn the_keys_of_a_large_store_are_estimated() {
    const KEYS: u32 = 8000;
    let on_disk = OnDisk::new();
    let name = |number: u32| key(&format!("key{number}"));
    let about = |count: f64| move |keys: f64| (keys - count).abs() <= count / 100.0;
    let all = (0..KEYS).map(|number| (name(number), BatchOp::Set(plain("value"))));
    on_disk.store.batch(all.collect()).expect("the engine writes");
    on_disk.wait("lkv_keys", about(f64::from(KEYS)));
    // Written again they are the same keys once they are merged.
    let again = (0..KEYS / 2).map(|number| (name(number), BatchOp::Set(plain("another"))));
    on_disk.store.batch(again.collect()).expect("the engine writes");
    on_disk.wait("lkv_compactions_total", |runs| runs >= 1.0);
    on_disk.wait("lkv_keys", about(f64::from(KEYS)));
    let gone = (0..KEYS / 4).map(|number| (name(number), BatchOp::Delete));
    on_disk.store.batch(gone.collect()).expect("the engine writes");
    on_disk.wait("lkv_keys", about(f64::from(KEYS - KEYS / 4)));
}

#[test]
fn a_list_of_many_pages_holds_a_moment() {
    let on_disk = OnDisk::new();
    for number in 0..10 {
        let set = on_disk.store.set(key(&format!("key{number}")), plain("value"));
        set.expect("the engine writes");
    }
    let first = Listing { keys_max: 1, moment: Moment::Hold, ..Listing::default() };
    let page = on_disk.store.list(first).expect("it is listed");
    on_disk.wait("lkv_held_moments", |moments| moments == 1.0);
    drop(page);
    on_disk.wait("lkv_held_moments", |moments| moments == 0.0);
}

#[test]
fn an_outage_is_told_by_its_reason() {
    let on_disk = OnDisk::new();
    let moved = on_disk.directory.path().with_extension("moved");
    fs::rename(on_disk.directory.path(), &moved).expect("it is ours");
    on_disk.store.set(key("key"), plain("value")).expect_err("its directory is gone");
    let lost = "lkv_storage_read_only{reason=\"directory_lost\"}";
    assert_eq!(outages(&on_disk.metrics()), [lost]);
    fs::rename(&moved, on_disk.directory.path()).expect("it is ours");
}

#[test]
fn a_disk_that_hangs_does_not_keep_the_metrics() {
    if !there_is("strace") {
        return;
    }
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    // Longer than this test waits for anything.
    let hang = attach(&process, "fsync,fdatasync,statfs:delay_enter=60000000", &[]);
    let mut writers = Vec::new();
    wait_until("a write waits for the committer", || {
        let mut writer = process.connect();
        writer.send(put_head("/kv/key", 5) + "value");
        writers.push(writer);
        Metrics::of(&mut connection).value("lkv_commit_queue_length") >= 1.0
    });
    let metrics = Metrics::of(&mut connection);
    assert_eq!(metrics.value("lkv_sync_duration_seconds_count"), 0.0, "the disk does not hang");
    drop(hang);
    for writer in &mut writers {
        assert_eq!(writer.response().status(), 200);
    }
    wait_until("the queue is empty", || {
        Metrics::of(&mut connection).value("lkv_commit_queue_length") == 0.0
    });
    acknowledged(&mut connection, "another", b"value");
    ends_well(process);
}
