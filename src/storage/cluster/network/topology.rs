//! The map from slots to nodes, and the thread that keeps it true.
//!
//! The map is asked for on a short connection of its own, of any node that answers; those
//! that are doubted come last. A node that was cut off tells an old map: where two differ
//! the higher configuration epoch wins, unless the owner that is known says itself that it
//! does not have the slot: then the epochs are of another cluster, which was there before. So
//! that owner is asked too. A node that is asked for a slot knows better than any map, so
//! what it says has no epoch: the next map replaces it.

use super::link::{Conversation, LinkError, Terms};
use super::node::Node;
use super::protocol::{Commands, Reply, SLOTS};
use crate::storage::cluster::config::{Address, Config};
use std::collections::HashMap;
use std::iter;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time between two questions for the map, if nothing has happened.
const REFRESH: Duration = Duration::from_secs(2);

/// The time between two questions for the map.
const REFRESH_MIN: Duration = Duration::from_millis(50);

/// The time for a question on a short connection.
const ASK_TIMEOUT: Duration = Duration::from_millis(300);

/// The time for which the owner of a slot may be lost before an older map is believed.
const LOST_MAX: Duration = Duration::from_secs(10);

/// The time after which a node without slots is left: it may be asked for some still.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// The same for all such nodes but one, so that connections are few after failovers.
const SPARE_IDLE_MAX: Duration = Duration::from_millis(500);

/// The difference of clocks that is worth a line in the log.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(1);

/// The slots of a node, as a node tells.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    /// The first slot and the last.
    pub slots: (u16, u16),
    /// The node.
    pub owner: Address,
    /// The configuration epoch of that.
    pub epoch: u64,
}

/// The answer of a node to the question for the map.
pub struct Answer {
    /// The node.
    pub teller: Address,
    /// The map.
    pub shares: Vec<Share>,
    /// The lead of the node's clock, in milliseconds, if it is worth a word.
    pub skew: Option<i128>,
}

impl Answer {
    /// Returns true if each slot has an owner.
    pub fn is_whole(&self) -> bool {
        let slots = |share: &Share| u32::from(share.slots.1.saturating_sub(share.slots.0)) + 1;
        self.shares.iter().map(slots).sum::<u32>() >= u32::from(SLOTS)
    }
}

/// Asks a node for the map. Blocks for a second at most.
pub fn ask(node: &Address, terms: &Terms) -> Result<Answer, LinkError> {
    let mut conversation = Conversation::open(node, terms, ASK_TIMEOUT)?;
    let commands = Commands::default()
        .with(&[b"CLUSTER", b"SLOTS"])
        .with(&[b"CLUSTER", b"NODES"])
        .with(&[b"TIME"]);
    let [slots, nodes, time] = conversation.ask(&commands)?;
    for reply in [&slots, &nodes] {
        Conversation::serves(reply)?;
    }
    let shares = shares(&slots, &epochs(&nodes), node);
    Ok(Answer { teller: node.clone(), shares, skew: skew(&time) })
}

/// The configuration epochs by the ids of nodes, in the reply to `CLUSTER NODES`.
fn epochs(nodes: &Reply) -> HashMap<String, u64> {
    let Reply::Bytes(text) = nodes else { return HashMap::new() };
    let text = String::from_utf8_lossy(text);
    let epoch = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.to_owned();
        Some((id, words.nth(5)?.parse().ok()?))
    };
    text.lines().filter_map(epoch).collect()
}

/// The shares in the reply to `CLUSTER SLOTS` of a node.
fn shares(slots: &Reply, epochs: &HashMap<String, u64>, asked: &Address) -> Vec<Share> {
    let Reply::Many(ranges) = slots else { return Vec::new() };
    ranges.iter().filter_map(|range| share(range, epochs, asked)).collect()
}

fn share(range: &Reply, epochs: &HashMap<String, u64>, asked: &Address) -> Option<Share> {
    let Reply::Many(parts) = range else { return None };
    let [Reply::Integer(first), Reply::Integer(last), Reply::Many(master), ..] = parts.as_slice()
    else {
        return None;
    };
    let [host, Reply::Integer(port), Reply::Bytes(id), more @ ..] = master.as_slice() else {
        return None;
    };
    let host = match host {
        // The name is not known; the numeric address stands among the rest.
        Reply::Bytes(host) if host == "?" => numeric_address(more.first()?)?,
        Reply::Bytes(host) => String::from_utf8_lossy(host).into_owned(),
        Reply::Nothing => String::new(),
        Reply::Integer(_) | Reply::Many(_) | Reply::Error(_) => return None,
    };
    let slots = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    let owner = Address { host: host.into(), port: u16::try_from(*port).ok()? }.or_host_of(asked);
    let epoch = epochs.get(&*String::from_utf8_lossy(id)).copied().unwrap_or_default();
    (slots.1 < SLOTS).then_some(Share { slots, owner, epoch })
}

/// The numeric address in pairs of names and values.
fn numeric_address(pairs: &Reply) -> Option<String> {
    let Reply::Many(pairs) = pairs else { return None };
    let pairs = pairs.chunks_exact(2);
    pairs.into_iter().find_map(|pair| match pair {
        [Reply::Bytes(name), Reply::Bytes(value)] if name == "ip" => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    })
}

/// The lead of a node's clock in the reply to `TIME`, in milliseconds, if it is large.
fn skew(time: &Reply) -> Option<i128> {
    let Reply::Many(parts) = time else { return None };
    let [Reply::Bytes(seconds), Reply::Bytes(micros)] = parts.as_slice() else { return None };
    let number = |text: &[u8]| str::from_utf8(text).ok()?.parse::<i128>().ok();
    let there = number(seconds)? * 1000 + number(micros)? / 1000;
    let here = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis().cast_signed();
    let skew = there - here;
    // The answer was under way for a part of that.
    (skew.unsigned_abs() > (CLOCK_SKEW_MAX + ASK_TIMEOUT).as_millis()).then_some(skew)
}

/// The map.
#[derive(Default)]
pub struct Map {
    slots: Vec<Slot>,
    nodes: HashMap<Address, Arc<Node>>,
    /// The number of changes.
    version: u64,
}

#[derive(Clone, Default)]
struct Slot {
    owner: Option<Arc<Node>>,
    epoch: u64,
}

impl Map {
    /// The owner of a slot.
    pub fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        self.slots.get(usize::from(slot))?.owner.as_ref()
    }

    /// A number that changes with the map.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The node of an address, if it is known.
    pub fn node(&self, address: &Address) -> Option<&Arc<Node>> {
        self.nodes.get(address)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The nodes that have slots, by their address.
    pub fn masters(&self) -> Vec<Arc<Node>> {
        let mut masters: Vec<Arc<Node>> = Vec::new();
        let mut last: Option<&Arc<Node>> = None;
        for owner in self.slots.iter().filter_map(|slot| slot.owner.as_ref()) {
            let is_next = last.is_none_or(|last| !Arc::ptr_eq(last, owner));
            if is_next && !masters.iter().any(|master| Arc::ptr_eq(master, owner)) {
                masters.push(Arc::clone(owner));
            }
            last = Some(owner);
        }
        masters.sort_by(|one, other| one.address().cmp(other.address()));
        masters
    }

    /// Returns true if each slot has an owner.
    pub fn is_covered(&self) -> bool {
        self.slots.len() == usize::from(SLOTS) && self.slots.iter().all(|slot| slot.owner.is_some())
    }

    /// Adds a node.
    pub fn add(&mut self, node: Arc<Node>) {
        self.nodes.insert(node.address().clone(), node);
    }

    /// Gives a slot to a node, as another has said.
    pub fn set(&mut self, slot: u16, owner: &Arc<Node>) {
        self.give(slot, owner, 0);
    }

    /// Gives shares to their nodes, as a node tells them, where the map has nothing newer.
    /// Returns the owners that have something newer, who may say themselves that it is not so.
    pub fn merge(&mut self, shares: &[Share], teller: &Address) -> Vec<Address> {
        let mut disputed: Vec<Address> = Vec::new();
        for share in shares {
            let Some(owner) = self.nodes.get(&share.owner).map(Arc::clone) else { continue };
            // The slots of a share mostly have one owner.
            let mut judged: Option<(*const Node, bool)> = None;
            for slot in share.slots.0..=share.slots.1 {
                let known = self.slots.get(usize::from(slot)).and_then(|slot| {
                    let known = slot.owner.as_ref().filter(|known| !Arc::ptr_eq(known, &owner))?;
                    (slot.epoch > share.epoch).then_some(known)
                });
                let is_newer = known.is_some_and(|known| match judged {
                    Some((node, is_newer)) if node == Arc::as_ptr(known) => is_newer,
                    _ => {
                        let is_newer = known.address() != teller && !known.is_lost_since(LOST_MAX);
                        if is_newer && !disputed.contains(known.address()) {
                            disputed.push(known.address().clone());
                        }
                        judged = Some((Arc::as_ptr(known), is_newer));
                        is_newer
                    }
                });
                if !is_newer {
                    self.give(slot, &owner, share.epoch);
                }
            }
        }
        disputed
    }

    fn give(&mut self, slot: u16, owner: &Arc<Node>, epoch: u64) {
        if self.slots.is_empty() {
            self.slots.resize(usize::from(SLOTS), Slot::default());
        }
        let Some(slot) = self.slots.get_mut(usize::from(slot)) else { return };
        slot.epoch = epoch;
        if slot.owner.as_ref().is_none_or(|known| !Arc::ptr_eq(known, owner)) {
            slot.owner = Some(Arc::clone(owner));
            self.version += 1;
        }
    }

    /// Ends the nodes that have no slots and were not used for a while; and of those that
    /// are at rest, all but the one that was used last.
    pub fn retire(&mut self) {
        let masters = self.masters();
        let is_master = |node: &Arc<Node>| masters.iter().any(|master| Arc::ptr_eq(master, node));
        let idle = self.nodes.iter().filter(|(_, node)| !is_master(node));
        let idle = idle.filter_map(|(address, node)| Some((node.rest()?, address.clone())));
        for address in spare(idle.collect()) {
            if let Some(node) = self.nodes.remove(&address) {
                node.end();
            }
        }
    }
}

/// Those to leave of nodes without slots, which have been at rest for so long.
pub fn spare<T>(mut idle: Vec<(Duration, T)>) -> Vec<T> {
    idle.sort_by_key(|(rest, _)| *rest);
    let limits = iter::once(IDLE_MAX).chain(iter::repeat(SPARE_IDLE_MAX));
    let spare = limits.zip(idle).filter(|(limit, (rest, _))| rest >= limit);
    spare.map(|(_, (_, node))| node).collect()
}

/// The clock of the questions for the map.
pub struct Schedule {
    state: Mutex<State>,
    bell: Condvar,
}

struct State {
    is_wanted: bool,
    has_ended: bool,
    last: Instant,
}

impl Default for Schedule {
    fn default() -> Self {
        let state = State { is_wanted: false, has_ended: false, last: Instant::now() };
        Self { state: Mutex::new(state), bell: Condvar::new() }
    }
}

impl Schedule {
    /// Has the map asked for soon.
    pub fn want(&self) {
        let mut state = self.lock();
        if !state.is_wanted {
            state.is_wanted = true;
            self.bell.notify_all();
        }
    }

    /// Ends the thread that waits here.
    pub fn end(&self) {
        self.lock().has_ended = true;
        self.bell.notify_all();
    }

    /// Waits until the map is to be asked for; false at the end.
    pub fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            let interval = if state.is_wanted { REFRESH_MIN } else { REFRESH };
            let left = interval.saturating_sub(state.last.elapsed());
            if state.has_ended {
                return false;
            }
            if left.is_zero() {
                state.is_wanted = false;
                state.last = Instant::now();
                return true;
            }
            let woken = self.bell.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses to ask for the map, the best first; another one with each turn.
pub fn candidates(map: &Map, config: &Config, turn: usize) -> Vec<Address> {
    let mut nodes: Vec<_> = map.nodes().collect();
    nodes.sort_by_key(|node| node.address());
    let count = nodes.len().max(1);
    nodes.rotate_left(turn % count);
    // The answer may change meanwhile.
    nodes.sort_by_cached_key(|node| node.is_doubted(REFRESH));
    let nodes = nodes.into_iter().map(|node| node.address().clone());
    let mut addresses: Vec<_> = nodes.collect();
    for seed in config.seeds.iter().map(Address::from) {
        if !addresses.contains(&seed) {
            addresses.push(seed);
        }
    }
    addresses
}
