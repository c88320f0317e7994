//! Service managers besides systemd.

use super::systemd::{NOT_V2_ALONE, Tree, as_pid1};
use crate::doctor::advice::{MOUNT, describe_missing, remedy_for};
use crate::doctor::facts::{ELOGIND, Facts, FsType, OPENRC, ROOT, point};
use crate::doctor::finding::Finding;

/// elogind decides as systemd 236 and later do. On v1 it has a named hierarchy of its own, which must be mounted.
pub(crate) fn elogind(facts: &Facts) -> Finding {
    let client = "elogind";
    match Tree::of(facts) {
        tree @ (Tree::Unified | Tree::Hybrid(_)) => as_pid1(client, facts, &tree),
        _ if facts.type_of(ROOT) != FsType::Tmpfs => {
            let why = format!("{ROOT} {}, neither cgroup2 nor tmpfs", facts.type_of(ROOT));
            Finding::no(client, why, NOT_V2_ALONE)
        }
        _ if facts.exists(ELOGIND) => Finding::yes(client, format!("{ROOT} is tmpfs and {ELOGIND} is there: legacy")),
        _ => {
            let why = format!("{ROOT} is tmpfs, but {}: sessions have no cgroups", describe_missing(facts, ELOGIND));
            let advice = "mount a hierarchy 'name=elogind' on the host, with the container in a cgroup of it, before the view is attached";
            Finding::partly(client, why, advice)
        }
    }
}

/// Each service gets a cgroup `openrc.NAME` directly below the root of cgroup2, or on v1 one in the hierarchy
/// `openrc`. Without these, services still run.
pub(crate) fn openrc(facts: &Facts) -> Finding {
    let client = "OpenRC";
    let has_line = facts.line("unified").is_some_and(|line| point(line) == ROOT);
    if facts.is_v2() || has_line {
        if facts.is_writable(ROOT) {
            return Finding::yes(client, format!("mountinfo has cgroup2 on {ROOT}, where it may make cgroups"));
        }
        let why = format!("services run, but get no cgroups: it makes them in {ROOT} itself, which it may not write");
        return Finding::partly(
            client,
            why,
            "--shape rooted with a cgroup namespace, or a kernel cgroup namespace alone",
        );
    }
    match facts.type_of(ROOT) {
        FsType::Failed(_) | FsType::Silent => {
            Finding::no(client, describe_missing(facts, ROOT), remedy_for(facts, ROOT))
        }
        _ if facts.exists(OPENRC) => {
            Finding::yes(client, format!("{OPENRC} is there: each service gets a cgroup in it"))
        }
        _ => {
            let why = format!("services run, but get no cgroups: {}", describe_missing(facts, OPENRC));
            Finding::partly(client, why, "mount a hierarchy 'name=openrc' on the host before the view is attached")
        }
    }
    .or_nothing_mounted(facts)
}

impl Finding {
    /// Replaces the finding if no hierarchy is mounted at all.
    fn or_nothing_mounted(self, facts: &Facts) -> Self {
        if facts.memberships.is_empty() { Self::no(self.client, "no hierarchy is there at all", MOUNT) } else { self }
    }
}
