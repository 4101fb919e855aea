//! Taking requests from tiny_http, which is the turn of one thread at a time.
//!
//! To wake another thread up costs more than a small answer does. So no thread
//! stands between tiny_http and the ready lane: one thread of the lane leads,
//! takes each request and answers it, unless it may have to wait. What has to be
//! committed first comes back to it. The others do what is left with them, and
//! the guard gives the lead to one of them where the leader does not come back
//! from a request.

use super::front::Front;
use super::job::Job;
use crate::api::Reply;
use crate::schedule;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::TcpListener;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A leader that is at the same answer for so long loses the lead.
const STUCK_AFTER: Duration = Duration::from_millis(5);

/// The lead over the requests of one tiny_http server.
pub(super) struct Lead {
    server: Arc<tiny_http::Server>,
    turn: Mutex<Turn>,
    retired: AtomicBool,
    /// How many marks were put into tiny_http's queue, and how many came out.
    marks_put: AtomicU64,
    marks_met: AtomicU64,
}

/// Whose turn it is: a thread leads until there is a later term than its own.
pub(super) type Term = u64;

#[derive(Default)]
struct Turn {
    term: Term,
    doing: Doing,
    /// Requests in work, one of each connection at most, that are to be begun
    /// with or to be answered.
    taken: VecDeque<Taken>,
}

/// A request in work that is the leader's.
enum Taken {
    /// Nobody has begun with it.
    Request(Job),
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
pub(super) enum Left {
    /// Another leads in its place.
    Displaced,
    /// There is nothing to be led any more.
    Retired,
}

/// A place in tiny_http's queue: once it is passed, all requests that were
/// parsed before are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Lead {
    /// Has tiny_http accept on `listener`. The thread that calls this is to
    /// lead, in term 0.
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        // What tiny_http starts is scheduled as the thread that starts it.
        schedule::let_others_finish();
        let server = tiny_http::Server::from_listener(listener, None);
        let server = Arc::new(server.map_err(io::Error::other)?);
        // Dropping a server makes it connect to its own address, which may
        // hang or reach a stranger. One more owner keeps it from that.
        mem::forget(Arc::clone(&server));
        Ok(Self {
            server,
            turn: Mutex::default(),
            retired: AtomicBool::new(false),
            marks_put: AtomicU64::new(0),
            marks_met: AtomicU64::new(0),
        })
    }

    /// Takes requests, and answers them, until the turn is over.
    pub(super) fn run(&self, term: Term, front: &Arc<Front>) -> Left {
        schedule::ask_for_slices(schedule::SLICE);
        while self.answer_taken(term, front) {
            if self.is_retired() {
                return Left::Retired;
            }
            self.take(front);
            // All that has come is counted where it belongs before any of it
            // is begun with: tiny_http's own queue has no end.
            let Mark(last) = self.put_mark();
            while self.marks_met.load(Ordering::Relaxed) < last {
                self.take(front);
            }
        }
        schedule::let_others_finish();
        Left::Displaced
    }

    /// Answers what was taken, by a leader before this one too, and some of what
    /// was committed. Says whether the turn goes on; until the next call nobody
    /// can end it.
    fn answer_taken(&self, term: Term, front: &Arc<Front>) -> bool {
        // Once: what is committed meanwhile comes behind the next requests.
        let committed = front.committed.take().into_iter();
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
                Taken::Request(job) => front.run_taken(job),
                Taken::Committed(job, reply) => front.answer_committed(job, reply),
            }
        }
    }

    /// Waits for what comes next from tiny_http.
    fn take(&self, front: &Front) {
        match self.server.recv() {
            Ok(request) => match panic::catch_unwind(AssertUnwindSafe(|| front.enter(request))) {
                Ok(started) => self.lock().taken.extend(started.map(Taken::Request)),
                Err(_panic) => log::error!("a request was lost on its way in"),
            },
            // tiny_http's own word for an unblocked queue has no code.
            Err(err) if err.raw_os_error().is_none() => {
                self.marks_met.fetch_add(1, Ordering::Relaxed);
            }
            // The guard sees that the accept loop has let go of its socket.
            Err(err) => log::debug!("accepting connections has ended: {err}"),
        }
    }

    /// Looks whether the leader is stuck, at most once in a while. If so its
    /// turn is over, and another thread is to lead in the term that this gives.
    pub(super) fn displace_stuck(&self, now: Instant) -> Option<Term> {
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

    /// Puts a mark at the end of tiny_http's queue.
    pub(super) fn put_mark(&self) -> Mark {
        self.marks_put.fetch_add(1, Ordering::Relaxed);
        self.server.unblock();
        // Others may have put theirs meanwhile: that makes it later, not sooner.
        Mark(self.marks_put.load(Ordering::Relaxed))
    }

    /// Whether the queue was taken as far as `mark`.
    pub(super) fn has_passed(&self, Mark(mark): Mark) -> bool {
        self.is_retired() || self.marks_met.load(Ordering::Relaxed) >= mark
    }

    /// Ends the thread that leads.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.put_mark();
    }

    /// Whether nobody leads any more.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        // Every change above is complete before anything could panic.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
