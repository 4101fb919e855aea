//! The change of the first key with a prefix.

use super::account::Full;
use super::maps::write;
use super::packed::Packed;
use super::{Memory, Pace, Undone};
use crate::storage::{Change, Effect, Event, Key, Op, Updated};

impl Memory {
    /// Changes the first living key with a prefix.
    ///
    /// One at a time: of many who look for it at once, all but one would decide in
    /// vain. Nobody reads several keys meanwhile, so nobody sees a key that comes
    /// before this one beside it.
    pub(super) fn update_first_alone(
        &self,
        prefix: Box<str>,
        mut change: Change,
        pace: Pace,
    ) -> Result<Effect, Undone> {
        loop {
            let Some(_alone) = pace.alone(&self.0.moment) else {
                return Err(Undone::Busy(Op::UpdateFirst(prefix, change)));
            };
            let Some(first) = self.0.index.first(&prefix) else {
                return Ok(Effect::UpdatedFirst(None));
            };
            let key = Key::new(first).expect("it was a key");
            let hashed = self.0.hashed(key.as_str());
            let shard = self.0.shard(hashed);
            let mut map = write(&shard.map);
            // It may have gone, or another come before it.
            if self.0.index.first(&prefix).as_deref() != Some(key.as_str()) {
                continue;
            }
            let Some(before) = map.get(hashed).cloned().and_then(Packed::into_living) else {
                let notification = self.0.remove_from(&mut map, Event::Delete, hashed);
                drop(map);
                if let Some(notification) = notification {
                    self.0.notify(key.as_str(), notification);
                }
                match pace {
                    Pace::AtOnce => return Err(Undone::Busy(Op::UpdateFirst(prefix, change))),
                    Pace::AtLength => continue,
                }
            };
            let changed = self.change_in(shard, &mut map, hashed, Some(&before), &mut change);
            drop(map);
            let (after, notification) = match changed {
                Ok(changed) => changed,
                Err(Full { wanted }) => {
                    return Err(Undone::Full(Op::UpdateFirst(prefix, change), wanted));
                }
            };
            if let Some(notification) = notification {
                self.0.notify(key.as_str(), notification);
            }
            let updated = Updated { before: Some(before), after };
            return Ok(Effect::UpdatedFirst(Some((key, updated).into())));
        }
    }
}
