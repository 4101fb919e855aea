//! Putting a page together, key by key.
//!
//! ```text
//! bounds ──► the engine walks its keys within them ──► add, or pass one that has expired
//!    ▲                                                  │
//!    └── a group, or the end of what it read at once ◄──┴──► full, or at the end: the page
//! ```

use super::{Bounds, Listing, PAGE_BYTES_MAX, Page, Range, Start};
use crate::storage::{Entry, Key};

/// Puts a page together.
pub struct Builder<'a> {
    listing: &'a Listing,
    page: Page,
    /// The bytes of the values on it.
    value_bytes: usize,
    place: Place,
}

/// The place of a walk: behind what it has passed.
enum Place {
    /// The listing's own start.
    Start(Start),
    /// The page's last key.
    Key,
    /// The page's last group.
    Group,
    /// This key, which is not on the page.
    Passed(Key),
}

impl<'a> Builder<'a> {
    /// The page of a listing, empty.
    pub fn new(listing: &'a Listing) -> Self {
        let Listing { range, delimiter, .. } = listing;
        let start = match (&range.start, delimiter) {
            // A start inside a group is one behind it.
            (start @ Start::After(after), Some(delimiter)) => {
                match group_of(after, &range.prefix, delimiter) {
                    Some(group) => Start::AfterPrefix(group.into()),
                    None => start.clone(),
                }
            }
            (start, _) => start.clone(),
        };
        Self { listing, page: Page::default(), value_bytes: 0, place: Place::Start(start) }
    }

    /// The start of the rest.
    fn start(&self) -> Start {
        let last = || self.page.last().unwrap_or_default().into();
        match &self.place {
            Place::Start(start) => start.clone(),
            Place::Key => Start::After(last()),
            Place::Group => Start::AfterPrefix(last()),
            // A start after it would be one behind its group, which may have living
            // keys.
            Place::Passed(key) => Start::At(key.as_str().into()),
        }
    }

    /// The bounds of the keys that are left, or none if no key can be within them.
    pub fn bounds(&self) -> Option<Bounds> {
        let start = match &self.place {
            Place::Passed(key) => Start::After(key.as_str().into()),
            Place::Start(_) | Place::Key | Place::Group => self.start(),
        };
        Range { start, ..self.listing.range.clone() }.bounds()
    }

    /// Returns true if `key` is in the group that was added last or that the listing
    /// starts after. Keys of it add nothing, so a walk may go on behind it.
    pub fn is_in_group(&self, key: &str) -> bool {
        match &self.place {
            Place::Group => self.page.last().is_some_and(|group| key.starts_with(group)),
            Place::Start(Start::AfterPrefix(group)) => key.starts_with(&**group),
            Place::Start(Start::First | Start::At(_) | Start::After(_))
            | Place::Key
            | Place::Passed(_) => false,
        }
    }

    /// The number of keys and groups of the page.
    pub fn len(&self) -> usize {
        self.page.len()
    }

    /// Returns true once the page takes no more keys.
    pub fn is_full(&self) -> bool {
        let bytes = self.page.keys.bytes() + self.value_bytes;
        self.page.len() >= self.listing.keys_max || bytes >= PAGE_BYTES_MAX
    }

    /// Adds the next living key of the listing, with its entry if that is asked for.
    /// Returns false if the page is full, and notes that there is a rest.
    pub fn add(&mut self, key: &str, entry: Option<Entry>) -> bool {
        if self.is_in_group(key) {
            return true;
        }
        if self.is_full() {
            self.stop();
            self.page.is_followed = true;
            return false;
        }
        let Listing { range, delimiter, .. } = self.listing;
        let group =
            delimiter.as_ref().and_then(|delimiter| group_of(key, &range.prefix, delimiter));
        self.page.keys.push(group.unwrap_or(key));
        self.value_bytes += entry.as_ref().map_or(0, |entry| entry.value().len());
        self.page.entries.extend(entry);
        self.place = if group.is_some() { Place::Group } else { Place::Key };
        true
    }

    /// Passes a key that has expired.
    pub fn pass(&mut self, key: Key) {
        if !self.is_in_group(key.as_str()) {
            self.place = Place::Passed(key);
        }
    }

    /// Notes that there may be a rest, from here on.
    pub fn stop(&mut self) {
        self.page.next = Some(self.start());
    }

    /// The page.
    pub fn into_page(self) -> Page {
        self.page
    }
}

/// The group of a key: up to the end of the first delimiter behind the prefix.
fn group_of<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(prefix)?;
    let end = prefix.len() + rest.find(delimiter)? + delimiter.len();
    key.get(..end)
}
