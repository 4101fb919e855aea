//! The inventory: a file that lists the parts of a database, so that one that is
//! missing is not taken for one that never was.
//!
//! ```text
//! stamp 00c0ffee...       of all batches that are written from now on
//! keyspaces 3 4           in use: of the keys, and of large records that expire
//! journal 7 4096 812      a journal, the number of its bytes known to be whole, and
//!                         the number of a batch of the keys in it or before it
//! checksum 0123...        XXH3 of the lines above
//! ```
//!
//! It is replaced where a store is opened, cleared or closed, and once a new
//! journal has appeared. An old one is never wrong: the keyspaces stay until a new
//! one was written, no journal loses a byte that was whole, and the batches of one
//! that is gone are in tables.

use super::directory::{self, Data};
use super::generation::Generation;
use super::held;
use super::journal::{self, Journal, Stamp};
use super::open_error::OpenError;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

const NAME_UNFINISHED: &str = "inventory.new";

/// The folder is looked at for a new journal, which comes after 64 MB, whenever so
/// many bytes were written.
const LOOK_BYTES: usize = 1 << 20;

/// A batch counts as this many bytes at least, so that there are few of them between
/// two looks.
const BATCH_BYTES_MIN: usize = 64;

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    pub stamp: Stamp,
    pub keyspaces: [u64; 2],
    pub journals: Vec<Listed>,
}

/// A journal that has to be there, unless its batches are in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub number: u64,
    pub whole_bytes: u64,
    /// The number of a batch of the keys in it or before it; zero if none is known.
    pub batch: u64,
}

impl Inventory {
    /// Its name in the folder of the database.
    pub const NAME: &'static str = "inventory";

    /// Lists a database whose journals were read.
    pub fn new(stamp: Stamp, keyspaces: [u64; 2], journals: &[Journal]) -> Self {
        let [keys, _] = keyspaces;
        let listed = |journal: &Journal| {
            let batch = journal.last_batches.iter().find(|(keyspace, _)| *keyspace == keys);
            Listed {
                number: journal.number,
                whole_bytes: journal.whole_bytes,
                batch: batch.map_or(0, |(_, number)| *number),
            }
        };
        Self { stamp, keyspaces, journals: journals.iter().map(listed).collect() }
    }

    /// Reads the inventory of the database in `data`.
    pub fn read(data: &Path) -> Result<Self, OpenError> {
        let path = data.join(Self::NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == ErrorKind::NotFound => {
                return Err(OpenError::Missing { file: path });
            }
            Err(err) => return Err(OpenError::io("its inventory cannot be read", err)),
        };
        let inventory = str::from_utf8(&text).ok().and_then(Self::parse);
        inventory.ok_or(OpenError::Changed { file: path })
    }

    fn parse(text: &str) -> Option<Self> {
        let (content, checksum) = text.split_at_checked(text.rfind("checksum ")?)?;
        if checksum != format!("checksum {:032x}\n", xxh3_128(content.as_bytes())) {
            return None;
        }
        let (mut stamp, mut keyspaces, mut journals) = (None, None, Vec::new());
        for line in content.lines() {
            let mut words = line.split_whitespace();
            match words.next()? {
                "stamp" => stamp = Some(u128::from_str_radix(words.next()?, 16).ok()?),
                "keyspaces" => keyspaces = Some([number(&mut words)?, number(&mut words)?]),
                "journal" => journals.push(Listed {
                    number: number(&mut words)?,
                    whole_bytes: number(&mut words)?,
                    batch: number(&mut words)?,
                }),
                _ => return None,
            }
        }
        Some(Self { stamp: Stamp(stamp?), keyspaces: keyspaces?, journals })
    }

    fn text(&self) -> String {
        let [keys, expiring] = self.keyspaces;
        let mut text = format!("stamp {:032x}\nkeyspaces {keys} {expiring}\n", self.stamp.0);
        for Listed { number, whole_bytes, batch } in &self.journals {
            writeln!(text, "journal {number} {whole_bytes} {batch}").expect("a text takes more");
        }
        let checksum = xxh3_128(text.as_bytes());
        writeln!(text, "checksum {checksum:032x}").expect("a text takes more");
        text
    }

    /// Replaces the inventory in `data`, in one step.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let unfinished = data.join(NAME_UNFINISHED);
        let mut file = held::create_anew(&unfinished)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, data.join(Self::NAME))?;
        directory::sync(data)
    }
}

fn number<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

/// A floor of the last batch before the one with the number `first`, which may be yet
/// to come. `None` if no floor before is known.
fn last_before(floors: &[u64], first: Option<u64>) -> Option<u64> {
    // A batch is below the floor of the next one.
    let pairs = floors.windows(2).rev();
    let mut before = pairs.filter(|pair| first.is_none_or(|first| pair.get(1) <= Some(&first)));
    before.next()?.first().copied()
}

/// Keeps the inventory of a database that is written to.
pub struct Keeper {
    /// The folder of the database.
    pub data: Arc<Data>,
    inventory: Inventory,
    /// The last batch of the keys when the newest journal was last seen to be so.
    batch: u64,
    /// The floors of the batches since then, in order.
    floors: Vec<u64>,
    unlooked_bytes: usize,
}

impl Keeper {
    /// The keeper of an inventory that was just written.
    pub fn new(data: Arc<Data>, inventory: Inventory) -> Self {
        let batch = inventory.journals.last().map_or(0, |journal| journal.batch);
        Self { data, inventory, batch, floors: Vec::new(), unlooked_bytes: 0 }
    }

    /// Notes a batch of so many bytes, with a floor for its number above the numbers
    /// of all batches before it. Lists a new journal now and then.
    pub fn note(&mut self, generation: &Generation, floor: u64, bytes: usize) {
        self.floors.push(floor);
        self.unlooked_bytes += bytes.max(BATCH_BYTES_MIN);
        if self.unlooked_bytes < LOOK_BYTES {
            return;
        }
        self.unlooked_bytes = 0;
        // The old inventory is right as well, and says less.
        if let Err(err) = self.look(generation) {
            log::debug!("the inventory is not written: {err}");
        }
        self.floors.clear();
        self.floors.push(floor);
    }

    fn look(&mut self, generation: &Generation) -> io::Result<()> {
        let numbers = self.numbers()?;
        let newest = self.inventory.journals.last().map(|journal| journal.number);
        if numbers.last().copied() != newest {
            let first = numbers.iter().find(|number| Some(**number) > newest);
            let first = first.map(|number| journal::first_batch(self.data.path(), *number));
            let batch = last_before(&self.floors, first.transpose()?.flatten());
            let batch = batch.unwrap_or(self.batch);
            self.list(&numbers, |listed| {
                if Some(listed.number) == newest {
                    listed.batch = batch;
                }
            });
            self.inventory.write(self.data.path())?;
        }
        // All that was written so far is in one of these journals.
        self.batch = generation.keys().highest_number().unwrap_or(0);
        Ok(())
    }

    /// Writes that another generation is in use. The one before has to stay until
    /// then.
    pub fn begin(&mut self, generation: &Generation) -> io::Result<()> {
        let numbers = self.numbers()?;
        self.inventory.keyspaces = generation.ids();
        // No batch before was of these keys.
        self.list(&numbers, |listed| listed.batch = 0);
        self.batch = 0;
        self.floors.clear();
        self.inventory.write(self.data.path())
    }

    /// Writes the length of the journal, now that it is final.
    pub fn end(&mut self) {
        let mut end = || {
            let Some(newest) = journal::journals(self.data.path())?.pop() else { return Ok(()) };
            let whole_bytes = journal::whole_bytes(&newest)?;
            self.list(&self.numbers()?, |listed| {
                if Some(listed.number) == journal::number(&newest) {
                    listed.whole_bytes = whole_bytes;
                }
            });
            self.inventory.write(self.data.path())
        };
        if let Err(err) = end() {
            log::debug!("the inventory is not written: {err}");
        }
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let journals = journal::journals(self.data.path())?;
        Ok(journals.iter().filter_map(|path| journal::number(path)).collect())
    }

    /// Lists the journals of these numbers, with all that is known of them.
    fn list(&mut self, numbers: &[u64], change: impl Fn(&mut Listed)) {
        let journals = &self.inventory.journals;
        let listed = |number: &u64| {
            let known = journals.iter().find(|journal| journal.number == *number);
            let new = Listed { number: *number, whole_bytes: 0, batch: 0 };
            let mut listed = known.copied().unwrap_or(new);
            change(&mut listed);
            listed
        };
        self.inventory.journals = numbers.iter().map(listed).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        let journals = vec![
            Listed { number: 7, whole_bytes: 64_000_001, batch: 812 },
            Listed { number: 8, whole_bytes: 0, batch: 0 },
        ];
        Inventory { stamp: Stamp::new(), keyspaces: [3, 4], journals }
    }

    #[test]
    fn what_was_written_is_read() {
        let data = tempfile::tempdir().expect("a directory");
        assert!(matches!(Inventory::read(data.path()), Err(OpenError::Missing { .. })));
        for _ in 0..2 {
            let inventory = inventory();
            inventory.write(data.path()).expect("it is written");
            assert_eq!(Inventory::read(data.path()).expect("it is read"), inventory);
        }
    }

    #[test]
    fn the_last_batch_before_a_journal_is_the_one_before_its_first() {
        let floors = [10, 11, 13, 14];
        // Numbers are at or above their floors, and below the next floor.
        for (first, last) in
            [(10, None), (11, Some(10)), (12, Some(10)), (13, Some(11)), (14, Some(13))]
        {
            assert_eq!(last_before(&floors, Some(first)), last, "{first}");
        }
        assert_eq!(last_before(&floors, None), Some(13), "the last one is yet to be written");
        assert_eq!(last_before(&[10], None), None);
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let text = inventory().text();
        assert!(Inventory::parse(&text).is_some());
        for at in 0..text.len() {
            assert_eq!(Inventory::parse(&text[..at]), None, "cut at {at}");
            for bit in 0..7 {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1 << bit;
                let changed = String::from_utf8(changed).expect("it is ASCII");
                assert_eq!(Inventory::parse(&changed), None, "byte {at}, bit {bit}");
            }
        }
    }
}
