//! The form of an entry in the maps: a thin pointer to one allocation, the head.
//!
//! ```text
//! plain    references access key+flags value    key [expiry] [type] [digest] value
//! apart    references access key+flags value    address key [expiry] [type] [digest]
//!                                               └─► [digest] value
//! whole    references access key+flags 0        Bytes key [expiry] [type] [digest]
//!                                               └─► value
//!          u16        2 u16  u16       u16      an expiry has 8 bytes, a digest 16
//! ```
//!
//! A value is apart where the class of one allocation would cost more than two do, and
//! whole if it is large: it stays in the buffer that it arrived in. A short one has no
//! digest here: that takes less time to compute than its bytes cost. The digest of one
//! that is apart stands beside it where there is place for nothing.
//!
//! This is the engine's one file with `unsafe` in it. It relies on these invariants,
//! which hold from [`Packed::new`] on:
//!
//! - The pointer is that of an allocation of [`Packed::layout`], and all of it is written.
//! - Nothing in it changes but `references` and `access`, and what `Bytes` shares by itself;
//!   and the addresses, while nobody else has it.
//! - `references` is the number of `Packed` with this pointer. The last one to be
//!   dropped frees it, and a borrow of it outlives none of them.
//! - The flags tell which header it has. The address in that of a value apart is of a
//!   `Box<[u8]>` of [`Packed::run_bytes`], which belongs to the head.

#![allow(unsafe_code, reason = "an allocation of fields of different lengths")]

use crate::platform::size_classes::{SHARED_BYTES_MAX, allocated};
use crate::storage::entry::COPIED_BYTES_MAX;
use crate::storage::{Digest, Entry, Time};
use bytes::Bytes;
use std::alloc::{self, Layout};
use std::hash::{Hash, Hasher};
use std::mem::{self, MaybeUninit};
use std::process;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{self, AtomicU16, Ordering};

/// The largest value without a digest: padded, it is three blocks of SHA-256.
pub const UNDIGESTED_BYTES_MAX: usize = 3 * 64 - 9;

/// The largest value that is changed at once; a larger one keeps others waiting.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// Two allocations in place of one save this part of it, or are not worth their time.
const SAVING_PART: usize = 16;

/// No smaller allocation costs more than two.
const DIVISIBLE_BYTES_MIN: usize = 256;

/// The references to an entry from which on who reads it is lent a copy. Those that are not
/// lent are held for a moment, by a thread a few.
const LENT_MAX: u16 = u16::MAX / 2;

/// The most references that are counted: so many threads cannot add one each between the
/// check and the end.
const REFERENCES_MAX: u16 = LENT_MAX / 2 * 3;

/// The allocation of `Bytes` beside a buffer once it is shared.
const SHARED_BUFFER_BYTES: usize = 24;

/// An entry with its key. A clone is another reference to the same one.
pub struct Packed(NonNull<Header>);

/// The value of an entry, to be shared as bytes.
struct Value(Packed);

/// The fields of an entry behind its key.
struct Fields<'a> {
    expiry: Option<Time>,
    content_type: Option<&'a str>,
    /// None where it is not kept.
    digest: Option<Digest>,
    value: &'a [u8],
}

#[repr(C)]
struct Header {
    references: AtomicU16,
    /// The halves of the record of its use.
    access: [AtomicU16; 2],
    /// The length of the key less one, and the flags.
    key_and_flags: u16,
    /// The length of the value, unless that is whole.
    value_bytes: u16,
}

#[repr(C)]
struct ApartHeader {
    header: Header,
    value: NonNull<u8>,
}

#[repr(C)]
struct WholeHeader {
    header: Header,
    value: Bytes,
}

const KEY_MASK: u16 = (1 << 10) - 1;
const TEXT: u16 = 1 << 10;
const EXPIRY: u16 = 1 << 11;
const CONTENT_TYPE: u16 = 1 << 12;
const DIGEST: u16 = 1 << 13;
const APART: u16 = 1 << 14;
const WHOLE: u16 = 1 << 15;

const EXPIRY_BYTES: usize = size_of::<u64>();
const DIGEST_BYTES: usize = size_of::<Digest>();
const ALIGN: usize = align_of::<WholeHeader>();

// SAFETY: what threads share is atomic, or `Bytes`, or does not change.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

impl Packed {
    /// An entry under a key of 1 to 1024 bytes.
    pub fn new(key: &str, entry: &Entry) -> Self {
        let Entry { value, text, digest: _, content_type, expiry } = entry;
        // A longer one has no place; nobody stores such a thing.
        let content_type = content_type.as_deref().filter(|text| text.len() <= u8::MAX.into());
        let digest = (value.len() > UNDIGESTED_BYTES_MAX).then(|| entry.digest());
        let expiry = expiry.map(|expiry| expiry.to_bits().to_le_bytes());
        let type_length = content_type.map(|text| [u8::try_from(text.len()).unwrap_or(u8::MAX)]);
        let flag = |flag, is_set: bool| if is_set { flag } else { 0 };
        let flags = flag(TEXT, *text)
            | flag(EXPIRY, expiry.is_some())
            | flag(CONTENT_TYPE, content_type.is_some())
            | flag(DIGEST, digest.is_some());

        let digest: &[u8] = digest.as_ref().map_or(&[], |digest| digest);
        let mut fields: [&[u8]; 6] = [
            key.as_bytes(),
            expiry.as_ref().map_or(&[], |expiry| expiry),
            type_length.as_ref().map_or(&[], |length| length),
            content_type.unwrap_or_default().as_bytes(),
            digest,
            &[],
        ];
        let field_bytes = fields.iter().map(|field| field.len()).sum();
        let header = |form| Header::new(key, flags | form, value.len());
        if value.len() > COPIED_BYTES_MAX {
            let value = value.clone();
            return Self::write(WholeHeader { header: header(WHOLE), value }, fields);
        }
        if is_apart(field_bytes, digest.len(), value.len()) {
            let mut run: [&[u8]; 2] = [&[], value];
            if !digest.is_empty() && fits_beside(digest.len(), value.len()) {
                let [_, _, _, _, in_head, _] = &mut fields;
                let [beside, _] = &mut run;
                mem::swap(in_head, beside);
            }
            let value = NonNull::from(Box::leak(run.concat().into_boxed_slice())).cast();
            return Self::write(ApartHeader { header: header(APART), value }, fields);
        }
        let [_, _, _, _, _, last] = &mut fields;
        *last = value;
        Self::write(header(0), fields)
    }

    /// Allocates an entry of a header, which is the one that its flags tell of, and all
    /// fields behind it.
    fn write<T>(header: T, fields: [&[u8]; 6]) -> Self {
        let start = size_of::<T>();
        let layout = layout_of(start + fields.iter().map(|field| field.len()).sum::<usize>());
        let place = allocate(layout);
        // SAFETY: the allocation is nobody else's, large enough and aligned for any of
        // the headers.
        unsafe { place.cast::<T>().write(header) };
        // SAFETY: these bytes are within the allocation, nobody else has them, and what is
        // not written yet is no `u8`.
        let mut rest = unsafe {
            let rest = place.add(start).cast::<MaybeUninit<u8>>();
            slice::from_raw_parts_mut(rest.as_ptr(), layout.size() - start)
        };
        for field in fields.into_iter().filter(|field| !field.is_empty()) {
            let (to, behind) = rest.split_at_mut(field.len());
            for (to, byte) in to.iter_mut().zip(field) {
                to.write(*byte);
            }
            rest = behind;
        }
        Self(place.cast())
    }

    fn header(&self) -> &Header {
        // SAFETY: the pointer is that of a header, and all of it is written.
        unsafe { self.0.as_ref() }
    }

    fn has(&self, flag: u16) -> bool {
        self.header().key_and_flags & flag != 0
    }

    /// The header of a whole value.
    fn whole(&self) -> Option<&WholeHeader> {
        // SAFETY: the flags tell which header it is.
        self.has(WHOLE).then(|| unsafe { self.0.cast().as_ref() })
    }

    /// The header of a value that is apart.
    fn apart(&self) -> Option<&ApartHeader> {
        // SAFETY: as above.
        self.has(APART).then(|| unsafe { self.0.cast().as_ref() })
    }

    /// The offset of the key.
    fn start(&self) -> usize {
        if !self.has(APART | WHOLE) {
            size_of::<Header>()
        } else if self.has(APART) {
            size_of::<ApartHeader>()
        } else {
            size_of::<WholeHeader>()
        }
    }

    fn key_bytes(&self) -> usize {
        usize::from(self.header().key_and_flags & KEY_MASK) + 1
    }

    fn value_bytes(&self) -> usize {
        self.header().value_bytes.into()
    }

    /// Returns true if the digest stands beside a value that is apart.
    fn has_digest_beside(&self) -> bool {
        self.has(DIGEST) && self.has(APART) && fits_beside(DIGEST_BYTES, self.value_bytes())
    }

    /// The length of what a value that is apart is kept in.
    fn run_bytes(&self) -> usize {
        self.value_bytes() + if self.has_digest_beside() { DIGEST_BYTES } else { 0 }
    }

    /// The key.
    pub fn key(&self) -> &str {
        // SAFETY: the key begins there, and was written as text.
        unsafe {
            let start = self.0.cast::<u8>().add(self.start());
            let bytes = slice::from_raw_parts(start.as_ptr(), self.key_bytes());
            str::from_utf8_unchecked(bytes)
        }
    }

    /// The bytes behind the key in the head.
    fn tail(&self) -> &[u8] {
        let mut bytes = if self.has(EXPIRY) { EXPIRY_BYTES } else { 0 };
        // SAFETY: where there is a content type, its length stands behind the expiry.
        // Behind the key are as many bytes as that and the other lengths say.
        unsafe {
            let start = self.0.cast::<u8>().add(self.start() + self.key_bytes());
            if self.has(CONTENT_TYPE) {
                bytes += 1 + usize::from(start.add(bytes).read());
            }
            if self.has(DIGEST) && !self.has_digest_beside() {
                bytes += DIGEST_BYTES;
            }
            if !self.has(APART) {
                bytes += self.value_bytes();
            }
            slice::from_raw_parts(start.as_ptr(), bytes)
        }
    }

    /// The fields behind the key.
    fn fields(&self) -> Fields<'_> {
        let (mut tail, mut expiry, mut content_type) = (self.tail(), None, None);
        if self.has(EXPIRY) {
            expiry = take_array(&mut tail).map(|bytes| Time::from_bits(u64::from_le_bytes(bytes)));
        }
        if self.has(CONTENT_TYPE) {
            let length = tail.split_off_first().copied().unwrap_or(0);
            let text = tail.split_off(..length.into()).unwrap_or_default();
            content_type = Some(str::from_utf8(text).expect("it was written as text"));
        }
        let mut digest = None;
        if self.has(DIGEST) && !self.has_digest_beside() {
            digest = take_array(&mut tail);
        }
        let mut value = tail;
        if let Some(whole) = self.whole() {
            value = &whole.value;
        } else if let Some(apart) = self.apart() {
            // SAFETY: the box has as many bytes, and is freed with the head.
            value = unsafe { slice::from_raw_parts(apart.value.as_ptr(), self.run_bytes()) };
            digest = digest.or_else(|| self.has(DIGEST).then(|| take_array(&mut value))?);
        }
        Fields { expiry, content_type, digest, value }
    }

    /// The entry, expired or not. A small one copies nothing, unless very many have it: its
    /// value is another reference to this.
    pub fn into_entry(self) -> Entry {
        let Fields { expiry, content_type, digest, value } = self.fields();
        let (text, content_type) = (self.has(TEXT), content_type.map(Into::into));
        let value = match self.whole() {
            Some(whole) => whole.value.clone(),
            None if self.references() > LENT_MAX => Bytes::copy_from_slice(value),
            None => Bytes::from_owner(Value(self)),
        };
        Entry { value, text, digest, content_type, expiry }
    }

    /// The entry, unless it has expired.
    pub fn into_living(self) -> Option<Entry> {
        self.lives().then(|| self.into_entry())
    }

    /// Moves those of its allocations whose addresses are chosen, unless somebody else has
    /// it. A value that is too large to share a slab with others, or that is being sent,
    /// stays: that frees nothing. Returns the bytes that were moved.
    pub fn relocate(&mut self, is_chosen: impl Fn(usize) -> bool) -> usize {
        // While it is borrowed like this nobody comes to have it.
        if self.is_shared() {
            return 0;
        }
        let ([head, value], [head_bytes, value_bytes]) = (self.addresses(), self.sizes());
        let mut moved = 0;
        if (1..=SHARED_BYTES_MAX).contains(&value_bytes) && !self.is_lent() && is_chosen(value) {
            self.move_value();
            moved += value_bytes;
        }
        if is_chosen(head) {
            self.move_head();
            moved += head_bytes;
        }
        moved
    }

    /// Moves a value that is not in the head. Nobody else has the entry.
    fn move_value(&mut self) {
        let run_bytes = self.run_bytes();
        if self.has(APART) {
            // SAFETY: the flags tell which header it is, and nobody else has it. The address
            // is of a box of so many bytes, which is freed here.
            unsafe {
                let header = self.0.cast::<ApartHeader>().as_mut();
                let old = ptr::slice_from_raw_parts_mut(header.value.as_ptr(), run_bytes);
                let old = Box::from_raw(old);
                header.value = NonNull::from(Box::leak(old.clone())).cast();
            }
        } else if self.has(WHOLE) {
            // SAFETY: as above.
            let whole = unsafe { self.0.cast::<WholeHeader>().as_mut() };
            whole.value = Bytes::copy_from_slice(&whole.value);
        }
    }

    /// Moves the head. Nobody else has the entry.
    fn move_head(&mut self) {
        let layout = self.layout();
        let place = allocate(layout);
        // SAFETY: both are allocations of this layout, and all of the old one is written. It
        // is freed without a drop: what it owns belongs to the copy.
        unsafe {
            place.copy_from_nonoverlapping(self.0.cast(), layout.size());
            alloc::dealloc(self.0.cast().as_ptr(), layout);
        }
        self.0 = place.cast();
    }

    /// The record of its use.
    pub fn access(&self) -> u32 {
        let [high, low] = &self.header().access;
        u32::from(high.load(Ordering::Relaxed)) << u16::BITS
            | u32::from(low.load(Ordering::Relaxed))
    }

    /// Notes its use. Of threads that do so at the same moment each may leave a half.
    pub fn set_access(&self, access: u32) {
        let [high, low] = &self.header().access;
        high.store((access >> u16::BITS) as u16, Ordering::Relaxed);
        low.store((access & 0xffff) as u16, Ordering::Relaxed);
    }

    /// Returns true if its value is too large to be changed at once.
    pub fn is_large(&self) -> bool {
        self.whole().is_some_and(|whole| whole.value.len() > SMALL_BYTES_MAX)
    }

    /// Returns true if a reader has its value, and that is large: it is freed no sooner
    /// than by that reader.
    pub fn is_lent(&self) -> bool {
        self.whole().is_some_and(|whole| !whole.value.is_unique())
    }

    /// Returns true if both have one value, and that is large: none of it is freed with one.
    pub fn shares_value(&self, other: &Self) -> bool {
        match (self.whole(), other.whole()) {
            (Some(one), Some(other)) => {
                (one.value.as_ptr(), one.value.len()) == (other.value.as_ptr(), other.value.len())
            }
            (_, _) => false,
        }
    }

    /// Returns true if there are other references to it.
    pub fn is_shared(&self) -> bool {
        self.references() > 1
    }

    fn references(&self) -> u16 {
        self.header().references.load(Ordering::Acquire)
    }

    /// The expiry.
    pub fn expiry(&self) -> Option<Time> {
        if self.has(EXPIRY) { self.fields().expiry } else { None }
    }

    /// Returns true unless it has expired.
    pub fn lives(&self) -> bool {
        self.expiry().is_none_or(|expiry| expiry > Time::now())
    }

    /// Returns true for the same allocation, or none twice. While one is held no other
    /// can be in its place.
    pub fn are_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        one.map(|packed| packed.0) == other.map(|packed| packed.0)
    }

    /// The bytes that it takes.
    pub fn cost(&self) -> u64 {
        let [head, value] = self.sizes();
        let value = if value > 0 { allocated(value) } else { 0 };
        let shared = if self.has(WHOLE) { allocated(SHARED_BUFFER_BYTES) } else { 0 };
        (allocated(head) + value + shared) as u64
    }

    /// The sizes of its allocations; 0 where there is no second one.
    pub fn sizes(&self) -> [usize; 2] {
        let value = if self.has(APART) {
            self.run_bytes()
        } else {
            self.whole().map_or(0, |whole| whole.value.len())
        };
        [self.layout().size(), value]
    }

    /// The address of the head. Nothing of the entry is read for it.
    pub fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// The addresses of its allocations; 0 where there is no second one.
    pub fn addresses(&self) -> [usize; 2] {
        let value = if let Some(apart) = self.apart() {
            apart.value.addr().get()
        } else {
            self.whole().map_or(0, |whole| whole.value.as_ptr().addr())
        };
        [self.address(), value]
    }

    /// The layout of the head.
    fn layout(&self) -> Layout {
        layout_of(self.start() + self.key_bytes() + self.tail().len())
    }
}

impl Header {
    fn new(key: &str, flags: u16, value_bytes: usize) -> Self {
        let key_bytes = u16::try_from(key.len().wrapping_sub(1)).ok();
        let key_bytes = key_bytes.filter(|bytes| *bytes <= KEY_MASK);
        let key_bytes = key_bytes.expect("a key has 1 to 1024 bytes");
        let copied = if flags & WHOLE == 0 { value_bytes } else { 0 };
        Self {
            references: AtomicU16::new(1),
            access: Default::default(),
            key_and_flags: key_bytes | flags,
            value_bytes: u16::try_from(copied).expect("a copied value is small"),
        }
    }
}

impl Clone for Packed {
    fn clone(&self) -> Self {
        // As in `Arc`: a reference comes of another one, which orders it.
        if self.header().references.fetch_add(1, Ordering::Relaxed) >= REFERENCES_MAX {
            process::abort();
        }
        Self(self.0)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        if self.header().references.fetch_sub(1, Ordering::Release) > 1 {
            return;
        }
        // All uses by others come before this.
        atomic::fence(Ordering::Acquire);
        let layout = self.layout();
        // SAFETY: this was the last reference. What the head owns is dropped once, by the
        // header that the flags tell of, and then the head, of the layout that it was
        // allocated with.
        unsafe {
            if self.has(APART) {
                let value = self.0.cast::<ApartHeader>().as_ref().value;
                let run = ptr::slice_from_raw_parts_mut(value.as_ptr(), self.run_bytes());
                drop(Box::from_raw(run));
            } else if self.has(WHOLE) {
                ptr::drop_in_place(&raw mut (*self.0.cast::<WholeHeader>().as_ptr()).value);
            }
            alloc::dealloc(self.0.cast().as_ptr(), layout);
        }
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Packed {}

impl Hash for Packed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As whoever looks for it hashes its key: a `str` adds a byte.
        state.write(self.key().as_bytes());
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.0.fields().value
    }
}

/// Allocates a head.
fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout has a size, for a header has one.
    let place = NonNull::new(unsafe { alloc::alloc(layout) });
    place.unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Returns true if a value costs less in an allocation apart, with its digest or without
/// it. The fields are all others and the digest.
fn is_apart(field_bytes: usize, digest_bytes: usize, value_bytes: usize) -> bool {
    let one = size_of::<Header>() + field_bytes + value_bytes;
    if one < DIVISIBLE_BYTES_MIN {
        return false;
    }
    let one = allocated(one);
    let beside = if fits_beside(digest_bytes, value_bytes) { digest_bytes } else { 0 };
    let head = size_of::<ApartHeader>() + field_bytes - beside;
    allocated(head) + allocated(beside + value_bytes) + one / SAVING_PART <= one
}

/// Returns true if a digest beside a value that is apart costs nothing.
fn fits_beside(digest_bytes: usize, value_bytes: usize) -> bool {
    allocated(digest_bytes + value_bytes) == allocated(value_bytes)
}

fn layout_of(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGN).expect("it is small")
}

/// Takes an array off the front of some bytes.
fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}

#[cfg(test)]
mod tests;
