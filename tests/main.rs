//! Promises of the program and its library, in one program: it is linked once, and the
//! tests that wait leave the processors to those that compute. [`support`] has the map.
//!
//! What measures its own process, or changes it, is a program of its own: `tests/memory.rs`
//! and `tests/panics.rs`; and so is `tests/packed.rs`, with an allocator of its own.

mod access;
mod addresses;
mod archives;
mod batches;
mod caches;
mod changes;
mod changes_on_disk;
mod clock;
mod cluster;
mod cluster_start;
mod collections;
mod concurrency;
mod containment;
mod crashes;
mod disk;
mod disk_limit;
mod failover;
mod faults;
mod fronts;
mod full_disk;
mod health;
mod imports;
mod in_parts;
mod leaders;
mod licenses;
mod linearizability;
mod lists;
mod logs;
mod metrics;
mod metrics_of_storage;
mod output;
mod port_file;
mod probes;
mod process;
mod reopen;
mod run;
mod service_manager;
mod storage;
mod streams;
mod support;
mod terminal;
mod texts;
mod threads;
mod tokens;
mod transcripts;
mod waits;
mod watch;
mod wire;
mod working_dir;

/// A file that nobody names is not compiled, and its tests would be missed by nobody. One
/// that the map lacks is not found by those who look for its promise.
#[test]
fn every_file_here_is_a_part_of_a_program_and_of_the_map() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("the manifest");
    let map = include_str!("support/mod.rs");
    let (mut unnamed, mut unmapped) = (Vec::new(), Vec::new());
    for file in std::fs::read_dir(folder.join("tests")).expect("this folder") {
        let name = file.expect("a file").file_name().into_string().expect("a name in UTF-8");
        let Some(module) = name.strip_suffix(".rs") else { continue };
        let is_module =
            include_str!("main.rs").lines().any(|line| line == format!("mod {module};"));
        if !is_module && !manifest.contains(&format!("path = \"tests/{name}\"")) {
            unnamed.push(name);
        } else if module != "main" && !map.contains(&format!("`tests/{name}`")) {
            unmapped.push(name);
        }
    }
    assert_eq!(unnamed, <[String; 0]>::default(), "neither in main.rs nor in Cargo.toml");
    assert_eq!(unmapped, <[String; 0]>::default(), "not in the map of `support`");
}
