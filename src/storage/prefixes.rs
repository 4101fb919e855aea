//! The prefixes of a key, found in a sorted map of prefixes.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Calls `visit` for each prefix of a key that the map has, the longest first. Takes as many
/// look-ups as it finds, and some more for those that nearly are.
pub fn each_prefix_of<V>(
    map: &mut BTreeMap<Box<[u8]>, V>,
    key: &str,
    mut visit: impl FnMut(&mut V),
) {
    // In each round the greatest prefix that is left is one of the key's, or shows how
    // much of the key the next one of those can have at most.
    let mut rest = Some(key.as_bytes());
    while let Some(bytes) = rest {
        let until = (Bound::Unbounded, Bound::Included(bytes));
        let Some((prefix, value)) = map.range_mut::<[u8], _>(until).next_back() else {
            return;
        };
        let common = prefix.iter().zip(bytes).take_while(|(one, other)| one == other).count();
        rest = if common == prefix.len() {
            visit(value);
            common.checked_sub(1).and_then(|shorter| bytes.get(..shorter))
        } else {
            bytes.get(..common)
        };
    }
}
