//! The program as a process: arguments, environment, exit codes and signals.

#![cfg(unix)]

use crate::support::http::{Connection, get_head, put_head, wait_until};
use crate::support::process::{Process, command, output};
use crate::support::server::accepts;
use crate::support::wrappers::under;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Runs the program to its end: its exit code, what it printed and what it
/// complained about.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    ended(command(arguments))
}

fn ended(command: Command) -> (Option<i32>, String, String) {
    let output = output(command);
    let [stdout, stderr] = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).expect("the program writes text"));
    (output.status.code(), stdout, stderr)
}

/// Asserts that a complaint is one line that a person can use.
#[track_caller]
fn assert_one_line(complaint: &str, mentioned: &str) {
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains(mentioned), "{mentioned:?} is not in {complaint}");
    for noise in ["panicked", "backtrace", "Os {", "Err("] {
        assert!(!complaint.contains(noise), "{complaint}");
    }
}

#[test]
fn two_lines_tell_that_it_runs_and_where() {
    let process = Process::start(&["--workers", "3"]);
    assert_eq!(process.greeting[0], "Starting Little Key-Value Store...");
    let second = process.greeting[1].clone();
    assert!(second.contains(&format!("http://{}", process.addr())), "{second}");
    assert!(second.contains("memory"), "{second}");
    assert!(second.contains('3') && second.contains("worker"), "{second}");
    assert_eq!(process.connect().get("/healthz").text(), "ok\n");
    // This also asserts that there is no third line.
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn each_signal_to_stop_has_its_exit_code() {
    for (signal, code) in [("TERM", 0), ("INT", 0), ("HUP", 129)] {
        let process = Process::start(&[]);
        process.signal(signal);
        assert_eq!(process.end().0, Some(code), "SIG{signal}");
    }
}

/// The program with one signal ignored, as `nohup` starts it.
fn ignoring(signal: &str) -> Process {
    let script = format!("trap '' {signal} && exec \"$@\"");
    Process::run(under(&["sh", "-c", &script, "sh"], None, &[]))
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    for (ignored, other, code) in [("HUP", "TERM", 0), ("INT", "HUP", 129), ("TERM", "INT", 0)] {
        let mut process = ignoring(ignored);
        for _ in 0..3 {
            process.signal(ignored);
            assert_eq!(process.connect().get("/healthz").status(), 200, "SIG{ignored}");
        }
        assert!(process.runs(), "SIG{ignored}");
        process.signal(other);
        let (ended, log) = process.end();
        assert_eq!(ended, Some(code), "SIG{other}, with SIG{ignored} ignored");
        assert!(!log.contains(&format!("SIG{ignored}")), "{log}");
    }
}

/// A terminal that is closed sends more than one.
#[test]
fn a_hangup_is_never_the_second_signal() {
    for (signals, code) in
        [(["HUP", "HUP"], 129), (["HUP", "TERM"], 0), (["TERM", "HUP"], 0), (["INT", "HUP"], 0)]
    {
        let mut process = Process::start(&["--shutdown-timeout", "1h"]);
        let addr = process.addr();
        let mut upload = process.connect();
        upload.begin_upload("/kv/late", 100_000);
        process.signal(signals[0]);
        wait_until("it stops listening", || !accepts(addr));
        process.signal(signals[1]);
        assert!(process.runs(), "{signals:?}");
        upload.send(vec![b'x'; 100_000]);
        assert_eq!(upload.response().status(), 200, "{signals:?}");
        assert_eq!(process.end().0, Some(code), "{signals:?}");
    }
}

#[test]
fn silent_and_idle_connections_do_not_hold_the_exit() {
    let process = Process::start(&["--shutdown-timeout", "1h", "--idle-timeout", "1h"]);
    let silent: Vec<Connection> = (0..10).map(|_| process.connect()).collect();
    let mut idle: Vec<Connection> = (0..10).map(|_| process.connect()).collect();
    for connection in &mut idle {
        assert_eq!(connection.get("/healthz").status(), 200);
    }
    assert_eq!(process.stop().0, Some(0));
    for connection in silent.into_iter().chain(idle) {
        connection.expect_closed();
    }
}

#[test]
fn a_request_that_was_taken_is_answered_before_the_end() {
    let process = Process::start(&["--shutdown-timeout", "1h"]);
    let addr = process.addr();
    let mut upload = process.connect();
    upload.begin_upload("/kv/late", 100_000);
    upload.send([b'x'; 3]);
    process.signal("TERM");
    wait_until("it stops listening", || !accepts(addr));
    upload.send(vec![b'x'; 99_997]);
    let answer = upload.response();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("Connection"), Some("close"));
    upload.expect_closed();
    assert_eq!(process.end().0, Some(0));
}

/// A container may be paused, or a virtual machine moved.
#[test]
fn what_came_while_the_process_stood_still_is_answered() {
    let process = Process::start(&["--idle-timeout", "8s", "--request-timeout", "8s"]);
    let open = |index: usize| {
        let mut connection = process.connect();
        assert_eq!(connection.get("/healthz").status(), 200);
        if index.is_multiple_of(2) {
            connection.send(put_head("/kv/half", 10));
            connection.send("begun");
        }
        connection
    };
    let mut connections: Vec<Connection> = (0..40).map(open).collect();
    process.signal("STOP");
    for (index, connection) in connections.iter_mut().enumerate() {
        if index.is_multiple_of(2) {
            connection.send("ended");
        } else {
            connection.send(get_head("/healthz"));
        }
    }
    thread::sleep(Duration::from_secs(9));
    process.signal("CONT");
    for connection in &mut connections {
        assert_eq!(connection.response().status(), 200);
    }
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn a_stuck_client_does_not_hold_the_exit_past_the_timeout() {
    let process = Process::start(&["--shutdown-timeout", "300ms"]);
    let mut reader = process.connect();
    assert_eq!(reader.put("/kv/large", &vec![b'x'; 10 << 20]).status(), 200);
    let mut writer = process.connect();
    writer.begin_upload("/kv/stuck", 100_000);
    // The answer does not fit the sockets' buffers, and nobody reads it.
    reader.send(get_head("/kv/large"));
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("left behind"), "{log}");
    drop((reader, writer));
}

#[test]
fn a_second_signal_ends_it_at_once_with_1() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&["--shutdown-timeout", "1h"]);
        let addr = process.addr();
        let mut upload = process.connect();
        upload.begin_upload("/kv/stuck", 100_000);
        process.signal(signal);
        wait_until("it stops listening", || !accepts(addr));
        assert!(process.runs());
        process.signal(signal);
        assert_eq!(process.end().0, Some(1), "SIG{signal}");
        drop(upload);
    }
}

#[test]
fn under_load_it_ends_with_0_and_every_answer_is_whole() {
    let process = Process::start(&["--shutdown-timeout", "1h"]);
    thread::scope(|scope| {
        let _killed = process.killed_by_a_panic();
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let mut connection = process.connect();
                scope.spawn(move || {
                    let value = vec![b'x'; 1 + client * 1000];
                    let mut answers = 0;
                    loop {
                        let mut request = put_head("/kv/key", value.len()).into_bytes();
                        request.extend_from_slice(&value);
                        if connection.try_send(request).is_err() {
                            return answers;
                        }
                        match connection.try_response_to("PUT") {
                            Ok(answer) => assert_eq!(answer.status(), 200),
                            Err(_) if connection.is_at_an_answers_start() => return answers,
                            Err(err) => panic!("part of an answer, then {err}"),
                        }
                        answers += 1;
                    }
                })
            })
            .collect();
        let mut watcher = process.connect();
        wait_until("somebody has written", || watcher.get("/kv/key").status() == 200);
        process.signal("TERM");
        let answers = clients.into_iter().map(|client| client.join().expect("whole answers"));
        assert!(answers.sum::<i32>() > 0);
    });
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn the_port_of_the_last_run_can_be_had_again_at_once() {
    // An address of its own, so that no other test gets the port in between.
    let host = if cfg!(target_os = "linux") { "127.0.0.77" } else { "127.0.0.1" };
    let first = Process::start(&["--host", host]);
    let port = first.addr().port().to_string();
    let mut connection = first.connect();
    connection.send("GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(connection.response().status(), 200);
    // The server has closed first, so its side of this goes to TIME_WAIT.
    connection.expect_closed();
    let open = first.connect();
    assert_eq!(first.stop().0, Some(0));

    let second = Process::run(command(&["--host", host, "--port", &port]));
    assert_eq!(second.connect().get("/healthz").status(), 200);
    drop(open);
}

#[test]
fn a_port_in_use_is_one_line_and_1() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = other.local_addr().expect("a bound socket").to_string();
    let (code, stdout, stderr) = run(&["--port", addr.rsplit(':').next().unwrap_or_default()]);
    assert_eq!(code, Some(1));
    assert_one_line(&stderr, &addr);
    assert!(stderr.to_lowercase().contains("in use"), "{stderr}");
    assert!(!stdout.contains("http://"), "{stdout}");

    let process = Process::start(&[]);
    let port = process.addr().port().to_string();
    assert_eq!(run(&["--port", &port]).0, Some(1));
    assert_eq!(process.connect().get("/healthz").status(), 200);
}

#[test]
fn an_address_that_is_not_ours_is_one_line_and_1() {
    // Set aside for documentation (RFC 5737).
    let (code, _, stderr) = run(&["--host", "192.0.2.1", "--port", "0", "--no-auth"]);
    assert_eq!(code, Some(1));
    assert_one_line(&stderr, "192.0.2.1");
}

#[test]
fn bad_usage_is_one_line_and_2() {
    let table: [(&[&str], &str); 32] = [
        (&["--prot", "9000"], "--prot"),
        (&["--cluster"], "--cluster"),
        (&["--cluster", "a:b"], "a:b"),
        (&["--cluster", "a", "--working-dir", "dir"], "--working-dir"),
        (&["--max-memory", "1GiB", "--cluster", "a"], "--max-memory"),
        (&["--cluster-wait", "1"], "--cluster"),
        (&["--cluster", "a", "--cluster-wait", "all"], "all"),
        (&["--cluster-clear"], "--cluster"),
        (&["--port", "65536"], "65536"),
        (&["--port", "abc"], "abc"),
        (&["--port=-1"], "-1"),
        (&["--port"], "--port"),
        (&["--workers", "0"], "--workers"),
        (&["--leaders", "0"], "--leaders"),
        (&["--max-value-size", "10 apples"], "10 apples"),
        (&["--max-memory", "0"], "--max-memory"),
        (&["--when-full", "perhaps"], "refuse, evict"),
        (&["--max-disk", "1GiB"], "--working-dir"),
        (&["--max-disk", "1MiB", "--working-dir", "dir"], "16MiB"),
        (&["--max-disk", "1GiB", "--cluster", "a"], "--cluster"),
        (&["--when-full", "evict"], "--max-memory"),
        (&["--when-full", "evict", "--working-dir", "dir"], "--max-disk"),
        (&["--when-full", "evict", "--cluster", "a"], "--cluster"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--idle-timeout", "soon"], "soon"),
        (&["--request-timeout", "0s"], "--request-timeout"),
        (&["--shutdown-timeout=-5s"], "-5s"),
        (&["--log-level", "loud"], "loud"),
        (&["--log-format", "xml"], "xml"),
        (&["--cors-origin", "app.example.com"], "app.example.com"),
        (&["--no-auth=perhaps"], "perhaps"),
        (&["9000"], "9000"),
    ];
    for (arguments, mentioned) in table {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert_one_line(&stderr, mentioned);
    }
}

#[test]
fn help_tells_every_flag_its_variable_and_its_default() {
    let (code, stdout, stderr) = run(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let flags = [
        ("--host", "LKV_HOST", "127.0.0.1"),
        ("--port", "LKV_PORT", "8888"),
        ("--allow-host", "LKV_ALLOW_HOST", ""),
        ("--token-file", "LKV_TOKEN_FILE", ""),
        ("--no-auth", "LKV_NO_AUTH", ""),
        ("--cors-origin", "LKV_CORS_ORIGIN", ""),
        ("--workers", "LKV_WORKERS", ""),
        ("--leaders", "LKV_LEADERS", ""),
        ("--working-dir", "LKV_WORKING_DIR", ""),
        ("--wait-for-lock", "LKV_WAIT_FOR_LOCK", ""),
        ("--cluster", "LKV_CLUSTER", ""),
        ("--cluster-wait", "LKV_CLUSTER_WAIT", "0"),
        ("--cluster-clear", "LKV_CLUSTER_CLEAR", ""),
        ("--cluster-password-file", "LKV_CLUSTER_PASSWORD_FILE", ""),
        ("--port-file", "LKV_PORT_FILE", ""),
        ("--max-value-size", "LKV_MAX_VALUE_SIZE", "10MiB"),
        ("--max-memory", "LKV_MAX_MEMORY", ""),
        ("--max-disk", "LKV_MAX_DISK", ""),
        ("--when-full", "LKV_WHEN_FULL", "refuse"),
        ("--max-connections", "LKV_MAX_CONNECTIONS", ""),
        ("--idle-timeout", "LKV_IDLE_TIMEOUT", "60s"),
        ("--request-timeout", "LKV_REQUEST_TIMEOUT", "30s"),
        ("--shutdown-timeout", "LKV_SHUTDOWN_TIMEOUT", "10s"),
        ("--log-level", "LKV_LOG_LEVEL", "info"),
        ("--log-format", "LKV_LOG_FORMAT", "text"),
        ("--access-log", "LKV_ACCESS_LOG", ""),
    ];
    assert!(stdout.contains("129 after SIGHUP"), "{stdout}");
    for (flag, variable, default) in flags {
        for text in [flag, variable, default] {
            assert!(stdout.to_lowercase().contains(&text.to_lowercase()), "{text} in {stdout}");
        }
    }
}

#[test]
fn a_flag_takes_its_value_after_a_space_or_an_equals_sign() {
    for arguments in [
        ["--max-value-size=5", "--log-format=JSON"].as_slice(),
        &["--max-value-size", "5", "--log-format", "text"],
    ] {
        let process = Process::start(arguments);
        let mut connection = process.connect();
        assert_eq!(connection.put("/kv/five", b"12345").status(), 200);
        assert_eq!(connection.put("/kv/six", b"123456").status(), 413);
    }
}

#[test]
fn the_environment_stands_in_for_flags() {
    let mut environment = command(&[]);
    environment.env("LKV_PORT", "0").env("LKV_MAX_VALUE_SIZE", "5").env("LKV_WORKERS", "1");
    environment.env("LKV_LOG_LEVEL", "debug").env("LKV_MAX_MEMORY", "1MiB");
    environment.env("LKV_SHUTDOWN_TIMEOUT", "2h").env("LKV_IDLE_TIMEOUT", "1h");
    let process = Process::run(environment);
    let mut connection = process.connect();
    assert_eq!(connection.put("/kv/five", b"12345").status(), 200);
    assert_eq!(connection.put("/kv/six", b"123456").status(), 413);
    process.wait_for_log("/kv/six");
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let mut empty = command(&["--port", "0"]);
    let flags = ["HOST", "PORT", "WORKING_DIR", "WORKERS", "MAX_VALUE_SIZE", "MAX_MEMORY"];
    let more = [
        "MAX_DISK",
        "WHEN_FULL",
        "WAIT_FOR_LOCK",
        "MAX_CONNECTIONS",
        "IDLE_TIMEOUT",
        "REQUEST_TIMEOUT",
        "SHUTDOWN_TIMEOUT",
    ];
    for flag in
        flags.iter().chain(&more).chain(&["LOG_LEVEL", "LOG_FORMAT", "ACCESS_LOG", "PORT_FILE"])
    {
        empty.env(format!("LKV_{flag}"), "");
    }
    let process = Process::run(empty);
    assert!(process.greeting[1].contains("engine: memory"), "{:?}", process.greeting);
    let (code, log) = process.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn what_a_link_to_a_service_sets_is_ignored() {
    let url = "tcp://10.96.0.12:8888";
    let mut linked = command(&[]);
    // Nobody can listen there (RFC 5737), so it is told where that was tried.
    linked
        .env("LKV_NO_AUTH", "1")
        .env("LKV_HOST", "192.0.2.1")
        .env("LKV_PORT", url)
        .env("LKV_PORT_8888_TCP", url);
    linked.env("LKV_SERVICE_HOST", "10.96.0.12").env("LKV_PROT", "9000");
    let (code, _, stderr) = ended(linked);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("cannot listen on 192.0.2.1:8888"), "{stderr}");
    let warnings: Vec<_> = stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 2, "{stderr}");
    let of_links = "lkv, and no flags: LKV_PORT, LKV_PORT_8888_TCP, LKV_SERVICE_HOST";
    assert!(warnings[0].ends_with(of_links), "{stderr}");
    assert!(warnings[1].ends_with("flag: LKV_PROT"), "{stderr}");

    for (variable, value) in [("LKV_PORT", "http://10.96.0.12:8888"), ("LKV_HOST", url)] {
        let mut bad = command(&[]);
        bad.env("LKV_PORT", "0").env(variable, value);
        let (code, _, stderr) = ended(bad);
        assert!(matches!(code, Some(1 | 2)), "{variable}={value}: {stderr}");
        assert_one_line(&stderr, value);
    }
}

#[test]
fn a_flag_goes_before_the_environment() {
    let mut both = command(&["--port", "0", "--max-value-size", "6"]);
    both.env("LKV_PORT", "1").env("LKV_MAX_VALUE_SIZE", "5");
    let process = Process::run(both);
    assert_eq!(process.connect().put("/kv/six", b"123456").status(), 200);
}

#[test]
fn a_bad_value_in_the_environment_is_bad_usage() {
    for (variable, value) in [
        ("LKV_PORT", "abc"),
        ("LKV_MAX_MEMORY", "lots"),
        ("LKV_WHEN_FULL", "perhaps"),
        ("LKV_WORKERS", "0"),
        ("LKV_LEADERS", "some"),
    ] {
        let mut bad = command(&[]);
        bad.env(variable, value);
        let (code, stdout, stderr) = ended(bad);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{variable}");
        assert_one_line(&stderr, value);
    }
}

#[test]
fn a_value_up_to_the_limit_is_taken_and_a_longer_one_is_413() {
    let process = Process::start(&["--max-value-size", "2KiB"]);
    assert_eq!(process.connect().put("/kv/key", &[b'x'; 2048]).status(), 200);
    let mut connection = process.connect();
    let refused = connection.put("/kv/key", &[b'y'; 2049]);
    assert_eq!((refused.status(), refused.text()), (413, "value is too large\n"));
    assert_eq!(process.connect().get("/kv/key").body, [b'x'; 2048]);
}

#[test]
fn a_full_store_refuses_with_507_and_keeps_what_it_has() {
    const VALUE: [u8; 10_000] = [b'x'; 10_000];
    let process = Process::start(&["--max-memory", "1MiB"]);
    let mut connection = process.connect();
    let mut put = |index: usize| connection.put(&format!("/kv/{index}"), &VALUE).status();
    let fitted = (0..200).take_while(|index| put(*index) == 200).count();
    assert!((80..105).contains(&fitted), "{fitted} values of 10 kB in 1 MiB");

    // Larger than the last one, which may have been refused for its table.
    let refused = connection.put("/kv/more", &VALUE.repeat(2));
    assert_eq!((refused.status(), refused.text()), (507, "storage is full\n"));
    assert_eq!(connection.get("/kv/more").status(), 404);
    for index in 0..fitted {
        assert_eq!(connection.get(&format!("/kv/{index}")).body, VALUE);
    }
    assert_eq!(connection.put("/kv/0", &VALUE).status(), 200);
    assert_eq!(connection.call("DELETE", "/kv/1").status(), 200);
    assert_eq!(connection.put("/kv/more", &VALUE[..9000]).status(), 200);
    assert_eq!(connection.call("DELETE", "/clear").status(), 200);
    assert_eq!(connection.put("/kv/1", &VALUE).status(), 200);
}

#[test]
fn an_ipv6_address_works() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no ::1");
        assert!(std::env::var_os("CI").is_none(), "CI has to have ::1");
        return;
    }
    for host in ["::1", "[::1]"] {
        let process = Process::start(&["--host", host]);
        assert!(process.greeting[1].contains("http://[::1]:"), "{:?}", process.greeting);
        let mut connection = process.connect();
        assert_eq!(connection.put("/kv/kenya:capital", b"Nairobi").status(), 200);
        assert_eq!(connection.get("/kv/kenya:capital").text(), "Nairobi");
        assert_eq!(process.stop().0, Some(0));
    }
}

#[test]
fn an_address_that_others_can_reach_is_warned_of() {
    for (host, warned) in [("0.0.0.0", true), ("127.0.0.1", false)] {
        let process = Process::start(&["--host", host, "--no-auth"]);
        let (code, log) = process.stop();
        assert_eq!(code, Some(0));
        assert_eq!(log.contains("WARN") && log.contains("authentication"), warned, "{log}");
    }
}

/// The statuses that calls by these names have.
fn statuses_of_hosts<const N: usize>(process: &Process, hosts: [&str; N]) -> [u16; N] {
    let mut connection = process.connect();
    hosts.map(|host| {
        connection.send(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        connection.response().status()
    })
}

#[test]
fn a_name_with_a_dot_has_to_be_allowed_on_a_loopback_address() {
    let hosts =
        ["localhost:1", "127.0.0.1", "store", "a.test:80", "b.test", "c.b.test", "evil.test"];
    let process = Process::start(&[]);
    assert_eq!(statuses_of_hosts(&process, hosts), [200, 200, 200, 403, 403, 403, 403]);

    let process = Process::start(&["--allow-host", "a.test", "--allow-host=.b.test"]);
    assert_eq!(statuses_of_hosts(&process, hosts), [200, 200, 200, 200, 200, 200, 403]);

    for names in ["a.test,.b.test", "a.test .b.test", ""] {
        let mut environment = command(&["--port", "0"]);
        environment.env("LKV_ALLOW_HOST", names);
        let status = if names.is_empty() { 403 } else { 200 };
        let process = Process::run(environment);
        let statuses = statuses_of_hosts(&process, hosts);
        assert_eq!(statuses, [200, 200, 200, status, status, status, 403], "{names:?}");
    }

    let process = Process::start(&["--allow-host", "*"]);
    assert_eq!(statuses_of_hosts(&process, hosts), [200; 7]);
}

#[test]
fn where_others_reach_it_a_store_is_called_by_any_name() {
    let process = Process::start(&["--host", "0.0.0.0", "--no-auth", "--allow-host", "a.test"]);
    assert_eq!(statuses_of_hosts(&process, ["evil.test", "a.test", "store"]), [200; 3]);
    let (_, log) = process.stop();
    assert!(log.contains("--allow-host means nothing here"), "{log}");
}

#[test]
fn debug_logs_each_request_and_info_does_not() {
    for (level, logged) in [("debug", true), ("info", false)] {
        let process = Process::start(&["--log-level", level]);
        let mut connection = process.connect();
        assert_eq!(connection.put("/kv/kenya:capital", b"Nairobi").status(), 200);
        assert_eq!(connection.get("/kv/kenya:capital").status(), 200);
        assert_eq!(connection.get("/kv/absent").status(), 404);
        let (_, log) = process.stop();
        for line in
            ["PUT /kv/kenya:capital 200 0", "GET /kv/kenya:capital 200 7", "GET /kv/absent 404 14"]
        {
            let line = log.lines().find(|logged| logged.contains(line));
            assert_eq!(line.is_some(), logged, "{level}: {log}");
            assert!(line.is_none_or(|line| line.contains("us")), "{level}: {log}");
        }
        assert!(!log.contains("Nairobi"), "values are nobody's business: {log}");
    }
}

#[test]
fn at_its_end_it_logs_a_line_for_each_method() {
    let process = Process::start(&[]);
    let mut connection = process.connect();
    for target in ["/kv/absent", "/healthz", "/healthz"] {
        connection.get(target);
    }
    connection.put("/kv/a", b"x");
    connection.put("/kv/", b"x");
    let (_, log) = process.stop();
    let lines_with = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines_with("GET: 3 requests (200: 2, 404: 1), mean "), 1, "{log}");
    assert_eq!(lines_with("PUT: 2 requests (200: 1, 400: 1), mean "), 1, "{log}");
    assert_eq!(lines_with("DELETE: "), 0, "{log}");
    assert_eq!(lines_with(" us, highest "), 2, "{log}");
}

#[test]
fn an_idle_run_logs_nothing_to_worry_about() {
    let process = Process::start(&[]);
    let (_, log) = process.stop();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}
