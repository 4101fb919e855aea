//! Writes that replicas have to have.

use super::*;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;

fn role(replicas: usize) -> Answer {
    let replica = "*3\r\n$9\r\n127.0.0.1\r\n$4\r\n1234\r\n$1\r\n1\r\n".repeat(replicas);
    Answer::Bytes(format!("*3\r\n$6\r\nmaster\r\n:1\r\n*{replicas}\r\n{replica}").into())
}

fn careful(fake: &Fake) -> Arc<Router> {
    Router::start(&Config { replicas: 1, ..config(fake) }, SCRIPTS).unwrap()
}

#[test]
fn a_write_is_done_once_replicas_have_it() {
    let fake = Fake::start();
    fake.script("ROLE", vec![role(1)]);
    let slow = Answer::Slowly(b":1\r\n".to_vec(), Duration::from_millis(50));
    fake.script("WAIT", vec![slow]);
    let router = careful(&fake);
    assert_eq!(outcome(&send(&router, incr(), true)), number(1));
    assert_eq!(fake.asked("WAIT")[0][1], b"1");
    // A read needs none.
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    assert_eq!(fake.asked("WAIT").len(), 1);
}

#[test]
fn writes_that_come_while_replicas_are_waited_for_share_the_next_wait() {
    let fake = Fake::start();
    fake.script("ROLE", vec![role(1)]);
    let (go_on, held) = channel::<()>();
    let held = Mutex::new(held);
    fake.on("WAIT", move |_| {
        held.lock().unwrap().recv().ok();
        None
    });
    let router = careful(&fake);
    let first = send(&router, incr(), true);
    until("replicas are waited for", || fake.asked("WAIT").len() == 1);
    let later = (0..10).map(|_| {
        // The writer has the time to send each alone.
        thread::sleep(Duration::from_millis(2));
        send(&router, incr(), true)
    });
    let later: Vec<_> = later.collect();
    drop(go_on);
    for told in later.iter().chain([&first]) {
        assert_eq!(outcome(told), number(1));
    }
    assert_eq!(fake.asked("WAIT").len(), 2);
}

#[test]
fn a_write_that_no_replica_has_is_unknown() {
    for answer in [":0", "-UNBLOCKED force unblock from blocking operation", "$-1"] {
        let fake = Fake::start();
        fake.script("ROLE", vec![role(1)]);
        fake.script("WAIT", vec![line(answer)]);
        let router = careful(&fake);
        assert_eq!(outcome(&send(&router, incr(), true)), Err(Error::OutcomeUnknown), "{answer}");
        assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
        // The number of replicas is asked for at once.
        until("it is asked", || fake.asked("ROLE").len() > 1);
    }
}

#[test]
fn a_write_without_replicas_is_not_sent_until_they_are_there() {
    let fake = Fake::start();
    fake.script("ROLE", vec![role(0), role(0), role(1)]);
    let router = careful(&fake);
    assert_eq!(outcome(&send(&router, incr(), true)), Err(too_few()));
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    assert_eq!(fake.asked("INCR").len(), 0);
    until("it is done", || outcome(&send(&router, incr(), true)) == number(1));
    assert_eq!(fake.asked("ROLE").len(), 3);
}

#[test]
fn a_write_that_waits_for_replicas_is_unknown_after_a_break() {
    let fake = Fake::start();
    fake.script("ROLE", vec![role(1)]);
    fake.script("WAIT", vec![Answer::Close(Vec::new())]);
    let router = careful(&fake);
    assert_eq!(outcome(&send(&router, incr(), true)), Err(Error::OutcomeUnknown));
    assert_eq!(fake.asked("INCR").len(), 1);
}

#[test]
fn a_replica_sends_writes_on() {
    let (old, new) = (Fake::start(), Fake::start());
    let port = new.port;
    old.script("ROLE", vec![line("*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$9\r\nconnected\r\n:1")]);
    old.on("INCR", move |_| Some(line(&format!("-MOVED 1 127.0.0.1:{port}"))));
    new.script("ROLE", vec![role(1)]);
    assert_eq!(outcome(&send(&careful(&old), incr(), true)), number(1));
}

#[test]
fn replicas_that_are_late_cost_one_wait() {
    let fake = Fake::start();
    fake.script("ROLE", vec![role(1)]);
    let are_late = Arc::new(AtomicBool::new(true));
    let late = Arc::clone(&are_late);
    fake.on("WAIT", move |words| {
        if !late.load(Ordering::SeqCst) {
            return Some(line(":1"));
        }
        let timeout = String::from_utf8_lossy(&words[2]).parse().unwrap();
        thread::sleep(Duration::from_millis(timeout));
        Some(line(":0"))
    });
    let router = careful(&fake);
    let first = send(&router, incr(), true);
    until("replicas are waited for", || fake.asked("WAIT").len() == 1);
    let later: Vec<_> = (0..10).map(|_| send(&router, incr(), true)).collect();
    let read = send(&router, get(), false);
    assert_eq!(outcome(&first), Err(Error::OutcomeUnknown));
    for told in &later {
        assert_eq!(outcome(told), Err(too_few()));
    }
    assert_eq!(outcome(&read), value(b"value"));
    // It is asked again and again, and takes reads meanwhile.
    let timeouts = || fake.asked("WAIT").into_iter().map(|words| words[2].clone());
    until("it is asked again", || timeouts().count() >= 4);
    assert_eq!(outcome(&send(&router, incr(), true)), Err(too_few()));
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    assert_eq!(fake.asked("INCR").len(), 1);
    assert!(timeouts().skip(1).all(|timeout| timeout == b"20"));
    are_late.store(false, Ordering::SeqCst);
    until("it is done", || outcome(&send(&router, incr(), true)) == number(1));
}
