//! Node.js: libuv's `uv_get_constrained_memory` and `uv_available_parallelism`.

use crate::doctor::facts::ROOT;
use crate::doctor::reading::{Files, LimitReading, LimitValue, Missing, System, cpu_max, number};

/// The number that the kernel shows on v1 without a limit: `LONG_MAX` rounded down to pages.
const NO_LIMIT: u64 = i64::MAX as u64 & !0xfff;

/// 1.44: one file at the top of v1's memory hierarchy. It ignores `/proc/self/cgroup`.
pub(crate) fn version_1_44(system: &System, files: &dyn Files) -> LimitReading {
    let path = format!("{ROOT}/memory/memory.limit_in_bytes");
    let memory = match files.read(&path) {
        Some(text) => LimitValue::from(number(&text).and_then(|limit| below(system, limit)), path),
        None => LimitValue::without(None, &Missing::path(path)),
    };
    LimitReading { memory: Some(memory), ..affinity(system) }
}

/// 1.46: the process' own cgroup, in the usual directories. v2 only if `/proc/self/cgroup` begins with its line.
pub(crate) fn version_1_46(system: &System, files: &dyn Files) -> LimitReading {
    let memory = match v2_path(system) {
        Some(path) => v2_memory(system, files, path),
        None => v1_memory(system, files),
    };
    LimitReading { memory: Some(memory), ..affinity(system) }
}

/// 1.50: also a CPU quota, on v2 the one nearest to the root. On v1 it builds a wrong path, and finds none.
pub(crate) fn version_1_50(system: &System, files: &dyn Files) -> LimitReading {
    let found = v2_path(system).and_then(|path| v2_cpus(files, path));
    let cpus = match found {
        Some((quota, path)) => LimitValue::from(Some(quota.unwrap_or(u64::MAX).min(system.affinity)), path),
        None => LimitValue::from(Some(system.affinity), "sched_getaffinity"),
    };
    LimitReading { cpus: Some(cpus), ..version_1_46(system, files) }
}

fn affinity(system: &System) -> LimitReading {
    LimitReading { cpus: Some(LimitValue::from(Some(system.affinity), "sched_getaffinity")), ..LimitReading::default() }
}

fn v2_path(system: &System) -> Option<&str> {
    system.cgroup.strip_prefix("0::/").and_then(|rest| rest.lines().next().or(Some("")))
}

/// A limit that is at least the machine's memory counts as no limit.
fn below(system: &System, limit: u64) -> Option<u64> {
    (limit > 0 && limit < system.memory).then_some(limit)
}

fn v2_memory(system: &System, files: &dyn Files, path: &str) -> LimitValue {
    let read = |file: &str| {
        let path = format!("{ROOT}/{path}/{file}").replace("//", "/");
        let text = files.read(&path);
        (path, text.map(|text| if text == "max\n" { u64::MAX } else { number(&text).unwrap_or(0) }))
    };
    let ((path, max), (high_path, high)) = (read("memory.max"), read("memory.high"));
    match (max, high) {
        (None, _) => LimitValue::without(None, &Missing::path(path)),
        (_, None) => LimitValue::without(None, &Missing::path(high_path)),
        (Some(max), Some(high)) if max == 0 || high == 0 => LimitValue::from(None, path),
        (Some(max), Some(high)) if high < max => LimitValue::from(below(system, high), high_path),
        (Some(max), _) => LimitValue::from(below(system, max), path),
    }
}

fn v1_memory(system: &System, files: &dyn Files) -> LimitValue {
    let read = |directory: &str| {
        let path = |file: &str| format!("{directory}/{file}");
        let value = |file: &str| {
            let value = files.read(&path(file)).and_then(|text| number(&text)).filter(|value| *value > 0)?;
            Some(if value == NO_LIMIT { u64::MAX } else { value })
        };
        let (high, max) = (value("memory.soft_limit_in_bytes")?, value("memory.limit_in_bytes")?);
        let file = if high < max { "memory.soft_limit_in_bytes" } else { "memory.limit_in_bytes" };
        Some(LimitValue::from(below(system, high.min(max)), path(file)))
    };
    // Only a line with memory alone counts.
    let mut own = system.memberships().filter(|(_, list, _)| *list == "memory");
    let own = own.next().map(|(_, _, path)| format!("{ROOT}/memory{}", path.trim_end_matches('/')));
    let of_all = format!("{ROOT}/memory");
    let found = own.as_deref().and_then(read).or_else(|| read(&of_all));
    let describe_missing = || format!("{}/memory.limit_in_bytes", own.as_deref().unwrap_or(&of_all));
    found.unwrap_or_else(|| LimitValue::without(None, &Missing::path(describe_missing())))
}

/// Returns the last quota on the path to the root, in whole CPUs.
fn v2_cpus(files: &dyn Files, path: &str) -> Option<(Option<u64>, String)> {
    let mut own = format!("{ROOT}/{path}").trim_end_matches('/').to_owned();
    files.read(&format!("{own}/cgroup.controllers"))?;
    let mut found = (None, format!("{own}/cpu.max"));
    while own.starts_with(ROOT) {
        let file = format!("{own}/cpu.max");
        if let Some((quota, period)) = files.read(&file).and_then(|text| cpu_max(&text).flatten()) {
            found = (Some((quota / period).max(1)), file);
        }
        let Some((above, _)) = own.rsplit_once('/').filter(|_| own != ROOT) else { break };
        own = above.to_owned();
    }
    Some(found)
}
