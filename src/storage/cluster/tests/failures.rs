//! Connections that break, and nodes that answer late, never or with something else.

use super::*;
use std::sync::Mutex;
use std::thread;

#[test]
fn what_was_sent_is_repeated_only_if_it_reads() {
    let fake = Fake::start();
    fake.script("GET", vec![Answer::Close(b"$5\r\nva".to_vec()), text("again")]);
    fake.script("INCR", vec![Answer::Close(b":".to_vec()), line(":2")]);
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"again"));
    assert_eq!(outcome(&send(&router, incr(), true)), Err(Error::OutcomeUnknown));
    assert_eq!(fake.asked("INCR").len(), 1);
}

#[test]
fn what_was_not_sent_whole_is_sent_again() {
    let fake = Fake::start();
    let router = front(&fake);
    // More than the buffers of two sockets take.
    let value = vec![b'v'; 24 << 20];
    fake.cut_after(1 << 20);
    let set = Commands::default().with(&[b"SET", b"a", &value]);
    let ok = Ok(Replies::from_iter([Reply::Bytes(Bytes::from_static(b"OK"))]));
    let patience = Duration::from_secs(19);
    assert_eq!(outcome(&send_for(&router, set, true, patience)), ok);
    assert_eq!(fake.asked("SET").len(), 1);
}

#[test]
fn a_silent_node_holds_nothing_for_long() {
    let fake = Fake::start();
    fake.script("GET", vec![Answer::Silence]);
    let router = front(&fake);
    let begin = Instant::now();
    let patience = Duration::from_secs(2);
    let read = send_for(&router, get(), false, patience);
    let write = send_for(&router, incr(), true, patience);
    assert_eq!(outcome(&write), Err(Error::OutcomeUnknown));
    assert_eq!(outcome(&read), DOWN);
    assert!(begin.elapsed() >= patience);
}

#[test]
fn a_node_that_reads_nothing_holds_nothing_for_long() {
    let fake = Fake::start();
    fake.script("GET", vec![Answer::Silence]);
    let router = front(&fake);
    let set = Commands::default().with(&[b"SET", b"a", &vec![b'v'; 48 << 20]]);
    let read = send_for(&router, get(), false, SHORT);
    let large = send_for(&router, set, true, SHORT);
    until("the second is being sent", || router.traffic().sent.load(Ordering::Relaxed) == 2);
    let waiting = send_for(&router, incr(), true, SHORT);
    assert_eq!(outcome(&read), DOWN);
    // Its deadline passes before the connection is cut, or after that.
    let large = outcome(&large);
    assert!(large == Err(Error::OutcomeUnknown) || large == DOWN, "{large:?}");
    // This stood in the queue.
    assert_eq!(outcome(&waiting), DOWN);
}

#[test]
fn nothing_is_sent_before_the_handshake_is_answered() {
    let fake = Fake::start();
    fake.script("PING", vec![Answer::Silence]);
    let router = front(&fake);
    assert_eq!(router.check(), Err(Error::NotDone(Hindrance::ClusterDown)));
    assert_eq!(outcome(&send_for(&router, incr(), true, SHORT)), DOWN);
    assert_eq!(fake.asked("INCR").len(), 0);
}

#[test]
fn a_node_that_loads_is_waited_for() {
    let fake = Fake::start();
    let loading = line("-LOADING Redis is loading the dataset in memory");
    fake.script("PING", vec![loading.clone(), loading, line("+PONG")]);
    assert_eq!(outcome(&send(&front(&fake), incr(), true)), number(1));
}

#[test]
fn a_node_that_refuses_the_front_has_it_told() {
    let fake = Fake::start();
    fake.script("PING", vec![line("-NOAUTH Authentication required.")]);
    let router = front(&fake);
    until("it is told", || {
        outcome(&send_for(&router, incr(), true, SHORT)) == Err(Error::NodeRefused)
    });
}

#[test]
fn a_node_that_cannot_save_serves_reads() {
    let fake = Fake::start();
    let text = "-MISCONF Redis is configured to save RDB snapshots, but it is unable to.";
    fake.script("PING", vec![line(text)]);
    fake.script("INCR", vec![line(text)]);
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    let read_only = Error::NotDone(Hindrance::NodeReadOnly);
    assert_eq!(outcome(&send(&router, incr(), true)), Err(read_only));
}

#[test]
fn a_read_that_breaks_connections_costs_others_no_write() {
    let fake = Fake::start();
    let (tell, asked) = channel();
    let (go_on, held) = channel::<()>();
    let both = Mutex::new((tell, held));
    fake.on("GET", move |_| {
        let (tell, held) = &*both.lock().unwrap();
        tell.send(()).ok();
        held.recv().ok();
        Some(Answer::Close(Vec::new()))
    });
    let router = front(&fake);
    let read = send(&router, get(), false);
    asked.recv_timeout(Duration::from_secs(60)).unwrap();
    go_on.send(()).unwrap();
    // Repeated, it may break this one too.
    asked.recv_timeout(Duration::from_secs(60)).unwrap();
    let write = send(&router, incr(), true);
    thread::sleep(Duration::from_millis(50));
    drop(go_on);
    assert_eq!(outcome(&read), DOWN);
    assert_eq!(outcome(&write), number(1));
    assert_eq!(fake.asked("GET").len(), 3);
}

#[test]
fn reads_go_on_beside_one_that_breaks_connections() {
    let fake = Fake::start();
    fake.on("GET", |words| (words[1] == b"bad").then(|| Answer::Close(Vec::new())));
    let router = front(&fake);
    let mut told = Vec::new();
    for at in 0..600 {
        let key: &[u8] = if at == 300 { b"bad" } else { b"good" };
        told.push(send(&router, Commands::default().with(&[b"GET", key]), false));
    }
    for (at, told) in told.iter().enumerate() {
        assert_eq!(outcome(told), if at == 300 { DOWN } else { value(b"value") }, "{at}");
    }
    assert_eq!(outcome(&send(&router, incr(), true)), number(1));
}

#[test]
fn a_reply_that_drips_holds_nothing_for_long() {
    let fake = Fake::start();
    let reply = b"$100\r\nvalue".to_vec();
    fake.script("GET", vec![Answer::Slowly(reply, Duration::from_millis(300))]);
    let router = front(&fake);
    // Less than the reply takes.
    let patience = Duration::from_secs(2);
    let read = send_for(&router, get(), false, patience);
    let write = send_for(&router, incr(), true, patience);
    assert_eq!(outcome(&read), DOWN);
    assert_eq!(outcome(&write), Err(Error::OutcomeUnknown));
}

#[test]
fn late_replies_go_to_nobody_else() {
    let fake = Fake::start();
    let late =
        Answer::Slowly(format!("$20\r\n{:20}\r\n", "late").into(), Duration::from_millis(100));
    fake.script("GET", vec![late, text("next")]);
    let router = front(&fake);
    // Less than the reply takes.
    let patience = Duration::from_secs(1);
    assert_eq!(outcome(&send_for(&router, get(), false, patience)), DOWN);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"next"));
    assert_eq!(fake.asked("PING").len(), 1, "the connection was cut");
}

#[test]
fn bytes_that_are_no_replies_end_the_connection() {
    for garbage in ["HTTP/1.1 400 Bad Request\r\n", "$-7\r\n", "*x\r\n", "$2\r\nlong\r\n"] {
        let fake = Fake::start();
        fake.script("GET", vec![Answer::Bytes(garbage.into()), text("fine")]);
        let router = front(&fake);
        assert_eq!(outcome(&send(&router, get(), false)), value(b"fine"), "{garbage}");
        assert_eq!(fake.asked("PING").len(), 2);
    }
}

#[test]
fn a_reply_to_nothing_ends_the_connection() {
    let fake = Fake::start();
    fake.script("GET", vec![line("+one\r\n+two"), text("fine")]);
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"one"));
    until("it is cut", || router.traffic().broken.load(Ordering::Relaxed) == 1);
    assert_eq!(outcome(&send(&router, get(), false)), value(b"fine"));
}

#[test]
fn a_panic_in_a_completion_costs_nobody_else() {
    let fake = Fake::start();
    let router = front(&fake);
    router.send(Request {
        place: Place::Slot(1),
        commands: get(),
        is_write: false,
        deadline: Instant::now() + PATIENCE,
        done: Box::new(|_| panic!("of the client")),
    });
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    assert_eq!(fake.asked("PING").len(), 1);
    router.close();
}

#[test]
fn a_node_that_is_back_is_connected_to() {
    let fake = Fake::start();
    let router = front(&fake);
    assert_eq!(outcome(&send(&router, incr(), true)), number(1));
    fake.cut();
    until("the connection has broken", || router.traffic().broken.load(Ordering::Relaxed) == 1);
    assert_eq!(outcome(&send(&router, incr(), true)), number(1));
}

#[test]
fn a_reply_in_single_bytes_is_one() {
    let fake = Fake::start();
    fake.script("GET", vec![Answer::Pieces(b"$5\r\npiece\r\n".to_vec(), 1)]);
    assert_eq!(outcome(&send(&front(&fake), get(), false)), value(b"piece"));
}

#[test]
fn a_large_reply_in_pieces_is_one() {
    let fake = Fake::start();
    let length = 10 << 20;
    let mut reply = format!("${length}\r\n").into_bytes();
    reply.resize(reply.len() + length, b'v');
    reply.extend_from_slice(b"\r\n");
    fake.script("GET", vec![Answer::Pieces(reply, 9999)]);
    let replies = outcome(&send(&front(&fake), get(), false)).unwrap();
    assert_eq!(replies.as_slice(), [Reply::Bytes(vec![b'v'; length].into())]);
}
