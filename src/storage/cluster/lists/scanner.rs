//! The reading of many keys: by SCAN over the masters, or those of one slot by a script.
//!
//! ```text
//! range ──► a whole tag, few keys in its slot ──► one script
//!      └──► else: SCAN of every master side by side ──► slots moved meanwhile? again
//! ```
//!
//! While slots move all the time no scan would ever do, so a later one is taken as it is: it
//! has each key but, maybe, those whose slot has moved.
//!
//! What a node does not answer is asked again, for as long as a request is tried: the time
//! since it last answered counts, and not how long the whole takes. These block; they run
//! on threads of the listings.

use super::scan::{Gatherer, SCAN_BYTES_MAX, Scan};
use super::slot;
use crate::storage::cluster::network::protocol::{Commands, Reply};
use crate::storage::cluster::network::router::{PATIENCE, Place, Replies, Request, Router};
use crate::storage::cluster::scripts;
use crate::storage::{Error, Hindrance, Range};
use bytes::Bytes;
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The keys that a node looks at in one step: it serves nobody else for about 0.4 ms.
const STEP_KEYS: &[u8] = b"1000";

/// A scan of more steps than that at one node is worth keeping.
const STEPS_FEW: usize = 10;

/// The time that a node has for a step, until it is asked again.
const STEP_PATIENCE: Duration = Duration::from_secs(1);

/// The time until a node that has failed is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// How often a scan begins anew as slots have moved, or no master is known.
const RESTARTS_MAX: usize = 50;

/// The scans that are begun anew though each node has told all its keys, as slots have moved.
const MOVED_MAX: usize = 2;

/// The keys of a slot that a script reads: the node serves nobody else for about 10 ms.
const SLOT_KEYS_MAX: usize = 20_000;

/// A scan that was made.
#[derive(Clone)]
pub struct Made {
    pub scan: Arc<Scan>,
    /// The topology of the cluster when it was begun.
    pub topology: u64,
    /// It has taken long.
    pub worth_keeping: bool,
}

/// The time at which a node last answered.
#[derive(Clone, Copy)]
pub struct Since(pub Instant);

impl Since {
    /// The end of the tries.
    pub fn deadline(self) -> Instant {
        self.0 + PATIENCE
    }

    fn is_over(self) -> bool {
        // A request that has less time would hardly be sent.
        Instant::now() + Duration::from_millis(20) >= self.deadline()
    }
}

/// The pattern of a prefix.
fn pattern_of(prefix: &str) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix.bytes() {
        if b"*?[]^-\\".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}

/// Finds the keys of a range that are nearest to its start.
pub fn find(router: &Arc<Router>, range: &Range, since: Since) -> Result<Made, Error> {
    let slot = slot::of_prefix(&range.prefix);
    if let Some(slot) = slot
        && let Some(made) = find_in_slot(router, range, slot, since)?
    {
        return Ok(made);
    }
    let (mut since, mut moved) = (since, 0);
    for _ in 0..RESTARTS_MAX {
        let topology = router.topology();
        let places: Vec<Place> = match slot {
            Some(slot) => vec![Place::Slot(slot)],
            None => router.masters().into_iter().map(Place::Node).collect(),
        };
        let mut walk = Walk {
            router,
            topology,
            pattern: pattern_of(&range.prefix),
            gatherer: Gatherer::new(range, SCAN_BYTES_MAX),
            since,
            steps_max: 0,
        };
        if !places.is_empty() && walk.run(places)? {
            if router.topology() == topology || moved == MOVED_MAX {
                let worth_keeping = walk.steps_max > STEPS_FEW;
                let scan = Arc::new(walk.gatherer.into_scan());
                return Ok(Made { scan, topology, worth_keeping });
            }
            moved += 1;
        }
        since = walk.since;
        if since.is_over() {
            break;
        }
        thread::sleep(RETRY);
    }
    Err(Error::NotDone(Hindrance::ClusterDown))
}

/// Finds all keys of a range in one slot, or nothing if the slot has too many.
fn find_in_slot(
    router: &Arc<Router>,
    range: &Range,
    slot: u16,
    since: Since,
) -> Result<Option<Made>, Error> {
    let topology = router.topology();
    let commands = slot::keys(slot, &range.prefix, SLOT_KEYS_MAX);
    let replies = ask(router, Place::Slot(slot), commands, since.deadline());
    let replies = replies.recv().map_err(|_| scripts::unexpected())??;
    match replies.into_iter().next() {
        Some(Reply::Integer(_too_many)) => Ok(None),
        Some(Reply::Many(keys)) => {
            let mut gatherer = Gatherer::new(range, SCAN_BYTES_MAX);
            for key in &keys {
                gatherer.add(bytes_of(key)?);
            }
            let scan = Arc::new(gatherer.into_scan());
            // The script is quick, so the next page runs it again.
            Ok(Some(Made { scan, topology, worth_keeping: false }))
        }
        Some(Reply::Nothing | Reply::Bytes(_) | Reply::Error(_)) | None => {
            Err(scripts::unexpected())
        }
    }
}

/// Sends a read whose reply is waited for.
fn ask(
    router: &Arc<Router>,
    place: Place,
    commands: Commands,
    deadline: Instant,
) -> Receiver<Result<Replies, Error>> {
    let (told, replies) = crossbeam_channel::bounded(1);
    let done = Box::new(move |outcome| told.send(outcome).unwrap_or_default());
    router.send(Request { place, commands, is_write: false, deadline, done });
    replies
}

fn bytes_of(reply: &Reply) -> Result<&Bytes, Error> {
    match reply {
        Reply::Bytes(bytes) => Ok(bytes),
        Reply::Nothing | Reply::Integer(_) | Reply::Many(_) | Reply::Error(_) => {
            Err(scripts::unexpected())
        }
    }
}

/// A scan on its way.
struct Walk<'a> {
    router: &'a Arc<Router>,
    topology: u64,
    pattern: Vec<u8>,
    gatherer: Gatherer,
    /// When each node answered last, or the one that did so longest ago.
    since: Since,
    /// The most steps at one node.
    steps_max: usize,
}

/// The walk along the keys of one node.
struct Course {
    place: Place,
    cursor: Bytes,
    steps: usize,
    since: Since,
}

type Answer = (usize, Result<Replies, Error>);

impl Walk<'_> {
    /// Walks along the keys of all nodes. Returns false if slots have moved meanwhile.
    fn run(&mut self, places: Vec<Place>) -> Result<bool, Error> {
        let (told, answers) = crossbeam_channel::unbounded::<Answer>();
        let send = |this: &Self, number: usize, course: &Course| {
            let commands = Commands::default().with(&[
                b"SCAN",
                &course.cursor,
                b"MATCH",
                &this.pattern,
                b"COUNT",
                STEP_KEYS,
            ]);
            let told = told.clone();
            let done = Box::new(move |outcome| told.send((number, outcome)).unwrap_or_default());
            let deadline = course.since.deadline().min(Instant::now() + STEP_PATIENCE);
            let place = course.place.clone();
            this.router.send(Request { place, commands, is_write: false, deadline, done });
        };
        let start = |place| Course { place, cursor: START, steps: 0, since: self.since };
        let mut courses: Vec<Course> = places.into_iter().map(start).collect();
        let mut pending = courses.len();
        for (number, course) in courses.iter().enumerate() {
            send(self, number, course);
        }
        while pending > 0 {
            let (number, outcome) = answers.recv().map_err(|_| scripts::unexpected())?;
            let Some(course) = courses.get_mut(number) else { continue };
            match outcome {
                Ok(replies) => {
                    course.cursor = self.gather(replies)?;
                    course.steps += 1;
                    course.since = Since(Instant::now());
                    self.steps_max = self.steps_max.max(course.steps);
                    if course.cursor == START {
                        pending -= 1;
                        continue;
                    }
                }
                Err(err) => {
                    if self.router.topology() != self.topology {
                        self.since = course.since;
                        return Ok(false);
                    }
                    if !passes(&err) || course.since.is_over() {
                        return Err(as_of_a_read(err));
                    }
                    thread::sleep(RETRY);
                    // The node may have been started anew, and its cursors with it.
                    course.cursor = START;
                }
            }
            send(self, number, course);
        }
        self.since = courses
            .iter()
            .map(|course| course.since)
            .min_by_key(|since| since.0)
            .unwrap_or(self.since);
        Ok(true)
    }

    /// Adds the keys of a step. Returns the cursor for the next one.
    fn gather(&mut self, replies: Replies) -> Result<Bytes, Error> {
        let Some(Reply::Many(parts)) = replies.into_iter().next() else {
            return Err(scripts::unexpected());
        };
        let mut parts = parts.into_iter();
        let (Some(Reply::Bytes(cursor)), Some(Reply::Many(keys))) = (parts.next(), parts.next())
        else {
            return Err(scripts::unexpected());
        };
        for key in &keys {
            self.gatherer.add(bytes_of(key)?);
        }
        Ok(cursor)
    }
}

/// The cursor of a walk that begins, or has ended.
const START: Bytes = Bytes::from_static(b"0");

/// Returns true for an error that may have passed a while later.
fn passes(err: &Error) -> bool {
    matches!(err, Error::NotDone(_) | Error::OutcomeUnknown | Error::Overloaded)
}

/// The error of a read: nobody asks whether one was done.
fn as_of_a_read(err: Error) -> Error {
    if err == Error::OutcomeUnknown { Error::NotDone(Hindrance::ClusterDown) } else { err }
}
