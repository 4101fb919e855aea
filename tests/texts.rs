//! The texts that the program prints in place of serving: help, version, completions and
//! the manual page; and whatever becomes of their reader.

#![cfg(unix)]

use crate::support::http::{Connection, wait_until};
use crate::support::process::{command, end_of, output, wait};
use crate::support::wrappers::there_is;
use std::fs;
use std::io::{Write as _, pipe};
use std::process::{Command, Stdio};

/// What it prints; it has to succeed and complain of nothing.
fn printed(arguments: &[&str]) -> String {
    let output = output(command(arguments));
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The output of a command on this text, which has to succeed.
fn filtered(filter: &mut Command, text: &str) -> String {
    let child = filter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("the filter runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = end_of(child);
    assert!(output.status.success(), "{filter:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_version_has_the_commit_and_its_date() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).env("TZ", "UTC").output().ok()?;
        let text = String::from_utf8(output.stdout).expect("text");
        output.status.success().then(|| text.trim_end().to_owned())
    };
    let number = env!("CARGO_PKG_VERSION");
    let is_ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let date = ["log", "-1", "--date=format-local:%Y-%m-%d", "--format=%H %cd"];
    let expected = match git(&date).filter(|_| is_ours) {
        Some(line) if std::env::var_os("SOURCE_DATE_EPOCH").is_none() => {
            let (commit, date) = line.split_once(' ').expect("two words");
            format!(
                "little-key-value {number} ({} {date})\n",
                &commit.get(..12).expect("more digits")
            )
        }
        _ => format!("little-key-value {number}"),
    };
    for flag in ["--version", "-V"] {
        assert!(printed(&[flag]).starts_with(&expected), "{flag}: {expected}");
    }
}

#[test]
fn bash_completes_subcommands_flags_and_their_values() {
    if !there_is("bash") {
        return;
    }
    let script = printed(&["completions", "bash"]);
    let completed = |words: &str| {
        let program = format!(
            "source /dev/stdin; entry=$(complete -p little-key-value)
             [[ $entry =~ -F\\ ([^ ]+) ]]; words=({words}); last=$((${{#words[@]}} - 1))
             COMP_WORDS=(\"${{words[@]}}\"); COMP_CWORD=$last; before=${{words[last - 1]}}
             \"${{BASH_REMATCH[1]}}\" little-key-value \"${{words[last]}}\" \"$before\"
             echo \"${{COMPREPLY[@]}}\""
        );
        let replies = filtered(Command::new("bash").args(["-c", &program]), &script);
        replies.trim_end().to_owned()
    };
    let cases = [
        ("little-key-value --max-v", "--max-value-size"),
        ("little-key-value --port", "--port --port-file"),
        ("little-key-value hea", "health"),
        ("little-key-value --log-format ''", "text json"),
        ("little-key-value run --working", "--working-dir"),
        ("little-key-value completions fi", "fish"),
    ];
    for (words, expected) in cases {
        assert_eq!(completed(words), expected, "{words}");
    }
}

#[test]
fn each_shell_has_a_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for word in ["max-value-size", "health", "port-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let output = output(command(&["completions", "cmd"]));
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
}

#[test]
fn the_manual_page_has_every_flag_and_subcommand() {
    let page = printed(&["man"]);
    let mut other = command(&["man"]);
    other.env("LKV_PORT", "9000");
    assert_eq!(output(other).stdout, page.as_bytes(), "it is the same everywhere");
    if !there_is("groff") {
        return;
    }
    let rendered = "groff -man -Tascii -P-cbu -ww 2>&1";
    let plain = filtered(Command::new("sh").args(["-c", rendered]), &page);
    assert!(!plain.contains("warning"), "{plain}");
    let help = printed(&["--help"]);
    let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
    for word in flags.chain(["run", "health", "completions", "LKV_PORT", "LKV_URL", "SYNOPSIS"]) {
        let word = word.trim_end_matches([';', ',', '.', ')']);
        assert!(plain.contains(word), "{word} is not in {plain}");
    }
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["with the LKV_URL environment variable.", "The shell: one of bash,"] {
        assert!(words.contains(text), "{text} is not in {plain}");
    }
}

/// Arguments that print a text.
const TEXTS: [&[&str]; 6] =
    [&["--help"], &["--version"], &["help"], &["run", "--help"], &["man"], &["completions", "zsh"]];

#[test]
fn a_reader_that_leaves_is_no_failure() {
    for arguments in TEXTS {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let ended = command(arguments).stdout(writer).stderr(Stdio::piped()).output();
        let ended = ended.expect("the program runs");
        assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), &b""[..]), "{arguments:?}");

        let mut closed = Command::new("sh");
        closed.args(["-c", "exec \"$@\" >&-", "sh", env!("CARGO_BIN_EXE_little-key-value")]);
        closed.args(arguments);
        let ended = closed.output().expect("a shell runs");
        assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_one_line_and_1() {
    let Ok(full) = fs::File::create("/dev/full") else { return };
    for arguments in TEXTS {
        let full = full.try_clone().expect("a descriptor");
        let ended = command(arguments).stdout(full).output().expect("the program runs");
        let line = String::from_utf8(ended.stderr).expect("text");
        assert_eq!((ended.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    }
}

#[test]
fn a_store_serves_without_a_reader_of_its_output() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("port");
    let path = file.to_str().expect("a path of text");
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut program = command(&["--port", "0", "--port-file", path]);
    let mut child = program.stdout(writer).stderr(Stdio::piped()).spawn().expect("it runs");
    wait_until("it listens", || file.exists());
    let port = fs::read_to_string(&file).expect("a file").trim_end().parse().expect("a port");
    let mut connection = Connection::open(([127, 0, 0, 1], port).into());
    assert_eq!(connection.get("/readyz").status(), 200);
    crate::support::process::signal(&child, "TERM");
    assert_eq!(wait(&mut child).expect("it ends").code(), Some(0));
}

#[test]
fn a_command_without_a_reader_ends_as_it_would() {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut beside = command(&["run", "--", "yes"]);
    let ended = end_of(beside.stdout(writer).stderr(Stdio::piped()).spawn().expect("it runs"));
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(141), &b""[..]));
}
