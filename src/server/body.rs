//! Reading a body, to its end or not at all.

use super::framing::Length;
use bytes::Bytes;
use std::io::{self, Read};

/// How much is allocated before a byte has come, whatever length was claimed.
const FIRST_STEP_BYTES: u64 = 64 * 1024;

/// Why there is no whole body.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It ended before its announced length.
    Short,
    /// It is longer than allowed.
    TooLong,
    /// It cannot be read or its chunks make no sense.
    Broken(io::Error),
}

/// A reader that tells after each read how many bytes there were so far.
struct Metered<'a, P> {
    reader: &'a mut dyn Read,
    progress: P,
    bytes: u64,
}

impl<P: Fn(u64)> Read for Metered<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.bytes += got as u64;
        (self.progress)(self.bytes);
        Ok(got)
    }
}

/// Reads a whole body of up to `bytes_max` bytes. `progress` is told how many
/// bytes there are after each read.
///
/// A chunked body that is cut off inside a chunk looks whole from here; the
/// caller has to ask the connection whether the client is still there.
pub(super) fn read(
    reader: &mut dyn Read,
    length: Length,
    bytes_max: u64,
    progress: impl Fn(u64),
) -> Result<Bytes, Trouble> {
    let (wanted, known) = match length {
        Length::Known(bytes) => (bytes, true),
        // One byte over the limit shows that the body is over it.
        Length::Chunked => (bytes_max.saturating_add(1), false),
    };
    let mut reader = Metered { reader, progress, bytes: 0 };
    let mut body = Vec::new();
    while (body.len() as u64) < wanted {
        let step = (body.len() as u64).clamp(FIRST_STEP_BYTES, STEP_BYTES_MAX);
        let step = step.min(wanted - body.len() as u64);
        if known {
            body.reserve_exact(usize::try_from(step).map_err(|_| Trouble::TooLong)?);
        }
        let got = reader.by_ref().take(step).read_to_end(&mut body).map_err(Trouble::Broken)?;
        if (got as u64) < step {
            break;
        }
    }
    let bytes = body.len() as u64;
    match length {
        Length::Known(announced) if bytes < announced => Err(Trouble::Short),
        Length::Chunked if bytes > bytes_max => Err(Trouble::TooLong),
        Length::Known(_) | Length::Chunked => {
            // What is stored keeps this buffer, so it keeps no slack.
            body.shrink_to_fit();
            Ok(body.into())
        }
    }
}

/// The most that is read, and made room for, in one step.
const STEP_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_known(bytes: &[u8], announced: u64) -> Result<Bytes, Trouble> {
        read(&mut &*bytes, Length::Known(announced), 1 << 30, |_| {})
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
        let got = read(&mut reader, Length::Known(5), 10, |_| {}).expect("the body is whole");
        assert_eq!((&*got, reader), (&b"value"[..], &b"GET /next"[..]));
    }

    #[test]
    fn a_body_cut_short_is_no_body() {
        for announced in [6, 70_000, u64::MAX] {
            assert!(matches!(read_known(b"value", announced), Err(Trouble::Short)));
        }
    }

    #[test]
    fn a_chunked_body_may_reach_the_limit_and_not_pass_it() {
        let read_chunked = |bytes: &[u8]| read(&mut &*bytes, Length::Chunked, 5, |_| {});
        assert_eq!(read_chunked(b"12345").expect("at the limit"), "12345");
        assert!(matches!(read_chunked(b"123456"), Err(Trouble::TooLong)));
    }

    #[test]
    fn a_reader_that_fails_is_told() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let got = read(&mut Failing, Length::Known(5), 10, |_| {});
        assert!(matches!(got, Err(Trouble::Broken(_))));
    }
}
