//! The chunked transfer coding (RFC 9112, 7.1), taken to the letter.

use super::body::Source;
use super::framing::HEAD_BYTES_MAX;
use crate::api::grammar::is_token;
use std::io::{self, BufRead, Read};

/// The longest line that begins a chunk, and the longest trailer section, in
/// bytes: extensions and trailers mean nothing here.
const LINE_BYTES_MAX: usize = 1024;
const TRAILERS_BYTES_MAX: u64 = 8 * 1024;

/// The most bytes of framing for a byte of data, beyond those of the longest
/// head.
const OVERHEAD_FACTOR_MAX: u64 = 16;

/// Reads the data out of a chunked body. An end inside of it is `UnexpectedEof`,
/// and bad framing is `InvalidData` with a text.
pub struct Chunked<R> {
    reader: R,
    state: State,
    data_bytes: u64,
    overhead_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At a line with a size.
    Size,
    /// In a chunk's data, with so many bytes left.
    Data(u64),
    /// At the line end behind a chunk's data.
    DataEnd,
    /// In the trailers, after so many bytes of them.
    Trailers(u64),
    /// At the end.
    Done,
}

impl<R: BufRead> Chunked<R> {
    /// A decoder at the beginning of a body.
    pub fn new(reader: R) -> Self {
        Self { reader, state: State::Size, data_bytes: 0, overhead_bytes: 0 }
    }

    /// Returns true if all of it was taken.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes one line and gives it without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let longest = LINE_BYTES_MAX as u64 + 2;
        self.reader.by_ref().take(longest).read_until(b'\n', &mut line)?;
        self.overhead_bytes += line.len() as u64;
        match line.strip_suffix(b"\r\n") {
            Some(text) if text.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()) => {
                Ok(text.to_vec())
            }
            Some(_) => Err(invalid("a chunk has control characters in its framing")),
            None if line.ends_with(b"\n") => {
                Err(invalid("a chunk's line ends in a bare line feed"))
            }
            None if line.len() as u64 == longest => Err(invalid("a chunk's line is too long")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Goes on to the next byte of data, or to the end.
    fn advance(&mut self) -> io::Result<()> {
        loop {
            self.state = match self.state {
                State::Size => match size(&self.line()?)? {
                    0 => State::Trailers(0),
                    bytes => State::Data(bytes),
                },
                State::Data(0) => State::DataEnd,
                State::DataEnd => match self.line()?.as_slice() {
                    [] => State::Size,
                    _ => return Err(invalid("a chunk is longer than its size")),
                },
                State::Trailers(bytes) => {
                    let line = self.line()?;
                    let bytes = bytes + line.len() as u64;
                    if bytes > TRAILERS_BYTES_MAX {
                        return Err(invalid("the trailers are too long"));
                    }
                    match line.split(|byte| *byte == b':').next() {
                        _ if line.is_empty() => State::Done,
                        Some(name) if name.len() < line.len() && is_token(name) => {
                            State::Trailers(bytes)
                        }
                        _ => return Err(invalid("a trailer field name is not a token")),
                    }
                }
                State::Data(_) | State::Done => return Ok(()),
            };
            let overhead_max = HEAD_BYTES_MAX as u64 + OVERHEAD_FACTOR_MAX * self.data_bytes;
            if self.overhead_bytes > overhead_max {
                return Err(invalid("the chunks have too little in them"));
            }
        }
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl<R: Source> Source for Chunked<R> {
    fn append(&mut self, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        self.advance()?;
        let State::Data(left) = self.state else { return Ok(0) };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max);
        let got = self.reader.append(buffer, wanted)?;
        if got == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data_bytes += got as u64;
        self.state = State::Data(left - got as u64);
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Chunked<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance()?;
        let State::Data(left) = self.state else { return Ok(&[]) };
        let buffer = self.reader.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        Ok(buffer.get(..bytes).unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        if let State::Data(left) = self.state {
            self.reader.consume(bytes);
            self.data_bytes += bytes as u64;
            self.state = State::Data(left.saturating_sub(bytes as u64));
        }
    }
}

/// `chunk-size [ chunk-ext ]`: hexadecimal digits, and nothing else before a
/// semicolon but the spaces that old senders put there.
fn size(line: &[u8]) -> io::Result<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let is_extension = rest.trim_ascii_start().starts_with(b";");
    let digits = str::from_utf8(digits).unwrap_or_default();
    match u64::from_str_radix(digits, 16) {
        Ok(bytes) if rest.is_empty() || is_extension => Ok(bytes),
        Ok(_) | Err(_) => Err(invalid("a chunk's size is not a number")),
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data, and what is left behind the body.
    fn decode(body: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut reader, mut data) = (body, Vec::new());
        Chunked::new(&mut reader).read_to_end(&mut data)?;
        let whole = (data, reader.to_vec());
        assert_eq!(decode_by_pieces(body)?, whole, "{body:?}");
        Ok(whole)
    }

    /// The same by pieces of three bytes.
    fn decode_by_pieces(body: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut reader, mut data) = (body, Vec::new());
        let mut chunked = Chunked::new(&mut reader);
        loop {
            let piece = chunked.fill_buf()?;
            let bytes = piece.len().min(3);
            data.extend_from_slice(&piece[..bytes]);
            chunked.consume(bytes);
            assert_eq!(chunked.is_done(), bytes == 0);
            if bytes == 0 {
                return Ok((data, reader.to_vec()));
            }
        }
    }

    #[test]
    fn data_is_what_is_in_the_chunks() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"0\r\n\r\n", b""),
            (b"5\r\nvalue\r\n0\r\n\r\n", b"value"),
            (b"00005\r\nvalue\r\n000\r\n\r\n", b"value"),
            (b"2\r\nva\r\n3\r\nlue\r\n0\r\n\r\n", b"value"),
            (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
            (b"5;name=\"a b\";x\r\nvalue\r\n0;last\r\n\r\n", b"value"),
            (b"5 ;x\r\nvalue\r\n0\r\n\r\n", b"value"),
            (b"5\r\nvalue\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"value"),
        ];
        for (body, data) in cases {
            let with_more = [body, b"GET /next"].concat();
            let decoded = decode(&with_more).unwrap_or_else(|err| panic!("{body:?}: {err}"));
            assert_eq!(decoded, (data.to_vec(), b"GET /next".to_vec()), "{body:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_from_what_is_cut_off() {
        let cases: [&[u8]; 20] = [
            b"zz\r\n",
            b"-1\r\n",
            b"+5\r\nvalue\r\n0\r\n\r\n",
            b" 5\r\nvalue\r\n0\r\n\r\n",
            b"5 \r\nvalue\r\n0\r\n\r\n",
            b"0x5\r\nvalue\r\n0\r\n\r\n",
            b"5\nvalue\r\n0\r\n\r\n",
            b"5\rvalue\r\n0\r\n\r\n",
            b"\r\n\r\n",
            b";x\r\n",
            b"5;a\0b\r\nvalue\r\n0\r\n\r\n",
            b"5;a\x7f\r\nvalue\r\n0\r\n\r\n",
            b"5\r\nvalueDELETE\r\n",
            b"5\r\nvalue\n0\r\n\r\n",
            b"2\r\nvalue\r\n0\r\n\r\n",
            b"10000000000000000\r\n",
            b"5\r\nvalue\r\n0\r\nno colon\r\n\r\n",
            b"5\r\nvalue\r\n0\r\nX Y: a\r\n\r\n",
            b"5\r\nvalue\r\n0\r\n: a\r\n\r\n",
            b"5\r\nvalue\r\n0\r\nX: a\nY: b\r\n\r\n",
        ];
        for body in cases {
            let err = decode(body).expect_err(&String::from_utf8_lossy(body));
            assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{body:?}: {err}");
        }
        let whole = b"5;x=y\r\nvalue\r\n5\r\nvalue\r\n0\r\nX-Sum: 1\r\n\r\n";
        for at in 0..whole.len() {
            let err = decode(&whole[..at]).expect_err("it is cut off");
            assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof, "cut at {at}: {err}");
            let err = decode_by_pieces(&whole[..at]).expect_err("it is cut off");
            assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof, "cut at {at}: {err}");
        }
    }

    #[test]
    fn framing_has_limits() {
        let long_line = [&b"5;"[..], &[b'x'; LINE_BYTES_MAX], b"\r\nvalue\r\n"].concat();
        let endless = vec![b'1'; 1 << 20];
        let trailers = [&b"0\r\n"[..], &b"X: 1234567890\r\n".repeat(1000)].concat();
        let hollow = b"1;0123456789012345678901234567890123456789\r\nx\r\n".repeat(10_000);
        for body in [long_line, endless, trailers, hollow] {
            let err = decode(&body).expect_err("it is over a limit");
            assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{err}");
        }
        // Ten bytes to a chunk are honest, however many there are.
        let small = [b"a\r\n0123456789\r\n".repeat(50_000), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(decode(&small).expect("it is whole").0.len(), 500_000);
    }

    proptest! {
        #[test]
        fn any_data_in_any_chunks_comes_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20)) {
            let mut body = Vec::new();
            for piece in &pieces {
                body.extend(format!("{:x}\r\n", piece.len()).bytes());
                body.extend(piece);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let (data, rest) = decode(&body).expect("it is whole");
            prop_assert_eq!(data, pieces.concat());
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            decode(&body).ok();
        }
    }
}
