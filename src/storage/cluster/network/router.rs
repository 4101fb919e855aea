//! Requests on their way: to the node of their slot, again if they were not done, and back.
//!
//! ```text
//! send ──► route ──► Node ──► completion
//!            ▲         │
//!            │         ▼
//!          agenda ◄── again: not connected, broken before it was sent, a refusal
//! ```
//!
//! Two threads are the router's own: one sends again what is due by then, and looks after
//! deadlines; the other keeps the map. No lock is held while a completion is called.

use super::link::{Conversation, LinkError, Terms};
use super::node::{Busy, Node};
use super::protocol::{Commands, Reply};
use super::replies::{Verdict, shown, verdict};
use super::tick::Tick;
use super::topology::{Answer, Map, Schedule, ask, candidates};
use super::traffic::{Job, Traffic, count};
use super::waves;
use crate::storage::agenda::Agenda;
use crate::storage::cluster::config::{Address, Config, ConnectError};
use crate::storage::{Error, Hindrance};
use bytes::Bytes;
use smallvec::SmallVec;
use std::io;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long a request is tried for, from its begin.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The destination of a request.
#[derive(Clone)]
pub enum Place {
    /// The node that has this slot, whichever that is.
    Slot(u16),
    /// This node.
    Node(Arc<Node>),
}

/// The replies to the commands of a request, one for each. None of them is an error.
pub type Replies = SmallVec<[Reply; 2]>;

/// The continuation of a request, called once, on any thread. It does not block.
pub type Completion = Box<dyn FnOnce(Result<Replies, Error>) + Send>;

/// Commands for one node, with their completion.
pub struct Request {
    /// Its destination.
    pub place: Place,
    /// Its commands, at least one. They are one unit: if one is not done as an error says
    /// that permits it, all are sent again.
    pub commands: Commands,
    /// Once sent it is not sent again unless a reply says that it was not done; and
    /// replicas are waited for, if that is asked for.
    pub is_write: bool,
    /// The end of its tries.
    pub deadline: Instant,
    /// Its completion.
    pub done: Completion,
}

/// The redirections that are followed at once.
const REDIRECTS_AT_ONCE: u8 = 3;

/// The pause before a further one.
const REDIRECT_PAUSE: Duration = Duration::from_millis(50);

/// The pause before a read is repeated of which a node does not say what became of it.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(10);

/// The pause before a node that is not connected is tried again.
const DISCONNECTED_PAUSE: Duration = Duration::from_millis(50);

/// The nodes that are known at once, at most.
const NODES_MAX: usize = 2048;

/// The time between two lines in the log about refusals.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

/// The time for the first questions to a seed.
const SEED_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the nodes.
pub struct Router {
    this: Weak<Self>,
    config: Config,
    terms: Arc<Terms>,
    map: RwLock<Map>,
    traffic: Arc<Traffic>,
    agenda: Arc<Agenda<Work>>,
    schedule: Arc<Schedule>,
    /// The number of the next work for later.
    number: AtomicU64,
    complained: Mutex<Option<Instant>>,
    warned_of_clock: Mutex<bool>,
}

/// The number of the next look at the deadlines.
const TICK: u64 = 0;

/// The number of the next look at a wave.
const WAVE: u64 = 1;

/// Work for later.
enum Work {
    Send(Box<Job>),
    Tick(Tick),
    /// A look at the wave of a number, which may not be full.
    Wave(u64),
}

impl Router {
    /// Finds the cluster. Each node is to know these scripts. Blocks until a seed has
    /// answered or none has.
    pub fn start(
        config: &Config,
        scripts: &'static [&'static str],
    ) -> Result<Arc<Self>, ConnectError> {
        let Config { user, password, replicas, .. } = config.clone();
        let terms = Arc::new(Terms { user, password, replicas, scripts });
        let answer = first_answer(config, &terms)?;
        let router = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            config: config.clone(),
            terms,
            map: RwLock::default(),
            traffic: Arc::default(),
            agenda: Arc::default(),
            schedule: Arc::default(),
            number: AtomicU64::new(WAVE + 1),
            complained: Mutex::default(),
            warned_of_clock: Mutex::default(),
        });
        router.start_threads()?;
        if let Some(answer) = answer {
            router.adopt(&answer);
        }
        router.wait_for_masters();
        Ok(router)
    }

    fn start_threads(self: &Arc<Self>) -> Result<(), ConnectError> {
        let (this, agenda) = (Arc::downgrade(self), Arc::clone(&self.agenda));
        let run = move || {
            while let Some(work) = agenda.next() {
                match this.upgrade() {
                    Some(router) => router.work(work),
                    None => return,
                }
            }
        };
        if !self.agenda.has_thread(iter::once_with(|| "node-retries".to_owned()), run) {
            return Err(io::Error::other("too many").into());
        }
        self.agenda.add(Work::Tick(Tick::first(Instant::now())));
        let (this, schedule) = (Arc::downgrade(self), Arc::clone(&self.schedule));
        thread::Builder::new().name("topology".to_owned()).spawn(move || {
            let (mut turn, mut was_whole) = (0, true);
            while schedule.wait() {
                let Some(router) = this.upgrade() else { return };
                let failure = router.find_map(turn).err();
                if let Some(failure) = failure.as_ref().filter(|_| was_whole) {
                    log::warn!("no node tells where all slots are: {failure}");
                }
                was_whole = failure.is_none();
                turn += 1;
            }
        })?;
        Ok(())
    }

    /// Waits until the masters are connected, but not for long.
    fn wait_for_masters(&self) {
        let until = Instant::now() + SEED_TIMEOUT;
        while Instant::now() < until && self.masters().iter().any(|node| !node.is_connected()) {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a request. Never blocks.
    pub fn send(self: &Arc<Self>, request: Request) {
        if let Some(job) = self.traffic.take(request) {
            self.route(job);
        }
    }

    fn route(&self, job: Box<Job>) {
        let pushed = match &job.place {
            Place::Node(node) => Arc::clone(node).push(job),
            Place::Slot(slot) => match self.map().owner(*slot) {
                Some(node) => node.push(job),
                None => Err((job, Busy::Disconnected)),
            },
        };
        if let Err((job, busy)) = pushed {
            self.turned_away(job, busy);
        }
    }

    fn turned_away(&self, mut job: Box<Job>, busy: Busy) {
        match (busy, &job.place) {
            (Busy::ReplicasTooFew, _) => {
                job.finish(Err(Error::NotDone(Hindrance::ReplicasTooFew)));
            }
            (Busy::Refused, _) => job.finish(Err(Error::NodeRefused)),
            (Busy::Ended, Place::Node(_)) => job.give_up(false),
            (Busy::Ended | Busy::Disconnected, _) => {
                // Another node may have its slots by then.
                self.refresh();
                self.again(job, DISCONNECTED_PAUSE);
            }
        }
    }

    /// Sends a request that was not done, after a pause, if there is time.
    pub fn again(&self, mut job: Box<Job>, pause: Duration) {
        let now = Instant::now();
        if job.deadline <= now {
            return job.give_up(false);
        }
        count(&self.traffic.retries);
        (job.is_asking, job.is_loading) = (false, false);
        let at = (now + pause).min(job.deadline);
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.agenda.add_timer(at, number, Work::Send(job));
    }

    /// Decides on a request that was not done, as an error of a node says.
    pub fn failed(&self, mut job: Box<Job>, error: &Bytes, node: &Node) {
        match verdict(error) {
            Verdict::Moved(slot, address) => {
                let target = self.node(&address.or_host_of(node.address()));
                if let Some(target) = &target {
                    self.set(slot, target);
                }
                self.refresh();
                if let Place::Node(_) = job.place {
                    job.place = Place::Slot(slot);
                }
                self.redirect(job, None);
            }
            Verdict::Ask(address) => {
                let target = self.node(&address.or_host_of(node.address()));
                self.redirect(job, target);
            }
            Verdict::Again(pause) => self.again(job, pause),
            Verdict::Doubted(pause) => {
                node.doubt();
                self.refresh();
                self.again(job, pause);
            }
            Verdict::NoScript if job.loads == 0 => {
                (job.is_loading, job.loads) = (true, 1);
                count(&self.traffic.retries);
                self.push(node, job);
            }
            // Others may have all scripts forgotten between the two commands.
            Verdict::NoScript if job.bring_script(self.terms.scripts) => {
                count(&self.traffic.retries);
                self.push(node, job);
            }
            Verdict::Failed(Error::OutcomeUnknown) if !job.is_write => {
                self.again(job, UNKNOWN_PAUSE);
            }
            Verdict::Failed(err) => job.finish(Err(err)),
            Verdict::NoScript | Verdict::Refused => {
                self.complain(node.address(), error);
                job.finish(Err(Error::NodeRefused));
            }
        }
    }

    /// Sends a request on: to the node that it has to ask for admission, or to the owner
    /// of its slot.
    fn redirect(&self, mut job: Box<Job>, asking: Option<Arc<Node>>) {
        count(&self.traffic.redirects);
        job.redirects = job.redirects.saturating_add(1);
        job.is_loading = false;
        job.is_asking = asking.is_some();
        if job.redirects > REDIRECTS_AT_ONCE {
            return self.again(job, REDIRECT_PAUSE);
        }
        match asking {
            Some(node) => self.push(&node, job),
            None => self.route(job),
        }
    }

    fn push(&self, node: &Node, job: Box<Job>) {
        if let Err((job, busy)) = node.push(job) {
            self.turned_away(job, busy);
        }
    }

    /// Gives a slot to another node, if it is not there.
    fn set(&self, slot: u16, owner: &Arc<Node>) {
        let is_known = self.map().owner(slot).is_some_and(|known| Arc::ptr_eq(known, owner));
        if !is_known {
            self.map_mut().set(slot, owner);
        }
    }

    /// The node of an address, which is connected to if it is a new one.
    fn node(&self, address: &Address) -> Option<Arc<Node>> {
        if let Some(node) = self.map().node(address) {
            return Some(Arc::clone(node));
        }
        let mut map = self.map_mut();
        if let Some(node) = map.node(address) {
            return Some(Arc::clone(node));
        }
        if map.nodes().count() >= NODES_MAX {
            return None;
        }
        let this = Weak::clone(&self.this);
        match Node::start(address.clone(), &self.terms, &self.traffic, this) {
            Ok(node) => {
                map.add(Arc::clone(&node));
                Some(node)
            }
            Err(err) => {
                log::warn!("no thread for the node {address}: {err}");
                None
            }
        }
    }

    /// Has the map asked for soon. Never blocks.
    pub fn refresh(&self) {
        self.schedule.want();
    }

    /// Asks one node after the other for the map, until one tells a whole one. Else returns
    /// what the last has said.
    fn find_map(&self, turn: usize) -> Result<(), String> {
        let candidates = candidates(&self.map(), &self.config, turn);
        let mut failure = String::new();
        for address in candidates {
            match self.ask(&address) {
                Ok(answer) => {
                    for owner in self.adopt(&answer) {
                        if let Ok(answer) = self.ask(&owner) {
                            self.adopt(&answer);
                        }
                    }
                    if answer.is_whole() {
                        return Ok(());
                    }
                    failure = format!("{address} knows no node for some of them");
                }
                Err(err) => failure = format!("{address}: {err}"),
            }
        }
        Err(failure)
    }

    /// Asks a node for the map.
    fn ask(&self, address: &Address) -> Result<Answer, LinkError> {
        ask(address, &self.terms).inspect_err(|err| {
            log::debug!("{address} does not tell the map: {err}");
            if let Some(node) = self.map().node(address) {
                node.doubt();
            }
        })
    }

    /// Takes a map over, and returns the owners that it knows nothing of.
    fn adopt(&self, answer: &Answer) -> Vec<Address> {
        self.look_at_clock(answer.skew);
        for share in &answer.shares {
            self.node(&share.owner);
        }
        let mut map = self.map_mut();
        let disputed = map.merge(&answer.shares, &answer.teller);
        map.retire();
        disputed
    }

    fn look_at_clock(&self, skew: Option<i128>) {
        let mut was_off = self.warned_of_clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(skew) = skew.filter(|_| !*was_off) {
            log::warn!(
                "the clock of the cluster is {skew} ms ahead of this machine's: \
                 entries expire by the cluster's"
            );
        }
        *was_off = skew.is_some();
    }

    fn complain(&self, node: &Address, error: &Bytes) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            *complained = Some(Instant::now());
            log::error!("{node} refuses a command: {}", shown(error));
        }
    }

    fn work(&self, work: Work) {
        match work {
            Work::Send(mut job) if job.deadline <= Instant::now() => job.give_up(false),
            Work::Send(job) => self.route(job),
            Work::Tick(tick) => {
                let is_late = tick.is_late(Instant::now());
                let nodes: Vec<_> = self.map().nodes().map(Arc::clone).collect();
                for node in nodes {
                    if is_late { node.excuse_silence() } else { node.tick() }
                }
                self.traffic.waves.look();
                let next = Tick::next(Instant::now(), is_late);
                self.agenda.add_timer(next.due, TICK, Work::Tick(next));
            }
            Work::Wave(number) => {
                if let Some(number) = self.traffic.waves.tend(number) {
                    self.tend_wave(number);
                }
            }
        }
    }

    /// Has the wave of a number looked at in a while. Never blocks.
    pub fn tend_wave(&self, number: u64) {
        self.agenda.add_timer(Instant::now() + waves::PATIENCE, WAVE, Work::Wave(number));
    }

    /// All masters that have slots, by their address.
    pub fn masters(&self) -> Vec<Arc<Node>> {
        self.map().masters()
    }

    /// A number that changes as slots move from node to node.
    pub fn topology(&self) -> u64 {
        self.map().version()
    }

    /// The counts of requests.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Fails while no requests can be served, as far as is known. Never blocks.
    pub fn check(&self) -> Result<(), Error> {
        let map = self.map();
        let is_there = map.is_covered() && map.masters().iter().any(|node| node.is_connected());
        if is_there { Ok(()) } else { Err(Error::NotDone(Hindrance::ClusterDown)) }
    }

    /// Takes no more requests, and blocks until those under way have ended.
    pub fn close(&self) {
        self.traffic.close(PATIENCE + Duration::from_millis(500));
        self.end();
    }

    fn end(&self) {
        for node in self.map().nodes() {
            node.end();
        }
        self.schedule.end();
        self.agenda.end();
    }

    fn map(&self) -> RwLockReadGuard<'_, Map> {
        // Every change of the map is complete before anything could panic.
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

/// The map of the first seed that is fit; `None` if it does not know one yet.
fn first_answer(config: &Config, terms: &Terms) -> Result<Option<Answer>, ConnectError> {
    let mut unfit = None;
    let mut failures = Vec::new();
    for seed in &config.seeds {
        let address = Address::from(seed);
        match try_seed(&address, terms) {
            Ok(()) => match ask(&address, terms) {
                Err(LinkError::Refused(text)) => {
                    unfit = unfit.or(Some(ConnectError::Refused(address.to_string(), text)));
                }
                answer => return Ok(answer.ok()),
            },
            Err(ConnectError::NoNode(failure)) => failures.push(failure),
            Err(err) => unfit = unfit.or(Some(err)),
        }
    }
    Err(unfit.unwrap_or_else(|| ConnectError::NoNode(failures.join(", "))))
}

/// Fails if a seed is not fit for a front.
fn try_seed(seed: &Address, terms: &Terms) -> Result<(), ConnectError> {
    let name = seed.to_string();
    let failed = |err: LinkError| match err {
        LinkError::Refused(text) => ConnectError::Refused(name.clone(), text),
        LinkError::Broken(_) | LinkError::NotReady(_) => {
            ConnectError::NoNode(format!("{name}: {err}"))
        }
    };
    let mut conversation = Conversation::open(seed, terms, SEED_TIMEOUT).map_err(failed)?;
    let info = Commands::default().with(&[b"INFO", b"server"]).with(&[b"INFO", b"cluster"]);
    let replies: [Reply; 2] = conversation.ask(&info).map_err(failed)?;
    for reply in &replies {
        Conversation::serves(reply).map_err(failed)?;
    }
    let [version, mode] = replies.map(|reply| match reply {
        Reply::Bytes(text) => String::from_utf8_lossy(&text).into_owned(),
        Reply::Nothing | Reply::Integer(_) | Reply::Many(_) | Reply::Error(_) => String::new(),
    });
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("unknown").trim().to_owned()
    };
    let version = field(&version, "redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 7) {
        return Err(ConnectError::Old(name, version));
    }
    if field(&mode, "cluster_enabled") != "1" {
        return Err(ConnectError::NoCluster(name));
    }
    Ok(())
}
