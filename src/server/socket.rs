//! The socket of a connection: the only descriptor of it.

#![allow(
    unsafe_code,
    reason = "two questions to a socket, and to receive into the room of a buffer, have no safe form"
)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::Timeout;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The wait for input after which a thread hears that none has come.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// The bytes discarded at once.
const DISCARD_STEP_BYTES: usize = 16 * 1024;

/// To send blocks nobody, and the end of the peer raises no signal.
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// An accepted connection. It is closed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    /// The peer is to be reset, whichever way the connection ends.
    ends_by_reset: AtomicBool,
    /// The bytes sent so far.
    sent: AtomicU64,
}

impl Socket {
    /// It serves one request and ends.
    pub const SERVES_ONE: bool = false;

    /// [`Self::send_now`] waits for the peer.
    pub const SEND_MAY_BLOCK: bool = false;

    /// The socket behind a descriptor that was just accepted.
    pub fn new(descriptor: OwnedFd) -> Self {
        // Without it none hears of that.
        rustix::net::sockopt::set_socket_timeout(&descriptor, Timeout::Recv, Some(QUIET_AFTER))
            .ok();
        Self { descriptor, ends_by_reset: AtomicBool::new(false), sent: AtomicU64::new(0) }
    }

    /// Ends the connection in both directions: every wait for it returns, in any
    /// thread. Once it is dropped the peer is reset, for a peer that is still
    /// sending notices nothing else.
    pub fn cut(&self) {
        // The end of the stream would come before the reset otherwise.
        let ends_by_reset = self.ends_by_reset.load(Ordering::Relaxed);
        if ends_by_reset && rustix::net::connect_unspec(&self.descriptor).is_ok() {
            return;
        }
        self.linger_never(true);
        self.shutdown(Shutdown::Both);
    }

    /// Sets whether any end of the connection is a reset, which no peer takes for the
    /// end of the stream. That of the process, however it ends, is one too.
    pub fn set_ends_by_reset(&self, ends_by_reset: bool) {
        self.ends_by_reset.store(ends_by_reset, Ordering::Relaxed);
        self.linger_never(ends_by_reset);
    }

    /// Has the peer reset once this is dropped.
    fn linger_never(&self, never: bool) {
        let at_once = never.then_some(Duration::ZERO);
        // The peer may have gone first.
        rustix::net::sockopt::set_socket_linger(&self.descriptor, at_once).ok();
    }

    /// Ends the receiving direction: a reader gets the bytes that have arrived
    /// and then the end.
    pub fn stop_receiving(&self) {
        self.shutdown(Shutdown::Read);
    }

    /// Ends the sending direction: the peer gets the bytes that were written
    /// and then the end.
    pub fn stop_sending(&self) {
        self.shutdown(Shutdown::Write);
    }

    fn shutdown(&self, how: Shutdown) {
        // The peer may have gone first; then there is nothing left to end.
        rustix::net::shutdown(&self.descriptor, how).ok();
    }

    /// Sends as much of `bytes` as there is room for, and returns its length. Never
    /// blocks.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.note_sent(rustix::net::send(&self.descriptor, bytes, SEND_FLAGS))
    }

    /// The same of two pieces, one after the other.
    pub fn send_both_now(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        if second.is_empty() {
            return self.send_now(first);
        }
        let pieces = [first, second].map(IoSlice::new);
        let mut nothing = SendAncillaryBuffer::default();
        self.note_sent(rustix::net::sendmsg(&self.descriptor, &pieces, &mut nothing, SEND_FLAGS))
    }

    fn note_sent(&self, outcome: Result<usize, Errno>) -> io::Result<usize> {
        match outcome {
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Ok(0),
            Err(err) => Err(err.into()),
            Ok(sent) => {
                self.sent.fetch_add(sent as u64, Ordering::Relaxed);
                Ok(sent)
            }
        }
    }

    /// The bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Receives up to so many bytes into the spare room of `buffer`; 0 at the end, and `None`
    /// if nothing has come for a second. Blocks.
    pub fn receive(&self, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>> {
        self.receive_with(RecvFlags::empty(), buffer, bytes_max)
    }

    fn receive_with(
        &self,
        flags: RecvFlags,
        buffer: &mut Vec<u8>,
        bytes_max: usize,
    ) -> io::Result<Option<usize>> {
        let room = buffer.spare_capacity_mut();
        let bytes = bytes_max.min(room.len());
        let room = room.get_mut(..bytes).unwrap_or_default();
        let receive = || {
            let received = rustix::net::recv(&self.descriptor, &mut *room, flags);
            received.map(|((bytes, _), _)| bytes.len())
        };
        let received = match retry_on_intr(receive) {
            Err(Errno::AGAIN) => return Ok(None),
            received => received?,
        };
        // SAFETY: the kernel has written so many bytes there.
        unsafe { buffer.set_len(buffer.len() + received) };
        Ok(Some(received))
    }

    /// Receives what is there into the spare room of `buffer`; 0 at the end, and `None` if
    /// there is nothing. Never blocks.
    pub fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        self.receive_with(RecvFlags::DONTWAIT, buffer, usize::MAX)
    }

    /// Waits until there is input, or its end.
    pub fn wait_for_input(&self) {
        let mut socket = [PollFd::new(&self.descriptor, PollFlags::IN)];
        // Where it fails, the next receiving says why.
        poll(&mut socket, None).ok();
    }

    /// Returns true if the peer has reset the connection, or both sides have ended it.
    /// Never blocks.
    pub fn is_over(&self) -> bool {
        self.has_any(PollFlags::HUP | PollFlags::ERR)
    }

    /// Returns true if the peer has ended its side, or the connection, whatever is
    /// unread. Never blocks.
    pub fn has_peer_left(&self) -> bool {
        self.has_any(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    fn has_any(&self, states: PollFlags) -> bool {
        let mut socket = [PollFd::new(&self.descriptor, states)];
        let at_once = Timespec::default();
        let ended = poll(&mut socket, Some(&at_once)).is_ok_and(|ready| ready > 0);
        let [socket] = socket;
        ended && socket.revents().intersects(states)
    }

    /// Discards input, up to `bytes_max`; `false` at its end. Never blocks.
    pub fn discard(&self, bytes_max: usize) -> bool {
        let mut buffer = [MaybeUninit::<u8>::uninit(); DISCARD_STEP_BYTES];
        for _ in 0..bytes_max.div_ceil(DISCARD_STEP_BYTES) {
            match rustix::net::recv(&self.descriptor, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return false,
                Ok(_) => {}
                Err(err) => return err == Errno::AGAIN || err == Errno::INTR,
            }
        }
        true
    }

    /// Returns true if there is unread input.
    pub fn has_unread(&self) -> bool {
        rustix::io::ioctl_fionread(&self.descriptor).is_ok_and(|bytes| bytes > 0)
    }

    /// Returns true if some output is not confirmed by the peer.
    pub fn has_unconfirmed(&self) -> bool {
        // The end of the stream counts as one.
        const END: libc::c_int = 1;

        let mut bytes: libc::c_int = 0;
        // SAFETY: the kernel writes one number, which lives through the call.
        let status =
            unsafe { libc::ioctl(self.descriptor.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        status == 0 && bytes > END
    }

    /// The bytes that the peer has confirmed so far; `None` if the kernel does not
    /// tell.
    pub fn acknowledged(&self) -> Option<u64> {
        // Offsets in struct tcp_info of linux/tcp.h, which only ever grows.
        const ACKED: usize = 120;
        const INFO_BYTES: usize = 128;

        let mut info = [0_u8; INFO_BYTES];
        let mut length = libc::socklen_t::try_from(INFO_BYTES).ok()?;
        // SAFETY: the kernel writes at most `length` bytes to `info` and the
        // number it wrote to `length`; both live through the call.
        let status = unsafe {
            libc::getsockopt(
                self.descriptor.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let told = status == 0 && usize::try_from(length) == Ok(INFO_BYTES);
        let bytes = info.get(ACKED..)?.try_into().ok()?;
        told.then(|| u64::from_ne_bytes(bytes))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let (accepted, _) = listener.accept().expect("a client");
        (Socket::new(accepted.into()), client.expect("a listener"))
    }

    #[test]
    fn what_needs_no_waiting_is_sent_and_no_more() {
        let (socket, mut client) = pair();
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        loop {
            match socket.send_now(&piece).expect("the client is there") {
                0 => break,
                bytes => sent += bytes,
            }
        }
        drop(socket);
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("the bytes and their end");
        assert_eq!(got.len(), sent);
    }

    #[test]
    fn pieces_are_sent_one_after_the_other() {
        let (socket, mut client) = pair();
        for [first, second] in [[&b"a"[..], b"bc"], [b"", b"d"], [b"e", b""]] {
            let sent = socket.send_both_now(first, second);
            assert_eq!(sent.expect("the client is there"), first.len() + second.len());
        }
        let large = vec![b'x'; 1 << 20];
        while socket.send_both_now(b"f", &large).expect("the client is there") > 0 {}
        let sent = socket.sent();
        drop(socket);
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("the bytes and their end");
        assert_eq!(got.len() as u64, sent);
        assert!(got.starts_with(b"abcdefx"));
    }

    #[test]
    fn confirmed_bytes_are_counted() {
        let (socket, mut client) = pair();
        let before = socket.acknowledged().expect("Linux counts");
        assert_eq!(socket.send_now(b"12345").expect("the client is there"), 5);
        client.read_exact(&mut [0; 5]).expect("five bytes");
        client.write_all(b"x").expect("the server is there");
        assert_eq!(socket.receive(&mut Vec::with_capacity(1), 1).expect("a byte"), Some(1));
        assert_eq!(socket.acknowledged(), Some(before + 5));
        assert!(!socket.has_unconfirmed());
        let unread = vec![b'x'; 16 << 20];
        socket.send_now(&unread).expect("the client is there");
        assert!(socket.has_unconfirmed());
    }

    #[test]
    fn a_peer_that_resets_is_noticed_whatever_it_has_sent() {
        for sent in [&b""[..], b"GET / HTTP/1.1\r\n"] {
            let (socket, mut client) = pair();
            client.write_all(sent).expect("the server is there");
            assert!(!socket.is_over());
            let client = socket2::Socket::from(client);
            client.set_linger(Some(Duration::ZERO)).expect("a socket takes a linger time");
            drop(client);
            // On the loopback it has arrived by now.
            assert!(socket.is_over(), "{sent:?}");
        }
    }

    #[test]
    fn a_peer_that_only_ends_its_side_is_still_there() {
        let (socket, mut client) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n").expect("the server is there");
        client.shutdown(std::net::Shutdown::Write).expect("an open connection");
        assert!(!socket.is_over());
    }

    #[test]
    fn who_waits_for_input_hears_of_it_and_of_each_end() {
        let ends: [fn(&Socket, TcpStream) -> Option<TcpStream>; 5] = [
            |_, mut client| {
                client.write_all(b"x").expect("the server is there");
                Some(client)
            },
            |_, _| None,
            |_, client| {
                let client = socket2::Socket::from(client);
                client.set_linger(Some(Duration::ZERO)).expect("a socket takes a linger time");
                None
            },
            |socket, client| {
                socket.cut();
                Some(client)
            },
            |socket, client| {
                socket.set_ends_by_reset(true);
                socket.cut();
                Some(client)
            },
        ];
        for (number, end) in ends.into_iter().enumerate() {
            let (socket, client) = pair();
            let mut buffer = Vec::with_capacity(10);
            assert_eq!(socket.receive(&mut buffer, 10).ok(), Some(None), "nothing comes");
            thread::scope(|scope| {
                let waiting = scope.spawn(|| socket.wait_for_input());
                let client = end(&socket, client);
                waiting.join().expect("it does not panic");
                let received = socket.receive(&mut buffer, 10);
                assert!(!matches!(received, Ok(None)), "end {number}");
                drop(client);
            });
        }
    }
}
