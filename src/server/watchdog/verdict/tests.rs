use super::*;

const LIMITS: Limits =
    Limits { idle_timeout: Duration::from_secs(60), request_timeout: Duration::from_secs(30) };

/// A connection whose clock and counters a test moves by hand.
struct Script {
    watch: Watch,
    now: Instant,
    activity: Activity,
    acknowledged: Acknowledged,
}

/// So many bytes were confirmed, and others were not.
struct Acknowledged(u64, bool);

impl Meter for Acknowledged {
    fn acknowledged(&self) -> Option<u64> {
        Some(self.0)
    }

    fn has_unconfirmed(&self) -> bool {
        self.1
    }
}

impl Script {
    fn new() -> Self {
        let activity =
            Activity { begun: 0, stage: None, received: 0, is_coming: false, is_closing: false };
        let now = Instant::now();
        Self {
            watch: Watch::new(activity, now),
            now,
            activity,
            acknowledged: Acknowledged(0, false),
        }
    }

    /// One that has had a request answered.
    fn served() -> Self {
        let mut script = Self::new();
        script.activity.received = 100;
        script.activity.begun = 1;
        assert_eq!(script.after_ms(20), Verdict::Wait);
        assert_eq!(script.after_ms(20), Verdict::Wait);
        script
    }

    fn in_stage(stage: Stage) -> Self {
        let mut script = Self::served();
        script.activity = Activity { begun: 2, stage: Some(stage), ..script.activity };
        assert_eq!(script.after_ms(20), Verdict::Wait);
        script
    }

    /// One that has had its last answer.
    fn closing() -> Self {
        let mut script = Self::served();
        script.activity.is_closing = true;
        assert_eq!(script.after_ms(20), Verdict::Wait);
        script
    }

    fn after_ms(&mut self, ms: u64) -> Verdict {
        self.now += Duration::from_millis(ms);
        self.watch.inspect(self.activity, self.now, &LIMITS, &self.acknowledged)
    }
}

#[test]
fn silence_is_borne_until_the_idle_timeout() {
    for mut script in [Script::new(), Script::served()] {
        assert_eq!(script.after_ms(59_000), Verdict::Wait);
        assert_eq!(script.after_ms(2000), Verdict::Idle);
    }
}

#[test]
fn a_request_starts_the_silence_anew() {
    let mut script = Script::served();
    assert_eq!(script.after_ms(59_000), Verdict::Wait);
    let since = script.watch.silent_since(script.now).expect("it is silent");
    (script.activity.begun, script.activity.received) = (2, 200);
    assert_eq!(script.after_ms(2000), Verdict::Wait);
    assert!(script.watch.silent_since(script.now).is_some_and(|later| later > since));
    assert_eq!(script.after_ms(59_000), Verdict::Wait);
    assert_eq!(script.after_ms(2000), Verdict::Idle);
}

#[test]
fn a_new_client_is_silent_once_it_had_time_for_a_request() {
    let mut script = Script::new();
    let began = script.now;
    assert_eq!(script.after_ms(999), Verdict::Wait);
    assert_eq!(script.watch.silent_since(script.now), None);
    assert_eq!(script.after_ms(1), Verdict::Wait);
    assert_eq!(script.watch.silent_since(script.now), Some(began));
}

#[test]
fn a_request_that_has_begun_is_waited_for_until_its_timeout() {
    for mut script in [Script::new(), Script::served()] {
        script.activity.received += 10;
        script.activity.is_coming = true;
        assert_eq!(script.after_ms(20), Verdict::Wait);
        assert!(script.watch.is_mid_request());
        assert_eq!(script.watch.silent_since(script.now), None);
        // One byte more now and then makes no difference.
        for _ in 0..29 {
            script.activity.received += 1;
            assert_eq!(script.after_ms(1000), Verdict::Wait);
        }
        assert_eq!(script.after_ms(2000), Verdict::Late);
    }
}

#[test]
fn a_transfer_has_to_move_a_kibibyte_in_each_timeout() {
    for stage in [Stage::Receiving, Stage::Sending] {
        let mut script = Script::in_stage(stage);
        let count = |script: &mut Script, bytes| match stage {
            Stage::Sending => script.acknowledged.0 += bytes,
            Stage::Receiving
            | Stage::ReceivingChunked
            | Stage::Working
            | Stage::Waiting
            | Stage::Parts
            | Stage::Streaming => {
                script.activity.received += bytes;
            }
        };
        for _ in 0..5 {
            count(&mut script, 1024);
            assert_eq!(script.after_ms(29_000), Verdict::Wait, "{stage:?}");
        }
        count(&mut script, 1023);
        assert_eq!(script.after_ms(29_000), Verdict::Wait, "{stage:?}");
        assert_eq!(script.after_ms(2000), Verdict::Late, "{stage:?}");
    }
}

#[test]
fn a_response_in_parts_has_to_move_a_mebibyte_in_each_timeout() {
    let mut script = Script::in_stage(Stage::Parts);
    script.acknowledged.1 = true;
    for _ in 0..5 {
        assert_eq!(script.after_ms(20), Verdict::Wait);
        script.acknowledged.0 += 1 << 20;
        assert_eq!(script.after_ms(29_000), Verdict::Wait);
    }
    for _ in 0..29 {
        script.acknowledged.0 += 35_000;
        assert_eq!(script.after_ms(1000), Verdict::Wait);
    }
    assert_eq!(script.after_ms(2000), Verdict::Late);
}

#[test]
fn between_two_parts_of_a_response_nobody_waits_for_its_client() {
    let mut script = Script::in_stage(Stage::Parts);
    assert_eq!(script.after_ms(1_000_000), Verdict::Wait);
    // The next part begins with all of its time.
    script.acknowledged = Acknowledged(5000, true);
    assert_eq!(script.after_ms(20), Verdict::Wait);
    assert_eq!(script.after_ms(29_000), Verdict::Wait);
    assert_eq!(script.after_ms(2000), Verdict::Late);
}

#[test]
fn a_watcher_has_to_take_a_byte_in_each_timeout_if_any_are_under_way() {
    /// Seconds, with the bytes confirmed by then and whether others are not.
    type Look = (u64, u64, bool);
    let cases: [(&[Look], Verdict); 6] = [
        // Nothing is to be told.
        (&[(1_000_000, 0, false)], Verdict::Wait),
        (&[(1_000_000, 0, false), (29, 0, true)], Verdict::Wait),
        (&[(1_000_000, 0, false), (1, 0, true), (31, 0, true)], Verdict::Late),
        // It takes something now and then, and never all.
        (&[(1, 0, true), (29, 1, true), (29, 2, true), (29, 3, true)], Verdict::Wait),
        (&[(1, 0, true), (29, 1, true), (1, 1, true), (30, 1, true)], Verdict::Late),
        // It has taken all in between, as each of these looks shows.
        (&[(1, 0, true), (20, 9, false), (1, 9, true), (29, 9, true)], Verdict::Wait),
    ];
    for (looks, verdict) in cases {
        let mut script = Script::in_stage(Stage::Streaming);
        let (last, earlier) = looks.split_last().expect("there is a look");
        for (seconds, confirmed, is_more) in earlier {
            script.acknowledged = Acknowledged(*confirmed, *is_more);
            assert_eq!(script.after_ms(seconds * 1000), Verdict::Wait, "{looks:?}");
        }
        let (seconds, confirmed, is_more) = *last;
        script.acknowledged = Acknowledged(confirmed, is_more);
        assert_eq!(script.after_ms(seconds * 1000), verdict, "{looks:?}");
    }
}

#[test]
fn a_stream_has_to_move_a_byte_in_each_idle_timeout() {
    let mut script = Script::in_stage(Stage::ReceivingChunked);
    for _ in 0..5 {
        script.activity.received += 1;
        assert_eq!(script.after_ms(59_000), Verdict::Wait);
    }
    assert_eq!(script.after_ms(59_000), Verdict::Wait);
    assert_eq!(script.after_ms(2000), Verdict::Late);
}

#[test]
fn arriving_bytes_do_not_prolong_the_sending_of_an_answer() {
    let mut script = Script::in_stage(Stage::Sending);
    script.activity.received += 1 << 20;
    assert_eq!(script.after_ms(31_000), Verdict::Late);
}

#[test]
fn work_of_ours_has_no_deadline() {
    let mut script = Script::in_stage(Stage::Working);
    assert_eq!(script.after_ms(1_000_000), Verdict::Wait);
}

#[test]
fn after_the_last_answer_a_silent_client_is_let_go_soon() {
    let mut script = Script::closing();
    assert_eq!(script.after_ms(1900), Verdict::Wait);
    assert_eq!(script.after_ms(200), Verdict::Gone);
}

/// The beginning of the next request may come with the last one.
#[test]
fn a_request_that_came_with_another_is_waited_for_no_longer() {
    let mut script = Script::served();
    (script.activity.begun, script.activity.received) = (2, 500);
    script.activity.is_coming = true;
    assert_eq!(script.after_ms(20), Verdict::Wait);
    assert!(script.watch.is_mid_request());
    assert_eq!(script.after_ms(29_000), Verdict::Wait);
    assert_eq!(script.after_ms(2000), Verdict::Late);
}

#[test]
fn after_the_last_answer_one_who_has_not_taken_it_has_time_as_for_any() {
    let mut script = Script::closing();
    script.acknowledged.1 = true;
    assert_eq!(script.after_ms(29_000), Verdict::Wait);
    script.acknowledged.0 += 1;
    assert_eq!(script.after_ms(20), Verdict::Wait);
    assert_eq!(script.after_ms(29_000), Verdict::Wait);
    assert_eq!(script.after_ms(2000), Verdict::Gone);
}

#[test]
fn after_the_last_answer_one_who_sends_is_heard_out_for_a_while() {
    let mut script = Script::closing();
    for _ in 0..19 {
        script.activity.received += 1;
        assert_eq!(script.after_ms(1500), Verdict::Wait);
    }
    script.activity.received += 1;
    assert_eq!(script.after_ms(1900), Verdict::Gone);

    let mut script = Script::closing();
    script.activity.received += LINGER_BYTES_MAX;
    assert_eq!(script.after_ms(10), Verdict::Wait);
    script.activity.received += 1;
    assert_eq!(script.after_ms(10), Verdict::Gone);
}
