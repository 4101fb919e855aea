//! The directory that a durable store owns: who may have it, and what it is
//! made of.

#![cfg(unix)]

use crate::support::http::{Connection, wait_until};
use crate::support::place::{Place, acknowledged, copy_all, ends_well, holds, says};
use crate::support::process::{Process, addr_in, command, output, signal, wait};
use crate::support::wrappers::{is_root, under};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Lines};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};

/// Runs the program on a directory that it refuses; gives its one line.
#[track_caller]
fn refused(path: &Path) -> String {
    let path = path.to_str().expect("a temporary directory has a plain name");
    let ended = output(command(&["--port", "0", "--log-level", "off", "--working-dir", path]));
    let stderr = String::from_utf8(ended.stderr).expect("the program writes text");
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(path), "{stderr}");
    for noise in ["panicked", "Os {", "Err(", "Error:"] {
        assert!(!stderr.contains(noise), "{stderr}");
    }
    let stdout = String::from_utf8(ended.stdout).expect("the program writes text");
    assert!(!stdout.contains("http://"), "{stdout}");
    stderr
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// Every file and folder below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    listing(folder).into_iter().map(|(name, _)| name.into()).collect()
}

/// Every file and folder below a folder, by name and length.
fn listing(folder: &Path) -> Vec<(String, u64)> {
    let mut listing = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("a readable folder");
        let metadata = match entry.path().symlink_metadata() {
            // A store that runs has removed it meanwhile.
            Err(err) if err.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.expect("it can be looked at"),
        };
        if metadata.is_dir() {
            listing.extend(self::listing(&entry.path()));
        }
        listing.push((entry.path().display().to_string(), metadata.len()));
    }
    listing.sort();
    listing
}

#[test]
fn the_greeting_tells_the_engine() {
    let process = Place::new().start();
    assert!(process.greeting[1].contains("engine: durable"), "{:?}", process.greeting);
}

#[test]
fn what_is_stored_is_there_after_a_restart() {
    let place = Place::new();
    let process = place.start();
    let mut connection = process.connect();
    let values = [b"Nairobi".to_vec(), (0..=255).collect(), vec![0; 70_000], vec![7; 10 << 20]];
    for (index, value) in values.iter().enumerate() {
        acknowledged(&mut connection, &format!("%F0%9F%94%91%00/../{index}"), value);
    }
    acknowledged(&mut connection, "deleted", b"x");
    assert_eq!(connection.call("DELETE", "/kv/deleted").status(), 200);
    ends_well(process);
    for _ in 0..2 {
        let process = place.start();
        let mut connection = process.connect();
        for (index, value) in values.iter().enumerate() {
            holds(&mut connection, &format!("%F0%9F%94%91%00/../{index}"), value);
        }
        says(&connection.get("/kv/deleted"), 404, "key not found\n");
        ends_well(process);
    }
}

#[test]
fn a_second_process_is_refused_and_the_first_is_unharmed() {
    let place = Place::with_a_store();
    let first = place.start();
    let mut connection = first.connect();
    for round in ["one", "two"] {
        let line = refused(&place.path());
        assert!(line.contains("another process has it open"), "{line}");
        acknowledged(&mut connection, round, b"x");
    }
    holds(&mut connection, "kept", b"kept");
    ends_well(first);
    let second = place.start();
    holds(&mut second.connect(), "two", b"x");
}

/// A program that waits for a directory. It is killed when it is dropped.
struct Waiting {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _log: Lines<BufReader<ChildStderr>>,
}

impl Waiting {
    /// Starts it on a directory that another process has open.
    fn start(place: &Place) -> Self {
        let mut waiting = command(&["--port", "0", "--wait-for-lock", "1h"]);
        waiting.args(place.arguments()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = waiting.spawn().expect("the program runs");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let told = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("waiting for")));
        assert!(told.is_some(), "it has ended without a word");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines, _log: log }
    }

    fn ends_well(&mut self) {
        assert_eq!(wait(&mut self.child).expect("it ends").code(), Some(0));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It fails where it has ended, which is as well.
        self.child.kill().ok();
        self.child.wait().expect("a child can be waited for");
    }
}

#[test]
fn a_store_that_is_just_stopping_is_waited_for() {
    let place = Place::with_a_store();
    let first = place.start();
    let mut second = Waiting::start(&place);
    acknowledged(&mut first.connect(), "late", b"x");
    ends_well(first);
    let listening = second.lines.nth(1).expect("it listens").expect("it writes text");
    let addr = addr_in(&listening);
    holds(&mut Connection::open(addr), "late", b"x");
    holds(&mut Connection::open(addr), "kept", b"kept");
    signal(&second.child, "TERM");
    second.ends_well();
}

/// The number of sockets that a process has.
#[cfg(target_os = "linux")]
fn sockets(process: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Whoever waits for its port to open has a store that is open.
#[cfg(target_os = "linux")]
#[test]
fn nothing_listens_before_the_store_is_open() {
    let place = Place::with_a_store();
    let first = place.start();
    let mut second = Waiting::start(&place);
    assert_eq!(sockets(second.child.id()), 0);
    ends_well(first);
    let listening = second.lines.nth(1).expect("it listens").expect("it writes text");
    assert!(sockets(second.child.id()) > 0);
    says(&Connection::open(addr_in(&listening)).get("/readyz"), 200, "ok\n");
}

#[test]
fn a_store_that_does_not_stop_is_not_waited_for_longer() {
    let place = Place::with_a_store();
    let first = place.start();
    let mut second = command(&["--port", "0", "--wait-for-lock", "1ms", "--log-level", "off"]);
    second.args(place.arguments());
    let ended = output(second);
    let stderr = String::from_utf8(ended.stderr).expect("the program writes text");
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("another process has it open"), "{stderr}");
    acknowledged(&mut first.connect(), "still", b"x");
}

#[test]
fn who_waits_for_a_store_can_be_stopped() {
    let place = Place::with_a_store();
    let first = place.start();
    for name in ["TERM", "INT"] {
        let mut second = Waiting::start(&place);
        signal(&second.child, name);
        second.ends_well();
        assert_eq!(second.lines.by_ref().count(), 1, "it has never listened");
    }
    acknowledged(&mut first.connect(), "still", b"x");
}

#[test]
fn a_killed_process_holds_nothing() {
    let place = Place::with_a_store();
    let mut first = place.start();
    first.signal("KILL");
    wait_until("it is gone", || !first.runs());
    holds(&mut place.start().connect(), "kept", b"kept");
}

#[test]
fn a_missing_directory_is_made_for_its_owner_alone() {
    let place = Place::new();
    let outer = place.directory.path().join("outer");
    let nested = outer.join("inner/innermost");
    let process = Process::start(&["--working-dir", nested.to_str().expect("a plain name")]);
    acknowledged(&mut process.connect(), "key", b"x");
    for made in [&outer, &outer.join("inner"), &nested] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
}

#[test]
fn a_directory_that_is_there_keeps_its_mode() {
    let place = Place::new();
    fs::create_dir(place.path()).expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o750)).expect("it is ours");
    let _process = place.start();
    assert_eq!(mode(&place.path()), 0o750);
}

#[test]
fn a_relative_path_is_where_the_program_was_started() {
    let place = Place::new();
    let mut relative = command(&["--port", "0", "--working-dir", "store"]);
    relative.current_dir(place.directory.path());
    let process = Process::run(relative);
    acknowledged(&mut process.connect(), "key", b"x");
    ends_well(process);
    holds(&mut place.start().connect(), "key", b"x");
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let place = Place::new();
    let file = place.file("");
    let file = Path::new(file.trim_end_matches('/'));
    fs::write(file, "somebody's").expect("a file");
    assert!(refused(file).contains("it is not a directory"));
    assert!(refused(&file.join("below")).contains("it is not a directory"));
    assert_eq!(fs::read_to_string(file).expect("a file"), "somebody's");
    // Nobody may make a folder there, root neither.
    refused(Path::new("/proc/little-key-value"));
}

/// What a volume has at its root, and others put into it.
#[test]
fn a_directory_with_other_things_is_taken_and_they_are_left_alone() {
    let place = Place::new();
    fs::create_dir_all(place.path().join("lost+found/#12")).expect("a directory");
    fs::create_dir(place.path().join("database")).expect("a directory");
    for name in ["node.log", ".hidden", "Data", "lock.txt", "a\nb"] {
        fs::write(place.path().join(name), "somebody's").expect("a file");
    }
    let theirs = listing(&place.path());
    let process = place.start();
    acknowledged(&mut process.connect(), "key", b"x");
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{log}");
    let told: Vec<_> = log.lines().filter(|line| line.contains("left alone")).collect();
    assert_eq!(told.len(), 1, "{log}");
    let names = r#"".hidden", "Data", "a\nb", "database", "lock.txt" and 2 more"#;
    assert!(told[0].ends_with(names), "{log}");
    let process = place.start();
    holds(&mut process.connect(), "key", b"x");
    assert!(!process.stop().1.contains("left alone"), "told once, when the store is made");
    let now = listing(&place.path());
    assert!(theirs.iter().all(|there| now.contains(there)), "{now:?}");
    let log = fs::read_to_string(place.path().join("node.log")).expect("it is there");
    assert_eq!(log, "somebody's");
}

#[test]
fn what_bears_a_name_of_the_stores_own_is_refused_and_left_as_it_is() {
    type Make = fn(&Path);
    let table: [(&str, Make); 11] = [
        ("data", |path| fs::create_dir(path).expect("a directory")),
        ("data", |path| fs::write(path, "somebody's").expect("a file")),
        ("data.new", |path| fs::create_dir(path).expect("a directory")),
        ("lock", |path| fs::write(path, "4711").expect("a file")),
        ("lock", |path| fs::create_dir(path).expect("a directory")),
        ("lock", |path| symlink("nowhere", path).expect("a link")),
        ("format.new", |path| fs::write(path, "bold").expect("a file")),
        ("format.new", |path| fs::write(path, "little-key-value new").expect("a file")),
        ("format.new", |path| fs::write(path, "little-key-value 2\n\n").expect("a file")),
        ("format.new", |path| fs::write(path, "9".repeat(1 << 20)).expect("a file")),
        ("format.new", |path| fs::create_dir(path).expect("a directory")),
    ];
    for (name, make) in table {
        let place = Place::new();
        fs::create_dir(place.path()).expect("a directory");
        fs::write(place.path().join("notes.txt"), "somebody's").expect("a file");
        make(&place.path().join(name));
        let before = listing(&place.path());
        let line = refused(&place.path());
        assert!(line.contains(&format!("has a {name:?} of something else")), "{line}");
        assert_eq!(listing(&place.path()), before);
    }
    let formats: [(&str, Make); 2] = [
        ("not understood", |path| fs::write(path, "A4 paper").expect("a file")),
        ("is a link", |path| symlink("nowhere", path).expect("a link")),
    ];
    for (why, make) in formats {
        let place = Place::new();
        fs::create_dir(place.path()).expect("a directory");
        make(&place.path().join("format"));
        let before = listing(&place.path());
        let line = refused(&place.path());
        assert!(line.contains(why), "{line}");
        assert_eq!(listing(&place.path()), before);
    }
}

#[test]
fn a_store_of_a_later_version_is_refused_and_left_as_it_is() {
    let place = Place::with_a_store();
    let format = place.path().join("format");
    let ours = fs::read(&format).expect("a store says its version");
    let table = [
        ("little-key-value 4\n", "a later version of this program wrote it (format 4)"),
        ("little-key-value 18446744073709551615", "format 18446744073709551615"),
        ("little-key-value 0\n", "not understood"),
        ("little-key-value\n", "not understood"),
        ("redis 7\n", "not understood"),
        ("", "not understood"),
    ];
    for (text, complaint) in table {
        fs::write(&format, text).expect("a file");
        let before = listing(&place.path());
        let line = refused(&place.path());
        assert!(line.contains(complaint), "{text:?}: {line}");
        assert_eq!(listing(&place.path()), before, "{text:?}");
    }
    fs::write(&format, b"\xff\xfe\x00").expect("a file");
    refused(&place.path());
    fs::write(&format, ours).expect("a file");
    holds(&mut place.start().connect(), "kept", b"kept");
}

/// Every state that a crash in the making of a directory leaves.
#[test]
fn a_half_made_directory_is_finished() {
    type Step = fn(&Path);
    let whole = Place::with_a_store();
    let steps: [(&str, Step); 11] = [
        ("an empty directory", |_| {}),
        ("a lock", |path| fs::write(path.join("lock"), "").expect("a file")),
        ("an empty format", |path| fs::write(path.join("format.new"), "").expect("a file")),
        ("half a format", |path| fs::write(path.join("format.new"), "little").expect("a file")),
        ("a format without its end", |path| {
            fs::write(path.join("format.new"), "little-key-value 1").expect("a file");
        }),
        ("a format", |path| {
            fs::write(path.join("format.new"), "little-key-value 3\n").expect("a file");
        }),
        ("no data yet", |path| fs::create_dir(path.join("data.new")).expect("a folder")),
        ("half the data", |path| {
            fs::create_dir(path.join("data.new/keyspaces")).expect("a folder");
            fs::write(path.join("data.new/0.jnl"), [1, 2, 3]).expect("a file");
        }),
        ("as an earlier program did", |path| {
            fs::remove_file(path.join("format.new")).expect("it is there");
            fs::write(path.join("format"), "little-key-value 2\n").expect("a file");
        }),
        ("all but the name of the data", |path| {
            fs::remove_dir_all(path.join("data.new")).expect("it is there");
            fs::rename(path.join("format"), path.join("format.new")).expect("it is there");
        }),
        ("all but the name of the format", |_| {}),
    ];
    let half_made = Place::new();
    fs::create_dir(half_made.path()).expect("a directory");
    for (what, step) in steps {
        step(&half_made.path());
        let place = Place::new();
        copy_all(&half_made.path(), &place.path());
        let has_data = what == "all but the name of the format";
        if what.starts_with("all but") {
            let data = if has_data { "data" } else { "data.new" };
            copy_all(&whole.path().join("data"), &place.path().join(data));
        }
        let process = place.start();
        let mut connection = process.connect();
        if has_data {
            holds(&mut connection, "kept", b"kept");
        } else {
            says(&connection.get("/kv/kept"), 404, "key not found\n");
        }
        acknowledged(&mut connection, "key", b"x");
        ends_well(process);
        holds(&mut place.start().connect(), "key", b"x");
        assert!(!place.path().join("data.new").exists(), "{what}");
        assert!(!place.path().join("format.new").exists(), "{what}");
        let format = fs::read_to_string(place.path().join("format"));
        assert_eq!(format.expect("it can be read"), "little-key-value 3\n", "{what}");
    }
}

/// A start that is killed at any moment leaves a directory for the next one.
#[test]
fn a_start_that_is_killed_is_started_again() {
    let place = Place::new();
    let arguments = place.arguments();
    for round in 0..16 {
        let mut start = command(&["--port", "0"]);
        start.args(&arguments).stdout(std::process::Stdio::null());
        let mut start = start.stderr(std::process::Stdio::null()).spawn().expect("it runs");
        // Any moment will do, and each is another one.
        std::thread::sleep(std::time::Duration::from_millis(3 * round));
        start.kill().expect("a child can be killed");
        start.wait().expect("a child can be waited for");
        // Every few rounds from the beginning again.
        if round % 4 == 0 && place.path().exists() {
            ends_well(place.start());
            fs::remove_dir_all(place.path()).expect("it is ours");
        }
    }
    ends_well(place.start());
}

/// A store with files of all kinds, which is closed.
fn with_all_kinds_of_files() -> Place {
    let place = Place::with_a_store();
    let process = place.start();
    let mut connection = process.connect();
    for index in 0..20 {
        acknowledged(&mut connection, &format!("small/{index}"), b"value");
        acknowledged(&mut connection, &format!("large/{index}?ttl=1d"), &[b'x'; 5000]);
    }
    let has = |folder: &str| {
        let is_in = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with(folder));
        files(&place.path().join("data/keyspaces/2")).iter().any(is_in)
    };
    // A store that is left alone puts what it has into files.
    wait_until("there are files", || has("tables") && has("blobs"));
    ends_well(process);
    place
}

#[test]
fn what_is_in_it_is_for_its_owner_alone_whatever_the_umask() {
    let place = Place::new();
    fs::create_dir(place.path()).expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for umask in ["000", "022", "077"] {
        let [flag, path] = place.arguments();
        let shell = ["sh", "-c", &format!("umask {umask}; exec \"$0\" \"$@\"")];
        let process = Process::run(under(&shell, None, &[&flag, &path]));
        let mut connection = process.connect();
        acknowledged(&mut connection, umask, b"value");
        assert_eq!(connection.call("DELETE", "/clear").status(), 200);
        acknowledged(&mut connection, umask, b"value");
        for index in 0..17 {
            acknowledged(&mut connection, &index.to_string(), &vec![b'x'; 1 << 20]);
        }
        wait_until("there are tables", || {
            let is_table = |path: &PathBuf| path.parent().is_some_and(|it| it.ends_with("tables"));
            files(&place.path()).iter().filter(|path| is_table(path)).count() > 3
        });
        ends_well(process);
        for path in files(&place.path()) {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), wanted, "umask {umask}: {}", path.display());
        }
    }
    assert_eq!(mode(&place.path()), 0o755);
}

#[test]
fn what_others_may_do_with_it_is_taken_away() {
    let place = with_all_kinds_of_files();
    for path in files(&place.path()) {
        let open = if path.is_dir() { 0o755 } else { 0o666 };
        fs::set_permissions(path, fs::Permissions::from_mode(open)).expect("it is ours");
    }
    ends_well(place.start());
    for path in files(&place.path()) {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{}", path.display());
    }
}

#[test]
fn links_are_refused_and_not_followed() {
    let place = with_all_kinds_of_files();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let linked = |path: &Path| {
        let target = elsewhere.path().join("target");
        if path.exists() {
            fs::rename(path, &target).expect("it is ours");
        } else {
            fs::write(&target, "somebody's").expect("a file");
        }
        symlink(&target, path).expect("a link");
        target
    };
    for path in files(&place.path()) {
        let target = linked(&path);
        let before = (listing(&place.path()), fs::read(&target).ok());
        let line = refused(&place.path());
        assert!(line.contains(&format!("{} is a link", path.display())), "{line}");
        assert_eq!((listing(&place.path()), fs::read(&target).ok()), before);
        fs::remove_file(&path).expect("it is a link");
        fs::rename(target, path).expect("it is ours");
    }
    let planted = ["format.new", "data.new", "data/inventory.new", "data/1.jnl"];
    let in_a_keyspace =
        ["v4711", "tables/4711", "blobs/4711"].map(|it| format!("data/keyspaces/2/{it}"));
    for name in planted.into_iter().chain(in_a_keyspace.each_ref().map(String::as_str)) {
        let path = place.path().join(name);
        let target = linked(&path);
        let line = refused(&place.path());
        assert!(line.contains("is a link"), "{line}");
        assert_eq!(fs::read_to_string(&target).expect("it is there"), "somebody's");
        fs::remove_file(path).expect("it is a link");
    }
    // A link to the directory is where its owner wants it to be.
    let link = place.directory.path().join("link");
    symlink(place.path(), &link).expect("a link");
    let link = link.to_str().expect("a plain name");
    holds(&mut Process::start(&["--working-dir", link]).connect(), "kept", b"kept");
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    const OTHER: u32 = 12_345;
    if !is_root() {
        return;
    }
    let place = with_all_kinds_of_files();
    let mut all = files(&place.path());
    all.push(place.path());
    for path in all {
        chown(&path, Some(OTHER), None).expect("root may");
        let before = listing(&place.path());
        let line = refused(&place.path());
        let complaint = format!("{} belongs to another user (user {OTHER}, ", path.display());
        assert!(line.contains(&complaint), "{line}");
        assert_eq!(listing(&place.path()), before);
        chown(&path, Some(0), None).expect("root may");
    }
    holds(&mut place.start().connect(), "kept", b"kept");
}

const LOST: &str = "storage takes no writes: its directory was moved or removed\n";

/// The process that had the directory takes no writes any more, says so once and
/// ends with 1.
#[track_caller]
fn has_lost_it(process: Process) {
    let mut connection = process.connect();
    wait_until("it is noticed", || connection.get("/healthz").status() == 503);
    says(&connection.get("/healthz"), 503, LOST);
    says(&connection.get("/readyz"), 503, LOST);
    says(&connection.get("/livez"), 200, "ok\n");
    for key in ["kept", "new"] {
        says(&connection.put(&format!("/kv/{key}"), b"x"), 503, LOST);
    }
    says(&connection.call("DELETE", "/kv/kept"), 503, LOST);
    says(&connection.call("DELETE", "/clear"), 503, LOST);
    holds(&mut connection, "kept", b"kept");
    let (code, log) = process.stop();
    assert_eq!((code, log.matches("was moved or removed, so").count()), (Some(1), 1), "{log}");
}

#[test]
fn a_directory_that_was_moved_or_removed_is_not_written_to_any_more() {
    type Loss = fn(&Path, &Path);
    let losses: [(&str, Loss); 5] = [
        ("moved", |path, aside| fs::rename(path, aside).expect("it is ours")),
        ("removed", |path, _| fs::remove_dir_all(path).expect("it is ours")),
        ("data moved", |path, aside| fs::rename(path.join("data"), aside).expect("it is ours")),
        ("data removed", |path, _| fs::remove_dir_all(path.join("data")).expect("it is ours")),
        ("lock removed", |path, _| fs::remove_file(path.join("lock")).expect("it is ours")),
    ];
    for (what, lose) in losses {
        println!("{what}");
        let place = Place::with_a_store();
        let process = place.start();
        let mut connection = process.connect();
        acknowledged(&mut connection, "acknowledged", b"x");
        lose(&place.path(), &place.directory.path().join("aside"));
        // At once, without a moment in which it is noticed. Without its lock it
        // does no harm before another one comes.
        if what != "lock removed" {
            says(&connection.put("/kv/new", b"x"), 503, LOST);
        }
        has_lost_it(process);
    }
    // Nobody writes.
    let place = Place::with_a_store();
    let process = place.start();
    fs::rename(place.path(), place.directory.path().join("aside")).expect("it is ours");
    has_lost_it(process);
}

/// Both write so much that it goes to files, which are opened by their names.
#[test]
fn a_store_that_is_begun_in_its_place_is_left_alone() {
    const VALUES: usize = 40;
    let value = |store: u8, index: usize| vec![b'a' + store; (1 << 20) + index];
    for is_removed in [false, true] {
        let place = Place::with_a_store();
        let aside = place.directory.path().join("aside");
        let first = place.start();
        let mut to_first = first.connect();
        // The last of them are not in files yet, or just on the way there.
        for index in 0..VALUES {
            acknowledged(&mut to_first, &index.to_string(), &value(0, index));
        }
        fs::rename(place.path(), &aside).expect("it is ours");
        if is_removed {
            fs::remove_dir_all(&aside).expect("it is ours");
        }
        let second = place.start();
        let mut to_second = second.connect();
        for index in 0..VALUES {
            acknowledged(&mut to_second, &index.to_string(), &value(1, index));
            says(&to_first.put(&format!("/kv/{index}"), b"x"), 503, LOST);
        }
        assert_eq!(first.stop().0, Some(1));
        for _ in 0..2 {
            for index in 0..VALUES {
                holds(&mut to_second, &index.to_string(), &value(1, index));
            }
            says(&to_second.get("/kv/kept"), 404, "key not found\n");
        }
        ends_well(second);
        let second = place.start();
        for index in 0..VALUES {
            holds(&mut second.connect(), &index.to_string(), &value(1, index));
        }
        if !is_removed {
            let aside = aside.to_str().expect("a plain name");
            let first = Process::start(&["--working-dir", aside]);
            // The write that found it moved was not acknowledged, and may be there.
            for index in 1..VALUES {
                holds(&mut first.connect(), &index.to_string(), &value(0, index));
            }
        }
    }
}

#[test]
fn data_that_is_missing_as_a_whole_is_never_taken_for_an_empty_store() {
    for name in ["data", "data/0.jnl", "data/keyspaces", "data/inventory", "data/version"] {
        let place = Place::with_a_store();
        let (path, aside) = (place.path().join(name), place.directory.path().join("aside"));
        fs::rename(&path, &aside).expect("it is ours");
        let before = listing(&place.path());
        for _ in 0..2 {
            let line = refused(&place.path());
            let complaint = format!("a part of it is missing: {}", path.display());
            assert!(line.contains(&complaint), "{line}");
            assert_eq!(listing(&place.path()), before);
        }
        fs::rename(&aside, &path).expect("it is ours");
        holds(&mut place.start().connect(), "kept", b"kept");
    }
}

#[test]
fn missing_data_is_refused_and_never_taken_for_an_empty_store() {
    let place = Place::with_a_store();
    let data = place.path().join("data");
    let aside = place.path().join("aside");
    fs::rename(&data, &aside).expect("it is ours");
    fs::create_dir(&data).expect("a folder");
    refused(&place.path());
    refused(&place.path());
    fs::remove_dir_all(&data).expect("it is ours");
    fs::rename(&aside, &data).expect("it is ours");
    fs::remove_file(data.join("0.jnl")).expect("it is there");
    refused(&place.path());
}

#[test]
fn limits_of_the_memory_engine_are_bad_usage_with_a_directory() {
    let place = Place::new();
    let arguments = place.arguments();
    let mut both = command(&["--port", "0", "--max-memory", "1MiB"]);
    both.args(&arguments);
    let mut environment = command(&["--port", "0"]);
    environment.args(&arguments).env("LKV_MAX_MEMORY", "1MiB");
    for command in [both, environment] {
        let ended = output(command);
        let stderr = String::from_utf8(ended.stderr).expect("the program writes text");
        assert_eq!(ended.status.code(), Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("--max-memory") && stderr.contains("--working-dir"), "{stderr}");
        assert!(!place.path().exists());
    }
    let mut in_the_environment = command(&["--port", "0"]);
    in_the_environment.env("LKV_WORKING_DIR", place.path());
    let process = Process::run(in_the_environment);
    acknowledged(&mut process.connect(), "key", b"x");
    ends_well(process);
    holds(&mut place.start().connect(), "key", b"x");
}
