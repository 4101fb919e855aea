//! The requests of one connection: a few wait, and at most one is in work.
//!
//! They are read ahead, and their responses keep their order because the next
//! one begins once the last was answered: its reader begins with a request if no other is
//! in work, and else whoever has answered that one does. Nothing here knows the socket.

use super::request::Request;
use crate::api::Waiting;
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The most requests of one connection that are read ahead of their turn.
const READ_AHEAD_MAX: usize = 32;

/// The requests of one connection.
#[derive(Default)]
pub struct Pipeline {
    state: Mutex<State>,
    /// Wakes the reader, which waits for its turn.
    turn: Condvar,
    /// Part of a request has come that was not read as a whole.
    is_coming: AtomicBool,
}

#[derive(Default)]
struct State {
    life: Life,
    /// The stage of the request in work.
    stage: Option<Stage>,
    /// Requests that wait behind the one in work, in order. Without that there are none.
    waiting: VecDeque<Request>,
    /// The requests read so far.
    begun: u64,
    /// The reader waits for its turn.
    is_waited_for: bool,
    /// The reader has left: the last request was read.
    is_read_out: bool,
    /// The call in work, if it waits.
    wait: Option<Arc<dyn Waiting>>,
    /// The client has ended its side.
    has_ended: bool,
    /// The body that is taken as it comes.
    upload: Upload,
}

/// A body that is taken as it comes, by a reader that answers it in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upload {
    /// There is none.
    #[default]
    None,
    /// It is read to its end.
    Coming,
    /// It is read as far as it has come.
    Late,
}

/// The fate of a request that was added.
#[allow(clippy::large_enum_variant, reason = "nearly all of them begin")]
pub enum Added {
    /// It is in work from now on.
    Begun(Request),
    /// It waits behind another.
    Waits,
    /// Too many wait, or the connection takes none any more.
    Refused,
}

/// The life of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Requests are read and answered.
    #[default]
    Open,
    /// The last response was written; input is thrown away.
    Closing,
    /// It is over.
    Cut,
}

/// The stage of a request in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a thread or for the storage, not for its client.
    Working,
    /// It waits for its condition, for as long as it has asked for.
    Waiting,
    /// Its body is being read, whose length is known.
    Receiving,
    /// Its body is being read, which ends when its client says so.
    ReceivingChunked,
    /// Its response is being written.
    Sending,
    /// Its response is written in parts, each of which is made once the last one was
    /// written.
    Parts,
    /// Its response is a stream: it waits for something to tell of, or a part of it is
    /// being written.
    Streaming,
}

/// A connection's occupation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupation {
    /// No request is in work, and none has begun to come.
    Idle,
    /// A request is coming.
    Reading,
    /// A request waits for a thread or for the storage.
    Working,
    /// A request waits for its condition.
    Waiting,
    /// A response is being written.
    Sending,
    /// A response is a stream.
    Streaming,
    /// The last response was written.
    Closing,
}

/// The watchdog's view of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The requests read so far.
    pub begun: u64,
    /// The stage of the request in work; `None` without one.
    pub stage: Option<Stage>,
    /// The bytes received so far.
    pub received: u64,
    /// Part of a request has come that was not read as a whole.
    pub is_coming: bool,
    /// The last response was written.
    pub is_closing: bool,
}

impl Pipeline {
    /// Notes whether part of a request has come.
    pub fn set_coming(&self, is_coming: bool) {
        self.is_coming.store(is_coming, Ordering::Relaxed);
    }

    /// Adds a request that was read as a whole.
    pub fn add(&self, request: Request) -> Added {
        let mut state = self.lock();
        if state.life != Life::Open || state.waiting.len() >= READ_AHEAD_MAX {
            return Added::Refused;
        }
        self.set_coming(false);
        state.begun += 1;
        if matches!(state.stage, None | Some(Stage::Receiving | Stage::ReceivingChunked)) {
            state.stage = Some(Stage::Working);
            return Added::Begun(request);
        }
        state.waiting.push_back(request);
        Added::Waits
    }

    /// Ends the work on a request, and gives the next one, which is in work then.
    pub fn next(&self) -> Option<Request> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        state.stage = next.as_ref().map(|_| Stage::Working);
        if state.waiting.is_empty() {
            // Most connections have one at a time.
            state.waiting.shrink_to(1);
        }
        if state.is_waited_for && state.waiting.len() <= READ_AHEAD_MAX / 2 {
            self.turn.notify_all();
        }
        next
    }

    /// Returns true if requests wait behind the one in work.
    pub fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Waits until a few more requests may be read; `false` if the connection is
    /// not open.
    pub fn wait_for_room(&self) -> bool {
        // Once it waits, it waits for more than one.
        self.wait_while(|state| {
            let max = if state.is_waited_for { READ_AHEAD_MAX / 2 + 1 } else { READ_AHEAD_MAX };
            state.waiting.len() >= max
        })
    }

    /// Waits until every request was answered; `false` if the connection is not
    /// open.
    pub fn wait_until_answered(&self) -> bool {
        self.wait_while(|state| state.stage.is_some())
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        while state.life == Life::Open && condition(&state) {
            state.is_waited_for = true;
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_waited_for = false;
        state.life == Life::Open
    }

    /// Sets the stage of the request in work; `false` if the connection is not
    /// open.
    pub fn set_stage(&self, now: Stage) -> bool {
        let mut state = self.lock();
        let is_open = state.life == Life::Open;
        if is_open {
            state.stage = Some(now);
        }
        is_open
    }

    /// Notes that a body is taken as it comes from then on, or is not any more.
    pub fn set_uploading(&self, is_uploading: bool) {
        self.lock().upload = if is_uploading { Upload::Coming } else { Upload::None };
    }

    /// Notes that a body which is taken as it comes is late; `false` if there is none.
    pub fn end_upload(&self) -> bool {
        let mut state = self.lock();
        let is_uploading = state.upload != Upload::None;
        if is_uploading {
            state.upload = Upload::Late;
        }
        is_uploading
    }

    /// Returns true if a body which is taken as it comes is late.
    pub fn is_upload_late(&self) -> bool {
        self.lock().upload == Upload::Late
    }

    /// Notes that the request in work waits, in this stage. Where nobody can be there for
    /// its answer the wait ends.
    pub fn note_wait(&self, waiting: &Arc<dyn Waiting>, now: Stage) {
        let mut state = self.lock();
        state.wait = Some(Arc::clone(waiting));
        let is_over = state.has_ended || state.life != Life::Open;
        if state.life == Life::Open {
            state.stage = Some(now);
        }
        drop(state);
        if is_over {
            waiting.end();
        }
    }

    /// Notes that the request in work waits no more.
    pub fn note_wait_end(&self) {
        let mut state = self.lock();
        let waiting = state.wait.take();
        if state.stage == Some(Stage::Waiting) {
            state.stage = Some(Stage::Working);
        }
        drop(state);
        drop(waiting);
    }

    /// Returns true if nobody can be there for more of an answer than is under way.
    pub fn is_ending(&self) -> bool {
        let state = self.lock();
        state.has_ended || state.life != Life::Open
    }

    /// Ends the wait of the request in work, if it waits.
    pub fn end_wait(&self) {
        let waiting = self.lock().wait.clone();
        if let Some(waiting) = waiting {
            waiting.end();
        }
    }

    /// Notes that the client has ended its side: it may want its answers all the same,
    /// but none of them waits.
    pub fn note_client_end(&self) {
        self.lock().has_ended = true;
        self.end_wait();
    }

    /// Takes no request any more, unless one is in work that may be answered at
    /// any moment; `false` in that case, and if it is not open.
    pub fn close(&self) -> bool {
        let mut state = self.lock();
        let is_at_work = matches!(
            state.stage,
            Some(
                Stage::Working | Stage::Waiting | Stage::Sending | Stage::Parts | Stage::Streaming
            )
        );
        if is_at_work || state.life != Life::Open {
            return false;
        }
        state.life = Life::Closing;
        if state.is_waited_for {
            self.turn.notify_all();
        }
        true
    }

    /// Ends it: takes no request any more, and drops those that wait.
    pub fn end(&self, life: Life) {
        let mut state = self.lock();
        if state.life != Life::Cut {
            state.life = life;
        }
        state.stage = None;
        let waiting = mem::take(&mut state.waiting);
        if state.is_waited_for {
            self.turn.notify_all();
        }
        drop(state);
        drop(waiting);
        self.end_wait();
    }

    /// Lets the reader leave, which has read the last request; `false` if the
    /// connection is not open, and the reader sees to its end.
    pub fn read_out(&self) -> bool {
        let mut state = self.lock();
        state.is_read_out = state.life == Life::Open;
        state.is_read_out
    }

    /// Returns true if the reader has left, and others see to the connection's end.
    pub fn is_read_out(&self) -> bool {
        self.lock().is_read_out
    }

    /// The watchdog's view, with the bytes `received`.
    pub fn activity(&self, received: u64) -> Activity {
        let state = self.lock();
        Activity {
            begun: state.begun,
            stage: state.stage,
            received,
            is_coming: self.is_coming.load(Ordering::Relaxed),
            is_closing: state.life != Life::Open,
        }
    }

    /// Its occupation and the number of its requests that are not answered yet.
    pub fn occupation(&self) -> (Occupation, usize) {
        let state = self.lock();
        let requests = state.waiting.len() + usize::from(state.stage.is_some());
        let occupation = match state.stage {
            _ if state.life != Life::Open => Occupation::Closing,
            Some(Stage::Working) => Occupation::Working,
            Some(Stage::Waiting) => Occupation::Waiting,
            Some(Stage::Receiving | Stage::ReceivingChunked) => Occupation::Reading,
            Some(Stage::Sending | Stage::Parts) => Occupation::Sending,
            Some(Stage::Streaming) => Occupation::Streaming,
            None if self.is_coming.load(Ordering::Relaxed) => Occupation::Reading,
            None => Occupation::Idle,
        };
        (occupation, requests)
    }

    /// Returns true if no request is in work and none has begun to come.
    pub fn is_idle(&self) -> bool {
        self.lock().stage.is_none() && !self.is_coming.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
