//! Messages to a service manager: a store that is started by one tells it when it
//! listens and when it stops, and does both as well where nobody hears.

#![cfg(unix)]

use crate::support::http::PATIENCE;
use crate::support::place::{Place, ends_well};
use crate::support::process::{Process, command, output};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

/// The socket of a service manager.
fn listening(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

/// The next message, which has to come soon.
#[track_caller]
fn heard(manager: &UnixDatagram) -> String {
    let mut message = vec![0; 100];
    let length = manager.recv(&mut message).expect("a message");
    message.truncate(length);
    String::from_utf8(message).expect("text")
}

/// Nothing has come.
#[track_caller]
fn heard_nothing(manager: &UnixDatagram) {
    manager.set_nonblocking(true).expect("a socket");
    let err = manager.recv(&mut [0; 100]).expect_err("no message");
    assert_eq!(err.kind(), io::ErrorKind::WouldBlock);
    manager.set_nonblocking(false).expect("a socket");
}

/// The program with these arguments and a service manager at `socket`.
fn managed(socket: &str, arguments: &[&str]) -> Command {
    let mut managed = command(&[&["--port", "0"], arguments].concat());
    managed.env("NOTIFY_SOCKET", socket);
    managed
}

#[test]
fn it_tells_that_it_listens_and_that_it_stops() {
    let place = Place::new();
    let path = place.directory.path().join("notify");
    let manager = listening(&path);
    for signal in ["TERM", "INT", "HUP"] {
        let mut process = Process::run(managed(&path.display().to_string(), &[]));
        assert_eq!(heard(&manager), "READY=1");
        let mut upload = process.connect();
        upload.begin_upload("/kv/late", 3);
        heard_nothing(&manager);
        process.signal(signal);
        assert_eq!(heard(&manager), "STOPPING=1", "SIG{signal}");
        // So it was told at once, and not at the end.
        assert!(process.runs());
        upload.send("end");
        assert_eq!(upload.response().status(), 200);
        process.end();
        heard_nothing(&manager);
    }
}

#[test]
fn it_tells_nothing_before_it_listens() {
    let place = Place::new();
    let path = place.directory.path().join("notify");
    let manager = listening(&path);
    let socket = path.display().to_string();

    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("a bound socket").port().to_string();
    assert_eq!(output(managed(&socket, &["--port", &port])).status.code(), Some(1));
    heard_nothing(&manager);
}

#[test]
#[cfg(target_os = "linux")]
fn a_socket_may_have_an_abstract_name() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;

    let name = format!("little-key-value-{}", std::process::id());
    let addr = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&addr).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let process = Process::run(managed(&format!("@{name}"), &[]));
    assert_eq!(heard(&manager), "READY=1");
    ends_well(process);
    assert_eq!(heard(&manager), "STOPPING=1");
}

#[test]
fn a_manager_that_does_not_hear_holds_nothing_up() {
    let place = Place::new();
    let path = place.directory.path().join("notify");
    let deaf = listening(&path);
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("a socket");
    while sender.send_to(b"STATUS=", &path).is_ok() {}

    let absent = place.directory.path().join("absent");
    let paths = [&path, &absent, place.directory.path()].map(|path| path.display().to_string());
    let names = ["vsock:2:1", "@", &"/".repeat(1000), ""].map(str::to_owned);
    for socket in paths.into_iter().chain(names) {
        let process = Process::run(managed(&socket, &[]));
        assert_eq!(process.connect().put("/kv/key", b"value").status(), 200, "{socket}");
        let (code, log) = process.stop();
        assert_eq!(code, Some(0), "{socket}: {log}");
        for state in ["READY=1", "STOPPING=1"] {
            let warned = log.contains(&format!("cannot send {state} to the service manager"));
            assert_eq!(warned, !socket.is_empty(), "{socket}: {log}");
        }
    }
    drop(deaf);
}
