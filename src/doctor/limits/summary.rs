//! The effective limits in short: what the models of programs are compared with.

use serde::Serialize;

use super::amount::Amount;
use super::cgroup::HostFiles;
use super::row::{Limit, Row};
use super::{cpu, memory, pids};
use crate::cgroup::Membership;
use crate::doctor::reading::{Quantity, Rounding};

/// The effective limits of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    /// Quota and period in microseconds of CPU time.
    pub(crate) quota: Option<Limit<(u64, u64)>>,
    /// How many CPUs it may run on.
    pub(crate) cpus: u64,
    /// Bytes, if it's less than the machine has.
    pub(crate) memory: Option<Limit<u64>>,
    /// Bytes above which `memory.high` of v2 throttles, if it's less than the machine has.
    pub(crate) memory_high: Option<Limit<u64>>,
    /// Processes and threads.
    pub(crate) pids: Option<Limit<u64>>,
}

impl Limits {
    /// Finds the limits of a process with these memberships, by the host's paths. It may run on `cpus` CPUs of a
    /// machine with `memory` bytes.
    pub(crate) fn of(memberships: &[Membership], host: &dyn HostFiles, cpus: u64, memory: u64) -> Self {
        let number = |row: Row| {
            let limit = row.effective?;
            Some(Limit { value: limit.value.number()?, by: limit.by })
        };
        let quota = cpu::time(host, memberships).effective.and_then(|limit| match limit.value {
            Amount::Quota { quota, period } => Some(Limit { value: (quota, period), by: limit.by }),
            _ => None,
        });
        let of_machine = |row| number(row).filter(|limit| limit.value < memory);
        Self {
            quota,
            cpus,
            memory: of_machine(memory::memory(host, memberships)),
            memory_high: memory::high(host, memberships).and_then(of_machine),
            pids: number(pids::pids(host, memberships)),
        }
    }

    /// Whether a program that takes this number goes by the effective limits. Some take `memory.high` where that is lower.
    pub(crate) fn are_met_by(&self, quantity: Quantity, rounding: Rounding, taken: Option<u64>) -> bool {
        let expected = self.expected(quantity, rounding);
        let high = self.memory_high.as_ref().map(|limit| limit.value).filter(|_| quantity == Quantity::Memory);
        taken == expected || high.is_some_and(|high| taken == Some(high) && expected.is_none_or(|max| high < max))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cgroup::{CgroupPath, HierarchyKind, parse_memberships};

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
}
