//! Reading a body: to its end or not at all, or as it comes.

use super::chunked::Chunked;
use super::framing::Length;
use bytes::Bytes;
use std::io::{self, BufRead, BufReader, Read};

/// The memory reserved before a byte has come.
const FIRST_STEP_BYTES: u64 = 64 * 1024;

/// Why there is no whole body.
#[derive(Debug)]
pub enum Error {
    /// It ended before its announced length, or the last of its chunks.
    Short,
    /// It is longer than allowed.
    TooLong,
    /// Its chunks make no sense.
    Malformed(String),
    /// It cannot be read.
    Broken(io::Error),
    /// There is no memory for it beside those of others.
    NoRoom,
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        if err.kind() == io::ErrorKind::UnexpectedEof {
            Self::Short
        } else if err.kind() == io::ErrorKind::InvalidData {
            Self::Malformed(err.to_string())
        } else {
            Self::Broken(err)
        }
    }
}

/// A body that is taken as it comes. An end before its own is `UnexpectedEof`, and bad
/// chunks are `InvalidData` with a text.
pub enum Body<R> {
    /// So many bytes are left of it.
    Known(R, u64),
    /// Its end is in it.
    Chunked(Chunked<R>),
}

impl<R: BufRead> Body<R> {
    /// A body from its first byte.
    pub fn new(reader: R, length: Length) -> Self {
        match length {
            Length::Known(bytes) => Self::Known(reader, bytes),
            Length::Chunked => Self::Chunked(Chunked::new(reader)),
        }
    }

    /// Returns true if all of it was taken.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Known(_, left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
        }
    }
}

impl<R: BufRead> BufRead for Body<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Known(_, 0) => Ok(&[]),
            Self::Known(reader, left) => {
                let buffer = reader.fill_buf()?;
                if buffer.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                Ok(buffer.get(..bytes).unwrap_or_default())
            }
            Self::Chunked(chunked) => chunked.fill_buf(),
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            Self::Known(reader, left) => {
                reader.consume(bytes);
                *left = left.saturating_sub(bytes as u64);
            }
            Self::Chunked(chunked) => chunked.consume(bytes),
        }
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

/// A reader that appends to a buffer. [`Read`] has to clear the room that it reads into
/// first, which takes as long as to receive the bytes.
pub trait Source: BufRead {
    /// Appends up to `bytes_max` bytes; 0 at the end. Blocks.
    fn append(&mut self, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let piece = piece.get(..bytes_max).unwrap_or(piece);
        buffer.extend_from_slice(piece);
        let bytes = piece.len();
        self.consume(bytes);
        Ok(bytes)
    }
}

impl<R: Read> Source for BufReader<R> {}

/// Reads a whole body of up to `bytes_max` bytes. Blocks until it is there.
/// `reserve` reserves the memory of each step; `false` refuses it.
pub fn read(
    reader: impl Source,
    length: Length,
    bytes_max: u64,
    reserve: impl FnMut(u64) -> bool,
) -> Result<Bytes, Error> {
    // One byte over the limit shows that the body is over it.
    let wanted = length.known().unwrap_or(bytes_max.saturating_add(1));
    let body = match length {
        Length::Known(_) => read_up_to(reader, wanted, true, reserve)?,
        Length::Chunked => read_up_to(Chunked::new(reader), wanted, false, reserve)?,
    };
    match length {
        Length::Known(bytes) if (body.len() as u64) < bytes => Err(Error::Short),
        Length::Chunked if body.len() as u64 > bytes_max => Err(Error::TooLong),
        Length::Known(_) | Length::Chunked => Ok(body.into()),
    }
}

/// Reads up to so many bytes, or to the end.
pub fn read_up_to(
    mut reader: impl Source,
    wanted: u64,
    exact: bool,
    mut reserve: impl FnMut(u64) -> bool,
) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    if exact {
        // Nothing of it is resident before it comes, and nothing is copied.
        let bytes = usize::try_from(wanted).map_err(|_| Error::TooLong)?;
        body.try_reserve_exact(bytes).map_err(|_| Error::NoRoom)?;
    }
    let mut reserved = 0;
    while (body.len() as u64) < wanted {
        if body.len() == reserved {
            let step = (body.len() as u64).clamp(FIRST_STEP_BYTES, STEP_BYTES_MAX);
            let step = step.min(wanted - body.len() as u64);
            if !reserve(step) {
                return Err(Error::NoRoom);
            }
            let step = usize::try_from(step).map_err(|_| Error::TooLong)?;
            body.try_reserve(step).map_err(|_| Error::NoRoom)?;
            reserved += step;
        }
        let left = reserved - body.len();
        match reader.append(&mut body, left) {
            Ok(0) => break,
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err.into()),
        }
    }
    // A stored value keeps this buffer, so it keeps no slack.
    body.shrink_to_fit();
    Ok(body)
}

/// The most bytes read, and reserved, in one step.
const STEP_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    impl Source for &[u8] {}
    impl Source for &mut &[u8] {}

    fn read_known(bytes: &[u8], announced: u64) -> Result<Bytes, Error> {
        read(bytes, Length::Known(announced), 1 << 30, |_| true)
    }

    #[test]
    fn a_whole_body_is_returned_as_it_came() {
        for size in [0, 1, 1024, 1025, 65_536, 65_537, 3_000_000] {
            let sent: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
            let got = read_known(&sent, u64::from(size)).expect("the body is whole");
            assert_eq!(got, sent, "{size} bytes");
        }
    }

    #[test]
    fn bytes_after_the_announced_length_are_left_alone() {
        let mut reader: &[u8] = b"valueGET /next";
        let got = read(&mut reader, Length::Known(5), 10, |_| true).expect("the body is whole");
        assert_eq!((&*got, reader), (&b"value"[..], &b"GET /next"[..]));
    }

    #[test]
    fn a_body_cut_short_is_no_body() {
        for announced in [6, 70_000, 1 << 30] {
            assert!(matches!(read_known(b"value", announced), Err(Error::Short)));
        }
        let cut_short = read(&b"5\r\nval"[..], Length::Chunked, 10, |_| true);
        assert!(matches!(cut_short, Err(Error::Short)), "{cut_short:?}");
        let malformed = read(&b"x\r\n"[..], Length::Chunked, 10, |_| true);
        assert!(matches!(malformed, Err(Error::Malformed(_))), "{malformed:?}");
    }

    #[test]
    fn a_chunked_body_may_reach_the_limit_and_not_pass_it() {
        let read_chunked = |bytes: &[u8]| read(bytes, Length::Chunked, 5, |_| true);
        let whole = read_chunked(b"5\r\n12345\r\n0\r\n\r\n");
        assert_eq!(whole.expect("at the limit"), "12345");
        let longer = read_chunked(b"6\r\n123456\r\n0\r\n\r\n");
        assert!(matches!(longer, Err(Error::TooLong)));
    }

    #[test]
    fn memory_is_asked_for_before_it_is_taken() {
        let (sent, mut reserved) = (vec![b'x'; 3_000_000], 0);
        let reserve = |bytes| {
            reserved += bytes;
            reserved <= 1_000_000
        };
        let refused = read(&*sent, Length::Known(3_000_000), 1 << 30, reserve);
        assert!(matches!(refused, Err(Error::NoRoom)), "{refused:?}");
        reserved = 0;
        let reserve = |bytes| {
            reserved += bytes;
            true
        };
        read(&*sent, Length::Known(3_000_000), 1 << 30, reserve).expect("there is room");
        assert_eq!(reserved, 3_000_000);
    }

    #[test]
    fn a_reader_that_fails_is_told() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let got = read(io::BufReader::new(Failing), Length::Known(5), 10, |_| true);
        assert!(matches!(got, Err(Error::Broken(_))));
    }
}
