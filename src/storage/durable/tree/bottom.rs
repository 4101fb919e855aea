//! The bottom of a tree: tables with nothing below them, which can be dropped without a
//! merge.
//!
//! ```text
//! L0  ├───────────────────────────────┤
//! L5  ├────────┤ ├──┤   ├────────────┤
//! L6  ├──┤ ├──┤ ├───┤ ├───┤ ├──┤ ├───┤      the bottom
//!               ╰ stretch ╯
//! ```
//!
//! A value in a table of the bottom that nothing above hides is there no more once the
//! table is dropped: no older one comes to light, as there is none. lsm-tree drops all
//! tables whose keys are within some bounds, those above the bottom too. So a stretch has
//! all of these, and is none if anything that is hidden by them would stay.

use super::{Database, Keyspace, Result};
use bytes::Bytes;
use fjall::AbstractTree as _;
use lsm_tree::{SeqNo, Table, Tree, ValueType};
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

/// Neighbouring tables of the bottom, with those above that have no keys beside theirs.
pub struct Stretch {
    bounds: RangeInclusive<Bytes>,
    bottom: Vec<Table>,
    above: Vec<Table>,
    /// The bytes of all these.
    pub bytes: u64,
}

/// A value that is in the tables of a stretch, and is what readers see.
pub struct StretchItem {
    pub key: Bytes,
    /// `None` if it is in a blob file.
    pub value: Option<Bytes>,
}

impl Stretch {
    /// The last key.
    pub fn last(&self) -> &Bytes {
        self.bounds.end()
    }

    /// Visits all that would be there no more if it were dropped, in order.
    pub fn visit(
        &self,
        database: &Database,
        keyspace: &Keyspace,
        visit: &mut dyn FnMut(StretchItem),
    ) -> Result<()> {
        let mut above = HashMap::new();
        for table in &self.above {
            for item in table.scan()? {
                let item = item?;
                let newest = above.entry(item.key.user_key).or_insert(0);
                *newest = item.key.seqno.max(*newest);
            }
        }
        let mut bottom = Vec::with_capacity(self.bottom.len());
        for table in &self.bottom {
            bottom.push(table.scan()?);
        }
        let mut bottom = bottom.into_iter().flatten().peekable();
        let number = database.visible_number();
        let version = keyspace.0.tree.get_version_history_lock().get_version_for_snapshot(number);
        for newest in Tree::create_internal_range(version, &self.bounds, number, None) {
            let newest = newest?;
            let (key, seqno) = (&newest.key.user_key, newest.key.seqno);
            let mut is_here = above.get(key) == Some(&seqno);
            while let Some(item) = bottom.next_if(|item| is_at_most(item, key)) {
                let item = item?.key;
                is_here |= item.user_key == *key && item.seqno == seqno;
            }
            if is_here {
                let is_blob = newest.key.value_type == ValueType::Indirection;
                let value = (!is_blob).then(|| newest.value.into());
                visit(StretchItem { key: newest.key.user_key.into(), value });
            }
        }
        Ok(())
    }
}

/// Returns true for an item of this key or one before it, and for an error.
fn is_at_most(item: &lsm_tree::Result<lsm_tree::InternalValue>, key: &[u8]) -> bool {
    item.as_ref().map_or(true, |item| &*item.key.user_key <= key)
}

impl Keyspace {
    /// The first stretch that begins at a key or behind it, and below another, of about so
    /// many bytes. Tables whose values are in blob files are passed.
    pub fn bottom_stretch(&self, from: &[u8], until: &[u8], bytes_max: u64) -> Option<Stretch> {
        let version = self.0.tree.current_version();
        let levels: Vec<Vec<&Table>> = version
            .iter_levels()
            .map(|level| level.iter().flat_map(|run| run.iter()).collect())
            .collect();
        let bottom = bottom_of(&levels, from, until);
        let mut rest = &bottom[..];
        while !rest.is_empty() {
            let (mut tables, mut bytes, mut of_level) = (Vec::new(), 0, None);
            while let Some(((level, table), behind)) = rest.split_first() {
                let file_bytes = table.metadata.file_size;
                let is_full = bytes > 0 && bytes + file_bytes > bytes_max;
                if is_full || of_level.is_some_and(|of_level| of_level != level) {
                    break;
                }
                rest = behind;
                // What cannot be looked at is left where it is.
                if table.referenced_blob_bytes().is_ok_and(|blobs| blobs <= file_bytes) {
                    bytes += file_bytes;
                    of_level = Some(level);
                    tables.push(*table);
                } else if !tables.is_empty() {
                    break;
                }
            }
            if let Some(stretch) = stretch_of(&levels, &tables) {
                return Some(stretch);
            }
        }
        None
    }

    /// Drops the tables of a stretch; `false` if these are others by now. Once this returns
    /// no reader finds what was in them. A compaction of the keyspace that is under way is
    /// waited for.
    pub fn drop_stretch(&self, database: &Database, stretch: &Stretch) -> Result<bool> {
        let tree = &self.0.tree;
        // A flush meanwhile could put another file within the bounds.
        let _lock = tree.get_flush_lock();
        let Stretch { bounds, bottom, above, .. } = stretch;
        let expected: HashSet<u64> = bottom.iter().chain(above).map(Table::id).collect();
        let version = tree.current_version();
        let is_within = |it: &&Table| first(it) >= &bounds.start()[..] && last(it) <= bounds.end();
        let found: HashSet<u64> = version.iter_tables().filter(is_within).map(Table::id).collect();
        if found != expected {
            return Ok(false);
        }
        // The one before may have had what is in the tables.
        self.2.note(tree);
        tree.drop_range(bounds.clone())?;
        database.renew_moment();
        Ok(true)
    }
}

/// The tables between two keys that have none below them, each with its level, in order.
fn bottom_of<'a>(levels: &[Vec<&'a Table>], from: &[u8], until: &[u8]) -> Vec<(usize, &'a Table)> {
    let mut bottom = Vec::new();
    let mut below: Vec<(&[u8], &[u8])> = Vec::new();
    for (number, level) in levels.iter().enumerate().skip(1).rev() {
        for table in level {
            let (from_table, to_table) = (first(table), last(table));
            let ends = below.partition_point(|(_, last)| *last < from_table);
            let is_over = below.get(ends).is_some_and(|(first, _)| *first <= to_table);
            if !is_over && from_table >= from && from_table < until {
                bottom.push((number, *table));
            }
        }
        below.extend(level.iter().map(|table| (first(table), last(table))));
        below = united(below);
    }
    bottom.sort_unstable_by(|(_, one), (_, other)| first(one).cmp(first(other)));
    bottom
}

/// Ranges of keys in order, those that overlap as one.
fn united<'a>(mut ranges: Vec<(&'a [u8], &'a [u8])>) -> Vec<(&'a [u8], &'a [u8])> {
    ranges.sort_unstable();
    let mut united: Vec<(&[u8], &[u8])> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match united.last_mut() {
            Some((_, end)) if *end >= first => *end = last.max(*end),
            _ => united.push((first, last)),
        }
    }
    united
}

/// The stretch of tables of the bottom, if it can be dropped.
fn stretch_of(levels: &[Vec<&Table>], bottom: &[&Table]) -> Option<Stretch> {
    let (from, to) = (first(bottom.first()?), last(bottom.last()?));
    let is_within = |table: &&&Table| first(table) >= from && last(table) <= to;
    let dropped: HashSet<u64> =
        levels.iter().flatten().filter(is_within).map(|it| it.id()).collect();
    let mut above = Vec::new();
    for (number, level) in levels.iter().enumerate() {
        for table in level.iter().filter(is_within) {
            // Another run of L0 may be an older one.
            let others = levels.iter().skip(if number == 0 { 0 } else { number + 1 }).flatten();
            let mut staying = others.filter(|other| !dropped.contains(&other.id()));
            if staying.any(|other| first(other) <= last(table) && last(other) >= first(table)) {
                return None;
            }
            if bottom.iter().all(|it| it.id() != table.id()) {
                above.push((**table).clone());
            }
        }
    }
    // Journals would be read again from the highest number that tables have.
    let highest = |is_dropped: bool| -> Option<SeqNo> {
        let tables = levels.iter().flatten().filter(|it| dropped.contains(&it.id()) == is_dropped);
        tables.map(|table| table.get_highest_seqno()).max()
    };
    if highest(false) <= highest(true) {
        return None;
    }
    let bounds = Bytes::copy_from_slice(from)..=Bytes::copy_from_slice(to);
    let bottom: Vec<Table> = bottom.iter().map(|table| (*table).clone()).collect();
    let bytes = bottom.iter().chain(&above).map(|table| table.metadata.file_size).sum();
    Some(Stretch { bounds, bottom, above, bytes })
}

pub fn first(table: &Table) -> &[u8] {
    table.metadata.key_range.min()
}

pub fn last(table: &Table) -> &[u8] {
    table.metadata.key_range.max()
}
