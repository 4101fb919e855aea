//! The guard on Linux.

use super::Limits;
use super::disposal::Disposal;
use super::verdict::{Meter, Moved, Verdict, Watch};
use crate::api::Reply;
use crate::server::accept::{Acceptor, Fence};
use crate::server::answer::{Answer, Persistence};
use crate::server::connections::{Connection, Connections};
use crate::server::front::{Message, Ready};
use crate::server::job::Job;
use crate::server::limits;
use crate::server::socket::{Socket, Sockets};
use crate::server::system;
use crossbeam_channel::{Receiver, Sender};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often connections are looked at while anything moves.
const PACE: Duration = Duration::from_millis(5);

/// The same while some connection has not been served yet.
const PACE_FRESH: Duration = Duration::from_millis(2);

/// The same while somebody floods, or did so a short while ago.
const PACE_FLOODED: Duration = Duration::from_micros(500);

/// How often it is checked while nothing moves whether anybody has come.
const PACE_CHECK: Duration = Duration::from_millis(10);

/// How often they are looked at while nothing moves.
const PACE_QUIET: Duration = Duration::from_millis(250);

/// Looking takes at most one part in so many of the guard's time.
const PACE_COSTS: u32 = 20;

/// The same while somebody floods.
const PACE_COSTS_FLOODED: u32 = 5;

/// How long after a flood another is expected: those who are cut come again.
const WARY: Duration = Duration::from_secs(1);

/// How long a client may take to hear a last answer and to hang up.
const LINGER: Duration = Duration::from_secs(2);

/// The same once the server stops.
const LINGER_DRAINING: Duration = Duration::from_millis(500);

/// The same for a client that there is no room for.
const LINGER_CROWDED: Duration = Duration::from_millis(50);

/// How long a request that has begun is waited for once the server stops.
const BEGUN_GRACE: Duration = Duration::from_millis(300);

/// How much of what a refused client still sends is thrown away in one go.
const DISCARD_BYTES_MAX: usize = 8 << 20;

/// How often sockets are searched at least, while anything moves.
const SEARCH_INTERVAL: Duration = Duration::from_millis(100);

/// The same while nothing moves.
const SEARCH_INTERVAL_QUIET: Duration = Duration::from_secs(1);

/// How often the accept loop is replaced at most.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long tiny_http may keep a connection that is shut until its thread is
/// taken to hang for ever.
const HANGING_AFTER: Duration = Duration::from_secs(10);

/// How long the peer of a connection that was cut stays stopped at least,
/// unless tiny_http has closed the connection before.
const STOPPED_MIN: Duration = Duration::from_secs(2);

/// How often a complaint about the same thing is logged at most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The last words to a client that took too long.
const LATE: (u16, &str) = (408, "the request took too long");

/// The last words to a client whose chunks are hardly more than framing.
const BLOATED: (u16, &str) = (400, "the chunks have too little in them");

/// The last words to a client whose head has no end.
const TOO_LARGE: (u16, &str) = (431, "the head is longer than 64 KiB");

/// The last words to a client that there is no room for.
const TOO_MANY: (u16, &str) = (503, "too many connections, try again");

/// The most sleeping threads of tiny_http that are woken up in one round.
const KICKS_MAX: usize = 64;

/// Stands for the bell among the cookies.
const WAKE: u64 = u64::MAX;

/// How the other threads reach the guard. Nothing here blocks but
/// [`Handle::is_established`].
#[derive(Clone)]
pub(in crate::server) struct Handle {
    // Few orders about one connection wait here at a time.
    orders: Sender<Order>,
    bell: Arc<Bell>,
}

/// Wakes the guard up.
struct Bell {
    event: OwnedFd,
    /// Whether the guard sleeps until something happens.
    quiet: AtomicBool,
}

enum Order {
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

/// What [`Guard::new`] needs of the channel that a [`Handle`] sends to.
pub(in crate::server) struct Orders {
    ordered: Receiver<Order>,
    ready: Sender<Message<Ready>>,
}

impl Order {
    /// The connection that it is about.
    fn connection(&self) -> Option<&Arc<Connection>> {
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

    fn silence(&self) {
        rustix::io::read(&self.event, &mut [0_u8; 8]).ok();
    }
}

/// The guard's own side.
pub(in crate::server) struct Guard {
    limits: Limits,
    connections: Arc<Connections>,
    sockets: Sockets,
    epoll: OwnedFd,
    bell: Arc<Bell>,
    orders: Receiver<Order>,
    ready: Sender<Message<Ready>>,
    acceptor: Acceptor,
    watched: HashMap<u64, Watched>,
    /// Connections without a socket so far.
    loose: Vec<Arc<Connection>>,
    /// Orders about those, and answers that the ready lane had no room for:
    /// few for each connection.
    pending: Vec<Order>,
    draining: Option<Draining>,
    pace: Duration,
    next_search: Instant,
    searched_at: Instant,
    descriptors_seen: Option<u64>,
    search_due: bool,
    accept_retry_at: Instant,
    /// When the last flood was cut.
    flooded_at: Option<Instant>,
    /// Connections that are shut and that tiny_http still has.
    dying: HashMap<u64, Dying>,
    disposal: Disposal,
    complained_at: HashMap<&'static str, Instant>,
}

struct Watched {
    socket: Arc<Socket>,
    connection: Arc<Connection>,
    watch: Watch,
    /// The last answer was sent; by then the connection is cut.
    lingers_until: Option<Instant>,
    /// Its head seems too large, unless requests of it come before this.
    fence: Option<Fence>,
    /// When tiny_http was let find the end of the stream.
    dismissed_at: Option<Instant>,
}

struct Dying {
    connection: Arc<Connection>,
    since: Instant,
}

struct Draining {
    done: Sender<()>,
    since: Instant,
}

impl Guard {
    /// A guard over what `acceptor` accepts, and the handle to reach it.
    pub(in crate::server) fn new(
        limits: Limits,
        connections: Arc<Connections>,
        handle: &Handle,
        orders: Orders,
        acceptor: Acceptor,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Arc::clone(&handle.bell);
        let wake = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &bell.event, wake, epoll::EventFlags::IN)?;
        let now = Instant::now();
        Ok(Self {
            limits,
            connections,
            sockets: Sockets::new(acceptor.listener())?,
            epoll,
            bell,
            orders: orders.ordered,
            ready: orders.ready,
            acceptor,
            watched: HashMap::new(),
            loose: Vec::new(),
            pending: Vec::new(),
            draining: None,
            pace: PACE_QUIET,
            next_search: now,
            searched_at: now,
            descriptors_seen: None,
            search_due: true,
            accept_retry_at: now,
            flooded_at: None,
            dying: HashMap::new(),
            disposal: Disposal::start()?,
            complained_at: HashMap::new(),
        })
    }

    /// Watches until told to stop.
    pub(in crate::server) fn run(mut self) {
        // Whoever floods keeps the processors busy, and each millisecond of
        // waiting for one lets tiny_http take in more.
        system::ask_for_short_slices();
        loop {
            self.rest();
            // Without its guard the server would be lost. Every step below
            // leaves what it has not done to the next round.
            let round = panic::catch_unwind(AssertUnwindSafe(|| self.round()));
            if round.is_ok_and(|flow| flow.is_break()) {
                return self.acceptor.retire_all();
            }
        }
    }

    fn round(&mut self) -> ControlFlow<()> {
        let worked_before = worked();
        let ended = self.ended();
        let now = Instant::now();
        self.take_orders(now)?;
        for cookie in ended {
            self.end(cookie);
        }
        let searched = self.search(now);
        self.bury(searched);
        let moving = self.look_at_all(now);
        self.keep_cap(now);
        self.keep_accepting(now);
        self.report_drained();
        self.set_pace(moving, worked().saturating_sub(worked_before));
        ControlFlow::Continue(())
    }

    /// Sleeps until the next look is due, an order comes, or, while nothing
    /// moves, until something does.
    fn rest(&self) {
        let until = Instant::now() + self.pace;
        let quiet = self.pace >= PACE_QUIET;
        self.bell.quiet.store(quiet, Ordering::Relaxed);
        if quiet {
            // A connection that says nothing whole rings no bell, and its
            // arrival is over before it can be seen. Its descriptors stay.
            while !sleep_until_readable(&self.epoll, PACE_CHECK.min(left(until)))
                && self.sockets.descriptors() == self.descriptors_seen
                && !left(until).is_zero()
            {}
        } else {
            sleep_until_readable(&self.bell.event, left(until));
        }
        self.bell.quiet.store(false, Ordering::Relaxed);
        self.bell.silence();
    }

    /// The sockets that have ended.
    fn ended(&self) -> Vec<u64> {
        const EVENTS_MAX: usize = 1024;
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let at_once = Timespec::default();
        // An interrupted look is made up for by the next.
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)).ok();
        let has_ended = |event: &epoll::Event| {
            // The kernel's structure is packed, so no field can be borrowed.
            let epoll::Event { flags, .. } = *event;
            flags.contains(epoll::EventFlags::HUP)
        };
        events.into_iter().filter(has_ended).map(|event| event.data.u64()).collect()
    }

    fn take_orders(&mut self, now: Instant) -> ControlFlow<()> {
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

    fn obey_on(&mut self, socket: &Socket, order: Order, now: Instant) {
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

    /// Puts an answer on the ready lane again. Where that is full the answer
    /// waits for the next round: what was performed is not left unanswered.
    fn give_back(&mut self, (job, answer): (Job, Answer)) {
        let work = Message::Work(Ready::Answer(job, answer));
        if let Err(full) = self.ready.try_send(work)
            && let Message::Work(Ready::Answer(job, answer)) = full.into_inner()
        {
            let connection = Arc::clone(&job.connection);
            self.pending.push(Order::Find(connection, Box::new((job, answer))));
        }
    }

    /// Carries out an order about a connection that has ended by itself.
    fn obey_without(&mut self, order: Order) {
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

    /// Finds the sockets of new connections, where there may be any. Says
    /// whether all that there are have been found now.
    fn search(&mut self, now: Instant) -> bool {
        self.loose.extend(self.connections.take_loose());
        let descriptors = self.sockets.descriptors();
        // As many may have come as have gone.
        let quiet = self.pace >= PACE_QUIET;
        let interval = if quiet { SEARCH_INTERVAL_QUIET } else { SEARCH_INTERVAL };
        let wary = self.is_wary(now);
        let stale = wary || now.duration_since(self.searched_at) > interval;
        let changed = descriptors.is_none() || descriptors != self.descriptors_seen || stale;
        self.search_due = changed || !self.loose.is_empty();
        if !self.search_due || now < self.next_search {
            return false;
        }
        let worked_before = worked();
        match self.sockets.search() {
            Ok(found) => {
                self.acceptor.found(found.iter().map(Socket::cookie));
                for socket in found {
                    self.watch(socket, now);
                }
            }
            Err(err) => {
                self.complain("search", &format!("sockets cannot be searched: {err}"));
                return false;
            }
        }
        self.searched_at = now;
        let costs = worked().saturating_sub(worked_before);
        self.next_search = Instant::now() + costs * pace_costs(wary) / 2;
        if !self.sockets.complete() {
            return false;
        }
        self.search_due = false;
        self.descriptors_seen = descriptors;
        // Those that have ended are seen to until they are closed.
        let Self { loose, connections, .. } = self;
        loose.retain(|connection| !connection.has_ended() && !connections.forget(connection));
        for order in std::mem::take(&mut self.pending) {
            let Some(connection) = order.connection() else { continue };
            match connection.socket() {
                Some(socket) => self.obey_on(&socket, order, now),
                None => self.obey_without(order),
            }
        }
        self.acceptor.searched(|cookie| self.sockets.has_seen(cookie));
        true
    }

    fn watch(&mut self, socket: Socket, now: Instant) {
        let data = epoll::EventData::new_u64(socket.cookie());
        // Each change is told once: one that lasts would not let the guard rest.
        let changes = epoll::EventFlags::IN | epoll::EventFlags::ET;
        if let Err(err) = epoll::add(&self.epoll, &socket, data, changes) {
            self.complain("watch", &format!("a socket cannot be watched: {err}"));
        }
        let (mut connection, _) = self.connections.of(socket.peer());
        if connection.has_ended() && connection.activity().cut {
            // That was another socket, which had the same peer before.
            connection = self.connections.renew(&connection);
        }
        let socket = Arc::new(socket);
        connection.attach(Arc::clone(&socket));
        let watch = Watch::new(connection.activity(), now);
        let cookie = socket.cookie();
        let watched = Watched {
            socket,
            connection,
            watch,
            lingers_until: None,
            fence: None,
            dismissed_at: None,
        };
        self.watched.insert(cookie, watched);
    }

    /// Looks at every connection and does what its state asks for. Says
    /// whether anything has moved.
    fn look_at_all(&mut self, now: Instant) -> Moving {
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
                    let fence = *watched.fence.get_or_insert_with(|| self.acceptor.fence());
                    if self.acceptor.has_passed(fence) && watched.connection.activity() == activity
                    {
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

    /// Cuts a connection.
    fn cut(&mut self, cookie: u64) {
        if let Some(watched) = self.watched.get(&cookie) {
            watched.socket.cut();
        }
        self.end(cookie);
    }

    /// Gives up the socket of a connection that is shut in both directions.
    fn end(&mut self, cookie: u64) {
        let Some(Watched { socket, connection, .. }) = self.watched.remove(&cookie) else { return };
        // Another may have come in its place, so that none seems to have gone.
        self.descriptors_seen = None;
        // A socket that epoll does not know needs no removal.
        epoll::delete(&self.epoll, &socket).ok();
        connection.detach(&socket);
        self.disposal.dispose(connection.discarded());
        self.dying.insert(cookie, Dying { connection, since: Instant::now() });
    }

    /// Sees to the connections that are shut and that tiny_http still has.
    ///
    /// Until it has closed the socket, requests of such a connection may come
    /// that were read before, so a stopped one stays known and stopped.
    fn bury(&mut self, searched: bool) {
        let Self { dying, disposal, sockets, connections, loose, descriptors_seen, .. } = self;
        dying.retain(|cookie, Dying { connection, since }| {
            disposal.dispose(connection.discarded());
            let closed = searched && !sockets.has_seen(*cookie);
            if closed {
                connection.bury();
                *descriptors_seen = None;
            }
            if (closed || since.elapsed() > STOPPED_MIN) && !connections.forget(connection) {
                loose.push(Arc::clone(connection));
            }
            !closed
        });
    }

    /// Closes the connections over the cap: those that were silent longest,
    /// or else the newest, which hear why.
    fn keep_cap(&mut self, now: Instant) {
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
    fn accepts(&self) -> bool {
        self.sockets.listeners() > 1
    }

    /// Replaces the accept loop once it has ended.
    fn keep_accepting(&mut self, now: Instant) {
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

    fn report_drained(&mut self) {
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

    /// How many threads of tiny_http hang for ever.
    fn leaked(&self) -> usize {
        let hangs =
            |dying: &&Dying| dying.since.elapsed() > HANGING_AFTER && dying.connection.is_idle();
        self.dying.values().filter(hangs).count()
    }

    fn set_pace(&mut self, moving: Moving, spent: Duration) {
        let flooded = moving.flooded || self.is_wary(Instant::now());
        let pace = if flooded {
            PACE_FLOODED
        } else if moving.fresh {
            PACE_FRESH
        } else if moving.any
            || self.search_due
            || self.dying.values().any(|dying| dying.since.elapsed() < HANGING_AFTER)
            || !self.pending.is_empty()
            || !self.loose.is_empty()
            || self.draining.is_some()
            || !self.accepts()
        {
            PACE
        } else {
            PACE_QUIET
        };
        self.pace = pace.max((spent * pace_costs(flooded)).min(PACE_QUIET));
    }

    /// Whether there was a flood a short while ago.
    fn is_wary(&self, now: Instant) -> bool {
        self.flooded_at.is_some_and(|at| now.duration_since(at) < WARY)
    }

    /// Logs a warning unless one of its kind was logged a short while ago.
    fn complain(&mut self, kind: &'static str, text: &str) {
        let now = Instant::now();
        let last = self.complained_at.get(kind);
        if last.is_none_or(|at| now.duration_since(*at) > COMPLAINT_INTERVAL) {
            self.complained_at.insert(kind, now);
            log::warn!("{text}");
        }
    }
}

/// What a round of looks has found.
#[derive(Clone, Copy, Default)]
struct Moving {
    /// Something has moved somewhere.
    any: bool,
    /// A connection that nobody has read yet is among it.
    fresh: bool,
    /// A connection whose head seems too large is among it.
    flooded: bool,
}

impl Watched {
    /// Lets tiny_http find the end of the stream, whereupon it closes.
    fn dismiss(&mut self, now: Instant) {
        if self.dismissed_at.is_none() {
            self.dismissed_at = Some(now);
            self.socket.stop_receiving();
        }
    }

    /// Takes no more requests, and sends a last answer of ours unless some
    /// thread may be writing another.
    fn say(&self, (status, text): (u16, &'static str)) {
        if !self.connection.stop_silent() {
            return;
        }
        let reply = Reply::error(status, text);
        let answer = Answer { reply, head_only: false, persistence: Persistence::Close };
        // A client that takes no answer goes without one.
        let _sent: bool = self.socket.try_send(&answer.first_part());
    }
}

/// One part in how much of the guard's time looking may take.
fn pace_costs(flooded: bool) -> u32 {
    if flooded { PACE_COSTS_FLOODED } else { PACE_COSTS }
}

/// How much of a processor's time this thread has had. How long it had to
/// wait for one says nothing of what it costs others.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Sleeps for up to `time`; says whether there is something to read.
fn sleep_until_readable(file: &OwnedFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).ok();
    match poll(&mut [PollFd::new(file, PollFlags::IN)], timeout.as_ref()) {
        Ok(ready) => ready > 0,
        // Interrupted, or out of memory: the rest is over, whatever came.
        Err(_) => true,
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
