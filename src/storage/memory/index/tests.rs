use super::leaf::is_below;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// All keys of a range, leaf by leaf.
fn keys(index: &Index, range: Range<'_>, is_reverse: bool) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let last = all.last().cloned();
        let range = match (&last, is_reverse) {
            (None, _) => range,
            (Some(last), false) => (Bound::Excluded(last.as_bytes()), range.1),
            (Some(last), true) => (range.0, Bound::Excluded(last.as_bytes())),
        };
        let more = index.visit_leaf(range, is_reverse, &mut |key| {
            all.push(key.to_owned());
            ControlFlow::Continue(())
        });
        if !more {
            return all;
        }
    }
}

/// The number of keys of a range, and that of the steps that counted them.
fn count(index: &Index, range: Range<'_>, is_reverse: bool) -> (u64, usize) {
    let (mut sum, mut last) = (0, None);
    for steps in 1.. {
        let rest = match (&last, is_reverse) {
            (None, _) => range,
            (Some(last), false) => (Bound::Excluded(String::as_bytes(last)), range.1),
            (Some(last), true) => (range.0, Bound::Excluded(String::as_bytes(last))),
        };
        let (counted, next) = index.count(rest, is_reverse);
        sum += counted;
        last = next;
        if last.is_none() {
            return (sum, steps);
        }
    }
    unreachable!("a count ends")
}

fn check(index: &Index, model: &BTreeSet<String>, bounds: (Bound<String>, Bound<String>)) {
    let range = (bounds.0.as_ref().map(String::as_bytes), bounds.1.as_ref().map(String::as_bytes));
    let inside =
        |key: &&String| !is_below(key.as_bytes(), range.0) && !is_above(key.as_bytes(), range.1);
    let expected: Vec<String> = model.iter().filter(inside).cloned().collect();
    assert_eq!(keys(index, range, false), expected);
    assert_eq!(count(index, range, false), (expected.len() as u64, 1));
    assert_eq!(count(index, range, true), (expected.len() as u64, 1));
    let reversed: Vec<String> = expected.into_iter().rev().collect();
    assert_eq!(keys(index, range, true), reversed);
}

fn bound() -> impl Strategy<Value = Bound<String>> {
    prop_oneof![
        "[a-c]{0,4}".prop_map(Bound::Included),
        "[a-c]{0,4}".prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ]
}

const ALL: Range<'static> = (Bound::Unbounded, Bound::Unbounded);

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_a_sorted_set(
        changes in prop::collection::vec(("[a-c]{1,5}|[a-cé]{1,3}x{120,900}", any::<bool>()), 0..150),
        bounds in (bound(), bound()),
    ) {
        let (index, mut model, mut bytes) = (Index::default(), BTreeSet::new(), 0);
        for (key, is_added) in changes {
            if is_added {
                if model.insert(key.clone()) {
                    bytes += index.insert(&key);
                }
            } else if model.remove(&key) {
                bytes += index.remove(&key);
            }
        }
        prop_assert_eq!(bytes, index.held().cast_signed());
        check(&index, &model, (Bound::Unbounded, Bound::Unbounded));
        check(&index, &model, bounds);
    }
}

#[test]
fn a_key_takes_few_bytes_and_gives_them_back() {
    let scattered = |number: u64| format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let counting = |number: u64| format!("user:{number:011}");
    for key in [scattered, counting] {
        const KEYS: u64 = 50_000;
        let index = Index::default();
        let bytes: i64 = (0..KEYS).map(|number| index.insert(&key(number))).sum();
        let each = bytes / KEYS.cast_signed();
        assert!((1..=26).contains(&each), "{each} bytes a key");
        for is_reverse in [false, true] {
            let steps = read(&index.directory).len().div_ceil(COUNT_LEAVES);
            assert_eq!(count(&index, ALL, is_reverse), (KEYS, steps));
        }
        let left: i64 = (1..KEYS).map(|number| index.remove(&key(number))).sum();
        assert!(bytes + left < 1100, "{} bytes for one key", bytes + left);
        assert_eq!(keys(&index, ALL, false), [key(0)]);
        index.remove(&key(0));
        assert_eq!(index.held(), 0);
    }
}

/// A queue is taken from its front; what it has left behind must not be in the way.
#[test]
fn no_empty_leaves_are_left() {
    const KEYS: u64 = 20_000;
    let (index, key) = (Index::default(), |number: u64| format!("job:{number:011}"));
    for number in 0..KEYS {
        index.insert(&key(number));
    }
    for number in 0..KEYS {
        assert_eq!(index.first("job:").as_deref(), Some(&*key(number)));
        index.remove(&key(number));
        if number % 1000 == 0 {
            let directory = read(&index.directory);
            assert!(directory.values().all(|leaf| lock(leaf).keys() > 0), "at {number}");
        }
    }
    assert_eq!((index.first("job:"), index.held()), (None, 0));
}

#[test]
fn no_key_makes_it_grow_by_more_than_the_limit() {
    let (index, mut most) = (Index::default(), 0);
    for number in 0..2000_usize {
        let key = format!("{}{number}", "k".repeat(number * 37 % 1020));
        let limit = index.growth_max(NewKeys::one(&key));
        let growth = index.insert(&key).unsigned_abs();
        assert!(growth <= limit, "{growth} of {limit} bytes for {number}");
        most = most.max(growth);
    }
    assert!(most > 1024, "{most}");
}

#[test]
fn no_keys_make_it_grow_by_more_than_the_limit() {
    let index = Index::default();
    for round in 0..200_u64 {
        // Runs in order, in reverse order and scattered, at several places.
        let key = |number: u64| match round % 3 {
            0 => format!("{round}:{number:04}"),
            1 => format!("{}:{:04}", round / 7, 9999 - number),
            _ => format!("{:x}", (round * 1000 + number).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        };
        let keys: BTreeSet<String> = (0..round * 2).map(key).collect();
        let keys: Vec<&String> =
            keys.iter().filter(|key| index.first(key).as_deref() != Some(key)).collect();
        let new = keys.iter().fold(NewKeys::default(), |new, key| new.and(key));
        let limit = index.growth_max(new);
        let growth: i64 = keys.iter().map(|key| index.insert(key)).sum();
        assert!(growth.unsigned_abs() <= limit, "{growth} of {limit} bytes in {round}");
    }
}
