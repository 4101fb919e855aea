//! The licenses of all dependencies against the list in `deny.toml`, so that a
//! new one is found without a tool that has to be built first.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What the manifest's folder has under this name.
fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|err| panic!("{name}: {err}"))
}

/// The licenses that `deny.toml` allows.
fn allowed(rules: &str) -> Vec<&str> {
    let (_, section) = rules.split_once("[licenses]").expect("a section for licenses");
    let (_, list) = section.split_once("\nallow = [").expect("a list in it");
    let (list, _) = list.split_once(']').expect("an end of the list");
    list.split('"').skip(1).step_by(2).collect()
}

/// The packages that `cargo metadata` tells of, and the license of each.
fn licenses(metadata: &str) -> Vec<(&str, Option<&str>)> {
    // A quote inside of a text has a backslash, so this is a name in any case.
    const LICENSE: &str = "\"license\":";
    const ID: &str = "\"id\":\"";
    let text = |from: &'static str, json: &str| json.find(from).map(|at| at + from.len());
    let mut found = Vec::new();
    let mut rest = metadata;
    while let Some(at) = text(LICENSE, rest) {
        let (before, after) = rest.split_at(at);
        let id = before.rsplit_once(ID).and_then(|(_, id)| id.split('"').next());
        let license = after.strip_prefix('"').and_then(|text| text.split('"').next());
        found.push((id.expect("a package has an id before its license"), license));
        rest = after;
    }
    found
}

/// Whether an SPDX expression can be met with licenses of a list. A slash is an
/// older `OR`.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    met
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allowed);
    }
    met
}

fn all_of(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let first = words.next().expect("a license");
    if first == "(" {
        let met = any_of(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return met;
    }
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().expect("an exception");
        return allowed.contains(&format!("{first} WITH {exception}").as_str());
    }
    allowed.contains(&first)
}

#[test]
fn every_dependency_has_a_license_that_is_allowed() {
    let rules = file("deny.toml");
    let allowed = allowed(&rules);
    assert!(allowed.contains(&"MIT"), "{allowed:?}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let output = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let licenses = licenses(&metadata);
    let packages = file("Cargo.lock").matches("\n[[package]]\n").count();
    assert_eq!(licenses.len(), packages, "each package in the lock file has one");
    for (package, license) in licenses {
        let license = license.unwrap_or_else(|| panic!("{package} tells no license"));
        assert!(is_met(license, &allowed), "{package}: {license} is not in deny.toml");
    }
}

#[test]
fn an_expression_is_met_as_it_says() {
    let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "Zlib"];
    for met in [
        "MIT",
        "GPL-2.0-only OR MIT",
        "GPL-2.0-only/MIT",
        "MIT AND Zlib",
        "(GPL-2.0-only OR MIT) AND Zlib",
        "GPL-2.0-only AND MIT OR Zlib",
        "Apache-2.0 WITH LLVM-exception OR Apache-2.0",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in [
        "GPL-2.0-only",
        "MIT AND GPL-2.0-only",
        "Zlib AND (GPL-2.0-only OR Apache-2.0)",
        "Apache-2.0",
        "MIT WITH LLVM-exception",
        "mit",
    ] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
