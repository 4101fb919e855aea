use super::*;
use proptest::prelude::*;
use std::thread;

/// The turnovers so far, as a moment.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not so far")]
fn turn(turnovers: f64) -> Turn {
    Turn((turnovers * f64::from(u32::MAX)) as u64)
}

/// Some hash of each number.
fn hash(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The uses that a priority stands for at a moment.
fn uses(priority: Priority, turn: Turn) -> f64 {
    (f64::from(priority.distance(turn)) / 64.0).exp2()
}

proptest! {
    #[test]
    fn a_priority_is_the_sum_of_uses_that_fade(
        pauses in prop::collection::vec(0.0..6.0_f64, 1..300), start in 0.0..20_000.0_f64,
    ) {
        let (mut now, mut sum) = (start, 1.0);
        let mut priority = turn(now).priority();
        for pause in pauses {
            now += pause;
            sum = sum * (-pause / f64::from(HALF_LIFE_TURNOVERS)).exp2() + 1.0;
            priority = priority.used(turn(now), chance());
        }
        let ratio = uses(priority, turn(now)) / sum;
        prop_assert!((0.7..1.4).contains(&ratio), "{ratio} of {sum}");
    }

    #[test]
    fn more_uses_are_worth_more_and_silence_less(
        start in 0.0..2000.0_f64, few in 1..50_usize, more in 2..10_usize, pause in 0.2..20.0_f64,
    ) {
        let (then, now) = (turn(start), turn(start + pause));
        let used = |times| (1..times).fold(Access::first(then, None), |seen, _| seen.again(then));
        let worth = |access: Access, at| access.worth(at, Policy::Lfu);
        let (seldom, often) = (used(few), used(few * more));
        prop_assert!(worth(seldom, then) < worth(often, then));
        let since = Access::first(turn(start + pause.min(0.9)), None);
        prop_assert!(since.age(then) <= 0.0 && since.age(now) < 20.1);
        for access in [seldom, often] {
            prop_assert!(worth(access, now) < worth(access, then));
            prop_assert!(access.worth(now, Policy::Lru) < seldom.worth(then, Policy::Lru));
        }
    }
}

#[test]
fn a_great_many_uses_are_told_from_more() {
    let now = turn(7.0);
    let mut priority = now.priority();
    for doubling in 1..16 {
        for _ in 0..1 << (doubling - 1) {
            priority = priority.used(now, chance());
        }
        let ratio = uses(priority, now) / f64::from(1 << doubling);
        assert!((0.6..1.6).contains(&ratio), "{ratio} at {doubling}");
    }
}

#[test]
fn one_that_is_silent_for_too_long_is_worth_less_than_one_that_never_was_often() {
    let (start, end) = (turn(100.0), turn(101.0));
    let often = (0..1000).fold(Access::first(start, None), |seen, _| seen.again(start));
    assert!(often.worth(start, Policy::Lfu) > Access::first(start, None).worth(start, Policy::Lfu));
    assert!(often.worth(end, Policy::Lfu) < Access::first(start, None).worth(end, Policy::Lfu));
}

/// Large values pass the time of many turnovers while somebody looks for what may go.
#[test]
fn one_that_was_used_later_is_younger_whenever_the_moment_was() {
    let record = Frequencies::with_keys(1000);
    let mut used = vec![Access::first(record.turn(), None)];
    let mut moments = vec![record.turn()];
    for _ in 0..50 {
        record.pass(2);
        used.push(Access::first(record.turn(), None));
        moments.push(record.turn());
    }
    for moment in moments {
        assert!(used.is_sorted_by(|one, next| one.age(moment) > next.age(moment)));
    }
}

#[test]
fn what_is_remembered_is_recalled() {
    let record = Frequencies::with_keys(1000);
    let often = (0..99).fold(record.turn().priority(), |sum, _| sum.used(record.turn(), 0));
    record.remember(hash(1), often);
    assert_eq!(record.recall(hash(1)), Some(often));
    assert_eq!(record.recall(hash(2)), None);
    let back = Access::first(record.turn(), record.recall(hash(1)));
    assert_eq!(back.priority(), often.used(record.turn(), 0));
}

#[test]
fn what_was_used_often_is_remembered_for_longer() {
    let record = Frequencies::with_keys(1 << 12);
    let once = record.turn().priority();
    let often = (0..19).fold(once, |sum, _| sum.used(record.turn(), 0));
    let known = || (0..1000).filter(|number| record.recall(hash(*number)) == Some(often));
    (0..1000).for_each(|number| record.remember(hash(number), often));
    (1000..20_000).for_each(|number| record.remember(hash(number), once));
    assert!(known().count() > 990, "{} of 1000 are known", known().count());
    // Once nobody asks for them any more they make room.
    (0..100).for_each(|_| record.pass(1));
    let later = record.turn().priority();
    (20_000..40_000).for_each(|number| record.remember(hash(number), later));
    assert!(known().count() < 500, "{} of 1000 are known yet", known().count());
}

#[test]
fn a_record_tells_how_often_a_key_was_used() {
    let record = Frequencies::with_keys(1000);
    assert_eq!(record.of(hash(1)), 0);
    let told = [1, 1, 2, 4].map(|times| {
        (0..times).for_each(|_| record.note(hash(1)));
        record.of(hash(1))
    });
    assert_eq!(told, [64, 72, 80, 88]);
    assert_eq!(record.of(hash(2)), 0);
    // Two half-lives.
    (0..16).for_each(|_| record.pass(1));
    assert_eq!(record.of(hash(1)), 72);
    (0..10_000).for_each(|_| record.note(hash(1)));
    assert!(record.of(hash(1)) > 150);
}

#[test]
fn a_scan_drives_out_only_what_was_used_as_seldom() {
    let record = Frequencies::with_keys(1 << 12);
    for _ in 0..20 {
        (0..1000).for_each(|number| record.note(hash(number)));
    }
    (1000..20_000).for_each(|number| record.note(hash(number)));
    let hot = (0..1000).filter(|number| record.of(hash(*number)) > 64).count();
    assert!(hot > 990, "{hot} of 1000 are known");
    // Once nobody asks for them any more they make room.
    for _ in 0..100 {
        (20_000..30_000).for_each(|number| record.note(hash(number)));
    }
    let hot = (0..1000).filter(|number| record.of(hash(*number)) > 64).count();
    assert!(hot < 500, "{hot} of 1000 are known yet");
}

#[test]
fn threads_share_a_record() {
    let record = Frequencies::with_keys(1 << 10);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    (0..500).for_each(|number| record.note(hash(number)));
                }
            });
        }
    });
    // Four hundred uses, of which a few may be lost.
    let known = (0..500).filter(|number| record.of(hash(*number)) >= 64 + 6 * 8).count();
    assert!(known > 450, "{known} of 500 are known");
}
