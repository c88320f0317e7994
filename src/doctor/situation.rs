//! Findings about the place of a container's processes on the host, and about limits that come from further up.

use super::facts::Facts;
use super::finding::{General, Level, Remedy, general, list};
use super::host_facts::HostCgroup;
use super::limits::Limit;
use crate::cgroup::HierarchyKind;

/// All findings of this kind.
pub(crate) fn findings(facts: &Facts) -> impl Iterator<Item = General> {
    lost(facts).into_iter().chain(outside(facts)).chain(in_root(facts)).chain(limits_above(facts))
}

/// The hierarchies in which the view's delegated subtree is missing or isn't the container's any more. A path there
/// that leads nowhere has this reason.
pub(crate) fn has_lost_subtree(facts: &Facts, kind: &HierarchyKind) -> bool {
    let is_lost = facts.rules.iter().any(|rules| rules.made_again.contains(kind) || rules.removed.contains(kind));
    is_lost || facts.host.cgroups.iter().any(|cgroup| cgroup.kind == *kind && cgroup.is_outside())
}

/// Finds delegated subtrees that were removed, and aren't made again, or that aren't those for which the view was made.
fn lost(facts: &Facts) -> Vec<General> {
    let Some(rules) = &facts.rules else { return Vec::new() };
    let lost = [
        (
            &rules.made_again,
            "stale-boundary",
            "the container's cgroup was removed and made again, and the view doesn't show the new one, in",
            "'vcgroupfs detach' and 'attach' again",
        ),
        (
            &rules.removed,
            "removed-boundary",
            "the cgroup for which the view was made was removed, and there is nothing in its place, in",
            "'vcgroupfs detach' and 'attach' again: the view is made for the cgroups in which the process is now",
        ),
    ];
    let found = lost.into_iter().filter(|(kinds, ..)| !kinds.is_empty()).map(|(kinds, name, what, advice)| {
        let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
        let renewal = facts.host.renewal.clone().map(Remedy::on_host);
        general(name, Level::Problem, format!("{what}: {}", kinds.join(", ")), Some(advice)).with_commands(renewal)
    });
    found.collect()
}

/// Finds that the process isn't in the delegated subtree of its view.
fn outside(facts: &Facts) -> Option<General> {
    let is_lost =
        |kind| facts.rules.iter().any(|rules| rules.made_again.contains(kind) || rules.removed.contains(kind));
    let outside: Vec<&HostCgroup> =
        facts.host.cgroups.iter().filter(|cgroup| cgroup.is_outside() && !is_lost(&cgroup.kind)).collect();
    let (first, pid) = (outside.first()?, facts.host.pid);
    let kinds: Vec<String> = outside.iter().map(|cgroup| cgroup.kind.to_string()).collect();
    let what = format!(
        "process {pid} was migrated out of the view's delegated subtree: it is in {} of {}, and can't be migrated back \
         through the view",
        first.path,
        kinds.join(", ")
    );
    let advice = "migrate it back, or make the view anew for the cgroups in which it is now";
    let lists = outside.iter().filter_map(|cgroup| Some(cgroup.word_of(cgroup.delegated.as_ref()?, "cgroup.procs")));
    let lists: Vec<String> = lists.collect();
    let command = match lists.as_slice() {
        [list] => format!("echo {pid} > {list}"),
        lists => format!("echo {pid} | tee {}", lists.join(" ")),
    };
    Some(general("outside-subtree", Level::Problem, what, Some(advice)).with_commands([Remedy::on_host(command)]))
}

/// Finds that a container is in the root of hierarchies, where it can't get a delegated subtree.
fn in_root(facts: &Facts) -> Option<General> {
    let host = &facts.host;
    let in_root = host.cgroups.iter().filter(|cgroup| cgroup.path.is_root());
    let in_root: Vec<String> = in_root.map(|cgroup| cgroup.kind.to_string()).collect();
    if in_root.is_empty() || !host.is_container {
        return None;
    }
    let is_everywhere = in_root.len() == host.cgroups.len();
    let level = if is_everywhere { Level::Warning } else { Level::Note };
    let of = if is_everywhere { "all hierarchies".to_owned() } else { list(&in_root) };
    let what = format!(
        "the container has no cgroup of its own: it is in the host's root cgroup of {of}, where a view is read-only \
         and nothing limits it"
    );
    let attach = format!("vcgroupfs attach --place vcgroupfs-place-{} {}", host.pid, host.target);
    let has_view = host.renewal.is_some();
    let command = if has_view { format!("vcgroupfs detach {} && {attach}", host.target) } else { attach };
    let advice = "give it one: 'attach --place NAME' makes a cgroup there and migrates the container's processes";
    Some(general("root-cgroup", level, what, Some(advice)).with_commands([Remedy::on_host(command)]))
}

/// Finds limits that a cgroup above the container's sets. Programs that read only their own cgroup miss them.
fn limits_above(facts: &Facts) -> Vec<General> {
    let Some(limits) = &facts.host.limits else { return Vec::new() };
    let quota = limits.quota.as_ref().and_then(|limit| {
        let (quota, period) = limit.value;
        let values = |file: &str| match file {
            "cpu.max" => vec![("cpu.max", format!("'{quota} {period}'"))],
            _ => vec![("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())],
        };
        let shown = format!("{quota} of {period} us");
        above(facts, "CPU time", limit, &shown, values)
    });
    let number = |what: &str, limit: &Limit<u64>, shown: String| {
        above(facts, what, limit, &shown, |file| vec![(file, limit.value.to_string())])
    };
    let memory = limits.memory.as_ref().and_then(|limit| number("memory", limit, format!("{} bytes", limit.value)));
    let pids = limits.pids.as_ref().and_then(|limit| number("processes", limit, limit.value.to_string()));
    // No program but Docker reads this one.
    let pids = pids.map(|finding| General { level: Level::Note, ..finding });
    [quota, memory, pids].into_iter().flatten().collect()
}

/// Makes a finding if a limit is that of a cgroup above. `values` are files of the own cgroup with the same limit.
fn above<'a, T>(
    facts: &Facts,
    what: &str,
    limit: &'a Limit<T>,
    shown: &str,
    values: impl Fn(&'a str) -> Vec<(&'a str, String)>,
) -> Option<General> {
    let (cgroup, file) = limit.by.rsplit_once('/')?;
    let of = |own: &&HostCgroup| {
        cgroup.strip_prefix(&format!("{}:", own.kind)).is_some_and(|path| path.is_empty() || path.starts_with('/'))
    };
    let own = facts.host.cgroups.iter().find(of)?;
    let is_own = cgroup == format!("{}:{}", own.kind, own.path) || own.path.is_root();
    if is_own {
        return None;
    }
    let what = format!(
        "the limit of {what} ({shown}) is that of a cgroup above the container's: {}; programs that read only their own \
         cgroup ({}:{}) don't see it",
        limit.by, own.kind, own.path
    );
    let values = values(file);
    if values.iter().any(|(file, _)| !own.files.contains(*file)) {
        let advice = format!(
            "raise the limit above: the container's own cgroup has no {file}, since the controller isn't enabled for it"
        );
        return Some(general("limit-above", Level::Warning, what, Some(&advice)));
    }
    let advice = "set the same limit in the container's own cgroup, or raise the one above";
    let write = |(file, value): (&str, String)| format!("echo {value} > {}", own.word_of(&own.path, file));
    let commands = values.into_iter().map(write).map(Remedy::on_host);
    Some(general("limit-above", Level::Warning, what, Some(advice)).with_commands(commands))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::CgroupPath;
    use crate::doctor::facts::ViewRules;
    use crate::doctor::host_facts::HostFacts;
    use crate::doctor::limits::Limits;

    fn cgroup(kind: &str, path: &str, delegated: Option<&str>, files: &[&'static str]) -> HostCgroup {
        HostCgroup {
            kind: HierarchyKind::parse(kind),
            mount_point: format!("/sys/fs/cgroup/{kind}").into(),
            path: CgroupPath::parse(path).unwrap(),
            delegated: delegated.map(|path| CgroupPath::parse(path).unwrap()),
            files: files.iter().copied().collect(),
        }
    }

    /// The names, levels and commands of the findings about a container with these cgroups.
    fn found(cgroups: Vec<HostCgroup>, limits: Limits, rules: Option<ViewRules>) -> Vec<(&'static str, Level, String)> {
        let renewal = rules.is_some().then(|| "renew".to_owned());
        let (target, limits) = ("web".to_owned(), Some(limits));
        let host = HostFacts { pid: 7, target, is_container: true, renewal, cgroups, limits };
        let mut facts = Facts::default();
        (facts.host, facts.rules) = (host, rules);
        let commands = |finding: &General| {
            finding.commands.iter().map(|remedy| remedy.command.as_str()).collect::<Vec<_>>().join("; ")
        };
        findings(&facts).map(|finding| (finding.finding, finding.level, commands(&finding))).collect()
    }

    fn memory(by: &str) -> Limits {
        Limits { memory: Some(Limit { value: 5, by: by.to_owned() }), ..Limits::default() }
    }

    #[test]
    fn limits_from_further_up() {
        let own = |files: &[&'static str]| vec![cgroup("memory", "/a/b", None, files)];
        let files = &["memory.limit_in_bytes"];
        let above = found(own(files), memory("memory:/a/memory.limit_in_bytes"), None);
        let command = "echo 5 > /sys/fs/cgroup/memory/a/b/memory.limit_in_bytes";
        assert_eq!(above, [("limit-above", Level::Warning, command.to_owned())]);
        let root = found(own(files), memory("memory:/memory.limit_in_bytes"), None);
        assert_eq!(root, above);
        // Without the file nothing can be written.
        assert_eq!(found(own(&[]), memory("memory:/a/memory.limit_in_bytes"), None)[0].2, "");
        assert_eq!(found(own(files), memory("memory:/a/b/memory.limit_in_bytes"), None), []);
        let quota = Limit { value: (3, 10), by: "cpu,cpuacct:/cpu.cfs_quota_us".to_owned() };
        let cpu = cgroup("cpu,cpuacct", "/a", None, &["cpu.cfs_quota_us", "cpu.cfs_period_us"]);
        let limits = Limits { quota: Some(quota), pids: memory("cpu,cpuacct:/x/pids.max").memory, ..Limits::default() };
        let commands = found(vec![cpu], limits, None);
        assert!(
            commands[0].2.starts_with("echo 10 > ") && commands[0].2.contains("_period_us; echo 3 > "),
            "{commands:?}"
        );
        assert_eq!(commands[1].1, Level::Note);
    }

    #[test]
    fn places_of_the_process() {
        let none = Limits::default;
        let outside = || cgroup("memory", "/other", Some("/a"), &[]);
        let migrate = "echo 7 > /sys/fs/cgroup/memory/a/cgroup.procs".to_owned();
        let rules = |removed: &[&str]| {
            let removed = removed.iter().map(|kind| HierarchyKind::parse(kind)).collect();
            Some(ViewRules { removed, ..ViewRules::default() })
        };
        assert_eq!(found(vec![outside()], none(), rules(&[])), [("outside-subtree", Level::Problem, migrate)]);
        let two = found(vec![outside(), cgroup("pids", "/o", Some("/a"), &[])], none(), rules(&[]));
        assert!(two[0].2.starts_with("echo 7 | tee /sys/fs/cgroup/memory/a/cgroup.procs /sys"), "{two:?}");
        // Nobody is migrated into a cgroup that isn't there.
        let removed = found(vec![outside()], none(), rules(&["memory"]));
        assert_eq!(removed, [("removed-boundary", Level::Problem, "renew".to_owned())]);
        let root = |kind| cgroup(kind, "/", None, &[]);
        let place = "vcgroupfs attach --place vcgroupfs-place-7 web".to_owned();
        assert_eq!(
            found(vec![root("memory"), root("pids")], none(), None),
            [("root-cgroup", Level::Warning, place.clone())]
        );
        let partly = found(vec![root("memory"), cgroup("pids", "/a", Some("/a"), &[])], none(), rules(&[]));
        assert_eq!(partly, [("root-cgroup", Level::Note, format!("vcgroupfs detach web && {place}"))]);
    }
}
