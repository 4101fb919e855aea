//! Leader/followers: one thread at a time takes requests, from tiny_http.
//!
//! To wake another thread up costs more than a small answer does. So no thread
//! stands between tiny_http and the ready lane: one thread of the lane leads,
//! takes each request and answers it, unless it may have to wait. What has to be
//! committed first comes back to it. The others do what is left with them, and
//! the watchdog gives the lead to one of them where the leader does not come back
//! from a request.

use super::dispatch::Dispatcher;
use super::inlet;
use super::job::Job;
use super::request::Meaning;
use crate::api::Reply;
use crate::platform::scheduling;
use std::collections::VecDeque;
use std::io;
use std::iter;
use std::mem;
use std::net::TcpListener;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A leader that is at the same answer for so long loses the lead.
const STUCK_AFTER: Duration = Duration::from_millis(5);

/// How many requests are taken at a time before the first is begun with.
const TAKEN_MAX: usize = 64;

/// The lead over the requests of one tiny_http server.
pub(super) struct Leadership {
    server: Arc<tiny_http::Server>,
    turn: Mutex<State>,
    retired: AtomicBool,
}

/// Whose turn it is: a thread leads until there is a later term than its own.
pub(super) type Turn = u64;

#[derive(Default)]
struct State {
    term: Turn,
    doing: Doing,
    /// Requests in work, one of each connection at most, that are to be begun
    /// with or to be answered.
    taken: VecDeque<Taken>,
}

/// A request in work that is the leader's.
enum Taken {
    /// Nobody has begun with it.
    Request(Job, Meaning),
    /// It was committed, and is to be answered with this.
    Committed(Job, Reply),
}

/// What the leader does.
#[derive(Clone, Copy, Default)]
enum Doing {
    /// It waits for a request, or takes one; or another is about to lead. Were
    /// it displaced here, a request could be overtaken by the next one of its
    /// connection, which then waits for its answer for ever.
    #[default]
    Taking,
    /// It answers one, and nobody has looked at it since it began.
    Answering,
    /// It is at the same one since this time, or longer.
    AnsweringSince(Instant),
}

/// Why a thread does not lead any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Another leads in its place.
    Displaced,
    /// There is nothing to be led any more.
    Retired,
}

impl Leadership {
    /// Has tiny_http accept on `listener`. The thread that calls this is to
    /// lead, in term 0.
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        // What tiny_http starts is scheduled as the thread that starts it.
        scheduling::batch_priority();
        let server = tiny_http::Server::from_listener(listener, None);
        let server = Arc::new(server.map_err(io::Error::other)?);
        // Dropping a server makes it connect to its own address, which may
        // hang or reach a stranger. One more owner keeps it from that.
        mem::forget(Arc::clone(&server));
        Ok(Self { server, turn: Mutex::default(), retired: AtomicBool::new(false) })
    }

    /// Takes requests, and answers them, until the turn is over.
    pub(super) fn run(&self, term: Turn, dispatcher: &Arc<Dispatcher>) -> Exit {
        scheduling::prefer_wakeup(scheduling::SLICE);
        while self.answer_taken(term, dispatcher) {
            if self.is_retired() {
                return Exit::Retired;
            }
            self.take(dispatcher);
        }
        scheduling::batch_priority();
        Exit::Displaced
    }

    /// Answers what was taken, by a leader before this one too, and some of what
    /// was committed. Says whether the turn goes on; until the next call nobody
    /// can end it.
    fn answer_taken(&self, term: Turn, dispatcher: &Arc<Dispatcher>) -> bool {
        // Once: what is committed meanwhile comes behind the next requests.
        let committed = dispatcher.completions.take().into_iter();
        let committed = committed.map(|(job, reply)| Taken::Committed(job, reply));
        self.lock().taken.extend(committed);
        loop {
            let mut turn = self.lock();
            if turn.term != term {
                return false;
            }
            let Some(taken) = turn.taken.pop_front() else {
                turn.doing = Doing::Taking;
                return true;
            };
            turn.doing = Doing::Answering;
            drop(turn);
            match taken {
                Taken::Request(job, meaning) => dispatcher.handle(job, meaning),
                Taken::Committed(job, reply) => dispatcher.answer_committed(job, reply),
            }
        }
    }

    /// Waits for a request, and takes those that are there with it.
    fn take(&self, dispatcher: &Arc<Dispatcher>) {
        let first = self.server.recv().map(Some);
        dispatcher.watchdog.watch_leader();
        let more = iter::repeat_with(|| self.server.try_recv()).take(TAKEN_MAX - 1);
        for call in iter::once(first).chain(more) {
            match call {
                Ok(Some(call)) => {
                    let entered =
                        panic::catch_unwind(AssertUnwindSafe(|| inlet::enter(dispatcher, call)));
                    let Ok(started) = entered else {
                        log::error!("a request was lost on its way in");
                        continue;
                    };
                    let started = started.map(|(job, meaning)| Taken::Request(job, meaning));
                    self.lock().taken.extend(started);
                }
                Ok(None) => return,
                // tiny_http's own word for an unblocked queue has no code.
                Err(err) if err.raw_os_error().is_none() => return,
                // The watchdog sees whether there is an accept loop.
                Err(err) => log::debug!("accepting connections has ended: {err}"),
            }
        }
    }

    /// Looks whether the leader is stuck, at most once in a while. If so its
    /// turn is over, and another thread is to lead in the term that this gives.
    pub(super) fn displace_stuck(&self, now: Instant) -> Option<Turn> {
        let mut turn = self.lock();
        match turn.doing {
            Doing::Taking => None,
            Doing::Answering => {
                turn.doing = Doing::AnsweringSince(now);
                None
            }
            Doing::AnsweringSince(since) if now.duration_since(since) < STUCK_AFTER => None,
            Doing::AnsweringSince(_) => {
                turn.term += 1;
                turn.doing = Doing::Taking;
                Some(turn.term)
            }
        }
    }

    /// Whether the leader was at an answer when it was last looked at.
    pub(super) fn is_answering(&self) -> bool {
        !matches!(self.lock().doing, Doing::Taking)
    }

    /// Has the leader come back from waiting for requests.
    pub(super) fn wake(&self) {
        self.server.unblock();
    }

    /// Ends the thread that leads.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether nobody leads any more.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything could panic.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
