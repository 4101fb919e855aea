//! The sockets behind tiny_http's connections, found and held from outside.
//!
//! tiny_http keeps its sockets to itself, so they are looked up among the
//! process's descriptors. A [`Socket`] owns a duplicate: it names the same
//! connection for as long as it lives, whatever becomes of the original.
//! What is unsafe about that is here alone.

#![allow(
    unsafe_code,
    reason = "asking a descriptor by its number and socket options have no safe form"
)]

use crate::descriptors;
use rustix::fs::RawDir;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::SockRef;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// One accepted connection.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    cookie: u64,
    peer: SocketAddr,
}

/// What the kernel counts on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Bytes that have arrived, read or not.
    pub(super) received: u64,
    /// Bytes that the peer has confirmed.
    pub(super) acknowledged: u64,
    /// Whether both sides still may send.
    pub(super) established: bool,
}

impl Socket {
    /// The peer's address, which is how tiny_http names a connection.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The kernel's number of the connection, never used twice.
    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Ends the connection in both directions: what waits for it, in whatever
    /// thread, returns. Once the last descriptor is closed the peer is reset,
    /// for one that is still sending would not notice anything else.
    pub(super) fn cut(&self) {
        let at_once = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.descriptor, at_once).ok();
        self.shutdown(Shutdown::Both);
    }

    /// Ends the connection in both directions; what was written is delivered.
    pub(super) fn stop(&self) {
        self.shutdown(Shutdown::Both);
    }

    /// Ends the receiving direction: who reads gets what has arrived and then
    /// the end.
    pub(super) fn stop_receiving(&self) {
        self.shutdown(Shutdown::Read);
    }

    /// Ends the sending direction: the peer gets what was written and then
    /// the end.
    pub(super) fn stop_sending(&self) {
        self.shutdown(Shutdown::Write);
    }

    fn shutdown(&self, how: Shutdown) {
        // The peer may have gone first; then there is nothing left to end.
        rustix::net::shutdown(&self.descriptor, how).ok();
    }

    /// Sends all of `bytes` if that needs no waiting, and says whether it did.
    pub(super) fn try_send(&self, bytes: &[u8]) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(&self.descriptor, bytes, flags) == Ok(bytes.len())
    }

    /// Reads and forgets what has arrived, up to `bytes_max`. Says whether
    /// more may come.
    pub(super) fn discard(&self, bytes_max: usize) -> bool {
        const PART_BYTES: usize = 16 * 1024;
        let mut buffer = [MaybeUninit::<u8>::uninit(); PART_BYTES];
        for _ in 0..bytes_max.div_ceil(PART_BYTES) {
            match rustix::net::recv(&self.descriptor, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return false,
                Ok(_) => {}
                Err(err) => return err == rustix::io::Errno::AGAIN,
            }
        }
        true
    }

    /// How many bytes have arrived and were not read yet.
    pub(super) fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.descriptor).unwrap_or(0)
    }

    /// What the kernel has counted so far; `None` if it does not say.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        // Offsets in struct tcp_info of linux/tcp.h, which only ever grows.
        const ACKED: usize = 120;
        const RECEIVED: usize = 128;
        const INFO_BYTES: usize = 136;
        const ESTABLISHED: u8 = 1;

        let mut info = [0_u8; INFO_BYTES];
        self.option(libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
        let word = |at: usize| info.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        Some(Traffic {
            received: word(RECEIVED)?,
            acknowledged: word(ACKED)?,
            established: info.first() == Some(&ESTABLISHED),
        })
    }

    /// How many bytes can be written without waiting, at least; `None` if the
    /// kernel does not say.
    pub(super) fn room(&self) -> Option<u64> {
        // Places in the array that SO_MEMINFO gives, of linux/sock_diag.h.
        const SEND_BUFFER: usize = 3;
        const QUEUED: usize = 5;
        const MEMINFO_BYTES: usize = 24;

        let mut info = [0_u8; MEMINFO_BYTES];
        self.option(libc::SOL_SOCKET, libc::SO_MEMINFO, &mut info)?;
        let (places, _) = info.as_chunks::<4>();
        let place = |at: usize| places.get(at).map(|bytes| u64::from(u32::from_ne_bytes(*bytes)));
        let free = place(SEND_BUFFER)?.saturating_sub(place(QUEUED)?);
        // The kernel counts its own overhead, which comes to less than the data.
        Some(free / 2)
    }

    /// Reads a socket option that is at least as long as `value`.
    fn option(&self, level: libc::c_int, name: libc::c_int, value: &mut [u8]) -> Option<()> {
        let mut length = libc::socklen_t::try_from(value.len()).ok()?;
        // SAFETY: the kernel writes at most `length` bytes to `value` and the
        // number it wrote to `length`; both live through the call.
        let status = unsafe {
            libc::getsockopt(
                self.descriptor.as_raw_fd(),
                level,
                name,
                value.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        (status == 0 && usize::try_from(length) == Ok(value.len())).then_some(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The connections of one listener, as far as they have been found.
#[derive(Debug)]
pub(super) struct Sockets {
    listener: SocketAddr,
    /// The directory of this process's descriptors, open all the time: once
    /// descriptors have run out it cannot be opened any more.
    descriptors: File,
    /// The cookies of the sockets that the last search saw.
    seen: HashSet<u64>,
    /// Whether the last search could hold all that it found.
    complete: bool,
    /// The listening socket's own cookie, and how many descriptors of it the
    /// last search saw.
    listener_cookie: u64,
    listeners: usize,
}

impl Sockets {
    /// Gets ready to find the connections that `listener` accepts.
    pub(super) fn new(listener: &TcpListener) -> io::Result<Self> {
        let descriptors = File::open(descriptors::LIST)?;
        let listener_cookie = SockRef::from(listener).cookie()?;
        let listener = listener.local_addr()?;
        Ok(Self {
            listener,
            descriptors,
            seen: HashSet::new(),
            complete: true,
            listener_cookie,
            listeners: 0,
        })
    }

    /// The connections that have come since the last search. One that could
    /// not be held, for want of descriptors, is found again by the next.
    ///
    /// Takes a microsecond for each descriptor that the process has open.
    pub(super) fn search(&mut self) -> io::Result<Vec<Socket>> {
        let mut seen = HashSet::with_capacity(self.seen.len());
        let mut found = Vec::new();
        self.complete = true;
        self.listeners = 0;
        rustix::fs::seek(&self.descriptors, rustix::fs::SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut names = RawDir::new(&self.descriptors, &mut buffer);
        while let Some(name) = names.next() {
            let name = name?;
            let Some(number) = name.file_name().to_str().ok().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Some(cookie) = cookie(number) else { continue };
            if cookie == self.listener_cookie {
                self.listeners += 1;
                continue;
            }
            if self.seen.contains(&cookie) || seen.contains(&cookie) {
                seen.insert(cookie);
                continue;
            }
            let Ok(descriptor) = descriptors::duplicate(number) else {
                // Out of descriptors. It stays unseen, so it is tried again.
                self.complete = false;
                continue;
            };
            // The number may have passed to another file meanwhile.
            if SockRef::from(&descriptor).cookie().ok() == Some(cookie) {
                seen.insert(cookie);
                found.extend(self.connection(descriptor, cookie));
            }
        }
        self.seen = seen;
        Ok(found)
    }

    /// How many descriptors the process has open, where the system tells
    /// (Linux 6.2 and later).
    pub(super) fn descriptors(&self) -> Option<u64> {
        let open = self.descriptors.metadata().ok()?.len();
        (open > 0).then_some(open)
    }

    /// Whether some descriptor of the socket was open at the last search.
    pub(super) fn has_seen(&self, cookie: u64) -> bool {
        self.seen.contains(&cookie)
    }

    /// Whether there was a search.
    pub(super) fn has_searched(&self) -> bool {
        self.listeners > 0
    }

    /// How many descriptors of the listening socket the last search saw.
    pub(super) fn listeners(&self) -> usize {
        self.listeners
    }

    /// Whether every connection there was at the last search is held.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }

    /// The socket, if it is a connection that our listener accepted.
    fn connection(&self, descriptor: OwnedFd, cookie: u64) -> Option<Socket> {
        let socket = SockRef::from(&descriptor);
        let local = socket.local_addr().ok()?.as_socket()?;
        let peer = socket.peer_addr().ok()?.as_socket()?;
        accepted_by(self.listener, local).then_some(Socket { descriptor, cookie, peer })
    }
}

/// Whether a socket with the address `local` can have come from `listener`.
fn accepted_by(listener: SocketAddr, local: SocketAddr) -> bool {
    let ip = listener.ip();
    local.port() == listener.port() && (ip.is_unspecified() || local.ip() == ip)
}

/// The cookie of the socket with this descriptor number, if it is one.
fn cookie(number: RawFd) -> Option<u64> {
    // SAFETY: the number is borrowed for one call that changes nothing. If it
    // was closed the call fails; if it was reused it tells of the new file.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    SockRef::from(&borrowed).cookie().ok()
}
