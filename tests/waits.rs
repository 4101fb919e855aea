//! Those who wait: over HTTP, on every engine. A wait is looked at by its own key's
//! changes alone, ends when it should, and is served in its turn.

use crate::support::engines::{self, ENGINES};
use crate::support::http::{Connection, at_once, get_head, wait_until};
use crate::support::process::Process;
use crate::support::server::Fixture;
use little_key_value::storage::{Changes, Done, Error, Op, Outcome, Storage, Waiters};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const ABSENT: &[&str] = &["If-None-Match: *"];

/// A storage that counts waits and the operations by which they look.
struct Counted {
    storage: Arc<dyn Storage>,
    looks: AtomicUsize,
    waits: AtomicUsize,
    /// Operations that are submitted and not done.
    under_way: Arc<AtomicUsize>,
    /// Each look fails.
    fails: AtomicBool,
    /// Each look panics.
    panics: AtomicBool,
}

impl Counted {
    fn over(storage: Arc<dyn Storage>) -> Arc<Self> {
        let (looks, waits, under_way, fails, panics) = Default::default();
        Arc::new(Self { storage, looks, waits, under_way, fails, panics })
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }

    /// The number of waits that have begun.
    fn waits(&self) -> usize {
        self.waits.load(Ordering::SeqCst)
    }
}

impl Storage for Counted {
    fn try_now(&self, op: Op) -> Result<Outcome, Op> {
        if matches!(op, Op::Get(_) | Op::Update(..) | Op::UpdateFirst(..)) {
            self.looks.fetch_add(1, Ordering::SeqCst);
            assert!(!self.panics.load(Ordering::SeqCst), "it is to");
            if self.fails.load(Ordering::SeqCst) {
                return Ok(Err(Error::Overloaded));
            }
        }
        self.storage.try_now(op)
    }

    fn submit(&self, op: Op, done: Done) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let under_way = Arc::clone(&self.under_way);
        let done = move |outcome| {
            done(outcome);
            under_way.fetch_sub(1, Ordering::SeqCst);
        };
        self.storage.submit(op, Box::new(done));
    }

    fn waiters(&self) -> Option<&Waiters> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        self.storage.waiters()
    }

    fn changes(&self) -> Option<&Changes> {
        self.storage.changes()
    }

    fn check(&self) -> Result<(), Error> {
        self.storage.check()
    }

    fn close(&self) -> Result<(), Error> {
        self.storage.close()
    }
}

/// A server over each engine, and its storage.
fn on_every_engine(test: impl Fn(&Fixture, &Counted)) {
    on_every_engine_owned(|server, counted| test(&server, &counted));
}

/// The same for a test that stops the server itself.
fn on_every_engine_owned(test: impl Fn(Fixture, Arc<Counted>)) {
    for (name, open) in ENGINES.iter() {
        eprintln!("on the engine {name}");
        let counted = Counted::over(open());
        test(Fixture::over(Arc::<Counted>::clone(&counted)), counted);
    }
}

/// Sends a request with fields of its own, and reads no answer.
fn send(connection: &mut Connection, method: &str, target: &str, fields: &[&str], body: &str) {
    let fields: String = fields.iter().flat_map(|field| [*field, "\r\n"]).collect();
    let start = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}");
    connection.send(format!("{start}Content-Length: {}\r\n\r\n{body}", body.len()));
}

/// A client that waits, once it does.
fn waiter(
    server: &Fixture,
    counted: &Counted,
    method: &str,
    target: &str,
    fields: &[&str],
    body: &str,
) -> Connection {
    let waits = counted.waits();
    let mut connection = server.connect();
    send(&mut connection, method, target, fields, body);
    wait_for_waits(server, counted, waits + 1);
    connection
}

/// Waits until so many waits have begun, and have their places and their first looks.
#[track_caller]
fn wait_for_waits(server: &Fixture, counted: &Counted, waits: usize) {
    wait_until(&format!("{waits} waits have begun"), || counted.waits() >= waits);
    // The leader that has begun them answers this.
    assert_eq!(server.connect().get("/healthz").status(), 200);
    wait_until("their looks are over", || counted.under_way.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_wait_is_answered_by_its_own_key_alone() {
    on_every_engine(|server, counted| {
        let mut others: Vec<_> = (0..20)
            .map(|number| {
                waiter(server, counted, "GET", &format!("/kv/other{number}?wait"), &[], "")
            })
            .collect();
        let mut reader = waiter(server, counted, "GET", "/kv/own?wait", &[], "");
        let mut taker = waiter(server, counted, "DELETE", "/kv?take={job}:&wait", &[], "");
        let mut client = server.connect();
        let looks = counted.looks();
        for number in 0..10 {
            assert_eq!(client.put(&format!("/kv/unwatched{number}"), b"x").status(), 200);
            assert_eq!(client.call("DELETE", &format!("/kv/{{job}}:{number}")).status(), 200);
        }
        // Those who wait at a front look again now and then, for what others change.
        let are_counted = counted.changes().is_some();
        assert!(counted.looks() == looks || !are_counted, "nobody waits for these");
        client.put("/kv/own", b"came");
        assert_eq!(reader.response().text(), "came");
        client.put("/kv/{job}:1", b"work");
        assert_eq!(taker.response().text(), "work");
        assert_eq!(client.get("/kv/{job}:1").status(), 404);
        // Looks may be more than one, but are theirs alone.
        let more = counted.looks() - looks;
        assert!(more <= 7 || !are_counted, "{more} looks");
        client.call("DELETE", "/clear");
        client.put("/kv/other7", b"seven");
        assert_eq!(others[7].response().text(), "seven");
    });
}

#[test]
fn no_change_is_missed() {
    const ROUNDS: usize = 400;
    on_every_engine(|server, _| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = server.connect();
                for round in 0..ROUNDS {
                    let body = round.to_string();
                    // It waits for its key to go, which the other takes.
                    let target = "/kv/{ball}?wait=20s";
                    assert_eq!(client.ask("PUT", target, ABSENT, body.as_bytes()).status(), 201);
                }
            });
            let mut client = server.connect();
            for round in 0..ROUNDS {
                let target = if round % 2 == 0 {
                    "/kv/{ball}?return&wait=20s"
                } else {
                    "/kv?take={ball}&wait=20s"
                };
                let response = client.call("DELETE", target);
                assert_eq!((response.status(), response.text()), (200, &*round.to_string()));
            }
        });
    });
}

#[test]
fn a_value_is_followed_through_its_versions() {
    const ROUNDS: usize = 300;
    on_every_engine(|server, _| {
        let mut writer = server.connect();
        writer.put("/kv/news", b"0");
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut client = server.connect();
                    let mut last = client.get("/kv/news");
                    while last.text() != ROUNDS.to_string() {
                        let tag = format!("If-None-Match: {}", last.header("ETag").unwrap());
                        let next = client.ask("GET", "/kv/news?wait=20s", &[&tag], b"");
                        assert_eq!(next.status(), 200, "after {}", last.text());
                        let [old, new] = [&last, &next].map(|it| it.text().parse::<u64>().unwrap());
                        assert!(new > old, "{new} after {old}");
                        last = next;
                    }
                });
            }
            for round in 1..=ROUNDS {
                assert_eq!(writer.put("/kv/news", round.to_string().as_bytes()).status(), 200);
            }
        });
    });
}

#[test]
fn a_wait_ends_with_its_time() {
    on_every_engine(|server, _| {
        let mut client = server.connect();
        client.put("/kv/there", b"value");
        let tag = client.get("/kv/there").header("ETag").unwrap().to_owned();
        let same = format!("If-None-Match: {tag}");
        let cases: [(&str, &str, &[&str], u16); 6] = [
            ("GET", "/kv/absent?wait=40ms", &[], 404),
            ("GET", "/kv/there?wait=40ms", &[&same], 304),
            ("GET", "/kv/there?wait=40ms", &["If-Match: \"other\""], 412),
            ("PUT", "/kv/there?wait=40ms", ABSENT, 412),
            ("DELETE", "/kv/absent?return&wait=40ms", &[], 404),
            ("DELETE", "/kv?take={absent}&wait=40ms", &[], 404),
        ];
        for (method, target, fields, status) in cases {
            let begun = Instant::now();
            let body: &[u8] = if method == "PUT" { b"x" } else { b"" };
            let response = client.ask(method, target, fields, body);
            assert_eq!(response.status(), status, "{method} {target}");
            assert!(begun.elapsed() >= Duration::from_millis(40), "{method} {target} is early");
        }
        assert_eq!(client.get("/kv/there").text(), "value");
    });
}

#[test]
fn an_expiry_ends_a_wait() {
    on_every_engine(|server, counted| {
        let mut client = server.connect();
        client.put("/kv/lock?ttl=1h", b"held");
        let mut free = waiter(server, counted, "GET", "/kv/lock?wait", ABSENT, "");
        let mut next = waiter(server, counted, "PUT", "/kv/lock?wait", ABSENT, "mine");
        let begun = Instant::now();
        // Its expiry moves to an earlier time.
        assert_eq!(client.ask("POST", "/kv/lock?ttl=100ms", &[], b"").status(), 200);
        assert_eq!(next.response().status(), 201);
        assert!(begun.elapsed() >= Duration::from_millis(100));
        drop(next);
        // It was gone for a moment, which the other may have missed.
        client.call("DELETE", "/kv/lock");
        assert_eq!(free.response().status(), 404);
    });
}

#[test]
fn changes_of_many_keys_wake() {
    on_every_engine(|server, counted| {
        let mut client = server.connect();
        client.put("/kv/lock", b"held");
        let mut free = waiter(server, counted, "GET", "/kv/lock?wait", ABSENT, "");
        assert_eq!(client.call("DELETE", "/clear").status(), 200);
        assert_eq!(free.response().status(), 404);

        let mut reader = waiter(server, counted, "GET", "/kv/b{job}?wait", &[], "");
        let mut taker = waiter(server, counted, "DELETE", "/kv?take={job}:&wait", &[], "");
        let lines = "{\"key\":\"a{job}\",\"value\":\"1\"}\n\
                     {\"key\":\"b{job}\",\"value\":\"2\"}\n\
                     {\"key\":\"{job}:1\",\"value\":\"3\"}\n";
        assert_eq!(client.ask("POST", "/batch", &[], lines.as_bytes()).status(), 200);
        assert_eq!((reader.response().text(), taker.response().text()), ("2", "3"));

        let mut gone = waiter(server, counted, "GET", "/kv/a{job}?wait", ABSENT, "");
        assert_eq!(client.call("DELETE", "/kv?prefix=a").text(), "1\n");
        assert_eq!(gone.response().status(), 404);

        let mut taker = waiter(server, counted, "DELETE", "/kv?take={job}:&wait", &[], "");
        assert_eq!(client.ask("POST", "/kv?prefix={job}:", &[], b"added").status(), 201);
        assert_eq!(taker.response().text(), "added");
    });
}

#[test]
fn those_who_wait_are_served_in_their_order() {
    const WAITERS: usize = 12;
    on_every_engine(|server, counted| {
        let mut client = server.connect();
        client.put("/kv/lock", b"held");
        let mut writers: Vec<_> = (0..WAITERS)
            .map(|_| waiter(server, counted, "PUT", "/kv/lock?wait", ABSENT, "mine"))
            .collect();
        let mut takers: Vec<_> = (0..WAITERS)
            .map(|_| waiter(server, counted, "DELETE", "/kv?take={job}:&wait", &[], ""))
            .collect();
        for (number, writer) in writers.iter_mut().enumerate() {
            // At once, while all others are looking.
            assert_eq!(client.call("DELETE", "/kv/lock").status(), 200);
            let response = writer.response();
            assert_eq!(response.status(), 201, "writer {number}");
        }
        for (number, taker) in takers.iter_mut().enumerate() {
            client.put(&format!("/kv/{{job}}:{number:03}"), number.to_string().as_bytes());
            assert_eq!(taker.response().text(), number.to_string());
        }
    });
}

#[test]
fn a_lock_goes_from_one_to_the_next() {
    const CLIENTS: usize = 64;
    on_every_engine(|server, _| {
        let (holders, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
        at_once(server.addr(), CLIENTS, |_, client| {
            let response = client.ask("PUT", "/kv/lock?wait=5m", ABSENT, b"mine");
            assert_eq!(response.status(), 201);
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "another has it too");
            turns.fetch_add(1, Ordering::SeqCst);
            holders.fetch_sub(1, Ordering::SeqCst);
            assert_eq!(client.call("DELETE", "/kv/lock").status(), 200);
        });
        assert_eq!(turns.load(Ordering::SeqCst), CLIENTS);
    });
}

#[test]
fn each_job_is_for_one_worker() {
    const WORKERS: usize = 64;
    const JOBS: usize = 600;
    on_every_engine(|server, _| {
        let done = Mutex::new(Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = server.connect();
                for job in 0..JOBS {
                    let job = job.to_string();
                    let added = client.ask("POST", "/kv?prefix={job}:", &[], job.as_bytes());
                    assert_eq!(added.status(), 201);
                }
                for _ in 0..WORKERS {
                    client.ask("POST", "/kv?prefix={job}:", &[], b"stop");
                }
            });
            at_once(server.addr(), WORKERS, |_, client| {
                loop {
                    let response = client.call("DELETE", "/kv?take={job}:&wait=5m");
                    assert_eq!(response.status(), 200);
                    if response.text() == "stop" {
                        break;
                    }
                    done.lock().unwrap().push(response.text().parse::<usize>().unwrap());
                }
            });
        });
        let done = done.into_inner().unwrap();
        assert_eq!(done.len(), JOBS, "none twice");
        assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), (0..JOBS).collect());
    });
}

#[test]
fn a_client_that_leaves_gives_up_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for arguments in [&[][..], &["--working-dir", path]] {
        let process = Process::start(arguments);
        let mut client = process.connect();
        client.put("/kv/lock", b"held");
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
        let threads = || std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
        let closes = [ABSENT[0], "Connection: close"];
        let wait = |targets: &[(&str, &str, &[&str])]| {
            let wait = |(method, target, fields): &(&str, &str, &[&str])| {
                let mut waiter = process.connect();
                send(&mut waiter, method, target, fields, if *method == "PUT" { "x" } else { "" });
                waiter
            };
            targets.iter().map(wait).collect::<Vec<_>>()
        };
        let kinds: [(&str, &str, &[&str]); 4] = [
            ("PUT", "/kv/lock?wait", ABSENT),
            ("PUT", "/kv/lock?wait", &closes),
            ("DELETE", "/kv?take={job}:&wait", &[]),
            ("GET", "/kv/{job}:1?wait", &[]),
        ];
        // The first ones start threads that stay.
        let without = descriptors().count();
        drop(wait(&kinds.repeat(5)));
        assert_eq!(process.connect().get("/kv/lock").status(), 200);
        wait_until("they have left", || descriptors().count() <= without);
        let (few_descriptors, few_threads) = (descriptors().count(), threads().count());

        let gone = wait(&kinds.repeat(20));
        wait_until("they have come", || descriptors().count() >= few_descriptors + 80);
        drop(gone);
        wait_until("their descriptors are back", || descriptors().count() <= few_descriptors);
        wait_until("so are their threads", || threads().count() <= few_threads + 2);

        // Only its own side: it is answered as if its time were over.
        for (mut half, status) in wait(&kinds).into_iter().zip([412, 412, 404, 404]) {
            half.finish_sending();
            assert_eq!(half.response().status(), status);
            half.expect_closed();
        }
        let mut stays = wait(&kinds);
        client.call("DELETE", "/kv/lock");
        // The two have no order, for their requests came at once.
        wait_until("one has the lock", || client.get("/kv/lock").status() == 200);
        client.call("DELETE", "/kv/lock");
        for writer in &mut stays[..2] {
            assert_eq!(writer.response().status(), 201);
        }
        client.put("/kv/{job}:2", b"work");
        assert_eq!(stays[2].response().text(), "work");
        client.put("/kv/{job}:1", b"news");
        assert_eq!(stays[3].response().text(), "news");
        drop((client, stays));
        assert_eq!(process.stop().0, Some(0));
    }
}

#[test]
fn requests_behind_a_wait_wait_with_it() {
    on_every_engine(|server, counted| {
        let waits = counted.waits();
        let mut first = server.connect();
        let put = "PUT /kv/after HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
        first.send([get_head("/kv/a?wait").as_bytes(), put.as_bytes()].concat());
        wait_for_waits(server, counted, waits + 1);
        let mut client = server.connect();
        assert_eq!(client.get("/kv/after").status(), 404);
        client.put("/kv/a", b"came");
        assert_eq!(first.response().text(), "came");
        assert_eq!(first.response().status(), 200);
        assert_eq!(client.get("/kv/after").text(), "x");
    });
}

#[test]
fn a_look_that_fails_or_panics_is_answered() {
    let counted = Counted::over(engines::memory());
    let server = Fixture::over(Arc::<Counted>::clone(&counted));
    let mut client = server.connect();
    for (fault, status) in [(&counted.fails, 503), (&counted.panics, 500)] {
        client.call("DELETE", "/clear");
        let mut reader = waiter(&server, &counted, "GET", "/kv/a?wait", &[], "");
        let mut taker = waiter(&server, &counted, "DELETE", "/kv?take=a&wait", &[], "");
        fault.store(true, Ordering::SeqCst);
        client.put("/kv/a", b"x");
        assert_eq!((reader.response().status(), taker.response().status()), (status, status));
        fault.store(false, Ordering::SeqCst);
        assert_eq!(reader.get("/kv/a").text(), "x", "its connection goes on");
    }
}

#[test]
fn a_waiting_write_has_a_small_body() {
    let server = Fixture::start();
    let mut client = server.connect();
    let (fits, longer) = (vec![b'x'; 64 << 10], vec![b'x'; (64 << 10) + 1]);
    assert_eq!(client.ask("PUT", "/kv/a?wait=1s", ABSENT, &fits).status(), 201);
    assert_eq!(client.ask("PUT", "/kv/b?wait=1s", ABSENT, &longer).status(), 413);
    let mut client = server.connect();
    let head = "PUT /kv/b?wait=1s HTTP/1.1\r\nHost: test\r\nIf-None-Match: *\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}{:x}\r\n", longer.len()));
    client.send([&longer[..], b"\r\n0\r\n\r\n"].concat());
    assert_eq!(client.response().status(), 413);
    assert_eq!(server.connect().get("/kv/b").status(), 404);
}

#[test]
fn all_waits_end_with_the_server() {
    const WAITERS: usize = 400;
    on_every_engine_owned(|server, counted| {
        server.connect().put("/kv/lock", b"held");
        let waits = counted.waits();
        let mut waiters: Vec<_> = (0..WAITERS)
            .map(|number| {
                let mut waiter = server.connect();
                match number % 3 {
                    0 => send(&mut waiter, "GET", &format!("/kv/a{number}?wait=10m"), &[], ""),
                    1 => send(&mut waiter, "PUT", "/kv/lock?wait=10m", ABSENT, "x"),
                    _ => send(&mut waiter, "DELETE", "/kv?take={job}:&wait=10m", &[], ""),
                }
                waiter
            })
            .collect();
        wait_for_waits(&server, &counted, waits + WAITERS);
        let stopping = thread::spawn(|| server.stop());
        for (number, waiter) in waiters.iter_mut().enumerate() {
            let status = waiter.response().status();
            assert_eq!(status, if number % 3 == 1 { 412 } else { 404 }, "waiter {number}");
        }
        stopping.join().expect("it stops");
    });
}

#[test]
fn a_signal_ends_a_wait_and_the_process() {
    let process = Process::start(&[]);
    let mut waiter = process.connect();
    send(&mut waiter, "GET", "/kv/absent?wait=10m", &[], "");
    let tasks = format!("/proc/{}/task", process.id());
    let has_thread = || {
        let tasks = std::fs::read_dir(&tasks).expect("it runs").flatten();
        let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")));
        names.into_iter().flatten().any(|name| name.trim_end() == "waiters")
    };
    wait_until("somebody waits", has_thread);
    process.signal("INT");
    assert_eq!(waiter.response().status(), 404);
    assert_eq!(process.end().0, Some(0));
}
