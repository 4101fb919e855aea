//! The limits of a store in memory, as the flags and variables name them.

use super::units::Size;
use crate::storage::{Limits, WhenFull};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use std::path::Path;

/// The flags of the limits.
#[derive(Clone, Debug, Args)]
pub struct LimitOptions {
    /// The memory for keys and values; not with --working-dir [default: no limit]
    #[arg(long, env = "LKV_MAX_MEMORY", value_name = "SIZE")]
    pub max_memory: Option<Size>,

    /// What to do with a write past that: refuse it with 507, or evict the keys of the
    /// least use, as a cache does
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
    /// Fails for a store that is to evict without a limit of its memory.
    pub(super) fn check(&self, working_dir: Option<&Path>) -> Result<(), String> {
        match (self.when_full, self.max_memory, working_dir) {
            (WhenFull::Refuse, _, _) | (WhenFull::Evict, Some(_), _) => Ok(()),
            (WhenFull::Evict, None, Some(_)) => {
                Err("--when-full evict cannot be used with --working-dir".to_owned())
            }
            (WhenFull::Evict, None, None) => {
                Err("--when-full evict cannot be used without --max-memory".to_owned())
            }
        }
    }

    /// The limits of an engine in memory, with so many bytes of history.
    pub fn with_history(&self, history_bytes: usize) -> Limits {
        let bytes = self.max_memory.map_or(u64::MAX, |size| size.0);
        Limits { bytes, when_full: self.when_full, history_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::subcommands::tests::{complaint, options};

    fn limits(arguments: &[&str]) -> (u64, WhenFull) {
        let Limits { bytes, when_full, history_bytes } = options(arguments).limits();
        assert_eq!(history_bytes, 16 << 20);
        (bytes, when_full)
    }

    #[test]
    fn a_store_in_memory_has_limits() {
        const SIZE: u64 = 64 << 20;
        assert_eq!(limits(&[]), (u64::MAX, WhenFull::Refuse));
        assert_eq!(limits(&["--max-memory", "64MiB"]), (SIZE, WhenFull::Refuse));
        assert_eq!(limits(&["--max-memory", "1"]), (1, WhenFull::Refuse));
        for evict in [&["--when-full", "evict"][..], &["--when-full=Evict"]] {
            let arguments = [&["--max-memory", "64MiB"], evict].concat();
            assert_eq!(limits(&arguments), (SIZE, WhenFull::Evict));
        }
        // What it does in any case may be said without a limit.
        for more in [&[][..], &["--working-dir", "dir"]] {
            let refuse = [&["--when-full", "refuse"], more].concat();
            assert_eq!(limits(&refuse), (u64::MAX, WhenFull::Refuse));
        }
    }

    #[test]
    fn a_store_that_evicts_has_a_limit_of_its_memory() {
        let cases: [(&[&str], [&str; 2]); 3] = [
            (&["--when-full", "evict"], ["--when-full evict", "--max-memory"]),
            (
                &["--when-full", "evict", "--working-dir", "dir"],
                ["--when-full evict", "--working-dir"],
            ),
            (
                &["--when-full=evict", "--max-memory", "1GiB", "--working-dir", "dir"],
                ["--max-memory", "--working-dir"],
            ),
        ];
        for (arguments, mentioned) in cases {
            let line = complaint(arguments);
            assert!(mentioned.iter().all(|flag| line.contains(flag)), "{arguments:?}: {line}");
        }
    }
}
