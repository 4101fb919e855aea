//! What is left of the guard where sockets cannot be found from outside.
//!
//! No deadline is kept here and no connection is cut. A refusal waits until
//! tiny_http has read the rest of the body, and a chunked body that is cut off
//! inside a chunk counts as whole.

use super::Limits;
use crate::server::accept::Acceptor;
use crate::server::answer::Answer;
use crate::server::connections::{Connection, Connections};
use crate::server::front::{Message, Ready};
use crate::server::job::Job;
use crossbeam_channel::{Receiver, Sender};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is asked whether every request has been answered.
const PACE: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(in crate::server) struct Handle {
    orders: Sender<Order>,
    ready: Sender<Message<Ready>>,
}

enum Order {
    Drain(Sender<()>),
    Stop,
}

pub(in crate::server) struct Orders(Receiver<Order>);

impl Handle {
    pub(in crate::server) fn new(ready: Sender<Message<Ready>>) -> io::Result<(Self, Orders)> {
        let (orders, ordered) = crossbeam_channel::unbounded();
        Ok((Self { orders, ready }, Orders(ordered)))
    }

    pub(in crate::server) fn refuse(&self, job: Job, answer: &[u8]) {
        job.connection.stop(None);
        let mut writer = job.request.into_writer();
        // A client that has gone needs no answer.
        writer.write_all(answer).and_then(|()| writer.flush()).ok();
    }

    pub(in crate::server) fn close(&self, connection: Arc<Connection>) {
        self.cut(connection);
    }

    pub(in crate::server) fn cut(&self, connection: Arc<Connection>) {
        connection.stop(None);
        connection.discarded().into_iter().for_each(Job::discard);
    }

    pub(in crate::server) fn is_established(&self, _connection: &Arc<Connection>) -> bool {
        true
    }

    pub(in crate::server) fn notice(&self) {}

    pub(in crate::server) fn find(&self, job: Job, answer: Answer) {
        // Nobody can tell how much room there is, so there is always some.
        job.connection.assume_room();
        // The lane's threads live as long as the server.
        self.ready.send(Message::Work(Ready::Answer(job, answer))).ok();
    }

    pub(in crate::server) fn cut_in_work(&self, connection: Arc<Connection>) {
        self.cut(connection);
    }

    pub(in crate::server) fn drain(&self) -> Receiver<()> {
        let (done, drained) = crossbeam_channel::bounded(1);
        self.order(Order::Drain(done));
        drained
    }

    pub(in crate::server) fn stop(&self) {
        self.order(Order::Stop);
    }

    fn order(&self, order: Order) {
        // After the guard has ended nothing is left to be ordered.
        self.orders.send(order).ok();
    }
}

pub(in crate::server) struct Guard {
    connections: Arc<Connections>,
    orders: Receiver<Order>,
    acceptor: Acceptor,
}

impl Guard {
    pub(in crate::server) fn new(
        _limits: Limits,
        connections: Arc<Connections>,
        _handle: &Handle,
        orders: Orders,
        acceptor: Acceptor,
    ) -> io::Result<Self> {
        Ok(Self { connections, orders: orders.0, acceptor })
    }

    pub(in crate::server) fn run(self) {
        let mut waiting = None;
        loop {
            match self.orders.recv_timeout(PACE) {
                Ok(Order::Drain(done)) => {
                    self.acceptor.close();
                    waiting = Some(done);
                }
                Ok(Order::Stop) => return self.acceptor.retire_all(),
                Err(_) => {}
            }
            self.acceptor.displace_stuck(Instant::now());
            self.connections.take_loose().retain(|connection| !self.connections.forget(connection));
            if let Some(done) = &waiting
                && self.connections.busy() == 0
            {
                // Whoever waits for this hears it once; more do not fit.
                done.try_send(()).ok();
            }
        }
    }
}
