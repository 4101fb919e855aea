//! The file of tokens: read at the start, and polled from then on.
//!
//! A poll reads the file anew by its path. So a change is seen however it came: written in
//! place, by a rename over it, or behind a link, as Kubernetes has it, and with whatever
//! times. It is taken up once two polls have found the same, as a file may be half written;
//! a file that is no good changes nothing. The text is not kept, only its digest.

use super::secret::{self, Content};
use crate::api::{TokenSet, Tokens};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The interval of polls. After two of them, at most, a change is taken up.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The flag that names the file.
const FLAG: &str = "--token-file";

/// A file of tokens.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// Not a pipe, of which there is nothing more to read.
    is_regular: bool,
    /// The owner was warned that everyone may read it.
    has_warned: bool,
    /// The finding that was taken up or told of last.
    settled: Finding,
    /// The finding of the last poll.
    last: Finding,
}

/// The digest of the content, or the reason why there is none.
type Finding = Result<[u8; 32], String>;

impl TokenFile {
    /// Reads the file; an error is a line that names it, and the line that is wrong.
    pub fn read(path: &Path) -> Result<(Self, TokenSet), String> {
        let content = Content::read(path).map_err(|err| complaint(path, &err.to_string()))?;
        let set = parse(&content).map_err(|what| complaint(path, &what))?;
        let found = Ok(digest(&content));
        let (path, is_regular) = (path.to_owned(), content.is_regular);
        let (settled, last) = (Finding::clone(&found), found);
        Ok((Self { path, is_regular, has_warned: false, settled, last }, set))
    }

    /// Puts the tokens of the file in the place of `tokens` at each change from now on,
    /// on a thread that lives as long as the process. The log is told.
    pub fn follow(mut self, tokens: Tokens) -> io::Result<()> {
        self.poll(&tokens);
        if self.is_regular {
            let thread = thread::Builder::new().name("token-file".to_owned());
            thread.spawn(move || {
                loop {
                    thread::sleep(POLL_INTERVAL);
                    self.poll(&tokens);
                }
            })?;
        }
        Ok(())
    }

    /// Reads the file anew, and takes it up if it has changed and stays so.
    fn poll(&mut self, tokens: &Tokens) {
        let content = match fs::metadata(&self.path) {
            // To open a pipe might never end.
            Ok(metadata) if !metadata.is_file() => Err("it is not a file".to_owned()),
            Ok(_) => Content::read(&self.path).map_err(|err| err.to_string()),
            Err(err) => Err(err.to_string()),
        };
        if content.as_ref().is_ok_and(|content| content.is_open_to_all) && !self.has_warned {
            self.has_warned = true;
            log::warn!("{}", complaint(&self.path, secret::OPEN_TO_ALL));
        }
        let found = content.as_ref().map(digest).map_err(Clone::clone);
        let is_steady = found == self.last;
        self.last.clone_from(&found);
        if !is_steady || found == self.settled {
            return;
        }
        self.settled = found;
        match content.and_then(|content| parse(&content)) {
            Ok(set) => {
                tokens.replace(set);
                log::info!("{}", complaint(&self.path, "its tokens are those from now on"));
            }
            Err(what) => {
                let line = complaint(&self.path, &what);
                log::error!("{line}; the tokens from before stay");
            }
        }
    }
}

/// The tokens of a content; an error says which line is wrong.
fn parse(content: &Content) -> Result<TokenSet, String> {
    TokenSet::parse(content.text()?).map_err(|err| err.to_string())
}

fn digest(content: &Content) -> [u8; 32] {
    Sha256::digest(&content.bytes).into()
}

fn complaint(path: &Path, what: &str) -> String {
    secret::complaint(FLAG, path, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Access, Api, Call};
    use crate::storage::Memory;
    use std::sync::Arc;
    use tempfile::TempDir;

    const TOKENS: [&str; 3] =
        ["correct-horse-battery", "staple-of-a-sentence", "a-third-one-of-them"];

    /// A file that is polled when the test says so.
    struct Fixture {
        file: TokenFile,
        tokens: Tokens,
        _directory: TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("tokens");
            fs::write(&path, TOKENS[0]).unwrap();
            let (file, set) = TokenFile::read(&path).unwrap();
            Self { file, tokens: Tokens::new(set), _directory: directory }
        }

        /// Writes the file, and polls it.
        fn write(&mut self, bytes: impl AsRef<[u8]>) {
            fs::write(&self.file.path, bytes).unwrap();
            self.poll();
        }

        fn poll(&mut self) {
            self.file.poll(&self.tokens);
        }

        /// The tokens that let a caller in.
        #[track_caller]
        fn assert_let_in(&self, expected: &[&str]) {
            let access = Access { tokens: Some(self.tokens.clone()), ..Access::default() };
            let api = Api::new(Arc::new(Memory::new()), 1).with_access(access);
            let is_let_in = |token: &&str| {
                let field = format!("Bearer {token}");
                let fields = [("Authorization", &*field)];
                let call =
                    Call { method: "GET", target: "/kv/a", fields: &fields, body_bytes: Some(0) };
                api.admit(&call).decision.is_ok()
            };
            assert_eq!(TOKENS.into_iter().filter(is_let_in).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_change_is_taken_up_once_two_polls_have_found_the_same() {
        let mut fixture = Fixture::new();
        fixture.poll();
        fixture.assert_let_in(&TOKENS[..1]);
        fixture.write(TOKENS[1]);
        fixture.assert_let_in(&TOKENS[..1]);
        fixture.write(TOKENS[1..].join("\n"));
        fixture.assert_let_in(&TOKENS[..1]);
        fixture.poll();
        fixture.assert_let_in(&TOKENS[1..]);
        // Back and forth in between is no change.
        fixture.write(TOKENS[0]);
        fixture.write(TOKENS[1..].join("\n"));
        fixture.poll();
        fixture.assert_let_in(&TOKENS[1..]);
    }

    #[test]
    fn what_is_no_good_changes_nothing() {
        let mut fixture = Fixture::new();
        let too_long = [TOKENS[1], "\n#", &" ".repeat(1 << 20)].concat();
        let bad: [&[u8]; 4] = [b"", b"short", b"staple-of-a-sentence\n#\xff", too_long.as_bytes()];
        for bytes in bad {
            fixture.write(bytes);
            fixture.poll();
            fixture.assert_let_in(&TOKENS[..1]);
            assert_eq!(fixture.file.settled, fixture.file.last, "it is told of once");
        }
        fs::remove_file(&fixture.file.path).unwrap();
        fixture.poll();
        fixture.poll();
        fixture.assert_let_in(&TOKENS[..1]);
        fs::create_dir(&fixture.file.path).unwrap();
        fixture.poll();
        fixture.poll();
        fixture.assert_let_in(&TOKENS[..1]);
        fs::remove_dir(&fixture.file.path).unwrap();
        fixture.write(TOKENS[2]);
        fixture.poll();
        fixture.assert_let_in(&TOKENS[2..]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_token() {
        let mut fixture = Fixture::new();
        fixture.write(["\u{feff}", TOKENS[1], "\r\n"].concat());
        fixture.poll();
        fixture.assert_let_in(&TOKENS[1..2]);
    }

    #[test]
    fn the_longest_file_is_taken() {
        let mut fixture = Fixture::new();
        let start = format!("{}\n#", TOKENS[1]);
        let comment = " ".repeat((1 << 20) - start.len());
        fixture.write(start + &comment);
        fixture.poll();
        fixture.assert_let_in(&TOKENS[1..2]);
    }
}
