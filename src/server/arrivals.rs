//! Connections whose requests have come, on their way to a leader.
//!
//! A call of tiny_http's costs as much as the rest of a small request. So it is called for
//! the first connection that comes alone: those that come behind it are there by the time
//! that a leader has been woken up.
//!
//! While some wait, a call is on its way through the inbox, or the leader that has taken it
//! is about to look here.

use super::connections::Connection;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of an accept loop that wait for a leader, one for each request.
#[derive(Default)]
pub struct Arrivals(Mutex<VecDeque<Arc<Connection>>>);

impl Arrivals {
    /// Adds a connection for its next request. Returns true if a leader is to be called.
    pub fn add(&self, connection: &Arc<Connection>) -> bool {
        let mut waiting = self.lock();
        waiting.push_back(Arc::clone(connection));
        waiting.len() == 1
    }

    /// Takes some, in order. The second is true if others are left, for which a leader is to
    /// be called.
    pub fn take(&self, most: usize) -> (Vec<Arc<Connection>>, bool) {
        let mut waiting = self.lock();
        let taken = most.min(waiting.len());
        let taken = waiting.drain(..taken).collect();
        (taken, !waiting.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Connection>>> {
        // Every change above is complete before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, target_os = "linux", not(portable)))]
mod tests {
    use super::*;
    use crate::server::connections::Connections;
    use crate::server::limits::Room;
    use crate::server::socket::Socket;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    #[test]
    fn the_first_alone_calls_a_leader() {
        let connections = Connections::within(Room::within(39, 100, None, Some(12)));
        let add = |port| {
            let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            connections.add(Socket::new(socket.into()), peer, 0)
        };
        let all = [add(1), add(2), add(3)];
        let arrivals = Arrivals::default();
        let calls = all.each_ref().map(|connection| arrivals.add(connection));
        assert_eq!(calls, [true, false, false]);

        let ports = |taken: &[Arc<Connection>]| {
            taken.iter().map(|connection| connection.peer.port()).collect::<Vec<_>>()
        };
        let (taken, are_left) = arrivals.take(2);
        assert_eq!((ports(&taken), are_left), (vec![1, 2], true));
        // A leader is called for the rest.
        assert!(!arrivals.add(&all[0]));
        let (taken, are_left) = arrivals.take(2);
        assert_eq!((ports(&taken), are_left), (vec![3, 1], false));
        assert!(arrivals.add(&all[1]));
    }
}
