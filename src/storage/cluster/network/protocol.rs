//! The wire: commands to a node and its replies, in RESP2, and the slot of a key.
//!
//! Nothing here knows a socket. A [`Decoder`] lends the room for bytes that are read, and
//! gives the replies that are whole. Each byte is looked at once, however the stream is
//! cut, and nothing is reserved for a length before most of it has arrived.

use bytes::Bytes;
use memchr::memchr;
use smallvec::SmallVec;
use std::mem;

/// The bytes that are read at once, at most; but for those of a large value.
const READ_BYTES_MAX: usize = 64 << 10;

/// A text of that length is copied out of the buffer that it was read to: a slice would
/// keep all of that buffer. A longer one is read to a buffer of its own.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// The room that is reserved for a text before it has arrived.
const RESERVE_BYTES_MAX: usize = 16 << 20;

/// The longest text of a reply: no value of a node is longer.
const TEXT_BYTES_MAX: usize = 512 << 20;

/// The longest line, as of an error.
const LINE_BYTES_MAX: usize = 32 << 10;

/// The end of a line and of a text.
const END: &[u8] = b"\r\n";

/// Lists within lists.
const DEPTH_MAX: usize = 16;

/// The items of a list.
const ITEMS_MAX: usize = 4 << 20;

/// The items for which a list has room before they have arrived.
const RESERVE_ITEMS_MAX: usize = 1024;

/// Commands that go to a node together, each encoded, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// All of them.
    pub bytes: Vec<u8>,
    /// The end of each.
    pub ends: SmallVec<[usize; 2]>,
}

impl Commands {
    /// These commands, in a buffer of their length.
    pub fn of(commands: &[&[&[u8]]]) -> Self {
        let length = commands.iter().map(|words| encoded_length(words)).sum();
        let none = Self { bytes: Vec::with_capacity(length), ends: SmallVec::new() };
        commands.iter().fold(none, |commands, words| commands.with(words))
    }

    /// Adds a command of these words.
    #[must_use]
    pub fn with(mut self, words: &[&[u8]]) -> Self {
        self.bytes.reserve_exact(encoded_length(words));
        put_header(&mut self.bytes, b'*', words.len());
        for word in words {
            put_header(&mut self.bytes, b'$', word.len());
            self.bytes.extend_from_slice(word);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.ends.push(self.bytes.len());
        self
    }
}

/// The length of a command of these words.
fn encoded_length(words: &[&[u8]]) -> usize {
    let length: usize = words.iter().map(|word| header_length(word.len()) + word.len() + 2).sum();
    header_length(words.len()) + length
}

/// The length of `*3\r\n` and its like.
fn header_length(number: usize) -> usize {
    3 + number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

fn put_header(to: &mut Vec<u8>, kind: u8, number: usize) {
    to.push(kind);
    to.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// A command that runs a script by its SHA-1, with the script itself in the place of that;
/// `None` of another command.
pub fn with_script<'a>(
    command: &[u8],
    script_of: impl Fn(&[u8]) -> Option<&'a str>,
) -> Option<Vec<u8>> {
    let (header, rest) = command.split_at_checked(memchr(b'\n', command)? + 1)?;
    let eval: &[u8] = b"$4\r\nEVAL\r\n";
    let eval_ro: &[u8] = b"$7\r\nEVAL_RO\r\n";
    let (name, rest) = match rest.strip_prefix(b"$7\r\nEVALSHA\r\n") {
        Some(rest) => (eval, rest),
        None => (eval_ro, rest.strip_prefix(b"$10\r\nEVALSHA_RO\r\n")?),
    };
    let (sha1, rest) = rest.strip_prefix(b"$40\r\n")?.split_at_checked(40)?;
    let script = script_of(sha1)?;
    let mut bytes = Vec::with_capacity(command.len() + script.len());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(name);
    put_header(&mut bytes, b'$', script.len());
    bytes.extend_from_slice(script.as_bytes());
    bytes.extend_from_slice(rest);
    Some(bytes)
}

/// A reply of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing is there.
    Nothing,
    /// A number.
    Integer(i64),
    /// A text or a value: it shares the buffer it was read to if it is large.
    Bytes(Bytes),
    /// Several.
    Many(Vec<Reply>),
    /// An error, within several or alone: what it says.
    Error(Bytes),
}

/// Bytes that are no replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node speaks no RESP")]
pub struct Garbage;

/// A list on its way.
#[derive(Debug)]
struct Open {
    items: Vec<Reply>,
    missing: usize,
}

/// A text on its way, of which some bytes are there.
#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    /// The bytes that are there; those behind them are room.
    filled: usize,
    length: usize,
}

impl Text {
    fn is_whole(&self) -> bool {
        self.filled == self.length
    }
}

/// The replies in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    buffer: Box<[u8]>,
    /// The bytes that were read and not decoded.
    start: usize,
    end: usize,
    /// The text that is read past the buffer.
    text: Option<Text>,
    /// A length of a text whose bytes are to come.
    length: Option<usize>,
    /// The lists that are not whole, each in the one before.
    open: SmallVec<[Open; 2]>,
}

impl Default for Decoder {
    fn default() -> Self {
        let buffer = vec![0; READ_BYTES_MAX].into_boxed_slice();
        Self { buffer, start: 0, end: 0, text: None, length: None, open: SmallVec::new() }
    }
}

impl Decoder {
    /// The place for the next bytes; never empty after [`Decoder::next`] has given all.
    pub fn room(&mut self) -> &mut [u8] {
        if let Some(text) = self.text.as_mut().filter(|text| !text.is_whole()) {
            let end = text.length.min(text.filled + READ_BYTES_MAX);
            if text.bytes.len() < end {
                text.bytes.resize(end, 0);
            }
            return text.bytes.get_mut(text.filled..end).unwrap_or_default();
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Takes the first bytes of the room for read.
    pub fn filled(&mut self, count: usize) {
        match self.text.as_mut().filter(|text| !text.is_whole()) {
            Some(text) => text.filled += count,
            None => self.end += count,
        }
    }

    /// The next reply, once all of it is there.
    pub fn next(&mut self) -> Result<Option<Reply>, Garbage> {
        while let Some(mut reply) = self.item()? {
            loop {
                let Some(open) = self.open.last_mut() else { return Ok(Some(reply)) };
                open.items.push(reply);
                open.missing -= 1;
                if open.missing > 0 {
                    break;
                }
                reply = Reply::Many(mem::take(&mut open.items));
                self.open.pop();
            }
        }
        Ok(None)
    }

    /// The next reply that is no list, or an empty one.
    fn item(&mut self) -> Result<Option<Reply>, Garbage> {
        loop {
            if self.text.is_some() || self.length.is_some() {
                return self.bulk();
            }
            let Some(line) = self.line()? else { return Ok(None) };
            let (kind, rest) = line.split_first().ok_or(Garbage)?;
            match kind {
                b'+' => return Ok(Some(Reply::Bytes(Bytes::copy_from_slice(rest)))),
                b'-' => return Ok(Some(Reply::Error(Bytes::copy_from_slice(rest)))),
                b':' => return Ok(Some(Reply::Integer(number(rest)?))),
                b'$' => match length(rest)? {
                    None => return Ok(Some(Reply::Nothing)),
                    Some(length) if length > TEXT_BYTES_MAX => return Err(Garbage),
                    Some(length) => self.length = Some(length),
                },
                b'*' => match length(rest)? {
                    None => return Ok(Some(Reply::Nothing)),
                    Some(0) => return Ok(Some(Reply::Many(Vec::new()))),
                    Some(_) if self.open.len() == DEPTH_MAX => return Err(Garbage),
                    Some(missing) if missing > ITEMS_MAX => return Err(Garbage),
                    Some(missing) => {
                        let items = Vec::with_capacity(missing.min(RESERVE_ITEMS_MAX));
                        self.open.push(Open { items, missing });
                    }
                },
                _ => return Err(Garbage),
            }
        }
    }

    /// The next line, without its end. It is taken.
    fn line(&mut self) -> Result<Option<&[u8]>, Garbage> {
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(at) = memchr(b'\n', unread) else {
            return if unread.len() > LINE_BYTES_MAX { Err(Garbage) } else { Ok(None) };
        };
        self.start += at + 1;
        let line = unread.get(..at).and_then(|line| line.strip_suffix(b"\r"));
        line.ok_or(Garbage).map(Some)
    }

    /// The text of a length that was read, once its end is there too.
    fn bulk(&mut self) -> Result<Option<Reply>, Garbage> {
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        if let Some(text) = &self.text {
            if text.is_whole() && unread.len() >= END.len() {
                let text = self.text.take().map(|text| Bytes::from(text.bytes));
                return self.end_of(text.unwrap_or_default(), 0);
            }
            return Ok(None);
        }
        let Some(length) = self.length else { return Ok(None) };
        if unread.len() >= length + END.len() {
            let text = Bytes::copy_from_slice(unread.get(..length).unwrap_or_default());
            return self.end_of(text, length);
        }
        if length > SMALL_BYTES_MAX {
            let there = unread.len().min(length);
            let mut bytes = Vec::with_capacity(length.min(RESERVE_BYTES_MAX));
            bytes.extend_from_slice(unread.get(..there).unwrap_or_default());
            self.start += there;
            self.text = Some(Text { bytes, filled: there, length });
        }
        Ok(None)
    }

    /// A text of which `count` bytes are to be taken, and its end.
    fn end_of(&mut self, text: Bytes, count: usize) -> Result<Option<Reply>, Garbage> {
        let end = self.start + count..self.start + count + END.len();
        if self.buffer.get(end.clone()) != Some(END) {
            return Err(Garbage);
        }
        self.start = end.end;
        self.length = None;
        Ok(Some(Reply::Bytes(text)))
    }
}

fn number(digits: &[u8]) -> Result<i64, Garbage> {
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Garbage)
}

/// A length; -1 is that of nothing.
fn length(digits: &[u8]) -> Result<Option<usize>, Garbage> {
    match number(digits)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| Garbage),
    }
}

/// The number of slots.
pub const SLOTS: u16 = 16384;

/// The slot of a key: its `{tag}` counts alone, if it has one.
pub fn slot_of(key: &[u8]) -> u16 {
    tag(key).unwrap_or(key).iter().fold(0, |crc, byte| crc16(crc, *byte)) % SLOTS
}

/// The text between the first `{` and the next `}`, if there is any.
fn tag(key: &[u8]) -> Option<&[u8]> {
    let behind = key.get(memchr(b'{', key)? + 1..)?;
    behind.get(..memchr(b'}', behind)?).filter(|tag| !tag.is_empty())
}

/// CRC-16/XMODEM, as the specification of the cluster has it.
fn crc16(crc: u16, byte: u8) -> u16 {
    let at = usize::from(crc >> 8) ^ usize::from(byte);
    (crc << 8) ^ CRC16.get(at).copied().unwrap_or_default()
}

/// The remainder of each byte.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at: u16 = 0;
    while at < 256 {
        let mut crc = at << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[at as usize] = crc;
        }
        at += 1;
    }
    table
};
