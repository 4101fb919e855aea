//! The judge is judged: a checker that accepts everything would let every
//! engine pass.

use crate::support::history::{Plan, record};
use crate::support::linearizability::{Call, Operation, Saw, Violation, check, check_each_key};
use crate::support::random::Random;

/// A call from `invoked` to `returned` by nobody in particular.
fn call(call: Call, saw: impl Into<Saw>, invoked: u64, returned: u64) -> Operation {
    let saw = saw.into();
    Operation { client: 0, call, saw, invoked, returned, is_lost: false }
}

fn set(value: u64, invoked: u64, returned: u64) -> Operation {
    call(Call::Set(0, value), None, invoked, returned)
}

fn get(saw: impl Into<Option<u64>>, invoked: u64, returned: u64) -> Operation {
    call(Call::Get(0), saw.into(), invoked, returned)
}

fn delete(invoked: u64, returned: u64) -> Operation {
    call(Call::Delete(0), None, invoked, returned)
}

fn clear(invoked: u64, returned: u64) -> Operation {
    call(Call::Clear, None, invoked, returned)
}

#[track_caller]
fn accepts(history: &[Operation]) {
    check(history).unwrap_or_else(|violation| panic!("{violation}"));
}

#[track_caller]
fn rejects(history: &[Operation]) -> Violation {
    check(history).expect_err("no order explains this history")
}

#[test]
fn nothing_is_in_order() {
    accepts(&[]);
}

#[test]
fn one_call_after_the_other_is_in_order() {
    accepts(&[get(None, 0, 1), set(7, 2, 3), get(7, 4, 5), delete(6, 7), get(None, 8, 9)]);
}

#[test]
fn calls_at_the_same_time_go_in_any_order() {
    for saw in [None, Some(7), Some(8)] {
        accepts(&[set(7, 0, 10), set(8, 1, 9), get(saw, 2, 8)]);
    }
    accepts(&[set(7, 0, 1), delete(2, 10), get(7, 3, 4), get(None, 5, 6)]);
}

#[test]
fn a_lost_call_takes_effect_before_its_end_or_not_at_all() {
    let lost = |operation: Operation| Operation { is_lost: true, ..operation };
    for saw in [None, Some(7)] {
        accepts(&[lost(set(7, 0, 4)), get(saw, 1, 2), get(saw, 5, 6)]);
    }
    accepts(&[lost(set(7, 0, 4)), get(None, 1, 2), get(7, 5, 6)]);
    rejects(&[lost(set(7, 0, 4)), get(7, 1, 2), get(None, 5, 6)]);
    rejects(&[lost(set(7, 0, 4)), get(None, 5, 6), get(7, 7, 8)]);
}

#[test]
fn an_early_choice_that_fails_is_taken_back() {
    // The last get makes 7 the later one, though 8 was called later.
    accepts(&[set(7, 0, 10), set(8, 1, 9), get(8, 2, 3), get(7, 11, 12)]);
    // Every order but one fails, and only at the end.
    let writers = (0..8).map(|value| set(value, value, 100));
    let readers = [5, 2, 7, 0, 1, 6, 4, 3].into_iter().zip(0..);
    let readers = readers.map(|(saw, index)| get(saw, 10 + 2 * index, 11 + 2 * index));
    accepts(&writers.chain(readers).collect::<Vec<_>>());
}

#[test]
fn a_stale_read_is_rejected() {
    rejects(&[set(7, 0, 1), set(8, 2, 3), get(7, 4, 5)]);
}

#[test]
fn a_read_that_goes_back_is_rejected() {
    rejects(&[set(7, 0, 1), set(8, 2, 10), get(8, 3, 4), get(7, 5, 6)]);
}

#[test]
fn a_lost_write_is_rejected() {
    rejects(&[set(7, 0, 1), get(None, 2, 3)]);
}

#[test]
fn a_write_that_two_readers_see_in_different_orders_is_rejected() {
    let seen_by_one = [get(7, 20, 21), get(8, 22, 23)];
    let seen_by_the_other = [get(8, 24, 25), get(7, 26, 27)];
    rejects(&[[set(7, 0, 30), set(8, 1, 30)], seen_by_one, seen_by_the_other].concat());
}

#[test]
fn a_read_from_the_future_is_rejected() {
    rejects(&[get(7, 0, 1), set(7, 2, 3)]);
}

#[test]
fn a_value_out_of_nowhere_is_rejected() {
    rejects(&[set(7, 0, 1), get(9, 2, 3)]);
}

#[test]
fn a_deleted_value_that_returns_is_rejected() {
    rejects(&[set(7, 0, 1), delete(2, 3), get(7, 4, 5)]);
    rejects(&[set(7, 0, 1), delete(2, 10), get(None, 3, 4), get(7, 5, 6)]);
}

#[test]
fn a_cleared_value_that_returns_is_rejected() {
    rejects(&[set(7, 0, 1), clear(2, 3), get(7, 4, 5)]);
}

#[test]
fn an_exchange_that_two_saw_the_same_of_is_rejected() {
    let exchange =
        |value, saw, invoked, returned| call(Call::Exchange(0, value), saw, invoked, returned);
    accepts(&[exchange(7, None, 0, 10), exchange(8, Some(7), 1, 9), get(8, 11, 12)]);
    rejects(&[exchange(7, None, 0, 10), exchange(8, None, 1, 9)]);
    rejects(&[exchange(7, None, 0, 10), exchange(8, Some(7), 1, 9), get(7, 11, 12)]);
}

#[test]
fn a_number_that_two_took_is_rejected() {
    let take = |saw, invoked, returned| call(Call::Take(0), saw, invoked, returned);
    accepts(&[set(7, 0, 1), take(Some(7), 2, 10), take(None, 3, 9)]);
    rejects(&[set(7, 0, 1), take(Some(7), 2, 10), take(Some(7), 3, 9)]);
    rejects(&[set(7, 0, 1), take(Some(7), 2, 3), get(7, 4, 5)]);
}

#[test]
fn a_clear_is_one_moment_for_every_key() {
    // While a clear runs, key 1 is found empty and after that key 0 full:
    // each key by itself is in order, both together are not.
    let history = [
        set(7, 0, 1),
        call(Call::Set(1, 8), None, 2, 3),
        clear(4, 20),
        call(Call::Get(1), None, 5, 6),
        get(7, 7, 8),
    ];
    assert!(check_each_key(&history).is_ok());
    rejects(&history);
}

#[test]
fn a_call_on_two_keys_is_one_moment() {
    let both = |saw, invoked, returned| call(Call::GetBoth([0, 1]), Saw(saw), invoked, returned);
    let exchange = |value, saw, invoked, returned| {
        call(Call::ExchangeBoth([0, 1], value), Saw(saw), invoked, returned)
    };
    let none = [None; 2];
    accepts(&[exchange(7, none, 0, 1), set(8, 2, 3), both([Some(8), Some(7)], 4, 5)]);
    accepts(&[exchange(7, none, 0, 9), both(none, 1, 2), both([Some(7); 2], 3, 4)]);
    rejects(&[exchange(7, none, 0, 9), both([Some(7), None], 1, 2)]);
    rejects(&[exchange(7, none, 0, 1), exchange(8, [Some(7), None], 2, 3)]);
    // Gets in turn while it is under way: once one was seen, the other is.
    let other = |saw, invoked, returned| call(Call::Get(1), saw, invoked, returned);
    accepts(&[exchange(7, none, 0, 9), get(None, 1, 2), other(Some(7), 3, 4)]);
    rejects(&[exchange(7, none, 0, 9), get(7, 1, 2), other(None, 3, 4)]);
}

#[test]
fn one_bad_key_among_good_ones_is_found() {
    let good = [call(Call::Set(1, 7), None, 0, 1), call(Call::Get(1), Some(7), 2, 3)];
    assert!(check_each_key(&good).is_ok());
    let bad = [set(7, 0, 1), get(None, 2, 3)];
    assert!(check_each_key(&[good, bad].concat()).is_err());
    rejects(&[good, bad].concat());
}

#[test]
fn a_violation_names_the_calls_that_do_not_fit() {
    let violation = rejects(&[set(7, 0, 1), set(8, 2, 3), get(7, 4, 5), get(8, 6, 7)]);
    assert_eq!(violation.explained, 2);
    assert_eq!(violation.stuck, [get(7, 4, 5)]);
    assert!(violation.to_string().contains("Get(0) saw [Some(7), None] in 4..5"), "{violation}");
}

/// A store that answers each get with the value before the last: wrong, and
/// in a history of this size never by luck right.
#[test]
fn a_recorded_history_of_a_stale_store_is_rejected() {
    let plan = Plan { clients: 4, calls: 200, keys: 1, clears_per_mille: 0, batches_per_mille: 0 };
    let store = std::sync::Mutex::new((None, None));
    let history = record(plan, &Random::of_this_run(), || {
        |call| {
            let mut store = store.lock().expect("whole");
            match call {
                Call::Get(_) => return store.1,
                Call::Set(_, value) => *store = (Some(value), store.0),
                Call::Delete(_) | Call::Clear => *store = (None, store.0),
                Call::Exchange(_, value) => {
                    let saw = store.1;
                    *store = (Some(value), store.0);
                    return saw;
                }
                Call::Take(_) => {
                    let saw = store.1;
                    *store = (None, store.0);
                    return saw;
                }
                Call::GetBoth(_) | Call::ExchangeBoth(..) => unreachable!("there is one key"),
            }
            None
        }
    });
    assert!(check_each_key(&history).is_err());
}
