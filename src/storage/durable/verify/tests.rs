//! What becomes of a store of which one file was changed, cut or removed: it
//! opens and has what it had, or says of a value that it cannot be read, or it
//! is refused and not a byte of it is changed.
//!
//! A sample of the positions is tried; `LKV_TEST_EVERY_BYTE=1` tries them all.

use super::*;
use crate::storage::durable::Durable;
use crate::storage::{Blocking as _, Entry, Key, Time};
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;
use tempfile::TempDir;

/// Every file below a folder, and what it holds; of a folder nothing.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// How many positions of a file are tried, about.
const POSITIONS: usize = 24;

fn contents(folder: &Path) -> Contents {
    let mut contents = Contents::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            contents.extend(self::contents(&path));
            contents.insert(path, None);
        } else {
            let bytes = fs::read(&path).expect("a readable file");
            contents.insert(path, Some(bytes));
        }
    }
    contents
}

/// A directory where no crash is tried, so it needs no disk that keeps it.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory =
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("a directory")
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

/// A store that was closed well, and what it holds.
struct Sample {
    directory: TempDir,
    files: Contents,
    held: BTreeMap<String, Vec<u8>>,
}

impl Sample {
    /// One with all kinds of files: tables on two levels, files of values, a
    /// journal with some of it, and what was cleared before.
    fn new() -> Self {
        let directory = in_memory();
        let mut held = BTreeMap::new();
        let store = Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}"));
        let later = Some(Time::now().after(Duration::from_secs(10_000)));
        let mut put = |text: String, bytes: usize, expires: bool| {
            let value: Vec<u8> = text.bytes().cycle().take(bytes).collect();
            let entry = Entry::new(value.clone().into());
            let entry = entry.with_expiry(later.filter(|_| expires));
            store.set(key(&text), entry).expect("the engine writes");
            held.insert(text, value);
        };
        let flush = || {
            for keyspace in store.read_path.keyspaces().each() {
                keyspace.flush_and_wait().expect("the engine flushes");
            }
        };
        store.set(key("cleared"), Entry::new("x".into())).expect("the engine writes");
        store.clear().expect("the engine clears");
        for round in 0..2 {
            for index in 0..6 {
                put(format!("small {round} {index}"), 20, index % 3 == 0);
                put(format!("overwritten {index}"), 30 + round, false);
            }
            put(format!("large {round}"), 5000, false);
            put(format!("large that expires {round}"), 5001, true);
            put("large and overwritten".to_owned(), 5100 + round, false);
            flush();
            if round == 0 {
                for keyspace in store.read_path.keyspaces().each() {
                    keyspace.major_compact(1 << 20).expect("the engine merges");
                }
            }
        }
        put("in the journal".to_owned(), 100, false);
        put("large in the journal".to_owned(), 5000, true);
        drop(store);
        // A start removes what no manifest names.
        drop(Durable::open(directory.path()).unwrap_or_else(|err| panic!("{err}")));
        let journal = directory.path().join("data/0.jnl");
        let used = journal::whole_bytes(&journal).expect("a journal");
        // Of the space that is set aside behind it, some is enough.
        let file = fs::File::options().write(true).open(journal).expect("a journal");
        file.set_len(used + 100).expect("it can be cut");
        let files = contents(directory.path());
        Self { directory, files, held }
    }

    /// A copy with another file, or without it.
    fn with(&self, changed: &Path, bytes: Option<&[u8]>) -> TempDir {
        let copy = in_memory();
        for (path, contents) in &self.files {
            let is_changed = path.starts_with(changed);
            let path = copy.path().join(path.strip_prefix(self.directory.path()).expect("in it"));
            match if is_changed { bytes } else { contents.as_deref() } {
                Some(bytes) => {
                    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                    fs::write(path, bytes).expect("a file");
                }
                None if is_changed => {}
                None => fs::create_dir_all(path).expect("a folder"),
            }
        }
        copy
    }

    /// Opens a copy that was changed. Gives whether it was refused.
    fn is_refused_or_right(&self, copy: &TempDir, what: &str) -> bool {
        let before = contents(copy.path());
        let store = match Durable::open(copy.path()) {
            Ok(store) => store,
            Err(err) => {
                let after = contents(copy.path());
                for (path, bytes) in &before {
                    let is_same = after.get(path).is_some_and(|after| after == bytes);
                    assert!(is_same, "{what}: refused ({err}), and {} has changed", path.display());
                }
                // A lock is made where there is none.
                let others = |contents: &Contents| {
                    contents.keys().filter(|path| !path.ends_with(LOCK)).count()
                };
                assert_eq!(others(&before), others(&after), "{what}: refused ({err})");
                let is_damage = matches!(
                    err,
                    OpenError::Damaged { .. }
                        | OpenError::Changed { .. }
                        | OpenError::Missing { .. }
                        | OpenError::FormatUnknown
                        | OpenError::Later { .. }
                        | OpenError::Foreign { .. }
                );
                assert!(is_damage, "{what}: {err}");
                return true;
            }
        };
        self.is_right(&store, what);
        store.set(key("new"), Entry::new("new".into())).expect("the engine writes");
        // What is believed of the files shows when they are merged.
        for keyspace in store.read_path.keyspaces().each() {
            let merge = || keyspace.major_compact(1 << 20);
            panic::catch_unwind(AssertUnwindSafe(merge)).map(Result::ok).ok();
        }
        self.is_right(&store, &format!("{what}, and merged"));
        drop(store);
        match Durable::open(copy.path()) {
            Ok(store) => self.is_right(&store, &format!("{what}, after one more start")),
            Err(err) => panic!("{what}: it opens once, and then: {err}"),
        }
        false
    }

    /// The store holds what it held, or says that it cannot be read.
    fn is_right(&self, store: &Durable, what: &str) {
        for (text, value) in &self.held {
            // A panic of the database's is such an answer too.
            let get = || store.get(&key(text));
            if let Ok(Ok(found)) = panic::catch_unwind(AssertUnwindSafe(get)) {
                let found = found.map(|entry| entry.value().to_vec());
                let is_same = found.as_ref() == Some(value);
                let bytes = found.map(|value| value.len());
                assert!(is_same, "{what}: {text:?} is another one, of {bytes:?} bytes");
            }
        }
        let cleared = store.get(&key("cleared"));
        assert!(!matches!(cleared, Ok(Some(_))), "{what}: what was cleared is there again");
    }
}

fn positions(bytes: usize) -> impl Iterator<Item = usize> {
    let is_all = std::env::var_os("LKV_TEST_EVERY_BYTE").is_some();
    let step = if is_all { 1 } else { bytes.div_ceil(POSITIONS).max(1) };
    // The ends of a file tell most of it.
    let ends = (bytes.saturating_sub(60)..bytes).step_by(if is_all { 60 } else { 7 });
    (0..bytes).step_by(step).chain(ends)
}

/// What a file is called in the table below.
fn kind(path: &Path) -> &str {
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).rev().take(2).collect();
    match names[..] {
        [_, folder @ ("tables" | "blobs")] => folder,
        [_, _] if journal::number(path).is_some() => "journal",
        [name, _] if name.starts_with('v') && name != VERSION => "manifest",
        [name, _] => name,
        _ => "",
    }
}

#[test]
fn there_are_files_of_every_kind() {
    let sample = Sample::new();
    let is_file =
        |(path, bytes): (&PathBuf, &Option<Vec<u8>>)| bytes.as_ref().map(|_| kind(path).to_owned());
    let mut kinds: Vec<String> = sample.files.iter().filter_map(is_file).collect();
    kinds.sort();
    kinds.dedup();
    let wanted = [
        "blobs",
        "current",
        "format",
        "inventory",
        "journal",
        "lock",
        "manifest",
        "tables",
        "version",
    ];
    assert_eq!(kinds, wanted);
    assert!(!sample.is_refused_or_right(&sample.with(Path::new("/nothing"), None), "unchanged"));
}

#[test]
fn a_file_or_folder_that_is_missing_is_noticed() {
    let sample = Sample::new();
    for path in sample.files.keys() {
        let what = format!("without {}", path.display());
        let is_refused = sample.is_refused_or_right(&sample.with(path, None), &what);
        // The lock of the directory is only there to be locked. What is not a
        // store any more is not a damaged one, and not a new one either.
        let is_needed = *path != sample.directory.path().join("lock");
        assert_eq!(is_refused, is_needed, "{what}");
    }
}

#[test]
fn a_file_that_was_cut_is_noticed() {
    let sample = Sample::new();
    for (path, bytes) in &sample.files {
        let Some(bytes) = bytes else { continue };
        let used = if kind(path) == "journal" { bytes.len() - 100 } else { bytes.len() };
        for left in positions(used) {
            let what = format!("{} cut at {left}", path.display());
            let copy = sample.with(path, Some(&bytes[..left]));
            let is_refused = sample.is_refused_or_right(&copy, &what);
            // All but the newline tells the format as well.
            assert!(is_refused || kind(path) == "format" && left == used - 1, "{what}");
        }
    }
}

#[test]
fn a_byte_that_was_changed_is_noticed() {
    let sample = Sample::new();
    let mut refused = BTreeMap::new();
    for (path, bytes) in &sample.files {
        let Some(bytes) = bytes else { continue };
        for at in positions(bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let what = format!("{} with byte {at} changed", path.display());
            let is_refused = sample.is_refused_or_right(&sample.with(path, Some(&changed)), &what);
            *refused.entry(kind(path).to_owned()).or_insert(0) += u32::from(is_refused);
            let always = ["current", "inventory", "manifest", "version"];
            assert!(is_refused || !always.contains(&kind(path)), "{what}");
        }
    }
    for kind in ["tables", "blobs", "journal", "format"] {
        assert!(refused[kind] > 0, "{kind}: {refused:?}");
    }
}

#[test]
fn a_journal_is_missing_unless_all_of_it_is_in_tables() {
    let data = in_memory();
    let there = |numbers: &[u64]| {
        for entry in fs::read_dir(data.path()).expect("a folder") {
            fs::remove_file(entry.expect("a readable folder").path()).expect("it is ours");
        }
        for number in numbers {
            fs::write(data.path().join(format!("{number}.jnl")), "").expect("a file");
        }
        Journals::read(data.path(), None, |_| 0).unwrap_or_else(|err| panic!("{err}"))
    };
    let listed = |number, batch| Listed { number, whole_bytes: 0, batch };
    let inventory = Inventory {
        stamp: journal::Stamp::new(),
        keyspaces: [3, 4],
        journals: vec![listed(7, 50), listed(8, 100), listed(9, 0)],
    };
    // Which are there, the highest number in the tables of the keys, and the one
    // that is missing.
    let table: [(&[u64], Option<u64>, Option<u64>); 12] = [
        (&[7, 8, 9], None, None),
        (&[7, 8, 9, 10], None, None),
        (&[8, 9], Some(50), None),
        (&[8, 9], Some(49), Some(7)),
        (&[8, 9], None, Some(7)),
        (&[9], Some(100), None),
        (&[9, 10], Some(99), Some(8)),
        (&[7, 9], Some(99), Some(8)),
        (&[10], Some(100), None),
        (&[7, 8], Some(1000), Some(9)),
        (&[], Some(1000), Some(9)),
        (&[6], Some(1000), Some(7)),
    ];
    for (numbers, in_tables, wanted) in table {
        let tree = |highest| Tree { highest, counts_gone_blobs: false };
        let trees = BTreeMap::from([(3, tree(in_tables)), (4, tree(Some(7)))]);
        let missing = match are_all_there(data.path(), &there(numbers), Some(&inventory), &trees) {
            Ok(()) => None,
            Err(OpenError::Missing { file }) => journal::number(&file),
            Err(err) => panic!("{err}"),
        };
        assert_eq!(missing, wanted, "{numbers:?}, {in_tables:?} in tables");
    }
    // Earlier programs list nothing, but wrote one at least.
    assert!(are_all_there(data.path(), &there(&[7]), None, &BTreeMap::new()).is_ok());
    assert!(are_all_there(data.path(), &there(&[]), None, &BTreeMap::new()).is_err());
}
