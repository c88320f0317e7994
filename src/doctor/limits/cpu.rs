//! CPU time, and the CPUs on which a process may run.

use super::amount::{Amount, Unit, quota, quota_of_v1};
use super::cgroup::{Cgroup, Content, HostFiles, Version, cgroups};
use super::cpu_list::{count_in_both, count_of_list, is_list, is_same};
use super::row::{Level, Limit, NO_CGROUP, Resource, Row, Source};
use crate::cgroup::Membership;

/// The quota of CPU time.
pub(crate) fn time(host: &dyn HostFiles, memberships: &[Membership]) -> Row {
    let Some((version, cgroups)) = cgroups(host, memberships, "cpu") else {
        return Row::unknown(Resource::CpuTime, Unit::CpuTime, NO_CGROUP);
    };
    let of_v1 = |cgroup: &Cgroup<'_>, text: &str| {
        let period = cgroup.content("cpu.cfs_period_us");
        quota_of_v1(text, period.text())
    };
    let throttled = ("cpu.stat", Some("nr_throttled"), "throttled");
    let (file, parse, duration): (_, &dyn Fn(&Cgroup<'_>, &str) -> _, _) = match version {
        Version::V1 => ("cpu.cfs_quota_us", &of_v1, ("cpu.stat", Some("throttled_time"), "throttled_us")),
        Version::V2 => ("cpu.max", &|_, text| quota(text), ("cpu.stat", Some("throttled_usec"), "throttled_us")),
    };
    let source = Source {
        resource: Resource::CpuTime,
        part: None,
        unit: Unit::CpuTime,
        file,
        parse,
        used: None,
        events: &[throttled, duration],
        binding: usize::MAX,
    };
    let mut row = Row::read(&cgroups, &source);
    if version == Version::V1 {
        // v1 has nanoseconds.
        let all = row.events.iter_mut().chain(row.levels.iter_mut().flat_map(|level| &mut level.events));
        all.filter(|event| event.event == "throttled_us").for_each(|event| event.count /= 1000);
    }
    row.used = used(host, memberships);
    row
}

/// The CPU time that the process' own cgroup has used, in microseconds.
fn used(host: &dyn HostFiles, memberships: &[Membership]) -> Option<u64> {
    let (version, cgroups) = cgroups(host, memberships, "cpuacct")?;
    let own = cgroups.first()?;
    match version {
        Version::V1 => Some(own.number("cpuacct.usage", None)? / 1000),
        Version::V2 => own.number("cpu.stat", Some("usage_usec")),
    }
}

/// The CPUs of the machine that are online, and those on which the process may run, as lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors<'a> {
    pub(crate) online: &'a str,
    pub(crate) affinity: &'a str,
}

/// The CPUs.
pub(crate) fn cpus(host: &dyn HostFiles, memberships: &[Membership], machine: &Processors<'_>) -> Row {
    let found = cgroups(host, memberships, "cpuset");
    let (mut row, set) = match &found {
        None => (Row::unknown(Resource::Cpus, Unit::Cpus, NO_CGROUP), None),
        Some((version, cgroups)) => of_sets(*version, cgroups, machine),
    };
    // The kernel keeps what a process may use within its cpuset.
    let allowed = count_in_both(machine.affinity, machine.online);
    let of_set = set.as_deref().map_or(u64::MAX, |list| count_in_both(list, machine.online));
    if allowed > 0 && allowed < of_set.min(count_of_list(machine.online)) {
        let value = Amount::Cpus { list: machine.affinity.trim().to_owned(), count: allowed };
        row.effective = Some(Limit { value, by: AFFINITY.to_owned() });
    }
    row
}

/// The name of the limit that a process sets for itself.
const AFFINITY: &str = "sched_setaffinity";

/// The row of a hierarchy with cpusets, and the effective list.
fn of_sets(version: Version, cgroups: &[Cgroup<'_>], machine: &Processors<'_>) -> (Row, Option<String>) {
    let files: &[&str] = match version {
        // Since Linux 4.2, cpuset.cpus has what was asked for, and the other file what is left of it.
        Version::V1 => &["cpuset.effective_cpus", "cpuset.cpus"],
        Version::V2 => &["cpuset.cpus.effective"],
    };
    let has = |file: &&str| cgroups.first().is_some_and(|own| own.content(file) != Content::Absent);
    let file = files.iter().copied().find(has).or(files.first().copied()).unwrap_or_default();
    let list = |text: &str| {
        let text = text.trim();
        let set = Amount::Cpus { list: text.to_owned(), count: count_of_list(text) };
        is_list(text).then_some((!text.is_empty()).then_some(set))
    };
    let source = Source {
        resource: Resource::Cpus,
        part: None,
        unit: Unit::Cpus,
        file,
        parse: &|_, text| list(text),
        used: None,
        events: &[],
        binding: usize::MAX,
    };
    let mut row = Row::read(cgroups, &source);
    let set = |level: &Level| match &level.limit {
        Some(Amount::Cpus { list, .. }) => Some((list.clone(), level.name())),
        _ => None,
    };
    let sets: Vec<(String, String)> = row.levels.iter().filter_map(set).collect();
    // The process has the set of its nearest cgroup with the file; the highest one with the same set has brought that
    // about. A set of all CPUs is no limit.
    let own = sets.first().map(|(list, _)| list.clone());
    let setter = own.as_deref().and_then(|own| sets.iter().take_while(|(list, _)| is_same(list, own)).last());
    let is_limit = |list: &&str| count_in_both(list, machine.online) < count_of_list(machine.online);
    row.effective = own.as_deref().filter(is_limit).zip(setter).map(|(own, (_, by))| Limit {
        value: Amount::Cpus { list: own.to_owned(), count: count_of_list(own) },
        by: by.clone(),
    });
    row.own = cgroups.first().and_then(|own| list(own.content("cpuset.cpus").text()?).flatten());
    (row, own)
}
