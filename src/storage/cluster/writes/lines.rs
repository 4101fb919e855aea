//! The lines in which writes of this front wait for each other, one for each key that has
//! an update under way.
//!
//! ```text
//! update ──► no line: begins one, has the turn ──► at its end takes all that wait, or
//! update ──► line: waits in it                     hands the turn to a batch, or ends
//! set, delete ──► waits in a line if there is one  the line
//! batch ──► waits in the lines of all its keys at once, until all turns are its own
//! ```
//!
//! Other fronts know nothing of a line: it saves the nodes work, and a batch from losing to
//! this front's quicker updates, and no more. A batch joins all its lines at one moment, so
//! that of two batches one is before the other in each line that they share.
//!
//! Nothing here knows nodes, or runs a change.

use crate::storage::cluster::envelope::Stored;
use crate::storage::cluster::network::router::PATIENCE;
use crate::storage::completion::Completion;
use crate::storage::{Change, Error, Key};
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The maps that lines are sharded over.
const SHARDS: usize = 64;

/// The most that wait in one line.
const WAITING_MAX: usize = 8192;

/// The most bytes to be stored that wait in one line; one more may be any length.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// The most that are taken out of a line at once.
const TAKEN_MAX: usize = 1024;

/// A write of one key.
pub struct Write {
    pub op: KeyOp,
    pub completion: Completion,
    /// The end of its tries.
    pub deadline: Instant,
}

/// The operation of a write.
pub enum KeyOp {
    Set(Box<Stored>),
    Delete,
    Update(Change),
}

impl Write {
    /// One that begins.
    pub fn begin(op: KeyOp, completion: Completion) -> Self {
        Self { op, completion, deadline: Instant::now() + PATIENCE }
    }
}

impl KeyOp {
    fn bytes(&self) -> usize {
        match self {
            Self::Set(stored) => stored.bytes.len(),
            Self::Delete | Self::Update(_) => 0,
        }
    }
}

/// All lines of a front. A clone is another handle on them.
#[derive(Clone, Default)]
pub struct Lines(Arc<Shards>);

struct Shards {
    shards: Box<[Mutex<ByKey>]>,
    hasher: RandomState,
}

type ByKey = HashMap<Key, Line>;

/// Those who wait while somebody has the turn.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// The bytes that they are to store.
    bytes: usize,
}

enum Waiting {
    Write(Write),
    Batch(Arc<Gathering>),
}

/// The turn in a line. Dropping it ends the line with all who wait, who are told so.
pub struct Turn {
    lines: Lines,
    key: Key,
    has_ended: bool,
}

/// The next in a line.
pub enum Next {
    /// These, who have waited longest.
    Writes(Turn, Vec<Write>),
    /// A batch that has the turn in all its lines.
    Batch(Box<Gathered>),
    /// Nobody, or a batch that waits for its other turns.
    Nobody,
}

/// A batch that has all its turns.
pub struct Gathered {
    turns: Vec<Turn>,
    begin: Begin,
}

impl Gathered {
    /// Begins the batch.
    pub fn begin(self) {
        (self.begin)(Ok(self.turns));
    }
}

/// The begin of a batch, with its turns in any order, or the reason why it has none.
pub type Begin = Box<dyn FnOnce(Result<Vec<Turn>, Error>) + Send>;

/// A batch that waits for its turns.
struct Gathering(Mutex<Gathers>);

struct Gathers {
    /// The number of turns that are missing.
    missing: usize,
    turns: Vec<Turn>,
    begin: Option<Begin>,
}

impl Default for Shards {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl Lines {
    /// Begins a line with a write that has the turn in it, or has the write wait in the
    /// one that is there.
    pub fn join(&self, key: Key, write: Write) -> Option<(Turn, Write)> {
        let mut shard = self.shard(&key);
        match shard.entry(key) {
            Vacant(vacant) => {
                let key = vacant.key().clone();
                vacant.insert(Line::default());
                Some((self.turn(key), write))
            }
            Occupied(mut occupied) => {
                let refused = occupied.get_mut().push(write).err();
                drop(shard);
                refuse(refused);
                None
            }
        }
    }

    /// Has a write wait in the line of a key, or gives it back if there is none.
    pub fn join_if_there(&self, key: &Key, write: Write) -> Option<Write> {
        let mut shard = self.shard(key);
        let Some(line) = shard.get_mut(key) else { return Some(write) };
        let refused = line.push(write).err();
        drop(shard);
        refuse(refused);
        None
    }

    /// Has a batch wait in the lines of these keys, each of them named once, in all from
    /// the same moment on. Returns it if it need not wait.
    pub fn join_all(&self, keys: &[Key], begin: Begin) -> Option<Gathered> {
        let mut places: Vec<(usize, &Key)> =
            keys.iter().map(|key| (self.place(key), key)).collect();
        places.sort_unstable();
        // Locked in their order, and all of them until the batch is in every line.
        let shards = places.chunk_by(|one, other| one.0 == other.0).filter_map(|keys| {
            let (place, _) = keys.first()?;
            Some((lock(self.at(*place)), keys))
        });
        let mut shards: Vec<_> = shards.collect();
        let mut lines = shards
            .iter()
            .flat_map(|(shard, keys)| keys.iter().filter_map(|(_, key)| shard.get(*key)));
        if lines.any(Line::is_full) {
            drop(shards);
            begin(Err(Error::Overloaded));
            return None;
        }
        let gathers = Gathers { missing: keys.len(), turns: Vec::new(), begin: Some(begin) };
        let gathering = Arc::new(Gathering(Mutex::new(gathers)));
        let mut turns = Vec::new();
        for (shard, keys) in &mut shards {
            for (_, key) in *keys {
                match shard.entry((*key).clone()) {
                    Vacant(vacant) => {
                        turns.push(self.turn((*key).clone()));
                        vacant.insert(Line::default());
                    }
                    Occupied(mut occupied) => {
                        let waiting = Waiting::Batch(Arc::clone(&gathering));
                        occupied.get_mut().waiting.push_back(waiting);
                    }
                }
            }
        }
        drop(shards);
        gathering.add(turns)
    }

    fn turn(&self, key: Key) -> Turn {
        Turn { lines: self.clone(), key, has_ended: false }
    }

    fn place(&self, key: &Key) -> usize {
        // The maps take other bits of their own hashes.
        usize::try_from(self.0.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
    }

    fn at(&self, place: usize) -> &Mutex<ByKey> {
        self.0.shards.get(place).expect("each place is below the number of the shards")
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, ByKey> {
        lock(self.at(self.place(key)))
    }
}

impl Line {
    fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    /// Adds a write, or gives it back if too many wait.
    fn push(&mut self, write: Write) -> Result<(), Write> {
        if self.is_full() {
            return Err(write);
        }
        self.bytes += write.op.bytes();
        self.waiting.push_back(Waiting::Write(write));
        Ok(())
    }
}

/// Tells a write, if there is one, that too many wait.
fn refuse(write: Option<Write>) {
    if let Some(write) = write {
        write.completion.tell(Err(Error::Overloaded));
    }
}

impl Turn {
    /// The key of the line.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Gives the turn to the next in the line. A line without one ends.
    pub fn pass_on(mut self) -> Next {
        let mut shard = self.lines.shard(&self.key);
        let Some(line) = shard.get_mut(&self.key) else { return Next::Nobody };
        if let Some(Waiting::Batch(_)) = line.waiting.front() {
            let batch = line.waiting.pop_front();
            drop(shard);
            let Some(Waiting::Batch(gathering)) = batch else { return Next::Nobody };
            let gathered = gathering.add(vec![self]);
            return gathered.map_or(Next::Nobody, |gathered| Next::Batch(gathered.into()));
        }
        let mut writes = Vec::new();
        while writes.len() < TAKEN_MAX
            && let Some(Waiting::Write(_)) = line.waiting.front()
        {
            let Some(Waiting::Write(write)) = line.waiting.pop_front() else { break };
            line.bytes -= write.op.bytes();
            writes.push(write);
        }
        if writes.is_empty() {
            shard.remove(&self.key);
            drop(shard);
            self.has_ended = true;
            return Next::Nobody;
        }
        drop(shard);
        Next::Writes(self, writes)
    }

    /// Puts writes back, who were first in the line.
    pub fn put_back(&self, writes: Vec<Write>) {
        let mut shard = self.lines.shard(&self.key);
        let Some(line) = shard.get_mut(&self.key) else { return };
        for write in writes.into_iter().rev() {
            line.bytes += write.op.bytes();
            line.waiting.push_front(Waiting::Write(write));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // Those who wait are told behind the lock.
        let line = self.lines.shard(&self.key).remove(&self.key);
        drop(line);
    }
}

impl Gathering {
    /// Adds turns; returns the batch with its last.
    fn add(&self, turns: Vec<Turn>) -> Option<Gathered> {
        let mut gathers = lock(&self.0);
        gathers.missing -= turns.len();
        gathers.turns.extend(turns);
        if gathers.missing > 0 {
            return None;
        }
        let turns = mem::take(&mut gathers.turns);
        gathers.begin.take().map(|begin| Gathered { turns, begin })
    }
}

/// Nothing that is called under one of these locks panics halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Decision, Done, Effect, Entry, Outage, Outcome};
    use std::sync::mpsc;

    /// A line of which the test has the turn, and the outcomes that were told.
    struct Told(mpsc::Sender<(u8, Outcome)>, mpsc::Receiver<(u8, Outcome)>);

    impl Told {
        fn new() -> Self {
            let (to, from) = mpsc::channel();
            Self(to, from)
        }

        fn completion(&self, name: u8) -> Completion {
            let to = self.0.clone();
            let done: Done = Box::new(move |outcome| to.send((name, outcome)).unwrap_or_default());
            Completion::from(done)
        }

        fn update(&self, name: u8) -> Write {
            let op = KeyOp::Update(Box::new(|_| Decision::Keep));
            Write { op, completion: self.completion(name), deadline: Instant::now() }
        }

        fn set(&self, name: u8, bytes: usize) -> Write {
            let entry = Entry::new(vec![b'x'; bytes].into());
            let op = KeyOp::Set(Stored::of(entry, None).into());
            Write { op, completion: self.completion(name), deadline: Instant::now() }
        }

        fn all(&self) -> Vec<(u8, Outcome)> {
            self.1.try_iter().collect()
        }
    }

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    /// The names of writes, told as done.
    fn names(told: &Told, writes: Vec<Write>) -> Vec<u8> {
        for write in writes {
            write.completion.tell(Ok(Effect::Done));
        }
        told.all().into_iter().map(|(name, _)| name).collect()
    }

    fn begun(to: &mpsc::Sender<usize>) -> Begin {
        let to = to.clone();
        Box::new(move |turns| {
            let turns = turns.map_or(0, |turns| turns.len());
            to.send(turns).expect("it is waited for");
        })
    }

    #[test]
    fn the_first_has_the_turn_and_the_others_follow_in_order() {
        let (lines, told) = (Lines::default(), Told::new());
        let (turn, first) = lines.join(key("a"), told.update(0)).expect("nobody else is there");
        for name in 1..4 {
            assert!(lines.join(key("a"), told.update(name)).is_none());
        }
        assert!(lines.join_if_there(&key("a"), told.set(4, 1)).is_none());
        assert!(lines.join_if_there(&key("b"), told.set(5, 1)).is_some());
        assert_eq!(told.all().len(), 1, "the one that was given back is dropped here");
        assert_eq!(names(&told, vec![first]), [0]);
        let Next::Writes(turn, writes) = turn.pass_on() else { panic!("there are some") };
        let mut writes = writes.into_iter();
        let second: Vec<Write> = writes.by_ref().take(1).collect();
        turn.put_back(writes.collect());
        assert_eq!(names(&told, second), [1]);
        let Next::Writes(turn, writes) = turn.pass_on() else { panic!("there are some") };
        assert_eq!(names(&told, writes), [2, 3, 4]);
        assert!(matches!(turn.pass_on(), Next::Nobody));
        assert!(lines.join(key("a"), told.update(6)).is_some(), "the line has ended");
    }

    #[test]
    fn those_who_wait_in_a_line_that_is_given_up_are_told() {
        let (lines, told) = (Lines::default(), Told::new());
        let (turn, first) = lines.join(key("a"), told.update(0)).expect("nobody else is there");
        assert!(lines.join(key("a"), told.update(1)).is_none());
        drop((turn, first));
        let closed = || Err(Error::Unavailable(Outage::Closed));
        assert_eq!(told.all(), [(1, closed()), (0, closed())]);
        assert!(lines.join(key("a"), told.update(2)).is_some());
    }

    #[test]
    fn a_line_is_bounded_by_number_and_bytes() {
        let (lines, told) = (Lines::default(), Told::new());
        let (_turn, _first) = lines.join(key("a"), told.update(0)).expect("nobody else is there");
        for _ in 0..WAITING_MAX {
            assert!(lines.join(key("a"), told.update(1)).is_none());
        }
        assert_eq!(told.all(), []);
        assert!(lines.join(key("a"), told.update(2)).is_none());
        assert_eq!(told.all(), [(2, Err(Error::Overloaded))]);
        let (to, from) = mpsc::channel();
        assert!(lines.join_all(&[key("a"), key("z")], begun(&to)).is_none());
        assert_eq!(from.try_recv(), Ok(0));

        let (turn, _first) = lines.join(key("b"), told.update(0)).expect("nobody else is there");
        assert!(lines.join_if_there(&key("b"), told.set(3, WAITING_BYTES_MAX)).is_none());
        assert!(lines.join_if_there(&key("b"), told.set(4, 1)).is_none());
        assert_eq!(told.all(), [(4, Err(Error::Overloaded))]);
        let Next::Writes(_turn, _writes) = turn.pass_on() else { panic!("there is one") };
        assert!(lines.join_if_there(&key("b"), told.set(5, 1)).is_none());
        assert_eq!(told.all(), []);
    }

    #[test]
    fn a_batch_has_its_turn_in_all_lines() {
        let (lines, told) = (Lines::default(), Told::new());
        let (to, from) = mpsc::channel();
        let [a, b, c] = [key("a"), key("b"), key("c")];
        let (in_a, _first) = lines.join(a.clone(), told.update(0)).expect("nobody is there");
        let (in_b, _first) = lines.join(b.clone(), told.update(1)).expect("nobody is there");
        assert!(lines.join_all(&[a.clone(), c.clone(), b.clone()], begun(&to)).is_none());
        // They come behind it, and so does another batch.
        assert!(lines.join(c, told.update(2)).is_none());
        assert!(lines.join(b.clone(), told.update(3)).is_none());
        assert!(lines.join_all(&[b, a], begun(&to)).is_none());
        assert!(matches!(in_b.pass_on(), Next::Nobody));
        assert!(from.try_recv().is_err());
        let Next::Batch(batch) = in_a.pass_on() else { panic!("it has all turns") };
        assert_eq!(told.all(), []);
        batch.begin();
        assert_eq!(from.try_recv(), Ok(3));
    }

    #[test]
    fn a_batch_alone_need_not_wait() {
        let (lines, (to, from)) = (Lines::default(), mpsc::channel());
        let keys: Vec<Key> = (0..1000).map(|number| key(&number.to_string())).collect();
        lines.join_all(&keys, begun(&to)).expect("nobody else is there").begin();
        assert_eq!(from.try_recv(), Ok(1000));
        assert!(lines.join_all(&keys, begun(&to)).is_some(), "the lines have ended");
    }
}
