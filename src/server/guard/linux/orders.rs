//! Carrying out orders about single connections, and the order to empty the
//! server.

use super::handle::Order;
use super::{Draining, Guard, LINGER, LINGER_DRAINING};
use crate::server::answer::Answer;
use crate::server::connections::Connection;
use crate::server::front::{Message, Ready};
use crate::server::job::Job;
use crate::server::socket::Socket;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

impl Guard {
    /// Carries out what was ordered. Breaks off at the order to stop.
    pub(super) fn take_orders(&mut self, now: Instant) -> ControlFlow<()> {
        let orders = std::mem::take(&mut self.pending);
        let waiting: Vec<Order> = self.orders.try_iter().collect();
        for order in orders.into_iter().chain(waiting) {
            match order {
                Order::Stop => return ControlFlow::Break(()),
                Order::Drain(done) => {
                    self.acceptor.close();
                    self.draining = Some(Draining { done, since: now });
                }
                Order::Close(..) | Order::Cut(..) | Order::Ask(..) | Order::Find(..) => {
                    self.obey(order, now);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Carries out an order about a connection, or keeps it until the search
    /// has told whether there is a socket for it.
    fn obey(&mut self, order: Order, now: Instant) {
        let Some(connection) = order.connection() else { return };
        match (connection.socket(), connection.has_ended()) {
            (Some(socket), _) => self.obey_on(&socket, order, now),
            (None, true) => self.obey_without(order),
            (None, false) => {
                self.next_search = now;
                self.descriptors_seen = None;
                self.pending.push(order);
            }
        }
    }

    pub(super) fn obey_on(&mut self, socket: &Socket, order: Order, now: Instant) {
        match order {
            Order::Close(_, answer) => {
                let sent = answer.is_empty() || socket.try_send(&answer);
                socket.stop_sending();
                let linger = if self.draining.is_some() { LINGER_DRAINING } else { LINGER };
                match self.watched.get_mut(&socket.cookie()) {
                    Some(watched) if sent => watched.lingers_until = Some(now + linger),
                    Some(_) | None => self.cut(socket.cookie()),
                }
            }
            Order::Cut(_) => self.cut(socket.cookie()),
            Order::Ask(_, answer) => {
                let established = socket.traffic().is_some_and(|traffic| traffic.established);
                // Who asked waits for this and for nothing else.
                answer.send(established).ok();
            }
            Order::Find(_, found) => self.give_back(*found),
            Order::Drain(_) | Order::Stop => {}
        }
    }

    /// Puts an answer on the ready lane again.
    fn give_back(&mut self, (job, answer): (Job, Answer)) {
        // The lane's threads live longer than the guard.
        self.ready.send(Message::Work(Ready::Answer(job, answer))).ok();
    }

    /// Carries out an order about a connection that has ended by itself.
    pub(super) fn obey_without(&mut self, order: Order) {
        match order {
            Order::Close(connection, _) | Order::Cut(connection) => self.abandon(&connection),
            Order::Ask(_, answer) => drop(answer),
            Order::Find(connection, found) => {
                connection.stop(Some(found.0));
                self.abandon(&connection);
            }
            Order::Drain(_) | Order::Stop => {}
        }
    }

    /// Gives up a connection that has no socket any more.
    fn abandon(&mut self, connection: &Arc<Connection>) {
        self.disposal.dispose(connection.discarded());
        self.loose.push(Arc::clone(connection));
    }

    /// Tells who waits for it that the server is empty.
    pub(super) fn report_drained(&mut self) {
        if let Some(draining) = &self.draining
            && self.watched.is_empty()
            && self.loose.is_empty()
            && self.pending.is_empty()
            && !self.search_due
            && self.sockets.complete()
            && self.connections.busy() == 0
        {
            // Whoever waits for this hears it once; more do not fit.
            draining.done.try_send(()).ok();
        }
    }
}
