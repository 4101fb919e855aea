//! What the check makes of journals that are written here byte by byte.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use super::*;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A batch as the database writes it: its items are keys and values.
fn batch(number: u64, items: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut written = Vec::new();
    for (key, value) in items {
        written.extend(item(key.len(), value.len()));
        written.extend(*key);
        written.extend(*value);
    }
    closed(number, items.len(), &written)
}

/// The head of an item.
fn item(key_bytes: usize, value_bytes: usize) -> Vec<u8> {
    let mut head = vec![ITEM, 0, 0];
    head.extend(7_u64.to_le_bytes());
    head.extend(u16::try_from(key_bytes).unwrap().to_le_bytes());
    head.extend(u32::try_from(value_bytes).unwrap().to_le_bytes());
    head.extend(u32::try_from(value_bytes).unwrap().to_le_bytes());
    head
}

/// The batch of items that are written already.
fn closed(number: u64, items: usize, written: &[u8]) -> Vec<u8> {
    let mut checksum = Xxh3::new();
    checksum.update(written);
    let mut batch = vec![START];
    batch.extend(u32::try_from(items).unwrap().to_le_bytes());
    batch.extend(number.to_le_bytes());
    batch.extend(written);
    batch.push(END);
    batch.extend(checksum.digest().to_le_bytes());
    batch.extend(TRAILER);
    batch
}

/// A batch of one item.
fn simple(number: u64) -> Vec<u8> {
    batch(number, &[(b"key", format!("value {number}").as_bytes())])
}

/// A folder with these journals, which are numbered from 0.
fn folder(journals: &[Vec<u8>]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, journal) in journals.iter().enumerate() {
        fs::write(folder.path().join(format!("{number}.jnl")), journal).unwrap();
    }
    folder
}

fn zeros() -> Vec<u8> {
    vec![0; 100_000]
}

/// Checks journals that were written before there were stamps.
fn check(folder: &Path) -> Result<(), OpenError> {
    check_knowing(folder, None, 0)
}

/// Checks journals with a stamp, of which the newest had so many whole bytes.
fn check_knowing(folder: &Path, stamp: Option<Stamp>, bytes: u64) -> Result<(), OpenError> {
    let newest = journals(folder).unwrap().pop();
    let newest = newest.and_then(|path| number(&path));
    let whole_bytes = |number| if Some(number) == newest { bytes } else { 0 };
    Journals::read(folder, stamp, whole_bytes)?.cut().map(drop)
}

/// The check leaves these journals as they are.
#[track_caller]
fn passes(journals: &[Vec<u8>]) {
    let folder = folder(journals);
    check(folder.path()).unwrap_or_else(|err| panic!("{err}"));
    for (number, journal) in journals.iter().enumerate() {
        let left = fs::read(folder.path().join(format!("{number}.jnl"))).unwrap();
        assert!(left == *journal, "journal {number} was changed");
    }
}

/// The check cuts this journal, so that so many bytes are left.
#[track_caller]
fn is_cut(journal: &[u8], bytes: usize) {
    let folder = folder(&[journal.to_vec()]);
    check(folder.path()).unwrap_or_else(|err| panic!("{err}"));
    let left = fs::read(folder.path().join("0.jnl")).unwrap();
    assert_eq!(left.len(), bytes);
    assert!(left == journal[..bytes], "what is left was changed");
    check(folder.path()).unwrap_or_else(|err| panic!("a second check: {err}"));
}

/// The check refuses these journals because of one byte, and changes nothing.
#[track_caller]
fn is_refused(journals: &[Vec<u8>], number: usize, byte: usize) {
    let folder = folder(journals);
    match check(folder.path()) {
        Err(OpenError::Damaged { file, at }) => {
            assert_eq!(file, folder.path().join(format!("{number}.jnl")));
            assert_eq!(at, byte as u64);
        }
        other => panic!("{other:?}"),
    }
    for (number, journal) in journals.iter().enumerate() {
        let left = fs::read(folder.path().join(format!("{number}.jnl"))).unwrap();
        assert!(left == *journal, "journal {number} was changed");
    }
}

#[test]
fn whole_batches_pass() {
    passes(&[]);
    passes(&[vec![]]);
    passes(&[zeros()]);
    passes(&[simple(1)]);
    passes(&[[simple(1), simple(2), zeros()].concat()]);
    passes(&[batch(1, &[])]);
    let large = vec![START; 100_000];
    passes(&[[batch(1, &[(b"a", b""), (b"b", &large), (b"", b"c")]), simple(9)].concat()]);
    let clear = [&[CLEAR][..], &7_u64.to_le_bytes()].concat();
    passes(&[[closed(3, 1, &clear), simple(4)].concat()]);
}

#[test]
fn several_journals_continue_each_other() {
    passes(&[[simple(1), simple(2)].concat(), [simple(3), zeros()].concat()]);
    passes(&[[simple(1), zeros()].concat(), zeros(), [simple(3), zeros()].concat()]);
    passes(&[[simple(1), zeros()].concat(), vec![]]);
}

#[test]
fn journals_are_read_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("9.jnl"), simple(1)).unwrap();
    fs::write(folder.path().join("10.jnl"), simple(2)).unwrap();
    fs::write(folder.path().join("version"), "no journal").unwrap();
    check(folder.path()).unwrap();
}

#[test]
fn a_torn_last_batch_is_cut_off() {
    let whole = [simple(1), simple(2)].concat();
    let torn = batch(3, &[(b"key", b"value"), (b"other", &[START; 50])]);
    for bytes in 1..torn.len() {
        let journal = [whole.as_slice(), &torn[..bytes]].concat();
        is_cut(&journal, whole.len());
        is_cut(&[journal, zeros()].concat(), whole.len());
    }
    is_cut(&torn[..torn.len() - 1], 0);
}

/// The pages of one write reach the disk in any order.
#[test]
fn a_last_batch_with_a_hole_is_cut_off() {
    let whole = simple(1);
    let mut torn = batch(2, &[(b"key", &vec![b'x'; 20_000])]);
    torn[4096..8192].fill(0);
    is_cut(&[whole.clone(), torn.clone(), zeros()].concat(), whole.len());
    torn[..4096].fill(0);
    is_cut(&[whole.clone(), torn, zeros()].concat(), whole.len());
}

#[test]
fn a_broken_batch_before_a_whole_one_is_refused() {
    let (first, second) = (simple(1), simple(2));
    for at in 0..second.len() {
        let mut broken = second.clone();
        broken[at] ^= 0x40;
        // The checksum leaves the number out.
        if (5..13).contains(&at) {
            continue;
        }
        let journal = [first.clone(), broken, simple(3), zeros()].concat();
        is_refused(&[journal], 0, first.len());
    }
    let hole = vec![0; second.len()];
    is_refused(&[[first.clone(), hole, simple(3)].concat()], 0, first.len());
    is_refused(&[[b"garbage".to_vec(), simple(3)].concat()], 0, 0);
}

#[test]
fn a_number_out_of_order_is_refused() {
    let first = simple(5);
    for number in [0, 4, 5] {
        is_refused(&[[first.clone(), simple(number)].concat()], 0, first.len());
        is_refused(&[first.clone(), simple(number)], 1, 0);
    }
    let raised = [first.clone(), simple(900), simple(7)].concat();
    is_refused(&[raised], 0, first.len() + simple(900).len());
}

#[test]
fn a_number_past_the_highest_is_none() {
    passes(&[simple(NUMBER_MAX)]);
    is_cut(&simple(NUMBER_MAX + 1), 0);
    is_refused(&[[simple(NUMBER_MAX + 1), simple(2)].concat()], 0, 0);
}

#[test]
fn an_earlier_journal_that_is_torn_is_refused() {
    let torn = [simple(1), b"torn".to_vec()].concat();
    is_refused(&[torn.clone(), simple(3)], 0, simple(1).len());
    is_refused(&[torn, [simple(3), b"torn".to_vec()].concat()], 0, simple(1).len());
}

/// A failed write ends in one journal, and the database may begin another
/// before it notices.
#[test]
fn an_earlier_journal_that_is_torn_is_cut_if_the_later_ones_are_empty() {
    let torn = [simple(1), simple(2)[..20].to_vec(), zeros()].concat();
    for later in [vec![], zeros()] {
        let folder = folder(&[torn.clone(), later]);
        check(folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("0.jnl")).unwrap(), simple(1));
    }
}

#[test]
fn lengths_past_the_end_are_an_end() {
    for (key_bytes, value_bytes) in [(0xffff, 0), (0, 0xffff_ffff), (0xffff, 0xffff_ffff)] {
        let items = [item(key_bytes, value_bytes), b"key".to_vec()].concat();
        is_cut(&closed(1, 1, &items), 0);
        is_refused(&[[closed(1, 1, &items), simple(2)].concat()], 0, 0);
    }
    let mut many = simple(1);
    many[1..5].fill(0xff);
    is_cut(&many, 0);
    is_refused(&[[many, simple(2)].concat()], 0, 0);
}

/// How long a search may take that would take hours if it began anew at each
/// place: seconds, on a machine with nothing else to do.
const NOT_HOURS: Duration = Duration::from_secs(900);

/// A value can look like the beginnings of millions of batches.
#[test]
fn a_torn_value_is_searched_in_time() {
    let value = [START, ITEM, ITEM, START].repeat(1 << 20);
    let torn = batch(2, &[(b"key", &value)]);
    let start = Instant::now();
    is_cut(&[simple(1), torn[..torn.len() - 1].to_vec()].concat(), simple(1).len());
    // Reading to the end from each of them would take hours.
    assert!(start.elapsed() < NOT_HOURS, "{:?}", start.elapsed());
}

/// Every item has a beginning of a batch for its key, with as many items as
/// follow or with more than there are.
#[test]
fn a_torn_value_that_is_made_to_be_searched_for_hours_is_refused_in_time() {
    const PIECES: u32 = 60_000;
    for more_than_there_are in [0, 1] {
        let mut value = Vec::new();
        for left in (0..PIECES).rev() {
            value.extend(item(START_BYTES, 0));
            value.push(START);
            value.extend((left + more_than_there_are).to_le_bytes());
            value.extend(u64::MAX.to_le_bytes());
        }
        value.push(END);
        value.extend([0; 8]);
        value.extend(TRAILER);
        let torn = batch(2, &[(b"key", &value)]);
        let journal = [simple(1), torn[..torn.len() - 1].to_vec()].concat();
        let start = Instant::now();
        is_refused(&[journal], 0, simple(1).len());
        assert!(start.elapsed() < NOT_HOURS, "{:?}", start.elapsed());
    }
}

/// A batch of one item that says what its number cannot be below.
fn above(floor: u64, number: u64) -> Vec<u8> {
    batch(number, &[(&FLOOR_KEY, &floor.to_le_bytes()), (b"key", b"value")])
}

#[test]
fn a_number_below_its_floor_is_refused() {
    passes(&[above(0, 0)]);
    passes(&[above(77, 77), [above(78, 80), simple(81)].concat()]);
    // The first batch has no other before it to be compared with.
    is_refused(&[above(77, 3)], 0, 0);
    is_refused(&[[above(77, 13), above(78, 78)].concat()], 0, 0);
}

#[test]
fn a_number_that_reaches_the_next_floor_is_refused() {
    let raised = [above(5, 900), above(6, 901)].concat();
    is_refused(&[raised], 0, above(5, 900).len());
    is_refused(&[above(5, 6), above(6, 7)], 1, 0);
}

const STAMP: Stamp = Stamp(u128::from_le_bytes([0xc5; 16]));

/// A batch as it is written today: it has the stamp, and another item.
fn stamped(number: u64, value: &[u8]) -> Vec<u8> {
    batch(number, &[(&FLOOR_KEY, &STAMP.floor(number)), (b"key", value)])
}

/// What the check makes of a journal with the stamp, of which so many bytes were
/// whole: how much is left of it, or where it is damaged.
#[track_caller]
fn checked(journal: &[u8], whole_bytes: usize) -> Result<usize, u64> {
    let folder = folder(&[journal.to_vec()]);
    let outcome = check_knowing(folder.path(), Some(STAMP), whole_bytes as u64);
    let left = fs::read(folder.path().join("0.jnl")).unwrap();
    match outcome {
        Ok(()) => {
            assert!(left == journal[..left.len()], "what is left was changed");
            Ok(left.len())
        }
        Err(OpenError::Damaged { at, .. }) => {
            assert!(left == journal, "a journal that is refused was changed");
            Err(at)
        }
        Err(err) => panic!("{err}"),
    }
}

/// What a client may store: what looks like a batch of any kind, what was a
/// batch of this journal, and what would be searched for hours.
fn values_like_batches() -> Vec<Vec<u8>> {
    let other = Stamp::new();
    let guessed = batch(900, &[(&FLOOR_KEY, &other.floor(900)), (b"key", b"value")]);
    let unstamped = batch(900, &[(&FLOOR_KEY, &900_u64.to_le_bytes()), (b"key", b"value")]);
    let copy = stamped(1, b"first");
    let nested = stamped(2, &[&copy[..], &simple(901), &copy].concat());
    let mut beginnings = Vec::new();
    for left in (0..20_000_u32).rev() {
        beginnings.extend(item(START_BYTES, 0));
        beginnings.push(START);
        beginnings.extend(left.to_le_bytes());
        beginnings.extend(u64::MAX.to_le_bytes());
    }
    vec![simple(900), above(900, 900), unstamped, guessed, copy, nested, beginnings]
}

#[test]
fn no_value_decides_whether_the_end_is_torn() {
    let whole = [stamped(1, b"first"), stamped(2, b"second")].concat();
    for value in values_like_batches() {
        let torn = stamped(3, &[&value[..], &[b'x'; 50]].concat());
        for bytes in [torn.len() - 1, torn.len() - 40, torn.len() / 2, 60] {
            let journal = [&whole[..], &torn[..bytes]].concat();
            assert_eq!(checked(&journal, 0), Ok(whole.len()));
            assert_eq!(checked(&[journal, zeros()].concat(), 0), Ok(whole.len()));
        }
        // Its first page has not come to the disk.
        let mut torn = torn;
        torn[..60].fill(0);
        assert_eq!(checked(&[&whole[..], &torn[..]].concat(), 0), Ok(whole.len()));
        // As the first one of a journal.
        let torn = stamped(3, &value);
        assert_eq!(checked(&torn[..torn.len() - 1], 0), Ok(0));
    }
}

#[test]
fn a_stamped_batch_before_another_is_damaged_wherever_it_is_broken() {
    let values = values_like_batches();
    for value in [&b"value"[..], &values[5]] {
        // Behind another one, and as the first one of all.
        for first in [stamped(1, b"first"), Vec::new()] {
            let (second, third) = (stamped(2, value), stamped(3, value));
            for at in (0..second.len()).filter(|at| !(5..13).contains(at)) {
                let mut broken = second.clone();
                broken[at] ^= 0x40;
                let journal = [&first[..], &broken, &third, &zeros()].concat();
                assert_eq!(checked(&journal, 0), Err(first.len() as u64), "byte {at}");
            }
            // The last one says that those before it were synced, whole or not.
            let hole = vec![0; second.len()];
            let journal = [&first[..], &hole, &third[..third.len() - 5]].concat();
            assert_eq!(checked(&journal, 0), Err(first.len() as u64));
        }
    }
}

#[test]
fn what_is_known_to_be_whole_is_never_torn() {
    let whole = [stamped(1, b"first"), stamped(2, b"second")].concat();
    let first = stamped(1, b"first").len();
    assert_eq!(checked(&whole, whole.len()), Ok(whole.len()));
    let longer = [&whole[..], &stamped(3, b"third")[..60]].concat();
    assert_eq!(checked(&longer, whole.len()), Ok(whole.len()));
    for bytes in [first, first + 1, whole.len() - 1] {
        assert_eq!(checked(&whole[..bytes], whole.len()), Err(first as u64), "{bytes}");
        let ends_in_zeros = [&whole[..bytes], &zeros()].concat();
        assert_eq!(checked(&ends_in_zeros, whole.len()), Err(first as u64), "{bytes}");
    }
    assert_eq!(checked(&[], 1), Err(0));
    assert_eq!(checked(&zeros(), 1), Err(0));
}

#[test]
fn stamps_are_never_the_same() {
    assert_ne!(Stamp::new(), Stamp::new());
}
