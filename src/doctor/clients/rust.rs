//! Rust programs: `std::thread::available_parallelism`, and the crate num_cpus.

use std::path::{Path, PathBuf};

use super::go::cpus;
use crate::doctor::facts::{ROOT, point};
use crate::doctor::reading::{Files, LimitReading, LimitValue, Missing, Rounding, System, cpu_max, number};

type Quota = Result<(Option<(u64, u64)>, String), Missing>;

/// The standard library reads every cgroup from the process' own to the top.
pub(crate) fn std(system: &System, files: &dyn Files) -> LimitReading {
    let found = match (system.v1_path("cpu"), system.v2_path()) {
        (Some(path), _) => std_v1(system, files, path),
        (None, Some(path)) => std_v2(files, path),
        (None, None) => Err(Missing::because("/proc/self/cgroup has no line for cpu or cgroup2")),
    };
    let cpus = match found {
        Ok((count, path)) => LimitValue::from(Some(count.unwrap_or(u64::MAX).max(1).min(system.affinity)), path),
        Err(missing) => LimitValue::without(Some(system.affinity), &missing),
    };
    LimitReading { cpus: Some(cpus), ..LimitReading::default() }
}

type Count = Result<(Option<u64>, String), Missing>;

/// Takes the lower of two values.
fn tighten(least: &mut Option<u64>, at: &mut String, count: u64, path: String) {
    if least.is_none_or(|least| count < least) {
        *least = Some(count);
        *at = path;
    }
}

fn std_v2(files: &dyn Files, path: &str) -> Count {
    let mut own = PathBuf::from(ROOT);
    own.push(path.trim_start_matches('/'));
    let controllers = text(&own.join("cgroup.controllers"));
    if !files.exists(&controllers) {
        return Err(Missing::path(controllers));
    }
    let (mut least, mut at) = (None, text(&own.join("cpu.max")));
    while own.starts_with(ROOT) {
        let file = text(&own.join("cpu.max"));
        if let Some((quota, period)) = files.read(&file).and_then(|text| cpu_max(&text).flatten()) {
            tighten(&mut least, &mut at, quota / period, file);
        }
        own.pop();
    }
    Ok((least, at))
}

/// Finds the own cgroup by the usual directory names, or else by mountinfo, with the mount's root removed from the
/// path.
fn std_v1(system: &System, files: &dyn Files, path: &str) -> Count {
    let path = Path::new(path.trim_start_matches('/'));
    let by_line = || {
        system.v1_mounts("cpu").find_map(|mount| {
            let below = path.strip_prefix(Path::new(&mount.root).strip_prefix("/").ok()?).ok()?;
            Some((point(mount), below.to_owned()))
        })
    };
    let usual = ["cpu", "cpu,cpuacct"].map(|name| (format!("{ROOT}/{name}"), path.to_owned()));
    let [(first, _), _] = &usual;
    let first = text(&Path::new(first).join(path));
    let candidates = usual.into_iter().map(Some).chain(std::iter::once_with(by_line)).flatten();
    for (mount, below) in candidates {
        let mut own = Path::new(&mount).to_path_buf();
        own.extend(below.components());
        if !files.exists(&text(&own)) {
            continue;
        }
        let (mut least, mut at) = (None, text(&own.join("cpu.cfs_quota_us")));
        while own.starts_with(&mount) {
            let read = |name: &str| files.read(&text(&own.join(name))).and_then(|text| number(&text));
            let period = read("cpu.cfs_period_us").filter(|period| *period > 0);
            if let (Some(quota), Some(period)) = (read("cpu.cfs_quota_us"), period) {
                tighten(&mut least, &mut at, quota / period, text(&own.join("cpu.cfs_quota_us")));
            }
            own.pop();
        }
        return Ok((least, at));
    }
    Err(Missing::path(first))
}

/// num_cpus reads only the process' own cgroup. It finds it by mountinfo, and removes the mount's root from the path.
pub(crate) fn num_cpus(system: &System, files: &dyn Files) -> LimitReading {
    let found = || -> Quota {
        let v1 = system.v1_path("cpu");
        let path = v1.or_else(|| system.v2_path());
        let path = path.ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cpu or cgroup2"))?;
        let mount = if v1.is_some() { system.v1_mounts("cpu").next() } else { system.v2_mounts().next() };
        let what = if v1.is_some() { "'cgroup' with cpu" } else { "of type cgroup2" };
        let mount = mount.ok_or_else(|| Missing::because(format!("mountinfo has no line {what}")))?;
        let root = mount.root.to_string_lossy();
        let below = Path::new(path).strip_prefix(root.as_ref()).map_err(|_| {
            Missing::because(format!("the own cgroup {path} isn't below what is mounted on {} ({root})", point(mount)))
        })?;
        let mut own = PathBuf::from(point(mount));
        own.extend(below.components());
        if v1.is_some() { super::go::v1_quota(files, &text(&own)) } else { super::go::v2_quota(files, &text(&own)) }
    };
    LimitReading { cpus: Some(cpus(system, found(), Rounding::Up)), ..LimitReading::default() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
