//! What the storage promises of several operations at one moment, and of the first key
//! with a prefix, on every engine. All keys here are in one slot of a cluster: their names
//! follow a tag.

#![allow(clippy::needless_pass_by_value, reason = "a promise is given a store of its own")]
#![allow(clippy::indexing_slicing, reason = "a promise that panics is not kept")]

use crate::support::blocking::Blocking as _;
use crate::support::history::{Plan, bytes_of, number_of, record};
use crate::support::linearizability::{Call, Saw, check};
use crate::support::promises::{self, Store, always, clear, entry, fewer_if_slow};
use crate::support::promises::{is_of_one_moment, is_slow, on_every_engine, set_all, wait_for};
use crate::support::random::Random;
use crate::support::threads::Ended;
use bytes::Bytes;
use little_key_value::storage::{BatchOp, Change, Decision, Durable, Effect, Entry, Key, Listing};
use little_key_value::storage::{Op, PAGE_KEYS_MAX, Range, Time, Updated};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

on_every_engine! {
    a_batch_does_all_of_its_operations
    each_operation_sees_those_before_it
    a_refused_batch_leaves_nothing
    a_change_that_panics_leaves_nothing_of_its_batch
    a_refused_update_keeps
    a_thousand_operations_are_done_at_one_moment
    a_batch_holds_values_of_every_size
    what_has_expired_is_absent_for_a_batch
    a_batch_that_is_given_back_was_not_done
    two_keys_of_one_batch_never_differ
    two_keys_of_one_batch_come_and_go_together
    a_sum_that_batches_move_about_is_kept
    batches_are_linearizable
    batches_beside_clears_are_whole
    the_first_key_with_a_prefix_is_changed
    a_first_change_that_panics_changes_nothing
    what_has_expired_is_no_first_key
    a_smaller_key_is_first_whenever_it_comes
    of_many_takers_one_gets_each_key_in_order
    takers_beside_adders_get_each_key_once
    takers_beside_batches_and_clears_get_each_value_once
    operations_of_all_kinds_agree_with_a_map
}

/// The tag.
const TAG: &str = "{one slot}";

fn tagged(name: &str) -> String {
    format!("{TAG}{name}")
}

/// The key of a name.
fn key(name: &str) -> Key {
    promises::key(&tagged(name))
}

/// The name of a key.
#[track_caller]
fn name_of(key: &str) -> String {
    key.strip_prefix(TAG).expect("a key with the tag").to_owned()
}

#[track_caller]
fn get(store: &Store, name: &str) -> Option<Bytes> {
    promises::get(store, &tagged(name))
}

#[track_caller]
fn set(store: &Store, name: &str, value: impl Into<Bytes>) {
    promises::set(store, &tagged(name), value);
}

#[track_caller]
fn delete(store: &Store, name: &str) {
    promises::delete(store, &tagged(name));
}

#[track_caller]
fn update_first(store: &Store, prefix: &str, change: Change) -> Option<(String, Updated)> {
    let first = store.update_first(&tagged(prefix), change).expect("the engine does it");
    first.map(|(key, updated)| (name_of(key.as_str()), updated))
}

/// An operation of a batch that decides the same on any entry.
fn decide(decision: Decision) -> BatchOp {
    BatchOp::Update(always(decision))
}

/// An operation of a batch that sees the entry and lets it be.
fn look() -> BatchOp {
    decide(Decision::Keep)
}

/// An operation of a batch that stores a value.
fn put(value: impl Into<Bytes>) -> BatchOp {
    BatchOp::Set(entry(value))
}

#[track_caller]
fn batch<'a>(store: &Store, ops: impl IntoIterator<Item = (&'a str, BatchOp)>) -> Vec<Effect> {
    let ops = ops.into_iter().map(|(name, op)| (key(name), op)).collect();
    store.batch(ops).expect("the engine does it")
}

/// The update of an effect.
#[track_caller]
fn updated(effect: &Effect) -> &Updated {
    let Effect::Updated(updated) = effect else { panic!("{effect:?} of an update") };
    updated
}

/// Every name and entry. Those of a page are of one moment, if the engine has any.
#[track_caller]
fn all(store: &Store) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    let mut listing = Listing { with_entries: true, keys_max: PAGE_KEYS_MAX, ..Listing::default() };
    loop {
        let page = store.list(listing.clone()).expect("the engine lists");
        all.extend(page.keys().map(name_of).zip(page.entries().iter().cloned()));
        match page.next {
            Some(next) => listing.range.start = next,
            None => return all,
        }
    }
}

/// The keys and values of a store.
#[track_caller]
fn holds(store: &Store, expected: &[(&str, &str)]) {
    let all = all(store);
    let all: Vec<_> = all.iter().map(|(name, entry)| (name.as_str(), &entry.value()[..])).collect();
    let expected: Vec<_> = expected.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    assert_eq!(all, expected);
    for (name, value) in expected {
        assert_eq!(get(store, name).as_deref(), Some(value), "{name}");
    }
}

/// A change that appends to a value, or begins it.
fn append(text: &'static str) -> Change {
    Box::new(move |before| {
        let before = before.map_or(&[][..], |entry| entry.value());
        Decision::Replace(entry([before, text.as_bytes()].concat()))
    })
}

fn a_batch_does_all_of_its_operations(store: Store) {
    for (name, value) in [("kept", "k"), ("set", "old"), ("deleted", "x"), ("removed", "y")] {
        set(&store, name, value);
    }
    let expiry = Some(Time::now().after(Duration::from_secs(1000)));
    let typed = entry("v").with_content_type(Some("image/png".into())).with_expiry(expiry);
    let effects = batch(
        &store,
        [
            ("set", put("new")),
            ("created", BatchOp::Update(append("c"))),
            ("deleted", BatchOp::Delete),
            ("absent", BatchOp::Delete),
            ("removed", decide(Decision::Remove)),
            ("kept", look()),
            ("none", look()),
            ("typed", BatchOp::Set(typed.clone())),
        ],
    );
    let update = |before: Option<&str>, after: Option<&str>| {
        let [before, after] =
            [before, after].map(|value| value.map(|value| entry(value.to_owned())));
        Effect::Updated(Updated { before, after }.into())
    };
    assert_eq!(
        effects,
        [
            Effect::Done,
            update(None, Some("c")),
            Effect::Done,
            Effect::Done,
            update(Some("y"), None),
            update(Some("k"), Some("k")),
            update(None, None),
            Effect::Done,
        ]
    );
    assert_eq!(store.get(&key("typed")), Ok(Some(typed)));
    holds(&store, &[("created", "c"), ("kept", "k"), ("set", "new"), ("typed", "v")]);
    assert_eq!(batch(&store, []), []);
}

fn each_operation_sees_those_before_it(store: Store) {
    set(&store, "a", "0");
    let effects = batch(
        &store,
        [
            ("a", BatchOp::Update(append("1"))),
            ("b", put("b")),
            ("a", BatchOp::Update(append("2"))),
            ("b", BatchOp::Update(append("c"))),
            ("a", BatchOp::Delete),
            ("a", BatchOp::Update(append("3"))),
            ("b", decide(Decision::Remove)),
            ("a", look()),
            ("b", look()),
            ("c", put("x")),
            ("c", BatchOp::Delete),
        ],
    );
    let seen: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Updated(_)))
        .map(|effect| {
            let Updated { before, after } = updated(effect);
            [before, after].map(|entry| {
                let text = entry.as_ref().map(|entry| std::str::from_utf8(entry.value()));
                text.map_or("-", |text| text.expect("text")).to_owned()
            })
        })
        .collect();
    let expected =
        [["0", "01"], ["01", "012"], ["b", "bc"], ["-", "3"], ["bc", "-"], ["3", "3"], ["-", "-"]];
    assert_eq!(seen, expected);
    holds(&store, &[("a", "3")]);
}

fn a_refused_batch_leaves_nothing(store: Store) {
    set(&store, "a", "a");
    set(&store, "b", "b");
    let ops = || {
        vec![
            ("a", put("x")),
            ("b", BatchOp::Delete),
            ("c", put("x")),
            ("a", BatchOp::Update(append("y"))),
            ("d", BatchOp::Update(append("z"))),
        ]
    };
    for at in 0..=ops().len() {
        for (name, seen) in [("a", [Some("a"), Some("x"), Some("xy")]), ("new", [None; 3])] {
            let mut refused = ops();
            refused.insert(at, (name, decide(Decision::Refuse)));
            let mut effects = batch(&store, refused);
            assert_eq!(effects.len(), at + 1, "{effects:?}");
            let last = effects.pop().expect("the refused one");
            // It has seen those before it, as any other.
            let step = usize::from(at > 0) + usize::from(at > 3);
            let expected = seen[step].map(entry);
            let expected = Updated { before: expected.clone(), after: expected };
            assert_eq!(updated(&last), &expected, "{name} at {at}");
            holds(&store, &[("a", "a"), ("b", "b")]);
        }
    }
    // The same without it.
    batch(&store, ops());
    holds(&store, &[("a", "xy"), ("c", "x"), ("d", "z")]);
}

fn a_change_that_panics_leaves_nothing_of_its_batch(store: Store) {
    set(&store, "a", "a");
    for at in 0..3 {
        let mut ops = vec![(key("a"), put("x")), (key("b"), put("x"))];
        ops.insert(at, (key("c"), BatchOp::Update(Box::new(|_| panic!("a part of a test")))));
        // Where it panics depends on whose thread decides.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| store.batch(ops)));
        assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
        holds(&store, &[("a", "a")]);
    }
    batch(&store, [("a", put("another")), ("b", put("b"))]);
    set(&store, "c", "c");
    holds(&store, &[("a", "another"), ("b", "b"), ("c", "c")]);
}

fn a_refused_update_keeps(store: Store) {
    for value in [None, Some("value")] {
        if let Some(value) = value {
            set(&store, "key", value);
        }
        let updated = store.update(key("key"), always(Decision::Refuse));
        let before = value.map(entry);
        assert_eq!(updated, Ok(Updated { before: before.clone(), after: before }));
        let first = update_first(&store, "k", always(Decision::Refuse));
        let first = first.map(|(name, updated)| (name, updated.before, updated.after));
        let both = |value| ("key".to_owned(), Some(entry(value)), Some(entry(value)));
        assert_eq!(first, value.map(both));
        assert_eq!(get(&store, "key").as_deref(), value.map(str::as_bytes));
    }
}

fn a_thousand_operations_are_done_at_one_moment(store: Store) {
    const MANY: usize = 1000;
    let names: Vec<String> = (0..MANY).map(|index| format!("key {index:03}")).collect();
    let each = |op: &dyn Fn(usize) -> BatchOp| -> Vec<(Key, BatchOp)> {
        names.iter().enumerate().map(|(index, name)| (key(name), op(index))).collect()
    };
    let effects = store.batch(each(&|index| put(bytes_of(index as u64)))).expect("it is done");
    assert!(effects.iter().eq([&Effect::Done; MANY]));
    let effects = store.batch(each(&|_| look())).expect("it is done");
    for (index, effect) in effects.iter().enumerate() {
        let seen = updated(effect).before.as_ref().map(|entry| number_of(entry.value()));
        assert_eq!(seen, Some(index as u64));
    }
    assert!(all(&store).keys().eq(&names));

    let same = (0..MANY).map(|_| (names[0].as_str(), BatchOp::Update(count_up(1))));
    batch(&store, [(names[0].as_str(), put("0"))].into_iter().chain(same));
    assert_eq!(get(&store, &names[0]).as_deref(), Some(&b"1000"[..]));

    // The last of them undoes it all.
    let mut refused = each(&|_| BatchOp::Delete);
    refused.push((key("last"), decide(Decision::Refuse)));
    assert_eq!(store.batch(refused).expect("it is done").len(), MANY + 1);
    assert_eq!(all(&store).len(), MANY);
    store.batch(each(&|_| BatchOp::Delete)).expect("it is done");
    assert_eq!(all(&store), BTreeMap::new());
}

/// A change that adds to a number.
fn count_up(by: u64) -> Change {
    Box::new(move |before| Decision::Replace(entry((decimal(before) + by).to_string())))
}

/// The number in an entry.
fn decimal(entry: Option<&Entry>) -> u64 {
    let text = entry.map_or("0", |entry| std::str::from_utf8(entry.value()).expect("digits"));
    text.parse().expect("a number")
}

fn a_batch_holds_values_of_every_size(store: Store) {
    let mut random = Random::of_this_run();
    let sizes = [1, 4095, 4096, 4097, 65_536, 1 << 20, 3 << 20];
    let values: Vec<Bytes> = sizes.map(|size| random.bytes(size).into()).into();
    let names: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    let ops = || names.iter().map(String::as_str).zip(values.iter().cloned().map(put));
    batch(&store, ops().chain([("last", decide(Decision::Refuse))]));
    assert!(all(&store).is_empty());
    batch(&store, ops());
    let looked = batch(&store, names.iter().map(|name| (name.as_str(), look())));
    for ((name, value), effect) in names.iter().zip(&values).zip(&looked) {
        assert!(get(&store, name).as_ref() == Some(value), "{name} bytes");
        let seen = updated(effect).before.as_ref().map(Entry::value);
        assert!(seen == Some(value), "{name} bytes in a batch");
    }
}

/// An expiry soon.
fn soon() -> Time {
    Time::now().after(Duration::from_millis(100))
}

fn what_has_expired_is_absent_for_a_batch(store: Store) {
    let soon = soon();
    let expiring = |bytes: usize| entry(vec![b'x'; bytes]).with_expiry(Some(soon));
    batch(
        &store,
        [("a", BatchOp::Set(expiring(10))), ("b", BatchOp::Set(expiring(10_000))), ("c", put("c"))],
    );
    wait_for(soon);
    let effects = batch(
        &store,
        [
            ("a", look()),
            ("b", BatchOp::Update(append("again"))),
            ("c", BatchOp::Update(append("d"))),
            ("b", look()),
        ],
    );
    let before: Vec<_> = effects.iter().map(|effect| updated(effect).before.clone()).collect();
    assert_eq!(before, [None, None, Some(entry("c")), Some(entry("again"))]);
    holds(&store, &[("b", "again"), ("c", "cd")]);
}

fn a_batch_that_is_given_back_was_not_done(store: Store) {
    set(&store, "key", "x".repeat(1 << 20));
    let ops: [(Op, usize); 3] = [
        (Op::Batch(vec![(key("a"), put("a")), (key("b"), put("b"))]), 3),
        (Op::Batch(vec![(key("a"), BatchOp::Delete), (key("key"), decide(Decision::Remove))]), 1),
        (Op::UpdateFirst(TAG.into(), always(Decision::Remove)), 0),
    ];
    let mut before = 1;
    for (op, after) in ops {
        if let Err(op) = store.try_now(op) {
            assert_eq!(all(&store).len(), before);
            store.perform(op).expect("the engine writes");
        }
        assert_eq!(all(&store).len(), after);
        before = after;
    }
}

/// Runs readers over and over for as long as a writer takes.
fn beside(writer: impl FnOnce() + Send, readers: &[&(dyn Fn() + Sync)]) {
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&has_ended);
        for reader in readers {
            let has_ended = &has_ended;
            scope.spawn(move || {
                let mut is_last = false;
                while !is_last {
                    is_last = has_ended.load(Ordering::Relaxed);
                    reader();
                }
            });
        }
        writer();
    });
}

fn two_keys_of_one_batch_never_differ(store: Store) {
    let rounds = fewer_if_slow(&store, 1000) as u64;
    let [one, other] = ["one", "other"];
    let number = |value: Option<Bytes>| value.map_or(0, |value| number_of(&value));
    // In order of the bytes too, so that a batch which is seen key by key takes its time.
    let between: Vec<String> = (0..50).map(|index| format!("one to other {index}")).collect();
    let write = || {
        for round in 1..=rounds {
            let both = |name| (name, put(bytes_of(round)));
            let between = between.iter().map(|name| (name.as_str(), put("x")));
            batch(&store, [both(one)].into_iter().chain(between).chain([both(other)]));
        }
    };
    let by_gets_in_turn = || {
        let mut last = 0;
        for name in [one, other, one, other] {
            let seen = number(get(&store, name));
            assert!(seen >= last, "{name} is {seen} after {last} was seen");
            last = seen;
        }
    };
    let same = |numbers: [u64; 2]| assert_eq!(numbers[0], numbers[1]);
    let by_batches = || {
        let effects = batch(&store, [(other, look()), (one, look())]);
        let value = |effect| updated(effect).before.as_ref().map(|entry| entry.value().clone());
        same([&effects[0], &effects[1]].map(|effect| number(value(effect))));
    };
    let by_lists = || {
        if !is_of_one_moment(&store) {
            return;
        }
        let all = all(&store);
        same([one, other].map(|name| number(all.get(name).map(|entry| entry.value().clone()))));
    };
    beside(write, &[&by_gets_in_turn, &by_gets_in_turn, &by_batches, &by_lists]);
    by_gets_in_turn();
    assert_eq!(number(get(&store, one)), rounds);
}

fn two_keys_of_one_batch_come_and_go_together(store: Store) {
    let rounds = fewer_if_slow(&store, 3000);
    // Far from each other, with others between them.
    let pair = ["a", "z"];
    set_all(&store, (0..500).map(|index| (key(&format!("k{index}")), entry("x"))));
    let write = || {
        for round in 0..rounds {
            let op = || if round % 2 == 0 { put("x") } else { BatchOp::Delete };
            batch(&store, pair.map(|name| (name, op())));
        }
    };
    let list = |with_entries, is_reverse| {
        let range = Range { is_reverse, ..Range::default() };
        let keys_max = PAGE_KEYS_MAX;
        let listing = Listing { range, with_entries, keys_max, ..Listing::default() };
        let page = store.list(listing).expect("the engine lists");
        assert_eq!(page.next, None);
        let is_whole = page.len() != 501 || !is_of_one_moment(&store);
        assert!(is_whole && (500..=502).contains(&page.len()), "{} keys", page.len());
    };
    beside(write, &[&|| list(false, false), &|| list(false, true), &|| list(true, false)]);
    assert_eq!(all(&store).len(), if rounds.is_multiple_of(2) { 500 } else { 502 });
}

fn a_sum_that_batches_move_about_is_kept(store: Store) {
    const ACCOUNTS: usize = 8;
    const THREADS: usize = 4;
    const EACH_AT_FIRST: u64 = 10;
    let transfers = fewer_if_slow(&store, 2000);
    let names: Vec<String> = (0..ACCOUNTS).map(|index| format!("account {index}")).collect();
    batch(&store, names.iter().map(|name| (name.as_str(), put(EACH_AT_FIRST.to_string()))));
    let random = Random::of_this_run();
    let take = |amount: u64| -> Change {
        Box::new(move |before| match decimal(before).checked_sub(amount) {
            Some(rest) => Decision::Replace(entry(rest.to_string())),
            None => Decision::Refuse,
        })
    };
    let sum_is_kept = || {
        let effects = batch(&store, names.iter().map(|name| (name.as_str(), look())));
        let sum: u64 = effects.iter().map(|effect| decimal(updated(effect).before.as_ref())).sum();
        assert_eq!(sum, ACCOUNTS as u64 * EACH_AT_FIRST, "{effects:?}");
        let sum: u64 = all(&store).values().map(|entry| decimal(Some(entry))).sum();
        assert!(sum == ACCOUNTS as u64 * EACH_AT_FIRST || !is_of_one_moment(&store), "{sum}");
    };
    let transfer = || {
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (mut random, store, names) = (random.fork(thread), &store, &names);
                scope.spawn(move || {
                    for _ in 0..transfers / THREADS {
                        let [from, to] = [(); 2].map(|()| names[random.below(ACCOUNTS)].as_str());
                        let amount = random.below(8) as u64;
                        let give = BatchOp::Update(count_up(amount));
                        let take = BatchOp::Update(take(amount));
                        // In any order of the keys, and of giving and taking.
                        if random.below(2) == 0 {
                            batch(store, [(from, take), (to, give)]);
                        } else {
                            batch(store, [(to, give), (from, take)]);
                        }
                    }
                });
            }
        });
    };
    beside(transfer, &[&sum_is_kept]);
    sum_is_kept();
}

/// Performs calls on numbers as operations on the store, nearly all of them in batches.
fn perform(store: &Store) -> impl FnMut(Call) -> Saw {
    let store = Arc::clone(store);
    let number =
        |effect: &Effect| updated(effect).before.as_ref().map(|entry| number_of(entry.value()));
    let replace = |value: u64| decide(Decision::Replace(entry(bytes_of(value))));
    move |call| {
        let two = |keys: [usize; 2], op: &dyn Fn() -> BatchOp| {
            let ops = keys.map(|name| (key(&name.to_string()), op())).into();
            let effects = store.batch(ops).expect("the engine does it");
            Saw([number(&effects[0]), number(&effects[1])])
        };
        let one = |name: usize, op: BatchOp| {
            let effects = store.batch(vec![(key(&name.to_string()), op)]);
            number(&effects.expect("the engine does it")[0]).into()
        };
        match call {
            Call::GetBoth(keys) => return two(keys, &look),
            Call::ExchangeBoth(keys, value) => return two(keys, &|| replace(value)),
            Call::Exchange(name, value) => return one(name, replace(value)),
            Call::Take(name) => return one(name, decide(Decision::Remove)),
            Call::Get(name) => {
                return get(&store, &name.to_string()).map(|value| number_of(&value)).into();
            }
            Call::Set(name, value) => set(&store, &name.to_string(), bytes_of(value)),
            Call::Delete(name) => delete(&store, &name.to_string()),
            Call::Clear => clear(&store),
        }
        Saw::default()
    }
}

fn batches_are_linearizable(store: Store) {
    let calls = fewer_if_slow(&store, 1000);
    let random = Random::of_this_run();
    for (keys, clears_per_mille) in [(2, 0), (4, 0), (2, 30)] {
        let plan = Plan { clients: 4, calls, keys, clears_per_mille, batches_per_mille: 500 };
        clear(&store);
        let history = record(plan, &random, || perform(&store));
        check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

fn batches_beside_clears_are_whole(store: Store) {
    let rounds = fewer_if_slow(&store, 500);
    let names: Vec<String> = (0..20).map(|index| format!("key {index}")).collect();
    let write = || {
        for round in 0..rounds {
            let op = || put(bytes_of(round as u64));
            batch(&store, names.iter().map(|name| (name.as_str(), op())));
        }
    };
    let is_whole = |entries: &[Entry]| {
        let values: BTreeSet<u64> = entries.iter().map(|entry| number_of(entry.value())).collect();
        let is_all = entries.is_empty() || entries.len() == names.len();
        assert!(is_all, "{} of a batch", entries.len());
        assert!(values.len() <= 1, "of several batches: {values:?}");
    };
    let are_whole = || {
        let effects = batch(&store, names.iter().map(|name| (name.as_str(), look())));
        let entries = effects.iter().filter_map(|effect| updated(effect).before.clone());
        is_whole(&entries.collect::<Vec<_>>());
        if is_of_one_moment(&store) {
            is_whole(&all(&store).into_values().collect::<Vec<_>>());
        }
    };
    beside(write, &[&are_whole, &|| clear(&store)]);
    are_whole();
}

/// Takes the first key with a prefix; gives its name and value.
#[track_caller]
fn take(store: &Store, prefix: &str) -> Option<(String, Bytes)> {
    update_first(store, prefix, always(Decision::Remove)).map(|(name, updated)| {
        let before = updated.before.expect("it was there");
        assert_eq!(updated.after, None);
        (name, before.value().clone())
    })
}

fn take_name(store: &Store, prefix: &str) -> Option<String> {
    take(store, prefix).map(|(name, _)| name)
}

fn the_first_key_with_a_prefix_is_changed(store: Store) {
    for (name, value) in [("a", "1"), ("p", "2"), ("p1", "3"), ("p2", "4"), ("q", "5")] {
        set(&store, name, value);
    }
    let change = |prefix: &str, decision: Decision| update_first(&store, prefix, always(decision));
    let updated = |name: &str, before: &'static str, after: Option<&'static str>| {
        let (before, after) = (Some(entry(before)), after.map(entry));
        Some((name.to_owned(), Updated { before, after }))
    };
    assert_eq!(change("x", Decision::Remove), None);
    assert_eq!(change("p3", Decision::Replace(entry("new"))), None);
    assert_eq!(change("p", Decision::Keep), updated("p", "2", Some("2")));
    assert_eq!(change("p", Decision::Replace(entry("6"))), updated("p", "2", Some("6")));
    assert_eq!(change("p", Decision::Remove), updated("p", "6", None));
    assert_eq!(change("p", Decision::Remove), updated("p1", "3", None));
    assert_eq!(change("", Decision::Remove), updated("a", "1", None));
    holds(&store, &[("p2", "4"), ("q", "5")]);
    assert_eq!(take_name(&store, "p").as_deref(), Some("p2"));
    assert_eq!(take_name(&store, "p"), None);
    set(&store, "\u{10ffff}x", "x");
    assert_eq!(take_name(&store, "\u{10ffff}").as_deref(), Some("\u{10ffff}x"));
    holds(&store, &[("q", "5")]);
    if is_of_one_moment(&store) {
        // Without slots it may be the first of all keys.
        promises::set(&store, "a key", "x");
        let first = store.update_first("", always(Decision::Remove)).expect("the engine does it");
        assert_eq!(first.map(|(key, _)| key), Some(promises::key("a key")));
    }
}

fn a_first_change_that_panics_changes_nothing(store: Store) {
    set(&store, "a", "a");
    set(&store, "b", "b");
    let update = || store.update_first(TAG, Box::new(|_| panic!("a part of a test")));
    let outcome = panic::catch_unwind(AssertUnwindSafe(update));
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    holds(&store, &[("a", "a"), ("b", "b")]);
    assert_eq!(take_name(&store, "").as_deref(), Some("a"));
}

fn what_has_expired_is_no_first_key(store: Store) {
    let soon = soon();
    let many = fewer_if_slow(&store, 10_000);
    let expiring =
        |name: String, bytes: usize| (key(&name), entry(vec![b'x'; bytes]).with_expiry(Some(soon)));
    set_all(&store, (0..many).map(|index| expiring(format!("a{index:05}"), 10)));
    set_all(&store, [expiring("a".to_owned(), 10_000), expiring("c".to_owned(), 10)]);
    set(&store, "b", "b");
    set(&store, "d", "d");
    wait_for(soon);
    assert_eq!(take_name(&store, "a"), None);
    assert_eq!(take_name(&store, "").as_deref(), Some("b"));
    assert_eq!(take_name(&store, "c"), None);
    // It is first again, as a new one.
    set(&store, "c", "again");
    assert_eq!(take(&store, ""), Some(("c".to_owned(), Bytes::from_static(b"again"))));
    assert_eq!(take_name(&store, "").as_deref(), Some("d"));
    assert_eq!(take_name(&store, ""), None);
}

fn a_smaller_key_is_first_whenever_it_comes(store: Store) {
    let add = |names: &[&str]| names.iter().for_each(|name| set(&store, name, "x"));
    let taken = |expected: &str| {
        let name = take_name(&store, "q:");
        assert_eq!(name.as_deref(), Some(expected));
    };
    add(&["q:3", "q:5", "q:7"]);
    taken("q:3");
    // By each kind of write that makes a key.
    add(&["q:1"]);
    taken("q:1");
    taken("q:5");
    store.update(key("q:4"), append("x")).expect("the engine writes");
    taken("q:4");
    batch(&store, [("q:2", put("x")), ("q:8", put("x"))]);
    taken("q:2");
    batch(&store, [("q:6", put("x")), ("q:0", put("x")), ("q:0", BatchOp::Delete)]);
    taken("q:6");
    // Of another prefix's takes this one learns nothing.
    add(&["q:", "q"]);
    assert_eq!(take_name(&store, "q").as_deref(), Some("q"));
    taken("q:");
    taken("q:7");
    // What was refused was not added.
    batch(&store, [("q:3", put("x")), ("q:3", decide(Decision::Refuse))]);
    taken("q:8");
    clear(&store);
    add(&["q:5"]);
    taken("q:5");
    assert_eq!(take_name(&store, "q:"), None);
    add(&["q:1"]);
    taken("q:1");
}

/// Has several takers take what they get until all is taken and nothing more comes.
/// Gives the names that each has got, in its order.
fn take_all(store: &Store, takers: usize, nothing_comes: &AtomicBool) -> Vec<Vec<String>> {
    let takers = (0..takers).map(|_| {
        move || {
            let mut own = Vec::new();
            loop {
                let is_last = nothing_comes.load(Ordering::SeqCst);
                match take(store, "job:") {
                    Some((name, value)) => {
                        assert_eq!(value, name, "a job that is another's");
                        own.push(name);
                    }
                    None if is_last => return own,
                    None => thread::yield_now(),
                }
            }
        }
    });
    thread::scope(|scope| {
        let takers: Vec<_> = takers.map(|taker| scope.spawn(taker)).collect();
        takers.into_iter().map(|taker| taker.join().expect("a taker ends")).collect()
    })
}

fn of_many_takers_one_gets_each_key_in_order(store: Store) {
    let jobs = if is_slow(&store) { 1000 } else { 10_000 };
    let names: Vec<String> = (0..jobs).map(|index| format!("job:{index:05}")).collect();
    set_all(&store, names.iter().map(|name| (key(name), entry(name.clone()))));
    set(&store, "job", "no job");
    set(&store, "jobs", "no job");
    let taken = take_all(&store, 8, &AtomicBool::new(true));
    assert!(taken.iter().all(|own| own.is_sorted()), "a taker's jobs are not in order");
    let mut taken: Vec<String> = taken.into_iter().flatten().collect();
    taken.sort_unstable();
    assert!(taken == names, "{} taken of {}", taken.len(), names.len());
    holds(&store, &[("job", "no job"), ("jobs", "no job")]);
}

fn takers_beside_adders_get_each_key_once(store: Store) {
    const ADDERS: usize = 2;
    let each = fewer_if_slow(&store, 2000) / ADDERS;
    let nothing_comes = AtomicBool::new(false);
    let mut random = Random::of_this_run();
    // In no order, so that smaller ones come when larger ones have been taken.
    let mut names: Vec<String> = (0..ADDERS * each)
        .map(|index| format!("job:{:04}:{index}", random.below(10_000)))
        .collect();
    let taken = thread::scope(|scope| {
        let takers = scope.spawn(|| take_all(&store, 4, &nothing_comes));
        let adders = names.chunks(each).map(|own| {
            let store = &store;
            scope.spawn(move || {
                for (index, name) in own.iter().enumerate() {
                    match index % 3 {
                        0 => set(store, name, name.clone()),
                        1 => drop(batch(store, [(name.as_str(), put(name.clone()))])),
                        _ => {
                            let value = Decision::Replace(entry(name.clone()));
                            let added = store.update(key(name), always(value));
                            assert_eq!(added.expect("the engine writes").before, None);
                        }
                    }
                }
            })
        });
        let adders: Vec<_> = adders.collect();
        let ended: Vec<_> = adders.into_iter().map(thread::ScopedJoinHandle::join).collect();
        nothing_comes.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "an adder has failed");
        takers.join().expect("the takers end")
    });
    let mut taken: Vec<String> = taken.into_iter().flatten().collect();
    taken.sort_unstable();
    names.sort_unstable();
    assert!(taken == names, "{} taken of {}", taken.len(), names.len());
}

fn takers_beside_batches_and_clears_get_each_value_once(store: Store) {
    let rounds = fewer_if_slow(&store, 500);
    let nothing_comes = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        let takers = scope.spawn(|| take_all(&store, 3, &nothing_comes));
        let _ended = Ended(&nothing_comes);
        for round in 0..rounds {
            if round % 50 == 49 {
                clear(&store);
            }
            let names = [2, 1, 0].map(|index| format!("job:{:03}:{index}", rounds - round));
            batch(&store, names.iter().map(|name| (name.as_str(), put(name.clone()))));
        }
        nothing_comes.store(true, Ordering::SeqCst);
        takers.join().expect("the takers end")
    });
    assert_eq!(all(&store), BTreeMap::new());
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    let each: BTreeSet<&String> = taken.iter().collect();
    assert_eq!(each.len(), taken.len(), "a job was taken twice");
}

/// Random operations of all kinds, whose outcomes are those of a map.
struct Model {
    random: Random,
    map: BTreeMap<String, Entry>,
    later: Time,
}

impl Model {
    fn new() -> Self {
        let later = Time::now().after(Duration::from_secs(1000));
        Self { random: Random::of_this_run(), map: BTreeMap::new(), later }
    }

    fn name(&mut self) -> String {
        let prefix = self.random.one_of(&["a:", "a:b:", "job:"]);
        format!("{prefix}{}", self.random.below(30))
    }

    fn entry(&mut self) -> Entry {
        let bytes = self.random.one_of(&[1, 8, 100, 4096, 4097, 10_000]);
        let expiry = self.random.one_of(&[None, Some(self.later)]);
        entry(self.random.bytes(bytes)).with_expiry(expiry)
    }

    fn decision(&mut self) -> Decision {
        match self.random.below(4) {
            0 => Decision::Keep,
            1 => Decision::Remove,
            _ => Decision::Replace(self.entry()),
        }
    }

    /// Decides on a key of a map.
    fn decide(map: &mut BTreeMap<String, Entry>, name: &str, decision: &Decision) -> Updated {
        let before = map.get(name).cloned();
        match decision {
            Decision::Keep | Decision::Refuse => {}
            Decision::Remove => drop(map.remove(name)),
            Decision::Replace(entry) => drop(map.insert(name.to_owned(), entry.clone())),
        }
        Updated { before, after: map.get(name).cloned() }
    }

    /// A batch, and its effects.
    fn batch(&mut self) -> (Vec<(Key, BatchOp)>, Vec<Effect>) {
        let (mut ops, mut effects, mut map) = (Vec::new(), Vec::new(), self.map.clone());
        for _ in 0..self.random.below(20) {
            let name = self.name();
            let is_refused = self.random.below(50) == 0;
            let decision = if is_refused { Decision::Refuse } else { self.decision() };
            let updated = Self::decide(&mut map, &name, &decision);
            let (op, effect) = match (self.random.below(2), decision) {
                (0, Decision::Replace(entry)) => (BatchOp::Set(entry), Effect::Done),
                (0, Decision::Remove) => (BatchOp::Delete, Effect::Done),
                (_, decision) => (decide(decision), Effect::Updated(updated.into())),
            };
            ops.push((key(&name), op));
            effects.push(effect);
            if is_refused {
                // Some behind it, of which there is no effect.
                ops.extend((0..self.random.below(3)).map(|_| (key("behind"), BatchOp::Delete)));
                return (ops, effects);
            }
        }
        self.map = map;
        (ops, effects)
    }

    /// Does an operation, which has to be as that on the map.
    fn step(&mut self, store: &Store) {
        match self.random.below(100) {
            0 => {
                clear(store);
                self.map.clear();
            }
            1..15 => {
                let (name, entry) = (self.name(), self.entry());
                store.set(key(&name), entry.clone()).expect("the engine writes");
                self.map.insert(name, entry);
            }
            15..20 => {
                let name = self.name();
                delete(store, &name);
                self.map.remove(&name);
            }
            20..35 => {
                let (name, decision) = (self.name(), self.decision());
                let expected = Self::decide(&mut self.map, &name, &decision);
                let updated = store.update(key(&name), always(decision));
                assert!(updated == Ok(expected), "an update of {name}");
            }
            35..55 => {
                let (ops, effects) = self.batch();
                assert!(store.batch(ops) == Ok(effects), "a batch");
            }
            55..75 => {
                let prefix = self.random.one_of(&["a:", "a:b:", "job:", "job:1", "", "none"]);
                let decision = self.decision();
                let first = self.map.keys().find(|name| name.starts_with(prefix)).cloned();
                let expected = first.map(|name| {
                    let updated = Self::decide(&mut self.map, &name, &decision);
                    (name, updated)
                });
                let updated = update_first(store, prefix, always(decision));
                assert!(updated == expected, "the first key with {prefix:?}");
            }
            75..95 => {
                let name = self.name();
                let found = store.get(&key(&name)).expect("the engine reads");
                assert!(found.as_ref() == self.map.get(&name), "{name}");
            }
            _ => self.is_equal(store),
        }
    }

    fn is_equal(&self, store: &Store) {
        assert!(all(store) == self.map, "the listing is another");
        assert_eq!(store.count(Range::default()), Ok(self.map.len() as u64));
    }
}

fn operations_of_all_kinds_agree_with_a_map(store: Store) {
    let mut model = Model::new();
    for _ in 0..fewer_if_slow(&store, 10_000) {
        model.step(&store);
    }
    model.is_equal(&store);
}

#[test]
fn they_agree_with_it_each_time_a_durable_store_is_opened() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let mut model = Model::new();
    for _ in 0..4 {
        let store: Store = Arc::new(Durable::open(directory.path()).expect("it can be opened"));
        model.is_equal(&store);
        for _ in 0..500 {
            model.step(&store);
        }
        store.close().expect("nothing is lost");
    }
}
