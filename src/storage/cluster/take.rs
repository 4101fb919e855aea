//! The change of the first key with a prefix, as of a queue: many fronts and many callers,
//! and each is shown what the others have left.
//!
//! ```text
//! callers ──► line of the prefix ──► round: as many as wait, in order, on the first keys
//!                 ▲                     │
//!                 └── next round ◄── one script: are these the first, and as they were?
//!                     on what it         then change them; and what comes behind them
//!                     has replied
//! ```
//!
//! The prefix has a whole tag, so all its keys are in one slot. The script looks at every
//! key of the slot: that is the cost of a round, 1 ms of the node's time for a thousand
//! keys, about. Callers of one front share their rounds, so that a queue that many take
//! from costs far less for each.
//!
//! Changes are decided here, and the script does nothing unless the keys that they were
//! shown are as they were, and no other has come before them.

use super::Front;
use super::envelope::Stored;
use super::scripts::{self, key_functions, sha1_of, unexpected};
use crate::storage::cluster::lists::slot;
use crate::storage::cluster::network::protocol::{Commands, Reply};
use crate::storage::cluster::network::router::PATIENCE;
use crate::storage::cluster::writes::decision::{Fate, decide};
use crate::storage::completion::Completion;
use crate::storage::{Change, Effect, Error, Hindrance, Key, Updated};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most callers of one round, and the most keys that are read for it.
const ROUND_MAX: usize = 64;

/// The most callers that wait for one prefix.
const WAITING_MAX: usize = 8192;

/// The keys that are no keys of ours and come first, as many as are passed over.
const PASSED_MAX: usize = 256;

/// Reads the first keys of a slot with a prefix, and changes some before that.
///
/// The words: the slot, the prefix, how many keys to read, how many were seen, `all` if
/// those are all there are, how many to pass over, these, and for each that was seen its
/// name and the words of *change*. Replies with 1 if all was as it was seen, and so was
/// done; with 1 if there are no keys behind those that it has read; and with these, each
/// with its value and its expiry. Keys are compared by their bytes, in any locale.
pub const TAKE: &str = concat!(
    key_functions!(),
    "\
local slot, prefix, wanted, seen = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local passed, first = tonumber(ARGV[6]), 7
local length, byte, sub = #prefix, string.byte, string.sub
local gone = {}
for at = first, first + passed - 1 do gone[ARGV[at]] = true end
first = first + passed
local keys = redis.call('CLUSTER', 'GETKEYSINSLOT', slot,
  redis.call('CLUSTER', 'COUNTKEYSINSLOT', slot))
local function before(one, other)
  local at = length + 1
  while true do
    local a, b, c, d, e, f, g, h = byte(one, at, at + 7)
    local i, j, k, l, m, n, o, p = byte(other, at, at + 7)
    if a ~= i then return (a or -1) < (i or -1) end
    if b ~= j then return (b or -1) < (j or -1) end
    if c ~= k then return (c or -1) < (k or -1) end
    if d ~= l then return (d or -1) < (l or -1) end
    if e ~= m then return (e or -1) < (m or -1) end
    if f ~= n then return (f or -1) < (n or -1) end
    if g ~= o then return (g or -1) < (o or -1) end
    if h ~= p then return (h or -1) < (p or -1) end
    if not h then return false end
    at = at + 8
  end
end
local function is_value(key)
  local is_string = redis.call('TYPE', key).ok == 'string'
  gone[key] = not is_string
  return is_string
end
local function nearest(count)
  local best, size = {}, 0
  for at = #keys, 1, -1 do
    local key = keys[at]
    if sub(key, 1, length) == prefix and not gone[key]
      and (size < count or before(key, best[size])) and is_value(key) then
      local low, high = 1, size + 1
      while low < high do
        local middle = math.floor((low + high) / 2)
        if before(best[middle], key) then low = middle + 1 else high = middle end
      end
      table.insert(best, low, key)
      if size == count then best[count + 1] = nil else size = size + 1 end
    end
  end
  return best
end
local best = nearest(seen + wanted + 1)
local is_done = #best >= seen and (ARGV[5] ~= 'all' or #best == seen)
for number = 1, seen do
  local at = first + 7 * (number - 1)
  is_done = is_done and best[number] == ARGV[at] and is_seen(best[number], at + 1)
end
if is_done then
  for number = 1, seen do
    apply(best[number], first + 7 * (number - 1) + 1)
  end
end
local start = is_done and seen + 1 or 1
local last, size = start - 1, 0
local reply = {is_done and 1 or 0, 0}
while last < #best and last < start - 1 + wanted and size < 1048576 do
  last = last + 1
  local value = redis.call('GET', best[last])
  size = size + #value
  reply[#reply + 1] = best[last]
  reply[#reply + 1] = value
  reply[#reply + 1] = string.format('%.0f', redis.call('PEXPIRETIME', best[last]))
end
if last == #best then reply[2] = 1 end
return reply"
);

static TAKE_SHA1: LazyLock<String> = LazyLock::new(|| sha1_of(TAKE.as_bytes()));

/// The lines of callers, one for each prefix with a round under way.
#[derive(Default)]
pub struct Takes(Mutex<HashMap<Box<str>, VecDeque<Take>>>);

/// A change of the first key on its way.
struct Take {
    change: Change,
    completion: Completion,
    deadline: Instant,
}

/// The first keys, in order, with what is stored there.
#[derive(Default)]
struct Firsts {
    keys: VecDeque<(Key, Stored)>,
    /// There are no others.
    are_all: bool,
}

/// What a round knows of the keys.
enum Sight {
    /// Nothing.
    None,
    /// They are as they were when the last script ran, before these callers had come.
    Remembered(Firsts),
    /// They were so since then.
    Fresh(Firsts),
}

/// A round on its way. It has the turn in its line.
struct Round {
    front: Arc<Front>,
    prefix: Box<str>,
    slot: u16,
    takes: Vec<Take>,
    sight: Sight,
    /// Keys with the prefix that are no keys of ours.
    passed: Vec<Bytes>,
}

/// A key that changes were shown, and its fate.
struct Shown {
    key: Key,
    seen: Stored,
    fate: Fate,
}

/// Decisions of a round.
struct Plan {
    shown: Vec<Shown>,
    /// Those who decided, each with its outcome, and whether it has written.
    decided: Vec<(Take, Result<Effect, Error>, bool)>,
    /// A caller was shown that there are no more keys.
    at_end: bool,
}

impl Front {
    /// Changes the first key with a prefix.
    pub fn update_first(
        self: &Arc<Self>,
        prefix: Box<str>,
        change: Change,
        completion: Completion,
    ) {
        let Some(slot) = slot::of_prefix(&prefix) else {
            return completion.tell(Err(Error::SlotsDiffer));
        };
        let take = Take { change, completion, deadline: Instant::now() + PATIENCE };
        let mut lines = self.takes.lock();
        if let Some(waiting) = lines.get_mut(&prefix) {
            let refused = if waiting.len() < WAITING_MAX {
                waiting.push_back(take);
                None
            } else {
                Some(take)
            };
            drop(lines);
            if let Some(take) = refused {
                take.completion.tell(Err(Error::Overloaded));
            }
            return;
        }
        lines.insert(prefix.clone(), VecDeque::new());
        drop(lines);
        let front = Arc::clone(self);
        let (takes, sight, passed) = (vec![take], Sight::None, Vec::new());
        Round { front, prefix, slot, takes, sight, passed }.run();
    }
}

impl Takes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, VecDeque<Take>>> {
        // Nothing that is called under it panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    /// Decides, and sends what comes of it; or ends the line.
    fn run(mut self) {
        loop {
            self.join();
            if self.takes.is_empty() {
                return;
            }
            let (firsts, is_fresh) = match mem::replace(&mut self.sight, Sight::None) {
                Sight::None => return self.load(),
                Sight::Remembered(firsts) => (firsts, false),
                Sight::Fresh(firsts) => (firsts, true),
            };
            let (plan, rest) = self.decide(firsts);
            if plan.decided.is_empty() {
                return self.load();
            }
            if plan.writes() {
                return self.change(plan);
            }
            if !is_fresh {
                // What was decided on what is remembered may be out of date.
                let decided = plan.decided.into_iter().map(|(take, ..)| take);
                self.takes = decided.chain(mem::take(&mut self.takes)).collect();
                return self.load();
            }
            self.sight = Sight::Remembered(rest);
            for (take, outcome, _) in plan.decided {
                take.completion.tell(outcome);
            }
        }
    }

    /// Adds those who wait, refuses those whose time is over, and ends the line if there
    /// is nobody. What was read before they came is not fresh for them, so those for whom
    /// it is go first.
    fn join(&mut self) {
        let now = Instant::now() + Duration::from_millis(10);
        let late: Vec<_> = self.takes.extract_if(.., |take| take.deadline <= now).collect();
        let is_fresh = matches!(self.sight, Sight::Fresh(_));
        let mut lines = self.front.takes.lock();
        if let Some(waiting) = lines.get_mut(&self.prefix)
            && (self.takes.is_empty() || !is_fresh)
        {
            let room = ROUND_MAX.saturating_sub(self.takes.len()).min(waiting.len());
            self.takes.extend(waiting.drain(..room));
            if let Sight::Fresh(firsts) = &mut self.sight {
                self.sight = Sight::Remembered(mem::take(firsts));
            }
        }
        if self.takes.is_empty() {
            lines.remove(&self.prefix);
        }
        drop(lines);
        tell_all(late, &Error::NotDone(Hindrance::ClusterDown));
    }

    /// Runs changes in order, for as long as keys are known. Returns what is left of these.
    fn decide(&mut self, firsts: Firsts) -> (Plan, Firsts) {
        let Firsts { mut keys, are_all } = firsts;
        let mut plan = Plan { shown: Vec::new(), decided: Vec::new(), at_end: false };
        // The first key that is left was shown already.
        let mut is_shown = false;
        let mut takes = mem::take(&mut self.takes).into_iter();
        for mut take in takes.by_ref() {
            if !is_shown {
                match keys.pop_front() {
                    Some((key, seen)) => {
                        plan.shown.push(Shown { key, seen, fate: Fate::Kept });
                        is_shown = true;
                    }
                    None if are_all => {
                        plan.at_end = true;
                        plan.decided.push((take, Ok(Effect::UpdatedFirst(None)), false));
                        continue;
                    }
                    None => {
                        self.takes.push(take);
                        break;
                    }
                }
            }
            let Some(shown) = plan.shown.last_mut() else { break };
            let before = match &shown.fate {
                Fate::Kept | Fate::Refused | Fate::Deleted => Some(&shown.seen),
                Fate::Stored(stored) => Some(&**stored),
            };
            let (outcome, writes) = match decide(before, &mut take.change) {
                Err(err) => (Err(err), false),
                Ok((fate, effect)) => {
                    let effect = of_first(&shown.key, effect);
                    let writes = match fate {
                        Fate::Kept | Fate::Refused => false,
                        Fate::Stored(_) | Fate::Deleted => {
                            is_shown = !matches!(fate, Fate::Deleted);
                            shown.fate = fate;
                            true
                        }
                    };
                    (effect, writes)
                }
            };
            plan.decided.push((take, outcome, writes));
        }
        self.takes.extend(takes);
        if is_shown
            && let Some(shown) = plan.shown.last()
            && matches!(shown.fate, Fate::Kept)
        {
            keys.push_front((shown.key.clone(), shown.seen.clone()));
        }
        (plan, Firsts { keys, are_all })
    }

    /// Reads the first keys.
    fn load(self) {
        let plan = Plan { shown: Vec::new(), decided: Vec::new(), at_end: false };
        let wanted = self.takes.len();
        self.ask(plan, wanted, false);
    }

    /// Does what was decided, and reads the keys behind that for those who wait.
    fn change(self, plan: Plan) {
        let waiting = self.front.takes.lock().get(&self.prefix).map_or(0, VecDeque::len);
        let wanted = (self.takes.len() + plan.decided.len() + waiting).min(ROUND_MAX);
        self.ask(plan, wanted, true);
    }

    fn ask(self, plan: Plan, wanted: usize, is_write: bool) {
        let commands = self.commands(&plan, wanted, is_write);
        let takes = self.takes.iter().chain(plan.decided.iter().map(|(take, ..)| take));
        let deadline = takes.map(|take| take.deadline).min().unwrap_or_else(Instant::now);
        let front = Arc::clone(&self.front);
        front.ask(self.slot, commands, is_write, deadline, move |replies| {
            let reply = replies.map(|replies| replies.into_iter().next());
            match reply {
                Ok(reply) => self.go_on(plan, reply),
                Err(err) => self.fail(plan, &err),
            }
        });
    }

    fn commands(&self, plan: &Plan, wanted: usize, is_write: bool) -> Commands {
        let [slot, wanted, seen, passed] =
            [self.slot.into(), wanted, plan.shown.len(), self.passed.len()]
                .map(|number: usize| number.to_string());
        let all: &[u8] = if plan.at_end { b"all" } else { b"" };
        let own: Vec<_> = plan.shown.iter().map(Shown::own_words).collect();
        let mut words: Vec<&[u8]> = vec![
            slot.as_bytes(),
            self.prefix.as_bytes(),
            wanted.as_bytes(),
            seen.as_bytes(),
            all,
            passed.as_bytes(),
        ];
        words.extend(self.passed.iter().map(|key| &**key));
        for (shown, own) in plan.shown.iter().zip(&own) {
            words.push(shown.key.as_str().as_bytes());
            words.extend(own.words(&shown.change()));
        }
        let command: &[u8] = if is_write { b"EVALSHA" } else { b"EVALSHA_RO" };
        slot::run(command, &TAKE_SHA1, &self.prefix, &words)
    }

    /// Goes on with the reply of the script.
    fn go_on(mut self, plan: Plan, reply: Option<Reply>) {
        let read = match read(reply) {
            Ok(read) => read,
            Err(err) => return self.fail(plan, &err),
        };
        if !read.is_done {
            // What there is was read after all of them had come.
            let decided = plan.decided.into_iter().map(|(take, ..)| take);
            self.takes = decided.chain(mem::take(&mut self.takes)).collect();
            self.sight = Sight::Fresh(read.firsts);
            return self.run_with_passed(read.strangers);
        }
        for shown in &plan.shown {
            let is_stored = match shown.fate {
                Fate::Kept | Fate::Refused => continue,
                Fate::Stored(_) => true,
                Fate::Deleted => false,
            };
            self.front.waiters.changed(shown.key.as_str(), is_stored);
        }
        let is_whole = plan.shown.iter().all(|shown| matches!(shown.fate, Fate::Deleted));
        self.sight = match (is_whole, plan.decided.is_empty()) {
            // A load: it was for all of them.
            (_, true) => Sight::Fresh(read.firsts),
            (true, false) => Sight::Remembered(read.firsts),
            // Those that stay are before what it has read.
            (false, false) => Sight::None,
        };
        for (take, outcome, _) in plan.decided {
            take.completion.tell(outcome);
        }
        self.run_with_passed(read.strangers);
    }

    /// Runs on, past keys that are no keys of ours.
    fn run_with_passed(mut self, strangers: Vec<Bytes>) {
        if !strangers.is_empty() {
            self.sight = Sight::None;
            self.passed.extend(strangers);
        }
        if self.passed.len() > PASSED_MAX {
            log::error!("too many keys that are no UTF-8 begin with {:?}", self.prefix);
            let takes = mem::take(&mut self.takes);
            self.passed.clear();
            tell_all(takes, &Error::NotAValue);
        }
        self.run();
    }

    /// Tells a failure to those it concerns, and tries the others again.
    fn fail(mut self, plan: Plan, err: &Error) {
        let is_late = |take: &Take| take.deadline <= Instant::now() + Duration::from_millis(10);
        let concerns = |take: &Take, writes: bool| {
            if *err == Error::OutcomeUnknown {
                writes
            } else {
                *err != Error::NotDone(Hindrance::ClusterDown) || is_late(take)
            }
        };
        let mut failed = Vec::new();
        let mut others = Vec::new();
        for (take, _, writes) in plan.decided {
            if concerns(&take, writes) { failed.push(take) } else { others.push(take) }
        }
        for take in mem::take(&mut self.takes) {
            if concerns(&take, false) { failed.push(take) } else { others.push(take) }
        }
        self.takes = others;
        self.sight = Sight::None;
        tell_all(failed, err);
        self.run();
    }
}

/// Reads the reply of the script.
fn read(reply: Option<Reply>) -> Result<Read, Error> {
    let Some(Reply::Many(parts)) = reply else { return Err(unexpected()) };
    let mut parts = parts.into_iter();
    let (Some(Reply::Integer(is_done)), Some(Reply::Integer(are_all))) =
        (parts.next(), parts.next())
    else {
        return Err(unexpected());
    };
    let mut read = Read {
        is_done: is_done == 1,
        firsts: Firsts { keys: VecDeque::new(), are_all: are_all == 1 },
        strangers: Vec::new(),
    };
    while let (Some(key), Some(value), Some(expiry)) = (parts.next(), parts.next(), parts.next()) {
        let (Reply::Bytes(key), Reply::Bytes(value)) = (key, value) else {
            return Err(unexpected());
        };
        let known = str::from_utf8(&key).ok().and_then(|text| Key::new(text).ok());
        match known {
            Some(known) => {
                let stored = Stored::found(value, scripts::expiry_of(&expiry)?);
                read.firsts.keys.push_back((known, stored));
            }
            None => read.strangers.push(key),
        }
    }
    Ok(read)
}

/// The reply of the script.
struct Read {
    is_done: bool,
    firsts: Firsts,
    strangers: Vec<Bytes>,
}

impl Plan {
    fn writes(&self) -> bool {
        self.decided.iter().any(|(_, _, writes)| *writes)
    }
}

impl Shown {
    fn change(&self) -> scripts::KeyChange<'_> {
        let seen = scripts::Seen::Exactly(Some(&self.seen));
        scripts::KeyChange { key: self.key.as_str(), seen, fate: self.fate.in_script() }
    }

    fn own_words(&self) -> scripts::OwnWords {
        scripts::OwnWords::of(&self.change())
    }
}

/// The effect on the first key of an update.
fn of_first(key: &Key, effect: Effect) -> Result<Effect, Error> {
    let Effect::Updated(updated) = effect else { return Err(unexpected()) };
    let updated: Updated = *updated;
    Ok(Effect::UpdatedFirst(Some((key.clone(), updated).into())))
}

fn tell_all(takes: Vec<Take>, err: &Error) {
    for take in takes {
        take.completion.tell(Err(err.clone()));
    }
}
