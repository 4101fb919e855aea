//! The form of the database's files: sections, and their contents at the end.
//!
//! ```text
//! section ... section
//! contents  "TOC!", number: u32, then of each section where it begins: u64,
//!           its length: u64, the length of its name: u16, and its name
//! trailer   "SFA!", 1, 0, XXH3 of the contents: u128, where they begin: u64,
//!           their length: u64
//! ```
//!
//! in little-endian. The database asks for memory by numbers that it has not
//! checked.

use crate::storage::durable::decoder::Decoder;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_128;

const CONTENTS: [u8; 4] = *b"TOC!";
const TRAILER: [u8; 6] = *b"SFA!\x01\x00";
const TRAILER_BYTES: usize = TRAILER.len() + 32;

/// Longer than any contents.
const CONTENTS_BYTES_MAX: u64 = 1 << 16;

/// An open file, and where its sections are.
pub struct Archive {
    file: File,
    sections: Vec<(Vec<u8>, Range<u64>)>,
}

impl Archive {
    /// Opens the file at `path`. [`ErrorKind::InvalidData`] if its contents are not whole.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let end = bytes.checked_sub(TRAILER_BYTES as u64).ok_or(ErrorKind::InvalidData)?;
        let trailer = read_at(&mut file, end..bytes)?;
        let mut trailer = Decoder(&trailer);
        let (magic, checksum) = (trailer.take(TRAILER.len()), trailer.u128());
        let (Some(from), Some(length)) = (trailer.u64(), trailer.u64()) else {
            return Err(ErrorKind::InvalidData.into());
        };
        let is_whole = magic == Some(&TRAILER)
            && length <= CONTENTS_BYTES_MAX
            && from.checked_add(length) == Some(end);
        if !is_whole {
            return Err(ErrorKind::InvalidData.into());
        }
        let contents = read_at(&mut file, from..end)?;
        let is_right = checksum == Some(xxh3_128(&contents));
        let sections = sections(&contents).filter(|_| is_right);
        let sections = sections.ok_or(ErrorKind::InvalidData)?;
        if sections.iter().any(|(_, range)| range.end > from) {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Self { file, sections })
    }

    /// The bytes of a section that is not large. [`ErrorKind::InvalidData`] if it has no such.
    pub fn section(&mut self, name: &[u8]) -> io::Result<Vec<u8>> {
        let range = self.sections.iter().find(|(other, _)| other == name);
        let (_, range) = range.ok_or(ErrorKind::InvalidData)?;
        read_at(&mut self.file, range.clone())
    }
}

fn sections(contents: &[u8]) -> Option<Vec<(Vec<u8>, Range<u64>)>> {
    let mut decoder = Decoder(contents);
    if decoder.take(CONTENTS.len())? != CONTENTS {
        return None;
    }
    let mut sections = Vec::new();
    for _ in 0..decoder.u32()? {
        let (from, bytes) = (decoder.u64()?, decoder.u64()?);
        let name = decoder.u16()?;
        sections.push((decoder.take(name.into())?.to_vec(), from..from.checked_add(bytes)?));
    }
    Some(sections)
}

fn read_at(file: &mut File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(range.start))?;
    file.take(range.end - range.start).read_to_end(&mut bytes)?;
    Ok(bytes)
}
