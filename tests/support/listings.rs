//! Listings by their definition, to judge those of an engine. The unit tests of the
//! library use this file too.

use little_key_value::storage::{Listing, Start};

/// The keys and groups of a listing of some keys, whatever its limits: each key is
/// looked at, and they are sorted at last.
pub fn listed<'a>(keys: impl IntoIterator<Item = &'a str>, listing: &Listing) -> Vec<String> {
    let range = &listing.range;
    let line_of = |key: &str| -> String {
        let rest = key.strip_prefix(&*range.prefix).unwrap_or_default();
        let group = listing.delimiter.as_deref().and_then(|delimiter| {
            let (name, _) = rest.split_once(delimiter)?;
            Some(format!("{}{name}{delimiter}", range.prefix))
        });
        group.unwrap_or_else(|| key.to_owned())
    };
    let is_after =
        |key: &str, start: &str| if range.is_reverse { key < start } else { key > start };
    let is_listed = |key: &str| {
        let is_past_the_start = match &range.start {
            Start::First => true,
            Start::At(start) => is_after(key, start) || key == &**start,
            Start::After(start) => {
                // Outside the prefix there are no groups.
                let is_in_range = start.starts_with(&*range.prefix);
                is_after(key, start) && !(is_in_range && line_of(start) == line_of(key))
            }
            Start::AfterPrefix(group) => is_after(key, group) && !key.starts_with(&**group),
        };
        key.starts_with(&*range.prefix) && is_past_the_start
    };
    let mut lines: Vec<String> =
        keys.into_iter().filter(|key| is_listed(key)).map(line_of).collect();
    lines.sort_unstable();
    lines.dedup();
    if range.is_reverse {
        lines.reverse();
    }
    lines
}
