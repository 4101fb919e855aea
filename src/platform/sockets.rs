//! Sockets of the standard library.

use std::io;
use std::net::TcpStream;

/// Sends the bytes that the socket takes at once, and returns their number. Never blocks;
/// a system that cannot do that fails as one whose socket takes none.
#[cfg(all(target_os = "linux", not(portable)))]
pub fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::{SendFlags, send};
    Ok(send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Sends nothing: the socket is written to by one who may wait.
#[cfg(any(portable, not(target_os = "linux")))]
pub fn send_now(_stream: &TcpStream, _bytes: &[u8]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}
