//! Memory and swap.

use super::amount::{Amount, Unit, bytes_of_v1, number_or_max};
use super::cgroup::{Cgroup, HostFiles, Version, cgroups};
use super::row::{Limit, NO_CGROUP, Resource, Row, Source, State};
use crate::cgroup::Membership;

/// The limit of memory.
pub(crate) fn memory(host: &dyn HostFiles, memberships: &[Membership]) -> Row {
    match cgroups(host, memberships, "memory") {
        None => Row::unknown(Resource::Memory, Unit::Bytes, NO_CGROUP),
        Some((Version::V1, cgroups)) => of_v1(&cgroups, Resource::Memory, "memory"),
        Some((Version::V2, cgroups)) => of_v2(&cgroups),
    }
}

/// What there is besides: `memory.high` and `memory.swap.max`, or the limit of memory and swap together.
pub(crate) fn more(host: &dyn HostFiles, memberships: &[Membership], memory: &Row) -> Vec<Row> {
    match cgroups(host, memberships, "memory") {
        None => vec![Row::unknown(Resource::Swap, Unit::Bytes, NO_CGROUP)],
        Some((Version::V2, cgroups)) => vec![high_of(&cgroups), swap(&cgroups)],
        Some((Version::V1, cgroups)) => {
            let both = of_v1(&cgroups, Resource::MemoryAndSwap, "memory.memsw");
            let swap = beyond(memory, &both);
            vec![both, swap]
        }
    }
}

fn of_v2(cgroups: &[Cgroup<'_>]) -> Row {
    let events = [("max", "hit_limit"), ("oom", "oom"), ("oom_kill", "oom_kill")];
    let events = events.map(|(key, event)| ("memory.events", Some(key), event));
    Row::read(cgroups, &source_of_v2(Resource::Memory, "memory.max", "memory.current", &events))
}

/// The limit above which v2 throttles; `None` on v1.
pub(crate) fn high(host: &dyn HostFiles, memberships: &[Membership]) -> Option<Row> {
    let (version, cgroups) = cgroups(host, memberships, "memory")?;
    (version == Version::V2).then(|| high_of(&cgroups))
}

fn high_of(cgroups: &[Cgroup<'_>]) -> Row {
    let events = [("memory.events", Some("high"), "throttled")];
    Row::read(cgroups, &source_of_v2(Resource::MemoryHigh, "memory.high", "memory.current", &events))
}

fn swap(cgroups: &[Cgroup<'_>]) -> Row {
    let events = [("memory.swap.events", Some("max"), "hit_limit")];
    Row::read(cgroups, &source_of_v2(Resource::Swap, "memory.swap.max", "memory.swap.current", &events))
}

fn source_of_v2<'a>(
    resource: Resource,
    file: &'a str,
    used: &'a str,
    events: &'a [super::row::EventFile<'a>],
) -> Source<'a> {
    Source {
        resource,
        part: None,
        unit: Unit::Bytes,
        file,
        parse: &|_, text| number_or_max(text),
        used: Some(used),
        events,
        binding: usize::MAX,
    }
}

/// `memory.limit_in_bytes`, or `memory.memsw.limit_in_bytes`.
fn of_v1(cgroups: &[Cgroup<'_>], resource: Resource, prefix: &str) -> Row {
    let [file, used, failures] = ["limit_in_bytes", "usage_in_bytes", "failcnt"].map(|name| format!("{prefix}.{name}"));
    let kills = ("memory.oom_control", Some("oom_kill"), "oom_kill");
    let all = [(failures.as_str(), None, "hit_limit"), kills];
    let source = Source {
        resource,
        part: None,
        unit: Unit::Bytes,
        file: &file,
        parse: &|_, text| bytes_of_v1(text),
        used: Some(&used),
        // The kernel counts the processes that it kills once, whichever limit it was.
        events: if resource == Resource::Memory { &all } else { all.get(..1).unwrap_or_default() },
        binding: binding_of_v1(cgroups),
    };
    Row::read(cgroups, &source)
}

/// How many cgroups, from the own one on, have limits that apply to it. Before Linux 5.11 a cgroup's memory counts in the one
/// above only if that one has `memory.use_hierarchy`; later kernels show 1 everywhere.
fn binding_of_v1(cgroups: &[Cgroup<'_>]) -> usize {
    let counts = |cgroup: &&Cgroup<'_>| cgroup.number("memory.use_hierarchy", None) != Some(0);
    1 + cgroups.iter().skip(1).take_while(counts).count()
}

/// The swap that v1's limit of memory and swap leaves when memory is at its own limit.
fn beyond(memory: &Row, both: &Row) -> Row {
    let difference = |both: Option<&Amount>, memory: Option<&Amount>| {
        let (both, memory) = (both?.number()?, memory.map_or(Some(0), Amount::number)?);
        Some(both.saturating_sub(memory))
    };
    let limit = both.effective.as_ref();
    let value = difference(limit.map(|limit| &limit.value), memory.effective.as_ref().map(|limit| &limit.value));
    let effective = limit.zip(value).map(|(limit, value)| Limit { value: Amount::Number(value), by: limit.by.clone() });
    let is_absent = !both.levels.is_empty() && both.levels.iter().all(|level| level.state == State::Absent);
    let mut notes = Vec::new();
    if is_absent {
        notes.push(
            "memory.memsw.limit_in_bytes doesn't exist, so swap isn't limited (the kernel's swapaccount=0)".to_owned(),
        );
    } else if effective.is_some() {
        notes.push(
            "what memory and swap together (memory.memsw.limit_in_bytes) leave when memory is at its limit; less memory, \
             more swap"
                .to_owned(),
        );
    }
    Row {
        own: difference(both.own.as_ref(), memory.own.as_ref()).map(Amount::Number),
        effective,
        used: both.used.zip(memory.used).map(|(both, memory)| both.saturating_sub(memory)),
        notes,
        ..Row::unknown(Resource::Swap, Unit::Bytes, String::new())
    }
}
