//! hotspot: `CgroupSubsystemFactory::determine_type`, `CgroupV1Controller::set_subsystem_path`, `CgroupUtil::adjust_controller`.

use crate::cgroup::MountEntry;
use crate::doctor::facts::{ROOT, point};
use crate::doctor::reading::{Files, LimitReading, LimitValue, Missing, Rounding, System, cpu_max, field, number};

/// All of these controllers must be enabled, and on v1 mounted.
const REQUIRED: [&str; 4] = ["memory", "cpu", "cpuacct", "cpuset"];

/// Hotspot 8u372, 11.0.16, 17 and 21: it reads only the process' own cgroup, and on v1 the ancestors' limit in its
/// `memory.stat`.
pub(crate) fn hotspot(system: &System, files: &dyn Files) -> LimitReading {
    match find(system) {
        Ok(Tree::V2(own)) => v2(system, files, &own),
        Ok(Tree::V1(mounts)) => v1(system, files, &mounts),
        Err(missing) => LimitReading {
            cpus: Some(LimitValue::without(Some(system.affinity), &missing)),
            memory: Some(LimitValue::without(None, &missing)),
            pids: None,
        },
    }
}

enum Tree<'a> {
    V2(String),
    /// The mount of each controller that is mounted.
    V1([(&'static str, Option<&'a MountEntry>); 5]),
}

/// Returns the numbers of the required controllers' hierarchies.
fn hierarchies(system: &System) -> Result<Vec<u32>, Missing> {
    let number = |word: &&str| match system.controller(word) {
        Some((hierarchy, true)) => Ok(hierarchy),
        _ => Err(Missing::because(format!("/proc/cgroups doesn't have {word} enabled"))),
    };
    REQUIRED.iter().map(number).collect()
}

fn find(system: &System) -> Result<Tree<'_>, Missing> {
    if hierarchies(system)?.iter().all(|hierarchy| *hierarchy == 0) {
        let mount = chosen(system.v2_mounts());
        let mount = mount.ok_or_else(|| Missing::because("mountinfo has no line of type cgroup2"))?;
        let path = system.v2_path().ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cgroup2"))?;
        // Hotspot doesn't remove the mount's root from the path (`CgroupV2Controller::construct_path`).
        return Ok(Tree::V2(join(&point(mount), path)));
    }
    v1_tree(system)
}

fn v1_tree(system: &System) -> Result<Tree<'_>, Missing> {
    let all = ["memory", "cpu", "cpuacct", "cpuset", "pids"];
    let mounts = all.map(|word| (word, chosen(system.v1_mounts(word))));
    match mounts.iter().find(|(word, mount)| mount.is_none() && REQUIRED.contains(word)) {
        Some((word, _)) => Err(Missing::because(format!("mountinfo has no line 'cgroup' with {word}"))),
        None => Ok(Tree::V1(mounts)),
    }
}

/// Chooses the first line, unless it's outside /sys/fs/cgroup: then the next one.
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

/// The mount's root must be the hierarchy's root or the process' own cgroup. The branch for cgroups below the mount's
/// root compares pointers, and is never taken.
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

fn v1(system: &System, files: &dyn Files, mounts: &[(&'static str, Option<&MountEntry>); 5]) -> LimitReading {
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
    LimitReading {
        cpus: Some(cpus(system, quota())),
        memory: Some(taken(limit())),
        pids: mounts.iter().any(|(word, mount)| *word == "pids" && mount.is_some()).then(|| taken(pids())),
    }
}

fn v2(system: &System, files: &dyn Files, own: &str) -> LimitReading {
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
    LimitReading { cpus: Some(cpus(system, quota)), memory: Some(taken(limit)), pids: Some(taken(pids)) }
}

/// Never returns more than sched_getaffinity gives.
fn cpus(system: &System, quota: Result<(Option<u64>, String), Missing>) -> LimitValue {
    match quota {
        Ok((quota, path)) => LimitValue::from(Some(quota.unwrap_or(u64::MAX).min(system.affinity)), path),
        Err(missing) => LimitValue::without(Some(system.affinity), &missing),
    }
}

fn taken(found: Result<(Option<u64>, String), Missing>) -> LimitValue {
    match found {
        Ok((value, path)) => LimitValue::from(value, path),
        Err(missing) => LimitValue::without(None, &missing),
    }
}

/// Hotspot 25: it recognises v2 by statfs and `cgroup.controllers`, and takes the tightest limit between the own
/// cgroup and the mount point.
pub(crate) fn hotspot_25(system: &System, files: &dyn Files) -> LimitReading {
    let v1 = || hierarchies(system).and_then(|_| v1_tree(system));
    let found = if files.is_cgroup2(ROOT) { find_v2_25(system, files) } else { v1() };
    let reading =
        |cpu: &dyn Fn(&str) -> Option<String>, memory: &dyn Fn(&str) -> Option<String>, path: [&str; 2]| LimitReading {
            cpus: Some(walked(path[0], cpu, |own| quota_at(files, own), Some(system.affinity))),
            memory: Some(walked(path[1], memory, |own| limit_at(system, files, own), None)),
            pids: None,
        };
    match found {
        Ok(Tree::V2(mount)) => {
            let path = system.v2_path().unwrap_or("/");
            let at = |path: &str| Some(join(&mount, path));
            reading(&at, &at, [path, path])
        }
        Ok(Tree::V1(mounts)) => {
            let mount = |word: &str| mounts.iter().find(|(name, _)| *name == word).and_then(|(_, mount)| *mount);
            let at = |word: &'static str| move |path: &str| suffix_at(mount(word)?, files, path);
            let path = |word: &str| system.v1_path(word).unwrap_or("/");
            reading(&at("cpu"), &at("memory"), [path("cpu"), path("memory")])
        }
        Err(missing) => LimitReading {
            cpus: Some(LimitValue::without(Some(system.affinity), &missing)),
            memory: Some(LimitValue::without(None, &missing)),
            pids: None,
        },
    }
}

/// Uses the mount point alone.
fn find_v2_25<'a>(system: &'a System, files: &dyn Files) -> Result<Tree<'a>, Missing> {
    let file = format!("{ROOT}/cgroup.controllers");
    let text = files.read(&file).ok_or_else(|| Missing::path(&file))?;
    let has = |word: &&&str| !text.split_ascii_whitespace().any(|controller| controller == **word);
    if let Some(word) = ["cpu", "memory"].iter().find(has) {
        return Err(Missing::because(format!("{file} doesn't have {word}")));
    }
    let mount = chosen(system.v2_mounts()).ok_or_else(|| Missing::because("mountinfo has no line of type cgroup2"))?;
    system.v2_path().ok_or_else(|| Missing::because("/proc/self/cgroup has no line for cgroup2"))?;
    Ok(Tree::V2(point(mount)))
}

/// Finds a cgroup's directory on v1: below the hierarchy's root, or by the longest suffix of the path that exists.
fn suffix_at(mount: &MountEntry, files: &dyn Files, path: &str) -> Option<String> {
    let at = point(mount);
    if mount.root == "/" {
        return Some(join(&at, path));
    }
    if mount.root == *path || path == "/" {
        return Some(at);
    }
    let ends = path.match_indices('/').filter_map(|(start, _)| path.get(start..));
    Some(ends.map(|end| format!("{at}{end}")).find(|directory| files.exists(directory)).unwrap_or(at))
}

/// Returns the lowest value up to the mount point. `none` is the value without a limit, and the upper bound.
fn walked(
    path: &str,
    directory: &dyn Fn(&str) -> Option<String>,
    read: impl Fn(&str) -> Option<(Option<u64>, String)>,
    none: Option<u64>,
) -> LimitValue {
    let (mut least, mut from): (Option<u64>, Option<String>) = (None, None);
    let mut path = if path.contains("../") { "/" } else { path };
    let first = directory(path);
    loop {
        if let Some((value, file)) = directory(path).and_then(|own| read(&own)) {
            let is_less = value.is_some_and(|value| least.is_none_or(|least| value < least));
            if is_less || from.is_none() {
                from = Some(file);
            }
            least = if is_less { value } else { least };
        }
        if path == "/" {
            break;
        }
        path = path.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
    }
    let value = match (least, none) {
        (Some(least), Some(none)) => Some(least.min(none)),
        (least, none) => least.or(none),
    };
    match from {
        Some(from) => LimitValue::from(value, from),
        None => LimitValue::without(value, &Missing::path(first.unwrap_or_default())),
    }
}

fn quota_at(files: &dyn Files, own: &str) -> Option<(Option<u64>, String)> {
    let v2 = format!("{own}/cpu.max");
    if let Some(text) = files.read(&v2) {
        return Some((cpu_max(&text)?.map(|(quota, period)| Rounding::Up.apply(quota, period)), v2));
    }
    let (quota, period) = (format!("{own}/cpu.cfs_quota_us"), format!("{own}/cpu.cfs_period_us"));
    let period = files.read(&period).and_then(|text| number(&text)).filter(|period| *period > 0)?;
    let count = number(&files.read(&quota)?).filter(|quota| *quota > 0);
    Some((count.map(|quota| Rounding::Up.apply(quota, period)), quota))
}

fn limit_at(system: &System, files: &dyn Files, own: &str) -> Option<(Option<u64>, String)> {
    let found = ["memory.max", "memory.limit_in_bytes"].map(|file| format!("{own}/{file}"));
    let (text, path) = found.into_iter().find_map(|path| Some((files.read(&path)?, path)))?;
    Some((number(&text).filter(|limit| *limit < system.memory), path))
}
