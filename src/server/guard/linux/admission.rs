//! How many connections there may be, and the accept loop that lets them in.

use super::looking::Watched;
use super::{Dying, Guard, HANGING_AFTER};
use crate::server::limits;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// How long a client that there is no room for may take to hear so.
const LINGER_CROWDED: Duration = Duration::from_millis(50);

/// How often the accept loop is replaced at most.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The last words to a client that there is no room for.
const TOO_MANY: (u16, &str) = (503, "too many connections, try again");

impl Guard {
    /// Closes the connections over the cap: those that were silent longest,
    /// or else the newest, which hear why.
    pub(super) fn keep_cap(&mut self, now: Instant) {
        let leaked = self.leaked();
        if leaked > 0 {
            self.complain("leak", &format!("threads of tiny_http that hang for ever: {leaked}"));
        }
        let cap = self.limits.connections_max.saturating_sub(leaked);
        let leaving = |w: &&Watched| w.dismissed_at.is_some() || w.lingers_until.is_some();
        let staying = self.watched.len() - self.watched.values().filter(leaving).count();
        if staying <= cap {
            return;
        }
        let over = staying - cap;
        let may_go = |w: &&mut Watched| {
            w.dismissed_at.is_none() && w.lingers_until.is_none() && w.connection.is_idle()
        };
        let is_silent = |w: &&mut Watched| w.watch.is_served() && !w.watch.is_mid_request();
        let (mut silent, mut others): (Vec<_>, Vec<_>) =
            self.watched.values_mut().filter(may_go).partition(is_silent);
        silent.sort_by_key(|watched| watched.watch.since());
        others.sort_by_key(|watched| Reverse(watched.watch.since()));
        let turned_away = over.saturating_sub(silent.len());
        for watched in silent.into_iter().take(over) {
            watched.dismiss(now);
        }
        for watched in others.into_iter().take(turned_away) {
            watched.say(TOO_MANY);
            watched.socket.stop_sending();
            watched.lingers_until = Some(now + LINGER_CROWDED);
        }
        self.complain("cap", &format!("{cap} connections are open, which is as many as may be"));
    }

    /// Whether some accept loop holds the listening socket, beside ourselves.
    pub(super) fn accepts(&self) -> bool {
        self.sockets.listeners() > 1
    }

    /// Replaces the accept loop once it has ended.
    pub(super) fn keep_accepting(&mut self, now: Instant) {
        let unknown = self.draining.is_some() || !self.sockets.has_searched();
        let crowded = self.sockets.descriptors().is_some_and(limits::descriptors_are_short);
        if unknown || crowded || self.accepts() || now < self.accept_retry_at {
            return;
        }
        self.accept_retry_at = now + ACCEPT_RETRY;
        for cookie in self.acceptor.in_the_way() {
            if let Some(watched) = self.watched.get_mut(&cookie).filter(|w| w.connection.is_idle())
            {
                watched.dismiss(now);
            }
        }
        match self.acceptor.replace() {
            Ok(()) => {
                // The next search finds its socket.
                self.descriptors_seen = None;
                self.complain("accept", "the accept loop had ended, so another was started");
            }
            Err(err) => {
                self.complain("no accept", &format!("no accept loop can be started: {err}"));
            }
        }
    }

    /// How many threads of tiny_http hang for ever.
    fn leaked(&self) -> usize {
        let hangs =
            |dying: &&Dying| dying.since.elapsed() > HANGING_AFTER && dying.connection.is_idle();
        self.dying.values().filter(hangs).count()
    }
}
