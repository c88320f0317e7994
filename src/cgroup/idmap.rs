//! Id maps: `/proc/PID/uid_map` and `gid_map` (user_namespaces(7)).

use std::fmt;

/// The ids of a user namespace, as ranges of ids in the reader's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap(Vec<(u32, u32, u32)>);

impl IdMap {
    /// Parses the text of `uid_map` or `gid_map`: lines of "inside outside length".
    pub fn parse(text: &str) -> Self {
        let range = |line: &str| {
            let mut words = line.split_ascii_whitespace().map(str::parse);
            Some((words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?))
        };
        Self(text.lines().filter_map(range).collect())
    }

    /// Whether this id of the reader's namespace is mapped.
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|(_, outside, length)| id.checked_sub(*outside).is_some_and(|offset| offset < *length))
    }

    /// Translates an id inside to the id in the reader's namespace.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|(inside, outside, length)| {
            id.checked_sub(*inside).filter(|offset| offset < length).and_then(|offset| outside.checked_add(offset))
        })
    }
}

impl fmt::Display for IdMap {
    /// Writes it as [`IdMap::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(inside, outside, length)| writeln!(f, "{inside} {outside} {length}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let map = IdMap::parse("         0     100000      65536\n     70000       1000          1\n");
        for (id, mapped) in
            [(100_000, true), (165_535, true), (165_536, false), (1000, true), (0, false), (99_999, false)]
        {
            assert_eq!(map.contains(id), mapped, "{id}");
        }
        for (id, outside) in [(0, Some(100_000)), (65_535, Some(165_535)), (65_536, None), (70_000, Some(1000))] {
            assert_eq!(map.outside(id), outside, "{id}");
        }
        assert!(IdMap::parse("0 0 4294967295").contains(u32::MAX - 1));
        assert!(!IdMap::parse("").contains(0) && !IdMap::parse("a b c\n1").contains(0));
    }
}
