//! hotspot, as it is in 8u372, 11.0.16, 17 and 21: `CgroupSubsystemFactory::determine_type`, `CgroupV1Controller::set_subsystem_path`.

use crate::cgroup::MountEntry;
use crate::doctor::facts::{ROOT, point};
use crate::doctor::reading::{Files, Missing, Reading, Rounding, System, Taken, cpu_max, field, number};

/// All of them have to be enabled, and on v1 mounted.
const REQUIRED: [&str; 4] = ["memory", "cpu", "cpuacct", "cpuset"];

pub(crate) fn hotspot(system: &System, files: &dyn Files) -> Reading {
    match find(system) {
        Ok(Tree::V2(own)) => v2(system, files, &own),
        Ok(Tree::V1(mounts)) => v1(system, files, &mounts),
        Err(missing) => Reading {
            cpus: Some(Taken::without(Some(system.affinity), &missing)),
            memory: Some(Taken::without(None, &missing)),
            pids: None,
        },
    }
}

enum Tree<'a> {
    V2(String),
    /// The mount of each controller that has one.
    V1([(&'static str, Option<&'a MountEntry>); 5]),
}

fn find(system: &System) -> Result<Tree<'_>, Missing> {
    let mut is_v2 = true;
    for word in REQUIRED {
        match system.controller(word) {
            Some((hierarchy, true)) => is_v2 &= hierarchy == 0,
            _ => return Err(Missing::because(format!("/proc/cgroups doesn't have {word} enabled"))),
        }
    }
    if is_v2 {
        let mount = chosen(system.v2_mounts());
        let mount = mount.ok_or_else(|| Missing::because("mountinfo has no line of type cgroup2"))?;
        let path = system.v2_path().ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cgroup2"))?;
        // The mount's root isn't taken off the path (`CgroupV2Controller::construct_path`).
        return Ok(Tree::V2(join(&point(mount), path)));
    }
    let all = ["memory", "cpu", "cpuacct", "cpuset", "pids"];
    let mounts = all.map(|word| (word, chosen(system.v1_mounts(word))));
    match mounts.iter().find(|(word, mount)| mount.is_none() && REQUIRED.contains(word)) {
        Some((word, _)) => Err(Missing::because(format!("mountinfo has no line 'cgroup' with {word}"))),
        None => Ok(Tree::V1(mounts)),
    }
}

/// The first line, unless it's one outside /sys/fs/cgroup: then the next one counts.
fn chosen<'a>(lines: impl Iterator<Item = &'a MountEntry>) -> Option<&'a MountEntry> {
    lines.fold(
        None,
        |chosen: Option<&MountEntry>, line| {
            if chosen.is_some_and(|chosen| point(chosen).starts_with(ROOT)) { chosen } else { Some(line) }
        },
    )
}

fn join(base: &str, path: &str) -> String {
    if path == "/" { base.to_owned() } else { format!("{base}{path}") }
}

/// What is mounted has to be the hierarchy's root or the own cgroup: the branch for what is below the mount's root compares pointers, and is
/// never taken.
fn v1_directory(system: &System, mount: Option<&MountEntry>, word: &str) -> Result<String, Missing> {
    let mount = mount.ok_or_else(|| Missing::because(format!("mountinfo has no line 'cgroup' with {word}")))?;
    let path = system.v1_path(word);
    let path = path.ok_or_else(|| Missing::because(format!("/proc/self/cgroup has no line for {word}")))?;
    match mount.root.to_string_lossy().as_ref() {
        "/" => Ok(join(&point(mount), path)),
        root if root == path => Ok(point(mount)),
        root => {
            let what = format!("the own cgroup {path} isn't what is mounted on {} ({root})", point(mount));
            Err(Missing::because(what))
        }
    }
}

fn v1(system: &System, files: &dyn Files, mounts: &[(&'static str, Option<&MountEntry>); 5]) -> Reading {
    let directory = |word: &str| {
        let mount = mounts.iter().find(|(name, _)| *name == word).and_then(|(_, mount)| *mount);
        v1_directory(system, mount, word)
    };
    let read = |word: &str, file: &str| {
        let path = format!("{}/{file}", directory(word)?);
        files.read(&path).map(|text| (text, path.clone())).ok_or_else(|| Missing::path(path))
    };
    let quota = || -> Result<(Option<u64>, String), Missing> {
        let (quota, path) = read("cpu", "cpu.cfs_quota_us")?;
        let (period, _) = read("cpu", "cpu.cfs_period_us")?;
        let period = number(&period).filter(|period| *period > 0);
        let quota = number(&quota).zip(period).filter(|(quota, _)| *quota > 0);
        Ok((quota.map(|(quota, period)| Rounding::Up.apply(quota, period)), path))
    };
    let limit = || -> Result<(Option<u64>, String), Missing> {
        let (limit, path) = read("memory", "memory.limit_in_bytes")?;
        let is_limit = |limit: &u64| *limit < system.memory;
        if let Some(limit) = number(&limit).filter(is_limit) {
            return Ok((Some(limit), path));
        }
        let is_hierarchical = read("memory", "memory.use_hierarchy").is_ok_and(|(text, _)| number(&text) == Some(1));
        let stat = is_hierarchical.then(|| read("memory", "memory.stat")).transpose()?;
        let of_all = stat.and_then(|(text, path)| Some((field(&text, "hierarchical_memory_limit")?, path)));
        match of_all.filter(|(limit, _)| is_limit(limit)) {
            Some((limit, path)) => Ok((Some(limit), path)),
            None => Ok((None, path)),
        }
    };
    let pids = || read("pids", "pids.max").map(|(text, path)| (number(&text), path));
    Reading {
        cpus: Some(cpus(system, quota())),
        memory: Some(taken(limit())),
        pids: mounts.iter().any(|(word, mount)| *word == "pids" && mount.is_some()).then(|| taken(pids())),
    }
}

fn v2(system: &System, files: &dyn Files, own: &str) -> Reading {
    let read = |file: &str| {
        let path = format!("{own}/{file}");
        files.read(&path).map(|text| (text, path.clone())).ok_or_else(|| Missing::path(path))
    };
    let quota = read("cpu.max").map(|(text, path)| {
        let quota = cpu_max(&text).flatten();
        (quota.map(|(quota, period)| Rounding::Up.apply(quota, period)), path)
    });
    let limit = read("memory.max").map(|(text, path)| (number(&text).filter(|limit| *limit < system.memory), path));
    let pids = read("pids.max").map(|(text, path)| (number(&text), path));
    Reading { cpus: Some(cpus(system, quota)), memory: Some(taken(limit)), pids: Some(taken(pids)) }
}

/// Never more than sched_getaffinity gives.
fn cpus(system: &System, quota: Result<(Option<u64>, String), Missing>) -> Taken {
    match quota {
        Ok((quota, path)) => Taken::from(Some(quota.unwrap_or(u64::MAX).min(system.affinity)), path),
        Err(missing) => Taken::without(Some(system.affinity), &missing),
    }
}

fn taken(found: Result<(Option<u64>, String), Missing>) -> Taken {
    match found {
        Ok((value, path)) => Taken::from(value, path),
        Err(missing) => Taken::without(None, &missing),
    }
}
