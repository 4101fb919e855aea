//! The memory engine's account against the memory that the process really
//! takes. A crate of one test, so that no other disturbs the figures.

#![cfg(target_os = "linux")]

mod support;

use little_key_value::storage::{Entry, Key, Memory};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};
use support::blocking::Blocking as _;

/// The process's resident memory in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("and how much");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kib.expect("in kB") * 1024
}

/// Stores `entries` values of `value_bytes` under keys of 16 bytes. Returns
/// what the account and what the system say that it takes.
fn load(entries: usize, value_bytes: usize) -> (Memory, u64, u64) {
    let before = resident();
    let memory = Memory::new();
    for index in 0..entries {
        let key = Key::new(format!("{index:016}")).expect("a key of 16 bytes");
        let value = vec![b'v'; value_bytes];
        memory.set(key, Entry::new(value.into())).expect("there is no maximum");
    }
    let held = memory.held();
    (memory, held, resident() - before)
}

#[test]
fn the_account_agrees_with_the_process() {
    let mut kept = Vec::new();
    for (entries, value_bytes) in [(1500, 64 * 1024), (200_000, 100), (100_000, 1), (20_000, 4000)]
    {
        // The stores before it stay, or this one would live in what they freed.
        let (memory, held, resident) = load(entries, value_bytes);
        kept.push(memory);
        let per_entry = (held / entries as u64, resident / entries as u64);
        println!("{entries} x {value_bytes} bytes: held, resident per entry {per_entry:?}");
        let fair = resident * 92 / 100..resident * 108 / 100;
        assert!(fair.contains(&held), "{held} held, {resident} resident");
    }
    half_of_it_comes_back();
}

/// Deletes half of a store at random.
fn half_of_it_comes_back() {
    const KEYS: u64 = 200_000;
    let (memory, _, whole) = load(200_000, 100);
    let before = resident();
    for index in (0..KEYS).filter(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0) {
        memory.delete(&Key::new(format!("{index:016}")).expect("a key")).expect("it deletes");
    }
    let deadline = Instant::now() + Duration::from_secs(100);
    while before.saturating_sub(resident()) < whole * 35 / 100 {
        let back = before.saturating_sub(resident());
        assert!(Instant::now() < deadline, "{back} of {whole} bytes came back");
        thread::sleep(Duration::from_millis(50));
    }
}
