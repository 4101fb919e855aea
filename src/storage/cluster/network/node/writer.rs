//! Requests on their way out: the writer takes all that waits, and writes it at once.
//!
//! A lone request is written by the thread that has it: that spares the time until the
//! writer has woken up. Where others are under way, to any node, it would be sent before
//! those that are about to follow it, and each would cost a packet. What makes a wave is
//! there, so it is written by the thread that has the last of it. One of the two writes at a
//! time, in the order of what is pending.

use super::super::link::Terms;
use super::super::protocol::Commands;
use super::super::router::Replies;
use super::super::traffic::{Job, count};
use super::{Node, Pending, Sent, Stand, State};
use crate::platform::scheduling;
use crate::platform::sockets::send_now;
use bytes::Bytes;
use std::io::{self, ErrorKind, Write as _};
use std::mem;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The bytes that are written at once; a single request may have more.
const WRITE_BYTES_MAX: usize = 256 << 10;

/// Commands of that length are written from where they are.
pub const LARGE_BYTES_MIN: usize = 32 << 10;

/// From so many requests under way on, to any node, the writer lets threads go first that
/// are ready: they bring more. A write, and the node's reading of it, cost nearly the same
/// for one request as for many.
const CROWD_MIN: usize = 8;

/// The reads that go together after a connection broke over them.
const SUSPECTS_MAX: usize = 256;

/// The time that replicas have for a batch of writes.
const WAIT_TIMEOUT: Duration = Duration::from_millis(500);

/// The time that replicas have once they were late.
const WAIT_AGAIN_TIMEOUT: Duration = Duration::from_millis(20);

/// The bytes of a lone request that is written by the thread that has it, at most.
const SMALL_BYTES_MAX: usize = 1024;

/// The bytes on their way out of a connection.
#[derive(Default)]
pub struct Output {
    /// Those that were to be written so far, and a batch may not be yet.
    position: u64,
    /// Those that another thread could not write.
    rest: Vec<u8>,
    /// The memory of the last batch of another thread.
    spare: Batch,
    /// Another thread writes.
    pub is_busy: bool,
    /// The writer waits for a ring.
    pub is_asleep: bool,
}

impl State {
    /// Returns true if nothing is under way on the connection.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.queue.is_empty() && self.free_stream().is_some()
    }

    /// Returns true if requests are in the queue that wait for no wave.
    pub fn has_requests(&self) -> bool {
        !self.queue.is_empty() && !self.is_gathering
    }

    /// The connection, if the writer sleeps and nobody writes in its place.
    fn free_stream(&self) -> Option<Arc<TcpStream>> {
        let is_free = self.stand == Stand::Connected
            && self.output.is_asleep
            && !self.output.is_busy
            && self.output.rest.is_empty();
        self.stream.as_ref().filter(|_| is_free).map(Arc::clone)
    }

    /// Returns true while the node waits for its replicas. It reads no further until then,
    /// so what is gathered meanwhile needs one `WAIT` for all of it. And true while a read
    /// that may break the connection is under way, or has to wait until nothing is.
    fn is_held_up(&self) -> bool {
        let is_next_suspect = self.queue.front().is_some_and(|job| job.breaks > 0);
        match self.pending.back() {
            Some(Pending::Wait(_) | Pending::Role(_)) => true,
            Some(Pending::Request(sent)) => sent.job.breaks > 0 || is_next_suspect,
            None => false,
        }
    }

    /// The next request that may go with so many that have this number of breaks. A read
    /// that goes with some that may break the connection is one of them by that.
    fn next_like(&mut self, count: usize, breaks: u8) -> Option<Box<Job>> {
        let next = self.queue.front()?;
        let is_like = match breaks {
            0 => next.breaks == 0,
            1 => next.breaks <= 1 && !next.is_write && count < SUSPECTS_MAX,
            _ => count == 0,
        };
        let mut job = if is_like { self.queue.pop_front()? } else { return None };
        job.breaks = job.breaks.max(breaks);
        Some(job)
    }
}

impl Node {
    /// Writes what is in the queue in the place of the writer, if that one sleeps. Never
    /// blocks: the writer writes what the socket does not take.
    pub fn write_in_place(&self, mut state: MutexGuard<'_, State>) {
        let Some(stream) = state.free_stream().filter(|_| !state.is_held_up()) else {
            return self.ring(state);
        };
        let mut batch = mem::take(&mut state.output.spare);
        self.take_batch(&mut state, &mut batch, false);
        state.output.is_busy = true;
        drop(state);
        // The writer meets a failure once more, and ends the connection.
        let written = send_now(&stream, &batch.bytes).unwrap_or_default();
        let mut state = self.lock();
        state.output.is_busy = false;
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        for rest in [batch.bytes.get(written..).unwrap_or_default(), &batch.large, &batch.behind] {
            state.output.rest.extend_from_slice(rest);
        }
        batch.clear();
        state.output.spare = batch;
        let is_idle = state.output.rest.is_empty()
            && !state.has_requests()
            && state.stand == Stand::Connected
            && !state.has_ended
            && !state.replicas.are_wanted;
        if !is_idle {
            self.ring(state);
        }
    }

    /// Writes what comes, until the connection breaks or the node has ended.
    pub fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        // More has gathered by the time that it runs.
        scheduling::batch_priority();
        let mut batch = Batch::default();
        while self.fill(&mut batch) {
            batch.write(&mut stream, &self.written)?;
            batch.clear();
        }
        Ok(())
    }

    /// Fills the next batch; waits until there is one, and returns false at the end.
    fn fill(&self, batch: &mut Batch) -> bool {
        let mut guard = self.lock();
        let mut is_held_up;
        loop {
            if !guard.output.is_busy {
                let is_over = guard.has_ended && guard.queue.is_empty() && guard.pending.is_empty();
                if guard.stand == Stand::Broken || is_over {
                    return false;
                }
                let has_rest = !guard.output.rest.is_empty();
                let has_work = guard.has_requests() || guard.replicas.are_wanted;
                is_held_up = guard.is_held_up();
                if has_rest || has_work && !is_held_up {
                    break;
                }
            }
            guard.output.is_asleep = true;
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
            guard.output.is_asleep = false;
            if self.traffic.pending() >= CROWD_MIN {
                drop(guard);
                scheduling::gather();
                guard = self.lock();
            }
        }
        self.take_batch(&mut guard, batch, is_held_up);
        true
    }

    /// Takes what is to be written next: nothing of the queue if that is held up.
    fn take_batch(&self, state: &mut State, batch: &mut Batch, is_held_up: bool) {
        let now = Instant::now();
        batch.bytes.append(&mut state.output.rest);
        // These have their position.
        let ahead = batch.len() as u64;
        let mut has_write = false;
        let breaks = state.queue.front().map_or(0, |job| job.breaks);
        let mut requests = 0;
        while !is_held_up && batch.bytes.len() < WRITE_BYTES_MAX && batch.large.is_empty() {
            let Some(job) = state.next_like(requests, breaks) else { break };
            requests += 1;
            count(&self.traffic.sent);
            state.last_used = now;
            has_write |= job.is_write;
            let (first_end, skips) = batch.add(&job, self.terms.scripts);
            let first_end = state.output.position + first_end as u64 - ahead;
            let replies = Replies::new();
            state.pending.push_back(Pending::Request(Sent {
                job,
                at: now,
                first_end,
                skips,
                replies,
            }));
        }
        if has_write && self.terms.replicas > 0 {
            batch.behind.extend_from_slice(&wait(self.terms.replicas, WAIT_TIMEOUT).bytes);
            state.pending.push_back(Pending::Wait(now));
        }
        if mem::take(&mut state.replicas.are_wanted) {
            state.replicas.asked = now;
            batch.behind.extend_from_slice(b"*1\r\n$4\r\nROLE\r\n");
            state.pending.push_back(Pending::Role(now));
            if state.replicas.are_late {
                // That is for the last write of this connection.
                let wait = wait(self.terms.replicas, WAIT_AGAIN_TIMEOUT);
                batch.behind.extend_from_slice(&wait.bytes);
                state.pending.push_back(Pending::Wait(now));
            }
        }
        state.output.position += batch.len() as u64 - ahead;
    }
}

/// Bytes to write, in three pieces.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Commands that are not copied.
    large: Bytes,
    /// Commands behind them.
    behind: Vec<u8>,
}

impl Batch {
    /// Returns true for a small request with nothing before or behind it.
    pub fn is_plain(job: &Job, terms: &Terms) -> bool {
        let is_awaited = job.is_write && terms.replicas > 0;
        let is_plain = !job.is_asking && !job.is_loading && !is_awaited && job.breaks == 0;
        is_plain && job.bytes.len() <= SMALL_BYTES_MAX
    }

    /// Writes all of it, and counts the bytes step by step.
    fn write(&self, stream: &mut &TcpStream, written: &AtomicU64) -> io::Result<()> {
        for bytes in [&*self.bytes, &*self.large, &*self.behind] {
            let mut left = bytes;
            while !left.is_empty() {
                match stream.write(left.get(..WRITE_BYTES_MAX).unwrap_or(left)) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        written.fetch_add(count as u64, Ordering::Relaxed);
                        left = left.get(count..).unwrap_or_default();
                    }
                    Err(err) if err.kind() == ErrorKind::Interrupted => {}
                    Err(err) if err.kind() == ErrorKind::WouldBlock => {
                        return Err(io::Error::new(ErrorKind::TimedOut, "it reads nothing"));
                    }
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(())
    }

    /// Adds a request; returns the end of its first command here, and the number of the
    /// replies before its own.
    fn add(&mut self, job: &Job, scripts: &[&str]) -> (usize, usize) {
        let start = self.bytes.len();
        if !job.is_asking && !job.is_loading {
            if job.bytes.len() < LARGE_BYTES_MIN {
                self.bytes.extend_from_slice(&job.bytes);
            } else {
                self.large = job.bytes.clone();
            }
            return (start + job.ends.first().copied().unwrap_or_default(), 0);
        }
        let scripts = if job.is_loading { scripts } else { &[] };
        for script in scripts {
            let load = Commands::default().with(&[b"SCRIPT", b"LOAD", script.as_bytes()]);
            self.bytes.extend_from_slice(&load.bytes);
        }
        let mut first_end = None;
        for command in job.commands() {
            if job.is_asking {
                self.bytes.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
            }
            self.bytes.extend_from_slice(command);
            first_end.get_or_insert(self.bytes.len());
        }
        (first_end.unwrap_or(start), scripts.len() + usize::from(job.is_asking))
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.large.len() + self.behind.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(2 * WRITE_BYTES_MAX);
        self.large = Bytes::new();
        self.behind.clear();
    }
}

/// The command that waits for replicas.
fn wait(replicas: usize, timeout: Duration) -> Commands {
    let (replicas, timeout) = (replicas.to_string(), timeout.as_millis().to_string());
    Commands::default().with(&[b"WAIT", replicas.as_bytes(), timeout.as_bytes()])
}
