//! The durable engine in the real program on a disk that is full: sets are
//! refused, reads and deletes go on, and nothing acknowledged is lost.

#![cfg(target_os = "linux")]

use crate::support::blocking::Blocking as _;
use crate::support::http::{Connection, Response, at_once, get_head, wait_until, wait_within};
use crate::support::place::{Place, acknowledged, ends_well, holds, holds_or_not, revision, says};
use crate::support::process::{Process, output};
use crate::support::wrappers::{is_root, under};
use bytes::Bytes;
use little_key_value::storage::{BatchOp, Change, Decision, Durable, Entry, Key, Time};
use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A limit on the size of a file is met by the journal alone.
#[test]
fn a_file_that_may_grow_no_more_is_a_full_disk() {
    const LIMIT: &str = "ulimit -f 65536; exec \"$@\"";
    let place = Place::with_a_store();
    let arguments = place.arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    let process = Process::run(under(&["bash", "-c", LIMIT, "bash"], None, &arguments));
    let mut connection = process.connect();
    let value = vec![b'x'; 1 << 20];
    let mut stored = 0;
    let mut told = revision(&mut connection);
    let refused = loop {
        let answer = connection.put(&format!("/kv/{stored}"), &value);
        if answer.status() != 200 || stored > 200 {
            break answer;
        }
        stored += 1;
        told = revision(&mut connection);
    };
    says(&refused, 507, "storage is full\n");
    let refusal = "storage takes no writes: the disk is full\n";
    says(&connection.put("/kv/more", b"x"), 503, refusal);
    says(&connection.get("/healthz"), 503, refusal);
    says(&connection.get("/readyz"), 503, refusal);
    says(&connection.get("/livez"), 200, "ok\n");
    holds(&mut connection, "kept", b"kept");
    assert_eq!(revision(&mut connection), told);
    assert_eq!(process.stop().0, Some(1));

    let process = place.start();
    let mut connection = process.connect();
    for index in 0..stored {
        holds(&mut connection, &index.to_string(), &value);
    }
    holds_or_not(&mut connection, &stored.to_string(), &value);
    // Nobody was told of it.
    let is_there = connection.get(&format!("/kv/{stored}")).status() == 200;
    assert_eq!(revision(&mut connection) != told, is_there);
    acknowledged(&mut connection, "more", b"x");
    ends_well(process);
}

#[test]
fn a_store_that_does_not_fit_at_all_is_one_line_and_1() {
    const LIMIT: &str = "ulimit -f 1024; exec \"$@\"";
    let place = Place::new();
    let arguments = [&place.arguments()[..], &["--log-level".to_owned(), "off".to_owned()]];
    let arguments = arguments.concat();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = output(under(&["bash", "-c", LIMIT, "bash"], None, &arguments));
    let stderr = String::from_utf8(ended.stderr).expect("the program writes text");
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("File too large") && !stderr.contains("Os {"), "{stderr}");
    // What it has begun is no hindrance.
    ends_well(place.start());
}

/// A file system of its own, gone when it is dropped.
struct Disk {
    mounted_on: TempDir,
}

impl Disk {
    /// One of that size, where that is permitted.
    fn new(mebibytes: usize) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let mounted_on = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "disk"]);
        let mounted = mount.arg(mounted_on.path()).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            eprintln!("skipped: no file system can be mounted here");
            return None;
        }
        Some(Self { mounted_on })
    }

    fn place(&self) -> Place {
        let directory = tempfile::tempdir_in(self.mounted_on.path()).expect("a directory");
        Place { directory }
    }

    /// Takes room from everybody else until the file is removed.
    fn fill(&self, bytes: usize) -> PathBuf {
        let file = self.mounted_on.path().join("filler");
        fs::write(&file, vec![b'x'; bytes]).expect("there is room");
        file
    }

    fn free_bytes(&self) -> usize {
        let disk = rustix::fs::statvfs(self.mounted_on.path()).expect("it is mounted");
        (disk.f_bavail * disk.f_frsize).try_into().expect("a small disk")
    }

    /// Takes all room that is left.
    fn fill_to_the_end(&self) -> PathBuf {
        let filler = self.mounted_on.path().join("more filler");
        let mut file = fs::File::create(&filler).expect("a file");
        for bytes in [1 << 20, 4096, 1] {
            while std::io::Write::write(&mut file, &vec![b'x'; bytes]).is_ok_and(|took| took > 0) {}
        }
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open.
        Command::new("umount").arg("-l").arg(self.mounted_on.path()).status().ok();
    }
}

/// Stores values of a mebibyte until one is refused: how many were stored,
/// and the refusal.
fn store_until_refused(connection: &mut Connection, value: &[u8]) -> (usize, Response) {
    connection.set_patience(CLIENT_PATIENCE);
    for stored in 0..500 {
        let answer = connection.put(&format!("/kv/{stored}"), value);
        if answer.status() != 200 {
            return (stored, answer);
        }
    }
    panic!("a small disk takes 500 values");
}

/// How long a client waits whose write may wait for room: for more than that.
const CLIENT_PATIENCE: Duration = Duration::from_secs(90);

/// No write that is refused while room is being made has waited for less.
const WAIT_LONG: Duration = Duration::from_secs(18);

/// Whoever is refused is refused for a second if no room was gained.
const REFUSED_FOR: Duration = Duration::from_millis(1100);

/// Writes until that is stored, which has room. A write that is refused has
/// waited for it until its client has to have an answer, as may be on a machine
/// that has much else to do.
#[track_caller]
fn has_room(mut is_stored: impl FnMut() -> bool) {
    const REFUSALS_MAX: u32 = 20;
    for _ in 0..REFUSALS_MAX {
        let begun = Instant::now();
        if is_stored() {
            return;
        }
        let waited = begun.elapsed();
        assert!(waited > WAIT_LONG, "refused after {waited:?}");
        thread::sleep(REFUSED_FOR);
    }
    panic!("refused {REFUSALS_MAX} times");
}

/// The same where it may be refused before there is room.
fn will_have_room(is_stored: impl FnMut() -> bool) {
    wait_within(2 * CLIENT_PATIENCE, "there is room", is_stored);
}

#[test]
fn a_full_disk_refuses_sets_and_takes_them_again_once_there_is_room() {
    // Its reserve is large enough for compaction.
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let filler = disk.fill(340 << 20);
    let process = place.start();
    let mut connection = process.connect();
    let value = vec![b'x'; 1 << 20];
    let (stored, refused) = store_until_refused(&mut connection, &value);
    assert!(stored > 5, "{stored} values");
    says(&refused, 507, "storage is full\n");
    let refusal = "storage takes no writes: the disk is full\n";
    let told = revision(&mut connection);
    says(&connection.put("/kv/more", &value), 503, refusal);
    says(&connection.get("/healthz"), 503, refusal);
    says(&connection.get("/readyz"), 503, refusal);
    says(&connection.get("/livez"), 200, "ok\n");
    assert_eq!(revision(&mut connection), told);
    for index in 0..stored {
        holds(&mut connection, &index.to_string(), &value);
    }
    // Deleting may make room, so it is let through.
    assert_eq!(connection.call("DELETE", "/kv/0").status(), 200);
    says(&connection.get("/kv/0"), 404, "key not found\n");
    let deleted = revision(&mut connection);
    assert_eq!((&deleted.0, deleted != told), (&told.0, true));

    fs::remove_file(filler).expect("the filler is there");
    wait_until("it is well again", || connection.get("/readyz").status() == 200);
    acknowledged(&mut connection, "more", &value);
    ends_well(process);
    let process = place.start();
    let mut connection = process.connect();
    says(&connection.get("/kv/0"), 404, "key not found\n");
    for index in 1..stored {
        holds(&mut connection, &index.to_string(), &value);
    }
    holds(&mut connection, "more", &value);
    ends_well(process);
}

#[test]
fn clearing_makes_room_on_a_full_disk() {
    let Some(disk) = Disk::new(96) else { return };
    let place = disk.place();
    let process = place.start();
    let mut connection = process.connect();
    let value = vec![b'x'; 1 << 20];
    let (stored, refused) = store_until_refused(&mut connection, &value);
    says(&refused, 507, "storage is full\n");
    assert_eq!(connection.call("DELETE", "/clear").status(), 200);
    says(&connection.get("/kv/0"), 404, "key not found\n");
    ends_well(process);
    let process = place.start();
    let mut connection = process.connect();
    for index in 0..stored {
        says(&connection.get(&format!("/kv/{index}")), 404, "key not found\n");
    }
    ends_well(process);
}

#[test]
fn what_expires_makes_room_on_a_full_disk() {
    // Longer where a disk is not full before the first has expired.
    for seconds in [5, 20, 80] {
        let Some(disk) = Disk::new(512) else { return };
        if expires_on_a_full_disk(&disk, Duration::from_secs(seconds)) {
            return;
        }
    }
    panic!("a small disk is full at some time");
}

/// Whether the disk was full before any had expired.
fn expires_on_a_full_disk(disk: &Disk, ttl: Duration) -> bool {
    let place = disk.place();
    let _filler = disk.fill(300 << 20);
    let process = place.start();
    let mut connection = process.connect().with_patience(CLIENT_PATIENCE);
    acknowledged(&mut connection, "kept", b"kept");
    let value = vec![b'x'; 200_000];
    let begun = Instant::now();
    let refused = (0..5000).take_while(|_| begun.elapsed() < ttl).find_map(|index| {
        let answer = connection.put(&format!("/kv/{index}?ttl={}s", ttl.as_secs()), &value);
        (answer.status() != 200).then_some((index, answer))
    });
    let Some((stored, refused)) = refused else { return false };
    says(&refused, 507, "storage is full\n");
    let last = format!("/kv/{}", stored - 1);
    let bound = (ttl + CLIENT_PATIENCE).saturating_sub(begun.elapsed());
    wait_within(bound, "it expires", || connection.get(&last).status() == 404);
    // It is not refused for long because of what nobody can read any more.
    will_have_room(|| connection.put("/kv/more", &value).status() == 200);
    holds(&mut connection, "kept", b"kept");
    ends_well(process);
    true
}

/// They are where the keys are, and there is no room to write all of those
/// anew while the old ones are there.
#[test]
fn small_values_that_were_deleted_make_room_on_a_full_disk() {
    const CLIENTS: usize = 8;
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let _filler = disk.fill(285 << 20);
    let process = place.start();
    let value = |key: &str| key.repeat(4000 / key.len()).into_bytes();
    let key =
        |client: usize, index: usize| format!("{}", (index * CLIENTS + client) * 7919 % 999_983);
    let stored = at_once(process.addr(), CLIENTS, |client, connection| {
        connection.set_patience(CLIENT_PATIENCE);
        let is_refused = |index: &usize| {
            let key = key(client, *index);
            connection.put(&format!("/kv/{key}"), &value(&key)).status() != 200
        };
        (0..20_000).find(is_refused).expect("a small disk is full at some time")
    });
    // Every tenth is kept.
    at_once(process.addr(), CLIENTS, |client, connection| {
        for index in (0..stored[client]).filter(|index| index % 10 != 0) {
            let answer = connection.call("DELETE", &format!("/kv/{}", key(client, index)));
            assert_eq!(answer.status(), 200);
        }
    });
    let mut connection = process.connect();
    connection.set_patience(CLIENT_PATIENCE);
    will_have_room(|| connection.put("/kv/more", b"x").status() == 200);
    for index in 0..2000 {
        let target = format!("/kv/more{index}");
        has_room(|| connection.put(&target, &value("more")).status() == 200);
    }
    for (client, &stored) in stored.iter().enumerate() {
        for index in (0..stored).step_by(10) {
            let key = key(client, index);
            holds(&mut connection, &key, &value(&key));
        }
    }
    ends_well(process);
}

/// A file of deletions from all over a large tree may be more than there is space
/// to compact at once.
#[test]
fn deletions_from_all_over_a_large_tree_make_room() {
    const CLIENTS: usize = 8;
    const KEYS_EACH: usize = 6000;
    /// No more than 10 MiB over what is kept free.
    const LEFT_BYTES: usize = 170 << 20;
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let process = place.start();
    let value = vec![b'x'; 4000];
    let key = |client: usize, index: usize| format!("{}", index * CLIENTS + client);
    at_once(process.addr(), CLIENTS, |client, connection| {
        (0..KEYS_EACH).for_each(|index| acknowledged(connection, &key(client, index), &value));
    });
    wait_within(CLIENT_PATIENCE, "its files are compacted", || disk.free_bytes() > LEFT_BYTES);
    let _filler = disk.fill(disk.free_bytes() - LEFT_BYTES);
    at_once(process.addr(), CLIENTS, |client, connection| {
        for index in (0..KEYS_EACH).step_by(3) {
            let answer = connection.call("DELETE", &format!("/kv/{}", key(client, index)));
            assert_eq!(answer.status(), 200);
        }
    });
    // Five eighths of what was deleted.
    at_once(process.addr(), CLIENTS, |client, connection| {
        connection.set_patience(CLIENT_PATIENCE);
        for index in 0..1250 {
            let target = format!("/kv/more-{}", key(client, index));
            has_room(|| connection.put(&target, &value).status() == 200);
        }
    });
    let mut connection = process.connect();
    (0..CLIENTS).for_each(|client| holds(&mut connection, &key(client, 1), &value));
    ends_well(process);
}

/// The length of values that are kept with their keys, unless they expire.
const SMALL: usize = 3000;

/// A store whose keys are all over a large tree.
struct Large {
    store: Durable,
    value: Bytes,
    next: AtomicU64,
    refused: Mutex<HashSet<u64>>,
}

impl Large {
    const WRITERS: usize = 8;

    fn new(place: &Place, value_bytes: usize) -> Self {
        let store = Durable::open(place.directory.path()).expect("an empty directory");
        let (next, refused) = (AtomicU64::new(0), Mutex::default());
        Self { store, value: vec![b'x'; value_bytes].into(), next, refused }
    }

    fn key(number: u64) -> Key {
        let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Key::new(format!("{scattered:016x}")).expect("a key")
    }

    /// Stores under the next number; says whether there was room.
    fn set_next(&self, expiry: impl Fn(u64) -> Option<Time>) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry::new(self.value.clone()).with_expiry(expiry(number));
        let is_stored = self.store.set(Self::key(number), entry).is_ok();
        if !is_stored {
            self.refused.lock().expect("no panic").insert(number);
        }
        is_stored
    }

    /// How many numbers there were.
    fn numbers(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Has all writers do it at once, each with its number.
    fn all(write: impl Fn(usize) + Sync) {
        let write = &write;
        thread::scope(|scope| {
            (0..Self::WRITERS).for_each(|writer| drop(scope.spawn(move || write(writer))));
        });
    }

    /// Stores until there is no room, a few at once. Says how many numbers there were.
    fn fill(&self, expiry: impl Fn(u64) -> Option<Time> + Sync) -> u64 {
        const AT_ONCE: u64 = 8;
        let set_some = || {
            let first = self.next.fetch_add(AT_ONCE, Ordering::Relaxed);
            let numbers = first..first + AT_ONCE;
            let set = |number| {
                let entry = Entry::new(self.value.clone()).with_expiry(expiry(number));
                (Self::key(number), BatchOp::Set(entry))
            };
            let is_stored = self.store.batch(numbers.clone().map(set).collect()).is_ok();
            if !is_stored {
                self.refused.lock().expect("no panic").extend(numbers);
            }
            is_stored
        };
        Self::all(|_| while set_some() {});
        self.numbers()
    }

    /// Deletes the numbers below `end` that are `gone`.
    fn delete_below(&self, end: u64, gone: impl Fn(u64) -> bool + Sync) {
        const AT_ONCE: usize = 20;
        Self::all(|writer| {
            let own = (0..end).filter(|&number| gone(number)).skip(writer);
            let own: Vec<u64> = own.step_by(Self::WRITERS).collect();
            for numbers in own.chunks(AT_ONCE) {
                let ops = numbers.iter().map(|&number| (Self::key(number), BatchOp::Delete));
                self.store.batch(ops.collect()).expect("they are deleted");
            }
        });
    }

    /// Stores so many more, which have room.
    fn set_more(&self, count: u64) {
        let each = count / Self::WRITERS as u64;
        Self::all(|_| (0..each).for_each(|_| has_room(|| self.set_next(|_| None))));
    }

    /// Some of the numbers below `end` are stored, unless they were refused or
    /// are `gone`.
    #[track_caller]
    fn holds_below(&self, end: u64, gone: impl Fn(u64) -> bool) {
        let refused = self.refused.lock().expect("no panic");
        for number in (0..end).step_by(101).filter(|number| !refused.contains(number)) {
            let found = self.store.get(&Self::key(number)).expect("it can be read");
            let expected = (!gone(number)).then_some(&self.value);
            assert_eq!(found.as_ref().map(Entry::value), expected, "{number}");
        }
    }
}

#[test]
fn what_expires_all_over_a_large_tree_makes_room() {
    expires_all_over(SMALL, Duration::from_secs(16));
}

#[test]
fn large_values_that_expire_all_over_make_room() {
    expires_all_over(10_000, Duration::from_secs(10));
}

/// What expires is a small part of all that is there, on a disk where writers
/// go on to try. None of them is refused soon after.
fn expires_all_over(value_bytes: usize, patience: Duration) {
    /// One in so many expires.
    const EXPIRING: u64 = 20;
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let large = Large::new(&place, value_bytes);
    let expiry = Time::now().after(patience);
    let expiry_of = |number: u64| number.is_multiple_of(EXPIRING).then_some(expiry);
    Large::all(|_| while Time::now() < expiry && large.set_next(expiry_of) {});
    let stored = large.numbers();
    // Whoever is refused just before is refused for a second.
    Large::all(|_| {
        while Time::now() < expiry.after(Duration::from_secs(1)) {
            large.set_next(expiry_of);
            thread::sleep(Duration::from_millis(20));
        }
    });
    // No more than half of what has expired.
    large.set_more(stored / EXPIRING / 2);
    large.holds_below(stored, |number| number.is_multiple_of(EXPIRING));
}

#[test]
fn what_is_deleted_all_over_a_full_disk_makes_room() {
    deleted_all_over(SMALL, |_| None);
}

#[test]
fn what_is_deleted_long_before_it_expires_makes_room() {
    let later = Time::now().after(Duration::from_secs(1000));
    let expiry = |number| Some(later.after(Duration::from_secs(number * 7919 % 9973)));
    deleted_all_over(20_000, expiry);
}

/// After deletions from all over it, and a pause, no step is small enough for
/// what is left above the last level of the tree.
fn deleted_all_over(value_bytes: usize, expiry: impl Fn(u64) -> Option<Time> + Sync) {
    /// One in so many is deleted.
    const DELETED: u64 = 3;
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let large = Large::new(&place, value_bytes);
    let stored = large.fill(expiry) / DELETED * DELETED;
    let is_deleted = |number: u64| number.is_multiple_of(DELETED);
    large.delete_below(stored, is_deleted);
    thread::sleep(Duration::from_millis(600));
    // No more than a quarter of what was deleted.
    large.set_more(stored / DELETED / 4);
    large.holds_below(stored, is_deleted);
}

/// On a small disk there may be no room for a single step, but for all that is
/// left once most is deleted.
#[test]
fn most_that_is_deleted_on_a_small_disk_makes_room() {
    /// All but one in so many are deleted.
    const KEPT: u64 = 50;
    let Some(disk) = Disk::new(200) else { return };
    let place = disk.place();
    let large = Large::new(&place, SMALL);
    let stored = large.fill(|_| None);
    let is_deleted = |number: u64| !number.is_multiple_of(KEPT);
    large.delete_below(stored, is_deleted);
    large.set_more(stored / 4);
    large.holds_below(stored, is_deleted);
}

/// What was only in memory is no longer reckoned with once it was cleared.
#[test]
fn what_was_cleared_gives_its_room_back() {
    const ROUNDS: usize = 40;
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let store = Durable::open(place.directory.path()).expect("an empty directory");
    for round in 0..ROUNDS {
        for key in ["one", "two", "three"] {
            let entry = Entry::new(vec![b'x'; 3 << 20].into());
            let outcome = store.set(Key::new(key).expect("a key"), entry);
            assert!(outcome.is_ok(), "{round}: {outcome:?}");
        }
        store.clear().expect("it is cleared");
    }
}

/// A client that takes a few bytes a second of a list with all values, until it has
/// time no longer, and then the rest. Gives the last bytes that it was sent.
fn take_slowly(addr: SocketAddr, has_time: &Arc<AtomicBool>) -> thread::JoinHandle<Vec<u8>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    // So its server has a small one for it.
    socket.set_recv_buffer_size(2048).expect("a socket takes a buffer size");
    socket.connect(&addr.into()).expect("the server accepts");
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(CLIENT_PATIENCE)).expect("a socket takes a timeout");
    client.write_all(get_head("/kv?values").as_bytes()).expect("the server takes a head");
    let mut last = vec![0; 100];
    client.read_exact(&mut last).expect("the list begins");
    assert!(last.starts_with(b"HTTP/1.1 200 "));
    let has_time = Arc::clone(has_time);
    thread::spawn(move || {
        loop {
            let is_slow = has_time.load(Ordering::Relaxed);
            let mut piece = vec![0; if is_slow { 16 } else { 64 << 10 }];
            let Ok(bytes @ 1..) = client.read(&mut piece) else { return last };
            last.extend(piece.iter().take(bytes));
            last.drain(..last.len() - 100);
            if is_slow {
                thread::sleep(Duration::from_millis(100));
            }
        }
    })
}

/// Its list holds what was cleared or overwritten since it began.
#[test]
fn a_list_that_holds_space_is_cut_off_before_a_write_is_refused() {
    const VALUES: usize = 120;
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let [flag, path] = place.arguments();
    // Its client may be as slow as it likes.
    let process = Process::start(&[&flag, &path, "--request-timeout", "10m"]);
    let mut connection = process.connect().with_patience(CLIENT_PATIENCE);
    let value = |round: usize| vec![b'0' + u8::try_from(round).expect("a digit"); 1 << 20];
    let store_all = |connection: &mut Connection, round: usize| {
        for index in 0..VALUES {
            has_room(|| connection.put(&format!("/kv/{index:03}"), &value(round)).status() == 200);
        }
    };
    store_all(&mut connection, 0);
    // For some of the same again, but not for all.
    let _filler = disk.fill(disk.free_bytes() - (200 << 20));
    for round in 1..3 {
        let has_time = Arc::new(AtomicBool::new(true));
        let slow = take_slowly(process.addr(), &has_time);
        assert_eq!(connection.call("DELETE", "/clear").status(), 200);
        store_all(&mut connection, round);
        has_time.store(false, Ordering::Relaxed);
        let last = slow.join().expect("a client ends well");
        assert!(!last.ends_with(b"\r\n0\r\n\r\n"), "that looks like the end of the list");
        let cuts = || process.log().matches("a list is cut off: the space").count();
        wait_until("it is logged", || cuts() >= round);
        assert_eq!(cuts(), round, "{}", process.log());
    }
    holds(&mut connection, "000", &value(2));
    ends_well(process);
}

/// Expired entries are swept to make room, but for those that a change was
/// decided on which is not committed yet.
#[test]
fn what_was_decided_on_is_not_swept_to_make_room() {
    let Some(disk) = Disk::new(512) else { return };
    let place = disk.place();
    let store = Durable::open(place.directory.path()).expect("an empty directory");
    let key = || Key::new("key").expect("a key");
    // 20 MiB over what is kept free, which is less than the change takes.
    let filler = disk.fill(disk.free_bytes() - (180 << 20));
    let soon = Time::now().after(Duration::from_millis(300));
    store.set(key(), Entry::new("value".into()).with_expiry(Some(soon))).expect("it is stored");
    let change: Change = Box::new(move |before| {
        while before.is_some() && Time::now() < soon.after(Duration::from_millis(50)) {
            thread::sleep(Duration::from_millis(1));
        }
        fs::remove_file(&filler).ok();
        before
            .map_or(Decision::Keep, |_| Decision::Replace(Entry::new(vec![b'x'; 24 << 20].into())))
    });
    thread::scope(|scope| {
        let update = scope.spawn(|| store.update(key(), change));
        let mut seen = Vec::new();
        let mut look = || seen.push(store.get(&key()).expect("it can be read").is_some());
        while !update.is_finished() {
            look();
            thread::sleep(Duration::from_millis(1));
        }
        look();
        update.join().expect("no panic").expect("there is room");
        assert!(seen.is_sorted_by_key(|is_there| !is_there), "{seen:?}");
    });
}

#[test]
fn a_disk_without_one_free_byte_loses_nothing() {
    let Some(disk) = Disk::new(128) else { return };
    let place = disk.place();
    let filler = disk.fill(40 << 20);
    let process = place.start();
    let mut connection = process.connect();
    let value = vec![b'x'; 1 << 20];
    for index in 0..10 {
        acknowledged(&mut connection, &index.to_string(), &value);
    }
    let more = disk.fill_to_the_end();
    let mut gone = 0;
    // Deletes are let through until the journal has no room for one.
    for index in 0..10 {
        match connection.call("DELETE", &format!("/kv/{index}")).status() {
            200 => gone = index + 1,
            status => assert!([503, 507].contains(&status), "{status}"),
        }
    }
    assert_ne!(connection.put("/kv/more", &value).status(), 200);
    for index in gone..10 {
        holds(&mut connection, &index.to_string(), &value);
    }
    process.signal("KILL");
    process.end();

    fs::remove_file(more).expect("the filler is there");
    fs::remove_file(filler).expect("the filler is there");
    let process = place.start();
    let mut connection = process.connect();
    for index in 0..gone {
        says(&connection.get(&format!("/kv/{index}")), 404, "key not found\n");
    }
    for index in gone + 1..10 {
        holds(&mut connection, &index.to_string(), &value);
    }
    acknowledged(&mut connection, "more", &value);
    ends_well(process);
}
