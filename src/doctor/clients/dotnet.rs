//! .NET: `cgroup.cpp` of coreclr's pal (CPUs) and gc (memory).

use super::go::{cpus, v1_quota, v2_quota};
use crate::cgroup::MountEntry;
use crate::doctor::facts::{ROOT, point};
use crate::doctor::reading::{Files, LimitReading, LimitValue, Missing, Rounding, System, field, number};

/// A limit above this counts as no limit.
const NO_LIMIT: u64 = 0x7fff_ffff_0000_0000;

/// .NET up to 8: only the limit of the process' own cgroup.
pub(crate) fn version_8(system: &System, files: &dyn Files) -> LimitReading {
    coreclr(system, files, |files, is_v2, _, own| {
        let path =
            format!("{}/{}", own.trim_end_matches('/'), if is_v2 { "memory.max" } else { "memory.limit_in_bytes" });
        files.read(&path).map(|text| (number(&text), path.clone())).ok_or_else(|| Missing::path(path))
    })
}

/// .NET 9 and later: the tightest limit of the process' own cgroup and its ancestors.
pub(crate) fn version_9(system: &System, files: &dyn Files) -> LimitReading {
    coreclr(
        system,
        files,
        |files, is_v2, mount, own| {
            if is_v2 { v2_memory(files, mount, own) } else { v1_memory(files, own) }
        },
    )
}

fn coreclr(system: &System, files: &dyn Files, limit: impl Fn(&dyn Files, bool, &str, &str) -> Limit) -> LimitReading {
    if !files.exists(ROOT) {
        let missing = Missing::path(ROOT);
        return LimitReading {
            cpus: Some(LimitValue::without(Some(system.affinity), &missing)),
            memory: Some(LimitValue::without(None, &missing)),
            pids: None,
        };
    }
    let is_v2 = files.is_cgroup2(ROOT);
    let quota = own(system, is_v2, "cpu").and_then(|(_, own)| {
        let own = own.trim_end_matches('/');
        if is_v2 { v2_quota(files, own) } else { v1_quota(files, own) }
    });
    let memory = own(system, is_v2, "memory").and_then(|(mount, own)| limit(files, is_v2, &mount, &own));
    let memory = match memory {
        Ok((limit, path)) => {
            let limit = limit.filter(|limit| *limit <= NO_LIMIT && *limit < system.memory);
            LimitValue::from(limit, path)
        }
        Err(missing) => LimitValue::without(None, &missing),
    };
    LimitReading { cpus: Some(cpus(system, quota, Rounding::Up)), memory: Some(memory), pids: None }
}

/// Finds the mount point and the own cgroup's directory: it takes the last matching line, and removes the mount's
/// root from the path if the path begins with the same letters.
fn own(system: &System, is_v2: bool, word: &str) -> Result<(String, String), Missing> {
    let fits = |mount: &&MountEntry| {
        let has = || mount.super_options.split(',').any(|option| option == word);
        mount.fstype.starts_with("cgroup") && (is_v2 || has())
    };
    let mount = system.mounts.iter().rfind(fits).ok_or_else(|| {
        let what = if is_v2 { "of type cgroup2".to_owned() } else { format!("'cgroup' with {word}") };
        Missing::because(format!("mountinfo has no line {what}"))
    })?;
    let path = if is_v2 { system.v2_path() } else { system.v1_path(word) };
    let path = path.ok_or_else(|| Missing::because(format!("/proc/self/cgroup has no line for {word}")))?;
    let root = mount.root.to_string_lossy();
    let below = if root.len() == 1 { path } else { path.strip_prefix(root.as_ref()).unwrap_or(path) };
    Ok((point(mount), format!("{}{below}", point(mount))))
}

type Limit = Result<(Option<u64>, String), Missing>;

fn v1_memory(files: &dyn Files, own: &str) -> Limit {
    let path = |file: &str| format!("{}/{file}", own.trim_end_matches('/'));
    let read = |path: String| files.read(&path).map(|text| (text, path.clone())).ok_or_else(|| Missing::path(path));
    let is_hierarchical = files.read(&path("memory.use_hierarchy")).is_some_and(|text| number(&text).unwrap_or(0) != 0);
    if is_hierarchical {
        return read(path("memory.stat")).map(|(text, path)| (field(&text, "hierarchical_memory_limit"), path));
    }
    read(path("memory.limit_in_bytes")).map(|(text, path)| (number(&text), path))
}

/// Returns the lowest limit up to the mount point, which itself isn't read.
fn v2_memory(files: &dyn Files, mount: &str, own: &str) -> Limit {
    let (mut least, mut found): (Option<u64>, Option<String>) = (None, None);
    let mut directory = own.to_owned();
    loop {
        let path = format!("{directory}/memory.max").replace("//", "/");
        if let Some(text) = files.read(&path) {
            let limit = number(&text);
            if found.is_none() || limit.is_some_and(|limit| least.is_none_or(|least| limit < least)) {
                found = Some(path);
                least = limit.or(least);
            }
        }
        match directory.rsplit_once('/') {
            Some((above, _)) if above.len() > mount.len() => directory = above.to_owned(),
            _ => break,
        }
    }
    found.map(|path| (least, path)).ok_or_else(|| Missing::path(format!("{own}/memory.max").replace("//", "/")))
}
