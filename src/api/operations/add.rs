//! `POST` of the collection: the body becomes a value under a new key, with a prefix
//! and a name behind it. Names sort in the order in which values were added.
//!
//! A name is the time, or where that does not go on, the next number. It is above all
//! names that this process has given under the prefix and above those in the store, which
//! may have been given by another process, at a later time of its clock.

use super::list::list;
use super::update::Verb;
use super::write::Write;
use super::{Answer, Operation, Pending, Routed};
use crate::api::access::Right;
use crate::api::collection::Parameters;
use crate::api::etag::Conditions;
use crate::api::target::{self, encode};
use crate::api::ttl::Ttl;
use crate::api::{Refusal, Step};
use crate::storage::{KEY_BYTES_MAX, Key, Listing, Page, Range, Start};
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The parameters of a `POST`.
const NAMES: &[&str] = &["prefix", "ttl"];

/// The most looks for the last name, past other keys with the prefix.
const LOOKS_MAX: usize = 1000;

/// The most names to try, if others take them first.
const TRIES_MAX: usize = 20;

/// Parses the head.
pub fn parse(routed: Routed<'_>) -> Result<Operation, Refusal> {
    let fields = routed.fields;
    routed.caller.rights.check(Right::Write)?;
    routed.caller.check_site(routed.target, fields)?;
    let parameters = Parameters::parse(routed.target.query, NAMES)?;
    parameters.check_prefix(routed.caller, Right::Write)?;
    let ttl = Ttl::parse(parameters.ttl, fields)?;
    let prefix = parameters.into_prefix()?;
    if prefix.len() + Name::HIGHEST.len() > KEY_BYTES_MAX {
        return Err(Refusal::KeyTooLong);
    }
    Conditions::check_none(fields)?;
    // The name comes later.
    let key = target::key((&*prefix).into())?;
    let mut write = Write::parse(Verb::Set, ttl, key, fields)?;
    write.conditions = Conditions::absent();
    Ok(Operation::Body(Box::new(move |api, body| {
        write.check(&body)?;
        let value_bytes_max = api.value_bytes_max;
        Ok(Addition { prefix, write, body, value_bytes_max, tries: 0, looks: 0 }.look())
    })))
}

/// A value that is being added.
struct Addition {
    prefix: Box<str>,
    write: Write,
    body: Bytes,
    value_bytes_max: u64,
    tries: usize,
    looks: usize,
}

impl Addition {
    /// Looks for the last name in the store.
    fn look(self) -> Pending {
        let bound = [Name::HIGHEST, "\0"].concat();
        let start = Start::After([&*self.prefix, &*bound].concat().into());
        Self { looks: 0, ..self }.look_below(start)
    }

    fn look_below(self, start: Start) -> Pending {
        let range = Range { prefix: self.prefix.clone(), start, is_reverse: true };
        let listing = Listing { range, keys_max: 1, ..Listing::default() };
        list(listing, move |page| self.name(page))
    }

    /// Gives a name once the last one is found.
    fn name(mut self, mut page: Page) -> Step {
        let Some(key) = page.keys().next() else {
            return match page.next.take() {
                Some(start) => Step::Pending(self.look_below(start)),
                None => self.create(None),
            };
        };
        let rest = key.strip_prefix(&*self.prefix).unwrap_or_default();
        match Name::at_start_of(rest) {
            Some(last) => self.create(Some(last)),
            None if self.looks < LOOKS_MAX => {
                let bound = [&*self.prefix, &*Name::bound_below(rest)].concat();
                self.looks += 1;
                Step::Pending(self.look_below(Start::After(bound.into())))
            }
            None => self.create(None),
        }
    }

    /// Creates the key of a name above the last one, if nobody else has.
    fn create(self, last: Option<Name>) -> Step {
        let name = given().next(&self.prefix, last);
        let key = Key::new(format!("{}{name}", self.prefix)).expect("its length was checked");
        let mut write = self.write.clone();
        write.key = key.clone();
        let planned = match write.plan(self.body.clone(), self.value_bytes_max) {
            Ok(planned) => planned,
            Err(refusal) => return Step::Reply(refusal.into()),
        };
        let Pending { op, answer } = planned.alone();
        let then = move |effect| {
            let Step::Reply(reply) = answer.step(Ok(effect)) else {
                unreachable!("one operation makes the reply")
            };
            if reply.status() == 201 {
                return Step::Reply(reply.with_text(format!("{}\n", encode(key.as_str()))));
            }
            if self.tries == TRIES_MAX {
                return Step::Reply(Refusal::NameTaken.into());
            }
            Step::Pending(Self { tries: self.tries + 1, ..self }.look())
        };
        Step::Pending(Pending { op, answer: Answer::Then(Box::new(then)) })
    }
}

/// A name: Unix milliseconds in 14 digits and a number in 6, in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(u64);

/// The names that were given in this process.
#[derive(Default)]
struct Given {
    /// The last one by the clock, under any prefix.
    last: u64,
    /// The last one of each prefix whose names are ahead of the clock.
    ahead: HashMap<Box<str>, u64>,
}

/// The most prefixes whose names are ahead of the clock.
const AHEAD_MAX: usize = 1024;

fn given() -> MutexGuard<'static, Given> {
    static GIVEN: LazyLock<Mutex<Given>> = LazyLock::new(Mutex::default);
    // No change to it can panic half way.
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Given {
    /// The next name under a prefix, above the `last` one in the store. One that has none
    /// above it was not given here, and does not count.
    fn next(&mut self, prefix: &str, last: Option<Name>) -> Name {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX).saturating_mul(Name::EACH);
        let by_clock = now.max(self.last + 1);
        let above = |last: u64| Some(last + 1).filter(|next| Name(*next).is_name());
        let in_store = last.and_then(|Name(last)| above(last));
        let ahead = self.ahead.get(prefix).and_then(|last| above(*last)).max(in_store);
        let Some(ahead) = ahead.filter(|ahead| *ahead > by_clock) else {
            self.ahead.remove(prefix);
            self.last = by_clock;
            return Name(by_clock);
        };
        if !self.ahead.contains_key(prefix) && self.ahead.len() == AHEAD_MAX {
            self.ahead.clear();
        }
        self.ahead.insert(prefix.into(), ahead);
        Name(ahead)
    }
}

impl Name {
    /// Numbers in a millisecond. Past them the next one begins.
    const EACH: u64 = 1_000_000;

    const LOWEST: &str = "00000000000000-000000";

    /// In the year 2286. Each byte of a name is between those of these two.
    const HIGHEST: &str = "09999999999999-999999";

    fn is_name(self) -> bool {
        self.0 < 10_000_000_000_000 * Self::EACH
    }

    /// The number of bytes at the start of a text that could be those of a name.
    fn common_len(text: &str) -> usize {
        let bounds = Self::LOWEST.bytes().zip(Self::HIGHEST.bytes());
        let pairs = text.bytes().zip(bounds);
        pairs.take_while(|(byte, (low, high))| (low..=high).contains(&byte)).count()
    }

    /// The name at the start of a text.
    fn at_start_of(text: &str) -> Option<Self> {
        let name = text.get(..Self::HIGHEST.len())?;
        let is_name = Self::common_len(text) == name.len();
        let (time, number) = name.split_once('-').filter(|_| is_name)?;
        Some(Self(time.parse::<u64>().ok()? * Self::EACH + number.parse::<u64>().ok()?))
    }

    /// A bound above all names below a text that begins with none, and above nothing
    /// else there is between the two.
    fn bound_below(text: &str) -> String {
        let common = Self::common_len(text);
        let (start, rest) = text.split_at_checked(common).unwrap_or_default();
        let highest = Self::HIGHEST.get(common..).unwrap_or_default();
        match (rest.bytes().next(), highest.bytes().next()) {
            (Some(byte), Some(high)) if byte > high => [start, highest, "\0"].concat(),
            _ => start.to_owned(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:014}-{:06}", self.0 / Self::EACH, self.0 % Self::EACH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_have_one_form() {
        let name = Name(1_764_302_400_123 * Name::EACH + 42);
        assert_eq!(name.to_string(), "01764302400123-000042");
        assert_eq!(Name::at_start_of("01764302400123-000042"), Some(name));
        assert_eq!(Name::at_start_of("01764302400123-000042:more"), Some(name));
        let [lowest, highest] = [Name::LOWEST, Name::HIGHEST].map(Name::at_start_of);
        assert_eq!(lowest, Some(Name(0)));
        let highest = highest.unwrap();
        assert!(highest.is_name() && !Name(highest.0 + 1).is_name());
        assert_eq!(highest.to_string(), Name::HIGHEST);
        for text in ["", "0", "01764302400123-00004", "11764302400123-000042", "0176430240012x"] {
            assert_eq!(Name::at_start_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_that_is_over_goes_on_in_the_next_millisecond() {
        let name = Name::at_start_of("08000000000000-999999").unwrap();
        assert_eq!(Name(name.0 + 1).to_string(), "08000000000001-000000");
    }

    #[test]
    fn names_rise_and_stay_above_those_in_the_store() {
        let mut given = Given::default();
        let first = given.next("a", None);
        // Ahead of the clock by a minute.
        let ahead = Name(first.0 + 60_000 * Name::EACH);
        let second = given.next("a", Some(ahead));
        let third = given.next("a", None);
        assert!(first < ahead && ahead < second && second < third);
        assert!(third.to_string() > second.to_string());
        // Of that prefix alone.
        let other = given.next("b", None);
        assert!(first < other && other < ahead);
        assert!(given.next("b", Some(first)) > other);
    }

    #[test]
    fn a_name_with_none_above_it_does_not_count() {
        let mut given = Given::default();
        let first = given.next("a", Name::at_start_of(Name::HIGHEST));
        let second = given.next("a", Name::at_start_of(Name::HIGHEST));
        assert!(first < second && second.is_name());
    }

    #[test]
    fn few_prefixes_are_kept() {
        let mut given = Given::default();
        let ahead = Name::at_start_of("08000000000000-000000").unwrap();
        for number in 0..2 * AHEAD_MAX {
            let prefix = number.to_string();
            assert!(given.next(&prefix, Some(ahead)) > ahead);
            assert!(given.ahead.len() <= AHEAD_MAX);
        }
    }

    proptest! {
        /// Nothing that is passed over is a name.
        #[test]
        fn no_name_is_between_a_text_and_the_bound_below_it(
            text in "0{0,2}[0-9]{0,3}[!0-9a:-]{0,3}",
            digits in "[0-9]{6}",
        ) {
            prop_assume!(Name::at_start_of(&text).is_none());
            let bound = Name::bound_below(&text);
            prop_assert!(bound <= text);
            let common = Name::common_len(&text);
            // Names near the text, which share the start of it.
            for shared in 0..=common {
                let shared = text.get(..shared).unwrap();
                for fill in [Name::LOWEST, Name::HIGHEST, "05555555555555-555555"] {
                    let mut name = [shared, &fill[shared.len()..]].concat();
                    for name in [name.clone(), { name.replace_range(15.., &digits); name }] {
                        prop_assert!(Name::at_start_of(&name).is_some());
                        prop_assert!(name < bound || name > text, "{} {} {}", name, bound, text);
                    }
                }
            }
        }
    }
}
