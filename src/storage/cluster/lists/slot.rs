//! Whole slots: all keys with a prefix that has a whole `{tag}` are in one.
//!
//! What is done about a slot is done by a script, at one moment. A node knows that it may
//! run a script by the keys that it names, and these name two [`witnesses`]: while the slot
//! moves to another node neither of the two runs it, for each has some of the keys. The
//! router tries again until all are in one place.

use crate::storage::cluster::network::protocol::{Commands, slot_of};
use crate::storage::cluster::scripts::sha1_of;
use std::sync::LazyLock;

/// Reads the keys of a slot that have a prefix, or tells how many keys it has if those are
/// too many. Keys that have expired are left out.
pub const KEYS: &str = "\
local count = redis.call('CLUSTER', 'COUNTKEYSINSLOT', ARGV[1])
if count > tonumber(ARGV[3]) then return count end
local prefix, length = ARGV[2], #ARGV[2]
local found = {}
for _, key in ipairs(redis.call('CLUSTER', 'GETKEYSINSLOT', ARGV[1], count)) do
  if string.sub(key, 1, length) == prefix then found[#found + 1] = key end
end
local living = {}
for start = 1, #found, 1000 do
  local last = math.min(start + 999, #found)
  local all = redis.call('EXISTS', unpack(found, start, last)) == last - start + 1
  for at = start, last do
    if all or redis.call('EXISTS', found[at]) == 1 then living[#living + 1] = found[at] end
  end
end
return living";

static KEYS_SHA1: LazyLock<String> = LazyLock::new(|| sha1_of(KEYS.as_bytes()));

/// The slot of all keys with a prefix, if that has a whole tag.
pub fn of_prefix(prefix: &str) -> Option<u16> {
    let (_, behind) = prefix.split_once('{')?;
    let (tag, _) = behind.split_once('}')?;
    (!tag.is_empty()).then(|| slot_of(prefix.as_bytes()))
}

/// Reads the keys of a slot that have a prefix, if the slot has no more than `keys_max`.
pub fn keys(slot: u16, prefix: &str, keys_max: usize) -> Commands {
    let [slot, keys_max] = [slot.to_string(), keys_max.to_string()];
    let words = [slot.as_bytes(), prefix.as_bytes(), keys_max.as_bytes()];
    run(b"EVALSHA_RO", &KEYS_SHA1, prefix, &words)
}

/// Runs a script on the slot of a prefix.
pub fn run(command: &[u8], sha1: &str, prefix: &str, words: &[&[u8]]) -> Commands {
    let [one, other] = witnesses(prefix);
    let mut all: Vec<&[u8]> = vec![command, sha1.as_bytes(), b"2", &one, &other];
    all.extend(words);
    Commands::default().with(&all)
}

/// Two names in the slot of a prefix. They are no UTF-8, so nobody here has such keys.
fn witnesses(prefix: &str) -> [Vec<u8>; 2] {
    [0xfe, 0xff].map(|last| [prefix.as_bytes(), &[last]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_a_whole_tag_has_one_slot() {
        for prefix in ["{q}", "a{q}b", "{q}{", "x{q}}", "{ q }"] {
            let slot = of_prefix(prefix).unwrap_or_else(|| panic!("{prefix} has one"));
            for rest in ["", "1", "{z}", "}"] {
                assert_eq!(slot_of([prefix, rest].concat().as_bytes()), slot, "{prefix}{rest}");
            }
        }
        for prefix in ["", "q", "{", "{q", "q}", "{}", "{}{q}", "}{"] {
            assert_eq!(of_prefix(prefix), None, "{prefix}");
        }
    }
}
