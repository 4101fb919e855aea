//! Looking at every connection, and doing what its state asks for.

use super::{Guard, LINGER, LINGER_DRAINING};
use crate::api::Reply;
use crate::server::accept::Fence;
use crate::server::answer::{Answer, Persistence};
use crate::server::connections::Connection;
use crate::server::guard::verdict::{Meter, Moved, Verdict, Watch};
use crate::server::socket::Socket;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request that has begun is waited for once the server stops.
const BEGUN_GRACE: Duration = Duration::from_millis(300);

/// How much of what a refused client still sends is thrown away in one go.
const DISCARD_BYTES_MAX: usize = 8 << 20;

/// The most sleeping threads of tiny_http that are woken up in one round.
const KICKS_MAX: usize = 64;

/// The last words to a client that took too long.
const LATE: (u16, &str) = (408, "the request took too long");

/// The last words to a client whose chunks are hardly more than framing.
const BLOATED: (u16, &str) = (400, "the chunks have too little in them");

/// The last words to a client whose head has no end.
const TOO_LARGE: (u16, &str) = (431, "the head is longer than 64 KiB");

/// A connection whose socket is known.
pub(super) struct Watched {
    pub(super) socket: Arc<Socket>,
    pub(super) connection: Arc<Connection>,
    pub(super) watch: Watch,
    /// The last answer was sent; by then the connection is cut.
    pub(super) lingers_until: Option<Instant>,
    /// Its head seems too large, unless requests of it come before this.
    pub(super) fence: Option<Fence>,
    /// When tiny_http was let find the end of the stream.
    pub(super) dismissed_at: Option<Instant>,
}

/// What a round of looks has found.
#[derive(Clone, Copy, Default)]
pub(super) struct Moving {
    /// Something has moved somewhere.
    pub(super) any: bool,
    /// A connection that nobody has read yet is among it.
    pub(super) fresh: bool,
    /// A connection whose head seems too large is among it.
    pub(super) flooded: bool,
}

impl Guard {
    /// Looks at every connection and does what its state asks for. Says
    /// whether anything has moved.
    pub(super) fn look_at_all(&mut self, now: Instant) -> Moving {
        let mut moving = Moving::default();
        let mut condemned = Vec::new();
        let mut starved = 0;
        let draining = self.draining.as_ref().map(|draining| draining.since);
        for (cookie, watched) in &mut self.watched {
            if let Some(until) = watched.lingers_until {
                moving.any = true;
                if !watched.socket.discard(DISCARD_BYTES_MAX) {
                    // The client has hung up, or is about to.
                    watched.socket.stop();
                } else if now >= until {
                    condemned.push((*cookie, None));
                }
                continue;
            }
            let activity = watched.connection.activity();
            if activity.cut {
                // Its order is on the way, and sooner than this.
                watched.lingers_until = Some(now + LINGER);
                moving.any = true;
                continue;
            }
            let Watched { socket, watch, .. } = watched;
            let verdict = watch.look(activity, now, &self.limits, &**socket);
            if verdict != Verdict::TooLarge {
                watched.fence = None;
            }
            match verdict {
                Verdict::Quiet => {}
                Verdict::Moving => moving.any = true,
                Verdict::Fresh => moving.fresh = true,
                Verdict::Starved => {
                    moving.fresh = true;
                    starved += 1;
                }
                Verdict::Idle => watched.dismiss(now),
                Verdict::Late => condemned.push((*cookie, Some(LATE))),
                Verdict::TooLarge => {
                    // It may be many requests that nobody has taken yet.
                    moving.flooded = true;
                    let fence = watched.fence.get_or_insert_with(|| self.acceptor.fence());
                    if fence.is_passed() && watched.connection.activity() == activity {
                        self.flooded_at = Some(now);
                        condemned.push((*cookie, Some(TOO_LARGE)));
                    }
                }
                Verdict::Bloated => condemned.push((*cookie, Some(BLOATED))),
            }
            if let Some(since) = draining
                && activity.stage.is_none()
                && (!watched.watch.is_mid_request() || now.duration_since(since) > BEGUN_GRACE)
            {
                watched.dismiss(now);
            }
            if activity.stage.is_none()
                && watched.dismissed_at.is_some_and(|at| now.duration_since(at) > LINGER_DRAINING)
            {
                condemned.push((*cookie, None));
            }
        }
        // Without an accept loop a kick would only wait in its queue.
        if self.accepts() {
            (0..starved.min(KICKS_MAX)).for_each(|_| self.acceptor.kick());
        }
        for (cookie, last_words) in condemned {
            if let (Some(words), Some(watched)) = (last_words, self.watched.get(&cookie)) {
                watched.say(words);
            }
            self.cut(cookie);
        }
        moving
    }
}

impl Watched {
    /// Lets tiny_http find the end of the stream, whereupon it closes.
    pub(super) fn dismiss(&mut self, now: Instant) {
        if self.dismissed_at.is_none() {
            self.dismissed_at = Some(now);
            self.socket.stop_receiving();
        }
    }

    /// Takes no more requests, and sends a last answer of ours unless some
    /// thread may be writing another.
    pub(super) fn say(&self, (status, text): (u16, &'static str)) {
        if !self.connection.stop_silent() {
            return;
        }
        let reply = Reply::error(status, text);
        let answer = Answer { reply, head_only: false, persistence: Persistence::Close };
        // A client that takes no answer goes without one.
        let _sent: bool = self.socket.try_send(&answer.first_part());
    }
}

impl Meter for Socket {
    fn moved(&self) -> Option<Moved> {
        let traffic = self.traffic()?;
        Some(Moved { received: traffic.received, acknowledged: traffic.acknowledged })
    }

    fn unread(&self) -> u64 {
        Socket::unread(self)
    }
}
