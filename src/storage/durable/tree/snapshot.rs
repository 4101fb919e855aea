//! Reads of keyspaces as they were at a moment.

use super::held_tree::{HeldItem, HeldItems, HeldTree};
use super::{Keyspace, Result};
use crate::storage::page::Bounds;
use bytes::Bytes;
use fjall::Readable as _;

/// Keyspaces of a database at a moment: later batches do not show.
pub enum Snapshot {
    /// All of them. As long as it lives the database keeps all that is obsolete since.
    Tracked(fjall::Snapshot),
    /// Some of them, by their numbers. It keeps what they were, and nothing else.
    Held(Vec<(u64, HeldTree)>),
}

impl Snapshot {
    /// The same moment of some keyspaces, to be kept for long.
    pub fn hold(self, keyspaces: [&Keyspace; 2]) -> Self {
        match self {
            Self::Tracked(snapshot) => Self::Held(
                keyspaces
                    .map(|keyspace| {
                        let (id, path) = (keyspace.id(), keyspace.0.path());
                        (id, HeldTree::new(&keyspace.0.tree, path, snapshot.seqno()))
                    })
                    .into(),
            ),
            Self::Held(_) => self,
        }
    }

    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        match self {
            Self::Tracked(snapshot) => Ok(snapshot.get(&keyspace.0, key)?.map(Into::into)),
            Self::Held(trees) => tree_of(trees, keyspace).get(key.as_ref()),
        }
    }

    /// The items within some bounds, in order or from the last to the first.
    pub fn range(&self, keyspace: &Keyspace, bounds: Bounds, is_reverse: bool) -> Items {
        let both = match self {
            Self::Tracked(snapshot) => BothWays::Tracked(snapshot.range(&keyspace.0, bounds)),
            Self::Held(trees) => BothWays::Held(tree_of(trees, keyspace).range(&bounds)),
        };
        Items { both, is_reverse }
    }

    /// The memtable of a keyspace that it keeps for a long time.
    pub fn held_memtable(&self, keyspace: &Keyspace) -> Option<u64> {
        match self {
            Self::Tracked(_) => None,
            Self::Held(trees) => Some(tree_of(trees, keyspace).memtable()),
        }
    }
}

fn tree_of<'a>(trees: &'a [(u64, HeldTree)], keyspace: &Keyspace) -> &'a HeldTree {
    let mut trees = trees.iter().filter(|(id, _)| *id == keyspace.id());
    trees.next().map(|(_, tree)| tree).expect("the keyspace is one of those that are held")
}

/// Items of a keyspace, in one direction.
pub struct Items {
    both: BothWays,
    is_reverse: bool,
}

enum BothWays {
    Tracked(fjall::Iter),
    Held(HeldItems),
}

impl Iterator for Items {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        match (&mut self.both, self.is_reverse) {
            (BothWays::Tracked(items), false) => items.next().map(Item::Tracked),
            (BothWays::Tracked(items), true) => items.next_back().map(Item::Tracked),
            (BothWays::Held(items), false) => items.next().map(Item::Held),
            (BothWays::Held(items), true) => items.next_back().map(Item::Held),
        }
    }
}

/// A key with its value, neither of which was looked at.
pub enum Item {
    Tracked(fjall::Guard),
    Held(HeldItem),
}

impl Item {
    pub fn into_parts(self) -> Result<(Bytes, Bytes)> {
        let (key, value) = self.read(true)?;
        Ok((key, value.expect("it is wanted")))
    }

    /// The key, with its value where that is wanted: it may be in a file of its own.
    pub fn read(self, with_value: bool) -> Result<(Bytes, Option<Bytes>)> {
        match self {
            Self::Tracked(item) => {
                let (key, value) = item.into_inner_if(|_key| with_value)?;
                Ok((key.into(), value.map(Into::into)))
            }
            Self::Held(item) => item.read(with_value),
        }
    }
}
