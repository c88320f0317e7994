//! `/proc/PID/uid_map` against a reference that counts in 128 bits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::IdMap;

fn reference(text: &str, id: u32) -> bool {
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<u32>().ok()).map(i128::from);
        match (number(1), number(2)) {
            (Some(first), Some(length)) => (first..first + length).contains(&i128::from(id)),
            _ => false,
        }
    })
}

fuzz_target!(|data: (&str, u32)| {
    let (text, id) = data;
    let map = IdMap::parse(text);
    for id in [id, 0, 1, 100_000, u32::MAX] {
        assert_eq!(map.contains(id), reference(text, id), "{id}");
    }
});
