//! A server in the test's own process.

use super::engines;
use super::http::{Connection, PATIENCE, holds_within};
use little_key_value::api::{Access, Api, Hosts};
use little_key_value::server::{Config, Server};
use little_key_value::storage::Storage;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

/// The longest value that the fixture takes, in bytes.
pub const VALUE_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// A running server. It stops when it is dropped, and has to.
pub struct Fixture {
    server: Option<Server>,
    addr: SocketAddr,
}

impl Fixture {
    /// A server in front of an empty memory.
    pub fn start() -> Self {
        Self::over(engines::memory())
    }

    /// A server in front of a storage.
    pub fn over(storage: Arc<dyn Storage>) -> Self {
        Self::with(storage, VALUE_BYTES_MAX, &Self::config())
    }

    /// The configuration of a test's server: a port of its own.
    pub fn config() -> Config {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        Config { addrs: vec![addr], workers: 4, ..Config::default() }
    }

    /// A server with a configuration of its own.
    pub fn with(storage: Arc<dyn Storage>, value_bytes_max: u64, config: &Config) -> Self {
        let access = Access { hosts: Hosts::local([]), ..Access::default() };
        Self::serving(Api::new(storage, value_bytes_max).with_access(access), config)
    }

    /// A server in front of a storage, with an access control of its own.
    pub fn guarded(storage: Arc<dyn Storage>, access: Access) -> Self {
        let api = Api::new(storage, VALUE_BYTES_MAX).with_access(access);
        Self::serving(api, &Self::config())
    }

    fn serving(api: Api, config: &Config) -> Self {
        let server = Server::start(config, |_addrs| api);
        let server = server.expect("a server starts on a port of the system's choice");
        let addr = server.local_addrs()[0];
        Self { server: Some(server), addr }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A new connection to it.
    pub fn connect(&self) -> Connection {
        Connection::open(self.addr)
    }

    /// Stops it and waits until it has stopped, as dropping it does.
    pub fn stop(mut self) {
        self.stop_checked();
    }

    fn stop_checked(&mut self) {
        let Some(server) = self.server.take() else { return };
        let stopping = thread::spawn(move || server.stop());
        let has_stopped = holds_within(2 * PATIENCE, || stopping.is_finished());
        // A second panic would end the process and hide the first.
        if !thread::panicking() {
            assert!(has_stopped, "the server does not stop");
            stopping.join().expect("a server stops without a panic");
            assert!(!accepts(self.addr), "the server has stopped and still listens");
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop_checked();
    }
}

/// Whether somebody accepts connections there.
pub fn accepts(addr: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&addr, PATIENCE) {
        // On the loopback a connection to a free port can meet itself.
        Ok(stream) => stream.local_addr().is_ok_and(|own| own != addr),
        Err(_) => false,
    }
}
