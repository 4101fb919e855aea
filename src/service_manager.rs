//! Messages to the service manager, as `sd_notify(3)` describes them: a datagram each,
//! to the socket that `NOTIFY_SOCKET` names. Without that variable nobody listens.
//!
//! The store runs as well without a manager that listens, so a message that cannot be sent
//! is a line in the log and nothing more.

#[cfg(unix)]
use std::ffi::OsStr;
use std::io;
#[cfg(unix)]
use std::os::unix::net::{SocketAddr, UnixDatagram};
#[cfg(unix)]
use std::time::Duration;

/// The longest wait for room in the manager's queue.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_millis(500);

/// The store listens.
pub fn ready() {
    tell("READY=1");
}

/// The store is about to end.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    if let Err(err) = send(state) {
        log::warn!("cannot send {state} to the service manager: {err}");
    }
}

#[cfg(unix)]
fn send(state: &str) -> io::Result<()> {
    let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
    let Some(name) = name else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(state.as_bytes(), &addr(&name)?)?;
    Ok(())
}

/// The same where no service manager speaks so.
#[cfg(not(unix))]
fn send(_state: &str) -> io::Result<()> {
    Ok(())
}

/// The address of a socket by its path, or on Linux by an abstract name behind `@`.
#[cfg(unix)]
fn addr(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::ffi::OsStrExt as _;

        if let Some(name) = name.as_bytes().strip_prefix(b"@") {
            return SocketAddr::from_abstract_name(name);
        }
    }
    SocketAddr::from_pathname(name)
}
