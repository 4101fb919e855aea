//! A replica of a store, kept by lines as a watcher is told of them: their keys and values
//! have no white space.

use super::blocking::Blocking as _;
use little_key_value::storage::{Event, Key, Listing, PAGE_KEYS_MAX, Read, Revision, Storage};
use little_key_value::storage::{Watched, Watcher};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A watcher of all keys, from a position on or else from the first line `reset`.
pub fn watch(store: &dyn Storage, since: Option<Revision>) -> Watcher {
    let changes = store.changes().expect("a change log");
    let since = since.unwrap_or_else(|| changes.revision().before_all());
    changes.watch(Watched::Prefix("".into()), Some(since))
}

/// Says all that a watcher is to be told, until it is up to date.
pub fn tell(store: &dyn Storage, watcher: &Watcher, mut say: impl FnMut(&str)) {
    loop {
        match watcher.read() {
            Read::Changes(changes) => {
                for change in changes {
                    let (id, key) = (change.revision, change.key);
                    let put =
                        || stored(store, &key).map(|it| format!("put {id} {} {it}", key.as_str()));
                    let text = key.as_str();
                    match change.event {
                        Event::Put => say(&put().unwrap_or_else(|| format!("delete {id} {text}"))),
                        Event::Delete => say(&format!("delete {id} {text}")),
                        Event::Expire => say(&format!("expire {id} {text}")),
                        Event::Evict => say(&format!("evict {id} {text}")),
                    }
                }
            }
            Read::Passing => {}
            Read::UpToDate(id) => return say(&format!("ready {id}")),
            Read::Reborn | Read::Behind => {
                say("reset");
                let now = store.changes().expect("a change log").revision();
                watcher.go_on_from(now);
                for (key, value) in listed(store) {
                    say(&format!("put {} {key} {value}", now.before_all()));
                }
            }
        }
    }
}

/// The value under a key.
fn stored(store: &dyn Storage, key: &Key) -> Option<String> {
    let entry = store.get(key).expect("the engine reads")?;
    Some(String::from_utf8_lossy(entry.value()).into_owned())
}

/// All keys and values of a store.
pub fn listed(store: &dyn Storage) -> BTreeMap<String, String> {
    let mut listing = Listing { with_entries: true, keys_max: PAGE_KEYS_MAX, ..Listing::default() };
    let mut listed = BTreeMap::new();
    loop {
        let page = store.list(listing.clone()).expect("the engine lists");
        let values = page.entries().iter().map(|it| String::from_utf8_lossy(it.value()));
        listed.extend(page.keys().map(str::to_owned).zip(values.map(Cow::into_owned)));
        match page.next {
            Some(next) => listing.range.start = next,
            None => return listed,
        }
    }
}

/// The keys and values as they were told.
#[derive(Default)]
pub struct Replica {
    pub values: BTreeMap<String, String>,
    /// The position up to which all was told; none while it has to start over.
    pub at: Option<Revision>,
    /// How often it has started over.
    pub resets: usize,
}

impl Replica {
    /// Applies a line.
    #[track_caller]
    pub fn apply(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["reset"] => {
                (self.values, self.at) = (BTreeMap::new(), None);
                self.resets += 1;
            }
            ["put", id, key, value] => {
                self.values.insert(key.to_owned(), value.to_owned());
                self.go_on_to(id, line);
            }
            ["delete" | "expire" | "evict", id, key] => {
                self.values.remove(key);
                self.go_on_to(id, line);
            }
            ["ready", id] => self.at = Some(id.parse().expect("a revision")),
            _ => panic!("a line without a meaning: {line}"),
        }
    }

    fn go_on_to(&mut self, id: &str, line: &str) {
        let id: Revision = id.parse().expect("a revision");
        // A line of a state is no position.
        let Some(at) = self.at.filter(|_| id.place > 0) else { return };
        assert!(at.birth == id.birth && at.place < id.place, "{line} behind {at}");
        self.at = Some(id);
    }

    /// Is told all that has changed in a store.
    pub fn follow(&mut self, store: &dyn Storage) {
        let watcher = watch(store, self.at);
        tell(store, &watcher, |line| self.apply(line));
    }
}
