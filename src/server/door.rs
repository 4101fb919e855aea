//! The door: tiny_http's calls on its sockets, as they are carried out.
//!
//! The standard library calls `accept4`, `recv`, `getpeername` and `shutdown`
//! by name, and a program that defines such a name is called instead of the
//! system's library. So every connection is known here before tiny_http has it,
//! and tiny_http sees no more of it than it is given:
//!
//! - `accept4` on a listener of ours asks its [`Gate`], which lets a
//!   connection in when it sees fit, and hands out a descriptor that stands
//!   for it. tiny_http never holds the socket itself.
//! - `getpeername` answers with the connection's number in the form of an
//!   address, which is how a request of tiny_http's names its connection, and
//!   learns the second descriptor that tiny_http makes of the first.
//! - `recv` asks the connection's [`Stream`].
//! - `shutdown` tells that tiny_http releases a descriptor.
//!
//! Every other descriptor passes through to the system untouched. A panic
//! must not leave a function that C calls, so each ends here.

#![allow(unsafe_code, reason = "symbols that C and the standard library call have no safe form")]

use std::cell::RefCell;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Lets connections in on a listening socket.
pub trait Gate: Send + Sync {
    /// Waits for the next connection and gives a descriptor that stands for
    /// it. An error ends tiny_http's accept loop.
    fn next(&self) -> io::Result<(OwnedFd, Arc<dyn Stream>)>;
}

/// The bytes that tiny_http reads from a connection.
pub trait Stream: Send + Sync {
    /// Its number, which is in the address that tiny_http knows it by.
    fn id(&self) -> u64;
    /// Waits for bytes; 0 once there will be none.
    fn read(self: Arc<Self>, buffer: &mut [u8]) -> usize;
    /// tiny_http has released one of its two descriptors. May be called twice.
    fn released(&self);
}

/// The meaning of a descriptor.
#[derive(Clone)]
enum Slot {
    Listener(Arc<dyn Gate>),
    Stream(Arc<dyn Stream>),
}

/// A listening socket with a gate.
pub struct Opened(RawFd, Weak<dyn Gate>);

/// Puts `gate` before this listening socket, until its accept loop ends.
pub fn open(listener: BorrowedFd<'_>, gate: Arc<dyn Gate>) -> Opened {
    let opened = Opened(listener.as_raw_fd(), Arc::downgrade(&gate));
    slots().set(opened.0, Some(Slot::Listener(gate)));
    opened
}

/// Removes the gate of a listening socket, which may be closed.
pub fn forget(Opened(number, gate): Opened) {
    // Another may have the number by now.
    if let Some(Slot::Listener(now)) = slots().get(number)
        && Weak::ptr_eq(&Arc::downgrade(&now), &gate)
    {
        slots().set(number, None);
    }
}

/// The prefix of addresses that nobody has: they are for discarding (RFC 6666).
const PREFIX: &[u8; 8] = &[1, 0, 0, 0, 0, 0, 0, 0];

fn address(id: u64) -> libc::sockaddr_in6 {
    let mut octets = [0; 16];
    let (prefix, number) = octets.split_at_mut(8);
    prefix.copy_from_slice(PREFIX);
    number.copy_from_slice(&id.to_be_bytes());
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    address.sin6_family = libc::AF_INET6.try_into().unwrap_or_default();
    address.sin6_addr.s6_addr = Ipv6Addr::from(octets).octets();
    address
}

/// Places by descriptor number, in pages that are made when first needed.
struct Slots([OnceLock<Page>; PAGES]);
type Page = Box<[Mutex<Option<Slot>>]>;
const PAGES: usize = 1024;
const PAGE_SLOTS: usize = 1024;

fn slots() -> &'static Slots {
    static SLOTS: Slots = Slots([const { OnceLock::new() }; PAGES]);
    &SLOTS
}

impl Slots {
    fn get(&self, number: RawFd) -> Option<Slot> {
        let number = usize::try_from(number).ok()?;
        let page = self.0.get(number / PAGE_SLOTS)?.get()?;
        page.get(number % PAGE_SLOTS)?.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `false` if there is no place for that number.
    fn set(&self, number: RawFd, slot: Option<Slot>) -> bool {
        let Ok(number) = usize::try_from(number) else { return false };
        let Some(page) = self.0.get(number / PAGE_SLOTS) else { return false };
        let page = page.get_or_init(|| (0..PAGE_SLOTS).map(|_| Mutex::new(None)).collect());
        let Some(place) = page.get(number % PAGE_SLOTS) else { return false };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *place, slot);
        // The old one may look for another place when it is dropped.
        drop(place);
        drop(before);
        true
    }
}

thread_local! {
    /// The last stream given to this thread's accept loop, until that asks for its
    /// address.
    static ADMITTED: RefCell<Option<Arc<dyn Stream>>> = const { RefCell::new(None) };
}

fn admit(number: RawFd, gate: &dyn Gate) -> io::Result<(RawFd, libc::sockaddr_in6)> {
    loop {
        let (descriptor, stream) = match gate.next() {
            Ok(admitted) => admitted,
            Err(err) => {
                // The accept loop ends now, and its descriptor with it.
                slots().set(number, None);
                return Err(err);
            }
        };
        let id = stream.id();
        if !slots().set(descriptor.as_raw_fd(), Some(Slot::Stream(Arc::clone(&stream)))) {
            stream.released();
            continue;
        }
        let earlier = ADMITTED.replace(Some(stream));
        // It was lost between here and its thread.
        if let Some(earlier) = earlier {
            earlier.released();
        }
        return Ok((descriptor.into_raw_fd(), address(id)));
    }
}

/// Writes an address for a caller.
///
/// # Safety
///
/// `to` is null or has room for `length` bytes, and both can be written to.
unsafe fn put_address(
    address: &libc::sockaddr_in6,
    to: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
) {
    if to.is_null() || length.is_null() {
        return;
    }
    let whole = size_of::<libc::sockaddr_in6>();
    // SAFETY: as the caller promises; no more is written than there is room for.
    unsafe {
        let room = usize::try_from(*length).unwrap_or(0).min(whole);
        std::ptr::copy_nonoverlapping((&raw const *address).cast::<u8>(), to.cast::<u8>(), room);
        *length = libc::socklen_t::try_from(whole).unwrap_or_default();
    }
}

fn fail(err: &io::Error) -> libc::c_int {
    // SAFETY: it is the calling thread's own number.
    unsafe { *libc::__errno_location() = err.raw_os_error().unwrap_or(libc::EINVAL) };
    -1
}

/// `accept4(2)`.
///
/// # Safety
///
/// As the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(
    number: libc::c_int,
    to: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
    flags: libc::c_int,
) -> libc::c_int {
    let Some(Slot::Listener(gate)) = slots().get(number) else {
        // SAFETY: passed on as it came.
        let accepted = unsafe { libc::syscall(libc::SYS_accept4, number, to, length, flags) };
        return accepted.try_into().unwrap_or(-1);
    };
    let admitted = panic::catch_unwind(AssertUnwindSafe(|| admit(number, &*gate)));
    match admitted.unwrap_or_else(|_panic| Err(io::ErrorKind::Interrupted.into())) {
        Ok((descriptor, address)) => {
            // SAFETY: the caller promises room.
            unsafe { put_address(&address, to, length) };
            descriptor
        }
        // The standard library calls again.
        Err(err) if err.kind() == io::ErrorKind::Interrupted => {
            fail(&io::Error::from_raw_os_error(libc::EINTR))
        }
        Err(err) => fail(&err),
    }
}

/// `getpeername(2)`.
///
/// # Safety
///
/// As the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn getpeername(
    number: libc::c_int,
    to: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
) -> libc::c_int {
    let admitted = ADMITTED.try_with(RefCell::take).ok().flatten().inspect(|stream| {
        // There is a place: descriptors are given out from below, and the
        // first one of this connection has one.
        slots().set(number, Some(Slot::Stream(Arc::clone(stream))));
    });
    let known = || match slots().get(number) {
        Some(Slot::Stream(stream)) => Some(stream),
        Some(Slot::Listener(_)) | None => None,
    };
    let Some(stream) = admitted.or_else(known) else {
        // SAFETY: passed on as it came.
        let told = unsafe { libc::syscall(libc::SYS_getpeername, number, to, length) };
        return told.try_into().unwrap_or(-1);
    };
    // SAFETY: the caller promises room.
    unsafe { put_address(&address(stream.id()), to, length) };
    0
}

/// `recv(2)`.
///
/// # Safety
///
/// As the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(
    number: libc::c_int,
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_int,
) -> libc::ssize_t {
    let Some(Slot::Stream(stream)) = slots().get(number) else {
        let nobody = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: passed on as it came.
        let got = unsafe {
            libc::syscall(libc::SYS_recvfrom, number, buffer, length, flags, nobody, nobody)
        };
        return got.try_into().unwrap_or(-1);
    };
    // SAFETY: the caller promises room, which tiny_http has filled with zeros.
    let room = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    let got = panic::catch_unwind(AssertUnwindSafe(|| stream.read(room)));
    got.unwrap_or(0).try_into().unwrap_or(0)
}

/// `shutdown(2)`.
///
/// # Safety
///
/// As the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn shutdown(number: libc::c_int, how: libc::c_int) -> libc::c_int {
    let Some(Slot::Stream(stream)) = slots().get(number) else {
        // SAFETY: passed on as it came.
        let done = unsafe { libc::syscall(libc::SYS_shutdown, number, how) };
        return done.try_into().unwrap_or(-1);
    };
    slots().set(number, None);
    panic::catch_unwind(AssertUnwindSafe(|| stream.released())).ok();
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Lets one stream of three bytes in, then ends.
    struct Once(Mutex<Option<Arc<Three>>>, OwnedFd);

    #[derive(Default)]
    struct Three {
        read: AtomicUsize,
        released: AtomicUsize,
    }

    impl Gate for Once {
        fn next(&self) -> io::Result<(OwnedFd, Arc<dyn Stream>)> {
            let stream = self.0.lock().expect("nobody panics with it").take();
            let stream = stream.ok_or(io::Error::from_raw_os_error(libc::EINVAL))?;
            Ok((self.1.try_clone()?, stream))
        }
    }

    impl Stream for Three {
        fn id(&self) -> u64 {
            0x1234_5678_9abc_def0
        }

        fn read(self: Arc<Self>, buffer: &mut [u8]) -> usize {
            let first = self.read.fetch_add(1, Ordering::Relaxed) == 0;
            buffer[..3].copy_from_slice(b"abc");
            if first { 3 } else { 0 }
        }

        fn released(&self) {
            self.released.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of the connection that tiny_http knows by this address.
    fn id_of(addr: &SocketAddr) -> Option<u64> {
        let SocketAddr::V6(addr) = addr else { return None };
        let octets = addr.ip().octets();
        let (prefix, number) = octets.split_first_chunk::<8>()?;
        (prefix == PREFIX).then(|| number.try_into().map(u64::from_be_bytes).ok()).flatten()
    }

    #[test]
    fn an_opened_listener_gives_what_its_gate_gives() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stands_in = OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("a port"));
        let three = Arc::new(Three::default());
        let gate = Once(Mutex::new(Some(Arc::clone(&three))), stands_in);
        let opened = open(listener.as_fd(), Arc::new(gate));

        let (write_half, peer) = listener.accept().expect("the gate lets one in");
        assert_eq!(id_of(&peer), Some(three.id()));
        let mut read_half = write_half.try_clone().expect("a descriptor");
        // As tiny_http does: this is where the second descriptor becomes known.
        let peer = read_half.peer_addr().expect("an address");
        assert_eq!(id_of(&peer), Some(three.id()));
        let mut got = Vec::new();
        read_half.read_to_end(&mut got).expect("three bytes and the end");
        assert_eq!(got, b"abc");
        read_half.shutdown(Shutdown::Read).expect("it is ours to end");
        write_half.shutdown(Shutdown::Write).expect("it is ours to end");
        assert_eq!(three.released.load(Ordering::Relaxed), 2);

        let end = listener.accept().expect_err("the gate is closed");
        assert_eq!(end.raw_os_error(), Some(libc::EINVAL));
        // It is forgotten by now.
        forget(opened);
        let addr = listener.local_addr().expect("an address");
        let client = TcpStream::connect(addr).expect("a listener");
        let (_, peer) = listener.accept().expect("a client");
        assert_eq!(peer, client.local_addr().expect("an address"));
    }

    #[test]
    fn other_sockets_pass_through_untouched() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(addr).expect("a listener");
        let (mut accepted, peer) = listener.accept().expect("a client");
        assert_eq!(peer, client.local_addr().expect("an address"));
        assert_eq!(accepted.peer_addr().expect("an address"), peer);
        assert_eq!(id_of(&peer), None);
        client.write_all(b"value").expect("a peer");
        client.shutdown(Shutdown::Write).expect("an open connection");
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).expect("a value and its end");
        assert_eq!(got, b"value");
    }
}
