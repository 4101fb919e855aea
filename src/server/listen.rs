//! The listening sockets, one for each address.

use super::gate;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// The most connections that wait to be accepted, on each address.
const BACKLOG: i32 = 4096;

/// A dead peer is noticed about this long after it was last heard of.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The number of free ports of the first address that are tried on the others.
const PORT_TRIES: usize = 16;

/// The system's error for a family of addresses that it does not have.
#[cfg(unix)]
const NO_FAMILY: i32 = libc::EAFNOSUPPORT;
#[cfg(not(unix))]
const NO_FAMILY: i32 = 10_047;

/// Listens on each of `addrs` that this machine has, and has to have one. Where
/// the port is 0 all get the same free one.
pub fn listen(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut tries = if addrs.iter().any(|addr| addr.port() == 0) { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match listen_once(addrs) {
            Err(err) if err.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            outcome => return outcome,
        }
    }
}

fn listen_once(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let (mut listeners, mut absent, mut port) = (Vec::new(), Vec::new(), 0);
    for mut addr in addrs.iter().copied() {
        if addr.port() == 0 {
            addr.set_port(port);
        }
        // By itself the wildcard address of IPv6 takes IPv4 as well.
        let is_alone = addrs.iter().all(SocketAddr::is_ipv6);
        let outcome = if listeners.len() < gate::LISTENERS_MAX {
            open(addr, addr.is_ipv6() && !is_alone)
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this build serves one address"))
        };
        match outcome {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(err) => {
                let line = format!("cannot listen on {addr}: {err}");
                let told = io::Error::new(err.kind(), line);
                if !is_absent(&err) {
                    return Err(told);
                }
                absent.push(told);
            }
        }
    }
    match absent.pop() {
        Some(err) if listeners.is_empty() => return Err(err),
        last => absent.iter().chain(&last).for_each(|err| log::warn!("{err}")),
    }
    Ok(listeners)
}

/// Returns true if an error tells of an address that this machine does not have, or this
/// build does not serve.
fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || err.raw_os_error() == Some(NO_FAMILY)
}

/// Opens a listening socket. The options set here hold for every connection
/// that it accepts.
fn open(addr: SocketAddr, is_only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if is_only_v6 {
        socket.set_only_v6(true)?;
    }
    // The last run's connections may still be in TIME_WAIT. On Windows the
    // same option would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // An answer is one write; holding it back gains nothing.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
