//! Go programs: the runtime since 1.25, and automaxprocs.

use std::path::Path;

use crate::doctor::facts::{ROOT, point};
use crate::doctor::reading::{Files, LimitReading, LimitValue, Missing, Rounding, System, cpu_max, number};

/// `runtime.defaultGOMAXPROCS`: the leaf's quota. It joins the mount point and the path, and ignores the mount's
/// root.
pub(crate) fn runtime(system: &System, files: &dyn Files) -> LimitReading {
    let found = || -> Result<(Option<(u64, u64)>, String), Missing> {
        let mount = system.v1_mounts("cpu").next().or_else(|| system.v2_mounts().next_back());
        let mount =
            mount.ok_or_else(|| Missing::because("mountinfo has no line 'cgroup' with cpu, and none of cgroup2"))?;
        let v1 = system.v1_path("cpu");
        let path = v1.or_else(|| system.v2_path());
        let path = path.ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cpu or cgroup2"))?;
        let own = format!("{}{}", point(mount), path.trim_end_matches('/'));
        if v1.is_some() { v1_quota(files, &own) } else { v2_quota(files, &own) }
    };
    LimitReading { cpus: Some(cpus(system, found(), Rounding::UpFromTwo)), ..LimitReading::default() }
}

/// `cgroups.CPUQuota`: it removes the mount's root from the path. It doesn't compare the quota with the number of
/// CPUs.
pub(crate) fn automaxprocs(system: &System, files: &dyn Files) -> LimitReading {
    let v2 = system.v2_mounts().any(|mount| point(mount) == ROOT).then(|| system.v2_path()).flatten();
    let found = || -> Result<(Option<(u64, u64)>, String), Missing> {
        if let Some(path) = v2 {
            return v2_quota(files, &format!("{ROOT}{}", path.trim_end_matches('/')));
        }
        let mount = system.v1_mounts("cpu").next_back();
        let mount = mount.ok_or_else(|| Missing::because("mountinfo has no line 'cgroup' with cpu"))?;
        let path = system.v1_path("cpu");
        let path = path.ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cpu"))?;
        let root = mount.root.to_string_lossy();
        let below = Path::new(path).strip_prefix(root.as_ref()).map_err(|_| {
            Missing::because(format!("the own cgroup {path} isn't below what is mounted on {} ({root})", point(mount)))
        })?;
        let own = Path::new(&point(mount)).join(below).to_string_lossy().into_owned();
        v1_quota(files, own.trim_end_matches('/'))
    };
    let cpus = match found() {
        Ok((Some((quota, period)), path)) => LimitValue::from(Some(Rounding::Down.apply(quota, period)), path),
        Ok((None, path)) => LimitValue::from(Some(system.affinity), path),
        Err(missing) => LimitValue::without(Some(system.affinity), &missing),
    };
    LimitReading { cpus: Some(cpus), ..LimitReading::default() }
}

pub(super) fn v1_quota(files: &dyn Files, own: &str) -> Result<(Option<(u64, u64)>, String), Missing> {
    let path = format!("{own}/cpu.cfs_quota_us");
    let read = |path: &str| files.read(path).ok_or_else(|| Missing::path(path));
    let quota = number(&read(&path)?).filter(|quota| *quota > 0);
    let period = number(&read(&format!("{own}/cpu.cfs_period_us"))?).filter(|period| *period > 0);
    Ok((quota.zip(period), path))
}

pub(super) fn v2_quota(files: &dyn Files, own: &str) -> Result<(Option<(u64, u64)>, String), Missing> {
    let path = format!("{own}/cpu.max");
    let text = files.read(&path).ok_or_else(|| Missing::path(&path))?;
    Ok((cpu_max(&text).flatten(), path))
}

/// Converts a quota to a number of CPUs, which is at most what sched_getaffinity gives.
pub(super) fn cpus(
    system: &System,
    found: Result<(Option<(u64, u64)>, String), Missing>,
    rounding: Rounding,
) -> LimitValue {
    match found {
        Ok((quota, path)) => {
            let count = quota.map_or(u64::MAX, |(quota, period)| rounding.apply(quota, period));
            LimitValue::from(Some(count.min(system.affinity)), path)
        }
        Err(missing) => LimitValue::without(Some(system.affinity), &missing),
    }
}
