//! How the other threads reach the guard: its orders, and the bell that wakes
//! it up.

use crate::server::answer::Answer;
use crate::server::connections::Connection;
use crate::server::front::{Message, Ready};
use crate::server::job::Job;
use crossbeam_channel::{Receiver, Sender};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How the other threads reach the guard. Nothing here blocks but
/// [`Handle::is_established`].
#[derive(Clone)]
pub(in crate::server) struct Handle {
    // Few orders about one connection wait here at a time.
    orders: Sender<Order>,
    pub(super) bell: Arc<Bell>,
}

/// Wakes the guard up.
pub(super) struct Bell {
    pub(super) event: OwnedFd,
    /// Whether the guard sleeps until something happens.
    pub(super) quiet: AtomicBool,
}

pub(super) enum Order {
    /// Send the last answer, if any, and end the connection in good order.
    Close(Arc<Connection>, Vec<u8>),
    /// End the connection now.
    Cut(Arc<Connection>),
    /// Say whether the client could still send and receive.
    Ask(Arc<Connection>, Sender<bool>),
    /// Find the connection's socket, then have the answer written.
    Find(Arc<Connection>, Box<(Job, Answer)>),
    /// Empty the server, say so, and go on until told to stop.
    Drain(Sender<()>),
    Stop,
}

/// What [`Guard::new`](super::Guard::new) needs of the channel that a [`Handle`] sends to.
pub(in crate::server) struct Orders {
    pub(super) ordered: Receiver<Order>,
    pub(super) ready: Sender<Message<Ready>>,
}

impl Order {
    /// The connection that it is about.
    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        match self {
            Self::Close(connection, _)
            | Self::Cut(connection)
            | Self::Ask(connection, _)
            | Self::Find(connection, _) => Some(connection),
            Self::Drain(_) | Self::Stop => None,
        }
    }
}

impl Handle {
    /// A handle, and the other end of it for the guard to come, which gives
    /// answers back to `ready`.
    pub(in crate::server) fn new(ready: Sender<Message<Ready>>) -> io::Result<(Self, Orders)> {
        let (orders, ordered) = crossbeam_channel::unbounded();
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(Bell { event, quiet: AtomicBool::new(true) });
        Ok((Self { orders, bell }, Orders { ordered, ready }))
    }

    /// Answers a request without looking at the rest of its body, and ends
    /// its connection.
    pub(in crate::server) fn refuse(&self, job: Job, answer: &[u8]) {
        let connection = Arc::clone(&job.connection);
        connection.stop(Some(job));
        self.order(Order::Close(connection, answer.to_vec()));
    }

    /// Ends a connection whose last answer was written.
    pub(in crate::server) fn close(&self, connection: Arc<Connection>) {
        connection.stop(None);
        self.order(Order::Close(connection, Vec::new()));
    }

    /// Ends a connection at once.
    pub(in crate::server) fn cut(&self, connection: Arc<Connection>) {
        connection.stop(None);
        self.order(Order::Cut(connection));
    }

    /// Ends a connection at once that was stopped while a request is in work.
    pub(in crate::server) fn cut_in_work(&self, connection: Arc<Connection>) {
        self.order(Order::Cut(connection));
    }

    /// Whether the client could still send and receive a moment ago. Waits
    /// for the guard, some milliseconds where it does not know the connection.
    pub(in crate::server) fn is_established(&self, connection: &Arc<Connection>) -> bool {
        let (answer, answered) = crossbeam_channel::bounded(1);
        self.order(Order::Ask(Arc::clone(connection), answer));
        answered.recv().unwrap_or(false)
    }

    /// Has the guard look for the sockets of connections it has not seen.
    pub(in crate::server) fn notice(&self) {
        if self.bell.quiet.load(Ordering::Relaxed) {
            self.bell.ring();
        }
    }

    /// Gives an answer back to the ready lane once the socket of its connection
    /// is known.
    pub(in crate::server) fn find(&self, job: Job, answer: Answer) {
        self.order(Order::Find(Arc::clone(&job.connection), Box::new((job, answer))));
    }

    /// Has every connection end once its request is answered; the receiver
    /// hears when none is left.
    pub(in crate::server) fn drain(&self) -> Receiver<()> {
        let (done, drained) = crossbeam_channel::bounded(1);
        self.order(Order::Drain(done));
        drained
    }

    /// Ends the guard's thread.
    pub(in crate::server) fn stop(&self) {
        self.order(Order::Stop);
    }

    fn order(&self, order: Order) {
        // After the guard has ended nothing is left to be ordered.
        if self.orders.send(order).is_ok() {
            self.bell.ring();
        }
    }
}

impl Bell {
    fn ring(&self) {
        // It fails only where the counter is full, and then it rings already.
        rustix::io::write(&self.event, &1_u64.to_ne_bytes()).ok();
    }

    pub(super) fn silence(&self) {
        rustix::io::read(&self.event, &mut [0_u8; 8]).ok();
    }
}
