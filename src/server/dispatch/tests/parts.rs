//! Responses in parts, each of which is made once the last one was written.

use super::*;
use crate::api::Rest;
use std::mem;

/// A part of a body, counted for as long as it is in memory.
struct Counted(Vec<u8>, Arc<Counts>);

#[derive(Default)]
struct Counts {
    made: AtomicUsize,
    alive: AtomicUsize,
    alive_max: AtomicUsize,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many parts of so many bytes each.
fn counted(parts: usize, bytes: usize, counts: Arc<Counts>) -> Reply {
    counts.made.fetch_add(1, Ordering::Relaxed);
    let alive = counts.alive.fetch_add(1, Ordering::Relaxed) + 1;
    counts.alive_max.fetch_max(alive, Ordering::Relaxed);
    let part = Counted(vec![b'x'; bytes], Arc::clone(&counts));
    let reply = Reply::text(Bytes::from_owner(part));
    if parts == 1 {
        return reply;
    }
    reply.with_rest(Rest::new(move || Step::Reply(counted(parts - 1, bytes, counts))))
}

/// A part, and a step to the next.
fn then(part: &'static str, step: impl FnOnce() -> Step + Send + 'static) -> Reply {
    Reply::text(part).with_rest(Rest::new(step))
}

#[test]
fn what_is_behind_waits_for_the_last_part() {
    let fixture = Fixture::new();
    let (connection, mut client) = fixture.connect();
    let stored = fixture.get("/kv/key");
    // The last part is there once another request waits.
    let (go, wait) = crossbeam_channel::bounded(1);
    let last = move || {
        wait.recv().expect("the test goes on");
        stored
    };
    let in_parts = then("a\n", move || Step::Reply(then("b\n", last)));
    fixture.answer(&connection, CHUNKED, in_parts);
    fixture.answer(&connection, LAST, Reply::text("behind"));
    go.send(()).expect("a part is asked for");
    // As a worker would.
    wait_until("what is behind has its turn", || fixture.dispatcher.tasks() > 0);
    if let Task::Handle(job, meaning) = fixture.dispatcher.next_task() {
        fixture.dispatcher.handle(job, meaning, false);
    }
    let (text, is_reset) = read_to_end(&mut client);
    assert!(!is_reset);
    let (first, second) = text.split_once("0\r\n\r\n").expect("a last chunk");
    assert_eq!(body(first), "2\r\na\n\r\n2\r\nb\n\r\n6\r\nstored\r\n");
    assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{second}");
    assert_eq!(body(second), "behind");
    fixture.wait_for_end();
    wait_until("none is under way", || fixture.dispatcher.senders.under_way() == 0);
}

#[test]
fn an_old_client_finds_the_end_of_the_connection() {
    let fixture = Fixture::new();
    let (connection, mut client) = fixture.connect();
    let counts = Arc::new(Counts::default());
    fixture.answer(&connection, OLD, counted(300, 10_000, counts));
    // Some is on its way yet when the connection ends.
    let (text, is_reset) = read_to_end(&mut client);
    assert_eq!((body(&text).len(), is_reset), (3_000_000, false));
    fixture.wait_for_end();
}

#[test]
fn parts_that_are_made_at_once_do_not_grow_the_stack() {
    const PARTS: usize = 20_000;
    let fixture = Fixture::new();
    let (connection, mut client) = fixture.connect();
    let counts = Arc::new(Counts::default());
    fixture.answer(&connection, OLD, counted(PARTS, 1, Arc::clone(&counts)));
    assert_eq!(body(&read_to_end(&mut client).0).len(), PARTS);
    assert_eq!(counts.alive_max.load(Ordering::Relaxed), 1);
    fixture.wait_for_end();
}

#[test]
fn clients_who_do_not_read_hold_a_part_each_and_no_thread() {
    const CLIENTS: usize = 300;
    let fixture = Fixture::new();
    let counts = Arc::new(Counts::default());
    let ask = |_| {
        let (connection, client) = fixture.connect_with_small_buffers();
        let endless = counted(usize::MAX, 100_000, Arc::clone(&counts));
        fixture.answer(&connection, CHUNKED, endless);
        client
    };
    let clients: Vec<TcpStream> = (0..CLIENTS).map(ask).collect();
    let mut made = 0;
    wait_until("their sockets are full", || {
        thread::sleep(Duration::from_millis(100));
        let before = mem::replace(&mut made, counts.made.load(Ordering::Relaxed));
        made == before
    });
    assert_eq!(fixture.dispatcher.senders.under_way(), CLIENTS);
    assert!(counts.alive_max.load(Ordering::Relaxed) <= CLIENTS);
    let (connection, mut client) = fixture.connect();
    let another = counted(100, 10_000, Arc::new(Counts::default()));
    fixture.answer(&connection, OLD, another);
    assert_eq!(body(&read_to_end(&mut client).0).len(), 1_000_000);
    // They leave, which ends the steps.
    drop(clients);
    fixture.wait_for_end();
    wait_until("no step is taken", || Arc::strong_count(&counts) == 1);
}

/// Parts without bytes and without end, for as long as the client is there.
fn empty(steps: Arc<AtomicUsize>) -> Reply {
    steps.fetch_add(1, Ordering::Relaxed);
    then("", move || Step::Reply(empty(steps)))
}

#[test]
fn parts_that_follow_each_other_keep_no_other_client_waiting() {
    let fixture = Fixture::new();
    let (endless, waits) = fixture.connect();
    fixture.answer(&endless, CHUNKED, empty(Arc::default()));
    // More than its socket takes, so that it waits for room in between.
    let (connection, mut client) = fixture.connect();
    fixture.answer(&connection, OLD, counted(40, 1 << 20, Arc::default()));
    assert_eq!(body(&read_to_end(&mut client).0).len(), 40 << 20);
    drop(waits);
    fixture.dispatcher.connections.cut(&endless, Cut::Gone);
    fixture.wait_for_end();
}

#[test]
fn the_steps_end_with_a_client_who_is_told_nothing() {
    let fixture = Fixture::new();
    let steps = Arc::default();
    let (connection, mut client) = fixture.connect();
    fixture.answer(&connection, CHUNKED, empty(Arc::clone(&steps)));
    client.read_exact(&mut [0; 17]).expect("the beginning of a head");
    // Unread bytes make it a reset.
    drop(client);
    fixture.wait_for_end();
    wait_until("no step is taken", || Arc::strong_count(&steps) == 1);
}

#[test]
fn a_part_that_cannot_be_had_leaves_no_whole_response() {
    const FAULTS: [(&str, &str); 2] = [("/kv/missing", "404: 1"), ("panic", "500: 1")];
    const ANSWERS: [(&str, &str, bool); 2] = [(CHUNKED, "2\r\na\n\r\n", false), (OLD, "a\n", true)];
    for (head, written, ends_by_reset) in ANSWERS {
        for (fault, status) in FAULTS {
            let fixture = Fixture::new();
            let (connection, mut client) = fixture.connect();
            let missing = (fault != "panic").then(|| fixture.get(fault));
            let (go, gone) = crossbeam_channel::bounded::<()>(0);
            let rest = move || {
                gone.recv().ok();
                missing.expect("this panic is part of a test")
            };
            fixture.answer(&connection, head, then("a\n", rest));
            fixture.answer(&connection, head, Reply::text("behind"));
            // A reset may overtake what was written.
            read_until(&mut client, written);
            drop(go);
            assert_eq!(read_to_end(&mut client), (String::new(), ends_by_reset), "{fault}");
            fixture.wait_for_end();
            let lines = fixture.dispatcher.api.metrics().lines();
            assert!(matches!(&*lines, [line] if line.contains(status)), "{lines:?}");
        }
    }
}
