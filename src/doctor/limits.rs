//! The effective limits, whatever programs see of them: the tightest over a cgroup and its ancestors, from the host's
//! files.

use serde::Serialize;

use super::reading::{Quantity, Rounding, cpu_max, number};
use crate::cgroup::{CgroupPath, HierarchyKind, Membership};

/// The host's cgroupfs.
pub(crate) trait HostFiles {
    /// Reads an interface file of a cgroup. `None` if the hierarchy, the cgroup or the file doesn't exist.
    fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String>;

    /// Whether the cgroup exists, or with `file`, whether it has such a file.
    fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool;
}

/// A limit and the cgroup that sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Limit<T> {
    pub(crate) value: T,
    /// `HIERARCHY:PATH/FILE`.
    pub(crate) by: String,
}

/// The effective limits of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    /// Quota and period in microseconds of CPU time.
    pub(crate) quota: Option<Limit<(u64, u64)>>,
    /// How many CPUs it may run on.
    pub(crate) cpus: u64,
    /// Bytes, if it's less than the machine has.
    pub(crate) memory: Option<Limit<u64>>,
    /// Processes and threads.
    pub(crate) pids: Option<Limit<u64>>,
}

impl Limits {
    /// Finds the limits of a process with these memberships, by the host's paths. It may run on `cpus` CPUs of a
    /// machine with `memory` bytes.
    pub(crate) fn of(memberships: &[Membership], host: &dyn HostFiles, cpus: u64, memory: u64) -> Self {
        let mut limits = Self { cpus, ..Self::default() };
        for membership in memberships {
            let Some(own) = membership.location.path() else { continue };
            for depth in (0..=own.depth()).rev() {
                limits.tighten(&membership.kind, &own.prefix(depth), host, memory);
            }
        }
        limits
    }

    fn tighten(&mut self, kind: &HierarchyKind, path: &CgroupPath, host: &dyn HostFiles, memory: u64) {
        let read = |file: &str| host.read(kind, path, file);
        let by = |file: &str| {
            let path = path.to_string();
            format!("{kind}:{}/{file}", path.trim_end_matches('/'))
        };
        let has = |word: &str| kind.controllers().is_some_and(|controllers| controllers.contains(word));
        let is_v2 = *kind == HierarchyKind::Unified;
        let (mut quota, mut bytes, mut pids) = (None, None, None);
        if is_v2 {
            quota = read("cpu.max").as_deref().and_then(cpu_max).flatten().zip(Some(by("cpu.max")));
            bytes = read("memory.max").as_deref().and_then(number).zip(Some(by("memory.max")));
            pids = read("pids.max").as_deref().and_then(number).zip(Some(by("pids.max")));
        }
        if has("cpu") {
            let period = read("cpu.cfs_period_us").as_deref().and_then(number).filter(|period| *period > 0);
            let of = read("cpu.cfs_quota_us").as_deref().and_then(number).filter(|quota| *quota > 0);
            quota = of.zip(period).zip(Some(by("cpu.cfs_quota_us")));
        }
        if has("memory") {
            bytes = read("memory.limit_in_bytes").as_deref().and_then(number).zip(Some(by("memory.limit_in_bytes")));
        }
        if has("pids") {
            pids = read("pids.max").as_deref().and_then(number).zip(Some(by("pids.max")));
        }
        if let Some((value, by)) = quota
            && self.quota.as_ref().is_none_or(|now| is_less(value, now.value))
        {
            self.quota = Some(Limit { value, by });
        }
        lower(&mut self.memory, bytes.filter(|(bytes, _)| *bytes < memory));
        lower(&mut self.pids, pids);
    }

    /// The number that a program would take if it knew this limit.
    pub(crate) fn expected(&self, quantity: Quantity, rounding: Rounding) -> Option<u64> {
        match quantity {
            Quantity::Cpus => {
                let quota = self.quota.as_ref().map(|limit| limit.value);
                Some(quota.map_or(u64::MAX, |(quota, period)| rounding.apply(quota, period)).min(self.cpus))
            }
            Quantity::Memory => self.memory.as_ref().map(|limit| limit.value),
            Quantity::Pids => self.pids.as_ref().map(|limit| limit.value),
        }
    }
}

fn is_less((quota, period): (u64, u64), (other, of): (u64, u64)) -> bool {
    u128::from(quota) * u128::from(of) < u128::from(other) * u128::from(period)
}

fn lower(now: &mut Option<Limit<u64>>, found: Option<(u64, String)>) {
    if let Some((value, by)) = found
        && now.as_ref().is_none_or(|now| value < now.value)
    {
        *now = Some(Limit { value, by });
    }
}

/// How many CPUs a list as `0-3,8` has.
pub(crate) fn count_of_list(text: &str) -> u64 {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some((first, last))
    };
    text.trim()
        .split(',')
        .filter_map(range)
        .map(|(first, last)| last.saturating_sub(first) + u64::from(last >= first))
        .sum()
}

/// How many of the CPUs in one list are in another one.
pub(crate) fn count_in_both(list: &str, other: &str) -> u64 {
    let parse = |text: &str| -> Vec<(u64, u64)> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        text.trim().split(',').filter_map(range).collect()
    };
    let (ranges, others) = (parse(list), parse(other));
    let overlap = |(first, last): (u64, u64), (from, to): (u64, u64)| {
        let (first, last) = (first.max(from), last.min(to));
        if first <= last { last - first + 1 } else { 0 }
    };
    ranges.iter().map(|range| others.iter().map(|other| overlap(*range, *other)).sum::<u64>()).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cgroup::parse_memberships;

    struct Fake(BTreeMap<String, &'static str>);

    impl HostFiles for Fake {
        fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String> {
            self.0.get(&format!("{kind}:{path} {file}")).map(|text| (*text).to_owned())
        }

        fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool {
            file.is_some_and(|file| self.read(kind, path, file).is_some())
        }
    }

    #[test]
    fn the_tightest_of_all_above() {
        let host = Fake(
            [
                ("unified:/a/b cpu.max", "200000 100000\n"),
                ("unified:/a cpu.max", "75000 50000\n"),
                ("unified:/ cpu.max", "1 100000\n"),
                ("unified:/a/b memory.max", "max\n"),
                ("unified:/a memory.max", "4096\n"),
                ("unified:/a/b pids.max", "7\n"),
                ("unified:/a pids.max", "9\n"),
                ("cpu,cpuacct:/x cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct:/x cpu.cfs_period_us", "100000\n"),
                ("memory:/x memory.limit_in_bytes", "9223372036854771712\n"),
            ]
            .map(|(at, text)| (at.to_owned(), text))
            .into(),
        );
        let of = |text: &str| Limits::of(&parse_memberships(text.as_bytes()), &host, 8, 1 << 30);
        let mut limits = of("0::/a/b\n");
        assert_eq!(
            limits.quota.take().map(|limit| (limit.value, limit.by)),
            Some(((1, 100_000), "unified:/cpu.max".to_owned()))
        );
        assert_eq!(
            limits.memory.map(|limit| (limit.value, limit.by)),
            Some((4096, "unified:/a/memory.max".to_owned()))
        );
        assert_eq!(limits.pids.map(|limit| limit.value), Some(7));
        let none = of("3:cpu,cpuacct:/x\n2:memory:/x\n");
        assert_eq!(none, Limits { cpus: 8, ..Limits::default() });
        assert_eq!(none.expected(Quantity::Cpus, Rounding::Up), Some(8));
        let some = Limits { quota: Some(Limit { value: (150, 100), by: String::new() }), ..none };
        let rounded = [Rounding::Up, Rounding::Down].map(|rounding| some.expected(Quantity::Cpus, rounding));
        assert_eq!(rounded, [Some(2), Some(1)]);
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(
            (count_of_list("0-3,8\n"), count_of_list("5"), count_of_list("\n"), count_of_list("3-1")),
            (5, 1, 0, 0)
        );
        assert_eq!((count_in_both("0-127", "0-1"), count_in_both("1,3", "0-2,3"), count_in_both("0", "1")), (2, 2, 0));
    }
}
