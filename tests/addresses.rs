//! A server with several addresses, as a name such as `localhost` has them: it
//! is one server, with one cap and one end.

#![cfg(all(target_os = "linux", not(portable)))]

use crate::support::engines;
use crate::support::http::{Connection, put_head, wait_until};
use crate::support::server::{Fixture, accepts};
use little_key_value::api::Api;
use little_key_value::server::{Config, Server};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::thread;

/// Addresses of this machine, with this port.
fn own_addrs(port: u16) -> Vec<SocketAddr> {
    let addrs = ["127.0.0.1", "127.0.0.2", "::1"].map(|ip| ip.parse().expect("an address"));
    let addrs = addrs.into_iter().map(|ip| SocketAddr::new(ip, port));
    // Not every machine has IPv6.
    addrs.filter(|addr| TcpListener::bind((addr.ip(), 0)).is_ok()).collect()
}

/// An address that no machine has (RFC 5737), with this port.
fn absent_addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn start(addrs: &[SocketAddr], connections_max: Option<usize>) -> std::io::Result<Server> {
    let config = Config { addrs: addrs.to_vec(), connections_max, ..Fixture::config() };
    Server::start(&config, |_addrs| Api::new(engines::memory(), 1 << 20))
}

/// A server on every address of this machine that is known here.
fn start_on_all(connections_max: Option<usize>) -> Server {
    start(&own_addrs(0), connections_max).expect("a free port")
}

#[test]
fn clients_of_every_address_are_served_by_one_server() {
    let server = start_on_all(None);
    let addrs = server.local_addrs();
    assert_eq!(addrs.len(), own_addrs(0).len());
    let ports: HashSet<u16> = addrs.iter().map(SocketAddr::port).collect();
    assert_eq!(ports.len(), 1, "{addrs:?}");
    for round in 0..20 {
        let mut clients: Vec<Connection> = addrs.iter().copied().map(Connection::open).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            let value = format!("{round} of {index}");
            assert_eq!(client.put("/kv/key", value.as_bytes()).status(), 200);
            for addr in addrs {
                assert_eq!(Connection::open(*addr).get("/kv/key").text(), value);
            }
        }
    }
    server.stop();
}

/// Else the checks for loopback addresses would be off, or on, by mistake.
#[test]
fn the_api_is_for_the_addresses_that_are_listened_on() {
    let (mut asked, mut told) = (own_addrs(0), Vec::new());
    asked.push(absent_addr(0));
    let config = Config { addrs: asked.clone(), ..Fixture::config() };
    let server = Server::start(&config, |addrs| {
        told = addrs.to_vec();
        Api::new(engines::memory(), 1 << 20)
    });
    let server = server.expect("a free port");
    assert_eq!((told.as_slice(), told.len()), (server.local_addrs(), asked.len() - 1));
    server.stop();
}

#[test]
fn a_burst_on_every_address_is_served_as_a_whole() {
    let server = start_on_all(None);
    let addrs = server.local_addrs();
    for _ in 0..3 {
        let mut clients: Vec<_> =
            addrs.iter().cycle().take(300).copied().map(Connection::open).collect();
        for client in &mut clients {
            client.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().status(), 200);
        }
    }
    server.stop();
}

#[test]
fn the_cap_counts_connections_of_all_addresses() {
    const CAP: usize = 8;
    let server = start_on_all(Some(CAP));
    let mut addrs = server.local_addrs().iter().cycle().copied();
    let upload = |addr| {
        let mut upload = Connection::open(addr);
        let head = put_head("/kv/key", 5000);
        upload.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
        // From then on it is at work.
        assert_eq!(upload.response().status(), 100);
        upload
    };
    let mut uploads: Vec<_> = addrs.by_ref().take(CAP).map(upload).collect();
    for addr in addrs.take(CAP) {
        let mut newest = Connection::open(addr);
        assert_eq!(newest.response().status(), 503, "{addr}");
        newest.expect_closed();
    }
    for upload in &mut uploads {
        upload.send([b'x'; 5000]);
        assert_eq!(upload.response().status(), 200);
    }
    drop(uploads);
    server.stop();
}

#[test]
fn a_server_that_stops_answers_and_closes_on_every_address() {
    let server = start_on_all(None);
    let addrs = server.local_addrs().to_vec();
    let mut at_work: Vec<_> = addrs.iter().copied().map(Connection::open).collect();
    for client in &mut at_work {
        client.begin_upload("/kv/key", 2000);
        client.send([b'x'; 1000]);
    }
    let mut idle: Vec<_> = addrs.iter().copied().map(Connection::open).collect();
    for client in &mut idle {
        assert_eq!(client.get("/healthz").status(), 200);
    }
    thread::scope(|scope| {
        scope.spawn(|| server.stop());
        wait_until("nobody accepts any more", || !addrs.iter().any(|addr| accepts(*addr)));
        for client in &mut at_work {
            client.send([b'x'; 1000]);
            assert_eq!(client.response().status(), 200);
        }
        at_work.into_iter().chain(idle).for_each(Connection::expect_closed);
    });
}

#[test]
fn an_address_that_the_machine_does_not_have_is_left_out() {
    let own = own_addrs(0);
    for addrs in [[absent_addr(0), own[0]], [own[0], absent_addr(0)]] {
        let server = start(&addrs, None).expect("one of them can be had");
        let [addr] = server.local_addrs() else { panic!("{:?}", server.local_addrs()) };
        assert_eq!(Connection::open(*addr).get("/healthz").status(), 200);
        server.stop();
    }
    let none = start(&[absent_addr(8888)], None).err().expect("nothing is left");
    assert!(none.to_string().contains("cannot listen on 192.0.2.1:8888"), "{none}");
}

#[test]
fn a_port_that_is_taken_on_one_address_fails_the_start() {
    let own = own_addrs(0);
    // A port that no other test has on the first address.
    let first = TcpListener::bind(own[0]).expect("a free port");
    let port = first.local_addr().expect("an address").port();
    let addrs = own_addrs(port);
    let other = TcpListener::bind(addrs[1]).expect("nobody else is there");
    drop(first);
    let taken = start(&addrs, None).err().expect("a port is one program's");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    assert!(taken.to_string().contains(&addrs[1].to_string()), "{taken}");
    // Nothing of it is left.
    assert!(!accepts(addrs[0]));
    drop(other);
    // The last connection to the port may not be over at once.
    wait_until("it can be had", || start(&addrs, None).map(Server::stop).is_ok());
}
