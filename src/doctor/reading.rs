//! The input and output of the models.

use serde::Serialize;

use crate::cgroup::MountEntry;

/// The results of a program's system calls about paths, as the probed process would get them.
pub(crate) trait Files {
    /// Reads the whole file. `None` if it can't be opened or read.
    fn read(&self, path: &str) -> Option<String>;
    /// Whether stat(2) finds it.
    fn exists(&self, path: &str) -> bool;
    /// Whether statfs(2) of the path says cgroup2.
    fn is_cgroup2(&self, path: &str) -> bool;
}

/// The kernel's information for a process about itself and the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct System {
    /// `/proc/self/cgroup`.
    pub(crate) cgroup: String,
    /// The lines of `/proc/self/mountinfo`.
    pub(crate) mounts: Vec<MountEntry>,
    /// `/proc/cgroups`.
    pub(crate) controllers: String,
    /// How many CPUs sched_getaffinity(2) gives it.
    pub(crate) affinity: u64,
    /// How many CPUs are online.
    pub(crate) online: u64,
    /// The machine's memory in bytes.
    pub(crate) memory: u64,
}

impl System {
    /// The lines of `/proc/self/cgroup`: the hierarchy's number, its controllers or name, the path.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.cgroup.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
    }

    /// The path in the v1 hierarchy of a controller.
    pub(crate) fn v1_path(&self, controller: &str) -> Option<&str> {
        let mut lines = self.memberships();
        lines.find(|(_, list, _)| list.split(',').any(|word| word == controller)).map(|(_, _, path)| path)
    }

    /// The path in cgroup2.
    pub(crate) fn v2_path(&self) -> Option<&str> {
        self.memberships().find(|(number, list, _)| *number == "0" && list.is_empty()).map(|(_, _, path)| path)
    }

    /// The lines of mountinfo of type `cgroup` that have a controller among their options.
    pub(crate) fn v1_mounts<'a>(&'a self, controller: &'a str) -> impl DoubleEndedIterator<Item = &'a MountEntry> {
        let has = move |mount: &&MountEntry| mount.super_options.split(',').any(|word| word == controller);
        self.mounts.iter().filter(|mount| mount.fstype == "cgroup").filter(has)
    }

    /// The lines of mountinfo of type `cgroup2`.
    pub(crate) fn v2_mounts(&self) -> impl DoubleEndedIterator<Item = &MountEntry> {
        self.mounts.iter().filter(|mount| mount.fstype == "cgroup2")
    }

    /// The row of a controller in `/proc/cgroups`: the hierarchy's number, and whether it's enabled.
    pub(crate) fn controller(&self, name: &str) -> Option<(u32, bool)> {
        self.controllers.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [word, number, _, enabled] = *fields.as_slice() else { return None };
            (word == name).then_some(())?;
            Some((number.parse().ok()?, enabled == "1"))
        })
    }
}

/// A number that a program takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LimitValue {
    /// CPUs, bytes or processes. `None`: no limit, so the program uses the machine's number.
    pub(crate) value: Option<u64>,
    /// The file with this number, or the program's other source.
    pub(crate) from: Option<String>,
    /// Why it finds no file, if it looks for one.
    pub(crate) missing: Option<String>,
    /// The path that it lacks, if the reason is a path.
    #[serde(skip)]
    pub(crate) lacks: Option<String>,
}

impl LimitValue {
    /// A number from a file, or from the kernel.
    pub(crate) fn from(value: Option<u64>, from: impl Into<String>) -> Self {
        Self { value, from: Some(from.into()), missing: None, lacks: None }
    }

    /// Makes a number that the program takes because it doesn't find its file.
    pub(crate) fn without(value: Option<u64>, missing: &Missing) -> Self {
        Self { value, from: None, missing: Some(missing.why.clone()), lacks: missing.path.clone() }
    }
}

/// Why a program doesn't find its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) why: String,
    /// The path that doesn't exist, or can't be read.
    pub(crate) path: Option<String>,
}

impl Missing {
    pub(crate) fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), path: None }
    }

    pub(crate) fn path(path: impl Into<String>) -> Self {
        let path = path.into();
        Self { why: format!("{path} can't be read"), path: Some(path) }
    }
}

/// The numbers that a program takes; `None` for those that it doesn't read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LimitReading {
    pub(crate) cpus: Option<LimitValue>,
    pub(crate) memory: Option<LimitValue>,
    pub(crate) pids: Option<LimitValue>,
}

impl LimitReading {
    /// The numbers with their quantities.
    pub(crate) fn parts(&self) -> [(Quantity, Option<&LimitValue>); 3] {
        [
            (Quantity::Cpus, self.cpus.as_ref()),
            (Quantity::Memory, self.memory.as_ref()),
            (Quantity::Pids, self.pids.as_ref()),
        ]
    }
}

/// A quantity that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Quantity {
    Cpus,
    Memory,
    Pids,
}

impl Quantity {
    /// A value with its unit.
    pub(crate) fn of(self, value: Option<u64>) -> String {
        match (self, value) {
            (Self::Cpus, None) => "no limit of CPUs".to_owned(),
            (Self::Memory, None) => "no limit of memory".to_owned(),
            (Self::Pids, None) => "no limit of processes".to_owned(),
            (Self::Cpus, Some(1)) => "1 CPU".to_owned(),
            (Self::Cpus, Some(count)) => format!("{count} CPUs"),
            (Self::Memory, Some(bytes)) => format!("{bytes} bytes"),
            (Self::Pids, Some(count)) => format!("{count} processes"),
        }
    }
}

/// The ways in which programs make a whole number of CPUs from a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Up,
    /// Rounds up, to at least two.
    UpFromTwo,
    Down,
    Nearest,
    /// The program ignores quotas.
    NoQuota,
}

impl Rounding {
    pub(crate) fn apply(self, quota: u64, period: u64) -> u64 {
        let period = period.max(1);
        match self {
            Self::Up => quota.div_ceil(period).max(1),
            Self::UpFromTwo => quota.div_ceil(period).max(2),
            Self::Down => (quota / period).max(1),
            Self::Nearest => (quota.saturating_mul(2).saturating_add(period) / period.saturating_mul(2)).max(1),
            Self::NoQuota => u64::MAX,
        }
    }
}

/// Parses a file with a single number.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `cpu.max`: quota and period in microseconds. The inner `None` is "max".
pub(crate) fn cpu_max(text: &str) -> Option<Option<(u64, u64)>> {
    let mut words = text.split_ascii_whitespace();
    let (quota, period) = (words.next()?, words.next()?);
    if quota == "max" {
        return Some(None);
    }
    let period = period.parse().ok().filter(|period| *period > 0)?;
    Some(Some((quota.parse().ok()?, period)))
}

/// A value of a file of lines `KEY VALUE`.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        assert_eq!(number("9223372036854771712\n"), Some(9_223_372_036_854_771_712));
        assert_eq!((number("max\n"), number("-1\n"), number("")), (None, None, None));
        assert_eq!(cpu_max("150000 100000\n"), Some(Some((150_000, 100_000))));
        assert_eq!((cpu_max("max 100000\n"), cpu_max("1 0\n"), cpu_max("")), (Some(None), None, None));
        assert_eq!(field("cache 1\nhierarchical_memory_limit 5\n", "hierarchical_memory_limit"), Some(5));
        assert_eq!(field("hierarchical_memory_limits 5\n", "hierarchical_memory_limit"), None);
    }

    #[test]
    fn roundings() {
        for (rounding, expected) in [
            (Rounding::Up, [1, 1, 2, 2, 4]),
            (Rounding::UpFromTwo, [2, 2, 2, 2, 4]),
            (Rounding::Down, [1, 1, 1, 1, 3]),
            (Rounding::Nearest, [1, 1, 1, 2, 4]),
        ] {
            let got = [50, 100, 140, 150, 350].map(|quota| rounding.apply(quota, 100));
            assert_eq!(got, expected, "{rounding:?}");
        }
    }

    #[test]
    fn lines_of_the_kernel() {
        let system = System {
            cgroup: "12:cpu,cpuacct:/a:b\n0::/c\n1:name=systemd:/\n".to_owned(),
            controllers: "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t12\t3\t1\nmemory\t0\t3\t0\n".to_owned(),
            ..System::default()
        };
        assert_eq!(
            (system.v1_path("cpuacct"), system.v2_path(), system.v1_path("memory")),
            (Some("/a:b"), Some("/c"), None)
        );
        assert_eq!((system.controller("cpu"), system.controller("memory")), (Some((12, true)), Some((0, false))));
        assert_eq!(system.controller("pids"), None);
    }
}
