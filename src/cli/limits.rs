//! The limits of a store of its own, as the flags and variables name them.

use super::units::Size;
use crate::storage::{Durable, HISTORY_BYTES, Limits, WhenFull};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use std::path::Path;

/// The usual history is one part in so many of a limit of memory, and at least so long.
const HISTORY_PART: u64 = 16;
const HISTORY_BYTES_MIN: u64 = 64 << 10;

/// The flags of the limits.
#[derive(Clone, Debug, Args)]
pub struct LimitOptions {
    /// The memory for keys and values; not with --working-dir [default: no limit]
    #[arg(long, env = "LKV_MAX_MEMORY", value_name = "SIZE")]
    pub max_memory: Option<Size>,

    /// The disk for all that is in the working directory [default: what the disk has]
    #[arg(long, env = "LKV_MAX_DISK", value_name = "SIZE", value_parser = parse_disk)]
    pub max_disk: Option<Size>,

    /// What to do with a write past that limit: refuse it with 507, or evict the keys of
    /// the least use, as a cache does
    #[arg(long, env = "LKV_WHEN_FULL", value_name = "WHAT", value_enum, ignore_case = true,
          hide_possible_values = true, default_value_t = WhenFull::Refuse)]
    pub when_full: WhenFull,
}

impl ValueEnum for WhenFull {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Refuse, Self::Evict]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Refuse => "refuse",
            Self::Evict => "evict",
        }))
    }
}

impl LimitOptions {
    /// Fails for a limit of the disk without a directory there, and for a store that is to
    /// evict without a limit.
    pub(super) fn check(&self, working_dir: Option<&Path>) -> Result<(), String> {
        let (flag, missing) = match (self.when_full, self.bytes(), working_dir) {
            (_, _, None) if self.max_disk.is_some() => ("--max-disk", "--working-dir"),
            (WhenFull::Refuse, _, _) | (WhenFull::Evict, Some(_), _) => return Ok(()),
            (WhenFull::Evict, None, Some(_)) => ("--when-full evict", "--max-disk"),
            (WhenFull::Evict, None, None) => {
                ("--when-full evict", "--max-memory, or --working-dir and --max-disk")
            }
        };
        Err(format!("{flag} cannot be used without {missing}"))
    }

    /// The limits of an engine, with a history of that size, or of the usual one: a part of
    /// a limit of memory.
    pub fn with_history(&self, history: Option<Size>) -> Limits {
        let bytes = self.bytes().unwrap_or(u64::MAX);
        let part = |memory: Size| (memory.0 / HISTORY_PART).max(HISTORY_BYTES_MIN);
        let usual = self.max_memory.map_or(u64::MAX, part).min(HISTORY_BYTES as u64);
        let history_bytes = history.map_or(usual, |history| history.0);
        let history_bytes = usize::try_from(history_bytes).unwrap_or(usize::MAX);
        Limits { bytes, when_full: self.when_full, history_bytes }
    }

    /// The limit of the engine, of which there is one.
    fn bytes(&self) -> Option<u64> {
        self.max_memory.or(self.max_disk).map(|size| size.0)
    }
}

fn parse_disk(text: &str) -> Result<Size, String> {
    match text.parse()? {
        size @ Size(Durable::DISK_BYTES_MIN..) => Ok(size),
        Size(_) => Err(format!("less than {}", Size(Durable::DISK_BYTES_MIN))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::subcommands::tests::{complaint, options};

    fn limits(arguments: &[&str]) -> (u64, WhenFull) {
        let Limits { bytes, when_full, .. } = options(arguments).limits();
        (bytes, when_full)
    }

    #[test]
    fn a_store_has_the_limit_of_its_engine() {
        const SIZE: u64 = 64 << 20;
        assert_eq!(limits(&[]), (u64::MAX, WhenFull::Refuse));
        assert_eq!(limits(&["--max-memory", "64MiB"]), (SIZE, WhenFull::Refuse));
        let evict = ["--max-memory", "64MiB", "--when-full", "evict"];
        assert_eq!(limits(&evict), (SIZE, WhenFull::Evict));
        let disk = ["--working-dir", "dir", "--max-disk=64MiB"];
        assert_eq!(limits(&disk), (SIZE, WhenFull::Refuse));
        assert_eq!(limits(&[&disk[..], &["--when-full=Evict"]].concat()), (SIZE, WhenFull::Evict));
        // What it does in any case may be said without a limit.
        for more in [&[][..], &["--working-dir", "dir"]] {
            let refuse = [&["--when-full", "refuse"], more].concat();
            assert_eq!(limits(&refuse), (u64::MAX, WhenFull::Refuse));
        }
    }

    #[test]
    fn the_history_is_a_part_of_a_limit_of_memory() {
        let history = |arguments: &[&str]| options(arguments).limits().history_bytes;
        assert_eq!(history(&[]), 16 << 20);
        assert_eq!(history(&["--working-dir", "dir", "--max-disk", "64MiB"]), 16 << 20);
        for (memory, expected) in
            [("1GiB", 16 << 20), ("256MiB", 16 << 20), ("64MiB", 4 << 20), ("1", 64 << 10)]
        {
            assert_eq!(history(&["--max-memory", memory]), expected, "{memory}");
            assert_eq!(history(&["--max-memory", memory, "--history", "8MiB"]), 8 << 20);
        }
    }

    #[test]
    fn a_store_that_evicts_has_a_limit() {
        let line = complaint(&["--when-full", "evict"]);
        for flag in ["--when-full evict", "--max-memory", "--max-disk"] {
            assert!(line.contains(flag), "{line}");
        }
        let line = complaint(&["--when-full", "evict", "--working-dir", "dir"]);
        assert!(line.starts_with("--when-full evict cannot be used without --max-disk"), "{line}");
    }

    #[test]
    fn a_limit_is_as_large_as_the_engine_needs() {
        let disk = |size| ["--working-dir", "dir", "--max-disk", size];
        let line = complaint(&disk("16777215"));
        assert!(line.contains("--max-disk") && line.contains("less than 16MiB"), "{line}");
        assert_eq!(limits(&disk("16MiB")).0, 16 << 20);
        assert_eq!(limits(&["--max-memory", "1"]).0, 1);
    }

    #[test]
    fn a_limit_is_that_of_the_engine() {
        let cases: [(&[&str], [&str; 2]); 5] = [
            (&["--max-disk", "1GiB"], ["--max-disk", "--working-dir"]),
            (&["--max-disk", "1GiB", "--when-full=evict"], ["--max-disk", "--working-dir"]),
            (&["--max-disk", "1GiB", "--max-memory", "1GiB"], ["--max-disk", "--working-dir"]),
            (&["--max-memory", "1GiB", "--working-dir", "dir"], ["--max-memory", "--working-dir"]),
            (
                &["--max-disk", "1GiB", "--max-memory", "1GiB", "--working-dir", "dir"],
                ["--max-memory", "--working-dir"],
            ),
        ];
        for (arguments, mentioned) in cases {
            let line = complaint(arguments);
            assert!(mentioned.iter().all(|flag| line.contains(flag)), "{arguments:?}: {line}");
        }
    }
}
