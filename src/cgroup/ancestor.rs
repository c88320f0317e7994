//! The files of ancestors that limit the cgroups below, and that programs read on their way to the root.
//!
//! A program that wants to know its limits reads its own cgroup and all ancestors, and takes the tightest. Files of
//! usage, statistics or members aren't listed.

use super::{HierarchyClass, HierarchyKind};

/// The files on v2. Programs that walk up: Rust's std and coreutils' nproc (9.8) for `cpu.max`, the JVM (24) for that and `memory.max`.
const V2: [&str; 9] = [
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "cpu.max",
    "cpuset.cpus",
    "cpuset.mems",
    "cpuset.cpus.effective",
    "cpuset.mems.effective",
    "pids.max",
];

/// The files on v1. Programs that walk up: Rust's std for `cpu.cfs_*`, the JVM (24) for these and `memory.limit_in_bytes`, crun for `cpuset.*`,
/// which it copies downwards. Programs that read the root: Node.js up to 18 for `memory.limit_in_bytes`, and Docker.
const V1: [&str; 9] = [
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpuset.cpus",
    "cpuset.mems",
    "cpuset.effective_cpus",
    "cpuset.effective_mems",
    "pids.max",
];

/// The files in the root of a v1 hierarchy that tell Docker what it can limit (its package `sysinfo`). Without them
/// `--cpu-shares`, `--memory-reservation`, `--memory-swappiness`, `--kernel-memory`, `--cpu-rt-runtime`,
/// `--blkio-weight` and `--device-*-bps` are errors, or ignored. `memory.oom_control`, for `--oom-kill-disable`,
/// isn't listed: it's a statistic.
const V1_ROOT: [&str; 13] = [
    "cpu.shares",
    "cpu.rt_period_us",
    "cpu.rt_runtime_us",
    "memory.soft_limit_in_bytes",
    "memory.swappiness",
    "memory.kmem.limit_in_bytes",
    "memory.kmem.tcp.limit_in_bytes",
    "blkio.weight",
    "blkio.weight_device",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.write_iops_device",
];

/// Whether a file of this name, in a cgroup `depth` levels below the root, limits the cgroups below.
pub fn limits_what_is_below(kind: &HierarchyKind, depth: usize, name: &str) -> bool {
    match kind.class() {
        HierarchyClass::Unified => V2.contains(&name) || is_of_huge_pages(name, ".max"),
        HierarchyClass::V1Controllers => {
            V1.contains(&name) || is_of_huge_pages(name, ".limit_in_bytes") || depth == 0 && V1_ROOT.contains(&name)
        }
        HierarchyClass::V1Named => false,
    }
}

/// Whether it's a file about huge pages: `hugetlb.2MB.max`, `hugetlb.1GB.rsvd.max`.
fn is_of_huge_pages(name: &str, suffix: &str) -> bool {
    let size = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(suffix));
    let size = size.map(|size| size.strip_suffix(".rsvd").unwrap_or(size));
    size.is_some_and(|size| !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_nothing_else() {
        let shown = |list: &str, depth, name| {
            let kind = if list == "unified" { HierarchyKind::Unified } else { HierarchyKind::v1(list) };
            limits_what_is_below(&kind, depth, name)
        };
        for (list, name) in [
            ("unified", "memory.max"),
            ("unified", "cpu.max"),
            ("unified", "cpuset.mems.effective"),
            ("unified", "hugetlb.2MB.max"),
            ("unified", "hugetlb.1GB.rsvd.max"),
            ("memory", "memory.limit_in_bytes"),
            ("cpu,cpuacct", "cpu.cfs_quota_us"),
            ("cpuset", "cpuset.effective_cpus"),
            ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes"),
            ("pids", "pids.max"),
        ] {
            assert!(shown(list, 0, name) && shown(list, 3, name), "{list} {name}");
        }
        for (list, name) in [("cpu", "cpu.shares"), ("memory", "memory.swappiness"), ("blkio", "blkio.weight")] {
            assert!(shown(list, 0, name) && !shown(list, 1, name), "{list} {name}");
        }
        for (list, name) in [
            ("unified", "memory.current"),
            ("unified", "memory.stat"),
            ("unified", "memory.events"),
            ("unified", "memory.min"),
            ("unified", "cpu.stat"),
            ("unified", "cpu.weight"),
            ("unified", "cpu.pressure"),
            ("unified", "cgroup.procs"),
            ("unified", "cgroup.events"),
            ("unified", "io.max"),
            ("unified", "pids.current"),
            ("unified", "pids.peak"),
            ("unified", "hugetlb.2MB.current"),
            ("unified", "hugetlb.2MB.events.max"),
            ("unified", "hugetlb..max"),
            ("unified", "memory.limit_in_bytes"),
            ("unified", "cpu.shares"),
            ("memory", "memory.usage_in_bytes"),
            ("memory", "memory.stat"),
            ("memory", "memory.oom_control"),
            ("memory", "memory.failcnt"),
            ("memory", "memory.max"),
            ("memory", "cgroup.event_control"),
            ("cpu,cpuacct", "cpuacct.usage"),
            ("devices", "devices.list"),
            ("name=systemd", "pids.max"),
            ("pids", "tasks"),
            ("pids", "release_agent"),
        ] {
            assert!(!shown(list, 0, name) && !shown(list, 2, name), "{list} {name}");
        }
    }
}
