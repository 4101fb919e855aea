//! Operations on keys: what they send, and what they are told.

use super::config;
use super::fake::{Answer, Fake, Words, line, until};
use crate::storage::cluster::Cluster;
use crate::storage::{BatchOp, Blocking as _, Change, Decision, Effect, Entry, Error, Hindrance};
use crate::storage::{Key, Op, Outcome, Storage as _, Time};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn entry(text: &str) -> Entry {
    Entry::new(text.to_owned().into())
}

fn front(fake: &Fake) -> Cluster {
    Cluster::connect(&config(fake)).unwrap()
}

fn submit(front: &Cluster, op: Op) -> Receiver<Outcome> {
    let (tell, told) = channel();
    front.submit(op, Box::new(move |outcome| tell.send(outcome).unwrap_or_default()));
    told
}

#[track_caller]
fn told(from: &Receiver<Outcome>) -> Outcome {
    from.recv_timeout(Duration::from_secs(30)).unwrap()
}

fn number(entry: Option<&Entry>) -> u64 {
    entry.map_or(0, |entry| std::str::from_utf8(entry.value()).unwrap().parse().unwrap())
}

fn increment() -> Change {
    Box::new(|before| Decision::Replace(entry(&(number(before) + 1).to_string())))
}

fn keep() -> Change {
    Box::new(|_| Decision::Keep)
}

/// The value after an update.
#[track_caller]
fn after(outcome: Outcome) -> Option<u64> {
    let Effect::Updated(updated) = outcome.unwrap() else { panic!("it is of an update") };
    updated.after.as_ref().map(|entry| number(Some(entry)))
}

/// A reply to *load* of one key, without an expiry.
fn there(value: &str) -> Answer {
    line(&format!("*2\r\n${}\r\n{value}\r\n$2\r\n-1", value.len()))
}

fn nothing_there() -> Answer {
    line("*2\r\n$-1\r\n$2\r\n-2")
}

/// The words of *change* behind the script's and those of `count` keys.
fn changes(words: &Words, count: usize) -> Vec<Vec<&str>> {
    let words: Vec<&str> = words.iter().map(|word| std::str::from_utf8(word).unwrap()).collect();
    words[3 + count..].chunks(6).map(<[&str]>::to_vec).collect()
}

/// The words of all *changes* of one key that a node was asked for.
fn asked(fake: &Fake) -> Vec<Vec<String>> {
    let own = |words: &Words| changes(words, 1)[0].iter().map(|word| (*word).to_owned()).collect();
    fake.asked("EVALSHA").iter().map(own).collect()
}

/// Has a node hold its answer to the first of such commands until told to go on.
fn hold_first(fake: &Fake, name: &str, answers: Vec<Answer>) -> Sender<()> {
    let (go_on, held) = channel::<()>();
    let state = Mutex::new((answers, Some(held)));
    fake.on(name, move |_| {
        let mut state = state.lock().unwrap();
        if let Some(held) = state.1.take() {
            held.recv().ok();
        }
        Some(if state.0.len() > 1 { state.0.remove(0) } else { state.0[0].clone() })
    });
    go_on
}

/// Waits until a node has been asked so many times.
fn wait_for(fake: &Fake, name: &str, times: usize) {
    until("asked", || fake.asked(name).len() >= times);
}

#[test]
fn a_write_whose_reply_makes_no_sense_is_unknown() {
    let fake = Fake::start();
    fake.script("SET", vec![line("*0")]);
    fake.script("UNLINK", vec![line("$-1")]);
    let front = front(&fake);
    assert_eq!(front.set(key("a"), entry("value")), Err(Error::OutcomeUnknown));
    assert_eq!(front.delete(&key("a")), Err(Error::OutcomeUnknown));
}

#[test]
fn an_entry_is_a_plain_string_with_its_expiry() {
    let fake = Fake::start();
    let front = front(&fake);
    front.set(key("a"), entry("value")).unwrap();
    let expiry = Time::from_wall_clock(UNIX_EPOCH + Duration::from_millis(2_000_000_000_123));
    front.set(key("b"), entry("value").with_expiry(Some(expiry))).unwrap();
    let words: [&[&[u8]]; 2] =
        [&[b"SET", b"a", b"value"], &[b"SET", b"b", b"value", b"PXAT", b"2000000000123"]];
    assert_eq!(fake.asked("SET"), words);
    fake.script("UNLINK", vec![line(":0"), line(":1")]);
    front.delete(&key("a")).unwrap();
    front.delete(&key("b")).unwrap();
    fake.script("PEXPIRETIME", vec![line(":2000000000123"), line(":-1"), line(":-2")]);
    let found = front.get(&key("b")).unwrap().unwrap();
    assert_eq!((found.value().as_ref(), found.expiry()), (&b"value"[..], Some(expiry)));
    assert_eq!(front.get(&key("b")).unwrap().unwrap().expiry(), None);
    assert_eq!(front.get(&key("b")), Ok(None), "it has expired between the two commands");
}

#[test]
fn an_update_of_nothing_takes_one_trip() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![line(":1")]);
    let front = front(&fake);
    let updated = front.update(key("a"), increment()).unwrap();
    assert_eq!((updated.before, updated.after), (None, Some(entry("1"))));
    assert_eq!(asked(&fake), [["-", "", "", "s", "1", ""]]);
    assert_eq!(fake.asked("EVALSHA_RO").len(), 0);
}

#[test]
fn an_update_is_decided_on_what_was_there_instead() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![there("5"), there("7"), line(":1")]);
    let front = front(&fake);
    let updated = front.update(key("a"), increment()).unwrap();
    assert_eq!((updated.before, updated.after), (Some(entry("7")), Some(entry("8"))));
    let expected = [
        ["-", "", "", "s", "1", ""],
        ["=", "5", "-1", "s", "6", ""],
        ["=", "7", "-1", "s", "8", ""],
    ];
    assert_eq!(asked(&fake), expected);
    assert_eq!(fake.asked("EVALSHA_RO").len(), 0, "the replies have told");
}

#[test]
fn an_update_that_keeps_nothing_looks_first() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("5"), nothing_there()]);
    let front = front(&fake);
    assert_eq!(front.update(key("a"), keep()).unwrap().before, Some(entry("5")));
    assert_eq!(front.update(key("a"), keep()).unwrap().before, None);
    assert_eq!(fake.asked("EVALSHA").len(), 0);
}

#[test]
fn a_value_that_stays_is_not_sent_again() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("5")]);
    fake.script("EVALSHA", vec![line(":1")]);
    let front = front(&fake);
    let expiry = Time::from_wall_clock(UNIX_EPOCH + Duration::from_millis(2_000_000_000_123));
    let touch: Change = Box::new(move |before| {
        let entry = before.map(|entry| entry.clone().with_expiry(Some(expiry)));
        entry.map_or(Decision::Keep, Decision::Replace)
    });
    front.update(key("a"), touch).unwrap();
    assert_eq!(asked(&fake), [["=", "5", "-1", "e", "", "2000000000123"]]);
}

#[test]
fn a_long_value_is_compared_by_its_sha1() {
    let fake = Fake::start();
    let long = "1".repeat(16 << 10);
    let script = vec![there(&long), line(":1")];
    fake.script("EVALSHA", script);
    let front = front(&fake);
    let change: Change = Box::new(|_| Decision::Replace(entry("short")));
    front.update(key("a"), change).unwrap();
    // head -c 16384 /dev/zero | tr '\0' 1 | sha1sum
    let sha1 = "8f381f92216ebb5ab7df1867c06b194ce0fcae41";
    assert_eq!(asked(&fake)[1], ["#", sha1, "-1", "s", "short", ""]);
}

#[test]
fn updates_of_one_key_go_together() {
    let fake = Fake::start();
    let go_on = hold_first(&fake, "EVALSHA", vec![line(":1")]);
    let front = front(&fake);
    let first = submit(&front, Op::Update(key("a"), increment()));
    wait_for(&fake, "EVALSHA", 1);
    let others: Vec<_> =
        (0..10).map(|_| submit(&front, Op::Update(key("a"), increment()))).collect();
    let set = submit(&front, Op::Set(key("a"), entry("100")));
    let last = submit(&front, Op::Update(key("a"), increment()));
    go_on.send(()).unwrap();
    assert_eq!(after(told(&first)), Some(1));
    for (place, other) in others.iter().enumerate() {
        assert_eq!(after(told(other)), Some(2 + place as u64));
    }
    assert_eq!(told(&set), Ok(Effect::Done));
    assert_eq!(after(told(&last)), Some(101));
    assert_eq!(asked(&fake)[1..], [["=", "1", "-1", "s", "101", ""]]);
    assert_eq!(fake.asked("SET").len(), 0, "it has waited with the others");
}

#[test]
fn what_is_set_first_need_not_be_compared() {
    let fake = Fake::start();
    let go_on = hold_first(&fake, "EVALSHA", vec![line(":1")]);
    let front = front(&fake);
    let first = submit(&front, Op::Update(key("a"), increment()));
    wait_for(&fake, "EVALSHA", 1);
    let set = submit(&front, Op::Set(key("a"), entry("100")));
    let last = submit(&front, Op::Update(key("a"), increment()));
    go_on.send(()).unwrap();
    assert_eq!((after(told(&first)), told(&set)), (Some(1), Ok(Effect::Done)));
    assert_eq!(after(told(&last)), Some(101));
    assert_eq!(fake.asked("SET"), [[&b"SET"[..], b"a", b"101"]]);
}

#[test]
fn a_keep_is_not_told_of_a_remembered_state_unless_it_is_confirmed() {
    let fake = Fake::start();
    let go_on = hold_first(&fake, "EVALSHA", vec![line(":1"), there("7")]);
    let front = front(&fake);
    let first = submit(&front, Op::Update(key("a"), increment()));
    wait_for(&fake, "EVALSHA", 1);
    let kept = submit(&front, Op::Update(key("a"), keep()));
    go_on.send(()).unwrap();
    assert_eq!((after(told(&first)), after(told(&kept))), (Some(1), Some(7)));
    assert_eq!(asked(&fake)[1..], [["=", "1", "-1", "k", "", ""]]);
}

/// An update that is held, and these behind it, whose change is answered so.
fn in_one_round(fake: &Fake, answers: &[Answer], ops: Vec<Op>) -> Vec<Outcome> {
    let mut all = vec![line(":1")];
    all.extend_from_slice(answers);
    let go_on = hold_first(fake, "EVALSHA", all);
    let front = front(fake);
    let first = submit(&front, Op::Update(key("a"), increment()));
    wait_for(fake, "EVALSHA", 1);
    let ops: Vec<_> = ops.into_iter().map(|op| submit(&front, op)).collect();
    go_on.send(()).unwrap();
    assert_eq!(after(told(&first)), Some(1));
    ops.iter().map(told).collect()
}

#[test]
fn an_unknown_outcome_is_that_of_all_who_have_written() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("3")]);
    let ops = vec![
        Op::Update(key("a"), increment()),
        Op::Update(key("a"), keep()),
        Op::Set(key("a"), entry("9")),
    ];
    let mut outcomes = in_one_round(&fake, &[Answer::Close(vec![])], ops);
    assert_eq!(outcomes.pop(), Some(Err(Error::OutcomeUnknown)));
    assert_eq!(after(outcomes.pop().unwrap()), Some(3), "it has looked again");
    assert_eq!(outcomes.pop(), Some(Err(Error::OutcomeUnknown)));
    assert_eq!(fake.asked("EVALSHA").len(), 2, "nothing that was sent is sent again");
}

#[test]
fn a_full_node_deletes_what_a_round_has_deleted() {
    let fake = Fake::start();
    let ops = vec![
        Op::Update(key("a"), increment()),
        Op::Delete(key("a")),
        Op::Update(key("a"), increment()),
    ];
    fake.script("UNLINK", vec![line(":1")]);
    let full = line("-OOM command not allowed when used memory > 'maxmemory'.");
    let outcomes = in_one_round(&fake, &[full], ops);
    assert_eq!(outcomes, [Err(Error::Full), Ok(Effect::Done), Err(Error::Full)]);
    assert_eq!(fake.asked("UNLINK").len(), 1);
}

#[test]
fn a_list_is_no_value_until_it_is_replaced() {
    let fake = Fake::start();
    let ops = vec![
        Op::Update(key("a"), increment()),
        Op::Set(key("a"), entry("10")),
        Op::Update(key("a"), increment()),
    ];
    let wrong = line("-WRONGTYPE Operation against a key holding the wrong kind of value");
    let mut outcomes = in_one_round(&fake, &[wrong], ops);
    assert_eq!(after(outcomes.pop().unwrap()), Some(11));
    assert_eq!(outcomes, [Err(Error::NotAValue), Ok(Effect::Done)]);
    assert_eq!(fake.asked("SET"), [[&b"SET"[..], b"a", b"11"]]);
}

#[test]
fn too_few_replicas_fail_what_writes() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("3")]);
    let ops = vec![Op::Update(key("a"), keep()), Op::Update(key("a"), increment())];
    let few = line("-NOREPLICAS Not enough good replicas to write.");
    let mut outcomes = in_one_round(&fake, &[few], ops);
    let too_few = Err(Error::NotDone(Hindrance::ReplicasTooFew));
    assert_eq!(outcomes.pop(), Some(too_few));
    assert_eq!(after(outcomes.pop().unwrap()), Some(3));
}

#[test]
fn a_panic_of_a_change_is_its_own() {
    let fake = Fake::start();
    let ops = vec![
        Op::Update(key("a"), increment()),
        Op::Update(key("a"), Box::new(|_| panic!("a part of a test"))),
        Op::Update(key("a"), increment()),
    ];
    let mut outcomes = in_one_round(&fake, &[line(":1")], ops);
    assert_eq!(after(outcomes.pop().unwrap()), Some(3));
    assert!(matches!(outcomes.pop(), Some(Err(Error::Internal(_)))));
    assert_eq!(after(outcomes.pop().unwrap()), Some(2));
}

#[test]
fn a_round_is_bounded_by_the_bytes_that_it_leaves() {
    let fake = Fake::start();
    let large = || {
        let change: Change =
            Box::new(|_| Decision::Replace(Entry::new(vec![b'1'; 9 << 20].into())));
        Op::Update(key("a"), change)
    };
    let outcomes = in_one_round(&fake, &[line(":1")], vec![large(), large(), large(), large()]);
    assert!(outcomes.iter().all(Result::is_ok));
    let seen: Vec<String> = asked(&fake).into_iter().map(|words| words[0].clone()).collect();
    assert_eq!(seen, ["-", "=", "#"], "two rounds of two");
}

/// Another front writes all the time.
#[test]
fn an_update_that_always_loses_is_not_done_at_its_deadline() {
    let fake = Fake::start();
    fake.on("EVALSHA", |_| {
        std::thread::sleep(Duration::from_millis(20));
        Some(there("5"))
    });
    let front = front(&fake);
    let mut outcomes = Vec::new();
    while !outcomes.contains(&Err(Error::NotDone(Hindrance::ClusterDown))) {
        // On a busy machine the reply to the last try may come too late to be known.
        let are_unknown = outcomes.iter().all(|outcome| *outcome == Err(Error::OutcomeUnknown));
        assert!(are_unknown && outcomes.len() < 8, "{outcomes:?}");
        let begin = Instant::now();
        let outcome = told(&submit(&front, Op::Update(key("a"), increment())));
        // Or a node that stood still was cut off.
        let is_unknown = outcome == Err(Error::OutcomeUnknown);
        assert!(is_unknown || begin.elapsed() >= Duration::from_secs(5));
        outcomes.push(outcome);
    }
}

fn update(change: Change) -> BatchOp {
    BatchOp::Update(change)
}

#[test]
fn a_batch_over_slots_does_nothing() {
    let fake = Fake::start();
    let front = front(&fake);
    let ops = vec![(key("a"), BatchOp::Set(entry("1"))), (key("b"), BatchOp::Delete)];
    assert_eq!(front.batch(ops), Err(Error::SlotsDiffer));
    assert_eq!(front.batch(Vec::new()), Ok(Vec::new()));
    assert_eq!(fake.asked("EVALSHA").len(), 0);
}

#[test]
fn a_batch_compares_what_it_has_seen_and_no_more() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![line(":1")]);
    fake.script(
        "EVALSHA_RO",
        vec![line("*4\r\n$1\r\n1\r\n$2\r\n-1\r\n$1\r\n5\r\n$13\r\n2000000000123")],
    );
    let front = front(&fake);
    let ops = vec![
        (key("{t}a"), update(keep())),
        (key("{t}b"), BatchOp::Set(entry("2"))),
        (key("{t}c"), update(increment())),
        (key("{t}b"), update(increment())),
        (key("{t}d"), BatchOp::Delete),
    ];
    let effects = front.batch(ops).unwrap();
    assert_eq!(effects.len(), 5);
    let load = &fake.asked("EVALSHA_RO")[0];
    assert_eq!(load[2..], [&b"2"[..], b"{t}a", b"{t}c"]);
    let change = &fake.asked("EVALSHA")[0];
    let expected = [
        ["=", "1", "-1", "k", "", ""],
        ["*", "", "", "s", "3", ""],
        ["=", "5", "2000000000123", "s", "6", ""],
        ["*", "", "", "d", "", ""],
    ];
    assert_eq!(changes(change, 4), expected);
}

#[test]
fn a_batch_that_only_writes_takes_one_trip() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![line(":1")]);
    let front = front(&fake);
    let ops = vec![(key("{t}a"), BatchOp::Set(entry("1"))), (key("{t}b"), BatchOp::Delete)];
    assert_eq!(front.batch(ops), Ok(vec![Effect::Done, Effect::Done]));
    assert_eq!((fake.asked("EVALSHA").len(), fake.asked("EVALSHA_RO").len()), (1, 0));
}

#[test]
fn a_batch_begins_anew_on_what_was_there_instead() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("1")]);
    fake.script("EVALSHA", vec![there("5"), line(":1")]);
    let front = front(&fake);
    let effects = front.batch(vec![(key("a"), update(increment()))]).unwrap();
    let [Effect::Updated(updated)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((&updated.before, &updated.after), (&Some(entry("5")), &Some(entry("6"))));
    assert_eq!(fake.asked("EVALSHA_RO").len(), 1);
}

#[test]
fn a_refused_batch_changes_nothing() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("1")]);
    let front = front(&fake);
    let refuse: Change = Box::new(|_| Decision::Refuse);
    let ops = vec![
        (key("{t}b"), BatchOp::Set(entry("2"))),
        (key("{t}a"), update(refuse)),
        (key("{t}c"), BatchOp::Delete),
    ];
    assert_eq!(front.batch(ops).unwrap().len(), 2);
    assert_eq!(fake.asked("EVALSHA").len(), 0);
}

#[test]
fn a_batch_takes_its_turn_among_the_updates_of_its_key() {
    let fake = Fake::start();
    fake.script("EVALSHA_RO", vec![there("1")]);
    let go_on = hold_first(&fake, "EVALSHA", vec![line(":1")]);
    let front = front(&fake);
    let first = submit(&front, Op::Update(key("a"), increment()));
    wait_for(&fake, "EVALSHA", 1);
    let batch = submit(&front, Op::Batch(vec![(key("a"), update(increment()))]));
    let last = submit(&front, Op::Update(key("a"), increment()));
    go_on.send(()).unwrap();
    assert_eq!(after(told(&first)), Some(1));
    assert!(matches!(told(&batch), Ok(Effect::Batch(_))));
    assert_eq!(after(told(&last)), Some(3));
    let expected = [
        ["-", "", "", "s", "1", ""],
        ["=", "1", "-1", "s", "2", ""],
        ["=", "2", "-1", "s", "3", ""],
    ];
    assert_eq!(asked(&fake), expected);
}

/// They fail one after the other, and all at one moment.
#[test]
fn thousands_who_wait_may_fail_at_once() {
    let fake = Fake::start();
    let go_on = hold_first(&fake, "EVALSHA", vec![line("-CLUSTERDOWN The cluster is down")]);
    fake.script("EVALSHA_RO", vec![line("-CLUSTERDOWN The cluster is down")]);
    let front = front(&fake);
    let mut all = vec![submit(&front, Op::Update(key("a"), increment()))];
    for _ in 0..4000 {
        all.push(submit(&front, Op::Batch(vec![(key("a"), update(increment()))])));
    }
    go_on.send(()).unwrap();
    for outcome in &all {
        assert_eq!(told(outcome), Err(Error::NotDone(Hindrance::ClusterDown)));
    }
}

#[test]
fn several_operations_are_done_each_for_itself() {
    let fake = Fake::start();
    fake.script("EVALSHA", vec![line(":1")]);
    fake.script("UNLINK", vec![line(":1")]);
    let front = front(&fake);
    let go_on = hold_first(&fake, "SET", vec![line("+OK")]);
    assert_eq!(told(&submit(&front, Op::Each(Vec::new()))), Ok(Effect::Batch(Vec::new())));
    let ops = vec![
        (key("a"), BatchOp::Set(entry("1"))),
        (key("b"), BatchOp::Set(entry("2"))),
        (key("b"), update(increment())),
        (key("c"), BatchOp::Delete),
    ];
    let all = submit(&front, Op::Each(ops));
    go_on.send(()).unwrap();
    let Ok(Effect::Batch(effects)) = told(&all) else { panic!("all are done") };
    let Effect::Updated(updated) = &effects[2] else { panic!("it is an update") };
    assert_eq!(updated.after, Some(entry("3")), "in order where a key repeats");
    assert_eq!(effects.len(), 4);
}

fn thousands() -> Op {
    let set = |number: usize| (key(&number.to_string()), BatchOp::Set(entry("1")));
    Op::Each((0..3000).map(set).collect())
}

#[test]
fn of_several_operations_not_too_many_are_under_way() {
    let fake = Fake::start();
    let go_on = hold_first(&fake, "SET", vec![line("+OK")]);
    let front = front(&fake);
    let [one, other] = [thousands(), thousands()].map(|op| submit(&front, op));
    assert_eq!(front.0.router.traffic().pending(), 1024);
    go_on.send(()).unwrap();
    for all in [one, other] {
        assert_eq!(told(&all), Ok(Effect::Batch(vec![Effect::Done; 3000])));
    }
}

#[test]
fn of_several_operations_the_worst_is_told() {
    let full = line("-OOM command not allowed when used memory > 'maxmemory'.");
    let few = line("-NOREPLICAS Not enough good replicas to write.");
    let too_few = Error::NotDone(Hindrance::ReplicasTooFew);
    let done = line("+OK");
    let cases = [
        ([&few, &few], too_few),
        ([&few, &done], Error::OutcomeUnknown),
        ([&done, &few], Error::OutcomeUnknown),
        ([&done, &full], Error::Full),
        ([&done, &Answer::Close(vec![])], Error::OutcomeUnknown),
    ];
    for (answers, expected) in cases {
        let fake = Fake::start();
        fake.script("SET", answers.into_iter().cloned().collect());
        let front = front(&fake);
        let ops = ["a", "b"].map(|name| (key(name), BatchOp::Set(entry("1")))).into();
        assert_eq!(told(&submit(&front, Op::Each(ops))), Err(expected));
    }
}

/// A waiter of this front is woken by its writes.
#[test]
fn a_write_is_told_to_those_who_wait() {
    use crate::storage::Subject;

    let fake = Fake::start();
    fake.script("EVALSHA", vec![line(":1")]);
    fake.script("UNLINK", vec![line(":1")]);
    let front = Arc::new(front(&fake));
    let writes: [Op; 4] = [
        Op::Set(key("a"), entry("1")),
        Op::Delete(key("a")),
        Op::Update(key("a"), increment()),
        Op::Batch(vec![(key("a"), BatchOp::Set(entry("1")))]),
    ];
    for write in writes {
        let until = Instant::now() + Duration::from_secs(600);
        let ticket = front.waiters().unwrap().register(&Subject::Read(key("a")), until);
        let (wake, woken) = channel();
        ticket.park(None, Box::new(move |is_over| wake.send(is_over).unwrap_or_default()));
        told(&submit(&front, write)).unwrap();
        assert_eq!(woken.recv_timeout(Duration::from_secs(30)), Ok(false));
    }
}
