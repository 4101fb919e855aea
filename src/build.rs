//! Tells the program its version: the number, and the commit and the date that it is built
//! from. The date is that of the commit, or that of `SOURCE_DATE_EPOCH`, so two builds of
//! one commit are the same.
//!
//! Where there is no git, or no commit, as in an archive of the source, the version is the
//! number alone.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// The digits of a commit.
const COMMIT_DIGITS: usize = 12;

/// The end of the year 9999, in seconds.
const SECONDS_MAX: u64 = 253_402_300_799;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let number = env::var("CARGO_PKG_VERSION").expect("Cargo sets it");
    let (commit, time) = commit().unzip();
    let time = env::var("SOURCE_DATE_EPOCH").ok().filter(|time| !time.is_empty()).or(time);
    let date = time.and_then(|time| date(&time));
    let origin: Vec<&str> = commit.iter().chain(&date).map(String::as_str).collect();
    let version =
        if origin.is_empty() { number } else { format!("{number} ({})", origin.join(" ")) };
    println!("cargo::rustc-env=LKV_BUILD_VERSION={version}");
    println!("cargo::rustc-env=LKV_BUILD_DATE={}", date.unwrap_or_default());
}

/// The commit of the source and its time in seconds.
fn commit() -> Option<(String, String)> {
    // In a folder of another repository, as a package is built, the commit is another's.
    git(&["rev-parse", "--show-prefix"]).filter(String::is_empty)?;
    // A commit, a checkout, a reset: each adds a line to the first of these that is there.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"])?;
    for name in ["logs/HEAD", "HEAD", "packed-refs", &branch] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let line = git(&["-c", "log.showSignature=false", "log", "-1", "--format=%H %ct"])?;
    let (commit, time) = line.split_once(' ')?;
    Some((commit.get(..COMMIT_DIGITS)?.to_owned(), time.to_owned()))
}

/// The output of git, without its end; `None` if it fails, or is not there.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim_end().to_owned())
}

/// The date of a time in seconds: `2026-11-28`.
fn date(seconds: &str) -> Option<String> {
    let seconds = seconds.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX)?;
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
    time.to_string().get(..10).map(str::to_owned)
}
