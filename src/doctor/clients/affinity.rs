//! Programs that ask the kernel how many CPUs they may run on. Some of them also check quotas.

use crate::doctor::facts::{ROOT, point};
use crate::doctor::reading::{Files, LimitReading, LimitValue, Missing, Rounding, System, cpu_max};

/// Programs that read only the affinity: `os.process_cpu_count` of Python, nproc before coreutils 9.8, libgomp, musl.
pub(crate) fn alone(system: &System, _: &dyn Files) -> LimitReading {
    LimitReading { cpus: Some(LimitValue::from(Some(system.affinity), "sched_getaffinity")), ..LimitReading::default() }
}

/// psutil: the CPUs that are online, and /proc/meminfo.
pub(crate) fn psutil(system: &System, _: &dyn Files) -> LimitReading {
    LimitReading {
        cpus: Some(LimitValue::from(Some(system.online), "sysconf")),
        memory: Some(LimitValue::from(None, "/proc/meminfo")),
        pids: None,
    }
}

/// gnulib's `get_cgroup2_cpu_quota`: cgroup2 only, every cgroup up to the root.
pub(crate) fn nproc(system: &System, files: &dyn Files) -> LimitReading {
    let none = |missing: Missing| LimitValue::without(Some(system.affinity), &missing);
    let cpus = match nproc_quota(system, files) {
        Ok((count, path)) => LimitValue::from(Some(count.unwrap_or(u64::MAX).min(system.affinity)), path),
        Err(missing) => none(missing),
    };
    LimitReading { cpus: Some(cpus), ..LimitReading::default() }
}

fn nproc_quota(system: &System, files: &dyn Files) -> Result<(Option<u64>, String), Missing> {
    let mut lines = system.cgroup.lines();
    let path = lines.find_map(|line| line.strip_prefix("0::").filter(|path| path.starts_with('/')));
    let path =
        path.ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cgroup2, and it reads no other"))?;
    let usual = files.exists(&format!("{ROOT}/cgroup.controllers")).then(|| ROOT.to_owned());
    let mount = usual.or_else(|| system.v2_mounts().next().map(point));
    let mount = mount.ok_or_else(|| Missing::because("/proc/mounts has no line of type cgroup2"))?;
    let mut own = path.trim_end_matches('/').to_owned();
    let (mut least, mut at) = (None, None);
    loop {
        let file = format!("{mount}{own}/cpu.max");
        if let Some(quota) = files.read(&file).as_deref().and_then(cpu_max) {
            let count = quota.map(|(quota, period)| Rounding::Nearest.apply(quota, period));
            if at.is_none() || count.is_some_and(|count| least.is_none_or(|least| count < least)) {
                at = Some(file);
                least = count.or(least);
            }
        }
        let Some((above, _)) = own.rsplit_once('/') else { break };
        own = above.to_owned();
    }
    // The root cgroup has no quota file, which is no error.
    at.map(|at| (least, at)).ok_or_else(|| Missing::path(format!("{mount}{}/cpu.max", path.trim_end_matches('/'))))
}

/// Docker's `sysinfo`, which checks `--cpuset-cpus`: the cpuset at the top of the mount, or on v2 at the root.
pub(crate) fn docker(system: &System, files: &dyn Files) -> LimitReading {
    let found = || -> Result<(Option<u64>, String), Missing> {
        let path = if files.is_cgroup2(ROOT) {
            format!("{ROOT}/cpuset.cpus.effective")
        } else {
            let mount = system.v1_mounts("cpuset").next_back();
            let mount = mount.ok_or_else(|| Missing::because("mountinfo has no line 'cgroup' with cpuset"))?;
            format!("{}/cpuset.cpus", point(mount))
        };
        let text = files.read(&path).ok_or_else(|| Missing::path(&path))?;
        Ok((Some(crate::doctor::limits::count_of_list(&text)), path))
    };
    let cpus = match found() {
        Ok((count, path)) => LimitValue::from(count, path),
        Err(missing) => LimitValue::without(Some(system.affinity), &missing),
    };
    LimitReading { cpus: Some(cpus), ..LimitReading::default() }
}
