//! Finding the sockets of new connections, and giving up those of ended ones.

use super::looking::Watched;
use super::{Dying, Guard, PACE_QUIET, pace_costs};
use crate::schedule;
use crate::server::guard::verdict::Watch;
use crate::server::socket::Socket;
use rustix::event::epoll;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often sockets are searched at least, while anything moves.
const SEARCH_INTERVAL: Duration = Duration::from_millis(100);

/// How often they are searched while nothing moves.
const SEARCH_INTERVAL_QUIET: Duration = Duration::from_secs(1);

/// How long the peer of a connection that was cut stays stopped at least,
/// unless tiny_http has closed the connection before, or hangs.
const STOPPED_MIN: Duration = Duration::from_secs(2);

impl Guard {
    /// Finds the sockets of new connections, where there may be any. Says
    /// whether all that there are have been found now.
    pub(super) fn search(&mut self, now: Instant) -> bool {
        self.loose.extend(self.connections.take_loose());
        let descriptors = self.sockets.descriptors();
        // As many may have come as have gone.
        let quiet = self.pace >= PACE_QUIET;
        let interval = if quiet { SEARCH_INTERVAL_QUIET } else { SEARCH_INTERVAL };
        let wary = self.is_wary(now);
        let stale = wary || now.duration_since(self.searched_at) > interval;
        let changed = descriptors.is_none() || descriptors != self.descriptors_seen || stale;
        self.search_due = changed || !self.loose.is_empty();
        if !self.search_due || now < self.next_search {
            return false;
        }
        let worked_before = schedule::time_worked();
        match self.sockets.search() {
            Ok(found) => {
                self.acceptor.found(found.iter().map(Socket::cookie));
                for socket in found {
                    self.watch(socket, now);
                }
            }
            Err(err) => {
                self.complain("search", &format!("sockets cannot be searched: {err}"));
                return false;
            }
        }
        self.searched_at = now;
        let costs = schedule::time_worked().saturating_sub(worked_before);
        self.next_search = Instant::now() + costs * pace_costs(wary) / 2;
        if !self.sockets.complete() {
            return false;
        }
        self.search_due = false;
        self.descriptors_seen = descriptors;
        // Those that have ended are seen to until they are closed.
        let Self { loose, connections, .. } = self;
        loose.retain(|connection| !connection.has_ended() && !connections.forget(connection));
        for order in std::mem::take(&mut self.pending) {
            let Some(connection) = order.connection() else { continue };
            match connection.socket() {
                Some(socket) => self.obey_on(&socket, order, now),
                None => self.obey_without(order),
            }
        }
        self.acceptor.searched(|cookie| self.sockets.has_seen(cookie));
        true
    }

    fn watch(&mut self, socket: Socket, now: Instant) {
        let data = epoll::EventData::new_u64(socket.cookie());
        // Each change is told once: one that lasts would not let the guard rest.
        let changes = epoll::EventFlags::IN | epoll::EventFlags::ET;
        if let Err(err) = epoll::add(&self.epoll, &socket, data, changes) {
            self.complain("watch", &format!("a socket cannot be watched: {err}"));
        }
        let (mut connection, _) = self.connections.of(socket.peer());
        if connection.has_ended() && connection.activity().cut {
            // That was another socket, which had the same peer before.
            connection = self.connections.renew(&connection);
        }
        let socket = Arc::new(socket);
        connection.attach(Arc::clone(&socket));
        let watch = Watch::new(connection.activity(), now);
        let cookie = socket.cookie();
        let watched = Watched {
            socket,
            connection,
            watch,
            lingers_until: None,
            fence: None,
            dismissed_at: None,
        };
        self.watched.insert(cookie, watched);
    }

    /// Cuts a connection.
    pub(super) fn cut(&mut self, cookie: u64) {
        if let Some(watched) = self.watched.get(&cookie) {
            watched.socket.cut();
        }
        self.end(cookie);
    }

    /// Gives up the socket of a connection that is shut in both directions.
    pub(super) fn end(&mut self, cookie: u64) {
        let Some(Watched { socket, connection, .. }) = self.watched.remove(&cookie) else { return };
        // Another may have come in its place, so that none seems to have gone.
        self.descriptors_seen = None;
        // A socket that epoll does not know needs no removal.
        epoll::delete(&self.epoll, &socket).ok();
        connection.detach(&socket);
        self.disposal.dispose(connection.discarded());
        self.dying.insert(cookie, Dying { connection, since: Instant::now() });
    }

    /// Sees to the connections that are shut and that tiny_http still has.
    ///
    /// Until it has closed the socket, requests of such a connection may come
    /// that were read before, so a stopped one stays known and stopped.
    pub(super) fn bury(&mut self, searched: bool) {
        let Self { dying, disposal, sockets, connections, loose, descriptors_seen, .. } = self;
        dying.retain(|cookie, Dying { connection, since }| {
            disposal.dispose(connection.discarded());
            let closed = searched && !sockets.has_seen(*cookie);
            if closed {
                connection.bury();
                *descriptors_seen = None;
            }
            let is_over = closed || connection.hangs() || since.elapsed() > STOPPED_MIN;
            if is_over && !connections.forget(connection) {
                loose.push(Arc::clone(connection));
            }
            !closed
        });
    }
}
