//! The last changes as bytes, in segments. A segment is filled, and the oldest one is
//! emptied for the next, so the ring never moves what it has and, once it is full, never
//! allocates.

use super::Event;
use crate::storage::KEY_BYTES_MAX;
use std::collections::VecDeque;

/// The kind of a change, and the length of its key.
const HEAD_BYTES: usize = 3;

/// The most bytes of a change.
const ENTRY_BYTES_MAX: usize = HEAD_BYTES + KEY_BYTES_MAX;

/// The most bytes of a segment.
const SEGMENT_BYTES_MAX: usize = 64 << 10;

/// A segment is a share of the history, or has room for one change.
const SEGMENTS_LEAST: usize = 16;

pub struct Ring {
    segments: VecDeque<Segment>,
    segment_bytes: usize,
    segments_max: usize,
    /// The place of the next change.
    end: u64,
}

struct Segment {
    /// The place of its first change.
    start: u64,
    bytes: Vec<u8>,
}

/// A change in the ring.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// Its place.
    pub start: u64,
    pub event: Event,
    pub key: &'a [u8],
}

impl Entry<'_> {
    /// The place behind it.
    pub fn end(&self) -> u64 {
        self.start + length(self.key.len())
    }
}

/// The bytes of a change of a key with so many bytes.
pub fn length(key_bytes: usize) -> u64 {
    (HEAD_BYTES + key_bytes) as u64
}

impl Ring {
    /// A ring without changes.
    pub fn new(history_bytes: usize, start: u64) -> Self {
        let share = history_bytes / SEGMENTS_LEAST;
        let segment_bytes = share.clamp(ENTRY_BYTES_MAX, SEGMENT_BYTES_MAX);
        let segments_max = (history_bytes / segment_bytes).max(1);
        Self { segments: VecDeque::new(), segment_bytes, segments_max, end: start }
    }

    /// The place of the first change that is kept.
    pub fn start(&self) -> u64 {
        self.segments.front().map_or(self.end, |segment| segment.start)
    }

    /// The place of the next change.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The most bytes of changes that it keeps.
    pub fn bytes_max(&self) -> u64 {
        (self.segments_max * self.segment_bytes) as u64
    }

    /// Forgets all, and begins anew at a place.
    pub fn begin_at(&mut self, start: u64) {
        self.segments.clear();
        self.end = start;
    }

    /// Appends a change, and forgets the oldest ones. Returns its place.
    pub fn append(&mut self, event: Event, key: &str) -> u64 {
        let key_bytes = u16::try_from(key.len()).expect("the length of a key has a maximum");
        let start = self.end;
        let segment = self.segment_for(HEAD_BYTES + key.len());
        segment.push(event as u8);
        segment.extend_from_slice(&key_bytes.to_le_bytes());
        segment.extend_from_slice(key.as_bytes());
        self.end += length(key.len());
        start
    }

    /// The bytes of the last segment, which has room for so many more.
    fn segment_for(&mut self, bytes: usize) -> &mut Vec<u8> {
        let last = self.segments.back();
        if last.is_none_or(|last| last.bytes.len() + bytes > self.segment_bytes) {
            let is_full = self.segments.len() == self.segments_max;
            let emptied = if is_full { self.segments.pop_front() } else { None };
            let mut next =
                emptied.map_or_else(|| Vec::with_capacity(self.segment_bytes), |s| s.bytes);
            next.clear();
            self.segments.push_back(Segment { start: self.end, bytes: next });
        }
        &mut self.segments.back_mut().expect("there is one by now").bytes
    }

    /// The changes from a place on, which is that of a change or the end.
    pub fn from(&self, place: u64) -> impl Iterator<Item = Entry<'_>> {
        let behind = self.segments.partition_point(|segment| segment.start <= place);
        let segments = self.segments.range(behind.saturating_sub(1)..);
        segments.flat_map(move |segment| segment.from(place))
    }

    /// Returns true for the place of a change that is kept, and for the end.
    pub fn has(&self, place: u64) -> bool {
        let behind = self.segments.partition_point(|segment| segment.start <= place);
        let segment = behind.checked_sub(1).and_then(|index| self.segments.get(index));
        let is_of = |segment: &Segment| {
            segment.from(segment.start).take_while(|e| e.start <= place).any(|e| e.start == place)
        };
        place == self.end || segment.is_some_and(is_of)
    }
}

impl Segment {
    /// The changes from a place on, which is that of one of them, or before or behind all.
    fn from(&self, place: u64) -> Entries<'_> {
        let offset = usize::try_from(place.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let rest = self.bytes.get(offset..).unwrap_or_default();
        Entries { place: place.max(self.start), rest }
    }
}

/// The changes of a segment.
struct Entries<'a> {
    place: u64,
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let ([event, low, high], rest) = self.rest.split_first_chunk()?;
        let key_bytes = u16::from_le_bytes([*low, *high]);
        let (key, rest) = rest.split_at_checked(key_bytes.into())?;
        let entry = Entry { start: self.place, event: Event::of(*event), key };
        (self.place, self.rest) = (entry.end(), rest);
        Some(entry)
    }
}
