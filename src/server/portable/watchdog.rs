//! The rest of the watchdog.

use crate::server::accept::Acceptor;
use crate::server::dispatch::Dispatcher;
use crate::server::limits::Limits;
use crate::server::mailbox::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time between two looks at the leader.
const PACE: Duration = Duration::from_millis(20);

pub struct Watchdog {
    dispatcher: Arc<Dispatcher>,
    acceptor: Acceptor,
}

impl Watchdog {
    pub fn new(_limits: Limits, dispatcher: Arc<Dispatcher>, acceptor: Acceptor) -> Self {
        Self { dispatcher, acceptor }
    }

    pub fn run(self) {
        let mut drained = None;
        loop {
            for command in self.dispatcher.watchdog.take_until(Instant::now() + PACE, false) {
                match command {
                    Command::Drain(done) => {
                        self.acceptor.close();
                        drained = Some(done);
                    }
                    Command::Stop => return self.acceptor.retire_all(),
                    Command::WatchLeader
                    | Command::Inspect
                    | Command::CutSlowest
                    | Command::Complain(_) => {}
                }
            }
            self.acceptor.displace_stuck(Instant::now());
            if self.dispatcher.connections.count() == 0
                && let Some(done) = drained.take()
            {
                // Whoever waits for this may have gone.
                done.send(()).ok();
            }
        }
    }
}
