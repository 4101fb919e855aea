use super::*;

const LIMITS: Limits = Limits {
    idle_timeout: Duration::from_secs(60),
    request_timeout: Duration::from_secs(30),
    connections_max: 10,
};

/// A connection whose clock and counters a test moves by hand.
struct Script {
    watch: Watch,
    now: Instant,
    activity: Activity,
    counted: Counted,
}

struct Counted {
    received: u64,
    unread: u64,
    acknowledged: u64,
}

impl Meter for Counted {
    fn moved(&self) -> Option<Moved> {
        Some(Moved { received: self.received, acknowledged: self.acknowledged })
    }

    fn unread(&self) -> u64 {
        self.unread
    }
}

impl Script {
    fn new() -> Self {
        let activity = Activity { begun: 0, stage: None, taken_bytes: 0, cut: false };
        let now = Instant::now();
        let counted = Counted { received: 0, unread: 0, acknowledged: 0 };
        Self { watch: Watch::new(activity, now), now, activity, counted }
    }

    /// One that has had a request answered.
    fn served() -> Self {
        let mut script = Self::new();
        script.counted.received = 100;
        script.activity.begun = 1;
        assert_eq!(script.after_ms(20), Verdict::Moving);
        assert_eq!(script.after_ms(20), Verdict::Moving);
        script
    }

    fn in_stage(stage: Stage) -> Self {
        let mut script = Self::served();
        script.activity = Activity { begun: 2, stage: Some(stage), ..script.activity };
        assert_eq!(script.after_ms(20), Verdict::Moving);
        script
    }

    fn after_ms(&mut self, ms: u64) -> Verdict {
        self.now += Duration::from_millis(ms);
        self.watch.look(self.activity, self.now, &LIMITS, &self.counted)
    }
}

#[test]
fn silence_is_borne_until_the_idle_timeout() {
    for mut script in [Script::new(), Script::served()] {
        assert_eq!(script.after_ms(59_000), Verdict::Quiet);
        assert_eq!(script.after_ms(2000), Verdict::Idle);
    }
}

#[test]
fn a_request_starts_the_silence_anew() {
    let mut script = Script::served();
    assert_eq!(script.after_ms(59_000), Verdict::Quiet);
    script.activity.begun += 1;
    assert_eq!(script.after_ms(2000), Verdict::Moving);
    assert_eq!(script.after_ms(20), Verdict::Moving);
    assert_eq!(script.after_ms(59_000), Verdict::Quiet);
}

#[test]
fn a_request_that_has_begun_is_waited_for_until_its_timeout() {
    for mut script in [Script::new(), Script::served()] {
        script.counted.received += 10;
        assert_eq!(script.after_ms(20), Verdict::Moving);
        assert!(script.watch.is_mid_request());
        // One byte more now and then makes no difference.
        for _ in 0..29 {
            script.counted.received += 1;
            assert_eq!(script.after_ms(1000), Verdict::Moving);
        }
        assert_eq!(script.after_ms(2000), Verdict::Late);
    }
}

#[test]
fn a_connection_that_nobody_reads_is_starved() {
    let mut script = Script::new();
    (script.counted.received, script.counted.unread) = (40, 40);
    assert_eq!(script.after_ms(3), Verdict::Fresh);
    assert_eq!(script.after_ms(3), Verdict::Starved);
    script.counted.unread = 0;
    assert_eq!(script.after_ms(3), Verdict::Moving);
}

#[test]
fn a_connection_that_was_served_is_never_starved() {
    let mut script = Script::served();
    script.counted.received += 40;
    script.counted.unread = 40;
    assert_eq!(script.after_ms(20), Verdict::Moving);
    assert_eq!(script.after_ms(20), Verdict::Moving);
}

#[test]
fn a_head_without_an_end_is_too_large() {
    let mut script = Script::served();
    script.counted.received += HEAD_BYTES_MAX;
    assert_eq!(script.after_ms(20), Verdict::Moving);
    script.counted.received += 1;
    assert_eq!(script.after_ms(20), Verdict::TooLarge);
    // What tiny_http has not read yet costs it nothing.
    script.counted.unread = 1;
    assert_eq!(script.after_ms(20), Verdict::Moving);
}

#[test]
fn a_transfer_has_to_move_a_kibibyte_in_each_timeout() {
    for stage in [Stage::Receiving, Stage::Sending] {
        let mut script = Script::in_stage(stage);
        assert_eq!(script.after_ms(20), Verdict::Moving);
        for _ in 0..5 {
            let counter = match stage {
                Stage::Receiving => &mut script.counted.received,
                Stage::Sending | Stage::Working => &mut script.counted.acknowledged,
            };
            *counter += 1024;
            assert_eq!(script.after_ms(29_000), Verdict::Moving, "{stage:?}");
        }
        script.counted.received += 1023;
        script.activity.taken_bytes += 1023;
        assert_eq!(script.after_ms(29_000), Verdict::Quiet, "{stage:?}");
        assert_eq!(script.after_ms(2000), Verdict::Late, "{stage:?}");
    }
}

#[test]
fn what_arrives_does_not_prolong_the_sending_of_an_answer() {
    let mut script = Script::in_stage(Stage::Sending);
    assert_eq!(script.after_ms(20), Verdict::Moving);
    script.counted.received += 1 << 20;
    assert_eq!(script.after_ms(31_000), Verdict::Late);
}

#[test]
fn work_of_ours_has_no_deadline() {
    let mut script = Script::in_stage(Stage::Working);
    assert_eq!(script.after_ms(1_000_000), Verdict::Quiet);
}

#[test]
fn chunks_may_not_cost_much_more_than_their_data() {
    let mut script = Script::in_stage(Stage::Receiving);
    assert_eq!(script.after_ms(20), Verdict::Moving);
    script.activity.taken_bytes = 1000;
    for _ in 0..8 {
        script.counted.received += (HEAD_BYTES_MAX + 16_000) / 8;
        assert_eq!(script.after_ms(20), Verdict::Moving);
    }
    // From here on nothing of it is data.
    script.counted.received += 1024;
    assert_eq!(script.after_ms(20), Verdict::Bloated);
    script.counted.unread = 1024;
    assert_eq!(script.after_ms(20), Verdict::Moving);
}
